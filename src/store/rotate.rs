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
use std::path::PathBuf;
use std::time::Duration;

use sled::{Batch, Db, IVec};

use super::StoreConfig;
use super::directory::Directory;
use super::recover::{self, DATA, OLD, REBUILT, guarded};
use super::wake::Watched;

/// Entries copied between two commits, and about how many bytes.
const PART: usize = 500;
const PART_BYTES: usize = 2 << 20;
/// The file is so many times larger than what is needed of it.
const WASTE: u64 = 4;
/// The same where room is short. A fresh file takes up to twice of what is needed.
const WASTE_OF_FULL: u64 = 3;
/// A file of no more is left as it is, and a fresh one has as much at once.
const LEAST: u64 = 4 << 20;
/// What has to stay free on the disk meanwhile: the old one must not fail because of its copy.
pub(super) const SPARE: u64 = 4 << 20;
/// How long after one that failed the next one is tried.
pub(super) const PAUSE: Duration = Duration::from_secs(60);

/// The size of the file above which it is written anew. `ordinary`: no less than that where there is plenty of room. `room`: the
/// most that the file could take on its disk. `full`: nothing is accepted for want of room.
pub(super) fn above(needed: u64, ordinary: u64, room: u64, full: bool) -> u64 {
    let patient = needed.saturating_mul(WASTE).max(ordinary);
    // Who waits longer than the disk allows has no room for the copy.
    if full || room < patient.saturating_add(copy(needed)) { least(needed) } else { patient }
}

fn least(needed: u64) -> u64 {
    needed.saturating_mul(WASTE_OF_FULL).max(LEAST)
}

/// Whether a file of so many bytes is worth a copy where room is short.
pub(super) fn is_waste(needed: u64, file: u64) -> bool {
    file > least(needed)
}

/// The size above which it is worth to write it anew once more: `left` says what was needed the last time, and what that left. Again
/// at once would leave no less.
pub(super) fn again_above((needed_then, left): (u64, u64), needed: u64) -> u64 {
    let expected = u128::from(left) * u128::from(needed.max(LEAST)) / u128::from(needed_then.max(LEAST));
    u64::try_from(expected * 3 / 2).unwrap_or(u64::MAX)
}

/// What has to be free to write anew what is needed.
pub(super) fn copy(needed: u64) -> u64 {
    needed.saturating_mul(2).saturating_add(LEAST + SPARE)
}

/// A copy that grows.
#[derive(Debug)]
pub(super) struct Rotation {
    path: PathBuf,
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
        Ok(Rotation { path, fresh, last: None, copied: 0 })
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
        let (mut count, mut bytes) = (0, 0);
        let mut entries = old.range::<IVec, _>((after, Bound::Unbounded));
        let mut is_last = false;
        while count < PART && bytes < PART_BYTES && !is_last {
            match entries.next() {
                Some(entry) => {
                    let (key, value) = entry.map_err(|error| error.to_string())?;
                    (count, bytes) = (count + 1, bytes + value.len());
                    self.last = Some(key.clone());
                    batch.insert(key, value);
                }
                None => is_last = true,
            }
        }
        self.apply(&batch)?;
        self.copied += count as u64;
        Ok(is_last)
    }

    /// Makes the copy durable and closes it; says how many entries were copied.
    pub(super) fn close(self, directory: &Directory, watched: &Watched) -> Result<u64, String> {
        let Rotation { path, fresh, copied, .. } = self;
        let closed = guarded(AssertUnwindSafe(|| {
            watched.flush(&fresh)?;
            drop(fresh);
            Ok(())
        }));
        let synced =
            closed.unwrap_or_else(Err).and_then(|()| directory.sync_all(&path).map_err(|error| error.to_string()));
        if synced.is_err() {
            let _ = fs::remove_dir_all(&path);
        }
        synced.map(|()| copied)
    }

    /// Gives back what the copy takes, which nobody needs.
    pub(super) fn abandon(self, watched: &Watched) {
        let Rotation { path, fresh, .. } = self;
        // Closing writes, and may fail as the copy did, or wait for ever: a watched flush before it takes sled's note of the failure.
        let _ = guarded(AssertUnwindSafe(|| watched.flush(&fresh)));
        let _ = guarded(AssertUnwindSafe(|| drop(fresh)));
        let _ = fs::remove_dir_all(path);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_patient_where_the_disk_allows() {
        let mib = |n: u64| n << 20;
        let above = |needed, room, full| above(mib(needed), mib(128), mib(room), full) >> 20;
        assert_eq!(above(10, 100_000, false), 128);
        assert_eq!(above(100, 100_000, false), 400);
        assert_eq!((above(100, 608, false), above(100, 607, false)), (400, 300), "400, and 208 for a copy of 100");
        assert_eq!((above(10, 156, false), above(10, 155, false)), (128, 30));
        assert_eq!((above(100, 100_000, true), above(0, 100_000, true)), (300, 4));
        let again = |then, left, needed| again_above((mib(then), mib(left)), mib(needed)) >> 20;
        assert_eq!((again(100, 200, 100), again(100, 200, 10), again(0, 2, 0)), (300, 30, 3));
    }
}
