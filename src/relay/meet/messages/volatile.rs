//! Volatile messages: they leave on the connection that is there, or are refused; never stored, never called accepted.
//!
//! Invariant: whoever published one is told once what became of it: its bytes are with the kernel, it did not leave, or the
//! connection was lost while it left. Upstream's answer to it is nobody's.
//! Deliberately not here: what a message may be (`publishing`), and in which order classes leave (`sending`).

use std::collections::{BTreeMap, VecDeque};

use crate::dialect::{MessageSpec, Outgoing, SendError};
use crate::protocol::codes::ErrorCode;
use crate::protocol::control;
use crate::protocol::request::Publish;
use crate::relay::Relay;
use crate::relay::attempt::Attempt;
use crate::relay::naming;
use crate::relay::outbox::{Lane, Refusal};
use crate::relay::pairs::AttemptId;
use crate::relay::record::MessageId;
use crate::relay::stats::VolatileEnd;
use crate::relay::time::Time;

use super::waiting::{Asker, Part, Place};

/// Those that have not left yet.
const MOST: usize = 256;

/// Messages between their publish and the kernel.
#[derive(Default)]
pub(in crate::relay) struct Volatile {
    /// They leave with the next `Transmit`s.
    waiting: VecDeque<(MessageId, Publish, Owed)>,
    /// They are with the carrier.
    leaving: BTreeMap<MessageId, Owed>,
}

/// Who is told, and about which message of its request.
struct Owed {
    asker: Asker,
    place: Place,
}

impl Relay {
    /// Sends a checked message now, or refuses it.
    pub(in crate::relay) fn publish_volatile(&mut self, now: Time, asker: &Asker, place: Place, publish: Publish) {
        if let Err(refusal) = self.may_leave_now(now) {
            self.stats.outbox.volatile.bump(VolatileEnd::Refused);
            return self.answer_refused(asker, place, refusal);
        }
        let id = MessageId::volatile(&mut self.rng);
        self.outbound.volatile.waiting.push_back((id, publish, Owed { asker: asker.clone(), place }));
        self.stirred = true;
    }

    fn may_leave_now(&self, now: Time) -> Result<(), Refusal> {
        let serves = |attempt: &Attempt| attempt.is_ready() && !attempt.lease.is_over();
        if !self.attempts.active().is_some_and(serves) || self.handover.holds_messages() {
            let words =
                "there is no connection to upstream on which it could leave now: publish again, or without volatile";
            return Err(Refusal::new(ErrorCode::Unavailable, words));
        }
        let before = self.outbound.volatile.waiting.len();
        if before >= MOST || !self.link.pacing.has_room(now.mono, before) {
            let words = "what upstream takes leaves no room for it now: publish again, or without volatile";
            return Err(Refusal::new(ErrorCode::LimitExceeded, words));
        }
        Ok(())
    }

    /// The next one as a frame. `critical_only`: if it is of the critical lane.
    pub(in crate::relay) fn next_volatile(
        &mut self,
        now: Time,
        on: AttemptId,
        critical_only: bool,
    ) -> Option<Outgoing> {
        loop {
            let (_, publish, _) = self.outbound.volatile.waiting.front()?;
            if critical_only && publish.lane != Lane::Critical {
                return None;
            }
            let (id, publish, owed) = self.outbound.volatile.waiting.pop_front()?;
            let params = publish.channel.params.as_deref();
            let spec = MessageSpec {
                id,
                channel: &publish.channel.name,
                params: naming::whole(&self.config, self.dialect.secret_params(), &publish.channel.name, params),
                key: publish.key.as_deref(),
                kind: publish.kind.as_deref(),
                data: &publish.data,
                idempotency_key: None,
            };
            let refusal = match self.attempts.get_mut(on)?.conversation.as_mut()?.publish(now, &spec) {
                Ok(outgoing) => {
                    self.outbound.volatile.leaving.insert(id, owed);
                    return Some(outgoing);
                }
                Err(SendError::NotJoined) => {
                    let words =
                        "its channel is not subscribed upstream: subscribe to it first, or publish without volatile";
                    Refusal::new(ErrorCode::Unavailable, words)
                }
                Err(error) => self.unpublishable(error),
            };
            self.stats.outbox.volatile.bump(VolatileEnd::Refused);
            self.answer_refused(&owed.asker, owed.place, refusal);
        }
    }

    /// The bytes of these messages are with the kernel; of those that are volatile nothing more will be heard.
    pub(in crate::relay) fn volatile_written(&mut self, messages: &[MessageId]) {
        for id in messages {
            let Some(Owed { asker, place }) = self.outbound.volatile.leaving.remove(id) else { continue };
            self.stats.outbox.volatile.bump(VolatileEnd::Sent);
            match asker {
                Asker::Session(session, reference) => self.tell(session, control::ok(reference.as_ref())),
                Asker::Call(call) => self.answer_part(call, place.at, Part::Sent),
            }
        }
    }

    /// The connection is gone.
    pub(in crate::relay) fn volatile_lost(&mut self) {
        let Volatile { waiting, leaving } = std::mem::take(&mut self.outbound.volatile);
        let unsent = waiting.into_iter().map(|(_, _, owed)| (owed, VolatileEnd::Refused));
        let unknown = leaving.into_values().map(|owed| (owed, VolatileEnd::Lost));
        for (Owed { asker, place }, end) in unsent.chain(unknown).collect::<Vec<_>>() {
            self.stats.outbox.volatile.bump(end);
            let words = match end {
                VolatileEnd::Lost => "the connection was lost while it left: upstream may have it",
                _ => "the connection was lost before it left: publish again, or without volatile",
            };
            self.answer_refused(&asker, place, Refusal::new(ErrorCode::Unavailable, words));
        }
    }
}
