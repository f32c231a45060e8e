//! The HTTP upgrade (RFC 6455 section 4.1), by hyper's client: it bounds the head, waits for no body, and leaves every
//! answer other than 101 readable, so that people learn what a proxy or a login page said.
//!
//! Deliberately not here: following redirects. A redirect names its target in the reason instead.

use std::time::{Duration, SystemTime};

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, UPGRADE};
use hyper::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use hyper::http::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Socket;
use super::dial::Place;
use crate::dialect::ConnectRequest;
use crate::relay::pairs::Disconnect;

/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
/// Bytes of a refusing answer's body that are shown.
const MAX_DETAIL: usize = 200;
/// How long to wait for those.
const DETAIL_TIMEOUT: Duration = Duration::from_millis(500);
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

type Io = TokioIo<Box<dyn Socket>>;

/// Asks for a WebSocket. Gives back the stream and the bytes that were read behind the answer's head.
pub async fn upgrade(
    request: &ConnectRequest,
    place: &Place,
    stream: Box<dyn Socket>,
) -> Result<(Box<dyn Socket>, Bytes), Disconnect> {
    let key = key()?;
    let head = head(request, place, &key)?;
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_buf_size(MAX_HEAD).title_case_headers(true);
    let (mut sender, connection) = client.handshake::<Io, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(head).await.map_err(broken)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response).await);
        }
        verify(response.headers(), &key, &request.subprotocols)?;
        let parts = hyper::upgrade::on(response).await.map_err(broken)?.downcast::<Io>();
        let parts = parts.map_err(|_| Disconnect::BadUpgrade("the stream changed its type".to_owned()))?;
        Ok((parts.io.into_inner(), parts.read_buf))
    };
    tokio::select! {
        result = exchange => result,
        // Its own errors reach the exchange; it has to be polled, not heard.
        never = async { let _ = connection.with_upgrades().await; std::future::pending().await } => never,
    }
}

/// 16 random bytes (RFC 6455 section 4.1): they keep caches out, they are no secret.
fn key() -> Result<String, Disconnect> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| Disconnect::BadUpgrade(format!("no randomness from the system: {e}")))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(nonce))
}

/// The request. Headers of the configuration replace our own where they are the same, `Host` too; the ones that make it
/// an upgrade cannot be replaced.
fn head(request: &ConnectRequest, place: &Place, key: &str) -> Result<Request<Empty<Bytes>>, Disconnect> {
    let wrong = |name: &str| Disconnect::BadUpgrade(format!("upstream header {name}: not allowed in HTTP"));
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::try_from(&place.authority).map_err(|_| wrong("host"))?);
    for (name, value) in &request.headers {
        let header = HeaderName::try_from(name).map_err(|_| wrong(name))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| wrong(name))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).map_err(|_| wrong("sec-websocket-key"))?);
    if !request.subprotocols.is_empty() {
        let offered = HeaderValue::try_from(request.subprotocols.join(", "));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered.map_err(|_| wrong("sec-websocket-protocol"))?);
    }
    let mut head = Request::get(place.target.as_str()).body(Empty::new());
    if let Ok(head) = &mut head {
        *head.headers_mut() = headers;
    }
    head.map_err(|e| Disconnect::BadUpgrade(format!("upstream.url: {e}")))
}

/// The client's checks of RFC 6455 section 4.1. No selected subprotocol is a legal answer; one not offered is not.
fn verify(headers: &HeaderMap, key: &str, offered: &[String]) -> Result<(), Disconnect> {
    let wrong = |why: &str| Err(Disconnect::BadUpgrade(why.to_owned()));
    if !has_token(headers, &UPGRADE, "websocket") {
        return wrong("101 without \"Upgrade: websocket\"");
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return wrong("101 without \"Connection: Upgrade\"");
    }
    if headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes)
        != Some(derive_accept_key(key.as_bytes()).as_bytes())
    {
        return wrong("101 with a wrong Sec-WebSocket-Accept");
    }
    match headers.get(SEC_WEBSOCKET_PROTOCOL) {
        Some(chosen) if !offered.iter().any(|o| o.as_bytes() == chosen.as_bytes()) => {
            Err(Disconnect::BadUpgrade(format!("subprotocol {} was not offered", show(chosen.as_bytes()))))
        }
        _ => Ok(()),
    }
}

/// Whether a comma-separated header has this token, without regard to case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Any status but 101.
async fn refused(response: Response<hyper::body::Incoming>) -> Disconnect {
    let status = response.status().as_u16();
    let text = |name| response.headers().get(name).map(|value: &HeaderValue| value.as_bytes().to_vec());
    let retry_after = text(RETRY_AFTER).and_then(|value| retry_after(&value, SystemTime::now()));
    let detail = match text(LOCATION).filter(|_| response.status().is_redirection()) {
        Some(target) => format!("redirects to {}; set upstream.url to where it really is", show(&target)),
        None => show(&start_of(response.into_body()).await),
    };
    Disconnect::BadStatus { status, retry_after, detail }
}

/// As much of a body as is shown, if it comes soon.
async fn start_of(mut body: hyper::body::Incoming) -> Vec<u8> {
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
    let _ = tokio::time::timeout(DETAIL_TIMEOUT, reading).await;
    start
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds or a date. Anything else is as if it were not there.
fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds are still a number, and above the limit.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let left = date.duration_since(now).unwrap_or_default();
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    };
    Some(wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
}

/// Bytes from outside, cut and escaped for a log line.
pub fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(MAX_DETAIL)].escape_ascii().to_string()
}

/// What hyper could not do.
fn broken(error: hyper::Error) -> Disconnect {
    if error.is_parse() {
        return Disconnect::BadUpgrade(format!("the answer is not HTTP/1.1: {error}"));
    }
    if error.is_incomplete_message() {
        return Disconnect::Reset("closed before the answer to the upgrade".to_owned());
    }
    let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    Disconnect::Reset(format!("in the upgrade: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Transport;

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let table: [(&str, Option<u64>); 10] = [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(1)),
            ("Sun, 06 Nov 2094 08:00:00 GMT", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (text, seconds) in table {
            let read = retry_after(text.as_bytes(), now).map(|wait| wait.as_secs());
            // The far date has a wrong weekday: some parsers refuse it, ours may clamp it.
            if text.contains("2094") {
                assert!(read.is_none() || read == Some(3600), "{text}: {read:?}");
            } else {
                assert_eq!(read, seconds, "{text}");
            }
        }
        assert_eq!(retry_after(b"\xff", now), None);
        assert_eq!(retry_after(b"", now), None);
    }

    #[test]
    fn configured_headers_cannot_break_the_upgrade() {
        let place = Place::parse("ws://example.com/feed?a=1").unwrap();
        let request = ConnectRequest {
            transport: Transport::WebSocket,
            url: String::new(),
            headers: vec![
                ("Host".to_owned(), "other.example".to_owned()),
                ("Upgrade".to_owned(), "h2c".to_owned()),
                ("Authorization".to_owned(), "Bearer x".to_owned()),
            ],
            subprotocols: vec!["a".to_owned(), "b".to_owned()],
        };
        let head = head(&request, &place, "k").unwrap();
        assert_eq!(head.uri(), "/feed?a=1");
        assert_eq!(head.headers()[HOST], "other.example");
        assert_eq!(head.headers()[UPGRADE], "websocket");
        assert_eq!(head.headers()[SEC_WEBSOCKET_PROTOCOL], "a, b");
        assert!(!format!("{head:?}").contains("Bearer"), "values may be secret");
        let bad = ConnectRequest { headers: vec![("X".to_owned(), "a\r\nb".to_owned())], ..request };
        assert!(super::head(&bad, &place, "k").is_err());
    }
}
