//! The feed listener over real sockets, the relay scripted.

use super::*;
use crate::config::{AccessMode, Config, TokenGrant};
use crate::downstream::rig::{HELLO, LARGE, Rig, ask, listener, read_all, run, status};
use crate::downstream::websocket::tests::client_frame;
use crate::protocol::request::Request as Asked;
use crate::relay::pairs::{Input, LeftReason};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const JSON: &str = "Content-Type: application/json";

fn start(config: Config) -> (Rig, SocketAddr, Seats) {
    let rig = Rig::new(config);
    let (listener, address) = listener();
    let seats = Seats::default();
    tokio::spawn(serve(listener, Arc::new(feed(&rig, seats.clone())), rig.stop.subscribe()));
    (rig, address, seats)
}

fn feed(rig: &Rig, seats: Seats) -> Feed {
    Feed { policy: rig.policy.clone(), outside: rig.outside.clone(), seats, counts: Arc::default() }
}

fn tokens() -> Config {
    let mut config = Config::default();
    config.access.mode = AccessMode::Tokens;
    config.access.tokens = vec![TokenGrant {
        name: "app".to_owned(),
        token: Secret::new("s3cret"),
        read: vec!["*".to_owned()],
        write: Vec::new(),
    }];
    config
}

async fn upgrade(address: SocketAddr, path: &str, headers: &str, behind: &[u8]) -> TcpStream {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}{headers}\r\n").into_bytes();
    request.extend_from_slice(behind);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&request).await.unwrap();
    client
}

async fn read_head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn expect(client: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes));
}

fn hello_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    crate::protocol::frame::push_websocket_text(&mut frame, HELLO.as_bytes());
    frame
}

#[test]
fn a_websocket_leaves_hyper_with_every_byte_that_followed_its_request() {
    run(async {
        let (mut rig, address, seats) = start(Config::default());
        let behind = client_frame(0x81, br#"{"op":"ping","ref":8}"#);
        let path = "/v1/ws?channel=ticker:BTC-USD&channel=status";
        let mut client = upgrade(address, path, "Sec-WebSocket-Protocol: tidegate.v1\r\n", &behind).await;
        let head = read_head(&mut client).await;
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") && head.contains("tidegate.v1"), "{head}");
        expect(&mut client, &hello_frame()).await;
        let Some(Input::Joined { format, subscribe, principal, .. }) = rig.inputs.recv().await else { panic!() };
        assert_eq!((format, &*principal.name), (Format::WebSocket, "local"));
        assert_eq!(subscribe.unwrap().channels.len(), 2);
        let mut next = rig.inputs.recv().await;
        if matches!(next, Some(Input::Delivered { .. })) {
            next = rig.inputs.recv().await;
        }
        assert!(matches!(next, Some(Input::Request { request: Ok(Asked::Ping { .. }), .. })), "{next:?}");
        assert_eq!(seats.taken(), 1);
        drop(client);
        loop {
            match rig.inputs.recv().await {
                Some(Input::Left { reason, .. }) => break assert_eq!(reason, LeftReason::Client),
                other => assert!(matches!(other, Some(Input::Delivered { .. })), "{other:?}"),
            }
        }
        while seats.taken() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn an_earlier_answer_on_the_same_connection_goes_first() {
    run(async {
        let (_rig, address, _) = start(Config::default());
        let mut client = TcpStream::connect(address).await.unwrap();
        let both = format!(
            "GET /v1/status HTTP/1.1\r\nHost: {address}\r\n\r\nGET /v1/ws HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n"
        );
        client.write_all(both.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
        expect(&mut client, b"{}").await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101"));
        expect(&mut client, &hello_frame()).await;
    });
}

/// Asks for a large snapshot and, behind it on the same connection, for a session; reads nothing.
async fn ask_and_upgrade(address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    let host = format!("HTTP/1.1\r\nHost: {address}\r\n");
    let both = format!("GET /v1/snapshot?channel=a {host}\r\nGET /v1/ws {host}{UPGRADE}\r\n");
    client.write_all(both.as_bytes()).await.unwrap();
    client
}

#[test]
fn a_large_answer_goes_out_whole_before_a_session_takes_over() {
    run(async {
        let (mut rig, address, _) = start(Config::default());
        let mut client = ask_and_upgrade(address).await;
        assert!(matches!(rig.calls.recv().await, Some(CallRequest::Snapshot(_))));
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
        let mut body = vec![0; LARGE];
        client.read_exact(&mut body).await.unwrap();
        assert!(body.iter().all(|byte| *byte == b'x'));
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101"));
        expect(&mut client, &hello_frame()).await;
        assert!(matches!(rig.inputs.recv().await, Some(Input::Joined { .. })));
    });
}

#[test]
fn a_client_that_does_not_read_its_answer_is_let_go() {
    run(async {
        let mut config = Config::default();
        config.feed.write_timeout = Duration::from_millis(50);
        let (mut rig, address, _) = start(config);
        let client = ask_and_upgrade(address).await;
        // Data waits to be read all the time; what is waited for is the end behind it.
        while !client.ready(tokio::io::Interest::READABLE).await.unwrap().is_read_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(rig.inputs.try_recv().is_err(), "no session came of it");
    });
}

#[test]
fn an_event_stream_reads_with_any_http_client() {
    run(async {
        let (mut rig, address, _) = start(Config::default());
        let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/v1/sse?channel=a&since=k3f9q2-1")
            .header("host", address.to_string())
            .header("last-event-id", "k3f9q2-7")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let Some(Input::Joined { session, format, subscribe, .. }) = rig.inputs.recv().await else { panic!() };
        assert_eq!(format, Format::Sse);
        assert_eq!(subscribe.unwrap().since.as_deref(), Some("k3f9q2-7"));
        rig.close.send(session).unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.starts_with("retry: "), "{text}");
        assert!(text.ends_with(&format!("event: hello\ndata: {HELLO}\n\n")), "{text}");
    });
}

#[test]
fn a_publish_becomes_a_call() {
    run(async {
        let (mut rig, address, _) = start(Config::default());
        let body = r#"{"channel":"orders","data":{"p": 1.10}}"#;
        let headers = [JSON, "Idempotency-Key: o-17", "Prefer: respond-async", "Prefer: handling=strict, Wait=\"5\""];
        let answer = ask(address, "POST /v1/publish", &headers, body).await;
        assert_eq!(status(&answer), 202);
        assert!(answer.contains("location: /v1/messages/01J\r\n"), "{answer}");
        let Some(CallRequest::Publish { messages, atomic, wait }) = rig.calls.recv().await else { panic!() };
        assert_eq!((&*messages[0].data, atomic, wait), (r#"{"p": 1.10}"#, false, Duration::from_secs(5)));
        assert_eq!(messages[0].idempotency_key.as_deref(), Some("o-17"));
        for (line, call) in [
            ("GET /v1/messages/01J", CallRequest::Message("01J".into())),
            ("DELETE /v1/messages/01J", CallRequest::Cancel("01J".into())),
            ("GET /v1/status", CallRequest::Status),
        ] {
            ask(address, line, &[], "").await;
            assert_eq!(rig.calls.recv().await, Some(call), "{line}");
        }
        ask(address, "GET /v1/snapshot?channel=a", &[], "").await;
        assert!(matches!(rig.calls.recv().await, Some(CallRequest::Snapshot(channel)) if &*channel.name == "a"));
    });
}

#[test]
fn paths_and_methods_are_those_of_the_document() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        let route = Route::of(path.strip_suffix("{id}").map_or(path.as_str(), |_| "/v1/messages/01J"));
        let methods = route.methods().split(", ").filter(|method| !["HEAD", "OPTIONS"].contains(method));
        let said: Vec<&str> = methods.filter(|method| item.get(method.to_ascii_lowercase()).is_none()).collect();
        assert!(said.is_empty() && !matches!(route, Route::Unknown | Route::NotSupported), "{path}: {said:?}");
        let known = |name: &String| name == "parameters" || route.methods().contains(&name.to_ascii_uppercase());
        assert!(item.as_object().unwrap().keys().all(known), "{path}");
    }
    let refusal = unknown().message;
    let all: Vec<&str> = refusal.split_once(" at ").unwrap().1.split(", ").collect();
    assert!(all.iter().all(|path| paths.contains_key(*path)) && all.len() == paths.len(), "{refusal}");
}

#[test]
fn wrong_requests_get_problem_details() {
    run(async {
        let (mut rig, address, _) = start(Config::default());
        let chunked = "Transfer-Encoding: chunked";
        for (line, headers, body, wanted, word) in [
            ("GET /", &[][..], "", 404, "/v1/ws"),
            ("GET /v1/messages/a/b", &[], "", 404, ""),
            ("POST /v1/ws", &[], "", 405, "GET"),
            ("DELETE /v1/publish", &[], "", 405, "POST"),
            ("GET /v1/poll?channel=a", &[], "", 422, "/v1/poll"),
            ("POST /v1/tickets", &[JSON], "{}", 422, "tickets"),
            ("GET /v1/ws", &[], "", 426, "WebSocket"),
            ("GET /v1/sse", &[], "", 400, "channel"),
            ("GET /v1/sse?chanel=a", &[], "", 400, "chanel"),
            ("GET /v1/sse?channel=a&token=x", &[], "", 400, "access.allow_query_token"),
            ("GET /v1/sse?channel=a&format=cloudevents", &[], "", 422, "format"),
            ("GET /v1/snapshot", &[], "", 400, "channel"),
            ("GET /v1/status?channel=a", &[], "", 400, "channel"),
            ("POST /v1/publish", &[], "{}", 415, "application/json"),
            ("POST /v1/publish", &["Content-Type: text/plain"], "{}", 415, "application/json"),
            ("POST /v1/publish", &[JSON], "nonsense", 400, "not a request"),
            ("POST /v1/publish", &[JSON], r#"{"channel":"a","data":1,"optimistic":{}}"#, 400, "optimistic"),
            ("POST /v1/publish", &[JSON, "Prefer: wait=soon"], r#"{"channel":"a","data":1}"#, 400, "Prefer"),
            ("POST /v1/publish", &[JSON, "Prefer: wait"], r#"{"channel":"a","data":1}"#, 400, "Prefer"),
            ("GET /v1/messages/01J", &[], "", 404, "no such message"),
            ("GET http://other.example/v1/status", &[], "", 400, "differ"),
            ("GET /v1/status", &["Host: 127.0.0.1.evil.example"], "", 403, "access.hosts"),
            ("GET /v1/status", &["Origin: null"], "", 403, "access.origins"),
            ("GET /v1/sse?channel=a", &["Sec-Fetch-Site: cross-site"], "", 403, "access.origins"),
            ("GET /v1/sse?channel=a", &[chunked], "0\r\n\r\n", 400, ""),
        ] {
            let answer = ask(address, line, headers, body).await;
            assert_eq!(status(&answer), wanted, "{line} {headers:?}: {answer}");
            assert!(answer.contains(word), "{line}: {answer}");
            assert!(!answer.contains("access-control-allow-origin"), "{answer}");
            if !word.is_empty() {
                assert!(answer.contains("application/problem+json") && answer.contains("\"retryable\":"), "{answer}");
            }
        }
        assert!(rig.inputs.try_recv().is_err(), "none became a session");
        while let Ok(call) = rig.calls.try_recv() {
            assert!(matches!(call, CallRequest::Message(_)), "{call:?}");
        }
    });
}

#[test]
fn pages_of_allowed_origins_and_only_these_may_read() {
    run(async {
        let mut config = Config::default();
        config.access.origins = vec!["https://app.example.com".to_owned()];
        let (_rig, address, _) = start(config);
        let own = format!("Origin: http://{address}");
        for origin in ["Origin: https://app.example.com", &own] {
            let answer = ask(address, "GET /v1/status", &[origin], "").await.to_ascii_lowercase();
            let echoed = origin.replace("Origin: ", "access-control-allow-origin: ");
            assert!(answer.contains(&echoed) && answer.contains("vary: origin"), "{answer}");
            let answer =
                ask(address, "OPTIONS /v1/publish", &[origin, "Access-Control-Request-Method: POST"], "").await;
            assert_eq!(status(&answer), 204);
            for wanted in [
                echoed.as_str(),
                "access-control-allow-methods: POST, OPTIONS",
                "access-control-allow-headers: content-type, authorization, idempotency-key, last-event-id",
            ] {
                assert!(answer.contains(wanted), "{wanted}: {answer}");
            }
            assert!(!answer.contains("credentials"), "{answer}");
        }
        let answer = ask(address, "OPTIONS /v1/publish", &["Origin: https://evil.example"], "").await;
        assert_eq!(status(&answer), 403);
        assert!(!answer.contains("access-control"), "{answer}");
    });
}

#[test]
fn tokens_are_taken_from_their_three_places() {
    run(async {
        let (mut rig, address, _) = start(tokens());
        let refused = ask(address, "GET /v1/status", &[], "").await;
        assert_eq!(status(&refused), 401);
        assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
        assert_eq!(status(&ask(address, "GET /v1/sse?channel=a", &[], "").await), 401);
        assert_eq!(status(&ask(address, "GET /v1/status", &["Authorization: Bearer wrong"], "").await), 401);
        assert_eq!(status(&ask(address, "GET /v1/status", &["Authorization: Bearer s3cret"], "").await), 200);
        for (headers, name) in [
            ("Authorization: Bearer s3cret\r\n", "app"),
            ("Sec-WebSocket-Protocol: tidegate.v1, bearer.czNjcmV0\r\n", "app"),
            ("", ""),
        ] {
            let mut client = upgrade(address, "/v1/ws", headers, b"").await;
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 101") && !head.contains("bearer"), "{head}");
            let joined = loop {
                if let Some(Input::Joined { principal, .. }) = rig.inputs.recv().await {
                    break principal;
                }
            };
            assert_eq!((&*joined.name, joined.is_authenticated()), (name, !name.is_empty()));
        }
        let mut client = upgrade(address, "/v1/ws", "Authorization: Bearer wrong\r\n", b"").await;
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 401"));
    });
}

#[test]
fn a_token_in_the_address_counts_only_where_that_is_allowed() {
    run(async {
        let mut config = tokens();
        config.access.allow_query_token = true;
        let (_rig, address, _) = start(config);
        assert_eq!(status(&ask(address, "GET /v1/status?token=s3cret", &[], "").await), 200);
        assert_eq!(status(&ask(address, "GET /v1/status?token=wrong", &[], "").await), 401);
    });
}

#[test]
fn sessions_above_the_limit_are_sent_away_before_they_begin() {
    run(async {
        let mut config = Config::default();
        config.feed.max_sessions = 1;
        let (_rig, address, seats) = start(config);
        let mut first = upgrade(address, "/v1/ws", "", b"").await;
        assert!(read_head(&mut first).await.starts_with("HTTP/1.1 101"));
        let answer = ask(address, "GET /v1/sse?channel=a", &[], "").await;
        assert_eq!(status(&answer), 503);
        assert!(answer.contains("retry-after: 5") && answer.contains("feed.max_sessions"), "{answer}");
        drop(first);
        while seats.taken() > 0 {
            tokio::task::yield_now().await;
        }
        let mut second = upgrade(address, "/v1/ws", "", b"").await;
        assert!(read_head(&mut second).await.starts_with("HTTP/1.1 101"));
    });
}

#[test]
fn clients_that_drip_or_speak_something_else_are_let_go() {
    run(async {
        let mut config = Config::default();
        config.feed.header_timeout = Duration::from_millis(60);
        let (_rig, address, _) = start(config);
        let (mut client, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
        let dripping = tokio::spawn(async move {
            while writer.write_all(b"GET /v1/status HTTP/1.1 \r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if writer.write_all(b"X: y\r\n").await.is_err() {
                    break;
                }
            }
        });
        let mut answer = Vec::new();
        // Reset or ended: in any case over, though bytes kept coming.
        let _ = client.read_to_end(&mut answer).await;
        dripping.abort();
        let foreign: [&[u8]; 3] =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""];
        for bytes in foreign {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(bytes).await.unwrap();
            let answer = read_all(&mut client).await;
            assert!([0, 400, 505].contains(&status(&answer)), "{answer}");
        }
    });
}

#[test]
fn bombs_and_smugglers_are_refused() {
    run(async {
        let (mut rig, address, _) = start(Config::default());
        let long = "x".repeat(65_000);
        let header = format!("X-Long: {long}");
        let many: Vec<String> = (0..200).map(|n| format!("X-{n}: y")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let both = ["Transfer-Encoding: chunked", "Content-Length: 3", JSON];
        for (answer, wanted) in [
            (ask(address, &format!("GET /v1/status?x={long}"), &[], "").await, &[414, 431][..]),
            (ask(address, "GET /v1/status", &[&header], "").await, &[431]),
            (ask(address, "GET /v1/status", &many, "").await, &[431]),
            (ask(address, "GET /v1/status", &["Content-Length: 1", "Content-Length: 2"], "").await, &[400]),
            (ask(address, "POST /v1/publish", &both, "0\r\n\r\n").await, &[400]),
            (ask(address, "GET /v1/status", &["Host: 127.0.0.1", "Host: evil.example"], "").await, &[400]),
        ] {
            assert!(wanted.contains(&status(&answer)), "{wanted:?}: {answer}");
        }
        assert!(rig.calls.try_recv().is_err());
    });
}

#[test]
fn a_body_above_the_limit_is_answered_though_nobody_read_it() {
    run(async {
        let mut config = Config::default();
        config.feed.request_max = 1024;
        let (_rig, address, _) = start(config);
        let large = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(200_000));
        let answer = ask(address, "POST /v1/publish", &[JSON], &large).await;
        assert_eq!(status(&answer), 413, "{answer}");
        let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
        let mut client = TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST /v1/publish HTTP/1.1\r\nHost: {address}\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.write_all((head + &chunks).as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 413"));
    });
}

#[test]
fn a_stopped_listener_takes_no_more() {
    run(async {
        let rig = Rig::new(Config::default());
        let (listener, address) = listener();
        let feed = Arc::new(feed(&rig, Seats::default()));
        let served = tokio::spawn(serve(listener, feed.clone(), rig.stop.subscribe()));
        assert_eq!(status(&ask(address, "GET /", &[], "").await), 404);
        assert_eq!((feed.counts.refused(ErrorCode::NotFound), feed.counts.refused(ErrorCode::Forbidden)), (1, 0));
        assert_eq!(status(&ask(address, "GET /v1/status", &[], "").await), 200);
        rig.stop.send(true).unwrap();
        served.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    });
}
