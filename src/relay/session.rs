//! Sessions: cursors over the feed, and the control frames that wait for them.
//!
//! Invariants: a session has at most one batch in flight; there is no queue of events per session, only a place in each ring;
//! control frames are never dropped and never overtake an entry that was in the feed before them.
//! Deliberately not here: sockets, and the cutting of batches (that is where session and feed meet).

pub mod pace;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::dialect::ChannelId;
use crate::protocol::codes::CloseCode;
use crate::protocol::frame::{Format, Item};
use crate::protocol::request::options::Options;

use super::access::Principal;
use super::feed::RingId;
use super::limiter::Bucket;
use super::pairs::SessionId;
use super::time::{Mono, Time};
use pace::Pace;

/// Whether a subscription has news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Not since it was cut.
    None,
    /// It stands in the session's list of subscriptions with news.
    Dirty,
    /// It has, and its time has not come.
    Resting,
}

/// Events that a subscription did not get because newer ones stood for them, or because it wanted nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// The offset of the first one; where it is not held any more, the first that it can have.
    pub from: u64,
    /// The offset of the last one; where it is not held any more, the last that it can have.
    pub to: u64,
    /// How many; of what is not held any more, whatever their type.
    pub count: u64,
}

/// Session x channel.
#[derive(Debug)]
pub struct Subscription {
    /// The local channel.
    pub ring: RingId,
    /// Entries up to this offset are delivered, told as gap, or were before the subscription.
    pub after: u64,
    /// The feed's head when it began: what comes after is live, not replay.
    pub live_from: u64,
    /// How many control frames must have left before its entries may.
    pub gate: u32,
    /// Whether it has news.
    pub news: News,
    /// It gets what everybody at its place gets, as long as it loses nothing.
    pub plain: bool,
    /// How many entries its ring had ever taken when it stood at `after`: tells how many were evicted since.
    pub seen: u64,
    /// From this offset on it has got everything, so that changes can be told to it.
    pub whole_from: u64,
    /// What it wants of the channel's entries; `None`: all, at once.
    pub options: Option<Arc<Options>>,
    /// What was left out and is told before the next entry.
    pub owed: Option<Box<LeftOut>>,
    /// When its entries may leave, if not at once.
    pub pace: Option<Box<Pace>>,
    /// The interest that it holds upstream.
    pub upstream: Option<ChannelId>,
    /// Its place among the ring's readers.
    pub reader: u32,
}

/// A pattern subscription: joins every carried channel that matches.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// The part before the `*`.
    pub prefix: Box<str>,
    /// For the channels it joins.
    pub options: Option<Arc<Options>>,
}

/// A control frame that waits.
#[derive(Debug)]
struct Waiting {
    /// Every entry up to this offset goes first.
    after: u64,
    item: Item,
}

/// One local client.
#[derive(Debug)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// Who it is.
    pub principal: Arc<Principal>,
    /// How it is written.
    pub format: Format,
    /// Its subscriptions; a slot is free when its ring is gone from it.
    pub subscriptions: Vec<Option<Subscription>>,
    /// Which slot reads which ring, in the order of the rings' numbers.
    places: Vec<(RingId, u32)>,
    /// Slots that are free.
    free: Vec<u32>,
    /// Subscriptions with news.
    pub dirty: Vec<u32>,
    /// Its patterns.
    pub patterns: Vec<Pattern>,
    /// When it joined.
    pub joined: Time,
    /// Its requests' bucket.
    pub requests: Bucket,
    /// Wrong requests so far.
    pub errors: u32,
    /// A session that has not shown a token must do so by then.
    pub authenticate_by: Option<Mono>,
    /// What its batch in flight carries, for the latency.
    pub in_flight: Option<InFlight>,
    /// There was news while its last batch was still on its way: only such a session can be too slow.
    pub lagging: bool,
    /// Whether it stands in the list of sessions that may be served.
    queued: bool,
    /// It will be closed with this code once its control frames have left.
    pub closing: Option<CloseCode>,
    /// `Close` went out.
    pub closed: bool,
    /// Its channels do not leave in one order, so that an entry's position is not always its cursor, which the wire tells.
    pub uneven: bool,
    control: VecDeque<Waiting>,
    control_pushed: u32,
    control_left: u32,
    /// Bytes of the control frames that wait.
    pub control_bytes: usize,
}

/// A batch on its way to the socket.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// Entries in it.
    pub entries: u32,
    /// Bytes of its frames.
    pub bytes: u32,
    /// Receipt of its oldest live entry; `None` if it carries only replay or control.
    pub oldest: Option<Mono>,
}

impl Subscription {
    /// Its options, as far as it has any.
    pub fn options(&self) -> Option<&Options> {
        self.options.as_deref()
    }
}

impl Session {
    /// One of its subscriptions is paced: none of its batches is like another session's, where the wire tells the cursor.
    pub fn set_uneven(&mut self) {
        self.uneven = true;
        self.subscriptions.iter_mut().flatten().for_each(|subscription| subscription.plain = false);
    }

    /// Up to where everything on its channels was delivered or told.
    pub fn cursor(&self) -> u64 {
        let pending = self.subscriptions.iter().flatten().filter(|subscription| subscription.news != News::None);
        pending.map(|subscription| subscription.after).min().unwrap_or(u64::MAX)
    }

    /// The gate that opens when every control frame pushed so far has left.
    pub fn gate(&self) -> u32 {
        self.control_pushed
    }

    /// Makes all subscriptions since a gate wait for what was pushed so far: they open together.
    pub fn join_gates(&mut self, since: u32) {
        let gate = self.gate();
        let newer = |gate: u32| (1..u32::MAX / 2).contains(&gate.wrapping_sub(since));
        for subscription in self.subscriptions.iter_mut().flatten().filter(|subscription| newer(subscription.gate)) {
            subscription.gate = gate;
        }
    }

    /// Whether entries behind that gate may leave.
    pub fn is_open(&self, gate: u32) -> bool {
        self.control_left.wrapping_sub(gate) < u32::MAX / 2
    }

    /// The offset that must be reached before the next control frame leaves.
    pub fn next_control(&self) -> Option<u64> {
        self.control.front().map(|waiting| waiting.after)
    }

    /// Takes the next control frame.
    pub fn take_control(&mut self) -> Option<Item> {
        let waiting = self.control.pop_front()?;
        self.control_bytes -= waiting.item.text().len();
        self.control_left = self.control_left.wrapping_add(1);
        Some(waiting.item)
    }

    /// Whether there is something to cut.
    pub fn has_news(&self) -> bool {
        !self.dirty.is_empty() || !self.control.is_empty()
    }

    /// The subscription to that ring.
    pub fn find(&self, ring: RingId) -> Option<u32> {
        let at = self.places.binary_search_by_key(&ring, |(ring, _)| *ring).ok()?;
        Some(self.places[at].1)
    }

    /// Channels subscribed.
    pub fn channels(&self) -> usize {
        self.places.len()
    }

    /// Puts a subscription into a free slot and gives its number.
    pub fn insert(&mut self, subscription: Subscription) -> u32 {
        let ring = subscription.ring;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.subscriptions[slot as usize] = Some(subscription);
                slot
            }
            None => {
                self.subscriptions.push(Some(subscription));
                (self.subscriptions.len() - 1) as u32
            }
        };
        let at = self.places.partition_point(|(other, _)| *other < ring);
        self.places.insert(at, (ring, slot));
        slot
    }

    /// Takes a subscription out of its slot.
    pub fn take(&mut self, slot: u32) -> Option<Subscription> {
        let subscription = self.subscriptions.get_mut(slot as usize)?.take()?;
        self.dirty.retain(|dirty| *dirty != slot);
        if let Ok(at) = self.places.binary_search_by_key(&subscription.ring, |(ring, _)| *ring) {
            self.places.remove(at);
        }
        self.free.push(slot);
        Some(subscription)
    }

    /// The subscription in that slot.
    pub fn subscription(&mut self, slot: u32) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(slot as usize)?.as_mut()
    }
}

/// All sessions, by slot.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Vec<Option<Box<Session>>>,
    ready: VecDeque<u32>,
    open: usize,
    /// Bytes of the control frames that wait, over all sessions.
    pub control_bytes: usize,
    /// Sessions that must authenticate, by when.
    unauthenticated: BTreeSet<(Mono, SessionId)>,
    /// Sessions with patterns, to be joined to channels that begin to be carried.
    pub with_patterns: Vec<SessionId>,
}

impl Sessions {
    /// None yet.
    pub fn new() -> Self {
        Sessions::default()
    }

    /// Sessions open.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// A client joined.
    pub fn join(&mut self, id: SessionId, principal: Arc<Principal>, format: Format, requests: Bucket, joined: Time) {
        let at = id.index as usize;
        if self.table.len() <= at {
            self.table.resize_with(at + 1, || None);
        }
        self.open += usize::from(self.table[at].is_none());
        self.table[at] = Some(Box::new(Session {
            id,
            principal,
            format,
            subscriptions: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            patterns: Vec::new(),
            joined,
            requests,
            errors: 0,
            authenticate_by: None,
            in_flight: None,
            lagging: false,
            queued: false,
            closing: None,
            closed: false,
            uneven: false,
            control: VecDeque::new(),
            control_pushed: 0,
            control_left: 0,
            control_bytes: 0,
        }));
    }

    /// The session, if it is still the one with that number.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.table.get(id.index as usize)?.as_deref().filter(|session| session.id == id)
    }

    /// The session, if it is still the one with that number, to be changed.
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.table.get_mut(id.index as usize)?.as_deref_mut().filter(|session| session.id == id)
    }

    /// The session in that slot.
    pub fn at(&mut self, index: u32) -> Option<&mut Session> {
        self.table.get_mut(index as usize)?.as_deref_mut()
    }

    /// The session in that slot, to be looked at.
    pub fn in_slot(&self, index: u32) -> Option<&Session> {
        self.table.get(index as usize)?.as_deref()
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        let slot = self.table.get_mut(id.index as usize)?;
        if slot.as_ref()?.id != id {
            return None;
        }
        self.open -= 1;
        self.control_bytes -= slot.as_ref()?.control_bytes;
        self.with_patterns.retain(|other| *other != id);
        let session = slot.take()?;
        if let Some(by) = session.authenticate_by {
            self.unauthenticated.remove(&(by, id));
        }
        Some(session)
    }

    /// The session must show a token by then.
    pub fn expect_token(&mut self, id: SessionId, by: Mono) {
        if let Some(session) = self.get_mut(id) {
            session.authenticate_by = Some(by);
            self.unauthenticated.insert((by, id));
        }
    }

    /// The session showed a token: it is this principal from now on.
    pub fn authenticated(&mut self, id: SessionId, principal: Arc<Principal>) {
        let Some(session) = self.get_mut(id) else { return };
        session.principal = principal;
        if let Some(by) = session.authenticate_by.take() {
            self.unauthenticated.remove(&(by, id));
        }
    }

    /// When the next token is due.
    pub fn token_due(&self) -> Option<Mono> {
        self.unauthenticated.first().map(|(by, _)| *by)
    }

    /// Takes a session whose token is overdue.
    pub fn overdue_token(&mut self, now: Mono) -> Option<SessionId> {
        let (by, id) = *self.unauthenticated.first()?;
        if by > now {
            return None;
        }
        self.unauthenticated.remove(&(by, id));
        if let Some(session) = self.get_mut(id) {
            session.authenticate_by = None;
        }
        Some(id)
    }

    /// A session subscribes a pattern; the same one again replaces it.
    pub fn add_pattern(&mut self, id: SessionId, pattern: Pattern) {
        let Some(session) = self.get_mut(id) else { return };
        session.patterns.retain(|other| other.prefix != pattern.prefix);
        session.patterns.push(pattern);
        if !self.with_patterns.contains(&id) {
            self.with_patterns.push(id);
        }
    }

    /// A session drops a pattern; whether it had it.
    pub fn remove_pattern(&mut self, id: SessionId, prefix: &str) -> bool {
        let Some(session) = self.get_mut(id) else { return false };
        let before = session.patterns.len();
        session.patterns.retain(|pattern| &*pattern.prefix != prefix);
        let removed = session.patterns.len() < before;
        if session.patterns.is_empty() {
            self.with_patterns.retain(|other| *other != id);
        }
        removed
    }

    /// All sessions in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.table.iter().flatten().map(Box::as_ref)
    }

    /// Queues a control frame behind every entry up to `head`.
    pub fn push_control(&mut self, id: SessionId, head: u64, item: Item) {
        let Some(session) = self.get_mut(id) else { return };
        if session.closed {
            return;
        }
        let bytes = item.text().len();
        session.control_bytes += bytes;
        session.control.push_back(Waiting { after: head, item });
        session.control_pushed = session.control_pushed.wrapping_add(1);
        self.control_bytes += bytes;
        self.offer(id.index);
    }

    /// Closes a session without what still waits for it.
    pub fn cut_off(&mut self, id: SessionId) {
        let Some(session) = self.get_mut(id) else { return };
        session.closed = true;
        session.control.clear();
        let bytes = std::mem::take(&mut session.control_bytes);
        self.control_bytes -= bytes;
    }

    /// A subscription has news.
    pub fn mark(&mut self, index: u32, slot: u32) {
        let Some(session) = self.table.get_mut(index as usize).and_then(Option::as_deref_mut) else { return };
        let Some(subscription) = session.subscriptions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        match subscription.news {
            News::None => {
                subscription.news = News::Dirty;
                session.dirty.push(slot);
            }
            News::Dirty => {}
            News::Resting => return,
        }
        session.lagging |= session.in_flight.is_some();
        if session.in_flight.is_none() && !session.queued && !session.closed {
            session.queued = true;
            self.ready.push_back(index);
        }
    }

    /// The time of a subscription that rests has come.
    pub fn wake(&mut self, id: SessionId, slot: u32) {
        let Some(subscription) = self.get_mut(id).and_then(|session| session.subscription(slot)) else { return };
        if subscription.news == News::Resting {
            subscription.news = News::None;
            self.mark(id.index, slot);
        }
    }

    /// Queues a session for serving, if its sink is free and it is not queued.
    pub fn offer(&mut self, index: u32) {
        let Some(session) = self.table.get_mut(index as usize).and_then(Option::as_deref_mut) else { return };
        if session.in_flight.is_none() && !session.queued && !session.closed {
            session.queued = true;
            self.ready.push_back(index);
        }
    }

    /// The next session that may be served.
    pub fn next_ready(&mut self) -> Option<u32> {
        while let Some(index) = self.ready.pop_front() {
            if let Some(session) = self.at(index) {
                session.queued = false;
                if session.in_flight.is_none() && !session.closed {
                    return Some(index);
                }
            }
        }
        None
    }

    /// Whether any session may be served.
    pub fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}
