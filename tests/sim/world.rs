//! The world around one relay: time, actions, and the carriers' answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::config::{BackoffConfig, Config};
use tidegate::dialect::{Dialect, WireFrame};
use tidegate::protocol::frame::{Format, Item};
use tidegate::protocol::request::parse::{RequestLimits, parse};
use tidegate::relay::Relay;
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{AttemptId, CallId, CallRequest, Disconnect, Input, LeftReason, Output, Reply, SessionId};
use tidegate::relay::record::Operation;
use tidegate::relay::rng::Rng;
use tidegate::relay::time::{Mono, Time, Wall};

use crate::clients::{Client, Told};
use crate::disk::Disk;
use crate::invariants::{self, MAX_ATTEMPTS, Sent};
use crate::upstream::{Request, Upstream};

const CHANNELS: [&str; 5] = ["a", "b", "c", "d", "e"];
const CLIENTS: usize = 4;

/// A fault that the invariants must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Some commits are answered and never made.
    CommitLies,
    /// Some entries get lost between relay and client.
    EntryVanishes,
    /// Upstream acknowledges one message and names another.
    AcksSwapped,
}

/// What happened at least once.
#[derive(Default)]
pub struct Coverage(BTreeSet<String>);

impl Coverage {
    const WANTED: [&'static str; 16] = [
        "crash",
        "commit failed",
        "connection lost",
        "connect refused",
        "gap reconnect",
        "gap slow",
        "reset epoch",
        "reset not_carried",
        "reset evicted",
        "resumed",
        "delivered",
        "rejected",
        "dead_lettered",
        "repeated publish",
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
enum Coming {
    Answer(Input),
    Frame(AttemptId, String),
}

pub struct World {
    relay: Relay,
    config: Arc<Config>,
    now: Time,
    rng: Rng,
    fault: Option<Fault>,
    upstream: Upstream,
    disk: Disk,
    clients: Vec<Client>,
    told: Told,
    sent: BTreeMap<u64, Sent>,
    /// In the order of arrival; equal times in the order of sending.
    coming: BTreeMap<(Mono, u64), Coming>,
    arrivals: u64,
    last_frame: Mono,
    attempt: Option<AttemptId>,
    refuse: bool,
    sessions: u32,
    references: u64,
    pub coverage: Coverage,
    pub journal: Vec<String>,
    violation: Option<String>,
    status: Value,
}

fn config() -> Config {
    let mut config = Config::default();
    config.upstream.url = "ws://upstream.example/".into();
    config.upstream.dialect = "plain".into();
    config.upstream.backoff = BackoffConfig { min: Duration::from_millis(50), max: Duration::from_secs(1) };
    config.upstream.stable_for = Duration::from_millis(200);
    config.interest.linger = Duration::from_millis(300);
    config.interest.ack_timeout = Duration::from_secs(2);
    config.feed.ring.events = 12;
    config.feed.session_lag = 2_500;
    config.feed.session_requests = 10_000;
    config.feed.session_errors = 1_000_000;
    config.outbox.window = 4;
    config.outbox.ack_timeout = Duration::from_secs(2);
    config.outbox.max_attempts = u32::try_from(MAX_ATTEMPTS).expect("small");
    config.outbox.backoff = BackoffConfig { min: Duration::from_millis(20), max: Duration::from_millis(500) };
    config
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>) -> Self {
        let config = Arc::new(config());
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let mut rng = Rng::new(seed);
        let mut disk = Disk::default();
        let relay = start(&config, &mut disk, rng.next_u64(), now);
        World {
            relay,
            config,
            now,
            rng,
            fault,
            upstream: Upstream::default(),
            disk,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            told: Told::default(),
            sent: BTreeMap::new(),
            coming: BTreeMap::new(),
            arrivals: 0,
            last_frame: now.mono,
            attempt: None,
            refuse: false,
            sessions: 0,
            references: 0,
            coverage: Coverage::default(),
            journal: Vec::new(),
            violation: None,
            status: Value::Null,
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
            96 => self.refuse = true,
            97 if self.rng.below(3) == 0 => self.crash(),
            98 if self.rng.below(8) == 0 => self.disk.dead = true,
            _ => self.pass_time(),
        }
        self.turn();
    }

    /// From now on nothing fails any more: whatever was accepted must end.
    pub fn settle(&mut self) {
        if self.disk.dead {
            self.crash();
        }
        self.refuse = false;
        for _ in 0..3_000 {
            for client in 0..CLIENTS {
                self.unstick(client);
            }
            while !self.upstream.unanswered.is_empty() && self.attempt.is_some() {
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

    fn note(&mut self, what: impl Into<String>) {
        self.journal.push(format!("{} {}", self.now.mono.0, what.into()));
    }

    fn covered(&mut self, what: &str) {
        self.coverage.0.insert(what.to_owned());
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.rng.below(one_in) == 0
    }

    fn soon(&mut self, most_ms: u64) -> Mono {
        self.now.mono + Duration::from_micros(1 + self.rng.below(most_ms * 1_000))
    }

    fn send(&mut self, at: Mono, coming: Coming) {
        self.arrivals += 1;
        self.coming.insert((at, self.arrivals), coming);
    }

    /// To the next thing that happens, or a little less far.
    fn pass_time(&mut self) {
        let next = self.coming.keys().next().map(|(at, _)| *at).into_iter().chain(self.relay.poll_timeout()).min();
        let step = Duration::from_micros(1 + self.rng.below(30_000));
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

    fn arrive(&mut self, coming: Coming) {
        match coming {
            Coming::Frame(attempt, text) => {
                self.note(format!("relay <- {text}"));
                let frames = vec![WireFrame::Text(Bytes::from(text))];
                self.relay.handle_input(self.now, Input::Received { attempt, at: self.now, frames });
            }
            Coming::Answer(input) => {
                match &input {
                    Input::Committed => {
                        let operations = self.disk.in_flight.take().unwrap_or_default();
                        if !(self.fault == Some(Fault::CommitLies) && self.chance(10)) {
                            self.disk.apply(&operations);
                        }
                    }
                    Input::CommitFailed { .. } => self.disk.in_flight = None,
                    Input::Connected { .. } => self.upstream.connected(),
                    _ => {}
                }
                self.relay.handle_input(self.now, input);
            }
        }
    }

    /// Does what the relay asks until it asks no more.
    fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            self.carry(output);
        }
    }

    fn carry(&mut self, output: Output) {
        match output {
            Output::Fetch { call, .. } => {
                self.relay.handle_input(self.now, Input::Fetched { call, result: Ok(None) });
            }
            Output::Connect { attempt, .. } => {
                let at = self.soon(20);
                let answer = if std::mem::take(&mut self.refuse) {
                    self.covered("connect refused");
                    Input::Disconnected { attempt, reason: Disconnect::Refused }
                } else {
                    self.attempt = Some(attempt);
                    Input::Connected { attempt, peer: "test".into() }
                };
                self.send(at, Coming::Answer(answer));
            }
            Output::Transmit { attempt, frames } => self.transmit(attempt, &frames),
            Output::Disconnect { attempt, .. } => {
                self.gone(attempt);
                self.relay.handle_input(self.now, Input::Disconnected { attempt, reason: Disconnect::Asked });
            }
            Output::Commit(operations) => self.commit(operations),
            Output::Deliver { session, batch } => self.deliver(session, batch.items()),
            Output::Answer { reply: Reply::Json { body, .. }, .. } => {
                self.status = serde_json::from_slice(&body).unwrap_or_default();
            }
            Output::Answer { .. } | Output::Stopped => {}
            Output::Close { session, .. } => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.session == Some(session)) {
                    client.session = None;
                }
                let reason = LeftReason::Client;
                self.relay.handle_input(self.now, Input::Left { session, reason });
            }
        }
    }

    fn transmit(&mut self, attempt: AttemptId, frames: &[WireFrame]) {
        if self.attempt != Some(attempt) {
            return;
        }
        for frame in frames {
            let reply = match frame {
                WireFrame::Text(text) => self.upstream.take(&String::from_utf8_lossy(text)),
                WireFrame::Ping(_) | WireFrame::Pong(_) | WireFrame::Binary(_) => None,
            };
            if let WireFrame::Text(text) = frame {
                self.note(format!("upstream <- {}", String::from_utf8_lossy(text)));
            }
            if let Some((tag, _)) = self.upstream.attempts.last().copied() {
                self.judge_attempt(tag);
            }
            if let Some(reply) = reply {
                self.from_upstream(reply);
            }
            if let WireFrame::Ping(payload) = frame {
                let frames = vec![WireFrame::Pong(payload.clone())];
                let at = self.soon(5);
                self.send(at, Coming::Answer(Input::Received { attempt, at: self.now, frames }));
            }
        }
        let at = self.soon(2);
        self.send(at, Coming::Answer(Input::Transmitted { attempt }));
    }

    /// S14: no attempt after the end.
    fn judge_attempt(&mut self, tag: u64) {
        if self.upstream.attempts.iter().filter(|(other, _)| *other == tag).count() > 1 {
            self.covered("retried");
        }
        let ended = self.told.accepted.get(&tag).and_then(|message| self.told.outcomes.get(message)).is_some();
        let known = self.sent.get(&tag).is_some_and(|sent| sent.judged == self.upstream.attempts.len());
        if let Some(sent) = self.sent.get_mut(&tag) {
            sent.judged = self.upstream.attempts.len();
        }
        if ended && !known {
            self.violation = Some(format!("S14: tag {tag} was attempted after its outcome was told"));
        }
    }

    fn commit(&mut self, operations: Vec<Operation>) {
        let at = self.soon(15);
        if self.disk.in_flight.is_some() {
            self.violation = Some("two commits in flight".into());
        }
        if self.disk.dead {
            self.covered("commit failed");
            self.send(at, Coming::Answer(Input::CommitFailed { reason: "no space".into() }));
        } else {
            self.disk.in_flight = Some(operations);
            self.send(at, Coming::Answer(Input::Committed));
        }
    }

    fn deliver(&mut self, session: SessionId, items: &[Item]) {
        let Some(at) = self.clients.iter().position(|client| client.session == Some(session)) else { return };
        for item in items {
            if self.fault == Some(Fault::EntryVanishes) && matches!(item, Item::Entry(_)) && self.chance(40) {
                continue;
            }
            let text = String::from_utf8_lossy(item.text()).into_owned();
            self.note(format!("client {at} <- {text}"));
            if self.disk.dead && text.contains("\"kind\":\"accepted\"") && self.told_new(&text) {
                self.violation = Some(format!("S16: accepted after the store failed: {text}"));
            }
            if let Err(violation) = self.clients[at].take(&text, &mut self.told) {
                self.violation = Some(violation);
            }
        }
        self.cover_told();
        if self.clients[at].stuck {
            self.clients[at].waiting = true;
        } else {
            self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
        }
    }

    /// Whether an `accepted` names a message that is not on the disk.
    fn told_new(&self, text: &str) -> bool {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let id = frame["message"].as_str().and_then(tidegate::relay::record::MessageId::parse);
        id.is_none_or(|id| !self.disk.holds(id))
    }

    fn cover_told(&mut self) {
        let gaps = self.told.gaps.keys().map(|reason| format!("gap {reason}"));
        let resets = self.told.resets.keys().map(|reason| format!("reset {reason}"));
        let errors = self.told.errors.keys().map(|code| format!("error {code}"));
        let ends = self.told.outcomes.values().flatten().filter_map(|o| o["state"].as_str().map(str::to_owned));
        let all: Vec<String> = gaps.chain(resets).chain(errors).chain(ends).collect();
        self.coverage.0.extend(all);
        if self.told.resumed > 0 {
            self.covered("resumed");
        }
    }

    /// Frames of one connection arrive in order.
    fn from_upstream(&mut self, text: String) {
        let Some(attempt) = self.attempt else { return };
        let at = self.soon(4).max(self.last_frame);
        self.last_frame = at;
        self.send(at, Coming::Frame(attempt, text));
    }

    fn upstream_event(&mut self) {
        let channels: Vec<String> = self.upstream.subscribed.iter().cloned().collect();
        if self.attempt.is_none() || channels.is_empty() {
            return;
        }
        let channel = &channels[usize::try_from(self.rng.below(channels.len() as u64)).expect("small")];
        let text = self.upstream.event(channel);
        self.from_upstream(text);
    }

    fn upstream_answers(&mut self) {
        let waiting = self.upstream.unanswered.len() as u64;
        if waiting == 0 || self.attempt.is_none() {
            return;
        }
        let at = usize::try_from(self.rng.below(waiting)).expect("small");
        let reject = self.chance(8);
        if self.fault == Some(Fault::AcksSwapped) {
            self.swap_acks();
        }
        let text = self.upstream.answer(at, reject);
        self.from_upstream(text);
    }

    fn swap_acks(&mut self) {
        let publishes: Vec<usize> = (0..self.upstream.unanswered.len())
            .filter(|at| matches!(self.upstream.unanswered[*at].1, Request::Publish(_)))
            .collect();
        if let [first, second, ..] = publishes[..] {
            let id = self.upstream.unanswered[first].0.clone();
            self.upstream.unanswered[first].0 = self.upstream.unanswered[second].0.clone();
            self.upstream.unanswered[second].0 = id;
        }
    }

    fn gone(&mut self, attempt: AttemptId) {
        if self.attempt == Some(attempt) {
            self.attempt = None;
        }
        self.upstream.subscribed.clear();
        self.upstream.unanswered.clear();
        // What was on the wire is lost.
        self.coming.retain(|_, coming| !matches!(coming, Coming::Frame(..)));
        self.coming.retain(|_, coming| {
            !matches!(
                coming,
                Coming::Answer(Input::Transmitted { .. } | Input::Connected { .. } | Input::Received { .. })
            )
        });
    }

    fn lose_connection(&mut self) {
        let Some(attempt) = self.attempt else { return };
        self.covered("connection lost");
        self.note("connection lost");
        self.gone(attempt);
        let reason = Disconnect::Reset("cut".into());
        self.relay.handle_input(self.now, Input::Disconnected { attempt, reason });
    }

    fn crash(&mut self) {
        self.covered("crash");
        self.note("crash");
        if let Some(operations) = self.disk.in_flight.take()
            && self.chance(2)
        {
            self.disk.apply(&operations);
        }
        self.coming.clear();
        self.upstream.incarnation += 1;
        self.attempt = None;
        self.upstream.subscribed.clear();
        self.upstream.unanswered.clear();
        for client in &mut self.clients {
            client.session = None;
            client.stuck = false;
            client.waiting = false;
        }
        let seed = self.rng.next_u64();
        self.relay = start(&self.config, &mut self.disk, seed, self.now);
    }

    fn any_client(&mut self) -> usize {
        usize::try_from(self.rng.below(CLIENTS as u64)).expect("small")
    }

    fn any_channel(&mut self) -> &'static str {
        CHANNELS[usize::try_from(self.rng.below(CHANNELS.len() as u64)).expect("small")]
    }

    fn ask(&mut self, client: usize, text: &Value) {
        let Some(session) = self.clients[client].session else { return };
        self.note(format!("client {client} -> {text}"));
        let request = parse(&text.to_string(), &RequestLimits::new(&self.config));
        self.relay.handle_input(self.now, Input::Request { session, request });
    }

    fn join(&mut self) {
        let at = self.any_client();
        if self.clients[at].session.is_some() {
            return;
        }
        self.sessions += 1;
        let session = SessionId { index: u32::try_from(at).expect("small"), generation: self.sessions };
        self.clients[at].session = Some(session);
        self.clients[at].stuck = false;
        self.clients[at].waiting = false;
        let principal = Arc::new(Principal::local());
        self.relay
            .handle_input(self.now, Input::Joined { session, principal, format: Format::WebSocket, subscribe: None });
        let channels: Vec<String> = self.clients[at].wants.iter().cloned().collect();
        if !channels.is_empty() {
            let since = self.clients[at].cursor.clone();
            let request = match since {
                Some(since) => json!({"op": "subscribe", "ref": 0, "channels": channels, "since": since}),
                None => json!({"op": "subscribe", "ref": 0, "channels": channels}),
            };
            self.ask(at, &request);
        }
    }

    fn leave(&mut self) {
        let at = self.any_client();
        let Some(session) = self.clients[at].session.take() else { return };
        self.relay.handle_input(self.now, Input::Left { session, reason: LeftReason::Client });
    }

    fn subscribe(&mut self) {
        let (at, channel) = (self.any_client(), self.any_channel());
        if self.clients[at].session.is_some() && self.clients[at].wants.insert(channel.to_owned()) {
            // What it saw in an earlier life of this subscription does not count: its cursor moved on without the channel.
            self.clients[at].views.remove(channel);
            self.ask(at, &json!({"op": "subscribe", "ref": 0, "channels": [channel]}));
        }
    }

    fn unsubscribe(&mut self) {
        let (at, channel) = (self.any_client(), self.any_channel());
        if self.clients[at].session.is_some() && self.clients[at].wants.remove(channel) {
            self.ask(at, &json!({"op": "unsubscribe", "ref": 0, "channels": [channel]}));
        }
    }

    fn stick(&mut self) {
        let at = self.any_client();
        if self.clients[at].stuck {
            self.unstick(at);
        } else {
            self.clients[at].stuck = self.clients[at].session.is_some();
        }
    }

    fn unstick(&mut self, at: usize) {
        self.clients[at].stuck = false;
        if std::mem::take(&mut self.clients[at].waiting)
            && let Some(session) = self.clients[at].session
        {
            self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
        }
    }

    fn publish(&mut self) {
        let at = self.any_client();
        if self.clients[at].session.is_none() {
            return;
        }
        let tag = self.sent.len() as u64 + 1;
        let order_key = self.chance(2).then(|| self.rng.below(3));
        let once = self.chance(4);
        self.sent.insert(tag, Sent { order_key, once, judged: 0 });
        self.publish_tag(at, tag);
    }

    fn publish_again(&mut self) {
        let at = self.any_client();
        let tags: Vec<u64> = self.told.accepted.keys().copied().collect();
        if tags.is_empty() || self.clients[at].session.is_none() {
            return;
        }
        self.covered("repeated publish");
        let tag = tags[usize::try_from(self.rng.below(tags.len() as u64)).expect("small")];
        self.publish_tag(at, tag);
    }

    fn publish_tag(&mut self, at: usize, tag: u64) {
        self.references += 1;
        let reference = self.references;
        self.clients[at].asked.insert(reference, tag);
        let sent = &self.sent[&tag];
        let mut request = json!({
            "op": "publish", "ref": reference, "channel": "orders", "data": {"tag": tag},
            "idempotency_key": format!("i-{tag}"),
            "on_unknown": if sent.once { "dead_letter" } else { "retry" },
        });
        if let Some(key) = sent.order_key {
            request["order_key"] = json!(format!("k-{key}"));
        }
        self.ask(at, &request);
    }
}

fn start(config: &Arc<Config>, disk: &mut Disk, seed: u64, now: Time) -> Relay {
    let dialect = Dialect::builtin("plain").expect("a built-in dialect");
    Relay::new(Arc::clone(config), dialect, disk.restore(), seed, now)
}
