//! No secret is shown: canaries in every place where the configuration takes one, a service that repeats them in every form
//! wherever it may say something, and then a search through everything that the relay ever said or stored.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::client::Client;
use crate::common::until;
use crate::parrot::{Parrot, REFUSALS, Way};
use crate::rig::{Place, Relay};

/// What every canary begins with.
const CANARY: &str = "c4nARy";

const DIALECT: &str = r#"
dialect = 1
name = "parrot"
secret = ["pin"]
[connect]
path = "/live/{ticket}"
fetch = ["ticket"]
headers = { "X-Env" = "{secret.by_env}" }
[fetch.ticket]
post = "/ticket"
headers = { "X-Key" = "{secret.by_file}" }
json = '{"command":{secret.by_command}}'
take = { ticket = "/ticket" }
message = "/error"
[sign.mac]
hmac = "sha256"
key = "{secret.sign_key}"
text = "{now_s}"
[send]
auth = '{"type":"auth","token":{token},"mac":{sign.mac},"pin":{connect.pin}}'
subscribe = '{"type":"subscribe","channel":{channel},"pin":{params/pin?},"id":{id}}'
publish = '{"type":"publish","channel":{channel},"pin":{params/pin?},"id":{id}}'
[[on]]
match = { "/type" = "ready" }
is = "ready"
[[on]]
match = { "/type" = "denied" }
is = "denied"
message = "/message"
[[on]]
match = { "/type" = "error" }
is = "error"
req = "/id"
code = "/code"
message = "/message"
then = "reject"
"#;

#[test]
fn a_program_that_is_asked_for_the_token_does_not_outlive_the_relay() {
    let mut place = Place::at("ws://127.0.0.1:9/");
    let fifo = place.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!("exec 9>{}; echo begun >&9; sleep 1000 & wait", fifo.display());
    place.set("upstream.token_command", &json!(["/bin/sh", "-c", script]).to_string());
    // Told when it began, and when neither the shell nor what it began has the pipe open.
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(fs::File::open(fifo).unwrap()).lines();
        while told.send(lines.next().and_then(Result::ok)).is_ok() {}
    });
    let relay = place.start();
    assert_eq!(until("the program begins", || hears.try_recv().ok()).as_deref(), Some("begun"));
    relay.stop();
    assert_eq!(until("the program and its child end", || hears.try_recv().ok()), None);
}

/// What is told when a canary is met.
fn canary(name: &str) -> String {
    format!("{CANARY}-{name}/\"1\" +{}", name.len())
}

/// Where a canary shows, plain or inside base64; in JSON, URLs and HTML its beginning looks the same.
fn sightings(text: &str) -> Vec<String> {
    let mut needles = vec![CANARY.to_owned()];
    for shift in 0..3 {
        let bytes = [&[0; 2][..shift], CANARY.as_bytes()].concat();
        let (begin, end) = ([0, 2, 3][shift], bytes.len() * 8 / 6);
        needles.extend([STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|a| a.encode(&bytes)[begin..end].to_owned()));
    }
    let lower = text.to_lowercase();
    let mut found: Vec<usize> =
        needles.iter().flat_map(|needle| text.match_indices(needle).map(|(at, _)| at)).collect();
    found.extend(lower.match_indices(&CANARY.to_lowercase()).map(|(at, _)| at));
    let around = |at: usize| {
        let (from, to) = (at.saturating_sub(200), (at + 60).min(text.len()));
        text[text.floor_char_boundary(from)..text.ceil_char_boundary(to)].to_owned()
    };
    found.into_iter().take(5).map(around).collect()
}

fn hold_clean(what: &str, text: &str) {
    let found = sightings(text);
    assert!(found.is_empty(), "{what} shows a secret:\n{}", found.join("\n---\n"));
}

/// The forms in which the service repeats a secret.
fn forms(secret: &str) -> [String; 5] {
    [
        secret.to_owned(),
        json!(json!(secret).to_string()).to_string(),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        STANDARD.encode(format!("user:{secret}")),
        // Cut where the service's words are: some of the secret's bytes are beyond.
        format!("{}{secret}", "x".repeat(170)),
    ]
}

/// A relay with a canary in each place, and the canaries that its service gets to know.
fn place(parrot: &Parrot) -> (Place, BTreeMap<&'static str, String>) {
    let mut place = Place::at(&format!("ws://{}/?api={CANARY}-query-1", parrot.address));
    let names = ["token", "by_file", "by_env", "by_command", "sign_key", "header", "pin", "channel_pin"];
    let mut all: BTreeMap<&str, String> = names.into_iter().map(|name| (name, canary(name))).collect();
    for name in ["header", "by_env", "by_file"] {
        all.insert(name, all[name].replace(['"', ' '], ""));
    }
    for name in ["token", "by_file", "sign_key", "by_command"] {
        fs::write(place.path(name), format!("{}\n", all[name])).unwrap();
    }
    fs::write(place.path("parrot.toml"), DIALECT).unwrap();
    let path = |place: &Place, name: &str| format!("{:?}", place.path(name));
    let file = |place: &Place, name: &str| format!("{{ file = {} }}", path(place, name));
    let hook = format!("http://{}/hook/{CANARY}-hook", parrot.address);
    for (key, value) in [
        ("upstream.dialect", path(&place, "parrot.toml")),
        ("upstream.token_file", path(&place, "token")),
        ("upstream.headers", format!("{{ X-Own = {:?} }}", all["header"])),
        ("upstream.params", format!("{{ pin = {} }}", json!(all["pin"]))),
        ("secrets.by_file", file(&place, "by_file")),
        ("secrets.sign_key", file(&place, "sign_key")),
        ("secrets.by_env", "{ env = \"PARROT_KEY\" }".to_owned()),
        ("secrets.by_command", format!("{{ command = [\"/bin/cat\", {}] }}", path(&place, "by_command"))),
        ("channels", format!("[{{ match = \"*\", params = {{ pin = {} }} }}]", json!(all["channel_pin"]))),
        ("access.mode", "\"tokens\"".to_owned()),
        ("access.allow_query_token", "true".to_owned()),
        (
            "access.tokens",
            format!("[{{ name = \"app\", token = \"{CANARY}-local\", read = [\"*\"], write = [\"*\"] }}]"),
        ),
        (
            "alerts",
            format!(
                "[{{ name = \"a\", when = \"upstream_down > 1ms\", to = [\"log\", {{ webhook = {hook:?}, headers = {{ X-Hook = \"{CANARY}-hook-header\" }} }}] }}]"
            ),
        ),
        ("log.level", "\"trace\"".to_owned()),
        ("log.format", "\"json\"".to_owned()),
        ("outbox.max_attempts", "1".to_owned()),
        ("interest.refused_for", "\"1ms\"".to_owned()),
    ] {
        place.set(key, &value);
    }
    (place, all)
}

/// What the admin listener says, all of it.
fn admin(relay: &Relay) -> String {
    let ways = ["status", "subscriptions", "sessions", "outbox", "dead-letters", "config"];
    let mut all: String = ways.iter().map(|way| relay.tell(&format!("GET /v1/{way}"), &[], "").body + "\n").collect();
    all.push_str(&relay.tell("GET /metrics", &[], "").body);
    all
}

/// Connects until a connection ended with these words.
fn refused(relay: &Relay, parrot: &Parrot, way: Way, marker: &str, words: &str) -> String {
    parrot.repeat(way, &format!("{marker} {words}"));
    relay.tell("POST /v1/upstream/reconnect", &[], "");
    until(&format!("an end by {way:?} that says {marker}"), || {
        let status = relay.tell("GET /v1/status", &[], "").body;
        status.contains(marker).then_some(status)
    })
}

/// A channel and a message that the service refuses in these words; what clients are told.
fn rejected(relay: &Relay, parrot: &Parrot, marker: &str, words: &str) -> String {
    parrot.repeat(Way::Live, &format!("{marker} {words}"));
    relay.tell("POST /v1/upstream/reconnect", &[], "");
    relay.wait_state("live");
    let mut client = relay.client_as(&format!("{CANARY}-local"));
    let mut told = String::new();
    client.send(&json!({"op": "subscribe", "ref": 1, "channels": [marker, "$status", "$unmatched"]}).to_string());
    loop {
        let frame = client.next();
        told.push_str(&format!("{frame}\n"));
        if frame["kind"] == "error" && frame["channel"] == marker {
            break;
        }
    }
    let body = json!({"channel": marker, "data": 1}).to_string();
    let headers = [&*format!("Authorization: Bearer {CANARY}-local"), "Prefer: wait=30"];
    let answer = relay.ask("POST /v1/publish", &headers, &body);
    assert!(answer.body.contains(marker), "the refusal's words are told: {}", answer.body);
    told + &answer.head + &answer.body
}

/// Every file below a folder, as text.
fn files(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => text.push_str(&files(&entry.path())),
            false => text.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default())),
        }
    }
    text
}

/// A command's exit and both outputs, with the environment that the configuration names.
fn command(place: &Place, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env("PARROT_KEY", canary("by_env").replace(['"', ' '], "")).current_dir(place.path(""));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

#[test]
fn no_secret_is_shown_whatever_the_service_repeats() {
    let parrot = Parrot::new();
    let (place, canaries) = place(&parrot);
    let relay = place.start_with(&[("PARROT_KEY", &canaries["by_env"])]);
    let mut repeated: Vec<String> = canaries.values().cloned().collect();
    // What the calls supply, and what stands in the address.
    repeated.extend([format!("{CANARY}-fetched/ticket~1"), format!("{CANARY}-query-1")]);
    // Once live, so that all of it is known as it is in life.
    rejected(&relay, &parrot, "first", "nothing");
    let mut number = 0;
    for secret in &repeated {
        for words in forms(secret) {
            for way in REFUSALS {
                number += 1;
                let status = refused(&relay, &parrot, way, &format!("m{number}m"), &words);
                hold_clean(&format!("the status after {way:?} with {words}"), &status);
            }
            number += 1;
            let told = rejected(&relay, &parrot, &format!("m{number}m"), &words);
            hold_clean(&format!("what clients are told of {words}"), &told);
        }
        hold_clean("the admin listener", &admin(&relay));
    }
    // Local tokens: right ones, wrong ones, in the query.
    let wrong = relay.ask(&format!("GET /v1/snapshot?channel=a&token={CANARY}-wrong"), &[], "");
    assert_eq!(wrong.status, 401);
    hold_clean("a refusal of a local token", &(wrong.head + &wrong.body));
    assert!(Client::try_connect(relay.feed(), &format!("/v1/ws?token={CANARY}-local"), &[]).is_ok());
    hold_clean("the admin listener", &admin(&relay));
    relay.stop();

    let heard = parrot.heard();
    for name in ["token", "by_command", "pin", "channel_pin"] {
        assert!(heard.contains(json!(canaries[name]).to_string().trim_matches('"')), "{name} went upstream");
    }
    let published = heard.lines().filter(|line| line.contains("publish"));
    let pin = json!(canaries["channel_pin"]).to_string();
    assert!(
        published.clone().count() > 0 && published.clone().all(|line| line.contains(&pin)),
        "it is no part of a message"
    );
    for known in [&canaries["header"], &canaries["by_env"], &canaries["by_file"]] {
        assert!(heard.contains(known.as_str()), "{known} went upstream");
    }
    assert!(heard.contains(&format!("{CANARY}-hook-header")), "the webhook was called");
    assert!(heard.contains(&format!("api={CANARY}-query-1")) && heard.contains(&format!("live/{CANARY}-fetched")));
    let log = fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains("m3m") && log.contains("***"), "the log tells what was said");
    hold_clean("the log", &log);
    hold_clean("the state directory", &files(&place.path("state")));
}

#[test]
fn commands_show_no_secret_whatever_is_wrong() {
    let parrot = Parrot::new();
    let (right, _) = place(&parrot);
    for arguments in [&["check"][..], &["config", "show"]] {
        let (exit, said) = command(&right, &[arguments, &["-c", "tidegate.toml"]].concat());
        assert_eq!(exit, Some(0), "{said}");
        hold_clean(&format!("{arguments:?}"), &said);
    }
    for (key, value) in [
        ("upstream.token", format!("[\"{CANARY}-1\"]")),
        ("upstream.token", format!("\"{CANARY}-1\"")),
        ("upstream.tokenn", format!("\"{CANARY}-1\"")),
        ("upstream.headers", format!("\"{CANARY}-1\"")),
        ("upstream.headers", format!("{{ \"X Y\" = \"{CANARY}-1\" }}")),
        ("upstream.headers", format!("{{ XY = \"{CANARY}-1\\n\" }}")),
        ("upstream.proxy", format!("\"ftp://u:{CANARY}-1@proxy\"")),
        ("upstream.proxy", format!("\"{CANARY}-1\"")),
        ("upstream.url", format!("\"wss://u:{CANARY}-1@host/?{CANARY}-2\"")),
        (
            "upstream.token_fetch",
            format!("{{ post = \"{CANARY}-1\", headers = {{ A = \"{CANARY}-1 {{x}}\" }}, take = \"t\" }}"),
        ),
        ("secrets.by_file", format!("\"{CANARY}-1\"")),
        ("secrets.by_file", format!("{{ value = \"{CANARY}-1\" }}")),
        ("access.tokens", format!("[{{ name = \"x\", token = [\"{CANARY}-1\"] }}]")),
        ("access.tokens", format!("[{{ token = \"{CANARY}-1\", reed = [\"*\"] }}]")),
        ("alerts", format!("[{{ name = \"a\", when = \"x\", to = [{{ webhook = \"{CANARY}-1\" }}] }}]")),
        ("upstream.params", format!("\"{CANARY}-1")),
        ("upstream.token", format!("'{CANARY}-1'' x")),
    ] {
        let (mut wrong, _) = place(&parrot);
        wrong.set(key, &value);
        let (_, said) = command(&wrong, &["check", "-c", "tidegate.toml"]);
        hold_clean(&format!("check with {key} = {value}"), &said);
        let (_, said) = command(&wrong, &["run", "-c", "tidegate.toml", "--set", "outbox.path=/proc/no"]);
        hold_clean(&format!("run with {key} = {value}"), &said);
        let set = format!("{key}={}", value.replace('"', ""));
        let (_, said) = command(&right, &["check", "-c", "tidegate.toml", "--set", &set]);
        hold_clean(&format!("check with --set {set}"), &said);
    }
}

#[test]
fn a_recording_holds_no_secret() {
    let parrot = Parrot::new();
    let (place, canaries) = place(&parrot);
    for (number, secret) in canaries.values().enumerate() {
        let words = forms(secret).join(" ");
        parrot.repeat(Way::Live, &words);
        let transcript = format!("{number}.jsonl");
        let arguments = ["record", &transcript, "-c", "tidegate.toml", "--channel", "a", "--max-frames", "6"];
        let (_, said) = command(&place, &[&arguments[..], &["--for", "30s"]].concat());
        hold_clean("record", &said);
        let recorded = fs::read_to_string(place.path(&transcript)).unwrap();
        assert!(recorded.contains("\\\"auth\\\"") && recorded.contains("***"), "{recorded}");
        hold_clean("a transcript", &recorded);
    }
}

#[test]
fn credentials_that_cannot_be_had_or_used_are_not_shown() {
    let parrot = Parrot::new();
    let failing = format!("echo {CANARY}-0123456789; echo 'bad: {CANARY}-0123456789, {CANARY}-9876543210' >&2; exit 3");
    let (mut place, _) = place(&parrot);
    fs::write(place.path("key.pem"), format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"))
        .unwrap();
    fs::write(place.path("cert.pem"), format!("{CANARY}\n")).unwrap();
    let proxy = format!("\"http://me:{CANARY}-proxy@{}\"", parrot.address);
    let pem = |place: &Place, name: &str| format!("{:?}", place.path(name));
    let url = format!("\"wss://{}/?api={CANARY}-query-1\"", parrot.address);
    let cases: [(&str, Vec<(&str, String)>); 3] = [
        (
            "exit status: 3",
            vec![("secrets.by_command", format!("{{ command = [\"/bin/sh\", \"-c\", {} ] }}", json!(failing)))],
        ),
        (
            "through the proxy",
            vec![("secrets.by_command", "{ command = [\"/bin/echo\", \"x\"] }".to_owned()), ("upstream.proxy", proxy)],
        ),
        (
            "client_",
            vec![
                ("upstream.proxy", "\"off\"".to_owned()),
                ("upstream.url", url),
                ("upstream.client_key_file", pem(&place, "key.pem")),
                ("upstream.client_cert_file", pem(&place, "cert.pem")),
            ],
        ),
    ];
    for (expected, keys) in cases {
        for (key, value) in keys {
            place.set(key, &value);
        }
        let relay = place.start_with(&[("PARROT_KEY", "env")]);
        let status = until(expected, || {
            Some(relay.tell("GET /v1/status", &[], "").body).filter(|status| status.contains(expected))
        });
        hold_clean(&format!("the status with {expected}"), &status);
        relay.stop();
        hold_clean(&format!("the log with {expected}"), &fs::read_to_string(place.path("log")).unwrap());
    }
}
