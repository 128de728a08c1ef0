//! Owns the folded form of a line, used in all comparisons, and the patterns for it.
//!
//! Does not interpret words.

use regex::Regex;

/// The number of characters of a line that are compared; the rest is kept but not examined.
const FOLD_CHARS_MAX: usize = 600;

/// Lower case, one plain space between words, ASCII digits and brackets, no invisible marks.
pub(super) fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(FOLD_CHARS_MAX));
    // Some programs leave this character reference in plain text.
    let spaced;
    let mut text = text;
    if text.contains('&') && text.contains("&nbsp;") {
        spaced = text.replace("&nbsp;", " ");
        text = &spaced;
    }
    let text = text.trim();
    if is_plain(text) {
        out.push_str(text);
        out.make_ascii_lowercase();
    } else {
        push_all_folded(&mut out, text);
    }
    if out.contains('&') {
        out = out
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"");
    }
    out
}

fn push_all_folded(out: &mut String, text: &str) {
    let mut space = false;
    for c in text.chars().take(FOLD_CHARS_MAX) {
        if is_invisible(c) {
            continue;
        }
        if c.is_whitespace() {
            space = !out.is_empty();
            continue;
        }
        if space {
            out.push(' ');
            space = false;
        }
        push_folded(out, c);
    }
}

/// True for a text, not too long, of printable ASCII with single spaces, which most lines are.
fn is_plain(text: &str) -> bool {
    let mut before = 0;
    text.len() <= FOLD_CHARS_MAX
        && text.bytes().all(|byte| {
            let is_plain = byte.is_ascii_graphic() || byte == b' ' && before != b' ';
            before = byte;
            is_plain
        })
}

fn push_folded(out: &mut String, c: char) {
    match c {
        'A'..='Z' => out.push(c.to_ascii_lowercase()),
        '\0'..='\x7f' => out.push(c),
        '：' | '∶' | '︰' => out.push(':'),
        '＜' | '〈' | '‹' => out.push('<'),
        '＞' | '〉' | '›' => out.push('>'),
        '（' => out.push('('),
        '）' => out.push(')'),
        '＠' => out.push('@'),
        '，' => out.push(','),
        '‐' | '‑' => out.push('-'),
        '０'..='９' => out.push(digit(c, '０')),
        '٠'..='٩' => out.push(digit(c, '٠')),
        '۰'..='۹' => out.push(digit(c, '۰')),
        '०'..='९' => out.push(digit(c, '०')),
        '๐'..='๙' => out.push(digit(c, '๐')),
        '০'..='৯' => out.push(digit(c, '০')),
        '၀'..='၉' => out.push(digit(c, '၀')),
        '០'..='៩' => out.push(digit(c, '០')),
        '໐'..='໙' => out.push(digit(c, '໐')),
        _ => out.extend(c.to_lowercase().filter(|c| *c != '\u{307}')),
    }
}

fn digit(c: char, zero: char) -> char {
    char::from_digit(u32::from(c) - u32::from(zero), 10).unwrap_or(c)
}

/// True for invisible marks that control direction or joining, and for the mark that trackers leave (U+1427).
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{1427}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{0}'..='\u{8}' | '\u{fe0f}')
}

/// Compiles a pattern of this module; the tests compile every one.
#[expect(
    clippy::expect_used,
    reason = "the patterns are constants, compiled by the tests"
)]
pub(super) fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("a constant pattern compiles")
}
