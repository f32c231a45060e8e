//! Falls, climbs and failovers by chance and by force, and what the client was told of them.

use super::*;

const STEPS: usize = 3_000;

/// One step of a world in which anything may happen.
fn step(world: &mut World) {
    match world.rig.rng.below(1_000) {
        0..=249 => world.event(),
        250..=257 => world.forbid(),
        258..=261 => world.lose_endpoint(),
        262..=265 => {
            world.happens("all connections are lost");
            world.cut(|_| true);
        }
        266..=268 => {
            world.happens("the address changes");
            world.want("c");
        }
        269..=270 => {
            world.happens("the service forgets");
            world.kept_from = world.events.len();
        }
        _ => world.pass(Duration::from_millis(40)),
    }
    world.turn();
}

fn run(kind: Kind, seed: u64, fault: Option<Fault>) -> Result<World, String> {
    let mut world = World::new(kind, seed, fault);
    for at in 0..STEPS {
        step(&mut world);
        world.check().map_err(|violation| format!("{kind:?}, seed {seed}, step {at}: {violation}"))?;
    }
    world.settle().map_err(|violation| format!("{kind:?}, seed {seed}, at the end: {violation}"))?;
    Ok(world)
}

#[test]
fn whatever_serves_no_hole_goes_untold() {
    let mut happened: BTreeSet<&str> = BTreeSet::new();
    let (mut gaps, mut switches): (BTreeSet<String>, u64) = (BTreeSet::new(), 0);
    for kind in [Kind::Places, Kind::Numbers, Kind::Nothing] {
        for seed in 1..=8 {
            let world = run(kind, seed, None).unwrap_or_else(|violation| panic!("{violation}"));
            switches += world.switches();
            happened.extend(world.happened);
            gaps.extend(world.gaps.into_keys().map(|(reason, _)| reason));
        }
    }
    assert_eq!(happened.len(), 7, "{happened:?}");
    let wanted = ["reconnect", "transport_switch", "upstream_seq"];
    assert!(switches > 100 && wanted.iter().all(|reason| gaps.contains(*reason)), "{switches} {gaps:?}");
}

/// A world in which the first events were read.
fn begun(kind: Kind, seed: u64, fault: Option<Fault>) -> World {
    let mut world = World::new(kind, seed, fault);
    for _ in 0..200 {
        world.event();
        world.pass(Duration::from_millis(40));
    }
    assert!(world.read > 4, "{:?}", world.rig.journal);
    world
}

/// Switches by force until there were so many: the transport that serves is forbidden and cut, or a better one let through.
/// Between two of them the world goes on until both connections of a climb are one again.
fn force(world: &mut World, switches: u64, disturb: impl Fn(&mut World)) {
    for _ in 0..4_000_000_u64 {
        if world.switches() >= switches {
            break;
        }
        match world.rig.rng.below(1_000) {
            0..=99 => world.event(),
            100..=103 => world.forbid(),
            104 => disturb(world),
            _ => world.pass(Duration::from_millis(120)),
        }
        world.rig.journal.drain(..world.rig.journal.len().saturating_sub(100));
        world.check().unwrap_or_else(|violation| panic!("{violation}"));
    }
    assert!(world.switches() >= switches, "{}", world.switches());
    world.settle().unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_thousand_forced_switches_of_transport_lose_nothing_and_bring_nothing_twice() {
    let mut world = begun(Kind::Places, 3, None);
    force(&mut world, 1_000, |world| match world.rig.rng.below(2) {
        0 => world.lose_endpoint(),
        _ => world.cut(|_| true),
    });
    assert_eq!(world.gaps, BTreeMap::new(), "what is whole needs no excuse");
    let (switches, read) = (world.switches(), world.read);
    println!("{switches} forced switches of transport: {read} events read, 0 lost, 0 twice, 0 gaps");
}

#[test]
fn where_nothing_tells_events_apart_each_switch_is_one_gap_that_says_so() {
    const ROUNDS: u64 = 50;
    let mut world = begun(Kind::Nothing, 4, None);
    let before = world.switches();
    for _ in 0..ROUNDS {
        world.refused.insert(Transport::WebSocket);
        world.cut(|_| true);
        world.until_served_over(Transport::Sse);
        world.refused.clear();
        world.until_served_over(Transport::WebSocket);
    }
    assert_eq!(world.switches() - before, 2 * ROUNDS);
    for channel in &CHANNELS[..2] {
        let of =
            |reason: &str| world.gaps.get(&(reason.to_owned(), (*channel).to_owned())).copied().unwrap_or_default();
        assert_eq!((of("transport_switch"), of("reconnect")), (2 * ROUNDS, 0), "{:?}", world.gaps);
    }
}

#[test]
fn an_event_that_vanishes_is_caught() {
    let violation = (1..=8).find_map(|seed| run(Kind::Places, seed, Some(Fault::EventVanishes)).err());
    assert!(violation.is_some_and(|violation| violation.contains("nothing was told")));
}

#[test]
fn a_service_that_begins_too_late_is_told_as_a_gap() {
    let mut world = begun(Kind::Places, 5, Some(Fault::BegunLate));
    force(&mut world, 50, |_| {});
    assert!(world.gaps.keys().any(|(reason, _)| reason == "transport_switch"), "{:?}", world.gaps);
}
