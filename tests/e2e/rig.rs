//! A relay under test: its configuration key by key, its process, what it says about itself.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::Value;

use crate::client::Client;
use crate::common::{DEADLINE, Process, request, until};
use crate::sse::Stream;
use crate::upstream::Upstream;

/// A directory with a configuration and the state of one relay, over several of its lives.
pub struct Place {
    dir: Arc<tempfile::TempDir>,
    keys: BTreeMap<String, String>,
}

impl Place {
    /// A quick relay in front of this upstream.
    pub fn new(upstream: &Upstream) -> Self {
        Place::at(&upstream.url())
    }

    /// A quick relay in front of this address.
    pub fn at(url: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let state = format!("{:?}", dir.path().join("state"));
        let mut place = Place { dir, keys: BTreeMap::new() };
        for (key, value) in [
            ("upstream.url", format!("{url:?}").as_str()),
            ("upstream.backoff", r#"{ min = "10ms", max = "100ms" }"#),
            ("feed.listen", r#"["127.0.0.1:0"]"#),
            ("admin.listen", r#"["127.0.0.1:0"]"#),
            ("outbox.path", &state),
            ("outbox.min_free", r#""1MiB""#),
            ("outbox.ballast", r#""0B""#),
            ("outbox.backoff", r#"{ min = "10ms", max = "100ms" }"#),
        ] {
            place.set(key, value);
        }
        place
    }

    /// Sets a key to a TOML value, for the next start or reload.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.keys.insert(key.to_owned(), value.to_owned());
        let lines: Vec<String> = self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        std::fs::write(self.path("tidegate.toml"), lines.concat()).unwrap();
        self
    }

    /// Leaves a key to its default.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        self.keys.remove(key);
        self
    }

    /// A file of this directory.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a relay.
    pub fn start(&self) -> Relay {
        self.start_with(&[])
    }

    /// Starts a relay with these environment variables.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Relay {
        let mut command = Process::command(self.dir.path(), &self.path("tidegate.toml"));
        command.envs(environment.iter().copied());
        let process = Process::start(command, self.dir.path());
        let (feed, admin) = (process.address("feed"), process.address("admin"));
        Relay { process, feed, admin, _dir: self.dir.clone() }
    }

    /// Starts a relay by way of a program that becomes it. If it ends before it listens: its exit code, and what it said.
    pub fn start_by(&self, wrapper: &[&str]) -> Result<Relay, (Option<i32>, String)> {
        let before = std::fs::read(self.path("log")).map_or(0, |log| log.len());
        let command = Process::command_by(wrapper, self.dir.path(), &self.path("tidegate.toml"));
        let mut process = Process::start(command, self.dir.path());
        if !process.listens() {
            let (code, said) = process.end();
            return Err((code, said[before..].to_owned()));
        }
        let (feed, admin) = (process.address("feed"), process.address("admin"));
        Ok(Relay { process, feed, admin, _dir: self.dir.clone() })
    }

    /// Starts a relay and waits until it is connected.
    pub fn start_live(&self) -> Relay {
        let relay = self.start();
        relay.wait_state("live");
        relay
    }
}

/// An answer over HTTP.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// The body, which is JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}{}", self.head, self.body))
    }
}

/// A relay that runs.
pub struct Relay {
    process: Process,
    feed: SocketAddr,
    admin: SocketAddr,
    /// The place may be dropped before.
    _dir: Arc<tempfile::TempDir>,
}

impl Relay {
    /// Where the feed is.
    pub fn feed(&self) -> SocketAddr {
        self.feed
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // A zombie is only waited for.
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().is_empty() && !rest.trim_start().starts_with('Z'))
    }

    /// A session over WebSocket.
    pub fn client(&self) -> Client {
        Client::connect(self.feed, "/v1/ws", &[])
    }

    /// A session over WebSocket with a token.
    pub fn client_as(&self, token: &str) -> Client {
        Client::connect(self.feed, "/v1/ws", &[&format!("Authorization: Bearer {token}")])
    }

    /// A session over WebSocket that subscribed a channel.
    pub fn subscriber(&self, channel: &str) -> Client {
        let mut client = self.client();
        client.subscribe(channel);
        client
    }

    /// A session over SSE.
    pub fn stream(&self, query: &str, headers: &[&str]) -> Stream {
        Stream::connect(self.feed, query, headers)
    }

    /// A request to the feed.
    pub fn ask(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        Answer::read(&request(self.feed, line, headers, body))
    }

    /// Many requests to the feed without bodies, each with a token, one after another on one connection; gives each answer to `read`.
    pub fn ask_each(&self, lines: &[(String, String)], mut read: impl FnMut(usize, Answer)) {
        let mut stream = TcpStream::connect(self.feed).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        for (place, (line, token)) in lines.iter().enumerate() {
            let headers = format!("Host: {}\r\nAuthorization: Bearer {token}", self.feed);
            write!(stream, "{line} HTTP/1.1\r\n{headers}\r\n\r\n").unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(answers.read_line(&mut head).unwrap() > 0, "no answer to {line}: {head}");
            }
            let length =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            answers.read_exact(&mut body).unwrap();
            read(place, Answer::read(&(head + &String::from_utf8(body).unwrap())));
        }
    }

    /// A request to the admin listener.
    pub fn tell(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        Answer::read(&request(self.admin, line, headers, body))
    }

    /// A publish over HTTP.
    pub fn publish(&self, body: &Value) -> Answer {
        self.ask("POST /v1/publish", &[], &body.to_string())
    }

    /// `GET /v1/status` of the admin listener.
    pub fn status(&self) -> Value {
        self.tell("GET /v1/status", &[], "").json()
    }

    /// Waits for a state of the link; gives the status that shows it.
    pub fn wait_state(&self, state: &str) -> Value {
        until(&format!("the link to be {state}"), || {
            Some(self.status()).filter(|status| status["upstream"]["state"] == state)
        })
    }

    /// One metric, by its name with labels as it is printed.
    pub fn metric(&self, name: &str) -> f64 {
        self.find_metric(name).unwrap_or_else(|| panic!("/metrics has no {name}"))
    }

    /// One metric, if it is there.
    pub fn find_metric(&self, name: &str) -> Option<f64> {
        let answer = self.tell("GET /metrics", &[], "");
        let value = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    /// Waits until a metric has reached a value. What has never been counted may be absent until then.
    pub fn wait_metric(&self, name: &str, least: f64) {
        until(&format!("{name} to reach {least}"), || self.find_metric(name).filter(|value| *value >= least));
    }

    /// Waits until every accepted message is settled, and holds that none is lost on the way.
    pub fn wait_settled(&self) {
        until("an empty outbox", || (self.status()["outbox"]["depth"] == 0).then_some(()));
        assert_eq!(self.metric("tidegate_outbox_conservation_error"), 0.0);
    }

    /// The most memory that it ever held, in bytes; 0 where the system does not say.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0) * 1024
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end, which has to be an orderly one.
    pub fn end(self) {
        let (code, said) = self.process.end();
        assert_eq!(code, Some(0), "{said}");
    }

    /// Tells it to go, at once, and waits for its end.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        self.signal(Signal::TERM);
        self.end();
    }

    /// Kills it.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        assert_eq!(self.process.end().0, None, "killed, not ended");
    }
}
