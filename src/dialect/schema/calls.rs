//! A loaded dialect's calls, as the relay asks for them.

use super::Dialect;
use crate::dialect::fetch::{NoSupply, Supply, When};
use crate::dialect::http::HttpAnswer;
use crate::dialect::variable::Variable;
use crate::relay::time::Time;

impl Dialect {
    /// The calls that are made before connecting, in their order.
    pub fn connect_fetches(&self) -> &[usize] {
        &self.connect.fetch
    }

    /// The names of those without whose answers there is no connection.
    pub fn calls_to_connect(&self) -> impl Iterator<Item = &str> {
        let made = self.connect.fetch.iter().filter_map(|fetch| self.fetches.get(*fetch));
        made.filter(|fetch| !fetch.optional).map(|fetch| &*fetch.name)
    }

    /// The call that is made before this channel is subscribed.
    pub fn channel_fetch(&self, channel: &str) -> Option<usize> {
        self.fetches.iter().position(|fetch| fetch.when == When::Subscribe && fetch.is_for(channel))
    }

    /// A call's name.
    pub fn fetch_name(&self, fetch: usize) -> &str {
        self.fetches.get(fetch).map_or("", |fetch| &fetch.name)
    }

    /// What an answer to it supplies.
    /// `again`: it was asked to hold longer.
    pub fn fetch_supply(&self, now: Time, fetch: usize, answer: &HttpAnswer, again: bool) -> Result<Supply, NoSupply> {
        match self.fetches.get(fetch) {
            Some(call) => call.supply(now, answer, again),
            None => Ok(Supply { values: Vec::new(), holds: None }),
        }
    }

    /// Whether the connection itself (its address, its authentication) is made of what a call supplies, so that another
    /// value needs another connection.
    pub fn connection_needs(&self, fetch: usize) -> bool {
        let Some(call) = self.fetches.get(fetch) else { return false };
        let supplied = |variable: &Variable| match variable {
            Variable::Session(slot) => {
                call.take.iter().any(|taken| matches!(taken.variable, Variable::Session(one) if one == *slot))
            }
            _ => false,
        };
        let auth = [&self.templates.auth, &self.templates.resume].into_iter().flatten().map(|send| &send.template);
        let addresses = self.carriages.values().flat_map(|carriage| carriage.address.templates());
        self.connect.templates().chain(addresses).chain(auth).any(|template| template.uses(supplied))
    }

    /// The secrets that it names, and whether it cannot do without.
    pub fn secrets(&self) -> &[(Box<str>, bool)] {
        &self.secrets
    }

    /// The addresses that it calls, as far as the file says them; paths at upstream's own origin are not among them.
    pub fn calls(&self) -> impl Iterator<Item = &str> {
        let questions = self.fetches.iter().flat_map(|fetch| std::iter::once(&fetch.question).chain(&fetch.refresh));
        // A host that is not whole before the first hole is known when it is called.
        questions.map(|question| question.url.fixed_start()).filter(|url| url.matches('/').count() > 2)
    }
}
