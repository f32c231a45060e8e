//! What the simulations of one client share: a relay with its client, its clock, and what is on its way to it.
//!
//! Deliberately not here: what upstream and the client are like; each simulation models its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tidegate::config::Config;
use tidegate::dialect::{Dialect, WireFrame};
use tidegate::protocol::frame::{Batch, Format};
use tidegate::protocol::request::parse::{RequestLimits, parse};
use tidegate::relay::Relay;
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{AttemptId, CallId, Credentials, Disconnect, FetchAnswer, Input, SessionId};
use tidegate::relay::record::Restored;
use tidegate::relay::rng::Rng;
use tidegate::relay::time::{Mono, Time, Wall};

/// The one client.
pub const CLIENT: SessionId = SessionId { index: 0, generation: 1 };

/// The relay, and what is around it in every simulation.
pub struct Rig {
    pub relay: Relay,
    pub now: Time,
    pub rng: Rng,
    limits: RequestLimits,
    /// In the order of arrival; equal times in the order of sending.
    coming: BTreeMap<(Mono, u64), Input>,
    arrivals: u64,
    pub journal: Vec<String>,
}

/// A connection that needs no pings, and comes back soon.
pub fn config(url: &str) -> Config {
    let mut config = Config::default();
    config.upstream.url = url.into();
    config.upstream.ping_interval = Duration::from_secs(86_400);
    config.upstream.backoff.min = Duration::from_millis(20);
    config.upstream.backoff.max = Duration::from_millis(200);
    config.feed.session_requests = 10_000;
    config
}

/// A dialect that is right.
pub fn dialect(name: &str, text: &str) -> Dialect {
    Dialect::parse(name, text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// A message as a frame.
pub fn text(message: &Value) -> WireFrame {
    WireFrame::Text(Bytes::from(message.to_string()))
}

impl Rig {
    /// The client is there.
    pub fn new(config: Config, dialect: Dialect, seed: u64) -> Self {
        let limits = RequestLimits::new(&config);
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let mut rig = Rig {
            relay: Relay::new(Arc::new(config), Arc::new(dialect), Restored::default(), seed, now),
            now,
            rng: Rng::new(seed),
            limits,
            coming: BTreeMap::new(),
            arrivals: 0,
            journal: Vec::new(),
        };
        let principal = Arc::new(Principal::local());
        rig.input(Input::Joined { session: CLIENT, principal, format: Format::WebSocket, subscribe: None });
        rig
    }

    pub fn input(&mut self, input: Input) {
        self.relay.handle_input(self.now, input);
    }

    /// The client asks.
    pub fn ask(&mut self, request: &Value) {
        let request = parse(&request.to_string(), &self.limits);
        self.input(Input::Request { session: CLIENT, request });
    }

    /// The client takes what it is told; one event in `loses` gets lost behind the relay.
    pub fn read(&mut self, session: SessionId, batch: &Batch, loses: Option<u64>) -> Vec<Value> {
        self.input(Input::Delivered { session, at: self.now.mono });
        let mut frames: Vec<Value> =
            batch.items().iter().map(|item| serde_json::from_slice(item.text()).expect("JSON")).collect();
        if let Some(one_in) = loses {
            frames.retain(|frame| frame["kind"] != "event" || self.rng.below(one_in) != 0);
        }
        frames
    }

    /// Upstream's frame is here.
    pub fn hear(&mut self, attempt: AttemptId, frame: WireFrame) {
        self.input(Input::Received { attempt, at: self.now, frames: vec![frame] });
    }

    pub fn cut(&mut self, attempt: AttemptId) {
        self.input(Input::Disconnected { attempt, reason: Disconnect::Reset("cut".into()) });
    }

    /// There is neither token nor secret.
    pub fn no_credentials(&mut self, call: CallId) {
        self.input(Input::Fetched { call, result: Ok(FetchAnswer::Credentials(Credentials::default())) });
    }

    /// It arrives then.
    pub fn send(&mut self, at: Mono, input: Input) {
        self.arrivals += 1;
        self.coming.insert((at, self.arrivals), input);
    }

    /// What was on the wire of a lost connection comes no more.
    pub fn withdraw(&mut self, attempt: AttemptId) {
        self.coming.retain(|_, input| match input {
            Input::Received { attempt: of, .. } | Input::Connected { attempt: of, .. } => *of != attempt,
            _ => true,
        });
    }

    /// When something arrives, or the relay wants to be woken.
    pub fn next(&self) -> Option<Mono> {
        self.coming.keys().next().map(|(at, _)| *at).into_iter().chain(self.relay.poll_timeout()).min()
    }

    /// What has arrived by now, one after the other.
    pub fn arrived(&mut self) -> Option<Input> {
        self.coming.first_entry().filter(|entry| entry.key().0 <= self.now.mono).map(|entry| entry.remove())
    }

    /// On for a random while of at most so many microseconds, or to what comes before its end.
    pub fn step(&mut self, most: u64) {
        let to = self.now.mono + self.micros(most);
        self.advance(to.min(self.next().unwrap_or(to)).max(self.now.mono));
    }

    /// On to this moment.
    pub fn advance(&mut self, to: Mono) {
        self.now = self.now.after(to.since(self.now.mono));
    }

    /// Wakes the relay, if it wants that by now. Whether it did.
    pub fn wake(&mut self) -> bool {
        let due = self.relay.poll_timeout().is_some_and(|due| due <= self.now.mono);
        if due {
            self.relay.handle_timeout(self.now);
        }
        due
    }

    /// On to when the relay wants to be woken, and wakes it; or to `end`. Whether it was woken.
    pub fn woken_before(&mut self, end: Mono) -> bool {
        self.advance(end.min(self.relay.poll_timeout().unwrap_or(end)).max(self.now.mono));
        self.wake()
    }

    /// A random one.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.rng.below(of.len() as u64)).expect("small")]
    }

    pub fn micros(&mut self, most: u64) -> Duration {
        Duration::from_micros(1 + self.rng.below(most))
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.journal.push(format!("{} {}", self.now.mono.0 / 1_000, what.into()));
    }

    /// The last things that happened, for a failure.
    pub fn story(&self) -> String {
        self.journal[self.journal.len().saturating_sub(80)..].join("\n")
    }
}
