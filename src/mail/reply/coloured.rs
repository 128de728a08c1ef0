//! Owns answers that only a mark distinguishes from the old mail: another colour, or the initials of each
//! author.
//!
//! Does not trust a colour unless the person announces answers, or initials outside a run of such lines.

use super::cut::{Cutter, LineKind};
use super::languages::COLOURS;
use super::quotes;
use super::shapes;

/// The minimum number of lines with one person's initials that count as a quote.
const INITIALLED_MIN: usize = 2;
/// Prompts of consoles, because people paste console output.
const PROMPTS: [&str; 8] = ["sql", "ps", "c", "d", "cmd", "dos", "irb", "gdb"];

impl Cutter<'_> {
    /// Finds answers in another colour within old mail without quote marks, if the text above announces them.
    pub(super) fn answers_in_colour(&mut self) {
        let Some(from) = self.old_mail_from else {
            return;
        };
        let above: Vec<usize> = (0..from)
            .filter(|at| self.kinds[*at] == LineKind::Text)
            .collect();
        if above.is_empty() || !(self.announces_answers(&above) || self.announces_colour(&above)) {
            return;
        }
        let first = (from..self.lines.len())
            .find(|at| self.kinds[*at] == LineKind::Quote && !self.lines[*at].is_blank());
        let Some(first) = first else { return };
        let end = self.older_mail(first);
        let depth = self.lines[first].depth;
        let old: Vec<usize> = (first..end)
            .filter(|at| !self.lines[*at].is_blank() && self.kinds[*at] == LineKind::Quote)
            .collect();
        let is_answer = |at: &usize| self.lines[*at].coloured && self.is_answer(*at, depth);
        let answers: Vec<usize> = old.iter().copied().filter(is_answer).collect();
        // If the whole mail is in colour, the colour distinguishes nothing.
        if answers.is_empty() || answers.len() * 4 > old.len() * 3 {
            return;
        }
        for at in answers {
            if self.lines[at].depth > 0 {
                self.lines[at].unquote();
            }
            self.kinds[at] = LineKind::Text;
        }
        self.in_colour = true;
    }

    /// The line at which a still older mail begins below `first`.
    fn older_mail(&self, first: usize) -> usize {
        let begins = |at: &usize| {
            let line = &self.lines[*at];
            quotes::separator(line, &self.context.marker, false).is_some()
                || line.fold.contains(':')
                    && quotes::header_block(self.lines, *at, false, "").is_ok()
        };
        let is_head = |at: &usize| {
            let line = &self.lines[*at];
            line.is_blank() || quotes::is_rule(&line.fold) || quotes::header(&line.fold).is_some()
        };
        let body = (first..self.lines.len()).find(|at| !is_head(at));
        (body.unwrap_or(first) + 1..self.lines.len())
            .find(begins)
            .unwrap_or(self.lines.len())
    }

    fn announces_colour(&self, above: &[usize]) -> bool {
        above.len() <= 8
            && above.iter().any(|at| {
                let fold = &self.lines[*at].fold;
                fold.chars().count() <= 120 && COLOURS.stand_in(fold)
                    || COLOURS.any_where(fold, |place| !fold[place].is_ascii())
            })
    }

    /// Finds quotes that only initials mark, without an attribution above them.
    pub(super) fn initialled_quotes(&mut self) {
        let mut at = 0;
        while at < self.lines.len() {
            let Some(initials) = self.initials(at) else {
                at += 1;
                continue;
            };
            let end = (at..self.lines.len())
                .find(|line| self.initials(*line).as_deref() != Some(initials.as_str()))
                .unwrap_or(self.lines.len());
            let has_words = (0..at).any(|line| self.kinds[line] == LineKind::Text);
            if end - at >= INITIALLED_MIN && has_words {
                for line in at..end {
                    self.lines[line].depth = 1;
                    self.kinds[line] = LineKind::Quote;
                }
            }
            at = end;
        }
    }

    /// The initials at the beginning of a quote's line: `AB> `.
    fn initials(&self, at: usize) -> Option<String> {
        let line = &self.lines[at];
        if self.kinds[at] != LineKind::Text || line.code || !shapes::is_barred(&line.fold) {
            return None;
        }
        let (initials, rest) = line.raw.trim_start().split_once('>')?;
        let is_upper = !initials.is_empty() && initials.chars().all(char::is_uppercase);
        let initials = initials.to_lowercase();
        let is_prompt = PROMPTS.contains(&initials.as_str()) && !rest.trim_start().contains('>');
        (is_upper && !is_prompt).then_some(initials)
    }
}
