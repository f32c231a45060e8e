//! An ordinary restart restores everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tidegate::relay::record::{Failure, Letter, MessageId, Operation, StoredMessage, StoredOutcome};
use tidegate::relay::time::Wall;
use tidegate::store::OpenError;

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
    assert_eq!(raw(directory.path()).len(), 1, "only the counts are left");
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
    Restart,
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
        1 => Just(Step::Restart),
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
            Step::Commit | Step::Restart => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_comes_back(steps in proptest::collection::vec(step(), 1..120)) {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let (mut opened, _) = open(directory.path());
        for step in steps.iter().chain([&Step::Restart]) {
            model.apply(step);
            if matches!(step, Step::Commit | Step::Restart) {
                opened.commit(std::mem::take(&mut model.pending));
            }
            if matches!(step, Step::Restart) {
                opened.close();
                let (again, restored) = open(directory.path());
                opened = again;
                prop_assert_eq!(restored.losses, Vec::<String>::new());
                prop_assert_eq!(restored.next_sequence, model.next);
                prop_assert!(restored.messages.iter().eq(model.messages.values()));
                let mut outcomes = model.outcomes.clone();
                outcomes.sort_by_key(|outcome| (outcome.ended, outcome.id));
                prop_assert_eq!(restored.outcomes, outcomes);
            }
        }
        opened.close();
    }
}
