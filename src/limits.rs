//! Every bound of the server, each with the sum that justifies it. A bound lives here when more than one room depends on it.

use std::time::Duration;

use shard_format::{BLOCK_SIZE, SEGMENT_SIZE};

/// Object bytes up to which the body travels inside the metadata record: one record, one flush. Above it the body
/// goes to bulk segment files first, which costs a second flush but keeps bulk bytes off the commit head. 32 KiB is
/// half a segment: a body that would fill less than half of its only segment is cheaper inline.
pub const INLINE_BODY_MAX: usize = 32 * 1024;

/// Bytes one store request carries to a volume: 16 segments, one large contiguous write and read.
pub const STORE_BYTES_MAX: usize = 16 * SEGMENT_SIZE;

/// Store requests an upload keeps in flight: one is being filled from the socket, or hashed, while two are being written.
pub const STORES_IN_FLIGHT: usize = 2;

/// Fetch requests a download keeps ahead of the socket.
pub const FETCHES_AHEAD: usize = 2;

/// Bytes that a core's repairs store in a second.
pub const REPAIR_BYTES_PER_SECOND: u64 = 200 << 20;

/// Runs that wait for repair because a read met damage, on a core.
pub const REPAIRS_QUEUED_MAX: usize = 64;

/// Payload bytes of a commit batch. Bytes per flush are capped so that the first commit of a batch does not wait
/// behind a megabyte of its neighbours: at 2 GB/s this is 0.25 ms, about two flushes of a good drive.
pub const COMMIT_BATCH_BYTES_MAX: usize = 512 * 1024;

/// Payload bytes of a bulk or relocate batch. Large enough that the directory block and the submission cost vanish.
pub const BULK_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Records of one batch; bounds the directory to about 64 KiB.
pub const BATCH_RECORDS_MAX: usize = 1024;

/// Bytes waiting in front of one head. A full queue makes the writer wait, never grow.
pub const HEAD_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Written but unflushed batches of a bulk head, after which the head flushes by itself. Bounds what recovery verifies
/// byte by byte: 16 × 4 MiB.
pub const UNFLUSHED_BATCHES_MAX: u64 = 16;

/// An idle commit head writes one floor-only batch after this long, so that its last acknowledged batch counts as
/// flushed when it turns out damaged.
pub const FLOOR_DELAY: Duration = Duration::from_millis(50);

/// Segment files that puts leave free: one for the commit head to take deletes, one for the relocate head to copy into,
/// one for the next start (which goes on in a new file), and one for the first start after the drive was filled: the
/// commit file that it leaves behind is full of puts, and nothing of that need ever come back. Later starts leave files
/// of deletes, which do. See `log::SpaceClass`.
pub const RESERVE_FILES: usize = 4;

/// How long a delete on a full drive waits for reclaim to make room for its record before it is refused: a checkpoint
/// and the copies of a file or two take well under a second.
pub const DELETE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often it looks: freeing a file takes a checkpoint, some tens of milliseconds.
pub const DELETE_RETRY: Duration = Duration::from_millis(20);

/// Prepared (allocated) files kept ahead of the heads beyond the reserve.
pub const SPARE_FILES: usize = 1;

/// Free bytes of the file system that segment files never take: room for the index of the volume.
pub const INDEX_HEADROOM: u64 = 32 * 1024 * 1024;

/// Bytes and entries of the active table after which a checkpoint starts.
pub const CHECKPOINT_BYTES: usize = 16 * 1024 * 1024;
pub const CHECKPOINT_ENTRIES: usize = 100_000;

/// Bytes of the active table while a frozen one is still being written, after which commits wait.
pub const ACTIVE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A dirty but idle volume checkpoints after this long.
pub const CHECKPOINT_IDLE: Duration = Duration::from_secs(5);

/// A sealed file whose live bytes fall under this share of its length (in percent) is reclaimed.
pub const RECLAIM_LIVE_PERCENT: u64 = 50;

/// When the drive is full, a sealed file is reclaimed if copying it gives back this share of its length (in percent):
/// a byte won costs up to 15 copied ones, and what dead bytes can keep from a full drive is less than this share.
pub const RECLAIM_GAIN_PERCENT: u64 = 6;

/// What a batch of copies adds to its records at most: the directory and the payloads are filled up to a block each.
pub const BATCH_PADDING_MAX: u64 = 2 * BLOCK_SIZE as u64;

/// Runs up to this size share a batch when reclaim copies them. Larger ones are written alone: a directory block is
/// then at most a thirty-second of them, and fewer buffers wait for their neighbours.
pub const GATHERED_RUN_BYTES_MAX: u64 = 256 * 1024;

/// A put whose object id is older than this is refused; a record of an aborted object is kept this long.
pub const UPLOAD_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long completing an upload once more is answered as the first time: S3 clients retry for minutes, people for
/// hours.
pub const COMPLETED_UPLOAD_AGE: Duration = Duration::from_secs(24 * 3600);

/// How often a completion looks at its parts again because one of them was replaced meanwhile.
pub const COMPLETION_TRIES: usize = 3;

/// Shards that no commit has named are asked about when their object id is older than this.
pub const ORPHAN_AGE: Duration = Duration::from_secs(15 * 60);

/// A lease that was not renewed for this long is void; its reader's connection is reset.
pub const LEASE_TIME: Duration = Duration::from_secs(300);
/// How often a live reader renews: several tries fit into one lease.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(60);

/// Bytes of hot records that a core keeps in memory beside its arena: some 4,000 objects of 4 KiB. They are taken only as
/// records are read.
pub const RECORD_CACHE_BYTES: usize = 16 * 1024 * 1024;
pub const RECORD_CACHE_BYTES_SMALL: usize = 2 * 1024 * 1024;

/// Index steps a listing takes in one turn of the reactor; about 0.1 ms.
pub const LIST_STEPS_PER_TURN: usize = 1024;

/// Keys a page of a listing returns at most (S3: 1,000).
pub const LIST_KEYS_MAX: usize = 1000;

/// Requests waiting on one memory ring between two cores.
pub const LINK_RING_CAPACITY: usize = 1024;

/// Segment files are at least this long (a batch, its directory and the footer must fit) and at most this long.
pub const SEGMENT_FILE_LENGTH_MIN: u64 = 8 * 1024 * 1024;
pub const SEGMENT_FILE_LENGTH_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of segment files that formatting a store may allocate over all volumes.
pub const FORMAT_BYTES_MAX: u64 = 640 * 1024 * 1024;

const _: () = assert!(STORE_BYTES_MAX <= BULK_BATCH_BYTES_MAX);
const _: () = assert!(STORE_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
const _: () = assert!(INLINE_BODY_MAX < COMMIT_BATCH_BYTES_MAX);
// The list of parts of the largest object, with the longest checksum, is one record of one batch.
const _: () = assert!(
    shard_format::PART_NUMBER_MAX as usize * (15 + 32) + 16 * 1024 < COMMIT_BATCH_BYTES_MAX
);
const _: () = assert!((BULK_BATCH_BYTES_MAX as u64) < SEGMENT_FILE_LENGTH_MIN / 2 + 1);
