//! Seeded random streams, one per purpose.
//!
//! Every decision of the simulator draws from the stream of its purpose, so that an added draw
//! (say, a new kind of disk fault) leaves the schedule and the client's choices of a seed as they
//! were. A stream is a xoshiro256++ generator seeded from the world's seed and the purpose's name
//! (and, where there are several of a kind, its number).

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// The stream for `purpose` number `index` in the world of `seed`.
    pub fn stream(seed: u64, purpose: &str, index: u64) -> Rng {
        // FNV-1a over the name, then the seed and the number mixed in; seed_from_u64 spreads the
        // result with SplitMix64, so neighbouring seeds give unrelated streams.
        let mut h = fnv(FNV_START, purpose.as_bytes());
        h = fnv(h, &seed.to_le_bytes());
        h = fnv(h, &index.to_le_bytes());
        Rng(Xoshiro256PlusPlus::seed_from_u64(h))
    }

    /// A uniform 64-bit number. (Named after what it returns; `next` would suggest an iterator.)
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..n`; 0 for `n == 0`. The bias of the multiply-shift, n / 2^64, does not
    /// matter here.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `low..=high`; `low` when the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with probability `p`. Always draws, also for 0 and 1, so that switching one fault off
    /// moves no other.
    pub fn chance(&mut self, p: f64) -> bool {
        // 53 bits: the uniform double in [0, 1).
        let x = (self.u64() >> 11) as f64 / (1u64 << 53) as f64;
        x < p
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.u64() >> 63 == 1
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    /// A random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

pub(super) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, continued from `h`. Not for speed: the hash of names and of small trace entries.
pub(super) fn fnv(mut h: u64, bytes: &[u8]) -> u64 {
    for &b in bytes {
        h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_seed_purpose_and_index() {
        let first = |seed, purpose, index| Rng::stream(seed, purpose, index).u64();
        assert_eq!(first(1, "disk", 0), first(1, "disk", 0));
        assert_ne!(first(1, "disk", 0), first(2, "disk", 0));
        assert_ne!(first(1, "disk", 0), first(1, "schedule", 0));
        assert_ne!(first(1, "disk", 0), first(1, "disk", 1));
    }

    #[test]
    fn ranges_are_met_at_both_ends() {
        let mut rng = Rng::stream(7, "test", 0);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[(rng.between(3, 7) - 3) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.between(9, 9), 9);
        assert!(!rng.chance(0.0));
        assert!(rng.chance(1.0));
    }
}
