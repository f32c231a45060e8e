//! One upstream channel as many local ones: what enters the local channel that stands for the whole upstream channel
//! (the one of its own name) enters, by its key, the local channels that the configuration maps onto it.
//!
//! The whole comes first: its numbers are judged, what is early waits, what is missing is repaired there, and all of that is
//! told on every part. Invariants: a local channel is mapped by the policy that matches its name first, and by no other; a
//! session gets nothing of a key whose local channel it may not read, because it stands on that local channel alone.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{Config, RingConfig};
use crate::dialect::{ChannelId, Dialect, Event, Role, Target};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control;
use crate::protocol::request::parse::CHANNEL_MAX;
use crate::relay::Relay;
use crate::relay::feed::ring::Ring;
use crate::relay::feed::{Hole, RingId};
use crate::relay::mapping::{Bulk, Mapping};
use crate::relay::naming::{self, Named};
use crate::relay::pairs::SessionId;
use crate::relay::stats::{DropReason, GapReason, ResetReason};
use crate::relay::time::Time;

use super::events::legal;

/// The mappings of a configuration.
pub(in crate::relay) fn compile(config: &Config, dialect: &Dialect) -> Mapping {
    Mapping::new(naming::mappings(config, dialect.secret_params()))
}

impl Relay {
    /// Carries the local channel that stands for the whole of an upstream channel, if that is mapped: its parts get their
    /// events through it. `false`: there is no room for it.
    pub(in crate::relay) fn carry_whole(&mut self, now: Time, named: &Named, upstream: ChannelId) -> bool {
        if self.mapping.number(&named.upstream).is_none() {
            return true;
        }
        let policy = naming::policy(&self.config, &named.base);
        let limits = policy.and_then(|policy| policy.ring).unwrap_or(self.config.feed.ring);
        let Some(whole) = self.carry(now, &named.upstream, limits) else { return false };
        self.feed.bind(whole, upstream, true);
        true
    }

    /// A channel begins to be carried: does it stand for parts?
    pub(in crate::relay) fn note_whole(&mut self, now: Time, ring: RingId) {
        let number = self.feed.ring(ring).and_then(|ring| self.mapping.number(&ring.name));
        self.feed.set_parts(ring, number, now.mono);
    }

    /// An event entered the whole: it enters the parts that its key means.
    pub(in crate::relay) fn spread(&mut self, at: Time, whole: RingId, number: u32, event: &Event<'_>) {
        if event.role != Role::SnapshotPart {
            self.end_snapshot(at);
        }
        if event.role == Role::Snapshot {
            self.mapping.begin(whole, number);
        }
        let Some(key) = event.key.as_deref() else { return };
        let mut name = std::mem::take(&mut self.scratch_name);
        for index in 0..self.mapping.len(number) {
            self.mapping.write_name(number, index, key, &mut name);
            if let Some(part) = self.part(at, whole, number, &name) {
                self.mapping.stated(part);
                self.watch_event(at, part);
                self.admit_now(at, part, &as_part(event, &name));
            }
        }
        self.scratch_name = name;
    }

    /// The part of that name; carried from now on if it was not. `None` if another policy says what the name is.
    fn part(&mut self, at: Time, whole: RingId, number: u32, name: &str) -> Option<RingId> {
        let upstream = self.feed.ring(whole)?.upstream;
        let name = legal(name);
        if let Some(id) = self.feed.find(&name)
            && self.feed.ring(id).is_some_and(|ring| !ring.direct && ring.upstream == upstream)
        {
            return Some(id);
        }
        let limits = self.part_limits(&name, number)?;
        let ring = if name.len() <= CHANNEL_MAX { self.carry(at, &name, limits) } else { None };
        let Some(ring) = ring else {
            self.stats.feed.dropped.bump(DropReason::ChannelLimit);
            return None;
        };
        self.feed.map(ring, upstream);
        Some(ring)
    }

    /// The bounds of a part's ring, if the policy that wins there maps it so.
    fn part_limits(&self, name: &str, number: u32) -> Option<RingConfig> {
        let identity = self.mapped_identity(name)?;
        let policy = naming::policy(&self.config, name)?;
        (self.mapping.number(&identity) == Some(number)).then_some(policy.ring.unwrap_or(self.config.feed.ring))
    }

    /// The identity of the upstream channel that the configuration maps a local name onto, by key.
    fn mapped_identity(&self, name: &str) -> Option<String> {
        let policy = naming::policy(&self.config, name).filter(|policy| policy.pattern.ends_with('*'))?;
        let (base, params) = (policy.upstream.as_deref()?, policy.params.as_deref());
        naming::upstream_identity(self.dialect.secret_params(), base, params).ok()
    }

    /// The parts of a channel that are carried; none if it stands only for itself.
    pub(in crate::relay) fn parts_of(&self, whole: RingId) -> Vec<RingId> {
        let Some(ring) = self.feed.ring(whole) else { return Vec::new() };
        let Some(number) = ring.parts else { return Vec::new() };
        match ring.upstream {
            Some(channel) => self.feed.mapped_rings_of(channel).collect(),
            None => {
                let mapped =
                    self.feed.iter().filter(|(_, ring)| !ring.direct && self.mapping.covers(number, &ring.name));
                mapped.map(|(id, _)| id).collect()
            }
        }
    }

    /// The channel that stands for the whole that a part belongs to.
    pub(in crate::relay) fn whole_of(&self, part: RingId) -> Option<RingId> {
        let channel = self.feed.ring(part).filter(|ring| !ring.direct)?.upstream?;
        self.feed.find(self.interest.identity(channel))
    }

    /// Tells a hole that upstream caused, on the channel and its parts.
    pub(in crate::relay) fn admit_gap(&mut self, at: Time, ring: RingId, span: Option<(u64, u64)>, reason: GapReason) {
        self.admit_hole(at, ring, Hole { span, reason, repair: None });
    }

    /// Tells a hole and what is done about it, on the channel and its parts.
    pub(in crate::relay) fn admit_hole(&mut self, at: Time, ring: RingId, hole: Hole) {
        self.feed.admit_hole(ring, at, hole, &mut self.stats.feed);
        for part in self.parts_of(ring) {
            self.feed.admit_hole(part, at, hole, &mut self.stats.feed);
        }
    }

    /// Tells that a hole is closed by the `count` entries that follow, on the channel and its parts (which get those of them
    /// that are theirs).
    pub(in crate::relay) fn admit_repaired(&mut self, at: Time, ring: RingId, count: u64, filled: bool) {
        self.feed.admit_repaired(ring, at, count, filled, &mut self.stats.feed);
        for part in self.parts_of(ring) {
            self.feed.admit_repaired(part, at, count, filled, &mut self.stats.feed);
        }
    }

    /// Tells that upstream started again, on the channel and its parts.
    pub(in crate::relay) fn admit_reset(&mut self, at: Time, ring: RingId, reason: ResetReason) {
        self.feed.admit_reset(ring, at, reason, &mut self.stats.feed);
        for part in self.parts_of(ring) {
            self.feed.admit_reset(part, at, reason, &mut self.stats.feed);
        }
    }

    /// A snapshot's last element was heard: keys that it did not state are no more, and their local channels begin anew.
    pub(in crate::relay) fn end_snapshot(&mut self, at: Time) {
        let Some(Bulk { whole, stated, .. }) = self.mapping.end() else { return };
        for part in self.parts_of(whole) {
            let known = self.feed.ring(part).is_some_and(|ring| !ring.values.is_empty());
            if known && !stated.contains(&part) {
                self.feed.admit_reset(part, at, ResetReason::Upstream, &mut self.stats.feed);
            }
        }
    }

    /// Other policies: what they do not map as before ends, told; whoever wants it still asks anew, by the new policies.
    pub(in crate::relay) fn remap(&mut self, now: Time) {
        self.mapping = compile(&self.config, &self.dialect);
        let all: Vec<RingId> = self.feed.iter().map(|(id, _)| id).collect();
        all.iter().for_each(|id| self.note_whole(now, *id));
        let stays = |ring: &Ring| match (self.mapped_identity(&ring.name), ring.upstream) {
            (Some(identity), Some(channel)) => self.interest.identity(channel) == identity,
            (identity, None) => identity.is_some(),
            (None, Some(_)) => false,
        };
        let mapped = self.feed.iter().filter(|(_, ring)| !ring.direct && !stays(ring));
        let moved: Vec<RingId> = mapped.map(|(id, _)| id).collect();
        for id in moved {
            let Some(ring) = self.feed.ring(id) else { continue };
            let (name, readers) = (Arc::clone(&ring.name), ring.readers.clone());
            for reader in readers {
                let Some(session) = self.sessions.at(reader.session).map(|session| session.id) else { continue };
                self.end_mapped(now, session, reader.subscription, &name);
            }
            self.forget_numbers(id);
            self.watch.forget(id);
            self.feed.discard(id);
        }
    }

    fn end_mapped(&mut self, now: Time, session: SessionId, slot: u32, name: &str) {
        self.end_subscription(now, session, slot);
        let message = "the configuration maps this channel no more as before: subscribe it again";
        self.tell(session, control::error(None, Some(name), ErrorCode::Unavailable, message, None));
        self.stats.sessions.errors.bump(ErrorCode::Unavailable.text());
    }
}

/// The event as a part's: the key became the name, and an element of a snapshot is the whole of it there.
fn as_part<'a>(event: &'a Event<'_>, name: &'a str) -> Event<'a> {
    Event {
        target: Target::Name(name),
        key: None,
        kind: event.kind.as_deref().map(Cow::Borrowed),
        id: event.id.as_deref().map(Cow::Borrowed),
        sequence: event.sequence,
        source_time: event.source_time,
        data: Cow::Borrowed(&event.data),
        role: if event.role == Role::Event { Role::Event } else { Role::Snapshot },
        fold: event.fold,
    }
}
