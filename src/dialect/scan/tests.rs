//! The scanner against serde_json: same verdict on every input, same value for every pointer; and beyond what serde_json can
//! hold: numbers that no type holds, halves of surrogate pairs.

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;

/// The pointers the property tests ask for. The names of generated documents are made of these tokens.
const POINTERS: &[&str] = &[
    "",
    "/a",
    "/a/b",
    "/a/b/c",
    "/a/0",
    "/a/0/b",
    "/a/1/0",
    "/b",
    "/b/2",
    "/c/long-name-of-a-key/a",
    "/long-name-of-a-key",
    "/long-name-of-a-kez",
    "/long-name-of-a-key/long-nam",
    "/0",
    "/0/0",
    "/1/a",
    "/2/b/0/c",
    "/\u{e9}",
    "/~0~1",
    "/",
    "//a",
];

fn set(pointers: &[&str]) -> (PointerSet, Vec<PointerId>) {
    let mut set = PointerSet::new();
    let ids = pointers.iter().map(|text| set.add(&Pointer::parse(text).unwrap())).collect();
    (set, ids)
}

/// What a pointer means, by the letter: `Value::pointer`, going on inside strings that hold JSON.
fn expected(value: &Value, tokens: &[String], held: u8) -> Option<Value> {
    let Some((token, rest)) = tokens.split_first() else {
        return Some(value.clone());
    };
    match value {
        Value::String(text) if held < HELD_STRINGS => expected(&value_of(text.as_bytes()).ok()?, tokens, held + 1),
        Value::Object(map) => expected(map.get(token)?, rest, held),
        Value::Array(list) => expected(list.get(array_index(token)?)?, rest, held),
        _ => None,
    }
}

/// What `serde_json` makes of a text, once the two things in it that its `Value` cannot hold are others of their kind: half a
/// surrogate pair U+FFFD, a number beyond `f64` 1.
fn value_of(text: &[u8]) -> serde_json::Result<Value> {
    let hex = |at: usize| {
        let digits = std::str::from_utf8(text.get(at..at + 4)?).ok()?;
        (text[at - 2..at] == *b"\\u").then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let mut tame = Vec::new();
    let (mut at, mut in_string) = (0, false);
    while at < text.len() {
        let number = text[at..].iter().take_while(|byte| b"+-.0123456789eE".contains(byte)).count();
        let length = match text[at] {
            b'\\' if in_string => match hex(at + 2) {
                Some(0xD800..=0xDBFF) if matches!(hex(at + 8), Some(0xDC00..=0xDFFF)) => 12,
                Some(0xD800..=0xDFFF) => {
                    tame.extend_from_slice(b"\\ufffd");
                    at += 6;
                    continue;
                }
                _ => 2.min(text.len() - at),
            },
            b'"' => {
                in_string = !in_string;
                1
            }
            _ if in_string || number == 0 => 1,
            _ => {
                let token = &text[at..at + number];
                let beyond = serde_json::from_slice::<f64>(token).is_err();
                if beyond && serde_json::from_slice::<&RawValue>(token).is_ok() {
                    tame.push(b'1');
                    at += number;
                    continue;
                }
                number
            }
        };
        tame.extend_from_slice(&text[at..at + length]);
        at += length;
    }
    serde_json::from_slice(&tame)
}

/// Scans and compares everything that can be compared.
fn check(pointers: &[&str], message: &[u8], spans: &mut Spans) -> Result<(), TestCaseError> {
    let (set, ids) = set(pointers);
    let shown = String::from_utf8_lossy(message);
    let verdict = set.scan(message, spans);
    // It reads the grammar alone: neither what strings and numbers mean nor how deep it is.
    let grammar = serde_json::from_slice::<&RawValue>(message).is_ok();
    let deep = matches!(verdict, Err(ScanError { fault: Fault::Depth, .. }));
    prop_assert!(deep || grammar == verdict.is_ok(), "{shown}: {verdict:?}, by the grammar {grammar}");
    let value = match value_of(message) {
        Ok(value) => value,
        Err(error) => {
            prop_assert!(verdict.is_err(), "accepted {shown}, serde_json says {error}");
            prop_assert!(ids.iter().all(|id| spans.get(*id).is_none()));
            return Ok(());
        }
    };
    prop_assert!(verdict.is_ok(), "refused {shown}: {verdict:?}");
    for (text, id) in pointers.iter().zip(ids) {
        let expected = expected(&value, Pointer::parse(text).unwrap().tokens(), 0);
        let span = spans.get(id);
        let found = span.map(|span| value_of(spans.bytes(message, span)).unwrap());
        prop_assert_eq!(&found, &expected, "{} in {}", text, &shown);
        if let (Some(span), Some(expected)) = (span, &expected) {
            check_span(spans, message, span, expected)?;
        }
    }
    Ok(())
}

fn check_span(spans: &Spans, message: &[u8], span: Span, value: &Value) -> Result<(), TestCaseError> {
    let (kind, empty) = match value {
        Value::Null => (Kind::Null, false),
        Value::Bool(_) => (Kind::Bool, false),
        Value::Number(_) => (Kind::Number, false),
        Value::String(text) => (Kind::String, text.is_empty()),
        Value::Array(list) => (Kind::Array, list.is_empty()),
        Value::Object(map) => (Kind::Object, map.is_empty()),
    };
    prop_assert_eq!((span.kind, span.empty), (kind, empty));
    if let Value::String(text) = value {
        prop_assert_eq!(&spans.text(message, span), text);
        prop_assert_eq!(span.escaped, spans.bytes(message, span).contains(&b'\\'));
    }
    if let Value::Array(list) = value {
        let raw = spans.bytes(message, span);
        let found: Vec<Value> = elements(raw).map(|raw| value_of(raw).unwrap()).collect();
        prop_assert_eq!(&found, list);
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t ")]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop_oneof![Just("a"), Just("b"), Just("c"), Just("0"), Just("1"), Just("2")].prop_map(quoted),
        2 => prop_oneof![
            Just("long-name-of-a-key"), Just("long-name-of-a-kez"), Just("long-nam"), Just("long-name"), Just("\u{e9}"),
            Just("~/"), Just("")
        ].prop_map(quoted),
        1 => prop_oneof![Just(r#""\u0061""#), Just(r#""\u00e9""#), Just(r#""long-name-of-a\u002dkey""#), Just(r#""~\/""#), Just(r#""a\ud800""#)]
            .prop_map(String::from),
        1 => any::<String>().prop_map(|text| quoted(&text)),
    ]
}

fn scalar() -> impl Strategy<Value = String> {
    let numbers = prop_oneof![
        Just("0"),
        Just("-0"),
        Just("0.0"),
        Just("1e5"),
        Just("-1.5E-7"),
        Just("18446744073709551615"),
        Just("18446744073709551616"),
        Just("-9223372036854775809"),
        Just("123456789012345678901234567890"),
        Just("1e308"),
        Just("1e309"),
        Just("0e400"),
        Just("1e-400"),
        Just("0.00001e312"),
        Just("10e308"),
        Just("1e99999999999"),
        Just("0e99999999999"),
        Just("1e-99999999999"),
        Just("1e+0000000000000000000001"),
        Just("01"),
        Just("-"),
        Just("1."),
        Just("+1"),
        Just(".5"),
        Just("1e"),
        Just("1e+"),
        Just("-01"),
    ];
    let strings = prop_oneof![
        Just(r#""\u00e9\n\"\\\/\b\f\r\t""#),
        Just(r#""\ud83d\ude00""#),
        Just(r#""\ud83d""#),
        Just(r#""\ude00""#),
        Just(r#""\ud83d\u0061""#),
        Just(r#""\ud83dx""#),
        Just(r#""\ud83d\ud83d\ude00""#),
        Just(r#""\x""#),
        Just(r#""\u12""#),
        Just(r#""\u12g4""#),
        Just("\"\u{1}\""),
        Just("\"\u{7f}\""),
        Just("\"tab\there and more\""),
        Just(r#""""#),
    ];
    prop_oneof![
        2 => prop_oneof![Just("null"), Just("true"), Just("false")].prop_map(String::from),
        1 => prop_oneof![Just("nul"), Just("True"), Just("falsee"), Just("")].prop_map(String::from),
        6 => any::<i64>().prop_map(|number| number.to_string()),
        4 => any::<f64>().prop_map(|number| Value::from(number).to_string()),
        3 => numbers.prop_map(String::from),
        8 => any::<String>().prop_map(|text| quoted(&text)),
        8 => "[ -~]{0,40}".prop_map(|text| quoted(&text)),
        3 => strings.prop_map(String::from),
    ]
}

/// JSON text, mostly valid, with duplicate keys, odd spacing, odd numbers, and strings that hold JSON.
fn document() -> impl Strategy<Value = String> {
    scalar().prop_recursive(6, 64, 6, |inner| {
        let item =
            (space(), inner, space()).prop_map(|(before, value, after)| format!("{before}{value}{after}")).boxed();
        let member = (space(), key(), space(), item.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            4 => (prop::collection::vec(member, 0..6), space())
                .prop_map(|(members, space)| format!("{{{space}{}}}", members.join(","))),
            3 => (prop::collection::vec(item.clone(), 0..5), space())
                .prop_map(|(items, space)| format!("[{space}{}]", items.join(","))),
            2 => item.prop_map(|text| quoted(&text)),
        ]
    })
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, u8),
    Remove(usize),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let structural = prop::sample::select(b"{}[]\",:\\ \n0-9eEu.tfn\x00\x1f\x7f\x80\xc3\xa9\xff".to_vec());
    let byte = prop_oneof![3 => structural, 1 => any::<u8>()];
    prop_oneof![
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        any::<usize>().prop_map(Mutation::Cut),
        (any::<usize>(), byte).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        any::<usize>().prop_map(Mutation::Remove),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

fn mutate(message: &mut Vec<u8>, mutation: &Mutation) {
    let len = message.len().max(1);
    match *mutation {
        Mutation::Flip(at, mask) if !message.is_empty() => message[at % len] ^= mask,
        Mutation::Cut(at) => message.truncate(at % len),
        Mutation::Insert(at, byte) => message.insert(at % len, byte),
        Mutation::Remove(at) if !message.is_empty() => {
            message.remove(at % len);
        }
        Mutation::Repeat(from, to) if !message.is_empty() => {
            let (from, to) = ((from % len).min(to % len), (from % len).max(to % len));
            let part = message[from..to].to_vec();
            message.splice(to..to, part);
        }
        _ => {}
    }
}

/// Four times proptest's own number (which PROPTEST_CASES sets): the grammar has many corners.
fn thorough() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: 4 * usual.cases, failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(thorough())]

    #[test]
    fn documents_have_the_verdict_and_the_values_of_serde_json(text in document()) {
        check(POINTERS, text.as_bytes(), &mut Spans::new())?;
    }

    #[test]
    fn mutated_documents_too_and_spans_can_be_reused(
        text in document(), mutations in prop::collection::vec(mutation(), 1..4)
    ) {
        let mut spans = Spans::new();
        let mut message = text.into_bytes();
        for mutation in &mutations {
            mutate(&mut message, mutation);
            check(POINTERS, &message, &mut spans)?;
        }
    }

    #[test]
    fn any_bytes_too(message in prop::collection::vec(any::<u8>(), 0..40)) {
        check(POINTERS, &message, &mut Spans::new())?;
    }

    #[test]
    fn unescape_equals_serde_json(text in any::<String>(), ascii in "[a-z\"\\\\\n\u{1}]{0,30}") {
        for text in [text, ascii] {
            let raw = quoted(&text);
            prop_assert_eq!(unescape(&raw.as_bytes()[1..raw.len() - 1]), text);
        }
    }

    #[test]
    fn unescape_and_elements_take_any_bytes(raw in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = unescape(&raw);
        prop_assert!(elements(&raw).count() <= raw.len());
    }
}

fn same(message: &str) {
    check(POINTERS, message.as_bytes(), &mut Spans::new()).unwrap();
}

fn found(pointer: &str, message: &str) -> Option<String> {
    let (set, ids) = set(&[pointer]);
    let mut spans = Spans::new();
    set.scan(message.as_bytes(), &mut spans).unwrap();
    spans.get(ids[0]).map(|span| spans.text(message.as_bytes(), span).into_owned())
}

fn fault(message: &[u8]) -> Option<(usize, Fault)> {
    set(POINTERS).0.scan(message, &mut Spans::new()).err().map(|error| (error.at, error.fault))
}

#[test]
fn depth_ends_where_serde_json_ends() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"z\":", "}")] {
        for depth in [1, 126, 127, 128, 129, 400] {
            let inner = if open == "[" { "" } else { "1" };
            same(&format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)));
        }
        assert!(fault(open.repeat(100_000).as_bytes()).is_some());
    }
    same(&format!("{{\"a\":{{\"b\":{}1{}}}}}", "[".repeat(125), "]".repeat(125)));
    same(&format!("{{\"a\":{{\"b\":{}1{}}}}}", "[".repeat(126), "]".repeat(126)));
    assert_eq!(fault("[".repeat(128).as_bytes()), Some((127, Fault::Depth)));
}

#[test]
fn numbers_of_any_length_and_halves_of_surrogate_pairs_are_valid() {
    for digits in [1, 19, 20, 199, 200, 201, 307, 308, 309, 310, 400, 5_000] {
        for text in [
            "9".repeat(digits),
            format!("1{}", "0".repeat(digits)),
            format!("0.{}", "9".repeat(digits)),
            format!("{}.5", "9".repeat(digits)),
            format!("1{}e99", "0".repeat(digits)),
            format!("1{}e-300", "0".repeat(digits)),
            format!("0.{}1e308", "0".repeat(digits)),
            format!("1e{}", "9".repeat(digits)),
        ] {
            same(&text);
            same(&format!("{{\"a\":-{text},\"z\":{text}}}"));
            assert_eq!(found("/a", &format!("{{\"a\":-{text},\"z\":{text}}}")), Some(format!("-{text}")));
        }
    }
    for (half, text) in [
        (r"\ud800", "\u{fffd}"),
        (r"\uDFFF", "\u{fffd}"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
        (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
        (r"x\ud83dA", "x\u{fffd}A"),
        (r"\ud83d\n", "\u{fffd}\n"),
    ] {
        let message = format!("{{\"a\":\"{half}\",\"{half}\":[\"{half}\"]}}");
        same(&message);
        assert_eq!(found("/a", &message).as_deref(), Some(text), "{half}");
        assert_eq!(found(&format!("/{text}/0"), &message).as_deref(), Some(text), "{half}");
        let (set, ids) = set(&[""]);
        let mut spans = Spans::new();
        set.scan(message.as_bytes(), &mut spans).unwrap();
        assert_eq!(spans.bytes(message.as_bytes(), spans.get(ids[0]).unwrap()), message.as_bytes(), "as it is");
    }
    for wrong in [r#""\ud8""#, r#""\ud83d\u12g4""#, r#""\ud83d\""#, "1e", "-", "01e999", "1e999.5", "1e9e9"] {
        assert!(fault(wrong.as_bytes()).is_some(), "{wrong}");
        same(wrong);
    }
}

#[test]
fn faults_tell_where_and_why() {
    for (message, at, why) in [
        (&b""[..], 0, Fault::End),
        (b"{\"a\":", 5, Fault::End),
        (b"{\"a\" 1}", 5, Fault::Unexpected),
        (b"[1,]", 3, Fault::Unexpected),
        (b"[1] x", 4, Fault::Trailing),
        (b"\"ab", 3, Fault::End),
        (b"[\"a\\q\"]", 4, Fault::Escape),
        (b"[\"\\ud8\"]", 4, Fault::Escape),
        (b"{\"z\":\"a\xff\"}", 7, Fault::Utf8),
        (b"{\"\xc3\":1}", 2, Fault::Utf8),
        (b"\xef\xbb\xbf{}", 0, Fault::Unexpected),
    ] {
        assert_eq!(fault(message), Some((at, why)), "{}", message.escape_ascii());
    }
    let error = set(&[]).0.scan(b"[1] x", &mut Spans::new()).unwrap_err();
    assert_eq!(error.to_string(), "not JSON: something follows the value at byte 4");
}

#[test]
fn the_last_of_equal_keys_hides_all_of_the_ones_before() {
    assert_eq!(found("/a/b", r#"{"a":{"b":1},"a":{"b":2}}"#).as_deref(), Some("2"));
    assert_eq!(found("/a/b", r#"{"a":{"b":1},"a":{"c":2}}"#), None);
    assert_eq!(found("/a/b", r#"{"a":{"b":1},"\u0061":3}"#), None);
    assert_eq!(found("/a/b", r#"{"a":"{\"b\":1}","a":"{\"c\":1}"}"#), None);
}

#[test]
fn a_pointer_goes_on_inside_held_json() {
    let hello = r#"{"event":"x","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":30}"}"#;
    assert_eq!(found("/data/socket_id", hello).as_deref(), Some("1.2"));
    assert_eq!(found("/data/activity_timeout", hello).as_deref(), Some("30"));
    assert_eq!(found("/data", r#"{"data":"[1 , 2]"}"#).as_deref(), Some("[1 , 2]"));
    assert_eq!(found("/data/1", r#"{"data":"[1 , 2]"}"#).as_deref(), Some("2"), "no escape: scanned where it stands");
    assert_eq!(found("/data/1", r#"{"data":"[1 , 2] x"}"#), None, "held text that is not JSON holds nothing");
    assert_eq!(found("/data/a", r#"{"data":"{\"a\":1,}"}"#), None);
    assert_eq!(found("/0/a", r#"["{\"a\":\"\\u00e9\\n\"}"]"#).as_deref(), Some("\u{e9}\n"));
}

#[test]
fn held_strings_are_followed_four_deep() {
    let mut text = String::from(r#"{"a":1}"#);
    for deep in 1..=6 {
        text = format!("{{\"a\":{}}}", quoted(&text));
        let pointer = "/a".repeat(deep + 1);
        let expected = (deep <= usize::from(HELD_STRINGS)).then(|| "1".to_owned());
        assert_eq!(found(&pointer, &text), expected, "{deep} deep");
    }
}

#[test]
fn several_held_texts_stay_readable_together() {
    let message = r#"{"a":"{\"x\":\"\\u0031\"}","b":"{\"x\":\"{\\\"y\\\":\\\"\\\\n2\\\"}\"}"}"#;
    let (set, ids) = set(&["/a/x", "/b/x/y", "/b/x", "/a"]);
    let mut spans = Spans::new();
    set.scan(message.as_bytes(), &mut spans).unwrap();
    let texts: Vec<_> =
        ids.iter().map(|id| spans.text(message.as_bytes(), spans.get(*id).unwrap()).into_owned()).collect();
    assert_eq!(texts, ["1", "\n2", r#"{"y":"\n2"}"#, r#"{"x":"\u0031"}"#]);
}

#[test]
fn the_same_pointer_gets_the_same_number() {
    let mut set = PointerSet::new();
    let deep = set.add(&Pointer::parse("/a/b").unwrap());
    assert_eq!(set.len(), 1);
    let above = set.add(&Pointer::parse("/a").unwrap());
    assert_ne!(deep, above);
    assert_eq!(set.add(&Pointer::parse("/a/b").unwrap()), deep);
    assert_eq!(set.len(), 2);
}

#[test]
fn buffers_are_kept_but_not_for_ever() {
    let (set, _) = set(&["/a/b"]);
    let mut spans = Spans::new();
    let message =
        |len: usize| format!("{{\"a\":{}}}", quoted(&format!("{{\"b\":\"{}\"}}", "x".repeat(len)))).into_bytes();
    set.scan(&message(1_000), &mut spans).unwrap();
    let (held, slots) = (spans.held[0].capacity(), spans.slots.capacity());
    set.scan(&message(900), &mut spans).unwrap();
    assert_eq!((spans.held[0].capacity(), spans.slots.capacity()), (held, slots), "nothing is allocated again");
    set.scan(&message(10 * KEPT_CAPACITY), &mut spans).unwrap();
    set.scan(b"1", &mut spans).unwrap();
    assert!(spans.held[0].capacity() <= KEPT_CAPACITY);
}
