//! What the commands that talk to a running relay share: where it is, who they are, and one HTTP request.
//!
//! Deliberately not here: TLS and proxies. These commands are for the machine that the relay runs on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{Failure, exit};
use crate::config::Listen;
use crate::config::load::{Sources, addresses};

/// How long a whole request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const ANSWER_MAX: usize = 16 << 20;

/// Where the feed is, and with which token.
#[derive(Debug, Clone, Args)]
pub(super) struct FeedArgs {
    /// The relay's feed listener [default: feed.listen of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    feed: Option<String>,
    /// The token of access.mode = "tokens"; better in the environment variable TIDEGATE_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

/// Where the admin listener is.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminArgs {
    /// The relay's admin listener [default: admin.listen of the configuration]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    admin: Option<String>,
}

impl FeedArgs {
    /// `host:port` of the feed.
    pub(super) fn address(&self, sources: &Sources) -> Result<String, Failure> {
        if let Some(address) = &self.feed {
            return Ok(address.clone());
        }
        let (feed, _) = addresses(sources).map_err(|errors| Failure::configuration(&errors))?;
        let first = feed.first().map(|Listen::Tcp(address)| reachable(*address));
        first.ok_or_else(|| Failure::new(exit::USAGE, "feed.listen names no address; give one with --feed"))
    }

    /// The token, if there is one.
    pub(super) fn token(&self) -> Option<String> {
        self.token.clone().or_else(|| std::env::var("TIDEGATE_TOKEN").ok()).filter(|token| !token.is_empty())
    }
}

impl AdminArgs {
    /// `host:port` of the admin listener.
    pub(super) fn address(&self, sources: &Sources) -> Result<String, Failure> {
        if let Some(address) = &self.admin {
            return Ok(address.clone());
        }
        let (_, admin) = addresses(sources).map_err(|errors| Failure::configuration(&errors))?;
        let first = admin.first().copied().map(reachable);
        first.ok_or_else(|| Failure::new(exit::USAGE, "admin.listen names no address; give one with --admin"))
    }
}

/// A listener on all addresses is reached over loopback.
fn reachable(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address.to_string()
}

/// One HTTP request to a relay.
pub(super) struct Call<'a> {
    /// `host:port`.
    pub address: &'a str,
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    pub token: Option<&'a str>,
    /// JSON text.
    pub body: Option<String>,
}

/// The answer: status and JSON (`null` if it is none).
pub(super) struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of a success; the words of a problem (RFC 9457) otherwise.
    pub(super) fn success(self) -> Result<Value, Failure> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let word = |name: &str| self.body.get(name).and_then(Value::as_str).unwrap_or_default();
        let (code, detail) = (word("code"), word("detail"));
        let of = if code.is_empty() { String::new() } else { format!(" ({code})") };
        let words = format!("refused with HTTP {}{of}: {detail}", self.status);
        Err(Failure::new(exit::FAILED, words.trim_end_matches([':', ' '])))
    }
}

/// Sends it and waits for the answer.
pub(super) fn send(call: &Call<'_>) -> Result<Answer, Failure> {
    let io = |error: std::io::Error| Failure::new(exit::IO, format!("no runtime: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    runtime.block_on(async {
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange(call)).await {
            Ok(result) => result,
            Err(_) => {
                Err(Failure::new(exit::FAILED, format!("{}: no answer within {REQUEST_TIMEOUT:?}", call.address)))
            }
        }
    })
}

async fn exchange(call: &Call<'_>) -> Result<Answer, Failure> {
    let failed = |what: &dyn std::fmt::Display| Failure::new(exit::FAILED, format!("{}: {what}", call.address));
    let stream =
        tokio::net::TcpStream::connect(call.address).await.map_err(|error| unreachable(call.address, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let mut request = Request::builder().method(call.method).uri(call.path).header(HOST, call.address);
    if let Some(token) = call.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if call.body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(call.body.clone().unwrap_or_default()));
    let request = request.body(body).map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| failed(&error))?;
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    };
    // The connection makes progress only while it is polled; the answer is there before it ends.
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

/// The words for a relay that cannot be reached.
pub(super) fn unreachable(address: &str, error: &std::io::Error) -> Failure {
    let text = format!("cannot reach a relay at {address}: {error}; is `tidegate run` up, and is this its address?");
    Failure::new(exit::FAILED, text)
}
