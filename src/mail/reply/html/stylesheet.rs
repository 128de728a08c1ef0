//! Owns the colours that the style sheets of a page give to classes and elements.
//!
//! Does not read conditional rules, nor selectors that depend on more than an element and its class.

use std::collections::HashMap;

use super::colour;
use crate::mail::html::HtmlNode;

/// The maximum number of selectors that are kept.
const SELECTORS_MAX: usize = 1_000;
/// Bytes of the longest selector that is kept.
const SELECTOR_BYTES_MAX: usize = 80;
/// The maximum number of classes of one element that are looked up.
const CLASSES_MAX: usize = 16;

/// The colours of a page by selector: `span.name`, `.name` or `span`.
#[derive(Debug, Default)]
pub(super) struct StyleSheet {
    colours: HashMap<String, String>,
}

impl StyleSheet {
    /// Reads the text of all `style` elements. Any text is accepted.
    pub(super) fn read(styles: &str) -> Self {
        let mut sheet = Self::default();
        if !styles.to_ascii_lowercase().contains("color") {
            return sheet;
        }
        let styles = without_comments(styles);
        let mut rest = styles.as_str();
        while let Some(open) = rest.find(['{', ';']) {
            let (head, block) = (rest[..open].trim(), &rest[open + 1..]);
            if rest.as_bytes()[open] == b';' {
                // An at-rule without a block, such as `@import`.
                rest = block;
                continue;
            }
            if head.starts_with('@') {
                rest = &block[end_of_block(block)..];
                continue;
            }
            let Some(end) = block.find('}') else { break };
            if let Some(colour) = colour::of_declarations(&block[..end]) {
                sheet.add(head, &colour);
            }
            rest = &block[end + 1..];
        }
        sheet
    }

    fn add(&mut self, selectors: &str, colour: &str) {
        for selector in selectors.split(',') {
            let Some(selector) = usable(selector.trim()) else {
                continue;
            };
            if self.colours.len() < SELECTORS_MAX || self.colours.contains_key(&selector) {
                self.colours.insert(selector, colour.to_owned());
            }
        }
    }

    /// The colour of an element's words, lower-cased; `None` if neither it nor a rule names one.
    pub(super) fn colour_of(&self, node: &HtmlNode) -> Option<String> {
        colour::of_declarations(node.attribute("style"))
            .or_else(|| self.colour_by_rule(node).map(str::to_owned))
            .or_else(|| colour::checked(node.attribute("color")).filter(|_| node.tag == "font"))
    }

    fn colour_by_rule(&self, node: &HtmlNode) -> Option<&str> {
        if self.colours.is_empty() {
            return None;
        }
        let classes = node.attribute("class").split_ascii_whitespace();
        let classes = classes.take(CLASSES_MAX);
        let short = classes.filter(|class| class.len() <= SELECTOR_BYTES_MAX);
        let of_class = short
            .filter_map(|class| {
                let of_element = self.colours.get(&format!("{}.{class}", node.tag));
                of_element.or_else(|| self.colours.get(&format!(".{class}")))
            })
            .last();
        of_class
            .or_else(|| self.colours.get(node.tag))
            .map(String::as_str)
    }
}

/// The element and the class that a selector names last. An element within others is taken only by its class,
/// because its name alone means too much.
fn usable(selector: &str) -> Option<String> {
    let last = selector.split_ascii_whitespace().next_back()?;
    let (element, class) = last.split_once('.').unwrap_or((last, ""));
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    let is_plain = is_name(element) && is_name(class) && last.len() <= SELECTOR_BYTES_MAX;
    let is_alone = last.len() == selector.len();
    if !is_plain || class.is_empty() && !is_alone {
        return None;
    }
    let element = element.to_ascii_lowercase();
    Some(match class {
        "" => element,
        class => format!("{element}.{class}"),
    })
}

/// The offset behind the end of a block that may contain others.
fn end_of_block(block: &str) -> usize {
    let mut open = 1usize;
    for (at, byte) in block.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return at + 1;
        }
    }
    block.len()
}

/// The text without comments and without the marks that hide it from old programs.
fn without_comments(styles: &str) -> String {
    let mut out = String::with_capacity(styles.len());
    let mut rest = styles;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        let end = rest[start + 2..].find("*/");
        rest = end.map_or("", |end| &rest[start + 2 + end + 2..]);
    }
    out.push_str(rest);
    out.replace("<!--", " ").replace("-->", " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn colours(styles: &str) -> Vec<(String, String)> {
        let mut all: Vec<_> = StyleSheet::read(styles).colours.into_iter().collect();
        all.sort();
        all
    }

    fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        wanted.iter().map(owned).collect()
    }

    #[test]
    fn colours_of_classes_and_elements_are_read() {
        let outlook = "<!--\n/* Style Definitions */\n@font-face {font-family:Calibri; color:red;}\n\
            p.MsoNormal, li.MsoNormal {margin:0cm;}\na:link, span.MsoHyperlink {color:#0563C1;}\n\
            span.EmailStyle18\n\t{mso-style-type:personal-reply;\n\tcolor:#1F497D !important;}\n-->";
        assert_eq!(
            colours(outlook),
            pairs(&[
                ("span.EmailStyle18", "#1f497d"),
                ("span.MsoHyperlink", "#0563c1")
            ])
        );
        assert_eq!(
            colours(
                "@import url(x); .a{background-color:red}.b , EM{COLOR:Blue}\
                 @media screen { .b{color:green} p{color:green} } div .c{color:#f00} .x p{color:#00f} #i{color:red}"
            ),
            pairs(&[(".b", "blue"), (".c", "#f00"), ("em", "blue")])
        );
        assert_eq!(
            colours(".a{color:red} .a{color:blue}"),
            pairs(&[(".a", "blue")])
        );
    }

    #[test]
    fn hostile_sheets_are_bounded() {
        let many: String = (0..100_000)
            .map(|n| format!(".c{n}{{color:red}}"))
            .collect();
        assert_eq!(colours(&many).len(), SELECTORS_MAX);
        for unit in ["/*", "@a{", "{", "}", ";", "a{color:red", ",", "<!--", "*/"] {
            let _ = StyleSheet::read(&format!("color{}", unit.repeat(100_000)));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(styles in "[-a-c.@{};:,/*<!># é]{0,60}") {
            let _ = StyleSheet::read(&format!("{styles}color"));
        }
    }
}
