//! What is on stable storage in the journal and not in sled yet, in the order of its keys, as it will stand in sled.
//!
//! What came and went again since the table was begun is not in it: sled never hears of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use super::record::Key;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) key: Key,
    /// `None`: nothing any more.
    pub(super) value: Option<Vec<u8>>,
    /// Nothing was there before.
    pub(super) is_new: bool,
}

/// The changes of one commit.
#[derive(Debug, Default)]
pub(super) struct Writes(pub(super) Vec<Write>);

impl Writes {
    /// Puts a value where nothing is.
    pub(super) fn create(&mut self, key: Key, value: impl Into<Vec<u8>>) {
        self.0.push(Write { key, value: Some(value.into()), is_new: true });
    }

    /// Puts a value where one may be.
    pub(super) fn put(&mut self, key: Key, value: impl Into<Vec<u8>>) {
        self.0.push(Write { key, value: Some(value.into()), is_new: false });
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.0.push(Write { key, value: None, is_new: false });
    }
}

#[derive(Debug)]
struct Value {
    value: Option<Vec<u8>>,
    /// Nothing is below it.
    is_new: bool,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Key, Value>,
    bytes: u64,
}

impl Table {
    pub(super) fn apply(&mut self, writes: Writes) {
        for Write { key, value, is_new } in writes.0 {
            let added = length(value.as_deref());
            match self.entries.entry(key) {
                Entry::Vacant(place) => {
                    self.bytes += added + place.key().len() as u64 + OVERHEAD;
                    place.insert(Value { value, is_new });
                }
                Entry::Occupied(place) if value.is_none() && place.get().is_new => {
                    let (key, before) = place.remove_entry();
                    self.bytes -= length(before.value.as_deref()) + key.len() as u64 + OVERHEAD;
                }
                Entry::Occupied(mut place) => {
                    let before = std::mem::replace(&mut place.get_mut().value, value);
                    self.bytes = self.bytes + added - length(before.as_deref());
                }
            }
        }
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it knows of a key: a value, or that there is none any more.
    pub(super) fn get(&self, key: &Key) -> Option<Option<&[u8]>> {
        self.entries.get(key).map(|entry| entry.value.as_deref())
    }

    /// The entries after a key, in order.
    pub(super) fn after(&self, last: Option<&Key>) -> impl Iterator<Item = (&Key, Option<&[u8]>)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<Key, _>((from, Bound::Unbounded)).map(|(key, entry)| (key, entry.value.as_deref()))
    }
}

/// What an entry takes besides key and value.
const OVERHEAD: u64 = 80;

fn length(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| value.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(table: &mut Table, write: impl FnOnce(&mut Writes)) {
        let mut writes = Writes::default();
        write(&mut writes);
        table.apply(writes);
    }

    #[test]
    fn what_came_and_went_is_not_there_and_what_was_below_is_removed() {
        let mut table = Table::default();
        let [new, old, other] = [1, 2, 3].map(|sequence| Key::message(sequence, 0));
        write(&mut table, |w| w.create(new.clone(), [1; 100]));
        write(&mut table, |w| w.put(old.clone(), [2; 100]));
        write(&mut table, |w| w.put(new.clone(), [3; 50]));
        assert_eq!(table.get(&new), Some(Some([3; 50].as_slice())));
        write(&mut table, |w| {
            w.remove(new.clone());
            w.remove(old.clone());
            w.remove(other.clone());
        });
        assert_eq!((table.get(&new), table.get(&old), table.get(&other)), (None, Some(None), Some(None)));
        // Below it there is still something to remove.
        write(&mut table, |w| w.create(old.clone(), [4]));
        write(&mut table, |w| w.remove(old.clone()));
        assert_eq!(table.get(&old), Some(None));
        assert!(table.after(None).map(|(key, _)| key).eq([&old, &other]));
        assert!(table.after(Some(&old)).map(|(key, _)| key).eq([&other]));
        assert_eq!(table.bytes(), 2 * (old.len() as u64 + OVERHEAD));
    }
}
