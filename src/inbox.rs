//! How everything reaches the driver: a queue of [`Input`]s on the feed thread, and a channel from all other threads.
//!
//! Answers have reserved room: [`Inbox::push`] always takes them. Only *unasked* input is bounded: whoever reads a socket
//! waits for [`Inbox::room`] before it reads on, so that a full inbox becomes TCP backpressure.
//!
//! Invariant: a waiting driver is woken by every push; a waiting reader is woken when the inbox has room again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::config::Config;
use crate::protocol::frame::Format;
use crate::protocol::request::Subscribe;
use crate::relay::access::Principal;
use crate::relay::pairs::{AlertFailure, CallRequest, DeliveryId, Input, Reply};

/// Inputs above which readers wait. Each holds at most one read turn's requests.
const ROOM: usize = 4096;

/// The feed thread's queue. Clones are handles to the same queue and stay on that thread.
#[derive(Clone, Default)]
pub struct Inbox(Rc<Inner>);

#[derive(Default)]
struct Inner {
    queue: RefCell<VecDeque<Input>>,
    ready: Notify,
    room: Notify,
}

impl Inbox {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an input and wakes the driver. Never fails: who pushes unasked input waits for [`Inbox::room`] first.
    pub fn push(&self, input: Input) {
        self.0.queue.borrow_mut().push_back(input);
        self.0.ready.notify_one();
    }

    /// Takes the oldest input.
    pub fn pop(&self) -> Option<Input> {
        let mut queue = self.0.queue.borrow_mut();
        let input = queue.pop_front();
        if queue.len() + 1 == ROOM {
            self.0.room.notify_waiters();
        }
        input
    }

    /// Inputs that wait.
    pub fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns as soon as an input waits. One waiter: the driver. Cancel safe.
    pub async fn ready(&self) {
        while self.is_empty() {
            self.0.ready.notified().await;
        }
    }

    /// Returns as soon as unasked input may be pushed. Cancel safe.
    pub async fn room(&self) {
        while self.len() >= ROOM {
            self.0.room.notified().await;
        }
    }
}

/// What other threads (side runtime, store, signals) send to the feed thread.
pub enum FromOutside {
    /// A client's connection, its handshake done.
    Adopt(Adopted),
    /// An HTTP request that the relay answers.
    Call {
        /// Who asks.
        principal: Arc<Principal>,
        /// What.
        request: CallRequest,
        /// Where the answer goes. Dropped unused if the relay is gone.
        answer: oneshot::Sender<Reply>,
    },
    /// A signal: drain and stop; the second one at once.
    Stop {
        /// Whether to stop at once.
        now: bool,
    },
    /// A message of an alert was told outside, or could not be.
    Alerted {
        /// Which.
        delivery: DeliveryId,
        /// Whether it arrived.
        result: Result<(), AlertFailure>,
    },
    /// A new configuration took the old one's place.
    Reload(Arc<Config>),
}

/// A client's connection on its way to the feed thread. Its response head is already written.
#[derive(Debug)]
pub struct Adopted {
    /// The socket, non-blocking, registered with no runtime.
    pub stream: TcpStream,
    /// What was read behind the request's head.
    pub leftover: Bytes,
    /// Who it is.
    pub principal: Arc<Principal>,
    /// In which format it is written.
    pub format: Format,
    /// What its address subscribes.
    pub subscribe: Option<Subscribe>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its share of `feed.max_sessions`, given back when the connection is gone.
    pub seat: Seat,
}

/// Counts sessions over all threads, from the handshake to the closed socket.
#[derive(Debug, Clone, Default)]
pub struct Seats(Arc<AtomicUsize>);

/// One of the [`Seats`]; dropping it gives it back.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Seats {
    /// A seat, unless `limit` are taken.
    pub fn take(&self, limit: usize) -> Option<Seat> {
        let taken =
            self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < limit).then_some(taken + 1));
        taken.ok().map(|_| Seat(self.0.clone()))
    }

    /// Seats that are taken.
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_full_inbox_takes_answers_and_holds_readers_back() {
        let inbox = Inbox::new();
        assert!(inbox.ready().now_or_never().is_none());
        for _ in 0..ROOM {
            assert!(inbox.room().now_or_never().is_some());
            inbox.push(Input::Committed);
        }
        let mut waiting = Box::pin(inbox.room());
        assert!((&mut waiting).now_or_never().is_none());
        inbox.push(Input::Committed);
        assert!(inbox.ready().now_or_never().is_some());
        inbox.pop();
        assert!((&mut waiting).now_or_never().is_none());
        inbox.pop();
        assert!((&mut waiting).now_or_never().is_some());
        assert_eq!(inbox.len(), ROOM - 1);
    }

    #[test]
    fn seats_are_limited_and_given_back() {
        let seats = Seats::default();
        let one = seats.take(2).unwrap();
        let two = seats.take(2).unwrap();
        assert!(seats.take(2).is_none());
        drop(one);
        assert_eq!(seats.taken(), 1);
        assert!(seats.take(2).is_some());
        drop(two);
        assert_eq!(seats.taken(), 0);
    }
}
