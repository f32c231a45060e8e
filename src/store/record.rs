//! The bytes of a record: our own frame round each, and the keys under which sled keeps them.
//!
//! A frame, little endian: magic `TgRc`, version (1 byte), kind (1), flags (1), zero (1), id (16), expiry in nanoseconds
//! since 1970 (8), length of the body (4), CRC-32C over everything but itself (4), body. Id and expiry stand in the head so
//! that a tool can find records in a damaged file without knowing bodies.
//!
//! Invariant: what decodes is what was encoded. Any single flipped bit and any truncation is found out.
//! A record longer than [`PIECE`] is cut; its pieces have keys that follow each other. Sled moves values above a quarter of
//! a segment into files that it never syncs, and counts a leaf of sixteen values as one.

mod tally;
#[cfg(test)]
mod tests;

pub(super) use tally::encode_tally;

use std::sync::Arc;

use super::mark::Census;
use crate::protocol::request::ChannelRequest;
use crate::relay::outbox::{Confirm, Lane, OnUnknown, Outcome, OutcomeState};
use crate::relay::record::{Failure, Letter, MessageId, Provisional, StoredMessage, StoredOutcome, StoredTally};
use crate::relay::time::Wall;

/// The largest value that sled gets, in bytes.
pub(super) const PIECE: usize = 16 << 10;

const MAGIC: [u8; 4] = *b"TgRc";
/// 2: dead letters. 3: tallies. 4: provisional values. Reads all of them.
const VERSION: u8 = 4;
const HEAD: usize = 40;
const SUM_AT: usize = 36;
const HAS_EXPIRY: u8 = 1;

/// A decoded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// An accepted message.
    Message(StoredMessage),
    /// How a message ended.
    Outcome(StoredOutcome),
    /// Attempts of the message with this sequence.
    Attempts(u64, u32),
    /// The counts.
    Census(Census),
    /// What is spent of upstream's limits, and in which run of the system that was counted.
    Tally(StoredTally, u128),
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Shorter or longer than the head says, or not even a head.
    Length,
    /// Not the magic.
    Magic,
    /// The checksum differs.
    Checksum,
    /// Whole, but written by a newer version.
    Newer(u8),
    /// Whole, but the body is not one that this version writes.
    Body,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Length => f.write_str("cut off"),
            Damage::Magic => f.write_str("not a record"),
            Damage::Checksum => f.write_str("wrong checksum"),
            Damage::Newer(version) => write!(f, "version {version} is newer than {VERSION}"),
            Damage::Body => f.write_str("unknown body"),
        }
    }
}

/// Where a record lies. The first byte is the kind: `a`ttempts, `c`ensus, `j`ournal, `m`essage, `o`utcome, `t`ally, `x` set aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<u8>);

/// What a key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Attempts of a message, by sequence.
    Attempts(u64),
    /// The counts.
    Census,
    /// The number of the last journal that sled took over: eight bytes without a frame.
    Journal,
    /// A piece of a message, by sequence.
    Message(u64, u32),
    /// A piece of an outcome, by the message's id.
    Outcome(u128, u32),
    /// What is spent of upstream's limits.
    Tally,
    /// Something damaged, kept for people.
    Damaged,
}

impl Key {
    pub(super) fn attempts(sequence: u64) -> Key {
        Key([b"a".as_slice(), &sequence.to_be_bytes()].concat())
    }

    pub(super) fn census() -> Key {
        Key(b"c".to_vec())
    }

    pub(super) fn journal() -> Key {
        Key(b"j".to_vec())
    }

    /// One that was read.
    pub(super) fn from_bytes(bytes: &[u8]) -> Key {
        Key(bytes.to_vec())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn message(sequence: u64, piece: u32) -> Key {
        Key([b"m".as_slice(), &sequence.to_be_bytes(), &piece.to_be_bytes()].concat())
    }

    pub(super) fn outcome(id: u128, piece: u32) -> Key {
        Key([b"o".as_slice(), &id.to_be_bytes(), &piece.to_be_bytes()].concat())
    }

    pub(super) fn tally() -> Key {
        Key(b"t".to_vec())
    }

    pub(super) fn damaged(key: &[u8]) -> Key {
        Key([b"x".as_slice(), key].concat())
    }

    /// Reads a key; `None` if it is none of ours.
    pub(super) fn read(key: &[u8]) -> Option<Place> {
        let mut reader = Reader(key.get(1..)?);
        let place = match key[0] {
            b'a' => Place::Attempts(u64::from_be_bytes(reader.array()?)),
            b'c' => Place::Census,
            b'j' => Place::Journal,
            b'm' => Place::Message(u64::from_be_bytes(reader.array()?), u32::from_be_bytes(reader.array()?)),
            b'o' => Place::Outcome(u128::from_be_bytes(reader.array()?), u32::from_be_bytes(reader.array()?)),
            b't' => Place::Tally,
            b'x' => return Some(Place::Damaged),
            _ => return None,
        };
        reader.0.is_empty().then_some(place)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Frames a message.
pub(super) fn encode_message(message: &StoredMessage) -> Vec<u8> {
    let mut out = Writer::new(b'm', message.id.0, message.expires);
    out.u64(message.sequence);
    out.u64(message.accepted.0);
    out.u8(match message.lane {
        Lane::Critical => 0,
        Lane::High => 1,
        Lane::Medium => 2,
        Lane::Low => 3,
    });
    out.u8(match message.on_unknown {
        OnUnknown::Retry => 0,
        OnUnknown::DeadLetter => 1,
    });
    out.0.extend_from_slice(&message.body_hash);
    out.text(&message.principal);
    out.text(&message.channel.name);
    out.optional(message.channel.params.as_deref());
    out.optional(message.key.as_deref());
    out.optional(message.kind.as_deref());
    out.optional(message.idempotency_key.as_deref());
    out.optional(message.order_key.as_deref());
    out.text(&message.data);
    out.id(message.redrive_of);
    match &message.optimistic {
        None => out.u8(0),
        Some(provisional) => {
            out.u8(1);
            out.text(&provisional.channel);
            out.optional(provisional.key.as_deref());
            out.text(&provisional.value);
            out.id(provisional.batch);
        }
    }
    out.finish()
}

/// Frames an outcome.
pub(super) fn encode_outcome(outcome: &StoredOutcome) -> Vec<u8> {
    let mut out = Writer::new(b'o', outcome.id.0, None);
    out.u64(outcome.ended.0);
    out.u32(outcome.attempts);
    out.u8(match outcome.outcome.state {
        OutcomeState::Delivered => 0,
        OutcomeState::Rejected => 1,
        OutcomeState::Expired => 2,
        OutcomeState::DeadLettered => 3,
    });
    out.u8(match outcome.outcome.confirmed_by {
        None => 0,
        Some(Confirm::Ack) => 1,
        Some(Confirm::Echo) => 2,
        Some(Confirm::Barrier) => 3,
        Some(Confirm::Written) => 4,
    });
    out.0.extend_from_slice(&outcome.body_hash);
    out.text(&outcome.principal);
    out.text(&outcome.outcome.reason);
    out.optional(outcome.outcome.reply.as_deref());
    out.optional(outcome.idempotency_key.as_deref());
    match &outcome.letter {
        None => out.u8(0),
        Some(letter) => {
            out.u8(1);
            encode_letter(&mut out, letter);
        }
    }
    out.finish()
}

fn encode_letter(out: &mut Writer, letter: &Letter) {
    match &letter.message {
        None => out.u32(0),
        Some(message) => {
            let bytes = encode_message(message);
            out.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            out.0.extend_from_slice(&bytes);
        }
    }
    out.u32(u32::try_from(letter.history.len()).unwrap_or(u32::MAX));
    for failure in &letter.history {
        out.u64(failure.at.0);
        out.text(&failure.reason);
    }
    out.id(letter.redriven.map(|(id, _)| id));
    out.u64(letter.redriven.map_or(0, |(_, at)| at.0));
}

/// Frames a count of attempts; its id is the message's sequence.
pub(super) fn encode_attempts(sequence: u64, attempts: u32) -> Vec<u8> {
    let mut out = Writer::new(b'a', sequence.into(), None);
    out.u32(attempts);
    out.finish()
}

/// Frames the counts.
pub(super) fn encode_census(census: Census) -> Vec<u8> {
    let mut out = Writer::new(b'c', 0, None);
    out.0.extend_from_slice(&census.to_bytes());
    out.finish()
}

/// Where the next record may begin.
pub(super) fn next_start(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}

/// How long the record is that begins here, by its head.
pub(super) fn framed_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(SUM_AT - 4..SUM_AT)?.try_into().ok()?;
    (u32::from_le_bytes(length) as usize).checked_add(HEAD)
}

/// Reads one whole record.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, Damage> {
    let head = bytes.get(..HEAD).ok_or(Damage::Length)?;
    if head[..4] != MAGIC {
        return Err(Damage::Magic);
    }
    let mut fields = Reader(&head[4..]);
    let (version, kind, flags) = (fields.u8(), fields.u8(), fields.u8());
    let (_zero, id, expiry) = (fields.u8(), fields.array().map(u128::from_le_bytes), fields.u64());
    let (length, sum) = (fields.u32(), fields.u32());
    let body = &bytes[HEAD..];
    if length.map(|length| length as usize) != Some(body.len()) {
        return Err(Damage::Length);
    }
    if sum != Some(checksum(&head[..SUM_AT], body)) {
        return Err(Damage::Checksum);
    }
    match version {
        Some(1..=VERSION) => {}
        Some(version) if version > VERSION => return Err(Damage::Newer(version)),
        _ => return Err(Damage::Body),
    }
    let expires = if flags == Some(HAS_EXPIRY) { expiry.map(Wall) } else { None };
    let mut body = Reader(body);
    let record = id.zip(kind).and_then(|(id, kind)| match kind {
        b'm' => decode_message(&mut body, version, MessageId(id), expires).map(Record::Message),
        b'o' => decode_outcome(&mut body, version, MessageId(id)).map(Record::Outcome),
        b'a' => Some(Record::Attempts(u64::try_from(id).ok()?, body.u32()?)),
        b'c' => Census::from_bytes(body.take(Census::BYTES)?).map(Record::Census),
        b't' => tally::decode_tally(&mut body).map(|(tally, boot)| Record::Tally(tally, boot)),
        _ => None,
    });
    record.filter(|_| body.0.is_empty()).ok_or(Damage::Body)
}

fn decode_message(
    body: &mut Reader<'_>,
    version: Option<u8>,
    id: MessageId,
    expires: Option<Wall>,
) -> Option<StoredMessage> {
    let sequence = body.u64()?;
    let accepted = Wall(body.u64()?);
    let lane = match body.u8()? {
        0 => Lane::Critical,
        1 => Lane::High,
        2 => Lane::Medium,
        3 => Lane::Low,
        _ => return None,
    };
    let on_unknown = match body.u8()? {
        0 => OnUnknown::Retry,
        1 => OnUnknown::DeadLetter,
        _ => return None,
    };
    let body_hash = body.array()?;
    Some(StoredMessage {
        id,
        sequence,
        accepted,
        principal: Arc::from(body.text()?),
        channel: ChannelRequest { name: body.text()?.into(), params: body.optional()? },
        key: body.optional()?,
        kind: body.optional()?,
        idempotency_key: body.optional()?,
        order_key: body.optional()?,
        data: body.text()?.into(),
        body_hash,
        lane,
        expires,
        on_unknown,
        redrive_of: if version == Some(1) { None } else { body.id()? },
        optimistic: match version {
            Some(1..=3) => None,
            _ => match body.u8()? {
                0 => None,
                1 => Some(Arc::new(decode_provisional(body)?)),
                _ => return None,
            },
        },
    })
}

fn decode_provisional(body: &mut Reader<'_>) -> Option<Provisional> {
    Some(Provisional {
        channel: body.text()?.into(),
        key: body.optional()?,
        value: body.text()?.into(),
        batch: body.id()?,
    })
}

fn decode_outcome(body: &mut Reader<'_>, version: Option<u8>, id: MessageId) -> Option<StoredOutcome> {
    let ended = Wall(body.u64()?);
    let attempts = body.u32()?;
    let state = match body.u8()? {
        0 => OutcomeState::Delivered,
        1 => OutcomeState::Rejected,
        2 => OutcomeState::Expired,
        3 => OutcomeState::DeadLettered,
        _ => return None,
    };
    let confirmed_by = match body.u8()? {
        0 => None,
        1 => Some(Confirm::Ack),
        2 => Some(Confirm::Echo),
        3 => Some(Confirm::Barrier),
        4 => Some(Confirm::Written),
        _ => return None,
    };
    let body_hash = body.array()?;
    let principal = Arc::from(body.text()?);
    let outcome = Outcome { state, reason: body.text()?.into(), confirmed_by, reply: body.optional()? };
    let idempotency_key = body.optional()?;
    let letter = match version {
        Some(1) => None,
        _ => match body.u8()? {
            0 => None,
            1 => Some(Box::new(decode_letter(body)?)),
            _ => return None,
        },
    };
    Some(StoredOutcome { id, ended, principal, outcome, attempts, idempotency_key, body_hash, letter })
}

fn decode_letter(body: &mut Reader<'_>) -> Option<Letter> {
    let message = match body.u32()? as usize {
        0 => None,
        length => match decode(body.take(length)?) {
            Ok(Record::Message(message)) => Some(Arc::new(message)),
            _ => return None,
        },
    };
    let mut history = Vec::new();
    for _ in 0..body.u32()? {
        history.push(Failure { at: Wall(body.u64()?), reason: body.text()?.into() });
    }
    let (id, at) = (body.id()?, Wall(body.u64()?));
    Some(Letter { message, history, redriven: id.map(|id| (id, at)) })
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

/// Builds a frame. Lengths are 32 bits: `outbox.message_max` and the limits of requests keep a record far below that.
struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8, id: u128, expires: Option<Wall>) -> Writer {
        let mut out = Writer(Vec::with_capacity(512));
        out.0.extend_from_slice(&MAGIC);
        out.0.extend_from_slice(&[VERSION, kind, if expires.is_some() { HAS_EXPIRY } else { 0 }, 0]);
        out.0.extend_from_slice(&id.to_le_bytes());
        out.u64(expires.map_or(0, |at| at.0));
        // Length and checksum, when they are known.
        out.u64(0);
        out
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn id(&mut self, id: Option<MessageId>) {
        self.u8(u8::from(id.is_some()));
        self.0.extend_from_slice(&id.map_or(0, |id| id.0).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.u8(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - HEAD).unwrap_or(u32::MAX);
        self.0[SUM_AT - 4..SUM_AT].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&self.0[..SUM_AT], &self.0[HEAD..]);
        self.0[SUM_AT..HEAD].copy_from_slice(&sum.to_le_bytes());
        self.0
    }
}

/// Reads what [`Writer`] wrote; `None` where the bytes end too early or say nonsense.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()?;
        std::str::from_utf8(self.take(length as usize)?).ok()
    }

    fn id(&mut self) -> Option<Option<MessageId>> {
        let known = self.u8()?;
        let id = MessageId(u128::from_le_bytes(self.array()?));
        match known {
            0 => Some(None),
            1 => Some(Some(id)),
            _ => None,
        }
    }

    fn optional(&mut self) -> Option<Option<Box<str>>> {
        match self.u8()? {
            0 => Some(None),
            1 => self.text().map(|text| Some(text.into())),
            _ => None,
        }
    }
}
