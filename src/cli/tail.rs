//! `tidegate tail`: prints the frames of channels, one a line, and comes back with the cursor when the connection is lost.
//!
//! A client like any other: what it may lose it is told by `gap` and `reset`, and prints.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use super::client::{FeedArgs, unreachable};
use super::{Failure, exit, remark};
use crate::config::load::Sources;
use crate::protocol::duration::millis;
use crate::relay::rng::Rng;

/// The relay pings every `feed.ping_interval`; nothing at all for this long means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(120);
/// Pause before the first reconnect; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// From here on a close code says: do not come back.
const CLOSE_FOR_GOOD: u16 = 4500;

/// Arguments of `tidegate tail`.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Channels, or prefixes followed by `*`
    #[arg(required = true)]
    channels: Vec<String>,
    /// Begin after this position instead of with a snapshot
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
    /// Begin without a snapshot
    #[arg(long)]
    no_snapshot: bool,
    /// Stop after so many frames
    #[arg(long, value_name = "FRAMES")]
    count: Option<u64>,
    #[command(flatten)]
    feed: FeedArgs,
}

/// What concerns `tail` itself of a frame. The payload is not read: it may hold what no type here does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame {
    kind: String,
    id: Value,
    cursor: Value,
    retry_after_ms: Option<u64>,
    channel: Option<String>,
    retryable: Option<bool>,
}

/// Why following ended.
enum End {
    /// What was asked for was printed, or nobody reads any more.
    Done,
    /// Come back, at the earliest after this.
    Lost(String, Option<Duration>),
    /// Do not come back.
    Refused(Failure),
}

struct Tail<'a> {
    args: &'a TailArgs,
    address: String,
    cursor: Option<String>,
    printed: u64,
    connected: bool,
    /// Channels that are refused for good on this connection.
    refused: BTreeSet<String>,
}

/// Follows until it is told to stop.
pub(super) fn run(args: &TailArgs, sources: &Sources) -> Result<(), Failure> {
    let address = args.feed.address(sources)?;
    let mut tail =
        Tail { args, address, cursor: args.since.clone(), printed: 0, connected: false, refused: BTreeSet::new() };
    let mut rng = Rng::new(u64::from(std::process::id()));
    let mut pause = PAUSE;
    loop {
        let before = tail.printed;
        match tail.follow() {
            End::Done => return Ok(()),
            End::Refused(failure) => return Err(failure),
            End::Lost(reason, after) => {
                pause = if tail.printed > before { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
                let spread = millis(pause);
                let wait = after.unwrap_or(Duration::from_millis(spread / 2 + rng.below(spread / 2 + 1)));
                remark(&format!("lost: {reason}; again in {} ms", wait.as_millis()));
                std::thread::sleep(wait);
            }
        }
    }
}

impl Tail<'_> {
    /// One connection.
    fn follow(&mut self) -> End {
        let mut socket = match self.connect() {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let mut retry_after = None;
        self.refused.clear();
        loop {
            let text = match socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(frame)) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
                    if code >= CLOSE_FOR_GOOD {
                        let text = format!("the relay closed the connection: {code} {reason}");
                        return End::Refused(Failure::new(exit::FAILED, text));
                    }
                    return End::Lost(format!("closed with {code} {reason}"), retry_after);
                }
                Ok(_) => continue,
                Err(error) => return End::Lost(error.to_string(), retry_after),
            };
            let frame: Frame = serde_json::from_str(&text).unwrap_or_default();
            if frame.kind == "closing" {
                retry_after = frame.retry_after_ms.map(Duration::from_millis);
            }
            self.remember(&frame);
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                return End::Done;
            }
            self.printed += 1;
            if self.args.count.is_some_and(|count| self.printed >= count) {
                return End::Done;
            }
            if self.nothing_stands(frame) {
                return End::Refused(Failure::new(exit::FAILED, "nothing is subscribed: see the error above"));
            }
        }
    }

    /// Whether this frame takes the last channel: it refuses the whole request, or the only one that is left, for good.
    fn nothing_stands(&mut self, frame: Frame) -> bool {
        if frame.kind != "error" || frame.retryable != Some(false) {
            return false;
        }
        let Some(channel) = frame.channel else { return true };
        self.refused.insert(channel);
        self.args.channels.iter().all(|channel| self.refused.contains(channel))
    }

    /// Entries come in ascending order of their position, which is where to go on.
    fn remember(&mut self, frame: &Frame) {
        let position = if frame.kind == "hello" { &frame.cursor } else { &frame.id };
        if let Some(position) = position.as_str() {
            self.cursor = Some(position.to_owned());
        }
    }

    fn connect(&mut self) -> Result<WebSocket<TcpStream>, End> {
        let stream = TcpStream::connect(&self.address).map_err(|error| match self.connected {
            false => End::Refused(unreachable(&self.address, &error)),
            true => End::Lost(error.to_string(), None),
        })?;
        let lost = |error: &dyn std::fmt::Display| End::Lost(error.to_string(), None);
        stream.set_read_timeout(Some(SILENCE)).map_err(|error| lost(&error))?;
        let mut request = format!("ws://{}/v1/ws", self.address)
            .into_client_request()
            .map_err(|error| End::Refused(Failure::new(exit::USAGE, format!("{}: {error}", self.address))))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("tidegate.v1"));
        if let Some(token) = self.args.feed.token() {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let value = value.map_err(|_| End::Refused(Failure::new(exit::USAGE, "the token has odd characters")))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let (mut socket, _) = client(request, stream).map_err(refused)?;
        self.connected = true;
        let mut subscribe = json!({
            "op": "subscribe",
            "channels": self.args.channels,
            "options": { "snapshot": !self.args.no_snapshot },
        });
        if let Some(cursor) = &self.cursor {
            subscribe["since"] = json!(cursor);
        }
        socket.send(Message::text(subscribe.to_string())).map_err(|error| lost(&error))?;
        Ok(socket)
    }
}

/// A handshake that failed: for good if the relay says that the request is wrong.
fn refused<R: tokio_tungstenite::tungstenite::handshake::HandshakeRole>(error: HandshakeError<R>) -> End {
    match error {
        HandshakeError::Failure(Error::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let text = format!("the relay refused the connection with HTTP {}: {body}", response.status().as_u16());
            match response.status().as_u16() {
                429 | 500.. => End::Lost(text, None),
                _ => End::Refused(Failure::new(exit::FAILED, text)),
            }
        }
        other => End::Lost(other.to_string(), None),
    }
}
