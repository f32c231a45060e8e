//! Which attempt when: connect, back off, pause, give up. One link holds at most one active attempt and, where one is taking
//! over, one candidate; they are told apart by their numbers, and nothing here knows what they do.
//!
//! Invariants: numbers of attempts rise; the next attempt begins only while the link runs and none is on its way; failures are
//! forgotten only after `stable_for` live, so that a connection that keeps dropping is backed off like one that never comes.
//! Deliberately not here: the life of a connection (the attempt's), frames, what is wanted.
//!
//! What an ending leads to ([`plan`]):
//!
//! | ending | next |
//! |---|---|
//! | close 1012, 1013 | backoff, at least 5 s |
//! | close 1002, 1003, 1007, 1010; bytes that are no WebSocket; redirects | slow backoff: a bug or a wrong address |
//! | certificate does not check, no version of TLS in common | slow backoff |
//! | 401, 403, denied, also in a call; unreadable token | once at once with a fresh token, then slow backoff |
//! | 429, 503 with `Retry-After`, upstream's own delay | backoff on top of that delay |
//! | the dialect's word on a close code or a message | as it says: retry, reconnect at once, pause, fresh credentials, fatal |
//! | the dialect cannot build the request | given up: only a new configuration helps |
//! | to be replaced where one session is allowed | at once |
//! | anything else | backoff |

pub mod endpoints;
pub mod ladder;
pub mod pacing;
pub mod reserve;
pub mod rotation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::attempt::Ending;
use super::backoff;
use super::limiter::Bucket;
use super::pairs::{AttemptId, Disconnect};
use super::rng::Rng;
use super::stats::LinkState;
use super::time::Mono;
use crate::config::{BackoffConfig, UpstreamConfig};
use crate::dialect::{Carried, Limits, Rate, Then, Transport};
use endpoints::Endpoints;
use ladder::Ladder;
use pacing::Pacing;
use rotation::Rotation;

/// Least wait after a service said that it restarts or is overloaded (close codes 1012 and 1013, IANA WebSocket registry).
const RESTART_FLOOR: Duration = Duration::from_secs(5);

/// What people asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    Run,
    Pause,
    Stop,
}

/// How to go on after an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Backoff on top of this.
    Retry(Duration),
    /// At once if the last one was stable, else backoff.
    AtOnce,
    /// Trying soon is pointless.
    Slow,
    /// Once at once with fresh credentials, then slowly.
    Credentials,
    /// Not again until told.
    Fatal,
}

/// How the last attempt ended, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastEnding {
    /// The reason's word.
    pub reason: &'static str,
    /// The circumstances.
    pub detail: String,
    /// When.
    pub at: Mono,
    /// How long it had been live.
    pub live_for: Duration,
}

/// The link to upstream.
#[derive(Debug)]
pub struct Link {
    backoff: BackoffConfig,
    stable_for: Duration,
    max_attempts: u32,
    intent: Intent,
    state: LinkState,
    since: Mono,
    /// When the next attempt begins.
    next: Option<Mono>,
    /// Upstream asked for no connection before.
    held_until: Option<Mono>,
    last_attempt: u32,
    /// Attempts in a row that did not become stable.
    failures: u32,
    live_since: Option<Mono>,
    down_since: Mono,
    /// The one immediate try with fresh credentials was made.
    refreshed: bool,
    last_ending: Option<LastEnding>,
    /// The order and rate of all that leaves.
    pub pacing: Pacing,
    /// When another connection takes over.
    pub rotation: Rotation,
    /// Where to connect to.
    pub endpoints: Endpoints,
    /// Over which transport.
    pub ladder: Ladder,
    /// The transport of the connection that served last; the best one before the first.
    pub served_over: Transport,
    /// Connects that the provider allows; `None`: it names no limit.
    pub connects: Option<Bucket>,
    /// Endings in a row that were a fault of one side.
    pub faults: u32,
    /// Connections in a row that were live and did not become stable.
    pub flaps: u32,
    /// What the dialect keeps between attempts; with the attempt while there is one.
    pub carried: Option<Carried>,
}

impl Link {
    /// A link that connects at its first timeout.
    pub fn new(config: &UpstreamConfig, limits: &Limits, now: Mono) -> Self {
        Link {
            backoff: config.backoff,
            stable_for: config.stable_for,
            max_attempts: config.max_attempts,
            intent: Intent::Run,
            state: LinkState::Idle,
            since: now,
            next: Some(now),
            held_until: None,
            last_attempt: 0,
            failures: 0,
            live_since: None,
            down_since: now,
            refreshed: false,
            last_ending: None,
            pacing: Pacing::new(limits),
            rotation: Rotation::new([config.max_age, limits.age]),
            endpoints: Endpoints::new(&config.addresses(), config.backoff),
            ladder: Ladder::new(&config.transports, config.climb_after),
            served_over: config.transports.first().copied().unwrap_or_default(),
            connects: limits.connects.map(connects),
            faults: 0,
            flaps: 0,
            carried: None,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Since when it stands there.
    pub fn since(&self) -> Mono {
        self.since
    }

    /// Since when it is not live; `None` while it is.
    pub fn down_since(&self) -> Option<Mono> {
        (self.state != LinkState::Live).then_some(self.down_since)
    }

    /// When the next attempt begins, if one is planned.
    pub fn due(&self) -> Option<Mono> {
        self.next
    }

    /// Until when upstream asked for no connection.
    pub fn held_until(&self) -> Option<Mono> {
        self.held_until
    }

    /// Upstream asked for no connection before: the next attempt waits that long.
    pub fn hold(&mut self, until: Mono) {
        self.asked_to_wait(until);
        self.next = self.next.map(|next| next.max(until));
    }

    /// Upstream asked for no connection before. What is planned knows it already.
    pub fn asked_to_wait(&mut self, until: Mono) {
        self.held_until = self.held_until.max(Some(until));
    }

    /// Attempts in a row that did not become stable.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How the last attempt ended.
    pub fn last_ending(&self) -> Option<&LastEnding> {
        self.last_ending.as_ref()
    }

    /// How long a channel or connection has to be live for its failures to be forgotten.
    pub fn stable_for(&self) -> Duration {
        self.stable_for
    }

    /// A wait before something is tried again on the same connection, after so many tries.
    pub fn retry_delay(&self, tries: u32, floor: Option<Duration>, rng: &mut Rng) -> Duration {
        backoff::delay(self.backoff, tries.saturating_sub(1), floor, rng)
    }

    /// Begins the planned attempt if its time has come; gives its number.
    pub fn begin(&mut self, now: Mono) -> Option<AttemptId> {
        self.next.filter(|next| *next <= now)?;
        self.next = None;
        self.enter(now, LinkState::Connecting);
        Some(self.another())
    }

    /// The number of an attempt beside the one that serves.
    pub fn another(&mut self) -> AttemptId {
        self.last_attempt = self.last_attempt.wrapping_add(1);
        AttemptId(self.last_attempt)
    }

    /// The attempt that serves is ready.
    pub fn ready(&mut self, now: Mono, rng: &mut Rng) {
        self.live_since = Some(now);
        self.rotation.served(now, rng);
        self.enter(now, LinkState::Live);
    }

    /// The attempt that served is gone, and the one beside it, which is on its way, takes its place.
    pub fn inherited(&mut self, now: Mono) {
        self.next = None;
        self.enter(now, LinkState::Connecting);
    }

    /// The attempt ended. `on_close`: what the dialect says about the close code.
    pub fn ended(&mut self, now: Mono, ending: &Ending, on_close: Option<Then>, rng: &mut Rng) {
        let live_for = self.live_since.take().map_or(Duration::ZERO, |since| now.since(since));
        let stable = live_for >= self.stable_for && !live_for.is_zero();
        if stable {
            self.failures = 0;
            self.refreshed = false;
        }
        self.last_ending = Some(LastEnding { reason: ending.reason(), detail: ending.detail(), at: now, live_for });
        match self.intent {
            Intent::Pause => return self.enter(now, LinkState::Paused),
            Intent::Stop => return self.enter(now, LinkState::Idle),
            Intent::Run => {}
        }
        if *ending == Ending::Carrier(Disconnect::Asked) {
            self.next = Some(now);
            return self.enter(now, LinkState::BackingOff);
        }
        let plan = plan(ending, on_close);
        self.failures = self.failures.saturating_add(1);
        if plan == Plan::Fatal || (self.max_attempts > 0 && self.failures >= self.max_attempts) {
            self.next = None;
            return self.enter(now, LinkState::GivenUp);
        }
        if let Plan::Retry(floor) = plan
            && !floor.is_zero()
        {
            self.asked_to_wait(now + floor);
        }
        let earlier = self.failures - 1;
        let wait = match plan {
            Plan::AtOnce if stable => Duration::ZERO,
            Plan::Credentials if !self.refreshed => {
                self.refreshed = true;
                Duration::ZERO
            }
            Plan::Slow | Plan::Retry(Duration::ZERO) if self.endpoints.some_rested(now) => Duration::ZERO,
            Plan::Slow | Plan::Credentials => backoff::slow(self.backoff, rng),
            Plan::Retry(floor) => backoff::delay(self.backoff, earlier, Some(floor), rng),
            Plan::AtOnce | Plan::Fatal => backoff::delay(self.backoff, earlier, None, rng),
        };
        self.next = Some(now + wait);
        self.enter(now, LinkState::BackingOff);
    }

    /// Forget backoff and connect at once, also after giving up. Not while paused or stopped: gives `false`. An attempt that
    /// is there has to be closed first.
    pub fn reconnect(&mut self, now: Mono) -> bool {
        if self.intent != Intent::Run {
            return false;
        }
        self.start_over(now);
        true
    }

    /// Stay closed until [`Link::resume`]. Gives `false` if it is stopped.
    pub fn pause(&mut self, now: Mono) -> bool {
        if self.intent == Intent::Stop {
            return false;
        }
        self.intent = Intent::Pause;
        self.next = None;
        self.enter(now, LinkState::Paused);
        true
    }

    /// Ends a pause; gives `false` if there is none.
    pub fn resume(&mut self, now: Mono) -> bool {
        if self.intent != Intent::Pause {
            return false;
        }
        self.intent = Intent::Run;
        self.start_over(now);
        true
    }

    /// Never connect again: the process drains.
    pub fn stop(&mut self, now: Mono) {
        self.intent = Intent::Stop;
        self.next = None;
        self.enter(now, LinkState::Idle);
    }

    fn start_over(&mut self, now: Mono) {
        self.failures = 0;
        self.refreshed = false;
        self.live_since = None;
        self.held_until = None;
        self.next = Some(now);
        self.enter(now, LinkState::BackingOff);
    }

    fn enter(&mut self, now: Mono, state: LinkState) {
        if self.state != state {
            if self.state == LinkState::Live {
                self.down_since = now;
            }
            self.state = state;
            self.since = now;
        }
    }
}

/// A budget of so many connects in any window: half of it at once, the other half evenly over the window.
fn connects(rate: Rate) -> Bucket {
    let burst = rate.tokens.div_ceil(2);
    Bucket::new((rate.tokens - burst).max(1), rate.per, burst)
}

/// What an ending leads to. `on_close`: what the dialect says about the close code.
pub fn plan(ending: &Ending, on_close: Option<Then>) -> Plan {
    match ending {
        Ending::Carrier(Disconnect::Closed { code, .. }) => match (on_close, *code) {
            (Some(then), _) => told(then, None),
            (None, 1012 | 1013) => Plan::Retry(RESTART_FLOOR),
            (None, 1002 | 1003 | 1007 | 1010) => Plan::Slow,
            (None, _) => Plan::Retry(Duration::ZERO),
        },
        Ending::Carrier(Disconnect::Ended) => match on_close {
            Some(then) => told(then, None),
            None => Plan::Retry(Duration::ZERO),
        },
        Ending::Carrier(Disconnect::BadStatus { retry_after, .. }) if on_close.is_some() => {
            on_close.map_or(Plan::Slow, |then| told(then, *retry_after))
        }
        Ending::Carrier(Disconnect::BadStatus { status, retry_after, .. }) => match status {
            // An event stream says so that it wants no reader (WHATWG HTML section 9.2.3).
            204 => Plan::Slow,
            401 | 403 => Plan::Credentials,
            300..=399 => Plan::Slow,
            _ => Plan::Retry(retry_after.unwrap_or_default()),
        },
        Ending::Carrier(
            Disconnect::TlsCertificate(_) | Disconnect::TlsProtocol(_) | Disconnect::Protocol(_) | Disconnect::NotUtf8,
        ) => Plan::Slow,
        Ending::Carrier(_) | Ending::Heartbeat | Ending::Idle | Ending::Malformed(_) => Plan::Retry(Duration::ZERO),
        Ending::Denied { then: None | Some(Then::Refresh), .. }
        | Ending::Token(_)
        | Ending::Fetch { denied: true, .. } => Plan::Credentials,
        Ending::Fetch { retry_after, .. } => Plan::Retry(retry_after.unwrap_or_default()),
        Ending::Rotated => Plan::AtOnce,
        Ending::Denied { then: Some(Then::Reject), .. } | Ending::Unbuildable(_) => Plan::Fatal,
        Ending::Denied { then: Some(then), .. } => told(*then, None),
        Ending::Told { then, retry_after, .. } => told(*then, *retry_after),
    }
}

/// What the dialect's word means for the link.
fn told(then: Then, retry_after: Option<Duration>) -> Plan {
    match then {
        Then::Fatal => Plan::Fatal,
        Then::Pause(length) => Plan::Retry(retry_after.unwrap_or_default().max(length)),
        Then::Refresh => Plan::Credentials,
        Then::Reconnect | Then::Resubscribe if retry_after.is_none() => Plan::AtOnce,
        Then::Retry | Then::Reject | Then::Reconnect | Then::Resubscribe => {
            Plan::Retry(retry_after.unwrap_or_default())
        }
    }
}
