//! What became of an attempt: answered, refused, overdue, lost.
//!
//! Invariant: a message is delivered only by an answer to an attempt of its own that left; the first answer that ends it
//! wins, later ones are counted.

use std::time::Duration;

use super::message::{Fate, Pending, Phase};
use super::{
    Confirm, MAX_ATTEMPTS, OUTCOME_UNKNOWN, OnUnknown, Outbox, OutboxStats, Outcome, OutcomeState, REFUSED,
    TIMERS_PER_TURN,
};
use crate::dialect::Then;
use crate::protocol::frame::push_json_string;
use crate::relay::backoff;
use crate::relay::record::MessageId;
use crate::relay::rng::Rng;
use crate::relay::time::Time;

/// Bytes of upstream's answer that are kept with an outcome; a longer one is left out.
const REPLY_MAX: usize = 4096;
/// Bytes of an outcome's reason.
const REASON_MAX: usize = 256;

/// A refusal by upstream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nack<'a> {
    /// What the dialect says it means; `None`: upstream refused and will refuse again, unless it says when to come back.
    pub then: Option<Then>,
    /// Upstream's code.
    pub code: &'a str,
    /// Upstream's words.
    pub text: &'a str,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Nack<'_> {
    /// How long to wait at least before the next attempt; `None`: there will be none.
    fn retry(&self) -> Option<Duration> {
        let asked = self.retry_after.unwrap_or_default();
        match self.then {
            Some(Then::Reject) => None,
            Some(Then::Pause(pause)) => Some(pause.max(asked)),
            Some(Then::Retry | Then::Refresh | Then::Resubscribe | Then::Reconnect | Then::Fatal) => Some(asked),
            None => self.retry_after,
        }
    }

    /// Upstream got too much, by its own words.
    fn asks_for_a_pause(&self) -> bool {
        self.retry_after.is_some_and(|after| !after.is_zero()) || matches!(self.then, Some(Then::Pause(_)))
    }

    fn reason(&self) -> &str {
        if self.code.is_empty() { REFUSED } else { cut(self.code) }
    }

    fn outcome(&self) -> Outcome {
        let reason = self.reason();
        let mut reply = Vec::new();
        if !self.text.is_empty() && self.text.len() <= REPLY_MAX {
            push_json_string(&mut reply, self.text);
        }
        let reply = String::from_utf8(reply).ok().filter(|text| !text.is_empty()).map(String::into_boxed_str);
        Outcome { reply, ..Outcome::failed(OutcomeState::Rejected, reason) }
    }
}

/// A try that failed.
#[derive(Debug, Clone, Copy)]
struct Try<'a> {
    /// The next one follows after a backoff above this; `None`: at once.
    floor: Option<Duration>,
    fate: Fate,
    /// Why, as a word.
    reason: &'a str,
}

impl Outbox {
    /// Upstream has the message. `reply` is JSON text.
    pub fn acked(&mut self, now: Time, id: MessageId, by: Confirm, reply: Option<&str>, stats: &mut OutboxStats) {
        if self.is_answerable(id, stats) {
            self.widen(id);
            let reply = reply.filter(|text| text.len() <= REPLY_MAX).map(Box::from);
            self.report_acked(now, id, by);
            self.end(now, id, Outcome::delivered(by, reply));
        }
    }

    /// Upstream refused the message.
    pub fn nacked(&mut self, now: Time, id: MessageId, nack: Nack<'_>, rng: &mut Rng, stats: &mut OutboxStats) {
        if !self.is_answerable(id, stats) {
            return;
        }
        stats.nacks += 1;
        match nack.retry() {
            None => {
                self.widen(id);
                self.end(now, id, nack.outcome());
            }
            Some(floor) => {
                // Where the attempt was given up already, the next one is on its way: nothing changes.
                if let Some(order) = self.departed_as(id) {
                    if nack.asks_for_a_pause() {
                        self.window.refused(order, self.departures, self.config.window);
                    }
                    let failed = Try { floor: Some(floor), fate: Fate::Refused, reason: nack.reason() };
                    self.fail(now, id, failed, rng, stats);
                }
            }
        }
    }

    /// Upstream took an attempt: the window may grow.
    fn widen(&mut self, id: MessageId) {
        if self.departed_as(id).is_some() {
            self.window.answered(self.config.window);
        }
    }

    /// The number of the attempt that is in flight, if one is.
    fn departed_as(&self, id: MessageId) -> Option<u64> {
        match self.messages.get(id)?.phase() {
            Phase::Sent { order, .. } => Some(*order),
            _ => None,
        }
    }

    /// Whether an answer about this message can mean anything; counts it if not, or if it comes late.
    fn is_answerable(&self, id: MessageId, stats: &mut OutboxStats) -> bool {
        let Some(pending) = self.messages.get(id) else {
            let known = self.has_ended(id);
            *(if known { &mut stats.late_acks } else { &mut stats.unknown_acks }) += 1;
            return false;
        };
        match pending.phase() {
            Phase::Sent { .. } => {}
            Phase::Waiting | Phase::Backoff { .. } | Phase::Parked if pending.live().attempts > 0 => {
                stats.late_acks += 1
            }
            Phase::Settling => {
                stats.late_acks += 1;
                return false;
            }
            Phase::Accepting | Phase::Waiting | Phase::Backoff { .. } | Phase::Parked => {
                stats.unknown_acks += 1;
                return false;
            }
        }
        self.failed.is_none()
    }

    /// The bytes of these messages are with the kernel: those of which nothing more will be heard are delivered.
    pub fn written(&mut self, now: Time, messages: &[MessageId], stats: &mut OutboxStats) {
        for id in messages {
            let phase = self.messages.get(*id).map(Pending::phase);
            if matches!(phase, Some(Phase::Sent { confirm: Confirm::Written, .. })) {
                self.acked(now, *id, Confirm::Written, None, stats);
            }
        }
    }

    /// Whether something in flight waits for the answer to a later request, and none is out that would give it.
    pub fn wants_barrier(&self) -> bool {
        self.barrier.is_none() && self.in_flight.iter().any(|id| self.by_barrier(*id).is_some())
    }

    /// A request left whose answer proves that upstream got everything before it.
    pub fn barrier_sent(&mut self) {
        if self.barrier.is_none() {
            self.barrier = Some(self.departures);
        }
    }

    /// That answer came.
    pub fn barrier_passed(&mut self, now: Time, stats: &mut OutboxStats) {
        let Some(mark) = self.barrier.take() else { return };
        let proved = self.in_flight.iter().copied().filter(|id| self.by_barrier(*id).is_some_and(|order| order < mark));
        for id in proved.collect::<Vec<_>>() {
            self.acked(now, id, Confirm::Barrier, None, stats);
        }
    }

    /// When a message left that is confirmed by a barrier. An echo is not looked for: a barrier is what proves it here.
    fn by_barrier(&self, id: MessageId) -> Option<u64> {
        match self.messages.get(id)?.phase() {
            Phase::Sent { confirm: Confirm::Barrier | Confirm::Echo, order, .. } => Some(*order),
            _ => None,
        }
    }

    /// The connection is gone: what was in flight may have left. It goes again on the next connection, without a wait of
    /// its own, because connecting has one.
    pub fn lost(&mut self, now: Time, rng: &mut Rng, stats: &mut OutboxStats) {
        self.clock.observe(now);
        self.barrier = None;
        if self.failed.is_some() {
            return;
        }
        for id in self.in_flight.clone() {
            let failed = Try { floor: None, fate: Fate::Unanswered, reason: "connection_lost" };
            self.unanswered(now, id, failed, rng, stats);
        }
        self.unprepare();
    }

    /// Serves what is due: overdue answers, ends of backoff, times to live, outcomes kept long enough.
    pub fn timeout(&mut self, now: Time, rng: &mut Rng, stats: &mut OutboxStats) {
        self.clock.observe(now);
        if self.failed.is_some() {
            return;
        }
        for _ in 0..TIMERS_PER_TURN {
            let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now.mono) else { break };
            self.timers.pop_first();
            self.timer(now, id, rng, stats);
        }
        for _ in 0..TIMERS_PER_TURN {
            let Some((at, id)) = self.expiries.first().map(|(due, ())| *due) else { break };
            if !self.clock.is_past(at) || self.shelf.is_behind() {
                break;
            }
            self.expiries.pop_first();
            if !self.messages.get(id).is_some_and(Pending::is_in_flight) {
                self.expire(now, id);
            }
        }
        self.forget_due();
    }

    fn timer(&mut self, now: Time, id: MessageId, rng: &mut Rng, stats: &mut OutboxStats) {
        let Some(pending) = self.messages.get_mut(id) else { return };
        match *pending.phase() {
            Phase::Sent { deadline, confirm, order, .. } if deadline.is_none_or(|at| at > now.mono) => {
                pending.live_mut().phase = Phase::Sent { deadline, look: deadline, confirm, order };
                self.timers.extend(deadline.map(|at| (at, id)));
                self.note(id);
            }
            Phase::Sent { .. } => {
                stats.ack_timeouts += 1;
                let failed = Try { floor: Some(Duration::ZERO), fate: Fate::Unanswered, reason: "ack_timeout" };
                self.unanswered(now, id, failed, rng, stats);
            }
            Phase::Backoff { .. } => {
                pending.wait();
                self.shelf.backoffs -= 1;
                self.place(id);
            }
            Phase::Accepting | Phase::Waiting | Phase::Parked | Phase::Settling => {}
        }
    }

    /// Nobody knows what became of the attempt.
    fn unanswered(&mut self, now: Time, id: MessageId, failed: Try<'_>, rng: &mut Rng, stats: &mut OutboxStats) {
        let Some(pending) = self.messages.get_mut(id) else { return };
        pending.live_mut().unknown = true;
        let expires = pending.expires();
        if pending.flags.on_unknown() == OnUnknown::DeadLetter {
            pending.blame(now.wall, failed.fate, failed.reason);
            self.end(now, id, Outcome::failed(OutcomeState::DeadLettered, OUTCOME_UNKNOWN));
        } else if expires.is_some_and(|at| self.clock.is_past(at)) {
            self.expire(now, id);
        } else {
            self.fail(now, id, failed, rng, stats);
        }
    }

    /// A try failed: another one follows, or none, if it was the last.
    fn fail(&mut self, now: Time, id: MessageId, failed: Try<'_>, rng: &mut Rng, stats: &mut OutboxStats) {
        self.stop_waiting(id);
        let Try { floor, fate, reason } = failed;
        let Some(pending) = self.messages.get_mut(id) else { return };
        pending.live_mut().failures += 1;
        pending.blame(now.wall, fate, reason);
        let (failures, expires) = (pending.live().failures, pending.expires());
        if failures >= self.config.max_attempts {
            return self.end(now, id, Outcome::failed(OutcomeState::DeadLettered, MAX_ATTEMPTS));
        }
        if pending.live().unknown {
            self.note(id);
        }
        stats.retries += 1;
        let wait = floor.map(|_| backoff::delay(self.config.backoff, failures - 1, floor, rng));
        let Some(pending) = self.messages.get_mut(id) else { return };
        pending.live_mut().phase = match wait.map(|wait| now.mono + wait) {
            Some(until) => {
                self.timers.insert((until, id));
                self.shelf.backoffs += 1;
                Phase::Backoff { until }
            }
            None => Phase::Waiting,
        };
        // Its time may have run out in flight, where it does not count.
        if let Some(at) = expires {
            self.expiries.insert((at, id), ());
        }
        self.place(id);
        self.report_retry(now, id, reason);
        self.keep(id);
    }

    /// The message could not be sent now, but may be later: counts as a try.
    pub fn postpone(&mut self, now: Time, id: MessageId, rng: &mut Rng, stats: &mut OutboxStats) {
        if self.messages.get(id).is_some_and(|pending| *pending.phase() == Phase::Waiting) && self.failed.is_none() {
            let failed = Try { floor: Some(Duration::ZERO), fate: Fate::Unsent, reason: "not_sendable_yet" };
            self.fail(now, id, failed, rng, stats);
        }
    }
}

/// At most [`REASON_MAX`] bytes of a text, whole characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_MAX)]
}
