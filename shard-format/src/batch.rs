//! A batch: one append of one head, and the unit of flush.
//!
//! ```text
//! 0            128                directory_len     head_len               batch_len
//! | header     | directory        | packed payloads | aligned payloads     |
//! |            | an entry a record| 8-byte aligned  | each from a block    |
//! |<------------- head: built here, ends at a block ->|<- written from the   ->|
//!                                                         callers' own buffers
//! ```
//!
//! The layout follows from the entries alone (SPEC.md, section 3): packed payloads in record
//! order, each at the next multiple of 8, then aligned payloads in record order, each at the next
//! block. A directory that says otherwise is damaged, so payloads cannot overlap.
//!
//! Header and directory have a checksum each. The header lies in one sector, so a batch torn
//! behind it still tells its sequence and its `flushed_seq`.

use crate::checksum::{Origin, SegmentIdentity, check, crc32c, metadata_crc, segment_crc};
use crate::codec::{Reader, Sink, SliceSink};
use crate::damage::Damage;
use crate::file::Head;
use crate::id::{BatchSeq, Epoch, FileNumber, Generation, Incarnation, Lsn, Scheme, VolumeId};
use crate::{
    BATCH_HEADER_SIZE, BATCH_LENGTH_MAX, BLOCK_SIZE, FORMAT_VERSION, RECORD_COUNT_MAX, SEGMENT_SIZE,
};

const MAGIC: &[u8; 4] = b"OBAT";
const VERSION: u16 = FORMAT_VERSION as u16;
/// The last field of the header; covers everything before it.
const HEADER_CRC_AT: usize = BATCH_HEADER_SIZE - 4;
const FLAG_FLOOR_ONLY: u8 = 1;
const FLAG_RELOCATED: u8 = 1;
/// Alignment of packed payloads.
const PACKED_ALIGN: usize = 8;

const KIND_SEGMENT: u8 = 1;
const KIND_METADATA: u8 = 2;
const KIND_VOLUME: u8 = 3;

/// Kind, flags, transform, a zero, offset, stored and logical length, checksum.
const ENTRY_FIXED_SIZE: usize = 20;
const ENTRY_OFFSET_AT: usize = 4;
/// At-rest encryption: key id (4) and nonce (12). Zero until a transform uses them.
const ENCRYPTION_SIZE: usize = 16;
const SEGMENT_ENTRY_SIZE: usize =
    ENTRY_FIXED_SIZE + SegmentIdentity::SIZE + 1 + 3 + 1 + 4 + ENCRYPTION_SIZE;
const METADATA_ENTRY_SIZE: usize = ENTRY_FIXED_SIZE + Origin::SIZE + 2;
const VOLUME_ENTRY_SIZE: usize = ENTRY_FIXED_SIZE;
const _: () = assert!(SEGMENT_ENTRY_SIZE == 68 && METADATA_ENTRY_SIZE == 48);

// Offsets and lengths inside a batch are u32.
const _: () = assert!(BATCH_LENGTH_MAX <= u32::MAX as usize);

/// Why bytes are not a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// They do not start with a batch's magic number: zeros, another structure, or overwritten.
    /// Whether that is the end of the log or damage is for recovery to decide.
    #[error("no batch starts here")]
    NotABatch,
    /// The header's checksum is right, the version is not one of ours.
    #[error("batch version {found} is unknown, {known} is known")]
    UnknownVersion { found: u32, known: u32 },
    /// The header cannot be believed.
    #[error("batch header is damaged: {0}")]
    DamagedHeader(#[from] Damage),
    /// The header is whole, the directory is not: torn or damaged.
    #[error("batch directory is damaged: {0}")]
    DamagedDirectory(Damage),
}

/// The fixed part of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub head: Head,
    pub volume: VolumeId,
    pub file_number: FileNumber,
    pub generation: Generation,
    pub incarnation: Incarnation,
    pub seq: BatchSeq,
    /// The highest batch of this head that was flushed when this one was submitted.
    pub flushed_seq: BatchSeq,
    /// Every command in batches of this head up to this one has its outcome recorded; 0 in heads
    /// without commands.
    pub outcomes_to: BatchSeq,
    /// LSN of the first record; record `i` has `first_lsn + i`.
    pub first_lsn: Lsn,
    /// Zero in a floor-only batch, which exists for its `flushed_seq`.
    pub record_count: u32,
    /// Bytes of header and entries.
    pub directory_len: u32,
    /// Bytes of the whole batch, a multiple of the block size.
    pub batch_len: u32,
    /// `header_crc` of the preceding batch of this head; 0 for its first.
    pub previous_crc: u32,
    pub directory_crc: u32,
    /// Covers the header and, through `directory_crc` and the entries' checksums, the batch.
    pub header_crc: u32,
}

impl BatchHeader {
    pub fn is_floor_only(&self) -> bool {
        self.record_count == 0
    }

    /// LSN of the record after this batch's last.
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.record_count))
    }
}

/// How the stored bytes follow from the logical ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Transform {
    None = 1,
    /// One LZ4 block; always shorter than the logical bytes.
    Lz4 = 2,
}

/// What a SEGMENT entry says of its segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SegmentEntry {
    pub identity: SegmentIdentity,
    pub scheme: Scheme,
    /// The cluster map that placed it.
    pub epoch: Epoch,
}

/// What a METADATA entry says of its command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MetadataEntry {
    pub origin: Origin,
    /// Rewritten by reclaim: applies by origin, not by position.
    pub relocated: bool,
}

/// What kind of record an entry describes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Payload: the segment's stored bytes, aligned to a block.
    Segment(SegmentEntry),
    /// Payload: a [`crate::MetadataRecord`], packed.
    Metadata(MetadataEntry),
    /// Payload: a [`crate::VolumeRecord`], packed.
    Volume,
}

/// A directory entry: one record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub kind: Kind,
    pub transform: Transform,
    /// Of the payload, in bytes from the start of the batch.
    pub offset: u32,
    pub stored_len: u32,
    pub logical_len: u32,
    /// Of the record's identity and the stored bytes.
    pub payload_crc: u32,
}

impl Entry {
    /// Checks that `stored` is this entry's payload.
    pub fn verify(&self, stored: &[u8]) -> Result<(), Damage> {
        if stored.len() != self.stored_len as usize {
            return Err(Damage::Truncated {
                needed: u64::from(self.stored_len),
                had: stored.len() as u64,
            });
        }
        let computed = match &self.kind {
            Kind::Segment(segment) => segment_crc(&segment.identity, stored),
            Kind::Metadata(metadata) => metadata_crc(&metadata.origin, &[stored]),
            Kind::Volume => crc32c(stored),
        };
        check(self.payload_crc, computed)
    }
}

/// The batch has no room for the record; the builder is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the batch is full")]
pub struct BatchFull;

/// Where a record's payload lies in the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Bytes from the start of the batch; final once nothing more is pushed.
    pub offset: u32,
    pub stored_len: u32,
    pub payload_crc: u32,
}

/// What the log knows of a batch when it submits it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchStamp {
    pub volume: VolumeId,
    pub file_number: FileNumber,
    pub generation: Generation,
    pub incarnation: Incarnation,
    pub seq: BatchSeq,
    pub flushed_seq: BatchSeq,
    pub outcomes_to: BatchSeq,
    pub first_lsn: Lsn,
    pub previous_crc: u32,
}

/// Gathers the records of one batch and computes its layout.
///
/// Push records; then allocate [`head_len`](Self::head_len) bytes, [`encode`](Self::encode) into
/// them, and write them followed by the aligned payloads in push order, each padded with zeros to
/// the block. [`clear`](Self::clear) keeps the memory for the next batch.
///
/// Packed payloads are copied twice, into the builder and into the head; aligned ones never.
#[derive(Debug)]
pub struct BatchBuilder {
    head: Head,
    batch_len_max: usize,
    /// Encoded entries, their offset fields still zero.
    entries: Vec<u8>,
    /// Payloads with their padding to 8.
    packed: Vec<u8>,
    /// Bytes of aligned payloads with their padding to the block.
    aligned_len: usize,
    records: Vec<Pushed>,
}

#[derive(Debug)]
struct Pushed {
    /// Where its entry starts in `entries`.
    entry_at: u32,
    region: Region,
    stored_len: u32,
    payload_crc: u32,
}

/// Where a payload starts, relative to its region.
#[derive(Debug)]
enum Region {
    Packed(u32),
    Aligned(u32),
}

impl BatchBuilder {
    /// `batch_len_max` is a multiple of the block size, at most [`BATCH_LENGTH_MAX`].
    pub fn new(head: Head, batch_len_max: usize) -> BatchBuilder {
        assert!(batch_len_max.is_multiple_of(BLOCK_SIZE));
        assert!((BLOCK_SIZE..=BATCH_LENGTH_MAX).contains(&batch_len_max));
        BatchBuilder {
            head,
            batch_len_max,
            entries: Vec::new(),
            packed: Vec::new(),
            aligned_len: 0,
            records: Vec::new(),
        }
    }

    pub fn head(&self) -> Head {
        self.head
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn record_count(&self) -> u32 {
        self.records.len() as u32
    }

    /// Bytes of header, directory and packed payloads, a multiple of the block size.
    pub fn head_len(&self) -> usize {
        head_len(self.entries.len(), self.packed.len())
    }

    /// Bytes of the whole batch, a multiple of the block size.
    pub fn batch_len(&self) -> usize {
        self.head_len() + self.aligned_len
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.packed.clear();
        self.aligned_len = 0;
        self.records.clear();
    }

    /// Adds a segment whose `stored_len` bytes the caller writes behind the head. `payload_crc`
    /// is [`segment_crc`] of them. Returns the record's position in the batch.
    ///
    /// Panics if lengths and transform contradict each other or the role is not the scheme's.
    pub fn push_segment(
        &mut self,
        segment: &SegmentEntry,
        transform: Transform,
        logical_len: u32,
        stored_len: u32,
        payload_crc: u32,
    ) -> Result<u32, BatchFull> {
        let lengths = check_segment_lengths(transform, logical_len, stored_len);
        assert!(lengths.is_ok(), "segment lengths: {lengths:?}");
        assert!(u16::from(segment.identity.role.0) < segment.scheme.width());
        let padded = (stored_len as usize).next_multiple_of(BLOCK_SIZE);
        self.check_room(SEGMENT_ENTRY_SIZE, 0, padded)?;
        let start = self.aligned_len as u32;
        self.aligned_len += padded;
        let record = self.push_entry(
            KIND_SEGMENT,
            0,
            transform,
            Region::Aligned(start),
            stored_len,
            logical_len,
            payload_crc,
        );
        self.entries.put(&segment.identity.to_bytes());
        self.entries.put_u8(0);
        self.entries.put_u8(segment.scheme.k);
        self.entries.put_u8(segment.scheme.m);
        self.entries.put_u8(segment.scheme.codec);
        self.entries.put_u8(0);
        self.entries.put_u32(segment.epoch.0);
        self.entries.put(&[0; ENCRYPTION_SIZE]);
        Ok(record)
    }

    /// Adds a command; its payload is the concatenation of `parts`, so that an inline body need
    /// not be joined to its record first. Returns the record's position in the batch.
    pub fn push_metadata(
        &mut self,
        metadata: &MetadataEntry,
        parts: &[&[u8]],
    ) -> Result<u32, BatchFull> {
        let start = self.push_packed_payload(METADATA_ENTRY_SIZE, parts)?;
        let len = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let record = self.push_entry(
            KIND_METADATA,
            if metadata.relocated {
                FLAG_RELOCATED
            } else {
                0
            },
            Transform::None,
            Region::Packed(start),
            len,
            len,
            metadata_crc(&metadata.origin, parts),
        );
        self.entries.put(&metadata.origin.to_bytes());
        self.entries.put(&[0; 2]);
        Ok(record)
    }

    /// Adds a local fact. Returns the record's position in the batch.
    pub fn push_volume(&mut self, payload: &[u8]) -> Result<u32, BatchFull> {
        let start = self.push_packed_payload(VOLUME_ENTRY_SIZE, &[payload])?;
        let len = payload.len() as u32;
        Ok(self.push_entry(
            KIND_VOLUME,
            0,
            Transform::None,
            Region::Packed(start),
            len,
            len,
            crc32c(payload),
        ))
    }

    /// Where the payload of a record lies. Offsets move while records are pushed.
    ///
    /// Panics if there is no such record.
    pub fn placement(&self, record: u32) -> Placement {
        let pushed = &self.records[record as usize];
        Placement {
            offset: self.offset(&pushed.region),
            stored_len: pushed.stored_len,
            payload_crc: pushed.payload_crc,
        }
    }

    /// Writes header, directory and packed payloads over the whole of `out`, which is
    /// [`head_len`](Self::head_len) bytes. Without records it is a floor-only batch. The builder
    /// is unchanged.
    pub fn encode(&self, stamp: &BatchStamp, out: &mut [u8]) -> BatchHeader {
        assert_eq!(out.len(), self.head_len());
        assert!(stamp.flushed_seq < stamp.seq);
        let directory_len = BATCH_HEADER_SIZE + self.entries.len();
        let packed_at = directory_len.next_multiple_of(PACKED_ALIGN);
        let packed_end = packed_at + self.packed.len();

        let (header_bytes, rest) = out[..directory_len].split_at_mut(BATCH_HEADER_SIZE);
        rest.copy_from_slice(&self.entries);
        for pushed in &self.records {
            let at = pushed.entry_at as usize + ENTRY_OFFSET_AT;
            rest[at..at + 4].copy_from_slice(&self.offset(&pushed.region).to_le_bytes());
        }
        let mut header = BatchHeader {
            head: self.head,
            volume: stamp.volume,
            file_number: stamp.file_number,
            generation: stamp.generation,
            incarnation: stamp.incarnation,
            seq: stamp.seq,
            flushed_seq: stamp.flushed_seq,
            outcomes_to: stamp.outcomes_to,
            first_lsn: stamp.first_lsn,
            record_count: self.record_count(),
            directory_len: directory_len as u32,
            batch_len: self.batch_len() as u32,
            previous_crc: stamp.previous_crc,
            directory_crc: crc32c(rest),
            header_crc: 0,
        };
        write_header(&mut header, header_bytes);
        out[directory_len..packed_at].fill(0);
        out[packed_at..packed_end].copy_from_slice(&self.packed);
        out[packed_end..].fill(0);
        header
    }

    fn offset(&self, region: &Region) -> u32 {
        match region {
            Region::Packed(start) => {
                let directory_len = BATCH_HEADER_SIZE + self.entries.len();
                directory_len.next_multiple_of(PACKED_ALIGN) as u32 + start
            }
            Region::Aligned(start) => self.head_len() as u32 + start,
        }
    }

    fn check_room(&self, entry: usize, packed: usize, aligned: usize) -> Result<(), BatchFull> {
        let batch_len = head_len(self.entries.len() + entry, self.packed.len() + packed)
            + self.aligned_len
            + aligned;
        if self.records.len() == RECORD_COUNT_MAX || batch_len > self.batch_len_max {
            return Err(BatchFull);
        }
        Ok(())
    }

    fn push_packed_payload(&mut self, entry: usize, parts: &[&[u8]]) -> Result<u32, BatchFull> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let padded = len.next_multiple_of(PACKED_ALIGN);
        self.check_room(entry, padded, 0)?;
        let start = self.packed.len();
        for part in parts {
            self.packed.put(part);
        }
        self.packed.resize(start + padded, 0);
        Ok(start as u32)
    }

    #[allow(clippy::too_many_arguments)] // the fields of the entry, in their order
    fn push_entry(
        &mut self,
        kind: u8,
        flags: u8,
        transform: Transform,
        region: Region,
        stored_len: u32,
        logical_len: u32,
        payload_crc: u32,
    ) -> u32 {
        let record = self.record_count();
        self.records.push(Pushed {
            entry_at: self.entries.len() as u32,
            region,
            stored_len,
            payload_crc,
        });
        self.entries.put(&[kind, flags, transform as u8, 0]);
        self.entries.put_u32(0);
        self.entries.put_u32(stored_len);
        self.entries.put_u32(logical_len);
        self.entries.put_u32(payload_crc);
        record
    }
}

/// Where the aligned payloads start.
fn head_len(entries: usize, packed: usize) -> usize {
    ((BATCH_HEADER_SIZE + entries).next_multiple_of(PACKED_ALIGN) + packed)
        .next_multiple_of(BLOCK_SIZE)
}

/// Encodes the header and sets its `header_crc`.
fn write_header(header: &mut BatchHeader, out: &mut [u8]) {
    let mut sink = SliceSink::new(out);
    sink.put(MAGIC);
    sink.put_u16(VERSION);
    sink.put_u8(header.head as u8);
    sink.put_u8(if header.is_floor_only() {
        FLAG_FLOOR_ONLY
    } else {
        0
    });
    sink.put_u32(header.file_number.0);
    sink.put_u32(header.record_count);
    sink.put_u64(header.generation.0);
    sink.put_u64(header.incarnation.0);
    sink.put_u64(header.seq.0);
    sink.put_u64(header.flushed_seq.0);
    sink.put_u64(header.outcomes_to.0);
    sink.put_u64(header.first_lsn.0);
    sink.put_u32(header.directory_len);
    sink.put_u32(header.batch_len);
    sink.put_u32(header.previous_crc);
    sink.put_u32(header.directory_crc);
    sink.put(&header.volume.0);
    sink.finish_with_zeros();
    header.header_crc = crc32c(&out[..HEADER_CRC_AT]);
    out[HEADER_CRC_AT..].copy_from_slice(&header.header_crc.to_le_bytes());
}

/// Reads and checks the fixed part of a batch. The caller compares volume, file, generation and
/// order with what it expects.
pub fn decode_batch_header(bytes: &[u8; BATCH_HEADER_SIZE]) -> Result<BatchHeader, BatchError> {
    if !bytes.starts_with(MAGIC) {
        return Err(BatchError::NotABatch);
    }
    let (covered, crc) = bytes.split_at(HEADER_CRC_AT);
    let mut reader = Reader::new(&covered[MAGIC.len()..]);
    let header_crc = Reader::new(crc).u32()?;
    check(header_crc, crc32c(covered))?;
    let version = reader.u16()?;
    if version != VERSION {
        return Err(BatchError::UnknownVersion {
            found: u32::from(version),
            known: FORMAT_VERSION,
        });
    }
    Ok(read_header_fields(&mut reader, header_crc)?)
}

fn read_header_fields(reader: &mut Reader<'_>, header_crc: u32) -> Result<BatchHeader, Damage> {
    let head = Head::read(reader)?;
    let flags = reader.u8()?;
    let file_number = FileNumber(reader.u32()?);
    let record_count = reader.u32()?;
    let generation = Generation(reader.u64()?);
    let incarnation = Incarnation(reader.u64()?);
    let seq = BatchSeq(reader.u64()?);
    let flushed_seq = BatchSeq(reader.u64()?);
    let outcomes_to = BatchSeq(reader.u64()?);
    let first_lsn = Lsn(reader.u64()?);
    let directory_len = reader.u32()?;
    let batch_len = reader.u32()?;
    let previous_crc = reader.u32()?;
    let directory_crc = reader.u32()?;
    let volume = VolumeId(reader.array()?);
    let unused = reader.left();
    reader.zeros(unused)?;

    let out_of_range = |field, value| Err(Damage::OutOfRange { field, value });
    let floor_only = if record_count == 0 {
        FLAG_FLOOR_ONLY
    } else {
        0
    };
    if flags != floor_only {
        return out_of_range("batch flags", u64::from(flags));
    }
    if record_count as usize > RECORD_COUNT_MAX {
        return out_of_range("record count", u64::from(record_count));
    }
    if first_lsn.0.checked_add(u64::from(record_count)).is_none() {
        return out_of_range("first LSN", first_lsn.0);
    }
    let entries = (directory_len as usize).wrapping_sub(BATCH_HEADER_SIZE);
    let count = record_count as usize;
    if !(count * VOLUME_ENTRY_SIZE..=count * SEGMENT_ENTRY_SIZE).contains(&entries) {
        return out_of_range("directory length", u64::from(directory_len));
    }
    let length = batch_len as usize;
    if length > BATCH_LENGTH_MAX
        || !length.is_multiple_of(BLOCK_SIZE)
        || length < directory_len as usize
    {
        return out_of_range("batch length", u64::from(batch_len));
    }
    if flushed_seq >= seq {
        return out_of_range("flushed sequence", flushed_seq.0);
    }
    Ok(BatchHeader {
        head,
        volume,
        file_number,
        generation,
        incarnation,
        seq,
        flushed_seq,
        outcomes_to,
        first_lsn,
        record_count,
        directory_len,
        batch_len,
        previous_crc,
        directory_crc,
        header_crc,
    })
}

/// Reads and checks header and directory. `bytes` starts at the batch and holds at least its
/// `directory_len` bytes; what follows is ignored.
pub fn decode_directory(bytes: &[u8]) -> Result<(BatchHeader, Vec<Entry>), BatchError> {
    let Some(header_bytes) = bytes.first_chunk() else {
        return Err(BatchError::DamagedHeader(Damage::Truncated {
            needed: BATCH_HEADER_SIZE as u64,
            had: bytes.len() as u64,
        }));
    };
    let header = decode_batch_header(header_bytes)?;
    let entries = read_directory(&header, bytes).map_err(BatchError::DamagedDirectory)?;
    Ok((header, entries))
}

fn read_directory(header: &BatchHeader, bytes: &[u8]) -> Result<Vec<Entry>, Damage> {
    let directory = Reader::new(bytes).take(header.directory_len as usize)?;
    let encoded = &directory[BATCH_HEADER_SIZE..];
    check(header.directory_crc, crc32c(encoded))?;

    let mut reader = Reader::new(encoded);
    let mut entries = Vec::with_capacity(header.record_count as usize);
    for _ in 0..header.record_count {
        entries.push(read_entry(&mut reader)?);
    }
    reader.end()?;
    check_layout(header, &entries)?;
    Ok(entries)
}

/// Every payload lies where [`BatchBuilder`] would have put it.
fn check_layout(header: &BatchHeader, entries: &[Entry]) -> Result<(), Damage> {
    // Sums of at most 4096 u32 lengths: far from overflowing u64.
    let expect = |record: usize, entry: &Entry, expected: u64| {
        if u64::from(entry.offset) == expected {
            Ok(())
        } else {
            Err(Damage::Misplaced {
                record: record as u32,
                expected,
                found: u64::from(entry.offset),
            })
        }
    };
    let records = || entries.iter().enumerate();
    let mut at = u64::from(header.directory_len).next_multiple_of(PACKED_ALIGN as u64);
    for (record, entry) in records().filter(|(_, entry)| !entry.is_aligned()) {
        expect(record, entry, at)?;
        at += u64::from(entry.stored_len).next_multiple_of(PACKED_ALIGN as u64);
    }
    at = at.next_multiple_of(BLOCK_SIZE as u64);
    for (record, entry) in records().filter(|(_, entry)| entry.is_aligned()) {
        expect(record, entry, at)?;
        at += u64::from(entry.stored_len).next_multiple_of(BLOCK_SIZE as u64);
    }
    if at != u64::from(header.batch_len) {
        return Err(Damage::OutOfRange {
            field: "batch length",
            value: u64::from(header.batch_len),
        });
    }
    Ok(())
}

impl Entry {
    /// Whether the payload starts at a block of its own.
    fn is_aligned(&self) -> bool {
        matches!(self.kind, Kind::Segment(_))
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, Damage> {
    let [kind, flags, transform, reserved] = reader.array()?;
    let offset = reader.u32()?;
    let stored_len = reader.u32()?;
    let logical_len = reader.u32()?;
    let payload_crc = reader.u32()?;

    let out_of_range = |field, value: u8| Damage::OutOfRange {
        field,
        value: u64::from(value),
    };
    if reserved != 0 {
        return Err(Damage::ReservedNotZero);
    }
    let transform = match transform {
        1 => Transform::None,
        2 => Transform::Lz4,
        other => return Err(out_of_range("transform", other)),
    };
    let flags_known = if kind == KIND_METADATA {
        FLAG_RELOCATED
    } else {
        0
    };
    if flags & !flags_known != 0 {
        return Err(out_of_range("entry flags", flags));
    }
    let kind = match kind {
        KIND_SEGMENT => {
            check_segment_lengths(transform, logical_len, stored_len)?;
            let identity = SegmentIdentity::read(reader)?;
            reader.zeros(1)?;
            let scheme = Scheme::read(reader)?;
            reader.zeros(1)?;
            let epoch = Epoch(reader.u32()?);
            reader.zeros(ENCRYPTION_SIZE)?;
            if u16::from(identity.role.0) >= scheme.width() {
                return Err(out_of_range("role", identity.role.0));
            }
            Kind::Segment(SegmentEntry {
                identity,
                scheme,
                epoch,
            })
        }
        KIND_METADATA => {
            check_packed_lengths(transform, logical_len, stored_len)?;
            let origin = Origin::read(reader)?;
            reader.zeros(2)?;
            Kind::Metadata(MetadataEntry {
                origin,
                relocated: flags & FLAG_RELOCATED != 0,
            })
        }
        KIND_VOLUME => {
            check_packed_lengths(transform, logical_len, stored_len)?;
            Kind::Volume
        }
        other => return Err(out_of_range("record kind", other)),
    };
    Ok(Entry {
        kind,
        transform,
        offset,
        stored_len,
        logical_len,
        payload_crc,
    })
}

fn check_segment_lengths(
    transform: Transform,
    logical_len: u32,
    stored_len: u32,
) -> Result<(), Damage> {
    let stored_fits = match transform {
        Transform::None => stored_len == logical_len,
        Transform::Lz4 => stored_len < logical_len,
    };
    if logical_len as usize > SEGMENT_SIZE {
        return Err(Damage::OutOfRange {
            field: "logical length",
            value: u64::from(logical_len),
        });
    }
    if stored_len == 0 || !stored_fits {
        return Err(Damage::OutOfRange {
            field: "stored length",
            value: u64::from(stored_len),
        });
    }
    Ok(())
}

fn check_packed_lengths(
    transform: Transform,
    logical_len: u32,
    stored_len: u32,
) -> Result<(), Damage> {
    if transform == Transform::None && stored_len == logical_len {
        return Ok(());
    }
    Err(Damage::OutOfRange {
        field: "stored length",
        value: u64::from(stored_len),
    })
}
