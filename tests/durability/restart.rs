//! An ordinary restart restores everything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use tidegate::relay::record::{Failure, Letter, MessageId, Operation, Stored, StoredMessage, StoredOutcome, Wanted};
use tidegate::relay::time::Wall;
use tidegate::store::{OpenError, StoreConfig};

use crate::harness::*;

#[test]
fn order_attempts_and_outcomes_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (opened, restored) = open(directory.path());
    assert_eq!((restored.messages.len(), restored.next_sequence, restored.lost), (0, 0, 0));
    assert_eq!(restored.losses, Vec::<String>::new());
    let all: Vec<_> = (0..300).map(|n| message(n, 100)).collect();
    opened.commit(all.iter().map(accept).collect());
    let gone = outcome(&all[5], 50, 10);
    let kept = [outcome(&all[0], 90, 10), outcome(&all[299], 80, 10)];
    opened.commit(vec![
        Operation::Attempt { sequence: 7, attempts: 1 },
        Operation::Attempt { sequence: 7, attempts: 2 },
        settle(&all[5], &gone),
        Operation::Attempt { sequence: 299, attempts: 4 },
        settle(&all[0], &kept[0]),
    ]);
    opened.commit(vec![settle(&all[299], &kept[1]), Operation::Forget { id: gone.id }]);
    opened.close();

    for _ in 0..2 {
        let restored = read(directory.path());
        assert_eq!(restored.losses, Vec::<String>::new());
        assert_eq!(restored.lost, 0);
        assert_eq!(restored.next_sequence, 300);
        assert_eq!(restored.outcomes, [kept[1].clone(), kept[0].clone()], "oldest first");
        let expected: Vec<_> =
            (1..299).filter(|n| *n != 5).map(|n| (all[n].clone(), if n == 7 { 2 } else { 0 })).collect();
        assert_eq!(restored.messages, expected);
    }
}

#[test]
fn a_sequence_is_not_used_again_when_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let (opened, _) = open(directory.path());
    let only = message(41, 10);
    let end = outcome(&only, 1, 10);
    opened.commit(vec![accept(&only), settle(&only, &end), Operation::Forget { id: only.id }]);
    opened.close();
    let restored = read(directory.path());
    assert_eq!((restored.messages.len(), restored.outcomes.len(), restored.next_sequence), (0, 0, 42));
    assert_eq!(restored.losses, Vec::<String>::new());
}

#[test]
fn large_values_stay_in_the_synced_file_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (opened, _) = open(directory.path());
    // 64 neighbours of 256 KiB: sled counts a leaf of sixteen as one item.
    let all: Vec<_> = (0..64).map(|n| message(n, 256 << 10)).collect();
    for four in all.chunks(4) {
        opened.commit(four.iter().map(accept).collect());
    }
    opened.close();
    let blobs = directory.path().join("sled/blobs");
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 0, "files that sled never syncs");
    let (opened, restored) = open(directory.path());
    assert!(restored.messages.iter().map(|(message, _)| message).eq(&all));

    let end: Vec<_> = all.iter().map(|m| outcome(m, 1, 40 << 10)).collect();
    opened.commit(all.iter().zip(&end).map(|(m, o)| settle(m, o)).collect());
    opened.close();
    let (opened, restored) = open(directory.path());
    assert_eq!((restored.messages.len(), restored.outcomes.len()), (0, 64));
    assert_eq!(restored.outcomes[63].outcome, end[63].outcome);
    opened.commit(all.iter().map(|m| Operation::Forget { id: m.id }).collect());
    opened.close();
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 0);
    assert_eq!(raw(directory.path()).len(), 2, "only the counts and the number of the journal are left");
}

#[test]
fn the_numbers_are_the_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let (opened, _) = open(directory.path());
    opened.commit(vec![accept(&message(0, 10)), accept(&message(1, 10))]);
    opened.commit(vec![accept(&message(2, 10))]);
    let stats = opened.store.stats();
    assert_eq!((stats.commits, stats.operations, stats.lost, stats.failure), (2, 3, 0, None));
    assert_eq!(stats.commit_buckets.iter().sum::<u64>(), 2);
    assert!(stats.commit_nanos > 0 && stats.disk_bytes > 0);
    let free = rustix::fs::statvfs(directory.path()).unwrap();
    let (free, total) = (opened.store.disk().0, free.f_blocks * free.f_frsize);
    assert!(free > 0 && free <= total);

    // Without any batch the thread shows that it lives.
    let before = opened.store.progress();
    while opened.store.progress() == before {
        std::thread::yield_now();
    }
    opened.close();
}

#[test]
fn the_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (opened, _) = open(directory.path());
    let error = try_open(directory.path()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    opened.close();
    read(directory.path());
}

#[derive(Debug, Clone)]
enum Step {
    Accept(usize),
    Attempt(usize),
    Settle(usize, usize),
    Amend(usize, usize),
    Forget(usize),
    Commit,
    Load,
    Restart,
    /// As after a `kill -9`.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0_usize..400, 1 => 15_000_usize..70_000];
    prop_oneof![
        6 => size.clone().prop_map(Step::Accept),
        2 => any::<usize>().prop_map(Step::Attempt),
        4 => (any::<usize>(), size.clone()).prop_map(|(which, size)| Step::Settle(which, size)),
        2 => (any::<usize>(), size).prop_map(|(which, size)| Step::Amend(which, size)),
        2 => any::<usize>().prop_map(Step::Forget),
        3 => Just(Step::Commit),
        2 => Just(Step::Load),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

/// What a store must hold.
#[derive(Default)]
struct Model {
    messages: BTreeMap<u64, (Arc<StoredMessage>, u32)>,
    outcomes: Vec<Arc<StoredOutcome>>,
    next: u64,
    pending: Vec<Operation>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        let nth = |which: usize| self.messages.keys().nth(which % self.messages.len().max(1)).copied();
        match step {
            Step::Accept(size) => {
                let message = message(self.next, *size);
                self.pending.push(accept(&message));
                self.messages.insert(self.next, (message, 0));
                self.next += 1;
            }
            Step::Attempt(which) => {
                if let Some((sequence, (_, attempts))) = nth(*which).and_then(|s| Some((s, self.messages.get_mut(&s)?)))
                {
                    *attempts += 1;
                    self.pending.push(Operation::Attempt { sequence, attempts: *attempts });
                }
            }
            Step::Settle(which, size) => {
                if let Some((message, _)) = nth(*which).and_then(|s| self.messages.remove(&s)) {
                    let outcome = outcome(&message, self.outcomes.len() as u64, *size);
                    self.pending.push(settle(&message, &outcome));
                    self.outcomes.push(outcome);
                }
            }
            Step::Amend(which, size) => {
                let places = self.outcomes.len().max(1);
                if let Some(outcome) = self.outcomes.get_mut(which % places) {
                    let letter = Letter {
                        message: which.is_multiple_of(2).then(|| message(*which as u64, *size)),
                        history: vec![Failure { at: Wall(5), reason: "ack_timeout".into() }],
                        redriven: Some((MessageId(77), Wall(6))),
                    };
                    let amended = StoredOutcome { letter: Some(Box::new(letter)), ..StoredOutcome::clone(outcome) };
                    *outcome = Arc::new(amended);
                    self.pending.push(Operation::Amend { outcome: Arc::clone(outcome) });
                }
            }
            Step::Forget(which) => {
                if !self.outcomes.is_empty() {
                    let outcome = self.outcomes.remove(which % self.outcomes.len());
                    self.pending.push(Operation::Forget { id: outcome.id });
                }
            }
            Step::Commit | Step::Load | Step::Restart | Step::Kill => {}
        }
    }
}

/// Where the data of a history lies, and how it is opened.
struct Place {
    base: tempfile::TempDir,
    lives: u32,
    config: StoreConfig,
}

impl Place {
    fn path(&self) -> PathBuf {
        self.base.path().join(self.lives.to_string())
    }

    fn open(&self) -> (Opened, Restored) {
        try_open_with(&self.path(), self.config).unwrap()
    }

    /// Begins the next life with what a process leaves that is killed now.
    fn kill(&mut self, opened: Opened) -> (Opened, Restored) {
        let before = self.path();
        // A copy of files that are written is not what a killed process leaves.
        while journals(&before).len() > 1 {
            std::thread::yield_now();
        }
        self.lives += 1;
        copy_tree(&before, &self.path());
        opened.close();
        self.open()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whether sled takes over each commit and is written anew all the time, or everything stays in the journal.
    #[test]
    fn any_history_comes_back(steps in proptest::collection::vec(step(), 1..150), at_once in any::<bool>()) {
        let rotate_above = if at_once { 1 } else { StoreConfig::default().rotate_above };
        let config = StoreConfig { rotate_above, ..StoreConfig::default() };
        let mut place = Place { base: tempfile::tempdir().unwrap(), lives: 0, config };
        let mut model = Model::default();
        let (mut opened, _) = place.open();
        for step in steps.iter().chain([&Step::Load, &Step::Restart]) {
            model.apply(step);
            if matches!(step, Step::Commit | Step::Load | Step::Restart | Step::Kill) {
                opened.commit(std::mem::take(&mut model.pending));
            }
            let restored = match step {
                Step::Load => {
                    let messages = model.messages.values().map(|(message, _)| Stored::Message(Arc::clone(message)));
                    let outcomes = model.outcomes.iter().map(|outcome| Stored::Outcome(Arc::clone(outcome)));
                    let held: Vec<Stored> = messages.chain(outcomes).collect();
                    let wanted = held.iter().map(|record| match record {
                        Stored::Message(message) => Wanted::Message(message.sequence),
                        Stored::Outcome(outcome) => Wanted::Outcome(outcome.id),
                    });
                    prop_assert_eq!(opened.load(wanted.collect()), held);
                    continue;
                }
                Step::Restart => {
                    opened.close();
                    let (again, restored) = place.open();
                    opened = again;
                    restored
                }
                Step::Kill if !at_once => {
                    let (again, restored) = place.kill(opened);
                    opened = again;
                    restored
                }
                _ => continue,
            };
            prop_assert_eq!(restored.losses, Vec::<String>::new());
            prop_assert_eq!(restored.next_sequence, model.next);
            prop_assert!(restored.messages.iter().eq(model.messages.values()));
            let mut outcomes = model.outcomes.clone();
            outcomes.sort_by_key(|outcome| (outcome.ended, outcome.id));
            prop_assert_eq!(restored.outcomes, outcomes);
        }
        opened.close();
    }
}

/// A journal that sled took over may be there again after a power cut: its removal is not synced.
#[test]
fn a_journal_that_was_taken_over_is_not_read_again() {
    let base = scratch();
    let (path, aside) = (base.path().join("state"), base.path().join("journal"));
    let (opened, _) = open(&path);
    let [ended, waits] = [0, 1].map(|n| message(n, 10));
    opened.commit(vec![accept(&ended), accept(&waits)]);
    let journal = journals(&path).remove(0);
    std::fs::copy(&journal, &aside).unwrap();
    opened.close();
    let (opened, _) = open(&path);
    let end = outcome(&ended, 1, 10);
    opened.commit(vec![settle(&ended, &end)]);
    opened.close();
    std::fs::copy(&aside, &journal).unwrap();
    let restored = read(&path);
    assert_eq!((restored.losses, restored.outcomes), (Vec::new(), vec![end]));
    assert_eq!(restored.messages, [(waits, 0)]);
    assert!(!journal.exists());
}

/// While sled takes over a large table, what was changed since is read as it is now.
#[test]
fn what_changes_while_sled_takes_over_is_read_as_it_is() {
    let directory = scratch();
    let (opened, _) = open(directory.path());
    let [before, ended] = [0, 1].map(|n| message(n, 10));
    let mut end = outcome(&ended, 1, 10);
    opened.commit(vec![accept(&before), accept(&ended), settle(&ended, &end)]);
    opened.commit((2..5_000).map(|n| accept(&message(n, 5_000))).collect());
    let letter = Letter { message: None, history: Vec::new(), redriven: Some((MessageId(7), Wall(6))) };
    end = Arc::new(StoredOutcome { letter: Some(Box::new(letter)), ..StoredOutcome::clone(&end) });
    opened.commit(vec![Operation::Amend { outcome: Arc::clone(&end) }]);
    let wanted = vec![Wanted::Outcome(ended.id), Wanted::Message(4_999), Wanted::Message(0)];
    let held = [Stored::Outcome(end), Stored::Message(message(4_999, 5_000)), Stored::Message(before)];
    assert_eq!(opened.load(wanted), held);
    opened.close();
}
