//! The modelled upstream: speaks the plain dialect, keeps the truth about what it sent, acknowledged and was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::relay::pairs::AttemptId;
use tidegate::relay::time::Mono;

/// What tells a channel's events apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    None,
    Id,
    Number,
}

/// Of which kind a channel is.
pub fn proof(channel: &str) -> Proof {
    match channel {
        "b" => Proof::Id,
        "c" | "d" => Proof::Number,
        _ => Proof::None,
    }
}

/// What the upstream remembers over all connections.
#[derive(Default)]
pub struct Upstream {
    /// Events sent per channel so far: the newest number.
    pub numbers: BTreeMap<String, u64>,
    /// Its connections, at most two.
    pub connections: BTreeMap<AttemptId, Connection>,
    /// The connection on which the last publish came.
    pub publishes_on: Option<AttemptId>,
    /// Publishes received: tag, in order, with the relay's incarnation.
    pub attempts: Vec<(u64, u32)>,
    /// Counts the relay's starts.
    pub incarnation: u32,
    /// Tags acknowledged.
    pub acked: BTreeSet<u64>,
    /// Tags rejected for good.
    pub rejected: BTreeSet<u64>,
    /// Violations of its protocol by the relay.
    pub complaints: Vec<String>,
}

/// How long the relay waits for the answer to a subscribe.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the upstream remembers of one connection.
#[derive(Default)]
pub struct Connection {
    pub subscribed: BTreeSet<String>,
    /// Requests that wait for an answer: (id, channel or tag).
    pub unanswered: Vec<(Value, Request)>,
    /// When each channel was asked for last.
    asked: BTreeMap<String, Mono>,
    /// When its last frame arrives: they come in order.
    pub last_frame: Mono,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Subscribe(String),
    Unsubscribe(String),
    Publish(u64),
}

impl Upstream {
    pub fn connected(&mut self, attempt: AttemptId) {
        self.connections.insert(attempt, Connection::default());
        if self.connections.len() > 2 {
            self.complaints.push("S25: more than two connections".to_owned());
        }
    }

    /// Takes one frame of the relay. Gives what must be answered at once.
    pub fn take(&mut self, now: Mono, attempt: AttemptId, text: &str) -> Option<String> {
        let Ok(frame) = serde_json::from_str::<Value>(text) else {
            self.complaints.push(format!("not JSON: {text}"));
            return None;
        };
        let id = frame["id"].clone();
        let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
        let connection = self.connections.get_mut(&attempt)?;
        match frame["type"].as_str() {
            Some("subscribe") => {
                // Its answer may be slow; the relay asks again when it has waited long enough.
                let before = connection.asked.insert(channel.clone(), now);
                if connection.subscribed.contains(&channel) && before.is_none_or(|at| now.since(at) < ACK_TIMEOUT) {
                    self.complaints.push(format!("S19: {channel} is subscribed already"));
                }
                connection.unanswered.push((id, Request::Subscribe(channel)));
            }
            Some("unsubscribe") => {
                connection.unanswered.push((id, Request::Unsubscribe(channel)));
            }
            Some("publish") => {
                let tag = frame["data"]["tag"].as_u64().unwrap_or_default();
                self.attempts.push((tag, self.incarnation));
                connection.unanswered.push((id, Request::Publish(tag)));
                if self.publishes_on.is_some_and(|newest| newest > attempt) {
                    self.complaints.push("S25: two connections serve: a publish on the older one".to_owned());
                }
                self.publishes_on = Some(attempt);
            }
            Some("ping") => return Some(json!({"type": "pong", "id": id}).to_string()),
            Some("auth") => return Some(json!({"type": "auth_ok"}).to_string()),
            _ => self.complaints.push(format!("unknown: {text}")),
        }
        None
    }

    /// Answers one waiting request. `reject`: a publish or subscribe is refused for good.
    pub fn answer(&mut self, attempt: AttemptId, at: usize, reject: bool) -> Option<String> {
        let connection = self.connections.get_mut(&attempt)?;
        let (id, request) = connection.unanswered.remove(at);
        let answer = match request {
            Request::Subscribe(channel) => {
                connection.subscribed.insert(channel);
                json!({"type": "subscribed", "id": id}).to_string()
            }
            Request::Unsubscribe(channel) => {
                connection.subscribed.remove(&channel);
                json!({"type": "unsubscribed", "id": id}).to_string()
            }
            Request::Publish(tag) if reject => {
                self.rejected.insert(tag);
                json!({"type": "error", "id": id, "code": "no", "message": "rejected"}).to_string()
            }
            Request::Publish(tag) => {
                self.acked.insert(tag);
                json!({"type": "ack", "id": id}).to_string()
            }
        };
        Some(answer)
    }

    /// Connections that have subscribed the channel.
    pub fn subscribers(&self, channel: &str) -> Vec<AttemptId> {
        let subscribed = self.connections.iter().filter(|(_, connection)| connection.subscribed.contains(channel));
        subscribed.map(|(attempt, _)| *attempt).collect()
    }

    /// The next event of a channel. Channel `s` has keys: `item` says which one, and `all` that there is no other.
    pub fn event(&mut self, channel: &str, item: &str, all: bool) -> String {
        let keyed = channel == "s";
        let of = if keyed { format!("s:{item}") } else { channel.to_owned() };
        let number = self.numbers.entry(of.clone()).or_default();
        *number += 1;
        let mut event = json!({"type": "event", "channel": channel, "event": "tick", "data": {"n": *number, "of": of}});
        match proof(channel) {
            Proof::Number => event["seq"] = json!(*number),
            Proof::Id => event["id"] = json!(format!("{channel}/{number}")),
            Proof::None => {}
        }
        if keyed {
            event["key"] = json!(item);
            event["type"] = json!(if all { "snapshot" } else { "event" });
        }
        event.to_string()
    }
}
