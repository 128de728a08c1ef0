//! Owns the order of deliveries: which may run now, which must wait, and until when.
//!
//! Holds ids only, neither mails nor envelopes; runs nothing and reads no clock.
//!
//! A partition is a queue of deliveries that must stay in order: those of one token's thread, or those of
//! one sender to a mailbox. At most one delivery of a partition runs. A delivery that must wait delays only
//! its own partition. A partition with more than [`PARTITION_QUEUED_MAX`] deliveries is queued in part and
//! marked, and the scan of the store continues after it, so that a long partition does not hide others.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use crate::mail::partition::PartitionKey;
use crate::store::DeliveryId;

/// The maximum number of queued deliveries of one partition; the others stay in the store.
pub(super) const PARTITION_QUEUED_MAX: usize = 4096;

/// The result of offering a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferResult {
    /// The delivery is queued, now or already before.
    Queued,
    /// The partition is full or has overflowed before: the delivery must be offered again.
    Overflowed,
    /// No further delivery can be queued.
    Full,
}

/// The partitions of all routes.
#[derive(Debug)]
pub(super) struct Partitions {
    partitions: HashMap<PartitionKey, Partition>,
    /// Partitions whose first delivery may run, by route, in the order in which they became ready: the
    /// order of arrival for new ones; a deferred one rejoins at the end.
    ready: Vec<VecDeque<PartitionKey>>,
    /// Partitions whose first delivery may run regardless of the circuit breaker of their route.
    urgent: VecDeque<PartitionKey>,
    /// Partitions that wait, by the time at which they may run again.
    timers: BTreeSet<(Instant, PartitionKey)>,
    /// Partitions with more deliveries in the store than are queued, with the first one that is not
    /// queued.
    overflow: BTreeMap<PartitionKey, DeliveryId>,
    queued: usize,
    queued_max: usize,
    partition_queued_max: usize,
}

#[derive(Debug)]
struct Partition {
    route: usize,
    /// The ids in order of arrival, without the running one.
    queue: VecDeque<DeliveryId>,
    state: PartitionState,
    attempts: u32,
    /// Deliveries that become urgent when they are the first of their partition.
    urgent: BTreeSet<DeliveryId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartitionState {
    Ready,
    Urgent,
    Running(DeliveryId),
    Waiting(Instant),
}

impl Partitions {
    /// Empty partitions for this number of routes, with at most `held_max` queued deliveries in all.
    pub(super) fn new(routes: usize, held_max: usize) -> Self {
        Self {
            partitions: HashMap::new(),
            ready: vec![VecDeque::new(); routes],
            urgent: VecDeque::new(),
            timers: BTreeSet::new(),
            overflow: BTreeMap::new(),
            queued: 0,
            queued_max: held_max,
            partition_queued_max: PARTITION_QUEUED_MAX,
        }
    }

    /// The number of queued deliveries, including those that run.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// True if the partition exists, so that its route is known.
    pub(super) fn contains(&self, key: PartitionKey) -> bool {
        self.partitions.contains_key(&key)
    }

    /// Queues a delivery in its partition. Offering it again changes nothing. `route` counts only
    /// for a new partition.
    pub(super) fn offer(&mut self, key: PartitionKey, route: usize, id: DeliveryId) -> OfferResult {
        if self.overflow.get(&key).is_some_and(|first| id >= *first) {
            return OfferResult::Overflowed;
        }
        let Some(partition) = self.partitions.get_mut(&key) else {
            if self.queued >= self.queued_max {
                return OfferResult::Full;
            }
            let partition = Partition {
                route,
                queue: VecDeque::from([id]),
                state: PartitionState::Ready,
                attempts: 0,
                urgent: BTreeSet::new(),
            };
            self.queued += 1;
            self.partitions.insert(key, partition);
            self.ready[route].push_back(key);
            return OfferResult::Queued;
        };
        let Err(place) = partition.queue.binary_search(&id) else {
            return OfferResult::Queued;
        };
        if partition.state == PartitionState::Running(id) {
            return OfferResult::Queued;
        }
        if partition.queue.len() >= self.partition_queued_max && place == partition.queue.len() {
            self.overflow.insert(key, id);
            return OfferResult::Overflowed;
        }
        if self.queued >= self.queued_max {
            return OfferResult::Full;
        }
        partition.queue.insert(place, id);
        self.queued += 1;
        if partition.queue.len() > self.partition_queued_max
            && let Some(last) = partition.queue.pop_back()
        {
            self.queued -= 1;
            self.overflow.insert(key, last);
        }
        OfferResult::Queued
    }

    /// Restarts the scan of the store after `at`: overflowed deliveries from there on will be offered
    /// again.
    pub(super) fn rewind(&mut self, at: Option<DeliveryId>) {
        self.overflow
            .retain(|_, first| at.is_some_and(|at| *first <= at));
    }

    /// Starts the next delivery of this route.
    pub(super) fn start_next(&mut self, route: usize) -> Option<(PartitionKey, DeliveryId)> {
        let key = self.ready.get_mut(route)?.pop_front()?;
        let partition = self.partitions.get_mut(&key)?;
        let id = partition.queue.pop_front()?;
        partition.state = PartitionState::Running(id);
        Some((key, id))
    }

    /// Starts the next urgent delivery, and also returns its route.
    pub(super) fn start_urgent(&mut self) -> Option<(PartitionKey, DeliveryId, usize)> {
        let key = self.urgent.pop_front()?;
        let partition = self.partitions.get_mut(&key)?;
        let id = partition.queue.pop_front()?;
        partition.urgent.remove(&id);
        partition.state = PartitionState::Running(id);
        Some((key, id, partition.route))
    }

    /// Makes a delivery urgent when it is the first of its partition. The attempt of a running delivery may
    /// just have ended, so such a delivery runs once more if it is deferred. A delivery that is not queued
    /// is ignored.
    pub(super) fn hurry(&mut self, key: PartitionKey, id: DeliveryId) {
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        let is_running = partition.state == PartitionState::Running(id);
        if !is_running && partition.queue.binary_search(&id).is_err() {
            return;
        }
        partition.urgent.insert(id);
        if partition.queue.front() != Some(&id) {
            return;
        }
        match partition.state {
            PartitionState::Running(_) | PartitionState::Urgent => return,
            PartitionState::Ready => {
                let ready = &mut self.ready[partition.route];
                if let Some(at) = ready.iter().position(|other| *other == key) {
                    ready.remove(at);
                }
            }
            PartitionState::Waiting(due) => {
                self.timers.remove(&(due, key));
            }
        }
        self.make_ready(key);
    }

    /// Makes partitions ready whose wait is over at `now`.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((due, key)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            self.make_ready(key);
        }
    }

    /// The time when the next wait is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Removes the finished delivery of this partition. If the partition is empty now and has
    /// overflowed, returns the delivery after which the scan must restart.
    pub(super) fn finish(&mut self, key: PartitionKey) -> Option<DeliveryId> {
        let partition = self.partitions.get_mut(&key)?;
        let PartitionState::Running(id) = partition.state else {
            return None;
        };
        self.queued -= 1;
        partition.attempts = 0;
        partition.urgent.remove(&id);
        if !partition.queue.is_empty() {
            self.make_ready(key);
            return None;
        }
        self.partitions.remove(&key);
        self.overflow.contains_key(&key).then_some(id)
    }

    /// The number of attempts at the first delivery of this partition that were deferred.
    pub(super) fn attempts(&self, key: PartitionKey) -> u32 {
        self.partitions
            .get(&key)
            .map_or(0, |partition| partition.attempts)
    }

    /// Defers the running delivery of this partition until `due`.
    pub(super) fn defer(&mut self, key: PartitionKey, due: Instant) {
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.attempts = partition.attempts.saturating_add(1);
            if !partition.put_back() {
                return;
            }
            if partition.is_urgent() {
                return self.make_ready(key);
            }
            partition.state = PartitionState::Waiting(due);
            self.timers.insert((due, key));
        }
    }

    fn make_ready(&mut self, key: PartitionKey) {
        let Some(partition) = self.partitions.get_mut(&key) else {
            return;
        };
        if partition.is_urgent() {
            partition.state = PartitionState::Urgent;
            self.urgent.push_back(key);
        } else {
            partition.state = PartitionState::Ready;
            self.ready[partition.route].push_back(key);
        }
    }
}

impl Partition {
    fn is_urgent(&self) -> bool {
        let first = self.queue.front();
        first.is_some_and(|first| self.urgent.contains(first))
    }

    fn put_back(&mut self) -> bool {
        let PartitionState::Running(id) = self.state else {
            return false;
        };
        if let Err(place) = self.queue.binary_search(&id) {
            self.queue.insert(place, id);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::store::MailId;

    fn id(n: u64) -> DeliveryId {
        DeliveryId {
            mail: MailId(n),
            recipient: 0,
        }
    }

    fn key(n: u8) -> PartitionKey {
        PartitionKey(u128::from(n))
    }

    #[test]
    fn a_partition_runs_one_at_a_time_in_order_while_others_continue() {
        let mut partitions = Partitions::new(1, 100);
        for (n, partition) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            assert_eq!(
                partitions.offer(key(partition), 0, id(n)),
                OfferResult::Queued
            );
        }
        assert_eq!(partitions.start_next(0), Some((key(1), id(1))));
        assert_eq!(partitions.start_next(0), Some((key(2), id(3))));
        assert_eq!(partitions.start_next(0), None);
        let now = Instant::now();
        partitions.defer(key(1), now + Duration::from_secs(5));
        partitions.finish(key(2));
        partitions.wake(now + Duration::from_secs(4));
        assert_eq!(partitions.start_next(0), None);
        assert_eq!(partitions.attempts(key(1)), 1);
        partitions.wake(now + Duration::from_secs(5));
        assert_eq!(partitions.start_next(0), Some((key(1), id(1))));
        partitions.finish(key(1));
        assert_eq!(partitions.attempts(key(1)), 0);
        assert_eq!(partitions.start_next(0), Some((key(1), id(2))));
    }

    #[test]
    fn a_released_delivery_goes_before_younger_ones() {
        let mut partitions = Partitions::new(1, 100);
        partitions.offer(key(1), 0, id(5));
        partitions.offer(key(1), 0, id(3));
        assert_eq!(partitions.start_next(0), Some((key(1), id(3))));
        partitions.offer(key(1), 0, id(3));
        assert_eq!(partitions.queued(), 2);
    }

    #[test]
    fn an_urgent_delivery_waits_only_for_those_before_it() {
        let mut partitions = Partitions::new(2, 100);
        for n in 1..=3 {
            partitions.offer(key(1), 1, id(n));
        }
        partitions.offer(key(2), 1, id(9));
        let now = Instant::now();
        assert_eq!(partitions.start_next(1), Some((key(1), id(1))));
        // A running delivery is attempted once more if it fails.
        partitions.hurry(key(1), id(1));
        assert_eq!(partitions.start_urgent(), None);
        partitions.defer(key(1), now + Duration::from_secs(600));
        assert_eq!(partitions.start_urgent(), Some((key(1), id(1), 1)));
        partitions.defer(key(1), now + Duration::from_secs(600));
        assert_eq!(partitions.start_urgent(), None);
        // A delivery behind another becomes urgent when the other is finished.
        partitions.hurry(key(1), id(2));
        assert_eq!(partitions.start_urgent(), None);
        partitions.hurry(key(1), id(1));
        partitions.hurry(key(1), id(1));
        assert_eq!(partitions.start_urgent(), Some((key(1), id(1), 1)));
        assert_eq!(partitions.start_urgent(), None);
        partitions.wake(now + Duration::from_secs(600));
        assert_eq!(partitions.start_next(1), Some((key(2), id(9))));
        partitions.finish(key(1));
        assert_eq!(partitions.start_next(1), None, "the route does not count");
        assert_eq!(partitions.start_urgent(), Some((key(1), id(2), 1)));
        // A delivery is urgent once: after that it waits like any other.
        partitions.defer(key(1), now + Duration::from_secs(600));
        assert_eq!(partitions.start_urgent(), None);
        partitions.wake(now + Duration::from_secs(600));
        assert_eq!(partitions.start_next(1), Some((key(1), id(2))));
        partitions.finish(key(1));
        partitions.hurry(key(1), id(3));
        assert_eq!(partitions.start_urgent(), Some((key(1), id(3), 1)));
        partitions.finish(key(1));
        partitions.hurry(key(1), id(3));
        partitions.hurry(key(7), id(3));
        partitions.finish(key(2));
        assert_eq!(
            (
                partitions.start_urgent(),
                partitions.start_next(1),
                partitions.queued()
            ),
            (None, None, 0)
        );
    }

    #[test]
    fn an_endless_partition_leaves_space_for_others() {
        let mut partitions = Partitions::new(1, 10_000);
        for n in 0..5_000 {
            partitions.offer(key(1), 0, id(n));
        }
        assert_eq!(partitions.queued(), PARTITION_QUEUED_MAX);
        assert_eq!(partitions.offer(key(2), 0, id(5_000)), OfferResult::Queued);
        partitions.start_next(0);
        partitions.defer(key(1), Instant::now() + Duration::from_secs(60));
        assert_eq!(partitions.start_next(0), Some((key(2), id(5_000))));
    }

    /// A random run over a store of few partitions with tiny bounds, with all invariants checked.
    fn play(arrivals: &[u8], choices: &[u8]) -> Result<(), TestCaseError> {
        let mut partitions = Partitions::new(1, 6);
        partitions.partition_queued_max = 2;
        let now = Instant::now();
        let mut waiting: BTreeMap<u64, u8> = (0..).zip(arrivals.iter().copied()).collect();
        let mut cursor = None;
        let mut running: BTreeMap<PartitionKey, u64> = BTreeMap::new();
        let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
        for _ in 0..arrivals.len() * 40 + 400 {
            let from = cursor.map_or(0, |c: u64| c + 1);
            for (n, partition) in waiting.range(from..).take(3) {
                if partitions.offer(key(*partition), 0, id(*n)) == OfferResult::Full {
                    break;
                }
                cursor = Some(*n);
            }
            partitions.wake(now);
            let urgent = partitions
                .start_urgent()
                .map(|(partition, id, _)| (partition, id));
            if let Some((partition, taken)) = urgent.or_else(|| partitions.start_next(0)) {
                let n = taken.mail.0;
                let mates = waiting.iter().filter(|(_, l)| key(**l) == partition);
                prop_assert_eq!(
                    mates.map(|(n, _)| *n).min(),
                    Some(n),
                    "order in the partition"
                );
                prop_assert!(running.insert(partition, n).is_none(), "one at a time");
            }
            prop_assert!(partitions.queued() <= 6);
            let choice = choices.next().unwrap_or_default();
            if choice == 3
                && let Some((n, partition)) = waiting.iter().nth_back(waiting.len() / 2)
            {
                partitions.hurry(key(*partition), id(*n));
            }
            let Some((partition, n)) = running.iter().map(|(l, n)| (*l, *n)).next() else {
                continue;
            };
            match choice % 4 {
                0 => {
                    running.remove(&partition);
                    waiting.remove(&n);
                    if let Some(after) = partitions.finish(partition) {
                        let at = cursor.map(|c| c.min(after.mail.0));
                        cursor = at;
                        partitions.rewind(at.map(id));
                    }
                }
                1 => {
                    running.remove(&partition);
                    partitions.defer(partition, now);
                }
                _ => {}
            }
        }
        prop_assert!(waiting.is_empty(), "left: {:?}", waiting);
        prop_assert_eq!(partitions.queued(), 0);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_delivery_runs_once_and_in_order(
            arrivals in prop::collection::vec(0u8..5, 0..40),
            choices in prop::collection::vec(0u8..4, 0..120),
        ) {
            play(&arrivals, &choices)?;
        }
    }
}
