//! Exchanges with scripted servers: what is sent, what is taken, and every way in which one fails.

use super::*;
use crate::dialect::{HttpAnswer, HttpRequest, Method};
use crate::relay::pairs::{FetchAnswer, FetchError};

const CALL: CallId = CallId(11);

fn exchange(url: String) -> HttpRequest {
    let headers = vec![("X-Key".to_owned(), "s3".to_owned())];
    let patience = Duration::from_secs(20);
    HttpRequest { method: Method::Get, url, headers, body: Bytes::new(), max_body: 64, timeout: patience }
}

/// Makes an exchange with a scripted server.
async fn fetched<F, S>(script: S, change: impl FnOnce(&mut HttpRequest)) -> Result<HttpAnswer, FetchError>
where
    S: FnOnce(TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    run(async {
        let (address, play) = serve(script).await;
        let mut request = exchange(format!("http://{address}/a/b?c=d"));
        change(&mut request);
        let (mut upstream, mut inputs) = Upstream::new(&config("ws://localhost/"));
        upstream.fetch(CALL, Fetch::Http(Box::new(request)));
        let answer = inputs.recv().await;
        play.abort();
        assert!(play.await.map_or_else(|e| e.is_cancelled(), |()| true), "the script plays to its end");
        match answer {
            Some(Input::Fetched { call: CALL, result }) => result.map(|answer| match answer {
                FetchAnswer::Http(answer) => answer,
                FetchAnswer::Credentials(_) => panic!("credentials"),
            }),
            other => panic!("{other:?}"),
        }
    })
    .await
}

async fn answering(answer: &'static str) -> Result<HttpAnswer, FetchError> {
    let script = move |mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
    };
    fetched(script, |_| {}).await
}

#[tokio::test]
async fn a_request_goes_out_whole_and_its_answer_comes_back_whole() {
    let script = |mut stream: TcpStream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "x-key"), Some("s3"));
        assert_eq!(header(&head, "host").map(|host| host.starts_with("127.0.0.1:")), Some(true));
        assert_eq!(header(&head, "content-length"), Some("7"));
        assert!(header(&head, "user-agent").is_some_and(|agent| agent.starts_with("tidegate/")), "{head}");
        let mut body = [0; 7];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"{\"a\":1}");
        let answer = "HTTP/1.1 201 Created\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        linger(stream).await;
    };
    let change = |request: &mut HttpRequest| {
        request.method = Method::Post;
        request.body = Bytes::from_static(b"{\"a\":1}");
    };
    let answer = fetched(script, change).await.unwrap();
    assert_eq!(
        (answer.status, answer.retry_after, &answer.body[..]),
        (201, Some(Duration::from_secs(7)), &b"abcde"[..])
    );
    assert!(answer.is_good());
}

#[tokio::test]
async fn statuses_are_answers_and_redirects_are_not_followed() {
    let answer = answering("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n").await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.retry_after), (302, None));
    assert!(!answer.is_good());
    let answer = answering("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (401, &b"no"[..]));
}

#[tokio::test]
async fn a_body_ends_with_its_connection_where_no_length_is_given() {
    let answer = answering("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it").await.unwrap();
    assert_eq!(&answer.body[..], b"all of it");
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_with_its_reason() {
    let large: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(65)).into_boxed_str());
    assert_eq!(answering(large).await, Err(FetchError::Oversize));
    let endless: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)).into_boxed_str());
    for (answer, word) in [
        ("SSH-2.0-OpenSSH_9\r\n", "not HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "end of file"),
        ("", "ended before"),
        (endless, "not HTTP/1.1"),
    ] {
        match answering(answer).await {
            Err(FetchError::Broken(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{answer:?}: {other:?}"),
        }
    }
    let nobody = fetched(|_| async {}, |request| request.url = "http://127.0.0.1:1/".to_owned()).await;
    assert_eq!(nobody, Err(FetchError::Unreachable(Disconnect::Refused)));
    let header = ("x".to_owned(), "a\r\nb: c".to_owned());
    assert!(matches!(fetched(|_| async {}, |request| request.headers.push(header)).await, Err(FetchError::Broken(_))));
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_given_up() {
    let script = |mut stream: TcpStream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\na").await.unwrap();
        linger(stream).await;
    };
    let slow = fetched(script, |request| request.timeout = Duration::from_millis(50)).await;
    assert_eq!(slow, Err(FetchError::Timeout));
}
