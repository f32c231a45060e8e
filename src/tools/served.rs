//! A WebSocket server for tools: loopback unless told otherwise, no web pages, small limits. By itself, or out of an HTTP
//! server.

use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response, create_response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// A client's connection.
pub type Socket = WebSocketStream<TcpStream>;

/// The same out of an HTTP server.
pub type Upgraded = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Largest message of a client.
const MAX_MESSAGE: usize = 16 << 20;

/// Binds the address; what is really listened on comes with it.
pub async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Upgrades a connection, or refuses it with `status`. The first subprotocol offered is taken. `None`: it came to nothing.
#[expect(clippy::result_large_err, reason = "the library's signature: its refusals are large")]
pub async fn accept(stream: TcpStream, status: Option<u16>) -> Option<Socket> {
    // Without it small frames wait for each other; a system that refuses it is no less right.
    let _ = stream.set_nodelay(true);
    let answer = |request: &Request, mut response: Response| {
        let web_page = request.headers().contains_key(header::ORIGIN).then_some(StatusCode::FORBIDDEN.as_u16());
        if let Some(status) = web_page.or(status) {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return Err(refusal);
        }
        choose(request, &mut response);
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(limits())).await.ok()
}

/// The answer to a request to upgrade, and the socket that is there once it has left; or the status that refuses it.
pub fn upgrade(
    mut request: hyper::Request<Incoming>,
) -> Result<(Response, impl Future<Output = Option<Upgraded>>), StatusCode> {
    let mut asked = Request::new(());
    *asked.method_mut() = request.method().clone();
    *asked.version_mut() = request.version();
    asked.headers_mut().clone_from(request.headers());
    let mut response = create_response(&asked).map_err(|_| StatusCode::BAD_REQUEST)?;
    choose(&asked, &mut response);
    let upgraded = hyper::upgrade::on(&mut request);
    let socket = async {
        let socket = TokioIo::new(upgraded.await.ok()?);
        Some(WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits())).await)
    };
    Ok((response, socket))
}

/// The first subprotocol that is offered is taken.
fn choose(request: &Request, response: &mut Response) {
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let first = offered.and_then(|list| list.split(',').next()).map(str::trim);
    if let Some(first) = first.and_then(|first| HeaderValue::from_str(first).ok()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, first);
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE))
}
