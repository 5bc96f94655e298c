//! CRC32C (Castagnoli), alone and bound to the identity of what it vouches for.
//!
//! A payload's checksum starts with the identity of its record, so that the right bytes of the
//! wrong segment fail like damaged bytes do.

use crc_fast::{CrcAlgorithm, Digest};

use crate::codec::{Reader, Sink, SliceSink};
use crate::damage::Damage;
use crate::id::{ChunkIndex, Hlc, ObjectId, PgId, Role, SegmentIndex};

const CASTAGNOLI: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// CRC32C of `bytes`; of `b"123456789"` it is 0xe3069283.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of the concatenation of `parts`.
pub(crate) fn crc32c_of_parts(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CASTAGNOLI);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

pub(crate) fn check(stored: u32, computed: u32) -> Result<(), Damage> {
    if stored == computed {
        Ok(())
    } else {
        Err(Damage::Checksum { stored, computed })
    }
}

/// Which segment of which object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentIdentity {
    pub object: ObjectId,
    pub chunk: ChunkIndex,
    pub segment: SegmentIndex,
    pub role: Role,
}

impl SegmentIdentity {
    /// Bytes of the encoded form, in the directory and in front of the payload's checksum.
    pub const SIZE: usize = 23;

    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut sink = SliceSink::new(&mut bytes);
        sink.put(&self.object.0);
        sink.put_u32(self.chunk.0);
        sink.put_u16(self.segment.0);
        sink.put_u8(self.role.0);
        bytes
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<SegmentIdentity, Damage> {
        Ok(SegmentIdentity {
            object: ObjectId(reader.array()?),
            chunk: ChunkIndex(reader.u32()?),
            segment: SegmentIndex(reader.u16()?),
            role: Role(reader.u8()?),
        })
    }
}

/// Where a command stands in its placement group. A relocated record keeps it; replay applies by
/// it, not by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    pub pg: PgId,
    /// Index in the group's log; grows by one per command.
    pub index: u64,
    pub term: u64,
    pub hlc: Hlc,
}

impl Origin {
    /// Bytes of the encoded form, in the directory and in front of the payload's checksum.
    pub const SIZE: usize = 26;

    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut sink = SliceSink::new(&mut bytes);
        sink.put_u16(self.pg.0);
        sink.put_u64(self.index);
        sink.put_u64(self.term);
        sink.put_u64(self.hlc.0);
        bytes
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Origin, Damage> {
        Ok(Origin {
            pg: PgId(reader.u16()?),
            index: reader.u64()?,
            term: reader.u64()?,
            hlc: Hlc(reader.u64()?),
        })
    }
}

/// The checksum of a segment's stored bytes, computed as they pass.
#[derive(Clone)]
pub struct SegmentCrc(Digest);

impl SegmentCrc {
    pub fn new(identity: &SegmentIdentity) -> SegmentCrc {
        let mut digest = Digest::new(CASTAGNOLI);
        digest.update(&identity.to_bytes());
        SegmentCrc(digest)
    }

    pub fn update(&mut self, stored: &[u8]) {
        self.0.update(stored);
    }

    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// The checksum of a segment: its identity, then its stored bytes.
pub fn segment_crc(identity: &SegmentIdentity, stored: &[u8]) -> u32 {
    crc32c_of_parts(&[&identity.to_bytes(), stored])
}

/// The checksum of a METADATA payload given in `parts`: its origin, then its bytes.
pub fn metadata_crc(origin: &Origin, parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CASTAGNOLI);
    digest.update(&origin.to_bytes());
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> SegmentIdentity {
        SegmentIdentity {
            object: ObjectId([7; 16]),
            chunk: ChunkIndex(3),
            segment: SegmentIndex(511),
            role: Role(2),
        }
    }

    #[test]
    fn it_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_form_agrees_with_another_implementation() {
        let stored: Vec<u8> = (0..70_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        for len in [0, 1, 7, 8, 255, 256, 257, 4096, 65536, 70_000] {
            let stored = &stored[..len];
            let expected = crc32c::crc32c_append(crc32c::crc32c(&identity().to_bytes()), stored);
            assert_eq!(crc32c(stored), crc32c::crc32c(stored));
            assert_eq!(segment_crc(&identity(), stored), expected);
            let mut running = SegmentCrc::new(&identity());
            for piece in stored.chunks(1000) {
                running.update(piece);
            }
            assert_eq!(running.finish(), expected);
        }
    }

    #[test]
    fn another_identity_has_another_checksum() {
        let sum = segment_crc(&identity(), b"payload");
        let mut others = [identity(); 4];
        others[0].object.0[15] ^= 1;
        others[1].chunk.0 += 1;
        others[2].segment.0 -= 1;
        others[3].role.0 += 1;
        for other in others {
            assert_ne!(segment_crc(&other, b"payload"), sum);
        }
    }
}
