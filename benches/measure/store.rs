//! The store by itself: threads that publish, one thread that stands for the relay.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tidegate::protocol::request::ChannelRequest;
use tidegate::relay::outbox::{Lane, OnUnknown};
use tidegate::relay::record::{MessageId, Operation, Restored, StoredMessage};
use tidegate::relay::time::Wall;
use tidegate::store::{Store, StoreAnswer, StoreConfig};

use super::{Figure, PAYLOAD};

/// The relay's limit of a batch.
pub const BATCH: usize = 1_024;

/// A message to accept and where its publisher waits.
type Publish = (Arc<StoredMessage>, Sender<()>);

/// `publishers` threads, each publishing again as soon as its message is durable.
pub fn accepts(directory: &Path, publishers: usize, time: Duration) -> Figure {
    let path = directory.join("state");
    let (store, answers, _) = open(&path);
    let (publish, published) = channel();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let (waits, took, store) = std::thread::scope(|scope| {
        let began = Instant::now();
        let threads: Vec<_> = (0..publishers)
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
    Figure::new(waits.len(), took, waits)
}

/// One batch of `publishers` messages after another: what the store can do where handing over costs nothing.
pub fn batches(directory: &Path, publishers: usize, time: Duration) -> Figure {
    let path = directory.join("state");
    let (store, answers, _) = open(&path);
    let (mut waits, mut next) = (Vec::new(), 0);
    let began = Instant::now();
    while began.elapsed() < time {
        let operations =
            (next..next + publishers as u64).map(|sequence| Operation::Accept(message(sequence))).collect();
        next += publishers as u64;
        let at = Instant::now();
        commit(&store, &answers, operations);
        waits.push(at.elapsed());
    }
    let took = began.elapsed();
    store.shutdown().unwrap();
    std::fs::remove_dir_all(path).unwrap();
    Figure::new(next as usize, took, waits)
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

/// Commits what is there while it can; answers each publisher.
fn relay(store: &Store, answers: &Receiver<StoreAnswer>, published: &Receiver<Publish>) {
    while let Ok(first) = published.recv() {
        let mut waiting = Vec::with_capacity(BATCH);
        let mut operations = Vec::with_capacity(BATCH);
        for (message, publisher) in std::iter::once(first).chain(published.try_iter()).take(BATCH) {
            operations.push(Operation::Accept(message));
            waiting.push(publisher);
        }
        store.commit(operations).unwrap();
        assert_eq!(answers.recv().unwrap(), StoreAnswer::Committed);
        for publisher in waiting {
            publisher.send(()).unwrap();
        }
    }
}

/// Commits a batch and waits.
pub fn commit(store: &Store, answers: &Receiver<StoreAnswer>, operations: Vec<Operation>) {
    store.commit(operations).unwrap();
    assert_eq!(answers.recv().unwrap(), StoreAnswer::Committed);
}

/// Opens a store and what its answers come through.
pub fn open(directory: &Path) -> (Store, Receiver<StoreAnswer>, Restored) {
    let (answer, answers) = channel();
    let opened = Store::open(directory, StoreConfig::default(), move |said| drop(answer.send(said)));
    let (store, restored) = opened.unwrap();
    (store, answers, restored)
}

/// A message as an app publishes it, with an order key.
pub fn message(sequence: u64) -> Arc<StoredMessage> {
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
