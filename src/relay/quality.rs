//! How good upstream is, as one number that shows what it is made of.
//!
//! Each term goes from 1 (no complaint) to 0 along a straight line between two bounds; the score is their weighted mean
//! over the terms that are known, from 0 to 100. A band is left downwards when the score falls below its bound and
//! upwards only a margin above the next one, so that it does not flap. While the link has not been live for a while the
//! score is 0 and the band `down`.
//!
//! Clock skew: our clock at the receipt of an event minus upstream's time in it is the skew plus a latency, and latency
//! only adds, so the least of many is near the skew (the filter of RFC 5905 section 10). The least is taken every few
//! seconds, and of those the lowest quarter bounds the skew, so that a few events with a wrong time decide nothing;
//! half of the shortest round trip is taken off. A clock of ours that jumps forgets all of it.
//!
//! Deliberately not here: what is measured by others (round trips, silence, counters), and who is told.

use std::collections::VecDeque;
use std::time::Duration;

use super::lately::Lately;
use super::stats::Band;
use super::time::{Mono, Time, Wall};
use crate::protocol::duration::millis;

/// How often it is judged.
pub const EVERY: Duration = Duration::from_secs(5);
/// Until then a link that is not live is on its way back.
const DOWN_AFTER: Duration = Duration::from_secs(5);
/// Least score of a band, best first; what is below is poor.
const BANDS: [(Band, f64); 2] = [(Band::Good, 80.0), (Band::Degraded, 50.0)];
/// How far above its bound the score has to be to return to a better band.
const MARGIN: f64 = 5.0;
/// Least differences of the clocks that are kept: one per judgement.
const LEASTS: usize = 60;
/// A change of wall against monotonic time between two judgements above this is a jump; below it is a clock being adjusted.
const JUMP: Duration = Duration::from_millis(500);
/// The window of everything that is counted per hour.
const HOUR: Duration = Duration::from_secs(3_600);
/// The window of errors and of the throughput that is compared with the hour's.
const SHORT: Duration = Duration::from_secs(300);
/// Below this many events per second nothing can be said about throughput.
const FLOW_LEAST: f64 = 0.1;

/// What is true, and what was counted, at a judgement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// How long the link has not been live; `None` while it is.
    pub down_for: Option<Duration>,
    /// The longest usual round trip.
    pub rtt: Option<Duration>,
    /// How much round trips vary.
    pub jitter: Option<Duration>,
    /// The shortest round trip.
    pub least_rtt: Option<Duration>,
    /// Connections that were ready and were lost, so far.
    pub lost: u64,
    /// Messages understood or not, acks and refusals, so far.
    pub heard: u64,
    /// Of them: not understood, or refused.
    pub errors: u64,
    /// Events, so far.
    pub events: u64,
    /// Bytes received, so far.
    pub bytes: u64,
    /// Channels watched for silence.
    pub watched: usize,
    /// Silent ones.
    pub stale: usize,
}

/// One term of the score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Its name.
    pub name: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// As measured; `None`: not known yet, and not counted.
    pub value: Option<f64>,
    /// Its part of the score.
    pub weight: f64,
    /// From 0 to 1.
    pub score: Option<f64>,
}

/// Name, unit, weight, value without complaint, value with none left.
type Measure = (&'static str, &'static str, f64, f64, f64);

const MEASURES: [Measure; 8] = [
    ("rtt", "seconds", 10.0, 0.25, 5.0),
    ("jitter", "seconds", 10.0, 0.1, 2.0),
    ("reconnects", "per hour", 20.0, 0.0, 12.0),
    ("down", "share of an hour", 15.0, 0.0, 0.2),
    ("errors", "share of messages", 15.0, 0.0, 0.1),
    ("stale", "share of watched channels", 20.0, 0.0, 0.5),
    ("throughput", "share of the hour's mean", 5.0, 0.5, 0.05),
    ("clock_skew", "seconds", 5.0, 1.0, 60.0),
];

/// The judge.
#[derive(Debug)]
pub struct Quality {
    next: Mono,
    score: Option<f64>,
    band: Option<Band>,
    values: [Option<f64>; MEASURES.len()],
    skew: Skew,
    /// Wall minus monotonic time at the last judgement, in nanoseconds.
    clocks: i128,
    jumps: u64,
    last: Mono,
    down_millis: u64,
    lost: Lately,
    down: Lately,
    heard: Lately,
    errors: Lately,
    events_hour: Lately,
    events: Lately,
    bytes: Lately,
    rates: (f64, f64),
}

/// The differences between the clocks.
#[derive(Debug, Default)]
struct Skew {
    least: Option<i64>,
    leasts: VecDeque<i64>,
}

impl Skew {
    fn close_step(&mut self) {
        if let Some(least) = self.least.take() {
            if self.leasts.len() == LEASTS {
                self.leasts.pop_front();
            }
            self.leasts.push_back(least);
        }
    }

    /// Seconds that our clock is ahead of upstream's.
    fn seconds(&self, least_rtt: Option<Duration>) -> Option<f64> {
        let mut sorted: Vec<i64> = self.leasts.iter().copied().collect();
        sorted.sort_unstable();
        let low = *sorted.get(sorted.len() / 4)?;
        Some(low as f64 / 1e9 - least_rtt.unwrap_or_default().as_secs_f64() / 2.0)
    }
}

impl Quality {
    /// Nothing is known yet.
    pub fn new(now: Time) -> Self {
        let lately = |window| Lately::new(now.mono, window);
        Quality {
            next: now.mono + EVERY,
            score: None,
            band: None,
            values: [None; MEASURES.len()],
            skew: Skew::default(),
            clocks: difference(now),
            jumps: 0,
            last: now.mono,
            down_millis: 0,
            lost: lately(HOUR),
            down: lately(HOUR),
            heard: lately(SHORT),
            errors: lately(SHORT),
            events_hour: lately(HOUR),
            events: lately(SHORT),
            bytes: lately(SHORT),
            rates: (0.0, 0.0),
        }
    }

    /// An event said when upstream made it.
    pub fn source_time(&mut self, received: Wall, said: Wall) {
        let ahead = i128::from(received.0) - i128::from(said.0);
        let ahead = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
        self.skew.least = Some(self.skew.least.map_or(ahead, |least| least.min(ahead)));
    }

    /// When [`Quality::judge`] is due.
    pub fn due(&self) -> Mono {
        self.next
    }

    /// Judges anew. Gives the band if it changed.
    pub fn judge(&mut self, now: Time, reading: &Reading) -> Option<Band> {
        self.next = now.mono + EVERY;
        self.watch_clocks(now);
        let passed = now.mono.since(self.last);
        self.last = now.mono;
        let down = reading.down_for.map_or(Duration::ZERO, |down_for| down_for.min(passed));
        self.down_millis += millis(down);
        self.values = self.measure(now.mono, reading);
        let down = reading.down_for.is_some_and(|down_for| down_for >= DOWN_AFTER);
        let score = if reading.down_for.is_some() { 0.0 } else { self.weigh() };
        self.score = Some(score);
        let band = match (self.band, reading.down_for) {
            _ if down => Band::Down,
            // Not live, and not for long: what it was.
            (Some(band), Some(_)) => band,
            (None, Some(_)) => return None,
            (before, None) => band(before, score),
        };
        (self.band.replace(band) != Some(band)).then_some(band)
    }

    fn watch_clocks(&mut self, now: Time) {
        let clocks = difference(now);
        if clocks.abs_diff(self.clocks) > JUMP.as_nanos() {
            self.jumps += 1;
            self.skew = Skew::default();
        }
        self.clocks = clocks;
        self.skew.close_step();
    }

    fn measure(&mut self, now: Mono, reading: &Reading) -> [Option<f64>; MEASURES.len()] {
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let heard = self.heard.rise(now, reading.heard) as f64;
        let errors = self.errors.rise(now, reading.errors) as f64;
        let hour = self.events_hour.rate(now, reading.events);
        let short = self.events.rate(now, reading.events);
        self.rates = (short, self.bytes.rate(now, reading.bytes));
        let steady = hour >= FLOW_LEAST && self.events_hour.filled() >= 0.5;
        let down = Duration::from_millis(self.down.rise(now, self.down_millis)).as_secs_f64();
        [
            reading.rtt.map(|rtt| rtt.as_secs_f64()),
            reading.jitter.map(|jitter| jitter.as_secs_f64()),
            Some(self.lost.rise(now, reading.lost) as f64),
            Some(down / HOUR.as_secs_f64()),
            share(errors, heard),
            share(reading.stale as f64, reading.watched as f64),
            steady.then(|| short / hour),
            self.skew.seconds(reading.least_rtt),
        ]
    }

    fn weigh(&self) -> f64 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for term in self.terms() {
            if let Some(score) = term.score {
                sum += term.weight * score;
                weights += term.weight;
            }
        }
        if weights > 0.0 { 100.0 * sum / weights } else { 0.0 }
    }

    /// What the score is made of.
    pub fn terms(&self) -> impl Iterator<Item = Term> + '_ {
        MEASURES.iter().zip(self.values).map(|(&(name, unit, weight, full, none), value)| {
            let score = value.map(|value| ((none - value.abs()) / (none - full)).clamp(0.0, 1.0));
            Term { name, unit, value, weight, score }
        })
    }

    /// From 0 to 100; `None` before the first judgement.
    pub fn score(&self) -> Option<f64> {
        self.score
    }

    /// The band; `None` before the first judgement.
    pub fn band(&self) -> Option<Band> {
        self.band
    }

    /// Seconds that our clock is ahead of upstream's, as far as its events tell.
    pub fn clock_skew(&self) -> Option<f64> {
        self.values[MEASURES.len() - 1]
    }

    /// Connections lost in the last hour.
    pub fn lost(&self) -> f64 {
        self.values[2].unwrap_or_default()
    }

    /// Events and bytes per second, lately.
    pub fn rates(&self) -> (f64, f64) {
        self.rates
    }

    /// How often our clock jumped.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}

fn band(before: Option<Band>, score: f64) -> Band {
    let bound = |(band, least): (Band, f64)| {
        // Bands are ordered from good to bad: to enter one that is better than before takes a margin.
        let margin = if before.is_some_and(|before| before != Band::Down && band < before) { MARGIN } else { 0.0 };
        (band, least + margin)
    };
    BANDS.into_iter().map(bound).find(|(_, least)| score >= *least).map_or(Band::Poor, |(band, _)| band)
}

fn difference(now: Time) -> i128 {
    i128::from(now.wall.0) - i128::from(now.mono.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_795_231_888 * SECOND;

    fn at(seconds: u64) -> Time {
        Time { mono: Mono(seconds * SECOND), wall: Wall(START + seconds * SECOND) }
    }

    fn good() -> Reading {
        let ms = Duration::from_millis;
        Reading { rtt: Some(ms(40)), jitter: Some(ms(5)), least_rtt: Some(ms(20)), watched: 10, ..Reading::default() }
    }

    /// Judges every five seconds; gives the bands that it entered.
    fn run(quality: &mut Quality, seconds: std::ops::Range<u64>, reading: Reading) -> Vec<Band> {
        seconds.step_by(5).filter_map(|second| quality.judge(at(second), &reading)).collect()
    }

    #[test]
    fn a_good_upstream_is_good_and_every_term_can_spoil_it() {
        let mut quality = Quality::new(at(0));
        assert_eq!((quality.score(), quality.band()), (None, None));
        assert_eq!(run(&mut quality, 5..100, good()), [Band::Good]);
        assert_eq!(quality.score(), Some(100.0));
        let second = Duration::from_secs(1);
        let spoilt = [
            Reading { rtt: Some(second * 5), ..good() },
            Reading { jitter: Some(second * 2), ..good() },
            Reading { lost: 12, ..good() },
            Reading { heard: 100, errors: 10, ..good() },
            Reading { stale: 5, ..good() },
        ];
        for reading in spoilt {
            let mut quality = Quality::new(at(0));
            run(&mut quality, 5..20, reading);
            let score = quality.score().unwrap();
            assert!((70.0..91.0).contains(&score), "{reading:?} gives {score}");
            let bad: Vec<&str> = quality.terms().filter(|t| t.score == Some(0.0)).map(|t| t.name).collect();
            assert_eq!(bad.len(), 1, "{bad:?}");
        }
        assert!((MEASURES.iter().map(|(_, _, weight, ..)| weight).sum::<f64>() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_link_that_is_away_for_a_moment_keeps_its_band_and_then_is_down() {
        let mut quality = Quality::new(at(0));
        let away = |seconds| Reading { down_for: Some(Duration::from_secs(seconds)), ..good() };
        assert_eq!(quality.judge(at(5), &away(3)), None, "not yet live, and nothing is known");
        run(&mut quality, 10..20, good());
        assert_eq!(quality.judge(at(25), &away(4)), None);
        assert_eq!((quality.score(), quality.band()), (Some(0.0), Some(Band::Good)));
        assert_eq!(quality.judge(at(30), &away(9)), Some(Band::Down));
        assert_eq!(run(&mut quality, 35..60, good()), [Band::Good]);
        assert!(quality.score().unwrap() < 100.0, "it was down for a part of the hour");
        assert_eq!(quality.terms().find(|term| term.name == "down").unwrap().value, Some(12.0 / 3_600.0));
    }

    #[test]
    fn bands_do_not_flap_at_their_bounds() {
        assert_eq!(band(None, 80.0), Band::Good);
        assert_eq!(band(Some(Band::Good), 79.9), Band::Degraded);
        assert_eq!(band(Some(Band::Degraded), 84.9), Band::Degraded);
        assert_eq!(band(Some(Band::Degraded), 85.0), Band::Good);
        assert_eq!(band(Some(Band::Degraded), 50.0), Band::Degraded);
        assert_eq!(band(Some(Band::Degraded), 49.9), Band::Poor);
        assert_eq!(band(Some(Band::Poor), 54.9), Band::Poor);
        assert_eq!(band(Some(Band::Poor), 86.0), Band::Good);
        assert_eq!(band(Some(Band::Down), 80.0), Band::Good);
    }

    #[test]
    fn the_skew_is_found_under_latency_and_wrong_times_and_again_after_a_jump() {
        let mut quality = Quality::new(at(0));
        let said = |second: u64, latency_ms: u64| {
            let received = at(second).wall;
            // Upstream's clock is 3 s behind ours.
            (received, Wall(received.0 - 3 * SECOND - latency_ms * 1_000_000))
        };
        for second in 1..=300 {
            let (received, time) = said(second, 10 + second * 7 % 400);
            quality.source_time(received, time);
            if second == 100 {
                quality.source_time(received, Wall(received.0 + 365 * 86_400 * SECOND));
            }
            if second % 5 == 0 {
                quality.judge(at(second), &good());
            }
        }
        let skew = quality.clock_skew().unwrap();
        assert!((2.99..3.15).contains(&skew), "{skew}");
        assert_eq!(quality.jumps(), 0);
        let jumped = |second| Time { wall: Wall(at(second).wall.0 + 3_600 * SECOND), ..at(second) };
        quality.judge(jumped(305), &good());
        assert_eq!((quality.jumps(), quality.clock_skew()), (1, None), "what was known is void");
        let (received, time) = said(306, 20);
        quality.source_time(Wall(received.0 + 3_600 * SECOND), time);
        quality.judge(jumped(310), &good());
        let skew = quality.clock_skew().unwrap();
        assert!((3_602.9..3_603.1).contains(&skew), "{skew}");
        assert_eq!(quality.jumps(), 1, "once");
    }

    #[test]
    fn throughput_counts_once_there_is_something_to_compare_it_with() {
        let mut quality = Quality::new(at(0));
        let value = |quality: &Quality| quality.terms().find(|term| term.name == "throughput").unwrap().value;
        for second in (5..1_000).step_by(5) {
            quality.judge(at(second), &Reading { events: second * 10, ..good() });
        }
        assert_eq!(value(&quality), None);
        for second in (1_000..3_600).step_by(5) {
            quality.judge(at(second), &Reading { events: second * 10, ..good() });
        }
        assert!((value(&quality).unwrap() - 1.0).abs() < 0.05);
        assert_eq!(run(&mut quality, 3_600..4_200, Reading { events: 36_000, ..good() }), []);
        assert_eq!(value(&quality), Some(0.0));
        assert_eq!(quality.rates().0, 0.0);
    }
}
