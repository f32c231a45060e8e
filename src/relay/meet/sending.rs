//! What is to leave for upstream meets the connection: one `Transmit` at a time, in the order of the classes, as the bucket allows.

use crate::dialect::{ChannelId, MessageSpec, Outgoing, Purpose, RequestId, SendError, WireFrame};
use crate::protocol::codes::ErrorCode;
use crate::relay::Relay;
use crate::relay::attempt::{Attempt, Carried};
use crate::relay::interest::{Change, Standing};
use crate::relay::link::pacing::Class;
use crate::relay::outbox::Confirm;
use crate::relay::pairs::Output;
use crate::relay::record::StoredMessage;
use crate::relay::stats::ThrottlePlace;
use crate::relay::time::Time;

/// Frames and bytes of one `Transmit`; one frame may be larger.
const FRAMES_MAX: usize = 64;
const BYTES_MAX: usize = 256 * 1024;
/// Channels shown to the dialect for one frame; those that differ in what its template does not list stay behind.
const CANDIDATES_MAX: usize = 1024;
/// Messages in a row that the dialect can make no frame of; the rest gets its turn at the next pump.
const UNSENDABLE_MAX: usize = 64;

impl Relay {
    /// Asks for the next `Transmit`, if the last one is done and something may leave.
    pub(in crate::relay) fn pump_upstream(&mut self, now: Time) {
        self.follow_interest();
        self.stage_barrier(now);
        let (mut frames, mut carried, mut bytes) = (Vec::new(), Vec::new(), 0);
        while frames.len() < FRAMES_MAX
            && bytes < BYTES_MAX
            && let Some(outgoing) = self.next_outgoing(now)
        {
            bytes += length(&outgoing.frame);
            let told = match outgoing.purpose {
                Purpose::Publish(_) => true,
                Purpose::Subscribe(_) | Purpose::Unsubscribe(_) => !outgoing.answered,
                Purpose::Auth | Purpose::Ping | Purpose::Reply => false,
            };
            if told {
                carried.push(Carried { purpose: outgoing.purpose, answered: outgoing.answered });
            }
            frames.push(outgoing.frame);
        }
        let Some(attempt) = self.active.as_mut().filter(|_| !frames.is_empty()) else { return };
        self.stats.link.frames_out += frames.len() as u64;
        self.stats.link.bytes_out += bytes as u64;
        attempt.transmit(carried);
        self.outputs.push_back(Output::Transmit { attempt: attempt.id(), frames });
    }

    /// Messages that only a later answer confirms get one: to a ping of the dialect's, where it has one, else of WebSocket.
    fn stage_barrier(&mut self, now: Time) {
        if !matches!(self.dialect.confirm(), Confirm::Barrier | Confirm::Echo) || !self.wants_barrier() {
            return;
        }
        let ready = |attempt: &&mut Attempt| attempt.is_ready() && attempt.may_send() && !attempt.beat_waits();
        let Some(attempt) = self.active.as_mut().filter(ready) else { return };
        if !self.dialect.has_ping() {
            attempt.ask_ping();
        } else if let Some(ping) = attempt.conversation.as_mut().and_then(|conversation| conversation.ping(now)) {
            attempt.stage(ping);
        }
    }

    /// What changed in interest since the last turn becomes subscribes and unsubscribes.
    fn follow_interest(&mut self) {
        while let Some(change) = self.interest.next_change() {
            let ready = self.active.as_mut().filter(|attempt| attempt.is_ready() && self.dialect.subscribes());
            match (change, ready) {
                (Change::Admitted(channel), Some(attempt)) if self.interest.spec(channel).is_some() => {
                    attempt.acked.enqueue(channel, self.interest.priority(channel), false);
                }
                (Change::Displaced(channel), Some(attempt)) => {
                    if let Some(spec) = self.interest.spec(channel) {
                        attempt.leave(channel, spec.name.into(), spec.params.map(Into::into));
                    }
                }
                (Change::Dropped(dropped), ready) => {
                    if let Some(attempt) = ready {
                        attempt.leave(dropped.id, dropped.name, dropped.params);
                    }
                    self.channel_dropped(dropped.id);
                }
                (Change::Admitted(_) | Change::Displaced(_), _) => {}
            }
        }
    }

    /// The next frame, if the bucket has a token for it.
    fn next_outgoing(&mut self, now: Time) -> Option<Outgoing> {
        let ready = self.active.as_ref().filter(|attempt| attempt.may_send())?.is_ready();
        if self.link.pacing.control_is_free()
            && !self.link.pacing.held(now.mono)
            && let Some(ping) = self.next_ping(now)
        {
            return Some(ping);
        }
        if !self.link.pacing.open(now.mono) {
            return None;
        }
        for class in self.link.pacing.order() {
            let outgoing = match class {
                Class::Beat => self.next_beat(now),
                Class::Auth => self.active.as_mut().and_then(Attempt::next_auth),
                Class::Critical if ready => self.next_publish(now, true),
                Class::Control if ready => self.next_control(now),
                Class::Message if ready => self.next_publish(now, false),
                Class::Critical | Class::Control | Class::Message => None,
            };
            let Some(outgoing) = outgoing else {
                self.link.pacing.empty(class);
                continue;
            };
            if self.link.pacing.spend(now.mono, class) {
                match class {
                    Class::Control => self.stats.throttled.bump(ThrottlePlace::Control),
                    Class::Critical | Class::Message => self.stats.throttled.bump(ThrottlePlace::Publish),
                    Class::Beat | Class::Auth => {}
                }
            }
            return Some(outgoing);
        }
        self.link.pacing.satisfied();
        None
    }

    /// The next pong, receipt or ping.
    fn next_beat(&mut self, now: Time) -> Option<Outgoing> {
        let attempt = self.active.as_mut()?;
        if let Some(beat) = attempt.next_beat() {
            if beat.purpose == Purpose::Ping {
                attempt.heartbeat.dialect_ping_sent(now.mono, beat.request, beat.answered);
                self.barrier_sent();
            }
            return Some(beat);
        }
        self.next_ping(now)
    }

    /// The WebSocket ping that waits to leave. It has no number of the dialect's.
    fn next_ping(&mut self, now: Time) -> Option<Outgoing> {
        let frame = self.active.as_mut()?.next_ping(now.mono)?;
        if !self.dialect.has_ping() {
            self.barrier_sent();
        }
        Some(Outgoing { request: RequestId(0), purpose: Purpose::Ping, frame, answered: false })
    }

    /// The next unsubscribe or subscribe.
    fn next_control(&mut self, now: Time) -> Option<Outgoing> {
        self.next_unsubscribe(now).or_else(|| self.next_subscribe(now))
    }

    fn next_unsubscribe(&mut self, now: Time) -> Option<Outgoing> {
        let attempt = self.active.as_mut()?;
        while attempt.leaving.pending() {
            let candidates = attempt.leaving.candidates(candidates_max(self.dialect.limits().per_frame));
            let first = candidates.first()?.id;
            let conversation = attempt.conversation.as_mut()?;
            let Ok(Some(outgoing)) = conversation.unsubscribe(now, &candidates) else {
                // Nothing to say for it: done.
                attempt.leaving.done(first);
                conversation.forget_channel(first);
                continue;
            };
            let channels = channels_of(&outgoing.purpose);
            let deadline = outgoing.answered.then(|| now.mono + self.config.interest.ack_timeout);
            attempt.leaving.sent(channels, outgoing.request, deadline);
            self.stats.interest.unsubscribes += channels.len() as u64;
            return Some(outgoing);
        }
        None
    }

    fn next_subscribe(&mut self, now: Time) -> Option<Outgoing> {
        loop {
            let attempt = self.active.as_mut().filter(|attempt| attempt.acked.pending())?;
            let held = |id: ChannelId| self.interest.spec(id).is_some_and(|spec| attempt.leaving.holds(spec.name));
            let (ids, again) = attempt.acked.candidates(candidates_max(self.dialect.limits().per_frame), held);
            let candidates: Vec<_> = ids.iter().filter_map(|id| self.interest.spec(*id)).collect();
            let first = candidates.first()?.id;
            let error = match attempt.conversation.as_mut()?.subscribe(now, &candidates, again) {
                Ok(outgoing) => {
                    let channels = channels_of(&outgoing.purpose);
                    let deadline = outgoing.answered.then(|| now.mono + self.config.interest.ack_timeout);
                    attempt.acked.sent(channels, outgoing.request, deadline);
                    self.stats.interest.subscribes += channels.len() as u64;
                    for channel in channels {
                        self.interest.stand(*channel, Standing::Sent);
                    }
                    return Some(outgoing);
                }
                Err(error) => error,
            };
            let code = if error == SendError::NoTemplate { ErrorCode::NotSupported } else { ErrorCode::Invalid };
            self.refuse_channel(now, first, code, &error.to_string());
        }
    }

    /// The next message as a frame.
    fn next_publish(&mut self, now: Time, critical_only: bool) -> Option<Outgoing> {
        for _ in 0..UNSENDABLE_MAX {
            let message = self.next_message(now, critical_only)?;
            let spec = message_spec(&message);
            let conversation = self.active.as_mut()?.conversation.as_mut()?;
            match conversation.publish(now, &spec) {
                Ok(outgoing) => {
                    self.message_sent(now, message.id, outgoing.answered);
                    return Some(outgoing);
                }
                Err(error) => self.message_unsendable(now, message.id, error),
            }
        }
        self.stirred = true;
        None
    }
}

/// A message as the dialect sees it. Its channel is upstream's already.
fn message_spec(message: &StoredMessage) -> MessageSpec<'_> {
    MessageSpec {
        id: message.id,
        channel: &message.channel.name,
        params: message.channel.params.as_deref(),
        key: message.key.as_deref(),
        kind: message.kind.as_deref(),
        data: &message.data,
        idempotency_key: message.idempotency_key.as_deref(),
    }
}

fn channels_of(purpose: &Purpose) -> &[ChannelId] {
    match purpose {
        Purpose::Subscribe(channels) | Purpose::Unsubscribe(channels) => channels,
        Purpose::Auth | Purpose::Publish(_) | Purpose::Ping | Purpose::Reply => &[],
    }
}

fn candidates_max(per_frame: usize) -> usize {
    per_frame.saturating_mul(4).clamp(1, CANDIDATES_MAX)
}

fn length(frame: &WireFrame) -> usize {
    let (WireFrame::Text(body) | WireFrame::Binary(body) | WireFrame::Ping(body) | WireFrame::Pong(body)) = frame;
    body.len()
}
