//! Event streams and polls with scripted servers: what is asked, what comes, and every way in which one fails.

use super::*;
use crate::dialect::{Answer, Method, StreamEvent};

fn asked(transport: Transport, url: String) -> ConnectRequest {
    ConnectRequest { transport, subprotocols: Vec::new(), ..request(url) }
}

fn connect(transport: Transport, address: SocketAddr) -> Client {
    let config = config(&format!("http://{address}/feed?x=1"));
    let (mut upstream, inputs) = Upstream::new(&config);
    upstream.connect(ATTEMPT, asked(transport, config.url.clone()));
    Client { upstream, inputs }
}

fn event(id: Option<&str>, data: &'static str) -> WireFrame {
    let data = Some(Bytes::from_static(data.as_bytes()));
    WireFrame::Event(Box::new(StreamEvent { id: id.map(Into::into), data, ..StreamEvent::default() }))
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Plays a script to a stream and tells how it ended.
async fn streamed<F, S>(script: S) -> (Vec<WireFrame>, Disconnect)
where
    S: FnOnce(TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    run(async {
        let (address, play) = serve(script).await;
        let ending = connect(Transport::Sse, address).end().await;
        play.await.expect("the script plays to its end");
        ending
    })
    .await
}

/// A stream that says this, in whatever pieces, and then ends or is cut.
async fn saying(pieces: Vec<String>) -> (Vec<WireFrame>, Disconnect) {
    streamed(move |mut stream| async move {
        read_head(&mut stream).await;
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn events_come_in_order_and_the_end_after_them() {
    let (frames, reason) = streamed(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("GET /feed?x=1 HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "accept"), Some("text/event-stream"));
        assert_eq!(header(&head, "cache-control"), Some("no-store"));
        assert_eq!(header(&head, "x-test"), Some("yes"));
        let said = chunk("id: 1\ndata: {\"a\":1}\n\n")
            + &chunk("data: 2\ndata: 3\n\n")
            + &chunk("data: never\n")
            + "0\r\n\r\n";
        stream.write_all((STREAM.to_owned() + &said).as_bytes()).await.unwrap();
        linger(stream).await;
    })
    .await;
    let frames: Vec<_> = frames.into_iter().filter(|frame| *frame != WireFrame::Life).collect();
    assert_eq!(frames, [event(Some("1"), "{\"a\":1}"), event(Some("1"), "2\n3")]);
    assert_eq!(reason, Disconnect::Ended);
}

#[tokio::test]
async fn a_stream_may_drip_and_every_byte_is_life() {
    let text = STREAM.to_owned() + &chunk(": hello\n\ndata: x\n\n");
    let (frames, reason) = saying(text.chars().map(String::from).collect()).await;
    assert_eq!(frames.iter().filter(|frame| **frame != WireFrame::Life).count(), 1);
    assert_eq!(frames.last(), Some(&event(None, "x")));
    assert!(matches!(reason, Disconnect::Reset(_)), "cut in the middle of a chunked body: {reason:?}");
    let (frames, _) = saying(vec![STREAM.to_owned() + &chunk(": a comment\n")]).await;
    assert_eq!(frames, [WireFrame::Life]);
}

#[tokio::test]
async fn a_line_without_end_is_told_and_its_id_is_remembered() {
    let line = chunk("id: 9\ndata: ") + &chunk(&"x".repeat(MAX_FRAME / 2)).repeat(3);
    let (frames, reason) = saying(vec![STREAM.to_owned() + &chunk("data: good\n\n"), line]).await;
    assert_eq!(reason, Disconnect::Oversize);
    let frames: Vec<_> = frames.into_iter().filter(|frame| *frame != WireFrame::Life).collect();
    let id = StreamEvent { id: Some("9".into()), ..StreamEvent::default() };
    assert_eq!(frames, [event(None, "good"), WireFrame::Event(Box::new(id))]);
}

#[tokio::test]
async fn what_is_no_event_stream_is_refused() {
    let answered = |head: &'static str| async move {
        let (frames, reason) = streamed(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            linger(stream).await;
        })
        .await;
        assert!(frames.is_empty());
        reason
    };
    let page = answered("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(page, Disconnect::BadUpgrade("content type \"text/html\" is no event stream".to_owned()));
    let zipped = answered(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
    );
    assert!(matches!(zipped.await, Disconnect::BadUpgrade(why) if why.contains("gzip")));
    let nothing = answered("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(nothing, Disconnect::BadStatus { status: 204, retry_after: None, detail: String::new() });
    let moved = answered("HTTP/1.1 307 Moved\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(moved, Disconnect::BadStatus { status: 307, detail, .. } if detail.contains("http://elsewhere/")));
    let busy = answered("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nwait").await;
    let seven = Some(Duration::from_secs(7));
    assert_eq!(busy, Disconnect::BadStatus { status: 503, retry_after: seven, detail: "wait".to_owned() });
    let other = answered("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    assert!(matches!(other, Disconnect::BadUpgrade(_)), "{other:?}");
}

#[tokio::test]
async fn a_stream_that_never_begins_meets_the_deadline() {
    run(async {
        let (address, _play) = serve(|mut stream| async move {
            read_head(&mut stream).await;
            // One byte at a time: each read is quick, the whole is not.
            for byte in STREAM.bytes().cycle() {
                if stream.write_u8(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let quick = UpstreamConfig { handshake_timeout: Duration::from_millis(200), ..config("http://x") };
        let (mut upstream, inputs) = Upstream::new(&quick);
        upstream.connect(ATTEMPT, asked(Transport::Sse, format!("http://{address}/")));
        let (_, reason) = Client { upstream, inputs }.end().await;
        assert_eq!(reason, Disconnect::HandshakeTimeout);
    })
    .await;
}

#[tokio::test]
async fn reads_wait_for_the_driver() {
    run(async {
        let (done, told) = tokio::sync::oneshot::channel();
        let (address, _play) = serve(|mut stream| async move {
            read_head(&mut stream).await;
            let event = chunk(&format!("data: {}\n\n", "x".repeat(1000)));
            stream.write_all(STREAM.as_bytes()).await.unwrap();
            // Far more than any buffer on the way holds.
            for _ in 0..40_000 {
                stream.write_all(event.as_bytes()).await.unwrap();
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
            done.send(()).unwrap();
            linger(stream).await;
        })
        .await;
        let mut client = connect(Transport::Sse, address);
        client.connected().await;
        tokio::pin!(told);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut told).await;
        assert!(early.is_err(), "nobody takes anything, so upstream has to wait");
        let (frames, reason) = client.end().await;
        let events = frames.iter().filter(|frame| **frame != WireFrame::Life).count();
        assert_eq!((events, reason), (40_000, Disconnect::Ended));
    })
    .await;
}

fn ask(of: AskFor, address: SocketAddr, timeout: Duration) -> WireFrame {
    let (method, body) = match of {
        AskFor::Poll => (Method::Get, Bytes::new()),
        AskFor::Request(_) => (Method::Post, Bytes::from_static(b"{\"a\":1}")),
    };
    let headers = vec![("If-None-Match".to_owned(), "\"7\"".to_owned())];
    WireFrame::Ask(Box::new(Ask {
        of,
        method,
        url: format!("http://{address}/poll?n=1"),
        headers,
        body,
        timeout,
        repeats: of == AskFor::Poll,
    }))
}

const PATIENCE: Duration = Duration::from_secs(20);
const POST: AskFor = AskFor::Request(crate::dialect::RequestId(5));

/// The next answer.
async fn answer(client: &mut Client) -> Answer {
    match client.frames(1).await.pop() {
        Some(WireFrame::Answer(answer)) => *answer,
        other => panic!("{other:?}"),
    }
}

async fn transmit(client: &mut Client, frame: WireFrame) {
    client.upstream.transmit(ATTEMPT, vec![frame]);
    assert!(matches!(client.next().await, Input::Transmitted { .. }));
}

#[tokio::test]
async fn polls_share_a_connection_and_tell_their_fields() {
    run(async {
        let (address, play) = serve(|mut stream| async move {
            for round in 0..3 {
                let head = read_head(&mut stream).await;
                assert!(head.starts_with("GET /poll?n=1 HTTP/1.1\r\n"), "{head}");
                assert_eq!(header(&head, "if-none-match"), Some("\"7\""));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nETag: \"{round}\"\r\nLast-Modified: then\r\nRetry-After: 3\r\n\
                     Content-Length: 1\r\n\r\n{round}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let mut client = connect(Transport::LongPoll, address);
        client.connected().await;
        for round in ["0", "1", "2"] {
            transmit(&mut client, ask(AskFor::Poll, address, PATIENCE)).await;
            let answer = answer(&mut client).await;
            let told = (answer.of, answer.status, answer.last_modified.as_deref(), &answer.body[..]);
            assert_eq!(told, (AskFor::Poll, 200, Some("then"), round.as_bytes()));
            assert_eq!(answer.etag.as_deref(), Some(format!("\"{round}\"").as_str()));
            assert_eq!(answer.retry_after, Some(Duration::from_secs(3)));
        }
        play.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_poll_in_a_coding_that_nobody_asked_for_ends_the_connection() {
    run(async {
        let (address, _play) = serve(|mut stream| async move {
            read_head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b";
            stream.write_all(answer).await.unwrap();
            linger(stream).await;
        })
        .await;
        let mut client = connect(Transport::Poll, address);
        client.connected().await;
        transmit(&mut client, ask(AskFor::Poll, address, PATIENCE)).await;
        let ended = client.next().await;
        let Input::Disconnected { reason, .. } = ended else { panic!("{ended:?}") };
        assert!(matches!(&reason, Disconnect::BadUpgrade(why) if why.contains("gzip")), "{reason:?}");
    })
    .await;
}

#[tokio::test]
async fn a_poll_is_repeated_on_a_new_connection_and_a_post_never() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let play = tokio::task::spawn_local(async move {
            let mut seen = Vec::new();
            let mut held = Vec::new();
            // Each connection answers one request; some hang up on the next.
            for hangs_up in [true, false, true] {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answers in [true, false] {
                    if !answers && !hangs_up {
                        continue;
                    }
                    let head = read_head(&mut stream).await;
                    seen.push(head.split(' ').next().unwrap().to_owned());
                    if head.starts_with("POST") {
                        stream.read_exact(&mut [0; 7]).await.unwrap();
                    }
                    if answers {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                    }
                }
                if !hangs_up {
                    held.push(stream);
                }
            }
            drop(held);
            seen
        });
        let mut client = connect(Transport::Poll, address);
        client.connected().await;
        let mut statuses = Vec::new();
        // The connection that was opened first is for polls; posts get one of their own.
        for of in [AskFor::Poll, AskFor::Poll, POST, POST] {
            transmit(&mut client, ask(of, address, PATIENCE)).await;
            statuses.push(answer(&mut client).await.status);
        }
        assert_eq!(statuses, [200, 200, 200, 0]);
        assert_eq!(play.await.unwrap(), ["GET", "GET", "GET", "POST", "POST"]);
    })
    .await;
}

#[tokio::test]
async fn a_post_without_an_answer_is_told_as_that() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let play = tokio::task::spawn_local(async move {
            let (held, _) = listener.accept().await.unwrap();
            // Silent, then hanging up, then gone.
            let (mut silent, _) = listener.accept().await.unwrap();
            read_head(&mut silent).await;
            let (mut rude, _) = listener.accept().await.unwrap();
            read_head(&mut rude).await;
            drop((rude, listener));
            (held, silent)
        });
        let mut client = connect(Transport::LongPoll, address);
        client.connected().await;
        transmit(&mut client, ask(POST, address, Duration::from_millis(100))).await;
        let late = answer(&mut client).await;
        assert_eq!((late.of, late.status, &late.body[..]), (POST, 0, &b"no answer in time"[..]));
        transmit(&mut client, ask(POST, address, PATIENCE)).await;
        let cut = answer(&mut client).await;
        assert_eq!(cut.status, 0, "{cut:?}");
        assert!(cut.body.starts_with(b"reset: "), "{cut:?}");
        let _held = play.await.unwrap();
        transmit(&mut client, ask(POST, address, PATIENCE)).await;
        assert!(answer(&mut client).await.body.starts_with(b"refused"));
        // A poll that finds nobody ends the attempt: the connection that was kept is gone with its server.
        drop(_held);
        client.upstream.transmit(ATTEMPT, vec![ask(AskFor::Poll, address, PATIENCE)]);
        assert_eq!(client.end().await.1, Disconnect::Refused);
    })
    .await;
}

#[tokio::test]
async fn an_answer_has_a_limit() {
    run(async {
        let (address, _play) = serve(|mut stream| async move {
            read_head(&mut stream).await;
            let body = "x".repeat(MAX_FRAME + 1);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            linger(stream).await;
        })
        .await;
        let mut client = connect(Transport::Poll, address);
        client.connected().await;
        transmit(&mut client, ask(AskFor::Poll, address, PATIENCE)).await;
        assert_eq!(client.end().await.1, Disconnect::Oversize);
    })
    .await;
}

#[tokio::test]
async fn asks_leave_beside_any_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            accept(&mut socket).await;
            let (mut post, _) = listener.accept().await.unwrap();
            let head = read_head(&mut post).await;
            assert!(head.starts_with("POST /poll?n=1"), "{head}");
            post.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            assert_eq!(read_frame(&mut socket).await, (1, b"hi".to_vec()));
            linger(post).await;
        });
        let (mut upstream, inputs) = Upstream::new(&config("http://x"));
        upstream.connect(ATTEMPT, request(format!("ws://{address}/")));
        let mut client = Client { upstream, inputs };
        client.connected().await;
        let text = WireFrame::Text(Bytes::from_static(b"hi"));
        client.upstream.transmit(ATTEMPT, vec![ask(POST, address, PATIENCE), text]);
        let (mut transmitted, mut status) = (false, 0);
        while !transmitted || status == 0 {
            match client.next().await {
                Input::Transmitted { .. } => transmitted = true,
                Input::Received { frames, .. } => match &frames[..] {
                    [WireFrame::Answer(answer)] => status = answer.status,
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(status, 202);
    })
    .await;
}
