//! Engine.IO over long-polls: one GET is out and brings packets, what we send leaves by POST, both under the session's id.
//! Source: the Engine.IO protocol's page, <https://socket.io/docs/v4/engine-io-protocol/>.
//!
//! Invariant: whatever is refused once the session has begun ends it; another connection begins another one, or recovers it.
//! Deliberately not here: packets (`framing`), and polls of other services (`asking`).

use bytes::Bytes;

use super::Conversation;
use super::asking::{FIRST_PAUSE, HASTY, LAST_PAUSE};
use super::connect::encode;
use crate::dialect::{Answer, Heard, RequestId, WireFrame};
use crate::relay::time::Time;

impl Conversation {
    /// Whether packets are polled for.
    pub(super) fn is_engine_polled(&self) -> bool {
        self.dialect.framing.greets() && self.transport().polls()
    }

    /// The session's address, once it has an id.
    pub(super) fn with_sid(&self, mut url: String) -> String {
        if let Some(sid) = &self.asking.sid {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str("sid=");
            url.push_str(&encode(sid));
        }
        url
    }

    /// A packet as it leaves: by itself, or by POST.
    pub(super) fn packet(&self, id: RequestId, text: String) -> WireFrame {
        match self.address() {
            Ok(address) if self.is_engine_polled() => self.post(self.with_sid(address.url), false, id, text),
            _ => WireFrame::Text(Bytes::from(text)),
        }
    }

    /// A poll for packets was answered: the next one leaves at once, unless upstream answers without having anything.
    pub(super) fn packets_polled(
        &mut self,
        now: Time,
        frame: &WireFrame,
        answer: &Answer,
        heard: &mut dyn FnMut(Heard<'_>),
    ) {
        if !(200..=299).contains(&answer.status) {
            return match self.asking.sid {
                Some(_) => heard(Heard::Reconnect { retry_after: answer.retry_after }),
                None => self.poll_failed(answer, heard),
            };
        }
        self.asking.answered = true;
        let took = now.mono.since(self.asking.left);
        self.read(now, frame, heard);
        let pause = if took >= HASTY || answer.body.iter().any(|byte| *byte == b'4' || *byte == b'b') {
            self.asking.hasty = 0;
            std::time::Duration::ZERO
        } else {
            self.asking.hasty = self.asking.hasty.saturating_add(1);
            FIRST_PAUSE.saturating_mul(1 << (self.asking.hasty - 1).min(16)).min(LAST_PAUSE)
        };
        // The first answer opens the session and says nothing else.
        let pause = if self.asking.hasty > 1 { pause } else { std::time::Duration::ZERO };
        if !pause.is_zero() {
            heard(Heard::Hasty);
        }
        self.asking.due = Some(now.mono + pause);
    }

    /// A packet that left by POST was answered; what it led to comes by a poll.
    pub(super) fn packet_posted(&self, answer: &Answer, heard: &mut dyn FnMut(Heard<'_>)) {
        match answer.status {
            200..=299 => heard(Heard::Ignored),
            _ => heard(Heard::Reconnect { retry_after: answer.retry_after }),
        }
    }
}
