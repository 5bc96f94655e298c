//! The index of one volume: an ordered map from bytes to bytes, memory tables over a store.
//!
//! ```text
//!   put, remove ──> active table ── freeze ──> frozen table ── checkpoint ──> store (LMDB)
//!   get, scan   ──> active, else frozen, else store's snapshot
//! ```
//!
//! Owns the environment's directory and both tables. Everything in it can be rebuilt from the
//! volume's segment files; the log says what was applied since the last checkpoint.
//!
//! # Invariants
//!
//! - A key means what the newest layer that mentions it says: a value, or a removal marker.
//! - At most one table is frozen; it never changes while it is, and one checkpoint at a time
//!   writes it. An older table is never written after a newer one.
//! - A checkpoint is one synchronous transaction: all of a frozen table or nothing of it.
//! - Frozen table and snapshot change together, on the core's thread, between two turns: a reader
//!   sees a checkpointed key in exactly one of them.
//! - Where a gap is remembered (`gaps`), no layer shows a key; without gaps every scan finds the same, only later.
//! - Damage is never taken for absence: an environment that fails its check is `Damaged`, and only
//!   a missing data file is a new, empty index.
//!
//! # What survives a crash
//!
//! The last checkpoint that returned `Ok`, and perhaps one that was in flight. Both memory tables
//! are lost; the caller replays the log from the position it stored with the checkpoint.
//!
//! # Which calls wait
//!
//! | call | core thread | helper thread |
//! |---|---|---|
//! | `get`, `scan` | may page-fault in LMDB's map; no lock, no system call otherwise | |
//! | `put`, `remove`, `freeze`, counters | memory only | |
//! | `checkpoint` | opens the next snapshot (a microsecond) | writes, flushes twice, frees the table |
//! | `reserve` | | `fallocate` |
//! | `open` | | reads and checks the whole file, then flushes directories if it is new |
//! | `destroy` | | unlinks, flushes a directory |
//!
//! A read error under a page fault is a SIGBUS and ends the process; `open` reads every used page
//! with plain reads first, where the error is `IndexError::Io`.
//!
//! # What calls cost
//!
//! `cargo run --release --example index_costs`: 1 M keys of 60 bytes in LMDB, values of 160, two
//! shared CPUs of the Sapphire Rapids class, file in the page cache, medians of five rounds: get
//! 1.2 µs, with 100 k active keys too; scan 65 ns a key, 105 ns merged with 100 k active ones;
//! seek of a scan 0.9 µs; put 0.7 µs; checkpoint 4.2 µs a key at 100 k random keys (under load 9);
//! open 0.3 s a GB.

mod damage;
mod gaps;
mod lmdb;
mod memory;
mod merge;
#[cfg(test)]
mod tests;
pub mod twin;

use smallvec::SmallVec;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use lmdb::MAP_BYTES;
pub use memory::ENTRY_OVERHEAD_BYTES;

use gaps::Gaps;
use memory::{Change, MemoryTable};
use merge::{Layer, Layers};

use crate::rt::offload;

/// The first byte of every key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    Versions = 1,
    Tombstones = 2,
    Shards = 3,
    Objects = 4,
    Free = 5,
    Aborted = 6,
    Buckets = 7,
    Groups = 8,
    Fences = 9,
    Files = 10,
    Position = 11,
    Uploads = 12,
    Parts = 13,
}

const TABLE_BYTES: usize = 1;

/// The longest key, without its table's byte. An S3 key is 1,024 bytes, bucket id, version and a
/// part's number around it take less than a hundred; LMDB takes 1,982 in pages of 4 KiB.
pub const KEY_BYTES_MAX: usize = 1536;
const FULL_KEY_BYTES_MAX: usize = TABLE_BYTES + KEY_BYTES_MAX;
const _: () = assert!(FULL_KEY_BYTES_MAX <= 1982);

/// The longest value; such values are pointers, and one that fills more than half a leaf costs
/// pages of its own.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// From here on the active table is due for a checkpoint, and if one is already under way, for
/// backpressure: two such tables a volume (active and frozen) are 128 MiB.
pub const ACTIVE_BYTES_MAX: usize = 64 << 20;

/// Entries of 200 bytes and their overhead fill `ACTIVE_BYTES_MAX` at about this many; a
/// checkpoint of that size takes 1 to 2 s of a helper thread (`examples/index_costs.rs`), which
/// is also the longest that a full active table waits for it.
pub const ACTIVE_ENTRIES_MAX: usize = 256 << 10;

/// Steps that a removal looks for the next key that is alive; gaps it meets are one step each.
const GAP_STEPS_MAX: usize = 32;

/// What a visitor of a scan wants next.
pub enum Step {
    Next,
    /// Go on at this key or the first one after it. One that is not after the current key is
    /// `Next`: a scan never goes back. Costs about as much as a `get`.
    Seek(Vec<u8>),
    Stop,
}

/// Why a scan ended.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum ScanEnd {
    /// The table has no further key.
    End,
    /// The visitor said so.
    Stopped,
    /// `steps_max` is used up. The scan goes on from this key, which was not visited.
    Budget(Vec<u8>),
}

#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum IndexError {
    /// The drive, its quota or the map has no room. The store means what it meant before, a frozen
    /// table stays frozen, reads go on; the call may be repeated when there is room.
    #[error("no room for the index while doing: {during}")]
    Full { during: &'static str },
    /// A system call failed. After a checkpoint: the frozen table stays, and whether the
    /// transaction is on the drive is unknown (a repeated one writes all of it anew). Reads go on.
    #[error("index i/o failed while doing: {during}: {kind} (errno {errno:?})")]
    Io {
        during: &'static str,
        kind: std::io::ErrorKind,
        errno: Option<i32>,
    },
    /// The environment is not what LMDB wrote. After `open` nothing is open: destroy it and
    /// rebuild. From other calls: answer nothing from this index any more.
    #[error("the index is damaged ({during}): {reason}")]
    Damaged {
        during: &'static str,
        reason: String,
    },
    /// The meta page could not be written, and LMDB takes no further transaction. Reads go on from
    /// the last good snapshot; writing needs the index to be dropped and opened again.
    #[error("an earlier write of the index failed")]
    Poisoned,
    /// The environment is open already, or an earlier checkpoint is still being written (its
    /// future was dropped). Nothing was done.
    #[error("the index is busy")]
    Busy,
}

/// What is behind the memory tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    Lmdb,
    /// In memory, for simulations; see `twin`.
    Twin,
}

enum Store {
    Lmdb(lmdb::LmdbStore),
    Twin(twin::TwinStore),
}

/// The half of a store that a helper thread uses.
enum Writer {
    Lmdb(lmdb::Writer),
    Twin(twin::Writer),
}

impl Store {
    fn writer(&self) -> Writer {
        match self {
            Store::Lmdb(store) => Writer::Lmdb(store.writer()),
            Store::Twin(store) => Writer::Twin(store.writer()),
        }
    }

    /// Moves reads to the newest commit.
    fn refresh(&self) -> Result<(), IndexError> {
        match self {
            Store::Lmdb(store) => store.refresh(),
            Store::Twin(store) => {
                store.refresh();
                Ok(())
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Store::Lmdb(store) => store.is_empty(),
            Store::Twin(store) => store.is_empty(),
        }
    }
}

impl Writer {
    fn commit(&self, table: &Arc<MemoryTable>) -> Result<(), IndexError> {
        match self {
            Writer::Lmdb(writer) => writer.commit(table),
            Writer::Twin(writer) => writer.commit(table),
        }
    }

    fn reserve(&self, bytes: u64) -> Result<(), IndexError> {
        match self {
            Writer::Lmdb(writer) => writer.reserve(bytes),
            Writer::Twin(writer) => writer.reserve(),
        }
    }
}

/// One volume's index. Belongs to one core; shared inside it as `Rc<Index>`.
pub struct Index {
    active: RefCell<MemoryTable>,
    frozen: RefCell<Option<Arc<MemoryTable>>>,
    /// Where removals of the active and of the frozen table leave nothing alive; they go with their table's markers.
    gaps: RefCell<[Gaps; 2]>,
    store: Store,
    /// Whether the store held nothing at the last `refresh`: then a removal needs no marker.
    store_empty: std::cell::Cell<bool>,
    /// The first read that failed.
    failure: RefCell<Option<IndexError>>,
    /// Reads fail from now on, as those of a broken store do.
    #[cfg(test)]
    broken: std::cell::Cell<bool>,
    /// A helper thread is writing a frozen table. Lowered by the helper and not by the future
    /// that waits for it, because that may be dropped: an old table must not be written late, over
    /// a newer one.
    writing: Arc<AtomicBool>,
}

/// Lowers the flag where the helper is done, or where its closure is dropped unrun.
struct Writing(Arc<AtomicBool>);

impl Writing {
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        // Acquire pairs with the release below: the next writer starts after the last one's end.
        let free = flag
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        free.then(|| Writing(flag.clone()))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

type FullKey = SmallVec<[u8; 256]>;

fn full_key(table: Table, key: &[u8]) -> FullKey {
    assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
    let mut full = FullKey::with_capacity(TABLE_BYTES + key.len());
    full.push(table as u8);
    full.extend_from_slice(key);
    full
}

impl Index {
    /// Opens the environment in the directory `path`, which is created (its parent exists) if it
    /// holds none. `Damaged` leaves it as it is: `destroy` it, then open anew and rebuild.
    pub async fn open(kind: StoreKind, path: &Path) -> Result<Index, IndexError> {
        let path = path.to_owned();
        let store = match kind {
            StoreKind::Lmdb => {
                let writer = offload(move || lmdb::open_env(&path)).await?;
                Store::Lmdb(lmdb::LmdbStore::new(writer)?)
            }
            StoreKind::Twin => Store::Twin(offload(move || twin::TwinStore::open(&path)).await?),
        };
        Ok(Index {
            active: RefCell::default(),
            frozen: RefCell::default(),
            gaps: RefCell::default(),
            store_empty: std::cell::Cell::new(store.is_empty()),
            store,
            failure: RefCell::default(),
            #[cfg(test)]
            broken: Default::default(),
            writing: Arc::default(),
        })
    }

    /// Removes the environment at `path`; one that is not there is no error, an open one is
    /// `Busy`.
    pub async fn destroy(kind: StoreKind, path: &Path) -> Result<(), IndexError> {
        let path = path.to_owned();
        offload(move || match kind {
            StoreKind::Lmdb => lmdb::destroy(&path),
            StoreKind::Twin => twin::destroy(&path),
        })
        .await
    }

    /// Calls `f` with the value, in place. `f` may read the index but not change it.
    pub fn get<R>(
        &self,
        table: Table,
        key: &[u8],
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, IndexError> {
        let full = full_key(table, key);
        if let Some(change) = self.active.borrow().get(&full) {
            return Ok(change.map(f));
        }
        if let Some(change) = self
            .frozen
            .borrow()
            .as_ref()
            .and_then(|frozen| frozen.get(&full))
        {
            return Ok(change.map(f));
        }
        let found = self.check_store().and_then(|()| match &self.store {
            Store::Lmdb(store) => store.get(&full, f),
            Store::Twin(store) => Ok(store.get(&full, f)),
        });
        self.noting_failure(found)
    }

    /// The first read that failed. What was derived from reads since then may take the unreadable for absent.
    pub fn failure(&self) -> Option<IndexError> {
        self.failure.borrow().clone()
    }

    fn noting_failure<T>(&self, result: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(error) = &result {
            self.failure
                .borrow_mut()
                .get_or_insert_with(|| error.clone());
        }
        result
    }

    #[cfg(not(test))]
    fn check_store(&self) -> Result<(), IndexError> {
        Ok(())
    }

    #[cfg(test)]
    fn check_store(&self) -> Result<(), IndexError> {
        match self.broken.get() {
            true => Err(IndexError::Damaged {
                during: "a read",
                reason: "a test".to_owned(),
            }),
            false => Ok(()),
        }
    }

    #[cfg(test)]
    pub fn break_store(&self) {
        self.broken.set(true);
    }

    pub fn put(&self, table: Table, key: &[u8], value: Vec<u8>) {
        assert!(
            value.len() <= VALUE_BYTES_MAX,
            "a value of {} bytes",
            value.len()
        );
        let full = full_key(table, key);
        for gaps in &mut *self.gaps.borrow_mut() {
            if !gaps.is_empty() {
                gaps.cut(&full);
            }
        }
        self.active.borrow_mut().set(&full, Some(value));
    }

    /// `remove`, of a key that nothing takes the place of. Costs a seek more, and spares scans the walk over the
    /// markers of many such keys in a row.
    pub fn remove_run(&self, table: Table, key: &[u8]) {
        self.remove(table, key);
        if self.store_empty.get() && self.frozen.borrow().is_none() {
            return;
        }
        let mut end = vec![table as u8];
        let next = self.scan(table, key, GAP_STEPS_MAX, |next, _| {
            end.extend_from_slice(next);
            Step::Stop
        });
        match next {
            Ok(ScanEnd::Stopped) => {}
            Ok(ScanEnd::Budget(next)) => end.extend_from_slice(&next),
            Ok(ScanEnd::End) => end[0] += 1,
            // Whoever reads will see the error.
            Err(_) => return,
        }
        let [active, _] = &mut *self.gaps.borrow_mut();
        active.add(&full_key(table, key), &end);
    }

    /// Removing an absent key changes nothing that a reader could see.
    pub fn remove(&self, table: Table, key: &[u8]) {
        let full = full_key(table, key);
        let mut active = self.active.borrow_mut();
        if self.store_empty.get() && self.frozen.borrow().is_none() {
            active.forget(&full);
        } else {
            active.set(&full, Change::None);
        }
    }

    /// Visits the table's keys from `from` on, ascending, at most `steps_max` (> 0) of them;
    /// removed keys that are passed count too, so the work of a call is bounded. `f` gets key
    /// (without the table's byte) and value in place and may read the index, but not change it.
    pub fn scan(
        &self,
        table: Table,
        from: &[u8],
        steps_max: usize,
        f: impl FnMut(&[u8], &[u8]) -> Step,
    ) -> Result<ScanEnd, IndexError> {
        assert!(steps_max > 0, "a scan without a step never ends");
        let full = full_key(table, from);
        let active = self.active.borrow();
        let frozen = self.frozen.borrow();
        let [new, old] = &*self.gaps.borrow();
        let gaps = &[new, old];
        let mut layers = Layers::new();
        if active.entries() > 0 {
            layers.push(Layer::Memory(&active));
        }
        layers.extend(frozen.as_deref().map(Layer::Memory));
        self.noting_failure(self.check_store())?;
        let end = match &self.store {
            Store::Lmdb(store) => {
                let txn = store.snapshot();
                let mut layers = layers;
                layers.push(store.layer(&txn));
                merge::scan(&layers, gaps, &full, steps_max, f)
            }
            Store::Twin(store) => {
                let snapshot = store.snapshot();
                let mut layers = layers;
                layers.extend(snapshot.layers());
                merge::scan(&layers, gaps, &full, steps_max, f)
            }
        };
        self.noting_failure(end)
    }

    /// Keys, values and overhead of the active table.
    pub fn active_bytes(&self) -> usize {
        self.active.borrow().bytes()
    }

    /// Keys of the active table, removal markers included.
    pub fn active_entries(&self) -> usize {
        self.active.borrow().entries()
    }

    /// The active table has reached a bound: freeze and checkpoint it, or, when one is frozen
    /// already, take no further change until that is written.
    pub fn active_full(&self) -> bool {
        let active = self.active.borrow();
        active.bytes() >= ACTIVE_BYTES_MAX || active.entries() >= ACTIVE_ENTRIES_MAX
    }

    pub fn has_frozen(&self) -> bool {
        self.frozen.borrow().is_some()
    }

    /// Freezes the active table and starts an empty one. False, and nothing done, if one is
    /// frozen already. An empty active table is frozen too; its checkpoint writes nothing.
    pub fn freeze(&self) -> bool {
        let mut frozen = self.frozen.borrow_mut();
        if frozen.is_some() {
            return false;
        }
        *frozen = Some(Arc::new(self.active.take()));
        let [active, old] = &mut *self.gaps.borrow_mut();
        *old = std::mem::take(active);
        true
    }

    /// Writes the frozen table, in key order and in one synchronous transaction, on a helper
    /// thread, and drops it. Durable when this returns `Ok`. On any error the table stays frozen,
    /// reads are as before, and a later call writes it again. Nothing frozen: `Ok`.
    pub async fn checkpoint(&self) -> Result<(), IndexError> {
        let Some(table) = self.frozen.borrow().clone() else {
            return Ok(());
        };
        let Some(writing) = Writing::begin(&self.writing) else {
            return Err(IndexError::Busy);
        };
        if table.entries() > 0 {
            let writer = self.store.writer();
            let table = table.clone();
            offload(move || {
                let result = writer.commit(&table);
                drop((table, writer));
                drop(writing);
                result
            })
            .await?;
            self.store.refresh()?;
            self.store_empty.set(self.store.is_empty());
        } else {
            drop(writing);
        }
        // From here no await before the layers agree again.
        *self.frozen.borrow_mut() = None;
        let gaps = std::mem::take(&mut self.gaps.borrow_mut()[1]);
        // The last reference: freeing a quarter of a million blocks would stall the core.
        offload(move || drop((table, gaps))).await;
        Ok(())
    }

    /// Keeps room on the drive for the store to grow by `bytes`, so that a checkpoint (of deletes,
    /// say) still succeeds when the drive is full. `Full` if there is none; what was kept before
    /// stays. The room is used up by checkpoints that grow the file: call it again after each.
    pub async fn reserve(&self, bytes: u64) -> Result<(), IndexError> {
        let writer = self.store.writer();
        offload(move || writer.reserve(bytes)).await
    }

    /// What a checkpoint of the frozen and of the present active table can add to the store's
    /// file at most: what `reserve` wants to be called with.
    pub fn growth_bytes_max(&self) -> Result<u64, IndexError> {
        let (mut entries, mut bytes) = (self.active_entries(), self.active_bytes());
        if let Some(frozen) = self.frozen.borrow().as_deref() {
            entries += frozen.entries();
            bytes += frozen.bytes();
        }
        match &self.store {
            Store::Lmdb(store) => store.growth_bytes_max(entries, bytes),
            Store::Twin(_) => Ok(bytes as u64),
        }
    }

    /// Size of the store's file; to compare with the memory budget, beyond which lookups fault.
    pub fn store_bytes(&self) -> Result<u64, IndexError> {
        match &self.store {
            Store::Lmdb(store) => store.file_bytes(),
            Store::Twin(store) => Ok(store.bytes()),
        }
    }
}
