//! MD5's compression (RFC 1321, 3.4) on as many streams at once as a vector has words.
//!
//! A step needs the result of the step before, so one stream waits for latencies: four cycles a step at best. Streams
//! do not wait for each other: lane `l` of every vector belongs to stream `l`, and the wide kernels run two such
//! groups in turn.
//!
//! ```text
//!   16 blocks in memory, one of each stream          16 vectors: word w of each stream
//!   stream 0   w0 w1 w2 … w15                        m0    s0.w0  s1.w0  … s15.w0
//!   stream 1   w0 w1 w2 … w15       transpose        m1    s0.w1  s1.w1  … s15.w1
//!   …                                ───────→        …
//!   stream 15  w0 w1 w2 … w15                        m15   s0.w15 s1.w15 … s15.w15
//! ```
//!
//! All kernels are one macro over a handful of operations; a vector set is a module that names them. Each load is of
//! one block, or a part of it, through a reference to that block, so none reads past a slice.
//!
//! GB/s on one core of a Zen 4 at 3.6 GHz, page-aligned streams of 1 MiB, medians of 15 rounds in turn (the md-5 crate:
//! 0.60); in brackets a Sapphire Rapids, with the sketch that these kernels come from (the crate: 0.73):
//!
//! | kernel | lanes | all lanes busy |
//! |---|---|---|
//! | `word` | 1 | 0.81 |
//! | `xmm` | 1 | 0.73 (1.04) |
//! | `ymm_avx2` | 8, 16 | 4.9, 7.1 |
//! | `ymm_vl` | 8 | 5.8 (7.8) |
//! | `zmm` | 16, 32 | 9.4, 10.4 (13.6, 15.2) |
//!
//! 32 lanes make 12.1 where the streams do not all lie on the same lines of the first cache. Prefetching, and loading a
//! block ahead, made the aligned case slower; a third group of lanes too.

#![allow(unsafe_code)]
// Vectors are indexed by what they mean: word, lane, group.
#![allow(clippy::needless_range_loop)]

use super::{Block, State};

/// Lanes of the widest kernel.
pub const LANES_MAX: usize = 32;

/// The states of the lanes, word by word. A kernel of fewer lanes uses the first of them.
#[derive(Clone)]
#[repr(align(64))]
pub struct States(pub [[u32; LANES_MAX]; 4]);

/// What each lane reads: as many blocks as the first one, in every lane that the kernel has.
pub type Lanes<'a> = [&'a [Block]; LANES_MAX];

/// A kernel for one stream.
type One = unsafe fn(&mut State, &[Block]);

/// A kernel for many.
pub struct Wide {
    pub lanes: usize,
    /// Unfinished streams from which it is faster than the next narrower kernel. While streams wait for lanes they take
    /// turns on them, so a narrow kernel with busy lanes beats a wide one with idle ones: with the figures above, 16
    /// lanes of which `n` are busy make `n · 9.4 / 16`, and 8 busy ones 5.8.
    pays_from: usize,
    compress: unsafe fn(&mut States, &Lanes<'_>),
}

/// The kernels for one CPU.
pub struct Kernels {
    pub name: &'static str,
    one: One,
    /// Narrow first.
    pub(super) wide: &'static [Wide],
}

static PORTABLE: Kernels = Kernels {
    name: "portable",
    one: word::one,
    wide: &[],
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels {
    name: "AVX2",
    one: word::one,
    wide: &[
        Wide {
            lanes: 8,
            pays_from: 2,
            compress: ymm_avx2::eight,
        },
        Wide {
            lanes: 16,
            pays_from: 11,
            compress: ymm_avx2::sixteen,
        },
    ],
};

#[cfg(target_arch = "x86_64")]
const AVX512_WIDE: &[Wide] = &[
    Wide {
        lanes: 8,
        pays_from: 2,
        compress: ymm_vl::eight,
    },
    Wide {
        lanes: 16,
        pays_from: 10,
        compress: zmm::sixteen,
    },
    Wide {
        lanes: 32,
        pays_from: 29,
        compress: zmm::thirty_two,
    },
];

#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = Kernels {
    name: "AVX-512",
    one: word::one,
    wide: AVX512_WIDE,
};

/// Intel's vectors shift in one cycle, AMD's in two.
#[cfg(target_arch = "x86_64")]
static AVX512_INTEL: Kernels = Kernels {
    name: "AVX-512, one stream in a vector",
    one: xmm::one,
    wide: AVX512_WIDE,
};

impl Kernels {
    /// All that this CPU can run, best first.
    pub fn available() -> impl Iterator<Item = &'static Kernels> {
        let mut found: [Option<&'static Kernels>; 4] = [None; 4];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                found[2] = Some(&AVX2);
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                    let intel = std::arch::x86_64::__cpuid(0).ebx.to_le_bytes() == *b"Genu";
                    found[0] = Some(if intel { &AVX512_INTEL } else { &AVX512 });
                    found[1] = Some(if intel { &AVX512 } else { &AVX512_INTEL });
                }
            }
        }
        found[3] = Some(&PORTABLE);
        found.into_iter().flatten()
    }

    /// The best for this CPU.
    pub fn best() -> &'static Kernels {
        static BEST: std::sync::LazyLock<&'static Kernels> =
            std::sync::LazyLock::new(|| Kernels::available().next().expect("one is portable"));
        *BEST
    }

    /// One stream.
    pub fn one(&self, state: &mut State, blocks: &[Block]) {
        // SAFETY: kernels are only had from `available`, which asks the CPU for their features.
        unsafe { (self.one)(state, blocks) }
    }

    /// The kernel for `streams` unfinished streams; none if one after the other is best.
    pub fn wide_for(&self, streams: usize) -> Option<&'static Wide> {
        self.wide.iter().rev().find(|w| w.pays_from <= streams)
    }
}

impl Wide {
    /// All lanes of this kernel, which read equally many blocks.
    pub fn compress(&self, states: &mut States, lanes: &Lanes<'_>) {
        // SAFETY: as in `Kernels::one`; `wide_for` hands out the parts of such kernels only.
        unsafe { (self.compress)(states, lanes) }
    }
}

/// RFC 1321, 3.4: the integer part of 2³² · |sin(i + 1)|.
const SINES: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
];

/// One step of `G` groups: `a = b + ((a + f(b, c, d) + m + sine) <<< turn)`.
///
/// `f` is split where it is a sum: what does not need `b`, the word of the step before, is added early. `keep` holds
/// the compiler to that order; it would rather add the constant last, on the path that everything waits for, which
/// makes five cycles of four.
macro_rules! step {
    ($G:expr, $a:ident $b:ident $c:ident $d:ident, $m:ident, $word:expr, $i:expr, $turn:expr, $early:ident, $late:ident) => {
        for g in 0..$G {
            let ready = add($a[g], add($m[g][$word], splat(SINES[$i])));
            let ready = keep($early(ready, $c[g], $d[g]));
            $a[g] = add($b[g], turn::<$turn>(add(ready, $late($b[g], $c[g], $d[g]))));
        }
    };
}

macro_rules! four_steps {
    ($G:expr, $a:ident $b:ident $c:ident $d:ident, $m:ident, $i:expr, $by:expr, $from:expr, $t0:expr, $t1:expr, $t2:expr, $t3:expr, $early:ident, $late:ident) => {
        step!($G, $a $b $c $d, $m, (($i) * $by + $from) % 16, $i, $t0, $early, $late);
        step!($G, $d $a $b $c, $m, (($i + 1) * $by + $from) % 16, $i + 1, $t1, $early, $late);
        step!($G, $c $d $a $b, $m, (($i + 2) * $by + $from) % 16, $i + 2, $t2, $early, $late);
        step!($G, $b $c $d $a, $m, (($i + 3) * $by + $from) % 16, $i + 3, $t3, $early, $late);
    };
}

macro_rules! sixteen_steps {
    ($G:expr, $a:ident $b:ident $c:ident $d:ident, $m:ident, $i:expr, $($rest:tt)*) => {
        four_steps!($G, $a $b $c $d, $m, $i, $($rest)*);
        four_steps!($G, $a $b $c $d, $m, $i + 4, $($rest)*);
        four_steps!($G, $a $b $c $d, $m, $i + 8, $($rest)*);
        four_steps!($G, $a $b $c $d, $m, $i + 12, $($rest)*);
    };
}

/// One block of each lane: `$state` is `[[V; G]; 4]`, `$m` the message words, `[[V; 16]; G]`.
macro_rules! compress {
    ($G:expr, $state:ident, $m:ident) => {
        let [mut a, mut b, mut c, mut d] = $state;
        sixteen_steps!($G, a b c d, $m, 0, 1, 0, 7, 12, 17, 22, early_other, late_f);
        sixteen_steps!($G, a b c d, $m, 16, 5, 1, 5, 9, 14, 20, early_g, late_g);
        sixteen_steps!($G, a b c d, $m, 32, 3, 5, 4, 11, 16, 23, early_other, late_h);
        sixteen_steps!($G, a b c d, $m, 48, 7, 0, 6, 10, 15, 21, early_other, late_i);
        for g in 0..$G {
            $state[0][g] = add($state[0][g], a[g]);
            $state[1][g] = add($state[1][g], b[g]);
            $state[2][g] = add($state[2][g], c[g]);
            $state[3][g] = add($state[3][g], d[g]);
        }
    };
}

/// One stream in general registers.
pub mod word {
    use super::{Block, SINES, State};

    #[inline(always)]
    fn add(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn splat(v: u32) -> u32 {
        v
    }
    #[inline(always)]
    fn turn<const BY: i32>(v: u32) -> u32 {
        v.rotate_left(BY as u32)
    }
    #[inline(always)]
    fn keep(v: u32) -> u32 {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let mut v = v;
            // SAFETY: no instruction at all.
            unsafe {
                core::arch::asm!("/* {0:e} */", inout(reg) v, options(pure, nomem, nostack, preserves_flags));
            }
            v
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        v
    }
    #[inline(always)]
    fn early_other(ready: u32, _c: u32, _d: u32) -> u32 {
        ready
    }
    #[inline(always)]
    fn early_g(ready: u32, c: u32, d: u32) -> u32 {
        add(ready, c & !d)
    }
    #[inline(always)]
    fn late_f(b: u32, c: u32, d: u32) -> u32 {
        d ^ (b & (c ^ d))
    }
    #[inline(always)]
    fn late_g(b: u32, _c: u32, d: u32) -> u32 {
        b & d
    }
    #[inline(always)]
    fn late_h(b: u32, c: u32, d: u32) -> u32 {
        b ^ (c ^ d)
    }
    #[inline(always)]
    fn late_i(b: u32, c: u32, d: u32) -> u32 {
        c ^ (b | !d)
    }

    pub fn one(state: &mut State, blocks: &[Block]) {
        let mut s = state.map(|w| [w]);
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            let m = [std::array::from_fn::<u32, 16, _>(|w| {
                u32::from_le_bytes(words[w])
            })];
            compress!(1, s, m);
        }
        *state = s.map(|[w]| w);
    }
}

/// The operations of a vector set with AVX-512: three-input logic and rotation in one cycle each.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_operations {
    ($features:literal, $V:ty, $register:ident, $add:ident, $splat:ident, $turn:ident, $logic:ident) => {
        #[inline]
        #[target_feature(enable = $features)]
        fn add(a: $V, b: $V) -> $V {
            $add(a, b)
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn splat(v: u32) -> $V {
            $splat(v.cast_signed())
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn turn<const BY: i32>(v: $V) -> $V {
            $turn::<BY>(v)
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn keep(mut v: $V) -> $V {
            // SAFETY: no instruction at all; the function has the register's feature.
            unsafe {
                core::arch::asm!("/* {0} */", inout($register) v, options(pure, nomem, nostack, preserves_flags));
            }
            v
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn early_other(ready: $V, _c: $V, _d: $V) -> $V {
            ready
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn early_g(ready: $V, _c: $V, _d: $V) -> $V {
            ready
        }
        // The immediate is the function's truth table, b c d = 111 first.
        #[inline]
        #[target_feature(enable = $features)]
        fn late_f(b: $V, c: $V, d: $V) -> $V {
            $logic::<0xCA>(b, c, d)
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn late_g(b: $V, c: $V, d: $V) -> $V {
            $logic::<0xE4>(b, c, d)
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn late_h(b: $V, c: $V, d: $V) -> $V {
            $logic::<0x96>(b, c, d)
        }
        #[inline]
        #[target_feature(enable = $features)]
        fn late_i(b: $V, c: $V, d: $V) -> $V {
            $logic::<0x39>(b, c, d)
        }
    };
}

/// A kernel of `$G` groups of `$N` lanes. Every lane has as many blocks as the first.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes_kernel {
    ($features:literal, $V:ty, $name:ident, $G:expr, $N:expr) => {
        #[target_feature(enable = $features)]
        pub fn $name(states: &mut States, lanes: &Lanes<'_>) {
            let lanes = &lanes[..$G * $N];
            let blocks = lanes[0].len();
            assert!(
                lanes.iter().all(|lane| lane.len() == blocks),
                "lanes go together"
            );
            let mut s = [[zero(); $G]; 4];
            for (word, from) in s.iter_mut().zip(&states.0) {
                for g in 0..$G {
                    let (lanes, _) = from[g * $N..].as_chunks::<$N>();
                    word[g] = load_words(&lanes[0]);
                }
            }
            for block in 0..blocks {
                let mut m = [[zero(); 16]; $G];
                for g in 0..$G {
                    // Checked, 32 lanes make 8.4 GB/s instead of 10.4.
                    let of: [&Block; $N] = std::array::from_fn(|l| {
                        // SAFETY: every lane is `blocks` long, as asserted above.
                        unsafe { lanes[g * $N + l].get_unchecked(block) }
                    });
                    m[g] = transpose(&of);
                }
                compress!($G, s, m);
            }
            for (word, to) in s.iter().zip(&mut states.0) {
                for g in 0..$G {
                    let (lanes, _) = to[g * $N..].as_chunks_mut::<$N>();
                    store_words(&mut lanes[0], word[g]);
                }
            }
        }
    };
}

/// One stream in a 128-bit register: all steps take four cycles, where general registers need five in half of them.
#[cfg(target_arch = "x86_64")]
pub mod xmm {
    use std::arch::x86_64::*;

    use super::{Block, SINES, State};

    avx512_operations!(
        "avx512f,avx512vl",
        __m128i,
        xmm_reg,
        _mm_add_epi32,
        _mm_set1_epi32,
        _mm_rol_epi32,
        _mm_ternarylogic_epi32
    );

    #[target_feature(enable = "avx512f,avx512vl")]
    pub fn one(state: &mut State, blocks: &[Block]) {
        let mut s = state.map(|w| [_mm_cvtsi32_si128(w.cast_signed())]);
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            let mut m = [[_mm_setzero_si128(); 16]];
            for w in 0..16 {
                m[0][w] = _mm_cvtsi32_si128(i32::from_le_bytes(words[w]));
            }
            compress!(1, s, m);
        }
        for (word, v) in state.iter_mut().zip(s) {
            *word = _mm_cvtsi128_si32(v[0]).cast_unsigned();
        }
    }
}

/// What both sets of 256-bit vectors share.
#[cfg(target_arch = "x86_64")]
mod ymm {
    use std::arch::x86_64::*;

    use super::Block;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn zero() -> __m256i {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn load_words(words: &[u32; 8]) -> __m256i {
        // SAFETY: reads the 32 bytes of the array; no alignment is asked for.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn store_words(words: &mut [u32; 8], v: __m256i) {
        // SAFETY: writes the 32 bytes of the array; no alignment is asked for.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), v) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn half(block: &Block, half: usize) -> __m256i {
        let (halves, _) = block.as_chunks::<32>();
        // SAFETY: reads the 32 bytes of the array; no alignment is asked for.
        unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) }
    }

    /// Word `w` of every block in vector `w`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn transpose(blocks: &[&Block; 8]) -> [__m256i; 16] {
        let mut m = [zero(); 16];
        for h in 0..2 {
            let r: [__m256i; 8] = {
                let mut r = [zero(); 8];
                for l in 0..8 {
                    r[l] = half(blocks[l], h);
                }
                r
            };
            // Pairs of words, then fours of words, of four blocks; then the other four blocks.
            let mut u = [zero(); 8];
            for i in [0, 4] {
                let (a, b) = (
                    _mm256_unpacklo_epi32(r[i], r[i + 1]),
                    _mm256_unpackhi_epi32(r[i], r[i + 1]),
                );
                let (c, d) = (
                    _mm256_unpacklo_epi32(r[i + 2], r[i + 3]),
                    _mm256_unpackhi_epi32(r[i + 2], r[i + 3]),
                );
                u[i] = _mm256_unpacklo_epi64(a, c);
                u[i + 1] = _mm256_unpackhi_epi64(a, c);
                u[i + 2] = _mm256_unpacklo_epi64(b, d);
                u[i + 3] = _mm256_unpackhi_epi64(b, d);
            }
            for j in 0..4 {
                m[8 * h + j] = _mm256_permute2x128_si256::<0x20>(u[j], u[4 + j]);
                m[8 * h + 4 + j] = _mm256_permute2x128_si256::<0x31>(u[j], u[4 + j]);
            }
        }
        m
    }
}

/// 8 lanes with AVX-512VL.
#[cfg(target_arch = "x86_64")]
pub mod ymm_vl {
    use std::arch::x86_64::*;

    use super::{
        Block, Lanes, SINES, States,
        ymm::{load_words, store_words, transpose, zero},
    };

    avx512_operations!(
        "avx2,avx512f,avx512vl",
        __m256i,
        ymm_reg,
        _mm256_add_epi32,
        _mm256_set1_epi32,
        _mm256_rol_epi32,
        _mm256_ternarylogic_epi32
    );
    lanes_kernel!("avx2,avx512f,avx512vl", __m256i, eight, 1, 8);
}

/// 8 and 16 lanes with AVX2, which rotates by two shifts and has no three-input logic.
#[cfg(target_arch = "x86_64")]
pub mod ymm_avx2 {
    use std::arch::x86_64::*;

    use super::{
        Block, Lanes, SINES, States,
        ymm::{load_words, store_words, transpose, zero},
    };

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn splat(v: u32) -> __m256i {
        _mm256_set1_epi32(v.cast_signed())
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn turn<const BY: i32>(v: __m256i) -> __m256i {
        let back = _mm_cvtsi32_si128(32 - BY);
        _mm256_or_si256(_mm256_slli_epi32::<BY>(v), _mm256_srl_epi32(v, back))
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn keep(mut v: __m256i) -> __m256i {
        // SAFETY: no instruction at all; the function has the register's feature.
        unsafe {
            core::arch::asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags));
        }
        v
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn early_other(ready: __m256i, _c: __m256i, _d: __m256i) -> __m256i {
        ready
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn early_g(ready: __m256i, c: __m256i, d: __m256i) -> __m256i {
        add(ready, _mm256_andnot_si256(d, c))
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn late_f(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d)))
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn late_g(b: __m256i, _c: __m256i, d: __m256i) -> __m256i {
        _mm256_and_si256(b, d)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn late_h(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        _mm256_xor_si256(b, _mm256_xor_si256(c, d))
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn late_i(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        let not_d = _mm256_xor_si256(d, _mm256_set1_epi32(-1));
        _mm256_xor_si256(c, _mm256_or_si256(b, not_d))
    }

    lanes_kernel!("avx2", __m256i, eight, 1, 8);
    lanes_kernel!("avx2", __m256i, sixteen, 2, 8);
}

/// 16 and 32 lanes with AVX-512.
#[cfg(target_arch = "x86_64")]
pub mod zmm {
    use std::arch::x86_64::*;

    use super::{Block, Lanes, SINES, States};

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> __m512i {
        _mm512_setzero_si512()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_words(words: &[u32; 16]) -> __m512i {
        // SAFETY: reads the 64 bytes of the array; no alignment is asked for.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_words(words: &mut [u32; 16], v: __m512i) {
        // SAFETY: writes the 64 bytes of the array; no alignment is asked for.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), v) }
    }

    /// Word `w` of every block in vector `w`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose(blocks: &[&Block; 16]) -> [__m512i; 16] {
        let mut r = [zero(); 16];
        for l in 0..16 {
            // SAFETY: reads the 64 bytes of the block; no alignment is asked for.
            r[l] = unsafe { _mm512_loadu_si512(blocks[l].as_ptr().cast()) };
        }
        let mut t = [zero(); 16];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        // Quarter q of u[4i + j] is word 4q + j of blocks 4i to 4i + 3.
        let mut u = [zero(); 16];
        for i in 0..4 {
            u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        for j in 0..4 {
            let even = _mm512_shuffle_i32x4::<0x88>(u[j], u[4 + j]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(u[j], u[4 + j]);
            let even_of_rest = _mm512_shuffle_i32x4::<0x88>(u[8 + j], u[12 + j]);
            let odd_of_rest = _mm512_shuffle_i32x4::<0xdd>(u[8 + j], u[12 + j]);
            r[j] = _mm512_shuffle_i32x4::<0x88>(even, even_of_rest);
            r[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even, even_of_rest);
            r[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd, odd_of_rest);
            r[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_of_rest);
        }
        r
    }

    avx512_operations!(
        "avx512f",
        __m512i,
        zmm_reg,
        _mm512_add_epi32,
        _mm512_set1_epi32,
        _mm512_rol_epi32,
        _mm512_ternarylogic_epi32
    );
    lanes_kernel!("avx512f", __m512i, sixteen, 1, 16);
    lanes_kernel!("avx512f", __m512i, thirty_two, 2, 16);
}
