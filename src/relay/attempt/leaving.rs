//! Channels that this attempt has to unsubscribe, until upstream has answered or its time is over.
//!
//! Invariant: each channel is unsubscribed once; a name is held back until its unsubscribe is done, so that what comes late
//! for the old subscription is never taken for a new one's.
//! Deliberately not here: retries. An unsubscribe that upstream does not answer has no further consequence.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::time::Mono;
use crate::dialect::{ChannelId, ChannelSpec, RequestId};

#[derive(Debug)]
struct Leaver {
    name: Box<str>,
    params: Option<Box<str>>,
    sent: Option<(RequestId, Option<Mono>)>,
}

/// The unsubscribes of one attempt.
#[derive(Debug, Default)]
pub struct Leaving {
    channels: BTreeMap<ChannelId, Leaver>,
    /// How many of them have this name.
    names: HashMap<Box<str>, u32>,
    queue: BTreeSet<ChannelId>,
    deadlines: BTreeSet<(Mono, ChannelId)>,
}

impl Leaving {
    /// The channel is to be unsubscribed.
    pub fn enqueue(&mut self, id: ChannelId, name: Box<str>, params: Option<Box<str>>) {
        *self.names.entry(name.clone()).or_default() += 1;
        self.channels.insert(id, Leaver { name, params, sent: None });
        self.queue.insert(id);
    }

    /// Whether something is to be sent.
    pub fn pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether a channel of this name is on its way out.
    pub fn holds(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// At most `max` channels for the next unsubscribe, in order.
    pub fn candidates(&self, max: usize) -> Vec<ChannelSpec<'_>> {
        let known = self.queue.iter().take(max).filter_map(|id| self.channels.get(id).map(|leaver| (*id, leaver)));
        known.map(|(id, leaver)| ChannelSpec { id, name: &leaver.name, params: leaver.params.as_deref() }).collect()
    }

    /// These channels left in an unsubscribe; upstream has until `deadline` to answer, or answers nothing.
    pub fn sent(&mut self, channels: &[ChannelId], request: RequestId, deadline: Option<Mono>) {
        for id in channels {
            self.queue.remove(id);
            if let Some(leaver) = self.channels.get_mut(id) {
                leaver.sent = Some((request, deadline));
                self.deadlines.extend(deadline.map(|deadline| (deadline, *id)));
            }
        }
    }

    /// The channel's unsubscribe is done. Whether that is new.
    pub fn done(&mut self, id: ChannelId) -> bool {
        let Some(leaver) = self.channels.remove(&id) else { return false };
        match leaver.sent {
            None => {
                self.queue.remove(&id);
            }
            Some((_, Some(deadline))) => {
                self.deadlines.remove(&(deadline, id));
            }
            Some((_, None)) => {}
        }
        if let Some(count) = self.names.get_mut(&leaver.name) {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&leaver.name);
            }
        }
        true
    }

    /// One channel whose unsubscribe upstream did not answer in time, with the request; it is done.
    pub fn unanswered(&mut self, now: Mono) -> Option<(ChannelId, RequestId)> {
        let (_, id) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)?;
        let (request, _) = self.channels.get(&id)?.sent?;
        self.done(id);
        Some((id, request))
    }

    /// When [`Leaving::unanswered`] has something to do.
    pub fn due(&self) -> Option<Mono> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(names: &[&str]) -> Leaving {
        let mut leaving = Leaving::default();
        for (n, name) in (0..).zip(names) {
            leaving.enqueue(ChannelId(n), (*name).into(), None);
        }
        leaving
    }

    #[test]
    fn a_name_is_held_until_its_last_unsubscribe_is_done() {
        let mut leaving = leaving(&["a", "a", "b"]);
        let batch: Vec<ChannelId> = leaving.candidates(2).iter().map(|spec| spec.id).collect();
        assert_eq!(batch, [ChannelId(0), ChannelId(1)]);
        leaving.sent(&batch, RequestId(1), Some(Mono(10)));
        assert_eq!(leaving.candidates(9).len(), 1);
        assert!(leaving.done(ChannelId(0)));
        assert!(!leaving.done(ChannelId(0)));
        assert!(leaving.holds("a"));
        assert_eq!(leaving.unanswered(Mono(9)), None);
        assert_eq!(leaving.unanswered(Mono(10)), Some((ChannelId(1), RequestId(1))));
        assert!(!leaving.holds("a") && leaving.holds("b"));
        assert_eq!(leaving.due(), None);
    }

    #[test]
    fn what_needs_no_frame_leaves_the_queue() {
        let mut leaving = leaving(&["a"]);
        assert!(leaving.done(ChannelId(0)));
        assert!(!leaving.pending() && leaving.candidates(9).is_empty());
    }
}
