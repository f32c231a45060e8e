//! Writes what is still needed into a fresh sled, which then takes the place of the old one: sled reuses what it freed, but its
//! file never shrinks.
//!
//! A part is copied between commits, and every commit meanwhile goes into both. Only the old one is synced and answers for
//! them, until the fresh one is whole and on stable storage; then two renames put it in place.
//!
//! | what a start finds after a cut | what it means | what it does |
//! |---|---|---|
//! | `sled`, `sled.rebuilt` | the copy was not whole | removes the copy |
//! | `sled.rebuilt`, `sled.old` | cut between the renames | the copy takes its place |
//! | `sled`, `sled.old` | cut before the end | removes the old one |
//!
//! Invariant: at every moment one of them is whole, durable, and recognized as such by a start (`recover`).
//! An error of the copy costs the copy, not the store.

use std::fs;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;

use sled::{Batch, Db, IVec};

use super::StoreConfig;
use super::directory::Directory;
use super::recover::{self, DATA, OLD, REBUILT, guarded};
use super::wake::Watched;

/// Entries copied between two commits.
const PART: usize = 500;
/// The file is so many times larger than what is needed of it.
pub(super) const WASTE: u64 = 4;
/// The same where it takes all that it may (`outbox.max_disk`).
pub(super) const WASTE_OF_FULL: u64 = 2;

/// A copy that grows.
#[derive(Debug)]
pub(super) struct Rotation {
    fresh: Db,
    last: Option<IVec>,
    copied: u64,
}

impl Rotation {
    /// Makes the fresh one beside the old one.
    pub(super) fn begin(directory: &Directory, config: StoreConfig) -> Result<Rotation, String> {
        let path = directory.join(REBUILT);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| error.to_string())?;
        }
        let fresh = recover::try_open(&path, config).map_err(|error| error.to_string())??;
        Ok(Rotation { fresh, last: None, copied: 0 })
    }

    /// What is committed to the old one.
    pub(super) fn apply(&self, batch: &Batch) -> Result<(), String> {
        let work = AssertUnwindSafe(|| self.fresh.apply_batch(batch.clone()).map_err(|error| error.to_string()));
        guarded(work).unwrap_or_else(Err)
    }

    /// Copies a part; says whether that was the last.
    pub(super) fn step(&mut self, old: &Db) -> Result<bool, String> {
        let after = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut batch = Batch::default();
        let mut count = 0;
        for entry in old.range::<IVec, _>((after, Bound::Unbounded)).take(PART) {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            self.last = Some(key.clone());
            batch.insert(key, value);
            count += 1;
        }
        self.apply(&batch)?;
        self.copied += count as u64;
        Ok(count < PART)
    }

    /// Makes the copy durable and closes it; says how many entries were copied.
    pub(super) fn close(self, directory: &Directory, watched: &Watched) -> Result<u64, String> {
        let Rotation { fresh, copied, .. } = self;
        let closed = guarded(AssertUnwindSafe(|| {
            watched.flush(&fresh)?;
            drop(fresh);
            Ok(())
        }));
        closed.unwrap_or_else(Err)?;
        directory.sync_all(&directory.join(REBUILT)).map_err(|error| error.to_string())?;
        Ok(copied)
    }
}

/// Puts the copy, whole and durable, in the place of the old one, which nobody has open any more.
pub(super) fn swap(directory: &Directory) -> Result<(), String> {
    let (data, fresh, old) = (directory.join(DATA), directory.join(REBUILT), directory.join(OLD));
    let swapped = fs::rename(&data, &old)
        .and_then(|()| directory.sync())
        .and_then(|()| fs::rename(&fresh, &data))
        .and_then(|()| directory.sync())
        .and_then(|()| fs::remove_dir_all(&old));
    swapped.map_err(|error| format!("putting the fresh data in place: {error}"))
}
