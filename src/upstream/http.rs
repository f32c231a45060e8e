//! HTTP/1.1 by hyper's client over the same dial and TLS as every connection to upstream: whole exchanges for `Fetch`, and
//! connections whose answers are read as they come.
//!
//! Invariant: an exchange ends at its request's `timeout`, and never holds more than its `max_body`.
//! Deliberately not here: redirects (an answer of 3xx is an answer), cookies, compression, connections kept for others.

use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::dial::Place;
use super::{Settings, reach};
use crate::dialect::{HttpAnswer, HttpRequest, Method};
use crate::relay::pairs::{CallId, FetchAnswer, FetchError, Input};

/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;

/// Makes the exchange and answers the call.
pub async fn fetch(call: CallId, request: HttpRequest, settings: Settings, inputs: mpsc::Sender<Input>) {
    let answer = timeout(request.timeout, exchange(&request, &settings));
    let result = answer.await.unwrap_or(Err(FetchError::Timeout)).map(FetchAnswer::Http);
    // A closed channel means that the driver is gone, and nobody waits.
    let _ = inputs.send(Input::Fetched { call, result }).await;
}

async fn exchange(request: &HttpRequest, settings: &Settings) -> Result<HttpAnswer, FetchError> {
    let mut connection = Connection::open(&request.url, settings).await?;
    let response = connection.ask(request).await?;
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    let headers = headers.collect();
    let mut incoming = response.into_body();
    let mut body = BytesMut::new();
    while let Some(chunk) = connection.chunk(&mut incoming).await? {
        if body.len() + chunk.len() > request.max_body {
            return Err(FetchError::Oversize);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(HttpAnswer { status, headers, body: body.freeze() })
}

/// An open connection: one request after the other.
pub struct Connection {
    place: Place,
    sender: SendRequest<Full<Bytes>>,
    /// It has to be polled, not heard: its errors reach the exchange.
    io: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl Connection {
    /// Name, TCP, TLS, each within the configuration's times.
    pub async fn open(url: &str, settings: &Settings) -> Result<Self, FetchError> {
        let place = Place::parse(url).map_err(FetchError::Unreachable)?;
        let (stream, _, _) = reach(&place, settings).await.map_err(FetchError::Unreachable)?;
        let mut client = http1::Builder::new();
        client.max_buf_size(MAX_HEAD).title_case_headers(true);
        let (sender, io) = client.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let io = Box::pin(async move {
            let _ = io.await;
        });
        Ok(Connection { place, sender, io, ended: false })
    }

    /// Sends a request to this connection's origin; gives the answer's head, and its content to be read by
    /// [`Connection::chunk`].
    pub async fn ask(&mut self, request: &HttpRequest) -> Result<Response<Incoming>, FetchError> {
        let head = head(request, &self.place)?;
        let answer = self.sender.send_request(head);
        during(&mut self.io, &mut self.ended, answer).await.map_err(broken)
    }

    /// The next bytes of an answer's content; `None`: that was all.
    pub async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, FetchError> {
        loop {
            match during(&mut self.io, &mut self.ended, body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    // Trailers are passed over.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Waits for something that the connection brings, and drives the connection meanwhile.
async fn during<T>(
    io: &mut Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: &mut bool,
    what: impl Future<Output = T>,
) -> T {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            biased;
            value = &mut what => return value,
            () = io.as_mut(), if !*ended => *ended = true,
        }
    }
}

/// The request with its target relative to the origin, as HTTP/1.1 wants it.
fn head(request: &HttpRequest, place: &Place) -> Result<Request<Full<Bytes>>, FetchError> {
    let wrong = |what: &str| FetchError::Broken(format!("header {what}: not allowed in HTTP"));
    let target = Place::parse(&request.url).map_err(FetchError::Unreachable)?.target;
    let method = match request.method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
        Method::Put => hyper::Method::PUT,
    };
    let mut head = Request::builder().method(method).uri(target.as_str()).body(Full::new(request.body.clone()));
    if let Ok(head) = &mut head {
        let headers = head.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(&place.authority).map_err(|_| wrong("host"))?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
        for (name, value) in &request.headers {
            let header = HeaderName::try_from(name).map_err(|_| wrong(name))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong(name))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
    }
    head.map_err(|e| FetchError::Broken(format!("no request can be made: {e}")))
}

/// What hyper could not do. Its words name no content.
fn broken(error: hyper::Error) -> FetchError {
    if error.is_incomplete_message() {
        return FetchError::Broken("the connection ended before the whole answer".to_owned());
    }
    if error.is_parse() {
        return FetchError::Broken(format!("the answer is not HTTP/1.1: {error}"));
    }
    let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    FetchError::Broken(cause)
}
