//! Objects: put, get, head, delete.

use super::{Answer, Content, Request, Upload, bucket, only};
use crate::http::date;
use crate::http::head::{Framing, Head};
use crate::http::response::ResponseHead;
use crate::http::target::Query;
use crate::object::{Condition, ObjectHeaders, ObjectInfo, ObjectStore, PUT_SIZE_MAX, ReadObject};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::text;
use crate::s3::read::{check_conditions, chosen_range};

/// Names and values of user metadata together, as on AWS.
pub const METADATA_SIZE_MAX: usize = 2 * 1024;

pub(super) async fn put_object<S: ObjectStore, B: Upload>(
    store: &S,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    let head = request.head;
    if head.framing == Framing::None {
        return Err(Code::MissingContentLength.into());
    }
    if body.length() > PUT_SIZE_MAX {
        return Err(S3Error::from(Code::EntityTooLarge)
            .with("ProposedSize", body.length().to_string())
            .with("MaxSizeAllowed", PUT_SIZE_MAX.to_string()));
    }
    only(head, "x-amz-acl", &["private", "bucket-owner-full-control"])?;
    let headers = object_headers(head, &request.user.id)?;
    let bucket = bucket(store, request).await?;
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

pub(super) async fn get_object<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket(store, request).await?;
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
    let bucket = bucket(store, request).await?;
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
    let bucket = bucket(store, request).await?;
    store
        .delete(&bucket, &request.resource.key, Condition::None)
        .await?;
    Ok(Answer::empty(204))
}
