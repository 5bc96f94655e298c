//! The heads of a volume's log: gather, write, flush, tell.
//!
//! The commit head flushes every batch before it gathers the next, so that one flush serves everything that arrived
//! during the previous one. Bulk heads only write; a flush comes when a writer asks for one ([`Log::sync`]), when
//! [`UNFLUSHED_BATCHES_MAX`] batches wait for it, or when the file is full. Each batch carries `flushed_seq`, the
//! highest batch known flushed when it was submitted: that is what lets recovery tell damage from the end of the log.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use futures_util::{FutureExt, select_biased};
use shard_format::{
    BATCH_LENGTH_MAX, BLOCK_SIZE, BatchBuilder, BatchFull, BatchSeq, BatchStamp, FILE_HEADER_SIZE,
    FileNumber, Footer, FooterEntry, Generation, Head, Incarnation, Lsn, footer_len,
};

use super::{
    Append, DurableBatch, DurableBody, DurableRecord, Extent, FileState, Files, LogError,
    LsnCounter, Record, Sink, SpaceClass,
    files::{Activated, Handle, poison},
    recover::Unsealed,
};
use crate::{
    limits::{
        BATCH_PADDING_MAX, BATCH_RECORDS_MAX, BULK_BATCH_BYTES_MAX, COMMIT_BATCH_BYTES_MAX,
        FLOOR_DELAY, HEAD_QUEUE_BYTES_MAX, UNFLUSHED_BATCHES_MAX,
    },
    rt::{self, Buf, sync::Notify},
};

/// Bytes of a fresh commit file zeroed at a time. The flush of a write into never written extents commits the file
/// system's journal; into written ones it does not.
const ZERO_STEP: usize = 1024 * 1024;

/// Batches that may come between a look at the room in a file and the append it was for: floors, outcomes.
const OTHER_BATCHES: u32 = 4;

/// How far a head has come: everything up to `seq` is durable and handed to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeadPosition {
    pub file: FileNumber,
    pub generation: Generation,
    /// Where the next batch starts in that file.
    pub offset: u32,
    pub seq: BatchSeq,
    /// Header checksum of batch `seq`.
    pub crc: u32,
}

pub struct LogConfig {
    pub incarnation: Incarnation,
    pub next_lsn: Lsn,
    /// Where each head's log ends, indexed by [`head_index`].
    pub heads: [HeadPosition; 3],
}

pub fn head_index(head: Head) -> usize {
    match head {
        Head::Commit => 0,
        Head::Bulk => 1,
        Head::Relocate => 2,
    }
}

pub const HEADS: [Head; 3] = [Head::Commit, Head::Bulk, Head::Relocate];

struct OpenFile {
    handle: Rc<Handle>,
    generation: Generation,
    offset: u32,
    batches: Vec<FooterEntry>,
}

struct Unflushed<W> {
    position: HeadPosition,
    batch: DurableBatch<W>,
    /// The last append it contains (or that failed right after it).
    ticket: Ticket,
}

/// Counts the appends of a head, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

struct HeadState<W> {
    kind: Head,
    queue: RefCell<VecDeque<Append<W>>>,
    queued_bytes: Cell<usize>,
    /// Bytes taken from the queue that have no place in a file yet.
    placing_bytes: Cell<usize>,
    work: Notify,
    /// Somebody took from the queue, a batch was written or flushed, or the head failed.
    progress: Notify,
    file: RefCell<Option<OpenFile>>,
    /// Of the last batch submitted.
    seq: Cell<BatchSeq>,
    crc: Cell<u32>,
    written: Cell<BatchSeq>,
    flushed: Cell<BatchSeq>,
    /// Highest sequence whose being flushed is recorded on disk by a later batch.
    floor: Cell<BatchSeq>,
    floor_wanted: Cell<bool>,
    /// It has had a file since the start.
    opened: Cell<bool>,
    /// Its task has ended.
    ended: Cell<bool>,
    sync_wanted: Cell<BatchSeq>,
    unflushed: RefCell<VecDeque<Unflushed<W>>>,
    /// Where the volume has processed to.
    position: Cell<HeadPosition>,
    /// Last append queued, taken from the queue, written, handed to the volume.
    queued: Cell<Ticket>,
    taken: Cell<Ticket>,
    written_to: Cell<Ticket>,
    durable_to: Cell<Ticket>,
    flushes: Cell<u64>,
}

struct Inner<W> {
    files: Files,
    heads: [HeadState<W>; 3],
    lsn: LsnCounter,
    incarnation: Incarnation,
    sink: RefCell<Option<Rc<dyn Sink<W>>>>,
    poisoned: RefCell<Option<LogError>>,
    closing: Cell<bool>,
}

/// The log of one volume. Cheap to clone.
pub struct Log<W: 'static>(Rc<Inner<W>>);

impl<W> Clone for Log<W> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<W: 'static> Log<W> {
    pub fn new(files: Files, config: LogConfig) -> Self {
        let head = |kind: Head| {
            let start = config.heads[head_index(kind)];
            HeadState {
                kind,
                queue: RefCell::default(),
                queued_bytes: Cell::new(0),
                placing_bytes: Cell::new(0),
                work: Notify::new(),
                progress: Notify::new(),
                file: RefCell::new(None),
                seq: Cell::new(start.seq),
                crc: Cell::new(start.crc),
                written: Cell::new(start.seq),
                flushed: Cell::new(start.seq),
                floor: Cell::new(start.seq),
                floor_wanted: Cell::new(false),
                opened: Cell::new(false),
                ended: Cell::new(false),
                sync_wanted: Cell::new(start.seq),
                unflushed: RefCell::default(),
                position: Cell::new(start),
                queued: Cell::default(),
                taken: Cell::default(),
                written_to: Cell::default(),
                durable_to: Cell::default(),
                flushes: Cell::default(),
            }
        };
        Log(Rc::new(Inner {
            files,
            heads: HEADS.map(head),
            lsn: LsnCounter::new(config.next_lsn),
            incarnation: config.incarnation,
            sink: RefCell::new(None),
            poisoned: RefCell::new(None),
            closing: Cell::new(false),
        }))
    }

    /// Opens a new commit file and starts the heads. A volume goes on in a new file after every start.
    pub async fn start(&self, sink: Rc<dyn Sink<W>>) -> Result<(), LogError> {
        *self.0.sink.borrow_mut() = Some(sink);
        match self
            .open_next(self.head(Head::Commit), SpaceClass::Start)
            .await
        {
            // Reads work, and so does freeing what is dead; the first commit after that opens one.
            Err(LogError::Full) => tracing::warn!("no free segment file to start with"),
            other => other?,
        }
        for kind in HEADS {
            let log = self.clone();
            rt::spawn(async move {
                log.run(kind).await;
                let head = log.head(kind);
                head.ended.set(true);
                head.progress.notify_all();
            });
        }
        Ok(())
    }

    pub fn files(&self) -> &Files {
        &self.0.files
    }

    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation
    }

    pub fn next_lsn(&self) -> Lsn {
        self.0.lsn.next()
    }

    /// Flushes of the head's batches since the log was opened.
    pub fn flushes(&self, kind: Head) -> u64 {
        self.head(kind).flushes.get()
    }

    pub fn error(&self) -> Option<LogError> {
        self.0.poisoned.borrow().clone()
    }

    fn head(&self, kind: Head) -> &HeadState<W> {
        &self.0.heads[head_index(kind)]
    }

    /// Up to where each head's batches were handed to the volume. What a checkpoint covers.
    pub fn position(&self, kind: Head) -> HeadPosition {
        if crate::planted!("checkpoint-past-unfinished") {
            let head = self.head(kind);
            let file = head.file.borrow();
            if let Some(f) = file.as_ref() {
                return HeadPosition {
                    file: f.handle.number,
                    generation: f.generation,
                    offset: f.offset,
                    seq: head.seq.get(),
                    crc: head.crc.get(),
                };
            }
        }
        self.head(kind).position.get()
    }

    /// Waits until the head's queue has room, so that the caller can append without growing it.
    pub async fn room(&self, kind: Head) -> Result<(), LogError> {
        let head = self.head(kind);
        loop {
            self.check()?;
            if head.queued_bytes.get() < HEAD_QUEUE_BYTES_MAX {
                return Ok(());
            }
            head.progress.notified().await;
        }
    }

    /// Whether so many bytes of payload fit the head's open file behind all that waits for it, so that they take no file
    /// from the free ones. Careful: counts as if each append had a batch of its own.
    pub fn fits(&self, kind: Head, bytes: usize) -> bool {
        let head = self.head(kind);
        let file = head.file.borrow();
        let Some(f) = file.as_ref() else {
            return false;
        };
        let waiting = head.queued_bytes.get() + head.placing_bytes.get();
        // Its own batch, and the one that is being placed.
        let batches = head.queue.borrow().len() + 2;
        let footer = footer_len((f.batches.len() + batches) as u32 + OTHER_BATCHES);
        let padding = (batches + OTHER_BATCHES as usize) * BATCH_PADDING_MAX as usize;
        let end = f.offset as usize + waiting + bytes + padding + footer;
        end as u64 <= self.0.files.file_length()
    }

    /// Whether the commit head has room for so many bytes, in its open file or in a next one.
    pub fn takes_command(&self, bytes: usize) -> bool {
        let class = match self.head(Head::Commit).opened.get() {
            true => SpaceClass::Commit,
            false => SpaceClass::Start,
        };
        self.fits(Head::Commit, bytes) || self.0.files.has_room(class)
    }

    /// Queues `append`; its waiter comes back through the [`Sink`]. Order of calls is order in the log.
    pub fn append(&self, kind: Head, append: Append<W>) -> Ticket {
        let head = self.head(kind);
        if let Err(e) = self.check() {
            self.sink().failed(vec![append.waiter], e);
            return head.queued.get();
        }
        head.queued.set(Ticket(head.queued.get().0 + 1));
        head.queued_bytes
            .set(head.queued_bytes.get() + append.records.iter().map(Record::cost).sum::<usize>());
        head.queue.borrow_mut().push_back(append);
        head.work.notify_one();
        head.queued.get()
    }

    /// Waits until the append is written (not flushed) or failed.
    pub async fn written(&self, kind: Head, ticket: Ticket) -> Result<(), LogError> {
        let head = self.head(kind);
        while head.written_to.get() < ticket {
            self.check_poison()?;
            head.progress.notified().await;
        }
        Ok(())
    }

    /// Waits until everything appended to `kind` so far is durable and was handed to the volume, or has failed.
    pub async fn sync(&self, kind: Head) -> Result<(), LogError> {
        let head = self.head(kind);
        let ticket = head.queued.get();
        self.written(kind, ticket).await?;
        let seq = head.written.get();
        while head.durable_to.get() < ticket {
            self.check_poison()?;
            if head.sync_wanted.get() < seq {
                head.sync_wanted.set(seq);
                head.work.notify_one();
            }
            head.progress.notified().await;
        }
        Ok(())
    }

    /// Stops taking appends, flushes what was taken, seals the files, and ends the heads.
    pub async fn close(&self) -> Result<(), LogError> {
        for kind in HEADS {
            self.sync(kind).await?;
        }
        self.record_floor(Head::Commit).await?;
        self.0.closing.set(true);
        for kind in HEADS {
            let head = self.head(kind);
            head.work.notify_one();
            while !head.ended.get() {
                head.progress.notified().await;
            }
            self.check_poison()?;
            self.seal(head).await?;
        }
        Ok(())
    }

    /// Waits until the log itself says that everything flushed so far is: what is damaged of it later cannot be taken
    /// for the end of the log. An idle head does so by itself.
    pub async fn record_floor(&self, kind: Head) -> Result<(), LogError> {
        let head = self.head(kind);
        while self.needs_floor(head) {
            self.check()?;
            head.floor_wanted.set(true);
            head.work.notify_one();
            head.progress.notified().await;
        }
        Ok(())
    }

    fn sink(&self) -> Rc<dyn Sink<W>> {
        self.0.sink.borrow().clone().expect("started")
    }

    fn check_poison(&self) -> Result<(), LogError> {
        self.0.poisoned.borrow().clone().map_or(Ok(()), Err)
    }

    fn check(&self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.0.closing.get() {
            Err(LogError::Closed)
        } else {
            Ok(())
        }
    }

    /// Ends all writing: what the drive holds is unknown from here on.
    pub fn poison(&self, error: &LogError) {
        tracing::error!(%error, "the volume accepts no more writes");
        self.0
            .poisoned
            .borrow_mut()
            .get_or_insert_with(|| error.clone());
        for head in &self.0.heads {
            let mut waiters: Vec<W> = head
                .queue
                .borrow_mut()
                .drain(..)
                .map(|a| a.waiter)
                .collect();
            for u in head.unflushed.borrow_mut().drain(..) {
                waiters.extend(u.batch.appends.into_iter().map(|(_, w)| w));
            }
            self.sink().failed(waiters, error.clone());
            head.progress.notify_all();
            head.work.notify_all();
        }
    }

    // ------------------------------------------------------------------------------------------- the head's task

    async fn run(&self, kind: Head) {
        let head = self.head(kind);
        loop {
            if self.check_poison().is_err() {
                return;
            }
            if !head.queue.borrow().is_empty() {
                let appends = self.gather(head);
                if let Err(e) = self.write(head, appends).await {
                    return self.poison(&e);
                }
                let backlog = head.written.get().0 - head.flushed.get().0;
                let flush_now = kind == Head::Commit || backlog >= UNFLUSHED_BATCHES_MAX;
                if flush_now && let Err(e) = self.flush(head).await {
                    return self.poison(&e);
                }
                head.progress.notify_all();
            } else if head.sync_wanted.get() > head.flushed.get() {
                if let Err(e) = self.flush(head).await {
                    return self.poison(&e);
                }
                head.progress.notify_all();
            } else if self.0.closing.get() {
                return;
            } else if self.needs_floor(head) {
                let idle = head.floor_wanted.take()
                    || select_biased! {
                        () = head.work.notified().fuse() => false,
                        () = rt::sleep(FLOOR_DELAY).fuse() => true,
                    };
                if idle && head.queue.borrow().is_empty() {
                    let result = match self.write(head, Vec::new()).await {
                        Ok(()) => self.flush(head).await,
                        Err(e) => Err(e),
                    };
                    if let Err(e) = result {
                        return self.poison(&e);
                    }
                    // The floor batch says that all before it is flushed; nobody waits for the floor batch itself.
                    head.floor.set(head.flushed.get());
                    head.progress.notify_all();
                }
            } else {
                head.work.notified().await;
            }
        }
    }

    /// Something is flushed, or ruled, that the log does not say yet.
    fn needs_floor(&self, head: &HeadState<W>) -> bool {
        head.floor.get() < head.flushed.get()
            || (head.kind == Head::Commit
                && head.file.borrow().is_some()
                && !self.sink().outcomes().0.is_empty())
    }

    /// Takes as many appends as fit one batch.
    fn gather(&self, head: &HeadState<W>) -> Vec<Append<W>> {
        let bytes_max = if head.kind == Head::Commit {
            COMMIT_BATCH_BYTES_MAX
        } else {
            BULK_BATCH_BYTES_MAX
        };
        let bytes_max = bytes_max.min(self.0.files.file_length() as usize / 4);
        let mut queue = head.queue.borrow_mut();
        let (mut bytes, mut records, mut taken) = (0, 0, Vec::new());
        while let Some(next) = queue.front() {
            let cost: usize = next.records.iter().map(Record::cost).sum();
            let count: usize = next.records.iter().map(Record::count).sum();
            if !taken.is_empty()
                && (bytes + cost > bytes_max || records + count > BATCH_RECORDS_MAX)
            {
                break;
            }
            bytes += cost;
            records += count;
            head.queued_bytes.set(head.queued_bytes.get() - cost);
            taken.push(queue.pop_front().expect("there is a front"));
        }
        head.placing_bytes.set(bytes);
        head.taken
            .set(Ticket(head.taken.get().0 + taken.len() as u64));
        taken
    }

    /// Writes one batch of `appends` (a floor-only batch if there are none). Not durable yet.
    async fn write(&self, head: &HeadState<W>, appends: Vec<Append<W>>) -> Result<(), LogError> {
        let mut builder = BatchBuilder::new(head.kind, BATCH_LENGTH_MAX);
        let (outcomes, outcomes_to) = match head.kind {
            Head::Commit => self.sink().outcomes(),
            _ => (Vec::new(), BatchSeq(0)),
        };
        push_all(&mut builder, &outcomes, &appends).expect("gather bounds the batch");
        let length = builder.batch_len();
        let room = match self.make_room(head, length).await {
            Ok(()) if head.kind == Head::Commit => self.zero_ahead(head, length).await,
            other => other,
        };
        if let Err(e) = room {
            head.placing_bytes.set(0);
            self.sink()
                .failed(appends.into_iter().map(|a| a.waiter).collect(), e.clone());
            if e != LogError::Full {
                return Err(e);
            }
            // Nothing was written: these appends fail, the head lives on.
            head.written_to.set(head.taken.get());
            match head.unflushed.borrow_mut().back_mut() {
                Some(u) => u.ticket = head.taken.get(),
                None => head.durable_to.set(head.taken.get()),
            }
            head.progress.notify_all();
            return Ok(());
        }

        let (handle, generation, offset) = {
            let file = head.file.borrow();
            let f = file.as_ref().expect("make_room opened one");
            (f.handle.clone(), f.generation, f.offset)
        };
        // The front of the batch (directory and packed payloads) is encoded into one buffer; aligned payloads are
        // written from where they are. Payloads that wait to be written may be all of the pool, so a head never waits
        // for memory: a batch a head at a time is the bound.
        let mut front = Buf::alloc_now(builder.head_len());
        front.set_len(builder.head_len());
        let record_count = builder.record_count();
        let first_lsn = self.0.lsn.take(record_count as usize);
        let seq = BatchSeq(head.seq.get().0 + 1);
        let stamp = BatchStamp {
            volume: self.0.files.volume(),
            file_number: handle.number,
            generation,
            incarnation: self.0.incarnation,
            seq,
            flushed_seq: head.flushed.get(),
            outcomes_to,
            first_lsn,
            previous_crc: head.crc.get(),
        };
        let header = builder.encode(&stamp, &mut front);
        let mut bufs = vec![front];
        let mut durable = Vec::with_capacity(appends.len());
        let mut at = outcomes.len() as u32;
        for append in appends {
            let mut records = Vec::with_capacity(append.records.len());
            let mut push = |body: DurableBody| {
                let place = builder.placement(at);
                let extent = Extent {
                    file: handle.number,
                    generation,
                    offset: offset + place.offset,
                    length: place.stored_len,
                };
                let lsn = Lsn(first_lsn.0 + u64::from(at));
                records.push(DurableRecord { lsn, extent, body });
                at += 1;
            };
            for record in append.records {
                match record {
                    Record::Metadata { entry, payload } => {
                        push(DurableBody::Metadata { entry, payload });
                    }
                    Record::Volume { payload } => push(DurableBody::Volume { payload }),
                    Record::Segments { segments, data } => {
                        segments
                            .into_iter()
                            .for_each(|s| push(DurableBody::Segment(s)));
                        bufs.push(data);
                    }
                }
            }
            durable.push((records, append.waiter));
        }
        debug_assert_eq!(
            bufs.iter().map(|b| b.len()).sum::<usize>(),
            length,
            "the layout matches the buffers"
        );

        head.seq.set(seq);
        head.crc.set(header.header_crc);
        let position = HeadPosition {
            file: handle.number,
            generation,
            offset: offset + length as u32,
            seq,
            crc: header.header_crc,
        };
        head.placing_bytes.set(0);
        if let Some(f) = head.file.borrow_mut().as_mut() {
            f.offset = position.offset;
            f.batches.push(FooterEntry {
                offset_blocks: offset / BLOCK_SIZE as u32,
                record_count,
                seq,
                first_lsn,
            });
        }
        let batch = DurableBatch {
            head: head.kind,
            seq,
            outcomes: outcomes.len(),
            appends: durable,
        };
        let unflushed = Unflushed {
            position,
            batch,
            ticket: head.taken.get(),
        };
        if crate::planted!("ack-before-flush") {
            self.deliver(head, unflushed);
        } else {
            head.unflushed.borrow_mut().push_back(unflushed);
        }
        let (result, _bufs) = if bufs.len() == 1 {
            let (r, b) = handle
                .file
                .write_all_at(bufs.pop().expect("one"), u64::from(offset))
                .await;
            (r, vec![b])
        } else {
            handle
                .file
                .write_all_vectored_at(bufs, u64::from(offset))
                .await
        };
        result.map_err(|e| {
            poison(
                &format!("write segment file {} at {offset}", handle.number),
                &e,
            )
        })?;
        head.written_to.set(head.taken.get());
        head.written.set(seq);
        head.progress.notify_all();
        Ok(())
    }

    /// Flushes what was written and hands it to the volume.
    async fn flush(&self, head: &HeadState<W>) -> Result<(), LogError> {
        let target = head.written.get();
        let handle = match head.file.borrow().as_ref() {
            Some(f) => f.handle.clone(),
            None => return Ok(()),
        };
        handle
            .file
            .sync_data()
            .await
            .map_err(|e| poison(&format!("flush segment file {}", handle.number), &e))?;
        head.flushes.set(head.flushes.get() + 1);
        self.check_poison()?;
        head.flushed.set(target);
        loop {
            let next = {
                let mut unflushed = head.unflushed.borrow_mut();
                match unflushed.front() {
                    Some(u) if u.position.seq <= target => unflushed.pop_front(),
                    _ => None,
                }
            };
            match next {
                Some(u) => self.deliver(head, u),
                None => return Ok(()),
            }
        }
    }

    fn deliver(&self, head: &HeadState<W>, u: Unflushed<W>) {
        let floor_only = u.batch.appends.is_empty();
        self.sink().durable(u.batch);
        head.position.set(u.position);
        head.durable_to.set(u.ticket);
        if floor_only {
            head.floor.set(u.position.seq);
        }
    }

    // ------------------------------------------------------------------------------------------- files

    /// Makes sure that a batch of `length` bytes and the footer after it fit into the open file; rolls if not.
    async fn make_room(&self, head: &HeadState<W>, length: usize) -> Result<(), LogError> {
        let fits = head.file.borrow().as_ref().is_some_and(|f| {
            let end = f.offset as usize + length + footer_len(f.batches.len() as u32 + 1);
            end as u64 <= self.0.files.file_length()
        });
        if fits {
            return Ok(());
        }
        let class = match head.kind {
            Head::Commit if !head.opened.get() => SpaceClass::Start,
            Head::Commit => SpaceClass::Commit,
            Head::Bulk => SpaceClass::Put,
            Head::Relocate => SpaceClass::Reclaim,
        };
        // All of the old file is flushed before the first batch of the next is written: a gap in an older file is
        // then always damage.
        self.flush(head).await?;
        self.seal(head).await?;
        self.open_next(head, class).await?;
        let end = FILE_HEADER_SIZE + length + footer_len(1);
        assert!(
            end as u64 <= self.0.files.file_length(),
            "limits.rs: a batch fits an empty file"
        );
        Ok(())
    }

    async fn open_next(&self, head: &HeadState<W>, class: SpaceClass) -> Result<(), LogError> {
        let first_seq = BatchSeq(head.seq.get().0 + 1);
        let Activated { handle, generation } = self
            .0
            .files
            .activate(
                head.kind,
                class,
                first_seq,
                self.0.incarnation,
                self.0.lsn.next(),
            )
            .await?;
        head.opened.set(true);
        *head.file.borrow_mut() = Some(OpenFile {
            handle: handle.clone(),
            generation,
            offset: FILE_HEADER_SIZE as u32,
            batches: Vec::new(),
        });
        head.position.set(HeadPosition {
            file: handle.number,
            generation,
            offset: FILE_HEADER_SIZE as u32,
            seq: head.position.get().seq,
            crc: head.position.get().crc,
        });
        Ok(())
    }

    /// Seals the head's file, if it has one, whose batches are all flushed. The footer is flushed before the next file
    /// takes a batch: it is what tells recovery that this file is complete.
    async fn seal(&self, head: &HeadState<W>) -> Result<(), LogError> {
        let Some(old) = head.file.borrow_mut().take() else {
            return Ok(());
        };
        let unsealed = Unsealed {
            file: old.handle.number,
            generation: old.generation,
            offset: old.offset,
            batches: old.batches,
        };
        write_footer(&self.0.files, &unsealed).await?;
        self.0
            .files
            .set_state(old.handle.number, FileState::Sealed(head.kind));
        Ok(())
    }

    /// Overwrites the next stretch of a never written commit file with zeros before a batch lands on it.
    async fn zero_ahead(&self, head: &HeadState<W>, length: usize) -> Result<(), LogError> {
        let (handle, end) = match head.file.borrow().as_ref() {
            Some(f) => (f.handle.clone(), f.offset + length as u32),
            None => return Ok(()),
        };
        loop {
            let from = self.0.files.written_to(handle.number);
            if from >= u64::from(end) || from >= self.0.files.file_length() {
                return Ok(());
            }
            let length = (ZERO_STEP as u64).min(self.0.files.file_length() - from) as usize;
            let mut buf = Buf::alloc_now(length);
            buf.set_len(length);
            buf.fill(0);
            let (result, _) = handle.file.write_all_at(buf, from).await;
            result.map_err(|e| poison("zero a segment file", &e))?;
            handle
                .file
                .sync_data()
                .await
                .map_err(|e| poison("flush a zeroed segment file", &e))?;
            self.0
                .files
                .set_written_to(handle.number, from + length as u64);
        }
    }
}

/// Writes and flushes the footer of a file that takes no more batches.
pub async fn write_footer(files: &Files, unsealed: &Unsealed) -> Result<(), LogError> {
    let footer = Footer {
        volume: files.volume(),
        file_number: unsealed.file,
        generation: unsealed.generation,
        batches: unsealed.batches.clone(),
    };
    let mut buf = Buf::alloc_now(footer.encoded_len());
    buf.set_len(footer.encoded_len());
    footer.encode(u64::from(unsealed.offset), &mut buf);
    let pin = files.pin_number(unsealed.file).expect("a known file");
    let (result, _) = pin
        .handle()
        .file
        .write_all_at(buf, u64::from(unsealed.offset))
        .await;
    result.map_err(|e| poison("write a footer", &e))?;
    pin.handle()
        .file
        .sync_data()
        .await
        .map_err(|e| poison("flush a footer", &e))?;
    files.set_end(unsealed.file, unsealed.offset);
    Ok(())
}

fn push_all<W>(
    builder: &mut BatchBuilder,
    outcomes: &[Vec<u8>],
    appends: &[Append<W>],
) -> Result<(), BatchFull> {
    for payload in outcomes {
        builder.push_volume(payload)?;
    }
    for record in appends.iter().flat_map(|a| &a.records) {
        match record {
            Record::Metadata { entry, payload } => builder.push_metadata(entry, &[payload])?,
            Record::Volume { payload } => builder.push_volume(payload)?,
            Record::Segments { segments, .. } => {
                for s in segments {
                    builder.push_segment(
                        &s.entry,
                        s.transform,
                        s.logical_len,
                        s.stored_len,
                        s.crc,
                    )?;
                }
                0
            }
        };
    }
    Ok(())
}
