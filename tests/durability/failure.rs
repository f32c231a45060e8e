//! Disks that fail while the store runs: it is dead from the first error on, and what it acknowledged before is there.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate::store::StoreAnswer;

use crate::child::{command, said, say};
use crate::harness::*;

/// The numbers of the messages that a child said were accepted, and what it said else.
fn outcome_of(command: &mut Command) -> (Vec<u64>, Vec<String>) {
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let lines: Vec<String> = said(&mut child).collect();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {lines:?}");
    let (accepted, other): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.starts_with("accepted "));
    (accepted.iter().map(|line| line["accepted ".len()..].parse().unwrap()).collect(), other)
}

fn assert_restores(state: &Path, accepted: &[u64], bytes: usize) {
    let restored = read(state);
    assert_eq!((restored.lost, restored.losses), (0, Vec::new()));
    for sequence in accepted {
        let found = restored.messages.binary_search_by_key(sequence, |(message, _)| message.sequence);
        let found = found.unwrap_or_else(|_| panic!("message {sequence} lost"));
        assert_eq!(restored.messages[found].0, message(*sequence, bytes));
    }
}

/// A child's part: a file that may not grow stands for a disk that is full.
pub fn fill(state: &Path) {
    // The default action would kill the process instead of failing the write.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false))).unwrap();
    let (opened, _) = open(state);
    let unlimited = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(6 << 20), ..unlimited }).unwrap();
    let mut sequence = 0;
    let reason = loop {
        match opened.try_commit(vec![accept(&message(sequence, 100_000))]) {
            StoreAnswer::Committed => say(&format!("accepted {sequence}")),
            StoreAnswer::CommitFailed { reason } => break reason,
            StoreAnswer::Loaded(_) => unreachable!("nothing was read"),
        }
        sequence += 1;
    };
    // The disk is well again; the store must not be.
    setrlimit(Resource::Fsize, unlimited).unwrap();
    let again = opened.try_commit(vec![accept(&message(sequence + 1, 10))]);
    assert_eq!(again, StoreAnswer::CommitFailed { reason: reason.clone() });
    assert_eq!(opened.store.stats().failure.as_ref(), Some(&reason));
    assert_eq!(opened.store.shutdown(), Err(reason.clone()));
    say(&format!("failed: {reason}"));
}

#[test]
fn a_full_disk_ends_the_store_and_keeps_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (accepted, other) = outcome_of(&mut command("full", directory.path(), &[]));
    assert!(accepted.len() > 10, "{accepted:?}");
    assert!(other[0].starts_with("failed: "), "{other:?}");
    assert_restores(directory.path(), &accepted, 100_000);
}

/// A child's part: 40 commits, whatever they answer.
pub fn count(state: &Path) {
    let (opened, _) = open(state);
    for sequence in 0..40 {
        match opened.try_commit(vec![accept(&message(sequence, 100))]) {
            StoreAnswer::Committed => say(&format!("accepted {sequence}")),
            StoreAnswer::CommitFailed { reason } => say(&format!("failed: {reason}")),
            StoreAnswer::Loaded(_) => unreachable!("nothing was read"),
        }
    }
    let _ = opened.store.shutdown();
}

/// `strace` with these options, its trace in `trace`; `None` where it may not trace.
fn strace<'a>(trace: &'a str, inject: &'a str) -> Option<Vec<&'a str>> {
    let mut wrapper = vec!["strace", "-f", "-qq", "-o", trace, "-e", "trace=fsync,fdatasync,write"];
    wrapper.extend(["-e", inject]);
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    works.is_ok_and(|status| status.success()).then_some(wrapper)
}

#[test]
fn an_error_of_fdatasync_ends_the_store_and_is_never_retried() {
    let name = "an_error_of_fdatasync_ends_the_store_and_is_never_retried";
    let directory = tempfile::tempdir().unwrap();
    let (state, trace) = (directory.path().join("state"), directory.path().join("trace"));
    // Counted per thread; two belong to the start.
    let Some(wrapper) = strace(trace.to_str().unwrap(), "inject=fdatasync:error=EIO:when=12") else {
        return skip(name, "strace is missing or may not trace");
    };
    let (accepted, failed) = outcome_of(&mut command("count", &state, &wrapper));
    assert!(!accepted.is_empty() && accepted.len() < 12, "{accepted:?}");
    assert_eq!(accepted.len() + failed.len(), 40, "one answer for each batch");
    assert!(failed.iter().all(|line| line.contains("os error 5") && line == &failed[0]), "{failed:?}");
    let trace = fs::read_to_string(trace).unwrap();
    let after = trace.split("EIO").nth(1).unwrap();
    assert!(!after.contains("fdatasync(") && !after.contains("fsync("), "synced again after the error:\n{after}");
    assert_restores(&state, &accepted, 100);
}

#[test]
fn every_answer_waits_for_an_fdatasync_of_the_data() {
    let name = "every_answer_waits_for_an_fdatasync_of_the_data";
    let directory = tempfile::tempdir().unwrap();
    let (state, trace) = (directory.path().join("state"), directory.path().join("trace"));
    let Some(mut wrapper) = strace(trace.to_str().unwrap(), "trace=fsync,fdatasync,write") else {
        return skip(name, "strace is missing or may not trace");
    };
    wrapper.push("-y");
    let (accepted, _) = outcome_of(&mut command("count", &state, &wrapper));
    assert_eq!(accepted.len(), 40);
    let trace = fs::read_to_string(trace).unwrap();
    let mut synced = 0;
    let mut seen = 0;
    for line in trace.lines() {
        if line.contains("fdatasync(") && line.contains("/journal-") {
            synced += 1;
        } else if line.contains("write(1") && line.contains("@accepted") {
            seen += 1;
            // One sync belongs to the start.
            assert!(synced > seen, "answer {seen} after {} syncs of data", synced - 1);
        }
    }
    assert_eq!(seen, 40);
    for what in ["/sled>", "/sled/conf>", "/state>"] {
        let first_answer = trace.find("@accepted").unwrap();
        let place = trace.find(what).unwrap_or_else(|| panic!("{what} never synced"));
        assert!(place < first_answer, "{what} synced only after the first answer");
    }
}

#[test]
fn a_directory_that_vanishes_ends_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (opened, _) = open(&state);
    opened.commit(vec![accept(&message(0, 10))]);
    fs::rename(&state, directory.path().join("elsewhere")).unwrap();
    let StoreAnswer::CommitFailed { reason } = opened.try_commit(vec![accept(&message(1, 10))]) else {
        panic!("committed into a file without a name");
    };
    assert!(reason.contains("while in use"), "{reason}");
}

#[test]
fn somebody_elses_directory_is_refused() {
    // Only a superuser can give a directory away.
    if !rustix::process::geteuid().is_root() {
        return skip("somebody_elses_directory_is_refused", "needs a superuser");
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
    let error = try_open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("belongs to user 12345"), "{error}");
    assert!(!directory.path().join("lock").exists());
}
