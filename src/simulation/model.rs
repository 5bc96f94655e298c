//! What the store must answer: a plain model of its keys.
//!
//! Each key has one writer, so its states form a line. An acknowledged state settles the key; an attempt whose outcome
//! is unknown (the process died) stays possible until somebody looks after the restart, and from then on what was seen
//! is settled: an unacknowledged write may appear or not, but it may not change its mind.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

use super::uploads::Pending;

/// A body that can be made again from its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    pub seed: u64,
    pub size: usize,
    /// Parts of the upload that made it, 0 for a put, and where all but the last of them end.
    pub parts: usize,
    pub cuts: [usize; PARTS_MAX - 1],
}

/// Parts of an upload.
pub const PARTS_MAX: usize = 4;

impl Content {
    /// Of a put.
    pub fn plain(seed: u64, size: usize) -> Content {
        Content {
            seed,
            size,
            parts: 0,
            cuts: [0; PARTS_MAX - 1],
        }
    }

    /// The bytes of each part.
    pub fn part_bytes(&self) -> Vec<Vec<u8>> {
        let bytes = self.bytes();
        let mut start = 0;
        (0..self.parts)
            .map(|part| {
                let end = if part + 1 == self.parts {
                    self.size
                } else {
                    self.cuts[part]
                };
                let part = bytes[start..end].to_vec();
                start = end;
                part
            })
            .collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut state = self.seed | 1;
        let mut out = Vec::with_capacity(self.size + 8);
        while out.len() < self.size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        out.truncate(self.size);
        out
    }

    /// The one in its entity tag.
    pub fn md5(&self) -> [u8; 16] {
        if self.parts == 0 {
            return Md5::digest(self.bytes()).into();
        }
        let mut whole = Md5::new();
        for part in self.part_bytes() {
            whole.update(Md5::digest(part));
        }
        whole.finalize().into()
    }
}

/// A key's value: `None` is absent.
pub type State = Option<Content>;

#[derive(Debug)]
struct Key {
    /// Every state that was settled or attempted, in order.
    history: Vec<State>,
    /// The settled one.
    floor: usize,
}

/// All keys by name.
#[derive(Debug, Default)]
pub struct Model {
    keys: BTreeMap<Vec<u8>, Key>,
    pub pending: Vec<Pending>,
    /// The clock was set since the pending completions were tried, so a day may have passed for the store.
    pub clock_was_set: bool,
}

/// Where a key's history stood when a read began.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Model {
    pub fn add(&mut self, key: &[u8]) {
        self.keys.entry(key.to_vec()).or_insert(Key {
            history: vec![None],
            floor: 0,
        });
    }

    pub fn names(&self) -> Vec<Vec<u8>> {
        self.keys.keys().cloned().collect()
    }

    fn key(&mut self, name: &[u8]) -> &mut Key {
        self.keys.get_mut(name).expect("a key of the model")
    }

    /// A write begins: its state is possible from now on.
    pub fn attempt(&mut self, name: &[u8], state: State) {
        self.key(name).history.push(state);
    }

    /// The last attempt was acknowledged.
    pub fn settle(&mut self, name: &[u8]) {
        let key = self.key(name);
        key.floor = key.history.len() - 1;
    }

    /// The last attempt was refused: it never happened.
    pub fn withdraw(&mut self, name: &[u8]) {
        let key = self.key(name);
        assert!(
            key.history.len() - 1 > key.floor,
            "only an attempt can be withdrawn"
        );
        key.history.pop();
    }

    pub fn mark(&mut self, name: &[u8]) -> Mark {
        Mark(self.key(name).floor)
    }

    /// States that a read begun at `mark` and ending now may see.
    pub fn allowed(&self, name: &[u8], mark: Mark) -> &[State] {
        &self.keys[name].history[mark.0..]
    }

    /// What was seen while nothing else went on is settled.
    pub fn observe(&mut self, name: &[u8], state: State) {
        let key = self.key(name);
        key.history.push(state);
        key.floor = key.history.len() - 1;
    }
}
