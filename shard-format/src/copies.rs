//! The envelope of the small fixed structures: file header, drive format, volume format.
//!
//! Two copies of 4 KiB. All of a copy that is not zero lies in its first 512 bytes, checksum
//! included, so that a drive that writes sectors whole leaves each copy either old or new, never
//! torn. Magic, version and the place of the checksum are the same in every version to come:
//! that is what lets a reader tell an unknown version from damage.

use std::cmp::Ordering;

use crate::FORMAT_VERSION;
use crate::checksum::{check, crc32c};
use crate::codec::{Reader, Sink, SliceSink, all_zero};
use crate::damage::Damage;

const COPY_SIZE: usize = 4096;
/// The fields and the checksum of a copy lie in one sector.
const SECTOR_SIZE: usize = 512;
const CRC_AT: usize = SECTOR_SIZE - 4;
/// Both copies.
pub(crate) const COPIES_SIZE: usize = 2 * COPY_SIZE;

/// Why a header or format file has no value. The three answers ask for three reactions: format
/// or ignore, stop, repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Every byte is zero: preallocated and never written.
    #[error("never written: all bytes are zero")]
    NeverUsed,
    /// The checksum is right, the version is not one of ours.
    #[error("format version {found} is unknown, {known} is known")]
    UnknownVersion { found: u32, known: u32 },
    /// Neither copy can be believed. The damage named is that of the first copy that is not
    /// zero.
    #[error("both copies are unreadable: {0}")]
    Damaged(#[from] Damage),
}

/// A value of two copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded<T> {
    pub value: T,
    /// The copy (0 or 1) that is damaged, zero or older than the other one; rewriting both
    /// repairs it.
    pub damaged_copy: Option<u8>,
}

pub(crate) fn encode(
    magic: &[u8; 8],
    out: &mut [u8; COPIES_SIZE],
    fields: impl Fn(&mut SliceSink<'_>),
) {
    for (index, copy) in out.chunks_exact_mut(COPY_SIZE).enumerate() {
        let mut sink = SliceSink::new(copy);
        sink.put(magic);
        sink.put_u32(FORMAT_VERSION);
        sink.put_u8(index as u8);
        sink.put(&[0; 3]);
        fields(&mut sink);
        sink.finish_with_zeros();
        let crc = crc32c(&copy[..CRC_AT]);
        copy[CRC_AT..SECTOR_SIZE].copy_from_slice(&crc.to_le_bytes());
    }
}

/// `order` says which of two differing values is the newer one; equal means neither is.
pub(crate) fn decode<T: PartialEq>(
    magic: &[u8; 8],
    bytes: &[u8; COPIES_SIZE],
    fields: impl Fn(&mut Reader<'_>) -> Result<T, Damage>,
    order: impl Fn(&T, &T) -> Ordering,
) -> Result<Decoded<T>, HeaderError> {
    let (a, b) = bytes.split_at(COPY_SIZE);
    let a = decode_copy(magic, 0, a, &fields);
    let b = decode_copy(magic, 1, b, &fields);
    let decoded = |value, damaged_copy| {
        Ok(Decoded {
            value,
            damaged_copy,
        })
    };
    match (a, b) {
        // A newer release was here, perhaps interrupted: not ours to guess about.
        (Err(unknown @ HeaderError::UnknownVersion { .. }), _)
        | (_, Err(unknown @ HeaderError::UnknownVersion { .. })) => Err(unknown),
        (Ok(a), Ok(b)) if a == b => decoded(a, None),
        (Ok(a), Ok(b)) => match order(&a, &b) {
            Ordering::Greater => decoded(a, Some(1)),
            Ordering::Less => decoded(b, Some(0)),
            Ordering::Equal => Err(Damage::CopiesDisagree.into()),
        },
        (Ok(a), Err(_)) => decoded(a, Some(1)),
        (Err(_), Ok(b)) => decoded(b, Some(0)),
        (Err(HeaderError::NeverUsed), Err(other)) => Err(other),
        (Err(other), Err(_)) => Err(other),
    }
}

fn decode_copy<T>(
    magic: &[u8; 8],
    index: u8,
    copy: &[u8],
    fields: impl Fn(&mut Reader<'_>) -> Result<T, Damage>,
) -> Result<T, HeaderError> {
    if all_zero(copy).is_ok() {
        return Err(HeaderError::NeverUsed);
    }
    let (sector, padding) = copy.split_at(SECTOR_SIZE);
    let mut reader = Reader::new(sector);
    if reader.array::<8>()? != *magic {
        return Err(Damage::Magic.into());
    }
    let (covered, crc) = sector.split_at(CRC_AT);
    check(Reader::new(crc).u32()?, crc32c(covered))?;
    let version = reader.u32()?;
    if version != FORMAT_VERSION {
        return Err(HeaderError::UnknownVersion {
            found: version,
            known: FORMAT_VERSION,
        });
    }
    let found_index = reader.u8()?;
    if found_index != index {
        return Err(Damage::OutOfRange {
            field: "copy index",
            value: u64::from(found_index),
        }
        .into());
    }
    reader.zeros(3)?;
    let value = fields(&mut reader)?;
    let unused = reader.left() - (SECTOR_SIZE - CRC_AT);
    reader.zeros(unused)?;
    all_zero(padding)?;
    Ok(value)
}
