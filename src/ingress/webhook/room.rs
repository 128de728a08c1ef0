//! Owns the room for what requests hold in memory: so many octets over all of them.
//!
//! Does not hold the octets.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::Metrics;

/// The room. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    metrics: Metrics,
}

impl Room {
    pub(super) fn new(bytes_max: usize, metrics: Metrics) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))),
            metrics,
        }
    }

    /// Room for nothing yet.
    pub(super) fn none(&self) -> Held {
        Held {
            room: self.clone(),
            permit: None,
        }
    }
}

/// Room that somebody holds, until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Room,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Takes more of it. False if there is not so much left; then nothing was taken.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&self.room.free).try_acquire_many_owned(count) else {
            return false;
        };
        let taken = i64::try_from(bytes).unwrap_or(0);
        self.room.metrics.in_flight().inc_by(taken);
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = self.permit.as_ref();
        let held = held.map_or(0, OwnedSemaphorePermit::num_permits);
        let held = i64::try_from(held).unwrap_or(0);
        self.room.metrics.in_flight().dec_by(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_counted_and_given_back() {
        let metrics = Metrics::default();
        let room = Room::new(100, metrics.clone());
        let (mut first, mut second) = (room.none(), room.none());
        assert!(first.take(60) && first.take(20) && !second.take(21) && second.take(20));
        assert_eq!(metrics.in_flight().get(), 100);
        drop(first);
        assert_eq!(metrics.in_flight().get(), 20);
        assert!(second.take(80) && !second.take(1) && second.take(0));
    }
}
