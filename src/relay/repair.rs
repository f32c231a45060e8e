//! Holes that are being mended, one repair per channel at a time: when upstream is asked, what waits meanwhile, when to stop.
//!
//! A repair waits for its turn, asks, and has until a deadline to be answered; what failed is tried again with growing
//! pauses, and given up after so many tries. While upstream is asked for a state beside the stream (`How::Fetch`), the
//! channel's live events are held, to be merged by their numbers.
//!
//! Invariants: at most one repair per channel, so many asked at once, so many events and bytes held; two repairs of one channel
//! are at least `repair.cooldown` apart; a repair ends once, and gives back all that it held.
//! Deliberately not here: what is asked and how an answer is merged (`meet::heard::repairing`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::RepairConfig;

use super::feed::RingId;
use super::held::{Held, HeldEvent};
use super::pairs::AttemptId;
use super::stats::GapReason;
use super::time::Mono;

/// The pause between two tries grows up to so many cool-downs.
const GROWTH_MAX: u32 = 16;
/// Memories of ended repairs beyond which those that say nothing any more are looked for.
const RESTS_MAX: usize = 1_024;

/// How a hole is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By subscribing anew: upstream begins with the state, and orders it itself.
    Resubscribe,
    /// By asking for what is missing beside the stream.
    Fetch,
}

impl How {
    /// The word that people and frames use.
    pub fn text(self) -> &'static str {
        match self {
            How::Resubscribe => "resubscribe",
            How::Fetch => "fetch",
        }
    }
}

/// What a repair is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wound {
    /// The numbers that are missing, if any are; else the state is.
    pub missing: Option<(u64, u64)>,
    /// The newest number that subscribers were told: an older state is of no use.
    pub floor: u64,
    /// Subscribers were told that something is missing, so they must hear how it ends.
    pub told: bool,
    /// Nothing is wrong: a client wants the present state.
    pub sound: bool,
    /// By what it was noticed.
    pub reason: GapReason,
}

/// What became of the wish to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It is under way, by this or an earlier wish.
    UnderWay,
    /// It was tried in vain not long ago.
    Resting,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It will be tried again.
    Again,
    /// It was tried often enough: end it by [`Repairs::end`].
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not before this moment.
    Waiting(Mono),
    /// As soon as there is room.
    Ready,
    /// Asked; to be answered until then.
    Asked(Mono),
}

/// One repair.
#[derive(Debug)]
struct Repair {
    how: How,
    wound: Wound,
    stage: Stage,
    tries: u32,
    /// The number of the try that is to be answered.
    latest: u64,
    began: Mono,
    held: Held,
}

/// A repair that ended.
#[derive(Debug)]
pub struct Ended {
    /// What it was about.
    pub wound: Wound,
    /// When it began.
    pub began: Mono,
    /// What was held meanwhile.
    pub held: Held,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Mono,
    given_up: bool,
}

/// All repairs.
#[derive(Debug)]
pub struct Repairs {
    config: RepairConfig,
    open: BTreeMap<RingId, Repair>,
    /// Moments at which a repair may ask, or its answer is late.
    due: BTreeSet<(Mono, RingId)>,
    ready: BTreeSet<RingId>,
    asked: usize,
    /// Tries so far, over all channels.
    tries: u64,
    rests: BTreeMap<RingId, Rest>,
    held_bytes: usize,
}

impl Repairs {
    /// None yet.
    pub fn new(config: RepairConfig) -> Self {
        Repairs {
            config,
            open: BTreeMap::new(),
            due: BTreeSet::new(),
            ready: BTreeSet::new(),
            asked: 0,
            tries: 0,
            rests: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// Other limits from now on.
    pub fn reload(&mut self, config: RepairConfig) {
        self.config = config;
    }

    /// A repair is wanted. A wish that finds one under way adds what must be told.
    pub fn open(&mut self, now: Mono, ring: RingId, how: How, wound: Wound) -> Opened {
        if let Some(repair) = self.open.get_mut(&ring) {
            repair.wound.told |= wound.told;
            repair.wound.sound &= wound.sound;
            return Opened::UnderWay;
        }
        let rest = self.rests.get(&ring).copied().filter(|rest| rest.until > now);
        if rest.is_some_and(|rest| rest.given_up) {
            return Opened::Resting;
        }
        let repair = Repair { how, wound, stage: Stage::Ready, tries: 0, latest: 0, began: now, held: Held::default() };
        self.open.insert(ring, repair);
        self.enter(ring, rest.map_or(Stage::Ready, |rest| Stage::Waiting(rest.until)));
        Opened::UnderWay
    }

    /// Whether a repair of the channel is under way.
    pub fn is_open(&self, ring: RingId) -> bool {
        !self.open.is_empty() && self.open.contains_key(&ring)
    }

    /// Whether the channel's events wait for a repair.
    pub fn holds(&self, ring: RingId) -> bool {
        !self.open.is_empty() && self.open.get(&ring).is_some_and(|repair| repair.how == How::Fetch)
    }

    /// Whether a repair of the channel has asked and is not answered.
    pub fn is_asked(&self, ring: RingId) -> bool {
        self.open.get(&ring).is_some_and(|repair| matches!(repair.stage, Stage::Asked(_)))
    }

    /// What a repair is about.
    pub fn wound(&self, ring: RingId) -> Option<Wound> {
        self.open.get(&ring).map(|repair| repair.wound)
    }

    /// The newest event that waits, for its numbers: `(attempt, last number)`.
    pub fn newest(&self, ring: RingId) -> Option<(AttemptId, u64)> {
        let held = self.open.get(&ring)?.held.iter();
        held.filter_map(|event| Some((event.attempt, event.sequence?.1))).last()
    }

    /// What waits, in order.
    pub fn held(&self, ring: RingId) -> impl Iterator<Item = &HeldEvent> {
        self.open.get(&ring).into_iter().flat_map(|repair| repair.held.iter())
    }

    /// Lets an event wait. `false`: there is no more room, so the repair has failed.
    pub fn hold(&mut self, event: HeldEvent) -> bool {
        let Some(repair) = self.open.get_mut(&event.ring) else { return false };
        let before = repair.held.bytes();
        repair.held.put(event);
        self.held_bytes += repair.held.bytes() - before;
        repair.held.len() <= self.config.held_events && self.held_bytes <= self.config.held_bytes_total
    }

    /// Upstream counts anew: what waited belongs to the old count, and so does an answer that is under way.
    pub fn begin_anew(&mut self, ring: RingId) {
        let Some(repair) = self.open.get_mut(&ring) else { return };
        self.held_bytes -= repair.held.bytes();
        repair.held = Held::default();
        repair.wound = Wound { missing: None, floor: 0, told: true, sound: false, reason: GapReason::UpstreamSeq };
        if matches!(repair.stage, Stage::Asked(_)) {
            self.enter(ring, Stage::Ready);
        }
    }

    /// The next repair that may ask; it stays the next one until it did, or ended.
    pub fn next_ready(&self) -> Option<(RingId, How)> {
        let ring = *self.ready.first().filter(|_| self.asked < self.config.concurrent)?;
        Some((ring, self.open.get(&ring)?.how))
    }

    /// Upstream is asked now. Gives the number of this try.
    pub fn ask(&mut self, now: Mono, ring: RingId) -> u64 {
        let until = now + self.config.timeout;
        self.tries += 1;
        if let Some(repair) = self.open.get_mut(&ring) {
            repair.tries += 1;
            repair.latest = self.tries;
            self.enter(ring, Stage::Asked(until));
        }
        self.tries
    }

    /// Whether the answer to this try is waited for.
    pub fn expects(&self, ring: RingId, try_number: u64) -> bool {
        self.is_asked(ring) && self.open.get(&ring).is_some_and(|repair| repair.latest == try_number)
    }

    /// The answer was of no use, or there is none. `at_least`: not before that is asked again.
    pub fn failed(&mut self, now: Mono, ring: RingId, at_least: Option<Duration>) -> Failed {
        let Some(repair) = self.open.get(&ring) else { return Failed::Over };
        if repair.tries >= self.config.attempts {
            return Failed::Over;
        }
        let growth = 1_u32.checked_shl(repair.tries.saturating_sub(1)).unwrap_or(GROWTH_MAX).min(GROWTH_MAX);
        let pause = self.config.cooldown.saturating_mul(growth).max(at_least.unwrap_or_default());
        self.enter(ring, Stage::Waiting(now + pause));
        Failed::Again
    }

    /// Ends a repair. `given_up`: it is not tried again for that long.
    pub fn end(&mut self, now: Mono, ring: RingId, given_up: Option<Duration>) -> Option<Ended> {
        self.exit(ring);
        let repair = self.open.remove(&ring)?;
        self.held_bytes -= repair.held.bytes();
        if self.rests.len() >= RESTS_MAX {
            self.rests.retain(|_, rest| rest.until > now);
        }
        let until = now + given_up.unwrap_or(self.config.cooldown);
        self.rests.insert(ring, Rest { until, given_up: given_up.is_some() });
        Some(Ended { wound: repair.wound, began: repair.began, held: repair.held })
    }

    /// A state came and is of no use: it is not asked for again before long.
    pub fn rest(&mut self, now: Mono, ring: RingId) {
        self.end(now, ring, Some(self.config.given_up_for));
        self.rests.insert(ring, Rest { until: now + self.config.given_up_for, given_up: true });
    }

    /// How long nobody tries again what was tried in vain.
    pub fn given_up_for(&self) -> Duration {
        self.config.given_up_for
    }

    /// The channel is not carried any more.
    pub fn forget(&mut self, ring: RingId) {
        self.end(Mono::default(), ring, None);
        self.rests.remove(&ring);
    }

    /// The connection is gone: what was asked on it is asked again on the next one.
    pub fn attempt_lost(&mut self) {
        let asked: Vec<RingId> = self.open.keys().copied().filter(|ring| self.is_asked(*ring)).collect();
        for ring in asked {
            self.enter(ring, Stage::Ready);
        }
    }

    /// A repair whose answer is late. Those whose pause is over become ready.
    pub fn late(&mut self, now: Mono) -> Option<RingId> {
        while let Some((_, ring)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            match self.open.get(&ring).map(|repair| repair.stage) {
                Some(Stage::Asked(_)) => return Some(ring),
                Some(Stage::Waiting(_) | Stage::Ready) | None => self.enter(ring, Stage::Ready),
            }
        }
        None
    }

    /// When [`Repairs::late`] has something to do.
    pub fn due(&self) -> Option<Mono> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Repairs under way, and events held by them.
    pub fn counts(&self) -> (usize, usize) {
        (self.open.len(), self.open.values().map(|repair| repair.held.len()).sum())
    }

    fn enter(&mut self, ring: RingId, stage: Stage) {
        self.exit(ring);
        let Some(repair) = self.open.get_mut(&ring) else { return };
        repair.stage = stage;
        match stage {
            Stage::Ready => drop(self.ready.insert(ring)),
            Stage::Waiting(at) => drop(self.due.insert((at, ring))),
            Stage::Asked(until) => {
                self.due.insert((until, ring));
                self.asked += 1;
            }
        }
    }

    fn exit(&mut self, ring: RingId) {
        match self.open.get(&ring).map(|repair| repair.stage) {
            Some(Stage::Ready) => drop(self.ready.remove(&ring)),
            Some(Stage::Waiting(at)) => drop(self.due.remove(&(at, ring))),
            Some(Stage::Asked(until)) => self.asked -= usize::from(self.due.remove(&(until, ring))),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::held::tests::numbered;
    use super::super::time::Time;
    use super::*;

    const WOUND: Wound =
        Wound { missing: Some((2, 4)), floor: 1, told: true, sound: false, reason: GapReason::UpstreamSeq };
    const RING: RingId = RingId(1);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn repairs() -> Repairs {
        Repairs::new(RepairConfig {
            attempts: 3,
            timeout: Duration::from_millis(100),
            cooldown: Duration::from_millis(10),
            given_up_for: Duration::from_secs(1),
            concurrent: 2,
            held_events: 2,
            held_bytes_total: 1_000_000,
        })
    }

    #[test]
    fn one_repair_per_channel_and_so_many_at_once() {
        let mut repairs = repairs();
        for ring in [1, 2, 3, 1] {
            assert_eq!(repairs.open(at(0), RingId(ring), How::Resubscribe, WOUND), Opened::UnderWay);
        }
        assert_eq!(repairs.counts(), (3, 0));
        for ring in [1, 2] {
            assert_eq!(repairs.next_ready(), Some((RingId(ring), How::Resubscribe)));
            repairs.ask(at(0), RingId(ring));
        }
        assert_eq!(repairs.next_ready(), None, "no room for the third one");
        assert!(repairs.end(at(1), RingId(1), None).is_some_and(|ended| ended.wound == WOUND));
        assert_eq!(repairs.next_ready(), Some((RingId(3), How::Resubscribe)));
        assert!(repairs.end(at(1), RingId(1), None).is_none(), "it ends once");
    }

    #[test]
    fn tries_are_bounded_with_growing_pauses_and_then_it_rests() {
        let mut repairs = repairs();
        repairs.open(at(0), RING, How::Fetch, WOUND);
        let first = repairs.ask(at(0), RING);
        assert!(repairs.expects(RING, first));
        assert_eq!(repairs.late(at(99)), None);
        assert_eq!(repairs.late(at(100)), Some(RING));
        assert_eq!((repairs.failed(at(100), RING, None), repairs.expects(RING, first)), (Failed::Again, false));
        assert_eq!((repairs.next_ready(), repairs.due()), (None, Some(at(110))));
        assert_eq!((repairs.late(at(110)), repairs.next_ready()), (None, Some((RING, How::Fetch))));
        assert!(repairs.ask(at(110), RING) != first && !repairs.expects(RING, first));
        assert_eq!(repairs.failed(at(110), RING, None), Failed::Again);
        assert_eq!(repairs.due(), Some(at(130)));
        repairs.late(at(130));
        repairs.ask(at(130), RING);
        assert_eq!(repairs.failed(at(130), RING, None), Failed::Over);
        repairs.end(at(130), RING, Some(Duration::from_secs(1)));
        assert_eq!(repairs.open(at(1_129), RING, How::Fetch, WOUND), Opened::Resting);
        assert_eq!(repairs.open(at(1_130), RING, How::Fetch, WOUND), Opened::UnderWay);
    }

    #[test]
    fn two_repairs_of_a_channel_are_a_cool_down_apart() {
        let mut repairs = repairs();
        repairs.open(at(0), RING, How::Fetch, WOUND);
        repairs.end(at(0), RING, None);
        repairs.open(at(1), RING, How::Fetch, WOUND);
        assert_eq!((repairs.next_ready(), repairs.due()), (None, Some(at(10))));
        assert!(repairs.holds(RING), "its events wait all the while");
    }

    #[test]
    fn what_waits_is_bounded_and_given_back() {
        let mut repairs = repairs();
        repairs.open(at(0), RING, How::Fetch, WOUND);
        assert!(repairs.hold(numbered(RING, Some(6), Time::default())));
        assert!(repairs.hold(numbered(RING, Some(5), Time::default())));
        assert_eq!(repairs.newest(RING).map(|(_, last)| last), Some(6));
        assert!(!repairs.hold(numbered(RING, Some(7), Time::default())), "two are the most");
        let ended = repairs.end(at(0), RING, None).unwrap();
        assert_eq!(ended.held.iter().filter_map(|event| event.sequence).collect::<Vec<_>>(), [(5, 5), (6, 6), (7, 7)]);
        assert_eq!((repairs.held_bytes, repairs.counts()), (0, (0, 0)));
    }

    #[test]
    fn another_count_makes_what_waited_and_what_was_asked_worthless() {
        let mut repairs = repairs();
        repairs.open(at(0), RING, How::Fetch, WOUND);
        repairs.hold(numbered(RING, Some(6), Time::default()));
        let asked = repairs.ask(at(0), RING);
        repairs.begin_anew(RING);
        assert_eq!((repairs.expects(RING, asked), repairs.counts()), (false, (1, 0)));
        assert_eq!(
            repairs.wound(RING),
            Some(Wound { missing: None, floor: 0, told: true, sound: false, reason: GapReason::UpstreamSeq })
        );
        assert_eq!(repairs.next_ready(), Some((RING, How::Fetch)));
    }
}
