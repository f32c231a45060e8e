//! Which message leaves next: four lanes, each in the order of acceptance, the higher before the lower.
//!
//! Invariant: a lane that has something to send is passed over at most [`GUARD`] times plus once for each other lane that
//! waits as long, so nothing starves.
//! Deliberately not here: why a message may leave. What stands in a lane may.

use super::Lane;
use super::packed::Packed;
use crate::relay::record::MessageId;

/// How often a lane may be passed over in favour of higher ones.
pub(super) const GUARD: u32 = 8;

/// The messages that may leave now.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    ready: [Packed<MessageId, ()>; Lane::COUNT],
    /// How often each lane was passed over since something of it left.
    passed: [u32; Lane::COUNT],
}

impl Lanes {
    pub(super) fn insert(&mut self, lane: Lane, id: MessageId) {
        self.ready[lane.index()].insert(id, ());
    }

    pub(super) fn remove(&mut self, lane: Lane, id: MessageId) {
        self.ready[lane.index()].remove(id);
    }

    /// The lane whose turn it is among those not `blocked`, and its oldest message.
    pub(super) fn pick(&self, critical_only: bool, blocked: [bool; Lane::COUNT]) -> Option<(Lane, MessageId)> {
        let lanes = if critical_only { &Lane::ALL[..1] } else { &Lane::ALL[..] };
        let starved = |lane: &Lane| self.passed[lane.index()].checked_sub(GUARD).map_or(0, |over| over + 1);
        // The longest starved, else the highest: `max_by_key` gives the last of equals, hence the reversed order.
        let waiting = lanes.iter().rev().copied().filter(|lane| !blocked[lane.index()]);
        let heads = waiting.filter_map(|lane| Some((lane, self.ready[lane.index()].first()?.0)));
        heads.max_by_key(|(lane, _)| starved(lane))
    }

    /// The messages of a lane, in order.
    pub(super) fn ready(&self, lane: Lane) -> impl Iterator<Item = MessageId> {
        self.ready[lane.index()].iter().map(|(id, ())| *id)
    }

    /// Something of this lane leaves: the others were passed over.
    pub(super) fn departed(&mut self, lane: Lane) {
        for other in Lane::ALL {
            let passed = &mut self.passed[other.index()];
            *passed = if other == lane || self.ready[other.index()].is_empty() { 0 } else { passed.saturating_add(1) };
        }
    }

    pub(super) fn is_empty(&self, critical_only: bool) -> bool {
        let count = if critical_only { 1 } else { Lane::COUNT };
        self.ready[..count].iter().all(Packed::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: [bool; Lane::COUNT] = [false; Lane::COUNT];

    fn take(lanes: &mut Lanes, critical_only: bool) -> Option<(Lane, u128)> {
        let (lane, id) = lanes.pick(critical_only, FREE)?;
        lanes.departed(lane);
        lanes.remove(lane, id);
        Some((lane, id.0))
    }

    #[test]
    fn higher_lanes_first_and_each_in_the_order_of_acceptance() {
        let mut lanes = Lanes::default();
        for (lane, id) in [(Lane::Low, 1), (Lane::Medium, 3), (Lane::Medium, 2), (Lane::Critical, 4), (Lane::High, 5)] {
            lanes.insert(lane, MessageId(id));
        }
        let order: Vec<u128> = std::iter::from_fn(|| take(&mut lanes, false)).map(|(_, id)| id).collect();
        assert_eq!(order, [4, 5, 2, 3, 1]);
    }

    #[test]
    fn only_the_critical_lane_where_only_it_is_asked_for() {
        let mut lanes = Lanes::default();
        lanes.insert(Lane::High, MessageId(1));
        assert_eq!(take(&mut lanes, true), None);
        assert!(lanes.is_empty(true) && !lanes.is_empty(false));
        lanes.insert(Lane::Critical, MessageId(2));
        assert_eq!(take(&mut lanes, true), Some((Lane::Critical, 2)));
    }

    #[test]
    fn no_lane_starves() {
        let mut lanes = Lanes::default();
        for n in 0..100 {
            lanes.insert(Lane::Critical, MessageId(n));
            lanes.insert(Lane::Medium, MessageId(1000 + n));
            lanes.insert(Lane::Low, MessageId(2000 + n));
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
        lanes.insert(Lane::Critical, MessageId(1));
        lanes.insert(Lane::Low, MessageId(2));
        assert_eq!(lanes.pick(false, [true, false, false, false]), Some((Lane::Low, MessageId(2))));
    }
}
