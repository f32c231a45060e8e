//! The channels that were subscribed and not forgotten, by upstream's name and by the relay's number. They outlive an
//! attempt: a session that upstream resumes goes on with them.
//!
//! Invariant: both directions agree, and there are at most [`MOST`]. Several channels may have one name where their params
//! differ.

use std::collections::{BTreeMap, HashMap};

use super::{ChannelId, ChannelSpec};

/// The oldest number gives way; what is about it is told by name only.
const MOST: usize = super::variables::MOST_CHANNELS;

/// Names and params of the channels at hand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Channels {
    by_name: HashMap<Box<str>, Vec<ChannelId>>,
    params: BTreeMap<ChannelId, (Box<str>, Option<Box<str>>)>,
}

impl Channels {
    pub(crate) fn add(&mut self, spec: &ChannelSpec<'_>) {
        if self
            .params
            .get(&spec.id)
            .is_some_and(|(name, params)| **name == *spec.name && params.as_deref() == spec.params)
        {
            return;
        }
        self.remove(spec.id);
        if self.params.len() >= MOST
            && let Some((oldest, _)) = self.params.first_key_value()
        {
            self.remove(*oldest);
        }
        self.params.insert(spec.id, (spec.name.into(), spec.params.map(Box::from)));
        self.by_name.entry(spec.name.into()).or_default().push(spec.id);
    }

    pub(crate) fn remove(&mut self, id: ChannelId) {
        let Some((name, _)) = self.params.remove(&id) else { return };
        if let Some(ids) = self.by_name.get_mut(&name) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }

    /// The channel's params.
    pub(crate) fn params(&self, id: ChannelId) -> Option<&str> {
        self.params.get(&id)?.1.as_deref()
    }

    /// All channels of that name.
    pub(crate) fn named(&self, name: &str) -> &[ChannelId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The channel of that name and these params; where none has these params, the first of that name.
    pub(crate) fn find(&self, name: &str, params: Option<&str>) -> Option<ChannelId> {
        let ids = self.named(name);
        let has = |id: &&ChannelId| self.params.get(id).is_some_and(|(_, known)| known.as_deref() == params);
        ids.iter().find(has).or(ids.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_one_name_are_told_apart_by_params() {
        let mut channels = Channels::default();
        let spec = |id, name, params| ChannelSpec { id: ChannelId(id), name, params };
        channels.add(&spec(1, "book", Some("{\"depth\":10}")));
        channels.add(&spec(2, "book", None));
        channels.add(&spec(2, "book", None));
        assert_eq!(channels.find("book", None), Some(ChannelId(2)));
        assert_eq!(channels.find("book", Some("{}")), Some(ChannelId(1)));
        channels.add(&spec(1, "trade", None));
        assert_eq!((channels.named("book"), channels.named("trade")), (&[ChannelId(2)][..], &[ChannelId(1)][..]));
        channels.remove(ChannelId(2));
        assert_eq!((channels.find("book", None), channels.by_name.len()), (None, 1));
    }
}
