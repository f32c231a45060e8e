//! Where and how to connect meets the attempts: which endpoint and transport one takes, and what its end says about them.

use crate::dialect::Rotate;
use crate::protocol::control::Object;
use crate::protocol::duration::millis;
use crate::relay::Relay;
use crate::relay::attempt::{Attempt, Ending};
use crate::relay::pairs::{AttemptId, Disconnect, Notice, Output};
use crate::relay::redact::address;
use crate::relay::stats::{CloseClass, ThrottlePlace};
use crate::relay::time::{Mono, Time};
use crate::relay::unsettled::Sequel;

/// Endings in a row that are a fault of one side, after which people are told.
const FAULTS_TOLD: u32 = 3;
/// Connections in a row that were live and did not last, after which people are told.
const FLAPS_TOLD: u32 = 5;

impl Relay {
    /// A new attempt, with its way to the service. `climb`: over a better transport, if it is time to try one.
    pub(in crate::relay) fn new_attempt(&mut self, now: Time, id: AttemptId, climb: bool) -> Attempt {
        let better = self.link.ladder.better(now.mono).filter(|_| climb);
        let transport = better.unwrap_or_else(|| self.link.ladder.transport());
        let endpoint = self.link.endpoints.choose(now.mono, &mut self.rng);
        let counted = if self.link.connects.is_some() { self.tally.ticket() } else { 0 };
        Attempt::new(id, &self.config.upstream, now.mono).over(endpoint, transport).counted(counted)
    }

    /// Whether the provider's budget has room for a connection now; if so, it is spent.
    pub(in crate::relay) fn take_connect(&mut self, now: Time) -> bool {
        let may = self.link.connects.as_mut().is_none_or(|bucket| bucket.take(now.mono, 1));
        if !may {
            self.stats.throttled.bump(ThrottlePlace::Connect);
        }
        may
    }

    /// When the provider's budget has room for a connection, if it has none now.
    pub(in crate::relay) fn next_connect(&self, now: Mono) -> Option<Mono> {
        self.link.connects.as_ref().map(|bucket| bucket.next(now, 1)).filter(|next| *next > now)
    }

    /// When a better transport is tried beside the connection that serves.
    pub(in crate::relay) fn climb_due(&self) -> Option<Mono> {
        // A session that can be moved to the better transport needs no other connection.
        let moves = self.attempts.active().is_some_and(|active| self.link.ladder.lifts() && active.may_move());
        self.link.ladder.climb_due().filter(|_| self.dialect.rotate() == Rotate::MakeBeforeBreak && !moves)
    }

    /// An attempt serves from now on: its way is the right one. What that means for what was lost before.
    pub(in crate::relay) fn way_serves(&mut self, now: Time, id: AttemptId) -> Sequel {
        let Some(attempt) = self.attempts.get(id) else { return Sequel::Lost };
        let (transport, goes_on) = (attempt.transport, attempt.goes_on);
        let switched = std::mem::replace(&mut self.link.served_over, transport) != transport;
        self.stats.link.transport_switches += u64::from(switched);
        if let Some(attempt) = self.attempts.get_mut(id) {
            attempt.switched = switched;
        }
        self.link.ladder.serves(now.mono, transport);
        match (goes_on, switched) {
            (true, _) => Sequel::GoesOn,
            (false, true) => Sequel::Switched,
            (false, false) => Sequel::Lost,
        }
    }

    /// An attempt ended: what that says about its endpoint and transport, and about the two sides.
    pub(in crate::relay) fn way_ended(&mut self, now: Time, attempt: &Attempt, ending: &Ending) {
        if let Ending::Carrier(Disconnect::Closed { code, .. }) = ending {
            self.stats.link.closes.bump(CloseClass::of(*code));
        }
        if matches!(ending, Ending::Carrier(Disconnect::Asked) | Ending::Rotated) {
            return;
        }
        let live_for = attempt.ready_at().map(|at| now.mono.since(at));
        let stable = live_for.is_some_and(|live_for| live_for >= self.link.stable_for());
        if stable {
            self.link.endpoints.stable(attempt.endpoint);
            self.link.faults = 0;
            self.link.flaps = 0;
        } else if live_for.is_some() {
            self.link.flaps += 1;
            self.stats.link.flaps += 1;
            if self.link.flaps == FLAPS_TOLD {
                let live_for = live_for.unwrap_or_default();
                self.outputs.push_back(Output::Notify(Notice::Flapping { times: FLAPS_TOLD, live_for }));
            }
        }
        if is_endpoints(ending) {
            self.link.endpoints.failed(attempt.endpoint, now.mono, ending.reason(), &mut self.rng);
        }
        if is_fault(ending) {
            self.link.faults += 1;
            if self.link.faults == FAULTS_TOLD {
                let (reason, detail) = (ending.reason(), ending.detail());
                self.outputs.push_back(Output::Notify(Notice::Faults { times: FAULTS_TOLD, reason, detail }));
            }
        }
        // Where each poll is a request of its own, being connected says nothing.
        let answered = attempt.conversation.as_ref().is_none_or(|talk| talk.got_through());
        self.link.ladder.ended(now.mono, attempt.rung, attempt.peer().is_some() && answered, ending);
        if attempt.rung != attempt.transport && !stable {
            self.link.ladder.not_upgraded(now.mono);
        }
    }

    /// The endpoints for `GET /v1/status`: where, failures in a row, how the last one ended, how long each rests.
    pub(in crate::relay) fn endpoints_json(&self, now: Time) -> Vec<u8> {
        let mut out = vec![b'['];
        for (endpoint, rest) in self.link.endpoints.iter(now.mono) {
            if out.len() > 1 {
                out.push(b',');
            }
            let rest = millis(rest);
            let object = Object::new()
                .text("endpoint", &address(&endpoint.url))
                .number("failures", u64::from(endpoint.failures))
                .text_if("last_reason", endpoint.last_reason)
                .number("rests_ms", rest);
            out.extend(object.end());
        }
        out.push(b']');
        out
    }
}

/// Whether an ending may be an endpoint's fault, so that another one is worth a try.
fn is_endpoints(ending: &Ending) -> bool {
    match ending {
        Ending::Carrier(Disconnect::BadStatus { status, .. }) => !matches!(status, 401 | 403),
        Ending::Carrier(Disconnect::Closed { code, .. }) => !matches!(code, 1002 | 1003 | 1007..=1010),
        Ending::Carrier(Disconnect::Oversize) => false,
        Ending::Carrier(_) | Ending::Heartbeat | Ending::Idle | Ending::Malformed(_) => true,
        _ => false,
    }
}

/// Whether one side did what the other one's rules forbid.
fn is_fault(ending: &Ending) -> bool {
    match ending {
        Ending::Carrier(Disconnect::Closed { code, .. }) => matches!(code, 1002 | 1003 | 1007 | 1010),
        Ending::Carrier(Disconnect::Protocol(_) | Disconnect::NotUtf8) | Ending::Malformed(_) => true,
        _ => false,
    }
}
