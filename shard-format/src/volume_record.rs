//! The local facts of a volume: payloads of VOLUME records.

use crate::codec::{Reader, Sink};
use crate::damage::Damage;
use crate::id::{DriveId, Generation, Hlc, Incarnation, ObjectId, PgId};
use crate::metadata::RecordError;

const VERSION: u8 = 1;

const REFUSED: u8 = 1;
const SHARDS_FREED: u8 = 2;
// 3 is not used: a floor is a batch without records.
const MOUNTED: u8 = 4;
// 10..=19 are kept for Raft: HardState, ConfState, truncation.

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VolumeRecord {
    /// Outcome of a conditional command: it was not applied, whatever a replay would find.
    Refused {
        pg: PgId,
        index: u64,
        hlc: Hlc,
        /// Generation of the file that holds the refused command.
        generation: Generation,
    },
    /// This volume holds no live shard of the object any more.
    ShardsFreed { object: ObjectId },
    /// A process took the volume.
    Mounted {
        incarnation: Incarnation,
        drive: DriveId,
    },
}

impl VolumeRecord {
    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        match self {
            VolumeRecord::Refused {
                pg,
                index,
                hlc,
                generation,
            } => {
                out.put_u8(REFUSED);
                out.put_u16(pg.0);
                out.put_u64(*index);
                out.put_u64(hlc.0);
                out.put_u64(generation.0);
            }
            VolumeRecord::ShardsFreed { object } => {
                out.put_u8(SHARDS_FREED);
                out.put(&object.0);
            }
            VolumeRecord::Mounted { incarnation, drive } => {
                out.put_u8(MOUNTED);
                out.put_u64(incarnation.0);
                out.put(&drive.0);
            }
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<VolumeRecord, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(RecordError::UnknownVersion {
                found: u32::from(version),
                known: u32::from(VERSION),
            });
        }
        let record = match reader.u8()? {
            REFUSED => VolumeRecord::Refused {
                pg: PgId(reader.u16()?),
                index: reader.u64()?,
                hlc: Hlc(reader.u64()?),
                generation: Generation(reader.u64()?),
            },
            SHARDS_FREED => VolumeRecord::ShardsFreed {
                object: ObjectId(reader.array()?),
            },
            MOUNTED => VolumeRecord::Mounted {
                incarnation: Incarnation(reader.u64()?),
                drive: DriveId(reader.array()?),
            },
            0 => {
                return Err(Damage::OutOfRange {
                    field: "record type",
                    value: 0,
                }
                .into());
            }
            found => return Err(RecordError::UnknownType { found }),
        };
        reader.end()?;
        Ok(record)
    }
}
