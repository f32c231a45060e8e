//! One HTTP exchange beside the connection: what is asked and what came back. The way of tokens, listen keys, snapshots.
//!
//! Invariant: neither shows in a log what may be secret. Deliberately not here: who asks and why (the relay's), redirects
//! (an answer of 3xx is an answer like any other; nobody follows it).

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::wire::Method;
use crate::relay::time::Wall;

/// What stays as it is in a segment of a path and in a query (RFC 3986 section 2.3: unreserved).
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A `Retry-After` is kept within these.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
/// See [`SHORTEST_RETRY`].
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// A text as it stands in an address.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Scheme, host and port of an address, as HTTP writes them: `wss://a:443/x` and `https://A/` are of one origin.
pub fn same_origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (scheme, port) = match scheme {
        "wss" | "https" => ("https", ":443"),
        "ws" | "http" => ("http", ":80"),
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    let host = authority.strip_suffix(port).unwrap_or(&authority);
    (!host.is_empty() && !host.contains('@')).then(|| format!("{scheme}://{host}"))
}

/// What a `Retry-After` says (RFC 9110 section 10.2.3), from `now`, clamped to 1 s..1 h: seconds or a date. Anything else is as
/// if it were not there.
pub fn retry_after(value: &[u8], now: Wall) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds are still a number, and above the limit.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let left = (Wall::default() + date).since(now);
        Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    };
    Some(wait.clamp(SHORTEST_RETRY, LONGEST_RETRY))
}

/// A request, with all templates filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// How.
    pub method: Method,
    /// `http://` or `https://` with path and query. May hold secrets.
    pub url: String,
    /// Its header fields; `host`, `content-length` and `user-agent` are the carrier's where they are not given. May hold
    /// secrets.
    pub headers: Vec<(String, String)>,
    /// Its content; empty: none. May hold secrets.
    pub body: Bytes,
    /// Bytes of the answer's content; a larger one is no answer.
    pub max_body: usize,
    /// From name resolution to the answer's last byte.
    pub timeout: Duration,
}

impl std::fmt::Debug for HttpRequest {
    /// Without query, headers and content: they may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split('?').next();
        f.debug_struct("HttpRequest").field("method", &self.method).field("url", &url).finish_non_exhaustive()
    }
}

/// An answer, whatever its status.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: u16,
    /// Its `Retry-After`, as [`retry_after`] reads it.
    pub retry_after: Option<Duration>,
    /// The content. May hold secrets.
    pub body: Bytes,
}

impl HttpAnswer {
    /// Whether the status says that it went well (RFC 9110 section 15.3).
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl std::fmt::Debug for HttpAnswer {
    /// Without the content: it may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        let now = Wall::default() + Duration::from_secs(784_111_777);
        let table: [(&str, Option<u64>); 11] = [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(1)),
            ("Sat, 06 Nov 2094 08:00:00 GMT", Some(3600)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (text, seconds) in table {
            assert_eq!(retry_after(text.as_bytes(), now).map(|wait| wait.as_secs()), seconds, "{text}");
        }
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:50:37 GMT".as_bytes(), now + Duration::from_millis(500))
                .map(|wait| wait.as_secs()),
            Some(60),
            "never early"
        );
        assert_eq!(retry_after(b"\xff", now), None);
        assert_eq!(retry_after(b"", now), None);
    }

    #[test]
    fn origins_are_compared_as_http_writes_them() {
        assert_eq!(same_origin("wss://A.example:443/x?y"), same_origin("https://a.example"));
        assert_eq!(same_origin("ws://a:8080").as_deref(), Some("http://a:8080"));
        for none in ["/path", "ftp://a/", "https://", "https://user@host/"] {
            assert_eq!(same_origin(none), None, "{none}");
        }
    }
}
