//! Where things belong: pure functions of names and the cluster map, no state, no I/O.
//!
//! A key's hash is the first 8 bytes of SHA-256 over bucket id and key; its top 32 bits are part of every object id of
//! that key, and their top bits are its placement group. Groups are spread over the volumes of the map in turn; chunks
//! by a ring of hashes, so that a large object uses every drive.

use sha2::{Digest, Sha256};
use shard_format::{BucketId, ChunkIndex, Epoch, ObjectId, PgId};

/// Points each volume has on the ring.
const VIRTUAL_NODES: u32 = 128;

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

/// The volumes of a node and where groups and chunks belong among them, at one epoch.
#[derive(Clone, Debug)]
pub struct Map {
    pub epoch: Epoch,
    pub pg_count: u32,
    volume_count: u16,
    /// (hash, volume), ascending.
    ring: Vec<(u64, u16)>,
}

impl Map {
    /// `volume_count` volumes of equal weight in one failure domain.
    pub fn single_drive(epoch: Epoch, pg_count: u32, volume_count: u16) -> Map {
        assert!(volume_count > 0);
        let mut ring: Vec<(u64, u16)> = (0..volume_count)
            .flat_map(|v| {
                (0..VIRTUAL_NODES).map(move |n| {
                    let mut h = Sha256::new();
                    h.update(b"volume");
                    h.update(v.to_be_bytes());
                    h.update(n.to_be_bytes());
                    (first8(h.finalize()), v)
                })
            })
            .collect();
        ring.sort();
        Map {
            epoch,
            pg_count,
            volume_count,
            ring,
        }
    }

    pub fn volume_count(&self) -> u16 {
        self.volume_count
    }

    pub fn group_of_key(&self, bucket: BucketId, key: &[u8]) -> PgId {
        PgId::of_key_hash(key_hash32(bucket, key), self.pg_count)
    }

    /// The group that an object id's key belongs to.
    pub fn group_of_object(&self, object: ObjectId) -> PgId {
        PgId::of_key_hash(object.key_hash32(), self.pg_count)
    }

    /// The volume that holds a group's metadata.
    pub fn home(&self, pg: PgId) -> u16 {
        if pg == PgId::SYSTEM {
            0
        } else {
            pg.0 % self.volume_count
        }
    }

    /// The groups whose home is `volume`, the system group included.
    pub fn groups_of(&self, volume: u16) -> Vec<PgId> {
        let system = (volume == 0).then_some(PgId::SYSTEM);
        (0..self.pg_count)
            .map(|g| PgId(g as u16))
            .filter(|g| self.home(*g) == volume)
            .chain(system)
            .collect()
    }

    /// The volume of a chunk's only role: the next one on the ring.
    pub fn volume_of_chunk(&self, object: ObjectId, chunk: ChunkIndex) -> u16 {
        let mut h = Sha256::new();
        h.update(object.0);
        h.update(chunk.0.to_be_bytes());
        let point = first8(h.finalize());
        let i = self.ring.partition_point(|(p, _)| *p < point) % self.ring.len();
        self.ring[i].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_one_home() {
        let map = Map::single_drive(Epoch(1), 256, 3);
        let mut seen = [0; 256];
        for v in 0..3 {
            for pg in map.groups_of(v).into_iter().filter(|g| *g != PgId::SYSTEM) {
                seen[usize::from(pg.0)] += 1;
            }
        }
        assert!(seen.iter().all(|n| *n == 1));
    }

    #[test]
    fn the_group_of_an_object_is_the_group_of_its_key() {
        let map = Map::single_drive(Epoch(1), 256, 3);
        for i in 0..1000u32 {
            let key = i.to_be_bytes();
            let hash = key_hash32(BucketId(7), &key);
            let object = ObjectId::new(hash, shard_format::Hlc(9), [0; 4]);
            assert_eq!(
                map.group_of_object(object),
                map.group_of_key(BucketId(7), &key)
            );
        }
    }

    #[test]
    fn chunks_spread_over_volumes() {
        let map = Map::single_drive(Epoch(1), 256, 4);
        let mut counts = [0u32; 4];
        for i in 0..10_000u32 {
            let object = ObjectId::new(i.wrapping_mul(0x9e37_79b9), shard_format::Hlc(1), [0; 4]);
            counts[usize::from(map.volume_of_chunk(object, ChunkIndex(0)))] += 1;
        }
        // 128 virtual nodes keep each volume within about a quarter of its share.
        assert!(
            counts.iter().all(|c| (1700..=3300).contains(c)),
            "{counts:?}"
        );
    }
}
