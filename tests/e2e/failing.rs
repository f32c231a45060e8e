//! Disks that fail under load: system calls of the real binary answer with errors, one of each life, and a file system turns
//! read-only. A start that cannot go on says why and ends; a relay that runs accepts nothing any more and is not ready; the
//! next start on a good disk knows everything that was told.
//!
//! Which call fails is counted per thread (`when=`), so a number hits each thread of the relay at its own call of that
//! number. `TIDEGATE_TEST_INJECTIONS=all` tries every number up to 60, else some of them.
//! Deliberately not here: that an error is never retried (`tests/durability/failure.rs`).

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::common::{skip, until};
use crate::disks::Disk;
use crate::load::{Progress, Run};
use crate::rig::Relay;

/// Numbers that are tried in ordinary runs: the starts' calls, and some later ones.
const SOME: [u32; 9] = [1, 2, 3, 5, 8, 13, 21, 34, 60];
const ALL: u32 = 60;
/// Messages to be accepted in a life that is spared …
const ENOUGH: usize = 100;
/// … and so many for each call before the one that fails.
const FOR_EACH_CALL: usize = 15;
/// Refusals after which a life has shown what it does.
const REFUSALS: usize = 30;

/// It did not start, and said why.
const REFUSED: &str = "refused to start";
/// It ran, and the store failed under load.
const FAILED: &str = "failed";
/// The call was not one of the store's, or never came.
const SPARED: &str = "was spared";

/// What became of the lives.
type Lives = BTreeMap<&'static str, usize>;

fn numbers(last: u32) -> Vec<u32> {
    match std::env::var("TIDEGATE_TEST_INJECTIONS").is_ok_and(|which| which == "all") {
        true => (1..=last).collect(),
        false => SOME.into_iter().filter(|number| *number <= last).collect(),
    }
}

/// Whether a program may be traced here; says so if not.
fn may_trace(test: &str) -> bool {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = works.is_ok_and(|status| status.success());
    if !works {
        skip(&format!("e2e::failing::{test}"), "strace is missing or may not trace");
    }
    works
}

/// One life with this call failing, then one without, for each number up to the last.
fn inject(test: &str, call: &str, fault: &str, last: u32) -> Lives {
    let mut lives = Lives::new();
    if !may_trace(test) {
        return lives;
    }
    let mut run = Run::new(test, 2);
    // Written anew now and then, which is where files are renamed.
    run.place.set("outbox.rotate_above", r#""4MiB""#);
    for number in numbers(last) {
        let injected = format!("inject={call}:{fault}:when={number}");
        let traced = format!("trace={call}");
        // `-D`: the relay is our child, not strace's.
        let wrapper = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", &traced, "-e", &injected];
        let became = match run.try_start(&wrapper) {
            Err((code, said)) => {
                assert!(code.is_some_and(|code| code != 0), "{injected}: exit code {code:?}: {said}");
                assert!(said.trim() != "", "{injected}: it ended without a word");
                REFUSED
            }
            Ok(relay) => live(&run, relay, &injected, ENOUGH.max(number as usize * FOR_EACH_CALL)),
        };
        *lives.entry(became).or_default() += 1;
        // On a good disk again: all that was told is asked for, and it goes on.
        let relay = run.start();
        run.load(relay, |relay, progress| {
            progress.wait_accepted(ENOUGH / 2);
            relay.kill();
            None
        });
    }
    println!("{call} {fault}: {lives:?}; {:?}", run.finish());
    lives
}

/// A life under load; gives what became of it.
fn live(run: &Run, relay: Relay, what: &str, enough: usize) -> &'static str {
    let mut became = SPARED;
    run.load(relay, |relay, progress| {
        became = wait_for_a_sign(&relay, progress, what, enough);
        if became == FAILED {
            assert_failed(run, &relay, what);
            // What leaves on the next connection leaves after the failure.
            let before = run.upstream.opened();
            run.cut(&relay);
            until("the next connection", || (run.upstream.opened() > before).then_some(()));
            relay.wait_state("live");
        }
        relay.kill();
        None
    });
    became
}

/// A relay whose store failed says so.
fn assert_failed(run: &Run, relay: &Relay, what: &str) {
    let ready = relay.tell("GET /readyz", &[], "");
    assert_eq!(ready.status, 503, "{what}: {}", ready.body);
    assert!(ready.body.contains("store_failed"), "{what}: {}", ready.body);
    run.scrape(relay);
}

fn wait_for_a_sign(relay: &Relay, progress: &Progress, what: &str, enough: usize) -> &'static str {
    until(&format!("{what}: messages to be accepted, or refused for ever"), || {
        assert!(relay.is_up(), "{what}: it ended under load");
        match (progress.failed() >= REFUSALS, progress.accepted() >= enough) {
            (true, _) => Some(FAILED),
            (false, true) => Some(SPARED),
            (false, false) => None,
        }
    })
}

/// Holds that a run was not too tame: something failed at the start, and something under load.
fn assert_both(lives: &Lives) {
    assert!(lives.is_empty() || (lives.contains_key(REFUSED) && lives.contains_key(FAILED)), "{lives:?}");
}

#[test]
fn writes_that_fail() {
    assert_both(&inject("writes_that_fail", "pwrite64", "error=EIO", ALL));
}

#[test]
fn writes_that_find_no_room() {
    assert_both(&inject("writes_that_find_no_room", "pwrite64", "error=ENOSPC", ALL));
}

#[test]
fn flushes_that_fail() {
    // sled's, which come behind the answers: perhaps none is due while it starts.
    let lives = inject("flushes_that_fail", "sync_file_range", "error=EIO", ALL);
    assert!(lives.is_empty() || lives.contains_key(FAILED), "{lives:?}");
}

#[test]
fn syncs_of_data_that_fail() {
    assert_both(&inject("syncs_of_data_that_fail", "fdatasync", "error=EIO", ALL));
}

#[test]
fn syncs_of_directories_that_fail() {
    inject("syncs_of_directories_that_fail", "fsync", "error=EIO", 12);
}

#[test]
fn files_that_cannot_be_opened() {
    inject("files_that_cannot_be_opened", "openat", "error=EIO", 50);
}

#[test]
fn files_that_cannot_be_renamed() {
    inject("files_that_cannot_be_renamed", "rename", "error=EIO", 3);
}

#[test]
fn files_that_cannot_be_cut_to_length() {
    inject("files_that_cannot_be_cut_to_length", "ftruncate", "error=ENOSPC", 3);
}

#[test]
fn directories_that_find_no_room() {
    inject("directories_that_find_no_room", "mkdir", "error=ENOSPC", 3);
}

#[test]
fn a_slow_disk_fails_nothing() {
    for call in ["pwrite64", "fdatasync"] {
        let lives = inject(&format!("a_slow_disk_fails_nothing-{call}"), call, "delay_enter=300000", 21);
        assert!(lives.keys().all(|became| *became == SPARED), "{lives:?}");
    }
}

#[test]
fn a_file_system_that_turns_read_only() {
    let test = "a_file_system_that_turns_read_only";
    let dir = tempfile::tempdir().unwrap();
    let disk = match Disk::new(dir.path().join("disk.ext4"), dir.path().join("at")) {
        Ok(disk) => disk,
        Err(why) => return skip(&format!("e2e::failing::{test}"), &format!("no disk of its own: {why}")),
    };
    let mut run = Run::new(test, 3);
    run.place.set("outbox.path", &format!("{:?}", disk.at.join("state")));
    for _ in 0..3 {
        let relay = run.start();
        run.load(relay, |relay, progress| {
            progress.wait_accepted(ENOUGH);
            disk.give_up();
            until("the publishers to be refused", || (progress.failed() >= REFUSALS).then_some(()));
            assert_failed(&run, &relay, test);
            relay.kill();
            None
        });
        let (code, said) = run.try_start(&[]).err().expect("no start on a disk that takes no write");
        assert!(code.is_some_and(|code| [73, 74].contains(&code)), "exit code {code:?}: {said}");
        assert!(said.contains("Read-only file system"), "{said}");
        disk.mount_again();
    }
    run.finish();
}
