//! What goes over an open connection, and every way in which it ends.

use super::*;
use crate::protocol::request::Secret;
use crate::relay::pairs::FetchAnswer;

#[tokio::test]
async fn frames_go_both_ways_and_pings_are_answered() {
    run(async {
        let (address, play) = serve(move |mut stream| async move {
            let head = accept(&mut stream).await;
            assert!(head.starts_with("GET /feed?x=1 HTTP/1.1\r\n"), "{head}");
            assert_eq!(header(&head, "x-test"), Some("yes"));
            assert_eq!(header(&head, "sec-websocket-protocol"), Some("one, two"));
            assert_eq!(header(&head, "host").unwrap(), stream.local_addr().unwrap().to_string());
            let mut bytes = short(0x81, b"{\"a\":1}");
            bytes.extend(short(0x82, b"\x00\xff"));
            bytes.extend(short(0x01, b"sp"));
            bytes.extend(short(0x80, b"lit"));
            bytes.extend(short(0x89, b"beat"));
            bytes.extend(short(0x8a, b""));
            stream.write_all(&bytes).await.unwrap();
            assert_eq!(read_frame(&mut stream).await, (0xa, b"beat".to_vec()));
            assert_eq!(read_frame(&mut stream).await, (1, b"hello".to_vec()));
            assert_eq!(read_frame(&mut stream).await, (2, b"\x01".to_vec()));
            assert_eq!(read_frame(&mut stream).await, (9, b"p".to_vec()));
            assert_eq!(read_frame(&mut stream).await, (8, 4321u16.to_be_bytes().to_vec()));
            stream.write_all(&short(0x88, &4321u16.to_be_bytes())).await.unwrap();
        })
        .await;
        let mut client = Client::connect(&config(&format!("ws://{address}/feed?x=1")));
        client.connected().await;
        let expected = [
            WireFrame::Text(Bytes::from_static(b"{\"a\":1}")),
            WireFrame::Binary(Bytes::from_static(b"\x00\xff")),
            WireFrame::Text(Bytes::from_static(b"split")),
            WireFrame::Ping(Bytes::from_static(b"beat")),
            WireFrame::Pong(Bytes::new()),
        ];
        assert_eq!(client.frames(5).await, expected);
        let frames = vec![
            WireFrame::Text(Bytes::from_static(b"hello")),
            WireFrame::Binary(Bytes::from_static(b"\x01")),
            WireFrame::Ping(Bytes::from_static(b"p")),
        ];
        client.upstream.transmit(ATTEMPT, frames);
        assert!(matches!(client.next().await, Input::Transmitted { attempt: ATTEMPT }));
        client.upstream.disconnect(ATTEMPT, 4321, None);
        assert_eq!(client.end().await, (Vec::new(), Disconnect::Asked));
        play.await.unwrap();
        // An ended attempt takes orders without harm.
        client.upstream.transmit(ATTEMPT, Vec::new());
    })
    .await;
}

#[tokio::test]
async fn close_codes_come_through_with_the_frames_before_them() {
    for code in [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
        let (frames, reason) = ending(move |mut stream| async move {
            accept(&mut stream).await;
            let mut bytes = short(0x81, b"last");
            let mut body = code.to_be_bytes().to_vec();
            body.extend_from_slice(b"by\x01e");
            bytes.extend(short(0x88, &body));
            stream.write_all(&bytes).await.unwrap();
            assert_eq!(read_frame(&mut stream).await.0, 8, "a close is echoed");
            linger(stream).await;
        })
        .await;
        assert_eq!(frames, [WireFrame::Text(Bytes::from_static(b"last"))]);
        assert_eq!(reason, Disconnect::Closed { code, reason: "by\\x01e".to_owned() });
    }
    let (_, reason) = after_upgrade(short(0x88, b"")).await;
    assert_eq!(reason, Disconnect::Closed { code: 1005, reason: String::new() });
    for code in [0u16, 999, 1004, 1005, 1006, 1015] {
        let (_, reason) = after_upgrade(short(0x88, &code.to_be_bytes())).await;
        assert!(matches!(reason, Disconnect::Protocol(_)), "{code}: {reason:?}");
    }
    let (_, reason) = after_upgrade(short(0x88, b"x")).await;
    assert!(matches!(reason, Disconnect::Protocol(_)), "{reason:?}");
}

/// Sends bytes behind a good upgrade.
async fn after_upgrade(bytes: Vec<u8>) -> (Vec<WireFrame>, Disconnect) {
    ending(move |mut stream| async move {
        accept(&mut stream).await;
        stream.write_all(&bytes).await.unwrap();
        linger(stream).await;
    })
    .await
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_is_a_reset() {
    let mut half = short(0x81, b"whole");
    half.extend_from_slice(b"\x81\x7e\x10\x00only this much");
    let cut = half.clone();
    let (frames, reason) = ending(move |mut stream| async move {
        accept(&mut stream).await;
        stream.write_all(&cut).await.unwrap();
    })
    .await;
    assert_eq!(frames, [WireFrame::Text(Bytes::from_static(b"whole"))]);
    assert!(matches!(reason, Disconnect::Reset(_)), "{reason:?}");

    run(async {
        let (go, mut gone) = mpsc::channel::<()>(1);
        let (address, _play) = serve(move |mut stream| async move {
            accept(&mut stream).await;
            stream.write_all(&half).await.unwrap();
            gone.recv().await;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        })
        .await;
        let mut client = Client::connect(&config(&format!("ws://{address}/")));
        client.connected().await;
        assert_eq!(client.frames(1).await.len(), 1);
        go.send(()).await.unwrap();
        let (frames, reason) = client.end().await;
        assert!(frames.is_empty(), "a partial frame is discarded");
        assert!(matches!(reason, Disconnect::Reset(_)), "{reason:?}");
    })
    .await;
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_with_the_right_code() {
    let huge = [b"\x82\x7f".as_slice(), &(1u64 << 63).to_be_bytes()].concat();
    let just_too_long = [b"\x82\x7f".as_slice(), &(MAX_FRAME as u64 + 1).to_be_bytes()].concat();
    let fragment = |first| [&[first, 126, 0xff, 0xff], vec![b'x'; 0xffff].as_slice()].concat();
    let fragments = [fragment(0x01), fragment(0x00)].concat();
    let split_utf8 = [short(0x01, b"\xc3"), short(0x80, b"\x28")].concat();
    let table: [(&str, Vec<u8>, Disconnect, u16); 5] = [
        ("2^63 bytes", huge, Disconnect::Oversize, 1009),
        ("one byte too long", just_too_long, Disconnect::Oversize, 1009),
        ("fragments that add up", fragments, Disconnect::Oversize, 1009),
        ("no UTF-8", short(0x81, b"\xff"), Disconnect::NotUtf8, 1007),
        ("no UTF-8 over fragments", split_utf8, Disconnect::NotUtf8, 1007),
    ];
    for (name, bytes, expected, code) in table {
        let (_, reason) = ending(move |mut stream| async move {
            accept(&mut stream).await;
            stream.write_all(&bytes).await.unwrap();
            assert_eq!(read_frame(&mut stream).await, (8, code.to_be_bytes().to_vec()), "{name}");
            linger(stream).await;
        })
        .await;
        assert_eq!(reason, expected, "{name}");
    }
    for (name, bytes) in [
        ("a masked frame", b"\x81\x81\x00\x00\x00\x00x".to_vec()),
        ("reserved bits", short(0xc1, b"x")),
        ("an unknown opcode", short(0x83, b"x")),
        ("a continuation of nothing", short(0x80, b"x")),
        ("a fragmented ping", short(0x09, b"x")),
        ("a long ping", b"\x89\x7e\x00\x80".iter().copied().chain([b'x'; 128]).collect()),
    ] {
        let (_, reason) = ending(move |mut stream| async move {
            accept(&mut stream).await;
            stream.write_all(&bytes).await.unwrap();
            assert_eq!(read_frame(&mut stream).await, (8, 1002u16.to_be_bytes().to_vec()), "{name}");
            linger(stream).await;
        })
        .await;
        assert!(matches!(reason, Disconnect::Protocol(_)), "{name}: {reason:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_meets_the_write_deadline() {
    run(async {
        let (go, mut gone) = mpsc::channel::<()>(1);
        let (address, _play) = serve(move |mut stream| async move {
            accept(&mut stream).await;
            stream.write_all(&short(0x81, b"still talking")).await.unwrap();
            gone.recv().await;
        })
        .await;
        let config = UpstreamConfig { ping_interval: Duration::from_millis(1), ..config(&format!("ws://{address}/")) };
        let mut client = Client::connect(&config);
        client.connected().await;
        let much = Bytes::from(vec![0; 32 << 20]);
        client.upstream.transmit(ATTEMPT, vec![WireFrame::Binary(much)]);
        let (frames, reason) = client.end().await;
        assert_eq!(frames.len(), 1, "reading goes on while a write is blocked");
        assert_eq!(reason, Disconnect::WriteTimeout);
        drop(go);
    })
    .await;
}

/// Pings whose answers nobody takes: memory must not hold them all.
#[tokio::test]
async fn pongs_that_nobody_takes_hold_upstream_back() {
    const MUCH: usize = 96 << 20;
    run(async {
        let (tell, mut told) = mpsc::channel(1);
        let (address, _play) = serve(move |mut stream| async move {
            accept(&mut stream).await;
            let pings = short(0x89, &[b'p'; 125]).repeat(1000);
            let mut sent = 0;
            while sent < MUCH && stream.write_all(&pings).await.is_ok() {
                sent += pings.len();
            }
            tell.send(sent).await.unwrap();
        })
        .await;
        let config = UpstreamConfig { ping_interval: Duration::from_millis(1), ..config(&format!("ws://{address}/")) };
        let mut client = Client::connect(&config);
        client.connected().await;
        assert_eq!(client.end().await.1, Disconnect::WriteTimeout);
        let sent = told.recv().await.unwrap();
        assert!(sent < MUCH, "what the sockets hold, and no more: {sent}");
    })
    .await;
}

#[tokio::test]
async fn reads_wait_for_the_driver_and_nothing_is_lost() {
    const COUNT: u32 = 50_000;
    run(async {
        let (address, _play) = serve(|mut stream| async move {
            accept(&mut stream).await;
            for n in 0..COUNT {
                stream.write_all(&short(0x82, &n.to_be_bytes())).await.unwrap();
            }
            linger(stream).await;
        })
        .await;
        let mut client = Client::connect(&config(&format!("ws://{address}/")));
        client.connected().await;
        let mut expected = 0;
        while expected < COUNT {
            assert!(client.inputs.len() <= READS_WAITING);
            for frame in client.frames(1).await {
                assert_eq!(frame, WireFrame::Binary(Bytes::copy_from_slice(&expected.to_be_bytes())));
                expected += 1;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_fetch_answers_its_call() {
    run(async {
        let token = TokenSource::Literal(Secret::new("s3"));
        let (mut upstream, mut inputs) = Upstream::new(&UpstreamConfig { token, ..config("ws://localhost/") });
        upstream.fetch(CallId(3), Fetch::Credentials);
        match inputs.recv().await {
            Some(Input::Fetched { call: CallId(3), result: Ok(FetchAnswer::Credentials(read)) }) => {
                assert_eq!(read.token.as_ref().map(Secret::expose), Some("s3"));
                assert!(read.secrets.is_empty())
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
}
