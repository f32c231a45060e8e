//! Group commit: one list of operations, one frame of the journal, one write, one fdatasync. When a table of what is in the
//! journal is full, sled takes it over (`base`), and commits go on in the next journal.
//!
//! Invariant: when [`Committer::commit`] returns `Ok`, all of it survives a power cut. When it returns `Err`, the committer
//! must not be used again: what the disk then holds is unknown until it is read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled::{Db, IVec};

use super::StoreConfig;
use super::base::Base;
use super::directory::Directory;
use super::journal::{self, Journal};
use super::load;
use super::mark::{Census, Mark};
use super::record::{self, Key};
use super::rotate;
use super::stats::Counters;
use super::table::{Table, Writes};
use crate::relay::record::{Operation, Stored, StoredMessage, StoredOutcome, Wanted};

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
        self.estimate_messages(census, index) + estimate(census.outcomes, &index.outcome_pieces, self.outcomes)
    }

    fn estimate_messages(self, census: Census, index: &Index) -> u64 {
        estimate(census.messages, &index.message_pieces, self.messages)
    }
}

/// About how many bytes so many records have, of which these have more than one piece, where others have so many bytes.
fn estimate<K>(count: u64, large: &BTreeMap<K, u32>, (known, bytes): (u64, u64)) -> u64 {
    let pieces: u64 = large.values().map(|pieces| u64::from(*pieces)).sum();
    let (large, piece) = (large.len() as u64, record::PIECE as u64);
    let small = count.saturating_sub(large) * (bytes / known.max(1) + ENTRY);
    // The last piece of each is half full, on average.
    small + pieces * piece - large * piece / 2
}

fn add((count, sum): &mut (u64, u64), bytes: usize) {
    if bytes <= record::PIECE {
        *count += 1;
        *sum += bytes as u64;
    }
}

/// What sled takes for an entry besides its value.
const ENTRY: u64 = 64;

/// The journal may grow to this part of `rotate_above` before sled takes it over …
const PART_OF_ROTATION: u64 = 16;
/// … and of what is free on the disk: on a full one a start has to put it into sled, too …
const PART_OF_FREE: u64 = 8;
/// … and of the room set aside for that …
const PART_OF_BALLAST: u64 = 4;
/// … but to no more bytes. Twice as much while sled is still busy with the one before.
const JOURNAL: u64 = 8 << 20;
/// All that is for what sled has to take over. The file, in which also stands what came and went, may be so many times as large.
const FILE: u64 = 4;
/// How old the journal may become …
const AGE: Duration = Duration::from_secs(10);
/// … and where nothing is accepted for want of room: what ends makes some.
const AGE_OF_FULL: Duration = Duration::from_secs(1);
/// How many bytes sled takes at most for each byte of a table.
const AMPLIFICATION: u64 = 4;
/// How much sled grows at most while what waits ends: it writes leaves anew without what has ended, and uses the old ones' room
/// again only segment by segment. Half of what waits, where that is less.
const DRAIN: u64 = 16 << 20;

/// Owns the journal and the mark, and hands to sled.
#[derive(Debug)]
pub(super) struct Committer {
    directory: Arc<Directory>,
    base: Base,
    journal: Journal,
    /// What is in the journal.
    young: Table,
    /// What sled is taking over.
    old: Option<Old>,
    /// When the last table was handed over.
    handed: Instant,
    /// About how many bytes sled needs for what it took over.
    needed: u64,
    /// When sled is to take over, in bytes.
    limit: u64,
    mark: Mark,
    index: Index,
    census: Census,
    sizes: Sizes,
    /// Which run of the system this is; 0: unknown.
    boot: u128,
    /// Bytes of records since [`Committer::take_written`].
    written: u64,
}

/// A table that sled is taking over.
#[derive(Debug)]
struct Old {
    table: Arc<Table>,
    /// The number of its journal.
    journal: u64,
    /// About how many bytes sled needs afterwards.
    needed: u64,
}

/// What was found of the data at start.
pub(super) struct Data {
    pub(super) db: Db,
    pub(super) mark: Mark,
    pub(super) index: Index,
    pub(super) census: Census,
    pub(super) sizes: Sizes,
    /// The number of the first journal that is free.
    pub(super) journal: u64,
}

impl Committer {
    /// Takes over an open sled with what is in it.
    pub(super) fn new(
        directory: &Arc<Directory>,
        config: StoreConfig,
        counters: &Arc<Counters>,
        data: Data,
    ) -> std::io::Result<Self> {
        let Data { db, mark, index, census, sizes, journal } = data;
        let of_ballast = if config.ballast > 0 { config.ballast / PART_OF_BALLAST } else { u64::MAX };
        let limit = (config.rotate_above / PART_OF_ROTATION).min(of_ballast).min(JOURNAL);
        Ok(Committer {
            journal: Journal::create(directory, journal, limit)?,
            base: Base::start(Arc::clone(directory), config, Arc::clone(counters), db)?,
            directory: Arc::clone(directory),
            young: Table::default(),
            old: None,
            handed: Instant::now(),
            needed: sizes.estimate(census, &index),
            limit,
            mark,
            index,
            census,
            sizes,
            boot: super::directory::boot(),
            written: 0,
        })
    }

    /// Makes the operations durable, all or none.
    pub(super) fn commit(&mut self, operations: &[Operation]) -> Result<(), String> {
        let mut writes = Writes::default();
        for operation in operations {
            match operation {
                Operation::Accept(message) => self.accept(&mut writes, message),
                Operation::Attempt { sequence, attempts } => {
                    let bytes = record::encode_attempts(*sequence, *attempts);
                    match self.index.attempted.insert(*sequence) {
                        true => writes.create(Key::attempts(*sequence), bytes.as_slice()),
                        false => writes.put(Key::attempts(*sequence), bytes.as_slice()),
                    }
                }
                Operation::Settle { sequence, outcome } => {
                    self.remove_message(&mut writes, *sequence);
                    self.census.settled += 1;
                    self.keep(&mut writes, outcome);
                }
                Operation::Amend { outcome } => self.amend(&mut writes, outcome),
                Operation::Forget { id } => {
                    let id = id.0;
                    let pieces = self.index.outcome_pieces.remove(&id).unwrap_or(1);
                    for piece in 0..pieces {
                        writes.remove(Key::outcome(id, piece));
                    }
                    self.census.outcomes = self.census.outcomes.saturating_sub(1);
                }
                Operation::Tally(tally) => writes.put(Key::tally(), record::encode_tally(tally, self.boot)),
            }
        }
        self.seal(writes)
    }

    /// The first commit of a run: moves entries that cannot be read out of the way of the next start, removes messages
    /// that have an outcome, and writes the counts of the rest.
    pub(super) fn begin(&mut self, damaged: &[(IVec, IVec)], settled: &[u64]) -> Result<(), String> {
        let census = self.census;
        let mut writes = Writes::default();
        for (key, value) in damaged {
            writes.remove(Key::from_bytes(key));
            writes.put(Key::damaged(key), value.as_ref());
        }
        for sequence in settled {
            self.remove_message(&mut writes, *sequence);
        }
        // They were not counted among the messages.
        self.census = census;
        self.seal(writes)?;
        self.sync_mark()
    }

    /// Reads these records, which must be there.
    pub(super) fn load(&self, wanted: &[Wanted]) -> Result<Vec<Stored>, String> {
        let tables: Vec<&Table> =
            std::iter::once(&self.young).chain(self.old.as_ref().map(|old| &*old.table)).collect();
        // A record lies whole in one place: the newest that knows its first piece.
        let table_of = |wanted: &Wanted| {
            let first = load::key(*wanted, 0);
            tables.iter().copied().find(|table| table.get(&first).is_some())
        };
        let mut below = wanted.iter().copied().filter(|wanted| table_of(wanted).is_none()).collect::<Vec<_>>();
        let read = if below.is_empty() { Vec::new() } else { self.base.load(std::mem::take(&mut below))? };
        let mut read = read.into_iter();
        let one = |wanted: &Wanted| match table_of(wanted) {
            Some(table) => load::record(*wanted, |key| Ok(table.get(key).flatten().map(<[u8]>::to_vec))),
            None => read.next().ok_or_else(|| "sled gave too little".to_owned()),
        };
        wanted.iter().map(one).collect()
    }

    /// When the mark wants [`Committer::sync_mark`].
    pub(super) fn mark_due(&self) -> Option<Instant> {
        self.mark.due()
    }

    /// Syncs the mark.
    pub(super) fn sync_mark(&mut self) -> Result<(), String> {
        self.mark.sync().map_err(|error| format!("syncing the mark: {error}"))
    }

    /// Lets sled take over what is left, and closes everything. What was committed is durable already.
    pub(super) fn close(mut self) -> Result<(), String> {
        self.sync_mark()?;
        self.wait_for_base()?;
        let last = self.journal.number();
        if !self.young.is_empty() {
            self.base.take(Arc::new(std::mem::take(&mut self.young)), last);
            self.base.taken(true)?;
        }
        self.base.close()?;
        journal::remove(&self.directory, last).map_err(|error| format!("removing the journal: {error}"))
    }

    /// Leaves everything as it is: closing would write again to a disk that just failed.
    pub(super) fn abandon(self) {
        self.base.abandon();
    }

    fn accept(&mut self, writes: &mut Writes, message: &StoredMessage) {
        let bytes = record::encode_message(message);
        self.sizes.message(bytes.len());
        self.written += bytes.len() as u64;
        let pieces = put(writes, &bytes, true, |piece| Key::message(message.sequence, piece));
        if pieces > 1 {
            self.index.message_pieces.insert(message.sequence, pieces);
        }
        self.census.next_sequence = self.census.next_sequence.max(message.sequence.saturating_add(1));
        self.census.messages += 1;
    }

    fn keep(&mut self, writes: &mut Writes, outcome: &StoredOutcome) {
        let bytes = record::encode_outcome(outcome);
        self.sizes.outcome(bytes.len());
        self.written += bytes.len() as u64;
        let pieces = put(writes, &bytes, true, |piece| Key::outcome(outcome.id.0, piece));
        if pieces > 1 {
            self.index.outcome_pieces.insert(outcome.id.0, pieces);
        }
        self.census.outcomes += 1;
    }

    /// Puts an outcome in the place of the one that was kept.
    fn amend(&mut self, writes: &mut Writes, outcome: &StoredOutcome) {
        let id = outcome.id.0;
        let before = self.index.outcome_pieces.remove(&id).unwrap_or(1);
        let bytes = record::encode_outcome(outcome);
        let pieces = put(writes, &bytes, false, |piece| Key::outcome(id, piece));
        for piece in pieces..before {
            writes.remove(Key::outcome(id, piece));
        }
        if pieces > 1 {
            self.index.outcome_pieces.insert(id, pieces);
        }
    }

    fn remove_message(&mut self, writes: &mut Writes, sequence: u64) {
        let pieces = self.index.message_pieces.remove(&sequence).unwrap_or(1);
        for piece in 0..pieces {
            writes.remove(Key::message(sequence, piece));
        }
        if self.index.attempted.remove(&sequence) {
            writes.remove(Key::attempts(sequence));
        }
        self.census.messages = self.census.messages.saturating_sub(1);
    }

    /// Adds the counts, writes, syncs, and only then moves the mark.
    fn seal(&mut self, mut writes: Writes) -> Result<(), String> {
        self.census.commit += 1;
        writes.put(Key::census(), record::encode_census(self.census));
        self.journal.append(self.census.commit, &writes)?;
        self.young.apply(writes);
        self.mark.write(self.census).map_err(|error| format!("writing the mark: {error}"))
    }

    /// Hands to sled what is due, and removes the journal of what it took over.
    pub(super) fn tend(&mut self) -> Result<(), String> {
        if self.base.taken(false)? {
            self.forget_journal()?;
        }
        if self.fill() >= self.limit.saturating_mul(2) {
            self.wait_for_base()?;
        }
        if self.fill() >= self.limit { self.hand_over() } else { Ok(()) }
    }

    /// How full the journal is, as bytes for sled.
    fn fill(&self) -> u64 {
        self.young.bytes().max(self.journal.length() / FILE)
    }

    /// Hands the table to sled, unless sled is still busy with the one before.
    fn hand_over(&mut self) -> Result<(), String> {
        if self.old.is_some() || self.young.is_empty() {
            return Ok(());
        }
        let next = Journal::create(&self.directory, self.journal.number() + 1, self.limit);
        let next = next.map_err(|error| format!("beginning a journal: {error}"))?;
        let journal = std::mem::replace(&mut self.journal, next).number();
        let table = Arc::new(std::mem::take(&mut self.young));
        self.base.take(Arc::clone(&table), journal);
        self.old = Some(Old { table, journal, needed: self.sizes.estimate(self.census, &self.index) });
        self.handed = Instant::now();
        Ok(())
    }

    fn wait_for_base(&mut self) -> Result<(), String> {
        if self.old.is_some() {
            self.base.taken(true)?;
            self.forget_journal()?;
        }
        Ok(())
    }

    fn forget_journal(&mut self) -> Result<(), String> {
        let Some(Old { journal, needed, .. }) = self.old.take() else { return Ok(()) };
        self.needed = needed;
        journal::remove(&self.directory, journal).map_err(|error| format!("removing a journal: {error}"))
    }

    /// About how many bytes of the disk are spoken for, where sled's file has so many: what it takes more until all is in it that is
    /// in the journals, and has ended, and the copy where much can be given back.
    pub(super) fn claimed(&self, file: u64) -> u64 {
        let tables = self.young.bytes() + self.old.as_ref().map_or(0, |old| old.table.bytes());
        let ends = (self.sizes.estimate_messages(self.census, &self.index) / 2).min(DRAIN);
        let copy = if rotate::is_waste(self.needed(), file) { rotate::copy(self.needed()) } else { 0 };
        // The next journal's room is taken while this one is still there.
        tables.saturating_mul(AMPLIFICATION).saturating_add(ends).saturating_add(copy).saturating_add(self.limit)
    }

    /// About how many bytes sled needs; where it is taking over, before or afterwards.
    fn needed(&self) -> u64 {
        self.old.as_ref().map_or(self.needed, |old| old.needed.max(self.needed))
    }

    /// Looks whether sled takes much more room than it needs, while so many bytes are `free` on the disk. `full`: nothing is accepted
    /// for want of room; then sled learns at once what is not needed any more.
    pub(super) fn look(&mut self, free: u64, full: bool) -> Result<(), String> {
        // Small tables cost sled more: not at every look on a full disk.
        let due = (free / PART_OF_FREE).max(self.limit / PART_OF_FREE);
        if self.journal.length() >= due || self.handed.elapsed() >= if full { AGE_OF_FULL } else { AGE } {
            self.hand_over()?;
        }
        self.base.look(self.needed(), full);
        Ok(())
    }

    /// Bytes of records that were committed since it was last asked.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }
}

/// Puts a record in pieces under its keys; says how many.
fn put(writes: &mut Writes, bytes: &[u8], is_new: bool, key: impl Fn(u32) -> Key) -> u32 {
    let mut pieces = 0;
    for bytes in bytes.chunks(record::PIECE) {
        match is_new {
            true => writes.create(key(pieces), bytes),
            false => writes.put(key(pieces), bytes),
        }
        pieces += 1;
    }
    pieces
}
