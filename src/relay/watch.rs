//! Which channels are silent though their connection lives, and what is done about it: mark, resubscribe, reconnect.
//!
//! A channel is stale when nothing came for its limit: a duration that the configuration names, or one learnt from the times
//! between its events. Then the ladder: it is marked at once; silent for one limit more it is subscribed anew, and again after
//! two limits, four, eight, at most once an hour; if that does not help, or if half of all watched channels are stale, the
//! connection is made anew, at most once in ten minutes and rarer while it does not help. The next event ends it.
//!
//! A learnt limit is twenty times the usual time between two events and four times the longest of the last hours, so a
//! source of independent events (Poisson) is falsely called stale about once in a hundred million events, whatever its rate;
//! nothing is judged before [`LEARN_EVENTS`] events in [`LEARN_TIME`].
//!
//! Invariants: an event costs one look into a table and allocates nothing (unless it ends staleness); no timer per channel: one
//! ordered set of deadlines, looked at again only when one is over; a channel that is not live is not judged.
//! Deliberately not here: whether a channel is live, what can be subscribed, and the entries that tell of it.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use super::feed::RingId;
use super::stats::StaleAction;
use super::time::Mono;
use crate::config::StaleAfter;

/// Events after which a learnt limit counts,
const LEARN_EVENTS: u32 = 50;
/// and the time that they must span: bursts must not pass for the usual.
const LEARN_TIME: Duration = Duration::from_secs(600);
/// A learnt limit is so many times the usual time between two events,
const LEARN_USUAL: f64 = 20.0;
/// and so many times the longest one of this and the last [`LEARN_WINDOW`].
const LEARN_LONGEST: u32 = 4;
const LEARN_WINDOW: Duration = Duration::from_secs(3_600);
/// The usual time follows a new one by this part.
const LEARN_WEIGHT: f64 = 1.0 / 64.0;
/// A learnt limit is never shorter.
const LEARN_LEAST: Duration = Duration::from_secs(10);
/// Longest wait between two steps of the ladder.
const STEP_MAX: Duration = Duration::from_secs(3_600);
/// Doublings of the wait between two steps.
const DOUBLINGS_MAX: u32 = 16;
/// Resubscribes without an event after which one channel alone is reason enough for a new connection.
const FRUITLESS: u32 = 2;
/// Between two connections that staleness made.
const RECONNECT_EVERY: Duration = Duration::from_secs(600);
/// Doublings of that while it does not help.
const RECONNECT_DOUBLINGS: u32 = 3;

/// When a channel is stale, and the most that is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// After how much silence.
    pub after: StaleAfter,
    /// The last rung of the ladder.
    pub most: StaleAction,
}

/// What can be done for a channel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// It can be subscribed anew.
    pub resubscribe: bool,
    /// The connection can be made anew.
    pub reconnect: bool,
}

/// The times between a channel's events.
#[derive(Debug, Clone, Copy, Default)]
struct Learnt {
    events: u32,
    usual_nanos: f64,
    longest: Duration,
    longest_before: Duration,
    window: Mono,
    /// All that was learnt from, together.
    time: Duration,
}

impl Learnt {
    fn observe(&mut self, at: Mono, apart: Duration) {
        self.events = self.events.saturating_add(1);
        self.time = self.time.saturating_add(apart);
        // The first ones count fully, so that the start does not linger.
        let weight = LEARN_WEIGHT.max(1.0 / f64::from(self.events));
        self.usual_nanos += (apart.as_nanos() as f64 - self.usual_nanos) * weight;
        if at.since(self.window) > LEARN_WINDOW {
            self.window = at;
            self.longest_before = std::mem::take(&mut self.longest);
        }
        self.longest = self.longest.max(apart);
    }

    fn limit(&self) -> Option<Duration> {
        let longest = self.longest.max(self.longest_before).saturating_mul(LEARN_LONGEST);
        let usual = Duration::from_nanos((self.usual_nanos * LEARN_USUAL) as u64);
        (self.events >= LEARN_EVENTS && self.time >= LEARN_TIME).then(|| longest.max(usual).max(LEARN_LEAST))
    }
}

/// A channel that is silent.
#[derive(Debug, Clone, Copy)]
struct Stale {
    since: Mono,
    /// Resubscribes that brought nothing.
    fruitless: u32,
}

#[derive(Debug)]
struct Watched {
    policy: Policy,
    learnt: Learnt,
    /// The last event, or when it came live.
    last: Mono,
    /// Whether `last` is an event: then the time until the next one is to be learnt from.
    heard: bool,
    live: bool,
    stale: Option<Stale>,
    /// Steps taken beyond the mark, remembered over short recoveries: a channel that is quiet by nature and answers a
    /// subscribe with its state must not be subscribed over and over.
    steps: u32,
    stepped: Mono,
    /// Its place in the set of deadlines.
    due: Option<Mono>,
}

impl Watched {
    fn limit(&self) -> Option<Duration> {
        match self.policy.after {
            StaleAfter::Off => None,
            StaleAfter::After(after) => Some(after),
            StaleAfter::Learn => self.learnt.limit(),
        }
    }

    /// When the next step may be taken.
    fn next_step(&self, now: Mono, limit: Duration) -> Mono {
        let wait = limit.saturating_mul(1 << self.steps.min(DOUBLINGS_MAX)).min(STEP_MAX.max(limit));
        (now + limit).max(if self.steps == 0 { Mono(0) } else { self.stepped + wait })
    }
}

/// All watched channels.
#[derive(Debug, Default)]
pub struct Watch {
    /// By the number of the ring.
    watched: Vec<Option<Watched>>,
    due: BTreeSet<(Mono, RingId)>,
    count: usize,
    stale: usize,
    next_reconnect: Mono,
    /// Connections made anew in a row that ended nobody's silence.
    fruitless: u32,
}

impl Watch {
    /// A channel is carried under this policy from now on; what is known of it stays.
    pub fn follow(&mut self, now: Mono, ring: RingId, policy: Policy) {
        if policy.after == StaleAfter::Off {
            return self.forget(ring);
        }
        if self.get(ring).is_some_and(|watched| watched.policy == policy) {
            return;
        }
        let slot = ring.0 as usize;
        if self.watched.len() <= slot {
            self.watched.resize_with(slot + 1, || None);
        }
        match &mut self.watched[slot] {
            Some(watched) => watched.policy = policy,
            empty => {
                self.count += 1;
                *empty = Some(Watched {
                    policy,
                    learnt: Learnt { window: now, ..Learnt::default() },
                    last: now,
                    heard: false,
                    live: true,
                    stale: None,
                    steps: 0,
                    stepped: Mono(0),
                    due: None,
                });
            }
        }
        self.arm(now, ring);
    }

    /// The channel is not carried any more.
    pub fn forget(&mut self, ring: RingId) {
        let Some(watched) = self.watched.get_mut(ring.0 as usize).and_then(Option::take) else { return };
        self.count -= 1;
        self.stale -= usize::from(watched.stale.is_some());
        if let Some(due) = watched.due {
            self.due.remove(&(due, ring));
        }
    }

    /// Upstream sends the channel's events from here on: silence counts from now.
    pub fn live(&mut self, now: Mono, ring: RingId) {
        let Some(watched) = self.get_mut(ring) else { return };
        watched.live = true;
        watched.heard = false;
        watched.last = now;
        self.arm(now, ring);
    }

    /// The channel is not live: its silence means nothing.
    pub fn suspend(&mut self, ring: RingId) {
        let Some(watched) = self.get_mut(ring) else { return };
        watched.live = false;
        if let Some(due) = watched.due.take() {
            self.due.remove(&(due, ring));
        }
    }

    /// An event of the channel. Gives whether that ended its staleness.
    pub fn event(&mut self, at: Mono, ring: RingId) -> bool {
        let Some(Some(watched)) = self.watched.get_mut(ring.0 as usize) else { return false };
        if watched.heard && watched.policy.after == StaleAfter::Learn {
            watched.learnt.observe(at, at.since(watched.last));
        }
        watched.heard = true;
        watched.last = at;
        let ended = watched.stale.take().is_some();
        let learnt = watched.live && watched.due.is_none();
        if ended {
            self.stale -= 1;
            self.fruitless = 0;
        }
        if ended || learnt {
            self.arm(at, ring);
        }
        ended
    }

    /// The next channel whose silence was long enough for another step; it waits for [`Watch::step`] or [`Watch::suspend`].
    pub fn expired(&mut self, now: Mono) -> Option<RingId> {
        while let Some((at, ring)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, ring));
            let Some(watched) = self.get_mut(ring) else { continue };
            watched.due = None;
            let Some(limit) = watched.limit() else { continue };
            if watched.stale.is_none() && watched.last + limit > now {
                self.arm(now, ring);
                continue;
            }
            return Some(ring);
        }
        None
    }

    /// Takes the next step for a channel that [`Watch::expired`] gave. `None`: not now, or there is none left.
    pub fn step(&mut self, now: Mono, ring: RingId, means: Means) -> Option<StaleAction> {
        let (many, may_reconnect) = (self.stale >= 2 && self.stale * 2 >= self.count, self.next_reconnect <= now);
        let watched = self.watched.get_mut(ring.0 as usize)?.as_mut()?;
        let Some(stale) = &mut watched.stale else {
            watched.stale = Some(Stale { since: watched.last, fruitless: 0 });
            if now.since(watched.stepped) > STEP_MAX * 2 {
                watched.steps = 0;
            }
            self.stale += 1;
            self.arm(now, ring);
            return Some(StaleAction::Mark);
        };
        let most = watched.policy.most;
        let hopeless = many || stale.fruitless >= FRUITLESS || !means.resubscribe;
        let reconnect = means.reconnect && most == StaleAction::Reconnect && hopeless;
        let action = if reconnect && may_reconnect {
            self.next_reconnect = now + RECONNECT_EVERY * (1 << self.fruitless.min(RECONNECT_DOUBLINGS));
            self.fruitless += 1;
            Some(StaleAction::Reconnect)
        } else if means.resubscribe && most >= StaleAction::Resubscribe && !(reconnect && many) {
            stale.fruitless += 1;
            Some(StaleAction::Resubscribe)
        } else {
            None
        };
        if action.is_some() {
            watched.steps += 1;
            watched.stepped = now;
        }
        if most > StaleAction::Mark {
            self.arm(now, ring);
        }
        action
    }

    /// When [`Watch::expired`] has something to look at.
    pub fn due(&self) -> Option<Mono> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Since when the channel has been silent, if it is stale.
    pub fn stale_since(&self, ring: RingId) -> Option<Mono> {
        self.get(ring)?.stale.map(|stale| stale.since)
    }

    /// After how much silence it is stale, as far as that is known.
    pub fn limit(&self, ring: RingId) -> Option<Duration> {
        self.get(ring)?.limit()
    }

    /// Channels watched, and stale ones among them.
    pub fn counts(&self) -> (usize, usize) {
        (self.count, self.stale)
    }

    fn get(&self, ring: RingId) -> Option<&Watched> {
        self.watched.get(ring.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, ring: RingId) -> Option<&mut Watched> {
        self.watched.get_mut(ring.0 as usize)?.as_mut()
    }

    /// Gives the channel its deadline: after its limit, or for its next step.
    fn arm(&mut self, now: Mono, ring: RingId) {
        let Some(Some(watched)) = self.watched.get_mut(ring.0 as usize) else { return };
        if let Some(due) = watched.due.take() {
            self.due.remove(&(due, ring));
        }
        let Some(limit) = watched.limit().filter(|_| watched.live) else { return };
        let due = if watched.stale.is_some() { watched.next_step(now, limit) } else { watched.last + limit };
        watched.due = Some(due);
        self.due.insert((due, ring));
    }
}
