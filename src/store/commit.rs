//! Group commit: one list of operations, one batch of sled, one flush, one fdatasync.
//!
//! Invariant: when [`Committer::commit`] returns `Ok`, all of it survives a power cut. When it returns `Err`, the committer
//! must not be used again: what the disk then holds is unknown until it is read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use sled::{Batch, Db, IVec};

use super::mark::{Census, Mark};
use super::record::{self, Key};
use crate::relay::record::{Operation, StoredMessage, StoredOutcome};

/// What has to be known about records on disk to remove them: only what differs from the ordinary.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Messages of more than one piece, by sequence.
    pub(super) message_pieces: BTreeMap<u64, u32>,
    /// Outcomes of more than one piece, by id.
    pub(super) outcome_pieces: BTreeMap<u128, u32>,
    /// Messages with an attempt on record.
    pub(super) attempted: BTreeSet<u64>,
}

/// Owns sled and the mark.
#[derive(Debug)]
pub(super) struct Committer {
    db: Db,
    /// Our own descriptor of sled's file: sled never syncs, and an own one sees every write error since it was opened.
    file: File,
    file_path: PathBuf,
    mark: Mark,
    index: Index,
    census: Census,
}

impl Committer {
    /// Takes over an open sled with what is in it.
    pub(super) fn new(db: Db, file_path: PathBuf, mark: Mark, index: Index, census: Census) -> std::io::Result<Self> {
        let file = File::open(&file_path)?;
        Ok(Committer { db, file, file_path, mark, index, census })
    }

    /// Makes the operations durable, all or none.
    pub(super) fn commit(&mut self, operations: &[Operation]) -> Result<(), String> {
        let mut batch = Batch::default();
        for operation in operations {
            match operation {
                Operation::Accept(message) => self.accept(&mut batch, message),
                Operation::Attempt { sequence, attempts } => {
                    self.index.attempted.insert(*sequence);
                    batch.insert(Key::attempts(*sequence), record::encode_attempts(*sequence, *attempts));
                }
                Operation::Settle { sequence, outcome } => {
                    self.remove_message(&mut batch, *sequence);
                    self.census.settled += 1;
                    self.keep(&mut batch, outcome);
                }
                Operation::Amend { outcome } => self.amend(&mut batch, outcome),
                Operation::Forget { id } => {
                    let id = id.0;
                    let pieces = self.index.outcome_pieces.remove(&id).unwrap_or(1);
                    for piece in 0..pieces {
                        batch.remove(Key::outcome(id, piece));
                    }
                    self.census.outcomes = self.census.outcomes.saturating_sub(1);
                }
            }
        }
        self.seal(batch)
    }

    /// The first commit of a run: moves entries that cannot be read out of the way of the next start, removes messages
    /// that have an outcome, and writes the counts of the rest.
    pub(super) fn begin(&mut self, damaged: &[(IVec, IVec)], settled: &[u64]) -> Result<(), String> {
        let census = self.census;
        let mut batch = Batch::default();
        for (key, value) in damaged {
            batch.remove(key);
            batch.insert(Key::damaged(key), value);
        }
        for sequence in settled {
            self.remove_message(&mut batch, *sequence);
        }
        // They were not counted among the messages.
        self.census = census;
        self.seal(batch)?;
        self.sync_mark()
    }

    /// For reading.
    pub(super) fn data(&self) -> &Db {
        &self.db
    }

    /// When the mark wants [`Committer::sync_mark`].
    pub(super) fn mark_due(&self) -> Option<Instant> {
        self.mark.due()
    }

    /// Syncs the mark.
    pub(super) fn sync_mark(&mut self) -> Result<(), String> {
        self.mark.sync().map_err(|error| format!("syncing the mark: {error}"))
    }

    /// Closes everything. What was committed is durable already.
    pub(super) fn close(mut self) -> Result<(), String> {
        self.sync_mark()
    }

    fn accept(&mut self, batch: &mut Batch, message: &StoredMessage) {
        let bytes = record::encode_message(message);
        let pieces = put(batch, &bytes, |piece| Key::message(message.sequence, piece));
        if pieces > 1 {
            self.index.message_pieces.insert(message.sequence, pieces);
        }
        self.census.next_sequence = self.census.next_sequence.max(message.sequence.saturating_add(1));
        self.census.messages += 1;
    }

    fn keep(&mut self, batch: &mut Batch, outcome: &StoredOutcome) {
        let bytes = record::encode_outcome(outcome);
        let pieces = put(batch, &bytes, |piece| Key::outcome(outcome.id.0, piece));
        if pieces > 1 {
            self.index.outcome_pieces.insert(outcome.id.0, pieces);
        }
        self.census.outcomes += 1;
    }

    /// Puts an outcome in the place of the one that was kept.
    fn amend(&mut self, batch: &mut Batch, outcome: &StoredOutcome) {
        let id = outcome.id.0;
        let before = self.index.outcome_pieces.remove(&id).unwrap_or(1);
        let bytes = record::encode_outcome(outcome);
        let pieces = put(batch, &bytes, |piece| Key::outcome(id, piece));
        for piece in pieces..before {
            batch.remove(Key::outcome(id, piece));
        }
        if pieces > 1 {
            self.index.outcome_pieces.insert(id, pieces);
        }
    }

    fn remove_message(&mut self, batch: &mut Batch, sequence: u64) {
        let pieces = self.index.message_pieces.remove(&sequence).unwrap_or(1);
        for piece in 0..pieces {
            batch.remove(Key::message(sequence, piece));
        }
        if self.index.attempted.remove(&sequence) {
            batch.remove(Key::attempts(sequence));
        }
        self.census.messages = self.census.messages.saturating_sub(1);
    }

    /// Adds the counts, writes, syncs, and only then moves the mark.
    fn seal(&mut self, mut batch: Batch) -> Result<(), String> {
        self.census.commit += 1;
        batch.insert(Key::census(), record::encode_census(self.census));
        self.db.apply_batch(batch).map_err(|error| format!("writing: {error}"))?;
        self.db.flush().map_err(|error| format!("flushing: {error}"))?;
        self.file.sync_data().map_err(|error| format!("fdatasync: {error}"))?;
        self.check_place()?;
        self.mark.write(self.census).map_err(|error| format!("writing the mark: {error}"))
    }

    /// A store whose file was deleted or replaced would go on writing into nothing.
    fn check_place(&self) -> Result<(), String> {
        let gone = |problem: &str| format!("{}: {problem} while in use", self.file_path.display());
        let ours = self.file.metadata().map_err(|error| gone(&error.to_string()))?;
        match fs::metadata(&self.file_path) {
            Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => Ok(()),
            Ok(_) => Err(gone("replaced")),
            Err(error) => Err(gone(&error.to_string())),
        }
    }
}

/// Puts a record in pieces under its keys; says how many.
fn put(batch: &mut Batch, bytes: &[u8], key: impl Fn(u32) -> Key) -> u32 {
    let mut pieces = 0;
    for bytes in bytes.chunks(record::PIECE) {
        batch.insert(key(pieces), bytes);
        pieces += 1;
    }
    pieces
}
