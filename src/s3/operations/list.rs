//! Listings of what is in a bucket.

use super::{Answer, Request, bucket_of};
use crate::object::{ListPage, ObjectStore};
use crate::s3::error::S3Result;
use crate::s3::list::List;
use crate::s3::users::Users;

pub async fn objects_v2<S: ObjectStore>(
    store: &S,
    users: &Users,
    request: Request<'_>,
) -> S3Result<Answer<S::Reader>> {
    let bucket = bucket_of(store, request).await?;
    let list = List::parse(request.query)?;
    let page = match list.request() {
        Some(request) => store.list(&bucket, request).await?,
        None => ListPage {
            entries: Vec::new(),
            truncated: false,
            next_after: Vec::new(),
        },
    };
    Ok(Answer::xml(list.document(&bucket, &page, users)))
}
