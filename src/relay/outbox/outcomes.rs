//! How messages ended: kept for their publishers and so that a repeated publish finds the first one; dead letters, until
//! somebody publishes them again or purges them.
//!
//! Invariants: at most `keep` outcomes are kept, dead letters aside, which have limits of their own. An outcome with an
//! idempotency key is never dropped before its time, so messages with keys are admitted only as far as there is room for
//! their outcomes ([`Outcomes::has_room_for_key`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use crate::relay::record::{MessageId, StoredMessage, StoredOutcome};
use crate::relay::time::{Mono, Wall};

/// The outcomes that are kept.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    kept: BTreeMap<MessageId, Arc<StoredOutcome>>,
    /// In the order in which they ended: with a key, and without.
    keyed: VecDeque<(Wall, MessageId)>,
    plain: VecDeque<(Wall, MessageId)>,
    /// Dead letters, in the order in which they ended.
    letters: BTreeSet<(Wall, MessageId)>,
    /// Bytes of their payloads.
    letter_bytes: usize,
}

/// The message of a dead letter that can be published again.
pub(super) fn letter(outcome: &StoredOutcome) -> Option<&Arc<StoredMessage>> {
    outcome.letter.as_ref()?.message.as_ref()
}

impl Outcomes {
    pub(super) fn get(&self, id: MessageId) -> Option<&Arc<StoredOutcome>> {
        self.kept.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn insert(&mut self, outcome: Arc<StoredOutcome>) {
        let id = outcome.id;
        if let Some(message) = letter(&outcome) {
            self.letters.insert((outcome.ended, id));
            self.letter_bytes += message.data.len();
        } else {
            let redriven = outcome.letter.as_ref().and_then(|letter| letter.redriven);
            let order = if outcome.idempotency_key.is_some() { &mut self.keyed } else { &mut self.plain };
            order.push_back((redriven.map_or(outcome.ended, |(_, at)| at), id));
        }
        self.kept.insert(id, outcome);
    }

    /// Dead letters after this one, oldest first.
    pub(super) fn letters(&self, after: Option<MessageId>) -> impl Iterator<Item = &Arc<StoredOutcome>> {
        let after = after.and_then(|id| Some((self.kept.get(&id)?.ended, id)));
        let first = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.letters.range((first, std::ops::Bound::Unbounded));
        range.filter_map(|(_, id)| self.kept.get(id))
    }

    /// How many dead letters there are.
    pub(super) fn letter_count(&self) -> usize {
        self.letters.len()
    }

    /// Takes out a dead letter.
    pub(super) fn take_letter(&mut self, id: MessageId) -> Option<Arc<StoredOutcome>> {
        let bytes = letter(self.kept.get(&id)?)?.data.len();
        let outcome = self.kept.remove(&id)?;
        self.letters.remove(&(outcome.ended, id));
        self.letter_bytes -= bytes;
        Some(outcome)
    }

    /// Takes out the oldest dead letter if there are more than `most`, or more than `bytes`.
    pub(super) fn drop_letter(&mut self, most: usize, bytes: usize) -> Option<Arc<StoredOutcome>> {
        let (_, oldest) = *self.letters.first()?;
        let over = self.letters.len() > most || self.letter_bytes > bytes;
        over.then(|| self.take_letter(oldest)).flatten()
    }

    /// Whether one more message with a key may be admitted while `pending` of them have not ended.
    pub(super) fn has_room_for_key(&self, pending: usize, keep: usize) -> bool {
        self.keyed.len() + pending < keep
    }

    /// Drops the oldest outcome without a key if more than `keep` are kept.
    pub(super) fn drop_surplus(&mut self, keep: usize) -> Option<Arc<StoredOutcome>> {
        if self.kept.len() - self.letters.len() <= keep {
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
