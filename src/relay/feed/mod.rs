//! The feed: local channels as rings under one order of offsets.
//!
//! Invariants: an (epoch, offset) pair names one entry for ever; offsets are given once, over all channels; every ring, the
//! number of rings and their bytes together are bounded. What upstream loses is an entry like any other.
//! Deliberately not here: who may read, what upstream was asked for, and what a session has seen.

pub mod newest;
pub mod overlays;
pub mod ring;
#[cfg(test)]
mod tests;
pub mod values;
pub mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::{Config, RingConfig};
use crate::dialect::{ChannelId, Event, Role};
use crate::protocol::entry::{self, EventText, Place};
use crate::protocol::frame::{Entry, EntryKind};
use crate::protocol::position::{Epoch, Position};

use super::record::{MessageId, Provisional};
use super::stats::{FeedStats, GapReason, OverlayEnd, ResetReason};
use super::time::{Mono, Time};
use overlays::Overlays;
use ring::Ring;

/// The number of a local channel; its slot is reused after the ring is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub u32);

/// A hole in what upstream sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Upstream's missing numbers, where they are known.
    pub span: Option<(u64, u64)>,
    /// Why something is missing.
    pub reason: GapReason,
    /// How it is being mended, or that this failed.
    pub repair: Option<&'static str>,
}

/// The rings that an upstream channel carries.
#[derive(Debug, Default)]
struct Bound {
    /// Those whose events are all of the upstream channel's.
    direct: Vec<RingId>,
    /// Those that get some of them: by name, or by key.
    mapped: BTreeSet<RingId>,
}

/// All local channels.
#[derive(Debug)]
pub struct Feed {
    epoch: Epoch,
    head: u64,
    rings: Vec<Option<Ring>>,
    free: Vec<u32>,
    names: HashMap<Arc<str>, RingId>,
    by_upstream: BTreeMap<ChannelId, Bound>,
    dirty: Vec<RingId>,
    /// Rings without a reader, by when the last one left: evicted first, longest without interest first.
    idle: BTreeSet<(Mono, RingId)>,
    idle_since: BTreeMap<RingId, Mono>,
    bytes: usize,
    entries: usize,
    max_rings: usize,
    max_bytes: usize,
    max_keys: usize,
    /// Bytes of all last values: never less than that.
    value_bytes: usize,
    max_value_bytes: usize,
    /// What is laid over the channels' states.
    pub overlays: Overlays,
}

impl Feed {
    /// An empty feed at offset 0 of a new history.
    pub fn new(epoch: Epoch, config: &Config) -> Self {
        Feed {
            epoch,
            head: 0,
            rings: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            by_upstream: BTreeMap::new(),
            dirty: Vec::new(),
            idle: BTreeSet::new(),
            idle_since: BTreeMap::new(),
            bytes: 0,
            entries: 0,
            max_rings: config.feed.max_channels,
            max_bytes: config.feed.ring_bytes_total,
            max_keys: config.feed.channel_keys,
            value_bytes: 0,
            max_value_bytes: config.feed.value_bytes_total,
            overlays: Overlays::default(),
        }
    }

    /// New limits; what is over them goes at the next append.
    pub fn reload(&mut self, config: &Config) {
        self.max_rings = config.feed.max_channels;
        self.max_bytes = config.feed.ring_bytes_total;
        self.max_keys = config.feed.channel_keys;
        self.max_value_bytes = config.feed.value_bytes_total;
    }

    /// The history's id.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest offset given.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The newest position.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.head }
    }

    /// The ring of that name.
    pub fn find(&self, name: &str) -> Option<RingId> {
        self.names.get(name).copied()
    }

    /// The ring with that number.
    pub fn ring(&self, id: RingId) -> Option<&Ring> {
        self.rings.get(id.0 as usize)?.as_ref()
    }

    /// The ring with that number, to be changed.
    pub fn ring_mut(&mut self, id: RingId) -> Option<&mut Ring> {
        self.rings.get_mut(id.0 as usize)?.as_mut()
    }

    /// All rings in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (RingId, &Ring)> {
        (0u32..).zip(&self.rings).filter_map(|(number, ring)| Some((RingId(number), ring.as_ref()?)))
    }

    /// Begins to carry a channel, or finds it. `None`: `feed.max_channels` are carried and none of them is without interest.
    /// A channel that begins to be carried burns an offset, so that no cursor from before can claim to have missed nothing.
    pub fn carry(&mut self, name: &str, limits: RingConfig, now: Time) -> Option<RingId> {
        if let Some(id) = self.find(name) {
            return Some(id);
        }
        if self.names.len() >= self.max_rings {
            let (_, oldest) = *self.idle.first()?;
            self.remove(oldest);
        }
        self.head += 1;
        let name: Arc<str> = name.into();
        let ring = Ring::new(Arc::clone(&name), self.head, limits, now.wall);
        let id = match self.free.pop() {
            Some(slot) => RingId(slot),
            None => {
                self.rings.push(None);
                RingId(u32::try_from(self.rings.len() - 1).ok()?)
            }
        };
        self.rings[id.0 as usize] = Some(ring);
        self.names.insert(name, id);
        self.no_interest(id, now.mono);
        Some(id)
    }

    /// Says which upstream channel carries a ring.
    pub fn bind(&mut self, id: RingId, upstream: ChannelId, direct: bool) {
        let Some(ring) = self.ring_mut(id) else { return };
        if ring.upstream == Some(upstream) {
            return;
        }
        let before = ring.upstream.replace(upstream);
        ring.direct = direct;
        if let Some(before) = before {
            self.unbind(before, id);
        }
        let bound = self.by_upstream.entry(upstream).or_default();
        if !direct {
            bound.mapped.insert(id);
            return;
        }
        bound.direct.push(id);
        if bound.direct.len() > 1 {
            for id in bound.direct.clone() {
                if let Some(ring) = self.ring_mut(id) {
                    ring.siblings = true;
                }
            }
        }
    }

    fn unbind(&mut self, upstream: ChannelId, id: RingId) {
        if let Some(bound) = self.by_upstream.get_mut(&upstream) {
            if !bound.mapped.remove(&id) {
                bound.direct.retain(|other| *other != id);
            }
            if bound.direct.is_empty() && bound.mapped.is_empty() {
                self.by_upstream.remove(&upstream);
            }
        }
    }

    /// All rings that an upstream channel carries.
    pub fn rings_of(&self, upstream: ChannelId) -> Vec<RingId> {
        let bound = self.by_upstream.get(&upstream);
        bound.map(|bound| bound.direct.iter().chain(&bound.mapped).copied().collect()).unwrap_or_default()
    }

    /// A ring gets some of an upstream channel's events, or of what arrives unasked.
    pub fn map(&mut self, id: RingId, upstream: Option<ChannelId>) {
        match (upstream, self.ring_mut(id)) {
            (Some(upstream), _) => self.bind(id, upstream, false),
            (None, Some(ring)) => ring.direct = false,
            (None, None) => {}
        }
    }

    /// Those that get some of its events only.
    pub fn mapped_rings_of(&self, upstream: ChannelId) -> impl Iterator<Item = RingId> {
        self.by_upstream.get(&upstream).into_iter().flat_map(|bound| bound.mapped.iter().copied())
    }

    /// Others are parts of this channel from now on, or none are. One with parts is not evicted for want of readers.
    pub fn set_parts(&mut self, id: RingId, number: Option<u32>, now: Mono) {
        let Some(ring) = self.ring_mut(id) else { return };
        let (before, unread) = (std::mem::replace(&mut ring.parts, number), ring.readers.is_empty());
        if number.is_some() {
            self.interest_again(id);
        } else if before.is_some() && unread {
            self.no_interest(id, now);
        }
    }

    /// Forgets a channel that nobody reads any more.
    pub fn discard(&mut self, id: RingId) {
        self.remove(id);
    }

    /// Those of them that get every event of the upstream channel.
    pub fn direct_rings_of(&self, upstream: ChannelId) -> &[RingId] {
        self.by_upstream.get(&upstream).map_or(&[], |bound| &bound.direct)
    }

    /// The upstream channel is not subscribed any more: whoever resumes on its rings later starts again.
    pub fn dropped(&mut self, upstream: ChannelId) {
        let gone = self.rings_of(upstream);
        self.by_upstream.remove(&upstream);
        for id in gone {
            if self.ring(id).is_some_and(|ring| ring.readers.is_empty()) {
                self.remove(id);
            } else {
                self.head += 1;
                let head = self.head;
                let Some(ring) = self.rings.get_mut(id.0 as usize).and_then(Option::as_mut) else { continue };
                self.bytes -= ring.bytes;
                self.entries -= ring.len();
                ring.upstream = None;
                ring.carried_from(head);
            }
        }
    }

    fn remove(&mut self, id: RingId) {
        let Some(ring) = self.rings.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.names.remove(&ring.name);
        self.bytes -= ring.bytes;
        self.entries -= ring.len();
        self.interest_again(id);
        if let Some(upstream) = ring.upstream {
            self.unbind(upstream, id);
        }
        self.free.push(id.0);
    }

    /// A reader came.
    pub fn interest_again(&mut self, id: RingId) {
        if let Some(since) = self.idle_since.remove(&id) {
            self.idle.remove(&(since, id));
        }
    }

    /// The last reader left.
    pub fn no_interest(&mut self, id: RingId, now: Mono) {
        self.interest_again(id);
        if self.ring(id).is_some_and(|ring| ring.parts.is_some()) {
            return;
        }
        self.idle_since.insert(id, now);
        self.idle.insert((now, id));
    }

    /// Admits an event into a ring. Returns how many keys were evicted from the state for `feed.channel_keys`.
    pub fn admit(&mut self, id: RingId, at: Time, event: &Event<'_>, stats: &mut FeedStats) -> usize {
        let key: Option<Arc<str>> = event.key.as_deref().map(Arc::from);
        let kind = match event.role {
            Role::Event | Role::SnapshotPart => EntryKind::Event,
            Role::Snapshot => EntryKind::Snapshot,
        };
        let of = EventText {
            kind,
            key: key.as_ref(),
            event_type: event.kind.as_deref(),
            source_time: event.source_time,
            sequence: event.sequence,
            source_id: event.id.as_deref(),
            data: &event.data,
        };
        let Some(entry) = self.append(id, at, |place| entry::event(place, of), stats) else { return 0 };
        let max_keys = self.max_keys;
        let Some(ring) = self.ring_mut(id) else { return 0 };
        ring.events += 1;
        ring.named |= event.id.is_some();
        ring.last_event = Some((at.mono, at.wall));
        ring.silent = false;
        if !ring.views.is_empty() {
            ring.views.make(&entry, ring.values.get(entry.key.as_deref()));
        }
        let before = ring.values.bytes();
        let evicted = ring.values.fold(&entry, event.role, event.fold, max_keys);
        self.value_bytes += ring.values.bytes().saturating_sub(before);
        if self.value_bytes > self.max_value_bytes { evicted + self.shrink_values(id) } else { evicted }
    }

    /// Over `value_bytes_total`: last values go, of the channels longest without interest first, then the oldest of the
    /// channel that grew; its newest one stays. Returns how many went.
    fn shrink_values(&mut self, grown: RingId) -> usize {
        self.value_bytes = self.rings.iter().flatten().map(|ring| ring.values.bytes()).sum();
        let enough = self.max_value_bytes - self.max_value_bytes / 16;
        let mut evicted = 0;
        let order: Vec<RingId> = self.idle.iter().map(|(_, id)| *id).chain([grown]).collect();
        for id in order {
            if self.value_bytes <= enough {
                break;
            }
            let Some(ring) = self.rings.get_mut(id.0 as usize).and_then(Option::as_mut) else { continue };
            let before = ring.values.bytes();
            if id == grown {
                while self.value_bytes - (before - ring.values.bytes()) > enough && ring.values.evict_oldest() {
                    evicted += 1;
                }
            } else {
                evicted += ring.values.len();
                ring.values.forget();
            }
            self.value_bytes -= before - ring.values.bytes();
        }
        evicted
    }

    /// Tells a hole that upstream caused. `span`: upstream's missing sequence numbers, where they are known.
    pub fn admit_gap(
        &mut self,
        id: RingId,
        at: Time,
        span: Option<(u64, u64)>,
        reason: GapReason,
        stats: &mut FeedStats,
    ) {
        self.admit_hole(id, at, Hole { span, reason, repair: None }, stats);
    }

    /// Tells a hole, and what is done about it.
    pub fn admit_hole(&mut self, id: RingId, at: Time, hole: Hole, stats: &mut FeedStats) {
        let next = self.head + 1;
        let (from, to) = hole.span.map_or((next, None), |(from, to)| (from, Some(to)));
        let make = |place: Place<'_>| entry::gap(place, from, to, hole.reason, hole.repair);
        if let Some(gap) = self.append(id, at, make, stats) {
            stats.gaps.bump(hole.reason);
            if let Some(ring) = self.ring_mut(id) {
                ring.gaps += 1;
                ring.broken(gap.offset);
            }
        }
    }

    /// Tells that a hole is closed by the `count` entries that follow. `filled`: they are what was missing, so that what stood
    /// before it counts again; else the first of them is the whole state.
    pub fn admit_repaired(&mut self, id: RingId, at: Time, count: u64, filled: bool, stats: &mut FeedStats) {
        let reason = ResetReason::Repaired;
        if self.append(id, at, |place| entry::reset(place, reason.text(), Some(count)), stats).is_some() {
            stats.resets.bump(reason);
            if let Some(ring) = self.ring_mut(id) {
                if filled { ring.mended() } else { ring.values.forget() }
            }
        }
    }

    /// Tells that upstream started again: what stood before does not count.
    pub fn admit_reset(&mut self, id: RingId, at: Time, reason: ResetReason, stats: &mut FeedStats) {
        if self.append(id, at, |place| entry::reset(place, reason.text(), None), stats).is_some() {
            stats.resets.bump(reason);
            if let Some(ring) = self.ring_mut(id) {
                ring.values.forget();
            }
        }
    }

    /// Tells that upstream is silent on a channel since then, and what is done about it.
    pub fn admit_stale(
        &mut self,
        id: RingId,
        at: Time,
        since: super::time::Wall,
        action: super::stats::StaleAction,
        stats: &mut FeedStats,
    ) {
        if self.append(id, at, |place| entry::stale(place, since, action.text()), stats).is_some()
            && let Some(ring) = self.ring_mut(id)
        {
            ring.silent = true;
        }
    }

    /// A message was accepted that has a provisional value: its channel's readers see it.
    pub fn admit_pending(&mut self, message: MessageId, at: Time, stats: &mut FeedStats) {
        let Some(value) = self.overlays.accepted(message) else { return };
        let Some(id) = self.find(&value.channel) else { return };
        let (key, text) = (value.key.as_deref().map(Arc::from), message.to_string());
        let make =
            |place: Place<'_>| entry::overlay(place, EntryKind::Pending, key, &text, Some(value.value.as_bytes()));
        self.append(id, at, make, stats);
    }

    /// That message has ended: its value is confirmed or rolled back.
    pub fn admit_settled(&mut self, message: MessageId, at: Time, delivered: bool, stats: &mut FeedStats) {
        let Some(value) = self.overlays.ended(message) else { return };
        let kind = if delivered { EntryKind::Confirmed } else { EntryKind::RolledBack };
        self.end_overlay(message, &value, at, kind, stats);
    }

    /// A message of the batch failed: the values that are left of it are rolled back, too.
    pub fn admit_rolled_back(&mut self, batch: MessageId, at: Time, stats: &mut FeedStats) {
        for (message, value) in self.overlays.roll_back(batch) {
            self.end_overlay(message, &value, at, EntryKind::RolledBack, stats);
        }
    }

    fn end_overlay(
        &mut self,
        message: MessageId,
        value: &Provisional,
        at: Time,
        kind: EntryKind,
        stats: &mut FeedStats,
    ) {
        stats.overlays.bump(if kind == EntryKind::Confirmed { OverlayEnd::Confirmed } else { OverlayEnd::RolledBack });
        let Some((id, ring)) = self.find(&value.channel).and_then(|id| Some((id, self.ring(id)?))) else { return };
        let truth = ring.values.get(value.key.as_deref()).cloned();
        let (key, text) = (value.key.as_deref().map(Arc::from), message.to_string());
        let make = |place: Place<'_>| entry::overlay(place, kind, key, &text, truth.as_ref().map(|entry| entry.data()));
        self.append(id, at, make, stats);
    }

    fn append(
        &mut self,
        id: RingId,
        at: Time,
        make: impl FnOnce(Place<'_>) -> Entry,
        stats: &mut FeedStats,
    ) -> Option<Arc<Entry>> {
        let (epoch, offset) = (self.epoch, self.head + 1);
        let ring = self.rings.get_mut(id.0 as usize)?.as_mut()?;
        let place = Place { epoch, offset, prev: ring.last, channel_json: &ring.name_json, at };
        let entry = Arc::new(make(place));
        self.head = offset;
        let (bytes, len) = (ring.bytes, ring.len());
        let evicted = ring.push(Arc::clone(&entry), at.mono);
        self.bytes = self.bytes + ring.bytes - bytes;
        self.entries = self.entries + ring.len() - len;
        stats.admitted += 1;
        stats.evicted += evicted as u64;
        if !ring.dirty {
            ring.dirty = true;
            self.dirty.push(id);
        }
        if self.bytes > self.max_bytes {
            self.shrink(id, stats);
        }
        Some(entry)
    }

    /// Over `ring_bytes_total`: history goes, of the channels longest without interest first, then of the one that grew.
    fn shrink(&mut self, grown: RingId, stats: &mut FeedStats) {
        let order: Vec<RingId> = self.idle.iter().map(|(_, id)| *id).chain([grown]).collect();
        // A little more than needed, so that the next appends need not look through all of them again.
        let enough = self.max_bytes - self.max_bytes / 16;
        for id in order {
            while self.bytes > enough {
                let Some(ring) = self.rings.get_mut(id.0 as usize).and_then(Option::as_mut) else { break };
                let before = ring.bytes;
                if ring.len() <= 1 || !ring.evict_oldest() {
                    break;
                }
                self.bytes -= before - ring.bytes;
                self.entries -= 1;
                stats.evicted += 1;
            }
        }
    }

    /// Evicts by age in every ring. Call it now and then: appends enforce the bounds of busy rings.
    pub fn sweep(&mut self, now: Mono, stats: &mut FeedStats) {
        for ring in self.rings.iter_mut().flatten() {
            let before = ring.bytes;
            let evicted = ring.enforce(now);
            self.bytes -= before - ring.bytes;
            self.entries -= evicted;
            stats.evicted += evicted as u64;
        }
    }

    /// Writes what is true now.
    pub fn gauges(&self, stats: &mut FeedStats) {
        stats.channels = self.names.len() as u64;
        stats.entries = self.entries as u64;
        stats.bytes = self.bytes as u64;
        stats.overlays_laid = self.overlays.len() as u64;
        stats.values = self.rings.iter().flatten().map(|ring| ring.values.len() as u64).sum();
    }

    /// Takes the list of rings with news since the last call.
    pub fn take_dirty(&mut self, into: &mut Vec<RingId>) {
        std::mem::swap(&mut self.dirty, into);
        self.dirty.clear();
        for id in into.iter() {
            if let Some(ring) = self.rings[id.0 as usize].as_mut() {
                ring.dirty = false;
            }
        }
    }

    /// Whether any ring has news.
    pub fn has_news(&self) -> bool {
        !self.dirty.is_empty()
    }
}
