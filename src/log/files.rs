//! The segment files of a volume: their table, headers, space classes, pins and life cycle.
//!
//! ```text
//!            create            activate(head)          roll               retire            free
//!   (none) ─────────▶ Free ─────────────────▶ Open ─────────▶ Sealed ─────────▶ Retiring ─────────▶ Free
//!                       ▲                                                                             │
//!                       └─────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Every transition that touches the disk raises the file's generation in its header, copy A first, then a flush, then
//! copy B, then a flush: a power cut at any point leaves at least one whole copy. A file whose two copies are both
//! damaged is `Unreadable`: never taken for free or new.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    rc::Rc,
};

use shard_format::{
    BLOCK_SIZE, BatchSeq, ClusterId, DriveId, FILE_HEADER_SIZE, FileHeader, FileNumber,
    FileState as HeaderState, Generation, Head, HeaderError, Incarnation, Lsn, VolumeId,
    decode_file_header,
};

use super::{Extent, LogError};
use crate::{
    limits::RESERVE_FILES,
    rt::{self, Buf, File, OpenOptions, sync::Notify},
};

/// What a segment file is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// May be activated; its bytes mean nothing.
    Free,
    /// A head appends to it.
    Open(Head),
    /// Complete; reclaim may choose it.
    Sealed(Head),
    /// Reclaim is emptying it.
    Retiring(Head),
    /// Its header is damaged: what it holds is unknown and it is left alone.
    Unreadable,
}

impl FileState {
    pub fn head(self) -> Option<Head> {
        match self {
            FileState::Open(h) | FileState::Sealed(h) | FileState::Retiring(h) => Some(h),
            FileState::Free | FileState::Unreadable => None,
        }
    }
}

/// Who asks for a free file; later ones may dig deeper into the reserve, so that a full drive can be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceClass {
    /// New object bytes: leaves the whole reserve.
    Put,
    /// The commit head: deletes must go through when puts do not.
    Commit,
    /// Reclaim: copying is what makes space.
    Reclaim,
    /// The first commit file after a start: the last file is its own, so that a full store can start.
    Start,
}

impl SpaceClass {
    /// Free files that must remain after this class took one.
    fn leaves(self) -> usize {
        match self {
            SpaceClass::Put => RESERVE_FILES,
            SpaceClass::Commit => 2,
            SpaceClass::Reclaim => 1,
            SpaceClass::Start => 0,
        }
    }
}

/// An open segment file. Lives as long as anyone reads it.
pub struct Handle {
    pub number: FileNumber,
    pub file: File,
    pins: Cell<u32>,
    unpinned: Notify,
}

/// Keeps a file from being used again while its bytes are being read.
pub struct Pinned(Rc<Handle>);

impl Pinned {
    pub fn handle(&self) -> &Handle {
        &self.0
    }

    /// Reads `length` bytes at `offset` of the file. The buffer holds whole blocks; the bytes asked for start at the
    /// returned position in it. One copy: drive to buffer.
    pub async fn read(&self, offset: u32, length: u32) -> Result<(Buf, usize), LogError> {
        let start = offset as usize / BLOCK_SIZE * BLOCK_SIZE;
        let end = (offset as usize + length as usize).next_multiple_of(BLOCK_SIZE);
        let buf = Buf::alloc(end - start).await;
        let (result, buf) = self
            .read_into(buf, start as u32, (end - start) as u32)
            .await;
        result.map(|()| (buf, offset as usize - start))
    }

    /// As [`Pinned::read`], into memory that is the caller's: whole blocks, from a block's start on.
    pub async fn read_into(
        &self,
        mut buf: Buf,
        offset: u32,
        length: u32,
    ) -> (Result<(), LogError>, Buf) {
        assert!((offset as usize).is_multiple_of(BLOCK_SIZE));
        assert!((length as usize).is_multiple_of(BLOCK_SIZE));
        buf.set_len(length as usize);
        let (result, buf) = self.0.file.read_exact_at(buf, u64::from(offset)).await;
        let result = result.map_err(|e| LogError::Unreadable {
            what: format!(
                "segment file {} at {offset}, {length} bytes: {e}",
                self.0.number
            ),
        });
        (result, buf)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.pins.set(self.0.pins.get() - 1);
        if self.0.pins.get() == 0 {
            self.0.unpinned.notify_all();
        }
    }
}

struct Slot {
    handle: Rc<Handle>,
    generation: Generation,
    state: FileState,
    /// Bytes the index points at; an estimate that steers reclaim, never a proof (saturating).
    live_bytes: u64,
    /// Where the last batch of a sealed file ends; 0 if that is not known. An estimate too.
    end: u32,
    /// Its bytes were written before (recycled, or zeroed by us): writing them again converts no extents.
    written_to: u64,
    /// Its live bytes or its end changed since they were last handed to a checkpoint.
    dirty: bool,
}

/// What reclaim wants to know of a file in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub generation: Generation,
    /// Bytes that copying everything live would write, estimated.
    pub live_bytes: u64,
    /// Where the last batch of a sealed file ends; 0 if that is not known.
    pub end: u32,
}

/// What a record takes beside its payload, about: its entry in a batch's directory. Without it a file of small records
/// that are all live would look half dead, and be copied for nothing, for ever.
const ENTRY_BYTES: u64 = 56;

impl Slot {
    fn usage(&self) -> Usage {
        Usage {
            generation: self.generation,
            live_bytes: self.live_bytes,
            end: self.end,
        }
    }
}

/// Identity and geometry of a volume's segment files.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    pub directory: PathBuf,
    pub cluster: ClusterId,
    pub drive: DriveId,
    pub volume: VolumeId,
    pub file_length: u64,
    /// Free bytes of the file system that are not for segment files.
    pub headroom: u64,
}

/// The table of a volume's segment files.
pub struct Files {
    config: FilesConfig,
    slots: RefCell<BTreeMap<FileNumber, Slot>>,
    /// Generations of the files that may hold records.
    in_use: RefCell<BTreeSet<Generation>>,
    next_generation: Cell<u64>,
    next_number: Cell<u32>,
    /// A file is being created: one at a time, so that many who wait for room make one file and not many.
    creating: Cell<bool>,
    freed: Notify,
}

const DIRECT: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: false,
    create_new: false,
    direct: true,
};

/// A file as found on disk at start.
#[derive(Clone, Debug)]
pub struct Found {
    pub number: FileNumber,
    /// `None`: never used.
    pub header: Result<Option<FileHeader>, String>,
}

fn unreadable(number: FileNumber, e: impl std::fmt::Display) -> LogError {
    LogError::Unreadable {
        what: format!("header of segment file {number}: {e}"),
    }
}

impl Files {
    /// Opens every segment file of the directory and reads its header. Creates the directory if it is absent.
    pub async fn open(config: FilesConfig) -> Result<(Files, Vec<Found>), LogError> {
        let fail = |what: String| LogError::Unreadable { what };
        if !rt::fs::exists(&config.directory)
            .await
            .map_err(|e| fail(e.to_string()))?
        {
            rt::fs::create_dir(&config.directory)
                .await
                .map_err(|e| fail(e.to_string()))?;
            if let Some(parent) = config.directory.parent() {
                rt::fs::sync_dir(parent)
                    .await
                    .map_err(|e| fail(e.to_string()))?;
            }
        }
        let names = rt::fs::read_dir(&config.directory)
            .await
            .map_err(|e| fail(format!("{}: {e}", config.directory.display())))?;
        let files = Files {
            config,
            slots: RefCell::default(),
            in_use: RefCell::default(),
            next_generation: Cell::new(1),
            next_number: Cell::new(0),
            creating: Cell::new(false),
            freed: Notify::new(),
        };
        let mut found = Vec::new();
        for name in names {
            let Some(number) = name
                .strip_suffix(".seg")
                .and_then(|n| u32::from_str_radix(n, 16).ok())
            else {
                continue;
            };
            let number = FileNumber(number);
            files
                .next_number
                .set(files.next_number.get().max(number.0 + 1));
            let file = File::open(&files.path(number), DIRECT)
                .await
                .map_err(|e| unreadable(number, e))?;
            let length = file.len().await.map_err(|e| unreadable(number, e))?;
            if length < files.config.file_length {
                // A creation that did not get as far as its flush: never used.
                drop(file);
                rt::fs::remove_file(&files.path(number))
                    .await
                    .map_err(|e| unreadable(number, e))?;
                continue;
            }
            let mut buf = Buf::alloc_now(FILE_HEADER_SIZE);
            buf.set_len(FILE_HEADER_SIZE);
            let (result, buf) = file.read_exact_at(buf, 0).await;
            let header = match result {
                Err(e) => Err(e.to_string()),
                Ok(()) => match decode_file_header(buf[..].try_into().expect("a header block")) {
                    Ok(h) => files
                        .check_identity(number, &h.value)
                        .map(|()| Some(h.value)),
                    Err(HeaderError::NeverUsed) => Ok(None),
                    Err(e @ HeaderError::UnknownVersion { .. }) => {
                        return Err(unreadable(number, e));
                    }
                    Err(e) => Err(e.to_string()),
                },
            };
            let (generation, state, written_to) = match &header {
                Ok(None) => (Generation(0), FileState::Free, 0),
                Ok(Some(h)) => {
                    let state = match h.state {
                        HeaderState::Free => FileState::Free,
                        HeaderState::Open => FileState::Sealed(h.head),
                    };
                    (h.generation, state, 0)
                }
                Err(_) => (Generation(0), FileState::Unreadable, 0),
            };
            files
                .next_generation
                .set(files.next_generation.get().max(generation.0 + 1));
            if matches!(state, FileState::Sealed(_)) {
                files.in_use.borrow_mut().insert(generation);
            }
            let handle = Rc::new(Handle {
                number,
                file,
                pins: Cell::new(0),
                unpinned: Notify::new(),
            });
            files.slots.borrow_mut().insert(
                number,
                Slot {
                    handle,
                    generation,
                    state,
                    live_bytes: 0,
                    end: 0,
                    written_to,
                    dirty: false,
                },
            );
            found.push(Found { number, header });
        }
        Ok((files, found))
    }

    fn check_identity(&self, number: FileNumber, h: &FileHeader) -> Result<(), String> {
        if h.volume != self.config.volume {
            return Err(format!(
                "belongs to volume {}, not {}",
                h.volume, self.config.volume
            ));
        }
        if h.file_number != number {
            return Err(format!("calls itself {}", h.file_number));
        }
        if h.file_length != self.config.file_length {
            return Err(format!(
                "is {} bytes long, not {}",
                h.file_length, self.config.file_length
            ));
        }
        Ok(())
    }

    pub fn path(&self, number: FileNumber) -> PathBuf {
        self.config.directory.join(format!("{:08x}.seg", number.0))
    }

    pub fn volume(&self) -> VolumeId {
        self.config.volume
    }

    pub fn file_length(&self) -> u64 {
        self.config.file_length
    }

    // ------------------------------------------------------------------------------------------- reading

    /// Pins the file of `extent`; `None` if it was freed since, or is unreadable.
    pub fn pin(&self, extent: &Extent) -> Option<Pinned> {
        let slots = self.slots.borrow();
        let slot = slots.get(&extent.file)?;
        if slot.generation != extent.generation
            || matches!(slot.state, FileState::Free | FileState::Unreadable)
        {
            return None;
        }
        Some(Self::pin_handle(&slot.handle))
    }

    fn pin_handle(handle: &Rc<Handle>) -> Pinned {
        handle.pins.set(handle.pins.get() + 1);
        Pinned(handle.clone())
    }

    /// Pins a file whatever its state is, for recovery and reclaim.
    pub fn pin_number(&self, number: FileNumber) -> Option<Pinned> {
        Some(Self::pin_handle(&self.slots.borrow().get(&number)?.handle))
    }

    pub fn generation(&self, number: FileNumber) -> Option<Generation> {
        self.slots.borrow().get(&number).map(|s| s.generation)
    }

    pub fn state(&self, number: FileNumber) -> Option<FileState> {
        self.slots.borrow().get(&number).map(|s| s.state)
    }

    pub fn set_state(&self, number: FileNumber, state: FileState) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&number) {
            slot.state = state;
        }
    }

    /// Whether a file of this generation may still hold records (it was not freed since).
    pub fn holds(&self, generation: Generation) -> bool {
        self.in_use.borrow().contains(&generation)
    }

    // ------------------------------------------------------------------------------------------- accounting

    pub fn add_live(&self, extent: &Extent) {
        self.account(extent, |live, bytes| live.saturating_add(bytes));
    }

    pub fn sub_live(&self, extent: &Extent) {
        self.account(extent, |live, bytes| live.saturating_sub(bytes));
    }

    fn account(&self, extent: &Extent, f: impl FnOnce(u64, u64) -> u64) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&extent.file)
            && slot.generation == extent.generation
        {
            slot.live_bytes = f(slot.live_bytes, u64::from(extent.length) + ENTRY_BYTES);
            slot.dirty = true;
        }
    }

    /// What a checkpoint said of a file, if it still is of that generation.
    pub fn set_usage(&self, number: FileNumber, usage: Usage) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&number)
            && slot.generation == usage.generation
        {
            slot.live_bytes = usage.live_bytes;
            slot.end = usage.end;
        }
    }

    /// A file's last batch ends here.
    pub fn set_end(&self, number: FileNumber, end: u32) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&number) {
            slot.end = end;
            slot.dirty = true;
        }
    }

    /// Every file whose usage changed since the last call.
    pub fn take_dirty(&self) -> Vec<(FileNumber, Usage)> {
        let mut slots = self.slots.borrow_mut();
        slots
            .iter_mut()
            .filter_map(|(n, s)| std::mem::take(&mut s.dirty).then_some((*n, s.usage())))
            .collect()
    }

    /// Every sealed file.
    pub fn sealed(&self) -> Vec<(FileNumber, Usage)> {
        self.slots
            .borrow()
            .iter()
            .filter(|(_, s)| matches!(s.state, FileState::Sealed(_)))
            .map(|(n, s)| (*n, s.usage()))
            .collect()
    }

    /// Every file: number, generation, state, live bytes.
    pub fn table(&self) -> Vec<(FileNumber, Generation, FileState, u64)> {
        self.slots
            .borrow()
            .iter()
            .map(|(n, s)| (*n, s.generation, s.state, s.live_bytes))
            .collect()
    }

    pub fn free_count(&self) -> usize {
        self.slots
            .borrow()
            .values()
            .filter(|s| s.state == FileState::Free)
            .count()
    }

    // ------------------------------------------------------------------------------------------- life cycle

    /// Creates one more free file, allocated and durable in its directory. `Full` if the file system has no room
    /// beyond the headroom of the index.
    pub async fn create(&self) -> Result<(), LogError> {
        let full_or = |e: io::Error| {
            if e.kind() == io::ErrorKind::StorageFull {
                LogError::Full
            } else {
                poison("create a segment file", &e)
            }
        };
        if self.creating.get() {
            // Somebody is at it; look again when it is done.
            self.freed.notified().await;
            return Ok(());
        }
        self.creating.set(true);
        let _guard = Creating(self);
        let reserved = self.config.file_length + self.config.headroom;
        if rt::fs::free_bytes(&self.config.directory)
            .await
            .map_err(full_or)?
            < reserved
        {
            return Err(LogError::Full);
        }
        let number = FileNumber(self.next_number.get());
        self.next_number.set(number.0 + 1);
        let path = self.path(number);
        let options = OpenOptions {
            create_new: true,
            ..DIRECT
        };
        let file = File::open(&path, options).await.map_err(full_or)?;
        if let Err(e) = file.allocate(self.config.file_length).await {
            drop(file);
            // Best effort: an empty left-over is found, and made whole, at the next start.
            let _ = rt::fs::remove_file(&path).await;
            return Err(full_or(e));
        }
        file.sync_all().await.map_err(full_or)?;
        rt::fs::sync_dir(&self.config.directory)
            .await
            .map_err(full_or)?;
        let handle = Rc::new(Handle {
            number,
            file,
            pins: Cell::new(0),
            unpinned: Notify::new(),
        });
        self.slots.borrow_mut().insert(
            number,
            Slot {
                handle,
                generation: Generation(0),
                state: FileState::Free,
                live_bytes: 0,
                end: 0,
                written_to: 0,
                dirty: false,
            },
        );
        self.freed.notify_all();
        Ok(())
    }

    /// Whether a write of this class would find a file now or by creating one.
    pub fn has_room(&self, class: SpaceClass) -> bool {
        self.free_count() > class.leaves()
    }

    /// Takes a free file for `head` and makes its new generation durable. Prefers recycled files, whose extents are
    /// written already.
    pub async fn activate(
        &self,
        head: Head,
        class: SpaceClass,
        first_seq: BatchSeq,
        incarnation: Incarnation,
        next_lsn: Lsn,
    ) -> Result<Activated, LogError> {
        let number = loop {
            let free: Vec<(FileNumber, u64)> = self
                .slots
                .borrow()
                .iter()
                .filter(|(_, s)| s.state == FileState::Free)
                .map(|(n, s)| (*n, s.generation.0))
                .collect();
            if free.len() > class.leaves() {
                // Recycled first (generation above zero), then the lowest number.
                break free
                    .iter()
                    .min_by_key(|(n, g)| (*g == 0, *n))
                    .map(|(n, _)| *n)
                    .expect("not empty");
            }
            self.create().await?;
        };
        let (handle, recycled) = {
            let mut slots = self.slots.borrow_mut();
            let slot = slots.get_mut(&number).expect("listed above");
            slot.state = FileState::Open(head);
            slot.live_bytes = 0;
            slot.end = 0;
            slot.dirty = true;
            (slot.handle.clone(), slot.generation.0 != 0)
        };
        let generation = self.bump_generation(number);
        self.in_use.borrow_mut().insert(generation);
        let header = self.header(
            number,
            head,
            HeaderState::Open,
            generation,
            first_seq,
            incarnation,
            next_lsn,
        );
        write_header(&handle.file, &header).await?;
        let written_to = if recycled {
            self.config.file_length
        } else {
            FILE_HEADER_SIZE as u64
        };
        self.slots
            .borrow_mut()
            .get_mut(&number)
            .expect("listed above")
            .written_to = written_to;
        Ok(Activated { handle, generation })
    }

    /// Makes `number` free for good: waits until nobody reads it, then makes a header of a new generation durable.
    /// The caller has made sure that no record in it is live in any checkpoint that recovery may start from.
    pub async fn free(
        &self,
        number: FileNumber,
        incarnation: Incarnation,
        next_lsn: Lsn,
    ) -> Result<(), LogError> {
        let handle = self
            .slots
            .borrow()
            .get(&number)
            .map(|s| s.handle.clone())
            .expect("a known file");
        if !crate::planted!("reuse-under-reader") {
            while handle.pins.get() > 0 {
                handle.unpinned.notified().await;
            }
        }
        let generation = Generation(self.next_generation.get());
        self.next_generation.set(generation.0 + 1);
        let head = self
            .state(number)
            .and_then(FileState::head)
            .unwrap_or(Head::Bulk);
        let header = self.header(
            number,
            head,
            HeaderState::Free,
            generation,
            BatchSeq(0),
            incarnation,
            next_lsn,
        );
        write_header(&handle.file, &header).await?;
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(&number).expect("a known file");
        self.in_use.borrow_mut().remove(&slot.generation);
        slot.generation = generation;
        slot.state = FileState::Free;
        slot.live_bytes = 0;
        slot.end = 0;
        slot.dirty = true;
        drop(slots);
        self.freed.notify_all();
        Ok(())
    }

    fn bump_generation(&self, number: FileNumber) -> Generation {
        let generation = Generation(self.next_generation.get());
        self.next_generation.set(generation.0 + 1);
        self.slots
            .borrow_mut()
            .get_mut(&number)
            .expect("a known file")
            .generation = generation;
        generation
    }

    #[allow(clippy::too_many_arguments)]
    fn header(
        &self,
        number: FileNumber,
        head: Head,
        state: HeaderState,
        generation: Generation,
        first_seq: BatchSeq,
        incarnation: Incarnation,
        created_lsn: Lsn,
    ) -> FileHeader {
        FileHeader {
            file_length: self.config.file_length,
            cluster: self.config.cluster,
            drive: self.config.drive,
            volume: self.config.volume,
            file_number: number,
            head,
            state,
            generation,
            first_seq,
            incarnation,
            created_lsn,
        }
    }

    /// Bytes from the start of the file that were written before.
    pub fn written_to(&self, number: FileNumber) -> u64 {
        self.slots.borrow().get(&number).map_or(0, |s| s.written_to)
    }

    pub fn set_written_to(&self, number: FileNumber, to: u64) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&number) {
            slot.written_to = slot.written_to.max(to);
        }
    }

    /// Resolves when a file may have become free.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// A file that a head may append to.
pub struct Activated {
    pub handle: Rc<Handle>,
    pub generation: Generation,
}

struct Creating<'a>(&'a Files);

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.0.creating.set(false);
        self.0.freed.notify_all();
    }
}

pub(super) fn poison(doing: &str, e: &io::Error) -> LogError {
    LogError::Poisoned {
        what: format!("{doing}: {e}").into(),
    }
}

/// Writes copy A, flushes, writes copy B, flushes.
async fn write_header(file: &File, header: &FileHeader) -> Result<(), LogError> {
    const COPY_SIZE: usize = FILE_HEADER_SIZE / 2;
    let mut block = [0; FILE_HEADER_SIZE];
    header.encode(&mut block);
    for (copy, bytes) in block.chunks_exact(COPY_SIZE).enumerate() {
        let mut buf = Buf::alloc_now(COPY_SIZE);
        buf.set_len(COPY_SIZE);
        buf.copy_from_slice(bytes);
        let (result, _) = file.write_all_at(buf, (copy * COPY_SIZE) as u64).await;
        result.map_err(|e| poison("write a segment file header", &e))?;
        file.sync_data()
            .await
            .map_err(|e| poison("flush a segment file header", &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rt::{
        CoreId,
        sim::{FaultPlan, World},
    };

    /// A file is freed only when nobody reads it any more.
    #[test]
    fn a_file_that_is_being_read_is_not_freed() {
        let world = World::new(1);
        let node = world.add_node(1);
        world.add_drive(node, "/drive", FaultPlan::healthy());
        let config = FilesConfig {
            directory: "/drive/segments".into(),
            cluster: ClusterId([1; 16]),
            drive: DriveId([2; 16]),
            volume: VolumeId([3; 16]),
            file_length: 1 << 20,
            headroom: 0,
        };
        let (files, active) = world
            .run_on(node, CoreId(0), async move {
                let (files, found) = Files::open(config).await.expect("opens");
                assert!(found.is_empty());
                let (seq, incarnation, lsn) = (BatchSeq(1), Incarnation(1), Lsn(1));
                let active = files
                    .activate(Head::Bulk, SpaceClass::Start, seq, incarnation, lsn)
                    .await
                    .expect("there is room");
                (Rc::new(files), active)
            })
            .expect("runs");
        let number = active.handle.number;
        files.set_state(number, FileState::Retiring(Head::Bulk));
        let pin = files.pin_number(number).expect("it is there");
        let freeing = files.clone();
        world.spawn_on(node, CoreId(0), async move {
            freeing
                .free(number, Incarnation(1), Lsn(1))
                .await
                .expect("frees");
        });
        world.run_for(Duration::from_secs(10));
        assert_eq!(files.state(number), Some(FileState::Retiring(Head::Bulk)));
        world
            .run_on(node, CoreId(0), async move { drop(pin) })
            .expect("runs");
        world.run_for(Duration::from_secs(1));
        assert_eq!(files.state(number), Some(FileState::Free));
        assert!(!files.holds(active.generation));
    }
}
