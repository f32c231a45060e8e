//! Session and feed meet: what a session gets next.
//!
//! A cut is a run of entries after a session's place. Sessions at the same place of one channel share one batch, encoded once.
//! Whatever else there is, [`super::merging`] puts together for one session.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::codes::CloseCode;
use crate::protocol::frame::{Batch, Item};
use crate::relay::Relay;
use crate::relay::feed::ring::Cut;
use crate::relay::feed::{Feed, RingId};
use crate::relay::pairs::{Output, SessionId};
use crate::relay::session::{InFlight, News, Session};
use crate::relay::time::{Mono, Time};

use super::merging::{Scene, merged_cut};

/// Bytes of one batch, beyond which the rest waits for the next.
pub(super) const BATCH_BYTES: usize = 256 * 1024;
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
    /// Subscriptions whose channel turned out not to be for their options.
    unfit: Vec<(SessionId, u32)>,
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
        if let Some(output) = self.serve_next(now) {
            return Some(output);
        }
        while let Some((id, slot)) = self.pass.unfit.pop() {
            self.end_unfit(now, id, slot);
            if let Some(output) = self.serve_next(now) {
                return Some(output);
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

    /// What the next session gets that may be served.
    fn serve_next(&mut self, now: Time) -> Option<Output> {
        while let Some(index) = self.sessions.next_ready() {
            let session = self.sessions.at(index)?;
            let lag = if session.lagging { self.config.feed.session_lag } else { usize::MAX };
            let waited = session.control_bytes;
            let scene = Scene {
                feed: &mut self.feed,
                rests: &mut self.rests,
                unfit: &mut self.pass.unfit,
                stats: &mut self.stats.feed,
                lag,
                now: now.mono,
            };
            let cut = cut(session, scene);
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
pub(super) enum Cutting {
    Batch(Arc<Batch>, InFlight),
    Nothing,
    /// It lags beyond its cap and chose to be disconnected.
    TooSlow,
}

fn cut(session: &mut Session, scene: Scene<'_>) -> Cutting {
    if session.next_control().is_none()
        && let [slot] = session.dirty[..]
        && let Some(cut) = shared_cut(session, slot, scene.feed, scene.lag)
    {
        return cut;
    }
    merged_cut(session, scene)
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
    if !subscription.plain || from < ring.complete_from || !(cached || ring.fits(from, lag.min(BATCH_BYTES))) {
        return None;
    }
    session.dirty.clear();
    session.lagging = false;
    subscription.news = News::None;
    subscription.after = to;
    subscription.seen = ring.pushed;
    if to == from {
        return Some(Cutting::Nothing);
    }
    let cut = match &mut ring.cut {
        Some(cut) if cached => cut,
        _ => {
            let items = ring.after(from).map(|entry| Item::Entry(Arc::clone(entry))).collect();
            let batch = Arc::new(Batch::new(epoch, items));
            let InFlight { entries, bytes, oldest } = in_flight(&batch, from);
            ring.cut.insert(Cut { from, to, batch, entries, bytes, oldest })
        }
    };
    // A reader that is still before what was there when it came counts only what is newer.
    let all = InFlight { entries: cut.entries, bytes: cut.bytes, oldest: cut.oldest };
    let in_flight = if subscription.live_from <= from { all } else { in_flight(&cut.batch, subscription.live_from) };
    Some(Cutting::Batch(Arc::clone(&cut.batch), in_flight))
}

pub(super) fn in_flight(batch: &Batch, live_from: u64) -> InFlight {
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
