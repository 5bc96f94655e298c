//! `GetObjectAttributes`.

use super::object::with_key;
use super::{Answer, Request, bucket_of};
use crate::http::date;
use crate::object::{ObjectInfo, ObjectStore};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::parse_count;
use crate::s3::xml::Document;

/// Most parts of one page.
const PAGE_PARTS_MAX: usize = 1000;

/// What is asked for.
#[derive(Default)]
struct Wanted {
    etag: bool,
    checksum: bool,
    parts: bool,
    storage_class: bool,
    size: bool,
}

fn wanted(request: Request<'_>) -> S3Result<Wanted> {
    const NAME: &str = "x-amz-object-attributes";
    let mut wanted = Wanted::default();
    let mut any = false;
    for value in request.head.all(NAME) {
        for attribute in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let slot = match attribute {
                b"ETag" => &mut wanted.etag,
                b"Checksum" => &mut wanted.checksum,
                b"ObjectParts" => &mut wanted.parts,
                b"StorageClass" => &mut wanted.storage_class,
                b"ObjectSize" => &mut wanted.size,
                _ => {
                    return Err(S3Error::invalid_argument(
                        "Invalid attribute name specified.",
                        NAME,
                    ));
                }
            };
            *slot = true;
            any = true;
        }
    }
    if any {
        Ok(wanted)
    } else {
        Err(S3Error::new(
            Code::InvalidRequest,
            "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty",
        ))
    }
}

/// A header that is a number.
fn number(request: Request<'_>, name: &'static str) -> S3Result<Option<usize>> {
    let Some(value) = request.head.single(name)? else {
        return Ok(None);
    };
    let parsed = std::str::from_utf8(value).ok().and_then(parse_count);
    match parsed {
        Some(number) => Ok(Some(number)),
        None => Err(S3Error::invalid_argument(
            "The value must be a number from 0.",
            name,
        )),
    }
}

pub(super) async fn attributes<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let wanted = wanted(request)?;
    let max = number(request, "x-amz-max-parts")?
        .unwrap_or(PAGE_PARTS_MAX)
        .min(PAGE_PARTS_MAX);
    let after = number(request, "x-amz-part-number-marker")?.unwrap_or(0);
    let bucket = bucket_of(store, request).await?;
    let info = store
        .head(&bucket, &request.resource.key)
        .await
        .map_err(|error| with_key(error, request))?;

    let mut xml = Document::new("GetObjectAttributesResponse");
    if wanted.etag {
        xml.leaf("ETag", &info.etag.to_string());
    }
    if wanted.checksum
        && let Some((checksum, kind)) = &info.checksum
    {
        // Without the number of parts, which the headers of GET have behind it.
        xml.open("Checksum")
            .leaf(checksum.algorithm.element(), &checksum.base64())
            .leaf("ChecksumType", kind.name())
            .close("Checksum");
    }
    if wanted.parts && !info.parts.is_empty() {
        parts(&mut xml, &info, after, max);
    }
    if wanted.storage_class {
        let class = info.headers.storage_class.as_deref();
        xml.leaf("StorageClass", class.unwrap_or("STANDARD"));
    }
    if wanted.size {
        xml.leaf("ObjectSize", &info.size.to_string());
    }
    let mut answer = Answer::xml(xml.finish("GetObjectAttributesResponse"));
    answer
        .head
        .field("last-modified", date::http(info.modified_ms));
    Ok(answer)
}

fn parts(xml: &mut Document, info: &ObjectInfo, after: usize, max: usize) {
    let mut rest = info
        .parts
        .iter()
        .filter(|part| usize::from(part.number) > after);
    let page: Vec<_> = rest.by_ref().take(max).collect();
    let truncated = rest.next().is_some();
    let last = page.last().map_or(after, |part| usize::from(part.number));
    xml.open("ObjectParts")
        .leaf("PartsCount", &info.parts.len().to_string())
        .leaf("PartNumberMarker", &after.to_string())
        .leaf("NextPartNumberMarker", &last.to_string())
        .leaf("MaxParts", &max.to_string())
        .leaf("IsTruncated", if truncated { "true" } else { "false" });
    for part in page {
        xml.open("Part")
            .leaf("PartNumber", &part.number.to_string())
            .leaf("Size", &part.size.to_string());
        if let Some(checksum) = &part.checksum {
            xml.leaf(checksum.algorithm.element(), &checksum.base64());
        }
        xml.close("Part");
    }
    xml.close("ObjectParts");
}
