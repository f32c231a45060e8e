//! Order keys: messages with the same key leave strictly one after another.
//!
//! Invariant: only the oldest message of a key ever stands in a lane, and it stays the oldest until its end is durable.
//! A key is one over all principals: who names the same account means the same account.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;

use super::Lane;
use crate::relay::record::{MessageId, Order};

/// The messages of one key.
#[derive(Debug)]
struct Queue {
    messages: Waiting,
    /// The lane in which the oldest stands now.
    placed: Option<Lane>,
}

/// Most keys have one message only, and there may be as many keys as messages.
#[derive(Debug)]
enum Waiting {
    One(Member, Lane),
    Many(Box<Many>),
}

/// A message, and what a later one must have in common with it to replace it.
#[derive(Debug, Clone, Copy)]
struct Member {
    id: MessageId,
    target: u64,
}

#[derive(Debug)]
struct Many {
    /// In the order of acceptance.
    messages: VecDeque<Member>,
    /// How many of them are of each lane.
    lanes: [u32; Lane::COUNT],
}

impl Many {
    fn push(&mut self, member: Member, lane: Lane) {
        self.messages.push_back(member);
        self.lanes[lane.index()] += 1;
    }

    fn highest(&self) -> Lane {
        Lane::ALL.into_iter().find(|lane| self.lanes[lane.index()] > 0).unwrap_or_default()
    }
}

/// All keys that have messages.
#[derive(Debug, Default)]
pub(super) struct OrderKeys(BTreeMap<NonZeroU64, Queue>);

impl OrderKeys {
    /// Adds a message behind the others of its key.
    pub(super) fn push(&mut self, Order { key, target }: Order, lane: Lane, id: MessageId) {
        let member = Member { id, target };
        let Some(queue) = self.0.get_mut(&key) else {
            self.0.insert(key, Queue { messages: Waiting::One(member, lane), placed: None });
            return;
        };
        match &mut queue.messages {
            Waiting::Many(many) => many.push(member, lane),
            Waiting::One(first, first_lane) => {
                let mut many = Many { messages: VecDeque::new(), lanes: [0; Lane::COUNT] };
                many.push(*first, *first_lane);
                many.push(member, lane);
                queue.messages = Waiting::Many(Box::new(many));
            }
        }
    }

    /// Takes a message out, wherever it stands.
    pub(super) fn remove(&mut self, key: NonZeroU64, lane: Lane, id: MessageId) {
        let Some(queue) = self.0.get_mut(&key) else { return };
        match &mut queue.messages {
            Waiting::One(only, _) if only.id == id => {
                self.0.remove(&key);
            }
            Waiting::One(..) => {}
            Waiting::Many(many) => {
                let Ok(place) = many.messages.binary_search_by_key(&id, |member| member.id) else { return };
                many.messages.remove(place);
                many.lanes[lane.index()] -= 1;
                if let (1, Some(last)) = (many.messages.len(), many.messages.front()) {
                    queue.messages = Waiting::One(*last, many.highest());
                }
            }
        }
    }

    /// The key's oldest message.
    pub(super) fn head(&self, key: NonZeroU64) -> Option<MessageId> {
        match &self.0.get(&key)?.messages {
            Waiting::One(member, _) => Some(member.id),
            Waiting::Many(many) => many.messages.front().map(|member| member.id),
        }
    }

    /// The key's messages for the same target, oldest first.
    pub(super) fn of_target(&self, order: Order) -> impl Iterator<Item = MessageId> {
        let (one, many) = match self.0.get(&order.key).map(|queue| &queue.messages) {
            Some(Waiting::One(member, _)) => (Some(member), None),
            Some(Waiting::Many(many)) => (None, Some(&many.messages)),
            None => (None, None),
        };
        let members = one.into_iter().chain(many.into_iter().flatten());
        members.filter(move |member| member.target == order.target).map(|member| member.id)
    }

    /// The highest lane among the key's messages: the one in which the key moves.
    pub(super) fn lane(&self, key: NonZeroU64) -> Lane {
        match self.0.get(&key).map(|queue| &queue.messages) {
            Some(Waiting::One(_, lane)) => *lane,
            Some(Waiting::Many(many)) => many.highest(),
            None => Lane::default(),
        }
    }

    /// Notes in which lane the oldest message stands; gives the one in which it stood.
    pub(super) fn place(&mut self, key: NonZeroU64, lane: Option<Lane>) -> Option<Lane> {
        let queue = self.0.get_mut(&key)?;
        std::mem::replace(&mut queue.placed, lane)
    }
}
