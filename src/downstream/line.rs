//! One session's socket on the feed thread, shared by its reader and the writers, and the way in which readers ask the
//! writers for something.
//!
//! Invariant: only the writers write to a socket, so that no two frames ever mix; only the reader reads from it. The socket
//! closes when its reader has returned and the writers have let go of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::inbox::{Inbox, Seat};
use crate::protocol::codes::CloseCode;
use crate::protocol::request::parse::RequestLimits;
use crate::relay::pairs::SessionId;

/// Bytes that the kernel may hold unsent for one client. Without a bound it queues megabytes, and a slow client is not seen.
const UNSENT: u32 = 48 * 1024;

/// A session's socket.
pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) session: SessionId,
    /// Pings sent since the client was last heard.
    pub(super) unanswered: Cell<u8>,
    /// What the client still says does not matter: the reader only waits for its end.
    pub(super) deaf: Cell<bool>,
    /// Nothing matters any more: the reader returns.
    over: Cell<bool>,
    _seat: Seat,
}

impl Line {
    /// Takes a socket over to this thread's runtime. `user_timeout`: how long sent bytes may stay unacknowledged.
    pub(super) fn new(
        stream: std::net::TcpStream,
        session: SessionId,
        seat: Seat,
        user_timeout: Duration,
    ) -> io::Result<Self> {
        let stream = TcpStream::from_std(stream)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_tcp_user_timeout(Some(user_timeout))?;
        let line = Line {
            stream,
            session,
            unanswered: Cell::new(0),
            deaf: Cell::new(false),
            over: Cell::new(false),
            _seat: seat,
        };
        Ok(line)
    }

    /// Whether the reader should return.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Says that no byte follows and lets the reader wait for the client's end.
    pub(super) fn part(&self) {
        self.deaf.set(true);
        self.shut(Shutdown::Write);
    }

    /// Ends the socket in both directions, which also wakes whoever waits on it.
    pub(super) fn hang_up(&self) {
        self.over.set(true);
        self.shut(Shutdown::Both);
    }

    /// As [`Line::hang_up`], and the kernel forgets what it has not sent: for clients that do not read.
    pub(super) fn abort(&self) {
        if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "SO_LINGER of a client's socket");
        }
        self.hang_up();
    }

    fn shut(&self, how: Shutdown) {
        // Fails only where the client was faster, which comes to the same.
        let _ = SockRef::from(&self.stream).shutdown(how);
    }
}

/// What a reader asks of the writers.
pub(super) enum Ask {
    /// Send this pong; of several unsent ones the last is enough (RFC 6455 section 5.5.3).
    Pong(Vec<u8>),
    /// The client said goodbye: send this answer and part.
    Farewell(Vec<u8>),
    /// The client broke the protocol: close with this code.
    Refuse(CloseCode),
    /// The client is gone.
    Gone,
}

/// What all readers and the writers share.
pub(super) struct Shared {
    pub(super) inbox: Inbox,
    pub(super) limits: Cell<RequestLimits>,
    asks: RefCell<VecDeque<(SessionId, Ask)>>,
    asked: Notify,
}

impl Shared {
    pub(super) fn new(inbox: Inbox, limits: RequestLimits) -> Rc<Self> {
        let asks = RefCell::new(VecDeque::new());
        Rc::new(Shared { inbox, limits: Cell::new(limits), asks, asked: Notify::new() })
    }

    /// Asks the writers. A reader has few asks out: it yields after each read turn.
    pub(super) fn ask(&self, session: SessionId, ask: Ask) {
        self.asks.borrow_mut().push_back((session, ask));
        self.asked.notify_one();
    }

    pub(super) fn next_ask(&self) -> Option<(SessionId, Ask)> {
        self.asks.borrow_mut().pop_front()
    }

    /// Returns as soon as a reader asked. Cancel safe.
    pub(super) async fn asked(&self) {
        while self.asks.borrow().is_empty() {
            self.asked.notified().await;
        }
    }
}
