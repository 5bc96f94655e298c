//! Where things belong: pure functions of names and the cluster map, no state, no I/O.
//!
//! A key's hash is the first 8 bytes of SHA-256 over bucket id and key; its top 32 bits are part of every object id of
//! that key, and their top bits are its placement group. Groups are spread over the volumes of the map in turn; the
//! roles of chunks by the ring ([`ring`]), in distinct failure domains, so that a large object uses every drive.

pub mod ring;
pub mod scheme;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use shard_format::{BucketId, ChunkIndex, Epoch, ObjectId, PgId, Scheme};

pub use ring::{Domain, Level, Member, Roles, TooFewDomains};
use ring::{ROLES_MAX, Ring};

fn first8(digest: impl AsRef<[u8]>) -> u64 {
    u64::from_be_bytes(*digest.as_ref().first_chunk().expect("SHA-256 is longer"))
}

/// Top 32 bits of the hash of a key.
pub fn key_hash32(bucket: BucketId, key: &[u8]) -> u32 {
    let mut h = Sha256::new();
    h.update(bucket.0.to_be_bytes());
    h.update(key);
    (first8(h.finalize()) >> 32) as u32
}

/// The point of a chunk on the ring.
pub fn point(object: ObjectId, chunk: ChunkIndex) -> u64 {
    let mut h = Sha256::new();
    h.update(object.0);
    h.update(chunk.0.to_be_bytes());
    first8(h.finalize())
}

/// The volumes of a cluster and where groups and chunks belong among them, at one epoch. A copy is cheap.
#[derive(Clone, Debug)]
pub struct Map {
    pub epoch: Epoch,
    pub pg_count: u32,
    volumes: Arc<Volumes>,
}

#[derive(Debug)]
struct Volumes {
    /// By volume.
    members: Vec<Member>,
    /// The ring of width i + 1, made when it is first asked for: what it is depends on nothing but the members.
    rings: [OnceLock<Result<Ring, TooFewDomains>>; ROLES_MAX],
}

impl Map {
    /// Panics unless there are members and their volumes are distinct. Their order does not matter.
    pub fn new(epoch: Epoch, pg_count: u32, mut members: Vec<Member>) -> Map {
        members.sort_by_key(|m| m.volume);
        assert!(!members.is_empty());
        assert!(members.is_sorted_by(|a, b| a.volume < b.volume));
        Map {
            epoch,
            pg_count,
            volumes: Arc::new(Volumes {
                members,
                rings: Default::default(),
            }),
        }
    }

    /// In order of their volumes.
    pub fn members(&self) -> &[Member] {
        &self.volumes.members
    }

    pub fn volume_count(&self) -> u16 {
        self.members().len() as u16
    }

    /// The ring of a scheme. The first call for a width builds it, which takes milliseconds (see [`ring`]); a node asks
    /// for those of its schemes before it serves.
    ///
    /// Panics if the scheme has more than [`ROLES_MAX`] roles; such a scheme is refused where it is set.
    pub fn ring(&self, scheme: Scheme) -> Result<&Ring, TooFewDomains> {
        let width = usize::from(scheme.width());
        let ring = self.volumes.rings[width - 1].get_or_init(|| Ring::new(self.members(), width));
        ring.as_ref().map_err(|error| *error)
    }

    pub fn group_of_key(&self, bucket: BucketId, key: &[u8]) -> PgId {
        PgId::of_key_hash(key_hash32(bucket, key), self.pg_count)
    }

    /// The group that an object id's key belongs to.
    pub fn group_of_object(&self, object: ObjectId) -> PgId {
        PgId::of_key_hash(object.key_hash32(), self.pg_count)
    }

    /// The volume that holds a group's metadata: until they are replicated, one of the first drive's.
    pub fn home(&self, pg: PgId) -> u16 {
        let homes = self.homes();
        let i = match pg {
            PgId::SYSTEM => 0,
            pg => usize::from(pg.0) % homes.len(),
        };
        homes[i].volume
    }

    /// The volumes that are homes of groups.
    pub fn homes(&self) -> &[Member] {
        let members = self.members();
        let first = members[0].domain;
        let count = members.partition_point(|member| member.domain == first);
        &members[..count]
    }

    /// The groups whose home is `volume`, the system group included.
    pub fn groups_of(&self, volume: u16) -> Vec<PgId> {
        let system = (volume == self.home(PgId::SYSTEM)).then_some(PgId::SYSTEM);
        (0..self.pg_count)
            .map(|g| PgId(g as u16))
            .filter(|g| self.home(*g) == volume)
            .chain(system)
            .collect()
    }

    /// The volumes of a chunk, role r at position r, in distinct domains of the widest level that has enough.
    pub fn volumes_of_chunk(
        &self,
        object: ObjectId,
        chunk: ChunkIndex,
        scheme: Scheme,
    ) -> Result<Roles, TooFewDomains> {
        Ok(self.ring(scheme)?.volumes_of(point(object, chunk)))
    }
}
