//! Owns `text/enriched` (RFC 1896) and the older `text/richtext` (RFC 1341 section 7.1.3) as plain words.
//!
//! Does not keep the formatting.

/// The maximum number of octets of a command between its brackets (RFC 1896 allows sixty).
const COMMAND_BYTES_MAX: usize = 60;

/// The words without the commands. In enriched text a single line end is a space, and of several in a row one
/// does not count; in richtext `<nl>` ends a line.
pub(super) fn plain(text: &str, is_richtext: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut unfilled = 0usize;
    let mut hidden = 0usize;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '<' {
            if let Some(behind) = rest.strip_prefix("<<").filter(|_| !is_richtext) {
                push(&mut out, "<", hidden);
                rest = behind;
                continue;
            }
            if let Some((command, behind)) = command(rest) {
                match command.as_str() {
                    "nofill" => unfilled += 1,
                    "/nofill" => unfilled = unfilled.saturating_sub(1),
                    "param" | "comment" => hidden += 1,
                    "/param" | "/comment" => hidden = hidden.saturating_sub(1),
                    "nl" | "np" | "paragraph" | "/paragraph" => push(&mut out, "\n", hidden),
                    "lt" => push(&mut out, "<", hidden),
                    _ => {}
                }
                rest = behind;
                continue;
            }
        }
        if c == '\n' && unfilled == 0 {
            let behind = rest.trim_start_matches('\n');
            let ends = rest.len() - behind.len();
            if is_richtext || ends == 1 {
                push(&mut out, " ", hidden);
            } else {
                push(&mut out, &"\n".repeat(ends - 1), hidden);
            }
            rest = behind;
            continue;
        }
        push(&mut out, &rest[..c.len_utf8()], hidden);
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn push(out: &mut String, text: &str, hidden: usize) {
    if hidden == 0 {
        out.push_str(text);
    }
}

/// The command at the beginning of the text, lower-cased, and the rest of the text.
fn command(text: &str) -> Option<(String, &str)> {
    let window = text.get(1..text.floor_char_boundary(COMMAND_BYTES_MAX + 2))?;
    let end = window.find('>')?;
    let name = &window[..end];
    let is_command = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/' | b'_'));
    is_command.then(|| (name.to_ascii_lowercase(), &text[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_and_words_stay() {
        for (text, words) in [
            (
                "<bold>Bitte</bold> die\nPosition 20.\n\n\nAnna\n",
                "Bitte die Position 20.\n\nAnna ",
            ),
            (
                "<color><param>red</param>rouge</color> 5 << 7",
                "rouge 5 < 7",
            ),
            ("<nofill>a\nb</nofill>\nc", "a\nb c"),
            ("a < b and <a@b.example>", "a < b and <a@b.example>"),
            ("", ""),
        ] {
            assert_eq!(plain(text, false), words, "{text}");
        }
        assert_eq!(plain("one<nl>two <lt> 3\n<bold>x", true), "one\ntwo < 3 x");
        assert_eq!(plain(&"<param>".repeat(9_000), false), "");
    }
}
