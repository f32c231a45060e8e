//! Reads everything at start and says what is missing.
//!
//! Invariant: a record that cannot be read, and one that the counts know but the data does not have, is counted and told;
//! none is passed over. Counts come from two witnesses: one in sled, written with each batch, and the mark outside of it.
//!
//! Deliberately no repair here: what sled cannot read at all is `recover`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use sled::{Db, IVec};

use super::base::sweep;
use super::commit::{Index, Sizes};
use super::mark::{Census, Found};
use super::record::{self, Damage, Key, Place, Record};
use super::table::Table;
use crate::relay::record::{Backlog, KeptOutcome, KeptTally, MessageId, Restored, Stored, Wanted};

/// At most so many damages are told one by one.
const TOLD: usize = 20;
/// Entries after which the memory of pages that were read and given up is freed.
const SWEEP: usize = 1_024;
/// Outcomes in one part of what the relay gets.
const PART: usize = 4_096;

/// Everything that sled gave.
#[derive(Debug, Default)]
pub(super) struct Scan {
    messages: Backlog,
    outcomes: Vec<Vec<KeptOutcome>>,
    /// The counts of the last batch that sled has.
    census: Option<Census>,
    /// How large records are.
    sizes: Sizes,
    /// What is spent of upstream's limits; absent and new are told apart at the end.
    tally: KeptTally,
    /// What is needed to remove records again.
    pub(super) index: Index,
    /// Entries that are no records of ours.
    pub(super) damaged: Vec<(IVec, IVec)>,
    /// Messages that were left beside their outcome.
    pub(super) settled: Vec<u64>,
    damaged_records: u64,
    told: Vec<String>,
}

/// Why a scan has no result.
#[derive(Debug)]
pub(super) enum ScanError {
    /// A record of a newer version.
    Newer(u8),
    /// sled cannot read part of its file.
    Unreadable(String),
    /// The disk does not answer as it should.
    Io(std::io::Error),
}

/// Reads all of it, as it will be with the table over it.
pub(super) fn scan(db: &Db, table: &Table) -> Result<Scan, ScanError> {
    let mut scan = Scan::default();
    let mut attempts = BTreeMap::new();
    let mut group: Vec<(IVec, IVec)> = Vec::new();
    let mut take = |key: IVec, value: IVec| {
        let same = group.last().is_some_and(|(last, _)| whose(last) == whose(&key));
        if !same {
            scan.take(&mut group, &mut attempts)?;
        }
        group.push((key, value));
        Ok(())
    };
    let mut over = table.after(None).peekable();
    for (place, entry) in db.iter().enumerate() {
        if place % SWEEP == 0 {
            sweep(SWEEP);
        }
        let (key, value) = entry.map_err(|error| match error {
            sled::Error::Io(error) if !super::recover::is_damage(&error) => ScanError::Io(error),
            other => ScanError::Unreadable(other.to_string()),
        })?;
        while let Some((over, value)) = over.next_if(|(over, _)| over.as_ref() < key.as_ref()) {
            value.map_or(Ok(()), |value| take(over.as_ref().into(), value.into()))?;
        }
        match over.next_if(|(over, _)| over.as_ref() == key.as_ref()) {
            Some((_, Some(value))) => take(key, value.into())?,
            Some((_, None)) => {}
            None => take(key, value)?,
        }
    }
    for (key, value) in over {
        value.map_or(Ok(()), |value| take(key.as_ref().into(), value.into()))?;
    }
    scan.take(&mut group, &mut attempts)?;
    scan.index.attempted = attempts.keys().copied().collect();
    scan.drop_settled();
    Ok(scan)
}

/// Reads these records, which must be there.
pub(super) fn records(db: &Db, wanted: &[Wanted]) -> Result<Vec<Stored>, String> {
    let get = |key: &Key| db.get(key).map_err(|error| error.to_string());
    wanted.iter().map(|wanted| record(*wanted, get)).collect()
}

/// The key of a piece of a record.
pub(super) fn key(wanted: Wanted, piece: u32) -> Key {
    match wanted {
        Wanted::Message(sequence) => Key::message(sequence, piece),
        Wanted::Outcome(id) => Key::outcome(id.0, piece),
    }
}

/// Reads a record from where `get` finds its pieces.
pub(super) fn record<V: AsRef<[u8]>>(
    wanted: Wanted,
    get: impl Fn(&Key) -> Result<Option<V>, String>,
) -> Result<Stored, String> {
    let failed = |problem: String| match wanted {
        Wanted::Message(sequence) => format!("reading message number {sequence}: {problem}"),
        Wanted::Outcome(id) => format!("reading the outcome of {id}: {problem}"),
    };
    let mut bytes = Vec::new();
    for piece in 0.. {
        let Some(value) = get(&key(wanted, piece)).map_err(failed)? else { break };
        bytes.extend_from_slice(value.as_ref());
        if value.as_ref().len() < record::PIECE {
            break;
        }
    }
    match (record::decode(&bytes), wanted) {
        (Ok(Record::Message(message)), Wanted::Message(sequence)) if message.sequence == sequence => {
            Ok(Stored::Message(Arc::new(message)))
        }
        (Ok(Record::Outcome(outcome)), Wanted::Outcome(id)) if outcome.id == id => {
            Ok(Stored::Outcome(Arc::new(outcome)))
        }
        (Ok(_), _) => Err(failed("another record is in its place".to_owned())),
        (Err(damage), _) => Err(failed(damage.to_string())),
    }
}

/// The key without the number of the piece.
fn whose(key: &[u8]) -> Option<Place> {
    Key::read(key).map(|place| match place {
        Place::Message(sequence, _) => Place::Message(sequence, 0),
        Place::Outcome(id, _) => Place::Outcome(id, 0),
        other => other,
    })
}

impl Scan {
    /// Takes the pieces of one record, in the order of their keys.
    fn take(&mut self, group: &mut Vec<(IVec, IVec)>, attempts: &mut BTreeMap<u64, u32>) -> Result<(), ScanError> {
        let Some((first, value)) = group.first() else { return Ok(()) };
        let place = whose(first);
        if matches!(place, Some(Place::Damaged | Place::Journal)) {
            group.clear();
            return Ok(());
        }
        let in_order = (0..).zip(group.iter()).all(|(number, (key, _))| match Key::read(key) {
            Some(Place::Message(_, piece) | Place::Outcome(_, piece)) => piece == number,
            other => other.is_some() && number == 0,
        });
        let decoded = match group.len() {
            _ if !in_order => Err(Damage::Length),
            1 => record::decode(value),
            _ => record::decode(&group.iter().flat_map(|(_, value)| value.iter().copied()).collect::<Vec<_>>()),
        };
        let bytes: usize = group.iter().map(|(_, value)| value.len()).sum();
        // In range: a record is shorter than 2^32 bytes.
        let pieces = u32::try_from(group.len()).unwrap_or(u32::MAX);
        match (place, decoded) {
            (Some(Place::Attempts(sequence)), Ok(Record::Attempts(of, count))) if of == sequence => {
                attempts.insert(sequence, count);
            }
            (Some(Place::Census), Ok(Record::Census(census))) => self.census = Some(census),
            (Some(Place::Tally), Ok(Record::Tally(tally, boot))) => {
                let same_boot = boot != 0 && boot == super::directory::boot();
                self.tally = KeptTally::Found { tally: Arc::new(tally), same_boot };
            }
            (Some(Place::Message(sequence, _)), Ok(Record::Message(message))) if message.sequence == sequence => {
                if pieces > 1 {
                    self.index.message_pieces.insert(sequence, pieces);
                }
                self.sizes.message(bytes);
                self.messages.add(&message, attempts.get(&sequence).copied().unwrap_or(0));
            }
            (Some(Place::Outcome(id, _)), Ok(Record::Outcome(outcome))) if outcome.id.0 == id => {
                if pieces > 1 {
                    self.index.outcome_pieces.insert(id, pieces);
                }
                self.sizes.outcome(bytes);
                self.found(KeptOutcome::of(&Arc::new(outcome)));
            }
            (_, Err(Damage::Newer(version))) => return Err(ScanError::Newer(version)),
            (place, decoded) => {
                if let Some(Place::Attempts(sequence)) = place {
                    // An attempt was made; how many is gone. One is enough for "at most once".
                    attempts.insert(sequence, 1);
                }
                if place == Some(Place::Tally) {
                    self.tally = KeptTally::Damaged;
                }
                self.damage(place, decoded.err().unwrap_or(Damage::Body), group);
            }
        }
        group.clear();
        Ok(())
    }

    fn found(&mut self, outcome: KeptOutcome) {
        match self.outcomes.last_mut().filter(|part| part.len() < PART) {
            Some(part) => part.push(outcome),
            None => {
                let mut part = Vec::with_capacity(PART);
                part.push(outcome);
                self.outcomes.push(part);
            }
        }
    }

    fn damage(&mut self, place: Option<Place>, damage: Damage, group: &mut Vec<(IVec, IVec)>) {
        if matches!(place, Some(Place::Message(..) | Place::Outcome(..))) {
            self.damaged_records += 1;
        }
        if self.told.len() < TOLD {
            self.told.push(match place {
                Some(Place::Message(sequence, _)) => format!("message number {sequence}: {damage}"),
                Some(Place::Outcome(id, _)) => format!("outcome of {}: {damage}", MessageId(id)),
                Some(Place::Attempts(sequence)) => {
                    format!("attempts of message number {sequence}: {damage}; taken as one")
                }
                Some(Place::Tally) => format!("what is spent of upstream's limits: {damage}; taken as all of it"),
                Some(Place::Census | Place::Journal | Place::Damaged) => format!("counts: {damage}"),
                None => format!("an unknown record: {damage}"),
            });
        }
        self.damaged.append(group);
    }

    /// A message beside its own outcome: damage took the removal. The outcome was told perhaps, so it stands.
    fn drop_settled(&mut self) {
        let (outcomes, settled) = (&self.outcomes, &mut self.settled);
        // In the order of ids, as scanned.
        let is_there = |id: MessageId| {
            let after = outcomes.partition_point(|part| part.first().is_some_and(|first| first.id <= id));
            let part = after.checked_sub(1).and_then(|part| outcomes.get(part));
            part.is_some_and(|part| part.binary_search_by_key(&id, |outcome| outcome.id).is_ok())
        };
        self.messages.retain(|message| {
            let ended = is_there(message.id);
            if ended {
                settled.push(message.sequence);
            }
            !ended
        });
    }

    /// Whether what is there is all that there was at the last batch, by the counts kept with it. `used`: there was one.
    pub(super) fn lacks_nothing(self, used: bool) -> bool {
        let is_there = self.census.is_some();
        let judged = self.judge(Found::Nothing);
        judged.sound && if used { is_there } else { judged.census == Census::default() }
    }

    /// Compares what is there with what both witnesses say should be; gives the relay's part and the counts to go on with.
    pub(super) fn judge(mut self, mark: Found) -> Judged {
        let messages = self.messages.len() as u64;
        let outcomes = self.outcomes.iter().map(Vec::len).sum::<usize>() as u64;
        let mut lost = self.damaged_records;
        let missing =
            |expected: Census| expected.messages.saturating_sub(messages) + expected.outcomes.saturating_sub(outcomes);
        if let Some(census) = self.census {
            lost = lost.max(missing(census));
            if lost > self.damaged_records {
                self.told.push(format!("{} records are missing without a trace", lost - self.damaged_records));
            }
        } else if messages + outcomes > 0 {
            self.told.push("the counts kept with the data are missing".to_owned());
        }
        let ever_used = self.census.is_some_and(|census| census.next_sequence > 0) || messages + outcomes > 0;
        match (mark, self.census) {
            (Found::Counts(mark), Some(census)) if mark.commit > census.commit => {
                let accepted = mark.next_sequence.saturating_sub(census.next_sequence);
                let settled = mark.settled.saturating_sub(census.settled);
                lost += accepted + settled;
                self.told.push(format!(
                    "the newest {} commits are missing, with {accepted} accepted messages and {settled} outcomes; messages \
                     whose outcome is missing are sent again",
                    mark.commit - census.commit
                ));
            }
            (Found::Counts(mark), None) if missing(mark) > 0 => {
                lost = lost.max(missing(mark));
                self.told
                    .push(format!("of {} messages and {} outcomes {lost} are missing", mark.messages, mark.outcomes));
            }
            (Found::Nothing | Found::Damaged, _) if ever_used => {
                self.told.push(
                    "the file mark is missing or unreadable: whether newest records are missing is unknown".to_owned(),
                );
            }
            _ => {}
        }
        let sound = lost == 0 && self.damaged.is_empty() && self.settled.is_empty();
        let mark = if let Found::Counts(mark) = mark { mark } else { Census::default() };
        let known = self.census.unwrap_or_default();
        let last = self.messages.iter().next_back();
        let after_last = last.map_or(0, |message| message.sequence.saturating_add(1));
        let census = Census {
            commit: known.commit.max(mark.commit),
            next_sequence: known.next_sequence.max(mark.next_sequence).max(after_last),
            settled: known.settled.max(mark.settled),
            messages,
            outcomes,
        };
        let used = self.census.is_some() || mark.commit > 0;
        let tally = if used && self.tally == KeptTally::New { KeptTally::Absent } else { self.tally };
        let restored = Restored {
            messages: self.messages,
            outcomes: self.outcomes,
            next_sequence: census.next_sequence,
            lost,
            losses: self.told,
            tally,
        };
        Judged {
            restored,
            sound,
            census,
            sizes: self.sizes,
            index: self.index,
            damaged: self.damaged,
            settled: self.settled,
        }
    }
}

impl Judged {
    /// So many commits of the journal are missing. An attempt may have been among them: a message that must not leave twice is taken
    /// as one that was tried.
    pub(super) fn without(mut self, commits: u64) -> Self {
        if commits > 0 {
            self.restored.lost = self.restored.lost.max(commits);
            let tried = self.restored.messages.suspect();
            self.restored.losses.push(format!(
                "{commits} commits are missing in the journal; {tried} messages with on_unknown = dead_letter are taken as tried"
            ));
        }
        self
    }
}

/// A scan with its verdict.
#[derive(Debug)]
pub(super) struct Judged {
    /// What the relay gets.
    pub(super) restored: Restored,
    /// Nothing is missing or damaged, as far as both witnesses know.
    pub(super) sound: bool,
    /// The counts to go on with.
    pub(super) census: Census,
    /// How large records are.
    pub(super) sizes: Sizes,
    /// What is needed to remove records again.
    pub(super) index: Index,
    /// Entries to move aside.
    pub(super) damaged: Vec<(IVec, IVec)>,
    /// Messages to remove.
    pub(super) settled: Vec<u64>,
}
