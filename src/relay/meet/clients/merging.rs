//! A batch for one session alone: several channels, control frames, filters, conflation, losses.
//!
//! Entries are merged in the order of offsets, control frames keep their places among them. A subscription whose events are
//! conflated takes part with what was chosen for it beforehand; all of that is in the batch, since what was left out of it is
//! told in the same batch.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::vec::IntoIter;

use crate::protocol::control;
use crate::protocol::frame::{Batch, Entry, Item};
use crate::protocol::request::options::{OnSlow, Options};
use crate::relay::feed::Feed;
use crate::relay::feed::newest::{Newest, Wanted, is_wanted, newest};
use crate::relay::feed::ring::Ring;
use crate::relay::feed::views::Sight;
use crate::relay::pairs::SessionId;
use crate::relay::rests::Rests;
use crate::relay::session::{LeftOut, News, Session, Subscription};
use crate::relay::stats::{DropReason, FeedStats, GapReason, ResetReason};
use crate::relay::time::Mono;

use super::cutting::{BATCH_BYTES, Cutting, in_flight};

/// What a cut needs besides the session.
pub(super) struct Scene<'a> {
    pub(super) feed: &'a mut Feed,
    pub(super) rests: &'a mut Rests,
    pub(super) unfit: &'a mut Vec<(SessionId, u32)>,
    pub(super) stats: &'a mut FeedStats,
    /// Bytes that a subscription may lag.
    pub(super) lag: usize,
    pub(super) now: Mono,
}

/// The next entry of one subscription in a merge: its offset, the subscription, and its place in the ring.
type Next = Reverse<(u64, u32, usize)>;

/// It lags beyond its cap and chose to be disconnected.
struct TooSlow;

struct Merge<'a> {
    scene: Scene<'a>,
    items: Vec<Item>,
    bytes: usize,
    heap: BinaryHeap<Next>,
    /// What was chosen for subscriptions whose events are conflated, and its bytes.
    chosen: BTreeMap<u32, IntoIter<Arc<Entry>>>,
    chosen_bytes: usize,
    live_from: u64,
}

/// Cuts what the session has news of.
pub(super) fn merged_cut(session: &mut Session, scene: Scene<'_>) -> Cutting {
    let mut merge = Merge {
        scene,
        items: Vec::new(),
        bytes: 0,
        heap: BinaryHeap::new(),
        chosen: BTreeMap::new(),
        chosen_bytes: 0,
        live_from: 0,
    };
    // What does not fit, or waits for its control frame, stays dirty.
    let mut later: Vec<u32> = std::mem::take(&mut session.dirty);
    if merge.fill(session, &mut later).is_err() {
        return Cutting::TooSlow;
    }
    session.dirty = later;
    session.dirty.extend(merge.heap.drain().map(|Reverse((_, slot, _))| slot));
    session.lagging &= !session.dirty.is_empty();
    if merge.items.is_empty() {
        return Cutting::Nothing;
    }
    let cursor = if session.uneven { session.cursor() } else { u64::MAX };
    let batch = Arc::new(Batch::new(merge.scene.feed.epoch(), merge.items).with_cursor(cursor));
    let in_flight = in_flight(&batch, merge.live_from);
    Cutting::Batch(batch, in_flight)
}

impl Merge<'_> {
    fn fill(&mut self, session: &mut Session, later: &mut Vec<u32>) -> Result<(), TooSlow> {
        self.open(session, later)?;
        while self.bytes < BATCH_BYTES || !self.chosen.is_empty() {
            let next = self.heap.peek().map(|Reverse((offset, ..))| *offset);
            match (session.next_control(), next) {
                (Some(after), next) if next.is_none_or(|offset| offset > after) => {
                    let Some(item) = session.take_control() else { break };
                    self.push(item);
                    if !later.is_empty() {
                        self.open(session, later)?;
                    }
                }
                (_, Some(_)) => self.entry(session, later),
                (_, None) => break,
            }
        }
        Ok(())
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.text().len();
        self.items.push(item);
    }

    /// Lets the subscriptions whose gate is open take part.
    fn open(&mut self, session: &mut Session, later: &mut Vec<u32>) -> Result<(), TooSlow> {
        let id = session.id;
        for slot in std::mem::take(later) {
            let Some(gate) = session.subscription(slot).map(|subscription| subscription.gate) else { continue };
            if !session.is_open(gate) || self.bytes + self.chosen_bytes >= BATCH_BYTES {
                later.push(slot);
                continue;
            }
            let Some(subscription) = session.subscription(slot) else { continue };
            let Some(ring) = self.scene.feed.ring(subscription.ring) else { continue };
            if subscription.pace.is_some() {
                if ring.values.is_sum() {
                    subscription.news = News::None;
                    self.scene.unfit.push((id, slot));
                } else if self.choose_in_time(id, slot, subscription) {
                    later.push(slot);
                }
                continue;
            }
            if self.is_conflated(subscription, ring) {
                if self.choose(slot, subscription, u32::MAX, true).0 {
                    later.push(slot);
                }
                continue;
            }
            self.losses(subscription)?;
            if subscription.options().is_some_and(|options| options.is_seen_otherwise()) {
                if self.choose(slot, subscription, u32::MAX, false).0 {
                    later.push(slot);
                }
                continue;
            }
            let Some(ring) = self.scene.feed.ring(subscription.ring) else { continue };
            self.live_from = self.live_from.max(subscription.live_from);
            let index = ring.index_after(subscription.after);
            match ring.get(index) {
                Some(entry) => self.heap.push(Reverse((entry.offset, slot, index))),
                None => subscription.news = News::None,
            }
        }
        Ok(())
    }

    /// Whether it is too slow to get everything, and wants the newest then.
    fn is_conflated(&self, subscription: &Subscription, ring: &Ring) -> bool {
        subscription.options().is_some_and(|options| options.on_slow == OnSlow::Conflate)
            && !ring.values.is_sum()
            && self.loses(subscription, ring).is_some()
    }

    /// Up to where the session loses the entries of a channel, if it does.
    fn loses(&self, subscription: &Subscription, ring: &Ring) -> Option<u64> {
        let skip = ring.skip_target(subscription.after, self.scene.lag).unwrap_or(0);
        Some(skip.max(ring.complete_from)).filter(|target| *target > subscription.after)
    }

    /// Chooses for a subscription whose time has come, or puts it to rest. `true`: what did not fit waits for the next batch.
    fn choose_in_time(&mut self, id: SessionId, slot: u32, subscription: &mut Subscription) -> bool {
        let now = self.scene.now;
        let allowed = subscription.pace.as_ref().map_or(u32::MAX, |pace| pace.allows(now));
        let (later, events) = if allowed > 0 { self.choose(slot, subscription, allowed, true) } else { (true, 0) };
        let Some(pace) = &mut subscription.pace else { return later };
        // What is left for want of room is of the same interval.
        pace.leave(now, events, !later || events == allowed);
        if later && pace.allows(now) == 0 {
            subscription.news = News::Resting;
            self.scene.rests.rest(pace.next, id, slot);
            return false;
        }
        later
    }

    /// Chooses what it wants, tells how many events are left out, and moves the subscription's place behind. `conflated`: only
    /// the newest event of each key. Gives whether something is left for later, and the number of events.
    fn choose(&mut self, slot: u32, subscription: &mut Subscription, events: u32, conflated: bool) -> (bool, u32) {
        self.told_before(subscription);
        let Some(ring) = self.scene.feed.ring(subscription.ring) else { return (false, 0) };
        let sight = subscription.options().and_then(Sight::of);
        let wanted = Wanted {
            after: subscription.after,
            seen: subscription.seen,
            types: subscription.options().map_or(&[], |options: &Options| &options.types),
            sight: sight.as_ref(),
            whole_from: subscription.whole_from,
            conflated,
            exact: !subscription.options().is_some_and(Options::conflates),
            bytes: BATCH_BYTES.saturating_sub(self.bytes + self.chosen_bytes),
            events,
        };
        let Newest { entries, events, to, seen, left_out } = newest(ring, wanted);
        let is_all = ring.last.is_none_or(|last| last <= to);
        if let Some((from, to, count)) = left_out {
            self.scene.stats.conflated += count;
            let owed = subscription.owed.get_or_insert_with(|| Box::new(LeftOut { from, to, count: 0 }));
            (owed.to, owed.count) = (to, owed.count + count);
        }
        // Where nothing follows there is nothing to be told yet: else every event that is not wanted would cost a frame.
        if let Some(owed) = subscription.owed.take_if(|_| !entries.is_empty()) {
            let frame = control::conflated(&ring.name, owed.from, owed.to, owed.count);
            self.push(frame);
        }
        (subscription.after, subscription.seen) = (to, seen);
        if is_all {
            subscription.news = News::None;
        }
        // How long events waited that are conflated was asked for, and is no measure of the relay.
        self.live_from = if conflated { u64::MAX } else { self.live_from.max(subscription.live_from) };
        if let Some(first) = entries.first() {
            self.chosen_bytes += entries.iter().map(|entry| entry.text.len()).sum::<usize>();
            self.heap.push(Reverse((first.offset, slot, 0)));
            self.chosen.insert(slot, entries.into_iter());
        }
        (!is_all, events)
    }

    /// Nothing can stand for what was told on a channel and is evicted: that is a loss.
    fn told_before(&mut self, subscription: &mut Subscription) {
        let Some(ring) = self.scene.feed.ring(subscription.ring) else { return };
        let (told, pushed) = ring.told;
        if told > subscription.after {
            self.scene.stats.dropped.bump(DropReason::Slow);
            self.scene.stats.gaps.bump(GapReason::Slow);
            let frame = control::gap_of_session(&ring.name, subscription.after + 1, told, GapReason::Slow.text());
            (subscription.after, subscription.seen, subscription.whole_from) = (told, pushed, told + 1);
            self.push(frame);
        }
    }

    /// Tells what the session missed on a channel, and moves its place behind it.
    fn losses(&mut self, subscription: &mut Subscription) -> Result<(), TooSlow> {
        let feed = &*self.scene.feed;
        let Some(ring) = feed.ring(subscription.ring) else { return Ok(()) };
        let Some(target) = self.loses(subscription, ring) else { return Ok(()) };
        if subscription.options().is_some_and(|options| options.on_slow == OnSlow::Disconnect) {
            return Err(TooSlow);
        }
        self.scene.stats.dropped.bump(DropReason::Slow);
        self.scene.stats.gaps.bump(GapReason::Slow);
        let gap = control::gap_of_session(&ring.name, subscription.after + 1, target, GapReason::Slow.text());
        let mut frames = vec![gap];
        (subscription.after, subscription.whole_from) = (target, target + 1);
        if ring.values.is_sum() {
            // Increments with a hole add up to nothing: begin again from the sum.
            self.scene.stats.resets.bump(ResetReason::Evicted);
            let fields = subscription.options().and_then(|options| options.fields.as_deref());
            frames.push(control::reset_of_session(None, &ring.name, ResetReason::Evicted.text()));
            frames.extend(super::snapshots::frames(feed, ring, false, fields));
            subscription.after = feed.head();
        }
        subscription.seen = ring.pushed_at(subscription.after);
        frames.into_iter().for_each(|frame| self.push(frame));
        Ok(())
    }

    /// Takes the entry with the lowest offset, and puts its channel's next one into the merge.
    fn entry(&mut self, session: &mut Session, later: &mut Vec<u32>) {
        let Some(Reverse((_, slot, index))) = self.heap.pop() else { return };
        if let Some(chosen) = self.chosen.get_mut(&slot) {
            let entry = chosen.next();
            match chosen.as_slice().first() {
                Some(next) => self.heap.push(Reverse((next.offset, slot, 0))),
                None => {
                    self.chosen.remove(&slot);
                }
            }
            if let Some(entry) = entry {
                self.chosen_bytes = self.chosen_bytes.saturating_sub(entry.text.len());
                self.push(Item::Entry(entry));
            }
            return;
        }
        if self.bytes >= BATCH_BYTES {
            return later.push(slot);
        }
        let Some(subscription) = session.subscription(slot) else { return };
        let Some(ring) = self.scene.feed.ring(subscription.ring) else { return };
        let Some(entry) = ring.get(index) else { return };
        subscription.after = entry.offset;
        subscription.seen += 1;
        let types: &[Box<str>] = subscription.options().map_or(&[], |options| &options.types);
        if is_wanted(types, entry) {
            self.bytes += entry.text.len();
            self.items.push(Item::Entry(Arc::clone(entry)));
        }
        match ring.get(index + 1) {
            Some(next) => self.heap.push(Reverse((next.offset, slot, index + 1))),
            None => subscription.news = News::None,
        }
    }
}
