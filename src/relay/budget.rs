//! What asking upstream costs: how often it was done in the last hour and day, over all and for each principal.
//!
//! Invariant: what was allowed never exceeds an allowance in any hour or day, whatever the moment it is looked at (the windows
//! slide by small steps and forget late rather than early). [`Budget::steps`] tells what to go on with after a restart; what
//! single principals spent begins anew.
//! Memory is bounded: so many steps a window, so many principals.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Allowance, BudgetConfig};

use super::record::StoredCost;
use super::stats::Cost;
use super::time::Mono;

/// A window forgets by twelve and by twenty-four steps.
const HOUR: Span = Span { step: Duration::from_secs(300), steps: 12 };
const DAY: Span = Span { step: Duration::from_secs(3_600), steps: 24 };

/// Windows are counted from so long before the clock's start: a count may be older than the clock.
const BEFORE: Duration = Duration::from_secs(3 * 86_400);

#[derive(Debug, Clone, Copy)]
struct Span {
    step: Duration,
    steps: u64,
}

/// Counts over one span.
#[derive(Debug, Default)]
struct Window {
    /// Steps in which something was counted: number and count.
    counts: VecDeque<(u64, u32)>,
    sum: u32,
}

impl Window {
    fn forget(&mut self, now: Mono, span: Span) {
        while let Some((step, count)) = self.counts.front().copied()
            && ends(span, step) <= now
        {
            self.counts.pop_front();
            self.sum -= count;
        }
    }

    fn add(&mut self, now: Mono, span: Span, more: u32) {
        let step = now.0 / nanos(span.step);
        match self.counts.back_mut() {
            Some((last, count)) if *last >= step => *count = count.saturating_add(more),
            _ => self.counts.push_back((step, more)),
        }
        self.sum = self.counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count));
    }

    /// How long until one more is allowed; `None`: it is.
    fn full(&self, now: Mono, span: Span, limit: u32) -> Option<Duration> {
        if limit == 0 || self.sum < limit {
            return None;
        }
        let mut left = self.sum;
        for (step, count) in &self.counts {
            left -= count;
            if left < limit {
                return Some(ends(span, *step).since(now));
            }
        }
        None
    }
}

/// When what was counted in this step does not count any more.
fn ends(span: Span, step: u64) -> Mono {
    Mono((step + 1 + span.steps).saturating_mul(nanos(span.step)))
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// One cost of one spender.
#[derive(Debug, Default)]
struct Account {
    hour: Window,
    day: Window,
}

impl Account {
    fn full(&mut self, now: Mono, allowance: Allowance) -> Option<Duration> {
        let now = now + BEFORE;
        self.hour.forget(now, HOUR);
        self.day.forget(now, DAY);
        self.hour.full(now, HOUR, allowance.hour).max(self.day.full(now, DAY, allowance.day))
    }

    fn add(&mut self, now: Mono) {
        self.hour.add(now + BEFORE, HOUR, 1);
        self.day.add(now + BEFORE, DAY, 1);
    }
}

#[derive(Debug, Default)]
struct Spender {
    accounts: BTreeMap<Cost, Account>,
    last: Mono,
}

/// What one cost came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Which.
    pub cost: Cost,
    /// In the last hour.
    pub hour: u32,
    /// In the last day.
    pub day: u32,
    /// What is allowed.
    pub allowance: Allowance,
}

/// All costs.
#[derive(Debug)]
pub struct Budget {
    config: BudgetConfig,
    all: Spender,
    principals: BTreeMap<Arc<str>, Spender>,
}

impl Budget {
    /// Nothing is spent yet.
    pub fn new(config: BudgetConfig) -> Self {
        Budget { config, all: Spender::default(), principals: BTreeMap::new() }
    }

    /// Other allowances from now on.
    pub fn reload(&mut self, config: BudgetConfig) {
        self.config = config;
    }

    /// Spends one, for a principal or for the relay itself; `Err`: nothing is spent, and how long until it may be.
    pub fn spend(&mut self, now: Mono, cost: Cost, principal: Option<&Arc<str>>) -> Result<(), Duration> {
        let allowance = self.allowance(cost);
        let mut wait = self.account(now, cost, None).full(now, allowance);
        let own = self.own_allowance(cost);
        if principal.is_some() && own != Allowance::default() {
            wait = wait.max(self.account(now, cost, principal).full(now, own));
        }
        if let Some(wait) = wait {
            return Err(wait);
        }
        self.count(now, cost, principal);
        Ok(())
    }

    /// Counts one that is not to be refused.
    pub fn count(&mut self, now: Mono, cost: Cost, principal: Option<&Arc<str>>) {
        self.account(now, cost, None).add(now);
        if principal.is_some() {
            self.account(now, cost, principal).add(now);
        }
    }

    /// What was spent over all, step by step, the oldest first within each window: to go on with after a restart.
    pub fn steps(&self, now: Mono) -> Vec<StoredCost> {
        let now = now + BEFORE;
        let mut steps = Vec::new();
        for (cost, account) in &self.all.accounts {
            for (window, span, of_day) in [(&account.hour, HOUR, false), (&account.day, DAY, true)] {
                let began = |step: u64| now.since(Mono(step.saturating_mul(nanos(span.step))));
                let of =
                    |(step, count): &(u64, u32)| StoredCost { cost: *cost, of_day, age: began(*step), count: *count };
                steps.extend(window.counts.iter().map(of));
            }
        }
        steps
    }

    /// Goes on with what was spent when this time had not passed yet.
    pub fn go_on(&mut self, now: Mono, passed: Duration, steps: &[StoredCost]) {
        for step in steps {
            let account = self.all.accounts.entry(step.cost).or_default();
            let (window, span) = if step.of_day { (&mut account.day, DAY) } else { (&mut account.hour, HOUR) };
            let age = step.age.saturating_add(passed);
            // What is over already has no place. Another clock has its steps elsewhere: rather forgotten late.
            if age < BEFORE {
                let up = Duration::from_nanos(nanos(span.step) - 1);
                window.add(now + BEFORE - age + up, span, step.count);
            }
        }
    }

    /// What everything came to.
    pub fn spent(&mut self, now: Mono) -> Vec<Spent> {
        Cost::ALL.iter().map(|cost| self.spent_of(now, *cost, None)).collect()
    }

    /// What a principal has spent, where anything.
    pub fn spent_by(&mut self, now: Mono, principal: &Arc<str>) -> Vec<Spent> {
        if !self.principals.contains_key(principal) {
            return Vec::new();
        }
        let all = Cost::ALL.iter().map(|cost| self.spent_of(now, *cost, Some(principal)));
        all.filter(|spent| spent.day > 0 || spent.hour > 0).collect()
    }

    /// The part of an allowance that is spent, of the one that is spent the most: over all or of one principal. 0 where nothing
    /// is limited.
    pub fn fullest(&mut self, now: Mono) -> f64 {
        let names: Vec<Arc<str>> = self.principals.keys().cloned().collect();
        let mut all = self.spent(now);
        names.iter().for_each(|name| all.extend(self.spent_by(now, name)));
        let part = |spent: u32, limit: u32| if limit == 0 { 0.0 } else { f64::from(spent) / f64::from(limit) };
        let parts = all.iter().map(|one| part(one.hour, one.allowance.hour).max(part(one.day, one.allowance.day)));
        parts.fold(0.0, f64::max)
    }

    fn spent_of(&mut self, now: Mono, cost: Cost, principal: Option<&Arc<str>>) -> Spent {
        let allowance = if principal.is_some() { self.own_allowance(cost) } else { self.allowance(cost) };
        let last = principal.and_then(|name| self.principals.get(name)).map(|spender| spender.last);
        let account = self.account(last.unwrap_or(now), cost, principal);
        account.full(now, allowance);
        Spent { cost, hour: account.hour.sum, day: account.day.sum, allowance }
    }

    fn allowance(&self, cost: Cost) -> Allowance {
        match cost {
            Cost::Fetch => self.config.fetches,
            Cost::Repair => self.config.repairs,
            Cost::Refresh => self.config.refreshes,
            Cost::Subscribe => self.config.subscribes,
        }
    }

    fn own_allowance(&self, cost: Cost) -> Allowance {
        match cost {
            Cost::Refresh => self.config.principal_refreshes,
            Cost::Subscribe => self.config.principal_subscribes,
            Cost::Fetch | Cost::Repair => Allowance::default(),
        }
    }

    fn account(&mut self, now: Mono, cost: Cost, principal: Option<&Arc<str>>) -> &mut Account {
        let Some(name) = principal else { return self.all.accounts.entry(cost).or_default() };
        if !self.principals.contains_key(name) && self.principals.len() >= self.config.principals {
            let oldest =
                self.principals.iter().min_by_key(|(_, spender)| spender.last).map(|(name, _)| Arc::clone(name));
            oldest.map(|oldest| self.principals.remove(&oldest));
        }
        let spender = self.principals.entry(Arc::clone(name)).or_default();
        spender.last = now;
        spender.accounts.entry(cost).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::rng::Rng;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn budget(hour: u32, day: u32) -> Budget {
        let own = Allowance { hour: 1, day: 0 };
        let refreshes = Allowance { hour, day };
        Budget::new(BudgetConfig { refreshes, principal_refreshes: own, principals: 2, ..BudgetConfig::default() })
    }

    #[test]
    fn no_hour_and_no_day_ever_sees_more_than_is_allowed() {
        let mut rng = Rng::new(7);
        let mut budget = budget(5, 30);
        let (mut now, mut granted) = (0, Vec::new());
        while now < 5 * 86_400 {
            now += 1 + rng.below(900);
            match budget.spend(at(now), Cost::Refresh, None) {
                Ok(()) => granted.push(now),
                Err(wait) => {
                    assert!(!wait.is_zero());
                    if rng.below(2) == 0 {
                        now += wait.as_secs() + 1;
                        assert!(budget.spend(at(now), Cost::Refresh, None).is_ok(), "after the wait it is allowed");
                        granted.push(now);
                    }
                }
            }
        }
        let within = |from: u64, span: u64| granted.iter().filter(|at| (from..from + span).contains(*at)).count();
        assert!(granted.iter().all(|from| within(*from, 3_600) <= 5 && within(*from, 86_400) <= 30));
        assert!(granted.len() > 100, "{}", granted.len());
    }

    #[test]
    fn a_restart_goes_on_counting() {
        for (same_clock, passed) in [(true, 0), (true, 700), (false, 700), (false, 90_000)] {
            let mut before = budget(5, 30);
            for second in [100_000, 100_200, 103_000, 103_500] {
                before.count(at(second), Cost::Refresh, None);
            }
            let steps = before.steps(at(103_600));
            let now = if same_clock { at(103_600 + passed) } else { at(20) };
            let mut after = budget(5, 30);
            after.go_on(now, Duration::from_secs(passed), &steps);
            let spent = |budget: &mut Budget, now| {
                let all = budget.spent(now);
                all.iter().find(|spent| spent.cost == Cost::Refresh).map(|spent| (spent.hour, spent.day))
            };
            assert_eq!(spent(&mut after, now), spent(&mut before, at(103_600 + passed)), "{same_clock} {passed}");
        }
        let mut old = budget(5, 30);
        old.go_on(at(5), Duration::MAX / 2, &before_all());
        assert_eq!(old.spent(at(5)).iter().map(|spent| spent.day).max(), Some(0));
    }

    fn before_all() -> [StoredCost; 1] {
        [StoredCost { cost: Cost::Fetch, of_day: true, age: Duration::MAX / 4, count: 3 }]
    }

    #[test]
    fn principals_have_their_own_and_only_so_many_are_known() {
        let mut budget = budget(0, 0);
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
        assert!(budget.spend(at(1), Cost::Refresh, Some(&names[0])).is_ok());
        assert!(budget.spend(at(2), Cost::Refresh, Some(&names[0])).is_err());
        assert!(budget.spend(at(3), Cost::Refresh, Some(&names[1])).is_ok(), "another one has its own");
        assert!(budget.spend(at(4), Cost::Refresh, Some(&names[2])).is_ok());
        assert_eq!(budget.principals.len(), 2, "the one longest without a request is forgotten");
        let spent = budget.spent_by(at(4), &names[1]);
        assert_eq!(
            spent.iter().map(|spent| (spent.cost, spent.hour, spent.day)).collect::<Vec<_>>(),
            [(Cost::Refresh, 1, 1)]
        );
        let all = budget.spent(at(4));
        assert_eq!(all.iter().find(|spent| spent.cost == Cost::Refresh).map(|spent| spent.hour), Some(3));
        budget.spent(at(4 + 2 * 86_400)).iter().for_each(|spent| assert_eq!((spent.hour, spent.day), (0, 0)));
    }

    #[test]
    fn the_fullest_allowance_is_that_of_all_or_of_one_principal() {
        let mut budget = budget(4, 0);
        let name: Arc<str> = "a".into();
        assert_eq!(budget.fullest(at(0)).to_bits(), 0.0_f64.to_bits());
        budget.count(at(0), Cost::Refresh, None);
        assert_eq!(budget.fullest(at(0)).to_bits(), 0.25_f64.to_bits());
        budget.count(at(0), Cost::Refresh, Some(&name));
        assert_eq!(budget.fullest(at(0)).to_bits(), 1.0_f64.to_bits(), "one an hour is all that a principal has");
        assert_eq!(budget.fullest(at(2 * 86_400)).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn what_must_not_be_refused_counts_all_the_same() {
        let mut budget = budget(1, 0);
        budget.count(at(0), Cost::Refresh, None);
        budget.count(at(0), Cost::Refresh, None);
        assert_eq!(budget.spend(at(0), Cost::Refresh, None), Err(Duration::from_secs(3_900)));
    }
}
