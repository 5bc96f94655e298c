//! The operations: an authenticated, routed request in, an answer out.

use crate::http::head::Head;
use crate::http::response::ResponseHead;
use crate::http::target::Query;
use crate::object::checksum::Algorithm;
use crate::object::{Body, BucketInfo, ObjectStore, StoreError};
use crate::rt::Buf;
use crate::rt::sync::{Permit, Semaphore};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::List;
use crate::s3::names::{Resource, is_bucket_name};
use crate::s3::route::Operation;
use crate::s3::users::{User, Users};
use crate::s3::xml::Document;

mod attributes;
mod bucket;
mod configuration;
mod copy;
mod delete_objects;
mod list;
mod multipart;
pub mod object;

#[cfg(test)]
pub use delete_objects::DELETE_DOCUMENT_SIZE_MAX;

/// Largest body of an operation that is neither an object nor a list of many things. The largest
/// that is known, `CreateBucketConfiguration`, is under 1 KiB.
const DOCUMENT_SIZE_MAX: u64 = 64 * 1024;

/// Buffer through which documents are received. Small, because slow clients hold one each.
const DOCUMENT_PIECE_SIZE: usize = 16 * 1024;

/// Bytes beyond [`DOCUMENT_SIZE_MAX`] that the documents in use on one core may have together: five
/// of the largest, or 200 that delete a thousand keys of 100 bytes. Who comes later is told to slow
/// down; waiting would let slow clients hold up all others.
const LARGE_DOCUMENT_BYTES_MAX: usize = 32 << 20;

const _: () =
    assert!(5 * delete_objects::DELETE_DOCUMENT_SIZE_MAX <= LARGE_DOCUMENT_BYTES_MAX as u64);
const _: () = assert!(multipart::COMPLETION_SIZE_MAX <= delete_objects::DELETE_DOCUMENT_SIZE_MAX);

/// Copies of at most this size do not wait behind larger ones.
const SMALL_COPY_SIZE_MAX: u64 = 1 << 20;

/// Copies of one core at a time. A copy holds buffers while it waits for buffers, which nothing else
/// does: without a bound the pool could be full of copies that wait for each other. A large one
/// holds at most 3 pieces that are written and 2 that are read, 5 MiB; a small one 2 MiB. That is
/// 36 MiB of the pool's 64.
const LARGE_COPIES_MAX: usize = 4;
const SMALL_COPIES_MAX: usize = 8;

/// What the requests of a core share, so that many of them together stay within its memory.
pub struct Limits {
    large_copies: Semaphore,
    small_copies: Semaphore,
    documents: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            large_copies: Semaphore::new(LARGE_COPIES_MAX),
            small_copies: Semaphore::new(SMALL_COPIES_MAX),
            documents: Semaphore::new(LARGE_DOCUMENT_BYTES_MAX),
        }
    }
}

/// A request whose sender is known.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// With the headers that a presigned request has in its query.
    pub head: &'a Head,
    pub query: &'a Query<'a>,
    pub resource: &'a Resource,
    pub user: &'a User,
    pub limits: &'a Limits,
    /// `http` or `https`: what the client would have to write to come here again.
    pub scheme: &'static str,
}

/// A body with the checks that clients ask for.
pub trait Upload: Body {
    /// [`Body::finish`] has succeeded.
    fn is_verified(&self) -> bool;

    /// The algorithm of the checksum that the client gives, or asks for.
    fn algorithm(&self) -> Option<Algorithm>;

    /// Has a checksum found where the client gives none. Before the first byte.
    fn compute(&mut self, algorithm: Algorithm);
}

/// What follows the head of an answer.
pub enum Content<R> {
    /// Nothing; `Content-Length` is in the head if it belongs there.
    None,
    /// All of it.
    Bytes(Vec<u8>),
    /// That many bytes of an object, from a reader whose range is set.
    Object(R, u64),
}

pub struct Answer<R> {
    pub head: ResponseHead,
    pub content: Content<R>,
}

impl<R> Answer<R> {
    fn empty(status: u16) -> Self {
        let content = if status == 204 {
            Content::None
        } else {
            Content::Bytes(Vec::new())
        };
        Self {
            head: ResponseHead::new(status),
            content,
        }
    }

    fn xml(bytes: Vec<u8>) -> Self {
        let mut head = ResponseHead::new(200);
        head.field("content-type", "application/xml");
        Self {
            head,
            content: Content::Bytes(bytes),
        }
    }
}

/// Runs `operation`. An operation without use for a body reads and verifies it first, so that a
/// request whose body is not what was signed changes nothing.
pub async fn run<S: ObjectStore, B: Upload>(
    store: &S,
    users: &Users,
    operation: Operation,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    check_version(request.query)?;
    match operation {
        Operation::PutObject => return object::put_object(store, request, body).await,
        Operation::UploadPart => return multipart::upload_part(store, request, body).await,
        Operation::CompleteMultipartUpload => {
            return multipart::complete(store, request, body).await;
        }
        Operation::DeleteObjects => return delete_objects::run(store, request, body).await,
        _ => {}
    }
    let document = whole_body(request.limits, body, DOCUMENT_SIZE_MAX)
        .await?
        .bytes;
    match operation {
        Operation::ListBuckets => bucket::list(store, users, request).await,
        Operation::CreateBucket => bucket::create(store, users, request, &document).await,
        Operation::HeadBucket => bucket::head(store, request).await,
        Operation::DeleteBucket => bucket::delete(store, request).await,
        Operation::GetBucketLocation => bucket::location(store, request).await,
        Operation::ListObjects => {
            list::objects(store, users, request, List::v1(request.query)).await
        }
        Operation::ListObjectsV2 => {
            list::objects(store, users, request, List::v2(request.query)).await
        }
        Operation::ListObjectVersions => {
            list::objects(store, users, request, List::versions(request.query)).await
        }
        Operation::ListMultipartUploads => list::uploads(store, users, request).await,
        Operation::GetBucketAbac
        | Operation::GetBucketAccelerateConfiguration
        | Operation::GetBucketAcl
        | Operation::PutBucketAcl
        | Operation::GetBucketAnalyticsConfiguration
        | Operation::DeleteBucketAnalyticsConfiguration
        | Operation::ListBucketAnalyticsConfigurations
        | Operation::GetBucketCors
        | Operation::DeleteBucketCors
        | Operation::GetBucketEncryption
        | Operation::DeleteBucketEncryption
        | Operation::GetBucketIntelligentTieringConfiguration
        | Operation::DeleteBucketIntelligentTieringConfiguration
        | Operation::ListBucketIntelligentTieringConfigurations
        | Operation::GetBucketInventoryConfiguration
        | Operation::DeleteBucketInventoryConfiguration
        | Operation::ListBucketInventoryConfigurations
        | Operation::GetBucketLifecycleConfiguration
        | Operation::DeleteBucketLifecycle
        | Operation::GetBucketLogging
        | Operation::GetBucketMetricsConfiguration
        | Operation::DeleteBucketMetricsConfiguration
        | Operation::ListBucketMetricsConfigurations
        | Operation::GetBucketNotificationConfiguration
        | Operation::GetBucketOwnershipControls
        | Operation::GetBucketPolicy
        | Operation::DeleteBucketPolicy
        | Operation::GetBucketPolicyStatus
        | Operation::GetBucketReplication
        | Operation::DeleteBucketReplication
        | Operation::GetBucketRequestPayment
        | Operation::GetBucketTagging
        | Operation::DeleteBucketTagging
        | Operation::GetBucketVersioning
        | Operation::GetBucketWebsite
        | Operation::DeleteBucketWebsite
        | Operation::GetObjectLockConfiguration
        | Operation::GetPublicAccessBlock
        | Operation::DeletePublicAccessBlock
        | Operation::GetObjectAcl
        | Operation::PutObjectAcl
        | Operation::GetObjectLegalHold
        | Operation::GetObjectRetention
        | Operation::GetObjectTagging
        | Operation::DeleteObjectTagging => {
            configuration::run(store, users, operation, request, &document).await
        }
        Operation::GetObject => object::get_object(store, request).await,
        Operation::HeadObject => object::head_object(store, request).await,
        Operation::DeleteObject => object::delete_object(store, request).await,
        Operation::CopyObject => copy::copy_object(store, request, &document).await,
        Operation::UploadPartCopy => copy::upload_part_copy(store, request, &document).await,
        Operation::GetObjectAttributes => attributes::attributes(store, request).await,
        Operation::CreateMultipartUpload => multipart::create(store, request).await,
        Operation::ListParts => multipart::list_parts(store, users, request).await,
        Operation::AbortMultipartUpload => multipart::abort(store, request).await,
        Operation::PutObject
        | Operation::UploadPart
        | Operation::CompleteMultipartUpload
        | Operation::DeleteObjects => unreachable!("handled above"),
    }
}

/// Objects have one version, `null`, until versioning comes.
fn check_version(query: &Query<'_>) -> S3Result<()> {
    match query.get("versionId") {
        None | Some(b"null") => Ok(()),
        Some(_) => Err(S3Error::not_implemented("Versions are not implemented.")),
    }
}

/// A document that a client sent. What it takes of the room for large ones is free again when it is
/// dropped.
struct Received {
    bytes: Vec<u8>,
    _room: Option<Permit>,
}

/// The body as a document of at most `size_max` bytes. Memory grows with what comes, and never with
/// what was announced.
async fn whole_body<B: Upload>(limits: &Limits, body: &mut B, size_max: u64) -> S3Result<Received> {
    let length = body.length();
    if length > size_max {
        return Err(S3Error::from(Code::MaxMessageLengthExceeded)
            .with("MaxMessageLengthBytes", size_max.to_string()));
    }
    let slow_down = || S3Error::from(Code::SlowDown);
    let room = match length.saturating_sub(DOCUMENT_SIZE_MAX) as usize {
        0 => None,
        more => Some(limits.documents.try_acquire(more).ok_or_else(slow_down)?),
    };
    let length = length as usize;
    let mut bytes = Vec::new();
    if length > 0 {
        let piece = length.min(DOCUMENT_PIECE_SIZE);
        let mut buf = Buf::try_alloc(piece).ok_or_else(slow_down)?;
        while bytes.len() < length {
            let want = piece.min(length - bytes.len());
            let (mut back, end) = body.fill(buf, 0, want).await?;
            back.set_len(end);
            bytes.extend_from_slice(&back);
            if end < want {
                return Err(Code::IncompleteBody.into());
            }
            buf = back;
        }
    }
    body.finish().await?;
    Ok(Received { bytes, _room: room })
}

/// The bucket of the request, if it exists and the user may use it.
///
/// Who may not is told so whatever is in the bucket. That there is such a bucket is no secret, as on
/// AWS: names are shared by all, and `CreateBucket` would tell.
async fn bucket_of<S: ObjectStore>(store: &S, request: Request<'_>) -> S3Result<BucketInfo> {
    let expected = request.head.single("x-amz-expected-bucket-owner")?;
    bucket_called(store, request.user, &request.resource.bucket, expected).await
}

/// The bucket `name`, if it exists, `user` may use it and its owner is the `expected` one.
async fn bucket_called<S: ObjectStore>(
    store: &S,
    user: &User,
    name: &str,
    expected: Option<&[u8]>,
) -> S3Result<BucketInfo> {
    let named = |error: S3Error| error.with("BucketName", name);
    if !is_bucket_name(name) {
        return Err(named(Code::InvalidBucketName.into()));
    }
    let bucket = match store.bucket(name).await {
        Ok(bucket) => bucket,
        Err(StoreError::NoSuchBucket) => return Err(named(Code::NoSuchBucket.into())),
        Err(error) => return Err(error.into()),
    };
    let may = user.root || bucket.owner == user.id;
    if !may || expected.is_some_and(|expected| expected != bucket.owner.as_bytes()) {
        return Err(S3Error::from(Code::AccessDenied).in_region(&bucket.region));
    }
    Ok(bucket)
}

/// Refuses a header whose value asks for what is not there; `fine` asks for nothing.
fn only(head: &Head, name: &'static str, fine: &[&str]) -> S3Result<()> {
    match head.single(name)? {
        None => Ok(()),
        Some(value) if fine.iter().any(|fine| fine.as_bytes() == value) => Ok(()),
        Some(_) => Err(S3Error::not_implemented(format!(
            "This value of {name} is not implemented."
        ))),
    }
}

/// The answer that tells of an error. `resource` is the raw path; HEAD has no body.
pub fn error_answer<R>(
    error: &S3Error,
    resource: &[u8],
    request_id: &str,
    is_head: bool,
) -> Answer<R> {
    let mut head = ResponseHead::new(error.code.status());
    if error.code == Code::InvalidRange
        && let Some((_, size)) = error
            .details
            .iter()
            .find(|(name, _)| *name == "ActualObjectSize")
    {
        head.field("content-range", format!("bytes */{size}"));
    }
    for (name, value) in &error.fields {
        head.field(name, value);
    }
    if matches!(error.code, Code::SlowDown | Code::ServiceUnavailable) {
        head.field("retry-after", "1");
    }
    if is_head || error.code.status() == 304 {
        return Answer {
            head,
            content: Content::None,
        };
    }
    let mut xml = Document::error();
    xml.leaf("Code", error.code.name())
        .leaf("Message", &error.message);
    for (name, value) in &error.details {
        xml.leaf(name, value);
    }
    xml.leaf("Resource", &String::from_utf8_lossy(resource))
        .leaf("RequestId", request_id)
        .leaf("HostId", request_id);
    head.field("content-type", "application/xml");
    Answer {
        head,
        content: Content::Bytes(xml.finish("Error")),
    }
}
