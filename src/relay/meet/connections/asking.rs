//! Polls and posts meet the connection that they belong to.

use std::time::Duration;

use crate::dialect::{AskFor, Outgoing};
use crate::relay::Relay;
use crate::relay::attempt::Ending;
use crate::relay::pairs::{AttemptId, Disconnect};
use crate::relay::time::Time;

impl Relay {
    /// The next poll, if it is time.
    pub(in crate::relay) fn next_poll(&mut self, now: Time, id: AttemptId) -> Option<Outgoing> {
        match self.attempts.get_mut(id)?.conversation.as_mut()?.poll(now)? {
            Ok(poll) => Some(poll),
            Err(error) => {
                self.end_attempt(id, Ending::Unbuildable(error.to_string()));
                self.settle(now, id);
                None
            }
        }
    }

    /// A request by POST is answered: the next one may leave.
    pub(in crate::relay) fn answered(&mut self, attempt: AttemptId, of: AskFor) {
        if let (Some(asked), AskFor::Request(_)) = (self.attempts.get_mut(attempt), of) {
            asked.posting = false;
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
