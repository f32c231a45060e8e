//! Socket.IO in conversation: connect, recovery, acknowledgements, questions.

use super::*;

const OPEN: &str = r#"0{"sid":"a","upgrades":[],"pingInterval":3000,"pingTimeout":2000,"maxPayload":1000000}"#;

#[test]
fn socketio_connects_once_the_engine_is_open() {
    let mut talk = Talk::builtin("socketio", Some("s3cret"));
    let request = talk.conversation.connect_request(Transport::WebSocket, "ws://h:1", &[], &[]).unwrap();
    assert_eq!(request.url, "ws://h:1/socket.io/?EIO=4&transport=websocket");
    assert_eq!(talk.open(), [""; 0], "the service speaks first");
    assert_eq!(talk.conversation.timing().idle, None);
    assert_eq!(talk.hear(OPEN), [r#"send #1 auth? 40{"token":"s3cret"}"#]);
    assert_eq!(talk.conversation.timing().idle, Some(Duration::from_secs(5)), "interval and timeout, nothing more");
    assert_eq!(talk.hear("2"), ["send #2 reply 3"]);
    assert_eq!(talk.hear(r#"40{"sid":"s","pid":"p"}"#), ["ready"]);
    assert_eq!(talk.subscribe(&["ticker"]), r#"#3 subscribe[1]? 423["subscribe","ticker"]"#);
    assert_eq!(talk.hear(r#"433[{"ok":true}]"#), [r#"acked #3 subscribe[1] {"ok":true}"#]);
    assert_eq!(talk.hear(r#"433[{"ok":true}]"#), ["acked #0 subscribe[]"], "it was answered");
    let event = r#"42["event",{"channel":"ticker","seq":3,"data":{"px":1}},"Q7yDCds"]"#;
    assert_eq!(talk.hear(event), [r#"event ticker seq=3-3 {"px":1}"#]);
    assert_eq!(talk.hear(r#"42["welcome",{"a":1}]"#), [r#"event welcome {"a":1}"#]);
    assert_eq!(
        talk.publish("orders", None, r#"{"a":1}"#).unwrap(),
        r#"#4 publish[7]? 424["publish","orders",{"a":1}]"#
    );
    assert_eq!(talk.hear(r#"434[{"error":"no such room"}]"#), [r#"refused #4 publish[7] "no such room""#]);
    assert_eq!(talk.hear("41"), ["reconnect"]);
}

#[test]
fn socketio_goes_on_with_its_session_or_begins_another() {
    let mut talk = Talk::builtin("socketio", None);
    talk.open();
    assert_eq!(talk.hear(OPEN), ["send #1 auth? 40{}"]);
    assert_eq!(talk.hear(r#"40{"sid":"s","pid":"p"}"#), ["ready"]);
    talk.hear(r#"42["event",{"channel":"ticker","data":1},"o-1"]"#);
    talk.hear(r#"42["volatile",1]"#);

    let mut talk = talk.reconnect(false);
    talk.open();
    assert_eq!(talk.hear(OPEN), [r#"send #1 auth? 40{"pid":"p","offset":"o-1"}"#]);
    let missed = r#"42["event",{"channel":"ticker","data":2},"o-2"]"#;
    assert_eq!(talk.hear(missed), ["event ticker 2"], "missed events come before the answer");
    assert_eq!(talk.hear(r#"40{"sid":"s","pid":"p"}"#), ["resumed"]);

    let mut talk = talk.reconnect(false);
    talk.open();
    assert_eq!(talk.hear(OPEN), [r#"send #1 auth? 40{"pid":"p","offset":"o-2"}"#]);
    assert_eq!(talk.hear(r#"40{"sid":"t","pid":"q"}"#), ["ready"], "the service kept nothing");

    let mut talk = talk.reconnect(false);
    talk.open();
    assert_eq!(talk.hear(OPEN), [r#"send #1 auth? 40{"pid":"q"}"#], "the old offset leads nowhere in the new session");
    assert_eq!(talk.hear(r#"44{"message":"not authorized","data":{"code":401}}"#), [r#"denied "not authorized""#]);
}

#[test]
fn socketio_answers_questions_and_needs_no_credentials() {
    let dialect = dialect(
        "frame = { kind = 'socket.io', namespace = '/n' }\n[send]\nreceipt = '[{\"got\":{in.what}}]'\nsubscribe = '[\"join\",{channel}]'\n\
         [[on]]\nmatch = { '#packet' = 'connect' }\nis = 'ready'\n\
         [[on]]\nmatch = { '#packet' = 'event', '#ack' = { exists = true } }\nis = 'ignore'\nset = { 'in.what' = '/1' }\nreply = 'receipt'\n\
         [[on]]\nmatch = { '#packet' = 'event' }\nis = 'event'\nchannel = '{/0}/{#packet}'\n",
    );
    let mut talk = Talk::new(dialect, None);
    talk.open();
    assert_eq!(talk.hear(OPEN), ["send #1 auth? 40/n,"], "a namespace is connected to in any case");
    assert_eq!(talk.hear(r#"40/n,{"sid":"s"}"#), ["ready"]);
    assert_eq!(talk.hear(r#"42/n,12["question",5]"#), ["ignored", r#"send #2 reply 43/n,12[{"got":5}]"#]);
    assert_eq!(talk.subscribe(&["a"]), r#"#3 subscribe[1] 42/n,["join","a"]"#, "without an ack nothing is numbered");
    assert_eq!(talk.hear(r#"42/n,["a",1]"#), [r#"event a/event ["a",1]"#]);
    assert_eq!(talk.hear(r#"42["a",1]"#), ["skipped 1 namespace"]);
}

/// `of` and address of an ask, and what it carries.
fn asked(outgoing: &Outgoing) -> String {
    let WireFrame::Ask(ask) = &outgoing.frame else { panic!("{:?}", outgoing.frame) };
    format!("{:?} {:?} {} {}", ask.of, ask.method, ask.url, String::from_utf8_lossy(&ask.body))
}

#[test]
fn socketio_is_polled_where_it_has_to_be() {
    use crate::dialect::{Answer, AskFor};

    let mut talk = Talk::builtin("socketio", None);
    talk.conversation.connect_request(Transport::LongPoll, "http://h:1", &[], &[]).unwrap();
    let answer = |of: AskFor, status: u16, body: &str| {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let answer = Answer { of, status, etag: None, last_modified: None, retry_after: None, body };
        WireFrame::Answer(Box::new(answer))
    };
    let hear = |talk: &mut Talk, frame: &WireFrame| {
        let mut all = Vec::new();
        talk.conversation.receive(talk.now, frame, &mut |heard| match heard {
            Heard::Send(outgoing) => all.push(asked(&outgoing)),
            heard => all.push(show(&heard)),
        });
        all
    };
    let poll = |talk: &mut Talk| talk.conversation.poll(talk.now).map(|poll| asked(&poll.unwrap()));
    let base = "http://h:1/socket.io/?EIO=4&transport=polling";
    assert_eq!(talk.open(), [""; 0]);
    assert_eq!(poll(&mut talk), Some(format!("Poll Get {base} ")));
    assert_eq!(poll(&mut talk), None, "one is out");
    let opened = hear(&mut talk, &answer(AskFor::Poll, 200, OPEN));
    assert_eq!(opened, [format!("Request(RequestId(1)) Post {base}&sid=a 40{{}}")]);
    assert_eq!(hear(&mut talk, &answer(AskFor::Request(RequestId(1)), 200, "ok")), ["ignored"]);
    assert_eq!(poll(&mut talk), Some(format!("Poll Get {base}&sid=a ")), "the next one leaves at once");
    let several = "40{\"sid\":\"s\"}\u{1e}451-[\"x\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQID\u{1e}2";
    let pong = format!("Request(RequestId(2)) Post {base}&sid=a 3");
    assert_eq!(hear(&mut talk, &answer(AskFor::Poll, 200, several)), ["ready", "event x \"AQID\"", &pong]);

    // Answers without anything slow the polls down.
    talk.conversation.poll(talk.now);
    assert_eq!(hear(&mut talk, &answer(AskFor::Poll, 200, "6")), ["ignored"]);
    talk.conversation.poll(talk.now);
    assert_eq!(hear(&mut talk, &answer(AskFor::Poll, 200, "6")).len(), 2);
    assert_eq!(poll(&mut talk), None);
    talk.pass(1);
    assert!(poll(&mut talk).is_some());
    let unknown = "{\"code\":1,\"message\":\"Session ID unknown\"}";
    assert_eq!(hear(&mut talk, &answer(AskFor::Poll, 400, unknown)), ["reconnect"], "another session");
    assert_eq!(hear(&mut talk, &answer(AskFor::Request(RequestId(2)), 400, unknown)), ["reconnect"]);
}
