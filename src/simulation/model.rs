//! What the store must answer: a plain model of its keys.
//!
//! Each key has one writer, so its states form a line. An acknowledged state settles the key; an attempt whose outcome
//! is unknown (the process died) stays possible until somebody looks after the restart, and from then on what was seen
//! is settled: an unacknowledged write may appear or not, but it may not change its mind.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

/// A body that can be made again from its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    pub seed: u64,
    pub size: usize,
}

impl Content {
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

    pub fn md5(&self) -> [u8; 16] {
        Md5::digest(self.bytes()).into()
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
