//! Codec 1: a matrix over GF(2⁸).

use std::cell::RefCell;

use shard_format::Role;
use smallvec::SmallVec;

use super::CAUCHY_WIDTH_MAX;
use super::field::{INVERTED_MAX, Square, inverse, invert, mul};
use super::kernels::Backend;

/// Erasure patterns whose matrix a codec keeps. With two drives lost, (8,4) has 12 + 66 patterns of missing roles and
/// reads ask for all of a pattern's data segments at once; a matrix is 256 bytes at most, so this is 38 KiB a core.
pub const PATTERNS_MAX: usize = 128;

/// The most factors of a matrix: k · m, where both are half of the widest scheme.
const FACTORS_MAX: usize = CAUCHY_WIDTH_MAX * CAUCHY_WIDTH_MAX / 4;
const _: () = assert!(INVERTED_MAX == CAUCHY_WIDTH_MAX / 2);

/// Rows of factors; a row has one for each source.
type Rows = SmallVec<[u8; FACTORS_MAX]>;

pub struct Cauchy {
    k: usize,
    backend: &'static dyn Backend,
    /// By parity segment, a factor for each data segment.
    parity: Rows,
    patterns: RefCell<Patterns>,
}

/// A parity segment's factor for a data segment. Roles count data first: the row is in `k..k + m`.
pub fn factor(k: usize, m: usize, row: usize, column: usize) -> u8 {
    if k == 1 || m == 1 {
        1
    } else {
        inverse(row as u8 ^ column as u8)
    }
}

impl Cauchy {
    pub fn new(k: usize, m: usize, backend: &'static dyn Backend) -> Cauchy {
        let rows = (k..k + m).flat_map(|row| (0..k).map(move |column| factor(k, m, row, column)));
        Cauchy {
            k,
            backend,
            parity: rows.collect(),
            patterns: RefCell::default(),
        }
    }

    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        sum(self.backend, &self.parity, data, parity);
    }

    /// `have` and `wanted` are the bits of the roles.
    pub fn rebuild(
        &self,
        (have_bits, have): (u64, &[(Role, &[u8])]),
        (wanted_bits, wanted): (u64, &mut [(Role, &mut [u8])]),
    ) {
        let mut sources: [&[u8]; CAUCHY_WIDTH_MAX] = [&[]; CAUCHY_WIDTH_MAX];
        for (role, segment) in have {
            sources[rank(have_bits, *role)] = segment;
        }
        let mut patterns = self.patterns.borrow_mut();
        let pattern = patterns.of(have_bits, wanted_bits, |rows| {
            self.invert(have_bits, wanted_bits, rows)
        });
        let mut rows = Rows::new();
        let in_order = wanted.is_sorted_by_key(|(role, _)| *role);
        let rows = if in_order {
            pattern
        } else {
            for (role, _) in &*wanted {
                let row = rank(wanted_bits, *role);
                rows.extend_from_slice(&pattern[row * self.k..][..self.k]);
            }
            &rows
        };
        let mut outputs: SmallVec<[&mut [u8]; CAUCHY_WIDTH_MAX]> = SmallVec::new();
        for (_, segment) in wanted {
            outputs.push(segment);
        }
        sum(self.backend, rows, &sources[..self.k], &mut outputs);
    }

    /// Appends a row of factors for each wanted role, ascending: what makes it from those at hand, ascending.
    ///
    /// Let the roles at hand be the data A and the parity P; the other data, L, are as many as P. With the matrix C,
    /// P = C[P,A]·A + C[P,L]·L, so L = C[P,L]⁻¹·(P + C[P,A]·A), and any other parity is C[·,A]·A + C[·,L]·L.
    fn invert(&self, have: u64, wanted: u64, rows: &mut Vec<u8>) {
        let k = self.k;
        let data = (1_u64 << k) - 1;
        let parity_at_hand = have & !data;
        let lost = data & !have;
        let c = |parity: usize, column: usize| self.parity[(parity - k) * k + column];

        let mut square: Square = Square::default();
        for (row, parity) in bits(parity_at_hand).enumerate() {
            for (column, role) in bits(lost).enumerate() {
                square[row][column] = c(parity, role);
            }
        }
        let square = invert(square, lost.count_ones() as usize);

        // The lost data by what is at hand.
        let mut of_lost = [[0; CAUCHY_WIDTH_MAX]; INVERTED_MAX];
        for (row, inverse_of) in of_lost.iter_mut().zip(square) {
            for (place, role) in bits(have).enumerate() {
                row[place] = if role < k {
                    let products = bits(parity_at_hand).zip(inverse_of);
                    products.fold(0, |sum, (parity, f)| sum ^ mul(f, c(parity, role)))
                } else {
                    inverse_of[(parity_at_hand & ((1 << role) - 1)).count_ones() as usize]
                };
            }
        }

        for role in bits(wanted) {
            if role < k {
                let row = (lost & ((1 << role) - 1)).count_ones() as usize;
                rows.extend_from_slice(&of_lost[row][..k]);
                continue;
            }
            for (place, at_hand) in bits(have).enumerate() {
                let direct = if at_hand < k { c(role, at_hand) } else { 0 };
                let by_lost = bits(lost).zip(&of_lost);
                rows.push(by_lost.fold(direct, |sum, (lost, row)| {
                    sum ^ mul(c(role, lost), row[place])
                }));
            }
        }
    }
}

/// The places of the bits that are set, ascending.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (set != 0).then(|| set.trailing_zeros() as usize);
        set &= set.wrapping_sub(1);
        place
    })
}

/// How many roles of the set come before this one.
fn rank(set: u64, role: Role) -> usize {
    (set & ((1 << role.0) - 1)).count_ones() as usize
}

/// The matrices of the patterns used last, the latest first.
#[derive(Default)]
struct Patterns(Vec<Pattern>);

struct Pattern {
    have: u64,
    wanted: u64,
    rows: Vec<u8>,
}

impl Patterns {
    /// Makes what it does not have; allocates for the first [`PATTERNS_MAX`] only.
    fn of(&mut self, have: u64, wanted: u64, make: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        let found = self
            .0
            .iter()
            .position(|pattern| (pattern.have, pattern.wanted) == (have, wanted));
        match found {
            Some(0) => {}
            Some(place) => self.0[..=place].rotate_right(1),
            None => {
                if self.0.len() == PATTERNS_MAX {
                    // The one used longest ago makes room, and its memory.
                    self.0.rotate_right(1);
                } else {
                    self.0.insert(
                        0,
                        Pattern {
                            have,
                            wanted,
                            rows: Vec::new(),
                        },
                    );
                }
                let latest = &mut self.0[0];
                (latest.have, latest.wanted) = (have, wanted);
                latest.rows.clear();
                make(&mut latest.rows);
            }
        }
        &self.0[0].rows
    }
}

/// Sums over slices of any lengths: what is missing of a source counts as zeroes, what is missing of an output is not
/// made. Between two lengths at which a slice ends, the same slices take part.
fn sum(backend: &dyn Backend, rows: &[u8], sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let plain = rows.iter().all(|factor| *factor == 1);
    let end = outputs.iter().map(|output| output.len()).max().unwrap_or(0);
    let lengths = || sources.iter().map(|source| source.len());
    if lengths()
        .chain(outputs.iter().map(|output| output.len()))
        .all(|len| len == end)
    {
        return equally_long(backend, plain, rows, sources, outputs);
    }
    let mut at = 0;
    while at < end {
        let ends = lengths().chain(outputs.iter().map(|output| output.len()));
        let upto = ends.filter(|len| *len > at).min().unwrap_or(end);
        let mut factors = Rows::new();
        let mut pieces: SmallVec<[&mut [u8]; CAUCHY_WIDTH_MAX]> = SmallVec::new();
        for (i, output) in outputs
            .iter_mut()
            .enumerate()
            .filter(|(_, output)| output.len() > at)
        {
            let row = rows[i * sources.len()..].iter();
            factors.extend(
                row.zip(sources)
                    .filter(|(_, source)| source.len() > at)
                    .map(|(f, _)| *f),
            );
            pieces.push(&mut output[at..upto]);
        }
        let sources: SmallVec<[&[u8]; CAUCHY_WIDTH_MAX]> = sources
            .iter()
            .filter(|source| source.len() > at)
            .map(|source| &source[at..upto])
            .collect();
        equally_long(backend, plain, &factors, &sources, &mut pieces);
        at = upto;
    }
}

fn equally_long(
    backend: &dyn Backend,
    plain: bool,
    rows: &[u8],
    sources: &[&[u8]],
    outputs: &mut [&mut [u8]],
) {
    match (plain, sources) {
        (true, [source]) => outputs
            .iter_mut()
            .for_each(|output| output.copy_from_slice(source)),
        (true, _) => outputs
            .iter_mut()
            .for_each(|output| backend.xor(sources, output)),
        (false, _) => backend.combine(rows, sources, outputs),
    }
}
