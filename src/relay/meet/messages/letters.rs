//! Dead letters, for operators: shown, published again (as they were or edited), purged.
//!
//! What is published again goes where the message went: channels are upstream's own names here, not local ones. Access was
//! checked when the message was accepted; an operator may change it as they like.

use bytes::Bytes;
use serde_json::json;

use crate::dialect::{MessageSpec, SendError};
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::parse::{RequestLimits, parse_publish};
use crate::protocol::request::{Publish, edit};
use crate::relay::Relay;
use crate::relay::naming;
use crate::relay::outbox::{Refusal, as_publish};
use crate::relay::pairs::{CallId, Reply};
use crate::relay::record::{MessageId, StoredMessage};
use crate::relay::time::Time;

use super::publishing::problem;
use super::reading::Look;

/// Dead letters on one page, and of one request that is about all of them.
const PAGE: usize = 100;
/// Dead letters that one request publishes again or purges.
const AT_ONCE: usize = 1_000;

/// What an operator wants of one dead letter.
pub(in crate::relay) enum LetterCall {
    /// To see it.
    Show,
    /// To publish it again.
    Redrive {
        /// Members that are to be others, as a JSON object; empty: none.
        edit: Box<str>,
    },
}

impl Relay {
    pub(in crate::relay) fn list_letters(&mut self, call: CallId, after: Option<&str>) {
        let after_id = after.and_then(MessageId::parse);
        if after.is_some() && after_id.is_none() {
            return self.answer(call, problem(&Refusal::new(ErrorCode::Invalid, "`after` is no message's id")));
        }
        if after_id.is_some_and(|id| !self.outbox.is_place_among_letters(id)) {
            let words = "`after` is no dead letter any more: list from the beginning";
            return self.answer(call, problem(&Refusal::new(ErrorCode::NotFound, words)));
        }
        let body = Bytes::from(self.outbox.letters_listing(after_id, PAGE));
        self.answer(call, Reply::Json { status: 200, body, location: None });
    }

    /// About one of them; what was published again is not in memory any more.
    pub(in crate::relay) fn one_letter(&mut self, now: Time, call: CallId, id: &str, wish: LetterCall) {
        match MessageId::parse(id) {
            Some(id) if !self.outbox.is_at_hand(id) => self.look_later(id, Look::Letter(call, wish)),
            Some(id) => self.about_letter(now, call, id, &wish),
            None => self.answer(call, problem(&not_found())),
        }
    }

    pub(in crate::relay) fn about_letter(&mut self, now: Time, call: CallId, id: MessageId, wish: &LetterCall) {
        let reply = match wish {
            LetterCall::Show => self.letter_shown(id),
            LetterCall::Redrive { edit } => self.letter_redriven(now, id, edit),
        };
        self.answer(call, reply.unwrap_or_else(|refusal| problem(&refusal)));
    }

    fn letter_shown(&self, id: MessageId) -> Result<Reply, Refusal> {
        let shown = self.outbox.letter_shown(id, |params| naming::shown(params, self.dialect.secret_params()));
        let body = Bytes::from(shown.ok_or_else(not_found)?);
        Ok(Reply::Json { status: 200, body, location: None })
    }

    fn letter_redriven(&mut self, now: Time, id: MessageId, edit: &str) -> Result<Reply, Refusal> {
        let new = self.redrive(now, id, edit)?;
        let body = json!({"message": new.to_string(), "redrive_of": id.to_string()});
        let location = Some(format!("/v1/messages/{new}"));
        Ok(Reply::Json { status: 202, body: Bytes::from(body.to_string()), location })
    }

    /// All of them, oldest first, up to [`AT_ONCE`] or until one is refused.
    pub(in crate::relay) fn redrive_letters(&mut self, now: Time, call: CallId, changes: &str) {
        if !edit::is_nothing(changes) {
            let words = "an edit is of one dead letter: name it, or send no body";
            return self.answer(call, problem(&Refusal::new(ErrorCode::Invalid, words)));
        }
        let mut redriven = Vec::new();
        let mut refused = None;
        for id in self.outbox.letters(None, AT_ONCE) {
            match self.redrive(now, id, "") {
                Ok(new) => redriven.push(json!({"message": new.to_string(), "redrive_of": id.to_string()})),
                Err(refusal) => {
                    refused = Some(json!({
                        "dead_letter": id.to_string(), "code": refusal.code.text(), "detail": refusal.message,
                    }));
                    break;
                }
            }
        }
        let body = json!({"redriven": redriven, "refused": refused, "left": self.outbox.letter_count()});
        self.answer_json(call, 202, &body);
    }

    pub(in crate::relay) fn purge_letters(&mut self, call: CallId, id: Option<&str>) {
        let ids = match id.map(MessageId::parse) {
            None => self.outbox.letters(None, AT_ONCE),
            Some(Some(id)) => vec![id],
            Some(None) => return self.answer(call, problem(&not_found())),
        };
        let mut purged = 0;
        for id in ids {
            match self.outbox.purge(id) {
                Ok(()) => purged += 1,
                Err(refusal) => return self.answer(call, problem(&refusal)),
            }
        }
        self.answer_json(call, 200, &json!({"purged": purged, "left": self.outbox.letter_count()}));
    }

    fn redrive(&mut self, now: Time, id: MessageId, edit: &str) -> Result<MessageId, Refusal> {
        if self.draining.is_draining() {
            return Err(Refusal::new(ErrorCode::Draining, "the relay is stopping: publish again in a moment"));
        }
        let letter = self.outbox.letter(id)?;
        let publish = self.edited(&letter, edit)?;
        let spec = MessageSpec {
            id: MessageId(0),
            channel: &publish.channel.name,
            params: naming::whole(
                &self.config,
                self.dialect.secret_params(),
                &publish.channel.name,
                publish.channel.params.as_deref(),
            ),
            key: publish.key.as_deref(),
            kind: publish.kind.as_deref(),
            data: &publish.data,
            idempotency_key: None,
        };
        match self.outbound.checker.check_publish(&spec) {
            Ok(()) | Err(SendError::NotJoined) => {}
            Err(error) => return Err(self.unpublishable(error)),
        }
        self.outbox.redrive(now, id, publish, &mut self.rng, &mut self.stats.outbox)
    }

    /// The message as a publish, with other members where the edit names them. Payload bytes stay as they are.
    fn edited(&self, message: &StoredMessage, changes: &str) -> Result<Publish, Refusal> {
        let invalid = |why: String| Refusal::new(ErrorCode::Invalid, why);
        let before = String::from_utf8(as_publish(message, message.channel.params.as_deref()))
            .map_err(|error| invalid(error.to_string()))?;
        let text = edit::edited(&before, changes).map_err(invalid)?;
        // What was accepted once is not refused for its size now, unless by `outbox.message_max`.
        let limits = RequestLimits { request_max: usize::MAX, ..RequestLimits::new(&self.config) };
        let (mut messages, _) =
            parse_publish(&text, None, &limits).map_err(|bad| Refusal::new(bad.code, bad.message))?;
        messages.pop().ok_or_else(|| invalid("the edit leaves no message".to_owned()))
    }
}

fn not_found() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no such dead letter")
}
