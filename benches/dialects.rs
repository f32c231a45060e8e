//! Frames decoded per second on one core, for every built-in dialect: from a received frame to its events, that is framing,
//! scan, conditions and extraction in a conversation, on the event frames of the dialect's transcript.
//!
//! `cargo bench --bench dialects [-- FILTER]`. Each figure is the median of many short batches, each of them over all event
//! frames of the transcript in turn.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::dialect::rehearsal::transcript::{Happening, Transcript};
use tidegate::dialect::{Carried, ChannelId, ChannelSpec, Conversation, Dialect, Heard, WireFrame};
use tidegate::relay::time::Time;

const BATCH: Duration = Duration::from_micros(500);
const BATCHES: usize = 101;
/// Subscriptions made before, so that events which name one by its number find it.
const SUBSCRIPTIONS: u32 = 60;
/// Subscriptions whose id is made of their names and params, as in the transcripts.
const NAMED: [(&str, Option<&str>); 3] =
    [("RoomChannel", Some(r#"{"room":"1"}"#)), ("RoomChannel", Some(r#"{"room":"2"}"#)), ("NewsChannel", None)];

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("{:<24} {:>8} {:>8} {:>8} {:>12}", "dialect", "frames", "bytes", "ns", "frames/s");
    for name in Dialect::builtins().filter(|name| name.contains(&filter)) {
        let mut frames = prepared(name);
        assert!(!frames.is_empty(), "{name}: its transcript has no event");
        let bytes = frames.iter().map(|(_, frame)| length(frame)).sum::<usize>() / frames.len();
        let nanos = measure(&mut frames);
        println!("{name:<24} {:>8} {bytes:>8} {nanos:>8.0} {:>12.0}", frames.len(), 1e9 / nanos);
    }
}

fn length(frame: &WireFrame) -> usize {
    match frame {
        WireFrame::Text(bytes) | WireFrame::Binary(bytes) => bytes.len(),
        _ => 0,
    }
}

/// The recorded conversation in this dialect: `NAME.jsonl`, or `doc-NAME.jsonl` if it was written from a page.
fn transcript(name: &str) -> Transcript {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialects/transcripts");
    let read = |file: String| std::fs::read_to_string(format!("{folder}/{file}.jsonl"));
    let text = read(name.to_owned()).or_else(|_| read(format!("doc-{name}")));
    let text = text.unwrap_or_else(|error| panic!("the transcript of {name}: {error}"));
    Transcript::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The frames of the transcript that are events, each with the conversation as it stood before.
fn prepared(name: &str) -> Vec<(Conversation, WireFrame)> {
    let text = Dialect::builtin_text(name).unwrap_or_else(|| panic!("no dialect {name}"));
    // The transcript of Socket.IO is of this namespace.
    let text = text.replace("namespace = \"/\"", "namespace = \"/market\"");
    // The recorded connection was configured with this channel.
    let text = text.replace("{connect.channel}", "ticker");
    let dialect = Dialect::parse(name, &text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let mut conversation = Conversation::new(Arc::new(dialect), Carried::new(0), serde_json::Map::new(), None);
    let now = Time::default();
    conversation.opened(now, &mut |_| {});
    let numbered: Vec<String> = (0..SUBSCRIPTIONS).map(|at| format!("a:b.{at}")).collect();
    let query = Some(r#"{"query":"subscription { ticks }"}"#);
    let channels = NAMED.into_iter().chain(numbered.iter().map(|name| (name.as_str(), query)));
    for (id, (name, params)) in (0..).zip(channels) {
        // A dialect that takes no such name, or wants params, has events that need no subscription.
        let _ = conversation.subscribe(now, &[ChannelSpec { id: ChannelId(id), name, params }], false);
    }
    let mut frames = Vec::new();
    for step in transcript(name).steps {
        let Happening::Came(frame) = step.happening else { continue };
        let (mut event, before) = (false, conversation.clone());
        conversation.receive(now, &frame, &mut |heard| event |= matches!(heard, Heard::Event(_)));
        if event {
            frames.push((before, frame));
        }
    }
    frames
}

/// Nanoseconds a frame.
fn measure(frames: &mut [(Conversation, WireFrame)]) -> f64 {
    let count = frames.len();
    let mut round = || {
        for (conversation, frame) in frames.iter_mut() {
            conversation.receive(Time::default(), black_box(frame), &mut |heard| {
                black_box(heard);
            });
        }
    };
    let mut rounds = 1;
    while time(rounds, &mut round) < BATCH && rounds < 1 << 24 {
        rounds *= 2;
    }
    let mut batches: Vec<Duration> = (0..BATCHES).map(|_| time(rounds, &mut round)).collect();
    batches.sort();
    batches[BATCHES / 2].as_nanos() as f64 / f64::from(rounds) / count as f64
}

fn time(rounds: u32, mut round: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        round();
    }
    start.elapsed()
}
