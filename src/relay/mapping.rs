//! Mapping: which upstream channels are spread over many local ones, by the key of their events.
//!
//! An event of upstream channel `status` with key `svc-1` is an event of the local channel `service:svc-1`. A snapshot that
//! comes in several elements states all keys: those that are not among them are gone, which is known at its end.
//! Invariant: one number per upstream channel, in the order of the configuration. Deliberately not here: rings, interest,
//! policies (who wins where several match), and what anybody is told.

use std::collections::{BTreeSet, HashMap};

use super::feed::RingId;

/// The mappings of a configuration, and the snapshot that is coming in.
#[derive(Debug, Default)]
pub struct Mapping {
    sources: HashMap<Box<str>, u32>,
    /// How local names begin, per upstream channel.
    prefixes: Vec<Vec<Box<str>>>,
    bulk: Option<Bulk>,
}

/// A snapshot whose elements are coming in.
#[derive(Debug)]
pub struct Bulk {
    /// The local channel that stands for the whole upstream channel.
    pub whole: RingId,
    /// The number of the mapping.
    pub number: u32,
    /// The local channels that it stated.
    pub stated: BTreeSet<RingId>,
}

impl Mapping {
    /// From pairs of an upstream channel's identity and how its local names begin.
    pub fn new<'a>(pairs: impl Iterator<Item = (String, &'a str)>) -> Self {
        let mut mapping = Mapping::default();
        for (identity, prefix) in pairs {
            let next = mapping.prefixes.len() as u32;
            let number = *mapping.sources.entry(identity.into()).or_insert(next);
            if number == next {
                mapping.prefixes.push(Vec::new());
            }
            mapping.prefixes[number as usize].push(prefix.into());
        }
        mapping
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The number of an upstream channel's mapping, by its identity.
    pub fn number(&self, identity: &str) -> Option<u32> {
        self.sources.get(identity).copied()
    }

    /// How many beginnings local names have.
    pub fn len(&self, number: u32) -> usize {
        self.prefixes.get(number as usize).map_or(0, Vec::len)
    }

    /// Writes the local name of a key: the beginning with this index, and the key.
    pub fn write_name(&self, number: u32, index: usize, key: &str, into: &mut String) {
        into.clear();
        into.push_str(self.prefixes.get(number as usize).and_then(|all| all.get(index)).map_or("", |prefix| prefix));
        into.push_str(key);
    }

    /// Whether a local name can be of this mapping.
    pub fn covers(&self, number: u32, name: &str) -> bool {
        self.prefixes.get(number as usize).is_some_and(|all| all.iter().any(|prefix| name.starts_with(&**prefix)))
    }

    /// A snapshot of all keys begins.
    pub fn begin(&mut self, whole: RingId, number: u32) {
        self.bulk = Some(Bulk { whole, number, stated: BTreeSet::new() });
    }

    /// The snapshot stated this local channel.
    pub fn stated(&mut self, ring: RingId) {
        if let Some(bulk) = &mut self.bulk {
            bulk.stated.insert(ring);
        }
    }

    /// The snapshot is over; `None` if there was none.
    pub fn end(&mut self) -> Option<Bulk> {
        self.bulk.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping() -> Mapping {
        let pairs = [("status", "service:"), ("jobs", "job/"), ("status", "svc.")];
        Mapping::new(pairs.into_iter().map(|(identity, prefix)| (identity.to_owned(), prefix)))
    }

    #[test]
    fn an_upstream_channel_has_one_number_and_all_its_names() {
        let mapping = mapping();
        assert_eq!((mapping.number("status"), mapping.number("jobs"), mapping.number("x")), (Some(0), Some(1), None));
        let mut name = "before".to_owned();
        let mut names = Vec::new();
        for index in 0..mapping.len(0) {
            mapping.write_name(0, index, "a", &mut name);
            names.push(name.clone());
        }
        assert_eq!(names, ["service:a", "svc.a"]);
        assert!(mapping.covers(0, "svc.a") && !mapping.covers(1, "svc.a"));
    }

    #[test]
    fn a_snapshot_knows_what_it_stated_until_its_end() {
        let mut mapping = mapping();
        mapping.stated(RingId(9));
        assert!(mapping.end().is_none(), "no snapshot began");
        mapping.begin(RingId(5), 0);
        mapping.stated(RingId(1));
        mapping.stated(RingId(2));
        assert_eq!(mapping.end().map(|bulk| bulk.stated), Some(BTreeSet::from([RingId(1), RingId(2)])));
        assert!(mapping.end().is_none());
    }
}
