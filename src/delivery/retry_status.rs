//! Owns the status of deferred deliveries: the number of attempts, the reason, and the time of the next
//! one.
//!
//! Only for display: no decision depends on it, and it ends with the process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::store::DeliveryId;

/// The maximum number of statuses, at about 200 bytes each.
const STATUSES_MAX: usize = 10_000;

/// The reason why a delivery waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryStatus {
    /// The number of attempts.
    pub attempts: u32,
    /// The result of the last attempt.
    pub reason: String,
    /// Time of the next attempt.
    pub due_at: Timestamp,
}

/// The deferred deliveries.
#[derive(Debug, Default)]
pub struct RetryStatuses(Mutex<HashMap<DeliveryId, RetryStatus>>);

impl RetryStatuses {
    /// The status of this delivery, if it was tried since the program started.
    pub fn get(&self, id: DeliveryId) -> Option<RetryStatus> {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.get(&id).cloned()
    }

    pub(super) fn put(&self, id: DeliveryId, wait: RetryStatus) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.len() < STATUSES_MAX || waits.contains_key(&id) {
            waits.insert(id, wait);
        }
    }

    pub(super) fn remove(&self, id: DeliveryId) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MailId;

    #[test]
    fn memory_is_bounded() {
        let waits = RetryStatuses::default();
        let id = |n: u64| DeliveryId {
            mail: MailId(n),
            recipient: 0,
        };
        let wait = |attempts| RetryStatus {
            attempts,
            reason: "503".to_owned(),
            due_at: Timestamp::default(),
        };
        for n in 0..2 * STATUSES_MAX as u64 {
            waits.put(id(n), wait(1));
        }
        waits.put(id(0), wait(2));
        assert_eq!(waits.get(id(0)), Some(wait(2)));
        assert_eq!(waits.get(id(STATUSES_MAX as u64)), None);
        waits.remove(id(0));
        waits.put(id(STATUSES_MAX as u64), wait(1));
        assert_eq!(waits.get(id(0)), None);
        assert_eq!(waits.get(id(STATUSES_MAX as u64)), Some(wait(1)));
    }
}
