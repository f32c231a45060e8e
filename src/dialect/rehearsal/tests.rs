//! Rehearsals of small made conversations.

use super::explain::explain;
use super::*;

const DIALECT: &str = r#"
dialect = 1
name = "small"
channel = "{feed}:{item}"

[close]
then = { "4000" = "fatal" }

[send]
auth        = '{"login":{token}}'
subscribe   = '{"id":{id},"sub":{feed},"items":{item*},"*":{params}}'
resubscribe = '{"id":{id},"sub":{feed},"items":{item*},"after":{channel.seq}}'
unsubscribe = '{"id":{id},"end":{sub}}'
publish     = '{"id":{id},"to":{channel},"body":{data}}'
pong        = '{"pong":true}'

[[on]]
match = { "/e" = { exists = true } }
is = "event"
channel = "{/e}:{/i}"
seq = "/n"
data = "/d"

[[on]]
match = { "/sub" = { exists = true } }
is = "ack"
req = "/id"
bind = "/sub"

[[on]]
match = { "/ok" = true }
is = "ack"
req = "/id"

[[on]]
match = { "/ping" = true }
is = "ping"

[[on]]
match = { "/welcome" = true }
is = "ready"
"#;

/// Plays steps written `in JSON`, `out JSON`, `open`, `close CODE`, each on the connection before the colon.
fn play(steps: &str) -> Vec<(String, Verdict)> {
    let mut text = String::from("{\"meta\":{}}\n");
    for step in steps.lines().map(str::trim).filter(|step| !step.is_empty()) {
        let (connection, step) = step.split_once(": ").unwrap();
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let line = match word {
            "open" => serde_json::json!({"conn": connection, "dir": "in", "op": "open"}),
            "close" => {
                let code: u16 = rest.parse().unwrap();
                serde_json::json!({"conn": connection, "dir": "in", "op": "close", "code": code})
            }
            direction => serde_json::json!({"conn": connection, "dir": direction, "op": "text", "data": rest}),
        };
        text += &format!("{line}\n");
    }
    let lines = Rehearsal::new("small", DIALECT).unwrap().play(&Transcript::parse(&text).unwrap());
    lines.into_iter().map(|line| (format!("{} {}", line.direction, line.text), line.verdict)).collect()
}

fn texts(steps: &str) -> Vec<String> {
    play(steps).into_iter().map(|(text, _)| text).collect()
}

const BEGUN: &str = r#"
    c: open
    c: out {"login":"t"}
    c: in {"welcome":true}
"#;

#[test]
fn a_conversation_is_held_again_frame_by_frame() {
    let said = texts(&format!(
        r#"{BEGUN}
        c: out {{"id":7,"sub":"px","items":["a","b"],"depth":5}}
        c: in {{"id":7,"ok":true}}
        c: in {{"e":"px","i":"a","n":3,"d":[1]}}
        c: out {{"id":8,"to":"px:a","body":{{"x":1}}}}
        c: in {{"id":8,"ok":true}}
        c: in {{"ping":true}}
        c: out {{"pong":true}}
        c: close 4000"#
    ));
    assert_eq!(
        said,
        [
            r#"open send {"login":"t"}"#,
            "out auth",
            "in ready",
            r#"out subscribe #7 px:a px:b params={"depth":5}"#,
            "in ack #7 subscribe px:a px:b",
            "in event px:a seq=3 data=[1]",
            r#"out publish #8 px:a data={"x":1}"#,
            "in ack #8 publish",
            r#"in send {"pong":true}"#,
            "out reply",
            "in close 4000 then=fatal",
        ]
    );
}

#[test]
fn what_no_template_makes_is_foreign_and_leaves_no_trace() {
    let played = play(&format!(
        r#"{BEGUN}
        c: out {{"id":7,"sub":"px","items":["a"],"x":1,"extra":[{{}}],"to":2}}
        c: out {{"hi":1}}
        c: out {{"id":3,"end":"s"}}
        c: out {{"pong":true}}
        c: in {{"id":3,"ok":true}}
        c: in {{"what":1}}
        c: in {{"e":"px"}}
        c: in {{"#
    ));
    let verdicts: Vec<_> = played.iter().skip(4).map(|(_, verdict)| *verdict).collect();
    let (foreign, puzzling) = (Verdict::Foreign, Verdict::Puzzling);
    assert_eq!(verdicts, [foreign, foreign, foreign, Verdict::Understood, puzzling, puzzling, puzzling]);
    assert_eq!(played[7].0, "in ack of nothing", "a guess that failed has asked for nothing");
    assert_eq!(played[9].0, "in unextracted, rule 1");
    assert_eq!(played[10].0, "in malformed");
}

#[test]
fn a_subscription_id_leads_back_to_its_channel() {
    let said = texts(&format!(
        r#"{BEGUN}
        c: out {{"id":2,"sub":"px","items":["a"]}}
        c: in {{"id":2,"sub":"s1"}}
        c: out {{"id":3,"sub":"px","items":["b"]}}
        c: in {{"id":3,"sub":"s2"}}
        c: out {{"id":4,"end":"s1"}}
        c: in {{"id":4,"ok":true}}"#
    ));
    assert_eq!(said[7..], ["out unsubscribe #4 px:a", "in ack #4 unsubscribe px:a"]);
}

#[test]
fn a_later_connection_knows_what_the_one_before_learnt() {
    let said = texts(&format!(
        r#"{BEGUN}
        c: out {{"id":2,"sub":"px","items":["a"]}}
        c: in {{"id":2,"sub":"s1"}}
        c: in {{"e":"px","i":"a","n":41,"d":0}}
        c: close 1006
        d: open
        d: out {{"login":"t"}}
        d: in {{"welcome":true}}
        d: out {{"id":2,"sub":"px","items":["a"],"after":41}}
        d: out {{"id":3,"sub":"px","items":["a"],"after":40}}"#
    ));
    assert_eq!(said[10], "out resubscribe #2 px:a");
    assert!(said[11].starts_with("out foreign "), "it would not go back to 40: {}", said[11]);
    assert!(said[11].contains(r#"resubscribe #3 px:a would be {"after":41,"#), "{}", said[11]);
}

#[test]
fn explain_names_the_rule_and_what_it_finds() {
    let frame = WireFrame::Text(r#"{"e":"px","i":"a","n":3}"#.into());
    let text = explain("small.toml", DIALECT, &frame).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "message 1: rule 1 (small.toml:17), event");
    for expected in [r#"  match "/e" is "px""#, "  channel      px:a", "  seq          3"] {
        assert!(lines.contains(&expected), "{expected} in {text}");
    }
    let none = explain("small.toml", DIALECT, &WireFrame::Text(r#"{"x":1}"#.into())).unwrap();
    assert!(none.starts_with("message 1: no rule matches\n not rule 1 (small.toml:17):\n"), "{none}");
    assert!(none.ends_with("heard: unmatched\n"), "{none}");
    let broken = explain("small.toml", DIALECT, &WireFrame::Text("{".into())).unwrap();
    assert_eq!(broken, "message 1 is malformed: not JSON: it ends too early at byte 1\nheard: malformed\n");
}
