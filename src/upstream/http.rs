//! HTTP/1.1 as a client: one connection, one exchange after the other, answers streamed. Heads are bounded, redirects are not
//! followed, and a status that refuses is told with the start of its body, so that people learn what a proxy or a login
//! page said.
//!
//! Invariant: an exchange made here ends at its request's `timeout`, and never holds more than its `max_body`.
//! Deliberately not here: HTTP/2 (one exchange at a time gains nothing by it), compression, cookies, caches, and what an
//! answer means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_ENCODING, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::Place;
use super::{Settings, Socket, reach};
use crate::dialect::{self, HttpAnswer, HttpRequest, Method};
use crate::relay::pairs::{CallId, Disconnect, FetchAnswer, FetchError, Input};
use crate::relay::redact::address;

/// Bytes of an answer's head.
pub const MAX_HEAD: usize = 16 * 1024;
/// Bytes of a refusing answer's body that are shown.
const MAX_DETAIL: usize = 200;
/// How long to wait for those.
const DETAIL_TIMEOUT: Duration = Duration::from_millis(500);

/// What hyper drives.
pub type Io = TokioIo<Box<dyn Socket>>;

/// Makes an exchange of its own and answers the call.
pub async fn fetch(call: CallId, request: HttpRequest, settings: Settings, inputs: mpsc::Sender<Input>) {
    let result = once(request, &settings).await.map(FetchAnswer::Http);
    // A closed channel means that the driver is gone, and nobody waits.
    let _ = inputs.send(Input::Fetched { call, result }).await;
}

/// Makes an exchange of its own, within its timeout.
pub async fn once(request: HttpRequest, settings: &Settings) -> Result<HttpAnswer, FetchError> {
    timeout(request.timeout, alone(request, settings)).await.unwrap_or(Err(FetchError::Timeout))
}

/// One exchange over a connection that is used for nothing else.
async fn alone(asked: HttpRequest, settings: &Settings) -> Result<HttpAnswer, FetchError> {
    let place = Place::parse(&asked.url).map_err(FetchError::Unreachable)?;
    let head = request(asked.method, &place, &asked.headers, asked.body).map_err(|why| lost(&why))?;
    let (mut connection, _, _) = Connection::open(&place, settings).await.map_err(FetchError::Unreachable)?;
    let response = connection.exchange(head).await.map_err(|failure| lost(&failure.reason))?;
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let body = collect(response.into_body(), asked.max_body).await.map_err(|why| lost(&why))?;
    Ok(HttpAnswer { status, retry_after, body })
}

/// An exchange that broke off.
fn lost(reason: &Disconnect) -> FetchError {
    match reason {
        Disconnect::Oversize => FetchError::Oversize,
        other => FetchError::Broken(other.detail()),
    }
}

/// An open connection. Dropping it closes it, whatever is under way.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

/// An exchange that gave no answer.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub reason: Disconnect,
    /// The request, where it is certain that upstream saw nothing of it.
    pub unsent: Option<Request<Full<Bytes>>>,
}

impl Connection {
    /// Connects to a place, with TLS where it is secure; the peer's address for people, and the deadline of the handshake,
    /// for what else belongs to it. Must run inside a `LocalSet`.
    pub async fn open(place: &Place, settings: &Settings) -> Result<(Self, String, Instant), Disconnect> {
        let (socket, peer, deadline) = reach(place, settings).await?;
        let mut client = http1::Builder::new();
        client.max_buf_size(MAX_HEAD).title_case_headers(true);
        let shake = client.handshake::<Io, Full<Bytes>>(TokioIo::new(socket));
        let (sender, connection) =
            timeout_at(deadline, shake).await.map_err(|_| Disconnect::HandshakeTimeout)?.map_err(|e| broken(&e))?;
        // Its errors reach the exchange; it has to be polled, not heard.
        let driver = tokio::task::spawn_local(async move { drop(connection.await) });
        Ok((Connection { sender, driver }, peer.to_string(), deadline))
    }

    /// Whether another exchange may begin here, as far as one can know.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its answer. The body, if it is not read to its end, closes the connection.
    pub async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        if let Err(error) = self.sender.ready().await {
            return Err(Failure { reason: broken(&error), unsent: Some(request) });
        }
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut error| Failure { unsent: error.take_message(), reason: broken(error.error()) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request to a place. Headers given here replace `Host` where they name it.
pub fn request(
    method: Method,
    place: &Place,
    headers: &[(String, String)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Disconnect> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = match method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
        Method::Put => hyper::Method::PUT,
    };
    *request.uri_mut() =
        place.target.parse().map_err(|e| Disconnect::BadUpgrade(format!("the address of a request: {e}")))?;
    *request.headers_mut() = header_map(place, headers)?;
    let agent = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().entry(USER_AGENT).or_insert(agent);
    Ok(request)
}

/// Header fields, with `Host` in front; all values count as secret.
pub fn header_map(place: &Place, headers: &[(String, String)]) -> Result<HeaderMap, Disconnect> {
    let wrong = |name: &str| Disconnect::BadUpgrade(format!("upstream header {name}: not allowed in HTTP"));
    let mut map = HeaderMap::new();
    map.insert(HOST, HeaderValue::try_from(&place.authority).map_err(|_| wrong("host"))?);
    for (name, value) in headers {
        let header = HeaderName::try_from(name).map_err(|_| wrong(name))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| wrong(name))?;
        value.set_sensitive(true);
        map.insert(header, value);
    }
    Ok(map)
}

/// A whole body of at most `max` bytes.
pub async fn collect(mut body: Incoming, max: usize) -> Result<Bytes, Disconnect> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|e| broken(&e))?.into_data().unwrap_or_default();
        if first.len() + all.len() + data.len() > max {
            return Err(Disconnect::Oversize);
        }
        match (first.is_empty(), all.is_empty()) {
            (true, true) => first = data,
            (_, false) => all.extend_from_slice(&data),
            (false, true) => {
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                first = Bytes::new();
            }
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// A status that is not what was hoped for, with what the answer says.
pub async fn refused(response: Response<Incoming>) -> Disconnect {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let target = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
    let detail = match target.map(|target| address(&String::from_utf8_lossy(target.as_bytes()))) {
        Some(target) => format!("set upstream.url to where it really is: it redirects to {}", show(target.as_bytes())),
        None => show(&start_of(response.into_body()).await),
    };
    Disconnect::BadStatus { status, retry_after, detail }
}

/// As much of a body as is shown, if it comes soon.
async fn start_of(mut body: Incoming) -> Vec<u8> {
    let mut start = Vec::new();
    let reading = async {
        while start.len() < MAX_DETAIL
            && let Some(Ok(frame)) = body.frame().await
        {
            let data = frame.into_data().unwrap_or_default();
            start.extend_from_slice(&data[..data.len().min(MAX_DETAIL - start.len())]);
        }
    };
    // What came until then is shown.
    let _ = timeout(DETAIL_TIMEOUT, reading).await;
    start
}

/// Sees that an answer's content is not coded: we ask for no coding (RFC 9110 section 12.5.3) and read none.
pub fn plain(headers: &HeaderMap) -> Result<(), Disconnect> {
    match headers.get(CONTENT_ENCODING).map(|coding| show(coding.as_bytes())).as_deref() {
        None | Some("" | "identity") => Ok(()),
        Some(coding) => {
            Err(Disconnect::BadUpgrade(format!("an answer in content coding \"{coding}\", which was not asked for")))
        }
    }
}

/// `Retry-After`, from now.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    dialect::retry_after(headers.get(RETRY_AFTER)?.as_bytes(), crate::clock::now().wall)
}

/// Bytes from outside, cut and escaped for a log line.
pub fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(MAX_DETAIL)].escape_ascii().to_string()
}

/// What hyper could not do.
pub fn broken(error: &hyper::Error) -> Disconnect {
    if error.is_parse() {
        return Disconnect::BadUpgrade(format!("the answer is not HTTP/1.1: {error}"));
    }
    if error.is_incomplete_message() {
        return Disconnect::Reset("the connection ended before the whole answer".to_owned());
    }
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    Disconnect::Reset(format!("in an HTTP exchange: {cause}"))
}
