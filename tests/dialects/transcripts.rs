//! Every recorded conversation, held again by its dialect, against what a person has checked it to mean.
//!
//! `expected/NAME.txt` has one line for each step, as `tidegate dialect test` prints it: class and extraction of every
//! frame that came in; for every frame that was sent, the template that made an equal one (ids included). Whatever a
//! dialect does not make or understand needs its reason there, after `##`. Lines that begin with `##` are remarks.

use std::path::PathBuf;

use tidegate::dialect::Dialect;
use tidegate::dialect::rehearsal::transcript::{Happening, Step, Transcript};
use tidegate::dialect::rehearsal::{Rehearsal, Verdict};

/// Dialect and transcript.
const CONVERSATIONS: &[(&str, &str)] = &[
    ("plain", "doc-plain"),
    ("binance", "doc-binance"),
    ("kraken-v2", "doc-kraken-v2"),
    ("coinbase-exchange", "doc-coinbase-exchange"),
    ("pusher", "pusher"),
    ("phoenix", "phoenix"),
    ("graphql-transport-ws", "graphql-transport-ws"),
    ("eth-jsonrpc", "eth-jsonrpc"),
    ("homeassistant", "homeassistant"),
    ("centrifugo", "centrifugo"),
    ("jupyter", "jupyter"),
    ("actioncable", "actioncable"),
    ("cdp", "cdp"),
    ("bitfinex-v2", "doc-bitfinex-v2"),
    ("discord", "doc-discord"),
    ("nchan", "nchan"),
    ("nchan", "nchan-sse"),
    ("nchan", "nchan-long-poll"),
    ("signalr", "doc-signalr"),
    ("mercure", "doc-mercure"),
    ("slack", "doc-slack"),
    ("binance-user-data", "doc-binance-user-data"),
    ("kraken-v2-private", "doc-kraken-v2-private"),
    ("coinbase-advanced", "doc-coinbase-advanced"),
    ("socketio", "socketio"),
];

fn read(folder: &str, file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/dialects").join(folder).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn transcript(name: &str) -> Transcript {
    Transcript::parse(&read("transcripts", &format!("{name}.jsonl"))).unwrap_or_else(|error| panic!("{name}:{error}"))
}

fn rehearsal(dialect: &str, name: &str) -> Rehearsal {
    let text = Dialect::builtin_text(dialect).unwrap_or_else(|| panic!("no built-in dialect {dialect}"));
    // The recorded service speaks in a namespace of its own.
    let text = text.replace("namespace = \"/\"", "namespace = \"/market\"");
    // The recorded connections were configured with these channels, which no request of theirs tells.
    let text = match name {
        "doc-mercure" => text.replace("{connect.channel}", "https://shop.example/news"),
        "nchan" => text.replace("{connect.channel}", "ticker"),
        _ => text,
    };
    Rehearsal::new(dialect, &text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// A line of an expectation and the reason it gives.
fn expected(name: &str) -> Vec<(String, Option<String>)> {
    let text = read("expected", &format!("{name}.txt"));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("##"));
    let split = |line: &str| match line.split_once("  ## ") {
        Some((line, reason)) => (line.to_owned(), Some(reason.to_owned())),
        None => (line.to_owned(), None),
    };
    lines.map(split).collect()
}

/// What differs between the rehearsal and the expectation.
fn differences(dialect: &str, name: &str) -> Vec<String> {
    let lines = rehearsal(dialect, name).play(&transcript(name));
    let expected = expected(name);
    let mut differences = Vec::new();
    for at in 0..lines.len().max(expected.len()) {
        let (line, wanted) = (lines.get(at), expected.get(at));
        let text = line.map(ToString::to_string);
        if text.as_ref() != wanted.map(|(text, _)| text) {
            differences.push(format!(
                "{name}, line {}:\n  expected {}\n  is       {}",
                at + 1,
                wanted.map_or("nothing", |(text, _)| text),
                text.as_deref().unwrap_or("nothing")
            ));
        }
        let odd = line.is_some_and(|line| line.verdict != Verdict::Understood);
        if odd != wanted.is_some_and(|(_, reason)| reason.is_some()) {
            let lacks = if odd { "a reason is missing" } else { "a reason for nothing" };
            differences.push(format!("{name}, line {}: {lacks}: {}", at + 1, text.unwrap_or_default()));
        }
    }
    differences
}

#[test]
fn every_frame_means_what_a_person_has_checked() {
    let differences: Vec<String> =
        CONVERSATIONS.iter().flat_map(|(dialect, name)| differences(dialect, name)).collect();
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// Nothing of the recordings is left out: each text or binary frame on a WebSocket has its line, and so has each request,
/// answer and chunk of a connection over HTTP.
#[test]
fn every_frame_of_the_recordings_is_told() {
    for (dialect, name) in CONVERSATIONS {
        let transcript = transcript(name);
        let by_http: Vec<&str> = transcript
            .steps
            .iter()
            .filter(|step| matches!(step.happening, Happening::Connecting(..)))
            .map(|step| &*step.connection)
            .collect();
        let frames = |step: &&Step| match step.happening {
            Happening::Came(_) | Happening::Sent(_) | Happening::Connecting(..) => true,
            Happening::Asked(_) | Happening::Answered(_) | Happening::Chunk(_) => by_http.contains(&&*step.connection),
            _ => false,
        };
        let recorded = transcript.steps.iter().filter(frames).count();
        let ended = ["close ", "cut", "rejected "];
        let lines = rehearsal(dialect, name).play(&transcript);
        let told = lines
            .iter()
            .filter(|line| {
                ["in", "out"].contains(&line.direction) && !ended.iter().any(|word| line.text.starts_with(word))
            })
            .count();
        assert_eq!(told, recorded, "{name}");
    }
}

#[test]
fn every_built_in_dialect_has_a_conversation() {
    let mut tested: Vec<_> = CONVERSATIONS.iter().map(|(dialect, _)| *dialect).collect();
    tested.sort_unstable();
    tested.dedup();
    assert_eq!(Dialect::builtins().collect::<Vec<_>>(), tested);
}
