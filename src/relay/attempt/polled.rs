//! A session whose packets are polled for: what waits for the next POST, and the session's move to a WebSocket.
//!
//! The move goes step by step: a WebSocket is opened beside the polls; over it upstream is asked whether it is the session's;
//! once it says yes, nothing leaves any more and the poll and the POST that are out are waited for; then the session is moved,
//! and what waited leaves over the WebSocket. Whatever goes wrong before that leaves the session where it was.
//!
//! Invariants: what upstream says over polls is heard before what it says over the WebSocket, and what we say in the
//! same order; each step ends by one deadline for all of them. Deliberately not here: the packets, and when a session
//! is moved.

use std::collections::VecDeque;

use super::Carried;
use crate::dialect::WireFrame;
use crate::relay::time::Mono;

/// How far the move is. Each has the deadline of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Move {
    /// None is under way.
    #[default]
    None,
    /// The WebSocket is being opened.
    Opening(Mono),
    /// It is open, and upstream has to be asked.
    Open(Mono),
    /// Upstream was asked.
    Asked(Mono),
    /// It said yes: the poll and the POST that are out are waited for.
    Pausing(Mono),
    /// It was given up; the carrier has not said yet that the WebSocket is gone.
    GivenUp,
    /// The session was moved.
    Done,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Polled {
    /// Packets that wait for the next POST; attachments, as binary frames, behind the packet that announces them.
    pub packets: VecDeque<WireFrame>,
    /// What they and those of the POST that is out were for: written once upstream has taken all of them.
    pub carried: Vec<Carried>,
    /// How far the session's move is.
    pub step: Move,
}

impl Polled {
    /// Whether packets wait, or must.
    pub fn holds(&self) -> bool {
        !self.packets.is_empty() || self.is_pausing()
    }

    /// Whether nothing may leave before the session has moved.
    pub fn is_pausing(&self) -> bool {
        matches!(self.step, Move::Pausing(_))
    }

    /// Whether a move has begun and not ended.
    pub fn is_moving(&self) -> bool {
        !matches!(self.step, Move::None | Move::Done)
    }

    /// By when the session has to have moved.
    pub fn deadline(&self) -> Option<Mono> {
        match self.step {
            Move::Opening(at) | Move::Open(at) | Move::Asked(at) | Move::Pausing(at) => Some(at),
            Move::None | Move::GivenUp | Move::Done => None,
        }
    }
}
