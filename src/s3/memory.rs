//! Objects in memory: what the tests of this layer store into.

use crate::object::checksum::{Algorithm, Checksum, Hasher, Kind};
use crate::object::{
    Body, BucketId, BucketInfo, Completion, Condition, Etag, ListEntry, ListPage, ListRequest,
    ListedObject, OBJECT_SIZE_MAX, ObjectHeaders, ObjectInfo, ObjectStore, PART_SIZE_MIN, PartInfo,
    PartPage, PutDone, ReadObject, StoreError, UploadEntry, UploadId, UploadInfo, UploadedPart,
    UploadsPage, UploadsRequest,
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

struct Upload {
    bucket: BucketId,
    info: UploadInfo,
    parts: BTreeMap<u16, (UploadedPart, Vec<u8>)>,
    /// What completing it was answered.
    done: Option<PutDone>,
}

struct State {
    buckets: RefCell<BTreeMap<String, (BucketInfo, Objects)>>,
    uploads: RefCell<BTreeMap<UploadId, Upload>>,
    next_id: Cell<u64>,
    /// Readers fail behind that many bytes.
    break_after: Cell<Option<u64>>,
    part_size_min: Cell<u64>,
    deletes_in_flight: Cell<usize>,
    deletes_at_once: Cell<usize>,
}

#[derive(Clone)]
pub struct MemoryStore {
    state: Rc<State>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let state = State {
            buckets: RefCell::default(),
            uploads: RefCell::default(),
            next_id: Cell::new(0),
            break_after: Cell::new(None),
            part_size_min: Cell::new(PART_SIZE_MIN),
            deletes_in_flight: Cell::new(0),
            deletes_at_once: Cell::new(0),
        };
        Self {
            state: Rc::new(state),
        }
    }
}

impl MemoryStore {
    pub fn break_after(&self, bytes: Option<u64>) {
        self.state.break_after.set(bytes);
    }

    /// For tests that do not want to move 5 MiB for each part.
    pub fn allow_parts_of(&self, size: u64) {
        self.state.part_size_min.set(size);
    }

    /// Most deletions that were in progress at one time.
    pub fn deletes_at_once(&self) -> usize {
        self.state.deletes_at_once.get()
    }

    /// Has an object say that it is larger than it is.
    pub fn pretend_size(&self, bucket: &str, key: &str, size: u64) {
        let mut buckets = self.state.buckets.borrow_mut();
        let (_, objects) = buckets.get_mut(bucket).expect("a bucket");
        let (info, _) = objects.get_mut(key.as_bytes()).expect("an object");
        info.size = size;
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

    /// The upload that is meant, complete or not.
    fn with_upload<T>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        id: UploadId,
        f: impl FnOnce(&mut Upload) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.state.uploads.borrow_mut().get_mut(&id) {
            Some(upload) if upload.bucket == bucket.id && upload.info.key == key => f(upload),
            _ => Err(StoreError::NoSuchUpload),
        }
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<(ObjectInfo, Vec<u8>)> {
        let buckets = self.state.buckets.borrow();
        let (info, bytes) = buckets.get(bucket)?.1.get(key.as_bytes())?;
        Some((info.clone(), bytes.to_vec()))
    }

    /// Uploads that are not complete.
    pub fn uploads_open(&self) -> usize {
        let uploads = self.state.uploads.borrow();
        uploads.values().filter(|one| one.done.is_none()).count()
    }
}

fn open(upload: &mut Upload) -> Result<&mut Upload, StoreError> {
    if upload.done.is_some() {
        return Err(StoreError::NoSuchUpload);
    }
    Ok(upload)
}

fn check(condition: Condition, present: Option<Etag>) -> Result<(), StoreError> {
    match (condition, present) {
        (Condition::None, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => Ok(()),
        (Condition::Etag(wanted), Some(found)) if wanted == found => Ok(()),
        (Condition::Present | Condition::Etag(_), None) => Err(StoreError::NoSuchKey),
        (Condition::Absent | Condition::Etag(_), Some(_)) => Err(StoreError::PreconditionFailed),
    }
}

fn hash<'a>(algorithm: Algorithm, pieces: impl IntoIterator<Item = &'a [u8]>) -> Checksum {
    let mut hasher = Hasher::new(algorithm);
    pieces.into_iter().for_each(|piece| hasher.update(piece));
    hasher.finish()
}

async fn drain<B: Body>(body: &mut B) -> Result<Vec<u8>, StoreError> {
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
    Ok(bytes)
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

    async fn delete_bucket(&self, bucket: &BucketInfo) -> Result<(), StoreError> {
        let name = bucket.name.as_str();
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
        condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError> {
        let bytes = drain(body).await?;
        let etag = Etag::plain(Md5::digest(&bytes).into());
        let info = ObjectInfo {
            size: bytes.len() as u64,
            etag,
            modified_ms: crate::rt::unix_ms(),
            headers,
            checksum: body.checksum().map(|value| (value, Kind::FullObject)),
            parts: Vec::new(),
        };
        let done = PutDone {
            etag,
            modified_ms: info.modified_ms,
            checksum: info.checksum,
        };
        self.with(bucket, |objects| {
            check(condition, objects.get(key).map(|(info, _)| info.etag))?;
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
            check(condition, objects.get(key).map(|(info, _)| info.etag))?;
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
                        checksum: info
                            .checksum
                            .map(|(checksum, kind)| (checksum.algorithm, kind)),
                    }),
                });
            }
            Ok(page)
        })
    }

    async fn create_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        checksum: Option<(Algorithm, Kind)>,
    ) -> Result<UploadId, StoreError> {
        self.with(bucket, |_| Ok(()))?;
        self.state.next_id.set(self.state.next_id.get() + 1);
        let mut id = [0xee; 16];
        id[8..].copy_from_slice(&self.state.next_id.get().to_be_bytes());
        let id = UploadId(id);
        let upload = Upload {
            bucket: bucket.id,
            info: UploadInfo {
                id,
                key: key.to_vec(),
                initiated_ms: crate::rt::unix_ms(),
                headers,
                checksum,
            },
            parts: BTreeMap::new(),
            done: None,
        };
        self.state.uploads.borrow_mut().insert(id, upload);
        Ok(id)
    }

    async fn upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
    ) -> Result<UploadInfo, StoreError> {
        self.with_upload(bucket, key, upload, |upload| Ok(open(upload)?.info.clone()))
    }

    async fn put_part<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        number: u16,
        body: &mut B,
    ) -> Result<UploadedPart, StoreError> {
        let bytes = drain(body).await?;
        let part = UploadedPart {
            info: PartInfo {
                number,
                size: bytes.len() as u64,
                checksum: body.checksum(),
            },
            md5: Md5::digest(&bytes).into(),
            modified_ms: crate::rt::unix_ms(),
        };
        self.with_upload(bucket, key, upload, |upload| {
            let upload = open(upload)?;
            let found = part.info.checksum.map(|checksum| checksum.algorithm);
            if let Some((algorithm, _)) = upload.info.checksum
                && found != Some(algorithm)
            {
                return Err(StoreError::ChecksumKind);
            }
            upload.parts.insert(number, (part, bytes));
            Ok(part)
        })
    }

    async fn parts(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartPage, StoreError> {
        self.with_upload(bucket, key, upload, |upload| {
            let upload = open(upload)?;
            let mut rest = upload
                .parts
                .values()
                .map(|(part, _)| *part)
                .filter(|part| part.info.number > after);
            let parts = rest.by_ref().take(max).collect();
            Ok(PartPage {
                upload: upload.info.clone(),
                parts,
                truncated: rest.next().is_some(),
            })
        })
    }

    async fn complete_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
        completion: Completion,
    ) -> Result<PutDone, StoreError> {
        let min = self.state.part_size_min.get();
        self.with_upload(bucket, key, upload, |upload| {
            if let Some(done) = &upload.done {
                return Ok(done.clone());
            }
            let mut chosen = Vec::new();
            for (at, named) in completion.parts.iter().enumerate() {
                let number = named.number;
                let (part, bytes) = upload
                    .parts
                    .get(&number)
                    .filter(|(part, _)| {
                        part.md5 == named.md5
                            && (named.checksum.is_none() || named.checksum == part.info.checksum)
                    })
                    .ok_or(StoreError::InvalidPart { number })?;
                let size = part.info.size;
                if size < min && at + 1 < completion.parts.len() {
                    return Err(StoreError::PartTooSmall { number, size });
                }
                chosen.push((*part, bytes));
            }
            let size: u64 = chosen.iter().map(|(part, _)| part.info.size).sum();
            if size > OBJECT_SIZE_MAX {
                return Err(StoreError::TooLarge);
            }
            if completion.size.is_some_and(|claimed| claimed != size) {
                return Err(StoreError::SizeMismatch { size });
            }
            let mut checksum = None;
            // Where none was named, that of the parts if it can be joined.
            let of_parts = |(part, _): &(UploadedPart, _)| part.info.checksum.map(|c| c.algorithm);
            let joined = chosen.first().and_then(of_parts).filter(|algorithm| {
                !matches!(algorithm, Algorithm::Sha1 | Algorithm::Sha256)
                    && chosen.iter().all(|part| of_parts(part) == Some(*algorithm))
            });
            let wanted = upload.info.checksum;
            let wanted = wanted.or(joined.map(|algorithm| (algorithm, Kind::FullObject)));
            if let Some((algorithm, kind)) = wanted {
                let other = |given: Checksum| given.algorithm != algorithm;
                if completion.kind.is_some_and(|claimed| claimed != kind)
                    || completion.checksum.is_some_and(other)
                {
                    return Err(StoreError::ChecksumKind);
                }
                let value = match kind {
                    Kind::FullObject => hash(algorithm, chosen.iter().map(|(_, bytes)| &bytes[..])),
                    Kind::Composite => {
                        let values = chosen.iter().filter_map(|(part, _)| {
                            part.info.checksum.as_ref().map(Checksum::bytes)
                        });
                        hash(algorithm, values)
                    }
                };
                if completion.checksum.is_some_and(|claimed| claimed != value) {
                    return Err(StoreError::ChecksumMismatch);
                }
                checksum = Some((value, kind));
            }
            let tags: Vec<u8> = chosen.iter().flat_map(|(part, _)| part.md5).collect();
            let etag = Etag {
                md5: Md5::digest(&tags).into(),
                parts: chosen.len() as u16,
            };
            let done = PutDone {
                etag,
                modified_ms: crate::rt::unix_ms(),
                checksum,
            };
            let info = ObjectInfo {
                size,
                etag,
                modified_ms: done.modified_ms,
                headers: upload.info.headers.clone(),
                checksum,
                parts: chosen.iter().map(|(part, _)| part.info).collect(),
            };
            let bytes = chosen.iter().flat_map(|(_, bytes)| bytes.iter().copied());
            let bytes = Rc::new(bytes.collect());
            self.with(bucket, |objects| {
                check(
                    completion.condition,
                    objects.get(key).map(|(info, _)| info.etag),
                )?;
                objects.insert(key.to_vec(), (info, bytes));
                Ok(())
            })?;
            upload.done = Some(done.clone());
            Ok(done)
        })
    }

    async fn abort_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: UploadId,
    ) -> Result<(), StoreError> {
        self.with_upload(bucket, key, upload, |upload| open(upload).map(|_| ()))?;
        self.state.uploads.borrow_mut().remove(&upload);
        Ok(())
    }

    async fn uploads(
        &self,
        bucket: &BucketInfo,
        request: UploadsRequest,
    ) -> Result<UploadsPage, StoreError> {
        let uploads = self.state.uploads.borrow();
        let mut open: Vec<&UploadInfo> = uploads
            .values()
            .filter(|one| one.bucket == bucket.id && one.done.is_none())
            .map(|one| &one.info)
            .filter(|info| info.key.starts_with(&request.prefix))
            .collect();
        // Ids ascend with the begin.
        open.sort_by(|a, b| (&a.key, a.id).cmp(&(&b.key, b.id)));
        let mut page = UploadsPage {
            entries: Vec::new(),
            truncated: false,
            next_after: Vec::new(),
            next_after_upload: None,
        };
        for info in open {
            let from = request.prefix.len();
            let prefix = request.delimiter.as_ref().and_then(|delimiter| {
                let at = info.key[from..]
                    .windows(delimiter.len())
                    .position(|part| part == delimiter)?;
                Some(info.key[..from + at + delimiter.len()].to_vec())
            });
            let name = prefix.as_ref().unwrap_or(&info.key);
            let passed = match request.after_upload {
                Some(after) if prefix.is_none() && *name == request.after => info.id <= after,
                _ => *name <= request.after,
            };
            if passed || (prefix.is_some() && *name == page.next_after) {
                continue;
            }
            if page.entries.len() == request.max_uploads {
                page.truncated = true;
                break;
            }
            page.next_after = name.clone();
            page.next_after_upload = prefix.is_none().then_some(info.id);
            page.entries.push(match prefix {
                Some(prefix) => UploadEntry::Prefix(prefix),
                None => UploadEntry::Upload(info.clone()),
            });
        }
        Ok(page)
    }

    fn ready(&self) -> bool {
        true
    }
}
