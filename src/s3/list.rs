//! The listings of a bucket: their parameters and their documents.
//!
//! Objects are listed in three shapes, which differ in how a page says where the next one begins:
//! `ListObjects` by the last name, `ListObjectsV2` by a token, `ListObjectVersions` by a name and a
//! version, which is always `null` here. `ListMultipartUploads` lists what is not complete.

use crate::http::date;
use crate::http::target::{ENCODED_PATH, Query};
use crate::object::{
    BucketInfo, ListEntry, ListPage, ListRequest, ListedObject, UploadEntry, UploadId, UploadInfo,
    UploadsPage, UploadsRequest, checksum,
};
use crate::s3::error::{S3Error, S3Result};
use crate::s3::names::KEY_SIZE_MAX;
use crate::s3::users::Users;
use crate::s3::xml::Document;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most entries of one page; a client that asks for more gets this many.
pub const PAGE_KEYS_MAX: usize = 1000;

/// Largest number that a client may ask for, as on AWS.
const ASKED_MAX: usize = i32::MAX as usize;

/// The version that every object has.
pub const NULL_VERSION: &str = "null";

/// First byte of a token, so that its layout may change.
const TOKEN_VERSION: u8 = 1;

/// What all listings have in common.
#[derive(Debug)]
struct Common<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    max: usize,
    encode: bool,
}

impl<'a> Common<'a> {
    /// `max` names the parameter that bounds a page.
    fn parse(query: &'a Query<'_>, max: &'static str) -> S3Result<Self> {
        let encode = encodes(query)?;
        let max = count(query, max)?.map_or(PAGE_KEYS_MAX, |max| max.min(PAGE_KEYS_MAX));
        Ok(Self {
            prefix: text(query, "prefix")?.unwrap_or(""),
            delimiter: text(query, "delimiter")?.filter(|delimiter| !delimiter.is_empty()),
            max,
            encode,
        })
    }

    /// Whether there may be anything to list at all.
    fn may_find(&self) -> bool {
        self.max > 0 && self.prefix.len() <= KEY_SIZE_MAX
    }

    fn delimiter(&self) -> Option<Vec<u8>> {
        self.delimiter
            .map(|delimiter| delimiter.as_bytes().to_vec())
    }

    /// A key, or a part of one, as this answer writes it.
    fn name(&self, bytes: &[u8]) -> String {
        if self.encode {
            percent_encoding::percent_encode(bytes, ENCODED_PATH).to_string()
        } else {
            // Keys are UTF-8: the front stores no others.
            String::from_utf8_lossy(bytes).into_owned()
        }
    }

    /// What follows the markers: the bound, and how names are to be read.
    fn describe(&self, xml: &mut Document, max: &str, truncated: bool) {
        xml.leaf(max, &self.max.to_string());
        if let Some(delimiter) = self.delimiter {
            xml.leaf("Delimiter", &self.name(delimiter.as_bytes()));
        }
        if self.encode {
            xml.leaf("EncodingType", "url");
        }
        xml.leaf("IsTruncated", if truncated { "true" } else { "false" });
    }

    fn common_prefix(&self, xml: &mut Document, prefix: &[u8]) {
        xml.open("CommonPrefixes")
            .leaf("Prefix", &self.name(prefix))
            .close("CommonPrefixes");
    }
}

/// How a page of objects says where it begins and where the next one does.
#[derive(Debug)]
enum Shape<'a> {
    V1 {
        marker: &'a str,
    },
    V2 {
        start_after: Option<&'a str>,
        token: Option<&'a str>,
        fetch_owner: bool,
    },
    Versions {
        key_marker: &'a str,
        version_marker: &'a str,
    },
}

/// The parameters of one call that lists objects.
#[derive(Debug)]
pub struct List<'a> {
    common: Common<'a>,
    shape: Shape<'a>,
    after: Vec<u8>,
}

impl<'a> List<'a> {
    /// `ListObjects`
    pub fn v1(query: &'a Query<'_>) -> S3Result<Self> {
        let marker = text(query, "marker")?.unwrap_or("");
        let shape = Shape::V1 { marker };
        Self::new(query, shape, marker.as_bytes().to_vec())
    }

    /// `ListObjectsV2`
    pub fn v2(query: &'a Query<'_>) -> S3Result<Self> {
        let token = text(query, "continuation-token")?;
        let start_after = text(query, "start-after")?;
        let after = match token {
            Some(token) => parse_token(token).ok_or_else(|| {
                S3Error::invalid_argument(
                    "The continuation token provided is incorrect",
                    "continuation-token",
                )
            })?,
            None => start_after.unwrap_or("").as_bytes().to_vec(),
        };
        let fetch_owner = match text(query, "fetch-owner")? {
            None | Some("") => false,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(_) => {
                return Err(S3Error::invalid_argument(
                    "fetch-owner must be true or false",
                    "fetch-owner",
                ));
            }
        };
        let shape = Shape::V2 {
            start_after,
            token,
            fetch_owner,
        };
        Self::new(query, shape, after)
    }

    /// `ListObjectVersions`. A page begins behind all versions of `key-marker`: there is one.
    pub fn versions(query: &'a Query<'_>) -> S3Result<Self> {
        let key_marker = text(query, "key-marker")?;
        let version_marker = text(query, "version-id-marker")?;
        let refused = |message| Err(S3Error::invalid_argument(message, "version-id-marker"));
        match (version_marker, key_marker) {
            (None, _) | (Some(NULL_VERSION), Some(_)) => {}
            (Some(""), _) => return refused("A version-id marker cannot be empty."),
            (Some(_), None) => {
                return refused("A version-id marker cannot be specified without a key marker.");
            }
            (Some(_), Some(_)) => return refused("Invalid version id specified"),
        }
        let key_marker = key_marker.unwrap_or("");
        let shape = Shape::Versions {
            key_marker,
            version_marker: version_marker.unwrap_or(""),
        };
        Self::new(query, shape, key_marker.as_bytes().to_vec())
    }

    fn new(query: &'a Query<'_>, shape: Shape<'a>, mut after: Vec<u8>) -> S3Result<Self> {
        // No key lies between a string that is longer than any key and its beginning.
        after.truncate(KEY_SIZE_MAX);
        Ok(Self {
            common: Common::parse(query, "max-keys")?,
            shape,
            after,
        })
    }

    /// What to ask the store; `None` if the answer is empty whatever is stored.
    pub fn request(&self) -> Option<ListRequest> {
        let common = &self.common;
        common.may_find().then(|| ListRequest {
            prefix: common.prefix.as_bytes().to_vec(),
            delimiter: common.delimiter(),
            after: self.after.clone(),
            max_keys: common.max,
        })
    }

    pub fn document(&self, bucket: &BucketInfo, page: &ListPage, users: &Users) -> Vec<u8> {
        let common = &self.common;
        let root = match self.shape {
            Shape::V1 { .. } | Shape::V2 { .. } => "ListBucketResult",
            Shape::Versions { .. } => "ListVersionsResult",
        };
        let mut xml = Document::new(root);
        xml.leaf("Name", &bucket.name)
            .leaf("Prefix", &common.name(common.prefix.as_bytes()));
        self.markers(&mut xml, page);
        common.describe(&mut xml, "MaxKeys", page.truncated);
        for entry in &page.entries {
            match entry {
                ListEntry::Object(object) => self.object(&mut xml, object, users),
                ListEntry::Prefix(prefix) => common.common_prefix(&mut xml, prefix),
            }
        }
        xml.finish(root)
    }

    fn markers(&self, xml: &mut Document, page: &ListPage) {
        let common = &self.common;
        let next = page.truncated.then_some(&page.next_after[..]);
        match self.shape {
            Shape::V1 { marker } => {
                xml.leaf("Marker", &common.name(marker.as_bytes()));
                // Without a delimiter the last key is the marker, and AWS says no more.
                if let (Some(next), Some(_)) = (next, common.delimiter) {
                    xml.leaf("NextMarker", &common.name(next));
                }
            }
            Shape::V2 {
                start_after, token, ..
            } => {
                if let Some(start_after) = start_after {
                    xml.leaf("StartAfter", &common.name(start_after.as_bytes()));
                }
                xml.optional("ContinuationToken", token);
                if let Some(next) = next {
                    xml.leaf("NextContinuationToken", &write_token(next));
                }
                xml.leaf("KeyCount", &page.entries.len().to_string());
            }
            Shape::Versions {
                key_marker,
                version_marker,
            } => {
                xml.leaf("KeyMarker", &common.name(key_marker.as_bytes()))
                    .leaf("VersionIdMarker", version_marker);
                if let Some(next) = next {
                    xml.leaf("NextKeyMarker", &common.name(next));
                    if matches!(page.entries.last(), Some(ListEntry::Object(_))) {
                        xml.leaf("NextVersionIdMarker", NULL_VERSION);
                    }
                }
            }
        }
    }

    fn object(&self, xml: &mut Document, object: &ListedObject, users: &Users) {
        let versions = matches!(self.shape, Shape::Versions { .. });
        let with_owner = !matches!(
            self.shape,
            Shape::V2 {
                fetch_owner: false,
                ..
            }
        );
        let element = if versions { "Version" } else { "Contents" };
        xml.open(element)
            .leaf("Key", &self.common.name(&object.key));
        if versions {
            xml.leaf("VersionId", NULL_VERSION).leaf("IsLatest", "true");
        }
        xml.leaf("LastModified", &date::iso(object.modified_ms))
            .leaf("ETag", &format!("\"{}\"", object.etag));
        checksum_of(xml, object.checksum);
        xml.leaf("Size", &object.size.to_string());
        if with_owner {
            owner(xml, &object.owner, users);
        }
        xml.leaf("StorageClass", class(object.storage_class.as_deref()))
            .close(element);
    }
}

/// The parameters of `ListMultipartUploads`.
#[derive(Debug)]
pub struct Uploads<'a> {
    common: Common<'a>,
    key_marker: &'a str,
    /// Means nothing without a key.
    upload_marker: Option<UploadId>,
}

impl<'a> Uploads<'a> {
    pub fn parse(query: &'a Query<'_>) -> S3Result<Self> {
        let key_marker = text(query, "key-marker")?.unwrap_or("");
        let upload_marker = match text(query, "upload-id-marker")? {
            Some(marker) if !marker.is_empty() && !key_marker.is_empty() => {
                let found = UploadId::parse(marker.as_bytes()).ok_or_else(|| {
                    S3Error::invalid_argument("Invalid uploadId marker", "upload-id-marker")
                        .with("ArgumentValue", marker)
                })?;
                Some(found)
            }
            _ => None,
        };
        Ok(Self {
            common: Common::parse(query, "max-uploads")?,
            key_marker,
            upload_marker,
        })
    }

    /// What to ask the store; `None` if the answer is empty whatever is stored.
    pub fn request(&self) -> Option<UploadsRequest> {
        let common = &self.common;
        common.may_find().then(|| {
            let mut after = self.key_marker.as_bytes().to_vec();
            // As for objects; no upload has a key that is cut.
            let after_upload = self.upload_marker.filter(|_| after.len() <= KEY_SIZE_MAX);
            after.truncate(KEY_SIZE_MAX);
            UploadsRequest {
                prefix: common.prefix.as_bytes().to_vec(),
                delimiter: common.delimiter(),
                after,
                after_upload,
                max_uploads: common.max,
            }
        })
    }

    pub fn document(&self, bucket: &BucketInfo, page: &UploadsPage, users: &Users) -> Vec<u8> {
        const ROOT: &str = "ListMultipartUploadsResult";
        let common = &self.common;
        let mut xml = Document::new(ROOT);
        let marker = self.upload_marker.map(|id| id.to_string());
        xml.leaf("Bucket", &bucket.name)
            .leaf("KeyMarker", &common.name(self.key_marker.as_bytes()))
            .leaf("UploadIdMarker", marker.as_deref().unwrap_or(""));
        if page.truncated {
            xml.leaf("NextKeyMarker", &common.name(&page.next_after));
            let next = page.next_after_upload.map(|id| id.to_string());
            xml.optional("NextUploadIdMarker", next.as_deref());
        }
        xml.leaf("Prefix", &common.name(common.prefix.as_bytes()));
        common.describe(&mut xml, "MaxUploads", page.truncated);
        for entry in &page.entries {
            match entry {
                UploadEntry::Upload(upload) => self.upload(&mut xml, upload, users),
                UploadEntry::Prefix(prefix) => common.common_prefix(&mut xml, prefix),
            }
        }
        xml.finish(ROOT)
    }

    fn upload(&self, xml: &mut Document, upload: &UploadInfo, users: &Users) {
        let id = &upload.headers.owner;
        xml.open("Upload")
            .leaf("Key", &self.common.name(&upload.key))
            .leaf("UploadId", &upload.id.to_string());
        person(xml, "Initiator", id, users);
        person(xml, "Owner", id, users);
        xml.leaf(
            "StorageClass",
            class(upload.headers.storage_class.as_deref()),
        )
        .leaf("Initiated", &date::iso(upload.initiated_ms));
        checksum_of(xml, upload.checksum);
        xml.close("Upload");
    }
}

pub fn class(stored: Option<&str>) -> &str {
    stored.unwrap_or("STANDARD")
}

pub fn checksum_of(xml: &mut Document, found: Option<(checksum::Algorithm, checksum::Kind)>) {
    if let Some((algorithm, kind)) = found {
        xml.leaf("ChecksumAlgorithm", algorithm.name())
            .leaf("ChecksumType", kind.name());
    }
}

pub fn owner(xml: &mut Document, id: &str, users: &Users) {
    person(xml, "Owner", id, users);
}

pub fn person(xml: &mut Document, element: &str, id: &str, users: &Users) {
    xml.open(element)
        .leaf("ID", id)
        .leaf("DisplayName", users.name_of(id).unwrap_or(id))
        .close(element);
}

/// A parameter that is text without NUL.
pub fn text<'a>(query: &'a Query<'_>, name: &'static str) -> S3Result<Option<&'a str>> {
    let Some(value) = query.get(name) else {
        return Ok(None);
    };
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Ok(Some(text)),
        _ => Err(S3Error::invalid_argument(
            "The value must be UTF-8 without NUL.",
            name,
        )),
    }
}

/// A parameter that is a number.
pub fn count(query: &Query<'_>, name: &'static str) -> S3Result<Option<usize>> {
    match text(query, name)? {
        None | Some("") => Ok(None),
        Some(value) => parse_count(value)
            .filter(|count| *count <= ASKED_MAX)
            .map(Some)
            .ok_or_else(|| {
                let message =
                    format!("Argument {name} must be an integer between 0 and {ASKED_MAX}");
                S3Error::invalid_argument(message, name).with("ArgumentValue", value)
            }),
    }
}

/// Whether the client wants names escaped.
pub fn encodes(query: &Query<'_>) -> S3Result<bool> {
    match text(query, "encoding-type")? {
        None | Some("") => Ok(false),
        Some("url") => Ok(true),
        Some(_) => Err(S3Error::invalid_argument(
            "Invalid Encoding Method specified in Request",
            "encoding-type",
        )),
    }
}

/// Digits only; more than fit are as many as fit.
pub fn parse_count(value: &str) -> Option<usize> {
    (!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| value.parse().unwrap_or(usize::MAX))
}

/// A token says where the next page begins. It is opaque to clients, and no secret.
pub fn write_token(after: &[u8]) -> String {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend_from_slice(after);
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn parse_token(token: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (&version, after) = bytes.split_first()?;
    (version == TOKEN_VERSION && !after.contains(&0)).then(|| after.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{BucketId, Etag, ListedObject};
    use crate::s3::error::Code;
    use crate::s3::xml::leaves;

    fn page() -> ListPage {
        let object = |key: &str| {
            ListEntry::Object(ListedObject {
                key: key.as_bytes().to_vec(),
                size: 3,
                etag: Etag::plain([1; 16]),
                modified_ms: 1_369_353_600_123,
                owner: "root-id".to_owned(),
                storage_class: None,
                checksum: None,
            })
        };
        let entries = vec![
            object("a b+c&<\u{1}"),
            ListEntry::Prefix(b"d/\xc3\xa9/".to_vec()),
        ];
        ListPage {
            entries,
            truncated: true,
            next_after: b"d/\xc3\xa9/".to_vec(),
        }
    }

    fn bucket() -> BucketInfo {
        BucketInfo {
            name: "b".to_owned(),
            id: BucketId(1),
            owner: "root-id".to_owned(),
            created_ms: 0,
            region: "us-east-1".to_owned(),
        }
    }

    fn document(raw: &str) -> Vec<(String, String)> {
        let query = Query::parse(raw.as_bytes()).unwrap();
        let users = Users::new("us-east-1", []);
        let bytes = List::v2(&query)
            .unwrap()
            .document(&bucket(), &page(), &users);
        leaves(&bytes, "ListBucketResult").unwrap()
    }

    fn get<'a>(document: &'a [(String, String)], name: &str) -> Option<&'a str> {
        document
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    #[test]
    fn documents_say_what_was_asked_and_found() {
        let plain = document("list-type=2&prefix=a+b&delimiter=/");
        assert_eq!(get(&plain, "Contents/Key"), Some("a b+c&<\u{1}"));
        assert_eq!(get(&plain, "Prefix"), Some("a b"));
        assert_eq!(get(&plain, "CommonPrefixes/Prefix"), Some("d/é/"));
        assert_eq!(get(&plain, "KeyCount"), Some("2"));
        assert_eq!(get(&plain, "MaxKeys"), Some("1000"));
        assert_eq!(
            get(&plain, "Contents/LastModified"),
            Some("2013-05-24T00:00:00.123Z")
        );
        assert_eq!(get(&plain, "Contents/Owner/ID"), None);
        let encoded = document("list-type=2&encoding-type=url&fetch-owner=true&max-keys=7");
        assert_eq!(get(&encoded, "Contents/Key"), Some("a%20b%2Bc%26%3C%01"));
        assert_eq!(get(&encoded, "CommonPrefixes/Prefix"), Some("d/%C3%A9/"));
        assert_eq!(get(&encoded, "MaxKeys"), Some("7"));
        assert_eq!(get(&encoded, "Contents/Owner/ID"), Some("root-id"));
        let token = get(&encoded, "NextContinuationToken").unwrap();
        let raw = format!("continuation-token={token}&start-after=x");
        let query = Query::parse(raw.as_bytes()).unwrap();
        let next = List::v2(&query).unwrap().request().unwrap();
        assert_eq!(next.after, "d/é/".as_bytes());
    }

    #[test]
    fn parameters_are_checked() {
        let parse = |raw: &str| {
            let query = Query::parse(raw.as_bytes()).unwrap();
            List::v2(&query)
                .map(|list| list.request())
                .map_err(|error| error.code)
        };
        for bad in [
            "max-keys=-1",
            "max-keys=a",
            "max-keys=1.5",
            "max-keys=+1",
            "max-keys=2147483648",
            "max-keys=99999999999999999999",
            "fetch-owner=yes",
            "encoding-type=xml",
            "prefix=%ff",
            "prefix=a%00",
            "start-after=%00",
            "delimiter=%00",
            "continuation-token=!",
            "continuation-token=",
            "continuation-token=AA",
        ] {
            assert_eq!(parse(bad).err(), Some(Code::InvalidArgument), "{bad}");
        }
        for (asked, granted) in [
            ("1", 1),
            ("999", 999),
            ("1000", 1000),
            ("1001", 1000),
            ("2147483647", 1000),
            ("", 1000),
        ] {
            let found = parse(&format!("max-keys={asked}")).unwrap().unwrap();
            assert_eq!(found.max_keys, granted, "{asked}");
        }
        assert!(parse("max-keys=0").unwrap().is_none());
        assert!(
            parse(&format!("prefix={}", "a".repeat(KEY_SIZE_MAX + 1)))
                .unwrap()
                .is_none()
        );
        let long = format!("start-after={}", "a".repeat(KEY_SIZE_MAX + 9));
        assert_eq!(parse(&long).unwrap().unwrap().after.len(), KEY_SIZE_MAX);
        assert_eq!(parse("delimiter=").unwrap().unwrap().delimiter, None);
    }

    #[test]
    fn names_go_on_where_a_page_ended() {
        let users = Users::new("us-east-1", []);
        let write = |raw: &str, versions: bool, page: &ListPage| {
            let query = Query::parse(raw.as_bytes()).unwrap();
            let (list, root) = if versions {
                (List::versions(&query), "ListVersionsResult")
            } else {
                (List::v1(&query), "ListBucketResult")
            };
            leaves(&list.unwrap().document(&bucket(), page, &users), root).unwrap()
        };
        let mut page = page();
        let plain = write("marker=x%26", false, &page);
        assert_eq!(get(&plain, "Marker"), Some("x&"));
        assert_eq!(get(&plain, "NextMarker"), None);
        assert_eq!(get(&plain, "KeyCount"), None);
        assert_eq!(get(&plain, "Contents/Owner/ID"), Some("root-id"));
        let by_folder = write("delimiter=/&encoding-type=url", false, &page);
        assert_eq!(get(&by_folder, "NextMarker"), Some("d/%C3%A9/"));
        assert_eq!(get(&by_folder, "Marker"), Some(""));

        let versions = write("versions&key-marker=a&version-id-marker=null", true, &page);
        assert_eq!(get(&versions, "KeyMarker"), Some("a"));
        assert_eq!(get(&versions, "VersionIdMarker"), Some("null"));
        assert_eq!(get(&versions, "NextKeyMarker"), Some("d/é/"));
        // The page ended with a prefix, which has no version.
        assert_eq!(get(&versions, "NextVersionIdMarker"), None);
        assert_eq!(get(&versions, "Version/VersionId"), Some("null"));
        assert_eq!(get(&versions, "Version/IsLatest"), Some("true"));
        page.entries.pop();
        let versions = write("versions", true, &page);
        assert_eq!(get(&versions, "NextVersionIdMarker"), Some("null"));
        page.truncated = false;
        assert_eq!(get(&write("delimiter=/", false, &page), "NextMarker"), None);
        assert_eq!(get(&write("versions", true, &page), "NextKeyMarker"), None);

        for bad in [
            "version-id-marker=null",
            "key-marker=a&version-id-marker=",
            "key-marker=a&version-id-marker=abc",
        ] {
            let query = Query::parse(bad.as_bytes()).unwrap();
            let found = List::versions(&query).map_err(|error| error.code);
            assert_eq!(found.err(), Some(Code::InvalidArgument), "{bad}");
        }
    }

    #[test]
    fn uploads_are_described() {
        use crate::object::ObjectHeaders;
        let upload = |key: &str, id: u8| {
            UploadEntry::Upload(UploadInfo {
                id: UploadId([id; 16]),
                key: key.as_bytes().to_vec(),
                initiated_ms: 1_369_353_600_123,
                headers: ObjectHeaders {
                    owner: "root-id".to_owned(),
                    ..ObjectHeaders::default()
                },
                checksum: Some((checksum::Algorithm::Crc32, checksum::Kind::Composite)),
            })
        };
        let page = UploadsPage {
            entries: vec![UploadEntry::Prefix(b"a/".to_vec()), upload("k<", 0xab)],
            truncated: true,
            next_after: b"k<".to_vec(),
            next_after_upload: Some(UploadId([0xab; 16])),
        };
        let users = Users::new("us-east-1", []);
        let query = Query::parse(b"uploads&key-marker=a&delimiter=/&max-uploads=2").unwrap();
        let uploads = Uploads::parse(&query).unwrap();
        let document = uploads.document(&bucket(), &page, &users);
        let found = leaves(&document, "ListMultipartUploadsResult").unwrap();
        let id = "ab".repeat(16);
        assert_eq!(get(&found, "Bucket"), Some("b"));
        assert_eq!(get(&found, "NextKeyMarker"), Some("k<"));
        assert_eq!(get(&found, "NextUploadIdMarker"), Some(&id[..]));
        assert_eq!(get(&found, "MaxUploads"), Some("2"));
        assert_eq!(get(&found, "CommonPrefixes/Prefix"), Some("a/"));
        assert_eq!(get(&found, "Upload/Key"), Some("k<"));
        assert_eq!(get(&found, "Upload/UploadId"), Some(&id[..]));
        assert_eq!(get(&found, "Upload/Initiator/ID"), Some("root-id"));
        assert_eq!(get(&found, "Upload/ChecksumType"), Some("COMPOSITE"));
        let parse = |raw: &str| {
            let query = Query::parse(raw.as_bytes()).unwrap();
            Uploads::parse(&query)
                .map(|uploads| uploads.request())
                .map_err(|error| error.code)
        };
        let next = parse(&format!("key-marker=k&upload-id-marker={id}")).unwrap();
        let next = next.unwrap();
        assert_eq!(next.after, b"k");
        assert_eq!(next.after_upload, Some(UploadId([0xab; 16])));
        // Without a key the upload means nothing.
        let first = parse("upload-id-marker=x").unwrap().unwrap();
        assert_eq!(first.after_upload, None);
        for bad in [
            "key-marker=k&upload-id-marker=x",
            "max-uploads=-1",
            "max-uploads=2147483648",
        ] {
            assert_eq!(parse(bad).err(), Some(Code::InvalidArgument), "{bad}");
        }
        assert!(parse("max-uploads=0").unwrap().is_none());
        let most = parse("max-uploads=1001").unwrap().unwrap();
        assert_eq!(most.max_uploads, PAGE_KEYS_MAX);
    }
}
