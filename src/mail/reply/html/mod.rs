//! Owns the HTML part: its tree, its text, and the sanitised HTML of the reply.
//!
//! Does not decide which lines are the reply: it renders lines with the marks of the structure, and later
//! writes the nodes whose lines were kept.

mod clean;
mod colour;
mod roles;
mod stylesheet;

use super::TEXT_BYTES_MAX;
use super::cut::LineClass;
use super::text::{self, BodyLine, LINES_MAX, LineMark};
use crate::mail::html::{self, HtmlTree, is_block};
use roles::ElementRole;
use stylesheet::StyleSheet;

/// The depth of nested lists that are indented.
const LIST_DEPTH_MAX: usize = 8;

/// The depth of nested quotes that are counted.
const QUOTE_DEPTH_MAX: u8 = 200;

/// The number of consecutive blank lines that are kept.
const BLANKS_MAX: usize = 2;

/// An HTML part as lines, with the nodes they came from.
pub(super) struct RenderedHtml {
    pub(super) lines: Vec<BodyLine>,
    pub(super) truncated: bool,
    tree: HtmlTree,
    sheet: StyleSheet,
    /// Pairs of a node and a line that the node wrote into.
    owners: Vec<(usize, usize)>,
}

impl RenderedHtml {
    /// Renders HTML as text.
    pub(super) fn read(html: &str) -> Self {
        let tree = html::parse(html);
        let sheet = StyleSheet::read(&tree.styles);
        let mut renderer = Renderer::new(&tree, &sheet);
        renderer.children(0, RenderContext::default());
        renderer.end_line();
        let Renderer {
            lines,
            owners,
            full,
            ..
        } = renderer;
        Self {
            lines,
            truncated: full || tree.truncated,
            owners,
            tree,
            sheet,
        }
    }

    /// The sanitised HTML of the lines whose fate is text, if it is not too long; with its colours if they
    /// distinguish the authors.
    pub(super) fn cleaned(&self, fates: &[LineClass], in_colour: bool) -> Option<String> {
        let mut kept = vec![false; self.tree.nodes.len()];
        for (node, line) in &self.owners {
            kept[*node] |= fates
                .get(*line)
                .is_some_and(|fate| *fate == LineClass::Text);
        }
        self.keep_parents(&mut kept);
        clean::clean(&self.tree, &kept, in_colour.then_some(&self.sheet))
    }

    /// An element is kept if something in it is. Children come after their parents.
    fn keep_parents(&self, kept: &mut [bool]) {
        let mut parents = vec![0; kept.len()];
        for at in 0..kept.len() {
            for child in self.tree.children(at) {
                parents[child] = at;
            }
        }
        for at in (1..kept.len()).rev() {
            let parent = parents[at];
            kept[parent] |= kept[at];
        }
    }
}

/// The surroundings of a node.
#[derive(Clone, Copy)]
struct RenderContext {
    depth: u8,
    mark: LineMark,
    pre: bool,
    lists: usize,
    /// True if the words have a colour of their own.
    coloured: bool,
    /// True within a link: its colour is that of all links, and marks nothing.
    linked: bool,
}

impl Default for RenderContext {
    fn default() -> Self {
        Self {
            depth: 0,
            mark: LineMark::None,
            pre: false,
            lists: 0,
            coloured: false,
            linked: false,
        }
    }
}

struct Renderer<'a> {
    tree: &'a HtmlTree,
    sheet: &'a StyleSheet,
    lines: Vec<BodyLine>,
    owners: Vec<(usize, usize)>,
    /// The nodes in the current line.
    pending: Vec<usize>,
    /// The current line.
    line: String,
    place: RenderContext,
    /// The numbers of the line's words with a colour of their own, and without one.
    coloured: usize,
    plain: usize,
    /// True if a space must precede the next word.
    space_due: bool,
    /// True if a blank line must precede the next line.
    blank_due: bool,
    /// True if the next line is the first of the old mail.
    cut: bool,
    /// True if the next element is a signature.
    sign_next: bool,
    bytes: usize,
    full: bool,
}

impl<'a> Renderer<'a> {
    fn new(tree: &'a HtmlTree, sheet: &'a StyleSheet) -> Self {
        Self {
            tree,
            sheet,
            lines: Vec::new(),
            owners: Vec::new(),
            pending: Vec::new(),
            line: String::new(),
            place: RenderContext::default(),
            coloured: 0,
            plain: 0,
            space_due: false,
            blank_due: false,
            cut: false,
            sign_next: false,
            bytes: 0,
            full: false,
        }
    }

    /// The recursion is bounded by the depth of the tree.
    fn children(&mut self, at: usize, place: RenderContext) {
        let tree = self.tree;
        let mut item = tree.nodes[at].attribute("start").parse().unwrap_or(1u32);
        for child in tree.children(at) {
            let node = &tree.nodes[child];
            if node.is_text() {
                self.text(child, place);
                continue;
            }
            if node.tag == "li" {
                self.item(tree.nodes[at].tag == "ol", item, place);
                item = item.saturating_add(1);
            }
            self.element(child, place);
        }
    }

    fn element(&mut self, at: usize, mut place: RenderContext) {
        let node = &self.tree.nodes[at];
        let role = ElementRole::of(node);
        if let Some(colour) = self.sheet.colour_of(node) {
            place.coloured = !colour::is_neutral(&colour);
        }
        place.linked |= node.tag == "a";
        if self.sign_next && is_block(node.tag) {
            self.sign_next = false;
            if role == ElementRole::Plain {
                place.mark = LineMark::Signature;
            }
        }
        match role {
            ElementRole::Hidden => return,
            ElementRole::Cut => {
                self.end_line();
                self.cut = true;
            }
            ElementRole::Quote => {
                self.end_line();
                place.depth = place.depth.saturating_add(1).min(QUOTE_DEPTH_MAX);
                place.mark = LineMark::Quote;
            }
            ElementRole::Attribution if place.mark == LineMark::None => {
                place.mark = LineMark::Attribution
            }
            ElementRole::Signature if place.mark == LineMark::None => {
                place.mark = LineMark::Signature
            }
            ElementRole::SignatureNext => self.sign_next = true,
            ElementRole::Plain | ElementRole::Attribution | ElementRole::Signature => {}
        }
        match node.tag {
            "br" => return self.line_break(at, place),
            "hr" => return self.rule(at, place),
            "img" => return self.image(at, place),
            "pre" => place.pre = true,
            "ul" | "ol" | "menu" => place.lists += 1,
            "a" => return self.link(at, place),
            "td" | "th" => return self.cell(at, place),
            _ => {}
        }
        let block = is_block(node.tag) || role == ElementRole::Quote;
        let apart = matches!(
            node.tag,
            "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "pre" | "blockquote" | "table" | "dl"
        ) || matches!(node.tag, "ul" | "ol") && place.lists == 1;
        if block {
            if node.tag != "li" {
                self.end_line();
            }
            self.blank_due |= apart;
        }
        self.children(at, place);
        if node.tag == "tr" {
            self.line
                .truncate(self.line.trim_end_matches([' ', '|']).len());
        }
        if block {
            self.end_line();
            self.blank_due |= apart;
        }
    }

    fn item(&mut self, ordered: bool, number: u32, place: RenderContext) {
        self.end_line();
        self.place = place;
        let indent = "  ".repeat(place.lists.saturating_sub(1).min(LIST_DEPTH_MAX));
        self.line = if ordered {
            format!("{indent}{number}. ")
        } else {
            format!("{indent}- ")
        };
        self.space_due = false;
    }

    /// Cells of a row stand on one line with bars between, unless they contain several lines.
    fn cell(&mut self, at: usize, place: RenderContext) {
        let row = std::mem::take(&mut self.line);
        let row_owners = std::mem::take(&mut self.pending);
        let (first, gap, row_place) = (self.lines.len(), self.blank_due, self.place);
        self.blank_due = false;
        self.children(at, place);
        self.end_line();
        let filled: Vec<usize> = (first..self.lines.len())
            .filter(|line| !self.lines[*line].is_blank())
            .take(2)
            .collect();
        let content = match filled[..] {
            [] => Some(String::new()),
            [only] => self.lines[only].content_at(place.depth, place.mark),
            _ => None,
        };
        let Some(content) = content else {
            return self.row_above(first, &row, row_owners, row_place);
        };
        let of_cell = std::mem::replace(&mut self.pending, row_owners);
        self.pending.extend(of_cell);
        while let Some((node, _)) = self.owners.pop_if(|(_, line)| *line >= first) {
            self.pending.push(node);
        }
        self.lines.truncate(first);
        self.bytes = self.bytes.saturating_sub(content.len() + 1);
        self.blank_due = gap;
        self.place = if row.trim().is_empty() {
            place
        } else {
            row_place
        };
        self.line = row;
        self.line.push_str(&content);
        if !self.line.trim().is_empty() {
            self.line.push_str(" | ");
        }
        self.space_due = false;
    }

    /// Inserts the row written so far above the lines of a cell.
    fn row_above(&mut self, first: usize, row: &str, owners: Vec<usize>, place: RenderContext) {
        let content = row.trim_end_matches([' ', '|']);
        if content.trim().is_empty() {
            self.pending.extend(owners);
            return;
        }
        for (_, line) in self
            .owners
            .iter_mut()
            .rev()
            .take_while(|(_, line)| *line >= first)
        {
            *line += 1;
        }
        let at = self.owners.partition_point(|(_, line)| *line < first);
        self.owners
            .splice(at..at, owners.into_iter().map(|node| (node, first)));
        self.lines.insert(
            first,
            BodyLine::rendered(content, place.depth, place.mark, place.pre),
        );
        self.bytes += content.len() + 1;
    }

    fn link(&mut self, at: usize, place: RenderContext) {
        let (line, from) = (self.lines.len(), self.line.len());
        self.children(at, place);
        let href = self.tree.nodes[at].attribute("href").trim();
        if self.lines.len() != line {
            return;
        }
        let shown = self.line.get(from..).unwrap_or_default().trim().to_owned();
        let web = href.starts_with("http://") || href.starts_with("https://");
        let bare = |url: &str| {
            let url = url
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            url.trim_start_matches("www.")
                .trim_end_matches('/')
                .to_ascii_lowercase()
        };
        if web && !shown.is_empty() && bare(href) != bare(&shown) && !href.contains(&shown) {
            self.line.push_str(" <");
            self.line.push_str(href);
            self.line.push('>');
        }
    }

    fn image(&mut self, at: usize, place: RenderContext) {
        let node = &self.tree.nodes[at];
        let alt = node.attribute("alt").trim();
        let emoji = node.attribute("data-emoji");
        let pixel = |name| {
            node.attribute(name)
                .trim_end_matches("px")
                .parse::<u32>()
                .is_ok_and(|size| size <= 3)
        };
        if pixel("width") || pixel("height") {
            return;
        }
        let small =
            alt.chars().count() <= 3 && !alt.is_empty() && !alt.chars().any(char::is_alphanumeric);
        let word = if !emoji.is_empty() {
            emoji.to_owned()
        } else if small {
            alt.to_owned()
        } else if node.attribute("src").starts_with("cid:")
            || node.attribute("src").starts_with("data:")
        {
            if alt.is_empty() {
                "[image]".to_owned()
            } else {
                format!("[image: {alt}]")
            }
        } else if alt.is_empty() {
            return;
        } else {
            format!("[{alt}]")
        };
        self.word(&word, place);
        self.own_node(at);
    }

    fn rule(&mut self, at: usize, place: RenderContext) {
        self.end_line();
        self.place = place;
        self.line.push_str("---");
        self.own_node(at);
        self.end_line();
    }

    fn line_break(&mut self, at: usize, place: RenderContext) {
        self.own_node(at);
        if self.line.trim().is_empty() {
            self.line.clear();
            self.blank_due = true;
            if place.pre {
                self.blank();
            }
        } else {
            self.end_line();
        }
    }

    fn text(&mut self, at: usize, place: RenderContext) {
        let text = self.tree.nodes[at].text.as_str();
        if place.pre {
            return self.preformatted(at, text, place);
        }
        if self.line.is_empty() {
            self.line.reserve(text.len());
        }
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| !is_html_space(c)) {
            self.space_due |= start > 0;
            rest = &rest[start..];
            let end = rest.find(is_html_space).unwrap_or(rest.len());
            self.word(&rest[..end], place);
            rest = &rest[end..];
        }
        self.space_due |= !rest.is_empty();
        if !text.trim_matches(is_html_space).is_empty() || !self.line.is_empty() {
            self.own_node(at);
        }
    }

    fn preformatted(&mut self, at: usize, text: &str, place: RenderContext) {
        for (number, line) in text.split('\n').enumerate() {
            if number > 0 {
                if self.line.trim().is_empty() {
                    self.blank();
                    self.line.clear();
                } else {
                    self.end_line();
                }
            }
            let line = line.strip_suffix('\r').unwrap_or(line);
            if !line.is_empty() {
                self.place = place;
                self.push(line);
                self.own_node(at);
            }
        }
    }

    fn word(&mut self, word: &str, place: RenderContext) {
        if self.line.trim().is_empty() {
            self.place = place;
        }
        if self.space_due && !self.line.is_empty() && !self.line.ends_with(' ') {
            self.line.push(' ');
        }
        self.space_due = false;
        if word.contains(char::is_alphanumeric) && !place.linked {
            let count = if place.coloured {
                &mut self.coloured
            } else {
                &mut self.plain
            };
            *count += 1;
        }
        self.push(word);
    }

    /// Appends to the current line, with each no-break space as a plain one.
    fn push(&mut self, text: &str) {
        for (at, part) in text.split('\u{a0}').enumerate() {
            if at > 0 {
                self.line.push(' ');
            }
            self.line.push_str(part);
        }
    }

    /// Records that `node` writes into the current line, or, if it is a break, ends it.
    fn own_node(&mut self, node: usize) {
        self.pending.push(node);
    }

    fn blank(&mut self) {
        let blanks = self
            .lines
            .iter()
            .rev()
            .take_while(|line| line.raw.is_empty())
            .count();
        if !self.lines.is_empty() && blanks < BLANKS_MAX {
            self.lines
                .push(BodyLine::rendered("", 0, LineMark::None, false));
        }
    }

    fn end_line(&mut self) {
        self.space_due = false;
        let coloured = std::mem::take(&mut self.coloured) > 0 && self.plain == 0;
        self.plain = 0;
        let line = std::mem::take(&mut self.line);
        let content = line.trim_end();
        if content.trim().is_empty() {
            return;
        }
        if self.bytes + content.len() > TEXT_BYTES_MAX {
            self.full = true;
            return;
        }
        self.bytes += content.len() + 1;
        if self.lines.len() >= LINES_MAX {
            let at = self.lines.len() - 1;
            self.owners
                .extend(self.pending.drain(..).map(|node| (node, at)));
            return text::append(&mut self.lines, content);
        }
        if std::mem::take(&mut self.blank_due) {
            self.blank();
        }
        let mut mark = self.place.mark;
        if std::mem::take(&mut self.cut) {
            mark = LineMark::Cut;
        }
        let at = self.lines.len();
        self.owners
            .extend(self.pending.drain(..).map(|node| (node, at)));
        self.lines.push(BodyLine {
            coloured,
            ..BodyLine::rendered(content, self.place.depth, mark, self.place.pre)
        });
    }
}

/// True for the spaces that HTML collapses; false for a no-break space.
fn is_html_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}')
}
