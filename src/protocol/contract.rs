//! The contract as documents for programs: what goes over HTTP, and the frames and requests of the WebSocket side.
//!
//! Invariant: they say what the relay does. Tests hold paths, methods, codes, requests and every frame that they see against them.

/// OpenAPI 3.1, at `/v1/openapi.json`.
pub const OPENAPI: &str = include_str!("contract/openapi.json");
/// AsyncAPI 3.0, at `/v1/asyncapi.json`.
pub const ASYNCAPI: &str = include_str!("contract/asyncapi.json");

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::protocol::codes::ErrorCode;
    use crate::protocol::request::options::Options;
    use crate::protocol::request::parse::{RequestLimits, parse, parse_publish};

    const LIMITS: RequestLimits = RequestLimits { request_max: 1 << 16, message_max: 1 << 16, channels: 8, depth: 8 };

    fn texts(list: &Value) -> Vec<&str> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    }

    fn document(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_codes_are_all_there_and_each_status_somewhere() {
        let openapi = document(OPENAPI);
        let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.text()).collect();
        for schema in ["Problem", "Refused"] {
            assert_eq!(texts(&openapi["components"]["schemas"][schema]["properties"]["code"]["enum"]), codes);
        }
        for code in ErrorCode::ALL {
            let status = format!("\"{}\":", code.http_status());
            // 405 is about a method that is not in the document.
            assert!(*code == ErrorCode::MethodNotAllowed || OPENAPI.contains(&status), "{status}");
        }
    }

    /// A value that fits a schema of a request's member.
    fn sample(openapi: &Value, name: &str, schema: &Value) -> String {
        let of =
            schema["$ref"].as_str().map(|path| &openapi["components"]["schemas"][path.rsplit('/').next().unwrap()]);
        let schema = of.unwrap_or(schema);
        if let Some(choices) = schema["enum"].as_array() {
            return choices[0].to_string();
        }
        match (name, schema["type"].as_str()) {
            ("optimistic", _) => r#"{"channel":"a","params":{},"key":"k","value":1}"#.to_owned(),
            ("ttl", _) => r#""30s""#.to_owned(),
            ("coalesce", _) => "true".to_owned(),
            (_, Some("string")) => r#""a""#.to_owned(),
            (_, Some("object")) => "{}".to_owned(),
            (_, Some("boolean")) => "false".to_owned(),
            _ => "1".to_owned(),
        }
    }

    #[test]
    fn every_member_of_a_message_is_understood_and_no_other() {
        let openapi = document(OPENAPI);
        let properties = openapi["components"]["schemas"]["Message"]["properties"].as_object().unwrap();
        let members = properties.iter().filter(|(name, _)| *name != "op");
        let members: Vec<String> =
            members.map(|(name, schema)| format!("{name:?}:{}", sample(&openapi, name, schema))).collect();
        let whole = format!("{{{}}}", members.join(","));
        parse_publish(&whole, None, &LIMITS).unwrap_or_else(|wrong| panic!("{whole}: {}", wrong.message));
        let more = format!("{{{},\"other\":1}}", members.join(","));
        assert!(parse_publish(&more, None, &LIMITS).is_err());
        // The parser does not tell what else it knows: the ordinary ones at least.
        for name in ["channel", "params", "data", "key", "type", "idempotency_key", "order_key", "coalesce", "priority"]
        {
            assert!(properties.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_requests_are_those_of_the_parser() {
        let asyncapi = document(ASYNCAPI);
        let said = parse("{}", &LIMITS).unwrap_err().message;
        let known = said.split_once(": ").unwrap().1.replace(" or ", ", ");
        let mut known: Vec<&str> = known.split(", ").collect();
        let messages = asyncapi["components"]["messages"].as_object().unwrap();
        let mut ops: Vec<&str> = messages.keys().filter_map(|name| name.strip_prefix("op.")).collect();
        known.sort_unstable();
        ops.sort_unstable();
        assert_eq!(ops, known);
        let options = &messages["op.subscribe"]["payload"]["properties"]["options"]["properties"];
        let mut options: Vec<&str> = options.as_object().unwrap().keys().map(String::as_str).collect();
        let mut known = Options::NAMES.to_vec();
        options.sort_unstable();
        known.sort_unstable();
        assert_eq!(options, known);
        // The same in an address.
        let parameters = document(OPENAPI)["components"]["parameters"].clone();
        let names = parameters.as_object().unwrap().values().map(|of| of["name"].as_str().unwrap());
        let names: Vec<&str> = names.filter(|name| !["channel", "since"].contains(name)).collect();
        assert!(names.len() == known.len() && names.iter().all(|name| known.contains(name)), "{names:?}");
        // Each is an operation's, and each operation's is there.
        for (operation, is_request) in [("requests", true), ("frames", false)] {
            let listed = asyncapi["operations"][operation]["messages"].as_array().unwrap();
            let listed = listed.iter().map(|of| of["$ref"].as_str().unwrap().rsplit('/').next().unwrap());
            let mut listed: Vec<&str> = listed.collect();
            listed.sort_unstable();
            let there = messages.keys().map(String::as_str).filter(|name| name.starts_with("op.") == is_request);
            assert!(there.eq(listed));
        }
    }
}
