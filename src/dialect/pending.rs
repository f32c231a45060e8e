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
}

/// The words for them.
pub(crate) const OPS: [(&str, Op); 6] = [
    ("auth", Op::Auth),
    ("subscribe", Op::Subscribe),
    ("unsubscribe", Op::Unsubscribe),
    ("publish", Op::Publish),
    ("ping", Op::Ping),
    ("state", Op::State),
];

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) op: Op,
    /// Those not settled yet, with their names.
    pub(crate) channels: Vec<(ChannelId, Box<str>)>,
    pub(crate) message: Option<MessageId>,
    /// It asks for what was missed.
    pub(crate) resumes: bool,
}

impl Request {
    fn purpose(&self) -> Purpose {
        let channels = || self.channels.iter().map(|(id, _)| *id).collect();
        match (self.op, self.message) {
            (Op::Subscribe, _) => Purpose::Subscribe(channels()),
            (Op::Unsubscribe, _) => Purpose::Unsubscribe(channels()),
            (Op::Publish, Some(message)) => Purpose::Publish(message),
            (Op::State, _) => self.channels.first().map_or(Purpose::Ping, |(id, _)| Purpose::State(*id)),
            (Op::Auth, _) => Purpose::Auth,
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

    /// The oldest request of these kinds, about `channel` if given.
    pub(crate) fn oldest(&self, ops: &[Op], channel: Option<&str>) -> Option<RequestId> {
        let about = |request: &Request| match channel {
            Some(name) => request.channels.iter().any(|(_, known)| **known == *name),
            None => true,
        };
        self.requests.iter().find(|(_, request)| ops.contains(&request.op) && about(request)).map(|(id, _)| *id)
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
        Request { op: Op::Subscribe, channels, message: None, resumes: false }
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
        let ping = Request { op: Op::Ping, channels: Vec::new(), message: None, resumes: false };
        pending.add(RequestId(1), ping.clone());
        pending.add(RequestId(2), subscribe(&["a"]));
        pending.add(RequestId(3), subscribe(&["b"]));
        assert_eq!(pending.oldest(&[Op::Subscribe], None), Some(RequestId(2)));
        assert_eq!(pending.oldest(&[Op::Subscribe, Op::Unsubscribe], Some("b")), Some(RequestId(3)));
        assert_eq!(pending.oldest(&[Op::Unsubscribe], None), None);
        for id in 4..=u64::try_from(MOST).unwrap() + 1 {
            pending.add(RequestId(id), ping.clone());
        }
        assert_eq!((pending.get(RequestId(1)), pending.requests.len()), (None, MOST));
    }
}
