//! The feed listener: handshakes of sessions, and the requests that are answered at once. On the side runtime.
//!
//! Every request passes, in this order: the guard (Host, Origin), its path and method, its token, its limits. What becomes a
//! session leaves for the feed thread with its response head written; the rest is asked of the relay.
//!
//! Invariant: nothing reaches the relay that the guard refused, and no session begins above `feed.max_sessions`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Request, Response, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::connection::{self, Answer, Deadlines, Taken};
use super::counts::HttpCounts;
use super::guard::{Asked, Guard};
use super::handshake::{self, Upgrade, one};
use super::listener::{self, Ends};
use super::policy::Policy;
use super::writer::sse_opening;
use super::{calls, reply};
use crate::inbox::{Adopted, FromOutside, Seat, Seats};
use crate::protocol::codes::ErrorCode;
use crate::protocol::contract::{ASYNCAPI, OPENAPI};
use crate::protocol::frame::Format;
use crate::protocol::request::parse::{parse_publish, parse_refresh};
use crate::protocol::request::query::{Query, parse_query, parse_snapshot};
use crate::protocol::request::{Secret, Subscribe};
use crate::relay::access::Principal;
use crate::relay::pairs::CallRequest;
use crate::relay::refresh::OPEN_FOR;
use reply::Problem;

/// Connections that are in a handshake or between two requests.
const CONNECTIONS: usize = 4096;
/// How long the relay may take to answer.
const CALL: Duration = Duration::from_secs(30);
/// The longest time for which a request may wait for outcomes; a longer wish counts as this.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the body of a request may take.
const BODY: Duration = Duration::from_secs(10);
/// How long a refused session should stay away.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// Bytes of a message's id in a path.
const MESSAGE_MAX: usize = 64;

/// What the feed listener's connections share.
pub struct Feed {
    /// The rules in force.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// To the feed thread.
    pub outside: mpsc::Sender<FromOutside>,
    /// Sessions, counted from their handshake on.
    pub seats: Seats,
    /// Of all listeners.
    pub counts: Arc<HttpCounts>,
}

/// Serves a feed listener until `stop` is true. Errors only if the listener cannot be registered with the runtime.
pub async fn serve(listener: std::net::TcpListener, feed: Arc<Feed>, stop: watch::Receiver<bool>) -> io::Result<()> {
    let serve = |stream, ends| connected(feed.clone(), stream, ends);
    listener::accept(listener, CONNECTIONS, stop, &feed.counts, serve).await
}

async fn connected(feed: Arc<Feed>, stream: TcpStream, ends: Ends) {
    let deadlines = deadlines(&feed.policy.borrow());
    let handle = |request| {
        let feed = feed.clone();
        async move { feed.answer(ends, request).await }
    };
    if let Some(taken) = connection::serve(stream, deadlines, handle).await {
        match tokio::time::timeout(deadlines.head, hand_over(&feed, taken, ends)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(peer = %ends.peer, %error, "a client was gone before its session began"),
            Err(_) => tracing::debug!(peer = %ends.peer, "a session could not begin in time"),
        }
    }
}

/// The deadlines of connections that begin now.
pub(super) fn deadlines(policy: &Policy) -> Deadlines {
    Deadlines { head: policy.config.feed.header_timeout, write: policy.config.feed.write_timeout }
}

async fn hand_over(feed: &Feed, taken: Taken<Joining>, ends: Ends) -> io::Result<()> {
    let Taken { mut stream, leftover, with } = taken;
    stream.write_all(&with.head).await?;
    let adopted = Adopted {
        stream: stream.into_std()?,
        leftover,
        principal: with.principal,
        format: with.format,
        subscribe: with.subscribe,
        peer: ends.peer,
        seat: with.seat,
    };
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    feed.outside.send(FromOutside::Adopt(adopted)).await.map_err(gone)
}

/// A request that becomes a session.
struct Joining {
    head: Vec<u8>,
    principal: Arc<Principal>,
    format: Format,
    subscribe: Option<Subscribe>,
    seat: Seat,
}

/// Where a request goes.
enum Route<'a> {
    WebSocket,
    Sse,
    Publish,
    Refresh,
    Message(&'a str),
    Snapshot,
    Status,
    /// What the feed's contract is.
    Document(&'static str),
    /// In the feed's contract, but not built.
    NotSupported,
    Unknown,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Self {
        match path {
            "/v1/ws" => Route::WebSocket,
            "/v1/sse" => Route::Sse,
            "/v1/publish" => Route::Publish,
            "/v1/refresh" => Route::Refresh,
            "/v1/snapshot" => Route::Snapshot,
            "/v1/status" => Route::Status,
            "/v1/openapi.json" => Route::Document(OPENAPI),
            "/v1/asyncapi.json" => Route::Document(ASYNCAPI),
            "/v1/poll" | "/v1/tickets" | "/tidegate.js" => Route::NotSupported,
            _ => match path.strip_prefix("/v1/messages/") {
                Some(id) if !id.is_empty() && id.len() <= MESSAGE_MAX && !id.contains('/') => Route::Message(id),
                _ => Route::Unknown,
            },
        }
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::WebSocket | Route::Sse => "GET, OPTIONS",
            Route::Snapshot | Route::Status | Route::Document(_) | Route::NotSupported | Route::Unknown => {
                "GET, HEAD, OPTIONS"
            }
            Route::Publish | Route::Refresh => "POST, OPTIONS",
            Route::Message(_) => "GET, HEAD, DELETE, OPTIONS",
        }
    }
}

impl Feed {
    async fn answer(&self, ends: Ends, request: Request<Incoming>) -> Answer<Joining> {
        let policy = self.policy.borrow().clone();
        let origin = match guarded(&policy.feed_guard, ends, &request) {
            Ok(origin) => origin,
            Err(problem) => return Answer::Respond(self.refuse(problem)),
        };
        let answer = self.let_in(&policy, ends, request, origin.as_deref()).await;
        match answer.unwrap_or_else(|problem| Answer::Respond(self.refuse(problem))) {
            Answer::Respond(mut response) => {
                reply::let_read(&mut response, origin.as_deref());
                Answer::Respond(response)
            }
            taken @ Answer::TakeOver(_) => taken,
        }
    }

    fn refuse(&self, problem: Problem) -> Response<Full<Bytes>> {
        self.counts.refuse(problem.code);
        problem.response()
    }

    async fn let_in(
        &self,
        policy: &Policy,
        ends: Ends,
        request: Request<Incoming>,
        origin: Option<&str>,
    ) -> Result<Answer<Joining>, Problem> {
        let path = request.uri().path().to_owned();
        let route = Route::of(&path);
        match route {
            Route::Unknown => return Err(unknown()),
            Route::NotSupported => {
                let message = format!("`{path}` is not supported by this relay");
                return Err(Problem::new(ErrorCode::NotSupported, message));
            }
            _ => {}
        }
        let methods = route.methods();
        if request.method() == Method::OPTIONS {
            return Ok(Answer::Respond(reply::preflight(methods)));
        }
        if !methods.split(", ").any(|method| method == request.method().as_str()) {
            return Err(reply::wrong_method(methods));
        }
        let bearer = handshake::authorization(request.headers())?;
        match route {
            // Nobody's secret.
            Route::Document(text) => Ok(Answer::Respond(reply::json(200, text))),
            Route::WebSocket | Route::Sse => {
                let joining = self.join(policy, ends, &request, matches!(route, Route::Sse), bearer, origin)?;
                Ok(Answer::TakeOver(joining))
            }
            _ => self.call(policy, route, request, bearer).await.map(Answer::Respond),
        }
    }

    fn join(
        &self,
        policy: &Policy,
        ends: Ends,
        request: &Request<Incoming>,
        is_sse: bool,
        bearer: Option<Secret>,
        origin: Option<&str>,
    ) -> Result<Joining, Problem> {
        if !request.body().is_end_stream() {
            return Err(Problem::new(ErrorCode::Invalid, "this request takes no body"));
        }
        let query = request.uri().query().unwrap_or("");
        let last = one(request.headers(), &LAST_EVENT_ID)?.filter(|_| is_sse);
        let Query { subscribe, token } = parse_query(query, last, &policy.limits)?;
        let token = bearer.or(query_token(policy, token)?);
        let (format, head, principal) = if is_sse {
            if request.version() != Version::HTTP_11 {
                return Err(Problem::new(ErrorCode::Invalid, "an event stream needs HTTP/1.1"));
            }
            if subscribe.is_none() {
                return Err(Problem::new(ErrorCode::Invalid, "name at least one channel: /v1/sse?channel=…"));
            }
            let mut head = handshake::sse_head(origin).into_bytes();
            head.extend(sse_opening(retry(ends)));
            (Format::Sse, head, authenticate(policy, token.as_ref())?)
        } else {
            let upgrade = Upgrade::read(request)?;
            let token = token.or_else(|| upgrade.token.clone());
            let principal = match authenticate(policy, token.as_ref()) {
                // It may still send the op `auth`; until then it may do nothing.
                Err(_) if token.is_none() && policy.access.wants_token() => Arc::new(Principal::unauthenticated()),
                authenticated => authenticated?,
            };
            (Format::WebSocket, upgrade.head().into_bytes(), principal)
        };
        let limit = policy.config.feed.max_sessions;
        let seat = self.seats.take(limit).ok_or_else(|| full(limit))?;
        Ok(Joining { head, principal, format, subscribe, seat })
    }

    async fn call(
        &self,
        policy: &Policy,
        route: Route<'_>,
        request: Request<Incoming>,
        bearer: Option<Secret>,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let query = request.uri().query().unwrap_or("");
        let refreshes = matches!(route, Route::Refresh);
        let (token, call) = match route {
            Route::Snapshot => {
                let (channel, token) = parse_snapshot(query)?;
                (token, Some(CallRequest::Snapshot(channel)))
            }
            route => {
                let Query { subscribe, token } = parse_query(query, None, &policy.limits)?;
                if subscribe.is_some() {
                    return Err(Problem::new(ErrorCode::Invalid, "this path takes no `channel`"));
                }
                let call = match route {
                    Route::Status => Some(CallRequest::Status),
                    Route::Message(id) if request.method() == Method::DELETE => Some(CallRequest::Cancel(id.into())),
                    Route::Message(id) => Some(CallRequest::Message(id.into())),
                    _ => None,
                };
                (token, call)
            }
        };
        let token = bearer.or(query_token(policy, token)?);
        let principal = authenticate(policy, token.as_ref())?;
        let call = match call {
            Some(call) => call,
            None if refreshes => refresh(policy, request).await?,
            None => publish(policy, request).await?,
        };
        let wait = match &call {
            CallRequest::Publish { wait, .. } => *wait,
            CallRequest::Refresh { .. } => OPEN_FOR,
            _ => Duration::ZERO,
        };
        match calls::ask(&self.outside, principal, call, CALL + wait).await {
            Some(reply) => Ok(reply::of_relay(reply)),
            None => Err(calls::no_answer()),
        }
    }
}

/// Asks the guard; the answer is the page's origin, if a page asks. A target in absolute form must agree with `Host`
/// (RFC 9112 section 3.2.2), so that no proxy and we can disagree about who is asked.
pub(super) fn guarded<B>(guard: &Guard, ends: Ends, request: &Request<B>) -> Result<Option<String>, Problem> {
    let headers = request.headers();
    let host = one(headers, &header::HOST)?;
    if request.uri().authority().is_some_and(|authority| host != Some(authority.as_str())) {
        return Err(Problem::new(ErrorCode::Invalid, "the request's target and its Host differ"));
    }
    let origin = one(headers, &header::ORIGIN)?;
    let asked = Asked { local: ends.local, host, origin, fetch_site: one(headers, &SEC_FETCH_SITE)? };
    Ok(guard.check(&asked)?.map(str::to_owned))
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");

fn unknown() -> Problem {
    let message = "nothing is here: the feed is at /v1/ws, /v1/sse, /v1/publish, /v1/refresh, /v1/messages/{id}, /v1/snapshot, /v1/status, /v1/openapi.json, /v1/asyncapi.json";
    Problem::new(ErrorCode::NotFound, message)
}

fn full(limit: usize) -> Problem {
    let message = format!("{limit} sessions are open, that is all there may be (feed.max_sessions)");
    let problem = Problem::new(ErrorCode::LimitExceeded, message);
    // 503 and not 429: it is not this client that asks too much.
    Problem { status: 503, retry_after: Some(FULL_RETRY), ..problem }
}

fn authenticate(policy: &Policy, token: Option<&Secret>) -> Result<Arc<Principal>, Problem> {
    policy.access.authenticate(token.map(Secret::expose)).map_err(|code| {
        Problem::new(code, "show a token of access.tokens: Authorization: Bearer …, or over WebSocket the op `auth`")
    })
}

fn query_token(policy: &Policy, token: Option<Secret>) -> Result<Option<Secret>, Problem> {
    if token.is_some() && !policy.config.access.allow_query_token {
        let message =
            "tokens in the address end up in logs: use Authorization: Bearer …, or set access.allow_query_token";
        return Err(Problem::new(ErrorCode::Invalid, message));
    }
    Ok(token)
}

/// How long a client of SSE should wait before it comes back: spread over a second by its port, so that after a restart not
/// all come at once.
fn retry(ends: Ends) -> Duration {
    Duration::from_millis(1_500 + u64::from(ends.peer.port()) % 1_000)
}

async fn publish(policy: &Policy, request: Request<Incoming>) -> Result<CallRequest, Problem> {
    let (parts, body) = request.into_parts();
    let wait = preferred_wait(&parts.headers)?;
    let key = one(&parts.headers, &IDEMPOTENCY_KEY)?.map(str::to_owned);
    let text = json_body(&parts.headers, body, policy.limits.request_max).await?;
    let (messages, atomic) = parse_publish(&text, key.as_deref(), &policy.limits)?;
    Ok(CallRequest::Publish { messages, atomic, wait })
}

async fn refresh(policy: &Policy, request: Request<Incoming>) -> Result<CallRequest, Problem> {
    let (parts, body) = request.into_parts();
    let text = json_body(&parts.headers, body, policy.limits.request_max).await?;
    let (channel, key) = parse_refresh(&text, &policy.limits)?;
    Ok(CallRequest::Refresh { channel, key })
}

/// `wait` among the preferences (RFC 7240 section 4.3): how long to wait for the outcome. Others are no concern of ours.
fn preferred_wait(headers: &HeaderMap) -> Result<Duration, Problem> {
    let wrong = || Problem::new(ErrorCode::Invalid, "`Prefer: wait` takes a whole number of seconds: wait=5");
    for header in headers.get_all(&PREFER) {
        for preference in header.to_str().map_err(|_| wrong())?.split([',', ';']) {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            if name.trim().eq_ignore_ascii_case("wait") {
                let seconds: u64 = value.trim().trim_matches('"').parse().map_err(|_| wrong())?;
                return Ok(Duration::from_secs(seconds).min(WAIT_MAX));
            }
        }
    }
    Ok(Duration::ZERO)
}

/// The whole body of a POST, which must call itself JSON: a page of another site can send other types without asking first.
/// No body needs no type.
pub(super) async fn json_body(headers: &HeaderMap, body: Incoming, most: usize) -> Result<String, Problem> {
    let kind = one(headers, &header::CONTENT_TYPE)?;
    if kind.is_none() && body.is_end_stream() {
        return Ok(String::new());
    }
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(ErrorCode::UnsupportedMediaType, "send Content-Type: application/json"));
    }
    let too_large = || Problem::new(ErrorCode::TooLarge, format!("the body may have {most} bytes"));
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(BODY, Limited::new(body, most).collect()).await;
    match collected {
        Err(_) => Err(Problem::new(ErrorCode::Invalid, "the body did not come in time")),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(ErrorCode::Invalid, "the body could not be read")),
        Ok(Ok(whole)) => String::from_utf8(whole.to_bytes().into())
            .map_err(|_| Problem::new(ErrorCode::Invalid, "the body is not UTF-8")),
    }
}

#[cfg(test)]
#[path = "tests/http.rs"]
mod tests;
