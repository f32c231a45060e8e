//! The HTTP upgrade (RFC 6455 section 4.1), by hyper's client: it bounds the head, waits for no body, and leaves every
//! answer other than 101 readable.
//!
//! Deliberately not here: following redirects. A redirect names its target in the reason instead.

use base64::Engine;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use hyper::http::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Socket;
use super::dial::Place;
use super::http::{Io, MAX_HEAD, broken, header_map, refused, show};
use crate::dialect::ConnectRequest;
use crate::relay::pairs::Disconnect;

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
    let (mut sender, connection) =
        client.handshake::<Io, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let exchange = async {
        let response = sender.send_request(head).await.map_err(|e| broken(&e))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response).await);
        }
        verify(response.headers(), &key, &request.subprotocols)?;
        let parts = hyper::upgrade::on(response).await.map_err(|e| broken(&e))?.downcast::<Io>();
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
    let mut headers = header_map(place, &request.headers)?;
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
        Some(chosen) if !offered.iter().any(|o| o.as_bytes() == chosen.as_bytes()) => Err(Disconnect::BadUpgrade(
            format!("it chose a subprotocol that was not offered: {}", show(chosen.as_bytes())),
        )),
        _ => Ok(()),
    }
}

/// Whether a comma-separated header has this token, without regard to case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use hyper::header::HOST;

    use super::*;
    use crate::dialect::Transport;

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
