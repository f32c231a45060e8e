//! The two traces of ARCHITECTURE.md, executed: the page is the test's expectation.

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
use tidegate::relay::pairs::{AttemptId, Credentials, FetchAnswer, Input, Output, SessionId};
use tidegate::relay::record::{Operation, Restored};
use tidegate::relay::time::{Mono, Time, Wall};

const SESSION: SessionId = SessionId { index: 0, generation: 1 };

/// Plays one trace: what stands behind `received` and `request` goes in, everything else must come out, in order.
struct Play {
    relay: Relay,
    now: Time,
    attempt: AttemptId,
    seen: Vec<String>,
}

impl Play {
    fn new(dialect: &str, url: &str) -> Self {
        let mut config = Config::default();
        config.upstream.url = url.into();
        config.upstream.dialect = dialect.into();
        let dialect = Dialect::builtin(dialect).expect("a built-in dialect");
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_123_456_000) };
        let relay = Relay::new(Arc::new(config), dialect, Restored::default(), 1, now);
        let mut play = Play { relay, now, attempt: AttemptId(0), seen: Vec::new() };
        play.relay.handle_timeout(now);
        play.turn();
        play
    }

    fn input(&mut self, input: Input) {
        self.relay.handle_input(self.now, input);
        self.turn();
    }

    /// Does what carriers do, at once, and writes down what they were asked.
    fn turn(&mut self) {
        while let Some(output) = self.relay.poll_output(self.now) {
            let answer = match output {
                Output::Connect { attempt, request } => {
                    self.seen.push(format!("connect {}", request.url));
                    self.attempt = attempt;
                    Some(Input::Connected { attempt, peer: "192.0.2.1:443".into() })
                }
                Output::Transmit { attempt, frames } => {
                    for frame in &frames {
                        if let WireFrame::Text(text) = frame {
                            self.seen.push(format!("transmit {}", String::from_utf8_lossy(text)));
                        }
                    }
                    Some(Input::Transmitted { attempt })
                }
                Output::Fetch { call, .. } => {
                    Some(Input::Fetched { call, result: Ok(FetchAnswer::Credentials(Credentials::default())) })
                }
                Output::Commit(operations) => {
                    for operation in &operations {
                        let word = match operation {
                            Operation::Accept(_) => "accept",
                            Operation::Attempt { .. } => "attempt",
                            Operation::Settle { .. } => "settle",
                            Operation::Amend { .. } => "amend",
                            Operation::Forget { .. } => "forget",
                            Operation::Tally(_) => "tally",
                        };
                        self.seen.push(format!("commit {word}"));
                    }
                    Some(Input::Committed)
                }
                Output::Deliver { session, batch } => {
                    for item in batch.items() {
                        let text = std::str::from_utf8(item.text()).expect("frames are UTF-8");
                        if !["hello", "subscribed"].contains(&kind(text).as_str()) {
                            self.seen.push(format!("deliver {text}"));
                        }
                    }
                    Some(Input::Delivered { session, at: self.now.mono })
                }
                other => panic!("nobody asked for {other:?}"),
            };
            if let Some(answer) = answer {
                self.relay.handle_input(self.now, answer);
            }
        }
    }

    fn run(mut self, trace: &str, before: &[&str]) {
        let principal = Arc::new(Principal::local());
        self.input(Input::Joined { session: SESSION, principal, format: Format::WebSocket, subscribe: None });
        for text in before {
            self.request(text);
        }
        for line in trace.lines() {
            match line.split_once(' ').expect("a verb and its text") {
                ("received", text) => {
                    self.seen.push(line.to_owned());
                    let frames = vec![WireFrame::Text(Bytes::copy_from_slice(text.as_bytes()))];
                    self.input(Input::Received { attempt: self.attempt, at: self.now, frames });
                }
                ("request", text) => {
                    self.seen.push(line.to_owned());
                    self.request(text);
                }
                _ => {}
            }
            self.now = self.now.after(Duration::from_millis(1));
        }
        let seen: Vec<String> = self.seen.iter().map(|line| neutral(line)).collect();
        let told: Vec<String> = trace.lines().map(str::to_owned).collect();
        assert_eq!(seen, told, "ARCHITECTURE.md tells another story than the relay");
    }

    fn request(&mut self, text: &str) {
        let request = parse(text, &RequestLimits::new(&Config::default()));
        self.input(Input::Request { session: SESSION, request });
    }
}

fn kind(text: &str) -> String {
    let value: Value = serde_json::from_str(text).expect("frames are JSON");
    value["kind"].as_str().expect("a kind").to_owned()
}

/// Epochs, times and message ids differ from run to run.
fn neutral(line: &str) -> String {
    let Some(text) = line.strip_prefix("deliver ") else { return line.to_owned() };
    let value: Value = serde_json::from_str(text).expect("frames are JSON");
    let mut text = text.to_owned();
    for (member, word) in [("time", "TIME"), ("source_time", "TIME"), ("message", "ID")] {
        if let Some(was) = value[member].as_str() {
            text = text.replace(&format!("\"{member}\":{}", json!(was)), &format!("\"{member}\":\"{word}\""));
        }
    }
    if let Some((epoch, _)) = value["id"].as_str().and_then(|id| id.split_once('-')) {
        text = text.replace(&format!("\"id\":\"{epoch}-"), "\"id\":\"EPOCH-");
    }
    format!("deliver {text}")
}

fn trace(name: &str) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).expect("the page");
    let (_, rest) = page.split_once(&format!("<!-- trace:{name} -->\n```\n")).expect("the trace");
    rest.split_once("\n```").expect("the end of the trace").0.to_owned()
}

#[test]
fn in_from_a_text_frame_to_every_session() {
    let play = Play::new("binance", "wss://stream.example/stream");
    play.run(&trace("in"), &[r#"{"op":"subscribe","channels":["btcusdt@trade"]}"#]);
}

#[test]
fn out_from_a_publish_to_its_outcome() {
    let play = Play::new("plain", "wss://service.example/stream");
    play.run(&trace("out"), &[]);
}
