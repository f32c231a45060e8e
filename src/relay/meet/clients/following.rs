//! Sessions follow messages: `$outbox` tells the life of all of them, `$outbox/{message}` that of one.
//!
//! Invariants: such a channel is carried only while somebody reads it; whoever may not follow a message cannot tell whether
//! there is one.
//! Deliberately not here: what is told (`messages::progress`).

use std::sync::Arc;

use crate::dialect::{Event, Fold, Role, Target};
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::{ChannelRequest, Subscribe};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::feed::RingId;
use crate::relay::meet::messages::reading::Look;
use crate::relay::pairs::SessionId;
use crate::relay::record::MessageId;
use crate::relay::time::Time;

use super::subscribing::{Refusal, forbidden};

/// The relay's own channel for the life of all messages.
pub(in crate::relay) const OUTBOX_CHANNEL: &str = "$outbox";
/// What the name of one message's own channel begins with; its id follows.
const MESSAGE_CHANNEL: &str = "$outbox/";

/// The name of a message's own channel.
pub(in crate::relay) fn channel_of(message: MessageId) -> String {
    format!("{MESSAGE_CHANNEL}{message}")
}

/// Whether a channel is one message's own, or would be.
pub(in crate::relay) fn is_of_message(channel: &str) -> bool {
    channel.starts_with(MESSAGE_CHANNEL)
}

/// The message whose own channel this is. A message has one: an id in another case is no name of it.
fn message_of(channel: &str) -> Option<MessageId> {
    let message = MessageId::parse(channel.strip_prefix(MESSAGE_CHANNEL)?)?;
    (channel_of(message) == channel).then_some(message)
}

/// Whether its steps are those of messages.
fn follows(channel: &str) -> bool {
    channel == OUTBOX_CHANNEL || is_of_message(channel)
}

impl Relay {
    /// Whether a principal may read a channel as things stand: as its rights say, and its own messages' channels while these
    /// are carried.
    pub(in crate::relay) fn may_read(&self, principal: &Principal, channel: &str) -> bool {
        let publisher = message_of(channel).and_then(|message| self.outbox.followed_publisher(message));
        principal.may_read(channel) || (is_of_message(channel) && may_follow(principal, publisher))
    }

    /// Subscribes a session to the life of one message. If the message has to be read from the disk for that, it is answered
    /// later.
    pub(super) fn subscribe_message(
        &mut self,
        now: Time,
        id: SessionId,
        subscribe: &Subscribe,
        channel: &ChannelRequest,
    ) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id).filter(|session| session.closing.is_none()) else { return Ok(()) };
        let principal = Arc::clone(&session.principal);
        if !principal.is_authenticated() {
            return Err(forbidden());
        }
        let message = message_of(&channel.name);
        if let Some(message) = message.filter(|message| !self.outbox.is_at_hand(*message)) {
            let only = Subscribe { channels: vec![channel.clone()], ..subscribe.clone() };
            self.look_later(message, Look::Follow(id, Box::new(only)));
            return Ok(());
        }
        let publisher = message.and_then(|message| self.outbox.publisher(message)).map(|publisher| &**publisher);
        if !principal.may_read(&channel.name) && !may_follow(&principal, publisher) {
            return Err(forbidden());
        }
        let Some(message) = message.filter(|_| publisher.is_some()) else {
            let words = "no such message, or its outcome is not kept any more";
            return Err(Refusal::new(ErrorCode::NotFound, words));
        };
        self.leave_before(now, id, &channel.name);
        self.check_room(id)?;
        let ring = self.carry_message(now, message, &channel.name)?;
        let begin = self.begin(ring, subscribe);
        self.stand(id, subscribe, ring, None, &begin);
        Ok(())
    }

    /// Carries the channel of a message, which begins with the message's state.
    fn carry_message(&mut self, now: Time, message: MessageId, name: &str) -> Result<RingId, Refusal> {
        if let Some(ring) = self.feed.find(name) {
            return Ok(ring);
        }
        let ring = self.carry(now, name, self.config.feed.ring).ok_or_else(|| self.too_many_channels())?;
        if let Some(state) = self.outbox.follow(now, message) {
            let event = Event {
                target: Target::Name(name),
                key: None,
                kind: None,
                id: None,
                sequence: None,
                source_time: None,
                data: state.into(),
                role: Role::Snapshot,
                fold: Fold::Replace,
            };
            self.feed.admit(ring, now, &event, &mut self.stats.feed);
        }
        Ok(ring)
    }

    /// A session reads a channel from now on: if that is `$outbox`, its steps are told.
    pub(super) fn follow_read(&mut self, channel: &str) {
        if channel == OUTBOX_CHANNEL {
            self.outbox.follow_all(true);
        }
    }

    /// A channel that nobody reads any more: whether it is one to be forgotten for that. The turn has to end first, since its
    /// last reader may have left in order to subscribe it again.
    pub(super) fn follow_unread(&mut self, ring: RingId) -> bool {
        let follows = self.feed.ring(ring).is_some_and(|ring| follows(&ring.name));
        if follows {
            self.outbound.unread.push(ring);
        }
        follows
    }

    /// Forgets the channels that nobody reads any more, and reports no steps for them.
    pub(in crate::relay) fn forget_unread(&mut self) {
        for id in std::mem::take(&mut self.outbound.unread) {
            let unread = self.feed.ring(id).filter(|ring| ring.readers.is_empty());
            let Some(name) = unread.map(|ring| Arc::clone(&ring.name)) else { continue };
            self.feed.discard(id);
            match message_of(&name) {
                Some(message) => self.outbox.unfollow(message),
                None => self.outbox.follow_all(false),
            }
        }
    }

    /// A session takes back a subscription that waits for the disk; whether there was one.
    pub(super) fn follow_no_more(&mut self, id: SessionId, channel: &str) -> bool {
        message_of(channel).is_some_and(|message| self.take_back_follows(id, message))
    }
}

/// Whether a principal may follow a message of this publisher, if there is one.
fn may_follow(principal: &Principal, publisher: Option<&str>) -> bool {
    let own = principal.is_authenticated() && publisher == Some(&*principal.name);
    own || principal.may_read(OUTBOX_CHANNEL)
}
