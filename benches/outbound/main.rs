//! The way out through the real program: accepts beside the raw disk and peers, start with a long queue, drain, disk.
//!
//! `cargo bench --bench outbound [-- WHAT]`, on the disk of the system's directory for temporary files (`TMPDIR`). WHAT:
//!
//! - `accepts [SECONDS [ROUNDS]]` (the default; 2 s, 3 rounds: 4 minutes): durable accepts a second with 1, 16, 64 and 256
//!   publishers: raw disk, store, the whole program over WebSocket without and with a service that acknowledges, NATS
//!   JetStream, Redis, mosquitto; and who syncs before it answers.
//! - `whole PUBLISHERS SECONDS [live]`: only the program, for a profiler.
//! - `queue [COUNT]` (1,000,000: 4 minutes): time and memory of a start with so many messages waiting, and ended.
//! - `drain [SECONDS]` (5: half a minute): how fast what waits leaves after an outage, against the configured rate.
//! - `disk [COUNT]` (1,000,000: 2 minutes): bytes on disk while so many messages pass through a queue of 10,000.
//!
//! `TIDEGATE` names another program than the one that cargo built. Every process that is started ends with this one, also
//! if this one is killed. Peers that are not installed are skipped, in so many words.

mod accepts;
mod children;
mod disk;
mod drain;
#[path = "../measure/mod.rs"]
mod measure;
mod peers;
mod queue;
mod relay;
mod swarm;
mod syncs;
mod upstream;

use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |at: usize, default: u64| words.get(at).map_or(default, |word| word.parse().expect("a number"));
    let seconds = |at: usize, default: u64| Duration::from_secs(number(at, default));
    match words.first() {
        None | Some(&"accepts") => accepts::run(seconds(1, 2), number(2, 3)),
        Some(&"whole") => accepts::whole(number(1, 64) as usize, seconds(2, 10), words.get(3) == Some(&"live")),
        Some(&"queue") => queue::run(number(1, 1_000_000)),
        Some(&"drain") => drain::run(seconds(1, 5)),
        Some(&"disk") => disk::run(number(1, 1_000_000)),
        Some(other) => panic!("{other}: write accepts, whole, queue, drain or disk"),
    }
}
