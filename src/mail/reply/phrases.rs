//! Owns the search for many phrases at once: one pass over a line, however long the list is.
//!
//! Does not interpret the phrases.

use std::ops::{Deref, Range};
use std::sync::OnceLock;

use regex::Regex;

use super::fold::pattern;

/// A list of words and phrases, all folded.
pub(super) struct PhraseList {
    list: Vec<&'static str>,
    any: OnceLock<Regex>,
}

impl PhraseList {
    pub(super) fn new(list: Vec<&'static str>) -> Self {
        Self {
            list,
            any: OnceLock::new(),
        }
    }

    /// True if a phrase stands anywhere in `text`.
    pub(super) fn are_in(&self, text: &str) -> bool {
        self.any().is_match(text)
    }

    /// True if a phrase stands in `text` with no letter or digit on either side.
    pub(super) fn stand_in(&self, text: &str) -> bool {
        self.any_where(text, |place| is_apart(text, place))
    }

    /// True if a phrase stands in `text` at a place that `accepts` allows.
    pub(super) fn any_where(&self, text: &str, accepts: impl Fn(Range<usize>) -> bool) -> bool {
        let mut from = 0;
        while let Some(found) = self.any().find_at(text, from) {
            let (start, end) = (found.start(), found.end());
            let rest = &text[start..];
            if accepts(start..end) {
                return true;
            }
            let mut shorter = self.list.iter();
            if shorter.any(|word| {
                let end_of_it = start + word.len();
                end_of_it < end && rest.starts_with(word) && accepts(start..end_of_it)
            }) {
                return true;
            }
            from = start + rest.chars().next().map_or(1, char::len_utf8);
        }
        false
    }

    /// All phrases in one pattern, the longer ones first.
    fn any(&self) -> &Regex {
        self.any.get_or_init(|| {
            let mut words: Vec<String> = self.list.iter().map(|word| regex::escape(word)).collect();
            words.sort_by_key(|word| std::cmp::Reverse(word.len()));
            pattern(&words.join("|"))
        })
    }
}

impl Deref for PhraseList {
    type Target = [&'static str];

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

/// True if no letter or digit touches the text at `place`.
pub(super) fn is_apart(text: &str, place: Range<usize>) -> bool {
    let before = text[..place.start].chars().next_back();
    let after = text[place.end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_apart() {
        let words = PhraseList::new(vec!["wrote", "napisał", "napisał(a)", "a écrit"]);
        for text in [
            "he wrote:",
            "<a@b>wrote:",
            "napisał(a)",
            "napisał(axe",
            "x napisał",
            "ann a écrit :",
        ] {
            assert!(words.stand_in(text), "{text}");
        }
        for text in ["rewrote", "wroteup", "écrit", "", "wrotewrote"] {
            assert!(!words.stand_in(text), "{text}");
        }
        assert!(words.are_in("rewrote"));
    }
}
