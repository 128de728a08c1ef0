//! Owns the HTML within an outgoing mail: made from text, or the product's own sanitised.
//!
//! Does not lay out the rest of the mail; the templates do.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::mail::markup::{self, escape};

/// The maximum depth of elements in the product's HTML. The time to parse it grows with the depth.
pub(super) const DEPTH_MAX: usize = 100;
/// The maximum length in characters of an address in a text that becomes a link.
const URL_CHARS_MAX: usize = 2_000;

static CLEANER: LazyLock<ammonia::Builder<'static>> = LazyLock::new(|| {
    let mut builder = markup::cleaner();
    builder
        .add_tags(["abbr", "tfoot", "thead", "u"])
        .add_tag_attributes("a", ["title"])
        .add_tag_attributes("td", ["align"])
        .add_tag_attributes("th", ["align"])
        .add_generic_attributes(["lang"])
        .link_rel(Some("noopener noreferrer"))
        .attribute_filter(|element, attribute, value| {
            let is_safe = match (element, attribute) {
                ("img", "src") => starts_with(value.trim_start(), "https://"),
                (_, "dir") => matches!(value, "ltr" | "rtl" | "auto"),
                _ => true,
            };
            is_safe.then_some(Cow::Borrowed(value))
        });
    builder
});

/// The elements nest deeper than [`DEPTH_MAX`].
#[derive(Debug)]
pub(super) struct TooDeep;

/// The product's HTML without active content: scripts, styles, forms, frames, images that are not
/// https, and links that are not http, https, mailto or tel.
///
/// # Errors
/// The elements nest too deeply. The depth is measured before the HTML is parsed, because the time
/// to parse it grows with the depth.
pub(super) fn sanitise(html: &str) -> Result<String, TooDeep> {
    if nesting_depth(html) > DEPTH_MAX {
        return Err(TooDeep);
    }
    Ok(CLEANER.clean(html).to_string())
}

/// The maximum depth of elements, never underestimated: an element counts as open until it is closed by
/// name, except those without an end tag or with an implied end.
fn nesting_depth(html: &str) -> usize {
    let has_foreign = has_tag(html, "<svg") || has_tag(html, "<math");
    let mut open: Vec<&str> = Vec::new();
    let mut deepest = 0;
    let mut rest = html;
    while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
        rest = &rest[at + 1..];
        let is_end = rest.starts_with('/');
        let name = rest.strip_prefix('/').unwrap_or(rest);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let end = name.find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '<'));
        let name = &name[..end.unwrap_or(name.len())];
        let is_same = |other: &&str| other.eq_ignore_ascii_case(name);
        if is_end {
            if let Some(at) = open.iter().rposition(&is_same) {
                open.truncate(at);
            }
            continue;
        }
        let is_one_of = |names: &[&str]| names.iter().any(is_same);
        if is_one_of(&["br", "hr", "img"]) {
            continue;
        }
        if !has_foreign && is_one_of(&["wbr", "col", "input", "link", "meta", "source"]) {
            continue;
        }
        let ends_with_next = is_one_of(&["p", "li", "td", "th", "tr", "dt", "dd", "option"]);
        if ends_with_next && open.last().is_some_and(is_same) {
            continue;
        }
        open.push(name);
        deepest = deepest.max(open.len());
        if deepest > DEPTH_MAX {
            break;
        }
    }
    deepest
}

fn has_tag(html: &str, tag: &str) -> bool {
    memchr::memchr_iter(b'<', html.as_bytes()).any(|at| starts_with(&html[at..], tag))
}

/// The text as HTML without active content: paragraphs, line ends, indents, and links on http,
/// https and mail addresses.
pub(super) fn html_of_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 4 + 64);
    let mut is_open = false;
    for line in text.lines() {
        if line.trim().is_empty() {
            if is_open {
                out.push_str("</p>\n");
            }
            is_open = false;
            continue;
        }
        if is_open {
            out.push_str("<br>\n");
        } else {
            out.push_str("<p dir=\"auto\" style=\"margin:0 0 1em 0;\">");
            is_open = true;
        }
        push_line(line, &mut out);
    }
    if is_open {
        out.push_str("</p>");
    }
    out
}

fn push_line(line: &str, out: &mut String) {
    let words = line.trim_start_matches([' ', '\t']);
    for c in line[..line.len() - words.len()].chars() {
        out.push_str(if c == '\t' {
            "&nbsp;&nbsp;&nbsp;&nbsp;"
        } else {
            "&nbsp;"
        });
    }
    for (at, word) in words.split(' ').enumerate() {
        // A run of spaces is intended alignment.
        if at > 0 {
            out.push_str(if word.is_empty() { "&nbsp;" } else { " " });
        }
        push_word(word, out);
    }
}

fn push_word(word: &str, out: &mut String) {
    let Some((at, href)) = find_link(word) else {
        return escape(word, out);
    };
    escape(&word[..at], out);
    let url = &word[at..at + href];
    let scheme = if url.contains("://") { "" } else { "mailto:" };
    let _ = write!(out, "<a href=\"{scheme}");
    escape(url, out);
    out.push_str("\" style=\"color:#0b57d0;\" class=\"link\">");
    escape(url, out);
    out.push_str("</a>");
    escape(&word[at + href..], out);
}

/// The position and length in octets of a link within the word.
fn find_link(word: &str) -> Option<(usize, usize)> {
    if word.len() > URL_CHARS_MAX {
        return None;
    }
    let opening = |c: char| matches!(c, '(' | '[' | '{' | '<' | '"' | '\'' | '“' | '‘' | '«');
    let inner = word.trim_start_matches(opening);
    let at = word.len() - inner.len();
    let end = inner.find(['<', '>', '"']).unwrap_or(inner.len());
    let mut url = &inner[..end];
    loop {
        let shorter =
            url.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*', '”', '’', '»']);
        let shorter = match shorter.chars().last() {
            Some(')') if !shorter.contains('(') => &shorter[..shorter.len() - 1],
            Some(']') if !shorter.contains('[') => &shorter[..shorter.len() - 1],
            Some('}') if !shorter.contains('{') => &shorter[..shorter.len() - 1],
            _ => shorter,
        };
        if shorter.len() == url.len() {
            break;
        }
        url = shorter;
    }
    let is_web = ["https://", "http://"].iter().any(|scheme| {
        starts_with(url, scheme) && url[scheme.len()..].starts_with(char::is_alphanumeric)
    });
    (is_web || is_mail_address(url)).then_some((at, url.len()))
}

fn is_mail_address(word: &str) -> bool {
    let Some((local, domain)) = word.split_once('@') else {
        return false;
    };
    let plain = |text: &str, more: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    plain(local, "._+-") && plain(domain, ".-") && domain.contains('.') && !domain.starts_with('.')
}

fn starts_with(text: &str, word: &str) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_becomes_paragraphs() {
        let html = html_of_text("Hello <Ann> & co\nsecond line\n\n  indented  twice\n\n\n");
        assert_eq!(
            html,
            "<p dir=\"auto\" style=\"margin:0 0 1em 0;\">Hello &lt;Ann&gt; &amp; co<br>\nsecond line</p>\n\
             <p dir=\"auto\" style=\"margin:0 0 1em 0;\">&nbsp;&nbsp;indented&nbsp; twice</p>\n"
        );
    }

    #[test]
    fn addresses_become_links_and_nothing_else_does() {
        for (text, href) in [
            (
                "https://example.com/a?b=c&d=e",
                "https://example.com/a?b=c&amp;d=e",
            ),
            ("(https://example.com/a).", "https://example.com/a"),
            ("https://example.com/a_(b)", "https://example.com/a_(b)"),
            ("<https://example.com>", "https://example.com"),
            ("HTTPS://Example.com", "HTTPS://Example.com"),
            ("ann@example.com,", "mailto:ann@example.com"),
        ] {
            let html = html_of_text(text);
            assert!(
                html.contains(&format!("<a href=\"{href}\"")),
                "{text}: {html}"
            );
        }
        for text in [
            "javascript:alert(1)",
            "https://",
            "https://\"onclick=x",
            "data:text/html,x",
            "a@b",
            "@",
        ] {
            assert!(!html_of_text(text).contains("<a "), "{text}");
        }
    }

    #[test]
    fn active_content_is_removed_and_formatting_stays() {
        for (html, clean) in [
            ("<p>a<script>alert(1)</script>b</p>", "<p>ab</p>"),
            ("<img src=\"http://x/y.png\" alt=\"z\">", "<img alt=\"z\">"),
            (
                "<img src=\"https://x.example/y.png\" onerror=\"a()\">",
                "<img src=\"https://x.example/y.png\">",
            ),
            (
                "<a href=\"https://x.example/?q=1\">x</a>",
                "<a href=\"https://x.example/?q=1\" rel=\"noopener noreferrer\">x</a>",
            ),
            (
                "<a href=\"javascript:a()\">x</a>",
                "<a rel=\"noopener noreferrer\">x</a>",
            ),
            (
                "<div style=\"position:fixed\" class=\"x\" id=\"y\">x</div>",
                "<div>x</div>",
            ),
            ("<form action=\"https://x\"><input name=\"a\">x</form>", "x"),
            ("</table></td></body>x", "x"),
        ] {
            assert_eq!(sanitise(html).unwrap(), clean, "{html}");
        }
    }

    #[test]
    fn slow_html_is_refused_or_fast() {
        for piece in [
            "<div>",
            "<b>",
            "<p><b>",
            "<table>",
            "<svg><wbr>",
            "<x>",
            "</x><i>",
            "<a><div>",
            "<font>",
            "<li><ul>",
            "<math><mi>",
            "<option><p>",
            "<b></i>",
            "<td><p>",
            "<wbr>",
            "<p>",
            "<!--",
            "<nobr>",
            "<button>",
            "<a>",
            "<tr><b>",
        ] {
            let html = piece.repeat((256 << 10) / piece.len());
            if let Ok(clean) = sanitise(&html) {
                assert!(clean.len() < 4 << 20, "{piece}: {}", clean.len());
            }
        }
        let list = format!("<ul>{}</ul>", "<li>one<p>two".repeat(5_000));
        assert!(sanitise(&list).is_err() || !list.is_empty());
        let rows = format!(
            "<table>{}</table>",
            "<tr><td>1</td><td>2</td></tr>".repeat(5_000)
        );
        assert!(sanitise(&rows).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_becomes_an_element(text in "([<>\"'&a/=: ]|https://|script|on){0,40}") {
            let html = html_of_text(&text);
            let stripped = html
                .replace("<p dir=\"auto\" style=\"margin:0 0 1em 0;\">", "")
                .replace("</p>", "")
                .replace("<br>", "")
                .replace("</a>", "")
                .replace("\" style=\"color:#0b57d0;\" class=\"link\">", "")
                .replace("<a href=\"", "");
            prop_assert!(!stripped.contains(['<', '>', '"', '\'']), "{}", html);
        }
    }
}
