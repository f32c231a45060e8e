//! 1,000 channels come back after a lost connection, at four frames a second: how long that takes, channel by channel, in
//! virtual time, so exactly. `cargo test --test sim thousand -- --nocapture` prints the table of `benches/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::config::Config;
use tidegate::dialect::{Dialect, WireFrame};
use tidegate::protocol::frame::Format;
use tidegate::protocol::request::parse::{RequestLimits, parse};
use tidegate::relay::Relay;
use tidegate::relay::access::Principal;
use tidegate::relay::limiter::Bucket;
use tidegate::relay::pairs::{AttemptId, Credentials, Disconnect, FetchAnswer, Input, Output, SessionId};
use tidegate::relay::record::Restored;
use tidegate::relay::time::{Mono, Time, Wall};

const CHANNELS: usize = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// From a frame of the relay's to upstream's answer at the relay.
const ROUND_TRIP: Duration = Duration::from_millis(40);
const CLIENT: SessionId = SessionId { index: 0, generation: 1 };

struct World {
    relay: Relay,
    now: Time,
    attempt: Option<AttemptId>,
    coming: BTreeMap<(Mono, u64), Input>,
    arrivals: u64,
    /// Four frames a second, evenly: what the provider counts over all connections.
    provider: Bucket,
    subscribes: usize,
    /// The channels of which the client has an event of the connection of the moment.
    live: BTreeMap<String, Mono>,
}

impl World {
    fn new(dialect: &str) -> Self {
        let mut config = Config::default();
        config.upstream.url = "wss://provider.example/".into();
        let limits = RequestLimits::new(&config);
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let dialect = Dialect::parse("provider", dialect).expect("a good dialect");
        let mut world = World {
            relay: Relay::new(Arc::new(config), Arc::new(dialect), Restored::default(), 1, now),
            now,
            attempt: None,
            coming: BTreeMap::new(),
            arrivals: 0,
            provider: Bucket::new(4, SECOND, 1),
            subscribes: 0,
            live: BTreeMap::new(),
        };
        let principal = Arc::new(Principal::local());
        let joined = Input::Joined { session: CLIENT, principal, format: Format::WebSocket, subscribe: None };
        world.relay.handle_input(now, joined);
        let names: Vec<String> = (0..CHANNELS).map(|n| format!("c{n}@trade")).collect();
        let request = parse(&json!({"op": "subscribe", "channels": names}).to_string(), &limits);
        world.relay.handle_input(now, Input::Request { session: CLIENT, request });
        world.turn();
        world
    }

    fn answer(&mut self, after: Duration, input: Input) {
        self.arrivals += 1;
        self.coming.insert((self.now.mono + after, self.arrivals), input);
    }

    fn says(&mut self, attempt: AttemptId, frame: WireFrame) {
        self.answer(ROUND_TRIP, Input::Received { attempt, at: self.now.after(ROUND_TRIP), frames: vec![frame] });
    }

    /// Upstream takes a frame: it answers, and every channel begins with an event.
    fn takes(&mut self, attempt: AttemptId, frame: &WireFrame) {
        assert!(self.provider.take(self.now.mono, 1), "more than four frames a second at {:?}", self.now.mono);
        let text = match frame {
            WireFrame::Text(text) => String::from_utf8_lossy(text).into_owned(),
            WireFrame::Ping(payload) => return self.says(attempt, WireFrame::Pong(payload.clone())),
            other => panic!("{other:?}"),
        };
        let asked: Value = serde_json::from_str(&text).expect("JSON");
        let say = |value: Value| WireFrame::Text(Bytes::from(value.to_string()));
        if asked["type"] == "ping" {
            return self.says(attempt, say(json!({"type": "pong", "id": asked["id"]})));
        }
        self.subscribes += 1;
        if let Some(names) = asked["params"].as_array() {
            self.says(attempt, say(json!({"result": null, "id": asked["id"]})));
            for name in names {
                self.says(attempt, say(json!({"stream": name, "data": {"e": "trade", "p": "1"}})));
            }
        } else {
            let channel = &asked["channel"];
            self.says(attempt, say(json!({"type": "subscribed", "id": asked["id"]})));
            self.says(attempt, say(json!({"type": "event", "channel": channel, "event": "tick", "data": 1})));
        }
    }

    fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            match output {
                Output::Fetch { call, .. } => {
                    let result = Ok(FetchAnswer::Credentials(Credentials::default()));
                    self.relay.handle_input(self.now, Input::Fetched { call, result });
                }
                Output::Connect { attempt, .. } => {
                    self.attempt = Some(attempt);
                    self.answer(ROUND_TRIP, Input::Connected { attempt, peer: "test".into() });
                }
                Output::Transmit { attempt, frames } => {
                    frames.iter().for_each(|frame| self.takes(attempt, frame));
                    self.answer(Duration::ZERO, Input::Transmitted { attempt });
                }
                Output::Commit(_) => self.relay.handle_input(self.now, Input::Committed),
                Output::Deliver { session, batch } => {
                    for item in batch.items() {
                        let frame: Value = serde_json::from_slice(item.text()).expect("JSON");
                        if frame["kind"] == "event" && frame["channel"] != "$status" {
                            let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
                            self.live.entry(channel).or_insert(self.now.mono);
                        }
                    }
                    self.relay.handle_input(self.now, Input::Delivered { session, at: self.now.mono });
                }
                _ => {}
            }
        }
    }

    /// Lets time pass until every channel is live; gives when the connection was opened.
    fn until_live(&mut self) -> Mono {
        let end = self.now.mono + Duration::from_secs(3_600);
        let mut opened = self.now.mono;
        while self.live.len() < CHANNELS {
            assert!(self.now.mono < end, "{} of {CHANNELS} channels are live after an hour", self.live.len());
            let next = self.coming.keys().next().map(|(at, _)| *at).into_iter().chain(self.relay.poll_timeout()).min();
            self.now = self.now.after(next.unwrap_or(end).since(self.now.mono));
            while let Some(entry) = self.coming.first_entry().filter(|entry| entry.key().0 <= self.now.mono) {
                let input = entry.remove();
                if matches!(input, Input::Connected { .. }) {
                    opened = self.now.mono;
                }
                self.relay.handle_input(self.now, input);
                self.turn();
            }
            self.relay.handle_timeout(self.now);
            self.turn();
        }
        opened
    }

    /// The connection is lost; how long each channel was without one that brings it: from the loss, and from the new one on.
    fn come_back(&mut self) -> [Vec<Duration>; 2] {
        let (lost, attempt) = (self.now.mono, self.attempt.expect("connected"));
        self.coming.clear();
        self.live.clear();
        self.subscribes = 0;
        self.relay.handle_input(self.now, Input::Disconnected { attempt, reason: Disconnect::Reset("cut".into()) });
        self.turn();
        let opened = self.until_live();
        [lost, opened].map(|since| {
            let mut waits: Vec<Duration> = self.live.values().map(|at| at.since(since)).collect();
            waits.sort_unstable();
            waits
        })
    }
}

fn of(waits: &[Duration], percent: usize) -> f64 {
    waits[(waits.len() * percent / 100).min(waits.len() - 1)].as_secs_f64()
}

#[test]
fn a_thousand_channels_come_back_within_four_frames_a_second() {
    let plain = Dialect::builtin_text("plain").expect("built in");
    let alone = format!("{plain}\n[limits]\nrate = \"4/s\"\n");
    let binance = Dialect::builtin_text("binance").expect("built in").to_owned();
    let twenty = binance.replace("per_frame = 200", "per_frame = 20");
    assert_ne!(twenty, binance);
    println!("| channels a frame | frames | p50 s | p90 s | max s | from the loss, max s |");
    println!("|---|---|---|---|---|---|");
    for (dialect, per_frame) in [(alone, 1), (twenty, 20), (binance, 200)] {
        let mut world = World::new(&dialect);
        world.until_live();
        let [lost, opened] = world.come_back();
        let names: BTreeSet<&String> = world.live.keys().collect();
        assert_eq!((names.len(), world.subscribes), (CHANNELS, CHANNELS / per_frame));
        println!(
            "| {per_frame} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            world.subscribes,
            of(&opened, 50),
            of(&opened, 90),
            of(&opened, 100),
            of(&lost, 100),
        );
        // The bucket, a round trip, and the pings in between: no more than one in ten seconds.
        let least = (CHANNELS / per_frame - 1) as f64 / 4.0;
        let longest = of(&opened, 100);
        assert!((least..least * 1.05 + 0.5).contains(&longest), "{longest} for {per_frame} a frame, {least} at least");
    }
}
