//! From an address to a TCP connection: name resolution, several addresses tried in turn, socket options.
//!
//! Deliberately not here: caching of names (the system's resolver has one), and tunnels (`proxy`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::Uri;
use socket2::TcpKeepalive;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout_at};

use crate::relay::pairs::Disconnect;

/// How long an address may keep the next one waiting (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Where to connect, taken from an address of one of the schemes `ws`, `wss`, `http`, `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// TLS or not.
    pub secure: bool,
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, at least `/`.
    pub target: String,
    /// The `Host` header.
    pub authority: String,
}

impl Place {
    /// Whether a connection to one serves the other.
    pub fn same_origin(&self, other: &Place) -> bool {
        (self.secure, &self.host, self.port) == (other.secure, &other.host, other.port)
    }

    /// Reads an address. The configuration checked it, but templates may have filled in more.
    pub fn parse(url: &str) -> Result<Self, Disconnect> {
        let wrong = |why: &str| Disconnect::BadUpgrade(format!("upstream.url is no address of a transport: {why}"));
        let uri: Uri = url.parse().map_err(|e: hyper::http::uri::InvalidUri| wrong(&e.to_string()))?;
        let secure = match uri.scheme_str() {
            Some("wss" | "https") => true,
            Some("ws" | "http") => false,
            _ => return Err(wrong("the scheme is another")),
        };
        let bracketed = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("there is no host"))?;
        let authority = match uri.port_u16() {
            Some(port) => format!("{bracketed}:{port}"),
            None => bracketed.to_owned(),
        };
        Ok(Place {
            secure,
            host: bracketed.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            authority,
        })
    }
}

/// Connects to a place before `deadline`. Bytes that stay unacknowledged for `patience` break the connection later.
pub async fn dial(place: &Place, deadline: Instant, patience: Duration) -> Result<(TcpStream, SocketAddr), Disconnect> {
    let addresses = match timeout_at(deadline, resolve(place)).await {
        Ok(addresses) => addresses?,
        Err(_) => return Err(Disconnect::Dns(format!("{}: no answer in time", place.host))),
    };
    timeout_at(deadline, connect_any(addresses, patience)).await.unwrap_or(Err(Disconnect::ConnectTimeout))
}

/// The system's resolver, on a thread of its own (`lookup_host` calls getaddrinfo off this thread).
async fn resolve(place: &Place) -> Result<Vec<SocketAddr>, Disconnect> {
    if let Ok(ip) = place.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, place.port)]);
    }
    let found = lookup_host((place.host.as_str(), place.port));
    let found = found.await.map_err(|e| Disconnect::Dns(format!("{}: {e}", place.host)))?;
    Ok(interleave(found.take(MAX_ADDRESSES).collect()))
}

/// Alternates the families, starting with the one that the resolver prefers (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let mut mixed = Vec::with_capacity(preferred.len() + other.len());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    loop {
        let pair = [preferred.next(), other.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

/// The first address that answers. The next one starts when one failed, or when none answered within `STAGGER`.
async fn connect_any(addresses: Vec<SocketAddr>, patience: Duration) -> Result<(TcpStream, SocketAddr), Disconnect> {
    let mut waiting = addresses.into_iter();
    let mut racing = FuturesUnordered::new();
    let mut failure = Disconnect::Dns("the name has no address".to_owned());
    loop {
        match waiting.next() {
            Some(address) => racing.push(connect_one(address, patience)),
            None if racing.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(result) = racing.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(reason) => failure = reason,
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

async fn connect_one(address: SocketAddr, patience: Duration) -> Result<(TcpStream, SocketAddr), Disconnect> {
    let stream = TcpStream::connect(address).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => Disconnect::Refused,
        std::io::ErrorKind::TimedOut => Disconnect::ConnectTimeout,
        _ => Disconnect::Unreachable(format!("{address}: {e}")),
    })?;
    let options = socket2::SockRef::from(&stream);
    // A peer that is gone is found also where we only listen: some transports have no pings.
    let probe = (patience / 4).max(Duration::from_secs(1));
    let alive = TcpKeepalive::new().with_time((patience / 2).max(probe)).with_interval(probe).with_retries(2);
    let set = options.set_tcp_nodelay(true).and_then(|()| options.set_tcp_user_timeout(Some(patience)));
    let set = set.and_then(|()| options.set_tcp_keepalive(&alive));
    set.map_err(|e| Disconnect::Reset(format!("{address}: {e}")))?;
    Ok((stream, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Place::parse(url).unwrap()
    }

    #[test]
    fn addresses_are_read_with_their_defaults() {
        let plain = place("ws://example.com/stream?x=1");
        assert_eq!((plain.secure, plain.port, plain.target.as_str()), (false, 80, "/stream?x=1"));
        assert_eq!(plain.authority, "example.com");
        let secure = place("wss://user:secret@example.com:8443");
        assert_eq!((secure.secure, secure.port, secure.target.as_str()), (true, 8443, "/"));
        assert_eq!(secure.authority, "example.com:8443", "user information never goes into Host");
        let v6 = place("ws://[::1]:9/");
        assert_eq!((v6.host.as_str(), v6.authority.as_str()), ("::1", "[::1]:9"));
        for bad in ["ftp://example.com/", "example.com", "ws://", "ws:///x", "", "ws://a b/"] {
            assert!(matches!(Place::parse(bad), Err(Disconnect::BadUpgrade(_))), "{bad}");
        }
    }

    #[test]
    fn families_alternate_from_the_preferred_one() {
        let addresses: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "127.0.0.1:1", "[::3]:1"].iter().map(|a| a.parse().unwrap()).collect();
        let mixed: Vec<String> = interleave(addresses).iter().map(ToString::to_string).collect();
        assert_eq!(mixed, ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]);
        assert!(interleave(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        // Bound but not listening: refuses for as long as it is held.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dead = held.local_addr().unwrap();
        let patience = Duration::from_secs(5);
        let (_stream, reached) = connect_any(vec![dead, good], patience).await.unwrap();
        assert_eq!(reached, good);
        assert_eq!(connect_any(vec![dead], patience).await.unwrap_err(), Disconnect::Refused);
        assert!(matches!(connect_any(Vec::new(), patience).await.unwrap_err(), Disconnect::Dns(_)));
    }

    /// An IPv6 address from which no answer comes (its backlog is full) beside an IPv4 address that answers.
    #[tokio::test]
    async fn a_silent_ipv6_address_does_not_keep_a_living_ipv4_one_waiting() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let living = listener.local_addr().unwrap();
        let full = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        full.bind(&"[::1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let (mut filling, patience) = (Vec::new(), Duration::from_secs(5));
        while let Ok(connected) = tokio::time::timeout(STAGGER, TcpStream::connect(silent)).await {
            filling.push(connected.unwrap());
        }
        let addresses = interleave(vec![silent, living]);
        assert_eq!(addresses, [silent, living], "the resolver prefers the silent one");
        // Less than the system waits for an answer.
        let raced = tokio::time::timeout(Duration::from_secs(60), connect_any(addresses, patience));
        let (_stream, reached) = raced.await.unwrap().unwrap();
        assert_eq!(reached, living);
        drop((full, filling));
        let (_stream, reached) = connect_any(vec![silent, living], patience).await.unwrap();
        assert_eq!(reached, living, "nobody listens at the other one any more");
    }

    #[tokio::test]
    async fn options_of_the_socket_are_set() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let patience = Duration::from_secs(42);
        let (stream, _) = connect_one(listener.local_addr().unwrap(), patience).await.unwrap();
        let options = socket2::SockRef::from(&stream);
        assert!(options.tcp_nodelay().unwrap());
        assert_eq!(options.tcp_user_timeout().unwrap(), Some(patience));
        assert!(options.keepalive().unwrap());
    }
}
