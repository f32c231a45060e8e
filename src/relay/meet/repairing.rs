//! Holes meet what mends them: who has to be asked, what an answer does to a channel, and what subscribers hear.
//!
//! A subscriber hears `gap` at once, with what is done about it; then `reset(repaired)` and what closes the hole, or a second
//! `gap` that says that the repair failed.

use std::time::Duration;

use crate::dialect::{ChannelId, Event, OnGap};
use crate::relay::Relay;
use crate::relay::feed::{Hole, RingId};
use crate::relay::held::HeldEvent;
use crate::relay::pairs::AttemptId;
use crate::relay::repair::{Failed, How, Opened, Wound};
use crate::relay::stats::{Cost, DropReason, GapReason, RepairEnd};
use crate::relay::time::{Mono, Time};

/// What is done about a hole whose repair failed.
const FAILED: &str = "failed";

impl Relay {
    /// What can mend this channel.
    fn method(&self, ring: RingId) -> Option<How> {
        // A channel that is a part of another one is mended with it.
        let own = self.feed.ring(ring).is_some_and(|ring| ring.direct);
        match self.sequence.repair() {
            _ if !own => None,
            OnGap::Report | OnGap::Reconnect => None,
            OnGap::Resubscribe => self.feed.ring(ring)?.upstream.map(|_| How::Resubscribe),
        }
    }

    /// Begins to mend a channel, if something can. Gives how.
    pub(super) fn mend(&mut self, at: Time, ring: RingId, wound: Wound) -> Option<How> {
        let how = self.method(ring)?;
        let news = !self.repairs.is_open(ring);
        if self.repairs.open(at.mono, ring, how, wound) == Opened::Resting {
            return None;
        }
        self.stats.repair.begun += u64::from(news);
        Some(how)
    }

    /// An increment came whose base is not known. Whether it may enter all the same, because nothing can be done.
    pub(super) fn without_base(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>) -> bool {
        if self.method(ring) == Some(How::Resubscribe) && !self.dialect.states() {
            return true;
        }
        match self.mend(at, ring, Wound { missing: None, floor: 0, told: false }) {
            None => return true,
            Some(How::Fetch) => self.hold(at, attempt, ring, event),
            Some(How::Resubscribe) => self.stats.feed.dropped.bump(DropReason::NoBase),
        }
        false
    }

    /// Lets an event wait for the repair of its channel.
    pub(super) fn hold(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>) {
        if let (Some(numbers), Some(newest)) = (event.sequence, self.repairs.newest(ring))
            && self.sequence.restarts(newest, attempt, numbers)
        {
            self.repairs.begin_anew(ring);
        }
        if !self.repairs.hold(HeldEvent::new(ring, attempt, at, event)) {
            self.give_up(at, ring, RepairEnd::GivenUp, self.repairs.given_up_for());
        }
    }

    /// Asks for what is to be mended, as far as there is room.
    pub(super) fn pump_repairs(&mut self, now: Time) {
        while let Some((ring, how)) = self.repairs.next_ready() {
            let Some(attempt) = self.attempts.active().filter(|attempt| attempt.is_ready()) else { return };
            let attempt = attempt.id();
            if let Err(wait) = self.budget.spend(now.mono, Cost::Repair, None) {
                self.stats.repair.refused.bump(Cost::Repair);
                self.give_up(now, ring, RepairEnd::Budget, wait);
                continue;
            }
            self.repairs.ask(now.mono, ring);
            self.stats.repair.tries += 1;
            let asked = match how {
                How::Resubscribe => self.ask_anew(now, attempt, ring),
                How::Fetch => false,
            };
            if !asked {
                self.repair_failed(now, ring);
            }
        }
    }

    /// Subscribes the channel anew, unless that is under way; all its rings are served by that.
    fn ask_anew(&mut self, now: Time, attempt: AttemptId, ring: RingId) -> bool {
        let Some(channel) = self.feed.ring(ring).and_then(|ring| ring.upstream) else { return false };
        for other in self.feed.rings_of(channel) {
            if other != ring && self.repairs.is_open(other) && !self.repairs.is_asked(other) {
                self.repairs.ask(now.mono, other);
            }
        }
        self.resubscribe(attempt, channel);
        true
    }

    /// Upstream states the channel: whatever was missing counts no more.
    pub(super) fn stated(&mut self, at: Time, ring: RingId) {
        let Some(ended) = self.repairs.end(at.mono, ring, None) else { return };
        if ended.wound.told {
            self.admit_repaired(at, ring, 1, false);
        }
        self.repaired(at.mono.since(ended.began));
    }

    /// The channel was subscribed anew. Where upstream then states nothing, that is all that can be done.
    pub(super) fn subscribed_anew(&mut self, now: Time, channel: ChannelId) {
        if self.dialect.states() {
            return;
        }
        for ring in self.feed.rings_of(channel) {
            if self.repairs.is_asked(ring) && !self.repairs.holds(ring) {
                let ended = self.repairs.end(now.mono, ring, None);
                self.repaired(ended.map_or(Duration::ZERO, |ended| now.mono.since(ended.began)));
            }
        }
    }

    fn repaired(&mut self, took: Duration) {
        self.stats.repair.ended.bump(RepairEnd::Repaired);
        self.stats.repair.took.observe(took);
    }

    /// A try brought nothing.
    fn repair_failed(&mut self, now: Time, ring: RingId) {
        if self.repairs.failed(now.mono, ring) == Failed::Over {
            self.give_up(now, ring, RepairEnd::GivenUp, self.repairs.given_up_for());
        }
    }

    /// The hole stays: that is told, and what waited enters.
    fn give_up(&mut self, at: Time, ring: RingId, end: RepairEnd, rest: Duration) {
        let Some(mut ended) = self.repairs.end(at.mono, ring, Some(rest)) else { return };
        let hole = Hole { span: ended.wound.missing, reason: GapReason::UpstreamSeq, repair: Some(FAILED) };
        self.admit_hole(at, ring, hole);
        self.stats.repair.ended.bump(end);
        if !ended.held.is_empty() {
            self.sequence.forget(ring);
        }
        while let Some(held) = ended.held.take() {
            self.judged(held.at, held.attempt, ring, &held.event(), true);
        }
    }

    pub(in crate::relay) fn repairs_timeout(&mut self, now: Time) {
        while let Some(ring) = self.repairs.late(now.mono) {
            self.repair_failed(now, ring);
        }
    }

    pub(in crate::relay) fn repairs_due(&self) -> Option<Mono> {
        self.repairs.due()
    }

    /// The ring's channel is not carried any more: nothing that waits for it is waited for.
    pub(super) fn forget_numbers(&mut self, ring: RingId) {
        self.sequence.forget(ring);
        self.reorder.take(Some(ring));
        self.repairs.forget(ring);
    }

    /// The gauges that are counted only when somebody looks.
    pub(in crate::relay) fn refresh_repair_stats(&mut self, now: Mono) {
        let (open, held) = self.repairs.counts();
        self.stats.repair.open = open as u64;
        self.stats.repair.held = held as u64;
        for spent in self.budget.spent(now) {
            self.stats.repair.spent.insert(spent.cost, (u64::from(spent.hour), u64::from(spent.day)));
        }
    }
}
