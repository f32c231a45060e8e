//! What this attempt has reached with each wanted channel: to be sent, sent and waiting for the ack, live.
//!
//! Invariants: a channel is sent again only after upstream refused it, ended it, or let the ack deadline pass; what is due is
//! found in ordered sets, never by walking over all channels; a batch that was refused is sent again in halves, down to one.
//! A late answer counts if it is that to a subscribe sent since the channel was last live: whichever of these upstream grants
//! makes the channel live, and once one is granted the refusal of another says nothing about it.
//! Deliberately not here: which channels are wanted, tokens, and the frames themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::outbox::Lane;
use super::super::time::Mono;
use crate::dialect::{ChannelId, RequestId};

/// Where a channel stands on this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the queue by priority.
    Queued,
    /// In this half of a refused batch.
    Halved(u64),
    /// To be sent again, not before this moment.
    Delayed(Mono),
    /// Sent; upstream has until this moment to answer.
    Sent(RequestId, Option<Mono>),
    /// Out of the queue while what it needs is fetched.
    Aside,
    /// Acked at this moment; the newest subscribe that was granted.
    Live(Mono, Option<RequestId>),
}

/// What a refused subscribe is to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// Its answer is the one that is waited for.
    Awaited,
    /// It was given up, and none is granted.
    Late,
    /// The channel is live, by this one as far as is known: it ended.
    Ended,
    /// Nothing: it is older than the channel here, or another one is granted.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    lane: Lane,
    /// Live on an earlier attempt.
    again: bool,
    /// Subscribes sent so far.
    tries: u32,
    /// The first of those sent since the channel was last live.
    first: Option<RequestId>,
    place: Place,
}

/// A subscribe that upstream did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// The channel.
    pub channel: ChannelId,
    /// The request; its answer may come yet.
    pub request: RequestId,
    /// Subscribes sent so far.
    pub tries: u32,
}

/// Whether upstream knows a channel that is not wanted any more, so that it has to be unsubscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was never asked for.
    No,
    /// It was asked for by this request, and upstream has until then to answer.
    Asked(RequestId, Mono),
    /// It does, or may: an answer may have been lost.
    Yes,
}

/// The channels of one attempt.
#[derive(Debug, Default)]
pub struct Acked {
    steps: BTreeMap<ChannelId, Step>,
    queue: BTreeSet<(Lane, ChannelId)>,
    /// Halves of refused batches, by number.
    halves: BTreeMap<u64, BTreeSet<ChannelId>>,
    next_half: u64,
    delayed: BTreeSet<(Mono, ChannelId)>,
    deadlines: BTreeSet<(Mono, ChannelId)>,
    /// What these need was fetched for their next subscribe.
    granted: BTreeSet<ChannelId>,
}

impl Acked {
    /// The channel is to be subscribed; nothing happens if it is known already.
    pub fn enqueue(&mut self, channel: ChannelId, lane: Lane, again: bool) {
        let step = Step { lane, again, tries: 0, first: None, place: Place::Queued };
        if let std::collections::btree_map::Entry::Vacant(entry) = self.steps.entry(channel) {
            entry.insert(step);
            self.queue.insert((lane, channel));
        }
    }

    /// The channel is live without a subscribe of this attempt: upstream resumed, or subscribes nothing.
    pub fn carry_over(&mut self, now: Mono, channel: ChannelId, lane: Lane) {
        let place = Place::Live(now, None);
        self.steps.insert(channel, Step { lane, again: true, tries: 0, first: None, place });
    }

    /// Whether something is to be sent now.
    pub fn pending(&self) -> bool {
        !self.halves.is_empty() || !self.queue.is_empty()
    }

    /// Whether nothing is to be sent, or waits for an answer.
    pub fn is_level(&self) -> bool {
        !self.pending() && self.delayed.is_empty() && self.deadlines.is_empty()
    }

    /// At most `max` channels for the next subscribe, the most urgent first, all of them live before or none.
    /// `held` says which ones must wait for something else.
    pub fn candidates(&self, max: usize, held: impl Fn(ChannelId) -> bool) -> (Vec<ChannelId>, bool) {
        let again = |id: &ChannelId| self.steps.get(id).is_some_and(|step| step.again);
        if let Some((_, half)) = self.halves.first_key_value() {
            // It was one frame before, so it is of one kind.
            return (half.iter().copied().collect(), half.first().is_some_and(again));
        }
        let mut out: Vec<ChannelId> = Vec::new();
        let mut kind = false;
        for (_, id) in self.queue.iter().take(max).filter(|(_, id)| !held(*id)) {
            if out.is_empty() {
                kind = again(id);
            }
            if again(id) == kind {
                out.push(*id);
            }
        }
        (out, kind)
    }

    /// These channels left in a subscribe; upstream has until `deadline` to answer, or answers nothing.
    pub fn sent(&mut self, channels: &[ChannelId], request: RequestId, deadline: Option<Mono>) {
        for id in channels {
            self.unplace(*id);
            self.granted.remove(id);
            if let Some(step) = self.steps.get_mut(id) {
                step.tries += 1;
                step.first.get_or_insert(request);
                step.place = Place::Sent(request, deadline);
                if let Some(deadline) = deadline {
                    self.deadlines.insert((deadline, *id));
                }
            }
        }
    }

    /// Upstream acked the channel. Whether that is new.
    pub fn live(&mut self, now: Mono, channel: ChannelId, request: RequestId) -> bool {
        let counts = |step: &&mut Step| step.first.is_some_and(|first| first <= request);
        let Some(step) = self.steps.get_mut(&channel).filter(counts) else { return false };
        if let Place::Live(_, by) = &mut step.place {
            *by = Some(request);
            return false;
        }
        self.place(channel, Place::Live(now, Some(request)));
        true
    }

    /// The channel's subscribe is with upstream, which answers none. Whether it is live by that.
    pub fn written(&mut self, now: Mono, channel: ChannelId) -> bool {
        match self.steps.get(&channel).map(|step| step.place) {
            Some(Place::Sent(request, _)) => self.live(now, channel, request),
            _ => false,
        }
    }

    /// What it means for the channel that upstream refused this subscribe.
    pub fn bearing(&self, channel: ChannelId, request: RequestId) -> Bearing {
        let Some(step) = self.steps.get(&channel) else { return Bearing::Nothing };
        match step.place {
            Place::Live(_, by) if by.is_none_or(|by| by == request) => Bearing::Ended,
            Place::Live(..) => Bearing::Nothing,
            Place::Sent(sent, _) if sent == request => Bearing::Awaited,
            _ if step.first.is_some_and(|first| first <= request) => Bearing::Late,
            _ => Bearing::Nothing,
        }
    }

    /// Whether the channel's subscribe was sent and not answered.
    pub fn is_sent(&self, channel: ChannelId) -> bool {
        self.steps.get(&channel).is_some_and(|step| matches!(step.place, Place::Sent(..)))
    }

    /// Whether the channel is live.
    pub fn is_live(&self, channel: ChannelId) -> bool {
        self.steps.get(&channel).is_some_and(|step| matches!(step.place, Place::Live(..)))
    }

    /// Whether the channel is to be subscribed, was, or is live.
    pub fn knows(&self, channel: ChannelId) -> bool {
        self.steps.contains_key(&channel)
    }

    /// The channels that are live, in order.
    pub fn all_live(&self) -> impl Iterator<Item = ChannelId> {
        self.steps.iter().filter(|(_, step)| matches!(step.place, Place::Live(..))).map(|(id, _)| *id)
    }

    /// All channels of which the subscribe is not answered.
    pub fn all_sent(&self) -> impl Iterator<Item = ChannelId> {
        self.steps.iter().filter(|(_, step)| matches!(step.place, Place::Sent(..))).map(|(id, _)| *id)
    }

    /// Upstream refused a batch without saying which channel: its halves are sent again. Those of `channels` that are not
    /// waiting for an answer any more are left alone.
    pub fn halve(&mut self, channels: &[ChannelId]) {
        let open: Vec<ChannelId> = channels.iter().copied().filter(|id| self.is_sent(*id)).collect();
        let (first, second) = open.split_at(open.len().div_ceil(2));
        for half in [first, second] {
            for id in half {
                self.place(*id, Place::Halved(self.next_half));
                if let Some(step) = self.steps.get_mut(id) {
                    // A refusal of the whole says nothing about this one.
                    step.tries = step.tries.saturating_sub(1);
                }
            }
            if !half.is_empty() {
                self.halves.insert(self.next_half, half.iter().copied().collect());
                self.next_half += 1;
            }
        }
    }

    /// The channel is sent again at `at`, by its priority then; `tries` were made that count ([`Acked::tries`]).
    pub fn retry(&mut self, channel: ChannelId, at: Mono, tries: u32) {
        self.place(channel, Place::Delayed(at));
        if let Some(step) = self.steps.get_mut(&channel) {
            step.tries = tries;
            self.delayed.insert((at, channel));
        }
    }

    /// The channel is sent again as soon as its turn comes.
    pub fn requeue(&mut self, channel: ChannelId) {
        if let Some(lane) = self.steps.get(&channel).map(|step| step.lane) {
            self.place(channel, Place::Queued);
            self.queue.insert((lane, channel));
        }
    }

    /// The channel leaves the queue until what its subscribe needs was fetched.
    pub fn set_aside(&mut self, channel: ChannelId) {
        self.place(channel, Place::Aside);
    }

    /// Whether it is out of the queue for that.
    pub fn is_aside(&self, channel: ChannelId) -> bool {
        self.steps.get(&channel).is_some_and(|step| step.place == Place::Aside)
    }

    /// What the channel's next subscribe needs is there.
    pub fn grant(&mut self, channel: ChannelId) {
        self.granted.insert(channel);
        if self.is_aside(channel) {
            self.requeue(channel);
        }
    }

    /// Whether it is.
    pub fn is_granted(&self, channel: ChannelId) -> bool {
        self.granted.contains(&channel)
    }

    /// A try failed before the subscribe could be sent. Gives the number of tries.
    pub fn tried(&mut self, channel: ChannelId) -> u32 {
        let Some(step) = self.steps.get_mut(&channel) else { return 0 };
        step.tries += 1;
        step.tries
    }

    /// Subscribes sent for the channel since it was last live for as long as `stable`.
    pub fn tries(&self, now: Mono, channel: ChannelId, stable: Duration) -> u32 {
        match self.steps.get(&channel) {
            Some(Step { place: Place::Live(since, _), .. }) if now.since(*since) >= stable => 0,
            Some(step) => step.tries,
            None => 0,
        }
    }

    /// The channel is not wanted any more.
    pub fn remove(&mut self, channel: ChannelId) -> Known {
        self.unplace(channel);
        self.granted.remove(&channel);
        match self.steps.remove(&channel) {
            Some(Step { place: Place::Sent(request, Some(deadline)), .. }) => Known::Asked(request, deadline),
            Some(Step { place: Place::Sent(_, None) | Place::Live(..), .. }) => Known::Yes,
            Some(step) if step.tries > 0 => Known::Yes,
            Some(_) | None => Known::No,
        }
    }

    /// One subscribe whose ack deadline has passed; it waits for nothing any more.
    pub fn unanswered(&mut self, now: Mono) -> Option<Unanswered> {
        let (deadline, channel) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)?;
        self.deadlines.remove(&(deadline, channel));
        let step = self.steps.get(&channel)?;
        let Place::Sent(request, _) = step.place else { return None };
        Some(Unanswered { channel, request, tries: step.tries })
    }

    /// Puts what waited long enough into the queue.
    pub fn wake(&mut self, now: Mono) {
        while let Some((_, channel)) = self.delayed.first().copied().filter(|(at, _)| *at <= now) {
            self.requeue(channel);
        }
    }

    /// When [`Acked::unanswered`] or [`Acked::wake`] has something to do.
    pub fn due(&self) -> Option<Mono> {
        [self.deadlines.first(), self.delayed.first()].into_iter().flatten().map(|(at, _)| *at).min()
    }

    fn place(&mut self, channel: ChannelId, place: Place) {
        self.unplace(channel);
        if let Some(step) = self.steps.get_mut(&channel) {
            if matches!(step.place, Place::Live(..)) {
                step.first = None;
            }
            step.place = place;
        }
    }

    /// Takes the channel out of the set that belongs to its place.
    fn unplace(&mut self, channel: ChannelId) {
        let Some(step) = self.steps.get(&channel) else { return };
        match step.place {
            Place::Queued => {
                self.queue.remove(&(step.lane, channel));
            }
            Place::Halved(number) => {
                if let Some(half) = self.halves.get_mut(&number) {
                    half.remove(&channel);
                    if half.is_empty() {
                        self.halves.remove(&number);
                    }
                }
            }
            Place::Delayed(at) => {
                self.delayed.remove(&(at, channel));
            }
            Place::Sent(_, Some(deadline)) => {
                self.deadlines.remove(&(deadline, channel));
            }
            Place::Sent(_, None) | Place::Aside | Place::Live(..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn ids(numbers: &[u32]) -> Vec<ChannelId> {
        numbers.iter().copied().map(ChannelId).collect()
    }

    fn queued(numbers: &[u32]) -> Acked {
        let mut acked = Acked::default();
        for id in ids(numbers) {
            acked.enqueue(id, Lane::Medium, false);
        }
        acked
    }

    fn next(acked: &Acked) -> Vec<ChannelId> {
        acked.candidates(100, |_| false).0
    }

    #[test]
    fn the_urgent_go_first_and_kinds_do_not_mix() {
        let mut acked = queued(&[3, 1]);
        acked.enqueue(ChannelId(9), Lane::Critical, true);
        acked.enqueue(ChannelId(8), Lane::Low, true);
        assert_eq!(acked.candidates(100, |_| false), (ids(&[9, 8]), true));
        acked.sent(&ids(&[9, 8]), RequestId(1), None);
        assert_eq!(acked.candidates(1, |_| false), (ids(&[1]), false));
        assert_eq!(acked.candidates(9, |id| id == ChannelId(1)), (ids(&[3]), false));
    }

    #[test]
    fn a_refused_batch_is_halved_down_to_the_bad_one() {
        let mut acked = queued(&[0, 1, 2, 3, 4, 5, 6]);
        let bad = ChannelId(4);
        let (mut request, mut refused, mut frames) = (0, None, 0);
        while acked.pending() {
            let batch = next(&acked);
            request += 1;
            frames += 1;
            acked.sent(&batch, RequestId(request), Some(at(10)));
            if !batch.contains(&bad) {
                batch.iter().for_each(|id| assert!(acked.live(at(1), *id, RequestId(request))));
            } else if batch.len() > 1 {
                acked.halve(&batch);
            } else {
                refused = batch.first().copied();
                assert_eq!(acked.remove(bad), Known::Asked(RequestId(request), at(10)));
            }
        }
        assert_eq!(refused, Some(bad));
        assert_eq!(acked.all_live().collect::<Vec<_>>(), ids(&[0, 1, 2, 3, 5, 6]));
        assert_eq!(frames, 7);
        assert_eq!(acked.due(), None);
    }

    #[test]
    fn an_ack_deadline_passes_once() {
        let mut acked = queued(&[1, 2]);
        acked.sent(&ids(&[1, 2]), RequestId(7), Some(at(10)));
        assert!(acked.live(at(5), ChannelId(2), RequestId(7)));
        assert!(!acked.live(at(5), ChannelId(2), RequestId(7)), "a second ack is nothing new");
        assert_eq!(acked.due(), Some(at(10)));
        assert_eq!(acked.unanswered(at(9)), None);
        let late = Unanswered { channel: ChannelId(1), request: RequestId(7), tries: 1 };
        assert_eq!(acked.unanswered(at(10)), Some(late));
        assert_eq!(acked.unanswered(at(10)), None);
        acked.requeue(ChannelId(1));
        assert_eq!(next(&acked), ids(&[1]));
    }

    #[test]
    fn a_delayed_retry_waits_and_counts() {
        let mut acked = queued(&[1]);
        acked.sent(&ids(&[1]), RequestId(1), Some(at(10)));
        acked.retry(ChannelId(1), at(30), 1);
        assert!(!acked.pending());
        assert_eq!(acked.due(), Some(at(30)), "the ack deadline is gone with the answer");
        acked.wake(at(29));
        assert!(!acked.pending());
        acked.wake(at(30));
        assert_eq!(next(&acked), ids(&[1]));
        assert_eq!(acked.tries(at(30), ChannelId(1), Duration::from_secs(1)), 1);
    }

    /// Subscribed by 3, which was not answered in time, and by 5.
    fn repeated() -> (Acked, ChannelId) {
        let mut acked = queued(&[1]);
        acked.sent(&ids(&[1]), RequestId(3), Some(at(10)));
        acked.unanswered(at(10)).unwrap();
        acked.requeue(ChannelId(1));
        acked.sent(&ids(&[1]), RequestId(5), Some(at(20)));
        (acked, ChannelId(1))
    }

    #[test]
    fn a_late_grant_counts_and_a_refusal_of_another_subscribe_no_more() {
        let (mut acked, id) = repeated();
        assert_eq!(
            [2, 3, 5].map(|n| acked.bearing(id, RequestId(n))),
            [Bearing::Nothing, Bearing::Late, Bearing::Awaited]
        );
        assert!(!acked.live(at(11), id, RequestId(2)), "it was before the channel came here");
        assert!(acked.live(at(11), id, RequestId(3)) && acked.due().is_none());
        assert_eq!([3, 5].map(|n| acked.bearing(id, RequestId(n))), [Bearing::Ended, Bearing::Nothing]);
        assert!(!acked.live(at(12), id, RequestId(5)), "it is live");
        assert_eq!(
            [3, 5].map(|n| acked.bearing(id, RequestId(n))),
            [Bearing::Nothing, Bearing::Ended],
            "the newest holds"
        );
        acked.retry(id, at(13), 0);
        assert!(!acked.live(at(13), id, RequestId(5)), "it is from before the channel was lost");
        assert_eq!(acked.bearing(id, RequestId(5)), Bearing::Nothing);
    }

    #[test]
    fn a_channel_that_is_to_be_sent_again_is_spared_that_by_a_late_grant() {
        for delayed in [false, true] {
            let mut acked = queued(&[1]);
            acked.sent(&ids(&[1]), RequestId(3), Some(at(10)));
            acked.unanswered(at(10)).unwrap();
            if delayed {
                acked.retry(ChannelId(1), at(30), 1)
            } else {
                acked.requeue(ChannelId(1))
            }
            assert!(acked.live(at(11), ChannelId(1), RequestId(3)));
            acked.wake(at(30));
            assert!(!acked.pending() && acked.is_live(ChannelId(1)));
        }
    }

    #[test]
    fn being_live_long_enough_makes_a_new_start() {
        let mut acked = queued(&[1]);
        acked.sent(&ids(&[1]), RequestId(1), None);
        assert!(acked.written(at(0), ChannelId(1)));
        let stable = Duration::from_secs(10);
        assert_eq!(acked.tries(at(9_999), ChannelId(1), stable), 1);
        assert_eq!(acked.tries(at(10_000), ChannelId(1), stable), 0);
    }

    #[test]
    fn only_what_upstream_may_know_is_unsubscribed() {
        let mut acked = queued(&[1, 2, 3]);
        assert_eq!(acked.remove(ChannelId(1)), Known::No, "never sent");
        acked.sent(&ids(&[2]), RequestId(1), Some(at(10)));
        assert_eq!(acked.remove(ChannelId(2)), Known::Asked(RequestId(1), at(10)));
        assert_eq!(acked.due(), None);
        acked.sent(&ids(&[3]), RequestId(2), Some(at(10)));
        acked.retry(ChannelId(3), at(50), 1);
        assert_eq!(acked.remove(ChannelId(3)), Known::Yes, "sent before, the answer may have been lost");
        assert_eq!(acked.remove(ChannelId(3)), Known::No);
    }
}
