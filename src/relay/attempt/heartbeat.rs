//! Whether the connection is alive: pings of WebSocket (RFC 6455 section 5.5.2) and of the dialect, and upstream's silence.
//!
//! Any frame is life, whatever it says. A ping after which nothing at all came in for a deadline is a miss; so many in
//! a row, or a silence longer than the dialect's `idle`, mean dead. The deadline follows the round trips
//! ([`Patience`]): a fast path is given up early, a slow one is not taken for a dead one; it stays between a quarter of
//! the interval and `misses` intervals, and is one interval as long as nothing is known. Before `idle` passes a ping
//! provokes a sign of life.
//! Invariant: at most one ping of each kind waits to be sent; [`Heartbeat::due`] lies after what was last done.
//! Deliberately not here: the frames of the dialect's pings, and what a dead connection leads to.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::super::time::Mono;
use crate::dialect::{RequestId, Timing, WireFrame};

/// A ping may take so many times the longest usual round trip.
const PATIENCE: u32 = 4;
/// The shortest deadline is the interval divided by this: a pause of upstream's is no death.
const HASTE: u32 = 4;
/// Pings that wait for their own answer; the oldest is forgotten beyond it.
const OUT_MAX: usize = 16;

/// How long an answer may take, by what earlier ones took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// The longest usual round trip (99th percentile).
    pub trip: Option<Duration>,
    /// By how many doublings to wait longer than that: connections before this one died waiting.
    pub doublings: u32,
}

impl Patience {
    /// The deadline of one ping.
    fn deadline(self, interval: Duration, misses: u32) -> Duration {
        let known = self.trip.map_or(interval, |trip| trip.saturating_mul(PATIENCE).max(interval / HASTE));
        let longer = known.saturating_mul(1 << self.doublings.min(16));
        longer.min(interval.saturating_mul(misses))
    }
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Send a WebSocket ping ([`Heartbeat::ping_frame`]).
    Ping,
    /// Send the dialect's ping.
    DialectPing,
    /// Pings went unanswered: the connection is dead.
    Dead,
    /// Upstream was silent for longer than the dialect allows.
    Idle,
}

/// One kind of ping.
#[derive(Debug, Clone, Copy)]
struct Pinger {
    interval: Duration,
    /// One ping may take this long.
    deadline: Duration,
    next: Mono,
    /// When the last one left.
    last: Mono,
    /// When the first one left after which nothing came in.
    open: Option<Mono>,
}

impl Pinger {
    fn new(now: Mono, interval: Duration, deadline: Duration) -> Self {
        Pinger { interval, deadline, next: now + interval, last: now, open: None }
    }

    /// When the connection is dead unless something comes in.
    fn dead_at(&self, misses: u32) -> Option<Mono> {
        self.open.map(|open| open + self.deadline.saturating_mul(misses))
    }

    /// A ping left. While one is unanswered the next one follows sooner.
    fn sent(&mut self, now: Mono) {
        self.open.get_or_insert(now);
        self.last = now;
        self.next = now + self.deadline.min(self.interval);
    }

    /// Something came in.
    fn life(&mut self) {
        if self.open.take().is_some() {
            self.next = self.last + self.interval;
        }
    }
}

/// The signs of life of one connection.
#[derive(Debug)]
pub struct Heartbeat {
    misses: u32,
    patience: Patience,
    last_frame: Mono,
    websocket: Pinger,
    dialect: Option<Pinger>,
    idle: Option<Duration>,
    /// A ping was provoked by silence since the last frame.
    provoked: bool,
    /// Numbers the WebSocket pings, so that a pong is matched with its ping.
    count: u64,
    /// Pings of each kind that were not answered by their own pong, oldest first: for the round trip.
    pings_out: VecDeque<(u64, Mono)>,
    dialect_out: VecDeque<(RequestId, Mono)>,
}

impl Heartbeat {
    /// Of a connection that just opened. After `misses` unanswered pings it is dead.
    pub fn new(now: Mono, interval: Duration, misses: u32) -> Self {
        let misses = misses.max(1);
        let patience = Patience::default();
        Heartbeat {
            misses,
            patience,
            last_frame: now,
            websocket: Pinger::new(now, interval, patience.deadline(interval, misses)),
            dialect: None,
            idle: None,
            provoked: false,
            count: 0,
            pings_out: VecDeque::new(),
            dialect_out: VecDeque::new(),
        }
    }

    /// How long answers usually take, as it is known by now.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
        for pinger in [Some(&mut self.websocket), self.dialect.as_mut()].into_iter().flatten() {
            pinger.deadline = patience.deadline(pinger.interval, self.misses);
        }
    }

    /// How long one WebSocket ping may take now.
    pub fn deadline(&self) -> Duration {
        self.websocket.deadline
    }

    /// The dialect's own intervals, as they stand now. `pings`: it has a ping of its own.
    pub fn set_timing(&mut self, now: Mono, timing: Timing, pings: bool) {
        self.idle = timing.idle;
        let interval = timing.ping.unwrap_or(self.websocket.interval);
        if !pings {
            self.dialect = None;
        } else if self.dialect.is_none_or(|pinger| pinger.interval != interval) {
            self.dialect = Some(Pinger::new(now, interval, self.patience.deadline(interval, self.misses)));
        }
    }

    /// A frame came in.
    pub fn frame(&mut self, now: Mono) {
        self.last_frame = now;
        self.provoked = false;
        self.websocket.life();
        if let Some(pinger) = &mut self.dialect {
            pinger.life();
        }
    }

    /// What is due, one thing at a time until there is nothing.
    pub fn beat(&mut self, now: Mono) -> Option<Beat> {
        if self.idle.is_some_and(|idle| self.last_frame + idle <= now) {
            return Some(Beat::Idle);
        }
        if self.dead_at().is_some_and(|at| at <= now) {
            return Some(Beat::Dead);
        }
        if let Some(pinger) = self.dialect.as_mut().filter(|pinger| pinger.next <= now) {
            pinger.next = now + pinger.interval;
            return Some(Beat::DialectPing);
        }
        if self.websocket.next <= now {
            self.websocket.next = now + self.websocket.interval;
            return Some(Beat::Ping);
        }
        if self.provoke_at().is_some_and(|at| at <= now) {
            self.provoked = true;
            // A ping that is already out provokes as well.
            if self.websocket.open.is_none() {
                self.websocket.next = now + self.websocket.interval;
                return Some(Beat::Ping);
            }
        }
        None
    }

    /// When [`Heartbeat::beat`] has something to do.
    pub fn due(&self) -> Mono {
        let idle = self.idle.map(|idle| self.last_frame + idle);
        let dialect = self.dialect.map(|pinger| pinger.next);
        [idle, dialect, self.dead_at(), self.provoke_at()].into_iter().flatten().fold(self.websocket.next, Mono::min)
    }

    fn dead_at(&self) -> Option<Mono> {
        let dialect = self.dialect.and_then(|pinger| pinger.dead_at(self.misses));
        [self.websocket.dead_at(self.misses), dialect].into_iter().flatten().min()
    }

    /// The frame of the next WebSocket ping.
    pub fn ping_frame(&mut self) -> WireFrame {
        self.count += 1;
        WireFrame::Ping(Bytes::from(self.count.to_string()))
    }

    /// A WebSocket ping was handed to the carrier.
    pub fn ping_sent(&mut self, now: Mono) {
        self.websocket.sent(now);
        push(&mut self.pings_out, (self.count, now));
    }

    /// The dialect's ping was handed to the carrier; `answered`: the dialect expects an answer to it.
    pub fn dialect_ping_sent(&mut self, now: Mono, request: RequestId, answered: bool) {
        if let Some(pinger) = self.dialect.as_mut().filter(|_| answered) {
            pinger.sent(now);
            push(&mut self.dialect_out, (request, now));
        }
    }

    /// A WebSocket pong came in: the round trip, if it answers a ping.
    pub fn pong(&mut self, now: Mono, payload: &[u8]) -> Option<Duration> {
        let at = self.pings_out.iter().position(|(count, _)| payload == count.to_string().as_bytes())?;
        let (_, sent) = self.pings_out.drain(..=at).next_back()?;
        Some(now.since(sent))
    }

    /// The dialect's pong came in: the round trip, if it answers a ping. One that names none answers the oldest; the pings
    /// between them are forgotten, for nobody knows whether upstream answers each.
    pub fn dialect_pong(&mut self, now: Mono, request: Option<RequestId>) -> Option<Duration> {
        let Some(request) = request else {
            let (_, sent) = self.dialect_out.drain(..).next()?;
            return Some(now.since(sent));
        };
        let at = self.dialect_out.iter().position(|(out, _)| *out == request)?;
        let (_, sent) = self.dialect_out.drain(..=at).next_back()?;
        Some(now.since(sent))
    }

    fn provoke_at(&self) -> Option<Mono> {
        self.idle.filter(|_| !self.provoked).map(|idle| self.last_frame + idle / 2)
    }
}

fn push<T>(out: &mut VecDeque<T>, ping: T) {
    if out.len() == OUT_MAX {
        out.pop_front();
    }
    out.push_back(ping);
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    /// Runs until something other than a ping comes of it; gives when and what, and when pings were sent.
    fn run(heartbeat: &mut Heartbeat, until: u64) -> (Vec<u64>, Option<(u64, Beat)>) {
        let mut pings = Vec::new();
        loop {
            let due = heartbeat.due();
            if due > at(until) {
                return (pings, None);
            }
            let second = due.0 / 1_000_000_000;
            while let Some(beat) = heartbeat.beat(due) {
                match beat {
                    Beat::Ping => {
                        heartbeat.ping_frame();
                        heartbeat.ping_sent(due);
                        pings.push(second);
                    }
                    Beat::DialectPing => heartbeat.dialect_ping_sent(due, RequestId(second), true),
                    dead => return (pings, Some((second, dead))),
                }
            }
            assert!(heartbeat.due() > due, "no busy loop");
        }
    }

    #[test]
    fn unanswered_pings_mean_dead() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        assert_eq!(run(&mut heartbeat, 1000), (vec![20, 40], Some((60, Beat::Dead))));
    }

    fn patient(millis: u64, doublings: u32) -> Heartbeat {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        heartbeat.set_patience(Patience { trip: Some(Duration::from_millis(millis)), doublings });
        heartbeat
    }

    #[test]
    fn a_fast_path_is_given_up_early_and_an_answered_ping_is_followed_by_a_whole_interval() {
        assert_eq!(run(&mut patient(20, 0), 1000), (vec![20, 25], Some((30, Beat::Dead))), "a quarter of the interval");
        let mut heartbeat = patient(20, 0);
        assert_eq!(run(&mut heartbeat, 20), (vec![20], None));
        heartbeat.frame(at(21));
        assert_eq!(run(&mut heartbeat, 60), (vec![40, 45], Some((50, Beat::Dead))));
    }

    #[test]
    fn a_slow_path_is_waited_for_within_the_bound() {
        assert_eq!(
            run(&mut patient(7_000, 0), 1000),
            (vec![20, 40, 60], Some((76, Beat::Dead))),
            "four round trips, twice"
        );
        let bound = (vec![20, 40, 60, 80], Some((100, Beat::Dead)));
        assert_eq!(run(&mut patient(3_600_000, 0), 1000), bound, "never longer than misses intervals for one ping");
        assert_eq!(run(&mut patient(20, 6), 1000), bound, "deaths before this one made it patient");
        assert_eq!(run(&mut patient(20, 1), 1000), (vec![20, 30], Some((40, Beat::Dead))));
    }

    #[test]
    fn an_answer_that_comes_after_the_next_ping_is_measured() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        assert_eq!(run(&mut heartbeat, 40), (vec![20, 40], None));
        assert_eq!(heartbeat.pong(at(45), b"1"), Some(Duration::from_secs(25)));
        assert_eq!(heartbeat.pong(at(46), b"2"), Some(Duration::from_secs(6)));
        for _ in 0..100 {
            heartbeat.ping_frame();
            heartbeat.ping_sent(at(50));
        }
        assert_eq!(heartbeat.pong(at(51), b"3"), None, "only the newest are waited for");
        assert_eq!(heartbeat.pings_out.len(), OUT_MAX);
    }

    #[test]
    fn any_frame_is_life() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        assert_eq!(run(&mut heartbeat, 59), (vec![20, 40], None));
        heartbeat.frame(at(59));
        assert_eq!(run(&mut heartbeat, 99), (vec![60, 80], None));
        assert_eq!(run(&mut heartbeat, 200), (vec![], Some((100, Beat::Dead))));
    }

    #[test]
    fn a_ping_that_could_not_be_sent_is_no_miss() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        for second in [20, 40, 60, 80] {
            assert_eq!(heartbeat.beat(at(second)), Some(Beat::Ping));
            assert_eq!(heartbeat.beat(at(second)), None);
        }
    }

    #[test]
    fn silence_is_provoked_and_then_deadly() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        heartbeat.set_timing(at(0), Timing { idle: Some(Duration::from_secs(10)), ..Timing::default() }, false);
        assert_eq!(run(&mut heartbeat, 7), (vec![5], None));
        heartbeat.frame(at(7));
        assert_eq!(run(&mut heartbeat, 1000), (vec![12], Some((17, Beat::Idle))));
    }

    #[test]
    fn the_dialects_ping_has_its_own_interval() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        let timing = |seconds| Timing { ping: Some(Duration::from_secs(seconds)), ..Timing::default() };
        heartbeat.set_timing(at(0), timing(5), true);
        assert_eq!(heartbeat.due(), at(5));
        heartbeat.set_timing(at(1), timing(5), true);
        assert_eq!(heartbeat.due(), at(5), "the same again changes nothing");
        assert_eq!(heartbeat.beat(at(5)), Some(Beat::DialectPing));
        heartbeat.dialect_ping_sent(at(5), RequestId(3), true);
        assert_eq!(heartbeat.dialect_pong(at(6), Some(RequestId(2))), None);
        assert_eq!(heartbeat.dialect_pong(at(6), None), Some(Duration::from_secs(1)));
        assert_eq!(heartbeat.dialect_pong(at(6), None), None);
        heartbeat.frame(at(6));
        heartbeat.set_timing(at(6), timing(3), true);
        assert_eq!(run(&mut heartbeat, 1000), (vec![], Some((15, Beat::Dead))), "two of 9, 12 and 15 went unanswered");
    }

    #[test]
    fn the_round_trip_is_that_of_the_ping_that_is_answered() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        heartbeat.ping_frame();
        heartbeat.ping_sent(at(1));
        let WireFrame::Ping(second) = heartbeat.ping_frame() else { panic!("a ping") };
        heartbeat.ping_sent(at(2));
        assert_eq!(heartbeat.pong(at(3), b"unasked"), None);
        assert_eq!(heartbeat.pong(at(3), &second), Some(Duration::from_secs(1)));
        assert_eq!(heartbeat.pong(at(3), &second), None);
        assert_eq!(heartbeat.pong(at(4), b"1"), None, "an older one cannot be answered after it");
    }
}
