//! The outbox: messages from acceptance to their one end, PURE.
//!
//! Invariants: nothing is told before it is durable (accepted, ended); a message that was accepted ends exactly once and is
//! attempted until then, at most `max_attempts` times; messages with the same order key leave one after another; an attempt
//! of a message that must not be sent twice is durable before it leaves, any other once it stays unanswered for a moment, so
//! that nothing ends as never sent that upstream may have; after an error of the store nothing is accepted,
//! sent or ended any more.
//!
//! - `message`: where a message stands. `shelf`: which are in memory, and what is read. `lanes`, `keys`: which one leaves
//!   next. `clock`: times to live. `packed`: a table for a million of them.
//! - `admission`: what is accepted. `principals`: how much of it is whose. `idempotency`: repeated publishes. `staging`: group
//!   commit. `outcomes`: what is kept.
//! - `departure`: an attempt leaves. `window`: how many at once. `answers`: what became of it. `ending`: how messages end.
//!   `letters`: dead ones. `shown`: what people see. `progress`: what those who follow messages are told.
//!
//! Deliberately not here: making frames, subscribing channels that a publish needs, pacing, telling
//! (`meet::messages::outbound`).

mod admission;
mod answers;
mod clock;
mod departure;
mod ending;
mod idempotency;
mod keys;
mod lanes;
mod letters;
mod message;
mod outcomes;
mod packed;
mod principals;
mod progress;
mod shelf;
mod shown;
mod staging;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::record::{KeptOutcome, MessageId, Queued, Restored};
use super::stats::OutboxStats;
use super::time::{Mono, Time, Wall};
use crate::config::OutboxConfig;

pub use admission::{Admitted, Publisher, Refusal, is_of_batch};
pub use answers::Nack;
pub use ending::Durable;
pub use letters::as_publish;
pub use progress::Step;
pub use shown::ended_state;

use admission::last_of_batch;
use clock::Clock;
use idempotency::Idempotency;
use keys::OrderKeys;
use lanes::{Lanes, Row};
use message::{Messages, Pending, Phase};
use outcomes::Outcomes;
use packed::Packed;
use principals::Principals;
use progress::Progress;
use shelf::Shelf;
use staging::Staging;
use window::Window;

/// How urgent a message is. Higher lanes go first; a guard keeps lower ones from starving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Lane {
    /// Before everything else.
    Critical,
    /// Before ordinary traffic.
    High,
    /// The default.
    #[default]
    Medium,
    /// When nothing else waits.
    Low,
}

impl Lane {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// All of them, the highest first.
    pub const ALL: [Lane; Lane::COUNT] = [Lane::Critical, Lane::High, Lane::Medium, Lane::Low];

    /// Its place in [`Lane::ALL`].
    pub fn index(self) -> usize {
        match self {
            Lane::Critical => 0,
            Lane::High => 1,
            Lane::Medium => 2,
            Lane::Low => 3,
        }
    }

    /// Its name.
    pub fn text(self) -> &'static str {
        match self {
            Lane::Critical => "critical",
            Lane::High => "high",
            Lane::Medium => "medium",
            Lane::Low => "low",
        }
    }
}

/// What it means when the connection dies after the bytes may have left and no ack came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnUnknown {
    /// Send again: at least once.
    #[default]
    Retry,
    /// Give up and say so: at most once. The attempt is durable before the bytes leave.
    DeadLetter,
}

/// How a message ended. Exactly one per message, durable before it is told, never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which end.
    pub state: OutcomeState,
    /// Why, as a word (`superseded`, `cancelled`, `ttl`, `outcome_unknown`, upstream's code …); empty for `delivered`.
    pub reason: Box<str>,
    /// What told us, for `delivered`.
    pub confirmed_by: Option<Confirm>,
    /// Upstream's answer, JSON text.
    pub reply: Option<Box<str>>,
}

impl Outcome {
    /// Upstream has it.
    pub(super) fn delivered(by: Confirm, reply: Option<Box<str>>) -> Self {
        Outcome { state: OutcomeState::Delivered, reason: "".into(), confirmed_by: Some(by), reply }
    }

    /// Upstream has it not, or nobody knows.
    pub(super) fn failed(state: OutcomeState, reason: &str) -> Self {
        Outcome { state, reason: reason.into(), confirmed_by: None, reply: None }
    }
}

/// The four ends of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeState {
    /// Upstream has it.
    Delivered,
    /// Upstream or the relay refused it for good, or the publisher cancelled it.
    Rejected,
    /// Its TTL ran out.
    Expired,
    /// It cannot be delivered, or nobody knows whether it was.
    DeadLettered,
}

/// What counts as delivered, from strongest to weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confirm {
    /// A reply matched by request id or subscription id.
    Ack,
    /// The message came back as an event.
    Echo,
    /// A later reply on the same connection.
    Barrier,
    /// The bytes are with the kernel; a crash of upstream can lose them.
    Written,
}

/// Reason of an end that nobody can be sure of.
const OUTCOME_UNKNOWN: &str = "outcome_unknown";
/// Reason of an end after the last attempt.
const MAX_ATTEMPTS: &str = "max_attempts";
/// Reason of a refusal by upstream that has no code.
const REFUSED: &str = "refused";
/// Timers served in one turn at most: what is left is due at once again, and other inputs get their turn in between.
const TIMERS_PER_TURN: usize = 1024;

/// The outbox.
pub struct Outbox {
    config: OutboxConfig,
    messages: Messages,
    shelf: Shelf,
    /// Bytes of all messages on disk.
    bytes: u64,
    /// How many of them have an idempotency key.
    keyed: usize,
    principals: Principals,
    lanes: Lanes,
    keys: OrderKeys,
    /// What was sent and neither answered nor given up.
    in_flight: BTreeSet<MessageId>,
    /// How many of these were tried before.
    repeated: usize,
    window: Window,
    /// Messages of which an attempt is durable, or about to be, that has not left.
    prepared: BTreeSet<MessageId>,
    /// Attempts that left.
    departures: u64,
    /// The departures before the last request whose answer will prove them.
    barrier: Option<u64>,
    /// Attempts to note, ack deadlines and ends of backoff.
    timers: BTreeSet<(Mono, MessageId)>,
    /// Times to live.
    expiries: Packed<(Wall, MessageId), ()>,
    clock: Clock,
    idempotency: Idempotency,
    outcomes: Outcomes,
    staging: Staging,
    progress: Progress,
    last_id: MessageId,
    next_sequence: u64,
    started: Wall,
    /// Bytes that are free on the disk, and bytes that the store takes of it with what was admitted since that was seen.
    disk: (u64, u64),
    /// Why the store failed, if it did.
    failed: Option<Box<str>>,
}

impl Outbox {
    /// With what the store held. Messages that may not be sent once more end at once: whose attempt may have left, and that must
    /// not be sent twice, and those that used up their attempts.
    pub fn new(config: &OutboxConfig, restored: Restored, now: Time, stats: &mut OutboxStats) -> Self {
        let mut outbox = Outbox {
            config: config.clone(),
            messages: Messages::default(),
            shelf: Shelf::default(),
            bytes: 0,
            keyed: 0,
            principals: Principals::default(),
            lanes: Lanes::default(),
            keys: OrderKeys::default(),
            in_flight: BTreeSet::new(),
            repeated: 0,
            window: Window::new(config.window),
            prepared: BTreeSet::new(),
            departures: 0,
            barrier: None,
            timers: BTreeSet::new(),
            expiries: Packed::default(),
            clock: Clock::new(now),
            idempotency: Idempotency::default(),
            outcomes: Outcomes::default(),
            staging: Staging::default(),
            progress: Progress::default(),
            last_id: MessageId(0),
            next_sequence: restored.next_sequence,
            started: now.wall,
            disk: (u64::MAX, 0),
            failed: None,
        };
        for outcome in restored.outcomes.into_iter().flatten() {
            outbox.restore_outcome(outcome);
        }
        outbox.outcomes.sort();
        for (queued, principal) in restored.messages.drain() {
            outbox.restore_message(now, &queued, &principal, stats);
        }
        outbox.drop_surplus(stats);
        outbox
    }

    fn restore_outcome(&mut self, outcome: KeptOutcome) {
        self.last_id = self.last_id.max(outcome.id);
        if let Some(known) = outcome.known {
            self.idempotency.insert(known, outcome.id);
        }
        self.outcomes.restore(outcome);
    }

    fn restore_message(&mut self, now: Time, queued: &Queued, principal: &Arc<str>, stats: &mut OutboxStats) {
        let more = queued.more.as_deref();
        let batch = queued.optimistic().and_then(|value| value.batch);
        self.last_id = self.last_id.max(queued.id).max(batch.map_or(queued.id, last_of_batch));
        self.next_sequence = self.next_sequence.max(queued.sequence.saturating_add(1));
        self.hold(queued.id, Pending::queued(queued), principal, more.and_then(|more| more.known));
        stats.restored += 1;
        self.begin(queued.id, more.and_then(|more| more.order), stats);
        let over = match queued.on_unknown {
            OnUnknown::DeadLetter => (queued.attempts() > 0).then_some(OUTCOME_UNKNOWN),
            OnUnknown::Retry => (queued.attempts() >= self.config.max_attempts).then_some(MAX_ATTEMPTS),
        };
        if let Some(reason) = over {
            self.end(now, queued.id, Outcome::failed(OutcomeState::DeadLettered, reason));
        }
    }

    /// Other limits. They hold for what is accepted from now on and for attempts that begin from now on.
    pub fn reload(&mut self, config: &OutboxConfig) {
        self.config = config.clone();
    }

    /// How many bytes are free on the file system under the store, and how many its files take.
    pub fn disk(&mut self, free: u64, used: u64) {
        self.disk = (free, used);
    }

    /// Why the store failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Messages in flight to upstream.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many may be.
    pub fn window(&self) -> usize {
        self.window.size(self.config.window)
    }

    /// Whether everything that was decided is durable, or never will be.
    pub fn is_settled(&self) -> bool {
        self.failed.is_some() || (self.staging.is_empty() && self.shelf.is_idle())
    }

    /// When [`Outbox::timeout`] is due.
    pub fn due(&self) -> Option<Mono> {
        if self.failed.is_some() {
            return None;
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().filter(|_| !self.shelf.is_behind());
        let expiry = expiry.map(|((at, _), ())| self.clock.due(*at));
        let outcome = self.outcomes.due(self.config.keep_outcomes, &self.clock);
        [timer, expiry, outcome].into_iter().flatten().min()
    }

    /// Brings those gauges up to date that are counted only when somebody looks.
    pub fn gauges(&self, stats: &mut OutboxStats) {
        stats.bytes = self.bytes;
        stats.in_flight = u64::try_from(self.in_flight.len()).unwrap_or(u64::MAX);
        stats.window = u64::try_from(self.window()).unwrap_or(u64::MAX);
        stats.max_messages = u64::try_from(self.config.max_messages).unwrap_or(u64::MAX);
        stats.max_bytes = self.config.max_bytes;
        stats.outcomes_kept = u64::try_from(self.outcomes.len()).unwrap_or(u64::MAX);
        stats.dead_letters = u64::try_from(self.outcomes.letter_count()).unwrap_or(u64::MAX);
        let (held, held_bytes) = self.shelf.held();
        (stats.in_memory, stats.in_memory_bytes) = (u64::try_from(held).unwrap_or(u64::MAX), held_bytes);
        stats.clock_jumps = self.clock.jumps();
        for lane in Lane::ALL {
            stats.lane(lane).oldest = self.messages.oldest(lane);
        }
    }

    /// Puts the message where its phase belongs: into its lane or out of it.
    fn place(&mut self, id: MessageId) {
        let Some(pending) = self.messages.get(id) else { return };
        match (pending.order, pending.phase()) {
            (Some(key), _) => self.place_key(key),
            (None, Phase::Waiting) => self.lanes.insert(Row { lane: pending.lane, tried: pending.was_tried() }, id),
            (None, _) => self.lanes.remove(pending.lane, id),
        }
    }

    /// The same for the oldest message of an order key, whose lane is the key's.
    fn place_key(&mut self, key: NonZeroU64) {
        let Some(head) = self.keys.head(key) else { return };
        let waiting = self.messages.get(head).filter(|pending| *pending.phase() == Phase::Waiting);
        let row = waiting.map(|pending| Row { lane: self.keys.lane(key), tried: pending.was_tried() });
        if let Some(before) = self.keys.place(key, row.map(|row| row.lane)) {
            self.lanes.remove(before, head);
        }
        if let Some(row) = row {
            self.lanes.insert(row, head);
        }
    }
}
