//! Owns the decision after a failed attempt, for incoming and outgoing mail: another attempt and its time,
//! or parking the mail for a person.
//!
//! Does not wait, draws no random number and knows neither mail nor HTTP.

use std::time::Duration;

use mail_parser::DateTime;

use crate::clock::Timestamp;

/// The lower bound of every wait, whatever is configured or requested.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// The bound on doublings, which every real limit reaches earlier: 2^32 milliseconds are 49 days.
const DOUBLINGS_MAX: u32 = 32;

/// The limits and the pace of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The wait after the first attempt; it doubles with each.
    pub wait_first: Duration,
    /// The upper bound of every wait.
    pub wait_max: Duration,
    /// The age at which a job is parked.
    pub max_age: Duration,
}

/// The failure of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// A failure that no further attempt would repair.
    Permanent {
        /// The reason, for the operator.
        reason: String,
    },
    /// A failure that may be temporary.
    Transient {
        /// The wait that the other side asked for (`Retry-After`).
        retry_after: Option<Duration>,
    },
}

/// The step after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Another attempt.
    Retry {
        /// The wait before it.
        after: Duration,
    },
    /// No more attempts: a person decides.
    Park {
        /// The reason.
        reason: String,
    },
}

/// Decides the step after a failed attempt.
///
/// `attempts` counts all attempts including this one; `age` is the time since the job was accepted;
/// `random` is any number, drawn anew each time.
///
/// The wait is drawn from the upper half of `wait_first` doubled with each attempt, up to `wait_max`, so
/// that jobs that failed together do not come back together. `retry_after` replaces it, with at least
/// `wait_first` (a peer that asks for 0 has failed all the same), at most `wait_max`, and up to a tenth
/// more than asked for. The last attempt is made at `max_age`; if it fails, the job is parked.
pub fn next_step(
    settings: &Settings,
    outcome: AttemptFailure,
    attempts: u32,
    age: Duration,
    random: u64,
) -> NextStep {
    let wish = match outcome {
        AttemptFailure::Permanent { reason } => return NextStep::Park { reason },
        AttemptFailure::Transient { retry_after: wish } => wish,
    };
    let left = settings.max_age.saturating_sub(age);
    if left < WAIT_MIN {
        let reason = format!("no success in {attempts} attempts and {}", in_words(age));
        return NextStep::Park { reason };
    }
    let shortest = settings.wait_first.max(WAIT_MIN);
    let longest = settings.wait_max.max(shortest);
    let after = match wish {
        Some(wish) => {
            let wish = wish.clamp(shortest, longest);
            wish + jitter(wish / 10, random)
        }
        None => {
            let doublings = attempts.saturating_sub(1).min(DOUBLINGS_MAX);
            let whole = shortest.saturating_mul(1 << doublings.min(31)).min(longest);
            whole / 2 + jitter(whole / 2, random)
        }
    };
    NextStep::Retry {
        after: after.clamp(WAIT_MIN, longest).min(left),
    }
}

/// The number of attempts with an unknown outcome after which a mail is not sent again.
pub const UNKNOWN_OUTCOMES_MAX: u32 = 3;
/// The number of attempts that one with an unknown outcome counts as when the wait is computed.
const UNKNOWN_OUTCOME_WEIGHT: u32 = 4;

/// The number of attempts to send an outgoing mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendAttempts {
    /// All attempts.
    pub attempts: u32,
    /// Attempts with an unknown outcome: each may have sent a copy.
    pub unknown_outcomes: u32,
}

/// The schedule of attempts for an outgoing mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendSchedule {
    /// The wait after the first attempt; it doubles with each.
    pub wait_first: Duration,
    /// The upper bound of the doubled wait.
    pub wait_max: Duration,
    /// The upper bound of attempts after the first; `None` leaves only the age.
    pub retries_max: Option<u32>,
}

impl SendSchedule {
    /// The longest possible wait, its random part included.
    pub fn longest_wait(&self) -> Duration {
        let longest = self.wait_max.max(self.wait_first).max(WAIT_MIN);
        longest + longest / 10
    }
}

/// The time from a failed attempt to send a mail until the next one, or `None` if the mail is given
/// up.
///
/// `tries` counts all attempts including this one; `left` is the time until the mail is given up; `random`
/// is any number, drawn anew each time. The wait is `wait_first` doubled with each attempt, up to
/// `wait_max`, and up to a tenth longer; an attempt with an unknown outcome counts as four more. The last
/// attempt is made when no time is left. After [`UNKNOWN_OUTCOMES_MAX`] attempts with an unknown outcome
/// there is no other, because each may have sent a copy.
pub fn next_send_after(
    patience: &SendSchedule,
    tries: SendAttempts,
    left: Duration,
    random: u64,
) -> Option<Duration> {
    let is_last = patience
        .retries_max
        .is_some_and(|most| tries.attempts > most);
    if is_last || tries.unknown_outcomes >= UNKNOWN_OUTCOMES_MAX || left < WAIT_MIN {
        return None;
    }
    let shortest = patience.wait_first.max(WAIT_MIN);
    let doublings = tries.attempts.saturating_sub(1);
    let doublings = doublings.saturating_add(tries.unknown_outcomes * UNKNOWN_OUTCOME_WEIGHT);
    let doublings = doublings.min(DOUBLINGS_MAX - 1);
    let whole = shortest.saturating_mul(1 << doublings);
    let whole = whole.min(patience.wait_max.max(shortest));
    Some((whole + jitter(whole / 10, random)).min(left))
}

/// A random part of `span`, between none and all of it, in proportion to `random`.
fn jitter(span: Duration, random: u64) -> Duration {
    let nanos = span.as_nanos().saturating_mul(u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn in_words(age: Duration) -> String {
    match age.as_secs() {
        secs if secs < 120 => format!("{secs} s"),
        secs if secs < 2 * 60 * 60 => format!("{} min", secs / 60),
        secs if secs < 2 * 24 * 60 * 60 => format!("{} h", secs / (60 * 60)),
        secs => format!("{} days", secs / (24 * 60 * 60)),
    }
}

/// The shortest wait that a `Retry-After` can ask for.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// The longest wait that a `Retry-After` can ask for: a longer one is probably a mistake.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The wait of a `Retry-After`: seconds or an HTTP date (RFC 9110 section 10.2.3), clamped.
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // A number with too many digits is still a long wait.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = DateTime::parse_rfc822(text).filter(DateTime::is_valid)?;
        let secs = u64::try_from(date.to_timestamp()).ok()?;
        Timestamp::from_secs(secs).since(now)
    };
    Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings {
        wait_first: Duration::from_secs(10),
        wait_max: Duration::from_secs(600),
        max_age: Duration::from_secs(5 * 24 * 60 * 60),
    };
    const YOUNG: Duration = Duration::from_secs(1);

    fn passing(wish: Option<u64>) -> AttemptFailure {
        AttemptFailure::Transient {
            retry_after: wish.map(Duration::from_secs),
        }
    }

    fn again(millis: u64) -> NextStep {
        NextStep::Retry {
            after: Duration::from_millis(millis),
        }
    }

    fn millis(next: &NextStep) -> u128 {
        match next {
            NextStep::Retry { after } => after.as_millis(),
            NextStep::Park { reason } => panic!("parked: {reason}"),
        }
    }

    #[test]
    fn retry_after_is_clamped() {
        let now = Timestamp::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let secs = |s| Some(Duration::from_secs(s));
        for (text, wait) in [
            ("0", secs(1)),
            ("7", secs(7)),
            (" 7 ", secs(7)),
            ("1000000000", secs(3600)),
            ("99999999999999999999999999", secs(3600)),
            ("1e9", None),
            ("-1", None),
            ("", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:50:07 GMT", secs(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", secs(1)),
            ("Sun, 06 Nov 2094 08:49:37 GMT", secs(3600)),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(parse_retry_after(text, now), wait, "{text}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        for (attempts, low, high) in [
            (0, 5_000, 10_000),
            (1, 5_000, 10_000),
            (2, 10_000, 20_000),
            (3, 20_000, 40_000),
            (6, 160_000, 320_000),
            (7, 300_000, 600_000),
            (40, 300_000, 600_000),
            (u32::MAX, 300_000, 600_000),
        ] {
            let at = |random| next_step(&SETTINGS, passing(None), attempts, YOUNG, random);
            assert_eq!(at(0), again(low), "{attempts}");
            let most = millis(&at(u64::MAX));
            assert!(
                (u128::from(high) - 1..=u128::from(high)).contains(&most),
                "{attempts}"
            );
            assert_eq!(at(1 << 63), again((low + high) / 2), "{attempts}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        for (wish, low, high) in [
            (0, 10_000, 11_000),
            (10, 10_000, 11_000),
            (100, 100_000, 110_000),
            (600, 600_000, 600_000),
            (1_000_000_000, 600_000, 600_000),
            (u64::MAX, 600_000, 600_000),
        ] {
            for attempts in [1, 20] {
                let at =
                    |random| next_step(&SETTINGS, passing(Some(wish)), attempts, YOUNG, random);
                assert_eq!(at(0), again(low), "{wish}");
                assert!(high - millis(&at(u64::MAX)) <= 1, "{wish}");
            }
        }
    }

    #[test]
    fn the_last_attempt_is_at_the_greatest_age() {
        let before = |millis| SETTINGS.max_age - Duration::from_millis(millis);
        for wish in [None, Some(0), Some(600)] {
            let at = |age| next_step(&SETTINGS, passing(wish), 50, age, 0);
            assert_eq!(at(before(1_000)), again(1_000));
            let parked = NextStep::Park {
                reason: "no success in 50 attempts and 5 days".to_owned(),
            };
            assert_eq!(at(SETTINGS.max_age), parked);
            assert!(matches!(at(before(1)), NextStep::Park { .. }));
            assert_eq!(at(SETTINGS.max_age + YOUNG), parked);
        }
    }

    #[test]
    fn permanent_failures_are_parked_at_once() {
        let reason = "422: body too long".to_owned();
        let outcome = AttemptFailure::Permanent {
            reason: reason.clone(),
        };
        assert_eq!(
            next_step(&SETTINGS, outcome, 1, YOUNG, 0),
            NextStep::Park { reason }
        );
    }

    const PATIENCE: SendSchedule = SendSchedule {
        wait_first: Duration::from_secs(1),
        wait_max: Duration::from_secs(3_600),
        retries_max: None,
    };
    const DAYS: Duration = Duration::from_secs(3 * 86_400);

    const fn sure(attempts: u32) -> SendAttempts {
        SendAttempts {
            attempts,
            unknown_outcomes: 0,
        }
    }

    #[test]
    fn outgoing_mail_waits_a_second_then_two_then_four_up_to_an_hour() {
        for (attempts, secs) in [(1, 1), (2, 2), (3, 4), (4, 8), (12, 2_048), (13, 3_600)] {
            let whole = Duration::from_secs(secs);
            assert_eq!(
                next_send_after(&PATIENCE, sure(attempts), DAYS, 0),
                Some(whole)
            );
            let most = next_send_after(&PATIENCE, sure(attempts), DAYS, u64::MAX).unwrap();
            assert!(most > whole && most <= whole + whole / 10, "{most:?}");
        }
        assert_eq!(
            next_send_after(&PATIENCE, sure(u32::MAX), DAYS, 0),
            Some(Duration::from_secs(3_600))
        );
    }

    #[test]
    fn each_doubt_lengthens_the_wait_and_the_third_is_the_last() {
        let after = |attempts, doubts| {
            next_send_after(
                &PATIENCE,
                SendAttempts {
                    attempts,
                    unknown_outcomes: doubts,
                },
                DAYS,
                0,
            )
            .map(|wait| wait.as_secs())
        };
        assert_eq!(after(1, 1), Some(16));
        assert_eq!(after(2, 2), Some(512));
        assert_eq!(after(9, 2), Some(3_600));
        assert_eq!(after(3, 3), None);
        assert_eq!(after(3, u32::MAX), None);
    }

    #[test]
    fn outgoing_mail_is_given_up_by_age_or_by_count() {
        let short = Duration::from_secs(5);
        assert_eq!(next_send_after(&PATIENCE, sure(9), short, 0), Some(short));
        assert_eq!(next_send_after(&PATIENCE, sure(1), Duration::ZERO, 0), None);
        let classic = SendSchedule {
            retries_max: Some(3),
            ..PATIENCE
        };
        let waits: Vec<_> = (1..9)
            .map_while(|attempts| next_send_after(&classic, sure(attempts), DAYS, 0))
            .map(|wait| wait.as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4]);
    }

    proptest! {
        #[test]
        fn no_mail_retries_too_fast_or_too_long(
            first in 0u64..10_000, most in 0u64..10_000_000, retries_max: Option<u32>,
            attempts: u32, unknown_outcomes: u32, left in 0u64..2_000_000_000, random: u64,
        ) {
            let patience = SendSchedule {
                wait_first: Duration::from_millis(first),
                wait_max: Duration::from_millis(most),
                retries_max,
            };
            let left = Duration::from_millis(left);
            if let Some(wait) = next_send_after(&patience, SendAttempts { attempts, unknown_outcomes }, left, random) {
                prop_assert!(wait >= WAIT_MIN && wait <= left && wait <= patience.longest_wait());
            }
        }

        #[test]
        fn no_job_retries_too_fast_or_too_long(
            first in 0u64..10_000, most in 0u64..10_000_000, max_age in 0u64..1_000_000_000,
            wish in proptest::option::of(any::<u64>()),
            attempts: u32, age in 0u64..2_000_000_000, random: u64,
        ) {
            let settings = Settings {
                wait_first: Duration::from_millis(first),
                wait_max: Duration::from_millis(most),
                max_age: Duration::from_millis(max_age),
            };
            let age = Duration::from_millis(age);
            if let NextStep::Retry { after } = next_step(&settings, passing(wish), attempts, age, random) {
                prop_assert!(after >= WAIT_MIN);
                prop_assert!(age + after <= settings.max_age);
                prop_assert!(after <= settings.wait_max.max(settings.wait_first).max(WAIT_MIN));
            }
        }
    }
}
