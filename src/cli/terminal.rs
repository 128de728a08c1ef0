//! Owns the display of foreign text on a terminal.
//!
//! Does not shorten or colour anything.

use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal as _, Write};

use serde_json::Value;

use crate::run::ExitError;

/// Asks a person; false without a terminal.
pub(super) fn is_confirmed(question: &str, out: &mut impl Write) -> Result<bool, ExitError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    write!(out, "{question}")?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// The text with every character escaped that controls a terminal or reorders text: a mail's subject must
/// not be able to clear the screen.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_terminal_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_terminal_control(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Like [`printable`] for text of several lines, with line ends kept.
pub(super) fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// JSON for a terminal: indented, with control characters outside ASCII escaped too.
pub(super) fn printable_json(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || printable(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8() {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}

fn is_terminal_control(c: char) -> bool {
    c.is_control()
        // Bidirectional marks and overrides (Unicode TR 9), line and paragraph separators.
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("Re: plain, ünï"), "Re: plain, ünï");
        assert_eq!(
            printable("a\x1b[2J\r\n\u{202e}b\u{9b}"),
            "a\\u{1b}[2J\\u{d}\\u{a}\\u{202e}b\\u{9b}"
        );
        assert_eq!(printable_lines("a\r\nb\x07\n"), "a\nb\\u{7}");
    }
}
