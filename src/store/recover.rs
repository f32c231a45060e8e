//! Opens sled whatever state it is in.
//!
//! Invariant: damage never keeps the relay from starting, and a damaged sled is never written to again: what can be read is
//! carried over to a new one, the old one stays under another name, and what is missing is counted by `load`. A sled that is whole
//! stays where only a journal is damaged. Errors of the disk itself, data of a newer version, and what is no file in the place of a
//! journal do end the start: waiting for a person is better than starting empty beside good data. One thing cannot be kept from
//! here: at its start sled itself overwrites what follows damage in its newest segment.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, UnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sled::{Batch, Db, Mode};

use super::base;
use super::commit::{self, Committer};
use super::directory::{Directory, FORMAT};
use super::journal;
use super::load::{self, Judged, ScanError};
use super::mark::{Found, Mark};
use super::record::{self, Key, Record};
use super::stats::Counters;
use super::table::Table;
use super::wake::Watched;
use super::{OpenError, StoreConfig};
use crate::relay::record::Restored;

/// Where sled lives.
pub(super) const DATA: &str = "sled";
/// Where its replacement grows while the damaged or overgrown one is still in its place.
pub(super) const REBUILT: &str = "sled.rebuilt";
/// Where the one is that a fresh one replaces.
pub(super) const OLD: &str = "sled.old";
/// What damaged files are called, before the time at which they were set aside.
pub(super) const ASIDE: [&str; 3] = [SLED_CORRUPT, SLED_SHORTCUTS, JOURNAL_CORRUPT];
const SLED_CORRUPT: &str = "sled.corrupt";
const SLED_SHORTCUTS: &str = "sled.aside";
const JOURNAL_CORRUPT: &str = "journal.corrupt";
/// Part of the format: sled refuses a file made with another one.
const SEGMENT: usize = 2 << 20;
/// Entries copied at once.
const COPY: usize = 1_000;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread, now, is sled's and is caught. For the panic hook, which ends the process otherwise.
pub fn panic_is_guarded() -> bool {
    // sled's own threads catch what their work throws; the store then fails by itself.
    GUARDED.get() || std::thread::current().name().is_some_and(|name| name.starts_with("sled-io-"))
}

/// Runs something of sled's; a panic becomes an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> T + UnwindSafe) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(work);
    GUARDED.set(before);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("sled panicked: {}", text.unwrap_or("without words"))
    })
}

/// Whether an error of reading means a damaged file, not a failing disk.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}

/// Opens or makes sled below the directory, puts the journals into it, reads it, and makes everything durable.
pub(super) fn open(
    directory: &Arc<Directory>,
    config: StoreConfig,
    counters: &Arc<Counters>,
) -> Result<(Committer, Restored), OpenError> {
    let mark_path = directory.join("mark");
    let (mark, found) = Mark::open(&mark_path).map_err(|error| OpenError::io(&mark_path, "reading", error))?;
    let mut told = Vec::new();
    finish_swap(directory)?;
    let Opened { mut db, fresh } = open_data(directory, config, &mut told)?;
    let journals = journals(directory, &db, found)?;
    let missing = journals.missing;
    // Judged before anything is written to it.
    let judged = read(directory, &db, &journals.table)?.map(|scan| scan.judge(found).without(missing));
    let is_sound = judged.as_ref().is_ok_and(|judged| judged.sound || fresh);
    let problem = match judged {
        Ok(judged) if is_sound || is_whole(directory, &db, &journals)? => {
            forget(directory, &journals.done, true, &mut told)?;
            let journal = take_over(directory, &db, journals, &mut told)?;
            return begin(directory, config, counters, (db, mark, journal), judged, told);
        }
        Ok(_) => "records are missing or damaged".to_owned(),
        Err(problem) => problem,
    };
    db = rebuild(directory, config, db, &problem, &mut told)?;
    forget(directory, &journals.done, false, &mut told)?;
    let journal = take_over(directory, &db, journals, &mut told)?;
    let scan = read(directory, &db, &Table::default())?;
    let scan = scan.map_err(|problem| OpenError::io(&directory.join(DATA), "reading what was rebuilt", problem))?;
    begin(directory, config, counters, (db, mark, journal), scan.judge(found).without(missing), told)
}

/// The last step of a start: everything durable, the verdict told.
fn begin(
    directory: &Arc<Directory>,
    config: StoreConfig,
    counters: &Arc<Counters>,
    (db, mark, journal): (Db, Mark, u64),
    mut judged: Judged,
    mut told: Vec<String>,
) -> Result<(Committer, Restored), OpenError> {
    told.append(&mut judged.restored.losses);
    judged.restored.losses = told;
    let data = directory.join(DATA);
    let io = |doing: &'static str| {
        let data = data.clone();
        move |error: io::Error| OpenError::io(&data, doing, error)
    };
    directory.sync_all(&data).map_err(io("syncing the directory"))?;
    let Judged { index, census, sizes, .. } = judged;
    let found = commit::Data { db, mark, index, census, sizes, journal };
    let mut committer = Committer::new(directory, config, counters, found).map_err(io("beginning a journal"))?;
    let begun = guarded(AssertUnwindSafe(|| committer.begin(&judged.damaged, &judged.settled))).unwrap_or_else(Err);
    begun.map_err(|problem| OpenError::io(&data, "writing", problem))?;
    for loss in &judged.restored.losses {
        tracing::error!(lost = judged.restored.lost, "the store is not whole: {loss}");
    }
    Ok((committer, judged.restored))
}

/// Whether sled has all that it was given, so that what is missing was in the journals: it took over every journal before the first
/// that is there, and its own counts are right.
fn is_whole(directory: &Directory, db: &Db, journals: &Journals) -> Result<bool, OpenError> {
    if journals.first != journals.taken.unwrap_or(0).saturating_add(1) {
        return Ok(false);
    }
    let scan = read(directory, db, &Table::default())?;
    Ok(scan.is_ok_and(|scan| scan.lacks_nothing(journals.taken.is_some())))
}

/// What was committed and did not get into sled before the end.
#[derive(Default)]
struct Journals {
    table: Table,
    /// The number of the last one that sled took over.
    taken: Option<u64>,
    /// The number of the first one that it did not; 0 without one.
    first: u64,
    /// The number of the last one that there was.
    last: u64,
    files: Vec<JournalFile>,
    /// Those that sled took over.
    done: Vec<PathBuf>,
    /// Commits that are not there, by the numbers of the others and by the mark.
    missing: u64,
}

/// A journal as it was read.
struct Replayed {
    /// The number of its first commit.
    first: u64,
    path: PathBuf,
    replay: journal::Replay,
}

struct JournalFile {
    path: PathBuf,
    /// Bytes that cannot be read.
    bad: usize,
    /// They were answered for.
    is_damaged: bool,
}

fn taking_over(path: &Path, error: impl std::fmt::Display) -> OpenError {
    OpenError::io(path, "taking over the journal", error)
}

/// Reads the journals. Their order is that of their commits: names can be changed.
fn journals(directory: &Directory, db: &Db, mark: Found) -> Result<Journals, OpenError> {
    // What sled cannot say here it will not be able to say when all of it is read.
    let taken = value(db, &Key::journal()).and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?)));
    let commit = match value(db, &Key::census()).map(|value| record::decode(&value)) {
        Some(Ok(Record::Census(census))) => Some(census.commit),
        _ => None,
    };
    let mut last = commit.unwrap_or(0);
    let mut journals = Journals { taken, last: taken.unwrap_or(0), ..Journals::default() };
    let mut found: Vec<Replayed> = Vec::new();
    for (number, path) in journal::list(directory).map_err(|error| taking_over(directory.path(), error))? {
        let replay = journal::read(&bytes(directory, &path)?);
        let named_so = taken.is_some_and(|taken| number <= taken);
        if commit.map_or(named_so, |commit| is_taken(&replay, named_so, commit)) {
            journals.done.push(path);
            continue;
        }
        journals.first = if found.is_empty() { number } else { journals.first };
        journals.last = journals.last.max(number);
        // One without a commit stays behind the one before it.
        let before = found.last().map_or(0, |before| before.first);
        let first = replay.commits.first().map_or(before, |(commit, _)| *commit);
        found.push(Replayed { first, path, replay });
    }
    if !found.is_sorted_by_key(|replayed| replayed.first) {
        tracing::warn!(
            directory = %directory.path().display(),
            "journals were renamed: they are taken over in the order of their commits"
        );
        found.sort_by_key(|replayed| replayed.first);
    }
    for Replayed { path, replay, .. } in found {
        for (commit, writes) in replay.commits {
            journals.missing += commit.saturating_sub(last.saturating_add(1));
            last = last.max(commit);
            journals.table.apply(writes);
        }
        // The one before was whole when this one began.
        journals.files.iter_mut().for_each(|file| file.is_damaged |= file.bad > 0);
        let bad = replay.damaged + replay.torn;
        journals.files.push(JournalFile { path, bad, is_damaged: replay.damaged > 0 });
    }
    // What is torn at the end was never answered for, unless the mark knows of more commits.
    let behind = if let Found::Counts(mark) = mark { mark.commit.saturating_sub(last) } else { 0 };
    if let Some(file) = journals.files.last_mut().filter(|file| behind > 0 && file.bad > 0) {
        file.is_damaged = true;
    }
    if !journals.files.is_empty() {
        journals.missing += behind;
    }
    Ok(journals)
}

/// Whether sled, which knows all up to this commit, took over this journal. `named_so`: by its name it did.
fn is_taken(replay: &journal::Replay, named_so: bool, commit: u64) -> bool {
    let Some((newest, _)) = replay.commits.last() else { return named_so };
    // Of one that is whole it has all, if it has more. The last commit alone proves nothing: it may have been taken in part.
    *newest <= commit && (named_so || *newest < commit && replay.damaged + replay.torn == 0)
}

/// All of a journal. Anything but a file ends the start: somebody put it there, and what was there before may be needed.
fn bytes(directory: &Directory, path: &Path) -> Result<Vec<u8>, OpenError> {
    let metadata = fs::metadata(path).map_err(|error| taking_over(path, error))?;
    if !metadata.is_file() {
        let problem = format!(
            "{} is no file, and journals of messages have such names: put back the one that was there, or move this away, then start \
             again",
            path.display()
        );
        return Err(OpenError::Unfit { directory: directory.path().to_owned(), problem });
    }
    fs::read(path).map_err(|error| taking_over(path, error))
}

fn value(db: &Db, key: &Key) -> Option<sled::IVec> {
    guarded(AssertUnwindSafe(|| db.get(key))).ok().and_then(Result::ok).flatten()
}

/// Removes journals that sled took over. What sled lacks, one that is not whole, may be in them: then they are kept for people.
fn forget(directory: &Directory, done: &[PathBuf], is_whole: bool, told: &mut Vec<String>) -> Result<(), OpenError> {
    for path in done {
        let forgotten = if is_whole {
            fs::remove_file(path)
        } else {
            let aside = unused(directory, JOURNAL_CORRUPT);
            told.push(format!("a journal that had been taken over was moved to {}", aside.display()));
            fs::rename(path, &aside)
        };
        forgotten.map_err(|error| taking_over(path, error))?;
    }
    Ok(())
}

/// Puts them into a sled that is whole; gives the number of the next journal.
fn take_over(directory: &Directory, db: &Db, journals: Journals, told: &mut Vec<String>) -> Result<u64, OpenError> {
    let Journals { table, last, files, .. } = journals;
    if files.is_empty() {
        return Ok(last.saturating_add(1));
    }
    let done = guarded(AssertUnwindSafe(|| base::take_over(db, directory, &table, last)));
    done.unwrap_or_else(Err).map_err(|problem| taking_over(directory.path(), problem))?;
    for JournalFile { path, bad, is_damaged } in files {
        let done = if is_damaged {
            let aside = unused(directory, JOURNAL_CORRUPT);
            told.push(format!("{bad} bytes of the journal are damaged; it was moved to {}", aside.display()));
            fs::rename(&path, &aside)
        } else {
            fs::remove_file(&path)
        };
        done.map_err(|error| taking_over(&path, error))?;
    }
    Ok(last.saturating_add(1))
}

/// Reads all entries, with what is to come over them; the inner error is damage that a rebuild may mend.
fn read(directory: &Directory, db: &Db, table: &Table) -> Result<Result<load::Scan, String>, OpenError> {
    match guarded(AssertUnwindSafe(|| load::scan(db, table))) {
        Ok(Ok(scan)) => Ok(Ok(scan)),
        Ok(Err(ScanError::Unreadable(problem))) | Err(problem) => Ok(Err(problem)),
        Ok(Err(ScanError::Io(error))) => Err(OpenError::io(&directory.join(DATA), "reading", error)),
        Ok(Err(ScanError::Newer(version))) => {
            Err(OpenError::NewerFormat { directory: directory.path().to_owned(), found: FORMAT.max(version.into()) })
        }
    }
}

/// An open sled.
struct Opened {
    db: Db,
    /// It is new and empty, because the old one could not be opened.
    fresh: bool,
}

/// Opens the data; what cannot be opened is set aside and an empty one takes its place.
fn open_data(directory: &Directory, config: StoreConfig, told: &mut Vec<String>) -> Result<Opened, OpenError> {
    let data = directory.join(DATA);
    let problem = match try_open(&data, config)? {
        Ok(db) => return Ok(Opened { db, fresh: false }),
        Err(problem) => problem,
    };
    // The snapshot and the parameters are only shortcuts: sled makes them anew from its log and our constants.
    let aside = unused(directory, SLED_SHORTCUTS);
    set_shortcuts_aside(&data, &aside).map_err(|error| OpenError::io(&data, "setting damaged parts aside", error))?;
    if let Ok(db) = try_open(&data, config)? {
        told.push(format!("sled did not open ({problem}) until its snapshot was moved to {}", aside.display()));
        return Ok(Opened { db, fresh: false });
    }
    let corrupt = unused(directory, SLED_CORRUPT);
    fs::rename(&data, &corrupt).map_err(|error| OpenError::io(&data, "setting damaged data aside", error))?;
    told.push(format!("sled does not open ({problem}); its data was moved to {}", corrupt.display()));
    match try_open(&data, config)? {
        Ok(db) => Ok(Opened { db, fresh: true }),
        Err(problem) => Err(OpenError::io(&data, "making a new store", problem)),
    }
}

/// One attempt; the inner error is damage.
pub(super) fn try_open(data: &Path, config: StoreConfig) -> Result<Result<Db, String>, OpenError> {
    let io = |error: io::Error| OpenError::io(data, "opening", error);
    match DirBuilder::new().mode(0o700).create(data) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(OpenError::Create { path: data.to_owned(), error });
        }
        _ => {}
    }
    remove_unfinished(data).map_err(io)?;
    let settings = sled::Config::new()
        .path(data)
        .mode(Mode::HighThroughput)
        .cache_capacity(config.cache)
        .segment_size(SEGMENT)
        .flush_every_ms(None)
        .use_compression(false);
    let mut tries = 0;
    loop {
        return match guarded(AssertUnwindSafe(|| settings.open())) {
            Ok(Ok(db)) => Ok(Ok(db)),
            // Nobody else can have it: the directory is locked. sled's threads may hold a file a moment after its end.
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") && tries < 500 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Ok(Err(sled::Error::Io(error))) if !is_damage(&error) => Err(io(error)),
            Ok(Err(error)) => Ok(Err(error.to_string())),
            Err(panic) => Ok(Err(panic)),
        };
    }
}

/// Snapshots that a killed process left half written; sled refuses to start beside one.
fn remove_unfinished(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b"snap.") && name.ends_with(b".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn set_shortcuts_aside(data: &Path, aside: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(aside)?;
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "conf" || name.as_encoded_bytes().starts_with(b"snap.") {
            fs::rename(entry.path(), aside.join(name))?;
        }
    }
    Ok(())
}

/// Carries every entry that can be read over to a new sled, which then takes the old one's place. A sled that lost
/// something must not be written to again: it takes places for free that still hold records, and loses those next.
fn rebuild(
    directory: &Directory,
    config: StoreConfig,
    old: Db,
    problem: &str,
    told: &mut Vec<String>,
) -> Result<Db, OpenError> {
    let (data, rebuilt) = (directory.join(DATA), directory.join(REBUILT));
    let failed = |doing: &'static str| {
        let rebuilt = rebuilt.clone();
        move |problem: String| OpenError::io(&rebuilt, doing, problem)
    };
    let new = try_open(&rebuilt, config)?.map_err(failed("making a new store"))?;
    let (mut copied, whole) = copy(old.iter(), &new).map_err(failed("copying"))?;
    if !whole {
        // From the other end, too: what cannot be read lies between.
        copied += copy(old.iter().rev(), &new).map_err(failed("copying"))?.0;
    }
    let watched = Watched::new().map_err(|error| failed("flushing")(error.to_string()))?;
    let flushed = guarded(AssertUnwindSafe(|| watched.flush(&new)));
    flushed.unwrap_or_else(Err).map_err(failed("flushing"))?;
    directory.sync_all(&rebuilt).map_err(|error| failed("syncing")(error.to_string()))?;
    for db in [old, new] {
        // Closing the damaged one may well panic again; nothing of it is needed.
        let _ = guarded(AssertUnwindSafe(|| drop(db)));
    }
    let corrupt = unused(directory, SLED_CORRUPT);
    fs::rename(&data, &corrupt).map_err(|error| OpenError::io(&data, "setting damaged data aside", error))?;
    finish_swap(directory)?;
    told.push(format!(
        "the data is damaged ({problem}); {copied} entries were carried over, the old data was moved to {}",
        corrupt.display()
    ));
    open_data(directory, config, told).map(|data| data.db)
}

/// Copies until the end, or until sled cannot read on; says how many and whether it was the end. An error is the new
/// store's.
fn copy(
    entries: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
    to: &Db,
) -> Result<(usize, bool), String> {
    let mut entries = AssertUnwindSafe(entries);
    let mut copied = 0;
    loop {
        let mut batch = Batch::default();
        let mut count = 0;
        let mut end = None;
        while count < COPY && end.is_none() {
            match guarded(AssertUnwindSafe(|| entries.next())) {
                Ok(Some(Ok((key, value)))) => {
                    batch.insert(key, value);
                    count += 1;
                }
                Ok(None) => end = Some(true),
                Ok(Some(Err(_))) | Err(_) => end = Some(false),
            }
        }
        guarded(AssertUnwindSafe(|| to.apply_batch(batch).map_err(|error| error.to_string()))).unwrap_or_else(Err)?;
        copied += count;
        if let Some(whole) = end {
            return Ok((copied, whole));
        }
    }
}

/// Ends a rebuild that was interrupted: one that is not yet in place is complete only if the old data is gone.
fn finish_swap(directory: &Directory) -> Result<(), OpenError> {
    let (data, rebuilt, old) = (directory.join(DATA), directory.join(REBUILT), directory.join(OLD));
    let end = || {
        if rebuilt.exists() {
            if data.exists() { fs::remove_dir_all(&rebuilt) } else { fs::rename(&rebuilt, &data) }?;
        }
        if old.exists() {
            if !data.exists() {
                return fs::rename(&old, &data);
            }
            // The old one goes when the one in its place is there for good.
            directory.sync()?;
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    };
    end().map_err(|error| OpenError::io(&rebuilt, "ending an interrupted rebuild", error))
}

/// A name with the time in it that nothing has yet.
fn unused(directory: &Directory, name: &str) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut path = directory.join(&format!("{name}-{seconds}"));
    let mut number = 1;
    while path.exists() {
        path = directory.join(&format!("{name}-{seconds}.{number}"));
        number += 1;
    }
    path
}
