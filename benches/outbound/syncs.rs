//! Whether a program waits for the disk before it answers: strace counts its fsyncs beside the answers that it gave.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::children::{Running, find, until};
use crate::swarm::{Service, publish_all};

/// One publisher for a second under strace: syncs and answers. `None`: strace cannot be used here.
pub fn count(directory: &Path, process: &Running, service: &dyn Service) -> Option<(u64, u64)> {
    let (counts, log) = (directory.join("syncs"), directory.join("strace.log"));
    let _ = std::fs::remove_file(&log);
    let mut strace = Command::new(find("strace")?);
    strace.args(["-f", "-c", "-U", "name,calls", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o"]);
    strace.arg(&counts).args(["-p", &process.id().to_string()]);
    let mut tracer = Running::start(strace, &log);
    let attached = until("strace", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("attached") { Some(true) } else { tracer.has_ended().then_some(false) }
    });
    if !attached {
        return None;
    }
    let answers = publish_all(service, 1, Duration::from_secs(1)).1;
    tracer.signal(Signal::INT);
    tracer.end();
    let text = std::fs::read_to_string(&counts).ok()?;
    let syncs = text.lines().filter_map(|line| {
        let (name, calls) = line.trim().split_once(' ')?;
        ["fsync", "fdatasync", "msync"].contains(&name).then(|| calls.trim().parse::<u64>().ok())?
    });
    Some((syncs.sum(), answers))
}
