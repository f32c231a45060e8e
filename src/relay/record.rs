//! What is kept on disk, as plain data: the outbox, and what is spent of upstream's limits. `store/` turns it into
//! bytes; nothing here knows how.

mod backlog;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

pub use backlog::{Backlog, More, Queued};

use super::outbox::{Lane, OnUnknown, Outcome, OutcomeState};
use super::rng::Rng;
use super::stats::Cost;
use super::time::{Time, Wall};
use crate::protocol::request::ChannelRequest;

/// The id of an outbound message: a ULID, shown as 26 characters of Crockford's base 32.
/// Aligned to 8 bytes instead of 16: there may be millions of them, beside numbers of 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct MessageId(pub u128);

impl MessageId {
    /// Bits of chance, behind those of the time.
    pub const RANDOM_BITS: u32 = 80;

    /// Reads the 26-character form.
    pub fn parse(text: &str) -> Option<Self> {
        ulid::Ulid::from_string(text).ok().map(|id| MessageId(id.0))
    }

    /// One for a message that is never stored: of the time 0, so that it is none that is.
    pub fn volatile(rng: &mut Rng) -> Self {
        MessageId(rng.next_u128() >> (128 - Self::RANDOM_BITS))
    }

    /// Whether it is of a message that is never stored.
    pub fn is_volatile(self) -> bool {
        self.0 >> Self::RANDOM_BITS == 0
    }

    /// When it was given, to the millisecond.
    pub fn time(self) -> Wall {
        Wall(ulid::Ulid(self.0).timestamp_ms().saturating_mul(1_000_000))
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut buffer = [0; ulid::ULID_LEN];
        f.write_str(ulid::Ulid(self.0).array_to_str(&mut buffer))
    }
}

/// One accepted message, all that is needed to send it after a restart. Immutable once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its id.
    pub id: MessageId,
    /// Its place in the order of acceptance; rises by one, never reused.
    pub sequence: u64,
    /// When it was accepted.
    pub accepted: Wall,
    /// The name of the principal that published it.
    pub principal: Arc<str>,
    /// Where to: upstream's channel and its params, as the configuration maps them.
    pub channel: ChannelRequest,
    /// The item within the channel.
    pub key: Option<Box<str>>,
    /// The message's type.
    pub kind: Option<Box<str>>,
    /// The payload's JSON text.
    pub data: Box<str>,
    /// The publisher's idempotency key.
    pub idempotency_key: Option<Box<str>>,
    /// SHA-256 over the message as published (channel, key, type, data, order key), for `conflict`.
    pub body_hash: [u8; 32],
    /// One after another among equals.
    pub order_key: Option<Box<str>>,
    /// How urgent.
    pub lane: Lane,
    /// When it expires unless an attempt began.
    pub expires: Option<Wall>,
    /// What a lost connection between sending and ack means.
    pub on_unknown: OnUnknown,
    /// The dead letter that was published again as this message.
    pub redrive_of: Option<MessageId>,
    /// What it will make of a channel.
    pub optimistic: Option<Arc<Provisional>>,
}

/// A value that is laid over a channel until its message has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisional {
    /// The local channel, as it is carried.
    pub channel: Box<str>,
    /// The item within it.
    pub key: Option<Box<str>>,
    /// The value's JSON text.
    pub value: Box<str>,
    /// What it has in common with those of the same atomic batch.
    pub batch: Option<MessageId>,
}

/// An order key, as digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Of the key.
    pub key: NonZeroU64,
    /// Of what a later message must have in common with this one to replace it: principal, channel, params, key.
    pub target: u64,
}

/// An idempotency key with its principal, and the body that was published with it; both as digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Of principal and key.
    pub key: [u64; 2],
    /// The start of the body's hash.
    pub body: u64,
}

/// How a message ended: kept `outbox.keep_outcomes` for its publisher and for idempotency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutcome {
    /// The message's id.
    pub id: MessageId,
    /// When it ended.
    pub ended: Wall,
    /// The name of the principal that published it.
    pub principal: Arc<str>,
    /// How.
    pub outcome: Outcome,
    /// Attempts made.
    pub attempts: u32,
    /// For idempotency: the publisher's key.
    pub idempotency_key: Option<Box<str>>,
    /// For `conflict`.
    pub body_hash: [u8; 32],
    /// What is kept of a dead-lettered message beyond its outcome.
    pub letter: Option<Box<Letter>>,
}

/// A dead letter: kept until somebody publishes it again or purges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The message as it was; `None` once it was published again, or dropped for `outbox.max_dead_letters`.
    pub message: Option<Arc<StoredMessage>>,
    /// Why its last tries failed, oldest first.
    pub history: Vec<Failure>,
    /// The message that it was published again as, and when.
    pub redriven: Option<(MessageId, Wall)>,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Wall,
    /// Why, in a few words.
    pub reason: Box<str>,
}

/// What is kept in memory of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOutcome {
    /// The message's id.
    pub id: MessageId,
    /// When the time began that it is kept.
    pub since: Wall,
    /// How the message ended.
    pub state: OutcomeState,
    /// Its idempotency key, if it has one.
    pub known: Option<Known>,
    /// All of it, if it is a dead letter.
    pub letter: Option<Arc<StoredOutcome>>,
}

/// One record to be read from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A message, by its place in the order of acceptance.
    Message(u64),
    /// The outcome of a message.
    Outcome(MessageId),
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// A message.
    Message(Arc<StoredMessage>),
    /// An outcome.
    Outcome(Arc<StoredOutcome>),
}

impl Stored {
    /// Of which message it is.
    pub fn id(&self) -> MessageId {
        match self {
            Stored::Message(message) => message.id,
            Stored::Outcome(outcome) => outcome.id,
        }
    }
}

/// One change of the store. A commit is a list of them, durable all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A message was accepted.
    Accept(Arc<StoredMessage>),
    /// An attempt is about to leave (only where `on_unknown` is `dead_letter`); or one that was about to did not, and the
    /// number goes back.
    Attempt {
        /// Which message, by its place in the order.
        sequence: u64,
        /// How many attempts that makes.
        attempts: u32,
    },
    /// A message ended: its outcome takes its place.
    Settle {
        /// Which message, by its place in the order.
        sequence: u64,
        /// How it ended.
        outcome: Arc<StoredOutcome>,
    },
    /// A dead letter was published again, or dropped: what is known of its outcome takes the place of what was.
    Amend {
        /// The outcome, whose `outcome` is what it was.
        outcome: Arc<StoredOutcome>,
    },
    /// An outcome's time is over, or a dead letter is purged.
    Forget {
        /// Which.
        id: MessageId,
    },
    /// What is spent of upstream's limits takes the place of what was known of it.
    Tally(Arc<StoredTally>),
}

/// What is spent of upstream's limits, counted so that it can be gone on with after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredTally {
    /// Of which service: a digest.
    pub service: u64,
    /// When it was so.
    pub at: Time,
    /// Thousandths of a token that the bucket of connects lacked.
    pub connects: u64,
    /// The same of the bucket of frames, with what may have left before the next record.
    pub frames: u64,
    /// How long no connection was to be begun from then on, as upstream asked.
    pub connects_held: Duration,
    /// How long nothing was to leave from then on.
    pub frames_held: Duration,
    /// What was spent of `[budget]` over all principals.
    pub costs: Vec<StoredCost>,
}

/// How often something was asked of upstream in a part of an hour or of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCost {
    /// What.
    pub cost: Cost,
    /// Counted for the day, else for the hour.
    pub of_day: bool,
    /// How long before the record that part began.
    pub age: Duration,
    /// How often.
    pub count: u32,
}

/// What the store knows about limits at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KeptTally {
    /// The store is new: nothing was ever sent.
    #[default]
    New,
    /// Nothing was counted that had to be kept.
    Absent,
    /// It cannot be read.
    Damaged,
    /// This.
    Found {
        /// The last record.
        tally: Arc<StoredTally>,
        /// The system runs since then, and its monotonic clock with it.
        same_boot: bool,
    },
}

/// What the store held at start.
#[derive(Debug, Default)]
pub struct Restored {
    /// Undelivered messages.
    pub messages: Backlog,
    /// Outcomes still kept, in parts, so that the memory of what was taken over is free again.
    pub outcomes: Vec<Vec<KeptOutcome>>,
    /// The sequence that the next accepted message gets.
    pub next_sequence: u64,
    /// Messages and outcomes that were durable once and are not there any more.
    pub lost: u64,
    /// What was found damaged or missing, in words for people; empty when all is whole.
    pub losses: Vec<String>,
    /// What is spent of upstream's limits.
    pub tally: KeptTally,
}
