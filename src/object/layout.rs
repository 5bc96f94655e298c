//! Where the bytes of an object, or of a part, lie: pure arithmetic of its size and scheme.
//!
//! ```text
//!   chunk    whole stripes, as many as 32 MiB hold
//!   run      the stripes of one store or fetch, some 1 MiB of the object: a run of segments in every role
//!   stripe   k data segments of 64 KiB, one after the other, and m of parity
//! ```
//!
//! Only the last stripe of an object is short. It is split evenly over the k data segments, in whole blocks, so that no
//! drive gets one full segment and the others none; the last ones may still be short, or empty, and an empty segment is
//! not stored. Parity is as long as the longest data segment, padded to a block where there are several.

use std::ops::Range;

use shard_format::{BLOCK_SIZE, CHUNK_SIZE, ChunkIndex, Role, SEGMENT_SIZE, Scheme};

use crate::volume::segments_per_run;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub scheme: Scheme,
    pub size: u64,
}

/// Stripes that are stored and fetched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub chunk: ChunkIndex,
    /// Its first row, and how many it has.
    pub row: u16,
    pub rows: u16,
    /// Its bytes in the object.
    pub start: u64,
    pub end: u64,
}

/// One row of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stripe {
    pub start: u64,
    pub end: u64,
    /// Bytes of the object per data segment; the last ones may have fewer.
    cell: usize,
    scheme: Scheme,
}

impl Layout {
    fn stripe_bytes(&self) -> u64 {
        u64::from(self.scheme.k) * SEGMENT_SIZE as u64
    }

    /// Bytes of the object in a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        CHUNK_SIZE as u64 / self.stripe_bytes() * self.stripe_bytes()
    }

    pub fn chunks(&self) -> u32 {
        self.size.div_ceil(self.chunk_bytes()) as u32
    }

    /// The run that holds the byte at `offset`, which the object must have.
    pub fn run_at(&self, offset: u64) -> Run {
        assert!(offset < self.size);
        let chunk = offset / self.chunk_bytes();
        let base = chunk * self.chunk_bytes();
        let per_run = u64::from(segments_per_run(self.scheme));
        let row = (offset - base) / self.stripe_bytes() / per_run * per_run;
        let start = base + row * self.stripe_bytes();
        let end = (start + per_run * self.stripe_bytes())
            .min(base + self.chunk_bytes())
            .min(self.size);
        Run {
            chunk: ChunkIndex(chunk as u32),
            row: row as u16,
            rows: (end - start).div_ceil(self.stripe_bytes()) as u16,
            start,
            end,
        }
    }

    /// Of the run's stripes those that hold bytes of `start..end`.
    pub fn part_of(&self, run: &Run, start: u64, end: u64) -> Run {
        let (start, end) = (start.max(run.start), end.min(run.end));
        assert!(start < end);
        let first = (start - run.start) / self.stripe_bytes();
        let last = (end - 1 - run.start) / self.stripe_bytes();
        Run {
            row: run.row + first as u16,
            rows: (last - first + 1) as u16,
            start: run.start + first * self.stripe_bytes(),
            end: (run.start + (last + 1) * self.stripe_bytes()).min(run.end),
            ..*run
        }
    }

    /// The `row`-th stripe of the run, counted from the run's first.
    pub fn stripe(&self, run: &Run, row: u16) -> Stripe {
        let start = run.start + u64::from(row) * self.stripe_bytes();
        let end = (start + self.stripe_bytes()).min(run.end);
        let even = ((end - start) as usize).div_ceil(usize::from(self.scheme.k));
        Stripe {
            start,
            end,
            cell: even.next_multiple_of(BLOCK_SIZE),
            scheme: self.scheme,
        }
    }

    /// Bytes that a role of the run takes in memory: its segments, each in whole blocks.
    pub fn memory(&self, run: &Run, role: Role) -> usize {
        (0..run.rows)
            .map(|row| {
                self.stripe(run, row)
                    .stored(role)
                    .next_multiple_of(BLOCK_SIZE)
            })
            .sum()
    }
}

impl Stripe {
    /// The bytes of the object that a data segment holds; empty for the last ones of a short stripe, and for parity.
    pub fn bytes_of(&self, role: Role) -> Range<u64> {
        if role.0 >= self.scheme.k {
            return self.end..self.end;
        }
        let at = |n: usize| (self.start + (n * self.cell) as u64).min(self.end);
        at(usize::from(role.0))..at(usize::from(role.0) + 1)
    }

    /// Bytes of a segment on the drive.
    pub fn stored(&self, role: Role) -> usize {
        if role.0 < self.scheme.k {
            let bytes = self.bytes_of(role);
            (bytes.end - bytes.start) as usize
        } else {
            self.parity()
        }
    }

    pub fn parity(&self) -> usize {
        if self.scheme.k == 1 {
            (self.end - self.start) as usize
        } else {
            self.cell
        }
    }

    /// The data segment that holds a byte of the stripe.
    pub fn role_of(&self, offset: u64) -> Role {
        assert!((self.start..self.end).contains(&offset));
        Role(((offset - self.start) as usize / self.cell) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheme(k: u8, m: u8) -> Scheme {
        Scheme {
            k,
            m,
            ..Scheme::PLAIN
        }
    }

    #[test]
    fn a_short_stripe_is_split_evenly() {
        let layout = Layout {
            scheme: scheme(4, 2),
            size: 100_000,
        };
        let run = layout.run_at(0);
        assert_eq!((run.start, run.end, run.rows), (0, 100_000, 1));
        let stripe = layout.stripe(&run, 0);
        let lengths: Vec<usize> = (0..6).map(|r| stripe.stored(Role(r))).collect();
        assert_eq!(lengths, [32_768, 32_768, 32_768, 1_696, 32_768, 32_768]);
    }

    #[test]
    fn a_byte_more_than_a_block_does_not_fill_a_segment() {
        let layout = Layout {
            scheme: scheme(4, 2),
            size: BLOCK_SIZE as u64 + 1,
        };
        let stripe = layout.stripe(&layout.run_at(0), 0);
        let lengths: Vec<usize> = (0..6).map(|r| stripe.stored(Role(r))).collect();
        assert_eq!(lengths, [8_192, 1, 0, 0, 8_192, 8_192]);
    }

    #[test]
    fn plain_is_runs_of_a_mebibyte() {
        let layout = Layout {
            scheme: Scheme::PLAIN,
            size: (33 << 20) + 5,
        };
        assert_eq!(layout.chunks(), 2);
        let run = layout.run_at(33 << 20);
        assert_eq!((run.chunk.0, run.row, run.rows), (1, 16, 1));
        assert_eq!(layout.memory(&run, Role(0)), BLOCK_SIZE);
        assert_eq!(layout.stripe(&run, 0).stored(Role(0)), 5);
    }

    proptest! {
        /// Runs, stripes and segments tile the object; rows never leave their chunk.
        #[test]
        fn everything_is_somewhere_once(k in 1u8..=16, m in 0u8..=4, size in 1u64..80 << 20) {
            let layout = Layout { scheme: scheme(k, m), size };
            let mut at = 0;
            while at < size {
                let run = layout.run_at(at);
                prop_assert_eq!(run.start, at);
                prop_assert!(run.end - run.start <= 1 << 20);
                prop_assert_eq!(layout.run_at(run.end - 1), run);
                prop_assert_eq!(layout.part_of(&run, at, run.end), run);
                for row in 0..run.rows {
                    let stripe = layout.stripe(&run, row);
                    prop_assert_eq!(stripe.start, at);
                    for role in (0..k).map(Role) {
                        let bytes = stripe.bytes_of(role);
                        prop_assert_eq!(bytes.start, at);
                        prop_assert!(stripe.stored(role) <= stripe.parity().min(SEGMENT_SIZE));
                        if !bytes.is_empty() {
                            prop_assert_eq!(stripe.role_of(bytes.start), role);
                            prop_assert_eq!(stripe.role_of(bytes.end - 1), role);
                        }
                        at = bytes.end;
                    }
                    // Only the last stripe is short.
                    prop_assert!(stripe.end == size || stripe.end - stripe.start == u64::from(k) << 16);
                }
                prop_assert_eq!(run.end, at);
                prop_assert_eq!(u64::from(run.chunk.0), run.start / layout.chunk_bytes());
            }
            prop_assert_eq!(at, size);
            prop_assert_eq!(u64::from(layout.chunks()), size.div_ceil(layout.chunk_bytes()));
        }
    }
}
