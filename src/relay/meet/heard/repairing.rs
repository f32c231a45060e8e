//! Holes meet what mends them: who has to be asked, what an answer does to a channel, and what subscribers hear.
//!
//! A subscriber hears `gap` at once, with what is done about it; then `reset(repaired)` and what closes the hole, or a second
//! `gap` that says that the repair failed.

use std::time::Duration;

use crate::dialect::{
    ChannelId, ChannelSpec, Event, Heard, HttpAnswer, HttpRequest, OnGap, Role, Then, Wish, may_call,
};
use crate::relay::Relay;
use crate::relay::attempt::Ending;
use crate::relay::feed::{Hole, RingId};
use crate::relay::held::HeldEvent;
use crate::relay::interest::Standing;
use crate::relay::meet::connections::fetches::Asker;
use crate::relay::pairs::{AttemptId, Fetch};
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
            OnGap::Fetch => self.can_fetch(ring).then_some(How::Fetch),
        }
    }

    /// Whether `[repair]` is about this channel.
    pub(in crate::relay) fn can_fetch(&self, ring: RingId) -> bool {
        self.channel_of(ring).is_some_and(|spec| self.dialect.repairs(spec.name))
    }

    /// A ring's channel as upstream knows it.
    fn channel_of(&self, ring: RingId) -> Option<ChannelSpec<'_>> {
        let ring = self.feed.ring(ring)?;
        match ring.upstream {
            Some(channel) => self.interest.spec(channel),
            None => Some(ChannelSpec { id: ChannelId(u32::MAX), name: &ring.name, params: None }),
        }
    }

    /// Begins to mend a channel, if something can. Gives how.
    pub(in crate::relay) fn mend(&mut self, at: Time, ring: RingId, wound: Wound) -> Option<How> {
        let how = self.method(ring)?;
        let news = !self.repairs.is_open(ring);
        if self.repairs.open(at.mono, ring, how, wound) == Opened::Resting {
            return None;
        }
        self.stats.repair.begun += u64::from(news);
        Some(how)
    }

    /// An increment came whose base is not known. Whether it may enter all the same, because nothing can be done.
    pub(in crate::relay) fn without_base(
        &mut self,
        at: Time,
        attempt: AttemptId,
        ring: RingId,
        event: &Event<'_>,
    ) -> bool {
        let states = match self.method(ring) {
            Some(How::Resubscribe) => self.dialect.states(),
            Some(How::Fetch) => self.dialect.repair_states() == Some(true),
            None => false,
        };
        if !states {
            return true;
        }
        match self.mend(
            at,
            ring,
            Wound { missing: None, floor: 0, told: false, sound: false, reason: GapReason::UpstreamSeq },
        ) {
            None => return true,
            Some(How::Fetch) => self.hold(at, attempt, ring, event),
            Some(How::Resubscribe) => self.stats.feed.dropped.bump(DropReason::NoBase),
        }
        false
    }

    /// Lets an event wait for the repair of its channel.
    pub(in crate::relay) fn hold(&mut self, at: Time, attempt: AttemptId, ring: RingId, event: &Event<'_>) {
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
    pub(in crate::relay) fn pump_repairs(&mut self, now: Time) {
        while let Some((ring, how)) = self.repairs.next_ready() {
            let Some(attempt) = self.attempts.active().filter(|attempt| attempt.is_ready()) else { return };
            let attempt = attempt.id();
            if let Err(wait) = self.spend(now.mono, Cost::Repair, None) {
                self.stats.repair.refused.bump(Cost::Repair);
                self.give_up(now, ring, RepairEnd::Budget, wait);
                continue;
            }
            let number = self.repairs.ask(now.mono, ring);
            self.stats.repair.tries += 1;
            let asked = match how {
                How::Resubscribe => self.ask_anew(now, attempt, ring),
                How::Fetch => self.ask_beside(now, attempt, ring, number),
            };
            if !asked {
                self.repair_failed(now, ring, None);
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

    /// Events are missing: subscribes the channel anew, so that upstream begins with its state.
    pub(in crate::relay) fn resubscribe(&mut self, attempt: AttemptId, channel: ChannelId) {
        let known = self.attempts.get_mut(attempt).filter(|known| known.acked.is_live(channel));
        let (Some(known), Some(spec)) = (known, self.interest.spec(channel)) else { return };
        known.leave(channel, spec.name.into(), spec.params.map(Into::into));
        known.acked.enqueue(channel, self.interest.priority(channel), false);
        self.reached(attempt, channel, Standing::Wanted);
    }

    /// Something is missing that only another connection brings: connects anew. `why` is for people.
    pub(in crate::relay) fn renew_connection(&mut self, attempt: AttemptId, why: &str) {
        let message = why.to_owned();
        self.end_attempt(attempt, Ending::Told { then: Then::Reconnect, retry_after: None, message });
    }

    /// Upstream states the channel: whatever was missing counts no more.
    pub(in crate::relay) fn stated(&mut self, at: Time, ring: RingId) {
        let Some(ended) = self.repairs.end(at.mono, ring, None) else { return };
        if ended.wound.told {
            self.admit_repaired(at, ring, 1, false);
        }
        self.repaired(at.mono, ended.began);
    }

    /// The channel was subscribed anew. Where upstream then states nothing, that is all that can be done.
    pub(in crate::relay) fn subscribed_anew(&mut self, now: Time, channel: ChannelId) {
        if self.dialect.states() {
            return;
        }
        for ring in self.feed.rings_of(channel) {
            if self.repairs.is_asked(ring) && !self.repairs.holds(ring) {
                let ended = self.repairs.end(now.mono, ring, None);
                self.repaired(now.mono, ended.map_or(now.mono, |ended| ended.began));
            }
        }
    }

    fn repaired(&mut self, now: Mono, began: Mono) {
        self.stats.repair.ended.bump(RepairEnd::Repaired);
        self.stats.repair.took.observe(now.since(began));
    }

    /// The channel's state is there: whoever asked for it is told.
    pub(in crate::relay) fn state_is_there(&mut self, now: Mono, ring: RingId) {
        for how in [How::Fetch, How::Resubscribe] {
            self.refreshed(now, &(ring, None), how.text(), true);
        }
    }

    /// Asks for the channel's state, or for what is missing, over HTTP. `false`: that cannot be asked, or not now.
    fn ask_beside(&mut self, now: Time, attempt: AttemptId, ring: RingId, number: u64) -> bool {
        let conversation = self.attempts.get(attempt).and_then(|attempt| attempt.conversation.as_ref());
        let (Some(conversation), Some(spec)) = (conversation, self.channel_of(ring)) else { return false };
        let wish = Wish { key: None, missing: self.repairs.wound(ring).and_then(|wound| wound.missing) };
        let Ok(wanted) = conversation.wanted(now, &self.config.upstream.url, &spec, wish) else { return false };
        if !self.may_fetch(&wanted.url) || self.spend(now.mono, Cost::Fetch, None).is_err() {
            return false;
        }
        let request = HttpRequest {
            method: wanted.method,
            url: wanted.url,
            headers: wanted.headers,
            body: wanted.body,
            max_body: self.config.upstream.max_frame,
            timeout: self.config.repair.timeout,
        };
        let full = self.fetches_full();
        if !full {
            self.fetch(Asker::Repair(ring, number), Fetch::Http(Box::new(request)));
        }
        !full
    }

    /// Whether the configuration lets requests go there: to upstream's own origin, or to one that it names.
    fn may_fetch(&self, url: &str) -> bool {
        let upstream = &self.config.upstream;
        may_call(url, &upstream.url, &upstream.fetch_origins).is_ok()
    }

    /// What was asked for came, or did not.
    pub(in crate::relay) fn repair_fetched(
        &mut self,
        now: Time,
        ring: RingId,
        number: u64,
        answer: Option<HttpAnswer>,
    ) {
        if !self.repairs.expects(ring, number) {
            return;
        }
        let Some(answer) = answer else { return self.repair_failed(now, ring, None) };
        if !answer.is_good() {
            return self.repair_failed(now, ring, answer.retry_after);
        }
        let found = self.read_answer(now, ring, &answer.body);
        let merged = match self.dialect.repair_states() {
            Some(true) => self.merge_state(now, ring, found),
            Some(false) => self.merge_missing(now, ring, found),
            None => false,
        };
        if !merged {
            self.repair_failed(now, ring, None);
        }
    }

    /// The events of an answer.
    fn read_answer(&mut self, now: Time, ring: RingId, body: &[u8]) -> Vec<HeldEvent> {
        let channel = self.channel_of(ring).map_or(ChannelId(u32::MAX), |spec| spec.id);
        let mut found = Vec::new();
        let Some(active) = self.attempts.active_mut() else { return found };
        let attempt = active.id();
        if let Some(conversation) = active.conversation.as_mut() {
            conversation.answered(now, channel, body, &mut |heard| {
                if let Heard::Event(event) = heard {
                    found.push(HeldEvent::new(ring, attempt, now, &event));
                }
            });
        }
        found
    }

    /// A state came: it and the live events after it enter, by their numbers. `false`: it is older than what subscribers were
    /// told, or than the first event that waited.
    fn merge_state(&mut self, now: Time, ring: RingId, state: Vec<HeldEvent>) -> bool {
        let Some(wound) = self.repairs.wound(ring) else { return false };
        let first = state.first().filter(|first| first.role() == Role::Snapshot);
        let Some(first) = first else { return false };
        let (attempt, number) = (first.attempt, first.sequence.map(|(_, last)| last));
        let newer = |held: &HeldEvent| held.sequence.is_none_or(|(_, last)| number.is_none_or(|number| last > number));
        if let Some(number) = number {
            let next = self.repairs.held(ring).filter(|held| newer(held)).find_map(|held| held.sequence);
            let joins = next.is_none_or(|(first, _)| first <= number.saturating_add(self.sequence.step()));
            if number < wound.floor || !joins {
                return false;
            }
        }
        let count = state.len() + self.repairs.held(ring).filter(|held| newer(held)).count();
        let Some(mut ended) = self.repairs.end(now.mono, ring, None) else { return false };
        if ended.wound.told {
            self.admit_repaired(now, ring, count as u64, false);
        }
        for part in state {
            self.admit_now(now, ring, &part.event());
        }
        self.end_snapshot(now);
        let before = ended.held.iter().find(|held| newer(held)).map_or(attempt, |held| held.attempt);
        if let Some(number) = number {
            self.sequence.set(ring, before, number);
        }
        while let Some(held) = ended.held.take() {
            if newer(&held) {
                self.judged(held.at, held.attempt, ring, &held.event(), true);
            }
        }
        self.repaired(now.mono, ended.began);
        self.state_is_there(now.mono, ring);
        true
    }

    /// Events came that were missing: they and the live ones after them enter, by their numbers; another hole among these is
    /// told and mended by itself. `false`: something of what was asked for is missing still.
    fn merge_missing(&mut self, now: Time, ring: RingId, mut found: Vec<HeldEvent>) -> bool {
        let Some((from, to)) = self.repairs.wound(ring).and_then(|wound| wound.missing) else { return false };
        let Some(attempt) = found.first().map(|found| found.attempt) else { return false };
        // What goes beyond the live events will come live, and proves no hole before it does.
        let end = self.repairs.newest(ring).map_or(to, |(_, newest)| newest.max(to));
        found.retain(|event| event.sequence.is_none_or(|(first, _)| first <= end));
        let step = self.sequence.step();
        let numbers = found.iter().chain(self.repairs.held(ring)).filter_map(|event| event.sequence);
        let mut numbers: Vec<(u64, u64)> = numbers.filter(|(_, last)| *last >= from).collect();
        numbers.sort_unstable();
        let (mut expected, mut count) = (from, 0);
        for (first, last) in numbers {
            if first > expected {
                break;
            }
            if last >= expected {
                expected = last.saturating_add(step);
                count += 1;
            }
        }
        if expected <= to {
            return false;
        }
        let Some(mut ended) = self.repairs.end(now.mono, ring, None) else { return false };
        self.admit_repaired(now, ring, count, true);
        found.into_iter().for_each(|event| ended.held.put(event));
        self.sequence.set(ring, attempt, from.saturating_sub(step));
        while let Some(held) = ended.held.take() {
            if held.sequence.is_none_or(|(_, last)| last >= from) {
                self.judged(held.at, held.attempt, ring, &held.event(), true);
            }
        }
        self.repaired(now.mono, ended.began);
        self.state_is_there(now.mono, ring);
        true
    }

    /// A try brought nothing.
    fn repair_failed(&mut self, now: Time, ring: RingId, at_least: Option<Duration>) {
        if self.repairs.failed(now.mono, ring, at_least) == Failed::Over {
            self.give_up(now, ring, RepairEnd::GivenUp, self.repairs.given_up_for());
        }
    }

    /// The hole stays: that is told, and what waited enters.
    fn give_up(&mut self, at: Time, ring: RingId, end: RepairEnd, rest: Duration) {
        let Some(mut ended) = self.repairs.end(at.mono, ring, Some(rest)) else { return };
        self.stats.repair.ended.bump(end);
        if !ended.wound.sound {
            let hole = Hole { span: ended.wound.missing, reason: ended.wound.reason, repair: Some(FAILED) };
            self.admit_hole(at, ring, hole);
            if !ended.held.is_empty() {
                self.sequence.forget(ring);
            }
        }
        while let Some(held) = ended.held.take() {
            self.judged(held.at, held.attempt, ring, &held.event(), true);
        }
        for how in [How::Fetch, How::Resubscribe] {
            self.refreshed(at.mono, &(ring, None), how.text(), false);
        }
    }

    pub(in crate::relay) fn repairs_timeout(&mut self, now: Time) {
        while let Some(ring) = self.repairs.late(now.mono) {
            self.repair_failed(now, ring, None);
        }
    }

    pub(in crate::relay) fn repairs_due(&self) -> Option<Mono> {
        self.repairs.due()
    }

    /// The ring's channel is not carried any more: nothing that waits for it is waited for.
    pub(in crate::relay) fn forget_numbers(&mut self, ring: RingId) {
        self.forget_refreshes(ring);
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
