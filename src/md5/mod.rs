//! MD5 of many streams at once: the entity tags of all uploads in flight on a core.
//!
//! MD5 (RFC 1321) is the ceiling of an upload: its steps depend on each other, so one stream makes 0.6 to 1.0 GB/s
//! however wide the core is. Only streams that are hashed together fill it. From below:
//!
//! ```text
//!   kernels   compression of 1, 8, 16 or 32 streams in step, one to a vector lane; chosen by the CPU's features
//!   lanes     runs of blocks of any number and lengths, spread over the lanes
//!   Md5       one stream: state, the bytes of an unfinished block, length; `advance` takes many of them further
//!   Hashing   one core's uploads: async, by ownership; what is ready together is hashed together
//! ```
//!
//! Why not a crate. Two are published, both young; hashing buffers of 1 MiB on a Zen 4, GB/s at 1 / 2 / 4 / 8 / 9 / 16 /
//! 17 / 32 streams (medians of 9 rounds):
//!
//! ```text
//!   md5-many 0.1.0-alpha.4   0.81  1.54  2.47  4.86  4.22  7.37  5.91  10.0
//!   md5-simd 0.2.0           0.82  0.81  2.34  4.68  3.39  5.80  2.75   4.7
//!   this, through Hashing    0.80  1.42  2.86  5.62  5.53  8.89  8.75  10.0
//! ```
//!
//! On a Sapphire Rapids md5-many made 1.3 / 2.6 / 5.1 / 11.6 / 15.4 at 2 / 4 / 8 / 16 / 32, kernels of this form 2.1 / 4.2 /
//! 7.8 / 13.6 / 15.2. A few uploads, and numbers that are no power of two, are the common case; the turns that decide
//! there are ours either way. `md-5`, a quarter slower with one stream, is the oracle of the tests and hashes what is
//! short and comes alone (tags of tags).
//!
//! Invariants worth naming:
//!
//! 1. What is hashed in which turn depends on the jobs alone, never on the kernels of the CPU: a simulation runs the
//!    same everywhere.
//! 2. No kernel reads past the slice of a stream; `unsafe` is in `kernels` only.
//! 3. Nothing here survives a crash: an upload that is not complete begins anew.

mod hashing;
mod kernels;
mod lanes;
#[cfg(test)]
mod tests;

pub use hashing::{Hashing, Slice};
pub use kernels::Kernels;

use lanes::Run;
use smallvec::SmallVec;

/// The four words of the digest so far.
type State = [u32; 4];
/// What one compression takes.
type Block = [u8; 64];

const BLOCK_SIZE: usize = size_of::<Block>();
/// RFC 1321, 3.3.
const INITIAL: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// A stream that is being hashed.
#[derive(Clone)]
pub struct Md5 {
    state: State,
    /// The first `length % BLOCK_SIZE` bytes are those of the block that is not complete. Two blocks, because padding
    /// may need the second.
    tail: [Block; 2],
    /// Bytes so far.
    length: u64,
}

/// What comes next in a stream.
pub struct Piece<'a> {
    pub stream: &'a mut Md5,
    pub bytes: &'a [u8],
    /// The stream ends here: afterwards it is good for [`Md5::finish`] only, which then costs nothing.
    pub ends: bool,
}

/// In place of a length: the padding has been hashed.
const ENDED: u64 = u64::MAX;

impl Default for Md5 {
    fn default() -> Self {
        Md5::new()
    }
}

impl Md5 {
    pub fn new() -> Md5 {
        Md5 {
            state: INITIAL,
            tail: [[0; BLOCK_SIZE]; 2],
            length: 0,
        }
    }

    /// Of these bytes alone.
    pub fn digest(bytes: &[u8]) -> [u8; 16] {
        let mut stream = Md5::new();
        stream.update(bytes);
        stream.finish()
    }

    /// Goes on in this stream alone.
    pub fn update(&mut self, bytes: &[u8]) {
        let piece = Piece {
            stream: self,
            bytes,
            ends: false,
        };
        advance(Kernels::best(), &mut [piece]);
    }

    pub fn finish(mut self) -> [u8; 16] {
        if self.length != ENDED {
            let piece = Piece {
                stream: &mut self,
                bytes: &[],
                ends: true,
            };
            advance(Kernels::best(), &mut [piece]);
        }
        let mut digest = [0; 16];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_le_bytes();
        }
        digest
    }

    fn tail_len(&self) -> usize {
        (self.length % BLOCK_SIZE as u64) as usize
    }

    /// Takes bytes until the unfinished block, if there is one, is complete; returns whether it is, and the rest.
    fn fill_tail<'a>(&mut self, bytes: &'a [u8]) -> (bool, &'a [u8]) {
        let have = self.tail_len();
        if have == 0 {
            return (false, bytes);
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE - have));
        self.tail[0][have..have + taken.len()].copy_from_slice(taken);
        (have + taken.len() == BLOCK_SIZE, rest)
    }

    /// RFC 1321, 3.1 and 3.2: a one bit, zeroes, and the length in bits. Returns the blocks of the tail.
    fn pad(&mut self) -> usize {
        let have = self.tail_len();
        let bits = self.length.wrapping_mul(8);
        let tail = self.tail.as_flattened_mut();
        tail[have] = 0x80;
        tail[have + 1..].fill(0);
        let blocks = (have + 1 + size_of::<u64>()).div_ceil(BLOCK_SIZE);
        tail[blocks * BLOCK_SIZE - size_of::<u64>()..blocks * BLOCK_SIZE]
            .copy_from_slice(&bits.to_le_bytes());
        self.length = ENDED;
        blocks
    }
}

/// Takes every stream past its piece, all of them together. Bytes are copied only at the ends of a piece, and fewer than
/// a block's.
pub fn advance(kernels: &Kernels, pieces: &mut [Piece<'_>]) {
    complete_tails(kernels, pieces);
    whole_blocks(kernels, pieces);
    paddings(kernels, pieces);
}

/// Room for the streams of the widest kernel without allocating.
type Runs<'a> = SmallVec<[Run<'a>; kernels::LANES_MAX]>;

/// The blocks that earlier pieces began.
fn complete_tails(kernels: &Kernels, pieces: &mut [Piece<'_>]) {
    let mut runs = Runs::new();
    for piece in pieces {
        let stream = &mut *piece.stream;
        assert!(stream.length != ENDED, "a stream ends once");
        let added = piece.bytes.len() as u64;
        let (complete, rest) = stream.fill_tail(piece.bytes);
        piece.bytes = rest;
        stream.length += added;
        if complete {
            runs.push(Run {
                state: &mut stream.state,
                blocks: &stream.tail[..1],
            });
        }
    }
    lanes::compress(kernels, &mut runs);
}

/// The blocks that lie in the pieces. What is behind them begins the next tail.
fn whole_blocks(kernels: &Kernels, pieces: &mut [Piece<'_>]) {
    let mut runs = Runs::new();
    for piece in pieces {
        let stream = &mut *piece.stream;
        let (blocks, rest) = piece.bytes.as_chunks();
        stream.tail[0][..rest.len()].copy_from_slice(rest);
        if !blocks.is_empty() {
            runs.push(Run {
                state: &mut stream.state,
                blocks,
            });
        }
    }
    lanes::compress(kernels, &mut runs);
}

fn paddings(kernels: &Kernels, pieces: &mut [Piece<'_>]) {
    let mut runs = Runs::new();
    for piece in pieces.iter_mut().filter(|piece| piece.ends) {
        let stream = &mut *piece.stream;
        let blocks = stream.pad();
        runs.push(Run {
            state: &mut stream.state,
            blocks: &stream.tail[..blocks],
        });
    }
    lanes::compress(kernels, &mut runs);
}
