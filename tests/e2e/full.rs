//! No room: refused before acceptance, and what was accepted is untouched.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::until;
use crate::rig::{Place, Relay};
use crate::upstream::{Gate, Upstream};

fn order(n: u64) -> Value {
    json!({"channel": "orders", "data": n})
}

/// What arrived, in order.
fn arrived(upstream: &Upstream) -> Vec<Value> {
    upstream.frames("publish").iter().map(|got| got.json["data"].clone()).collect()
}

#[test]
fn a_full_outbox_refuses_and_delivers_what_it_has() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let mut place = Place::new(&upstream);
    let relay = place.set("outbox.max_messages", "5").start();
    let mut client = relay.client();
    (0..3).for_each(|n| drop(client.publish(order(n))));
    // All or none: three do not fit any more.
    let list: Vec<Value> = (10..13).map(order).collect();
    client.request(json!({"op": "publish", "messages": list, "atomic": true}));
    assert_eq!(client.next_of("error")["code"], "store_full");
    (3..5).for_each(|n| drop(client.publish(order(n))));

    client.request(json!({"op": "publish", "channel": "orders", "data": 99}));
    let error = client.next_of("error");
    assert_eq!((&error["code"], &error["retryable"]), (&json!("store_full"), &json!(true)), "{error}");
    assert!(error["message"].as_str().unwrap().contains("outbox.max_messages"), "{error}");
    let refused = relay.publish(&order(99));
    assert_eq!((refused.status, refused.json()["code"].clone()), (507, json!("store_full")));
    assert_eq!(relay.status()["outbox"]["depth"], 5);
    assert!(relay.metric("tidegate_outbox_refused_total{code=\"store_full\"}") >= 3.0);
    assert_eq!(relay.metric("tidegate_outbox_accepted_total"), 5.0);

    upstream.gate(Gate::Open);
    relay.wait_settled();
    assert_eq!(arrived(&upstream), (0..5).map(|n| json!(n)).collect::<Vec<_>>());
    assert_eq!(relay.publish(&order(5)).status, 202, "there is room again");
    relay.wait_settled();
    relay.stop();
}

/// A small file system of its own, while it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one there, or says why that cannot be.
    fn mount(at: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir(at).unwrap();
        let options = format!("size={size},mode=700");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Ok(SmallDisk(at.to_owned())),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// Takes all of its room but `left` bytes.
    fn fill(&self, left: u64) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        let block = vec![7; 4096];
        loop {
            let room = rustix::fs::statvfs(&self.0).unwrap();
            if room.f_bavail * room.f_frsize <= left || file.write_all(&block).is_err() {
                return;
            }
        }
    }

    /// Gives it back.
    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A place whose state is on a small disk; `None`, told past the test runner's capture, where none can be mounted.
fn on_small_disk(test: &str, upstream: &Upstream, min_free: &str) -> Option<(Place, SmallDisk)> {
    let mut place = Place::new(upstream);
    let at = place.path("small");
    match SmallDisk::mount(&at, "48m") {
        Ok(disk) => {
            place.set("outbox.path", &format!("{:?}", at.join("state"))).set("outbox.min_free", min_free);
            Some((place, disk))
        }
        Err(reason) => {
            let line = format!("SKIP e2e::{test}: no tmpfs can be mounted here: {reason}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}

/// Publishes until the relay refuses; gives the numbers that it accepted, from `first` on.
fn publish_until_refused(relay: &Relay, first: u64, status: u16) -> Vec<u64> {
    let mut accepted = Vec::new();
    until("a refusal", || {
        let n = first + accepted.len() as u64;
        let answer = relay.publish(&order(n));
        if answer.status == 202 {
            accepted.push(n);
            return None;
        }
        assert_eq!(answer.status, status, "{}", answer.body);
        Some(())
    });
    accepted
}

#[test]
fn a_disk_that_runs_full_refuses_and_accepts_again_by_itself() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let Some((place, disk)) = on_small_disk("disk_watermark", &upstream, r#""8MiB""#) else { return };
    let relay = place.start();
    let mut accepted: Vec<u64> = Vec::new();
    for n in 0..10 {
        assert_eq!(relay.publish(&order(n)).status, 202);
        accepted.push(n);
    }
    disk.fill(4 << 20);
    accepted.extend(publish_until_refused(&relay, 10, 507));
    let refused = relay.publish(&order(9_999));
    assert_eq!((refused.status, refused.json()["code"].clone()), (507, json!("store_full")));
    assert!(refused.body.contains("outbox.min_free"), "{}", refused.body);
    assert_eq!(relay.metric("tidegate_store_failed"), 0.0);
    // Delivering goes on meanwhile: it is what makes room.
    upstream.gate(Gate::Open);
    relay.wait_settled();
    assert_eq!(arrived(&upstream), accepted.iter().map(|n| json!(n)).collect::<Vec<_>>());

    disk.free();
    until("acceptance to come back", || (relay.publish(&order(10_000)).status == 202).then_some(()));
    relay.wait_settled();
    relay.stop();
}

#[test]
fn a_disk_that_is_really_full_ends_acceptance_until_a_restart_and_loses_nothing() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let Some((place, disk)) = on_small_disk("disk_full", &upstream, "0") else { return };
    let relay = place.start();
    let mut accepted: Vec<u64> = Vec::new();
    for n in 0..10 {
        assert_eq!(relay.publish(&order(n)).status, 202);
        accepted.push(n);
    }
    disk.fill(0);
    accepted.extend(publish_until_refused(&relay, 10, 503));
    assert_eq!(relay.publish(&order(9_999)).json()["code"], "store_failed");
    assert_eq!(relay.metric("tidegate_store_failed"), 1.0);
    let ready = relay.tell("GET /readyz", &[], "");
    assert_eq!((ready.status, ready.json()["not_ready_because"].clone()), (503, json!(["store_failed"])));
    // The feed goes on.
    upstream.gate(Gate::Open);
    relay.wait_state("live");
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    upstream.event("a", &json!("still"));
    assert_eq!(client.next_of("event")["data"], "still");
    relay.kill();

    disk.free();
    let relay = place.start_live();
    relay.wait_settled();
    let arrived = arrived(&upstream);
    assert!(accepted.iter().all(|n| arrived.contains(&json!(n))), "accepted {accepted:?}, arrived {arrived:?}");
    assert_eq!(relay.metric("tidegate_store_lost_records_total"), 0.0);
    assert_eq!(relay.publish(&order(10_000)).status, 202);
    relay.wait_settled();
    relay.stop();
}

#[test]
fn a_start_on_a_full_disk_delivers_what_waits_and_sets_room_aside_again() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let Some((mut place, disk)) = on_small_disk("disk_full_at_start", &upstream, "0") else { return };
    place.set("outbox.ballast", r#""8MiB""#);
    let relay = place.start();
    let ballast = place.path("small").join("state/ballast");
    until("room to be set aside", || ballast.exists().then_some(()));
    let mut accepted: Vec<u64> = (0..10).collect();
    accepted.iter().for_each(|n| assert_eq!(relay.publish(&order(*n)).status, 202));
    disk.fill(0);
    accepted.extend(publish_until_refused(&relay, 10, 503));
    relay.kill();

    // Still full: nothing is accepted, everything is delivered.
    upstream.gate(Gate::Open);
    place.set("outbox.min_free", r#""16MiB""#);
    let relay = place.start_live();
    assert!(!ballast.exists(), "the room was given back");
    let refused = relay.publish(&order(9_999));
    assert_eq!((refused.status, refused.json()["code"].clone()), (507, json!("store_full")), "{}", refused.body);
    relay.wait_settled();
    let arrived = arrived(&upstream);
    assert!(accepted.iter().all(|n| arrived.contains(&json!(n))), "accepted {accepted:?}, arrived {arrived:?}");
    assert_eq!(relay.metric("tidegate_store_failed"), 0.0);

    disk.free();
    until("room to be set aside", || ballast.exists().then_some(()));
    until("acceptance to come back", || (relay.publish(&order(10_000)).status == 202).then_some(()));
    relay.wait_settled();
    relay.stop();
}
