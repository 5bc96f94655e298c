//! What S3 lets a bucket or an object be configured with, as it is where nothing ever was: reads
//! answer as AWS does for what was never set, because clients look before they do anything else.
//!
//! Setting any of it is refused by name in `route`. What is not set may be deleted: nothing is
//! there afterwards, which is what was asked for. Two answers differ from those of a new bucket on
//! AWS, because they would not be true here: nothing is encrypted, and nothing blocks public
//! access, since there is none.

use super::object::with_key;
use super::{Answer, Request, bucket_of, only};
use crate::object::{BucketInfo, ObjectStore};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::owner;
use crate::s3::route::{On, Operation};
use crate::s3::users::Users;
use crate::s3::xml::Document;

/// `operation` is one of those about configuration; `document` is its body.
pub async fn run<S: ObjectStore>(
    store: &S,
    users: &Users,
    operation: Operation,
    request: Request<'_>,
    document: &[u8],
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    if request.resource.on() == On::Object {
        let found = store.head(&bucket, &request.resource.key).await;
        found.map_err(|error| with_key(error, request))?;
    }
    let missing = |code: Code| Err(S3Error::from(code).with("BucketName", bucket.name.clone()));
    match operation {
        Operation::GetBucketAbac => Ok(leaf("AbacStatus", "Status", "Disabled")),
        Operation::GetBucketAccelerateConfiguration => Ok(empty("AccelerateConfiguration")),
        Operation::GetBucketAcl | Operation::GetObjectAcl => Ok(acl(&bucket, users)),
        Operation::PutBucketAcl => put_acl(request, document, "PutBucketAcl", &["private"]),
        // The bucket's owner has control of every object in it.
        Operation::PutObjectAcl => put_acl(
            request,
            document,
            "PutObjectAcl",
            &["private", "bucket-owner-full-control"],
        ),
        Operation::ListBucketAnalyticsConfigurations => {
            Ok(none_of("ListBucketAnalyticsConfigurationsResult"))
        }
        Operation::ListBucketIntelligentTieringConfigurations => {
            Ok(none_of("ListBucketIntelligentTieringConfigurationsOutput"))
        }
        Operation::ListBucketInventoryConfigurations => {
            Ok(none_of("ListInventoryConfigurationsResult"))
        }
        Operation::ListBucketMetricsConfigurations => {
            Ok(none_of("ListMetricsConfigurationsResult"))
        }
        // These have names, so there is something that can be missing.
        Operation::GetBucketAnalyticsConfiguration
        | Operation::DeleteBucketAnalyticsConfiguration
        | Operation::GetBucketIntelligentTieringConfiguration
        | Operation::DeleteBucketIntelligentTieringConfiguration
        | Operation::GetBucketInventoryConfiguration
        | Operation::DeleteBucketInventoryConfiguration
        | Operation::GetBucketMetricsConfiguration
        | Operation::DeleteBucketMetricsConfiguration => missing(Code::NoSuchConfiguration),
        Operation::GetBucketCors => missing(Code::NoSuchCORSConfiguration),
        Operation::GetBucketEncryption => {
            missing(Code::ServerSideEncryptionConfigurationNotFoundError)
        }
        Operation::GetBucketLifecycleConfiguration => missing(Code::NoSuchLifecycleConfiguration),
        Operation::GetBucketLogging => Ok(empty("BucketLoggingStatus")),
        Operation::GetBucketNotificationConfiguration => Ok(empty("NotificationConfiguration")),
        // What a new bucket has on AWS, and how it is here: nothing but ownership counts.
        Operation::GetBucketOwnershipControls => {
            let mut xml = Document::new("OwnershipControls");
            xml.open("Rule")
                .leaf("ObjectOwnership", "BucketOwnerEnforced")
                .close("Rule");
            Ok(Answer::xml(xml.finish("OwnershipControls")))
        }
        Operation::GetBucketPolicy | Operation::GetBucketPolicyStatus => {
            missing(Code::NoSuchBucketPolicy)
        }
        Operation::GetBucketReplication => missing(Code::ReplicationConfigurationNotFoundError),
        Operation::GetBucketRequestPayment => {
            Ok(leaf("RequestPaymentConfiguration", "Payer", "BucketOwner"))
        }
        Operation::GetBucketTagging => missing(Code::NoSuchTagSet),
        Operation::GetBucketVersioning => Ok(empty("VersioningConfiguration")),
        Operation::GetBucketWebsite => missing(Code::NoSuchWebsiteConfiguration),
        Operation::GetObjectLockConfiguration => {
            missing(Code::ObjectLockConfigurationNotFoundError)
        }
        Operation::GetPublicAccessBlock => missing(Code::NoSuchPublicAccessBlockConfiguration),
        Operation::GetObjectLegalHold | Operation::GetObjectRetention => Err(S3Error::new(
            Code::InvalidRequest,
            "Bucket is missing Object Lock Configuration",
        )),
        Operation::GetObjectTagging => Ok(leaf("Tagging", "TagSet", "")),
        Operation::DeleteBucketCors
        | Operation::DeleteBucketEncryption
        | Operation::DeleteBucketLifecycle
        | Operation::DeleteBucketPolicy
        | Operation::DeleteBucketReplication
        | Operation::DeleteBucketTagging
        | Operation::DeleteBucketWebsite
        | Operation::DeleteObjectTagging
        | Operation::DeletePublicAccessBlock => Ok(Answer::empty(204)),
        other => unreachable!("{other:?} is not about configuration"),
    }
}

fn empty<R>(root: &str) -> Answer<R> {
    Answer::xml(Document::new(root).finish(root))
}

fn leaf<R>(root: &str, name: &str, text: &str) -> Answer<R> {
    let mut xml = Document::new(root);
    xml.leaf(name, text);
    Answer::xml(xml.finish(root))
}

/// The whole of a list that has nothing in it.
fn none_of<R>(root: &str) -> Answer<R> {
    leaf(root, "IsTruncated", "false")
}

/// `private`: all to the owner, nothing to anybody else.
fn acl<R>(bucket: &BucketInfo, users: &Users) -> Answer<R> {
    const SCHEMA: &str = "http://www.w3.org/2001/XMLSchema-instance";
    let mut xml = Document::new("AccessControlPolicy");
    owner(&mut xml, &bucket.owner, users);
    xml.open("AccessControlList")
        .open("Grant")
        .open_with(
            "Grantee",
            &[("xmlns:xsi", SCHEMA), ("xsi:type", "CanonicalUser")],
        )
        .leaf("ID", &bucket.owner)
        .leaf(
            "DisplayName",
            users.name_of(&bucket.owner).unwrap_or(&bucket.owner),
        )
        .close("Grantee")
        .leaf("Permission", "FULL_CONTROL")
        .close("Grant")
        .close("AccessControlList");
    Answer::xml(xml.finish("AccessControlPolicy"))
}

/// Sets what is so already, by the names in `fine`, and nothing else.
fn put_acl<R>(
    request: Request<'_>,
    document: &[u8],
    name: &str,
    fine: &[&str],
) -> S3Result<Answer<R>> {
    only(request.head, "x-amz-acl", fine)?;
    if request.head.first("x-amz-acl").is_none() || !document.is_empty() {
        return Err(S3Error::not_implemented(format!(
            "{name} is not implemented but for x-amz-acl: private."
        )));
    }
    Ok(Answer::empty(200))
}
