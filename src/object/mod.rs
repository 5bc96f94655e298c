//! Objects and buckets: what the S3 layer calls.
//!
//! [`ObjectStore`] is what `s3` is written against; [`Store`] is the store, the tests of `s3` have one in memory.
//!
//! ```text
//!   put   body ─ 1 MiB pieces ─ MD5, segment checksums ─ chunk's volume (bulk) ─ flush ─┐
//!         └ up to INLINE_BODY_MAX: in the record itself ────────────────────────────────┴─ propose to the key's group
//!   get   key's group ─ record ─ inline body, or fetch pieces ahead from the chunks' volumes
//!   list  every volume's share, merged
//! ```
#![allow(async_fn_in_trait)] // One core, one thread: no future here has to be `Send`.

use crate::rt::Buf;
use std::fmt;

mod bucket;
mod get;
mod put;
mod store;
mod upkeep;

pub use self::{get::Reader, store::Store, upkeep::run_upkeep};
pub use shard_format::BucketId;

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
pub struct Etag(pub [u8; 16]);

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
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
}

#[derive(Clone, Debug)]
pub struct PutDone {
    pub etag: Etag,
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
}

/// A request's body, decoded. Implemented by the front, drained by the store.
pub trait Body {
    /// Decoded bytes, known before the first of them comes.
    fn length(&self) -> u64;

    /// Receives into `buf[at..upto]` until it is full or the body ends; returns the new end, which
    /// is `upto` unless the body ended. Does not change the buffer's length. After an error the
    /// body is of no more use.
    async fn fill(&mut self, buf: Buf, at: usize, upto: usize) -> Result<(Buf, usize), BodyError>;

    /// Verifies what only the end can show: signatures, trailers, hashes. Called once, after
    /// [`Self::length`] bytes and before the commit.
    async fn finish(&mut self) -> Result<(), BodyError>;
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
    async fn delete_bucket(&self, name: &str) -> Result<(), StoreError>;

    async fn put<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        body: &mut B,
    ) -> Result<PutDone, StoreError>;
    async fn head(&self, bucket: &BucketInfo, key: &[u8]) -> Result<ObjectInfo, StoreError>;
    async fn get(&self, bucket: &BucketInfo, key: &[u8]) -> Result<Self::Reader, StoreError>;
    /// An absent key is deleted already.
    async fn delete(&self, bucket: &BucketInfo, key: &[u8]) -> Result<(), StoreError>;
    async fn list(&self, bucket: &BucketInfo, request: ListRequest)
    -> Result<ListPage, StoreError>;

    /// Whether requests can be served; `/minio/health/ready` says so.
    fn ready(&self) -> bool;
}
