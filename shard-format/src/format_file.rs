//! The files that say what a drive and a volume are, written once when they are formatted.

use std::cmp::Ordering;

use crate::codec::{Reader, Sink};
use crate::copies::{self, COPIES_SIZE, Decoded, HeaderError};
use crate::damage::Damage;
use crate::file::{check_file_length, file_length};
use crate::id::{ClusterId, DriveId, PG_COUNT_MAX, VolumeId};

/// Bytes of a format file: two copies of 4 KiB.
pub const FORMAT_FILE_SIZE: usize = COPIES_SIZE;

const DRIVE_MAGIC: &[u8; 8] = b"OSTRKDRV";
const VOLUME_MAGIC: &[u8; 8] = b"OSTRKVOL";

/// What a data directory is. Its volumes have the indexes
/// `first_volume .. first_volume + volume_count` on their node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DriveFormat {
    pub cluster: ClusterId,
    pub drive: DriveId,
    /// At least 1.
    pub volume_count: u16,
    pub first_volume: u16,
    /// Placement groups of the cluster; a power of two.
    pub pg_count: u32,
    /// Bytes of each segment file; a multiple of the block size.
    pub segment_file_length: u64,
    /// Unix milliseconds, for people; nothing is ordered by it.
    pub created_ms: u64,
}

impl DriveFormat {
    /// Fills both copies. Panics if the values are not ones a reader accepts.
    pub fn encode(&self, out: &mut [u8; FORMAT_FILE_SIZE]) {
        assert_eq!(check_file_length(self.segment_file_length), Ok(()));
        assert_eq!(self.check_counts(), Ok(()));
        copies::encode(DRIVE_MAGIC, out, |sink| {
            sink.put(&self.cluster.0);
            sink.put(&self.drive.0);
            sink.put_u64(self.segment_file_length);
            sink.put_u64(self.created_ms);
            sink.put_u32(self.pg_count);
            sink.put_u16(self.volume_count);
            sink.put_u16(self.first_volume);
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<DriveFormat, Damage> {
        let format = DriveFormat {
            cluster: ClusterId(reader.array()?),
            drive: DriveId(reader.array()?),
            segment_file_length: file_length(reader)?,
            created_ms: reader.u64()?,
            pg_count: reader.u32()?,
            volume_count: reader.u16()?,
            first_volume: reader.u16()?,
        };
        format.check_counts()?;
        Ok(format)
    }

    fn check_counts(&self) -> Result<(), Damage> {
        if !self.pg_count.is_power_of_two() || self.pg_count > PG_COUNT_MAX {
            return Err(Damage::OutOfRange {
                field: "placement group count",
                value: u64::from(self.pg_count),
            });
        }
        if self.volume_count == 0 || self.first_volume.checked_add(self.volume_count).is_none() {
            return Err(Damage::OutOfRange {
                field: "volume count",
                value: u64::from(self.volume_count),
            });
        }
        Ok(())
    }
}

/// What a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VolumeFormat {
    pub cluster: ClusterId,
    pub drive: DriveId,
    pub volume: VolumeId,
    /// Index of the volume on its node.
    pub volume_index: u16,
    /// Bytes of each segment file; a multiple of the block size.
    pub segment_file_length: u64,
}

impl VolumeFormat {
    /// Fills both copies. Panics if the values are not ones a reader accepts.
    pub fn encode(&self, out: &mut [u8; FORMAT_FILE_SIZE]) {
        assert_eq!(check_file_length(self.segment_file_length), Ok(()));
        copies::encode(VOLUME_MAGIC, out, |sink| {
            sink.put(&self.cluster.0);
            sink.put(&self.drive.0);
            sink.put(&self.volume.0);
            sink.put_u64(self.segment_file_length);
            sink.put_u16(self.volume_index);
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<VolumeFormat, Damage> {
        Ok(VolumeFormat {
            cluster: ClusterId(reader.array()?),
            drive: DriveId(reader.array()?),
            volume: VolumeId(reader.array()?),
            segment_file_length: file_length(reader)?,
            volume_index: reader.u16()?,
        })
    }
}

pub fn decode_drive_format(bytes: &[u8]) -> Result<Decoded<DriveFormat>, HeaderError> {
    copies::decode(DRIVE_MAGIC, sized(bytes)?, DriveFormat::read, neither)
}

pub fn decode_volume_format(bytes: &[u8]) -> Result<Decoded<VolumeFormat>, HeaderError> {
    copies::decode(VOLUME_MAGIC, sized(bytes)?, VolumeFormat::read, neither)
}

/// A format file is never rewritten with other content, so neither copy can be the newer one.
fn neither<T>(_: &T, _: &T) -> Ordering {
    Ordering::Equal
}

fn sized(bytes: &[u8]) -> Result<&[u8; FORMAT_FILE_SIZE], Damage> {
    bytes.try_into().map_err(|_| {
        if bytes.len() < FORMAT_FILE_SIZE {
            Damage::Truncated {
                needed: FORMAT_FILE_SIZE as u64,
                had: bytes.len() as u64,
            }
        } else {
            Damage::TrailingBytes {
                extra: (bytes.len() - FORMAT_FILE_SIZE) as u64,
            }
        }
    })
}
