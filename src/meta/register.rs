//! Registers: the unit of metadata. Each is the newest record of its name by origin (HLC), wherever that record lies.
//!
//! Merging does not depend on order: replaying the same records in any order, any number of times, gives the same
//! register. That is what makes the index rebuildable and reclaim free to move records.
//!
//! | register | name | present | absent |
//! |---|---|---|---|
//! | version | bucket id, key (null version) | versions table | tombstones table, or nothing |
//! | bucket | name | buckets table | tombstones table, or nothing |
//! | fence | placement group, bucket id | fences table | – |
//! | aborted object | object id | aborted table | – |
//! | upload | bucket id, key, upload id | uploads table | tombstones table, or nothing |
//! | part | upload id, number | parts table | – |
//!
//! **Shadows.** A register lists the generations of the files that may hold stale records of it: older ones, refused
//! ones, and copies left behind by reclaim. An absent register is forgotten (its tombstone dropped) only when that list
//! is empty: until then a rebuild would find an older record and nothing that outranks it. Every tombstone kept is
//! thus matched by at least one dead record on disk, so tombstones never outgrow the garbage.

use shard_format::{BucketId, FileNumber, Generation, Hlc, Lsn, ObjectId, PgId};

use crate::{
    index::{IndexError, Step, Table},
    log::Extent,
    volume::Store,
};

/// Where a register's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub extent: Extent,
    pub lsn: Lsn,
    /// Of the record's payload: beside the one in the segment file, so that damage cannot vouch for itself.
    pub crc: u32,
}

/// What the index keeps of a register: where its record lies, and what the tables above it need at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub hlc: Hlc,
    pub place: Place,
    pub shadows: Vec<Generation>,
    /// Encoded value; empty for a tombstone.
    pub value: Vec<u8>,
}

/// hlc 8 | file 4 | generation 8 | offset 4 | length 4 | lsn 8 | crc 4 | shadow count 2, then the shadows, then the value.
const SLOT_FIXED: usize = 42;

impl Slot {
    pub fn encode(&self) -> Vec<u8> {
        let mut v = Vec::with_capacity(SLOT_FIXED + self.shadows.len() * 8 + self.value.len());
        v.extend(self.hlc.0.to_le_bytes());
        v.extend(self.place.extent.file.0.to_le_bytes());
        v.extend(self.place.extent.generation.0.to_le_bytes());
        v.extend(self.place.extent.offset.to_le_bytes());
        v.extend(self.place.extent.length.to_le_bytes());
        v.extend(self.place.lsn.0.to_le_bytes());
        v.extend(self.place.crc.to_le_bytes());
        v.extend((self.shadows.len() as u16).to_le_bytes());
        for s in &self.shadows {
            v.extend(s.0.to_le_bytes());
        }
        v.extend(&self.value);
        v
    }

    /// Splits an encoded slot into its parts without copying the value. `None` if the bytes are not a slot.
    pub fn split(bytes: &[u8]) -> Option<(Hlc, Place, &[u8], &[u8])> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes.len() < SLOT_FIXED {
            return None;
        }
        let count = usize::from(u16::from_le_bytes(
            bytes[40..42].try_into().expect("2 bytes"),
        ));
        let (shadows, value) = bytes[SLOT_FIXED..].split_at_checked(count * 8)?;
        let extent = Extent {
            file: FileNumber(u32_at(8)),
            generation: Generation(u64_at(12)),
            offset: u32_at(20),
            length: u32_at(24),
        };
        Some((
            Hlc(u64_at(0)),
            Place {
                extent,
                lsn: Lsn(u64_at(28)),
                crc: u32_at(36),
            },
            shadows,
            value,
        ))
    }

    pub fn decode(bytes: &[u8]) -> Option<Slot> {
        let (hlc, place, shadows, value) = Slot::split(bytes)?;
        let shadows = shadows
            .chunks_exact(8)
            .map(|c| Generation(u64::from_le_bytes(c.try_into().expect("8 bytes"))))
            .collect();
        Some(Slot {
            hlc,
            place,
            shadows,
            value: value.to_vec(),
        })
    }
}

/// The name of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register<'a> {
    Version {
        bucket: BucketId,
        key: &'a [u8],
    },
    Bucket {
        name: &'a str,
    },
    Fence {
        pg: PgId,
        bucket: BucketId,
    },
    Aborted {
        object: ObjectId,
    },
    Upload {
        bucket: BucketId,
        key: &'a [u8],
        upload: ObjectId,
    },
    Part {
        upload: ObjectId,
        number: u16,
    },
}

/// `bucket id | key | 0`: what all versions of a key start with. Keys hold no NUL, so the order of these prefixes is the
/// order of the keys, also between `a` and `a/b`.
pub fn key_prefix(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut v = Vec::with_capacity(8 + key.len() + 9);
    v.extend(bucket.0.to_be_bytes());
    v.extend(key);
    v.push(0);
    v
}

/// The versions table's key: newest first within a key.
pub fn version_key(bucket: BucketId, key: &[u8], hlc: Hlc) -> Vec<u8> {
    let mut v = key_prefix(bucket, key);
    v.extend((!hlc.0).to_be_bytes());
    v
}

/// The object key and HLC in a key of the versions table.
pub fn split_version_key(k: &[u8]) -> Option<(BucketId, &[u8], Hlc)> {
    let (bucket, rest) = k.split_first_chunk::<8>()?;
    let (rest, hlc) = rest.split_last_chunk::<8>()?;
    let (zero, key) = rest.split_last()?;
    (*zero == 0).then_some((
        BucketId(u64::from_be_bytes(*bucket)),
        key,
        Hlc(!u64::from_be_bytes(*hlc)),
    ))
}

/// The uploads table's key: uploads of one key in the order in which they were begun.
pub fn upload_key(bucket: BucketId, key: &[u8], upload: ObjectId) -> Vec<u8> {
    let mut v = key_prefix(bucket, key);
    v.extend(upload.0);
    v
}

/// The bucket, object key and upload id in a key of the uploads table.
pub fn split_upload_key(k: &[u8]) -> Option<(BucketId, &[u8], ObjectId)> {
    let (bucket, rest) = k.split_first_chunk::<8>()?;
    let (rest, upload) = rest.split_last_chunk::<16>()?;
    let (zero, key) = rest.split_last()?;
    (*zero == 0).then_some((
        BucketId(u64::from_be_bytes(*bucket)),
        key,
        ObjectId(*upload),
    ))
}

/// The parts table's key: parts of one upload by number.
pub fn part_key(upload: ObjectId, number: u16) -> Vec<u8> {
    let mut v = upload.0.to_vec();
    v.extend(number.to_be_bytes());
    v
}

const TOMB_VERSION: u8 = 1;
const TOMB_BUCKET: u8 = 2;
const TOMB_UPLOAD: u8 = 3;

impl Register<'_> {
    fn tombstone_key(&self) -> Option<Vec<u8>> {
        match self {
            Register::Version { bucket, key } => {
                let mut v = vec![TOMB_VERSION];
                v.extend(key_prefix(*bucket, key));
                Some(v)
            }
            Register::Bucket { name } => {
                let mut v = vec![TOMB_BUCKET];
                v.extend(name.as_bytes());
                Some(v)
            }
            Register::Upload {
                bucket,
                key,
                upload,
            } => {
                let mut v = vec![TOMB_UPLOAD];
                v.extend(upload_key(*bucket, key, *upload));
                Some(v)
            }
            Register::Fence { .. } | Register::Aborted { .. } | Register::Part { .. } => None,
        }
    }

    fn present_key(&self, hlc: Hlc) -> (Table, Vec<u8>) {
        match self {
            Register::Version { bucket, key } => (Table::Versions, version_key(*bucket, key, hlc)),
            Register::Bucket { name } => (Table::Buckets, name.as_bytes().to_vec()),
            Register::Fence { pg, bucket } => (Table::Fences, fence_key(*pg, *bucket)),
            Register::Aborted { object } => (Table::Aborted, object.0.to_vec()),
            Register::Upload {
                bucket,
                key,
                upload,
            } => (Table::Uploads, upload_key(*bucket, key, *upload)),
            Register::Part { upload, number } => (Table::Parts, part_key(*upload, *number)),
        }
    }

    /// The register as the index has it, for the state machine. Nothing that was applied counts after a read has
    /// failed ([`crate::index::Index::failure`]): the volume sees to that.
    pub fn current(&self, store: &Store<'_>) -> Option<Current> {
        self.read(store).ok().flatten()
    }

    /// The register as the index has it.
    pub fn read(&self, store: &Store<'_>) -> Result<Option<Current>, IndexError> {
        let present = match self {
            Register::Version { bucket, key } => {
                let prefix = key_prefix(*bucket, key);
                let mut found = None;
                // The null version is the only one yet; versioned buckets will look past the others here.
                store
                    .index
                    .scan(Table::Versions, &prefix, usize::MAX, |k, v| {
                        if k.starts_with(&prefix) && k.len() == prefix.len() + 8 {
                            found = Slot::decode(v).map(|slot| (k.to_vec(), slot));
                        }
                        Step::Stop
                    })?;
                found
            }
            _ => {
                let (table, key) = self.present_key(Hlc(0));
                let slot = store.index.get(table, &key, Slot::decode)?.flatten();
                slot.map(|slot| (key, slot))
            }
        };
        if let Some((key, slot)) = present {
            return Ok(Some(Current {
                present: true,
                key,
                slot,
            }));
        }
        let Some(key) = self.tombstone_key() else {
            return Ok(None);
        };
        let slot = store
            .index
            .get(Table::Tombstones, &key, Slot::decode)?
            .flatten();
        Ok(slot.map(|slot| Current {
            present: false,
            key,
            slot,
        }))
    }
}

pub fn fence_key(pg: PgId, bucket: BucketId) -> Vec<u8> {
    let mut v = pg.0.to_be_bytes().to_vec();
    v.extend(bucket.0.to_be_bytes());
    v
}

/// A register as the index has it.
#[derive(Clone, Debug)]
pub struct Current {
    pub present: bool,
    key: Vec<u8>,
    pub slot: Slot,
}

/// A record to be merged: `value` is `None` for a removal.
pub struct Incoming {
    pub hlc: Hlc,
    pub place: Place,
    pub value: Option<Vec<u8>>,
    pub relocated: bool,
}

/// What merging did.
#[derive(Debug)]
pub enum Merged {
    /// The record is the register now; this is what it outranked.
    Won(Option<Current>),
    /// It is the record the register had, perhaps at another place.
    Same,
    /// Something newer stands.
    Lost,
}

fn table_of(register: &Register<'_>, present: bool) -> Table {
    if present {
        register.present_key(Hlc(0)).0
    } else {
        Table::Tombstones
    }
}

fn with_shadow(store: &Store<'_>, slot: &mut Slot, generation: Generation) {
    slot.shadows.retain(|g| store.files.holds(*g));
    if store.files.holds(generation) && !slot.shadows.contains(&generation) {
        slot.shadows.push(generation);
        slot.shadows.sort();
    }
}

/// Merges a record into its register.
pub fn merge(store: &Store<'_>, register: &Register<'_>, incoming: Incoming) -> Merged {
    let current = register.current(store);
    let Some(mut current) = current else {
        insert(store, register, incoming, Vec::new());
        return Merged::Won(None);
    };
    let outranks = incoming.hlc > current.slot.hlc
        || (crate::planted!("relocated-outranks")
            && incoming.relocated
            && incoming.hlc != current.slot.hlc);
    let table = table_of(register, current.present);
    if outranks {
        if current.present && incoming.value.is_none() {
            store.index.remove_run(table, &current.key);
        } else {
            store.index.remove(table, &current.key);
        }
        store.files.sub_live(&current.slot.place.extent);
        let mut shadows = current.slot.shadows.clone();
        shadows.push(current.slot.place.extent.generation);
        insert(store, register, incoming, shadows);
        return Merged::Won(Some(current));
    }
    if incoming.hlc == current.slot.hlc {
        let old = current.slot.place;
        if incoming.place.lsn > old.lsn {
            store.files.sub_live(&old.extent);
            store.files.add_live(&incoming.place.extent);
            current.slot.place = incoming.place;
            with_shadow(store, &mut current.slot, old.extent.generation);
            store.index.put(table, &current.key, current.slot.encode());
        } else if incoming.place.lsn < old.lsn {
            add_shadow(store, table, &mut current, incoming.place.extent.generation);
        }
        return Merged::Same;
    }
    add_shadow(store, table, &mut current, incoming.place.extent.generation);
    Merged::Lost
}

/// A refused record of this register stands in a file of `generation`.
pub fn note_stale(store: &Store<'_>, register: &Register<'_>, generation: Generation) {
    if let Some(mut current) = register.current(store) {
        let table = table_of(register, current.present);
        add_shadow(store, table, &mut current, generation);
    }
}

fn add_shadow(store: &Store<'_>, table: Table, current: &mut Current, generation: Generation) {
    let before = current.slot.shadows.clone();
    with_shadow(store, &mut current.slot, generation);
    if current.slot.shadows != before {
        store.index.put(table, &current.key, current.slot.encode());
    }
}

fn insert(
    store: &Store<'_>,
    register: &Register<'_>,
    incoming: Incoming,
    shadows: Vec<Generation>,
) {
    let present = incoming.value.is_some();
    let mut slot = Slot {
        hlc: incoming.hlc,
        place: incoming.place,
        shadows: Vec::new(),
        value: incoming.value.unwrap_or_default(),
    };
    for s in shadows {
        with_shadow(store, &mut slot, s);
    }
    let (table, key) = if present {
        register.present_key(slot.hlc)
    } else {
        match register.tombstone_key() {
            Some(key) => (Table::Tombstones, key),
            None => return,
        }
    };
    store.files.add_live(&slot.place.extent);
    store.index.put(table, &key, slot.encode());
}

/// Removes a tombstone that shadows nothing any more. Returns whether the register is (now) without a tombstone.
///
/// A stale record in the tombstone's own file counts: though both go when that file is freed, the index may fall back
/// by one commit, to one that still points at the stale record, and then only the tombstone says that it is dead.
pub fn drop_needless_tombstone(store: &Store<'_>, register: &Register<'_>) -> bool {
    match register.current(store) {
        Some(current) if !current.present => {
            let needed = current.slot.shadows.iter().any(|g| store.files.holds(*g));
            if needed && !crate::planted!("drop-tombstone-early") {
                return false;
            }
            store.index.remove(Table::Tombstones, &current.key);
            store.files.sub_live(&current.slot.place.extent);
            true
        }
        _ => true,
    }
}
