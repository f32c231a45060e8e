//! Upstream's own sequence numbers: what is a duplicate, what is missing, what is a new start.
//!
//! Only for dialects that say (`[gap]`) that their numbers have no holes; elsewhere numbers are passed on and prove nothing.
//! Invariant: an event is never taken for a duplicate if it could be the first of a restarted sequence; then it is told as a
//! new start, because a duplicate too many does less harm than an event too few.
//! Deliberately not here: repair; what a gap does to a channel.

use std::collections::BTreeMap;

use crate::dialect::{GapPolicy, GapScope, OnGap};

use super::feed::RingId;
use super::pairs::AttemptId;

/// Steps back within one connection that count as a late duplicate; further back is a restart.
const DUPLICATE_WINDOW: u64 = 10_000;

/// Late duplicates one after the other, each the next number, that are no late duplicates any more: upstream went back and
/// counts from there.
const LATE_RUN: u32 = 32;

/// What a sequence number says of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The next one, or nothing is known before it, or numbers prove nothing here.
    Next,
    /// Seen before.
    Duplicate,
    /// Before its turn: others may still come that belong before it (`[gap] reorder`).
    Early,
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
    /// The newest late duplicate after it, and how many came one after the other.
    late: (u64, u32),
}

impl Last {
    fn new(sequence: u64, attempt: AttemptId) -> Self {
        Last { sequence, attempt, late: (0, 0) }
    }

    /// A late duplicate with these numbers; whether there were so many that upstream went back.
    fn went_back(&mut self, step: u64, first: u64, last: u64) -> bool {
        let follows = last < self.sequence && first == self.late.0.saturating_add(step);
        self.late = (last, if follows { self.late.1 + 1 } else { 1 });
        self.late.1 >= LATE_RUN
    }
}

/// The newest number per channel, or of the connection.
#[derive(Debug)]
pub struct Sequence {
    policy: Option<GapPolicy>,
    channels: BTreeMap<RingId, Last>,
    /// Of the connection that was judged last, and of the one beside it.
    connection: Option<Last>,
    beside: Option<Last>,
}

impl Sequence {
    /// By the dialect's `[gap]`.
    pub fn new(policy: Option<&GapPolicy>) -> Self {
        Sequence { policy: policy.copied(), channels: BTreeMap::new(), connection: None, beside: None }
    }

    /// What numbers count, if they prove anything.
    pub fn scope(&self) -> Option<GapScope> {
        self.policy.and_then(|policy| policy.scope)
    }

    /// What the dialect wants done about missing numbers.
    pub fn repair(&self) -> OnGap {
        self.policy.map_or(OnGap::Report, |policy| policy.then)
    }

    /// Whether these numbers begin anew after that one, `(attempt, last number)`.
    pub fn restarts(&self, before: (AttemptId, u64), attempt: AttemptId, numbers: (u64, u64)) -> bool {
        let before = Last::new(before.1, before.0);
        compare(self.step(), before, attempt, numbers.0, numbers.1) == Order::Restart
    }

    /// The number that is due next after what was seen, if anything was.
    pub fn expected(&self, ring: RingId) -> Option<u64> {
        let policy = self.policy?;
        let last = match policy.scope? {
            GapScope::Channel => self.channels.get(&ring)?,
            GapScope::Connection => self.connection.as_ref()?,
        };
        Some(last.sequence.saturating_add(policy.step.max(1)))
    }

    /// Whether upstream's numbers will show what a lost connection lost on this channel.
    pub fn vouches_for(&self, ring: RingId) -> bool {
        match self.scope() {
            Some(GapScope::Channel) => self.channels.contains_key(&ring),
            Some(GapScope::Connection) | None => false,
        }
    }

    /// Judges an event's numbers and remembers them, unless it is a duplicate or early. `waited`: nothing that belongs before
    /// it is waited for any more.
    pub fn judge(&mut self, ring: RingId, attempt: AttemptId, numbers: Option<(u64, u64)>, waited: bool) -> Order {
        let (Some(policy), Some(scope), Some((first, last))) = (self.policy, self.scope(), numbers) else {
            return Order::Next;
        };
        self.turn_to(attempt);
        let before = match scope {
            GapScope::Channel => self.channels.get(&ring).copied(),
            // Numbers of a connection begin anew with each connection.
            GapScope::Connection => self.connection.filter(|last| last.attempt == attempt),
        };
        let step = policy.step.max(1);
        let mut order = before.map_or(Order::Next, |before| compare(step, before, attempt, first, last));
        if order == Order::Duplicate {
            let known = match scope {
                GapScope::Channel => self.channels.get_mut(&ring),
                GapScope::Connection => self.connection.as_mut(),
            };
            if known.is_some_and(|known| known.went_back(step, first, last)) {
                order = Order::Restart;
            }
        }
        if matches!(order, Order::Gap { .. }) && policy.reorder.is_some() && !waited {
            return Order::Early;
        }
        if order != Order::Duplicate {
            let newest = Last::new(last, attempt);
            match scope {
                GapScope::Channel => drop(self.channels.insert(ring, newest)),
                GapScope::Connection => self.connection = Some(newest),
            }
        }
        order
    }

    /// Whether numbers tell the same event on two connections.
    pub fn tells_apart(&self) -> bool {
        self.scope() == Some(GapScope::Channel)
    }

    /// The channel's newest number, and the connection that brought it.
    pub fn newest(&self, ring: RingId) -> Option<(u64, AttemptId)> {
        self.channels.get(&ring).map(|last| (last.sequence, last.attempt))
    }

    /// A connection is gone beside this one, which brings what that one brought once more: its numbers are no new count.
    pub fn inherited(&mut self, gone: AttemptId, by: AttemptId) {
        for last in self.channels.values_mut().filter(|last| last.attempt == gone) {
            last.attempt = by;
        }
    }

    /// From one number to the next.
    pub fn step(&self) -> u64 {
        self.policy.map_or(1, |policy| policy.step.max(1))
    }

    /// An event does not count because another connection speaks for its channel; its number counts for its connection.
    pub fn passed_over(&mut self, attempt: AttemptId, numbers: Option<(u64, u64)>) {
        if self.scope() == Some(GapScope::Connection)
            && let Some((_, last)) = numbers
        {
            self.turn_to(attempt);
            self.connection = Some(Last::new(last, attempt));
        }
    }

    /// Two connections have numbers of their own.
    fn turn_to(&mut self, attempt: AttemptId) {
        if self.connection.is_some_and(|last| last.attempt != attempt) {
            std::mem::swap(&mut self.connection, &mut self.beside);
        }
    }

    /// This is the channel's newest number: a state was taken over that stands for all before it.
    pub fn set(&mut self, ring: RingId, attempt: AttemptId, number: u64) {
        if self.scope() == Some(GapScope::Channel) {
            self.channels.insert(ring, Last::new(number, attempt));
        }
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
    use std::time::Duration;

    use super::*;

    const RING: RingId = RingId(3);
    const FIRST: AttemptId = AttemptId(1);

    fn sequence(scope: GapScope) -> Sequence {
        Sequence::new(Some(&GapPolicy {
            scope: Some(scope),
            step: 1,
            then: OnGap::Report,
            reorder: None,
            checksum: None,
        }))
    }

    #[test]
    fn numbers_prove_gaps_and_duplicates_per_channel() {
        let mut numbers = sequence(GapScope::Channel);
        assert_eq!(numbers.judge(RING, FIRST, Some((5, 5)), false), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((6, 6)), false), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((6, 6)), false), Order::Duplicate);
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9)), false), Order::Gap { from: 7, to: 8 });
        assert_eq!(numbers.judge(RING, FIRST, Some((10, 14)), false), Order::Next);
        assert_eq!(
            numbers.judge(RING, FIRST, Some((13, 17)), false),
            Order::Next,
            "an overlapping range brings something new"
        );
        assert_eq!(numbers.judge(RingId(4), FIRST, Some((1, 1)), false), Order::Next, "channels count apart");
    }

    #[test]
    fn a_restart_is_never_a_duplicate_for_ever() {
        let mut numbers = sequence(GapScope::Channel);
        numbers.judge(RING, FIRST, Some((50, 50)), false);
        assert_eq!(numbers.judge(RING, FIRST, Some((1, 1)), false), Order::Restart);
        assert_eq!(numbers.judge(RING, FIRST, Some((2, 2)), false), Order::Next);
        numbers.judge(RING, FIRST, Some((50_000, 50_000)), false);
        assert_eq!(numbers.judge(RING, FIRST, Some((20, 20)), false), Order::Restart, "too far back to be late");
        assert_eq!(
            numbers.judge(RING, AttemptId(2), Some((20, 20)), false),
            Order::Duplicate,
            "the last one once more"
        );
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((15, 15)), false), Order::Restart, "another connection");
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((16, 16)), false), Order::Next);
    }

    #[test]
    fn upstream_that_goes_back_a_little_is_not_a_duplicate_for_ever() {
        let mut numbers = sequence(GapScope::Channel);
        numbers.judge(RING, FIRST, Some((500, 500)), false);
        let back: Vec<Order> = (400..440).map(|n| numbers.judge(RING, FIRST, Some((n, n)), false)).collect();
        let restart = usize::try_from(LATE_RUN).unwrap() - 1;
        assert!(back[..restart].iter().all(|order| *order == Order::Duplicate));
        assert_eq!((back[restart], back[restart + 1]), (Order::Restart, Order::Next));
    }

    #[test]
    fn connection_numbers_begin_anew_and_vouch_for_nothing_over_a_reconnect() {
        let mut numbers = sequence(GapScope::Connection);
        numbers.judge(RING, FIRST, Some((1, 1)), false);
        assert_eq!(numbers.judge(RingId(4), FIRST, Some((3, 3)), false), Order::Gap { from: 2, to: 2 });
        assert_eq!(numbers.judge(RING, AttemptId(2), Some((1, 1)), false), Order::Next);
        assert!(!numbers.vouches_for(RING));
    }

    #[test]
    fn without_a_policy_numbers_prove_nothing() {
        let mut numbers = Sequence::new(None);
        numbers.judge(RING, FIRST, Some((1, 1)), false);
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9)), false), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9)), false), Order::Next);
    }

    #[test]
    fn within_the_window_a_number_too_high_is_early_and_not_remembered() {
        let policy = GapPolicy {
            scope: Some(GapScope::Channel),
            step: 1,
            then: OnGap::Report,
            reorder: Some(Duration::from_millis(50)),
            checksum: None,
        };
        let mut numbers = Sequence::new(Some(&policy));
        numbers.judge(RING, FIRST, Some((5, 5)), false);
        assert_eq!(numbers.judge(RING, FIRST, Some((7, 7)), false), Order::Early);
        assert_eq!(numbers.expected(RING), Some(6));
        assert_eq!(numbers.judge(RING, FIRST, Some((6, 6)), false), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((7, 7)), false), Order::Next);
        assert_eq!(numbers.judge(RING, FIRST, Some((9, 9)), true), Order::Gap { from: 8, to: 8 });
    }
}
