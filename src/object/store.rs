//! One core's door to all objects: which volume is asked for what.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use futures_util::future::join_all;
use shard_format::{BucketId, Hlc, MetadataRecord, ObjectId, PgId, Scheme};

use super::{
    Body, BucketInfo, Completion, Condition, Etag, ListEntry, ListPage, ListRequest, ListedObject,
    ObjectHeaders, ObjectInfo, ObjectStore, PART_SIZE_MIN, PartPage, PutDone, Reader, StoreError,
    UploadId, UploadInfo, UploadedPart, UploadsPage, UploadsRequest, checksum,
    put::{condition_tag, format_condition},
    repair::Repairs,
};
use crate::{
    erasure::Codec,
    limits::LIST_KEYS_MAX,
    link::{Link, Reply, Request},
    md5::Hashing,
    meta::{EtagValue, ListQuery, Listed, Page},
    placement::key_hash32,
    rt,
    volume::{Outcome, Refusal, VolumeError},
};

impl From<VolumeError> for StoreError {
    fn from(e: VolumeError) -> Self {
        match e {
            VolumeError::Absent => StoreError::NoSuchKey,
            VolumeError::Unreadable { what } => StoreError::Unreadable { what },
            VolumeError::Full => StoreError::Full,
            VolumeError::ReadOnly { reason } => StoreError::ReadOnly { reason },
            VolumeError::Suspect { reason } => StoreError::Unavailable { reason },
            VolumeError::Refused(refusal) => refusal.into(),
            VolumeError::Away => StoreError::Unavailable {
                reason: "a drive is away".into(),
            },
            VolumeError::Closed => StoreError::Unavailable {
                reason: "shutting down".into(),
            },
        }
    }
}

impl From<Refusal> for StoreError {
    fn from(r: Refusal) -> Self {
        match r {
            Refusal::Fenced => StoreError::NoSuchBucket,
            Refusal::Condition => StoreError::PreconditionFailed,
            Refusal::Absent => StoreError::NoSuchKey,
            Refusal::Missing => StoreError::NoSuchBucket,
            Refusal::Aborted => StoreError::Unavailable {
                reason: "the upload took too long".into(),
            },
            Refusal::Exists(_) => StoreError::BucketBusy,
            Refusal::NoUpload => StoreError::NoSuchUpload,
            // The completion looks at its parts again; who hears of it has lost to many replacements.
            Refusal::PartChanged => StoreError::SlowDown,
        }
    }
}

struct Inner {
    link: Link,
    hashing: Hashing,
    /// Of new objects.
    scheme: Cell<Scheme>,
    codecs: RefCell<BTreeMap<Scheme, Rc<Codec>>>,
    repairs: Rc<Repairs>,
    /// Orders object ids made on this core in one millisecond.
    last_hlc: Cell<u64>,
    draining: Cell<bool>,
    part_size_min: Cell<u64>,
}

/// The objects of the store, as one core reaches them.
#[derive(Clone)]
pub struct Store(Rc<Inner>);

impl Store {
    pub fn new(link: Link, scheme: Scheme) -> Store {
        Store(Rc::new(Inner {
            link,
            hashing: Hashing::new(),
            scheme: Cell::new(scheme),
            codecs: RefCell::default(),
            repairs: Rc::default(),
            last_hlc: Cell::new(0),
            draining: Cell::new(false),
            part_size_min: Cell::new(PART_SIZE_MIN),
        }))
    }

    pub fn link(&self) -> &Link {
        &self.0.link
    }

    /// The MD5s of this core's uploads.
    pub(super) fn hashing(&self) -> &Hashing {
        &self.0.hashing
    }

    pub fn scheme(&self) -> Scheme {
        self.0.scheme.get()
    }

    /// This core's arithmetic of a scheme.
    pub(super) fn codec(&self, scheme: Scheme) -> Rc<Codec> {
        let mut codecs = self.0.codecs.borrow_mut();
        let codec = codecs.entry(scheme);
        codec.or_insert_with(|| Rc::new(Codec::new(scheme))).clone()
    }

    pub(super) fn repairs(&self) -> Rc<Repairs> {
        self.0.repairs.clone()
    }

    /// No longer ready: the health check says so while requests under way finish.
    pub fn drain(&self) {
        self.0.draining.set(true);
    }

    /// Smallest part but the last; [`PART_SIZE_MIN`] unless a simulation cannot afford so much.
    pub fn set_part_size_min(&self, bytes: u64) {
        self.0.part_size_min.set(bytes);
    }

    pub(super) fn part_size_min(&self) -> u64 {
        self.0.part_size_min.get()
    }

    pub(super) fn group(&self, bucket: BucketId, key: &[u8]) -> PgId {
        self.0.link.map().group_of_key(bucket, key)
    }

    pub(super) fn home(&self, pg: PgId) -> u16 {
        self.0.link.map().home(pg)
    }

    /// A new object id of this key: never given out before.
    pub(super) fn new_object_id(&self, bucket: BucketId, key: &[u8]) -> ObjectId {
        let hlc = Hlc::new(rt::unix_ms(), 0).0.max(self.0.last_hlc.get() + 1);
        self.0.last_hlc.set(hlc);
        let random = (rt::random_u64() as u32).to_be_bytes();
        ObjectId::new(key_hash32(bucket, key), Hlc(hlc), random)
    }

    /// Proposes one record to its group.
    pub(super) async fn propose(
        &self,
        pg: PgId,
        record: &MetadataRecord<'_>,
        needs_space: bool,
    ) -> Result<Outcome, StoreError> {
        let mut payload = Vec::new();
        record
            .encode(&mut payload)
            .map_err(|_| StoreError::TooLarge)?;
        self.propose_encoded(pg, payload, needs_space).await
    }

    pub(super) async fn propose_encoded(
        &self,
        pg: PgId,
        payload: Vec<u8>,
        needs_space: bool,
    ) -> Result<Outcome, StoreError> {
        let commands = vec![(pg, payload)];
        match self
            .0
            .link
            .call(
                self.home(pg),
                Request::Propose {
                    commands,
                    needs_space,
                },
            )
            .await?
        {
            Reply::Outcomes(mut outcomes) => Ok(outcomes.pop().expect("one command, one outcome")),
            _ => unreachable!("a proposal has outcomes"),
        }
    }

    async fn list_page(
        &self,
        bucket: &BucketInfo,
        request: ListRequest,
    ) -> Result<ListPage, StoreError> {
        let max = request.max_keys.min(LIST_KEYS_MAX);
        let query = ListQuery {
            bucket: bucket.id,
            prefix: request.prefix,
            delimiter: request.delimiter,
            after: request.after,
            max,
        };
        let link = &self.0.link;
        let shares = join_all(
            link.homes()
                .map(|v| link.call(v, Request::List(query.clone()))),
        )
        .await;
        let mut pages = Vec::with_capacity(shares.len());
        for share in shares {
            match share? {
                Reply::Page(page) => pages.push(page),
                _ => unreachable!("a listing has a page"),
            }
        }
        let (entries, truncated) = merge_pages(pages, max);
        let next_after = entries
            .last()
            .map(|e| e.name().to_vec())
            .unwrap_or_default();
        let entries = entries
            .into_iter()
            .map(|e| match e {
                Listed::Prefix(p) => ListEntry::Prefix(p),
                Listed::Object {
                    key,
                    size,
                    etag,
                    modified_ms,
                    owner,
                } => ListEntry::Object(ListedObject {
                    key,
                    size,
                    etag: etag_of(&etag),
                    modified_ms,
                    owner,
                    storage_class: None,
                    checksum: None,
                }),
            })
            .collect();
        Ok(ListPage {
            entries,
            truncated,
            next_after,
        })
    }
}

pub(super) fn etag_of(value: &EtagValue) -> Etag {
    match value {
        EtagValue::Md5(b) => Etag::plain(*b),
        EtagValue::Text(text) => Etag::parse(text).unwrap_or(Etag::plain([0; 16])),
        EtagValue::None => Etag::plain([0; 16]),
    }
}

/// Merges the shares of the volumes: ascending, common prefixes once, at most `max`. A share that was cut off holds
/// `max` entries, so nothing behind its end can be among the first `max` of all.
fn merge_pages(pages: Vec<Page>, max: usize) -> (Vec<Listed>, bool) {
    let more = pages.iter().any(|p| p.more);
    let mut all: Vec<Listed> = pages.into_iter().flat_map(|p| p.entries).collect();
    all.sort_by(|a, b| a.name().cmp(b.name()));
    all.dedup_by(|a, b| {
        matches!((&a, &b), (Listed::Prefix(_), Listed::Prefix(_))) && a.name() == b.name()
    });
    let truncated = all.len() > max || (more && max > 0);
    all.truncate(max);
    (all, truncated)
}

impl ObjectStore for Store {
    type Reader = Reader;

    async fn create_bucket(
        &self,
        name: &str,
        owner: &str,
        region: &str,
    ) -> Result<BucketInfo, StoreError> {
        self.make_bucket(name, owner, region).await
    }

    async fn bucket(&self, name: &str) -> Result<BucketInfo, StoreError> {
        self.find_bucket(name).await
    }

    async fn buckets(&self) -> Result<Vec<BucketInfo>, StoreError> {
        self.all_buckets().await
    }

    async fn delete_bucket(&self, bucket: &BucketInfo) -> Result<(), StoreError> {
        self.remove_bucket(bucket).await
    }

    async fn put<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError> {
        self.put_object(bucket, key, headers, condition, body).await
    }

    async fn head(&self, bucket: &BucketInfo, key: &[u8]) -> Result<ObjectInfo, StoreError> {
        self.head_object(bucket, key).await
    }

    async fn get(&self, bucket: &BucketInfo, key: &[u8]) -> Result<Reader, StoreError> {
        self.get_object(bucket, key).await
    }

    async fn delete(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        condition: Condition,
    ) -> Result<(), StoreError> {
        let pg = self.group(bucket.id, key);
        let tag = condition_tag(&condition);
        let record = MetadataRecord::DeleteVersion(shard_format::DeleteVersion {
            bucket: bucket.id,
            key,
            version: shard_format::VersionId::Null,
            condition: format_condition(&condition, &tag),
        });
        Ok(self.propose(pg, &record, false).await??)
    }

    async fn list(
        &self,
        bucket: &BucketInfo,
        request: ListRequest,
    ) -> Result<ListPage, StoreError> {
        self.list_page(bucket, request).await
    }

    async fn create_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        checksum: Option<(checksum::Algorithm, checksum::Kind)>,
    ) -> Result<UploadId, StoreError> {
        self.begin_upload(bucket, key, headers, checksum).await
    }

    async fn upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
    ) -> Result<UploadInfo, StoreError> {
        self.upload_info(bucket, key, upload).await
    }

    async fn put_part<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        number: u16,
        body: &mut B,
    ) -> Result<UploadedPart, StoreError> {
        self.store_part(bucket, key, upload, number, body).await
    }

    async fn parts(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartPage, StoreError> {
        self.part_page(bucket, key, upload, after, max).await
    }

    async fn complete_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        completion: Completion,
    ) -> Result<PutDone, StoreError> {
        self.complete(bucket, key, upload, completion).await
    }

    async fn abort_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
    ) -> Result<(), StoreError> {
        self.abort(bucket, key, upload).await
    }

    async fn uploads(
        &self,
        bucket: &BucketInfo,
        request: UploadsRequest,
    ) -> Result<UploadsPage, StoreError> {
        self.upload_page(bucket, request).await
    }

    fn ready(&self) -> bool {
        !self.0.draining.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &[u8]) -> Listed {
        Listed::Object {
            key: key.to_vec(),
            size: 1,
            etag: EtagValue::None,
            modified_ms: 0,
            owner: String::new(),
        }
    }

    #[test]
    fn pages_merge_in_order_and_prefixes_once() {
        let a = Page {
            entries: vec![object(b"a"), Listed::Prefix(b"d/".to_vec())],
            more: false,
        };
        let b = Page {
            entries: vec![object(b"b"), Listed::Prefix(b"d/".to_vec()), object(b"e")],
            more: false,
        };
        let (all, truncated) = merge_pages(vec![a, b], 10);
        let names: Vec<&[u8]> = all.iter().map(Listed::name).collect();
        assert_eq!(names, [&b"a"[..], b"b", b"d/", b"e"]);
        assert!(!truncated);
    }

    #[test]
    fn a_cut_share_truncates_the_page() {
        let a = Page {
            entries: vec![object(b"a"), object(b"c")],
            more: true,
        };
        let b = Page {
            entries: vec![object(b"b")],
            more: false,
        };
        let (all, truncated) = merge_pages(vec![a, b], 2);
        assert_eq!(all.len(), 2);
        assert!(truncated);
        assert_eq!(all[1].name(), b"b");
    }
}
