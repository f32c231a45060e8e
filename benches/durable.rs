//! Durable accepts per second: the store under concurrent producers, beside the raw disk in the same run.
//!
//! `cargo bench --bench durable [-- SECONDS [ROUNDS]]`, on the disk of the system's directory for temporary files
//! (`TMPDIR`). Producers are threads with one message out each; one thread stands for the relay: it commits what came while
//! the batch before was out. The raw disk appends and calls fdatasync, alone (4 KiB) and with a batch of records per call.
//!
//! `-- fill DIR COUNT [all]` leaves so many waiting messages in a store (`all`: each with both keys and a time to live);
//! `-- start DIR` opens it as a start does, and tells time and memory; `-- churn DIR SECONDS` lets messages pass through a
//! queue of 10,000 and tells what the disk holds.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tidegate::config::Config;
use tidegate::protocol::request::ChannelRequest;
use tidegate::relay::outbox::{Confirm, Lane, OnUnknown, Outbox, Outcome, OutcomeState};
use tidegate::relay::record::{MessageId, Operation, Restored, StoredMessage, StoredOutcome};
use tidegate::relay::stats::OutboxStats;
use tidegate::relay::time::{Mono, Time, Wall};
use tidegate::store::{Store, StoreAnswer, StoreConfig};

/// Bytes of a message's payload.
const PAYLOAD: usize = 300;
/// About what the store writes for it: payload, the rest of the message, frame, key.
const RECORD: usize = 480;
const PRODUCERS: [usize; 4] = [1, 16, 64, 256];
/// The relay's limit of a batch.
const BATCH: usize = 1_024;

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
    let rounds = numbers.get(1).copied().unwrap_or(3);
    let mut lines: Vec<(String, Vec<Figure>)> = Vec::new();
    for _ in 0..rounds {
        let mut row = 0;
        let mut note = |name: String, figure: Figure| {
            if lines.len() == row {
                lines.push((name, Vec::new()));
            }
            lines[row].1.push(figure);
            row += 1;
        };
        let directory = tempfile::tempdir().unwrap();
        note("raw 4 KiB".into(), raw(directory.path(), 4096, 1, time));
        for producers in PRODUCERS {
            note(format!("raw batch of {producers}"), raw(directory.path(), RECORD, producers, time));
            note(format!("store, {producers} producers"), accepts(directory.path(), producers, time));
        }
    }
    println!("{:<24} {:>12} {:>10} {:>10} {:>10}", "", "records/s", "p50 ms", "p99 ms", "to raw");
    let mut raw_rate = 0.0;
    for (name, figures) in &mut lines {
        figures.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let median = &figures[figures.len() / 2];
        let ratio = if name.starts_with("raw") {
            raw_rate = median.rate;
            String::new()
        } else {
            format!("{:.2}", median.rate / raw_rate)
        };
        println!("{name:<24} {:>12.0} {:>10.3} {:>10.3} {ratio:>10}", median.rate, median.p50, median.p99);
    }
    restart(100_000);
}

/// One measurement.
struct Figure {
    /// Records made durable per second.
    rate: f64,
    /// Milliseconds until a record, or a raw batch, was durable.
    p50: f64,
    p99: f64,
}

fn figure(records: usize, took: Duration, mut waits: Vec<Duration>) -> Figure {
    waits.sort();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Figure { rate: records as f64 / took.as_secs_f64(), p50: at(50), p99: at(99) }
}

/// Appends `batch` records of `size` bytes per fdatasync.
fn raw(directory: &Path, size: usize, batch: usize, time: Duration) -> Figure {
    let path = directory.join("raw");
    let mut file = File::create(&path).unwrap();
    let bytes = vec![b'x'; size * batch];
    let mut waits = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let at = Instant::now();
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        waits.push(at.elapsed());
    }
    let figure = figure(waits.len() * batch, began.elapsed(), waits);
    std::fs::remove_file(path).unwrap();
    figure
}

/// A message to accept and where its producer waits.
type Publish = (Arc<StoredMessage>, Sender<()>);

/// `producers` threads, each publishing again as soon as its message is durable.
fn accepts(directory: &Path, producers: usize, time: Duration) -> Figure {
    let path = directory.join("state");
    let (answer, answers) = channel();
    let opened = Store::open(&path, StoreConfig::default(), move |said| answer.send(said).unwrap());
    let (store, _) = opened.unwrap();
    let (publish, published) = channel();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let (waits, took, store) = std::thread::scope(|scope| {
        let began = Instant::now();
        let threads: Vec<_> = (0..producers)
            .map(|_| {
                let (publish, next, stop) = (publish.clone(), &next, &stop);
                scope.spawn(move || produce(publish, next, stop))
            })
            .collect();
        drop(publish);
        let relay = scope.spawn(move || {
            relay(&store, &answers, &published);
            store
        });
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        let store = relay.join().unwrap();
        let took = began.elapsed();
        (threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>(), took, store)
    });
    store.shutdown().unwrap();
    std::fs::remove_dir_all(path).unwrap();
    figure(waits.len(), took, waits)
}

fn produce(publish: Sender<Publish>, next: &AtomicU64, stop: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    let (durable, wait) = channel();
    while !stop.load(Relaxed) {
        let began = Instant::now();
        publish.send((message(next.fetch_add(1, Relaxed)), durable.clone())).unwrap();
        wait.recv().unwrap();
        waits.push(began.elapsed());
    }
    waits
}

/// Commits what is there while it can; answers each producer.
fn relay(store: &Store, answers: &Receiver<StoreAnswer>, published: &Receiver<Publish>) {
    while let Ok(first) = published.recv() {
        let mut waiting = Vec::with_capacity(BATCH);
        let mut operations = Vec::with_capacity(BATCH);
        for (message, producer) in std::iter::once(first).chain(published.try_iter()).take(BATCH) {
            operations.push(Operation::Accept(message));
            waiting.push(producer);
        }
        store.commit(operations).unwrap();
        assert_eq!(answers.recv().unwrap(), StoreAnswer::Committed);
        for producer in waiting {
            producer.send(()).unwrap();
        }
    }
}

/// Commits a batch and waits.
fn commit(store: &Store, answers: &Receiver<StoreAnswer>, operations: Vec<Operation>) {
    store.commit(operations).unwrap();
    assert_eq!(answers.recv().unwrap(), StoreAnswer::Committed);
}

fn open(directory: &Path) -> (Store, Receiver<StoreAnswer>, Restored) {
    let (answer, answers) = channel();
    let opened = Store::open(directory, StoreConfig::default(), move |said| drop(answer.send(said)));
    let (store, restored) = opened.unwrap();
    (store, answers, restored)
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

fn message(sequence: u64) -> Arc<StoredMessage> {
    Arc::new(StoredMessage {
        id: MessageId(u128::from(sequence) << 64),
        sequence,
        accepted: Wall(1),
        principal: "local".into(),
        channel: ChannelRequest { name: "orders".into(), params: None },
        key: None,
        kind: None,
        data: "x".repeat(PAYLOAD).into(),
        idempotency_key: Some(format!("order-{sequence}").into()),
        body_hash: [0; 32],
        order_key: Some("account-9".into()),
        lane: Lane::Medium,
        expires: None,
        on_unknown: OnUnknown::Retry,
        redrive_of: None,
        optimistic: None,
    })
}
