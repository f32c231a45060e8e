//! What is accepted, and what is refused before acceptance.
//!
//! Invariant: a limit is enforced here or nowhere; what was accepted is never given up for space.

use std::sync::Arc;

use super::idempotency::{body_hash, digest, known};
use super::message::{Pending, footprint};
use super::staging::{COMMIT_OPERATIONS, Effect};
use super::{Lane, Outbox, OutboxStats};
use crate::config::OutboxConfig;
use crate::protocol::codes::ErrorCode;
use crate::protocol::request::{Optimistic, Publish};
use crate::relay::pairs::SessionId;
use crate::relay::record::{Known, MessageId, Operation, Provisional, StoredMessage};
use crate::relay::rng::Rng;
use crate::relay::time::{Time, Wall};

/// Who publishes.
#[derive(Debug, Clone, Copy)]
pub struct Publisher<'a> {
    /// The principal's name.
    pub principal: &'a Arc<str>,
    /// The session to be told the outcome.
    pub session: Option<SessionId>,
    /// The dead letter that is published again.
    pub redrive_of: Option<MessageId>,
}

/// What became of a publish that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// A new message, accepted once it is durable.
    New(MessageId),
    /// The message that the same publish made before.
    Known(MessageId),
}

impl Admitted {
    /// The message.
    pub fn id(self) -> MessageId {
        match self {
            Admitted::New(id) | Admitted::Known(id) => id,
        }
    }
}

/// Why a publish was refused before acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind.
    pub code: ErrorCode,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Refusal {
    /// With these words.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }

    /// Of this one among several.
    pub fn of_message(self, at: usize) -> Self {
        Refusal { message: format!("messages[{at}]: {}", self.message), ..self }
    }

    /// Because the store failed.
    pub fn store_failed(reason: &str) -> Self {
        let words = format!("the store failed ({reason}): nothing is accepted until the relay is restarted");
        Refusal::new(ErrorCode::StoreFailed, words)
    }
}

impl Outbox {
    /// Admits all of these messages or none; they become durable in one commit. `on_unknown` must be filled in by the
    /// channel's policy where the publisher left it open.
    ///
    /// # Errors
    /// Why the first one that was refused was, named if there are several.
    pub fn admit(
        &mut self,
        now: Time,
        from: Publisher<'_>,
        messages: Vec<Publish>,
        rng: &mut Rng,
        stats: &mut OutboxStats,
    ) -> Result<Vec<Admitted>, Refusal> {
        self.clock.observe(now);
        if messages.len() > COMMIT_OPERATIONS {
            let words =
                format!("an atomic batch has at most {COMMIT_OPERATIONS} messages, this one {}", messages.len());
            return Err(Refusal::new(ErrorCode::Invalid, words));
        }
        let sequence = self.next_sequence;
        let batch = (messages.len() > 1).then(|| self.next_id(now.wall, rng));
        // What is refused on the way leaves a hole among the ids, and nothing else.
        let last = batch.map(last_of_batch);
        let mut admitted = Vec::with_capacity(messages.len());
        for (at, publish) in messages.into_iter().enumerate() {
            match self.admit_one(now, from, publish, batch, rng) {
                Ok(one) => admitted.push(one),
                Err(refusal) => {
                    self.next_sequence = sequence;
                    admitted.iter().for_each(|one| self.withdraw(*one));
                    return Err(if batch.is_some() { refusal.of_message(at) } else { refusal });
                }
            }
        }
        self.last_id = last.unwrap_or(self.last_id);
        self.stage(&admitted);
        stats.idempotent_hits += admitted.iter().map(|one| u64::from(matches!(one, Admitted::Known(_)))).sum::<u64>();
        Ok(admitted)
    }

    /// `batch`: it is one of several that are accepted together.
    pub(super) fn admit_one(
        &mut self,
        now: Time,
        from: Publisher<'_>,
        publish: Publish,
        batch: Option<MessageId>,
        rng: &mut Rng,
    ) -> Result<Admitted, Refusal> {
        let hash = body_hash(&publish);
        if let Some(known) = self.find_known(from, &publish, hash)? {
            return Ok(Admitted::Known(known));
        }
        self.check_limits(&publish, from.principal)?;
        let id = if batch.is_some() { self.following_id() } else { self.next_id(now.wall, rng) };
        let message = StoredMessage {
            id,
            sequence: self.next_sequence,
            accepted: now.wall,
            principal: Arc::clone(from.principal),
            channel: publish.channel,
            key: publish.key,
            kind: publish.kind,
            data: publish.data,
            idempotency_key: publish.idempotency_key,
            body_hash: hash,
            order_key: publish.order_key,
            lane: publish.lane,
            expires: publish.ttl.or(self.config.ttl).map(|ttl| now.wall + ttl),
            on_unknown: publish.on_unknown.unwrap_or_default(),
            redrive_of: from.redrive_of,
            optimistic: publish.optimistic.map(|Optimistic { channel, key, value }| {
                Arc::new(Provisional { channel: channel.name, key, value, batch })
            }),
        };
        self.next_sequence += 1;
        let key = message.idempotency_key.as_ref().map(|key| known(&message.principal, key, &hash));
        let mut pending = Pending::new(Arc::new(message));
        pending.live_mut().coalesces = publish.coalesce;
        if let Some(session) = from.session {
            pending.tell(session);
        }
        self.hold(id, pending, from.principal, key);
        Ok(Admitted::New(id))
    }

    /// Whether a publish with this idempotency key would find an earlier one, or be in conflict with it.
    pub fn knows(&self, principal: &str, key: &str) -> bool {
        self.idempotency.contains(principal, key)
    }

    /// The earlier message with the same idempotency key and body.
    fn find_known(
        &mut self,
        from: Publisher<'_>,
        publish: &Publish,
        hash: [u8; 32],
    ) -> Result<Option<MessageId>, Refusal> {
        let Some(key) = &publish.idempotency_key else { return Ok(None) };
        let Some((id, same)) = self.idempotency.find(known(from.principal, key, &hash)) else { return Ok(None) };
        if same {
            if let (Some(pending), Some(session)) = (self.messages.get_mut(id), from.session) {
                pending.tell(session);
            }
            return Ok(Some(id));
        }
        let words = format!("idempotency_key {key:?} was used for another message ({id}): use a new key");
        Err(Refusal::new(ErrorCode::Conflict, words))
    }

    /// Why the disk takes nothing more, if it does not.
    pub(super) fn disk_refuses(&self) -> Option<String> {
        let (OutboxConfig { min_free, max_disk, path, .. }, (free, used)) = (&self.config, self.disk);
        let path = path.display();
        if free < *min_free {
            return Some(format!(
                "less than outbox.min_free ({min_free} bytes) is free on the disk under {path}: free some"
            ));
        }
        (used >= *max_disk).then(|| {
            format!(
                "the files below {path} take {used} bytes, outbox.max_disk is {max_disk}: try again when more of what waits was \
                 delivered; damaged data that was set aside there counts, too"
            )
        })
    }

    fn check_limits(&self, publish: &Publish, principal: &str) -> Result<(), Refusal> {
        let config = &self.config;
        if let Some(reason) = &self.failed {
            return Err(Refusal::store_failed(reason));
        }
        self.check_size(publish, principal)?;
        let full = |words: String| Err(Refusal::new(ErrorCode::StoreFull, words));
        if let Some(words) = self.disk_refuses() {
            return full(words);
        }
        if self.staging.bytes() > config.in_memory_bytes {
            return full(format!(
                "{} bytes wait for the disk already (outbox.in_memory_bytes): it is slow; try again later",
                self.staging.bytes()
            ));
        }
        let (messages, footprint) = (self.messages.len() as u64, bytes_of(publish, principal));
        self.check_share(principal, footprint)?;
        let open = |most: u64| open_to(publish.lane, most, config.reserve);
        if messages >= open(config.max_messages as u64) {
            let kept = kept_words(messages < config.max_messages as u64);
            return full(format!("{messages} messages wait already (outbox.max_messages{kept}): try again later"));
        }
        let bytes = self.bytes.saturating_add(footprint);
        if bytes > open(config.max_bytes) {
            let kept = kept_words(bytes <= config.max_bytes);
            return full(format!(
                "messages of {} bytes wait already (outbox.max_bytes{kept}): try again later",
                self.bytes
            ));
        }
        if publish.idempotency_key.is_some() && !self.outcomes.has_room_for_key(self.keyed, config.keep_outcomes_max) {
            return full(format!(
                "{} idempotency keys are kept already (outbox.keep_outcomes_max): publish without one, or try again later",
                config.keep_outcomes_max
            ));
        }
        Ok(())
    }

    /// What can never be accepted is not told to try again later.
    fn check_size(&self, publish: &Publish, principal: &str) -> Result<(), Refusal> {
        let config = &self.config;
        let large = |words: String| Err(Refusal::new(ErrorCode::TooLarge, words));
        if publish.data.len() > config.message_max {
            return large(format!(
                "data has {} bytes, outbox.message_max is {}",
                publish.data.len(),
                config.message_max
            ));
        }
        let footprint = bytes_of(publish, principal);
        if let Some(most) = config.principal_bytes.filter(|most| footprint > *most) {
            return large(format!(
                "the message takes {footprint} bytes on disk, and all that wait of {principal} may take {most} \
                 (outbox.principal_bytes)"
            ));
        }
        let most = open_to(publish.lane, config.max_bytes, config.reserve);
        if footprint > most {
            let kept = kept_words(footprint <= config.max_bytes);
            return large(format!(
                "the message takes {footprint} bytes on disk, and all that wait may take {most} (outbox.max_bytes{kept})"
            ));
        }
        Ok(())
    }

    /// What one principal may have waiting.
    fn check_share(&self, principal: &str, footprint: u64) -> Result<(), Refusal> {
        let (config, share) = (&self.config, self.principals.share(principal));
        let over = |words: String| Err(Refusal::new(ErrorCode::LimitExceeded, words));
        if config.principal_messages.is_some_and(|most| share.messages >= most) {
            let count = share.messages;
            return over(format!(
                "{count} messages of {principal} wait already (outbox.principal_messages): try again later"
            ));
        }
        if config.principal_bytes.is_some_and(|most| share.bytes.saturating_add(footprint) > most) {
            let bytes = share.bytes;
            return over(format!(
                "messages of {principal} of {bytes} bytes wait already (outbox.principal_bytes): try again later"
            ));
        }
        Ok(())
    }

    /// A new id: the time in front, chance behind, always above the last one.
    fn next_id(&mut self, now: Wall, rng: &mut Rng) -> MessageId {
        const BITS: u32 = MessageId::RANDOM_BITS;
        let fresh = (u128::from(now.millis()) << BITS) | (rng.next_u128() >> (128 - BITS));
        self.last_id = MessageId(fresh.max(self.last_id.0.saturating_add(1)));
        self.last_id
    }

    /// The id after the last one.
    fn following_id(&mut self) -> MessageId {
        self.last_id = MessageId(self.last_id.0.saturating_add(1));
        self.last_id
    }

    /// Counts a message in.
    pub(super) fn hold(&mut self, id: MessageId, mut pending: Pending, principal: &Arc<str>, known: Option<Known>) {
        pending.principal = self.principals.enter(principal, pending.bytes.into());
        self.bytes += u64::from(pending.bytes);
        if let Some(known) = known {
            self.keyed += 1;
            self.idempotency.insert(known, id);
        }
        self.messages.insert(id, pending);
    }

    /// Counts a message out, and gives it. Its idempotency key stays known.
    pub(super) fn release(&mut self, id: MessageId) -> Option<Pending> {
        let pending = self.messages.remove(id)?;
        self.bytes = self.bytes.saturating_sub(u64::from(pending.bytes));
        self.principals.leave(pending.principal, pending.bytes.into());
        self.keyed -= usize::from(pending.flags.keyed());
        Some(pending)
    }

    /// Takes back what never was accepted.
    pub(super) fn withdraw(&mut self, admitted: Admitted) {
        let Admitted::New(id) = admitted else { return };
        let Some(pending) = self.release(id) else { return };
        let Some(message) = pending.message() else { return };
        if let Some(key) = &message.idempotency_key {
            self.idempotency.remove(digest(&message.principal, key));
        }
    }

    /// Stages the new ones of a group for one commit.
    pub(super) fn stage(&mut self, admitted: &[Admitted]) {
        let mut joined = false;
        for one in admitted {
            let Admitted::New(id) = *one else { continue };
            let Some(pending) = self.messages.get(id) else { continue };
            let (Some(message), bytes) = (pending.message(), u64::from(pending.bytes)) else { continue };
            self.disk.1 = self.disk.1.saturating_add(bytes);
            self.staging.push(Operation::Accept(Arc::clone(message)), Effect::Accepted(id), bytes, joined);
            joined = true;
        }
    }
}

/// The last id that a message of this batch may have. No other message gets one up to there, so that an id tells by itself
/// whether a message is of a batch: its outcome, which is all that is kept of it, does not say so.
pub(super) fn last_of_batch(batch: MessageId) -> MessageId {
    MessageId(batch.0.saturating_add(COMMIT_OPERATIONS as u128))
}

/// Whether a message is of this atomic batch.
pub fn is_of_batch(message: MessageId, batch: MessageId) -> bool {
    batch < message && message <= last_of_batch(batch)
}

/// What of a limit is there for a lane: the last `reserve` percent are for those above `medium`, half of it for `critical`.
fn open_to(lane: Lane, most: u64, reserve: u8) -> u64 {
    let kept = most.saturating_mul(u64::from(reserve)) / 100;
    match lane {
        Lane::Critical => most,
        Lane::High => most - kept / 2,
        Lane::Medium | Lane::Low => most - kept,
    }
}

/// Says that a limit is reached for this lane only.
fn kept_words(only_here: bool) -> &'static str {
    if only_here { "; the rest is kept for higher priorities, outbox.reserve" } else { "" }
}

/// About how many bytes a message takes on disk.
fn bytes_of(publish: &Publish, principal: &str) -> u64 {
    let optional = [&publish.channel.params, &publish.key, &publish.kind, &publish.idempotency_key, &publish.order_key];
    let value = publish.optimistic.as_ref().map_or(0, |optimistic| optimistic.value.len());
    footprint([principal, &publish.channel.name, &publish.data], optional, value)
}
