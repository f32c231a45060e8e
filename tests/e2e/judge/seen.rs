//! What can be seen of a run. One of these is one line of a trace.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Seen {
    /// By a publisher.
    Client(Client),
    /// By the service.
    Upstream(Upstream),
    /// By whoever runs the relay.
    Admin(Admin),
}

/// What publishers see. `tag`: the mark in the payload by which all observers know a message; a publish that is repeated has
/// the same. `session`: one connection to the feed, numbered over the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "saw", rename_all = "snake_case")]
pub enum Client {
    /// Is about to send this.
    Publish {
        session: u64,
        tag: String,
        principal: String,
        key: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        order_key: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dead_letter: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        /// It takes the place of those that wait under its order key.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        coalesce: bool,
    },
    /// Is about to ask that this be cancelled.
    Cancel { message: String },
    /// Asked for a message of another one.
    Pry { principal: String, message: String, status: u16 },
    /// Was told that it is accepted.
    Accepted { at_ms: u64, session: u64, tag: String, message: String, state: String },
    /// Was refused.
    Refused { session: u64, tag: String, code: String },
    /// Was told the end.
    Outcome { session: u64, message: String, end: End },
    /// Asked for the message's state once the trace had `asked` lines: the end, `None` while there is none.
    State {
        asked: u64,
        message: String,
        status: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        end: Option<End>,
    },
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<String>,
    /// Upstream's answer, as the relay handed it on: a [`receipt`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// What upstream sees and does. `request`: our id of the attempt, which is worth something on its connection only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "saw", rename_all = "snake_case")]
pub enum Upstream {
    /// A message came.
    Attempt { at_ms: u64, connection: usize, request: u64, tag: String, message: String },
    /// Is about to acknowledge it, with its receipt.
    Ack { connection: usize, request: u64 },
    /// Is about to refuse it, with its receipt; `again`: it may be sent again, once this time has passed.
    Nack {
        at_ms: u64,
        connection: usize,
        request: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
        #[serde(default)]
        after_ms: u64,
    },
    /// Every connection below this number has ended; what is still read from them left before.
    Cut { connections: usize },
    /// At this moment so many connections had begun at least: every one from this number on began later.
    Count { at_ms: u64, connections: usize },
}

/// What whoever runs the relay sees and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "saw", rename_all = "snake_case")]
pub enum Admin {
    /// What the relay is told to hold.
    Limits { max_attempts: u32 },
    /// A relay runs.
    Started,
    /// It is gone; `hard`: killed, or its power was cut.
    Gone { hard: bool },
    /// Since the start, all messages were asked for of which something was told before it that was not asked for yet.
    Asked,
    /// Numbers.
    Scrape { conservation: f64, lost: f64, store_failed: bool },
    /// Nothing is pending any more, and every message was asked for.
    Drained,
}

/// What upstream says to an attempt, so that an outcome shows which answer made it.
pub fn receipt(tag: &str, connection: usize, request: u64) -> String {
    format!("{tag}@{connection}/{request}")
}
