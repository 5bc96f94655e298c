//! Objects: put, get, head, delete.

use super::{Answer, Content, Request, Upload, bucket_of, only};
use crate::http::date;
use crate::http::head::{Framing, Head};
use crate::http::response::ResponseHead;
use crate::http::target::Query;
use crate::object::checksum::{Algorithm, Checksum, Kind};
use crate::object::{
    BucketInfo, Condition, ObjectHeaders, ObjectInfo, ObjectStore, PART_NUMBER_MAX, PUT_SIZE_MAX,
    ReadObject,
};
use crate::s3::conditions::{Demand, check_read, write_demand};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::{parse_count, text};
use crate::s3::read::chosen_range;

/// Names and values of user metadata together, as on AWS.
pub const METADATA_SIZE_MAX: usize = 2 * 1024;

/// The checksum of what comes without one, as on AWS.
pub(super) const DEFAULT_CHECKSUM: Algorithm = Algorithm::Crc64Nvme;

/// Access control lists that grant nothing to others.
const PRIVATE_ACLS: &[&str] = &["private", "bucket-owner-full-control"];

/// Refuses a body that comes without its length, or is larger than a put may be.
pub(super) fn check_body<B: Upload>(head: &Head, body: &B) -> S3Result<()> {
    if head.framing == Framing::None {
        return Err(Code::MissingContentLength.into());
    }
    if body.length() > PUT_SIZE_MAX {
        return Err(S3Error::from(Code::EntityTooLarge)
            .with("ProposedSize", body.length().to_string())
            .with("MaxSizeAllowed", PUT_SIZE_MAX.to_string()));
    }
    Ok(())
}

/// The condition of a write of the request's key.
pub(super) async fn condition<S: ObjectStore>(
    store: &S,
    bucket: &BucketInfo,
    request: Request<'_>,
) -> S3Result<Condition> {
    match write_demand(request.head)? {
        Demand::Condition(condition) => Ok(condition),
        // Refused whatever there is; only the words differ.
        Demand::Never => match store.head(bucket, &request.resource.key).await {
            Ok(_) => Err(Code::PreconditionFailed.into()),
            Err(error) => Err(with_key(error, request)),
        },
    }
}

/// A checksum as clients read it: that of several parts has their number behind it.
pub(super) fn checksum_text(checksum: &Checksum, kind: Kind, parts: usize) -> String {
    match kind {
        Kind::FullObject => checksum.base64(),
        Kind::Composite => format!("{}-{parts}", checksum.base64()),
    }
}

pub(super) async fn put_object<S: ObjectStore, B: Upload>(
    store: &S,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    let head = request.head;
    check_body(head, body)?;
    let headers = object_headers(head, &request.user.id)?;
    let bucket = bucket_of(store, request).await?;
    let condition = condition(store, &bucket, request).await?;
    let asked = body.algorithm().is_some();
    body.compute(DEFAULT_CHECKSUM);
    let done = store
        .put(&bucket, &request.resource.key, headers, condition, body)
        .await
        .map_err(|error| with_key(error, request))?;
    // The pair of the check in the store: what was not verified must not have become visible.
    assert!(
        body.is_verified(),
        "a put was committed before its body was verified"
    );
    let mut answer = Answer::empty(200);
    answer.head.field("etag", format!("\"{}\"", done.etag));
    if let Some(checksum) = body.checksum().filter(|_| asked) {
        answer
            .head
            .field(checksum.algorithm.header(), checksum.base64())
            .field("x-amz-checksum-type", Kind::FullObject.name());
    }
    Ok(answer)
}

/// What the head of a request that begins an object says about it.
pub(super) fn object_headers(head: &Head, owner: &str) -> S3Result<ObjectHeaders> {
    only(head, "x-amz-acl", PRIVATE_ACLS)?;
    let text = |name: &'static str| -> S3Result<Option<String>> {
        let Some(value) = head.single(name)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value)
            .map_err(|_| S3Error::invalid_argument("A header's value must be UTF-8.", name))?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    };
    // Only the transfer's own coding goes; what is left describes the object. It is a list: SDKs add
    // to it by another line.
    let mut codings: Vec<&str> = Vec::new();
    for value in head.all("content-encoding") {
        let value = std::str::from_utf8(value).map_err(|_| {
            S3Error::invalid_argument("A header's value must be UTF-8.", "content-encoding")
        })?;
        let others = value.split(',').map(str::trim);
        codings
            .extend(others.filter(|coding| {
                !coding.eq_ignore_ascii_case("aws-chunked") && !coding.is_empty()
            }));
    }
    let content_encoding = (!codings.is_empty()).then(|| codings.join(","));
    let storage_class = storage_class(head)?;
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

/// The class that a request asks for; `None` is STANDARD.
pub(super) fn storage_class(head: &Head) -> S3Result<Option<String>> {
    match head.single("x-amz-storage-class")? {
        None | Some(b"" | b"STANDARD") => Ok(None),
        // Stored like any other object, and returned as it came.
        Some(b"REDUCED_REDUNDANCY") => Ok(Some("REDUCED_REDUNDANCY".to_owned())),
        Some(_) => Err(Code::InvalidStorageClass.into()),
    }
}

/// The parameter `partNumber`.
pub(super) fn part_number(query: &Query<'_>) -> S3Result<Option<u16>> {
    let Some(value) = text(query, "partNumber")? else {
        return Ok(None);
    };
    parse_count(value)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| (1..=PART_NUMBER_MAX).contains(number))
        .map(Some)
        .ok_or_else(|| {
            S3Error::invalid_argument(
                "Part number must be an integer between 1 and 10000, inclusive",
                "partNumber",
            )
        })
}

/// A part of an object that is asked for by its number.
struct Part {
    start: u64,
    end: u64,
    checksum: Option<Checksum>,
}

/// The part that `partNumber` names; a plain object is its own only part.
fn chosen_part(request: Request<'_>, info: &ObjectInfo) -> S3Result<Option<Part>> {
    let Some(number) = part_number(request.query)? else {
        return Ok(None);
    };
    if request.head.first("range").is_some() {
        return Err(S3Error::new(
            Code::InvalidRequest,
            "Cannot specify both Range header and partNumber query parameter",
        ));
    }
    if info.parts.is_empty() && number == 1 {
        return Ok(Some(Part {
            start: 0,
            end: info.size,
            checksum: info.checksum.map(|(checksum, _)| checksum),
        }));
    }
    let mut start = 0u64;
    for part in &info.parts {
        let end = start.saturating_add(part.size);
        if part.number == number {
            // The sum of the parts is the object: anything else is damage.
            if end > info.size {
                return Err(Code::InternalError.into());
            }
            return Ok(Some(Part {
                start,
                end,
                checksum: part.checksum,
            }));
        }
        start = end;
    }
    Err(S3Error::from(Code::InvalidPartNumber)
        .with("PartNumberRequested", number.to_string())
        .with("ActualPartCount", info.parts.len().max(1).to_string()))
}

/// What GET and HEAD have in common: the decision, and the head of the answer to it.
struct Chosen {
    head: ResponseHead,
    start: u64,
    end: u64,
}

fn choose(request: Request<'_>, info: &ObjectInfo) -> S3Result<Chosen> {
    let wants_checksum = match request.head.single("x-amz-checksum-mode")? {
        None => false,
        Some(mode) if mode.eq_ignore_ascii_case(b"ENABLED") => true,
        Some(_) => {
            return Err(S3Error::invalid_argument(
                "x-amz-checksum-mode must be ENABLED.",
                "x-amz-checksum-mode",
            ));
        }
    };
    if let Err(error) = check_read(request.head, &info.etag, info.modified_ms) {
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
    let part = chosen_part(request, info)?;
    let range = match &part {
        Some(part) => Some((part.start, part.end)),
        None => chosen_range(request.head, &info.etag, info.modified_ms, info.size)?,
    };
    // An empty object has no bytes to give a part of.
    let partial = range.filter(|_| info.size > 0);
    let mut head = ResponseHead::new(if partial.is_some() { 206 } else { 200 });
    describe(&mut head, info, request.query, false)?;
    head.field("accept-ranges", "bytes");
    // No range can be written for an empty part.
    if let Some((start, end)) = partial.filter(|(start, end)| start < end) {
        head.field(
            "content-range",
            format!("bytes {start}-{}/{}", end - 1, info.size),
        );
    }
    if part.is_some() && !info.parts.is_empty() {
        head.number("x-amz-mp-parts-count", info.parts.len() as u64);
    }
    if wants_checksum && let Some((whole, kind)) = &info.checksum {
        // A checksum is of all that is sent, or clients would find it wrong.
        let fitting = match &part {
            Some(part) => part
                .checksum
                .map(|checksum| (checksum.algorithm, checksum.base64())),
            None => partial.is_none().then(|| {
                let text = checksum_text(whole, *kind, info.parts.len());
                (whole.algorithm, text)
            }),
        };
        if let Some((algorithm, text)) = fitting {
            head.field(algorithm.header(), text)
                .field("x-amz-checksum-type", kind.name());
        }
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

pub(super) fn with_key(error: impl Into<S3Error>, request: Request<'_>) -> S3Error {
    let error = error.into();
    if error.code == Code::NoSuchKey {
        return error.with(
            "Key",
            String::from_utf8_lossy(&request.resource.key).into_owned(),
        );
    }
    error
}

pub(super) async fn get_object<S: ObjectStore>(
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

pub(super) async fn head_object<S: ObjectStore>(
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

pub(super) async fn delete_object<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let condition = condition(store, &bucket, request).await?;
    store
        .delete(&bucket, &request.resource.key, condition)
        .await
        .map_err(|error| with_key(error, request))?;
    Ok(Answer::empty(204))
}
