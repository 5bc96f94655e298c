//! Objects in memory: what the tests of this layer store into.

use crate::object::{
    Body, BucketId, BucketInfo, Completion, Condition, Etag, ListEntry, ListPage, ListRequest,
    ListedObject, ObjectHeaders, ObjectInfo, ObjectStore, PartPage, PutDone, ReadObject,
    StoreError, UploadEntry, UploadId, UploadInfo, UploadedPart, UploadsPage, UploadsRequest,
    checksum,
};
use crate::rt::Buf;
use md5::{Digest, Md5};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Size of the pieces in which bodies are read and objects given.
const PIECE_SIZE: usize = 64 * 1024;

/// How long a deletion takes, so that several overlap.
const DELETE_TIME: Duration = Duration::from_millis(1);

type Objects = BTreeMap<Vec<u8>, (ObjectInfo, Rc<Vec<u8>>)>;

#[derive(Default)]
struct State {
    buckets: RefCell<BTreeMap<String, (BucketInfo, Objects)>>,
    next_id: Cell<u64>,
    /// Readers fail behind that many bytes.
    break_after: Cell<Option<u64>>,
    deletes_in_flight: Cell<usize>,
    deletes_at_once: Cell<usize>,
    uploads: RefCell<Vec<(BucketId, UploadInfo)>>,
}

#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Rc<State>,
}

impl MemoryStore {
    pub fn break_after(&self, bytes: Option<u64>) {
        self.state.break_after.set(bytes);
    }

    /// Most deletions that were in progress at one time.
    pub fn deletes_at_once(&self) -> usize {
        self.state.deletes_at_once.get()
    }

    /// An upload that was begun: what is listed, and no more than that.
    pub fn begin_upload(&self, bucket: &str, key: &str, id: u8) {
        let bucket = self.state.buckets.borrow()[bucket].0.id;
        let upload = UploadInfo {
            id: UploadId([id; 16]),
            key: key.as_bytes().to_vec(),
            initiated_ms: 1_369_353_600_000,
            headers: ObjectHeaders {
                owner: "root-id".to_owned(),
                ..ObjectHeaders::default()
            },
            checksum: None,
        };
        let mut uploads = self.state.uploads.borrow_mut();
        uploads.push((bucket, upload));
        uploads.sort_by(|(_, a), (_, b)| (&a.key, a.id).cmp(&(&b.key, b.id)));
    }

    fn with<T>(
        &self,
        bucket: &BucketInfo,
        f: impl FnOnce(&mut Objects) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.state.buckets.borrow_mut().get_mut(&bucket.name) {
            Some((info, objects)) if info.id == bucket.id => f(objects),
            _ => Err(StoreError::NoSuchBucket),
        }
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<(ObjectInfo, Vec<u8>)> {
        let buckets = self.state.buckets.borrow();
        let (info, bytes) = buckets.get(bucket)?.1.get(key.as_bytes())?;
        Some((info.clone(), bytes.to_vec()))
    }
}

pub struct MemoryReader {
    info: ObjectInfo,
    bytes: Rc<Vec<u8>>,
    at: usize,
    end: usize,
    break_at: u64,
}

impl ReadObject for MemoryReader {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn range(&mut self, start: u64, end: u64) {
        (self.at, self.end) = (start as usize, end as usize);
    }

    async fn next(&mut self) -> Result<Option<Buf>, StoreError> {
        if self.at as u64 >= self.break_at {
            return Err(StoreError::Unreadable {
                what: "a test".to_owned(),
            });
        }
        let count = PIECE_SIZE.min(self.end - self.at);
        if count == 0 {
            return Ok(None);
        }
        let mut buf = Buf::alloc(count).await;
        buf.set_len(count);
        buf.copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(Some(buf))
    }
}

impl ObjectStore for MemoryStore {
    type Reader = MemoryReader;

    async fn create_bucket(
        &self,
        name: &str,
        owner: &str,
        region: &str,
    ) -> Result<BucketInfo, StoreError> {
        let mut buckets = self.state.buckets.borrow_mut();
        if let Some((info, _)) = buckets.get(name) {
            return Err(StoreError::BucketAlreadyExists {
                owner: info.owner.clone(),
            });
        }
        self.state.next_id.set(self.state.next_id.get() + 1);
        let info = BucketInfo {
            name: name.to_owned(),
            id: BucketId(self.state.next_id.get()),
            owner: owner.to_owned(),
            created_ms: 1_369_353_600_000,
            region: region.to_owned(),
        };
        buckets.insert(name.to_owned(), (info.clone(), Objects::new()));
        Ok(info)
    }

    async fn bucket(&self, name: &str) -> Result<BucketInfo, StoreError> {
        let buckets = self.state.buckets.borrow();
        buckets
            .get(name)
            .map(|(info, _)| info.clone())
            .ok_or(StoreError::NoSuchBucket)
    }

    async fn buckets(&self) -> Result<Vec<BucketInfo>, StoreError> {
        Ok(self
            .state
            .buckets
            .borrow()
            .values()
            .map(|(info, _)| info.clone())
            .collect())
    }

    async fn delete_bucket(&self, name: &str) -> Result<(), StoreError> {
        let mut buckets = self.state.buckets.borrow_mut();
        match buckets.get(name) {
            None => Err(StoreError::NoSuchBucket),
            Some((_, objects)) if !objects.is_empty() => Err(StoreError::BucketNotEmpty),
            Some(_) => {
                buckets.remove(name);
                Ok(())
            }
        }
    }

    async fn put<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        _condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError> {
        let mut bytes = Vec::new();
        loop {
            let mut buf = Buf::alloc(PIECE_SIZE).await;
            // An odd beginning, so that fills do not happen to be aligned.
            let (back, end) = body.fill(buf, 7, PIECE_SIZE).await?;
            buf = back;
            bytes.extend_from_slice(&buf.whole_mut()[7..end]);
            if end < PIECE_SIZE {
                break;
            }
        }
        assert_eq!(bytes.len() as u64, body.length());
        body.finish().await?;
        let etag = Etag::plain(Md5::digest(&bytes).into());
        let info = ObjectInfo {
            size: bytes.len() as u64,
            etag,
            modified_ms: crate::rt::unix_ms(),
            headers,
            checksum: body
                .checksum()
                .map(|value| (value, checksum::Kind::FullObject)),
            parts: Vec::new(),
        };
        let done = PutDone {
            etag,
            modified_ms: info.modified_ms,
            checksum: info.checksum,
        };
        self.with(bucket, |objects| {
            objects.insert(key.to_vec(), (info, Rc::new(bytes)));
            Ok(done)
        })
    }

    async fn head(&self, bucket: &BucketInfo, key: &[u8]) -> Result<ObjectInfo, StoreError> {
        self.with(bucket, |objects| {
            objects
                .get(key)
                .map(|(info, _)| info.clone())
                .ok_or(StoreError::NoSuchKey)
        })
    }

    async fn get(&self, bucket: &BucketInfo, key: &[u8]) -> Result<MemoryReader, StoreError> {
        let break_at = self.state.break_after.get().unwrap_or(u64::MAX);
        self.with(bucket, |objects| {
            let (info, bytes) = objects.get(key).cloned().ok_or(StoreError::NoSuchKey)?;
            Ok(MemoryReader {
                end: bytes.len(),
                info,
                bytes,
                at: 0,
                break_at,
            })
        })
    }

    async fn delete(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        condition: Condition,
    ) -> Result<(), StoreError> {
        let now = self.state.deletes_in_flight.get() + 1;
        self.state.deletes_in_flight.set(now);
        let most = self.state.deletes_at_once.get().max(now);
        self.state.deletes_at_once.set(most);
        crate::rt::sleep(DELETE_TIME).await;
        let left = self.state.deletes_in_flight.get() - 1;
        self.state.deletes_in_flight.set(left);
        self.with(bucket, |objects| {
            let found = objects.get(key).map(|(info, _)| info.etag);
            let holds = match condition {
                Condition::None => true,
                Condition::Absent => found.is_none(),
                Condition::Present => found.is_some(),
                Condition::Etag(etag) => found == Some(etag),
            };
            if !holds {
                return Err(StoreError::PreconditionFailed);
            }
            objects.remove(key);
            Ok(())
        })
    }

    async fn list(
        &self,
        bucket: &BucketInfo,
        request: ListRequest,
    ) -> Result<ListPage, StoreError> {
        self.with(bucket, |objects| {
            let mut page = ListPage {
                entries: Vec::new(),
                truncated: false,
                next_after: Vec::new(),
            };
            for (key, (info, _)) in objects.range(request.prefix.clone()..) {
                if !key.starts_with(&request.prefix) {
                    break;
                }
                let rest = &key[request.prefix.len()..];
                let prefix = request.delimiter.as_ref().and_then(|delimiter| {
                    let at = rest
                        .windows(delimiter.len())
                        .position(|part| part == delimiter)?;
                    Some(key[..request.prefix.len() + at + delimiter.len()].to_vec())
                });
                let name = prefix.clone().unwrap_or_else(|| key.clone());
                if name <= request.after || name == page.next_after {
                    continue;
                }
                if page.entries.len() == request.max_keys {
                    page.truncated = true;
                    break;
                }
                page.next_after = name;
                page.entries.push(match prefix {
                    Some(prefix) => ListEntry::Prefix(prefix),
                    None => ListEntry::Object(ListedObject {
                        key: key.clone(),
                        size: info.size,
                        etag: info.etag,
                        modified_ms: info.modified_ms,
                        owner: info.headers.owner.clone(),
                        storage_class: info.headers.storage_class.clone(),
                        checksum: None,
                    }),
                });
            }
            Ok(page)
        })
    }

    async fn create_upload(
        &self,
        _bucket: &BucketInfo,
        _key: &[u8],
        _headers: ObjectHeaders,
        _checksum: Option<(checksum::Algorithm, checksum::Kind)>,
    ) -> Result<UploadId, StoreError> {
        Err(StoreError::NoSuchUpload)
    }

    async fn upload(
        &self,
        _bucket: &BucketInfo,
        _key: &[u8],
        _upload: UploadId,
    ) -> Result<UploadInfo, StoreError> {
        Err(StoreError::NoSuchUpload)
    }

    async fn put_part<B: Body>(
        &self,
        _bucket: &BucketInfo,
        _key: &[u8],
        _upload: UploadId,
        _number: u16,
        _body: &mut B,
    ) -> Result<UploadedPart, StoreError> {
        Err(StoreError::NoSuchUpload)
    }

    async fn parts(
        &self,
        _bucket: &BucketInfo,
        _key: &[u8],
        _upload: UploadId,
        _after: u16,
        _max: usize,
    ) -> Result<PartPage, StoreError> {
        Err(StoreError::NoSuchUpload)
    }

    async fn complete_upload(
        &self,
        _bucket: &BucketInfo,
        _key: &[u8],
        _upload: UploadId,
        _completion: Completion,
    ) -> Result<PutDone, StoreError> {
        Err(StoreError::NoSuchUpload)
    }

    async fn abort_upload(
        &self,
        _bucket: &BucketInfo,
        _key: &[u8],
        _upload: UploadId,
    ) -> Result<(), StoreError> {
        Err(StoreError::NoSuchUpload)
    }

    async fn uploads(
        &self,
        bucket: &BucketInfo,
        request: UploadsRequest,
    ) -> Result<UploadsPage, StoreError> {
        let mut page = UploadsPage {
            entries: Vec::new(),
            truncated: false,
            next_after: Vec::new(),
            next_after_upload: None,
        };
        for (of, upload) in self.state.uploads.borrow().iter() {
            let key = &upload.key;
            if *of != bucket.id || !key.starts_with(&request.prefix) {
                continue;
            }
            let rest = &key[request.prefix.len()..];
            let prefix = request.delimiter.as_ref().and_then(|delimiter| {
                let at = rest
                    .windows(delimiter.len())
                    .position(|part| part == delimiter)?;
                Some(key[..request.prefix.len() + at + delimiter.len()].to_vec())
            });
            let behind = match (&prefix, request.after_upload) {
                (Some(prefix), _) => *prefix > request.after && *prefix != page.next_after,
                (None, Some(id)) if *key == request.after => upload.id > id,
                (None, _) => *key > request.after,
            };
            if !behind {
                continue;
            }
            if page.entries.len() == request.max_uploads {
                page.truncated = true;
                break;
            }
            (page.next_after, page.next_after_upload) = match &prefix {
                Some(prefix) => (prefix.clone(), None),
                None => (key.clone(), Some(upload.id)),
            };
            page.entries.push(match prefix {
                Some(prefix) => UploadEntry::Prefix(prefix),
                None => UploadEntry::Upload(upload.clone()),
            });
        }
        Ok(page)
    }

    fn ready(&self) -> bool {
        true
    }
}
