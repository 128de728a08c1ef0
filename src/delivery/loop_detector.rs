//! Owns loop detection: two machines that answer each other are stopped after a few mails.
//!
//! Does not decide which mail is counted, nor the treatment of a mail above the limit. The counts end with
//! the process, because a loop is soon detected again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::store::DeliveryId;

/// The maximum number of machines' mails from a sender into a thread within [`WINDOW`].
const MAILS_MAX: usize = 5;
/// The time over which mails are counted.
const WINDOW: Duration = Duration::from_secs(3600);
/// The maximum number of tracked pairs of sender and thread, at a few hundred bytes each. Of two pairs in
/// the same slot the older is dropped.
const PAIRS_TRACKED_MAX: u64 = 4096;

/// The length in bytes of a text that people do not repeat by chance.
const LONG_WORDS_BYTES_MIN: usize = 32;
/// The delay within which repeated short texts count too.
const SOON: Duration = Duration::from_secs(60);
/// The delay within which any text counts.
const AT_ONCE: Duration = Duration::from_secs(10);
/// The sign of an answer within [`AT_ONCE`].
const AT_ONCE_SIGN: &str = "at once";
/// The maximum number of answers at once within [`WINDOW`]: a person who tests by hand sends a few.
const AT_ONCE_MAX: usize = 20;

/// Counts machines' mails by sender and thread, within one process: two processes stop a loop after twice as
/// many mails.
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
    /// Counts a mail that was received at `at`; false above the limit. A mail that was admitted once is
    /// admitted in every further attempt.
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
        // A mail that waited long counts in the window of its reception.
        pair.counted
            .retain(|(seen, _)| at.since(*seen).max(seen.since(at)) < WINDOW);
        let most = match thread.ends_with(AT_ONCE_SIGN) {
            true => AT_ONCE_MAX,
            false => MAILS_MAX,
        };
        let room = pair.counted.len() < most;
        if room {
            pair.counted.push((at, counted));
        }
        room
    }
}

/// The signs that an answer to our mail, `delay` after it, may come from a robot without telling header
/// fields; more than five of one sign in an hour are a loop, or twenty at once. `words` are those of a mail
/// without files.
///
/// Repeated text, apart from its numbers, is a sign if it is long or comes soon: people answer "thank you"
/// to everything. Any text within seconds is a sign too, because people do not write so fast repeatedly.
pub(super) fn robot_signs(
    words: Option<&str>,
    delay: Duration,
) -> impl Iterator<Item = String> + use<> {
    let is_telling = |folded: &String| folded.len() >= LONG_WORDS_BYTES_MIN || delay < SOON;
    let same = words
        .map(folded_words)
        .filter(|folded| !folded.is_empty())
        .filter(is_telling);
    let quick = (delay < AT_ONCE).then(|| AT_ONCE_SIGN.to_owned());
    let same = same.map(|folded| format!("words {folded}"));
    same.into_iter().chain(quick)
}

/// The words in lower case with single spaces, each number made `0`.
fn folded_words(words: &str) -> String {
    let mut folded = String::with_capacity(words.len());
    for c in words.chars() {
        let c = match c {
            c if c.is_whitespace() => ' ',
            c if c.is_numeric() => '0',
            c => c,
        };
        if !(matches!(c, ' ' | '0') && folded.ends_with(c)) {
            folded.extend(c.to_lowercase());
        }
    }
    folded.trim().to_owned()
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
    fn five_mails_an_hour_are_admitted_each_once() {
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
    fn all_answers_to_one_mail_count_once() {
        let breaker = LoopDetector::default();
        let at = Timestamp::from_secs(1_000_000);
        let answers = |round| Counted::Answer(at.plus(Duration::from_secs(round)));
        for round in [0, 0, 0, 1, 1, 2, 3, 4, 0, 4] {
            assert!(breaker.admit("a@x", "t", answers(round), at));
        }
        assert!(!breaker.admit("a@x", "t", answers(5), at));
    }

    #[test]
    fn robots_without_a_header_field_are_found() {
        let rounds = |words: &dyn Fn(u64) -> String, delay: u64| {
            let breaker = LoopDetector::default();
            let begin = Timestamp::from_secs(1_000_000);
            let admitted = (0..30).filter(|round| {
                let said_at = begin.plus(Duration::from_secs(round * 120));
                let at = said_at.plus(Duration::from_secs(delay));
                let counted = Counted::Answer(said_at);
                let signs = robot_signs(Some(&words(*round)), Duration::from_secs(delay));
                let admit = |sign: String| breaker.admit("a@x", &sign, counted, at);
                signs.map(admit).fold(true, |all, admitted| all & admitted)
            });
            admitted.count()
        };
        let ticket = |n: u64| format!("Your ticket is #{}, we will be in touch.", 1001 + n);
        let thanks = |_| "Got it, thanks!".to_owned();
        let varied = |n: u64| "x".repeat(usize::try_from(n).unwrap() + 1);
        assert_eq!(rounds(&ticket, 90), 5, "numbers are folded");
        assert_eq!(rounds(&thanks, 30), 5, "short words, soon");
        assert_eq!(rounds(&varied, 3), 20, "any words, at once");
        assert_eq!(rounds(&thanks, 90), 30, "a person's thanks");
        assert_eq!(rounds(&varied, 30), 30, "a person's answers");
    }

    #[test]
    fn memory_is_bounded() {
        let breaker = LoopDetector::default();
        for n in 0..4 * PAIRS_TRACKED_MAX {
            assert!(breaker.admit(&n.to_string(), "t", id(n), Timestamp::default()));
        }
        let pairs = breaker.0.into_inner().unwrap();
        assert!(pairs.len() as u64 <= PAIRS_TRACKED_MAX);
        assert!(pairs.values().all(|pair| pair.counted.len() <= AT_ONCE_MAX));
    }
}
