//! Segments to parity, and back: the arithmetic of a scheme. Pure: bytes in, bytes out.
//!
//! ```text
//!   field     GF(2⁸): products, inverses, small matrices
//!   kernels   sums of multiples of segments, by the CPU's vectors; the scalar reference
//!   cauchy    codec 1: the matrix, and its inverses by erasure pattern
//!   rs16      codec 2: the crate reed-solomon-simd
//!   Codec     one scheme of either codec
//! ```
//!
//! # The matrix of codec 1
//!
//! What is on disk is defined in `shard-format/SPEC.md`, section 1, and made in `cauchy`. Parity segment i (role k + i)
//! is the sum, over GF(2⁸) with the polynomial 0x11d, of each data segment times a factor:
//!
//! | scheme | factor of the data segment with role j in the parity segment with role i | that is |
//! |---|---|---|
//! | k ≥ 2 and m ≥ 2 | inverse(i ⊕ j) | ISA-L's `gf_gen_cauchy1_matrix`, to the byte |
//! | m = 1 | 1 | XOR, ISA-L's `xor_gen` |
//! | k = 1 | 1 | copies |
//!
//! ISA-L's matrix has other factors in the last two rows: inverse(k ⊕ j), inverse(i). Theirs are those, with column j
//! times k ⊕ j where m = 1, and with row i times i where k = 1. Multiplying a column or a row by something other than 0
//! leaves every square of the matrix with an inverse, so any k segments still make the rest; and neither XOR nor a copy
//! multiplies at all. The cost is a case in one function, `cauchy::factor`; nothing else knows of it.
//!
//! Every square of a Cauchy matrix has an inverse, for all k + m up to 256. ISA-L's other matrix, `gf_gen_rs_matrix`, has
//! not, beyond small m.
//!
//! # Why not a crate
//!
//! `rusty_erasure` 0.4.3 makes the same bytes, without C. The kernels here, which stand behind the same trait as it does in the tests,
//! are as fast or faster, take slices of unequal lengths, and spare a dependency of the data path. GB/s of object data on
//! one core of a Zen 4, 64 KiB segments (`ostrakon-bench codec`; docs/performance.md has spread and peers):
//!
//! ```text
//!                       (2,1)   (4,2)   (8,4)     rebuild one: (2,1)   (4,2)   (8,4)
//!   this                 75      74      49                     74      89      92
//!   rusty_erasure        76      65      25                     77      87      87
//!   ISA-L 2.30           75      27      14                     76      49      48
//!   reed-solomon-simd    25      17      12                     0.2     0.4     0.7
//! ```
//!
//! So `rusty_erasure` is the tests' oracle, and codec 2 is for schemes that codec 1 has no room for. Its tables take 8 MiB
//! of the process from the first [`Codec`] on that has it.
//!
//! Invariants worth naming:
//!
//! 1. The bytes of parity depend on scheme and data alone, never on the kernel of the CPU. Golden vectors in the tests
//!    hold the matrix.
//! 2. No kernel reads or writes outside of a slice; `unsafe` is in `kernels` only.
//! 3. Wrong shapes are bugs of the caller and panic; wrong bytes go unnoticed, which is what checksums are for.
//! 4. Nothing here survives a crash.

mod cauchy;
mod field;
mod kernels;
mod rs16;
#[cfg(test)]
mod tests;

pub use kernels::{Backend, backends};

use cauchy::Cauchy;
use rs16::Rs16;
use shard_format::{Role, Scheme};

/// The most segments of a stripe of codec 1. Wider ones are for codec 2.
const CAUCHY_WIDTH_MAX: usize = Scheme::CAUCHY_WIDTH_MAX as usize;

/// Arithmetic of one scheme. One per core.
pub struct Codec {
    scheme: Scheme,
    arithmetic: Arithmetic,
}

// There are a few per core, and they are not moved.
#[allow(clippy::large_enum_variant)]
enum Arithmetic {
    Cauchy(Cauchy),
    Rs16(Rs16),
}

impl Codec {
    /// Panics for a scheme that `shard-format` does not decode: without data, too wide, of an unknown codec.
    pub fn new(scheme: Scheme) -> Codec {
        Codec::with_backend(scheme, kernels::best())
    }

    /// Has this one do the sums of codec 1.
    pub fn with_backend(scheme: Scheme, backend: &'static dyn Backend) -> Codec {
        assert!(
            scheme.k > 0 && scheme.width() <= Scheme::width_max(scheme.codec),
            "{scheme} is no scheme"
        );
        let (k, m) = (usize::from(scheme.k), usize::from(scheme.m));
        let arithmetic = match scheme.codec {
            Scheme::CODEC_CAUCHY_8 => Arithmetic::Cauchy(Cauchy::new(k, m, backend)),
            _ => Arithmetic::Rs16(Rs16::new(k, m)),
        };
        Codec { scheme, arithmetic }
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What the length of a stripe's segments has to be a multiple of: 1 with codec 1, 64 with codec 2.
    pub fn unit(&self) -> usize {
        match self.arithmetic {
            Arithmetic::Cauchy(_) => 1,
            Arithmetic::Rs16(_) => rs16::UNIT,
        }
    }

    /// Makes the parity of a stripe. `parity[i]` has the stripe's length; a data segment may be shorter, even empty: what
    /// is missing of it counts as zeroes.
    ///
    /// Panics unless there are k of the one and m of the other, equally long and a multiple of [`Codec::unit`].
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert_eq!(data.len(), usize::from(self.scheme.k), "all data segments");
        assert_eq!(
            parity.len(),
            usize::from(self.scheme.m),
            "all parity segments"
        );
        let Some(len) = parity.first().map(|segment| segment.len()) else {
            return;
        };
        assert!(
            parity.iter().all(|segment| segment.len() == len)
                && data.iter().all(|segment| segment.len() <= len),
            "parity has the stripe's length"
        );
        match &self.arithmetic {
            Arithmetic::Cauchy(cauchy) => cauchy.encode(data, parity),
            Arithmetic::Rs16(rs16) => rs16.encode(data, parity),
        }
    }

    /// Makes segments of a stripe from k others, in any order. Again a data segment at hand may be shorter than the
    /// stripe. A wanted one may be shorter too: only its first bytes are made.
    ///
    /// Does not allocate, but for the first use of a pattern of roles, and, with codec 2, of a length.
    ///
    /// Panics unless there are k, each role at most once, parity as long as the stripe, and nothing longer.
    pub fn rebuild(&self, have: &[(Role, &[u8])], wanted: &mut [(Role, &mut [u8])]) {
        let Scheme { k, .. } = self.scheme;
        assert_eq!(have.len(), usize::from(k), "k segments make the rest");
        let mut have_bits = 0;
        for (role, _) in have {
            self.add_role(&mut have_bits, *role);
        }
        let mut all_bits = have_bits;
        for (role, _) in &*wanted {
            self.add_role(&mut all_bits, *role);
        }
        let mut parity = have.iter().filter(|(role, _)| role.0 >= k);
        if let Some((_, first)) = parity.next() {
            let len = first.len();
            assert!(
                parity.all(|(_, segment)| segment.len() == len)
                    && have.iter().all(|(_, segment)| segment.len() <= len)
                    && wanted.iter().all(|(_, segment)| segment.len() <= len),
                "parity has the stripe's length"
            );
        }
        if wanted.is_empty() {
            return;
        }
        match &self.arithmetic {
            Arithmetic::Cauchy(cauchy) => {
                cauchy.rebuild((have_bits, have), (all_bits & !have_bits, wanted))
            }
            Arithmetic::Rs16(rs16) => rs16.rebuild(have, wanted),
        }
    }

    fn add_role(&self, set: &mut u64, role: Role) {
        assert!(
            u16::from(role.0) < self.scheme.width(),
            "a role of the scheme"
        );
        assert!(*set >> role.0 & 1 == 0, "each role once");
        *set |= 1 << role.0;
    }
}
