use proptest::prelude::*;
use rusty_erasure::{Matrix, isal, raid};
use shard_format::{Role, Scheme};

use super::cauchy::{PATTERNS_MAX, factor};
use super::field::{AFFINE, INVERTED_MAX, NIBBLES, Square, inverse, invert, mul};
use super::{Backend, CAUCHY_WIDTH_MAX, Codec, backends, rs16};

const SMALL: [(u8, u8); 7] = [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 2)];
const LARGE: [(u8, u8); 3] = [(8, 4), (16, 4), (24, 8)];
const LENGTHS: [usize; 11] = [0, 1, 31, 32, 33, 63, 64, 65, 127, 1000, 4096];

fn cauchy((k, m): (u8, u8)) -> Scheme {
    let codec = Scheme::CODEC_CAUCHY_8;
    Scheme { k, m, codec }
}

fn rs16((k, m): (u8, u8)) -> Scheme {
    let codec = Scheme::CODEC_RS_16;
    Scheme { k, m, codec }
}

/// The crate rusty_erasure, which makes ISA-L's bytes, in the place of a kernel.
struct Oracle;

impl Backend for Oracle {
    fn name(&self) -> &'static str {
        "rusty_erasure"
    }

    fn combine(&self, rows: &[u8], sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let (n, count) = (sources.len(), outputs.len());
        if n == 0 {
            return outputs.iter_mut().for_each(|output| output.fill(0));
        }
        let len = outputs.first().map_or(0, |output| output.len());
        let mut tables = vec![0; 32 * n * count];
        isal::ec_init_tables(n, count, rows, &mut tables).unwrap();
        isal::ec_encode_data(len, n, count, &tables, sources, outputs).unwrap();
    }

    fn xor(&self, sources: &[&[u8]], output: &mut [u8]) {
        match sources {
            [] => output.fill(0),
            [source] => output.copy_from_slice(source),
            _ => raid::xor_gen(sources, output).unwrap(),
        }
    }
}

fn everyone() -> impl Iterator<Item = &'static dyn Backend> {
    let oracle: &'static dyn Backend = &Oracle;
    backends().chain([oracle])
}

/// Numbers that do not repeat.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 ^ (self.0 >> 29)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }
}

/// By shifting, from the polynomial.
fn slow_mul(a: u8, b: u8) -> u8 {
    let mut product = 0_u16;
    for bit in 0..8 {
        product ^= if b >> bit & 1 != 0 {
            u16::from(a) << bit
        } else {
            0
        };
    }
    for bit in (8..15).rev() {
        product ^= if product >> bit & 1 != 0 {
            0x11d << (bit - 8)
        } else {
            0
        };
    }
    product as u8
}

#[test]
fn products_by_every_table() {
    for a in 0..=255_u8 {
        for b in 0..=255_u8 {
            let product = slow_mul(a, b);
            assert_eq!(mul(a, b), product, "{a} times {b}");
            let nibbles = &NIBBLES[usize::from(a)];
            let sum = nibbles[usize::from(b & 15)] ^ nibbles[16 + usize::from(b >> 4)];
            assert_eq!(sum, product, "{a} times {b}, by nibbles");
            let matrix = AFFINE[usize::from(a)].to_be_bytes();
            let bits = (0..8).map(|bit| ((matrix[bit] & b).count_ones() as u8 & 1) << bit);
            assert_eq!(bits.sum::<u8>(), product, "{a} times {b}, by bits");
        }
        if a != 0 {
            assert_eq!(slow_mul(a, inverse(a)), 1);
        }
    }
}

#[test]
fn inverses_of_matrices() {
    let mut draw = Draw(1);
    for n in 1..=INVERTED_MAX {
        // Columns out of order, so that pivots are looked for.
        let mut square = Square::default();
        for (i, row) in square[..n].iter_mut().enumerate() {
            for (j, f) in row[..n].iter_mut().enumerate() {
                *f = if i + j + 1 < n {
                    0
                } else {
                    1 + draw.below(255) as u8
                };
            }
        }
        let inverse_of = invert(square, n);
        for (i, j) in (0..n * n).map(|place| (place / n, place % n)) {
            let products = (0..n).map(|x| mul(square[i][x], inverse_of[x][j]));
            assert_eq!(products.fold(0, |a, b| a ^ b), u8::from(i == j));
        }
    }
}

/// What a kernel makes of slices that begin and end anywhere; checks that nothing around its outputs changes.
fn combined(
    backend: &dyn Backend,
    rows: &[u8],
    sources: &[Vec<u8>],
    (count, len): (usize, usize),
    xor: bool,
) -> Vec<Vec<u8>> {
    const AROUND: usize = 70;
    let sources: Vec<&[u8]> = sources
        .iter()
        .map(|source| &source[source.len() - len..])
        .collect();
    let mut outputs = vec![vec![0xa5; len + AROUND]; count];
    let place = |i: usize| (7 * i + 1) % AROUND;
    let mut slices: Vec<&mut [u8]> = outputs
        .iter_mut()
        .enumerate()
        .map(|(i, output)| &mut output[place(i)..][..len])
        .collect();
    if xor {
        slices
            .iter_mut()
            .for_each(|output| backend.xor(&sources, output));
    } else {
        backend.combine(rows, &sources, &mut slices);
    }
    let mut made = Vec::new();
    for (i, mut output) in outputs.into_iter().enumerate() {
        made.push(output.drain(place(i)..place(i) + len).collect());
        assert!(
            output.iter().all(|byte| *byte == 0xa5),
            "{} wrote outside",
            backend.name()
        );
    }
    made
}

#[test]
fn every_kernel_makes_the_same_sums() {
    let names: Vec<_> = everyone().map(Backend::name).collect();
    eprintln!("compared: {names:?}");
    let mut draw = Draw(2);
    let shapes = (1..=11).map(|outputs| (outputs, 1 + outputs % 5));
    for (count, n) in shapes.chain([(1, 0), (3, 0), (1, 32), (2, 31), (16, 16), (8, 24)]) {
        for len in LENGTHS {
            let mut rows = draw.bytes(n * count);
            rows.iter_mut().step_by(5).for_each(|f| *f = 0);
            let sources: Vec<Vec<u8>> = (0..n)
                .map(|_| {
                    let before = draw.below(9);
                    draw.bytes(before + len)
                })
                .collect();
            let mut expected = vec![vec![0; len]; count];
            for (i, output) in expected.iter_mut().enumerate() {
                for (j, source) in sources.iter().enumerate() {
                    for (sum, byte) in output.iter_mut().zip(&source[source.len() - len..]) {
                        *sum ^= slow_mul(rows[i * n + j], *byte);
                    }
                }
            }
            let mut plain = vec![0; len];
            for source in &sources {
                for (sum, byte) in plain.iter_mut().zip(&source[source.len() - len..]) {
                    *sum ^= byte;
                }
            }
            for backend in everyone() {
                let what = format!("{}: {count} of {n}, {len} bytes", backend.name());
                let made = combined(backend, &rows, &sources, (count, len), false);
                assert!(made == expected, "{what}");
                for made in combined(backend, &rows, &sources, (count, len), true) {
                    assert!(made == plain, "{what}, XOR");
                }
            }
        }
    }
}

#[test]
#[should_panic = "equally long"]
fn kernels_refuse_a_short_source() {
    let backend = backends().next().unwrap();
    backend.combine(&[2], &[&[0; 127]], &mut [&mut [0; 128]]);
}

#[test]
fn the_matrix_is_isal_s_where_both_are_wide() {
    for k in 1..CAUCHY_WIDTH_MAX {
        for m in 1..=CAUCHY_WIDTH_MAX - k {
            let oracle = Matrix::cauchy(k, m).unwrap();
            for row in k..k + m {
                for column in 0..k {
                    let expected = oracle.get(row, column).unwrap();
                    let found = factor(k, m, row, column);
                    match (k, m) {
                        // XOR and copies are that matrix, its column j times k ⊕ j, its row i times i.
                        (_, 1) => assert_eq!(found, mul(expected, (k ^ column) as u8)),
                        (1, _) => assert_eq!(found, mul(expected, row as u8)),
                        _ => assert_eq!(found, expected),
                    }
                }
            }
        }
    }
}

/// A stripe: its segments by role, all of the stripe's length, and how much of each data segment there is.
struct Stripe {
    segments: Vec<Vec<u8>>,
    logical: Vec<usize>,
}

impl Stripe {
    /// Data segments at random, some of them shorter than the stripe.
    fn new(codec: &Codec, len: usize, short: bool, draw: &mut Draw) -> Stripe {
        let Scheme { k, m, .. } = codec.scheme();
        let mut logical = vec![len; usize::from(k)];
        if short {
            for logical in &mut logical {
                *logical = match draw.below(4) {
                    0 => 0,
                    1 => len,
                    _ => draw.below(len + 1),
                };
            }
        }
        let data: Vec<Vec<u8>> = logical.iter().map(|len| draw.bytes(*len)).collect();
        let mut stripe = Stripe {
            segments: data,
            logical,
        };
        let data: Vec<&[u8]> = stripe.segments.iter().map(Vec::as_slice).collect();
        let parity = encode(codec, &data, len);
        for segment in &mut stripe.segments {
            segment.resize(len, 0);
        }
        stripe.segments.extend(parity);
        assert_eq!(stripe.segments.len(), usize::from(k + m));
        stripe
    }

    /// Rebuilds the roles that `wanted` has from those that `have` has.
    fn check(&self, codec: &Codec, have: &[u8], wanted: &[u8], draw: &mut Draw) {
        let have: Vec<(Role, &[u8])> = have
            .iter()
            .map(|role| {
                let place = usize::from(*role);
                let len = self.logical.get(place).copied();
                let segment = &self.segments[place];
                (Role(*role), &segment[..len.unwrap_or(segment.len())])
            })
            .collect();
        let len = self.segments[0].len();
        let mut made: Vec<Vec<u8>> = wanted
            .iter()
            .map(|_| vec![0xa5; [len, len, len / 2, draw.below(len + 1)][draw.below(4)]])
            .collect();
        let mut slices: Vec<(Role, &mut [u8])> = wanted
            .iter()
            .zip(&mut made)
            .map(|(role, segment)| (Role(*role), segment.as_mut_slice()))
            .collect();
        codec.rebuild(&have, &mut slices);
        for (role, made) in wanted.iter().zip(made) {
            assert!(
                made == self.segments[usize::from(*role)][..made.len()],
                "{}: role {role} of {len} bytes from {:?}",
                codec.scheme(),
                have.iter().map(|(role, _)| role.0).collect::<Vec<_>>()
            );
        }
    }
}

fn encode(codec: &Codec, data: &[&[u8]], len: usize) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0xa5; len]; usize::from(codec.scheme().m)];
    let mut slices: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    codec.encode(data, &mut slices);
    parity
}

fn roles(set: u32) -> Vec<u8> {
    (0..32).filter(|role| set >> role & 1 != 0).collect()
}

/// k roles at random, and some of the others, in any order.
fn pattern(scheme: Scheme, draw: &mut Draw) -> (Vec<u8>, Vec<u8>) {
    let mut all: Vec<u8> = (0..scheme.k + scheme.m).collect();
    for place in (1..all.len()).rev() {
        all.swap(place, draw.below(place + 1));
    }
    let mut wanted = all.split_off(usize::from(scheme.k));
    if !wanted.is_empty() {
        wanted.truncate(1 + draw.below(wanted.len()));
    }
    (all, wanted)
}

#[test]
fn every_backend_encodes_what_isal_does() {
    let mut draw = Draw(3);
    for (k, m) in SMALL.into_iter().chain(LARGE).filter(|(_, m)| *m > 0) {
        for len in LENGTHS.into_iter().chain([65536]) {
            if len == 65536 && k > 8 {
                continue;
            }
            let data: Vec<Vec<u8>> = (0..k).map(|_| draw.bytes(len)).collect();
            let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let mut expected = vec![vec![0; len]; usize::from(m)];
            let mut slices: Vec<&mut [u8]> = expected.iter_mut().map(Vec::as_mut_slice).collect();
            match (k, m) {
                (1, _) => slices
                    .iter_mut()
                    .for_each(|copy| copy.copy_from_slice(data[0])),
                (_, 1) => raid::xor_gen(&data, slices[0]).unwrap(),
                _ => rusty_erasure::coder(Matrix::cauchy(k.into(), m.into()).unwrap())
                    .unwrap()
                    .encode(&data, &mut slices)
                    .unwrap(),
            }
            for backend in everyone() {
                let codec = Codec::with_backend(cauchy((k, m)), backend);
                assert!(
                    encode(&codec, &data, len) == expected,
                    "{k}+{m}, {len} bytes, {}",
                    backend.name()
                );
            }
        }
    }
}

#[test]
fn every_pattern_of_small_schemes() {
    let mut draw = Draw(4);
    for backend in everyone() {
        for scheme in SMALL.map(cauchy).into_iter().chain([cauchy((8, 4))]) {
            let codec = Codec::with_backend(scheme, backend);
            let stripes = [(0, false), (97, false), (97, true), (1024, true)]
                .map(|(len, short)| Stripe::new(&codec, len, short, &mut draw));
            for have in 0..1_u32 << scheme.width() {
                if have.count_ones() != u32::from(scheme.k) {
                    continue;
                }
                let (have, mut wanted) = (roles(have), roles(!have & ((1 << scheme.width()) - 1)));
                for stripe in &stripes {
                    stripe.check(&codec, &have, &wanted, &mut draw);
                }
                for role in &wanted {
                    stripes[1].check(&codec, &have, &[*role], &mut draw);
                }
                wanted.reverse();
                stripes[1].check(&codec, &have, &wanted, &mut draw);
                stripes[1].check(&codec, &have, &[], &mut draw);
            }
        }
    }
}

#[test]
fn random_patterns_of_large_schemes() {
    let mut draw = Draw(5);
    for backend in everyone() {
        for scheme in LARGE
            .map(cauchy)
            .into_iter()
            .chain([cauchy((16, 16)), cauchy((2, 30))])
        {
            let codec = Codec::with_backend(scheme, backend);
            for (len, short) in [(1, false), (513, false), (513, true), (4096, true)] {
                let stripe = Stripe::new(&codec, len, short, &mut draw);
                for _ in 0..20 {
                    let (have, wanted) = pattern(scheme, &mut draw);
                    stripe.check(&codec, &have, &wanted, &mut draw);
                }
            }
        }
    }
}

#[test]
fn whole_segments() {
    let mut draw = Draw(6);
    for scheme in [(2, 1), (4, 2), (24, 8)].map(cauchy) {
        let codec = Codec::new(scheme);
        let stripe = Stripe::new(&codec, 65536, false, &mut draw);
        for _ in 0..4 {
            let (have, wanted) = pattern(scheme, &mut draw);
            stripe.check(&codec, &have, &wanted, &mut draw);
        }
    }
}

#[test]
fn more_patterns_than_are_kept() {
    let codec = Codec::new(cauchy((8, 4)));
    let mut draw = Draw(7);
    let stripe = Stripe::new(&codec, 100, false, &mut draw);
    let sets: Vec<_> = (0..1_u32 << 12)
        .filter(|set| set.count_ones() == 8)
        .collect();
    assert!(sets.len() > 3 * PATTERNS_MAX);
    for _ in 0..2 {
        for set in &sets {
            let mut wanted = roles(!set & 0xfff);
            wanted.truncate(1 + draw.below(4));
            stripe.check(&codec, &roles(*set), &wanted, &mut draw);
        }
    }
}

proptest! {
    #[test]
    fn any_scheme_length_and_loss(
        (k, m) in (1..=16_u8, 0..=8_u8),
        len in 0..3000_usize,
        short: bool,
        seed: u64,
        wide: bool,
    ) {
        let mut draw = Draw(seed);
        let codec = Codec::new(if wide { rs16((k, m)) } else { cauchy((k, m)) });
        let stripe = Stripe::new(&codec, len.next_multiple_of(codec.unit()), short, &mut draw);
        for _ in 0..3 {
            let (have, wanted) = pattern(codec.scheme(), &mut draw);
            stripe.check(&codec, &have, &wanted, &mut draw);
        }
    }
}

/// Data bytes that anybody can make.
fn golden_data(k: u8) -> Vec<[u8; 12]> {
    let byte = |j: usize, b: usize| (37 * (j + 1) + 59 * b + (j * b * b) % 251) as u8;
    (0..usize::from(k))
        .map(|j| std::array::from_fn(|b| byte(j, b)))
        .collect()
}

/// Made by a separate program, and for k and m above 1 by ISA-L 2.30.
#[test]
fn golden_parity() {
    let golden: [((u8, u8), &[u128]); 6] = [
        (
            (1, 2),
            &[0x25609bd6114c87c2fd3873ae, 0x25609bd6114c87c2fd3873ae],
        ),
        ((2, 1), &[0x6fe65fd257c657da9f968fe2]),
        (
            (2, 2),
            &[0x51b9749c4fab7669258de398, 0xcd63e0bb2c8a15b991b4a4b7],
        ),
        (
            (3, 2),
            &[0xa2cf0d8957420cd75690215d, 0x62a621e19ebfffab9b845638],
        ),
        (
            (4, 2),
            &[0x805ef59e7004e9872e64eab6, 0xce894c5523af9736f038c8d4],
        ),
        (
            (8, 4),
            &[
                0x1dc1f1d9203a9783487b51e1,
                0x2b053c8a0edab1c39e4b5654,
                0x990c36d4519623573035be7b,
                0x5439e320a97a333f4398739e,
            ],
        ),
    ];
    for (scheme, expected) in golden {
        let data = golden_data(scheme.0);
        let data: Vec<&[u8]> = data.iter().map(|segment| &segment[..]).collect();
        for backend in everyone() {
            let codec = Codec::with_backend(cauchy(scheme), backend);
            let parity = encode(&codec, &data, 12);
            let parity: Vec<u128> = parity
                .iter()
                .map(|segment| {
                    segment
                        .iter()
                        .fold(0, |sum, byte| sum << 8 | u128::from(*byte))
                })
                .collect();
            assert_eq!(parity, expected, "{scheme:?} {}", backend.name());
        }
    }
    // The example of SPEC.md, section 1.
    let codec = Codec::new(cauchy((4, 2)));
    let parity = encode(&codec, &[&[1], &[2], &[3], &[4]], 1);
    assert_eq!(parity, [[0x48], [0x0f]]);
}

#[test]
fn rs_16_is_the_crate_s() {
    let mut draw = Draw(8);
    for (k, m) in SMALL
        .into_iter()
        .chain(LARGE)
        .chain([(32, 32), (60, 4), (5, 59)])
    {
        let codec = Codec::new(rs16((k, m)));
        for (len, short) in [
            (0, false),
            (64, false),
            (128, true),
            (4096, true),
            (64, true),
        ] {
            let stripe = Stripe::new(&codec, len, short, &mut draw);
            if m > 0 && len > 0 {
                let data = &stripe.segments[..usize::from(k)];
                let expected = reed_solomon_simd::encode(k.into(), m.into(), data).unwrap();
                assert!(expected == stripe.segments[usize::from(k)..], "{k}+{m}");
            }
            for _ in 0..5 {
                let (have, wanted) = pattern(codec.scheme(), &mut draw);
                stripe.check(&codec, &have, &wanted, &mut draw);
            }
        }
    }
}

#[test]
fn rs_16_makes_xor_and_copies_too() {
    let mut draw = Draw(9);
    for scheme in [(1, 1), (1, 5), (2, 1), (7, 1), (31, 1), (1, 31)] {
        let data: Vec<Vec<u8>> = (0..scheme.0).map(|_| draw.bytes(192)).collect();
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let [one, other] = [cauchy, rs16].map(|of| encode(&Codec::new(of(scheme)), &data, 192));
        assert!(one == other, "{scheme:?}");
    }
}

/// The crate may come up with another layout; the disk may not.
#[test]
fn golden_parity_of_rs_16() {
    let data: Vec<[u8; 64]> = (0..4_usize)
        .map(|j| std::array::from_fn(|b| (37 * (j + 1) + 59 * b + (j * b * b) % 251) as u8))
        .collect();
    let data: Vec<&[u8]> = data.iter().map(|segment| &segment[..]).collect();
    let parity = encode(&Codec::new(rs16((4, 2))), &data, 64);
    let found: Vec<_> = parity
        .iter()
        .map(|segment| (&segment[..4], &segment[60..]))
        .collect();
    assert_eq!(
        format!("{found:02x?}"),
        "[([e9, cb, 9b, 3b], [8b, c1, ec, 6b]), ([7d, 53, 3f, bb], [86, e6, fc, 4c])]"
    );
}

#[test]
#[should_panic = "whole units"]
fn rs_16_refuses_a_part_of_a_unit() {
    encode(&Codec::new(rs16((2, 1))), &[&[1], &[2]], rs16::UNIT + 2);
}

#[test]
fn wrong_shapes_are_refused() {
    /// A role, and the bytes there are of it.
    type Segment = (u8, usize);
    let refused = |what: &dyn Fn(&Codec)| {
        let codec = Codec::new(cauchy((2, 1)));
        let attempt = std::panic::AssertUnwindSafe(|| what(&codec));
        std::panic::catch_unwind(attempt).is_err()
    };
    assert!(refused(
        &|codec| codec.encode(&[&[0; 8]], &mut [&mut [0; 8]])
    ));
    assert!(refused(&|codec| codec.encode(&[&[0; 8], &[0; 8]], &mut [])));
    assert!(refused(
        &|codec| codec.encode(&[&[0; 8], &[0; 9]], &mut [&mut [0; 8]])
    ));
    let rebuild = |codec: &Codec, have: &[Segment], wanted: Segment| {
        let bytes = [0; 16];
        let have: Vec<_> = have
            .iter()
            .map(|(r, len)| (Role(*r), &bytes[..*len]))
            .collect();
        codec.rebuild(&have, &mut [(Role(wanted.0), &mut vec![0; wanted.1])]);
    };
    assert!(!refused(&|codec| rebuild(codec, &[(2, 8), (1, 4)], (0, 8))));
    let wrong: [(&[Segment], Segment); 6] = [
        (&[(2, 8)], (0, 8)),
        (&[(2, 8), (2, 8)], (0, 8)),
        (&[(2, 8), (3, 8)], (0, 8)),
        (&[(2, 8), (1, 9)], (0, 8)),
        (&[(2, 8), (1, 8)], (0, 9)),
        (&[(2, 8), (1, 8)], (1, 8)),
    ];
    for (have, wanted) in wrong {
        let refused = refused(&|codec| rebuild(codec, have, wanted));
        assert!(refused, "{have:?} {wanted:?}");
    }
}

#[test]
fn schemes_that_cannot_be_are_refused() {
    for (k, m, codec) in [(0, 1, 1), (30, 3, 1), (60, 5, 2), (2, 1, 0), (2, 1, 3)] {
        let attempt = || Codec::new(Scheme { k, m, codec }).scheme();
        assert!(
            std::panic::catch_unwind(attempt).is_err(),
            "{k}+{m} {codec}"
        );
    }
}
