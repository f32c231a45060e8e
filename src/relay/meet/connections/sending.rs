//! What is to leave for upstream meets the connections: one `Transmit` at a time on each, in the order of the classes over
//! both, as the one bucket allows. Messages leave on the one that serves only.

use bytes::Bytes;

use crate::dialect::{AskFor, ChannelId, MessageSpec, Outgoing, Purpose, RequestId, SendError, WireFrame};
use crate::protocol::codes::ErrorCode;
use crate::relay::Relay;
use crate::relay::attempt::{Attempt, Carried, Ending};
use crate::relay::interest::{Change, Standing};
use crate::relay::link::pacing::Class;
use crate::relay::naming;
use crate::relay::outbox::Confirm;
use crate::relay::pairs::{AttemptId, Output};
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

/// The next `Transmit` of one attempt, while it is gathered.
struct Load {
    attempt: AttemptId,
    frames: Vec<WireFrame>,
    carried: Vec<Carried>,
}

impl Relay {
    /// Asks for the next `Transmit`s, where the last one is done and something may leave.
    pub(in crate::relay) fn pump_upstream(&mut self, now: Time) {
        self.pump_repairs(now);
        self.follow_interest();
        self.gather_address(now.mono);
        self.stage_barrier(now);
        self.advance_upgrade(now);
        let load = |attempt| Load { attempt, frames: Vec::new(), carried: Vec::new() };
        let senders = self.senders();
        if senders[0].is_none() {
            return;
        }
        let mut loads = senders.map(|attempt| attempt.map(load));
        let (mut frames, mut bytes) = (0, 0);
        while frames < FRAMES_MAX
            && bytes < BYTES_MAX
            && let Some((attempt, outgoing)) = self.next_outgoing(now, senders)
        {
            let Some(load) = loads.iter_mut().flatten().find(|load| load.attempt == attempt) else { break };
            frames += 1 + outgoing.attachments.len();
            bytes += outgoing.frame.body().len() + outgoing.attachments.iter().map(Bytes::len).sum::<usize>();
            let told = match outgoing.purpose {
                Purpose::Publish(_) => true,
                Purpose::Subscribe(_) | Purpose::Unsubscribe(_) => !outgoing.answered,
                Purpose::Auth
                | Purpose::State(..)
                | Purpose::Audit
                | Purpose::Ping
                | Purpose::Reply
                | Purpose::Poll => false,
            };
            if told {
                load.carried.push(Carried { purpose: outgoing.purpose, answered: outgoing.answered });
            }
            if let (WireFrame::Ask(ask), Some(sender)) = (&outgoing.frame, self.attempts.get_mut(attempt)) {
                sender.posting |= ask.of != AskFor::Poll;
            }
            load.frames.push(outgoing.frame);
            load.frames.extend(outgoing.attachments.into_iter().map(WireFrame::Binary));
        }
        self.stats.link.frames_out += frames as u64;
        self.stats.link.bytes_out += bytes as u64;
        for load in loads.into_iter().flatten() {
            let Load { attempt, frames, carried } = self.enclose(now, load);
            if let Some(sender) = self.attempts.get_mut(attempt).filter(|_| !frames.is_empty()) {
                sender.transmit(now.mono, carried);
                self.outputs.push_back(Output::Transmit { attempt, frames });
            }
        }
    }

    /// Packets of a session that is polled leave together, by POST, and are written when upstream has taken them.
    fn enclose(&mut self, now: Time, mut load: Load) -> Load {
        let Some(sender) = self.attempts.get_mut(load.attempt).filter(|sender| sender.posts_packets()) else {
            return load;
        };
        let packets = load.frames.extract_if(.., |frame| matches!(frame, WireFrame::Text(_) | WireFrame::Binary(_)));
        sender.polled.packets.extend(packets);
        sender.polled.carried.append(&mut load.carried);
        if sender.posting || sender.polled.is_pausing() {
            return load;
        }
        let Some(conversation) = &mut sender.conversation else { return load };
        match conversation.post_packets(&mut sender.polled.packets) {
            Some(Ok(post)) => {
                sender.posting = true;
                load.frames.push(post);
            }
            Some(Err(error)) => {
                sender.end(Ending::Unbuildable(error.to_string()));
                self.settle(now, load.attempt);
            }
            None => {}
        }
        load
    }

    /// The attempts on which something may leave now, the one that serves first.
    fn senders(&self) -> [Option<AttemptId>; 2] {
        let mut senders = self.attempts.iter().filter(|attempt| attempt.may_send()).map(Attempt::id);
        [senders.next(), senders.next()]
    }

    /// Messages that only a later answer confirms get one: to a ping of the dialect's, where it has one, else of WebSocket.
    fn stage_barrier(&mut self, now: Time) {
        if !matches!(self.dialect.confirm(), Confirm::Barrier | Confirm::Echo) || !self.wants_barrier() {
            return;
        }
        let ready = |attempt: &&mut Attempt| attempt.is_ready() && attempt.may_send() && !attempt.beat_waits();
        let Some(attempt) = self.attempts.active_mut().filter(ready) else { return };
        if !self.dialect.has_ping() {
            attempt.ask_ping();
        } else if let Some(ping) = attempt.conversation.as_mut().and_then(|conversation| conversation.ping(now)) {
            attempt.stage(ping);
        }
    }

    /// What changed in interest since the last turn becomes subscribes and unsubscribes.
    pub(in crate::relay) fn follow_interest(&mut self) {
        while let Some(change) = self.interest.next_change() {
            self.address_moved();
            let subscribes = self.dialect.subscribes();
            for attempt in self.attempts.iter_mut().filter(|attempt| attempt.is_ready() && subscribes) {
                match &change {
                    Change::Admitted(channel) if self.interest.spec(*channel).is_some() => {
                        attempt.acked.enqueue(*channel, self.interest.priority(*channel), false);
                    }
                    Change::Displaced(channel) => {
                        if let Some(spec) = self.interest.spec(*channel) {
                            attempt.leave(*channel, spec.name.into(), spec.params.map(Into::into));
                        }
                    }
                    Change::Dropped(dropped) => {
                        attempt.leave(dropped.id, dropped.name.clone(), dropped.params.clone());
                    }
                    Change::Admitted(_) => {}
                }
            }
            if let Change::Dropped(dropped) = change {
                self.channel_dropped(dropped.id);
            }
        }
    }

    /// The next frame and the attempt on which it leaves, if the bucket has a token for it.
    fn next_outgoing(&mut self, now: Time, senders: [Option<AttemptId>; 2]) -> Option<(AttemptId, Outgoing)> {
        if self.link.pacing.control_is_free()
            && !self.link.pacing.held(now.mono)
            && let Some(ping) = self.first_of(senders, |relay, attempt| relay.next_ping(now, attempt))
        {
            return Some(ping);
        }
        if !self.link.pacing.open(now.mono) {
            return None;
        }
        for class in self.link.pacing.order() {
            let Some(outgoing) = self.first_of(senders, |relay, attempt| relay.next_of(now, attempt, class)) else {
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

    /// What the first of these attempts has that has something.
    fn first_of(
        &mut self,
        senders: [Option<AttemptId>; 2],
        mut ask: impl FnMut(&mut Relay, AttemptId) -> Option<Outgoing>,
    ) -> Option<(AttemptId, Outgoing)> {
        let [first, second] = senders;
        let first = first?;
        if let Some(outgoing) = ask(self, first) {
            return Some((first, outgoing));
        }
        let second = second?;
        Some((second, ask(self, second)?))
    }

    /// The next frame of a class on this attempt.
    fn next_of(&mut self, now: Time, attempt: AttemptId, class: Class) -> Option<Outgoing> {
        let sender = self.attempts.get(attempt)?;
        let (ready, posting) = (sender.is_ready(), sender.posting);
        // Without a token that holds, messages wait.
        let serves = ready && self.attempts.serves(attempt) && !sender.lease.is_over();
        if sender.holds_packets() {
            return if class == Class::Beat { self.next_poll(now, attempt) } else { None };
        }
        match class {
            Class::Critical | Class::Message if posting && self.dialect.posts_messages() => None,
            Class::Control if posting && self.dialect.posts_subscribes() => None,
            Class::Beat => self.next_beat(now, attempt),
            Class::Auth => self.attempts.get_mut(attempt)?.next_auth(),
            Class::Critical if serves => self.next_publish(now, attempt, true),
            Class::Control if ready => self.next_control(now, attempt),
            Class::Message if serves => self.next_publish(now, attempt, false),
            Class::Critical | Class::Control | Class::Message => None,
        }
    }

    /// The next pong, receipt or ping.
    fn next_beat(&mut self, now: Time, id: AttemptId) -> Option<Outgoing> {
        if let Some(poll) = self.next_poll(now, id) {
            return Some(poll);
        }
        let attempt = self.attempts.get_mut(id)?;
        let Some(beat) = attempt.next_beat() else { return self.next_ping(now, id) };
        if beat.purpose == Purpose::Ping {
            attempt.heartbeat.dialect_ping_sent(now.mono, beat.request, beat.answered);
            if self.attempts.serves(id) {
                self.barrier_sent();
            }
        }
        Some(beat)
    }

    /// The WebSocket ping that waits to leave. It has no number of the dialect's.
    fn next_ping(&mut self, now: Time, id: AttemptId) -> Option<Outgoing> {
        let frame = self.attempts.get_mut(id)?.next_ping(now.mono)?;
        if !self.dialect.has_ping() && self.attempts.serves(id) {
            self.barrier_sent();
        }
        let (request, purpose) = (RequestId(0), Purpose::Ping);
        Some(Outgoing::unanswered(request, purpose, frame))
    }

    /// The next unsubscribe or subscribe.
    fn next_control(&mut self, now: Time, id: AttemptId) -> Option<Outgoing> {
        self.next_unsubscribe(now, id).or_else(|| self.next_subscribe(now, id))
    }

    fn next_unsubscribe(&mut self, now: Time, id: AttemptId) -> Option<Outgoing> {
        let attempt = self.attempts.get_mut(id)?;
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

    fn next_subscribe(&mut self, now: Time, sender: AttemptId) -> Option<Outgoing> {
        loop {
            if self.attempts.get(sender).is_some_and(|attempt| self.is_addressed(attempt)) {
                return None;
            }
            let calls_full = self.channel_calls_full();
            let attempt = self.attempts.get_mut(sender).filter(|attempt| attempt.acked.pending())?;
            let calls = |id: ChannelId, name: &str| {
                self.dialect.channel_fetch(name).filter(|_| !attempt.acked.is_granted(id)).is_some()
            };
            let held = |id: ChannelId| {
                let spec = self.interest.spec(id);
                spec.is_some_and(|spec| attempt.leaving.holds(spec.name) || (calls_full && calls(id, spec.name)))
            };
            let (ids, again) = attempt.acked.candidates(candidates_max(self.dialect.limits().per_frame), held);
            let candidates: Vec<_> = ids.iter().filter_map(|id| self.interest.spec(*id)).collect();
            if let Some(calling) = candidates.iter().find(|spec| calls(spec.id, spec.name)).map(|spec| spec.id) {
                self.call_for_channel(now, sender, calling);
                continue;
            }
            let first = candidates.first()?.id;
            let error = match attempt.conversation.as_mut()?.subscribe(now, &candidates, again) {
                Ok(outgoing) => {
                    let channels = channels_of(&outgoing.purpose);
                    let deadline = outgoing.answered.then(|| now.mono + self.config.interest.ack_timeout);
                    attempt.acked.sent(channels, outgoing.request, deadline);
                    self.stats.interest.subscribes += channels.len() as u64;
                    for channel in channels {
                        self.reached(sender, *channel, Standing::Sent);
                    }
                    return Some(outgoing);
                }
                Err(error) => error,
            };
            let code = match error {
                SendError::NoTemplate | SendError::NoWayUp(_) => ErrorCode::NotSupported,
                SendError::TooLarge { .. } | SendError::Oversize(_) => ErrorCode::TooLarge,
                _ => ErrorCode::Invalid,
            };
            self.refuse_channel(now, sender, first, code, &error.to_string());
        }
    }

    /// The next message as a frame.
    fn next_publish(&mut self, now: Time, id: AttemptId, critical_only: bool) -> Option<Outgoing> {
        if let Some(outgoing) = self.next_volatile(now, id, critical_only) {
            return Some(outgoing);
        }
        for _ in 0..UNSENDABLE_MAX {
            let message = self.next_message(now, critical_only)?;
            let mut spec = message_spec(&message);
            spec.params = naming::whole(&self.config, self.dialect.secret_params(), spec.channel, spec.params);
            let conversation = self.attempts.get_mut(id)?.conversation.as_mut()?;
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
        _ => &[],
    }
}

fn candidates_max(per_frame: usize) -> usize {
    per_frame.saturating_mul(4).clamp(1, CANDIDATES_MAX)
}
