//! What each request header means to each operation: honoured, harmlessly ignored, or refused.
//!
//! One table. A header that carries a demand which is not met here is refused with
//! `NotImplemented`: ignoring `x-amz-server-side-encryption` or `If-None-Match` on a delete would be
//! a wrong success. Every `x-amz-*` header that is not in the table is refused; other headers that
//! are not in it have no meaning to S3.

use crate::http::head::Head;
use crate::s3::error::{S3Error, S3Result};
use crate::s3::route::Operation;

/// A set of operations.
type Set = u128;

const fn bit(operation: Operation) -> Set {
    1 << operation as u32
}

const NONE: Set = 0;
const ALL: Set = Set::MAX;
const PUT: Set = bit(Operation::PutObject);
const DELETE: Set = bit(Operation::DeleteObject);
const COPY: Set = bit(Operation::CopyObject);
const PART_COPY: Set = bit(Operation::UploadPartCopy);
const CREATE_UPLOAD: Set = bit(Operation::CreateMultipartUpload);
const COMPLETE: Set = bit(Operation::CompleteMultipartUpload);
const ATTRIBUTES: Set = bit(Operation::GetObjectAttributes);
/// What begins an object, with all that is said about it.
const BEGIN: Set = PUT | COPY | CREATE_UPLOAD;
/// What makes an object visible.
const WRITE: Set = PUT | COPY | COMPLETE;
const READ: Set = bit(Operation::GetObject) | bit(Operation::HeadObject);
const CREATE: Set = bit(Operation::CreateBucket);
const LIST: Set = bit(Operation::ListObjects)
    | bit(Operation::ListObjectsV2)
    | bit(Operation::ListObjectVersions)
    | bit(Operation::ListMultipartUploads);
/// Answers that do not depend on what is asked: conditions on them are never evaluated, as on AWS.
const CONFIGURATION: Set = {
    let mut set = 0;
    let mut at = Operation::GetBucketAbac as u32;
    while at <= Operation::DeleteObjectTagging as u32 {
        set |= 1 << at;
        at += 1;
    }
    set
};
// The range is that of the operations' order.
const _: () = assert!(CONFIGURATION.count_ones() == 45);
const _: () = assert!(CONFIGURATION & (READ | WRITE | LIST | DELETE | CREATE | BEGIN) == 0);
const PUT_ACL: Set = bit(Operation::PutBucketAcl) | bit(Operation::PutObjectAcl);
/// Operations on a bucket that exists, or on what is in it.
const OWNED: Set = ALL & !CREATE & !bit(Operation::ListBuckets);

struct Row {
    /// Lower case; with a final `-` a prefix of names.
    name: &'static str,
    /// The operation does what the header says, or refuses the value.
    honoured: Set,
    /// Without the header the operation would do the same.
    ignored: Set,
}

const fn row(name: &'static str, honoured: Set, ignored: Set) -> Row {
    Row {
        name,
        honoured,
        ignored,
    }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // RFC 9110: conditions and ranges. On writes they are demands.
    row("if-match", READ | WRITE | DELETE, LIST | CONFIGURATION),
    row("if-none-match", READ | WRITE, LIST | CONFIGURATION),
    row("if-modified-since", READ, ALL & !READ),
    row("if-unmodified-since", READ, LIST | CONFIGURATION),
    row("if-range", READ, ALL & !READ),
    row("range", READ, ALL & !READ),
    row("content-range", NONE, ALL & !PUT),
    // Content headers describe the object that is begun, and nothing elsewhere.
    row("cache-control", BEGIN, ALL & !BEGIN),
    row("content-disposition", BEGIN, ALL & !BEGIN),
    row("content-encoding", BEGIN, ALL & !BEGIN),
    row("content-language", BEGIN, ALL & !BEGIN),
    row("content-type", BEGIN, ALL & !BEGIN),
    row("expires", BEGIN, ALL & !BEGIN),
    row("content-md5", ALL, NONE),
    // Authentication and the transfer of the body.
    row("x-amz-date", ALL, NONE),
    row("x-amz-content-sha256", ALL, NONE),
    row("x-amz-decoded-content-length", ALL, NONE),
    row("x-amz-trailer", ALL, NONE),
    row("x-amz-sdk-checksum-algorithm", ALL, NONE),
    row("x-amz-checksum-crc32", ALL, NONE),
    row("x-amz-checksum-crc32c", ALL, NONE),
    row("x-amz-checksum-crc64nvme", ALL, NONE),
    row("x-amz-checksum-sha1", ALL, NONE),
    row("x-amz-checksum-sha256", ALL, NONE),
    row("x-amz-user-agent", NONE, ALL),
    // The SDK for Java would take a trailing MD5 of the body, if an answer said that it has one.
    row("x-amz-te", NONE, READ),
    // The owner of the store pays for everything.
    row("x-amz-request-payer", NONE, ALL),
    row("x-amz-expected-bucket-owner", OWNED, NONE),
    // Values that grant nothing to others; operations check them.
    row("x-amz-acl", BEGIN | CREATE | PUT_ACL, NONE),
    row("x-amz-object-ownership", CREATE, NONE),
    row("x-amz-bucket-object-lock-enabled", CREATE, NONE),
    row("x-amz-storage-class", BEGIN, NONE),
    row("x-amz-meta-", BEGIN, ALL & !BEGIN),
    row("x-amz-checksum-mode", READ, NONE),
    // Checksums of what is made from parts or from another object.
    row("x-amz-checksum-algorithm", COPY | CREATE_UPLOAD, NONE),
    row("x-amz-checksum-type", CREATE_UPLOAD | COMPLETE, NONE),
    row("x-amz-mp-object-size", COMPLETE, NONE),
    row("x-amz-copy-source", COPY | PART_COPY, NONE),
    row("x-amz-copy-source-if-match", COPY | PART_COPY, NONE),
    row("x-amz-copy-source-if-modified-since", COPY | PART_COPY, NONE),
    row("x-amz-copy-source-if-none-match", COPY | PART_COPY, NONE),
    row("x-amz-copy-source-if-unmodified-since", COPY | PART_COPY, NONE),
    row("x-amz-copy-source-range", PART_COPY, NONE),
    row("x-amz-source-expected-bucket-owner", COPY | PART_COPY, NONE),
    row("x-amz-metadata-directive", COPY, NONE),
    row("x-amz-tagging-directive", COPY, NONE),
    row("x-amz-object-attributes", ATTRIBUTES, NONE),
    row("x-amz-max-parts", ATTRIBUTES, NONE),
    row("x-amz-part-number-marker", ATTRIBUTES, NONE),
    // Asks for elements that only restored objects have; another value is refused.
    row("x-amz-optional-object-attributes", LIST & !bit(Operation::ListMultipartUploads), NONE),
];

/// Named refusals: headers of the model that ask for what is not there yet. They would be refused
/// without a row; the list lets a test tell a refusal from an omission.
#[cfg(test)]
const REFUSED: &[&str] = &[
    "x-amz-bucket-namespace",
    "x-amz-bypass-governance-retention",
    "x-amz-checksum-md5",
    "x-amz-checksum-sha512",
    "x-amz-checksum-xxhash128",
    "x-amz-checksum-xxhash3",
    "x-amz-checksum-xxhash64",
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-if-match-initiated-time",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-mfa",
    "x-amz-object-annotation-directive",
    "x-amz-object-lock-event-hold",
    "x-amz-object-lock-event-hold-duration-days",
    "x-amz-object-lock-event-hold-duration-years",
    "x-amz-object-lock-legal-hold",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-server-side-encryption-context",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
];

fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter()
        .find(|row| row.name == name || (row.name.ends_with('-') && name.starts_with(row.name)))
}

/// Refuses the first header that `operation` neither honours nor may ignore.
pub fn check(head: &Head, operation: Operation) -> S3Result<()> {
    for (name, _) in head.fields() {
        let known = match find(name) {
            Some(row) => (row.honoured | row.ignored) & bit(operation) != 0,
            None => !name.starts_with("x-amz-"),
        };
        if !known {
            return Err(S3Error::not_implemented(
                "A header you provided implies functionality that is not implemented",
            )
            .with("Header", name));
        }
    }
    Ok(())
}

const _: () = assert!((Operation::AbortMultipartUpload as u32) < Set::BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::error::Code;
    use crate::s3::route::served_operations;
    use crate::s3::sigv4::tests::head;

    #[test]
    fn every_header_of_a_served_operation_is_decided() {
        let model = include_str!("../../tests/s3-model/operations.tsv");
        let mut decided = 0;
        for line in model.lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            let mut served = served_operations();
            let Some((_, operation)) = served.find(|(name, _)| *name == columns[0]) else {
                continue;
            };
            for name in columns[4].split(',').filter(|name| *name != "-") {
                let name = name.to_ascii_lowercase();
                if name == "content-length" {
                    continue;
                }
                let request = head(&format!("GET / HTTP/1.1\nHost: h\n{name}: 1"));
                let accepted = check(&request, operation).is_ok();
                match find(&name) {
                    Some(row) => {
                        assert!(!REFUSED.contains(&row.name), "{name}");
                        assert_eq!(row.honoured & row.ignored, 0, "{name}");
                    }
                    None => {
                        assert!(REFUSED.contains(&name.as_str()), "{name} is not decided");
                        assert!(!accepted, "{name}");
                    }
                }
                decided += 1;
            }
        }
        assert!(decided >= 315, "{decided}");
    }

    #[test]
    fn demands_that_are_not_met_are_refused() {
        let refused = |operation, field: &str| {
            let request = head(&format!("PUT /b/k HTTP/1.1\nHost: h\n{field}"));
            check(&request, operation).map_err(|error| error.code) == Err(Code::NotImplemented)
        };
        for field in [
            "If-Unmodified-Since: x",
            "Content-Range: bytes 0-1/2",
            "x-amz-tagging: a=b",
            "x-amz-server-side-encryption: AES256",
            "x-amz-object-lock-mode: GOVERNANCE",
            "x-amz-grant-read: id=1",
            "x-amz-copy-source: /b/k",
            "x-amz-never-heard-of: 1",
        ] {
            assert!(refused(Operation::PutObject, field), "{field}");
        }
        assert!(!refused(Operation::PutObject, "If-None-Match: *"));
        assert!(!refused(Operation::DeleteObject, "If-Match: *"));
        for field in [
            "If-None-Match: *",
            "x-amz-if-match-size: 1",
            "x-amz-if-match-last-modified-time: x",
            "x-amz-mfa: 1",
        ] {
            assert!(refused(Operation::DeleteObject, field), "{field}");
        }
        for operation in [Operation::UploadPart, Operation::CreateMultipartUpload] {
            assert!(refused(operation, "If-None-Match: *"));
            assert!(refused(operation, "x-amz-copy-source: /b/k"));
        }
        assert!(refused(
            Operation::AbortMultipartUpload,
            "x-amz-if-match-initiated-time: x"
        ));
        assert!(refused(Operation::GetObject, "x-amz-acl: private"));
        assert!(!refused(Operation::GetObject, "If-Match: *"));
        assert!(!refused(
            Operation::PutObject,
            "User-Agent: a\nX-Forwarded-For: b\nAccept: c"
        ));
    }
}
