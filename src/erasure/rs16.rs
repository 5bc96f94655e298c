//! Codec 2: Reed-Solomon over GF(2¹⁶) as the crate reed-solomon-simd has it, for schemes too wide for codec 1.
//!
//! The crate takes whole stripes: it copies every segment into memory of its own, and to rebuild it decodes all data.
//! What it keeps is allocated once, for the longest stripe so far.

use std::cell::RefCell;

use reed_solomon_simd::{Error, ReedSolomonDecoder, ReedSolomonEncoder};
use shard_format::Role;

/// Bytes that depend on each other: 32 elements, their low halves before their high ones. The crate lays out the end of
/// a segment that is no multiple of this in another way, which would make the bytes of parity depend on its length.
pub const UNIT: usize = 64;

pub struct Rs16 {
    k: usize,
    m: usize,
    /// None without parity, which the crate does not have.
    working: Option<RefCell<Working>>,
}

struct Working {
    encoder: ReedSolomonEncoder,
    decoder: ReedSolomonDecoder,
    /// A segment and the zeroes that it lacks.
    padded: Vec<u8>,
}

const FITS: &str = "the scheme and the lengths are those that the crate takes";

impl Rs16 {
    pub fn new(k: usize, m: usize) -> Rs16 {
        let working = (m > 0).then(|| {
            RefCell::new(Working {
                encoder: ReedSolomonEncoder::new(k, m, UNIT).expect(FITS),
                decoder: ReedSolomonDecoder::new(k, m, UNIT).expect(FITS),
                padded: Vec::new(),
            })
        });
        Rs16 { k, m, working }
    }

    /// Panics unless the stripe's length is a multiple of [`UNIT`].
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        let Some(working) = &self.working else {
            return;
        };
        let len = parity[0].len();
        assert!(
            len.is_multiple_of(UNIT),
            "segments of codec 2 are whole units"
        );
        if len == 0 {
            return;
        }
        let Working {
            encoder, padded, ..
        } = &mut *working.borrow_mut();
        encoder.reset(self.k, self.m, len).expect(FITS);
        for segment in data {
            padded_to(len, segment, padded, |s| encoder.add_original_shard(s));
        }
        let result = encoder.encode().expect(FITS);
        for (segment, made) in parity.iter_mut().zip(result.recovery_iter()) {
            segment.copy_from_slice(made);
        }
    }

    pub fn rebuild(&self, have: &[(Role, &[u8])], wanted: &mut [(Role, &mut [u8])]) {
        let Some(working) = &self.working else {
            return;
        };
        // Units do not depend on each other: those that nobody wants are left out.
        let longest = wanted.iter().map(|(_, segment)| segment.len()).max();
        let len = longest.unwrap_or(0).next_multiple_of(UNIT);
        if len == 0 {
            return;
        }
        let Working {
            encoder,
            decoder,
            padded,
        } = &mut *working.borrow_mut();
        let (k, data_of) = (self.k, |role: &Role| usize::from(role.0));
        decoder.reset(k, self.m, len).expect(FITS);
        for (role, segment) in have {
            padded_to(len, segment, padded, |s| match data_of(role) {
                role if role < k => decoder.add_original_shard(role, s),
                role => decoder.add_recovery_shard(role - k, s),
            });
        }
        let decoded = decoder.decode().expect(FITS);
        for (role, segment) in wanted.iter_mut().filter(|(role, _)| data_of(role) < k) {
            let made = decoded.restored_original(data_of(role)).expect("lost");
            segment.copy_from_slice(&made[..segment.len()]);
        }
        if wanted.iter().all(|(role, _)| data_of(role) < k) {
            return;
        }
        encoder.reset(k, self.m, len).expect(FITS);
        for role in 0..k {
            match decoded.restored_original(role) {
                Some(made) => encoder.add_original_shard(made).expect(FITS),
                None => {
                    let (_, segment) = have
                        .iter()
                        .find(|(at_hand, _)| data_of(at_hand) == role)
                        .expect("what was not lost is at hand");
                    padded_to(len, segment, padded, |s| encoder.add_original_shard(s));
                }
            }
        }
        let encoded = encoder.encode().expect(FITS);
        for (role, segment) in wanted.iter_mut().filter(|(role, _)| data_of(role) >= k) {
            let made = encoded.recovery(data_of(role) - k).expect("parity");
            segment.copy_from_slice(&made[..segment.len()]);
        }
    }
}

/// Hands on `len` bytes of a segment, zeroes behind its end.
fn padded_to(
    len: usize,
    segment: &[u8],
    padded: &mut Vec<u8>,
    take: impl FnOnce(&[u8]) -> Result<(), Error>,
) {
    if let Some(segment) = segment.get(..len) {
        return take(segment).expect(FITS);
    }
    padded.clear();
    padded.extend_from_slice(segment);
    padded.resize(len, 0);
    take(padded).expect(FITS);
}
