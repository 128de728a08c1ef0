//! Owns the due times of the jobs that are next, in total and for each recipient domain.
//!
//! Does not choose those jobs (`outbox_state` does), and holds only what it is given.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::mail::job_id::JobId;

/// The longest wait for the next attempt; a longer one comes from a wrong clock.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A job, ordered by its due time.
type DueJob = (Timestamp, JobId);

/// Jobs by due time. A domain with many jobs is skipped in one step.
#[derive(Debug, Default)]
pub(super) struct DueQueue {
    all: BTreeMap<DueJob, Arc<str>>,
    domains: HashMap<Arc<str>, BTreeSet<DueJob>>,
    /// The first job of each domain.
    firsts: BTreeMap<DueJob, Arc<str>>,
}

impl DueQueue {
    /// The shared name for all jobs of a domain.
    pub(super) fn intern_domain(&self, domain: &str) -> Arc<str> {
        let known = self.domains.get_key_value(domain);
        known.map_or_else(|| Arc::from(domain), |(name, _)| Arc::clone(name))
    }

    pub(super) fn insert(&mut self, at: Timestamp, id: JobId, domain: &Arc<str>) {
        let entry = (at, id);
        self.all.insert(entry, Arc::clone(domain));
        let same = self.domains.entry(Arc::clone(domain)).or_default();
        let first = same.first().copied();
        same.insert(entry);
        if first.is_none_or(|first| entry < first) {
            first.and_then(|first| self.firsts.remove(&first));
            self.firsts.insert(entry, Arc::clone(domain));
        }
    }

    /// The number of entries in all tables.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len() + self.domains.len() + self.firsts.len()
    }

    /// Removes a job; false if it was not there.
    pub(super) fn remove(&mut self, at: Timestamp, id: JobId) -> bool {
        let entry = (at, id);
        let Some(domain) = self.all.remove(&entry) else {
            return false;
        };
        let Some(same) = self.domains.get_mut(&domain) else {
            return true;
        };
        same.remove(&entry);
        let next = same.first().copied();
        if next.is_none() {
            self.domains.remove(&domain);
        }
        if self.firsts.remove(&entry).is_some()
            && let Some(next) = next
        {
            self.firsts.insert(next, domain);
        }
        true
    }

    /// The jobs that are due at `now`, the longest overdue first.
    pub(super) fn due_at(&self, now: Timestamp) -> impl Iterator<Item = JobId> + '_ {
        let overdue = self.all.keys().take_while(move |(at, _)| *at <= now);
        overdue
            .chain(self.too_far_ahead(now).map(|(entry, _)| entry))
            .map(|(_, id)| *id)
    }

    /// For each domain that `is_open` the first job that `is_free` and due at `now`, the longest overdue
    /// first, at most `count`.
    pub(super) fn first_by_domain(
        &self,
        now: Timestamp,
        count: usize,
        is_free: impl Fn(JobId) -> bool,
        is_open: impl Fn(&str) -> bool,
    ) -> Vec<(JobId, Arc<str>)> {
        let overdue = self.firsts.iter().take_while(|((at, _), _)| *at <= now);
        let overdue = overdue.filter(|(_, domain)| is_open(domain));
        let overdue = overdue.filter_map(|(_, domain)| {
            let (at, id) = self.first_of(domain, &is_free)?;
            (at <= now).then(|| (id, Arc::clone(domain)))
        });
        let put_off = self
            .too_far_ahead(now)
            .map(|((_, id), domain)| (*id, domain));
        let put_off = put_off.filter(|(id, domain)| is_free(*id) && is_open(domain));
        let put_off = put_off.map(|(id, domain)| (id, Arc::clone(domain)));
        overdue.chain(put_off).take(count).collect()
    }

    /// The time at which the next job that `is_free` is due, of the domains that are open.
    pub(super) fn next_due(
        &self,
        is_free: impl Fn(JobId) -> bool,
        is_open: impl Fn(&str) -> bool,
    ) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for ((at, _), domain) in &self.firsts {
            if next.is_some_and(|next| next <= *at) {
                break;
            }
            if !is_open(domain) {
                continue;
            }
            if let Some((at, _)) = self.first_of(domain, &is_free) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    fn first_of(&self, domain: &str, is_free: impl Fn(JobId) -> bool) -> Option<DueJob> {
        let mut same = self.domains.get(domain)?.iter();
        same.find(|(_, id)| is_free(*id)).copied()
    }

    /// The jobs with a wait beyond the maximum.
    fn too_far_ahead(&self, now: Timestamp) -> impl Iterator<Item = (&DueJob, &Arc<str>)> {
        let last = (now.plus(WAIT_MAX), JobId([u8::MAX; 16]));
        let latest = self.all.iter().rev();
        latest.take_while(move |(entry, _)| **entry > last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000 * seconds)
    }

    fn id(n: u8) -> JobId {
        JobId([n; 16])
    }

    const DOMAINS: [&str; 3] = ["a.example", "b.example", "c.example"];

    proptest! {
        #[test]
        fn the_first_job_of_each_domain_is_listed(
            jobs in proptest::collection::vec((0u8..20, 0u64..40, 0usize..3), 0..40),
            gone in proptest::collection::vec(0usize..40, 0..30),
            busy in proptest::collection::btree_set(0u8..20, 0..6),
            closed in 0usize..4, now in 0u64..40, count in 1usize..4,
        ) {
            let mut due = DueQueue::default();
            let mut model = BTreeMap::new();
            for (n, seconds, domain) in jobs {
                let known = model.insert((at(seconds), id(n)), DOMAINS[domain]);
                if known.is_some() {
                    due.remove(at(seconds), id(n));
                }
                due.insert(at(seconds), id(n), &due.intern_domain(DOMAINS[domain]));
            }
            for nth in gone {
                let entry = model.keys().nth(nth).copied();
                if let Some((at, id)) = entry {
                    model.remove(&(at, id));
                    prop_assert!(due.remove(at, id));
                    prop_assert!(!due.remove(at, id));
                }
            }
            let is_free = |id: JobId| !busy.contains(&id.0[0]);
            let is_open = |domain: &str| DOMAINS.get(closed) != Some(&domain);
            let may = model.iter().filter(|((_, id), domain)| is_free(*id) && is_open(domain));
            let mut firsts: Vec<(DueJob, &str)> = Vec::new();
            for (entry, domain) in may {
                if firsts.iter().all(|(_, known)| known != domain) {
                    firsts.push((*entry, domain));
                }
            }
            let next = firsts.first().map(|((at, _), _)| *at);
            prop_assert_eq!(due.next_due(is_free, is_open), next);
            firsts.retain(|((then, _), _)| *then <= at(now));
            let mut found = due.first_by_domain(at(now), 3, is_free, is_open);
            let some = due.first_by_domain(at(now), count, is_free, is_open);
            prop_assert_eq!(&some[..], &found[..count.min(found.len())]);
            // A domain whose first job is busy keeps the position of that job.
            found.sort_by_key(|(_, domain)| domain.clone());
            firsts.sort_by_key(|(_, domain)| *domain);
            let found: Vec<_> = found.iter().map(|(id, domain)| (*id, &**domain)).collect();
            let firsts: Vec<_> = firsts.iter().map(|((_, id), domain)| (*id, *domain)).collect();
            prop_assert_eq!(found, firsts);
            let all = model.keys().filter(|(then, _)| *then <= at(now)).map(|(_, id)| *id);
            prop_assert_eq!(due.due_at(at(now)).collect::<Vec<_>>(), all.collect::<Vec<_>>());
        }
    }
}
