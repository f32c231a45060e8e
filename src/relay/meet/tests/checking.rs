//! Checksums over a channel's state, with the levels and digits of Kraken's books.

use super::*;
use crate::relay::pairs::SessionId;
use crate::relay::stats::{DropReason, GapReason};

/// Books begin with their state; each change has the checksum of the state that it leads to.
const BOOKS: &str = r#"
dialect = 1
name = "books"
[gap]
checksum = "kraken-v2"
then = "THEN"
[send]
subscribe = '{"op":"subscribe","channels":{channel*},"id":{id}}'
unsubscribe = '{"op":"unsubscribe","channels":{channel*},"id":{id}}'
[[on]]
match = { "/book" = { exists = true } }
is = "snapshot"
channel = "/book"
data = "/n"
checksum = ""
[[on]]
match = { "/change" = { exists = true } }
is = "event"
channel = "/change"
fold = "append"
data = "/n"
checksum = ""
[[on]]
match = { "/ok" = { exists = true } }
is = "ack"
req = "/ok"
"#;

/// Sums of the one ask 5.0 of 1, 2, 3 or 4.
const SUMS: [u32; 5] = [0, sum(b"501"), sum(b"502"), sum(b"503"), sum(b"504")];

/// CRC-32 (ISO-HDLC), bit by bit.
const fn sum(text: &[u8]) -> u32 {
    let (mut crc, mut at) = (u32::MAX, 0);
    while at < text.len() {
        crc ^= text[at] as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        at += 1;
    }
    !crc
}

fn books(then: &str) -> (Service, SessionId) {
    let mut service = Service::speaking(&BOOKS.replace("THEN", then), |_| {});
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a", "b"]);
    service.ack_all();
    say(&mut service, "book", "a", 1, 1);
    say(&mut service, "book", "b", 1, 1);
    service.told(one);
    (service, one)
}

/// The ask has this quantity now; the sum is that of a state in which it has `stated`.
fn say(service: &mut Service, what: &str, channel: &str, quantity: usize, stated: usize) {
    let asks = json!([{"price": "5.0", "qty": quantity.to_string()}]);
    service.say(&json!({what: channel, "n": quantity, "asks": asks, "bids": [], "checksum": SUMS[stated]}));
}

#[test]
fn a_sum_that_is_not_ours_is_a_gap_and_the_book_begins_anew() {
    let (mut service, one) = books("resubscribe");
    say(&mut service, "change", "a", 2, 2);
    assert_eq!(service.told(one), ["event a 2"]);
    say(&mut service, "change", "a", 3, 4);
    assert_eq!(service.told(one), ["gap a checksum"], "a change to a wrong state is none");
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    assert_eq!(short(&service.ack_all()), ["subscribe a"]);
    say(&mut service, "change", "a", 4, 1);
    assert_eq!(service.told(one), Vec::<String>::new(), "nothing is proved, and nothing passed on, before the state");
    say(&mut service, "book", "a", 4, 4);
    assert_eq!(service.told(one), ["reset a repaired", "event a 4"]);
    say(&mut service, "change", "a", 1, 1);
    say(&mut service, "change", "b", 2, 2);
    assert_eq!(service.told(one), ["event a 1", "event b 2"], "the other book was right all the while");
    let feed = &service.relay.stats.feed;
    assert_eq!((feed.mismatched, feed.gaps.get(&GapReason::Checksum)), (1, 1));
    assert_eq!(feed.dropped.get(&DropReason::NoBase), 2);
}

#[test]
fn a_state_that_is_wrong_in_itself_is_asked_for_again_and_not_without_end() {
    let (mut service, one) = books("resubscribe");
    say(&mut service, "book", "a", 3, 4);
    assert_eq!(service.told(one), ["event a 3", "gap a checksum"], "the state, and that it is none");
    let mut asked = 0;
    for _ in 0..1_000 {
        for message in service.ack_all() {
            if message["op"] == "subscribe" {
                asked += 1;
                say(&mut service, "book", "a", 3, 4);
            }
        }
        say(&mut service, "change", "a", 3, 4);
        service.pass_seconds(1);
    }
    assert!((2..=4).contains(&asked), "what was in vain is tried again rarely: {asked}");
    say(&mut service, "book", "a", 1, 1);
    service.told(one);
    say(&mut service, "change", "a", 2, 2);
    say(&mut service, "change", "a", 3, 4);
    assert_eq!(service.told(one)[..2], ["event a 2", "gap a checksum"], "a state that adds up is checked again");
}

#[test]
fn another_connection_where_the_dialect_says_so() {
    let (mut service, one) = books("reconnect");
    say(&mut service, "change", "a", 3, 4);
    assert_eq!(service.told(one)[0], "gap a checksum");
    service.until_connect();
    service.connect();
    assert_eq!(short(&service.ack_all()), ["subscribe a b"]);
    say(&mut service, "book", "a", 2, 2);
    say(&mut service, "change", "a", 3, 3);
    let told = service.told(one);
    assert_eq!(told[told.len() - 2..], ["event a 2", "event a 3"]);
}

#[test]
fn a_hole_that_nothing_is_done_about_is_told_all_the_same() {
    let (mut service, one) = books("report");
    say(&mut service, "change", "a", 3, 4);
    say(&mut service, "change", "a", 1, 4);
    assert_eq!(service.told(one), ["gap a checksum", "event a 3", "event a 1"]);
    assert_eq!(service.heard(), Vec::<Value>::new());
}
