//! What upstream said enters the feed: names are resolved, losses told. Its numbers are judged in `sequencing`.

use std::borrow::Cow;

use crate::dialect::{ChannelId, Event, Target};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control;
use crate::protocol::request::parse::CHANNEL_MAX;
use crate::relay::Relay;
use crate::relay::feed::RingId;
use crate::relay::interest::InterestState;
use crate::relay::naming;
use crate::relay::pairs::{AttemptId, SessionId};
use crate::relay::stats::{DropReason, GapReason};
use crate::relay::time::Time;

/// The relay's own channel for changes of the link.
pub(in crate::relay) const STATUS_CHANNEL: &str = "$status";
/// The relay's own channel for messages of upstream that nobody understood. Carried from its first subscription on.
pub(in crate::relay) const UNMATCHED_CHANNEL: &str = "$unmatched";

impl Relay {
    /// Admits one event, received at `at`, into the rings it belongs to.
    pub(in crate::relay) fn admit(&mut self, at: Time, attempt: AttemptId, event: &Event<'_>) {
        self.stats.dialect.events += 1;
        if let Some(said) = event.source_time {
            self.quality.source_time(at.wall, said);
        }
        self.pass.gather(event.data.len());
        let mut rings = std::mem::take(&mut self.scratch_rings);
        rings.clear();
        self.rings_for(at, event.target, &mut rings);
        if rings.is_empty() {
            self.unwanted(attempt, event.target);
            if let Some(numbers) = event.sequence {
                self.numbers_passed(at, attempt, numbers);
            }
        }
        let judged = if self.judges_once() { 1 } else { rings.len() };
        for (place, ring) in rings.drain(..).enumerate() {
            if self.is_left_over(attempt, ring) {
                self.stats.feed.dropped.bump(DropReason::Unwanted);
                continue;
            }
            self.watch_event(at, ring);
            if place < judged {
                self.sequenced(at, attempt, ring, event);
            }
        }
        self.scratch_rings = rings;
    }

    /// Whether a connection brings a channel only because its address still names it: left, and wanted again since. Until the
    /// next connection brings it, nobody vouches for it.
    fn is_left_over(&self, attempt: AttemptId, ring: RingId) -> bool {
        let Some(attempt) = self.attempts.get(attempt).filter(|attempt| !attempt.addressed.is_empty()) else {
            return false;
        };
        let channel = self.feed.ring(ring).and_then(|ring| ring.upstream);
        channel.is_some_and(|channel| !attempt.addressed.contains(&channel))
    }

    /// Nobody wants what came. If its channel was unsubscribed, upstream may not have heard that: it is told once more.
    fn unwanted(&mut self, attempt: AttemptId, target: Target<'_>) {
        self.stats.feed.dropped.bump(DropReason::Unwanted);
        if let Target::Name(name) = target
            && self.interest.find(name).is_none()
            && let Some(teller) = self.attempts.get_mut(attempt)
        {
            teller.leaving.heard_of(name);
        }
    }

    /// Every ring that upstream feeds.
    pub(in crate::relay) fn carried_rings(&self) -> Vec<RingId> {
        self.feed.iter().filter(|(_, ring)| !ring.name.starts_with('$')).map(|(id, _)| id).collect()
    }

    pub(in crate::relay) fn rings_for(&mut self, at: Time, target: Target<'_>, into: &mut Vec<RingId>) {
        match target {
            Target::Channel(channel) => self.direct_rings(channel, into),
            Target::Name(name) => {
                let name = legal(name);
                if let Some(id) = self.feed.find(&name)
                    && let Some(ring) = self.feed.ring(id)
                    && (ring.upstream.is_some() || !self.dialect.subscribes())
                {
                    match ring.upstream.filter(|_| ring.siblings && ring.direct) {
                        Some(channel) => self.direct_rings(channel, into),
                        None => into.push(id),
                    }
                } else if let Some(channel) = self.interest.find(&name) {
                    self.direct_rings(channel, into);
                    if into.is_empty() {
                        into.extend(self.carry_mapped(at, &name));
                    }
                } else {
                    into.extend(self.carry_mapped(at, &name));
                }
            }
        }
    }

    fn direct_rings(&self, channel: ChannelId, into: &mut Vec<RingId>) {
        into.extend_from_slice(self.feed.direct_rings_of(channel));
    }

    /// A channel that nobody named yet but that arrives anyway: on an upstream channel that a policy maps it onto, or because
    /// the dialect knows no subscribing.
    fn carry_mapped(&mut self, at: Time, name: &str) -> Option<RingId> {
        let policy = naming::policy(&self.config, name);
        let limits = policy.and_then(|policy| policy.ring).unwrap_or(self.config.feed.ring);
        let mapped = policy.and_then(|policy| policy.upstream.clone()).filter(|upstream| upstream != name);
        let direct = policy.is_some_and(|policy| !policy.pattern.ends_with('*'));
        let upstream = match mapped.and_then(|upstream| self.interest.find(&upstream)) {
            Some(upstream) => Some(upstream),
            None if self.dialect.subscribes() => return None,
            None => None,
        };
        // A longer name is one that no client can say.
        let ring = if name.len() <= CHANNEL_MAX { self.carry(at, name, limits) } else { None };
        let Some(ring) = ring else {
            self.stats.feed.dropped.bump(DropReason::ChannelLimit);
            return None;
        };
        if let Some(upstream) = upstream {
            self.feed.bind(ring, upstream, direct);
        }
        Some(ring)
    }

    /// Begins to carry a channel, and joins the patterns that match it.
    pub(in crate::relay) fn carry(
        &mut self,
        at: Time,
        name: &str,
        limits: crate::config::RingConfig,
    ) -> Option<RingId> {
        let known = self.feed.find(name);
        let ring = self.feed.carry(name, limits, at)?;
        if known.is_none() {
            self.forget_numbers(ring);
            self.watch.forget(ring);
            self.watch_ring(at, ring, name);
            self.note_whole(at, ring);
            self.join_patterns(ring, name);
        }
        Some(ring)
    }

    /// A hole may have come to be on a channel that was live.
    pub(in crate::relay) fn channel_lost(&mut self, now: Time, channel: ChannelId, reason: GapReason) {
        for ring in self.feed.rings_of(channel) {
            self.ring_lost(now, ring, reason);
        }
    }

    /// The connection is gone and the dialect subscribes nothing: anything may be missing anywhere.
    pub(in crate::relay) fn everything_lost(&mut self, now: Time, reason: GapReason) {
        if !self.dialect.subscribes() {
            for ring in self.carried_rings() {
                self.ring_lost(now, ring, reason);
            }
        }
    }

    pub(in crate::relay) fn ring_lost(&mut self, now: Time, ring: RingId, reason: GapReason) {
        // Numbers without holes will show what was missed, exactly; a guess now would only cry wolf.
        let guess = matches!(reason, GapReason::Reconnect | GapReason::TransportSwitch | GapReason::Silence);
        let numbered = self.whole_of(ring).unwrap_or(ring);
        if !guess || !self.sequence.vouches_for(numbered) {
            self.feed.admit_gap(ring, now, None, reason, &mut self.stats.feed);
        }
    }

    /// Upstream said that it lost events of a channel.
    pub(in crate::relay) fn target_lost(&mut self, now: Time, target: Target<'_>, reason: GapReason) {
        let mut rings = Vec::new();
        self.rings_for(now, target, &mut rings);
        for ring in rings {
            self.admit_gap(now, ring, None, reason);
        }
    }

    /// Upstream refused a channel, or ended it: the subscriptions concerned end, and only they hear of it.
    pub(in crate::relay) fn channel_refused(&mut self, now: Time, channel: ChannelId, code: ErrorCode, message: &str) {
        for ring in self.feed.rings_of(channel) {
            let Some(ring) = self.feed.ring(ring) else { continue };
            let (name, readers) = (ring.name.clone(), ring.readers.clone());
            for reader in readers {
                let Some(session) = self.sessions.at(reader.session).map(|session| session.id) else { continue };
                if !self.holds_interest(session, reader.subscription) {
                    continue;
                }
                // The refusal ended the want; there is nothing to let go of.
                self.detach(now, session, reader.subscription);
                let frame = control::error(None, Some(&name), code, message, None);
                self.tell(session, frame);
                self.stats.sessions.errors.bump(code.text());
            }
        }
        self.join_refused(now, channel, code);
    }

    /// A pattern's subscription holds no interest upstream and is not concerned by a refusal.
    fn holds_interest(&mut self, session: SessionId, slot: u32) -> bool {
        let subscription = self.sessions.get_mut(session).and_then(|session| session.subscription(slot));
        subscription.is_some_and(|subscription| subscription.upstream.is_some())
    }

    /// The channel was unsubscribed upstream.
    pub(in crate::relay) fn channel_dropped(&mut self, channel: ChannelId) {
        let rings = self.feed.rings_of(channel);
        for ring in &rings {
            self.forget_numbers(*ring);
        }
        self.unsettled.forget(channel);
        self.feed.dropped(channel);
        for ring in rings {
            if self.feed.ring(ring).is_some() { self.watch.suspend(ring) } else { self.watch.forget(ring) }
        }
    }

    /// How a local channel stands upstream, in the words of `subscribed`.
    pub(in crate::relay) fn upstream_word(&self, ring: RingId) -> &'static str {
        let Some(ring) = self.feed.ring(ring) else { return "pending" };
        if ring.name.starts_with('$') {
            return "live";
        }
        let state = ring.upstream.map(|channel| self.interest.state(channel));
        match state {
            Some(InterestState::Live | InterestState::Lingering) if self.link_is_live() => "live",
            Some(InterestState::Waiting) => "waiting",
            None if !self.dialect.subscribes() && self.link_is_live() => "live",
            _ => "pending",
        }
    }

    /// The link's state changed: tell it on `$status`.
    pub(in crate::relay) fn link_changed(&mut self, now: Time) {
        let data = self.link_json(now);
        self.tell_status(now, None, "upstream", data);
    }

    /// An event of the relay's own on `$status`.
    pub(in crate::relay) fn tell_status(&mut self, now: Time, key: Option<&str>, kind: &'static str, data: Vec<u8>) {
        self.tell_own(now, STATUS_CHANNEL, key, kind, data);
    }

    /// An event of the relay's own on one of its channels, if that is carried.
    pub(in crate::relay) fn tell_own(
        &mut self,
        now: Time,
        channel: &str,
        key: Option<&str>,
        kind: &'static str,
        data: Vec<u8>,
    ) {
        let Some(ring) = self.feed.find(channel) else { return };
        let event = Event {
            target: Target::Name(channel),
            key: key.map(Cow::Borrowed),
            kind: Some(Cow::Borrowed(kind)),
            id: None,
            sequence: None,
            source_time: None,
            data: Cow::Owned(data),
            role: crate::dialect::Role::Event,
            fold: crate::dialect::Fold::Replace,
        };
        self.feed.admit(ring, now, &event, &mut self.stats.feed);
    }
}

/// Providers' names pass unchanged, but for what has a meaning here: a leading `$` and every `*` are percent-encoded.
pub(in crate::relay) fn legal(name: &str) -> Cow<'_, str> {
    if !name.starts_with('$') && !name.contains('*') {
        return Cow::Borrowed(name);
    }
    let rest = name.strip_prefix('$');
    let encoded = rest.unwrap_or(name).replace('*', "%2A");
    Cow::Owned(if rest.is_some() { format!("%24{encoded}") } else { encoded })
}

#[cfg(test)]
mod tests {
    use super::legal;

    #[test]
    fn names_of_providers_pass_unless_they_mean_something_here() {
        assert_eq!(legal("!miniTicker@arr"), "!miniTicker@arr");
        assert_eq!(legal("$status"), "%24status");
        assert_eq!(legal("a*b$"), "a%2Ab$");
    }
}
