//! One volume: a log of segment files and the index over it, owned by one core.
//!
//! Stores and fetches the segments of shards, takes the metadata records of placement groups in order and tells the
//! [`Machine`] above when they are durable. Knows nothing of S3, of buckets or of keys: what a metadata record means
//! is the machine's business.
//!
//! ```text
//!   store ──▶ bulk head ─┐                         ┌─▶ shards table      fetch ──▶ shards table ─▶ read ─▶ checksum
//!   commit ─▶ commit head ┼─ write, flush ─▶ apply ┤
//!   reclaim ▶ relocate ───┘                        └─▶ Machine::apply
//! ```
//!
//! Invariants:
//! - The index says nothing that the log does not say: it can be deleted and comes back the same (`recover`).
//! - A record is applied only after it is durable, in the order of its head, exactly once per process.
//! - Damage is told apart from absence in every answer.
//! - After a failed write or flush the volume reads on and refuses writes ([`VolumeError::ReadOnly`]).

mod checkpoint;
mod reclaim;
mod records;
mod recover;
mod shards;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
};

use futures_channel::oneshot;
use shard_format::{
    BatchSeq, BucketId, ClusterId, DriveId, FileNumber, Generation, Head, Incarnation, Lsn,
    MetadataEntry, ObjectId, PgId, SegmentIndex, VolumeId, VolumeRecord,
};

use self::records::Records;
pub use self::{
    recover::{ACCEPTED_LOSSES_BYTES_MAX, Recovery, read_accepted_losses},
    shards::{Fetched, Shard, segments_per_run},
};
use crate::{
    index::{Index, IndexError, StoreKind},
    limits::{ACTIVE_BYTES_MAX, DELETE_RETRY, DELETE_WAIT_MAX, RESERVE_FILES},
    log::{
        Append, DurableBatch, DurableBody, ENTRY_COST, Extent, FileState, Files, HeadPosition, Log,
        LogError, Record, Segment, Sink, SpaceClass, Ticket,
    },
    rt::{self, Buf, sync::Notify},
};

/// A delete's record at most: its key and what goes with it.
const DELETE_BYTES: usize = shard_format::KEY_LENGTH_MAX + 256;

/// Why a volume did not do what it was asked. None of these loses what was durable.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum VolumeError {
    /// Known not to be there.
    #[error("absent")]
    Absent,
    /// It is, or may be, there and cannot be read.
    #[error("unreadable: {what}")]
    Unreadable { what: String },
    /// No space for new bytes; deletes still work.
    #[error("the drive is full")]
    Full,
    /// An earlier write failed, or the index cannot be written.
    #[error("accepts no writes: {reason}")]
    ReadOnly { reason: String },
    /// The volume lost part of its metadata log and does not know what it does not know.
    #[error("suspect: {reason}")]
    Suspect { reason: String },
    /// A refused command: nothing changed.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    #[error("shutting down")]
    Closed,
    #[error("its drive is away")]
    Away,
}

impl From<LogError> for VolumeError {
    fn from(e: LogError) -> Self {
        match e {
            LogError::Full => VolumeError::Full,
            LogError::Poisoned { what } => VolumeError::ReadOnly {
                reason: what.to_string(),
            },
            LogError::Closed => VolumeError::Closed,
            LogError::Unreadable { what } => VolumeError::Unreadable { what },
        }
    }
}

impl From<IndexError> for VolumeError {
    fn from(e: IndexError) -> Self {
        VolumeError::Unreadable {
            what: format!("index: {e}"),
        }
    }
}

/// Why the state machine did not apply a durable command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Writes to the bucket are fenced: it is being deleted, or gone.
    Fenced,
    /// The object id was aborted, or is too old to be trusted.
    Aborted,
    /// `If-Match` or `If-None-Match` does not hold.
    Condition,
    /// `If-Match` asks for an object, and there is none.
    Absent,
    /// The upload was completed or aborted, or never begun.
    NoUpload,
    /// A part of the upload was replaced since its parts were looked at.
    PartChanged,
    /// The name belongs to another bucket.
    Exists(BucketId),
    /// There is nothing of that name or id.
    Missing,
}

/// What became of a durable command. Refusals are outcomes too: they are recorded.
pub type Outcome = Result<(), Refusal>;

/// A metadata record, where it lies, and how it came here.
pub struct Applied<'a> {
    pub entry: &'a MetadataEntry,
    pub payload: &'a [u8],
    pub extent: Extent,
    pub lsn: Lsn,
    /// How to treat conditions and refusals.
    pub ruling: Ruling,
}

/// Whether a command's conditions are to be evaluated or are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Evaluate now: the state is what it was when the command was committed.
    Evaluate,
    /// It was accepted, or is rewritten by reclaim: apply by origin.
    Accepted,
    /// It was refused: it only leaves a stale record behind.
    Refused,
}

/// What reclaim may do with a metadata record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Must be copied before the file is freed.
    Live,
    Dead,
}

/// The state machine above the volume: gives metadata records their meaning. All calls are synchronous and see the
/// index of this volume.
pub trait Machine {
    fn apply(&self, store: &Store, applied: &Applied<'_>) -> Outcome;
    /// Whether the record at `extent` is what the index points at. `freeing` is the file about to be freed: what it
    /// alone shadows needs no tombstone any more.
    fn liveness(
        &self,
        store: &Store,
        payload: &[u8],
        entry: &MetadataEntry,
        extent: &Extent,
    ) -> Liveness;
    /// `generation` was freed: forget it as a place of stale records for the register of this record.
    fn freed(&self, store: &Store, payload: &[u8], entry: &MetadataEntry);
    /// State that belongs into a checkpoint beside the index.
    fn snapshot(&self) -> Vec<u8>;
    fn restore(&self, snapshot: &[u8]);
}

/// What the machine works on: the index and the accounting of the files.
pub struct Store<'a> {
    pub index: &'a Index,
    pub files: &'a Files,
}

/// Comes back with a durable batch.
pub(crate) enum Waiter {
    Commit(Vec<oneshot::Sender<Result<Outcome, VolumeError>>>),
    Stored(oneshot::Sender<Result<(), VolumeError>>),
}

/// How to open a volume.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// `…/volume-NN`.
    pub directory: PathBuf,
    pub cluster: ClusterId,
    pub drive: DriveId,
    pub volume: VolumeId,
    pub segment_file_length: u64,
    /// Free bytes of the file system that segment files leave to the index.
    pub index_headroom: u64,
    pub index_kind: StoreKind,
    /// Bytes of hot records kept in memory.
    pub record_cache_bytes: usize,
}

impl VolumeConfig {
    pub fn segments(&self) -> PathBuf {
        self.directory.join("segments")
    }

    pub fn index(&self) -> PathBuf {
        self.directory.join("index")
    }

    pub fn accepted_losses(&self) -> PathBuf {
        self.directory.join("accepted-losses")
    }
}

/// Counters of one volume since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub commits: u64,
    pub commit_batches: u64,
    pub checkpoints: u64,
    pub files_freed: u64,
    pub bytes_relocated: u64,
    pub checksum_failures: u64,
    /// Records read from memory, and from the drive.
    pub record_cache_hits: u64,
    pub record_cache_misses: u64,
}

struct Inner {
    config: VolumeConfig,
    index: Index,
    log: Log<Waiter>,
    records: Records,
    machine: Rc<dyn Machine>,
    /// Outcomes not yet on disk, and the last commit batch that was applied.
    outcomes: RefCell<Vec<VolumeRecord>>,
    applied: Cell<BatchSeq>,
    /// Damage not accepted as lost.
    damage: Vec<checkpoint::KnownDamage>,
    /// The index cannot be written.
    index_failed: RefCell<Option<String>>,
    index_full: Cell<bool>,
    /// Checkpoints started and completed in this process; reclaim waits for one that started after its copies.
    checkpoints_started: Cell<u64>,
    checkpoints_done: Cell<u64>,
    checkpoint_wanted: Notify,
    checkpoint_done: Notify,
    reclaim_wanted: Notify,
    reclaim_done: Notify,
    /// The file system had no room for one more segment file when reclaim last wanted one.
    drive_full: Cell<bool>,
    dirty: Cell<bool>,
    closing: Cell<bool>,
    /// Sealed files that reclaim cannot empty because part of them is unreadable.
    stuck: RefCell<Vec<FileNumber>>,
    counters: Cell<Counters>,
}

/// A volume. Cheap to clone; single core.
#[derive(Clone)]
pub struct Volume(Rc<Inner>);

struct VolumeSink(std::rc::Weak<Inner>);

impl Volume {
    pub fn id(&self) -> VolumeId {
        self.0.config.volume
    }

    pub fn directory(&self) -> &Path {
        &self.0.config.directory
    }

    pub fn counters(&self) -> Counters {
        self.0.counters.get()
    }

    fn count(&self, f: impl FnOnce(&mut Counters)) {
        let mut c = self.0.counters.get();
        f(&mut c);
        self.0.counters.set(c);
    }

    /// The index and file table, for the machine's own reads.
    pub fn view(&self) -> Store<'_> {
        Store {
            index: &self.0.index,
            files: self.0.log.files(),
        }
    }

    pub fn incarnation(&self) -> Incarnation {
        self.0.log.incarnation()
    }

    pub fn head_position(&self, head: Head) -> HeadPosition {
        self.0.log.position(head)
    }

    /// Flushes of a head's batches since the volume was opened.
    pub fn flushes(&self, head: Head) -> u64 {
        self.0.log.flushes(head)
    }

    /// Segment files: number, generation, state, live bytes.
    pub fn files(&self) -> Vec<(FileNumber, Generation, FileState, u64)> {
        self.0.log.files().table()
    }

    // ------------------------------------------------------------------------------------------- state

    /// Metadata of `pg` may be served: nothing of it is known to be missing.
    pub fn check_group(&self, pg: PgId) -> Result<(), VolumeError> {
        self.check_damage(|group| group.is_none_or(|g| g == pg))
    }

    /// Every group may be served (what a listing needs, and whatever frees).
    pub fn check_all_groups(&self) -> Result<(), VolumeError> {
        self.check_damage(|_| true)
    }

    fn check_damage(&self, concerns: impl Fn(Option<PgId>) -> bool) -> Result<(), VolumeError> {
        if !self.0.damage.iter().any(|d| d.suspect && concerns(d.group)) {
            return Ok(());
        }
        let names: Vec<&str> = self.0.damage.iter().map(|d| d.name.as_str()).collect();
        Err(VolumeError::Suspect {
            reason: format!("durable records cannot be read: {}", names.join(", ")),
        })
    }

    /// Whether writes are accepted at all.
    pub fn check_writable(&self) -> Result<(), VolumeError> {
        if let Some(e) = self.0.log.error() {
            return Err(e.into());
        }
        self.check_index()
    }

    /// Waits until `bytes` of new object bytes (bulk head) or versions (commit head), in so many records, may be
    /// appended; `Full` when the drive has only its reserve left. Holds until the caller next awaits.
    pub async fn admit_put(
        &self,
        head: Head,
        records: usize,
        bytes: usize,
    ) -> Result<(), VolumeError> {
        self.admit().await?;
        if self.0.index_full.get() {
            return Err(VolumeError::Full);
        }
        let files = self.0.log.files();
        let cost = bytes + records * ENTRY_COST;
        while !files.has_room(SpaceClass::Put) {
            // What is left of an open file is in nobody's reserve, as long as the commit head finds its next file:
            // that is where deletes go when puts have filled this one.
            let reserved = head == Head::Bulk || files.free_count() >= RESERVE_FILES;
            if reserved && self.0.log.fits(head, cost) {
                self.0.reclaim_wanted.notify_one();
                return Ok(());
            }
            match files.create().await {
                Ok(()) => {}
                Err(LogError::Full) => {
                    self.0.reclaim_wanted.notify_one();
                    return Err(VolumeError::Full);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Waits until a command that needs next to no space may be written. On a full drive deletes can be faster than
    /// reclaim, which makes the room for their records out of what they delete.
    pub async fn admit_delete(&self) -> Result<(), VolumeError> {
        self.admit().await?;
        let begun = rt::now();
        // After that the log itself says what becomes of it.
        while !self.0.log.takes_command(DELETE_BYTES)
            && rt::now().saturating_since(begun) < DELETE_WAIT_MAX
        {
            match self.0.log.files().create().await {
                Ok(()) => continue,
                Err(LogError::Full) => {}
                Err(e) => return Err(e.into()),
            }
            self.0.reclaim_wanted.notify_one();
            rt::sleep(DELETE_RETRY).await;
        }
        self.check_writable()
    }

    /// Waits for the log's queue and the index's tables, which are bounded.
    async fn admit(&self) -> Result<(), VolumeError> {
        loop {
            self.check_writable()?;
            self.0.log.room(Head::Commit).await?;
            let over = self.0.index.active_bytes() >= ACTIVE_BYTES_MAX;
            if !over {
                return Ok(());
            }
            self.0.checkpoint_wanted.notify_one();
            self.0.checkpoint_done.notified().await;
        }
    }

    // ------------------------------------------------------------------------------------------- metadata

    /// Appends commands that must lie in one batch. Their order of calls is their order in the log. The outcome comes
    /// when they are durable and applied.
    pub fn commit(
        &self,
        commands: Vec<(MetadataEntry, Vec<u8>)>,
    ) -> Vec<oneshot::Receiver<Result<Outcome, VolumeError>>> {
        let (senders, receivers) = commands.iter().map(|_| oneshot::channel()).unzip();
        let records = commands
            .into_iter()
            .map(|(entry, payload)| Record::Metadata { entry, payload })
            .collect();
        self.0.log.append(
            Head::Commit,
            Append {
                records,
                waiter: Waiter::Commit(senders),
            },
        );
        receivers
    }

    /// Reads the payload of a metadata record that the index points at. `crc` is the index's; the bytes must match.
    pub async fn read_record(
        &self,
        extent: &Extent,
        check: impl Fn(&[u8]) -> bool,
    ) -> Result<(Buf, usize), VolumeError> {
        if let Some(record) = self.0.records.get(extent)
            && check(&record)
        {
            self.count(|c| c.record_cache_hits += 1);
            let mut buf = Buf::alloc(record.len()).await;
            buf.set_len(record.len());
            buf.copy_from_slice(&record);
            return Ok((buf, 0));
        }
        self.count(|c| c.record_cache_misses += 1);
        let Some(pin) = self.0.log.files().pin(extent) else {
            return Err(VolumeError::Unreadable {
                what: format!("segment file {} is gone", extent.file),
            });
        };
        let (buf, at) = pin.read(extent.offset, extent.length).await?;
        let record = &buf[at..at + extent.length as usize];
        if !check(record) {
            self.count(|c| c.checksum_failures += 1);
            return Err(VolumeError::Unreadable {
                what: format!(
                    "checksum of the record at {}:{}",
                    extent.file, extent.offset
                ),
            });
        }
        self.0.records.keep(extent, record);
        Ok((buf, at))
    }

    // ------------------------------------------------------------------------------------------- shards

    /// Appends consecutive segments of one shard, at most one run of them. Returns when they are written; the receiver
    /// tells when they are durable, which [`Volume::sync_shards`] brings about.
    pub async fn store(
        &self,
        segments: Vec<Segment>,
        data: Buf,
    ) -> Result<oneshot::Receiver<Result<(), VolumeError>>, VolumeError> {
        shards::check_run(&segments);
        self.check_writable()?;
        self.0.log.room(Head::Bulk).await?;
        let (tx, rx) = oneshot::channel();
        let records = vec![Record::Segments { segments, data }];
        let ticket: Ticket = self.0.log.append(
            Head::Bulk,
            Append {
                records,
                waiter: Waiter::Stored(tx),
            },
        );
        self.0.log.written(Head::Bulk, ticket).await?;
        Ok(rx)
    }

    /// Makes everything stored so far durable.
    pub async fn sync_shards(&self) -> Result<(), VolumeError> {
        Ok(self.0.log.sync(Head::Bulk).await?)
    }

    /// Whole segments of a shard from `segment` on, as many as `buf` has room for, at most to the end of their run.
    pub async fn fetch(
        &self,
        shard: Shard,
        segment: SegmentIndex,
        buf: Buf,
    ) -> Result<Fetched, VolumeError> {
        let result = shards::fetch(&self.view(), shard, segment, buf).await;
        if matches!(result, Err(VolumeError::Unreadable { .. })) {
            self.count(|c| c.checksum_failures += 1);
        }
        result
    }

    /// Which runs of a shard are here: bit n is run n. A run that is there may be damaged.
    pub fn runs(&self, shard: &Shard) -> Result<u64, VolumeError> {
        shards::present(&self.view(), shard)
    }

    /// Frees every shard of an object. Durable when it returns: the shards do not come back but through a lost index,
    /// and then as orphans.
    pub async fn free_object(&self, object: ObjectId) -> Result<(), VolumeError> {
        self.admit_delete().await?;
        let mut payload = Vec::new();
        VolumeRecord::ShardsFreed { object }.encode(&mut payload);
        let (tx, rx) = oneshot::channel();
        self.0.log.append(
            Head::Commit,
            Append {
                records: vec![Record::Volume { payload }],
                waiter: Waiter::Stored(tx),
            },
        );
        rx.await.unwrap_or(Err(VolumeError::Closed))
    }

    /// Objects that have shards here, from `from` on: at most `max` ids, and where to go on.
    pub fn objects_with_shards(
        &self,
        from: ObjectId,
        max: usize,
    ) -> Result<(Vec<ObjectId>, Option<ObjectId>), VolumeError> {
        shards::objects(&self.view(), from, max)
    }

    /// Whether any shard of the object, or of the upload's parts, is here.
    pub fn has_shards(&self, object: ObjectId) -> Result<bool, VolumeError> {
        shards::any(&self.view(), object)
    }

    // ------------------------------------------------------------------------------------------- end

    /// Flushes, checkpoints and ends the volume's tasks.
    pub async fn close(&self) -> Result<(), VolumeError> {
        self.0.closing.set(true);
        self.0.reclaim_wanted.notify_one();
        self.0.reclaim_done.notify_all();
        for head in [Head::Bulk, Head::Relocate, Head::Commit] {
            self.0.log.sync(head).await?;
        }
        self.checkpoint().await?;
        self.0.log.close().await?;
        self.0.checkpoint_wanted.notify_one();
        Ok(())
    }

    fn start_tasks(&self) {
        let v = self.clone();
        rt::spawn(async move { v.run_checkpoints().await });
        let v = self.clone();
        rt::spawn(async move { v.run_reclaim().await });
    }
}

impl Inner {
    /// The commit head's batch is durable: apply its commands in order.
    fn apply_commit(self: &Rc<Self>, batch: DurableBatch<Waiter>) {
        self.outcomes.borrow_mut().drain(..batch.outcomes);
        let store = Store {
            index: &self.index,
            files: self.log.files(),
        };
        let mut counters = self.counters.get();
        counters.commit_batches += 1;
        for (records, waiter) in batch.appends {
            let mut outcomes = Vec::with_capacity(records.len());
            for record in &records {
                match &record.body {
                    DurableBody::Metadata { entry, payload } => {
                        counters.commits += 1;
                        let applied = Applied {
                            entry,
                            payload,
                            extent: record.extent,
                            lsn: record.lsn,
                            ruling: Ruling::Evaluate,
                        };
                        let outcome = self.machine.apply(&store, &applied);
                        self.check_index();
                        if outcome.is_err() {
                            self.outcomes
                                .borrow_mut()
                                .push(refused(entry, record.extent.generation));
                        }
                        outcomes.push(outcome);
                    }
                    DurableBody::Volume { payload } => {
                        if let Ok(VolumeRecord::ShardsFreed { object }) =
                            VolumeRecord::decode(payload)
                        {
                            shards::free(&store, object);
                        }
                        outcomes.push(Ok(()));
                    }
                    DurableBody::Segment(_) => unreachable!("the commit head takes no segments"),
                }
            }
            match waiter {
                Waiter::Commit(senders) => {
                    for (sender, outcome) in senders.into_iter().zip(outcomes) {
                        let _ = sender.send(self.trusted().map(|()| outcome));
                    }
                }
                Waiter::Stored(sender) => {
                    let _ = sender.send(self.trusted());
                }
            }
        }
        self.counters.set(counters);
        self.applied.set(batch.seq);
    }

    /// After a failed read of the index nothing that was applied counts: it may have taken the unreadable for absent.
    /// The log has the commands; the next start applies them to an index that can be read.
    fn check_index(&self) {
        if let Some(error) = self.index.failure() {
            let mut failed = self.index_failed.borrow_mut();
            if failed.is_none() {
                tracing::error!(volume = %self.config.volume, %error, "the index cannot be read");
                *failed = Some(format!("index: {error}"));
            }
        }
    }

    fn trusted(&self) -> Result<(), VolumeError> {
        match &*self.index_failed.borrow() {
            Some(reason) if self.index.failure().is_some() => Err(VolumeError::ReadOnly {
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn apply_bulk(&self, batch: DurableBatch<Waiter>) {
        let store = Store {
            index: &self.index,
            files: self.log.files(),
        };
        let relocated = batch.head == Head::Relocate;
        let mut segments = Vec::new();
        let mut waiters = Vec::new();
        for (records, waiter) in batch.appends {
            for record in records {
                match record.body {
                    DurableBody::Segment(s) => segments.push((s, record.extent, record.lsn)),
                    DurableBody::Metadata { entry, payload } => {
                        let applied = Applied {
                            entry: &entry,
                            payload: &payload,
                            extent: record.extent,
                            lsn: record.lsn,
                            ruling: Ruling::Accepted,
                        };
                        // A relocated record changes where a version lies, never what is true; there is nobody to
                        // tell the outcome.
                        let _ = self.machine.apply(&store, &applied);
                    }
                    DurableBody::Volume { .. } => {}
                }
            }
            waiters.push(waiter);
        }
        for run in shards::runs(&segments) {
            if relocated {
                shards::relocate(&store, &run)
            } else {
                shards::insert(&store, &run)
            }
        }
        self.check_index();
        for waiter in waiters {
            if let Waiter::Stored(sender) = waiter {
                let _ = sender.send(self.trusted());
            }
        }
    }
}

fn refused(entry: &MetadataEntry, generation: Generation) -> VolumeRecord {
    VolumeRecord::Refused {
        pg: entry.origin.pg,
        index: entry.origin.index,
        hlc: entry.origin.hlc,
        generation,
    }
}

impl Sink<Waiter> for VolumeSink {
    fn durable(&self, batch: DurableBatch<Waiter>) {
        let Some(inner) = self.0.upgrade() else {
            return;
        };
        if batch.appends.iter().any(|(records, _)| !records.is_empty()) {
            inner.dirty.set(true);
        }
        match batch.head {
            Head::Commit => inner.apply_commit(batch),
            Head::Bulk | Head::Relocate => inner.apply_bulk(batch),
        }
        if checkpoint::due(&inner.index) {
            inner.checkpoint_wanted.notify_one();
        }
    }

    fn failed(&self, waiters: Vec<Waiter>, error: LogError) {
        let error = VolumeError::from(error);
        for waiter in waiters {
            match waiter {
                Waiter::Commit(senders) => {
                    for sender in senders {
                        let _ = sender.send(Err(error.clone()));
                    }
                }
                Waiter::Stored(sender) => {
                    let _ = sender.send(Err(error.clone()));
                }
            }
        }
    }

    fn outcomes(&self) -> (Vec<Vec<u8>>, BatchSeq) {
        let Some(inner) = self.0.upgrade() else {
            return (Vec::new(), BatchSeq(0));
        };
        let payloads = inner
            .outcomes
            .borrow()
            .iter()
            .map(|r| {
                let mut out = Vec::new();
                r.encode(&mut out);
                out
            })
            .collect();
        (payloads, inner.applied.get())
    }
}
