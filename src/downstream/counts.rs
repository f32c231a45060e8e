//! What the listeners count, beside the relay: requests refused before they reached it, and failed accepts.
//!
//! Invariant: counters only rise. Read by the metrics, decided by nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::codes::ErrorCode;

/// Counters of all listeners of the process.
#[derive(Debug, Default)]
pub struct HttpCounts {
    refused: [AtomicU64; ErrorCode::ALL.len()],
    accept_errors: AtomicU64,
}

impl HttpCounts {
    /// Requests refused with this code, handshakes of sessions included.
    pub fn refused(&self, code: ErrorCode) -> u64 {
        self.refused[code as usize].load(Ordering::Relaxed)
    }

    /// Accepts that failed for want of descriptors or memory.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self, code: ErrorCode) {
        self.refused[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }
}
