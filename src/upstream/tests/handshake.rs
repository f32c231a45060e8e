//! Connections that do not come about: what the carrier says of each.

use super::*;

/// Answers the upgrade with these bytes and holds the connection.
async fn answered(answer: &str) -> Disconnect {
    let answer = answer.to_owned();
    let (frames, reason) = ending(move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        linger(stream).await;
    })
    .await;
    assert!(frames.is_empty());
    reason
}

#[tokio::test]
async fn other_statuses_tell_what_the_server_said() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>\u{1}Welcome</html>";
    let Disconnect::BadStatus { status: 200, retry_after: None, detail } = answered(page).await else {
        panic!("a login page is no upgrade")
    };
    assert!(detail.starts_with("<html>\\x01Welcome"), "{detail}");

    let denied = answered("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(denied, Disconnect::BadStatus { status: 401, retry_after: None, detail: "no".to_owned() });

    let long = "x".repeat(1000);
    let chunked = format!("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n{long}\r\n0\r\n\r\n");
    let Disconnect::BadStatus { detail, .. } = answered(&chunked).await else { panic!("a status") };
    assert_eq!(detail.len(), 200);

    // A body that is promised and never comes does not turn the status into a time-out.
    let stingy = answered("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nthis much").await;
    assert_eq!(stingy, Disconnect::BadStatus { status: 403, retry_after: None, detail: "this much".to_owned() });

    let Disconnect::BadStatus { status: 302, detail, .. } =
        answered("HTTP/1.1 302 Found\r\nLocation: https://other.example/x\r\nContent-Length: 0\r\n\r\n").await
    else {
        panic!("a redirect is not followed")
    };
    assert!(detail.contains("https://other.example/x") && detail.contains("upstream.url"), "{detail}");
}

#[tokio::test]
async fn retry_after_comes_through() {
    let limited = answered("HTTP/1.1 429 Slow\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n").await;
    let expected = Some(Duration::from_secs(30));
    assert_eq!(limited, Disconnect::BadStatus { status: 429, retry_after: expected, detail: String::new() });
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(100_000));
    let later = answered(&format!("HTTP/1.1 503 Later\r\nRetry-After: {date}\r\nContent-Length: 0\r\n\r\n")).await;
    let expected = Some(Duration::from_secs(3600));
    assert_eq!(later, Disconnect::BadStatus { status: 503, retry_after: expected, detail: String::new() });
}

#[tokio::test]
async fn a_wrong_101_is_refused() {
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\n";
    let wrong_key = format!("{upgrade}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: abc\r\n\r\n");
    let no_upgrade = format!("{upgrade}Connection: Upgrade\r\n\r\n");
    let no_connection = format!("{upgrade}Upgrade: websocket\r\n\r\n");
    for (answer, word) in [
        (wrong_key.as_str(), "Sec-WebSocket-Accept"),
        (&no_upgrade, "Upgrade: websocket"),
        (&no_connection, "Connection: Upgrade"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1"),
    ] {
        match answered(answer).await {
            Disconnect::BadUpgrade(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{answer}: {other:?}"),
        }
    }
    let foreign = ending(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let accept = derive_accept_key(header(&head, "sec-websocket-key").unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Protocol: three\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        linger(stream).await;
    })
    .await;
    assert_eq!(foreign.1, Disconnect::BadUpgrade("it chose a subprotocol that was not offered: three".to_owned()));
    let hung_up = ending(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    assert!(matches!(hung_up.1, Disconnect::Reset(_)), "{:?}", hung_up.1);
}

#[tokio::test]
async fn one_deadline_spans_the_whole_handshake() {
    run(async {
        let (address, _play) = serve(|mut stream| async move {
            let drip = b"HTTP/1.1 101 Switching Protocols\r\nX-Long: ".iter().chain(std::iter::repeat(&b'x'));
            for byte in drip {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        let config =
            UpstreamConfig { handshake_timeout: Duration::from_millis(60), ..config(&format!("ws://{address}/")) };
        assert_eq!(Client::connect(&config).end().await.1, Disconnect::HandshakeTimeout);
    })
    .await;
}

#[tokio::test]
async fn connections_that_never_come_about() {
    run(async {
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let refused = config(&format!("ws://{}/", held.local_addr().unwrap()));
        assert_eq!(Client::connect(&refused).end().await.1, Disconnect::Refused);

        let nowhere = Client::connect(&config("ws://nowhere.invalid/")).end().await.1;
        assert!(matches!(&nowhere, Disconnect::Dns(why) if why.contains("nowhere.invalid")), "{nowhere:?}");

        // A listener whose backlog is full drops further SYNs, like a firewall does.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let mut fillers = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            fillers.push(stream);
        }
        let config =
            UpstreamConfig { connect_timeout: Duration::from_millis(100), ..config(&format!("ws://{address}/")) };
        assert_eq!(Client::connect(&config).end().await.1, Disconnect::ConnectTimeout);
        // The relay may give up first.
        let patient = UpstreamConfig { connect_timeout: Duration::from_secs(600), ..config };
        let mut client = Client::connect(&patient);
        client.upstream.disconnect(ATTEMPT, 1000, None);
        assert_eq!(client.end().await.1, Disconnect::Asked);
    })
    .await;
}
