//! Copies within the store: an object, or a range of one as a part of an upload.
//!
//! The source is read as by GET while the destination is written as by PUT: no lock is held, and
//! nothing is answered before the copy is complete.

use super::multipart::{named_algorithm, required_part_number, upload_id, with_upload};
use super::object::{DEFAULT_CHECKSUM, condition, object_headers, storage_class, with_key};
use super::{Answer, Request, SMALL_COPY_SIZE_MAX, bucket_called, bucket_of};
use crate::http::date;
use crate::http::head::Head;
use crate::http::target::{Plus, decode};
use crate::object::checksum::{Algorithm, Checksum, Hasher, Kind};
use crate::object::{
    Body, BodyError, BucketInfo, Etag, ObjectHeaders, ObjectInfo, ObjectStore, PUT_SIZE_MAX,
    ReadObject, StoreError,
};
use crate::rt::Buf;
use crate::rt::sync::Permit;
use crate::s3::conditions::check_copy_source;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::parse_count;
use crate::s3::names::KEY_SIZE_MAX;
use crate::s3::xml::Document;

/// What `x-amz-copy-source` names.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    bucket: String,
    key: Vec<u8>,
    /// A version that is not `null` is asked for.
    other_version: bool,
}

/// `[/]bucket/key[?versionId=id]`, with escapes that are undone once.
fn parse_source(value: &[u8]) -> S3Result<Source> {
    const NAME: &str = "x-amz-copy-source";
    let malformed = || {
        S3Error::invalid_argument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            NAME,
        )
    };
    // As on AWS a `+` is a space here, which it is in no path: clients in Go write it so.
    let decoded = |raw| decode(raw, Plus::Space).map_err(|_| malformed());
    // A question mark of the key is escaped: that of the header begins the version.
    let (path, version) = match value.iter().position(|&byte| byte == b'?') {
        None => (value, None),
        Some(at) => {
            let version = value[at + 1..].strip_prefix(b"versionId=");
            (&value[..at], Some(version.ok_or_else(malformed)?))
        }
    };
    let path = String::from_utf8(decoded(path)?.into_owned()).map_err(|_| malformed())?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').ok_or_else(malformed)?;
    if bucket.is_empty() || key.is_empty() || key.contains('\0') {
        return Err(malformed());
    }
    if key.len() > KEY_SIZE_MAX {
        return Err(S3Error::from(Code::KeyTooLongError)
            .with("Size", key.len().to_string())
            .with("MaxSizeAllowed", KEY_SIZE_MAX.to_string()));
    }
    let other_version = match version {
        None => false,
        Some(version) => {
            let version = decoded(version)?;
            if version.is_empty() {
                return Err(S3Error::invalid_argument(
                    "Version id cannot be the empty string",
                    NAME,
                ));
            }
            version.as_ref() != b"null"
        }
    };
    Ok(Source {
        bucket: bucket.to_owned(),
        key: key.as_bytes().to_vec(),
        other_version,
    })
}

/// First byte, and the byte behind the last, that `x-amz-copy-source-range` names; `None` for all.
fn source_range(head: &Head, size: u64) -> S3Result<Option<(u64, u64)>> {
    const NAME: &str = "x-amz-copy-source-range";
    let Some(value) = head.single(NAME)? else {
        return Ok(None);
    };
    let number = |text: &str| parse_count(text).and_then(|number| u64::try_from(number).ok());
    let range = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.strip_prefix("bytes="))
        .and_then(|text| text.split_once('-'))
        .and_then(|(first, last)| Some((number(first)?, number(last)?)))
        .filter(|(first, last)| first <= last);
    let Some((first, last)) = range else {
        return Err(S3Error::invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy",
            NAME,
        ));
    };
    if last >= size {
        return Err(S3Error::invalid_argument(
            format!("Range specified is not valid for source object of size: {size}"),
            NAME,
        ));
    }
    Ok(Some((first, last + 1)))
}

/// An object being read, as a body to be written.
struct CopyBody<R> {
    reader: R,
    length: u64,
    /// The piece that is being handed over, and how much of it was.
    piece: Option<(Buf, usize)>,
    given: u64,
    hasher: Option<Hasher>,
    checksum: Option<Checksum>,
    /// Why the source could not be read.
    failure: Option<StoreError>,
}

impl<R: ReadObject> CopyBody<R> {
    /// The bytes `start..end` of the object. With the checksum of the source where it is of the
    /// same bytes: a client can then tell what went wrong between.
    fn new(mut reader: R, (start, end): (u64, u64), algorithm: Algorithm) -> Self {
        let info = reader.info();
        let whole = start == 0 && end == info.size;
        let carried = info
            .checksum
            .filter(|(checksum, kind)| {
                whole && *kind == Kind::FullObject && checksum.algorithm == algorithm
            })
            .map(|(checksum, _)| checksum);
        if !whole {
            reader.range(start, end);
        }
        Self {
            reader,
            length: end - start,
            piece: None,
            given: 0,
            hasher: carried.is_none().then(|| Hasher::new(algorithm)),
            checksum: carried,
            failure: None,
        }
    }

    async fn try_fill(
        &mut self,
        buf: &mut Buf,
        at: usize,
        upto: usize,
    ) -> Result<usize, StoreError> {
        let mut end = at;
        while end < upto && self.given < self.length {
            let (piece, from) = match self.piece.take() {
                Some(piece) => piece,
                None => match self.reader.next().await? {
                    Some(piece) if !piece.is_empty() => (piece, 0),
                    _ => {
                        return Err(StoreError::Unreadable {
                            what: "an object that ends before its end".to_owned(),
                        });
                    }
                },
            };
            let left = usize::try_from(self.length - self.given).unwrap_or(usize::MAX);
            let count = (piece.len() - from).min(upto - end).min(left);
            let bytes = &piece[from..from + count];
            buf.whole_mut()[end..end + count].copy_from_slice(bytes);
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
            end += count;
            self.given += count as u64;
            if from + count < piece.len() {
                self.piece = Some((piece, from + count));
            }
        }
        Ok(end)
    }

    /// The error of a copy: what broke the source says more than what that did to the copy.
    fn explain(&mut self, error: StoreError) -> StoreError {
        self.failure.take().unwrap_or(error)
    }
}

impl<R: ReadObject> Body for CopyBody<R> {
    fn length(&self) -> u64 {
        self.length
    }

    async fn fill(
        &mut self,
        mut buf: Buf,
        at: usize,
        upto: usize,
    ) -> Result<(Buf, usize), BodyError> {
        match self.try_fill(&mut buf, at, upto).await {
            Ok(end) => Ok((buf, end)),
            Err(error) => {
                self.failure = Some(error);
                Err(BodyError::Io)
            }
        }
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        if self.given != self.length {
            return Err(BodyError::Incomplete);
        }
        if let Some(hasher) = self.hasher.take() {
            self.checksum = Some(hasher.finish());
        }
        Ok(())
    }

    fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }
}

fn too_large() -> S3Error {
    S3Error::new(
        Code::InvalidRequest,
        format!(
            "The specified copy source is larger than the maximum allowable size for a copy source: {PUT_SIZE_MAX}"
        ),
    )
}

fn check_no_content(document: &[u8]) -> S3Result<()> {
    // A body with a copy is a PUT that somebody turned into a copy, or a confused client.
    if document.is_empty() {
        Ok(())
    } else {
        Err(Code::UnexpectedContent.into())
    }
}

/// The source of a copy, opened, and the room that the copy has.
struct Opened<R> {
    bucket: BucketInfo,
    key: Vec<u8>,
    reader: R,
    range: (u64, u64),
    _room: Permit,
}

/// Opens the source: only for those who may read it, and if it is as they demand.
async fn open<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
    ranged: bool,
) -> S3Result<Opened<S::Reader>> {
    let head = request.head;
    let source = parse_source(head.single("x-amz-copy-source")?.unwrap_or(b""))?;
    let expected = head.single("x-amz-source-expected-bucket-owner")?;
    let bucket = bucket_called(store, request.user, &source.bucket, expected).await?;
    if source.other_version {
        return Err(Code::NoSuchVersion.into());
    }
    let failed = |error: StoreError| {
        let error = S3Error::from(error);
        if error.code == Code::NoSuchKey {
            return error.with("Key", String::from_utf8_lossy(&source.key));
        }
        error
    };
    let chosen = |info: &ObjectInfo| -> S3Result<(u64, u64)> {
        check_copy_source(head, &info.etag, info.modified_ms)?;
        let range = if ranged {
            source_range(head, info.size)?
        } else {
            None
        };
        let (start, end) = range.unwrap_or((0, info.size));
        if end - start > PUT_SIZE_MAX {
            return Err(too_large());
        }
        Ok((start, end))
    };
    // An open reader holds memory, so it comes after the room for it.
    let info = store.head(&bucket, &source.key).await.map_err(failed)?;
    let (start, end) = chosen(&info)?;
    let is_small = |(start, end): (u64, u64)| end - start <= SMALL_COPY_SIZE_MAX;
    let small = is_small((start, end));
    let room = if small {
        request.limits.small_copies.acquire(1).await
    } else {
        request.limits.large_copies.acquire(1).await
    };
    let reader = store.get(&bucket, &source.key).await.map_err(failed)?;
    // What is read is what counts: the object may be another one by now.
    let range = chosen(reader.info())?;
    if small && !is_small(range) {
        return Err(Code::SlowDown.into());
    }
    Ok(Opened {
        bucket,
        key: source.key,
        reader,
        range,
        _room: room,
    })
}

/// A header with the values `COPY` (and nothing) and `REPLACE`: whether it is the latter.
fn replaces(head: &Head, name: &'static str, message: &'static str) -> S3Result<bool> {
    match head.single(name)? {
        None | Some(b"COPY") => Ok(false),
        Some(b"REPLACE") => Ok(true),
        Some(_) => Err(S3Error::invalid_argument(message, name)),
    }
}

pub(super) async fn copy_object<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
    document: &[u8],
) -> S3Result<Answer<S::Reader>> {
    check_no_content(document)?;
    let head = request.head;
    let replaces_metadata = replaces(
        head,
        "x-amz-metadata-directive",
        "Unknown metadata directive.",
    )?;
    // There are no tags: copied or replaced by none, they are the same.
    replaces(
        head,
        "x-amz-tagging-directive",
        "Unknown tagging directive.",
    )?;
    let given = object_headers(head, &request.user.id)?;
    let algorithm = named_algorithm(head)?;
    let bucket = bucket_of(store, request).await?;
    let key = &request.resource.key;
    let opened = open(store, request, false).await?;
    let changes = replaces_metadata || head.first("x-amz-storage-class").is_some();
    if !changes && opened.bucket.id == bucket.id && opened.key == *key {
        return Err(S3Error::new(
            Code::InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without \
             changing the object's metadata, storage class, website redirect location or \
             encryption attributes.",
        ));
    }
    let condition = condition(store, &bucket, request).await?;
    let info = opened.reader.info();
    let headers = if replaces_metadata {
        given
    } else {
        ObjectHeaders {
            owner: request.user.id.clone(),
            storage_class: storage_class(head)?,
            ..info.headers.clone()
        }
    };
    let algorithm = algorithm
        .or(info.checksum.map(|(checksum, _)| checksum.algorithm))
        .unwrap_or(DEFAULT_CHECKSUM);
    let mut body = CopyBody::new(opened.reader, opened.range, algorithm);
    let done = store
        .put(&bucket, key, headers, condition, &mut body)
        .await
        .map_err(|error| with_key(body.explain(error), request))?;
    let mut xml = Document::new("CopyObjectResult");
    xml.leaf("LastModified", &date::iso(done.modified_ms))
        .leaf("ETag", &format!("\"{}\"", done.etag));
    if let Some((checksum, kind)) = &done.checksum {
        xml.leaf(checksum.algorithm.element(), &checksum.base64())
            .leaf("ChecksumType", kind.name());
    }
    Ok(Answer::xml(xml.finish("CopyObjectResult")))
}

pub(super) async fn upload_part_copy<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
    document: &[u8],
) -> S3Result<Answer<S::Reader>> {
    check_no_content(document)?;
    let number = required_part_number(request.query)?;
    let bucket = bucket_of(store, request).await?;
    let id = upload_id(request.query)?;
    let key = &request.resource.key;
    let upload = store
        .upload(&bucket, key, id)
        .await
        .map_err(|error| with_upload(error, id, request))?;
    let opened = open(store, request, true).await?;
    let algorithm = upload
        .checksum
        .map_or(DEFAULT_CHECKSUM, |(algorithm, _)| algorithm);
    let mut body = CopyBody::new(opened.reader, opened.range, algorithm);
    let part = store
        .put_part(&bucket, key, id, number, &mut body)
        .await
        .map_err(|error| with_upload(body.explain(error), id, request))?;
    let mut xml = Document::new("CopyPartResult");
    xml.leaf("LastModified", &date::iso(part.modified_ms))
        .leaf("ETag", &format!("\"{}\"", Etag::plain(part.md5)));
    if let Some(checksum) = &part.info.checksum {
        xml.leaf(checksum.algorithm.element(), &checksum.base64());
    }
    Ok(Answer::xml(xml.finish("CopyPartResult")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::sigv4::tests::head;
    use proptest::prelude::*;

    #[test]
    fn sources_are_decoded_once() {
        let of = |bucket: &str, key: &str, other_version| {
            Ok(Source {
                bucket: bucket.to_owned(),
                key: key.as_bytes().to_vec(),
                other_version,
            })
        };
        let invalid = || Err(Code::InvalidArgument);
        let long = format!("b/{}", "a".repeat(KEY_SIZE_MAX));
        let cases = [
            ("b/k", of("b", "k", false)),
            ("/b/k", of("b", "k", false)),
            ("b//k", of("b", "/k", false)),
            ("/b/../k/.", of("b", "../k/.", false)),
            ("b/a+b%20c%2B%252F%3F", of("b", "a b c+%2F?", false)),
            ("%2Fb%2Fk", of("b", "k", false)),
            ("b%2Fk", of("b", "k", false)),
            ("b/%E2%82%AC", of("b", "€", false)),
            ("b/€", of("b", "€", false)),
            ("b/k?versionId=null", of("b", "k", false)),
            ("b/k?versionId=%6Eull", of("b", "k", false)),
            ("b/k?versionId=3", of("b", "k", true)),
            ("b/k?versionId=", invalid()),
            ("b/k?versionid=null", invalid()),
            ("b/k?acl", invalid()),
            ("b/k?", invalid()),
            ("", invalid()),
            ("/", invalid()),
            ("b", invalid()),
            ("b/", invalid()),
            ("/b", invalid()),
            ("//k", invalid()),
            ("/%2Fb/k", invalid()),
            ("b/%", invalid()),
            ("b/%ff", invalid()),
            ("b/%00", invalid()),
            (&long, of("b", &long[2..], false)),
            (&format!("{long}a"), Err(Code::KeyTooLongError)),
        ];
        for (value, expected) in cases {
            let found = parse_source(value.as_bytes()).map_err(|error| error.code);
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn ranges_of_sources_lie_within() {
        let invalid = Err(Code::InvalidArgument);
        let cases = [
            ("bytes=0-0", Ok(Some((0, 1)))),
            ("bytes=0-99", Ok(Some((0, 100)))),
            ("bytes=99-99", Ok(Some((99, 100)))),
            ("bytes=0-100", invalid),
            ("bytes=100-100", invalid),
            ("bytes=5-4", invalid),
            ("bytes=5-", invalid),
            ("bytes=-5", invalid),
            ("bytes=0-1,3-4", invalid),
            ("bytes=+0-1", invalid),
            ("bytes = 0-1", invalid),
            ("bytes=0-99999999999999999999999999", invalid),
            ("0-1", invalid),
            ("", invalid),
        ];
        for (value, expected) in cases {
            let head = head(&format!(
                "PUT /b/k HTTP/1.1\nHost: h\nx-amz-copy-source-range: {value}"
            ));
            let found = source_range(&head, 100).map_err(|error| error.code);
            assert_eq!(found, expected, "{value}");
        }
        let plain = head("PUT /b/k HTTP/1.1\nHost: h");
        assert_eq!(source_range(&plain, 0), Ok(None));
    }

    proptest! {
        #[test]
        fn noise_never_panics(
            any in proptest::collection::vec(any::<u8>(), 0..60),
            noise in "[b/k?versionId=%0-9nul-]{0,40}",
            size in any::<u64>(),
        ) {
            for value in [&any[..], noise.as_bytes()] {
                if let Ok(source) = parse_source(value) {
                    prop_assert!(!source.bucket.contains('/') && !source.key.is_empty());
                }
            }
            let head = head(&format!(
                "PUT /b/k HTTP/1.1\nHost: h\nx-amz-copy-source-range: bytes={noise}"
            ));
            if let Ok(Some((start, end))) = source_range(&head, size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}
