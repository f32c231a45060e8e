//! The demo's own client: an app like any other, so that all channels live before the first visitor joins. It listens over
//! SSE, lets events pass and says aloud what the feed says about itself.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Between two tries to join.
const PAUSE: Duration = Duration::from_secs(1);
/// Frames that are worth a line.
const ALOUD: [&str; 4] = ["gap", "reset", "error", "closing"];

/// Joins on a thread of its own and comes back whenever it is sent away, for the life of the process.
pub fn start(feed: SocketAddr, channels: Vec<String>) -> std::io::Result<()> {
    std::thread::Builder::new().name("demo-audience".to_owned()).spawn(move || {
        loop {
            if let Err(error) = listen(feed, &channels, say) {
                tracing::debug!(target: "tidegate::demo", %error, "the demo's own client lost the feed");
            }
            std::thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}

/// A line for people: `gap on price:BTC-USD: reconnect`.
fn say(frame: &str) {
    let frame: Value = serde_json::from_str(frame).unwrap_or_default();
    let text = |name: &str| frame[name].as_str().unwrap_or("?");
    let about = frame["channel"].as_str().map(|channel| format!(" on {channel}")).unwrap_or_default();
    let why = frame["reason"].as_str().unwrap_or_else(|| text("message"));
    tracing::info!(target: "tidegate::demo", "feed: {}{about}: {why}", text("kind"));
}

/// One connection, until it ends. `aloud` gets the text of frames other than events.
fn listen(feed: SocketAddr, channels: &[String], mut aloud: impl FnMut(&str)) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(feed)?;
    let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    write!(stream, "GET /v1/sse?{} HTTP/1.1\r\nHost: {feed}\r\nAccept: text/event-stream\r\n\r\n", query.join("&"))?;
    let mut kind = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        // Lines of the chunked coding between the events begin with neither word.
        if let Some(named) = line.strip_prefix("event: ") {
            kind = named.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            if ALOUD.contains(&kind.as_str()) {
                aloud(data);
            }
            kind.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn it_asks_for_all_channels_and_says_only_what_is_worth_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let feed = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nevent: hello\ndata: {\"h\":1}\n\n\r\n\
                          50\r\nid: a-1\ndata: {\"e\":1}\n\n\r\n60\r\nevent: gap\ndata: {\"g\":1}\n\nid: a-2\ndata: {\"e\":2}\n\n\r\n0\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            head
        });
        let mut said = Vec::new();
        listen(feed, &["price:A".to_owned(), "system".to_owned()], |line| said.push(line.to_owned())).unwrap();
        assert!(server.join().unwrap().starts_with("GET /v1/sse?channel=price:A&channel=system HTTP/1.1\r\n"));
        assert_eq!(said, ["{\"g\":1}"]);
    }
}
