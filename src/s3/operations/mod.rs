//! The operations: an authenticated, routed request in, an answer out.

use crate::http::date;
use crate::http::head::Head;
use crate::http::response::ResponseHead;
use crate::http::target::Query;
use crate::object::checksum::Algorithm;
use crate::object::{Body, BucketInfo, ListPage, ObjectStore, StoreError};
use crate::rt::Buf;
use crate::rt::sync::Semaphore;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::{List, owner, parse_count, parse_token, text, write_token};
use crate::s3::names::{Resource, is_bucket_name};
use crate::s3::route::Operation;
use crate::s3::users::{User, Users};
use crate::s3::xml::{Document, leaves};

mod attributes;
mod copy;
mod multipart;
pub mod object;

/// Largest body of an operation that does not name a larger one. The largest that is known,
/// `CreateBucketConfiguration`, is under 1 KiB.
const DOCUMENT_SIZE_MAX: u64 = 64 * 1024;

/// The region whose buckets have no location, and where making one's bucket again is fine.
const FIRST_REGION: &str = "us-east-1";

/// Copies of at most this size do not wait behind larger ones.
const SMALL_COPY_SIZE_MAX: u64 = 1 << 20;

/// Copies of one core at a time. A copy holds buffers while it waits for buffers, which nothing else
/// does: without a bound the pool could be full of copies that wait for each other. A large one
/// holds at most 3 pieces that are written and 2 that are read, 5 MiB; a small one 2 MiB. That is
/// 36 MiB of the pool's 64.
const LARGE_COPIES_MAX: usize = 4;
const SMALL_COPIES_MAX: usize = 8;

/// Bytes of large documents ([`DOCUMENT_SIZE_MAX`] and more) that one core reads at a time: four of
/// the largest.
const LARGE_DOCUMENTS_SIZE_MAX: u64 = 16 << 20;

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
            documents: Semaphore::new(LARGE_DOCUMENTS_SIZE_MAX as usize),
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
        _ => {}
    }
    let document = whole_body(body, DOCUMENT_SIZE_MAX).await?;
    match operation {
        Operation::ListBuckets => list_buckets(store, users, request).await,
        Operation::CreateBucket => create_bucket(store, users, request, &document).await,
        Operation::HeadBucket => {
            let bucket = bucket(store, request).await?;
            let mut answer = Answer::empty(200);
            answer.head.field("x-amz-bucket-region", bucket.region);
            Ok(answer)
        }
        Operation::DeleteBucket => {
            let bucket = bucket(store, request).await?;
            store.delete_bucket(&bucket.name).await?;
            Ok(Answer::empty(204))
        }
        Operation::GetBucketLocation => {
            let bucket = bucket(store, request).await?;
            let mut xml = Document::new("LocationConstraint");
            if bucket.region != FIRST_REGION {
                xml.text(&bucket.region);
            }
            Ok(Answer::xml(xml.finish("LocationConstraint")))
        }
        Operation::ListObjectsV2 => {
            let bucket = bucket(store, request).await?;
            let list = List::parse(request.query)?;
            let page = match list.request() {
                Some(request) => store.list(&bucket, request).await?,
                None => ListPage {
                    entries: Vec::new(),
                    truncated: false,
                    next_after: Vec::new(),
                },
            };
            Ok(Answer::xml(list.document(&bucket, &page, users)))
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
        Operation::PutObject | Operation::UploadPart | Operation::CompleteMultipartUpload => {
            unreachable!("handled above")
        }
    }
}

/// Objects have one version, `null`, until versioning comes.
fn check_version(query: &Query<'_>) -> S3Result<()> {
    match query.get("versionId") {
        None | Some(b"null") => Ok(()),
        Some(_) => Err(S3Error::not_implemented("Versions are not implemented.")),
    }
}

/// All of a body that may have `max` bytes. Memory is taken as the bytes come, not as announced.
async fn whole_body<B: Upload>(body: &mut B, max: u64) -> S3Result<Vec<u8>> {
    const PIECE_SIZE: usize = 16 * 1024;
    let length = body.length();
    if length > max {
        return Err(S3Error::from(Code::MaxMessageLengthExceeded)
            .with("MaxMessageLengthBytes", max.to_string()));
    }
    let length = length as usize;
    let mut document = Vec::new();
    while document.len() < length {
        let want = PIECE_SIZE.min(length - document.len());
        let buf = Buf::try_alloc(want).ok_or_else(|| S3Error::from(Code::SlowDown))?;
        let (mut buf, end) = body.fill(buf, 0, want).await?;
        buf.set_len(end);
        document.extend_from_slice(&buf);
        if end < want {
            return Err(Code::IncompleteBody.into());
        }
    }
    body.finish().await?;
    Ok(document)
}

/// The bucket of the request, if it exists and the user may use it.
async fn bucket<S: ObjectStore>(store: &S, request: Request<'_>) -> S3Result<BucketInfo> {
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
    if !user.root && bucket.owner != user.id {
        return Err(Code::AccessDenied.into());
    }
    if expected.is_some_and(|expected| expected != bucket.owner.as_bytes()) {
        return Err(Code::AccessDenied.into());
    }
    Ok(bucket)
}

async fn list_buckets<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    const MAX_BUCKETS: usize = 10_000;
    let query = request.query;
    let prefix = text(query, "prefix")?;
    let max = match text(query, "max-buckets")? {
        None => usize::MAX,
        Some(value) => parse_count(value)
            .filter(|max| (1..=MAX_BUCKETS).contains(max))
            .ok_or_else(|| {
                S3Error::invalid_argument("max-buckets must be from 1 to 10000", "max-buckets")
            })?,
    };
    let after = match text(query, "continuation-token")? {
        None => Vec::new(),
        Some(token) => parse_token(token).ok_or_else(|| {
            S3Error::invalid_argument(
                "The continuation token provided is incorrect",
                "continuation-token",
            )
        })?,
    };
    let region = text(query, "bucket-region")?;
    let mut buckets = store.buckets().await?;
    buckets.retain(|bucket| {
        (request.user.root || bucket.owner == request.user.id)
            && bucket.name.starts_with(prefix.unwrap_or(""))
            && region.is_none_or(|region| bucket.region == region)
            && bucket.name.as_bytes() > &after[..]
    });
    let truncated = buckets.len() > max;
    buckets.truncate(max);

    let mut xml = Document::new("ListAllMyBucketsResult");
    owner(&mut xml, &request.user.id, users);
    xml.open("Buckets");
    for bucket in &buckets {
        xml.open("Bucket")
            .leaf("Name", &bucket.name)
            .leaf("CreationDate", &date::iso(bucket.created_ms))
            .leaf("BucketRegion", &bucket.region)
            .close("Bucket");
    }
    xml.close("Buckets").optional("Prefix", prefix);
    if let Some(last) = buckets.last().filter(|_| truncated) {
        xml.leaf("ContinuationToken", &write_token(last.name.as_bytes()));
    }
    Ok(Answer::xml(xml.finish("ListAllMyBucketsResult")))
}

async fn create_bucket<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
    document: &[u8],
) -> S3Result<Answer<S::Reader>> {
    let Request {
        head,
        user,
        resource,
        ..
    } = request;
    let name = &resource.bucket;
    if !is_bucket_name(name) {
        return Err(S3Error::from(Code::InvalidBucketName).with("BucketName", name.clone()));
    }
    only(head, "x-amz-acl", &["private"])?;
    only(head, "x-amz-object-ownership", &["BucketOwnerEnforced"])?;
    only(
        head,
        "x-amz-bucket-object-lock-enabled",
        &["false", "False"],
    )?;
    if !document.is_empty() {
        let found = leaves(document, "CreateBucketConfiguration")
            .map_err(|_| S3Error::from(Code::MalformedXML))?;
        for (element, value) in found {
            if element != "LocationConstraint" {
                return Err(S3Error::not_implemented(format!(
                    "{element:?} of a new bucket is not implemented."
                )));
            }
            if !value.is_empty() && value != users.region() {
                return Err(S3Error::new(
                    Code::IllegalLocationConstraintException,
                    format!(
                        "The {value:?} location constraint is incompatible with this store's region."
                    ),
                ));
            }
        }
    }
    match store.create_bucket(name, &user.id, users.region()).await {
        Ok(_) => {}
        Err(StoreError::BucketAlreadyExists { owner }) if owner == user.id => {
            if users.region() != FIRST_REGION {
                return Err(
                    S3Error::from(Code::BucketAlreadyOwnedByYou).with("BucketName", name.clone())
                );
            }
        }
        Err(error) => return Err(S3Error::from(error).with("BucketName", name.clone())),
    }
    let mut answer = Answer::empty(200);
    answer.head.field("location", format!("/{name}"));
    Ok(answer)
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
