//! No room: refused before acceptance, and what was accepted is untouched.

use serde_json::{Value, json};

use crate::common::{skip, until};
use crate::disks::SmallDisk;
use crate::load::Run;
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

/// Puts a place's state on a small disk; `None`, told past the test runner's capture, where none can be mounted.
fn put_on_small_disk(test: &str, place: &mut Place, size: &str, min_free: &str) -> Option<SmallDisk> {
    let at = place.path("small");
    match SmallDisk::mount(&at, size) {
        Ok(disk) => {
            place.set("outbox.path", &format!("{:?}", at.join("state"))).set("outbox.min_free", min_free);
            Some(disk)
        }
        Err(reason) => {
            skip(&format!("e2e::{test}"), &format!("no tmpfs can be mounted here: {reason}"));
            None
        }
    }
}

/// A place whose state is on a small disk.
fn on_small_disk(test: &str, upstream: &Upstream, min_free: &str) -> Option<(Place, SmallDisk)> {
    let mut place = Place::new(upstream);
    let disk = put_on_small_disk(test, &mut place, "48m", min_free)?;
    Some((place, disk))
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

/// Publishes messages of so many bytes, so many at once, until more than 10 MB wait and there is no room, starts the relay again, lets
/// upstream have them, and waits until there is room.
fn fill_and_drain(place: &Place, upstream: &Upstream, size: usize, together: usize) {
    upstream.gate(Gate::Shut);
    let relay = place.start();
    let message = json!({"channel": "orders", "data": "x".repeat(size)});
    let list = json!({"messages": vec![message; together], "atomic": true});
    let mut waiting = 0;
    until("a refusal of more than 10 MB", || match relay.publish(&list) {
        answer if answer.status == 202 => {
            waiting += size * together;
            None
        }
        answer => {
            assert_eq!((answer.status, answer.json()["code"].clone()), (507, json!("store_full")), "{}", answer.body);
            // Before that, room may still have to be made.
            (waiting > 10_000_000).then_some(())
        }
    });
    relay.stop();
    let relay = place.start();
    upstream.gate(Gate::Open);
    relay.wait_settled();
    assert_eq!(relay.metric("tidegate_store_failed"), 0.0);
    until("acceptance to come back", || (relay.publish(&order(1)).status == 202).then_some(()));
    relay.wait_settled();
    relay.stop();
}

#[test]
fn a_small_disk_that_ran_full_at_full_speed_can_be_drained() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let Some(_disk) = put_on_small_disk("small_disk_drained", &mut place, "96m", r#""8MiB""#) else { return };
    place.set("outbox.ballast", r#""8MiB""#).set("outbox.keep_outcomes_max", "1000");
    for (size, together) in [(1_000, 150), (5_000, 40), (100_000, 2)] {
        fill_and_drain(&place, &upstream, size, together);
    }
}

/// The file may become as large as that on this disk, but not with so much free.
#[test]
fn room_that_is_missing_is_made_before_the_file_is_large() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let Some(_disk) = put_on_small_disk("room_is_made", &mut place, "96m", r#""48MiB""#) else { return };
    place
        .set("outbox.ballast", r#""0B""#)
        .set("outbox.keep_outcomes_max", "1000")
        .set("outbox.rotate_above", r#""64MiB""#);
    for _ in 0..3 {
        fill_and_drain(&place, &upstream, 5_000, 40);
    }
}

/// Only the start fails here: what a take-over that failed before it leaves behind is not tried.
#[test]
fn starts_that_find_no_room_for_the_journal_lose_nothing() {
    let upstream = Upstream::plain();
    upstream.gate(Gate::Shut);
    let mut place = Place::new(&upstream);
    let Some(disk) = put_on_small_disk("no_room_for_journal", &mut place, "250m", "0") else { return };
    place.set("outbox.ballast", r#""0B""#);
    let (mut accepted, mut refused) = (0, 0);
    for left in (0..10).map(|n| n << 20) {
        let relay = place.start();
        let list =
            json!({"messages": vec![json!({"channel": "orders", "data": "x".repeat(100_000)}); 2], "atomic": true});
        for _ in 0..20 {
            assert_eq!(relay.publish(&list).status, 202);
            accepted += 2;
        }
        relay.kill();
        disk.fill(left);
        match place.start_by(&[]) {
            Ok(relay) => relay.kill(),
            Err((code, said)) => {
                assert_eq!(code, Some(74), "{said}");
                refused += 1;
            }
        }
        disk.free();
        let relay = place.start();
        assert_eq!(relay.metric("tidegate_store_lost_records_total"), 0.0, "with {left} bytes");
        assert_eq!(relay.status()["outbox"]["depth"], accepted, "with {left} bytes");
        relay.stop();
    }
    assert!(refused > 0, "there was always room");
    let relay = place.start();
    upstream.gate(Gate::Open);
    relay.wait_settled();
    assert_eq!(arrived(&upstream).len(), accepted);
    relay.stop();
}

#[test]
fn a_disk_that_runs_full_under_load_and_is_freed_breaks_no_promise() {
    for _ in 0..3 {
        let mut run = Run::new("full_under_load", 3);
        // The store needs some room to drain, and for a copy of what waits.
        let min_free = r#""24MiB""#;
        let Some(disk) = put_on_small_disk("full_under_load", &mut run.place, "160m", min_free) else { return };
        run.place.set("outbox.rotate_above", r#""4MiB""#);
        // Full before the end of the room, and really full.
        for really in [false, true] {
            run.place.set("outbox.min_free", if really { "0" } else { min_free });
            run.load(run.start(), |relay, progress| {
                progress.wait_accepted(100);
                disk.fill(if really { 0 } else { 16 << 20 });
                until("the publishers to be refused", || (progress.refused() >= 50).then_some(()));
                run.scrape(&relay);
                // What is free is looked at now and then: many at once may find the end of the room before.
                let failed = relay.metric("tidegate_store_failed") > 0.0;
                assert!(failed || !really, "there was no room at all");
                if !failed {
                    disk.free();
                    // There may be no room left but what is drained.
                    run.answer_all(&relay);
                    progress.wait_accepted(progress.accepted() + 100);
                    run.answer_as_before();
                    disk.fill(0);
                }
                relay.kill();
                None
            });
            disk.free();
        }
        run.place.set("outbox.min_free", min_free);
        run.finish();
    }
}
