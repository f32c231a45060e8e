//! An event stream from upstream: one HTTP request whose answer does not end. `dialect::stream` finds the events in its bytes.
//!
//! Invariants: as over WebSocket, nothing more is read while earlier reads wait for the driver; every byte that comes is a sign
//! of life, told even where it completes no event; events that came before the end are handed over before it.
//! Deliberately not here: connecting again and `Last-Event-ID` (the relay's), redirects (refused), and a way up: what has to
//! reach upstream is an `Ask` beside the stream.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::dial::Place;
use super::http::{Connection, broken, plain, refused, request, show};
use super::{Order, Settings};
use crate::dialect::stream::Parser;
use crate::dialect::{ConnectRequest, Method, WireFrame};
use crate::relay::pairs::{AttemptId, Disconnect, Input};

/// An open stream.
pub struct Stream {
    /// Drives the body.
    _connection: Connection,
    body: Incoming,
    parser: Option<Parser>,
}

/// Asks for the stream and waits for the head of its answer.
pub async fn open(asked: &ConnectRequest, settings: &Settings) -> Result<(Stream, String), Disconnect> {
    let place = Place::parse(&asked.url)?;
    let mut head = request(Method::Get, &place, &asked.headers, Bytes::new())?;
    for (name, value) in [(ACCEPT, "text/event-stream"), (CACHE_CONTROL, "no-store")] {
        head.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    let (mut connection, peer, deadline) = Connection::open(&place, settings).await?;
    let exchange = async {
        let response = connection.exchange(head).await.map_err(|failure| failure.reason)?;
        if response.status() != StatusCode::OK {
            return Err(refused(response).await);
        }
        check(response.headers())?;
        Ok(response.into_body())
    };
    let body = timeout_at(deadline, exchange).await.unwrap_or(Err(Disconnect::HandshakeTimeout))?;
    Ok((Stream { _connection: connection, body, parser: Some(Parser::new(settings.max_frame)) }, peer))
}

/// Whether an answer is an event stream that can be read.
fn check(headers: &HeaderMap) -> Result<(), Disconnect> {
    let text = |value: Option<&HeaderValue>| value.map_or(String::new(), |value| show(value.as_bytes()));
    let kind = text(headers.get(CONTENT_TYPE));
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream") {
        return Err(Disconnect::BadUpgrade(format!("content type \"{kind}\" is no event stream")));
    }
    plain(headers)
}

impl Stream {
    /// What the next bytes bring: frames, and the reason where it was the end. Loses nothing if it is dropped unfinished.
    async fn next(&mut self) -> (Vec<WireFrame>, Option<Disconnect>) {
        let ended = |reason| (Vec::new(), Some(reason));
        let chunk = match self.body.frame().await {
            None => return ended(Disconnect::Ended),
            Some(Err(error)) => return ended(broken(&error)),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let Some(parser) = &mut self.parser else { return ended(Disconnect::Oversize) };
        let mut events = Vec::new();
        let oversize = parser.take(chunk, &mut events).is_err();
        if oversize {
            events.extend(self.parser.take().and_then(Parser::abandoned));
        }
        let mut frames: Vec<WireFrame> = events.into_iter().map(|event| WireFrame::Event(Box::new(event))).collect();
        if frames.is_empty() {
            frames.push(WireFrame::Life);
        }
        (frames, oversize.then_some(Disconnect::Oversize))
    }
}

/// Carries events until the stream ends; the reason.
pub async fn carry(
    attempt: AttemptId,
    mut stream: Stream,
    inputs: &mpsc::Sender<Input>,
    orders: &mut mpsc::Receiver<Order>,
) -> Disconnect {
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                // The asks in it have taken their own way, and a stream carries nothing else.
                Some(Order::Transmit(_)) => drop(inputs.send(Input::Transmitted { attempt }).await),
                // Only polls have something beside them.
                Some(Order::Upgrade(_) | Order::KeepPolling) => {}
                Some(Order::Disconnect(_)) | None => return Disconnect::Asked,
            },
            room = inputs.reserve() => {
                let Ok(room) = room else { return Disconnect::Asked };
                tokio::select! {
                    biased;
                    order = orders.recv() => match order {
                        Some(Order::Transmit(_)) => room.send(Input::Transmitted { attempt }),
                        Some(Order::Upgrade(_) | Order::KeepPolling) => {}
                        Some(Order::Disconnect(_)) | None => return Disconnect::Asked,
                    },
                    (frames, end) = stream.next() => {
                        if !frames.is_empty() {
                            room.send(Input::Received { attempt, at: crate::clock::now(), frames });
                        }
                        if let Some(reason) = end {
                            return reason;
                        }
                    }
                }
            }
        }
    }
}
