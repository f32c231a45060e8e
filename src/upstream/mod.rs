//! The carrier to upstream: opens connections, moves frames, closes them. It knows no protocol above its transports.
//!
//! One task per attempt on the feed thread. It dials (`dial`), speaks TLS (`tls`), then upgrades and moves frames (`upgrade`,
//! `websocket`), or reads an event stream (`sse`), or polls (`asks`), if asked to with a WebSocket beside the polls (`beside`),
//! until the connection ends, for whatever reason, with exactly one `Disconnected`. Beside any of them `asks` carries
//! what leaves by POST, over `http`, which also makes the exchanges that nobody's connection needs; `fetch` reads token
//! and secrets. A write is bounded in time, a message in size, and what was received in number: as long as the driver
//! has not taken earlier reads, nothing more is read, and TCP holds upstream back.
//!
//! Invariant: of one attempt come `Connected`, any number of `Received` and `Transmitted`, and at the end one
//! `Disconnected`, in the order in which they happened; or `Disconnected` alone.
//! Deliberately not here: when to connect, retry, ping or give up; what a frame means. The relay decides.

mod asks;
mod beside;
mod dial;
mod fetch;
mod http;
mod proxy;
mod sse;
mod tls;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{SecretSource, UpstreamConfig};
use crate::dialect::{Ask, AskFor, ConnectRequest, HttpAnswer, HttpRequest, Transport, WireFrame};
use crate::protocol::request::Secret;
use crate::relay::pairs::{AttemptId, CallId, Disconnect, Fetch, FetchError, Input};

use self::asks::Line;
use self::dial::Place;
use self::proxy::Proxy;
use self::sse::Stream;
use self::tls::Trust;
use self::websocket::Wire;

/// Reads that may wait for the driver, over all attempts. Each holds at most `websocket::READ_BYTES` and one message.
const READS_WAITING: usize = 4;
/// Requests to one attempt that may wait: one `Transmit`, one `Upgrade` and the `KeepPolling` that ends it, one
/// `Disconnect`, by the rule of one request per sink.
const ORDERS_WAITING: usize = 4;
/// Asks of one kind that may wait, by the rule that one is out: the one whose answer is just being handed over, and the next.
const ASKS_WAITING: usize = 2;
/// How long a close may take that the relay asked for, and what is sent before it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The least time that a write may take, however short the ping interval is configured.
const MIN_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// A byte stream to upstream, in the clear or inside TLS.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// What the relay asks of a running attempt.
enum Order {
    Transmit(Vec<WireFrame>),
    Upgrade(Box<ConnectRequest>),
    KeepPolling,
    Disconnect(u16),
}

/// What all attempts share of `[upstream]`.
#[derive(Clone)]
struct Settings {
    connect_timeout: Duration,
    handshake_timeout: Duration,
    /// How long bytes may stay unacknowledged, and one `Transmit` unwritten: as long as pings may go unanswered.
    write_timeout: Duration,
    max_frame: usize,
    trust: Trust,
    proxy: Proxy,
}

/// The carrier. Lives on the feed thread, inside a `LocalSet`; its inputs come out of the receiver of [`Upstream::new`].
pub struct Upstream {
    settings: Settings,
    sources: fetch::Sources,
    inputs: mpsc::Sender<Input>,
    attempts: BTreeMap<AttemptId, Running>,
}

/// The ends of a running attempt's queues.
struct Running {
    orders: mpsc::Sender<Order>,
    polls: mpsc::Sender<Ask>,
    requests: mpsc::Sender<Ask>,
}

/// The other ends.
struct Queues {
    orders: mpsc::Receiver<Order>,
    polls: mpsc::Receiver<Ask>,
    requests: mpsc::Receiver<Ask>,
}

/// An open connection of any transport.
enum Open {
    WebSocket(Box<Wire>),
    Sse(Stream),
    /// Connected; what comes has to be asked for.
    Polls(Line),
}

/// HTTP exchanges that belong to no connection, with the same roots of trust. Lives inside a `LocalSet`.
#[derive(Clone)]
pub struct Client {
    settings: Settings,
}

impl Client {
    /// A client with the limits of `[upstream]`.
    pub fn new(config: &UpstreamConfig) -> Self {
        Client { settings: Settings::new(config) }
    }

    /// One exchange over a connection of its own.
    pub async fn exchange(&self, request: HttpRequest) -> Result<HttpAnswer, FetchError> {
        http::once(request, &self.settings).await
    }
}

impl Settings {
    fn new(config: &UpstreamConfig) -> Self {
        Settings {
            connect_timeout: config.connect_timeout,
            handshake_timeout: config.handshake_timeout,
            write_timeout: config.ping_interval.saturating_mul(config.ping_misses.max(1)).max(MIN_WRITE_TIMEOUT),
            max_frame: config.max_frame,
            trust: Trust::new(config.ca_file.clone(), config.client_cert.clone()),
            proxy: Proxy::new(config.proxy.as_ref().map(Secret::expose)),
        }
    }
}

impl Upstream {
    /// A carrier without connections, and where its inputs come from.
    pub fn new(config: &UpstreamConfig) -> (Self, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel(READS_WAITING);
        let settings = Settings::new(config);
        let sources = fetch::Sources { token: config.token.clone(), secrets: Vec::new() };
        (Upstream { settings, sources, inputs, attempts: BTreeMap::new() }, receiver)
    }

    /// Says where the dialect's secrets are.
    pub fn find_secrets(&mut self, secrets: Vec<(String, SecretSource)>) {
        self.sources.secrets = secrets;
    }

    /// Begins an attempt. Answered by `Connected` or `Disconnected`.
    pub fn connect(&mut self, attempt: AttemptId, request: ConnectRequest) {
        self.attempts.retain(|_, running| !running.orders.is_closed());
        let (to_orders, orders) = mpsc::channel(ORDERS_WAITING);
        let (to_polls, polls) = mpsc::channel(ASKS_WAITING);
        let (to_requests, requests) = mpsc::channel(ASKS_WAITING);
        self.attempts.insert(attempt, Running { orders: to_orders, polls: to_polls, requests: to_requests });
        let queues = Queues { orders, polls, requests };
        tokio::task::spawn_local(live(attempt, request, self.settings.clone(), self.inputs.clone(), queues));
    }

    /// Writes frames. Answered by `Transmitted`, or by the attempt's `Disconnected`. Asks take a way of their own, over any
    /// transport; each is answered by a frame.
    pub fn transmit(&mut self, attempt: AttemptId, mut frames: Vec<WireFrame>) {
        if let Some(running) = self.attempts.get(&attempt) {
            for frame in frames.extract_if(.., |frame| matches!(frame, WireFrame::Ask(_))) {
                let WireFrame::Ask(ask) = frame else { continue };
                let queue = if ask.of == AskFor::Poll { &running.polls } else { &running.requests };
                let result = queue.try_send(*ask);
                assert!(
                    !matches!(result, Err(mpsc::error::TrySendError::Full(_))),
                    "one ask of a kind is out at a time"
                );
            }
        }
        self.order(attempt, Order::Transmit(frames));
    }

    /// Opens a WebSocket beside the polls of a connection, for all frames that are no asks. Answered by `Upgraded` or
    /// `NotUpgraded`.
    pub fn upgrade(&mut self, attempt: AttemptId, request: ConnectRequest) {
        self.order(attempt, Order::Upgrade(Box::new(request)));
    }

    /// Closes that WebSocket. Answered by `NotUpgraded`, unless that was said already.
    pub fn keep_polling(&mut self, attempt: AttemptId) {
        self.order(attempt, Order::KeepPolling);
    }

    /// Closes a connection, after what was asked before and the farewell, as far as that takes no longer than a close may.
    /// Answered by `Disconnected`.
    pub fn disconnect(&mut self, attempt: AttemptId, code: u16, farewell: Option<Box<Ask>>) {
        if let (Some(running), Some(ask)) = (self.attempts.get(&attempt), farewell) {
            // If it does not fit, upstream finds out by itself.
            let _ = running.requests.try_send(*ask);
        }
        self.order(attempt, Order::Disconnect(code));
        // Nothing more is asked of it: what is queued is the last.
        self.attempts.remove(&attempt);
    }

    /// Gets something from outside. Answered by `Fetched`.
    pub fn fetch(&mut self, call: CallId, request: Fetch) {
        match request {
            Fetch::Credentials => {
                tokio::task::spawn_local(fetch::credentials(call, self.sources.clone(), self.inputs.clone()));
            }
            Fetch::Http(request) => {
                tokio::task::spawn_local(http::fetch(call, *request, self.settings.clone(), self.inputs.clone()));
            }
        }
    }

    /// An attempt that has just ended takes no orders: its `Disconnected` is on the way and answers them.
    fn order(&mut self, attempt: AttemptId, order: Order) {
        let Some(running) = self.attempts.get(&attempt) else { return };
        let result = running.orders.try_send(order);
        assert!(
            !matches!(result, Err(mpsc::error::TrySendError::Full(_))),
            "the relay asks one thing at a time of an attempt"
        );
    }
}

/// An attempt from its first packet to its last.
async fn live(
    attempt: AttemptId,
    request: ConnectRequest,
    settings: Settings,
    inputs: mpsc::Sender<Input>,
    mut queues: Queues,
) {
    let opened = tokio::select! {
        biased;
        () = told_to_end(&mut queues.orders) => Err(Disconnect::Asked),
        opened = open(&request, &settings) => opened,
    };
    let reason = match opened {
        Ok((open, peer)) => {
            // A closed channel means that the driver is gone; the order channel then says so too.
            let _ = inputs.send(Input::Connected { attempt, peer }).await;
            carry(attempt, open, &settings, &inputs, queues).await
        }
        Err(reason) => reason,
    };
    let _ = inputs.send(Input::Disconnected { attempt, reason }).await;
}

/// Moves what there is to move until the connection ends; the reason.
async fn carry(
    attempt: AttemptId,
    open: Open,
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    queues: Queues,
) -> Disconnect {
    let Queues { mut orders, mut polls, mut requests } = queues;
    let (open, line) = match open {
        Open::Polls(line) => (None, line),
        open => (Some(open), Line::default()),
    };
    let connection = async {
        match open {
            Some(Open::WebSocket(mut wire)) => {
                match websocket::carry(attempt, &mut wire, inputs, &mut orders, settings.write_timeout).await {
                    websocket::End::Of(reason) => reason,
                    websocket::End::KeepPolling => Disconnect::Asked,
                }
            }
            Some(Open::Sse(stream)) => sse::carry(attempt, stream, inputs, &mut orders).await,
            Some(Open::Polls(_)) | None => beside::carry(attempt, settings, inputs, &mut orders).await,
        }
    };
    let polled = async {
        match asks::carry(attempt, line, settings, inputs, &mut polls).await {
            Some(reason) => reason,
            // The relay wants no more of it, and has said so by an order.
            None => std::future::pending().await,
        }
    };
    let requested = asks::carry(attempt, Line::default(), settings, inputs, &mut requests);
    let (mut connection, mut polled, mut requested) = (pin!(connection), pin!(polled), pin!(requested));
    let mut requesting = true;
    let reason = loop {
        tokio::select! {
            biased;
            reason = &mut connection => break reason,
            reason = &mut polled => break reason,
            last = &mut requested, if requesting => match last {
                Some(reason) => break reason,
                None => requesting = false,
            },
        }
    };
    if reason == Disconnect::Asked && requesting {
        // The connection ends either way; what does not get through by then is not waited for.
        let _ = timeout(CLOSE_TIMEOUT, requested).await;
    }
    reason
}

/// Returns when the relay (or the end of the driver) asks to stop. Before `Connected` nothing else may be asked.
async fn told_to_end(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Disconnect(_)) {
            return;
        }
    }
}

/// Opens a connection as its transport needs it; with the peer's address, for people.
async fn open(request: &ConnectRequest, settings: &Settings) -> Result<(Open, String), Disconnect> {
    match request.transport {
        Transport::WebSocket => {
            let place = Place::parse(&request.url)?;
            let (stream, peer, deadline) = reach(&place, settings).await?;
            let upgrade = upgrade::upgrade(request, &place, stream);
            let (stream, leftover) =
                timeout_at(deadline, upgrade).await.unwrap_or(Err(Disconnect::HandshakeTimeout))?;
            let wire = Wire::new(stream, leftover, settings.max_frame).await;
            Ok((Open::WebSocket(Box::new(wire)), peer.to_string()))
        }
        Transport::Sse => {
            let (stream, peer) = sse::open(request, settings).await?;
            Ok((Open::Sse(stream), peer))
        }
        Transport::LongPoll | Transport::Poll => {
            let (line, peer) = Line::open(&request.url, settings).await?;
            Ok((Open::Polls(line), peer))
        }
    }
}

/// Name resolution and TCP under one deadline, TLS under another: the bytes' way to a place, who is there, and the second
/// deadline, which also holds for what is said first.
async fn reach(place: &Place, settings: &Settings) -> Result<(Box<dyn Socket>, SocketAddr, Instant), Disconnect> {
    let deadline = Instant::now() + settings.connect_timeout;
    let (stream, peer) = match settings.proxy.to(place) {
        None => dial::dial(place, deadline, settings.write_timeout).await?,
        Some(proxy) => {
            let (stream, peer) = dial::dial(&proxy::place(&proxy)?, deadline, settings.write_timeout).await?;
            let tunnel = proxy::tunnel(stream, &proxy, place);
            (timeout_at(deadline, tunnel).await.unwrap_or(Err(Disconnect::ConnectTimeout))?, peer)
        }
    };
    let deadline = Instant::now() + settings.handshake_timeout;
    let stream: Box<dyn Socket> = match place.secure {
        true => {
            let handshake = timeout_at(deadline, settings.trust.handshake(&place.host, stream)).await;
            Box::new(handshake.unwrap_or(Err(Disconnect::HandshakeTimeout))?)
        }
        false => Box::new(stream),
    };
    Ok((stream, peer, deadline))
}
