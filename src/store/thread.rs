//! The store's thread: takes one task after the other, answers each, keeps the numbers fresh in between.
//!
//! Invariant: every batch is answered exactly once; after the first failure every answer is that failure.

use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ballast;
use super::commit::Committer;
use super::directory::Directory;
use super::recover;
use super::stats::Counters;
use super::{OpenError, StoreAnswer, StoreConfig};
use crate::relay::record::{Operation, Restored, Wanted};

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Task {
    /// Make this durable and answer.
    Commit(Vec<Operation>),
    /// Read these records and answer.
    Load(Vec<Wanted>),
    /// Close everything and end.
    Stop,
}

type Answer = Box<dyn FnMut(StoreAnswer) + Send>;

/// How often the numbers about the disk are taken, and the longest time without a sign of progress …
const MEASURE: Duration = Duration::from_secs(1);
/// … and after how many bytes of records: a fast disk is full within a second. The least is for disks that nearly are.
const MEASURE_BYTES: RangeInclusive<u64> = 256 << 10..=4 << 20;
/// The same as a part of what is free.
const PART_OF_FREE: u64 = 16;

/// Opens the store and starts its thread. Opened by the caller's thread, because what is read is handed to that one: the memory
/// of reading is used again there.
pub(super) fn start(
    path: &Path,
    config: StoreConfig,
    inbox: Receiver<Task>,
    counters: Arc<Counters>,
    answer: Answer,
) -> Result<(JoinHandle<()>, Restored), OpenError> {
    let directory = Arc::new(Directory::open(path)?);
    match ballast::give_back(&directory, config.ballast) {
        Ok(true) => tracing::warn!("the disk is full: the room set aside for that (outbox.ballast) is given back"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "cannot give back the room set aside on the disk"),
    }
    let (committer, restored) = recover::open(&directory, config, &counters)?;
    counters.lost(restored.lost);
    counters.keep_free(config.min_free);
    let mut keeper = Keeper::new(directory, config, committer, counters, answer);
    keeper.measure();
    let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || keeper.run(&inbox));
    Ok((thread.map_err(|error| OpenError::io(path, "starting the store's thread", error))?, restored))
}

/// The thread's state.
struct Keeper {
    /// `None` once the store has failed.
    committer: Option<Committer>,
    config: StoreConfig,
    counters: Arc<Counters>,
    answer: Answer,
    measured: Instant,
    /// Bytes of records that were committed since.
    written: u64,
    /// Whether the last try to measure the disk succeeded; a failure is told once.
    measurable: bool,
    /// Whether room can be set aside; a failure is told once.
    has_ballast: bool,
    /// Dropped last: the lock outlives the files.
    directory: Arc<Directory>,
}

impl Keeper {
    fn new(
        directory: Arc<Directory>,
        config: StoreConfig,
        committer: Committer,
        counters: Arc<Counters>,
        answer: Answer,
    ) -> Self {
        let (committer, measured, written) = (Some(committer), Instant::now(), 0);
        Keeper {
            committer,
            config,
            counters,
            answer,
            measured,
            written,
            measurable: true,
            has_ballast: true,
            directory,
        }
    }

    fn run(&mut self, inbox: &Receiver<Task>) {
        loop {
            self.counters.progressed();
            match inbox.recv_timeout(self.idle_for()) {
                Ok(Task::Commit(operations)) => self.commit(&operations),
                Ok(Task::Load(wanted)) => self.load(&wanted),
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.tend();
        }
        if let Some(committer) = self.committer.take() {
            let closed = recover::guarded(AssertUnwindSafe(|| committer.close()));
            if let Err(reason) = closed.unwrap_or_else(Err) {
                self.counters.failed(&reason);
            }
        }
    }

    fn commit(&mut self, operations: &[Operation]) {
        let began = Instant::now();
        let result = self.with_committer(|committer| committer.commit(operations));
        (self.answer)(match result {
            Ok(()) => {
                self.counters.committed(operations.len(), began.elapsed());
                StoreAnswer::Committed
            }
            Err(reason) => StoreAnswer::CommitFailed { reason },
        });
        if let Some(committer) = &mut self.committer {
            self.written += committer.take_written();
        }
    }

    fn load(&mut self, wanted: &[Wanted]) {
        let result = self.with_committer(|committer| committer.load(wanted));
        (self.answer)(match result {
            Ok(records) => StoreAnswer::Loaded(records),
            Err(reason) => StoreAnswer::CommitFailed { reason },
        });
    }

    /// What has to be done now and then, batches or not. A failure is kept and answers the next batch.
    fn tend(&mut self) {
        let now = Instant::now();
        let due = self.committer.as_ref().and_then(Committer::mark_due).is_some_and(|due| due <= now);
        if due {
            let _ = self.with_committer(Committer::sync_mark);
        }
        let due = (self.counters.free_bytes() / PART_OF_FREE).clamp(*MEASURE_BYTES.start(), *MEASURE_BYTES.end());
        if now.duration_since(self.measured) >= MEASURE || self.written >= due {
            self.measure();
            let free = self.counters.free_bytes();
            let full = free < self.counters.min_free() || self.counters.disk_bytes() >= self.config.max_disk;
            if self.committer.is_some() {
                let _ = self.with_committer(|committer| committer.look(free, full));
            }
        }
        if self.committer.is_some() {
            let _ = self.with_committer(Committer::tend);
        }
    }

    fn idle_for(&self) -> Duration {
        let now = Instant::now();
        let measure = self.measured + MEASURE;
        let mark = self.committer.as_ref().and_then(Committer::mark_due);
        mark.map_or(measure, |mark| mark.min(measure)).saturating_duration_since(now)
    }

    fn measure(&mut self) {
        (self.measured, self.written) = (Instant::now(), 0);
        let numbers = self.directory.disk_bytes().and_then(|disk| Ok((disk, self.directory.free_bytes()?)));
        match &numbers {
            Ok((disk, free)) => {
                // What is accepted has a claim on more room than it takes yet.
                let file = self.directory.bytes_below(&self.directory.join(recover::DATA)).unwrap_or(0);
                let claimed = self.committer.as_ref().map_or(0, |committer| committer.claimed(file));
                self.counters.measured(*disk, free.saturating_sub(claimed));
                self.set_aside(*free);
            }
            Err(error) => {
                // No room that we know of: then nothing more is accepted.
                self.counters.measured(0, 0);
                if self.measurable {
                    tracing::warn!(%error, "cannot measure the store's disk; taken as full until it can be measured");
                }
            }
        }
        self.measurable = numbers.is_ok();
    }

    /// Sets room aside for the day when the disk is full.
    fn set_aside(&mut self, free: u64) {
        if self.committer.is_none() || !self.has_ballast {
            return;
        }
        if let Err(error) = ballast::set_aside(&self.directory, self.config.ballast, free) {
            tracing::warn!(%error, "no room can be set aside on this disk (outbox.ballast)");
            self.has_ballast = false;
        }
    }

    /// Runs `work`; the first failure, or panic of sled, ends the store.
    fn with_committer<T>(&mut self, work: impl FnOnce(&mut Committer) -> Result<T, String>) -> Result<T, String> {
        let Some(committer) = self.committer.as_mut() else {
            return Err(self.counters.failure().unwrap_or_default());
        };
        let result = recover::guarded(AssertUnwindSafe(|| work(committer))).unwrap_or_else(Err);
        if let Err(reason) = &result {
            tracing::error!(%reason, "the store failed; nothing more is accepted until a restart");
            self.counters.failed(reason);
            if let Some(committer) = self.committer.take() {
                committer.abandon();
            }
        }
        result
    }
}
