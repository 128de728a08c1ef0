//! Owns the leases of one process: names held one at a time, and jobs with their domains.
//!
//! Does not decide which caller takes which.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::mail::job_id::JobId;
use crate::store::door::{Lease, LeaseName};

/// Names that are held or waited for: never more than there are callers.
#[derive(Debug, Default)]
pub(in crate::store) struct Leases {
    names: Mutex<HashMap<LeaseName, Arc<tokio::sync::Mutex<()>>>>,
    #[cfg(debug_assertions)]
    order: Mutex<order::Held>,
}

impl Leases {
    /// Waits until no other caller holds the name.
    pub(in crate::store) async fn take(self: &Arc<Self>, name: LeaseName) -> Lease {
        #[cfg(debug_assertions)]
        let ordered = order::Entered::new(Arc::clone(self), &name);
        let lock = Arc::clone(self.names().entry(name.clone()).or_default());
        // Made before the wait: a cancelled waiter must leave no entry behind.
        let mut held = HeldName {
            leases: Arc::clone(self),
            name,
            guard: None,
        };
        held.guard = Some(lock.lock_owned().await);
        #[cfg(debug_assertions)]
        return Lease::new((held, ordered));
        #[cfg(not(debug_assertions))]
        Lease::new(held)
    }

    /// Takes the name unless another caller holds it or waits for it.
    pub(in crate::store) fn try_take(self: &Arc<Self>, name: LeaseName) -> Option<Lease> {
        #[cfg(debug_assertions)]
        let ordered = order::Entered::new(Arc::clone(self), &name);
        let lock = Arc::clone(self.names().entry(name.clone()).or_default());
        let mut held = HeldName {
            leases: Arc::clone(self),
            name,
            guard: None,
        };
        held.guard = Some(lock.try_lock_owned().ok()?);
        #[cfg(debug_assertions)]
        return Some(Lease::new((held, ordered)));
        #[cfg(not(debug_assertions))]
        Some(Lease::new(held))
    }

    /// The number of names that a caller holds or waits for.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names().len()
    }

    fn names(&self) -> MutexGuard<'_, HashMap<LeaseName, Arc<tokio::sync::Mutex<()>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name, held until this is dropped.
struct HeldName {
    leases: Arc<Leases>,
    name: LeaseName,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for HeldName {
    fn drop(&mut self) {
        let mut names = self.leases.names();
        self.guard = None;
        // Clones are made only under this lock, so a count of one is the table's own.
        if names
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            names.remove(&self.name);
        }
    }
}

/// The order of names within one task, checked if debug assertions are on.
#[cfg(debug_assertions)]
mod order {
    use std::collections::HashMap;
    use std::sync::{Arc, PoisonError};

    use tokio::task::{Id, try_id};

    use super::Leases;
    use crate::store::door::LeaseName;

    /// The names that each task holds or waits for.
    pub(super) type Held = HashMap<Id, Vec<LeaseName>>;

    /// One name of one task, registered until this is dropped.
    pub(super) struct Entered {
        leases: Arc<Leases>,
        entry: Option<(Id, LeaseName)>,
    }

    impl Entered {
        pub(super) fn new(leases: Arc<Leases>, name: &LeaseName) -> Self {
            let entry = try_id().map(|task| (task, name.clone()));
            if let Some((task, name)) = &entry {
                let mut held = leases.order.lock().unwrap_or_else(PoisonError::into_inner);
                let names = held.entry(*task).or_default();
                let late = names.iter().find(|known| *known >= name).cloned();
                names.push(name.clone());
                drop(held);
                debug_assert!(late.is_none(), "{name:?} is taken after {late:?}");
            }
            Self { leases, entry }
        }
    }

    impl Drop for Entered {
        fn drop(&mut self) {
            let Some((task, name)) = self.entry.take() else {
                return;
            };
            let mut held = self
                .leases
                .order
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(names) = held.get_mut(&task) {
                if let Some(at) = names.iter().position(|known| *known == name) {
                    names.remove(at);
                }
                if names.is_empty() {
                    held.remove(&task);
                }
            }
        }
    }
}

/// Jobs with an attempt in progress, and their number for each domain.
#[derive(Debug, Default)]
pub(in crate::store) struct JobLeases(Mutex<BusyJobs>);

#[derive(Debug, Default)]
pub(in crate::store) struct BusyJobs {
    jobs: HashSet<JobId>,
    domains: HashMap<Arc<str>, usize>,
}

impl BusyJobs {
    /// The number of jobs and of domains.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.jobs.len() + self.domains.len()
    }

    pub(in crate::store) fn has(&self, job: JobId) -> bool {
        self.jobs.contains(&job)
    }
}

impl JobLeases {
    /// Leases a job for one attempt, unless it is leased or `domain_max` jobs of its domain are.
    pub(in crate::store) fn take(
        self: &Arc<Self>,
        job: JobId,
        domain: &Arc<str>,
        domain_max: usize,
    ) -> Option<Lease> {
        let mut busy = self.busy();
        let count = busy.domains.get(domain).copied().unwrap_or(0);
        if count >= domain_max || !busy.jobs.insert(job) {
            return None;
        }
        busy.domains.insert(Arc::clone(domain), count + 1);
        drop(busy);
        Some(Lease::new(HeldJob {
            leases: Arc::clone(self),
            job,
            domain: Arc::clone(domain),
        }))
    }

    pub(in crate::store) fn busy(&self) -> MutexGuard<'_, BusyJobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leased job, held until this is dropped.
struct HeldJob {
    leases: Arc<JobLeases>,
    job: JobId,
    domain: Arc<str>,
}

impl Drop for HeldJob {
    fn drop(&mut self) {
        let mut busy = self.leases.busy();
        busy.jobs.remove(&self.job);
        if let Some(count) = busy.domains.get_mut(&self.domain) {
            *count -= 1;
            if *count == 0 {
                busy.domains.remove(&self.domain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn posting(name: &str) -> LeaseName {
        LeaseName::Posting(name.to_owned())
    }

    #[tokio::test]
    async fn one_holder_at_a_time_and_nothing_left_behind() {
        let leases = Arc::new(Leases::default());
        let inside = Arc::new(AtomicU32::new(0));
        let mut jobs = tokio::task::JoinSet::new();
        for n in 0..40 {
            let (leases, inside) = (Arc::clone(&leases), Arc::clone(&inside));
            jobs.spawn(async move {
                let lease = leases.take(posting("thread")).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(lease);
                let _other = leases.take(posting(&n.to_string())).await;
            });
        }
        jobs.join_all().await;
        assert!(leases.names().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let leases = Arc::new(Leases::default());
        let lease = leases.take(posting("a")).await;
        let mut waits = Box::pin(leases.take(posting("a")));
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(waits);
        drop(lease);
        assert!(leases.names().is_empty());
    }

    #[tokio::test]
    async fn a_held_name_is_not_taken_again() {
        let leases = Arc::new(Leases::default());
        let lease = leases.take(posting("a")).await;
        let again = Arc::clone(&leases);
        let other = tokio::spawn(async move { again.try_take(posting("a")).is_some() });
        assert!(!other.await.unwrap());
        drop(lease);
        assert!(leases.names().is_empty());
        assert!(leases.try_take(posting("a")).is_some());
        assert!(leases.names().is_empty());
    }

    #[tokio::test]
    async fn names_are_taken_in_their_order() {
        let leases = Arc::new(Leases::default());
        let again = Arc::clone(&leases);
        let ordered = tokio::spawn(async move {
            let _first = again.take(posting("a")).await;
            let _second = again.take(LeaseName::Address("b".to_owned())).await;
        });
        assert!(ordered.await.is_ok());
        let backwards = tokio::spawn(async move {
            let _first = leases.take(LeaseName::Address("b".to_owned())).await;
            let _second = leases.take(posting("a")).await;
        });
        assert!(backwards.await.is_err());
    }

    #[test]
    fn a_domain_has_as_many_attempts_as_it_may() {
        let leases = Arc::new(JobLeases::default());
        let domain: Arc<str> = "one.example".into();
        let take = |n: u8| leases.take(JobId([n; 16]), &domain, 2);
        let (first, second) = (take(1), take(2));
        assert!(first.is_some() && second.is_some());
        assert!(take(3).is_none(), "two are in progress");
        drop(second);
        assert!(take(1).is_none(), "it is taken");
        assert!(take(3).is_some());
        drop(first);
        assert!(leases.busy().jobs.is_empty() && leases.busy().domains.is_empty());
    }
}
