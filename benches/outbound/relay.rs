//! The program under test: its configuration, its process, what is asked of it; and its WebSocket clients as a swarm.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::client;

use crate::children::{Running, connect, until};
use crate::measure::PAYLOAD;
use crate::swarm::Service;

/// A directory with the configuration and the state of one relay, over several of its lives.
pub struct Place {
    directory: tempfile::TempDir,
    lines: Vec<String>,
}

impl Place {
    /// Limits out of the way; the rest as it is by default.
    pub fn new(upstream: &str) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let state = format!("{:?}", directory.path().join("state"));
        let mut place = Place { directory, lines: Vec::new() };
        for (key, value) in [
            ("upstream.url", format!("{upstream:?}").as_str()),
            ("upstream.backoff", r#"{ min = "50ms", max = "100ms" }"#),
            ("feed.listen", r#"["127.0.0.1:0"]"#),
            ("feed.session_requests", "1000000"),
            ("feed.request_max", r#""1MiB""#),
            ("admin.listen", r#"["127.0.0.1:0"]"#),
            ("outbox.path", &state),
            ("outbox.max_messages", "100000000"),
            ("outbox.max_bytes", r#""64GiB""#),
            ("outbox.ballast", r#""0B""#),
            ("log.format", r#""text""#),
        ] {
            place.set(key, value);
        }
        place
    }

    /// Sets a key to a TOML value.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Place {
        self.lines.push(format!("{key} = {value}\n"));
        std::fs::write(self.path("tidegate.toml"), self.lines.concat()).unwrap();
        self
    }

    /// A file of this directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What its relays logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts the program and waits until it is ready.
    pub fn start(&self) -> Relay {
        let _ = std::fs::remove_file(self.path("ports"));
        let program = std::env::var("TIDEGATE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_tidegate").to_owned());
        let mut command = Command::new(program);
        command.args(["run", "-c"]).arg(self.path("tidegate.toml")).env("TIDEGATE_PORTS_FILE", self.path("ports"));
        let began = Instant::now();
        let mut process = Running::start(command, &self.path("log"));
        let ports: Value = until("the file with the ports", || {
            assert!(!process.has_ended(), "the relay ended: {}", self.log());
            serde_json::from_slice(&std::fs::read(self.path("ports")).ok()?).ok()
        });
        let address = |listener: &str| ports[listener][0].as_str().unwrap().parse().unwrap();
        let mut relay = Relay { process, feed: address("feed"), admin: address("admin"), ready: Duration::ZERO };
        until("the relay to be ready", || (relay.get("/readyz").0 == 200).then_some(()));
        relay.ready = began.elapsed();
        relay
    }
}

/// A relay that runs.
pub struct Relay {
    /// Its process.
    pub process: Running,
    /// Where the feed is.
    pub feed: SocketAddr,
    admin: SocketAddr,
    /// From the start of the process until `/readyz` said yes.
    pub ready: Duration,
}

impl Relay {
    /// What the admin listener answers.
    pub fn get(&self, path: &str) -> (u16, String) {
        Http::new(self.admin).ask(&format!("GET {path}"), "")
    }

    /// Messages that are not settled.
    pub fn depth(&self) -> u64 {
        let status: Value = serde_json::from_str(&self.get("/v1/status").1).unwrap();
        status["outbox"]["depth"].as_u64().unwrap()
    }

    /// What the store has done.
    pub fn commits(&self) -> Commits {
        let text = self.get("/metrics").1;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("tidegate_store_")?.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
        };
        let (count, seconds) = (value("commit_seconds_count "), value("commit_seconds_sum "));
        Commits { count, seconds, operations: value("operations_total ") }
    }

    /// Waits until the connection to upstream serves.
    pub fn wait_live(&self) {
        until("the link to be live", || self.get("/v1/status").1.contains(r#""state":"live""#).then_some(()));
    }

    /// Waits until every message is settled.
    pub fn wait_settled(&self) {
        let begun = Instant::now();
        while self.depth() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(1200), "the outbox does not become empty");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it in good order.
    pub fn stop(self) {
        self.process.signal(Signal::TERM);
        self.process.end();
    }

    /// Kills it.
    pub fn kill(self) {
        self.process.signal(Signal::KILL);
        self.process.end();
    }
}

/// What a store did in a time.
#[derive(Default, Clone, Copy)]
pub struct Commits {
    count: f64,
    seconds: f64,
    operations: f64,
}

impl Commits {
    /// What was done since `before`.
    pub fn since(self, before: Commits) -> Commits {
        Commits {
            count: self.count - before.count,
            seconds: self.seconds - before.seconds,
            operations: self.operations - before.operations,
        }
    }
}

impl std::fmt::Display for Commits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Commits { count, seconds, operations } = self;
        write!(f, "{count:.0} commits of {:.2} ms and {:.1} operations", seconds / count * 1e3, operations / count)
    }
}

/// A connection that speaks HTTP and is kept.
pub struct Http {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Http {
    /// A connection to this address.
    pub fn new(address: SocketAddr) -> Http {
        Http { address, stream: BufReader::new(connect(address)) }
    }

    /// Asks: status and body.
    pub fn ask(&mut self, line: &str, body: &str) -> (u16, String) {
        let head = format!("{line} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", self.address);
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the relay hung up");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

/// What a message carries besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extras {
    /// Nothing.
    None,
    /// An idempotency key, an order key and a time to live.
    All,
}

/// Messages of one request.
const BATCH: u64 = 1_000;

/// Publishes messages `from..to` over HTTP, a thousand a request, on two connections. `pause` is asked before each request.
pub fn fill(relay: &Relay, from: u64, to: u64, extras: Extras, pause: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                let mut http = Http::new(relay.feed);
                for first in (from + part * BATCH..to).step_by(2 * BATCH as usize) {
                    pause();
                    let last = to.min(first + BATCH);
                    let (status, answer) = http.ask("POST /v1/publish", &body(first, last, extras));
                    let accepted = answer.matches(r#""state":""#).count() as u64;
                    assert!(accepted == last - first, "{accepted} accepted, status {status}: {:.500}", answer);
                }
            });
        }
    });
}

fn body(first: u64, last: u64, extras: Extras) -> String {
    let messages: Vec<String> = (first..last)
        .map(|number| match extras {
            Extras::None => format!(r#"{{"channel":"orders","data":{}}}"#, data()),
            Extras::All => format!(
                r#"{{"channel":"orders","data":{},"idempotency_key":"key-{number}","order_key":"account-{number}","ttl":"24h"}}"#,
                data()
            ),
        })
        .collect();
    format!(r#"{{"messages":[{}]}}"#, messages.join(","))
}

/// A payload: a JSON text of [`PAYLOAD`] bytes.
fn data() -> String {
    format!(r#""{}""#, "x".repeat(PAYLOAD - 2))
}

/// The WebSocket clients of a feed.
pub struct Clients(pub SocketAddr);

impl Service for Clients {
    fn connect(&self, _publisher: usize) -> TcpStream {
        let url = format!("ws://{}/v1/ws", self.0);
        let (mut socket, _) = client(url, connect(self.0)).unwrap();
        // The greeting comes before anything is asked.
        let greeting = socket.read().unwrap();
        assert!(greeting.to_string().contains(r#""kind":"hello""#), "{greeting}");
        socket.get_ref().try_clone().unwrap()
    }

    fn message(&self, publisher: usize) -> Vec<u8> {
        let text = format!(r#"{{"op":"publish","ref":{publisher},"channel":"orders","data":{}}}"#, data());
        // A mask of zeroes leaves the text as it is.
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    fn hear(&self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> usize {
        let (mut accepted, mut at) = (0, 0);
        while let Some((head, length)) = frame(&heard[at..]) {
            let (kind, text) = (heard[at] & 0x0F, &heard[at + head..at + head + length]);
            match kind {
                9 => say.extend_from_slice(&[0x8A, 0x80, 0, 0, 0, 0]),
                _ if text.starts_with(br#"{"kind":"accepted""#) => accepted += 1,
                _ if text.starts_with(br#"{"kind":"outcome""#) => {}
                _ => panic!("the relay says {}", String::from_utf8_lossy(text)),
            }
            at += head + length;
        }
        heard.drain(..at);
        accepted
    }
}

/// Lengths of head and payload of the unmasked frame that begins here, if it is whole.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (head, length) = match *bytes.get(1)? & 0x7F {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => panic!("no answer is that long"),
        length => (2, usize::from(length)),
    };
    (bytes.len() >= head + length).then_some((head, length))
}
