#![forbid(unsafe_code)]
//! The bytes Ostrakon writes to disk, as a codec without I/O.
//!
//! `SPEC.md` beside this crate is normative; the code follows it, and the golden files under
//! `golden/` hold both to it. Everything here is bytes in, values out (and back): no files, no
//! clock, no randomness.
//!
//! - [`id`]: the newtypes that name things on disk
//! - [`file`](mod@file): the 8 KiB header of a segment file
//! - [`batch`]: one append of one head: header, directory, payloads
//! - [`checksum`]: CRC32C, alone and bound to an identity
//! - [`metadata`]: the replicated commands, payloads of METADATA records
//! - [`volume_record`]: the local facts, payloads of VOLUME records
//! - [`footer`]: the list of batches that seals a segment file
//! - [`format_file`]: the files that say what a drive and a volume are
//!
//! Rules that hold for every decoder:
//!
//! - No input makes it panic, and it allocates no more than a small multiple of the input.
//! - *Blank*, *present*, *damaged* and *of an unknown version* are different answers. A structure
//!   is of an unknown version only if its checksum is right, so damage is never taken for the
//!   future and the future never for damage.
//! - Reserved bytes are zero and checked; what decodes encodes back to the same bytes.

pub mod batch;
pub mod checksum;
mod cluster_map;
mod codec;
mod copies;
pub mod damage;
pub mod file;
pub mod footer;
pub mod format_file;
pub mod id;
pub mod metadata;
pub mod upload;
pub mod volume_record;

pub use batch::{
    BatchBuilder, BatchError, BatchFull, BatchHeader, BatchStamp, Entry, Kind, MetadataEntry,
    Placement, SegmentEntry, Transform, decode_batch_header, decode_directory,
};
pub use checksum::{Origin, SegmentCrc, SegmentIdentity, crc32c, metadata_crc, segment_crc};
pub use cluster_map::{CLUSTER_MAP_BYTES_MAX, ClusterMap, DriveState, MapDrive, MapEpoch};
pub use copies::{Decoded, HeaderError};
pub use damage::Damage;
pub use file::{FileHeader, FileState, Head, decode_file_header};
pub use footer::{
    Footer, FooterEntry, FooterError, FooterHeader, FooterTrailer, decode_footer,
    decode_footer_header, decode_footer_trailer, footer_len,
};
pub use format_file::{DriveFormat, VolumeFormat, decode_drive_format, decode_volume_format};
pub use id::{
    BatchSeq, BucketId, ChunkIndex, ClusterId, DriveId, Epoch, FileNumber, Generation, Hlc,
    Incarnation, Lsn, ObjectId, PgId, Role, Scheme, SegmentIndex, VolumeId,
};
pub use metadata::{
    Body, BucketFields, BucketState, ChecksumAlgorithm, ChecksumType, Condition, DeleteVersion,
    EncodeError, Etag, MetadataRecord, MissingRoles, ObjectChecksum, PutBucket, PutVersion,
    RecordError, VersionFields, VersionId,
};
pub use upload::{
    CreateUpload, EndUpload, PART_NUMBER_MAX, Part, PartPlacement, PutPart, UploadEnd,
};
pub use volume_record::VolumeRecord;

/// The format this crate writes. It reads this one; there is no older one.
pub const FORMAT_VERSION: u32 = 1;
/// The unit of alignment: batches, aligned payloads and footers start and end at multiples of it.
pub const BLOCK_SIZE: usize = 8192;
/// The largest segment: the unit of encoding, checksum and compression, in logical bytes.
pub const SEGMENT_SIZE: usize = 64 * 1024;
/// Object bytes in one chunk.
pub const CHUNK_SIZE: usize = 32 * 1024 * 1024;
/// The longest object key in bytes (S3's own limit).
pub const KEY_LENGTH_MAX: usize = 1024;
/// Header block of a segment file: two copies of 4 KiB.
pub const FILE_HEADER_SIZE: usize = 8192;
/// The fixed part of a batch, before its directory entries.
pub const BATCH_HEADER_SIZE: usize = 128;
/// The longest batch, so that one write and one read in memory have a bound.
pub const BATCH_LENGTH_MAX: usize = 16 * 1024 * 1024;
/// The most records in one batch. Bounds the directory to
/// 128 + 4096 × 68 bytes = 272 KiB + 128 bytes.
pub const RECORD_COUNT_MAX: usize = 4096;

const _: () = assert!(SEGMENT_SIZE.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(CHUNK_SIZE.is_multiple_of(SEGMENT_SIZE));
// A chunk of a (1, m) scheme has the most segments per role; their index is a u16.
const _: () = assert!(CHUNK_SIZE / SEGMENT_SIZE <= u16::MAX as usize + 1);
const _: () = assert!(BATCH_LENGTH_MAX.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(FILE_HEADER_SIZE.is_multiple_of(BLOCK_SIZE));
