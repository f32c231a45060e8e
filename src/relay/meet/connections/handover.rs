//! A second connection takes the place of the one that serves, before that one ends: begun, followed, taken over, or lost.
//!
//! Invariants: one connection serves throughout; messages leave on that one only, and none is in flight on it when it goes;
//! nothing is missing and nothing comes twice on channels whose events have numbers or ids, and on the others the cut is told.
//! A candidate that fails changes nothing for the connection that serves, unless upstream wanted that one gone.

use std::time::Duration;

use crate::dialect::{Carried, ChannelId, Event, Role, Rotate, Then, Transport};
use crate::relay::Relay;
use crate::relay::attempt::{Attempt, Ending, Phase};
use crate::relay::feed::RingId;
use crate::relay::held::HeldEvent;
use crate::relay::interest::Standing;
use crate::relay::link::rotation::Why;
use crate::relay::link::{self, Plan};
use crate::relay::overlap::{Merge, Numbers, Owed};
use crate::relay::pairs::{AttemptId, Fetch, Notice, Output};
use crate::relay::stats::{DropReason, GapReason, LinkState};
use crate::relay::time::{Mono, Time};

use super::fetches::Asker;

/// Both connections bring every channel for at least so long, so that what was under way on the older one arrives.
const OVERLAP_MIN: Duration = Duration::from_secs(1);
/// After so long the newer one takes over though the older one still owes something: it has brought that itself.
const OVERLAP_MAX: Duration = Duration::from_secs(10);

/// Why a connection ends that upstream wants gone.
const ASKED_TO_LEAVE: &str = "upstream asks for a new connection";

/// The candidate, as long as there is one.
#[derive(Debug, Default)]
pub(in crate::relay) struct Handover {
    candidate: Option<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: AttemptId,
    why: Why,
    /// Since when it brings every channel.
    level: Option<Mono>,
    /// A ping that left the older connection since then was answered: whatever upstream sent on it before has arrived.
    flushed: bool,
    /// Nothing new leaves on the older connection: what is in flight is waited for.
    closing: bool,
    /// When it was last looked at.
    seen: Mono,
}

impl Handover {
    fn is(&self, id: AttemptId) -> bool {
        self.candidate.is_some_and(|candidate| candidate.id == id)
    }

    /// The connection that serves answered a ping that left at `sent`.
    pub(in crate::relay) fn answered(&mut self, sent: Mono) {
        if let Some(candidate) = &mut self.candidate {
            candidate.flushed |= candidate.level.is_some_and(|level| level <= sent);
        }
    }

    /// Whether messages wait for the newer connection.
    pub(in crate::relay) fn holds_messages(&self) -> bool {
        self.candidate.is_some_and(|candidate| candidate.closing)
    }

    /// When to look again.
    fn due(&self) -> Option<Mono> {
        let Candidate { level, seen, .. } = self.candidate?;
        let level = level?;
        [level + OVERLAP_MIN, level + OVERLAP_MAX].into_iter().find(|at| *at > seen)
    }
}

impl Relay {
    /// `POST /v1/upstream/rotate`, an announcement of upstream's, or a token that runs out: another connection takes over.
    pub(in crate::relay) fn rotate_upstream(&mut self, at: Mono, why: Why) {
        if self.link.state() == LinkState::Live {
            self.link.rotation.ask(at, why);
        }
    }

    pub(in crate::relay) fn handover_due(&self) -> Option<Mono> {
        let asked = self.link.rotation.next().map(|(at, _)| at);
        let begin = [asked, self.climb_due()].into_iter().flatten().min().filter(|_| self.may_rotate());
        let begin = begin.map(|at| self.next_connect(at).unwrap_or(at));
        [begin, self.handover.due(), self.overlap.due()].into_iter().flatten().min()
    }

    /// Whether a second connection may stand beside the one that serves.
    fn may_rotate(&self) -> bool {
        let ready = |active: &Attempt| active.is_ready() && !active.polled.is_moving();
        let ready = self.attempts.active().is_some_and(ready);
        ready && self.link.state() == LinkState::Live && !self.attempts.is_paired() && !self.overlap.is_open()
    }

    pub(in crate::relay) fn handover_timeout(&mut self, now: Time) {
        self.overlap.expire(now.mono);
        // Asked for while one is tried, it would follow that one whatever came of it.
        if self.may_rotate() && self.climb_due().is_some_and(|at| at <= now.mono) {
            self.rotate_upstream(now.mono, Why::Climb);
        }
        if self.may_rotate() && self.link.rotation.next().is_some_and(|(at, _)| at <= now.mono) {
            self.begin_rotation(now);
        }
        self.advance_handover(now);
    }

    fn begin_rotation(&mut self, now: Time) {
        let Some(active) = self.attempts.active().map(Attempt::id) else { return };
        if self.dialect.rotate() == Rotate::BreakBeforeMake {
            return self.abandon(now, active, Ending::Rotated);
        }
        if !self.take_connect(now) {
            return;
        }
        let Some(why) = self.link.rotation.begin() else { return };
        let id = self.link.another();
        let attempt = self.new_attempt(now, id, why == Why::Climb);
        self.attempts.begin(attempt);
        self.handover.candidate =
            Some(Candidate { id, why, level: None, flushed: false, closing: false, seen: now.mono });
        self.overlap.begin(id);
        self.stats.link.attempts += 1;
        self.fetch(Asker::Credentials(id), Fetch::Credentials);
    }

    /// What a connection begins with: the link's memory or, where another one serves, a copy of that one's without what
    /// belongs to its session.
    pub(in crate::relay) fn carried_for(&mut self, id: AttemptId) -> Carried {
        let seed = self.rng.next_u64();
        if !self.attempts.serves(id)
            && let Some(conversation) = self.attempts.active().and_then(|active| active.conversation.as_ref())
        {
            return conversation.carried(seed);
        }
        self.link.carried.take().unwrap_or_else(|| Carried::new(seed))
    }

    /// The candidate takes over as soon as it brings every channel, the older one has brought all that the newer one has, and
    /// no message is in flight.
    pub(in crate::relay) fn advance_handover(&mut self, now: Time) {
        let Some(mut candidate) = self.handover.candidate else { return };
        if !self.attempts.get(candidate.id).is_some_and(Attempt::is_level) {
            candidate.level = None;
        } else if candidate.level.is_none() {
            candidate.level = Some(now.mono);
            if let Some(active) = self.attempts.active_mut() {
                // Where there are no pings, numbers and ids have to tell what is missing.
                candidate.flushed |= active.transport != Transport::WebSocket;
                active.ask_ping();
            }
        }
        candidate.seen = now.mono;
        let lasts = candidate.level.map_or(Duration::ZERO, |level| now.mono.since(level));
        // What the newer one brings while messages are waited for has to come on the older one, too.
        let settled = lasts >= OVERLAP_MIN && candidate.flushed && self.overlap.is_level();
        let may = settled || lasts >= OVERLAP_MAX;
        candidate.closing |= may;
        self.handover.candidate = Some(candidate);
        if may && self.nothing_in_flight() {
            self.take_over(now, candidate);
        }
    }

    fn take_over(&mut self, now: Time, candidate: Candidate) {
        self.handover.candidate = None;
        let owed = self.overlap.take_over();
        let reason = self.cut_reason(self.attempts.candidate());
        self.attempts.swap();
        self.take_owed(now, owed, reason);
        if let Some(newer) = self.attempts.active_mut() {
            // What it began with does not matter any more: both brought the same.
            newer.goes_on = false;
        }
        let older: Vec<AttemptId> = self.attempts.ids().filter(|id| *id != candidate.id).collect();
        for id in older {
            if let Some(attempt) = self.attempts.get_mut(id) {
                attempt.drain(now.mono);
                self.part_with(id);
            }
        }
        self.stats.link.rotations += 1;
        self.outputs.push_back(Output::Notify(Notice::TookOver { why: candidate.why.text() }));
        self.serve(now, candidate.id);
        self.link_moved(now);
    }

    /// What the older connection did not bring any more and the newer one had brought before enters now.
    fn take_owed(&mut self, now: Time, owed: Owed, reason: GapReason) {
        for ring in owed.lost {
            self.ring_lost(now, ring, reason);
        }
        for held in owed.events {
            self.entered_late(&held);
        }
    }

    /// This attempt, which is ready, serves from now on: what it has reached with the channels is what counts.
    fn serve(&mut self, now: Time, id: AttemptId) {
        self.link.ready(now.mono, &mut self.rng);
        let sequel = self.way_serves(now, id);
        self.settle_losses(now, sequel);
        self.trust_who_serves(now);
        let wanted = self.interest.attempt_ready();
        let Some(attempt) = self.attempts.get_mut(id).filter(|_| self.dialect.subscribes()) else { return };
        let mut live = Vec::new();
        for (channel, again) in wanted {
            attempt.acked.enqueue(channel, self.interest.priority(channel), again);
            match (attempt.acked.is_live(channel), attempt.acked.is_sent(channel)) {
                (true, _) => live.push(channel),
                (_, true) => self.interest.stand(channel, Standing::Sent),
                _ => self.interest.stand(channel, Standing::Wanted),
            }
        }
        for channel in live {
            self.came_live(now, id, channel);
        }
    }

    /// The connection that served is gone without being asked: the candidate takes its place as far as it is. `from_place`:
    /// the next connection can go on exactly where that one ended, which is better than a candidate that cannot.
    pub(in crate::relay) fn succeed(&mut self, now: Time, from_place: bool) {
        self.link.rotation.lost();
        let Some(candidate) = self.attempts.candidate() else { return };
        let (id, whole) = (candidate.id(), candidate.goes_on && self.overlap.is_level());
        if self.link.state() != LinkState::BackingOff || (from_place && !whole) {
            return self.drop_candidate(now);
        }
        self.handover.candidate = None;
        self.attempts.swap();
        let owed = self.overlap.older_gone(now.mono);
        self.take_owed(now, Owed { events: owed.events, ..Owed::default() }, GapReason::Reconnect);
        self.link.inherited(now.mono);
        if self.attempts.active().is_some_and(Attempt::is_ready) {
            self.serve(now, id);
        }
    }

    /// What is lost with the connection that served: what was live on it, but for channels that were cut to the candidate
    /// before. Of these nothing more counted.
    pub(in crate::relay) fn lost_with(&self, lost: &Attempt) -> Vec<ChannelId> {
        let brought = |channel| self.attempts.candidate().is_some_and(|newer| newer.acked.is_live(channel));
        let cut = |channel| self.feed.rings_of(channel).iter().all(|ring| self.overlap.is_cut(*ring));
        // Some services send events before they answer the subscribe.
        let heard = |channel: &ChannelId| {
            let last = |ring: &RingId| self.feed.ring(*ring)?.last_event.map(|(at, _)| at);
            self.feed.rings_of(*channel).iter().filter_map(last).any(|at| at >= lost.began())
        };
        let live = lost.acked.all_live().chain(lost.acked.all_sent().filter(heard));
        live.filter(|channel| !(brought(*channel) && cut(*channel))).collect()
    }

    /// A connection is over that did not serve: the candidate, or the one from which it took over.
    pub(in crate::relay) fn second_lost(&mut self, now: Time, lost: &Attempt, ending: &Ending, on_close: Option<Then>) {
        if !self.handover.is(lost.id()) {
            // It had handed over: it owes nothing.
            drop(self.overlap.older_gone(now.mono));
            return;
        }
        let Some(Candidate { why, .. }) = self.handover.candidate.take() else { return };
        self.stats.link.disconnects.bump(ending.reason());
        self.cut_back(now, lost);
        let (reason, detail) = (ending.reason(), ending.detail());
        self.outputs.push_back(Output::Notify(Notice::NotTakenOver { why: why.text(), reason, detail }));
        if why == Why::Told
            && let Some(active) = self.attempts.active().map(Attempt::id)
        {
            let message = ASKED_TO_LEAVE.to_owned();
            return self.abandon(now, active, Ending::Told { then: Then::Reconnect, retry_after: None, message });
        }
        if why == Why::Climb {
            // The ladder knows when to try again.
            return;
        }
        let upstream = &self.config.upstream;
        match link::plan(ending, on_close) {
            // Nothing will help; the connection that serves stays as long as upstream lets it.
            Plan::Fatal => {}
            Plan::Retry(floor) => {
                if !floor.is_zero() {
                    self.link.asked_to_wait(now.mono + floor);
                    self.tally.touch();
                }
                self.link.rotation.failed(now.mono, why, floor, upstream.backoff, &mut self.rng);
            }
            Plan::AtOnce | Plan::Slow | Plan::Credentials => {
                let floor = upstream.backoff.max / 2;
                self.link.rotation.failed(now.mono, why, floor, upstream.backoff, &mut self.rng);
            }
        }
    }

    /// Upstream asks for a new connection: it is made before this one ends, if that is possible.
    pub(in crate::relay) fn heard_reconnect(&mut self, now: Time, attempt: AttemptId, retry_after: Option<Duration>) {
        let ready = self.attempts.active().is_some_and(|active| active.id() == attempt && active.is_ready());
        if ready && self.dialect.rotate() == Rotate::MakeBeforeBreak {
            return self.rotate_upstream(now.mono + retry_after.unwrap_or_default(), Why::Told);
        }
        let message = ASKED_TO_LEAVE.to_owned();
        self.end_attempt(attempt, Ending::Told { then: Then::Reconnect, retry_after, message });
    }

    /// Upstream refuses a channel to the candidate that it brings on the connection that serves: that one stays.
    pub(in crate::relay) fn refused_to_candidate(&mut self, attempt: AttemptId, channel: ChannelId, message: &str) {
        let serves = |active: &Attempt| active.acked.is_live(channel);
        if self.handover.is(attempt) && self.attempts.active().is_some_and(serves) {
            let message = format!("a channel that is live was refused on the second connection: {message}");
            self.end_attempt(attempt, Ending::Told { then: Then::Retry, retry_after: None, message });
        }
    }

    /// The candidate brings this channel: where nothing tells its events apart it speaks for it from now on.
    pub(in crate::relay) fn candidate_brings(&mut self, now: Time, attempt: AttemptId, channel: ChannelId) {
        if !self.handover.is(attempt) {
            return;
        }
        // The older connection's address does not name it and never will: there is nothing to merge, and nothing is lost.
        let alone = self
            .attempts
            .active()
            .is_some_and(|active| self.is_addressed(active) && !active.addressed.contains(&channel));
        for ring in self.feed.rings_of(channel).to_vec() {
            if alone {
                self.overlap.cut(ring);
            } else {
                self.cut_over(now, ring);
            }
        }
    }

    /// The candidate brings everything: the dialect subscribes nothing.
    pub(in crate::relay) fn candidate_brings_all(&mut self, now: Time) {
        for ring in self.carried_rings() {
            self.cut_over(now, ring);
        }
    }

    fn cut_over(&mut self, now: Time, ring: RingId) {
        if !self.tells_apart(ring) && self.overlap.cut(ring) {
            let reason = self.cut_reason(self.attempts.candidate());
            self.ring_lost(now, ring, reason);
        }
    }

    /// What it is called that one of the two connections speaks for a channel in the other's place.
    fn cut_reason(&self, candidate: Option<&Attempt>) -> GapReason {
        match (self.attempts.active(), candidate) {
            (Some(active), Some(candidate)) if active.transport != candidate.transport => GapReason::TransportSwitch,
            _ => GapReason::Reconnect,
        }
    }

    /// The candidate is gone: the channels for which it spoke are again those of the connection that serves.
    fn cut_back(&mut self, now: Time, candidate: &Attempt) {
        let reason = self.cut_reason(Some(candidate));
        for ring in self.overlap.newer_gone() {
            self.ring_lost(now, ring, reason);
        }
        if let Some(active) = self.attempts.active().map(Attempt::id) {
            self.sequence.inherited(candidate.id(), active);
        }
    }

    /// Whether the events of a channel have numbers or ids; of one that never had any, whether its dialect gives them.
    fn tells_apart(&self, ring: RingId) -> bool {
        let ring = self.whole_of(ring).unwrap_or(ring);
        let Some(known) = self.feed.ring(ring) else { return false };
        let never = known.last_event.is_none() && self.dialect.tells_events_apart();
        never || known.named || self.sequence.vouches_for(ring)
    }

    /// Whether an event counts while two connections bring the same channels.
    pub(in crate::relay) fn merges(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>) -> bool {
        let counts = event.role == Role::Event && self.sequence.tells_apart();
        let numbers = event.sequence.filter(|_| counts);
        let held = || HeldEvent::new(ring, attempt, at, event);
        let merge = match (numbers, event.id.as_deref().filter(|_| event.role == Role::Event)) {
            (Some(numbers), _) => {
                let newest = self.sequence.newest(ring);
                let numbers = Numbers { event: numbers, newest, step: self.sequence.step() };
                self.overlap.numbered(ring, attempt, numbers, held)
            }
            (None, Some(id)) => self.overlap.named(ring, attempt, id, held),
            (None, None) => {
                match self.feed.ring(ring).and_then(|ring| ring.upstream) {
                    Some(channel) => self.candidate_brings(at, attempt, channel),
                    None if self.handover.is(attempt) => self.cut_over(at, ring),
                    None => {}
                }
                self.overlap.plain(ring, attempt)
            }
        };
        if merge != Merge::Admit {
            self.sequence.passed_over(attempt, event.sequence);
        }
        match merge {
            Merge::Admit => return true,
            Merge::Duplicate => self.stats.feed.dropped.bump(DropReason::Duplicate),
            Merge::PassOver => self.stats.feed.dropped.bump(DropReason::Overlap),
        }
        false
    }

    /// Gives up the candidate: the link is told to do something else.
    pub(in crate::relay) fn drop_candidate(&mut self, now: Time) {
        self.handover.candidate = None;
        let Some(id) = self.attempts.candidate().map(Attempt::id) else { return };
        if self.attempts.get(id).is_some_and(|attempt| attempt.phase() > Phase::Dialing) {
            self.part_with(id);
        }
        let Some(dropped) = self.attempts.remove(id) else { return };
        self.cut_back(now, &dropped);
    }
}
