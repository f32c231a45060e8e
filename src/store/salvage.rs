//! Finds records in files that sled cannot open, or lost them from: by their frames alone, without sled.
//!
//! Invariant: what is given is whole, by its checksum; the files are only read, and no relay writes to them meanwhile.
//! Deliberately not: telling what was still needed. sled leaves in its file what was removed until the place is used
//! again, so a message without an outcome may have ended and been forgotten. Records of more than one piece are only
//! counted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::record::{self, Record};
use super::recover::ASIDE;
use super::{OpenError, directory};
use crate::relay::record::{MessageId, StoredMessage, StoredOutcome};

/// Bytes read at once.
const WINDOW: usize = 4 << 20;

/// What is known of one message.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// The message.
    pub message: Option<StoredMessage>,
    /// How it ended, if that was found.
    pub outcome: Option<StoredOutcome>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Salvage {
    /// By id, and so by acceptance.
    pub messages: BTreeMap<MessageId, Salvaged>,
    /// Starts of records that are damaged, or longer than one piece.
    pub broken: u64,
}

/// Why nothing was salvaged. The text names the place and the cure.
#[derive(Debug)]
pub enum SalvageError {
    /// A relay has it.
    InUse {
        /// The state directory.
        directory: PathBuf,
        /// The relay's process, as it wrote itself down.
        pid: Option<u32>,
    },
    /// Reading failed.
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

impl SalvageError {
    /// The exit code of a process that ends for this, as [`OpenError::exit_code`].
    pub fn exit_code(&self) -> u8 {
        match self {
            SalvageError::InUse { .. } => 73,
            SalvageError::Io { .. } => 74,
        }
    }
}

impl std::fmt::Display for SalvageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SalvageError::InUse { directory, pid } => {
                let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                write!(
                    f,
                    "{}: in use by a running tidegate{pid}; stop it, or name a copy of the directory or what it set aside \
                     (sled.corrupt-TIME, journal.corrupt-TIME)",
                    directory.display()
                )
            }
            SalvageError::Io { path, problem } => write!(f, "{}: {problem}", path.display()),
        }
    }
}

impl std::error::Error for SalvageError {}

/// Reads every file below a directory, or one file. Of a state directory, or something in it that a relay may write to, it keeps
/// every relay away meanwhile.
///
/// # Errors
/// A relay has it, or it cannot be read.
pub fn salvage(path: &Path) -> Result<Salvage, SalvageError> {
    let failed = |(path, error): (PathBuf, io::Error)| SalvageError::Io { path, problem: error.to_string() };
    let real = std::fs::canonicalize(path).map_err(|error| failed((path.to_owned(), error)))?;
    let held = state_directory(&real).map_or(Ok(None), directory::hold);
    let _held = held.map_err(|error| match error {
        OpenError::Locked { directory, pid } => SalvageError::InUse { directory, pid },
        other => SalvageError::Io { path: path.to_owned(), problem: other.to_string() },
    })?;
    let mut found = Salvage::default();
    visit(path, &mut found).map_err(failed)?;
    Ok(found)
}

/// The state directory in which this lies, or that it is; none if it is something that was set aside there, which no relay touches
/// again.
fn state_directory(path: &Path) -> Option<&Path> {
    let mut part = None;
    for directory in path.ancestors() {
        if directory.join("lock").is_file() && directory.join("format").is_file() {
            return part.is_none_or(is_used).then_some(directory);
        }
        part = directory.file_name();
    }
    None
}

/// Whether a relay may write to this part of its state directory.
fn is_used(part: &OsStr) -> bool {
    let part = part.to_string_lossy();
    !ASIDE.iter().any(|name| part.strip_prefix(name).is_some_and(|time| time.starts_with('-')))
}

fn visit(path: &Path, found: &mut Salvage) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (path.to_owned(), error);
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            entries.push(entry.map_err(failed)?.path());
        }
        entries.sort();
        return entries.iter().try_for_each(|entry| visit(entry, found));
    }
    if metadata.is_file() { File::open(path).and_then(|file| scan(file, found)).map_err(failed) } else { Ok(()) }
}

fn scan(mut file: File, found: &mut Salvage) -> io::Result<()> {
    let mut window: Vec<u8> = Vec::new();
    loop {
        let read = file.by_ref().take(WINDOW as u64).read_to_end(&mut window)?;
        let last = read == 0;
        // A record may go on in what comes next.
        let end = if last { window.len() } else { window.len().saturating_sub(record::PIECE) };
        let mut at = 0;
        while let Some(start) = record::next_start(&window[at..]).map(|start| at + start).filter(|start| *start < end) {
            at = start + take(&window[start..], found);
        }
        if last {
            return Ok(());
        }
        window.drain(..end.max(at).min(window.len()));
    }
}

/// Takes the record that begins here, if it is one; says how far to go on.
fn take(bytes: &[u8], found: &mut Salvage) -> usize {
    let Some(length) = record::framed_length(bytes).filter(|length| *length <= bytes.len().min(record::PIECE)) else {
        found.broken += 1;
        return 1;
    };
    match record::decode(&bytes[..length]) {
        Ok(Record::Message(message)) => {
            let id = message.id;
            found.messages.entry(id).or_default().message = Some(message);
        }
        Ok(Record::Outcome(outcome)) => {
            let id = outcome.id;
            found.messages.entry(id).or_default().outcome = Some(outcome);
        }
        Ok(Record::Attempts(..) | Record::Census(_) | Record::Tally(..)) => {}
        Err(_) => {
            found.broken += 1;
            return 1;
        }
    }
    length
}
