//! Durable accepts per second: the store under concurrent publishers, beside the raw disk in the same run.
//!
//! `cargo bench --bench durable [-- SECONDS [ROUNDS]]`, on the disk of the system's directory for temporary files
//! (`TMPDIR`). Publishers are threads with one message out each; one thread stands for the relay: it commits what came while
//! the batch before was out. `batches` are the same without the threads: one batch after another. The raw disk appends and
//! calls fdatasync, alone (4 KiB) and with a batch of records per call.
//!
//! `-- fill DIR COUNT [all]` leaves so many waiting messages in a store (`all`: each with both keys and a time to live);
//! `-- start DIR` opens it as a start does, and tells time and memory; `-- churn DIR SECONDS` lets messages pass through a
//! queue of 10,000 and tells what the disk holds.

mod measure;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::config::Config;
use tidegate::relay::outbox::{Confirm, Outbox, Outcome, OutcomeState};
use tidegate::relay::record::{Operation, StoredMessage, StoredOutcome};
use tidegate::relay::stats::OutboxStats;
use tidegate::relay::time::{Mono, Time, Wall};

use measure::store::{self, BATCH, commit, message, open};
use measure::{PUBLISHERS, RECORD, Table, raw};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["fill", directory, count] => return fill(Path::new(directory), count.parse().unwrap(), false),
        ["fill", directory, count, "all"] => return fill(Path::new(directory), count.parse().unwrap(), true),
        ["start", directory] => return start(Path::new(directory)),
        ["churn", directory, seconds] => return churn(Path::new(directory), seconds.parse().unwrap()),
        _ => {}
    }
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let time = Duration::from_secs(numbers.first().copied().unwrap_or(2));
    let mut table = Table::default();
    for _ in 0..numbers.get(1).copied().unwrap_or(3) {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        table.note("raw 4 KiB", raw(directory, 4096, 1, time));
        for publishers in PUBLISHERS {
            table.note(&format!("raw batch of {publishers}"), raw(directory, RECORD, publishers, time));
            table.note(&format!("store, batches of {publishers}"), store::batches(directory, publishers, time));
            table.note(&format!("store, {publishers} publishers"), store::accepts(directory, publishers, time));
        }
    }
    table.print();
    restart(100_000);
}

fn fill(directory: &Path, messages: u64, all: bool) {
    let (store, answers, restored) = open(directory);
    let next = restored.next_sequence;
    for first in (next..next + messages).step_by(BATCH) {
        let batch = first..(next + messages).min(first + BATCH as u64);
        let made = batch.map(|n| {
            let key: Option<Box<str>> = all.then(|| format!("key-{n}").into());
            let ttl = all.then_some(Wall(u64::MAX / 2 + n));
            let plain = Arc::unwrap_or_clone(message(n));
            Arc::new(StoredMessage { idempotency_key: key.clone(), order_key: key, expires: ttl, ..plain })
        });
        commit(&store, &answers, made.map(Operation::Accept).collect());
    }
    println!("{messages} messages, {} bytes on disk", store.stats().disk_bytes);
    store.shutdown().unwrap();
}

fn start(directory: &Path) {
    let began = Instant::now();
    let (store, _, restored) = open(directory);
    let opened = began.elapsed();
    let now = Time { mono: Mono(1), wall: Wall(1_795_231_888_000_000_000) };
    let mut stats = OutboxStats::default();
    let outbox = Outbox::new(&Config::default().outbox, restored, now, &mut stats);
    let (whole, status) = (began.elapsed(), std::fs::read_to_string("/proc/self/status").unwrap());
    println!("{} messages: store {opened:.0?}, with the outbox {whole:.0?}", stats.restored);
    status
        .lines()
        .filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"))
        .for_each(|line| println!("{line}"));
    drop(outbox);
    store.shutdown().unwrap();
}

/// Messages come and end, 10,000 wait at most; 1,000 outcomes are kept.
fn churn(directory: &Path, seconds: u64) {
    const WAITING: u64 = 10_000;
    let (store, answers, restored) = open(directory);
    let (began, mut next, mut most) = (Instant::now(), restored.next_sequence, 0);
    let (mut waiting, mut kept) = (std::collections::VecDeque::new(), std::collections::VecDeque::new());
    while began.elapsed() < Duration::from_secs(seconds) {
        let mut operations = Vec::new();
        for _ in 0..BATCH / 4 {
            let new = message(next);
            next += 1;
            waiting.push_back(Arc::clone(&new));
            operations.push(Operation::Accept(new));
        }
        while waiting.len() as u64 > WAITING {
            let Some(message) = waiting.pop_front() else { break };
            operations.push(Operation::Settle { sequence: message.sequence, outcome: outcome(&message) });
            kept.push_back(message.id);
        }
        while kept.len() > 1_000 {
            operations.extend(kept.pop_front().map(|id| Operation::Forget { id }));
        }
        commit(&store, &answers, operations);
        most = most.max(store.stats().disk_bytes);
    }
    let now = store.stats().disk_bytes;
    println!("{} messages in {seconds} s: {now} bytes on disk, {most} at most", next - restored.next_sequence);
    store.shutdown().unwrap();
}

fn outcome(of: &StoredMessage) -> Arc<StoredOutcome> {
    let state = OutcomeState::Delivered;
    let outcome = Outcome { state, reason: "".into(), confirmed_by: Some(Confirm::Ack), reply: None };
    Arc::new(StoredOutcome {
        id: of.id,
        ended: of.accepted,
        principal: of.principal.clone(),
        outcome,
        attempts: 1,
        idempotency_key: None,
        body_hash: of.body_hash,
        letter: None,
    })
}

/// How long a start takes with so many messages waiting.
fn restart(messages: u64) {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path(), messages, false);
    start(directory.path());
}
