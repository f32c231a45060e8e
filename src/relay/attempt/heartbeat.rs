//! Whether the connection is alive: pings of WebSocket (RFC 6455 section 5.5.2) and of the dialect, and upstream's silence.
//!
//! Any frame is life, whatever it says. A ping after which nothing at all came in is a miss; `misses` of them in a row, or a
//! silence longer than the dialect's `idle`, mean dead. Before `idle` passes a ping provokes a sign of life.
//! Invariant: at most one ping of each kind waits to be sent or answered; [`Heartbeat::due`] lies after what was last done.
//! Deliberately not here: the frames of the dialect's pings, and what a dead connection leads to.

use std::time::Duration;

use bytes::Bytes;

use super::super::time::Mono;
use crate::dialect::{RequestId, Timing, WireFrame};

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
    next: Mono,
    /// When the last one left, until anything came in.
    open: Option<Mono>,
    missed: u32,
}

impl Pinger {
    /// A ping is due: whether it may be sent, or too many went unanswered.
    fn fire(&mut self, now: Mono, misses: u32) -> bool {
        self.next = now + self.interval;
        if self.open.take().is_some() {
            self.missed += 1;
        }
        self.missed < misses
    }

    /// Something came in.
    fn life(&mut self) {
        self.open = None;
        self.missed = 0;
    }
}

/// The signs of life of one connection.
#[derive(Debug)]
pub struct Heartbeat {
    misses: u32,
    last_frame: Mono,
    websocket: Pinger,
    dialect: Option<Pinger>,
    idle: Option<Duration>,
    /// A ping was provoked by silence since the last frame.
    provoked: bool,
    /// Numbers the WebSocket pings, so that a pong is matched with its ping.
    count: u64,
    /// The last ping of each kind that has not been answered by its own pong: for the round trip.
    ping_out: Option<(u64, Mono)>,
    dialect_out: Option<(RequestId, Mono)>,
}

impl Heartbeat {
    /// Of a connection that just opened. After `misses` unanswered pings it is dead.
    pub fn new(now: Mono, interval: Duration, misses: u32) -> Self {
        Heartbeat {
            misses: misses.max(1),
            last_frame: now,
            websocket: Pinger { interval, next: now + interval, open: None, missed: 0 },
            dialect: None,
            idle: None,
            provoked: false,
            count: 0,
            ping_out: None,
            dialect_out: None,
        }
    }

    /// The dialect's own intervals, as they stand now. `pings`: it has a ping of its own.
    pub fn set_timing(&mut self, now: Mono, timing: Timing, pings: bool) {
        self.idle = timing.idle;
        let interval = timing.ping.unwrap_or(self.websocket.interval);
        if !pings {
            self.dialect = None;
        } else if self.dialect.is_none_or(|pinger| pinger.interval != interval) {
            self.dialect = Some(Pinger { interval, next: now + interval, open: None, missed: 0 });
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
        let misses = self.misses;
        if let Some(pinger) = self.dialect.as_mut().filter(|pinger| pinger.next <= now) {
            return Some(if pinger.fire(now, misses) { Beat::DialectPing } else { Beat::Dead });
        }
        if self.websocket.next <= now {
            return Some(if self.websocket.fire(now, misses) { Beat::Ping } else { Beat::Dead });
        }
        if self.provoke_at().is_some_and(|at| at <= now) {
            self.provoked = true;
            self.websocket.next = now + self.websocket.interval;
            // A ping that is already out provokes as well.
            return self.websocket.open.is_none().then_some(Beat::Ping);
        }
        None
    }

    /// When [`Heartbeat::beat`] has something to do.
    pub fn due(&self) -> Mono {
        let idle = self.idle.map(|idle| self.last_frame + idle);
        let dialect = self.dialect.map(|pinger| pinger.next);
        [idle, dialect, self.provoke_at()].into_iter().flatten().fold(self.websocket.next, Mono::min)
    }

    /// The frame of the next WebSocket ping.
    pub fn ping_frame(&mut self) -> WireFrame {
        self.count += 1;
        WireFrame::Ping(Bytes::from(self.count.to_string()))
    }

    /// A WebSocket ping was handed to the carrier.
    pub fn ping_sent(&mut self, now: Mono) {
        self.websocket.open = Some(now);
        self.ping_out = Some((self.count, now));
    }

    /// The dialect's ping was handed to the carrier; `answered`: the dialect expects an answer to it.
    pub fn dialect_ping_sent(&mut self, now: Mono, request: RequestId, answered: bool) {
        if let Some(pinger) = self.dialect.as_mut().filter(|_| answered) {
            pinger.open = Some(now);
            self.dialect_out = Some((request, now));
        }
    }

    /// A WebSocket pong came in: the round trip, if it answers the last ping.
    pub fn pong(&mut self, now: Mono, payload: &[u8]) -> Option<Duration> {
        let (count, sent) = self.ping_out?;
        if payload != count.to_string().as_bytes() {
            return None;
        }
        self.ping_out = None;
        Some(now.since(sent))
    }

    /// The dialect's pong came in: the round trip, if it answers the last ping.
    pub fn dialect_pong(&mut self, now: Mono, request: Option<RequestId>) -> Option<Duration> {
        let (last, sent) = self.dialect_out?;
        if request.is_some_and(|request| request != last) {
            return None;
        }
        self.dialect_out = None;
        Some(now.since(sent))
    }

    fn provoke_at(&self) -> Option<Mono> {
        self.idle.filter(|_| !self.provoked).map(|idle| self.last_frame + idle / 2)
    }
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
    fn the_round_trip_is_that_of_the_last_ping() {
        let mut heartbeat = Heartbeat::new(at(0), INTERVAL, 2);
        heartbeat.ping_frame();
        heartbeat.ping_sent(at(1));
        let WireFrame::Ping(second) = heartbeat.ping_frame() else { panic!("a ping") };
        heartbeat.ping_sent(at(2));
        assert_eq!(heartbeat.pong(at(3), b"1"), None);
        assert_eq!(heartbeat.pong(at(3), b"unasked"), None);
        assert_eq!(heartbeat.pong(at(3), &second), Some(Duration::from_secs(1)));
        assert_eq!(heartbeat.pong(at(3), &second), None);
    }
}
