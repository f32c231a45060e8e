//! Room set aside on the disk. After a full disk has ended the store, a start needs some to open the data and to bring the
//! outbox to its end; it is given back before. So it is where it makes room for the copy that makes more (`rotate`).
//!
//! Invariant: it is in nobody's way: it is set aside only where plenty is free, and a file system that sets nothing aside
//! does without.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::FallocateFlags;

use super::directory::Directory;

/// The file's name.
pub(super) const BALLAST: &str = "ballast";
/// What must be free before anything is set aside, in multiples of it.
const PLENTY: u64 = 4;

/// How much is set aside.
pub(super) fn bytes(directory: &Directory) -> u64 {
    fs::metadata(directory.join(BALLAST)).map_or(0, |metadata| metadata.len())
}

/// Gives the room back if less than `least` is free; says whether it did.
pub(super) fn give_back(directory: &Directory, least: u64) -> io::Result<bool> {
    if directory.free_bytes()? >= least {
        return Ok(false);
    }
    match fs::remove_file(directory.join(BALLAST)) {
        Ok(()) => directory.sync().map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets room aside, where plenty is `free` and none, or less, is set aside yet.
pub(super) fn set_aside(directory: &Directory, bytes: u64, free: u64) -> io::Result<()> {
    let path = directory.join(BALLAST);
    let there = self::bytes(directory);
    if there == bytes || free < bytes.saturating_mul(PLENTY) {
        return Ok(());
    }
    if there > 0 {
        fs::remove_file(&path)?;
    }
    if bytes == 0 {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    let result = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes);
    result.map_err(|error| {
        // Half of it would look like all of it.
        let _ = fs::remove_file(&path);
        error.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_set_aside_where_plenty_is_free_and_given_back_where_little_is() {
        let base = tempfile::tempdir().unwrap();
        let directory = Directory::open(base.path()).unwrap();
        let length = || fs::metadata(directory.join(BALLAST)).map(|metadata| metadata.len()).ok();
        let before = directory.disk_bytes().unwrap();
        set_aside(&directory, 1 << 20, (4 << 20) - 1).unwrap();
        assert_eq!(length(), None);
        set_aside(&directory, 1 << 20, 4 << 20).unwrap();
        assert_eq!(length(), Some(1 << 20));
        assert!(directory.bytes_below(directory.path()).unwrap() >= before + (1 << 20), "really");
        assert_eq!(directory.disk_bytes().unwrap(), before, "but it is not what the store needs");
        set_aside(&directory, 2 << 20, 8 << 20).unwrap();
        assert_eq!(length(), Some(2 << 20), "another size");

        assert!(!give_back(&directory, 1).unwrap() && length().is_some());
        assert!(give_back(&directory, u64::MAX).unwrap() && length().is_none());
        assert!(!give_back(&directory, u64::MAX).unwrap());
        set_aside(&directory, 1 << 20, u64::MAX).unwrap();
        set_aside(&directory, 0, u64::MAX).unwrap();
        assert_eq!(length(), None, "none is wanted any more");
    }
}
