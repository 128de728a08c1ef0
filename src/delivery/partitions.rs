//! Owns the order of deliveries: which may run now, which must wait, and for what.
//!
//! Holds names only, neither mails nor envelopes; runs nothing and reads no clock.
//!
//! A lane is a line of deliveries that must stay in order: those of one token's thread, or those of
//! one sender to a mailbox. Of a lane at most one runs. One that must wait holds its lane; lanes do
//! not hold each other. A lane longer than [`PARTITION_QUEUED_MAX`] is held in part and marked, and the
//! walk over the store goes on past it: so however long one lane grows, those behind are seen.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use crate::mail::partition::PartitionKey;
use crate::store::DeliveryId;

/// Of one lane at most so many deliveries are held; the rest is found again in the store.
pub(super) const PARTITION_QUEUED_MAX: usize = 4096;

/// What became of an offered delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferResult {
    /// It is held now, or was already.
    Queued,
    /// Its lane is full, or waits for one before it: it must be offered again.
    Overflowed,
    /// Nothing more can be held at all.
    Full,
}

/// All lanes of all routes.
#[derive(Debug)]
pub(super) struct Partitions {
    partitions: HashMap<PartitionKey, Partition>,
    /// Lanes whose first delivery may run, by route, in the order they became ready: that of arrival
    /// for those never tried, and one that was put off stands at the end of the line again.
    ready: Vec<VecDeque<PartitionKey>>,
    /// Lanes that wait, by the moment they may run again.
    timers: BTreeSet<(Instant, PartitionKey)>,
    /// Lanes of which the store has more than is held, with the first that is not held.
    overflow: BTreeMap<PartitionKey, DeliveryId>,
    queued: usize,
    queued_max: usize,
    partition_queued_max: usize,
}

#[derive(Debug)]
struct Partition {
    route: usize,
    /// In order of arrival, without the one that runs.
    queue: VecDeque<DeliveryId>,
    state: PartitionState,
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartitionState {
    Ready,
    Running(DeliveryId),
    Waiting(Instant),
}

impl Partitions {
    /// Empty lanes for so many routes, which hold at most `held_max` deliveries in all.
    pub(super) fn new(routes: usize, held_max: usize) -> Self {
        Self {
            partitions: HashMap::new(),
            ready: vec![VecDeque::new(); routes],
            timers: BTreeSet::new(),
            overflow: BTreeMap::new(),
            queued: 0,
            queued_max: held_max,
            partition_queued_max: PARTITION_QUEUED_MAX,
        }
    }

    /// How many deliveries are held, those that run among them.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// True if the lane is there, so that its route is known.
    pub(super) fn contains(&self, key: PartitionKey) -> bool {
        self.partitions.contains_key(&key)
    }

    /// Takes a delivery into its lane. Offering one again changes nothing. `route` counts for a lane
    /// that is not there yet.
    pub(super) fn offer(&mut self, key: PartitionKey, route: usize, id: DeliveryId) -> OfferResult {
        if self.overflow.get(&key).is_some_and(|first| id >= *first) {
            return OfferResult::Overflowed;
        }
        let Some(lane) = self.partitions.get_mut(&key) else {
            if self.queued >= self.queued_max {
                return OfferResult::Full;
            }
            let lane = Partition {
                route,
                queue: VecDeque::from([id]),
                state: PartitionState::Ready,
                attempts: 0,
            };
            self.queued += 1;
            self.partitions.insert(key, lane);
            self.ready[route].push_back(key);
            return OfferResult::Queued;
        };
        let Err(place) = lane.queue.binary_search(&id) else {
            return OfferResult::Queued;
        };
        if lane.state == PartitionState::Running(id) {
            return OfferResult::Queued;
        }
        if lane.queue.len() >= self.partition_queued_max && place == lane.queue.len() {
            self.overflow.insert(key, id);
            return OfferResult::Overflowed;
        }
        if self.queued >= self.queued_max {
            return OfferResult::Full;
        }
        lane.queue.insert(place, id);
        self.queued += 1;
        if lane.queue.len() > self.partition_queued_max
            && let Some(last) = lane.queue.pop_back()
        {
            self.queued -= 1;
            self.overflow.insert(key, last);
        }
        OfferResult::Queued
    }

    /// The walk over the store begins again after `at`: what was left behind from there on will be
    /// offered again.
    pub(super) fn rewind(&mut self, at: Option<DeliveryId>) {
        self.overflow
            .retain(|_, first| at.is_some_and(|at| *first <= at));
    }

    /// The delivery of this route whose turn it is. It runs from now on.
    pub(super) fn start_next(&mut self, route: usize) -> Option<(PartitionKey, DeliveryId)> {
        let key = self.ready.get_mut(route)?.pop_front()?;
        let lane = self.partitions.get_mut(&key)?;
        let id = lane.queue.pop_front()?;
        lane.state = PartitionState::Running(id);
        Some((key, id))
    }

    /// Lanes whose wait is over at `now` become ready.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((due, key)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            self.make_ready(key);
        }
    }

    /// When the next wait is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The delivery that ran in this lane is over. If the lane is empty now and more of it was left
    /// behind, says after which delivery the walk must begin again.
    pub(super) fn finish(&mut self, key: PartitionKey) -> Option<DeliveryId> {
        let lane = self.partitions.get_mut(&key)?;
        let PartitionState::Running(id) = lane.state else {
            return None;
        };
        self.queued -= 1;
        lane.attempts = 0;
        if !lane.queue.is_empty() {
            self.make_ready(key);
            return None;
        }
        self.partitions.remove(&key);
        self.overflow.contains_key(&key).then_some(id)
    }

    /// How often the first delivery of this lane was tried and put off.
    pub(super) fn attempts(&self, key: PartitionKey) -> u32 {
        self.partitions.get(&key).map_or(0, |lane| lane.attempts)
    }

    /// The delivery that ran in this lane must run again, not before `due`.
    pub(super) fn defer(&mut self, key: PartitionKey, due: Instant) {
        if let Some(lane) = self.partitions.get_mut(&key) {
            lane.attempts = lane.attempts.saturating_add(1);
            if lane.put_back() {
                lane.state = PartitionState::Waiting(due);
                self.timers.insert((due, key));
            }
        }
    }

    fn make_ready(&mut self, key: PartitionKey) {
        if let Some(lane) = self.partitions.get_mut(&key) {
            lane.state = PartitionState::Ready;
            self.ready[lane.route].push_back(key);
        }
    }
}

impl Partition {
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
    fn a_lane_runs_one_at_a_time_in_order_while_others_go_on() {
        let mut lanes = Partitions::new(1, 100);
        for (n, lane) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            assert_eq!(lanes.offer(key(lane), 0, id(n)), OfferResult::Queued);
        }
        assert_eq!(lanes.start_next(0), Some((key(1), id(1))));
        assert_eq!(lanes.start_next(0), Some((key(2), id(3))));
        assert_eq!(lanes.start_next(0), None);
        let now = Instant::now();
        lanes.defer(key(1), now + Duration::from_secs(5));
        lanes.finish(key(2));
        lanes.wake(now + Duration::from_secs(4));
        assert_eq!(lanes.start_next(0), None);
        assert_eq!(lanes.attempts(key(1)), 1);
        lanes.wake(now + Duration::from_secs(5));
        assert_eq!(lanes.start_next(0), Some((key(1), id(1))));
        lanes.finish(key(1));
        assert_eq!(lanes.attempts(key(1)), 0);
        assert_eq!(lanes.start_next(0), Some((key(1), id(2))));
    }

    #[test]
    fn a_released_delivery_goes_before_younger_ones() {
        let mut lanes = Partitions::new(1, 100);
        lanes.offer(key(1), 0, id(5));
        lanes.offer(key(1), 0, id(3));
        assert_eq!(lanes.start_next(0), Some((key(1), id(3))));
        lanes.offer(key(1), 0, id(3));
        assert_eq!(lanes.queued(), 2);
    }

    #[test]
    fn an_endless_lane_leaves_room_for_others() {
        let mut lanes = Partitions::new(1, 10_000);
        for n in 0..5_000 {
            lanes.offer(key(1), 0, id(n));
        }
        assert_eq!(lanes.queued(), PARTITION_QUEUED_MAX);
        assert_eq!(lanes.offer(key(2), 0, id(5_000)), OfferResult::Queued);
        lanes.start_next(0);
        lanes.defer(key(1), Instant::now() + Duration::from_secs(60));
        assert_eq!(lanes.start_next(0), Some((key(2), id(5_000))));
    }

    /// A walk over a store of few lanes with tiny bounds, against what must hold.
    fn play(arrivals: &[u8], choices: &[u8]) -> Result<(), TestCaseError> {
        let mut lanes = Partitions::new(1, 6);
        lanes.partition_queued_max = 2;
        let now = Instant::now();
        let mut waiting: BTreeMap<u64, u8> = (0..).zip(arrivals.iter().copied()).collect();
        let mut cursor = None;
        let mut running: BTreeMap<PartitionKey, u64> = BTreeMap::new();
        let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
        for _ in 0..arrivals.len() * 40 + 400 {
            let from = cursor.map_or(0, |c: u64| c + 1);
            for (n, lane) in waiting.range(from..).take(3) {
                if lanes.offer(key(*lane), 0, id(*n)) == OfferResult::Full {
                    break;
                }
                cursor = Some(*n);
            }
            lanes.wake(now);
            if let Some((lane, taken)) = lanes.start_next(0) {
                let n = taken.mail.0;
                let mates = waiting.iter().filter(|(_, l)| key(**l) == lane);
                prop_assert_eq!(mates.map(|(n, _)| *n).min(), Some(n), "order in the lane");
                prop_assert!(running.insert(lane, n).is_none(), "one at a time");
            }
            prop_assert!(lanes.queued() <= 6);
            let choice = choices.next().unwrap_or_default();
            let Some((lane, n)) = running.iter().map(|(l, n)| (*l, *n)).next() else {
                continue;
            };
            match choice % 3 {
                0 => {
                    running.remove(&lane);
                    waiting.remove(&n);
                    if let Some(after) = lanes.finish(lane) {
                        let at = cursor.map(|c| c.min(after.mail.0));
                        cursor = at;
                        lanes.rewind(at.map(id));
                    }
                }
                1 => {
                    running.remove(&lane);
                    lanes.defer(lane, now);
                }
                _ => {}
            }
        }
        prop_assert!(waiting.is_empty(), "left: {:?}", waiting);
        prop_assert_eq!(lanes.queued(), 0);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_delivery_runs_once_and_in_order(
            arrivals in prop::collection::vec(0u8..5, 0..40),
            choices in prop::collection::vec(0u8..3, 0..120),
        ) {
            play(&arrivals, &choices)?;
        }
    }
}
