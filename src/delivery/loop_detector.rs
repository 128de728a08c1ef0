//! Owns loop detection: two machines that answer each other are stopped after a few mails.
//!
//! Does not decide which mail is counted, nor what becomes of a mail that exceeds the limit. Its
//! memory ends with the process, since a loop is detected again soon enough.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::store::DeliveryId;

/// The most mails of machines from a sender into a thread within [`WINDOW`].
const MAILS_MAX: usize = 5;
/// The time over which mails are counted.
const WINDOW: Duration = Duration::from_secs(3600);
/// The most pairs of sender and thread that are tracked, at a few hundred bytes each. Of two pairs
/// in the same slot the older is forgotten.
const PAIRS_TRACKED_MAX: u64 = 4096;

/// Counts mails of machines by sender and thread.
#[derive(Debug, Default)]
pub(super) struct LoopDetector(Mutex<HashMap<u64, SenderThread>>);

#[derive(Debug)]
struct SenderThread {
    key: [u8; 16],
    counted: Vec<(Timestamp, Counted)>,
}

/// The unit that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Each mail counts.
    Mail(DeliveryId),
    /// All answers to the message sent at this time count once.
    Answer(Timestamp),
}

impl LoopDetector {
    /// Counts a mail that was received at `at`; false if the limit is exceeded. A mail that was
    /// admitted once is admitted in every further attempt.
    pub(super) fn admit(
        &self,
        sender: &str,
        thread: &str,
        counted: Counted,
        at: Timestamp,
    ) -> bool {
        let name = key_of(sender, thread);
        let [a, b, c, d, e, f, g, h, ..] = name;
        let slot = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % PAIRS_TRACKED_MAX;
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = pairs.entry(slot).or_insert_with(|| SenderThread::new(name));
        if pair.key != name {
            *pair = SenderThread::new(name);
        }
        if pair.counted.iter().any(|(_, seen)| *seen == counted) {
            return true;
        }
        // A mail that waited long counts among those it was received with.
        pair.counted
            .retain(|(seen, _)| at.since(*seen).max(seen.since(at)) < WINDOW);
        let room = pair.counted.len() < MAILS_MAX;
        if room {
            pair.counted.push((at, counted));
        }
        room
    }
}

impl SenderThread {
    const fn new(name: [u8; 16]) -> Self {
        Self {
            key: name,
            counted: Vec::new(),
        }
    }
}

fn key_of(sender: &str, thread: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update((sender.len() as u64).to_le_bytes());
    hash.update(sender);
    hash.update(thread);
    let mut name = [0; 16];
    name.copy_from_slice(&hash.finalize()[..16]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MailId;

    fn id(mail: u64) -> Counted {
        Counted::Mail(DeliveryId {
            mail: MailId(mail),
            recipient: 0,
        })
    }

    #[test]
    fn five_an_hour_and_each_once() {
        let breaker = LoopDetector::default();
        let begin = Timestamp::from_secs(1_000_000);
        let at = |n: u64| begin.plus(Duration::from_secs(n));
        for n in 0..5 {
            assert!(breaker.admit("a@x", "t", id(n), at(n)));
        }
        for n in 0..5 {
            assert!(breaker.admit("a@x", "t", id(n), at(n)), "another attempt");
        }
        assert!(!breaker.admit("a@x", "t", id(5), at(5)));
        assert!(breaker.admit("b@x", "t", id(6), at(6)), "another sender");
        assert!(breaker.admit("a@x", "u", id(7), at(7)), "another thread");
        assert!(!breaker.admit("a@x", "t", id(8), at(3599)));
        assert!(breaker.admit("a@x", "t", id(9), at(3600)));
        assert!(!breaker.admit("a@x", "t", id(10), at(3600)));
    }

    #[test]
    fn all_that_answers_one_mail_of_ours_counts_once() {
        let breaker = LoopDetector::default();
        let at = Timestamp::from_secs(1_000_000);
        let answers = |round| Counted::Answer(at.plus(Duration::from_secs(round)));
        for round in [0, 0, 0, 1, 1, 2, 3, 4, 0, 4] {
            assert!(breaker.admit("a@x", "t", answers(round), at));
        }
        assert!(!breaker.admit("a@x", "t", answers(5), at));
    }

    #[test]
    fn memory_is_bounded() {
        let breaker = LoopDetector::default();
        for n in 0..4 * PAIRS_TRACKED_MAX {
            assert!(breaker.admit(&n.to_string(), "t", id(n), Timestamp::default()));
        }
        let pairs = breaker.0.into_inner().unwrap();
        assert!(pairs.len() as u64 <= PAIRS_TRACKED_MAX);
        assert!(pairs.values().all(|pair| pair.counted.len() <= MAILS_MAX));
    }
}
