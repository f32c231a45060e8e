//! One transport serves after another one: what was missed in between, and what that is called.

use bytes::Bytes;

use super::*;
use crate::dialect::{Answer, AskFor, StreamEvent, Transport};
use crate::relay::pairs::SessionId;

/// The service brings the channels of its address, and knows where it was if a connection names an event.
const DIALECT: &str = r#"
dialect = 1
name = "wave"
[connect]
path = "/{channel*}"
CONNECT
[transport.sse]
[transport.long-poll]
[transport.poll]
[close]
then = { "4000" = "fatal" }
[[on]]
match = { "/of" = { exists = true } }
is = "event"
channel = "/of"
EVENT
data = "/n"
"#;
const PLACES: (&str, &str) = ("resumes = true\nheaders = { last = \"{cursor?}\" }", "id = \"/id\"");
const NOTHING: (&str, &str) = ("", "");

/// A relay that is live over the first of these transports, one session that hears `a` and `b`, and two events of `a`.
fn live((connect, event): (&str, &str), transports: &[Transport]) -> (Service, SessionId) {
    let dialect = DIALECT.replace("CONNECT", connect).replace("EVENT", event);
    let mut service = Service::speaking(&dialect, |config| {
        config.upstream.transports = transports.to_vec();
        config.upstream.climb_after = Duration::from_secs(60);
        config.upstream.backoff.max = Duration::from_secs(1);
    });
    let one = service.join(0);
    service.subscribe(one, &["a", "b"]);
    service.until_connect();
    service.connect();
    for n in 1..=2 {
        say(&mut service, n);
    }
    assert!(service.told(one).ends_with(&["event a 1".to_owned(), "event a 2".to_owned()]));
    (service, one)
}

/// An event of `a` on the last connection, as its transport has it.
fn say(service: &mut Service, n: u64) {
    let body = Bytes::from(json!({"of": "a", "n": n, "id": n.to_string()}).to_string());
    let (_, _, transport) = *service.ways.last().unwrap();
    service.say_frame(match transport {
        Transport::WebSocket => WireFrame::Text(body),
        Transport::Sse => WireFrame::Event(Box::new(StreamEvent { data: Some(body), ..StreamEvent::default() })),
        Transport::LongPoll | Transport::Poll => answer(200, body),
    });
}

fn answer(status: u16, body: Bytes) -> WireFrame {
    let (etag, last_modified, retry_after) = (None, None, None);
    WireFrame::Answer(Box::new(Answer { of: AskFor::Poll, status, etag, last_modified, retry_after, body }))
}

fn cut(service: &mut Service) {
    service.lose(Disconnect::Reset(String::new()));
}

/// The transport in use is refused so often that the next one is taken.
fn fall(service: &mut Service) {
    for _ in 0..3 {
        service.until_connect();
        service.attempt = service.connects.pop_front().unwrap();
        service.lose(Disconnect::BadStatus { status: 404, retry_after: None, detail: String::new() });
    }
    service.until_connect();
    service.connect();
}

fn transport(service: &Service) -> Transport {
    service.ways.last().unwrap().2
}

#[test]
fn a_fall_is_one_gap_that_says_so() {
    let (mut service, one) = live(NOTHING, &[Transport::WebSocket, Transport::Sse]);
    cut(&mut service);
    assert_eq!(service.told(one), [""; 0], "which transport comes next is not known");
    fall(&mut service);
    say(&mut service, 3);
    assert_eq!(transport(&service), Transport::Sse);
    assert_eq!(service.told(one), ["gap a transport_switch", "gap b transport_switch", "event a 3"]);
    assert_eq!(service.relay.stats.link.transport_switches, 1);
}

#[test]
fn the_same_transport_again_is_a_reconnect() {
    let (mut service, one) = live(NOTHING, &[Transport::WebSocket, Transport::Sse]);
    cut(&mut service);
    service.until_connect();
    service.connect();
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"]);
}

#[test]
fn where_no_other_connection_is_to_come_the_gap_is_told_at_once() {
    for end in [
        |service: &mut Service| service.close(4000),
        |service: &mut Service| {
            service.relay.pause_upstream(service.now);
            service.turn();
            service.lose(Disconnect::Asked);
        },
    ] {
        let (mut service, one) = live(NOTHING, &[Transport::WebSocket, Transport::Sse]);
        end(&mut service);
        assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect"]);
    }
}

#[test]
fn a_fall_from_a_known_place_is_no_gap() {
    let (mut service, one) = live(PLACES, &[Transport::WebSocket, Transport::LongPoll]);
    cut(&mut service);
    fall(&mut service);
    assert_eq!(transport(&service), Transport::LongPoll);
    for n in 2..=3 {
        say(&mut service, n);
    }
    assert_eq!(service.told(one), ["event a 3"], "2 was told before, and proves that nothing is missing");
    assert_eq!(service.relay.stats.feed.gaps.total(), 0);
}

#[test]
fn a_service_that_forgot_the_place_leaves_a_gap() {
    let (mut service, one) = live(PLACES, &[Transport::WebSocket, Transport::Sse]);
    cut(&mut service);
    service.until_connect();
    service.connect();
    say(&mut service, 4);
    assert_eq!(service.told(one), ["gap a reconnect", "gap b reconnect", "event a 4"]);
    say(&mut service, 5);
    cut(&mut service);
    fall(&mut service);
    say(&mut service, 7);
    say(&mut service, 8);
    assert_eq!(
        service.told(one),
        ["event a 5", "gap a transport_switch", "gap b transport_switch", "event a 7", "event a 8"]
    );
}

/// On the second rung, and the first one is tried: both connections.
fn climbing(kind: (&str, &str)) -> (Service, SessionId, AttemptId, AttemptId) {
    let (mut service, one) = live(kind, &[Transport::WebSocket, Transport::Sse]);
    cut(&mut service);
    fall(&mut service);
    for n in 2..=3 {
        say(&mut service, n);
    }
    service.told(one);
    let old = service.attempt;
    assert!(service.until_connect() >= Duration::from_secs(50), "it waits before it climbs");
    service.connect();
    assert_eq!(transport(&service), Transport::WebSocket);
    let new = service.attempt;
    (service, one, old, new)
}

fn over_sse(service: &mut Service, attempt: AttemptId, n: u64) {
    let data = Some(Bytes::from(json!({"of": "a", "n": n, "id": n.to_string()}).to_string()));
    service.say_frame_on(attempt, WireFrame::Event(Box::new(StreamEvent { data, ..StreamEvent::default() })));
}

#[test]
fn a_climb_is_whole_where_ids_overlap() {
    let (mut service, one, old, _) = climbing(PLACES);
    say(&mut service, 3);
    say(&mut service, 4);
    over_sse(&mut service, old, 4);
    over_sse(&mut service, old, 5);
    service.pass_seconds(2);
    assert_eq!(service.closed, [old]);
    say(&mut service, 5);
    say(&mut service, 6);
    assert_eq!(service.told(one), ["event a 4", "event a 5", "event a 6"]);
    assert_eq!((service.relay.stats.feed.gaps.total(), service.relay.stats.link.transport_switches), (0, 2));
}

#[test]
fn a_fall_right_after_a_climb_is_whole_too() {
    let (mut service, one, old, _) = climbing(PLACES);
    say(&mut service, 3);
    service.pass_seconds(2);
    assert_eq!(service.closed, [old]);
    say(&mut service, 4);
    cut(&mut service);
    fall(&mut service);
    say(&mut service, 4);
    say(&mut service, 5);
    assert_eq!(service.told(one), ["event a 4", "event a 5"]);
    assert_eq!(service.relay.stats.feed.gaps.total(), 0);
}

#[test]
fn a_climb_without_ids_is_one_gap_that_says_so() {
    let (mut service, one, old, new) = climbing(NOTHING);
    assert_eq!(service.told(one), ["gap a transport_switch", "gap b transport_switch"]);
    say(&mut service, 4);
    over_sse(&mut service, old, 4);
    service.pass_seconds(2);
    assert_eq!((service.closed.clone(), service.told(one)), (vec![old], vec!["event a 4".to_owned()]));
    // The other way round: the better one fails after it spoke for the channels.
    let (mut service, one, _, _) = climbing(NOTHING);
    service.told(one);
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Reset(String::new()) });
    assert_eq!(service.told(one), ["gap a transport_switch", "gap b transport_switch"]);
}

#[test]
fn a_climb_that_fails_is_followed_by_none_until_the_next_one_is_due() {
    let (mut service, one, old, new) = climbing(PLACES);
    service.pass(Duration::from_millis(500));
    service.input(Input::Disconnected { attempt: new, reason: Disconnect::Reset(String::new()) });
    over_sse(&mut service, old, 4);
    service.pass_seconds(50);
    assert_eq!((service.connects.len(), service.closed.len()), (0, 0), "what serves is left alone");
    assert_eq!(service.told(one), ["event a 4"]);
    assert!(service.until_connect() >= Duration::from_secs(50), "twice as long as before");
}

#[test]
fn a_connection_lost_during_a_climb_is_followed_by_one_that_misses_nothing() {
    // The candidate goes on where it was: it takes the place.
    let (mut service, one, old, _) = climbing(PLACES);
    say(&mut service, 3);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Reset(String::new()) });
    say(&mut service, 4);
    assert_eq!((service.told(one), service.relay.link_word()), (vec!["event a 4".to_owned()], "live"));
    // It has brought what nobody was told yet: another one begins where the lost one ended.
    let (mut service, one, old, new) = climbing(PLACES);
    say(&mut service, 3);
    say(&mut service, 4);
    service.input(Input::Disconnected { attempt: old, reason: Disconnect::Reset(String::new()) });
    assert_eq!(service.closed, [new]);
    service.until_connect();
    service.connect();
    for n in 3..=5 {
        say(&mut service, n);
    }
    assert_eq!(service.told(one), ["event a 4", "event a 5"]);
    assert_eq!(service.relay.stats.feed.gaps.total(), 0);
}

#[test]
fn a_channel_that_is_wanted_again_waits_for_the_address_that_names_it() {
    let (mut service, one) = live(NOTHING, &[Transport::WebSocket]);
    service.unsubscribe(one, &["a"]);
    service.pass_seconds(5);
    service.subscribe(one, &["a"]);
    service.told(one);
    say(&mut service, 3);
    assert_eq!(service.told(one), [""; 0], "the old address names it still, and may go at any moment");
    service.until_connect();
    service.connect();
    say(&mut service, 4);
    assert!(service.told(one).contains(&"event a 4".to_owned()));
}

#[test]
fn polls_that_are_refused_give_way_too() {
    let (mut service, _) = live(NOTHING, &[Transport::LongPoll, Transport::Poll]);
    for _ in 0..4 {
        service.say_frame(answer(404, Bytes::new()));
        service.until_connect();
        service.connect();
    }
    assert_eq!(transport(&service), Transport::Poll, "one that had served, and three that never did");
}

#[test]
fn a_service_that_refuses_each_poll_was_never_live() {
    for polls in [Transport::LongPoll, Transport::Poll] {
        let dialect = DIALECT.replace("CONNECT", "").replace("EVENT", "");
        let mut service = Service::speaking(&dialect, |config| {
            config.upstream.transports = vec![polls];
            config.upstream.backoff.max = Duration::from_secs(1);
        });
        let one = service.join(0);
        service.subscribe(one, &["a", "$status"]);
        service.told.clear();
        for tries in 1..=6 {
            service.until_connect();
            service.connect();
            service.pass(Duration::from_millis(999));
            assert_eq!(service.relay.link_word(), "connecting", "{polls:?} {tries}");
            service.say_frame(answer(404, Bytes::new()));
            assert_eq!(service.relay.link.failures(), tries);
        }
        let states: Vec<&str> = service.told.iter().filter_map(|(_, frame)| frame["data"]["state"].as_str()).collect();
        assert_eq!(states, ["connecting", "backing_off"].repeat(6));
        let stats = &service.relay.stats;
        assert_eq!((stats.feed.gaps.total(), stats.link.ready, stats.link.lost, stats.link.flaps), (0, 0, 0, 0));
        assert_eq!(service.notices, []);

        // One that is answered is live before what it brings.
        service.until_connect();
        service.connect();
        say(&mut service, 1);
        assert_eq!(service.relay.link_word(), "live");
        let told = service.told(one);
        let [.., live, event] = &told[..] else { panic!("{told:?}") };
        assert!(live.starts_with("event $status") && event == "event a 1", "{told:?}");
        assert_eq!(service.relay.stats.feed.gaps.total(), 0, "nobody was told that it was live before");
    }
}

#[test]
fn a_long_poll_that_is_held_gets_through_and_a_poll_has_to_be_answered() {
    for (polls, word) in [(Transport::LongPoll, "live"), (Transport::Poll, "connecting")] {
        let dialect = DIALECT.replace("CONNECT", "").replace("EVENT", "");
        let mut service = Service::speaking(&dialect, |config| config.upstream.transports = vec![polls]);
        let one = service.join(0);
        service.subscribe(one, &["a"]);
        service.until_connect();
        service.connect();
        service.pass(Duration::from_millis(999));
        assert_eq!(service.relay.link_word(), "connecting");
        service.pass(Duration::from_millis(1));
        assert_eq!(service.relay.link_word(), word);
        // The poll has its own time, which is longer than that of a handshake.
        service.pass_seconds(60);
        assert_eq!((service.relay.link_word(), service.closed.len()), (word, 0));
        service.say_frame(answer(304, Bytes::new()));
        assert_eq!((service.relay.link_word(), service.relay.stats.link.ready), ("live", 1));
    }
}
