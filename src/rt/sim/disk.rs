//! The model of one drive with its file system: bytes and events in, answers out; no clock, no
//! executor.
//!
//! It keeps *written* (what a read returns) and *durable* (what a power cut leaves for certain)
//! apart:
//!
//! | change | written | durable |
//! |---|---|---|
//! | `write` | at once | `sync` of the file, if the write completed before the sync was submitted |
//! | size grown by a write | at once | with that write |
//! | size grown by `allocate` | at once | `sync_all` (`sync_data` need not keep what no data needs: POSIX) |
//! | create, remove, rename | at once | `sync_dir` of a directory it touches; a rename is one step, never half |
//! | create directory | at once | `sync_dir` of its parent |
//!
//! A power cut decides for each unflushed 512-byte sector which of its versions stays: the durable
//! one or that of any write since, in no order ([`CutMode`]). A sector itself is never torn, as
//! drives promise. Files and directories that no durable entry reaches are gone.
//!
//! A failed sync drops what it should have flushed (Linux marks the pages clean): a part of the
//! data is lost at once, the other part can still be read but no later sync makes it durable, so
//! a caller that retries a sync is told `Ok` and loses data at the next cut.
//!
//! Memory: durable bytes live in 4 KiB pages, absent pages are zeros; unflushed writes are kept as
//! they came, all-zero ones as a length.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use super::rng::{FNV_START, Rng, fnv};

/// The unit that a power cut keeps or loses whole.
pub const SECTOR_SIZE: u64 = 512;
/// The unit of the model's memory and of space accounting, like a file system's block.
pub const PAGE_SIZE: u64 = 4096;
const PAGE: usize = PAGE_SIZE as usize;
const SECTOR: usize = SECTOR_SIZE as usize;
const _: () = assert!(PAGE.is_multiple_of(SECTOR));

/// A file or directory of one [`Disk`]; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Inode(u32);

const ROOT: Inode = Inode(0);

/// What the file system answers. Each leaves the disk as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    NotFound,
    Exists,
    NotADirectory,
    IsADirectory,
    /// The drive's capacity is used up.
    NoSpace,
    /// A sector of the range cannot be read (until it is overwritten).
    Unreadable,
}

impl From<DiskError> for io::Error {
    /// The error number that Linux gives, so that code above sees no difference.
    fn from(e: DiskError) -> io::Error {
        io::Error::from_raw_os_error(match e {
            DiskError::NotFound => libc::ENOENT,
            DiskError::Exists => libc::EEXIST,
            DiskError::NotADirectory => libc::ENOTDIR,
            DiskError::IsADirectory => libc::EISDIR,
            DiskError::NoSpace => libc::ENOSPC,
            DiskError::Unreadable => libc::EIO,
        })
    }
}

/// How a power cut treats what is not durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutMode {
    /// Nothing unflushed survives.
    LoseAll,
    /// Everything survives: a cut of power to the machine whose drives have capacitors.
    KeepAll,
    /// Each sector by itself keeps one of its versions.
    PerSector,
    /// Each write by itself: none, all, or a prefix of its sectors.
    PerWrite,
    /// The writes up to a point in order of completion, the next one torn.
    InOrder,
    /// Like `InOrder`, but in a random order; where writes overlap, an older one may win.
    Reordered,
}

impl CutMode {
    pub const ALL: [CutMode; 6] = [
        CutMode::LoseAll,
        CutMode::KeepAll,
        CutMode::PerSector,
        CutMode::PerWrite,
        CutMode::InOrder,
        CutMode::Reordered,
    ];

    /// Any mode, equally likely.
    pub fn draw(rng: &mut Rng) -> CutMode {
        Self::ALL[rng.below(Self::ALL.len() as u64) as usize]
    }
}

/// What a sync covers: taken when it is submitted, used when it completes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncMark {
    seq: u64,
    size: u64,
}

/// Where bit rot struck: so that a test can tell damage it did from damage it found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rot {
    pub inode: Inode,
    /// Of the damaged sector in its file.
    pub offset: u64,
}

#[derive(Clone, Debug)]
enum Bytes {
    Zeros(usize),
    Data(Box<[u8]>),
}

impl Bytes {
    fn of(data: &[u8]) -> Bytes {
        if all_zero(data) {
            Bytes::Zeros(data.len())
        } else {
            Bytes::Data(data.into())
        }
    }

    fn len(&self) -> usize {
        match self {
            Bytes::Zeros(n) => *n,
            Bytes::Data(d) => d.len(),
        }
    }
}

/// A write that is complete but not yet durable.
#[derive(Clone, Debug)]
struct Pending {
    seq: u64,
    offset: u64,
    bytes: Bytes,
}

impl Pending {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// The part of this write in `from..to` as (start, bytes), if any.
    fn overlap(&self, from: u64, to: u64) -> Option<(u64, Part<'_>)> {
        let start = self.offset.max(from);
        let end = self.end().min(to);
        if start >= end {
            return None;
        }
        let part = match &self.bytes {
            Bytes::Zeros(_) => Part::Zeros((end - start) as usize),
            Bytes::Data(d) => {
                Part::Data(&d[(start - self.offset) as usize..(end - self.offset) as usize])
            }
        };
        Some((start, part))
    }
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Zeros(usize),
    Data(&'a [u8]),
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Part::Zeros(n) => *n,
            Part::Data(d) => d.len(),
        }
    }

    fn copy_to(&self, out: &mut [u8]) {
        match self {
            Part::Zeros(_) => out.fill(0),
            Part::Data(d) => out.copy_from_slice(d),
        }
    }
}

/// Sparse bytes; absent pages are zeros.
#[derive(Clone, Debug, Default)]
struct Pages(BTreeMap<u64, Box<[u8; PAGE]>>);

impl Pages {
    fn read(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        let mut at = offset;
        for (&index, page) in self.0.range(offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE)) {
            let start = (index * PAGE_SIZE).max(offset);
            let stop = ((index + 1) * PAGE_SIZE).min(end);
            out[(at - offset) as usize..(start - offset) as usize].fill(0);
            let within = (start - index * PAGE_SIZE) as usize;
            out[(start - offset) as usize..(stop - offset) as usize]
                .copy_from_slice(&page[within..within + (stop - start) as usize]);
            at = stop;
        }
        out[(at - offset) as usize..].fill(0);
    }

    fn write(&mut self, offset: u64, part: Part<'_>) {
        let end = offset + part.len() as u64;
        let mut at = offset;
        while at < end {
            let index = at / PAGE_SIZE;
            let stop = ((index + 1) * PAGE_SIZE).min(end);
            let within = (at - index * PAGE_SIZE) as usize;
            let n = (stop - at) as usize;
            match part {
                Part::Zeros(_) if n == PAGE => {
                    self.0.remove(&index);
                }
                Part::Zeros(_) => {
                    if let Some(page) = self.0.get_mut(&index) {
                        page[within..within + n].fill(0);
                    }
                }
                Part::Data(d) => {
                    let from = &d[(at - offset) as usize..(stop - offset) as usize];
                    let page = self.0.entry(index).or_insert_with(|| Box::new([0; PAGE]));
                    page[within..within + n].copy_from_slice(from);
                }
            }
            at = stop;
        }
    }

    /// Forgets everything from `size` on.
    fn truncate(&mut self, size: u64) {
        self.0.split_off(&size.div_ceil(PAGE_SIZE));
        if let Some(page) = self.0.get_mut(&(size / PAGE_SIZE)) {
            page[(size % PAGE_SIZE) as usize..].fill(0);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct FileBody {
    /// What `len` says; `durable_size <= size` (there is no truncation).
    size: u64,
    durable_size: u64,
    durable: Pages,
    /// Sectors whose sync failed: readable over `durable`, under `pending`, and never durable.
    ghosts: BTreeMap<u64, Box<[u8; SECTOR]>>,
    /// In order of completion, which is also order of `seq`.
    pending: VecDeque<Pending>,
    unreadable: BTreeSet<u64>,
    /// Open handles; an unlinked file lives while it has some.
    opens: u32,
}

impl FileBody {
    fn charged(&self) -> u64 {
        self.size.next_multiple_of(PAGE_SIZE)
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        self.durable.read(offset, out);
        for (&sector, bytes) in self
            .ghosts
            .range(offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE))
        {
            let from = (sector * SECTOR_SIZE).max(offset);
            let to = ((sector + 1) * SECTOR_SIZE).min(end);
            let within = (from - sector * SECTOR_SIZE) as usize;
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[within..within + (to - from) as usize]);
        }
        for write in &self.pending {
            if let Some((start, part)) = write.overlap(offset, end) {
                let at = (start - offset) as usize;
                part.copy_to(&mut out[at..at + part.len()]);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct DirBody {
    written: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
}

#[derive(Clone, Debug)]
enum Body {
    File(FileBody),
    Dir(DirBody),
}

/// A change of the namespace that no `sync_dir` has made durable.
#[derive(Clone, Debug)]
struct DirOp {
    seq: u64,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Link {
        dir: Inode,
        name: String,
        inode: Inode,
    },
    Unlink {
        dir: Inode,
        name: String,
    },
    Rename {
        from_dir: Inode,
        from: String,
        to_dir: Inode,
        to: String,
        inode: Inode,
    },
}

impl Change {
    fn dirs(&self) -> [Inode; 2] {
        match self {
            Change::Link { dir, .. } | Change::Unlink { dir, .. } => [*dir, *dir],
            Change::Rename {
                from_dir, to_dir, ..
            } => [*from_dir, *to_dir],
        }
    }
}

/// One drive. Paths are relative to its root, parts separated by `/`; the root always exists.
#[derive(Clone, Debug)]
pub struct Disk {
    inodes: BTreeMap<Inode, Body>,
    inode_next: u32,
    /// Orders completed writes and namespace changes over the whole drive.
    seq_next: u64,
    dir_ops: Vec<DirOp>,
    capacity: u64,
    used: u64,
}

impl Disk {
    /// An empty drive that holds `capacity` bytes of files.
    pub fn new(capacity: u64) -> Disk {
        Disk {
            inodes: BTreeMap::from([(ROOT, Body::Dir(DirBody::default()))]),
            inode_next: 1,
            seq_next: 0,
            dir_ops: Vec::new(),
            capacity,
            used: 0,
        }
    }

    /// Grows or shrinks the drive; what is there stays, even above the new capacity.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    pub fn free_bytes(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    // ---- names

    fn dir(&self, inode: Inode) -> Result<&DirBody, DiskError> {
        match self.inodes.get(&inode) {
            Some(Body::Dir(dir)) => Ok(dir),
            Some(Body::File(_)) => Err(DiskError::NotADirectory),
            None => Err(DiskError::NotFound),
        }
    }

    fn file(&self, inode: Inode) -> &FileBody {
        match self.inodes.get(&inode) {
            Some(Body::File(file)) => file,
            _ => panic!("{inode:?} is not an open file of this drive"),
        }
    }

    fn file_mut(&mut self, inode: Inode) -> &mut FileBody {
        match self.inodes.get_mut(&inode) {
            Some(Body::File(file)) => file,
            _ => panic!("{inode:?} is not an open file of this drive"),
        }
    }

    fn resolve(&self, path: &str) -> Result<Inode, DiskError> {
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = *self.dir(at)?.written.get(name).ok_or(DiskError::NotFound)?;
        }
        Ok(at)
    }

    /// The directory that holds `path`'s last name, and that name.
    fn parent<'a>(&self, path: &'a str) -> Result<(Inode, &'a str), DiskError> {
        let path = path.trim_end_matches('/');
        let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(DiskError::Exists);
        }
        let dir = self.resolve(dirs)?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    fn inode_new(&mut self, body: Body) -> Inode {
        let inode = Inode(self.inode_next);
        self.inode_next += 1;
        self.inodes.insert(inode, body);
        inode
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.inodes, &change, View::Written);
        let seq = self.seq_take();
        self.dir_ops.push(DirOp { seq, change });
    }

    fn seq_take(&mut self) -> u64 {
        self.seq_next += 1;
        self.seq_next - 1
    }

    /// Opens a file; `create` makes it if absent, `create_new` insists on that.
    pub fn open(&mut self, path: &str, create: bool, create_new: bool) -> Result<Inode, DiskError> {
        let inode = match self.resolve(path) {
            Ok(_) if create_new => return Err(DiskError::Exists),
            Ok(inode) => inode,
            Err(DiskError::NotFound) if create || create_new => {
                let (dir, name) = self.parent(path)?;
                let name = name.to_string();
                let inode = self.inode_new(Body::File(FileBody::default()));
                self.change(Change::Link { dir, name, inode });
                inode
            }
            Err(e) => return Err(e),
        };
        match self.inodes.get_mut(&inode) {
            Some(Body::File(file)) => file.opens += 1,
            _ => return Err(DiskError::IsADirectory),
        }
        Ok(inode)
    }

    /// Ends one `open`. An unlinked file's space is free after its last one.
    pub fn close(&mut self, inode: Inode) {
        let file = self.file_mut(inode);
        file.opens -= 1;
        if file.opens == 0 {
            self.collect();
        }
    }

    pub fn create_dir(&mut self, path: &str) -> Result<(), DiskError> {
        if self.resolve(path).is_ok() {
            return Err(DiskError::Exists);
        }
        let (dir, name) = self.parent(path)?;
        let name = name.to_string();
        let inode = self.inode_new(Body::Dir(DirBody::default()));
        self.change(Change::Link { dir, name, inode });
        Ok(())
    }

    /// The names in a directory, sorted.
    pub fn read_dir(&self, path: &str) -> Result<Vec<String>, DiskError> {
        let dir = self.dir(self.resolve(path)?)?;
        Ok(dir.written.keys().cloned().collect())
    }

    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path).is_ok()
    }

    pub fn remove_file(&mut self, path: &str) -> Result<(), DiskError> {
        let inode = self.resolve(path)?;
        if matches!(self.inodes[&inode], Body::Dir(_)) {
            return Err(DiskError::IsADirectory);
        }
        let (dir, name) = self.parent(path)?;
        let name = name.to_string();
        self.change(Change::Unlink { dir, name });
        self.collect();
        Ok(())
    }

    /// Replaces an existing file at `to`, as rename(2) does.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let inode = self.resolve(from)?;
        let (from_dir, from) = self.parent(from)?;
        let (to_dir, to) = self.parent(to)?;
        if let Some(target) = self.dir(to_dir)?.written.get(to)
            && matches!(self.inodes[target], Body::Dir(_))
        {
            return Err(DiskError::IsADirectory);
        }
        let (from, to) = (from.to_string(), to.to_string());
        if (from_dir, &from) == (to_dir, &to) {
            return Ok(());
        }
        self.change(Change::Rename {
            from_dir,
            from,
            to_dir,
            to,
            inode,
        });
        self.collect();
        Ok(())
    }

    /// What a directory sync submitted now will cover.
    pub fn sync_dir_mark(&self, path: &str) -> Result<(Inode, SyncMark), DiskError> {
        let inode = self.resolve(path)?;
        self.dir(inode)?;
        Ok((inode, self.mark(0)))
    }

    /// Makes the directory's entries durable that changed before `mark`, and with them what those
    /// changes built upon: a rename drags in earlier changes of the directory it came from.
    pub fn sync_dir_finish(&mut self, inode: Inode, mark: SyncMark) {
        let mut dirs = BTreeSet::from([inode]);
        let mut taken = vec![false; self.dir_ops.len()];
        for (i, op) in self.dir_ops.iter().enumerate().rev() {
            let [a, b] = op.change.dirs();
            if op.seq < mark.seq && (dirs.contains(&a) || dirs.contains(&b)) {
                dirs.extend([a, b]);
                taken[i] = true;
            }
        }
        let mut taken = taken.into_iter();
        let inodes = &mut self.inodes;
        self.dir_ops.retain(|op| {
            let take = taken.next() == Some(true);
            if take {
                apply(inodes, &op.change, View::Durable);
            }
            !take
        });
        self.collect();
    }

    /// Mark and finish in one: for tests and for callers without a clock.
    pub fn sync_dir(&mut self, path: &str) -> Result<(), DiskError> {
        let (inode, mark) = self.sync_dir_mark(path)?;
        self.sync_dir_finish(inode, mark);
        Ok(())
    }

    // ---- bytes

    pub fn len(&self, inode: Inode) -> u64 {
        self.file(inode).size
    }

    /// Fills `out` from `offset` as far as the file reaches; returns how many bytes that are.
    pub fn read(&self, inode: Inode, offset: u64, out: &mut [u8]) -> Result<usize, DiskError> {
        let file = self.file(inode);
        let n = file.size.saturating_sub(offset).min(out.len() as u64) as usize;
        let end = offset + n as u64;
        let sectors = offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE);
        if n > 0 && file.unreadable.range(sectors).next().is_some() {
            return Err(DiskError::Unreadable);
        }
        file.read(offset, &mut out[..n]);
        Ok(n)
    }

    /// Grows the file to `size` in the written view and charges the drive for it.
    fn grow(&mut self, inode: Inode, size: u64) -> Result<(), DiskError> {
        let file = self.file(inode);
        if size <= file.size {
            return Ok(());
        }
        let more = size.next_multiple_of(PAGE_SIZE) - file.charged();
        if more > self.free_bytes() {
            return Err(DiskError::NoSpace);
        }
        self.used += more;
        self.file_mut(inode).size = size;
        Ok(())
    }

    /// A completed write: readable, not durable.
    pub fn write(&mut self, inode: Inode, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset + data.len() as u64;
        self.grow(inode, end)?;
        let seq = self.seq_take();
        let file = self.file_mut(inode);
        let sectors = offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE);
        if !file.unreadable.is_empty() {
            // A drive remaps an unreadable sector when it is written.
            file.unreadable.retain(|s| !sectors.contains(s));
        }
        if !file.ghosts.is_empty() {
            file.bury_ghosts(seq, offset, end);
        }
        file.pending.push_back(Pending {
            seq,
            offset,
            bytes: Bytes::of(data),
        });
        Ok(())
    }

    /// fallocate(2), mode 0: the file is at least `len` bytes long and its space is reserved.
    pub fn allocate(&mut self, inode: Inode, len: u64) -> Result<(), DiskError> {
        self.grow(inode, len)
    }

    fn mark(&self, size: u64) -> SyncMark {
        SyncMark {
            seq: self.seq_next,
            size,
        }
    }

    /// What a sync of this file submitted now will cover: the writes completed so far.
    pub fn sync_mark(&self, inode: Inode) -> SyncMark {
        self.mark(self.file(inode).size)
    }

    /// A successful fdatasync, submitted at `mark`: its writes are durable.
    pub fn sync_data_finish(&mut self, inode: Inode, mark: SyncMark) {
        let file = self.file_mut(inode);
        while file.pending.front().is_some_and(|w| w.seq < mark.seq) {
            let Some(write) = file.pending.pop_front() else {
                break;
            };
            file.durable_size = file.durable_size.max(write.end());
            if let Some((start, part)) = write.overlap(0, u64::MAX) {
                file.durable.write(start, part);
            }
        }
    }

    /// A successful fsync: also the size is durable.
    pub fn sync_all_finish(&mut self, inode: Inode, mark: SyncMark) {
        self.sync_data_finish(inode, mark);
        let file = self.file_mut(inode);
        file.durable_size = file.durable_size.max(mark.size);
    }

    /// A failed sync: the writes that it covered count as clean from now on. Each is either lost
    /// at once or still readable without ever becoming durable.
    pub fn sync_fail(&mut self, inode: Inode, mark: SyncMark, rng: &mut Rng) {
        let file = self.file_mut(inode);
        while file.pending.front().is_some_and(|w| w.seq < mark.seq) {
            let Some(write) = file.pending.pop_front() else {
                break;
            };
            if rng.coin() {
                continue;
            }
            for sector in write.offset / SECTOR_SIZE..write.end().div_ceil(SECTOR_SIZE) {
                let at = sector * SECTOR_SIZE;
                let Some((start, part)) = write.overlap(at, at + SECTOR_SIZE) else {
                    continue;
                };
                let durable = &file.durable;
                let ghost = file.ghosts.entry(sector).or_insert_with(|| {
                    let mut old = Box::new([0; SECTOR]);
                    durable.read(at, &mut old[..]);
                    old
                });
                let within = (start - at) as usize;
                part.copy_to(&mut ghost[within..within + part.len()]);
            }
        }
    }

    /// How many completed writes of the file are not durable.
    pub fn unflushed(&self, inode: Inode) -> usize {
        self.file(inode).pending.len()
    }

    // ---- faults

    /// Another place of the same file for a write of `len` bytes to land on: aligned to the page,
    /// inside the file. None if the file has no other place.
    pub fn misdirect(&self, inode: Inode, offset: u64, len: u64, rng: &mut Rng) -> Option<u64> {
        let places = self.file(inode).size.checked_sub(len)? / PAGE_SIZE + 1;
        let to = rng.below(places) * PAGE_SIZE;
        (to != offset).then_some(to)
    }

    /// Damages one durable sector somewhere on the drive: a flipped bit, a sector of garbage, or a
    /// sector of zeros. None on a drive without durable bytes.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<Rot> {
        let pages = |body: &Body| match body {
            Body::File(file) => file.durable.0.len() as u64,
            Body::Dir(_) => 0,
        };
        let total: u64 = self.inodes.values().map(pages).sum();
        let mut nth = rng.below(total);
        let kind = rng.below(3);
        let sector = rng.below(PAGE_SIZE / SECTOR_SIZE);
        let (&inode, body) = self.inodes.iter_mut().find(|(_, body)| {
            let n = pages(body);
            let here = nth < n;
            if !here {
                nth -= n;
            }
            here
        })?;
        let Body::File(file) = body else { return None };
        let (&page, bytes) = file.durable.0.iter_mut().nth(nth as usize)?;
        let from = (sector * SECTOR_SIZE) as usize;
        damage(&mut bytes[from..from + SECTOR], kind, rng);
        Some(Rot {
            inode,
            offset: page * PAGE_SIZE + from as u64,
        })
    }

    /// Damages the durable sectors that `offset..offset + len` touches, at least one bit of each.
    pub fn rot_at(&mut self, inode: Inode, offset: u64, len: u64, rng: &mut Rng) {
        let file = self.file_mut(inode);
        for sector in offset / SECTOR_SIZE..(offset + len).div_ceil(SECTOR_SIZE) {
            let mut bytes = [0; SECTOR];
            file.durable.read(sector * SECTOR_SIZE, &mut bytes);
            let kind = rng.below(3);
            damage(&mut bytes, kind, rng);
            file.durable.write(sector * SECTOR_SIZE, Part::Data(&bytes));
        }
    }

    /// Reads that touch `offset..offset + len` fail until the sectors are overwritten.
    pub fn make_unreadable(&mut self, inode: Inode, offset: u64, len: u64) {
        self.file_mut(inode)
            .unreadable
            .extend(offset / SECTOR_SIZE..(offset + len).div_ceil(SECTOR_SIZE));
    }

    /// The file at `path`, without opening it: for faults aimed at a place.
    pub fn file_at(&self, path: &str) -> Result<Inode, DiskError> {
        let inode = self.resolve(path)?;
        match self.inodes[&inode] {
            Body::File(_) => Ok(inode),
            Body::Dir(_) => Err(DiskError::IsADirectory),
        }
    }

    /// The process is gone: its handles are closed, everything written stays written.
    pub fn close_all(&mut self) {
        for body in self.inodes.values_mut() {
            if let Body::File(file) = body {
                file.opens = 0;
            }
        }
        self.collect();
    }

    /// Power fails: what is not durable is decided, handles are gone, and what is left is both
    /// written and durable.
    pub fn power_cut(&mut self, mode: CutMode, rng: &mut Rng) {
        self.cut_names(mode, rng);
        self.cut_bytes(mode, rng);
        for body in self.inodes.values_mut() {
            match body {
                Body::File(file) => file.cut_end(mode, rng),
                Body::Dir(dir) => dir.written.clone_from(&dir.durable),
            }
        }
        self.collect();
    }

    fn cut_names(&mut self, mode: CutMode, rng: &mut Rng) {
        let ops = std::mem::take(&mut self.dir_ops);
        let upto = match mode {
            CutMode::LoseAll => 0,
            CutMode::KeepAll | CutMode::PerSector | CutMode::PerWrite => ops.len(),
            // A journal: changes become durable in order.
            CutMode::InOrder | CutMode::Reordered => rng.below(ops.len() as u64 + 1) as usize,
        };
        for op in &ops[..upto] {
            let keep = match mode {
                CutMode::PerSector | CutMode::PerWrite => rng.coin(),
                _ => true,
            };
            if keep {
                apply(&mut self.inodes, &op.change, View::Durable);
            }
        }
    }

    fn cut_bytes(&mut self, mode: CutMode, rng: &mut Rng) {
        // The writes of the whole drive, since order is the drive's and not the file's.
        let mut writes: Vec<(Inode, Pending)> = Vec::new();
        for (&inode, body) in &mut self.inodes {
            if let Body::File(file) = body {
                let pending = std::mem::take(&mut file.pending);
                if mode == CutMode::PerSector {
                    file.cut_per_sector(pending, rng);
                } else {
                    // The size is still to be decided, among durable, written and these ends.
                    file.draw_size(mode, pending.iter().map(Pending::end), rng);
                    writes.extend(pending.into_iter().map(|w| (inode, w)));
                }
            }
        }
        writes.sort_by_key(|(_, w)| w.seq);
        if mode == CutMode::Reordered {
            rng.shuffle(&mut writes);
        }
        let whole = match mode {
            CutMode::InOrder | CutMode::Reordered => rng.below(writes.len() as u64 + 1) as usize,
            _ => writes.len(),
        };
        for (i, (inode, write)) in writes.iter().enumerate() {
            let sectors = write.end().div_ceil(SECTOR_SIZE) - write.offset / SECTOR_SIZE;
            let torn = rng.below(sectors + 1);
            let kept = match mode {
                CutMode::LoseAll => 0,
                CutMode::KeepAll | CutMode::PerSector => sectors,
                CutMode::PerWrite => match rng.below(3) {
                    0 => 0,
                    1 => sectors,
                    _ => torn,
                },
                CutMode::InOrder | CutMode::Reordered => match i.cmp(&whole) {
                    std::cmp::Ordering::Less => sectors,
                    std::cmp::Ordering::Equal => torn,
                    std::cmp::Ordering::Greater => 0,
                },
            };
            let to = (write.offset / SECTOR_SIZE + kept) * SECTOR_SIZE;
            if let Some((start, part)) = write.overlap(0, to) {
                self.file_mut(*inode).durable.write(start, part);
            }
        }
    }

    /// Forgets inodes that neither view of the namespace, no pending change and no handle reaches,
    /// and recounts the space of those that the written view or a handle reaches.
    fn collect(&mut self) {
        let mut written = BTreeSet::new();
        self.reach(ROOT, View::Written, &mut written);
        // A directory is walked in each view by itself: its children may differ.
        let mut kept_written = written.clone();
        let mut kept_durable = BTreeSet::new();
        self.reach(ROOT, View::Durable, &mut kept_durable);
        for op in &self.dir_ops {
            if let Change::Link { inode, .. } | Change::Rename { inode, .. } = op.change {
                self.reach(inode, View::Written, &mut kept_written);
                self.reach(inode, View::Durable, &mut kept_durable);
            }
        }
        let kept = &kept_written | &kept_durable;
        let mut used = 0;
        self.inodes.retain(|inode, body| match body {
            Body::File(file) => {
                if written.contains(inode) || file.opens > 0 {
                    used += file.charged();
                }
                kept.contains(inode) || file.opens > 0
            }
            Body::Dir(_) => kept.contains(inode),
        });
        self.used = used;
    }

    fn reach(&self, from: Inode, view: View, into: &mut BTreeSet<Inode>) {
        if !into.insert(from) {
            return;
        }
        if let Some(Body::Dir(dir)) = self.inodes.get(&from) {
            let names = match view {
                View::Written => &dir.written,
                View::Durable => &dir.durable,
            };
            for &child in names.values() {
                self.reach(child, view, into);
            }
        }
    }

    /// A hash of everything durable and written: for determinism tests.
    pub fn digest(&self) -> u64 {
        let mut h = FNV_START;
        for (inode, body) in &self.inodes {
            h = fnv(h, &inode.0.to_le_bytes());
            match body {
                Body::Dir(dir) => {
                    for (name, child) in dir.written.iter().chain(&dir.durable) {
                        h = fnv(h, name.as_bytes());
                        h = fnv(h, &child.0.to_le_bytes());
                    }
                }
                Body::File(file) => {
                    h = fnv(h, &file.size.to_le_bytes());
                    h = fnv(h, &file.durable_size.to_le_bytes());
                    for (index, page) in &file.durable.0 {
                        h = fnv(h, &index.to_le_bytes());
                        h = fnv(h, &page[..]);
                    }
                    for write in &file.pending {
                        h = fnv(h, &write.offset.to_le_bytes());
                        if let Bytes::Data(data) = &write.bytes {
                            h = fnv(h, data);
                        }
                    }
                }
            }
        }
        h
    }
}

impl FileBody {
    /// Takes the ghosts under a new write away. Of a sector that the write covers in part, the ghost
    /// becomes dirty again, as a page does whose rest the page cache still holds.
    fn bury_ghosts(&mut self, seq: u64, offset: u64, end: u64) {
        for sector in offset / SECTOR_SIZE..end.div_ceil(SECTOR_SIZE) {
            let from = sector * SECTOR_SIZE;
            if let Some(ghost) = self.ghosts.remove(&sector)
                && (from < offset || end < from + SECTOR_SIZE)
            {
                self.pending.push_back(Pending {
                    seq,
                    offset: from,
                    bytes: Bytes::Data(ghost),
                });
            }
        }
    }

    /// Each unflushed sector keeps the version of the durable page or of any write since.
    fn cut_per_sector(&mut self, pending: VecDeque<Pending>, rng: &mut Rng) {
        self.draw_size(CutMode::PerSector, pending.iter().map(Pending::end), rng);
        let mut versions: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (i, write) in pending.iter().enumerate() {
            for sector in write.offset / SECTOR_SIZE..write.end().div_ceil(SECTOR_SIZE) {
                versions.entry(sector).or_default().push(i);
            }
        }
        for (sector, writes) in versions {
            // Version n holds the first n writes: a page cache lays parts of a sector over each
            // other before the drive sees it; of whole-sector writes only the last remains.
            let n = rng.below(writes.len() as u64 + 1) as usize;
            for &i in &writes[..n] {
                let at = sector * SECTOR_SIZE;
                if let Some((start, part)) = pending[i].overlap(at, at + SECTOR_SIZE) {
                    self.durable.write(start, part);
                }
            }
        }
    }

    /// Decides the size that a cut leaves; all bytes from there on are gone.
    fn draw_size(&mut self, mode: CutMode, ends: impl Iterator<Item = u64>, rng: &mut Rng) {
        let candidates: Vec<u64> = ends
            .chain([self.size])
            .filter(|&end| end > self.durable_size)
            .collect();
        let drawn = rng.below(2 * candidates.len() as u64 + 1) as usize;
        self.durable_size = match mode {
            CutMode::LoseAll => self.durable_size,
            CutMode::KeepAll => self.size,
            // Half of the cuts keep the full size, the rest any other, the durable one included.
            _ if drawn > candidates.len() => self.size,
            _ => candidates.get(drawn).copied().unwrap_or(self.durable_size),
        };
    }

    fn cut_end(&mut self, mode: CutMode, rng: &mut Rng) {
        for (sector, ghost) in std::mem::take(&mut self.ghosts) {
            let keep = match mode {
                CutMode::LoseAll => false,
                CutMode::KeepAll => true,
                _ => rng.coin(),
            };
            if keep {
                self.durable
                    .write(sector * SECTOR_SIZE, Part::Data(&ghost[..]));
            }
        }
        self.durable.truncate(self.durable_size);
        self.size = self.durable_size;
        self.opens = 0;
    }
}

#[derive(Clone, Copy)]
enum View {
    Written,
    Durable,
}

fn apply(inodes: &mut BTreeMap<Inode, Body>, change: &Change, view: View) {
    let mut names = |dir: &Inode, act: &mut dyn FnMut(&mut BTreeMap<String, Inode>)| {
        if let Some(Body::Dir(dir)) = inodes.get_mut(dir) {
            act(match view {
                View::Written => &mut dir.written,
                View::Durable => &mut dir.durable,
            });
        }
    };
    match change {
        Change::Link { dir, name, inode } => names(dir, &mut |d| {
            d.insert(name.clone(), *inode);
        }),
        Change::Unlink { dir, name } => names(dir, &mut |d| {
            d.remove(name);
        }),
        Change::Rename {
            from_dir,
            from,
            to_dir,
            to,
            inode,
        } => {
            names(from_dir, &mut |d| {
                if d.get(from) == Some(inode) {
                    d.remove(from);
                }
            });
            names(to_dir, &mut |d| {
                d.insert(to.clone(), *inode);
            });
        }
    }
}

fn damage(sector: &mut [u8], kind: u64, rng: &mut Rng) {
    let bit = rng.below(sector.len() as u64 * 8) as usize;
    match kind {
        0 => {}
        1 => rng.fill(sector),
        _ => sector.fill(0),
    }
    // Also over garbage and zeros, so that a damaged sector of zeros differs from before.
    sector[bit / 8] ^= 1 << (bit % 8);
}

fn all_zero(data: &[u8]) -> bool {
    // Looks at the first bytes and then compares the rest with its own predecessor, which the
    // library does with vector instructions.
    let head = data.len().min(16);
    data[..head].iter().all(|&b| b == 0) && data[head..] == data[..data.len() - head]
}

#[cfg(test)]
mod tests;
