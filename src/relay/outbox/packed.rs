//! A sorted table for very many small entries: little memory beside the entries themselves.
//!
//! Entries lie in sorted chunks of a vector. What is appended in order fills its chunks wholly; a tree of the standard library
//! leaves nearly half of each node empty then, and a million messages are appended in order.
//! Cost: a look-up is two binary searches; an insertion or removal moves at most a chunk.

use std::collections::VecDeque;

/// Entries of a chunk at most.
const CHUNK: usize = 256;

/// The table; keys are unique.
#[derive(Debug)]
pub(super) struct Packed<K, V> {
    /// None is empty.
    chunks: VecDeque<Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for Packed<K, V> {
    fn default() -> Self {
        Packed { chunks: VecDeque::new(), len: 0 }
    }
}

impl<K: Ord + Copy, V> Packed<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn first(&self) -> Option<&(K, V)> {
        self.chunks.front()?.first()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.chunks.iter().flatten()
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        let (chunk, place) = self.find(key).ok()?;
        Some(&self.chunks[chunk][place].1)
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let (chunk, place) = self.find(key).ok()?;
        Some(&mut self.chunks[chunk][place].1)
    }

    /// Puts an entry in, or in the place of the one with the same key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let (chunk, place) = match self.find(key) {
            Ok((chunk, place)) => {
                self.chunks[chunk][place].1 = value;
                return;
            }
            Err(place) => place,
        };
        self.len += 1;
        let last = chunk + 1 >= self.chunks.len();
        let Some(entries) = self.chunks.get_mut(chunk) else { return self.chunks.push_back(vec![(key, value)]) };
        if entries.len() < CHUNK {
            entries.insert(place, (key, value));
        } else if last && place == entries.len() {
            self.chunks.push_back(vec![(key, value)]);
        } else {
            let mut upper = entries.split_off(CHUNK / 2);
            match place.checked_sub(CHUNK / 2) {
                Some(place) => upper.insert(place, (key, value)),
                None => entries.insert(place, (key, value)),
            }
            entries.shrink_to(CHUNK);
            self.chunks.insert(chunk + 1, upper);
        }
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let (chunk, place) = self.find(key).ok()?;
        let (_, value) = self.chunks[chunk].remove(place);
        self.len -= 1;
        let left = self.chunks[chunk].len();
        if left == 0 {
            self.chunks.remove(chunk);
        } else if left < CHUNK / 4 {
            self.join(chunk);
            self.join(chunk.saturating_sub(1));
        }
        Some(value)
    }

    pub(super) fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.first()?.0;
        Some((key, self.remove(key)?))
    }

    /// Puts a chunk that has become small to the one after it, if both fit well into one.
    fn join(&mut self, chunk: usize) {
        let fits = self.chunks.get(chunk + 1).is_some_and(|next| next.len() + self.chunks[chunk].len() <= CHUNK / 2);
        if fits && let Some(mut next) = self.chunks.remove(chunk + 1) {
            self.chunks[chunk].append(&mut next);
        }
    }

    /// Where the key is, or where it would be: chunk, and place in it.
    fn find(&self, key: K) -> Result<(usize, usize), (usize, usize)> {
        let after = self.chunks.partition_point(|entries| entries.first().is_some_and(|(first, _)| *first <= key));
        let chunk = after.saturating_sub(1);
        let Some(entries) = self.chunks.get(chunk) else { return Err((0, 0)) };
        let found = entries.binary_search_by(|(other, _)| other.cmp(&key));
        found.map(|place| (chunk, place)).map_err(|place| (chunk, place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in proptest::collection::vec((0u8..4, 0u16..2_000, any::<u8>()), 1..4_000)) {
            let (mut packed, mut map) = (Packed::default(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 | 1 => {
                        packed.insert(key, value);
                        map.insert(key, value);
                    }
                    2 => prop_assert_eq!(packed.remove(key), map.remove(&key)),
                    _ if value < 20 => prop_assert_eq!(packed.pop_first(), map.pop_first()),
                    _ => prop_assert_eq!(packed.get(key), map.get(&key)),
                }
                prop_assert_eq!((packed.len(), packed.is_empty()), (map.len(), map.is_empty()));
            }
            prop_assert!(packed.iter().map(|(key, value)| (key, value)).eq(map.iter()));
            prop_assert!(packed.chunks.iter().all(|entries| !entries.is_empty() && entries.len() <= CHUNK));
        }
    }

    #[test]
    fn what_is_appended_fills_its_chunks_and_what_is_left_of_many_takes_few() {
        let mut packed = Packed::default();
        for key in 0..10_000u32 {
            packed.insert(key, ());
        }
        assert_eq!(packed.chunks.len(), 10_000usize.div_ceil(CHUNK));
        assert!(packed.chunks.iter().all(|entries| entries.capacity() <= CHUNK));
        for key in (0..10_000).filter(|key| key % 100 != 0) {
            packed.remove(key);
        }
        assert_eq!(packed.len(), 100);
        assert!(packed.chunks.len() <= 4, "{}", packed.chunks.len());
    }
}
