//! Subscription ids and the channels they stand for.
//!
//! Invariant: a channel has at most one current id. An id that is no longer current stays known for [`LEAVING`], because
//! late events and stale ends of it are normal; it stands for no channel then.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::{ChannelId, RequestId};
use crate::relay::time::Mono;

/// How long an id stays known after its subscription ended.
pub(crate) const LEAVING: Duration = Duration::from_secs(30);
/// The most ids that may be leaving at once; the oldest is forgotten earlier.
const MOST_LEAVING: usize = 65_536;
/// The longest id, in bytes; a longer one is not bound.
pub(crate) const LONGEST: usize = 512;

/// What is known about a subscription id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The current id of this channel, given by this request.
    Current(ChannelId, RequestId),
    /// It was some channel's id until not long ago.
    Leaving,
}

/// A subscription id, which is a number or a string on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sub<'a> {
    pub(crate) text: &'a str,
    pub(crate) number: bool,
}

/// All subscription ids of an attempt. A number and a string with the same text are the same id: services answer `"1"` to 1.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bindings {
    by_id: HashMap<Box<str>, Bound>,
    current: BTreeMap<ChannelId, (Box<str>, bool)>,
    leaving: VecDeque<(Mono, Box<str>)>,
}

impl Bindings {
    pub(crate) fn get(&self, sub: &str) -> Option<Bound> {
        self.by_id.get(sub).copied()
    }

    /// The current id of a channel.
    pub(crate) fn of(&self, channel: ChannelId) -> Option<Sub<'_>> {
        self.current.get(&channel).map(|(text, number)| Sub { text, number: *number })
    }

    /// Makes `sub` the current id of `channel`.
    pub(crate) fn bind(&mut self, now: Mono, sub: Sub<'_>, channel: ChannelId, request: RequestId) {
        let Sub { text, number } = sub;
        if text.len() > LONGEST {
            return;
        }
        if self.of(channel).is_none_or(|current| current.text != text) {
            self.leave(now, channel);
        }
        // An id that upstream gives anew to another channel is no longer the first one's.
        if let Some(Bound::Current(other, _)) = self.get(text)
            && other != channel
        {
            self.current.remove(&other);
        }
        self.by_id.insert(text.into(), Bound::Current(channel, request));
        self.current.insert(channel, (text.into(), number));
    }

    /// The channel's current id is current no longer.
    pub(crate) fn leave(&mut self, now: Mono, channel: ChannelId) {
        self.expire(now);
        if let Some((sub, _)) = self.current.remove(&channel) {
            self.by_id.insert(sub.clone(), Bound::Leaving);
            self.leaving.push_back((now + LEAVING, sub));
        }
    }

    /// As [`Bindings::leave`], if this request gave the id.
    pub(crate) fn leave_request(&mut self, now: Mono, channel: ChannelId, request: RequestId) {
        if let Some(Bound::Current(_, given)) = self.of(channel).and_then(|sub| self.get(sub.text))
            && given == request
        {
            self.leave(now, channel);
        }
    }

    fn expire(&mut self, now: Mono) {
        while let Some((until, sub)) = self.leaving.front()
            && (*until <= now || self.leaving.len() >= MOST_LEAVING)
        {
            if self.get(sub) == Some(Bound::Leaving) {
                self.by_id.remove(sub);
            }
            self.leaving.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChannelId = ChannelId(1);
    const B: ChannelId = ChannelId(2);

    fn sub(text: &str) -> Sub<'_> {
        Sub { text, number: false }
    }

    #[test]
    fn an_old_id_stays_known_for_a_while_but_is_not_current() {
        let mut bindings = Bindings::default();
        bindings.bind(Mono(0), sub("1"), A, RequestId(1));
        bindings.bind(Mono(0), sub("2"), A, RequestId(2));
        assert_eq!(bindings.get("1"), Some(Bound::Leaving));
        assert_eq!(bindings.get("2"), Some(Bound::Current(A, RequestId(2))));
        bindings.leave(Mono(0) + LEAVING, A);
        assert_eq!((bindings.get("1"), bindings.get("2")), (None, Some(Bound::Leaving)));
        assert_eq!(bindings.of(A), None);
    }

    #[test]
    fn an_id_bound_anew_does_not_expire_with_its_past() {
        let mut bindings = Bindings::default();
        bindings.bind(Mono(0), sub("1"), A, RequestId(1));
        bindings.leave(Mono(0), A);
        bindings.bind(Mono(1), sub("1"), B, RequestId(2));
        bindings.leave(Mono(2) + LEAVING, A);
        assert_eq!(bindings.get("1"), Some(Bound::Current(B, RequestId(2))));
        bindings.bind(Mono(3), sub("1"), A, RequestId(3));
        assert_eq!((bindings.of(B), bindings.of(A)), (None, Some(sub("1"))));
    }

    #[test]
    fn only_the_request_that_gave_the_id_takes_it_back() {
        let mut bindings = Bindings::default();
        bindings.bind(Mono(0), sub("2"), A, RequestId(2));
        bindings.leave_request(Mono(0), A, RequestId(1));
        assert_eq!(bindings.of(A), Some(sub("2")));
        bindings.leave_request(Mono(0), A, RequestId(2));
        assert_eq!(bindings.of(A), None);
        bindings.bind(Mono(0), sub(&"x".repeat(LONGEST + 1)), A, RequestId(3));
        assert_eq!(bindings.of(A), None);
    }
}
