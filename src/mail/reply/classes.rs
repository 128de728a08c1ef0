//! Owns the final class of each line after the quotes are found: kept, quoted, signature.
//!
//! Every line gets exactly one class, so none is lost. Does not look for quotes.

use std::ops::Range;

use super::card;
use super::cut::{Cut, Cutter, LineClass, LineKind};
use super::languages::SEE_BELOW;
use super::quotes::{self, MailSeparator};
use super::signature;
use super::text::LineMark;
use super::{Confidence, Method};

impl Cutter<'_> {
    /// Decides the classes.
    pub(super) fn finish(mut self) -> Cut {
        let count = self.lines.len();
        let mut gone = vec![false; count];
        for zone in self.zones() {
            signature::mark_signatures(self.lines, zone, &mut gone);
        }
        self.lone_quote_mark(&gone);
        let mut fates: Vec<LineClass> = (0..count)
            .map(|at| match self.kinds[at] {
                LineKind::Quote | LineKind::Attribution | LineKind::Banner => LineClass::Quoted,
                LineKind::Blank | LineKind::Text if gone[at] => LineClass::Signature,
                LineKind::Blank | LineKind::Text => LineClass::Text,
            })
            .collect();
        if self.forwarded {
            return self.whole(Confidence::Medium);
        }
        let mut unmarked = vec![false; count];
        self.keep_answered(&mut fates, &mut unmarked);
        if self.is_empty(&fates) && !self.typed_into_signature(&mut fates) {
            self.method = Method::FullBody;
            return self.whole(Confidence::Low);
        }
        self.name_evidence(&fates);
        Cut {
            classes: fates,
            method: self.method,
            confidence: self.confidence,
            unmarked,
            in_colour: self.in_colour,
        }
    }

    fn is_empty(&self, fates: &[LineClass]) -> bool {
        !(0..fates.len()).any(|at| fates[at] == LineClass::Text && !self.lines[at].is_blank())
    }

    /// Restores a signature that reads like a letter, if no other text is left: some people answer inside
    /// their signature, begin with dashes or ask about a footer.
    fn typed_into_signature(&mut self, fates: &mut [LineClass]) -> bool {
        if !fates.contains(&LineClass::Quoted) {
            return false;
        }
        let signed = |at: &usize| fates[*at] == LineClass::Signature;
        let marked = |at: &usize| self.lines[*at].mark == LineMark::Signature;
        let (inside, below): (Vec<usize>, Vec<usize>) =
            (0..fates.len()).filter(signed).partition(marked);
        let prose = |at: &usize| card::is_prose(&self.lines[*at].fold);
        let own = |at: &usize| signature::is_own_prose(&self.lines[*at].fold);
        let is_inside = inside.iter().any(prose);
        if !is_inside && !below.iter().any(own) {
            return false;
        }
        for at in if is_inside { inside } else { below } {
            fates[at] = LineClass::Text;
        }
        if is_inside {
            self.note_evidence(Method::HtmlStructure, Confidence::Low);
        } else {
            self.name_evidence(fates);
        }
        self.confidence = Confidence::Low;
        true
    }

    fn whole(&self, confidence: Confidence) -> Cut {
        Cut {
            classes: vec![LineClass::Text; self.lines.len()],
            method: match self.method {
                Method::Forward => Method::Forward,
                _ => Method::FullBody,
            },
            confidence,
            unmarked: vec![false; self.lines.len()],
            in_colour: false,
        }
    }

    /// Runs of lines without quotes.
    fn zones(&self) -> Vec<Range<usize>> {
        let mut zones = Vec::new();
        let mut start = None;
        for at in 0..=self.lines.len() {
            let own =
                at < self.lines.len() && matches!(self.kinds[at], LineKind::Text | LineKind::Blank);
            match (own, start) {
                (true, None) => start = Some(at),
                (false, Some(from)) => {
                    zones.push(from..at);
                    start = None;
                }
                _ => {}
            }
        }
        zones
    }

    /// A single `>` line just below a person's line, before any other quote, is the person's text.
    fn lone_quote_mark(&mut self, gone: &[bool]) {
        let is_quote = |kinds: &[LineKind], at: usize| {
            kinds
                .get(at)
                .is_some_and(|kind| matches!(kind, LineKind::Quote | LineKind::Attribution))
        };
        let Some(only) = (0..self.lines.len()).find(|at| is_quote(&self.kinds, *at)) else {
            return;
        };
        let above = only.checked_sub(1);
        if self.lines[only].depth == 1
            && self.lines[only].mark == LineMark::None
            && !self.lines[only].is_blank()
            && !self.known.lines[only]
            && self.old_mail_from.is_none_or(|hard| only < hard)
            && !is_quote(&self.kinds, only + 1)
            && above.is_some_and(|above| self.kinds[above] == LineKind::Text && !gone[above])
        {
            self.kinds[only] = LineKind::Text;
        }
    }

    /// Keeps the quotes that have an answer below them.
    fn keep_answered(&mut self, fates: &mut [LineClass], unmarked: &mut [bool]) {
        let own: Vec<usize> = (0..self.lines.len())
            .filter(|at| fates[*at] == LineClass::Text && self.kinds[*at] == LineKind::Text)
            .collect();
        let (Some(first), Some(last)) = (own.first().copied(), own.last().copied()) else {
            return;
        };
        let is_quote =
            |at: &usize| matches!(self.kinds[*at], LineKind::Quote | LineKind::Attribution);
        let leading = (0..first).any(|at| is_quote(&at));
        let attributed = (0..first).any(|at| self.kinds[at] == LineKind::Attribution)
            || (0..first)
                .any(|at| self.lines[at].mark == LineMark::Quote && self.lines[at].depth == 0)
            || (0..first)
                .find(is_quote)
                .is_some_and(|at| self.attribution_in_quote(at) > at);
        let middle = (first..last).any(|at| is_quote(&at));
        let trailing = (last..self.lines.len()).any(|at| self.kinds[at] == LineKind::Quote);
        if !middle {
            if leading && (!attributed || trailing) {
                self.keep(0..first, fates, unmarked);
            }
            return;
        }
        if !leading && let Some(below) = self.single_answer(&own) {
            let above: Vec<usize> = own.iter().copied().filter(|at| *at < below).collect();
            let under: Vec<usize> = own.iter().copied().filter(|at| *at >= below).collect();
            if !self.invites_answers(&above) && card::is_residue(self.lines, &under) {
                for at in under {
                    fates[at] = LineClass::Signature;
                }
                return;
            }
        }
        self.keep(0..last, fates, unmarked);
    }

    /// The author's first line below the quote, if there is a single quote between the author's words.
    fn single_answer(&self, own: &[usize]) -> Option<usize> {
        let mut below = None;
        for pair in own.windows(2) {
            let between = pair[0] + 1..pair[1];
            if between
                .into_iter()
                .any(|at| self.kinds[at] == LineKind::Quote)
            {
                if below.is_some() {
                    return None;
                }
                below = Some(pair[1]);
            }
        }
        below
    }

    fn keep(&self, range: Range<usize>, fates: &mut [LineClass], unmarked: &mut [bool]) {
        let mut at = range.start;
        while at < range.end {
            let head = self.attribution_in_quote(at);
            if head > at {
                at = head;
                continue;
            }
            if self.kinds[at] == LineKind::Quote {
                fates[at] = LineClass::Text;
                unmarked[at] = self.lines[at].depth == 0;
            }
            at += 1;
        }
    }

    /// The line after the attribution, if the quote begins with one (Apple's programs write it there); else
    /// `at`.
    fn attribution_in_quote(&self, at: usize) -> usize {
        let begins = self.kinds[at] == LineKind::Quote
            && self.lines[at].depth > 0
            && (at == 0 || self.kinds[at - 1] != LineKind::Quote);
        if !begins {
            return at;
        }
        (at..self.lines.len())
            .take(3)
            .find(|last| {
                self.attribution_above(*last, at)
                    .is_some_and(|found| found.first == at)
            })
            .map_or(at, |last| {
                (last + 1..self.lines.len())
                    .find(|next| !self.lines[*next].is_blank())
                    .unwrap_or(last + 1)
            })
    }

    /// True for "Hi Bob," and "see my answers below", which announce answers between the quotes.
    pub(super) fn invites_answers(&self, above: &[usize]) -> bool {
        let greeting = above.len() <= 2
            && above.iter().all(|at| self.lines[*at].words() <= 4)
            && above
                .last()
                .is_some_and(|at| self.lines[*at].fold.ends_with([',', '!', ':', '、', '，']));
        greeting || self.announces_answers(above)
    }

    pub(super) fn announces_answers(&self, above: &[usize]) -> bool {
        above.len() <= 6
            && above.iter().any(|at| {
                let fold = &self.lines[*at].fold;
                fold.chars().count() <= 120
                    && SEE_BELOW.iter().any(|word| {
                        fold.split(|c: char| !c.is_alphanumeric() && c != '-')
                            .any(|w| w == *word)
                            || !word.is_ascii() && fold.contains(word)
                    })
            })
    }

    /// Sets the method and the confidence of the cut.
    fn name_evidence(&mut self, fates: &[LineClass]) {
        let count = self.lines.len();
        let gone =
            |at: &usize| fates[*at] == LineClass::Quoted && self.kinds[*at] != LineKind::Blank;
        let known = (0..count).any(|at| gone(&at) && self.known.lines[at]);
        if known && self.method != Method::Marker {
            self.method = Method::Known;
            self.confidence = Confidence::High;
            return;
        }
        let above: Vec<usize> = (0..self.old_mail_from.unwrap_or(0))
            .filter(|at| self.kinds[*at] == LineKind::Text)
            .collect();
        if !self.in_colour && !above.is_empty() && self.announces_answers(&above) {
            // Answers may be mixed into the old mail, where they cannot be recognised.
            self.confidence = Confidence::Low;
        }
        if self.in_colour {
            self.confidence = Confidence::Medium;
        }
        if self.method != Method::None {
            return;
        }
        let forwarded = (0..count).filter(gone).take(3).any(|at| {
            quotes::separator(&self.lines[at], &self.context.marker, false)
                == Some(MailSeparator::Forwarded)
        });
        if forwarded {
            self.method = Method::Forward;
            return;
        }
        let marked = |mark| (0..count).any(|at| gone(&at) && self.lines[at].mark == mark);
        let attributed = (0..count).any(|at| gone(&at) && self.kinds[at] == LineKind::Attribution);
        let quoted = (0..count).any(|at| gone(&at) && self.kinds[at] == LineKind::Quote);
        let signed = fates.contains(&LineClass::Signature);
        let kept =
            (0..count).any(|at| fates[at] == LineClass::Text && self.kinds[at] == LineKind::Quote);
        (self.method, self.confidence) = if marked(LineMark::Quote) || marked(LineMark::Attribution)
        {
            (Method::HtmlStructure, Confidence::High)
        } else if attributed {
            (Method::Attribution, Confidence::High)
        } else if quoted && self.quotes_whole_mail(fates) {
            (Method::HeaderBlock, Confidence::High)
        } else if quoted {
            (Method::QuotePrefix, Confidence::Medium)
        } else if signed {
            (Method::Signature, Confidence::Medium)
        } else {
            (Method::None, Confidence::High)
        };
        if kept && self.confidence == Confidence::High {
            self.confidence = Confidence::Medium;
        }
    }

    /// True if a quote that is cut begins with the header of a mail: people do not quote that by hand.
    fn quotes_whole_mail(&self, fates: &[LineClass]) -> bool {
        let begins = |at: &usize| {
            fates[*at] == LineClass::Quoted
                && self.lines[*at].depth > 0
                && (*at == 0 || self.lines[*at - 1].depth < self.lines[*at].depth)
        };
        (0..self.lines.len())
            .filter(begins)
            .take(8)
            .any(|at| quotes::header_block(self.lines, at, true, "").is_ok())
    }
}
