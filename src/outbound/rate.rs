//! Owns the rate limits of outgoing mail: for all mail together and for each domain.
//!
//! Does not wait and reads no clock: time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The most domains that are tracked. Idle ones are removed first.
pub const DOMAINS_MAX: usize = 10_000;

/// Rate limits of outgoing mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRates {
    /// Mails per second to all domains together.
    pub all: u32,
    /// Mails per second to one domain.
    pub domain: u32,
}

/// The limit that is exhausted, and the time when it admits the next mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimited {
    /// The limit of all mail.
    All(Instant),
    /// The limit of one domain.
    Domain(Instant),
}

/// Limits the rate of outgoing mail. A burst of one second's worth is allowed after a pause.
#[derive(Debug)]
pub struct SendRateLimiter {
    rates: SendRates,
    all: Gcra,
    domains: HashMap<String, Gcra>,
}

impl SendRateLimiter {
    /// A limiter that has not counted anything.
    pub fn new(rates: SendRates) -> Self {
        Self {
            rates,
            all: Gcra::default(),
            domains: HashMap::new(),
        }
    }

    /// Counts a mail to this domain, if it may be sent now.
    ///
    /// # Errors
    /// The mail may not be sent before the given time.
    pub fn take(&mut self, domain: &str, now: Instant) -> Result<(), RateLimited> {
        self.all
            .check(self.rates.all, now)
            .map_err(RateLimited::All)?;
        if !self.domains.contains_key(domain) && self.domains.len() >= DOMAINS_MAX {
            self.domains.retain(|_, bucket| !bucket.is_idle(now));
        }
        if self.domains.len() < DOMAINS_MAX || self.domains.contains_key(domain) {
            let bucket = self.domains.entry(domain.to_owned()).or_default();
            bucket
                .check(self.rates.domain, now)
                .map_err(RateLimited::Domain)?;
            bucket.count(self.rates.domain, now);
        }
        // Beyond the most tracked domains, the limit of all mail applies alone.
        self.all.count(self.rates.all, now);
        Ok(())
    }
}

/// The time at which the rate will have caught up with the counted mails (GCRA); `None` before the
/// first mail.
#[derive(Clone, Copy, Debug, Default)]
struct Gcra {
    due: Option<Instant>,
}

impl Gcra {
    fn is_idle(self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    fn check(self, rate: u32, now: Instant) -> Result<(), Instant> {
        let step = interval(rate);
        // The burst is one second's worth, or one mail where that is less.
        let room = (step * rate.max(1)).max(step);
        match self.due {
            Some(due) if due + step > now + room => Err(due + step - room),
            _ => Ok(()),
        }
    }

    fn count(&mut self, rate: u32, now: Instant) {
        let from = self.due.map_or(now, |due| due.max(now));
        self.due = Some(from + interval(rate));
    }
}

fn interval(rate: u32) -> Duration {
    Duration::from_secs(1) / rate.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_s_worth_goes_at_once_and_then_the_pace() {
        let now = Instant::now();
        let mut buckets = SendRateLimiter::new(SendRates { all: 10, domain: 4 });
        let mut took = |domain: &str, millis: u64, tries: usize| {
            let now = now + Duration::from_millis(millis);
            (0..tries)
                .filter(|_| buckets.take(domain, now).is_ok())
                .count()
        };
        assert_eq!(took("a.example", 0, 9), 4);
        assert_eq!(took("b.example", 0, 9), 4);
        assert_eq!(took("c.example", 0, 9), 2, "all together have ten");
        assert_eq!(took("a.example", 250, 9), 1);
        assert_eq!(took("c.example", 10_000, 9), 4);
    }

    #[test]
    fn domains_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut buckets = SendRateLimiter::new(SendRates {
            all: 1_000_000,
            domain: 1,
        });
        for n in 0..2 * DOMAINS_MAX {
            buckets.take(&format!("{n}.example"), now).unwrap();
        }
        assert_eq!(buckets.domains.len(), DOMAINS_MAX);
        buckets
            .take("later.example", now + Duration::from_secs(2))
            .unwrap();
        assert_eq!(buckets.domains.len(), 1);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_twice_the_pace(
            all in 1u32..50, domain in 1u32..50,
            asks in proptest::collection::vec((0u64..200, 0u8..3), 1..400),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut buckets = SendRateLimiter::new(SendRates { all, domain });
            let mut taken: Vec<(Instant, u8)> = Vec::new();
            for (wait, to) in asks {
                now += Duration::from_millis(wait);
                match buckets.take(&to.to_string(), now) {
                    Ok(()) => taken.push((now, to)),
                    Err(RateLimited::All(then) | RateLimited::Domain(then)) => {
                        prop_assert!(then > now, "a no that is worth nothing");
                        prop_assert!(then <= now + Duration::from_secs(1));
                    }
                }
                let second = |at: &&(Instant, u8)| at.0 + Duration::from_secs(1) > now;
                let recent = taken.iter().rev().take_while(second);
                prop_assert!(recent.clone().count() as u64 <= 2 * u64::from(all));
                let same = recent.filter(|at| at.1 == to).count();
                prop_assert!(same as u64 <= 2 * u64::from(domain));
            }
        }
    }
}
