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

use super::StoreConfig;
use super::directory::Directory;
use super::mark::{Census, Mark};
use super::record::{self, Key};
use super::recover;
use super::rotate::{self, Rotation};
use super::wake::Watched;
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

/// How large records of one piece are, by all that were read or written: nobody reads what he removes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sizes {
    messages: (u64, u64),
    outcomes: (u64, u64),
}

impl Sizes {
    pub(super) fn message(&mut self, bytes: usize) {
        add(&mut self.messages, bytes);
    }

    pub(super) fn outcome(&mut self, bytes: usize) {
        add(&mut self.outcomes, bytes);
    }

    /// About how many bytes the records have that are there.
    fn estimate(self, census: Census, index: &Index) -> u64 {
        let of = |count: u64, large: usize, pieces: u64, (known, bytes): (u64, u64)| {
            let (large, piece) = (large as u64, record::PIECE as u64);
            let small = count.saturating_sub(large) * (bytes / known.max(1) + ENTRY);
            // The last piece of each is half full, on average.
            small + pieces * piece - large * piece / 2
        };
        let messages = index.message_pieces.values().map(|pieces| u64::from(*pieces)).sum();
        let outcomes = index.outcome_pieces.values().map(|pieces| u64::from(*pieces)).sum();
        of(census.messages, index.message_pieces.len(), messages, self.messages)
            + of(census.outcomes, index.outcome_pieces.len(), outcomes, self.outcomes)
    }
}

fn add((count, sum): &mut (u64, u64), bytes: usize) {
    if bytes <= record::PIECE {
        *count += 1;
        *sum += bytes as u64;
    }
}

/// What sled takes for an entry besides its value.
const ENTRY: u64 = 64;

/// Owns sled and the mark.
#[derive(Debug)]
pub(super) struct Committer {
    /// Closed only while a fresh one takes its place.
    db: Option<Db>,
    /// Our own descriptor of sled's file: sled never syncs, and an own one sees every write error since it was opened.
    file: File,
    file_path: PathBuf,
    watched: Watched,
    mark: Mark,
    index: Index,
    census: Census,
    sizes: Sizes,
    rotation: Option<Rotation>,
    /// No rotation at or below this, by what the last one left.
    rotate_above: u64,
    /// No rotation before this: the last one failed.
    rotate_after: Option<Instant>,
    /// Which run of the system this is; 0: unknown.
    boot: u128,
    /// Bytes of records since [`Committer::take_written`].
    written: u64,
}

impl Committer {
    /// Takes over an open sled with what is in it.
    pub(super) fn new(
        db: Db,
        file_path: PathBuf,
        mark: Mark,
        index: Index,
        census: Census,
        sizes: Sizes,
    ) -> std::io::Result<Self> {
        let file = File::open(&file_path)?;
        let (db, boot, watched) = (Some(db), super::directory::boot(), Watched::new()?);
        Ok(Committer {
            db,
            file,
            file_path,
            watched,
            mark,
            index,
            census,
            sizes,
            rotation: None,
            rotate_above: 0,
            rotate_after: None,
            boot,
            written: 0,
        })
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
                Operation::Tally(tally) => batch.insert(Key::tally(), record::encode_tally(tally, self.boot)),
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
    pub(super) fn data(&self) -> Result<&Db, String> {
        self.db.as_ref().ok_or_else(|| "the store is closed".to_owned())
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
        self.sizes.message(bytes.len());
        self.written += bytes.len() as u64;
        let pieces = put(batch, &bytes, |piece| Key::message(message.sequence, piece));
        if pieces > 1 {
            self.index.message_pieces.insert(message.sequence, pieces);
        }
        self.census.next_sequence = self.census.next_sequence.max(message.sequence.saturating_add(1));
        self.census.messages += 1;
    }

    fn keep(&mut self, batch: &mut Batch, outcome: &StoredOutcome) {
        let bytes = record::encode_outcome(outcome);
        self.sizes.outcome(bytes.len());
        self.written += bytes.len() as u64;
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
        if let Some(Err(problem)) = self.rotation.as_ref().map(|rotation| rotation.apply(&batch)) {
            self.give_up_rotation(&problem);
        }
        self.data()?.apply_batch(batch).map_err(|error| format!("writing: {error}"))?;
        self.watched.flush(self.data()?)?;
        self.file.sync_data().map_err(|error| format!("fdatasync: {error}"))?;
        self.check_place()?;
        self.mark.write(self.census).map_err(|error| format!("writing the mark: {error}"))
    }

    /// Frees the memory of what a commit of so many operations replaced. sled leaves that to a collector which frees at most
    /// 512 things at every 128th entry into sled. A batch is one entry and replaces some three things an operation, so with
    /// large batches it falls behind for good: 7 KB more memory with every message.
    pub(super) fn sweep(&self, operations: usize) {
        sweep(operations * if self.rotation.is_some() { 2 } else { 1 });
    }

    /// Begins to write the data anew if it takes `disk` bytes, much more than is needed, and `free` bytes allow it. `full`: all
    /// files together take what they may.
    pub(super) fn consider_rotation(
        &mut self,
        directory: &Directory,
        config: StoreConfig,
        disk: u64,
        free: u64,
        full: bool,
    ) {
        let needed = self.sizes.estimate(self.census, &self.index);
        let above = rotate::above(needed, config.rotate_above, disk.saturating_add(free), full);
        if self.rotation.is_some()
            || disk <= above.max(self.rotate_above)
            || free < rotate::copy(needed)
            || self.rotate_after.is_some_and(|after| Instant::now() < after)
        {
            return;
        }
        match Rotation::begin(directory, config) {
            Ok(rotation) => {
                tracing::info!(disk, needed, "the store's file is much larger than what is in it: it is written anew");
                self.rotation = Some(rotation);
            }
            Err(problem) => self.give_up_rotation(&problem),
        }
    }

    /// Gives up a copy that leaves only `free` bytes on the disk.
    pub(super) fn spare(&mut self, free: u64) {
        if self.rotation.is_some() && free < rotate::SPARE {
            self.give_up_rotation("the disk has no room for a copy");
        }
    }

    /// Bytes of records that were committed since it was last asked.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    pub(super) fn is_rotating(&self) -> bool {
        self.rotation.is_some()
    }

    /// The next part of a rotation; `true` when it is done. An error is the store's, not the copy's.
    pub(super) fn rotate(&mut self, directory: &Directory, config: StoreConfig) -> Result<bool, String> {
        let (Some(rotation), Some(db)) = (self.rotation.as_mut(), self.db.as_ref()) else { return Ok(false) };
        match rotation.step(db) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(problem) => {
                self.give_up_rotation(&problem);
                return Ok(false);
            }
        }
        let Some(rotation) = self.rotation.take() else { return Ok(false) };
        match rotation.close(directory, &self.watched) {
            Ok(entries) => tracing::info!(entries, "the store was written anew"),
            Err(problem) => {
                self.give_up_rotation(&problem);
                return Ok(false);
            }
        }
        self.take_place(directory, config)?;
        let left = self.file.metadata().map_err(|error| format!("measuring its file: {error}"))?.len();
        // Again at once would leave no less.
        self.rotate_above = left.saturating_add(left / 2);
        Ok(true)
    }

    /// The fresh data takes the place of the old, and is opened there: sled holds on to the place where it was opened.
    fn take_place(&mut self, directory: &Directory, config: StoreConfig) -> Result<(), String> {
        drop(self.db.take());
        rotate::swap(directory)?;
        let data = directory.join(recover::DATA);
        self.db = Some(recover::try_open(&data, config).map_err(|error| error.to_string())??);
        self.file = File::open(&self.file_path).map_err(|error| format!("opening its file: {error}"))?;
        directory.sync_all(&data).map_err(|error| format!("syncing the directory: {error}"))
    }

    fn give_up_rotation(&mut self, problem: &str) {
        tracing::warn!(problem, "the store cannot be written anew now; it goes on in its old file");
        if let Some(rotation) = self.rotation.take() {
            rotation.abandon();
        }
        self.rotate_after = Some(Instant::now() + rotate::PAUSE);
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

/// The same after so many entries were written or read.
pub(super) fn sweep(entries: usize) {
    // What was replaced is free two rounds later.
    for _ in 0..entries / 64 + 3 {
        crossbeam_epoch::pin().flush();
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
