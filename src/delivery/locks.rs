//! Owns locks by name: one delivery at a time for one thread, or for one mail that arrived twice.
//!
//! Does not order the waiting ones beyond first come, first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The locks that are held or waited for: never more than there are attempts.
#[derive(Debug, Default)]
pub(super) struct NamedLocks {
    held: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl NamedLocks {
    /// Waits for the lock of this name.
    pub(super) async fn lock(self: &Arc<Self>, name: String) -> NamedLockGuard {
        let lock = Arc::clone(self.table().entry(name.clone()).or_default());
        // The guard is made before the wait, so that an attempt that is cancelled while it waits
        // leaves no lock behind.
        let mut turn = NamedLockGuard {
            locks: Arc::clone(self),
            name,
            guard: None,
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A held lock, released when it is dropped.
#[derive(Debug)]
pub(super) struct NamedLockGuard {
    locks: Arc<NamedLocks>,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for NamedLockGuard {
    fn drop(&mut self) {
        let mut all = self.locks.table();
        self.guard = None;
        // Clones are made only under this lock, so a count of one means nobody else.
        if all
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_left_behind() {
        let locks = Arc::new(NamedLocks::default());
        let inside = Arc::new(AtomicU32::new(0));
        let mut jobs = tokio::task::JoinSet::new();
        for n in 0..40 {
            let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
            jobs.spawn(async move {
                let turn = locks.lock("thread".to_owned()).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(turn);
                let _other = locks.lock(format!("thread {n}")).await;
            });
        }
        jobs.join_all().await;
        assert!(locks.table().is_empty());
    }

    #[tokio::test]
    async fn a_wait_given_up_leaves_nothing_behind() {
        let locks = Arc::new(NamedLocks::default());
        let turn = locks.lock("a".to_owned()).await;
        let waits = locks.lock("a".to_owned());
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, waits)
                .await
                .is_err()
        );
        drop(turn);
        assert!(locks.table().is_empty());
    }
}
