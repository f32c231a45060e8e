//! Requests that upstream has not answered yet.
//!
//! Invariant: at most [`MOST`]; each settles once, by its number, by a channel it names, or as the oldest of its kind. One
//! request for several channels may settle channel by channel. A subscribe whose deadline passed is late: an answer that names
//! it or its channel still finds it, one that names nothing does not, or every answer after a lost one would be another's.
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
    /// The subscription id that it gives itself, and whether that is a number.
    pub(crate) sub: Option<(Box<str>, bool)>,
    /// Nobody waits for its answer any more.
    pub(crate) late: bool,
}

impl Request {
    /// A request without channels, message and key.
    pub(crate) fn new(op: Op, channels: Vec<(ChannelId, Box<str>)>) -> Self {
        Request { op, channels, message: None, key: None, resumes: false, sub: None, late: false }
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
    /// Subscribes that are not late.
    subscribes: usize,
    late: usize,
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
        self.subscribes -= usize::from(request.op == Op::Subscribe && !request.late);
        self.late -= usize::from(request.late);
        Some(request)
    }

    /// Nobody waits for this answer any more. A subscribe may be answered even so; gives its channels.
    pub(crate) fn give_up(&mut self, id: RequestId) -> &[(ChannelId, Box<str>)] {
        if self.get(id).is_some_and(|request| request.op != Op::Subscribe) {
            self.remove(id);
        }
        let Some(request) = self.requests.get_mut(&id) else { return &[] };
        self.subscribes -= usize::from(!request.late);
        self.late += usize::from(!request.late);
        request.late = true;
        &request.channels
    }

    /// A late subscribe was granted: nobody waits for the answers of others that are about its channels alone, and their refusal
    /// says nothing about what they asked to go on from.
    pub(crate) fn granted_late(&mut self, channels: &[ChannelId]) {
        for request in self.requests.values_mut().filter(|request| request.op == Op::Subscribe && !request.late) {
            request.late = request.channels.iter().all(|(id, _)| channels.contains(id));
            request.resumes &= !request.late;
            self.subscribes -= usize::from(request.late);
            self.late += usize::from(request.late);
        }
    }

    /// The channel is done with: answers to its late subscribes are about nothing.
    pub(crate) fn forget_channel(&mut self, channel: ChannelId) {
        if self.late == 0 {
            return;
        }
        self.requests.retain(|_, request| {
            if request.late {
                request.channels.retain(|(id, _)| *id != channel);
            }
            let kept = !request.late || !request.channels.is_empty();
            self.late -= usize::from(!kept);
            kept
        });
    }

    /// This subscribe, if it is late.
    pub(crate) fn late(&self, id: RequestId) -> Option<&Request> {
        self.get(id).filter(|request| request.late)
    }

    /// Whether some subscribe waits: its answer may bind a subscription id.
    pub(crate) fn subscribing(&self) -> bool {
        self.subscribes > 0
    }

    /// The oldest request of these kinds, about `channel` and `key` where they are given; a late one if no other waits.
    pub(crate) fn oldest(&self, ops: &[Op], channel: Option<&str>, key: Option<&str>) -> Option<RequestId> {
        let meant = |request: &Request| ops.contains(&request.op) && request.is_about(channel, key);
        let first = |late| self.requests.iter().find(|(_, request)| request.late == late && meant(request));
        let late = || first(true).filter(|_| channel.is_some() && self.late > 0);
        first(false).or_else(late).map(|(id, _)| *id)
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
    fn a_late_subscribe_is_found_by_number_and_name_and_never_by_age() {
        let mut pending = Pending::default();
        pending.add(RequestId(1), subscribe(&["a"]));
        pending.add(RequestId(2), Request::new(Op::Subscribe, vec![(ChannelId(2), "b".into())]));
        assert_eq!(pending.give_up(RequestId(1)), [(ChannelId(1), "a".into())]);
        pending.give_up(RequestId(1));
        assert!(pending.late(RequestId(1)).is_some() && pending.late(RequestId(2)).is_none());
        assert_eq!(pending.oldest(&[Op::Subscribe], None, None), Some(RequestId(2)), "the first answer may be lost");
        assert_eq!(pending.oldest(&[Op::Subscribe], Some("a"), None), Some(RequestId(1)));
        pending.add(RequestId(3), subscribe(&["a"]));
        assert_eq!(pending.oldest(&[Op::Subscribe], Some("a"), None), Some(RequestId(3)), "it is waited for");
        assert_eq!(pending.settle(RequestId(1), None), Some(Purpose::Subscribe(vec![ChannelId(1)])));
        pending.granted_late(&[ChannelId(1)]);
        assert!(pending.late(RequestId(3)).is_some() && pending.subscribing(), "2 is about other channels");
        assert_eq!(pending.oldest(&[Op::Subscribe], Some("a"), None), Some(RequestId(3)));
        pending.settle(RequestId(2), None);
        assert!(!pending.subscribing());
        assert_eq!(pending.settle(RequestId(3), None), Some(Purpose::Subscribe(vec![ChannelId(1)])));
        assert_eq!((pending.requests.len(), pending.late, pending.subscribes), (0, 0, 0));
        for op in [Op::Unsubscribe, Op::Ping, Op::Audit] {
            pending.add(RequestId(4), Request::new(op, Vec::new()));
            assert!(pending.give_up(RequestId(4)).is_empty() && pending.get(RequestId(4)).is_none());
        }
    }

    #[test]
    fn what_is_late_goes_with_its_channel() {
        let mut pending = Pending::default();
        for id in 1..=2 {
            pending.add(RequestId(id), subscribe(&["a", "b"]));
        }
        pending.give_up(RequestId(1));
        pending.forget_channel(ChannelId(1));
        let left = |pending: &Pending, id| pending.get(RequestId(id)).map_or(0, |request| request.channels.len());
        assert_eq!((left(&pending, 1), left(&pending, 2)), (1, 2));
        pending.forget_channel(ChannelId(2));
        assert_eq!((left(&pending, 1), left(&pending, 2), pending.late), (0, 2, 0), "2 is waited for");
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
