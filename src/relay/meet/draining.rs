//! Stopping and reloading.
//!
//! A drain goes in steps: nothing new is accepted and no message leaves any more; what is in flight, and what is still to
//! become durable, is waited for, up to `drain.timeout`, so that outcomes still reach their publishers; then every session is
//! told `closing` and closed, upstream is left, and when the last commit is durable the process may go. A second stop skips
//! the waiting, never the durability.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::protocol::codes::{CloseCode, ErrorCode};
use crate::relay::Relay;
use crate::relay::access::{Access, Principal};
use crate::relay::feed::RingId;
use crate::relay::pairs::{Output, SessionId};
use crate::relay::time::{Mono, Time};

/// How long sessions may take to be closed; what is left then is dropped with the process.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Where the drain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::relay) enum Draining {
    /// Not draining.
    #[default]
    No,
    /// Waiting for messages in flight until then. `exit`: the process stops at the end.
    Waiting { until: Mono, exit: bool },
    /// Sessions and upstream are closing, until then. `None`: that is over, and only the store's answer is waited for.
    Closing { until: Option<Mono>, exit: bool },
    /// Done, but the process stays (`POST /v1/drain`) or has been told to go.
    Done,
}

impl Draining {
    /// Whether anything new is refused.
    pub(in crate::relay) fn is_draining(self) -> bool {
        self != Draining::No
    }

    pub(in crate::relay) fn due(self) -> Option<Mono> {
        match self {
            Draining::Waiting { until, .. } => Some(until),
            Draining::Closing { until, .. } => until,
            Draining::No | Draining::Done => None,
        }
    }
}

impl Relay {
    pub(in crate::relay) fn stop(&mut self, now: Time, at_once: bool) {
        self.drain(now, at_once, true);
    }

    /// Begins a drain, or hurries one that goes on.
    pub(in crate::relay) fn drain(&mut self, now: Time, at_once: bool, exit: bool) {
        match self.draining {
            Draining::No => {
                let wait = if at_once { Duration::ZERO } else { self.config.drain_timeout };
                self.draining = Draining::Waiting { until: now.mono + wait, exit };
            }
            Draining::Waiting { until, exit: before } => {
                let until = if at_once { now.mono } else { until };
                self.draining = Draining::Waiting { until, exit: exit || before };
            }
            Draining::Closing { until, exit: before } => {
                let until = if at_once { until.map(|_| now.mono) } else { until };
                self.draining = Draining::Closing { until, exit: exit || before };
            }
            Draining::Done if exit => self.draining = Draining::Closing { until: Some(now.mono), exit },
            Draining::Done => {}
        }
        self.draining_timeout(now);
    }

    /// Goes to the next step if this one is over. Called at every timeout and after every turn of a drain.
    pub(in crate::relay) fn draining_timeout(&mut self, now: Time) {
        if let Draining::Waiting { until, exit } = self.draining
            && (until <= now.mono || (self.nothing_in_flight() && self.store_is_idle()))
        {
            let ids: Vec<SessionId> = self.sessions.iter().map(|session| session.id).collect();
            for id in ids {
                self.close_session(id, if exit { CloseCode::Restart } else { CloseCode::GoingAway });
            }
            self.answer_all_waiting();
            self.outbox.note_in_flight();
            self.leave_upstream(now);
            self.draining = Draining::Closing { until: Some(now.mono + CLOSE_WITHIN), exit };
        }
        if let Draining::Closing { until, exit } = self.draining
            && (until.is_none_or(|until| until <= now.mono) || (self.sessions.is_empty() && self.upstream_is_gone()))
        {
            if !self.tally_is_closed() || !self.store_is_idle() {
                // Its answer is an input: there is no time at which to look again.
                self.draining = Draining::Closing { until: until.filter(|until| *until > now.mono), exit };
                return;
            }
            self.draining = Draining::Done;
            if exit {
                self.outputs.push_back(Output::Stopped);
            }
        }
    }

    pub(in crate::relay) fn reload(&mut self, now: Time, config: Arc<Config>) {
        self.access = Access::new(&config.access);
        self.feed.reload(&config);
        self.outbox.reload(&config.outbox);
        self.interest.reload(&config.interest);
        self.repairs.reload(config.repair);
        self.budget.reload(config.budget);
        self.redactor.configure(&config, self.dialect.secret_params());
        self.config = config;
        self.remap(now);
        self.watch_again(now);
        self.alerts_again(now);
        let sessions: Vec<(SessionId, Arc<Principal>)> =
            self.sessions.iter().map(|session| (session.id, Arc::clone(&session.principal))).collect();
        for (id, principal) in sessions {
            match self.access.renew(&principal) {
                Some(renewed) => self.renewed(now, id, renewed),
                None => self.close_session(id, CloseCode::TokenExpired),
            }
        }
    }

    /// A principal's rights changed: subscriptions that they no longer cover end.
    fn renewed(&mut self, now: Time, id: SessionId, principal: Arc<Principal>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.principal = Arc::clone(&principal);
        let slots: Vec<(u32, RingId)> =
            (0u32..).zip(&session.subscriptions).filter_map(|(at, slot)| Some((at, slot.as_ref()?.ring))).collect();
        for (slot, ring) in slots {
            let Some(name) = self.feed.ring(ring).map(|ring| Arc::clone(&ring.name)) else { continue };
            if !self.may_read(&principal, &name) {
                self.end_subscription(now, id, slot);
                let message = "not among the channels that this principal may read any more";
                self.refuse(id, None, Some(&name), ErrorCode::Forbidden, message, None);
            }
        }
    }
}
