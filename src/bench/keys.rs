//! Names and bytes of the objects: both follow from numbers, so nothing has to be remembered to
//! verify what a server answers.
//!
//! ```text
//! body   [ key number, 8 bytes LE | generation, 8 bytes LE | block[offset + 16 ..] ... wrapping ]
//! ```
//!
//! The generation counts how often a key was put. The offset into the random block follows from key
//! and generation, so two bodies differ everywhere, not only at their beginning, and neither
//! compresses. Making a body is one copy.

use std::ops::Range;

use crate::rt::sim::Rng;

/// Bytes of the random block. A prime, so that no power of two, such as a store's unit of writing,
/// is a multiple of the period: pieces of an object in the wrong order never look right.
pub const BLOCK_SIZE: usize = 1_048_583;

/// Bytes at the beginning of a body that say what it is.
pub const MARK_SIZE: usize = 16;

/// Digits of a key number in a key's name: sorted by name is sorted by number.
const KEY_DIGITS: usize = 12;

/// Keys of one key space.
pub const KEYS_MAX: u64 = 10u64.pow(KEY_DIGITS as u32);

/// What all names of objects of `size` bytes begin with. Only unreserved characters and slashes, so
/// that names stand in a path as they are.
pub fn prefix(size: u64) -> String {
    format!("ostrakon-bench/{size}/")
}

/// The name of a key, appended to `out`, which already holds the prefix.
pub fn push_name(out: &mut String, key: u64) {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    let _ = write!(out, "{key:0KEY_DIGITS$}");
}

/// The keys that core number `core` of `cores` looks after: neighbours, all of them covered once.
pub fn share(keys: u64, core: usize, cores: usize) -> Range<u64> {
    let border = |n: usize| (u128::from(keys) * n as u128 / cores as u128) as u64;
    border(core)..border(core + 1)
}

/// The body of one put of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub key: u64,
    pub generation: u64,
}

impl Identity {
    fn mark(self) -> [u8; MARK_SIZE] {
        let mut mark = [0; MARK_SIZE];
        mark[..8].copy_from_slice(&self.key.to_le_bytes());
        mark[8..].copy_from_slice(&self.generation.to_le_bytes());
        mark
    }

    /// Where in the block the body begins.
    fn offset(self) -> usize {
        // The finaliser of splitmix64: neighbouring keys begin far apart.
        let mut z = self.key ^ self.generation.rotate_left(40);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % BLOCK_SIZE as u64) as usize
    }
}

/// The bytes of every object of a run.
pub struct Content {
    block: Vec<u8>,
}

impl Content {
    /// Of a seed; about 1 ms.
    pub fn new(seed: u64) -> Content {
        let mut block = vec![0; BLOCK_SIZE];
        Rng::stream(seed, "object content", 0).fill(&mut block);
        Content { block }
    }

    /// The bytes `range` of a body, in order, in pieces.
    pub fn pieces(&self, body: Identity, range: Range<u64>, mut each: impl FnMut(&[u8])) {
        let mut at = range.start;
        if at < MARK_SIZE as u64 && at < range.end {
            let to = range.end.min(MARK_SIZE as u64);
            each(&body.mark()[at as usize..to as usize]);
            at = to;
        }
        let mut place = ((body.offset() as u64 + at) % BLOCK_SIZE as u64) as usize;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let piece = &self.block[place..place + left.min(BLOCK_SIZE - place)];
            each(piece);
            at += piece.len() as u64;
            place = (place + piece.len()) % BLOCK_SIZE;
        }
    }

    /// Fills `out` with the body's bytes from `from` on: one copy.
    pub fn fill(&self, body: Identity, from: u64, out: &mut [u8]) {
        let mut at = 0;
        self.pieces(body, from..from + out.len() as u64, |piece| {
            out[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        });
    }

    /// Whether `bytes` are those of the body from `from` on.
    pub fn matches(&self, body: Identity, from: u64, bytes: &[u8]) -> bool {
        let mut at = 0;
        let mut same = true;
        self.pieces(body, from..from + bytes.len() as u64, |piece| {
            same &= bytes[at..at + piece.len()] == *piece;
            at += piece.len();
        });
        same
    }
}

/// Compares a body with what the seed says, while it comes.
pub struct Verifier<'a> {
    content: &'a Content,
    key: u64,
    size: u64,
    mark: [u8; MARK_SIZE],
    at: u64,
    wrong: bool,
}

impl<'a> Verifier<'a> {
    /// For a body of `size` bytes of any generation of `key`.
    pub fn new(content: &'a Content, key: u64, size: u64) -> Verifier<'a> {
        Verifier {
            content,
            key,
            size,
            mark: [0; MARK_SIZE],
            at: 0,
            wrong: false,
        }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        if self.at + bytes.len() as u64 > self.size {
            self.wrong = true;
        }
        if self.wrong {
            return;
        }
        let mark_end = self.size.min(MARK_SIZE as u64);
        if self.at < mark_end {
            let at = self.at as usize;
            let count = bytes.len().min(mark_end as usize - at);
            self.mark[at..at + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.at += count as u64;
            if self.at == mark_end {
                // A body shorter than the mark says only part of it.
                let shown = mark_end as usize;
                self.wrong |= self.mark[..shown.min(8)] != self.key.to_le_bytes()[..shown.min(8)];
            }
        }
        if !bytes.is_empty() && !self.wrong {
            let mut generation = [0; 8];
            generation.copy_from_slice(&self.mark[8..]);
            let body = Identity {
                key: self.key,
                generation: u64::from_le_bytes(generation),
            };
            self.wrong = !self.content.matches(body, self.at, bytes);
            self.at += bytes.len() as u64;
        }
    }

    /// Whether the whole body came, and was right.
    pub fn is_right(&self) -> bool {
        !self.wrong && self.at == self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: Identity = Identity {
        key: 7,
        generation: 3,
    };

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let content = Content::new(1);
        let size = 2 * BLOCK_SIZE + 1000;
        let mut whole = vec![0; size];
        content.fill(BODY, 0, &mut whole);
        let mut pieces = Vec::new();
        for from in (0..size).step_by(9_999) {
            let mut piece = vec![0; 9_999.min(size - from)];
            content.fill(BODY, from as u64, &mut piece);
            pieces.extend_from_slice(&piece);
        }
        assert!(whole == pieces);
        assert_eq!(whole[..8], 7u64.to_le_bytes());
        assert!(content.matches(BODY, 5, &whole[5..]));
        assert!(!content.matches(BODY, 5, &whole[6..]));
        let other = Identity {
            generation: 4,
            ..BODY
        };
        let mut next = vec![0; 4096];
        content.fill(other, 0, &mut next);
        assert_ne!(next[16..64], whole[16..64]);
    }

    #[test]
    fn the_verifier_notices_every_byte() {
        let content = Content::new(1);
        for size in [0, 1, 7, 8, 15, 16, 17, 500] {
            let mut body = vec![0; size];
            content.fill(BODY, 0, &mut body);
            let check = |key: u64, body: &[u8], step: usize| {
                let mut verifier = Verifier::new(&content, key, size as u64);
                body.chunks(step).for_each(|piece| verifier.update(piece));
                verifier.is_right()
            };
            for step in [1, 3, 16, 1000] {
                assert!(check(7, &body, step), "{size} by {step}");
                if size > 0 {
                    assert!(!check(8, &body, step), "{size} by {step}");
                    assert!(!check(7, &body[1..], step), "{size} by {step}");
                }
                // The generation of a body that ends within it is not known.
                for at in (0..size).filter(|&at| size > MARK_SIZE || at < 8) {
                    let mut body = body.clone();
                    body[at] ^= 1;
                    assert!(!check(7, &body, step), "{size} by {step}, byte {at}");
                }
            }
            body.push(0);
            assert!(!check(7, &body, 1000));
        }
    }

    #[test]
    fn shares_cover_all_keys_once() {
        for (keys, cores) in [(10, 3), (3, 3), (1_000_003, 7), (0, 2)] {
            let mut next = 0;
            for core in 0..cores {
                let share = share(keys, core, cores);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, keys);
        }
    }

    #[test]
    fn names_sort_as_numbers_do() {
        let name = |key| {
            let mut name = prefix(4096);
            push_name(&mut name, key);
            name
        };
        assert_eq!(name(42), "ostrakon-bench/4096/000000000042");
        assert!(name(99) < name(100));
        assert_eq!(name(KEYS_MAX - 1).len(), name(0).len());
    }
}
