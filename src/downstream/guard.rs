//! Who may speak to a listener at all, judged by three headers before anybody is asked for a token. A pure function.
//!
//! Loopback is no trust boundary: any web page that the user opens can send requests to 127.0.0.1. A page shows itself by
//! `Origin` or `Sec-Fetch-Site`; a page whose name was rebound to our address shows itself by `Host`. Both are parsed and
//! compared whole, never by prefix. Programs send neither `Origin` nor `Sec-Fetch-Site` and pass.
//!
//! Invariant: only an origin that passed is ever echoed, and a refusal names the key that would allow it, if there is one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::protocol::codes::ErrorCode;
use crate::protocol::request::parse::shown;

/// What a listener lets through.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    hosts: Vec<Authority>,
    origins: Vec<String>,
    /// No origin but the listener's own can be let in.
    own_only: bool,
}

/// The headers of one request, and the address that it reached.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Our end of the connection.
    pub local: SocketAddr,
    /// `Host`
    pub host: Option<&'a str>,
    /// `Origin`
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`
    pub fetch_site: Option<&'a str>,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As which error.
    pub code: ErrorCode,
    /// What is wrong and which key mends it.
    pub message: String,
}

impl Guard {
    /// Lets through requests to addresses bound here and to these host names (with a port: only there), of this listener's
    /// own pages and of these origins.
    pub fn new(hosts: &[String], origins: &[String]) -> Self {
        let hosts = hosts.iter().filter_map(|host| Authority::parse(host)).collect();
        Guard { hosts, origins: origins.to_vec(), own_only: false }
    }

    /// The same of a listener that lets in its own pages alone.
    pub fn own_pages(hosts: &[String]) -> Self {
        Guard { own_only: true, ..Guard::new(hosts, &[]) }
    }

    /// Judges a request. `Ok(Some(origin))`: a page's, to be echoed in `Access-Control-Allow-Origin`.
    pub fn check<'a>(&self, asked: &Asked<'a>) -> Result<Option<&'a str>, Refusal> {
        let host = self.check_host(asked)?;
        self.check_page(asked, &host).map_err(|message| {
            let own_only = "only this listener's own pages are let in here: access.origins is for the feed";
            forbidden(if self.own_only { own_only.to_owned() } else { message })
        })
    }

    fn check_page<'a>(&self, asked: &Asked<'a>, host: &Authority) -> Result<Option<&'a str>, String> {
        let Some(origin) = asked.origin else {
            return match asked.fetch_site {
                Some(site) if site.eq_ignore_ascii_case("cross-site") => Err(
                    "a page of another site asks without an Origin: add the page's origin to access.origins and use CORS"
                        .to_owned(),
                ),
                _ => Ok(None),
            };
        };
        if origin == "null" {
            return Err("the Origin `null` (a file, a sandbox) is never let in: serve the page over HTTP and add its origin to \
                 access.origins"
                .to_owned());
        }
        let own = origin.strip_prefix("http://").and_then(Authority::parse);
        let is_own = own.is_some_and(|own| own.name == host.name && own.port.unwrap_or(80) == host.port.unwrap_or(80));
        if is_own || self.origins.iter().any(|allowed| allowed == origin) {
            return Ok(Some(origin));
        }
        Err(format!("pages of `{}` are not let in: add this origin to access.origins", shown(origin)))
    }

    fn check_host(&self, asked: &Asked<'_>) -> Result<Authority, Refusal> {
        let Some(text) = asked.host else {
            return Err(Refusal { code: ErrorCode::Invalid, message: "the request has no Host".to_owned() });
        };
        let here = |host: &Authority| {
            let ip = asked.local.ip().to_canonical();
            let address = match &host.name {
                Name::Address(address) => *address == ip,
                Name::Text(name) => name == "localhost" && ip.is_loopback(),
            };
            address && host.port.is_none_or(|port| port == asked.local.port())
        };
        let configured = |host: &Authority| {
            self.hosts.iter().any(|allowed| {
                allowed.name == host.name && allowed.port.is_none_or(|port| port == host.port.unwrap_or(80))
            })
        };
        Authority::parse(text).filter(|host| here(host) || configured(host)).ok_or_else(|| {
            forbidden(format!("`{}` is not an address of this listener: add the name to access.hosts", shown(text)))
        })
    }
}

fn forbidden(message: String) -> Refusal {
    Refusal { code: ErrorCode::Forbidden, message }
}

/// Host and port, as in `Host` and behind the scheme of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    name: Name,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Address(IpAddr),
    /// Lower case, without a final dot.
    Text(String),
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = match rest {
                "" => None,
                rest => Some(port(rest.strip_prefix(':')?)?),
            };
            return Some(Authority { name: Name::Address(IpAddr::V6(address).to_canonical()), port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, digits)) => (name, Some(port(digits)?)),
            None => (text, None),
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            return Some(Authority { name: Name::Address(address), port });
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let right = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        right.then(|| Authority { name: Name::Text(name.to_ascii_lowercase()), port })
    }
}

fn port(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard() -> Guard {
        let text = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Guard::new(
            &text(&["feed.example.com", "only.example.com:8080"]),
            &text(&["https://app.example.com", "http://127.0.0.1:9000", "null"]),
        )
    }

    /// Who comes by with these headers to 127.0.0.1:7440: let in, or which key is named.
    fn verdict(host: &str, origin: &str, fetch_site: &str) -> &'static str {
        let given = |text: &'static str| Some(text).filter(|t| *t != "-");
        let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
        let asked = Asked {
            local: "127.0.0.1:7440".parse().unwrap(),
            host: given(leak(host)),
            origin: given(leak(origin)),
            fetch_site: given(leak(fetch_site)),
        };
        match guard().check(&asked) {
            Ok(None) => "program",
            Ok(Some(echoed)) => {
                assert_eq!(echoed, origin);
                "page"
            }
            Err(refusal) if refusal.message.contains("access.hosts") => "access.hosts",
            Err(refusal) if refusal.message.contains("access.origins") => "access.origins",
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::Invalid);
                "invalid"
            }
        }
    }

    const HOSTS: &[(&str, bool)] = &[
        ("127.0.0.1:7440", true),
        ("127.0.0.1", true),
        ("localhost:7440", true),
        ("LOCALHOST:7440", true),
        ("localhost.:7440", true),
        ("feed.example.com", true),
        ("Feed.Example.com:443", true),
        ("only.example.com:8080", true),
        ("only.example.com", false),
        ("only.example.com:8081", false),
        ("127.0.0.1:7441", false),
        ("127.0.0.1.evil.example", false),
        ("127.0.0.1.evil.example:7440", false),
        ("127.0.0.2:7440", false),
        ("127.1:7440", false),
        ("2130706433:7440", false),
        ("0x7f000001:7440", false),
        ("[::1]:7440", false),
        ("localhost.evil.example:7440", false),
        ("evil.example", false),
        ("evilfeed.example.com", false),
        ("feed.example.com.evil.example", false),
        ("user@127.0.0.1:7440", false),
        ("127.0.0.1:7440, evil.example", false),
        ("127.0.0.1:", false),
        ("127.0.0.1:99999", false),
        ("127.0.0.1:+7440", false),
        ("", false),
        (":7440", false),
        ("[::1", false),
    ];

    const ORIGINS: &[(&str, bool)] = &[
        ("https://app.example.com", true),
        ("http://127.0.0.1:9000", true),
        ("null", false),
        ("https://app.example.com.evil.example", false),
        ("https://app.example.com:444", false),
        ("http://app.example.com", false),
        ("https://APP.example.com", false),
        ("http://127.0.0.1:7441", false),
        ("https://127.0.0.1:7440", false),
        ("http://127.0.0.1.evil.example:7440", false),
        ("http://evil.example", false),
        ("file://", false),
        ("chrome-extension://abcdef", false),
        ("", false),
        ("http://", false),
    ];

    #[test]
    fn every_host_with_every_origin() {
        for (host, host_right) in HOSTS {
            let alone = verdict(host, "-", "-");
            assert_eq!(alone, if *host_right { "program" } else { "access.hosts" }, "{host}");
            for (origin, origin_right) in ORIGINS {
                let wanted = match (host_right, origin_right) {
                    (false, _) => "access.hosts",
                    (true, true) => "page",
                    (true, false) => "access.origins",
                };
                for site in ["-", "same-origin", "cross-site"] {
                    assert_eq!(verdict(host, origin, site), wanted, "{host} {origin} {site}");
                }
            }
        }
        assert_eq!(verdict("-", "-", "-"), "invalid");
    }

    #[test]
    fn where_only_own_pages_are_let_in_no_key_is_named_that_would_not_help() {
        let guard = Guard::own_pages(&[]);
        let asked = |origin, fetch_site| Asked {
            local: "127.0.0.1:7441".parse().unwrap(),
            host: Some("127.0.0.1:7441"),
            origin,
            fetch_site,
        };
        assert_eq!(guard.check(&asked(Some("http://127.0.0.1:7441"), None)), Ok(Some("http://127.0.0.1:7441")));
        for asked in
            [asked(Some("https://app.example.com"), None), asked(Some("null"), None), asked(None, Some("cross-site"))]
        {
            let message = guard.check(&asked).unwrap_err().message;
            assert_eq!(message, "only this listener's own pages are let in here: access.origins is for the feed");
        }
    }

    #[test]
    fn the_own_origin_is_the_address_that_was_asked() {
        assert_eq!(verdict("127.0.0.1:7440", "http://127.0.0.1:7440", "same-origin"), "page");
        assert_eq!(verdict("localhost:7440", "http://localhost:7440", "same-origin"), "page");
        assert_eq!(verdict("localhost:7440", "http://127.0.0.1:7440", "same-site"), "access.origins");
        assert_eq!(verdict("feed.example.com", "http://feed.example.com", "same-origin"), "page");
        assert_eq!(verdict("feed.example.com", "http://feed.example.com:80", "same-origin"), "page");
        assert_eq!(verdict("feed.example.com:8080", "http://feed.example.com", "same-site"), "access.origins");
    }

    #[test]
    fn a_page_without_an_origin_shows_by_where_it_fetches_from() {
        assert_eq!(verdict("127.0.0.1:7440", "-", "cross-site"), "access.origins");
        assert_eq!(verdict("127.0.0.1:7440", "-", "Cross-Site"), "access.origins");
        for site in ["same-origin", "same-site", "none"] {
            assert_eq!(verdict("127.0.0.1:7440", "-", site), "program", "{site}");
        }
    }

    #[test]
    fn addresses_of_version_6_are_parsed_too() {
        let asked = |local: &str, host| Asked {
            local: local.parse().unwrap(),
            host: Some(host),
            origin: None,
            fetch_site: None,
        };
        let passes = |local, host| guard().check(&asked(local, host)).is_ok();
        assert!(passes("[::1]:7440", "[::1]:7440"));
        assert!(passes("[::1]:7440", "[0:0::1]:7440"));
        assert!(passes("[::1]:7440", "localhost:7440"));
        assert!(passes("[::ffff:127.0.0.1]:7440", "127.0.0.1:7440"));
        assert!(passes("192.0.2.1:7440", "192.0.2.1:7440"));
        assert!(!passes("192.0.2.1:7440", "localhost:7440"));
        assert!(!passes("[::1]:7440", "::1"));
        assert!(!passes("[::1]:7440", "[::1]7440"));
    }

    proptest! {
        #[test]
        fn no_header_panics_and_none_unknown_passes(host in "\\PC{0,20}", origin in "\\PC{0,20}") {
            let asked = Asked { local: "127.0.0.1:7440".parse().unwrap(), host: Some(&host), origin: Some(&origin), fetch_site: None };
            prop_assert!(guard().check(&asked).is_err());
        }
    }
}
