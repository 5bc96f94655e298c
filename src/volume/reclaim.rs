//! Reclaim: makes space by copying what is live out of sealed files that are mostly dead, then frees them.
//!
//! ```text
//!   choose ─▶ walk, copy live records to the relocate head ─▶ flush ─▶ move the index (by origin)
//!          ─▶ durable checkpoint ─▶ no reader ─▶ new generation header, flushed ─▶ free ─▶ drop needless tombstones
//! ```
//!
//! A copy keeps its origin, so replay prefers a newer record wherever it lies. A tombstone is copied as long as some
//! file may hold an older record of its key; the file being freed does not count, for it goes as a whole. A record
//! whose bytes do not match their checksum cannot be copied: its file is kept, and counted, until repair or an
//! operator deals with it.

use shard_format::{FILE_HEADER_SIZE, FileNumber, Head, Kind, MetadataEntry};

use super::{Liveness, Volume, VolumeError, VolumeRecord, Waiter, recover::read_header, shards};
use crate::{
    limits::{
        BATCH_PADDING_MAX, BATCH_RECORDS_MAX, GATHERED_RUN_BYTES_MAX, RECLAIM_GAIN_PERCENT,
        RECLAIM_LIVE_PERCENT, RESERVE_FILES, SPARE_FILES, STORE_BYTES_MAX,
    },
    log::{Append, Extent, FileState, LogError, Record, Segment, Usage, recover::walk_sealed},
    rt,
};

/// Records of a victim that are looked at in one turn of the reactor; about 0.1 ms.
const RECORDS_PER_TURN: usize = 64;

/// Records on their way to the relocate head: what shares one append, and so one batch. Alone, each would take a
/// directory block and a write of its own, and a file of small records would need more room than it gives back.
#[derive(Default)]
struct Gathered {
    records: Vec<Record>,
    count: usize,
    bytes: u64,
}

/// Bytes of records that share a batch of copies; fits a batch and any file with its directory.
fn gathered_bytes_max(file_length: u64) -> u64 {
    (STORE_BYTES_MAX as u64).min(file_length / 8)
}

impl Gathered {
    /// Half of the records that a batch may hold, so that the directory stays small.
    const RECORDS_MAX: usize = BATCH_RECORDS_MAX / 2;

    /// Whether a record of so many bytes fits with the ones that are here. A batch that grows beyond the bound would
    /// leave more of a file's end unused than [`gain`] takes for granted.
    fn has_room(&self, bytes: u64, file_length: u64) -> bool {
        self.records.is_empty()
            || (self.count < Self::RECORDS_MAX
                && self.bytes + bytes <= gathered_bytes_max(file_length))
    }

    fn push(&mut self, record: Record, count: usize, bytes: u64) {
        self.records.push(record);
        self.count += count;
        self.bytes += bytes;
    }

    fn take(&mut self) -> Vec<Record> {
        std::mem::take(self).records
    }
}

/// Bytes that copying a sealed file gives back. An end that no copy would fill either is no gain: a batch of copies did
/// not fit there. A file that was sealed early, by a restart, has more of it.
fn gain(file_length: u64, usage: &Usage) -> u64 {
    let end = match u64::from(usage.end) {
        0 => file_length,
        end => end,
    };
    let batch = (STORE_BYTES_MAX as u64).min(file_length / 4) + DIRECTORY_BYTES_MAX;
    let end = if file_length - end > batch {
        file_length
    } else {
        end
    };
    end.saturating_sub(usage.live_bytes + FILE_HEADER_SIZE as u64)
}

/// What copying a whole file adds to its records: the padding of its batches, and a floor in two heads.
fn copying_bytes(file_length: u64) -> u64 {
    (file_length / gathered_bytes_max(file_length) + 1) * BATCH_PADDING_MAX
}

/// A batch's directory and what else is not its payload.
const DIRECTORY_BYTES_MAX: u64 = 64 * 1024;

/// A record found in a victim.
enum Found {
    Metadata {
        entry: MetadataEntry,
        payload: Vec<u8>,
        extent: Extent,
        whole: bool,
    },
    Volume {
        payload: Vec<u8>,
        whole: bool,
    },
    Segment {
        segment: Segment,
        extent: Extent,
    },
}

impl Volume {
    pub(super) async fn run_reclaim(&self) {
        loop {
            // With part of the metadata lost, what looks dead may be what outranks it.
            if self.0.closing.get()
                || self.check_writable().is_err()
                || self.check_all_groups().is_err()
            {
                return;
            }
            self.keep_spare().await;
            match self.choose() {
                Some(file) => {
                    if let Err(e) = self.reclaim(file).await {
                        match e {
                            VolumeError::Closed => return,
                            // The next one may be readable.
                            VolumeError::Unreadable { what } => self.give_up(file, what),
                            e => {
                                tracing::warn!(volume = %self.id(), file = %file, error = %e, "reclaim did not finish");
                                rt::sleep(std::time::Duration::from_millis(500)).await;
                            }
                        }
                    }
                    self.0.reclaim_done.notify_all();
                }
                None => self.wait_for_work().await,
            }
        }
    }

    async fn wait_for_work(&self) {
        use futures_util::{FutureExt, select_biased};
        select_biased! {
            () = self.0.reclaim_wanted.notified().fuse() => {}
            () = rt::sleep(std::time::Duration::from_secs(1)).fuse() => {}
        }
    }

    /// Keeps a spare ahead of the heads, so that rolling does not wait for the file system, and finds out whether there
    /// is room for one at all: while there is, a file more is cheaper than copying what is mostly alive.
    async fn keep_spare(&self) {
        let files = self.0.log.files();
        let mut full = false;
        while !full && files.free_count() < RESERVE_FILES + SPARE_FILES {
            match files.create().await {
                Ok(()) => {}
                Err(e) => {
                    full = true;
                    if e != LogError::Full {
                        tracing::warn!(volume = %self.id(), error = %e, "no spare segment file");
                    }
                }
            }
        }
        self.0.drive_full.set(full);
    }

    /// The sealed file that gives most for least copying; `None` if none is worth it.
    fn choose(&self) -> Option<FileNumber> {
        let files = self.0.log.files();
        let length = files.file_length();
        let full = self.0.drive_full.get();
        let gain_min = (length * RECLAIM_GAIN_PERCENT / 100).max(copying_bytes(length));
        let stuck = self.0.stuck.borrow();
        files
            .sealed()
            .into_iter()
            .filter(|(n, usage)| {
                let dead = usage.live_bytes * 100 < length * RECLAIM_LIVE_PERCENT;
                (dead || full && gain(length, usage) >= gain_min) && !stuck.contains(n)
            })
            .min_by_key(|(n, usage)| (usage.live_bytes, *n))
            .map(|(n, _)| n)
    }

    /// Empties and frees one sealed file.
    pub(super) async fn reclaim(&self, number: FileNumber) -> Result<(), VolumeError> {
        let files = self.0.log.files();
        let header = read_header(files, number).await?;
        let state = files.state(number);
        let mut found = Vec::new();
        let damage = walk_sealed(files, &header, |batch| {
            for r in batch.records {
                match &r.entry.kind {
                    Kind::Metadata(entry) => found.push(Found::Metadata {
                        entry: *entry,
                        payload: r.payload.to_vec(),
                        extent: r.extent,
                        whole: r.whole,
                    }),
                    Kind::Volume => found.push(Found::Volume {
                        payload: r.payload.to_vec(),
                        whole: r.whole,
                    }),
                    Kind::Segment(entry) => found.push(Found::Segment {
                        segment: Segment {
                            entry: *entry,
                            transform: r.entry.transform,
                            logical_len: r.entry.logical_len,
                            stored_len: r.entry.stored_len,
                            crc: r.entry.payload_crc,
                        },
                        extent: r.extent,
                    }),
                }
            }
        })
        .await?;
        if !damage.is_empty() {
            return Err(VolumeError::Unreadable {
                what: format!("unreadable batches {damage:?}"),
            });
        }
        files.set_state(number, FileState::Retiring(header.head));
        let mut result = self.empty(number, &found).await;
        if result.is_ok() {
            // What moved is in the active table, what died is in it too: both must be in a durable checkpoint before
            // the bytes go, because the next start may read nothing but that checkpoint and the log behind it.
            result = self.checkpoint().await;
        }
        if let Err(e) = result {
            if let Some(state) = state {
                files.set_state(number, state);
            }
            return Err(e);
        }
        if let Err(e) = files
            .free(number, self.incarnation(), self.0.log.next_lsn())
            .await
        {
            self.0.log.poison(&e);
            return Err(e.into());
        }
        self.count(|c| c.files_freed += 1);
        let store = self.view();
        // By value: thousands of payloads freed at once would hold the core for milliseconds.
        for (n, f) in found.into_iter().enumerate() {
            if let Found::Metadata { entry, payload, .. } = &f {
                self.0.machine.freed(&store, payload, entry);
            }
            if n % RECORDS_PER_TURN == RECORDS_PER_TURN - 1 {
                rt::yield_now().await;
            }
        }
        self.0.dirty.set(true);
        Ok(())
    }

    fn give_up(&self, number: FileNumber, why: String) {
        tracing::error!(volume = %self.id(), file = %number, %why, "a segment file cannot be reclaimed");
        self.0.stuck.borrow_mut().push(number);
    }

    /// Copies what is live and waits until the copies are durable and the index points at them.
    async fn empty(&self, number: FileNumber, found: &[Found]) -> Result<(), VolumeError> {
        let mut pending = Vec::new();
        let mut gathered = Gathered::default();
        let file_length = self.0.log.files().file_length();
        let (mut at, mut looked_at) = (0, 0);
        while at < found.len() {
            looked_at += 1;
            if looked_at % RECORDS_PER_TURN == 0 {
                rt::yield_now().await;
            }
            match &found[at] {
                Found::Metadata {
                    entry,
                    payload,
                    extent,
                    whole,
                } => {
                    at += 1;
                    let store = self.view();
                    if *whole
                        && self.0.machine.liveness(&store, payload, entry, extent) == Liveness::Dead
                    {
                        continue;
                    }
                    if !whole {
                        return Err(self.damaged(number, extent));
                    }
                    let entry = MetadataEntry {
                        relocated: true,
                        ..*entry
                    };
                    let bytes = payload.len() as u64;
                    if !gathered.has_room(bytes, file_length) {
                        pending.push(self.relocate(gathered.take()).await?);
                    }
                    let payload = payload.clone();
                    gathered.push(Record::Metadata { entry, payload }, 1, bytes);
                }
                Found::Volume { payload, whole } => {
                    at += 1;
                    if !whole {
                        return Err(VolumeError::Unreadable {
                            what: "a volume record".into(),
                        });
                    }
                    // An outcome counts as long as the file of the refused command may be replayed.
                    if let Ok(VolumeRecord::Refused { generation, .. }) =
                        VolumeRecord::decode(payload)
                    {
                        let own = self.0.log.files().generation(number);
                        let held = own != Some(generation) && self.0.log.files().holds(generation);
                        if held {
                            let record = Record::Volume {
                                payload: payload.clone(),
                            };
                            pending.push(self.relocate_outcome(vec![record]).await?);
                        }
                    }
                }
                Found::Segment { segment, extent } => {
                    let store = self.view();
                    if !shards::is_live(&store, &segment.entry, extent) {
                        at += 1;
                        continue;
                    }
                    let (run, next) = self.read_run(number, found, at).await?;
                    let count = next - at;
                    at = next;
                    let bytes = run.payload_bytes();
                    if bytes > GATHERED_RUN_BYTES_MAX {
                        pending.push(self.relocate(vec![run]).await?);
                        continue;
                    }
                    if !gathered.has_room(bytes, file_length) {
                        pending.push(self.relocate(gathered.take()).await?);
                    }
                    gathered.push(run, count, bytes);
                }
            }
        }
        if !gathered.records.is_empty() {
            pending.push(self.relocate(gathered.take()).await?);
        }
        for head in [Head::Relocate, Head::Commit] {
            self.0.log.sync(head).await?;
            // The copies will be all there is: their loss must never look like the end of the log.
            self.0.log.record_floor(head).await?;
        }
        for waiter in pending {
            waiter.await.unwrap_or(Err(VolumeError::Closed))?;
        }
        Ok(())
    }

    async fn relocate(
        &self,
        records: Vec<Record>,
    ) -> Result<futures_channel::oneshot::Receiver<Result<(), VolumeError>>, VolumeError> {
        self.append_for_reclaim(Head::Relocate, records).await
    }

    /// Outcomes are read from the commit head only.
    async fn relocate_outcome(
        &self,
        records: Vec<Record>,
    ) -> Result<futures_channel::oneshot::Receiver<Result<(), VolumeError>>, VolumeError> {
        self.append_for_reclaim(Head::Commit, records).await
    }

    async fn append_for_reclaim(
        &self,
        head: Head,
        records: Vec<Record>,
    ) -> Result<futures_channel::oneshot::Receiver<Result<(), VolumeError>>, VolumeError> {
        if self.0.closing.get() {
            return Err(VolumeError::Closed);
        }
        self.0.log.room(head).await?;
        let bytes: u64 = records.iter().map(Record::payload_bytes).sum();
        self.count(|c| c.bytes_relocated += bytes);
        let (tx, rx) = futures_channel::oneshot::channel();
        let ticket = self.0.log.append(
            head,
            Append {
                records,
                waiter: Waiter::Stored(tx),
            },
        );
        self.0.log.written(head, ticket).await?;
        Ok(rx)
    }

    fn damaged(&self, number: FileNumber, extent: &Extent) -> VolumeError {
        self.count(|c| c.checksum_failures += 1);
        VolumeError::Unreadable {
            what: format!("a live record at {number}:{}", extent.offset),
        }
    }

    /// The run that starts at `found[at]`, read and verified, and the position after it.
    async fn read_run(
        &self,
        number: FileNumber,
        found: &[Found],
        at: usize,
    ) -> Result<(Record, usize), VolumeError> {
        let Found::Segment {
            segment: first,
            extent: start,
        } = &found[at]
        else {
            unreachable!("checked by caller")
        };
        let mut segments = vec![*first];
        let mut end = start.offset
            + (start.length as usize).next_multiple_of(shard_format::BLOCK_SIZE) as u32;
        let mut next = at + 1;
        while let Some(Found::Segment { segment, extent }) = found.get(next) {
            let last = &segments.last().expect("not empty").entry;
            let same = shards::continues_run(last, &segment.entry) && extent.offset == end;
            if !same {
                break;
            }
            segments.push(*segment);
            end += (extent.length as usize).next_multiple_of(shard_format::BLOCK_SIZE) as u32;
            next += 1;
        }
        let length = end - start.offset;
        assert!(length as usize <= STORE_BYTES_MAX);
        let pin = self
            .0
            .log
            .files()
            .pin_number(number)
            .ok_or(VolumeError::Absent)?;
        let (data, _) = pin.read(start.offset, length).await?;
        let mut offset = 0;
        for s in &segments {
            let stored = &data[offset..offset + s.stored_len as usize];
            if shard_format::segment_crc(&s.entry.identity, stored) != s.crc {
                return Err(self.damaged(number, start));
            }
            offset += (s.stored_len as usize).next_multiple_of(shard_format::BLOCK_SIZE);
        }
        Ok((Record::Segments { segments, data }, next))
    }
}
