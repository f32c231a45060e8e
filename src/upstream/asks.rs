//! HTTP exchanges that belong to a connection: polls, and what is sent by POST. One after the other over a connection that is
//! kept; two of these lines may be busy at once, one for polls and one for the rest.
//!
//! Invariants: every ask gets one answer, or ends the attempt; a request is sent a second time only where the first
//! certainly did not arrive, or where asking changes nothing (`Ask::repeats`).
//! Deliberately not here: when to poll, and what a status means (the relay's).

use bytes::Bytes;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{ETAG, HeaderName, LAST_MODIFIED};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::dial::Place;
use super::http::{Connection, collect, plain, request, retry_after, show};
use super::{Order, Settings};
use crate::dialect::{Answer, Ask, AskFor, WireFrame};
use crate::relay::pairs::{AttemptId, Disconnect, Input};

/// A way for exchanges: the connection that is kept, and to which origin it leads.
#[derive(Default)]
pub struct Line {
    kept: Option<(Place, Connection)>,
}

impl Line {
    /// Connects before there is anything to ask; the peer's address.
    pub async fn open(url: &str, settings: &Settings) -> Result<(Line, String), Disconnect> {
        let place = Place::parse(url)?;
        let (connection, peer, _) = Connection::open(&place, settings).await?;
        Ok((Line { kept: Some((place, connection)) }, peer))
    }

    /// One exchange, to the last byte of its answer.
    async fn exchange(&mut self, ask: &Ask, settings: &Settings) -> Result<Answer, Disconnect> {
        let place = Place::parse(&ask.url)?;
        let mut head = request(ask.method, &place, &ask.headers, ask.body.clone())?;
        let kept = self.kept.take();
        if let Some((_, mut connection)) =
            kept.filter(|(to, connection)| to.same_origin(&place) && connection.is_open())
        {
            match connection.exchange(head).await {
                Ok(response) => return self.finish(ask, place, connection, response, settings).await,
                // The other side closes idle connections when it likes.
                Err(failure) => match failure.unsent {
                    Some(unsent) => head = unsent,
                    None if ask.repeats => {
                        head = request(ask.method, &place, &ask.headers, ask.body.clone())?;
                    }
                    None => return Err(failure.reason),
                },
            }
        }
        let (mut connection, _, _) = Connection::open(&place, settings).await?;
        let response = connection.exchange(head).await.map_err(|failure| failure.reason)?;
        self.finish(ask, place, connection, response, settings).await
    }

    async fn finish(
        &mut self,
        ask: &Ask,
        place: Place,
        connection: Connection,
        response: Response<Incoming>,
        settings: &Settings,
    ) -> Result<Answer, Disconnect> {
        plain(response.headers())?;
        let field = |name: HeaderName| response.headers().get(name)?.to_str().ok().map(Into::into);
        let mut answer = Answer {
            of: ask.of,
            status: response.status().as_u16(),
            etag: field(ETAG),
            last_modified: field(LAST_MODIFIED),
            retry_after: retry_after(response.headers()),
            body: Bytes::new(),
        };
        answer.body = collect(response.into_body(), settings.max_frame).await?;
        self.kept = Some((place, connection));
        Ok(answer)
    }
}

/// Carries out asks until their source ends, to the last one; gives a reason where a poll found no way.
pub async fn carry(
    attempt: AttemptId,
    mut line: Line,
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    asks: &mut mpsc::Receiver<Ask>,
) -> Option<Disconnect> {
    while let Some(ask) = asks.recv().await {
        let answer = match timeout(ask.timeout, line.exchange(&ask, settings)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) if ask.of == AskFor::Poll => return Some(reason),
            Ok(Err(reason)) => unanswered(ask.of, &format!("{}: {}", reason.reason(), reason.detail())),
            Err(_) => unanswered(ask.of, "no answer in time"),
        };
        let frames = vec![WireFrame::Answer(Box::new(answer))];
        if inputs.send(Input::Received { attempt, at: crate::clock::now(), frames }).await.is_err() {
            return Some(Disconnect::Asked);
        }
    }
    None
}

/// Stands for an answer that did not come.
fn unanswered(of: AskFor, why: &str) -> Answer {
    let body = Bytes::from(show(why.as_bytes()));
    Answer { of, status: 0, etag: None, last_modified: None, retry_after: None, body }
}

/// Takes the orders of an attempt that moves nothing but asks; the first one that is no `Transmit`. `None`: nobody is left to
/// give one.
pub async fn obey(
    attempt: AttemptId,
    inputs: &mpsc::Sender<Input>,
    orders: &mut mpsc::Receiver<Order>,
) -> Option<Order> {
    loop {
        // Room comes first: what is taken is answered, even if nobody polls this any more.
        let room = inputs.reserve().await.ok()?;
        match orders.recv().await? {
            // The asks in it have taken their own way.
            Order::Transmit(_) => room.send(Input::Transmitted { attempt }),
            other => return Some(other),
        }
    }
}
