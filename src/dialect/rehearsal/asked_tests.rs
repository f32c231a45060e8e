//! Rehearsals of conversations over HTTP.

use serde_json::{Value, json};

use super::*;

const DIALECT: &str = r#"
dialect = 1
name = "small"

[connect]
websocket = false

[transport.sse]
path = "/feed"
query = { v = "2", topic = ["{channel}"] }
headers = { authorization = "Bearer {token?}" }

[transport.long-poll]
path = "/feed/{params/room}"
query = { since = "{cursor?}", topic = "{channel*}" }
cursor = "/next"

[send]
publish = { json = '{"body":{data}}', post = "/to/{channel}" }
ping = { json = '{"ping":{id}}', post = "/ping", ack = true }

[[on]]
match = { "/c" = { exists = true } }
is = "event"
channel = "/c"
data = "/d"

[[on]]
match = { "/next" = { exists = true } }
is = "ignore"
"#;

fn play(steps: &[Value]) -> Vec<Line> {
    let text: String =
        std::iter::once(json!({"meta": {}})).chain(steps.iter().cloned()).map(|step| format!("{step}\n")).collect();
    Rehearsal::new("small", DIALECT).unwrap().play(&Transcript::parse(&text).unwrap())
}

fn texts(steps: &[Value]) -> Vec<String> {
    play(steps).iter().map(|line| format!("{} {}", line.direction, line.text)).collect()
}

fn connect(transport: &str, url: &str, headers: Value) -> Value {
    json!({"conn": "c", "dir": "out", "op": "connect", "transport": transport, "url": url, "headers": headers})
}

fn open() -> Value {
    json!({"conn": "c", "dir": "in", "op": "open"})
}

fn get(url: &str) -> Value {
    json!({"conn": "c", "dir": "out", "op": "http", "method": "GET", "url": url})
}

fn post(url: &str, data: &str) -> Value {
    let headers = json!({"Content-Type": "application/json", "X-Key": "***", "Authorization": "***"});
    json!({"conn": "c", "dir": "out", "op": "http", "method": "POST", "url": url, "headers": headers, "data": data})
}

fn answer(method: &str, status: u16, data: &str) -> Value {
    json!({"conn": "c", "dir": "in", "op": "http", "method": method, "status": status, "data": data})
}

fn chunk(data: &str) -> Value {
    json!({"conn": "c", "dir": "in", "op": "chunk", "data": data})
}

const STREAM: &str = "https://h/feed?v=2&topic=a&topic=b&key=***";

fn stream() -> Vec<Value> {
    vec![connect("sse", STREAM, json!({"X-Key": "***", "Authorization": "***"})), open()]
}

#[test]
fn a_stream_is_asked_for_and_read_and_publishes_leave_beside_it() {
    let mut steps = stream();
    steps.extend([
        chunk(": hello\n\ndata: {\"c\":\"a\","),
        chunk("\"d\":1}\n\ndata: {\"c\":\"b\",\"d\":2}\n\n"),
        post("https://h/to/a%2Fx", r#"{"body":[1]}"#),
        chunk("data: {}\n\n"),
        answer("POST", 201, "{\"id\":9}"),
        post("https://h/to/b", r#"{"body":2}"#),
        answer("POST", 422, "no"),
    ]);
    assert_eq!(
        texts(&steps),
        [
            "out connect sse GET /feed?v=2&topic=a&topic=b&key=*** authorization=*** x-key=***, configured: key x-key",
            "open ready",
            "in -",
            "in event a data=1 | event b data=2",
            "out publish a/x data=[1] POST /to/a%2Fx",
            "in unmatched",
            r#"in 201 ack publish data={"id":9}"#,
            "out publish b data=2 POST /to/b",
            r#"in 422 error publish code=422 message="no" then=reject"#,
        ]
    );
}

#[test]
fn polls_go_on_from_where_the_last_answer_ended() {
    let url = |since: &str| format!("https://h/feed/lobby?{since}topic=a%2Cb");
    let steps = [
        connect("long-poll", &url(""), json!({})),
        open(),
        get(&url("")),
        answer("GET", 200, r#"{"c":"a","d":1,"next":"n1"}"#),
        get(&url("since=n1&")),
        // While a poll is out, its neighbour is answered.
        post("https://h/to/a", r#"{"body":1}"#),
        answer("POST", 200, ""),
        answer("GET", 204, ""),
        get(&url("since=n1&")),
    ];
    let mut steps = steps.to_vec();
    for step in &mut steps {
        // Nothing was configured here.
        if let Some(headers) = step.get_mut("headers").and_then(Value::as_object_mut) {
            headers.retain(|name, _| name == "Content-Type");
        }
    }
    assert_eq!(
        texts(&steps),
        [
            "out connect long-poll GET /feed/lobby?topic=a%2Cb",
            "open ready",
            "out poll GET /feed/lobby?topic=a%2Cb",
            "in 200 event a data=1",
            "out poll GET /feed/lobby?since=n1&topic=a%2Cb",
            "out publish a data=1 POST /to/a",
            "in 200 ack publish",
            "in 204 ignored | hasty",
            "out poll GET /feed/lobby?since=n1&topic=a%2Cb",
        ]
    );
}

/// The first line that is not understood, and which one of the file it is.
fn odd(steps: &[Value]) -> (usize, String) {
    let lines = play(steps);
    let odd = lines.iter().find(|line| line.verdict != Verdict::Understood).expect("something differs");
    (odd.line, odd.text.clone())
}

#[test]
fn another_request_is_told_with_what_it_should_have_been_and_its_line() {
    let wrong = |url: &str, headers: Value| odd(&[connect("sse", url, headers), open()]);
    let auth = || json!({"Authorization": "***"});
    assert_eq!(
        wrong("http://h/food?v=2&topic=a", auth()),
        (2, "foreign GET /food?v=2&topic=a authorization=***, connect sse would be GET /feed?v=2&topic=a authorization=\"Bearer ***\"".to_owned())
    );
    for (url, headers) in [
        ("http://h/feed?v=3&topic=a", auth()),
        ("http://h/feed?topic=a", auth()),
        ("http://h/feed?v=2&topic=a", json!({"Authorization": "***", "Last-Event-ID": "7"})),
    ] {
        assert!(wrong(url, headers).1.contains("would be GET /feed?v=2&topic=a authorization=\"Bearer ***\""), "{url}");
    }
    let mut steps = stream();
    steps.push(post("https://h/elsewhere/a", r#"{"body":1}"#));
    let (line, text) = odd(&steps);
    assert_eq!(line, 4);
    assert!(text.starts_with("foreign POST /elsewhere/a "), "{text}");
    assert!(text.contains("publish - data=1 would be POST /to/-"), "{text}");
    let poll = "http://h/feed/lobby?topic=a";
    let steps =
        [connect("long-poll", poll, json!({})), open(), get(poll), answer("GET", 200, r#"{"next":"n1"}"#), get(poll)];
    assert_eq!(odd(&steps).0, 6);
    assert!(odd(&steps).1.ends_with("poll would be GET /feed/lobby?since=n1&topic=a"), "{}", odd(&steps).1);
    let steps = [connect("long-poll", poll, json!({})), open(), get(poll), get(poll)];
    assert_eq!(odd(&steps), (5, "foreign GET /feed/lobby?topic=a, a poll is out".to_owned()));
    let steps = [connect("long-poll", poll, json!({})), open(), answer("GET", 200, "{}")];
    assert_eq!(odd(&steps), (4, "200 answers no poll".to_owned()));
}

#[test]
fn calls_of_nobody_are_passed_over() {
    assert!(play(&[get("http://h/admin"), answer("GET", 200, "ok"), chunk("data: 1\n\n")]).is_empty());
}

const PACKETS: &str = r##"
dialect = 1
name = "packets"
frame = { kind = "socket.io", namespace = "/" }

[connect]
path = "/socket.io/"

[transport.long-poll]

[[on]]
match = { "#packet" = "connect" }
is = "ready"

[[on]]
match = { "#packet" = "event" }
is = "event"
channel = "/0"
data = "/1"
"##;

#[test]
fn a_session_that_is_polled_moves_to_a_websocket() {
    let url = "http://h/socket.io/";
    let with_sid = "http://h/socket.io/?sid=***";
    let hello =
        r#"0{"sid":"s1","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":100000}"#;
    let text = |way: &str, data: &str| json!({"conn": "c", "dir": way, "op": "text", "data": data});
    let packets = json!({"conn": "c", "dir": "out", "op": "http", "method": "POST", "url": with_sid,
        "headers": {"content-type": "text/plain;charset=UTF-8"}, "data": "40"});
    let steps = [
        connect("long-poll", url, json!({})),
        open(),
        get(url),
        answer("GET", 200, hello),
        packets,
        answer("POST", 200, "ok"),
        get(with_sid),
        answer("GET", 200, "40{\"sid\":\"x\"}\u{1e}42[\"a\",1]"),
        text("out", "2probe"),
        text("in", "3probe"),
        text("out", "5"),
        text("in", "42[\"a\",2]"),
    ];
    let text: String = std::iter::once(&json!({"meta": {}})).chain(&steps).map(|step| format!("{step}\n")).collect();
    let lines = Rehearsal::new("packets", PACKETS).unwrap().play(&Transcript::parse(&text).unwrap());
    let told: Vec<_> = lines.iter().map(|line| format!("{} {}", line.direction, line.text)).collect();
    let expected = [
        "out connect long-poll GET /socket.io/",
        "open -",
        "out poll GET /socket.io/",
        "in 200 send 40 | now idle=45s",
        "out auth",
        "in 200 ignored",
        "out poll GET /socket.io/?sid=***",
        "in 200 ready | event a data=1",
        "out probe",
        "in probed",
        "out upgrade",
        "in event a data=2",
    ];
    assert_eq!(told, expected);
    assert!(lines.iter().all(|line| line.verdict == Verdict::Understood));
}
