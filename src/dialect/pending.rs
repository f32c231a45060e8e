//! Requests that upstream has not answered yet.
//!
//! Invariant: at most [`MOST`]; each settles once, by its number, by a channel it names, or as the oldest of its kind. One
//! request for several channels may settle channel by channel.
//! Deliberately not here: deadlines (the relay's).

use std::collections::BTreeMap;

use super::{ChannelId, Purpose, RequestId};
use crate::relay::record::MessageId;

/// The most requests that may wait; the oldest gives way, its answer will be about nothing.
pub(crate) const MOST: usize = 65_536;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Auth,
    Subscribe,
    Unsubscribe,
    Publish,
    Ping,
    State,
    Audit,
}

/// The words for them.
pub(crate) const OPS: [(&str, Op); 7] = [
    ("auth", Op::Auth),
    ("subscribe", Op::Subscribe),
    ("unsubscribe", Op::Unsubscribe),
    ("publish", Op::Publish),
    ("ping", Op::Ping),
    ("state", Op::State),
    ("audit", Op::Audit),
];

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) op: Op,
    /// Those not settled yet, with their names.
    pub(crate) channels: Vec<(ChannelId, Box<str>)>,
    pub(crate) message: Option<MessageId>,
    /// The item whose state is asked for.
    pub(crate) key: Option<Box<str>>,
    /// It asks for what was missed.
    pub(crate) resumes: bool,
}

impl Request {
    /// A request without channels, message and key.
    pub(crate) fn new(op: Op, channels: Vec<(ChannelId, Box<str>)>) -> Self {
        Request { op, channels, message: None, key: None, resumes: false }
    }

    /// Whether an answer that names this channel and key, as far as it does, can be about it.
    fn is_about(&self, channel: Option<&str>, key: Option<&str>) -> bool {
        let other_key = self.op == Op::State && key.is_some_and(|named| self.key.as_deref() != Some(named));
        !other_key && channel.is_none_or(|name| self.channels.iter().any(|(_, known)| **known == *name))
    }

    fn purpose(&self) -> Purpose {
        let channels = || self.channels.iter().map(|(id, _)| *id).collect();
        match (self.op, self.message) {
            (Op::Subscribe, _) => Purpose::Subscribe(channels()),
            (Op::Unsubscribe, _) => Purpose::Unsubscribe(channels()),
            (Op::Publish, Some(message)) => Purpose::Publish(message),
            (Op::State, _) => {
                self.channels.first().map_or(Purpose::Ping, |(id, _)| Purpose::State(*id, self.key.clone()))
            }
            (Op::Auth, _) => Purpose::Auth,
            (Op::Audit, _) => Purpose::Audit,
            // A publish always has its message.
            (Op::Ping | Op::Publish, _) => Purpose::Ping,
        }
    }
}

/// All requests that wait, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    requests: BTreeMap<RequestId, Request>,
    subscribes: usize,
}

impl Pending {
    pub(crate) fn add(&mut self, id: RequestId, request: Request) {
        if self.requests.len() >= MOST
            && let Some((oldest, _)) = self.requests.first_key_value()
        {
            self.remove(*oldest);
        }
        self.subscribes += usize::from(request.op == Op::Subscribe);
        self.requests.insert(id, request);
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.requests.get(&id)
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.subscribes -= usize::from(request.op == Op::Subscribe);
        Some(request)
    }

    /// Whether some subscribe waits: its answer may bind a subscription id.
    pub(crate) fn subscribing(&self) -> bool {
        self.subscribes > 0
    }

    /// The oldest request of these kinds, about `channel` and `key` where they are given.
    pub(crate) fn oldest(&self, ops: &[Op], channel: Option<&str>, key: Option<&str>) -> Option<RequestId> {
        let meant = |request: &Request| ops.contains(&request.op) && request.is_about(channel, key);
        self.requests.iter().find(|(_, request)| meant(request)).map(|(id, _)| *id)
    }

    /// The publish of this message, if it waits.
    pub(crate) fn publish_of(&self, message: MessageId) -> Option<RequestId> {
        self.requests.iter().find(|(_, request)| request.message == Some(message)).map(|(id, _)| *id)
    }

    /// Settles a request, or, where it is about several channels and the answer names one of them, that one.
    /// `None`: the answer names a channel that the request is not about and several are open.
    pub(crate) fn settle(&mut self, id: RequestId, channel: Option<&str>) -> Option<Purpose> {
        let request = self.requests.get_mut(&id)?;
        if let (Some(name), 2..) = (channel, request.channels.len()) {
            let at = request.channels.iter().position(|(_, known)| **known == *name)?;
            let one = Request { channels: vec![request.channels.remove(at)], ..request.clone() };
            return Some(one.purpose());
        }
        self.remove(id).map(|request| request.purpose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(names: &[&str]) -> Request {
        let channels = names.iter().zip(1..).map(|(name, id)| (ChannelId(id), (*name).into())).collect();
        Request::new(Op::Subscribe, channels)
    }

    #[test]
    fn a_request_for_several_channels_settles_one_by_one() {
        let mut pending = Pending::default();
        pending.add(RequestId(7), subscribe(&["a", "b"]));
        assert_eq!(pending.settle(RequestId(7), Some("x")), None);
        assert_eq!(pending.settle(RequestId(7), Some("b")), Some(Purpose::Subscribe(vec![ChannelId(2)])));
        // The last one settles whatever upstream calls it.
        assert!(pending.subscribing());
        assert_eq!(pending.settle(RequestId(7), Some("A")), Some(Purpose::Subscribe(vec![ChannelId(1)])));
        assert_eq!(pending.settle(RequestId(7), None), None);
        assert!(!pending.subscribing());
    }

    #[test]
    fn the_oldest_of_a_kind_is_found_and_gives_way_at_the_limit() {
        let mut pending = Pending::default();
        let ping = Request::new(Op::Ping, Vec::new());
        pending.add(RequestId(1), ping.clone());
        pending.add(RequestId(2), subscribe(&["a"]));
        pending.add(RequestId(3), subscribe(&["b"]));
        assert_eq!(pending.oldest(&[Op::Subscribe], None, None), Some(RequestId(2)));
        assert_eq!(pending.oldest(&[Op::Subscribe, Op::Unsubscribe], Some("b"), None), Some(RequestId(3)));
        assert_eq!(pending.oldest(&[Op::Unsubscribe], None, None), None);
        for id in 4..=u64::try_from(MOST).unwrap() + 1 {
            pending.add(RequestId(id), ping.clone());
        }
        assert_eq!((pending.get(RequestId(1)), pending.requests.len()), (None, MOST));
    }

    #[test]
    fn an_answer_that_names_a_key_is_about_the_request_for_that_key() {
        let mut pending = Pending::default();
        for (id, key) in [(1, Some("a")), (2, Some("b")), (3, None)] {
            let request = Request::new(Op::State, vec![(ChannelId(9), "c".into())]);
            pending.add(RequestId(id), Request { key: key.map(Into::into), ..request });
        }
        assert_eq!(pending.oldest(&[Op::State], Some("c"), Some("b")), Some(RequestId(2)));
        assert_eq!(pending.oldest(&[Op::State], Some("c"), Some("z")), None, "one key is not the whole");
        assert_eq!(pending.oldest(&[Op::State], None, None), Some(RequestId(1)), "no key named: in order");
        assert_eq!(pending.settle(RequestId(2), None), Some(Purpose::State(ChannelId(9), Some("b".into()))));
    }
}
