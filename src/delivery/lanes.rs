//! Owns the order of deliveries: which may run now, which must wait, and for what.
//!
//! Holds names only, neither mails nor envelopes; runs nothing and reads no clock.
//!
//! A lane is a line of deliveries that must stay in order: those of one token's thread, or those of
//! one sender to a mailbox. Of a lane at most one runs. One that must wait holds its lane; lanes do
//! not hold each other. A lane longer than [`LANE_HELD_MAX`] is held in part and marked, and the
//! walk over the store goes on past it: so however long one lane grows, those behind are seen.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use crate::mail::lane::LaneKey;
use crate::store::DeliveryId;

/// Of one lane at most so many deliveries are held; the rest is found again in the store.
pub(super) const LANE_HELD_MAX: usize = 4096;

/// What became of an offered delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is held now, or was already.
    Held,
    /// Its lane is full, or waits for one before it: it must be offered again.
    Behind,
    /// Nothing more can be held at all.
    NoRoom,
}

/// All lanes of all routes.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes whose first delivery may run, by route, in the order they became ready: that of arrival
    /// for those never tried, and one that was put off stands at the end of the line again.
    ready: Vec<VecDeque<LaneKey>>,
    /// Lanes that wait, by the moment they may run again.
    timers: BTreeSet<(Instant, LaneKey)>,
    /// Lanes of which the store has more than is held, with the first that is not held.
    behind: BTreeMap<LaneKey, DeliveryId>,
    held: usize,
    held_max: usize,
    lane_held_max: usize,
}

#[derive(Debug)]
struct Lane {
    route: usize,
    /// In order of arrival, without the one that runs.
    queue: VecDeque<DeliveryId>,
    state: State,
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Running(DeliveryId),
    Waiting(Instant),
}

impl Lanes {
    /// Empty lanes for so many routes, which hold at most `held_max` deliveries in all.
    pub(super) fn new(routes: usize, held_max: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            ready: vec![VecDeque::new(); routes],
            timers: BTreeSet::new(),
            behind: BTreeMap::new(),
            held: 0,
            held_max,
            lane_held_max: LANE_HELD_MAX,
        }
    }

    /// How many deliveries are held, those that run among them.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// True if the lane is there, so that its route is known.
    pub(super) fn knows(&self, key: LaneKey) -> bool {
        self.lanes.contains_key(&key)
    }

    /// Takes a delivery into its lane. Offering one again changes nothing. `route` counts for a lane
    /// that is not there yet.
    pub(super) fn offer(&mut self, key: LaneKey, route: usize, id: DeliveryId) -> Offered {
        if self.behind.get(&key).is_some_and(|first| id >= *first) {
            return Offered::Behind;
        }
        let Some(lane) = self.lanes.get_mut(&key) else {
            if self.held >= self.held_max {
                return Offered::NoRoom;
            }
            let lane = Lane {
                route,
                queue: VecDeque::from([id]),
                state: State::Ready,
                attempts: 0,
            };
            self.held += 1;
            self.lanes.insert(key, lane);
            self.ready[route].push_back(key);
            return Offered::Held;
        };
        let Err(place) = lane.queue.binary_search(&id) else {
            return Offered::Held;
        };
        if lane.state == State::Running(id) {
            return Offered::Held;
        }
        if lane.queue.len() >= self.lane_held_max && place == lane.queue.len() {
            self.behind.insert(key, id);
            return Offered::Behind;
        }
        if self.held >= self.held_max {
            return Offered::NoRoom;
        }
        lane.queue.insert(place, id);
        self.held += 1;
        if lane.queue.len() > self.lane_held_max
            && let Some(last) = lane.queue.pop_back()
        {
            self.held -= 1;
            self.behind.insert(key, last);
        }
        Offered::Held
    }

    /// The walk over the store begins again after `at`: what was left behind from there on will be
    /// offered again.
    pub(super) fn rewound(&mut self, at: Option<DeliveryId>) {
        self.behind
            .retain(|_, first| at.is_some_and(|at| *first <= at));
    }

    /// The delivery of this route whose turn it is. It runs from now on.
    pub(super) fn take(&mut self, route: usize) -> Option<(LaneKey, DeliveryId)> {
        let key = self.ready.get_mut(route)?.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        let id = lane.queue.pop_front()?;
        lane.state = State::Running(id);
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
    pub(super) fn finish(&mut self, key: LaneKey) -> Option<DeliveryId> {
        let lane = self.lanes.get_mut(&key)?;
        let State::Running(id) = lane.state else {
            return None;
        };
        self.held -= 1;
        lane.attempts = 0;
        if !lane.queue.is_empty() {
            self.make_ready(key);
            return None;
        }
        self.lanes.remove(&key);
        self.behind.contains_key(&key).then_some(id)
    }

    /// How often the first delivery of this lane was tried and put off.
    pub(super) fn attempts(&self, key: LaneKey) -> u32 {
        self.lanes.get(&key).map_or(0, |lane| lane.attempts)
    }

    /// The delivery that ran in this lane must run again, not before `due`.
    pub(super) fn defer(&mut self, key: LaneKey, due: Instant) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.attempts = lane.attempts.saturating_add(1);
            if lane.put_back() {
                lane.state = State::Waiting(due);
                self.timers.insert((due, key));
            }
        }
    }

    fn make_ready(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.state = State::Ready;
            self.ready[lane.route].push_back(key);
        }
    }
}

impl Lane {
    fn put_back(&mut self) -> bool {
        let State::Running(id) = self.state else {
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

    fn key(n: u8) -> LaneKey {
        LaneKey(u128::from(n))
    }

    #[test]
    fn a_lane_runs_one_at_a_time_in_order_while_others_go_on() {
        let mut lanes = Lanes::new(1, 100);
        for (n, lane) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            assert_eq!(lanes.offer(key(lane), 0, id(n)), Offered::Held);
        }
        assert_eq!(lanes.take(0), Some((key(1), id(1))));
        assert_eq!(lanes.take(0), Some((key(2), id(3))));
        assert_eq!(lanes.take(0), None);
        let now = Instant::now();
        lanes.defer(key(1), now + Duration::from_secs(5));
        lanes.finish(key(2));
        lanes.wake(now + Duration::from_secs(4));
        assert_eq!(lanes.take(0), None);
        assert_eq!(lanes.attempts(key(1)), 1);
        lanes.wake(now + Duration::from_secs(5));
        assert_eq!(lanes.take(0), Some((key(1), id(1))));
        lanes.finish(key(1));
        assert_eq!(lanes.attempts(key(1)), 0);
        assert_eq!(lanes.take(0), Some((key(1), id(2))));
    }

    #[test]
    fn a_released_delivery_goes_before_younger_ones() {
        let mut lanes = Lanes::new(1, 100);
        lanes.offer(key(1), 0, id(5));
        lanes.offer(key(1), 0, id(3));
        assert_eq!(lanes.take(0), Some((key(1), id(3))));
        lanes.offer(key(1), 0, id(3));
        assert_eq!(lanes.held(), 2);
    }

    #[test]
    fn an_endless_lane_leaves_room_for_others() {
        let mut lanes = Lanes::new(1, 10_000);
        for n in 0..5_000 {
            lanes.offer(key(1), 0, id(n));
        }
        assert_eq!(lanes.held(), LANE_HELD_MAX);
        assert_eq!(lanes.offer(key(2), 0, id(5_000)), Offered::Held);
        lanes.take(0);
        lanes.defer(key(1), Instant::now() + Duration::from_secs(60));
        assert_eq!(lanes.take(0), Some((key(2), id(5_000))));
    }

    /// A walk over a store of few lanes with tiny bounds, against what must hold.
    fn play(arrivals: &[u8], choices: &[u8]) -> Result<(), TestCaseError> {
        let mut lanes = Lanes::new(1, 6);
        lanes.lane_held_max = 2;
        let now = Instant::now();
        let mut waiting: BTreeMap<u64, u8> = (0..).zip(arrivals.iter().copied()).collect();
        let mut cursor = None;
        let mut running: BTreeMap<LaneKey, u64> = BTreeMap::new();
        let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
        for _ in 0..arrivals.len() * 40 + 400 {
            let from = cursor.map_or(0, |c: u64| c + 1);
            for (n, lane) in waiting.range(from..).take(3) {
                if lanes.offer(key(*lane), 0, id(*n)) == Offered::NoRoom {
                    break;
                }
                cursor = Some(*n);
            }
            lanes.wake(now);
            if let Some((lane, taken)) = lanes.take(0) {
                let n = taken.mail.0;
                let mates = waiting.iter().filter(|(_, l)| key(**l) == lane);
                prop_assert_eq!(mates.map(|(n, _)| *n).min(), Some(n), "order in the lane");
                prop_assert!(running.insert(lane, n).is_none(), "one at a time");
            }
            prop_assert!(lanes.held() <= 6);
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
                        lanes.rewound(at.map(id));
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
        prop_assert_eq!(lanes.held(), 0);
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
