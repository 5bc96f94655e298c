//! A memory table: the changes since the last checkpoint, in key order.
//!
//! A `BTreeMap`, because the scan and the checkpoint want the order and a hit costs no more than
//! the LMDB lookup it saves; before it stands a filter, because most lookups miss, and a miss would
//! cost as much as the LMDB lookup that follows (numbers: `examples/index_costs.rs`).

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use super::ACTIVE_ENTRIES_MAX;

/// What an entry costs beyond its key and value: two `Vec` headers (48), their share of a B-tree
/// node that is two thirds full (24), and the allocator's rounding of two blocks (24).
pub const ENTRY_OVERHEAD_BYTES: usize = 96;

/// A value, or `None`: the marker of a removal that hides the key in every lower layer.
pub type Change = Option<Vec<u8>>;

#[derive(Default, Clone, Debug)]
pub struct MemoryTable {
    map: BTreeMap<Vec<u8>, Change>,
    bytes: usize,
    filter: Option<Filter>,
}

/// Tables smaller than this sit in the caches and do without a filter.
const FILTER_ENTRIES_MIN: usize = 2048;

/// 512 KiB: 16 bits for each of `ACTIVE_ENTRIES_MAX` keys, so that less than one absent key in
/// fifty passes a full table.
const FILTER_WORDS: usize = ACTIVE_ENTRIES_MAX * 16 / 64;
const _: () = assert!(FILTER_WORDS.is_power_of_two());

/// A Bloom filter of two bits in one word a key: one cache miss a lookup.
#[derive(Clone, Debug)]
struct Filter(Box<[u64]>);

impl Filter {
    fn new() -> Self {
        Filter(vec![0; FILTER_WORDS].into_boxed_slice())
    }

    fn place(key: &[u8]) -> (usize, u64) {
        let hash = hash(key);
        let word = (hash >> 32) as usize % FILTER_WORDS;
        (word, 1 << (hash & 63) | 1 << (hash >> 6 & 63))
    }

    fn add(&mut self, key: &[u8]) {
        let (word, bits) = Self::place(key);
        self.0[word] |= bits;
    }

    fn may_hold(&self, key: &[u8]) -> bool {
        let (word, bits) = Self::place(key);
        self.0[word] & bits == bits
    }
}

/// Eight bytes a step, folded 128-bit multiplication (as wyhash does). Unseeded: keys chosen to
/// collide only make the filter useless, and lookups as dear as without it.
fn hash(key: &[u8]) -> u64 {
    const A: u64 = 0x9E37_79B9_7F4A_7C15;
    const B: u64 = 0xD6E8_FEB8_6659_FD93;
    let fold = |x: u64, y: u64| {
        let product = u128::from(x) * u128::from(y);
        (product >> 64) as u64 ^ product as u64
    };
    let (words, rest) = key.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut hash = B ^ key.len() as u64;
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), A);
    }
    fold(hash ^ u64::from_le_bytes(last), B)
}

pub type Iter<'a> = btree_map::Range<'a, Vec<u8>, Change>;

impl MemoryTable {
    /// Keys, values and their overhead; what `ACTIVE_BYTES_MAX` bounds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Markers included.
    pub fn entries(&self) -> usize {
        self.map.len()
    }

    /// `None`: this table says nothing about the key. `Some(None)`: removed here.
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        if self
            .filter
            .as_ref()
            .is_some_and(|filter| !filter.may_hold(key))
        {
            return None;
        }
        self.map.get(key).map(|change| change.as_deref())
    }

    pub fn set(&mut self, key: &[u8], change: Change) {
        let value_len = change.as_ref().map_or(0, Vec::len);
        // Looked up before it is inserted, because an overwrite (the common case for positions
        // and counters) then needs no copy of the key.
        match self.map.get_mut(key) {
            Some(slot) => {
                self.bytes -= slot.as_ref().map_or(0, Vec::len);
                self.bytes += value_len;
                *slot = change;
            }
            None => {
                self.bytes += key.len() + value_len + ENTRY_OVERHEAD_BYTES;
                self.map.insert(key.to_vec(), change);
                if let Some(filter) = &mut self.filter {
                    filter.add(key);
                } else if self.map.len() >= FILTER_ENTRIES_MIN {
                    let filter = self.filter.insert(Filter::new());
                    self.map.keys().for_each(|key| filter.add(key));
                }
            }
        }
    }

    /// Forgets the key altogether; right only where no lower layer can hold it.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(change) = self.map.remove(key) {
            let value_len = change.map_or(0, |v| v.len());
            self.bytes -= key.len() + value_len + ENTRY_OVERHEAD_BYTES;
        }
    }

    pub fn from(&self, key: &[u8]) -> Iter<'_> {
        self.map
            .range::<[u8], _>((Bound::Included(key), Bound::Unbounded))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.map
            .iter()
            .map(|(key, change)| (key.as_slice(), change.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_hides_no_key_and_most_absent_ones() {
        let mut table = MemoryTable::default();
        let key = |i: usize| [&i.to_be_bytes()[..], &vec![b'x'; i % 23]].concat();
        for i in 0..ACTIVE_ENTRIES_MAX {
            table.set(&key(i), (i % 3 != 0).then(|| vec![i as u8]));
            if i % 5 == 0 {
                table.forget(&key(i));
            }
        }
        for i in 0..ACTIVE_ENTRIES_MAX {
            let expected = (i % 5 != 0).then_some((i % 3 != 0).then_some([i as u8]));
            assert_eq!(
                table.get(&key(i)),
                expected.as_ref().map(|v| v.as_ref().map(|v| &v[..]))
            );
        }
        let filter = table.filter.as_ref().expect("a large table");
        let absent = ACTIVE_ENTRIES_MAX..2 * ACTIVE_ENTRIES_MAX;
        let passed = absent.filter(|i| filter.may_hold(&key(*i))).count();
        assert!(passed < ACTIVE_ENTRIES_MAX / 50, "{passed}");
    }
}
