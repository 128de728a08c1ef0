//! Owns how foreign text is shown on a terminal.
//!
//! Does not shorten or colour anything.

use std::borrow::Cow;

/// The text with every character that could steer a terminal, or reorder what is read, written out
/// as an escape. A mail's subject must not be able to clear the screen it is listed on.
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

/// As [`printable`], with line ends left as they are: for text of many lines.
pub(super) fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
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
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("Re: plain, ünï"), "Re: plain, ünï");
        assert_eq!(
            printable("a\x1b[2J\r\n\u{202e}b\u{9b}"),
            "a\\u{1b}[2J\\u{d}\\u{a}\\u{202e}b\\u{9b}"
        );
        assert_eq!(printable_lines("a\r\nb\x07\n"), "a\nb\\u{7}");
    }
}
