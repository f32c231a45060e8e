//! Channels that stand in the address: what is wanted becomes part of the next connection, and a change of it another one.
//!
//! Invariants: a connection brings exactly the channels of its address; one whose set is no longer what is wanted is replaced,
//! for many changes at once; none is made for nothing. Channels are live when their connection is ready.
//! Deliberately not here: how the next connection takes over (`handover`), and what the address looks like (the dialect's).

use std::time::Duration;

use crate::dialect::{ChannelId, ChannelSpec, Transport, UrlChannels};
use crate::relay::Relay;
use crate::relay::attempt::Attempt;
use crate::relay::link::rotation::Why;
use crate::relay::time::{Mono, Time};

/// Changes that come within this time lead to one new connection.
const GATHER: Duration = Duration::from_millis(250);

/// When to look whether the connection still brings what is wanted.
#[derive(Debug, Default)]
pub(in crate::relay) struct Addressing {
    /// Something changed since.
    moved: bool,
    due: Option<Mono>,
}

impl Relay {
    /// How the next connection is carried.
    pub(in crate::relay) fn transport(&self) -> Transport {
        self.link.ladder.transport()
    }

    /// Whether the address of this attempt names its channels.
    pub(in crate::relay) fn is_addressed(&self, attempt: &Attempt) -> bool {
        self.dialect.url_channels(attempt.transport) != UrlChannels::None
    }

    /// The channels that the next address is to name.
    pub(in crate::relay) fn to_address(&self, transport: Transport) -> Vec<ChannelId> {
        match self.dialect.url_channels(transport) {
            UrlChannels::None => Vec::new(),
            UrlChannels::One => self.interest.admitted().take(1).collect(),
            UrlChannels::All => self.interest.admitted().collect(),
        }
    }

    /// What the address needs to know of these channels.
    pub(in crate::relay) fn specs(&self, channels: &[ChannelId]) -> Vec<ChannelSpec<'_>> {
        channels.iter().filter_map(|id| self.interest.spec(*id)).collect()
    }

    /// Whether a connection can be made: an address that has to name channels needs some.
    pub(in crate::relay) fn may_connect(&self) -> bool {
        self.dialect.url_channels(self.transport()) == UrlChannels::None || self.interest.admitted().next().is_some()
    }

    /// What is wanted has changed, or which connection serves.
    pub(in crate::relay) fn address_moved(&mut self) {
        self.addressing.moved = true;
    }

    /// Lets further changes gather before something is done about them.
    pub(in crate::relay) fn gather_address(&mut self, now: Mono) {
        if std::mem::take(&mut self.addressing.moved) && self.attempts.active().is_some_and(|a| self.is_addressed(a)) {
            self.addressing.due.get_or_insert(now + GATHER);
        }
    }

    pub(in crate::relay) fn address_due(&self) -> Option<Mono> {
        self.addressing.due
    }

    /// Another connection, if the one that serves no longer brings what is wanted. One that nobody wants anything of stays: it
    /// does no harm, and the next wish is likely to be soon.
    pub(in crate::relay) fn address_timeout(&mut self, now: Time) {
        if self.addressing.due.is_none_or(|due| due > now.mono) {
            return;
        }
        self.addressing.due = None;
        let Some(active) = self.attempts.active().filter(|active| self.is_addressed(active)) else { return };
        let wanted = self.to_address(active.transport);
        if wanted.is_empty() || active.addressed == wanted {
            return;
        }
        if !active.is_ready() || self.attempts.is_paired() {
            self.addressing.due = Some(now.mono + GATHER);
            return;
        }
        self.rotate_upstream(now.mono, Why::Channels);
    }
}
