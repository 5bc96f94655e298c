//! Bytes of an object, or part, from its shards.
//!
//! ```text
//!   memory for all of it ── fetch: each data role that has some ── all there ──▶ segments in the object's order
//!                                                                └ else: memory for k, fetch others, make the rest
//! ```
//!
//! A shard that is absent, damaged or on a volume that does not answer is one that the others make again; only when fewer
//! than k are left is it an error. What a fetch needs is one allocation, like a put's ([`super::spread`]): readers that
//! wait for each other cannot come to hold all memory with parts of runs.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use shard_format::{
    ChunkIndex, Epoch, ObjectId, Role, SEGMENT_SIZE, SegmentEntry, SegmentIndex, Transform,
    segment_crc,
};
use smallvec::SmallVec;

use super::{
    Store,
    layout::{Layout, Run},
};
use crate::{
    link::{Reply, Request},
    log::Segment,
    meta::StoredObject,
    placement::Roles,
    rt::Buf,
    volume::{Fetched, Shard, VolumeError},
};

/// An object whose shards lie by a scheme and an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub object: ObjectId,
    pub layout: Layout,
    pub epoch: Epoch,
}

/// Rows of one role of a run, each a buffer of its own.
type Rows = Vec<Buf>;

impl Placed {
    pub fn of(stored: &StoredObject) -> Placed {
        Placed {
            object: stored.object,
            layout: Layout {
                scheme: stored.scheme,
                size: stored.size,
            },
            epoch: stored.epoch,
        }
    }

    /// What a role of the run is stored as; `bytes` has its segments, each in whole blocks. Nothing for a role that a
    /// short stripe leaves empty.
    pub fn describe(&self, run: &Run, role: Role, bytes: &[u8]) -> Vec<Segment> {
        let scheme = self.layout.scheme;
        let shard = self.shard(run.chunk, role);
        (0..run.rows)
            .filter_map(|row| {
                let length = self.layout.stripe(run, row).stored(role);
                let stored = &bytes[(usize::from(row) * SEGMENT_SIZE).min(bytes.len())..][..length];
                let identity = shard.identity(SegmentIndex(run.row + row));
                (length > 0).then(|| Segment {
                    entry: SegmentEntry {
                        identity,
                        scheme,
                        epoch: self.epoch,
                    },
                    transform: Transform::None,
                    logical_len: length as u32,
                    stored_len: length as u32,
                    crc: segment_crc(&identity, stored),
                })
            })
            .collect()
    }

    pub fn shard(&self, chunk: ChunkIndex, role: Role) -> Shard {
        Shard {
            object: self.object,
            chunk,
            role,
            scheme: self.layout.scheme,
        }
    }

    /// The volumes of a chunk, by role.
    pub fn volumes(&self, store: &Store, chunk: ChunkIndex) -> Result<Roles, VolumeError> {
        let map = store.link().map_at(self.epoch);
        let placed = map.ok_or_else(|| format!("epoch {} is unknown", self.epoch));
        let placed = placed.and_then(|map| {
            map.volumes_of_chunk(self.object, chunk, self.layout.scheme)
                .map_err(|error| error.to_string())
        });
        placed.map_err(|what| VolumeError::Unreadable { what })
    }

    /// The bytes `start..end`, which lie in one run: buffers whose lengths are what counts, in order.
    pub async fn fetch(self, store: Store, start: u64, end: u64) -> Result<Vec<Buf>, VolumeError> {
        let layout = self.layout;
        let run = layout.part_of(&layout.run_at(start), start, end);
        let wanted: SmallVec<[Role; 32]> = if run.rows == 1 {
            let stripe = layout.stripe(&run, 0);
            (stripe.role_of(start).0..=stripe.role_of(end - 1).0)
                .map(Role)
                .collect()
        } else {
            (0..layout.scheme.k).map(Role).collect()
        };
        let memory = self.memory(&run, wanted.len()).await;
        let mut rows = match self.fetch_roles(&store, &run, &wanted, memory).await {
            Ok(rows) => rows,
            Err(lost) => self.rebuild(&store, &run, &wanted, lost).await?,
        };
        // In the object's order, and only what was asked for.
        let mut bufs = Vec::with_capacity(usize::from(run.rows) * wanted.len());
        for row in 0..run.rows {
            let stripe = layout.stripe(&run, row);
            for (role, segments) in wanted.iter().zip(&mut rows) {
                let bytes = stripe.bytes_of(*role);
                let (from, to) = (bytes.start.max(start), bytes.end.min(end));
                if from >= to {
                    continue;
                }
                // Plain rows are one piece of memory.
                let (mut buf, length) = if layout.scheme.k == 1 {
                    if row > 0 {
                        continue;
                    }
                    let all = run.end.min(end) - from;
                    (std::mem::replace(&mut segments[0], Buf::empty()), all)
                } else {
                    let segment = &mut segments[usize::from(row)];
                    (std::mem::replace(segment, Buf::empty()), to - from)
                };
                let skip = (from - bytes.start) as usize;
                if skip > 0 {
                    // Only the first buffer of a range starts inside a segment.
                    buf.copy_within(skip..skip + length as usize, 0);
                }
                buf.set_len(length as usize);
                bufs.push(buf);
            }
        }
        Ok(bufs)
    }

    /// Bytes of memory that so many roles of the run take, to be had at once; [`Placed::share`] makes it theirs.
    pub fn memory_of(&self, run: &Run, roles: usize) -> usize {
        match self.layout.memory(run, Role(0)) {
            one if roles == 1 => one,
            one => one.next_power_of_two() * roles,
        }
    }

    /// A buffer for each of so many roles.
    pub fn share(&self, run: &Run, memory: Buf, roles: usize) -> Vec<Buf> {
        if roles == 1 {
            return vec![memory];
        }
        let one = self.layout.memory(run, Role(0));
        let mut bufs = memory.split(one.next_power_of_two());
        bufs.truncate(roles);
        bufs
    }

    async fn memory(&self, run: &Run, roles: usize) -> Vec<Buf> {
        let memory = Buf::alloc(self.memory_of(run, roles)).await;
        self.share(run, memory, roles)
    }

    /// Rows of each of the roles; or which of them cannot be had. Then the others are given up, memory and all: what is
    /// next needs more of it.
    async fn fetch_roles(
        &self,
        store: &Store,
        run: &Run,
        roles: &[Role],
        memory: Vec<Buf>,
    ) -> Result<Vec<Rows>, Lost> {
        let scheme = self.layout.scheme;
        let volumes = match self.volumes(store, run.chunk) {
            Ok(volumes) => volumes,
            Err(error) => {
                let roles = (0..scheme.width() as u8).map(Role).collect();
                return Err(Lost { roles, error });
            }
        };
        let fetches = roles.iter().zip(memory).map(|(role, buf)| {
            let volume = volumes[usize::from(role.0)];
            self.fetch_role(store, run, *role, volume, buf)
        });
        let mut rows = Vec::with_capacity(roles.len());
        let mut lost: Option<Lost> = None;
        for (role, fetched) in roles.iter().zip(join_all(fetches).await) {
            match fetched {
                Ok(fetched) => rows.push(self.cut(run, *role, fetched.data)),
                Err(error) => {
                    let roles = SmallVec::new();
                    let lost = lost.get_or_insert(Lost { roles, error });
                    lost.roles.push(*role);
                }
            }
        }
        lost.map_or(Ok(rows), Err)
    }

    async fn fetch_role(
        &self,
        store: &Store,
        run: &Run,
        role: Role,
        volume: u16,
        mut buf: Buf,
    ) -> Result<Fetched, VolumeError> {
        let expected: SmallVec<[u32; 16]> = (0..run.rows)
            .map(|row| self.layout.stripe(run, row).stored(role) as u32)
            .filter(|length| *length > 0)
            .collect();
        if expected.is_empty() {
            // The end of a short stripe.
            buf.set_len(0);
            let lengths = SmallVec::new();
            return Ok(Fetched { data: buf, lengths });
        }
        let request = Request::Fetch {
            shard: self.shard(run.chunk, role),
            segment: SegmentIndex(run.row),
            buf,
        };
        match store.link().call(volume, request).await {
            Ok(Reply::Fetched(f)) if f.lengths.starts_with(&expected) => Ok(f),
            // A version names these bytes, so they are not absent but lost from sight.
            Ok(_) | Err(VolumeError::Absent) => Err(VolumeError::Unreadable {
                what: format!(
                    "role {role} of chunk {} of object {}",
                    run.chunk, self.object
                ),
            }),
            Err(error) => Err(error),
        }
    }

    /// The rows of a role, from the memory of the run.
    fn cut(&self, run: &Run, role: Role, mut data: Buf) -> Rows {
        if self.layout.scheme.k == 1 {
            data.set_len((run.end - run.start) as usize);
            return vec![data];
        }
        let mut rows = match run.rows {
            1 => vec![data],
            _ => data.split(SEGMENT_SIZE),
        };
        rows.truncate(run.rows.into());
        for (row, buf) in (0..run.rows).zip(&mut rows) {
            buf.set_len(self.layout.stripe(run, row).stored(role));
        }
        rows
    }

    /// The wanted roles without those that are lost.
    async fn rebuild(
        &self,
        store: &Store,
        run: &Run,
        wanted: &[Role],
        lost: Lost,
    ) -> Result<Vec<Rows>, VolumeError> {
        let missing = wanted.iter().filter(|role| lost.roles.contains(role));
        let missing: SmallVec<[Role; 32]> = missing.copied().collect();
        let damaged = matches!(lost.error, VolumeError::Unreadable { .. });
        let (have, made) = self.make(store, run, &missing, lost).await?;
        store.link().count_rebuilt();
        if damaged {
            store.repair_soon(*self, *run, &missing);
        }
        let made = made
            .into_iter()
            .map(|(role, buf)| (role, self.cut(run, role, buf)));
        let mut all: BTreeMap<Role, Rows> = have.into_iter().chain(made).collect();
        let rows = wanted
            .iter()
            .map(|role| all.remove(role).expect("had or made"));
        Ok(rows.collect())
    }

    /// Makes the missing roles of the run, each in one piece of memory, from k others, which come with them.
    pub async fn make(
        &self,
        store: &Store,
        run: &Run,
        missing: &[Role],
        mut lost: Lost,
    ) -> Result<(Vec<(Role, Rows)>, Vec<(Role, Buf)>), VolumeError> {
        let scheme = self.layout.scheme;
        let k = usize::from(scheme.k);
        let (have, mut rows, mut made) = loop {
            let roles = (0..scheme.width() as u8).map(Role);
            let have: SmallVec<[Role; 32]> = roles
                .filter(|role| !lost.roles.contains(role))
                .take(k)
                .collect();
            if have.len() < k {
                return Err(lost.error);
            }
            // Where the missing ones are made is had together with the others' memory.
            let mut memory = self.memory(run, k + missing.len()).await;
            let made = memory.split_off(k);
            match self.fetch_roles(store, run, &have, memory).await {
                Ok(rows) => break (have, rows, made),
                Err(further) => lost.roles.extend(further.roles),
            }
        };
        for (role, buf) in missing.iter().zip(&mut made) {
            buf.set_len(self.layout.memory(run, *role));
        }
        if k == 1 {
            let copy = &rows[0][0];
            for buf in &mut made {
                buf[..copy.len()].copy_from_slice(copy);
                buf[copy.len()..].fill(0);
            }
        } else {
            let codec = store.codec(scheme);
            for row in 0..run.rows {
                let stripe = self.layout.stripe(run, row);
                let row = usize::from(row);
                let rows = have.iter().zip(&mut rows);
                let have: SmallVec<[(Role, &[u8]); 32]> =
                    rows.map(|(role, rows)| (*role, &rows[row][..])).collect();
                let mut out: SmallVec<[(Role, &mut [u8]); 32]> = missing
                    .iter()
                    .zip(&mut made)
                    .map(|(role, buf)| {
                        let at = (row * SEGMENT_SIZE).min(buf.len());
                        let (out, rest) = buf[at..].split_at_mut(stripe.stored(*role));
                        // The rest of the last block; where another row follows, it is made next.
                        rest.fill(0);
                        (*role, out)
                    })
                    .collect();
                codec.rebuild(&have, &mut out);
            }
        }
        let have = have.into_iter().zip(rows).collect();
        Ok((have, missing.iter().copied().zip(made).collect()))
    }
}

/// Roles of a run that cannot be had.
pub(super) struct Lost {
    pub roles: SmallVec<[Role; 32]>,
    /// The first one's.
    pub error: VolumeError,
}
