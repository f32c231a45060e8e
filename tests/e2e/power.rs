//! Power cuts, on a real ext4: the relay is frozen in the midst of its work, the disk under it is copied as it is at that
//! moment, and the copy is mounted. What no fsync brought to that disk is gone, as after a power cut.
//!
//! A frozen process can have told its clients nothing but what they have read, so what they were told is compared with what a
//! relay on the copy knows. Each cut goes on from the copy of the one before.
//! Needs root and loop devices; says SKIP where they are not to be had. `TIDEGATE_TEST_CUTS` sets how many cuts there are.
//! Deliberately not here: disks that lie about a flush, about which nothing can be promised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::until;
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Upstream, plain_answer};

/// Cuts of one run, unless the environment says otherwise.
const CUTS: u64 = 10;
const PUBLISHERS: u64 = 4;
/// Requests of one publisher without an answer.
const OUTSTANDING: usize = 16;
/// Messages of these sizes take turns; the last ones become several records …
const SIZES: [usize; 6] = [20, 300, 300, 300, 5_000, 40_000];
/// … and one of so many is this large.
const LARGE: (u64, usize) = (200, 1_000_000);
/// Of 97 messages, the one that upstream never answers.
const UNANSWERED: u64 = 5;
/// Size of the disk.
const DISK: u64 = 256 << 20;

/// A file with an ext4 in it, mounted; unmounted at the end.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn format(image: &Path) -> Result<(), String> {
        std::fs::File::create(image).and_then(|file| file.set_len(DISK)).map_err(|error| error.to_string())?;
        command("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])
    }

    fn mount(image: PathBuf, at: PathBuf) -> Result<Disk, String> {
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        // `commit`: the file system brings nothing to the disk by itself that nobody asked for.
        command("mount", &["-o", "loop,commit=300", &image.to_string_lossy(), &at.to_string_lossy()])?;
        Ok(Disk { image, at })
    }

    /// The disk as it is now, in another file; read until two readings agree, so that no write passed through them.
    fn copy(&self, to: &Path) {
        let read = || std::fs::read(&self.image).unwrap();
        let mut last = read();
        loop {
            let next = read();
            if next == last {
                break;
            }
            last = next;
        }
        std::fs::write(to, last).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command("umount", &["-l", &self.at.to_string_lossy()]);
    }
}

fn command(name: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// What clients were told of a message.
#[derive(Debug, Clone, Default, PartialEq)]
struct Told {
    /// The state of its outcome, if they know one.
    outcome: Option<String>,
}

/// What clients were told, by message.
type Ledger = Arc<Mutex<BTreeMap<String, Told>>>;

/// Publishes until the relay is gone, and writes down every word of it.
fn publish(mut client: Client, publisher: u64, cut: u64, ledger: &Ledger, read: &AtomicU64) {
    let mut outstanding = 0;
    for n in 0_u64.. {
        while outstanding >= OUTSTANDING {
            let Some(frame) = client.try_next() else { return };
            match frame["kind"].as_str() {
                Some("accepted") => {
                    ledger.lock().unwrap().entry(id(&frame)).or_default();
                    outstanding -= 1;
                }
                Some("outcome") => {
                    let state = frame["state"].as_str().unwrap().to_owned();
                    let earlier = ledger.lock().unwrap().entry(id(&frame)).or_default().outcome.replace(state);
                    assert_eq!(earlier, None, "a second outcome: {frame}");
                }
                // Full: what never gets an answer fills the outbox slowly, what is large fills the disk.
                Some("error") if frame["retryable"] == true => outstanding -= 1,
                Some("error") => panic!("{frame}"),
                _ => {}
            }
            read.fetch_add(1, Ordering::Relaxed);
        }
        let size = match n % LARGE.0 == publisher {
            true => LARGE.1,
            false => SIZES[usize::try_from(n).unwrap() % SIZES.len()],
        };
        let data = json!({"n": n, "fill": "x".repeat(size)});
        let key = format!("{cut}-{publisher}-{n}");
        let mut request = json!({"op": "publish", "ref": n, "channel": "orders", "data": data, "idempotency_key": key});
        if n % 97 != UNANSWERED {
            request["order_key"] = json!((n % 50).to_string());
        }
        if client.try_send(&request.to_string()).is_none() {
            return;
        }
        outstanding += 1;
    }
}

fn id(frame: &Value) -> String {
    frame["message"].as_str().unwrap().to_owned()
}

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

/// The relay on the copy knows everything that its predecessors said.
fn compare(relay: &Relay, ledger: &Ledger, cut: u64) {
    for (message, told) in ledger.lock().unwrap().iter() {
        let answer = relay.ask(&format!("GET /v1/messages/{message}"), &[], "");
        assert_eq!(
            answer.status, 200,
            "cut {cut}: message {message} ({told:?}) was accepted and is unknown: {}",
            answer.body
        );
        if let Some(outcome) = &told.outcome {
            assert_eq!(answer.json()["state"], outcome.as_str(), "cut {cut}: message {message} had ended otherwise");
        }
    }
    assert_eq!(relay.metric("tidegate_store_lost_records_total"), 0.0);
    assert_eq!(relay.metric("tidegate_outbox_conservation_error"), 0.0);
}

#[test]
fn what_clients_were_told_survives_power_cuts() {
    let dir = tempfile::tempdir().unwrap();
    let image = |cut: u64| dir.path().join(format!("disk-{cut}.ext4"));
    let prepared = Disk::format(&image(0)).and_then(|()| Disk::mount(image(0), dir.path().join("at-0")));
    let mut disk = match prepared {
        Ok(disk) => disk,
        Err(why) => {
            println!("SKIP what_clients_were_told_survives_power_cuts: no disk of its own: {why}");
            return;
        }
    };
    let upstream = Upstream::answering(|got| match got.json["data"]["n"].as_u64() {
        // Some are refused, some never answered: those are pending at every cut.
        Some(n) if got.is("publish") && n % 11 == 3 => {
            vec![json!({"type": "error", "id": got.json["id"], "code": "no", "message": "no"}).to_string()]
        }
        Some(n) if got.is("publish") && n % 97 == UNANSWERED => Vec::new(),
        _ => plain_answer(&got.json),
    });
    let cuts = std::env::var("TIDEGATE_TEST_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(CUTS);
    let ledger = Ledger::default();
    let mut place = Place::new(&upstream);
    place.set("outbox.message_max", r#""2MiB""#).set("feed.request_max", r#""2MiB""#);
    place.set("feed.session_requests", "1000000");
    place.set("outbox.window", "256");
    // Written anew again and again.
    place.set("outbox.rotate_above", r#""4MiB""#);
    let mut rotations = 0.0;
    for cut in 0..cuts {
        place.set("outbox.path", &format!("{:?}", disk.at.join("state")));
        upstream.gate(Gate::Open);
        let relay = place.start_live();
        let read = AtomicU64::new(0);
        let next = thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let (client, ledger, read) = (relay.client(), &ledger, &read);
                scope.spawn(move || publish(client, publisher, cut, ledger, read));
            }
            // From early in its life to late: 50 ms, 0.1 s … doubled with every cut up to 3.2 s, and again.
            let age = Duration::from_millis(50 << (cut % 7));
            until("the publishers to be under way", || (read.load(Ordering::Relaxed) > 0).then_some(()));
            thread::sleep(age);
            rotations += relay.metric("tidegate_store_rotations_total");
            relay.signal(Signal::STOP);
            wait_stopped(&relay);
            wait_read(&relay);
            disk.copy(&image(cut + 1));
            // Nothing that clients read after the copy may come from after it.
            upstream.gate(Gate::Shut);
            relay.kill();
            upstream.cut();
            Disk::mount(image(cut + 1), dir.path().join(format!("at-{}", cut + 1))).unwrap()
        });
        let old = std::mem::replace(&mut disk, next);
        let _ = std::fs::remove_file(&old.image);
        drop(old);
        place.set("outbox.path", &format!("{:?}", disk.at.join("state")));
        let relay = place.start();
        compare(&relay, &ledger, cut);
        relay.stop();
    }
    let told = ledger.lock().unwrap();
    assert!(told.values().any(|told| told.outcome.as_deref() == Some("delivered")));
    assert!(told.values().any(|told| told.outcome.as_deref() == Some("rejected")));
    assert!(told.values().any(|told| told.outcome.is_none()));
    println!("{cuts} cuts, {} messages told, {rotations} times written anew", told.len());
}
