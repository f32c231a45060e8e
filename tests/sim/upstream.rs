//! The modelled upstream: speaks the plain dialect, keeps the truth about what it sent, acknowledged and was asked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// What the upstream remembers over all connections.
#[derive(Default)]
pub struct Upstream {
    /// Events sent per channel so far: the newest number.
    pub numbers: BTreeMap<String, u64>,
    /// Channels subscribed on the present connection.
    pub subscribed: BTreeSet<String>,
    /// Subscribes received on the present connection, by channel.
    pub subscribes: BTreeMap<String, u32>,
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
    /// Requests that wait for an answer: (id, channel or tag).
    pub unanswered: Vec<(Value, Request)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Subscribe(String),
    Unsubscribe(String),
    Publish(u64),
}

impl Upstream {
    pub fn connected(&mut self) {
        self.subscribed.clear();
        self.subscribes.clear();
        self.unanswered.clear();
    }

    /// Takes one frame of the relay. Gives what must be answered at once.
    pub fn take(&mut self, text: &str) -> Option<String> {
        let Ok(frame) = serde_json::from_str::<Value>(text) else {
            self.complaints.push(format!("not JSON: {text}"));
            return None;
        };
        let id = frame["id"].clone();
        let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str() {
            Some("subscribe") => {
                let count = self.subscribes.entry(channel.clone()).or_default();
                *count += 1;
                if self.subscribed.contains(&channel) {
                    self.complaints.push(format!("S19: {channel} is subscribed already"));
                }
                self.unanswered.push((id, Request::Subscribe(channel)));
            }
            Some("unsubscribe") => {
                self.unanswered.push((id, Request::Unsubscribe(channel)));
            }
            Some("publish") => {
                let tag = frame["data"]["tag"].as_u64().unwrap_or_default();
                self.attempts.push((tag, self.incarnation));
                self.unanswered.push((id, Request::Publish(tag)));
            }
            Some("ping") => return Some(json!({"type": "pong", "id": id}).to_string()),
            Some("auth") => return Some(json!({"type": "auth_ok"}).to_string()),
            _ => self.complaints.push(format!("unknown: {text}")),
        }
        None
    }

    /// Answers one waiting request. `reject`: a publish or subscribe is refused for good.
    pub fn answer(&mut self, at: usize, reject: bool) -> String {
        let (id, request) = self.unanswered.remove(at);
        match request {
            Request::Subscribe(channel) => {
                self.subscribed.insert(channel);
                json!({"type": "subscribed", "id": id}).to_string()
            }
            Request::Unsubscribe(channel) => {
                self.subscribed.remove(&channel);
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
        }
    }

    /// The next event of a channel. Channel `s` has keys: `item` says which one, and `all` that there is no other.
    pub fn event(&mut self, channel: &str, item: &str, all: bool) -> String {
        let keyed = channel == "s";
        let of = if keyed { format!("s:{item}") } else { channel.to_owned() };
        let number = self.numbers.entry(of.clone()).or_default();
        *number += 1;
        let mut event = json!({"type": "event", "channel": channel, "event": "tick", "data": {"n": *number, "of": of}});
        if keyed {
            event["key"] = json!(item);
            event["type"] = json!(if all { "snapshot" } else { "event" });
        }
        event.to_string()
    }
}
