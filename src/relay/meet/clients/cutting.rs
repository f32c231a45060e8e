//! Session and feed meet: what a session gets next.
//!
//! A cut is a run of entries after a session's place. Sessions at the same place of one channel share one batch, encoded once.
//! Several channels are merged in the order of offsets; control frames keep their place among them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::codes::CloseCode;
use crate::protocol::control;
use crate::protocol::frame::{Batch, Entry, EntryKind, Item};
use crate::protocol::request::OnSlow;
use crate::relay::Relay;
use crate::relay::feed::ring::{Cut, Ring};
use crate::relay::feed::{Feed, RingId};
use crate::relay::pairs::Output;
use crate::relay::session::{InFlight, Session, Subscription};
use crate::relay::stats::{DropReason, FeedStats, GapReason, ResetReason};
use crate::relay::time::{Mono, Time};

/// Bytes of one batch, beyond which the rest waits for the next.
const BATCH_BYTES: usize = 256 * 1024;
/// Events that may gather while sessions are served.
const PASS_EVENTS: usize = 256;
/// A pass over so many sessions with batches of several events earns a pause, …
const PASS_SESSIONS: u32 = 256;
/// … in which events gather: one write for many frames. Idle and sparse load never meets it.
const PASS_PAUSE: Duration = Duration::from_millis(1);

/// Counts a pass over the ready sessions.
#[derive(Debug, Default)]
pub(in crate::relay) struct Pass {
    served: u32,
    several: bool,
    /// No new cut before this, …
    pub(in crate::relay) hold: Option<Mono>,
    /// … unless too much gathered meanwhile: bytes and events admitted since the last pass was over.
    gathered: (usize, usize),
    /// Rings that were offered to their readers in this pass.
    walked: Vec<RingId>,
}

impl Pass {
    /// An event was admitted.
    pub(in crate::relay) fn gather(&mut self, bytes: usize) {
        self.gathered = (self.gathered.0.saturating_add(bytes), self.gathered.1 + 1);
    }

    fn gathered_much(&self) -> bool {
        self.gathered.0 > BATCH_BYTES || self.gathered.1 > PASS_EVENTS
    }
}

impl Relay {
    /// The next batch for any session, or a close.
    pub(in crate::relay) fn next_delivery(&mut self, now: Time) -> Option<Output> {
        if self.holds(now) {
            return None;
        }
        self.pass.hold = None;
        self.mark_readers();
        while let Some(index) = self.sessions.next_ready() {
            let session = self.sessions.at(index)?;
            let lag = if session.lagging { self.config.feed.session_lag } else { usize::MAX };
            let waited = session.control_bytes;
            let cut = cut(session, &mut self.feed, lag, &mut self.stats.feed);
            let taken = waited - session.control_bytes;
            let (id, closing) = (session.id, session.closing);
            self.sessions.control_bytes -= taken;
            let Some(session) = self.sessions.get_mut(id) else { continue };
            match cut {
                Cutting::Batch(batch, in_flight) => {
                    session.in_flight = Some(in_flight);
                    self.pass.served += 1;
                    self.pass.several |= in_flight.entries > 1;
                    return Some(Output::Deliver { session: session.id, batch });
                }
                Cutting::Nothing => {
                    if let Some(code) = closing {
                        session.closed = true;
                        return Some(Output::Close { session: session.id, code });
                    }
                }
                Cutting::TooSlow => {
                    session.closed = true;
                    return Some(Output::Close { session: session.id, code: CloseCode::Slow });
                }
            }
        }
        if self.pass.served >= PASS_SESSIONS && self.pass.several {
            self.pass.hold = Some(now.mono + PASS_PAUSE);
        }
        (self.pass.served, self.pass.several, self.pass.gathered) = (0, false, (0, 0));
        // Everybody whose socket has room has seen these: from now on they may be evicted.
        for id in self.pass.walked.drain(..) {
            if let Some(ring) = self.feed.ring_mut(id) {
                ring.offered = ring.last.unwrap_or(ring.offered);
            }
        }
        None
    }

    /// Whether events gather before the next pass.
    fn holds(&self, now: Time) -> bool {
        !self.pass.gathered_much() && self.pass.hold.is_some_and(|hold| hold > now.mono)
    }

    /// Whether sessions whose sockets have room still wait for their share of much that was received. As long as they do,
    /// more from upstream would only pile up: leave it in the socket.
    pub fn is_serving(&self) -> bool {
        self.pass.gathered_much() && (self.sessions.any_ready() || self.feed.has_news())
    }

    /// Walks the readers of every ring with news, once.
    fn mark_readers(&mut self) {
        if !self.feed.has_news() {
            return;
        }
        let mut rings: Vec<RingId> = std::mem::take(&mut self.scratch_rings);
        self.feed.take_dirty(&mut rings);
        for id in &rings {
            let Some(ring) = self.feed.ring(*id) else { continue };
            for reader in &ring.readers {
                self.sessions.mark(reader.session, reader.subscription);
            }
        }
        self.pass.walked.append(&mut rings);
        self.scratch_rings = rings;
    }
}

/// What a session gets.
enum Cutting {
    Batch(Arc<Batch>, InFlight),
    Nothing,
    /// It lags beyond its cap and chose to be disconnected.
    TooSlow,
}

fn cut(session: &mut Session, feed: &mut Feed, lag: usize, stats: &mut FeedStats) -> Cutting {
    if session.next_control().is_none()
        && let [slot] = session.dirty[..]
        && let Some(cut) = shared_cut(session, slot, feed, lag)
    {
        return cut;
    }
    merged_cut(session, feed, lag, stats)
}

/// One channel, nothing left out, nothing missed: the batch that everybody at this place gets.
fn shared_cut(session: &mut Session, slot: u32, feed: &mut Feed, lag: usize) -> Option<Cutting> {
    let epoch = feed.epoch();
    let Some(subscription) = session.subscriptions.get_mut(slot as usize).and_then(Option::as_mut) else {
        session.dirty.clear();
        return Some(Cutting::Nothing);
    };
    let ring = feed.ring_mut(subscription.ring)?;
    let from = subscription.after;
    let to = ring.last.unwrap_or(from).max(from);
    let cached = ring.cut.as_ref().is_some_and(|cut| cut.from == from && cut.to == to);
    if !subscription.types.is_empty() || from < ring.complete_from || !(cached || ring.fits(from, lag.min(BATCH_BYTES)))
    {
        return None;
    }
    session.dirty.clear();
    session.lagging = false;
    subscription.dirty = false;
    subscription.after = to;
    if to == from {
        return Some(Cutting::Nothing);
    }
    let batch = match &ring.cut {
        Some(cut) if cached => Arc::clone(&cut.batch),
        _ => {
            let begin = ring.index_after(from);
            let items = (begin..ring.len()).filter_map(|at| ring.get(at)).map(|e| Item::Entry(Arc::clone(e))).collect();
            let batch = Arc::new(Batch::new(epoch, items));
            ring.cut = Some(Cut { from, to, batch: Arc::clone(&batch) });
            batch
        }
    };
    let in_flight = in_flight(&batch, subscription.live_from);
    Some(Cutting::Batch(batch, in_flight))
}

fn in_flight(batch: &Batch, live_from: u64) -> InFlight {
    let mut counted = InFlight { entries: 0, bytes: 0, oldest: None };
    for item in batch.items() {
        counted.bytes = counted.bytes.saturating_add(u32::try_from(item.text().len()).unwrap_or(u32::MAX));
        if let Item::Entry(entry) = item {
            counted.entries += 1;
            if entry.offset > live_from && counted.oldest.is_none() {
                counted.oldest = Some(entry.received);
            }
        }
    }
    counted
}

/// The next entry of one subscription in a merge.
type Next = Reverse<(u64, u32, usize)>;

/// Several channels, control frames, filters, losses: entries in the order of offsets, control frames in their places.
fn merged_cut(session: &mut Session, feed: &mut Feed, lag: usize, stats: &mut FeedStats) -> Cutting {
    let mut merge = Merge { items: Vec::new(), bytes: 0, heap: BinaryHeap::new(), live_from: 0 };
    let mut gated: Vec<u32> = std::mem::take(&mut session.dirty);
    if !merge.open(session, feed, &mut gated, lag, stats) {
        return Cutting::TooSlow;
    }
    while merge.bytes < BATCH_BYTES {
        let next = merge.heap.peek().map(|Reverse((offset, ..))| *offset);
        match (session.next_control(), next) {
            (Some(after), next) if next.is_none_or(|offset| offset > after) => {
                let Some(item) = session.take_control() else { break };
                merge.push(item);
                if !gated.is_empty() && !merge.open(session, feed, &mut gated, lag, stats) {
                    return Cutting::TooSlow;
                }
            }
            (_, Some(_)) => merge.entry(session, feed),
            (_, None) => break,
        }
    }
    // What did not fit, or waits for its control frame, stays dirty.
    session.dirty = gated;
    session.dirty.extend(merge.heap.drain().map(|Reverse((_, slot, _))| slot));
    session.lagging &= !session.dirty.is_empty();
    if merge.items.is_empty() {
        return Cutting::Nothing;
    }
    let live_from = merge.live_from;
    let batch = Arc::new(Batch::new(feed.epoch(), merge.items));
    let in_flight = in_flight(&batch, live_from);
    Cutting::Batch(batch, in_flight)
}

struct Merge {
    items: Vec<Item>,
    bytes: usize,
    heap: BinaryHeap<Next>,
    live_from: u64,
}

impl Merge {
    fn push(&mut self, item: Item) {
        self.bytes += item.text().len();
        self.items.push(item);
    }

    /// Lets the subscriptions whose gate is open take part. `false`: one of them is too slow for its own taste.
    fn open(
        &mut self,
        session: &mut Session,
        feed: &Feed,
        gated: &mut Vec<u32>,
        lag: usize,
        stats: &mut FeedStats,
    ) -> bool {
        let waiting = std::mem::take(gated);
        for slot in waiting {
            let open = session.subscription(slot).map(|subscription| subscription.gate);
            let Some(gate) = open else { continue };
            if !session.is_open(gate) {
                gated.push(slot);
                continue;
            }
            let Some(subscription) = session.subscription(slot) else { continue };
            let Some(ring) = feed.ring(subscription.ring) else { continue };
            if !self.losses(subscription, ring, feed, lag, stats) {
                return false;
            }
            self.live_from = self.live_from.max(subscription.live_from);
            let index = ring.index_after(subscription.after);
            match ring.get(index) {
                Some(entry) => self.heap.push(Reverse((entry.offset, slot, index))),
                None => subscription.dirty = false,
            }
        }
        true
    }

    /// Tells what the session missed on a channel, and moves its place behind it.
    fn losses(
        &mut self,
        subscription: &mut Subscription,
        ring: &Ring,
        feed: &Feed,
        lag: usize,
        stats: &mut FeedStats,
    ) -> bool {
        let target = ring.skip_target(subscription.after, lag).unwrap_or(0).max(ring.complete_from);
        if target <= subscription.after {
            return true;
        }
        if subscription.on_slow == OnSlow::Disconnect {
            return false;
        }
        stats.dropped.bump(DropReason::Slow);
        stats.gaps.bump(GapReason::Slow);
        self.push(control::gap_of_session(&ring.name, subscription.after + 1, target, GapReason::Slow.text()));
        subscription.after = target;
        if ring.values.is_sum() {
            // Increments with a hole add up to nothing: begin again from the sum.
            stats.resets.bump(ResetReason::Evicted);
            self.push(control::reset_of_session(None, &ring.name, ResetReason::Evicted.text()));
            for part in super::snapshots::frames(feed, ring, false) {
                self.push(part);
            }
            subscription.after = feed.head();
        }
        true
    }

    /// Takes the entry with the lowest offset, and puts its channel's next one into the merge.
    fn entry(&mut self, session: &mut Session, feed: &Feed) {
        let Some(Reverse((_, slot, index))) = self.heap.pop() else { return };
        let Some(subscription) = session.subscription(slot) else { return };
        let Some(ring) = feed.ring(subscription.ring) else { return };
        let Some(entry) = ring.get(index) else { return };
        subscription.after = entry.offset;
        if wanted(subscription, entry) {
            self.bytes += entry.text.len();
            self.items.push(Item::Entry(Arc::clone(entry)));
        }
        match ring.get(index + 1) {
            Some(next) => self.heap.push(Reverse((next.offset, slot, index + 1))),
            None => subscription.dirty = false,
        }
    }
}

/// Whether the subscription's `types` let an entry through. What is not an event always passes.
fn wanted(subscription: &Subscription, entry: &Entry) -> bool {
    subscription.types.is_empty()
        || !matches!(entry.kind, EntryKind::Event | EntryKind::Snapshot)
        || subscription.types.iter().any(|wanted| wanted.as_bytes() == entry.event_type())
}
