//! How messages ended, for their publishers and for idempotency.
//!
//! Of each a few numbers are in memory, because there may be a million of them; the rest is on disk and is read when somebody
//! asks. Whole in memory are only the last ones, as many as of messages (`outbox.in_memory`), and dead letters, which have
//! limits of their own.
//!
//! Invariants: at most `keep_outcomes_max` are kept, dead letters aside. An outcome with an idempotency key is never dropped
//! before its time, so messages with keys are admitted only as far as there is room for their outcomes
//! ([`Outcomes::has_room_for_key`]). What is not in memory is on disk as it should be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::OutcomeState;
use super::clock::Clock;
use super::idempotency::{Digest, known};
use super::packed::Packed;
use crate::config::OutboxConfig;
use crate::relay::record::{KeptOutcome, MessageId, StoredMessage, StoredOutcome};
use crate::relay::time::{Mono, Wall};

/// The outcomes that are kept.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    kept: Packed<MessageId, OutcomeState>,
    /// Since when they are kept, in that order: with a key, and without.
    keyed: VecDeque<(Wall, MessageId, Digest)>,
    plain: VecDeque<(Wall, MessageId)>,
    /// Dead letters, in the order in which they ended.
    letters: BTreeSet<(Wall, MessageId)>,
    /// Bytes of their payloads.
    letter_bytes: usize,
    /// Those in memory.
    whole: BTreeMap<MessageId, Arc<StoredOutcome>>,
    /// Which of them may go, the first one first, with their bytes.
    last: VecDeque<(MessageId, u64)>,
    last_bytes: u64,
}

/// An outcome that is kept no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    /// Of which message.
    pub(super) id: MessageId,
    /// Its idempotency key.
    pub(super) key: Option<Digest>,
}

impl KeptOutcome {
    /// What is kept in memory of this outcome.
    pub fn of(outcome: &Arc<StoredOutcome>) -> Self {
        let redriven = outcome.letter.as_ref().and_then(|letter| letter.redriven);
        let key = outcome.idempotency_key.as_ref();
        KeptOutcome {
            id: outcome.id,
            since: redriven.map_or(outcome.ended, |(_, at)| at),
            state: outcome.outcome.state,
            known: key.map(|key| known(&outcome.principal, key, &outcome.body_hash)),
            letter: letter(outcome).is_some().then(|| Arc::clone(outcome)),
        }
    }
}

/// The message of a dead letter that can be published again.
pub(super) fn letter(outcome: &StoredOutcome) -> Option<&Arc<StoredMessage>> {
    outcome.letter.as_ref()?.message.as_ref()
}

/// About how many bytes of memory it takes.
fn bytes_of(outcome: &StoredOutcome) -> u64 {
    let texts = [outcome.outcome.reply.as_deref(), outcome.idempotency_key.as_deref()];
    let history = outcome.letter.iter().flat_map(|letter| &letter.history).map(|failure| failure.reason.len() + 24);
    let texts: usize = texts.into_iter().flatten().map(str::len).sum();
    let bytes = size_of::<StoredOutcome>() + outcome.outcome.reason.len() + texts + history.sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Outcomes {
    /// How the message ended.
    pub(super) fn state(&self, id: MessageId) -> Option<OutcomeState> {
        self.kept.get(id).copied()
    }

    /// The same whole, if it is in memory.
    pub(super) fn get(&self, id: MessageId) -> Option<&Arc<StoredOutcome>> {
        self.whole.get(&id)
    }

    /// Whether it is kept and has to be read first.
    pub(super) fn is_on_disk(&self, id: MessageId) -> bool {
        self.kept.get(id).is_some() && !self.whole.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// What the store holds at start, in any order; [`Outcomes::sort`] ends it.
    pub(super) fn restore(&mut self, outcome: KeptOutcome) {
        self.enter(&outcome);
        if let Some(letter) = outcome.letter {
            self.whole.insert(letter.id, letter);
        }
    }

    /// Puts what was restored in order.
    pub(super) fn sort(&mut self) {
        self.keyed.make_contiguous().sort_unstable();
        self.plain.make_contiguous().sort_unstable();
    }

    /// One that is durable.
    pub(super) fn insert(&mut self, outcome: Arc<StoredOutcome>, config: &OutboxConfig) {
        let id = outcome.id;
        self.insert_undurable(outcome);
        self.remember(id, config);
    }

    /// One that the disk has not yet as it is: held until [`Outcomes::remember`].
    pub(super) fn insert_undurable(&mut self, outcome: Arc<StoredOutcome>) {
        self.enter(&KeptOutcome::of(&outcome));
        self.whole.insert(outcome.id, outcome);
    }

    fn enter(&mut self, outcome: &KeptOutcome) {
        self.kept.insert(outcome.id, outcome.state);
        match (&outcome.letter, outcome.known) {
            (Some(whole), _) => {
                self.letters.insert((whole.ended, whole.id));
                self.letter_bytes += letter(whole).map_or(0, |message| message.data.len());
            }
            (None, Some(known)) => self.keyed.push_back((outcome.since, outcome.id, known.key)),
            (None, None) => self.plain.push_back((outcome.since, outcome.id)),
        }
    }

    /// What was read from the disk.
    pub(super) fn loaded(&mut self, outcome: Arc<StoredOutcome>, config: &OutboxConfig) {
        let id = outcome.id;
        if self.is_on_disk(id) {
            self.whole.insert(id, outcome);
            self.remember(id, config);
        }
    }

    /// One that is on disk is held among the last ones; others go for it.
    pub(super) fn remember(&mut self, id: MessageId, config: &OutboxConfig) {
        let Some(outcome) = self.whole.get(&id).filter(|outcome| letter(outcome).is_none()) else { return };
        let bytes = bytes_of(outcome);
        self.last.push_back((id, bytes));
        self.last_bytes += bytes;
        let over = |last: usize, bytes: u64| last > config.in_memory || bytes > config.in_memory_bytes;
        while over(self.last.len(), self.last_bytes) && self.last.len() > 1 {
            let Some((oldest, bytes)) = self.last.pop_front() else { break };
            self.last_bytes -= bytes;
            self.whole.remove(&oldest);
        }
    }

    /// Dead letters after this one, oldest first.
    pub(super) fn letters(&self, after: Option<MessageId>) -> impl Iterator<Item = &Arc<StoredOutcome>> {
        let after = after.and_then(|id| Some((self.whole.get(&id)?.ended, id)));
        let first = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.letters.range((first, std::ops::Bound::Unbounded));
        range.filter_map(|(_, id)| self.whole.get(id))
    }

    /// How many dead letters there are.
    pub(super) fn letter_count(&self) -> usize {
        self.letters.len()
    }

    /// Takes out a dead letter.
    pub(super) fn take_letter(&mut self, id: MessageId) -> Option<Arc<StoredOutcome>> {
        let bytes = letter(self.whole.get(&id)?)?.data.len();
        let outcome = self.whole.remove(&id)?;
        self.kept.remove(id);
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
    pub(super) fn drop_surplus(&mut self, keep: usize) -> Option<Gone> {
        if self.kept.len() - self.letters.len() <= keep {
            return None;
        }
        let (_, id) = self.plain.pop_front()?;
        Some(self.drop(Gone { id, key: None }))
    }

    /// Takes out one outcome whose time is over.
    pub(super) fn take_due(&mut self, keep: Duration, clock: &Clock) -> Option<Gone> {
        let is_due = |since: Wall| clock.is_past(since + keep);
        if let Some((_, id, key)) = self.keyed.front().copied().filter(|first| is_due(first.0)) {
            self.keyed.pop_front();
            return Some(self.drop(Gone { id, key: Some(key) }));
        }
        let (_, id) = self.plain.front().copied().filter(|first| is_due(first.0))?;
        self.plain.pop_front();
        Some(self.drop(Gone { id, key: None }))
    }

    fn drop(&mut self, gone: Gone) -> Gone {
        self.kept.remove(gone.id);
        self.whole.remove(&gone.id);
        gone
    }

    /// When the next outcome's time is over.
    pub(super) fn due(&self, keep: Duration, clock: &Clock) -> Option<Mono> {
        let (keyed, plain) = (self.keyed.front().map(|first| first.0), self.plain.front().map(|first| first.0));
        Some(clock.due(keyed.into_iter().chain(plain).min()? + keep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_outcome_takes_48_bytes_and_104_with_a_key() {
        let plain = size_of::<(MessageId, OutcomeState)>() + size_of::<(Wall, MessageId)>();
        let keyed = size_of::<(MessageId, OutcomeState)>() + size_of::<(Wall, MessageId, Digest)>();
        assert_eq!((plain, keyed + size_of::<(Digest, (MessageId, u64))>()), (48, 104));
    }
}
