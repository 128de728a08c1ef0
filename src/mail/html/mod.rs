//! Owns reading HTML: any text becomes a tree, in time linear in the text.
//!
//! Does not judge what an element is for.

mod tokens;
mod tree;

pub use tree::{BLOCKS, HtmlNode, HtmlTree};

/// Bytes of HTML that are read.
const HTML_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads HTML. What lies beyond 8 MiB is left out, and the tree says so.
pub fn parse(html: &str) -> HtmlTree {
    let end = html.floor_char_boundary(HTML_BYTES_MAX);
    let mut builder = tree::TreeBuilder::new();
    tokens::feed(&html[..end], &mut builder);
    builder.finish(end < html.len())
}
