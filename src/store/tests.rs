//! The store on a real sled in a real directory.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::{Store, StoreAnswer, StoreConfig};
use crate::protocol::request::ChannelRequest;
use crate::relay::outbox::{Lane, OnUnknown, Outcome, OutcomeState};
use crate::relay::record::{MessageId, Operation, Restored, StoredMessage, StoredOutcome};
use crate::relay::time::Wall;

fn open(path: &Path) -> (Store, Restored, Receiver<StoreAnswer>) {
    let (answers, told) = channel();
    let opened = Store::open(path, StoreConfig::default(), move |answer| answers.send(answer).unwrap());
    let (store, restored) = opened.unwrap_or_else(|error| panic!("{error}"));
    (store, restored, told)
}

fn commit(store: &Store, answers: &Receiver<StoreAnswer>, operations: Vec<Operation>) {
    store.commit(operations).unwrap();
    assert_eq!(answers.recv().unwrap(), StoreAnswer::Committed);
}

fn message(sequence: u64, bytes: usize) -> Arc<StoredMessage> {
    Arc::new(StoredMessage {
        id: MessageId(u128::from(sequence) << 64 | 7),
        sequence,
        accepted: Wall(1_000 + sequence),
        principal: "local".into(),
        channel: ChannelRequest { name: "orders".into(), params: None },
        key: None,
        kind: None,
        data: format!("\"{}\"", "x".repeat(bytes)).into(),
        idempotency_key: Some(format!("key-{sequence}").into()),
        body_hash: [3; 32],
        order_key: Some("account".into()),
        lane: Lane::High,
        expires: Some(Wall(9_000)),
        on_unknown: OnUnknown::DeadLetter,
    })
}

fn outcome(of: &StoredMessage, ended: u64) -> Arc<StoredOutcome> {
    let outcome = Outcome {
        state: OutcomeState::Rejected,
        reason: "cancelled".into(),
        confirmed_by: None,
        reply: Some("{}".into()),
    };
    Arc::new(StoredOutcome {
        id: of.id,
        ended: Wall(ended),
        principal: of.principal.clone(),
        outcome,
        attempts: 2,
        idempotency_key: of.idempotency_key.clone(),
        body_hash: of.body_hash,
    })
}

#[test]
fn a_restart_restores_order_attempts_and_outcomes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, restored, answers) = open(directory.path());
    assert_eq!((restored.messages.len(), restored.next_sequence, restored.lost), (0, 0, 0));
    assert_eq!(restored.losses, Vec::<String>::new());
    let all: Vec<_> = (0..300).map(|n| message(n, 100)).collect();
    commit(&store, &answers, all.iter().cloned().map(Operation::Accept).collect());
    let gone = outcome(&all[5], 50);
    let kept = [outcome(&all[0], 90), outcome(&all[299], 80)];
    commit(
        &store,
        &answers,
        vec![
            Operation::Attempt { sequence: 7, attempts: 1 },
            Operation::Attempt { sequence: 7, attempts: 2 },
            Operation::Settle { sequence: 5, outcome: gone.clone() },
            Operation::Attempt { sequence: 299, attempts: 4 },
            Operation::Settle { sequence: 0, outcome: kept[0].clone() },
        ],
    );
    let last = vec![Operation::Settle { sequence: 299, outcome: kept[1].clone() }, Operation::Forget { id: gone.id }];
    commit(&store, &answers, last);
    store.shutdown().unwrap();

    for _ in 0..2 {
        let (store, restored, _) = open(directory.path());
        assert_eq!(restored.losses, Vec::<String>::new());
        assert_eq!(restored.lost, 0);
        assert_eq!(restored.next_sequence, 300);
        assert_eq!(restored.outcomes, [kept[1].clone(), kept[0].clone()], "oldest first");
        let expected: Vec<_> =
            (1..299).filter(|n| *n != 5).map(|n| (all[n].clone(), if n == 7 { 2 } else { 0 })).collect();
        assert_eq!(restored.messages, expected);
        store.shutdown().unwrap();
    }
}
