//! Which message leaves next: four lanes, each in the order of acceptance, the higher before the lower. In each those that were
//! tried before stand apart: where they may not leave, the others of their lane go on without them.
//!
//! Invariant: a lane that has something that may leave is passed over at most [`GUARD`] times plus once for each other lane that
//! waits as long, so nothing starves.
//! Deliberately not here: why a message may leave. What stands in a lane may.

use super::Lane;
use super::packed::Packed;
use crate::relay::record::MessageId;

/// How often a lane may be passed over in favour of higher ones.
pub(super) const GUARD: u32 = 8;

/// One of the two rows of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) lane: Lane,
    /// An attempt left before.
    pub(super) tried: bool,
}

impl Row {
    const COUNT: usize = 2 * Lane::COUNT;

    fn of(lane: Lane) -> [Row; 2] {
        [false, true].map(|tried| Row { lane, tried })
    }

    fn index(self) -> usize {
        2 * self.lane.index() + usize::from(self.tried)
    }
}

/// The messages that may leave now.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    ready: [Packed<MessageId, ()>; Row::COUNT],
    /// How often each lane was passed over since something of it left.
    passed: [u32; Lane::COUNT],
}

impl Lanes {
    pub(super) fn insert(&mut self, row: Row, id: MessageId) {
        self.ready[row.index()].insert(id, ());
    }

    pub(super) fn remove(&mut self, lane: Lane, id: MessageId) {
        for row in Row::of(lane) {
            self.ready[row.index()].remove(id);
        }
    }

    /// The row in which the oldest message of the lane stands whose turn it is among those not `blocked`, and that message.
    /// `tried`: whether those may leave that were tried before.
    pub(super) fn pick(
        &self,
        critical_only: bool,
        blocked: [bool; Lane::COUNT],
        tried: bool,
    ) -> Option<(Row, MessageId)> {
        let lanes = if critical_only { &Lane::ALL[..1] } else { &Lane::ALL[..] };
        let starved = |row: &Row| self.passed[row.lane.index()].checked_sub(GUARD).map_or(0, |over| over + 1);
        // The longest starved, else the highest: `max_by_key` gives the last of equals, hence the reversed order.
        let waiting = lanes.iter().rev().copied().filter(|lane| !blocked[lane.index()]);
        let heads = waiting.filter_map(|lane| self.head(lane, tried));
        heads.max_by_key(|(row, _)| starved(row))
    }

    fn head(&self, lane: Lane, tried: bool) -> Option<(Row, MessageId)> {
        let rows = Row::of(lane).into_iter().filter(|row| tried || !row.tried);
        rows.filter_map(|row| Some((row, self.ready[row.index()].first()?.0))).min_by_key(|(_, id)| *id)
    }

    /// The messages of a row, in order.
    pub(super) fn ready(&self, row: Row) -> impl Iterator<Item = MessageId> {
        self.ready[row.index()].iter().map(|(id, ())| *id)
    }

    /// Something of this lane leaves: the others were passed over, unless they have only what may not leave.
    pub(super) fn departed(&mut self, lane: Lane, tried: bool) {
        for other in Lane::ALL {
            let (waits, may_leave) = (self.head(other, true).is_some(), self.head(other, tried).is_some());
            let passed = &mut self.passed[other.index()];
            *passed = if other == lane || !waits { 0 } else { passed.saturating_add(may_leave.into()) };
        }
    }

    /// Whether one waits that was never tried.
    pub(super) fn has_untried(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| !self.ready[Row { lane, tried: false }.index()].is_empty())
    }

    pub(super) fn is_empty(&self, critical_only: bool) -> bool {
        let lanes = if critical_only { &Lane::ALL[..1] } else { &Lane::ALL[..] };
        lanes.iter().flat_map(|lane| Row::of(*lane)).all(|row| self.ready[row.index()].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: [bool; Lane::COUNT] = [false; Lane::COUNT];

    fn untried(lane: Lane) -> Row {
        Row { lane, tried: false }
    }

    fn tried(lane: Lane) -> Row {
        Row { lane, tried: true }
    }

    fn take_of(lanes: &mut Lanes, critical_only: bool, tried: bool) -> Option<(Lane, u128)> {
        let (Row { lane, .. }, id) = lanes.pick(critical_only, FREE, tried)?;
        lanes.departed(lane, tried);
        lanes.remove(lane, id);
        Some((lane, id.0))
    }

    fn take(lanes: &mut Lanes, critical_only: bool) -> Option<(Lane, u128)> {
        take_of(lanes, critical_only, true)
    }

    #[test]
    fn higher_lanes_first_and_each_in_the_order_of_acceptance() {
        let mut lanes = Lanes::default();
        for (lane, id) in [(Lane::Low, 1), (Lane::Medium, 3), (Lane::Medium, 2), (Lane::Critical, 4), (Lane::High, 5)] {
            lanes.insert(untried(lane), MessageId(id));
        }
        let order: Vec<u128> = std::iter::from_fn(|| take(&mut lanes, false)).map(|(_, id)| id).collect();
        assert_eq!(order, [4, 5, 2, 3, 1]);
    }

    #[test]
    fn only_the_critical_lane_where_only_it_is_asked_for() {
        let mut lanes = Lanes::default();
        lanes.insert(untried(Lane::High), MessageId(1));
        assert_eq!(take(&mut lanes, true), None);
        assert!(lanes.is_empty(true) && !lanes.is_empty(false));
        lanes.insert(untried(Lane::Critical), MessageId(2));
        assert_eq!(take(&mut lanes, true), Some((Lane::Critical, 2)));
    }

    #[test]
    fn no_lane_starves() {
        let mut lanes = Lanes::default();
        for n in 0..100 {
            lanes.insert(untried(Lane::Critical), MessageId(n));
            lanes.insert(untried(Lane::Medium), MessageId(1000 + n));
            lanes.insert(untried(Lane::Low), MessageId(2000 + n));
        }
        let order: Vec<Lane> = std::iter::from_fn(|| take(&mut lanes, false)).map(|(lane, _)| lane).take(50).collect();
        for lane in [Lane::Medium, Lane::Low] {
            let places: Vec<usize> = (0..50).filter(|n| order[*n] == lane).collect();
            assert!(places[0] <= 9 && places.windows(2).all(|pair| pair[1] - pair[0] <= 10), "{lane:?}: {places:?}");
        }
        let critical = order.iter().filter(|lane| **lane == Lane::Critical).count();
        assert!(critical >= 38, "the guard is no fair share: {critical}");
    }

    #[test]
    fn a_blocked_lane_is_stepped_over() {
        let mut lanes = Lanes::default();
        lanes.insert(untried(Lane::Critical), MessageId(1));
        lanes.insert(untried(Lane::Low), MessageId(2));
        let picked = lanes.pick(false, [true, false, false, false], true);
        assert_eq!(picked, Some((untried(Lane::Low), MessageId(2))));
    }

    #[test]
    fn what_was_tried_stands_in_the_order_of_its_lane_and_aside_where_it_may_not_leave() {
        let mut lanes = Lanes::default();
        lanes.insert(tried(Lane::Medium), MessageId(1));
        lanes.insert(tried(Lane::Critical), MessageId(5));
        assert!(!lanes.has_untried());
        lanes.insert(untried(Lane::Medium), MessageId(2));
        lanes.insert(tried(Lane::Medium), MessageId(3));
        assert!(lanes.has_untried());
        assert_eq!(take_of(&mut lanes, false, false), Some((Lane::Medium, 2)));
        assert_eq!((take_of(&mut lanes, false, false), lanes.is_empty(false)), (None, false));
        lanes.insert(untried(Lane::Medium), MessageId(2));
        let order: Vec<u128> = std::iter::from_fn(|| take(&mut lanes, false)).map(|(_, id)| id).collect();
        assert_eq!(order, [5, 1, 2, 3]);
    }

    #[test]
    fn a_lane_whose_messages_may_not_leave_is_not_passed_over() {
        let mut lanes = Lanes::default();
        lanes.insert(tried(Lane::Low), MessageId(1));
        for n in 10..30 {
            lanes.insert(untried(Lane::Medium), MessageId(n));
            assert_eq!(take_of(&mut lanes, false, false), Some((Lane::Medium, n)));
        }
        lanes.insert(tried(Lane::Critical), MessageId(30));
        assert_eq!(take(&mut lanes, false), Some((Lane::Critical, 30)));
    }
}
