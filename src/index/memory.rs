//! A memory table: the changes since the last checkpoint, in key order.
//!
//! `BTreeMap` and not something cleverer: the table holds at most `ACTIVE_ENTRIES_MAX` keys, a
//! lookup in it costs less than the LMDB lookup that follows a miss, and iteration in order is
//! what both the scan and the checkpoint need (numbers: `examples/index_costs.rs`).

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

/// What an entry costs beyond its key and value: two `Vec` headers (48), their share of a B-tree
/// node that is two thirds full (24), and the allocator's rounding of two blocks (24).
pub const ENTRY_OVERHEAD_BYTES: usize = 96;

/// A value, or `None`: the marker of a removal that hides the key in every lower layer.
pub type Change = Option<Vec<u8>>;

#[derive(Default, Clone, Debug)]
pub struct MemoryTable {
    map: BTreeMap<Vec<u8>, Change>,
    bytes: usize,
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
