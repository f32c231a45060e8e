//! Numbers meet the feed: what comes twice is dropped, what comes early waits, what is missing is told.

use crate::dialect::{Event, Fold, GapScope, OnGap, Role};
use crate::relay::Relay;
use crate::relay::feed::{Hole, RingId};
use crate::relay::held::{Held, HeldEvent};
use crate::relay::pairs::AttemptId;
use crate::relay::reorder::Line;
use crate::relay::repair::{How, Wound};
use crate::relay::sequence::Order;
use crate::relay::stats::{DropReason, GapReason, ResetReason};
use crate::relay::time::{Mono, Time};

impl Relay {
    /// One event on its way into a ring, received at `at`; where numbers count the connection, into all that upstream's channel
    /// has.
    pub(in crate::relay) fn sequenced(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>) {
        if self.overlap.is_open() && !self.merges(at, attempt, ring, event) {
            return;
        }
        self.judged(at, attempt, ring, event, false);
        if !self.reorder.is_empty() {
            self.release_early(ring);
        }
    }

    /// `waited`: nothing that belongs before it is waited for any more.
    pub(in crate::relay) fn judged(
        &mut self,
        at: Time,
        attempt: AttemptId,
        ring: RingId,
        event: &Event<'_>,
        waited: bool,
    ) {
        if self.repairs.holds(ring) {
            return self.hold(at, attempt, ring, event);
        }
        let mends = self.mends(ring, event);
        let (waited, numbers) = match event.role {
            Role::Event => (waited, event.sequence),
            // A state stands for all that led to it, and its parts are no events.
            Role::Snapshot => (true, event.sequence),
            Role::SnapshotPart => (true, None),
        };
        let order = self.sequence.judge(ring, attempt, numbers, waited);
        match order {
            Order::Next | Order::Restart => {}
            Order::Duplicate if event.role == Role::Snapshot => {}
            Order::Duplicate => {
                self.stats.feed.dropped.bump(DropReason::Duplicate);
                if let Some(ring) = self.feed.ring_mut(ring) {
                    ring.duplicates += 1;
                }
                return;
            }
            Order::Early => {
                self.stats.feed.reordered += 1;
                let line = self.line_of(ring);
                if !self.reorder.put(line, HeldEvent::new(ring, attempt, at, event)) {
                    let held = self.reorder.take(line);
                    self.end_wait(held);
                }
                return;
            }
            Order::Gap { .. } if mends => {}
            Order::Gap { from, to } => self.tell_hole(at, attempt, ring, (from, to), event.role),
        }
        self.judged_in(at, attempt, ring, event, order == Order::Restart);
    }

    /// An event of which the number was judged enters its ring, or all that upstream's channel has.
    fn judged_in(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>, restarts: bool) {
        match self.feed.ring(ring).filter(|ring| ring.siblings && self.judges_once()).and_then(|ring| ring.upstream) {
            Some(channel) => {
                for index in 0..self.feed.direct_rings_of(channel).len() {
                    if let Some(each) = self.feed.direct_rings_of(channel).get(index).copied() {
                        self.enter(at, attempt, each, event, restarts);
                    }
                }
            }
            None => self.enter(at, attempt, ring, event, restarts),
        }
    }

    /// An event that was held back enters after all.
    pub(in crate::relay) fn entered_late(&mut self, held: &HeldEvent) {
        let (at, attempt, ring, event) = (held.at, held.attempt, held.ring, held.event());
        // What came meanwhile stands behind it; a lower number would be taken for a new start.
        let newest = self.sequence.newest(ring).map(|(newest, _)| newest);
        if held.sequence.zip(newest).is_some_and(|((_, last), newest)| last <= newest) {
            return;
        }
        // Numbers of the connection were counted when it came.
        match self.judges_once() {
            true => self.judged_in(at, attempt, ring, &event, false),
            false => self.judged(at, attempt, ring, &event, false),
        }
    }

    /// Whether an event's numbers are judged for all local channels of its upstream channel together, because they count the
    /// connection: for the second one they would have been seen before.
    pub(in crate::relay) fn judges_once(&self) -> bool {
        self.sequence.scope() == Some(GapScope::Connection)
    }

    /// Whether the event states what is to be mended.
    fn mends(&self, ring: RingId, event: &Event<'_>) -> bool {
        event.role == Role::Snapshot && self.repairs.is_open(ring)
    }

    /// An event whose numbers were judged enters a ring. `restarts`: upstream counts anew from it on.
    fn enter(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>, restarts: bool) {
        if self.repairs.holds(ring) {
            return self.hold(at, attempt, ring, event);
        }
        let mends = self.mends(ring, event);
        if mends {
            self.stated(at, ring);
        } else if restarts {
            self.admit_reset(at, ring, ResetReason::Upstream);
        }
        if event.role == Role::Event && event.fold == Fold::Append && self.lacks_base(ring) {
            let enters = self.without_base(at, attempt, ring, event);
            if !enters {
                return;
            }
        }
        self.admit_now(at, ring, event);
        if mends {
            self.state_is_there(at.mono, ring);
        }
    }

    /// Numbers of the whole connection that came with what is nobody's event: a heartbeat, or news of a channel that nobody
    /// wants any more. What is missing before them is missing all the same.
    pub(in crate::relay) fn numbers_passed(&mut self, at: Time, attempt: AttemptId, numbers: (u64, u64)) {
        if !self.judges_once() {
            return;
        }
        // Numbers of a connection are kept for no ring.
        let any = RingId(u32::MAX);
        if let Order::Gap { from, to } = self.sequence.judge(any, attempt, Some(numbers), true) {
            self.tell_hole(at, attempt, any, (from, to), Role::Event);
        }
        if !self.reorder.is_empty() {
            self.release_early(any);
        }
    }

    /// Whether an increment would change a state that is not known, where numbers or checksums prove what belongs to it.
    fn lacks_base(&self, ring: RingId) -> bool {
        let proven = self.sequence.scope().is_some() || self.dialect.checks();
        proven && self.feed.ring(ring).is_some_and(|ring| ring.values.lacks_base())
    }

    /// Lets an event in, and into the channels that are parts of this one.
    pub(in crate::relay) fn admit_now(&mut self, at: Time, ring: RingId, event: &Event<'_>) {
        if let Some(number) = self.feed.ring(ring).and_then(|ring| ring.parts) {
            self.spread(at, ring, number, event);
        }
        let evicted = self.feed.admit(ring, at, event, &mut self.stats.feed);
        if evicted > 0 {
            self.stats.feed.dropped.add(DropReason::KeyLimit, evicted as u64);
        }
    }

    fn line_of(&self, ring: RingId) -> Line {
        (!self.judges_once()).then_some(ring)
    }

    /// What waited for the event that just came has its turn.
    fn release_early(&mut self, ring: RingId) {
        let line = self.line_of(ring);
        while let Some(expected) = self.sequence.expected(ring)
            && let Some(held) = self.reorder.next(line, expected)
        {
            self.judged(held.at, held.attempt, held.ring, &held.event(), false);
        }
    }

    /// What these waited for did not come: they enter, and the holes between them are told.
    fn end_wait(&mut self, mut held: Held) {
        while let Some(held) = held.take() {
            self.judged(held.at, held.attempt, held.ring, &held.event(), true);
        }
    }

    pub(in crate::relay) fn reorder_due(&self) -> Option<Mono> {
        self.reorder.due()
    }

    /// Ends the waits that lasted long enough; all of them where `now` is `None`: the connection is gone, and with it
    /// whatever was missing.
    pub(in crate::relay) fn reorder_timeout(&mut self, now: Option<Mono>) {
        while let Some(line) = self.reorder.overdue(now) {
            let held = self.reorder.take(line);
            self.end_wait(held);
        }
    }

    /// Numbers are missing: of this channel, or of the connection and then maybe of any channel.
    fn tell_hole(&mut self, at: Time, attempt: AttemptId, ring: RingId, missing: (u64, u64), role: Role) {
        let whole = self.judges_once();
        let rings = if whole { self.carried_rings() } else { vec![ring] };
        let reconnects = self.sequence.repair() == OnGap::Reconnect && role != Role::Snapshot;
        let floor = missing.0.saturating_sub(self.sequence.step());
        for ring in rings {
            let wound =
                Wound { missing: Some(missing), floor, told: true, sound: false, reason: GapReason::UpstreamSeq };
            let how = if role == Role::Snapshot { None } else { self.mend(at, ring, wound) };
            let repair = how.map(How::text).or(reconnects.then_some("reconnect"));
            let hole = Hole { span: Some(missing), reason: GapReason::UpstreamSeq, repair };
            if whole {
                self.feed.admit_hole(ring, at, hole, &mut self.stats.feed);
            } else {
                self.admit_hole(at, ring, hole);
            }
        }
        if reconnects {
            self.renew_connection(attempt, "upstream's sequence has a hole");
        }
    }
}
