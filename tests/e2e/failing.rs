//! Disks that fail under load: system calls of the real binary answer with errors, one of each life, and a file system turns
//! read-only. A start that cannot go on says why and ends; a relay that runs accepts nothing any more and is not ready; the
//! next start on a good disk knows everything that was told.
//!
//! Which call fails is counted per thread (`when=`), so a number hits each thread of the relay at its own call of that
//! number. `TIDEGATE_TEST_INJECTIONS=all` tries every number up to 60, else some of them.
//! Deliberately not here: that an error is never retried (`tests/durability/failure.rs`).

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::common::until;
use crate::load::{Progress, Run};
use crate::rig::Relay;

/// Numbers that are tried in ordinary runs: the starts' calls, and some later ones.
const SOME: [u32; 10] = [1, 2, 3, 5, 8, 13, 21, 30, 45, 60];
const ALL: u32 = 60;
/// Messages to be accepted in a life that is spared.
const ENOUGH: usize = 100;
/// Refusals after which a life has shown what it does.
const REFUSALS: usize = 30;

/// What became of the lives.
type Lives = BTreeMap<&'static str, usize>;

fn numbers() -> Vec<u32> {
    match std::env::var("TIDEGATE_TEST_INJECTIONS").is_ok_and(|which| which == "all") {
        true => (1..=ALL).collect(),
        false => SOME.to_vec(),
    }
}

/// Whether a program may be traced here; says so if not.
fn may_trace(test: &str) -> bool {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = works.is_ok_and(|status| status.success());
    if !works {
        crate::common::skip(&format!("e2e::failing::{test}"), "strace is missing or may not trace");
    }
    works
}

/// One life with this call failing, then one without, for each number.
fn inject(test: &str, call: &str, fault: &str) -> Lives {
    let mut lives = Lives::new();
    if !may_trace(test) {
        return lives;
    }
    let run = Run::new(test, 2);
    for number in numbers() {
        let injected = format!("inject={call}:{fault}:when={number}");
        let traced = format!("trace={call}");
        // `-D`: the relay is our child, not strace's.
        let wrapper =
            ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", &traced, "-e", &injected];
        let became = match run.try_start(&wrapper) {
            Err((code, said)) => {
                assert!(code.is_some_and(|code| code != 0), "{injected}: exit code {code:?}: {said}");
                assert!(said.trim() != "", "{injected}: it ended without a word");
                "refused to start"
            }
            Ok(relay) => live(&run, relay, &injected),
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
    println!("{call} {fault}: {lives:?}; {:?}", run.finish(run.start()));
    lives
}

/// A life under load; gives what became of it.
fn live(run: &Run, relay: Relay, what: &str) -> &'static str {
    let mut became = "was spared";
    run.load(relay, |relay, progress| {
        became = wait_for_a_sign(&relay, progress, what);
        if became == "failed" {
            let ready = relay.tell("GET /readyz", &[], "");
            assert_eq!(ready.status, 503, "{what}: {}", ready.body);
            assert!(ready.body.contains("store_failed"), "{what}: {}", ready.body);
            run.scrape(&relay);
        }
        relay.kill();
        None
    });
    became
}

fn wait_for_a_sign(relay: &Relay, progress: &Progress, what: &str) -> &'static str {
    until(&format!("{what}: messages to be accepted, or refused for ever"), || {
        assert!(relay.is_up(), "{what}: it ended under load");
        match (progress.failed() >= REFUSALS, progress.accepted() >= ENOUGH) {
            (true, _) => Some("failed"),
            (false, true) => Some("was spared"),
            (false, false) => None,
        }
    })
}

#[test]
fn writes_that_fail() {
    inject("writes_that_fail", "pwrite64", "error=EIO");
}
