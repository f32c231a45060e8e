//! Bytes on disk while messages pass through a short queue: the most, and what is left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::children::disk_bytes;
use crate::relay::{Commits, Extras, Place, Relay, fill};
use crate::upstream::Upstream;

/// Messages that wait at most.
const WAITING: u64 = 10_000;
/// Outcomes that are kept.
const OUTCOMES: u64 = 100_000;
/// Messages of the requests that may be out.
const OUT: u64 = 2_000;
const LOOK: Duration = Duration::from_millis(50);

/// So many messages pass.
pub fn run(count: u64) {
    let upstream = Upstream::open();
    let mut place = Place::new(&upstream.url());
    // Held by the relay, too: beyond it a publish is refused, and the run fails.
    place.set("outbox.keep_outcomes_max", &OUTCOMES.to_string()).set("outbox.window", "1024");
    place.set("outbox.in_memory", &(2 * WAITING).to_string()).set("log.level", "\"info\"");
    let relay = place.start();
    relay.wait_live();
    println!("{count} messages, {WAITING} waiting and {OUTCOMES} outcomes at most");
    let (asked, over, watch) = (AtomicU64::new(0), AtomicBool::new(false), Watch::default());
    let began = Instant::now();
    let (most, deepest) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch.run(count, &place, &relay, &upstream, &over));
        fill(&relay, 0, count, Extras::None, &|| {
            let ours = asked.fetch_add(OUT / 2, Relaxed);
            while ours + OUT / 2 > upstream.messages() + WAITING {
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        relay.wait_settled();
        over.store(true, Relaxed);
        watch.join().unwrap()
    });
    let took = began.elapsed().as_secs_f64();
    // A rotation that is under way comes to its end.
    std::thread::sleep(Duration::from_secs(3));
    let bytes = disk_bytes(&place.path("state"));
    let rotated = place.log().matches("the store was written anew").count();
    println!("  {:.0} messages/s; at most {deepest} waited; written anew {rotated} times", count as f64 / took);
    println!("  most {most} bytes on disk, at the end {bytes}");
}

/// What is seen while messages pass.
#[derive(Default)]
struct Watch {
    most: u64,
    deepest: u64,
    passed: u64,
    commits: Commits,
}

impl Watch {
    /// Looks until it is over: the most bytes on disk, and the most that waited.
    fn run(mut self, count: u64, place: &Place, relay: &Relay, upstream: &Upstream, over: &AtomicBool) -> (u64, u64) {
        let part = (count / 10).max(1);
        let mut began = Instant::now();
        while !over.load(Relaxed) {
            let bytes = disk_bytes(&place.path("state"));
            self.most = self.most.max(bytes);
            self.deepest = self.deepest.max(relay.depth());
            if upstream.messages() / part > self.passed / part {
                self.tell(upstream.messages(), began.elapsed(), bytes, relay);
                began = Instant::now();
            }
            std::thread::sleep(LOOK);
        }
        (self.most, self.deepest)
    }

    /// A line about the last part.
    fn tell(&mut self, passed: u64, took: Duration, bytes: u64, relay: &Relay) {
        let commits = relay.commits();
        println!(
            "  {passed}: {:.0}/s, {} MiB of at most {} MiB; {}; {}",
            (passed - self.passed) as f64 / took.as_secs_f64(),
            bytes >> 20,
            self.most >> 20,
            commits.since(self.commits),
            relay.process.memory()
        );
        (self.passed, self.commits) = (passed, commits);
    }
}
