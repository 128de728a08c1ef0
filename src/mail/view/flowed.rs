//! Owns flowed text: joining the lines of `format=flowed` to paragraphs (RFC 3676).
//!
//! Does not interpret quotes.

/// Joins the lines that were broken for transport, and removes the stuffed spaces. Quoted lines keep their
/// marks, written `> ` or `>> ` before each. With `deletes_space` (`DelSp=yes`) the space that marks a
/// break is not part of the text.
pub(super) fn unflowed(text: &str, deletes_space: bool) -> String {
    let mut out = String::with_capacity(text.len());
    // The quote depth of the open paragraph.
    let mut open: Option<usize> = None;
    let ends_in_line = text.ends_with('\n');
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let unquoted = line.trim_start_matches('>');
        let depth = line.len() - unquoted.len();
        let words = unstuffed(unquoted, depth);
        // This line is never flowed, nor joined to one (RFC 3676 section 4.3).
        let is_signature_mark = words == "-- ";
        if open != Some(depth) || is_signature_mark {
            if open.is_some() {
                end_line(&mut out);
            }
            out.extend(std::iter::repeat_n('>', depth));
            if depth > 0 && !words.is_empty() {
                out.push(' ');
            }
        }
        let is_flowed = words.ends_with(' ') && !is_signature_mark;
        let kept = match words.strip_suffix(' ') {
            Some(shorter) if is_flowed && deletes_space => shorter,
            _ => words,
        };
        out.push_str(kept);
        open = is_flowed.then_some(depth);
        if !is_flowed {
            out.push('\n');
        }
    }
    if open.is_some() {
        end_line(&mut out);
    }
    if !ends_in_line {
        out.pop();
    }
    out
}

/// Ends a paragraph that a further line was expected to continue.
fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// The line without its stuffed space (RFC 3676 section 4.4). The space stays if only it distinguishes a
/// typed `>` from a quote mark.
fn unstuffed(line: &str, depth: usize) -> &str {
    match line.strip_prefix(' ') {
        Some(rest) if depth > 0 || !rest.starts_with('>') => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paragraphs_are_whole_again() {
        for (flowed, whole) in [
            ("one \ntwo\nthree\n", "one two\nthree\n"),
            ("one \ntwo", "one two"),
            (
                "> one \n> two\n>> three \n> four \nfive\n",
                "> one two\n>> three\n> four\nfive\n",
            ),
            (" From me\n >no quote\n", "From me\n >no quote\n"),
            ("bye \n-- \nAnn \nExample\n", "bye\n-- \nAnn Example\n"),
            ("> \n>\nend \n", ">\n>\nend\n"),
            ("", ""),
            ("\n\n", "\n\n"),
        ] {
            assert_eq!(unflowed(flowed, false), whole, "{flowed:?}");
        }
        assert_eq!(unflowed("日本 \n語\n", true), "日本語\n");
    }

    proptest! {
        #[test]
        fn no_word_is_lost(text in "(>| |\n|a|-- |\n-- \n|é){0,60}") {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphabetic()).count();
            for deletes_space in [false, true] {
                let whole = unflowed(&text, deletes_space);
                prop_assert_eq!(letters(&whole), letters(&text));
            }
        }
    }
}
