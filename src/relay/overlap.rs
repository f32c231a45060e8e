//! Two connections bring the same channels for a while: whose event counts.
//!
//! Where numbers or ids tell events apart, the streams of both are merged: what one brought is a duplicate on the other, and
//! nothing is missing between them. Until the newer connection takes over, the older one leads: what only the newer one has
//! brought so far is noted and left to the older one, so that nothing is put before what still comes. Where nothing tells
//! events apart, a channel is cut from the older connection to the newer one at one moment, which is told as a gap.
//!
//! Invariants: an event that is passed over was admitted from the other connection, or will come on the one that leads, or
//! belongs to a channel that was cut; what is remembered has a limit. After the older one's end duplicates are known for
//! [`LATE`]; from then on a lower number is a new start again.
//! Deliberately not here: when to take over, and what a cut is told as.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::feed::RingId;
use super::pairs::AttemptId;
use super::time::Mono;

/// How long after the older connection's end the newer one may still bring what the older one brought.
pub const LATE: Duration = Duration::from_secs(2);
/// Ids remembered at most, over all channels; one that is older counts as new.
const IDS_MAX: usize = 65_536;

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// It counts.
    Admit,
    /// The other connection brought it.
    Duplicate,
    /// The other connection speaks for it.
    PassOver,
}

/// Upstream's numbers of an event, and the newest before it on its channel with the connection that brought it.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// The event's first and last number.
    pub event: (u64, u64),
    /// The channel's newest so far.
    pub newest: Option<(u64, AttemptId)>,
    /// From one number to the next.
    pub step: u64,
}

/// Ids of events, the oldest given up first.
#[derive(Debug, Default)]
struct Ids {
    known: BTreeSet<(RingId, u64)>,
    order: VecDeque<(RingId, u64)>,
}

impl Ids {
    fn insert(&mut self, id: (RingId, u64)) {
        if self.known.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// The merging of two connections.
#[derive(Debug, Default)]
pub struct Overlap {
    /// The connection that takes over; `None`: there is nothing to merge.
    newer: Option<AttemptId>,
    /// It leads now.
    taken_over: bool,
    /// When merging ends, once the older connection is gone.
    until: Option<Mono>,
    /// What the older one brought.
    brought: Ids,
    /// What only the newer one brought so far and the older one will bring, too.
    ahead: BTreeSet<(RingId, u64)>,
    /// The same by number.
    ahead_numbers: BTreeMap<RingId, u64>,
    /// Channels for which the newer one speaks already.
    cut: BTreeSet<RingId>,
}

impl Overlap {
    /// A connection begins that is to take over.
    pub fn begin(&mut self, newer: AttemptId) {
        *self = Overlap { newer: Some(newer), ..Overlap::default() };
    }

    /// Whether events have to be merged.
    pub fn is_open(&self) -> bool {
        self.newer.is_some()
    }

    /// The newer connection leads from now on. Gives the channels of which the older one still owed events that only ids tell
    /// apart; where there are numbers, these will show what is missing.
    pub fn take_over(&mut self) -> BTreeSet<RingId> {
        self.taken_over = true;
        self.ahead_numbers.clear();
        std::mem::take(&mut self.ahead).into_iter().map(|(ring, _)| ring).collect()
    }

    /// The connection that took over is gone, and this one is opened in its place.
    pub fn followed_by(&mut self, next: AttemptId) {
        if self.taken_over {
            self.newer = Some(next);
        }
    }

    /// The older connection is gone.
    pub fn older_gone(&mut self, now: Mono) {
        if self.is_open() {
            self.take_over();
            self.until = Some(now + LATE);
        }
    }

    /// The newer connection is gone before it took over; gives the channels that were cut to it.
    pub fn newer_gone(&mut self) -> Vec<RingId> {
        std::mem::take(self).cut.into_iter().collect()
    }

    /// Ends the merging when its time has come.
    pub fn expire(&mut self, now: Mono) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Overlap::default();
        }
    }

    /// When [`Overlap::expire`] has something to do.
    pub fn due(&self) -> Option<Mono> {
        self.until
    }

    /// Whether the older connection has brought all that the newer one has.
    pub fn is_level(&self) -> bool {
        self.ahead.is_empty() && self.ahead_numbers.is_empty()
    }

    /// The newer connection speaks for the channel from now on. Whether that is new.
    pub fn cut(&mut self, ring: RingId) -> bool {
        self.is_open() && self.cut.insert(ring)
    }

    /// Whether the newer connection spoke for the channel before its time.
    pub fn is_cut(&self, ring: RingId) -> bool {
        self.cut.contains(&ring)
    }

    /// Whether this connection leads on the channel.
    fn leads(&self, ring: RingId, attempt: AttemptId) -> bool {
        let newer_leads = self.taken_over || self.cut.contains(&ring);
        newer_leads == (self.newer == Some(attempt))
    }

    /// Judges an event with numbers that prove something.
    pub fn numbered(&mut self, ring: RingId, attempt: AttemptId, numbers: Numbers) -> Merge {
        let leads = self.leads(ring, attempt);
        let (first, last) = numbers.event;
        let Some((newest, by)) = numbers.newest else {
            return if leads || self.taken_over { Merge::Admit } else { self.note_ahead(ring, last) };
        };
        if last <= newest {
            // Its own numbers are judged as on any connection.
            return if by == attempt { Merge::Admit } else { Merge::Duplicate };
        }
        if leads || first <= newest.saturating_add(numbers.step) {
            if self.ahead_numbers.get(&ring).is_some_and(|ahead| *ahead <= last) {
                self.ahead_numbers.remove(&ring);
            }
            return Merge::Admit;
        }
        self.note_ahead(ring, last)
    }

    fn note_ahead(&mut self, ring: RingId, last: u64) -> Merge {
        if !self.taken_over {
            let ahead = self.ahead_numbers.entry(ring).or_default();
            *ahead = last.max(*ahead);
        }
        Merge::PassOver
    }

    /// Judges an event with an id.
    pub fn named(&mut self, ring: RingId, attempt: AttemptId, id: &str) -> Merge {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let id = (ring, hasher.finish());
        if self.newer != Some(attempt) {
            if !self.leads(ring, attempt) {
                return Merge::PassOver;
            }
            self.brought.insert(id);
            self.ahead.remove(&id);
            return Merge::Admit;
        }
        if self.brought.known.contains(&id) {
            return Merge::Duplicate;
        }
        if self.leads(ring, attempt) {
            return Merge::Admit;
        }
        if self.ahead.len() < IDS_MAX {
            self.ahead.insert(id);
        }
        Merge::PassOver
    }

    /// Judges an event that nothing tells from others.
    pub fn plain(&self, ring: RingId, attempt: AttemptId) -> Merge {
        if self.leads(ring, attempt) { Merge::Admit } else { Merge::PassOver }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: AttemptId = AttemptId(1);
    const NEW: AttemptId = AttemptId(2);
    const RING: RingId = RingId(3);

    fn open() -> Overlap {
        let mut overlap = Overlap::default();
        overlap.begin(NEW);
        overlap
    }

    /// Feeds numbers of both connections through; gives what was admitted.
    fn merged(overlap: &mut Overlap, newest: &mut Option<(u64, AttemptId)>, events: &[(AttemptId, u64)]) -> Vec<u64> {
        let mut admitted = Vec::new();
        for (attempt, n) in events {
            let numbers = Numbers { event: (*n, *n), newest: *newest, step: 1 };
            if overlap.numbered(RING, *attempt, numbers) == Merge::Admit {
                *newest = Some((*n, *attempt));
                admitted.push(*n);
            }
        }
        admitted
    }

    #[test]
    fn numbers_of_two_connections_are_one_stream() {
        let mut overlap = open();
        let mut newest = Some((4, OLD));
        let events = [(OLD, 5), (NEW, 5), (NEW, 6), (OLD, 6), (OLD, 7), (NEW, 7), (NEW, 8)];
        assert_eq!(merged(&mut overlap, &mut newest, &events), [5, 6, 7, 8]);
        assert!(overlap.is_level());
    }

    #[test]
    fn what_the_newer_one_has_before_its_time_is_left_to_the_older_one() {
        let mut overlap = open();
        let mut newest = Some((4, OLD));
        assert_eq!(merged(&mut overlap, &mut newest, &[(NEW, 7), (OLD, 5)]), [5]);
        assert!(!overlap.is_level(), "6 and 7 are still to come");
        assert_eq!(merged(&mut overlap, &mut newest, &[(OLD, 6), (OLD, 7), (NEW, 8)]), [6, 7, 8]);
        assert!(overlap.is_level());
    }

    #[test]
    fn the_first_event_of_a_channel_comes_from_the_older_one() {
        let mut overlap = open();
        let mut newest = None;
        assert_eq!(merged(&mut overlap, &mut newest, &[(NEW, 2), (OLD, 1), (OLD, 2), (NEW, 3)]), [1, 2, 3]);
    }

    #[test]
    fn late_duplicates_are_known_for_a_while() {
        let mut overlap = open();
        let mut newest = Some((9, OLD));
        overlap.take_over();
        overlap.older_gone(Mono(0));
        assert_eq!(merged(&mut overlap, &mut newest, &[(NEW, 8), (NEW, 9), (NEW, 10)]), [10]);
        overlap.expire(Mono(0) + LATE);
        assert!(!overlap.is_open());
    }

    #[test]
    fn what_follows_the_newer_one_leads_in_its_place() {
        let next = AttemptId(3);
        let mut overlap = open();
        overlap.followed_by(next);
        assert_eq!(overlap.plain(RING, next), Merge::Admit, "nothing was taken over yet");
        overlap.take_over();
        overlap.followed_by(next);
        assert_eq!(overlap.plain(RING, next), Merge::Admit);
        assert_eq!(overlap.named(RING, next, "a"), Merge::Admit);
        assert_eq!(overlap.plain(RING, OLD), Merge::PassOver);
    }

    #[test]
    fn ids_of_two_connections_are_one_stream() {
        let mut overlap = open();
        assert_eq!(overlap.named(RING, OLD, "a"), Merge::Admit);
        assert_eq!(overlap.named(RING, NEW, "a"), Merge::Duplicate);
        assert_eq!(overlap.named(RING, NEW, "b"), Merge::PassOver);
        assert!(!overlap.is_level());
        assert_eq!(overlap.named(RING, OLD, "b"), Merge::Admit);
        assert_eq!(overlap.named(RING, OLD, "c"), Merge::Admit);
        assert!(overlap.is_level());
        assert!(overlap.take_over().is_empty());
        assert_eq!(overlap.named(RING, NEW, "c"), Merge::Duplicate);
        assert_eq!(overlap.named(RING, NEW, "d"), Merge::Admit);
        assert_eq!(overlap.named(RING, OLD, "d"), Merge::PassOver);
        assert_eq!(overlap.named(RingId(4), NEW, "a"), Merge::Admit, "ids are those of their channel");
    }

    #[test]
    fn one_connection_may_give_several_events_one_id() {
        let mut overlap = open();
        assert_eq!([(); 2].map(|()| overlap.named(RING, OLD, "a")), [Merge::Admit; 2]);
        assert_eq!([(); 2].map(|()| overlap.named(RING, NEW, "a")), [Merge::Duplicate; 2]);
    }

    #[test]
    fn what_nothing_tells_apart_is_cut_once() {
        let mut overlap = open();
        assert_eq!([OLD, NEW].map(|attempt| overlap.plain(RING, attempt)), [Merge::Admit, Merge::PassOver]);
        assert!(overlap.cut(RING) && !overlap.cut(RING));
        assert_eq!([OLD, NEW].map(|attempt| overlap.plain(RING, attempt)), [Merge::PassOver, Merge::Admit]);
        assert_eq!(overlap.newer_gone(), [RING]);
        assert!(!overlap.is_open());
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut overlap = open();
        for n in 0..=IDS_MAX {
            overlap.named(RING, OLD, &n.to_string());
        }
        assert_eq!((overlap.brought.known.len(), overlap.brought.order.len()), (IDS_MAX, IDS_MAX));
        assert_eq!(overlap.named(RING, NEW, "1"), Merge::Duplicate);
    }
}
