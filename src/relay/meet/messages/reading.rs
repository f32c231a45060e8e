//! Messages that wait on disk are read: because their turn is near, and because somebody asks about one.
//!
//! Invariant: whoever asked is answered when the message was read, or when the store fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::codes::ErrorCode;
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::outbox::Refusal;
use crate::relay::pairs::CallId;
use crate::relay::record::{MessageId, StoredMessage};
use crate::relay::time::Time;

use super::publishing::problem;
use super::waiting::Asker;

/// Questions that wait for the disk at most; more are refused.
const LOOKS_MAX: usize = 1_024;

/// What somebody wants of a message that is on disk.
pub(in crate::relay) enum Look {
    /// Its state.
    State(CallId),
    /// To withdraw it.
    Cancel(Asker),
}

/// Who waits for which message to be read.
#[derive(Default)]
pub(in crate::relay) struct Reading {
    looks: BTreeMap<MessageId, Vec<(Look, Arc<Principal>)>>,
    count: usize,
}

impl Relay {
    /// Answers once the message was read.
    pub(in crate::relay) fn look_later(&mut self, id: MessageId, look: Look, principal: &Arc<Principal>) {
        if let Some(reason) = self.outbox.failure() {
            let refusal = Refusal::store_failed(reason);
            return self.answer_look(look, &refusal);
        }
        if self.outbound.reading.count >= LOOKS_MAX {
            let words = "too many questions about messages wait for the disk: ask again in a moment";
            return self.answer_look(look, &Refusal::new(ErrorCode::LimitExceeded, words));
        }
        self.outbound.reading.count += 1;
        self.outbound.reading.looks.entry(id).or_default().push((look, Arc::clone(principal)));
        self.outbox.fetch(id);
    }

    /// The store's answer: these messages, whole.
    pub(in crate::relay) fn loaded(&mut self, now: Time, messages: Vec<Arc<StoredMessage>>) {
        let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
        self.outbox.loaded(messages);
        for id in ids {
            for (look, principal) in self.outbound.reading.looks.remove(&id).unwrap_or_default() {
                self.outbound.reading.count -= 1;
                match look {
                    Look::State(call) => {
                        let reply = self.state_reply(now, &principal.name, id);
                        self.answer(call, reply);
                    }
                    Look::Cancel(asker) => self.cancel_known(now, asker, &principal, id),
                }
            }
        }
    }

    /// Nothing will be read any more.
    pub(in crate::relay) fn nothing_is_read(&mut self, reason: &str) {
        let reading = std::mem::take(&mut self.outbound.reading);
        for (look, _) in reading.looks.into_values().flatten() {
            self.answer_look(look, &Refusal::store_failed(reason));
        }
    }

    fn answer_look(&mut self, look: Look, refusal: &Refusal) {
        match look {
            Look::State(call) => self.answer(call, problem(refusal)),
            Look::Cancel(asker) => self.answer_uncancelled(asker, refusal),
        }
    }
}
