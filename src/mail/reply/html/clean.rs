//! Owns the HTML output: the reply part of a tree, sanitised.
//!
//! Only `cid:` images (parts of the same mail) and `data:` bitmaps keep their source; any other image shows
//! its `alt` text, so that opening a reply contacts no server. Styles, classes, ids and `target` are
//! removed; links are http, https, mailto and tel, and have `rel`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use super::colour;
use super::stylesheet::StyleSheet;
use crate::mail::html::{HtmlNode, HtmlTree};
use crate::mail::markup::{self, escape};

static CLEANER: LazyLock<ammonia::Builder<'static>> = LazyLock::new(builder);

/// The same rules, but the colour of words stays.
static COLOURED: LazyLock<ammonia::Builder<'static>> = LazyLock::new(|| {
    let mut builder = builder();
    builder
        .add_tag_attributes("span", ["style"])
        .filter_style_properties(HashSet::from(["color"]));
    builder
});

fn builder() -> ammonia::Builder<'static> {
    let mut builder = markup::cleaner();
    builder
        .add_tags(["center"])
        .add_url_schemes(["cid", "data"])
        .link_rel(Some("noopener noreferrer nofollow"))
        .attribute_filter(|element, attribute, value| {
            (safe(element, attribute, value)).then_some(Cow::Borrowed(value))
        });
    builder
}

/// True for elements that are written; any other is replaced by its content.
fn is_kept(tag: &str) -> bool {
    markup::ELEMENTS.contains(&tag) || ["center", "u", "thead", "tfoot"].contains(&tag)
}

fn safe(element: &str, attribute: &str, value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    match (element, attribute) {
        ("a", "href") => ["http:", "https:", "mailto:", "tel:"]
            .iter()
            .any(|scheme| value.starts_with(scheme)),
        ("img", "src") => {
            value.starts_with("cid:")
                || ["png", "jpeg", "jpg", "gif", "webp"].iter().any(|kind| {
                    value
                        .strip_prefix("data:image/")
                        .is_some_and(|rest| rest.starts_with(kind))
                })
        }
        (_, "dir") => matches!(value.as_str(), "ltr" | "rtl" | "auto"),
        _ => true,
    }
}

/// Bytes of a reply as HTML, without inline images. The sanitiser's time grows with the square of one run
/// of text.
const CLEAN_BYTES_MAX: usize = 256 * 1024;

/// Writes the nodes `kept` and sanitises them; `None` if the result is too large.
/// With a style sheet, the words keep their colours.
pub(super) fn clean(tree: &HtmlTree, kept: &[bool], sheet: Option<&StyleSheet>) -> Option<String> {
    let images = (0..kept.len()).filter(|at| kept[*at]);
    let images: usize = images.map(|at| tree.nodes[at].attribute("src").len()).sum();
    let mut out = String::new();
    for child in tree.children(0) {
        write(tree, (kept, sheet), child, &mut out);
        if out.len() > CLEAN_BYTES_MAX + images {
            return None;
        }
    }
    let cleaner = if sheet.is_some() { &COLOURED } else { &CLEANER };
    Some(cleaner.clean(out.trim()).to_string())
}

/// The recursion is bounded by the depth of the tree.
fn write(
    tree: &HtmlTree,
    (kept, sheet): (&[bool], Option<&StyleSheet>),
    at: usize,
    out: &mut String,
) {
    let node = &tree.nodes[at];
    if node.is_text() {
        if kept[at] {
            escape(&node.text, out);
        }
        return;
    }
    // A row keeps its empty cells, so that its columns do not shift.
    let cell = matches!(node.tag, "td" | "th");
    if !kept[at] && !cell {
        return;
    }
    let written = is_kept(node.tag);
    if written {
        out.push('<');
        out.push_str(node.tag);
        attributes(node, out);
        out.push('>');
    }
    let colour = sheet.and_then(|sheet| sheet.colour_of(node));
    let colour = colour.filter(|colour| !colour::is_neutral(colour));
    if let Some(colour) = &colour {
        out.push_str("<span style=\"color:");
        escape(colour, out);
        out.push_str("\">");
    }
    for child in tree.children(at) {
        write(tree, (kept, sheet), child, out);
    }
    if colour.is_some() {
        out.push_str("</span>");
    }
    if written && !matches!(node.tag, "br" | "hr" | "img") {
        out.push_str("</");
        out.push_str(node.tag);
        out.push('>');
    }
}

fn attributes(node: &HtmlNode, out: &mut String) {
    for name in [
        "href", "src", "alt", "width", "height", "colspan", "rowspan", "start", "dir",
    ] {
        if node.has(name) {
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            escape(node.attribute(name), out);
            out.push('"');
        }
    }
}
