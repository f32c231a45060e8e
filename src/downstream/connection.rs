//! One HTTP connection on the side runtime: hyper speaks HTTP/1.1, and a request that becomes a session takes the socket
//! out of hyper's hands before anything is answered, with whatever was read behind it.
//!
//! The way out: the handler asks for a take-over, its response never comes, and the connection is taken apart as soon as
//! earlier responses are flushed. So WebSocket and event streams leave by the same door, and hyper's task ends.
//!
//! Invariant: after a take-over the socket has no byte of an earlier response pending, and none of the client's is lost.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// Bytes of a request's head (431 beyond), and of hyper's buffer.
const HEAD_MAX: usize = 16 * 1024;
/// How long, and how many bytes of, a refused request we still read, so that the client gets to read our answer.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 256 * 1024;

/// What a handler does with a request.
pub(super) enum Answer<T> {
    /// Answers it.
    Respond(Response<Full<Bytes>>),
    /// Takes the connection over; nothing is answered.
    TakeOver(T),
}

/// A connection that was taken over.
pub(super) struct Taken<T> {
    pub(super) stream: TcpStream,
    /// Bytes that were read behind the request.
    pub(super) leftover: Bytes,
    pub(super) with: T,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// For a request's head, and from one request to the next.
    pub(super) head: Duration,
    /// Without taking any byte of an answer.
    pub(super) write: Duration,
}

/// Serves a connection until it ends, or a handler takes it over.
pub(super) async fn serve<T, F, A>(stream: TcpStream, deadlines: Deadlines, handle: F) -> Option<Taken<T>>
where
    T: Send + 'static,
    F: Fn(Request<Incoming>) -> A + Unpin,
    A: Future<Output = Answer<T>> + Send + 'static,
{
    let (wish, mut wishes) = mpsc::channel(1);
    let service = service_fn(move |request| {
        let (answer, wish) = (handle(request), wish.clone());
        Box::pin(async move {
            match answer.await {
                Answer::Respond(response) => Ok::<_, Infallible>(response),
                Answer::TakeOver(with) => {
                    // There is room: a connection is taken over once.
                    let _ = wish.try_send(with);
                    pending().await
                }
            }
        })
    });
    let blocked = Arc::new(AtomicBool::new(false));
    let tap = Tap { stream, blocked: blocked.clone(), write_timeout: deadlines.write, stall: None };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadlines.head)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(tap), service);
    let mut with = None;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(result);
        }
        if let Poll::Ready(Some(wish)) = wishes.poll_recv(cx) {
            with = Some(wish);
        }
        let flushed = !blocked.load(Ordering::Relaxed);
        if with.is_some() && flushed { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an HTTP connection failed");
        with = None;
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().stream;
    match with {
        Some(with) => Some(Taken { stream, leftover: parts.read_buf, with }),
        None => {
            see_off(stream).await;
            None
        }
    }
}

/// Ends our side and reads on for a moment: closing on unread bytes would reset the connection and destroy the answer.
async fn see_off(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES as u64), &mut tokio::io::sink()).await
    };
    // The client may be gone already, or stay for longer than it should.
    let _ = tokio::time::timeout(FAREWELL, rest).await;
}

/// A socket that knows whether its last write was blocked, that is, whether hyper holds bytes that are not flushed, and that
/// fails when this lasts too long.
struct Tap {
    stream: TcpStream,
    blocked: Arc<AtomicBool>,
    write_timeout: Duration,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Tap {
    fn noted(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked.store(poll.is_pending(), Ordering::Relaxed);
        if poll.is_ready() {
            self.stall = None;
            return poll;
        }
        let timeout = self.write_timeout;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        let waited = stall.as_mut().poll(cx);
        waited.map(|()| {
            // The kernel should forget what this client does not read; if it cannot, closing takes longer.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.noted(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
