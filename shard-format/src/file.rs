//! The header of a segment file: whose it is, what it is used for, and since when.
//!
//! It survives a crash in its old or its new form (see [`crate::HeaderError`] and SPEC.md,
//! section 2): a rewrite changes the generation, and the higher generation wins.

use crate::FILE_HEADER_SIZE;
use crate::codec::{Reader, Sink};
use crate::copies::{self, COPIES_SIZE, Decoded, HeaderError};
use crate::damage::Damage;
use crate::id::{BatchSeq, ClusterId, DriveId, FileNumber, Generation, Incarnation, Lsn, VolumeId};

const MAGIC: &[u8; 8] = b"OSTRKSEG";
const _: () = assert!(FILE_HEADER_SIZE == COPIES_SIZE);

/// Which stream of appends a file or batch belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Head {
    /// Metadata commands, Raft entries, inline bodies. The only head that is replayed.
    Commit = 1,
    /// Shard segments.
    Bulk = 2,
    /// Live records moved by reclaim.
    Relocate = 3,
}

impl Head {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Head, Damage> {
        match reader.u8()? {
            1 => Ok(Head::Commit),
            2 => Ok(Head::Bulk),
            3 => Ok(Head::Relocate),
            other => Err(Damage::OutOfRange {
                field: "head",
                value: u64::from(other),
            }),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FileState {
    /// Holds batches of the header's generation.
    Open = 1,
    /// Holds nothing that counts: every batch in it is of an older generation.
    Free = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileHeader {
    pub cluster: ClusterId,
    pub drive: DriveId,
    pub volume: VolumeId,
    pub file_number: FileNumber,
    /// Length of the whole preallocated file in bytes; a multiple of the block size.
    pub file_length: u64,
    /// The head that appends (or, in a free file, that last appended).
    pub head: Head,
    pub state: FileState,
    pub generation: Generation,
    /// Sequence of the first batch in this generation. Batches of older files of this head at or
    /// above it were dropped by recovery and do not count.
    pub first_seq: BatchSeq,
    /// The start of the process that activated (or freed) the file.
    pub incarnation: Incarnation,
    /// No record in this generation has a smaller LSN.
    pub created_lsn: Lsn,
}

impl FileHeader {
    /// Fills the header block, both copies.
    ///
    /// Panics if `file_length` is not one a reader accepts.
    pub fn encode(&self, out: &mut [u8; FILE_HEADER_SIZE]) {
        assert_eq!(check_file_length(self.file_length), Ok(()));
        copies::encode(MAGIC, out, |sink| {
            sink.put(&self.cluster.0);
            sink.put(&self.drive.0);
            sink.put(&self.volume.0);
            sink.put_u64(self.file_length);
            sink.put_u64(self.generation.0);
            sink.put_u64(self.first_seq.0);
            sink.put_u64(self.incarnation.0);
            sink.put_u64(self.created_lsn.0);
            sink.put_u32(self.file_number.0);
            sink.put_u8(self.head as u8);
            sink.put_u8(self.state as u8);
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<FileHeader, Damage> {
        let cluster = ClusterId(reader.array()?);
        let drive = DriveId(reader.array()?);
        let volume = VolumeId(reader.array()?);
        let file_length = file_length(reader)?;
        Ok(FileHeader {
            cluster,
            drive,
            volume,
            file_length,
            generation: Generation(reader.u64()?),
            first_seq: BatchSeq(reader.u64()?),
            incarnation: Incarnation(reader.u64()?),
            created_lsn: Lsn(reader.u64()?),
            file_number: FileNumber(reader.u32()?),
            head: Head::read(reader)?,
            state: match reader.u8()? {
                1 => FileState::Open,
                2 => FileState::Free,
                other => {
                    return Err(Damage::OutOfRange {
                        field: "state",
                        value: u64::from(other),
                    });
                }
            },
        })
    }
}

pub(crate) fn file_length(reader: &mut Reader<'_>) -> Result<u64, Damage> {
    let length = reader.u64()?;
    check_file_length(length)?;
    Ok(length)
}

/// A segment file has room for its header, one block of batches and one of footer, and its
/// blocks are numbered by 32 bits.
pub(crate) fn check_file_length(length: u64) -> Result<(), Damage> {
    const BLOCK: u64 = crate::BLOCK_SIZE as u64;
    if !length.is_multiple_of(BLOCK) || length < 3 * BLOCK || length / BLOCK > u64::from(u32::MAX) {
        return Err(Damage::OutOfRange {
            field: "file length",
            value: length,
        });
    }
    Ok(())
}

/// Reads the header block of a segment file. If both copies are valid, the higher generation
/// wins.
pub fn decode_file_header(
    bytes: &[u8; FILE_HEADER_SIZE],
) -> Result<Decoded<FileHeader>, HeaderError> {
    copies::decode(MAGIC, bytes, FileHeader::read, |a, b| {
        a.generation.cmp(&b.generation)
    })
}
