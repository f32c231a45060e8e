//! Sessions subscribe and unsubscribe: channels and patterns, where a subscription begins, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::dialect::ChannelId;
use crate::protocol::codes::ErrorCode;
use crate::protocol::control::{self, Subscribed};
use crate::protocol::frame::Format;
use crate::protocol::position::Position;
use crate::protocol::request::options::Options;
use crate::protocol::request::{ChannelRequest, Ref, Subscribe};
use crate::relay::Relay;
use crate::relay::feed::RingId;
use crate::relay::feed::ring::{Reader, Verdict};
use crate::relay::feed::views::Sight;
use crate::relay::interest::{Want, WantError};
use crate::relay::meet::heard::events::{STATUS_CHANNEL, UNMATCHED_CHANNEL};
use crate::relay::naming::{self, Named};
use crate::relay::pairs::SessionId;
use crate::relay::session::pace::Pace;
use crate::relay::session::{News, Pattern, Session, Subscription};
use crate::relay::stats::ResetReason;
use crate::relay::time::{Mono, Time};

use super::following::{OUTBOX_CHANNEL, is_of_message};

/// Why there is no conflation here, and what to do.
const NO_CONFLATION: &str = "the events of this channel add up (fold = append), so none may stand for another: subscribe \
                             without conflate, max_rate and on_slow: conflate";

/// Why one channel could not be subscribed.
pub(super) struct Refusal {
    code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), retry_after: None }
    }
}

/// The same words whether there is such a channel or not.
pub(super) fn forbidden() -> Refusal {
    Refusal::new(ErrorCode::Forbidden, "not among the channels that this principal may read")
}

/// Where a subscription begins.
pub(super) enum Begin {
    Fresh,
    Resumed(u64),
    Reset(ResetReason),
}

/// Options as subscriptions share them; the usual ones take no room.
fn shared(options: &Options) -> Option<Arc<Options>> {
    (*options != Options::default()).then(|| Arc::new(options.clone()))
}

impl Relay {
    pub(in crate::relay) fn subscribe(&mut self, now: Time, id: SessionId, subscribe: Subscribe) {
        let before = self.sessions.get(id).map(Session::gate).unwrap_or_default();
        for channel in &subscribe.channels {
            let done = match channel.name.strip_suffix('*') {
                Some(prefix) => self.subscribe_pattern(id, &subscribe, channel, prefix),
                None => self.subscribe_channel(now, id, &subscribe, channel),
            };
            if let Err(refusal) = done {
                let reference = subscribe.reference.as_ref();
                self.refuse(id, reference, Some(&channel.name), refusal.code, &refusal.message, refusal.retry_after);
            }
        }
        // Every verdict comes before any entry, so the replays of several channels leave as one, in the order of offsets:
        // who is cut off in their midst holds a cursor that is true for each of them.
        if let Some(session) = self.sessions.get_mut(id) {
            session.join_gates(before);
        }
    }

    fn subscribe_channel(
        &mut self,
        now: Time,
        id: SessionId,
        subscribe: &Subscribe,
        channel: &ChannelRequest,
    ) -> Result<(), Refusal> {
        if channel.name.starts_with('$') && channel.params.is_some() {
            return Err(Refusal::new(ErrorCode::Invalid, "the relay's own channels take no params"));
        }
        if is_of_message(&channel.name) {
            return self.subscribe_message(now, id, subscribe, channel);
        }
        self.check_channel(id, channel)?;
        if channel.name.starts_with('$')
            && ![STATUS_CHANNEL, UNMATCHED_CHANNEL, OUTBOX_CHANNEL].contains(&&*channel.name)
        {
            let words = "the relay's own channels are $status, $unmatched, $outbox and $outbox/MESSAGE";
            return Err(Refusal::new(ErrorCode::NotSupported, words));
        }
        let named = naming::resolve(&self.config, self.dialect.secret_params(), channel)
            .map_err(|message| Refusal::new(ErrorCode::Invalid, message))?;
        self.leave_before(now, id, &named.local);
        if let Some(ring) = self.feed.find(&named.local) {
            self.check_fold(ring, &subscribe.options)?;
        }
        let (ring, upstream) = self.want(now, id, &named, channel)?;
        let begin = self.begin(ring, subscribe);
        self.stand(id, subscribe, ring, upstream, &begin);
        self.follow_read(&named.local);
        Ok(())
    }

    /// What is subscribed already is asked for again: the new options and place count.
    pub(super) fn leave_before(&mut self, now: Time, id: SessionId, local: &str) {
        if let Some(ring) = self.feed.find(local)
            && let Some(slot) = self.sessions.get(id).and_then(|session| session.find(ring))
        {
            self.end_subscription(now, id, slot);
        }
    }

    /// Whether this session may read the channel and has room for one more.
    fn check_channel(&self, id: SessionId, channel: &ChannelRequest) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        if !session.principal.may_read(&channel.name) {
            return Err(forbidden());
        }
        self.check_room(id)
    }

    pub(super) fn check_room(&self, id: SessionId) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        if session.channels() + session.patterns.len() >= self.config.feed.session_channels {
            let message = format!("a session has at most {} channels", self.config.feed.session_channels);
            return Err(Refusal::new(ErrorCode::LimitExceeded, format!("{message} (feed.session_channels)")));
        }
        Ok(())
    }

    /// Carries the channel locally and wants it upstream.
    fn want(
        &mut self,
        now: Time,
        id: SessionId,
        named: &Named,
        channel: &ChannelRequest,
    ) -> Result<(RingId, Option<ChannelId>), Refusal> {
        let own = channel.name.starts_with('$');
        let upstream = if own || !self.dialect.subscribes() {
            None
        } else {
            self.spend_subscribe(now.mono, id, &named.upstream).map_err(|wait| Refusal {
                retry_after: Some(wait),
                ..Refusal::new(ErrorCode::LimitExceeded, "the budget for subscribing further channels is spent")
            })?;
            let want = Want {
                identity: &named.upstream,
                name: &named.base,
                params: named.params.as_deref(),
                priority: named.priority,
                linger: named.linger,
            };
            Some(self.interest.want(now.mono, want).map_err(|error| refusal(now.mono, error))?)
        };
        let whole = upstream.is_none_or(|upstream| self.carry_whole(now, named, upstream));
        let ring = if whole { self.carry(now, &named.local, named.ring) } else { None };
        let Some(ring) = ring else {
            if let Some(upstream) = upstream {
                self.interest.release(now.mono, upstream);
            }
            return Err(self.too_many_channels());
        };
        if let Some(upstream) = upstream {
            self.feed.bind(ring, upstream, named.direct);
        }
        Ok((ring, upstream))
    }

    pub(super) fn too_many_channels(&self) -> Refusal {
        let message = format!("{} channels are carried already (feed.max_channels)", self.config.feed.max_channels);
        Refusal::new(ErrorCode::LimitExceeded, message)
    }

    pub(super) fn begin(&self, ring: RingId, subscribe: &Subscribe) -> Begin {
        let Some(since) = &subscribe.since else { return Begin::Fresh };
        let Some(ring) = self.feed.ring(ring) else { return Begin::Fresh };
        match Position::parse(since) {
            None => Begin::Reset(ResetReason::Malformed),
            Some(position) if position.epoch != self.feed.epoch() => Begin::Reset(ResetReason::Epoch),
            Some(position) => match ring.verdict(position.offset, self.feed.head()) {
                Verdict::Resumed => Begin::Resumed(position.offset),
                Verdict::Reset(reason) => Begin::Reset(reason),
            },
        }
    }

    /// Puts the subscription in place and tells: `subscribed`, then `reset` and snapshot where they are due.
    pub(super) fn stand(
        &mut self,
        id: SessionId,
        subscribe: &Subscribe,
        ring_id: RingId,
        upstream: Option<ChannelId>,
        begin: &Begin,
    ) {
        let head = self.feed.head();
        let word = self.upstream_word(ring_id);
        let stale = word != "live";
        let Some(ring) = self.feed.ring(ring_id) else { return };
        let after = if let Begin::Resumed(since) = begin { *since } else { head };
        let snapshot = match begin {
            Begin::Fresh if !subscribe.snapshot => Vec::new(),
            Begin::Fresh | Begin::Reset(_) => {
                super::snapshots::frames(&self.feed, ring, stale, subscribe.options.fields.as_deref())
            }
            Begin::Resumed(_) => Vec::new(),
        };
        let has_state = !snapshot.is_empty();
        let subscribed = control::subscribed(&Subscribed {
            reference: subscribe.reference.as_ref(),
            channel: &ring.name,
            upstream: word,
            resumed: matches!(begin, Begin::Resumed(_)),
            snapshot: has_state,
            lossy: subscribe.options.is_lossy(),
            position: Position { epoch: self.feed.epoch(), offset: after },
        });
        let reset = match begin {
            Begin::Reset(reason) => Some(control::reset_of_session(None, &ring.name, reason.text())),
            Begin::Fresh | Begin::Resumed(_) => None,
        };
        match begin {
            Begin::Resumed(_) => self.stats.feed.resumed += 1,
            Begin::Reset(reason) => self.stats.feed.resets.bump(*reason),
            Begin::Fresh => {}
        }
        self.tell(id, subscribed);
        for frame in reset.into_iter().chain(snapshot) {
            self.tell(id, frame);
        }
        self.attach(id, ring_id, upstream, after, shared(&subscribe.options));
        // A state that was sent whole is what changes can be told to. Of some members only, it may be from an event that changed
        // none of them and that nobody was sent.
        if has_state && subscribe.options.fields.is_none() {
            let slot = self.sessions.get(id).and_then(|session| session.find(ring_id));
            let session = self.sessions.get_mut(id);
            if let Some(subscription) = session.zip(slot).and_then(|(session, slot)| session.subscription(slot)) {
                subscription.whole_from = 0;
            }
        }
    }

    /// Enters the subscription with session and ring.
    fn attach(
        &mut self,
        id: SessionId,
        ring_id: RingId,
        upstream: Option<ChannelId>,
        after: u64,
        options: Option<Arc<Options>>,
    ) {
        let live_from = self.feed.head();
        let (Some(session), Some(ring)) = (self.sessions.get_mut(id), self.feed.ring_mut(ring_id)) else { return };
        let reader = ring.readers.len() as u32;
        let pace = options.as_deref().and_then(Pace::new);
        // Only SSE tells a cursor of the whole session with each entry.
        if pace.is_some() && session.format == Format::Sse {
            session.set_uneven();
        }
        let as_it_comes = options.as_deref().is_none_or(Options::is_as_it_comes);
        if let Some(sight) = options.as_deref().and_then(Sight::of) {
            ring.views.enter(sight);
        }
        let slot = session.insert(Subscription {
            ring: ring_id,
            after,
            live_from,
            gate: session.gate(),
            news: News::None,
            plain: as_it_comes && !session.uneven,
            seen: ring.pushed_at(after),
            owed: None,
            whole_from: after + 1,
            options,
            pace,
            upstream,
            reader,
        });
        ring.readers.push(Reader { session: id.index, subscription: slot });
        let behind = ring.last.is_some_and(|last| last > after);
        self.feed.interest_again(ring_id);
        self.stats.sessions.subscriptions += 1;
        if behind {
            self.sessions.mark(id.index, slot);
        }
    }

    fn subscribe_pattern(
        &mut self,
        id: SessionId,
        subscribe: &Subscribe,
        channel: &ChannelRequest,
        prefix: &str,
    ) -> Result<(), Refusal> {
        self.check_pattern(id, channel)?;
        let frame = control::subscribed(&Subscribed {
            reference: subscribe.reference.as_ref(),
            channel: &channel.name,
            upstream: if self.link_is_live() { "live" } else { "pending" },
            resumed: false,
            snapshot: false,
            lossy: subscribe.options.is_lossy(),
            position: self.feed.position(),
        });
        self.tell(id, frame);
        let pattern = Pattern { prefix: prefix.into(), options: shared(&subscribe.options) };
        self.sessions.add_pattern(id, pattern);
        let matching: Vec<RingId> =
            self.feed.iter().filter(|(_, ring)| pattern_matches(prefix, &ring.name)).map(|(id, _)| id).collect();
        for ring in matching {
            if self.may_join(id, ring) {
                self.join_now(id, subscribe, ring);
            }
        }
        Ok(())
    }

    /// A pattern joins a channel that is carried already.
    fn join_now(&mut self, id: SessionId, subscribe: &Subscribe, ring: RingId) {
        match self.check_fold(ring, &subscribe.options) {
            Ok(()) => {
                let begin = self.begin(ring, subscribe);
                self.stand(id, subscribe, ring, None, &begin);
            }
            Err(refusal) => {
                let name = self.feed.ring(ring).map(|ring| Arc::clone(&ring.name)).unwrap_or_default();
                self.refuse(id, subscribe.reference.as_ref(), Some(&name), refusal.code, &refusal.message, None);
            }
        }
    }

    /// Where events add up, none may stand for another.
    fn check_fold(&self, ring: RingId, options: &Options) -> Result<(), Refusal> {
        if options.conflates() && self.feed.ring(ring).is_some_and(|ring| ring.values.is_sum()) {
            return Err(Refusal::new(ErrorCode::NotSupported, NO_CONFLATION));
        }
        Ok(())
    }

    /// Events of a channel turned out to add up: a subscription that would leave some out ends, and is told.
    pub(in crate::relay) fn end_unfit(&mut self, now: Time, id: SessionId, slot: u32) {
        // It may have been replaced by another one since.
        let Some(subscription) = self.sessions.get_mut(id).and_then(|session| session.subscription(slot)) else {
            return;
        };
        let (ring, options) = (subscription.ring, subscription.options.clone().unwrap_or_default());
        if let Err(refusal) = self.check_fold(ring, &options) {
            let name = self.feed.ring(ring).map(|ring| Arc::clone(&ring.name)).unwrap_or_default();
            self.end_subscription(now, id, slot);
            self.refuse(id, None, Some(&name), refusal.code, &refusal.message, None);
        }
    }

    /// A pattern matches within what access allows: it is refused only if nothing that it could match may be read.
    fn check_pattern(&self, id: SessionId, channel: &ChannelRequest) -> Result<(), Refusal> {
        if channel.params.is_some() {
            return Err(Refusal::new(ErrorCode::Invalid, "a pattern takes no params"));
        }
        if channel.name.starts_with('$') {
            return Err(Refusal::new(ErrorCode::NotSupported, "patterns do not match the relay's own channels"));
        }
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        if session.channels() + session.patterns.len() >= self.config.feed.session_channels {
            return Err(Refusal::new(ErrorCode::LimitExceeded, "too many channels (feed.session_channels)"));
        }
        Ok(())
    }

    /// Whether a pattern of this session may join a ring: allowed, not joined yet, and room left.
    fn may_join(&self, id: SessionId, ring_id: RingId) -> bool {
        let (Some(session), Some(ring)) = (self.sessions.get(id), self.feed.ring(ring_id)) else { return false };
        session.principal.may_read(&ring.name)
            && session.find(ring_id).is_none()
            && session.channels() < self.config.feed.session_channels
    }

    /// A channel begins to be carried: sessions whose patterns match it join it.
    pub(in crate::relay) fn join_patterns(&mut self, ring: RingId, name: &str) {
        for id in self.sessions.with_patterns.clone() {
            let Some(session) = self.sessions.get(id) else { continue };
            let Some(pattern) = session.patterns.iter().find(|p| pattern_matches(&p.prefix, name)).cloned() else {
                continue;
            };
            if self.may_join(id, ring) {
                // From the beginning: what is admitted next is the first entry that can be seen.
                let after = self.feed.head();
                self.attach(id, ring, None, after, pattern.options);
            }
        }
    }

    pub(in crate::relay) fn unsubscribe(
        &mut self,
        now: Time,
        id: SessionId,
        reference: Option<&Ref>,
        channel: &ChannelRequest,
    ) {
        if let Some(prefix) = channel.name.strip_suffix('*') {
            let joined = self.sessions.remove_pattern(id, prefix);
            if joined {
                for slot in self.pattern_slots(id, prefix) {
                    self.end_subscription(now, id, slot);
                }
                self.tell(id, control::unsubscribed(reference, &channel.name));
            } else {
                self.not_subscribed(id, reference, channel);
            }
            return;
        }
        let local = naming::resolve(&self.config, self.dialect.secret_params(), channel).map(|named| named.local);
        let ring = local.ok().and_then(|local| self.feed.find(&local));
        let slot = ring.and_then(|ring| self.sessions.get(id).and_then(|session| session.find(ring)));
        // One that stands may be asked for again, and that request may wait: neither outlives this one.
        let waited = self.follow_no_more(id, &channel.name);
        match (ring.and_then(|ring| self.feed.ring(ring)).map(|ring| ring.name.clone()), slot) {
            (Some(name), Some(slot)) => {
                self.end_subscription(now, id, slot);
                self.tell(id, control::unsubscribed(reference, &name));
            }
            _ if waited => self.tell(id, control::unsubscribed(reference, &channel.name)),
            _ => self.not_subscribed(id, reference, channel),
        }
    }

    fn not_subscribed(&mut self, id: SessionId, reference: Option<&Ref>, channel: &ChannelRequest) {
        self.refuse(
            id,
            reference,
            Some(&channel.name),
            ErrorCode::NotFound,
            "this session is not subscribed to it",
            None,
        );
    }

    /// Subscriptions that a pattern made (they hold no interest) and that no other pattern of the session matches.
    fn pattern_slots(&self, id: SessionId, prefix: &str) -> Vec<u32> {
        let Some(session) = self.sessions.get(id) else { return Vec::new() };
        let made_by = |subscription: &Subscription| {
            let name = self.feed.ring(subscription.ring).map(|ring| ring.name.clone()).unwrap_or_default();
            subscription.upstream.is_none()
                && pattern_matches(prefix, &name)
                && !session.patterns.iter().any(|pattern| pattern_matches(&pattern.prefix, &name))
        };
        let slots = (0u32..).zip(&session.subscriptions);
        slots.filter(|(_, slot)| slot.as_ref().is_some_and(made_by)).map(|(slot, _)| slot).collect()
    }

    /// Takes a subscription out of session and ring, and lets go of its interest.
    pub(in crate::relay) fn end_subscription(&mut self, now: Time, id: SessionId, slot: u32) {
        let upstream = self.detach(now, id, slot);
        if let Some(upstream) = upstream {
            self.interest.release(now.mono, upstream);
        }
    }

    /// Takes a subscription out of session and ring; gives the interest that it held.
    pub(in crate::relay) fn detach(&mut self, now: Time, id: SessionId, slot: u32) -> Option<ChannelId> {
        let subscription = self.sessions.get_mut(id)?.take(slot)?;
        self.forget_rest(id, slot, &subscription);
        self.stats.sessions.subscriptions = self.stats.sessions.subscriptions.saturating_sub(1);
        self.leave_ring(now, &subscription);
        subscription.upstream
    }

    /// A subscription that has ended rests no more.
    pub(in crate::relay) fn forget_rest(&mut self, id: SessionId, slot: u32, subscription: &Subscription) {
        if let Some(pace) = subscription.pace.as_ref().filter(|_| subscription.news == News::Resting) {
            self.rests.forget(pace.next, id, slot);
        }
    }

    pub(in crate::relay) fn leave_ring(&mut self, now: Time, subscription: &Subscription) {
        let Some(ring) = self.feed.ring_mut(subscription.ring) else { return };
        if let Some(sight) = subscription.options().and_then(Sight::of) {
            ring.views.leave(&sight);
        }
        let place = subscription.reader as usize;
        if place < ring.readers.len() {
            ring.readers.swap_remove(place);
        }
        let moved = ring.readers.get(place).copied();
        let empty = ring.readers.is_empty();
        if let Some(moved) = moved
            && let Some(other) =
                self.sessions.at(moved.session).and_then(|session| session.subscription(moved.subscription))
        {
            other.reader = subscription.reader;
        }
        if empty && !self.follow_unread(subscription.ring) {
            self.feed.no_interest(subscription.ring, now.mono);
        }
    }
}

/// A pattern matches what upstream carries, never the relay's own channels.
fn pattern_matches(prefix: &str, name: &str) -> bool {
    name.starts_with(prefix) && !name.starts_with('$')
}

fn refusal(now: Mono, error: WantError) -> Refusal {
    match error {
        WantError::Conflict { with } => Refusal::new(
            ErrorCode::Conflict,
            format!("{with} is subscribed already, and upstream's events do not tell parameters apart"),
        ),
        WantError::Refused { code, message, until } => Refusal { code, message, retry_after: Some(until.since(now)) },
        WantError::Limit => Refusal::new(ErrorCode::LimitExceeded, "too many channels are wanted (feed.max_channels)"),
    }
}
