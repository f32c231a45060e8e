//! Upstream's own sequence numbers: what is a duplicate, what is missing, what is a new start.
//!
//! Only for dialects that say (`[gap]`) that their numbers have no holes; elsewhere numbers are passed on and prove nothing.
//! Invariant: an event is never taken for a duplicate if it could be the first of a restarted sequence; then it is told as a
//! new start, because a duplicate too many does less harm than an event too few.
//! Deliberately not here: repair; what a gap does to a channel.

use std::collections::BTreeMap;

use crate::dialect::{GapPolicy, GapScope, Then};

use super::feed::RingId;
use super::pairs::AttemptId;

/// Steps back within one connection that count as a late duplicate; further back is a restart.
const DUPLICATE_WINDOW: u64 = 10_000;

/// What a sequence number says of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The next one, or nothing is known before it, or numbers prove nothing here.
    Next,
    /// Seen before.
    Duplicate,
    /// These numbers are missing before it.
    Gap {
        /// First missing.
        from: u64,
        /// Last missing.
        to: u64,
    },
    /// Upstream counts anew.
    Restart,
}

/// What the last event was.
#[derive(Debug, Clone, Copy)]
struct Last {
    sequence: u64,
    attempt: AttemptId,
}

/// The newest number per channel, or of the connection.
#[derive(Debug)]
pub struct Sequence {
    policy: Option<GapPolicy>,
    channels: BTreeMap<RingId, Last>,
    connection: Option<Last>,
}

impl Sequence {
    /// By the dialect's `[gap]`.
    pub fn new(policy: Option<&GapPolicy>) -> Self {
        Sequence { policy: policy.copied(), channels: BTreeMap::new(), connection: None }
    }

    /// What numbers count, if they prove anything.
    pub fn scope(&self) -> Option<GapScope> {
        self.policy.map(|policy| policy.scope)
    }

    /// What the dialect wants done about missing numbers.
    pub fn repair(&self) -> Option<Then> {
        self.policy.and_then(|policy| policy.then)
    }

    /// Whether upstream's numbers will show what a lost connection lost on this channel.
    pub fn vouches_for(&self, ring: RingId) -> bool {
        match self.scope() {
            Some(GapScope::Channel) => self.channels.contains_key(&ring),
            Some(GapScope::Connection) | None => false,
        }
    }

    /// Judges an event's numbers and remembers them, unless it is a duplicate.
    pub fn judge(&mut self, ring: RingId, attempt: AttemptId, numbers: Option<(u64, u64)>) -> Order {
        let (Some(policy), Some((first, last))) = (self.policy, numbers) else { return Order::Next };
        let before = match policy.scope {
            GapScope::Channel => self.channels.get(&ring).copied(),
            // Numbers of a connection begin anew with each connection.
            GapScope::Connection => self.connection.filter(|last| last.attempt == attempt),
        };
        let order = before.map_or(Order::Next, |before| compare(policy.step.max(1), before, attempt, first, last));
        if order != Order::Duplicate {
            let newest = Last { sequence: last, attempt };
            match policy.scope {
                GapScope::Channel => drop(self.channels.insert(ring, newest)),
                GapScope::Connection => self.connection = Some(newest),
            }
        }
        order
    }

    /// The channel's history is over: its next event is a first one.
    pub fn forget(&mut self, ring: RingId) {
        self.channels.remove(&ring);
    }
}

fn compare(step: u64, before: Last, attempt: AttemptId, first: u64, last: u64) -> Order {
    let expected = before.sequence.saturating_add(step);
    if first > expected {
        return Order::Gap { from: expected, to: first.saturating_sub(step) };
    }
    if last > before.sequence {
        // Ranges may overlap what was seen; the new part counts.
        return Order::Next;
    }
    if last == before.sequence {
        // Services that resume like to begin with the last one.
        return Order::Duplicate;
    }
    let back = before.sequence - last;
    let begins_anew = first <= step;
    if before.attempt != attempt || begins_anew || back > DUPLICATE_WINDOW.saturating_mul(step) {
        Order::Restart
    } else {
        Order::Duplicate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: RingId = RingId(3);
    const FIRST: AttemptId = AttemptId(1);

    fn sequence(scope: GapScope) -> Sequence {
        Sequence::new(Some(&GapPolicy { scope, step: 1, then: None }))
    }

    #[test]
    fn numbers_prove_gaps_and_duplicates_per_channel() {
        let mut numbers = sequence(GapScope::Channel);
        assert_eq!(numbers.judge(RING, FIRST, Some((5, 5))), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((6, 6))), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((6, 6))), Order::Duplicate);
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9))), Order::Gap { from: 7, to: 8 });
        assert_eq!(numbers.judge(RING, FIRST, Some((10, 14))), Order::Next);
        assert_eq!(
            numbers.judge(RING, FIRST, Some((13, 17))),
            Order::Next,
            "an overlapping range brings something new"
        );
        assert_eq!(numbers.judge(RingId(4), FIRST, Some((1, 1))), Order::Next, "channels count apart");
    }

    #[test]
    fn a_restart_is_never_a_duplicate_for_ever() {
        let mut numbers = sequence(GapScope::Channel);
        numbers.judge(RING, FIRST, Some((50, 50)));
        assert_eq!(numbers.judge(RING, FIRST, Some((1, 1))), Order::Restart);
        assert_eq!(numbers.judge(RING, FIRST, Some((2, 2))), Order::Next);
        numbers.judge(RING, FIRST, Some((50_000, 50_000)));
        assert_eq!(numbers.judge(RING, FIRST, Some((20, 20))), Order::Restart, "too far back to be late");
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((20, 20))), Order::Duplicate, "the last one once more");
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((15, 15))), Order::Restart, "another connection");
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((16, 16))), Order::Next);
    }

    #[test]
    fn connection_numbers_begin_anew_and_vouch_for_nothing_over_a_reconnect() {
        let mut numbers = sequence(GapScope::Connection);
        numbers.judge(RING, FIRST, Some((1, 1)));
        assert_eq!(numbers.judge(RingId(4), FIRST, Some((3, 3))), Order::Gap { from: 2, to: 2 });
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((1, 1))), Order::Next);
        assert!(!numbers.vouches_for(RING));
    }

    #[test]
    fn without_a_policy_numbers_prove_nothing() {
        let mut numbers = Sequence::new(None);
        numbers.judge(RING, FIRST, Some((1, 1)));
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9))), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9))), Order::Next);
    }
}
