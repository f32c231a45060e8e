//! The scanner against building a `serde_json::Value`, on the recorded messages of the transcripts and on two made ones.
//!
//! `cargo bench --bench scan [-- FILTER]`. Each figure is the median of many short batches; both sides of a line take
//! turns, so that a machine that slows down slows both. The scanner asks for the pointers of the built-in dialect's rules.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tidegate::dialect::pointer::Pointer;
use tidegate::dialect::scan::{PointerSet, Spans};
use tidegate::dialect::{Carried, Conversation, Dialect, Heard, WireFrame};
use tidegate::relay::time::Time;

const BATCH: Duration = Duration::from_micros(500);
const BATCHES: usize = 101;

/// Built-in dialects and the recorded conversations in them.
const TRANSCRIPTS: [(&str, &str); 10] = [
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
];

struct Case {
    name: String,
    dialect: &'static str,
    set: PointerSet,
    messages: Vec<Vec<u8>>,
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!(
        "{:<24} {:>8} {:>8} {:>10} {:>10} {:>7} {:>10}",
        "messages", "count", "bytes", "scan ns", "Value ns", "ratio", "event ns"
    );
    for case in cases().into_iter().filter(|case| case.name.contains(&filter)) {
        let (scan, tree) = measure(&case);
        let bytes = case.messages.iter().map(Vec::len).sum::<usize>() / case.messages.len();
        let (name, count, ratio) = (&case.name, case.messages.len(), tree / scan);
        print!("{name:<24} {count:>8} {bytes:>8} {scan:>10.0} {tree:>10.0} {ratio:>7.2}");
        match &case.messages[..] {
            [message] => println!(" {:>10.0}", measure_event(case.dialect, message)),
            _ => println!(" {:>10}", "-"),
        }
    }
}

fn cases() -> Vec<Case> {
    let made = [("trade", trade()), ("depth, 1.4 KB", depth(25)), ("depth, 32 KB", depth(640))];
    let made = made.into_iter().map(|(name, message)| (name, "binance", vec![message]));
    let recorded = TRANSCRIPTS.into_iter().map(|(dialect, name)| (dialect, dialect, inbound(name)));
    let case =
        |(name, dialect, messages): (&str, _, _)| Case { name: name.into(), dialect, set: set(dialect), messages };
    made.chain(recorded).map(case).collect()
}

/// All pointers of all rules of a built-in dialect.
fn set(dialect: &str) -> PointerSet {
    let text = Dialect::builtin_text(dialect).expect("the table holds names of built-in dialects");
    let file: toml::Table = text.parse().expect("built-in dialects are TOML");
    let mut set = PointerSet::new();
    collect(&file["on"], &mut set);
    set
}

fn collect(value: &toml::Value, set: &mut PointerSet) {
    let mut add = |text: &str| {
        if let Some(pointer) = Pointer::parse(text).ok().filter(|_| text.starts_with('/')) {
            set.add(&pointer);
        }
    };
    match value {
        toml::Value::String(text) if text.contains("{/") => {
            let holes = text.split('{').filter_map(|rest| rest.split('}').next());
            holes.for_each(add);
        }
        toml::Value::String(text) => add(text),
        toml::Value::Array(list) => list.iter().for_each(|value| collect(value, set)),
        toml::Value::Table(table) => {
            table.keys().for_each(|key| add(key));
            // What `each` looks for is in the elements, not in the message.
            table.iter().filter(|(key, _)| *key != "each").for_each(|(_, value)| collect(value, set));
        }
        _ => {}
    }
}

fn trade() -> Vec<u8> {
    let text = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1672515782136,"s":"BTCUSDT","t":48151,"p":"97000.10000000","q":"0.00150000","T":1672515782136,"m":true,"M":true}}"#;
    text.as_bytes().to_vec()
}

fn depth(levels: usize) -> Vec<u8> {
    let side = |price: f64, step: f64| {
        let level = |n: usize| {
            let n = n as f64;
            format!("[\"{:.2}\",\"{:.8}\"]", price + step * n, 0.0015 + n / 7.0)
        };
        (0..levels).map(level).collect::<Vec<_>>().join(",")
    };
    format!(
        r#"{{"stream":"btcusdt@depth","data":{{"e":"depthUpdate","E":1672515782136,"s":"BTCUSDT","U":157,"u":160,"b":[{}],"a":[{}]}}}}"#,
        side(97000.1, -0.13),
        side(97000.2, 0.17)
    )
    .into_bytes()
}

/// The inbound text frames of a transcript, one message each (a frame of several lines is several messages).
fn inbound(name: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/dialects/transcripts/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut messages = Vec::new();
    for line in text.lines() {
        let step: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error}"));
        if step["dir"] == "in" && step["op"] == "text" {
            let data = step["data"].as_str().unwrap_or_else(|| panic!("{path}: a text frame without text: {line}"));
            messages.extend(data.lines().map(|line| line.as_bytes().to_vec()));
        }
    }
    messages
}

/// Nanoseconds per message: of the scan, and of building a tree.
fn measure(case: &Case) -> (f64, f64) {
    let mut spans = Spans::new();
    let mut scan = || {
        for message in &case.messages {
            case.set.scan(black_box(message), &mut spans).expect("the messages are JSON");
            black_box(&spans);
        }
    };
    let tree = || {
        for message in &case.messages {
            black_box(serde_json::from_slice::<Value>(black_box(message)).expect("the messages are JSON"));
        }
    };
    let (scan_rounds, tree_rounds) = (rounds(&mut scan), rounds(tree));
    let (mut scans, mut trees) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        scans.push(time(scan_rounds, &mut scan));
        trees.push(time(tree_rounds, tree));
    }
    let per_message = |mut batches: Vec<Duration>, rounds: u32| {
        batches.sort();
        batches[BATCHES / 2].as_nanos() as f64 / f64::from(rounds) / case.messages.len() as f64
    };
    (per_message(scans, scan_rounds), per_message(trees, tree_rounds))
}

/// Nanoseconds from a received frame to its event: scan, conditions, extraction.
fn measure_event(dialect: &str, message: &[u8]) -> f64 {
    let dialect = Dialect::builtin(dialect).expect("the table holds names of built-in dialects");
    let mut conversation = Conversation::new(dialect, Carried::new(0), serde_json::Map::new(), None);
    conversation.opened(Time::default(), &mut |_| {});
    let frame = WireFrame::Text(Bytes::copy_from_slice(message));
    let mut events = 0;
    let mut receive = || {
        conversation.receive(Time::default(), black_box(&frame), &mut |heard| {
            events += u32::from(matches!(black_box(heard), Heard::Event(_)));
        });
    };
    let rounds = rounds(&mut receive);
    let mut batches: Vec<Duration> = (0..BATCHES).map(|_| time(rounds, &mut receive)).collect();
    assert!(events > rounds, "the made messages are events");
    batches.sort();
    batches[BATCHES / 2].as_nanos() as f64 / f64::from(rounds)
}

/// How many rounds fill a batch; warms up on the way.
fn rounds(mut round: impl FnMut()) -> u32 {
    let mut rounds = 1;
    while time(rounds, &mut round) < BATCH && rounds < 1 << 24 {
        rounds *= 2;
    }
    rounds
}

fn time(rounds: u32, mut round: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        round();
    }
    start.elapsed()
}
