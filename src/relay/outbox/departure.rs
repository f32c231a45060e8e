//! An attempt leaves: which message is next, and what must be durable before.
//!
//! Contract: [`Outbox::next`] shows the message; whoever made a frame of it says [`Outbox::sent`], whoever could not says
//! so too. Until then it stands where it stood.

use std::sync::Arc;
use std::time::Duration;

use super::lanes::Row;
use super::message::Phase;
use super::staging::Effect;
use super::{Confirm, Lane, OnUnknown, Outbox, OutboxStats, Outcome, OutcomeState};
use crate::relay::record::{MessageId, Operation, StoredMessage};
use crate::relay::time::Time;

/// An attempt that is not answered by then is noted in the store: most are, and cost no operation of their own.
pub(super) const NOTE_AFTER: Duration = Duration::from_millis(50);

/// The part of the window, as a divisor, that is for messages not tried yet, whether one waits or not.
const NEWCOMERS: usize = 8;

/// Attempts of one row that are made durable at once. Few, because after a crash each of them counts as one that may have
/// left.
const PREPARE_AHEAD: usize = 8;

impl Outbox {
    /// Whether something could leave, as far as the window and the lanes know.
    pub fn has_next(&self, critical_only: bool) -> bool {
        self.failed.is_none() && self.in_flight.len() < self.window() && !self.lanes.is_empty(critical_only)
    }

    /// A message that has not ended, if it is in memory.
    pub fn message(&self, id: MessageId) -> Option<Arc<StoredMessage>> {
        self.messages.get(id)?.message().cloned()
    }

    /// The message that may leave now. Those whose time to live is over end here; those whose attempt must be durable first
    /// hold up their lane until it is.
    pub fn next(&mut self, now: Time, critical_only: bool) -> Option<Arc<StoredMessage>> {
        self.clock.observe(now);
        let mut blocked = [false; Lane::COUNT];
        while self.has_next(critical_only) {
            let (row, id) = self.lanes.pick(critical_only, blocked, self.room_for_tried() > 0)?;
            let lane = row.lane;
            let pending = self.messages.get(id)?;
            let live = pending.live();
            let too_many = live.failures == 0 && self.is_crowded();
            if pending.expires().is_some_and(|at| self.clock.is_past(at)) {
                if self.shelf.is_behind() {
                    return None;
                }
                self.expire(now, id);
            } else if live.preparing > 0 || too_many {
                blocked[lane.index()] = true;
            } else if pending.needs_commit() {
                self.prepare(row);
                blocked[lane.index()] = true;
            } else if let Some(message) = &live.message {
                return Some(Arc::clone(message));
            } else {
                self.shelf.starve(row);
                // It is read in a moment: lower lanes do not go before it meanwhile.
                blocked[lane.index()..].fill(true);
            }
        }
        None
    }

    /// Each that was tried takes memory: not ever more of them while they cannot be tried again.
    fn is_crowded(&self) -> bool {
        self.shelf.backoffs >= self.config.in_memory
    }

    /// How many more may leave now that were tried before: those that upstream never answers come again and again, and would
    /// hold the whole window. While others wait that may leave, half of it is for these; and always a part, because who comes next
    /// would wait until `outbox.ack_timeout` has passed for one of them.
    fn room_for_tried(&self) -> usize {
        if self.is_crowded() {
            return usize::MAX;
        }
        let window = self.window();
        let most = if self.lanes.has_untried() { window / 2 } else { window - window / NEWCOMERS };
        most.max(1).saturating_sub(self.repeated)
    }

    /// Makes the next attempts of a row durable.
    fn prepare(&mut self, row: Row) {
        let room = self.window().saturating_sub(self.in_flight.len()).min(PREPARE_AHEAD);
        let room = if row.tried { room.min(self.room_for_tried()) } else { room };
        for id in self.lanes.ready(row).take(room).collect::<Vec<_>>() {
            let Some(pending) = self.messages.get_mut(id) else { continue };
            if pending.live().preparing == 0 && pending.needs_commit() {
                let attempts = pending.live().attempts + 1;
                self.stage_attempts(id, attempts);
                self.prepared.insert(id);
            }
        }
    }

    fn stage_attempts(&mut self, id: MessageId, attempts: u32) {
        let Some(pending) = self.messages.get_mut(id) else { return };
        pending.live_mut().preparing += 1;
        let operation = Operation::Attempt { sequence: pending.sequence, attempts };
        self.staging.push(operation, Effect::Attempted(id, attempts), 0, false);
    }

    /// Takes back attempts that were made durable and will not leave soon: else a restart would think that they may have.
    pub(super) fn unprepare(&mut self) {
        for id in std::mem::take(&mut self.prepared) {
            let Some(attempts) = self.messages.get(id).map(|pending| pending.live().attempts) else { continue };
            self.stage_attempts(id, attempts);
        }
    }

    /// The store's answer about the attempts of a message.
    pub(super) fn attempted(&mut self, id: MessageId, attempts: u32) {
        if let Some(pending) = self.messages.get_mut(id) {
            let live = pending.live_mut();
            live.committed = attempts;
            live.preparing = live.preparing.saturating_sub(1);
        }
    }

    /// The frame of the message is with the carrier: an attempt. `confirm`: what will count as delivered.
    pub fn sent(&mut self, now: Time, id: MessageId, confirm: Confirm, stats: &mut OutboxStats) {
        self.release_held(id);
        let tried_may_leave = self.room_for_tried() > 0;
        let Some(pending) = self.messages.in_phase(id, &Phase::Waiting) else { return };
        let tried = pending.was_tried();
        let deadline = (confirm != Confirm::Written).then(|| now.mono + self.config.ack_timeout);
        let (order, lane) = (pending.order, pending.lane);
        let live = pending.live_mut();
        live.attempts += 1;
        let note = (live.committed < live.attempts).then(|| now.mono + NOTE_AFTER);
        let look = [note, deadline].into_iter().flatten().min();
        live.phase = Phase::Sent { deadline, look, confirm, order: self.departures };
        self.departures += 1;
        let lane = order.map_or(lane, |key| self.keys.lane(key));
        self.place(id);
        self.lanes.departed(lane, tried_may_leave);
        self.prepared.remove(&id);
        self.in_flight.insert(id);
        self.repeated += usize::from(tried);
        self.timers.extend(look.map(|at| (at, id)));
        stats.attempts += 1;
        self.report_sent(now, id);
        self.read_ahead(Row { lane, tried });
    }

    /// Tells the store of an attempt that it does not know of, so that after a restart nobody takes the message for one that
    /// never left. Nothing waits for that.
    pub(super) fn note(&mut self, id: MessageId) {
        let Some(pending) = self.messages.get_mut(id).filter(|_| self.failed.is_none()) else { return };
        let (sequence, attempts) = (pending.sequence, pending.live().attempts);
        if pending.live().committed < attempts {
            pending.live_mut().committed = attempts;
            self.staging.push(Operation::Attempt { sequence, attempts }, Effect::Nothing, 0, false);
        }
    }

    /// The same of all that are in flight: the process may end before their time comes.
    pub fn note_in_flight(&mut self) {
        for id in self.in_flight.clone() {
            self.note(id);
        }
    }

    /// The message must wait until its channel is subscribed.
    pub fn park(&mut self, id: MessageId) {
        let Some(pending) = self.messages.in_phase(id, &Phase::Waiting) else { return };
        pending.live_mut().phase = Phase::Parked;
        self.place(id);
    }

    /// The message's channel is subscribed.
    pub fn unpark(&mut self, id: MessageId) {
        let Some(pending) = self.messages.in_phase(id, &Phase::Parked) else { return };
        pending.wait();
        self.place(id);
    }

    /// The message will never leave, or not again: it ends as rejected, unless an attempt is in flight.
    pub fn reject(&mut self, now: Time, id: MessageId, reason: &'static str) {
        let Some(pending) = self.messages.get(id) else { return };
        if matches!(pending.phase(), Phase::Waiting | Phase::Parked | Phase::Backoff { .. }) && self.failed.is_none() {
            let reason = pending.unless_unknown(reason);
            self.end(now, id, Outcome::failed(OutcomeState::Rejected, reason));
        }
    }

    /// Upstream closed the connection over one message, which is taken to be the largest in flight: it ends as rejected, unless
    /// it must not be guessed at. To be said before the connection is [`Outbox::lost`].
    pub fn reject_largest(&mut self, now: Time, reason: &'static str) {
        let largest = self.in_flight.iter().filter_map(|id| Some((*id, self.messages.get(*id)?)));
        let Some((id, pending)) = largest.max_by_key(|(_, pending)| pending.bytes) else { return };
        if pending.flags.on_unknown() == OnUnknown::Retry && self.failed.is_none() {
            let reason = pending.unless_unknown(reason);
            self.end(now, id, Outcome::failed(OutcomeState::Rejected, reason));
        }
    }
}
