//! Owns small operations on untrusted text: cutting, cleaning, unwrapping.
//!
//! Does not know what the text means.

/// The first `bytes_max` bytes of `text` at most, cut between characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// True for a control character, and for the line and paragraph separators that some programs treat as line
/// ends.
pub fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The text with each control character made a space, `chars_max` characters of it at most.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(chars_max).collect()
}

/// The text without control characters, `chars_max` characters of it at most.
pub fn without_controls(text: &str, chars_max: usize) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(chars_max).collect()
}

/// A Message-ID or Content-ID without space and angle brackets around it (RFC 5322 section 3.6.4).
pub fn bare_message_id(text: &str) -> &str {
    text.trim().trim_matches(['<', '>'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_cleaned() {
        assert_eq!(
            (cut("aé", 2), cut("aé", 3), cut("aé", 9)),
            ("a", "aé", "aé")
        );
        assert_eq!(one_line("a\r\n\u{85}b", 4), "a   ");
        assert_eq!(without_controls("a\0b\nc", 2), "ab");
        assert!(breaks_line('\u{2028}') && breaks_line('\n') && !breaks_line(' '));
        for id in ["a@b", "<a@b>", " <a@b> ", "a@b>"] {
            assert_eq!(bare_message_id(id), "a@b");
        }
    }
}
