//! Writers and readers over real loopback sockets; the relay is a script over the inbox.

use super::*;
use crate::downstream::websocket::tests::client_frame;
use crate::inbox::Seats;
use crate::protocol::frame::Item;
use crate::protocol::position::Epoch;
use crate::protocol::request::Request;
use crate::relay::access::Principal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LIMITS: RequestLimits = RequestLimits { request_max: 4096, message_max: 1024, channels: 10, depth: 8 };
/// Fails a test that would hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> FeedConfig {
    FeedConfig {
        request_max: LIMITS.request_max,
        write_timeout: Duration::from_secs(3600),
        ping_interval: Duration::from_secs(3600),
        sse_ping_interval: Duration::from_secs(3600),
        ..FeedConfig::default()
    }
}

struct Rig {
    writers: Writers,
    inbox: Inbox,
    seats: Seats,
}

impl Rig {
    fn new(config: &FeedConfig) -> Self {
        let inbox = Inbox::new();
        Rig { writers: Writers::new(config, LIMITS, inbox.clone()), inbox, seats: Seats::default() }
    }

    /// A client, and its session. Small socket buffers, so that a few hundred kilobytes block.
    async fn join(&mut self, format: Format, leftover: &[u8]) -> (TcpStream, SessionId) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let (client, server) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
        let (server, peer) = server.unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(8 * 1024).unwrap();
        let session = self.writers.adopt(Adopted {
            stream: server.into_std().unwrap(),
            leftover: Bytes::copy_from_slice(leftover),
            principal: Arc::new(Principal::local()),
            format,
            subscribe: None,
            peer,
            seat: self.seats.take(10).unwrap(),
        });
        assert!(matches!(self.inbox.pop(), Some(Input::Joined { .. })));
        let session = session.unwrap();
        // A socket new to the runtime reports itself full until the runtime has looked at it once.
        let line = self.writers.find(session).unwrap().line.clone();
        line.stream.writable().await.unwrap();
        (client.unwrap(), session)
    }

    /// The next input, with the writers at work meanwhile.
    async fn next(&mut self) -> Input {
        let next = async {
            loop {
                if let Some(input) = self.inbox.pop() {
                    return input;
                }
                tokio::select! {
                    () = self.writers.work() => {}
                    () = self.inbox.ready() => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an input should have come")
    }

    /// Works until the future is done.
    async fn during<T>(&mut self, task: impl Future<Output = T>) -> T {
        tokio::pin!(task);
        let work = async {
            loop {
                tokio::select! {
                    done = &mut task => return done,
                    () = self.writers.work() => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("the client should have been served")
    }

    async fn left(&mut self) -> LeftReason {
        match self.next().await {
            Input::Left { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn batch(text: &str) -> Arc<Batch> {
    Arc::new(Batch::new(Epoch::new(0), vec![Item::Control("event", Bytes::copy_from_slice(text.as_bytes()))]))
}

async fn expect(client: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got).await.unwrap();
    assert!(got == bytes, "{:?} … instead of {:?} …", &got[..bytes.len().min(40)], &bytes[..bytes.len().min(40)]);
}

fn closed(code: u16) -> LeftReason {
    LeftReason::Closed(CloseCodeOrd(code))
}

#[test]
fn a_batch_that_fits_is_done_at_once() {
    run(async {
        let mut rig = Rig::new(&config());
        let (mut client, session) = rig.join(Format::WebSocket, b"").await;
        assert_eq!(rig.writers.deliver(session, &batch("{}")), Deliver::Done);
        expect(&mut client, b"\x81\x02{}").await;
        assert!(rig.inbox.is_empty());
    });
}

#[test]
fn control_frames_queue_behind_a_half_written_batch_and_close_comes_last() {
    run(async {
        let mut rig = Rig::new(&config());
        let (mut client, session) = rig.join(Format::WebSocket, b"").await;
        let large = batch(&"x".repeat(400_000));
        assert_eq!(rig.writers.deliver(session, &large), Deliver::Blocked);
        for payload in [b"one", b"two"] {
            client.write_all(&client_frame(0x89, payload)).await.unwrap();
        }
        client.write_all(&client_frame(0x81, br#"{"op":"ping","ref":8}"#)).await.unwrap();
        assert!(matches!(rig.next().await, Input::Request { request: Ok(Request::Ping { .. }), .. }));
        rig.writers.answer_readers();
        rig.writers.close(session, CloseCode::Restart);
        assert_eq!(rig.writers.deliver(session, &large), Deliver::Gone, "nothing follows a close");
        let wire = large.wire(Format::WebSocket).clone();
        let mut rest = Vec::new();
        rig.during(async {
            expect(&mut client, &wire).await;
            client.read_to_end(&mut rest).await.unwrap();
        })
        .await;
        assert!(matches!(rig.next().await, Input::Delivered { .. }));
        assert_eq!(rig.left().await, closed(1012));
        let mut wanted = b"\x8a\x03two".to_vec();
        wanted.extend(close_frame(CloseCode::Restart));
        assert_eq!(rest, wanted, "the last pong is enough, the close is last");
    });
}

#[test]
fn a_client_that_does_not_read_is_closed_and_its_seat_given_back() {
    run(async {
        let mut rig = Rig::new(&FeedConfig { write_timeout: Duration::from_millis(80), ..config() });
        let (mut client, session) = rig.join(Format::WebSocket, b"").await;
        assert_eq!(rig.writers.deliver(session, &batch(&"x".repeat(400_000))), Deliver::Blocked);
        assert_eq!(rig.left().await, closed(4001));
        assert_eq!(rig.writers.deliver(session, &batch("{}")), Deliver::Gone);
        let mut sink = Vec::new();
        // Reset, or cut short where the client reads just in time.
        let read = rig.during(client.read_to_end(&mut sink)).await;
        assert!(read.is_err() || sink.len() < 400_000);
        while rig.seats.taken() > 0 {
            rig.writers.work().await;
        }
        assert!(rig.writers.is_empty());
    });
}

#[test]
fn a_blocked_client_that_vanishes_leaves_once_and_its_slot_is_used_again() {
    run(async {
        let mut rig = Rig::new(&config());
        let (client, session) = rig.join(Format::WebSocket, b"").await;
        assert_eq!(rig.writers.deliver(session, &batch(&"x".repeat(400_000))), Deliver::Blocked);
        drop(client);
        assert_eq!(rig.left().await, LeftReason::Client);
        let (_client, again) = rig.join(Format::WebSocket, b"").await;
        assert_eq!((again.index, again.generation), (session.index, session.generation + 1));
        assert_eq!(rig.writers.deliver(session, &batch("{}")), Deliver::Gone);
        rig.writers.close(session, CloseCode::Slow);
        assert_eq!(rig.writers.deliver(again, &batch("{}")), Deliver::Done);
        assert!(rig.inbox.is_empty());
    });
}

#[test]
fn what_was_read_with_the_handshake_is_heard_in_order_however_much() {
    run(async {
        let mut rig = Rig::new(&config());
        let mut leftover = Vec::new();
        for number in 0..200 {
            leftover.extend(client_frame(0x81, format!(r#"{{"op":"ping","ref":{number}}}"#).as_bytes()));
        }
        let split = leftover.len() - 5;
        let (mut client, _) = rig.join(Format::WebSocket, &leftover[..split]).await;
        client.write_all(&leftover[split..]).await.unwrap();
        for number in 0..200 {
            let Input::Request { request: Ok(Request::Ping { reference }), .. } = rig.next().await else {
                panic!("not a ping")
            };
            assert_eq!(&*reference.unwrap().0, number.to_string());
        }
    });
}

#[test]
fn a_wrong_request_is_told_to_the_relay_and_a_wrong_frame_closes() {
    run(async {
        for (frame, code) in [
            (client_frame(0x82, b"\x00\x01"), 4501_u16),
            (client_frame(0x81, b"\xff"), 4501),
            (client_frame(0x81, &[b' '; 5000]), 4503),
        ] {
            let mut rig = Rig::new(&config());
            let (mut client, _) = rig.join(Format::WebSocket, b"").await;
            client.write_all(&client_frame(0x81, b"nonsense")).await.unwrap();
            assert!(matches!(rig.next().await, Input::Request { request: Err(_), .. }));
            client.write_all(&frame).await.unwrap();
            assert_eq!(rig.left().await, closed(code));
            let mut head = [0; 4];
            rig.during(client.read_exact(&mut head)).await.unwrap();
            assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, code));
        }
    });
}

#[test]
fn a_client_that_says_goodbye_is_answered_and_may_take_its_time_to_read() {
    run(async {
        let mut rig = Rig::new(&config());
        let (mut client, _) = rig.join(Format::WebSocket, b"").await;
        client.write_all(&client_frame(0x88, b"\x03\xe8")).await.unwrap();
        assert_eq!(rig.left().await, LeftReason::Client);
        assert_eq!(rig.seats.taken(), 1, "the socket waits for the client's end");
        let mut answer = Vec::new();
        rig.during(client.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"\x88\x02\x03\xe8");
        drop(client);
        while rig.seats.taken() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(rig.inbox.is_empty());
    });
}

#[test]
fn silent_clients_are_closed_and_answering_ones_stay() {
    run(async {
        let mut rig = Rig::new(&FeedConfig { ping_interval: Duration::from_millis(160), ..config() });
        let (_silent, session) = rig.join(Format::WebSocket, b"").await;
        let (mut alive, _) = rig.join(Format::WebSocket, b"").await;
        let answering = async {
            for _ in 0..5 {
                expect(&mut alive, PING).await;
                alive.write_all(&client_frame(0x8a, b"")).await.unwrap();
            }
        };
        rig.during(answering).await;
        match rig.next().await {
            Input::Left { session: left, reason } => assert_eq!((left, reason), (session, closed(4002))),
            other => panic!("{other:?}"),
        }
        assert!(rig.inbox.is_empty());
    });
}

#[test]
fn an_event_stream_gets_chunks_comments_and_an_end() {
    run(async {
        let mut rig = Rig::new(&FeedConfig { sse_ping_interval: Duration::from_millis(80), ..config() });
        let (mut client, session) = rig.join(Format::Sse, b"").await;
        assert_eq!(rig.writers.deliver(session, &batch("{}")), Deliver::Done);
        expect(&mut client, b"a\r\ndata: {}\n\n\r\n").await;
        rig.during(expect(&mut client, COMMENT)).await;
        rig.writers.close(session, CloseCode::Restart);
        let mut rest = Vec::new();
        rig.during(client.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.ends_with(LAST_CHUNK));
        assert_eq!(rig.left().await, closed(1012));
        let (client, _) = rig.join(Format::Sse, b"").await;
        drop(client);
        assert_eq!(rig.left().await, LeftReason::Client);
    });
}

#[test]
fn chunk_lengths_are_right() {
    assert_eq!(COMMENT, chunk(b": ping\n\n"));
    assert_eq!(sse_opening(Duration::from_secs(2)), b"d\r\nretry: 2000\n\n\r\n");
}

/// What one silent session costs in this folder, beside its socket: a slot, the shared line, the reader's future.
#[test]
fn a_silent_session_costs_a_few_hundred_bytes() {
    run(async {
        let mut rig = Rig::new(&config());
        let (_client, session) = rig.join(Format::WebSocket, b"").await;
        let line = rig.writers.find(session).unwrap().line.clone();
        let future = reader::read(line, rig.writers.shared.clone(), Format::WebSocket, Bytes::new());
        let bytes = size_of::<Slot>() + size_of::<Line>() + size_of_val(&future);
        assert!(
            bytes <= 512,
            "{bytes} bytes: {} + {} + {}",
            size_of::<Slot>(),
            size_of::<Line>(),
            size_of_val(&future)
        );
    });
}
