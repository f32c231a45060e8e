//! The state directory: made, checked, locked, and its entries made durable.
//!
//! Invariant: whoever holds a [`Directory`] is the only process that does, and the directory is its own, of a format that it
//! knows. Nothing here knows sled.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::OpenError;
use super::ballast::BALLAST;

/// The version of everything below the state directory. 2: a journal before sled; one of version 1 becomes one of 2 by having
/// none.
pub(super) const FORMAT: u32 = 2;

/// The state directory, ours alone while this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Holds the lock; the kernel takes it back when the process ends, however it ends.
    _lock: File,
}

/// Which run of the system this is, so that its monotonic clock can be compared; 0 where it does not say.
pub(super) fn boot() -> u128 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

impl Directory {
    /// Creates (mode 0700) or checks the directory, locks it and checks its format.
    pub(super) fn open(path: &Path) -> Result<Directory, OpenError> {
        // A trailing slash would follow a symbolic link before it is seen.
        let path: PathBuf = path.components().collect();
        create(&path)?;
        let path = check(&path)?;
        let lock = lock(&path)?;
        let directory = Directory { path, _lock: lock };
        directory.check_format()?;
        Ok(directory)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Something in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Free bytes of its file system for this user.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let numbers = rustix::fs::statvfs(&self.path)?;
        Ok(numbers.f_bavail.saturating_mul(numbers.f_frsize))
    }

    /// Bytes that everything in it occupies on disk, but for the room set aside.
    pub(super) fn disk_bytes(&self) -> io::Result<u64> {
        let ballast = fs::metadata(self.join(BALLAST)).map_or(0, |metadata| occupied(&metadata));
        Ok(self.bytes_below(&self.path)?.saturating_sub(ballast))
    }

    /// The same for a part of it.
    pub(super) fn bytes_below(&self, part: &Path) -> io::Result<u64> {
        let mut bytes = 0;
        walk(part, &mut |_, metadata| {
            bytes += occupied(metadata);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Syncs its own entries.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Syncs every file below `part`, every directory, the state directory and its parent.
    pub(super) fn sync_all(&self, part: &Path) -> io::Result<()> {
        walk(part, &mut |path, _| File::open(path)?.sync_all())?;
        File::open(part)?.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")) {
            parent if parent == self.path => Ok(()),
            parent => match File::open(parent) {
                Ok(parent) => parent.sync_all(),
                // A parent that we may pass but not read: sync the whole file system, that holds its entries too.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    Ok(rustix::fs::syncfs(File::open(&self.path)?)?)
                }
                Err(error) => Err(error),
            },
        }
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.join("format");
        let text = match read_start(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.write_format(&path),
            Err(error) => return Err(OpenError::io(&path, "reading the format's version", error)),
        };
        match text.trim().parse() {
            Ok(FORMAT) => Ok(()),
            // Durable before the first journal is, which syncs the directory.
            Ok(1) => self.write_format(&path),
            Ok(found) if found > FORMAT => Err(OpenError::NewerFormat { directory: self.path.clone(), found }),
            _ => Err(OpenError::io(
                &path,
                "reading the format's version",
                format!("found {text:?} instead of {FORMAT}; if nothing else is damaged, write {FORMAT} there"),
            )),
        }
    }

    fn write_format(&self, path: &Path) -> Result<(), OpenError> {
        let new = self.join("format.new");
        let written = write_file(&new, format!("{FORMAT}\n").as_bytes()).and_then(|()| fs::rename(&new, path));
        written.map_err(|error| OpenError::io(path, "writing the format's version", error))
    }
}

/// Creates the directory and what is missing above it, each made durable in its parent by [`Directory::sync_all`] or here.
fn create(path: &Path) -> Result<(), OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::Create { path, error }
    };
    // A dangling link exists, too: `check` says what it is.
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        create(parent)?;
        let above = parent.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above).and_then(|above| above.sync_all()).map_err(failed(parent))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// Looks whether the directory may be trusted; gives the one that a trusted link leads to. systemd's `DynamicUser=` makes the
/// state directory such a link of root's; volumes of containers belong to root, too, and are writable by group.
fn check(path: &Path) -> Result<PathBuf, OpenError> {
    let unfit = |problem| Err(OpenError::Unfit { directory: path.to_owned(), problem });
    let looked = |error| OpenError::io(path, "looking at it", error);
    let user = rustix::process::geteuid().as_raw();
    let mut metadata = fs::symlink_metadata(path).map_err(looked)?;
    let mut real = path.to_owned();
    if metadata.is_symlink() {
        if !trusted(metadata.uid(), user) {
            return unfit(format!(
                "is a symbolic link made by user {}, who is neither root nor this process's user {user}; set outbox.path to \
                 the directory itself",
                metadata.uid()
            ));
        }
        real = fs::canonicalize(path).map_err(looked)?;
        metadata = fs::metadata(&real).map_err(looked)?;
    }
    if !metadata.is_dir() {
        return unfit("is not a directory; name another place".to_owned());
    }
    if !trusted(metadata.uid(), user) {
        return unfit(format!(
            "belongs to user {}, this process runs as {user}; chown it to {user}, run as {}, or name a directory below it, \
             which tidegate creates",
            metadata.uid(),
            metadata.uid()
        ));
    }
    Ok(real)
}

/// What root or we made cannot have been put there by somebody else.
fn trusted(owner: u32, user: u32) -> bool {
    owner == 0 || owner == user
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let file = lock_options(true).create(true).open(&path);
    own(directory, file.map_err(|error| OpenError::Create { path: path.clone(), error })?, true)
}

/// Keeps every relay from a state directory that is only read, while the file lives. `None`: it has no lock, so none uses it.
pub(super) fn hold(directory: &Path) -> Result<Option<File>, OpenError> {
    let path = directory.join("lock");
    let (file, writable) = match lock_options(true).open(&path) {
        // A copy may belong to somebody else, or lie on a disk that is only read.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            (lock_options(false).open(&path), false)
        }
        opened => (opened, true),
    };
    match file {
        Ok(file) => own(directory, file, writable).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(&path, "opening it", error)),
    }
}

fn lock_options(write: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(write).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Locks the file and, if it may, writes into it who has it.
fn own(directory: &Path, mut file: File, writable: bool) -> Result<File, OpenError> {
    let path = directory.join("lock");
    match try_lock(&file) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let pid = read_start(&path).ok().and_then(|text| text.trim().parse().ok());
            return Err(OpenError::Locked { directory: directory.to_owned(), pid });
        }
        Err(error) => return Err(OpenError::io(&path, "locking it", error)),
    }
    if writable {
        // For people only: a full disk must not keep the relay from starting.
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            tracing::warn!(path = %path.display(), %error, "cannot write the pid into the lock");
        }
    }
    Ok(file)
}

/// Tries for a second: a process that just ended, or forked, may still hold it.
fn try_lock(file: &File) -> Result<(), Errno> {
    for _ in 0..100 {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// The first bytes of a file that somebody may have put there.
fn read_start(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file that was deleted or replaced while it is open would go on being written into nothing: looks whether it is still there.
pub(super) fn check_place(file: &File, path: &Path) -> Result<(), String> {
    let gone = |problem: &str| format!("{}: {problem} while in use", path.display());
    let ours = file.metadata().map_err(|error| gone(&error.to_string()))?;
    match fs::metadata(path) {
        Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => Ok(()),
        Ok(_) => Err(gone("replaced")),
        Err(error) => Err(gone(&error.to_string())),
    }
}

/// The unit of `blocks` is 512 bytes whatever the file system's (stat(2)).
fn occupied(metadata: &fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

/// Visits every file below `directory`; syncs nothing by itself, but visits the directories too.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // sled removes an old snapshot behind our back.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            walk(&entry.path(), visit)?;
        } else if !metadata.is_file() {
            continue;
        }
        match visit(&entry.path(), &metadata) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_new_directory_is_private_and_deep() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b/state");
        let directory = Directory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(directory.join("format")).unwrap(), "2\n");
        directory.sync_all(&path).unwrap();
        assert!(directory.free_bytes().unwrap() > 0);
        assert!(directory.disk_bytes().unwrap() > 0);
    }

    #[test]
    fn the_second_is_refused_and_told_the_first_ones_pid() {
        let base = tempfile::tempdir().unwrap();
        let first = Directory::open(base.path()).unwrap();
        let error = Directory::open(base.path()).unwrap_err();
        assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert_eq!(error.exit_code(), 73);
        drop(first);
        Directory::open(base.path()).unwrap();
    }

    #[test]
    fn a_link_of_ours_is_followed_and_one_of_a_stranger_is_not() {
        let base = tempfile::tempdir().unwrap();
        let (real, link) = (base.path().join("real"), base.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let directory = Directory::open(&link.join("")).unwrap();
        assert_eq!(directory.path(), fs::canonicalize(&real).unwrap());
        assert!(matches!(Directory::open(&real).unwrap_err(), OpenError::Locked { .. }), "one directory, one lock");
        assert!(trusted(0, 1000) && trusted(1000, 1000) && !trusted(1001, 1000) && !trusted(1000, 0));
        if rustix::process::geteuid().is_root() {
            drop(directory);
            std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
            let error = Directory::open(&link).unwrap_err();
            assert!(error.to_string().contains("symbolic link made by user 12345"), "{error}");
            std::os::unix::fs::chown(&real, Some(12_345), None).unwrap();
            let error = Directory::open(&real).unwrap_err();
            assert!(error.to_string().contains("belongs to user 12345"), "{error}");
        }
    }

    #[test]
    fn a_file_and_a_place_that_cannot_be_made_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = Directory::open(&file).unwrap_err();
        assert!(error.to_string().contains("not a directory"), "{error}");
        let error = Directory::open(&file.join("below")).unwrap_err();
        assert!(matches!(error, OpenError::Create { .. }), "{error}");
        assert_eq!(error.exit_code(), 73);
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("format"), "3\n").unwrap();
        let error = Directory::open(base.path()).unwrap_err();
        assert!(matches!(error, OpenError::NewerFormat { found: 3, .. }), "{error}");
        assert_eq!(fs::read_to_string(base.path().join("format")).unwrap(), "3\n");
        fs::write(base.path().join("format"), "1\n").unwrap();
        drop(Directory::open(base.path()).unwrap());
        assert_eq!(fs::read_to_string(base.path().join("format")).unwrap(), "2\n", "it may have a journal from now on");
        fs::write(base.path().join("format"), "what").unwrap();
        assert!(matches!(Directory::open(base.path()).unwrap_err(), OpenError::Io { .. }));
    }
}
