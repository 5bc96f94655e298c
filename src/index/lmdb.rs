//! The LMDB store of a volume's index: one environment, one unnamed database.
//!
//! Threads: the core thread holds the read transaction and does every lookup; write transactions,
//! the check of the file and `reserve` run on helper threads. No read touches a lock, because the
//! read transaction stays open from one checkpoint to the next. That delays no page reuse: a
//! writer leaves alone what the newest snapshot can reach anyway, and `refresh` moves to the new
//! one as soon as the checkpoint is committed.
//!
//! What survives a crash: every committed transaction. LMDB writes new pages, flushes them, then
//! writes one meta page with O_DSYNC, none of the flags that weaken this are set.
//!
//! This file alone of `index` may use unsafe code: opening a map, and three libc calls.
#![allow(unsafe_code)]

use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions, MdbError, PutFlags, RoTxn, WithoutTls};
use std::cell::{Ref, RefCell};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use super::memory::MemoryTable;
use super::merge::Layer;
use super::{FULL_KEY_BYTES_MAX, IndexError, damage};

/// Address space for the map, fixed because growing it would need all transactions closed. It
/// costs no memory and no disk. 512 GiB hold about 1.7 G entries of 300 bytes, beyond what one
/// volume's drive share can name, and 47 bits of user address space hold 256 such maps.
#[cfg(target_pointer_width = "64")]
pub const MAP_BYTES: usize = 512 << 30;
#[cfg(not(target_pointer_width = "64"))]
compile_error!("the index maps 512 GiB of address space");

/// Reader slots: the core's own, and lookups on helper threads.
const READERS_MAX: u32 = 64;

pub const DATA_FILE: &str = "data.mdb";
pub const LOCK_FILE: &str = "lock.mdb";

pub type ReadTxn = RoTxn<'static, WithoutTls>;

/// The half that helper threads may use.
#[derive(Clone)]
pub struct Writer {
    env: Env<WithoutTls>,
    db: Database<Bytes, Bytes>,
}

pub struct LmdbStore {
    txn: RefCell<ReadTxn>,
    writer: Writer,
}

/// Opens or creates the environment; runs on a helper thread. A new one is durable (file,
/// directory and its entry in the parent) before this returns.
pub fn open_env(path: &Path) -> Result<Writer, IndexError> {
    let found = damage::check(path)?;
    if found == damage::Found::Absent {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("create", &e)),
        }
    }
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES).max_readers(READERS_MAX);
    // SAFETY: the map is only sound while nothing but LMDB changes the file. The volume's owner
    // holds the data directory's exclusive lock, no other code of this process writes below the
    // environment's directory, and `damage::check` has just shown that every page the map will
    // reach is inside the file and well-formed (index::damage tests).
    let env = unsafe { options.open(path) }.map_err(|e| error("open", &e))?;
    if env.max_key_size() < FULL_KEY_BYTES_MAX {
        // The page size belongs to the file, so this is one from a machine with smaller pages.
        return Err(IndexError::Damaged {
            during: "open",
            reason: format!("page size allows keys of {} bytes only", env.max_key_size()),
        });
    }
    if found == damage::Found::Absent {
        env.force_sync().map_err(|e| error("create", &e))?;
        sync_dir(path)?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
    }
    let txn = env.read_txn().map_err(|e| error("open", &e))?;
    let db = env
        .open_database(&txn, None)
        .map_err(|e| error("open", &e))?;
    txn.commit().map_err(|e| error("open", &e))?;
    let db = db.ok_or_else(|| IndexError::Damaged {
        during: "open",
        reason: "no main database".to_owned(),
    })?;
    Ok(Writer { env, db })
}

fn sync_dir(path: &Path) -> Result<(), IndexError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| io_error("create", &e))
}

/// Removes the environment's files and its directory; absent ones are no error.
pub fn destroy(path: &Path) -> Result<(), IndexError> {
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("destroy", &e)),
        _ => Ok(()),
    };
    if let Ok(canonical) = path.canonicalize()
        && heed::env_closing_event(canonical).is_some()
    {
        return Err(IndexError::Busy);
    }
    absent_is_fine(fs::remove_file(path.join(DATA_FILE)))?;
    absent_is_fine(fs::remove_file(path.join(LOCK_FILE)))?;
    absent_is_fine(fs::remove_dir(path))?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => absent_is_fine(File::open(parent).and_then(|dir| dir.sync_all())),
        None => Ok(()),
    }
}

impl LmdbStore {
    pub fn new(writer: Writer) -> Result<Self, IndexError> {
        let txn = writer.snapshot()?;
        Ok(LmdbStore {
            txn: RefCell::new(txn),
            writer,
        })
    }

    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    pub fn get<R>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, IndexError> {
        let txn = self.txn.borrow();
        match self.writer.db.get(&txn, key) {
            Ok(value) => Ok(value.map(f)),
            Err(e) => Err(error("get", &e)),
        }
    }

    /// The snapshot reads go to; `layer` makes it one of a scan's layers.
    pub fn snapshot(&self) -> Ref<'_, ReadTxn> {
        self.txn.borrow()
    }

    pub fn layer<'a>(&self, txn: &'a ReadTxn) -> Layer<'a> {
        Layer::Lmdb {
            db: self.writer.db,
            txn,
        }
    }

    /// Moves the reads to the newest committed transaction. On an error they stay where they were.
    pub fn refresh(&self) -> Result<(), IndexError> {
        let newest = self.writer.snapshot()?;
        // Drops the old one: no borrow is alive, since none outlives a call of `get` or `scan`, and those cannot
        // be waiting now.
        *self.txn.borrow_mut() = newest;
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.writer.db.is_empty(&self.txn.borrow()).unwrap_or(false)
    }

    /// What a checkpoint of `entries` changes with `bytes` of keys and values can add to the file
    /// at most: every change may copy a leaf and its path, new rows may split leaves in halves, a
    /// value too large for a leaf takes whole pages, and the list of freed pages grows along.
    pub fn growth_bytes_max(&self, entries: usize, bytes: usize) -> Result<u64, IndexError> {
        let stat = self
            .writer
            .db
            .stat(&self.txn.borrow())
            .map_err(|e| error("stat", &e))?;
        let page = u64::from(stat.page_size);
        let (entries, bytes) = (entries as u64, bytes as u64);
        let copied_leaves = entries.min(stat.leaf_pages as u64);
        let copied_branches = (entries * u64::from(stat.depth)).min(stat.branch_pages as u64);
        let new_pages = 3 * bytes.div_ceil(page);
        let copied = copied_leaves + copied_branches;
        // 8 bytes a freed page, kept as a list in pages of its own, rewritten once.
        let free_list = 2 * (copied * 8).div_ceil(page);
        Ok((copied + new_pages + free_list + GROWTH_SLACK_PAGES) * page)
    }

    pub fn file_bytes(&self) -> Result<u64, IndexError> {
        self.writer
            .env
            .real_disk_size()
            .map_err(|e| error("stat", &e))
    }
}

/// Roots, the free list's own path, and a level more in either tree.
const GROWTH_SLACK_PAGES: u64 = 16;

impl Writer {
    fn snapshot(&self) -> Result<ReadTxn, IndexError> {
        self.env
            .clone()
            .static_read_txn()
            .map_err(|e| error("read", &e))
    }

    /// Writes the table in key order in one synchronous transaction. On an error the transaction
    /// is void and the file means what it meant before.
    pub fn commit(&self, table: &MemoryTable) -> Result<(), IndexError> {
        self.commit_inner(table).map_err(|e| match e {
            // LMDB turns a short write into EIO, but a write is also short when it was the one
            // that filled the drive, and that must not pass for a broken drive.
            IndexError::Io {
                errno: Some(libc::EIO),
                ..
            } if matches!(
                self.reserve(table.bytes() as u64 + PROBE_BYTES),
                Err(IndexError::Full { .. })
            ) =>
            {
                IndexError::Full {
                    during: "checkpoint",
                }
            }
            e => e,
        })
    }

    fn commit_inner(&self, table: &MemoryTable) -> Result<(), IndexError> {
        let failed = |e: heed::Error| error("checkpoint", &e);
        let mut txn = self.env.write_txn().map_err(failed)?;
        if self.db.is_empty(&txn).map_err(failed)? {
            // A rebuild starts here: appended leaves are full instead of half full.
            for (key, change) in table.iter() {
                if let Some(value) = change {
                    self.db
                        .put_with_flags(&mut txn, PutFlags::APPEND, key, value)
                        .map_err(failed)?;
                }
            }
        } else {
            for (key, change) in table.iter() {
                match change {
                    Some(value) => self.db.put(&mut txn, key, value).map_err(failed)?,
                    None => {
                        self.db.delete(&mut txn, key).map_err(failed)?;
                    }
                }
            }
        }
        txn.commit().map_err(failed)
    }

    /// Makes sure that the file can grow by `bytes`: allocates blocks behind its used end without
    /// changing its size. Also fills holes, which LMDB leaves where a page was freed before it was
    /// ever written. Where the file system cannot preallocate (or copies on write, as btrfs does),
    /// this only tells whether that much is free now.
    pub fn reserve(&self, bytes: u64) -> Result<(), IndexError> {
        let file = self
            .env
            .try_clone_inner_file()
            .map_err(|e| error("reserve", &e))?;
        let info = self.env.info();
        let page_bytes = u64::from(self.env.stat().page_size);
        let used = (info.last_page_number as u64 + 1) * page_bytes;
        let end = used.saturating_add(bytes);
        if end > file_bytes_max().min(MAP_BYTES as u64) {
            return Err(IndexError::Full { during: "reserve" });
        }
        let end = libc::off_t::try_from(end).map_err(|_| IndexError::Full { during: "reserve" })?;
        loop {
            // SAFETY: `file` is an open descriptor for the whole call, and with KEEP_SIZE the call
            // changes neither the file's size nor any byte that a mapping shows.
            let rc =
                unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, end) };
            if rc == 0 {
                return Ok(());
            }
            let e = io::Error::last_os_error();
            match e.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => return free_at_least(&file, bytes),
                _ => return Err(io_error("reserve", &e)),
            }
        }
    }
}

/// Room asked for when a failed checkpoint wants to know whether the drive is full.
const PROBE_BYTES: u64 = 1 << 20;

/// The process's file size limit, which `fallocate` does not heed as long as the size stays.
fn file_bytes_max() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call writes only into `limit`.
    match unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => u64::MAX,
    }
}

fn free_at_least(file: &File, bytes: u64) -> Result<(), IndexError> {
    // SAFETY: `statvfs` is plain integers, for which zero is a value; the call writes only into it
    // and `file` is open.
    let free = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::fstatvfs(file.as_raw_fd(), &mut stat) != 0 {
            return Err(io_error("reserve", &io::Error::last_os_error()));
        }
        stat.f_bavail.saturating_mul(stat.f_frsize)
    };
    if free >= bytes {
        Ok(())
    } else {
        Err(IndexError::Full { during: "reserve" })
    }
}

pub fn io_error(during: &'static str, e: &io::Error) -> IndexError {
    match e.raw_os_error() {
        // EFBIG: the file size limit of the process or the file system.
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => IndexError::Full { during },
        errno => IndexError::Io {
            during,
            kind: e.kind(),
            errno,
        },
    }
}

fn damaged(e: &heed::Error) -> Option<String> {
    match e {
        heed::Error::Mdb(
            e @ (MdbError::Invalid
            | MdbError::VersionMismatch
            | MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::CursorFull
            | MdbError::Incompatible
            | MdbError::BadTxn
            | MdbError::Problem),
        ) => Some(e.to_string()),
        _ => None,
    }
}

pub fn error(during: &'static str, e: &heed::Error) -> IndexError {
    match e {
        heed::Error::Mdb(MdbError::MapFull) => IndexError::Full { during },
        heed::Error::Mdb(MdbError::Panic) => IndexError::Poisoned,
        heed::Error::Mdb(MdbError::Other(errno)) => {
            io_error(during, &io::Error::from_raw_os_error(*errno))
        }
        heed::Error::Io(e) => io_error(during, e),
        heed::Error::EnvAlreadyOpened => IndexError::Busy,
        e => match damaged(e) {
            Some(reason) => IndexError::Damaged { during, reason },
            None => IndexError::Io {
                during,
                kind: io::ErrorKind::Other,
                errno: None,
            },
        },
    }
}

/// What crosses to the helper thread must be safe to send; the read transaction is not among it.
const _: () = {
    const fn sent<T: Send>() {}
    sent::<Writer>();
    sent::<Arc<MemoryTable>>();
};
