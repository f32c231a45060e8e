//! The carrier against scripted servers on loopback: every way in which a connection fails, and what goes over a good one.

mod beside;
mod frames;
mod handshake;
mod http;
mod proxy;
mod streams;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::*;
use crate::config::TokenSource;
use crate::dialect::Transport;

const ATTEMPT: AttemptId = AttemptId(7);
const MAX_FRAME: usize = 1 << 16;

fn config(url: &str) -> UpstreamConfig {
    // Long enough that no test meets them by chance.
    let patience = Duration::from_secs(20);
    UpstreamConfig {
        url: url.to_owned(),
        connect_timeout: patience,
        handshake_timeout: patience,
        ping_interval: patience,
        max_frame: MAX_FRAME,
        ..UpstreamConfig::default()
    }
}

fn request(url: String) -> ConnectRequest {
    ConnectRequest {
        transport: Transport::WebSocket,
        url,
        headers: vec![("X-Test".to_owned(), "yes".to_owned())],
        subprotocols: vec!["one".to_owned(), "two".to_owned()],
    }
}

/// A carrier with its inputs, and the connection it was told to open.
struct Client {
    upstream: Upstream,
    inputs: mpsc::Receiver<Input>,
}

impl Client {
    fn connect(config: &UpstreamConfig) -> Self {
        let (mut upstream, inputs) = Upstream::new(config);
        upstream.connect(ATTEMPT, request(config.url.clone()));
        Client { upstream, inputs }
    }

    async fn next(&mut self) -> Input {
        self.inputs.recv().await.expect("the carrier holds a sender")
    }

    /// The next frames, however they were split over reads.
    async fn frames(&mut self, count: usize) -> Vec<WireFrame> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().await {
                Input::Received { attempt: ATTEMPT, frames, .. } => all.extend(frames),
                other => panic!("{other:?} after {} of {count} frames", all.len()),
            }
        }
        all
    }

    async fn connected(&mut self) {
        match self.next().await {
            Input::Connected { attempt: ATTEMPT, .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// Everything until the end: the frames and the reason.
    async fn end(&mut self) -> (Vec<WireFrame>, Disconnect) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Input::Received { frames, .. } => all.extend(frames),
                Input::Disconnected { attempt: ATTEMPT, reason } => return (all, reason),
                Input::Connected { .. } | Input::Transmitted { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A server that takes one connection and plays a script: its address, and the play, which fails where the script does.
async fn serve<F, S>(script: S) -> (SocketAddr, JoinHandle<()>)
where
    S: FnOnce(TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let play = tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(stream).await;
    });
    (address, play)
}

async fn run<F: Future>(body: F) -> F::Output {
    LocalSet::new().run_until(body).await
}

/// Plays a script behind a good upgrade (or any start that the script makes) and tells how the attempt ended.
async fn ending<F, S>(script: S) -> (Vec<WireFrame>, Disconnect)
where
    S: FnOnce(TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    run(async {
        let (address, play) = serve(script).await;
        let ending = Client::connect(&config(&format!("ws://{address}/feed?x=1"))).end().await;
        play.await.expect("the script plays to its end");
        ending
    })
    .await
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> String {
    let head = read_head(stream).await;
    let accept = derive_accept_key(header(&head, "sec-websocket-key").unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: two\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    head
}

/// One unmasked frame: first byte and payload, at most 125 bytes.
fn short(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, u8::try_from(payload.len()).unwrap()];
    frame.extend_from_slice(payload);
    frame
}

/// Reads one masked frame as clients send it: opcode and payload.
async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    let second = stream.read_u8().await.unwrap();
    assert_eq!(second & 0x80, 0x80, "a client masks");
    let length = match second & 0x7f {
        126 => usize::from(stream.read_u16().await.unwrap()),
        127 => usize::try_from(stream.read_u64().await.unwrap()).unwrap(),
        length => usize::from(length),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await.unwrap();
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    payload.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= mask[i % 4]);
    (first & 0x0f, payload)
}

/// Holds the connection open until the other side closes it.
async fn linger(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}
