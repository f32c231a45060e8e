//! `tidegate publish`: one message to upstream through a running relay, optionally until its outcome is known.

use std::io::Read;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json, value::RawValue};

use super::client::{Call, FeedArgs, send};
use super::{Failure, exit, print};
use crate::config::load::Sources;
use crate::protocol::duration;

/// Pause between two looks at a message.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Largest payload that is read from standard input.
const DATA_MAX: u64 = 16 << 20;

/// Arguments of `tidegate publish`.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The channel
    channel: String,
    /// The payload, JSON; `-` reads it from standard input
    #[arg(default_value = "-")]
    data: String,
    /// The message's type, if the dialect has one
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The item within the channel, if the dialect has one
    #[arg(long)]
    key: Option<String>,
    /// Makes a repeated publish find the first one
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Messages with the same order key leave one after another
    #[arg(long)]
    order_key: Option<String>,
    /// Takes the place of those with the same order key, channel and key that still wait
    #[arg(long, requires = "order_key")]
    coalesce: bool,
    /// What the message will make of the channel and key: a JSON value, shown there until the message has ended
    #[arg(long, value_name = "VALUE")]
    optimistic: Option<String>,
    /// Send it now or not at all: it is not stored and has no outcome
    #[arg(long, conflicts_with_all = ["idempotency_key", "order_key", "ttl", "on_unknown", "wait", "optimistic"])]
    volatile: bool,
    /// critical, high, medium or low
    #[arg(long)]
    priority: Option<String>,
    /// Expire unless an attempt began within this time, such as 30s
    #[arg(long)]
    ttl: Option<String>,
    /// retry or dead_letter
    #[arg(long)]
    on_unknown: Option<String>,
    /// Wait for the outcome, at most this long, such as 10s; fails unless it is `delivered`
    #[arg(long, value_name = "DURATION", value_parser = wait_time)]
    wait: Option<Duration>,
    #[command(flatten)]
    feed: FeedArgs,
}

fn wait_time(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "write a whole number and its unit, such as 10s".to_owned())
}

/// Publishes, and prints what the relay says.
pub(super) fn run(args: &PublishArgs, sources: &Sources) -> Result<(), Failure> {
    let address = args.feed.address(sources)?;
    let token = args.feed.token();
    let body = body(args, &data(&args.data)?)?;
    let publish =
        Call { address: &address, method: "POST", path: "/v1/publish", token: token.as_deref(), body: Some(body) };
    let accepted = send(&publish)?.success()?;
    let Some(patience) = args.wait else { return print(&format!("{accepted}\n")) };
    let message = accepted.get("message").and_then(Value::as_str).unwrap_or_default();
    let path = format!("/v1/messages/{message}");
    let deadline = Instant::now() + patience;
    loop {
        let look = Call { address: &address, method: "GET", path: &path, token: token.as_deref(), body: None };
        let state = send(&look)?.success()?;
        match state.get("state").and_then(Value::as_str) {
            Some("delivered") => return print(&format!("{state}\n")),
            Some("rejected" | "expired" | "dead_lettered") => {
                print(&format!("{state}\n"))?;
                return Err(Failure::new(exit::FAILED, ""));
            }
            _ if Instant::now() >= deadline => {
                print(&format!("{state}\n"))?;
                let text = "no outcome yet; the message stays accepted and will be sent";
                return Err(Failure::new(exit::FAILED, text));
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// The payload's JSON text, byte for byte.
fn data(argument: &str) -> Result<Box<RawValue>, Failure> {
    let mut text = argument.to_owned();
    if argument == "-" {
        text.clear();
        let read = std::io::stdin().lock().take(DATA_MAX).read_to_string(&mut text);
        read.map_err(|error| Failure::new(exit::IO, format!("standard input: {error}")))?;
    }
    let cure = "write for example '{\"buy\":1}'; a text needs its quotes: '\"hello\"'";
    serde_json::from_str(text.trim())
        .map_err(|error| Failure::new(exit::USAGE, format!("DATA is no JSON: {error}; {cure}")))
}

fn body(args: &PublishArgs, data: &RawValue) -> Result<String, Failure> {
    let mut members = Map::new();
    members.insert("channel".to_owned(), json!(args.channel));
    let optional = [
        ("type", &args.kind),
        ("key", &args.key),
        ("idempotency_key", &args.idempotency_key),
        ("order_key", &args.order_key),
        ("priority", &args.priority),
        ("ttl", &args.ttl),
        ("on_unknown", &args.on_unknown),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            members.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(value) = &args.optimistic {
        let value: Value = serde_json::from_str(value).map_err(|error| {
            Failure::new(exit::USAGE, format!("--optimistic is no JSON: {error}; write for example 'true'"))
        })?;
        members.insert("optimistic".to_owned(), json!({ "value": value }));
    }
    for (name, given) in [("coalesce", args.coalesce), ("volatile", args.volatile)] {
        if given {
            members.insert(name.to_owned(), json!(true));
        }
    }
    let head = Value::Object(members).to_string();
    // The payload keeps its text, so it is put in by hand: an object with at least one member ends in `}`.
    Ok(format!("{},\"data\":{}}}", &head[..head.len() - 1], data.get()))
}
