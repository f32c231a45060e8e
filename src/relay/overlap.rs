//! Two connections bring the same channels for a while: whose event counts.
//!
//! Where numbers or ids tell events apart, the streams of both are merged: what one brought is a duplicate on the other, and
//! nothing is missing between them. Until the newer connection takes over, the older one leads: what only the newer one has
//! brought so far is held and left to the older one, so that nothing is put before what still comes; what the older one still
//! owes when it ends is there to be taken. Where nothing tells events apart, a channel is cut from the older connection to the
//! newer one at one moment, which is told as a gap.
//!
//! Invariants: an event that is passed over was admitted from the other connection, or will come on the one that leads, or is
//! held, or belongs to a channel that was cut; what is remembered has a limit, and what is beyond it is said to be lost. After
//! the older one's end duplicates are known for [`LATE`]; from then on a lower number is a new start again.
//! Deliberately not here: when to take over, and what a cut is told as.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::feed::RingId;
use super::held::HeldEvent;
use super::pairs::AttemptId;
use super::time::Mono;

/// How long after the older connection's end the newer one may still bring what the older one brought.
pub const LATE: Duration = Duration::from_secs(2);
/// Ids remembered at most, over all channels; one that is older counts as new.
const IDS_MAX: usize = 65_536;
/// Events of the newer connection that are held, and their bytes.
const HELD_MAX: usize = 16_384;
const HELD_BYTES: usize = 16 << 20;

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

/// An event of the newer connection that the older one has not brought.
#[derive(Debug)]
struct Early {
    /// Of its id.
    id: Option<u64>,
    event: HeldEvent,
}

/// Those of all channels, each channel's in the order in which they came.
#[derive(Debug, Default)]
struct Earlies {
    channels: BTreeMap<RingId, VecDeque<Early>>,
    count: usize,
    bytes: usize,
    /// Channels of which not all are held.
    spilled: BTreeSet<RingId>,
}

impl Earlies {
    fn put(&mut self, early: Early) {
        let (ring, bytes) = (early.event.ring, early.event.bytes());
        if self.count >= HELD_MAX || self.bytes + bytes > HELD_BYTES || self.spilled.contains(&ring) {
            self.spilled.insert(ring);
            return;
        }
        (self.count, self.bytes) = (self.count + 1, self.bytes + bytes);
        self.channels.entry(ring).or_default().push_back(early);
    }

    /// Nothing is held of a channel any more.
    fn forget(&mut self, ring: RingId) {
        self.drop_while(ring, |_| true);
    }

    /// The older connection has brought a channel's first ones.
    fn drop_while(&mut self, ring: RingId, brought: impl Fn(&Early) -> bool) {
        let Some(events) = self.channels.get_mut(&ring) else { return };
        while events.front().is_some_and(&brought)
            && let Some(early) = events.pop_front()
        {
            self.count -= 1;
            self.bytes -= early.event.bytes();
        }
        if events.is_empty() {
            self.channels.remove(&ring);
        }
    }
}

/// What the older connection still owed at its end.
#[derive(Debug, Default)]
pub struct Owed {
    /// Channels of which something is lost, because more came early than can be held.
    pub lost: BTreeSet<RingId>,
    /// What the newer one brought instead, each channel's events in their order.
    pub events: Vec<HeldEvent>,
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
    /// The events themselves.
    early: Earlies,
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

    /// The newer connection leads from now on. Gives what the older one still owed. Where there are numbers, these will show
    /// what is lost; where only ids tell events apart, somebody has to say it.
    pub fn take_over(&mut self) -> Owed {
        self.taken_over = true;
        self.ahead_numbers.clear();
        let (ahead, early) = (std::mem::take(&mut self.ahead), std::mem::take(&mut self.early));
        let lost = ahead.iter().map(|(ring, _)| *ring).filter(|ring| early.spilled.contains(ring)).collect();
        let owed = |early: &Early| early.id.is_none_or(|id| ahead.contains(&(early.event.ring, id)));
        let events = early.channels.into_values().flatten().filter(owed).map(|early| early.event).collect();
        Owed { lost, events }
    }

    /// The connection that took over is gone, and this one is opened in its place.
    pub fn followed_by(&mut self, next: AttemptId) {
        if self.taken_over {
            self.newer = Some(next);
        }
    }

    /// The older connection is gone. Gives what it still owed.
    pub fn older_gone(&mut self, now: Mono) -> Owed {
        if !self.is_open() {
            return Owed::default();
        }
        self.until = Some(now + LATE);
        self.take_over()
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

    /// Judges an event with numbers that prove something. `event`: a copy of it.
    pub fn numbered(
        &mut self,
        ring: RingId,
        attempt: AttemptId,
        numbers: Numbers,
        event: impl FnOnce() -> HeldEvent,
    ) -> Merge {
        let leads = self.leads(ring, attempt);
        let (first, last) = numbers.event;
        let Some((newest, by)) = numbers.newest else {
            if leads || self.taken_over {
                self.early.forget(ring);
                return Merge::Admit;
            }
            return self.note_ahead(ring, last, event);
        };
        if last <= newest {
            if by != attempt {
                return Merge::Duplicate;
            }
            // Its own numbers are judged as on any connection; should they begin anew, what is held is of the old count.
            self.early.forget(ring);
            return Merge::Admit;
        }
        if leads || first <= newest.saturating_add(numbers.step) {
            if self.ahead_numbers.get(&ring).is_some_and(|ahead| *ahead <= last) {
                self.ahead_numbers.remove(&ring);
            }
            self.early.drop_while(ring, |early| early.event.sequence.is_some_and(|(_, early)| early <= last));
            return Merge::Admit;
        }
        self.note_ahead(ring, last, event)
    }

    fn note_ahead(&mut self, ring: RingId, last: u64, event: impl FnOnce() -> HeldEvent) -> Merge {
        if !self.taken_over {
            let ahead = self.ahead_numbers.entry(ring).or_default();
            *ahead = last.max(*ahead);
            self.early.put(Early { id: None, event: event() });
        }
        Merge::PassOver
    }

    /// Judges an event with an id. `event`: a copy of it.
    pub fn named(&mut self, ring: RingId, attempt: AttemptId, id: &str, event: impl FnOnce() -> HeldEvent) -> Merge {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let id = (ring, hasher.finish());
        if self.newer != Some(attempt) {
            if !self.leads(ring, attempt) {
                return Merge::PassOver;
            }
            self.brought.insert(id);
            if self.ahead.remove(&id) {
                let ahead = &self.ahead;
                self.early.drop_while(ring, |early| early.id.is_some_and(|id| !ahead.contains(&(ring, id))));
            }
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
        self.early.put(Early { id: Some(id.1), event: event() });
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
    use crate::relay::held::tests::numbered;
    use crate::relay::time::Time;

    const OLD: AttemptId = AttemptId(1);
    const NEW: AttemptId = AttemptId(2);
    const RING: RingId = RingId(3);

    fn copy(ring: RingId, number: Option<u64>) -> impl FnOnce() -> HeldEvent {
        move || numbered(ring, number, Time::default())
    }

    fn named(overlap: &mut Overlap, ring: RingId, attempt: AttemptId, id: &str) -> Merge {
        overlap.named(ring, attempt, id, copy(ring, None))
    }

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
            if overlap.numbered(RING, *attempt, numbers, copy(RING, Some(*n))) == Merge::Admit {
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
        assert_eq!(named(&mut overlap, RING, next, "a"), Merge::Admit);
        assert_eq!(overlap.plain(RING, OLD), Merge::PassOver);
    }

    #[test]
    fn ids_of_two_connections_are_one_stream() {
        let mut overlap = open();
        assert_eq!(named(&mut overlap, RING, OLD, "a"), Merge::Admit);
        assert_eq!(named(&mut overlap, RING, NEW, "a"), Merge::Duplicate);
        assert_eq!(named(&mut overlap, RING, NEW, "b"), Merge::PassOver);
        assert!(!overlap.is_level());
        assert_eq!(named(&mut overlap, RING, OLD, "b"), Merge::Admit);
        assert_eq!(named(&mut overlap, RING, OLD, "c"), Merge::Admit);
        assert!(overlap.is_level());
        assert!(overlap.take_over().events.is_empty());
        assert_eq!(named(&mut overlap, RING, NEW, "c"), Merge::Duplicate);
        assert_eq!(named(&mut overlap, RING, NEW, "d"), Merge::Admit);
        assert_eq!(named(&mut overlap, RING, OLD, "d"), Merge::PassOver);
        assert_eq!(named(&mut overlap, RingId(4), NEW, "a"), Merge::Admit, "ids are those of their channel");
    }

    /// What the older connection still owes at its end: the numbers of the events, and the channels of which some are lost.
    fn owed(overlap: &mut Overlap) -> (Vec<u64>, usize) {
        let owed = overlap.take_over();
        (owed.events.iter().filter_map(|event| Some(event.sequence?.1)).collect(), owed.lost.len())
    }

    #[test]
    fn what_the_older_one_brings_no_more_is_there_to_be_taken() {
        let mut overlap = open();
        for (n, id) in (1..).zip(["a", "b", "c"]) {
            assert_eq!(overlap.named(RING, NEW, id, copy(RING, Some(n))), Merge::PassOver);
        }
        assert_eq!(named(&mut overlap, RING, OLD, "a"), Merge::Admit);
        assert_eq!(owed(&mut overlap), (vec![2, 3], 0));
        assert_eq!(owed(&mut overlap), (vec![], 0), "once");

        let mut overlap = open();
        let mut newest = Some((4, OLD));
        assert_eq!(merged(&mut overlap, &mut newest, &[(NEW, 6), (NEW, 7), (OLD, 5), (OLD, 6)]), [5, 6]);
        assert_eq!(owed(&mut overlap), (vec![7], 0));
        assert_eq!((overlap.early.count, overlap.early.bytes), (0, 0));
    }

    #[test]
    fn nothing_is_held_that_would_be_a_new_start() {
        let mut overlap = open();
        let mut newest = None;
        assert_eq!(merged(&mut overlap, &mut newest, &[(NEW, 4), (OLD, 5)]), [5]);
        assert_eq!(owed(&mut overlap), (vec![], 0), "4 is before the first one");
        let mut overlap = open();
        let mut newest = Some((4, OLD));
        assert_eq!(merged(&mut overlap, &mut newest, &[(NEW, 7), (OLD, 1)]), [1]);
        assert_eq!(owed(&mut overlap), (vec![], 0), "upstream counts anew");
    }

    #[test]
    fn what_is_more_than_can_be_held_is_lost_and_said() {
        let mut overlap = open();
        for n in 0..=HELD_MAX as u64 {
            overlap.named(RING, NEW, &n.to_string(), copy(RING, Some(n)));
        }
        assert_eq!(named(&mut overlap, RingId(4), NEW, "x"), Merge::PassOver);
        let owed = overlap.take_over();
        assert_eq!((owed.events.len(), owed.lost), (HELD_MAX, BTreeSet::from([RING, RingId(4)])));
        let mut overlap = open();
        for n in 0..=HELD_MAX as u64 {
            overlap.named(RING, NEW, &n.to_string(), copy(RING, Some(n)));
            named(&mut overlap, RING, OLD, &n.to_string());
        }
        assert_eq!((overlap.early.count, overlap.early.spilled.len()), (0, 0), "what came is not held any more");
    }

    #[test]
    fn one_connection_may_give_several_events_one_id() {
        let mut overlap = open();
        assert_eq!([(); 2].map(|()| named(&mut overlap, RING, OLD, "a")), [Merge::Admit; 2]);
        assert_eq!([(); 2].map(|()| named(&mut overlap, RING, NEW, "a")), [Merge::Duplicate; 2]);
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
            named(&mut overlap, RING, OLD, &n.to_string());
        }
        assert_eq!((overlap.brought.known.len(), overlap.brought.order.len()), (IDS_MAX, IDS_MAX));
        assert_eq!(named(&mut overlap, RING, NEW, "1"), Merge::Duplicate);
    }
}
