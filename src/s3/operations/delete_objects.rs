//! `DeleteObjects`: up to 1,000 deletions in one request, each with an answer of its own.

use super::{Answer, Request, Upload, bucket_of, whole_body};
use crate::http::head::Head;
use crate::object::checksum::Algorithm;
use crate::object::{BucketInfo, Condition, Etag, ObjectStore};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::NULL_VERSION;
use crate::s3::names::KEY_SIZE_MAX;
use crate::s3::xml::{Document, Element, tree};
use futures_util::StreamExt;
use futures_util::stream;
use std::collections::BTreeMap;

/// Keys of one request, as on AWS.
pub const DELETE_KEYS_MAX: usize = 1000;

/// Deletions of one request that wait for the store together: enough that they share flushes, and
/// few enough that one request does not fill the queues that all requests use.
const DELETES_IN_FLIGHT_MAX: usize = 64;

/// Elements of the largest document: `Delete`, `Quiet`, and for each object itself and five more.
const ELEMENTS_MAX: usize = 2 + 6 * DELETE_KEYS_MAX;

/// Bytes of the largest document: every byte of a key may be a reference of six (`&quot;`), and
/// markup, version and tag of an object are under 512.
pub const DELETE_DOCUMENT_SIZE_MAX: u64 = (DELETE_KEYS_MAX * (6 * KEY_SIZE_MAX + 512)) as u64;

/// One object as the client names it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    key: String,
    version: Option<String>,
    etag: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Deletions {
    objects: Vec<Named>,
    quiet: bool,
}

pub async fn run<S: ObjectStore, B: Upload>(
    store: &S,
    request: Request<'_>,
    body: &mut B,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    if !promises_its_body(request.head) {
        return Err(S3Error::new(
            Code::InvalidRequest,
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
        ));
    }
    let document = whole_body(request.limits, body, DELETE_DOCUMENT_SIZE_MAX).await?;
    let deletions = parse(&document.bytes)?;
    drop(document);
    let Deletions { objects, quiet } = &deletions;

    // What is named twice is deleted once: the answer to the second is that of the first.
    let mut first: BTreeMap<(&str, Option<&str>, Option<&str>), usize> = BTreeMap::new();
    let same: Vec<usize> = objects
        .iter()
        .enumerate()
        .map(|(at, object)| {
            let name = (
                object.key.as_str(),
                object.version.as_deref(),
                object.etag.as_deref(),
            );
            *first.entry(name).or_insert(at)
        })
        .collect();
    let mut results: Vec<S3Result<()>> = vec![Ok(()); objects.len()];
    let bucket = &bucket;
    let mut deleting = stream::iter(first.into_values())
        .map(|at| async move { (at, delete(store, bucket, &objects[at]).await) })
        .buffer_unordered(DELETES_IN_FLIGHT_MAX);
    while let Some((at, result)) = deleting.next().await {
        results[at] = result;
    }
    drop(deleting);

    let mut xml = Document::new("DeleteResult");
    for (object, same) in objects.iter().zip(same) {
        let element = match &results[same] {
            Ok(()) if *quiet => continue,
            Ok(()) => "Deleted",
            Err(_) => "Error",
        };
        xml.open(element)
            .leaf("Key", &object.key)
            .optional("VersionId", object.version.as_deref());
        if let Err(error) = &results[same] {
            xml.leaf("Code", error.code.name())
                .leaf("Message", &error.message);
        }
        xml.close(element);
    }
    Ok(Answer::xml(xml.finish("DeleteResult")))
}

/// Whether something shows that the body came whole; AWS asks for it here, signature or not.
fn promises_its_body(head: &Head) -> bool {
    head.fields().any(|(name, _)| {
        matches!(name, "content-md5" | "x-amz-trailer") || Algorithm::from_header(name).is_some()
    })
}

async fn delete<S: ObjectStore>(store: &S, bucket: &BucketInfo, object: &Named) -> S3Result<()> {
    if object.key.len() > KEY_SIZE_MAX {
        return Err(Code::KeyTooLongError.into());
    }
    if object
        .version
        .as_deref()
        .is_some_and(|id| id != NULL_VERSION)
    {
        return Err(Code::NoSuchVersion.into());
    }
    let condition = match object.etag.as_deref() {
        None => Condition::None,
        Some("*") => Condition::Present,
        // What is no tag is no object's tag.
        Some(tag) => Condition::Etag(
            Etag::parse(tag).ok_or_else(|| S3Error::from(Code::PreconditionFailed))?,
        ),
    };
    store
        .delete(bucket, object.key.as_bytes(), condition)
        .await
        .map_err(Into::into)
}

/// The schema is the model's: `Delete(Object(Key, VersionId?, ETag?)+, Quiet?)`, in any order.
pub(super) fn parse(document: &[u8]) -> S3Result<Deletions> {
    let malformed = || S3Error::from(Code::MalformedXML);
    let root = tree(document, "Delete", ELEMENTS_MAX).map_err(|_| malformed())?;
    let mut objects = Vec::new();
    let mut quiet = None;
    for element in root.children {
        match element.name.as_str() {
            "Object" if objects.len() < DELETE_KEYS_MAX => objects.push(named(element)?),
            "Quiet" if quiet.is_none() => {
                quiet = Some(match element.text.trim() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(malformed()),
                });
            }
            _ => return Err(malformed()),
        }
    }
    if objects.is_empty() {
        return Err(malformed());
    }
    Ok(Deletions {
        objects,
        quiet: quiet.unwrap_or(false),
    })
}

fn named(element: Element) -> S3Result<Named> {
    let malformed = || S3Error::from(Code::MalformedXML);
    let (mut key, mut version, mut etag) = (None, None, None);
    for child in element.children {
        let slot = match child.name.as_str() {
            "Key" => &mut key,
            "VersionId" => &mut version,
            "ETag" => &mut etag,
            // Conditions that only directory buckets have: deleting without them would be wrong.
            name @ ("LastModifiedTime" | "Size") => {
                return Err(S3Error::not_implemented(format!(
                    "{name} of an object to delete is not implemented."
                )));
            }
            _ => return Err(malformed()),
        };
        if !child.children.is_empty() || slot.replace(child.text).is_some() {
            return Err(malformed());
        }
    }
    Ok(Named {
        key: key.filter(|key| !key.is_empty()).ok_or_else(malformed)?,
        // Some clients write an empty element for what they do not name.
        version: version.filter(|version| !version.is_empty()),
        etag: etag.filter(|etag| !etag.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_follow_the_schema() {
        let text = "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>\
                    <Object><VersionId>null</VersionId><Key> a&amp;&#x1;&#13;\r\n</Key></Object>\
                    <Object><Key>k</Key><ETag>\"e\"</ETag><VersionId/></Object></Delete>";
        let named = |key: &str, version: Option<&str>, etag: Option<&str>| Named {
            key: key.to_owned(),
            version: version.map(str::to_owned),
            etag: etag.map(str::to_owned),
        };
        let expected = Deletions {
            objects: vec![
                named(" a&\u{1}\r\n", Some("null"), None),
                named("k", None, Some("\"e\"")),
            ],
            quiet: true,
        };
        assert_eq!(parse(text.as_bytes()), Ok(expected));
        for bad in [
            "<Delete/>",
            "<Delete><Quiet>true</Quiet></Delete>",
            "<Delete><Object/></Delete>",
            "<Delete><Object><Key/></Object></Delete>",
            "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
            "<Delete><Object><Key><a/></Key></Object></Delete>",
            "<Delete><Object><Key>a</Key><Other/></Object></Delete>",
            "<Delete><Object><Key>a</Key></Object><Quiet>maybe</Quiet></Delete>",
            "<Delete><Object><Key>a</Key></Object><Quiet>1</Quiet><Quiet>1</Quiet></Delete>",
            "<Delete><Object><Key>a&#0;</Key></Object></Delete>",
            "<Delete><Object><Key>a</Key></Object>",
            "<Remove><Object><Key>a</Key></Object></Remove>",
        ] {
            let found = parse(bad.as_bytes()).map_err(|error| error.code);
            assert_eq!(found, Err(Code::MalformedXML), "{bad}");
        }
        for name in ["Size", "LastModifiedTime"] {
            let text = format!("<Delete><Object><Key>a</Key><{name}>1</{name}></Object></Delete>");
            let found = parse(text.as_bytes()).map_err(|error| error.code);
            assert_eq!(found, Err(Code::NotImplemented), "{name}");
        }
    }

    #[test]
    fn a_thousand_keys_and_no_more() {
        let of = |count: usize, key: &str| {
            let one = format!(
                "<Object><Key>{key}</Key><VersionId>null</VersionId><ETag>&quot;{}&quot;</ETag></Object>",
                "0".repeat(32)
            );
            format!("<Delete>{}<Quiet>false</Quiet></Delete>", one.repeat(count))
        };
        let most = of(DELETE_KEYS_MAX, &"&quot;".repeat(KEY_SIZE_MAX));
        assert!(most.len() as u64 <= DELETE_DOCUMENT_SIZE_MAX);
        let found = parse(most.as_bytes()).unwrap();
        assert_eq!(found.objects.len(), DELETE_KEYS_MAX);
        assert_eq!(found.objects[999].key.len(), KEY_SIZE_MAX);
        let found = parse(of(DELETE_KEYS_MAX + 1, "k").as_bytes());
        assert_eq!(found.map_err(|error| error.code), Err(Code::MalformedXML));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "[<>/&;#xKeyObject \"=]{0,60}") {
            let _ = parse(noise.as_bytes());
            let _ = parse(format!("<Delete>{noise}</Delete>").as_bytes());
            let _ = parse(format!("<Delete><Object>{noise}</Object></Delete>").as_bytes());
        }
    }
}
