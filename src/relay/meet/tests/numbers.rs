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
fn numbers_of_a_connection_are_judged_once_for_all_names_of_a_channel() {
    for (gap, reorders) in [("", false), ("reorder = \"50ms\"", true)] {
        let gap = format!("[gap]\nscope = \"connection\"\n{gap}");
        let dialect = DIALECT.replace("LIMITS", &gap).replace("HELLO", "");
        let dialect = dialect.replacen("data = \"/data\"", "data = \"/data\"\nseq = \"/n\"", 1);
        let mut service = Service::speaking(&dialect, |config| {
            let alias = crate::config::ChannelPolicy {
                pattern: "alias".into(),
                upstream: Some("a".into()),
                ..crate::config::ChannelPolicy::default()
            };
            config.channels = vec![alias, crate::config::ChannelPolicy::default()];
        });
        service.connect();
        let one = service.join(0);
        service.subscribe(one, &["alias", "a", "b"]);
        service.ack_all();
        service.told(one);
        say(&mut service, "a", &[1, 2]);
        assert_eq!(service.told(one), ["event alias 1", "event a 1", "event alias 2", "event a 2"]);
        say(&mut service, "a", &[2]);
        assert_eq!(service.told(one), Vec::<String>::new(), "it comes twice");
        assert_eq!(service.relay.stats.feed.dropped.get(&crate::relay::stats::DropReason::Duplicate), 1);
        say(&mut service, "a", &[4]);
        if reorders {
            say(&mut service, "b", &[3]);
            assert_eq!(service.told(one), ["event b 3", "event alias 4", "event a 4"]);
        } else {
            let gaps = ["gap alias upstream_seq", "gap a upstream_seq", "gap b upstream_seq"];
            let told = service.told(one);
            assert!(gaps.iter().all(|gap| told.iter().filter(|frame| frame == gap).count() == 1), "{told:?}");
            assert!(told.ends_with(&["event alias 4".to_owned(), "event a 4".to_owned()]), "{told:?}");
        }
    }
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

/// A service that numbers the changes of its books, and states them when they are subscribed.
fn books(change: impl FnOnce(&mut crate::config::Config)) -> (Service, crate::relay::pairs::SessionId) {
    let dialect = DIALECT.replace("LIMITS", "[gap]\nthen = \"resubscribe\"").replace("HELLO", "");
    let book = "[[on]]\nmatch = { \"/book\" = { exists = true } }\nis = \"snapshot\"\nchannel = \"/book\"\nseq = \"/n\"\ndata = \"/data\"\n";
    let dialect = dialect.replacen("data = \"/data\"", "data = \"/data\"\nseq = \"/n\"\nfold = \"append\"", 1) + book;
    let mut service = Service::speaking(&dialect, |config| {
        config.upstream.ping_interval = Duration::from_secs(86_400);
        change(config);
    });
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a"]);
    service.ack_all();
    service.say(&json!({"book": "a", "data": "state", "n": 1}));
    service.told(one);
    (service, one)
}

#[test]
fn a_hole_is_told_at_once_and_mended_by_subscribing_anew() {
    let (mut service, one) = books(|_| {});
    say(&mut service, "a", &[2, 4, 5]);
    let gap = service.told.iter().find(|(_, frame)| frame["kind"] == "gap").map(|(_, frame)| frame.clone()).unwrap();
    assert_eq!((&gap["from"], &gap["to"], &gap["repair"]), (&json!(3), &json!(3), &json!("resubscribe")));
    assert_eq!(service.told(one), ["event a 2", "gap a upstream_seq"], "what has no base is not passed on");
    assert_eq!(service.relay.stats.feed.dropped.get(&crate::relay::stats::DropReason::NoBase), 2);
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    assert_eq!(short(&service.ack_all()), ["subscribe a"]);
    service.say(&json!({"book": "a", "data": "state", "n": 9}));
    say(&mut service, "a", &[10]);
    assert_eq!(service.told(one), ["reset a repaired", "event a state", "event a 10"]);
    assert_eq!(service.relay.stats.repair.ended.get(&crate::relay::stats::RepairEnd::Repaired), 1);
    let two = service.join(1);
    service.subscribe(two, &["a"]);
    let snapshot = service.told.iter().rfind(|(_, frame)| frame["kind"] == "snapshot").unwrap().1.clone();
    assert_eq!((snapshot["stale"].as_bool(), snapshot["values"].as_array().map(Vec::len)), (Some(false), Some(2)));
}

#[test]
fn many_holes_are_one_repair_and_two_repairs_keep_apart() {
    let (mut service, _) = books(|_| {});
    say(&mut service, "a", &[3, 5, 7]);
    assert_eq!(service.relay.stats.repair.begun, 1);
    service.ack_all();
    service.ack_all();
    service.say(&json!({"book": "a", "data": "state", "n": 9}));
    say(&mut service, "a", &[11]);
    assert_eq!(service.heard(), Vec::<Value>::new(), "not at once again");
    service.pass_seconds(1);
    assert_eq!(short(&service.heard()), ["unsubscribe a"]);
}

#[test]
fn what_cannot_be_mended_is_told_and_left_alone_for_a_while() {
    let (mut service, one) = books(|config| config.repair.attempts = 2);
    say(&mut service, "a", &[3]);
    for _ in 0..10 {
        service.ack_all();
        service.pass_seconds(5);
    }
    assert_eq!(service.told(one), ["gap a upstream_seq", "gap a upstream_seq"]);
    assert_eq!(service.relay.stats.repair.tries, 2);
    assert_eq!(service.relay.stats.repair.ended.get(&crate::relay::stats::RepairEnd::GivenUp), 1);
    say(&mut service, "a", &[4, 6]);
    assert_eq!(service.told(one), ["event a 4", "gap a upstream_seq", "event a 6"], "nothing is held back any more");
    assert_eq!(service.heard(), Vec::<Value>::new());
    service.pass_seconds(301);
    say(&mut service, "a", &[7]);
    assert_eq!(short(&service.heard()), ["unsubscribe a"], "later it is tried again");
}

#[test]
fn the_budget_bounds_repairs() {
    let (mut service, one) = books(|config| config.budget.repairs.hour = 1);
    say(&mut service, "a", &[3]);
    service.ack_all();
    service.ack_all();
    service.say(&json!({"book": "a", "data": "state", "n": 9}));
    service.told(one);
    say(&mut service, "a", &[11]);
    service.pass_seconds(1);
    assert_eq!(service.told(one), ["gap a upstream_seq", "gap a upstream_seq"]);
    assert_eq!(service.relay.stats.repair.ended.get(&crate::relay::stats::RepairEnd::Budget), 1);
    service.pass_seconds(3_900);
    say(&mut service, "a", &[12]);
    service.pass_seconds(1);
    assert_eq!(short(&service.heard()), ["unsubscribe a"]);
}

/// A service like an exchange: changes of books have ranges of numbers, and the state is got over HTTP.
fn exchange(change: impl FnOnce(&mut crate::config::Config)) -> (Service, crate::relay::pairs::SessionId) {
    let repair = "[gap]\nthen = \"fetch\"\n[repair]\nchannel = \"{symbol}@depth{speed?}\"\n\
        get = \"https://api.example/depth?symbol={symbol|upper}\"\nis = \"snapshot\"\nseq = \"/last\"\ndata = \"/book\"";
    let dialect = DIALECT.replace("LIMITS", repair).replace("HELLO", "");
    let range = "data = \"/data\"\nseq = [\"/U\", \"/u\"]\nfold = \"append\"";
    let mut service = Service::speaking(&dialect.replacen("data = \"/data\"", range, 1), |config| {
        config.upstream.ping_interval = Duration::from_secs(86_400);
        config.upstream.fetch_origins = vec!["https://api.example".into()];
        change(config);
    });
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["btc@depth"]);
    service.ack_all();
    service.told(one);
    (service, one)
}

fn change(service: &mut Service, first: u64, last: u64) {
    service.say(&json!({"event": "btc@depth", "data": last, "U": first, "u": last}));
}

#[test]
fn a_book_begins_with_a_state_that_its_changes_fit_to() {
    let (mut service, one) = exchange(|_| {});
    change(&mut service, 10, 12);
    change(&mut service, 13, 13);
    assert_eq!(service.told(one), Vec::<String>::new(), "no change without the state that it changes");
    assert_eq!(service.answer(200, &json!({"last": 8, "book": "too old"})), "https://api.example/depth?symbol=BTC");
    assert!(service.asked.is_empty() && service.told(one).is_empty());
    service.pass_seconds(1);
    change(&mut service, 14, 16);
    service.answer(200, &json!({"last": 12, "book": "state"}));
    assert_eq!(service.told(one), ["event btc@depth state", "event btc@depth 13", "event btc@depth 16"]);
    change(&mut service, 17, 17);
    assert_eq!(service.told(one), ["event btc@depth 17"]);
    assert!(service.asked.is_empty());
}

#[test]
fn a_hole_is_told_and_closed_by_a_state_and_the_changes_that_waited() {
    let (mut service, one) = exchange(|_| {});
    change(&mut service, 1, 1);
    service.answer(200, &json!({"last": 1, "book": "state"}));
    change(&mut service, 2, 3);
    service.told(one);
    change(&mut service, 6, 7);
    let gap = service.told.last().unwrap().1.clone();
    assert_eq!((&gap["from"], &gap["to"], &gap["repair"]), (&json!(4), &json!(5), &json!("fetch")));
    change(&mut service, 8, 9);
    change(&mut service, 8, 9);
    service.pass_seconds(1);
    service.answer(200, &json!({"last": 7, "book": "newer"}));
    let reset = service.told.iter().find(|(_, frame)| frame["kind"] == "reset").unwrap().1.clone();
    assert_eq!((&reset["reason"], &reset["repaired"]), (&json!("repaired"), &json!(3)));
    let told = ["gap btc@depth upstream_seq", "reset btc@depth repaired", "event btc@depth newer", "event btc@depth 9"];
    assert_eq!(service.told(one), told);
    change(&mut service, 10, 10);
    assert_eq!(service.told(one), ["event btc@depth 10"]);
    assert_eq!(service.relay.stats.repair.ended.get(&crate::relay::stats::RepairEnd::Repaired), 2);
}

#[test]
fn an_answer_that_fails_or_is_late_is_tried_again_and_then_given_up() {
    let (mut service, one) = exchange(|config| config.repair.attempts = 2);
    change(&mut service, 5, 5);
    service.answer(429, &json!({}));
    service.pass_seconds(1);
    assert_eq!(service.asked.len(), 1);
    service.pass_seconds(10);
    assert_eq!(service.told(one), ["gap btc@depth upstream_seq", "event btc@depth 5"]);
    service.answer(200, &json!({"last": 5, "book": "late"}));
    change(&mut service, 6, 6);
    assert_eq!(service.told(one), ["event btc@depth 6"], "the late answer is nobody's");
    assert!(service.asked.is_empty());
}

#[test]
fn what_waits_has_a_limit() {
    let (mut service, one) = exchange(|config| config.repair.held_events = 3);
    for n in 1..=4 {
        change(&mut service, n, n);
    }
    let told = service.told(one);
    assert_eq!((told.len(), told[0].as_str()), (5, "gap btc@depth upstream_seq"));
}

#[test]
fn upstream_that_counts_anew_during_a_repair_is_asked_anew() {
    let (mut service, one) = exchange(|_| {});
    change(&mut service, 900, 900);
    change(&mut service, 1, 1);
    service.answer(200, &json!({"last": 900, "book": "of the old count"}));
    assert_eq!(service.told(one), Vec::<String>::new());
    service.answer(200, &json!({"last": 1, "book": "state"}));
    change(&mut service, 2, 2);
    assert_eq!(service.told(one), ["reset btc@depth repaired", "event btc@depth state", "event btc@depth 2"]);
}

#[test]
fn nothing_is_fetched_from_where_the_configuration_does_not_say() {
    let (mut service, one) = exchange(|config| {
        config.upstream.fetch_origins.clear();
        config.repair.attempts = 1;
    });
    change(&mut service, 5, 5);
    assert!(service.asked.is_empty());
    assert_eq!(service.told(one), ["gap btc@depth upstream_seq", "event btc@depth 5"]);
}

#[test]
fn a_book_outlives_its_connection() {
    let (mut service, one) = exchange(|_| {});
    change(&mut service, 1, 1);
    service.close(1006);
    assert_eq!(service.told(one), Vec::<String>::new());
    service.until_connect();
    service.asked.clear();
    service.connect();
    service.ack_all();
    change(&mut service, 4, 4);
    service.answer(200, &json!({"last": 4, "book": "state"}));
    assert_eq!(service.told(one), ["event btc@depth state"]);
}

/// A service whose past events are got over HTTP.
const HISTORY: &str = "[gap]\nthen = \"fetch\"\n[repair]\npost = \"/history\"\n\
    json = '{\"channel\":{channel},\"from\":{missing_from},\"to\":{missing_to}}'\nis = \"event\"\n\
    each = { at = \"/list\", seq = \"/n\", data = \"/v\" }";

/// An answer of that service.
fn list(numbers: &[u64]) -> Value {
    json!({"list": numbers.iter().map(|n| json!({"n": n, "v": n})).collect::<Vec<_>>()})
}

/// What it is asked for.
fn wanted(service: &Service) -> Vec<String> {
    service.asked.iter().map(|(_, request)| String::from_utf8_lossy(&request.body).into_owned()).collect()
}

#[test]
fn what_is_missing_is_fetched_and_put_in_its_place() {
    let (mut service, one) = numbered(HISTORY);
    say(&mut service, "a", &[1, 4, 5]);
    assert_eq!(service.told(one), ["event a 1", "gap a upstream_seq"]);
    assert!(service.asked[0].1.url.ends_with("/history") && service.asked[0].1.url.starts_with("https://"));
    assert_eq!(wanted(&service), [r#"{"channel":"a","from":2,"to":3}"#]);
    service.answer(200, &list(&[2]));
    service.pass_seconds(1);
    service.answer(200, &list(&[1, 2, 3, 4, 9]));
    let told = ["reset a repaired", "event a 2", "event a 3", "event a 4", "event a 5"];
    assert_eq!(service.told(one), told, "a part is not enough, nothing comes twice, and nothing before its time");
    say(&mut service, "a", &[6]);
    assert_eq!(service.told(one), ["event a 6"]);
}

#[test]
fn a_hole_among_what_waits_is_told_and_mended_by_itself() {
    let (mut service, one) = numbered(HISTORY);
    say(&mut service, "a", &[1, 3, 4, 6, 7, 9]);
    assert_eq!(service.told(one), ["event a 1", "gap a upstream_seq"]);
    service.answer(200, &list(&[2]));
    let closed = service.told.iter().find(|(_, frame)| frame["kind"] == "reset").unwrap().1.clone();
    assert_eq!(closed["repaired"], json!(3), "2, and what waited up to the next hole");
    let second = service.told.last().unwrap().1.clone();
    assert_eq!((&second["from"], &second["to"], &second["repair"]), (&json!(5), &json!(5), &json!("fetch")));
    let told = ["reset a repaired", "event a 2", "event a 3", "event a 4", "gap a upstream_seq"];
    assert_eq!(service.told(one), told, "what is closed is closed at once");
    say(&mut service, "a", &[10]);
    assert!(service.told(one).is_empty() && service.asked.is_empty(), "two repairs keep apart");
    service.pass_seconds(1);
    assert_eq!(wanted(&service), [r#"{"channel":"a","from":5,"to":5}"#]);
    // One that answers more than it was asked for closes what it can.
    service.answer(200, &list(&[5, 6, 7, 8]));
    let told = ["event a 5", "event a 6", "event a 7", "event a 8", "event a 9", "event a 10"];
    assert_eq!(service.told(one), [&["reset a repaired"], &told[..]].concat());
    service.pass_seconds(10);
    say(&mut service, "a", &[11]);
    assert_eq!((service.told(one), wanted(&service)), (vec!["event a 11".to_owned()], vec![]));
    let repair = &service.relay.stats.repair;
    assert_eq!((repair.begun, repair.tries, repair.ended.get(&crate::relay::stats::RepairEnd::Repaired)), (2, 2, 2));
}

#[test]
fn numbers_of_a_connection_count_what_is_nobodys_event_too() {
    let beat = "[[on]]\nmatch = { \"/beat\" = { exists = true } }\nis = \"ignore\"\nseq = \"/beat\"\n";
    let gap = format!("[gap]\nscope = \"connection\"\n{beat}");
    let (mut service, one) = numbered(&gap);
    say(&mut service, "a", &[1]);
    service.say(&json!({"beat": 2}));
    say(&mut service, "b", &[3]);
    say(&mut service, "nobody", &[4]);
    say(&mut service, "a", &[5]);
    assert_eq!(service.told(one), ["event a 1", "event b 3", "event a 5"], "nothing is missing");
    service.say(&json!({"beat": 7}));
    assert_eq!(service.told(one), ["gap a upstream_seq", "gap b upstream_seq"], "6 is, of whatever channel");
    say(&mut service, "nobody", &[9]);
    assert_eq!(service.told(one), ["gap a upstream_seq", "gap b upstream_seq"]);
    say(&mut service, "b", &[10]);
    assert_eq!(service.told(one), ["event b 10"]);

    // Where numbers count each channel, a heartbeat proves nothing.
    let (mut service, one) = numbered(&gap.replace("connection", "channel"));
    say(&mut service, "a", &[1]);
    service.say(&json!({"beat": 9}));
    say(&mut service, "a", &[2]);
    assert_eq!(service.told(one), ["event a 1", "event a 2"]);
}

fn refresh(service: &mut Service, session: crate::relay::pairs::SessionId, channel: &str, key: Option<&str>) {
    let channel = subscribe(&[channel]).channels.remove(0);
    let reference = Some(crate::protocol::request::Ref("7".into()));
    let request = crate::protocol::request::Request::Refresh { reference, channel, key: key.map(Into::into) };
    service.input(Input::Request { session, request: Ok(request) });
}

#[test]
fn a_refresh_fetches_the_state_once_for_all_who_ask() {
    let (mut service, one) = exchange(|config| config.budget.principal_refreshes.hour = 1);
    change(&mut service, 1, 1);
    service.answer(200, &json!({"last": 1, "book": "state"}));
    change(&mut service, 2, 2);
    let two = service.join(1);
    service.told.clear();
    refresh(&mut service, one, "btc@depth", None);
    refresh(&mut service, two, "btc@depth", None);
    service.pass_seconds(1);
    assert_eq!(service.asked.len(), 1, "one request for both");
    change(&mut service, 3, 3);
    service.answer(200, &json!({"last": 2, "book": "fresh"}));
    assert_eq!(service.told(one), ["event btc@depth fresh", "event btc@depth 3", "ok"]);
    let ok = service.told.iter().find(|(_, frame)| frame["kind"] == "ok").unwrap().1.clone();
    assert_eq!(ok, json!({"kind": "ok", "ref": 7, "refreshed": "fetch"}));
    service.told.clear();
    refresh(&mut service, two, "btc@depth", None);
    assert_eq!((service.told(two), service.asked.len()), (vec!["ok".to_owned()], 0), "it is fresh");
    service.pass_seconds(3);
    refresh(&mut service, two, "btc@depth", None);
    assert_eq!(service.told(two), ["error limit_exceeded"]);
    assert_eq!(service.relay.stats.repair.refused.get(&crate::relay::stats::Cost::Refresh), 1);
    refresh(&mut service, two, "other", None);
    assert_eq!(service.told(two), ["error not_found"]);
}

#[test]
fn a_refresh_that_fails_is_told_and_leaves_the_channel_as_it_was() {
    let (mut service, one) = exchange(|config| config.repair.attempts = 1);
    change(&mut service, 1, 1);
    service.answer(200, &json!({"last": 1, "book": "state"}));
    service.told(one);
    service.pass_seconds(5);
    refresh(&mut service, one, "btc@depth", None);
    change(&mut service, 2, 2);
    service.answer(500, &json!({}));
    assert_eq!(
        service.told(one),
        ["event btc@depth 2", "error upstream_timeout"],
        "no hole is told where there is none"
    );
    change(&mut service, 3, 3);
    assert_eq!(service.told(one), ["event btc@depth 3"]);
}

#[test]
fn a_refresh_asks_in_band_where_the_dialect_can() {
    let dialect = DIALECT.replace("LIMITS", "").replace("HELLO", "");
    let state = "state = '{\"op\":\"get\",\"channels\":[{channel}],\"item\":{key?},\"id\":{id}}'\npublish";
    let mut service = Service::speaking(&dialect.replacen("publish", state, 1), |_| {});
    service.connect();
    let one = service.join(0);
    service.subscribe(one, &["a"]);
    service.ack_all();
    service.told(one);
    refresh(&mut service, one, "a", Some("k"));
    let asked = service.heard();
    assert_eq!((short(&asked), &asked[0]["item"]), (vec!["get a".to_owned()], &json!("k")));
    service.say(&json!({"event": "a", "data": 7}));
    service.say(&json!({"ok": asked[0]["id"]}));
    assert_eq!(service.told(one), ["event a 7", "ok"]);
    refresh(&mut service, one, "a", None);
    let asked = service.heard();
    service.say(&json!({"no": asked[0]["id"], "why": "busy"}));
    assert_eq!(service.told(one), ["error upstream_timeout"]);
    refresh(&mut service, one, "a", None);
    service.close(1006);
    assert_eq!(service.told(one), ["error upstream_timeout", "gap a reconnect"]);
}

#[test]
fn a_refresh_without_a_way_is_not_supported_and_by_subscribing_anew_where_that_states() {
    let (mut service, one) = numbered("");
    refresh(&mut service, one, "a", None);
    assert_eq!(service.told(one), ["error not_supported"]);
    let (mut service, one) = books(|_| {});
    refresh(&mut service, one, "a", None);
    assert_eq!(short(&service.ack_all()), ["unsubscribe a"]);
    service.ack_all();
    service.say(&json!({"book": "a", "data": "fresh", "n": 1}));
    assert_eq!(service.told(one), ["event a fresh", "ok"]);
}

#[test]
fn the_budget_bounds_what_is_subscribed_for_a_principal_and_shows_what_was_spent() {
    let (mut service, one) = exchange(|config| config.budget.principal_subscribes.day = 2);
    service.subscribe(one, &["b", "c", "b", "btc@depth"]);
    let errors: Vec<Value> =
        service.told.iter().map(|(_, frame)| frame.clone()).filter(|f| f["kind"] == "error").collect();
    assert_eq!(errors.len(), 1);
    assert_eq!((&errors[0]["channel"], &errors[0]["code"]), (&json!("c"), &json!("limit_exceeded")));
    assert!(errors[0]["retry_after_ms"].as_u64().is_some_and(|wait| wait > 23 * 3_600_000));
    let principal = std::sync::Arc::new(crate::relay::access::Principal::local());
    let ask = crate::relay::pairs::CallRequest::Subscriptions;
    service.input(Input::Call { call: crate::relay::pairs::CallId(5), principal, request: ask });
    let shown = service.answers.pop().unwrap();
    let channel = &shown["channels"].as_array().unwrap().iter().find(|channel| channel["channel"] == "b").unwrap();
    assert_eq!(channel["readers"], json!([{"session": "0-1", "principal": "local"}]));
    assert_eq!(shown["principals"]["spent"]["local"]["subscribe"]["day"], 2);
}
