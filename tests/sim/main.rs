//! The whole relay against a modelled upstream, disk and clients, in virtual time, from one seed.
//!
//! A step is one random action (an upstream event, a lost connection, a slow disk, a crash, a client that joins, resumes,
//! publishes, hangs) or the passing of time. After every step the invariants of `invariants.rs` are checked against what the
//! outside saw; nothing looks inside the relay. A failing run prints its seed: `SIM_SEED=<n> cargo test --test sim one_seed`.

mod actions;
mod allowed;
mod books;
mod carriers;
mod clients;
mod disk;
mod invariants;
mod ladder;
mod provider;
mod rig;
mod silence;
mod thousand;
mod tokens;
mod upstream;
mod world;

use world::{Fault, World};

const STEPS: usize = 1_500;

fn run(seed: u64, fault: Option<Fault>) -> Result<World, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS {
        world.step();
        world.check().map_err(|violation| format!("seed {seed}, step {step}: {violation}\n{}", world.story()))?;
    }
    world.settle();
    world
        .check()
        .and_then(|()| world.check_settled())
        .map_err(|violation| format!("seed {seed}, at the end: {violation}"))?;
    Ok(world)
}

/// Forty seeds at least, and so many more until everything has happened that the simulation is about.
#[test]
fn every_seed_holds_every_invariant() {
    let mut seen = world::Coverage::default();
    for seed in 1..=160 {
        match run(seed, None) {
            Ok(world) => seen.add(&world.coverage),
            Err(violation) => panic!("{violation}"),
        }
        if seed >= 40 && seen.missing().is_empty() {
            return;
        }
    }
    // A simulation in which nothing goes wrong proves nothing.
    panic!("{:?} never happened in any run: the simulation is too tame", seen.missing());
}

/// 1,000 times another connection takes over while events flow. What numbers or ids tell apart is delivered once and whole:
/// the clients judge every number (S1, S2), and no gap is told that would excuse them.
#[test]
fn a_thousand_connections_take_over_and_nothing_is_lost_or_twice() {
    let mut world = World::unwatched(11);
    let mut told = 0;
    for _ in 0..2_000_000 {
        let taken = world.relay.stats().link.rotations;
        if taken >= 1_000 {
            break;
        }
        while world.upstream.connections.values().any(|connection| !connection.unanswered.is_empty()) {
            world.upstream_answers();
        }
        match world.rng.below(40) {
            0..=7 => world.upstream_event(),
            8 if taken == told => {
                world.rotate();
                told += 1;
            }
            9 => world.join(),
            10 => world.subscribe(),
            11 if world.sent.len() < 200 => world.publish(),
            _ => world.pass_at_most(400),
        }
        told = told.max(taken);
        world.turn();
        assert_eq!(world.violation, None, "{}", world.story());
    }
    world.check().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(world.relay.stats().link.rotations, 1_000);
    let gaps: Vec<_> =
        world.told.gaps.iter().filter(|((_, channel), _)| upstream::proof(channel) != upstream::Proof::None).collect();
    assert_eq!(gaps, [], "what is told apart needs no excuse");
    let sent: u64 = world
        .upstream
        .numbers
        .iter()
        .filter(|(channel, _)| upstream::proof(channel) != upstream::Proof::None)
        .map(|(_, sent)| *sent)
        .sum();
    assert!(sent > 3_000, "{sent}");
    assert!(world.told.gaps.keys().any(|(reason, _)| reason == "reconnect"), "elsewhere each cut is told");
}

#[test]
fn one_seed() {
    let seed = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    if let Err(violation) = run(seed, None) {
        panic!("{violation}");
    }
}

#[test]
fn the_same_seed_repeats_exactly() {
    let (a, b) = (run(5, None).unwrap(), run(5, None).unwrap());
    assert_eq!(a.journal, b.journal);
    assert!(a.journal.len() > 300, "{}", a.journal.len());
}

/// Some seed must catch each planted fault; which one says that the invariants look where they should.
fn caught(fault: Fault) -> String {
    caught_as(fault, "")
}

/// The same, in these words.
fn caught_as(fault: Fault, words: &str) -> String {
    let violation = |seed| run(seed, Some(fault)).err().filter(|violation| violation.contains(words));
    (1..=60).find_map(violation).unwrap_or_else(|| panic!("{fault:?} went unnoticed: {words}"))
}

#[test]
fn a_disk_that_lies_is_caught() {
    // A lie about an end only shows later (L2): one about what was accepted has to be seen, too.
    caught_as(Fault::CommitLies, "S8");
}

#[test]
fn an_entry_that_vanishes_on_the_way_is_caught() {
    let violation = caught(Fault::EntryVanishes);
    assert!(violation.contains("S2"), "{violation}");
}

#[test]
fn limits_that_a_restart_forgets_are_caught() {
    for what in ["connects within", "frames at once"] {
        let violation = caught_as(Fault::TallyForgotten, what);
        assert!(violation.contains("S18"), "{violation}");
    }
}

#[test]
fn swapped_acks_are_caught() {
    let violation = caught(Fault::AcksSwapped);
    assert!(violation.contains("S13"), "{violation}");
}
