//! One message of the outbox between its acceptance and its end, and the table of them.
//!
//! Of each message a few numbers are in memory ([`Pending`], 64 bytes with its id), because there may be a million of them.
//! What only some need is in [`Live`]: the message itself, which otherwise waits on disk, and what became of its attempts.
//!
//! Invariant: ids rise with acceptance, so a table's order is the order of acceptance.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::idempotency::{known, order};
use super::packed::Packed;
use super::principals::PrincipalNumber;
use super::{Confirm, Lane, OUTCOME_UNKNOWN, OnUnknown, Outcome, REFUSED};
use crate::relay::pairs::SessionId;
use crate::relay::record::{Backlog, Failure, MessageId, More, Queued, StoredMessage, StoredOutcome};
use crate::relay::time::{Mono, Wall};

/// Sessions that are told how a message ended; of more (repeated publishes by ever new sessions) the first are forgotten and
/// can still ask.
const PUBLISHERS_MAX: usize = 8;

/// Failed tries that are remembered of a message: the last ones.
const HISTORY_MAX: usize = 10;

/// What a stored message takes besides its text: ids, times, hash, framing, its share of the index.
const FIXED_BYTES: u64 = 192;

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Its acceptance is not durable yet.
    Accepting,
    /// It may leave when its turn comes: in its lane, or behind others of its order key.
    #[default]
    Waiting,
    /// An attempt left.
    Sent {
        /// When upstream's answer is overdue; `None` where the carrier's answer is all there will be.
        deadline: Option<Mono>,
        /// When the message is looked at next: its deadline, or before that the moment to note the attempt.
        look: Option<Mono>,
        /// What will count as delivered.
        confirm: Confirm,
        /// How many attempts had left before it, over all messages.
        order: u64,
    },
    /// An attempt failed; the next one is not due yet.
    Backoff {
        /// When it is.
        until: Mono,
    },
    /// It waits for its channel to be subscribed.
    Parked,
    /// Its end is decided but not durable yet, so nobody is told.
    Settling,
}

/// An accepted message that has not ended.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sequence: u64,
    /// `Wall(u64::MAX)`: never.
    expires: Wall,
    pub(super) order: Option<NonZeroU64>,
    /// Whom to tell first; only if `told`.
    publisher: SessionId,
    /// About what it takes on disk.
    pub(super) bytes: u32,
    pub(super) principal: PrincipalNumber,
    pub(super) lane: Lane,
    pub(super) flags: Flags,
    live: Option<Box<Live>>,
}

/// Answers in one byte.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags(u8);

impl Flags {
    const DEAD_LETTER: u8 = 1;
    const KEYED: u8 = 2;
    const TOLD: u8 = 4;
    const PARKED: u8 = 8;

    fn new(on_unknown: OnUnknown, keyed: bool) -> Self {
        let mut flags = Flags(0);
        flags.set(Self::DEAD_LETTER, on_unknown == OnUnknown::DeadLetter);
        flags.set(Self::KEYED, keyed);
        flags
    }

    fn set(&mut self, flag: u8, value: bool) {
        self.0 = if value { self.0 | flag } else { self.0 & !flag };
    }

    pub(super) fn on_unknown(self) -> OnUnknown {
        if self.0 & Self::DEAD_LETTER != 0 { OnUnknown::DeadLetter } else { OnUnknown::Retry }
    }

    /// It has an idempotency key.
    pub(super) fn keyed(self) -> bool {
        self.0 & Self::KEYED != 0
    }

    /// Somebody is told the end.
    fn told(self) -> bool {
        self.0 & Self::TOLD != 0
    }

    /// It waits for its channel; says nothing where there is a `live`.
    fn parked(self) -> bool {
        self.0 & Self::PARKED != 0
    }
}

/// A try that failed, as long as the message has not ended.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    pub(super) at: Wall,
    pub(super) fate: Fate,
    /// Why, as a word: ours, or upstream's code.
    pub(super) reason: Box<str>,
}

/// What became of a try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// No attempt left.
    Unsent,
    /// One did, and upstream never answered it.
    Unanswered,
    /// Upstream refused it.
    Refused,
}

impl Tried {
    /// As a dead letter tells it.
    fn failure(self) -> Failure {
        let reason = match self.fate {
            Fate::Unsent => self.reason,
            Fate::Unanswered => format!("unanswered: {}", self.reason).into(),
            Fate::Refused if &*self.reason == REFUSED => self.reason,
            Fate::Refused => format!("refused: {}", self.reason).into(),
        };
        Failure { at: self.at, reason }
    }
}

/// What is known of a message whose turn is near, or that was tried already.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// The message; `None`: it is on disk.
    pub(super) message: Option<Arc<StoredMessage>>,
    /// Since when it is held in memory for no other reason than that its turn may be near; 0: it is not.
    pub(super) held: u64,
    /// Attempts that left, by this process or committed by an earlier one.
    pub(super) attempts: u32,
    /// Attempts that the store knows of, or will know of in its time where nothing waits for that.
    pub(super) committed: u32,
    /// Answers that the store still owes about `committed`.
    pub(super) preparing: u32,
    /// Tries that failed, those included that did not get as far as leaving.
    pub(super) failures: u32,
    /// Whether nobody knows what became of an attempt.
    pub(super) unknown: bool,
    /// How many of the attempts an earlier process made: what became of each is not known.
    earlier: u32,
    /// Why the last tries failed.
    pub(super) history: Vec<Tried>,
    pub(super) phase: Phase,
    /// How and when it ends, once that is decided, until its outcome is made.
    pub(super) end: Option<(Outcome, Wall)>,
    /// Once it is accepted, others go that wait for the same.
    pub(super) coalesces: bool,
    /// The outcome that is on its way to the disk.
    pub(super) outcome: Option<Arc<StoredOutcome>>,
    /// Whom to tell besides the first publisher.
    publishers: Vec<SessionId>,
}

/// Of a message that only waits.
static WAITING: Live = only(Phase::Waiting);
/// Of a message that only waits for its channel.
static PARKED: Live = only(Phase::Parked);

const fn only(phase: Phase) -> Live {
    Live {
        message: None,
        held: 0,
        attempts: 0,
        committed: 0,
        preparing: 0,
        failures: 0,
        unknown: false,
        earlier: 0,
        history: Vec::new(),
        phase,
        end: None,
        coalesces: false,
        outcome: None,
        publishers: Vec::new(),
    }
}

impl Pending {
    /// One that is being accepted.
    pub(super) fn new(message: Arc<StoredMessage>) -> Self {
        let mut pending = Pending::queued(&queued(&message, 0));
        *pending.live_mut() = Live { message: Some(message), ..only(Phase::Accepting) };
        pending
    }

    /// One that was accepted before and is on disk.
    pub(super) fn queued(queued: &Queued) -> Self {
        let more = queued.more.as_deref();
        let mut pending = Pending {
            sequence: queued.sequence,
            expires: more.and_then(|more| more.expires).unwrap_or(Wall(u64::MAX)),
            order: more.and_then(|more| more.order).map(|order| order.key),
            publisher: SessionId::default(),
            bytes: queued.bytes,
            principal: PrincipalNumber::default(),
            lane: queued.lane,
            flags: Flags::new(queued.on_unknown, more.is_some_and(|more| more.known.is_some())),
            live: None,
        };
        let attempts = queued.attempts();
        if attempts > 0 {
            let (committed, failures, earlier) = (attempts, attempts, attempts);
            // Upstream may have refused them since: that is not on record.
            *pending.live_mut() =
                Live { attempts, committed, failures, earlier, unknown: true, ..only(Phase::Waiting) };
        }
        pending
    }

    pub(super) fn expires(&self) -> Option<Wall> {
        (self.expires != Wall(u64::MAX)).then_some(self.expires)
    }

    pub(super) fn live(&self) -> &Live {
        self.live.as_deref().unwrap_or(if self.flags.parked() { &PARKED } else { &WAITING })
    }

    pub(super) fn live_mut(&mut self) -> &mut Live {
        let phase = if self.flags.parked() { Phase::Parked } else { Phase::Waiting };
        self.flags.set(Flags::PARKED, false);
        self.live.get_or_insert_with(|| Box::new(only(phase)))
    }

    /// Its channel is there: it may leave when its turn comes.
    pub(super) fn wait(&mut self) {
        self.flags.set(Flags::PARKED, false);
        if let Some(live) = &mut self.live {
            live.phase = Phase::Waiting;
        }
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.live().phase
    }

    /// The message, if it is in memory.
    pub(super) fn message(&self) -> Option<&Arc<StoredMessage>> {
        self.live().message.as_ref()
    }

    /// Gives the message up to the disk, with all that need not be remembered beside it.
    pub(super) fn shelve(&mut self) {
        let Some(live) = &mut self.live else { return };
        live.message = None;
        live.held = 0;
        let untried = live.attempts + live.committed + live.preparing + live.failures == 0 && live.history.is_empty();
        if untried && live.publishers.is_empty() && matches!(live.phase, Phase::Waiting | Phase::Parked) {
            self.flags.set(Flags::PARKED, live.phase == Phase::Parked);
            self.live = None;
        }
    }

    /// Whether the next attempt has to be durable before it leaves, and is not yet.
    pub(super) fn needs_commit(&self) -> bool {
        self.flags.on_unknown() == OnUnknown::DeadLetter && self.live().committed <= self.live().attempts
    }

    /// Whether an attempt left already.
    pub(super) fn was_tried(&self) -> bool {
        self.live().attempts > 0
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.phase(), Phase::Sent { .. })
    }

    /// Why the message ends before another attempt, as a word: not this one, if upstream may have it.
    pub(super) fn unless_unknown(&self, word: &'static str) -> &'static str {
        if self.live().unknown { OUTCOME_UNKNOWN } else { word }
    }

    /// Remembers why a try failed.
    pub(super) fn blame(&mut self, at: Wall, fate: Fate, reason: &str) {
        let history = &mut self.live_mut().history;
        if history.len() == HISTORY_MAX {
            history.remove(0);
        }
        history.push(Tried { at, fate, reason: reason.into() });
    }

    /// What became of its attempts, for a dead letter. `started`: when this process did.
    pub(super) fn take_history(&mut self, started: Wall) -> Vec<Failure> {
        let live = self.live_mut();
        let plural = if live.earlier == 1 { "" } else { "s" };
        let reason = format!("unknown: {} attempt{plural} on record from before a restart", live.earlier);
        let earlier = (live.earlier > 0).then(|| Failure { at: started, reason: reason.into() });
        earlier.into_iter().chain(std::mem::take(&mut live.history).into_iter().map(Tried::failure)).collect()
    }

    /// Remembers a session that is told the end.
    pub(super) fn tell(&mut self, session: SessionId) {
        if !self.flags.told() {
            self.publisher = session;
            self.flags.set(Flags::TOLD, true);
        }
        if self.publisher == session || self.live().publishers.contains(&session) {
            return;
        }
        if self.live().publishers.len() + 1 == PUBLISHERS_MAX {
            self.publisher = self.live_mut().publishers.remove(0);
        }
        self.live_mut().publishers.push(session);
    }

    /// Who is told the end.
    pub(super) fn publishers(&self) -> Vec<SessionId> {
        let first = self.flags.told().then_some(self.publisher);
        first.into_iter().chain(self.live().publishers.iter().copied()).collect()
    }
}

impl Backlog {
    /// Adds what is kept in memory of this message. `attempts`: those that were committed.
    pub fn add(&mut self, message: &StoredMessage, attempts: u32) {
        self.push(&message.principal, queued(message, attempts));
    }
}

fn queued(message: &StoredMessage, attempts: u32) -> Queued {
    let optional = [&message.channel.params, &message.key, &message.kind, &message.idempotency_key, &message.order_key];
    let value = message.optimistic.as_ref().map_or(0, |provisional| provisional.value.len());
    let bytes = footprint([&message.principal, &message.channel.name, &message.data], optional, value);
    let key = message.idempotency_key.as_ref();
    let more = More {
        expires: message.expires,
        order: order(message),
        known: key.map(|key| known(&message.principal, key, &message.body_hash)),
        optimistic: message.optimistic.clone(),
        attempts,
    };
    // `outbox.message_max` is at most 1 GiB.
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Queued::new(message.id, message.sequence, bytes, (message.lane, message.on_unknown), more)
}

/// About how many bytes a message takes on disk.
pub(super) fn footprint(texts: [&str; 3], optional: [&Option<Box<str>>; 5], value: usize) -> u64 {
    let optional: usize = optional.into_iter().flatten().map(|text| text.len()).sum();
    let texts: usize = texts.into_iter().map(str::len).sum();
    FIXED_BYTES.saturating_add(u64::try_from(texts + optional + value).unwrap_or(u64::MAX))
}

/// All messages that have not ended: one table per lane, so that the oldest of each is at hand.
#[derive(Debug, Default)]
pub(super) struct Messages([Packed<MessageId, Pending>; Lane::COUNT]);

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Packed::len).sum()
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Pending> {
        self.0.iter().find_map(|lane| lane.get(id))
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Pending> {
        self.0.iter_mut().find_map(|lane| lane.get_mut(id))
    }

    /// The message, if it stands there.
    pub(super) fn in_phase(&mut self, id: MessageId, phase: &Phase) -> Option<&mut Pending> {
        self.get_mut(id).filter(|pending| pending.phase() == phase)
    }

    pub(super) fn insert(&mut self, id: MessageId, pending: Pending) {
        self.0[pending.lane.index()].insert(id, pending);
    }

    pub(super) fn remove(&mut self, id: MessageId) -> Option<Pending> {
        self.0.iter_mut().find_map(|lane| lane.remove(id))
    }

    /// When the oldest accepted message of a lane was accepted, to the millisecond. What is being accepted is younger than
    /// all others.
    pub(super) fn oldest(&self, lane: Lane) -> Option<Wall> {
        let (id, first) = self.0[lane.index()].first()?;
        (*first.phase() != Phase::Accepting).then(|| id.time())
    }

    /// The messages of a lane in the order of acceptance.
    pub(super) fn of_lane(&self, lane: Lane) -> impl Iterator<Item = &(MessageId, Pending)> {
        self.0[lane.index()].iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_waits_on_disk_takes_64_bytes() {
        assert_eq!(size_of::<(MessageId, Pending)>(), 64);
    }
}
