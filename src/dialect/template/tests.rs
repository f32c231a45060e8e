//! Templates and what they fill to.

use super::*;
use crate::dialect::composition::Composition;
use crate::dialect::fill::{ChannelView, Context};
use crate::dialect::variables::Variables;
use crate::dialect::{ChannelId, MessageSpec, SendError};
use crate::protocol::request::Secret;
use crate::relay::record::MessageId;
use crate::relay::time::{Mono, Time, Wall};
use proptest::prelude::*;

fn names() -> Names {
    let mut names = Names::new(Some(Composition::parse("{feed}:{symbol}").unwrap()));
    names.define("session").unwrap();
    names.define("unset").unwrap();
    names.define("channel.epoch").unwrap();
    names
}

/// Fills a publish template (or, with `{x*}`, a subscribe's) for channel `book:A` with these params and data.
fn fill(template: &str, params: Option<&str>, data: &str) -> Result<String, SendError> {
    let names = names();
    let scope = if template.contains('*') && template.contains("*}") { Scope::Channel } else { Scope::Publish };
    let template = Template::json(template, &names, scope, "send.test").unwrap_or_else(|faults| panic!("{faults:?}"));
    let mut variables = Variables::default();
    variables.fit(&names);
    let set = |variables: &mut Variables, name: &str, value: &str| {
        let variable = names.resolve(name, Scope::Channel).unwrap();
        variables.set(&names, &variable, Some(value), &[ChannelId(1)]);
    };
    set(&mut variables, "session", r#""q\"s""#);
    set(&mut variables, "channel.epoch", "12");
    let view = |name: &'static str| ChannelView {
        id: Some(ChannelId(1)),
        name,
        parts: names.composition.as_ref().unwrap().split(name).unwrap(),
        params: None,
        sub: None,
    };
    let batch = [ChannelView { params, ..view("book:A") }, view("book:B\"")];
    let message = MessageSpec {
        id: MessageId(7),
        channel: "book:A",
        params,
        key: Some("k\n"),
        kind: None,
        data,
        idempotency_key: None,
    };
    let token = Secret::new("t\\k");
    let context = Context {
        variables: &variables,
        connection: r#"{"room":"lobby"}"#,
        token: Some(&token),
        id: 5,
        uuid: 1,
        now: Time { mono: Mono(0), wall: Wall(1_795_231_888_123_456_789) },
        channel: batch.first(),
        message: Some(&message),
        wish: Default::default(),
        batch: &batch,
        join: "",
        cursor: None,
        signs: &[],
        secrets: &[],
    };
    template.render(&context)
}

#[test]
fn holes_become_values_outside_quotes_and_text_inside() {
    for (template, expected) in [
        (r#"{"id":{id},"s":"{id}"}"#, r#"{"id":5,"s":"5"}"#),
        (r#"{"c":{channel},"f":{feed},"s":"x-{symbol}-y"}"#, r#"{"c":"book:A","f":"book","s":"x-A-y"}"#),
        (r#"{"t":{token},"k":"{key}"}"#, r#"{"t":"t\\k","k":"k\n"}"#),
        (r#"{"s":{session},"t":"<{session}>"}"#, r#"{"s":"q\"s","t":"<q\"s>"}"#),
        (r#"{"e":{channel.epoch},"t":"{channel.epoch}"}"#, r#"{"e":12,"t":"12"}"#),
        (r#"{"d":{data},"t":"{data}"}"#, r#"{"d":{"a":"b"},"t":"{\"a\":\"b\"}"}"#),
        (r#"{"r":{connect.room}}"#, r#"{"r":"lobby"}"#),
        (
            r#"{"now":{now_s},"ms":{now_ms},"t":{now}}"#,
            r#"{"now":1795231888,"ms":1795231888123,"t":"2026-11-21T03:31:28.123456Z"}"#,
        ),
        (
            r#"{"u":{uuid},"m":{message}}"#,
            r#"{"u":"00000000-0000-4000-8000-000000000001","m":"00000000000000000000000007"}"#,
        ),
        (r#"{"i":{idempotency_key}}"#, r#"{"i":"00000000000000000000000007"}"#),
        // A literal brace and letter: with a space, or escaped.
        (r#"{"a":"{ id}","b":"\u007bid}","c":"\\{id}"}"#, r#"{"a":"{ id}","b":"\u007bid}","c":"\\5"}"#),
        (r#" [ 1 , -2.5e3 , true , null , { } ] "#, "[1,-2.5e3,true,null,{}]"),
        (r#""{id}""#, r#""5""#),
        ("{data}", r#"{"a":"b"}"#),
    ] {
        assert_eq!(fill(template, None, r#"{"a":"b"}"#), Ok(expected.to_owned()), "{template}");
    }
}

#[test]
fn what_may_be_unset_is_left_out() {
    for (template, expected) in [
        (r#"{"a":{type?},"b":1}"#, r#"{"b":1}"#),
        (r#"{"b":1,"a":{type?}}"#, r#"{"b":1}"#),
        (r#"{"a":{type?}}"#, "{}"),
        (r#"{"a":"{type?}"}"#, "{}"),
        (r#"{"a":"x{type?}y"}"#, r#"{"a":"xy"}"#),
        (r#"[{id},{type?},{unset?}]"#, "[5]"),
        (r#"[{type?},{id},{type?}]"#, "[null,5]"),
        (r#"[{type?}]"#, "[]"),
        (r#"{"a":[[{type?}]],"b":{"c":{type?}}}"#, r#"{"a":[[]],"b":{}}"#),
        ("{type?}", "null"),
        (r#"{"a":{params/x?}}"#, "{}"),
        (r#"{"a":{params}}"#, r#"{"a":{}}"#),
    ] {
        assert_eq!(fill(template, None, "1"), Ok(expected.to_owned()), "{template}");
    }
    for (template, name) in [(r#"{"a":{type}}"#, "type"), (r#"{"a":"{unset}"}"#, "unset"), ("[{params/x}]", "params/x")]
    {
        assert_eq!(fill(template, None, "1"), Err(SendError::Unset(name.to_owned())), "{template}");
    }
}

#[test]
fn params_are_reached_into_and_merged_but_never_over_named_members() {
    let params = Some(r#"{"depth":10,"token":"forged","o":{"x":[1,"\u0041"]},"a/b":null}"#);
    for (template, expected) in [
        (r#"{"d":{params/depth},"x":{params/o/x/1},"t":"{params/o/x/1}"}"#, r#"{"d":10,"x":"\u0041","t":"\u0041"}"#),
        (r#"{"o":{params/o},"t":"{params/o}"}"#, r#"{"o":{"x":[1,"\u0041"]},"t":"{\"x\":[1,\"\\u0041\"]}"}"#),
        (r#"{"n":{params/a~1b}}"#, r#"{"n":null}"#),
        (
            r#"{"token":{token},"*":{params},"id":{id}}"#,
            r#"{"token":"t\\k","a/b":null,"depth":10,"o":{"x":[1,"\u0041"]},"id":5}"#,
        ),
        (r#"{"*":{params/o}}"#, r#"{"x":[1,"\u0041"]}"#),
        // An unset member that the template names is not the params' to fill.
        (r#"{"token":{type?},"*":{params/o}}"#, r#"{"x":[1,"\u0041"]}"#),
    ] {
        assert_eq!(fill(template, params, "1"), Ok(expected.to_owned()), "{template}");
    }
    assert_eq!(
        fill(r#"{"*":{params/depth}}"#, params, "1"),
        Err(SendError::Invalid("{params/depth} must be a JSON object".into()))
    );
    assert_eq!(fill(r#"{"*":{params}}"#, None, "1"), Ok("{}".to_owned()));
}

#[test]
fn lists_run_over_the_batch() {
    assert_eq!(
        fill(r#"{"f":{feed},"s":{symbol*},"c":{channel*}}"#, None, "1"),
        Ok(r#"{"f":"book","s":["A","B\""],"c":["book:A","book:B\""]}"#.to_owned())
    );
}

#[test]
fn text_templates_are_plain() {
    let names = names();
    let template = Template::text("PUB {channel} {type?}{ x}{", &names, Scope::Publish, "send.publish").unwrap();
    let mut variables = Variables::default();
    variables.fit(&names);
    let view = ChannelView { id: None, name: "a\"b", parts: vec!["a", "b"], params: None, sub: None };
    let context = Context {
        variables: &variables,
        connection: "{}",
        token: None,
        id: 1,
        uuid: 0,
        now: Time::default(),
        channel: Some(&view),
        message: None,
        wish: Default::default(),
        batch: &[],
        join: "",
        cursor: None,
        signs: &[],
        secrets: &[],
    };
    assert_eq!(template.render(&context), Ok("PUB a\"b { x}{".to_owned()));
    assert_eq!(template.render_with(&context, |text| text.replace('"', "_")), Ok("PUB a_b { x}{".to_owned()));
}

proptest! {
    /// Whatever a publisher says stays in its place.
    #[test]
    fn no_value_breaks_out_of_its_place(key in any::<String>(), text in any::<String>()) {
        let names = names();
        let source = r#"{"op":"pub","key":{key},"both":"<{key}|{type}>","type":{type},"data":"{data}"}"#;
        let template = Template::json(source, &names, Scope::Publish, "send.publish").unwrap();
        let mut variables = Variables::default();
        variables.fit(&names);
        let data = serde_json::Value::from(text.as_str()).to_string();
        let message = MessageSpec {
            id: MessageId(1), channel: "a:b", params: None, key: Some(&key), kind: Some(&text), data: &data, idempotency_key: None,
        };
        let context = Context {
            variables: &variables, connection: "{}", token: None, id: 1, uuid: 0, now: Time::default(),
            channel: None, wish: Default::default(),
            message: Some(&message), batch: &[], join: "", cursor: None, signs: &[], secrets: &[],
        };
        let frame: serde_json::Value = serde_json::from_str(&template.render(&context).unwrap()).unwrap();
        let expected = serde_json::json!({"op":"pub","key":key,"both":format!("<{key}|{text}>"),"type":text,"data":data});
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn compiling_never_panics(text in "[{}\\[\\]\":,a-z*?/\\\\ \u{e9}0-9]{0,40}") {
        let names = names();
        let _ = Template::json(&text, &names, Scope::Publish, "x");
        let _ = Template::text(&text, &names, Scope::Channel, "x");
    }
}
