//! One task per session that waits for the client's bytes and turns them into inputs.
//!
//! Invariant: it reads only while the inbox has room, takes at most [`TURN`] requests before others have theirs, and holds no
//! buffer while it waits. It never writes: what it wants sent it asks of the writers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::line::{Ask, Line, Shared};
use super::websocket::{Heard, Incoming};
use crate::protocol::frame::Format;
use crate::protocol::request::parse;
use crate::relay::pairs::Input;

/// Bytes of one read.
const SCRATCH: usize = 64 * 1024;
/// Messages of one turn.
const TURN: usize = 64;
/// Bytes that a client of SSE may send after its request before it is taken for something else.
const SSE_NOISE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Reads until the client or the writers end it.
pub(super) async fn read(line: Rc<Line>, shared: Rc<Shared>, format: Format, leftover: Bytes) {
    let mut ear = match format {
        Format::WebSocket => Ear::WebSocket(Incoming::default()),
        Format::Sse => Ear::Sse { noise: 0 },
    };
    let mut held = Some(leftover);
    loop {
        shared.inbox.room().await;
        let turn = match held.take() {
            Some(rest) => ear.listen(&rest, &line, &shared),
            None => {
                if poll_fn(|cx| line.stream.poll_read_ready(cx)).await.is_err() {
                    shared.ask(line.session, Ask::Gone);
                    return;
                }
                read_turn(&line, &shared, &mut ear)
            }
        };
        match turn {
            Turn::Idle => continue,
            Turn::Heard => {}
            Turn::Held(rest) => held = Some(rest),
            Turn::Over => return,
        }
        tokio::task::yield_now().await;
    }
}

/// What remains after a turn.
enum Turn {
    /// The socket had nothing.
    Idle,
    /// All that was read is taken.
    Heard,
    /// The turn's share is used up; these bytes, possibly none, and what the context holds wait for the next.
    Held(Bytes),
    /// Nothing more will come.
    Over,
}

fn read_turn(line: &Line, shared: &Shared, ear: &mut Ear) -> Turn {
    BUFFER.with_borrow_mut(|buffer| {
        let count = match line.stream.try_read(buffer) {
            Ok(0) => 0,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return if line.is_over() { Turn::Over } else { Turn::Idle };
            }
            Err(_) => 0,
        };
        if count == 0 {
            shared.ask(line.session, Ask::Gone);
            return Turn::Over;
        }
        line.unanswered.set(0);
        ear.listen(&buffer[..count], line, shared)
    })
}

/// How the bytes of a session are understood.
enum Ear {
    WebSocket(Incoming),
    Sse { noise: usize },
}

impl Ear {
    fn listen(&mut self, bytes: &[u8], line: &Line, shared: &Shared) -> Turn {
        if line.is_over() {
            return Turn::Over;
        }
        if line.deaf.get() {
            return Turn::Heard;
        }
        match self {
            Ear::WebSocket(incoming) => hear_turn(incoming, bytes, line, shared),
            Ear::Sse { noise } => {
                *noise += bytes.len();
                if *noise > SSE_NOISE {
                    shared.ask(line.session, Ask::Gone);
                    return Turn::Over;
                }
                Turn::Heard
            }
        }
    }
}

fn hear_turn(incoming: &mut Incoming, mut bytes: &[u8], line: &Line, shared: &Shared) -> Turn {
    let limits = shared.limits.get();
    for _ in 0..TURN {
        let Some(heard) = incoming.hear(&mut bytes, limits.request_max) else {
            return Turn::Heard;
        };
        let ask = match heard {
            Heard::Text(text) => {
                let request = parse::parse(&text, &limits);
                shared.inbox.push(Input::Request { session: line.session, request });
                continue;
            }
            Heard::Pong => continue,
            Heard::Ping(pong) => Ask::Pong(pong),
            Heard::Close(answer) => Ask::Farewell(answer),
            Heard::Wrong(code) => Ask::Refuse(code),
        };
        let last = !matches!(ask, Ask::Pong(_));
        shared.ask(line.session, ask);
        if last {
            // The writers part now or when they have room; what still comes does not matter.
            line.deaf.set(true);
            return Turn::Heard;
        }
    }
    Turn::Held(Bytes::copy_from_slice(bytes))
}
