//! Where to connect to: several addresses of one service, chosen by weight among those that did not fail lately.
//!
//! Invariants: one that failed rests, longer each time, and is taken nevertheless where all rest (the one whose rest ends
//! first); a rest is forgotten once a connection to it was stable.
//! Deliberately not here: when to connect, and which ending is an endpoint's fault.

use super::super::backoff;
use super::super::rng::Rng;
use super::super::time::Mono;
use crate::config::{BackoffConfig, EndpointConfig};

/// One address.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// How often it is chosen, against the others.
    weight: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Until when it rests.
    rests_until: Mono,
    /// How the last connection to it failed.
    pub last_reason: Option<&'static str>,
}

/// All addresses; at least one.
#[derive(Debug)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    backoff: BackoffConfig,
}

impl Endpoints {
    /// By the configuration.
    pub fn new(configured: &[EndpointConfig], backoff: BackoffConfig) -> Self {
        let fresh = |endpoint: &EndpointConfig| Endpoint {
            url: endpoint.url.clone(),
            weight: endpoint.weight,
            failures: 0,
            rests_until: Mono(0),
            last_reason: None,
        };
        Endpoints { all: configured.iter().map(fresh).collect(), backoff }
    }

    /// The next one to connect to.
    pub fn choose(&self, now: Mono, rng: &mut Rng) -> usize {
        if self.all.len() < 2 {
            return 0;
        }
        let rested = |endpoint: &Endpoint| endpoint.rests_until <= now;
        let total: u64 =
            self.all.iter().filter(|endpoint| rested(endpoint)).map(|endpoint| u64::from(endpoint.weight)).sum();
        if total == 0 {
            let first = self.all.iter().enumerate().min_by_key(|(place, endpoint)| (endpoint.rests_until, *place));
            return first.map_or(0, |(place, _)| place);
        }
        let mut drawn = rng.below(total);
        for (place, endpoint) in self.all.iter().enumerate().filter(|(_, endpoint)| rested(endpoint)) {
            match drawn.checked_sub(u64::from(endpoint.weight)) {
                Some(left) => drawn = left,
                None => return place,
            }
        }
        0
    }

    /// Its URL.
    pub fn url(&self, place: usize) -> &str {
        self.all.get(place).map_or("", |endpoint| &endpoint.url)
    }

    /// A connection to it failed, or was lost.
    pub fn failed(&mut self, place: usize, now: Mono, reason: &'static str, rng: &mut Rng) {
        let several = self.all.len() > 1;
        if let Some(endpoint) = self.all.get_mut(place) {
            if several {
                // At least the shortest pause: another one is to be taken.
                let rest = backoff::delay(self.backoff, endpoint.failures, Some(self.backoff.min), rng);
                endpoint.rests_until = now + rest;
            }
            endpoint.failures = endpoint.failures.saturating_add(1);
            endpoint.last_reason = Some(reason);
        }
    }

    /// A connection to it was stable.
    pub fn stable(&mut self, place: usize) {
        if let Some(endpoint) = self.all.get_mut(place) {
            endpoint.failures = 0;
            endpoint.rests_until = Mono(0);
        }
    }

    /// Whether there are several, and one of them does not rest.
    pub fn some_rested(&self, now: Mono) -> bool {
        self.all.len() > 1 && self.all.iter().any(|endpoint| endpoint.rests_until <= now && endpoint.weight > 0)
    }

    /// Each of them, with how long it rests.
    pub fn iter(&self, now: Mono) -> impl Iterator<Item = (&Endpoint, std::time::Duration)> {
        self.all.iter().map(move |endpoint| (endpoint, endpoint.rests_until.since(now)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUNDS: BackoffConfig = BackoffConfig { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    fn endpoints(weights: &[u32]) -> Endpoints {
        let all: Vec<EndpointConfig> = (0..)
            .zip(weights)
            .map(|(n, weight)| EndpointConfig { url: format!("wss://{n}"), weight: *weight })
            .collect();
        Endpoints::new(&all, BOUNDS)
    }

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn they_are_chosen_by_weight() {
        let (endpoints, mut rng) = (endpoints(&[1, 3]), Rng::new(1));
        let second = (0..1_000).filter(|_| endpoints.choose(at(1), &mut rng) == 1).count();
        assert!((690..810).contains(&second), "{second}");
    }

    #[test]
    fn one_that_failed_rests_and_is_forgiven_once_stable() {
        let (mut endpoints, mut rng) = (endpoints(&[1, 1]), Rng::new(1));
        endpoints.failed(0, at(10), "refused", &mut rng);
        assert!((0..100).all(|_| endpoints.choose(at(10), &mut rng) == 1), "at once the other one");
        endpoints.failed(1, at(11), "refused", &mut rng);
        assert!(!endpoints.some_rested(at(11)));
        assert_eq!(endpoints.choose(at(11), &mut rng), 0, "where all rest, the one whose rest ends first");
        for _ in 0..8 {
            endpoints.failed(0, at(11), "refused", &mut rng);
        }
        assert_eq!(endpoints.choose(at(11), &mut rng), 1);
        endpoints.stable(0);
        assert_eq!(endpoints.choose(at(11), &mut rng), 0);
    }
}
