//! Power cuts, on a real ext4: the relay is frozen in the midst of its work, the disk under it is copied as it is at that
//! moment, and the copy is mounted. What no fsync brought to that disk is gone, as after a power cut.
//!
//! A frozen process can have told its clients nothing but what they have read, so what they were told is held against what a
//! relay on the copy knows and does (`judge`). Each cut goes on from the copy of the one before, up to [`CUTS_OF_ONE_DISK`].
//! Needs root and loop devices; says SKIP where they are not to be had. `TIDEGATE_TEST_CUTS` sets how many cuts there are.
//! Deliberately not here: disks that lie about a flush, about which nothing can be promised.

use std::collections::BTreeMap;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{skip, until};
use crate::disks::Disk;
use crate::load::Run;
use crate::rig::Relay;
use crate::upstream::Gate;

/// Cuts of one run, unless the environment says otherwise.
const CUTS: u64 = 10;

/// What is kept grows with every cut, and no life is long enough to write much of it anew: beyond that the disk is too small.
const CUTS_OF_ONE_DISK: u64 = 20;

/// Waits until every thread of a process is stopped: no system call of it is under way any more.
fn wait_stopped(relay: &Relay) {
    until("all threads to stop", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap();
        let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
        let mut all = threads.flatten().map(|entry| std::fs::read_to_string(entry.path().join("stat")));
        all.all(|stat| stat.is_ok_and(stopped)).then_some(())
    });
}

/// Waits until the publishers have read everything that the relay had written.
fn wait_read(relay: &Relay) {
    let port = format!(":{:04X}", relay.feed().port());
    until("the publishers to read everything", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let waiting = table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // The client's ends: their peer is the feed. `rx_queue` is the second half of the fifth field; what the relay's
            // ends still have to send is the first half of theirs.
            let queued =
                |half: usize| fields[4].split(':').nth(half).is_some_and(|half| !half.trim_matches('0').is_empty());
            (fields[2].ends_with(&port) && queued(1)) || (fields[1].ends_with(&port) && fields[3] == "01" && queued(0))
        });
        (!waiting).then_some(())
    });
}

#[test]
fn what_clients_were_told_survives_power_cuts() {
    let cuts = std::env::var("TIDEGATE_TEST_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(CUTS);
    let mut ends = BTreeMap::new();
    for first in (0..cuts).step_by(CUTS_OF_ONE_DISK as usize) {
        match cut_again_and_again(first..cuts.min(first + CUTS_OF_ONE_DISK)) {
            Ok(more) => more.into_iter().for_each(|(end, count)| *ends.entry(end).or_default() += count),
            Err(why) => {
                return skip("e2e::what_clients_were_told_survives_power_cuts", &format!("no disk of its own: {why}"));
            }
        }
    }
    // Else the run was too tame.
    for end in ["delivered", "rejected(no)", "dead_lettered(outcome_unknown)"] {
        assert!(ends.get(end).is_some_and(|count: &usize| *count >= 10), "{end}: {ends:?}");
    }
}

/// Cuts one disk so often, and judges what was seen. Gives how many messages ended in which way, or why there is no disk.
fn cut_again_and_again(cuts: Range<u64>) -> Result<BTreeMap<String, usize>, String> {
    let dir = tempfile::tempdir().unwrap();
    let image = |cut: u64| dir.path().join(format!("disk-{cut}.ext4"));
    let mut disk = Disk::new(image(cuts.start), dir.path().join(format!("at-{}", cuts.start)))?;
    let mut run = Run::new("power_cuts", 4);
    // Written anew again and again.
    run.place.set("outbox.window", "256").set("outbox.rotate_above", r#""4MiB""#);
    // No more waits than a copy has room for, beside what the store needs to drain.
    run.place.set("outbox.max_messages", "1000").set("outbox.min_free", r#""64MiB""#);
    run.place.set("outbox.path", &format!("{:?}", disk.at.join("state")));
    let mut rotations = 0.0;
    for cut in cuts.clone() {
        run.open();
        let relay = run.start();
        let mut next = None;
        run.load(relay, |relay, progress| {
            // From early in its life to late: 50 ms, 0.1 s … doubled with every cut up to 3.2 s, and again.
            let age = Duration::from_millis(50 << (cut % 7));
            progress.wait_accepted(1);
            thread::sleep(age);
            rotations += relay.metric("tidegate_store_rotations_total");
            relay.signal(Signal::STOP);
            wait_stopped(&relay);
            wait_read(&relay);
            disk.copy(&image(cut + 1));
            // Nothing that clients read after the copy may come from after it.
            run.upstream.gate(Gate::Shut);
            relay.kill();
            next = Some(Disk::mount(image(cut + 1), dir.path().join(format!("at-{}", cut + 1))).unwrap());
            None
        });
        let old = std::mem::replace(&mut disk, next.unwrap());
        let _ = std::fs::remove_file(&old.image);
        drop(old);
        run.place.set("outbox.path", &format!("{:?}", disk.at.join("state")));
    }
    let ends = run.finish();
    println!("cuts {cuts:?}, {rotations} times written anew: {ends:?}");
    Ok(ends)
}
