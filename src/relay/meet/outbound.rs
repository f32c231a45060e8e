//! Publishing, the store and outcomes meet.

use std::sync::Arc;
use std::time::Duration;

use crate::dialect::{SendError, Then};
use crate::protocol::request::{Publish, Ref};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::outbox::Confirm;
use crate::relay::pairs::{CallId, SessionId};
use crate::relay::record::{MessageId, StoredMessage};
use crate::relay::time::{Mono, Time};

/// Who waits for the answer to a publish or cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::relay) enum Asker {
    Session(SessionId, Option<Ref>),
    Call(CallId),
}

impl Relay {
    /// A publish by a session or over HTTP: access was checked, limits of the request too.
    pub(in crate::relay) fn publish(
        &mut self,
        _now: Time,
        _asker: Asker,
        _principal: &Arc<Principal>,
        _messages: Vec<Publish>,
        _atomic: bool,
    ) {
    }
    pub(in crate::relay) fn cancel(&mut self, _now: Time, _asker: Asker, _principal: &Arc<Principal>, _message: &str) {}
    pub(in crate::relay) fn message_state(&mut self, _call: CallId, _principal: &Arc<Principal>, _message: &str) {}
    pub(in crate::relay) fn committed(&mut self, _now: Time) {}
    /// What is free under the store, for `outbox.min_free`.
    pub(in crate::relay) fn disk_free(&mut self, _bytes: u64) {}
    pub(in crate::relay) fn commit_failed(&mut self, _now: Time, _reason: String) {}
    /// Asks the store for what is staged, if it is free.
    pub(in crate::relay) fn pump_store(&mut self, _now: Time) {}
    /// The next message that may leave now, in order; called by the upstream pump when the bucket has a token.
    /// `critical_only`: only from the critical lane (it goes before subscribes).
    pub(in crate::relay) fn next_message(&mut self, _now: Time, _critical_only: bool) -> Option<Arc<StoredMessage>> {
        None
    }
    /// The frame of the message was handed to the carrier.
    pub(in crate::relay) fn message_sent(&mut self, _now: Time, _message: MessageId, _answered: bool) {}
    /// The dialect could not make a frame of it (`NotJoined`: it must wait for its channel).
    pub(in crate::relay) fn message_unsendable(&mut self, _now: Time, _message: MessageId, _error: SendError) {}
    /// The bytes of these messages are with the kernel.
    pub(in crate::relay) fn messages_written(&mut self, _now: Time, _messages: &[MessageId]) {}
    pub(in crate::relay) fn message_acked(
        &mut self,
        _now: Time,
        _message: MessageId,
        _confirmed_by: Confirm,
        _reply: Option<&str>,
    ) {
    }
    pub(in crate::relay) fn message_nacked(
        &mut self,
        _now: Time,
        _message: MessageId,
        _then: Option<Then>,
        _code: &str,
        _text: &str,
        _retry_after: Option<Duration>,
    ) {
    }
    /// The attempt is gone: what was in flight may have left.
    pub(in crate::relay) fn messages_lost(&mut self, _now: Time) {}
    pub(in crate::relay) fn outbound_due(&self) -> Option<Mono> {
        None
    }
    pub(in crate::relay) fn outbound_timeout(&mut self, _now: Time) {}

    /// Upstream sends this channel's events: messages that waited for it may leave.
    pub(in crate::relay) fn join_live(&mut self, _now: Time, _channel: crate::dialect::ChannelId) {}
    pub(in crate::relay) fn join_refused(
        &mut self,
        _now: Time,
        _c: crate::dialect::ChannelId,
        _code: crate::protocol::codes::ErrorCode,
        _m: &str,
    ) {
    }
    pub(in crate::relay) fn nothing_in_flight(&self) -> bool {
        true
    }
    pub(in crate::relay) fn store_is_idle(&self) -> bool {
        true
    }
    pub(in crate::relay) fn outbox_json(&self, _now: Time) -> serde_json::Value {
        serde_json::Value::Null
    }
    pub(in crate::relay) fn refresh_outbox_stats(&mut self) {}
}
