//! Data that is written anew because its file is much larger than what is in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::relay::record::{Operation, Stored, StoredMessage, Wanted};
use tidegate::store::StoreConfig;

use crate::harness::*;

/// The first 5,000 are small, and of the others each hundredth.
fn original(sequence: u64) -> Arc<StoredMessage> {
    message(sequence, if sequence < 5_000 || sequence.is_multiple_of(100) { 20 } else { 20_000 })
}

/// Messages of 20 kB come and are forgotten until the data was written anew so often; every hundredth stays.
fn churn(opened: &Opened, kept: &mut Vec<u64>, next: &mut u64, rotations: u64) {
    let began = Instant::now();
    while opened.store.stats().rotations < rotations {
        assert!(began.elapsed() < Duration::from_secs(120), "never written anew: {:?}", opened.store.stats());
        let batch: Vec<_> = (*next..*next + 100).map(original).collect();
        opened.commit(batch.iter().map(accept).collect());
        opened.commit(batch[1..].iter().map(|m| settle(m, &outcome(m, m.sequence, 20))).collect());
        opened.commit(batch[1..].iter().map(|m| Operation::Forget { id: m.id }).collect());
        kept.push(*next);
        // What was copied long ago ends, too.
        let old = original(kept.remove(0));
        opened.commit(vec![settle(&old, &outcome(&old, 1, 20)), Operation::Forget { id: old.id }]);
        *next += 100;
    }
}

#[test]
fn a_file_much_larger_than_what_is_in_it_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let small = StoreConfig { rotate_above: 8 << 20, ..StoreConfig::default() };
    let (mut kept, mut next) = (Vec::new(), 0);
    for _ in 0..3 {
        let (opened, restored) = try_open_with(directory.path(), small).unwrap();
        if next == 0 {
            // Many parts to copy, so that there are commits between them.
            for first in (0..5_000).step_by(500) {
                opened.commit((first..first + 500).map(|n| accept(&message(n, 20))).collect());
            }
            (kept, next) = ((0..5_000).collect(), 5_000);
            churn(&opened, &mut kept, &mut next, 1);
            opened.close();
            continue;
        }
        assert_eq!((restored.lost, restored.losses, restored.next_sequence), (0, Vec::new(), next));
        let held: Vec<u64> = restored.messages.iter().map(|(message, _)| message.sequence).collect();
        assert_eq!(held, kept);
        churn(&opened, &mut kept, &mut next, 2);
        // Read and written as before.
        let ends = [kept[0], kept[4_999]];
        let read = opened.load(ends.map(Wanted::Message).to_vec());
        assert_eq!(read, ends.map(|sequence| Stored::Message(original(sequence))));
        opened.close();
    }
    let restored = read(directory.path());
    assert_eq!((restored.lost, restored.losses), (0, Vec::new()));
    assert!(restored.messages.iter().map(|(message, _)| message.sequence).eq(kept.iter().copied()));
    for (held, _) in &restored.messages {
        assert_eq!(**held, *original(held.sequence));
    }
}

#[test]
fn what_comes_and_goes_does_not_let_the_journal_grow() {
    let directory = tempfile::tempdir().unwrap();
    let small = StoreConfig { rotate_above: 4 << 20, ..StoreConfig::default() };
    let (opened, _) = try_open_with(directory.path(), small).unwrap();
    let mut most = 0;
    for first in (0..1_000).step_by(10) {
        let batch: Vec<_> = (first..first + 10).map(|n| message(n, 20_000)).collect();
        opened.commit(batch.iter().map(accept).collect());
        opened.commit(batch.iter().map(|m| settle(m, &outcome(m, m.sequence, 20))).collect());
        opened.commit(batch.iter().map(|m| Operation::Forget { id: m.id }).collect());
        // One may be removed while they are listed.
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        most = most.max(journals(directory.path()).iter().map(length).sum());
    }
    // A sixteenth of 4 MiB for sled, the file four times as large, twice that while sled is busy, and there are two.
    assert!(most <= 5 << 20, "20 MB in journals of {most} bytes");
    opened.close();
}

fn wait(opened: &Opened, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", opened.store.stats());
        std::thread::yield_now();
    }
}

#[test]
fn data_that_is_needed_is_not_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let small = StoreConfig { rotate_above: 1 << 20, ..StoreConfig::default() };
    let (opened, _) = try_open_with(directory.path(), small).unwrap();
    for first in (0..400).step_by(100) {
        opened.commit((first..first + 100).map(|n| accept(&message(n, 20_000))).collect());
    }
    let measured = opened.store.progress() + 4;
    while opened.store.progress() < measured {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(opened.store.stats().disk_bytes > 4 << 20);
    assert_eq!(opened.store.stats().rotations, 0);
    opened.close();
}

#[test]
fn a_store_that_takes_all_that_it_may_gives_back_what_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig { max_disk: 64 << 20, ..StoreConfig::default() };
    let (opened, _) = try_open_with(directory.path(), config).unwrap();
    // 80 MB of which a third stays: too much of it is needed to write it anew for any other reason.
    let all: Vec<_> = (5_000..9_000).map(original).collect();
    for part in all.chunks(50) {
        opened.commit(part.iter().map(accept).collect());
    }
    let (gone, kept) = all.split_at(2_600);
    let file = || std::fs::metadata(directory.path().join("sled/db")).unwrap().len();
    wait(&opened, || journals(directory.path()).len() == 1);
    let full = file();
    for part in gone.chunks(50) {
        opened.commit(part.iter().map(|m| settle(m, &outcome(m, 1, 20))).collect());
    }
    // The first time perhaps before all of that was known to sled.
    wait(&opened, || opened.store.stats().rotations > 0 && file() < full);
    opened.close();
    assert_eq!(read(directory.path()).messages.len(), kept.len());
}
