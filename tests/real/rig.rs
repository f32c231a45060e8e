//! A relay for one test, and apps on its feed.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Process, request, until};
use crate::script::Script;

/// A relay with a configuration and a state of its own.
pub struct Relay {
    dir: tempfile::TempDir,
    process: Process,
}

impl Relay {
    /// With this upstream and dialect; `upstream` are more lines of that section, `more` other sections.
    pub fn start(url: &str, dialect: &str, upstream: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let text = format!(
            "[upstream]\nurl = \"{url}\"\ndialect = \"{dialect}\"\nbackoff = {{ min = \"20ms\", max = \"200ms\" }}\n\
             {upstream}\n[feed]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
             [outbox]\npath = {state:?}\nmin_free = \"1MiB\"\n{more}\n"
        );
        std::fs::write(dir.path().join("tidegate.toml"), text).unwrap();
        let process = run(&dir);
        Relay { dir, process }
    }

    /// Replaces a part of the configuration, which counts from the next start.
    pub fn configure(&self, before: &str, after: &str) {
        let config = self.dir.path().join("tidegate.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains(before), "{text}");
        std::fs::write(&config, text.replace(before, after)).unwrap();
    }

    /// Kills it and starts it again, on other ports.
    pub fn kill_and_restart(&mut self) {
        self.process.signal(Signal::KILL);
        self.process = run(&self.dir);
    }

    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end: exit code and log.
    pub fn end(self) -> (Option<i32>, String) {
        self.process.end()
    }

    pub fn feed_port(&self) -> u16 {
        self.process.address("feed").port()
    }

    pub fn feed(&self, path: &str) -> Value {
        body(&self.process.get("feed", path))
    }

    pub fn metrics(&self) -> String {
        let answer = self.process.get("admin", "/metrics");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The value of one sample, by its name with its labels as it is written.
    pub fn metric(&self, sample: &str) -> String {
        let text = self.metrics();
        let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no `{sample}` in:\n{text}")).to_owned()
    }

    pub fn admin_post(&self, path: &str) -> String {
        let answer = request(self.process.address("admin"), &format!("POST {path}"), &[], "{}");
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        answer
    }

    /// Waits until the link stands so; what the relay says of it.
    pub fn upstream(&self, state: &str) -> Value {
        until(&format!("upstream {state}"), || {
            Some(self.feed("/v1/status")["upstream"].take()).filter(|upstream| upstream["state"] == state)
        })
    }

    /// Waits until a sample of the metrics has this value.
    pub fn wait_metric(&self, sample: &str, value: &str) {
        // A label's value is there once it was counted.
        let line = format!("{sample} {value}");
        until(&line, || self.metrics().lines().any(|one| one == line).then_some(()));
    }

    /// Waits until upstream carries this channel.
    pub fn carried(&self, channel: &str) {
        until(&format!("{channel} is live"), || {
            let shown = body(&self.process.get("admin", "/v1/subscriptions"));
            let channels = shown["channels"].as_array().unwrap();
            channels.iter().any(|one| one["channel"] == channel && one["state"] == "live").then_some(())
        });
    }

    /// Publishes over HTTP; the message's id once it is accepted.
    pub fn publish(&self, message: &Value) -> String {
        let answer = self.process.publish(&message.to_string());
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        body(&answer)["message"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a message.
    pub fn outcome(&self, message: &str) -> Value {
        until("an outcome", || {
            let shown = self.feed(&format!("/v1/messages/{message}"));
            let ended = ["delivered", "rejected", "expired", "dead_lettered"];
            Some(shown).filter(|shown| ended.iter().any(|state| shown["state"] == *state))
        })
    }

    /// An app over WebSocket that has its hello.
    pub fn app(&self) -> App {
        let mut app = App::open(self.feed_port(), "/v1/ws");
        app.frame("hello");
        app
    }
}

fn run(dir: &tempfile::TempDir) -> Process {
    let config = dir.path().join("tidegate.toml");
    let process = Process::start(Process::command(dir.path(), &config), dir.path());
    process.address("feed");
    process
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// A session on the feed, made by the npm client `ws`.
pub struct App(pub Script);

impl App {
    pub fn open(port: u16, path: &str) -> Self {
        let mut script = Script::start("ws.mjs", &format!("ws://127.0.0.1:{port}{path}"));
        assert_eq!(script.says("open"), "tidegate.v1");
        App(script)
    }

    pub fn send(&mut self, request: Value) {
        self.0.tell("send", request);
    }

    /// Subscribes one channel; the answer.
    pub fn subscribe(&mut self, channel: Value) -> Value {
        self.send(json!({"op": "subscribe", "ref": "sub", "channels": [channel]}));
        self.frame("subscribed")
    }

    /// Publishes and waits for both answers: the outcome.
    pub fn publish(&mut self, message: Value) -> Value {
        let mut request = json!({"op": "publish", "ref": "pub"});
        request.as_object_mut().unwrap().extend(message.as_object().unwrap().clone());
        self.send(request);
        let accepted = self.frame("accepted");
        assert_eq!(accepted["ref"], "pub", "{accepted}");
        let outcome = self.frame("outcome");
        assert_eq!(outcome["message"], accepted["message"], "{outcome}");
        outcome
    }

    /// Waits for the first frame of this kind that was not taken yet.
    pub fn frame(&mut self, kind: &str) -> Value {
        self.0.line(kind, |line| line["frame"]["kind"] == kind)["frame"].take()
    }

    /// Waits until the relay has answered a ping: all that it sent before is here.
    fn fence(&mut self) {
        self.send(json!({"op": "ping", "ref": "fence"}));
        assert_eq!(self.frame("pong")["ref"], "fence");
    }

    /// That no such frame came, up to now.
    pub fn has_no(&mut self, kind: &str) {
        self.fence();
        let left = self.0.left(|line| line["frame"]["kind"] == kind);
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The offset in an entry's id.
pub fn offset(entry: &Value) -> u64 {
    let id = entry["id"].as_str().unwrap_or_else(|| panic!("no id: {entry}"));
    id.rsplit_once('-').unwrap().1.parse().unwrap()
}
