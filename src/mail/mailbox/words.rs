//! Owns the search for phrases in a text: whole words, in any case and script, in one pass.
//!
//! Knows nothing of rules.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// The number of words in a phrase, so that the search stays linear.
pub(super) const PHRASE_WORDS_MAX: usize = 16;

/// Phrases, each with a number.
#[derive(Clone, Debug, Default)]
pub(super) struct PhraseIndex {
    numbers: HashMap<String, usize>,
    /// The first words of the phrases, each with the number of words in its longest phrase.
    longest: HashMap<String, usize>,
}

impl PhraseIndex {
    /// Adds a phrase and returns its number; equal phrases have the same number. `None` if it has no word,
    /// or more than [`PHRASE_WORDS_MAX`].
    pub(super) fn add(&mut self, phrase: &str) -> Option<usize> {
        let text = FoldedText::of(phrase);
        if text.words.is_empty() || text.words.len() > PHRASE_WORDS_MAX {
            return None;
        }
        let first = text.folded[text.words[0].clone()].to_owned();
        let longest = self.longest.entry(first).or_default();
        *longest = text.words.len().max(*longest);
        let next = self.numbers.len();
        Some(*self.numbers.entry(text.folded).or_insert(next))
    }

    /// The numbers of all phrases in `text`.
    pub(super) fn find(&self, text: &str) -> BTreeSet<usize> {
        let text = FoldedText::of(text);
        let mut found = BTreeSet::new();
        for (first, word) in text.words.iter().enumerate() {
            let Some(longest) = self.longest.get(&text.folded[word.clone()]) else {
                continue;
            };
            for last in text.words[first..].iter().take(*longest) {
                if let Some(number) = self.numbers.get(&text.folded[word.start..last.end]) {
                    found.insert(*number);
                }
            }
        }
        found
    }
}

/// A text as folded words with single spaces.
struct FoldedText {
    folded: String,
    words: Vec<Range<usize>>,
}

impl FoldedText {
    fn of(text: &str) -> Self {
        let mut folded = String::with_capacity(text.len());
        let mut words: Vec<Range<usize>> = Vec::with_capacity(text.len() / 8);
        let mut open = false;
        let mut previous = ' ';
        for c in text.chars() {
            let joins = is_joiner(c) && open && previous.is_alphanumeric();
            if !c.is_alphanumeric() && !is_mark(c) {
                // "don't" and "donʼt" are one word each; "rock'n" too, but not "'rock'".
                open = joins;
                previous = c;
                continue;
            }
            let alone = is_unspaced(c);
            if open && !alone && is_joiner(previous) {
                folded.push('\'');
            } else if (!open || alone) && !is_mark(c) {
                if !folded.is_empty() {
                    folded.push(' ');
                }
                words.push(folded.len()..folded.len());
            }
            fold(c, &mut folded);
            if let Some(word) = words.last_mut() {
                word.end = folded.len();
            }
            open = !alone;
            previous = c;
        }
        Self { folded, words }
    }
}

/// Simple case folding, with the two letters whose lower case depends on the position.
fn fold(c: char, folded: &mut String) {
    match c {
        c if c.is_ascii() => folded.push(c.to_ascii_lowercase()),
        'ß' | 'ẞ' => folded.push_str("ss"),
        'ς' => folded.push('σ'),
        // This combining dot exists only in the lower case of a Turkish letter.
        'İ' => folded.push('i'),
        '\u{ff01}'..='\u{ff5e}' => {
            let narrow = char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c);
            folded.extend(narrow.to_lowercase());
        }
        c => folded.extend(c.to_lowercase()),
    }
}

const fn is_joiner(c: char) -> bool {
    matches!(c, '\'' | '’' | 'ʼ' | '＇')
}

/// True for a mark that combines with the letter before it, in text that was not composed.
const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{64b}'..='\u{65f}' | '\u{200c}' | '\u{200d}'
        | '\u{900}'..='\u{903}' | '\u{93a}'..='\u{94f}' | '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}')
}

/// True for scripts without spaces between words: each character counts as a word, so that a phrase is
/// found at any position.
const fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(phrase: &str, text: &str) -> bool {
        let mut phrases = PhraseIndex::default();
        let number = phrases.add(phrase).unwrap();
        phrases.find(text).contains(&number)
    }

    #[test]
    fn only_whole_words_count() {
        assert!(has("art", "Art, for me"));
        assert!(has("art", "(art)"));
        assert!(!has("art", "I start my party"));
        assert!(has("cease and desist", "CEASE\n  and\tdesist!"));
        assert!(!has("cease and desist", "cease, and I desist"));
    }

    #[test]
    fn case_and_script_do_not_matter() {
        assert!(has("STRASSE", "die Straße"));
        assert!(has("οδος", "ΟΔΟΣ"));
        assert!(has("istanbul", "İSTANBUL"));
        assert!(has("урлоп", "УРЛОП"));
        assert!(has("著作権侵害", "これは著作権侵害です"));
        assert!(has("ｄｍｃａ", "DMCA"));
        assert!(has("don't", "DON’T"));
        assert!(!has("don", "don't"));
        assert!(has("rock", "'rock'"));
    }

    #[test]
    fn a_phrase_without_words_is_none() {
        let mut phrases = PhraseIndex::default();
        assert_eq!(phrases.add(" -- "), None);
        assert_eq!(phrases.add(&"a ".repeat(17)), None);
        assert_eq!(phrases.add("One"), phrases.add("one"));
    }
}
