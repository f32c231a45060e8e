//! A process of its own to kill: the test binary again, told by an environment variable what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tidegate::relay::record::Operation;
use tidegate::relay::rng::Rng;
use tidegate::store::{OpenError, StoreConfig};

use crate::harness::*;

/// Names the child's part; unset in ordinary runs.
pub const PART: &str = "TIDEGATE_TEST_CHILD";
/// The child's state directory.
pub const STATE: &str = "TIDEGATE_TEST_STATE";

/// The command of a child that plays `part` on `state`. `wrapper`: a program that runs it, with its arguments.
pub fn command(part: &str, state: &Path, wrapper: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.args(["--exact", "child::part", "--nocapture", "--test-threads=1"]);
    command.env(PART, part).env(STATE, state).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Not a test by itself: what a child process does.
#[test]
fn part() {
    let Ok(part) = std::env::var(PART) else { return };
    let state = std::env::var_os(STATE).unwrap();
    let state = Path::new(&state);
    match part.as_str() {
        "commit" => commit_for_ever(state),
        "churn" => churn_for_ever(state),
        "hold" => {
            let (_opened, _) = open(state);
            say("ready");
            // Until killed, or until whoever started it is gone.
            let _ = std::io::stdin().read(&mut [0]);
        }
        "full" => crate::failure::fill(state),
        "count" => crate::failure::count(state),
        other => panic!("no such part: {other}"),
    }
}

/// A line past the test runner's own output.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").and_then(|()| out.flush()).unwrap();
}

/// The lines that [`say`] said.
pub fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The runner's own `test child::part ...` may stand before the first.
    lines.map_while(Result::ok).filter_map(|line| line.split_once('@').map(|(_, said)| said.to_owned()))
}

/// Accepts batches of different sizes, settles every third message in the next batch; says what was answered.
fn commit_for_ever(state: &Path) {
    let (opened, restored) = open(state);
    assert_eq!(restored.losses, Vec::<String>::new());
    let mut next = restored.next_sequence;
    let mut rng = Rng::new(next);
    loop {
        let batch: Vec<_> = (next..next + 1 + rng.below(20)).map(|n| message(n, 300)).collect();
        opened.commit(batch.iter().map(accept).collect());
        for message in &batch {
            say(&format!("accepted {}", message.sequence));
        }
        let thirds: Vec<_> = batch.iter().filter(|message| message.sequence % 3 == 0).collect();
        opened.commit(thirds.iter().map(|m| settle(m, &outcome(m, m.sequence, 20))).collect());
        for message in &thirds {
            say(&format!("settled {}", message.sequence));
        }
        next += batch.len() as u64;
    }
}

#[test]
fn kill_dash_nine_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (mut accepted, mut settled) = (Vec::new(), Vec::new());
    for round in 0..12 {
        let mut child = command("commit", directory.path(), &[]).stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = said(&mut child);
        for line in lines.by_ref().take(50 + round * 37) {
            note(&line, &mut accepted, &mut settled);
        }
        child.kill().unwrap();
        // What was said before the kill counts too; the line it cut does not.
        for line in lines {
            note(&line, &mut accepted, &mut settled);
        }
        child.wait().unwrap();

        let restored = read(directory.path());
        assert_eq!((restored.lost, restored.losses), (0, Vec::new()), "round {round}");
        let held: Vec<u64> = restored.messages.iter().map(|(message, _)| message.sequence).collect();
        let ended: Vec<u64> = restored.outcomes.iter().map(|outcome| outcome.ended.0).collect();
        assert!(held.is_sorted());
        for sequence in &settled {
            assert!(ended.binary_search(sequence).is_ok(), "round {round}: outcome of {sequence} lost");
        }
        for sequence in &accepted {
            let there = held.binary_search(sequence).is_ok() || ended.binary_search(sequence).is_ok();
            assert!(there, "round {round}: message {sequence} lost");
        }
        for (message_, _) in &restored.messages {
            assert_eq!(**message_, *message(message_.sequence, 300));
        }
    }
    assert!(accepted.len() > 600 && settled.len() > 100, "{} {}", accepted.len(), settled.len());
}

fn note(line: &str, accepted: &mut Vec<u64>, settled: &mut Vec<u64>) {
    let Some((verb, number)) = line.split_once(' ') else { return };
    let Ok(number) = number.parse() else { return };
    match verb {
        "accepted" => accepted.push(number),
        "settled" | "rotated" => settled.push(number),
        _ => {}
    }
}

/// Messages come and are forgotten, so that the data is written anew all the time; one of ten stays.
fn churn_for_ever(state: &Path) {
    let small = StoreConfig { rotate_above: 1, ..StoreConfig::default() };
    let (opened, restored) = try_open_with(state, small).unwrap();
    assert_eq!(restored.losses, Vec::<String>::new());
    let (mut next, mut rotations) = (restored.next_sequence.next_multiple_of(10), 0);
    loop {
        let batch: Vec<_> = (next..next + 10).map(|n| message(n, if n == next { 300 } else { 100_000 })).collect();
        opened.commit(batch.iter().map(accept).collect());
        say(&format!("accepted {next}"));
        let ends: Vec<_> = batch[1..].iter().map(|m| settle(m, &outcome(m, m.sequence, 20))).collect();
        opened.commit(ends);
        opened.commit(batch[1..].iter().map(|m| Operation::Forget { id: m.id }).collect());
        next += 10;
        let now = opened.store.stats().rotations;
        for _ in rotations..now {
            say("rotated 1");
        }
        rotations = now;
    }
}

#[test]
fn kill_dash_nine_in_each_step_of_writing_the_data_anew_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut accepted, mut rotated, mut cut) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
    for round in 0..12 {
        let mut child = command("churn", directory.path(), &[]).stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = said(&mut child);
        let copy = directory.path().join("sled.rebuilt");
        // Half of them while a copy grows or takes its place, half some time after one did.
        if round % 2 == 0 {
            for line in lines.by_ref().take(round) {
                note(&line, &mut accepted, &mut rotated);
            }
            until(|| copy.exists());
        } else {
            let before = rotated.len();
            for line in lines.by_ref() {
                note(&line, &mut accepted, &mut rotated);
                if rotated.len() > before {
                    break;
                }
            }
        }
        child.kill().unwrap();
        for line in lines {
            note(&line, &mut accepted, &mut rotated);
        }
        child.wait().unwrap();
        let found = ["sled", "sled.rebuilt", "sled.old"].map(|name| directory.path().join(name).exists());
        cut.insert(found);
        let restored = read(directory.path());
        assert_eq!((restored.lost, restored.losses), (0, Vec::new()), "round {round}");
        let held: Vec<u64> = restored.messages.iter().map(|(message, _)| message.sequence).collect();
        for sequence in &accepted {
            assert!(held.binary_search(sequence).is_ok(), "round {round}: message {sequence} lost");
        }
        for (message_, _) in &restored.messages {
            let bytes = if message_.sequence % 10 == 0 { 300 } else { 100_000 };
            assert_eq!(**message_, *message(message_.sequence, bytes));
        }
        assert!(!copy.exists() && !directory.path().join("sled.old").exists());
    }
    assert!(rotated.len() >= 6 && cut.len() > 1, "{} rotations, cut at {cut:?}", rotated.len());
}

/// Waits until it is so.
fn until(so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !so() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "never came about");
        std::thread::yield_now();
    }
}

#[test]
fn another_process_is_named_and_its_death_frees_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = command("hold", directory.path(), &[]).stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(said(&mut child).next().as_deref(), Some("ready"));
    let error = try_open(directory.path()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == child.id()), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", child.id())), "{error}");
    assert_eq!(error.exit_code(), 73);
    child.kill().unwrap();
    child.wait().unwrap();
    read(directory.path());
}
