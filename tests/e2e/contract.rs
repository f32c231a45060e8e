//! Frames of the real program against the document that it serves of them.

use std::sync::LazyLock;

use serde_json::Value;
use tidegate::protocol::contract::ASYNCAPI;

use crate::rig::Place;
use crate::upstream::Upstream;

static MESSAGES: LazyLock<Value> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(ASYNCAPI).unwrap();
    document["components"]["messages"].clone()
});

/// What of a value its schema does not allow; of JSON Schema only what the document uses.
fn misfit(schema: &Value, value: &Value) -> Option<String> {
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("no type of JSON: {other}"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        name => is(name.as_str().unwrap()),
    };
    let among = |name: &str| schema.get(name).and_then(Value::as_array).is_none_or(|all| all.contains(value));
    if !fits || !among("enum") || schema.get("const").is_some_and(|only| only != value) {
        return Some(format!("{value} is not {schema}"));
    }
    if let Some(object) = value.as_object() {
        let mut required = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
        if let Some(missing) = required.find(|name| !object.contains_key(*name)) {
            return Some(format!("{missing} is missing"));
        }
        for (name, member) in object {
            match schema["properties"].get(name) {
                Some(schema) => {
                    if let Some(problem) = misfit(schema, member) {
                        return Some(format!("{name}: {problem}"));
                    }
                }
                None if schema["additionalProperties"] == false => return Some(format!("{name} is not named")),
                None => {}
            }
        }
    }
    let of_item = |item| misfit(&schema["items"], item);
    value.as_array().filter(|_| schema.get("items").is_some())?.iter().find_map(of_item)
}

/// A frame as it came; panics where the document says otherwise.
pub fn checked(frame: Value) -> Value {
    let kind = frame["kind"].as_str().unwrap_or_default();
    let message = MESSAGES.get(kind).unwrap_or_else(|| panic!("no kind of frame: {frame}"));
    if let Some(problem) = misfit(&message["payload"], &frame) {
        panic!("{problem}, by the document that is served: {frame}");
    }
    frame
}

#[test]
fn the_documents_are_served_to_everybody() {
    let upstream = Upstream::plain();
    let mut place = Place::new(&upstream);
    let tokens = r#"[{name = "app", token = "s3cret", read = ["*"]}]"#;
    let relay = place.set("access.mode", r#""tokens""#).set("access.tokens", tokens).start();
    for (path, name) in [("/v1/openapi.json", "openapi"), ("/v1/asyncapi.json", "asyncapi")] {
        let answer = relay.ask(&format!("GET {path}"), &[], "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.json()[name].is_string());
    }
    relay.stop();
}
