//! Values of the variables that `set` stores, as JSON texts.
//!
//! Lifetimes: session variables live over reconnects until they are forgotten; a channel's until the channel is; incoming
//! ones for one message. Invariant: their number is fixed by the dialect, each is at most [`LARGEST`] bytes, and at most
//! [`MOST_CHANNELS`] channels have some.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ChannelId;
use super::variable::{Names, Variable};

/// The largest value that is stored, in bytes of JSON text. A larger one leaves its variable unset.
pub(crate) const LARGEST: usize = 16 * 1024;

/// The most channels with variables; the oldest number gives way, and is subscribed without what was known about it.
pub(crate) const MOST_CHANNELS: usize = 131_072;

/// All stored values of a conversation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    session: Vec<Option<String>>,
    incoming: Vec<Option<String>>,
    channels: BTreeMap<ChannelId, Vec<Option<String>>>,
}

impl Variables {
    /// Makes room for the dialect's names.
    pub(crate) fn fit(&mut self, names: &Names) {
        self.session.resize(names.session.len(), None);
        self.incoming.resize(names.incoming.len(), None);
        for slots in self.channels.values_mut() {
            slots.resize(names.of_channel.len(), None);
        }
    }

    pub(crate) fn session(&self, slot: usize) -> Option<&str> {
        self.session.get(slot)?.as_deref()
    }

    pub(crate) fn incoming(&self, slot: usize) -> Option<&str> {
        self.incoming.get(slot)?.as_deref()
    }

    pub(crate) fn of_channel(&self, channel: ChannelId, slot: usize) -> Option<&str> {
        self.channels.get(&channel)?.get(slot)?.as_deref()
    }

    /// A new message begins.
    pub(crate) fn clear_incoming(&mut self) {
        self.incoming.iter_mut().for_each(|slot| *slot = None);
    }

    /// Whether some session variable has a value.
    pub(crate) fn knows_session(&self) -> bool {
        self.session.iter().any(Option::is_some)
    }

    /// Session variables are worthless now.
    pub(crate) fn forget_session(&mut self) {
        self.session.iter_mut().for_each(|slot| *slot = None);
    }

    pub(crate) fn forget_channel(&mut self, channel: ChannelId) {
        self.channels.remove(&channel);
    }

    /// Stores a JSON text; `None` or `null` unsets. A `channel.x` variable is stored for each of `channels`.
    pub(crate) fn set(&mut self, names: &Names, target: &Variable, value: Option<&str>, channels: &[ChannelId]) {
        let value = value.filter(|value| *value != "null" && value.len() <= LARGEST);
        match target {
            Variable::Session(slot) => store(&mut self.session, *slot, value),
            Variable::Incoming(slot) => store(&mut self.incoming, *slot, value),
            Variable::OfChannel(slot) => {
                for channel in channels {
                    store(self.slots(names, *channel), *slot, value);
                }
            }
            _ => {} // `Names::define` gives nothing else.
        }
    }

    /// Stores a number for a channel, reusing what stood there.
    pub(crate) fn set_number(&mut self, names: &Names, channel: ChannelId, slot: usize, number: u64) {
        if let Some(place) = self.slots(names, channel).get_mut(slot) {
            let text = place.get_or_insert_default();
            text.clear();
            // Writing to a String cannot fail.
            let _ = write!(text, "{number}");
        }
    }

    fn slots(&mut self, names: &Names, channel: ChannelId) -> &mut Vec<Option<String>> {
        if self.channels.len() >= MOST_CHANNELS && !self.channels.contains_key(&channel) {
            self.channels.pop_first();
        }
        self.channels.entry(channel).or_insert_with(|| vec![None; names.of_channel.len()])
    }
}

fn store(slots: &mut [Option<String>], slot: usize, value: Option<&str>) {
    let Some(place) = slots.get_mut(slot) else { return };
    match (place.as_mut(), value) {
        (Some(old), Some(new)) => {
            old.clear();
            old.push_str(new);
        }
        _ => *place = value.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_lives_as_long_as_it_should() {
        let mut names = Names::new(None);
        let session = names.define("pid").unwrap();
        let epoch = names.define("channel.epoch").unwrap();
        let incoming = names.define("in.x").unwrap();
        let mut variables = Variables::default();
        variables.fit(&names);
        let (a, b) = (ChannelId(1), ChannelId(2));
        for target in [&session, &epoch, &incoming] {
            variables.set(&names, target, Some("\"v\""), &[a, b]);
        }
        variables.clear_incoming();
        assert_eq!((variables.session(0), variables.incoming(0)), (Some("\"v\""), None));
        variables.forget_channel(a);
        assert_eq!((variables.of_channel(a, 2), variables.of_channel(b, 2)), (None, Some("\"v\"")));
        variables.forget_session();
        assert_eq!(variables.session(0), None);
        assert_eq!(variables.of_channel(b, 2), Some("\"v\""));
    }

    #[test]
    fn the_oldest_channel_gives_way() {
        let names = Names::new(None);
        let mut variables = Variables::default();
        for id in 0..=u32::try_from(MOST_CHANNELS).unwrap() {
            variables.set_number(&names, ChannelId(id), 1, 7);
        }
        assert_eq!((variables.of_channel(ChannelId(0), 1), variables.of_channel(ChannelId(1), 1)), (None, Some("7")));
    }

    #[test]
    fn null_and_what_is_too_large_unset() {
        let mut names = Names::new(None);
        let pid = names.define("pid").unwrap();
        let mut variables = Variables::default();
        variables.fit(&names);
        let large = "1".repeat(LARGEST + 1);
        for value in [Some("null"), None, Some(large.as_str())] {
            variables.set(&names, &pid, Some("1"), &[]);
            variables.set(&names, &pid, value, &[]);
            assert_eq!(variables.session(0), None);
        }
    }
}
