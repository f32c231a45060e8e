//! Upstream's sequence numbers: what comes twice, early, not at all, or anew.

use super::*;

/// The service's events carry numbers without holes.
fn numbered(gap: &str) -> (Service, crate::relay::pairs::SessionId) {
    let dialect = DIALECT.replace("LIMITS", gap).replace("HELLO", "");
    let dialect = dialect.replacen("data = \"/data\"", "data = \"/data\"\nseq = \"/n\"", 1);
    let mut service = Service::speaking(&dialect, |_| {});
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a", "b"]);
    service.ack_all();
    service.told(one);
    (service, one)
}

fn say(service: &mut Service, channel: &str, numbers: &[u64]) {
    for n in numbers {
        service.say(&json!({"event": channel, "data": n, "n": n}));
    }
}

const REORDER: &str = "[gap]\nreorder = \"50ms\"";

#[test]
fn what_comes_early_waits_for_its_turn() {
    let (mut service, one) = numbered(REORDER);
    say(&mut service, "a", &[1, 3, 4, 3]);
    assert_eq!(service.told(one), ["event a 1"]);
    say(&mut service, "a", &[2]);
    assert_eq!(service.told(one), ["event a 2", "event a 3", "event a 4"], "the second 3 is a duplicate");
    assert_eq!(service.relay.stats.feed.reordered, 3);
    assert_eq!(service.relay.stats.feed.dropped.get(&crate::relay::stats::DropReason::Duplicate), 1);
    service.pass_seconds(1);
    assert_eq!(service.told(one), Vec::<String>::new());
}

#[test]
fn what_does_not_come_in_time_is_a_hole() {
    let (mut service, one) = numbered(REORDER);
    say(&mut service, "a", &[1, 3, 6]);
    service.pass(Duration::from_millis(49));
    assert_eq!(service.told(one), ["event a 1"]);
    service.pass(Duration::from_millis(1));
    let told = ["gap a upstream_seq", "event a 3", "gap a upstream_seq", "event a 6"];
    assert_eq!(service.told(one), told);
    say(&mut service, "a", &[2, 7]);
    assert_eq!(service.told(one), ["event a 7"], "what comes after its hole was told is late");
}

#[test]
fn a_connection_that_is_lost_ends_every_wait() {
    let (mut service, one) = numbered(REORDER);
    say(&mut service, "a", &[1, 3]);
    service.close(1006);
    assert_eq!(service.told(one), ["event a 1", "gap a upstream_seq", "event a 3", "gap b reconnect"]);
}

#[test]
fn numbers_of_a_connection_wait_over_channels() {
    let (mut service, one) = numbered("[gap]\nscope = \"connection\"\nreorder = \"50ms\"");
    say(&mut service, "a", &[1, 3]);
    say(&mut service, "b", &[2]);
    assert_eq!(service.told(one), ["event a 1", "event b 2", "event a 3"]);
}

#[test]
fn too_many_wait_no_longer() {
    let (mut service, one) = numbered("[gap]\nreorder = \"1h\"");
    say(&mut service, "a", &[1]);
    say(&mut service, "a", &(3..=1_027).collect::<Vec<_>>());
    let told = service.told(one);
    assert_eq!(&told[..3], ["event a 1", "gap a upstream_seq", "event a 3"]);
    assert_eq!(told.len(), 1_027);
}
