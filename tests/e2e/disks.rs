//! File systems of one's own: an ext4 in a file, a small one in memory. Both need a superuser.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size of an ext4.
const SIZE: u64 = 256 << 20;
/// What is copied at once of it.
const BLOCK: usize = 64 << 10;

/// A file with an ext4 in it, mounted; unmounted at the end.
pub struct Disk {
    pub image: PathBuf,
    pub at: PathBuf,
}

impl Disk {
    /// A new one in this file, mounted there, or why that cannot be.
    pub fn new(image: PathBuf, at: PathBuf) -> Result<Disk, String> {
        std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).map_err(|error| error.to_string())?;
        command("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
        Disk::mount(image, at)
    }

    /// The one in this file, mounted there.
    pub fn mount(image: PathBuf, at: PathBuf) -> Result<Disk, String> {
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        mount(&image, &at)?;
        Ok(Disk { image, at })
    }

    /// The disk as it is now, in another file; read until two readings agree, so that no write passed through them.
    pub fn copy(&self, to: &Path) {
        let read = || std::fs::read(&self.image).unwrap();
        let mut last = read();
        loop {
            let next = read();
            if next == last {
                break;
            }
            last = next;
        }
        let file = std::fs::File::create(to).unwrap();
        file.set_len(SIZE).unwrap();
        // Most of it was never written.
        for (at, block) in
            (0..).step_by(BLOCK).zip(last.chunks(BLOCK)).filter(|(_, block)| block.iter().any(|b| *b != 0))
        {
            file.write_all_at(block, at).unwrap();
        }
    }

    /// Turns read-only at once, as after an error of the device, whoever writes.
    pub fn give_up(&self) {
        command("mount", &["-o", "remount,abort", &self.at.to_string_lossy()]).unwrap();
    }

    /// Mounts it anew; nobody may use it.
    pub fn mount_again(&self) {
        command("umount", &[&self.at.to_string_lossy()]).unwrap();
        mount(&self.image, &self.at).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command("umount", &["-l", &self.at.to_string_lossy()]);
    }
}

fn mount(image: &Path, at: &Path) -> Result<(), String> {
    // `commit`: the file system brings nothing to the disk by itself that nobody asked for.
    command("mount", &["-o", "loop,commit=300", &image.to_string_lossy(), &at.to_string_lossy()])
}

/// A small file system in memory, while it lives.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one there, or says why that cannot be.
    pub fn mount(at: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir(at).unwrap();
        let options = format!("size={size},mode=700");
        command("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &at.to_string_lossy()])?;
        Ok(SmallDisk(at.to_owned()))
    }

    /// Takes all of its room but `left` bytes.
    pub fn fill(&self, left: u64) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        let block = vec![7; 4096];
        loop {
            let room = rustix::fs::statvfs(&self.0).unwrap();
            if room.f_bavail * room.f_frsize <= left || file.write_all(&block).is_err() {
                return;
            }
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = command("umount", &["-l", &self.0.to_string_lossy()]);
    }
}

fn command(name: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
