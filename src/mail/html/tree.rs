//! Owns the tree of an HTML part: a lenient builder, linear and bounded.
//!
//! html5ever does not read mail here: its tokenizer compares every attribute of a tag with all before it
//! and its tree builder walks the whole stack of open elements, so a hostile megabyte costs minutes. The
//! sanitiser, which uses html5ever, runs on the output of this tree, which is small, shallow and tidy.

use crate::mail::text::cut;

/// The depth of nesting. Deeper elements are left out; their content goes to the last element that was
/// opened.
const DEPTH_MAX: usize = 200;

/// The nodes of a tree; further content is appended as text only.
const NODES_MAX: usize = 40_000;

/// Bytes of the style sheets of a page that are kept.
const STYLE_BYTES_MAX: usize = 64 * 1024;

/// The attributes of an element: name and value, each name once.
pub(super) type Attributes = Vec<(&'static str, String)>;

/// A parsed HTML part. Node 0 is the root.
pub struct HtmlTree {
    /// All nodes, each after its parent.
    pub nodes: Vec<HtmlNode>,
    /// The text of the `style` elements, at most 64 KiB.
    pub styles: String,
    /// True if the part was too long and was cut.
    pub truncated: bool,
}

/// An element, or a run of text.
#[derive(Default)]
pub struct HtmlNode {
    /// The name of a known element, else empty.
    pub tag: &'static str,
    /// The text of a text node.
    pub text: String,
    attributes: Attributes,
    /// The first child.
    pub first: Option<usize>,
    last: Option<usize>,
    /// The next sibling.
    pub next: Option<usize>,
}

impl HtmlNode {
    /// The value of an attribute, or the empty text if the element has none of that name.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// True if there is such an attribute, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.attributes.iter().any(|(known, _)| *known == name)
    }
}

impl HtmlTree {
    /// The children of `node`.
    pub fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.nodes[node].first, |child| self.nodes[*child].next)
    }
}

/// The tree under construction.
pub(super) struct TreeBuilder {
    nodes: Vec<HtmlNode>,
    styles: String,
    stack: Vec<usize>,
    /// The number of open elements that were too deep for the tree.
    overflow: usize,
}

impl TreeBuilder {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![HtmlNode::default()],
            styles: String::new(),
            stack: vec![0],
            overflow: 0,
        }
    }

    pub(super) fn finish(self, truncated: bool) -> HtmlTree {
        HtmlTree {
            nodes: self.nodes,
            styles: self.styles,
            truncated,
        }
    }

    fn top(&self) -> usize {
        self.stack.last().copied().unwrap_or(0)
    }

    fn append(&mut self, node: HtmlNode) -> usize {
        let parent = self.top();
        let at = self.nodes.len();
        self.nodes.push(node);
        match self.nodes[parent].last.replace(at) {
            Some(last) => self.nodes[last].next = Some(at),
            None => self.nodes[parent].first = Some(at),
        }
        at
    }

    pub(super) fn text(&mut self, text: &str) {
        let last = self.nodes[self.top()].last;
        let at = match last {
            Some(last) if self.nodes[last].is_text() => last,
            // Text is never lost, so the bound may be exceeded by one node per element.
            _ => self.append(HtmlNode::default()),
        };
        self.nodes[at].text.push_str(text);
    }

    /// Adds text of a `style` element.
    pub(super) fn style(&mut self, text: &str) {
        let left = STYLE_BYTES_MAX - self.styles.len();
        self.styles.push_str(cut(text, left));
    }

    pub(super) fn open(&mut self, tag: &'static str, attributes: Attributes) {
        self.imply_ends(tag);
        let void = is_void(tag);
        if self.nodes.len() >= NODES_MAX || !void && self.stack.len() >= DEPTH_MAX {
            self.overflow += usize::from(!void);
            return;
        }
        let at = self.append(HtmlNode {
            tag: if tag.is_empty() { "span" } else { tag },
            attributes,
            ..HtmlNode::default()
        });
        if !void {
            self.stack.push(at);
        }
    }

    pub(super) fn close(&mut self, tag: &'static str) {
        let tag = if tag.is_empty() { "span" } else { tag };
        if is_void(tag) {
            return;
        }
        if self.overflow > 0 {
            self.overflow -= 1;
            return;
        }
        let wall = if CELLS.contains(&tag) || tag == "table" || tag == "tr" {
            ""
        } else {
            "table"
        };
        for depth in (1..self.stack.len()).rev() {
            let open = self.nodes[self.stack[depth]].tag;
            if open == tag {
                self.stack.truncate(depth);
                return;
            }
            // An end tag inside a cell does not close elements outside of the table.
            if CELLS.contains(&open) && !wall.is_empty() {
                return;
            }
        }
    }

    /// Adds the end tags that HTML allows to omit.
    fn imply_ends(&mut self, tag: &str) {
        let (ends, walls): (&[&str], &[&str]) = match tag {
            "li" => (&["li"], &["ul", "ol", "menu", "table", "td", "th"]),
            "dt" | "dd" => (&["dt", "dd"], &["dl", "table", "td", "th"]),
            "tr" => (&["tr", "td", "th"], &["table"]),
            "td" | "th" => (&["td", "th"], &["table", "tr"]),
            "tbody" | "thead" | "tfoot" => {
                (&["tr", "td", "th", "tbody", "thead", "tfoot"], &["table"])
            }
            _ if is_block(tag) => (
                &["p"],
                &["table", "td", "th", "div", "blockquote", "li", "button"],
            ),
            _ => return,
        };
        if self.overflow > 0 {
            return;
        }
        let mut cut = None;
        for depth in (1..self.stack.len()).rev() {
            let open = self.nodes[self.stack[depth]].tag;
            if walls.contains(&open) {
                break;
            }
            if ends.contains(&open) {
                cut = Some(depth);
            }
        }
        if let Some(depth) = cut {
            self.stack.truncate(depth);
        }
    }
}

impl HtmlNode {
    /// True for a run of text.
    pub fn is_text(&self) -> bool {
        self.tag.is_empty()
    }
}

/// The names of a list separated by spaces.
pub(super) fn words<C: FromIterator<&'static str>>(list: &'static str) -> C {
    list.split_ascii_whitespace().collect()
}

/// True for an element without content.
#[rustfmt::skip]
fn is_void(tag: &str) -> bool {
    matches!(
        tag,
        "br" | "hr" | "img" | "meta" | "link" | "base" | "input" | "col" | "wbr" | "embed" | "area"
        | "param" | "source"
    )
}

const CELLS: &[&str] = &["td", "th"];

/// True for an element that is displayed as a separate block.
#[rustfmt::skip]
pub fn is_block(tag: &str) -> bool {
    matches!(
        tag,
        "address" | "article" | "aside" | "blockquote" | "body" | "center" | "dd" | "details" | "div"
        | "dl" | "dt" | "fieldset" | "figcaption" | "figure" | "footer" | "form" | "h1" | "h2"
        | "h3" | "h4" | "h5" | "h6" | "header" | "hr" | "html" | "li" | "main"
        | "menu" | "nav" | "ol" | "p" | "pre" | "section" | "summary" | "table" | "tbody"
        | "tfoot" | "thead" | "tr" | "ul"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(html: &str) -> String {
        fn walk(tree: &HtmlTree, at: usize, out: &mut String) {
            for child in tree.children(at) {
                let node = &tree.nodes[child];
                if node.is_text() {
                    out.push_str(&node.text);
                } else {
                    out.push('(');
                    out.push_str(node.tag);
                    out.push(' ');
                    walk(tree, child, out);
                    out.push(')');
                }
            }
        }
        let tree = crate::mail::html::parse(html);
        let mut out = String::new();
        walk(&tree, 0, &mut out);
        out
    }

    #[test]
    fn ends_are_implied_and_strays_ignored() {
        assert_eq!(outline("<ul><li>a<li>b</ul>c"), "(ul (li a)(li b))c");
        assert_eq!(outline("<p>a<p>b</span></div>"), "(p a)(p b)");
        assert_eq!(
            outline("<table><tr><td>a<td>b<tr><td>c</table>"),
            "(table (tr (td a)(td b))(tr (td c)))"
        );
        assert_eq!(
            outline("<div><table><tr><td>a</div>b</td></tr></table></div>"),
            "(div (table (tr (td ab))))"
        );
    }

    #[test]
    fn content_without_text_is_skipped() {
        assert_eq!(
            outline("a<!-- <b> -->b<script>x</b></script>c<![if !vml]>d<?xml?>e"),
            "ab(script )cde"
        );
        assert_eq!(
            outline("1 < 2 <3 &lt;b&gt; &#8364;&#150; &eacute; &nosuch; AT&T"),
            "1 < 2 <3 <b> €– é &nosuch; AT&T"
        );
        assert_eq!(outline("x<b title=\"a>b\" = y='&amp;'>bold"), "x(b bold)");
        assert_eq!(outline("x<b title=\"never ends"), "x");
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = "<div>".repeat(50_000) + "x";
        let tree = crate::mail::html::parse(&deep);
        assert!(tree.nodes.len() <= DEPTH_MAX + 2);
        let wide = format!("<a {}>x", "b c=d ".repeat(100_000));
        assert_eq!(crate::mail::html::parse(&wide).nodes.len(), 3);
        assert!(crate::mail::html::parse(&"<b>".repeat(300_000)).nodes.len() <= NODES_MAX + 1);
    }
}
