//! The replicated commands of a placement group: payloads of METADATA records.
//!
//! A record is its version, its type, fixed fields in order, and, where the set of properties
//! grows, optional fields as (tag, length, value) with ascending tags. Decoding borrows from the
//! payload; it allocates only for repeated fields. An inline body is the last thing in its
//! record, so that it is one slice on disk and in memory.

use crate::KEY_LENGTH_MAX;
use crate::codec::{Reader, Sink, utf8};
use crate::damage::Damage;
use crate::id::{BucketId, ChunkIndex, Epoch, Hlc, ObjectId, Scheme};
use crate::upload::{
    CreateUpload, EndUpload, Part, PartPlacement, PutPart, read_part_placements, read_parts,
    write_part_placements, write_parts,
};

const VERSION: u8 = 1;

const PUT_VERSION: u8 = 1;
const DELETE_VERSION: u8 = 2;
const PUT_BUCKET: u8 = 3;
const DELETE_BUCKET: u8 = 4;
const FENCE_BUCKET: u8 = 5;
const ABORT_OBJECT: u8 = 6;
const FREE_DONE: u8 = 7;
const NO_OP: u8 = 8;
const CREATE_UPLOAD: u8 = 9;
const PUT_PART: u8 = 10;
const END_UPLOAD: u8 = 11;

/// Why a payload whose checksum is right is not a record for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    #[error("record version {found} is unknown, {known} is known")]
    UnknownVersion { found: u32, known: u32 },
    #[error("record type {found} is unknown")]
    UnknownType { found: u8 },
    #[error("field {tag} is unknown")]
    UnknownField { tag: u16 },
    #[error("record is damaged: {0}")]
    Damaged(#[from] Damage),
}

/// A value does not fit the format. The output is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("{field} has {length} bytes or items; {min} to {max} fit")]
    Length {
        field: &'static str,
        length: usize,
        min: usize,
        max: usize,
    },
    /// The state a value describes cannot be written, for example an unknown codec.
    #[error("{field} is not valid")]
    Invalid { field: &'static str },
}

/// A command, applied in the order of its group's log.
#[allow(clippy::large_enum_variant)] // lives on the stack while it is applied; a box would be an allocation a record
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetadataRecord<'a> {
    PutVersion(PutVersion<'a>),
    DeleteVersion(DeleteVersion<'a>),
    PutBucket(PutBucket<'a>),
    DeleteBucket {
        name: &'a str,
        bucket: BucketId,
    },
    /// The group refuses (or accepts again) writes to the bucket.
    FenceBucket {
        bucket: BucketId,
        fenced: bool,
    },
    /// A later put of the object id is refused, so its shards may be freed.
    AbortObject {
        object: ObjectId,
    },
    /// Every volume has freed the object's shards durably.
    FreeDone {
        object: ObjectId,
    },
    /// A leader's first entry.
    NoOp,
    CreateUpload(CreateUpload<'a>),
    PutPart(PutPart<'a>),
    EndUpload(EndUpload<'a>),
}

/// Which version of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum VersionId {
    /// The one version of an unversioned or suspended bucket.
    Null,
    Hlc(Hlc),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Etag<'a> {
    /// Of a plain object: the MD5 of its bytes.
    Md5([u8; 16]),
    /// As the client sees it, without quotes (multipart: `hex-N`); at most 255 bytes.
    Text(&'a str),
    /// Of a delete marker.
    None,
}

/// Evaluated when the command is applied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Condition<'a> {
    None,
    /// `If-None-Match: *`: the key has no current object.
    IfNoneMatchAny,
    IfMatch(Etag<'a>),
    IfNoneMatch(Etag<'a>),
    /// `If-Match: *`: the key has a current object.
    IfMatchAny,
}

/// Where the bytes of a version are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Body<'a> {
    /// In this record.
    Inline(&'a [u8]),
    /// In segments, in this many chunks.
    Chunks(u32),
    /// There are none: the version hides the ones below it.
    DeleteMarker,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutVersion<'a> {
    pub bucket: BucketId,
    /// 1 to [`KEY_LENGTH_MAX`] bytes.
    pub key: &'a [u8],
    pub version: VersionId,
    pub object: ObjectId,
    /// Bytes of the object as the client sees it.
    pub size: u64,
    pub etag: Etag<'a>,
    /// Unix milliseconds.
    pub modified_ms: u64,
    pub scheme: Scheme,
    /// The cluster map that placed the chunks.
    pub epoch: Epoch,
    /// Canonical id; at most 255 bytes.
    pub owner: &'a str,
    pub condition: Condition<'a>,
    pub body: Body<'a>,
    pub fields: VersionFields<'a>,
}

/// Removes one version for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteVersion<'a> {
    pub bucket: BucketId,
    /// 1 to [`KEY_LENGTH_MAX`] bytes.
    pub key: &'a [u8],
    pub version: VersionId,
    pub condition: Condition<'a>,
}

/// What a version may have. Absent and empty are different for `Option`s and the same for lists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionFields<'a> {
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    pub content_language: Option<&'a [u8]>,
    pub content_disposition: Option<&'a [u8]>,
    pub cache_control: Option<&'a [u8]>,
    pub expires: Option<&'a [u8]>,
    /// Names without `x-amz-meta-`, and values.
    pub user_metadata: Vec<(&'a [u8], &'a [u8])>,
    pub tags: Vec<(&'a str, &'a str)>,
    pub retention: Option<Retention>,
    pub legal_hold: Option<bool>,
    pub storage_class: Option<&'a [u8]>,
    pub encryption: Option<Encryption<'a>>,
    pub checksum: Option<ObjectChecksum<'a>>,
    /// The table of the parts' checksums.
    pub part_checksums: Option<PageTable>,
    /// The table of the parts.
    pub part_table: Option<PageTable>,
    /// Ascending by chunk: the shards that were not durable when the put was acknowledged.
    pub missing_roles: Vec<MissingRoles>,
    pub website_redirect: Option<&'a [u8]>,
    /// Of a completed upload: ascending by number.
    pub parts: Vec<Part<'a>>,
    /// Ascending by first: of parts that are spread otherwise than by the version's scheme and epoch.
    pub part_placements: Vec<PartPlacement>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RetentionMode {
    Governance = 1,
    Compliance = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Retention {
    pub mode: RetentionMode,
    /// Unix milliseconds.
    pub until_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EncryptionAlgorithm {
    /// SSE-S3: AES-256-GCM under a key of the store.
    StoreKey = 1,
    /// SSE-KMS.
    Kms = 2,
    /// SSE-C: the client's key; `key_id` holds its MD5, nothing is wrapped.
    ClientKey = 3,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Encryption<'a> {
    pub algorithm: EncryptionAlgorithm,
    pub key_id: &'a [u8],
    pub wrapped_key: &'a [u8],
    /// At most 255 bytes.
    pub iv: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ChecksumAlgorithm {
    Crc32 = 1,
    Crc32c = 2,
    Crc64Nvme = 3,
    Sha1 = 4,
    Sha256 = 5,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ChecksumType {
    FullObject = 1,
    Composite = 2,
}

/// The additional checksum a client asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectChecksum<'a> {
    pub algorithm: ChecksumAlgorithm,
    pub kind: ChecksumType,
    /// Raw, not base64.
    pub value: &'a [u8],
}

/// A table too large for a record: the bytes of an object id of its own, in the scheme and epoch
/// of the version. Named by id and not by extents, so that moving its shards touches no metadata.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageTable {
    pub object: ObjectId,
    pub entry_count: u32,
    pub page_count: u32,
    /// Bytes.
    pub length: u64,
    /// CRC32C of all of it.
    pub crc: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MissingRoles {
    pub chunk: ChunkIndex,
    /// Bit `r` is role `r`; never zero.
    pub roles: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BucketState {
    Active = 1,
    Deleting = 2,
}

/// Creates a bucket or replaces all of its configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutBucket<'a> {
    /// At most 255 bytes, as `owner` and `region`.
    pub name: &'a str,
    pub bucket: BucketId,
    pub owner: &'a str,
    pub created: Hlc,
    pub region: &'a str,
    pub state: BucketState,
    pub fields: BucketFields<'a>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BucketFields<'a> {
    /// `None`: never versioned.
    pub versioning: Option<Versioning>,
    pub object_lock: Option<ObjectLock>,
    pub tags: Vec<(&'a str, &'a str)>,
    /// `None`: strict.
    pub durability: Option<Durability>,
    /// `None`: the cluster's.
    pub scheme: Option<Scheme>,
    /// Ascending by kind.
    pub documents: Vec<(BucketDocument, &'a [u8])>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Versioning {
    Enabled = 1,
    Suspended = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Durability {
    /// A 200 means durable.
    Strict = 1,
    Batched = 2,
    None = 3,
}

/// Object lock is on for the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectLock {
    pub default_retention: Option<DefaultRetention>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DefaultRetention {
    pub mode: RetentionMode,
    pub period: RetentionPeriod,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RetentionPeriod {
    Days(u32),
    Years(u32),
}

/// A piece of bucket configuration that is kept as the client wrote it. The numbers are its field
/// tags.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum BucketDocument {
    Lifecycle = 32,
    Policy = 33,
    Cors = 34,
    Encryption = 35,
    Website = 36,
    Notification = 37,
    Logging = 38,
    Acl = 39,
    PublicAccessBlock = 40,
    OwnershipControls = 41,
    Replication = 42,
}

impl BucketDocument {
    pub const ALL: [BucketDocument; 11] = [
        BucketDocument::Lifecycle,
        BucketDocument::Policy,
        BucketDocument::Cors,
        BucketDocument::Encryption,
        BucketDocument::Website,
        BucketDocument::Notification,
        BucketDocument::Logging,
        BucketDocument::Acl,
        BucketDocument::PublicAccessBlock,
        BucketDocument::OwnershipControls,
        BucketDocument::Replication,
    ];

    fn from_tag(tag: u16) -> Option<BucketDocument> {
        BucketDocument::ALL
            .into_iter()
            .find(|document| *document as u16 == tag)
    }
}

impl<'a> MetadataRecord<'a> {
    /// Appends the record to `out`. On an error `out` is as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        unchanged_on_error(out, |out| self.write(out))
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(VERSION);
        match self {
            MetadataRecord::PutVersion(put) => {
                out.put_u8(PUT_VERSION);
                put.write(out)?;
                out.put(put.body.inline());
            }
            MetadataRecord::DeleteVersion(delete) => {
                out.put_u8(DELETE_VERSION);
                out.put_u64(delete.bucket.0);
                put_key(out, delete.key)?;
                delete.version.write(out);
                delete.condition.write(out)?;
            }
            MetadataRecord::PutBucket(put) => {
                out.put_u8(PUT_BUCKET);
                put.write(out)?;
            }
            MetadataRecord::DeleteBucket { name, bucket } => {
                out.put_u8(DELETE_BUCKET);
                put_bytes8(out, "bucket name", name.as_bytes())?;
                out.put_u64(bucket.0);
            }
            MetadataRecord::FenceBucket { bucket, fenced } => {
                out.put_u8(FENCE_BUCKET);
                out.put_u64(bucket.0);
                out.put_u8(u8::from(*fenced));
            }
            MetadataRecord::AbortObject { object } => {
                out.put_u8(ABORT_OBJECT);
                out.put(&object.0);
            }
            MetadataRecord::FreeDone { object } => {
                out.put_u8(FREE_DONE);
                out.put(&object.0);
            }
            MetadataRecord::NoOp => out.put_u8(NO_OP),
            MetadataRecord::CreateUpload(create) => {
                out.put_u8(CREATE_UPLOAD);
                create.write(out)?;
            }
            MetadataRecord::PutPart(part) => {
                out.put_u8(PUT_PART);
                part.write(out)?;
            }
            MetadataRecord::EndUpload(end) => {
                out.put_u8(END_UPLOAD);
                end.write(out)?;
            }
        }
        Ok(())
    }

    pub fn decode(bytes: &'a [u8]) -> Result<MetadataRecord<'a>, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(RecordError::UnknownVersion {
                found: u32::from(version),
                known: u32::from(VERSION),
            });
        }
        let record = match reader.u8()? {
            PUT_VERSION => MetadataRecord::PutVersion(PutVersion::read(&mut reader)?),
            DELETE_VERSION => MetadataRecord::DeleteVersion(DeleteVersion {
                bucket: BucketId(reader.u64()?),
                key: read_key(&mut reader)?,
                version: VersionId::read(&mut reader)?,
                condition: Condition::read(&mut reader)?,
            }),
            PUT_BUCKET => MetadataRecord::PutBucket(PutBucket::read(&mut reader)?),
            DELETE_BUCKET => MetadataRecord::DeleteBucket {
                name: reader.str8("bucket name")?,
                bucket: BucketId(reader.u64()?),
            },
            FENCE_BUCKET => MetadataRecord::FenceBucket {
                bucket: BucketId(reader.u64()?),
                fenced: match reader.u8()? {
                    0 => false,
                    1 => true,
                    other => return Err(out_of_range("fenced", other).into()),
                },
            },
            ABORT_OBJECT => MetadataRecord::AbortObject {
                object: ObjectId(reader.array()?),
            },
            FREE_DONE => MetadataRecord::FreeDone {
                object: ObjectId(reader.array()?),
            },
            NO_OP => MetadataRecord::NoOp,
            CREATE_UPLOAD => MetadataRecord::CreateUpload(CreateUpload::read(&mut reader)?),
            PUT_PART => MetadataRecord::PutPart(PutPart::read(&mut reader)?),
            END_UPLOAD => MetadataRecord::EndUpload(EndUpload::read(&mut reader)?),
            0 => return Err(out_of_range("record type", 0).into()),
            found => return Err(RecordError::UnknownType { found }),
        };
        reader.end()?;
        Ok(record)
    }
}

impl<'a> PutVersion<'a> {
    /// Appends the record without its inline body, which the caller puts right behind it. On an
    /// error `out` is as it was.
    pub fn encode_without_body(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        unchanged_on_error(out, |out| {
            out.put_u8(VERSION);
            out.put_u8(PUT_VERSION);
            self.write(out)
        })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u64(self.bucket.0);
        put_key(out, self.key)?;
        self.version.write(out);
        out.put(&self.object.0);
        out.put_u64(self.size);
        self.etag.write(out)?;
        out.put_u64(self.modified_ms);
        put_scheme(out, self.scheme)?;
        out.put_u32(self.epoch.0);
        put_bytes8(out, "owner", self.owner.as_bytes())?;
        self.condition.write(out)?;
        match self.body {
            Body::Inline(body) => {
                out.put_u8(1);
                out.put_u32(bounded("body", body.len(), 0, u32::MAX as usize)? as u32);
            }
            Body::Chunks(count) => {
                out.put_u8(2);
                out.put_u32(count);
            }
            Body::DeleteMarker => {
                out.put_u8(3);
                out.put_u32(0);
            }
        }
        length_prefixed(out, |out| self.fields.write(out))
    }

    fn read(reader: &mut Reader<'a>) -> Result<PutVersion<'a>, RecordError> {
        let bucket = BucketId(reader.u64()?);
        let key = read_key(reader)?;
        let version = VersionId::read(reader)?;
        let object = ObjectId(reader.array()?);
        let size = reader.u64()?;
        let etag = Etag::read(reader)?;
        let modified_ms = reader.u64()?;
        let scheme = Scheme::read(reader)?;
        let epoch = Epoch(reader.u32()?);
        let owner = reader.str8("owner")?;
        let condition = Condition::read(reader)?;
        let body_kind = reader.u8()?;
        let body_value = reader.u32()?;
        let fields = VersionFields::read(reader.bytes32()?)?;
        let body = match (body_kind, body_value) {
            (1, len) => Body::Inline(reader.take(len as usize)?),
            (2, count) => Body::Chunks(count),
            (3, 0) => Body::DeleteMarker,
            (other, _) => return Err(out_of_range("body", other).into()),
        };
        Ok(PutVersion {
            bucket,
            key,
            version,
            object,
            size,
            etag,
            modified_ms,
            scheme,
            epoch,
            owner,
            condition,
            body,
            fields,
        })
    }
}

impl<'a> Body<'a> {
    /// The bytes at the end of the record; empty unless inline.
    pub fn inline(&self) -> &'a [u8] {
        match self {
            Body::Inline(body) => body,
            Body::Chunks(_) | Body::DeleteMarker => &[],
        }
    }
}

impl VersionId {
    fn write(self, out: &mut Vec<u8>) {
        let (kind, hlc) = match self {
            VersionId::Null => (1, 0),
            VersionId::Hlc(hlc) => (2, hlc.0),
        };
        out.put_u8(kind);
        out.put_u64(hlc);
    }

    fn read(reader: &mut Reader<'_>) -> Result<VersionId, Damage> {
        let kind = reader.u8()?;
        match (kind, reader.u64()?) {
            (1, 0) => Ok(VersionId::Null),
            (2, hlc) => Ok(VersionId::Hlc(Hlc(hlc))),
            _ => Err(out_of_range("version id", kind)),
        }
    }
}

impl<'a> Etag<'a> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Etag::Md5(md5) => {
                out.put_u8(1);
                out.put(md5);
            }
            Etag::Text(text) => {
                out.put_u8(2);
                put_bytes8(out, "etag", text.as_bytes())?;
            }
            Etag::None => out.put_u8(3),
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'a>) -> Result<Etag<'a>, Damage> {
        match reader.u8()? {
            1 => Ok(Etag::Md5(reader.array()?)),
            2 => Ok(Etag::Text(reader.str8("etag")?)),
            3 => Ok(Etag::None),
            other => Err(out_of_range("etag", other)),
        }
    }
}

impl<'a> Condition<'a> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Condition::None => out.put_u8(1),
            Condition::IfNoneMatchAny => out.put_u8(2),
            Condition::IfMatch(etag) => {
                out.put_u8(3);
                etag.write(out)?;
            }
            Condition::IfNoneMatch(etag) => {
                out.put_u8(4);
                etag.write(out)?;
            }
            Condition::IfMatchAny => out.put_u8(5),
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'a>) -> Result<Condition<'a>, Damage> {
        match reader.u8()? {
            1 => Ok(Condition::None),
            2 => Ok(Condition::IfNoneMatchAny),
            3 => Ok(Condition::IfMatch(Etag::read(reader)?)),
            4 => Ok(Condition::IfNoneMatch(Etag::read(reader)?)),
            5 => Ok(Condition::IfMatchAny),
            other => Err(out_of_range("condition", other)),
        }
    }
}

/// Tags of [`VersionFields`]. Never reused.
mod version_tag {
    pub const CONTENT_TYPE: u16 = 1;
    pub const CONTENT_ENCODING: u16 = 2;
    pub const CONTENT_LANGUAGE: u16 = 3;
    pub const CONTENT_DISPOSITION: u16 = 4;
    pub const CACHE_CONTROL: u16 = 5;
    pub const EXPIRES: u16 = 6;
    pub const USER_METADATA: u16 = 7;
    pub const TAGS: u16 = 8;
    pub const RETENTION: u16 = 9;
    pub const LEGAL_HOLD: u16 = 10;
    pub const STORAGE_CLASS: u16 = 11;
    pub const ENCRYPTION: u16 = 12;
    pub const CHECKSUM: u16 = 13;
    pub const PART_CHECKSUMS: u16 = 14;
    pub const PART_TABLE: u16 = 15;
    pub const MISSING_ROLES: u16 = 16;
    pub const WEBSITE_REDIRECT: u16 = 17;
    pub const PARTS: u16 = 18;
    pub const PART_PLACEMENTS: u16 = 19;
}

impl<'a> VersionFields<'a> {
    /// In the order of the tags.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        use version_tag as tag;
        put_bytes_field(out, tag::CONTENT_TYPE, self.content_type)?;
        put_bytes_field(out, tag::CONTENT_ENCODING, self.content_encoding)?;
        put_bytes_field(out, tag::CONTENT_LANGUAGE, self.content_language)?;
        put_bytes_field(out, tag::CONTENT_DISPOSITION, self.content_disposition)?;
        put_bytes_field(out, tag::CACHE_CONTROL, self.cache_control)?;
        put_bytes_field(out, tag::EXPIRES, self.expires)?;
        put_pairs_field(out, tag::USER_METADATA, self.user_metadata.iter().copied())?;
        let tags = self.tags.iter();
        put_pairs_field(
            out,
            tag::TAGS,
            tags.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        )?;
        if let Some(retention) = &self.retention {
            put_field(out, tag::RETENTION, |out| {
                out.put_u8(retention.mode as u8);
                out.put_u64(retention.until_ms);
                Ok(())
            })?;
        }
        if let Some(on) = self.legal_hold {
            put_bytes_field(out, tag::LEGAL_HOLD, Some(&[if on { 1 } else { 2 }]))?;
        }
        put_bytes_field(out, tag::STORAGE_CLASS, self.storage_class)?;
        if let Some(encryption) = &self.encryption {
            put_field(out, tag::ENCRYPTION, |out| {
                out.put_u8(encryption.algorithm as u8);
                put_bytes16(out, "encryption key id", encryption.key_id)?;
                put_bytes16(out, "wrapped key", encryption.wrapped_key)?;
                put_bytes8(out, "encryption iv", encryption.iv)
            })?;
        }
        if let Some(checksum) = &self.checksum {
            put_field(out, tag::CHECKSUM, |out| checksum.write(out))?;
        }
        if let Some(table) = &self.part_checksums {
            put_field(out, tag::PART_CHECKSUMS, |out| table.write(out))?;
        }
        if let Some(table) = &self.part_table {
            put_field(out, tag::PART_TABLE, |out| table.write(out))?;
        }
        if !self.missing_roles.is_empty() {
            put_field(out, tag::MISSING_ROLES, |out| {
                write_missing_roles(out, &self.missing_roles)
            })?;
        }
        put_bytes_field(out, tag::WEBSITE_REDIRECT, self.website_redirect)?;
        if !self.parts.is_empty() {
            put_field(out, tag::PARTS, |out| write_parts(out, &self.parts))?;
        }
        if !self.part_placements.is_empty() {
            put_field(out, tag::PART_PLACEMENTS, |out| {
                write_part_placements(out, &self.part_placements)
            })?;
        }
        Ok(())
    }

    pub(crate) fn read(bytes: &'a [u8]) -> Result<VersionFields<'a>, RecordError> {
        use version_tag as tag;
        let mut fields = VersionFields::default();
        let mut tagged = TaggedFields::new(bytes);
        while let Some((tag, value)) = tagged.next()? {
            let mut reader = Reader::new(value);
            match tag {
                tag::CONTENT_TYPE => fields.content_type = Some(reader.rest()),
                tag::CONTENT_ENCODING => fields.content_encoding = Some(reader.rest()),
                tag::CONTENT_LANGUAGE => fields.content_language = Some(reader.rest()),
                tag::CONTENT_DISPOSITION => fields.content_disposition = Some(reader.rest()),
                tag::CACHE_CONTROL => fields.cache_control = Some(reader.rest()),
                tag::EXPIRES => fields.expires = Some(reader.rest()),
                tag::USER_METADATA => fields.user_metadata = read_pairs(&mut reader, Ok)?,
                tag::TAGS => fields.tags = read_pairs(&mut reader, |text| utf8(text, "tag"))?,
                tag::RETENTION => {
                    fields.retention = Some(Retention {
                        mode: RetentionMode::from_number(reader.u8()?)?,
                        until_ms: reader.u64()?,
                    });
                }
                tag::LEGAL_HOLD => {
                    fields.legal_hold = match reader.u8()? {
                        1 => Some(true),
                        2 => Some(false),
                        other => return Err(out_of_range("legal hold", other).into()),
                    };
                }
                tag::STORAGE_CLASS => fields.storage_class = Some(reader.rest()),
                tag::ENCRYPTION => fields.encryption = Some(Encryption::read(&mut reader)?),
                tag::CHECKSUM => fields.checksum = Some(ObjectChecksum::read(&mut reader)?),
                tag::PART_CHECKSUMS => fields.part_checksums = Some(PageTable::read(&mut reader)?),
                tag::PART_TABLE => fields.part_table = Some(PageTable::read(&mut reader)?),
                tag::MISSING_ROLES => fields.missing_roles = read_missing_roles(&mut reader)?,
                tag::WEBSITE_REDIRECT => fields.website_redirect = Some(reader.rest()),
                tag::PARTS => fields.parts = read_parts(&mut reader)?,
                tag::PART_PLACEMENTS => fields.part_placements = read_part_placements(&mut reader)?,
                tag => return Err(RecordError::UnknownField { tag }),
            }
            reader.end()?;
        }
        Ok(fields)
    }
}

impl RetentionMode {
    fn from_number(number: u8) -> Result<RetentionMode, Damage> {
        match number {
            1 => Ok(RetentionMode::Governance),
            2 => Ok(RetentionMode::Compliance),
            other => Err(out_of_range("retention mode", other)),
        }
    }
}

impl<'a> Encryption<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Encryption<'a>, Damage> {
        Ok(Encryption {
            algorithm: match reader.u8()? {
                1 => EncryptionAlgorithm::StoreKey,
                2 => EncryptionAlgorithm::Kms,
                3 => EncryptionAlgorithm::ClientKey,
                other => return Err(out_of_range("encryption algorithm", other)),
            },
            key_id: reader.bytes16()?,
            wrapped_key: reader.bytes16()?,
            iv: reader.bytes8()?,
        })
    }
}

impl ChecksumAlgorithm {
    pub(crate) fn from_number(number: u8) -> Result<ChecksumAlgorithm, Damage> {
        match number {
            1 => Ok(ChecksumAlgorithm::Crc32),
            2 => Ok(ChecksumAlgorithm::Crc32c),
            3 => Ok(ChecksumAlgorithm::Crc64Nvme),
            4 => Ok(ChecksumAlgorithm::Sha1),
            5 => Ok(ChecksumAlgorithm::Sha256),
            other => Err(out_of_range("checksum algorithm", other)),
        }
    }
}

impl ChecksumType {
    pub(crate) fn from_number(number: u8) -> Result<ChecksumType, Damage> {
        match number {
            1 => Ok(ChecksumType::FullObject),
            2 => Ok(ChecksumType::Composite),
            other => Err(out_of_range("checksum type", other)),
        }
    }
}

impl<'a> ObjectChecksum<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put_u8(self.algorithm as u8);
        out.put_u8(self.kind as u8);
        put_bytes8(out, "checksum", self.value)
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<ObjectChecksum<'a>, Damage> {
        Ok(ObjectChecksum {
            algorithm: ChecksumAlgorithm::from_number(reader.u8()?)?,
            kind: ChecksumType::from_number(reader.u8()?)?,
            value: reader.bytes8()?,
        })
    }
}

impl PageTable {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.put(&self.object.0);
        out.put_u32(self.entry_count);
        out.put_u32(self.page_count);
        out.put_u64(self.length);
        out.put_u32(self.crc);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<PageTable, Damage> {
        Ok(PageTable {
            object: ObjectId(reader.array()?),
            entry_count: reader.u32()?,
            page_count: reader.u32()?,
            length: reader.u64()?,
            crc: reader.u32()?,
        })
    }
}

pub(crate) fn write_missing_roles(
    out: &mut Vec<u8>,
    list: &[MissingRoles],
) -> Result<(), EncodeError> {
    let mut previous = None;
    for missing in list {
        if missing.roles == 0 || previous >= Some(missing.chunk) {
            return Err(EncodeError::Invalid {
                field: "missing roles",
            });
        }
        previous = Some(missing.chunk);
        out.put_u32(missing.chunk.0);
        out.put_u64(missing.roles);
    }
    Ok(())
}

pub(crate) fn read_missing_roles(reader: &mut Reader<'_>) -> Result<Vec<MissingRoles>, Damage> {
    const ITEM_SIZE: usize = 12;
    let mut list: Vec<MissingRoles> = Vec::with_capacity(reader.left() / ITEM_SIZE);
    while list.is_empty() || reader.left() > 0 {
        let missing = MissingRoles {
            chunk: ChunkIndex(reader.u32()?),
            roles: reader.u64()?,
        };
        let ascending = list.last().is_none_or(|last| last.chunk < missing.chunk);
        if missing.roles == 0 || !ascending {
            return Err(Damage::OutOfRange {
                field: "missing roles",
                value: missing.roles,
            });
        }
        list.push(missing);
    }
    Ok(list)
}

impl<'a> PutBucket<'a> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_bytes8(out, "bucket name", self.name.as_bytes())?;
        out.put_u64(self.bucket.0);
        put_bytes8(out, "owner", self.owner.as_bytes())?;
        out.put_u64(self.created.0);
        put_bytes8(out, "region", self.region.as_bytes())?;
        out.put_u8(self.state as u8);
        length_prefixed(out, |out| self.fields.write(out))
    }

    fn read(reader: &mut Reader<'a>) -> Result<PutBucket<'a>, RecordError> {
        Ok(PutBucket {
            name: reader.str8("bucket name")?,
            bucket: BucketId(reader.u64()?),
            owner: reader.str8("owner")?,
            created: Hlc(reader.u64()?),
            region: reader.str8("region")?,
            state: match reader.u8()? {
                1 => BucketState::Active,
                2 => BucketState::Deleting,
                other => return Err(out_of_range("bucket state", other).into()),
            },
            fields: BucketFields::read(reader.bytes32()?)?,
        })
    }
}

/// Tags of [`BucketFields`] besides those of [`BucketDocument`]. Never reused.
mod bucket_tag {
    pub const VERSIONING: u16 = 1;
    pub const OBJECT_LOCK: u16 = 2;
    pub const TAGS: u16 = 3;
    pub const DURABILITY: u16 = 4;
    pub const SCHEME: u16 = 5;
}

impl<'a> BucketFields<'a> {
    /// In the order of the tags.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        use bucket_tag as tag;
        if let Some(versioning) = self.versioning {
            put_bytes_field(out, tag::VERSIONING, Some(&[versioning as u8]))?;
        }
        if let Some(lock) = &self.object_lock {
            put_field(out, tag::OBJECT_LOCK, |out| {
                lock.write(out);
                Ok(())
            })?;
        }
        let tags = self.tags.iter();
        put_pairs_field(
            out,
            tag::TAGS,
            tags.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        )?;
        if let Some(durability) = self.durability {
            put_bytes_field(out, tag::DURABILITY, Some(&[durability as u8]))?;
        }
        if let Some(scheme) = self.scheme {
            put_field(out, tag::SCHEME, |out| put_scheme(out, scheme))?;
        }
        let mut previous = None;
        for (document, bytes) in &self.documents {
            if previous >= Some(*document) {
                return Err(EncodeError::Invalid {
                    field: "order of bucket documents",
                });
            }
            previous = Some(*document);
            put_bytes_field(out, *document as u16, Some(bytes))?;
        }
        Ok(())
    }

    fn read(bytes: &'a [u8]) -> Result<BucketFields<'a>, RecordError> {
        use bucket_tag as tag;
        let mut fields = BucketFields::default();
        let mut tagged = TaggedFields::new(bytes);
        while let Some((tag, value)) = tagged.next()? {
            let mut reader = Reader::new(value);
            match tag {
                tag::VERSIONING => {
                    fields.versioning = Some(match reader.u8()? {
                        1 => Versioning::Enabled,
                        2 => Versioning::Suspended,
                        other => return Err(out_of_range("versioning", other).into()),
                    });
                }
                tag::OBJECT_LOCK => fields.object_lock = Some(ObjectLock::read(&mut reader)?),
                tag::TAGS => fields.tags = read_pairs(&mut reader, |text| utf8(text, "tag"))?,
                tag::DURABILITY => {
                    fields.durability = Some(match reader.u8()? {
                        1 => Durability::Strict,
                        2 => Durability::Batched,
                        3 => Durability::None,
                        other => return Err(out_of_range("durability", other).into()),
                    });
                }
                tag::SCHEME => fields.scheme = Some(Scheme::read(&mut reader)?),
                tag => match BucketDocument::from_tag(tag) {
                    Some(document) => fields.documents.push((document, reader.rest())),
                    None => return Err(RecordError::UnknownField { tag }),
                },
            }
            reader.end()?;
        }
        Ok(fields)
    }
}

impl ObjectLock {
    fn write(&self, out: &mut Vec<u8>) {
        match &self.default_retention {
            None => out.put_u8(1),
            Some(DefaultRetention { mode, period }) => {
                out.put_u8(2);
                out.put_u8(*mode as u8);
                let (unit, count) = match period {
                    RetentionPeriod::Days(days) => (1, *days),
                    RetentionPeriod::Years(years) => (2, *years),
                };
                out.put_u8(unit);
                out.put_u32(count);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<ObjectLock, Damage> {
        let default_retention = match reader.u8()? {
            1 => None,
            2 => {
                let mode = RetentionMode::from_number(reader.u8()?)?;
                let unit = reader.u8()?;
                let count = reader.u32()?;
                let period = match unit {
                    1 => RetentionPeriod::Days(count),
                    2 => RetentionPeriod::Years(count),
                    other => return Err(out_of_range("retention unit", other)),
                };
                Some(DefaultRetention { mode, period })
            }
            other => return Err(out_of_range("object lock", other)),
        };
        Ok(ObjectLock { default_retention })
    }
}

/// Walks (tag, length, value) with strictly ascending tags.
struct TaggedFields<'a> {
    reader: Reader<'a>,
    /// Tag 0 is reserved, so it stands for "none yet".
    last: u16,
}

impl<'a> TaggedFields<'a> {
    fn new(bytes: &'a [u8]) -> TaggedFields<'a> {
        TaggedFields {
            reader: Reader::new(bytes),
            last: 0,
        }
    }

    fn next(&mut self) -> Result<Option<(u16, &'a [u8])>, Damage> {
        if self.reader.left() == 0 {
            return Ok(None);
        }
        let tag = self.reader.u16()?;
        if tag <= self.last {
            return Err(Damage::FieldOrder { tag });
        }
        self.last = tag;
        Ok(Some((tag, self.reader.bytes32()?)))
    }
}

fn read_pairs<'a, T>(
    reader: &mut Reader<'a>,
    convert: impl Fn(&'a [u8]) -> Result<T, Damage>,
) -> Result<Vec<(T, T)>, Damage> {
    /// Two lengths.
    const PAIR_SIZE_MIN: usize = 4;
    let count = usize::from(reader.u16()?);
    // An empty list has no field: one value has one encoding.
    if count == 0 || count > reader.left() / PAIR_SIZE_MIN {
        return Err(Damage::OutOfRange {
            field: "pair count",
            value: count as u64,
        });
    }
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((convert(reader.bytes16()?)?, convert(reader.bytes16()?)?));
    }
    Ok(pairs)
}

pub(crate) fn read_key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Damage> {
    let key = reader.bytes16()?;
    if key.is_empty() || key.len() > KEY_LENGTH_MAX {
        return Err(Damage::OutOfRange {
            field: "key length",
            value: key.len() as u64,
        });
    }
    Ok(key)
}

pub(crate) fn out_of_range(field: &'static str, value: u8) -> Damage {
    Damage::OutOfRange {
        field,
        value: u64::from(value),
    }
}

fn unchanged_on_error(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    write(out).inspect_err(|_| out.truncate(start))
}

pub(crate) fn bounded(
    field: &'static str,
    length: usize,
    min: usize,
    max: usize,
) -> Result<usize, EncodeError> {
    if (min..=max).contains(&length) {
        Ok(length)
    } else {
        Err(EncodeError::Length {
            field,
            length,
            min,
            max,
        })
    }
}

pub(crate) fn put_key(out: &mut Vec<u8>, key: &[u8]) -> Result<(), EncodeError> {
    bounded("key", key.len(), 1, KEY_LENGTH_MAX)?;
    put_bytes16(out, "key", key)
}

pub(crate) fn put_bytes8(
    out: &mut Vec<u8>,
    field: &'static str,
    bytes: &[u8],
) -> Result<(), EncodeError> {
    out.put_u8(bounded(field, bytes.len(), 0, u8::MAX as usize)? as u8);
    out.put(bytes);
    Ok(())
}

fn put_bytes16(out: &mut Vec<u8>, field: &'static str, bytes: &[u8]) -> Result<(), EncodeError> {
    out.put_u16(bounded(field, bytes.len(), 0, u16::MAX as usize)? as u16);
    out.put(bytes);
    Ok(())
}

pub(crate) fn put_scheme(out: &mut Vec<u8>, scheme: Scheme) -> Result<(), EncodeError> {
    let bytes = [scheme.k, scheme.m, scheme.codec];
    if Scheme::read(&mut Reader::new(&bytes)).is_err() {
        return Err(EncodeError::Invalid { field: "scheme" });
    }
    out.put(&bytes);
    Ok(())
}

/// Writes what `write` appends behind its length as u32.
pub(crate) fn length_prefixed(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let at = out.len();
    out.put_u32(0);
    write(out)?;
    let length = bounded("fields", out.len() - at - 4, 0, u32::MAX as usize)?;
    out[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

fn put_field(
    out: &mut Vec<u8>,
    tag: u16,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    out.put_u16(tag);
    length_prefixed(out, write)
}

fn put_bytes_field(out: &mut Vec<u8>, tag: u16, value: Option<&[u8]>) -> Result<(), EncodeError> {
    match value {
        None => Ok(()),
        Some(value) => put_field(out, tag, |out| {
            out.put(value);
            Ok(())
        }),
    }
}

/// Writes the field unless there are no pairs.
fn put_pairs_field<'p>(
    out: &mut Vec<u8>,
    tag: u16,
    pairs: impl ExactSizeIterator<Item = (&'p [u8], &'p [u8])>,
) -> Result<(), EncodeError> {
    if pairs.len() == 0 {
        return Ok(());
    }
    put_field(out, tag, |out| {
        out.put_u16(bounded("pairs", pairs.len(), 1, u16::MAX as usize)? as u16);
        for (name, value) in pairs {
            put_bytes16(out, "name", name)?;
            put_bytes16(out, "value", value)?;
        }
        Ok(())
    })
}
