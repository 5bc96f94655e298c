//! The cluster map as each drive keeps it: which drives there were at each epoch, and which volumes were theirs.
//!
//! Versions name the epoch they were placed at, so epochs stay as long as one may be named. A drive's volumes keep
//! their indexes for ever; the drive that replaces it takes them over.

use crate::FORMAT_VERSION;
use crate::checksum::{check, crc32c};
use crate::codec::{Reader, Sink};
use crate::copies::HeaderError;
use crate::damage::Damage;
use crate::id::{ClusterId, DriveId, Epoch, Scheme};

const MAGIC: &[u8; 8] = b"OSTRKMAP";

/// Bytes of the largest map file that is read: some 100,000 drives of all epochs together.
pub const CLUSTER_MAP_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterMap {
    pub cluster: ClusterId,
    /// At least one, ascending by epoch.
    pub epochs: Vec<MapEpoch>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEpoch {
    pub epoch: Epoch,
    /// Unix milliseconds, for people; nothing is ordered by it.
    pub began_ms: u64,
    /// Of new objects, where their bucket has none of its own.
    pub scheme: Scheme,
    /// At least one. The first one is the metadata's home.
    pub drives: Vec<MapDrive>,
}

/// A drive, and the volumes `first_volume .. first_volume + volume_count`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MapDrive {
    pub drive: DriveId,
    pub first_volume: u16,
    /// At least 1.
    pub volume_count: u16,
    pub state: DriveState,
    /// Bytes, as placement weighs them.
    pub capacity: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DriveState {
    /// Takes new shards.
    InUse = 1,
    /// Failed or pulled: takes none until it is back.
    Away = 2,
}

impl ClusterMap {
    pub fn encode(&self) -> Vec<u8> {
        assert_eq!(self.check(), Ok(()));
        let mut out = Vec::new();
        out.put(MAGIC);
        out.put_u32(FORMAT_VERSION);
        out.put_u32(self.epochs.len() as u32);
        out.put(&self.cluster.0);
        for epoch in &self.epochs {
            out.put_u32(epoch.epoch.0);
            out.put_u64(epoch.began_ms);
            out.put_u8(epoch.scheme.k);
            out.put_u8(epoch.scheme.m);
            out.put_u8(epoch.scheme.codec);
            out.put_u16(epoch.drives.len() as u16);
            for drive in &epoch.drives {
                out.put(&drive.drive.0);
                out.put_u16(drive.first_volume);
                out.put_u16(drive.volume_count);
                out.put_u8(drive.state as u8);
                out.put_u64(drive.capacity);
            }
        }
        let crc = crc32c(&out);
        out.put_u32(crc);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<ClusterMap, HeaderError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<8>()? != *MAGIC {
            return Err(Damage::Magic.into());
        }
        let Some((covered, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(Damage::Magic.into());
        };
        check(u32::from_le_bytes(*crc), crc32c(covered))?;
        let version = reader.u32()?;
        if version != FORMAT_VERSION {
            return Err(HeaderError::UnknownVersion {
                found: version,
                known: FORMAT_VERSION,
            });
        }
        let mut reader = Reader::new(&covered[MAGIC.len() + 4..]);
        let count = reader.u32()?;
        let cluster = ClusterId(reader.array()?);
        let mut epochs = Vec::new();
        for _ in 0..count {
            let epoch = Epoch(reader.u32()?);
            let began_ms = reader.u64()?;
            let scheme = Scheme::read(&mut reader)?;
            let drives = reader.u16()?;
            let drives = (0..drives).map(|_| MapDrive::read(&mut reader));
            epochs.push(MapEpoch {
                epoch,
                began_ms,
                scheme,
                drives: drives.collect::<Result<_, _>>()?,
            });
        }
        reader.end()?;
        let map = ClusterMap { cluster, epochs };
        map.check()?;
        Ok(map)
    }

    pub fn last(&self) -> &MapEpoch {
        self.epochs.last().expect("a map has an epoch")
    }

    fn check(&self) -> Result<(), Damage> {
        let wrong = |field, value| Err(Damage::OutOfRange { field, value });
        if self.epochs.is_empty() || !self.epochs.is_sorted_by(|a, b| a.epoch < b.epoch) {
            return wrong("epochs", self.epochs.len() as u64);
        }
        for epoch in &self.epochs {
            let mut volumes: Vec<(u16, u16)> = Vec::new();
            for drive in &epoch.drives {
                let Some(end) = drive.first_volume.checked_add(drive.volume_count) else {
                    return wrong("volume count", u64::from(drive.volume_count));
                };
                volumes.push((drive.first_volume, end));
            }
            volumes.sort_unstable();
            let distinct = volumes.windows(2).all(|pair| pair[0].1 <= pair[1].0);
            if !distinct || volumes.is_empty() || volumes.iter().any(|(first, end)| first == end) {
                return wrong("volumes of drives", u64::from(epoch.epoch.0));
            }
        }
        Ok(())
    }
}

impl MapDrive {
    fn read(reader: &mut Reader<'_>) -> Result<MapDrive, Damage> {
        Ok(MapDrive {
            drive: DriveId(reader.array()?),
            first_volume: reader.u16()?,
            volume_count: reader.u16()?,
            state: match reader.u8()? {
                1 => DriveState::InUse,
                2 => DriveState::Away,
                other => {
                    return Err(Damage::OutOfRange {
                        field: "drive state",
                        value: u64::from(other),
                    });
                }
            },
            capacity: reader.u64()?,
        })
    }

    pub fn volumes(&self) -> std::ops::Range<u16> {
        self.first_volume..self.first_volume + self.volume_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> ClusterMap {
        let drive = |n: u8, state| MapDrive {
            drive: DriveId([n; 16]),
            first_volume: u16::from(n) * 2,
            volume_count: 2,
            state,
            capacity: 1 << 40,
        };
        let epoch = |epoch, state| MapEpoch {
            epoch: Epoch(epoch),
            began_ms: 1_700_000_000_000,
            scheme: Scheme::PLAIN,
            drives: vec![drive(0, DriveState::InUse), drive(1, state)],
        };
        ClusterMap {
            cluster: ClusterId([7; 16]),
            epochs: vec![epoch(1, DriveState::InUse), epoch(4, DriveState::Away)],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(ClusterMap::decode(&map().encode()), Ok(map()));
    }

    #[test]
    fn lies_where_the_specification_says() {
        let bytes = map().encode();
        assert_eq!(&bytes[..8], b"OSTRKMAP");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(bytes.len(), 32 + 2 * (17 + 2 * 29) + 4);
        // The state of the second drive at the second epoch.
        assert_eq!(bytes[bytes.len() - 4 - 9], 2);
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let bytes = map().encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert!(ClusterMap::decode(&changed).is_err(), "byte {at}");
            assert!(ClusterMap::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn drives_that_share_a_volume_are_no_map() {
        let mut map = map();
        map.epochs[1].drives[1].first_volume = 1;
        assert!(map.check().is_err());
        map.epochs.clear();
        assert!(map.check().is_err());
    }
}
