//! Interest: the union of what sessions and the outbox want of upstream, as one set of channels with reference counts.
//!
//! A channel is wanted while somebody holds it, lingers a while after the last one let go, and is then dropped; a refusal is
//! remembered so that nobody asks again too soon. At most `cap` channels are admitted at once: beyond it the lowest priority
//! and newest wait. What the attempt that serves has reached with a channel is mirrored here ([`Standing`]) for those who ask.
//!
//! Invariants: one channel per identity and, unless upstream tells params apart, one identity per base name; a channel's number
//! is never reused; every want is balanced by one release or ended by a refusal. No verb walks over all channels except
//! [`Interest::attempt_lost`] and [`Interest::entries`].
//! Deliberately not here: frames, acks and their deadlines (the attempt's), and who the sessions are.

mod admission;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::outbox::Lane;
use super::time::Mono;
use crate::config::InterestConfig;
use crate::dialect::{ChannelId, ChannelSpec};
use crate::protocol::codes::ErrorCode;
use admission::Admission;

/// What upstream's protocol means for interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upstream {
    /// Channels are subscribed one by one; else each is live once the attempt is ready.
    pub subscribes: bool,
    /// Events of one base name with different params can be told apart.
    pub tells_params: bool,
    /// Channels that upstream allows on one connection.
    pub channels: Option<usize>,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The channel's identity: its base name, with params but without secret ones.
    pub identity: &'a str,
    /// Its base name, as upstream knows it.
    pub name: &'a str,
    /// The params' JSON object text, secrets included.
    pub params: Option<&'a str>,
    /// Order of subscribes.
    pub priority: Lane,
    /// How long to keep it without interest.
    pub linger: Duration,
}

/// Why a channel cannot be wanted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantError {
    /// The same base name is wanted with other params, and upstream's events do not say which params they belong to.
    Conflict {
        /// The identity that holds the base name.
        with: String,
    },
    /// Upstream refused it not long ago.
    Refused {
        /// As what.
        code: ErrorCode,
        /// In upstream's words.
        message: String,
        /// Until when that is remembered.
        until: Mono,
    },
    /// Too many channels are wanted already.
    Limit,
}

/// How a channel stands, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterestState {
    /// Not wanted, or not any more.
    Unwanted,
    /// To be subscribed, not sent yet.
    Wanted,
    /// Beyond the cap.
    Waiting,
    /// The subscribe was sent.
    Sent,
    /// Upstream sends its events.
    Live,
    /// Upstream refused it; remembered for a while.
    Refused,
    /// Nobody wants it any more; kept for a while.
    Lingering,
}

impl InterestState {
    /// The word that people and frames use.
    pub fn text(self) -> &'static str {
        match self {
            InterestState::Unwanted => "unwanted",
            InterestState::Wanted => "wanted",
            InterestState::Waiting => "waiting",
            InterestState::Sent => "sent",
            InterestState::Live => "live",
            InterestState::Refused => "refused",
            InterestState::Lingering => "lingering",
        }
    }
}

/// What the attempt that serves has reached with a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet.
    Wanted,
    /// The subscribe was sent.
    Sent,
    /// Upstream acked it, or needs no ack.
    Live,
}

/// What has to happen next because interest changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The channel may be subscribed.
    Admitted(ChannelId),
    /// A more urgent one took its place before it was sent: it waits.
    Displaced(ChannelId),
    /// Nobody wants it any more.
    Dropped(Dropped),
}

/// A channel that is no longer wanted: what an unsubscribe needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its number.
    pub id: ChannelId,
    /// Its base name.
    pub name: Box<str>,
    /// Its params, secrets included.
    pub params: Option<Box<str>>,
}

/// One channel, for `GET /v1/subscriptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterestEntry<'a> {
    /// Its number.
    pub id: ChannelId,
    /// Its identity.
    pub identity: &'a str,
    /// How it stands.
    pub state: InterestState,
    /// How many hold it.
    pub references: u32,
    /// Since when it is wanted.
    pub since: Mono,
    /// What upstream last said against it.
    pub last_error: Option<&'a str>,
}

struct Channel {
    identity: Box<str>,
    name: Box<str>,
    params: Option<Box<str>>,
    priority: Lane,
    linger: Duration,
    references: u32,
    since: Mono,
    standing: Standing,
    was_live: bool,
    /// When lingering or the memory of a refusal ends.
    until: Option<Mono>,
    refused: Option<ErrorCode>,
    last_error: Option<Box<str>>,
}

/// The set of wanted channels.
pub struct Interest {
    refused_for: Duration,
    upstream: Upstream,
    /// Channels at once, refused ones included.
    limit: usize,
    next: u32,
    channels: BTreeMap<ChannelId, Channel>,
    by_identity: HashMap<Box<str>, ChannelId>,
    by_name: HashMap<Box<str>, Vec<ChannelId>>,
    admission: Admission,
    lingering: BTreeSet<(Mono, ChannelId)>,
    refused: BTreeSet<(Mono, ChannelId)>,
    live: usize,
    /// The attempt that serves is ready.
    ready: bool,
    changes: VecDeque<Change>,
}

impl Interest {
    /// Nothing is wanted yet. `limit`: channels wanted at once (`feed.max_channels`).
    pub fn new(config: &InterestConfig, limit: usize, upstream: Upstream) -> Self {
        let configured = Some(config.max_channels).filter(|n| *n > 0);
        let cap = configured.into_iter().chain(upstream.channels).min().unwrap_or(usize::MAX);
        Interest {
            refused_for: config.refused_for,
            upstream,
            limit,
            next: 0,
            channels: BTreeMap::new(),
            by_identity: HashMap::new(),
            by_name: HashMap::new(),
            admission: Admission::new(cap),
            lingering: BTreeSet::new(),
            refused: BTreeSet::new(),
            live: 0,
            ready: false,
            changes: VecDeque::new(),
        }
    }

    /// Other limits. The cap stays as it is: channels beyond a new one could not be taken back.
    pub fn reload(&mut self, config: &InterestConfig) {
        self.refused_for = config.refused_for;
    }

    /// One more holds this channel; it no longer lingers. Balanced by [`Interest::release`], unless upstream refuses it.
    pub fn want(&mut self, now: Mono, want: Want<'_>) -> Result<ChannelId, WantError> {
        self.expire(now);
        if let Some(id) = self.by_identity.get(want.identity).copied() {
            return self.hold(id, want.priority);
        }
        if !self.upstream.tells_params {
            self.take_base(want.name)?;
        }
        if self.channels.len() >= self.limit {
            let (_, forgotten) = *self.refused.first().ok_or(WantError::Limit)?;
            self.forget(forgotten);
        }
        let id = ChannelId(self.next);
        // Numbers last for a new channel a second over 136 years.
        self.next = self.next.checked_add(1).ok_or(WantError::Limit)?;
        self.by_identity.insert(want.identity.into(), id);
        self.by_name.entry(want.name.into()).or_default().push(id);
        let channel = Channel {
            identity: want.identity.into(),
            name: want.name.into(),
            params: want.params.map(Into::into),
            priority: want.priority,
            linger: want.linger,
            references: 1,
            since: now,
            standing: Standing::Wanted,
            was_live: false,
            until: None,
            refused: None,
            last_error: None,
        };
        self.channels.insert(id, channel);
        if self.admission.full() {
            // A channel that only lingers does not keep a wanted one waiting.
            if let Some((_, lingering)) = self.lingering.first().copied() {
                self.drop_channel(lingering);
            }
        }
        if let Some(displaced) = self.admission.enter(want.priority, id) {
            self.changes.push_back(Change::Displaced(displaced));
        }
        if self.admission.admitted(id) {
            self.changes.push_back(Change::Admitted(id));
        }
        Ok(id)
    }

    /// A further holder of a channel that is known.
    fn hold(&mut self, id: ChannelId, priority: Lane) -> Result<ChannelId, WantError> {
        let Some(channel) = self.channels.get_mut(&id) else { return Err(WantError::Limit) };
        if let (Some(code), Some(until)) = (channel.refused, channel.until) {
            let message = channel.last_error.as_deref().unwrap_or_default().to_owned();
            return Err(WantError::Refused { code, message, until });
        }
        if let Some(until) = channel.until.take() {
            self.lingering.remove(&(until, id));
        }
        channel.references = channel.references.saturating_add(1);
        if priority < channel.priority {
            self.admission.promote(channel.priority, priority, id);
            channel.priority = priority;
        }
        Ok(id)
    }

    /// Refuses a second set of params for one base name, unless the first one is refused or only lingers.
    fn take_base(&mut self, name: &str) -> Result<(), WantError> {
        let Some(holder) = self.by_name.get(name).and_then(|ids| ids.first()).copied() else { return Ok(()) };
        let Some(channel) = self.channels.get(&holder) else { return Ok(()) };
        if channel.references > 0 {
            return Err(WantError::Conflict { with: channel.identity.to_string() });
        }
        if channel.refused.is_some() {
            self.forget(holder);
        } else {
            self.drop_channel(holder);
        }
        Ok(())
    }

    /// One less holds this channel. The last one leaves it lingering. Harmless once the channel was refused or is unknown.
    pub fn release(&mut self, now: Mono, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.refused.is_some() || channel.references == 0 {
            return;
        }
        channel.references -= 1;
        if channel.references > 0 {
            return;
        }
        // Nothing lingers where another one waits for its place.
        if channel.linger.is_zero() || !self.admission.admitted(id) || self.admission.waiting() > 0 {
            return self.drop_channel(id);
        }
        let until = now + channel.linger;
        channel.until = Some(until);
        self.lingering.insert((until, id));
    }

    /// Drops what lingered long enough and forgets old refusals.
    pub fn expire(&mut self, now: Mono) {
        while let Some((_, id)) = self.lingering.first().copied().filter(|(until, _)| *until <= now) {
            self.drop_channel(id);
        }
        while let Some((_, id)) = self.refused.first().copied().filter(|(until, _)| *until <= now) {
            self.forget(id);
        }
    }

    /// When [`Interest::expire`] has something to do.
    pub fn due(&self) -> Option<Mono> {
        [self.lingering.first(), self.refused.first()].into_iter().flatten().map(|(until, _)| *until).min()
    }

    /// The next thing that has to happen because interest changed.
    pub fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Upstream refused the channel, or ended it for good: all holds on it end, and nobody may want it for a while.
    pub fn refuse(&mut self, now: Mono, id: ChannelId, code: ErrorCode, message: &str) {
        let until = now + self.refused_for;
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| channel.refused.is_none()) else { return };
        self.live -= usize::from(channel.standing == Standing::Live);
        channel.standing = Standing::Wanted;
        channel.references = 0;
        channel.refused = Some(code);
        channel.last_error = Some(message.into());
        if let Some(lingering) = channel.until.replace(until) {
            self.lingering.remove(&(lingering, id));
        }
        self.refused.insert((until, id));
        self.leave(id);
    }

    /// Upstream complained about the channel; nothing else changes.
    pub fn blame(&mut self, id: ChannelId, message: &str) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.last_error = Some(message.into());
        }
    }

    /// The attempt that serves has reached this with the channel.
    pub fn stand(&mut self, id: ChannelId, standing: Standing) {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| channel.refused.is_none()) else { return };
        self.live -= usize::from(channel.standing == Standing::Live);
        self.live += usize::from(standing == Standing::Live);
        channel.standing = standing;
        channel.was_live |= standing == Standing::Live;
        self.admission.sent(channel.priority, id, standing != Standing::Wanted);
    }

    /// The channels that may be subscribed, in the order of their numbers.
    pub fn admitted(&self) -> impl Iterator<Item = ChannelId> + '_ {
        self.admission.all().filter(|id| self.channels.contains_key(id))
    }

    /// The attempt that serves became ready: gives every channel that may be subscribed, with whether it was live before.
    pub fn attempt_ready(&mut self) -> Vec<(ChannelId, bool)> {
        self.ready = true;
        // Whatever was admitted until now is in the answer.
        self.changes.retain(|change| !matches!(change, Change::Admitted(_)));
        let admitted = self.admission.all();
        admitted.filter_map(|id| self.channels.get(&id).map(|channel| (id, channel.was_live))).collect()
    }

    /// The attempt that served is gone: nothing is sent or live, and what may be subscribed next is chosen anew.
    pub fn attempt_lost(&mut self) {
        self.ready = false;
        self.live = 0;
        for channel in self.channels.values_mut() {
            channel.standing = Standing::Wanted;
        }
        for displaced in self.admission.choose_anew() {
            self.changes.push_back(Change::Displaced(displaced));
        }
    }

    /// How a channel stands.
    pub fn state(&self, id: ChannelId) -> InterestState {
        match self.channels.get(&id) {
            None => InterestState::Unwanted,
            Some(channel) if channel.refused.is_some() => InterestState::Refused,
            Some(channel) if channel.references == 0 => InterestState::Lingering,
            Some(_) if !self.admission.admitted(id) => InterestState::Waiting,
            Some(_) if self.ready && !self.upstream.subscribes => InterestState::Live,
            Some(channel) => match channel.standing {
                Standing::Wanted => InterestState::Wanted,
                Standing::Sent => InterestState::Sent,
                Standing::Live => InterestState::Live,
            },
        }
    }

    /// Which wanted channel an inbound base name means; the oldest, where upstream tells params apart.
    pub fn find(&self, base: &str) -> Option<ChannelId> {
        let ids = self.by_name.get(base)?;
        ids.iter().copied().find(|id| self.channels.get(id).is_some_and(|channel| channel.refused.is_none()))
    }

    /// Whether a channel of this identity is wanted, lingers, or was refused not long ago.
    pub fn is_known(&self, identity: &str) -> bool {
        self.by_identity.contains_key(identity)
    }

    /// The channel's identity; empty if it is not wanted any more.
    pub fn identity(&self, id: ChannelId) -> &str {
        self.channels.get(&id).map_or("", |channel| &channel.identity)
    }

    /// What the dialect needs to subscribe the channel.
    pub fn spec(&self, id: ChannelId) -> Option<ChannelSpec<'_>> {
        let channel = self.channels.get(&id)?;
        Some(ChannelSpec { id, name: &channel.name, params: channel.params.as_deref() })
    }

    /// The order of its subscribe.
    pub fn priority(&self, id: ChannelId) -> Lane {
        self.channels.get(&id).map_or(Lane::Low, |channel| channel.priority)
    }

    /// All channels, in the order in which they were first wanted.
    pub fn entries(&self) -> impl Iterator<Item = InterestEntry<'_>> {
        self.channels.iter().map(|(id, channel)| InterestEntry {
            id: *id,
            identity: &channel.identity,
            state: self.state(*id),
            references: channel.references,
            since: channel.since,
            last_error: channel.last_error.as_deref(),
        })
    }

    /// Channels wanted (lingering ones included), live, waiting and refused now.
    pub fn counts(&self) -> Counts {
        let admitted = self.admission.count();
        let live = if self.upstream.subscribes { self.live } else { usize::from(self.ready) * admitted };
        let (waiting, refused) = (self.admission.waiting(), self.refused.len());
        Counts { wanted: self.channels.len() - refused, live, waiting, refused }
    }

    /// A channel that nobody wants any more.
    fn drop_channel(&mut self, id: ChannelId) {
        if let Some(channel) = self.forget(id) {
            self.live -= usize::from(channel.standing == Standing::Live);
            self.changes.push_back(Change::Dropped(Dropped { id, name: channel.name, params: channel.params }));
            self.leave(id);
        }
    }

    /// The channel gives up its place; the next one that waits gets it.
    fn leave(&mut self, id: ChannelId) {
        if let Some(next) = self.admission.leave(id) {
            self.changes.push_back(Change::Admitted(next));
        }
    }

    fn forget(&mut self, id: ChannelId) -> Option<Channel> {
        let channel = self.channels.remove(&id)?;
        self.by_identity.remove(&channel.identity);
        if let Some(ids) = self.by_name.get_mut(&channel.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_name.remove(&channel.name);
            }
        }
        if let Some(until) = channel.until {
            self.lingering.remove(&(until, id));
            self.refused.remove(&(until, id));
        }
        Some(channel)
    }
}

/// How many channels stand how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Wanted or lingering.
    pub wanted: usize,
    /// Live upstream.
    pub live: usize,
    /// Beyond the cap.
    pub waiting: usize,
    /// Refused and remembered.
    pub refused: usize,
}
