//! Multipart uploads: begun, filled with parts, listed, completed, aborted.
//!
//! An upload id means something only together with its bucket and key, and the bucket is checked
//! first, as for every other operation: an id alone opens nothing.
//!
//! The checksum of an upload is decided when it begins. Where the client names none (SDKs name one
//! only for transfers that they manage, and then send every part with a CRC32 all the same), each
//! part keeps the checksum that it came with, or a CRC64NVME; if all are CRCs of one algorithm, the
//! store joins them into one of the whole object.

use super::object::{
    DEFAULT_CHECKSUM, check_body, checksum_text, condition, object_headers, part_number, with_key,
};
use super::{Answer, Request, Upload, bucket_of, whole_body};
use crate::http::date;
use crate::http::head::{Head, parse_length};
use crate::http::target::{ENCODED_PATH, Query};
use crate::object::checksum::{Algorithm, Checksum, Kind};
use crate::object::{
    CompletedPart, Completion, Etag, ObjectStore, PART_NUMBER_MAX, StoreError, UploadId,
    UploadInfo, UploadedPart,
};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::{checksum_of, class, count, encodes, owner, parse_count, person};
use crate::s3::users::Users;
use crate::s3::xml::{Document, Element, tree};

/// Largest document that completes an upload: 10,000 parts of 419 bytes, where the longest that an
/// SDK writes (number, tag, a SHA-256) has 180.
pub(super) const COMPLETION_SIZE_MAX: u64 = 4 << 20;

/// Elements of it: each part with its number, its tag and one checksum, and the root.
const COMPLETION_ELEMENTS_MAX: usize = 4 * PART_NUMBER_MAX as usize + 1;

/// Most parts of one page of `ListParts`.
const PAGE_PARTS_MAX: usize = 1000;

/// The upload that `uploadId` names. What cannot be an id is not one.
pub(super) fn upload_id(query: &Query<'_>) -> S3Result<UploadId> {
    let value = query.get("uploadId").unwrap_or(b"");
    UploadId::parse(value).ok_or_else(|| {
        S3Error::from(Code::NoSuchUpload).with("UploadId", String::from_utf8_lossy(value))
    })
}

/// An error of the store about `upload`.
pub(super) fn with_upload(error: StoreError, upload: UploadId, request: Request<'_>) -> S3Error {
    let unknown = error == StoreError::NoSuchUpload;
    let error = with_key(error, request);
    if unknown {
        error.with("UploadId", upload.to_string())
    } else {
        error
    }
}

pub(super) fn required_part_number(query: &Query<'_>) -> S3Result<u16> {
    // The route demands the parameter.
    part_number(query)?.ok_or_else(|| Code::InvalidArgument.into())
}

/// The algorithm that a header names.
pub(super) fn named_algorithm(head: &Head) -> S3Result<Option<Algorithm>> {
    /// In the service model, but not here.
    const OTHERS: &[&str] = &["SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128"];
    let Some(value) = head.single("x-amz-checksum-algorithm")? else {
        return Ok(None);
    };
    if let Some(algorithm) = Algorithm::from_name(value) {
        return Ok(Some(algorithm));
    }
    let known = |other: &&&str| other.as_bytes().eq_ignore_ascii_case(value);
    Err(match OTHERS.iter().find(known) {
        Some(other) => S3Error::not_implemented(format!(
            "The checksum algorithm {other} is not implemented."
        )),
        None => S3Error::new(
            Code::InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid \
             types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        ),
    })
}

fn named_kind(head: &Head) -> S3Result<Option<Kind>> {
    let Some(value) = head.single("x-amz-checksum-type")? else {
        return Ok(None);
    };
    match Kind::from_name(value) {
        Some(kind) => Ok(Some(kind)),
        None => Err(S3Error::new(
            Code::InvalidRequest,
            "Value for x-amz-checksum-type header is invalid.",
        )),
    }
}

/// The checksum that the head of `CreateMultipartUpload` asks for.
fn named_checksum(head: &Head) -> S3Result<Option<(Algorithm, Kind)>> {
    let (algorithm, kind) = match (named_algorithm(head)?, named_kind(head)?) {
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            ));
        }
        (Some(Algorithm::Crc64Nvme), None) => (Algorithm::Crc64Nvme, Kind::FullObject),
        (Some(algorithm), None) => (algorithm, Kind::Composite),
        (Some(algorithm), Some(kind)) => (algorithm, kind),
    };
    let possible = match algorithm {
        Algorithm::Crc32 | Algorithm::Crc32c => true,
        // Checksums of parts can be joined into one of the whole only if they are CRCs.
        Algorithm::Sha1 | Algorithm::Sha256 => kind == Kind::Composite,
        Algorithm::Crc64Nvme => kind == Kind::FullObject,
    };
    if possible {
        Ok(Some((algorithm, kind)))
    } else {
        Err(S3Error::new(
            Code::InvalidRequest,
            format!(
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.name(),
                algorithm.name().to_ascii_lowercase()
            ),
        ))
    }
}

pub(super) async fn create<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let headers = object_headers(request.head, &request.user.id)?;
    let named = named_checksum(request.head)?;
    let bucket = bucket_of(store, request).await?;
    let key = &request.resource.key;
    let upload = store.create_upload(&bucket, key, headers, named).await?;
    let mut xml = Document::new("InitiateMultipartUploadResult");
    xml.leaf("Bucket", &bucket.name)
        .leaf("Key", &String::from_utf8_lossy(key))
        .leaf("UploadId", &upload.to_string());
    let mut answer = Answer::xml(xml.finish("InitiateMultipartUploadResult"));
    if let Some((algorithm, kind)) = named {
        answer
            .head
            .field("x-amz-checksum-algorithm", algorithm.name())
            .field("x-amz-checksum-type", kind.name());
    }
    Ok(answer)
}

fn other_algorithm(expected: Algorithm, actual: Option<Algorithm>) -> S3Error {
    let name = |algorithm: Algorithm| algorithm.name().to_ascii_lowercase();
    S3Error::new(
        Code::InvalidRequest,
        format!(
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            name(expected),
            actual.map_or("null".to_owned(), name)
        ),
    )
}

pub(super) async fn upload_part<S: ObjectStore, B: Upload>(
    store: &S,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    check_body(request.head, body)?;
    let number = required_part_number(request.query)?;
    let bucket = bucket_of(store, request).await?;
    let id = upload_id(request.query)?;
    let key = &request.resource.key;
    let failed = |error| with_upload(error, id, request);
    let upload = store.upload(&bucket, key, id).await.map_err(failed)?;
    let asked = body.algorithm();
    let algorithm = upload
        .checksum
        .map_or(DEFAULT_CHECKSUM, |(algorithm, _)| algorithm);
    if let Some((_, kind)) = upload.checksum {
        // Before the body: a client that disagrees here would fail when all is uploaded.
        let agrees = match asked {
            Some(asked) => asked == algorithm,
            // The client will have to name it when it completes the upload.
            None => kind == Kind::FullObject,
        };
        if !agrees {
            return Err(other_algorithm(algorithm, asked));
        }
    }
    body.compute(algorithm);
    let part = store
        .put_part(&bucket, key, id, number, body)
        .await
        .map_err(failed)?;
    assert!(
        body.is_verified(),
        "a part was stored before its body was verified"
    );
    let mut answer = Answer::empty(200);
    answer
        .head
        .field("etag", format!("\"{}\"", Etag::plain(part.md5)));
    if let Some(checksum) = body.checksum().filter(|_| asked.is_some()) {
        answer
            .head
            .field(checksum.algorithm.header(), checksum.base64());
    }
    Ok(answer)
}

pub(super) async fn list_parts<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let query = request.query;
    let max = count(query, "max-parts")?
        .unwrap_or(PAGE_PARTS_MAX)
        .min(PAGE_PARTS_MAX);
    let after = count(query, "part-number-marker")?.unwrap_or(0);
    let encode = encodes(query)?;
    let bucket = bucket_of(store, request).await?;
    let id = upload_id(query)?;
    let key = &request.resource.key;
    // No part has a number behind the largest.
    let from = u16::try_from(after).unwrap_or(u16::MAX);
    let page = store
        .parts(&bucket, key, id, from, max)
        .await
        .map_err(|error| with_upload(error, id, request))?;
    let UploadInfo {
        headers, checksum, ..
    } = &page.upload;

    let mut xml = Document::new("ListPartsResult");
    xml.leaf("Bucket", &bucket.name);
    if encode {
        let key = percent_encoding::percent_encode(key, ENCODED_PATH).to_string();
        xml.leaf("Key", &key).leaf("EncodingType", "url");
    } else {
        xml.leaf("Key", &String::from_utf8_lossy(key));
    }
    xml.leaf("UploadId", &id.to_string());
    person(&mut xml, "Initiator", &headers.owner, users);
    owner(&mut xml, &bucket.owner, users);
    let last = page
        .parts
        .last()
        .map_or(after, |part| usize::from(part.info.number));
    // Nothing fits into an empty page, so there is nowhere to go on from.
    let truncated = page.truncated && max > 0;
    xml.leaf("StorageClass", class(headers.storage_class.as_deref()))
        .leaf("PartNumberMarker", &after.to_string())
        .leaf("NextPartNumberMarker", &last.to_string())
        .leaf("MaxParts", &max.to_string())
        .leaf("IsTruncated", if truncated { "true" } else { "false" });
    checksum_of(&mut xml, *checksum);
    for part in &page.parts {
        part_element(&mut xml, part);
    }
    Ok(Answer::xml(xml.finish("ListPartsResult")))
}

fn part_element(xml: &mut Document, part: &UploadedPart) {
    xml.open("Part")
        .leaf("PartNumber", &part.info.number.to_string())
        .leaf("LastModified", &date::iso(part.modified_ms))
        .leaf("ETag", &format!("\"{}\"", Etag::plain(part.md5)))
        .leaf("Size", &part.info.size.to_string());
    if let Some(checksum) = &part.info.checksum {
        xml.leaf(checksum.algorithm.element(), &checksum.base64());
    }
    xml.close("Part");
}

pub(super) async fn abort<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let id = upload_id(request.query)?;
    store
        .abort_upload(&bucket, &request.resource.key, id)
        .await
        .map_err(|error| with_upload(error, id, request))?;
    Ok(Answer::empty(204))
}

/// The parts that a document names, in order.
fn named_parts(document: &[u8]) -> S3Result<Vec<CompletedPart>> {
    let malformed = || S3Error::from(Code::MalformedXML);
    let root = tree(document, "CompleteMultipartUpload", COMPLETION_ELEMENTS_MAX)
        .map_err(|_| malformed())?;
    if root.children.is_empty() {
        return Err(malformed());
    }
    let mut parts: Vec<CompletedPart> = Vec::with_capacity(root.children.len());
    for element in &root.children {
        let part = named_part(element)?;
        if parts.last().is_some_and(|last| last.number >= part.number) {
            return Err(Code::InvalidPartOrder.into());
        }
        parts.push(part);
    }
    Ok(parts)
}

fn named_part(element: &Element) -> S3Result<CompletedPart> {
    let malformed = || S3Error::from(Code::MalformedXML);
    if element.name != "Part" {
        return Err(malformed());
    }
    let (mut number, mut tag, mut checksum) = (None, None, None);
    for child in &element.children {
        let value = child.text.trim();
        let repeated = match &child.name[..] {
            _ if !child.children.is_empty() => return Err(malformed()),
            "PartNumber" => number.replace(value).is_some(),
            "ETag" => tag.replace(value).is_some(),
            name => match Algorithm::from_element(name) {
                // SDKs write the elements of checksums that they do not have.
                Some(_) if value.is_empty() => false,
                Some(algorithm) => {
                    let parsed = Checksum::parse(algorithm, value.as_bytes()).ok_or_else(|| {
                        S3Error::new(
                            Code::InvalidRequest,
                            format!("Value for {name} of a part is invalid."),
                        )
                    })?;
                    checksum.replace(parsed).is_some()
                }
                None if name.starts_with("Checksum") => {
                    return Err(S3Error::not_implemented(format!(
                        "{name:?} of a part is not implemented."
                    )));
                }
                None => return Err(malformed()),
            },
        };
        if repeated {
            return Err(malformed());
        }
    }
    let (Some(number), Some(tag)) = (number, tag) else {
        return Err(malformed());
    };
    let number = parse_count(number).ok_or_else(malformed)?;
    let number = u16::try_from(number)
        .ok()
        .filter(|number| (1..=PART_NUMBER_MAX).contains(number))
        .ok_or_else(|| {
            S3Error::invalid_argument(
                "PartNumber must be an integer between 1 and 10000, inclusive",
                "PartNumber",
            )
        })?;
    // What cannot be the tag of a part is not that of this one.
    let md5 = Etag::parse(tag)
        .filter(|tag| tag.parts == 0)
        .ok_or_else(|| S3Error::from(Code::InvalidPart).with("PartNumber", number.to_string()))?
        .md5;
    Ok(CompletedPart {
        number,
        md5,
        checksum,
    })
}

/// What the head of `CompleteMultipartUpload` says about the object.
struct Claimed {
    checksum: Option<Checksum>,
    kind: Option<Kind>,
    /// Number of parts behind a checksum of checksums.
    parts: Option<usize>,
    size: Option<u64>,
}

fn claimed(head: &Head) -> S3Result<Claimed> {
    let mut found = Claimed {
        checksum: None,
        kind: named_kind(head)?,
        parts: None,
        size: None,
    };
    for (name, value) in head.fields() {
        let Some(algorithm) = Algorithm::from_header(name) else {
            continue;
        };
        let invalid = || {
            S3Error::new(
                Code::InvalidRequest,
                format!("Value for {name} header is invalid."),
            )
        };
        let at = value.iter().position(|&byte| byte == b'-');
        let (value, parts) = match at {
            None => (value, None),
            Some(at) => {
                let parts = std::str::from_utf8(&value[at + 1..])
                    .ok()
                    .and_then(parse_count);
                (&value[..at], Some(parts.ok_or_else(invalid)?))
            }
        };
        let checksum = Checksum::parse(algorithm, value).ok_or_else(invalid)?;
        if found.checksum.replace(checksum).is_some() {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        if parts.is_some() {
            if found.kind == Some(Kind::FullObject) {
                return Err(invalid());
            }
            found.kind = Some(Kind::Composite);
            found.parts = parts;
        }
    }
    if let Some(value) = head.single("x-amz-mp-object-size")? {
        let size = parse_length(value).ok_or_else(|| {
            S3Error::invalid_argument("The value must be a number.", "x-amz-mp-object-size")
        })?;
        found.size = Some(size);
    }
    Ok(found)
}

/// Whether the client says of each part what an upload of this checksum demands.
fn check_parts(parts: &[CompletedPart], (algorithm, kind): (Algorithm, Kind)) -> S3Result<()> {
    for part in parts {
        match part.checksum {
            Some(given) if given.algorithm != algorithm => {
                return Err(other_algorithm(algorithm, Some(given.algorithm)));
            }
            None if kind == Kind::Composite => {
                return Err(S3Error::new(
                    Code::InvalidRequest,
                    format!(
                        "The upload was created using a {} checksum. The complete request must \
                         include the checksum for each part. It was missing for part {} in the \
                         request.",
                        algorithm.name().to_ascii_lowercase(),
                        part.number
                    ),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) async fn complete<S: ObjectStore, B: Upload>(
    store: &S,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    let claimed = claimed(request.head)?;
    let bucket = bucket_of(store, request).await?;
    let id = upload_id(request.query)?;
    let condition = condition(store, &bucket, request).await?;
    let key = &request.resource.key;
    let failed = |error| with_upload(error, id, request);

    let document = whole_body(request.limits, body, COMPLETION_SIZE_MAX).await?;
    let parts = named_parts(&document.bytes)?;
    drop(document);
    match claimed.parts {
        Some(count) if count != parts.len() => {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "The number of parts behind the checksum is not that of the parts.",
            ));
        }
        _ => {}
    }
    match store.upload(&bucket, key, id).await {
        Ok(upload) => {
            if let Some((algorithm, kind)) = upload.checksum {
                check_parts(&parts, (algorithm, kind))?;
                if let Some(given) = claimed.checksum
                    && given.algorithm != algorithm
                {
                    return Err(other_algorithm(algorithm, Some(given.algorithm)));
                }
            }
        }
        // It may have been completed, and this be the client's second try.
        Err(StoreError::NoSuchUpload) => {}
        Err(error) => return Err(failed(error)),
    }
    let count = parts.len();
    let completion = Completion {
        parts,
        condition,
        checksum: claimed.checksum,
        kind: claimed.kind,
        size: claimed.size,
    };
    let done = store
        .complete_upload(&bucket, key, id, completion)
        .await
        .map_err(failed)?;

    let path = percent_encoding::percent_encode(key, ENCODED_PATH).to_string();
    let host = String::from_utf8_lossy(request.head.first("host").unwrap_or(b"")).into_owned();
    let mut xml = Document::new("CompleteMultipartUploadResult");
    xml.leaf(
        "Location",
        &format!("{}://{host}/{}/{path}", request.scheme, bucket.name),
    )
    .leaf("Bucket", &bucket.name)
    .leaf("Key", &String::from_utf8_lossy(key))
    .leaf("ETag", &format!("\"{}\"", done.etag));
    if let Some((checksum, kind)) = &done.checksum {
        xml.leaf(
            checksum.algorithm.element(),
            &checksum_text(checksum, *kind, count),
        )
        .leaf("ChecksumType", kind.name());
    }
    Ok(Answer::xml(xml.finish("CompleteMultipartUploadResult")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::sigv4::tests::head;
    use proptest::prelude::*;

    const MD5: &str = "5d41402abc4b2a76b9719d911017c592";

    fn part(number: &str, more: &str) -> String {
        format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{MD5}&quot;</ETag>{more}</Part>"
        )
    }

    fn parts(inner: &str) -> Result<Vec<(u16, bool)>, Code> {
        let document =
            format!("<CompleteMultipartUpload xmlns=\"x\">{inner}</CompleteMultipartUpload>");
        named_parts(document.as_bytes())
            .map(|parts| {
                parts
                    .iter()
                    .map(|part| (part.number, part.checksum.is_some()))
                    .collect()
            })
            .map_err(|error| error.code)
    }

    #[test]
    fn lists_of_parts_are_read_within_limits() {
        let crc = "<ChecksumCRC32>NhCmhg==</ChecksumCRC32>";
        assert_eq!(
            parts(&format!("{}\n{}", part("1", crc), part(" 10000 ", ""))),
            Ok(vec![(1, true), (10_000, false)])
        );
        assert_eq!(
            parts(&part("1", "<ChecksumSHA1/><ChecksumCRC32></ChecksumCRC32>")),
            Ok(vec![(1, false)])
        );
        let all: String = (1..=10_000).map(|n| part(&n.to_string(), crc)).collect();
        assert!(all.len() < COMPLETION_SIZE_MAX as usize);
        assert_eq!(parts(&all).map(|parts| parts.len()), Ok(10_000));
        let one_more = format!("{all}{}", part("10001", crc));
        let cases = [
            ("", Code::MalformedXML),
            ("<Part/>", Code::MalformedXML),
            ("<Other/>", Code::MalformedXML),
            (&one_more, Code::MalformedXML),
            (&part("0", ""), Code::InvalidArgument),
            (&part("10001", ""), Code::InvalidArgument),
            (&part("99999999999999999999999", ""), Code::InvalidArgument),
            (&part("-1", ""), Code::MalformedXML),
            (&part("", ""), Code::MalformedXML),
            (&part("a", ""), Code::MalformedXML),
            (
                &format!("{}{}", part("2", ""), part("1", "")),
                Code::InvalidPartOrder,
            ),
            (
                &format!("{}{}", part("1", ""), part("1", "")),
                Code::InvalidPartOrder,
            ),
            (&part("1", "<PartNumber>1</PartNumber>"), Code::MalformedXML),
            (&part("1", "<ETag>x</ETag>"), Code::MalformedXML),
            (&part("1", "<Size>1</Size>"), Code::MalformedXML),
            (&part("1", "<ETag><A/></ETag>"), Code::MalformedXML),
            (&part("1", &format!("{crc}{crc}")), Code::MalformedXML),
            (
                &part("1", "<ChecksumCRC32>x</ChecksumCRC32>"),
                Code::InvalidRequest,
            ),
            (
                &part("1", "<ChecksumSHA512>x</ChecksumSHA512>"),
                Code::NotImplemented,
            ),
            (
                "<Part><PartNumber>1</PartNumber></Part>",
                Code::MalformedXML,
            ),
            (
                "<Part><PartNumber>1</PartNumber><ETag>x</ETag></Part>",
                Code::InvalidPart,
            ),
            (
                "<Part><PartNumber>1</PartNumber><ETag>5d41402abc4b2a76b9719d911017c592-1</ETag></Part>",
                Code::InvalidPart,
            ),
        ];
        for (inner, code) in cases {
            let shown = &inner[..inner.len().min(200)];
            assert_eq!(parts(inner), Err(code), "{shown}");
        }
        assert_eq!(
            named_parts(b"").map_err(|error| error.code),
            Err(Code::MalformedXML)
        );
    }

    #[test]
    fn checksums_of_uploads_are_those_of_the_table() {
        use Algorithm::*;
        use Kind::*;
        let cases = [
            ("", "", Ok(None)),
            ("CRC32", "", Ok(Some((Crc32, Composite)))),
            ("crc32c", "", Ok(Some((Crc32c, Composite)))),
            ("CRC64NVME", "", Ok(Some((Crc64Nvme, FullObject)))),
            ("SHA1", "", Ok(Some((Sha1, Composite)))),
            ("SHA256", "", Ok(Some((Sha256, Composite)))),
            ("CRC32", "COMPOSITE", Ok(Some((Crc32, Composite)))),
            ("CRC32", "FULL_OBJECT", Ok(Some((Crc32, FullObject)))),
            ("CRC32C", "FULL_OBJECT", Ok(Some((Crc32c, FullObject)))),
            (
                "CRC64NVME",
                "FULL_OBJECT",
                Ok(Some((Crc64Nvme, FullObject))),
            ),
            ("CRC64NVME", "COMPOSITE", Err(Code::InvalidRequest)),
            ("SHA1", "FULL_OBJECT", Err(Code::InvalidRequest)),
            ("SHA256", "FULL_OBJECT", Err(Code::InvalidRequest)),
            ("CRC32", "full_object", Err(Code::InvalidRequest)),
            ("", "COMPOSITE", Err(Code::InvalidRequest)),
            ("CRC16", "", Err(Code::InvalidRequest)),
            ("SHA512", "", Err(Code::NotImplemented)),
            ("XXHASH3", "FULL_OBJECT", Err(Code::NotImplemented)),
        ];
        for (algorithm, kind, expected) in cases {
            let mut text = "POST /b/k?uploads HTTP/1.1\nHost: h".to_owned();
            if !algorithm.is_empty() {
                text.push_str(&format!("\nx-amz-checksum-algorithm: {algorithm}"));
            }
            if !kind.is_empty() {
                text.push_str(&format!("\nx-amz-checksum-type: {kind}"));
            }
            let found = named_checksum(&head(&text)).map_err(|error| error.code);
            assert_eq!(found, expected, "{algorithm} {kind}");
        }
    }

    #[test]
    fn claims_about_the_object() {
        let claim = |fields: &str| {
            let head = head(&format!("POST /b/k?uploadId=1 HTTP/1.1\nHost: h{fields}"));
            claimed(&head)
                .map(|found| {
                    (
                        found.checksum.is_some(),
                        found.kind,
                        found.parts,
                        found.size,
                    )
                })
                .map_err(|error| error.code)
        };
        assert_eq!(claim(""), Ok((false, None, None, None)));
        assert_eq!(
            claim("\nx-amz-mp-object-size: 12\nx-amz-checksum-type: FULL_OBJECT"),
            Ok((false, Some(Kind::FullObject), None, Some(12)))
        );
        assert_eq!(
            claim("\nx-amz-checksum-crc32: NhCmhg=="),
            Ok((true, None, None, None))
        );
        assert_eq!(
            claim("\nx-amz-checksum-crc32: NhCmhg==-3"),
            Ok((true, Some(Kind::Composite), Some(3), None))
        );
        for bad in [
            "x-amz-checksum-crc32: NhCmhg",
            "x-amz-checksum-crc32: NhCmhg==-",
            "x-amz-checksum-crc32: NhCmhg==-x",
            "x-amz-checksum-crc32: NhCmhg==--1",
            "x-amz-checksum-crc32: NhCmhg==-3\nx-amz-checksum-type: FULL_OBJECT",
            "x-amz-checksum-crc32: NhCmhg==\nx-amz-checksum-crc32c: NhCmhg==",
            "x-amz-checksum-type: OTHER",
        ] {
            assert_eq!(
                claim(&format!("\n{bad}")),
                Err(Code::InvalidRequest),
                "{bad}"
            );
        }
        assert_eq!(
            claim("\nx-amz-mp-object-size: -1"),
            Err(Code::InvalidArgument)
        );
    }

    proptest! {
        #[test]
        fn noise_never_panics(
            noise in "[<>/&;#xPartNumbeETg0-9 \"=!-]{0,80}",
            header in "[A-Za-z0-9+/=-]{0,20}",
        ) {
            let _ = parts(&noise);
            let _ = parts(&part(&noise, &noise));
            let head = head(&format!("POST /b/k HTTP/1.1\nHost: h\nx-amz-checksum-crc32: {header}"));
            let _ = claimed(&head);
        }
    }
}
