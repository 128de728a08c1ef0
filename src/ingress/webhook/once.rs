//! Owns the words that are good for one mail only: each is bound to the first content it came with,
//! on disk before its mail is taken.
//!
//! Does not prove a word.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use ring::digest;

use super::law::Outcome;
use super::proof::Unproven;
use crate::clock::Timestamp;
use crate::store::{Fact, RecordError, Store};

/// Words that are kept in memory at most; the store has them all. It is more than there can be
/// requests at a time, so no word goes while it is being bound.
const WORDS_MAX: usize = 20_000;

/// A single-use word and the content it came with, both as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    word: [u8; 16],
    content: [u8; 16],
    until: Timestamp,
}

impl Once {
    /// After `until` the word is refused for its age.
    pub(super) fn new(provider: &str, word: &str, content: &[u8], until: Timestamp) -> Self {
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
            until,
        }
    }
}

/// The words that were seen.
#[derive(Debug, Default)]
pub(super) struct Used(Mutex<Words>);

#[derive(Debug, Default)]
struct Words {
    contents: HashMap<[u8; 16], Content>,
    order: VecDeque<[u8; 16]>,
}

#[derive(Clone, Copy, Debug)]
struct Content {
    digest: [u8; 16],
    on_disk: bool,
}

impl Used {
    /// Binds the word to its content: when this returns without an error that survives a crash. The
    /// same word with the same content is a retry and welcome.
    pub(super) async fn bind(&self, once: Once, store: &Store) -> Result<(), Outcome> {
        if self.claim(once, || store.spent(once.word))? {
            return Ok(());
        }
        let fact = Fact::Spent {
            word: once.word,
            content: once.content,
            until: once.until,
        };
        store.record(vec![fact]).await.map_err(|error| {
            Outcome::Later(match error {
                RecordError::Full => "no room now",
                RecordError::Dead => "the store has stopped",
            })
        })?;
        self.words().put(once, true);
        Ok(())
    }

    /// Claims the word in memory, where two requests at once meet. True if it is on the disk
    /// already.
    fn claim(
        &self,
        once: Once,
        stored: impl FnOnce() -> Option<[u8; 16]>,
    ) -> Result<bool, Outcome> {
        let mut words = self.words();
        let known = words.contents.get(&once.word).copied().or_else(|| {
            stored().map(|digest| Content {
                digest,
                on_disk: true,
            })
        });
        match known {
            Some(content) if content.digest != once.content => {
                Err(Outcome::Unproven(Unproven::Reused))
            }
            Some(content) if content.on_disk => Ok(true),
            Some(_) => Ok(false),
            None => {
                words.put(once, false);
                Ok(false)
            }
        }
    }

    fn words(&self) -> std::sync::MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    fn put(&mut self, once: Once, on_disk: bool) {
        let content = Content {
            digest: once.content,
            on_disk,
        };
        if self.contents.insert(once.word, content).is_none() {
            self.order.push_back(once.word);
        }
        if self.order.len() > WORDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.contents.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(word: &str, content: &str) -> Once {
        Once::new("p", word, content.as_bytes(), Timestamp::default())
    }

    #[test]
    fn a_word_is_good_for_one_content() {
        let used = Used::default();
        let reused = Err(Outcome::Unproven(Unproven::Reused));
        let claim = |word, content| used.claim(once(word, content), || None);
        assert_eq!(claim("a", "x"), Ok(false));
        assert_eq!(claim("a", "x"), Ok(false), "not on the disk yet");
        used.words().put(once("a", "x"), true);
        assert_eq!(claim("a", "x"), Ok(true));
        assert_eq!(claim("a", "y"), reused);
        let stored = || Some(once("b", "y").content);
        assert_eq!(used.claim(once("b", "y"), stored), Ok(true));
        assert_eq!(used.claim(once("b", "z"), stored), reused);
    }

    #[test]
    fn memory_is_bounded() {
        let used = Used::default();
        for n in 0..=WORDS_MAX {
            used.words().put(once(&n.to_string(), "x"), true);
        }
        assert_eq!(used.words().contents.len(), WORDS_MAX);
        assert_eq!(used.words().order.len(), WORDS_MAX);
    }
}
