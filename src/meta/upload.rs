//! Multipart uploads: what the index keeps of them, what completing and ending one does, and how they are listed.
//!
//! An upload is a register: open, then completed (remembered for a day, so that completing again is answered the same)
//! or ended. Its parts are registers of their own, which mean something only while it is open. Shards of parts bear ids
//! that lead back to the upload, so one entry of the free list frees all of them, whatever became of the parts' records.
//!
//! Whose are the shards of a part?
//!
//! | the objects table says of the upload's id | the part |
//! |---|---|
//! | open | is kept while a part register names it |
//! | a version | is kept if that version's list of parts has it |
//! | nothing | is nobody's |

use std::rc::Rc;

use rkyv::{Archive, Deserialize, Serialize, rancor};
use shard_format::{
    BucketId, ChecksumAlgorithm, ChecksumType, CreateUpload, Epoch, ObjectChecksum, ObjectId, Part,
    PutPart, PutVersion, Scheme,
};

use super::{
    Groups,
    list::{common_prefix, successor},
    machine::{bury_object, part_of, version_of},
    register::{Register, Slot, key_prefix, part_key, split_upload_key},
    version::EtagValue,
};
use crate::{
    index::{ScanEnd, Step, Table},
    limits::LIST_STEPS_PER_TURN,
    rt,
    volume::{Refusal, Store, VolumeError},
};

/// A checksum's algorithm and type, by their numbers in the format, and its raw value (empty in an open upload).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ChecksumValue {
    pub algorithm: u8,
    pub kind: u8,
    pub value: Vec<u8>,
}

impl ChecksumValue {
    fn of(checksum: &ObjectChecksum<'_>) -> ChecksumValue {
        ChecksumValue {
            algorithm: checksum.algorithm as u8,
            kind: checksum.kind as u8,
            value: checksum.value.to_vec(),
        }
    }

    pub fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        use ChecksumAlgorithm::{Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
        [Crc32, Crc32c, Crc64Nvme, Sha1, Sha256]
            .into_iter()
            .find(|a| *a as u8 == self.algorithm)
    }

    pub fn kind(&self) -> Option<ChecksumType> {
        [ChecksumType::FullObject, ChecksumType::Composite]
            .into_iter()
            .find(|k| *k as u8 == self.kind)
    }
}

/// An upload as listings and completion need it; its headers are in its record.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UploadValue {
    pub initiated_ms: u64,
    pub owner: String,
    pub storage_class: Option<String>,
    pub checksum: Option<ChecksumValue>,
    pub completed: Option<CompletedUpload>,
}

/// What completing the upload was answered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CompletedUpload {
    pub etag: EtagValue,
    pub modified_ms: u64,
    pub checksum: Option<ChecksumValue>,
}

/// A part of an open upload.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PartValue {
    pub number: u16,
    pub object: [u8; 16],
    pub size: u64,
    pub md5: [u8; 16],
    pub modified_ms: u64,
    pub checksum: Option<ChecksumValue>,
    /// k, m and codec.
    pub scheme: [u8; 3],
    pub epoch: u32,
}

macro_rules! archived {
    ($($value:ident)*) => { $(
        impl $value {
            pub fn encode(&self) -> Vec<u8> {
                rkyv::to_bytes::<rancor::Error>(self)
                    .expect("plain data serialises")
                    .to_vec()
            }

            pub fn decode(bytes: &[u8]) -> Option<$value> {
                rkyv::from_bytes::<$value, rancor::Error>(bytes).ok()
            }
        }
    )* };
}
archived!(UploadValue PartValue);

impl UploadValue {
    pub fn begun(create: &CreateUpload<'_>) -> UploadValue {
        UploadValue {
            initiated_ms: create.initiated_ms,
            owner: create.owner.to_owned(),
            storage_class: create
                .fields
                .storage_class
                .map(|s| String::from_utf8_lossy(s).into_owned()),
            checksum: create.checksum.map(|(algorithm, kind)| ChecksumValue {
                algorithm: algorithm as u8,
                kind: kind as u8,
                value: Vec::new(),
            }),
            completed: None,
        }
    }

    pub fn completed_by(put: &PutVersion<'_>) -> UploadValue {
        UploadValue {
            initiated_ms: put.object.hlc().ms(),
            owner: put.owner.to_owned(),
            storage_class: None,
            checksum: None,
            completed: Some(CompletedUpload {
                etag: EtagValue::of(&put.etag),
                modified_ms: put.modified_ms,
                checksum: put.fields.checksum.as_ref().map(ChecksumValue::of),
            }),
        }
    }
}

impl PartValue {
    pub fn of(part: &PutPart<'_>) -> PartValue {
        PartValue {
            number: part.number,
            object: part.object.0,
            size: part.size,
            md5: part.md5,
            modified_ms: part.modified_ms,
            checksum: part.checksum.as_ref().map(ChecksumValue::of),
            scheme: [part.scheme.k, part.scheme.m, part.scheme.codec],
            epoch: part.epoch.0,
        }
    }

    pub fn object(&self) -> ObjectId {
        ObjectId(self.object)
    }

    /// By what the part is spread.
    pub fn placement(&self) -> (Scheme, Epoch) {
        let [k, m, codec] = self.scheme;
        (Scheme { k, m, codec }, Epoch(self.epoch))
    }
}

// ------------------------------------------------------------------------------------------- the state machine's part

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is no record of it (yet, in a replay).
    Unknown,
    Open,
    Completed,
    Ended,
}

pub(super) fn stage(store: &Store<'_>, register: &Register<'_>) -> Stage {
    match register.current(store) {
        None => Stage::Unknown,
        Some(current) if !current.present => Stage::Ended,
        Some(current) => match UploadValue::decode(&current.slot.value) {
            Some(value) if value.completed.is_some() => Stage::Completed,
            _ => Stage::Open,
        },
    }
}

pub(super) fn check_open(store: &Store<'_>, register: &Register<'_>) -> Result<(), Refusal> {
    match stage(store, register) {
        Stage::Open => Ok(()),
        _ => Err(Refusal::NoUpload),
    }
}

/// Every part register of the upload, ascending by number.
fn part_rows(store: &Store<'_>, upload: ObjectId) -> Vec<(Vec<u8>, Slot)> {
    let mut rows = Vec::new();
    let mut from = upload.0.to_vec();
    loop {
        let end = store.index.scan(Table::Parts, &from, usize::MAX, |k, v| {
            if !k.starts_with(&upload.0) {
                return Step::Stop;
            }
            if let Some(slot) = Slot::decode(v) {
                rows.push((k.to_vec(), slot));
            }
            Step::Next
        });
        match end {
            Ok(ScanEnd::Budget(next)) => from = next,
            _ => return rows,
        }
    }
}

/// Whether the parts that a completion names are still those of the upload.
pub(super) fn check_parts(
    store: &Store<'_>,
    upload: ObjectId,
    named: &[Part<'_>],
) -> Result<(), Refusal> {
    if crate::planted!("complete-with-replaced-part") {
        return Ok(());
    }
    let mut named = named.iter().peekable();
    for (_, slot) in part_rows(store, upload) {
        let Some(part) = PartValue::decode(&slot.value) else {
            return Err(Refusal::PartChanged);
        };
        if let Some(next) = named.next_if(|next| next.number == part.number)
            && upload.part(next.attempt) != part.object()
        {
            return Err(Refusal::PartChanged);
        }
    }
    match named.next() {
        None => Ok(()),
        Some(_) => Err(Refusal::PartChanged),
    }
}

/// The upload is no longer open: its part registers go. Those that are not in `kept` are freed one by one; with
/// `None` nothing is, because the whole upload is freed, or because nobody knows any more what was kept.
pub(super) fn take_parts(store: &Store<'_>, upload: ObjectId, kept: Option<&[Part<'_>]>) {
    let mut kept = kept.map(|parts| parts.iter().peekable());
    for (key, slot) in part_rows(store, upload) {
        store.index.remove(Table::Parts, &key);
        store.files.sub_live(&slot.place.extent);
        let Some(part) = PartValue::decode(&slot.value) else {
            continue;
        };
        let object = part.object();
        store.index.remove(Table::Objects, &object.0);
        if let Some(kept) = &mut kept {
            while kept.next_if(|next| next.number < part.number).is_some() {}
            let is_kept = kept.peek().is_some_and(|next| {
                next.number == part.number && upload.part(next.attempt) == object
            });
            if !is_kept {
                bury_object(store, object);
            }
        }
    }
}

// ------------------------------------------------------------------------------------------- reading

/// An upload as its group has it.
pub enum Uploaded {
    /// With its record: the encoded `CreateUpload` is `buf[at..at + length]`.
    Open(UploadValue, super::ObjectRecord),
    Completed(CompletedUpload),
}

/// What a page of open uploads asks for.
#[derive(Clone, Debug)]
pub struct UploadQuery {
    pub bucket: BucketId,
    pub prefix: Vec<u8>,
    pub delimiter: Option<Vec<u8>>,
    /// Exclusive; with `after_upload` the uploads of this key behind that one come too.
    pub after: Vec<u8>,
    pub after_upload: Option<ObjectId>,
    pub max: usize,
}

#[derive(Clone, Debug)]
pub enum UploadRow {
    Upload {
        key: Vec<u8>,
        upload: ObjectId,
        value: UploadValue,
    },
    Prefix(Vec<u8>),
}

impl UploadRow {
    /// What rows are ordered by.
    pub fn name(&self) -> (&[u8], Option<ObjectId>) {
        match self {
            UploadRow::Upload { key, upload, .. } => (key, Some(*upload)),
            UploadRow::Prefix(prefix) => (prefix, None),
        }
    }
}

/// At most `max` rows; `more` if there may be others behind them.
#[derive(Clone, Debug, Default)]
pub struct UploadsPage {
    pub rows: Vec<UploadRow>,
    pub more: bool,
}

impl Groups {
    /// Parts of an open upload with numbers above `after`, at most `max`, and whether there are more.
    pub fn parts(
        &self,
        upload: ObjectId,
        after: u16,
        max: usize,
    ) -> Result<(Vec<PartValue>, bool), VolumeError> {
        let mut parts = Vec::new();
        let mut more = false;
        let mut from = part_key(upload, after.saturating_add(1));
        loop {
            let end =
                self.volume()
                    .view()
                    .index
                    .scan(Table::Parts, &from, usize::MAX, |k, v| {
                        if !k.starts_with(&upload.0) {
                            return Step::Stop;
                        }
                        if parts.len() == max {
                            more = true;
                            return Step::Stop;
                        }
                        if let Some((.., value)) = Slot::split(v)
                            && let Some(part) = PartValue::decode(value)
                        {
                            parts.push(part);
                        }
                        Step::Next
                    })?;
            match end {
                ScanEnd::Budget(next) => from = next,
                _ => return Ok((parts, more)),
            }
        }
    }

    /// The part that an entry of the objects table names, if it names one.
    pub(super) fn open_part(&self, owner: &[u8]) -> Result<Option<PartValue>, VolumeError> {
        let Some(key) = part_of(owner) else {
            return Ok(None);
        };
        let store = self.volume().view();
        let part = store.index.get(Table::Parts, key, |slot| {
            Slot::split(slot).and_then(|(.., value)| PartValue::decode(value))
        })?;
        Ok(part.flatten())
    }

    /// Open uploads of this volume's groups, by key and then by when they were begun.
    pub async fn uploads(self: &Rc<Self>, query: &UploadQuery) -> Result<UploadsPage, VolumeError> {
        self.volume().check_all_groups()?;
        let mut page = UploadsPage::default();
        let delimiter = query.delimiter.as_deref().filter(|d| !d.is_empty());
        let with_bucket = |key: &[u8]| {
            let mut v = query.bucket.0.to_be_bytes().to_vec();
            v.extend(key);
            v
        };
        let mut from = with_bucket(&query.prefix);
        if query.after.as_slice() >= query.prefix.as_slice() && !query.after.is_empty() {
            let rolled = delimiter.and_then(|d| common_prefix(&query.after, &query.prefix, d));
            let behind = match (rolled, query.after_upload) {
                (Some(prefix), _) => successor(prefix).map(|key| with_bucket(&key)),
                (None, Some(upload)) => {
                    let mut v = key_prefix(query.bucket, &query.after);
                    v.extend(upload.0);
                    v.push(0);
                    Some(v)
                }
                (None, None) => {
                    let mut v = with_bucket(&query.after);
                    v.push(1);
                    Some(v)
                }
            };
            match behind {
                Some(behind) => from = behind,
                None => return Ok(page),
            }
        }
        if query.max == 0 {
            return Ok(page);
        }
        loop {
            let end = self.volume().view().index.scan(
                Table::Uploads,
                &from,
                LIST_STEPS_PER_TURN,
                |k, v| {
                    let Some((_, key, upload)) =
                        split_upload_key(k).filter(|(bucket, ..)| *bucket == query.bucket)
                    else {
                        return Step::Stop;
                    };
                    if !key.starts_with(&query.prefix) {
                        return if key > query.prefix.as_slice() {
                            Step::Stop
                        } else {
                            Step::Next
                        };
                    }
                    let value = Slot::split(v).and_then(|(.., value)| UploadValue::decode(value));
                    let Some(value) = value.filter(|value| value.completed.is_none()) else {
                        return Step::Next;
                    };
                    if page.rows.len() == query.max {
                        page.more = true;
                        return Step::Stop;
                    }
                    if let Some(prefix) =
                        delimiter.and_then(|d| common_prefix(key, &query.prefix, d))
                    {
                        page.rows.push(UploadRow::Prefix(prefix.to_vec()));
                        return match successor(prefix) {
                            Some(next) => Step::Seek(with_bucket(&next)),
                            None => Step::Stop,
                        };
                    }
                    page.rows.push(UploadRow::Upload {
                        key: key.to_vec(),
                        upload,
                        value,
                    });
                    Step::Next
                },
            )?;
            match end {
                ScanEnd::Budget(next) => {
                    from = next;
                    rt::yield_now().await;
                }
                _ => return Ok(page),
            }
        }
    }

    /// Uploads that were completed before `before_ms`, at most `max`: `(bucket, key, upload)`, and whether there may be
    /// more.
    pub async fn completed_uploads(
        self: &Rc<Self>,
        before_ms: u64,
        max: usize,
    ) -> Result<Vec<(BucketId, Vec<u8>, ObjectId)>, VolumeError> {
        let mut found = Vec::new();
        let mut from = Vec::new();
        loop {
            let end = self.volume().view().index.scan(
                Table::Uploads,
                &from,
                LIST_STEPS_PER_TURN,
                |k, v| {
                    let value = Slot::split(v).and_then(|(.., value)| UploadValue::decode(value));
                    if value
                        .and_then(|value| value.completed)
                        .is_some_and(|completed| completed.modified_ms < before_ms)
                        && let Some((bucket, key, upload)) = split_upload_key(k)
                    {
                        found.push((bucket, key.to_vec(), upload));
                    }
                    if found.len() == max {
                        Step::Stop
                    } else {
                        Step::Next
                    }
                },
            )?;
            match end {
                ScanEnd::Budget(next) => {
                    from = next;
                    rt::yield_now().await;
                }
                _ => return Ok(found),
            }
        }
    }

    /// Removes part registers of uploads that are not open: a rebuild can bring back such parts when nothing is left of
    /// their upload.
    pub async fn sweep_parts(self: &Rc<Self>) -> Result<usize, VolumeError> {
        let mut swept = 0;
        let mut from = Vec::new();
        loop {
            let mut stale = Vec::new();
            let end = {
                let store = self.volume().view();
                store
                    .index
                    .scan(Table::Parts, &from, LIST_STEPS_PER_TURN, |k, _| {
                        let Some(upload) = k.first_chunk::<16>() else {
                            return Step::Next;
                        };
                        stale.push(ObjectId(*upload));
                        let mut behind = upload.to_vec();
                        behind.extend([0xFF; 3]);
                        Step::Seek(behind)
                    })?
            };
            for upload in stale {
                let store = self.volume().view();
                let is_open = store
                    .index
                    .get(Table::Objects, &upload.0, |owner| {
                        version_of(owner).is_none()
                    })?
                    .unwrap_or(false);
                if !is_open {
                    take_parts(&store, upload, None);
                    swept += 1;
                }
            }
            match end {
                ScanEnd::Budget(next) => {
                    from = next;
                    rt::yield_now().await;
                }
                _ => return Ok(swept),
            }
        }
    }
}
