//! Owns the scan over the lines of a body: where quotes and old mail begin.
//!
//! Does not read HTML, and leaves the final class of each line to `classes`.

use std::cell::Cell;
use std::ops::Range;

use super::attribution::{self, Attribution};
use super::fold::fold;
use super::known::{self, KnownLines};
use super::languages::BANNERS;
use super::quotes::{self, MailSeparator};
use super::shapes;
use super::text::{BodyLine, LineMark};
use super::{Confidence, Method, ReplyInput};
use crate::mail::subject::Subject;

/// The number of lines at the top that may contain a banner of the mail system.
const BANNER_LINES_MAX: usize = 6;

/// The number of lines that are examined for an attribution.
const CANDIDATES_MAX: u32 = 1500;

/// The class of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineClass {
    Text,
    Quoted,
    Signature,
}

/// The classes of all lines, and the evidence.
pub(super) struct Cut {
    pub(super) classes: Vec<LineClass>,
    pub(super) method: Method,
    pub(super) confidence: Confidence,
    /// Kept lines of our own mail that need a quote mark to distinguish them from the answer.
    pub(super) unmarked: Vec<bool>,
    /// True if lines were kept because of their colour.
    pub(super) in_colour: bool,
}

/// The thread around a body.
pub(super) struct CutContext {
    /// The line below which nothing belongs to the reply, folded.
    pub(super) marker: String,
    /// True if the subject begins with "Fwd:".
    pub(super) forward: bool,
    /// The subject without prefixes, folded.
    pub(super) subject: String,
}

impl CutContext {
    pub(super) fn of(input: &ReplyInput<'_>) -> Self {
        Self {
            marker: fold(input.marker),
            forward: super::is_forward(input.subject),
            subject: fold(&Subject::of(input.subject).normalised),
        }
    }
}

/// Decides the class of every line.
pub(super) fn cut(lines: &mut Vec<BodyLine>, known: &[&str], context: &CutContext) -> Cut {
    let mut known = known::find(lines, known);
    if !known.lines.contains(&true) {
        return Cutter::new(lines, known, context).cut();
    }
    // An answer may repeat our very words ("Yes, keep my subscription for another year"): the text above
    // the quote is the person's.
    let untouched = lines.clone();
    let marked = (0..lines.len()).any(|at| known.lines[at] && lines[at].depth > 0);
    let end = if marked {
        lines.len()
    } else {
        let mut probe = Cutter::new(lines, KnownLines::none(untouched.len()), context);
        probe.scan();
        let end = probe.old_mail_from.unwrap_or(0);
        lines.clone_from(&untouched);
        end
    };
    if known.lines[end..].contains(&true) || marked {
        for at in (0..end).filter(|at| lines[*at].depth == 0) {
            known.lines[at] = false;
        }
    }
    let cut = Cutter::new(lines, known, context).cut();
    if cut.method != Method::FullBody {
        return cut;
    }
    *lines = untouched;
    let unknown = KnownLines::none(lines.len());
    Cutter::new(lines, unknown, context).cut()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    Blank,
    Text,
    Quote,
    Attribution,
    Banner,
}

pub(super) struct Cutter<'a> {
    pub(super) lines: &'a mut [BodyLine],
    pub(super) kinds: Vec<LineKind>,
    pub(super) known: KnownLines,
    pub(super) context: &'a CutContext,
    /// The first evidence that was found; at one place, the strongest.
    pub(super) method: Method,
    pub(super) confidence: Confidence,
    /// The line from which everything is old mail without quote marks.
    pub(super) old_mail_from: Option<usize>,
    /// True if a whole mail begins here with no text above it.
    pub(super) forwarded: bool,
    /// True if lines are kept because of their colour.
    pub(super) in_colour: bool,
    /// The number of lines that may still be examined as the end of an attribution.
    candidates: Cell<u32>,
    /// The line above which no header block begins.
    no_header_above: usize,
}

impl<'a> Cutter<'a> {
    fn new(lines: &'a mut [BodyLine], known: KnownLines, context: &'a CutContext) -> Self {
        let mut kinds = Vec::with_capacity(lines.len());
        for (at, line) in lines.iter_mut().enumerate() {
            if known.lines[at] && line.depth == 0 && line.mark == LineMark::None {
                line.mark = LineMark::Quote;
            }
            kinds.push(match (line.depth, line.mark) {
                (1.., _) | (_, LineMark::Quote) => LineKind::Quote,
                _ if line.is_blank() => LineKind::Blank,
                (_, LineMark::Attribution) => LineKind::Attribution,
                _ => LineKind::Text,
            });
        }
        Self {
            lines,
            kinds,
            known,
            context,
            method: Method::None,
            confidence: Confidence::High,
            old_mail_from: None,
            forwarded: false,
            in_colour: false,
            candidates: Cell::new(CANDIDATES_MAX),
            no_header_above: 0,
        }
    }

    fn cut(mut self) -> Cut {
        self.mark_banner();
        self.scan();
        self.head_of_own_words();
        self.own_words_without_marks();
        self.answers_between();
        self.answers_in_colour();
        self.initialled_quotes();
        self.wrapped_remnants();
        self.marks_of_author();
        self.finish()
    }

    /// Marks "This mail originated outside": the mail system wrote it, not the person.
    fn mark_banner(&mut self) {
        let filled: Vec<usize> = (0..self.lines.len())
            .filter(|at| !self.lines[*at].is_blank())
            .take(BANNER_LINES_MAX)
            .collect();
        // A banner below the header of old mail belongs to the old mail.
        let old = filled.iter().position(|at| self.begins_old_mail(*at));
        let top = &filled[..old.unwrap_or(filled.len())];
        let hit = top.iter().position(|at| {
            let fold = &self.lines[*at].fold;
            self.kinds[*at] == LineKind::Text && BANNERS.are_in(fold)
        });
        let Some(hit) = hit else { return };
        let end = (top[hit]..self.lines.len()).find(|at| self.lines[*at].is_blank());
        let Some(end) = end else { return };
        for at in 0..end {
            if self.kinds[at] == LineKind::Text {
                self.kinds[at] = LineKind::Banner;
            }
        }
    }

    fn begins_old_mail(&mut self, at: usize) -> bool {
        matches!(self.kinds[at], LineKind::Quote | LineKind::Attribution)
            || self.lines[at].mark == LineMark::Cut
            || self.whole_mail(at).is_some()
            || self.attribution_above(at, 0).is_some()
    }

    /// Scans the unquoted lines down to the first place below which everything is old mail.
    fn scan(&mut self) {
        let mut first_text: Option<usize> = None;
        let mut floor = 0;
        let mut at = 0;
        while at < self.lines.len() {
            if self.lines[at].depth > 0
                || self.lines[at].mark == LineMark::Quote
                || !matches!(self.kinds[at], LineKind::Text | LineKind::Attribution)
            {
                at += 1;
                continue;
            }
            if self.lines[at].mark == LineMark::Cut {
                let method = if self.context.forward {
                    Method::Forward
                } else {
                    Method::HtmlStructure
                };
                let head = (at..self.lines.len())
                    .take(4)
                    .find(|at| {
                        !self.lines[*at].is_blank() && !quotes::is_rule(&self.lines[*at].fold)
                    })
                    .and_then(|at| quotes::header_block(self.lines, at, true, "").ok());
                let head = head.unwrap_or(at + 1);
                return self.cut_at(at..head, first_text.is_some(), method);
            }
            if let Some((from, end, method)) = self.whole_mail(at) {
                let own = first_text.is_some_and(|text| text < from);
                if self.quoted_at(end) && method != Method::Marker {
                    // With quote marks below, the header only introduces a quote.
                    self.attribute(from..end);
                    self.note_evidence(method, Confidence::High);
                    floor = end;
                    at = end;
                    continue;
                }
                return self.cut_at(from..end, own, method);
            }
            if let Some((range, certain)) = self.attribution_at(at, floor) {
                let from = range.start;
                if !certain
                    && first_text.is_none_or(|text| text >= from)
                    && self.is_narrated(at, range.end)
                {
                    first_text = first_text.or(Some(from));
                    at = range.end;
                    continue;
                }
                first_text = first_text.filter(|text| *text < from);
                self.attribute(range.clone());
                floor = range.end;
                at = range.end;
                if first_text.is_some() && self.unquoted_at(at) {
                    let confidence = if certain {
                        Confidence::High
                    } else {
                        Confidence::Medium
                    };
                    self.note_evidence(Method::Attribution, confidence);
                    return self.cut_at(from..at, true, Method::Attribution);
                }
                self.barred_quotes(at);
                continue;
            }
            first_text = first_text.or(Some(at));
            at += 1;
        }
    }

    /// True if the attribution at `at`, with no text above it, belongs to the person's own text, because no
    /// old mail follows it.
    fn is_narrated(&self, at: usize, end: usize) -> bool {
        self.kinds[at] != LineKind::Attribution
            && self.unquoted_at(end)
            && self
                .next_filled(end)
                .is_some_and(|next| self.kinds[next] == LineKind::Text)
    }

    /// A separator or a header block at `at`: its start, the line after it, and the method.
    fn whole_mail(&mut self, at: usize) -> Option<(usize, usize, Method)> {
        let next = self.next_filled(at + 1);
        let header_follows =
            next.is_some_and(|next| quotes::header(&self.lines[next].fold).is_some());
        let ruled_off = self.ruled_off(at);
        if let Some(separator) =
            quotes::separator(&self.lines[at], &self.context.marker, header_follows)
        {
            let end = next
                .filter(|_| header_follows)
                .and_then(|next| quotes::header_block(self.lines, next, true, "").ok())
                .unwrap_or(at + 1);
            let method = match separator {
                MailSeparator::Marker => Method::Marker,
                MailSeparator::Forwarded => Method::Forward,
                MailSeparator::Original => Method::HeaderBlock,
            };
            return Some((at, end, method));
        }
        let end = self
            .unlisted_separator(at, next)
            .or_else(|| self.header_block(at, ruled_off))?;
        let method = if self.context.forward {
            Method::Forward
        } else {
            Method::HeaderBlock
        };
        Some((at, end, method))
    }

    /// The end of the header block below a rule with unknown words, if one is at `at`.
    fn unlisted_separator(&self, at: usize, next: Option<usize>) -> Option<usize> {
        let line = &self.lines[at];
        let next = next.filter(|_| !line.code && quotes::is_ruled_words(&line.fold))?;
        quotes::header_block(self.lines, next, true, "").ok()
    }

    /// The line after the header block that begins at `at`.
    fn header_block(&mut self, at: usize, ruled_off: bool) -> Option<usize> {
        if at < self.no_header_above && !ruled_off {
            return None;
        }
        // Any later part of a block that has too little evidence has even less.
        let found = quotes::header_block(self.lines, at, ruled_off, &self.context.subject);
        found.map_err(|end| self.no_header_above = end).ok()
    }

    fn attribution_at(&self, at: usize, floor: usize) -> Option<(Range<usize>, bool)> {
        if self.kinds[at] == LineKind::Attribution {
            let end = (at..self.lines.len())
                .find(|end| !matches!(self.kinds[*end], LineKind::Attribution | LineKind::Blank))
                .unwrap_or(self.lines.len());
            return Some((at..end, true));
        }
        let found = self.attribution_above(at, floor)?;
        Some((found.first..found.last + 1, found.certain))
    }

    /// The attribution that ends with line `last`.
    pub(super) fn attribution_above(&self, last: usize, floor: usize) -> Option<Attribution> {
        let left = self.candidates.get();
        if left == 0 || !attribution::is_candidate(self.lines, last, floor) {
            return None;
        }
        self.candidates.set(left - 1);
        attribution::attribution(self.lines, last, floor)
    }

    /// True if a rule stands just above.
    fn ruled_off(&self, at: usize) -> bool {
        self.lines[..at]
            .iter()
            .rev()
            .take(3)
            .find(|line| !line.is_blank())
            .is_some_and(|line| quotes::is_rule(&line.fold))
    }

    pub(super) fn next_filled(&self, from: usize) -> Option<usize> {
        (from..self.lines.len())
            .take(6)
            .find(|at| !self.lines[*at].is_blank() || self.lines[*at].depth > 0)
    }

    fn quoted_at(&self, from: usize) -> bool {
        self.next_filled(from)
            .is_some_and(|at| self.lines[at].depth > 0)
    }

    /// True if unmarked text follows. The end of the mail is neither marked nor unmarked.
    fn unquoted_at(&self, from: usize) -> bool {
        self.next_filled(from)
            .is_some_and(|at| self.lines[at].depth == 0 && !shapes::is_barred(&self.lines[at].fold))
    }

    pub(super) fn attribute(&mut self, range: Range<usize>) {
        for at in range {
            if self.kinds[at] == LineKind::Text {
                self.kinds[at] = LineKind::Attribution;
            }
        }
    }

    /// Some mailers mark quotes with bars or initials ("AS> "), which count only below an attribution.
    pub(super) fn barred_quotes(&mut self, from: usize) {
        let Some(first) = self.next_filled(from) else {
            return;
        };
        for at in first..self.lines.len() {
            if !shapes::is_barred(&self.lines[at].fold) {
                break;
            }
            self.lines[at].depth = 1;
            self.kinds[at] = LineKind::Quote;
        }
    }

    pub(super) fn note_evidence(&mut self, method: Method, confidence: Confidence) {
        if self.method == Method::None {
            self.method = method;
            self.confidence = confidence;
        }
    }

    /// Marks all lines from `head` on as old mail; `head` is its introduction.
    pub(super) fn cut_at(&mut self, head: Range<usize>, own: bool, method: Method) {
        if !own {
            // Without text above, the old mail is the content of this mail.
            self.forwarded |= method != Method::Marker;
            if self.forwarded {
                self.note_evidence(method, Confidence::Medium);
                return;
            }
        }
        self.note_evidence(method, Confidence::High);
        let mut from = head.start;
        while from > 0 {
            let above = &self.lines[from - 1];
            if !(above.is_blank() && above.depth == 0 || quotes::is_rule(&above.fold)) {
                break;
            }
            from -= 1;
        }
        if method == Method::Marker {
            from = self.dated_above(from).unwrap_or(from);
        }
        self.old_mail_from = Some(from);
        for at in from..self.lines.len() {
            if self.kinds[at] != LineKind::Blank {
                self.kinds[at] = if at < head.end {
                    LineKind::Attribution
                } else {
                    LineKind::Quote
                };
            }
        }
    }

    /// The paragraph above `from` if it has a date or an address: an attribution in unknown words.
    pub(super) fn dated_above(&self, from: usize) -> Option<usize> {
        let last = (0..from)
            .rev()
            .take(3)
            .find(|at| !self.lines[*at].is_blank())?;
        let first = (0..=last)
            .rev()
            .take(4)
            .take_while(|at| !self.lines[*at].is_blank() && self.kinds[*at] == LineKind::Text)
            .last()?;
        let joined = self.lines[first..=last]
            .iter()
            .map(|line| line.fold.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        let short = joined.chars().count() <= 300;
        (short && first > 0 && shapes::is_dated(&joined)).then_some(first)
    }

    /// Quote marks above the attribution are the person's: programs write theirs below it.
    fn marks_of_author(&mut self) {
        let attributed = self
            .kinds
            .iter()
            .position(|kind| *kind == LineKind::Attribution);
        let Some(end) = self.old_mail_from.into_iter().chain(attributed).min() else {
            return;
        };
        let Some(first) = self.kinds[..end]
            .iter()
            .position(|kind| *kind == LineKind::Text)
        else {
            return;
        };
        for at in first..end {
            let line = &self.lines[at];
            if line.depth > 0
                && !line.is_blank()
                && line.mark == LineMark::None
                && !self.known.lines[at]
            {
                self.kinds[at] = LineKind::Text;
            }
        }
    }

    /// Marks a word or two, or a link, that rewrapping moved out of a quoted line.
    fn wrapped_remnants(&mut self) {
        for at in 1..self.lines.len().saturating_sub(1) {
            let line = &self.lines[at];
            if self.kinds[at] != LineKind::Text
                || self.lines[at - 1].depth == 0
                || self.lines[at + 1].depth == 0
            {
                continue;
            }
            let rest = self.lines[at - 1].raw.chars().count() >= 60
                && line.words() <= 4
                && line.fold.chars().count() <= 30;
            let link = line.words() == 1 && line.fold.contains("://");
            if rest || link {
                self.kinds[at] = LineKind::Quote;
            }
        }
    }
}
