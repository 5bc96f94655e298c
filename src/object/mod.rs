//! Objects and buckets: what the S3 layer calls.
//!
//! [`ObjectStore`] is what `s3` is written against; [`Store`] is the store, the tests of `s3` have one in memory.
//!
//! ```text
//!   put   body ─ 1 MiB pieces ─ MD5, segment checksums ─ chunk's volume (bulk) ─ flush ─┐
//!         └ up to INLINE_BODY_MAX: in the record itself ────────────────────────────────┴─ propose to the key's group
//!   get   key's group ─ record ─ inline body, or fetch pieces ahead from the chunks' volumes
//!   list  every volume's share, merged
//!   parts like puts, each under an object id of its own; completing an upload is one record that lists them
//! ```
#![allow(async_fn_in_trait)] // One core, one thread: no future here has to be `Send`.

use crate::rt::Buf;
use checksum::Checksum;
use std::fmt;

mod bucket;
pub mod checksum;
mod gather;
mod get;
mod layout;
mod multipart;
mod put;
mod repair;
mod spread;
mod store;
#[cfg(test)]
mod tests;
mod upkeep;

pub use self::{
    get::Reader,
    repair::Repaired,
    spread::durable_shards,
    store::Store,
    upkeep::{ask_about_orphans, free_some, run_upkeep},
};
pub use shard_format::{BucketId, PART_NUMBER_MAX};

#[derive(Clone, Debug)]
pub struct BucketInfo {
    pub name: String,
    pub id: BucketId,
    /// Canonical id of the user who made it.
    pub owner: String,
    pub created_ms: u64,
    pub region: String,
}

/// Identifies an object's content to clients. Printed without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag {
    /// Of the bytes; of the parts' MD5s if there are parts.
    pub md5: [u8; 16],
    /// Parts of a multipart upload; 0 for a plain object.
    pub parts: u16,
}

impl Etag {
    pub const fn plain(md5: [u8; 16]) -> Etag {
        Etag { md5, parts: 0 }
    }

    /// As it is printed, with or without quotes.
    pub fn parse(text: &str) -> Option<Etag> {
        let text = text
            .strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
            .unwrap_or(text);
        let (hex, parts) = match text.split_once('-') {
            Some((hex, parts)) => {
                let digits = !parts.starts_with(['0', '+']);
                (hex, parts.parse().ok().filter(|_| digits)?)
            }
            None => (text, 0),
        };
        let digits: &[u8; 32] = hex.as_bytes().try_into().ok()?;
        let mut md5 = [0; 16];
        for (byte, pair) in md5.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| (d as char).to_digit(16).map(|d| d as u8);
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Etag { md5, parts })
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.md5
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

/// When a write may take effect. Evaluated when the write is applied, so it is linearizable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    None,
    /// `If-None-Match: *`: there is no object of the key.
    Absent,
    /// `If-Match: *`: there is one.
    Present,
    /// `If-Match`: there is one, and this is its tag.
    Etag(Etag),
}

/// What a client says about an object beside its bytes. Returned as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    pub expires: Option<String>,
    /// `x-amz-meta-*`: names in lower case without the prefix, in the order they came.
    pub user: Vec<(String, String)>,
    /// Canonical id of the user who wrote it.
    pub owner: String,
    /// `None` is STANDARD.
    pub storage_class: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ObjectInfo {
    pub size: u64,
    pub etag: Etag,
    pub modified_ms: u64,
    pub headers: ObjectHeaders,
    pub checksum: Option<(Checksum, checksum::Kind)>,
    /// Of a multipart upload, ascending; empty for a plain object.
    pub parts: Vec<PartInfo>,
}

/// A part of an object, or of an upload that is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartInfo {
    pub number: u16,
    pub size: u64,
    pub checksum: Option<Checksum>,
}

#[derive(Clone, Debug)]
pub struct PutDone {
    pub etag: Etag,
    pub modified_ms: u64,
    /// What is stored.
    pub checksum: Option<(Checksum, checksum::Kind)>,
}

/// Names an upload to clients: 32 hexadecimal digits. Means something only together with its bucket and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadId(pub [u8; 16]);

impl UploadId {
    pub fn parse(text: &[u8]) -> Option<UploadId> {
        let digits: &[u8; 32] = text.try_into().ok()?;
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| match d {
                b'0'..=b'9' => Some(d - b'0'),
                b'a'..=b'f' => Some(d - b'a' + 10),
                _ => None,
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(UploadId(id))
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An upload that is not complete.
#[derive(Clone, Debug)]
pub struct UploadInfo {
    pub id: UploadId,
    pub key: Vec<u8>,
    pub initiated_ms: u64,
    /// What the object will have; `owner` is who began the upload.
    pub headers: ObjectHeaders,
    /// The checksum that its parts must have.
    pub checksum: Option<(checksum::Algorithm, checksum::Kind)>,
}

/// A part of an upload that is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    pub info: PartInfo,
    pub md5: [u8; 16],
    pub modified_ms: u64,
}

#[derive(Clone, Debug)]
pub struct PartPage {
    pub upload: UploadInfo,
    /// Ascending by number.
    pub parts: Vec<UploadedPart>,
    pub truncated: bool,
}

/// A part as the client names it to complete an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedPart {
    pub number: u16,
    pub md5: [u8; 16],
    pub checksum: Option<Checksum>,
}

/// What completing an upload is asked for.
#[derive(Clone, Debug, Default)]
pub struct Completion {
    /// Strictly ascending by number, at least one.
    pub parts: Vec<CompletedPart>,
    pub condition: Condition,
    /// What the client says the object's checksum is.
    pub checksum: Option<Checksum>,
    pub kind: Option<checksum::Kind>,
    /// What the client says the object's size is.
    pub size: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct UploadsRequest {
    pub prefix: Vec<u8>,
    pub delimiter: Option<Vec<u8>>,
    /// Only what comes behind this key (or common prefix), or, with an upload, behind that upload of this key.
    pub after: Vec<u8>,
    pub after_upload: Option<UploadId>,
    pub max_uploads: usize,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // A page has at most 1,000, and nearly all are uploads.
pub enum UploadEntry {
    Upload(UploadInfo),
    /// A common prefix, its delimiter included.
    Prefix(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct UploadsPage {
    /// Ascending by key, uploads of one key by their begin; prefixes and uploads both count.
    pub entries: Vec<UploadEntry>,
    pub truncated: bool,
    /// `after` and `after_upload` of the next page.
    pub next_after: Vec<u8>,
    pub next_after_upload: Option<UploadId>,
}

#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    pub prefix: Vec<u8>,
    pub delimiter: Option<Vec<u8>>,
    /// Only what comes behind it; may be a common prefix.
    pub after: Vec<u8>,
    pub max_keys: usize,
}

#[derive(Clone, Debug)]
pub struct ListedObject {
    pub key: Vec<u8>,
    pub size: u64,
    pub etag: Etag,
    pub modified_ms: u64,
    pub owner: String,
    pub storage_class: Option<String>,
    pub checksum: Option<(checksum::Algorithm, checksum::Kind)>,
}

#[derive(Clone, Debug)]
pub enum ListEntry {
    Object(ListedObject),
    /// A common prefix, its delimiter included.
    Prefix(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct ListPage {
    /// Ascending; objects and prefixes both count against `max_keys`.
    pub entries: Vec<ListEntry>,
    pub truncated: bool,
    /// `after` of the next page.
    pub next_after: Vec<u8>,
}

/// Why a request's body did not come as announced. Nothing of it may become visible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client ended before the announced length.
    #[error("the body ended early")]
    Incomplete,
    #[error("the connection broke")]
    Io,
    #[error("the client was too slow")]
    Timeout,
    /// The framing of the body is broken.
    #[error("{0}")]
    Malformed(&'static str),
    #[error("{0}")]
    Trailer(&'static str),
    /// The signature of a chunk or of the trailers is wrong.
    #[error("a signature in the body is wrong")]
    Signature,
    #[error("the body does not have the signed SHA-256")]
    Sha256,
    #[error("the body does not have the announced MD5")]
    Md5,
    /// The named checksum differs.
    #[error("the body does not have the announced {0}")]
    Checksum(&'static str),
    #[error("a trailing checksum is not one")]
    ChecksumValue,
}

/// The answers of the store that are no success; `s3/error.rs` maps each to an S3 code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("no such bucket")]
    NoSuchBucket,
    #[error("no such key")]
    NoSuchKey,
    #[error("the bucket exists and belongs to {owner}")]
    BucketAlreadyExists { owner: String },
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The bucket is being created or deleted.
    #[error("the bucket is busy")]
    BucketBusy,
    /// A pool or queue is full.
    #[error("overloaded")]
    SlowDown,
    #[error("no space")]
    Full,
    #[error("unavailable: {reason}")]
    Unavailable { reason: String },
    #[error("unreadable: {what}")]
    Unreadable { what: String },
    #[error("read only: {reason}")]
    ReadOnly { reason: String },
    #[error("the body: {0}")]
    Body(#[from] BodyError),
    #[error("too large")]
    TooLarge,
    #[error("a precondition does not hold")]
    PreconditionFailed,
    /// Completed long ago, aborted, or never begun.
    #[error("no such upload")]
    NoSuchUpload,
    /// Not uploaded, or not as the client says.
    #[error("part {number} is not as named")]
    InvalidPart { number: u16 },
    /// Only the last part may be smaller than [`PART_SIZE_MIN`].
    #[error("part {number} is too small")]
    PartTooSmall { number: u16, size: u64 },
    /// The sum of the parts is not the size the client says.
    #[error("the size of the object is {size}")]
    SizeMismatch { size: u64 },
    /// What the client says of the whole object's checksum is not so.
    #[error("the checksum of the object differs")]
    ChecksumMismatch,
    /// The upload was begun with another kind of checksum.
    #[error("the upload has another kind of checksum")]
    ChecksumKind,
}

/// Smallest part but the last, as on AWS.
pub const PART_SIZE_MIN: u64 = 5 << 20;
/// Largest object of one put, and largest part: S3's 5 GiB.
pub const PUT_SIZE_MAX: u64 = 5 << 30;
/// Largest object, as S3 was for most of its life: 5 TiB.
pub const OBJECT_SIZE_MAX: u64 = 5 << 40;

/// A request's body, decoded. Implemented by the front, drained by the store.
pub trait Body {
    /// Decoded bytes, known before the first of them comes.
    fn length(&self) -> u64;

    /// Receives into `buf[at..upto]` until it is full or the body ends; returns the new end, which
    /// is `upto` unless the body ended. Does not change the buffer's length. After an error the
    /// body is of no more use.
    async fn fill(&mut self, buf: Buf, at: usize, upto: usize) -> Result<(Buf, usize), BodyError>;

    /// Called before a wait for anything but the client: gives back what other bodies are received with.
    fn settle(&mut self) {}

    /// Verifies what only the end can show: signatures, trailers, hashes. Called once, after
    /// [`Self::length`] bytes and before the commit.
    async fn finish(&mut self) -> Result<(), BodyError>;

    /// The checksum of the bytes that is to be stored with them. Asked for after [`Self::finish`].
    fn checksum(&self) -> Option<Checksum>;
}

/// An object being read.
pub trait ReadObject {
    fn info(&self) -> &ObjectInfo;

    /// Chooses the bytes `start..end` of the object; called at most once, before [`Self::next`].
    fn range(&mut self, start: u64, end: u64);

    /// The next piece, in order, at most 1 MiB; its `len()` is what counts. `None` at the end.
    async fn next(&mut self) -> Result<Option<Buf>, StoreError>;
}

/// One core's door to all objects. Cheap to clone.
pub trait ObjectStore: Clone + 'static {
    type Reader: ReadObject;

    async fn create_bucket(
        &self,
        name: &str,
        owner: &str,
        region: &str,
    ) -> Result<BucketInfo, StoreError>;
    async fn bucket(&self, name: &str) -> Result<BucketInfo, StoreError>;
    /// All buckets, sorted by name.
    async fn buckets(&self) -> Result<Vec<BucketInfo>, StoreError>;
    async fn delete_bucket(&self, bucket: &BucketInfo) -> Result<(), StoreError>;

    async fn put<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError>;
    async fn head(&self, bucket: &BucketInfo, key: &[u8]) -> Result<ObjectInfo, StoreError>;
    async fn get(&self, bucket: &BucketInfo, key: &[u8]) -> Result<Self::Reader, StoreError>;
    /// An absent key is deleted already, unless the condition says that there must be one.
    async fn delete(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        condition: Condition,
    ) -> Result<(), StoreError>;
    async fn list(&self, bucket: &BucketInfo, request: ListRequest)
    -> Result<ListPage, StoreError>;

    async fn create_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        checksum: Option<(checksum::Algorithm, checksum::Kind)>,
    ) -> Result<UploadId, StoreError>;
    async fn upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
    ) -> Result<UploadInfo, StoreError>;
    /// Stores part `number`, replacing an earlier one.
    async fn put_part<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        number: u16,
        body: &mut B,
    ) -> Result<UploadedPart, StoreError>;
    /// At most `max` parts with numbers above `after`.
    async fn parts(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartPage, StoreError>;
    /// Makes the parts one object. Doing so again answers the same, for a day.
    async fn complete_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        completion: Completion,
    ) -> Result<PutDone, StoreError>;
    async fn abort_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
    ) -> Result<(), StoreError>;
    async fn uploads(
        &self,
        bucket: &BucketInfo,
        request: UploadsRequest,
    ) -> Result<UploadsPage, StoreError>;

    /// Whether requests can be served; `/minio/health/ready` says so.
    fn ready(&self) -> bool;
}
