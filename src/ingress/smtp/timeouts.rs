//! Owns how long a client may take: until its next command, for its mail, for the whole session.
//!
//! Reads no clock: every moment is an argument. Says nothing itself.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;
use crate::limits::LoadLevel;
use crate::smtp::response::Refusal;

/// What one session has brought so far, and when.
#[derive(Debug)]
pub(super) struct SessionTimeouts {
    started: Instant,
    /// When the client last brought something to its end: a command, or bytes of a mail. A command
    /// that drips in is no progress before it is whole.
    progress: Instant,
    bytes: u64,
    mail: Option<DataProgress>,
    /// Neither the bound of the session's time nor that of its bytes applies.
    exempt: bool,
}

#[derive(Debug)]
struct DataProgress {
    started: Instant,
    bytes: u64,
}

impl SessionTimeouts {
    pub(super) const fn new(now: Instant, exempt: bool) -> Self {
        Self {
            started: now,
            progress: now,
            bytes: 0,
            mail: None,
            exempt,
        }
    }

    /// The client sent `bytes`.
    pub(super) fn bytes_read(&mut self, bytes: usize, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if let Some(mail) = &mut self.mail {
            mail.bytes = mail.bytes.saturating_add(bytes as u64);
            self.progress = now;
        }
    }

    /// The session has an answer, so a command is done.
    pub(super) const fn command_completed(&mut self, now: Instant) {
        self.progress = now;
    }

    /// The client is (or is not) sending a mail now.
    pub(super) fn set_in_data(&mut self, in_data: bool, now: Instant) {
        if !in_data {
            self.mail = None;
        } else if self.mail.is_none() {
            self.mail = Some(DataProgress {
                started: now,
                bytes: 0,
            });
        }
    }

    /// True if the session may not begin another mail, for all that it has read.
    pub(super) const fn byte_limit_reached(&self, settings: &Settings) -> bool {
        !self.exempt && self.mail.is_none() && self.bytes >= settings.session_bytes_max
    }

    /// When patience ends if nothing more comes, and what is said then.
    pub(super) fn deadline(&self, settings: &Settings, load: LoadLevel) -> (Instant, Refusal) {
        let idle = if load.is_crowded() {
            settings.idle_crowded_max
        } else {
            settings.idle_max
        };
        let mut first = (self.progress + idle, Refusal::IdleTooLong);
        if let Some(mail) = &self.mail {
            let earned = Duration::from_secs(mail.bytes) / settings.rate_min.max(1);
            let end = mail.started + settings.rate_grace + earned;
            if end < first.0 {
                first = (end, Refusal::DataTooSlow);
            }
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
        let mut pace = SessionTimeouts::new(start, false);
        let settings = settings();
        assert_eq!(
            pace.deadline(&settings, CALM),
            (start + secs(300), Refusal::IdleTooLong)
        );
        assert_eq!(pace.deadline(&settings, CROWDED).0, start + secs(10));
        pace.bytes_read(1, start + secs(200));
        assert_eq!(pace.deadline(&settings, CALM).0, start + secs(300));
        pace.command_completed(start + secs(200));
        assert_eq!(pace.deadline(&settings, CALM).0, start + secs(500));
    }

    #[test]
    fn a_mail_must_keep_its_rate() {
        let start = Instant::now();
        let mut pace = SessionTimeouts::new(start, false);
        let settings = settings();
        pace.set_in_data(true, start);
        assert_eq!(
            pace.deadline(&settings, CALM),
            (start + secs(30), Refusal::DataTooSlow)
        );
        pace.bytes_read(5_000, start + secs(20));
        pace.set_in_data(true, start + secs(20));
        assert_eq!(
            pace.deadline(&settings, CALM),
            (start + secs(40), Refusal::DataTooSlow)
        );
        assert_eq!(
            pace.deadline(&settings, CROWDED),
            (start + secs(30), Refusal::IdleTooLong)
        );
        pace.set_in_data(false, start + secs(21));
        assert_eq!(pace.deadline(&settings, CALM).1, Refusal::IdleTooLong);
    }

    #[test]
    fn a_session_ends_but_not_that_of_an_exempt_client() {
        let start = Instant::now();
        let settings = settings();
        for (exempt, refusal) in [
            (false, Refusal::SessionTooLong),
            (true, Refusal::IdleTooLong),
        ] {
            let mut pace = SessionTimeouts::new(start, exempt);
            pace.command_completed(start + secs(1_100));
            assert_eq!(pace.deadline(&settings, CALM).1, refusal);
            pace.bytes_read(usize::MAX, start);
            assert_eq!(pace.byte_limit_reached(&settings), !exempt);
            pace.set_in_data(true, start);
            assert!(!pace.byte_limit_reached(&settings));
        }
    }

    #[test]
    fn no_number_of_bytes_overflows() {
        let start = Instant::now();
        let mut pace = SessionTimeouts::new(start, false);
        pace.set_in_data(true, start);
        pace.bytes_read(usize::MAX / 4, start);
        let settings = Settings {
            rate_min: 0,
            ..settings()
        };
        assert!(pace.deadline(&settings, CALM).0 > start);
    }
}
