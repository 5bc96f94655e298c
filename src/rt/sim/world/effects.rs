//! What operations do to the drives: taken in when they are submitted, carried out when their time
//! comes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Flight, NodeId, OpenFile, Point, State, What, mix};
use crate::rt::CoreId;
use crate::rt::ops::{FsCall, FsReply, Op, OpKey, RawFile};
use crate::rt::sim::disk::{Inode, SECTOR_SIZE, SyncMark};
use crate::rt::sim::drive::{Drive, Fate, Kind};

impl State {
    /// The drive under `path` of a node, and the path on it.
    fn locate(&self, node: NodeId, path: &Path) -> Option<(usize, String)> {
        let drives = &self.nodes[usize::from(node.0)].drives;
        drives
            .iter()
            .filter_map(|&d| Some((d, self.drives[d].relative(path)?)))
            .max_by_key(|(d, _)| self.drives[*d].prefix.as_os_str().len())
    }

    /// `path` is a directory above the mount point of a drive.
    fn is_above_drives(&self, node: NodeId, path: &Path) -> bool {
        let drives = &self.nodes[usize::from(node.0)].drives;
        drives
            .iter()
            .any(|&d| self.drives[d].prefix.starts_with(path))
    }

    fn file(&self, number: u64) -> Option<&OpenFile> {
        self.files.get(&number)
    }

    /// Takes an operation in: what will become of it, and when.
    pub(super) fn begin(&mut self, node: NodeId, core: CoreId, key: OpKey, op: &mut Op) {
        let (kind, changes) = nature(op);
        let id = self.id_take();
        self.mix(digest(op));
        self.event_note("start", id, u64::from(node.0) << 16 | u64::from(core.0));
        if self.verbose {
            eprintln!("                 {}", describe(op));
        }
        let strikes = if changes { self.count(node) } else { None };
        if strikes == Some(Point::Before) {
            return;
        }
        let now = self.now;
        let (drive, fate, mark) = self.prospects(node, kind, op);
        let over = match drive {
            Some(drive) => self.drives[drive].done_at(kind, now),
            None => now + Duration::from_micros(1),
        };
        if strikes == Some(Point::Middle) {
            let incarnation = self.node(node).incarnation;
            let half = over.saturating_since(now) / 2;
            self.event(now + half, What::Fail { node, incarnation });
        }
        let flight = Flight {
            id,
            drive,
            kind,
            fate,
            mark,
            cancelled: false,
            fail_after: strikes == Some(Point::After),
        };
        self.flights.insert((node, core, key), flight);
        self.event(
            over,
            What::Op {
                node,
                core,
                key,
                id,
            },
        );
    }

    /// The drive an operation goes to, what it will meet there, and what it covers if it is a sync.
    fn prospects(
        &mut self,
        node: NodeId,
        kind: Kind,
        op: &Op,
    ) -> (Option<usize>, Fate, Option<(Inode, SyncMark)>) {
        let mut mark = None;
        let (drive, inode, offset, len) = match op {
            Op::Read {
                file,
                from,
                to,
                offset,
                ..
            }
            | Op::Write {
                file,
                from,
                to,
                offset,
                ..
            } => {
                let file = self.file(file.sim());
                (
                    file.map(|f| f.drive),
                    file.map(|f| f.inode),
                    *offset,
                    (to - from) as u64,
                )
            }
            Op::WriteVectored {
                file,
                bufs,
                first,
                skip,
                offset,
                ..
            } => {
                let file = self.file(file.sim());
                let len = bufs[*first..].iter().map(|b| b.len()).sum::<usize>() - skip;
                (
                    file.map(|f| f.drive),
                    file.map(|f| f.inode),
                    *offset,
                    len as u64,
                )
            }
            Op::Sync { file, .. } => {
                let file = self.file(file.sim());
                if let Some(f) = file {
                    mark = Some((f.inode, self.drives[f.drive].disk.sync_mark(f.inode)));
                }
                (file.map(|f| f.drive), None, 0, 0)
            }
            Op::Allocate { file, .. } => (self.file(file.sim()).map(|f| f.drive), None, 0, 0),
            Op::Fs { call, .. } => {
                let drive = match call {
                    FsCall::Len { file } => self.file(*file).map(|f| f.drive),
                    FsCall::Open { path, .. }
                    | FsCall::CreateDir { path }
                    | FsCall::ReadDir { path }
                    | FsCall::SyncDir { path }
                    | FsCall::RemoveFile { path }
                    | FsCall::Rename { from: path, .. }
                    | FsCall::Exists { path }
                    | FsCall::FreeBytes { path } => {
                        let at = self.locate(node, path);
                        if let (FsCall::SyncDir { .. }, Some((drive, path))) = (call, &at) {
                            mark = self.drives[*drive].disk.sync_dir_mark(path).ok();
                        }
                        at.map(|(drive, _)| drive)
                    }
                };
                (drive, None, 0, 0)
            }
            _ => panic!("the simulator has no sockets"),
        };
        let fate = match drive {
            Some(drive) => self.drives[drive].fate(kind, inode, offset, len),
            None => Fate::Good,
        };
        (drive, fate, mark)
    }

    /// What the operation does to its drive, and its result: a count or a negated errno.
    pub(super) fn effect(&mut self, node: NodeId, flight: &Flight, op: &mut Op) -> i32 {
        let now = self.now;
        if let Some(drive) = flight.drive {
            self.drives[drive].rot_until(now);
        }
        let dead = flight.drive.is_some_and(|d| self.drives[d].dead);
        let fate = if dead { Fate::Error(0) } else { flight.fate };
        match op {
            Op::Read {
                file,
                buf,
                from,
                to,
                offset,
            } => {
                let Some(f) = self.file(file.sim()).filter(|f| f.read) else {
                    return -libc::EBADF;
                };
                let out = &mut buf.whole_mut()[*from..*to];
                assert_direct(f, *offset, out);
                let n = match fate {
                    Fate::Error(_) => return -libc::EIO,
                    Fate::Short(n) => n,
                    _ => out.len(),
                };
                match self.drives[f.drive]
                    .disk
                    .read(f.inode, *offset, &mut out[..n])
                {
                    Ok(n) => n as i32,
                    Err(e) => errno(e.into()),
                }
            }
            Op::Write {
                file,
                buf,
                from,
                to,
                offset,
            } => {
                let number = file.sim();
                self.write(number, fate, *offset, &[&buf[*from..*to]])
            }
            Op::WriteVectored {
                file,
                bufs,
                first,
                skip,
                offset,
                ..
            } => {
                let number = file.sim();
                let mut parts: Vec<&[u8]> = bufs[*first..].iter().map(|b| &b[..]).collect();
                if let Some(part) = parts.first_mut() {
                    *part = &part[*skip..];
                }
                self.write(number, fate, *offset, &parts)
            }
            Op::Sync { data_only, .. } => {
                let (Some(drive), Some((inode, mark))) = (flight.drive, flight.mark) else {
                    return -libc::EBADF;
                };
                let Drive { disk, .. } = &mut self.drives[drive];
                match fate {
                    Fate::Error(_) => {
                        disk.sync_fail(inode, mark, &mut self.cuts);
                        return -libc::EIO;
                    }
                    _ if *data_only => disk.sync_data_finish(inode, mark),
                    _ => disk.sync_all_finish(inode, mark),
                }
                0
            }
            Op::Allocate { file, len } => {
                let Some(f) = self.file(file.sim()).filter(|f| f.write) else {
                    return -libc::EBADF;
                };
                let (drive, inode) = (f.drive, f.inode);
                if dead {
                    return -libc::EIO;
                }
                match self.drives[drive].disk.allocate(inode, *len) {
                    Ok(()) => 0,
                    Err(e) => errno(e.into()),
                }
            }
            Op::Fs { call, reply } => {
                *reply = Some(if matches!(fate, Fate::Error(_)) {
                    Err(std::io::Error::from_raw_os_error(libc::EIO))
                } else {
                    self.call(node, flight, call)
                });
                0
            }
            _ => panic!("the simulator has no sockets"),
        }
    }

    fn write(&mut self, number: u64, fate: Fate, offset: u64, parts: &[&[u8]]) -> i32 {
        let Some(f) = self.files.get(&number).filter(|f| f.write) else {
            return -libc::EBADF;
        };
        let disk = &mut self.drives[f.drive].disk;
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let (mut at, upto, result) = match fate {
            Fate::Good => (offset, len, len as i32),
            Fate::Short(n) => (offset, n, n as i32),
            Fate::Error(n) => (offset, n, -libc::EIO),
            Fate::Misdirected(place) => (place, len, len as i32),
            Fate::Lost => (offset, 0, len as i32),
        };
        if matches!(fate, Fate::Misdirected(_) | Fate::Lost)
            && let Err(e) = disk.allocate(f.inode, offset + len as u64)
        {
            return errno(e.into());
        }
        let mut left = upto;
        for part in parts {
            assert_direct(f, at, part);
            let n = part.len().min(left);
            if let Err(e) = disk.write(f.inode, at, &part[..n]) {
                return errno(e.into());
            }
            at += n as u64;
            left -= n;
        }
        result
    }

    fn call(&mut self, node: NodeId, flight: &Flight, call: &FsCall) -> std::io::Result<FsReply> {
        let absent = || std::io::Error::from_raw_os_error(libc::ENOENT);
        let at = |path: &PathBuf| self.locate(node, path).ok_or_else(absent);
        Ok(match call {
            FsCall::Open { path, options } => {
                let (drive, path) = at(path)?;
                let disk = &mut self.drives[drive].disk;
                let inode = disk.open(&path, options.create, options.create_new)?;
                let number = self.id_take();
                let file = OpenFile {
                    drive,
                    inode,
                    node,
                    read: options.read,
                    write: options.write,
                    direct: options.direct,
                };
                self.files.insert(number, file);
                FsReply::Opened(RawFile::Sim(number))
            }
            FsCall::Len { file } => {
                let f = self.file(*file).ok_or_else(absent)?;
                FsReply::Len(self.drives[f.drive].disk.len(f.inode))
            }
            FsCall::CreateDir { path } => {
                match at(path) {
                    Ok((drive, path)) => self.drives[drive].disk.create_dir(&path)?,
                    Err(_) if self.is_above_drives(node, path) => {
                        return Err(std::io::Error::from_raw_os_error(libc::EEXIST));
                    }
                    Err(e) => return Err(e),
                }
                FsReply::Unit
            }
            FsCall::ReadDir { path } => {
                let (drive, path) = at(path)?;
                FsReply::Names(self.drives[drive].disk.read_dir(&path)?)
            }
            FsCall::SyncDir { path } => {
                match (flight.drive, flight.mark) {
                    (Some(drive), Some((inode, mark))) => {
                        self.drives[drive].disk.sync_dir_finish(inode, mark);
                    }
                    (Some(_), None) => return Err(absent()),
                    // Above the drives everything is durable.
                    (None, _) if self.is_above_drives(node, path) => {}
                    (None, _) => return Err(absent()),
                }
                FsReply::Unit
            }
            FsCall::RemoveFile { path } => {
                let (drive, path) = at(path)?;
                self.drives[drive].disk.remove_file(&path)?;
                FsReply::Unit
            }
            FsCall::Rename { from, to } => {
                let ((a, from), (b, to)) = (at(from)?, at(to)?);
                if a != b {
                    return Err(std::io::Error::from_raw_os_error(libc::EXDEV));
                }
                self.drives[a].disk.rename(&from, &to)?;
                FsReply::Unit
            }
            FsCall::Exists { path } => FsReply::Exists(match at(path) {
                Ok((drive, path)) => self.drives[drive].disk.exists(&path),
                Err(_) => self.is_above_drives(node, path),
            }),
            FsCall::FreeBytes { path } => {
                let (drive, _) = at(path)?;
                FsReply::Bytes(self.drives[drive].disk.free_bytes())
            }
        })
    }
}

fn errno(e: std::io::Error) -> i32 {
    -e.raw_os_error().unwrap_or(libc::EIO)
}

/// O_DIRECT wants file offset, length and memory aligned; a caller that gets it wrong is a bug that
/// production would answer with EINVAL.
fn assert_direct(file: &OpenFile, offset: u64, bytes: &[u8]) {
    if file.direct {
        assert!(
            offset.is_multiple_of(SECTOR_SIZE),
            "O_DIRECT offset {offset}"
        );
        assert!(
            (bytes.len() as u64).is_multiple_of(SECTOR_SIZE),
            "O_DIRECT length {}",
            bytes.len()
        );
        assert!(
            (bytes.as_ptr() as usize as u64).is_multiple_of(SECTOR_SIZE),
            "O_DIRECT memory"
        );
    }
}

/// What kind of latency and fault an operation has, and whether it changes anything on the drive.
fn nature(op: &Op) -> (Kind, bool) {
    match op {
        Op::Read { .. } => (Kind::Read, false),
        Op::Write { .. } | Op::WriteVectored { .. } => (Kind::Write, true),
        Op::Sync { .. } => (Kind::Sync, true),
        Op::Allocate { .. } => (Kind::Name, true),
        Op::Fs { call, .. } => match call {
            FsCall::SyncDir { .. } => (Kind::Sync, true),
            FsCall::Open { options, .. } => (Kind::Name, options.create || options.create_new),
            FsCall::CreateDir { .. } | FsCall::RemoveFile { .. } | FsCall::Rename { .. } => {
                (Kind::Name, true)
            }
            FsCall::Len { .. }
            | FsCall::ReadDir { .. }
            | FsCall::Exists { .. }
            | FsCall::FreeBytes { .. } => (Kind::Name, false),
        },
        _ => panic!("the simulator has no sockets"),
    }
}

/// A hash of what an operation asks for, the bytes of a write included.
fn digest(op: &Op) -> u64 {
    let bytes = |mut h: u64, bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            h = mix(h, u64::from_le_bytes(*word));
        }
        rest.iter().fold(h, |h, &b| mix(h, u64::from(b)))
    };
    match op {
        Op::Read {
            from, to, offset, ..
        } => mix(mix(1, *offset), (to - from) as u64),
        Op::Write {
            buf,
            from,
            to,
            offset,
            ..
        } => bytes(mix(2, *offset), &buf[*from..*to]),
        Op::WriteVectored {
            bufs,
            first,
            skip,
            offset,
            ..
        } => {
            let h = mix(mix(3, *offset), *skip as u64);
            bufs[*first..].iter().fold(h, |h, b| bytes(h, b))
        }
        Op::Sync { data_only, .. } => mix(4, u64::from(*data_only)),
        Op::Allocate { len, .. } => mix(5, *len),
        Op::Fs { .. } => bytes(6, describe(op).as_bytes()),
        _ => 7,
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Read {
            file,
            from,
            to,
            offset,
            ..
        } => {
            format!(
                "read {} bytes at {offset} of file {}",
                to - from,
                file.sim()
            )
        }
        Op::Write {
            file,
            from,
            to,
            offset,
            ..
        } => {
            format!(
                "write {} bytes at {offset} of file {}",
                to - from,
                file.sim()
            )
        }
        Op::WriteVectored {
            file,
            bufs,
            first,
            offset,
            ..
        } => format!(
            "write {} buffers at {offset} of file {}",
            bufs.len() - first,
            file.sim()
        ),
        Op::Sync { file, data_only } => {
            format!(
                "sync file {}{}",
                file.sim(),
                if *data_only { " (data)" } else { "" }
            )
        }
        Op::Allocate { file, len } => format!("allocate {len} of file {}", file.sim()),
        Op::Fs { call, .. } => format!("{call:?}"),
        _ => "?".to_string(),
    }
}
