//! The list of batches that seals a segment file.
//!
//! It repeats what the batches say of themselves, so that a rebuild finds them without walking.
//! It follows the last batch and ends at a block; the trailer in its last 64 bytes leads from the
//! sealed length back to its start. A lost footer costs a walk, nothing else.

use crate::checksum::{check, crc32c};
use crate::codec::{Reader, Sink, SliceSink, all_zero};
use crate::damage::Damage;
use crate::id::{BatchSeq, FileNumber, Generation, Lsn, VolumeId};
use crate::{BLOCK_SIZE, FILE_HEADER_SIZE, FORMAT_VERSION, RECORD_COUNT_MAX};

const MAGIC: &[u8; 8] = b"OSTRKFTR";
const TRAILER_MAGIC: &[u8; 8] = b"OSTRKEND";
pub const FOOTER_HEADER_SIZE: usize = 64;
pub const FOOTER_TRAILER_SIZE: usize = 64;
const ENTRY_SIZE: usize = 24;
/// Header and trailer both end with a checksum of what precedes it.
const CRC_AT: usize = 60;
const _: () = assert!(FOOTER_HEADER_SIZE == CRC_AT + 4 && FOOTER_TRAILER_SIZE == CRC_AT + 4);
/// Bounds a footer to 24 MiB; a segment file of 8 GiB of smallest batches.
pub const FOOTER_BATCH_COUNT_MAX: u32 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FooterError {
    /// The magic number is another: not sealed, or not here.
    #[error("no footer here")]
    NotAFooter,
    #[error("footer version {found} is unknown, {known} is known")]
    UnknownVersion { found: u32, known: u32 },
    #[error("footer is damaged: {0}")]
    Damaged(#[from] Damage),
}

/// What a footer says of one batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FooterEntry {
    /// Of the batch in the file, in blocks.
    pub offset_blocks: u32,
    pub record_count: u32,
    pub seq: BatchSeq,
    pub first_lsn: Lsn,
}

/// The batches of a sealed file, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    pub volume: VolumeId,
    pub file_number: FileNumber,
    pub generation: Generation,
    /// Ascending by offset, sequence and LSN.
    pub batches: Vec<FooterEntry>,
}

/// The start of a footer: enough to know its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FooterHeader {
    pub volume: VolumeId,
    pub file_number: FileNumber,
    pub generation: Generation,
    pub batch_count: u32,
    pub footer_len: u32,
    body_crc: u32,
}

/// The end of a footer: enough to find its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FooterTrailer {
    pub volume: VolumeId,
    pub file_number: FileNumber,
    pub generation: Generation,
    /// Where the footer starts in the file, in bytes.
    pub footer_offset: u64,
    pub footer_len: u32,
}

/// Bytes of a footer, a multiple of the block size.
pub const fn footer_len(batch_count: u32) -> usize {
    (FOOTER_HEADER_SIZE + batch_count as usize * ENTRY_SIZE + FOOTER_TRAILER_SIZE)
        .next_multiple_of(BLOCK_SIZE)
}

impl Footer {
    pub fn encoded_len(&self) -> usize {
        footer_len(self.batches.len() as u32)
    }

    /// Writes the footer over the whole of `out`, which is [`encoded_len`](Self::encoded_len)
    /// bytes and will be at `footer_offset` of the file.
    pub fn encode(&self, footer_offset: u64, out: &mut [u8]) {
        assert!(self.batches.len() <= FOOTER_BATCH_COUNT_MAX as usize);
        assert_eq!(out.len(), self.encoded_len());
        assert!(footer_offset.is_multiple_of(BLOCK_SIZE as u64));
        let footer_len = out.len() as u32;
        let (front, trailer) = out.split_at_mut(out.len() - FOOTER_TRAILER_SIZE);
        let (header, body) = front.split_at_mut(FOOTER_HEADER_SIZE);

        let mut sink = SliceSink::new(body);
        for batch in &self.batches {
            sink.put_u32(batch.offset_blocks);
            sink.put_u32(batch.record_count);
            sink.put_u64(batch.seq.0);
            sink.put_u64(batch.first_lsn.0);
        }
        sink.finish_with_zeros();

        let mut sink = SliceSink::new(header);
        sink.put(MAGIC);
        sink.put_u32(FORMAT_VERSION);
        sink.put_u32(self.batches.len() as u32);
        sink.put(&self.volume.0);
        sink.put_u64(self.generation.0);
        sink.put_u32(self.file_number.0);
        sink.put_u32(crc32c(body));
        sink.finish_with_zeros();
        seal(header);

        let mut sink = SliceSink::new(trailer);
        sink.put(TRAILER_MAGIC);
        sink.put_u32(FORMAT_VERSION);
        sink.put_u32(footer_len);
        sink.put(&self.volume.0);
        sink.put_u64(self.generation.0);
        sink.put_u32(self.file_number.0);
        sink.put(&[0; 4]);
        sink.put_u64(footer_offset);
        sink.finish_with_zeros();
        seal(trailer);
    }
}

fn seal(bytes: &mut [u8]) {
    let crc = crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Checks magic, checksum and version of header or trailer; what remains are its fields.
fn unseal<'a>(magic: &[u8; 8], bytes: &'a [u8; 64]) -> Result<Reader<'a>, FooterError> {
    if !bytes.starts_with(magic) {
        return Err(FooterError::NotAFooter);
    }
    let (covered, crc) = bytes.split_at(CRC_AT);
    check(Reader::new(crc).u32()?, crc32c(covered))?;
    let mut reader = Reader::new(&covered[magic.len()..]);
    let version = reader.u32()?;
    if version != FORMAT_VERSION {
        return Err(FooterError::UnknownVersion {
            found: version,
            known: FORMAT_VERSION,
        });
    }
    Ok(reader)
}

pub fn decode_footer_header(bytes: &[u8; FOOTER_HEADER_SIZE]) -> Result<FooterHeader, FooterError> {
    let mut reader = unseal(MAGIC, bytes)?;
    let batch_count = reader.u32()?;
    let volume = VolumeId(reader.array()?);
    let generation = Generation(reader.u64()?);
    let file_number = FileNumber(reader.u32()?);
    let body_crc = reader.u32()?;
    let unused = reader.left();
    reader.zeros(unused)?;
    if batch_count > FOOTER_BATCH_COUNT_MAX {
        return Err(Damage::OutOfRange {
            field: "batch count",
            value: u64::from(batch_count),
        }
        .into());
    }
    Ok(FooterHeader {
        volume,
        file_number,
        generation,
        batch_count,
        footer_len: footer_len(batch_count) as u32,
        body_crc,
    })
}

pub fn decode_footer_trailer(
    bytes: &[u8; FOOTER_TRAILER_SIZE],
) -> Result<FooterTrailer, FooterError> {
    let mut reader = unseal(TRAILER_MAGIC, bytes)?;
    let footer_len_found = reader.u32()?;
    let volume = VolumeId(reader.array()?);
    let generation = Generation(reader.u64()?);
    let file_number = FileNumber(reader.u32()?);
    reader.zeros(4)?;
    let footer_offset = reader.u64()?;
    let unused = reader.left();
    reader.zeros(unused)?;
    let block = BLOCK_SIZE as u64;
    if footer_len_found as usize > footer_len(FOOTER_BATCH_COUNT_MAX)
        || footer_len_found == 0
        || u64::from(footer_len_found) % block != 0
    {
        return Err(Damage::OutOfRange {
            field: "footer length",
            value: u64::from(footer_len_found),
        }
        .into());
    }
    if footer_offset % block != 0 || footer_offset < FILE_HEADER_SIZE as u64 {
        return Err(Damage::OutOfRange {
            field: "footer offset",
            value: footer_offset,
        }
        .into());
    }
    Ok(FooterTrailer {
        volume,
        file_number,
        generation,
        footer_offset,
        footer_len: footer_len_found,
    })
}

/// Reads a whole footer. `footer_offset` is where `bytes`, the footer and nothing else, came
/// from: the trailer must say the same, and batches must lie before it.
pub fn decode_footer(footer_offset: u64, bytes: &[u8]) -> Result<Footer, FooterError> {
    let truncated = || Damage::Truncated {
        needed: BLOCK_SIZE as u64,
        had: bytes.len() as u64,
    };
    let header = decode_footer_header(bytes.first_chunk().ok_or_else(truncated)?)?;
    if bytes.len() != header.footer_len as usize {
        return Err(Damage::Truncated {
            needed: u64::from(header.footer_len),
            had: bytes.len() as u64,
        }
        .into());
    }
    let trailer = match decode_footer_trailer(bytes.last_chunk().ok_or_else(truncated)?) {
        // The header was ours: a missing trailer is damage.
        Err(FooterError::NotAFooter) => return Err(Damage::Magic.into()),
        other => other?,
    };
    let expected = FooterTrailer {
        volume: header.volume,
        file_number: header.file_number,
        generation: header.generation,
        footer_offset,
        footer_len: header.footer_len,
    };
    if trailer != expected {
        return Err(Damage::CopiesDisagree.into());
    }
    let body = &bytes[FOOTER_HEADER_SIZE..bytes.len() - FOOTER_TRAILER_SIZE];
    check(header.body_crc, crc32c(body))?;
    let (entries, padding) = body.split_at(header.batch_count as usize * ENTRY_SIZE);
    all_zero(padding)?;

    let mut reader = Reader::new(entries);
    let mut batches: Vec<FooterEntry> = Vec::with_capacity(header.batch_count as usize);
    for _ in 0..header.batch_count {
        let entry = FooterEntry {
            offset_blocks: reader.u32()?,
            record_count: reader.u32()?,
            seq: BatchSeq(reader.u64()?),
            first_lsn: Lsn(reader.u64()?),
        };
        check_order(batches.last(), &entry, footer_offset)?;
        batches.push(entry);
    }
    Ok(Footer {
        volume: header.volume,
        file_number: header.file_number,
        generation: header.generation,
        batches,
    })
}

fn check_order(
    previous: Option<&FooterEntry>,
    entry: &FooterEntry,
    footer_offset: u64,
) -> Result<(), Damage> {
    let first_block = (FILE_HEADER_SIZE / BLOCK_SIZE) as u32;
    let offset_min = previous.map_or(first_block, |previous| {
        previous.offset_blocks.saturating_add(1)
    });
    let offset_end = footer_offset / BLOCK_SIZE as u64;
    if entry.offset_blocks < offset_min || u64::from(entry.offset_blocks) >= offset_end {
        return Err(Damage::OutOfRange {
            field: "batch offset",
            value: u64::from(entry.offset_blocks),
        });
    }
    if entry.record_count as usize > RECORD_COUNT_MAX {
        return Err(Damage::OutOfRange {
            field: "record count",
            value: u64::from(entry.record_count),
        });
    }
    let Some(previous) = previous else {
        return Ok(());
    };
    if entry.seq <= previous.seq {
        return Err(Damage::OutOfRange {
            field: "batch sequence",
            value: entry.seq.0,
        });
    }
    if entry.first_lsn < previous.first_lsn {
        return Err(Damage::OutOfRange {
            field: "first LSN",
            value: entry.first_lsn.0,
        });
    }
    Ok(())
}
