//! Through a proxy: the tunnel, who may open it, and how it fails.

use super::*;
use crate::protocol::request::Secret;

/// A connection to a place that only the proxy can reach; the proxy plays this script.
async fn through<F, S>(url: &str, script: S) -> (Vec<WireFrame>, Disconnect)
where
    S: FnOnce(TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    run(async {
        let (address, play) = serve(script).await;
        let proxy = Some(Secret::new(format!("http://user:p%40ss@{address}")));
        let ending = Client::connect(&UpstreamConfig { proxy, ..config(url) }).end().await;
        play.await.expect("the script plays to its end");
        ending
    })
    .await
}

#[tokio::test]
async fn a_tunnel_leads_to_upstream() {
    let (frames, reason) = through("ws://up.invalid/feed", |mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("CONNECT up.invalid:80 HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "host"), Some("up.invalid:80"));
        // user:p@ss
        assert_eq!(header(&head, "proxy-authorization"), Some("Basic dXNlcjpwQHNz"));
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let head = accept(&mut stream).await;
        assert!(head.starts_with("GET /feed HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "proxy-authorization"), None, "upstream does not learn it");
        stream.write_all(&short(0x81, b"from afar")).await.unwrap();
        stream.write_all(&short(0x88, &1000u16.to_be_bytes())).await.unwrap();
        linger(stream).await;
    })
    .await;
    assert_eq!(frames, [WireFrame::Text(Bytes::from_static(b"from afar"))]);
    assert_eq!(reason, Disconnect::Closed { code: 1000, reason: String::new() });
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_as_that() {
    for (answer, word) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "407"),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502"),
        ("SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP/1.1"),
    ] {
        let (_, reason) = through("wss://up.invalid/", move |mut stream| async move {
            let head = read_head(&mut stream).await;
            assert!(head.starts_with("CONNECT up.invalid:443 "), "{head}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            linger(stream).await;
        })
        .await;
        match reason {
            Disconnect::Unreachable(why) => assert!(why.contains("proxy") && why.contains(word), "{why}"),
            other => panic!("{answer}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn off_means_off() {
    run(async {
        let proxy = Some(Secret::new("off"));
        let reason = Client::connect(&UpstreamConfig { proxy, ..config("ws://127.0.0.1:1/") }).end().await.1;
        assert_eq!(reason, Disconnect::Refused);
    })
    .await;
}
