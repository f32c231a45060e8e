//! Frames into messages, and back; any bytes at all.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::dialect::field::FieldValue;
use crate::dialect::{Answer, AskFor};

fn framing(kind: FrameKind, split: bool) -> Framing {
    let namespace = if kind == FrameKind::SocketIo { MAIN.into() } else { "".into() };
    Framing { kind, split, namespace, ..Framing::default() }
}

/// What one part is, in a line.
fn show(part: Part<'_>) -> String {
    match part {
        Part::Message { fields, text } => {
            let text = String::from_utf8_lossy(text).into_owned();
            fields.iter().fold(text, |text, field| match &field.value {
                FieldValue::Text(value) => format!("{text} #{}={value}", field.name),
                FieldValue::Number(value) => format!("{text} #{}={value}", field.name),
            })
        }
        Part::Malformed => "malformed".to_owned(),
        Part::Broken(why) => format!("broken: {why}"),
        Part::Quiet => "quiet".to_owned(),
        Part::Skipped(what, count) => format!("skipped {count} {}", what.word()),
        Part::Open(sid) => format!("open {sid}"),
        Part::Answer(text) => format!("answer {text}"),
        Part::Closed => "closed".to_owned(),
    }
}

fn text(text: &str) -> WireFrame {
    WireFrame::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn binary(bytes: &[u8]) -> WireFrame {
    WireFrame::Binary(Bytes::copy_from_slice(bytes))
}

/// A session in the namespace `/market`.
#[derive(Default)]
struct Wire(Option<Box<Session>>);

impl Wire {
    fn framing() -> Framing {
        Framing { kind: FrameKind::SocketIo, namespace: "/market".into(), ..Framing::default() }
    }

    fn hear(&mut self, frame: &WireFrame) -> Vec<String> {
        let mut all = Vec::new();
        Wire::framing().read(&mut self.0, frame, &mut |part| all.push(show(part)));
        all
    }

    fn say(&mut self, sent: Sent, payload: &str) -> String {
        Wire::framing().wrap(&mut self.0, sent, 0, payload.to_owned())
    }
}

fn read(kind: FrameKind, split: bool, frame: &str) -> Vec<String> {
    let mut all = Vec::new();
    framing(kind, split).read(&mut None, &text(frame), &mut |part| all.push(show(part)));
    all
}

#[test]
fn each_kind_finds_its_messages() {
    assert_eq!(read(FrameKind::Json, false, "[1,2]"), ["[1,2]"]);
    assert_eq!(read(FrameKind::Json, true, " [1, {\"a\":2}]"), ["1", "{\"a\":2}"]);
    assert_eq!(read(FrameKind::Json, true, "{}"), ["{}"]);
    assert_eq!(read(FrameKind::Json, true, "[]"), [""; 0]);
    assert_eq!(read(FrameKind::Json, true, "[1,2"), ["malformed"]);
    assert_eq!(read(FrameKind::Ndjson, false, "{}\r\n\n1\n"), ["{}\r", "1"]);
    assert_eq!(read(FrameKind::Ndjson, true, "[1]\n[2"), ["1", "malformed"]);
    assert_eq!(read(FrameKind::Records, false, "{}\u{1e}1\u{1e}"), ["{}", "1"]);
}

#[test]
fn a_head_says_the_id_and_is_no_content() {
    let framing = Framing { head: true, ..Framing::default() };
    let read = |frame: &str| {
        let mut all = Vec::new();
        framing.read(&mut None, &text(frame), &mut |part| all.push(show(part)));
        all
    };
    assert_eq!(read("id: 5:0\ncontent-type: text/plain\n\n{\"a\":1}"), ["{\"a\":1} #id=5:0"]);
    assert_eq!(read("id: 5:0\r\n\r\na: b\n\nc"), ["\"a: b\\n\\nc\" #id=5:0"], "the first empty line ends it");
    assert_eq!(read("content-type: text/plain\n\n1"), ["1"]);
    for whole in ["{\"id\": 1}", "{\"id\": 1,\n\n\"b\":2}", "[1]\n\n", "\n7"] {
        assert_eq!(read(whole), [whole], "there is no head");
    }
    assert_eq!(read("id: 5:0"), ["\"id: 5:0\""], "nothing ends it");
}

#[test]
fn a_payload_with_line_breaks_stays_one_message() {
    let wrap = |kind, payload: &str| framing(kind, false).wrap(&mut None, Sent::Event(None), 0, payload.to_owned());
    assert_eq!(wrap(FrameKind::Ndjson, "{\"data\":{\n\"a\":1}\r\n}"), "{\"data\":{ \"a\":1}  }");
    assert_eq!(wrap(FrameKind::Records, "{}"), "{}\u{1e}");
}

#[test]
fn the_engines_own_packets_never_reach_the_rules() {
    let mut wire = Wire::default();
    let open = r#"0{"sid":"a","pingInterval":3000,"pingTimeout":2000}"#;
    assert_eq!(wire.hear(&text(open)), ["open a"]);
    assert_eq!(wire.0.as_ref().unwrap().silence(), Some(std::time::Duration::from_secs(5)));
    assert_eq!(wire.hear(&text(open)), ["broken: a second open packet"], "a connection opens once");
    assert_eq!(wire.hear(&text("2")), ["answer 3"]);
    assert_eq!(wire.hear(&text("2probe")), ["answer 3probe"]);
    assert_eq!(wire.hear(&text(&format!("2{}", "x".repeat(126)))), ["malformed"]);
    assert_eq!(wire.hear(&text("6")), ["quiet"]);
    assert_eq!(wire.hear(&text("3")), ["quiet"]);
    assert_eq!(wire.hear(&text("1")), ["closed"]);
    assert_eq!(wire.hear(&text("9")), ["broken: not a packet of Engine.IO"]);
    assert_eq!(Wire::default().hear(&text("0{}")), ["broken: an open packet does not say what it must"]);
}

#[test]
fn packets_of_other_namespaces_are_passed_over_and_counted() {
    let mut wire = Wire::default();
    assert_eq!(wire.hear(&text("42[\"a\"]")), ["skipped 1 namespace"]);
    assert_eq!(wire.hear(&text("40/other,{\"sid\":\"x\"}")), ["skipped 1 namespace"]);
    // With their attachments.
    assert_eq!(wire.hear(&text("451-/other,[\"a\",{\"_placeholder\":true,\"num\":0}]")), [""; 0]);
    assert_eq!(wire.hear(&binary(b"x")), ["skipped 1 namespace"]);
    assert_eq!(wire.hear(&text("42/market,[\"a\"]")), ["[\"a\"] #packet=event"]);
    assert_eq!(wire.hear(&text("44/market,{\"message\":\"no\"}")), ["{\"message\":\"no\"} #packet=connect_error"]);
    assert_eq!(wire.hear(&text("41/market,")), ["null #packet=disconnect"]);
}

#[test]
fn attachments_come_in_their_packet() {
    let mut wire = Wire::default();
    let packet = "462-/market,7[{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]";
    assert_eq!(wire.hear(&text(packet)), [""; 0]);
    // The engine's own packets may come in between.
    assert_eq!(wire.hear(&text("2")), ["answer 3"]);
    assert_eq!(wire.hear(&binary(&[1, 2, 3])), [""; 0]);
    assert_eq!(wire.hear(&binary(&[])), ["[\"AQID\",\"\"] #packet=ack #ack=7"]);
    assert_eq!(wire.hear(&binary(&[1])), ["broken: an attachment that no packet announced"]);
    assert_eq!(wire.hear(&text("451-/market,[\"a\",{\"_placeholder\":true,\"num\":0}]")), [""; 0]);
    let early = "broken: a packet came before the attachments of the one before it";
    assert_eq!(wire.hear(&text("42/market,[\"b\"]")), [early]);
    assert_eq!(wire.hear(&text("450-/market,[\"c\"]")), ["[\"c\"] #packet=event"]);
}

#[test]
fn more_attachments_than_anybody_sends_are_refused() {
    let mut wire = Wire::default();
    for count in [11_u64, 1_000_000_000, u64::MAX] {
        let refused = wire.hear(&text(&format!("45{count}-/market,[\"a\"]")));
        assert_eq!(refused, ["broken: not a packet of Socket.IO"], "{count}");
        assert_eq!(wire.hear(&binary(b"x")), ["broken: an attachment that no packet announced"]);
    }
    assert_eq!(wire.hear(&text("4510-/market,[\"a\"]")), [""; 0]);
    let large = binary(&vec![0; attachments::MOST_BYTES / 4]);
    for _ in 0..9 {
        assert_eq!(wire.hear(&large), [""; 0]);
    }
    assert_eq!(wire.hear(&large), ["skipped 6 attachment", "[\"a\"] #packet=event"]);
}

#[test]
fn only_a_session_that_is_kept_has_offsets() {
    let mut wire = Wire::default();
    let event = |last: &str| text(&format!("42/market,[\"a\",{last}]"));
    assert_eq!(wire.hear(&text("40/market,{\"sid\":\"s\"}")), ["{\"sid\":\"s\"} #packet=connect"]);
    assert_eq!(wire.hear(&event("\"x\"")), ["[\"a\",\"x\"] #packet=event"], "recovery is off");
    wire.hear(&text("40/market,{\"sid\":\"s\",\"pid\":\"p\"}"));
    assert_eq!(wire.hear(&event("1")), ["[\"a\",1] #packet=event"]);
    assert_eq!(wire.hear(&event("1,\"x-1_Z\"")), ["[\"a\",1,\"x-1_Z\"] #packet=event #offset=x-1_Z"]);
    // The official server gives such ones to all but the first event of a millisecond.
    assert_eq!(wire.hear(&event("\"Q7_OtpR.3\"")), ["[\"a\",\"Q7_OtpR.3\"] #packet=event #offset=Q7_OtpR.3"]);
    wire.hear(&event("1,\"x-1_Z\""));
    // Those that are not kept for us leave the place where it is.
    assert_eq!(wire.hear(&event("\"two words\"")), ["[\"a\",\"two words\"] #packet=event #offset=x-1_Z"]);
    assert_eq!(wire.hear(&text("42/market,[\"name\"]")), ["[\"name\"] #packet=event #offset=x-1_Z"]);
    let asking = text("42/market,3[\"a\",\"y\"]");
    assert_eq!(wire.hear(&asking), ["[\"a\",\"y\"] #packet=event #ack=3 #offset=x-1_Z"]);

    // What was missed comes before the answer to CONNECT.
    let mut again = Wire::default();
    let asked = again.say(Sent::Connect, "{\"pid\":\"p\",\"offset\":\"x\"}");
    assert_eq!(asked, "40/market,{\"pid\":\"p\",\"offset\":\"x\"}");
    assert_eq!(again.hear(&event("1")), ["[\"a\",1] #packet=event #offset=x"]);
    assert_eq!(again.hear(&event("\"y\"")), ["[\"a\",\"y\"] #packet=event #offset=y"]);
}

#[test]
fn what_was_sent_is_found_again_in_its_frame() {
    let mut wire = Wire::default();
    for (sent, payload) in
        [(Sent::Connect, "{}"), (Sent::Event(Some(3)), "[\"a\"]"), (Sent::Event(None), "[\"a\"]"), (Sent::Ack(2), "[]")]
    {
        let frame = text(&wire.say(sent, payload));
        assert_eq!(Wire::framing().unwrap(&frame, &[]), Some((sent, payload.as_bytes().into())));
    }
    assert_eq!(Wire::framing().unwrap(&text("42[\"a\"]"), &[]), None, "another namespace");
    assert_eq!(Wire::framing().unwrap(&text("3"), &[]), None);
    let records = framing(FrameKind::Records, false);
    assert_eq!(records.unwrap(&text("{}\u{1e}"), &[]), Some((Sent::Event(None), b"{}".into())));

    let written = "[\"a\",{\"$binary\":\"AQID\"}]";
    let Detached { text: placed, attachments } = Wire::framing().detach(written).unwrap().unwrap();
    let frame = text(&Wire::framing().wrap(&mut None, Sent::Event(Some(7)), attachments.len(), placed));
    assert_eq!(Wire::framing().announces(&frame), 1);
    let found = (Sent::Event(Some(7)), written.as_bytes().into());
    assert_eq!(Wire::framing().unwrap(&frame, &attachments), Some(found));
    assert_eq!(Wire::framing().unwrap(&frame, &[]), None, "it is not whole");
}

/// The answer to a poll.
fn polled(body: Vec<u8>) -> WireFrame {
    let (of, body) = (AskFor::Poll, body.into());
    let answer = Answer { of, status: 200, etag: None, last_modified: None, retry_after: None, body };
    WireFrame::Answer(Box::new(answer))
}

/// Bytes that begin like a packet, or do not.
fn frames() -> impl Strategy<Value = Vec<WireFrame>> {
    let start = prop_oneof![
        Just(""),
        Just("0{\"sid\":\"a\",\"pingInterval\":1,\"pingTimeout\":1}"),
        Just("0"),
        Just("2"),
        Just("4"),
        Just("40/market,{\"pid\":\"p\"}"),
        Just("42/market,[\"a\","),
        Just("451-/market,[\"a\",{\"_placeholder\":true,"),
        Just("462-/market,1["),
        Just("42/market,[\"a\"]\u{1e}bAQID\u{1e}\u{1e}b*\u{1e}2\u{1e}"),
        Just("451-/market,[{\"_placeholder\":true,\"num\":0}]\u{1e}bAQ==\u{1e}"),
        Just("45999999999999999999999-[\"a\"]"),
        Just("43/market,"),
    ];
    let rest = prop::collection::vec(any::<u8>(), 0..40);
    let frame = (start, rest, 0..3_u8).prop_map(|(start, rest, kind)| {
        let bytes: Vec<u8> = start.bytes().chain(rest).collect();
        match kind {
            0 => WireFrame::Text(bytes.into()),
            1 => WireFrame::Binary(bytes.into()),
            _ => polled(bytes),
        }
    });
    prop::collection::vec(frame, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_to_their_end(frames in frames()) {
        let mut wire = Wire::default();
        for frame in &frames {
            let parts = wire.hear(frame);
            let packets = frame.body().split(|byte| *byte == RECORD_END).count();
            prop_assert!(parts.len() <= 2 * packets, "{parts:?}");
            // What may have been an event is never passed over in silence.
            if matches!(frame, WireFrame::Text(_)) && engine::packet(frame.body()).is_none() {
                prop_assert!(parts.iter().any(|part| part.starts_with("broken")), "{parts:?}");
            }
            for kind in [FrameKind::Json, FrameKind::Ndjson, FrameKind::Records] {
                framing(kind, true).read(&mut None, frame, &mut |_| {});
            }
        }
    }
}

#[test]
fn compressed_frames_hold_what_others_hold() {
    let mut state = flate2::Compress::new(flate2::Compression::fast(), true);
    let mut send = |text: &str| {
        let mut sent = Vec::with_capacity(1024);
        state.compress_vec(text.as_bytes(), &mut sent, flate2::FlushCompress::Sync).unwrap();
        binary(&sent)
    };
    let framing = Framing { inflate: Some(Inflate::ZlibStream), ..framing(FrameKind::Ndjson, false) };
    let mut session = None;
    let mut hear = |frame: &WireFrame| {
        let mut all = Vec::new();
        framing.read(&mut session, frame, &mut |part| all.push(show(part)));
        all
    };
    assert_eq!(hear(&send("{\"a\":1}\n{\"a\":2}\n")), ["{\"a\":1}", "{\"a\":2}"]);
    assert_eq!(hear(&text("{\"a\":3}")), ["{\"a\":3}"], "text is not compressed");
    let WireFrame::Binary(whole) = send("{\"a\":4}") else { panic!() };
    assert_eq!(hear(&binary(&whole[..3])), ["quiet"]);
    assert_eq!(hear(&binary(&whole[3..])), ["{\"a\":4}"]);
    assert_eq!(hear(&binary(b"\xff\xff{}")), ["broken: a compressed frame cannot be inflated"]);
}
