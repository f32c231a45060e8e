//! The high-water mark: the counts of the last commit, kept in a file of its own.
//!
//! sled can lose its newest records without an error. It then looks as it looked some commits ago, counts included, so only
//! a witness outside of it can tell. The file `mark` has two slots in different blocks, written in turn and each with a
//! checksum, so that a torn write spoils one of them.
//!
//! Invariant: a mark is written only after its commit is on stable storage; a mark that is ahead of the data proves a loss.
//! It is written at each commit and synced at most [`LAG`] later: a killed process loses nothing of it, a power cut the
//! marks of that time. That costs no acknowledged record, only the proof for records that an untrue disk dropped just then.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a mark may stay unsynced.
pub(super) const LAG: Duration = Duration::from_millis(100);

const MAGIC: [u8; 4] = *b"TgMk";
const SLOT: usize = 52;
const SLOT_DISTANCE: u64 = 4096;

/// The counts after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Census {
    /// Commits so far.
    pub(super) commit: u64,
    /// The sequence that the next accepted message gets.
    pub(super) next_sequence: u64,
    /// Messages settled so far.
    pub(super) settled: u64,
    /// Undelivered messages held.
    pub(super) messages: u64,
    /// Outcomes held.
    pub(super) outcomes: u64,
}

impl Census {
    /// Bytes of the encoded form.
    pub(super) const BYTES: usize = 40;

    /// Five little-endian numbers, in the order of the fields.
    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let numbers = [self.commit, self.next_sequence, self.settled, self.messages, self.outcomes];
        for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Census::to_bytes`] wrote.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let mut numbers = [0; 5];
        for (number, from) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(from.try_into().ok()?);
        }
        let [commit, next_sequence, settled, messages, outcomes] = numbers;
        Some(Census { commit, next_sequence, settled, messages, outcomes })
    }
}

/// What the file said at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There was none, or it was never written.
    Nothing,
    /// No slot can be read.
    Damaged,
    /// The newest readable slot.
    Counts(Census),
}

/// The open file.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    unsynced_since: Option<Instant>,
}

impl Mark {
    /// Opens or creates the file and reads it. A new file has its full size and is synced, its directory entry is not.
    pub(super) fn open(path: &Path) -> io::Result<(Mark, Found)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        let size = SLOT_DISTANCE * 2;
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        let mut slots = [[0; SLOT]; 2];
        file.read_exact_at(&mut slots[0], 0)?;
        file.read_exact_at(&mut slots[1], SLOT_DISTANCE)?;
        let found = if slots == [[0; SLOT]; 2] {
            Found::Nothing
        } else {
            match slots.iter().filter_map(decode).max_by_key(|census| census.commit) {
                Some(census) => Found::Counts(census),
                None => Found::Damaged,
            }
        };
        Ok((Mark { file, unsynced_since: None }, found))
    }

    /// Writes the counts of a commit that is on stable storage.
    pub(super) fn write(&mut self, census: Census) -> io::Result<()> {
        self.file.write_all_at(&encode(census), census.commit % 2 * SLOT_DISTANCE)?;
        self.unsynced_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// When the file has to be synced, if something is unsynced.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsynced_since.map(|since| since + LAG)
    }

    /// Makes the last mark durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        // Forgotten first: after an error nobody may try again.
        if self.unsynced_since.take().is_some() { self.file.sync_data() } else { Ok(()) }
    }
}

fn encode(census: Census) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4..8].copy_from_slice(&super::directory::FORMAT.to_le_bytes());
    slot[8..48].copy_from_slice(&census.to_bytes());
    let sum = crc32c::crc32c(&slot[..48]);
    slot[48..].copy_from_slice(&sum.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT]) -> Option<Census> {
    let whole = slot[..4] == MAGIC && slot[48..] == crc32c::crc32c(&slot[..48]).to_le_bytes();
    if whole { Census::from_bytes(&slot[8..48]) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(commit: u64) -> Census {
        Census { commit, next_sequence: commit * 3, settled: commit, messages: commit * 2, outcomes: 1 }
    }

    #[test]
    fn the_newest_mark_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let (mut mark, found) = Mark::open(&path).unwrap();
        assert_eq!(found, Found::Nothing);
        for commit in 1..=5 {
            mark.write(census(commit)).unwrap();
            assert_eq!(Mark::open(&path).unwrap().1, Found::Counts(census(commit)));
        }
    }

    #[test]
    fn a_torn_write_leaves_the_mark_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let (mut mark, _) = Mark::open(&path).unwrap();
        mark.write(census(6)).unwrap();
        let new = encode(census(7));
        for torn in 0..SLOT {
            mark.file.write_all_at(&[0xEE; SLOT], SLOT_DISTANCE).unwrap();
            mark.file.write_all_at(&new[..torn], SLOT_DISTANCE).unwrap();
            assert_eq!(Mark::open(&path).unwrap().1, Found::Counts(census(6)), "torn after {torn} bytes");
        }
        mark.file.write_all_at(&[0xEE; SLOT], 0).unwrap();
        assert_eq!(Mark::open(&path).unwrap().1, Found::Damaged);
    }

    #[test]
    fn a_sync_is_due_once_per_change() {
        let directory = tempfile::tempdir().unwrap();
        let (mut mark, _) = Mark::open(&directory.path().join("mark")).unwrap();
        assert_eq!(mark.due(), None);
        mark.write(census(1)).unwrap();
        let due = mark.due();
        mark.write(census(2)).unwrap();
        assert_eq!(mark.due(), due, "counted from the oldest unsynced mark");
        mark.sync().unwrap();
        assert_eq!(mark.due(), None);
    }
}
