//! The carrier to upstream: opens connections, moves frames, closes them. It knows no protocol above WebSocket.
//!
//! One task per attempt on the feed thread. It dials (`dial`), speaks TLS (`tls`), upgrades (`upgrade`), then moves frames
//! (`websocket`) until the connection ends, for whatever reason, with exactly one `Disconnected`. `fetch` reads the token,
//! `http` makes exchanges beside the connection. A write is bounded in time, a message in size, and what was received in number: as
//! long as the driver has not taken earlier reads, nothing more is read, and TCP holds upstream back.
//!
//! Invariant: of one attempt come `Connected`, any number of `Received` and `Transmitted`, and at the end one
//! `Disconnected`, in the order in which they happened; or `Disconnected` alone.
//! Deliberately not here: when to connect, retry, ping or give up; what a frame means. The relay decides.

mod dial;
mod fetch;
mod http;
mod tls;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::config::{TokenSource, UpstreamConfig};
use crate::dialect::{ConnectRequest, WireFrame};
use crate::relay::pairs::{AttemptId, CallId, Disconnect, Fetch, Input};

use self::dial::Place;
use self::tls::Trust;
use self::websocket::Wire;

/// Reads that may wait for the driver, over all attempts. Each holds at most `websocket::READ_BYTES` and one message.
const READS_WAITING: usize = 4;
/// Requests to one attempt that may wait: one `Transmit` and one `Disconnect`, by the rule of one request per sink.
const ORDERS_WAITING: usize = 2;
/// The least time that a write may take, however short the ping interval is configured.
const MIN_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// A byte stream to upstream, in the clear or inside TLS.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// What the relay asks of a running attempt.
enum Order {
    Transmit(Vec<WireFrame>),
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
}

/// The carrier. Lives on the feed thread, inside a `LocalSet`; its inputs come out of the receiver of [`Upstream::new`].
pub struct Upstream {
    settings: Settings,
    token: TokenSource,
    inputs: mpsc::Sender<Input>,
    attempts: BTreeMap<AttemptId, mpsc::Sender<Order>>,
}

impl Upstream {
    /// A carrier without connections, and where its inputs come from.
    pub fn new(config: &UpstreamConfig) -> (Self, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel(READS_WAITING);
        let settings = Settings {
            connect_timeout: config.connect_timeout,
            handshake_timeout: config.handshake_timeout,
            write_timeout: config.ping_interval.saturating_mul(config.ping_misses.max(1)).max(MIN_WRITE_TIMEOUT),
            max_frame: config.max_frame,
            trust: Trust::new(config.ca_file.clone()),
        };
        (Upstream { settings, token: config.token.clone(), inputs, attempts: BTreeMap::new() }, receiver)
    }

    /// Begins an attempt. Answered by `Connected` or `Disconnected`.
    pub fn connect(&mut self, attempt: AttemptId, request: ConnectRequest) {
        self.attempts.retain(|_, orders| !orders.is_closed());
        let (sender, orders) = mpsc::channel(ORDERS_WAITING);
        self.attempts.insert(attempt, sender);
        tokio::task::spawn_local(live(attempt, request, self.settings.clone(), self.inputs.clone(), orders));
    }

    /// Writes frames. Answered by `Transmitted`, or by the attempt's `Disconnected`.
    pub fn transmit(&mut self, attempt: AttemptId, frames: Vec<WireFrame>) {
        self.order(attempt, Order::Transmit(frames));
    }

    /// Closes a connection. Answered by `Disconnected`.
    pub fn disconnect(&mut self, attempt: AttemptId, code: u16) {
        self.order(attempt, Order::Disconnect(code));
    }

    /// Gets something from outside. Answered by `Fetched`.
    pub fn fetch(&mut self, call: CallId, request: Fetch) {
        match request {
            Fetch::Token => {
                tokio::task::spawn_local(fetch::token(call, self.token.clone(), self.inputs.clone()));
            }
            Fetch::Http(request) => {
                tokio::task::spawn_local(http::fetch(call, *request, self.settings.clone(), self.inputs.clone()));
            }
        }
    }

    /// An attempt that has just ended takes no orders: its `Disconnected` is on the way and answers them.
    fn order(&mut self, attempt: AttemptId, order: Order) {
        let Some(orders) = self.attempts.get(&attempt) else { return };
        let result = orders.try_send(order);
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
    mut orders: mpsc::Receiver<Order>,
) {
    let opened = tokio::select! {
        biased;
        () = told_to_end(&mut orders) => Err(Disconnect::Asked),
        opened = open(&request, &settings) => opened,
    };
    let reason = match opened {
        Ok((wire, peer)) => {
            // A closed channel means that the driver is gone; the order channel then says so too.
            let _ = inputs.send(Input::Connected { attempt, peer }).await;
            websocket::carry(attempt, wire, &inputs, &mut orders, settings.write_timeout).await
        }
        Err(reason) => reason,
    };
    let _ = inputs.send(Input::Disconnected { attempt, reason }).await;
}

/// Returns when the relay (or the end of the driver) asks to stop. Before `Connected` nothing else may be asked.
async fn told_to_end(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Disconnect(_)) {
            return;
        }
    }
}

/// Name resolution and TCP under one deadline, TLS and the upgrade under another.
async fn open(request: &ConnectRequest, settings: &Settings) -> Result<(Wire, String), Disconnect> {
    let place = Place::parse(&request.url)?;
    let (stream, peer, deadline) = reach(&place, settings).await?;
    let (stream, leftover) = timeout_at(deadline, upgrade::upgrade(request, &place, stream))
        .await
        .unwrap_or(Err(Disconnect::HandshakeTimeout))?;
    Ok((Wire::new(stream, leftover, settings.max_frame).await, peer.to_string()))
}

/// Name resolution and TCP under one deadline, TLS under another: the bytes' way to a place, who is there, and the second
/// deadline, which also holds for what is said first.
async fn reach(place: &Place, settings: &Settings) -> Result<(Box<dyn Socket>, SocketAddr, Instant), Disconnect> {
    let deadline = Instant::now() + settings.connect_timeout;
    let (stream, peer) = dial::dial(place, deadline, settings.write_timeout).await?;
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
