//! Which transport to speak: the best that works. It falls to the next one after repeated refusals of the connection's upgrade,
//! and climbs back after a while.
//!
//! Invariants: only what shows that a transport does not get through counts as a refusal; what the network or the service does
//! (no name, nobody there, overload, wrong credentials) does not. After a fall the next climb waits
//! `upstream.climb_after`, twice as long after each climb that failed, so that nothing goes up and down all the time.
//! Deliberately not here: the connections themselves, and what a switch is told as.

use std::time::Duration;

use super::super::attempt::Ending;
use super::super::pairs::Disconnect;
use super::super::time::Mono;
use crate::dialect::Transport;

/// Refusals in a row after which the next transport is taken.
const REFUSALS: u32 = 3;
/// How often the wait for a climb is doubled at most.
const DOUBLINGS: u32 = 6;

/// The transports from the best to the last resort, and the one in use.
#[derive(Debug)]
pub struct Ladder {
    rungs: Vec<Transport>,
    at: usize,
    refusals: u32,
    /// When a better one is tried.
    climb: Option<Mono>,
    /// Climbs in a row that failed.
    slips: u32,
    /// How long the first climb waits.
    climb_after: Duration,
    /// When the next session that begins with polls, because they stand first, is moved to a WebSocket.
    lift: Mono,
}

impl Ladder {
    /// Begins with the best one.
    pub fn new(rungs: &[Transport], climb_after: Duration) -> Self {
        Ladder { rungs: rungs.to_vec(), at: 0, refusals: 0, climb: None, slips: 0, climb_after, lift: Mono::default() }
    }

    /// Whether the next connection may be another transport's.
    pub fn has_several(&self) -> bool {
        self.rungs.len() > 1
    }

    /// The one in use.
    pub fn transport(&self) -> Transport {
        self.rungs.get(self.at).copied().unwrap_or_default()
    }

    /// The next better one, if it is time to try it.
    pub fn better(&self, now: Mono) -> Option<Transport> {
        self.climb.filter(|at| *at <= now)?;
        self.rungs.get(self.at.checked_sub(1)?).copied()
    }

    /// When the next better one is tried.
    pub fn climb_due(&self) -> Option<Mono> {
        self.climb
    }

    /// A connection over this transport is ready and serves.
    pub fn serves(&mut self, now: Mono, transport: Transport) {
        if !transport.polls() {
            self.refusals = 0;
        }
        let Some(at) = self.rungs.iter().position(|rung| *rung == transport) else { return };
        if at < self.at {
            self.slips = 0;
        }
        if at != self.at || at == 0 {
            self.climb = None;
        }
        self.at = at;
        if at > 0 && self.climb.is_none() {
            self.plan_climb(now);
        }
    }

    /// A connection over this transport ended. `opened`: it got through before.
    pub fn ended(&mut self, now: Mono, transport: Transport, opened: bool, ending: &Ending) {
        if transport != self.transport() {
            // A better one was tried.
            self.slips = self.slips.saturating_add(1);
            return self.plan_climb(now);
        }
        if opened {
            self.refusals = 0;
            return;
        }
        if !is_refusal(ending) {
            return;
        }
        self.refusals += 1;
        if self.refusals >= REFUSALS && self.rungs.len() > 1 {
            self.refusals = 0;
            // After the last one the best one is as good as any.
            self.at = (self.at + 1) % self.rungs.len();
            self.climb = None;
            if self.at > 0 {
                self.plan_climb(now);
            }
        }
    }

    /// When a session that is polled is moved to a WebSocket, where the service offers that: as soon as it may be, where polls
    /// stand before the WebSocket and so are what sessions begin with; else when a better transport is tried.
    pub fn upgrade_due(&self) -> Option<Mono> {
        match self.websocket()?.cmp(&self.at) {
            std::cmp::Ordering::Less => self.climb,
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(self.lift),
        }
    }

    /// Whether a session that is moved to a WebSocket climbs by that.
    pub fn lifts(&self) -> bool {
        self.websocket().is_some_and(|at| at < self.at)
    }

    /// A session was moved.
    pub fn upgraded(&mut self, now: Mono) {
        self.slips = 0;
        if self.lifts() {
            self.serves(now, Transport::WebSocket);
        }
    }

    /// A session was to be moved and was not, or did not last there.
    pub fn not_upgraded(&mut self, now: Mono) {
        self.slips = self.slips.saturating_add(1);
        if self.lifts() {
            self.plan_climb(now);
        } else {
            self.lift = now + self.wait();
        }
    }

    fn websocket(&self) -> Option<usize> {
        self.rungs.iter().position(|rung| *rung == Transport::WebSocket)
    }

    fn plan_climb(&mut self, now: Mono) {
        self.climb = Some(now + self.wait());
    }

    fn wait(&self) -> Duration {
        self.climb_after.saturating_mul(1 << self.slips.min(DOUBLINGS))
    }
}

/// Whether an attempt ended because its transport does not get through.
fn is_refusal(ending: &Ending) -> bool {
    match ending {
        Ending::Carrier(Disconnect::BadStatus { status, .. }) => {
            !matches!(status, 300..=399 | 401 | 403 | 407 | 429 | 500 | 502..=599)
        }
        Ending::Carrier(
            Disconnect::BadUpgrade(_) | Disconnect::HandshakeTimeout | Disconnect::Reset(_) | Disconnect::Protocol(_),
        ) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNGS: [Transport; 3] = [Transport::WebSocket, Transport::Sse, Transport::LongPoll];
    const CLIMB_AFTER: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn status(status: u16) -> Ending {
        Ending::Carrier(Disconnect::BadStatus { status, retry_after: None, detail: String::new() })
    }

    fn end(ladder: &mut Ladder, now: u64, ending: &Ending) -> Transport {
        ladder.ended(at(now), ladder.transport(), false, ending);
        ladder.transport()
    }

    #[test]
    fn refusals_of_the_upgrade_count_and_the_network_does_not() {
        let mut ladder = Ladder::new(&RUNGS, CLIMB_AFTER);
        let network = [
            Ending::Carrier(Disconnect::Refused),
            Ending::Carrier(Disconnect::Dns(String::new())),
            Ending::Carrier(Disconnect::ConnectTimeout),
            status(503),
            status(401),
            status(429),
        ];
        for ending in network.iter().cycle().take(30) {
            assert_eq!(end(&mut ladder, 0, ending), Transport::WebSocket, "{ending:?}");
        }
        for expected in [Transport::WebSocket, Transport::WebSocket, Transport::Sse] {
            assert_eq!(end(&mut ladder, 0, &status(404)), expected);
        }
        for _ in 0..3 {
            end(&mut ladder, 0, &Ending::Carrier(Disconnect::BadUpgrade(String::new())));
        }
        assert_eq!(ladder.transport(), Transport::LongPoll);
        for _ in 0..3 {
            end(&mut ladder, 0, &Ending::Carrier(Disconnect::HandshakeTimeout));
        }
        assert_eq!(ladder.transport(), Transport::WebSocket, "after the last one the best one again");
    }

    #[test]
    fn a_connection_that_got_through_forgets_refusals() {
        let mut ladder = Ladder::new(&RUNGS, CLIMB_AFTER);
        for _ in 0..10 {
            end(&mut ladder, 0, &status(400));
            end(&mut ladder, 0, &status(400));
            ladder.serves(at(0), Transport::WebSocket);
        }
        assert_eq!(ladder.transport(), Transport::WebSocket);
    }

    #[test]
    fn it_climbs_after_a_while_and_later_after_each_failure() {
        let mut ladder = Ladder::new(&RUNGS, CLIMB_AFTER);
        for _ in 0..3 {
            end(&mut ladder, 0, &status(404));
        }
        ladder.serves(at(10), Transport::Sse);
        assert_eq!(ladder.better(at(299)), None);
        assert_eq!(ladder.better(at(300)), Some(Transport::WebSocket));
        ladder.ended(at(300), Transport::WebSocket, false, &status(404));
        assert_eq!((ladder.transport(), ladder.better(at(899))), (Transport::Sse, None));
        assert_eq!(ladder.better(at(900)), Some(Transport::WebSocket));
        ladder.serves(at(900), Transport::WebSocket);
        assert_eq!((ladder.transport(), ladder.climb_due()), (Transport::WebSocket, None));
    }

    #[test]
    fn the_wait_for_a_climb_grows_to_a_limit() {
        let mut ladder = Ladder::new(&RUNGS, CLIMB_AFTER);
        for _ in 0..3 {
            end(&mut ladder, 0, &status(404));
        }
        ladder.serves(at(0), Transport::Sse);
        let waits: Vec<u64> = (0..9)
            .map(|_| {
                let wait = ladder.climb_due().unwrap();
                ladder.ended(at(0), Transport::WebSocket, false, &status(404));
                wait.0 / 300_000_000_000
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn one_transport_alone_never_falls() {
        let mut ladder = Ladder::new(&RUNGS[..1], CLIMB_AFTER);
        for _ in 0..10 {
            assert_eq!(end(&mut ladder, 0, &status(404)), Transport::WebSocket);
        }
    }
}
