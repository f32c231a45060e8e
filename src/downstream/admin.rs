//! The admin listener: probes, metrics, what the relay says about itself, and what an operator may tell it. On the side
//! runtime. A second listener may show only probes and metrics, to whoever asks: kubelet and Prometheus send no token and
//! any Host.
//!
//! Invariant: GET never changes anything; what does change something is DELETE, or POST with a JSON body, from this
//! listener's own pages or from a program. Liveness never depends on upstream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};

use super::connection::{self, Answer};
use super::counts::HttpCounts;
use super::http::{deadlines, guarded, json_body};
use super::listener::{self, Ends};
use super::policy::Policy;
use super::{calls, reply};
use crate::inbox::FromOutside;
use crate::protocol::codes::ErrorCode;
use crate::relay::access::Principal;
use crate::relay::pairs::{CallRequest, Reply};
use crate::relay::stats::Stats;
use reply::Problem;

/// Connections at once: people, a scraper, a kubelet, and room for idle ones, which are dropped after `feed.header_timeout`.
const CONNECTIONS: usize = 1024;
/// Scrapes at once; more are refused and cost nothing.
const SCRAPES: usize = 2;
/// How long the relay may take to answer. A feed thread that is slower than this is not alive.
const CALL: Duration = Duration::from_secs(5);
/// Bytes of a POST's body.
const BODY_MAX: usize = 4096;
/// Content type of the text exposition format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the process does for this listener, beside the relay.
pub struct Hooks {
    /// `/metrics`: the statistics as text.
    pub metrics: Box<dyn Fn(&Stats) -> String + Send + Sync>,
    /// `GET /v1/config`: the configuration in force as JSON, without secrets.
    pub config: Box<dyn Fn() -> String + Send + Sync>,
    /// `POST /v1/reload`: reads the configuration again. The changed keys that need a restart, or what is wrong, a line per
    /// error; then the old configuration stays.
    pub reload: Box<dyn Fn() -> Result<Vec<String>, Vec<String>> + Send + Sync>,
    /// `POST /v1/loglevel`
    pub log_level: Box<dyn Fn(tracing::Level) + Send + Sync>,
}

/// What the admin listener's connections share.
pub struct Admin {
    policy: watch::Receiver<Arc<Policy>>,
    outside: mpsc::Sender<FromOutside>,
    hooks: Hooks,
    scrapes: Semaphore,
    operator: Arc<Principal>,
    counts: Arc<HttpCounts>,
}

/// What a listener shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    All,
    ProbesOnly,
}

/// Serves `admin.listen` until `stop` is true. Errors only if the listener cannot be registered with the runtime.
pub async fn serve(listener: std::net::TcpListener, admin: Arc<Admin>, stop: watch::Receiver<bool>) -> io::Result<()> {
    let serve = |stream, ends| connected(admin.clone(), stream, ends, Shows::All);
    listener::accept(listener, CONNECTIONS, stop, &admin.counts, serve).await
}

/// Serves `admin.probes`: probes and metrics, no access rules.
pub async fn serve_probes(
    listener: std::net::TcpListener,
    admin: Arc<Admin>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let serve = |stream, ends| connected(admin.clone(), stream, ends, Shows::ProbesOnly);
    listener::accept(listener, CONNECTIONS, stop, &admin.counts, serve).await
}

async fn connected(admin: Arc<Admin>, stream: TcpStream, ends: Ends, shows: Shows) {
    let deadlines = deadlines(&admin.policy.borrow());
    let handle = |request| {
        let admin = admin.clone();
        async move { Answer::<()>::Respond(admin.answer(ends, shows, request).await) }
    };
    connection::serve(stream, deadlines, handle).await;
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Live,
    Ready,
    Metrics,
    Index,
    Config,
    Show(Show),
    Tell(Tell),
    Reload,
    LogLevel,
    DeadLetters,
    DeadLetter(&'a str),
    Redrive(&'a str),
    RedriveAll,
    NotSupported,
    Unknown,
}

/// What the relay says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Status,
    Subscriptions,
    Sessions,
    Outbox,
}

/// What the relay is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tell {
    Reconnect,
    Rotate,
    Pause,
    Resume,
    Drain,
}

impl<'a> Route<'a> {
    fn of(path: &'a str, shows: Shows) -> Self {
        match path {
            // Once this listener answers and the feed thread too, the start is over: the store was open before.
            "/livez" | "/live" | "/healthz" | "/startupz" => Route::Live,
            "/readyz" | "/ready" => Route::Ready,
            "/metrics" => Route::Metrics,
            _ if shows == Shows::ProbesOnly => Route::Unknown,
            "/" => Route::Index,
            "/v1/status" => Route::Show(Show::Status),
            "/v1/subscriptions" => Route::Show(Show::Subscriptions),
            "/v1/sessions" => Route::Show(Show::Sessions),
            "/v1/outbox" => Route::Show(Show::Outbox),
            "/v1/config" => Route::Config,
            "/v1/upstream/reconnect" => Route::Tell(Tell::Reconnect),
            "/v1/upstream/rotate" => Route::Tell(Tell::Rotate),
            "/v1/upstream/pause" => Route::Tell(Tell::Pause),
            "/v1/upstream/resume" => Route::Tell(Tell::Resume),
            "/v1/drain" => Route::Tell(Tell::Drain),
            "/v1/reload" => Route::Reload,
            "/v1/loglevel" => Route::LogLevel,
            "/v1/dead-letters" => Route::DeadLetters,
            "/v1/dead-letters/redrive" => Route::RedriveAll,
            "/v1/dialect" | "/v1/shutdown" => Route::NotSupported,
            _ => match path.strip_prefix("/v1/dead-letters/").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
                Some((id, "")) if !path.ends_with('/') => Route::DeadLetter(id),
                Some((id, "redrive")) => Route::Redrive(id),
                _ => Route::Unknown,
            },
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Route::Tell(_) | Route::Reload | Route::LogLevel | Route::Redrive(_) | Route::RedriveAll => "POST, OPTIONS",
            Route::DeadLetters | Route::DeadLetter(_) => "GET, HEAD, DELETE, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }
}

impl Admin {
    /// `policy` for the guard, `outside` to the feed thread, `counts` of all listeners.
    pub fn new(
        policy: watch::Receiver<Arc<Policy>>,
        outside: mpsc::Sender<FromOutside>,
        hooks: Hooks,
        counts: Arc<HttpCounts>,
    ) -> Self {
        let operator = Arc::new(Principal::local());
        Admin { policy, outside, hooks, scrapes: Semaphore::new(SCRAPES), operator, counts }
    }

    async fn answer(&self, ends: Ends, shows: Shows, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let guard = match shows {
            Shows::All => guarded(&self.policy.borrow().admin_guard, ends, &request),
            Shows::ProbesOnly => Ok(None),
        };
        let origin = match guard {
            Ok(origin) => origin,
            Err(problem) => return problem.response(),
        };
        let path = request.uri().path().to_owned();
        let route = Route::of(&path, shows);
        let mut response = self.route(route, request).await.unwrap_or_else(Problem::response);
        reply::let_read(&mut response, origin.as_deref());
        response
    }

    async fn route(&self, route: Route<'_>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
        match route {
            Route::Unknown => return Err(Problem::new(ErrorCode::NotFound, "nothing is here: / lists what is")),
            Route::NotSupported => {
                let message = format!("`{}` is not supported by this relay", request.uri().path());
                return Err(Problem::new(ErrorCode::NotSupported, message));
            }
            _ => {}
        }
        let methods = route.methods();
        if request.method() == Method::OPTIONS {
            return Ok(reply::preflight(methods));
        }
        if !methods.split(", ").any(|method| method == request.method().as_str()) {
            return Err(reply::wrong_method(methods));
        }
        let deletes = request.method() == Method::DELETE;
        let after = after(request.uri().query().unwrap_or(""));
        let body = match *request.method() {
            Method::POST => {
                // An edit may hold a whole message.
                let most = match route {
                    Route::Redrive(_) => self.policy.borrow().limits.request_max,
                    _ => BODY_MAX,
                };
                let (parts, body) = request.into_parts();
                json_body(&parts.headers, body, most).await?
            }
            _ => String::new(),
        };
        match route {
            Route::Live => self.live().await,
            Route::Ready => self.relay(CallRequest::Ready).await,
            Route::Metrics => self.metrics().await,
            Route::Config => Ok(reply::json(200, (self.hooks.config)())),
            Route::Show(show) => self.relay(show.call()).await,
            Route::Tell(tell) => self.relay(tell.call()).await,
            Route::Reload => self.reload(),
            Route::LogLevel => self.log_level(&body),
            Route::DeadLetters if deletes => self.relay(CallRequest::Purge(None)).await,
            Route::DeadLetters => self.relay(CallRequest::DeadLetters { after }).await,
            Route::DeadLetter(id) if deletes => self.relay(CallRequest::Purge(Some(id.into()))).await,
            Route::DeadLetter(id) => self.relay(CallRequest::DeadLetter(id.into())).await,
            Route::Redrive(id) => self.relay(CallRequest::Redrive { id: Some(id.into()), edit: body.into() }).await,
            Route::RedriveAll => self.relay(CallRequest::Redrive { id: None, edit: body.into() }).await,
            Route::Index | Route::Unknown | Route::NotSupported => {
                Ok(reply::with_body(200, "text/plain", INDEX.into()))
            }
        }
    }

    async fn relay(&self, request: CallRequest) -> Result<Response<Full<Bytes>>, Problem> {
        let reply = calls::ask(&self.outside, self.operator.clone(), request, CALL).await;
        reply.map(reply::of_relay).ok_or_else(calls::no_answer)
    }

    /// The feed thread turns, whatever it says about upstream.
    async fn live(&self) -> Result<Response<Full<Bytes>>, Problem> {
        match calls::ask(&self.outside, self.operator.clone(), CallRequest::Ready, CALL).await {
            Some(_) => Ok(reply::json(200, r#"{"live":true}"#)),
            None => Err(Problem::new(ErrorCode::Unavailable, "the feed thread does not answer")),
        }
    }

    async fn metrics(&self) -> Result<Response<Full<Bytes>>, Problem> {
        let Ok(_scrape) = self.scrapes.try_acquire() else {
            return Err(Problem::new(ErrorCode::LimitExceeded, format!("{SCRAPES} scrapes are under way")));
        };
        match calls::ask(&self.outside, self.operator.clone(), CallRequest::Stats, CALL).await {
            Some(Reply::Stats(stats)) => Ok(reply::with_body(200, METRICS_TYPE, (self.hooks.metrics)(&stats).into())),
            _ => Err(calls::no_answer()),
        }
    }

    fn reload(&self) -> Result<Response<Full<Bytes>>, Problem> {
        match (self.hooks.reload)() {
            Ok(restart) => {
                let body = serde_json::json!({ "reloaded": true, "needs_restart": restart });
                Ok(reply::json(200, body.to_string()))
            }
            Err(errors) => {
                let message = format!("the old configuration stays: {}", errors.join("; "));
                Err(Problem::new(ErrorCode::Invalid, message))
            }
        }
    }

    fn log_level(&self, body: &str) -> Result<Response<Full<Bytes>>, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            level: String,
        }
        let asked: Option<Body> = serde_json::from_str(body).ok();
        let level = asked.and_then(|body| LEVELS.iter().find(|(name, _)| *name == body.level));
        let Some((name, level)) = level else {
            return Err(Problem::new(
                ErrorCode::Invalid,
                "send {\"level\":\"info\"}: error, warn, info, debug or trace",
            ));
        };
        (self.hooks.log_level)(*level);
        Ok(reply::json(200, format!("{{\"level\":\"{name}\"}}")))
    }
}

/// The page of a listing that is asked for: `after=ID`.
fn after(query: &str) -> Option<Box<str>> {
    query.split('&').find_map(|member| member.strip_prefix("after=")).map(Box::from)
}

const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

impl Show {
    fn call(self) -> CallRequest {
        match self {
            Show::Status => CallRequest::Status,
            Show::Subscriptions => CallRequest::Subscriptions,
            Show::Sessions => CallRequest::Sessions,
            Show::Outbox => CallRequest::Outbox,
        }
    }
}

impl Tell {
    fn call(self) -> CallRequest {
        match self {
            Tell::Reconnect => CallRequest::Reconnect,
            Tell::Rotate => CallRequest::Rotate,
            Tell::Pause => CallRequest::Pause,
            Tell::Resume => CallRequest::Resume,
            Tell::Drain => CallRequest::Drain,
        }
    }
}

const INDEX: &str = "Tidegate, admin listener

GET  /livez /readyz /startupz     probes (also /live /healthz /ready)
GET  /metrics                     for Prometheus
GET  /v1/status                   the link to upstream
GET  /v1/subscriptions            channels, and who wants them
GET  /v1/sessions                 local clients
GET  /v1/outbox                   messages on their way out
GET  /v1/dead-letters             messages that could not be delivered (?after=ID); /ID shows one whole
POST /v1/dead-letters/ID/redrive  publish it again; the body's members replace the message's. /redrive: all
DELETE /v1/dead-letters/ID        forget it. /v1/dead-letters: all
GET  /v1/config                   the configuration in force, without secrets
POST /v1/upstream/reconnect       drop the connection and dial at once
POST /v1/upstream/rotate          open another connection, which takes over, and close this one
POST /v1/upstream/pause /resume   close it and stay closed; dial again
POST /v1/reload                   read the configuration again
POST /v1/drain                    as SIGTERM, but the process stays
POST /v1/loglevel                 {\"level\":\"debug\"}

POST takes Content-Type: application/json; an empty body is fine where none is shown.
";

#[cfg(test)]
#[path = "tests/admin.rs"]
mod tests;
