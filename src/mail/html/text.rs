//! Owns the plain words of a page, with blocks on separate lines and cells separated.
//!
//! Does not format for people: no list marks, no links, no quote marks.

use super::tree::{HtmlTree, is_block};

/// Elements with content that is not displayed.
const HIDDEN: &[&str] = &[
    "head", "noscript", "script", "style", "svg", "template", "title",
];

impl HtmlTree {
    /// The words of the page, with lines separated by `\n`, without blank lines.
    pub fn words(&self) -> String {
        let mut out = String::new();
        self.write_words(0, &mut out);
        out.truncate(out.trim_end().len());
        out
    }

    /// The recursion is bounded by the depth of the tree.
    fn write_words(&self, at: usize, out: &mut String) {
        for child in self.children(at) {
            let node = &self.nodes[child];
            if node.is_text() {
                push_folded(&node.text, out);
                continue;
            }
            let ends_line = is_block(node.tag) || node.tag == "br";
            if ends_line {
                end_line(out);
            }
            if !HIDDEN.contains(&node.tag) {
                self.write_words(child, out);
            }
            if ends_line {
                end_line(out);
            } else if matches!(node.tag, "td" | "th") {
                push_folded(" ", out);
            }
        }
    }
}

fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

/// Appends text with each run of white space as one space, and none at the start of a line.
fn push_folded(text: &str, out: &mut String) {
    for (at, word) in text.split(|c: char| c.is_ascii_whitespace()).enumerate() {
        if at > 0 && !out.is_empty() && !out.ends_with([' ', '\n']) {
            out.push(' ');
        }
        out.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_and_cells_are_apart() {
        for (html, words) in [
            ("<p>One  two<br>three<p>four", "One two\nthree\nfour"),
            (
                "<table><tr><td>Recipient</td><td>ann@b.example</td><td>bounced</td></tr></table>x",
                "Recipient ann@b.example bounced\nx",
            ),
            (
                "<title>t</title><style>p{}</style>a<b>b</b> c<div>d</div>",
                "ab c\nd",
            ),
            ("<br><br> a &lt;b&gt; &eacute;", "a <b> é"),
        ] {
            assert_eq!(crate::mail::html::parse(html).words(), words, "{html}");
        }
    }
}
