//! The outbox meets upstream and the store: what leaves, what upstream answers, what is durable.
//!
//! Who publishes and what publishers are told stands in `publishing`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::config::UpstreamConfig;
use crate::dialect::{Carried, ChannelId, Conversation, Dialect, SendError, Then};
use crate::protocol::codes::ErrorCode;
use crate::relay::Relay;
use crate::relay::feed::RingId;
use crate::relay::interest::{InterestState, Want, WantError};
use crate::relay::naming;
use crate::relay::outbox::{Confirm, Durable, Lane, Nack};
use crate::relay::pairs::{Notice, Output};
use crate::relay::record::{MessageId, StoredMessage};
use crate::relay::syncing::Syncing;
use crate::relay::time::{Mono, Time};

use super::reading::Reading;
use super::volatile::Volatile;
use super::waiting::Waiting;

/// What the relay remembers between the outbox and the others.
pub(in crate::relay) struct Outbound {
    /// Tells what the dialect can carry, connected or not.
    pub(in crate::relay) checker: Conversation,
    /// Who waits for what to be durable.
    pub(in crate::relay) waiting: Waiting,
    /// Who waits for what to be read from the disk.
    pub(in crate::relay) reading: Reading,
    /// Channels of messages that nobody reads any more; they go when the turn is over.
    pub(in crate::relay) unread: Vec<RingId>,
    /// What leaves now or never.
    pub(in crate::relay) volatile: Volatile,
    /// How far those have come that waited when the link became live.
    pub(in crate::relay) syncing: Syncing,
    joins: Joins,
}

impl Outbound {
    pub(in crate::relay) fn new(dialect: &Arc<Dialect>, upstream: &UpstreamConfig) -> Self {
        // It sends nothing, so its `{uuid}`s are never seen.
        let checker = Conversation::new(Arc::clone(dialect), Carried::new(0), upstream.params.clone(), None);
        Outbound {
            checker,
            waiting: Waiting::default(),
            reading: Reading::default(),
            unread: Vec::new(),
            volatile: Volatile::default(),
            syncing: Syncing::default(),
            joins: Joins::default(),
        }
    }
}

/// Channels that must be subscribed so that messages can be published there. Bounded by the messages.
#[derive(Default)]
struct Joins {
    /// The messages for whose sake each channel is wanted: one reference of interest for all of them.
    wanted: BTreeMap<ChannelId, BTreeSet<MessageId>>,
    /// The same the other way round.
    of: BTreeMap<MessageId, ChannelId>,
}

impl Relay {
    /// Asks the store for what is staged, and for what has to be read, if it does not do that already.
    pub(in crate::relay) fn pump_store(&mut self, now: Time) {
        self.forget_unread();
        if let Some(wanted) = self.outbox.take_load() {
            self.outputs.push_back(Output::Load(wanted));
        }
        for message in self.outbox.take_unasked() {
            self.answer_looks(now, message);
        }
        let tally = self.next_tally(now);
        if let Some(operations) = self.outbox.take_commit(tally) {
            self.outputs.push_back(Output::Commit(operations));
        }
    }

    pub(in crate::relay) fn committed(&mut self, now: Time) {
        self.tally_committed(now);
        for durable in self.outbox.committed(now, &mut self.stats.outbox) {
            match durable {
                Durable::Accepted(id) => {
                    self.tell_accepted(id);
                    self.overlay_accepted(now, id);
                    self.tell_progress_of(now, id);
                }
                Durable::Settled { outcome, publishers } => {
                    self.leave_channel(now, outcome.id);
                    self.overlay_ended(now, &outcome);
                    self.tell_progress_of(now, outcome.id);
                    self.tell_settled(&outcome, &publishers);
                    self.sync_ended(outcome.id);
                }
            }
        }
        self.tell_sync_if_due(now);
    }

    /// The next message that may leave now, in order; called by the upstream pump when the bucket has a token.
    /// `critical_only`: only from the critical lane (it goes before subscribes).
    pub(in crate::relay) fn next_message(&mut self, now: Time, critical_only: bool) -> Option<Arc<StoredMessage>> {
        if self.draining.is_draining() || self.handover.holds_messages() {
            return None;
        }
        self.outbox.next(now, critical_only)
    }

    /// The frame of the message was handed to the carrier.
    pub(in crate::relay) fn message_sent(&mut self, now: Time, message: MessageId, answered: bool) {
        let confirm = match self.dialect.confirm() {
            Confirm::Ack if !answered => Confirm::Written,
            confirm => confirm,
        };
        self.outbox.sent(now, message, confirm, &mut self.stats.outbox);
        self.tell_progress(now);
    }

    /// The dialect could not make a frame of it (`NotJoined`: it must wait for its channel).
    pub(in crate::relay) fn message_unsendable(&mut self, now: Time, message: MessageId, error: SendError) {
        match error {
            SendError::NotJoined => self.join_channel(now, message),
            // The connection may know it later, the next one may.
            SendError::Unset(_) | SendError::NoWayUp(_) => self.postpone(now, message),
            SendError::NoTemplate => self.outbox.reject(now, message, ErrorCode::NotSupported.text()),
            SendError::TooLarge { .. } | SendError::Oversize(_) => {
                self.outbox.reject(now, message, ErrorCode::TooLarge.text());
            }
            SendError::Name(_) | SendError::Invalid(_) => {
                self.outbox.reject(now, message, ErrorCode::Invalid.text());
            }
        }
    }

    fn postpone(&mut self, now: Time, message: MessageId) {
        self.outbox.postpone(now, message, &mut self.rng, &mut self.stats.outbox);
        self.tell_progress(now);
    }

    /// The bytes of these messages are with the kernel.
    pub(in crate::relay) fn messages_written(&mut self, now: Time, messages: &[MessageId]) {
        self.outbox.written(now, messages, &mut self.stats.outbox);
        self.tell_progress(now);
        self.volatile_written(messages);
    }

    pub(in crate::relay) fn message_acked(&mut self, now: Time, message: MessageId, by: Confirm, reply: Option<&str>) {
        if !message.is_volatile() {
            self.outbox.acked(now, message, by, reply, &mut self.stats.outbox);
            self.tell_progress(now);
        }
    }

    pub(in crate::relay) fn message_nacked(
        &mut self,
        now: Time,
        message: MessageId,
        then: Option<Then>,
        code: &str,
        text: &str,
        retry_after: Option<Duration>,
    ) {
        if message.is_volatile() {
            return;
        }
        let nack = Nack { then, code, text, retry_after };
        self.outbox.nacked(now, message, nack, &mut self.rng, &mut self.stats.outbox);
        self.tell_progress(now);
    }

    /// Whether a request should be sent now (a ping) whose answer proves that messages before it arrived.
    pub(in crate::relay) fn wants_barrier(&self) -> bool {
        self.outbox.wants_barrier()
    }

    /// A request left that upstream answers in its turn: a ping.
    pub(in crate::relay) fn barrier_sent(&mut self) {
        self.outbox.barrier_sent();
    }

    /// That answer came.
    pub(in crate::relay) fn barrier_passed(&mut self, now: Time) {
        self.outbox.barrier_passed(now, &mut self.stats.outbox);
        self.tell_progress(now);
    }

    /// The attempt is gone: what was in flight may have left.
    pub(in crate::relay) fn messages_lost(&mut self, now: Time) {
        self.outbox.lost(now, &mut self.rng, &mut self.stats.outbox);
        self.tell_progress(now);
        self.volatile_lost();
    }

    pub(in crate::relay) fn outbound_due(&self) -> Option<Mono> {
        [self.outbox.due(), self.outbound.waiting.due(), self.outbound.syncing.due()].into_iter().flatten().min()
    }

    pub(in crate::relay) fn outbound_timeout(&mut self, now: Time) {
        self.outbox.timeout(now, &mut self.rng, &mut self.stats.outbox);
        self.tell_progress(now);
        self.tell_sync_if_due(now);
        self.answer_waited(now);
    }

    /// What is free on the disk under the store, for `outbox.min_free`, and what the store takes of it, for `outbox.max_disk`.
    pub(in crate::relay) fn disk(&mut self, free: u64, used: u64) {
        self.disk_bytes = Some(free);
        let min_free = self.config.outbox.min_free;
        let low = free < min_free;
        if std::mem::replace(&mut self.disk_low, low) != low {
            self.outputs.push_back(Output::Notify(Notice::Disk { low, free, min_free }));
        }
        self.outbox.disk(free, used);
    }

    pub(in crate::relay) fn nothing_in_flight(&self) -> bool {
        self.outbox.in_flight() == 0
    }

    pub(in crate::relay) fn store_is_idle(&self) -> bool {
        self.outbox.is_settled()
    }

    pub(in crate::relay) fn refresh_outbox_stats(&mut self) {
        self.outbox.gauges(&mut self.stats.outbox);
    }

    /// The message waits until its channel is subscribed, and makes it wanted.
    fn join_channel(&mut self, now: Time, message: MessageId) {
        let Some(stored) = self.outbox.message(message) else { return };
        let channel = match self.outbound.joins.of.get(&message) {
            Some(channel) => *channel,
            None => match self.want_channel(now, &stored) {
                Ok(channel) => channel,
                Err(WantError::Limit) => return self.postpone(now, message),
                Err(WantError::Conflict { .. }) => {
                    return self.outbox.reject(now, message, ErrorCode::Conflict.text());
                }
                Err(WantError::Refused { code, .. }) => return self.outbox.reject(now, message, code.text()),
            },
        };
        if self.interest.state(channel) == InterestState::Live {
            // Live, and yet the conversation has no subscription to name: it may have one later.
            return self.postpone(now, message);
        }
        self.outbox.park(message);
    }

    fn want_channel(&mut self, now: Time, message: &StoredMessage) -> Result<ChannelId, WantError> {
        let config = std::sync::Arc::clone(&self.config);
        let name = &*message.channel.name;
        let params = message.channel.params.as_deref();
        let params = naming::whole(&config, self.dialect.secret_params(), name, params);
        let identity = naming::upstream_identity(self.dialect.secret_params(), name, params);
        // The params were an object when the message was accepted.
        let identity = identity.unwrap_or_else(|_| name.to_owned());
        let policy = naming::policy(&self.config, name);
        let linger = policy.and_then(|policy| policy.linger).unwrap_or(self.config.interest.linger);
        let priority = policy.map_or(Lane::Medium, |policy| policy.priority);
        let channel = self.interest.want(now.mono, Want { identity: &identity, name, params, priority, linger })?;
        self.stirred = true; // it is to be subscribed, and this comes up while frames are made
        let joins = &mut self.outbound.joins;
        joins.of.insert(message.id, channel);
        let messages = joins.wanted.entry(channel).or_default();
        if !messages.is_empty() {
            self.interest.release(now.mono, channel); // one reference stands for all of them
        }
        messages.insert(message.id);
        Ok(channel)
    }

    /// Upstream sends this channel's events: messages that waited for it may leave.
    pub(in crate::relay) fn join_live(&mut self, channel: ChannelId) {
        for message in self.outbound.joins.wanted.get(&channel).into_iter().flatten() {
            self.outbox.unpark(*message);
        }
    }

    /// A message ended: its channel need not be subscribed for its sake any more.
    fn leave_channel(&mut self, now: Time, message: MessageId) {
        let joins = &mut self.outbound.joins;
        let Some(channel) = joins.of.remove(&message) else { return };
        let Some(messages) = joins.wanted.get_mut(&channel) else { return };
        messages.remove(&message);
        if messages.is_empty() {
            joins.wanted.remove(&channel);
            self.interest.release(now.mono, channel);
        }
    }

    /// Upstream refused a channel: messages that wait for it are rejected. The refusal ended the interest already.
    pub(in crate::relay) fn join_refused(&mut self, now: Time, channel: ChannelId, code: ErrorCode) {
        let joins = &mut self.outbound.joins;
        for message in joins.wanted.remove(&channel).unwrap_or_default() {
            joins.of.remove(&message);
            self.outbox.reject(now, message, code.text());
        }
    }
}
