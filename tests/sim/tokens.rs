//! The life of tokens: a provider that ends what was opened with a token that ran out, by a close, a frame or a refusal; an
//! endpoint that gives tokens and may be down, hang or refuse; connects and subscribes that are refused for a while.
//!
//! What must hold: never more connects and frames than the provider allows; what is refused for its token is tried once with a
//! fresh one and then slowly, and people are told; nothing is opened or subscribed with a token that ran out where a fresh one
//! was to be had, nor ends for its token then; what is missing was told as a gap; once nothing fails any more, everything
//! wanted is live again within [`BACK_WITHIN`]; the relay rests in between; and a channel whose subscribe is granted late is
//! not refused because a second one was.

mod guard;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::config::{BackoffConfig, TokenSource};
use tidegate::dialect::{ConnectRequest, HttpAnswer, WireFrame};
use tidegate::protocol::request::Secret;
use tidegate::relay::credentials::Standing;
use tidegate::relay::pairs::{AttemptId, CallId, Disconnect, Fetch, FetchAnswer, FetchError, Input, Notice, Output};
use tidegate::relay::stats::LinkState;
use tidegate::relay::time::Mono;

use crate::allowed::Provider;
use crate::rig::{self, Rig};

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Why a subscribe of what is subscribed is refused.
const ALREADY: &str = "subscribed already";
const SLOW: Duration = Duration::from_secs(10);
/// The slowest backoff, a call that hangs, and what a full bucket and refused subscribes add.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// From when tokens are to be had again to when the relay has to have seen it.
const SEEN_WITHIN: Duration = Duration::from_secs(40);
/// Times in one second that the relay is woken or does something.
const BUSY_MOST: u32 = 100;
const CALL: &str = "post = \"https://auth.example/token\"\ntake = \"/t\"\n";
const DIALECT: &str = r#"
dialect = 1
name = "guarded"
[limits]
rate = "15/s"
burst = 30
connects = "6/10s"
[close]
then = { "4001" = "refresh" }
[gap]
KIND
subscribe = '{"op":"subscribe","channels":{channel*},"id":{id}}'
unsubscribe = '{"op":"unsubscribe","channels":{channel*},"id":{id}}'
[[on]]
match = { "/of" = { exists = true } }
is = "event"
channel = "/of"
seq = "/n"
data = "/n"
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
[[on]]
match = { "/busy" = { exists = true } }
is = "error"
req = "/busy"
then = "retry"
[[on]]
match = { "/no" = { exists = true } }
is = "error"
req = "/no"
message = "/why"
[[on]]
match = { "/expired" = true }
is = "error"
then = "refresh"
"#;
const IN_BAND: &str = r#"
[send]
auth = '{"op":"auth","token":{token},"id":{id}}'
renew = { json = '{"op":"auth","token":{token},"id":{id}}', ack = true }
[[on]]
match = { "/ready" = { exists = true } }
is = "ready"
[[on]]
match = { "/denied" = { exists = true } }
is = "denied"
[send.more]
"#;

/// How the provider is told a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In the address: another token needs another connection.
    Address,
    /// In a frame, and another one in another.
    Frame,
}

/// What goes wrong on purpose, outside of the relay and of what a provider may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Some entries get lost between relay and client.
    EntryVanishes,
    /// The provider is shown the first token of all instead of the relay's.
    OldTokenShown,
    /// Every connection is dialled twice.
    DialsTwice,
    /// What the provider refuses it refuses for ever.
    StaysShut,
}

/// How a provider treats a connection whose token ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Closes,
    SaysSo,
    /// It takes no subscribe and closes later.
    Lenient,
}

/// What refuses connects for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shut {
    Status(u16),
    Unreachable,
}

/// What the endpoint that gives tokens is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Gives,
    Down,
    Hangs,
    Refuses,
}

struct Token {
    /// Seconds of the wall clock.
    ends: u64,
    revoked: bool,
}

struct Open {
    token: Option<usize>,
    ready: bool,
    has: BTreeSet<String>,
    last_frame: Mono,
    last_answer: Mono,
    manner: Manner,
    /// It was said that its token ran out.
    warned: bool,
}

struct World {
    rig: Rig,
    kind: Kind,
    fault: Option<Fault>,
    provider: Provider,
    tokens: Vec<Token>,
    by_text: BTreeMap<String, usize>,
    endpoint: Endpoint,
    shut: Option<Shut>,
    /// It is not, by its own word, and is even so.
    stuck: Option<Shut>,
    busy: bool,
    /// Since when tokens are given, and since when nothing at all is wrong.
    given_since: Mono,
    trouble: Mono,
    open: BTreeMap<AttemptId, Open>,
    numbers: BTreeMap<&'static str, u64>,
    /// Since when the client wants a channel.
    wants: BTreeMap<&'static str, Mono>,
    /// Channels that were refused: when the client asks again.
    again: BTreeMap<&'static str, Mono>,
    views: BTreeMap<String, (Option<u64>, bool)>,
    /// Refusals of tokens in a row without a connection that serves, and when the last one was; with the fetches since.
    refusals: u32,
    refused_at: Option<Mono>,
    fetched: bool,
    /// The endpoint refused a call: a refusal like others, unless an older token is used on.
    call_refused: Option<Mono>,
    /// An attempt has begun and not come to connect.
    preparing: bool,
    standing: Standing,
    second: u64,
    busy_count: u32,
    busiest: u32,
    happened: BTreeSet<String>,
    violation: Option<String>,
}

impl World {
    fn new(kind: Kind, seed: u64, fault: Option<Fault>) -> Self {
        let mut config = rig::config("wss://guarded.example/");
        config.upstream.token = TokenSource::Fetch(Secret::new(CALL));
        config.upstream.backoff = BackoffConfig { min: Duration::from_millis(100), max: SLOW };
        config.upstream.stable_for = Duration::from_secs(2);
        config.upstream.connect_timeout = Duration::from_secs(3);
        config.upstream.handshake_timeout = Duration::from_secs(3);
        config.interest.linger = Duration::from_millis(200);
        config.interest.ack_timeout = ACK_TIMEOUT;
        config.interest.refused_for = Duration::from_secs(3);
        let way = match kind {
            Kind::Address => "[connect]\nquery = { t = \"{token}\" }\n[send]".to_owned(),
            Kind::Frame => String::new(),
        };
        let text = match kind {
            Kind::Address => DIALECT.replace("KIND", &way),
            Kind::Frame => {
                let (send, on) = IN_BAND.split_once("[[on]]").expect("rules");
                format!("{}[[on]]{}", DIALECT.replace("KIND", send), on.replace("[send.more]", ""))
            }
        };
        let rig = Rig::new(config, rig::dialect("guarded", &text), seed);
        let now = rig.now.mono;
        let mut world = World {
            rig,
            kind,
            fault,
            provider: Provider::allowing(6),
            tokens: Vec::new(),
            by_text: BTreeMap::new(),
            endpoint: Endpoint::Gives,
            shut: None,
            stuck: None,
            busy: false,
            given_since: now,
            trouble: now,
            open: BTreeMap::new(),
            numbers: CHANNELS.iter().map(|name| (*name, 0)).collect(),
            wants: BTreeMap::new(),
            again: BTreeMap::new(),
            views: BTreeMap::new(),
            refusals: 0,
            refused_at: None,
            fetched: true,
            call_refused: None,
            preparing: false,
            standing: Standing::Good,
            second: 0,
            busy_count: 0,
            busiest: 0,
            happened: BTreeSet::new(),
            violation: None,
        };
        world.want("a");
        world.want("b");
        world
    }

    fn happens(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.rig.note(what.clone());
        self.happened.insert(what);
    }

    fn wrong(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn now(&self) -> Mono {
        self.rig.now.mono
    }

    fn seconds(&self) -> u64 {
        self.rig.now.wall.0 / 1_000_000_000
    }

    fn is_good(&self, token: Option<usize>) -> bool {
        token.is_some_and(|at| self.tokens[at].ends > self.seconds() && !self.tokens[at].revoked)
    }

    fn is_live(&self) -> bool {
        self.rig.relay.stats().link.state == Some(LinkState::Live)
    }

    /// For so long tokens were to be had.
    fn given_for(&self) -> Duration {
        match self.endpoint {
            Endpoint::Gives => self.now().since(self.given_since),
            _ => Duration::ZERO,
        }
    }

    /// For so long nothing was wrong.
    fn well_for(&self) -> Duration {
        self.now().since(self.trouble)
    }

    fn want(&mut self, channel: &'static str) {
        let op = if self.wants.remove(channel).is_none() { "subscribe" } else { "unsubscribe" };
        if op == "subscribe" {
            self.wants.insert(channel, self.now());
        }
        self.views.remove(channel);
        self.again.remove(channel);
        self.rig.ask(&json!({"op": op, "channels": [channel]}));
        self.turn();
    }

    fn event(&mut self) {
        let channel = self.rig.one_of(&CHANNELS);
        let number = self.numbers.get_mut(channel).expect("known");
        *number += 1;
        let said = json!({"of": channel, "n": *number});
        let to: Vec<AttemptId> = self.open.iter().filter(|(_, o)| o.has.contains(channel)).map(|(id, _)| *id).collect();
        to.into_iter().for_each(|attempt| self.say(attempt, &said));
    }

    /// A frame is on its way; those of one connection stay in order.
    fn say(&mut self, attempt: AttemptId, message: &Value) {
        let delay = self.rig.micros(15_000);
        let Some(open) = self.open.get_mut(&attempt) else { return };
        open.last_frame = open.last_frame.max(self.rig.now.mono + delay);
        let (at, frames) = (open.last_frame, vec![rig::text(message)]);
        self.rig.send(at, Input::Received { attempt, at: self.rig.now, frames });
    }

    fn lose(&mut self, attempt: AttemptId, reason: Disconnect) {
        self.rig.note(format!("lose {} {reason:?}", attempt.0));
        self.open.remove(&attempt);
        self.rig.withdraw(attempt);
        self.rig.input(Input::Disconnected { attempt, reason });
        self.turn();
    }

    /// An attempt begins: once at once after a refusal, and then slowly.
    fn begins(&mut self) {
        self.preparing = true;
        if let Some(at) = self.call_refused.take().filter(|_| !self.is_live()) {
            self.refusals += 1;
            self.refused_at = Some(at);
        }
        let Some(refused_at) = self.refused_at.filter(|_| !self.is_live() && self.refusals >= 2) else { return };
        let waited = self.now().since(refused_at);
        if waited < SLOW / 2 {
            self.wrong(format!("refused {} times and tried again after {waited:?}", self.refusals));
        }
        if self.standing == Standing::Good {
            self.wrong(format!("refused {} times, and nobody was told", self.refusals));
        }
        self.happens("slow backoff");
    }

    fn turn(&mut self) {
        while let Some(output) = self.rig.relay.poll_output(self.rig.now) {
            self.busy_count += u32::from(!matches!(output, Output::Deliver { .. }));
            match output {
                Output::Fetch { call, request: Fetch::Credentials } => {
                    self.begins();
                    self.rig.no_credentials(call);
                }
                Output::Fetch { call, request: Fetch::Http(request) } => self.give(call, request.timeout),
                Output::Connect { attempt, request } => self.connect(attempt, &request),
                Output::Transmit { attempt, frames } => self.transmit(attempt, &frames),
                Output::Disconnect { attempt, .. } => self.lose(attempt, Disconnect::Asked),
                Output::Commit(_) => self.rig.input(Input::Committed),
                Output::Notify(Notice::Credentials { standing, .. }) => {
                    self.standing = standing;
                    self.happens(format!("people are told: {standing:?}"));
                }
                Output::Deliver { session, batch } => {
                    let loses = (self.fault == Some(Fault::EntryVanishes)).then_some(100);
                    self.rig.read(session, &batch, loses).iter().for_each(|frame| self.read(frame));
                }
                _ => {}
            }
        }
    }

    /// The client reads one frame.
    fn read(&mut self, frame: &Value) {
        let channel = frame["channel"].as_str().unwrap_or_default();
        let Some((name, _)) = self.wants.get_key_value(channel) else { return };
        let (name, now) = (*name, self.now());
        let view = self.views.entry(channel.to_owned()).or_default();
        match frame["kind"].as_str() {
            Some("gap" | "reset") => {
                view.1 = true;
                if self.well_for() > BACK_WITHIN {
                    self.wrong(format!("nothing is wrong for {:?}, and yet {frame}", self.well_for()));
                }
                self.happens(format!("gap {}", frame["reason"].as_str().unwrap_or_default()));
            }
            Some("subscribed") => *view = (None, true),
            Some("error") => {
                *view = (None, true);
                self.again.insert(name, now + Duration::from_secs(4));
                self.happens("a channel is refused");
                if frame["message"].as_str().is_some_and(|words| words.contains(ALREADY)) {
                    self.wrong(format!("{channel} is subscribed, and this is told: {frame}"));
                }
            }
            Some("event") => {
                let number = frame["data"].as_u64().unwrap_or_default();
                let (before, excused) = std::mem::replace(view, (Some(number), false));
                if before.is_some_and(|before| number != before + 1) && !excused {
                    self.wrong(format!("{channel} went from {before:?} to {number} and nothing was told"));
                }
            }
            _ => {}
        }
    }

    fn pass(&mut self, most: u64) {
        self.rig.step(most);
        while let Some(input) = self.rig.arrived() {
            if let Input::Disconnected { attempt, .. } = &input {
                self.open.remove(attempt);
            }
            if let Input::Fetched { result, .. } = &input {
                match result {
                    Ok(FetchAnswer::Http(answer)) if answer.status == 200 => self.fetched = true,
                    Ok(FetchAnswer::Http(answer)) if matches!(answer.status, 401 | 403) => {
                        self.call_refused = Some(self.rig.now.mono).filter(|_| self.preparing && !self.is_live());
                    }
                    _ => self.refused_at = None,
                }
            }
            self.rig.input(input);
            self.turn();
        }
        self.busy_count += u32::from(self.rig.wake());
        self.turn();
        self.patrol();
        self.look();
    }

    /// What must hold at any time.
    fn look(&mut self) {
        let second = self.now().0 / 1_000_000_000;
        if second != self.second {
            (self.second, self.busy_count) = (second, 0);
        }
        self.busiest = self.busiest.max(self.busy_count);
        if self.busy_count > BUSY_MOST {
            self.wrong("the relay does not rest".to_owned());
        }
        let now = self.now();
        let asks: Vec<&'static str> = self.again.iter().filter(|(_, at)| **at <= now).map(|(name, _)| *name).collect();
        for name in asks {
            self.again.remove(name);
            self.rig.ask(&json!({"op": "subscribe", "channels": [name]}));
            self.turn();
        }
        if self.endpoint != Endpoint::Gives {
            self.given_since = now;
        }
        if self.endpoint != Endpoint::Gives || self.shut.is_some() || self.busy {
            self.trouble = now;
        }
        if self.well_for() > BACK_WITHIN {
            let held: BTreeSet<&str> =
                self.wants.iter().filter(|(_, at)| now.since(**at) > BACK_WITHIN).map(|(n, _)| *n).collect();
            let serves = |open: &Open| self.is_good(open.token) && held.iter().all(|name| open.has.contains(*name));
            if !(self.is_live() && self.open.values().any(serves)) {
                let state = self.rig.relay.stats().link.state;
                self.wrong(format!("nothing is wrong for {:?}, and the relay is {state:?}", self.well_for()));
            }
            self.happened.insert("all is well for long".to_owned());
        }
    }
}
