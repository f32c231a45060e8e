//! Channels that this attempt has to unsubscribe, until upstream has answered or its time is over.
//!
//! Invariant: each channel is unsubscribed once, and once more if upstream sends of it even so; not before upstream has
//! answered its subscribe (only then it has an id to name) or its time is over; a name is held back until its
//! unsubscribe is done, so that what comes late for the old subscription is never taken for a new one's.
//! Deliberately not here: other retries. An unsubscribe that upstream does not answer has no further consequence.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::time::Mono;
use crate::dialect::{ChannelId, ChannelSpec, RequestId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// This subscribe of it is not answered yet; upstream has until then. Whether an earlier one was granted late.
    Asked(RequestId, Mono, bool),
    Queued,
    /// Sent; upstream has until then to answer, or answers nothing.
    Sent(RequestId, Option<Mono>),
}

/// Channels remembered after they left; of one that is older nothing more is said to upstream.
const LEFT_MAX: usize = 1_024;
/// Channels that were never ours and may be on their way out at once.
const STRANGERS: u32 = 4_096;

#[derive(Debug)]
struct Leaver {
    name: Box<str>,
    params: Option<Box<str>>,
    stage: Stage,
    /// It left before, and upstream sent of it even so.
    again: bool,
}

/// A channel that left, as long as its unsubscribe may be sent once more.
#[derive(Debug)]
struct Left {
    id: ChannelId,
    params: Option<Box<str>>,
}

/// The unsubscribes of one attempt.
#[derive(Debug, Default)]
pub struct Leaving {
    channels: BTreeMap<ChannelId, Leaver>,
    /// How many of them have this name.
    names: HashMap<Box<str>, u32>,
    queue: BTreeSet<ChannelId>,
    deadlines: BTreeSet<(Mono, ChannelId)>,
    /// By name.
    left: HashMap<Box<str>, Left>,
    left_order: BTreeMap<ChannelId, Box<str>>,
    /// Channels unsubscribed so far that were never ours.
    strangers: u32,
}

impl Leaving {
    /// The channel is to be unsubscribed; `asked`: once this subscribe of it is answered, until then at the latest.
    pub fn enqueue(
        &mut self,
        id: ChannelId,
        name: Box<str>,
        params: Option<Box<str>>,
        asked: Option<(RequestId, Mono)>,
    ) {
        *self.names.entry(name.clone()).or_default() += 1;
        self.channels.insert(id, Leaver { name, params, stage: Stage::Queued, again: false });
        match asked {
            Some((request, deadline)) => self.enter(id, Stage::Asked(request, deadline, false)),
            None => self.enter(id, Stage::Queued),
        }
    }

    /// Upstream acked a subscribe of the channel: the awaited one, or an earlier one, late.
    pub fn answered(&mut self, id: ChannelId, request: RequestId) {
        match self.channels.get(&id).map(|leaver| leaver.stage) {
            Some(Stage::Asked(asked, ..)) if asked == request => self.enter(id, Stage::Queued),
            Some(Stage::Asked(asked, deadline, _)) => self.enter(id, Stage::Asked(asked, deadline, true)),
            _ => {}
        }
    }

    /// Upstream refused a subscribe of the channel. Whether there is nothing to leave: it was the awaited one, and none before it
    /// was granted.
    pub fn refused(&mut self, id: ChannelId, request: RequestId) -> bool {
        match self.channels.get(&id).map(|leaver| leaver.stage) {
            Some(Stage::Asked(asked, _, false)) if asked == request => self.done(id),
            Some(Stage::Asked(asked, _, true)) if asked == request => {
                self.enter(id, Stage::Queued);
                false
            }
            _ => false,
        }
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
            self.enter(*id, Stage::Sent(request, deadline));
        }
    }

    /// The channel's unsubscribe is done. Whether that is new.
    pub fn done(&mut self, id: ChannelId) -> bool {
        self.exit(id);
        let Some(leaver) = self.channels.remove(&id) else { return false };
        if let Some(count) = self.names.get_mut(&leaver.name) {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&leaver.name);
            }
        }
        if matches!(leaver.stage, Stage::Sent(..)) && !leaver.again {
            self.remember(id, leaver);
        }
        true
    }

    fn remember(&mut self, id: ChannelId, Leaver { name, params, .. }: Leaver) {
        if let Some(before) = self.left.insert(name.clone(), Left { id, params }) {
            self.left_order.remove(&before.id);
        }
        self.left_order.insert(id, name);
        if self.left_order.len() > LEFT_MAX
            && let Some((_, oldest)) = self.left_order.pop_first()
        {
            self.left.remove(&oldest);
        }
    }

    /// Upstream sent of a channel that nobody wants. If that one left, and none of its name is leaving now, it is unsubscribed
    /// once more; whether it is.
    pub fn heard_of(&mut self, name: &str) -> bool {
        if self.holds(name) {
            return false;
        }
        let Some(Left { id, params }) = self.left.remove(name) else { return false };
        self.left_order.remove(&id);
        self.enqueue(id, name.into(), params, None);
        if let Some(leaver) = self.channels.get_mut(&id) {
            leaver.again = true;
        }
        true
    }

    /// Upstream has a channel subscribed that nobody here asked for, or that left before: it is unsubscribed.
    pub fn stranger(&mut self, name: Box<str>) {
        if self.heard_of(&name) || self.holds(&name) {
            return;
        }
        // Numbers that interest does not reach: it counts from 0, and the last one stands for none.
        self.strangers = (self.strangers + 1) % STRANGERS;
        let id = ChannelId(u32::MAX - 1 - self.strangers);
        if !self.channels.contains_key(&id) {
            self.enqueue(id, name, None, None);
            if let Some(leaver) = self.channels.get_mut(&id) {
                leaver.again = true;
            }
        }
    }

    /// One channel whose unsubscribe upstream did not answer in time, with the request; it is done. Subscribes that were not
    /// answered in time hold back nothing any more.
    pub fn unanswered(&mut self, now: Mono) -> Option<(ChannelId, RequestId)> {
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            match self.channels.get(&id)?.stage {
                Stage::Sent(request, _) => {
                    self.done(id);
                    return Some((id, request));
                }
                Stage::Asked(..) | Stage::Queued => self.enter(id, Stage::Queued),
            }
        }
        None
    }

    /// When [`Leaving::unanswered`] has something to do.
    pub fn due(&self) -> Option<Mono> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Puts the channel into a stage and the set that belongs to it.
    fn enter(&mut self, id: ChannelId, stage: Stage) {
        self.exit(id);
        let Some(leaver) = self.channels.get_mut(&id) else { return };
        leaver.stage = stage;
        match stage {
            Stage::Queued => drop(self.queue.insert(id)),
            Stage::Asked(_, deadline, _) | Stage::Sent(_, Some(deadline)) => {
                self.deadlines.insert((deadline, id));
            }
            Stage::Sent(_, None) => {}
        }
    }

    /// Takes the channel out of the set that belongs to its stage.
    fn exit(&mut self, id: ChannelId) {
        match self.channels.get(&id).map(|leaver| leaver.stage) {
            Some(Stage::Queued) => drop(self.queue.remove(&id)),
            Some(Stage::Asked(_, deadline, _) | Stage::Sent(_, Some(deadline))) => {
                self.deadlines.remove(&(deadline, id));
            }
            Some(Stage::Sent(_, None)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(names: &[&str]) -> Leaving {
        let mut leaving = Leaving::default();
        for (n, name) in (0..).zip(names) {
            leaving.enqueue(ChannelId(n), (*name).into(), None, None);
        }
        leaving
    }

    #[test]
    fn what_left_leaves_once_more_and_the_oldest_is_forgotten() {
        let mut leaving = leaving(&["never sent"]);
        leaving.done(ChannelId(0));
        assert!(!leaving.heard_of("never sent"));
        let leave = |leaving: &mut Leaving, id: u32| {
            leaving.enqueue(ChannelId(id), format!("c{id}").into(), None, None);
            leaving.sent(&[ChannelId(id)], RequestId(1), None);
            leaving.done(ChannelId(id));
        };
        let newest = u32::try_from(LEFT_MAX).unwrap() + 1;
        (1..=newest).for_each(|id| leave(&mut leaving, id));
        assert_eq!((leaving.left.len(), leaving.left_order.len()), (LEFT_MAX, LEFT_MAX));
        assert!(!leaving.heard_of("c1"), "it is the oldest");
        assert!(leaving.heard_of("c2") && !leaving.heard_of("c2"), "it is leaving");
        assert_eq!(leaving.candidates(9)[0].id, ChannelId(2));
        leaving.sent(&[ChannelId(2)], RequestId(2), None);
        leaving.done(ChannelId(2));
        assert!(!leaving.heard_of("c2"), "once more is enough");
    }

    #[test]
    fn what_was_never_ours_leaves_once_under_a_number_of_its_own() {
        let mut leaving = leaving(&["ours"]);
        leaving.stranger("ours".into());
        leaving.stranger("a".into());
        leaving.stranger("a".into());
        leaving.stranger("b".into());
        let ids: Vec<ChannelId> = leaving.candidates(9).iter().map(|spec| spec.id).collect();
        assert_eq!(ids, [ChannelId(0), ChannelId(u32::MAX - 3), ChannelId(u32::MAX - 2)]);
        leaving.sent(&ids, RequestId(1), None);
        assert!(ids.iter().all(|id| leaving.done(*id)));
        leaving.stranger("ours".into());
        assert_eq!(leaving.candidates(9)[0].id, ChannelId(0), "under the number and params it had");
        for at in 0..=STRANGERS {
            leaving.stranger(format!("s{at}").into());
        }
        assert_eq!(leaving.candidates(9_999).len(), usize::try_from(STRANGERS).unwrap() + 1);
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
    fn a_subscribe_that_is_not_answered_yet_is_waited_for() {
        let mut leaving = Leaving::default();
        for (n, name) in (0..).zip(["acked", "refused", "silent"]) {
            leaving.enqueue(ChannelId(n), name.into(), None, Some((RequestId(7), Mono(10))));
        }
        assert!(!leaving.pending() && leaving.holds("acked"));
        leaving.answered(ChannelId(0), RequestId(7));
        assert!(leaving.refused(ChannelId(1), RequestId(7)) && !leaving.holds("refused"));
        assert!(!leaving.refused(ChannelId(0), RequestId(7)), "it waits to leave");
        assert_eq!((leaving.candidates(9).len(), leaving.due()), (1, Some(Mono(10))));
        assert_eq!(leaving.unanswered(Mono(10)), None);
        assert_eq!((leaving.candidates(9).len(), leaving.due()), (2, None));
    }

    #[test]
    fn an_earlier_subscribe_that_was_granted_is_left_whatever_the_last_one_becomes() {
        let mut leaving = Leaving::default();
        let id = ChannelId(0);
        leaving.enqueue(id, "a".into(), None, Some((RequestId(7), Mono(10))));
        assert!(!leaving.refused(id, RequestId(5)), "the last one may be granted");
        leaving.answered(id, RequestId(6));
        assert!(!leaving.pending(), "the last one may be granted under another id");
        assert!(!leaving.refused(id, RequestId(7)));
        assert!(leaving.pending() && leaving.holds("a") && leaving.due().is_none());
    }

    #[test]
    fn what_needs_no_frame_leaves_the_queue() {
        let mut leaving = leaving(&["a"]);
        assert!(leaving.done(ChannelId(0)));
        assert!(!leaving.pending() && leaving.candidates(9).is_empty());
    }
}
