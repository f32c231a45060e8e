//! What one blocked session's kernel has not taken yet. Most sessions have none.
//!
//! Invariant: pieces leave whole and in order, so that a pong or a close never lands inside a half-written frame. Bounded by
//! construction: the relay has one batch out per session, one pong replaces another, and nothing follows the last piece.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::relay::pairs::LeftReason;

/// What a piece is, for what follows when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// A batch: `Delivered`.
    Batch,
    /// An answer to a ping.
    Pong,
    /// A ping or a comment.
    Ping,
    /// The last bytes of this session.
    Last(LeftReason),
}

/// Pieces that wait for the socket, the first possibly half written.
pub(super) struct Backlog {
    pieces: VecDeque<(Bytes, Piece)>,
    begun: bool,
    /// Since when the first piece waits.
    pub(super) since: Instant,
}

impl Backlog {
    /// A backlog that begins with the rest of a piece.
    pub(super) fn new(rest: Bytes, piece: Piece, begun: bool) -> Self {
        Backlog { pieces: VecDeque::from([(rest, piece)]), begun, since: Instant::now() }
    }

    /// Appends a piece.
    pub(super) fn push(&mut self, bytes: Bytes, piece: Piece) {
        let unbegun = if self.begun { 1 } else { 0 };
        if piece == Piece::Pong
            && let Some((old, _)) = self.pieces.iter_mut().skip(unbegun).find(|(_, piece)| *piece == Piece::Pong)
        {
            *old = bytes;
            return;
        }
        self.pieces.push_back((bytes, piece));
    }

    /// Whether the session's last piece is in here.
    pub(super) fn ends(&self) -> bool {
        matches!(self.pieces.back(), Some((_, Piece::Last(_))))
    }

    /// Writes on. `Some`: this piece is with the kernel, call again. `None`: blocked, or nothing is left.
    pub(super) fn write(&mut self, stream: &TcpStream) -> io::Result<Option<Piece>> {
        let Some((bytes, piece)) = self.pieces.front_mut() else { return Ok(None) };
        let length = bytes.len();
        let written = write_some(stream, bytes)?;
        if written < length {
            bytes.advance(written);
            self.begun |= written > 0;
            return Ok(None);
        }
        let piece = *piece;
        self.pieces.pop_front();
        self.begun = false;
        self.since = Instant::now();
        Ok(Some(piece))
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Writes until the kernel takes no more; how many bytes it took. Stops short only where the socket would block, because
/// readiness is edge triggered.
pub(super) fn write_some(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.try_write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
