//! What is written is read, every damage is found, and what an older version wrote is read, too.

use std::time::Duration;

use super::*;
use crate::relay::record::StoredCost;
use crate::relay::stats::Cost;
use crate::relay::time::{Mono, Time};
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn optional() -> impl Strategy<Value = Option<Box<str>>> {
    proptest::option::of(text().prop_map(String::into_boxed_str))
}

prop_compose! {
    fn message()(
        id: u128, sequence: u64, accepted: u64, principal in text(), name in text(), params in optional(),
        (key, kind, idempotency_key, order_key) in (optional(), optional(), optional(), optional()),
        data in text(), body_hash: [u8; 32],
        lane in prop::sample::select(vec![Lane::Critical, Lane::High, Lane::Medium, Lane::Low]),
        expires: Option<u64>, retry: bool, redrive_of: Option<u128>, optimistic in proptest::option::of(provisional().boxed()),
    ) -> StoredMessage {
        StoredMessage {
            id: MessageId(id), sequence, accepted: Wall(accepted), principal: principal.into(),
            channel: ChannelRequest { name: name.into(), params }, key, kind, data: data.into(), idempotency_key,
            body_hash, order_key, lane, expires: expires.map(Wall),
            on_unknown: if retry { OnUnknown::Retry } else { OnUnknown::DeadLetter },
            redrive_of: redrive_of.map(MessageId), optimistic: optimistic.map(Arc::new),
        }
    }
}

prop_compose! {
    fn provisional()(channel in text(), key in optional(), value in text(), batch: Option<u128>) -> Provisional {
        Provisional { channel: channel.into(), key, value: value.into(), batch: batch.map(MessageId) }
    }
}

prop_compose! {
    fn letter()(
        message in proptest::option::of(message().boxed()), redriven: Option<(u128, u64)>,
        history in proptest::collection::vec((any::<u64>(), text()), 0..3),
    ) -> Box<Letter> {
        let history = history.into_iter().map(|(at, reason)| Failure { at: Wall(at), reason: reason.into() });
        Box::new(Letter {
            message: message.map(Arc::new), history: history.collect(),
            redriven: redriven.map(|(id, at)| (MessageId(id), Wall(at))),
        })
    }
}

prop_compose! {
    fn outcome()(
        id: u128, ended: u64, principal in text(), attempts: u32, idempotency_key in optional(), body_hash: [u8; 32],
        state in prop::sample::select(vec![
            OutcomeState::Delivered, OutcomeState::Rejected, OutcomeState::Expired, OutcomeState::DeadLettered,
        ]),
        confirmed_by in prop::sample::select(vec![
            None, Some(Confirm::Ack), Some(Confirm::Echo), Some(Confirm::Barrier), Some(Confirm::Written),
        ]),
        reason in text(), reply in optional(), letter in proptest::option::of(letter().boxed()),
    ) -> StoredOutcome {
        let outcome = Outcome { state, reason: reason.into(), confirmed_by, reply };
        StoredOutcome {
            id: MessageId(id), ended: Wall(ended), principal: principal.into(), outcome, attempts, idempotency_key, body_hash, letter,
        }
    }
}

prop_compose! {
    fn tally()(
        service: u64, mono: u64, wall: u64, connects: u64, frames: u64, held: [u64; 2],
        costs in proptest::collection::vec(
            (prop::sample::select(Cost::ALL.to_vec()), any::<bool>(), any::<u64>(), any::<u32>()), 0..5),
    ) -> StoredTally {
        let costs = costs.into_iter().map(|(cost, of_day, age, count)| {
            StoredCost { cost, of_day, age: Duration::from_nanos(age), count }
        });
        StoredTally {
            service, at: Time { mono: Mono(mono), wall: Wall(wall) }, connects, frames,
            connects_held: Duration::from_nanos(held[0]), frames_held: Duration::from_nanos(held[1]),
            costs: costs.collect(),
        }
    }
}

/// A frame with what it must decode to. Boxed: the values of nested strategies are large, and a test's stack is not.
fn framed() -> impl Strategy<Value = (Vec<u8>, Record)> {
    prop_oneof![
        message().prop_map(|m| (encode_message(&m), Record::Message(m))),
        outcome().prop_map(|o| (encode_outcome(&o), Record::Outcome(o))),
        (tally(), any::<u128>()).prop_map(|(t, boot)| (encode_tally(&t, boot), Record::Tally(t, boot))),
        any::<(u64, u32)>().prop_map(|(s, n)| (encode_attempts(s, n), Record::Attempts(s, n))),
        any::<[u64; 5]>().prop_map(|[commit, next_sequence, settled, messages, outcomes]| {
            let census = Census { commit, next_sequence, settled, messages, outcomes };
            (encode_census(census), Record::Census(census))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read((bytes, record) in framed()) {
        prop_assert_eq!(decode(&bytes), Ok(record));
    }

    #[test]
    fn every_flipped_bit_is_found((mut bytes, _) in framed()) {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err(), "bit {}", bit);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn every_truncation_is_found((bytes, _) in framed()) {
        for length in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..length]), Err(Damage::Length));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut body = Writer::new(b'm', 1, None);
        body.0.extend_from_slice(&bytes);
        let _ = decode(&bytes);
        let _ = decode(&body.finish());
        let _ = Key::read(&bytes);
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut bytes = encode_attempts(1, 2);
    bytes[4] = VERSION + 1;
    assert_eq!(decode(&bytes), Err(Damage::Checksum));
    let sum = checksum(&bytes[..SUM_AT], &bytes[HEAD..]);
    bytes[SUM_AT..HEAD].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decode(&bytes), Err(Damage::Newer(VERSION + 1)));
}

/// A record as version 1 wrote it: without the last `missing` bytes.
fn as_version_1(bytes: Vec<u8>, missing: usize) -> Vec<u8> {
    as_version(1, bytes, missing)
}

fn as_version(version: u8, mut bytes: Vec<u8>, missing: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - missing);
    bytes[4] = version;
    let length = u32::try_from(bytes.len() - HEAD).unwrap();
    bytes[SUM_AT - 4..SUM_AT].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&bytes[..SUM_AT], &bytes[HEAD..]);
    bytes[SUM_AT..HEAD].copy_from_slice(&sum.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_version_1_wrote_is_read(message in message(), outcome in outcome()) {
        let message = StoredMessage { redrive_of: None, optimistic: None, ..message };
        let outcome = StoredOutcome { letter: None, ..outcome };
        let (m, o) = (as_version_1(encode_message(&message), 18), as_version_1(encode_outcome(&outcome), 1));
        prop_assert_eq!(decode(&m), Ok(Record::Message(message)));
        prop_assert_eq!(decode(&o), Ok(Record::Outcome(outcome)));
    }

    #[test]
    fn what_versions_2_and_3_wrote_is_read(message in message(), outcome in outcome()) {
        let message = StoredMessage { optimistic: None, ..message };
        for version in [2, 3] {
            let m = as_version(version, encode_message(&message), 1);
            let o = as_version(version, encode_outcome(&outcome), 0);
            prop_assert_eq!(decode(&m), Ok(Record::Message(message.clone())));
            prop_assert_eq!(decode(&o), Ok(Record::Outcome(outcome.clone())));
        }
    }
}

#[test]
fn keys_sort_by_sequence_and_piece() {
    let mut keys = vec![Key::message(1, 0), Key::message(1, 1), Key::message(2, 0), Key::message(256, 0)];
    let sorted = keys.clone();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(keys, sorted);
    assert_eq!(Key::read(&Key::message(7, 3).0), Some(Place::Message(7, 3)));
    assert_eq!(Key::read(&Key::outcome(7, 3).0), Some(Place::Outcome(7, 3)));
    assert_eq!(Key::read(&Key::attempts(7).0), Some(Place::Attempts(7)));
    assert_eq!(Key::read(&Key::census().0), Some(Place::Census));
    assert_eq!(Key::read(&Key::tally().0), Some(Place::Tally));
    assert_eq!(Key::read(&Key::damaged(b"c").0), Some(Place::Damaged));
    assert_eq!(Key::read(b"mx"), None);
    assert_eq!(Key::read(b""), None);
}
