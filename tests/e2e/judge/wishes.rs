//! Rules about who is told what, what clients wished of messages that wait, and what upstream and the disk forbid for a while.
//!
//! They ask for less than those of `rules`: each line is held against a few before it, lives and cuts aside.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Rule, Violation};
use super::seen::{Admin, Client, End, Seen, Upstream};

/// A publish, by its tag.
struct Publication {
    principal: String,
    order_key: Option<String>,
    coalesce: bool,
    dead_letter: bool,
}

/// Reads a trace beside the other rules.
#[derive(Default)]
pub struct Wishes {
    line: u64,
    publications: BTreeMap<String, Publication>,
    /// Who a session is.
    principals: BTreeMap<u64, String>,
    /// The messages' tags by their ids, and the other way round.
    tags: BTreeMap<String, String>,
    ids: BTreeMap<String, String>,
    /// Messages that somebody asked to cancel.
    cancelled: BTreeSet<String>,
    /// Which message an attempt was of.
    attempts: BTreeMap<(usize, u64), String>,
    /// From when on upstream takes a message again that it put off, on the connection where it said so; and where it did.
    put_off: BTreeMap<(usize, String), (u64, u64)>,
    /// The line that told of the store's failure in this life.
    failed: Option<u64>,
    /// Connections from this number on began after that.
    fresh: Option<usize>,
    violations: Vec<Violation>,
}

impl Wishes {
    /// Reads the next line.
    pub fn read(&mut self, line: u64, seen: &Seen) {
        self.line = line;
        match seen {
            Seen::Client(seen) => self.client(seen),
            Seen::Upstream(seen) => self.upstream(seen),
            Seen::Admin(Admin::Started) => (self.failed, self.fresh) = (None, None),
            Seen::Admin(Admin::Scrape { store_failed: true, .. }) => drop(self.failed.get_or_insert(line)),
            Seen::Admin(_) => {}
        }
    }

    /// What is wrong.
    pub fn end(self) -> Vec<Violation> {
        self.violations
    }

    fn complain(&mut self, rule: Rule, what: String, line: Option<u64>) {
        self.violations.push(Violation::new(rule, what, line.into_iter().chain([self.line]).collect()));
    }

    fn name(&mut self, tag: &str, id: &str) {
        self.tags.insert(id.to_owned(), tag.to_owned());
        self.ids.insert(tag.to_owned(), id.to_owned());
    }

    fn client(&mut self, seen: &Client) {
        match seen {
            Client::Publish { session, tag, principal, order_key, coalesce, dead_letter, .. } => {
                self.principals.insert(*session, principal.clone());
                let (principal, order_key) = (principal.clone(), order_key.clone());
                let publication = Publication { principal, order_key, coalesce: *coalesce, dead_letter: *dead_letter };
                self.publications.insert(tag.clone(), publication);
            }
            Client::Accepted { tag, message, .. } => self.name(tag, message),
            Client::Refused { code, .. } if code == "store_failed" => drop(self.failed.get_or_insert(self.line)),
            Client::Refused { .. } => {}
            Client::Cancel { message } => drop(self.cancelled.insert(message.clone())),
            Client::Pry { principal, message, status } => {
                if *status != 404 {
                    self.complain(Rule::Private, format!("{principal} asked for {message} and got {status}"), None);
                }
            }
            Client::Outcome { session, message, end } => {
                let (to, of) = (self.principals.get(session), self.publication(message).map(|of| &of.principal));
                if to.is_some() && of.is_some() && to != of {
                    self.complain(
                        Rule::Private,
                        format!("{to:?} was told the end of {message}, which is {of:?}'s"),
                        None,
                    );
                }
                self.ended(message, end);
            }
            Client::State { message, end: Some(end), .. } => self.ended(message, end),
            Client::State { .. } => {}
        }
    }

    fn publication(&self, id: &str) -> Option<&Publication> {
        self.publications.get(self.tags.get(id)?)
    }

    /// Whether this message was to take the place of that one: it was accepted later, or it may have been.
    fn replaces(&self, (tag, newer): (&str, &Publication), id: &str, older: &Publication) -> bool {
        newer.coalesce
            && (&newer.principal, &newer.order_key) == (&older.principal, &older.order_key)
            && self.ids.get(tag).is_none_or(|newer| newer.as_str() > id)
    }

    fn ended(&mut self, id: &str, end: &End) {
        let Some(of) = self.publication(id) else { return };
        let wished = match end.reason.as_deref() {
            Some("cancelled") => self.cancelled.contains(id),
            Some("superseded") => self.publications.iter().any(|(tag, newer)| self.replaces((tag, newer), id, of)),
            _ => true,
        };
        if !wished {
            self.complain(Rule::Wished, format!("{id} ended as {:?}, which nobody wished", end.reason), None);
        }
    }

    fn upstream(&mut self, seen: &Upstream) {
        match seen {
            Upstream::Attempt { at_ms, connection, request, tag, message } => {
                self.name(tag, message);
                self.attempts.insert((*connection, *request), message.clone());
                if let Some((until, line)) = self.put_off.get(&(*connection, message.clone()))
                    && at_ms < until
                {
                    let (line, early) = (*line, until - at_ms);
                    self.complain(Rule::PutOff, format!("{message} came again {early} ms too early"), Some(line));
                }
                if self.fresh.is_some_and(|fresh| *connection >= fresh)
                    && self.publications.get(tag).is_some_and(|of| of.dead_letter)
                {
                    let what = format!("{message} ({tag}) left on a connection that began after the store failed");
                    self.complain(Rule::FailStop, what, self.failed);
                }
            }
            Upstream::Nack { at_ms, connection, request, after_ms, .. } => {
                if let Some(message) = self.attempts.get(&(*connection, *request)) {
                    self.put_off.insert((*connection, message.clone()), (at_ms + after_ms, self.line));
                }
            }
            Upstream::Cut { connections } if self.failed.is_some() => self.fresh = Some(*connections),
            Upstream::Ack { .. } | Upstream::Cut { .. } | Upstream::Count { .. } => {}
        }
    }
}
