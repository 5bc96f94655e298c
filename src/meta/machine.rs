//! The state machine of the placement groups on one volume: what each metadata record does to the index.
//!
//! | record | register | also |
//! |---|---|---|
//! | put version | version := present | objects table; what it outranks goes to the free table |
//! | delete version | version := absent | what it outranks goes to the free table |
//! | put / delete bucket | bucket := present / absent | |
//! | fence bucket | fence := fenced or open | |
//! | abort object | aborted := present | a later put of the id is refused |
//! | free done | – | the id leaves the free table |
//! | create upload | upload := open | |
//! | put part | part := present | what it outranks goes to the free table |
//! | put version of an upload's object | version := present, upload := completed | parts that it does not name go to the free table |
//! | end upload | upload := absent | an aborted one goes to the free table, its parts with it |
//!
//! Deterministic: the same records in any order give the same index (see `register`). Conditions and fences are
//! evaluated when a command is applied, never when it is proposed; a refusal is recorded by the volume.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use shard_format::{
    Condition, Hlc, MetadataEntry, MetadataRecord, ObjectId, Origin, PgId, PutVersion, UploadEnd,
};

use super::{
    register::{self, Current, Incoming, Merged, Place, Register},
    upload::{self, PartValue, Stage, UploadValue},
    version::{BucketValue, VersionValue},
};
use crate::{
    index::Table,
    limits::UPLOAD_AGE_MAX,
    log::Extent,
    volume::{Applied, Liveness, Machine, Outcome, Refusal, Ruling, Store},
};

/// The groups' state beside the index: clocks and counters.
#[derive(Default)]
pub struct GroupMachine {
    last_hlc: Cell<u64>,
    indexes: RefCell<BTreeMap<PgId, u64>>,
}

impl GroupMachine {
    /// Stamps the next command of a group: its index grows by one, its HLC is above every earlier one of this volume.
    pub fn stamp(&self, pg: PgId, unix_ms: u64) -> Origin {
        let hlc = self.tick(unix_ms);
        let mut indexes = self.indexes.borrow_mut();
        let index = indexes.entry(pg).or_insert(0);
        *index += 1;
        Origin {
            pg,
            index: *index,
            term: 1,
            hlc,
        }
    }

    /// The next time of this volume's clock: now, or just above the last one.
    pub fn tick(&self, unix_ms: u64) -> Hlc {
        let hlc = Hlc(Hlc::new(unix_ms, 0).0.max(self.last_hlc.get() + 1));
        self.last_hlc.set(hlc.0);
        hlc
    }

    fn observe(&self, origin: &Origin) {
        self.last_hlc.set(self.last_hlc.get().max(origin.hlc.0));
        let mut indexes = self.indexes.borrow_mut();
        let index = indexes.entry(origin.pg).or_insert(0);
        *index = (*index).max(origin.index);
    }
}

fn is_fenced(store: &Store<'_>, pg: PgId, bucket: shard_format::BucketId) -> bool {
    Register::Fence { pg, bucket }
        .current(store)
        .is_some_and(|c| c.slot.value == [1])
}

fn check_condition(condition: &Condition<'_>, current: Option<&Current>) -> Result<(), Refusal> {
    let version = current
        .filter(|c| c.present)
        .and_then(|c| VersionValue::decode(&c.slot.value));
    let version = version.filter(|v| !v.delete_marker);
    let holds = match (condition, &version) {
        (Condition::None, _) => true,
        (Condition::IfNoneMatchAny, v) => v.is_none(),
        (Condition::IfMatch(etag), Some(v)) => v.etag.matches(etag),
        (Condition::IfMatch(_), None) => false,
        (Condition::IfNoneMatch(etag), Some(v)) => !v.etag.matches(etag),
        (Condition::IfNoneMatch(_), None) => true,
        (Condition::IfMatchAny, v) => v.is_some(),
    };
    match (holds, condition) {
        (true, _) => Ok(()),
        // S3 tells an absent object from one that differs.
        (false, Condition::IfMatch(_) | Condition::IfMatchAny) if version.is_none() => {
            Err(Refusal::Absent)
        }
        (false, _) => Err(Refusal::Condition),
    }
}

/// Object ids older than this, by the HLC of the command that names them, are refused: their abort record may be gone.
fn too_old(object: ObjectId, now: Hlc) -> bool {
    object.hlc().ms() + (UPLOAD_AGE_MAX.as_millis() as u64) < now.ms()
}

/// A version is no register's present value any more: its shards go.
fn bury(store: &Store<'_>, value: &[u8]) {
    if let Some(v) = VersionValue::decode(value)
        && v.chunks > 0
    {
        bury_object(store, v.object());
    }
}

/// The objects table says who an object id belongs to: this byte, then the owner's key in its own table.
const OWNED_BY_VERSION: u8 = 1;
const OWNED_BY_UPLOAD: u8 = 2;
const OWNED_BY_PART: u8 = 3;

fn set_owner(store: &Store<'_>, object: ObjectId, owner: u8, key: Vec<u8>) {
    let mut value = vec![owner];
    value.extend(key);
    store.index.put(Table::Objects, &object.0, value);
}

/// The key in the versions table that an entry of the objects table names.
pub(super) fn version_of(owner: &[u8]) -> Option<&[u8]> {
    owner.strip_prefix(&[OWNED_BY_VERSION])
}

/// The key in the parts table that an entry of the objects table names.
pub(super) fn part_of(owner: &[u8]) -> Option<&[u8]> {
    owner.strip_prefix(&[OWNED_BY_PART])
}

/// Whether the parts of this upload are still its own.
fn is_open(store: &Store<'_>, upload: ObjectId) -> bool {
    matches!(
        store
            .index
            .get(Table::Objects, &upload.0, |owner| owner.first()
                == Some(&OWNED_BY_UPLOAD)),
        Ok(Some(true))
    )
}

pub(super) fn bury_object(store: &Store<'_>, object: ObjectId) {
    store.index.remove(Table::Objects, &object.0);
    store.index.put(Table::Free, &object.0, vec![1]);
}

fn register_of<'a>(record: &MetadataRecord<'a>, pg: PgId) -> Option<Register<'a>> {
    match record {
        MetadataRecord::PutVersion(p) => Some(Register::Version {
            bucket: p.bucket,
            key: p.key,
        }),
        MetadataRecord::DeleteVersion(d) => Some(Register::Version {
            bucket: d.bucket,
            key: d.key,
        }),
        MetadataRecord::PutBucket(p) => Some(Register::Bucket { name: p.name }),
        MetadataRecord::DeleteBucket { name, .. } => Some(Register::Bucket { name }),
        MetadataRecord::FenceBucket { bucket, .. } => Some(Register::Fence {
            pg,
            bucket: *bucket,
        }),
        MetadataRecord::AbortObject { object } => Some(Register::Aborted { object: *object }),
        MetadataRecord::CreateUpload(create) => Some(Register::Upload {
            bucket: create.bucket,
            key: create.key,
            upload: create.upload,
        }),
        MetadataRecord::EndUpload(end) => Some(Register::Upload {
            bucket: end.bucket,
            key: end.key,
            upload: end.upload,
        }),
        MetadataRecord::PutPart(part) => Some(Register::Part {
            upload: part.upload,
            number: part.number,
        }),
        MetadataRecord::FreeDone { .. } | MetadataRecord::NoOp => None,
    }
}

/// The upload that a put completes.
fn completed_upload<'a>(record: &MetadataRecord<'a>) -> Option<Register<'a>> {
    match record {
        MetadataRecord::PutVersion(put) if put.object.is_upload() => Some(Register::Upload {
            bucket: put.bucket,
            key: put.key,
            upload: put.object,
        }),
        _ => None,
    }
}

/// Whether the command may take effect now.
fn rule(store: &Store<'_>, record: &MetadataRecord<'_>, origin: &Origin) -> Result<(), Refusal> {
    let pg = origin.pg;
    match record {
        MetadataRecord::PutVersion(put) => {
            if is_fenced(store, pg, put.bucket) {
                return Err(Refusal::Fenced);
            }
            if let Some(upload) = completed_upload(record) {
                upload::check_open(store, &upload)?;
                upload::check_parts(store, put.object, &put.fields.parts)?;
            }
            // Only an object with shards can have been taken for an orphan; a part was looked at when it was put.
            let aborted = Register::Aborted { object: put.object }
                .current(store)
                .is_some();
            if orphanable(put) && (aborted || too_old(put.object, origin.hlc)) {
                return Err(Refusal::Aborted);
            }
            if put.condition == Condition::None {
                return Ok(());
            }
            let current = Register::Version {
                bucket: put.bucket,
                key: put.key,
            }
            .current(store);
            check_condition(&put.condition, current.as_ref())
        }
        MetadataRecord::DeleteVersion(delete) => {
            if is_fenced(store, pg, delete.bucket) {
                return Err(Refusal::Fenced);
            }
            if delete.condition == Condition::None {
                return Ok(());
            }
            let current = Register::Version {
                bucket: delete.bucket,
                key: delete.key,
            }
            .current(store);
            check_condition(&delete.condition, current.as_ref())
        }
        MetadataRecord::PutBucket(put) => {
            match (Register::Bucket { name: put.name }).current(store) {
                Some(c) if c.present => match BucketValue::decode(&c.slot.value) {
                    Some(b) if b.id != put.bucket.0 => {
                        Err(Refusal::Exists(shard_format::BucketId(b.id)))
                    }
                    _ => Ok(()),
                },
                _ => Ok(()),
            }
        }
        MetadataRecord::DeleteBucket { name, bucket } => {
            match (Register::Bucket { name }).current(store) {
                Some(c) if c.present => match BucketValue::decode(&c.slot.value) {
                    // Only what is being deleted: whoever made it active again has lifted the fences.
                    Some(b) if b.id == bucket.0 && b.deleting => Ok(()),
                    _ => Err(Refusal::Missing),
                },
                _ => Err(Refusal::Missing),
            }
        }
        MetadataRecord::CreateUpload(create) => {
            if is_fenced(store, pg, create.bucket) {
                return Err(Refusal::Fenced);
            }
            Ok(())
        }
        MetadataRecord::PutPart(part) => {
            if is_fenced(store, pg, part.bucket) {
                return Err(Refusal::Fenced);
            }
            let upload = Register::Upload {
                bucket: part.bucket,
                key: part.key,
                upload: part.upload,
            };
            upload::check_open(store, &upload)?;
            let aborted = Register::Aborted {
                object: part.object,
            };
            match aborted.current(store) {
                None => Ok(()),
                Some(_) => Err(Refusal::Aborted),
            }
        }
        MetadataRecord::EndUpload(end) => {
            let upload = Register::Upload {
                bucket: end.bucket,
                key: end.key,
                upload: end.upload,
            };
            match (end.end, upload::stage(store, &upload)) {
                (UploadEnd::Aborted, Stage::Open) | (UploadEnd::Forgotten, Stage::Completed) => {
                    Ok(())
                }
                _ => Err(Refusal::NoUpload),
            }
        }
        // Once its upload is complete a part's fate is decided; its version's list has it or not.
        MetadataRecord::AbortObject { object }
            if object
                .upload()
                .is_some_and(|upload| !is_open(store, upload))
                && !crate::planted!("abort-after-completion") =>
        {
            Err(Refusal::Condition)
        }
        // An object that a version names is not an orphan.
        MetadataRecord::AbortObject { object } => {
            match store.index.get(Table::Objects, &object.0, |_| ()) {
                Ok(None) => Ok(()),
                _ => Err(Refusal::Condition),
            }
        }
        MetadataRecord::FenceBucket { .. }
        | MetadataRecord::FreeDone { .. }
        | MetadataRecord::NoOp => Ok(()),
    }
}

fn value_of(record: &MetadataRecord<'_>) -> Option<Vec<u8>> {
    match record {
        MetadataRecord::PutVersion(put) => Some(VersionValue::of(put).encode()),
        MetadataRecord::PutBucket(put) => Some(BucketValue::of(put).encode()),
        MetadataRecord::FenceBucket { fenced, .. } => Some(vec![u8::from(*fenced)]),
        MetadataRecord::AbortObject { .. } => Some(Vec::new()),
        MetadataRecord::CreateUpload(create) => Some(UploadValue::begun(create).encode()),
        MetadataRecord::PutPart(part) => Some(PartValue::of(part).encode()),
        _ => None,
    }
}

fn chunked(put: &PutVersion<'_>) -> bool {
    matches!(put.body, shard_format::Body::Chunks(n) if n > 0)
}

/// Has shards that nobody names until it is applied, and no upload that does.
fn orphanable(put: &PutVersion<'_>) -> bool {
    chunked(put) && !put.object.is_upload()
}

impl Machine for GroupMachine {
    fn apply(&self, store: &Store<'_>, applied: &Applied<'_>) -> Outcome {
        let origin = &applied.entry.origin;
        self.observe(origin);
        // The payload's checksum was right, so this is a record of another format: opening a store of a newer format
        // is refused before it comes here.
        let Ok(record) = MetadataRecord::decode(applied.payload) else {
            return Err(Refusal::Missing);
        };
        if let MetadataRecord::FreeDone { object } = record {
            store.index.remove(Table::Free, &object.0);
            return Ok(());
        }
        let Some(register) = register_of(&record, origin.pg) else {
            return Ok(());
        };
        let generation = applied.extent.generation;
        let verdict = match applied.ruling {
            Ruling::Accepted => Ok(()),
            Ruling::Refused => Err(Refusal::Condition),
            Ruling::Evaluate => rule(store, &record, origin),
        };
        if let Err(refusal) = verdict {
            register::note_stale(store, &register, generation);
            match &record {
                // A refused completion leaves its upload as it was.
                MetadataRecord::PutVersion(put) if orphanable(put) => {
                    bury_object(store, put.object);
                }
                MetadataRecord::PutPart(part) => bury_object(store, part.object),
                _ => {}
            }
            return Err(refusal);
        }
        // A replay may show a part after its upload's end, because the end was copied by reclaim and the part not.
        if let MetadataRecord::PutPart(part) = &record {
            let upload = Register::Upload {
                bucket: part.bucket,
                key: part.key,
                upload: part.upload,
            };
            if matches!(
                upload::stage(store, &upload),
                Stage::Completed | Stage::Ended
            ) {
                return Ok(());
            }
        }
        let place = Place {
            extent: applied.extent,
            lsn: applied.lsn,
            crc: shard_format::crc32c(applied.payload),
        };
        let incoming = Incoming {
            hlc: origin.hlc,
            place,
            value: value_of(&record),
            relocated: applied.entry.relocated,
        };
        // Deleting what is not there leaves nothing to remember, unless older records may still come (replay).
        let absent = matches!(
            record,
            MetadataRecord::DeleteVersion(_)
                | MetadataRecord::DeleteBucket { .. }
                | MetadataRecord::EndUpload(_)
        );
        if absent && applied.ruling == Ruling::Evaluate && register.current(store).is_none() {
            return Ok(());
        }
        let merged = register::merge(store, &register, incoming);
        match (&record, &merged) {
            (MetadataRecord::PutVersion(put), Merged::Won(_)) if chunked(put) => {
                let key = register::version_key(put.bucket, put.key, origin.hlc);
                set_owner(store, put.object, OWNED_BY_VERSION, key);
            }
            (MetadataRecord::PutVersion(put), Merged::Lost) if chunked(put) => {
                bury_object(store, put.object);
            }
            (MetadataRecord::CreateUpload(create), Merged::Won(_)) => {
                let key = register::upload_key(create.bucket, create.key, create.upload);
                set_owner(store, create.upload, OWNED_BY_UPLOAD, key);
            }
            (MetadataRecord::EndUpload(end), Merged::Won(_)) if end.end == UploadEnd::Aborted => {
                upload::take_parts(store, end.upload, None);
                bury_object(store, end.upload);
            }
            (MetadataRecord::PutPart(part), Merged::Won(old)) => {
                let key = register::part_key(part.upload, part.number);
                set_owner(store, part.object, OWNED_BY_PART, key);
                if let Some(old) = old.as_ref().and_then(|o| PartValue::decode(&o.slot.value)) {
                    bury_object(store, old.object());
                }
            }
            (MetadataRecord::PutPart(part), Merged::Lost) => bury_object(store, part.object),
            _ => {}
        }
        if let (MetadataRecord::PutVersion(put), Some(upload)) =
            (&record, completed_upload(&record))
        {
            let incoming = Incoming {
                hlc: origin.hlc,
                place,
                value: Some(UploadValue::completed_by(put).encode()),
                relocated: applied.entry.relocated,
            };
            register::merge(store, &upload, incoming);
            upload::take_parts(store, put.object, Some(&put.fields.parts));
        }
        if let (Merged::Won(Some(old)), Register::Version { .. }) = (&merged, &register)
            && old.present
        {
            bury(store, &old.slot.value);
        }
        Ok(())
    }

    fn liveness(
        &self,
        store: &Store<'_>,
        payload: &[u8],
        entry: &MetadataEntry,
        extent: &Extent,
    ) -> Liveness {
        let Ok(record) = MetadataRecord::decode(payload) else {
            return Liveness::Live;
        };
        let Some(register) = register_of(&record, entry.origin.pg) else {
            return Liveness::Dead;
        };
        // A completion is also what answers a second one.
        if let Some(upload) = completed_upload(&record)
            && !crate::planted!("forget-completion")
            && upload
                .current(store)
                .is_some_and(|c| c.present && c.slot.place.extent == *extent)
        {
            return Liveness::Live;
        }
        if let MetadataRecord::PutPart(part) = &record
            && !is_open(store, part.upload)
        {
            upload::take_parts(store, part.upload, None);
            return Liveness::Dead;
        }
        match register.current(store) {
            Some(c) if c.slot.place.extent == *extent => {
                if c.present {
                    return self.aborted_liveness(store, &record, entry);
                }
                if register::drop_needless_tombstone(store, &register) {
                    Liveness::Dead
                } else {
                    Liveness::Live
                }
            }
            _ => Liveness::Dead,
        }
    }

    fn freed(&self, store: &Store<'_>, payload: &[u8], entry: &MetadataEntry) {
        if let Ok(record) = MetadataRecord::decode(payload)
            && let Some(register) = register_of(&record, entry.origin.pg)
        {
            register::drop_needless_tombstone(store, &register);
            if let Some(upload) = completed_upload(&record) {
                register::drop_needless_tombstone(store, &upload);
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut v = self.last_hlc.get().to_le_bytes().to_vec();
        for (pg, index) in self.indexes.borrow().iter() {
            v.extend(pg.0.to_le_bytes());
            v.extend(index.to_le_bytes());
        }
        v
    }

    fn restore(&self, snapshot: &[u8]) {
        let Some((hlc, rows)) = snapshot.split_first_chunk::<8>() else {
            return;
        };
        self.last_hlc
            .set(self.last_hlc.get().max(u64::from_le_bytes(*hlc)));
        let mut indexes = self.indexes.borrow_mut();
        for row in rows.chunks_exact(10) {
            let pg = PgId(u16::from_le_bytes(row[..2].try_into().expect("2 bytes")));
            let index = u64::from_le_bytes(row[2..].try_into().expect("8 bytes"));
            indexes.insert(pg, index);
        }
    }
}

impl GroupMachine {
    /// An abort is remembered as long as a put of its object id could still be accepted.
    fn aborted_liveness(
        &self,
        store: &Store<'_>,
        record: &MetadataRecord<'_>,
        entry: &MetadataEntry,
    ) -> Liveness {
        let MetadataRecord::AbortObject { object } = record else {
            return Liveness::Live;
        };
        let _ = entry;
        let is_over = match object.upload() {
            Some(upload) => !is_open(store, upload),
            None => too_old(*object, Hlc(self.last_hlc.get())),
        };
        if is_over {
            store.index.remove(Table::Aborted, &object.0);
            return Liveness::Dead;
        }
        Liveness::Live
    }
}
