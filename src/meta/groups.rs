//! The placement groups whose home is one volume: proposing, reading, leases, and giving back space.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use shard_format::{
    Body, BucketId, Epoch, Head, Hlc, MetadataEntry, MetadataRecord, ObjectId, PgId, PutVersion,
    Scheme,
};

use super::{
    machine::{GroupMachine, version_of},
    register::{Place, Register, Slot, split_version_key},
    upload::{UploadValue, Uploaded},
    version::{BucketValue, VersionValue},
};
use crate::{
    index::{ScanEnd, Step, Table},
    limits::LEASE_TIME,
    rt::{self, Buf, Instant},
    volume::{Outcome, Volume, VolumeError},
};

/// A version's record as read from the log: `buf[at..at + length]` is the encoded put.
pub struct ObjectRecord {
    pub buf: Buf,
    pub at: usize,
    pub length: usize,
    pub hlc: Hlc,
}

/// Bytes with an object id of their own, and how they are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub object: ObjectId,
    pub size: u64,
    pub scheme: Scheme,
    pub epoch: Epoch,
}

/// What is stored of a version, in the order of its bytes: itself, or its parts; nothing if its body is inline.
pub fn stored_of(put: &PutVersion<'_>) -> Vec<StoredObject> {
    let Body::Chunks(_) = put.body else {
        return Vec::new();
    };
    let (mut scheme, mut epoch) = (put.scheme, put.epoch);
    if put.fields.parts.is_empty() {
        return vec![StoredObject {
            object: put.object,
            size: put.size,
            scheme,
            epoch,
        }];
    }
    let mut others = put.fields.part_placements.iter().peekable();
    let parts = (0..).zip(&put.fields.parts);
    parts
        .map(|(i, part)| {
            if let Some(other) = others.next_if(|other| other.first == i) {
                (scheme, epoch) = (other.scheme, other.epoch);
            }
            StoredObject {
                object: put.object.part(part.attempt),
                size: part.size,
                scheme,
                epoch,
            }
        })
        .collect()
}

impl ObjectRecord {
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.at..self.at + self.length]
    }
}

/// Tries at reading a record that reclaim moves meanwhile.
const READS_MAX: usize = 3;

struct Lease {
    holders: u32,
    expires: Instant,
}

/// The groups of one volume.
pub struct Groups {
    volume: Volume,
    machine: Rc<GroupMachine>,
    leases: RefCell<BTreeMap<ObjectId, Lease>>,
    /// The groups' clock when the volume was opened.
    opened: Hlc,
}

impl Groups {
    pub fn new(volume: Volume, machine: Rc<GroupMachine>) -> Groups {
        let opened = machine.tick(rt::unix_ms());
        Groups {
            volume,
            machine,
            leases: RefCell::default(),
            opened,
        }
    }

    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Proposes an encoded command to a group. Returns its outcome when it is committed and applied.
    ///
    /// # Errors
    /// `Full`, `ReadOnly`, `Suspect`, `Closed`: the command may or may not be found after a restart, and was not
    /// acknowledged. A refusal is an outcome, not an error: it is durable that nothing changed.
    pub async fn propose(
        &self,
        pg: PgId,
        needs_space: bool,
        payload: Vec<u8>,
    ) -> Result<Outcome, VolumeError> {
        let mut outcomes = self.propose_all(vec![(pg, payload)], needs_space).await?;
        Ok(outcomes.pop().expect("one command, one outcome"))
    }

    /// Proposes commands of several groups at once: one batch, one flush.
    pub async fn propose_all(
        &self,
        commands: Vec<(PgId, Vec<u8>)>,
        needs_space: bool,
    ) -> Result<Vec<Outcome>, VolumeError> {
        if needs_space {
            let bytes = commands.iter().map(|(_, payload)| payload.len()).sum();
            self.volume
                .admit_put(Head::Commit, commands.len(), bytes)
                .await?;
        } else {
            self.volume.admit_delete().await?;
        }
        let now = rt::unix_ms();
        let mut stamped = Vec::with_capacity(commands.len());
        for (pg, payload) in commands {
            self.volume.check_group(pg)?;
            let origin = self.machine.stamp(pg, now);
            stamped.push((
                MetadataEntry {
                    origin,
                    relocated: false,
                },
                payload,
            ));
        }
        let receivers = self.volume.commit(stamped);
        let mut outcomes = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            outcomes.push(receiver.await.unwrap_or(Err(VolumeError::Closed))?);
        }
        Ok(outcomes)
    }

    // ------------------------------------------------------------------------------------------- reading

    /// The current version of a key, read whole; `Absent` if there is none. With `lease`, the object's shards stay
    /// until the lease is released or expires.
    pub async fn read(
        &self,
        pg: PgId,
        bucket: BucketId,
        key: &[u8],
        lease: bool,
    ) -> Result<ObjectRecord, VolumeError> {
        // The record may move between looking it up and reading it, but not twice in a row without bound: each move
        // is a reclaim of a whole file.
        for _ in 0..READS_MAX {
            // Fences are for writes: whether the bucket is there is for its name to say.
            self.volume.check_group(pg)?;
            let store = self.volume.view();
            let Some(current) = (Register::Version { bucket, key })
                .read(&store)?
                .filter(|c| c.present)
            else {
                return Err(VolumeError::Absent);
            };
            let Some(value) = VersionValue::decode(&current.slot.value) else {
                return Err(VolumeError::Unreadable {
                    what: "an entry of the versions table".into(),
                });
            };
            if value.delete_marker {
                return Err(VolumeError::Absent);
            }
            if lease && value.chunks > 0 {
                self.lease(value.object());
            }
            let hlc = current.slot.hlc;
            let is_it = |record: &MetadataRecord<'_>| matches!(record, MetadataRecord::PutVersion(put) if put.bucket == bucket && put.key == key);
            match self.read_place(&current.slot.place, is_it).await {
                Ok((buf, at)) => {
                    return Ok(ObjectRecord {
                        buf,
                        at,
                        length: current.slot.place.extent.length as usize,
                        hlc,
                    });
                }
                Err(e) => {
                    if lease && value.chunks > 0 {
                        self.release(value.object());
                    }
                    let again = Register::Version { bucket, key }.read(&self.volume.view())?;
                    if again.is_some_and(|c| c.slot.place == current.slot.place) {
                        return Err(e);
                    }
                }
            }
        }
        Err(VolumeError::Unreadable {
            what: "a record that keeps moving".into(),
        })
    }

    /// An upload of a key; `None` if there is none, or none any more.
    pub async fn upload(
        &self,
        pg: PgId,
        bucket: BucketId,
        key: &[u8],
        upload: ObjectId,
    ) -> Result<Option<Uploaded>, VolumeError> {
        let register = Register::Upload {
            bucket,
            key,
            upload,
        };
        for _ in 0..READS_MAX {
            self.volume.check_group(pg)?;
            let Some(current) = register.read(&self.volume.view())?.filter(|c| c.present) else {
                return Ok(None);
            };
            let Some(value) = UploadValue::decode(&current.slot.value) else {
                return Err(VolumeError::Unreadable {
                    what: "an entry of the uploads table".into(),
                });
            };
            if let Some(completed) = value.completed {
                return Ok(Some(Uploaded::Completed(completed)));
            }
            let is_it = |record: &MetadataRecord<'_>| matches!(record, MetadataRecord::CreateUpload(create) if create.upload == upload);
            let place = current.slot.place;
            match self.read_place(&place, is_it).await {
                Ok((buf, at)) => {
                    let record = ObjectRecord {
                        buf,
                        at,
                        length: place.extent.length as usize,
                        hlc: current.slot.hlc,
                    };
                    return Ok(Some(Uploaded::Open(value, record)));
                }
                Err(e) => {
                    let again = register.read(&self.volume.view())?;
                    if again.is_some_and(|c| c.slot.place == place) {
                        return Err(e);
                    }
                }
            }
        }
        Err(VolumeError::Unreadable {
            what: "a record that keeps moving".into(),
        })
    }

    /// Reads and verifies a record: checksum, and that it is the one meant.
    async fn read_place(
        &self,
        place: &Place,
        is_it: impl Fn(&MetadataRecord<'_>) -> bool,
    ) -> Result<(Buf, usize), VolumeError> {
        self.volume
            .read_record(&place.extent, |bytes| {
                shard_format::crc32c(bytes) == place.crc
                    && MetadataRecord::decode(bytes).is_ok_and(|record| is_it(&record))
            })
            .await
    }

    pub fn bucket(&self, name: &str) -> Result<Option<BucketValue>, VolumeError> {
        self.volume.check_group(PgId::SYSTEM)?;
        let current = Register::Bucket { name }
            .read(&self.volume.view())?
            .filter(|c| c.present);
        Ok(current.and_then(|c| BucketValue::decode(&c.slot.value)))
    }

    /// Every bucket, by name.
    pub async fn buckets(&self) -> Result<Vec<(String, BucketValue)>, VolumeError> {
        self.volume.check_group(PgId::SYSTEM)?;
        let mut all = Vec::new();
        let mut from = Vec::new();
        loop {
            let end = self
                .volume
                .view()
                .index
                .scan(Table::Buckets, &from, 1024, |k, v| {
                    if let (Ok(name), Some((_, _, _, value))) =
                        (std::str::from_utf8(k), Slot::split(v))
                        && let Some(b) = BucketValue::decode(value)
                    {
                        all.push((name.to_owned(), b));
                    }
                    Step::Next
                })?;
            match end {
                ScanEnd::Budget(next) => from = next,
                _ => return Ok(all),
            }
            rt::yield_now().await;
        }
    }

    /// Whether these groups hold no version of the bucket.
    pub fn is_empty(&self, bucket: BucketId) -> Result<bool, VolumeError> {
        self.volume.check_all_groups()?;
        let prefix = bucket.0.to_be_bytes();
        let mut from = prefix.to_vec();
        loop {
            let mut empty = true;
            let end = self
                .volume
                .view()
                .index
                .scan(Table::Versions, &from, 4096, |k, _| {
                    empty = !k.starts_with(&prefix);
                    Step::Stop
                })?;
            match end {
                ScanEnd::Budget(next) => from = next,
                _ => return Ok(empty),
            }
        }
    }

    // ------------------------------------------------------------------------------------------- leases

    /// A new object id of a key of this group, by the group's clock, leased to its upload.
    pub fn begin(&self, key_hash32: u32) -> ObjectId {
        let hlc = self.machine.tick(rt::unix_ms());
        let object = ObjectId::new(key_hash32, hlc, (rt::random_u64() as u32).to_be_bytes());
        self.lease(object);
        object
    }

    /// A new upload id of a key of this group.
    pub fn begin_upload(&self, key_hash32: u32) -> ObjectId {
        ObjectId::of_upload(key_hash32, self.machine.tick(rt::unix_ms()))
    }

    /// A new object id of a part, leased to whoever stores it. Never one of which anything is known: shards that an
    /// earlier attempt left must not be taken for this one's, nor the other way round.
    pub fn begin_part(&self, upload: ObjectId) -> Result<ObjectId, VolumeError> {
        loop {
            let attempt = (rt::random_u64() as u32 >> 1).max(1);
            let object = upload.part(attempt);
            let store = self.volume.view();
            let tables = [Table::Objects, Table::Free, Table::Aborted];
            let mut known = self.is_leased(object);
            for table in tables {
                known |= store.index.get(table, &object.0, |_| ())?.is_some();
            }
            if !known {
                self.lease(object);
                return Ok(object);
            }
        }
    }

    /// Keeps the object's shards from being freed (and its upload from being taken for an orphan).
    pub fn lease(&self, object: ObjectId) {
        let expires = rt::now() + LEASE_TIME;
        let mut leases = self.leases.borrow_mut();
        let lease = leases.entry(object).or_insert(Lease {
            holders: 0,
            expires,
        });
        lease.holders += 1;
        lease.expires = expires;
    }

    pub fn renew(&self, object: ObjectId) -> bool {
        let now = rt::now();
        match self.leases.borrow_mut().get_mut(&object) {
            Some(lease) if lease.expires > now => {
                lease.expires = now + LEASE_TIME;
                true
            }
            _ => false,
        }
    }

    pub fn release(&self, object: ObjectId) {
        let mut leases = self.leases.borrow_mut();
        if let Some(lease) = leases.get_mut(&object) {
            lease.holders -= 1;
            if lease.holders == 0 {
                leases.remove(&object);
            }
        }
    }

    fn is_leased(&self, object: ObjectId) -> bool {
        let now = rt::now();
        let mut leases = self.leases.borrow_mut();
        leases.retain(|_, l| l.expires > now);
        leases.contains_key(&object) && !crate::planted!("ignore-lease")
    }

    /// Objects and parts with shards that belong to groups of this home, from an id on: what is stored of some `max`
    /// ids, and where to go on.
    pub async fn stored_objects(
        &self,
        group_of: impl Fn(ObjectId) -> PgId,
        from: ObjectId,
        max: usize,
    ) -> Result<(Vec<StoredObject>, Option<ObjectId>), VolumeError> {
        let mut owners: Vec<(ObjectId, Vec<u8>)> = Vec::new();
        let mut next = None;
        let mut start = from.0.to_vec();
        loop {
            let view = self.volume.view();
            let end = view.index.scan(Table::Objects, &start, 4096, |k, v| {
                let Some(id) = k.first_chunk::<16>() else {
                    return Step::Next;
                };
                if owners.len() == max {
                    next = Some(ObjectId(*id));
                    return Step::Stop;
                }
                owners.push((ObjectId(*id), v.to_vec()));
                Step::Next
            })?;
            match end {
                ScanEnd::Budget(resume) => start = resume,
                _ => break,
            }
        }
        let mut stored = Vec::new();
        for (object, owner) in owners {
            if let Some(key) = version_of(&owner) {
                let Some((bucket, key, _)) = split_version_key(key) else {
                    continue;
                };
                match self.read(group_of(object), bucket, key, false).await {
                    Ok(record) => {
                        if let Ok(MetadataRecord::PutVersion(put)) =
                            MetadataRecord::decode(record.bytes())
                            && put.object == object
                        {
                            stored.extend(stored_of(&put));
                        }
                    }
                    // Overwritten or deleted meanwhile.
                    Err(VolumeError::Absent) => {}
                    Err(e) => return Err(e),
                }
            } else if let Some(part) = self.open_part(&owner)? {
                let (scheme, epoch) = part.placement();
                stored.push(StoredObject {
                    object: part.object(),
                    size: part.size,
                    scheme,
                    epoch,
                });
            }
        }
        Ok((stored, next))
    }

    // ------------------------------------------------------------------------------------------- giving back

    /// Objects whose shards may be freed now, at most `max`.
    pub fn to_free(&self, max: usize) -> Result<Vec<ObjectId>, VolumeError> {
        self.volume.check_all_groups()?;
        let mut ids = Vec::new();
        let mut from = Vec::new();
        loop {
            let end = self
                .volume
                .view()
                .index
                .scan(Table::Free, &from, 4096, |k, _| {
                    if let Some(id) = k.first_chunk::<16>() {
                        ids.push(ObjectId(*id));
                    }
                    if ids.len() >= 4 * max {
                        Step::Stop
                    } else {
                        Step::Next
                    }
                })?;
            match end {
                ScanEnd::Budget(next) => from = next,
                _ => break,
            }
        }
        ids.retain(|id| !self.is_leased(*id));
        ids.truncate(max);
        Ok(ids)
    }

    /// Asks the owner group about objects that have shards somewhere. Those that no version names, that no upload
    /// holds and that are older than `age` are aborted first; the answer says which may be freed.
    pub async fn orphans(
        &self,
        objects: Vec<(PgId, ObjectId)>,
        age: Duration,
    ) -> Result<Vec<ObjectId>, VolumeError> {
        self.volume.check_all_groups()?;
        let mut free = Vec::new();
        let now = rt::unix_ms();
        for (pg, object) in objects {
            self.volume.check_group(pg)?;
            if let Some(upload) = object.upload() {
                if !self.is_leased(object) && self.is_orphaned_part(pg, upload, object).await? {
                    free.push(object);
                }
                continue;
            }
            let store = self.volume.view();
            let known = store
                .index
                .get(Table::Objects, &object.0, |_| ())?
                .is_some();
            // On the free list: its turn comes.
            let listed = store.index.get(Table::Free, &object.0, |_| ())?.is_some();
            // Uploads of an earlier process are over. One from the future is of a time when the clock stood elsewhere;
            // if it is of this process its lease says so.
            let made = object.hlc();
            let young =
                made > self.opened && made.ms() <= now && made.ms() + age.as_millis() as u64 > now;
            if known || listed || young || self.is_leased(object) {
                continue;
            }
            let mut payload = Vec::new();
            MetadataRecord::AbortObject { object }
                .encode(&mut payload)
                .expect("an object id fits");
            if self.propose(pg, false, payload).await?.is_ok() {
                free.push(object);
            }
        }
        Ok(free)
    }

    /// Whether nobody names the shards of a part, and nobody will (see `upload`).
    async fn is_orphaned_part(
        &self,
        pg: PgId,
        upload: ObjectId,
        part: ObjectId,
    ) -> Result<bool, VolumeError> {
        let owner = |object: ObjectId| {
            let store = self.volume.view();
            store.index.get(Table::Objects, &object.0, <[u8]>::to_vec)
        };
        for listed in [upload, part] {
            let store = self.volume.view();
            // Its turn comes, when nobody reads it any more.
            if store.index.get(Table::Free, &listed.0, |_| ())?.is_some() {
                return Ok(false);
            }
        }
        let Some(owner_of_upload) = owner(upload)? else {
            return Ok(true);
        };
        if let Some(key) = version_of(&owner_of_upload)
            && !crate::planted!("abort-after-completion")
        {
            let Some((bucket, key, _)) = split_version_key(key) else {
                return Ok(false);
            };
            return match self.read(pg, bucket, key, false).await {
                Ok(record) => match MetadataRecord::decode(record.bytes()) {
                    Ok(MetadataRecord::PutVersion(put)) if put.object == upload => {
                        let is_kept = |p: &shard_format::Part<'_>| upload.part(p.attempt) == part;
                        Ok(!put.fields.parts.iter().any(is_kept))
                    }
                    // Overwritten meanwhile: all of the upload is on the free list.
                    _ => Ok(false),
                },
                Err(VolumeError::Absent) => Ok(false),
                Err(e) => Err(e),
            };
        }
        if owner(part)?.is_some() {
            return Ok(false);
        }
        let mut payload = Vec::new();
        MetadataRecord::AbortObject { object: part }
            .encode(&mut payload)
            .expect("an object id fits");
        Ok(self.propose(pg, false, payload).await?.is_ok())
    }
}
