//! The promises of the outbox, one test each, in virtual time; `model` tries random histories against a small reference.

mod admitting;
mod ends;
mod keeping;
mod leaving;
mod letters;
mod model;
mod noting;
mod shelf;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::BackoffConfig;
use crate::dialect::Then;
use crate::protocol::request::{ChannelRequest, Publish};
use crate::relay::pairs::SessionId;
use crate::relay::record::{Backlog, KeptOutcome, Operation, Stored, StoredMessage, StoredOutcome, Wanted};
use crate::relay::rng::Rng;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// An outbox with everything that a turn needs, and a store that keeps what is committed.
struct Bench {
    outbox: Outbox,
    config: OutboxConfig,
    stats: OutboxStats,
    rng: Rng,
    now: Time,
    disk: Disk,
}

/// What a store would hold.
#[derive(Default, Clone)]
struct Disk {
    messages: Vec<(Arc<StoredMessage>, u32)>,
    outcomes: Vec<Arc<StoredOutcome>>,
    next_sequence: u64,
}

impl Disk {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Accept(message) => {
                assert!(message.sequence >= self.next_sequence, "sequences rise");
                self.next_sequence = message.sequence + 1;
                self.messages.push((Arc::clone(message), 0));
            }
            Operation::Attempt { sequence, attempts } => {
                if let Some(held) = self.messages.iter_mut().find(|(message, _)| message.sequence == *sequence) {
                    held.1 = *attempts;
                }
            }
            Operation::Settle { sequence, outcome } => {
                let before = self.messages.len();
                self.messages.retain(|(message, _)| message.sequence != *sequence);
                assert_eq!(self.messages.len() + 1, before, "only what is held ends, once");
                self.outcomes.push(Arc::clone(outcome));
            }
            Operation::Amend { outcome } => {
                let kept = self.outcomes.iter_mut().find(|kept| kept.id == outcome.id);
                *kept.expect("only what is kept is amended") = Arc::clone(outcome);
            }
            Operation::Forget { id } => self.outcomes.retain(|outcome| outcome.id != *id),
            Operation::Tally(_) => panic!("the outbox counts nothing of upstream's"),
        }
    }

    fn load(&self, wanted: &[Wanted]) -> Vec<Stored> {
        let message = |sequence| self.messages.iter().find(|(message, _)| message.sequence == sequence);
        let outcome = |id| self.outcomes.iter().find(|outcome| outcome.id == id);
        let find = |wanted: &Wanted| match *wanted {
            Wanted::Message(sequence) => message(sequence).map(|(message, _)| Stored::Message(Arc::clone(message))),
            Wanted::Outcome(id) => outcome(id).map(|outcome| Stored::Outcome(Arc::clone(outcome))),
        };
        wanted.iter().map(|wanted| find(wanted).expect("only what is held is read")).collect()
    }

    fn restored(&self) -> Restored {
        let mut messages = Backlog::default();
        self.messages.iter().for_each(|(message, attempts)| messages.add(message, *attempts));
        Restored {
            messages,
            outcomes: vec![self.outcomes.iter().map(KeptOutcome::of).collect()],
            next_sequence: self.next_sequence,
            ..Restored::default()
        }
    }
}

fn config() -> OutboxConfig {
    OutboxConfig {
        path: "/state".into(),
        window: 4,
        ack_timeout: 10 * SECOND,
        max_attempts: 3,
        backoff: BackoffConfig { min: SECOND, max: 60 * SECOND },
        ttl: None,
        in_memory: 1000,
        in_memory_bytes: 1 << 20,
        message_max: 1000,
        max_messages: 100,
        max_bytes: 1 << 20,
        reserve: 0,
        principal_messages: None,
        principal_bytes: None,
        min_free: 1 << 20,
        max_disk: 1 << 30,
        rotate_above: 1 << 30,
        ballast: 0,
        keep_outcomes: 3600 * SECOND,
        keep_outcomes_max: 50,
        max_dead_letters: 3,
        max_dead_letter_bytes: 1000,
    }
}

fn message(data: &str) -> Publish {
    Publish {
        channel: ChannelRequest { name: "orders".into(), params: None },
        key: None,
        kind: None,
        data: data.into(),
        idempotency_key: None,
        order_key: None,
        coalesce: false,
        volatile: false,
        optimistic: None,
        lane: Lane::Medium,
        ttl: None,
        on_unknown: None,
    }
}

fn keyed(data: &str, key: &str) -> Publish {
    Publish { idempotency_key: Some(key.into()), ..message(data) }
}

fn ordered(data: &str, key: &str, lane: Lane) -> Publish {
    Publish { order_key: Some(key.into()), lane, ..message(data) }
}

fn at_most_once(data: &str) -> Publish {
    Publish { on_unknown: Some(OnUnknown::DeadLetter), ..message(data) }
}

fn session(index: u32) -> SessionId {
    SessionId { index, generation: 1 }
}

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: OutboxConfig) -> Self {
        let now = Time { mono: Mono(1_000_000_000), wall: Wall(1_795_231_888_000_000_000) };
        let mut stats = OutboxStats::default();
        let outbox = Outbox::new(&config, Restored::default(), now, &mut stats);
        Bench { outbox, config, stats, rng: Rng::new(7), now, disk: Disk::default() }
    }

    /// A new process with what the disk holds, at the same time.
    fn restart(&mut self) {
        self.stats = OutboxStats::default();
        self.outbox = Outbox::new(&self.config, self.disk.restored(), self.now, &mut self.stats);
    }

    fn publish_by(&mut self, principal: &str, publishes: Vec<Publish>) -> Result<Vec<Admitted>, Refusal> {
        let from = Publisher { principal: &Arc::from(principal), session: Some(session(1)), redrive_of: None };
        self.outbox.admit(self.now, from, publishes, &mut self.rng, &mut self.stats)
    }

    fn publish(&mut self, publish: Publish) -> Result<Admitted, Refusal> {
        self.publish_by("local", vec![publish]).map(|admitted| admitted[0])
    }

    /// Publishes and makes it durable.
    fn accept(&mut self, publish: Publish) -> MessageId {
        let id = self.publish(publish).unwrap().id();
        self.commit();
        id
    }

    /// Lets the store do all that waits for it.
    fn commit(&mut self) -> Vec<Durable> {
        let mut durable = Vec::new();
        self.load();
        while let Some(operations) = self.outbox.take_commit(None) {
            operations.iter().for_each(|operation| self.disk.apply(operation));
            durable.extend(self.outbox.committed(self.now, &mut self.stats));
            self.load();
        }
        durable
    }

    /// Lets the store read all that it is asked for; says how many records that was.
    fn load(&mut self) -> usize {
        let mut count = 0;
        while let Some(wanted) = self.outbox.take_load() {
            count += wanted.len();
            self.disk.load(&wanted).into_iter().for_each(|record| self.outbox.loaded(record));
        }
        count
    }

    /// Commits and gives the ends.
    fn ends(&mut self) -> Vec<(MessageId, OutcomeState, String)> {
        let ended = self.commit().into_iter().filter_map(|durable| match durable {
            Durable::Settled { outcome, .. } => {
                Some((outcome.id, outcome.outcome.state, outcome.outcome.reason.to_string()))
            }
            Durable::Accepted(_) => None,
        });
        ended.collect()
    }

    /// Sends the next message, if one may leave.
    fn send(&mut self) -> Option<MessageId> {
        let id = match self.outbox.next(self.now, false) {
            Some(message) => message.id,
            None if self.load() > 0 => self.outbox.next(self.now, false)?.id,
            None => return None,
        };
        self.outbox.sent(self.now, id, Confirm::Ack, &mut self.stats);
        Some(id)
    }

    fn send_all(&mut self) -> Vec<MessageId> {
        std::iter::from_fn(|| self.send()).collect()
    }

    fn ack(&mut self, id: MessageId) {
        self.outbox.acked(self.now, id, Confirm::Ack, None, &mut self.stats);
    }

    fn nack(&mut self, id: MessageId, nack: Nack<'_>) {
        self.outbox.nacked(self.now, id, nack, &mut self.rng, &mut self.stats);
    }

    fn lose(&mut self) {
        self.outbox.lost(self.now, &mut self.rng, &mut self.stats);
    }

    /// Lets time pass, serving everything that is due on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.outbox.due().filter(|due| *due <= end.mono) {
            self.now = self.now.after(due.since(self.now.mono));
            self.outbox.timeout(self.now, &mut self.rng, &mut self.stats);
        }
        self.now = end;
    }

    /// Reads what is known of the message, if that is on disk.
    fn look_up(&mut self, id: MessageId) {
        if !self.outbox.is_at_hand(id) {
            self.outbox.fetch(id);
            self.load();
        }
    }

    fn state(&mut self, id: MessageId) -> serde_json::Value {
        self.look_up(id);
        let text = self.outbox.message_state(self.now, "local", id).expect("the message is known");
        serde_json::from_slice(&text).unwrap()
    }
}
