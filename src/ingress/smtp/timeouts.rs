//! Owns the timeouts of a client: until its next command, for its mail, for the whole session.
//!
//! Reads no clock: every moment is an argument. Sends nothing itself.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;
use crate::limits::LoadLevel;
use crate::smtp::response::Refusal;

/// The progress of one session so far.
#[derive(Debug)]
pub(super) struct SessionTimeouts {
    started: Instant,
    /// The time at which the client last completed something: a command, or bytes of a mail. A partial
    /// command is no progress.
    progress: Instant,
    bytes: u64,
    data: Option<DataProgress>,
    /// True if the limits of a session's time and bytes do not apply.
    exempt: bool,
}

/// The progress of the current mail.
#[derive(Debug)]
struct DataProgress {
    /// The time at which the mail counts as too slow if nothing more arrives. Each byte extends it, but
    /// never beyond the grace time from now: a burst does not pay for a long pause.
    due: Instant,
}

impl SessionTimeouts {
    pub(super) const fn new(now: Instant, exempt: bool) -> Self {
        Self {
            started: now,
            progress: now,
            bytes: 0,
            data: None,
            exempt,
        }
    }

    /// Records that the client sent `bytes`.
    pub(super) fn bytes_read(&mut self, bytes: usize, settings: &Settings, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if let Some(data) = &mut self.data {
            let earned = Duration::from_secs(bytes as u64) / settings.rate_min.max(1);
            let latest = now + settings.rate_grace;
            data.due = (data.due + earned.min(settings.rate_grace)).min(latest);
            self.progress = now;
        }
    }

    /// Records that a command is complete, because the session has a response.
    pub(super) const fn command_completed(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Records the beginning or the end of a mail.
    pub(super) fn set_in_data(&mut self, in_data: bool, settings: &Settings, now: Instant) {
        if !in_data {
            self.data = None;
        } else if self.data.is_none() {
            let due = now + settings.rate_grace;
            self.data = Some(DataProgress { due });
        }
    }

    /// True if the session has reached its byte limit and may not begin another mail.
    pub(super) const fn byte_limit_reached(&self, settings: &Settings) -> bool {
        !self.exempt && self.data.is_none() && self.bytes >= settings.session_bytes_max
    }

    /// The time at which the session ends if nothing more arrives, and the refusal for that.
    pub(super) fn deadline(&self, settings: &Settings, load: LoadLevel) -> (Instant, Refusal) {
        let idle = if load.is_crowded() {
            settings.idle_crowded_max
        } else {
            settings.idle_max
        };
        let mut first = (self.progress + idle, Refusal::IdleTooLong);
        if let Some(data) = &self.data
            && data.due < first.0
        {
            first = (data.due, Refusal::DataTooSlow);
        }
        let end = self.started + settings.session_max;
        if !self.exempt && end < first.0 {
            first = (end, Refusal::SessionTooLong);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: LoadLevel = LoadLevel {
        connections_crowded: false,
        memory_crowded: false,
        closing: false,
    };
    const CROWDED: LoadLevel = LoadLevel {
        connections_crowded: true,
        ..CALM
    };

    fn settings() -> Settings {
        Settings::new("mx.example.com".to_owned())
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_quiet_client_has_five_minutes_and_ten_seconds_in_a_crowd() {
        let start = Instant::now();
        let mut timeouts = SessionTimeouts::new(start, false);
        let settings = settings();
        assert_eq!(
            timeouts.deadline(&settings, CALM),
            (start + secs(300), Refusal::IdleTooLong)
        );
        assert_eq!(timeouts.deadline(&settings, CROWDED).0, start + secs(10));
        timeouts.bytes_read(1, &settings, start + secs(200));
        assert_eq!(timeouts.deadline(&settings, CALM).0, start + secs(300));
        timeouts.command_completed(start + secs(200));
        assert_eq!(timeouts.deadline(&settings, CALM).0, start + secs(500));
    }

    #[test]
    fn a_mail_must_keep_its_rate() {
        let start = Instant::now();
        let mut timeouts = SessionTimeouts::new(start, false);
        let settings = settings();
        timeouts.set_in_data(true, &settings, start);
        assert_eq!(
            timeouts.deadline(&settings, CALM),
            (start + secs(30), Refusal::DataTooSlow)
        );
        timeouts.bytes_read(5_000, &settings, start + secs(20));
        timeouts.set_in_data(true, &settings, start + secs(20));
        assert_eq!(
            timeouts.deadline(&settings, CALM),
            (start + secs(40), Refusal::DataTooSlow)
        );
        assert_eq!(
            timeouts.deadline(&settings, CROWDED),
            (start + secs(30), Refusal::IdleTooLong)
        );
        timeouts.set_in_data(false, &settings, start + secs(21));
        assert_eq!(timeouts.deadline(&settings, CALM).1, Refusal::IdleTooLong);
    }

    #[test]
    fn a_burst_does_not_pay_for_a_long_silence() {
        let start = Instant::now();
        let mut timeouts = SessionTimeouts::new(start, false);
        let settings = settings();
        timeouts.set_in_data(true, &settings, start);
        timeouts.bytes_read(25 << 20, &settings, start + secs(2));
        let due = (start + secs(32), Refusal::DataTooSlow);
        assert_eq!(timeouts.deadline(&settings, CALM), due);
        // A trickle must not keep the session alive for ever.
        for second in [10, 20, 30] {
            timeouts.bytes_read(1, &settings, start + secs(second));
        }
        assert!(timeouts.deadline(&settings, CALM).0 < start + secs(33));
        // A mail at the minimum rate may continue for ever.
        let mut steady = SessionTimeouts::new(start, true);
        steady.set_in_data(true, &settings, start);
        for second in 1..10_000 {
            let now = start + secs(second);
            assert!(steady.deadline(&settings, CALM).0 > now);
            steady.bytes_read(500, &settings, now);
        }
    }

    #[test]
    fn a_session_ends_but_not_that_of_an_exempt_client() {
        let start = Instant::now();
        let settings = settings();
        for (exempt, refusal) in [
            (false, Refusal::SessionTooLong),
            (true, Refusal::IdleTooLong),
        ] {
            let mut timeouts = SessionTimeouts::new(start, exempt);
            timeouts.command_completed(start + secs(1_100));
            assert_eq!(timeouts.deadline(&settings, CALM).1, refusal);
            timeouts.bytes_read(usize::MAX, &settings, start);
            assert_eq!(timeouts.byte_limit_reached(&settings), !exempt);
            timeouts.set_in_data(true, &settings, start);
            assert!(!timeouts.byte_limit_reached(&settings));
        }
    }

    #[test]
    fn no_number_of_bytes_overflows() {
        let start = Instant::now();
        let mut timeouts = SessionTimeouts::new(start, false);
        let settings = Settings {
            rate_min: 0,
            ..settings()
        };
        timeouts.set_in_data(true, &settings, start);
        timeouts.bytes_read(usize::MAX, &settings, start);
        assert!(timeouts.deadline(&settings, CALM).0 > start);
    }
}
