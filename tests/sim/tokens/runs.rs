//! Tokens by chance: what happens in which order, and what must hold at any time and in the end.

use super::*;

const STEPS: usize = 2_500;
/// What happens in the runs together.
const WANTED: [&str; 29] = [
    "a subscribe is answered late",
    "subscribed already",
    "a channel is refused",
    "a token ran out: a frame says so",
    "a token ran out: closed",
    "a token ran out: closed later",
    "accepted after a refusal",
    "all is well for long",
    "another connection took over",
    "connect refused",
    "connect refused for its token",
    "denied",
    "gap reconnect",
    "gap upstream_seq",
    "people are told: Expired",
    "people are told: Failed",
    "people are told: Good",
    "renewal denied",
    "renewed in-band",
    "slow backoff",
    "subscribe refused",
    "subscribe refused for its token",
    "subscribes are taken again",
    "the connection is lost",
    "the endpoint Down",
    "the endpoint Gives",
    "the endpoint Hangs",
    "the endpoint Refuses",
    "tokens are revoked",
];

impl World {
    fn step(&mut self) {
        match self.rig.rng.below(1_000) {
            0..=399 => self.event(),
            400..=403 => self.shut_or_open(),
            404..=409 => self.endpoint_changes(),
            410..=412 => {
                self.busy = !self.busy;
                if !self.busy {
                    self.happens("subscribes are taken again");
                }
            }
            413..=414 => {
                self.happens("tokens are revoked");
                self.tokens.iter_mut().for_each(|token| token.revoked = true);
                self.trouble = self.now();
            }
            415..=416 => {
                self.happens("the connection is lost");
                self.trouble = self.now();
                let open: Vec<AttemptId> = self.open.keys().copied().collect();
                open.into_iter().for_each(|attempt| self.lose(attempt, Disconnect::Reset("cut".into())));
            }
            417..=420 => self.want("c"),
            421..=424 => self.heal(),
            _ => self.pass(3_000_000),
        }
        self.turn();
    }

    fn shut_or_open(&mut self) {
        self.trouble = self.now();
        let shuts = [Shut::Status(401), Shut::Status(403), Shut::Status(503), Shut::Unreachable];
        self.shut = match self.shut {
            None => Some(self.rig.one_of(&shuts)),
            Some(_) => self.opens(),
        };
        // What is open is closed: else nobody would see it.
        if self.shut.is_some() && self.rig.rng.below(2) == 0 {
            let open: Vec<AttemptId> = self.open.keys().copied().collect();
            open.into_iter().for_each(|id| self.lose(id, Disconnect::Closed { code: 4001, reason: String::new() }));
        }
    }

    /// The provider lets connections in again.
    fn opens(&mut self) -> Option<Shut> {
        let shut = self.shut.take();
        self.stuck = shut.filter(|_| self.fault == Some(Fault::StaysShut));
        None
    }

    fn endpoint_changes(&mut self) {
        self.endpoint = match self.endpoint {
            Endpoint::Gives => self.rig.one_of(&[Endpoint::Down, Endpoint::Hangs, Endpoint::Refuses]),
            _ => Endpoint::Gives,
        };
        self.given_since = self.now();
        self.trouble = self.now();
    }

    /// Nothing is wrong any more.
    fn heal(&mut self) {
        (self.shut, self.busy) = (self.opens(), false);
        if self.endpoint != Endpoint::Gives {
            self.endpoint_changes();
        }
    }
}

fn run(kind: Kind, seed: u64, fault: Option<Fault>) -> Result<World, String> {
    let mut world = World::new(kind, seed, fault);
    for step in 0..STEPS {
        world.step();
        if let Some(violation) = &world.violation {
            return Err(format!("{kind:?}, seed {seed}, step {step}: {violation}\n{}", world.rig.story()));
        }
    }
    world.heal();
    let end = world.now() + BACK_WITHIN + Duration::from_secs(300);
    while world.now() < end && world.violation.is_none() {
        if world.rig.rng.below(5) == 0 {
            world.event();
        }
        world.pass(1_000_000);
    }
    match world.violation.take() {
        Some(violation) => Err(format!("{kind:?}, seed {seed}, at the end: {violation}\n{}", world.rig.story())),
        None => Ok(world),
    }
}

/// Twelve seeds at least, and so many more until everything has happened that this is about.
#[test]
fn tokens_run_out_and_come_and_nothing_is_lost_untold() {
    let mut happened: BTreeSet<String> = BTreeSet::new();
    for seed in 1..=60 {
        for kind in [Kind::Address, Kind::Frame] {
            let world = run(kind, seed, None).unwrap_or_else(|violation| panic!("{violation}"));
            if world.rig.relay.stats().link.rotations > 0 {
                happened.insert("another connection took over".to_owned());
            }
            happened.extend(world.happened);
        }
        if seed >= 12 && WANTED.iter().all(|wanted| happened.contains(*wanted)) {
            return;
        }
    }
    let missing: Vec<&str> = WANTED.into_iter().filter(|wanted| !happened.contains(*wanted)).collect();
    panic!("{missing:?} never happened in any run: the simulation is too tame");
}

/// Some seed must catch each planted fault, in these words.
fn caught(fault: Fault, words: &str) {
    let kinds = |seed| [Kind::Address, Kind::Frame].map(|kind| (kind, seed));
    let found = (1..=12).flat_map(kinds).find_map(|(kind, seed)| run(kind, seed, Some(fault)).err());
    let violation = found.unwrap_or_else(|| panic!("{fault:?} went unnoticed"));
    assert!(violation.contains(words), "{fault:?}: {violation}");
}

#[test]
fn an_entry_that_vanishes_behind_the_relay_is_caught() {
    caught(Fault::EntryVanishes, "nothing was told");
}

#[test]
fn an_old_token_that_is_shown_again_is_caught() {
    caught(Fault::OldTokenShown, "with a token that ran out");
}

#[test]
fn connections_that_are_dialled_twice_are_caught() {
    caught(Fault::DialsTwice, "connects within ten seconds");
}

#[test]
fn a_provider_that_only_says_it_is_well_is_caught() {
    caught(Fault::StaysShut, "nothing is wrong for");
}
