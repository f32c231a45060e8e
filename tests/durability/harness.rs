//! Messages, outcomes, and a store with its answers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use tidegate::protocol::request::ChannelRequest;
use tidegate::relay::outbox::{Confirm, Lane, OnUnknown, Outcome, OutcomeState};
use tidegate::relay::record::{
    Backlog, KeptOutcome, MessageId, Operation, Provisional, Queued, Stored, StoredMessage, StoredOutcome, Wanted,
};
use tidegate::relay::time::Wall;
use tidegate::store::{OpenError, Store, StoreAnswer, StoreConfig};

/// A store and the answers it gave.
pub struct Opened {
    pub store: Store,
    pub answers: Receiver<StoreAnswer>,
}

/// What a store held at start, with everything read whole; outcomes oldest first.
#[derive(Debug)]
pub struct Restored {
    pub messages: Vec<(Arc<StoredMessage>, u32)>,
    pub outcomes: Vec<Arc<StoredOutcome>>,
    pub next_sequence: u64,
    pub lost: u64,
    pub losses: Vec<String>,
}

pub fn try_open(path: &Path) -> Result<(Opened, Restored), OpenError> {
    try_open_with(path, StoreConfig::default())
}

pub fn try_open_with(path: &Path, config: StoreConfig) -> Result<(Opened, Restored), OpenError> {
    let (answer, answers) = channel();
    // Nobody listens any more when a test has failed.
    let opened = Store::open(path, config, move |said| drop(answer.send(said)));
    let (store, restored) = opened?;
    let opened = Opened { store, answers };
    let queued: Vec<_> = restored.messages.iter().cloned().collect();
    let messages = opened.load(queued.iter().map(|queued| Wanted::Message(queued.sequence)).collect());
    let messages: Vec<_> = messages.into_iter().map(message_of).collect();
    let mut backlog = Backlog::default();
    queued.iter().zip(&messages).for_each(|(queued, message)| backlog.add(message, queued.attempts()));
    assert!(backlog.iter().eq(&queued));
    let messages = messages.into_iter().zip(queued.iter().map(Queued::attempts)).collect();
    let kept: Vec<_> = restored.outcomes.into_iter().flatten().collect();
    let outcomes = opened.load(kept.iter().map(|kept| Wanted::Outcome(kept.id)).collect());
    let mut outcomes: Vec<_> = outcomes.into_iter().map(outcome_of).collect();
    for (kept, outcome) in kept.iter().zip(&outcomes) {
        assert_eq!(*kept, KeptOutcome::of(outcome));
    }
    outcomes.sort_by_key(|outcome| (outcome.ended, outcome.id));
    let next_sequence = restored.next_sequence;
    Ok((opened, Restored { messages, outcomes, next_sequence, lost: restored.lost, losses: restored.losses }))
}

fn message_of(record: Stored) -> Arc<StoredMessage> {
    match record {
        Stored::Message(message) => message,
        Stored::Outcome(outcome) => panic!("{outcome:?} is no message"),
    }
}

fn outcome_of(record: Stored) -> Arc<StoredOutcome> {
    match record {
        Stored::Outcome(outcome) => outcome,
        Stored::Message(message) => panic!("{message:?} is no outcome"),
    }
}

pub fn open(path: &Path) -> (Opened, Restored) {
    try_open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// sled without the store around it. Its threads may hold the file's lock a moment after its end, and so may a child
/// process of another test between `fork` and `exec`.
pub fn raw(path: &Path) -> sled::Db {
    loop {
        match sled::Config::new().path(path.join("sled")).segment_size(2 << 20).open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::yield_now()
            }
            opened => return opened.unwrap(),
        }
    }
}

/// The journals of a store.
pub fn journals(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-")).collect()
}

/// Bytes of a journal that were written: head and frames. Room follows.
pub fn written(journal: &Path) -> u64 {
    let bytes = std::fs::read(journal).unwrap();
    let mut end = 16;
    while bytes.get(end..end + 4) == Some(b"TgJr") {
        end += 20 + u32::from_le_bytes(bytes[end + 4..end + 8].try_into().unwrap()) as usize;
    }
    end as u64
}

/// Opens, reads, closes.
pub fn read(path: &Path) -> Restored {
    let (opened, restored) = open(path);
    opened.store.shutdown().unwrap();
    restored
}

impl Opened {
    pub fn try_commit(&self, operations: Vec<Operation>) -> StoreAnswer {
        match self.store.commit(operations) {
            Ok(()) => self.answers.recv().unwrap(),
            Err(answer) => answer,
        }
    }

    pub fn commit(&self, operations: Vec<Operation>) {
        assert_eq!(self.try_commit(operations), StoreAnswer::Committed);
    }

    pub fn load(&self, wanted: Vec<Wanted>) -> Vec<Stored> {
        self.store.load(wanted).unwrap();
        match self.answers.recv().unwrap() {
            StoreAnswer::Loaded(records) => records,
            other => panic!("{other:?}"),
        }
    }

    pub fn close(self) {
        self.store.shutdown().unwrap();
    }
}

/// Message number `sequence`; everything about it follows from the number and the size of its payload in bytes.
pub fn message(sequence: u64, bytes: usize) -> Arc<StoredMessage> {
    Arc::new(StoredMessage {
        id: MessageId(u128::from(sequence) << 64 | 7),
        sequence,
        accepted: Wall(1_000 + sequence),
        principal: "local".into(),
        channel: ChannelRequest { name: "orders".into(), params: None },
        key: None,
        kind: Some("order".into()),
        data: payload(sequence, bytes).into(),
        idempotency_key: Some(format!("key-{sequence}").into()),
        body_hash: [3; 32],
        order_key: Some("account".into()),
        lane: Lane::High,
        expires: sequence.is_multiple_of(2).then_some(Wall(9_000)),
        on_unknown: OnUnknown::DeadLetter,
        redrive_of: sequence.is_multiple_of(5).then_some(MessageId(9)),
        optimistic: sequence.is_multiple_of(3).then(|| {
            let (channel, key, batch) = ("favourites".into(), Some("42".into()), Some(MessageId(8)));
            Arc::new(Provisional { channel, key, value: payload(sequence, 40).into(), batch })
        }),
    })
}

/// JSON text of about that size, different for each message in all its parts.
fn payload(sequence: u64, bytes: usize) -> String {
    let mut text = String::from("\"");
    while text.len() < bytes {
        text.push_str(&format!("{sequence}.{} ", text.len()));
    }
    text + "\""
}

pub fn accept(message: &Arc<StoredMessage>) -> Operation {
    Operation::Accept(Arc::clone(message))
}

/// The outcome of a message, ended at `ended`, with an answer of about `bytes`.
pub fn outcome(of: &StoredMessage, ended: u64, bytes: usize) -> Arc<StoredOutcome> {
    let outcome = Outcome {
        state: OutcomeState::Delivered,
        reason: "".into(),
        confirmed_by: Some(Confirm::Ack),
        reply: Some(payload(of.sequence + 1, bytes).into()),
    };
    Arc::new(StoredOutcome {
        id: of.id,
        ended: Wall(ended),
        principal: of.principal.clone(),
        outcome,
        attempts: 2,
        idempotency_key: of.idempotency_key.clone(),
        body_hash: of.body_hash,
        letter: None,
    })
}

pub fn settle(of: &StoredMessage, outcome: &Arc<StoredOutcome>) -> Operation {
    Operation::Settle { sequence: of.sequence, outcome: Arc::clone(outcome) }
}

/// A directory in memory where there is one: for tests that open hundreds of times and whose question is not the disk's.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Says past the test runner's capture that a test could not run.
pub fn skip(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes()).unwrap();
}
