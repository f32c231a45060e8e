//! Finds records in files that sled cannot open, or lost them from: by their frames alone, without sled.
//!
//! Invariant: what is given is whole, by its checksum; the files are only read.
//! Deliberately not: telling what was still needed. sled leaves in its file what was removed until the place is used
//! again, so a message without an outcome may have ended and been forgotten. Records of more than one piece are only
//! counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::record::{self, Record};
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

/// Reads every file below a directory, or one file.
///
/// # Errors
/// Of the file system, with the path.
pub fn salvage(path: &Path) -> Result<Salvage, (PathBuf, io::Error)> {
    let mut found = Salvage::default();
    visit(path, &mut found)?;
    Ok(found)
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
