//! 1,000 channels come back after a lost connection, at four frames a second: how long that takes, channel by channel, in
//! virtual time, so exactly. `cargo test --test sim thousand -- --nocapture` prints the table of `benches/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::config::Config;
use tidegate::dialect::{Dialect, WireFrame};
use tidegate::relay::limiter::Bucket;
use tidegate::relay::pairs::{AttemptId, Input, Output};
use tidegate::relay::time::Mono;

use crate::rig::{self, Rig};

const CHANNELS: usize = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// From a frame of the relay's to upstream's answer at the relay.
const ROUND_TRIP: Duration = Duration::from_millis(40);

struct World {
    rig: Rig,
    attempt: Option<AttemptId>,
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
        let mut world = World {
            rig: Rig::new(config, rig::dialect("provider", dialect), 1),
            attempt: None,
            provider: Bucket::new(4, SECOND, 1),
            subscribes: 0,
            live: BTreeMap::new(),
        };
        let names: Vec<String> = (0..CHANNELS).map(|n| format!("c{n}@trade")).collect();
        world.rig.ask(&json!({"op": "subscribe", "channels": names}));
        world.turn();
        world
    }

    fn answer(&mut self, after: Duration, input: Input) {
        self.rig.send(self.rig.now.mono + after, input);
    }

    fn says(&mut self, attempt: AttemptId, frame: WireFrame) {
        self.answer(ROUND_TRIP, Input::Received { attempt, at: self.rig.now.after(ROUND_TRIP), frames: vec![frame] });
    }

    /// Upstream takes a frame: it answers, and every channel begins with an event.
    fn takes(&mut self, attempt: AttemptId, frame: &WireFrame) {
        assert!(self.provider.take(self.rig.now.mono, 1), "more than four frames a second at {:?}", self.rig.now.mono);
        let text = match frame {
            WireFrame::Text(text) => String::from_utf8_lossy(text).into_owned(),
            WireFrame::Ping(payload) => return self.says(attempt, WireFrame::Pong(payload.clone())),
            other => panic!("{other:?}"),
        };
        let asked: Value = serde_json::from_str(&text).expect("JSON");
        let say = |value: Value| rig::text(&value);
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
        while let Some(output) = self.rig.relay.poll_output(self.rig.now) {
            match output {
                Output::Fetch { call, .. } => self.rig.no_credentials(call),
                Output::Connect { attempt, .. } => {
                    self.attempt = Some(attempt);
                    self.answer(ROUND_TRIP, Input::Connected { attempt, peer: "test".into() });
                }
                Output::Transmit { attempt, frames } => {
                    frames.iter().for_each(|frame| self.takes(attempt, frame));
                    self.answer(Duration::ZERO, Input::Transmitted { attempt });
                }
                Output::Commit(_) => self.rig.input(Input::Committed),
                Output::Deliver { session, batch } => {
                    for frame in self.rig.read(session, &batch, None) {
                        if frame["kind"] == "event" && frame["channel"] != "$status" {
                            let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
                            self.live.entry(channel).or_insert(self.rig.now.mono);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Lets time pass until every channel is live; gives when the connection was opened.
    fn until_live(&mut self) -> Mono {
        let end = self.rig.now.mono + Duration::from_secs(3_600);
        let mut opened = self.rig.now.mono;
        while self.live.len() < CHANNELS {
            assert!(self.rig.now.mono < end, "{} of {CHANNELS} channels are live after an hour", self.live.len());
            self.rig.advance(self.rig.next().unwrap_or(end));
            while let Some(input) = self.rig.arrived() {
                if matches!(input, Input::Connected { .. }) {
                    opened = self.rig.now.mono;
                }
                self.rig.input(input);
                self.turn();
            }
            self.rig.wake();
            self.turn();
        }
        opened
    }

    /// The connection is lost; how long each channel was without one that brings it: from the loss, and from the new one on.
    fn come_back(&mut self) -> [Vec<Duration>; 2] {
        let (lost, attempt) = (self.rig.now.mono, self.attempt.expect("connected"));
        self.rig.withdraw(attempt);
        self.live.clear();
        self.subscribes = 0;
        self.rig.cut(attempt);
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
