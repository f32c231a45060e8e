//! The modelled disk: a commit is atomic and durable once answered; a crash before the answer, or after the answer that it failed,
//! keeps it or loses it whole. What else a cut leaves of files is `tests/durability/cut.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate::relay::record::{
    Backlog, KeptOutcome, KeptTally, MessageId, Operation, Restored, Stored, StoredMessage, StoredOutcome, Wanted,
};

#[derive(Default)]
pub struct Disk {
    messages: BTreeMap<u64, (Arc<StoredMessage>, u32)>,
    outcomes: BTreeMap<MessageId, Arc<StoredOutcome>>,
    next_sequence: u64,
    /// The system does not stop: its monotonic clock goes on over every crash.
    tally: KeptTally,
    /// It was opened before.
    used: bool,
    /// Handed over, not answered.
    pub in_flight: Option<Vec<Operation>>,
    /// Every later commit fails.
    pub dead: bool,
    /// The first one that failed: written or not, nobody knows before a restart. Those after it were not tried.
    pub unsure: Option<Vec<Operation>>,
    /// All that it ever said it had, or that it held when the relay began.
    ever: BTreeSet<MessageId>,
}

impl Disk {
    pub fn apply(&mut self, operations: &[Operation]) {
        self.answered(operations);
        for operation in operations {
            match operation {
                Operation::Accept(message) => {
                    self.next_sequence = self.next_sequence.max(message.sequence + 1);
                    self.messages.insert(message.sequence, (Arc::clone(message), 0));
                }
                Operation::Attempt { sequence, attempts } => {
                    if let Some((_, made)) = self.messages.get_mut(sequence) {
                        *made = *attempts;
                    }
                }
                Operation::Settle { sequence, outcome } => {
                    self.messages.remove(sequence);
                    self.outcomes.insert(outcome.id, Arc::clone(outcome));
                }
                Operation::Amend { outcome } => {
                    self.outcomes.insert(outcome.id, Arc::clone(outcome));
                }
                Operation::Forget { id } => {
                    self.outcomes.remove(id);
                }
                Operation::Tally(tally) => {
                    self.tally = KeptTally::Found { tally: Arc::clone(tally), same_boot: true };
                }
            }
        }
    }

    /// The relay hears that these are durable.
    pub fn answered(&mut self, operations: &[Operation]) {
        self.ever.extend(operations.iter().filter_map(|operation| match operation {
            Operation::Accept(message) => Some(message.id),
            _ => None,
        }));
    }

    /// An idempotency key that several messages have.
    pub fn doubled(&self) -> Option<&str> {
        let waiting = self.messages.values().filter_map(|(message, _)| message.idempotency_key.as_deref());
        let ended = self.outcomes.values().filter_map(|outcome| outcome.idempotency_key.as_deref());
        let mut seen = BTreeSet::new();
        waiting.chain(ended).find(|key| !seen.insert(*key))
    }

    pub fn holds(&self, id: MessageId) -> bool {
        self.outcomes.contains_key(&id) || self.messages.values().any(|(message, _)| message.id == id)
    }

    /// Whether it ever vouched for this message, which may have ended and been forgotten since.
    pub fn vouched(&self, id: MessageId) -> bool {
        self.ever.contains(&id)
    }

    /// These records; `None` if one of them is not there.
    pub fn load(&self, wanted: &[Wanted]) -> Option<Vec<Stored>> {
        let read = |wanted: &Wanted| match wanted {
            Wanted::Message(sequence) => {
                self.messages.get(sequence).map(|(message, _)| Stored::Message(Arc::clone(message)))
            }
            Wanted::Outcome(id) => self.outcomes.get(id).map(|outcome| Stored::Outcome(Arc::clone(outcome))),
        };
        wanted.iter().map(read).collect()
    }

    pub fn pending(&self) -> usize {
        self.messages.len()
    }

    pub fn forget_tally(&mut self) {
        (self.tally, self.used) = (KeptTally::New, false);
    }

    pub fn restore(&mut self) -> Restored {
        self.dead = false;
        if self.tally == KeptTally::New {
            self.tally = if self.used { KeptTally::Absent } else { KeptTally::New };
        }
        self.used = true;
        let mut messages = Backlog::default();
        self.messages.values().for_each(|(message, attempts)| messages.add(message, *attempts));
        Restored {
            messages,
            outcomes: vec![self.outcomes.values().map(KeptOutcome::of).collect()],
            next_sequence: self.next_sequence,
            tally: self.tally.clone(),
            ..Restored::default()
        }
    }
}
