//! How far the messages have come that waited when the link became live, PURE: counted, measured, told now and then.
//!
//! Invariants: `sent` never falls and is never above `queued`; a sync is told when it begins and when it is over, and in
//! between at most once in [`TELL_EVERY`], only if something changed; without one there is no timer.
//! Deliberately not here: which messages there are, and when the link is live.

use std::collections::VecDeque;
use std::time::Duration;

use super::record::MessageId;
use super::time::{Mono, Time, Wall};

/// How often a sync that goes on is told at most.
pub const TELL_EVERY: Duration = Duration::from_secs(1);
/// Over how long the rate is measured, as far as the sync has lasted that long.
const RATE_OVER: Duration = Duration::from_secs(10);

/// How a sync stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When it began.
    pub since: Wall,
    /// Messages that waited then.
    pub queued: u64,
    /// Those of them that have ended since.
    pub sent: u64,
    /// How many end in a second, lately; `None`: not measured yet.
    pub rate: Option<f64>,
}

impl Reading {
    /// Messages that waited when it began and have not ended.
    pub fn remaining(&self) -> u64 {
        self.queued - self.sent
    }

    /// How long it will take at this rate; `None`: nobody can say.
    pub fn eta(&self) -> Option<Duration> {
        if self.remaining() == 0 {
            return Some(Duration::ZERO);
        }
        let seconds = self.remaining() as f64 / self.rate?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[derive(Debug)]
struct Running {
    began: Time,
    /// It is about messages up to this one.
    newest: MessageId,
    queued: u64,
    sent: u64,
    /// When and with how many sent it was told, from the beginning of the time over which the rate is measured.
    told: VecDeque<(Mono, u64)>,
}

/// The sync that goes on, if one does.
#[derive(Debug, Default)]
pub struct Syncing {
    live: bool,
    running: Option<Running>,
}

impl Syncing {
    /// Whether the link was live when it was last said.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The link became live while so many messages wait, `newest` being the newest of them. Gives what to tell, unless nothing
    /// waits.
    pub fn begin(&mut self, now: Time, queued: usize, newest: MessageId) -> Option<Reading> {
        self.live = true;
        if queued == 0 {
            return None;
        }
        let told = VecDeque::from([(now.mono, 0)]);
        let queued = u64::try_from(queued).unwrap_or(u64::MAX);
        self.running = Some(Running { began: now, newest, queued, sent: 0, told });
        self.reading(now.mono)
    }

    /// A message ended.
    pub fn ended(&mut self, id: MessageId) {
        if let Some(running) = self.running.as_mut().filter(|running| id <= running.newest) {
            running.sent = (running.sent + 1).min(running.queued);
        }
    }

    /// When something is to be told.
    pub fn due(&self) -> Option<Mono> {
        let running = self.running.as_ref()?;
        let (at, sent) = running.told.back()?;
        (running.sent > *sent).then(|| if running.sent == running.queued { *at } else { *at + TELL_EVERY })
    }

    /// What is to be told now, if anything is. A sync of which nothing remains is over.
    pub fn tell(&mut self, now: Mono) -> Option<Reading> {
        self.due().filter(|due| *due <= now)?;
        let reading = self.reading(now)?;
        if reading.remaining() == 0 {
            self.running = None;
        } else if let Some(running) = &mut self.running {
            running.told.push_back((now, running.sent));
            let measured = |told: &VecDeque<(Mono, u64)>| told.get(1).is_some_and(|(at, _)| *at + RATE_OVER <= now);
            while measured(&running.told) {
                running.told.pop_front();
            }
        }
        Some(reading)
    }

    /// The link is not live any more, or the store failed: how far the sync had come that went on, if one did.
    pub fn stop(&mut self, now: Mono) -> Option<Reading> {
        self.live = false;
        let reading = self.reading(now);
        self.running = None;
        reading
    }

    /// How the sync stands, if one goes on.
    pub fn reading(&self, now: Mono) -> Option<Reading> {
        let Running { began, queued, sent, told, .. } = self.running.as_ref()?;
        let recent = told.iter().rev().find(|(at, _)| *at + RATE_OVER <= now).or(told.front())?;
        let over = now.since(recent.0);
        let rate = (!over.is_zero()).then(|| (sent - recent.1) as f64 / over.as_secs_f64());
        Some(Reading { since: began.wall, queued: *queued, sent: *sent, rate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(1_000_000_000) + Duration::from_millis(millis)
    }

    fn begun(queued: usize) -> Syncing {
        let mut syncing = Syncing::default();
        let reading = syncing.begin(Time { mono: at(0), wall: Wall(7) }, queued, MessageId(100)).unwrap();
        assert_eq!((reading.queued, reading.sent, reading.remaining(), reading.rate), (queued as u64, 0, 100, None));
        assert_eq!((reading.eta(), syncing.due()), (None, None), "nothing is measured, and nothing happened");
        syncing
    }

    /// So many of the messages end, then it is told; gives sent, rate and the time left.
    fn told(syncing: &mut Syncing, millis: u64, ends: u64) -> (u64, Option<f64>, Option<Duration>) {
        (0..ends).for_each(|id| syncing.ended(MessageId(id.into())));
        assert_eq!(syncing.due(), Some(at(millis)));
        let reading = syncing.tell(at(millis)).expect("it is due");
        (reading.sent, reading.rate, reading.eta())
    }

    #[test]
    fn where_nothing_waits_there_is_no_sync() {
        let mut syncing = Syncing::default();
        assert_eq!(syncing.begin(Time::default(), 0, MessageId(5)), None);
        syncing.ended(MessageId(1));
        assert_eq!((syncing.due(), syncing.reading(at(1)), syncing.stop(at(2))), (None, None, None));
    }

    #[test]
    fn it_is_told_once_a_second_while_something_changes_and_at_its_end_at_once() {
        let mut syncing = begun(100);
        assert_eq!(told(&mut syncing, 1_000, 20), (20, Some(20.0), Some(Duration::from_secs(4))));
        assert_eq!(syncing.due(), None, "nothing changed since");
        syncing.ended(MessageId(101));
        assert_eq!(syncing.due(), None, "a later message is none of those that waited");
        syncing.ended(MessageId(100));
        assert_eq!((syncing.due(), syncing.tell(at(1_999))), (Some(at(2_000)), None));
        (0..79).for_each(|_| syncing.ended(MessageId(1)));
        let last = syncing.tell(at(1_999)).expect("the last one is told at once");
        assert_eq!((last.sent, last.remaining(), last.eta()), (100, 0, Some(Duration::ZERO)));
        assert_eq!((syncing.due(), syncing.reading(at(3_000))), (None, None), "it is over");
    }

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let mut syncing = begun(100);
        assert_eq!(told(&mut syncing, 1_000, 40).1, Some(40.0));
        for second in 2..=11 {
            told(&mut syncing, second * 1_000, 1);
        }
        let reading = syncing.reading(at(11_000)).unwrap();
        assert_eq!((reading.sent, reading.rate), (50, Some(1.0)), "the burst is forgotten");
        let stuck = syncing.reading(at(60_000)).unwrap();
        assert_eq!((stuck.rate, stuck.eta()), (Some(0.0), None), "nobody can say when");
    }

    #[test]
    fn one_that_is_cut_off_says_how_far_it_came() {
        let mut syncing = begun(100);
        (0..30).for_each(|_| syncing.ended(MessageId(1)));
        let cut = syncing.stop(at(500)).unwrap();
        assert_eq!((cut.sent, cut.remaining(), cut.rate), (30, 70, Some(60.0)));
        assert_eq!((syncing.due(), syncing.is_live()), (None, false));
    }
}
