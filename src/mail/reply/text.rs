//! Owns the lines of a plain text body: the quote depth of each, and its folded form.
//!
//! Does not distinguish reply and quote.

use std::sync::LazyLock;

use regex::Regex;

use super::fold::{fold, pattern};
use super::languages::{FORWARDED, ORIGINAL, WROTE, WROTE_UNSPACED};
use super::shapes::is_torn_open;

/// The quote depth that is counted.
const DEPTH_MAX: u8 = 250;

/// The number of consecutive blank lines that are kept.
const BLANKS_MAX: u32 = 3;

/// The number of lines of a part that are classified one by one; the rest is treated as one line.
pub(super) const LINES_MAX: usize = 10_000;

/// A line of a body.
#[derive(Debug, Clone)]
pub(super) struct BodyLine {
    /// The displayed line, with its quote marks.
    pub(super) raw: String,
    /// Lower case, plain spaces, no direction marks, no quote marks, cut after
    /// 600 characters.
    pub(super) fold: String,
    /// Number of quote marks before it.
    pub(super) depth: u8,
    /// The mark from the HTML structure.
    pub(super) mark: LineMark,
    /// True inside a code fence or `<pre>`, where no line is a delimiter.
    pub(super) code: bool,
    /// True if all words of the line have a colour of their own.
    pub(super) coloured: bool,
}

/// The mark that the structure of an HTML part gives a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LineMark {
    /// A line without a mark.
    None,
    /// The line above a quote.
    Attribution,
    /// A signature that the mail program inserted.
    Signature,
    /// Old mail without quote marks.
    Quote,
    /// The first line of old mail that continues to the end.
    Cut,
}

impl BodyLine {
    /// A line of plain text, from which the quote marks are parsed.
    fn plain(raw: &str) -> Self {
        let (depth, rest) = quote_marks(raw);
        Self {
            raw: raw.trim_end().to_owned(),
            fold: fold(rest),
            depth,
            mark: LineMark::None,
            code: false,
            coloured: false,
        }
    }

    /// A line from the HTML renderer, `depth` quotes deep.
    pub(super) fn rendered(content: &str, depth: u8, mark: LineMark, code: bool) -> Self {
        let mut raw = String::with_capacity(content.len() + usize::from(depth) + 1);
        for _ in 0..depth {
            raw.push('>');
        }
        if depth > 0 && !content.is_empty() {
            raw.push(' ');
        }
        raw.push_str(content);
        Self {
            raw,
            fold: fold(content),
            depth,
            mark,
            code,
            coloured: false,
        }
    }

    /// The content of a rendered line, if it has the given depth and mark.
    pub(super) fn content_at(&self, depth: u8, mark: LineMark) -> Option<String> {
        let marks = usize::from(depth) + usize::from(depth > 0);
        (self.depth == depth && self.mark == mark)
            .then(|| self.raw.get(marks..).unwrap_or_default().to_owned())
    }

    /// Removes the quote marks.
    pub(super) fn unquote(&mut self) {
        self.raw = quote_marks(&self.raw).1.trim_start().to_owned();
        self.depth = 0;
        self.mark = LineMark::None;
    }

    pub(super) fn is_blank(&self) -> bool {
        self.fold.is_empty()
    }

    /// The number of words of the folded line.
    pub(super) fn words(&self) -> usize {
        self.fold.split(' ').filter(|w| !w.is_empty()).count()
    }
}

/// Divides a plain text body into lines.
pub(super) fn lines(body: &str) -> Vec<BodyLine> {
    let mut lines: Vec<BodyLine> = Vec::new();
    let mut blanks = 0;
    let mut glue = GLUED_LINES_MAX;
    for raw in split(body).flat_map(|raw| split_glued(raw, &mut glue)) {
        if lines.len() >= LINES_MAX {
            append(&mut lines, raw);
            continue;
        }
        if blanks >= BLANKS_MAX && raw.bytes().all(|byte| matches!(byte, b' ' | b'\t')) {
            continue;
        }
        let mut line = BodyLine::plain(raw);
        if line.is_blank() && line.depth == 0 {
            blanks += 1;
            if blanks > BLANKS_MAX {
                continue;
            }
        } else {
            blanks = 0;
        }
        if line.depth == 3 && line.fold.ends_with(">>>") {
            // GroupWise frames its attribution: ">>> Ann <ann@a.example> 3/4/2025 >>>".
            line.depth = 0;
            line.fold = fold(raw);
        }
        if line.depth > 0
            && is_torn_tail(&line.fold)
            && lines
                .iter()
                .rev()
                .find(|l| !l.is_blank())
                .is_some_and(|l| l.depth == 0)
        {
            // "> wrote:" is the end of "<ann@example.com\n> wrote:", not a quote.
            line.depth = 0;
            line.fold = fold(raw);
        }
        if line.depth > 0 && is_torn_rest(&line.fold) && lines.last().is_some_and(is_torn) {
            // A line break put the quote mark into the address: "<\n> ann@example.com> wrote:".
            line.depth = 0;
        }
        lines.push(line);
    }
    unescape_from(&mut lines);
    mark_fences(&mut lines);
    lines
}

/// `>From ` is the escape of mbox files (RFC 4155), unless a quote stands next to it.
fn unescape_from(lines: &mut [BodyLine]) {
    for at in 0..lines.len() {
        let is_quoted = |at: Option<usize>| {
            let line = at.and_then(|at| lines.get(at));
            line.is_some_and(|line| line.depth > 0)
        };
        let is_alone = !is_quoted(at.checked_sub(1)) && !is_quoted(Some(at + 1));
        if is_alone && lines[at].depth == 1 && lines[at].raw.starts_with(">From ") {
            lines[at].unquote();
        }
    }
}

/// Appends text beyond the bound to the last line.
pub(super) fn append(lines: &mut [BodyLine], raw: &str) {
    if let Some(last) = lines.last_mut() {
        last.raw.push('\n');
        last.raw.push_str(raw.trim_end());
    }
}

/// LF, CRLF, CR and the Unicode line separators all end a line.
fn split(body: &str) -> impl Iterator<Item = &str> {
    body.split(['\n', '\u{2028}', '\u{2029}', '\u{85}'])
        .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// The number of characters of a line that are searched for an attribution glued to it.
const GLUED_CHARS_MAX: usize = 4000;

/// The number of lines that are searched for one.
const GLUED_LINES_MAX: usize = 500;

static GLUED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"^(.*?[.!?…)\]"”:]\s+|.*?\S\s{2,}|\s*)((?:On|Le|Am|El|Em|Il|Op|Den|W dniu|Dne)\s[^<>@]{0,40}[0-9][^<>@]{0,140}<\s*[^<>\s]+@[^<>\s]+\s*>[^<>:]{0,40}:)(.*)$"#,
    )
});

static GLUED_RULE: LazyLock<Regex> = LazyLock::new(|| {
    let words: Vec<String> = ORIGINAL
        .iter()
        .chain(FORWARDED.iter())
        .map(|word| regex::escape(word))
        .collect();
    pattern(&format!(
        r"(?i)^(.*?\S.*?)(-{{4,}} ?(?:{}) ?-{{4,}}.*)$",
        words.join("|")
    ))
});

/// Splits a line into which a program wrote reply, attribution and quote.
fn split_glued<'a>(raw: &'a str, left: &mut usize) -> impl Iterator<Item = &'a str> + use<'a> {
    let parts = if *left > 0 && raw.len() <= GLUED_CHARS_MAX && may_be_glued(raw) {
        *left -= 1;
        split_parts(raw)
    } else {
        [raw, "", ""]
    };
    let first = std::iter::once(parts[0]);
    first.chain(parts.into_iter().skip(1).filter(|part| !part.is_empty()))
}

/// A cheap test for lines that need no split, which are most.
fn may_be_glued(raw: &str) -> bool {
    let quoted = raw.trim_start().starts_with(['>', '|']);
    let addressed = raw.contains('@') && raw.contains('<') && raw.contains(':');
    !quoted && (addressed || raw.contains("----"))
}

/// The parts of a line; absent parts are empty.
fn split_parts(raw: &str) -> [&str; 3] {
    if raw.contains('@')
        && let Some(found) = GLUED.captures(raw)
        && let (Some(head), Some(middle), Some(tail)) = (found.get(1), found.get(2), found.get(3))
        && !(head.as_str().trim().is_empty() && tail.as_str().trim().is_empty())
    {
        let mut parts = [""; 3];
        let filled = [head, middle, tail].map(|part| part.as_str());
        let filled = filled.into_iter().filter(|part| !part.trim().is_empty());
        for (part, text) in parts.iter_mut().zip(filled) {
            *part = text;
        }
        return parts;
    }
    if raw.contains("----")
        && let Some(found) = GLUED_RULE.captures(raw)
        && let (Some(head), Some(tail)) = (found.get(1), found.get(2))
        && head.as_str().contains(char::is_alphanumeric)
    {
        return [head.as_str(), tail.as_str(), ""];
    }
    [raw, "", ""]
}

fn is_torn(line: &BodyLine) -> bool {
    line.depth == 0 && is_torn_open(&line.fold)
}

/// True for the rest of an address, and the end of the attribution around it.
fn is_torn_rest(fold: &str) -> bool {
    let address = fold.split_once('>').map(|(address, _)| address);
    address.is_some_and(|address| !address.contains([' ', '<']) && address.contains('.'))
        && fold.ends_with(':')
}

fn is_torn_tail(fold: &str) -> bool {
    let Some(head) = fold.strip_suffix(':') else {
        return false;
    };
    let head = head.trim();
    head.is_empty() || WROTE.contains(&head) || WROTE_UNSPACED.contains(&head)
}

/// Counts `>` marks, also `> >`, `>>`, `＞` and `&gt;`, and returns the rest of the line.
fn quote_marks(raw: &str) -> (u8, &str) {
    let mut rest = raw;
    let mut depth = 0u8;
    loop {
        let trimmed = rest.trim_start_matches([
            ' ', '\t', '\u{a0}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{feff}',
        ]);
        let indent = rest.len() - trimmed.len();
        if indent > 4 && depth > 0 {
            return (depth, rest);
        }
        let Some(after) = trimmed
            .strip_prefix('>')
            .or_else(|| trimmed.strip_prefix('＞'))
            .or_else(|| trimmed.strip_prefix("&gt;"))
        else {
            return (depth, rest);
        };
        if depth == 0 && is_face(trimmed) {
            return (0, rest);
        }
        depth = depth.saturating_add(1).min(DEPTH_MAX);
        rest = after;
    }
}

/// True for `>:(`, `>_<` and `>=`, which are no quotes.
fn is_face(text: &str) -> bool {
    [
        ">:(", ">:)", ">:-", ">:[", ">:D", ">_<", ">.<", ">_>", ">.>", ">=", ">;",
    ]
    .iter()
    .any(|face| text.starts_with(face))
}

/// Marks lines between ``` fences as code. A fence without an end is an ordinary line.
fn mark_fences(lines: &mut [BodyLine]) {
    let mut open: Option<usize> = None;
    for i in 0..lines.len() {
        if lines[i].depth > 0
            || !(lines[i].fold.starts_with("```") || lines[i].fold.starts_with("~~~"))
        {
            continue;
        }
        match open.take() {
            None => open = Some(i),
            Some(start) => lines[start..=i]
                .iter_mut()
                .for_each(|line| line.code = true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_from_is_no_quote() {
        let depths = |body: &str| {
            lines(body)
                .iter()
                .map(|line| line.depth)
                .collect::<Vec<_>>()
        };
        assert_eq!(depths(">From Monday on\n\n> old"), [0, 0, 1]);
        assert_eq!(lines(">From Monday on")[0].raw, "From Monday on");
        assert_eq!(depths("> old\n>From Monday on"), [1, 1]);
        assert_eq!(depths(">From: Ann"), [1]);
    }

    #[test]
    fn quote_marks_are_counted_in_every_spelling() {
        for (line, depth, rest) in [
            ("> > deep", 2, "deep"),
            (">>deep", 2, "deep"),
            ("＞日本", 1, "日本"),
            ("&gt; old", 1, "old"),
            (">:(", 0, ">:("),
            (">= 5", 0, ">= 5"),
            ("a > b", 0, "a > b"),
        ] {
            let line = BodyLine::plain(line);
            assert_eq!((line.depth, line.fold.as_str()), (depth, rest));
        }
    }

    #[test]
    fn folding_drops_what_cannot_be_seen() {
        assert_eq!(fold("\u{200f}On\u{a0} ٤ Mar\u{202c}："), "on 4 mar:");
        assert_eq!(fold("İSTANBUL"), "istanbul");
        assert_eq!(fold(" On Mon,  A\tB &nbsp;&LT;c&gt; "), "on mon, a b <c>");
        assert_eq!(fold(&"AB ".repeat(400)), "ab ".repeat(200).trim_end());
    }

    #[test]
    fn a_torn_attribution_is_not_a_quote() {
        let lines = lines("On Mon Ann <ann@a.example\n> wrote:\n> hi");
        assert_eq!(lines.iter().map(|l| l.depth).collect::<Vec<_>>(), [0, 0, 1]);
    }

    #[test]
    fn fences_shield_their_lines() {
        let lines = lines("a\n```\n--\n```\nb\n```");
        assert_eq!(
            lines.iter().map(|l| l.code).collect::<Vec<_>>(),
            [false, true, true, true, false, false]
        );
    }
}
