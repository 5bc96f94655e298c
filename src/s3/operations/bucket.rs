//! Operations on buckets and on the list of them.

use super::{Answer, Request, bucket_of, only};
use crate::http::date;
use crate::object::{ObjectStore, StoreError};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::list::{owner, parse_count, parse_token, text, write_token};
use crate::s3::names::is_bucket_name;
use crate::s3::users::Users;
use crate::s3::xml::{Document, leaves};

/// The region whose buckets have no location, and where making one's bucket again is fine.
const FIRST_REGION: &str = "us-east-1";

pub async fn list<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    const MAX_BUCKETS: usize = 10_000;
    let query = request.query;
    let prefix = text(query, "prefix")?;
    let max = match text(query, "max-buckets")? {
        None => usize::MAX,
        Some(value) => parse_count(value)
            .filter(|max| (1..=MAX_BUCKETS).contains(max))
            .ok_or_else(|| {
                S3Error::invalid_argument("max-buckets must be from 1 to 10000", "max-buckets")
            })?,
    };
    let after = match text(query, "continuation-token")? {
        None => Vec::new(),
        Some(token) => parse_token(token).ok_or_else(|| {
            S3Error::invalid_argument(
                "The continuation token provided is incorrect",
                "continuation-token",
            )
        })?,
    };
    let region = text(query, "bucket-region")?;
    let mut buckets = store.buckets().await?;
    buckets.retain(|bucket| {
        (request.user.root || bucket.owner == request.user.id)
            && bucket.name.starts_with(prefix.unwrap_or(""))
            && region.is_none_or(|region| bucket.region == region)
            && bucket.name.as_bytes() > &after[..]
    });
    let truncated = buckets.len() > max;
    buckets.truncate(max);

    let mut xml = Document::new("ListAllMyBucketsResult");
    owner(&mut xml, &request.user.id, users);
    xml.open("Buckets");
    for bucket in &buckets {
        xml.open("Bucket")
            .leaf("Name", &bucket.name)
            .leaf("CreationDate", &date::iso(bucket.created_ms))
            .leaf("BucketRegion", &bucket.region)
            .close("Bucket");
    }
    xml.close("Buckets").optional("Prefix", prefix);
    if let Some(last) = buckets.last().filter(|_| truncated) {
        xml.leaf("ContinuationToken", &write_token(last.name.as_bytes()));
    }
    Ok(Answer::xml(xml.finish("ListAllMyBucketsResult")))
}

pub async fn create<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
    document: &[u8],
) -> S3Result<Answer<S::Reader>> {
    let Request {
        head,
        user,
        resource,
        ..
    } = request;
    let name = &resource.bucket;
    if !is_bucket_name(name) {
        return Err(S3Error::from(Code::InvalidBucketName).with("BucketName", name.clone()));
    }
    only(head, "x-amz-acl", &["private"])?;
    only(head, "x-amz-object-ownership", &["BucketOwnerEnforced"])?;
    only(
        head,
        "x-amz-bucket-object-lock-enabled",
        &["false", "False"],
    )?;
    if !document.is_empty() {
        let found = leaves(document, "CreateBucketConfiguration")
            .map_err(|_| S3Error::from(Code::MalformedXML))?;
        for (element, value) in found {
            if element != "LocationConstraint" {
                return Err(S3Error::not_implemented(format!(
                    "{element:?} of a new bucket is not implemented."
                )));
            }
            if !value.is_empty() && value != users.region() {
                return Err(S3Error::new(
                    Code::IllegalLocationConstraintException,
                    format!(
                        "The {value:?} location constraint is incompatible with this store's region."
                    ),
                ));
            }
        }
    }
    match store.create_bucket(name, &user.id, users.region()).await {
        Ok(_) => {}
        Err(StoreError::BucketAlreadyExists { owner }) if owner == user.id => {
            if users.region() != FIRST_REGION {
                return Err(
                    S3Error::from(Code::BucketAlreadyOwnedByYou).with("BucketName", name.clone())
                );
            }
        }
        Err(error) => return Err(S3Error::from(error).with("BucketName", name.clone())),
    }
    let mut answer = Answer::empty(200);
    answer.head.field("location", format!("/{name}"));
    Ok(answer)
}

pub async fn head<S: ObjectStore>(store: &S, request: Request<'_>) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let mut answer = Answer::empty(200);
    answer.head.field("x-amz-bucket-region", bucket.region);
    Ok(answer)
}

pub async fn delete<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    store.delete_bucket(&bucket).await?;
    Ok(Answer::empty(204))
}

pub async fn location<S: ObjectStore>(
    store: &S,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let mut xml = Document::new("LocationConstraint");
    if bucket.region != FIRST_REGION {
        xml.text(&bucket.region);
    }
    Ok(Answer::xml(xml.finish("LocationConstraint")))
}
