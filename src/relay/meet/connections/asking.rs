//! Polls and posts meet the connection that they belong to.

use std::time::Duration;

use crate::dialect::{Answer, AskFor, Outgoing};
use crate::relay::Relay;
use crate::relay::attempt::Ending;
use crate::relay::pairs::{AttemptId, Disconnect};
use crate::relay::time::Time;

impl Relay {
    /// The next poll, if it is time.
    pub(in crate::relay) fn next_poll(&mut self, now: Time, id: AttemptId) -> Option<Outgoing> {
        let attempt = self.attempts.get_mut(id).filter(|attempt| !attempt.polled.is_pausing())?;
        match attempt.conversation.as_mut()?.poll(now)? {
            Ok(poll) => Some(poll),
            Err(error) => {
                self.end_attempt(id, Ending::Unbuildable(error.to_string()));
                self.settle(now, id);
                None
            }
        }
    }

    /// A poll is answered: if it is not refused, polls get through. Or a request by POST is: the next one may leave, and packets
    /// that upstream took are written.
    pub(in crate::relay) fn answered(&mut self, now: Time, attempt: AttemptId, answer: &Answer) {
        if answer.of == AskFor::Poll {
            let conversation = self.attempts.get(attempt).and_then(|polls| polls.conversation.as_ref());
            if conversation.is_some_and(|conversation| conversation.accepts(answer)) {
                self.polls_get_through(now, attempt);
            }
            return;
        }
        let Some(asked) = self.attempts.get_mut(attempt) else { return };
        asked.posting = false;
        if (200..=299).contains(&answer.status) && asked.polled.packets.is_empty() {
            let carried = std::mem::take(&mut asked.polled.carried);
            self.carried_out(now, attempt, carried);
        }
    }

    /// A poll was answered, or is held: if the dialect is ready, that counts from here.
    pub(in crate::relay) fn polls_get_through(&mut self, now: Time, attempt: AttemptId) {
        if let Some(resumed) = self.attempts.get_mut(attempt).and_then(|polls| polls.proof.give()) {
            self.heard_ready(now, attempt, resumed);
        }
    }

    /// A poll was answered with a status that refuses, or (0) not in time: the connection is over.
    pub(in crate::relay) fn poll_failed(
        &mut self,
        attempt: AttemptId,
        status: u16,
        retry_after: Option<Duration>,
        detail: String,
    ) {
        let reason = match status {
            0 => Disconnect::AnswerTimeout,
            _ => Disconnect::BadStatus { status, retry_after, detail },
        };
        self.end_attempt(attempt, Ending::Carrier(reason));
    }
}
