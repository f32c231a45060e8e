//! Journals that are damaged, renamed, or no journals: sled stays what it is, and nothing is taken over twice or not at all.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::*;

/// A store whose sled has 40 messages, and whose journal accepts three more, each in a commit of its own; not closed. Gives where
/// the second of these begins.
fn store(path: &Path, copy: &Path) -> u64 {
    let (opened, _) = open(path);
    opened.commit((0..40).map(|n| accept(&message(n, 100))).collect());
    opened.close();
    let (opened, _) = open(path);
    opened.commit(vec![accept(&message(40, 100))]);
    let second = written(&journals(path)[0]);
    opened.commit(vec![accept(&message(41, 100))]);
    opened.commit(vec![accept(&message(42, 100))]);
    copy_tree(path, copy);
    opened.close();
    second
}

fn spoil(path: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn sequences(restored: &Restored) -> Vec<u64> {
    restored.messages.iter().map(|(message, _)| message.sequence).collect()
}

/// Names in the directory that begin so.
fn names(path: &Path, begin: &str) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(begin)).collect()
}

fn goes_on(path: &Path) {
    let (opened, _) = open(path);
    opened.commit(vec![accept(&message(1_000, 50))]);
    opened.close();
    let restored = read(path);
    assert_eq!((restored.losses, restored.messages.last().unwrap().0.sequence), (Vec::new(), 1_000));
}

#[test]
fn a_damaged_journal_is_set_aside_alone() {
    let base = scratch();
    let (whole, copy) = (base.path().join("whole"), base.path().join("copy"));
    let second = store(&whole, &copy);
    let length = written(&journals(&copy)[0]);
    let of = |missing: &[u64]| (0..43).filter(|n| !missing.contains(n)).collect::<Vec<_>>();
    // In the middle, all from there on, all of it: what is missing was in the journal and nowhere else.
    for (at, bytes, missing) in [
        (second + 30, vec![0xEE; 8], &[41][..]),
        (second + 30, vec![0xEE; (length - second) as usize], &[41, 42]),
        (0, vec![0xEE; length as usize], &[40, 41, 42]),
    ] {
        let damaged = base.path().join("damaged");
        copy_tree(&copy, &damaged);
        spoil(&journals(&damaged)[0], at, &bytes);
        let restored = read(&damaged);
        assert_eq!(sequences(&restored), of(missing));
        assert!(restored.lost >= missing.len() as u64, "{missing:?}: {} told", restored.lost);
        let told = restored.losses.join("; ");
        assert!(told.contains("bytes of the journal are damaged; it was moved to"), "{told}");
        assert!(!told.contains("the data is damaged"), "{told}");
        assert_eq!((names(&damaged, "sled"), names(&damaged, "journal.corrupt").len()), (vec!["sled".to_owned()], 1));
        goes_on(&damaged);
        fs::remove_dir_all(&damaged).unwrap();
    }
    // It is no excuse for what sled lost.
    spoil(&journals(&copy)[0], second + 30, &[0xEE; 8]);
    {
        let raw = raw(&copy);
        raw.remove([b"m".as_slice(), &6_u64.to_be_bytes(), &0_u32.to_be_bytes()].concat()).unwrap().unwrap();
        raw.flush().unwrap();
    }
    let restored = read(&copy);
    assert_eq!(sequences(&restored), of(&[6, 41]));
    assert!(restored.losses.iter().any(|loss| loss.contains("the data is damaged")), "{:?}", restored.losses);
    assert_eq!(names(&copy, "sled.corrupt").len(), 1);
    goes_on(&copy);
}

#[test]
fn journals_are_taken_over_in_the_order_of_their_commits() {
    let base = scratch();
    let (whole, copy) = (base.path().join("whole"), base.path().join("copy"));
    let [ended, waits] = [0, 1].map(|n| message(n, 10));
    let end = outcome(&ended, 1, 10);
    let (opened, _) = open(&whole);
    opened.commit(vec![accept(&ended), accept(&waits)]);
    let first = fs::metadata(whole.join("journal-1")).unwrap().len() as usize;
    opened.commit(vec![settle(&ended, &end)]);
    copy_tree(&whole, &copy);
    opened.close();
    // The older commit in the newer name: the head goes with both.
    let bytes = fs::read(copy.join("journal-1")).unwrap();
    fs::write(copy.join("journal-2"), &bytes[..first]).unwrap();
    fs::write(copy.join("journal-1"), [&bytes[..16], &bytes[first..]].concat()).unwrap();
    let restored = read(&copy);
    assert_eq!((restored.losses, restored.messages, restored.outcomes), (vec![], vec![(waits, 0)], vec![end]));
    assert_eq!(names(&copy, "journal"), [""; 0]);
    goes_on(&copy);
}

/// By its name sled took it over, by its commits it did not; and the other way round.
#[test]
fn what_sled_took_over_goes_by_the_commits() {
    let base = scratch();
    let (whole, copy) = (base.path().join("whole"), base.path().join("copy"));
    let [ended, waits] = [0, 1].map(|n| message(n, 10));
    let end = outcome(&ended, 1, 10);
    let (opened, _) = open(&whole);
    opened.commit(vec![accept(&ended), accept(&waits)]);
    let taken = fs::read(whole.join("journal-1")).unwrap();
    opened.close();
    let (opened, _) = open(&whole);
    opened.commit(vec![settle(&ended, &end)]);
    copy_tree(&whole, &copy);
    opened.close();
    fs::rename(copy.join("journal-2"), copy.join("journal-1")).unwrap();
    fs::write(copy.join("journal-2"), &taken).unwrap();
    // And one that is older than all that sled has.
    fs::write(whole.join("journal-9"), &taken).unwrap();
    for path in [copy, whole] {
        let restored = read(&path);
        let ends = vec![end.clone()];
        assert_eq!((restored.losses, restored.messages, restored.outcomes), (vec![], vec![(waits.clone(), 0)], ends));
        assert_eq!(names(&path, "journal"), [""; 0]);
        goes_on(&path);
    }
}

#[test]
fn what_is_no_file_and_called_like_a_journal_ends_the_start_with_its_name() {
    let base = scratch();
    let whole = base.path().join("whole");
    let copy = base.path().join("copy");
    store(&whole, &copy);
    for name in ["journal-2", "journal-7"] {
        let (aside, odd) = (copy.join("aside"), copy.join(name));
        let there = fs::rename(&odd, &aside).is_ok();
        fs::create_dir(&odd).unwrap();
        let error = try_open(&copy).err().unwrap();
        assert_eq!(error.exit_code(), 74);
        let told = error.to_string();
        assert!(told.contains(odd.to_str().unwrap()) && told.contains("is no file") && told.contains("move"), "{told}");
        fs::remove_dir(&odd).unwrap();
        if there {
            fs::rename(&aside, &odd).unwrap();
        }
    }
    let restored = read(&copy);
    assert_eq!((restored.losses, restored.messages.len()), (vec![], 43));
}
