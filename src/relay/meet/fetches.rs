//! Which fetch belongs to whom: whoever needs something from outside asks here, and hears here what came.
//!
//! Invariants: every fetch has a number of its own; at most [`FETCHES_MAX`] are out; an answer for somebody who is gone
//! meanwhile finds nobody. Deliberately not here: how long a fetch may take (its carrier's, by the request's own `timeout`).

use std::collections::BTreeMap;

use crate::relay::Relay;
use crate::relay::feed::RingId;
use crate::relay::pairs::{AttemptId, CallId, Fetch, FetchAnswer, FetchError, Output};
use crate::relay::time::Time;

/// Fetches that are out at once. Beyond it nobody gets one: whoever asks has to treat that as a fetch that failed.
const FETCHES_MAX: usize = 64;

/// Who asked, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::relay) enum Asker {
    /// An attempt, for the upstream token.
    Token(AttemptId),
    /// The repair of a channel, for this try.
    Repair(RingId, u64),
}

/// The fetches that are out.
#[derive(Debug, Default)]
pub(in crate::relay) struct Fetches {
    last: u64,
    out: BTreeMap<CallId, Asker>,
}

impl Relay {
    /// Asks for something from outside; `false`: too much is asked for already.
    pub(super) fn fetch(&mut self, asker: Asker, request: Fetch) -> bool {
        if self.fetches.out.len() >= FETCHES_MAX {
            return false;
        }
        self.fetches.last += 1;
        let call = CallId(self.fetches.last);
        self.fetches.out.insert(call, asker);
        self.outputs.push_back(Output::Fetch { call, request });
        true
    }

    /// Tells whoever asked.
    pub(in crate::relay) fn fetched(&mut self, now: Time, call: CallId, result: Result<FetchAnswer, FetchError>) {
        match self.fetches.out.remove(&call) {
            Some(Asker::Token(attempt)) => {
                let token = result.map(|answer| match answer {
                    FetchAnswer::Token(token) => token,
                    FetchAnswer::Http(_) => None,
                });
                self.token_fetched(now, attempt, token);
            }
            Some(Asker::Repair(ring, number)) => {
                let answer = result.ok().and_then(|answer| match answer {
                    FetchAnswer::Http(answer) => Some(answer),
                    FetchAnswer::Token(_) => None,
                });
                self.repair_fetched(now, ring, number, answer);
            }
            None => {}
        }
    }
}
