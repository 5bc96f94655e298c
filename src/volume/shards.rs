//! The shards table: where the segments of each shard lie on this volume.
//!
//! Segments are stored in runs of [`segments_per_run`] (the last of a chunk may be shorter); a run is written in one
//! piece and moves in one piece. The runs of all roles cover the same bytes of the object, some 1 MiB of it.
//!
//! ```text
//! key    object id 16 | chunk u32 BE | role u8 | run u16 BE
//! value  file u32 | generation u64 | offset u32 | lsn u64 | count × (stored_len u32, logical_len u32, crc u32, transform u8)
//! ```
//!
//! Offsets of the later segments follow: each is padded to a block. The checksum stands here too, beside the one in the
//! segment file's directory, so that damaged bytes cannot vouch for themselves; it covers the segment's identity, so
//! that bytes of another segment never pass.

use shard_format::{
    BLOCK_SIZE, CHUNK_SIZE, ChunkIndex, FileNumber, Generation, Lsn, ObjectId, Role, SEGMENT_SIZE,
    Scheme, SegmentEntry, SegmentIdentity, SegmentIndex, Transform, segment_crc,
};
use smallvec::SmallVec;

use super::{Store, VolumeError};
use crate::{
    index::{ScanEnd, Step, Table},
    limits::STORE_BYTES_MAX,
    log::{Extent, Segment},
    rt::Buf,
};

/// The most segments of one run: what one store request carries.
const RUN_SEGMENTS_MAX: u16 = (STORE_BYTES_MAX / SEGMENT_SIZE) as u16;

/// Segments of one run of a shard: rows of stripes whose data is [`STORE_BYTES_MAX`] at most. A power of two, so that
/// memory for a run has no rest.
pub const fn segments_per_run(scheme: Scheme) -> u16 {
    let rows = RUN_SEGMENTS_MAX / scheme.k as u16;
    if rows == 0 { 1 } else { 1 << rows.ilog2() }
}

/// One column of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    pub object: ObjectId,
    pub chunk: ChunkIndex,
    pub role: Role,
    /// Of the object; all its shards have the same.
    pub scheme: Scheme,
}

impl Shard {
    pub fn identity(&self, segment: SegmentIndex) -> SegmentIdentity {
        SegmentIdentity {
            object: self.object,
            chunk: self.chunk,
            segment,
            role: self.role,
        }
    }

    /// The run that holds a segment, and the segment's place in it.
    fn place(&self, segment: SegmentIndex) -> (u16, u16) {
        let count = segments_per_run(self.scheme);
        (segment.0 / count, segment.0 % count)
    }
}

fn shard_of(entry: &SegmentEntry) -> Shard {
    let i = &entry.identity;
    Shard {
        object: i.object,
        chunk: i.chunk,
        role: i.role,
        scheme: entry.scheme,
    }
}

/// Whether `next` goes on the run that `last` is of.
pub(super) fn continues_run(last: &SegmentEntry, next: &SegmentEntry) -> bool {
    let shard = shard_of(last);
    shard == shard_of(next)
        && last.identity.segment.0.checked_add(1) == Some(next.identity.segment.0)
        && shard.place(next.identity.segment).1 != 0
}

const KEY_SIZE: usize = 16 + 4 + 1 + 2;

fn key(shard: &Shard, run: u16) -> [u8; KEY_SIZE] {
    let mut k = [0; KEY_SIZE];
    k[..16].copy_from_slice(&shard.object.0);
    k[16..20].copy_from_slice(&shard.chunk.0.to_be_bytes());
    k[20] = shard.role.0;
    k[21..].copy_from_slice(&run.to_be_bytes());
    k
}

/// A run as the log wrote it.
pub(super) struct Run {
    pub shard: Shard,
    pub run: u16,
    pub value: RunValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunValue {
    pub file: FileNumber,
    pub generation: Generation,
    pub offset: u32,
    pub lsn: Lsn,
    pub segments: Vec<SegmentPlace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentPlace {
    pub stored_len: u32,
    pub logical_len: u32,
    pub crc: u32,
    pub transform: Transform,
}

const HEAD_SIZE: usize = 4 + 8 + 4 + 8;
const PLACE_SIZE: usize = 13;

impl RunValue {
    fn encode(&self) -> Vec<u8> {
        let mut v = Vec::with_capacity(HEAD_SIZE + self.segments.len() * PLACE_SIZE);
        v.extend(self.file.0.to_le_bytes());
        v.extend(self.generation.0.to_le_bytes());
        v.extend(self.offset.to_le_bytes());
        v.extend(self.lsn.0.to_le_bytes());
        for s in &self.segments {
            v.extend(s.stored_len.to_le_bytes());
            v.extend(s.logical_len.to_le_bytes());
            v.extend(s.crc.to_le_bytes());
            v.push(s.transform as u8);
        }
        v
    }

    fn decode(bytes: &[u8]) -> Option<RunValue> {
        let (head, places) = bytes.split_at_checked(HEAD_SIZE)?;
        if places.len() % PLACE_SIZE != 0 || places.len() / PLACE_SIZE > RUN_SEGMENTS_MAX as usize {
            return None;
        }
        let u32_at =
            |b: &[u8], at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("4 bytes"));
        let u64_at =
            |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("8 bytes"));
        let segments = places
            .chunks_exact(PLACE_SIZE)
            .map(|p| {
                Some(SegmentPlace {
                    stored_len: u32_at(p, 0),
                    logical_len: u32_at(p, 4),
                    crc: u32_at(p, 8),
                    transform: match p[12] {
                        1 => Transform::None,
                        2 => Transform::Lz4,
                        _ => return None,
                    },
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(RunValue {
            file: FileNumber(u32_at(head, 0)),
            generation: Generation(u64_at(head, 4)),
            offset: u32_at(head, 12),
            lsn: Lsn(u64_at(head, 16)),
            segments,
        })
    }

    /// Everything the run occupies.
    pub fn extent(&self) -> Extent {
        let length = self
            .segments
            .iter()
            .map(|s| (s.stored_len as usize).next_multiple_of(BLOCK_SIZE) as u32)
            .sum();
        Extent {
            file: self.file,
            generation: self.generation,
            offset: self.offset,
            length,
        }
    }
}

/// Panics if the segments are not one run: a bug in the caller, found before anything is written.
pub(super) fn check_run(segments: &[Segment]) {
    let first = &segments.first().expect("a run has a segment").entry;
    let (_, place) = shard_of(first).place(first.identity.segment);
    assert_eq!(place, 0, "a run starts at its first segment");
    for pair in segments.windows(2) {
        assert!(continues_run(&pair[0].entry, &pair[1].entry), "one run");
    }
}

/// Groups the segments of a batch into runs: consecutive segments of one shard with the same run number.
pub(super) fn runs(segments: &[(Segment, Extent, Lsn)]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (s, extent, lsn) in segments {
        let shard = shard_of(&s.entry);
        let (run, index) = shard.place(s.entry.identity.segment);
        let place = SegmentPlace {
            stored_len: s.stored_len,
            logical_len: s.logical_len,
            crc: s.crc,
            transform: s.transform,
        };
        let joins = index != 0
            && runs.last().is_some_and(|r| {
                r.shard == shard
                    && r.run == run
                    && r.value.segments.len() == usize::from(index)
                    && r.value.file == extent.file
            });
        if joins {
            runs.last_mut().expect("checked").value.segments.push(place);
        } else if index == 0 {
            runs.push(Run {
                shard,
                run,
                value: RunValue {
                    file: extent.file,
                    generation: extent.generation,
                    offset: extent.offset,
                    lsn: *lsn,
                    segments: vec![place],
                },
            });
        }
        // Anything else is the rest of a run whose start is damaged: its shard is missing that run, and repair or the
        // reader says so.
    }
    runs
}

fn current(store: &Store<'_>, shard: &Shard, run: u16) -> Option<RunValue> {
    store
        .index
        .get(Table::Shards, &key(shard, run), RunValue::decode)
        .ok()
        .flatten()
        .flatten()
}

/// A fresh run, or one found by recovery: the later copy (by LSN) of the same run wins; both hold the same bytes.
pub(super) fn insert(store: &Store<'_>, run: &Run) {
    if let Some(old) = current(store, &run.shard, run.run) {
        if old.lsn >= run.value.lsn {
            return;
        }
        store.files.sub_live(&old.extent());
    }
    store.files.add_live(&run.value.extent());
    store
        .index
        .put(Table::Shards, &key(&run.shard, run.run), run.value.encode());
}

/// A run that reclaim copied: counts only if the shard is still there.
pub(super) fn relocate(store: &Store<'_>, run: &Run) {
    if current(store, &run.shard, run.run).is_some() {
        insert(store, run);
    }
}

/// Which runs of a shard there are: bit n is run n.
pub(super) fn present(store: &Store<'_>, shard: &Shard) -> Result<u64, VolumeError> {
    let mut runs = 0;
    let mut from = key(shard, 0).to_vec();
    let prefix = from[..KEY_SIZE - 2].to_vec();
    loop {
        let end = store.index.scan(Table::Shards, &from, usize::MAX, |k, _| {
            if !k.starts_with(&prefix) {
                return Step::Stop;
            }
            if let Some(run) = k.last_chunk::<2>() {
                runs |= 1u64
                    .checked_shl(u16::from_be_bytes(*run).into())
                    .unwrap_or(0);
            }
            Step::Next
        })?;
        match end {
            ScanEnd::Budget(next) => from = next,
            _ => return Ok(runs),
        }
    }
}

// A run is more than half of what it may be.
const _: () = assert!(2 * CHUNK_SIZE / STORE_BYTES_MAX <= u64::BITS as usize);

/// Whether the index points at this very copy of the run that `segment` belongs to.
pub(super) fn is_live(store: &Store<'_>, entry: &SegmentEntry, extent: &Extent) -> bool {
    let shard = shard_of(entry);
    let (run, place) = shard.place(entry.identity.segment);
    current(store, &shard, run).is_some_and(|v| {
        v.file == extent.file && v.generation == extent.generation && {
            let skip = usize::from(place);
            let before: u32 = v
                .segments
                .iter()
                .take(skip)
                .map(|s| (s.stored_len as usize).next_multiple_of(BLOCK_SIZE) as u32)
                .sum();
            skip < v.segments.len() && v.offset + before == extent.offset
        }
    })
}

/// Whether freeing `freed` frees the shards of `object`: its own, and for an upload those of its parts.
fn is_freed_with(object: ObjectId, freed: ObjectId) -> bool {
    object == freed || (freed.is_upload() && object.upload() == Some(freed))
}

/// Forgets every run of the object, for an upload also of its parts.
pub(super) fn free(store: &Store<'_>, object: ObjectId) {
    let mut found = Vec::new();
    let mut from = object.0.to_vec();
    loop {
        let end = store.index.scan(Table::Shards, &from, usize::MAX, |k, v| {
            // The ids of parts follow that of their upload.
            if k.first_chunk()
                .is_some_and(|id| is_freed_with(ObjectId(*id), object))
            {
                found.push((k.to_vec(), RunValue::decode(v)));
                Step::Next
            } else {
                Step::Stop
            }
        });
        match end {
            Ok(ScanEnd::Budget(next)) => from = next,
            _ => break,
        }
    }
    for (k, value) in found {
        if let Some(value) = value {
            store.files.sub_live(&value.extent());
        }
        store.index.remove(Table::Shards, &k);
    }
}

/// Whether freeing the object would free anything.
pub(super) fn any(store: &Store<'_>, object: ObjectId) -> Result<bool, VolumeError> {
    let (ids, _) = objects(store, object, 1)?;
    Ok(ids.first().is_some_and(|id| is_freed_with(*id, object)))
}

/// Ids of objects with shards here, ascending from `from`.
pub(super) fn objects(
    store: &Store<'_>,
    from: ObjectId,
    max: usize,
) -> Result<(Vec<ObjectId>, Option<ObjectId>), VolumeError> {
    let mut ids: Vec<ObjectId> = Vec::new();
    let mut next = None;
    let mut start = from.0.to_vec();
    loop {
        let end = store
            .index
            .scan(Table::Shards, &start, usize::MAX, |k, _| {
                let Some(id) = k.first_chunk::<16>() else {
                    return Step::Next;
                };
                let id = ObjectId(*id);
                if ids.len() == max {
                    next = Some(id);
                    return Step::Stop;
                }
                ids.push(id);
                let mut seek = id.0.to_vec();
                seek.extend([0xff; KEY_SIZE - 16 + 1]);
                Step::Seek(seek)
            })?;
        match end {
            ScanEnd::Budget(resume) => start = resume,
            _ => return Ok((ids, next)),
        }
    }
}

/// Segments as they were asked for, verified.
pub struct Fetched {
    /// The memory that the request brought: segment after segment, each padded to a block.
    pub data: Buf,
    /// Logical bytes of each.
    pub lengths: SmallVec<[u32; RUN_SEGMENTS_MAX as usize]>,
}

/// Reads segments from `segment` on into `buf`, as many as fit, at most to the end of the run. One read, no copy.
pub(super) async fn fetch(
    store: &Store<'_>,
    shard: Shard,
    segment: SegmentIndex,
    buf: Buf,
) -> Result<Fetched, VolumeError> {
    let (run, skip) = shard.place(segment);
    let skip = usize::from(skip);
    let found = store
        .index
        .get(Table::Shards, &key(&shard, run), RunValue::decode)?;
    let value = match found {
        None => return Err(VolumeError::Absent),
        Some(None) => {
            return Err(VolumeError::Unreadable {
                what: "an entry of the shards table".into(),
            });
        }
        Some(Some(v)) => v,
    };
    let pad = |s: &SegmentPlace| (s.stored_len as usize).next_multiple_of(BLOCK_SIZE);
    let mut length = 0;
    let places: Vec<SegmentPlace> = value
        .segments
        .iter()
        .skip(skip)
        .copied()
        .take_while(|place| {
            length += pad(place);
            length <= buf.capacity()
        })
        .collect();
    if value.segments.len() <= skip {
        return Err(VolumeError::Absent);
    }
    let before: usize = value.segments.iter().take(skip).map(pad).sum();
    let length: usize = places.iter().map(pad).sum();
    let extent = Extent {
        file: value.file,
        generation: value.generation,
        offset: value.offset + before as u32,
        length: length as u32,
    };
    // The pin is taken in the same turn as the index was read: the file cannot be recycled in between.
    let Some(pin) = store.files.pin(&extent) else {
        return Err(VolumeError::Unreadable {
            what: format!("segment file {} is gone", extent.file),
        });
    };
    let (result, data) = pin.read_into(buf, extent.offset, extent.length).await;
    result?;
    let mut offset = 0;
    let mut lengths = SmallVec::new();
    for (i, place) in places.iter().enumerate() {
        if place.transform != Transform::None {
            return Err(VolumeError::Unreadable {
                what: format!("transform {:?}", place.transform),
            });
        }
        let stored = &data[offset..offset + place.stored_len as usize];
        let identity = shard.identity(SegmentIndex(segment.0 + i as u16));
        if segment_crc(&identity, stored) != place.crc && !crate::planted!("ignore-checksum") {
            return Err(VolumeError::Unreadable {
                what: format!(
                    "checksum of segment {} of chunk {}, role {}, at {}:{}",
                    identity.segment,
                    shard.chunk,
                    shard.role,
                    extent.file,
                    extent.offset as usize + offset
                ),
            });
        }
        lengths.push(place.logical_len);
        offset += pad(place);
    }
    Ok(Fetched { data, lengths })
}
