//! The log of one volume: append-only segment files, written through three heads.
//!
//! Owns the directory `segments/` of a volume: which files exist, which generation each is in, which head writes
//! where. Knows records only by their entries; what a record means is the volume's business, told through [`Sink`].
//!
//! ```text
//!   append ── queue ── batch ── write ── flush ── Sink::durable (in order, once per batch)
//!                        │
//!                        └ next file when full: flush, footer, header of the next (two flushes), go on
//! ```
//!
//! Invariants:
//! - A batch reaches [`Sink::durable`] only after a flush that was submitted after its write had completed.
//! - Per head, `durable` sees batches in order of [`BatchSeq`]; sequence numbers have no gaps within a head.
//! - A file is used again only through [`Log::free`], which makes its new generation durable first.
//! - After a failed write or flush nothing more is written, ever ([`LogError::Poisoned`]): what the drive holds is
//!   then unknown, and a second flush that succeeds would prove nothing about the first.
//!
//! After a crash: whatever was passed to `durable` is found by [`recover`]; what was not may or may not be.

mod files;
mod head;
pub mod recover;

use std::{cell::Cell, rc::Rc};

use shard_format::{
    BatchSeq, FileNumber, Generation, Head, Lsn, MetadataEntry, SegmentEntry, Transform,
};

pub use self::{
    files::{FileState, Files, FilesConfig, Found, Pinned, SpaceClass, Usage},
    head::{HEADS, HeadPosition, Log, LogConfig, Ticket, head_index, write_footer},
};
use crate::rt::Buf;

/// Where bytes lie: file, offset and length in bytes. The generation tells a recycled file from the one meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    pub file: FileNumber,
    pub generation: Generation,
    pub offset: u32,
    pub length: u32,
}

/// What the log answers instead of durability. None of them loses anything that was durable before.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LogError {
    /// No segment file could be had for this class of write. The log is unchanged and writable.
    #[error("no free segment file")]
    Full,
    /// A write or flush failed (`what`); nothing is written to this volume until it is opened again.
    #[error("poisoned by a failed write: {what}")]
    Poisoned { what: Rc<str> },
    /// The volume is being closed.
    #[error("closed")]
    Closed,
    /// Reading failed or the bytes are not what was asked for. The log is unchanged.
    #[error("unreadable: {what}")]
    Unreadable { what: String },
}

/// A segment on its way to a head: everything the directory says of it but the place.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub entry: SegmentEntry,
    pub transform: Transform,
    pub logical_len: u32,
    pub stored_len: u32,
    /// Covers the identity and the stored bytes.
    pub crc: u32,
}

/// What a record adds to a batch beside its payload (ceiling): its entry in the directory, and alignment.
pub const ENTRY_COST: usize = 96;

/// One record on its way to a head.
pub enum Record {
    /// A command or version record of a placement group. `payload` is the encoded record.
    Metadata {
        entry: MetadataEntry,
        payload: Vec<u8>,
    },
    /// A record of the volume itself.
    Volume { payload: Vec<u8> },
    /// Consecutive segments of one shard. `data` holds their stored bytes back to back, each padded to a block.
    Segments { segments: Vec<Segment>, data: Buf },
}

impl Record {
    /// Bytes this record adds to a batch, not counting alignment (ceiling).
    fn cost(&self) -> usize {
        self.payload_bytes() as usize + self.count() * ENTRY_COST
    }

    /// Bytes of its payload, filled up to whole blocks where it lies on blocks.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Record::Metadata { payload, .. } | Record::Volume { payload } => payload.len() as u64,
            Record::Segments { data, .. } => data.len() as u64,
        }
    }

    fn count(&self) -> usize {
        match self {
            Record::Segments { segments, .. } => segments.len(),
            _ => 1,
        }
    }
}

/// Records that must share a batch, and what the volume wants back with them.
pub struct Append<W> {
    pub records: Vec<Record>,
    pub waiter: W,
}

/// A record that is durable, and where.
pub struct DurableRecord {
    pub lsn: Lsn,
    pub extent: Extent,
    pub body: DurableBody,
}

pub enum DurableBody {
    Metadata {
        entry: MetadataEntry,
        payload: Vec<u8>,
    },
    Volume {
        payload: Vec<u8>,
    },
    Segment(Segment),
}

/// A durable batch: per append its records and its waiter.
pub struct DurableBatch<W> {
    pub head: Head,
    pub seq: BatchSeq,
    /// How many of [`Sink::outcomes`] it recorded.
    pub outcomes: usize,
    pub appends: Vec<(Vec<DurableRecord>, W)>,
}

/// The volume's side of the log.
pub trait Sink<W> {
    /// `batch` is durable. Called in order of sequence per head, exactly once per batch.
    fn durable(&self, batch: DurableBatch<W>);
    /// These appends will never be durable through this log; their bytes may or may not be found by recovery.
    fn failed(&self, waiters: Vec<W>, error: LogError);
    /// Volume records to be put in front of the next commit batch (outcomes of refused commands), and the commit
    /// sequence up to which every outcome is recorded once they are.
    fn outcomes(&self) -> (Vec<Vec<u8>>, BatchSeq);
}

/// Hands out the LSNs of a volume: shared by its heads, never reused.
#[derive(Debug)]
pub struct LsnCounter(Cell<u64>);

impl LsnCounter {
    pub fn new(next: Lsn) -> Self {
        LsnCounter(Cell::new(next.0))
    }

    /// Takes `count` consecutive LSNs and returns the first.
    pub fn take(&self, count: usize) -> Lsn {
        let first = self.0.get();
        self.0.set(first + count as u64);
        Lsn(first)
    }

    pub fn next(&self) -> Lsn {
        Lsn(self.0.get())
    }
}
