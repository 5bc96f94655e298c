//! Sums of multiples of segments: the one thing that encoding and rebuilding do with bytes.
//!
//! ```text
//!   source 0    ..|64|64|64|64|..    one load of each     output 0    += row[0][j] · source j
//!   source 1    ..|64|64|64|64|..    ─────────────→       output 1    += row[1][j] · source j
//!   …                                                     …           sums stay in registers
//!   source n-1  ..|64|64|64|64|..                         output M-1  one store of each
//! ```
//!
//! A kernel takes up to M outputs over a few vectors' width of all sources, so that each byte of a source is loaded once
//! for M outputs. M times the vectors of a step is what fits the registers. Sources come in pairs, because AVX-512 adds
//! three vectors in one instruction.
//!
//! Multiplying a vector by a constant is one instruction with GFNI, which multiplies by any matrix of bits; without it,
//! two look-ups of nibbles in a register (Plank, Greenan and Miller, "Screaming Fast Galois Field Arithmetic Using Intel
//! SIMD Instructions", FAST '13). All kernels are one macro over a handful of operations; a vector set is a module that
//! names them.
//!
//! GB/s of object data on one core of a Zen 4, 64 KiB segments:
//!
//! | kernel | encode (2,1), (4,2), (8,4) | rebuild one |
//! |---|---|---|
//! | GFNI, AVX-512 | 75, 74, 49 | 74, 89, 92 |
//! | GFNI, AVX2 | 76, 69, 26 | 75, 90, 84 |
//! | AVX2 | 76, 33, 14 | 75, 56, 48 |
//! | scalar | 38, 1.0, 0.5 | 37, 1.9, 1.9 |
//!
//! With 4 outputs, a step of 4 vectors instead of 2 makes 52 of 47 in AVX-512, of 2 instead of 1 makes 14 of 10 in AVX2.
//!
//! The last vector of a segment overlaps the one before it: its sums are made twice. What is shorter than a vector goes
//! through a copy with zeroes behind it. So nothing is read or written outside of a slice.

#![allow(unsafe_code)]

use std::sync::LazyLock;

use smallvec::SmallVec;

use super::field::NIBBLES;

/// The most sources of a sum: k of the widest scheme with a matrix.
pub const SOURCES_MAX: usize = super::CAUCHY_WIDTH_MAX;

/// Bytes of the widest vector.
const VECTOR_MAX: usize = 64;

/// Arithmetic on segments.
pub trait Backend: Sync {
    fn name(&self) -> &'static str;

    /// `outputs[i] = Σ rows[i · n + j] · sources[j]` over n sources, [`SOURCES_MAX`] at most. There is an output, and all
    /// slices are equally long.
    fn combine(&self, rows: &[u8], sources: &[&[u8]], outputs: &mut [&mut [u8]]);

    /// `output = Σ sources[j]`; all slices are equally long.
    fn xor(&self, sources: &[&[u8]], output: &mut [u8]);
}

/// All that this CPU can run, best first.
pub fn backends() -> impl Iterator<Item = &'static dyn Backend> {
    let mut found: [Option<&'static dyn Backend>; 4] = [None; 4];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        found[2] = Some(&avx2::Vectors);
        if is_x86_feature_detected!("gfni") {
            found[1] = Some(&gfni_avx2::Vectors);
            if is_x86_feature_detected!("avx512f") {
                found[0] = Some(&gfni_avx512::Vectors);
            }
        }
    }
    found[3] = Some(&Scalar);
    found.into_iter().flatten()
}

/// The best for this CPU.
pub fn best() -> &'static dyn Backend {
    static BEST: LazyLock<&'static dyn Backend> =
        LazyLock::new(|| backends().next().expect("one is portable"));
    *BEST
}

/// Panics unless the shapes fit; returns the length of all slices. Kernels rely on it.
fn check(rows: &[u8], sources: &[&[u8]], outputs: &[&mut [u8]]) -> usize {
    assert!(
        sources.len() <= SOURCES_MAX && rows.len() == sources.len() * outputs.len(),
        "a factor for each source and output"
    );
    let len = outputs.first().expect("something to make").len();
    assert!(
        sources.iter().all(|source| source.len() == len)
            && outputs.iter().all(|output| output.len() == len),
        "sources and outputs are equally long"
    );
    len
}

/// The reference, and what CPUs without a kernel use.
struct Scalar;

impl Backend for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn combine(&self, rows: &[u8], sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        check(rows, sources, outputs);
        for (i, output) in outputs.iter_mut().enumerate() {
            output.fill(0);
            for (j, source) in sources.iter().enumerate() {
                let table = &NIBBLES[usize::from(rows[i * sources.len() + j])];
                for (sum, byte) in output.iter_mut().zip(*source) {
                    *sum ^= table[usize::from(byte & 15)] ^ table[16 + usize::from(byte >> 4)];
                }
            }
        }
    }

    fn xor(&self, sources: &[&[u8]], output: &mut [u8]) {
        assert!(sources.iter().all(|source| source.len() == output.len()));
        output.fill(0);
        for source in sources {
            for (sum, byte) in output.iter_mut().zip(*source) {
                *sum ^= byte;
            }
        }
    }
}

/// Has a kernel work on copies that are as long as a vector.
fn on_copies(
    sources: &[&[u8]],
    outputs: &mut [&mut [u8]],
    kernel: impl Fn(&[&[u8]], &mut [&mut [u8]]),
) {
    let padded: SmallVec<[[u8; VECTOR_MAX]; SOURCES_MAX]> = sources
        .iter()
        .map(|source| {
            let mut copy = [0; VECTOR_MAX];
            copy[..source.len()].copy_from_slice(source);
            copy
        })
        .collect();
    let padded: SmallVec<[&[u8]; SOURCES_MAX]> = padded.iter().map(|copy| &copy[..]).collect();
    let mut sums: SmallVec<[[u8; VECTOR_MAX]; SOURCES_MAX]> =
        outputs.iter().map(|_| [0; VECTOR_MAX]).collect();
    let mut sums: SmallVec<[&mut [u8]; SOURCES_MAX]> =
        sums.iter_mut().map(|sum| &mut sum[..]).collect();
    kernel(&padded, &mut sums);
    for (output, sum) in outputs.iter_mut().zip(sums) {
        output.copy_from_slice(&sum[..output.len()]);
    }
}

/// A backend of vectors, from the operations of the module it stands in:
///
/// - `V` a vector of `SIZE` bytes, `Table` what a factor becomes, `Factor` that in registers, `Split` what a vector
///   becomes to be multiplied;
/// - `load`, `store`, `zero`, `add` (of two), `add3`, `table`, `factor`, `split`, `times`.
///
/// `$M => $U`: a step of M outputs takes U vectors of each source. The last M is the most.
#[cfg(target_arch = "x86_64")]
macro_rules! backend {
    ($features:literal, $name:literal, most $most:literal, $($M:literal => $U:literal),+) => {
        pub struct Vectors;

        impl Backend for Vectors {
            fn name(&self) -> &'static str {
                $name
            }

            fn combine(&self, rows: &[u8], sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
                let len = check(rows, sources, outputs);
                if len < SIZE {
                    return on_copies(sources, outputs, |sources, outputs| {
                        self.combine(rows, sources, outputs)
                    });
                }
                let (mut rows, mut outputs) = (rows, outputs);
                while !outputs.is_empty() {
                    // Passes of equally many outputs: two of 5 are faster than one of 8 and one of 2.
                    let passes = outputs.len().div_ceil($most);
                    let count = outputs.len().div_ceil(passes);
                    let (now, later) = outputs.split_at_mut(count);
                    let (factors, rest) = rows.split_at(count * sources.len());
                    // SAFETY: `Vectors` is handed out by `backends` only, which asks the CPU for the features. `check`
                    // made sure of the lengths, and they are not less than a vector.
                    unsafe {
                        match count {
                            $($M => sums::<$M, $U>(factors, sources, now, len),)+
                            _ => unreachable!("a pass has 1 to {} outputs", $most),
                        }
                    }
                    (rows, outputs) = (rest, later);
                }
            }

            fn xor(&self, sources: &[&[u8]], output: &mut [u8]) {
                let len = output.len();
                assert!(sources.iter().all(|source| source.len() == len));
                if len < SIZE {
                    return on_copies(sources, &mut [output], |sources, outputs| {
                        self.xor(sources, &mut *outputs[0])
                    });
                }
                // SAFETY: as in `combine`.
                unsafe { plain_sum(sources, output) }
            }
        }

        /// Writes `M` outputs.
        ///
        /// # Safety
        ///
        /// All slices are `len` long, which is at least `SIZE`, and there are M outputs.
        #[target_feature(enable = $features)]
        unsafe fn sums<const M: usize, const U: usize>(
            rows: &[u8],
            sources: &[&[u8]],
            outputs: &mut [&mut [u8]],
            len: usize,
        ) {
            let mut tables = [[table(0); M]; SOURCES_MAX];
            for (j, tables) in tables[..sources.len()].iter_mut().enumerate() {
                for (i, of) in tables.iter_mut().enumerate() {
                    *of = table(rows[i * sources.len() + j]);
                }
            }
            let tables = &tables[..sources.len()];
            let mut at = 0;
            while len - at >= U * SIZE {
                // SAFETY: the U vectors from `at` on end at `len` or before it.
                unsafe { step::<M, U>(tables, sources, outputs, at) };
                at += U * SIZE;
            }
            while at < len {
                at = at.min(len - SIZE);
                // SAFETY: the vector from `at` on ends at `len` or before it.
                unsafe { step::<M, 1>(tables, sources, outputs, at) };
                at += SIZE;
            }
        }

        /// # Safety
        ///
        /// There are M outputs, and all slices have `U * SIZE` bytes from `at` on.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn step<const M: usize, const U: usize>(
            tables: &[[Table; M]],
            sources: &[&[u8]],
            outputs: &mut [&mut [u8]],
            at: usize,
        ) {
            let mut sums = [[zero(); U]; M];
            let (pairs, last) = sources.as_chunks::<2>();
            let (table_pairs, last_tables) = tables.as_chunks::<2>();
            for ([source, other], [tables, other_tables]) in pairs.iter().zip(table_pairs) {
                // SAFETY: the caller's word.
                let (x, y) = unsafe { (splits::<U>(source, at), splits::<U>(other, at)) };
                for i in 0..M {
                    let (f, g) = (factor(&tables[i]), factor(&other_tables[i]));
                    for u in 0..U {
                        sums[i][u] = add3(sums[i][u], times(x[u], f), times(y[u], g));
                    }
                }
            }
            if let ([source], [tables]) = (last, last_tables) {
                // SAFETY: the caller's word.
                let x = unsafe { splits::<U>(source, at) };
                for i in 0..M {
                    let f = factor(&tables[i]);
                    for u in 0..U {
                        sums[i][u] = add(sums[i][u], times(x[u], f));
                    }
                }
            }
            for (output, sums) in outputs.iter_mut().zip(sums) {
                for (u, sum) in sums.into_iter().enumerate() {
                    // SAFETY: the caller's word; the slice is ours to write.
                    unsafe { store(output.as_mut_ptr().add(at + u * SIZE), sum) };
                }
            }
        }

        /// # Safety
        ///
        /// The source has `U * SIZE` bytes from `at` on.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn splits<const U: usize>(source: &[u8], at: usize) -> [Split; U] {
            let mut x = [split(zero()); U];
            for (u, x) in x.iter_mut().enumerate() {
                // SAFETY: the caller's word.
                *x = split(unsafe { load(source.as_ptr().add(at + u * SIZE)) });
            }
            x
        }

        /// # Safety
        ///
        /// All slices are equally long and have at least `SIZE` bytes.
        #[target_feature(enable = $features)]
        unsafe fn plain_sum(sources: &[&[u8]], output: &mut [u8]) {
            const U: usize = 4;
            let mut at = 0;
            while output.len() - at >= U * SIZE {
                // SAFETY: the U vectors from `at` on end at the slices' end or before it.
                unsafe { plain_step::<U>(sources, output, at) };
                at += U * SIZE;
            }
            while at < output.len() {
                at = at.min(output.len() - SIZE);
                // SAFETY: the vector from `at` on ends at the slices' end or before it.
                unsafe { plain_step::<1>(sources, output, at) };
                at += SIZE;
            }
        }

        /// # Safety
        ///
        /// All slices have `U * SIZE` bytes from `at` on.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn plain_step<const U: usize>(sources: &[&[u8]], output: &mut [u8], at: usize) {
            let mut sums = [zero(); U];
            let (pairs, last) = sources.as_chunks::<2>();
            for [source, other] in pairs {
                for (u, sum) in sums.iter_mut().enumerate() {
                    let at = at + u * SIZE;
                    // SAFETY: the caller's word.
                    let (x, y) = unsafe { (load(source.as_ptr().add(at)), load(other.as_ptr().add(at))) };
                    *sum = add3(*sum, x, y);
                }
            }
            if let [source] = last {
                for (u, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's word.
                    *sum = add(*sum, unsafe { load(source.as_ptr().add(at + u * SIZE)) });
                }
            }
            for (u, sum) in sums.into_iter().enumerate() {
                // SAFETY: the caller's word; the slice is ours to write.
                unsafe { store(output.as_mut_ptr().add(at + u * SIZE), sum) };
            }
        }
    };
}

/// 64 bytes at once, multiplied by a matrix of bits.
#[cfg(target_arch = "x86_64")]
mod gfni_avx512 {
    use std::arch::x86_64::*;

    use super::super::field::AFFINE;
    use super::{Backend, SOURCES_MAX, check, on_copies};

    type V = __m512i;
    type Split = __m512i;
    type Table = u64;
    type Factor = __m512i;
    const SIZE: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const u8) -> V {
        // SAFETY: the caller has 64 bytes there; no alignment is asked for.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(to: *mut u8, v: V) {
        // SAFETY: the caller owns 64 bytes there; no alignment is asked for.
        unsafe { _mm512_storeu_si512(to.cast(), v) }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> V {
        _mm512_setzero_si512()
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(a: V, b: V) -> V {
        _mm512_xor_si512(a, b)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add3(a: V, b: V, c: V) -> V {
        // The immediate is the truth table of a ⊕ b ⊕ c.
        _mm512_ternarylogic_epi64::<0x96>(a, b, c)
    }
    #[inline]
    fn table(factor: u8) -> Table {
        AFFINE[usize::from(factor)]
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn factor(table: &Table) -> Factor {
        _mm512_set1_epi64(table.cast_signed())
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn split(v: V) -> Split {
        v
    }
    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn times(v: Split, factor: Factor) -> V {
        _mm512_gf2p8affine_epi64_epi8::<0>(v, factor)
    }

    // 32 registers.
    backend!("avx512f,gfni", "GFNI, AVX-512", most 8,
        1 => 4, 2 => 4, 3 => 4, 4 => 4, 5 => 3, 6 => 3, 7 => 2, 8 => 2);
}

/// What both sets of 256-bit vectors share.
#[cfg(target_arch = "x86_64")]
mod ymm {
    use std::arch::x86_64::*;

    pub type V = __m256i;
    pub const SIZE: usize = 32;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn load(from: *const u8) -> V {
        // SAFETY: the caller has 32 bytes there; no alignment is asked for.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn store(to: *mut u8, v: V) {
        // SAFETY: the caller owns 32 bytes there; no alignment is asked for.
        unsafe { _mm256_storeu_si256(to.cast(), v) }
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn zero() -> V {
        _mm256_setzero_si256()
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn add(a: V, b: V) -> V {
        _mm256_xor_si256(a, b)
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn add3(a: V, b: V, c: V) -> V {
        add(add(a, b), c)
    }
}

/// 32 bytes at once, multiplied by a matrix of bits.
#[cfg(target_arch = "x86_64")]
mod gfni_avx2 {
    use std::arch::x86_64::*;

    use super::super::field::AFFINE;
    use super::ymm::{SIZE, V, add, add3, load, store, zero};
    use super::{Backend, SOURCES_MAX, check, on_copies};

    type Split = __m256i;
    type Table = u64;
    type Factor = __m256i;

    #[inline]
    fn table(factor: u8) -> Table {
        AFFINE[usize::from(factor)]
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn factor(table: &Table) -> Factor {
        _mm256_set1_epi64x(table.cast_signed())
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn split(v: V) -> Split {
        v
    }
    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn times(v: Split, factor: Factor) -> V {
        _mm256_gf2p8affine_epi64_epi8::<0>(v, factor)
    }

    // 16 registers.
    backend!("avx2,gfni", "GFNI, AVX2", most 4, 1 => 4, 2 => 4, 3 => 2, 4 => 2);
}

/// 32 bytes at once, multiplied by looking up nibbles.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::super::field::{NIBBLES, Nibbles};
    use super::ymm::{SIZE, V, add, add3, load, store, zero};
    use super::{Backend, SOURCES_MAX, check, on_copies};

    /// The low nibbles of the bytes, and the high ones.
    type Split = [__m256i; 2];
    type Table = &'static Nibbles;
    /// The products with low nibbles, and with high ones, in both halves.
    type Factor = [__m256i; 2];

    #[inline]
    fn table(factor: u8) -> Table {
        &NIBBLES[usize::from(factor)]
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn factor(table: &Table) -> Factor {
        let (halves, _) = table.as_chunks::<16>();
        // SAFETY: reads the 16 bytes of each array; no alignment is asked for.
        let (low, high) = unsafe {
            (
                _mm_loadu_si128(halves[0].as_ptr().cast()),
                _mm_loadu_si128(halves[1].as_ptr().cast()),
            )
        };
        [
            _mm256_broadcastsi128_si256(low),
            _mm256_broadcastsi128_si256(high),
        ]
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn split(v: V) -> Split {
        let nibble = _mm256_set1_epi8(15);
        [
            _mm256_and_si256(v, nibble),
            _mm256_and_si256(_mm256_srli_epi64::<4>(v), nibble),
        ]
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    fn times([low, high]: Split, [of_low, of_high]: Factor) -> V {
        add(
            _mm256_shuffle_epi8(of_low, low),
            _mm256_shuffle_epi8(of_high, high),
        )
    }

    // 16 registers.
    backend!("avx2", "AVX2", most 4, 1 => 4, 2 => 2, 3 => 2, 4 => 2);
}
