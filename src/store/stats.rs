//! Numbers about the store, written by its thread, read by anyone.
//!
//! Invariant: reading never waits for the store's thread, however long the disk takes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of the commit latency's buckets, in seconds; one more bucket holds what is above.
pub const COMMIT_SECONDS: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// A reading of the store's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Batches committed.
    pub commits: u64,
    /// Operations in them.
    pub operations: u64,
    /// How many commits took at most each of [`COMMIT_SECONDS`] and more than the bound before; the last: more than all.
    pub commit_buckets: [u64; COMMIT_SECONDS.len() + 1],
    /// Time spent in commits, from the hand-over to stable storage, in nanoseconds.
    pub commit_nanos: u64,
    /// Bytes that the store's files occupy, at most a second old.
    pub disk_bytes: u64,
    /// Free bytes of the file system for this user, without those that the store has a claim on: for what is in the
    /// journal, to drain, for a copy; at most a second old.
    pub free_bytes: u64,
    /// Records that were committed once and not found at start.
    pub lost: u64,
    /// How often the data was written anew because its file was much larger than what was in it.
    pub rotations: u64,
    /// Why the store is dead, if it is.
    pub failure: Option<String>,
}

/// Reads the store's numbers from any thread, also after the store was closed.
#[derive(Debug, Clone)]
pub struct StoreNumbers(pub(super) Arc<Counters>);

impl StoreNumbers {
    /// The numbers now.
    pub fn read(&self) -> StoreStats {
        self.0.read()
    }
}

/// The shared cells behind [`StoreStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    operations: AtomicU64,
    buckets: [AtomicU64; COMMIT_SECONDS.len() + 1],
    nanos: AtomicU64,
    disk_bytes: AtomicU64,
    free_bytes: AtomicU64,
    min_free: AtomicU64,
    lost: AtomicU64,
    rotations: AtomicU64,
    progress: AtomicU64,
    failure: OnceLock<String>,
}

impl Counters {
    pub(super) fn committed(&self, operations: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = COMMIT_SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(COMMIT_SECONDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.operations.fetch_add(operations as u64, Relaxed);
        self.commits.fetch_add(1, Relaxed);
    }

    pub(super) fn measured(&self, disk_bytes: u64, free_bytes: u64) {
        self.disk_bytes.store(disk_bytes, Relaxed);
        self.free_bytes.store(free_bytes, Relaxed);
    }

    pub(super) fn keep_free(&self, bytes: u64) {
        self.min_free.store(bytes, Relaxed);
    }

    pub(super) fn min_free(&self) -> u64 {
        self.min_free.load(Relaxed)
    }

    pub(super) fn lost(&self, records: u64) {
        self.lost.store(records, Relaxed);
    }

    pub(super) fn rotated(&self) {
        self.rotations.fetch_add(1, Relaxed);
    }

    pub(super) fn progressed(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// The first failure stays.
    pub(super) fn failed(&self, reason: &str) {
        let _ = self.failure.set(reason.to_owned());
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Relaxed)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Relaxed)
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    pub(super) fn read(&self) -> StoreStats {
        let mut commit_buckets = [0; COMMIT_SECONDS.len() + 1];
        for (to, from) in commit_buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Relaxed);
        }
        StoreStats {
            commits: self.commits.load(Relaxed),
            operations: self.operations.load(Relaxed),
            commit_buckets,
            commit_nanos: self.nanos.load(Relaxed),
            disk_bytes: self.disk_bytes.load(Relaxed),
            free_bytes: self.free_bytes.load(Relaxed),
            lost: self.lost.load(Relaxed),
            rotations: self.rotations.load(Relaxed),
            failure: self.failure(),
        }
    }
}
