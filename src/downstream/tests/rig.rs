//! For tests: the listeners on loopback before a scripted relay that records what reaches it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::policy::Policy;
use super::writer::Writers;
use crate::config::Config;
use crate::inbox::{FromOutside, Inbox};
use crate::protocol::codes::CloseCode;
use crate::protocol::frame::{Batch, Item};
use crate::protocol::position::Epoch;
use crate::relay::pairs::{CallRequest, Input, Reply, SessionId};

/// Fails a test that would hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a snapshot: more than the kernel takes for a client that does not read.
pub(super) const LARGE: usize = 16 << 20;
/// What the scripted relay says to every session.
pub(super) const HELLO: &str = r#"{"kind":"hello"}"#;

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patient = async { tokio::time::timeout(PATIENCE, test).await.expect("the test should have ended") };
    tokio::task::LocalSet::new().block_on(&runtime, patient);
}

pub(super) struct Rig {
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    pub(super) outside: mpsc::Sender<FromOutside>,
    /// What reached the relay.
    pub(super) inputs: mpsc::UnboundedReceiver<Input>,
    pub(super) calls: mpsc::UnboundedReceiver<CallRequest>,
    /// Sessions to close.
    pub(super) close: mpsc::UnboundedSender<SessionId>,
    /// True holds the relay's answers back.
    pub(super) hold: watch::Sender<bool>,
    pub(super) stop: watch::Sender<bool>,
    _config: watch::Sender<Arc<Config>>,
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        let limits = crate::protocol::request::parse::RequestLimits::new(&config);
        let feed = config.feed.clone();
        let (config, configs) = watch::channel(Arc::new(config));
        let (outside, from_outside) = mpsc::channel(16);
        let (input, inputs) = mpsc::unbounded_channel();
        let (call, calls) = mpsc::unbounded_channel();
        let (close, to_close) = mpsc::unbounded_channel();
        let (hold, held) = watch::channel(false);
        let inbox = Inbox::new();
        let writers = Writers::new(&feed, limits, inbox.clone());
        tokio::task::spawn_local(relay(from_outside, writers, inbox, input, call, to_close, held));
        let policy = Policy::follow(configs);
        let stop = watch::channel(false).0;
        Rig { policy, outside, inputs, calls, close, hold, stop, _config: config }
    }
}

async fn relay(
    mut from_outside: mpsc::Receiver<FromOutside>,
    mut writers: Writers,
    inbox: Inbox,
    inputs: mpsc::UnboundedSender<Input>,
    calls: mpsc::UnboundedSender<CallRequest>,
    mut close: mpsc::UnboundedReceiver<SessionId>,
    held: watch::Receiver<bool>,
) {
    let hello = Item::Control("hello", Bytes::from_static(HELLO.as_bytes()));
    let hello = Arc::new(Batch::new(Epoch::new(0), vec![hello]));
    loop {
        while let Some(input) = inbox.pop() {
            if let Input::Joined { session, .. } = &input {
                writers.deliver(*session, &hello);
            }
            let _ = inputs.send(input);
        }
        tokio::select! {
            () = inbox.ready() => {}
            () = writers.work() => {}
            Some(session) = close.recv() => writers.close(session, CloseCode::Restart),
            outside = from_outside.recv() => match outside {
                Some(FromOutside::Adopt(adopted)) => { writers.adopt(adopted); }
                Some(FromOutside::Call { request, answer, .. }) => {
                    let reply = reply(&request);
                    let _ = calls.send(request);
                    let mut held = held.clone();
                    tokio::spawn(async move {
                        if held.wait_for(|held| !held).await.is_ok() {
                            let _ = answer.send(reply);
                        }
                    });
                }
                _ => return,
            },
        }
    }
}

fn reply(request: &CallRequest) -> Reply {
    match request {
        CallRequest::Publish { .. } => Reply::Json {
            status: 202,
            body: Bytes::from_static(br#"{"message":"01J","state":"accepted"}"#),
            location: Some("/v1/messages/01J".to_owned()),
        },
        CallRequest::Message(_) => Reply::Problem {
            code: crate::protocol::codes::ErrorCode::NotFound,
            message: "no such message".to_owned(),
            retry_after: None,
        },
        CallRequest::Snapshot(_) => Reply::Json { status: 200, body: vec![b'x'; LARGE].into(), location: None },
        CallRequest::Stats => Reply::Stats(Box::default()),
        _ => Reply::Json { status: 200, body: Bytes::from_static(b"{}"), location: None },
    }
}

/// A listener on a port that the system chose.
pub(super) fn listener() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends `METHOD /path` with these header lines and this body, and reads the answer until the connection ends.
pub(super) async fn ask(address: SocketAddr, line: &str, headers: &[&str], body: &str) -> String {
    let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.push_str(body);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut client).await
}

pub(super) async fn read_all(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer; 0 if there is none.
pub(super) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
