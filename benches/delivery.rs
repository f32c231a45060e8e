//! The path of an event through the relay without any socket: frame in, scan, ring, cut, encoded batch, delivered.
//!
//! `cargo bench --bench delivery` prints nanoseconds per delivery. `benches/instructions` runs it under callgrind and prints
//! instructions per delivery and per event, which do not depend on what else the machine does.
//! Arguments: SCENARIO (`fan`: 1,000 sessions on one channel; `route`: 100 channels with 10 sessions each) and EVENTS.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidegate::config::Config;
use tidegate::dialect::{Dialect, WireFrame};
use tidegate::protocol::frame::Format;
use tidegate::protocol::request::options::Options;
use tidegate::protocol::request::{ChannelRequest, Subscribe};
use tidegate::relay::Relay;
use tidegate::relay::access::Principal;
use tidegate::relay::pairs::{AttemptId, Credentials, FetchAnswer, Input, Output, SessionId};
use tidegate::relay::record::Restored;
use tidegate::relay::time::{Mono, Time, Wall};

struct Bench {
    relay: Relay,
    now: Time,
    attempt: AttemptId,
    delivered: u64,
}

impl Bench {
    fn new() -> Self {
        let mut config = Config::default();
        config.upstream.url = "ws://127.0.0.1:1/".into();
        let dialect = Dialect::parse("bench", include_str!("bench-dialect.toml")).expect("the committed dialect");
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_123_456_000) };
        let relay = Relay::new(Arc::new(config), Arc::new(dialect), Restored::default(), 1, now);
        let mut bench = Bench { relay, now, attempt: AttemptId(0), delivered: 0 };
        bench.relay.handle_timeout(now);
        bench.turn();
        bench
    }

    fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            let answer = match output {
                Output::Deliver { session, batch } => {
                    black_box(batch.wire(Format::WebSocket).len());
                    self.delivered += batch.items().len() as u64;
                    Input::Delivered { session, at: self.now.mono }
                }
                Output::Fetch { call, .. } => {
                    Input::Fetched { call, result: Ok(FetchAnswer::Credentials(Credentials::default())) }
                }
                Output::Connect { attempt, .. } => {
                    self.attempt = attempt;
                    Input::Connected { attempt, peer: "bench".into() }
                }
                Output::Transmit { attempt, .. } => Input::Transmitted { attempt },
                other => unreachable!("a bench without outbox and HTTP was asked for {other:?}"),
            };
            self.relay.handle_input(self.now, answer);
        }
    }

    fn join(&mut self, index: u32, channel: &str) {
        let channels = vec![ChannelRequest { name: channel.into(), params: None }];
        let subscribe =
            Subscribe { reference: None, channels, since: None, snapshot: true, options: Options::default() };
        let session = SessionId { index, generation: 1 };
        let principal = Arc::new(Principal::local());
        let format = Format::WebSocket;
        self.relay.handle_input(self.now, Input::Joined { session, principal, format, subscribe: Some(subscribe) });
        self.turn();
    }

    fn event(&mut self, number: u64, channels: u64) {
        let pad = "x".repeat(110);
        let text = format!(
            r#"{{"channel":"c{}","seq":{number},"ts":"@@1795231888123456000@@","pad":"{pad}","px":97000.10}}"#,
            number % channels
        );
        self.now.mono.0 += 1_000_000;
        let frames = vec![WireFrame::Text(Bytes::from(text))];
        self.relay.handle_input(self.now, Input::Received { attempt: self.attempt, at: self.now, frames });
        self.turn();
    }
}

fn run(scenario: &str, events: u64) {
    let channels: u64 = if scenario == "route" { 100 } else { 1 };
    let mut bench = Bench::new();
    for index in 0..1_000u32 {
        bench.join(index, &format!("c{}", u64::from(index) % channels));
    }
    bench.delivered = 0;
    let begin = Instant::now();
    for number in 0..events {
        bench.event(number, channels);
    }
    let nanos = begin.elapsed().as_nanos() as f64;
    assert_eq!(bench.delivered, events * 1_000 / channels, "every event reaches every session of its channel once");
    println!(
        "{scenario} events {events} deliveries {} ns/delivery {:.0}",
        bench.delivered,
        nanos / bench.delivered as f64
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    match arguments.as_slice() {
        [scenario, events] => run(scenario, events.parse().expect("a number of events")),
        _ => {
            run("fan", 2_000);
            run("route", 20_000);
        }
    }
}
