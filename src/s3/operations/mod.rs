//! The operations: an authenticated, routed request in, an answer out.

use crate::http::date;
use crate::http::head::Head;
use crate::http::response::ResponseHead;
use crate::http::target::Query;
use crate::object::{
    Body, BucketInfo, Condition, ObjectHeaders, ObjectInfo, ObjectStore, PUT_SIZE_MAX, ReadObject,
    StoreError,
};
use crate::rt::Buf;
use crate::rt::sync::Semaphore;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::{List, text};
use crate::s3::names::{Resource, is_bucket_name};
use crate::s3::read::{check_conditions, chosen_range};
use crate::s3::route::Operation;
use crate::s3::users::{User, Users};
use crate::s3::xml::Document;

mod bucket;
mod configuration;
mod delete_objects;
mod list;

#[cfg(test)]
pub use delete_objects::DELETE_DOCUMENT_SIZE_MAX;

/// Names and values of user metadata together, as on AWS.
pub const METADATA_SIZE_MAX: usize = 2 * 1024;

/// Largest body of an operation that is neither an object nor a list of many things. The largest
/// that is known, `CreateBucketConfiguration`, is under 1 KiB.
const DOCUMENT_SIZE_MAX: u64 = 64 * 1024;

/// Buffer through which documents are received.
const DOCUMENT_PIECE_SIZE: usize = 64 * 1024;

/// Bytes beyond [`DOCUMENT_SIZE_MAX`] that the documents being received on one core may have
/// together: five of the largest, or 200 of a thousand keys of 100 bytes. Who comes later is told
/// to slow down; waiting would let slow clients hold up all others.
const LARGE_DOCUMENT_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(delete_objects::DELETE_DOCUMENT_SIZE_MAX < LARGE_DOCUMENT_BYTES_MAX as u64);

thread_local! {
    static LARGE_DOCUMENTS: Semaphore = Semaphore::new(LARGE_DOCUMENT_BYTES_MAX);
}

/// A request whose sender is known.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub head: &'a Head,
    pub query: &'a Query<'a>,
    pub resource: &'a Resource,
    pub user: &'a User,
}

/// A body with the checks that clients ask for.
pub trait Upload: Body {
    /// [`Body::finish`] has succeeded.
    fn is_verified(&self) -> bool;
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
    if operation == Operation::PutObject {
        return put_object(store, request, body).await;
    }
    if operation == Operation::DeleteObjects {
        return delete_objects::run(store, request, body).await;
    }
    let document = whole_body(body, DOCUMENT_SIZE_MAX).await?;
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
        Operation::GetObject => get_object(store, request).await,
        Operation::HeadObject => head_object(store, request).await,
        Operation::DeleteObject => {
            let bucket = bucket_of(store, request).await?;
            store
                .delete(&bucket, &request.resource.key, Condition::None)
                .await?;
            Ok(Answer::empty(204))
        }
        Operation::PutObject | Operation::DeleteObjects => unreachable!("handled above"),
    }
}

/// Objects have one version, `null`, until versioning comes.
fn check_version(query: &Query<'_>) -> S3Result<()> {
    match query.get("versionId") {
        None | Some(b"null") => Ok(()),
        Some(_) => Err(S3Error::not_implemented("Versions are not implemented.")),
    }
}

/// The body as a document of at most `size_max` bytes. Memory grows with what comes, and never with
/// what was announced.
async fn whole_body<B: Upload>(body: &mut B, size_max: u64) -> S3Result<Vec<u8>> {
    let length = body.length();
    if length > size_max {
        return Err(S3Error::from(Code::MaxMessageLengthExceeded)
            .with("MaxMessageLengthBytes", size_max.to_string()));
    }
    let slow_down = || S3Error::from(Code::SlowDown);
    let length = length as usize;
    let _room = match length.checked_sub(DOCUMENT_SIZE_MAX as usize) {
        None | Some(0) => None,
        Some(more) => {
            let room = LARGE_DOCUMENTS.with(|all| all.try_acquire(more));
            Some(room.ok_or_else(slow_down)?)
        }
    };
    let mut document = Vec::new();
    if length > 0 {
        let piece = length.min(DOCUMENT_PIECE_SIZE);
        let mut buf = Buf::try_alloc(piece).ok_or_else(slow_down)?;
        while document.len() < length {
            let wanted = piece.min(length - document.len());
            let (mut back, end) = body.fill(buf, 0, wanted).await?;
            back.set_len(end);
            document.extend_from_slice(&back);
            if end < wanted {
                break;
            }
            buf = back;
        }
    }
    body.finish().await?;
    Ok(document)
}

/// The bucket of the request, if it exists and the user may use it.
///
/// Who may not is told so whatever is in the bucket. That there is such a bucket is no secret, as on
/// AWS: names are shared by all, and `CreateBucket` would tell.
async fn bucket_of<S: ObjectStore>(store: &S, request: Request<'_>) -> S3Result<BucketInfo> {
    let name = &request.resource.bucket;
    let named = |error: S3Error| error.with("BucketName", name.clone());
    if !is_bucket_name(name) {
        return Err(named(Code::InvalidBucketName.into()));
    }
    let bucket = match store.bucket(name).await {
        Ok(bucket) => bucket,
        Err(StoreError::NoSuchBucket) => return Err(named(Code::NoSuchBucket.into())),
        Err(error) => return Err(error.into()),
    };
    let expected = request.head.single("x-amz-expected-bucket-owner")?;
    let may = request.user.root || bucket.owner == request.user.id;
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

async fn put_object<S: ObjectStore, B: Upload>(
    store: &S,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    let head = request.head;
    if head.framing == crate::http::head::Framing::None {
        return Err(Code::MissingContentLength.into());
    }
    if body.length() > PUT_SIZE_MAX {
        return Err(S3Error::from(Code::EntityTooLarge)
            .with("ProposedSize", body.length().to_string())
            .with("MaxSizeAllowed", PUT_SIZE_MAX.to_string()));
    }
    only(head, "x-amz-acl", &["private", "bucket-owner-full-control"])?;
    let headers = object_headers(head, &request.user.id)?;
    let bucket = bucket_of(store, request).await?;
    let done = store
        .put(
            &bucket,
            &request.resource.key,
            headers,
            Condition::None,
            body,
        )
        .await?;
    // The pair of the check in the store: what was not verified must not have become visible.
    assert!(
        body.is_verified(),
        "a put was committed before its body was verified"
    );
    let mut answer = Answer::empty(200);
    answer.head.field("etag", format!("\"{}\"", done.etag));
    if let Some(checksum) = body.checksum() {
        answer
            .head
            .field(checksum.algorithm.header(), checksum.base64());
        answer.head.field("x-amz-checksum-type", "FULL_OBJECT");
    }
    Ok(answer)
}

/// What the head of a PUT says about the object.
fn object_headers(head: &Head, owner: &str) -> S3Result<ObjectHeaders> {
    let text = |name: &'static str| -> S3Result<Option<String>> {
        let Some(value) = head.single(name)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value)
            .map_err(|_| S3Error::invalid_argument("A header's value must be UTF-8.", name))?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    };
    // Only the transfer's own coding goes; what is left describes the object.
    let content_encoding = text("content-encoding")?.and_then(|value| {
        let others: Vec<&str> = value
            .split(',')
            .map(str::trim)
            .filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked") && !coding.is_empty())
            .collect();
        (!others.is_empty()).then(|| others.join(","))
    });
    let storage_class = match text("x-amz-storage-class")?.as_deref() {
        None | Some("STANDARD") => None,
        // Stored like any other object, and returned as it came.
        Some("REDUCED_REDUNDANCY") => Some("REDUCED_REDUNDANCY".to_owned()),
        Some(_) => return Err(Code::InvalidStorageClass.into()),
    };
    let mut user: Vec<(String, String)> = Vec::new();
    let mut size = 0;
    for (name, value) in head.fields() {
        let Some(name) = name.strip_prefix("x-amz-meta-") else {
            continue;
        };
        let value = std::str::from_utf8(value).map_err(|_| {
            S3Error::invalid_argument("A header's value must be UTF-8.", "x-amz-meta-")
        })?;
        match user.iter_mut().find(|(known, _)| known == name) {
            // A repeated header is one with a list (RFC 9110, 5.3).
            Some((_, known)) => {
                known.push(',');
                known.push_str(value);
                size += 1 + value.len();
            }
            None => {
                size += name.len() + value.len();
                user.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    if size > METADATA_SIZE_MAX {
        return Err(S3Error::from(Code::MetadataTooLarge)
            .with("Size", size.to_string())
            .with("MaxSizeAllowed", METADATA_SIZE_MAX.to_string()));
    }
    Ok(ObjectHeaders {
        content_type: text("content-type")?,
        content_encoding,
        content_language: text("content-language")?,
        content_disposition: text("content-disposition")?,
        cache_control: text("cache-control")?,
        expires: text("expires")?,
        user,
        owner: owner.to_owned(),
        storage_class,
    })
}

/// What GET and HEAD have in common: the decision, and the head of the answer to it.
struct Chosen {
    head: ResponseHead,
    start: u64,
    end: u64,
}

fn choose(request: Request<'_>, info: &ObjectInfo) -> S3Result<Chosen> {
    if let Err(error) = check_conditions(request.head, &info.etag, info.modified_ms) {
        if error.code != Code::NotModified {
            return Err(error);
        }
        let mut head = ResponseHead::new(304);
        describe(&mut head, info, request.query, true)?;
        return Ok(Chosen {
            head,
            start: 0,
            end: 0,
        });
    }
    let range = chosen_range(request.head, &info.etag, info.modified_ms, info.size)?;
    let mut head = ResponseHead::new(if range.is_some() { 206 } else { 200 });
    describe(&mut head, info, request.query, false)?;
    head.field("accept-ranges", "bytes");
    if let Some((start, end)) = range {
        head.field(
            "content-range",
            format!("bytes {start}-{}/{}", end - 1, info.size),
        );
    }
    let (start, end) = range.unwrap_or((0, info.size));
    Ok(Chosen { head, start, end })
}

/// The headers of an object, with the response overrides of the query.
fn describe(
    head: &mut ResponseHead,
    info: &ObjectInfo,
    query: &Query<'_>,
    not_modified: bool,
) -> S3Result<()> {
    let headers = &info.headers;
    let described: [(&str, &'static str, Option<&str>); 6] = [
        (
            "cache-control",
            "response-cache-control",
            headers.cache_control.as_deref(),
        ),
        ("expires", "response-expires", headers.expires.as_deref()),
        (
            "content-type",
            "response-content-type",
            Some(
                headers
                    .content_type
                    .as_deref()
                    .unwrap_or("binary/octet-stream"),
            ),
        ),
        (
            "content-encoding",
            "response-content-encoding",
            headers.content_encoding.as_deref(),
        ),
        (
            "content-language",
            "response-content-language",
            headers.content_language.as_deref(),
        ),
        (
            "content-disposition",
            "response-content-disposition",
            headers.content_disposition.as_deref(),
        ),
    ];
    head.field("etag", format!("\"{}\"", info.etag));
    head.field("last-modified", date::http(info.modified_ms));
    for (name, parameter, stored) in described {
        let chosen = text(query, parameter)?;
        if chosen.is_some_and(|value| value.chars().any(char::is_control)) {
            return Err(S3Error::invalid_argument(
                "The value cannot be a header's.",
                parameter,
            ));
        }
        // RFC 9110, 15.4.5: a 304 has only what a cache needs.
        let wanted = !not_modified || matches!(name, "cache-control" | "expires");
        if let Some(value) = chosen.or(stored).filter(|_| wanted) {
            head.field(name, value);
        }
    }
    if !not_modified {
        for (name, value) in &headers.user {
            head.field(&format!("x-amz-meta-{name}"), value);
        }
        if let Some(class) = &headers.storage_class {
            head.field("x-amz-storage-class", class);
        }
    }
    Ok(())
}

fn with_key(error: impl Into<S3Error>, request: Request<'_>) -> S3Error {
    let error = error.into();
    if error.code == Code::NoSuchKey {
        return error.with(
            "Key",
            String::from_utf8_lossy(&request.resource.key).into_owned(),
        );
    }
    error
}

async fn get_object<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let mut reader = store
        .get(&bucket, &request.resource.key)
        .await
        .map_err(|error| with_key(error, request))?;
    let Chosen { head, start, end } = choose(request, reader.info())?;
    if head.status == 304 {
        return Ok(Answer {
            head,
            content: Content::None,
        });
    }
    let content = if start == end {
        Content::Bytes(Vec::new())
    } else {
        reader.range(start, end);
        Content::Object(reader, end - start)
    };
    Ok(Answer { head, content })
}

async fn head_object<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let info = store
        .head(&bucket, &request.resource.key)
        .await
        .map_err(|error| with_key(error, request))?;
    let Chosen {
        mut head,
        start,
        end,
    } = choose(request, &info)?;
    if head.status != 304 {
        head.number("content-length", end - start);
    }
    Ok(Answer {
        head,
        content: Content::None,
    })
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
