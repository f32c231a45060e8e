//! The demo's upstream on a port: the plain dialect over WebSocket at `/stream`, mischief at `POST /demo/{…}`.
//!
//! It runs on a thread of its own, as if it were another machine. It listens on loopback and takes no request from a
//! browser's page (whatever carries `Origin` is refused).

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Duration, MissedTickBehavior, interval, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::stage::{Mischief, Stage};

/// How long a turn of the world lasts.
const TURN: Duration = Duration::from_millis(200);
const MAX_MESSAGE: usize = 1 << 20;
const BUFFER: usize = 16 * 1024;

/// The running service.
pub struct DemoUpstream {
    /// Where it listens.
    pub address: SocketAddr,
    keys: mpsc::UnboundedSender<Mischief>,
}

impl DemoUpstream {
    /// Starts the service on a bound socket.
    pub fn start(listener: TcpListener, seed: u64) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (keys, pressed) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("demo-upstream".to_owned()).spawn(move || {
            let stage = Stage::new(seed);
            LocalSet::new().block_on(&runtime, serve(listener, stage, pressed));
        })?;
        Ok(DemoUpstream { address, keys })
    }

    /// Makes mischief, as if asked over HTTP; what happened is printed.
    pub fn press(&self, mischief: Mischief) {
        // The service lives as long as the process.
        let _ = self.keys.send(mischief);
    }
}

async fn serve(listener: TcpListener, stage: Stage, mut pressed: mpsc::UnboundedReceiver<Mischief>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = turns.tick() => stage.turn(),
            Some(mischief) = pressed.recv() => {
                let said = stage.mischief(mischief);
                tracing::info!(target: "tidegate::demo", "upstream: {said}");
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    spawn_local(http(stream, stage.clone()));
                }
                // No descriptors left, most likely: the next turn tries again.
                Err(_) => tokio::time::sleep(TURN).await,
            },
        }
    }
}

async fn http(stream: tokio::net::TcpStream, stage: Stage) {
    let service = service_fn(move |request| answer(request, stage.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that goes away is no fault of the demo.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, stage: Stage) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let response = match (request.method(), path.as_str()) {
        _ if request.headers().contains_key(header::ORIGIN) => text(StatusCode::FORBIDDEN, "not for web pages\n"),
        (&Method::GET, "/stream") => upgrade(request, stage).await,
        (&Method::GET, "/") => text(StatusCode::OK, &help()),
        (method, path) => match path.strip_prefix("/demo/").and_then(Mischief::by_name) {
            Some(mischief) if method == Method::POST => text(StatusCode::OK, &(stage.mischief(mischief) + "\n")),
            Some(_) => text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
            None => text(StatusCode::NOT_FOUND, &help()),
        },
    };
    Ok(response)
}

fn help() -> String {
    let mut help = "The demo's upstream. WebSocket: /stream\n".to_owned();
    for (_, name, _, effect) in Mischief::ALL {
        help += &format!("POST /demo/{name:8} {effect}\n");
    }
    help
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn upgrade(mut request: Request<Incoming>, stage: Stage) -> Response<Full<Bytes>> {
    hold_silence(&stage).await;
    if stage.denies() {
        return text(StatusCode::UNAUTHORIZED, "the demo lets nobody in; POST /demo/deny again\n");
    }
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n");
    };
    let accept = derive_accept_key(key.as_bytes());
    let Ok(accept) = HeaderValue::try_from(accept) else { return text(StatusCode::BAD_REQUEST, "bad key\n") };
    let upgraded = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        if let Ok(upgraded) = upgraded.await {
            converse(upgraded, stage).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn hold_silence(stage: &Stage) {
    while let Some(until) = stage.silent_until() {
        sleep_until(until).await;
    }
}

/// One connection, until it ends or is cut. A cut sends no close frame.
async fn converse(upgraded: Upgraded, stage: Stage) {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (number, mut outgoing) = stage.join();
    loop {
        hold_silence(&stage).await;
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(text) => {
                    let mut sent = socket.feed(Message::text(text)).await;
                    // What else waits goes out in the same write.
                    while let Ok(text) = outgoing.try_recv()
                        && sent.is_ok()
                    {
                        sent = socket.feed(Message::text(text)).await;
                    }
                    if sent.is_err() || socket.flush().await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => stage.hear(number, text.as_str()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    stage.leave(number);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use serde_json::{Value, json};
    use tokio::net::TcpStream;
    use tokio_tungstenite::tungstenite::Error;

    use super::*;

    fn start() -> DemoUpstream {
        DemoUpstream::start(TcpListener::bind("127.0.0.1:0").unwrap(), 1).unwrap()
    }

    type Client = WebSocketStream<TcpStream>;

    async fn connect(address: SocketAddr) -> Result<Client, Error> {
        let stream = TcpStream::connect(address).await.unwrap();
        Ok(tokio_tungstenite::client_async(format!("ws://{address}/stream"), stream).await?.0)
    }

    async fn say(client: &mut Client, message: Value) {
        client.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message that is about `channel` and of this type.
    async fn hear(client: &mut Client, kind: &str) -> Value {
        loop {
            let message = client.next().await.unwrap().unwrap();
            let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if message["type"] == kind {
                return message;
            }
        }
    }

    fn post(address: SocketAddr, path: &str, headers: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[tokio::test]
    async fn a_subscriber_gets_the_state_and_then_events() {
        let upstream = start();
        let mut client = connect(upstream.address).await.unwrap();
        say(&mut client, json!({"type": "subscribe", "id": 1, "channel": "price:BTC-USD"})).await;
        assert_eq!(hear(&mut client, "subscribed").await["id"], 1);
        let snapshot = hear(&mut client, "snapshot").await;
        let event = hear(&mut client, "event").await;
        assert_eq!(event["seq"].as_u64().unwrap(), snapshot["seq"].as_u64().unwrap() + 1);
        say(&mut client, json!({"type": "subscribe", "id": 2, "channel": "price:NOPE"})).await;
        let error = hear(&mut client, "error").await;
        assert_eq!((&error["id"], &error["code"]), (&json!(2), &json!("unknown_channel")));
        say(&mut client, json!({"type": "ping", "id": 3})).await;
        assert_eq!(hear(&mut client, "pong").await["id"], 3);
        client.send(Message::text("{")).await.unwrap();
        assert_eq!(hear(&mut client, "error").await["code"], "invalid");
    }

    #[tokio::test]
    async fn orders_are_acknowledged_and_sometimes_rejected() {
        let upstream = start();
        let mut client = connect(upstream.address).await.unwrap();
        let mut answers = Vec::new();
        for id in 0..4 {
            say(&mut client, json!({"type": "publish", "id": id, "channel": "orders", "data": {"n": id}})).await;
        }
        while answers.len() < 4 {
            let message = client.next().await.unwrap().unwrap();
            let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            answers.push((message["id"].as_u64().unwrap(), message["type"].as_str().unwrap().to_owned()));
        }
        answers.sort();
        let kinds: Vec<&str> = answers.iter().map(|(_, kind)| kind.as_str()).collect();
        assert_eq!(kinds, ["published", "published", "published", "error"]);
        assert!(post(upstream.address, "/demo/reject", "").ends_with("rejecting every order\n"));
        say(&mut client, json!({"type": "publish", "id": 9, "channel": "orders", "data": {}})).await;
        assert_eq!(hear(&mut client, "error").await["code"], "insufficient_funds");
    }

    #[tokio::test]
    async fn mischief_does_what_it_says() {
        let upstream = start();
        let mut client = connect(upstream.address).await.unwrap();
        for channel in ["price:BTC-USD", "price:ETH-USD", "price:SOL-USD", "price:EUR-USD"] {
            say(&mut client, json!({"type": "subscribe", "id": 1, "channel": channel})).await;
            hear(&mut client, "subscribed").await;
        }
        assert!(post(upstream.address, "/demo/burst", "").contains("5000 events"));
        for _ in 0..5_000 {
            hear(&mut client, "event").await;
        }
        assert!(post(upstream.address, "/demo/drop", "").ends_with("cut 1 connection(s)\n"));
        loop {
            match client.next().await {
                Some(Ok(Message::Text(_))) => {}
                Some(Err(Error::Protocol(_) | Error::Io(_))) => break,
                other => panic!("cut without a close frame, not {other:?}"),
            }
        }
        post(upstream.address, "/demo/deny", "");
        match connect(upstream.address).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 401),
            other => panic!("{other:?}"),
        }
        post(upstream.address, "/demo/deny", "");
        assert!(connect(upstream.address).await.is_ok());
    }

    #[tokio::test]
    async fn web_pages_and_wrong_requests_are_refused() {
        let address = start().address;
        assert!(post(address, "/demo/drop", "Origin: http://evil.example\r\n").starts_with("HTTP/1.1 403"));
        assert!(post(address, "/demo/nothing", "").starts_with("HTTP/1.1 404"));
        assert!(post(address, "/stream", "").starts_with("HTTP/1.1 404"));
        let help = help();
        assert!(Mischief::ALL.iter().all(|(_, name, ..)| help.contains(&format!("POST /demo/{name}"))));
    }
}
