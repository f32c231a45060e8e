//! HTTP requests that wait for the relay's answer.
//!
//! Invariant: every call that was numbered is answered once, or its client finds the channel closed. Bounded by the HTTP
//! connections that wait, which the listeners limit.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::relay::pairs::{CallId, Reply};

/// Calls without an answer yet.
#[derive(Default)]
pub struct Calls {
    next: u64,
    waiting: BTreeMap<CallId, oneshot::Sender<Reply>>,
}

impl Calls {
    /// Numbers a call. The relay's own calls (`Fetch`) have numbers of their own; the two never meet.
    pub fn begin(&mut self, answer: oneshot::Sender<Reply>) -> CallId {
        self.next += 1;
        let call = CallId(self.next);
        self.waiting.insert(call, answer);
        call
    }

    /// Passes the answer on. A client that has gone away needs none.
    pub fn answer(&mut self, call: CallId, reply: Reply) {
        if let Some(waiting) = self.waiting.remove(&call) {
            let _ = waiting.send(reply);
        }
    }
}
