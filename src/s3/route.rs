//! Which operation a request is: method, resource and *all* query keys, through one table.
//!
//! A request is the operation whose row matches with the most required keys; every other key of
//! the query must be one the row accepts. So an unknown sub-resource never falls through to a plain
//! object or bucket operation: `PUT k?acl` is not `PutObject`, `PUT k?anything` is nothing at all.

use crate::http::head::{Head, Method};
use crate::http::target::Query;
use crate::s3::error::{Code, S3Error, S3Result};
use Method::{Delete, Get, Post, Put};
use On::{Bucket, Object, Service};

/// The operations that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    // What can be configured, and is not. `headers` takes them by the first and the last.
    GetBucketAbac,
    GetBucketAccelerateConfiguration,
    GetBucketAcl,
    PutBucketAcl,
    GetBucketAnalyticsConfiguration,
    DeleteBucketAnalyticsConfiguration,
    ListBucketAnalyticsConfigurations,
    GetBucketCors,
    DeleteBucketCors,
    GetBucketEncryption,
    DeleteBucketEncryption,
    GetBucketIntelligentTieringConfiguration,
    DeleteBucketIntelligentTieringConfiguration,
    ListBucketIntelligentTieringConfigurations,
    GetBucketInventoryConfiguration,
    DeleteBucketInventoryConfiguration,
    ListBucketInventoryConfigurations,
    GetBucketLifecycleConfiguration,
    DeleteBucketLifecycle,
    GetBucketLogging,
    GetBucketMetricsConfiguration,
    DeleteBucketMetricsConfiguration,
    ListBucketMetricsConfigurations,
    GetBucketNotificationConfiguration,
    GetBucketOwnershipControls,
    GetBucketPolicy,
    DeleteBucketPolicy,
    GetBucketPolicyStatus,
    GetBucketReplication,
    DeleteBucketReplication,
    GetBucketRequestPayment,
    GetBucketTagging,
    DeleteBucketTagging,
    GetBucketVersioning,
    GetBucketWebsite,
    DeleteBucketWebsite,
    GetObjectLockConfiguration,
    GetPublicAccessBlock,
    DeletePublicAccessBlock,
    GetObjectAcl,
    PutObjectAcl,
    GetObjectLegalHold,
    GetObjectRetention,
    GetObjectTagging,
    DeleteObjectTagging,
    // Objects.
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    CopyObject,
    GetObjectAttributes,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
}

/// What the path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Service,
    Bucket,
    Object,
}

struct Row {
    /// As in the service model; two names where two generations of one operation share a route.
    names: &'static [&'static str],
    method: Method,
    on: On,
    /// Keys that must be there; with a value where that decides.
    requires: &'static [(&'static str, Option<&'static str>)],
    /// A header that must be there.
    header: Option<&'static str>,
    /// Keys that may be there. Only of interest where the operation is served.
    accepts: &'static [&'static str],
    operation: Option<Operation>,
}

/// An operation that is refused by name.
const fn refused(
    names: &'static [&'static str],
    method: Method,
    on: On,
    requires: &'static [(&'static str, Option<&'static str>)],
) -> Row {
    Row {
        names,
        method,
        on,
        requires,
        header: None,
        accepts: &[],
        operation: None,
    }
}

const fn served(
    names: &'static [&'static str],
    method: Method,
    on: On,
    requires: &'static [(&'static str, Option<&'static str>)],
    accepts: &'static [&'static str],
    operation: Operation,
) -> Row {
    Row {
        names,
        method,
        on,
        requires,
        header: None,
        accepts,
        operation: Some(operation),
    }
}

const fn copy(
    names: &'static [&'static str],
    requires: &'static [(&'static str, Option<&'static str>)],
    operation: Operation,
) -> Row {
    let header = Some("x-amz-copy-source");
    Row {
        names,
        method: Put,
        on: Object,
        requires,
        header,
        accepts: &[],
        operation: Some(operation),
    }
}

/// `versionId` is accepted with the value `null` only, which is what every object here has.
const READ: &[&str] = &[
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "versionId",
];

/// One row per route. Keys are written as SDKs send them; they are case sensitive.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    served(&["ListBuckets"], Get, Service, &[], &["max-buckets", "continuation-token", "prefix", "bucket-region"], Operation::ListBuckets),
    refused(&["ListDirectoryBuckets"], Get, Service, &[("max-directory-buckets", None)]),

    served(&["CreateBucket"], Put, Bucket, &[], &[], Operation::CreateBucket),
    served(&["HeadBucket"], Method::Head, Bucket, &[], &[], Operation::HeadBucket),
    served(&["DeleteBucket"], Delete, Bucket, &[], &[], Operation::DeleteBucket),
    served(&["GetBucketLocation"], Get, Bucket, &[("location", None)], &[], Operation::GetBucketLocation),
    served(&["ListObjectsV2"], Get, Bucket, &[("list-type", Some("2"))], &["delimiter", "encoding-type", "max-keys", "prefix", "continuation-token", "fetch-owner", "start-after"], Operation::ListObjectsV2),
    served(&["ListObjects"], Get, Bucket, &[], &["delimiter", "encoding-type", "marker", "max-keys", "prefix"], Operation::ListObjects),
    served(&["ListObjectVersions"], Get, Bucket, &[("versions", None)], &["delimiter", "encoding-type", "key-marker", "max-keys", "prefix", "version-id-marker"], Operation::ListObjectVersions),
    served(&["ListMultipartUploads"], Get, Bucket, &[("uploads", None)], &["delimiter", "encoding-type", "key-marker", "max-uploads", "prefix", "upload-id-marker"], Operation::ListMultipartUploads),
    refused(&["PostObject", "WriteGetObjectResponse"], Post, Bucket, &[]),
    served(&["DeleteObjects"], Post, Bucket, &[("delete", None)], &[], Operation::DeleteObjects),
    refused(&["CreateSession"], Get, Bucket, &[("session", None)]),
    served(&["GetBucketAbac"], Get, Bucket, &[("abac", None)], &[], Operation::GetBucketAbac),
    refused(&["PutBucketAbac"], Put, Bucket, &[("abac", None)]),
    served(&["GetBucketAccelerateConfiguration"], Get, Bucket, &[("accelerate", None)], &[], Operation::GetBucketAccelerateConfiguration),
    refused(&["PutBucketAccelerateConfiguration"], Put, Bucket, &[("accelerate", None)]),
    served(&["GetBucketAcl"], Get, Bucket, &[("acl", None)], &[], Operation::GetBucketAcl),
    served(&["PutBucketAcl"], Put, Bucket, &[("acl", None)], &[], Operation::PutBucketAcl),
    served(&["ListBucketAnalyticsConfigurations"], Get, Bucket, &[("analytics", None)], &["continuation-token"], Operation::ListBucketAnalyticsConfigurations),
    served(&["GetBucketAnalyticsConfiguration"], Get, Bucket, &[("analytics", None), ("id", None)], &[], Operation::GetBucketAnalyticsConfiguration),
    refused(&["PutBucketAnalyticsConfiguration"], Put, Bucket, &[("analytics", None)]),
    served(&["DeleteBucketAnalyticsConfiguration"], Delete, Bucket, &[("analytics", None)], &["id"], Operation::DeleteBucketAnalyticsConfiguration),
    served(&["GetBucketCors"], Get, Bucket, &[("cors", None)], &[], Operation::GetBucketCors),
    refused(&["PutBucketCors"], Put, Bucket, &[("cors", None)]),
    served(&["DeleteBucketCors"], Delete, Bucket, &[("cors", None)], &[], Operation::DeleteBucketCors),
    served(&["GetBucketEncryption"], Get, Bucket, &[("encryption", None)], &[], Operation::GetBucketEncryption),
    refused(&["PutBucketEncryption"], Put, Bucket, &[("encryption", None)]),
    served(&["DeleteBucketEncryption"], Delete, Bucket, &[("encryption", None)], &[], Operation::DeleteBucketEncryption),
    served(&["ListBucketIntelligentTieringConfigurations"], Get, Bucket, &[("intelligent-tiering", None)], &["continuation-token"], Operation::ListBucketIntelligentTieringConfigurations),
    served(&["GetBucketIntelligentTieringConfiguration"], Get, Bucket, &[("intelligent-tiering", None), ("id", None)], &[], Operation::GetBucketIntelligentTieringConfiguration),
    refused(&["PutBucketIntelligentTieringConfiguration"], Put, Bucket, &[("intelligent-tiering", None)]),
    served(&["DeleteBucketIntelligentTieringConfiguration"], Delete, Bucket, &[("intelligent-tiering", None)], &["id"], Operation::DeleteBucketIntelligentTieringConfiguration),
    served(&["ListBucketInventoryConfigurations"], Get, Bucket, &[("inventory", None)], &["continuation-token"], Operation::ListBucketInventoryConfigurations),
    served(&["GetBucketInventoryConfiguration"], Get, Bucket, &[("inventory", None), ("id", None)], &[], Operation::GetBucketInventoryConfiguration),
    refused(&["PutBucketInventoryConfiguration"], Put, Bucket, &[("inventory", None)]),
    served(&["DeleteBucketInventoryConfiguration"], Delete, Bucket, &[("inventory", None)], &["id"], Operation::DeleteBucketInventoryConfiguration),
    served(&["GetBucketLifecycleConfiguration", "GetBucketLifecycle"], Get, Bucket, &[("lifecycle", None)], &[], Operation::GetBucketLifecycleConfiguration),
    refused(&["PutBucketLifecycleConfiguration", "PutBucketLifecycle"], Put, Bucket, &[("lifecycle", None)]),
    served(&["DeleteBucketLifecycle"], Delete, Bucket, &[("lifecycle", None)], &[], Operation::DeleteBucketLifecycle),
    served(&["GetBucketLogging"], Get, Bucket, &[("logging", None)], &[], Operation::GetBucketLogging),
    refused(&["PutBucketLogging"], Put, Bucket, &[("logging", None)]),
    refused(&["GetBucketMetadataConfiguration"], Get, Bucket, &[("metadataConfiguration", None)]),
    refused(&["CreateBucketMetadataConfiguration"], Post, Bucket, &[("metadataConfiguration", None)]),
    refused(&["DeleteBucketMetadataConfiguration"], Delete, Bucket, &[("metadataConfiguration", None)]),
    refused(&["GetBucketMetadataTableConfiguration"], Get, Bucket, &[("metadataTable", None)]),
    refused(&["CreateBucketMetadataTableConfiguration"], Post, Bucket, &[("metadataTable", None)]),
    refused(&["DeleteBucketMetadataTableConfiguration"], Delete, Bucket, &[("metadataTable", None)]),
    refused(&["UpdateBucketMetadataAnnotationTableConfiguration"], Put, Bucket, &[("metadataAnnotationTable", None)]),
    refused(&["UpdateBucketMetadataInventoryTableConfiguration"], Put, Bucket, &[("metadataInventoryTable", None)]),
    refused(&["UpdateBucketMetadataJournalTableConfiguration"], Put, Bucket, &[("metadataJournalTable", None)]),
    served(&["ListBucketMetricsConfigurations"], Get, Bucket, &[("metrics", None)], &["continuation-token"], Operation::ListBucketMetricsConfigurations),
    served(&["GetBucketMetricsConfiguration"], Get, Bucket, &[("metrics", None), ("id", None)], &[], Operation::GetBucketMetricsConfiguration),
    refused(&["PutBucketMetricsConfiguration"], Put, Bucket, &[("metrics", None)]),
    served(&["DeleteBucketMetricsConfiguration"], Delete, Bucket, &[("metrics", None)], &["id"], Operation::DeleteBucketMetricsConfiguration),
    served(&["GetBucketNotificationConfiguration", "GetBucketNotification"], Get, Bucket, &[("notification", None)], &[], Operation::GetBucketNotificationConfiguration),
    refused(&["PutBucketNotificationConfiguration", "PutBucketNotification"], Put, Bucket, &[("notification", None)]),
    served(&["GetBucketOwnershipControls"], Get, Bucket, &[("ownershipControls", None)], &[], Operation::GetBucketOwnershipControls),
    refused(&["PutBucketOwnershipControls"], Put, Bucket, &[("ownershipControls", None)]),
    refused(&["DeleteBucketOwnershipControls"], Delete, Bucket, &[("ownershipControls", None)]),
    served(&["GetBucketPolicy"], Get, Bucket, &[("policy", None)], &[], Operation::GetBucketPolicy),
    refused(&["PutBucketPolicy"], Put, Bucket, &[("policy", None)]),
    served(&["DeleteBucketPolicy"], Delete, Bucket, &[("policy", None)], &[], Operation::DeleteBucketPolicy),
    served(&["GetBucketPolicyStatus"], Get, Bucket, &[("policyStatus", None)], &[], Operation::GetBucketPolicyStatus),
    served(&["GetBucketReplication"], Get, Bucket, &[("replication", None)], &[], Operation::GetBucketReplication),
    refused(&["PutBucketReplication"], Put, Bucket, &[("replication", None)]),
    served(&["DeleteBucketReplication"], Delete, Bucket, &[("replication", None)], &[], Operation::DeleteBucketReplication),
    served(&["GetBucketRequestPayment"], Get, Bucket, &[("requestPayment", None)], &[], Operation::GetBucketRequestPayment),
    refused(&["PutBucketRequestPayment"], Put, Bucket, &[("requestPayment", None)]),
    served(&["GetBucketTagging"], Get, Bucket, &[("tagging", None)], &[], Operation::GetBucketTagging),
    refused(&["PutBucketTagging"], Put, Bucket, &[("tagging", None)]),
    served(&["DeleteBucketTagging"], Delete, Bucket, &[("tagging", None)], &[], Operation::DeleteBucketTagging),
    served(&["GetBucketVersioning"], Get, Bucket, &[("versioning", None)], &[], Operation::GetBucketVersioning),
    refused(&["PutBucketVersioning"], Put, Bucket, &[("versioning", None)]),
    served(&["GetBucketWebsite"], Get, Bucket, &[("website", None)], &[], Operation::GetBucketWebsite),
    refused(&["PutBucketWebsite"], Put, Bucket, &[("website", None)]),
    served(&["DeleteBucketWebsite"], Delete, Bucket, &[("website", None)], &[], Operation::DeleteBucketWebsite),
    served(&["GetObjectLockConfiguration"], Get, Bucket, &[("object-lock", None)], &[], Operation::GetObjectLockConfiguration),
    refused(&["PutObjectLockConfiguration"], Put, Bucket, &[("object-lock", None)]),
    served(&["GetPublicAccessBlock"], Get, Bucket, &[("publicAccessBlock", None)], &[], Operation::GetPublicAccessBlock),
    refused(&["PutPublicAccessBlock"], Put, Bucket, &[("publicAccessBlock", None)]),
    served(&["DeletePublicAccessBlock"], Delete, Bucket, &[("publicAccessBlock", None)], &[], Operation::DeletePublicAccessBlock),

    served(&["PutObject"], Put, Object, &[], &[], Operation::PutObject),
    served(&["GetObject"], Get, Object, &[], READ, Operation::GetObject),
    served(&["HeadObject"], Method::Head, Object, &[], READ, Operation::HeadObject),
    served(&["DeleteObject"], Delete, Object, &[], &["versionId"], Operation::DeleteObject),
    copy(&["CopyObject"], &[], Operation::CopyObject),
    copy(&["UploadPartCopy"], &[("partNumber", None), ("uploadId", None)], Operation::UploadPartCopy),
    served(&["CreateMultipartUpload"], Post, Object, &[("uploads", None)], &[], Operation::CreateMultipartUpload),
    served(&["UploadPart"], Put, Object, &[("partNumber", None), ("uploadId", None)], &[], Operation::UploadPart),
    served(&["CompleteMultipartUpload"], Post, Object, &[("uploadId", None)], &[], Operation::CompleteMultipartUpload),
    served(&["AbortMultipartUpload"], Delete, Object, &[("uploadId", None)], &[], Operation::AbortMultipartUpload),
    served(&["ListParts"], Get, Object, &[("uploadId", None)], &["encoding-type", "max-parts", "part-number-marker"], Operation::ListParts),
    served(&["GetObjectAcl"], Get, Object, &[("acl", None)], &["versionId"], Operation::GetObjectAcl),
    served(&["PutObjectAcl"], Put, Object, &[("acl", None)], &["versionId"], Operation::PutObjectAcl),
    refused(&["ListObjectAnnotations"], Get, Object, &[("annotation", None)]),
    refused(&["GetObjectAnnotation"], Get, Object, &[("annotation", None), ("annotationName", None)]),
    refused(&["PutObjectAnnotation"], Put, Object, &[("annotation", None)]),
    refused(&["DeleteObjectAnnotation"], Delete, Object, &[("annotation", None)]),
    served(&["GetObjectAttributes"], Get, Object, &[("attributes", None)], &["versionId"], Operation::GetObjectAttributes),
    refused(&["UpdateObjectEncryption"], Put, Object, &[("encryption", None)]),
    served(&["GetObjectLegalHold"], Get, Object, &[("legal-hold", None)], &["versionId"], Operation::GetObjectLegalHold),
    refused(&["PutObjectLegalHold"], Put, Object, &[("legal-hold", None)]),
    served(&["GetObjectRetention"], Get, Object, &[("retention", None)], &["versionId"], Operation::GetObjectRetention),
    refused(&["PutObjectRetention"], Put, Object, &[("retention", None)]),
    served(&["GetObjectTagging"], Get, Object, &[("tagging", None)], &["versionId"], Operation::GetObjectTagging),
    refused(&["PutObjectTagging"], Put, Object, &[("tagging", None)]),
    served(&["DeleteObjectTagging"], Delete, Object, &[("tagging", None)], &["versionId"], Operation::DeleteObjectTagging),
    refused(&["GetObjectTorrent"], Get, Object, &[("torrent", None)]),
    refused(&["RenameObject"], Put, Object, &[("renameObject", None)]),
    refused(&["RestoreObject"], Post, Object, &[("restore", None)]),
    refused(&["SelectObjectContent"], Post, Object, &[("select", None), ("select-type", Some("2"))]),
];

/// Keys of a presigned request's signature.
pub const SIGNATURE_KEYS: &[&str] = &[
    "X-Amz-Algorithm",
    "X-Amz-Content-Sha256",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

fn find(head: &Head, query: &Query<'_>, on: On) -> Option<&'static Row> {
    let matches = |row: &&Row| {
        row.method == head.method
            && row.on == on
            && row.header.is_none_or(|name| head.first(name).is_some())
            && row.requires.iter().all(|(name, value)| match value {
                Some(value) => query.get(name) == Some(value.as_bytes()),
                None => query.has(name),
            })
    };
    ROWS.iter()
        .filter(matches)
        .max_by_key(|row| (row.requires.len(), row.header.is_some()))
}

/// The operation of a request on `on`, or why there is none.
pub fn route(head: &Head, query: &Query<'_>, on: On, presigned: bool) -> S3Result<Operation> {
    let Some(row) = find(head, query, on) else {
        let known = ROWS
            .iter()
            .any(|row| row.method == head.method && row.on == on);
        let code = if known {
            Code::NotImplemented
        } else {
            Code::MethodNotAllowed
        };
        return Err(code.into());
    };
    let Some(operation) = row.operation else {
        return Err(S3Error::not_implemented(format!(
            "{} is not implemented.",
            row.names[0]
        )));
    };
    for (name, _) in query.pairs() {
        let is = |known: &str| known.as_bytes() == name;
        let fine = row.requires.iter().any(|(known, _)| is(known))
            || row.accepts.iter().any(|known| is(known))
            // SDKs name the operation in it; it has no meaning.
            || is("x-id")
            || (presigned && SIGNATURE_KEYS.iter().any(|known| is(known)));
        if !fine {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(S3Error::not_implemented(format!(
                "The query parameter {name:?} is not implemented for {}.",
                row.names[0]
            )));
        }
    }
    if let Some(name) = query.repeated() {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(S3Error::new(
            Code::InvalidArgument,
            "A query parameter is given more than once.",
        )
        .with("ArgumentName", name));
    }
    Ok(operation)
}

/// The served operations, by their names in the service model.
#[cfg(test)]
pub fn served_operations() -> impl Iterator<Item = (&'static str, Operation)> {
    ROWS.iter().flat_map(|row| {
        let names = row.names.iter();
        names.filter_map(|name| row.operation.map(|operation| (*name, operation)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::sigv4::tests::head;

    const MODEL: &str = include_str!("../../tests/s3-model/operations.tsv");

    fn row_of(method: &str, query: &str, on: On, copy: bool) -> Option<&'static Row> {
        let path = match on {
            Service => "/",
            Bucket => "/bucket",
            Object => "/bucket/key",
        };
        let extra = if copy {
            "\nx-amz-copy-source: /b/k"
        } else {
            ""
        };
        let head = head(&format!("{method} {path}?{query} HTTP/1.1\nHost: h{extra}"));
        let query = Query::parse(head.raw_query()).unwrap();
        find(&head, &query, on)
    }

    #[test]
    fn every_operation_of_the_model_has_its_row() {
        let mut seen = Vec::new();
        for line in MODEL.lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split('\t').collect();
            let [name, method, uri, members, headers] = columns[..] else {
                panic!("{line:?}");
            };
            let (path, fixed) = uri.split_once('?').unwrap_or((uri, ""));
            let on = match path {
                "/" => Service,
                "/{Bucket}" | "/WriteGetObjectResponse" => Bucket,
                "/{Bucket}/{Key+}" => Object,
                other => panic!("{other}"),
            };
            // What tells two operations of one URI apart, and SDKs always send.
            let decisive = members.split(',').filter(|member| match *member {
                "id" | "annotationName" => name.starts_with("Get") || !method.eq("GET"),
                "uploadId" | "max-directory-buckets" => true,
                "partNumber" => name.starts_with("UploadPart"),
                _ => false,
            });
            let query: Vec<&str> = fixed.split('&').chain(decisive).collect();
            let copy = headers
                .split(',')
                .any(|header| header == "x-amz-copy-source");
            let row = row_of(method, &query.join("&"), on, copy)
                .unwrap_or_else(|| panic!("{name} has no row"));
            assert!(
                row.names.contains(&name),
                "{name} fell into the row of {:?}",
                row.names
            );
            if row.operation.is_some() {
                for member in members.split(',').filter(|member| *member != "-") {
                    let required = row.requires.iter().any(|(key, _)| *key == member);
                    assert!(
                        required || row.accepts.contains(&member),
                        "{name}: {member}"
                    );
                }
            }
            seen.push(name);
        }
        assert!(seen.len() >= 116, "the model has shrunk to {}", seen.len());
        let names = ROWS
            .iter()
            .flat_map(|row| row.names)
            .filter(|name| **name != "PostObject");
        for name in names {
            assert!(seen.contains(name), "{name} is not in the model");
        }
    }

    /// The list may only shrink: what is served once stays so.
    #[test]
    fn what_is_not_implemented_is_listed() {
        let listed: Vec<&str> = include_str!("../../tests/s3-model/not_implemented.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let mut refused: Vec<&str> = ROWS
            .iter()
            .filter(|row| row.operation.is_none())
            .flat_map(|row| row.names.iter().copied())
            .collect();
        refused.sort_unstable();
        assert_eq!(listed, refused);
    }

    #[test]
    fn no_two_rows_match_alike() {
        for (at, one) in ROWS.iter().enumerate() {
            for other in &ROWS[at + 1..] {
                let same = one.method == other.method
                    && one.on == other.on
                    && one.header == other.header
                    && one.requires == other.requires;
                assert!(!same, "{:?} and {:?}", one.names, other.names);
            }
        }
    }

    fn routed(line: &str, on: On) -> Result<Operation, Code> {
        let head = head(&format!("{line} HTTP/1.1\nHost: h"));
        let query = Query::parse(head.raw_query()).unwrap();
        route(&head, &query, on, false).map_err(|error| error.code)
    }

    #[test]
    fn unknown_sub_resources_never_fall_through() {
        let refused = [
            ("PUT /b/k?ACL", Object),
            ("PUT /b/k?tagging", Object),
            ("PUT /b/k?anything", Object),
            ("PUT /b/k?%61cL", Object),
            ("PUT /b/k?uploadId=1", Object),
            ("PUT /b/k?partNumber=1", Object),
            ("PUT /b/k?partNumber=1&uploadId=1&acl", Object),
            ("PUT /b/k?partNumber=1&uploadId=1&versionId=null", Object),
            ("GET /b/k?uploadId=1&partNumber=1", Object),
            ("GET /b/k?attributes&acl", Object),
            ("GET /b/k?X-Amz-Signature=1", Object),
            ("DELETE /b/k?uploadId=1&versionId=null", Object),
            ("DELETE /b/k?anything", Object),
            ("POST /b/k", Object),
            ("POST /b/k?uploads&uploadId=1", Object),
            ("POST /b/k?uploads&restore", Object),
            ("DELETE /b?anything", Bucket),
            ("PUT /b?versioning", Bucket),
            ("PUT /b?anything", Bucket),
            ("HEAD /b?acl", Bucket),
            ("GET /b?list-type=1", Bucket),
            ("GET /b?list-type=2&versions", Bucket),
            ("GET /b?list-type=2&location", Bucket),
            ("GET /b?location&acl", Bucket),
            ("GET /b?acl&policy", Bucket),
            ("GET /b?versions&uploads", Bucket),
            ("GET /b?versions&marker=a", Bucket),
            ("GET /b?uploads&marker=a", Bucket),
            ("GET /b?delete", Bucket),
            ("DELETE /b?delete", Bucket),
            ("DELETE /b?lifecycle&policy", Bucket),
            ("DELETE /b?versioning", Bucket),
            ("DELETE /b?ownershipControls", Bucket),
            ("POST /b", Bucket),
            ("POST /b?delete&uploads", Bucket),
            ("PUT /b?cors", Bucket),
            ("PUT /b/k?acl&tagging", Object),
            ("DELETE /b/k?acl", Object),
            ("GET /?anything", Service),
        ];
        for (line, on) in refused {
            assert_eq!(routed(line, on), Err(Code::NotImplemented), "{line}");
        }
        assert_eq!(routed("PUT /", Service), Err(Code::MethodNotAllowed));
        assert_eq!(routed("PATCH /b/k", Object), Err(Code::MethodNotAllowed));
        assert_eq!(routed("OPTIONS /b/k", Object), Err(Code::MethodNotAllowed));
        assert_eq!(
            routed("GET /b?list-type=2&prefix=a&prefix=b", Bucket),
            Err(Code::InvalidArgument)
        );
    }

    #[test]
    fn served_operations_are_found() {
        let served = [
            ("GET /", Service, Operation::ListBuckets),
            ("GET /?x-id=ListBuckets", Service, Operation::ListBuckets),
            ("PUT /b", Bucket, Operation::CreateBucket),
            ("HEAD /b", Bucket, Operation::HeadBucket),
            ("DELETE /b", Bucket, Operation::DeleteBucket),
            ("GET /b?location", Bucket, Operation::GetBucketLocation),
            ("GET /b?location=", Bucket, Operation::GetBucketLocation),
            (
                "GET /b?list-type=2&prefix=a&delimiter=/&fetch-owner=true",
                Bucket,
                Operation::ListObjectsV2,
            ),
            ("GET /b?prefix=a&marker=b", Bucket, Operation::ListObjects),
            ("GET /b?versions", Bucket, Operation::ListObjectVersions),
            ("GET /b?uploads", Bucket, Operation::ListMultipartUploads),
            ("POST /b?delete", Bucket, Operation::DeleteObjects),
            (
                "DELETE /b?lifecycle",
                Bucket,
                Operation::DeleteBucketLifecycle,
            ),
            ("PUT /b?acl", Bucket, Operation::PutBucketAcl),
            ("PUT /b/k?acl", Object, Operation::PutObjectAcl),
            ("GET /b/k?%61cl", Object, Operation::GetObjectAcl),
            (
                "GET /b?metrics",
                Bucket,
                Operation::ListBucketMetricsConfigurations,
            ),
            (
                "GET /b?metrics&id=a",
                Bucket,
                Operation::GetBucketMetricsConfiguration,
            ),
            ("PUT /b/k?x-id=PutObject", Object, Operation::PutObject),
            (
                "GET /b/k?response-content-type=a",
                Object,
                Operation::GetObject,
            ),
            ("HEAD /b/k", Object, Operation::HeadObject),
            (
                "DELETE /b/k?versionId=null",
                Object,
                Operation::DeleteObject,
            ),
            ("GET /b/k?partNumber=1", Object, Operation::GetObject),
            (
                "GET /b/k?attributes",
                Object,
                Operation::GetObjectAttributes,
            ),
            (
                "POST /b/k?uploads",
                Object,
                Operation::CreateMultipartUpload,
            ),
            (
                "PUT /b/k?partNumber=1&uploadId=1",
                Object,
                Operation::UploadPart,
            ),
            (
                "GET /b/k?uploadId=1&max-parts=2",
                Object,
                Operation::ListParts,
            ),
            (
                "POST /b/k?uploadId=1",
                Object,
                Operation::CompleteMultipartUpload,
            ),
            (
                "DELETE /b/k?uploadId=1",
                Object,
                Operation::AbortMultipartUpload,
            ),
        ];
        for (line, on, operation) in served {
            assert_eq!(routed(line, on), Ok(operation), "{line}");
        }
    }
}
