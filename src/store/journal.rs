//! The journal: each commit is appended and synced before it is answered for; sled gets it later (`base`), and then the journal
//! is removed.
//!
//! A file `journal-N`: a head (magic `TgJl`, 12 random bytes), then frames, little endian: magic `TgJr`, length of the body (4),
//! number of the commit (8), CRC-32C over the random bytes, both numbers and the body (4), body; then zeros. The body: for each change
//! the length of the key (2), that of the value plus one, 0 for a removal (4), key, value. The random bytes keep what a message
//! carries from being taken for a frame behind a damaged one. They stand in one place and in each checksum, so that one flipped bit
//! of them is found and mended.
//!
//! Invariant: what is read is what was appended. A frame that is not whole at the end was never answered for, unless the mark
//! says otherwise; one that is followed by a whole one is damage, and told.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::FallocateFlags;

use super::directory::{Directory, check_place};
use super::record::Key;
use super::table::{Write, Writes};

/// What the files are called, before their number.
const NAME: &str = "journal-";
const HEAD_MAGIC: [u8; 4] = *b"TgJl";
const MAGIC: [u8; 4] = *b"TgJr";
const SALT: usize = 12;
const HEAD: usize = MAGIC.len() + SALT;
const FRAME: usize = 20;

/// A journal that is written.
#[derive(Debug)]
pub(super) struct Journal {
    number: u64,
    path: PathBuf,
    file: File,
    salt: [u8; SALT],
    /// Bytes written.
    length: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// A new one, durable in its directory. `room`: so many bytes are set aside for it, where the disk has them: what is written
    /// there later changes no size, which saves the disk's own journal a part of each sync.
    pub(super) fn create(directory: &Directory, number: u64, room: u64) -> io::Result<Journal> {
        let path = directory.join(&format!("{NAME}{number}"));
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let head = [HEAD_MAGIC.as_slice(), &salt].concat();
        file.write_all_at(&head, 0)?;
        // It does without.
        let _ = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, room.max(HEAD as u64));
        directory.sync()?;
        Ok(Journal { number, path, file, salt, length: head.len() as u64, buffer: Vec::new() })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes on disk.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends a commit; it is on stable storage afterwards. After an error the journal must not be written to again.
    pub(super) fn append(&mut self, commit: u64, writes: &Writes) -> Result<(), String> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        self.buffer.resize(FRAME, 0);
        for Write { key, value, .. } in &writes.0 {
            // In range: keys have a few bytes, and records are below 2^32 - 1.
            let of_key = u16::try_from(key.len()).unwrap_or(u16::MAX);
            let of_value = value.as_ref().map_or(0, |value| u32::try_from(value.len() + 1).unwrap_or(u32::MAX));
            self.buffer.extend_from_slice(&of_key.to_le_bytes());
            self.buffer.extend_from_slice(&of_value.to_le_bytes());
            self.buffer.extend_from_slice(key.as_ref());
            self.buffer.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        let length = u32::try_from(self.buffer.len() - FRAME).map_err(|_| "a commit of more than 4 GiB".to_owned())?;
        let (head, body) = self.buffer.split_at_mut(FRAME);
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..16].copy_from_slice(&commit.to_le_bytes());
        let sum = checksum(&self.salt, &head[4..16], body);
        head[16..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&self.buffer, self.length).map_err(|error| format!("writing: {error}"))?;
        self.length += self.buffer.len() as u64;
        self.file.sync_data().map_err(|error| format!("fdatasync: {error}"))?;
        check_place(&self.file, &self.path)
    }
}

/// The bytes of the buffer that are kept from commit to commit.
const KEPT: usize = 1 << 20;

fn checksum(salt: &[u8], numbers: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(salt), numbers), body)
}

/// The journals in the directory, by their names' numbers.
pub(super) fn list(directory: &Directory) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.path())? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse().ok());
        // `+3` and `03` are numbers, too, and no names of ours.
        let number = number.filter(|number| *name == *format!("{NAME}{number}"));
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes one whose commits are all in sled.
pub(super) fn remove(directory: &Directory, number: u64) -> io::Result<()> {
    fs::remove_file(directory.join(&format!("{NAME}{number}")))
}

/// What a journal holds.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Commits that can be read, in order, with their numbers.
    pub(super) commits: Vec<(u64, Writes)>,
    /// Bytes between them that cannot.
    pub(super) damaged: usize,
    /// Bytes at the end that are no whole commit, up to the last that is not zero: behind it nothing was written.
    pub(super) torn: usize,
}

/// Reads a journal.
pub(super) fn read(bytes: &[u8]) -> Replay {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        return Replay { torn: bytes.len(), ..Replay::default() };
    };
    let (magic, salt) = head.split_at(HEAD_MAGIC.len());
    let mut replay = frames(salt, rest);
    if replay.commits.is_empty()
        && let Some(salt) = mended(salt, rest)
    {
        replay = frames(&salt, rest);
        replay.damaged += SALT;
    }
    match (magic == HEAD_MAGIC, replay.commits.is_empty()) {
        (true, _) => {}
        // It is one, by what stands in it.
        (false, false) => replay.damaged += magic.len(),
        (false, true) => replay.torn += HEAD,
    }
    replay
}

/// The random bytes without the one flipped bit that keeps the first frame from being whole. CRC-32C tells three flipped bits from
/// none, so this one is not made up where the frame has one or two of its own.
fn mended(salt: &[u8], rest: &[u8]) -> Option<Vec<u8>> {
    let mut salt = salt.to_vec();
    for bit in 0..8 * SALT {
        salt[bit / 8] ^= 1 << (bit % 8);
        if frame(&salt, rest).is_some() {
            return Some(salt);
        }
        salt[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

/// Reads what follows the head.
fn frames(salt: &[u8], mut rest: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let unwritten = rest.len() - written;
    let mut skipped = 0;
    while !rest.is_empty() {
        if let Some((commit, writes, after)) = frame(salt, rest) {
            replay.damaged += std::mem::take(&mut skipped);
            replay.commits.push((commit, writes));
            rest = after;
        } else {
            let next = rest[1..].windows(MAGIC.len()).position(|window| window == MAGIC);
            let step = next.map_or(rest.len(), |next| next + 1);
            skipped += step;
            rest = &rest[step..];
        }
    }
    replay.torn = skipped.saturating_sub(unwritten);
    replay
}

/// The whole frame that begins here, and what follows.
fn frame<'a>(salt: &[u8], bytes: &'a [u8]) -> Option<(u64, Writes, &'a [u8])> {
    let (head, rest) = bytes.split_at_checked(FRAME)?;
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?);
    let (body, rest) = rest.split_at_checked(length as usize)?;
    let whole = head[..4] == MAGIC && head[16..] == checksum(salt, &head[4..16], body).to_le_bytes();
    let mut writes = Writes::default();
    let mut left = body;
    while whole && !left.is_empty() {
        let (of_key, after) = left.split_first_chunk()?;
        let (of_value, after) = after.split_first_chunk()?;
        let (key, after) = after.split_at_checked(u16::from_le_bytes(*of_key).into())?;
        let key = Key::from_bytes(key);
        left = match u32::from_le_bytes(*of_value).checked_sub(1) {
            None => {
                writes.remove(key);
                after
            }
            Some(length) => {
                let (value, after) = after.split_at_checked(length as usize)?;
                writes.put(key, value);
                after
            }
        };
    }
    whole.then_some((u64::from_le_bytes(head[8..16].try_into().ok()?), writes, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(commit: u64) -> Writes {
        let mut writes = Writes::default();
        writes.put(Key::message(commit, 0), vec![7; 10]);
        writes.remove(Key::outcome(commit.into(), 1));
        writes.put(Key::census(), Vec::new());
        writes
    }

    /// A journal of five commits, and where each ends.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::open(base.path()).unwrap();
        let mut journal = Journal::create(&directory, 3, 0).unwrap();
        let bytes = || fs::read(directory.join("journal-3")).unwrap();
        let mut ends = vec![bytes().len()];
        for commit in 1..=5 {
            journal.append(commit, &writes(commit)).unwrap();
            ends.push(bytes().len());
        }
        assert_eq!(list(&directory).unwrap(), [(3, directory.join("journal-3"))]);
        let written = bytes();
        remove(&directory, 3).unwrap();
        assert_eq!(list(&directory).unwrap(), []);
        (written, ends)
    }

    fn commits(replay: &Replay) -> Vec<u64> {
        let number = |(commit, found): &(u64, Writes)| {
            assert_eq!(found.0, writes(*commit).0);
            *commit
        };
        replay.commits.iter().map(number).collect()
    }

    #[test]
    fn what_is_cut_off_anywhere_gives_the_commits_before() {
        let (bytes, ends) = written();
        for length in 0..=bytes.len() {
            let replay = read(&bytes[..length]);
            let whole = ends[1..].iter().filter(|end| **end <= length).count();
            let tail = if length < ends[0] { 0 } else { ends[whole] };
            let torn = bytes[tail..length].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            assert_eq!(commits(&replay), (1..=whole as u64).collect::<Vec<_>>(), "{length}");
            assert_eq!((replay.torn, replay.damaged), (torn, 0), "{length}");
        }
    }

    #[test]
    fn room_that_nothing_was_written_to_is_not_torn() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::open(base.path()).unwrap();
        let mut journal = Journal::create(&directory, 1, 4096).unwrap();
        let path = directory.join("journal-1");
        assert_eq!(read(&fs::read(&path).unwrap()).torn, 0);
        journal.append(1, &writes(1)).unwrap();
        let first = journal.length() as usize;
        journal.append(2, &writes(2)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4096, "the disk of this test has room");
        let replay = read(&bytes);
        assert_eq!((commits(&replay), replay.torn, replay.damaged), (vec![1, 2], 0, 0));
        // The end of the second was not written: there still are zeros.
        bytes[first + FRAME + 1..].fill(0);
        let replay = read(&bytes);
        assert_eq!((commits(&replay), replay.torn, replay.damaged), (vec![1], FRAME + 1, 0));
    }

    #[test]
    fn a_flipped_bit_costs_its_commit_alone_and_is_seen() {
        let (mut bytes, ends) = written();
        for at in ends[0]..bytes.len() {
            bytes[at] ^= 16;
            let replay = read(&bytes);
            let hit = ends[1..].iter().filter(|end| **end <= at).count() as u64 + 1;
            assert_eq!(commits(&replay), (1..=5).filter(|commit| *commit != hit).collect::<Vec<_>>(), "{at}");
            let lost = ends[1];
            let frame = ends[2] - lost;
            assert_eq!((replay.damaged, replay.torn), if hit == 5 { (0, frame) } else { (frame, 0) }, "{at}");
            bytes[at] ^= 16;
        }
    }

    #[test]
    fn a_flipped_bit_in_the_head_costs_nothing_and_is_seen() {
        let (mut bytes, ends) = written();
        for bit in 0..8 * HEAD {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let replay = read(&bytes);
            assert_eq!(commits(&replay), [1, 2, 3, 4, 5], "{bit}");
            assert_eq!((replay.damaged, replay.torn), (if bit < 32 { MAGIC.len() } else { SALT }, 0), "{bit}");
            // Whatever becomes of the first frame then, the head does not make it whole.
            for at in ends[0]..ends[1] {
                bytes[at] ^= 4;
                assert!(commits(&read(&bytes)).iter().all(|commit| *commit > 1), "{bit} and {at}");
                bytes[at] ^= 4;
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn only_names_that_are_given_here_are_journals() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::open(base.path()).unwrap();
        for name in ["journal-+3", "journal-03", "journal-", "journal-x", "journal-18446744073709551616", "journal-3"] {
            fs::write(directory.join(name), "").unwrap();
        }
        assert_eq!(list(&directory).unwrap(), [(3, directory.join("journal-3"))]);
    }

    #[test]
    fn what_a_message_carries_is_no_frame() {
        let (foreign, ends) = written();
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::open(base.path()).unwrap();
        let mut journal = Journal::create(&directory, 1, 0).unwrap();
        let mut carries = Writes::default();
        carries.put(Key::message(9, 0), foreign[ends[0]..].to_vec());
        journal.append(1, &carries).unwrap();
        let mut bytes = fs::read(directory.join("journal-1")).unwrap();
        bytes[HEAD] ^= 1;
        let replay = read(&bytes);
        assert_eq!((replay.commits.len(), replay.torn), (0, bytes.len() - HEAD));
    }

    #[test]
    fn a_journal_that_is_gone_or_replaced_is_noticed() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::open(base.path()).unwrap();
        let mut journal = Journal::create(&directory, 1, 0).unwrap();
        assert!(Journal::create(&directory, 1, 0).is_err(), "none is overwritten");
        fs::copy(directory.join("journal-1"), directory.join("other")).unwrap();
        fs::rename(directory.join("other"), directory.join("journal-1")).unwrap();
        assert!(journal.append(1, &writes(1)).unwrap_err().contains("replaced while in use"));
        remove(&directory, 1).unwrap();
        assert!(journal.append(2, &writes(2)).unwrap_err().contains("while in use"));
    }
}
