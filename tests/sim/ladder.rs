//! A service with several addresses and transports, each of which may be refused or lost: the relay falls, climbs and
//! fails over, and a client reads numbers.
//!
//! What must hold: whatever is missing or comes twice was told as a gap before; where a service keeps its events and ids are
//! places, nothing is missing or comes twice at all, whatever transport or address serves.

mod switches;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::config::{BackoffConfig, EndpointConfig};
use tidegate::dialect::{Answer, AskFor, ConnectRequest, Dialect, StreamEvent, Transport, WireFrame};
use tidegate::relay::pairs::{AttemptId, Disconnect, Input, Output};
use tidegate::relay::stats::LinkState;
use tidegate::relay::time::Mono;

use crate::rig::{self, Rig};

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const RUNGS: [Transport; 3] = [Transport::WebSocket, Transport::Sse, Transport::LongPoll];
const ENDPOINTS: usize = 2;
/// How the service is spoken: channels in the address, one event a frame.
const DIALECT: &str = r#"
dialect = 1
name = "ladder"
[connect]
path = "/{channel*}"
CONNECT
[transport.sse]
[transport.long-poll]
[[on]]
match = { "/of" = { exists = true } }
is = "event"
channel = "/of"
EVENT
data = "/n"
"#;

/// What the service's events carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ids that are places.
    Places,
    /// Numbers without holes.
    Numbers,
    Nothing,
}

/// What goes wrong on purpose, outside of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A connection is begun one event too late, and says so by nothing.
    BegunLate,
    /// Some events get lost between relay and client.
    EventVanishes,
}

/// The service's side of a connection.
struct Connection {
    transport: Transport,
    endpoint: usize,
    channels: BTreeSet<String>,
    /// The first event, of all, that it has not brought.
    place: usize,
    /// A poll waits for its answer.
    polled: bool,
    last_frame: Mono,
}

struct World {
    rig: Rig,
    fault: Option<Fault>,
    /// Channel and number of everything that happened.
    events: Vec<(&'static str, u64)>,
    /// The service forgot what was before.
    kept_from: usize,
    refused: BTreeSet<Transport>,
    down: Option<usize>,
    connections: BTreeMap<AttemptId, Connection>,
    wants: BTreeSet<&'static str>,
    /// The newest number that the client read, and whether a hole behind it was told.
    views: BTreeMap<String, (Option<u64>, bool)>,
    /// Gaps by reason and channel.
    gaps: BTreeMap<(String, String), u64>,
    read: u64,
    happened: BTreeSet<&'static str>,
    violation: Option<String>,
}

fn dialect(kind: Kind) -> Dialect {
    let (connect, event, more) = match kind {
        Kind::Places => ("resumes = true\nheaders = { last = \"{cursor?}\" }", "id = \"/id\"", ""),
        Kind::Numbers => ("", "seq = \"/n\"", "[gap]\n"),
        Kind::Nothing => ("", "", ""),
    };
    let text = format!("{DIALECT}{more}").replace("CONNECT", connect).replace("EVENT", event);
    rig::dialect("ladder", &text)
}

impl World {
    fn new(kind: Kind, seed: u64, fault: Option<Fault>) -> Self {
        let mut config = rig::config("");
        let endpoint = |n: u32| EndpointConfig { url: format!("wss://e{n}.example"), weight: 1 + n };
        config.upstream.endpoints = (0..2).map(endpoint).collect();
        config.upstream.transports = RUNGS.to_vec();
        config.upstream.climb_after = Duration::from_millis(300);
        config.upstream.backoff = BackoffConfig { min: Duration::from_millis(20), max: Duration::from_millis(200) };
        config.upstream.stable_for = Duration::from_millis(100);
        config.upstream.ping_interval = Duration::from_secs(5);
        config.interest.linger = Duration::from_millis(200);
        let mut world = World {
            rig: Rig::new(config, dialect(kind), seed),
            fault,
            events: Vec::new(),
            kept_from: 0,
            refused: BTreeSet::new(),
            down: None,
            connections: BTreeMap::new(),
            wants: BTreeSet::new(),
            views: BTreeMap::new(),
            gaps: BTreeMap::new(),
            read: 0,
            happened: BTreeSet::new(),
            violation: None,
        };
        for channel in &CHANNELS[..2] {
            world.want(channel);
        }
        world
    }

    fn happens(&mut self, what: &'static str) {
        self.happened.insert(what);
        self.rig.note(what.to_owned());
    }

    /// The client subscribes a channel, or leaves it.
    fn want(&mut self, channel: &'static str) {
        let op = if self.wants.insert(channel) { "subscribe" } else { "unsubscribe" };
        if op == "unsubscribe" {
            self.wants.remove(channel);
        }
        self.views.remove(channel);
        self.rig.ask(&json!({"op": op, "channels": [channel]}));
        self.turn();
    }

    fn switches(&self) -> u64 {
        self.rig.relay.stats().link.transport_switches
    }

    fn event(&mut self) {
        let channel = self.rig.one_of(&CHANNELS);
        let n = self.events.iter().rev().find(|(of, _)| *of == channel).map_or(1, |(_, n)| n + 1);
        self.events.push((channel, n));
        for attempt in self.connections.keys().copied().collect::<Vec<_>>() {
            self.bring(attempt);
        }
    }

    /// What a connection has to bring leaves the service: one event for each poll, all elsewhere.
    fn bring(&mut self, attempt: AttemptId) {
        while let Some(connection) = self.connections.get_mut(&attempt) {
            let polls = connection.transport.polls();
            if polls && !connection.polled {
                return;
            }
            let new = |(_, (channel, _)): &(usize, &(&str, u64))| connection.channels.contains(*channel);
            let Some((at, &(channel, n))) = self.events.iter().enumerate().skip(connection.place).find(new) else {
                return;
            };
            connection.place = at + 1;
            connection.polled = false;
            let body = Bytes::from(json!({"of": channel, "n": n, "id": (at + 1).to_string()}).to_string());
            let frame = match connection.transport {
                Transport::WebSocket => WireFrame::Text(body),
                Transport::Sse => {
                    WireFrame::Event(Box::new(StreamEvent { data: Some(body), ..StreamEvent::default() }))
                }
                Transport::LongPoll | Transport::Poll => answer(200, body),
            };
            self.say(attempt, frame);
        }
    }

    /// A frame is on its way; those of one connection stay in order.
    fn say(&mut self, attempt: AttemptId, frame: WireFrame) {
        let delay = self.rig.micros(15_000);
        let Some(connection) = self.connections.get_mut(&attempt) else { return };
        connection.last_frame = connection.last_frame.max(self.rig.now.mono + delay);
        let at = connection.last_frame;
        self.rig.send(at, Input::Received { attempt, at: self.rig.now, frames: vec![frame] });
    }

    fn connect(&mut self, attempt: AttemptId, request: &ConnectRequest) {
        let (authority, path) = request.url.split_once("://").expect("a scheme").1.split_once('/').expect("a path");
        let endpoint = usize::from(authority.starts_with("e1"));
        let transport = request.transport;
        let at = self.rig.now.mono + self.rig.micros(10_000);
        let status = Disconnect::BadStatus { status: 404, retry_after: None, detail: String::new() };
        let reason = match (self.down == Some(endpoint), self.refused.contains(&transport)) {
            (true, _) => Some(Disconnect::Refused),
            (_, true) if !transport.polls() => Some(status),
            _ => None,
        };
        self.rig.note(format!("connect {} {transport:?} {} {reason:?}", attempt.0, request.url));
        let Some(reason) = reason else {
            let channels = path.split(',').map(str::to_owned).collect();
            let place = self.place(&request.headers).unwrap_or(self.events.len());
            let last_frame = at;
            let connection = Connection { transport, endpoint, channels, place, polled: false, last_frame };
            self.connections.insert(attempt, connection);
            self.rig.send(at, Input::Connected { attempt, peer: authority.to_owned() });
            return self.bring(attempt);
        };
        self.rig.send(at, Input::Disconnected { attempt, reason });
    }

    /// Where a request wants to go on.
    fn place(&self, headers: &[(String, String)]) -> Option<usize> {
        let (_, last) = headers.iter().find(|(name, _)| name == "last")?;
        let late = usize::from(self.fault == Some(Fault::BegunLate));
        Some(last.parse::<usize>().expect("our id").max(self.kept_from) + late)
    }

    fn transmit(&mut self, attempt: AttemptId, frames: Vec<WireFrame>) {
        for frame in frames {
            match frame {
                WireFrame::Ask(_) => self.polled(attempt),
                WireFrame::Ping(payload) => self.say(attempt, WireFrame::Pong(payload)),
                _ => {}
            }
        }
        self.rig.input(Input::Transmitted { attempt });
    }

    /// A poll: how far the connection has come is known.
    fn polled(&mut self, attempt: AttemptId) {
        if self.refused.contains(&Transport::LongPoll) {
            return self.say(attempt, answer(404, Bytes::new()));
        }
        if let Some(connection) = self.connections.get_mut(&attempt) {
            connection.polled = true;
        }
        self.bring(attempt);
    }

    fn turn(&mut self) {
        while let Some(output) = self.rig.relay.poll_output(self.rig.now) {
            match output {
                Output::Fetch { call, .. } => self.rig.no_credentials(call),
                Output::Connect { attempt, request } => self.connect(attempt, &request),
                Output::Transmit { attempt, frames } => self.transmit(attempt, frames),
                Output::Disconnect { attempt, .. } => self.lose(attempt, Disconnect::Asked),
                Output::Deliver { session, batch } => {
                    let loses = (self.fault == Some(Fault::EventVanishes)).then_some(200);
                    self.rig.read(session, &batch, loses).iter().for_each(|frame| self.read(frame));
                }
                _ => {}
            }
        }
    }

    /// The client reads one frame.
    fn read(&mut self, frame: &Value) {
        self.rig.note(format!("tells {frame}"));
        let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
        if !self.wants.contains(&*channel) {
            return;
        }
        let view = self.views.entry(channel.clone()).or_default();
        match frame["kind"].as_str() {
            Some("gap" | "reset") => {
                view.1 = true;
                let reason = frame["reason"].as_str().unwrap_or_default().to_owned();
                *self.gaps.entry((reason, channel)).or_default() += 1;
            }
            Some("subscribed") => *view = (None, true),
            Some("event") => {
                let number = frame["data"].as_u64().unwrap_or_default();
                let (before, excused) = std::mem::replace(view, (Some(number), false));
                let Some(before) = before else { return };
                // What came before a gap may come again behind it.
                if number <= before && !excused {
                    self.violation = Some(format!("{channel} went from {before} to {number}"));
                }
                if number > before + 1 && !excused {
                    self.violation = Some(format!("{channel} went from {before} to {number} and nothing was told"));
                }
                self.read += 1;
            }
            _ => {}
        }
    }

    /// A connection is gone, with what was on the wire.
    fn lose(&mut self, attempt: AttemptId, reason: Disconnect) {
        self.rig.note(format!("lose {} {reason:?}", attempt.0));
        self.connections.remove(&attempt);
        self.rig.withdraw(attempt);
        self.rig.input(Input::Disconnected { attempt, reason });
    }

    fn cut(&mut self, which: impl Fn(&Connection) -> bool) {
        let cut: Vec<AttemptId> =
            self.connections.iter().filter(|(_, open)| which(open)).map(|(attempt, _)| *attempt).collect();
        for attempt in cut {
            self.lose(attempt, Disconnect::Reset("cut".into()));
        }
    }

    /// Something on the way lets a transport through no more, or again. One is always left.
    fn forbid(&mut self) {
        let transport = self.rig.one_of(&RUNGS);
        if self.refused.remove(&transport) {
            return self.happens("a transport is let through again");
        }
        if self.refused.len() + 1 < RUNGS.len() {
            self.refused.insert(transport);
            self.happens("a transport is forbidden");
            self.cut(|open| open.transport == transport);
        }
    }

    /// An endpoint goes down with its connections, or comes back.
    fn lose_endpoint(&mut self) {
        if self.down.take().is_some() {
            return self.happens("an endpoint is back");
        }
        let endpoint = usize::try_from(self.rig.rng.below(ENDPOINTS as u64)).expect("small");
        self.down = Some(endpoint);
        self.happens("an endpoint is lost");
        self.cut(|open| open.endpoint == endpoint);
    }

    fn pass(&mut self, most: Duration) {
        let most = u64::try_from(most.as_micros()).expect("short");
        self.rig.step(most);
        while let Some(input) = self.rig.arrived() {
            if let Input::Disconnected { attempt, .. } = &input {
                self.connections.remove(attempt);
            }
            self.rig.input(input);
            self.turn();
        }
        self.rig.wake();
        self.turn();
    }

    /// Events flow until one connection serves, and is this transport's.
    fn until_served_over(&mut self, transport: Transport) {
        for _ in 0..20_000 {
            let open: Vec<Transport> = self.connections.values().map(|open| open.transport).collect();
            if open == [transport] && self.rig.relay.stats().link.state == Some(LinkState::Live) {
                return;
            }
            if self.rig.rng.below(10) == 0 {
                self.event();
            }
            self.pass(Duration::from_millis(40));
            self.check().unwrap_or_else(|violation| panic!("{violation}"));
        }
        panic!("nothing serves over {transport:?}: {:?}", self.rig.journal);
    }

    fn check(&self) -> Result<(), String> {
        self.violation.as_ref().map_or(Ok(()), |violation| Err(format!("{violation}\n{}", self.rig.story())))
    }

    /// Nothing fails any more: the best transport serves, and everything that happened is read.
    fn settle(&mut self) -> Result<(), String> {
        self.refused.clear();
        self.down = None;
        for _ in 0..6_000 {
            if self.rig.rng.below(10) == 0 {
                self.event();
            }
            self.pass(Duration::from_millis(30));
        }
        for _ in 0..200 {
            self.pass(Duration::from_millis(30));
        }
        self.check()?;
        for channel in &self.wants {
            let last = self.events.iter().rev().find(|(of, _)| of == channel).map(|(_, n)| *n);
            let read = self.views.get(*channel).and_then(|view| view.0);
            if read != last {
                return Err(format!("in the end {channel} is at {last:?}, and {read:?} was read"));
            }
        }
        match self.connections.values().map(|open| open.transport).collect::<Vec<_>>()[..] {
            [Transport::WebSocket] => Ok(()),
            ref others => Err(format!("in the end these serve: {others:?}")),
        }
    }
}

fn answer(status: u16, body: Bytes) -> WireFrame {
    let (etag, last_modified, retry_after) = (None, None, None);
    WireFrame::Answer(Box::new(Answer { of: AskFor::Poll, status, etag, last_modified, retry_after, body }))
}
