//! Files and the calls on the file system.
//!
//! Reads, writes and flushes are operations of the driver. Opens and directory calls block, so in
//! production they run on a helper thread.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::buf::Buf;
use super::executor::{current, with_core, yield_now};
use super::fault::{self, Effect, FaultOp};
use super::offload::offload;
use super::ops::{FsCall, FsReply, Op, RawFile};

/// Buffers of one vectored call: what the kernel takes (IOV_MAX).
pub const VECTOR_MAX: usize = 1024;
/// The unit in which O_DIRECT continues after a short transfer.
const SECTOR: usize = 512;

/// How to open. All off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    pub read: bool,
    pub write: bool,
    /// Create the file if it is absent.
    pub create: bool,
    /// Create the file; fail if it exists.
    pub create_new: bool,
    /// O_DIRECT: buffers, offsets and lengths in multiples of the sector.
    pub direct: bool,
}

/// An open file as operations hold it.
pub struct FileHandle {
    raw: RawFile,
    path: PathBuf,
    direct: bool,
}

impl FileHandle {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The `sim` driver's number of this file.
    pub fn sim(&self) -> u64 {
        match self.raw {
            RawFile::Sim(id) => id,
            RawFile::Fd(_) => panic!("a file of the system in simulation"),
        }
    }

    pub(in crate::rt) fn fd(&self) -> RawFd {
        match &self.raw {
            RawFile::Fd(fd) => fd.as_raw_fd(),
            RawFile::Sim(_) => panic!("a simulated file in production"),
        }
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if let RawFile::Sim(id) = self.raw {
            with_core(|core| {
                if let Some(core) = core {
                    core.close_simulated(id);
                }
            });
        }
    }
}

/// An open file. Clones share it; it closes when the last is gone and no operation is in flight.
#[derive(Clone)]
pub struct File {
    handle: Rc<FileHandle>,
}

impl File {
    pub async fn open(path: &Path, options: OpenOptions) -> io::Result<File> {
        match call(FsCall::Open {
            path: path.into(),
            options,
        })
        .await?
        {
            FsReply::Opened(raw) => Ok(File {
                handle: Rc::new(FileHandle {
                    raw,
                    path: path.into(),
                    direct: options.direct,
                }),
            }),
            other => unreachable!("{other:?} answers no open"),
        }
    }

    /// A file of the system that is open already (a pipe, say).
    pub fn from_fd(fd: OwnedFd) -> File {
        let handle = FileHandle {
            raw: RawFile::Fd(fd),
            path: PathBuf::new(),
            direct: false,
        };
        File {
            handle: Rc::new(handle),
        }
    }

    pub fn path(&self) -> &Path {
        &self.handle.path
    }

    #[cfg(test)]
    pub(in crate::rt) fn handle(&self) -> Rc<FileHandle> {
        self.handle.clone()
    }

    /// One attempt at `buf[from..to]`: returns how many bytes came, 0 at the end of the file.
    pub async fn read_some_at(
        &self,
        buf: Buf,
        from: usize,
        to: usize,
        offset: u64,
    ) -> (io::Result<usize>, Buf) {
        assert!(from <= to && to <= buf.capacity());
        let op = Op::Read {
            file: self.handle.clone(),
            buf,
            from,
            to,
            offset,
        };
        let (op, outcome) = current().submit(op).await;
        let Op::Read { buf, .. } = op else {
            unreachable!("operations come back as they went")
        };
        (outcome.count(), buf)
    }

    /// Fills `buf[..len()]`. `UnexpectedEof` if the file ends before.
    pub async fn read_exact_at(&self, mut buf: Buf, offset: u64) -> (io::Result<()>, Buf) {
        let total = buf.len();
        let mut limit = match self.fault(FaultOp::Read, total).await {
            Ok(limit) => limit,
            Err(e) => return (Err(e.error), buf),
        };
        let mut done = 0;
        while done < total {
            let to = total.min(std::mem::replace(&mut limit, total));
            let (result, back) = self.read_some_at(buf, done, to, offset + done as u64).await;
            buf = back;
            match result {
                Ok(n) => {
                    done += n;
                    // O_DIRECT transfers end off a sector only at the end of the file.
                    let at_end =
                        n == 0 || (self.handle.direct && done < total && done % SECTOR != 0);
                    if at_end {
                        return (Err(io::ErrorKind::UnexpectedEof.into()), buf);
                    }
                }
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return (Err(e), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Writes `buf[..len()]`. After an error any part of it may be written.
    pub async fn write_all_at(&self, mut buf: Buf, offset: u64) -> (io::Result<()>, Buf) {
        let total = buf.len();
        let (mut limit, torn) = match self.fault(FaultOp::Write, total).await {
            Ok(limit) => (limit, None),
            Err(Faulted { error, written: 0 }) => return (Err(error), buf),
            Err(Faulted { error, written }) => (total, Some((error, written))),
        };
        let end = torn.as_ref().map_or(total, |&(_, written)| written);
        let mut done = 0;
        while done < end {
            let to = end.min(std::mem::replace(&mut limit, total));
            let offset = offset + done as u64;
            let op = Op::Write {
                file: self.handle.clone(),
                buf,
                from: done,
                to,
                offset,
            };
            let (op, outcome) = current().submit(op).await;
            let Op::Write { buf: back, .. } = op else {
                unreachable!("operations come back as they went")
            };
            buf = back;
            match outcome.count() {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buf),
                Ok(n) => done += n,
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return (Err(e), buf),
            }
        }
        (torn.map_or(Ok(()), |(error, _)| Err(error)), buf)
    }

    /// Writes the buffers (`[..len()]` of each), one after the other. After an error any part of
    /// them may be written.
    pub async fn write_all_vectored_at(
        &self,
        mut bufs: Vec<Buf>,
        offset: u64,
    ) -> (io::Result<()>, Vec<Buf>) {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let (limit, torn) = match self.fault(FaultOp::Write, total).await {
            Ok(limit) => (limit, None),
            Err(Faulted { error, written: 0 }) => return (Err(error), bufs),
            Err(Faulted { error, written }) => (written, Some(error)),
        };
        if limit < total {
            // A fault asked for a short or torn write: copy what it lets through.
            let mut done = 0;
            for buf in &bufs {
                let n = buf.len().min(limit - done);
                let mut part = Buf::alloc(n).await;
                part.copy_from_slice(&buf[..n]);
                if let (Err(e), _) = Box::pin(self.write_plain(part, offset + done as u64)).await {
                    return (Err(e), bufs);
                }
                done += n;
            }
            if let Some(error) = torn {
                return (Err(error), bufs);
            }
        }
        let mut done = if limit < total { limit } else { 0 };
        let (mut first, mut skip) = position(&bufs, done);
        while done < total {
            let op = Op::WriteVectored {
                file: self.handle.clone(),
                bufs,
                first,
                skip,
                offset: offset + done as u64,
                message: None,
            };
            let (op, outcome) = current().submit(op).await;
            let Op::WriteVectored { bufs: back, .. } = op else {
                unreachable!("operations come back as they went")
            };
            bufs = back;
            match outcome.count() {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), bufs),
                Ok(n) => {
                    done += n;
                    (first, skip) = position(&bufs, done);
                }
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return (Err(e), bufs),
            }
        }
        (Ok(()), bufs)
    }

    /// A write without faults.
    async fn write_plain(&self, mut buf: Buf, offset: u64) -> (io::Result<()>, Buf) {
        let (mut done, to) = (0, buf.len());
        while done < to {
            let offset = offset + done as u64;
            let op = Op::Write {
                file: self.handle.clone(),
                buf,
                from: done,
                to,
                offset,
            };
            let (op, outcome) = current().submit(op).await;
            let Op::Write { buf: back, .. } = op else {
                unreachable!("operations come back as they went")
            };
            buf = back;
            match outcome.count() {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buf),
                Ok(n) => done += n,
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return (Err(e), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Makes the data of every write that completed before this call durable (fdatasync), and the
    /// length with it. After an error it is unknown what is on the drive; do not try again.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.sync(true).await
    }

    /// As [`File::sync_data`], with all metadata.
    pub async fn sync_all(&self) -> io::Result<()> {
        self.sync(false).await
    }

    async fn sync(&self, data_only: bool) -> io::Result<()> {
        self.fault(FaultOp::Sync, 0).await.map_err(|e| e.error)?;
        loop {
            let op = Op::Sync {
                file: self.handle.clone(),
                data_only,
            };
            let (_, outcome) = current().submit(op).await;
            match outcome.count() {
                Ok(_) => return Ok(()),
                // Interrupted before it began; nothing was reported lost.
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => yield_now().await,
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives the file `len` bytes of reserved space (fallocate, mode 0) and at least that size.
    pub async fn allocate(&self, len: u64) -> io::Result<()> {
        self.fault(FaultOp::Allocate, 0)
            .await
            .map_err(|e| e.error)?;
        loop {
            let op = Op::Allocate {
                file: self.handle.clone(),
                len,
            };
            let (_, outcome) = current().submit(op).await;
            match outcome.count() {
                Ok(_) => return Ok(()),
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return Err(e),
            }
        }
    }

    pub async fn len(&self) -> io::Result<u64> {
        match &self.handle.raw {
            RawFile::Fd(fd) => {
                // On a local file system this reads the inode in memory; it does not block.
                // SAFETY: `stat` is plain data that the call fills in; the descriptor is open.
                let mut stat: libc::stat = unsafe { std::mem::zeroed() };
                // SAFETY: as above.
                check(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) })?;
                Ok(stat.st_size as u64)
            }
            RawFile::Sim(id) => match call(FsCall::Len { file: *id }).await? {
                FsReply::Len(n) => Ok(n),
                other => unreachable!("{other:?} answers no len"),
            },
        }
    }

    /// Applies the faults set for this path: `Ok(limit)` is how many bytes the first attempt may
    /// transfer.
    async fn fault(&self, op: FaultOp, total: usize) -> Result<usize, Faulted> {
        if !fault::armed() {
            return Ok(total);
        }
        let mut limit = total;
        for effect in fault::strike(&self.handle.path, op) {
            match effect {
                Effect::Slow(d) => super::sleep(d).await,
                Effect::Error(errno) => {
                    return Err(Faulted {
                        error: io::Error::from_raw_os_error(errno),
                        written: 0,
                    });
                }
                Effect::Short => {
                    let half = (total / 2).next_multiple_of(4096);
                    if half < total {
                        limit = half;
                    }
                }
                Effect::Torn { sectors } => {
                    return Err(Faulted {
                        error: io::Error::from_raw_os_error(libc::EIO),
                        written: total.min(sectors.saturating_mul(SECTOR)),
                    });
                }
            }
        }
        Ok(limit)
    }
}

struct Faulted {
    error: io::Error,
    /// Bytes of a write that get through before the error.
    written: usize,
}

/// Worth the same attempt again: nothing was transferred, nothing is wrong.
pub(in crate::rt) fn is_transient(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// The buffer, and the place in it, where byte `done` of all lies.
pub(in crate::rt) fn position(bufs: &[Buf], done: usize) -> (usize, usize) {
    let mut left = done;
    for (i, buf) in bufs.iter().enumerate() {
        if left < buf.len() {
            return (i, left);
        }
        left -= buf.len();
    }
    (bufs.len(), 0)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A call on the file system: by the helper threads, or by the simulation.
async fn call(call: FsCall) -> io::Result<FsReply> {
    let core = current();
    if core.is_sim() {
        let (op, outcome) = core.submit(Op::Fs { call, reply: None }).await;
        outcome.count()?;
        match op {
            Op::Fs {
                reply: Some(reply), ..
            } => reply,
            _ => unreachable!("a completed call has its answer"),
        }
    } else {
        offload(move || blocking(&call)).await
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The calls by the system. Blocks.
fn blocking(call: &FsCall) -> io::Result<FsReply> {
    use std::fs;
    match call {
        FsCall::Open { path, options } => {
            let mut flags = libc::O_CLOEXEC;
            flags |= match (options.read, options.write) {
                (_, false) => libc::O_RDONLY,
                (false, true) => libc::O_WRONLY,
                (true, true) => libc::O_RDWR,
            };
            if options.create_new {
                flags |= libc::O_CREAT | libc::O_EXCL;
            } else if options.create {
                flags |= libc::O_CREAT;
            }
            if options.direct {
                flags |= libc::O_DIRECT;
            }
            let path = c_path(path)?;
            loop {
                // SAFETY: the path is a C string; the result, if not negative, is a new descriptor.
                match check(unsafe { libc::open(path.as_ptr(), flags, 0o640) }) {
                    Ok(fd) => {
                        // SAFETY: nobody else knows the new descriptor.
                        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                        return Ok(FsReply::Opened(RawFile::Fd(fd)));
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        FsCall::Len { .. } => unreachable!("answered without a helper"),
        FsCall::CreateDir { path } => fs::create_dir(path).map(|()| FsReply::Unit),
        FsCall::ReadDir { path } => {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                let name = entry?.file_name().into_string();
                // Nothing of ours has such a name; but silence could hide what it is.
                names.push(name.map_err(|n| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{n:?} is not UTF-8"))
                })?);
            }
            Ok(FsReply::Names(names))
        }
        FsCall::SyncDir { path } => fs::File::open(path)?.sync_all().map(|()| FsReply::Unit),
        FsCall::RemoveFile { path } => fs::remove_file(path).map(|()| FsReply::Unit),
        FsCall::Rename { from, to } => fs::rename(from, to).map(|()| FsReply::Unit),
        FsCall::Exists { path } => fs::exists(path).map(FsReply::Exists),
        FsCall::FreeBytes { path } => {
            let path = c_path(path)?;
            // SAFETY: plain data that the call fills in; the path is a C string.
            let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            check(unsafe { libc::statvfs(path.as_ptr(), &mut stat) })?;
            Ok(FsReply::Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
        }
    }
}

/// Calls on directories and names.
pub mod fs {
    use super::*;

    async fn unit(what: FsCall) -> io::Result<()> {
        match call(what).await? {
            FsReply::Unit => Ok(()),
            other => unreachable!("{other:?} is no empty answer"),
        }
    }

    pub async fn create_dir(path: &Path) -> io::Result<()> {
        unit(FsCall::CreateDir { path: path.into() }).await
    }

    /// The names in a directory, sorted.
    pub async fn read_dir(path: &Path) -> io::Result<Vec<String>> {
        match call(FsCall::ReadDir { path: path.into() }).await? {
            FsReply::Names(mut names) => {
                names.sort_unstable();
                Ok(names)
            }
            other => unreachable!("{other:?} answers no read_dir"),
        }
    }

    /// Makes creations, removals and renames in a directory durable.
    pub async fn sync_dir(path: &Path) -> io::Result<()> {
        if fault::armed() {
            for effect in fault::strike(path, FaultOp::Sync) {
                match effect {
                    Effect::Slow(d) => crate::rt::sleep(d).await,
                    Effect::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Effect::Short | Effect::Torn { .. } => {}
                }
            }
        }
        unit(FsCall::SyncDir { path: path.into() }).await
    }

    pub async fn remove_file(path: &Path) -> io::Result<()> {
        unit(FsCall::RemoveFile { path: path.into() }).await
    }

    pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
        unit(FsCall::Rename {
            from: from.into(),
            to: to.into(),
        })
        .await
    }

    pub async fn exists(path: &Path) -> io::Result<bool> {
        match call(FsCall::Exists { path: path.into() }).await? {
            FsReply::Exists(yes) => Ok(yes),
            other => unreachable!("{other:?} answers no exists"),
        }
    }

    /// Bytes that the file system of `path` has left for us.
    pub async fn free_bytes(path: &Path) -> io::Result<u64> {
        match call(FsCall::FreeBytes { path: path.into() }).await? {
            FsReply::Bytes(n) => Ok(n),
            other => unreachable!("{other:?} answers no free_bytes"),
        }
    }

    /// A small file, whole. `InvalidData` if it is larger than `max`.
    pub async fn read_file(path: &Path, max: usize) -> io::Result<Vec<u8>> {
        let file = File::open(
            path,
            OpenOptions {
                read: true,
                ..Default::default()
            },
        )
        .await?;
        let len = file.len().await?;
        let len = match usize::try_from(len) {
            Ok(n) if n <= max => n,
            _ => {
                let text = format!("{} has {len} bytes, more than {max}", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        };
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let part = (len - bytes.len()).min(PART);
            let buf = Buf::alloc(part).await;
            let (result, buf) = file.read_exact_at(buf, bytes.len() as u64).await;
            result?;
            bytes.extend_from_slice(&buf);
        }
        Ok(bytes)
    }

    /// Bytes per step of `read_file` and `write_file_atomic`.
    const PART: usize = 64 << 10;

    /// Replaces a small file so that after a power cut it is the old or the new one, whole, and the
    /// new one once this has returned. On an error the old one stays, unless only the last step,
    /// the flush of the directory, failed: then it may be either.
    pub async fn write_file_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        let dir = path.parent().ok_or_else(no_name)?;
        let mut name = path.file_name().ok_or_else(no_name)?.to_os_string();
        name.push(".new");
        let new = dir.join(name);
        // What an earlier attempt left behind.
        match remove_file(&new).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let options = OpenOptions {
            write: true,
            create_new: true,
            ..Default::default()
        };
        let file = File::open(&new, options).await?;
        for (i, part) in bytes.chunks(PART).enumerate() {
            let mut buf = Buf::alloc(part.len()).await;
            buf.copy_from_slice(part);
            file.write_all_at(buf, (i * PART) as u64).await.0?;
        }
        file.sync_all().await?;
        rename(&new, path).await?;
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        sync_dir(dir).await
    }
}
