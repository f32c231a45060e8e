//! A start with a long queue: time until it serves, and its memory; after a kill and after an orderly stop.

use std::time::{Duration, Instant};

use crate::children::disk_bytes;
use crate::relay::{Clients, Extras, Place, Relay, fill};
use crate::swarm::Service;
use crate::upstream::Upstream;

/// With so many messages waiting, and ended; without and with keys and a time to live.
pub fn run(count: u64) {
    for ended in [false, true] {
        for extras in [Extras::None, Extras::All] {
            one(count, ended, extras);
        }
    }
}

fn one(count: u64, ended: bool, extras: Extras) {
    let state = if ended { "ended" } else { "waiting" };
    let with = if extras == Extras::All { "both keys and ttl" } else { "no keys" };
    println!("\n{count} {state}, {with}");
    let upstream = if ended { Upstream::open() } else { Upstream::shut() };
    let place = Place::new(&upstream.url());
    let relay = place.start();
    println!("  empty: ready {:.0?}, {}", relay.ready, relay.process.memory());
    let began = Instant::now();
    fill(&relay, 0, count, extras, &|| {});
    let accepted = count as f64 / began.elapsed().as_secs_f64();
    if ended {
        relay.wait_settled();
    }
    let took = began.elapsed();
    println!("  filled at {accepted:.0} accepts/s, {took:.0?} in all: {}", relay.process.memory());
    println!("  {} MiB on disk", disk_bytes(&place.path("state")) >> 20);
    upstream.set_open(false);
    relay.kill();
    let relay = start(&place, "killed");
    relay.stop();
    start(&place, "stopped").kill();
}

/// Starts it and tells how that went.
fn start(place: &Place, after: &str) -> Relay {
    let began = Instant::now();
    let relay = place.start();
    let memory = relay.process.memory();
    accept_one(&relay);
    let accepted = began.elapsed();
    println!("  after it was {after}: ready {:.2?}, first accept {accepted:.2?}: {memory}", relay.ready);
    std::thread::sleep(Duration::from_secs(3));
    println!("    3 s later: {}", relay.process.memory());
    relay
}

/// A client comes and has one message accepted.
fn accept_one(relay: &Relay) {
    use std::io::{Read, Write};
    let clients = Clients(relay.feed);
    let mut stream = clients.connect(0);
    stream.write_all(&clients.message(0)).unwrap();
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    while clients.hear(&mut heard, &mut Vec::new()) == 0 {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the relay hung up");
        heard.extend_from_slice(&buffer[..count]);
    }
}
