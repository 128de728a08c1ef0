//! Owns the parsing of HTML: any text becomes a tree in linear time, and a tree becomes plain words.
//!
//! Does not interpret the purpose of an element.

mod text;
mod tokens;
mod tree;

pub use tree::{HtmlNode, HtmlTree, is_block};

/// Bytes of HTML that are read.
const HTML_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Parses HTML. Text beyond 8 MiB is left out, and [`HtmlTree::truncated`] is set.
pub fn parse(html: &str) -> HtmlTree {
    let end = html.floor_char_boundary(HTML_BYTES_MAX);
    let mut builder = tree::TreeBuilder::new();
    tokens::feed(&html[..end], &mut builder);
    builder.finish(end < html.len())
}
