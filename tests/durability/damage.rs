//! Damage to the files: the start succeeds, and what is missing is counted and told.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::relay::record::{Operation, StoredMessage, StoredOutcome};
use tidegate::relay::rng::Rng;
use tidegate::store::StoreConfig;

use crate::harness::*;

/// Bits that are flipped, each in a copy of its own, unless the environment says otherwise.
const FLIPS: u64 = 300;

/// What was acknowledged.
struct Truth {
    messages: BTreeMap<u64, Arc<StoredMessage>>,
    outcomes: BTreeMap<u128, Arc<StoredOutcome>>,
    next: u64,
}

/// A closed store with 120 messages and 40 outcomes, in many commits.
fn store(path: &Path) -> Truth {
    let mut truth = Truth { messages: BTreeMap::new(), outcomes: BTreeMap::new(), next: 160 };
    let (opened, _) = open(path);
    for eight in (0..160).map(|n| message(n, 200)).collect::<Vec<_>>().chunks(8) {
        opened.commit(eight.iter().map(accept).collect());
        let ended: Vec<_> = eight[..2].iter().map(|m| (m, outcome(m, m.sequence, 50))).collect();
        opened.commit(ended.iter().map(|(m, o)| settle(m, o)).collect());
        truth.messages.extend(eight[2..].iter().map(|m| (m.sequence, Arc::clone(m))));
        truth.outcomes.extend(ended.into_iter().map(|(m, o)| (m.id.0, o)));
    }
    opened.close();
    truth
}

/// Nothing is wrong that was not told; every record there is one that was written. Gives the number of those missing.
fn judge(truth: &Truth, restored: &Restored, what: &str) -> u64 {
    for (message, _) in &restored.messages {
        // One that was settled may be back if its outcome is lost; its text is still its own.
        let expected = message_of(truth, message.sequence);
        assert_eq!(**message, *expected, "{what}");
        assert!(!restored.outcomes.iter().any(|o| o.id == message.id), "{what}: both undelivered and ended");
    }
    let sequences: Vec<_> = restored.messages.iter().map(|(m, _)| m.sequence).collect();
    assert!(sequences.is_sorted(), "{what}");
    for outcome in &restored.outcomes {
        assert_eq!(Some(outcome), truth.outcomes.get(&{ outcome.id.0 }), "{what}");
    }
    let messages = truth.messages.keys().filter(|sequence| !sequences.contains(sequence)).count();
    let ids: Vec<_> = restored.outcomes.iter().map(|outcome| outcome.id.0).collect();
    let outcomes = truth.outcomes.keys().filter(|id| !ids.contains(id)).count();
    let missing = (messages + outcomes) as u64;
    assert!(restored.lost >= missing, "{what}: {missing} missing, {} told: {:?}", restored.lost, restored.losses);
    assert!(missing == 0 || !restored.losses.is_empty(), "{what}: a loss without a word");
    assert!(restored.next_sequence >= truth.next, "{what}: a sequence would be used twice");
    missing
}

fn message_of(truth: &Truth, sequence: u64) -> Arc<StoredMessage> {
    truth.messages.get(&sequence).cloned().unwrap_or_else(|| message(sequence, 200))
}

/// A damaged store goes on: it accepts, and its next start has nothing more to tell.
fn goes_on(path: &Path, what: &str) {
    let (opened, _) = open(path);
    let next = message(100_000, 50);
    opened.commit(vec![accept(&next)]);
    opened.close();
    let restored = read(path);
    assert_eq!(restored.losses, Vec::<String>::new(), "{what}: told again");
    assert_eq!(restored.messages.last().unwrap().0, next, "{what}");
}

#[test]
fn a_tail_torn_at_every_byte_of_the_last_record() {
    let base = scratch();
    let whole = base.path().join("whole");
    let mut truth = store(&whole);
    let (opened, _) = open(&whole);
    opened.commit(vec![accept(&message(160, 60))]);
    let begin = written(&journal(&whole));
    let last = message(161, 60);
    opened.commit(vec![accept(&last)]);
    // Without closing: what a killed process leaves.
    let copy = base.path().join("copy");
    copy_tree(&whole, &copy);
    opened.close();
    truth.messages.extend([160, 161].map(|n| (n, message(n, 60))));
    truth.next = 162;

    let end = written(&journal(&copy));
    assert!(end - begin > 200, "a commit of one message");
    let mut losses = 0;
    for length in begin..=end {
        let torn = base.path().join("torn");
        copy_tree(&copy, &torn);
        fs::OpenOptions::new().write(true).open(journal(&torn)).unwrap().set_len(length).unwrap();
        let lost = judge(&truth, &read(&torn), &format!("cut to {length} bytes"));
        assert_eq!(lost, u64::from(length < end), "cut to {length} of {end} bytes");
        losses += lost;
        if length == (begin + end) / 2 {
            goes_on(&torn, "cut");
        }
        fs::remove_dir_all(&torn).unwrap();
    }
    assert!(losses > 0, "the cuts cut something");
}

/// The only journal of a store.
fn journal(path: &Path) -> PathBuf {
    let mut found = journals(path);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn flipped_bits_in_the_journal_lose_nothing_without_a_word() {
    let base = scratch();
    let (whole, copy) = (base.path().join("whole"), base.path().join("copy"));
    let mut truth = store(&whole);
    let (opened, _) = open(&whole);
    for n in 160..200 {
        let next = message(n, 200);
        opened.commit(vec![accept(&next)]);
        truth.messages.insert(n, next);
    }
    let ended = message_of(&truth, 2);
    let end = outcome(&ended, 1, 20);
    opened.commit(vec![settle(&ended, &end)]);
    truth.messages.remove(&2);
    truth.outcomes.insert(ended.id.0, end);
    truth.next = 200;
    copy_tree(&whole, &copy);
    opened.close();
    let used = written(&journal(&copy));
    let (mut losses, mut rng) = (0, Rng::new(8));
    for round in 0..flips() / 3 {
        let at = rng.below(used);
        let what = format!("round {round}: a bit flipped at {at} of {used}");
        let damaged = base.path().join("damaged");
        copy_tree(&copy, &damaged);
        flip(&journal(&damaged), at, &mut rng);
        let lost = judge(&truth, &read(&damaged), &what);
        // The first 16 bytes say how the others are read.
        assert!(lost <= u64::from(at >= 16), "{what}: {lost} lost with one commit");
        losses += lost;
        if round % 10 == 0 {
            goes_on(&damaged, &what);
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(losses > 0, "some of the bits mattered");
}

/// An attempt that is missing must not let a message leave twice, and what cannot be read is kept for people.
#[test]
fn a_journal_without_a_commit_takes_messages_as_tried() {
    let base = scratch();
    let whole = base.path().join("whole");
    let (opened, _) = open(&whole);
    let [tried, other] = [0, 1].map(|n| message(n, 50));
    opened.commit(vec![accept(&tried)]);
    let from = written(&journal(&whole));
    opened.commit(vec![Operation::Attempt { sequence: 0, attempts: 1 }]);
    let to = written(&journal(&whole));
    opened.commit(vec![accept(&other)]);
    let (attempt, head) = (base.path().join("attempt"), base.path().join("head"));
    [&attempt, &head].into_iter().for_each(|copy| copy_tree(&whole, copy));
    opened.close();

    let mut rng = Rng::new(9);
    flip(&journal(&attempt), (from + to) / 2, &mut rng);
    let restored = read(&attempt);
    assert_eq!(restored.messages, [(tried, 1), (other, 1)]);
    assert!(restored.lost > 0 && restored.losses.iter().any(|loss| loss.contains("taken as tried")), "{restored:?}");

    fs::OpenOptions::new().write(true).open(journal(&head)).unwrap().write_all_at(&[0; 16], 0).unwrap();
    let restored = read(&head);
    assert!(restored.messages.is_empty() && restored.lost >= 2, "{restored:?}");
    let found = tidegate::store::salvage(&head).unwrap();
    assert_eq!(found.messages.len(), 2, "{restored:?}");
}

fn flips() -> u64 {
    std::env::var("TIDEGATE_TEST_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(FLIPS)
}

fn flip(path: &Path, at: u64, rng: &mut Rng) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << rng.below(8)], at).unwrap();
}

#[test]
fn flipped_bits_lose_nothing_without_a_word() {
    let base = scratch();
    let whole = base.path().join("whole");
    let truth = store(&whole);
    let used = fs::metadata(whole.join("sled/db")).unwrap().len();
    let mut rng = Rng::new(7);
    let mut losses = 0;
    for round in 0..flips() {
        let at = rng.below(used);
        let what = format!("round {round}: a bit flipped at {at}");
        let damaged = base.path().join("damaged");
        copy_tree(&whole, &damaged);
        flip(&damaged.join("sled/db"), at, &mut rng);
        losses += judge(&truth, &read(&damaged), &what);
        if round % 10 == 0 {
            goes_on(&damaged, &what);
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(losses > 0, "some of the bits mattered");
}

/// Several of sled's segments, as a killed process leaves them: `killed`; and after one more start: `snapped`, where the
/// snapshot knows the older segments.
fn large(killed: &Path, snapped: &Path) -> Truth {
    let mut truth = Truth { messages: BTreeMap::new(), outcomes: BTreeMap::new(), next: 2_000 };
    // sled takes over what it is to have each half MiB.
    let small = StoreConfig { rotate_above: 4 << 20, ..StoreConfig::default() };
    let (opened, _) = try_open_with(snapped, small).unwrap();
    for hundred in (0..2_000).map(|n| message(n, 4_000)).collect::<Vec<_>>().chunks(100) {
        opened.commit(hundred.iter().map(accept).collect());
        truth.messages.extend(hundred.iter().map(|m| (m.sequence, Arc::clone(m))));
    }
    let began = Instant::now();
    while journals(snapped).len() > 1 {
        assert!(began.elapsed() < Duration::from_secs(60), "sled never took over {:?}", journals(snapped));
        std::thread::yield_now();
    }
    copy_tree(snapped, killed);
    opened.close();
    read(snapped);
    assert!(fs::metadata(killed.join("sled/db")).unwrap().len() > 4 * (2 << 20));
    truth
}

/// Spoils a few bytes in many places of a copy, each in turn; gives what the starts said.
fn spoil_each(whole: &Path, truth: &Truth) -> Vec<Restored> {
    let used = fs::metadata(whole.join("sled/db")).unwrap().len();
    let each = |tenth: u64| {
        let at = used * tenth / 10 + 1_001;
        let what = format!("10 bytes spoiled at {at}");
        let damaged = whole.with_extension("damaged");
        copy_tree(whole, &damaged);
        let file = fs::OpenOptions::new().write(true).open(damaged.join("sled/db")).unwrap();
        file.write_all_at(&[0xA5; 10], at).unwrap();
        let restored = read(&damaged);
        judge(truth, &restored, &what);
        for loss in restored.losses.iter().filter(|loss| loss.contains("data was moved to ")) {
            let aside = loss.rsplit("data was moved to ").next().unwrap();
            assert!(Path::new(aside).join("db").exists(), "{what}: nothing there: {loss}");
        }
        goes_on(&damaged, &what);
        fs::remove_dir_all(&damaged).unwrap();
        restored
    };
    (0..10).map(each).collect()
}

#[test]
fn damage_in_old_data_keeps_what_can_be_read() {
    let base = scratch();
    let (killed, snapped) = (base.path().join("killed"), base.path().join("snapped"));
    let truth = large(&killed, &snapped);

    let damaged = spoil_each(&snapped, &truth);
    let rebuilt: Vec<_> =
        damaged.iter().filter(|r| r.losses.iter().any(|loss| loss.contains("carried over"))).collect();
    assert!(rebuilt.iter().any(|restored| restored.messages.len() > 1_900), "no place that costs a page and not all");

    let damaged = spoil_each(&killed, &truth);
    let panicked = |restored: &&Restored| restored.losses.iter().any(|loss| loss.contains("sled panicked"));
    assert!(damaged.iter().filter(panicked).count() > 0, "no place where sled panics");
}

/// Damages a store in one way and gives what its next start said.
fn after(damage: impl FnOnce(&Path)) -> (u64, Restored) {
    let base = scratch();
    let path = base.path().join("state");
    let truth = store(&path);
    // A second run, so that there is a snapshot.
    read(&path);
    damage(&path);
    let restored = read(&path);
    let missing = judge(&truth, &restored, "after damage");
    goes_on(&path, "after damage");
    (missing, restored)
}

fn snapshot(path: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(path.join("sled")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).max().unwrap()
}

#[test]
fn a_snapshot_left_half_written_is_no_hindrance() {
    let (missing, restored) = after(|path| {
        let name = snapshot(path).with_extension("0000000000FFFFFF.generating");
        fs::write(name, b"half").unwrap();
        fs::write(path.join("sled/snap.0000000000FFFFFF.generating"), b"").unwrap();
    });
    assert_eq!((missing, restored.losses), (0, Vec::new()));
}

#[test]
fn a_torn_snapshot_costs_nothing() {
    let (missing, restored) = after(|path| {
        let snapshot = snapshot(path);
        let bytes = fs::read(&snapshot).unwrap();
        fs::write(&snapshot, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert_eq!((missing, restored.lost), (0, 0));
    assert!(restored.losses[0].contains("snapshot was moved"), "{:?}", restored.losses);
}

#[test]
fn damaged_parameters_cost_nothing() {
    for bytes in [b"".as_slice(), b"segment_size: 9\n\0\0\0\0"] {
        let (missing, restored) = after(|path| fs::write(path.join("sled/conf"), bytes).unwrap());
        assert_eq!((missing, restored.lost), (0, 0));
    }
}

#[test]
fn data_that_is_gone_is_counted_by_the_mark() {
    let (missing, restored) = after(|path| fs::remove_dir_all(path.join("sled")).unwrap());
    assert_eq!((missing, restored.lost), (160, 160));
    let (missing, restored) = after(|path| fs::write(path.join("sled/db"), b"").unwrap());
    assert_eq!((missing, restored.lost), (160, 160));
}

#[test]
fn a_missing_or_unreadable_mark_is_told() {
    for damage in [None, Some([0xAA; 8192])] {
        let (missing, restored) = after(|path| match damage {
            None => fs::remove_file(path.join("mark")).unwrap(),
            Some(bytes) => fs::write(path.join("mark"), bytes).unwrap(),
        });
        assert_eq!((missing, restored.lost), (0, 0));
        assert!(restored.losses[0].contains("mark"), "{:?}", restored.losses);
    }
}

#[test]
fn a_damaged_record_is_set_aside_for_people() {
    let base = scratch();
    let truth = store(base.path());
    let key = [b"m".as_slice(), &6_u64.to_be_bytes(), &0_u32.to_be_bytes()].concat();
    {
        let raw = raw(base.path());
        let mut value = raw.get(&key).unwrap().unwrap().to_vec();
        value[60] ^= 4;
        raw.insert(&key, value).unwrap();
        raw.flush().unwrap();
    }
    let restored = read(base.path());
    assert_eq!(judge(&truth, &restored, "a changed value"), 1);
    assert_eq!(restored.lost, 1);
    assert!(restored.losses.contains(&"message number 6: wrong checksum".to_owned()), "{:?}", restored.losses);
    goes_on(base.path(), "a changed value");
    let raw = raw(base.path());
    assert_eq!(raw.get(&key).unwrap(), None);
    assert!(raw.get([b"x".as_slice(), &key].concat()).unwrap().is_some());
}

#[test]
fn an_interrupted_rebuild_is_ended_or_begun_again() {
    let base = scratch();
    let path = base.path().join("state");
    let truth = store(&path);
    // Cut between the two renames: the complete copy takes its place.
    fs::rename(path.join("sled"), path.join("sled.rebuilt")).unwrap();
    assert_eq!(judge(&truth, &read(&path), "between the renames"), 0);
    // Cut before them: the copy may be incomplete, the data is still there.
    copy_tree(&path.join("sled"), &path.join("sled.rebuilt"));
    fs::write(path.join("sled.rebuilt/db"), b"").unwrap();
    assert_eq!(judge(&truth, &read(&path), "before the renames"), 0);
    assert!(!path.join("sled.rebuilt").exists());
    // The same beside the old data, which goes once the fresh one is in its place.
    for (data, copy) in [(None, Some("sled.rebuilt")), (Some("sled"), None), (None, None)] {
        let kept = path.join(copy.or(data).unwrap_or("sled.old"));
        copy_tree(&path.join("sled"), &path.join("kept"));
        fs::rename(path.join("sled"), path.join("sled.old")).unwrap();
        if kept != path.join("sled.old") {
            fs::write(path.join("sled.old/db"), b"").unwrap();
            fs::rename(path.join("kept"), kept).unwrap();
        } else {
            fs::remove_dir_all(path.join("kept")).unwrap();
        }
        assert_eq!(judge(&truth, &read(&path), "beside the old data"), 0);
        assert!(!path.join("sled.old").exists());
    }
}

/// sled cannot open it any more; the records are there all the same.
#[test]
fn what_sled_cannot_read_is_salvaged() {
    let base = scratch();
    let path = base.path().join("state");
    let truth = store(&path);
    let bytes = fs::read(path.join("sled/db")).unwrap();
    let records: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"TgRc")).collect();
    let db = fs::OpenOptions::new().write(true).open(path.join("sled/db")).unwrap();
    // In the body of one of them.
    db.write_all_at(&[0xEE; 20], records[records.len() / 2] as u64 + 50).unwrap();
    db.write_all_at(&[0xEE; 512], 0).unwrap();
    fs::remove_file(path.join("sled/conf")).unwrap();
    let found = tidegate::store::salvage(&path).unwrap();
    let mut whole = 0;
    for (id, salvaged) in &found.messages {
        if let Some(message) = &salvaged.message {
            assert_eq!(*message, *message_of(&truth, message.sequence), "{id}");
            whole += usize::from(salvaged.outcome.is_none());
        }
    }
    let (wanted, missing) = (truth.messages.len(), truth.messages.len().saturating_sub(whole));
    assert!(missing <= 40, "of {wanted} messages {missing} were not found");
    let outcomes = found.messages.values().filter(|salvaged| salvaged.outcome.is_some()).count();
    assert!(outcomes > 0 && found.broken > 0, "{outcomes} outcomes, {} broken", found.broken);
}
