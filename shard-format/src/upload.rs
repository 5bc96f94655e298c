//! Commands of multipart uploads, and the list of parts that a completed object carries.
//!
//! An upload is completed by a put of its object: a PUT_VERSION whose object id is the upload's. Its parts keep their
//! bytes where they are, under ids of their own that share the upload's first twelve bytes, so that all of them can be
//! freed by the upload's id alone.

use crate::codec::{Reader, Sink};
use crate::damage::Damage;
use crate::id::{BucketId, Epoch, ObjectId, Scheme};
use crate::metadata::{
    ChecksumAlgorithm, ChecksumType, EncodeError, MissingRoles, ObjectChecksum, RecordError,
    VersionFields, bounded, length_prefixed, out_of_range, put_bytes8, put_key, put_scheme,
    read_key, read_missing_roles, write_missing_roles,
};

/// Highest number of a part, and the most parts of an object.
pub const PART_NUMBER_MAX: u16 = 10_000;

/// Begins an upload. Its fields are those that the object will have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateUpload<'a> {
    pub bucket: BucketId,
    pub key: &'a [u8],
    pub upload: ObjectId,
    /// Unix milliseconds.
    pub initiated_ms: u64,
    /// Canonical id; at most 255 bytes.
    pub owner: &'a str,
    /// The checksum that every part must have.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
    pub fields: VersionFields<'a>,
}

/// A part whose bytes are durable. Replaces an earlier one of its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutPart<'a> {
    pub bucket: BucketId,
    pub key: &'a [u8],
    pub upload: ObjectId,
    /// 1 to [`PART_NUMBER_MAX`].
    pub number: u16,
    /// Belongs to the upload.
    pub object: ObjectId,
    pub size: u64,
    pub md5: [u8; 16],
    /// Unix milliseconds.
    pub modified_ms: u64,
    pub scheme: Scheme,
    pub epoch: Epoch,
    /// Over the part's bytes.
    pub checksum: Option<ObjectChecksum<'a>>,
    /// Ascending by chunk.
    pub missing_roles: Vec<MissingRoles>,
}

/// Why an upload is no more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum UploadEnd {
    /// Its parts go.
    Aborted = 1,
    /// It was completed, and the time in which completing it again is answered is over.
    Forgotten = 2,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndUpload<'a> {
    pub bucket: BucketId,
    pub key: &'a [u8],
    pub upload: ObjectId,
    pub end: UploadEnd,
}

/// A part of a completed object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Part<'a> {
    pub number: u16,
    /// What its id has in place of the upload's last 31 bits.
    pub attempt: u32,
    pub size: u64,
    /// Raw, of the algorithm of the object's checksum; empty without one.
    pub checksum: &'a [u8],
}

/// How parts of a completed upload are spread that are not as the version is: from the part at `first` of the list to the
/// next entry's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PartPlacement {
    pub first: u16,
    pub scheme: Scheme,
    pub epoch: Epoch,
}

pub(crate) fn write_part_placements(
    out: &mut Vec<u8>,
    list: &[PartPlacement],
) -> Result<(), EncodeError> {
    if !list.is_sorted_by(|a, b| a.first < b.first) {
        return Err(EncodeError::Invalid {
            field: "part placements",
        });
    }
    for placement in list {
        out.put_u16(placement.first);
        put_scheme(out, placement.scheme)?;
        out.put_u32(placement.epoch.0);
    }
    Ok(())
}

pub(crate) fn read_part_placements(reader: &mut Reader<'_>) -> Result<Vec<PartPlacement>, Damage> {
    let mut list: Vec<PartPlacement> = Vec::new();
    while list.is_empty() || reader.left() > 0 {
        let placement = PartPlacement {
            first: reader.u16()?,
            scheme: Scheme::read(reader)?,
            epoch: Epoch(reader.u32()?),
        };
        if list
            .last()
            .is_some_and(|last| last.first >= placement.first)
        {
            return Err(Damage::OutOfRange {
                field: "part placements",
                value: u64::from(placement.first),
            });
        }
        list.push(placement);
    }
    Ok(list)
}

impl<'a> CreateUpload<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64(self.bucket.0);
        put_key(out, self.key)?;
        out.put(&self.upload.0);
        out.put_u64(self.initiated_ms);
        put_bytes8(out, "owner", self.owner.as_bytes())?;
        match self.checksum {
            None => out.put(&[0, 0]),
            Some((algorithm, kind)) => out.put(&[algorithm as u8, kind as u8]),
        }
        length_prefixed(out, |out| self.fields.write(out))
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<CreateUpload<'a>, RecordError> {
        Ok(CreateUpload {
            bucket: BucketId(reader.u64()?),
            key: read_key(reader)?,
            upload: read_upload(reader)?,
            initiated_ms: reader.u64()?,
            owner: reader.str8("owner")?,
            checksum: match (reader.u8()?, reader.u8()?) {
                (0, 0) => None,
                (algorithm, kind) => Some((
                    ChecksumAlgorithm::from_number(algorithm)?,
                    ChecksumType::from_number(kind)?,
                )),
            },
            fields: VersionFields::read(reader.bytes32()?)?,
        })
    }
}

impl<'a> PutPart<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        bounded(
            "part number",
            usize::from(self.number),
            1,
            PART_NUMBER_MAX.into(),
        )?;
        out.put_u64(self.bucket.0);
        put_key(out, self.key)?;
        out.put(&self.upload.0);
        out.put_u16(self.number);
        out.put(&self.object.0);
        out.put_u64(self.size);
        out.put(&self.md5);
        out.put_u64(self.modified_ms);
        put_scheme(out, self.scheme)?;
        out.put_u32(self.epoch.0);
        let (summed, missing) = (self.checksum.is_some(), !self.missing_roles.is_empty());
        out.put_u8(u8::from(summed) | u8::from(missing) << 1);
        if let Some(checksum) = &self.checksum {
            checksum.write(out)?;
        }
        if missing {
            length_prefixed(out, |out| write_missing_roles(out, &self.missing_roles))?;
        }
        Ok(())
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<PutPart<'a>, RecordError> {
        let bucket = BucketId(reader.u64()?);
        let key = read_key(reader)?;
        let upload = read_upload(reader)?;
        let number = read_number(reader)?;
        let object = ObjectId(reader.array()?);
        if object.upload() != Some(upload) || object.is_upload() {
            return Err(out_of_range("part's object id", object.0[12]).into());
        }
        let (size, md5, modified_ms) = (reader.u64()?, reader.array()?, reader.u64()?);
        let (scheme, epoch) = (Scheme::read(reader)?, Epoch(reader.u32()?));
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(out_of_range("flags of a part", flags).into());
        }
        let checksum = match flags & 1 {
            0 => None,
            _ => Some(ObjectChecksum::read(reader)?),
        };
        let missing_roles = match flags & 2 {
            0 => Vec::new(),
            _ => {
                let mut list = Reader::new(reader.bytes32()?);
                read_missing_roles(&mut list)?
            }
        };
        Ok(PutPart {
            bucket,
            key,
            upload,
            number,
            object,
            size,
            md5,
            modified_ms,
            scheme,
            epoch,
            checksum,
            missing_roles,
        })
    }
}

impl<'a> EndUpload<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64(self.bucket.0);
        put_key(out, self.key)?;
        out.put(&self.upload.0);
        out.put_u8(self.end as u8);
        Ok(())
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<EndUpload<'a>, RecordError> {
        Ok(EndUpload {
            bucket: BucketId(reader.u64()?),
            key: read_key(reader)?,
            upload: read_upload(reader)?,
            end: match reader.u8()? {
                1 => UploadEnd::Aborted,
                2 => UploadEnd::Forgotten,
                other => return Err(out_of_range("upload's end", other).into()),
            },
        })
    }
}

fn read_upload(reader: &mut Reader<'_>) -> Result<ObjectId, Damage> {
    let upload = ObjectId(reader.array()?);
    if upload.is_upload() {
        Ok(upload)
    } else {
        Err(out_of_range("upload id", upload.0[12]))
    }
}

fn read_number(reader: &mut Reader<'_>) -> Result<u16, Damage> {
    match reader.u16()? {
        number @ 1..=PART_NUMBER_MAX => Ok(number),
        other => Err(Damage::OutOfRange {
            field: "part number",
            value: other.into(),
        }),
    }
}

/// The parts of a completed object: ascending by number, at least one.
pub(crate) fn write_parts(out: &mut Vec<u8>, parts: &[Part<'_>]) -> Result<(), EncodeError> {
    let mut previous = 0;
    for part in parts {
        if part.number <= previous
            || part.number > PART_NUMBER_MAX
            || !(1..1 << 31).contains(&part.attempt)
        {
            return Err(EncodeError::Invalid { field: "parts" });
        }
        previous = part.number;
        out.put_u16(part.number);
        out.put_u32(part.attempt);
        out.put_u64(part.size);
        put_bytes8(out, "checksum", part.checksum)?;
    }
    Ok(())
}

pub(crate) fn read_parts<'a>(reader: &mut Reader<'a>) -> Result<Vec<Part<'a>>, Damage> {
    /// Without a checksum.
    const PART_BYTES_MIN: usize = 2 + 4 + 8 + 1;
    let mut parts: Vec<Part<'a>> = Vec::with_capacity(reader.left() / PART_BYTES_MIN);
    while parts.is_empty() || reader.left() > 0 {
        let part = Part {
            number: read_number(reader)?,
            attempt: reader.u32()?,
            size: reader.u64()?,
            checksum: reader.bytes8()?,
        };
        let ascending = parts.last().is_none_or(|last| last.number < part.number);
        if !ascending || !(1..1 << 31).contains(&part.attempt) {
            return Err(Damage::OutOfRange {
                field: "parts",
                value: part.number.into(),
            });
        }
        parts.push(part);
    }
    Ok(parts)
}
