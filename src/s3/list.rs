//! `ListObjectsV2`: its parameters and its document.

use crate::http::date;
use crate::http::target::{ENCODED_PATH, Query};
use crate::object::{BucketInfo, ListEntry, ListPage, ListRequest};
use crate::s3::error::{S3Error, S3Result};
use crate::s3::names::KEY_SIZE_MAX;
use crate::s3::users::Users;
use crate::s3::xml::Document;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most entries of one page.
pub const PAGE_KEYS_MAX: usize = 1000;

/// First byte of a token, so that its layout may change.
const TOKEN_VERSION: u8 = 1;

/// The parameters of one call.
#[derive(Debug)]
pub struct List<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    start_after: Option<&'a str>,
    token: Option<&'a str>,
    after: Vec<u8>,
    max_keys: usize,
    encode: bool,
    fetch_owner: bool,
}

impl<'a> List<'a> {
    pub fn parse(query: &'a Query<'_>) -> S3Result<Self> {
        let token = text(query, "continuation-token")?;
        let start_after = text(query, "start-after")?;
        let mut after = match token {
            Some(token) => parse_token(token).ok_or_else(|| {
                S3Error::invalid_argument(
                    "The continuation token provided is incorrect",
                    "continuation-token",
                )
            })?,
            None => start_after.unwrap_or("").as_bytes().to_vec(),
        };
        // No key lies between a string that is longer than any key and its beginning.
        after.truncate(KEY_SIZE_MAX);
        let max_keys = match text(query, "max-keys")? {
            None | Some("") => PAGE_KEYS_MAX,
            Some(value) => parse_count(value)
                .ok_or_else(|| {
                    S3Error::invalid_argument("max-keys must be a number from 0", "max-keys")
                })?
                .min(PAGE_KEYS_MAX),
        };
        let encode = match text(query, "encoding-type")? {
            None | Some("") => false,
            Some("url") => true,
            Some(_) => {
                return Err(S3Error::invalid_argument(
                    "Invalid Encoding Method specified in Request",
                    "encoding-type",
                ));
            }
        };
        Ok(Self {
            prefix: text(query, "prefix")?.unwrap_or(""),
            delimiter: text(query, "delimiter")?.filter(|delimiter| !delimiter.is_empty()),
            start_after,
            token,
            after,
            max_keys,
            encode,
            fetch_owner: query.get("fetch-owner") == Some(b"true"),
        })
    }

    /// What to ask the store; `None` if the answer is empty whatever is stored.
    pub fn request(&self) -> Option<ListRequest> {
        (self.max_keys > 0 && self.prefix.len() <= KEY_SIZE_MAX).then(|| ListRequest {
            prefix: self.prefix.as_bytes().to_vec(),
            delimiter: self
                .delimiter
                .map(|delimiter| delimiter.as_bytes().to_vec()),
            after: self.after.clone(),
            max_keys: self.max_keys,
        })
    }

    pub fn document(&self, bucket: &BucketInfo, page: &ListPage, users: &Users) -> Vec<u8> {
        let url = |bytes: &[u8]| -> String {
            if self.encode {
                percent_encoding::percent_encode(bytes, ENCODED_PATH).to_string()
            } else {
                // Keys are UTF-8: the front stores no others.
                String::from_utf8_lossy(bytes).into_owned()
            }
        };
        let mut xml = Document::new("ListBucketResult");
        xml.leaf("Name", &bucket.name)
            .leaf("Prefix", &url(self.prefix.as_bytes()));
        if let Some(start_after) = self.start_after {
            xml.leaf("StartAfter", &url(start_after.as_bytes()));
        }
        xml.optional("ContinuationToken", self.token);
        if page.truncated {
            xml.leaf("NextContinuationToken", &write_token(&page.next_after));
        }
        xml.leaf("KeyCount", &page.entries.len().to_string())
            .leaf("MaxKeys", &self.max_keys.to_string());
        if let Some(delimiter) = self.delimiter {
            xml.leaf("Delimiter", &url(delimiter.as_bytes()));
        }
        if self.encode {
            xml.leaf("EncodingType", "url");
        }
        xml.leaf("IsTruncated", if page.truncated { "true" } else { "false" });
        for entry in &page.entries {
            match entry {
                ListEntry::Object(object) => {
                    xml.open("Contents")
                        .leaf("Key", &url(&object.key))
                        .leaf("LastModified", &date::iso(object.modified_ms))
                        .leaf("ETag", &format!("\"{}\"", object.etag))
                        .leaf("Size", &object.size.to_string());
                    if self.fetch_owner {
                        owner(&mut xml, &object.owner, users);
                    }
                    xml.leaf(
                        "StorageClass",
                        object.storage_class.as_deref().unwrap_or("STANDARD"),
                    )
                    .close("Contents");
                }
                ListEntry::Prefix(prefix) => {
                    xml.open("CommonPrefixes")
                        .leaf("Prefix", &url(prefix))
                        .close("CommonPrefixes");
                }
            }
        }
        xml.finish("ListBucketResult")
    }
}

pub fn owner(xml: &mut Document, id: &str, users: &Users) {
    xml.open("Owner")
        .leaf("ID", id)
        .leaf("DisplayName", users.name_of(id).unwrap_or(id))
        .close("Owner");
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
        let bytes = List::parse(&query)
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
        let next = List::parse(&query).unwrap().request().unwrap();
        assert_eq!(next.after, "d/é/".as_bytes());
    }

    #[test]
    fn parameters_are_checked() {
        let parse = |raw: &str| {
            let query = Query::parse(raw.as_bytes()).unwrap();
            List::parse(&query)
                .map(|list| list.request())
                .map_err(|error| error.code)
        };
        for bad in [
            "max-keys=-1",
            "max-keys=a",
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
        assert_eq!(
            parse("max-keys=99999999999999999999")
                .unwrap()
                .unwrap()
                .max_keys,
            PAGE_KEYS_MAX
        );
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
}
