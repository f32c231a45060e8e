//! Socket.IO in conversation: connect, recovery, acknowledgements, questions.

use std::collections::VecDeque;

use super::*;
use crate::dialect::{Answer, AskFor};

const OPEN: &str = r#"0{"sid":"a","upgrades":[],"pingInterval":3000,"pingTimeout":2000,"maxPayload":1000000}"#;
/// Of a service that takes little at once and has a WebSocket.
const NARROW: &str = r#"0{"sid":"a","upgrades":["websocket"],"pingInterval":3000,"pingTimeout":2000,"maxPayload":40}"#;

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
    assert_eq!(talk.hear("41"), [r#"refused "the service has ended the session" Reconnect"#]);
    assert_eq!(talk.hear("1"), ["closed"]);
    assert_eq!(talk.hear(r#"42["welcome",{"a":1}]"#), ["ignored"], "nothing comes after the end");
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
fn asked(frame: &WireFrame) -> String {
    let WireFrame::Ask(ask) = frame else { panic!("{frame:?}") };
    let body = String::from_utf8_lossy(&ask.body).replace('\u{1e}', "|");
    format!("{:?} {:?} {} {body}", ask.of, ask.method, ask.url)
}

/// A conversation whose packets are polled for.
struct Polled {
    talk: Talk,
    packets: VecDeque<WireFrame>,
}

impl Polled {
    const URL: &'static str = "http://h:1/socket.io/?EIO=4&transport=polling";

    /// Its session is open; CONNECT waits.
    fn open(open: &str) -> Self {
        Polled::over(Talk::builtin("socketio", None), open)
    }

    fn over(mut talk: Talk, open: &str) -> Self {
        talk.conversation.connect_request(Transport::LongPoll, "http://h:1", &[], &[]).unwrap();
        assert_eq!(talk.open(), [""; 0]);
        let mut polled = Polled { talk, packets: VecDeque::new() };
        assert_eq!(polled.poll(), Some(format!("Poll Get {} ", Self::URL)));
        assert_eq!(polled.poll(), None, "one is out");
        assert_eq!(polled.hear(AskFor::Poll, 200, open), ["send #1 auth? 40{}"]);
        polled
    }

    fn hear(&mut self, of: AskFor, status: u16, body: &str) -> Vec<String> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let answer = Answer { of, status, etag: None, last_modified: None, retry_after: None, body };
        let mut all = Vec::new();
        self.talk.conversation.receive(self.talk.now, &WireFrame::Answer(Box::new(answer)), &mut |heard| {
            if let Heard::Send(outgoing) = &heard {
                self.packets.push_back(outgoing.frame.clone());
            }
            all.push(show(&heard));
        });
        all
    }

    fn poll(&mut self) -> Option<String> {
        self.talk.conversation.poll(self.talk.now).map(|poll| asked(&poll.unwrap().frame))
    }

    fn post(&mut self) -> Option<String> {
        self.talk.conversation.post_packets(&mut self.packets).map(|post| asked(&post.unwrap()))
    }

    fn publish(&mut self, data: &str) -> Result<(), SendError> {
        let outgoing = self.talk.conversation.publish(self.talk.now, &message("c", None, data))?;
        self.packets.push_back(outgoing.frame);
        self.packets.extend(outgoing.attachments.into_iter().map(WireFrame::Binary));
        Ok(())
    }
}

const POST: AskFor = AskFor::Request(RequestId(2));

#[test]
fn socketio_is_polled_where_it_has_to_be() {
    let mut polled = Polled::open(OPEN);
    let url = format!("{}&sid=a", Polled::URL);
    assert_eq!(polled.post(), Some(format!("Request(RequestId(2)) Post {url} 40{{}}")));
    assert_eq!(polled.post(), None, "nothing waits");
    assert_eq!(polled.hear(POST, 200, "ok"), ["ignored"]);
    assert_eq!(polled.poll(), Some(format!("Poll Get {url} ")), "the next one leaves at once");
    let several = "40{\"sid\":\"s\"}\u{1e}451-[\"x\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQID\u{1e}2";
    assert_eq!(polled.hear(AskFor::Poll, 200, several), ["ready", "event x \"AQID\"", "send #3 reply 3"]);
    assert_eq!(polled.post(), Some(format!("Request(RequestId(4)) Post {url} 3")));

    // Answers without anything slow the polls down; one without even a packet is no answer.
    polled.poll();
    assert_eq!(polled.hear(AskFor::Poll, 200, "6"), ["ignored"]);
    polled.poll();
    assert_eq!(polled.hear(AskFor::Poll, 200, "6").len(), 2);
    assert_eq!(polled.poll(), None);
    polled.talk.pass(1);
    assert!(polled.poll().is_some());
    assert_eq!(polled.hear(AskFor::Poll, 200, "")[0], "malformed");
    let farewell = polled.talk.conversation.farewell().map(|ask| asked(&WireFrame::Ask(Box::new(ask))));
    assert_eq!(farewell, Some(format!("Request(RequestId(5)) Post {url} 1")));
    let unknown = "{\"code\":1,\"message\":\"Session ID unknown\"}";
    let failed = polled.hear(AskFor::Poll, 400, unknown);
    assert!(failed.len() == 1 && failed[0].starts_with("poll failed 400"), "{failed:?}");
    assert!(polled.talk.conversation.farewell().is_none(), "there is nobody to say it to");
    assert_eq!(Polled::open(OPEN).hear(POST, 400, "")[0], "poll failed 400 \"\"", "so does a POST");
}

#[test]
fn a_lost_answer_to_a_poll_is_not_asked_for_again() {
    let mut polled = Polled::open(OPEN);
    let poll = polled.talk.conversation.poll(polled.talk.now).unwrap().unwrap();
    let WireFrame::Ask(ask) = poll.frame else { panic!() };
    assert!(!ask.repeats, "its packets are gone with it");
}

/// The engine keeps for a session what is not fetched, whatever the dialect says of places.
#[test]
fn nothing_is_lost_between_polls_of_a_session() {
    let text = include_str!("../../../../config/dialects/socketio.toml");
    let placed = text.replacen("[transport.long-poll]", "[transport.long-poll]\nresumes = true", 1);
    assert_ne!(placed, text);
    for text in [text, &placed] {
        let mut polled = Polled::over(Talk::new(Arc::new(Dialect::parse("socketio.toml", text).unwrap()), None), OPEN);
        polled.poll();
        assert_eq!(polled.hear(AskFor::Poll, 200, "40{\"sid\":\"s\"}"), ["ready"]);
        for _ in 0..3 {
            polled.talk.pass(30);
            assert!(polled.poll().is_some());
            polled.talk.pass(30);
            assert_eq!(polled.hear(AskFor::Poll, 200, "6"), ["ignored"]);
        }
        polled.poll();
        assert_eq!(polled.hear(AskFor::Poll, 200, "42[\"x\",1]"), ["event x 1"]);
    }
}

#[test]
fn packets_leave_together_as_far_as_the_service_takes_them() {
    let mut polled = Polled::open(NARROW);
    for n in 0..4 {
        polled.publish(&n.to_string()).unwrap();
    }
    let bodies: Vec<String> =
        std::iter::from_fn(|| polled.post()).map(|post| post.rsplit(' ').next().unwrap().to_owned()).collect();
    // 40 bytes at once, the separator with them.
    let publish = |n: u32| format!("42{}[\"publish\",\"c\",{n}]", n + 2);
    assert_eq!(bodies, [format!("40{{}}|{}", publish(0)), publish(1), publish(2), publish(3)]);
    assert!(bodies.iter().all(|body| body.len() <= 40), "{bodies:?}");

    let packet = |data: &str| format!("427[\"publish\",\"c\",{data}]").len();
    let (fits, large) = ("1".repeat(40 - packet("")), "1".repeat(41 - packet("")));
    polled.talk.conversation.renumber(7);
    assert_eq!(polled.publish(&large), Err(SendError::TooLarge { bytes: 41, takes: 40 }));
    assert_eq!(polled.publish(&fits), Ok(()), "a refused packet has used no number");
}

#[test]
fn a_polled_session_moves_to_a_websocket() {
    let mut polled = Polled::open(NARROW);
    let conversation = &mut polled.talk.conversation;
    assert!(conversation.may_upgrade());
    let request = conversation.upgrade_request().unwrap();
    assert_eq!(request.transport, Transport::WebSocket);
    assert_eq!(request.url, "ws://h:1/socket.io/?EIO=4&transport=websocket&sid=a");
    assert_eq!(sent(&conversation.probe()), "#2 reply 2probe");
    assert!(!conversation.poll_is_out());
    assert_eq!(polled.talk.hear("3probe"), ["probed true"]);
    assert_eq!(polled.talk.hear("42[\"x\"]"), ["probed false"], "nothing may come there before");
    assert_eq!(sent(&polled.talk.conversation.upgraded()), "#3 reply 5");
    assert_eq!(polled.poll(), None);
    assert!(!polled.talk.conversation.may_upgrade(), "once is enough");
    assert_eq!(polled.talk.hear(r#"40{"sid":"s"}"#), ["ready"]);
    assert_eq!(polled.talk.subscribe(&["a"]), r#"#4 subscribe[1]? 424["subscribe","a"]"#);
    assert!(polled.talk.conversation.farewell().is_none(), "closing says it");

    assert!(!Polled::open(OPEN).talk.conversation.may_upgrade(), "the service does not offer it");
}

#[test]
fn what_cannot_be_followed_ends_what_is_heard() {
    for (wrong, why) in [
        ("9", "not a packet of Engine.IO"),
        ("", "not a packet of Engine.IO"),
        (OPEN, "a second open packet"),
        ("4", "not a packet of Socket.IO"),
        ("42{}", "not a packet of Socket.IO"),
        ("4511-[\"a\"]", "not a packet of Socket.IO"),
        ("42[\"a\",", "the payload of a packet is not JSON"),
    ] {
        let mut talk = Talk::builtin("socketio", None);
        talk.open();
        talk.hear(OPEN);
        talk.hear(r#"40{"sid":"s"}"#);
        assert_eq!(talk.hear(wrong), [format!("broken: {why}")], "{wrong}");
        assert_eq!(talk.hear(r#"42["a",1]"#), ["ignored"], "it would stand where a hole is not told yet");
    }
    let mut polled = Polled::open(OPEN);
    let answer = "40{\"sid\":\"s\"}\u{1e}b*\u{1e}42[\"a\",1]";
    assert_eq!(polled.hear(AskFor::Poll, 200, answer), ["ready", "broken: a binary packet is not base64"]);
}

#[test]
fn attachments_that_are_too_large_are_told_on_their_channel() {
    let mut talk = Talk::builtin("socketio", None);
    talk.open();
    talk.hear(OPEN);
    talk.hear(r#"40{"sid":"s"}"#);
    talk.hear(r#"451-["a",{"_placeholder":true,"num":0}]"#);
    let heard = talk.frame(&WireFrame::Binary(vec![0; 5 * 1024 * 1024].into()));
    assert_eq!(heard, ["skipped 1 attachment", "cut a", r#"event a {"_placeholder":true,"num":0}"#]);
    assert_eq!(talk.hear(r#"42["a",1]"#), ["event a 1"], "the next one is whole");
}

#[test]
fn attachments_leave_behind_their_packet() {
    let mut talk = Talk::builtin("socketio", None);
    talk.open();
    talk.hear(OPEN);
    talk.hear(r#"40{"sid":"s"}"#);
    let data = r#"{"b":{"$binary":"AQID"},"a":[{"$binary":"/w=="},1.0]}"#;
    let placed = r#"{"b":{"_placeholder":true,"num":0},"a":[{"_placeholder":true,"num":1},1.0]}"#;
    let sent = format!(r#"#2 publish[7]? 452-2["publish","c",{placed}] +[01, 02, 03] +[ff]"#);
    assert_eq!(talk.publish("c", None, data), Ok(sent));
    // Answered with attachments of its own, by the same number.
    talk.hear(r#"461-2[{"got":{"_placeholder":true,"num":0}}]"#);
    let answer = talk.frame(&WireFrame::Binary(Bytes::from_static(&[4, 5])));
    assert_eq!(answer, [r#"acked #2 publish[7] {"got":"BAU="}"#]);
    talk.publish("c", None, r#"{"$binary":""}"#).unwrap();
    assert_eq!(talk.hear("433[1]"), ["acked #3 publish[7] 1"]);

    // What only looks like a place of Socket.IO's is JSON by itself, and refused beside an attachment.
    let looks = r#"{"_placeholder":true,"num":0}"#;
    let sent = format!(r#"#4 publish[7]? 424["publish","c",{looks}]"#);
    assert_eq!(talk.publish("c", None, looks), Ok(sent));
    let forged = format!(r#"[{{"$binary":"AQID"}},{looks}]"#);
    assert!(matches!(talk.publish("c", None, &forged), Err(SendError::Invalid(why)) if why.starts_with("data/1 ")));
    // A channel's params are nobody's attachments.
    let subscribe = talk.try_subscribe(&[("x", Some(r#"{"p":{"$binary":"%"}}"#))], false).unwrap();
    assert_eq!(subscribe, r#"#5 subscribe[1]? 425["subscribe","x"]"#);

    // Other framings have no attachments.
    let mut plain = Talk::builtin("plain", None);
    plain.open();
    assert!(plain.publish("c", None, r#"{"$binary":"%"}"#).unwrap().ends_with(r#""data":{"$binary":"%"}}"#));
}

#[test]
fn forging_from_beside_the_data_is_seen_when_it_leaves() {
    let dialect = dialect(
        "frame = { kind = 'socket.io' }\n[send]\npublish = '[\"p\",{params?},{data}]'\n\
         [[on]]\nmatch = { '#packet' = 'connect' }\nis = 'ready'\n",
    );
    let mut talk = Talk::new(dialect, None);
    talk.open();
    talk.hear(OPEN);
    let params = Some(r#"{"_placeholder":true,"num":0}"#);
    let with = |data| MessageSpec { params, ..message("c", None, data) };
    let data = r#"{"$binary":"AQID"}"#;
    assert_eq!(talk.conversation.check_publish(&with(data)), Ok(()), "the data is in order");
    assert!(matches!(talk.conversation.publish(talk.now, &with(data)), Err(SendError::Invalid(_))));
    assert!(talk.conversation.publish(talk.now, &with("1")).is_ok());
}

#[test]
fn an_attachment_is_no_larger_than_the_service_takes_by_the_transport_at_hand() {
    let base64 = |bytes: usize| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, vec![0; bytes]);
    let marked = |bytes: usize| format!(r#"{{"$binary":"{}"}}"#, base64(bytes));
    let open = NARROW.replace("40}", "60}");
    let mut talk = Talk::builtin("socketio", None);
    talk.open();
    talk.hear(&open);
    let large = Err(SendError::TooLarge { bytes: 61, takes: 60 });
    assert!(talk.publish("c", None, &marked(60)).is_ok());
    assert_eq!(talk.publish("c", None, &marked(61)), large);
    let mut polled = Polled::open(&open);
    assert_eq!(polled.publish(&marked(42)), Ok(()), "42 bytes are 57 in a POST");
    assert_eq!(polled.publish(&marked(43)), Err(SendError::TooLarge { bytes: 61, takes: 60 }));
}

#[test]
fn a_packet_is_posted_with_its_attachments_and_torn_only_where_no_post_takes_all_of_it() {
    let bodies = |takes: usize, messages: &[&str]| -> Vec<String> {
        let mut polled = Polled::open(&NARROW.replace("40}", &format!("{takes}}}")));
        polled.post();
        messages.iter().for_each(|data| polled.publish(data).unwrap());
        std::iter::from_fn(|| polled.post()).map(|post| post.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    let (one, two) = (r#"{"$binary":"AQID"}"#, r#"[{"$binary":"AQID"},{"$binary":"/+8="}]"#);
    let place = |n: u32| format!(r#"{{"_placeholder":true,"num":{n}}}"#);
    let packet = |id: u32, count: u32, data: &str| format!(r#"45{count}-{id}["publish","c",{data}]"#);
    let (first, last) = (packet(3, 1, &place(0)), packet(4, 2, &format!("[{},{}]", place(0), place(1))));
    let all = format!("{first}|bAQID|{last}|bAQID|b/+8=");
    assert_eq!(bodies(1000, &[one, two]), [&*all]);
    assert_eq!(bodies(all.len(), &[one, two]), [&*all], "exactly what it takes");
    let apart = [format!("{first}|bAQID"), format!("{last}|bAQID|b/+8=")];
    assert_eq!(bodies(all.len() - 1, &[one, two]), apart, "the second one whole by itself");
    assert_eq!(bodies(apart[1].len(), &[one, two]), apart);
    let torn = [apart[0].clone(), format!("{last}|bAQID"), "b/+8=".to_owned()];
    assert_eq!(bodies(apart[1].len() - 1, &[one, two]), torn, "as far as a POST takes it");
}
