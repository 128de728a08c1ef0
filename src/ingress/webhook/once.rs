//! Owns the memory of words that are good for one mail only.
//!
//! Does not outlive the process: after a restart a word counts as new until its time is over.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ring::digest;

use super::proof::Unproven;
use crate::clock::Timestamp;

/// Words that are remembered at most. Beyond, the oldest is forgotten: mail is not lost over it.
const WORDS_MAX: usize = 200_000;

/// A single-use word and the content it came with, both as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    word: [u8; 16],
    content: [u8; 16],
}

impl Once {
    pub(super) fn new(provider: &str, word: &str, content: &[u8]) -> Self {
        let short = |parts: &[&[u8]]| {
            let mut context = digest::Context::new(&digest::SHA256);
            for part in parts {
                context.update(part);
                context.update(&[0]);
            }
            let whole = context.finish();
            std::array::from_fn(|at| whole.as_ref()[at])
        };
        Self {
            word: short(&[provider.as_bytes(), word.as_bytes()]),
            content: short(&[content]),
        }
    }
}

/// The words that were seen.
#[derive(Debug, Default)]
pub(super) struct Used(Mutex<Words>);

#[derive(Debug, Default)]
struct Words {
    contents: HashMap<[u8; 16], [u8; 16]>,
    order: VecDeque<(Timestamp, [u8; 16])>,
}

impl Used {
    /// Binds the word to its content. The same word with the same content is a retry and welcome.
    pub(super) fn bind(&self, once: Once, now: Timestamp, kept: Duration) -> Result<(), Unproven> {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((at, word)) = words.order.front().copied() {
            if now.since(at) <= kept && words.order.len() < WORDS_MAX {
                break;
            }
            words.order.pop_front();
            words.contents.remove(&word);
        }
        match words.contents.get(&once.word) {
            Some(content) if *content == once.content => Ok(()),
            Some(_) => Err(Unproven::Reused),
            None => {
                words.contents.insert(once.word, once.content);
                words.order.push_back((now, once.word));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_good_for_one_content() {
        let used = Used::default();
        let kept = Duration::from_secs(10);
        let bind = |word, content: &str, at| {
            let once = Once::new("p", word, content.as_bytes());
            used.bind(once, Timestamp::from_secs(at), kept)
        };
        assert_eq!(bind("a", "x", 100), Ok(()));
        assert_eq!(bind("a", "x", 101), Ok(()));
        assert_eq!(bind("a", "y", 102), Err(Unproven::Reused));
        assert_eq!(bind("b", "y", 102), Ok(()));
        assert_eq!(bind("a", "y", 111), Ok(()));
        assert_eq!(bind("b", "z", 111), Err(Unproven::Reused));
        assert_eq!(used.0.lock().unwrap().contents.len(), 2);
    }
}
