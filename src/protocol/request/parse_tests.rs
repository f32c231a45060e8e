//! What each op reads, and how each wrong request is refused.

use super::*;
use crate::protocol::request::options::OnSlow;
use proptest::prelude::*;
use std::time::Duration;

const LIMITS: RequestLimits = RequestLimits { request_max: 2048, message_max: 256, channels: 3, depth: 8 };

fn ok(text: &str) -> Request {
    parse(text, &LIMITS).unwrap()
}

fn wrong(text: &str) -> BadRequest {
    parse(text, &LIMITS).unwrap_err()
}

fn reference(text: &str) -> Option<Ref> {
    Some(Ref(text.into()))
}

#[test]
fn subscribe_reads_channels_params_and_options() {
    let Request::Subscribe(subscribe) = ok(
        r#"{"op":"subscribe","ref":1,"channels":["ticker:BTC-USD",{"channel":"orders","params":{"b":1.0,"account":"9"}}],
            "since":"k3f9q2-1042","options":{"snapshot":false,"types":["trade"],"on_slow":"disconnect","delta":false}}"#,
    ) else {
        panic!("not a subscribe")
    };
    assert_eq!(subscribe.reference, reference("1"));
    assert_eq!(subscribe.channels[0], ChannelRequest { name: "ticker:BTC-USD".into(), params: None });
    assert_eq!(&*subscribe.channels[1].name, "orders");
    assert_eq!(subscribe.channels[1].params.as_deref(), Some(r#"{"account":"9","b":1}"#));
    assert_eq!(subscribe.since.as_deref(), Some("k3f9q2-1042"));
    assert!(!subscribe.snapshot);
    assert_eq!(subscribe.options.types, ["trade".into()]);
    assert_eq!(subscribe.options.on_slow, OnSlow::Disconnect);
}

#[test]
fn subscribe_has_defaults_and_a_channel_may_carry_its_params() {
    let Request::Subscribe(subscribe) =
        ok(r#"{"op":"subscribe","channels":["a*","$outbox/01J","o?{\"x\":1}"],"since":null}"#)
    else {
        panic!("not a subscribe")
    };
    assert_eq!(subscribe.reference, None);
    assert!(subscribe.snapshot && subscribe.options.types.is_empty() && subscribe.since.is_none());
    assert_eq!(subscribe.options.on_slow, OnSlow::DropOldest);
    assert_eq!(subscribe.channels[2], ChannelRequest { name: "o".into(), params: Some(r#"{"x":1}"#.into()) });
}

#[test]
fn options_of_a_subscription_are_read() {
    let options = |options: &str| {
        let Request::Subscribe(subscribe) =
            ok(&format!(r#"{{"op":"subscribe","channels":["a"],"options":{options}}}"#))
        else {
            panic!("not a subscribe")
        };
        subscribe.options
    };
    assert!(options(r#"{"fields":["/p","/q/r"]}"#).is_lossy());
    let delta = options(r#"{"delta":true}"#);
    assert!(delta.delta && !delta.is_lossy());
    let wrong = wrong(r#"{"op":"subscribe","channels":["a"],"options":{"delta":true,"types":["t"]}}"#);
    assert!(wrong.code == ErrorCode::Invalid && wrong.message.contains("types"), "{}", wrong.message);
    let rate = options(r#"{"max_rate":"30/m"}"#).max_rate.unwrap();
    assert_eq!((rate.events, rate.per), (30, Duration::from_secs(60)));
    let read = options(r#"{"conflate":"250ms","on_slow":"conflate"}"#);
    assert_eq!((read.conflate, read.on_slow), (Some(Duration::from_millis(250)), OnSlow::Conflate));
    assert!(read.is_lossy() && !options(r#"{"on_slow":"drop_oldest"}"#).is_lossy());
    assert_eq!(options(r#"{"conflate":null}"#), Options::default());
    for name in Options::NAMES {
        assert_eq!(options(&format!("{{\"{name}\":null}}")), Options::default(), "{name} is known");
    }
}

#[test]
fn publish_keeps_the_payload_byte_for_byte() {
    let Request::Publish { reference: r, messages, atomic } = ok(
        r#"{"op":"publish","ref":"x-3","channel":"orders","params":{"account":"9"},"type":"place","key":"k","data":{"p": 1.10,"n":1e2},
            "idempotency_key":"o-17","order_key":"acct-9","coalesce":true,"priority":"high","ttl":"30s","on_unknown":"retry"}"#,
    ) else {
        panic!("not a publish")
    };
    assert_eq!((r, atomic, messages.len()), (reference("\"x-3\""), false, 1));
    let message = &messages[0];
    assert_eq!(&*message.data, r#"{"p": 1.10,"n":1e2}"#);
    assert_eq!(message.channel.params.as_deref(), Some(r#"{"account":"9"}"#));
    assert_eq!(message.key.as_deref(), Some("k"));
    assert_eq!(message.kind.as_deref(), Some("place"));
    assert_eq!(message.idempotency_key.as_deref(), Some("o-17"));
    assert_eq!((message.order_key.as_deref(), message.coalesce), (Some("acct-9"), true));
    assert_eq!(message.lane, Lane::High);
    assert_eq!(message.ttl, Some(Duration::from_secs(30)));
    assert_eq!(message.on_unknown, Some(OnUnknown::Retry));
}

#[test]
fn several_messages_may_be_atomic_and_null_is_a_payload() {
    let text = r#"{"op":"publish","messages":[{"channel":"a","data":null},{"channel":"b","data":[1]}],"atomic":true}"#;
    let Request::Publish { messages, atomic, .. } = ok(text) else { panic!("not a publish") };
    assert!(atomic);
    assert_eq!((&*messages[0].data, &*messages[1].data), ("null", "[1]"));
    let refused = wrong(r#"{"op":"publish","ref":4,"messages":[{"channel":"a","data":1},{"channel":"b"}]}"#);
    assert_eq!(refused.reference, reference("4"));
    assert!(refused.message.starts_with("messages[1]: "), "{}", refused.message);
}

#[test]
fn the_small_ops_read() {
    assert_eq!(ok(r#"{"op":"ping","ref":8}"#), Request::Ping { reference: reference("8") });
    assert_eq!(ok(r#"{"op":"cancel","message":"01J"}"#), Request::Cancel { reference: None, message: "01J".into() });
    let auth = ok(r#"{"op":"auth","token":"s3cret"}"#);
    assert!(!format!("{auth:?}").contains("s3cret"));
    let channels = vec![ChannelRequest { name: "a".into(), params: None }];
    assert_eq!(ok(r#"{"op":"unsubscribe","channels":["a"]}"#), Request::Unsubscribe { reference: None, channels });
}

#[test]
fn a_refresh_names_a_channel_and_maybe_an_item_of_it() {
    let asked = r#"{"op":"refresh","ref":6,"channel":{"channel":"status","params":{"b":1,"a":2}},"key":"svc-1"}"#;
    let Ok(Request::Refresh { reference, channel, key }) = parse(asked, &LIMITS) else { panic!() };
    assert_eq!((reference, key.as_deref()), (Some(Ref("6".into())), Some("svc-1")));
    assert_eq!((&*channel.name, channel.params.as_deref()), ("status", Some(r#"{"a":2,"b":1}"#)));
    assert!(parse_refresh(r#"{"channel":"status"}"#, &LIMITS).is_ok_and(|(_, key)| key.is_none()));
    for body in [r#"{"channel":"a*"}"#, "{}", r#"{"op":"publish","channel":"a"}"#, r#"{"channel":"a","kee":"b"}"#] {
        assert_eq!(parse_refresh(body, &LIMITS).unwrap_err().code, ErrorCode::Invalid, "{body}");
    }
}

#[test]
fn what_the_contract_knows_is_not_supported_by_name() {
    for (text, name) in [
        (r#"{"op":"subscribe","channels":["a"],"options":{"batch":"20ms"}}"#, "batch"),
        (r#"{"op":"subscribe","channels":["a"],"options":{"priority":"high"}}"#, "priority"),
        (r#"{"op":"subscribe","channels":["a"],"options":{"snapshots":true}}"#, "snapshots"),
        (r#"{"op":"subscibe"}"#, "subscibe"),
    ] {
        let refused = wrong(text);
        assert_eq!(refused.code, ErrorCode::NotSupported, "{text}");
        assert!(refused.message.contains(name), "{}", refused.message);
    }
}

#[test]
fn what_nobody_knows_or_means_is_invalid_and_says_where() {
    for (text, word) in [
        ("", "not a request"),
        (r#"{"op":"publish","channel":"a","data":1,"coalesce":true}"#, "`order_key`"),
        (r#"{"op":"publish","channel":"a","data":1,"order_key":"k","coalesce":1}"#, "`coalesce`"),
        (r#"{"op":"publish","channel":"a","data":1,"order_key":"k","volatile":true}"#, "`order_key`"),
        (r#"{"op":"publish","channel":"a","data":1,"ttl":"1s","volatile":true}"#, "`ttl`"),
        (r#"{"op":"publish","channel":"a","data":1,"optimistic":{"value":1},"volatile":true}"#, "`optimistic`"),
        (r#"{"op":"publish","channel":"a","data":1,"optimistic":{}}"#, "optimistic: `value`"),
        (r#"{"op":"publish","channel":"a","data":1,"optimistic":7}"#, "optimistic: "),
        (
            r#"{"op":"publish","channel":"a","data":1,"optimistic":{"value":1,"chanel":"b"}}"#,
            "optimistic: a provisional value has no field `chanel`: correct",
        ),
        (r#"{"op":"publish","channel":"a","data":1,"optimistic":{"value":1,"params":{}}}"#, "optimistic: `params`"),
        (r#"{"op":"publish","channel":"a","data":1,"optimistic":{"value":1,"channel":"b*"}}"#, "one channel"),
        (r#"{"op":"publish","messages":[{"channel":"a","data":1,"volatile":true}],"atomic":true}"#, "`atomic`"),
        ("[]", "JSON object"),
        ("{}x", "not a request"),
        ("nonsense", "not a request"),
        (r#"{"op":"ping","op":"ping"}"#, "give the field `op` once"),
        (r#"{"op":"publish","channel":"a","data":1,"data":2}"#, "give the field `data` once"),
        (r#"{"op":"publish","channel":"a","data":1,"d\u0061ta":2}"#, "give the field `data` once"),
        (r#"{"op":"publish","messages":[{"channel":"a","data":1,"data":1}]}"#, "messages[0]: give the field `data`"),
        (
            r#"{"op":"publish","channel":"a","messages":[{"channel":"a","data":1}]}"#,
            "beside `messages` there is no field",
        ),
        (r#"{"op":"publish","channel":"a","data":1,"atomic":true}"#, "put the messages into `messages`"),
        (
            r#"{"op":"publish","messages":[{"channel":"a","data":1,"dta":1}]}"#,
            "messages[0]: a message has no field `dta`",
        ),
        (r#"{"ref":1}"#, "`op` is missing"),
        (r#"{"op":7}"#, "`op` must be a string"),
        (r#"{"op":"ping","ref":{}}"#, "`ref`"),
        (r#"{"op":"ping","extra":1}"#, "the op `ping` has no field `extra`: correct its name, or leave it out"),
        (r#"{"op":"subscribe"}"#, "`channels` is missing"),
        (r#"{"op":"subscribe","channels":[]}"#, "empty"),
        (r#"{"op":"subscribe","channels":"a"}"#, "list"),
        (r#"{"op":"subscribe","channels":[7]}"#, "channel"),
        (r#"{"op":"subscribe","channels":[""]}"#, "bytes"),
        (r#"{"op":"subscribe","channels":["a\u0000"]}"#, "control"),
        (r#"{"op":"subscribe","channels":["a\r\nid: x"]}"#, "control"),
        (r#"{"op":"subscribe","channels":["a*b"]}"#, "%2A"),
        (r#"{"op":"subscribe","channels":[{"channel":"a*","params":{"x":1}}]}"#, "pattern"),
        (r#"{"op":"subscribe","channels":[{"channel":"a","params":[1]}]}"#, "params"),
        (r#"{"op":"subscribe","channels":[{"channel":"a","param":{}}]}"#, "param"),
        (r#"{"op":"subscribe","channels":["a"],"options":[]}"#, "options"),
        (r#"{"op":"subscribe","channels":["a"],"since":7}"#, "since"),
        (r#"{"op":"publish","channel":"a"}"#, "`data` is missing"),
        (r#"{"op":"publish","data":1}"#, "`channel` is missing"),
        (r#"{"op":"publish","channel":"a*","data":1}"#, "pattern"),
        (r#"{"op":"publish","channel":"$status","data":1}"#, "relay's own"),
        (r#"{"op":"publish","channel":"a","data":1,"ttl":"soon"}"#, "`ttl`"),
        (r#"{"op":"publish","channel":"a","data":1,"ttl":"0s"}"#, "`ttl`"),
        (r#"{"op":"publish","channel":"a","data":1,"priority":"urgent"}"#, "priority"),
        (r#"{"op":"publish","channel":"a","data":1,"on_unknown":"hope"}"#, "on_unknown"),
        (r#"{"op":"publish","channel":"a","data":1,"idempotency_key":""}"#, "idempotency_key"),
        (r#"{"op":"publish","messages":[]}"#, "messages"),
        (r#"{"op":"publish","messages":[{"channel":"a","data":1,"ref":1}]}"#, "ref"),
        (r#"{"op":"cancel"}"#, "message"),
        (r#"{"op":"auth","token":""}"#, "token"),
    ] {
        let refused = wrong(text);
        assert_eq!(refused.code, ErrorCode::Invalid, "{text}: {}", refused.message);
        assert!(refused.message.contains(word), "{text}: {}", refused.message);
    }
}

#[test]
fn limits_hold() {
    let deep = format!(r#"{{"op":"publish","channel":"a","data":{}{}}}"#, "[".repeat(8), "]".repeat(8));
    assert!(wrong(&deep).message.contains("deeper"));
    let brackets_in_a_string = format!(r#"{{"op":"publish","channel":"a","data":"{}\"["}}"#, "[{".repeat(20));
    assert!(matches!(ok(&brackets_in_a_string), Request::Publish { .. }));
    let large = format!(r#"{{"op":"publish","ref":1,"channel":"a","data":"{}"}}"#, "x".repeat(255));
    assert_eq!((wrong(&large).code, wrong(&large).reference), (ErrorCode::TooLarge, reference("1")));
    assert_eq!(wrong(&" ".repeat(2049)).code, ErrorCode::TooLarge);
    let many = r#"{"op":"subscribe","channels":["a","b","c","d"]}"#;
    assert_eq!(wrong(many).code, ErrorCode::LimitExceeded);
    let name = "n".repeat(CHANNEL_MAX);
    assert!(parse(&format!(r#"{{"op":"subscribe","channels":["{name}"]}}"#), &LIMITS).is_ok());
    assert!(parse(&format!(r#"{{"op":"subscribe","channels":["{name}x"]}}"#), &LIMITS).is_err());
    let Request::Subscribe(subscribe) =
        ok(&format!(r#"{{"op":"subscribe","channels":["a"],"since":"{}é"}}"#, "k".repeat(63)))
    else {
        panic!("not a subscribe")
    };
    assert_eq!(subscribe.since.unwrap().len(), 63);
}

#[test]
fn the_http_body_takes_the_key_from_its_header() {
    let one = r#"{"channel":"orders","data":1}"#;
    let (messages, atomic) = parse_publish(one, Some("k-1"), &LIMITS).unwrap();
    assert_eq!((messages[0].idempotency_key.as_deref(), atomic), (Some("k-1"), false));
    let same = r#"{"op":"publish","channel":"orders","data":1,"idempotency_key":"k-1"}"#;
    assert!(parse_publish(same, Some("k-1"), &LIMITS).is_ok());
    for (body, key) in [
        (same, Some("k-2")),
        (r#"{"op":"ping"}"#, None),
        (r#"{"messages":[{"channel":"a","data":1},{"channel":"a","data":2}]}"#, Some("k")),
        (one, Some("")),
    ] {
        assert_eq!(parse_publish(body, key, &LIMITS).unwrap_err().code, ErrorCode::Invalid, "{body}");
    }
}

#[test]
fn a_name_may_end_in_any_character() {
    for name in ["ünï/☃", "☃", "é"] {
        ok(&format!(r#"{{"op":"subscribe","channels":["{name}"]}}"#));
    }
    assert!(wrong(r#"{"op":"subscribe","channels":["a*☃"]}"#).message.contains('*'));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,64}") {
        let _ = parse(&text, &LIMITS);
        let _ = parse_publish(&text, Some(&text), &LIMITS);
    }

    #[test]
    fn no_request_like_text_panics(
        text in "(\\{|\\}|\\[|\\]|:|,|\"|\\\\|\"op\":|\"subscribe\"|\"publish\"|\"channels\":|\"data\":|\"ref\":|1e999|null|é|\\*|\\$|\"a\\?\\{){0,40}",
    ) {
        let _ = parse(&text, &LIMITS);
    }

    #[test]
    fn any_name_is_taken_or_refused(name in "\\PC{0,12}[*☃é$]{0,3}", key in "\\PC{0,12}") {
        let channel = serde_json::Value::from(name.as_str());
        let _ = parse(&format!(r#"{{"op":"subscribe","channels":[{channel}],"options":{{"types":[{channel}]}}}}"#), &LIMITS);
        let _ = parse(&format!(r#"{{"op":"unsubscribe","channels":[{{"channel":{channel},"params":{{"a":{channel}}}}}]}}"#), &LIMITS);
        let key = serde_json::Value::from(key.as_str());
        let _ = parse(&format!(r#"{{"op":"publish","channel":{channel},"data":1,"order_key":{key},"ttl":{key}}}"#), &LIMITS);
    }

    #[test]
    fn any_payload_survives(
        name in "[a-z:@!-]{1,20}",
        value in prop_oneof![Just("1.10".to_owned()), Just("1e+400".to_owned()), "\"[ -!#-\\[\\]-~é]{0,20}\"", Just("{ \"a\" : [ ] }".to_owned())],
    ) {
        let text = format!(r#"{{"op":"publish","channel":"{name}","data": {value} }}"#);
        match parse(&text, &LIMITS) {
            Ok(Request::Publish { messages, .. }) => prop_assert_eq!(&*messages[0].data, value.as_str()),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
