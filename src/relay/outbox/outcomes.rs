//! How messages ended: kept for their publishers and so that a repeated publish finds the first one.
//!
//! Invariants: at most `keep` outcomes are kept. An outcome with an idempotency key is never dropped before its time, so
//! messages with keys are admitted only as far as there is room for their outcomes ([`Outcomes::has_room_for_key`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use crate::relay::record::{MessageId, StoredOutcome};
use crate::relay::time::{Mono, Wall};

/// The outcomes that are kept.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    kept: BTreeMap<MessageId, Arc<StoredOutcome>>,
    /// In the order in which they ended: with a key, and without.
    keyed: VecDeque<(Wall, MessageId)>,
    plain: VecDeque<(Wall, MessageId)>,
}

impl Outcomes {
    pub(super) fn get(&self, id: MessageId) -> Option<&Arc<StoredOutcome>> {
        self.kept.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn insert(&mut self, outcome: Arc<StoredOutcome>) {
        let order = if outcome.idempotency_key.is_some() { &mut self.keyed } else { &mut self.plain };
        order.push_back((outcome.ended, outcome.id));
        self.kept.insert(outcome.id, outcome);
    }

    /// Whether one more message with a key may be admitted while `pending` of them have not ended.
    pub(super) fn has_room_for_key(&self, pending: usize, keep: usize) -> bool {
        self.keyed.len() + pending < keep
    }

    /// Drops the oldest outcome without a key if more than `keep` are kept.
    pub(super) fn drop_surplus(&mut self, keep: usize) -> Option<Arc<StoredOutcome>> {
        if self.kept.len() <= keep {
            return None;
        }
        let (_, id) = self.plain.pop_front()?;
        self.kept.remove(&id)
    }

    /// Takes out one outcome whose time is over.
    pub(super) fn take_due(&mut self, keep: Duration, clock: &Clock) -> Option<Arc<StoredOutcome>> {
        let order = [&mut self.keyed, &mut self.plain];
        let due =
            |order: &VecDeque<(Wall, MessageId)>| order.front().is_some_and(|(ended, _)| clock.is_past(*ended + keep));
        let (_, id) = order.into_iter().find(|order| due(order))?.pop_front()?;
        self.kept.remove(&id)
    }

    /// When the next outcome's time is over.
    pub(super) fn due(&self, keep: Duration, clock: &Clock) -> Option<Mono> {
        let first = [self.keyed.front(), self.plain.front()].into_iter().flatten().map(|(ended, _)| *ended).min()?;
        Some(clock.due(first + keep))
    }
}
