//! Owns the use of our own text found in a mail: where it is cut, and which lines between it are answers.
//!
//! Does not find the text; `known` does.

use super::Method;
use super::cut::{Cutter, LineKind};
use super::quotes;
use super::shapes;
use super::text::LineMark;

/// The number of words in a line that introduces our text.
const HEAD_WORDS_MAX: usize = 12;

impl Cutter<'_> {
    /// Marks a single line that ends with a colon and stands directly above our text, with nothing above
    /// it: it introduces the text in any language.
    pub(super) fn head_of_own_words(&mut self) {
        let head = (0..self.lines.len()).find(|at| !self.lines[*at].is_blank());
        let Some(head) = head.filter(|at| self.kinds[*at] == LineKind::Text) else {
            return;
        };
        let next = self.next_filled(head + 1);
        if next.is_some_and(|next| self.known.lines[next])
            && self.lines[head].fold.ends_with(':')
            && self.lines[head].words() <= HEAD_WORDS_MAX
        {
            self.attribute(head..head + 1);
        }
    }

    /// Cuts our text that stands without quote marks below the answer.
    pub(super) fn own_words_without_marks(&mut self) {
        if self.old_mail_from.is_some() {
            return;
        }
        let first = (0..self.lines.len()).find(|at| {
            self.known.lines[*at]
                && self.lines[*at].mark == LineMark::Quote
                && self.lines[*at].depth == 0
        });
        let Some(first) = first else { return };
        if shapes::is_barred(&self.lines[first].fold) {
            return self.barred_quotes(first);
        }
        let from = match self.dated_above(first) {
            Some(above) => {
                self.attribute(above..first);
                above
            }
            None => first,
        };
        let above: Vec<usize> = (0..from)
            .filter(|at| self.kinds[*at] == LineKind::Text)
            .collect();
        if above.is_empty() || self.invites_answers(&above) {
            return;
        }
        self.cut_at(from..first, true, Method::Known);
    }

    /// Keeps answers that a person wrote into our text: lines between ours, at the same depth, that are not
    /// ours. Below quote marks (where phones place the cursor) our whole text must be present. Text below
    /// it is earlier mail of the thread and no answer.
    pub(super) fn answers_between(&mut self) {
        let ours: Vec<usize> = (0..self.lines.len())
            .take_while(|at| self.known.repeated_from != Some(*at))
            .filter(|at| self.known.lines[*at])
            .collect();
        let (Some(first), Some(last)) = (ours.first().copied(), ours.last().copied()) else {
            return;
        };
        let depth = self.lines[first].depth;
        let sure = if depth == 0 {
            self.known.found_most && self.old_mail_from.is_some_and(|hard| hard <= first)
        } else {
            self.known.found_nearly_all
        };
        if !sure || ours.iter().any(|at| self.lines[*at].depth != depth) {
            return;
        }
        let mut at = first;
        while at < last {
            let end = (at..last)
                .find(|end| self.lines[*end].is_blank() || self.known.lines[*end])
                .unwrap_or(last);
            if end > at && (at..end).all(|at| self.is_answer(at, depth)) {
                for line in self.lines[at..end].iter_mut().filter(|line| line.depth > 0) {
                    line.unquote();
                }
                self.kinds[at..end].fill(LineKind::Text);
            }
            at = end + 1;
        }
    }

    pub(super) fn is_answer(&self, at: usize, depth: u8) -> bool {
        let fold = self.lines[at].fold.as_str();
        let link =
            fold.contains("://") || fold.starts_with(['[', '<', '|']) || fold.contains("cid:");
        !self.known.partly[at]
            && !link
            && !shapes::is_barred(fold)
            && self.lines[at].depth == depth
            && self.kinds[at] == LineKind::Quote
            && fold.chars().any(char::is_alphanumeric)
            && quotes::header(fold).is_none()
            && !quotes::is_rule(fold)
    }
}
