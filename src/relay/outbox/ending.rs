//! How messages end, and what the store's answers make true.
//!
//! Invariant: an end is decided once ([`Outbox::end`]), durable before it is told ([`Durable`]), and never changed.

use std::sync::Arc;

use super::admission::{Admitted, Refusal};
use super::idempotency::order;
use super::message::{Pending, Phase};
use super::outcomes::Gone;
use super::staging::Effect;
use super::{Outbox, OutboxStats, Outcome, OutcomeState, TIMERS_PER_TURN};
use crate::protocol::codes::ErrorCode;
use crate::relay::pairs::SessionId;
use crate::relay::record::{Letter, MessageId, Operation, Order, StoredMessage, StoredOutcome};
use crate::relay::time::{Time, Wall};

/// What became durable, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durable {
    /// A message is accepted.
    Accepted(MessageId),
    /// A message has ended.
    Settled {
        /// How.
        outcome: Arc<StoredOutcome>,
        /// Sessions that published it.
        publishers: Vec<SessionId>,
    },
}

impl Outbox {
    /// The next commit, if the store is free and something waits. `beside`: what somebody else wants kept.
    pub fn take_commit(&mut self, beside: Option<Operation>) -> Option<Vec<Operation>> {
        self.staging.cut(beside)
    }

    /// Whether the store takes a commit now; if so, whether something waits for it.
    pub fn may_commit(&self) -> Option<bool> {
        (self.failed.is_none() && !self.staging.is_out()).then(|| !self.staging.is_empty())
    }

    /// The commit is durable: what is true now, to be told in this order.
    pub fn committed(&mut self, now: Time, stats: &mut OutboxStats) -> Vec<Durable> {
        self.clock.observe(now);
        let Some(effects) = self.staging.done() else { return Vec::new() };
        let mut durable = Vec::new();
        for effect in effects {
            match effect {
                Effect::Accepted(id) => durable.extend(self.accepted(now, id, stats)),
                Effect::Attempted(id, attempts) => self.attempted(id, attempts),
                Effect::Settled(id) => durable.extend(self.settled(id, stats)),
                Effect::Amended(id) => self.outcomes.remember(id, &self.config),
                Effect::Nothing => {}
            }
        }
        self.drop_surplus(stats);
        durable
    }

    fn accepted(&mut self, now: Time, id: MessageId, stats: &mut OutboxStats) -> Option<Durable> {
        let live = self.messages.get_mut(id)?.live_mut();
        live.phase = Phase::Waiting;
        let coalesces = std::mem::take(&mut live.coalesces);
        let order = live.message.as_deref().and_then(order);
        stats.accepted += 1;
        self.begin(id, order, stats);
        if let Some(order) = order.filter(|_| coalesces) {
            self.supersede(now, id, order);
        }
        self.report_accepted(now, id);
        self.keep_if_room(id);
        Some(Durable::Accepted(id))
    }

    /// A message takes the place of those before it that wait for the same.
    fn supersede(&mut self, now: Time, by: MessageId, order: Order) {
        for id in self.keys.of_target(order).filter(|id| *id != by).collect::<Vec<_>>() {
            self.reject(now, id, "superseded");
        }
    }

    /// An accepted message begins to wait for its turn.
    pub(super) fn begin(&mut self, id: MessageId, order: Option<Order>, stats: &mut OutboxStats) {
        let Some(pending) = self.messages.get(id) else { return };
        stats.lane(pending.lane).depth += 1;
        if let Some(order) = order {
            self.keys.push(order, pending.lane, id);
        }
        if let Some(at) = pending.expires() {
            self.expiries.insert((at, id), ());
        }
        self.place(id);
    }

    /// Decides a message's end.
    pub(super) fn end(&mut self, now: Time, id: MessageId, outcome: Outcome) {
        self.stop_waiting(id);
        self.release_held(id);
        let Some(pending) = self.messages.get_mut(id) else { return };
        debug_assert!(*pending.phase() != Phase::Settling, "a message ends once");
        let expires = pending.expires();
        let live = pending.live_mut();
        live.phase = Phase::Settling;
        live.end = Some((outcome, now.wall));
        self.prepared.remove(&id);
        if let Some(at) = expires {
            self.expiries.remove((at, id));
        }
        self.place(id);
        if self.is_at_hand(id) {
            self.settle(id);
        } else {
            self.shelf.want(id);
        }
    }

    /// Makes the outcome of a message whose end is decided, and which is in memory.
    pub(super) fn settle(&mut self, id: MessageId) {
        let started = self.started;
        let Some(pending) = self.messages.get_mut(id) else { return };
        let (sequence, message) = (pending.sequence, pending.message().cloned());
        let (Some(message), Some((outcome, ended))) = (message, pending.live_mut().end.take()) else { return };
        let letter = (outcome.state == OutcomeState::DeadLettered).then(|| {
            let history = pending.take_history(started);
            Box::new(Letter { message: Some(Arc::clone(&message)), history, redriven: None })
        });
        let live = pending.live_mut();
        let stored = Arc::new(StoredOutcome {
            id,
            ended,
            principal: Arc::clone(&message.principal),
            outcome,
            attempts: live.attempts,
            idempotency_key: message.idempotency_key.clone(),
            body_hash: message.body_hash,
            letter,
        });
        live.outcome = Some(Arc::clone(&stored));
        let operation = Operation::Settle { sequence, outcome: stored };
        self.staging.push(operation, Effect::Settled(id), 0, false);
    }

    /// Its time to live is over.
    pub(super) fn expire(&mut self, now: Time, id: MessageId) {
        let Some(pending) = self.messages.get(id) else { return };
        let reason = pending.unless_unknown("ttl");
        self.end(now, id, Outcome::failed(OutcomeState::Expired, reason));
    }

    /// Takes a message out of the window and of the timers.
    pub(super) fn stop_waiting(&mut self, id: MessageId) {
        let Some(pending) = self.messages.get(id) else { return };
        match *pending.phase() {
            Phase::Sent { look, .. } => {
                // One left before the one that was in flight.
                let repeated = self.in_flight.remove(&id) && pending.live().attempts > 1;
                self.repeated -= usize::from(repeated);
                if let Some(at) = look {
                    self.timers.remove(&(at, id));
                }
            }
            Phase::Backoff { until } => {
                self.timers.remove(&(until, id));
                self.shelf.backoffs -= 1;
            }
            Phase::Accepting | Phase::Waiting | Phase::Parked | Phase::Settling => {}
        }
    }

    fn settled(&mut self, id: MessageId, stats: &mut OutboxStats) -> Option<Durable> {
        let pending = self.release(id)?;
        let outcome = Arc::clone(pending.live().outcome.as_ref()?);
        if let Some(key) = pending.order {
            self.keys.remove(key, pending.lane, id);
            self.place_key(key);
        }
        stats.lane(pending.lane).depth -= 1;
        stats.outcomes.bump(outcome.outcome.state);
        self.report_outcome(&outcome, &pending);
        self.outcomes.insert(Arc::clone(&outcome), &self.config);
        Some(Durable::Settled { outcome, publishers: pending.publishers() })
    }

    /// The store failed: from now on nothing is accepted, sent or ended. Gives the messages that were being accepted and are
    /// not; whether a restart finds them is unknown.
    pub fn commit_failed(&mut self, reason: &str, stats: &mut OutboxStats) -> Vec<MessageId> {
        self.failed = Some(reason.into());
        stats.store_failed = true;
        let unaccepted = self.staging.clear();
        for id in &unaccepted {
            self.withdraw(Admitted::New(*id));
        }
        unaccepted
    }

    /// Withdraws a message of this principal that is not in flight. It has ended once that is durable. All of it must be at
    /// hand.
    ///
    /// # Errors
    /// `not_found` for what does not exist and for what is somebody else's, `conflict` for what is in flight or has ended.
    pub fn cancel(&mut self, now: Time, principal: &str, id: MessageId) -> Result<(), Refusal> {
        if self.outcomes.get(id).is_some_and(|outcome| &*outcome.principal == principal) {
            return Err(Refusal::new(ErrorCode::Conflict, "the message has ended"));
        }
        let ours = |message: &Arc<StoredMessage>| &*message.principal == principal;
        let pending = self.messages.get(id).filter(|pending| pending.message().is_some_and(ours));
        let reason = pending.map_or("cancelled", |pending| pending.unless_unknown("cancelled"));
        match pending.map(Pending::phase) {
            None | Some(Phase::Accepting) => Err(Refusal::new(ErrorCode::NotFound, "no such message")),
            Some(Phase::Sent { .. }) => {
                Err(Refusal::new(ErrorCode::Conflict, "the message is in flight: upstream may have it already"))
            }
            Some(Phase::Settling) => Err(Refusal::new(ErrorCode::Conflict, "the message has ended")),
            Some(Phase::Waiting | Phase::Backoff { .. } | Phase::Parked) => match &self.failed {
                Some(reason) => Err(Refusal::store_failed(reason)),
                None => {
                    self.end(now, id, Outcome::failed(OutcomeState::Rejected, reason));
                    Ok(())
                }
            },
        }
    }

    /// Forgets outcomes beyond `keep_outcomes_max`, and dead letters beyond theirs.
    pub(super) fn drop_surplus(&mut self, stats: &mut OutboxStats) {
        let (most, bytes) = (self.config.max_dead_letters, self.config.max_dead_letter_bytes);
        while let Some(outcome) = self.outcomes.drop_letter(most, bytes) {
            // The outcome and the key stay as those of any other message.
            self.amend(&outcome, None, false);
            stats.dead_letters_dropped += 1;
        }
        while let Some(gone) = self.outcomes.drop_surplus(self.config.keep_outcomes_max) {
            self.forget(gone);
            stats.outcomes_dropped += 1;
        }
    }

    /// Forgets outcomes that were kept long enough.
    pub(super) fn forget_due(&mut self) {
        for _ in 0..TIMERS_PER_TURN {
            let Some(gone) = self.outcomes.take_due(self.config.keep_outcomes, &self.clock) else { break };
            self.forget(gone);
        }
    }

    /// Takes the message out of a dead letter, which has been taken out of the table, and puts the rest back.
    pub(super) fn amend(&mut self, outcome: &StoredOutcome, redriven: Option<(MessageId, Wall)>, joined: bool) {
        let mut amended = StoredOutcome::clone(outcome);
        if let Some(letter) = &mut amended.letter {
            letter.message = None;
            letter.redriven = redriven;
        }
        let (id, amended) = (outcome.id, Arc::new(amended));
        self.outcomes.insert_undurable(Arc::clone(&amended));
        self.staging.push(Operation::Amend { outcome: amended }, Effect::Amended(id), 0, joined);
    }

    pub(super) fn forget(&mut self, Gone { id, key }: Gone) {
        if let Some(key) = key {
            self.idempotency.remove(key);
        }
        self.staging.push(Operation::Forget { id }, Effect::Nothing, 0, false);
    }
}
