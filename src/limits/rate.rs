//! Owns the rate limiter: the events a second that are allowed for one key, and for all keys together
//! (GCRA, the generic cell rate algorithm of ITU-T I.371).
//!
//! Does not wait and reads no clock: the time is an argument.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A rate, with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Events a second; zero counts as one.
    pub per_second: u32,
    /// Events that may come at once after a pause; zero counts as one.
    pub burst: u32,
}

impl Rate {
    /// A rate whose burst is the events of one second.
    pub const fn per_second(events: u32) -> Self {
        Self {
            per_second: events,
            burst: events,
        }
    }

    fn step(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// The rate that an event exceeds, and the time from which another one may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateExceeded {
    /// The rate of all keys together.
    All(Instant),
    /// The rate of the event's key.
    Key(Instant),
}

/// Counts events by key and in total. At most `keys_max` keys are remembered; idle keys are forgotten
/// first, and an event whose key finds no place counts only against the total rate.
#[derive(Debug)]
pub struct RateLimiter<K> {
    all: Rate,
    each: Rate,
    keys_max: usize,
    all_bucket: Bucket,
    buckets: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> RateLimiter<K> {
    /// A limiter without any events.
    pub fn new(all: Rate, each: Rate, keys_max: usize) -> Self {
        Self {
            all,
            each,
            keys_max,
            all_bucket: Bucket::default(),
            buckets: HashMap::new(),
        }
    }

    /// Counts an event if it is allowed, or returns the rate that it exceeds. Without a key only the total
    /// rate applies.
    ///
    /// # Errors
    /// The event exceeds a rate, and was not counted.
    pub fn try_acquire<Q>(&mut self, key: Option<&Q>, now: Instant) -> Result<(), RateExceeded>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let all = self.all_bucket.ready(self.all, now);
        all.map_err(RateExceeded::All)?;
        if let Some(key) = key {
            let is_full = self.buckets.len() >= self.keys_max;
            if is_full && !self.buckets.contains_key(key) {
                self.buckets.retain(|_, bucket| !bucket.is_at_rest(now));
            }
            if self.buckets.len() < self.keys_max || self.buckets.contains_key(key) {
                let bucket = self.buckets.entry(key.to_owned()).or_default();
                bucket.ready(self.each, now).map_err(RateExceeded::Key)?;
                bucket.count(self.each, now);
            }
        }
        self.all_bucket.count(self.all, now);
        Ok(())
    }
}

/// The time at which the rate has caught up with the counted events; `None` before the first event.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    due: Option<Instant>,
}

impl Bucket {
    fn is_at_rest(self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// `Err` has the time from which the next event is allowed.
    fn ready(self, rate: Rate, now: Instant) -> Result<(), Instant> {
        let step = rate.step();
        let ahead = step * rate.burst.max(1);
        match self.due {
            Some(due) if due + step > now + ahead => Err(due + step - ahead),
            _ => Ok(()),
        }
    }

    fn count(&mut self, rate: Rate, now: Instant) {
        let from = self.due.map_or(now, |due| due.max(now));
        self.due = Some(from + rate.step());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const KEYS_MAX: usize = 1_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let now = Instant::now();
        let each = Rate {
            per_second: 10,
            burst: 3,
        };
        let all = Rate {
            per_second: 100,
            burst: 4,
        };
        let mut limiter = RateLimiter::new(all, each, KEYS_MAX);
        let [a, b] = [1, 2].map(|n| Some(IpAddr::from([192, 0, 2, n])));
        let mut passed = |key: Option<IpAddr>, at: u64, times| {
            let now = now + Duration::from_millis(at);
            (0..times)
                .filter(|_| limiter.try_acquire(key.as_ref(), now).is_ok())
                .count()
        };
        assert_eq!(passed(a, 0, 10), 3);
        assert_eq!(passed(b, 0, 10), 1, "all together have four");
        assert_eq!(passed(a, 100, 10), 1);
        assert_eq!(passed(None, 1000, 10), 4);
    }

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate() {
        let now = Instant::now();
        let (all, each) = (Rate::per_second(10), Rate::per_second(4));
        let mut limiter = RateLimiter::<String>::new(all, each, KEYS_MAX);
        let mut passed = |domain: &str, millis: u64, tries: usize| {
            let now = now + Duration::from_millis(millis);
            (0..tries)
                .filter(|_| limiter.try_acquire(Some(domain), now).is_ok())
                .count()
        };
        assert_eq!(passed("a.example", 0, 9), 4);
        assert_eq!(passed("b.example", 0, 9), 4);
        assert_eq!(passed("c.example", 0, 9), 2, "all together have ten");
        assert_eq!(passed("a.example", 250, 9), 1);
        assert_eq!(passed("c.example", 10_000, 9), 4);
    }

    #[test]
    fn keys_do_not_fill_the_memory() {
        let now = Instant::now();
        let (all, each) = (Rate::per_second(1_000_000), Rate::per_second(1));
        let mut limiter = RateLimiter::<String>::new(all, each, KEYS_MAX);
        for n in 0..2 * KEYS_MAX {
            let key = n.to_string();
            limiter.try_acquire(Some(key.as_str()), now).unwrap();
        }
        assert_eq!(limiter.buckets.len(), KEYS_MAX);
        let later = now + Duration::from_secs(2);
        limiter.try_acquire(Some("later"), later).unwrap();
        assert_eq!(limiter.buckets.len(), 1);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_twice_the_rate(
            all in 1u32..50, each in 1u32..50,
            asks in proptest::collection::vec((0u64..200, 0u8..3), 1..400),
        ) {
            let mut now = Instant::now();
            let rates = (Rate::per_second(all), Rate::per_second(each));
            let mut limiter = RateLimiter::<u8>::new(rates.0, rates.1, KEYS_MAX);
            let mut passed: Vec<(Instant, u8)> = Vec::new();
            for (wait, key) in asks {
                now += Duration::from_millis(wait);
                match limiter.try_acquire(Some(&key), now) {
                    Ok(()) => passed.push((now, key)),
                    Err(RateExceeded::All(then) | RateExceeded::Key(then)) => {
                        prop_assert!(then > now, "the time from which it passes is over");
                        prop_assert!(then <= now + Duration::from_secs(1));
                    }
                }
                let second = |at: &&(Instant, u8)| at.0 + Duration::from_secs(1) > now;
                let recent = passed.iter().rev().take_while(second);
                prop_assert!(recent.clone().count() as u64 <= 2 * u64::from(all));
                let same = recent.filter(|at| at.1 == key).count();
                prop_assert!(same as u64 <= 2 * u64::from(each));
            }
        }
    }
}
