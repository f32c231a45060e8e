//! Frames over an open connection, in both directions at once, until it ends.
//!
//! Invariants: reading goes on while a write is blocked; a write that stays blocked ends the connection; frames that came
//! before the end are handed over before it; the reason is the best one known (a close frame beats the broken pipe that
//! our own write saw).
//! Server pings are answered here (tungstenite) and reported, because they are signs of life. Upstream that sends them and does
//! not take the answers is not read on: what waits to be written stays bounded.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::http::show;
use super::{CLOSE_TIMEOUT, Order, Socket};
use crate::dialect::WireFrame;
use crate::relay::pairs::{AttemptId, Disconnect, Input};

/// tungstenite fills this buffer with zeros before every read: larger costs time, smaller costs system calls.
const READ_BUFFER: usize = 16 * 1024;
/// Small frames are joined up to this size before they are written.
const WRITE_BUFFER: usize = 16 * 1024;
/// Frames in one `Received`.
const READ_FRAMES: usize = 256;
/// Bytes in one `Received` after which no further message is added to it.
const READ_BYTES: usize = 256 << 10;
/// Bytes of pings whose pongs may wait to be written before nothing more is read.
const PONGS_WAITING: usize = 64 << 10;
/// Stands for a close frame without a code (RFC 6455 section 7.1.5).
const NO_STATUS: u16 = 1005;

/// An open connection.
pub struct Wire {
    socket: WebSocketStream<Box<dyn Socket>>,
    outgoing: VecDeque<WireFrame>,
    /// A `Transmit` is not finished.
    writing: bool,
    /// Bytes of pings that were read since everything was known to be written.
    pongs: usize,
    /// Writing is over, for this reason; reading may still find a better one.
    broken: Option<Disconnect>,
    /// Reading is over, for this reason.
    ended: Option<Disconnect>,
}

/// How the carrying of frames ended.
pub enum End {
    /// The connection is over: why.
    Of(Disconnect),
    /// It was closed, and the connection that it belongs to goes on.
    KeepPolling,
}

/// What one turn brought.
enum Step {
    Received(Vec<WireFrame>),
    Written,
    Ended(Disconnect),
}

impl Wire {
    /// A connection that was just upgraded; `leftover` was read behind the upgrade's head.
    pub async fn new(socket: Box<dyn Socket>, leftover: Bytes, max_frame: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(max_frame))
            .max_frame_size(Some(max_frame));
        let socket = WebSocketStream::from_partially_read(socket, leftover.into(), Role::Client, Some(config)).await;
        Wire { socket, outgoing: VecDeque::new(), writing: false, pongs: 0, broken: None, ended: None }
    }

    /// Whether a `Transmit` was taken and not answered.
    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// Moves what can be moved. Loses nothing if it is dropped at `Pending`.
    fn poll(&mut self, cx: &mut Context<'_>, may_read: bool) -> Poll<Step> {
        if self.writing
            && self.broken.is_none()
            && let Poll::Ready(result) = self.poll_write(cx)
        {
            match result {
                Ok(()) => {
                    self.writing = false;
                    return Poll::Ready(Step::Written);
                }
                Err(error) => self.broken = Some(reason(error)),
            }
        }
        if !may_read {
            return Poll::Pending;
        }
        if let Poll::Ready(step) = self.poll_read(cx) {
            return Poll::Ready(step);
        }
        match self.broken.take() {
            Some(reason) => Poll::Ready(Step::Ended(reason)),
            None => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.outgoing.is_empty() {
            ready!(socket.as_mut().poll_ready(cx))?;
            if let Some(message) = self.outgoing.pop_front().and_then(message) {
                socket.as_mut().start_send(message)?;
            }
        }
        socket.poll_flush(cx)
    }

    /// All frames that one turn of reading gives, up to the bounds.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.pongs > PONGS_WAITING && self.ended.is_none() {
            if let Err(error) = ready!(Pin::new(&mut self.socket).poll_flush(cx)) {
                return Poll::Ready(Step::Ended(reason(error)));
            }
            self.pongs = 0;
        }
        let mut frames = Vec::new();
        let mut bytes = 0;
        while self.ended.is_none() && frames.len() < READ_FRAMES && bytes < READ_BYTES {
            match self.socket.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(Message::Close(frame)))) => self.ended = Some(closed(frame)),
                Poll::Ready(Some(Ok(message))) => {
                    bytes += message.len();
                    if message.is_ping() {
                        // With the head of the frame.
                        self.pongs += message.len() + 6;
                    }
                    frames.extend(frame(message));
                }
                Poll::Ready(Some(Err(error))) => self.ended = Some(reason(error)),
                Poll::Ready(None) => self.ended = Some(Disconnect::Reset("the connection is closed".to_owned())),
            }
        }
        if !frames.is_empty() {
            return Poll::Ready(Step::Received(frames));
        }
        match self.ended.take() {
            Some(reason) => Poll::Ready(Step::Ended(reason)),
            None => Poll::Pending,
        }
    }

    /// Says what was wrong, or echoes upstream's close. Nobody waits for an answer.
    async fn part(&mut self, reason: &Disconnect) {
        let code = match reason {
            Disconnect::Protocol(_) => Some(CloseCode::Protocol),
            Disconnect::NotUtf8 => Some(CloseCode::Invalid),
            Disconnect::Oversize => Some(CloseCode::Size),
            // tungstenite has the echo ready.
            Disconnect::Closed { .. } => None,
            // Nobody hears it.
            _ => return,
        };
        let goodbye = async {
            if let Some(code) = code {
                let frame = CloseFrame { code, reason: Utf8Bytes::default() };
                self.socket.feed(Message::Close(Some(frame))).await?;
            }
            self.socket.flush().await
        };
        // The connection ends either way; a goodbye that cannot be said is not missed.
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    /// The closing handshake that the relay asked for: waits for upstream's answer so that a service which allows one
    /// connection sees this one gone. What comes in meanwhile is dropped.
    async fn close(&mut self, code: u16) {
        let closing = async {
            let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::default() };
            self.socket.send(Message::Close(Some(frame))).await?;
            while let Some(message) = self.socket.next().await {
                if message?.is_close() {
                    break;
                }
            }
            Ok::<(), Error>(())
        };
        // As above: it ends either way.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

/// Carries frames until the connection ends.
pub async fn carry(
    attempt: AttemptId,
    wire: &mut Wire,
    inputs: &mpsc::Sender<Input>,
    orders: &mut mpsc::Receiver<Order>,
    write_timeout: Duration,
) -> End {
    let mut room = None;
    let mut deadline = Instant::now();
    loop {
        let step = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Transmit(frames)) => {
                    wire.outgoing.extend(frames);
                    wire.writing = true;
                    deadline = Instant::now() + write_timeout;
                    continue;
                }
                // It is upgraded already.
                Some(Order::Upgrade(_)) => continue,
                Some(Order::KeepPolling) => {
                    wire.close(u16::from(CloseCode::Normal)).await;
                    return End::KeepPolling;
                }
                Some(Order::Disconnect(code)) => {
                    wire.close(code).await;
                    return End::Of(Disconnect::Asked);
                }
                None => {
                    wire.close(u16::from(CloseCode::Away)).await;
                    return End::Of(Disconnect::Asked);
                }
            },
            permit = inputs.reserve(), if room.is_none() => match permit {
                Ok(permit) => {
                    room = Some(permit);
                    continue;
                }
                Err(_) => return End::Of(Disconnect::Asked),
            },
            step = std::future::poll_fn(|cx| wire.poll(cx, room.is_some())) => step,
            () = sleep_until(deadline), if wire.writing => Step::Ended(Disconnect::WriteTimeout),
        };
        match step {
            Step::Received(frames) => {
                if let Some(room) = room.take() {
                    room.send(Input::Received { attempt, at: crate::clock::now(), frames });
                }
            }
            // Goes out in front of what is read later: answers keep the order in which things happened.
            Step::Written => match room.take() {
                Some(room) => room.send(Input::Transmitted { attempt }),
                None => {
                    let _ = inputs.send(Input::Transmitted { attempt }).await;
                }
            },
            Step::Ended(reason) => {
                wire.part(&reason).await;
                return End::Of(reason);
            }
        }
    }
}

/// Text that the relay made is UTF-8; were it not, it would go out as binary rather than panic. `None`: a WebSocket cannot
/// carry it.
fn message(frame: WireFrame) -> Option<Message> {
    match frame {
        WireFrame::Text(text) => match Utf8Bytes::try_from(text.clone()) {
            Ok(text) => Some(Message::Text(text)),
            Err(_) => Some(Message::Binary(text)),
        },
        WireFrame::Binary(data) => Some(Message::Binary(data)),
        WireFrame::Ping(data) => Some(Message::Ping(data)),
        WireFrame::Pong(data) => Some(Message::Pong(data)),
        WireFrame::Event(_) | WireFrame::Life | WireFrame::Ask(_) | WireFrame::Answer(_) => None,
    }
}

fn frame(message: Message) -> Option<WireFrame> {
    match message {
        Message::Text(text) => Some(WireFrame::Text(text.into())),
        Message::Binary(data) => Some(WireFrame::Binary(data)),
        Message::Ping(data) => Some(WireFrame::Ping(data)),
        Message::Pong(data) => Some(WireFrame::Pong(data)),
        // Close is handled by the caller; a raw frame never comes out of a read.
        Message::Close(_) | Message::Frame(_) => None,
    }
}

fn closed(frame: Option<CloseFrame>) -> Disconnect {
    match frame {
        None => Disconnect::Closed { code: NO_STATUS, reason: String::new() },
        // tungstenite puts this in place of a code that must not stand on the wire (RFC 6455 section 7.4.1).
        Some(frame) if frame.code == CloseCode::Protocol && frame.reason.as_str() == "Protocol violation" => {
            Disconnect::Protocol("a close frame with a reserved code".to_owned())
        }
        Some(frame) => Disconnect::Closed { code: frame.code.into(), reason: show(frame.reason.as_bytes()) },
    }
}

fn reason(error: Error) -> Disconnect {
    match error {
        Error::Capacity(_) => Disconnect::Oversize,
        Error::Utf8(_) => Disconnect::NotUtf8,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Disconnect::Reset("cut without a close frame".to_owned())
        }
        Error::Protocol(why) => Disconnect::Protocol(why.to_string()),
        // TCP_USER_TIMEOUT: our bytes were not acknowledged in time.
        Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => Disconnect::WriteTimeout,
        other => Disconnect::Reset(other.to_string()),
    }
}
