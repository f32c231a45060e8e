//! Durable accepts a second and how long each takes: raw disk, store, the whole program, peers; in turns.

use std::path::Path;
use std::time::Duration;

use crate::measure::{Figure, PUBLISHERS, RECORD, Table, raw, store};
use crate::peers::{self, Peer};
use crate::relay::{Clients, Place, Relay};
use crate::swarm::publish;
use crate::syncs;
use crate::upstream::Upstream;

/// All of them, in rounds.
pub fn run(time: Duration, rounds: u64) {
    peers::tell_missing();
    let mut table = Table::default();
    for round in 1..=rounds {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let peers = peers::start(directory);
        table.note("raw 4 KiB", raw(directory, 4096, 1, time));
        for publishers in PUBLISHERS {
            let mut note = |what: &str, figure: Figure| table.note(&format!("{what} {publishers}"), figure);
            note("raw batch of", raw(directory, RECORD, publishers, time));
            note("store, batches of", store::batches(directory, publishers, time));
            note("store, publishers", store::accepts(directory, publishers, time));
            note("Tidegate, no upstream,", relay(publishers, time, false));
            note("Tidegate, upstream acks,", relay(publishers, time, true));
            for peer in &peers {
                note(&format!("{},", peer.name), publish(&*peer.service, publishers, time));
            }
        }
        if round == rounds {
            table.print();
            who_syncs(directory, &peers);
        }
    }
}

/// A fresh relay for each figure.
fn relay(publishers: usize, time: Duration, live: bool) -> Figure {
    with_relay(live, |relay| publish(&Clients(relay.feed), publishers, time))
}

fn with_relay<T>(live: bool, work: impl FnOnce(&Relay) -> T) -> T {
    let upstream = if live { Upstream::open() } else { Upstream::shut() };
    let place = Place::new(&upstream.url());
    let relay = place.start();
    if live {
        relay.wait_live();
    }
    work(&relay)
}

/// Only the program, and how large its commits are.
pub fn whole(publishers: usize, time: Duration, live: bool) {
    let mut table = Table::default();
    let commits = with_relay(live, |relay| {
        table.note(&format!("Tidegate, {publishers} publishers"), publish(&Clients(relay.feed), publishers, time));
        relay.commits()
    });
    table.print();
    println!("{commits}");
}

fn who_syncs(directory: &Path, peers: &[Peer]) {
    println!("\nOne publisher under strace for a second: answers, and how often the program synced a file");
    let say = |name: &str, counted: Option<(u64, u64)>| match counted {
        Some((syncs, answers)) => println!("{name:<32} {answers:>6} answers {syncs:>6} syncs"),
        None => println!("SKIP {name}: no strace, or it may not look"),
    };
    let upstream = Upstream::shut();
    let place = Place::new(&upstream.url());
    let relay = place.start();
    say("Tidegate", syncs::count(directory, &relay.process, &Clients(relay.feed)));
    for peer in peers {
        say(&peer.name, syncs::count(directory, &peer.process, &*peer.service));
    }
}
