//! The shards of one object, or part, on their way to their volumes.
//!
//! ```text
//!   memory ── filled with a run of the body ── hashed ── parity made ── store: role r to the chunk's r-th volume
//!                                                                        └─ all runs: flush every volume that has any
//! ```
//!
//! A role is *missing* from a chunk when its volume refused a run or a flush. The object is durable when each of its
//! chunks has all its shards, or, with a volume gone, [`durable_shards`] of them; the record says which are missing, and
//! they are repaired. With fewer nothing of it becomes visible. A full volume is not a gone one: the put is refused.
//!
//! Invariant: what a run needs, data and parity, is one allocation. Nobody waits for memory with part of a run in hand,
//! so uploads that wait for each other cannot come to hold all of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
};

use futures_util::future::join_all;
use shard_format::{BLOCK_SIZE, ChunkIndex, MissingRoles, ObjectId, Role, SEGMENT_SIZE, Scheme};
use smallvec::SmallVec;

use super::{
    Store, StoreError,
    gather::Placed,
    layout::{Layout, Run},
};
use crate::{link::Request, md5::Slice, placement::Roles, rt::Buf, volume::VolumeError};

/// Shards of a chunk that must be durable before a put is acknowledged.
pub const fn durable_shards(scheme: Scheme) -> u16 {
    if scheme.m >= 2 {
        scheme.k as u16 + 1
    } else {
        scheme.k as u16
    }
}

/// Where a chunk's shards go, and which did not arrive.
struct Chunk {
    volumes: Roles,
    missing: u64,
}

pub(super) struct Spread {
    store: Store,
    pub placed: Placed,
    chunks: RefCell<BTreeMap<ChunkIndex, Chunk>>,
}

impl Spread {
    /// With the scheme and the map that new objects have now.
    pub fn new(store: &Store, object: ObjectId, size: u64) -> Rc<Spread> {
        Rc::new(Spread {
            store: store.clone(),
            placed: Placed {
                object,
                layout: Layout {
                    scheme: store.scheme(),
                    size,
                },
                epoch: store.link().map().epoch,
            },
            chunks: RefCell::default(),
        })
    }

    fn roles(&self) -> impl Iterator<Item = Role> + use<> {
        (0..self.placed.layout.scheme.width() as u8).map(Role)
    }

    /// Bytes of memory that a run takes, to be had at once; [`Spread::cut`] makes it the roles'.
    pub fn memory(&self, run: &Run) -> usize {
        let width = usize::from(self.placed.layout.scheme.width());
        self.placed.memory_of(run, width)
    }

    /// A buffer for each role, with the length that its segments will have.
    pub fn cut(&self, run: &Run, memory: Buf) -> Vec<Buf> {
        let width = usize::from(self.placed.layout.scheme.width());
        let mut bufs = self.placed.share(run, memory, width);
        for (role, buf) in self.roles().zip(&mut bufs) {
            buf.set_len(self.placed.layout.memory(run, role));
        }
        bufs
    }

    /// The run's bytes in their order: which buffer, and where in it.
    pub fn slices(&self, run: &Run) -> SmallVec<[Slice; 1]> {
        let mut slices = SmallVec::new();
        for row in 0..run.rows {
            let stripe = self.placed.layout.stripe(run, row);
            for role in 0..self.placed.layout.scheme.k {
                let bytes = stripe.bytes_of(Role(role));
                let at = usize::from(row) * SEGMENT_SIZE;
                let range = at..at + (bytes.end - bytes.start) as usize;
                match slices.last_mut() {
                    _ if range.is_empty() => {}
                    // Plain: a run is one piece of memory.
                    Some(Slice { buf, range: last })
                        if *buf == 0 && role == 0 && last.end == at =>
                    {
                        last.end = range.end
                    }
                    _ => slices.push(Slice {
                        buf: usize::from(role),
                        range,
                    }),
                }
            }
        }
        slices
    }

    /// Fills in what the body left: the rest of blocks, and parity.
    fn complete(&self, run: &Run, bufs: &mut [Buf]) {
        let k = usize::from(self.placed.layout.scheme.k);
        let (data, parity) = bufs.split_at_mut(k);
        let codec = self.store.codec(self.placed.layout.scheme);
        let last = self.placed.layout.stripe(run, run.rows - 1);
        let at = usize::from(run.rows - 1) * SEGMENT_SIZE;
        for (role, buf) in data.iter_mut().enumerate() {
            buf.set_len(self.placed.layout.memory(run, Role(role as u8)));
            let end = at + last.stored(Role(role as u8));
            let end = end.min(buf.len());
            buf[end..].fill(0);
        }
        if parity.is_empty() {
            return;
        }
        // Rows before the last are full, and one piece in every buffer.
        let mut encode = |from: usize, to: usize, lengths: &dyn Fn(usize) -> usize| {
            let data: SmallVec<[&[u8]; 32]> = data
                .iter()
                .enumerate()
                .map(|(role, buf)| &buf[from.min(buf.len())..][..lengths(role)])
                .collect();
            let mut parity: SmallVec<[&mut [u8]; 32]> =
                parity.iter_mut().map(|buf| &mut buf[from..to]).collect();
            codec.encode(&data, &mut parity);
        };
        if at > 0 {
            encode(0, at, &|_| at);
        }
        encode(at, at + last.parity(), &|role| {
            last.stored(Role(role as u8))
        });
        for buf in parity {
            let end = at + last.parity();
            buf[end..].fill(0);
        }
    }

    /// Stores a run whose data is in the buffers. An error is the whole object's.
    pub async fn store(&self, run: Run, mut bufs: Vec<Buf>) -> Result<(), StoreError> {
        self.complete(&run, &mut bufs);
        let (volumes, missing) = self.place(run.chunk)?;
        let stores = self.roles().zip(bufs).filter_map(|(role, data)| {
            let segments = self.placed.describe(&run, role, &data);
            // A shard that lacks a run is missing; more of it would help nobody.
            let wanted = !segments.is_empty() && missing >> role.0 & 1 == 0;
            let volume = volumes[usize::from(role.0)];
            wanted.then_some(async move {
                let request = Request::Store { segments, data };
                (role, self.store.link().call(volume, request).await)
            })
        });
        for (role, stored) in join_all(stores).await {
            if let Err(error) = stored {
                self.lost(run.chunk, role, error)?;
            }
        }
        Ok(())
    }

    fn place(&self, chunk: ChunkIndex) -> Result<(Roles, u64), StoreError> {
        let mut chunks = self.chunks.borrow_mut();
        let place = match chunks.entry(chunk) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(new) => new.insert(Chunk {
                volumes: self.placed.volumes(&self.store, chunk)?,
                missing: 0,
            }),
        };
        Ok((place.volumes.clone(), place.missing))
    }

    /// A role of the chunk did not become durable; an error if too few are left.
    fn lost(&self, chunk: ChunkIndex, role: Role, error: VolumeError) -> Result<(), StoreError> {
        if error == VolumeError::Full {
            return Err(error.into());
        }
        let mut chunks = self.chunks.borrow_mut();
        let place = chunks.get_mut(&chunk).expect("it was stored to");
        place.missing |= 1 << role.0;
        let scheme = self.placed.layout.scheme;
        let left = scheme.width() - place.missing.count_ones() as u16;
        let quorum = left >= durable_shards(scheme) || crate::planted!("skip-the-quorum");
        if quorum { Ok(()) } else { Err(error.into()) }
    }

    /// Makes all that was stored durable; the roles that are missing.
    pub async fn flush(&self) -> Result<Vec<MissingRoles>, StoreError> {
        let link = self.store.link();
        let flushes = self
            .volumes()
            .into_iter()
            .map(|v| async move { (v, link.call(v, Request::SyncShards).await) });
        for (volume, flushed) in join_all(flushes).await {
            let Err(error) = flushed else { continue };
            let on_it: Vec<(ChunkIndex, Role)> = self
                .chunks
                .borrow()
                .iter()
                .flat_map(|(chunk, place)| {
                    let roles = self.roles().zip(&place.volumes);
                    roles
                        .filter(|(_, v)| **v == volume)
                        .map(|(role, _)| (*chunk, role))
                })
                .collect();
            for (chunk, role) in on_it {
                self.lost(chunk, role, error.clone())?;
            }
        }
        let chunks = self.chunks.borrow();
        let missing = chunks.iter().filter(|(_, place)| place.missing != 0);
        Ok(missing
            .map(|(chunk, place)| MissingRoles {
                chunk: *chunk,
                roles: place.missing,
            })
            .collect())
    }

    /// Every volume that may have shards of the object, each once.
    fn volumes(&self) -> Vec<u16> {
        let chunks = self.chunks.borrow();
        let mut volumes: Vec<u16> = chunks.values().flat_map(|c| c.volumes.clone()).collect();
        volumes.sort_unstable();
        volumes.dedup();
        volumes
    }

    /// Nobody will ever name these shards.
    pub fn abandon(&self) {
        for volume in self.volumes() {
            let object = self.placed.object;
            self.store
                .link()
                .tell(volume, Request::FreeObject { object });
        }
    }
}

const _: () = assert!(SEGMENT_SIZE.is_multiple_of(BLOCK_SIZE));
