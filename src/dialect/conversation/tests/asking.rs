//! Event streams, polls, posts, and channels in the address.

use super::*;
use crate::dialect::{Answer, Ask, AskFor, Method, StreamEvent, UrlChannels};

const ANY: &str = "[[on]]\nmatch = { '' = { exists = true } }\nis = 'event'\nchannel = 'c'\n";

/// Connects over this transport, with these channels in the address; the address and the headers.
fn connect(talk: &mut Talk, transport: Transport, names: &[&str]) -> (String, Vec<(String, String)>) {
    let specs: Vec<ChannelSpec<'_>> =
        names.iter().map(|name| ChannelSpec { id: talk.id(name, None), name, params: None }).collect();
    let headers = [("x-key".to_owned(), Secret::new("s"))];
    let request = talk.conversation.connect_request(transport, "wss://h", &headers, &specs).unwrap();
    (request.url, request.headers.into_iter().filter(|(name, _)| name != "x-key").collect())
}

fn event(id: Option<&str>, kind: Option<&str>, data: Option<&str>) -> WireFrame {
    let data = data.map(|data| Bytes::copy_from_slice(data.as_bytes()));
    let (id, event) = (id.map(Into::into), kind.map(Into::into));
    WireFrame::Event(Box::new(StreamEvent { id, event, data, retry: Some(Duration::from_secs(2)) }))
}

fn answer(of: AskFor, status: u16, etag: Option<&str>, body: &str) -> WireFrame {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let (etag, last_modified, retry_after) = (etag.map(Into::into), None, None);
    WireFrame::Answer(Box::new(Answer { of, status, etag, last_modified, retry_after, body }))
}

/// The next poll's path, query and conditions; `None`: it is not time.
fn poll(talk: &mut Talk) -> Option<String> {
    let outgoing = talk.conversation.poll(talk.now)?.unwrap();
    let WireFrame::Ask(ask) = outgoing.frame else { panic!("{:?}", outgoing.frame) };
    let Ask { of: AskFor::Poll, method: Method::Get, url, headers, .. } = *ask else { panic!("{ask:?}") };
    let conditions: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name.starts_with("if-"))
        .map(|(name, value)| format!(" {name}: {value}"))
        .collect();
    Some(url.strip_prefix("https://h").unwrap().to_owned() + &conditions.concat())
}

#[test]
fn each_transport_has_its_address_and_its_scheme() {
    let text = format!(
        "[connect]\npath = '/ws'\nquery = {{ v = '1', k = 'common' }}\nheaders = {{ a = 'x' }}\n[transport.sse]\npath = '/events'\n\
         query = {{ k = 'own' }}\nheaders = {{ a = 'y' }}\n[transport.poll]\ninterval = '3s'\n{ANY}"
    );
    let dialect = dialect(&text);
    assert_eq!(dialect.transports(), [Transport::WebSocket, Transport::Sse, Transport::Poll]);
    let mut talk = Talk::new(dialect, None);
    let a = |value: &str| vec![("a".to_owned(), value.to_owned())];
    assert_eq!(connect(&mut talk, Transport::WebSocket, &[]), ("wss://h/ws?v=1&k=common".to_owned(), a("x")));
    assert_eq!(connect(&mut talk, Transport::Sse, &[]), ("https://h/events?k=own&v=1".to_owned(), a("y")));
    assert_eq!(connect(&mut talk, Transport::Poll, &[]), ("https://h/ws?v=1&k=common".to_owned(), a("x")));
}

#[test]
fn channels_stand_in_the_address_one_or_all() {
    let one = dialect(&format!("[connect]\npath = '/sub/{{channel}}'\n{ANY}"));
    assert_eq!(one.url_channels(Transport::WebSocket), UrlChannels::One);
    assert!(one.subscribes());
    assert_eq!(connect(&mut Talk::new(one, None), Transport::WebSocket, &["a/b"]).0, "wss://h/sub/a%2Fb");

    let all = dialect(&format!(
        "[connect]\npath = '/s/{{channel*}}'\nquery = {{ t = ['{{channel}}'], u = '{{channel*}}' }}\njoin = ';'\n{ANY}"
    ));
    assert_eq!(all.url_channels(Transport::WebSocket), UrlChannels::All);
    let url = connect(&mut Talk::new(all, None), Transport::WebSocket, &["a", "b&"]).0;
    assert_eq!(url, "wss://h/s/a;b%26?t=a&t=b%26&u=a%3Bb%26");
    let none = dialect(ANY);
    assert_eq!((none.url_channels(Transport::WebSocket), none.subscribes()), (UrlChannels::None, false));
}

#[test]
fn a_stream_goes_on_where_it_ended() {
    let text = format!(
        "[transport.sse]\nresumes = true\n[[on]]\nmatch = {{ '#event' = 'ping' }}\nis = 'ignore'\n{ANY}id = '#id'\n"
    );
    let mut talk = Talk::new(dialect(&text), None);
    assert_eq!(connect(&mut talk, Transport::Sse, &[]).1, []);
    assert_eq!(talk.open(), ["ready"]);
    assert!(!talk.conversation.goes_on());
    assert_eq!(talk.frame(&event(Some("7"), None, Some("{\"n\":1}"))), ["event c id=7 {\"n\":1}"]);
    assert_eq!(talk.frame(&event(Some("7"), Some("ping"), Some("just words"))), ["ignored"]);
    assert_eq!(talk.frame(&event(Some("8"), None, Some("just words"))), ["event c id=8 \"just words\""]);
    assert_eq!(talk.frame(&event(None, None, Some("{\"broken"))), ["malformed"]);
    assert_eq!(talk.frame(&event(Some("9"), None, None)), ["ignored"]);
    assert_eq!(talk.conversation.retry(), Some(Duration::from_secs(2)));
    assert!(talk.conversation.goes_on());

    let mut talk = talk.reconnect(false);
    let last = |id: &str| vec![("last-event-id".to_owned(), id.to_owned())];
    assert_eq!(connect(&mut talk, Transport::Sse, &[]).1, last("9"));
    talk.frame(&event(Some(""), None, Some("1")));
    let mut talk = talk.reconnect(false);
    assert_eq!(connect(&mut talk, Transport::Sse, &[]).1, [], "an empty id forgets it");
    talk.frame(&event(Some("10"), None, Some("1")));
    let mut talk = talk.reconnect(true);
    assert_eq!(connect(&mut talk, Transport::Sse, &[]).1, []);
    // The carrier tells an id alone behind what was too large: there the next connection begins.
    talk.frame(&event(Some("11"), None, None));
    assert_eq!(connect(&mut talk.reconnect(true), Transport::Sse, &[]).1, last("11"));
}

/// Ids of events are places over all transports; over WebSocket they stand in the message.
const ANYWHERE: &str = "[connect]\nresumes = true\nheaders = { last = '{cursor?}' }\n[transport.sse]\n[transport.long-poll]\n\
    [[on]]\nmatch = { '#etag' = { exists = true } }\nis = 'event'\nchannel = 'c'\nid = '{#last_modified_s}:{#etag}'\n\
    [[on]]\nmatch = { '#event' = 'x' }\nis = 'event'\nchannel = 'c'\nid = '#id'\n\
    [[on]]\nmatch = { '/i' = { exists = true } }\nis = 'event'\nchannel = 'c'\nid = '/i'\ndata = '/n'\n";

fn last(headers: &[(String, String)]) -> Option<&str> {
    headers.iter().find(|(name, _)| name == "last").map(|(_, value)| value.as_str())
}

#[test]
fn what_follows_the_newest_event_on_any_transport_misses_nothing() {
    let mut talk = Talk::new(dialect(ANYWHERE), None);
    assert_eq!(last(&connect(&mut talk, Transport::WebSocket, &[]).1), None);
    talk.open();
    talk.hear(r#"{"i":"90:0","n":1}"#);
    assert!(!talk.conversation.goes_on(), "with one event nothing can be proved");
    talk.hear(r#"{"i":"90:1","n":2}"#);
    talk.hear(r#"{"i":"90:1","n":2}"#);
    assert!(talk.conversation.goes_on());

    let mut talk = talk.reconnect(false);
    assert_eq!(last(&connect(&mut talk, Transport::Sse, &[]).1), Some("90:0"), "behind the one before the newest");
    assert!(talk.conversation.goes_on());
    assert_eq!(talk.frame(&event(Some("90:1"), Some("x"), Some("2"))), ["ignored"], "as it was asked to");
    assert_eq!(talk.frame(&event(Some("91:0"), Some("x"), Some("3"))), ["event c id=91:0 3"]);
    assert_eq!(talk.frame(&event(Some("91:0"), Some("x"), Some("3"))), ["event c id=91:0 3"], "it said it twice");

    // A connection that brings nothing changes nothing.
    let mut talk = talk.reconnect(false);
    connect(&mut talk, Transport::WebSocket, &[]);
    let mut talk = talk.reconnect(false);
    assert_eq!(last(&connect(&mut talk, Transport::LongPoll, &[]).1), Some("90:1"));
    talk.open();
    let date = Some("Thu, 01 Jan 1970 00:01:31 GMT".into());
    let polled = |etag: &str, body: &str| match answer(AskFor::Poll, 200, Some(etag), body) {
        WireFrame::Answer(answer) => WireFrame::Answer(Box::new(Answer { last_modified: date.clone(), ..*answer })),
        other => other,
    };
    assert_eq!(poll(&mut talk).as_deref(), Some(""));
    assert_eq!(talk.frame(&polled("0", "3")), ["ignored"]);
    let conditions = " if-none-match: 0 if-modified-since: Thu, 01 Jan 1970 00:01:31 GMT";
    assert_eq!(poll(&mut talk).as_deref(), Some(conditions));
    assert_eq!(talk.frame(&polled("1", "3")), ["event c id=91:1 3"], "the same words are another event");

    let mut talk = talk.reconnect(false);
    assert_eq!(last(&connect(&mut talk, Transport::WebSocket, &[]).1), Some("91:0"));
    talk.open();
    let heard = talk.hear(r#"{"i":"99:0","n":9}"#);
    assert_eq!(heard, ["unproven", "event c id=99:0 9"], "somebody forgot what was between");
    talk.hear(r#"{"n":1,"i":null}"#);
    assert!(!talk.conversation.goes_on(), "an event without an id has no place");
}

#[test]
fn what_other_channels_bring_proves_nothing() {
    let many = ANYWHERE.replace("[connect]\n", "[connect]\npath = '/{channel*}'\n");
    let mut talk = Talk::new(dialect(&many), None);
    connect(&mut talk, Transport::WebSocket, &["a"]);
    for id in ["1", "2"] {
        talk.hear(&format!(r#"{{"i":"{id}","n":1}}"#));
    }
    let mut talk = talk.reconnect(false);
    assert_eq!(last(&connect(&mut talk, Transport::Sse, &["a"]).1), Some("1"));
    let mut talk = talk.reconnect(false);
    assert_eq!(last(&connect(&mut talk, Transport::Sse, &["a", "b"]).1), Some("2"), "nothing is told twice");
    assert!(!talk.conversation.goes_on());
}

#[test]
fn what_was_too_large_is_not_asked_for_again() {
    let mut talk = Talk::new(dialect(ANYWHERE), None);
    connect(&mut talk, Transport::Sse, &[]);
    talk.frame(&event(Some("1"), Some("x"), Some("1")));
    talk.frame(&event(Some("2"), Some("x"), Some("2")));
    talk.frame(&event(Some("3"), None, None));
    let mut talk = talk.reconnect(true);
    assert_eq!(last(&connect(&mut talk, Transport::WebSocket, &[]).1), Some("3"));
    assert!(!talk.conversation.goes_on());
}

#[test]
fn a_place_belongs_to_its_transport_and_channels() {
    let text =
        format!("[connect]\npath = '/{{channel}}'\n[transport.sse]\nresumes = true\n[transport.long-poll]\n{ANY}");
    let mut talk = Talk::new(dialect(&text), None);
    connect(&mut talk, Transport::Sse, &["a"]);
    talk.frame(&event(Some("1"), None, Some("1")));
    let mut same = talk.reconnect(false);
    assert_eq!(connect(&mut same, Transport::Sse, &["a"]).1.len(), 1);
    assert_eq!(connect(&mut same, Transport::Sse, &["b"]).1, []);
    assert!(!same.conversation.goes_on());
    same.frame(&event(Some("1"), None, Some("1")));
    connect(&mut same, Transport::LongPoll, &["b"]);
    assert!(!same.conversation.goes_on());
}

#[test]
fn a_long_poll_follows_another_and_none_runs_hot() {
    let text =
        format!("[transport.long-poll]\ncursor = '/next'\nquery = {{ after = '{{cursor?}}' }}\n{ANY}data = '/v'\n");
    let mut talk = Talk::new(dialect(&text), None);
    connect(&mut talk, Transport::LongPoll, &[]);
    assert_eq!(poll(&mut talk), None, "not before it is open");
    assert_eq!(talk.open(), ["ready"]);
    assert_eq!(poll(&mut talk).as_deref(), Some(""));
    assert_eq!(poll(&mut talk), None, "one at a time");
    let good = answer(AskFor::Poll, 200, Some("\"1\""), "{\"v\":1,\"next\":\"p 1\"}");
    assert_eq!(talk.frame(&good), ["event c 1"]);
    assert_eq!(poll(&mut talk).as_deref(), Some("?after=p%201 if-none-match: \"1\""));
    // The same once more, or nothing, at once: each pause is longer.
    let mut pauses = Vec::new();
    for same in [
        &good,
        &answer(AskFor::Poll, 200, None, " \n"),
        &answer(AskFor::Poll, 304, None, ""),
        &answer(AskFor::Poll, 204, None, ""),
    ] {
        assert_eq!(talk.frame(same), ["ignored", "hasty"]);
        let due = talk.conversation.poll_due().unwrap();
        pauses.push(due.since(talk.now.mono).as_millis());
        assert_eq!(poll(&mut talk), None);
        talk.now = talk.now.after(due.since(talk.now.mono));
        assert!(poll(&mut talk).is_some());
    }
    assert_eq!(pauses, [100, 200, 400, 800]);
    // Something else each time, and nobody knows what.
    let strange = answer(AskFor::Poll, 200, None, "<html>12:01:07");
    assert_eq!(talk.frame(&strange), ["malformed", "hasty"]);
    talk.pass(2);
    assert!(poll(&mut talk).is_some());
    // Nothing after a while is what a long-poll is made of.
    talk.pass(30);
    assert_eq!(talk.frame(&answer(AskFor::Poll, 504, None, "<html>")), ["ignored"]);
    assert!(poll(&mut talk).is_some());
    talk.pass(90);
    assert_eq!(talk.frame(&answer(AskFor::Poll, 0, None, "no answer in time")), ["ignored"]);
    assert!(poll(&mut talk).is_some());
    assert_eq!(talk.frame(&answer(AskFor::Poll, 410, None, "gone\n")), ["poll failed 410 \"gone\\\\n\""]);
    // The next connection goes on there.
    let mut talk = talk.reconnect(false);
    connect(&mut talk, Transport::LongPoll, &[]);
    talk.open();
    assert_eq!(poll(&mut talk).as_deref(), Some("?after=p%201 if-none-match: \"1\""));
}

/// A long-poll whose answers say where the next one goes on, and which begins without a place.
fn places(long_poll: &str) -> Talk {
    let text = format!(
        "[transport.long-poll]\nquery = {{ after = '{{cursor?}}' }}\n{long_poll}\n[transport.poll]\nquery = {{ after = '{{cursor?}}' }}\n\
         cursor = '/next'\n[[on]]\nmatch = {{ '/v' = {{ exists = true }} }}\nis = 'event'\nchannel = 'c'\ndata = '/v'\n\
         [[on]]\nmatch = {{ '' = {{ exists = true }} }}\nis = 'ignore'\n"
    );
    Talk::new(dialect(&text), None)
}

/// The next poll leaves, and half a minute later this comes back; what it means.
fn polled(talk: &mut Talk, answer: &WireFrame) -> Vec<String> {
    talk.pass(30);
    assert!(poll(talk).is_some());
    talk.pass(30);
    talk.frame(answer)
}

/// A connection over this transport whose polls bring nothing three times, and then an event.
fn quiet_then(talk: &mut Talk, transport: Transport, event: &str) -> Vec<String> {
    connect(talk, transport, &[]);
    talk.open();
    for _ in 0..3 {
        assert_eq!(polled(talk, &answer(AskFor::Poll, 204, None, "")), ["ignored"], "nothing was missed that is known");
    }
    polled(talk, &answer(AskFor::Poll, 200, None, event))
}

#[test]
fn what_came_between_polls_that_could_name_no_place_is_unknown_once() {
    let mut talk = places("cursor = '/next'");
    // A place that is found ends that.
    let first = r#"{"v":1,"next":"p1"}"#;
    assert_eq!(quiet_then(&mut talk, Transport::LongPoll, first), ["unseen", "event c 1"]);
    for status in [204, 304, 408] {
        assert_eq!(polled(&mut talk, &answer(AskFor::Poll, status, None, "")), ["ignored"]);
    }
    assert_eq!(polled(&mut talk, &answer(AskFor::Poll, 200, None, r#"{"v":2}"#)), ["event c 2"]);

    // None is found in events either: each that follows a pause may be the first of several.
    let mut talk = places("cursor = '/next'");
    assert_eq!(quiet_then(&mut talk, Transport::LongPoll, "{\"v\":1}"), ["unseen", "event c 1"]);
    assert_eq!(polled(&mut talk, &answer(AskFor::Poll, 200, None, "{\"v\":2}")), ["unseen", "event c 2"]);

    // The first poll misses nothing, however long it takes; and what ends without an event tells nothing.
    let mut talk = places("cursor = '/next'");
    connect(&mut talk, Transport::LongPoll, &[]);
    talk.open();
    assert_eq!(polled(&mut talk, &answer(AskFor::Poll, 200, None, "{\"v\":1}")), ["event c 1"]);

    // By ids that are places, and by what the service calls its versions.
    let mut talk = Talk::new(dialect(ANYWHERE), None);
    let first = r#"{"i":"90:0","n":1}"#;
    assert_eq!(quiet_then(&mut talk, Transport::LongPoll, first), ["unseen", "event c id=90:0 1"]);
    assert_eq!(polled(&mut talk, &answer(AskFor::Poll, 408, None, "")), ["ignored"]);
    let next = answer(AskFor::Poll, 200, None, r#"{"i":"90:1","n":2}"#);
    assert_eq!(polled(&mut talk, &next), ["event c id=90:1 2"]);
    assert_eq!(quiet_then(&mut places("resumes = true"), Transport::LongPoll, "{\"v\":1}"), ["unseen", "event c 1"]);
}

#[test]
fn polls_of_states_and_of_queues_miss_nothing_between_them() {
    let event = "{\"v\":1}";
    assert_eq!(quiet_then(&mut places("cursor = '/next'"), Transport::Poll, event), ["event c 1"], "it brings what is");
    assert_eq!(quiet_then(&mut places(""), Transport::LongPoll, event), ["event c 1"], "it keeps what was not fetched");
}

#[test]
fn an_answer_that_brings_nothing_may_name_the_place() {
    let event = |first: &WireFrame, asked: &str| {
        let mut talk = places("cursor = '/next'");
        connect(&mut talk, Transport::LongPoll, &[]);
        talk.open();
        assert_eq!(polled(&mut talk, first), ["ignored"]);
        assert_eq!(poll(&mut talk).as_deref(), Some(asked));
        assert_eq!(talk.frame(&answer(AskFor::Poll, 200, None, "{\"v\":1}")), ["event c 1"]);
    };
    event(&answer(AskFor::Poll, 304, Some("\"7\""), ""), " if-none-match: \"7\"");
    event(&answer(AskFor::Poll, 408, Some("\"7\""), "<html>"), " if-none-match: \"7\"");
    event(&answer(AskFor::Poll, 200, None, r#"{"next":"p1"}"#), "?after=p1");
    event(&answer(AskFor::Poll, 408, None, r#"{"next":"p1"}"#), "?after=p1");
}

#[test]
fn a_hole_between_polls_is_not_forgotten_with_the_connection_unless_that_is_one() {
    let numbered = answer(AskFor::Poll, 304, Some("\"7\""), "");
    let nothing = answer(AskFor::Poll, 408, None, "");
    let event = answer(AskFor::Poll, 200, None, "{\"v\":1}");
    // The next connection goes on from a place behind the hole: nobody else tells it.
    for (last, heard) in [(&numbered, &["unseen", "event c 1"][..]), (&nothing, &["event c 1"])] {
        let mut talk = places("resumes = true");
        connect(&mut talk, Transport::LongPoll, &[]);
        talk.open();
        assert_eq!(polled(&mut talk, &nothing), ["ignored"]);
        assert_eq!(polled(&mut talk, last), ["ignored"]);
        assert_eq!(talk.conversation.goes_on(), last == &numbered);
        let mut talk = talk.reconnect(false);
        connect(&mut talk, Transport::LongPoll, &[]);
        talk.open();
        assert_eq!(polled(&mut talk, &event), heard);
    }
}

#[test]
fn a_poll_without_a_place_is_not_asked_again_unheard() {
    let repeats = |talk: &mut Talk| {
        talk.pass(30);
        match talk.conversation.poll(talk.now).unwrap().unwrap().frame {
            WireFrame::Ask(ask) => ask.repeats,
            other => panic!("{other:?}"),
        }
    };
    let mut talk = places("cursor = '/next'");
    connect(&mut talk, Transport::LongPoll, &[]);
    talk.open();
    assert!(!repeats(&mut talk));
    talk.frame(&answer(AskFor::Poll, 200, None, r#"{"v":1,"next":"p1"}"#));
    assert!(repeats(&mut talk), "it names its place");
    for (mut talk, transport) in [(places(""), Transport::LongPoll), (places("cursor = '/next'"), Transport::Poll)] {
        connect(&mut talk, transport, &[]);
        talk.open();
        assert!(repeats(&mut talk));
    }
}

#[test]
fn polls_keep_their_interval_and_tell_only_news() {
    let text = format!("[frame]\narray = 'split'\n[transport.poll]\ninterval = '5s'\n{ANY}type = '#status'\n");
    let mut talk = Talk::new(dialect(&text), None);
    connect(&mut talk, Transport::Poll, &[]);
    talk.open();
    assert!(poll(&mut talk).is_some());
    assert_eq!(talk.frame(&answer(AskFor::Poll, 200, None, "[1,2]")), ["event c type=200 1", "event c type=200 2"]);
    talk.pass(4);
    assert_eq!(poll(&mut talk), None);
    talk.pass(1);
    assert!(poll(&mut talk).is_some());
    assert_eq!(talk.frame(&answer(AskFor::Poll, 200, None, "[1,2]")), ["ignored"], "what was told is not told again");
    talk.pass(5);
    assert!(poll(&mut talk).is_some());
    let WireFrame::Answer(mut slow) = answer(AskFor::Poll, 200, None, "[3]") else { panic!() };
    slow.retry_after = Some(Duration::from_secs(60));
    assert_eq!(talk.frame(&WireFrame::Answer(slow)), ["event c type=200 3"]);
    assert_eq!(talk.conversation.poll_due().unwrap().since(talk.now.mono), Duration::from_secs(60));
    talk.pass(60);
    assert!(poll(&mut talk).is_some());
    assert_eq!(talk.frame(&answer(AskFor::Poll, 0, None, "late")), ["poll failed 0 \"late\""]);
}

const POSTS: &str =
    "[send]\npublish = { json = '{\"d\":{data}}', post = '/pub/{channel}' }\nping = '1'\n[transport.sse]\n";

#[test]
fn what_leaves_by_post_is_answered_by_its_status() {
    let dialect = dialect(&format!("{POSTS}[close]\nthen = {{ \"402\" = 'retry' }}\n{ANY}"));
    assert!(dialect.posts_messages() && !dialect.posts_subscribes());
    let mut talk = Talk::new(dialect, None);
    connect(&mut talk, Transport::Sse, &[]);
    talk.open();
    assert_eq!(talk.ping(), None, "a stream has no way up");
    let mut post = |status: u16, body: &str| {
        let outgoing = talk.conversation.publish(talk.now, &message("a b", None, "[1]")).unwrap();
        assert!(outgoing.answered);
        let WireFrame::Ask(ask) = outgoing.frame else { panic!("{:?}", outgoing.frame) };
        assert_eq!((ask.of, ask.method), (AskFor::Request(outgoing.request), Method::Post));
        assert_eq!((ask.url.as_str(), &ask.body[..]), ("https://h/pub/a%20b", &b"{\"d\":[1]}"[..]));
        let headers: Vec<String> = ask.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(headers, ["x-key: s", "content-type: application/json"]);
        let heard = talk.frame(&answer(ask.of, status, None, body)).join(" | ");
        heard.replace(&format!("#{}", outgoing.request.0), "#")
    };
    assert_eq!(post(201, ""), "acked # publish[7]");
    assert_eq!(post(200, "{\"ok\":1}"), "acked # publish[7] {\"ok\":1}");
    assert_eq!(post(201, "queued: 1\r\n"), r#"acked # publish[7] "queued: 1\r\n""#, "a reply is JSON always");
    assert_eq!(post(200, "{\"ok\":"), r#"acked # publish[7] "{\"ok\":""#);
    assert_eq!(post(400, "bad\u{1}"), "refused # publish[7] code=400 \"bad\\\\u{1}\" Reject");
    assert_eq!(post(429, ""), "refused # publish[7] code=429 \"\" Retry");
    assert_eq!(post(402, ""), "refused # publish[7] code=402 \"\" Retry");
    // Nobody knows: the request stays open until its time is over.
    for unknown in [0, 408, 500, 502, 504] {
        assert_eq!(post(unknown, ""), "ignored");
    }
}

#[test]
fn without_a_way_up_and_without_post_nothing_is_sent() {
    let text = format!("[send]\nauth = '{{\"t\":1}}'\nsubscribe = '{{\"s\":{{channel}}}}'\n[transport.sse]\n{ANY}");
    let mut talk = Talk::new(dialect(&text), None);
    connect(&mut talk, Transport::Sse, &[]);
    assert_eq!(talk.open(), ["ready"], "who we are is told by headers");
    let refused = talk.try_subscribe(&[("a", None)], false);
    assert_eq!(refused, Err(SendError::NoWayUp(Transport::Sse)));
    connect(&mut talk, Transport::WebSocket, &[]);
    assert_eq!(talk.subscribe(&["a"]), r#"#1 subscribe[1] {"s":"a"}"#);
}

#[test]
fn a_post_stays_on_its_host() {
    let text = "[send]\npublish = { text = '{data}', post = '/{key?}' }\n[transport.sse]\n";
    let mut talk = Talk::new(dialect(&format!("{text}{ANY}")), None);
    connect(&mut talk, Transport::Sse, &[]);
    let with = MessageSpec { key: Some("/evil.example/x"), ..message("a", None, "1") };
    let outgoing = talk.conversation.publish(talk.now, &with).unwrap();
    let WireFrame::Ask(ask) = outgoing.frame else { panic!("{:?}", outgoing.frame) };
    assert_eq!(ask.url, "https://h/%2Fevil.example%2Fx");
    assert!(ask.headers.iter().any(|(_, value)| value.starts_with("text/plain")));
}

#[test]
fn mercure_names_its_channels_in_the_address_and_goes_on_by_the_last_id() {
    let mut talk = Talk::builtin("mercure", Some("j.w.t"));
    let bearer = ("authorization".to_owned(), "Bearer j.w.t".to_owned());
    let url = "https://h/.well-known/mercure?topic=https%3A%2F%2Fs%2Fbooks%2F1&topic=https%3A%2F%2Fs%2Fbooks%2F2";
    let channels = ["https://s/books/1", "https://s/books/2"];
    assert_eq!(connect(&mut talk, Transport::Sse, &channels), (url.to_owned(), vec![bearer.clone()]));
    assert_eq!(talk.open(), ["ready"]);
    let update = r#"{"@id":"https://s/books/2","stock":0}"#;
    assert_eq!(
        talk.frame(&event(Some("urn:uuid:1"), Some("stock"), Some(update))),
        [format!("event https://s/books/2 type=stock id=urn:uuid:1 {update}")]
    );
    assert_eq!(
        talk.frame(&event(Some("urn:uuid:2"), None, Some("<b>none</b>"))),
        ["unextracted 1"],
        "nothing says whose it is"
    );
    talk.conversation.params = json!({"channel": "https://s/news"}).to_string();
    assert_eq!(
        talk.frame(&event(Some("urn:uuid:3"), None, Some("<b>none</b>"))),
        [r#"event https://s/news id=urn:uuid:3 "<b>none</b>""#]
    );
    assert!(!talk.conversation.goes_on(), "the hub may have kept less than was missed");
    let last = ("last-event-id".to_owned(), "urn:uuid:3".to_owned());
    let mut talk = talk.reconnect(false);
    assert_eq!(connect(&mut talk, Transport::Sse, &channels).1, [bearer, last]);
    assert_eq!(
        connect(&mut Talk::builtin("mercure", None), Transport::Sse, &channels[..1]).1,
        [],
        "no empty credentials"
    );
}
