//! Owns the only read of the wall clock, and [`Timestamp`], the representation of time everywhere.
//!
//! Does not measure waits: timeouts and back-off use the runtime's monotonic clock, so a step of the
//! wall clock never stretches or cuts them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mail_parser::DateTime;
use serde::{Deserialize, Serialize};

/// A moment: milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The moment `secs` seconds after the Unix epoch, clamped to what a `Timestamp` holds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time `wait` later, clamped to the range of a `Timestamp`.
    pub fn plus(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The time `span` earlier, clamped to the epoch.
    pub fn minus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The time from `earlier` until this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The date-time form of RFC 3339 in UTC, with milliseconds: `2026-01-31T23:59:59.000Z`.
    pub fn to_rfc3339(self) -> String {
        let date = self.date_time();
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year,
            date.month,
            date.day,
            date.hour,
            date.minute,
            date.second,
            self.0 % 1000
        )
    }

    /// The date-time form of RFC 5322 section 3.3 in UTC: `Sat, 31 Jan 2026 23:59:59 +0000`.
    pub fn to_rfc5322(self) -> String {
        self.date_time().to_rfc822()
    }

    fn date_time(self) -> DateTime {
        // Neither RFC has a form for a date after the year 9999.
        const LAST: u64 = 253_402_300_799;
        DateTime::from_timestamp(self.as_secs().min(LAST).cast_signed())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// The reading of the wall clock. A clock set before 1970 reads as the epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the wall clock"
)]
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_forms_of_their_rfcs() {
        let moment = Timestamp::from_millis(1_769_903_999_042);
        assert_eq!(moment.to_rfc3339(), "2026-01-31T23:59:59.042Z");
        assert_eq!(moment.to_rfc5322(), "Sat, 31 Jan 2026 23:59:59 +0000");
    }

    #[test]
    fn sums_are_clamped() {
        let end = Timestamp::from_millis(u64::MAX);
        assert_eq!(end.plus(Duration::MAX), end);
        assert_eq!(
            Timestamp::default().minus(Duration::MAX),
            Timestamp::default()
        );
        assert!(end.to_rfc3339().starts_with("9999-12-31T23:59:59"));
    }
}
