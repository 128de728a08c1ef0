//! Owns the rate limits of outgoing mail: for all mail together and for each domain.
//!
//! Does not count mails; a [`RateLimiter`] does.

use crate::limits::{Rate, RateLimiter};

/// The maximum number of tracked domains. Idle ones are removed first.
const DOMAINS_MAX: usize = 10_000;

/// Rate limits of outgoing mail. A burst of one second's worth is allowed after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRates {
    /// Mails per second to all domains together.
    pub all: u32,
    /// Mails per second to one domain.
    pub domain: u32,
}

impl SendRates {
    /// A limiter of these rates, by domain.
    pub(super) fn limiter(self) -> RateLimiter<String> {
        let (all, domain) = (Rate::per_second(self.all), Rate::per_second(self.domain));
        RateLimiter::new(all, domain, DOMAINS_MAX)
    }
}
