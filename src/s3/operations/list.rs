//! Listings of what is in a bucket.

use super::{Answer, Request, bucket_of};
use crate::object::{ListPage, ObjectStore, UploadsPage};
use crate::s3::error::{S3Error, S3Result};
use crate::s3::list::{List, Uploads};
use crate::s3::users::Users;

/// Lists objects in the shape of `list`.
pub async fn objects<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
    list: S3Result<List<'_>>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let list = list?;
    check_attributes(request)?;
    let page = match list.request() {
        Some(request) => store.list(&bucket, request).await?,
        None => ListPage {
            entries: Vec::new(),
            truncated: false,
            next_after: Vec::new(),
        },
    };
    let mut answer = Answer::xml(list.document(&bucket, &page, users));
    answer.head.field("x-amz-bucket-region", &bucket.region);
    Ok(answer)
}

/// The one attribute that may be asked for is the state of a restoration, which objects have that
/// were archived: none here.
fn check_attributes(request: Request<'_>) -> S3Result<()> {
    const NAME: &str = "x-amz-optional-object-attributes";
    let mut asked = request
        .head
        .all(NAME)
        .flat_map(|value| value.split(|byte| *byte == b','));
    if asked.all(|one| one.trim_ascii() == b"RestoreStatus") {
        Ok(())
    } else {
        Err(S3Error::invalid_argument(
            "Invalid attribute name specified",
            NAME,
        ))
    }
}

pub async fn uploads<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let uploads = Uploads::parse(request.query)?;
    let page = match uploads.request() {
        Some(request) => store.uploads(&bucket, request).await?,
        None => UploadsPage {
            entries: Vec::new(),
            truncated: false,
            next_after: Vec::new(),
            next_after_upload: None,
        },
    };
    Ok(Answer::xml(uploads.document(&bucket, &page, users)))
}
