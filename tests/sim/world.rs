//! The world around one relay: time, actions, and the carriers' answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tidegate::config::{BackoffConfig, ChannelPolicy, Config, StaleAfter};
use tidegate::dialect::{Dialect, WireFrame};
use tidegate::relay::Relay;
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{AttemptId, CallId, CallRequest, Input};
use tidegate::relay::rng::Rng;
use tidegate::relay::time::{Mono, Time, Wall};

use crate::allowed::{LIMITS, Provider};
use crate::clients::{Client, Told};
use crate::disk::Disk;
use crate::invariants::{self, MAX_ATTEMPTS, Sent};
use crate::silence::{COUNT, Quiet, STALE_AFTER};
use crate::upstream::Upstream;

/// What clients subscribe; the last two are keys of one upstream channel.
pub const CHANNELS: [&str; 6] = ["a", "b", "c", "d", "s:x", "s:y"];
pub const CLIENTS: usize = 4;

/// A fault that the invariants must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Some commits are answered and never made.
    CommitLies,
    /// Some entries get lost between relay and client.
    EntryVanishes,
    /// Upstream acknowledges one message and names another.
    AcksSwapped,
    /// What is spent of upstream's limits does not survive a crash.
    TallyForgotten,
}

/// What happened at least once.
#[derive(Default)]
pub struct Coverage(pub BTreeSet<String>);

impl Coverage {
    const WANTED: [&'static str; 34] = [
        "stale mark",
        "stale resubscribe",
        "stale reconnect",
        "gap silence",
        "the clock jumped",
        "crash",
        "read from the disk",
        "one crash after the other",
        "connect held back",
        "commit failed",
        "unanswered batch found",
        "unanswered batch lost",
        "failed batch found",
        "failed batch lost",
        "connection lost",
        "one of two connections lost",
        "another connection took over",
        "another connection did not take over",
        "connect refused",
        "gap reconnect",
        "gap slow",
        "reset epoch",
        "reset upstream",
        "event of a mapped channel",
        "reset not_carried",
        "reset evicted",
        "resumed",
        "delivered",
        "rejected",
        "dead_lettered",
        "repeated publish",
        "repeated publish without an answer",
        "error store_failed",
        "retried",
    ];

    pub fn add(&mut self, other: &Coverage) {
        self.0.extend(other.0.iter().cloned());
    }

    pub fn missing(&self) -> Vec<&'static str> {
        Self::WANTED.into_iter().filter(|wanted| !self.0.contains(*wanted)).collect()
    }
}

/// An answer on its way to the relay.
pub enum Coming {
    Answer(Input),
    Frame(AttemptId, String),
}

/// See [`World::wakes`]: more than this is a relay that does not sleep.
const WAKES_MAX: u32 = 50;

pub struct World {
    pub relay: Relay,
    pub config: Arc<Config>,
    pub now: Time,
    pub rng: Rng,
    pub fault: Option<Fault>,
    /// Whether the provider names limits.
    pub limited: bool,
    pub upstream: Upstream,
    pub provider: Provider,
    pub disk: Disk,
    pub clients: Vec<Client>,
    pub told: Told,
    pub sent: BTreeMap<u64, Sent>,
    /// In the order of arrival; equal times in the order of sending.
    pub coming: BTreeMap<(Mono, u64), Coming>,
    pub arrivals: u64,
    pub refuse: bool,
    pub sessions: u32,
    pub references: u64,
    pub coverage: Coverage,
    pub journal: Vec<String>,
    pub violation: Option<String>,
    /// Steps in a row in which no time passed because the relay had something to do at once.
    pub wakes: u32,
    pub status: Value,
    pub quiet: Quiet,
}

fn config(stale_after: StaleAfter) -> Config {
    let mut config = Config::default();
    config.upstream.url = "ws://upstream.example/".into();
    config.upstream.dialect = "plain".into();
    config.upstream.backoff = BackoffConfig { min: Duration::from_millis(50), max: Duration::from_secs(1) };
    config.upstream.stable_for = Duration::from_millis(200);
    config.interest.linger = Duration::from_millis(300);
    config.interest.ack_timeout = crate::upstream::ACK_TIMEOUT;
    let services = ChannelPolicy { pattern: "s:*".into(), upstream: Some("s".into()), ..ChannelPolicy::default() };
    let watched = ChannelPolicy { stale_after, ..ChannelPolicy::default() };
    config.channels = vec![services, watched];
    config.upstream.ping_interval = Duration::from_secs(1);
    config.feed.ring.events = 12;
    config.feed.session_lag = 2_500;
    config.feed.session_requests = 10_000;
    config.feed.session_errors = 1_000_000;
    config.outbox.window = 4;
    config.outbox.in_memory = 4;
    config.outbox.ack_timeout = Duration::from_secs(2);
    config.outbox.max_attempts = u32::try_from(MAX_ATTEMPTS).expect("small");
    config.outbox.backoff = BackoffConfig { min: Duration::from_millis(20), max: Duration::from_millis(500) };
    config
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>) -> Self {
        Self::watching(StaleAfter::After(STALE_AFTER), seed, fault)
    }

    /// A world in which silence means nothing.
    pub fn unwatched(seed: u64) -> Self {
        Self::watching(StaleAfter::Off, seed, None)
    }

    fn watching(stale_after: StaleAfter, seed: u64, fault: Option<Fault>) -> Self {
        let config = Arc::new(config(stale_after));
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let mut rng = Rng::new(seed);
        let mut disk = Disk::default();
        // Limits take their time: where there are none more happens.
        let limited = seed.is_multiple_of(3);
        let relay = start(&config, limited, &mut disk, rng.next_u64(), now);
        World {
            relay,
            config,
            now,
            rng,
            fault,
            limited,
            upstream: Upstream::default(),
            provider: Provider::default(),
            disk,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            told: Told::default(),
            sent: BTreeMap::new(),
            coming: BTreeMap::new(),
            arrivals: 0,
            refuse: false,
            sessions: 0,
            references: 0,
            coverage: Coverage::default(),
            journal: Vec::new(),
            violation: None,
            wakes: 0,
            status: Value::Null,
            quiet: Quiet::default(),
        }
    }

    /// One random action, or some time.
    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..=34 => self.pass_time(),
            35..=57 => self.upstream_event(),
            58..=65 => self.upstream_answers(),
            66..=70 => self.subscribe(),
            71..=72 => self.unsubscribe(),
            73..=74 => self.leave(),
            75..=79 => self.join(),
            80..=88 => self.publish(),
            89..=90 => self.publish_again(),
            91..=93 => self.stick(),
            94..=95 => self.lose_connection(),
            96 if self.rng.below(2) == 0 => self.refuse = true,
            96 => self.rotate(),
            97 if self.rng.below(3) == 0 => self.crashes(),
            98 if self.rng.below(8) == 0 => self.kill_disk(),
            99 => self.disturb(),
            _ => self.pass_time(),
        }
        self.turn();
        self.look();
    }

    /// From now on nothing fails any more: whatever was accepted must end.
    pub fn settle(&mut self) {
        if self.disk.dead {
            self.crash();
        }
        self.refuse = false;
        self.call(COUNT, CallRequest::Stats);
        for _ in 0..3_000 {
            for client in 0..CLIENTS {
                self.unstick(client);
            }
            while self.upstream.connections.values().any(|connection| !connection.unanswered.is_empty()) {
                self.upstream_answers();
            }
            self.pass_time();
            self.turn();
        }
        self.relay.handle_input(
            self.now,
            Input::Call { call: CallId(1), principal: Arc::new(Principal::local()), request: CallRequest::Status },
        );
        self.turn();
    }

    pub fn check(&self) -> Result<(), String> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        invariants::check(&self.told, &self.disk, &self.upstream, &self.sent)
    }

    pub fn check_settled(&self) -> Result<(), String> {
        invariants::settled(&self.told, &self.disk, &self.status)
    }

    /// The last things that happened, for a failure.
    pub fn story(&self) -> String {
        self.journal[self.journal.len().saturating_sub(60)..].join("\n")
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.journal.push(format!("{} {}", self.now.mono.0, what.into()));
    }

    pub fn covered(&mut self, what: &str) {
        self.coverage.0.insert(what.to_owned());
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.rng.below(one_in) == 0
    }

    pub fn soon(&mut self, most_ms: u64) -> Mono {
        self.now.mono + Duration::from_micros(1 + self.rng.below(most_ms * 1_000))
    }

    pub fn send(&mut self, at: Mono, coming: Coming) {
        self.arrivals += 1;
        self.coming.insert((at, self.arrivals), coming);
    }

    /// To the next thing that happens, or a little less far.
    pub fn pass_time(&mut self) {
        self.pass_at_most(30);
    }

    /// The same in steps of at most so many milliseconds.
    pub fn pass_at_most(&mut self, milliseconds: u64) {
        let before = self.now.mono;
        self.pass_to_next(milliseconds);
        self.wakes = if self.now.mono == before { self.wakes + 1 } else { 0 };
        if self.wakes > WAKES_MAX {
            self.violation.get_or_insert("S28: the relay wants to be woken again and again at one moment".to_owned());
        }
    }

    fn pass_to_next(&mut self, milliseconds: u64) {
        let next = self.coming.keys().next().map(|(at, _)| *at).into_iter().chain(self.relay.poll_timeout()).min();
        let step = Duration::from_micros(1 + self.rng.below(milliseconds * 1_000));
        let to = (self.now.mono + step).min(next.unwrap_or(Mono(u64::MAX))).max(self.now.mono);
        self.now = self.now.after(to.since(self.now.mono));
        while let Some(entry) = self.coming.first_entry()
            && entry.key().0 <= self.now.mono
        {
            let coming = entry.remove();
            self.arrive(coming);
            self.turn();
        }
        if self.relay.poll_timeout().is_some_and(|due| due <= self.now.mono) {
            self.relay.handle_timeout(self.now);
        }
    }

    pub fn arrive(&mut self, coming: Coming) {
        match coming {
            Coming::Frame(attempt, text) => {
                self.note(format!("relay <- {text}"));
                self.quiet.frame(self.now.mono, &text);
                let frames = vec![WireFrame::Text(Bytes::from(text))];
                self.relay.handle_input(self.now, Input::Received { attempt, at: self.now, frames });
            }
            Coming::Answer(input) => {
                match &input {
                    Input::Committed => {
                        let operations = self.disk.in_flight.take().unwrap_or_default();
                        self.disk.answered(&operations);
                        if !(self.fault == Some(Fault::CommitLies) && self.chance(10)) {
                            self.disk.apply(&operations);
                        }
                    }
                    Input::CommitFailed { .. } => self.disk.in_flight = None,
                    Input::Connected { attempt, .. } => {
                        self.quiet.changed(self.now.mono);
                        self.upstream.connected(*attempt);
                    }
                    _ => {}
                }
                self.relay.handle_input(self.now, input);
            }
        }
    }

    /// Does what the relay asks until it asks no more.
    pub fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            self.carry(output);
        }
    }
}

pub fn start(config: &Arc<Config>, limited: bool, disk: &mut Disk, seed: u64, now: Time) -> Relay {
    // Numbers, where a channel has them, have no holes.
    let limits = if limited { LIMITS } else { "" };
    let text = format!("{}\n[gap]\n{limits}", Dialect::builtin_text("plain").expect("a built-in dialect"));
    let dialect = Dialect::parse("plain", &text).expect("a good dialect");
    Relay::new(Arc::clone(config), Arc::new(dialect), disk.restore(), seed, now)
}
