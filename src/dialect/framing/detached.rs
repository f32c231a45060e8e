//! Binary attachments of packets that leave: `{"$binary":"<base64>"}` in what is published, taken out of the JSON text.
//!
//! A mark is an object with `$binary` as its only member and a string as its value; any other is JSON as it stands. Bytes
//! around marks are passed on as they are. What a service puts together again must be what the publisher wrote: Socket.IO
//! knows a place by a member `_placeholder` of whatever is sent beside attachments, so nothing else may have such a member
//! there.
//! Without attachments nobody looks for places, and `_placeholder` is a name like any other.
//! Invariants: the caps are those of what comes in; any bytes are taken apart or refused, valid or not.
//! Deliberately not here: what comes in (`attachments`), and how many bytes a service takes at once (`conversation`).

use base64::Engine;
use bytes::Bytes;

use super::attachments::{MOST_BYTES, string};
use super::socketio::MOST_ATTACHMENTS;
use crate::dialect::SendError;
use crate::dialect::reader::{DEPTH, Reader};
use crate::dialect::scan::unescape;

/// The member that makes an object an attachment.
const MARK: &str = "$binary";
/// Socket.IO's own.
const PLACEHOLDER: &str = "_placeholder";

/// A packet's JSON text with places where its attachments were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Detached {
    pub(crate) text: String,
    pub(crate) attachments: Vec<Bytes>,
}

/// Takes the attachments out of a JSON text; `None`: it has none. Errors name their places in it.
pub(crate) fn detach(text: &str) -> Result<Option<Detached>, SendError> {
    // A name may be written with escapes.
    if !text.contains(MARK) && !text.contains("\\u") {
        return Ok(None);
    }
    let (mut out, mut attachments) = (String::new(), Vec::new());
    let (mut passed, mut bytes, mut forged) = (0, 0, None);
    let mut at = 0;
    while let Some(rest) = text.as_bytes().get(at..).filter(|rest| !rest.is_empty()) {
        match rest[0] {
            b'"' => {
                let length = string(rest);
                if forged.is_none() && is_placeholder(rest, length) {
                    forged = Some(at);
                }
                at += length;
            }
            b'{' => match marked(rest) {
                Some((content, length)) => {
                    let data = decoded(text, at, content)?;
                    bytes += data.len();
                    if attachments.len() == MOST_ATTACHMENTS || bytes > MOST_BYTES {
                        return Err(too_much(text, at));
                    }
                    out.push_str(&text[passed..at]);
                    out.push_str(&format!(r#"{{"{PLACEHOLDER}":true,"num":{}}}"#, attachments.len()));
                    attachments.push(data);
                    at += length;
                    passed = at;
                }
                None => at += 1,
            },
            _ => at += 1,
        }
    }
    if attachments.is_empty() {
        return Ok(None);
    }
    if let Some(at) = forged {
        return Err(SendError::Invalid(format!(
            "{} has a member {PLACEHOLDER:?}, which beside attachments ({MARK}) would stand for one of them: name it \
             otherwise, or publish it by itself",
            place(text, at)
        )));
    }
    out.push_str(&text[passed..]);
    Ok(Some(Detached { text: out, attachments }))
}

/// A mark with these bytes.
pub(super) fn mark(base64: &str) -> String {
    format!(r#"{{"{MARK}":"{base64}"}}"#)
}

fn decoded(text: &str, at: usize, content: &[u8]) -> Result<Bytes, SendError> {
    let data = base64::engine::general_purpose::STANDARD.decode(unescape(content).as_bytes());
    data.map(Bytes::from).map_err(|error| {
        SendError::Invalid(format!(
            "{}: {MARK} must be bytes in base64 with padding (RFC 4648 section 4), and is not: {error}",
            place(text, at)
        ))
    })
}

fn too_much(text: &str, at: usize) -> SendError {
    SendError::Oversize(format!(
        "{} is one attachment ({MARK}) too many: a message takes {MOST_ATTACHMENTS} of them with {MOST_BYTES} bytes \
         together, so publish several",
        place(text, at)
    ))
}

/// The content of the mark at the start, and the length of the whole.
fn marked(text: &[u8]) -> Option<(&[u8], usize)> {
    let (name, rest) = leading_string(text.strip_prefix(b"{")?)?;
    if unescape(name) != MARK {
        return None;
    }
    let (content, rest) = leading_string(rest.trim_ascii_start().strip_prefix(b":")?)?;
    let rest = rest.trim_ascii_start().strip_prefix(b"}")?;
    Some((content, text.len() - rest.len()))
}

/// The content of the string at the start, and what follows it.
fn leading_string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    text.strip_prefix(b"\"")?;
    let (whole, rest) = text.split_at(string(text));
    Some((whole[1..].strip_suffix(b"\"")?, rest))
}

/// Whether the string of this length at the start is the name of a member, and Socket.IO's own.
fn is_placeholder(text: &[u8], length: usize) -> bool {
    let (whole, rest) = text.split_at(length);
    rest.trim_ascii_start().first() == Some(&b':')
        && whole[1..].strip_suffix(b"\"").is_some_and(|name| unescape(name) == PLACEHOLDER)
}

/// For people: the JSON Pointer of the value that begins at this byte, or of the one around it.
fn place(text: &str, wanted: usize) -> String {
    let mut place = "data".to_owned();
    let mut reader = Reader::new(text.as_bytes(), 0);
    reader.next_token();
    while reader.at < wanted {
        let Some((step, at)) = step_towards(&mut reader, wanted) else { break };
        place.push('/');
        place.push_str(&step.replace('~', "~0").replace('/', "~1"));
        reader.at = at;
    }
    place
}

/// Of the container at hand: the name or index of the value that holds this byte, and where it begins.
fn step_towards(reader: &mut Reader<'_>, wanted: usize) -> Option<(String, usize)> {
    let in_object = reader.peek() == b'{';
    for index in 0_usize.. {
        reader.at += 1;
        let mut step = index.to_string();
        if in_object {
            reader.next_token();
            let start = reader.at;
            reader.string().ok()?;
            let name = reader.bytes.get(start + 1..reader.at - 1)?;
            step = unescape(name).into_owned();
            reader.colon().ok()?;
        }
        reader.next_token();
        let start = reader.at;
        reader.value(DEPTH).ok()?;
        if (start..reader.at).contains(&wanted) {
            return Some((step, start));
        }
        if wanted < start || reader.next_token() != b',' {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::dialect::framing::attachments::Gathering;
    use crate::dialect::framing::socketio::{Kind, Packet};

    fn taken(text: &str) -> (String, Vec<Vec<u8>>) {
        let Some(Detached { text, attachments }) = detach(text).unwrap() else { return (text.to_owned(), vec![]) };
        (text, attachments.into_iter().map(|data| data.to_vec()).collect())
    }

    fn refused(text: &str) -> String {
        detach(text).unwrap_err().to_string()
    }

    #[test]
    fn marks_become_places_and_all_else_stays_as_it_stands() {
        let (text, data) =
            taken(r#"{"a": {"$binary":"AQID"}, "b":[1.50, { "$binary" : "" }],"c":"{\"$binary\":\"AQ==\"}"}"#);
        let placed = r#"{"a": {"_placeholder":true,"num":0}, "b":[1.50, {"_placeholder":true,"num":1}],"c":"{\"$binary\":\"AQ==\"}"}"#;
        assert_eq!((text.as_str(), data), (placed, vec![vec![1, 2, 3], vec![]]));
        // As some languages write what others write without escapes.
        let (text, data) = taken(r#"[{"\u0024binary":"\/\u002b8="}]"#);
        assert_eq!((text.as_str(), data), (r#"[{"_placeholder":true,"num":0}]"#, vec![vec![0xff, 0xef]]));
    }

    #[test]
    fn what_only_looks_like_a_mark_stays() {
        for text in [
            r#"{"$binary":"AQID","type":0}"#,
            r#"{"$binary":{"base64":"AQID"}}"#,
            r#"{"$binary":7}"#,
            r#"["$binary","AQID"]"#,
            r#"{"$binary":["%"]}"#,
            r#"{"$Binary":"AQID"}"#,
            r#"{"$binary":"AQID""#,
            r#"{"$binary":"AQID\"}"#,
            r#"{"$binary""#,
            r#"{"$binary":"#,
            "{",
            "\"",
        ] {
            assert_eq!(taken(text), (text.to_owned(), vec![]));
        }
    }

    #[test]
    fn a_place_cannot_be_forged() {
        for forged in [
            r#"{"_placeholder":true,"num":0}"#,
            r#"{"num":0,"_placeholder" : 1}"#,
            r#"{"\u005fplaceholder":true,"num":99}"#,
        ] {
            let beside = format!(r#"{{"a":{{"$binary":"AQID"}},"b":[0,{forged}]}}"#);
            assert!(refused(&beside).starts_with("data/b/1 has a member \"_placeholder\""), "{}", refused(&beside));
            let before = format!(r#"[{forged},{{"$binary":"AQID"}}]"#);
            assert!(refused(&before).starts_with("data/0 has a member"), "{}", refused(&before));
            assert_eq!(taken(forged), (forged.to_owned(), vec![]), "alone it is JSON, and nobody takes it for a place");
        }
        let harmless = r#"["_placeholder",{"a":"_placeholder"},{"$binary":"AQID"}]"#;
        assert_eq!(taken(harmless).1, [[1, 2, 3]], "a value is no name");
    }

    #[test]
    fn what_is_refused_is_named_with_its_place() {
        for wrong in ["%", "AQI", "AQIDBA", "AQ-_", "AQ==AQ==", "AR==", "\u{e9}", " AQID"] {
            let why = refused(&format!(r#"{{"a/b":[{{}},{{"c":{{"$binary":"{wrong}"}}}}]}}"#));
            assert!(why.starts_with("data/a~1b/1/c: $binary must be bytes in base64"), "{why}");
        }
        assert!(refused(r#"{"$binary":"%"}"#).starts_with("data: $binary must"));
        let many = |count: usize| format!("[{}]", vec![r#"{"$binary":"AQ=="}"#; count].join(","));
        assert_eq!(taken(&many(MOST_ATTACHMENTS)).1.len(), MOST_ATTACHMENTS);
        let why = refused(&many(MOST_ATTACHMENTS + 1));
        assert!(why.starts_with("data/10 is one attachment ($binary) too many: a message takes 10"), "{why}");
        let large = |more: usize| {
            let base64 = |bytes| base64::engine::general_purpose::STANDARD.encode(vec![7; bytes]);
            format!("[{},{}]", mark(&base64(MOST_BYTES - 10)), mark(&base64(10 + more)))
        };
        assert_eq!(taken(&large(0)).1.len(), 2);
        assert!(matches!(detach(&large(1)), Err(SendError::Oversize(why)) if why.starts_with("data/1 is one")));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a-z$_\\\\\"{}é]{0,12}".prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..9).prop_map(|data| {
                let base64 = base64::engine::general_purpose::STANDARD.encode(data);
                serde_json::json!({ MARK: base64 })
            }),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z$\"]{0,7}", inner, 0..4).prop_map(|map| serde_json::json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_is_put_together_again(value in json()) {
            let text = value.to_string();
            let Ok(taken) = detach(&text) else {
                // Only for their number: all of them are base64, and none is large.
                prop_assert!(text.matches(MARK).count() > MOST_ATTACHMENTS);
                return Ok(());
            };
            let Some(Detached { text: placed, attachments }) = taken else { return Ok(()) };
            prop_assert!(serde_json::from_str::<Value>(&placed).is_ok());
            let (kind, namespace, count) = (Kind::Event, b"/", attachments.len());
            let packet = Packet { kind, attachments: count, namespace, ack: None, payload: placed.as_bytes() };
            let mut gathering = Gathering::new(&packet, true);
            attachments.iter().for_each(|data| gathering.add(data));
            prop_assert_eq!(gathering.into_marked(), text.into_bytes());
        }

        #[test]
        fn any_text_is_taken_apart_or_refused(text in "[\\[\\]{}:,\"\\\\ \\$binaryu0024_placeholder=é]{0,60}") {
            let _ = detach(&text);
        }
    }
}
