//! Recording a service, and playing what was recorded.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use rustix::process::Signal;

use crate::rig::{Process, run, said, tidegate, upstream};

/// Values that must not reach the disk.
const CANARY: &str = "canary-7f3a";

/// What a service and a relay said to each other.
fn script(dir: &Path) {
    let steps = [
        r#"{"t":0,"conn":"c1","dir":"in","op":"open"}"#.to_owned(),
        text("out", 1, r#"{"type":"auth","token":"***"}"#),
        text("in", 2, r#"{"type":"auth_ok"}"#),
        text("out", 3, r#"{"type":"subscribe","id":1,"channel":"a"}"#),
        text("in", 4, r#"{"type":"subscribed","id":1}"#),
        // The service says the secret back, in each form.
        text(
            "in",
            5,
            &format!(r#"{{"type":"event","channel":"a","data":{{"hello":"{CANARY}","list":["x {CANARY} y"]}}}}"#),
        ),
        text("in", 6, r#"{"type":"event","channel":"a","data":{"password":"guess-me","n":1}}"#),
        text("in", 7, r#"{"surprise":true}"#),
        r#"{"t":9,"conn":"c1","dir":"in","op":"bin","data":"/wA="}"#.to_owned(),
        r#"{"t":10,"conn":"c1","dir":"in","op":"close","code":1012}"#.to_owned(),
        r#"{"t":11,"conn":"c2","dir":"in","op":"reject","status":429}"#.to_owned(),
    ];
    std::fs::write(dir.join("script.jsonl"), format!("{{\"meta\":{{}}}}\n{}\n", steps.join("\n"))).unwrap();
}

fn text(way: &str, at: u64, data: &str) -> String {
    serde_json::json!({"t": at, "conn": "c1", "dir": way, "op": "text", "data": data}).to_string()
}

/// `tidegate replay` of the script, and where it listens.
fn replay(dir: &Path, more: &[&str]) -> (Process, String) {
    let mut command = tidegate(dir);
    command.args(["replay", "script.jsonl", "--listen", "127.0.0.1:0", "--speed", "0"]).args(more);
    let mut process = Process::start(command);
    let line = process.line_with("ws://");
    (process, line[line.find("ws://").unwrap()..].to_owned())
}

fn configure(dir: &Path, url: &str) {
    let text = format!(
        "[upstream]\nurl = \"{url}?key={CANARY}\"\ntoken = \"{CANARY}\"\nheaders = {{ \"X-Key\" = \"{CANARY}\" }}\n\
         backoff = {{ min = \"10ms\", max = \"20ms\" }}\n"
    );
    std::fs::write(dir.join("relay.toml"), text).unwrap();
}

#[test]
fn what_passes_is_recorded_and_no_secret_is() {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path());
    let (_replay, url) = replay(dir.path(), &[]);
    configure(dir.path(), &url);
    let limits = ["--max-frames", "8"];
    let output = run(
        dir.path(),
        &[&["record", "out.jsonl", "-c", "relay.toml", "--channel", "a", "--for", "60s"][..], &limits].concat(),
    );
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("a limit of the recording is reached: 8 frames"), "{}", said(&output));
    assert!(said(&output).contains("unmatched: {\"surprise\":true}"), "{}", said(&output));
    let written = std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
    assert!(!written.contains(CANARY) && !written.contains("guess-me"), "{written}");
    for expected in [
        r#""op":"connect","url":"ws://127.0.0.1:"#,
        r#"?key=***""#,
        r#""headers":{"X-Key":"***"}"#,
        r#"{\"type\":\"auth\",\"token\":\"***\"}"#,
        r#"\"hello\":\"***\",\"list\":[\"x *** y\"]"#,
        r#"{\"surprise\":true}"#,
        r#""op":"bin","data":"/wA=""#,
    ] {
        assert!(written.contains(expected), "no {expected} in\n{written}");
    }
    // It can be held again by the dialect, and it is not written over.
    let tested = run(dir.path(), &["dialect", "test", "plain", "out.jsonl"]);
    assert!(said(&tested).contains("in ack #2 subscribe a"), "{}", said(&tested));
    assert!(said(&tested).contains("2 frames are not understood"), "{}", said(&tested));
    let again = run(dir.path(), &["record", "out.jsonl", "-c", "relay.toml"]);
    assert_eq!(again.status.code(), Some(74), "{}", said(&again));
    assert_eq!(std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap(), written);
}

#[test]
fn a_recording_goes_over_reconnects_and_ctrl_c_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path());
    let (_replay, url) = replay(dir.path(), &["--loop"]);
    configure(dir.path(), &url);
    let mut command = tidegate(dir.path());
    command.args(["record", "out.jsonl", "-c", "relay.toml", "--channel", "a"]);
    let mut process = Process::start(command);
    process.line_with("a: gap (reconnect)");
    process.line_with("a: gap (reconnect)");
    process.signal(Signal::INT);
    process.line_with("stopped: ");
    assert_eq!(process.exit_code(), Some(0));
    let written = std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
    for expected in
        [r#""op":"close","code":1012"#, r#""conn":"c2","dir":"in","op":"reject","status":429"#, r#""conn":"c3""#]
    {
        assert!(written.contains(expected), "no {expected} in\n{written}");
    }
    for line in written.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "a line is whole: {line}");
    }
}

#[test]
fn without_a_dialect_only_what_was_asked_for_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (_demo, address) = upstream(dir.path());
    let url = format!("ws://{address}/stream");
    let first = r#"{"type":"ping","id":1}"#;
    let second = r#"{"type":"subscribe","id":2,"channel":"price:BTC-USD"}"#;
    let output = run(
        dir.path(),
        &["record", "raw.jsonl", "--url", &url, "--raw", "--send", first, "--send", second, "--max-frames", "5"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let written = std::fs::read_to_string(dir.path().join("raw.jsonl")).unwrap();
    let ways: Vec<String> = written
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["op"] == "text")
        .map(|line| format!("{} {}", line["dir"].as_str().unwrap(), line["data"].as_str().unwrap()))
        .collect();
    assert_eq!(ways[..3], [format!("out {first}"), r#"in {"id":1,"type":"pong"}"#.to_owned(), format!("out {second}")]);
    assert!(ways[3].contains("subscribed"), "{ways:?}");
}

#[test]
fn nobody_there_is_a_failure_that_the_transcript_tells() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["record", "out.jsonl", "--url", "ws://127.0.0.1:1/", "--raw", "--for", "5s"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let written = std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
    assert!(written.contains(r#""op":"drop","data":"refused"#), "{written}");
}

#[test]
fn a_transcript_that_is_none_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("script.jsonl"), "{\"meta\":{}}\n{\"dir\":\"up\"}\n").unwrap();
    let output = run(dir.path(), &["replay", "script.jsonl"]);
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
    assert!(said(&output).starts_with("script.jsonl:2: no step"), "{}", said(&output));
}

/// A recorded connection over this transport; its steps have no `conn` yet.
fn by_http(dir: &Path, transport: &str, steps: &[&str]) {
    let begin =
        format!(r#"{{"dir":"out","op":"connect","transport":"{transport}","url":"http://h/feed?room=a&key=***"}}"#);
    let steps = [&[&begin, r#"{"dir":"in","op":"open"}"#], steps].concat();
    let text: String = steps.iter().map(|step| step.replacen('{', "{\"conn\":\"c1\",", 1) + "\n").collect();
    std::fs::write(dir.join("script.jsonl"), format!("{{\"meta\":{{}}}}\n{text}")).unwrap();
}

#[test]
fn a_transcript_that_cannot_be_served_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    for (steps, expected) in [
        (&[][..], "script.jsonl:1: there is nothing to serve"),
        (&[r#"{"dir":"in","op":"http","status":200}"#][..], "script.jsonl:4: connection c1 answers what nobody asked"),
        (
            &[r#"{"dir":"out","op":"http","url":"/feed"}"#, r#"{"dir":"in","op":"text","data":"2"}"#][..],
            "script.jsonl:5: connection c1 was over long-poll and moves to a WebSocket, which cannot be played",
        ),
    ] {
        by_http(dir.path(), "long-poll", steps);
        let output = run(dir.path(), &["replay", "script.jsonl"]);
        assert_eq!(output.status.code(), Some(65), "{}", said(&output));
        assert!(said(&output).starts_with(expected), "{}", said(&output));
    }
}

/// The status of the answer to a GET, with these header fields.
fn get(url: &str, target: &str, headers: &str) -> String {
    let mut stream = std::net::TcpStream::connect(url.trim_start_matches("http://").trim_end_matches('/')).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_replay_says_what_it_waits_for_and_answers_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    by_http(dir.path(), "sse", &[r#"{"dir":"in","op":"chunk","data":"data: 1\\n\\n"}"#, r#"{"dir":"in","op":"eof"}"#]);
    let mut command = tidegate(dir.path());
    command.args(["replay", "script.jsonl", "--listen", "127.0.0.1:0", "--speed", "0"]);
    let mut process = Process::start(command);
    let line = process.line_with("replays script.jsonl at http://");
    let url = line[line.find("http://").unwrap()..].to_owned();
    assert_eq!(get(&url, "/feed?room=a", "Origin: http://evil.example\r\n"), "403");
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    assert_eq!(get(&url, "/feed?room=a", upgrade), "503");
    process.line_with("the next recorded connection is over sse, and a WebSocket was asked for");
    let other = url.clone();
    let other = std::thread::spawn(move || get(&other, "/feed?room=b", ""));
    process.line_with("waiting for GET /feed?room=a&key=***, heard GET /feed?room=b");
    assert_eq!(get(&url, "/feed?room=a&key=mine", ""), "200");
    process.line_with("connection 1 is played");
    assert_eq!(other.join().unwrap(), "503", "nothing more is recorded");
    assert_eq!(get(&url, "/feed?room=a", ""), "503");
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_mock_is_a_service_for_a_relay() {
    let dir = tempfile::tempdir().unwrap();
    for (dialect, channel) in
        [("plain", "news"), ("pusher", "news"), ("eth-jsonrpc", "newHeads"), ("phoenix", "room:1")]
    {
        let mut command = tidegate(dir.path());
        command.args(["mock", dialect, "--listen", "127.0.0.1:0", "--rate", "20"]);
        let mut process = Process::start(command);
        let line = process.line_with("ws://");
        let url = &line[line.find("ws://").unwrap()..];
        let file = format!("{dialect}.jsonl");
        let set = format!("upstream.dialect={dialect}");
        let output = run(
            dir.path(),
            &["record", &file, "--url", url, "--set", &set, "--channel", channel, "--max-frames", "8", "--for", "30s"],
        );
        assert!(said(&output).contains("a limit of the recording is reached"), "{dialect}: {}", said(&output));
        let tested = run(dir.path(), &["dialect", "test", dialect, &file]);
        assert!(tested.status.success(), "{dialect}: {}", said(&tested));
        assert!(said(&tested).contains(&format!("in event {channel}")), "{dialect}: {}", said(&tested));
        process.signal(Signal::TERM);
        assert_eq!(process.exit_code(), Some(0));
    }
    for wrong in [&["mock", "nope"][..], &["dialect", "test", "nope", "x.jsonl"], &["dialect", "explain", "nope", "{}"]]
    {
        let output = run(dir.path(), wrong);
        assert_eq!(output.status.code(), Some(66), "{wrong:?}");
        assert!(said(&output).contains("no file and no built-in dialect \"nope\"; there are: "), "{}", said(&output));
    }
    for (dialect, why) in [("socketio", "greets in a way of its own"), ("mercure", "it has no WebSocket")] {
        let output = run(dir.path(), &["mock", dialect]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(why), "{}", said(&output));
    }
    let mut command = tidegate(dir.path());
    command.args(["mock", "slack", "--listen", "127.0.0.1:0"]);
    let mut process = Process::start(command);
    process.line_with("fetch.open");
}
