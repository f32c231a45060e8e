//! How a request becomes a session: the WebSocket upgrade (RFC 6455 section 4.2), the head of an event stream, and where a
//! token may stand. Headers in, bytes out; no socket.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::reply::Problem;
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::Secret;
use crate::protocol::request::parse::TOKEN_MAX;

/// The feed's subprotocol.
const PROTOCOL: &str = "tidegate.v1";
/// A subprotocol that carries a token, for browsers, which cannot set headers.
const BEARER: &str = "bearer.";

/// A well-formed upgrade.
#[derive(Debug)]
pub(super) struct Upgrade {
    accept: String,
    protocol: bool,
    /// The token among the subprotocols. It is never echoed.
    pub(super) token: Option<Secret>,
}

impl Upgrade {
    /// Reads the headers of an upgrade.
    pub(super) fn read<B>(request: &Request<B>) -> Result<Self, Problem> {
        let headers = request.headers();
        let asks = names(headers, &header::UPGRADE).any(|name| name.eq_ignore_ascii_case("websocket"))
            && names(headers, &header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
        if !asks || request.version() != Version::HTTP_11 {
            return Err(wrong_upgrade("this path speaks WebSocket: connect to it with a WebSocket client"));
        }
        if one(headers, &header::SEC_WEBSOCKET_VERSION)? != Some("13") {
            return Err(wrong_upgrade("Sec-WebSocket-Version must be 13"));
        }
        let key = one(headers, &header::SEC_WEBSOCKET_KEY)?.unwrap_or("");
        if !BASE64_STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
            return Err(invalid("Sec-WebSocket-Key must be 16 bytes in base64"));
        }
        let mut upgrade = Upgrade { accept: derive_accept_key(key.as_bytes()), protocol: false, token: None };
        let mut cloudevents = false;
        for name in names(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
            match name.strip_prefix(BEARER) {
                Some(encoded) => upgrade.token = Some(token(encoded)?),
                None if name == PROTOCOL => upgrade.protocol = true,
                None => cloudevents |= name == "cloudevents.json",
            }
        }
        if cloudevents && !upgrade.protocol {
            return Err(Problem::new(
                ErrorCode::NotSupported,
                "the subprotocol `cloudevents.json` is not supported by this relay",
            ));
        }
        Ok(upgrade)
    }

    /// The response's head.
    pub(super) fn head(&self) -> String {
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
            self.accept
        );
        if self.protocol {
            // Writing to a string cannot fail.
            let _ = write!(head, "Sec-WebSocket-Protocol: {PROTOCOL}\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

/// The head of an event stream; its body is chunked. `origin`: the page that may read it.
pub(super) fn sse_head(origin: Option<&str>) -> String {
    let mut head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
                    X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nVary: Origin\r\n\
                    Transfer-Encoding: chunked\r\nConnection: close\r\n"
        .to_owned();
    if let Some(origin) = origin {
        // Writing to a string cannot fail. The origin is a header's text: it has no line ends.
        let _ = write!(head, "Access-Control-Allow-Origin: {origin}\r\n");
    }
    head.push_str("\r\n");
    head
}

/// The token of `Authorization: Bearer …`, if there is one.
pub(super) fn authorization(headers: &HeaderMap) -> Result<Option<Secret>, Problem> {
    let Some(text) = one(headers, &header::AUTHORIZATION)? else { return Ok(None) };
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_MAX {
        return Err(Problem::new(ErrorCode::Unauthenticated, "Authorization must be `Bearer` and a token"));
    }
    Ok(Some(Secret::new(token)))
}

/// A header that stands at most once, as text.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(&format!("{name} stands twice")));
    }
    value.to_str().map(Some).map_err(|_| invalid(&format!("{name} is not ASCII text")))
}

/// The names of a comma-separated header.
fn names<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

fn token(encoded: &str) -> Result<Secret, Problem> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.filter(|text| !text.is_empty() && text.len() <= TOKEN_MAX);
    text.map(Secret::new).ok_or_else(|| {
        Problem::new(
            ErrorCode::Unauthenticated,
            "the subprotocol `bearer.…` must hold a token in base64url without padding",
        )
    })
}

fn invalid(message: &str) -> Problem {
    Problem::new(ErrorCode::Invalid, message)
}

fn wrong_upgrade(message: &str) -> Problem {
    // RFC 9110 section 15.5.22 and RFC 6455 section 4.4.
    let headers =
        vec![(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade"), (header::SEC_WEBSOCKET_VERSION, "13")];
    Problem { status: 426, headers, ..invalid(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 section 1.3's own example, with other headers in place of or beside its.
    fn upgrade(change: &[(&str, &str)]) -> Result<Upgrade, Problem> {
        let mut request = Request::get("/v1/ws").body(()).unwrap();
        let example = [
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in example.iter().chain(change) {
            request.headers_mut().insert(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        Upgrade::read(&request)
    }

    #[test]
    fn an_upgrade_is_answered_as_the_rfc_shows() {
        let head = upgrade(&[]).unwrap().head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Sec-WebSocket-Protocol"), "{head}");
    }

    #[test]
    fn the_answer_selects_our_subprotocol_and_never_the_token() {
        let offered = upgrade(&[("sec-websocket-protocol", "bearer.czNjcmV0, tidegate.v1, other")]).unwrap();
        assert_eq!(offered.token.as_ref().unwrap().expose(), "s3cret");
        assert!(offered.head().contains("\r\nSec-WebSocket-Protocol: tidegate.v1\r\n"));
        assert!(!offered.head().contains("bearer") && !format!("{offered:?}").contains("s3cret"));
        let alone = upgrade(&[("sec-websocket-protocol", "bearer.czNjcmV0")]).unwrap();
        assert!(!alone.head().contains("Sec-WebSocket-Protocol"), "only what was offered may be selected");
    }

    #[test]
    fn extensions_are_not_negotiated() {
        let head = upgrade(&[("sec-websocket-extensions", "permessage-deflate")]).unwrap().head();
        assert!(!head.to_ascii_lowercase().contains("extensions"));
    }

    #[test]
    fn wrong_upgrades_are_refused() {
        for (name, value, status) in [
            ("upgrade", "h2c", 426),
            ("connection", "keep-alive", 426),
            ("sec-websocket-version", "8", 426),
            ("sec-websocket-key", "c2hvcnQ=", 400),
            ("sec-websocket-key", "?", 400),
            ("sec-websocket-protocol", "cloudevents.json", 422),
            ("sec-websocket-protocol", "bearer.!", 401),
            ("sec-websocket-protocol", "bearer.", 401),
        ] {
            assert_eq!(upgrade(&[(name, value)]).unwrap_err().status, status, "{name}: {value}");
        }
    }

    #[test]
    fn tokens_stand_behind_bearer_only() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            authorization(&headers).map(|token| token.unwrap().expose().to_owned())
        };
        assert_eq!(read("Bearer abc").unwrap(), "abc");
        assert_eq!(read("bearer  abc ").unwrap(), "abc");
        for bad in ["Basic YTpi", "Bearer", "Bearer ", "abc"] {
            assert_eq!(read(bad).unwrap_err().status, 401, "{bad}");
        }
        assert!(authorization(&HeaderMap::new()).unwrap().is_none());
    }
}
