//! Which fetch belongs to whom: whoever needs something from outside asks here, and hears here what came.
//!
//! Invariants: every fetch has a number of its own; what is out is bounded by who may ask; an answer for somebody who is gone
//! meanwhile finds nobody. Deliberately not here: how long a fetch may take (its carrier's, by the request's own `timeout`).

use std::collections::BTreeMap;

use crate::dialect::{ChannelId, HttpAnswer};
use crate::relay::Relay;
use crate::relay::credentials::Source;
use crate::relay::feed::RingId;
use crate::relay::pairs::{AttemptId, CallId, Credentials, Fetch, FetchAnswer, FetchError, Output};
use crate::relay::time::Time;

/// Fetches that are out at once; beyond it repairs get none. Credentials do: they are one per attempt or source.
const FETCHES_MAX: usize = 64;
/// Calls for channels that are out at once; others wait.
const CHANNEL_CALLS_MAX: usize = 16;

/// Who asked, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::relay) enum Asker {
    /// An attempt, for token and secrets.
    Credentials(AttemptId),
    /// Whoever needs what a source supplies.
    Source(Source),
    /// An attempt, for a channel that it is to subscribe.
    Channel {
        /// On which connection.
        attempt: AttemptId,
        /// Which channel.
        channel: ChannelId,
        /// Which `[fetch.NAME]`.
        fetch: usize,
    },
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
    /// Asks for something from outside.
    pub(in crate::relay) fn fetch(&mut self, asker: Asker, request: Fetch) {
        self.fetches.last += 1;
        let call = CallId(self.fetches.last);
        self.fetches.out.insert(call, asker);
        self.outputs.push_back(Output::Fetch { call, request });
    }

    /// Whether so much is out that what can wait has to.
    pub(in crate::relay) fn fetches_full(&self) -> bool {
        self.fetches.out.len() >= FETCHES_MAX
    }

    /// Whether so many calls for channels are out that the next one has to wait for one of them.
    pub(in crate::relay) fn channel_calls_full(&self) -> bool {
        let calls = self.fetches.out.values().filter(|asker| matches!(asker, Asker::Channel { .. }));
        calls.count() >= CHANNEL_CALLS_MAX
    }

    /// Tells whoever asked.
    pub(in crate::relay) fn fetched(&mut self, now: Time, call: CallId, result: Result<FetchAnswer, FetchError>) {
        match self.fetches.out.remove(&call) {
            Some(Asker::Credentials(attempt)) => {
                let read = result.map(|answer| match answer {
                    FetchAnswer::Credentials(read) => read,
                    FetchAnswer::Http(_) => Credentials::default(),
                });
                self.credentials_read(now, attempt, read);
            }
            Some(Asker::Source(source)) => self.source_answered(now, source, exchanged(result)),
            Some(Asker::Channel { attempt, channel, fetch }) => {
                self.channel_answered(now, (attempt, channel, fetch), exchanged(result));
            }
            Some(Asker::Repair(ring, number)) => {
                self.repair_fetched(now, ring, number, exchanged(result).ok());
            }
            None => {}
        }
    }
}

/// The answer of an exchange.
fn exchanged(result: Result<FetchAnswer, FetchError>) -> Result<HttpAnswer, FetchError> {
    match result? {
        FetchAnswer::Http(answer) => Ok(answer),
        FetchAnswer::Credentials(_) => Err(FetchError::Broken("not what was asked for".to_owned())),
    }
}
