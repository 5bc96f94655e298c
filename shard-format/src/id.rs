//! The newtypes that name things on disk.

use std::fmt;

use crate::codec::Reader;
use crate::damage::Damage;

macro_rules! number {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

macro_rules! identity {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

identity! {
    /// Chosen when the cluster is formed.
    ClusterId;
    /// Chosen when a drive's data directory is formatted.
    DriveId;
    /// Chosen when a volume is formatted; never reused.
    VolumeId;
    /// Names one object version's (or one part's) bytes. Bytes 0..4 are the top 32 bits of the
    /// key hash and 4..12 the HLC at creation, both big-endian; 12..16 are random.
    ObjectId;
}

number! {
    /// A segment file of one volume.
    FileNumber(u32);
    /// Volume-unique; grows with each activation and each freeing of a segment file.
    Generation(u64);
    /// Order of the batches of one head. Starts at 1; 0 means "none".
    BatchSeq(u64);
    /// A volume's order of records; never reused, not comparable across volumes.
    Lsn(u64);
    /// Hybrid logical clock: 48 bits of Unix milliseconds, 16 bits of counter.
    Hlc(u64);
    /// Position of a chunk in its object.
    ChunkIndex(u32);
    /// Column of a stripe: data segments 0..k, then parity k..k+m.
    Role(u8);
    /// Position of a segment in its shard (its stripe's position in the chunk).
    SegmentIndex(u16);
    /// A placement group; [`PgId::SYSTEM`] is the system group.
    PgId(u16);
    /// A bucket; never reused.
    BucketId(u64);
    /// One start of the process over a volume.
    Incarnation(u64);
    /// Version of the cluster map.
    Epoch(u32);
}

impl Hlc {
    /// `ms` keeps its low 48 bits.
    pub const fn new(ms: u64, counter: u16) -> Hlc {
        Hlc((ms << 16) | counter as u64)
    }

    /// Unix milliseconds.
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    pub const fn counter(self) -> u16 {
        self.0 as u16
    }
}

/// Set in the 13th byte of the ids of uploads and their parts.
const OF_UPLOAD: u8 = 0x80;

impl ObjectId {
    /// `random` keeps its low 31 bits: the highest says that the id belongs to an upload.
    pub fn new(key_hash32: u32, hlc: Hlc, random: [u8; 4]) -> ObjectId {
        let mut id = [0; 16];
        id[0..4].copy_from_slice(&key_hash32.to_be_bytes());
        id[4..12].copy_from_slice(&hlc.0.to_be_bytes());
        id[12..16].copy_from_slice(&random);
        id[12] &= !OF_UPLOAD;
        ObjectId(id)
    }

    /// The id of a multipart upload, and of the object that it becomes. Ids of its parts share the first 97 bits, so
    /// that whatever has shards leads back to its upload.
    pub fn of_upload(key_hash32: u32, hlc: Hlc) -> ObjectId {
        let mut id = ObjectId::new(key_hash32, hlc, [0; 4]);
        id.0[12] = OF_UPLOAD;
        id
    }

    /// The id of a part of this upload. No two attempts at parts of one upload have the same number.
    ///
    /// Panics if this is not an upload's id, or the attempt is not in 1..2³¹.
    pub fn part(self, attempt: u32) -> ObjectId {
        assert!(self.is_upload() && (1..1 << 31).contains(&attempt));
        let mut id = self;
        id.0[12..].copy_from_slice(&(u32::from(OF_UPLOAD) << 24 | attempt).to_be_bytes());
        id
    }

    /// The upload that the id belongs to, its own included; `None` for a plain object.
    pub fn upload(self) -> Option<ObjectId> {
        (self.0[12] & OF_UPLOAD != 0).then(|| ObjectId::of_upload(self.key_hash32(), self.hlc()))
    }

    pub fn is_upload(self) -> bool {
        self.upload() == Some(self)
    }

    /// The attempt of a part's id.
    pub fn attempt(self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a & !OF_UPLOAD, b, c, d])
    }

    /// The top 32 bits of `hash(bucket id, key)`.
    pub fn key_hash32(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The HLC at creation.
    pub fn hlc(self) -> Hlc {
        let [_, _, _, _, a, b, c, d, e, f, g, h, ..] = self.0;
        Hlc(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The most placement groups: a power of two whose ids stay below [`PgId::SYSTEM`].
pub const PG_COUNT_MAX: u32 = 1 << 15;
const _: () = assert!(PG_COUNT_MAX <= PgId::SYSTEM.0 as u32);

impl PgId {
    /// The group of cluster map, bucket names and users.
    pub const SYSTEM: PgId = PgId(0xFFFF);

    /// The group of a key: the top `log2(pg_count)` bits of its hash.
    ///
    /// Panics unless `pg_count` is a power of two of at most [`PG_COUNT_MAX`]: format files are
    /// refused otherwise.
    pub fn of_key_hash(key_hash32: u32, pg_count: u32) -> PgId {
        assert!(pg_count.is_power_of_two() && pg_count <= PG_COUNT_MAX);
        PgId((u64::from(key_hash32) >> (32 - pg_count.ilog2())) as u16)
    }
}

/// How a chunk is spread: `k` data and `m` parity segments per stripe, computed by `codec`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Scheme {
    pub k: u8,
    pub m: u8,
    pub codec: u8,
}

impl Scheme {
    /// ISA-L's Cauchy matrix over GF(2⁸), polynomial 0x11d; XOR for m = 1, copies for k = 1.
    pub const CODEC_CAUCHY_8: u8 = 1;
    /// Reed-Solomon over GF(2¹⁶) as in reed-solomon-simd.
    pub const CODEC_RS_16: u8 = 2;
    /// One copy, no parity.
    pub const PLAIN: Scheme = Scheme {
        k: 1,
        m: 0,
        codec: Scheme::CODEC_CAUCHY_8,
    };

    /// The most roles: one bit each in a bitmap of missing roles.
    pub const WIDTH_MAX: u16 = 64;
    /// The most roles of codec 1.
    pub const CAUCHY_WIDTH_MAX: u16 = 32;

    /// The most roles of a codec; none of an unknown one.
    pub const fn width_max(codec: u8) -> u16 {
        match codec {
            Scheme::CODEC_CAUCHY_8 => Scheme::CAUCHY_WIDTH_MAX,
            Scheme::CODEC_RS_16 => Scheme::WIDTH_MAX,
            _ => 0,
        }
    }

    /// Number of roles, k + m.
    pub const fn width(self) -> u16 {
        self.k as u16 + self.m as u16
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Scheme, Damage> {
        let scheme = Scheme {
            k: reader.u8()?,
            m: reader.u8()?,
            codec: reader.u8()?,
        };
        let width_max = Scheme::width_max(scheme.codec);
        if width_max == 0 {
            return Err(Damage::OutOfRange {
                field: "codec",
                value: u64::from(scheme.codec),
            });
        }
        if scheme.k == 0 || scheme.width() > width_max {
            return Err(Damage::OutOfRange {
                field: "scheme",
                value: u64::from(scheme.k) << 8 | u64::from(scheme.m),
            });
        }
        Ok(scheme)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)?;
        match self.codec {
            Scheme::CODEC_CAUCHY_8 => Ok(()),
            other => write!(f, "/codec {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_id_gives_back_what_it_was_made_of() {
        let hlc = Hlc::new(0x0000_0192_1234_5678, 0xABCD);
        let id = ObjectId::new(0xDEAD_BEEF, hlc, [1, 2, 3, 4]);
        assert_eq!(id.key_hash32(), 0xDEAD_BEEF);
        assert_eq!(id.hlc(), hlc);
        assert_eq!(hlc.ms(), 0x0000_0192_1234_5678);
        assert_eq!(hlc.counter(), 0xABCD);
        assert_eq!(id.to_string(), "deadbeef019212345678abcd01020304");
    }

    #[test]
    fn parts_lead_to_their_upload() {
        let hlc = Hlc::new(0x0000_0192_1234_5678, 0xABCD);
        let upload = ObjectId::of_upload(0xDEAD_BEEF, hlc);
        assert!(upload.is_upload());
        for attempt in [1, 0x0102_0304, (1 << 31) - 1] {
            let part = upload.part(attempt);
            assert!(!part.is_upload());
            assert_eq!(part.upload(), Some(upload));
            assert_eq!(part.attempt(), attempt);
            assert_eq!(part.hlc(), hlc);
        }
        assert_eq!(ObjectId::new(0xDEAD_BEEF, hlc, [0xFF; 4]).upload(), None);
    }

    #[test]
    fn placement_group_is_the_top_bits() {
        assert_eq!(PgId::of_key_hash(0xFFFF_FFFF, 1), PgId(0));
        assert_eq!(PgId::of_key_hash(0xFFFF_FFFF, 256), PgId(255));
        assert_eq!(PgId::of_key_hash(0x0100_0000, 256), PgId(1));
        assert_eq!(PgId::of_key_hash(0xFFFF_FFFF, PG_COUNT_MAX), PgId(32767));
    }

    #[test]
    fn schemes_of_every_width() {
        let decode = |bytes: [u8; 3]| Scheme::read(&mut Reader::new(&bytes));
        for [k, m, codec] in [[1, 0, 1], [24, 8, 1], [1, 31, 1], [32, 0, 1], [60, 4, 2]] {
            assert_eq!(decode([k, m, codec]), Ok(Scheme { k, m, codec }));
        }
        for bytes in [[0, 1, 1], [0, 0, 2], [24, 9, 1], [60, 5, 2], [255, 255, 2]] {
            let value = u64::from(bytes[0]) << 8 | u64::from(bytes[1]);
            let field = "scheme";
            assert_eq!(decode(bytes), Err(Damage::OutOfRange { field, value }));
        }
        for codec in [0, 3] {
            let (field, value) = ("codec", u64::from(codec));
            assert_eq!(
                decode([4, 2, codec]),
                Err(Damage::OutOfRange { field, value })
            );
        }
    }
}
