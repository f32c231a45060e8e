//! A relay and the service upstream of it, in virtual time. The service says only what a test makes it say.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::Config;
use crate::dialect::{Dialect, HttpAnswer, HttpRequest, Transport, WireFrame};
use crate::protocol::frame::Format;
use crate::protocol::request::{Publish, Request, Secret, Subscribe};
use crate::relay::Relay;
use crate::relay::access::Principal;
use crate::relay::outbox::Lane;
use crate::relay::pairs::{
    AttemptId, CallId, Credentials, Disconnect, Fetch, FetchAnswer, FetchError, Input, Notice, Output, Reply, SessionId,
};
use crate::relay::record::{KeptTally, Operation, Restored, StoredTally};
use crate::relay::time::{Mono, Time, Wall};

/// Subscribes with acks, refusals of every kind, publishing, and a ping of its own.
pub(super) const DIALECT: &str = r#"
dialect = 1
name = "service"
LIMITS
[close]
then = { "4000-4099" = "fatal" }
[send]
subscribe = '{"op":"subscribe","channels":{channel*},"id":{id}}'
unsubscribe = '{"op":"unsubscribe","channels":{channel*},"id":{id}}'
publish = '{"op":"publish","channel":{channel},"data":{data},"id":{id}}'
HELLO
[[on]]
match = { "/event" = { exists = true } }
is = "event"
channel = "/event"
data = "/data"
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
[[on]]
match = { "/busy" = { exists = true } }
is = "error"
req = "/busy"
message = "/why"
then = "retry"
[[on]]
match = { "/slower" = { exists = true } }
is = "error"
message = "/why"
then = "pause 30s"
[[on]]
match = { "/no" = { exists = true } }
is = "error"
req = "/no"
message = "/why"
[[on]]
match = { "/gone" = { exists = true } }
is = "gone"
channel = "/gone"
[[on]]
match = { "/bye" = true }
is = "reconnect"
[[on]]
match = { "/denied" = true }
is = "denied"
"#;

/// Rules for a service that says hello and answers authentication.
pub(super) const HELLO: &str = r#"
auth = '{"op":"auth","id":{id}}'
[[on]]
match = { "/hello" = true }
is = "hello"
[[on]]
match = { "/ready" = true }
is = "ready"
set = { token_ttl_s = "/ttl" }
[[on]]
match = { "/renewed" = { exists = true } }
is = "ack"
req = "/renewed"
set = { token_ttl_s = "/ttl" }
"#;

/// The relay, the service, and what passed between them.
pub(super) struct Service {
    pub relay: Relay,
    pub now: Time,
    /// Answers to HTTP requests of clients.
    pub answers: Vec<Value>,
    /// HTTP requests that wait for their answers.
    pub asked: Vec<(CallId, HttpRequest)>,
    /// Attempts that asked for a token; answered at once.
    pub fetches: u32,
    /// Attempts whose connect is not answered.
    pub connects: VecDeque<AttemptId>,
    /// Addresses and transports of all connects, with when.
    pub ways: Vec<(Mono, String, Transport)>,
    /// The last attempt that connected.
    pub attempt: AttemptId,
    /// Frames transmitted, with when.
    pub sent: Vec<(Mono, WireFrame)>,
    /// Frames transmitted on the connection beside, whose transmits are answered at once.
    pub aside: Vec<(AttemptId, WireFrame)>,
    /// A transmit whose answer is held back.
    pub stuck: bool,
    pub outstanding: u32,
    /// Connections that the relay closed.
    pub closed: Vec<AttemptId>,
    /// What people were told.
    pub notices: Vec<Notice>,
    pub told: Vec<(SessionId, Value)>,
    /// Messages of alerts, not answered yet.
    pub alerts: Vec<(crate::relay::pairs::DeliveryId, Value)>,
    /// What fetches are answered with.
    pub token: Option<Secret>,
    /// Where it connected.
    pub addresses: Vec<String>,
    /// WebSockets asked for beside polls, not answered yet.
    pub upgrades: Vec<String>,
    /// Times that they were to be let go of.
    pub kept_polling: u32,
    /// What connections that were closed left with.
    pub farewells: Vec<String>,
    /// The store holds its answers back.
    pub store_waits: bool,
    /// What the store last knew of what is spent; what it did not answer for is not known.
    pub tally: Option<Arc<StoredTally>>,
    /// A commit that is not answered yet.
    commit: Option<Vec<Operation>>,
}

impl Service {
    pub(super) fn new(limits: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::speaking(&DIALECT.replace("LIMITS", limits).replace("HELLO", ""), change)
    }

    pub(super) fn speaking(dialect: &str, change: impl FnOnce(&mut Config)) -> Self {
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        Self::starting(dialect, Restored::default(), now, change)
    }

    /// The process dies now, and another one starts so much later with what the store knows. `boot`: the system starts, too.
    pub(super) fn again(self, limits: &str, after: Duration, boot: bool, change: impl FnOnce(&mut Config)) -> Self {
        let known = self.tally;
        let tally = match known.clone() {
            Some(tally) => KeptTally::Found { tally, same_boot: !boot },
            None => KeptTally::Absent,
        };
        let mut now = self.now.after(after);
        if boot {
            now.mono = Mono(5_000_000_000);
        }
        let dialect = DIALECT.replace("LIMITS", limits).replace("HELLO", "");
        let mut next = Self::starting(&dialect, Restored { tally, ..Restored::default() }, now, change);
        next.tally = next.tally.or(known);
        next
    }

    /// The store answers what it held back.
    pub(super) fn store_answers(&mut self, result: Result<(), &str>) {
        let operations = self.commit.take().expect("a commit is out");
        match result {
            Ok(()) => {
                self.keep(operations);
                self.input(Input::Committed);
            }
            Err(reason) => self.input(Input::CommitFailed { reason: reason.to_owned() }),
        }
    }

    fn keep(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            if let Operation::Tally(tally) = operation {
                self.tally = Some(tally);
            }
        }
    }

    /// With what the store knows.
    pub(super) fn starting(dialect: &str, restored: Restored, now: Time, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.interest.linger = Duration::from_secs(5);
        change(&mut config);
        let dialect = Dialect::parse("service", dialect).unwrap();
        let relay = Relay::new(Arc::new(config), Arc::new(dialect), restored, 1, now);
        let mut service = Service {
            relay,
            now,
            answers: Vec::new(),
            asked: Vec::new(),
            fetches: 0,
            connects: VecDeque::new(),
            ways: Vec::new(),
            attempt: AttemptId(0),
            sent: Vec::new(),
            aside: Vec::new(),
            stuck: false,
            outstanding: 0,
            closed: Vec::new(),
            notices: Vec::new(),
            told: Vec::new(),
            alerts: Vec::new(),
            token: None,
            addresses: Vec::new(),
            upgrades: Vec::new(),
            kept_polling: 0,
            farewells: Vec::new(),
            store_waits: false,
            tally: None,
            commit: None,
        };
        service.pass(Duration::ZERO);
        service
    }

    pub(super) fn input(&mut self, input: Input) {
        self.relay.handle_input(self.now, input);
        self.turn();
    }

    pub(super) fn turn(&mut self) {
        let mut steps = 0;
        while let Some(output) = self.relay.poll_output(self.now) {
            steps += 1;
            assert!(steps < 100_000, "a turn ends");
            match output {
                Output::Fetch { call, request: Fetch::Credentials } => {
                    self.fetches += 1;
                    let (token, secrets) = (self.token.clone(), vec![("key".into(), Secret::new("s3"))]);
                    let result = Ok(FetchAnswer::Credentials(Credentials { token, secrets }));
                    self.relay.handle_input(self.now, Input::Fetched { call, result });
                }
                Output::Fetch { call, request: Fetch::Http(request) } => self.asked.push((call, *request)),
                Output::Connect { attempt, request } => {
                    self.addresses.push(request.url.clone());
                    self.ways.push((self.now.mono, request.url, request.transport));
                    self.connects.push_back(attempt);
                }
                Output::Transmit { attempt, frames } if attempt != self.attempt => {
                    assert!(!self.closed.contains(&attempt), "nothing leaves on a connection that closes");
                    self.aside.extend(frames.into_iter().map(|frame| (attempt, frame)));
                    self.relay.handle_input(self.now, Input::Transmitted { attempt });
                }
                Output::Transmit { attempt, frames } => {
                    assert_eq!(self.outstanding, 0, "one transmit at a time");
                    self.sent.extend(frames.into_iter().map(|frame| (self.now.mono, frame)));
                    if self.stuck {
                        self.outstanding += 1;
                    } else {
                        self.relay.handle_input(self.now, Input::Transmitted { attempt });
                    }
                }
                Output::Disconnect { attempt, farewell, .. } => {
                    self.closed.push(attempt);
                    self.farewells.extend(farewell.map(|ask| String::from_utf8_lossy(&ask.body).into_owned()));
                }
                Output::Upgrade { request, .. } => self.upgrades.push(request.url),
                Output::KeepPolling { .. } => self.kept_polling += 1,
                Output::Deliver { session, batch } => {
                    for item in batch.items() {
                        self.told.push((session, serde_json::from_slice(item.text()).unwrap()));
                    }
                    self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
                }
                Output::Load(_) => unreachable!("few messages, all in memory"),
                Output::Commit(operations) if self.store_waits => {
                    assert_eq!(self.commit.replace(operations), None, "one commit at a time");
                }
                Output::Commit(operations) => {
                    self.keep(operations);
                    self.relay.handle_input(self.now, Input::Committed);
                }
                Output::Notify(notice) => self.notices.push(notice),
                Output::Alert { delivery, body, .. } => {
                    self.alerts.push((delivery, serde_json::from_slice(&body).unwrap()));
                }
                Output::Answer { reply: Reply::Json { body, .. }, .. } => {
                    self.answers.push(serde_json::from_slice(&body).unwrap());
                }
                Output::Answer { .. } | Output::Close { .. } | Output::Stopped => {}
            }
        }
    }

    /// Lets time pass, stopping wherever the relay has something to do.
    pub(super) fn pass(&mut self, d: Duration) {
        let end = self.now.after(d);
        let mut spins = 0;
        while let Some(due) = self.relay.poll_timeout().filter(|due| *due <= end.mono) {
            spins = if due > self.now.mono { 0 } else { spins + 1 };
            assert!(spins < 10, "no busy loop");
            self.now = self.now.after(due.since(self.now.mono));
            self.relay.handle_timeout(self.now);
            self.turn();
        }
        self.now = self.now.after(end.mono.since(self.now.mono));
    }

    pub(super) fn pass_seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// Answers the oldest call; gives its method and address.
    pub(super) fn answer_call(&mut self, result: Result<HttpAnswer, FetchError>) -> String {
        assert!(!self.asked.is_empty(), "a call is out");
        let (call, request) = self.asked.remove(0);
        self.input(Input::Fetched { call, result: result.map(FetchAnswer::Http) });
        format!("{} {}", request.method.text(), request.url)
    }

    /// Answers it with a status and content.
    pub(super) fn answer_with(&mut self, status: u16, body: &Value) -> String {
        let body = Bytes::from(body.to_string());
        self.answer_call(Ok(HttpAnswer { status, retry_after: None, body }))
    }

    /// Answers the connect that waits.
    pub(super) fn connect(&mut self) {
        self.attempt = self.connects.pop_front().expect("the relay connects");
        self.outstanding = 0;
        self.input(Input::Connected { attempt: self.attempt, peer: "192.0.2.1:443".to_owned() });
    }

    /// Lets time pass until the relay connects again; gives how long that took.
    pub(super) fn until_connect(&mut self) -> Duration {
        let begin = self.now.mono;
        while self.connects.is_empty() {
            let due = self.relay.upstream_due().expect("it will connect");
            assert!(due.since(begin) < Duration::from_secs(3700), "it will connect");
            self.pass(due.since(self.now.mono));
        }
        self.now.mono.since(begin)
    }

    pub(super) fn lose(&mut self, reason: Disconnect) {
        self.input(Input::Disconnected { attempt: self.attempt, reason });
    }

    /// The connection is lost, and there is another one.
    pub(super) fn until_connect_after_loss(&mut self) {
        self.close(1006);
        self.until_connect();
        self.connect();
    }

    pub(super) fn close(&mut self, code: u16) {
        self.lose(Disconnect::Closed { code, reason: String::new() });
    }

    /// Answers the HTTP request that waits longest; gives its address.
    pub(super) fn answer(&mut self, status: u16, body: &Value) -> String {
        let (call, request) = self.asked.remove(0);
        let body = Bytes::from(body.to_string());
        let answer = HttpAnswer { status, retry_after: None, body };
        self.input(Input::Fetched { call, result: Ok(FetchAnswer::Http(answer)) });
        request.url
    }

    /// The service says something.
    pub(super) fn say(&mut self, message: &Value) {
        self.say_frame(WireFrame::Text(Bytes::from(message.to_string())));
    }

    pub(super) fn say_frame(&mut self, frame: WireFrame) {
        self.say_frame_on(self.attempt, frame);
    }

    /// The service says something on a connection.
    pub(super) fn say_on(&mut self, attempt: AttemptId, message: &Value) {
        self.say_frame_on(attempt, WireFrame::Text(Bytes::from(message.to_string())));
    }

    pub(super) fn say_frame_on(&mut self, attempt: AttemptId, frame: WireFrame) {
        let at = self.now;
        self.input(Input::Received { attempt, at, frames: vec![frame] });
    }

    /// The messages sent since the last look.
    pub(super) fn heard(&mut self) -> Vec<Value> {
        let texts = std::mem::take(&mut self.sent).into_iter().filter_map(|(_, frame)| match frame {
            WireFrame::Text(text) => Some(serde_json::from_slice(&text).unwrap()),
            _ => None,
        });
        texts.collect()
    }

    /// Acks every request among the messages sent since the last look; gives the messages.
    pub(super) fn ack_all(&mut self) -> Vec<Value> {
        let heard = self.heard();
        for message in &heard {
            self.say(&json!({"ok": message["id"]}));
        }
        heard
    }

    pub(super) fn join(&mut self, index: u32) -> SessionId {
        let session = SessionId { index, generation: 1 };
        let principal = Arc::new(Principal::local());
        self.input(Input::Joined { session, principal, format: Format::WebSocket, subscribe: None });
        session
    }

    pub(super) fn subscribe(&mut self, session: SessionId, channels: &[&str]) {
        self.ask(session, Request::Subscribe(super::subscribe(channels)));
    }

    pub(super) fn unsubscribe(&mut self, session: SessionId, channels: &[&str]) {
        let Subscribe { channels, .. } = super::subscribe(channels);
        self.ask(session, Request::Unsubscribe { reference: None, channels });
    }

    pub(super) fn publish(&mut self, session: SessionId, channel: &str, lane: Lane) {
        let message = Publish {
            channel: super::subscribe(&[channel]).channels.remove(0),
            key: None,
            kind: None,
            data: "1".into(),
            idempotency_key: None,
            order_key: None,
            coalesce: false,
            volatile: false,
            optimistic: None,
            lane,
            ttl: None,
            on_unknown: None,
        };
        self.ask(session, Request::Publish { reference: None, messages: vec![message], atomic: false });
    }

    fn ask(&mut self, session: SessionId, request: Request) {
        self.input(Input::Request { session, request: Ok(request) });
    }

    /// What a session was told since the last look, in short: kind, channel, and reason or code or data.
    pub(super) fn told(&mut self, session: SessionId) -> Vec<String> {
        let (mine, rest) = std::mem::take(&mut self.told).into_iter().partition(|(to, _)| *to == session);
        self.told = rest;
        let mine: Vec<(SessionId, Value)> = mine;
        let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let short = |frame: &Value| {
            let extra =
                ["reason", "action", "code", "data", "state", "upstream"].iter().find_map(|name| frame.get(name));
            let parts = [Some(&frame["kind"]), frame.get("channel"), extra];
            parts.into_iter().flatten().map(word).collect::<Vec<_>>().join(" ")
        };
        mine.iter().map(|(_, frame)| short(frame)).collect()
    }
}
