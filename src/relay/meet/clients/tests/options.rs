//! What subscriptions may ask of their channels' entries: which, how often, and what stands for what was left out.

use super::*;
use crate::protocol::frame::{Entry, Item};
use crate::protocol::request::options::{OnSlow, Rate};
use crate::protocol::selection::Selection;
use crate::relay::stats::GapReason;

const QUARTER: Duration = Duration::from_millis(250);

impl House {
    fn join_sse(&mut self, subscribe: Subscribe) -> SessionId {
        let session = SessionId { index: self.next, generation: 1 };
        self.next += 1;
        let (principal, format) = (Arc::new(Principal::local()), Format::Sse);
        self.input(Input::Joined { session, principal, format, subscribe: Some(subscribe) });
        session
    }
}

pub(super) fn subscribe_with(channels: &[&str], change: impl FnOnce(&mut Options)) -> Subscribe {
    let mut request = subscribe(channels);
    change(&mut request.options);
    request
}

fn conflated(channels: &[&str]) -> Subscribe {
    subscribe_with(channels, |options| options.conflate = Some(QUARTER))
}

/// The ids of SSE in what a session got since the last look: a browser returns with the last one.
fn ids(house: &mut House, session: SessionId) -> Vec<String> {
    let wires: Vec<String> = house
        .batches
        .iter()
        .filter(|(id, _)| *id == session)
        .map(|(_, batch)| String::from_utf8_lossy(batch.wire(Format::Sse)).into_owned())
        .collect();
    house.batches.retain(|(id, _)| *id != session);
    let lines = wires.iter().flat_map(|wire| wire.lines());
    lines.filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
}

#[test]
fn conflation_lets_the_newest_of_each_key_through_once_in_an_interval() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.ask(client, Request::Subscribe(conflated(&["c"])));
    assert_eq!(house.frames(client)[1]["lossy"], true);
    house.keyed_event("c", "a", "1");
    house.turn();
    assert_eq!(house.short(client), ["c=1"], "the first one leaves at once");
    for n in 2..=5 {
        house.keyed_event("c", "a", &n.to_string());
        house.turn();
    }
    house.keyed_event("c", "b", "6");
    house.turn();
    house.wait(QUARTER - Duration::from_millis(1));
    assert!(house.short(client).is_empty(), "its time has not come");
    assert_eq!(house.relay.poll_timeout(), Some(house.now.mono + Duration::from_millis(1)));
    house.wait(Duration::from_millis(1));
    assert_eq!(house.short(client), ["conflated 3", "c=5", "c=6"]);
    assert_eq!(house.relay.stats().feed.conflated, 3);
    house.wait(QUARTER * 4);
    house.keyed_event("c", "a", "7");
    house.turn();
    assert_eq!(house.short(client), ["c=7"], "after a pause at once again");
}

#[test]
fn what_is_left_out_is_told_from_its_first_to_its_last() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.ask(client, Request::Subscribe(conflated(&["c"])));
    house.event("c", "0");
    house.turn();
    let first = house.relay.feed.head();
    house.frames(client);
    for (channel, data) in [("c", "1"), ("other", "2"), ("c", "3"), ("c", "4")] {
        house.event(channel, data);
    }
    house.wait(QUARTER);
    let frames = house.frames(client);
    assert_eq!((&frames[0]["kind"], &frames[0]["channel"]), (&"conflated".into(), &"c".into()));
    let told = (frames[0]["from"].as_u64(), frames[0]["to"].as_u64(), frames[0]["count"].as_u64());
    // Between them another channel began, which burned an offset.
    assert_eq!(told, (Some(first + 1), Some(first + 4), Some(2)));
    assert_eq!(frames[1]["prev"], first + 4, "what is told reaches up to what follows");
}

#[test]
fn only_events_are_left_out_and_upstreams_statement_stands_for_all_before_it() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.ask(client, Request::Subscribe(conflated(&["c"])));
    house.event("c", "0");
    house.turn();
    house.frames(client);
    house.keyed_event("c", "a", "1");
    let ring = house.relay.feed.find("c").unwrap();
    let stats = &mut house.relay.stats.feed;
    house.relay.feed.admit_gap(ring, house.now, None, GapReason::Reconnect, stats);
    house.keyed_event("c", "b", "2");
    house.any_event("c", None, None, "3", (Role::Snapshot, Fold::Replace));
    house.keyed_event("c", "b", "4");
    house.wait(QUARTER);
    let short = house.short(client);
    assert_eq!(
        (&short[0][..], &short[1][..9], &short[2..]),
        ("conflated 2", "gap recon", &["c=3".into(), "c=4".into()][..])
    );
}

#[test]
fn last_values_make_up_for_evicted_events_and_nothing_for_an_evicted_gap() {
    let mut house = House::new(|config| config.feed.ring.events = 4);
    let client = house.join();
    house.ask(client, Request::Subscribe(conflated(&["c"])));
    house.event("c", "0");
    house.turn();
    house.frames(client);
    house.keyed_event("c", "rare", "1");
    for n in 2..=20 {
        house.keyed_event("c", "often", &n.to_string());
        house.turn();
    }
    house.wait(QUARTER);
    assert_eq!(house.short(client), ["conflated 18", "c=1", "c=20"]);
    let ring = house.relay.feed.find("c").unwrap();
    let stats = &mut house.relay.stats.feed;
    house.relay.feed.admit_gap(ring, house.now, None, GapReason::Reconnect, stats);
    for n in 21..=40 {
        house.keyed_event("c", "often", &n.to_string());
        house.turn();
    }
    house.wait(QUARTER);
    let short = house.short(client);
    assert!(short[0].starts_with("gap slow"), "{short:?}");
    assert_eq!(short[1..], ["conflated 19", "c=40"]);
}

#[test]
fn what_does_not_fit_into_a_batch_follows_and_is_told_once() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.ask(client, Request::Subscribe(conflated(&["c"])));
    house.event("c", "0");
    house.turn();
    house.frames(client);
    let large = format!("\"{}\"", "x".repeat(100_000));
    for key in ["a", "b", "c", "d", "e", "f", "a"] {
        house.keyed_event("c", key, &large);
    }
    house.wait(QUARTER);
    let counts: Vec<usize> = house.batches.iter().map(|(_, batch)| batch.items().len()).collect();
    assert!(counts.len() >= 3, "{counts:?}");
    let frames = house.frames(client);
    let events = frames.iter().filter(|frame| frame["kind"] == "event").count();
    assert_eq!((events, &frames[0]["count"]), (6, &1.into()));
    assert_eq!(frames.iter().filter(|frame| frame["kind"] == "conflated").count(), 1);
}

#[test]
fn a_rate_bounds_the_events_of_a_subscription_and_loses_no_keys_last_one() {
    let mut house = House::new(|_| {});
    let client = house.join();
    let rate = Rate { events: 10, per: Duration::from_secs(1) };
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| options.max_rate = Some(rate))));
    assert_eq!(house.frames(client)[1]["lossy"], true);
    let mut data = Vec::new();
    let mut told = 0;
    for n in 0..1_000 {
        house.keyed_event("c", &format!("k{}", n % 7), &n.to_string());
        house.wait(Duration::from_millis(1));
        for frame in house.frames(client) {
            told += frame["count"].as_u64().unwrap_or(0);
            data.extend(frame["data"].as_u64());
        }
    }
    assert_eq!(data.len(), 10, "a second of it: {data:?}");
    for _ in 0..7 {
        house.wait(Duration::from_millis(100));
        let frames = house.frames(client);
        told += frames[0]["count"].as_u64().unwrap_or(0);
        let events: Vec<u64> = frames.iter().filter_map(|frame| frame["data"].as_u64()).collect();
        assert_eq!(events.len(), 1, "evenly: {frames:?}");
        data.extend(events);
    }
    assert_eq!(data[10..], [993, 994, 995, 996, 997, 998, 999], "each key's last one");
    assert_eq!(told + data.len() as u64, 1_000, "delivered or told");
    assert_eq!((house.relay.rests.due(), house.relay.stats().feed.conflated), (None, told));
}

#[test]
fn a_slow_session_may_choose_to_get_the_newest_of_each_key() {
    let mut house = House::new(|config| (config.feed.session_lag, config.feed.ring.events) = (1_024, 30));
    let client = house.join();
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| options.on_slow = OnSlow::Conflate)));
    let quick = house.join();
    house.subscribe(quick, &["c"]);
    for n in 0..10 {
        house.event("c", &n.to_string());
        house.turn();
    }
    assert_eq!(
        house.frames(client).iter().filter(|frame| frame["kind"] == "event").count(),
        10,
        "as long as it keeps up"
    );
    house.stuck.insert(client);
    house.keyed_event("c", "rare", "-1");
    for n in 10..60 {
        house.event("c", &n.to_string());
        house.turn();
    }
    house.stuck.clear();
    house.input(Input::Delivered { session: client, at: house.now.mono });
    assert_eq!(house.short(client), ["c=-1", "c=10", "conflated 48", "c=59"]);
    assert_eq!(house.frames(quick).len(), 63, "nobody else lost anything");
}

#[test]
fn where_events_add_up_none_stands_for_another() {
    let mut house = House::new(|_| {});
    house.any_event("book", None, None, "1", (Role::Event, Fold::Append));
    let client = house.join();
    house.ask(client, Request::Subscribe(conflated(&["book", "c"])));
    house.ask(client, Request::Subscribe(conflated(&["b*"])));
    let told = house.short(client);
    assert_eq!(told[1..], ["error not_supported", "subscribed c", "subscribed b*", "error not_supported"], "{told:?}");
    // It was not known before the first event.
    house.any_event("c", None, None, "1", (Role::Event, Fold::Append));
    house.turn();
    let frames = house.frames(client);
    assert_eq!((frames.len(), &frames[0]["code"], &frames[0]["channel"]), (1, &"not_supported".into(), &"c".into()));
    assert!(frames[0]["message"].as_str().unwrap().contains("fold = append"), "{frames:?}");
    house.any_event("c", None, None, "2", (Role::Event, Fold::Append));
    house.turn();
    assert!(house.frames(client).is_empty(), "it has ended");
}

#[test]
fn who_leaves_rests_no_more() {
    let mut house = House::new(|_| {});
    let clients = [house.join(), house.join()];
    for client in clients {
        house.ask(client, Request::Subscribe(conflated(&["c"])));
    }
    for n in 0..3 {
        house.event("c", &n.to_string());
        house.turn();
    }
    assert!(house.relay.rests.due().is_some());
    house.input(Input::Left { session: clients[0], reason: LeftReason::Client });
    let channels = vec![ChannelRequest { name: "c".into(), params: None }];
    house.ask(clients[1], Request::Unsubscribe { reference: None, channels });
    assert_eq!(house.relay.rests.due(), None);
}

#[test]
fn over_sse_no_id_goes_beyond_what_still_rests() {
    let mut house = House::new(|_| {});
    // Over SSE a session has one request: the options are for all its channels.
    let both = house.join_sse(conflated(&["slow", "quick"]));
    house.event("slow", "0");
    house.turn();
    house.batches.clear();
    house.event("slow", "1");
    house.turn();
    let resting = house.relay.feed.head();
    house.event("quick", "2");
    house.turn();
    assert!(ids(&mut house, both).is_empty(), "who returns would not get what rests");
    house.wait(QUARTER);
    let epoch = house.position().split('-').next().unwrap().to_owned();
    assert_eq!(ids(&mut house, both), [format!("{epoch}-{resting}")]);
    house.event("quick", "3");
    let last = house.position();
    house.wait(QUARTER);
    assert_eq!(ids(&mut house, both), [last]);
}

#[test]
fn a_slow_session_may_choose_to_be_disconnected() {
    let mut house = House::new(|config| config.feed.session_lag = 1_024);
    let client = house.join();
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| options.on_slow = OnSlow::Disconnect)));
    house.stuck.insert(client);
    for n in 0..40 {
        house.event("c", &n.to_string());
        house.turn();
    }
    house.stuck.clear();
    house.input(Input::Delivered { session: client, at: house.now.mono });
    assert_eq!(house.closed, [(client, CloseCode::Slow)]);
}

#[test]
fn types_leave_out_what_was_not_asked_for() {
    let mut house = House::new(|_| {});
    let client = house.join();
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| options.types = vec!["trade".into()])));
    assert_eq!(house.frames(client)[1]["lossy"], true);
    house.typed_event("c", Some("trade"), "1");
    house.typed_event("c", Some("depth"), "2");
    house.typed_event("c", None, "3");
    house.typed_event("c", Some("trade"), "4");
    house.turn();
    assert_eq!(house.short(client), ["c=1", "c=4"]);
}

fn fields(pointers: &[&str]) -> Options {
    let pointers: Vec<String> = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
    Options { fields: Some(Arc::new(Selection::new(&pointers).unwrap())), ..Options::default() }
}

#[test]
fn fields_are_all_that_is_sent_of_payloads_and_events_without_them_are_told() {
    let mut house = House::new(|_| {});
    house.keyed_event("c", "a", r#"{"p":1.10,"q":1,"r":1}"#);
    house.keyed_event("c", "b", r#"{"r":1}"#);
    let client = house.join();
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| *options = fields(&["/p", "/q"]))));
    let frames = house.frames(client);
    assert_eq!((&frames[1]["lossy"], &frames[2]["values"].as_array().unwrap().len()), (&true.into(), &1));
    assert_eq!(frames[2]["values"][0]["data"].to_string(), r#"{"p":1.1,"q":1}"#);
    for data in [r#"{"p":97000.10,"x":1}"#, r#"{"x":2}"#, "3", r#"{"q":null}"#] {
        house.event("c", data);
    }
    house.turn();
    let texts: Vec<String> = house
        .batches
        .iter()
        .flat_map(|(_, batch)| batch.items())
        .map(|item| String::from_utf8_lossy(item.text()).into_owned())
        .collect();
    assert!(texts[1].contains(r#""data":{"p":97000.10}}"#) && texts[2].contains(r#""data":{"q":null}}"#), "{texts:?}");
    assert_eq!((texts.len(), house.short(client)[0].as_str()), (3, "conflated 2"));
    assert_eq!(house.relay.stats().feed.conflated, 2);
    for n in 0..3 {
        house.event("c", r#"{"x":4}"#);
        house.turn();
        assert!(house.short(client).is_empty(), "what is not wanted costs no frame: {n}");
    }
    house.event("c", r#"{"p":5}"#);
    house.turn();
    assert_eq!(house.short(client), ["conflated 3", "c={\"p\":5}"]);
}

#[test]
fn who_wants_the_same_fields_shares_what_was_made_of_an_event() {
    let mut house = House::new(|_| {});
    let clients = [house.join(), house.join()];
    for (client, pointers) in clients.iter().zip([["/p", "/q"], ["/q", "/p"]]) {
        house.ask(*client, Request::Subscribe(subscribe_with(&["c"], |options| *options = fields(&pointers))));
    }
    house.batches.clear();
    house.event("c", r#"{"p":1,"x":1}"#);
    house.turn();
    let entries: Vec<*const Entry> = house
        .batches
        .iter()
        .flat_map(|(_, batch)| batch.items())
        .map(|item| match item {
            Item::Entry(entry) => Arc::as_ptr(entry),
            Item::Control(..) => panic!("an event"),
        })
        .collect();
    assert_eq!((entries.len(), entries[0]), (2, entries[1]));
    for client in clients {
        house.input(Input::Left { session: client, reason: LeftReason::Client });
    }
    let ring = house.relay.feed.find("c").unwrap();
    assert!(house.relay.feed.ring(ring).unwrap().views.is_empty(), "nothing is made for nobody");
}

#[test]
fn fields_of_conflated_events_are_those_of_the_newest() {
    let mut house = House::new(|_| {});
    let client = house.join();
    let options = Options { conflate: Some(QUARTER), ..fields(&["/p"]) };
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |given| *given = options)));
    house.frames(client);
    for n in 0..5 {
        house.event("c", &format!("{{\"p\":{n},\"x\":0}}"));
        house.turn();
    }
    house.wait(QUARTER);
    assert_eq!(house.short(client), ["c={\"p\":0}", "conflated 3", "c={\"p\":4}"]);
    for data in [r#"{"p":5}"#, r#"{"p":6}"#, r#"{"x":7}"#] {
        house.event("c", data);
    }
    house.wait(QUARTER);
    assert_eq!(house.short(client), ["conflated 2", "c={\"p\":6}"], "what has none of them stands for nothing");
}

#[test]
fn a_slow_reader_of_fields_is_told_its_gap() {
    let mut house = House::new(|config| config.feed.ring.events = 5);
    let client = house.join();
    house.ask(client, Request::Subscribe(subscribe_with(&["c"], |options| *options = fields(&["/p"]))));
    house.frames(client);
    house.stuck.insert(client);
    for n in 0..20 {
        house.event("c", &format!("{{\"p\":{n}}}"));
        house.turn();
    }
    house.stuck.clear();
    house.input(Input::Delivered { session: client, at: house.now.mono });
    let short = house.short(client);
    assert!(short[1].starts_with("gap slow"), "{short:?}");
    assert_eq!((short.len(), short.last().unwrap().as_str()), (7, "c={\"p\":19}"));
}
