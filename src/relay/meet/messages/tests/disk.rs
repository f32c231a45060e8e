//! What a store would hold.

use std::sync::Arc;

use crate::relay::record::{MessageId, Operation, Stored, StoredMessage, StoredOutcome, Wanted};

/// All messages that were ever accepted, and how those ended of which that is not forgotten.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) messages: Vec<Arc<StoredMessage>>,
    pub(super) ends: Vec<Arc<StoredOutcome>>,
}

impl Disk {
    pub(super) fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Accept(message) => self.messages.push(message),
            Operation::Settle { outcome, .. } | Operation::Amend { outcome } => {
                self.forget(outcome.id);
                self.ends.push(outcome);
            }
            Operation::Forget { id } => self.forget(id),
            Operation::Attempt { .. } | Operation::Tally(_) => {}
        }
    }

    /// What has not ended, in the order of acceptance.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arc<StoredMessage>> {
        self.messages.iter().filter(|message| self.ends.iter().all(|end| end.id != message.id))
    }

    fn forget(&mut self, id: MessageId) {
        self.ends.retain(|end| end.id != id);
    }

    /// This record, which must be there.
    pub(super) fn read(&self, wanted: Wanted) -> Stored {
        let message = |sequence| self.messages.iter().find(|message| message.sequence == sequence);
        let end = |id| self.ends.iter().find(|end| end.id == id);
        let found = match wanted {
            Wanted::Message(sequence) => message(sequence).map(|message| Stored::Message(Arc::clone(message))),
            Wanted::Outcome(id) => end(id).map(|end| Stored::Outcome(Arc::clone(end))),
        };
        found.expect("only what is there is read")
    }
}
