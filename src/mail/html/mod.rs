//! Owns reading HTML: any text becomes a tree, in time linear in the text, and the tree its words.
//!
//! Does not judge what an element is for.

mod text;
mod tokens;
mod tree;

pub use tree::{BLOCKS, HtmlNode, HtmlTree};

/// Bytes of HTML that are read.
const HTML_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads HTML. Text beyond 8 MiB is left out, and [`HtmlTree::truncated`] is set.
pub fn parse(html: &str) -> HtmlTree {
    let end = html.floor_char_boundary(HTML_BYTES_MAX);
    let mut builder = tree::TreeBuilder::new();
    tokens::feed(&html[..end], &mut builder);
    builder.finish(end < html.len())
}
