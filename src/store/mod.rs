//! What survives: a journal that makes each batch durable, and sled, which takes it over afterwards and holds what waits.
//!
//! Invariant: [`StoreAnswer::Committed`] is given only after every operation of the batch is on stable storage, data and
//! directory entries, all or none; after any error of the disk nothing is ever committed again by this process.
//! sled 0.34.7 alone does not keep that: its `flush` never calls fsync, a kill during its start can make every later
//! start fail, and damage can remove records without a word. Each answer to that stands where it is needed:
//!
//! | what sled does | what we do | where |
//! |---|---|---|
//! | 7 to 12 us for each entry | one write and one fdatasync of a journal first; what came and went never gets there | `journal`, `table`, `commit` |
//! | `flush` without fsync | `fdatasync` on an own descriptor of its file | `base` |
//! | `flush` can miss that a write failed, and waits for ever | another one beside it | `wake` |
//! | directory entries never synced | all synced at start | `directory` |
//! | leftover `snap.*.generating` stops each later start | removed before | `recover` |
//! | torn `snap.*` does the same | moved aside, one more try | `recover` |
//! | damaged file panics | panic caught, directory set aside, what is readable carried over | `recover` |
//! | damage drops records silently | own checksums and counts, a mark kept apart | `record`, `mark`, `load` |
//! | its file never shrinks | what is needed is written anew | `rotate`, `base` |
//! | a full disk ends it, and the next start too | room set aside and given back before | `ballast` |
//! | values over 128 KiB go to files that are never synced | values in pieces of 16 KiB | `record` |
//!
//! What is on disk below `outbox.path`: `lock` (the running process), `format` (the version), `mark` (the counts kept
//! apart), `ballast` (room set aside), `journal-N` (what sled has not taken over yet), `sled/` (the data), `sled.rebuilt/` and
//! `sled.old/` (while it is written anew), `sled.corrupt-TIME/` and `journal.corrupt-TIME` (damaged data, for people).
//!
//! Deliberately not here: what to accept, how much, when to forget. The relay decides; this carries out.

mod ballast;
mod base;
mod commit;
mod directory;
mod journal;
mod load;
mod mark;
mod record;
mod recover;
mod rotate;
mod salvage;
mod stats;
mod table;
mod thread;
mod wake;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::relay::record::{Operation, Restored, Stored, Wanted};

pub use recover::panic_is_guarded;
pub use salvage::{Salvage, SalvageError, Salvaged, salvage};
pub use stats::{COMMIT_SECONDS, StoreNumbers, StoreStats};

use stats::Counters;
use thread::Task;

/// What the store may use.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfig {
    /// Bytes of memory for sled's cache of pages, as sled counts them: it takes about three times as much.
    pub cache: u64,
    /// Bytes on disk above which the data is written anew if a quarter of that would do. Where the disk is too small to wait for
    /// that: if half of that would do.
    pub rotate_above: u64,
    /// Bytes on disk above which the data is written anew if half of that would do.
    pub max_disk: u64,
    /// Bytes set aside on disk for a start after it was full.
    pub ballast: u64,
    /// Free bytes of the disk below which nothing is accepted: room is made then.
    pub min_free: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { cache: 8 << 20, rotate_above: 128 << 20, max_disk: 8 << 30, ballast: 0, min_free: 0 }
    }
}

/// The answer to one [`Store::commit`] or [`Store::load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAnswer {
    /// All of it is on stable storage.
    Committed,
    /// What was asked for.
    Loaded(Vec<Stored>),
    /// The store is dead from now on, by a write or a read. Whether this batch survives a restart is unknown.
    CommitFailed {
        /// Why, for people.
        reason: String,
    },
}

/// Why the store does not open. The text names the place and the cure.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    Locked {
        /// The state directory.
        directory: PathBuf,
        /// The other process, as it wrote itself down; `None` if it did not get that far.
        pid: Option<u32>,
    },
    /// The state directory or something in it cannot be created.
    Create {
        /// What.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The state directory is not one that we may use: a symbolic link, a file, somebody else's.
    Unfit {
        /// The state directory.
        directory: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// A newer Tidegate wrote it.
    NewerFormat {
        /// The state directory.
        directory: PathBuf,
        /// The version found.
        found: u32,
    },
    /// Reading or writing failed.
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried and what came of it.
        problem: String,
    },
}

impl OpenError {
    /// The exit code of a process that ends for this: 73 (`EX_CANTCREAT`) or 74 (`EX_IOERR`) of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Locked { .. } | OpenError::Create { .. } => 73,
            OpenError::Unfit { .. } | OpenError::NewerFormat { .. } | OpenError::Io { .. } => 74,
        }
    }

    fn io(path: &Path, doing: &str, error: impl std::fmt::Display) -> Self {
        OpenError::Io { path: path.to_owned(), problem: format!("{doing}: {error}") }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Locked { directory, pid } => {
                write!(f, "outbox.path {}: in use by another tidegate", directory.display())?;
                match pid {
                    Some(pid) => write!(f, " (pid {pid}); stop it, or give this one another outbox.path"),
                    None => write!(f, "; stop it, or give this one another outbox.path"),
                }
            }
            OpenError::Create { path, error } => write!(
                f,
                "outbox.path: cannot create {}: {error}; create it for this user, or name a place this user may write to",
                path.display()
            ),
            OpenError::Unfit { directory, problem } => write!(f, "outbox.path {}: {problem}", directory.display()),
            OpenError::NewerFormat { directory, found } => write!(
                f,
                "outbox.path {}: written by a newer tidegate (format {found}, this one knows {}); run that version, or \
                 name another outbox.path",
                directory.display(),
                directory::FORMAT
            ),
            OpenError::Io { path, problem } => {
                write!(f, "outbox.path: {}: {problem}; see to the disk, then start again", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// The handle of the store's thread.
///
/// One of each kind at a time: the next [`Store::commit`] comes after the answer to the one before, as does [`Store::load`].
#[derive(Debug)]
pub struct Store {
    tasks: SyncSender<Task>,
    thread: JoinHandle<()>,
    counters: Arc<Counters>,
}

impl Store {
    /// Opens the store below `path` (created if need be) and reads all that it holds. Returns when both are done and
    /// everything, directory entries included, is on stable storage. `answer` is called on the store's thread, once for
    /// each commit and load; it must not block.
    pub fn open(
        path: &Path,
        config: StoreConfig,
        answer: impl FnMut(StoreAnswer) + Send + 'static,
    ) -> Result<(Store, Restored), OpenError> {
        // Room for the one batch and the one question that may be out, and for the word to stop.
        let (tasks, inbox) = sync_channel(3);
        let counters = Arc::new(Counters::default());
        let (thread, restored) = thread::start(path, config, inbox, Arc::clone(&counters), Box::new(answer))?;
        Ok((Store { tasks, thread, counters }, restored))
    }

    /// Hands over a batch: durable all or none. The answer comes through the callback given at [`Store::open`]; if the
    /// batch could not even be handed over, it comes at once as the error.
    pub fn commit(&self, operations: Vec<Operation>) -> Result<(), StoreAnswer> {
        self.ask(Task::Commit(operations))
    }

    /// Asks for records that are there. The answer comes through the callback: all of them, or the store is dead.
    pub fn load(&self, wanted: Vec<Wanted>) -> Result<(), StoreAnswer> {
        self.ask(Task::Load(wanted))
    }

    fn ask(&self, task: Task) -> Result<(), StoreAnswer> {
        self.tasks.try_send(task).map_err(|error| StoreAnswer::CommitFailed {
            reason: match error {
                TrySendError::Full(_) => "the store was asked before it had answered".to_owned(),
                TrySendError::Disconnected(_) => "the store's thread has ended".to_owned(),
            },
        })
    }

    /// The numbers of the store, read without waiting for it.
    pub fn stats(&self) -> StoreStats {
        self.counters.read()
    }

    /// The same numbers for other threads.
    pub fn numbers(&self) -> StoreNumbers {
        StoreNumbers(Arc::clone(&self.counters))
    }

    /// Free bytes of the file system under the store for this user, and bytes that its files take, at most a second old.
    pub fn disk(&self) -> (u64, u64) {
        (self.counters.free_bytes(), self.counters.disk_bytes())
    }

    /// Another [`StoreConfig::min_free`] from now on.
    pub fn keep_free(&self, bytes: u64) {
        self.counters.keep_free(bytes);
    }

    /// Rises at least once a second while the store's thread is well; stands still while the disk does not answer.
    pub fn progress(&self) -> u64 {
        self.counters.progress()
    }

    /// Waits for a batch that is out, closes the files and ends the thread. `Err` says why something may be missing.
    pub fn shutdown(self) -> Result<(), String> {
        let Store { tasks, thread, counters } = self;
        // A thread that has ended already needs no word.
        let _ = tasks.send(Task::Stop);
        if thread.join().is_err() {
            return Err("the store's thread panicked".to_owned());
        }
        match counters.failure() {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }
}
