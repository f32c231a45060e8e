//! One HTTP exchange beside the connection: what is asked and what came back. The way of tokens, listen keys, snapshots.
//!
//! Invariant: neither shows in a log what may be secret. Deliberately not here: who asks and why (the relay's), redirects
//! (an answer of 3xx is an answer like any other; nobody follows it).

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::wire::Method;

/// What stays as it is in a segment of a path and in a query (RFC 3986 section 2.3: unreserved).
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
    /// `Retry-After` (RFC 9110 section 10.2.3) from now, clamped to 1 s..1 h.
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
    use super::same_origin;

    #[test]
    fn origins_are_compared_as_http_writes_them() {
        assert_eq!(same_origin("wss://A.example:443/x?y"), same_origin("https://a.example"));
        assert_eq!(same_origin("ws://a:8080").as_deref(), Some("http://a:8080"));
        for none in ["/path", "ftp://a/", "https://", "https://user@host/"] {
            assert_eq!(same_origin(none), None, "{none}");
        }
    }
}
