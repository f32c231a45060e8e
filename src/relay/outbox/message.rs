//! One message of the outbox between its acceptance and its end, and the table of them.
//!
//! Invariant: ids rise with acceptance, so a table's order is the order of acceptance.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Confirm, Lane, OnUnknown};
use crate::relay::pairs::SessionId;
use crate::relay::record::{Failure, MessageId, StoredMessage, StoredOutcome};
use crate::relay::time::{Mono, Wall};

/// Sessions that are told how a message ended; of more (repeated publishes by ever new sessions) the first are forgotten and
/// can still ask.
const PUBLISHERS_MAX: usize = 8;

/// Failed tries that are remembered of a message: the last ones.
const HISTORY_MAX: usize = 10;

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its acceptance is not durable yet.
    Accepting,
    /// It may leave when its turn comes: in its lane, or behind others of its order key.
    Waiting,
    /// An attempt left.
    Sent {
        /// When upstream's answer is overdue; `None` where the carrier's answer is all there will be.
        deadline: Option<Mono>,
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
    pub(super) message: Arc<StoredMessage>,
    /// Attempts that left, by this process or committed by an earlier one.
    pub(super) attempts: u32,
    /// Attempts that the store knows of.
    pub(super) committed: u32,
    /// Answers that the store still owes about `committed`.
    pub(super) preparing: u32,
    /// Tries that failed, those included that did not get as far as leaving.
    pub(super) failures: u32,
    /// Whether nobody knows what became of an attempt.
    pub(super) unknown: bool,
    /// Why the last tries failed.
    pub(super) history: Vec<Failure>,
    pub(super) phase: Phase,
    /// How it ends, once that is decided.
    pub(super) outcome: Option<Arc<StoredOutcome>>,
    /// Whom to tell.
    pub(super) publishers: Vec<SessionId>,
}

impl Pending {
    pub(super) fn new(message: Arc<StoredMessage>, phase: Phase) -> Self {
        Pending {
            message,
            attempts: 0,
            committed: 0,
            preparing: 0,
            failures: 0,
            unknown: false,
            history: Vec::new(),
            phase,
            outcome: None,
            publishers: Vec::new(),
        }
    }

    /// Whether the next attempt has to be durable before it leaves, and is not yet.
    pub(super) fn needs_commit(&self) -> bool {
        self.message.on_unknown == OnUnknown::DeadLetter && self.committed <= self.attempts
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.phase, Phase::Sent { .. })
    }

    /// Remembers why a try failed.
    pub(super) fn blame(&mut self, at: Wall, reason: &str) {
        if self.history.len() == HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(Failure { at, reason: reason.into() });
    }

    /// Remembers a session that is told the end.
    pub(super) fn tell(&mut self, session: SessionId) {
        if self.publishers.contains(&session) {
            return;
        }
        if self.publishers.len() == PUBLISHERS_MAX {
            self.publishers.remove(0);
        }
        self.publishers.push(session);
    }
}

/// All messages that have not ended: one table per lane, so that the oldest of each is at hand.
#[derive(Debug, Default)]
pub(super) struct Messages([BTreeMap<MessageId, Pending>; Lane::COUNT]);

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Pending> {
        self.0.iter().find_map(|lane| lane.get(&id))
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Pending> {
        self.0.iter_mut().find_map(|lane| lane.get_mut(&id))
    }

    pub(super) fn insert(&mut self, pending: Pending) {
        self.0[pending.message.lane.index()].insert(pending.message.id, pending);
    }

    pub(super) fn remove(&mut self, id: MessageId) -> Option<Pending> {
        self.0.iter_mut().find_map(|lane| lane.remove(&id))
    }

    /// When the oldest accepted message of a lane was accepted. What is being accepted is younger than all others.
    pub(super) fn oldest(&self, lane: Lane) -> Option<Wall> {
        let first = self.0[lane.index()].values().next()?;
        (first.phase != Phase::Accepting).then_some(first.message.accepted)
    }

    /// The messages of a lane in the order of acceptance.
    pub(super) fn of_lane(&self, lane: Lane) -> impl Iterator<Item = &Pending> {
        self.0[lane.index()].values()
    }
}
