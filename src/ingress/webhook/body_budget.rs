//! Owns the room for what requests hold in memory: so many octets over all of them.
//!
//! Does not hold the octets, and knows no provider.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::Metrics;

/// Octets of a body for what is no mail: addresses, words, the names of fields.
const ENVELOPE_BYTES: usize = 1 << 20;

/// Octets of a body with a mail of so many as it is.
pub(super) const fn with_plain_mail(mail: usize) -> usize {
    mail.saturating_add(ENVELOPE_BYTES)
}

/// Octets of a body with a mail of so many in base64: four for three, and line ends, which JSON
/// writes with two letters.
pub(super) const fn with_base64_mail(mail: usize) -> usize {
    with_plain_mail((mail / 5).saturating_mul(7))
}

/// Octets of a body with a mail of so many and its files in base64 once more.
pub(super) const fn with_mail_and_files(mail: usize) -> usize {
    with_base64_mail(mail).saturating_add(mail)
}

/// The room. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    free: Arc<Semaphore>,
    metrics: Metrics,
}

impl BodyBudget {
    pub(super) fn new(bytes_max: usize, metrics: Metrics) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))),
            metrics,
        }
    }

    /// Room for nothing yet.
    pub(super) fn empty_permit(&self) -> BodyPermit {
        BodyPermit {
            room: self.clone(),
            permit: None,
        }
    }
}

/// Room that somebody holds, until this is dropped.
#[derive(Debug)]
pub(super) struct BodyPermit {
    room: BodyBudget,
    permit: Option<OwnedSemaphorePermit>,
}

impl BodyPermit {
    /// Takes more of it. False if there is not so much left; then nothing was taken.
    pub(super) fn try_reserve(&mut self, bytes: usize) -> bool {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&self.room.free).try_acquire_many_owned(count) else {
            return false;
        };
        let taken = i64::try_from(bytes).unwrap_or(0);
        self.room.metrics.bytes_in_flight().inc_by(taken);
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        let held = self.permit.as_ref();
        let held = held.map_or(0, OwnedSemaphorePermit::num_permits);
        let held = i64::try_from(held).unwrap_or(0);
        self.room.metrics.bytes_in_flight().dec_by(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_in_base64_fits_with_its_line_ends() {
        for mail in [0usize, 1, 1000, 50 << 20, 1 << 30] {
            let encoded = mail.div_ceil(3) * 4;
            // Postal has a line end behind every sixty letters, and JSON writes it as two.
            let lined = encoded + encoded.div_ceil(60) * 2;
            assert!(with_base64_mail(mail) > lined, "{mail}");
            assert!(with_mail_and_files(mail) > lined + mail, "{mail}");
        }
        assert_eq!(with_plain_mail(usize::MAX), usize::MAX);
    }

    #[test]
    fn room_is_bounded_counted_and_given_back() {
        let metrics = Metrics::default();
        let room = BodyBudget::new(100, metrics.clone());
        let (mut first, mut second) = (room.empty_permit(), room.empty_permit());
        assert!(
            first.try_reserve(60)
                && first.try_reserve(20)
                && !second.try_reserve(21)
                && second.try_reserve(20)
        );
        assert_eq!(metrics.bytes_in_flight().get(), 100);
        drop(first);
        assert_eq!(metrics.bytes_in_flight().get(), 20);
        assert!(second.try_reserve(80) && !second.try_reserve(1) && second.try_reserve(0));
    }
}
