//! Polls with a WebSocket beside them: which frames go where, what is left when the WebSocket ends, and the last word.

use super::*;
use crate::dialect::{Ask, Method, RequestId};

const PATIENCE: Duration = Duration::from_secs(20);

fn ask(of: AskFor, address: SocketAddr, body: &'static [u8]) -> Ask {
    let method = if of == AskFor::Poll { Method::Get } else { Method::Post };
    let (url, body) = (format!("http://{address}/polled"), Bytes::from_static(body));
    Ask { of, method, url, headers: Vec::new(), body, timeout: PATIENCE, repeats: false }
}

/// Answers one request with these bytes; its head.
async fn answer(stream: &mut TcpStream, body: &str) -> String {
    let head = read_head(stream).await;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    head
}

#[tokio::test]
async fn frames_go_beside_the_polls_which_outlive_them() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut upstream, inputs) = Upstream::new(&config(&format!("http://{address}/")));
        upstream.connect(
            ATTEMPT,
            ConnectRequest { transport: Transport::LongPoll, ..request(format!("http://{address}/")) },
        );
        let mut client = Client { upstream, inputs };
        let (mut polls, _) = listener.accept().await.unwrap();
        client.connected().await;

        // One that is refused, and one that opens, while a poll is out.
        client.upstream.transmit(ATTEMPT, vec![WireFrame::Ask(Box::new(ask(AskFor::Poll, address, b"")))]);
        assert!(matches!(client.next().await, Input::Transmitted { .. }));
        read_head(&mut polls).await;
        client.upstream.upgrade(ATTEMPT, request(format!("ws://{address}/")));
        let (mut refused, _) = listener.accept().await.unwrap();
        answer(&mut refused, "").await;
        assert!(matches!(
            client.next().await,
            Input::NotUpgraded { reason: Disconnect::BadStatus { status: 200, .. }, .. }
        ));
        client.upstream.upgrade(ATTEMPT, request(format!("ws://{address}/")));
        let (mut wire, _) = listener.accept().await.unwrap();
        accept(&mut wire).await;
        assert!(matches!(client.next().await, Input::Upgraded { .. }));
        client.upstream.transmit(ATTEMPT, vec![WireFrame::Text(Bytes::from_static(b"2probe"))]);
        assert_eq!(read_frame(&mut wire).await, (1, b"2probe".to_vec()));
        assert!(matches!(client.next().await, Input::Transmitted { .. }));
        wire.write_all(&short(0x81, b"3probe")).await.unwrap();
        assert_eq!(client.frames(1).await, [WireFrame::Text(Bytes::from_static(b"3probe"))]);
        polls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n6").await.unwrap();
        assert_eq!(client.frames(1).await[0].body(), "6");

        // It is let go of, and polling goes on; so it does when upstream cuts it.
        for cut in [false, true] {
            if cut {
                client.upstream.upgrade(ATTEMPT, request(format!("ws://{address}/")));
                (wire, _) = listener.accept().await.unwrap();
                accept(&mut wire).await;
                assert!(matches!(client.next().await, Input::Upgraded { .. }));
                drop(wire);
                assert!(matches!(client.next().await, Input::NotUpgraded { reason: Disconnect::Reset(_), .. }));
                break;
            }
            client.upstream.keep_polling(ATTEMPT);
            assert_eq!(read_frame(&mut wire).await.0, 8, "a close");
            wire.write_all(&short(0x88, &[])).await.unwrap();
            assert!(matches!(client.next().await, Input::NotUpgraded { reason: Disconnect::Asked, .. }));
            client.upstream.transmit(ATTEMPT, vec![WireFrame::Ask(Box::new(ask(AskFor::Poll, address, b"")))]);
            answer(&mut polls, "6").await;
            assert!(matches!(client.next().await, Input::Transmitted { .. }));
            assert_eq!(client.frames(1).await[0].body(), "6");
        }

        // What was asked before the end, and the last word, are carried.
        let post = |body| ask(AskFor::Request(RequestId(1)), address, body);
        client.upstream.transmit(ATTEMPT, vec![WireFrame::Ask(Box::new(post(b"4")))]);
        client.upstream.disconnect(ATTEMPT, 1000, Some(Box::new(post(b"1"))));
        let (mut posts, _) = listener.accept().await.unwrap();
        for body in [b"4", b"1"] {
            let head = answer(&mut posts, "ok").await;
            assert!(head.starts_with("POST"), "{head}");
            assert_eq!(posts.read_u8().await.unwrap(), body[0]);
        }
        assert_eq!(client.end().await.1, Disconnect::Asked);
    })
    .await;
}
