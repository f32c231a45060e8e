//! How fast what waited leaves once upstream is back: against the configured rate, and without one.

use std::time::{Duration, Instant};

use crate::children::until;
use crate::relay::{Extras, Place, fill};
use crate::upstream::Upstream;

const RATES: [u64; 3] = [100, 1_000, 10_000];
/// Messages that wait where no rate holds them.
const UNLIMITED: u64 = 200_000;

/// Each rate for about so long.
pub fn run(time: Duration) {
    println!("{:<24} {:>9} {:>8} {:>12} {:>8}   most in any second", "", "messages", "took s", "messages/s", "ratio");
    for rate in RATES {
        for burst in [1, rate / 20] {
            one(&format!("rate {rate}/s, burst {burst}"), Some((rate, burst)), 64, rate * time.as_secs());
        }
    }
    for window in [64, 1_024] {
        one(&format!("no rate, window {window}"), None, window, UNLIMITED);
    }
}

fn one(name: &str, bucket: Option<(u64, u64)>, window: u64, count: u64) {
    let upstream = Upstream::shut();
    let mut place = Place::new(&upstream.url());
    if let Some((rate, burst)) = bucket {
        let plain = include_str!("../../config/dialects/plain.toml").replace("name = \"plain\"", "name = \"limited\"");
        let limits = format!("\n[limits]\nrate = \"{rate}/s\"\nburst = {burst}\n");
        std::fs::write(place.path("limited.toml"), plain + &limits).unwrap();
        let path = format!("{:?}", place.path("limited.toml"));
        place.set("upstream.dialect", &path);
    }
    place.set("outbox.window", &window.to_string());
    let relay = place.start();
    fill(&relay, 0, count, Extras::None, &|| {});
    upstream.set_open(true);
    until("the messages upstream", || (upstream.messages() == count).then_some(()));
    let settled = Instant::now();
    relay.wait_settled();
    let settled = settled.elapsed();
    let times = upstream.times();
    let (first, last) = (times[0].0, times[times.len() - 1].0);
    let took = (last - first).as_secs_f64();
    // What came in the first millisecond is what the bucket held.
    let measured = (count - times[0].1) as f64 / took;
    let ratio = bucket.map_or(String::new(), |(rate, _)| format!("{:.3}", measured / rate as f64));
    println!("{name:<24} {count:>9} {took:>8.2} {measured:>12.0} {ratio:>8}   {}", most(&times));
    if settled > Duration::from_secs(1) {
        println!("  settled {settled:.1?} after the last one came");
    }
}

/// The most messages in any second.
fn most(times: &[(Duration, u64)]) -> u64 {
    let (mut from, mut sum, mut most) = (0, 0, 0);
    for (at, count) in times {
        sum += count;
        while *at - times[from].0 >= Duration::from_secs(1) {
            sum -= times[from].1;
            from += 1;
        }
        most = most.max(sum);
    }
    most
}
