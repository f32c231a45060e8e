//! Power cuts, by what they leave of files: of what no sync brought to the disk any sectors are there, in a file of any length up to
//! the written one. The batch that was not answered for is then wholly there or not at all, and nothing is told as lost.
//!
//! The images are made of a real store's files. `tests/e2e/power.rs` cuts a real file system, which leaves fewer kinds of ruins.
//! Deliberately not here: a disk that loses what it was told to sync.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tidegate::relay::record::{Operation, StoredMessage, StoredOutcome};
use tidegate::relay::rng::Rng;

use crate::harness::*;

/// Commits of the store that is cut, and cuts.
const COMMITS: u64 = 40;
const CUTS: u64 = 300;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Where the slots of the mark begin, and how many of the newest marks a cut may leave in place of the last one: they are written at
/// each commit and synced later.
const SLOTS: [usize; 2] = [0, 4096];
const UNSYNCED: u64 = 6;

/// What the store holds.
#[derive(Clone, Default, PartialEq, Debug)]
struct Held {
    messages: BTreeMap<u64, (Arc<StoredMessage>, u32)>,
    outcomes: BTreeMap<u128, Arc<StoredOutcome>>,
}

impl Held {
    fn of(restored: &Restored) -> Held {
        let messages =
            restored.messages.iter().map(|(message, attempts)| (message.sequence, (Arc::clone(message), *attempts)));
        let outcomes = restored.outcomes.iter().map(|outcome| (outcome.id.0, Arc::clone(outcome)));
        Held { messages: messages.collect(), outcomes: outcomes.collect() }
    }

    /// A batch of every operation: the oldest message ends, the next one is tried, one comes, and now and then an end is forgotten.
    fn batch(&mut self, number: u64) -> Vec<Operation> {
        let mut batch = Vec::new();
        let next = message(number, [20, 700, 6_000, 40_000][number as usize % 4]);
        if number.is_multiple_of(2)
            && let Some((_, (oldest, _))) = self.messages.pop_first()
        {
            let end = outcome(&oldest, number, 300);
            batch.push(settle(&oldest, &end));
            self.outcomes.insert(oldest.id.0, end);
        }
        if let Some((sequence, (_, attempts))) = self.messages.iter_mut().next() {
            *attempts += 1;
            batch.push(Operation::Attempt { sequence: *sequence, attempts: *attempts });
        }
        if number.is_multiple_of(5)
            && let Some((_, end)) = self.outcomes.pop_first()
        {
            batch.push(Operation::Forget { id: end.id });
        }
        batch.push(accept(&next));
        self.messages.insert(number, (next, 0));
        batch
    }
}

/// The store once a batch was answered for.
struct Moment {
    journal: Vec<u8>,
    mark: Vec<u8>,
    held: Held,
}

/// A cut while the batch of `after` is written to the journal.
fn image(before: &Moment, after: &Moment, rng: &mut Rng) -> Vec<u8> {
    let whole = &after.journal;
    let length = match rng.below(3) {
        0 => whole.len() as u64,
        _ => before.journal.len() as u64 + rng.below((whole.len() - before.journal.len()) as u64 + 1),
    };
    let mut left = whole[..length as usize].to_vec();
    let synced = before.journal.len();
    // Most of the sectors are there or few, and those that are not are empty or were another file's.
    let (missing, stale) = (rng.below(4), rng.below(2) == 0);
    for from in (synced / SECTOR * SECTOR..left.len()).step_by(SECTOR) {
        let to = (from + SECTOR).min(left.len());
        if rng.below(4) < missing {
            left[from.max(synced)..to].fill_with(|| if stale { rng.below(256) as u8 } else { 0 });
        }
    }
    left
}

#[test]
fn what_a_cut_leaves_of_the_last_batch_is_all_or_nothing() {
    let base = scratch();
    let [path, whole, cut] = ["state", "whole", "cut"].map(|name| base.path().join(name));
    let (opened, _) = open(&path);
    let journal = journals(&path).remove(0);
    let mut held = Held::default();
    let moments: Vec<Moment> = (0..COMMITS)
        .map(|number| {
            opened.commit(held.batch(number));
            Moment {
                journal: fs::read(&journal).unwrap()[..written(&journal) as usize].to_vec(),
                mark: fs::read(path.join("mark")).unwrap(),
                held: held.clone(),
            }
        })
        .collect();
    // sled has none of it yet.
    copy_tree(&path, &whole);
    assert_eq!(journals(&whole), [whole.join(journal.file_name().unwrap())]);
    opened.close();
    let mut rng = Rng::new(11);
    let (mut there, mut gone, mut begun) = (0, 0, 0);
    for round in 0..CUTS {
        let last = UNSYNCED + rng.below(COMMITS - UNSYNCED - 1);
        let (before, after) = (&moments[last as usize], &moments[last as usize + 1]);
        copy_tree(&whole, &cut);
        let left = image(before, after, &mut rng);
        // The room behind it may be there, empty.
        let room = vec![0; rng.below(2) as usize * 10_000];
        fs::write(cut.join(journal.file_name().unwrap()), [left.as_slice(), &room].concat()).unwrap();
        fs::write(cut.join("mark"), mark(&moments[(last - UNSYNCED) as usize..=last as usize], &mut rng)).unwrap();
        let whole = left == after.journal;
        // A next journal is begun when this one is synced, and its head is synced with its first batch only.
        if whole || left == before.journal {
            fs::write(cut.join("journal-9"), vec![0; rng.below(100) as usize]).unwrap();
            begun += 1;
        }
        let what = format!("round {round}: cut in batch {}, {} of {} bytes", last + 1, left.len(), after.journal.len());
        judge(&cut, if whole { &after.held } else { &before.held }, &what);
        *(if whole { &mut there } else { &mut gone }) += 1;
        fs::remove_dir_all(&cut).unwrap();
    }
    assert!(
        there > CUTS / 20 && gone > CUTS / 2 && begun > 0,
        "{there} whole, {gone} not, {begun} with a next journal"
    );
}

/// The marks of these commits in their slots, each as old as a cut may leave it; one of them may be torn.
fn mark(unsynced: &[Moment], rng: &mut Rng) -> Vec<u8> {
    let mut left = unsynced[0].mark.clone();
    for slot in SLOTS {
        let of = &unsynced[rng.below(unsynced.len() as u64) as usize].mark;
        left[slot..slot + SECTOR].copy_from_slice(&of[slot..slot + SECTOR]);
    }
    if rng.below(4) == 0 {
        left[SLOTS[rng.below(2) as usize] + 20..][..8].fill(0xA5);
    }
    left
}

/// Everything is there and nothing else, nothing is told as lost, and it goes on so.
fn judge(path: &Path, held: &Held, what: &str) {
    for _ in 0..2 {
        let restored = read(path);
        assert_eq!((restored.lost, &restored.losses), (0, &vec![]), "{what}");
        assert!(
            Held::of(&restored) == *held,
            "{what}: {:?}",
            restored.messages.iter().map(|(m, n)| (m.sequence, n)).collect::<Vec<_>>()
        );
    }
}
