//! All sessions' writing halves, on the feed thread: a table that the driver calls as a plain function.
//!
//! A delivery is one write of bytes that all sessions with the same cut share. Only a session whose socket is full has a
//! [`Backlog`] and a future that waits for room; every other session costs a slot of the table. One interval serves all
//! sessions: each tick pings its share of them and looks at the write deadlines of those that are blocked.
//!
//! Invariant: every adopted session ends in exactly one `Left`, and every blocked `Deliver` in `Delivered` or `Left`.
//! No policy: whom to write what, and whom to close, is the relay's; only dead clients are ended here.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::backlog::{Backlog, Piece, write_some};
use super::line::{Ask, Line, Shared};
use super::reader;
use super::websocket::close_frame;
use crate::config::FeedConfig;
use crate::inbox::{Adopted, Inbox};
use crate::protocol::codes::CloseCode;
use crate::protocol::frame::{Batch, Format, chunk};
use crate::protocol::request::parse::RequestLimits;
use crate::relay::pairs::{CloseCodeOrd, Input, LeftReason, SessionId};

/// Pings without an answer after which a client is dead.
const PING_MISSES: u8 = 2;
/// How long a client may take to end its side after ours has ended.
const PARTING: Duration = Duration::from_secs(2);
/// Blocked sessions looked at in one go before the driver has its turn.
const RESUMED_AT_ONCE: usize = 64;
/// A WebSocket ping without payload.
const PING: &[u8] = b"\x89\x00";
/// A comment, in its chunk.
const COMMENT: &[u8] = b"8\r\n: ping\n\n\r\n";
/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deliver {
    /// The kernel has all of it: answer `Delivered` at once.
    Done,
    /// The socket is full: `Delivered` or `Left` follows through the inbox.
    Blocked,
    /// There is no such session any more: its `Left` is, or was, in the inbox.
    Gone,
}

/// The table of sessions.
pub struct Writers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    shared: Rc<Shared>,
    blocked: FuturesUnordered<Writable>,
    parting: Vec<(Weak<Line>, Instant)>,
    pace: Pace,
    ticks: Interval,
    tick: usize,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    writer: Option<Writer>,
}

struct Writer {
    line: Rc<Line>,
    format: Format,
    backlog: Option<Box<Backlog>>,
}

/// How often what happens.
#[derive(Debug, Clone, Copy)]
struct Pace {
    tick: Duration,
    /// Ticks from ping to ping of one session.
    websocket: usize,
    sse: usize,
    write_timeout: Duration,
    user_timeout: Duration,
}

impl Pace {
    fn new(config: &FeedConfig) -> Self {
        let shortest = config.ping_interval.min(config.sse_ping_interval).min(config.write_timeout);
        let tick = (shortest / 16).clamp(Duration::from_millis(5), Duration::from_secs(1));
        let ticks = |interval: Duration| usize::try_from(interval.as_nanos() / tick.as_nanos()).unwrap_or(1).max(1);
        Pace {
            tick,
            websocket: ticks(config.ping_interval),
            sse: ticks(config.sse_ping_interval),
            write_timeout: config.write_timeout,
            user_timeout: config.ping_interval.max(config.sse_ping_interval) * u32::from(PING_MISSES)
                + config.write_timeout,
        }
    }

    fn interval(&self) -> Interval {
        let mut interval = tokio::time::interval(self.tick);
        // After a stop of the process one ping is due, not all that were missed.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }
}

/// Resolves when a blocked session's socket has room, or is gone.
struct Writable(Rc<Line>);

impl Future for Writable {
    type Output = SessionId;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionId> {
        // An error shows at the next write.
        self.0.stream.poll_write_ready(cx).map(|_| self.0.session)
    }
}

impl Writers {
    /// An empty table. Inside a runtime with a `LocalSet`.
    pub fn new(config: &FeedConfig, limits: RequestLimits, inbox: Inbox) -> Self {
        let pace = Pace::new(config);
        Writers {
            slots: Vec::new(),
            free: Vec::new(),
            shared: Shared::new(inbox, limits),
            blocked: FuturesUnordered::new(),
            parting: Vec::new(),
            pace,
            ticks: pace.interval(),
            tick: 0,
        }
    }

    /// Takes the limits and intervals of a new configuration. Sessions stay.
    pub fn reload(&mut self, config: &FeedConfig, limits: RequestLimits) {
        self.shared.limits.set(limits);
        self.pace = Pace::new(config);
        self.ticks = self.pace.interval();
    }

    /// Takes a connection over: announces `Joined` and starts its reader. `None` if its socket is already unusable.
    pub fn adopt(&mut self, adopted: Adopted) -> Option<SessionId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot::default());
                index
            }
        };
        let slot = self.slots.get_mut(index as usize)?;
        let session = SessionId { index, generation: slot.generation };
        let Adopted { stream, leftover, principal, format, subscribe, peer, seat } = adopted;
        let line = match Line::new(stream, session, seat, self.pace.user_timeout) {
            Ok(line) => Rc::new(line),
            Err(error) => {
                tracing::debug!(%peer, %error, "a client was gone before its session began");
                self.free.push(index);
                return None;
            }
        };
        slot.writer = Some(Writer { line: line.clone(), format, backlog: None });
        self.shared.inbox.push(Input::Joined { session, principal, format, subscribe });
        tokio::task::spawn_local(reader::read(line, self.shared.clone(), format, leftover));
        Some(session)
    }

    /// Writes a batch.
    pub fn deliver(&mut self, session: SessionId, batch: &Arc<Batch>) -> Deliver {
        let Some(writer) = self.find(session) else { return Deliver::Gone };
        let bytes = batch.wire(writer.format);
        self.send(session, bytes, Piece::Batch)
    }

    /// Closes a session after what was delivered to it before; `Left` follows.
    pub fn close(&mut self, session: SessionId, code: CloseCode) {
        let Some(writer) = self.find(session) else { return };
        let bytes = match writer.format {
            Format::WebSocket => close_frame(code).into(),
            Format::Sse => Bytes::from_static(LAST_CHUNK),
        };
        self.send(session, &bytes, Piece::Last(LeftReason::Closed(CloseCodeOrd(code.number()))));
    }

    /// Sessions in the table.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until something happens to a session that needs no relay (a full socket has room, a client pings or goes, a
    /// deadline passes) and does what follows; inputs go to the inbox. For the driver's `select!`: cancel safe.
    pub async fn work(&mut self) {
        enum Woken {
            Asked,
            Writable(SessionId),
            Tick,
        }
        let woken = tokio::select! {
            () = self.shared.asked() => Woken::Asked,
            Some(session) = self.blocked.next() => Woken::Writable(session),
            _ = self.ticks.tick() => Woken::Tick,
        };
        match woken {
            Woken::Asked => self.answer_readers(),
            Woken::Writable(session) => {
                self.resume(session);
                for _ in 1..RESUMED_AT_ONCE {
                    let Some(Some(session)) = self.blocked.next().now_or_never() else { break };
                    self.resume(session);
                }
            }
            Woken::Tick => self.handle_tick(),
        }
    }

    fn find(&mut self, session: SessionId) -> Option<&mut Writer> {
        let slot = self.slots.get_mut(session.index as usize)?;
        if slot.generation == session.generation { slot.writer.as_mut() } else { None }
    }

    fn send(&mut self, session: SessionId, bytes: &Bytes, piece: Piece) -> Deliver {
        let Some(writer) = self.find(session) else { return Deliver::Gone };
        if let Some(backlog) = &mut writer.backlog {
            if backlog.ends() {
                return Deliver::Gone;
            }
            backlog.push(bytes.clone(), piece);
            return Deliver::Blocked;
        }
        match write_some(&writer.line.stream, bytes) {
            Ok(written) if written == bytes.len() => {
                if let Piece::Last(reason) = piece {
                    self.part(session, reason);
                }
                Deliver::Done
            }
            Ok(written) => {
                writer.backlog = Some(Box::new(Backlog::new(bytes.slice(written..), piece, written > 0)));
                let line = writer.line.clone();
                self.blocked.push(Writable(line));
                Deliver::Blocked
            }
            Err(_) => {
                self.end(session, LeftReason::Client);
                Deliver::Gone
            }
        }
    }

    /// Writes on after the socket has room.
    fn resume(&mut self, session: SessionId) {
        loop {
            let Some(writer) = self.find(session) else { return };
            let Some(backlog) = &mut writer.backlog else { return };
            match backlog.write(&writer.line.stream) {
                Ok(Some(Piece::Last(reason))) => return self.part(session, reason),
                Ok(Some(Piece::Batch)) => {
                    self.shared.inbox.push(Input::Delivered { session, at: crate::clock::mono() });
                }
                Ok(Some(Piece::Pong | Piece::Ping)) => {}
                Ok(None) if backlog.is_empty() => {
                    writer.backlog = None;
                    return;
                }
                Ok(None) => {
                    let line = writer.line.clone();
                    return self.blocked.push(Writable(line));
                }
                Err(_) => return self.end(session, LeftReason::Client),
            }
        }
    }

    fn answer_readers(&mut self) {
        while let Some((session, ask)) = self.shared.next_ask() {
            match ask {
                Ask::Pong(pong) => {
                    self.send(session, &pong.into(), Piece::Pong);
                }
                Ask::Farewell(answer) => {
                    self.send(session, &answer.into(), Piece::Last(LeftReason::Client));
                }
                Ask::Refuse(code) => self.close(session, code),
                Ask::Gone => self.end(session, LeftReason::Client),
            }
        }
    }

    /// The last byte is with the kernel: the slot is free, the socket stays until the client has read and ends its side.
    /// Closing at once could reset the connection and destroy what the client has not read yet.
    fn part(&mut self, session: SessionId, reason: LeftReason) {
        if let Some(line) = self.vacate(session, reason) {
            line.part();
            self.parting.push((Rc::downgrade(&line), Instant::now() + PARTING));
        }
    }

    /// Ends a session whose client is gone.
    fn end(&mut self, session: SessionId, reason: LeftReason) {
        if let Some(line) = self.vacate(session, reason) {
            line.hang_up();
        }
    }

    fn vacate(&mut self, session: SessionId, reason: LeftReason) -> Option<Rc<Line>> {
        let line = self.find(session)?.line.clone();
        let slot = self.slots.get_mut(session.index as usize)?;
        slot.writer = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(session.index);
        self.shared.inbox.push(Input::Left { session, reason });
        Some(line)
    }

    fn handle_tick(&mut self) {
        self.tick = self.tick.wrapping_add(1);
        let now = Instant::now();
        self.parting.retain(|(line, until)| match line.upgrade() {
            Some(line) if *until <= now => {
                line.hang_up();
                false
            }
            Some(_) => true,
            None => false,
        });
        self.end_overdue(now);
        self.ping(Format::WebSocket, self.pace.websocket);
        self.ping(Format::Sse, self.pace.sse);
    }

    fn end_overdue(&mut self, now: Instant) {
        let limit = self.pace.write_timeout;
        let is_overdue = |line: &Writable| {
            let writer = self.slots.get(line.0.session.index as usize).and_then(|slot| slot.writer.as_ref());
            let backlog = writer.filter(|w| w.line.session == line.0.session).and_then(|w| w.backlog.as_ref());
            backlog.is_some_and(|backlog| now.duration_since(backlog.since) >= limit)
        };
        let overdue: Vec<Rc<Line>> =
            self.blocked.iter().filter(|line| is_overdue(line)).map(|line| line.0.clone()).collect();
        for line in overdue {
            line.abort();
            self.end(line.session, LeftReason::Closed(CloseCodeOrd(CloseCode::WriteTimeout.number())));
        }
    }

    /// Pings every session of this format whose turn this tick is.
    fn ping(&mut self, format: Format, ticks: usize) {
        for index in (self.tick % ticks..self.slots.len()).step_by(ticks) {
            let slot = &self.slots[index];
            let Some(writer) = slot.writer.as_ref().filter(|w| w.format == format && w.backlog.is_none()) else {
                continue;
            };
            let session = writer.line.session;
            match format {
                Format::Sse => {
                    self.send(session, &Bytes::from_static(COMMENT), Piece::Ping);
                }
                Format::WebSocket if writer.line.unanswered.get() >= PING_MISSES => {
                    self.close(session, CloseCode::PingTimeout);
                }
                Format::WebSocket => {
                    writer.line.unanswered.set(writer.line.unanswered.get() + 1);
                    self.send(session, &Bytes::from_static(PING), Piece::Ping);
                }
            }
        }
    }
}

/// The first bytes of an event stream after its head: how long a client waits before it comes back.
pub(super) fn sse_opening(retry: Duration) -> Vec<u8> {
    chunk(format!("retry: {}\n\n", retry.as_millis()).as_bytes())
}

#[cfg(test)]
#[path = "tests/writer.rs"]
mod tests;
