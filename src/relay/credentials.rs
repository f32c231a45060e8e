//! What connections are made with: token, secrets, and what calls supplied; what of it still holds, and what is asked for now.
//!
//! Invariants: each source is asked by at most one call at a time; what holds is kept until it runs out, however often asking
//! for more fails; nothing that upstream refused is used again. Deliberately not here: making calls, and connections.

use std::time::Duration;

use super::backoff::early;
use super::rng::Rng;
use super::time::Mono;
use crate::config::UpstreamConfig;
use crate::dialect::{Dialect, Supply, TokenCall};
use crate::protocol::request::Secret;

/// Where something that a connection is made with comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `upstream.token_fetch`
    Token,
    /// A `[fetch.NAME]` of the dialect, by its number.
    Fetch(usize),
}

/// What a source supplied last.
#[derive(Debug, Default)]
struct Held {
    supply: Option<Supply>,
    /// When more is asked for; `None`: not before the next connection.
    renew_at: Option<Mono>,
    /// When it runs out; `None`: it is good for one connection only.
    until: Option<Mono>,
    /// A call is out.
    out: bool,
    /// The call that is out asks for what is held to hold longer.
    again: bool,
    /// Failures in a row.
    failures: u32,
    /// Asking to hold longer was refused: next time it is asked for anew.
    anew: bool,
}

/// Whether upstream takes what we show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing is known against it.
    #[default]
    Good,
    /// The token has run out and there is no other.
    Expired,
    /// It was refused, and so was a fresh one.
    Failed,
}

impl Standing {
    /// The word in status and log; `None`: there is nothing to say.
    pub fn text(self) -> Option<&'static str> {
        match self {
            Standing::Good => None,
            Standing::Expired => Some("auth_expired"),
            Standing::Failed => Some("auth_failed"),
        }
    }
}

/// Everything that connections are made with.
#[derive(Debug)]
pub struct Credentials {
    token: Held,
    fetches: Vec<Held>,
    /// `upstream.token_fetch`
    pub call: Option<TokenCall>,
    /// As last read.
    pub secrets: Vec<(Box<str>, Secret)>,
    /// Refusals in a row.
    refusals: u32,
    /// As last told.
    pub standing: Standing,
}

impl Credentials {
    /// Nothing yet.
    pub fn new(config: &UpstreamConfig, dialect: &Dialect) -> Self {
        let call = match &config.token {
            // It was read before: the configuration is valid.
            crate::config::TokenSource::Fetch(text) => TokenCall::parse(text.expose()).ok(),
            _ => None,
        };
        let last = dialect.connect_fetches().iter().max().map_or(0, |last| last + 1);
        let fetches = (0..last).map(|_| Held::default()).collect();
        Credentials {
            token: Held::default(),
            fetches,
            call,
            secrets: Vec::new(),
            refusals: 0,
            standing: Standing::Good,
        }
    }

    /// What a connection needs, in its order.
    pub fn sources(&self, dialect: &Dialect) -> Vec<Source> {
        let token = self.call.as_ref().map(|_| Source::Token);
        token.into_iter().chain(dialect.connect_fetches().iter().map(|index| Source::Fetch(*index))).collect()
    }

    fn held(&self, source: Source) -> Option<&Held> {
        match source {
            Source::Token => Some(&self.token),
            Source::Fetch(index) => self.fetches.get(index),
        }
    }

    fn held_mut(&mut self, source: Source) -> Option<&mut Held> {
        match source {
            Source::Token => Some(&mut self.token),
            Source::Fetch(index) => self.fetches.get_mut(index),
        }
    }

    /// What was supplied and need not be asked for now: it is not time to renew it, or that was tried in vain just before.
    pub fn fresh(&self, now: Mono, source: Source) -> Option<&Supply> {
        let held = self.held(source)?;
        let later = held.renew_at.is_some_and(|at| now < at) && held.until.is_some_and(|until| now < until);
        held.supply.as_ref().filter(|_| later)
    }

    /// What was supplied and has not run out.
    pub fn holds(&self, now: Mono, source: Source) -> Option<&Supply> {
        let held = self.held(source)?;
        held.supply.as_ref().filter(|_| held.until.is_some_and(|until| now < until))
    }

    /// Whether a call is out.
    pub fn is_out(&self, source: Source) -> bool {
        self.held(source).is_some_and(|held| held.out)
    }

    /// Whether the next call should ask that what is held holds longer.
    pub fn asks_again(&self, now: Mono, source: Source) -> bool {
        self.holds(now, source).is_some() && self.held(source).is_some_and(|held| !held.anew)
    }

    /// Whether the call that is out does.
    pub fn asked_again(&self, source: Source) -> bool {
        self.held(source).is_some_and(|held| held.again)
    }

    /// A call is out.
    pub fn asked(&mut self, source: Source, again: bool) {
        if let Some(held) = self.held_mut(source) {
            held.out = true;
            held.again = again;
            held.renew_at = None;
        }
    }

    /// A source that asks to be renewed by now, and has no call out.
    pub fn renewal(&self, now: Mono) -> Option<Source> {
        let token = std::iter::once((Source::Token, &self.token));
        let all = token.chain(self.fetches.iter().enumerate().map(|(index, held)| (Source::Fetch(index), held)));
        let mut due = all.filter(|(_, held)| !held.out && held.renew_at.is_some_and(|at| at <= now));
        due.next().map(|(source, _)| source)
    }

    /// When the next one does.
    pub fn due(&self) -> Option<Mono> {
        let held = std::iter::once(&self.token).chain(&self.fetches).filter(|held| !held.out);
        held.filter_map(|held| held.renew_at).min()
    }

    /// A call was answered well.
    pub fn supplied(&mut self, now: Mono, source: Source, supply: Supply, rng: &mut Rng) {
        let Some(held) = self.held_mut(source) else { return };
        held.out = false;
        held.failures = 0;
        held.anew = false;
        held.until = supply.holds.map(|holds| now + holds);
        held.renew_at = supply.holds.map(|holds| now + early(holds, rng));
        let again = std::mem::take(&mut held.again);
        match &mut held.supply {
            Some(old) if again => old.extend(supply),
            old => *old = Some(supply),
        }
    }

    /// A call was not answered, or not well; `retry`: when to ask again, if what is held runs out at all. Gives the number of
    /// failures in a row.
    pub fn failed(&mut self, now: Mono, source: Source, refused: bool, retry: impl FnOnce(u32) -> Duration) -> u32 {
        let Some(held) = self.held_mut(source) else { return 0 };
        held.out = false;
        held.failures = held.failures.saturating_add(1);
        held.anew |= refused && held.again;
        held.again = false;
        let wait = retry(held.failures);
        held.renew_at = held.until.map(|_| now + wait);
        held.failures
    }

    /// Upstream does not take it: all of it is got anew.
    pub fn refused(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
        for held in std::iter::once(&mut self.token).chain(&mut self.fetches) {
            let out = held.out;
            *held = Held { out, ..Held::default() };
        }
    }

    /// Upstream takes it.
    pub fn accepted(&mut self) {
        self.refusals = 0;
    }

    /// Refusals in a row.
    pub fn refusals(&self) -> u32 {
        self.refusals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source::Fetch(0);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn credentials() -> Credentials {
        let text = "dialect = 1\nname = \"x\"\n[connect]\nfetch = [\"a\"]\n[fetch.a]\nget = \"/a\"\nttl = \"100s\"\ntake = { one = \"/one\" }\n\
                    [[on]]\nmatch = { \"\" = { exists = true } }\nis = \"ignore\"\n";
        let dialect = Dialect::parse("x", text).unwrap();
        let credentials = Credentials::new(&UpstreamConfig::default(), &dialect);
        assert_eq!(credentials.sources(&dialect), [SOURCE]);
        credentials
    }

    fn supply(seconds: Option<u64>) -> Supply {
        Supply::of(vec!["\"v\"".to_owned()], seconds.map(Duration::from_secs))
    }

    #[test]
    fn what_holds_is_renewed_before_it_runs_out_by_one_call() {
        let (mut all, mut rng) = (credentials(), Rng::new(1));
        assert!(all.fresh(at(0), SOURCE).is_none());
        all.asked(SOURCE, false);
        assert!(all.is_out(SOURCE));
        all.supplied(at(0), SOURCE, supply(Some(100)), &mut rng);
        let due = all.due().unwrap();
        assert!((75..=80).contains(&(due.0 / 1_000_000_000)), "{due:?}");
        assert!(all.fresh(at(74), SOURCE).is_some() && all.renewal(at(74)).is_none());
        assert_eq!(all.renewal(at(81)), Some(SOURCE));
        assert!(all.asks_again(at(81), SOURCE));
        all.asked(SOURCE, true);
        assert_eq!((all.renewal(at(90)), all.due()), (None, None), "one call at a time");
    }

    #[test]
    fn failures_do_not_take_away_what_still_holds() {
        let (mut all, mut rng) = (credentials(), Rng::new(1));
        all.supplied(at(0), SOURCE, supply(Some(100)), &mut rng);
        all.asked(SOURCE, true);
        assert_eq!(all.failed(at(81), SOURCE, true, |_| Duration::from_secs(5)), 1);
        assert!(all.fresh(at(82), SOURCE).is_some(), "a connection that is made meanwhile does not ask again");
        assert!(all.fresh(at(86), SOURCE).is_none() && all.holds(at(99), SOURCE).is_some());
        assert!(!all.asks_again(at(82), SOURCE), "to hold longer was refused");
        assert_eq!(all.renewal(at(86)), Some(SOURCE));
        assert!(all.holds(at(100), SOURCE).is_none(), "it has run out");
        all.supplied(at(101), SOURCE, supply(Some(100)), &mut rng);
        assert!(all.fresh(at(102), SOURCE).is_some());
        all.refused();
        assert!(all.holds(at(103), SOURCE).is_none(), "what upstream refused is not used again");
    }

    #[test]
    fn what_holds_for_one_connection_is_asked_for_each_time() {
        let (mut all, mut rng) = (credentials(), Rng::new(1));
        all.supplied(at(0), SOURCE, supply(None), &mut rng);
        assert!(all.fresh(at(0), SOURCE).is_none() && all.due().is_none());
        all.failed(at(1), SOURCE, false, |_| Duration::ZERO);
        assert!(all.due().is_none(), "nothing holds that could run out");
    }
}
