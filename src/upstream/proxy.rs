//! A proxy in front of upstream: which one, and the tunnel through it (CONNECT, RFC 9110 section 9.3.6).
//!
//! `upstream.proxy` decides; without it the environment does, as everywhere: `HTTPS_PROXY` (`HTTP_PROXY` without TLS),
//! `ALL_PROXY`, `NO_PROXY`. Loopback is never sent through a proxy of the environment.
//! Deliberately not here: proxies that are reached over TLS, SOCKS, and any authentication but basic.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{HOST, PROXY_AUTHORIZATION};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::dial::Place;
use super::http::{MAX_HEAD, broken, show};
use crate::relay::pairs::Disconnect;

/// Which proxy leads where.
#[derive(Clone)]
pub struct Proxy {
    matcher: Arc<Matcher>,
    /// The configuration names it: then it counts for every address.
    named: bool,
}

impl Proxy {
    /// `upstream.proxy`: an address, `off`, or nothing for the environment's.
    pub fn new(configured: Option<&str>) -> Self {
        let matcher = match configured {
            Some("off") => Matcher::builder().build(),
            Some(address) => Matcher::builder().all(address).build(),
            None => Matcher::from_env(),
        };
        Proxy { matcher: Arc::new(matcher), named: configured.is_some() }
    }

    /// The proxy through which this place is reached.
    pub fn to(&self, place: &Place) -> Option<Intercept> {
        let loopback =
            place.host == "localhost" || place.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if loopback && !self.named {
            return None;
        }
        let scheme = if place.secure { "https" } else { "http" };
        self.matcher.intercept(&format!("{scheme}://{}/", place.authority).parse().ok()?)
    }
}

/// Where the proxy itself is.
pub fn place(proxy: &Intercept) -> Result<Place, Disconnect> {
    match proxy.uri().scheme_str() {
        Some("http") => Place::parse(&proxy.uri().to_string()),
        other => {
            let scheme = other.unwrap_or_default();
            Err(Disconnect::Unreachable(format!("the proxy's scheme is {scheme}, and only http is supported")))
        }
    }
}

/// Asks a proxy for a tunnel; the same stream leads to the place from then on.
pub async fn tunnel(stream: TcpStream, proxy: &Intercept, place: &Place) -> Result<TcpStream, Disconnect> {
    let failed = |why: String| Disconnect::Unreachable(format!("through the proxy: {why}"));
    let host = if place.host.contains(':') { format!("[{}]", place.host) } else { place.host.clone() };
    let target = format!("{host}:{}", place.port);
    let mut head = Request::connect(&target).header(HOST, &target);
    if let Some(credentials) = proxy.basic_auth() {
        head = head.header(PROXY_AUTHORIZATION, credentials);
    }
    let head = head.body(Empty::<Bytes>::new()).map_err(|e| failed(e.to_string()))?;
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD).title_case_headers(true);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let exchange = async {
        let response = sender.send_request(head).await.map_err(|e| failed(broken(&e).detail()))?;
        if !response.status().is_success() {
            return Err(failed(format!("it answers {}", show(response.status().to_string().as_bytes()))));
        }
        let open = hyper::upgrade::on(response).await.map_err(|e| failed(e.to_string()))?;
        match open.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            _ => Err(failed("it speaks before it is spoken to".to_owned())),
        }
    };
    tokio::select! {
        result = exchange => result,
        // Its own errors reach the exchange; it has to be polled, not heard.
        never = async { let _ = connection.with_upgrades().await; std::future::pending().await } => never,
    }
}
