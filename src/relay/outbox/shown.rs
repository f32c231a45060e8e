//! What people and publishers see of messages: JSON, without payloads.

use std::sync::Arc;

use super::message::{Pending, Phase};
use super::{Lane, Outbox, OutboxStats};
use crate::protocol::control::{List, Object, outcome_members};
use crate::protocol::duration::millis;
use crate::relay::record::{MessageId, StoredMessage, StoredOutcome};
use crate::relay::stats::LaneStats;
use crate::relay::time::{Mono, Time, Wall};

impl Outbox {
    /// The state of a message for its publisher, which must be at hand: `None` for what does not exist (any more) and for
    /// what is somebody else's.
    pub fn message_state(&self, now: Time, principal: &str, id: MessageId) -> Option<Vec<u8>> {
        if let Some(pending) = self.messages.get(id) {
            let ours = pending.message().is_some_and(|message| &*message.principal == principal);
            let visible = ours && *pending.phase() != Phase::Accepting;
            return visible.then(|| pending_members(now, Object::new(), id, pending).end());
        }
        self.outcomes.get(id).filter(|stored| &*stored.principal == principal).map(|stored| ended_state(stored))
    }

    /// The state of a message as one word.
    pub fn state_text(&self, id: MessageId) -> &'static str {
        match (self.messages.get(id), self.outcomes.state(id)) {
            (Some(pending), _) if pending.is_in_flight() => "in_flight",
            (None, Some(state)) => crate::protocol::control::state_text(state),
            _ => "accepted",
        }
    }

    /// Whether a message has ended, and that is still kept.
    pub fn has_ended(&self, id: MessageId) -> bool {
        self.outcomes.state(id).is_some()
    }

    /// How it ended; it must be at hand.
    pub fn outcome(&self, id: MessageId) -> Option<&Arc<StoredOutcome>> {
        self.outcomes.get(id)
    }

    /// Whether a message is accepted: known, and durable.
    pub fn is_accepted(&self, id: MessageId) -> bool {
        match self.messages.get(id) {
            Some(pending) => *pending.phase() != Phase::Accepting,
            None => self.has_ended(id),
        }
    }

    /// Depth of each lane and when its oldest message was accepted.
    pub fn lanes(&self, stats: &OutboxStats) -> [LaneStats; Lane::COUNT] {
        Lane::ALL.map(|lane| LaneStats { oldest: self.messages.oldest(lane), ..stats.lanes[lane.index()] })
    }

    /// The outbox for operators: numbers, and the first `max` messages, the higher lanes first.
    pub fn listing(&self, now: Time, max: usize, stats: &OutboxStats) -> Vec<u8> {
        let (mut lanes, mut messages, mut left) = (List::new(), List::new(), max);
        for (lane, numbers) in Lane::ALL.into_iter().zip(self.lanes(stats)) {
            let object = Object::new().text("lane", lane.text()).number("depth", numbers.depth);
            let age = numbers.oldest.map(|oldest| now.wall.since(oldest));
            let age = age.map(millis);
            lanes.push(&object.number_or_null("oldest_age_ms", age).end());
            let accepted = self.messages.of_lane(lane).filter(|(_, pending)| *pending.phase() != Phase::Accepting);
            for (id, pending) in accepted.take(left) {
                left -= 1;
                let object = Object::new().text("lane", lane.text());
                let object = object.text_if("principal", pending.message().map(|message| &*message.principal));
                messages.push(&pending_members(now, object, *id, pending).end());
            }
        }
        let object = Object::new().number("depth", stats.lanes.iter().map(|lane| lane.depth).sum());
        let object = object.number("bytes", self.bytes).number("in_flight", count(self.in_flight.len()));
        let object = object.number("window", count(self.window()));
        let object =
            object.number("outcomes_kept", count(self.outcomes.len())).flag("disk_full", self.disk_refuses().is_some());
        let object = object.text_if("store_failed", self.failed.as_deref());
        object.raw("lanes", &lanes.end()).raw("messages", &messages.end()).end()
    }
}

/// The state of a message that has ended.
pub fn ended_state(stored: &StoredOutcome) -> Vec<u8> {
    let object = Object::new().text("message", &stored.id.to_string()).number("attempts", u64::from(stored.attempts));
    outcome_members(object.text("ended", &stored.ended.rfc3339()), &stored.outcome).end()
}

pub(super) fn pending_members(now: Time, object: Object, id: MessageId, pending: &Pending) -> Object {
    let object = object
        .text("message", &id.to_string())
        .text("state", if pending.is_in_flight() { "in_flight" } else { "accepted" })
        .number("attempts", u64::from(pending.live().attempts));
    let object = match pending.message() {
        Some(message) => message_members(object, message),
        None => object.text("accepted", &id.time().rfc3339()).flag("on_disk", true),
    };
    let object = object.text_if("expires", pending.expires().map(Wall::rfc3339).as_deref());
    match *pending.phase() {
        Phase::Backoff { until } => object.text("next_retry", &wall_of(now, until).rfc3339()),
        _ => object,
    }
}

fn message_members(object: Object, message: &StoredMessage) -> Object {
    let object = object.text("channel", &message.channel.name).text("accepted", &message.accepted.rfc3339());
    let object = object.text_if("redrive_of", message.redrive_of.map(|id| id.to_string()).as_deref());
    object.text_if("order_key", message.order_key.as_deref())
}

/// When a monotonic moment will be, by the clock that people see.
fn wall_of(now: Time, at: Mono) -> Wall {
    now.wall + at.since(now.mono)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
