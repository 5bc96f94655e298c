//! The data directory before the store opens it: made, checked, and held by one process.
//!
//! ```text
//! DATA/
//!   lock          flock held by the server that runs on it; holds its pid, as text
//!   credentials   root credentials (see `credentials`)
//!   format        which drive this is; written last when formatting, never again
//!   map           the cluster map: the drives of every epoch
//!   formatting    formatting has begun and not ended: nothing was acknowledged from here
//!   volume-0/ …   one per volume
//! ```
//!
//! What this file promises to everything behind it:
//!
//! 1. At most one process is past [`DataDir::open`] for a directory, whatever names lead to it.
//! 2. The directory belongs to the user who runs the server, nobody else may write to it, and files
//!    in it can be created and written with O_DIRECT.
//! 3. It is empty, or was being formatted, or is a store of a version this release knows. Anything
//!    else is left exactly as it was.
//!
//! A refusal is one line that ends in the remedy.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::credentials;

pub const LOCK_NAME: &str = "lock";
pub const FORMAT_NAME: &str = "format";
pub const FORMATTING_NAME: &str = "formatting";
pub const MAP_NAME: &str = "map";
/// The map before it has its name.
const MAP_UNFINISHED_NAME: &str = "map.new";
/// The format file before it has its name.
const FORMAT_UNFINISHED_NAME: &str = "format.new";
/// `volume-N`, with N the volume's index.
pub const VOLUME_PREFIX: &str = "volume-";
/// Written and removed by each start; a crash leaves it for the next one.
const PROBE_NAME: &str = "probe";
/// Made by mkfs in the root of ext4; nothing of ours.
const LOST_FOUND_NAME: &str = "lost+found";

/// A format file has 8 KiB; what is longer is damage, and need not be read whole to say so.
const FORMAT_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Memory, offset and length of the probe: the largest logical block of drives today. One that
/// wants more fails the probe, and says so.
const PROBE_ALIGNMENT: usize = 4096;

/// What the directory held when its lock was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Nothing of a store. Credentials may be there already.
    Empty,
    /// An earlier start did not finish formatting. No object was ever acknowledged, so whatever
    /// volumes are there may be removed and formatting starts over.
    Interrupted,
    /// A store, of a known version.
    Formatted,
}

/// A checked directory. Dropping it, or the end of the process, lets the next server in.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    contents: Contents,
    _lock: Lock,
}

/// None of these has changed anything, except that a directory, its `lock` and `probe` may have
/// been created.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "data directory {path}: the directory it would be created in does not exist; create it, \
         or check that the drive is mounted"
    )]
    NoParent { path: String },
    #[error("data directory {path} is not a directory; move it away or choose another --data")]
    NotADirectory { path: String },
    #[error(
        "data directory {path} belongs to user {owner}, and this runs as user {user}; run as user \
         {owner} or chown -R {user} {path}"
    )]
    WrongOwner { path: String, owner: u32, user: u32 },
    #[error(
        "data directory {path} can be written by other users (mode {mode:03o}); chmod 700 {path}"
    )]
    OthersWrite { path: String, mode: u32 },
    #[error(
        "data directory {path} is on a read-only file system; mount it read-write (after an error \
         of the drive, check dmesg first)"
    )]
    ReadOnlyFileSystem { path: String },
    #[error("data directory {path} cannot be written by user {user}; chmod u+rwx {path}")]
    NotWritable { path: String, user: u32 },
    #[error(
        "data directory {path} is in use by another server (pid {pid}); stop that one or choose \
         another --data"
    )]
    InUse { path: String, pid: String },
    #[error(
        "data directory {path} is not empty and not a store (it holds {found:?}); choose an empty \
         or new directory"
    )]
    Foreign { path: String, found: String },
    #[error(
        "data directory {path} has volumes but no {FORMAT_NAME} file; restore that file from a \
         backup, nothing else here has been touched"
    )]
    FormatMissing { path: String },
    #[error(
        "data directory {path} was written by a newer release (format {found}, this release knows \
         {known}); start that release or a newer one"
    )]
    NewerFormat {
        path: String,
        found: u32,
        known: u32,
    },
    #[error(
        "data directory {path}: its {FORMAT_NAME} file is damaged ({reason}); restore that file \
         from a backup, nothing else here has been touched"
    )]
    FormatDamaged { path: String, reason: String },
    #[error(
        "data directory {path} is on a file system without direct I/O (O_DIRECT: {error}); use \
         ext4 or XFS"
    )]
    NoDirectIo { path: String, error: io::Error },
    #[error("data directory {path}: the file system is full; free some space and start again")]
    Full { path: String },
    #[error("data directory {path}: {action}: {error}; check the drive and the mount")]
    Io {
        path: String,
        action: &'static str,
        error: io::Error,
    },
}

impl DataDir {
    /// Creates the directory (mode 0700) if it is missing, checks it and takes its lock.
    pub fn open(given: &Path) -> Result<DataDir, DataDirError> {
        create(given)?;
        // One name from here on. A link to a directory is fine: the lock lies behind it.
        let path = std::fs::canonicalize(given).map_err(io_error(given, "cannot be resolved"))?;
        check_owner_and_mode(&path)?;
        // Before the lock, so that a directory named by mistake does not even get a `lock`.
        if !exists(&path, LOCK_NAME)? {
            look(&path)?;
        }
        let lock = take_lock(&path)?;
        // Again: another server may have formatted it in between.
        let contents = look(&path)?;
        if contents == Contents::Formatted {
            check_format(&path)?;
        }
        probe_direct_io(&path)?;
        Ok(DataDir {
            path,
            contents,
            _lock: lock,
        })
    }

    /// Absolute, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// To be called before anything of a store is created. From here to [`DataDir::end_formatting`]
    /// the directory counts as [`Contents::Interrupted`].
    pub fn begin_formatting(&mut self) -> Result<(), DataDirError> {
        assert_ne!(self.contents, Contents::Formatted);
        let marked = || -> io::Result<()> {
            let marker = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(self.path.join(FORMATTING_NAME))?;
            marker.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        marked().map_err(io_error(&self.path, "cannot be marked"))?;
        self.contents = Contents::Interrupted;
        Ok(())
    }

    /// To be called when the `format` file is durable.
    pub fn end_formatting(&mut self) -> Result<(), DataDirError> {
        // Not flushed: with a `format` file the marker means nothing, and may come back.
        std::fs::remove_file(self.path.join(FORMATTING_NAME))
            .map_err(io_error(&self.path, "cannot be unmarked"))?;
        self.contents = Contents::Formatted;
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            DataDirError::ReadOnlyFileSystem { path: shown(&path) }
        }
        io::ErrorKind::PermissionDenied => DataDirError::NotWritable {
            path: shown(&path),
            user: rustix::process::geteuid().as_raw(),
        },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            DataDirError::Full { path: shown(&path) }
        }
        _ => DataDirError::Io {
            path: shown(&path),
            action,
            error,
        },
    }
}

fn create(path: &Path) -> Result<(), DataDirError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            // The parent names the directory: without this a power cut could take all of it.
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(io_error(path, "its parent cannot be flushed"))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            // Also a link that leads nowhere.
            _ => Err(DataDirError::NotADirectory { path: shown(path) }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DataDirError::NoParent { path: shown(path) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(DataDirError::NotADirectory { path: shown(path) })
        }
        // A read-only or foreign parent says EROFS or EACCES before it says EEXIST.
        Err(error) => match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            _ => Err(io_error(path, "cannot be created")(error)),
        },
    }
}

fn check_owner_and_mode(path: &Path) -> Result<(), DataDirError> {
    let metadata = path
        .metadata()
        .map_err(io_error(path, "cannot be examined"))?;
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(DataDirError::WrongOwner {
            path: shown(path),
            owner: metadata.uid(),
            user,
        });
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(DataDirError::OthersWrite {
            path: shown(path),
            mode: metadata.mode() & 0o777,
        });
    }
    Ok(())
}

fn exists(path: &Path, name: &str) -> Result<bool, DataDirError> {
    match path.join(name).symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(path, "cannot be examined")(error)),
    }
}

/// The lock, held.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    /// Closing alone would not do: a child that is being started holds the file too until it
    /// becomes another program.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn take_lock(path: &Path) -> Result<Lock, DataDirError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path.join(LOCK_NAME))
        .map_err(io_error(path, "its lock cannot be opened"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Empty between the other's lock and its pid: then the cause is named without it.
            let _ = file.read_to_string(&mut text);
            let pid = text.trim();
            let known = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
            return Err(DataDirError::InUse {
                path: shown(path),
                pid: if known { pid } else { "unknown" }.to_owned(),
            });
        }
        Err(error) => return Err(io_error(path, "cannot be locked")(error.into())),
    }
    let mut lock = Lock(file);
    // Only for people: the lock is the flock, and ends with the process.
    lock.0
        .set_len(0)
        .and_then(|()| {
            lock.0
                .write_all(format!("{}\n", std::process::id()).as_bytes())
        })
        .map_err(io_error(path, "its lock cannot be written"))?;
    Ok(lock)
}

fn look(path: &Path) -> Result<Contents, DataDirError> {
    let entries = path
        .read_dir()
        .map_err(io_error(path, "cannot be listed"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error(path, "cannot be listed"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(FORMAT_NAME) {
        return Ok(Contents::Formatted);
    }
    let interrupted = has(FORMATTING_NAME);
    let is_volume = |name: &str| {
        name.strip_prefix(VOLUME_PREFIX)
            .is_some_and(|index| !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()))
    };
    let ours = [
        LOCK_NAME,
        FORMAT_UNFINISHED_NAME,
        FORMATTING_NAME,
        MAP_UNFINISHED_NAME,
        PROBE_NAME,
        LOST_FOUND_NAME,
        credentials::FILE_NAME,
        credentials::NEW_FILE_NAME,
    ];
    for name in &names {
        let formatted = is_volume(name) || name == MAP_NAME;
        if ours.contains(&name.as_str()) || (interrupted && formatted) {
            continue;
        }
        // Never formatted over: this may be a store whose most important file was lost.
        if formatted {
            return Err(DataDirError::FormatMissing { path: shown(path) });
        }
        return Err(DataDirError::Foreign {
            path: shown(path),
            found: name.clone(),
        });
    }
    Ok(if interrupted {
        Contents::Interrupted
    } else {
        Contents::Empty
    })
}

/// The version only; what the format says is for those who open the volumes.
fn check_format(path: &Path) -> Result<(), DataDirError> {
    let damaged = |reason: String| DataDirError::FormatDamaged {
        path: shown(path),
        reason,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path.join(FORMAT_NAME))
        .map_err(io_error(path, "its format file cannot be opened"))?;
    let mut bytes = Vec::new();
    file.take(FORMAT_FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(io_error(path, "its format file cannot be read"))?;
    match shard_format::decode_drive_format(&bytes) {
        Ok(_) => Ok(()),
        Err(shard_format::HeaderError::UnknownVersion { found, known }) => {
            Err(DataDirError::NewerFormat {
                path: shown(path),
                found,
                known,
            })
        }
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// 4 KiB written and read back past the page cache, as every write of the store will be.
fn probe_direct_io(path: &Path) -> Result<(), DataDirError> {
    #[repr(align(4096))]
    struct Aligned([u8; PROBE_ALIGNMENT]);
    const _: () = assert!(align_of::<Aligned>() == PROBE_ALIGNMENT);

    let name = path.join(PROBE_NAME);
    let probe = || -> io::Result<bool> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT)
            .open(&name)?;
        let written = Box::new(Aligned([0x5a; PROBE_ALIGNMENT]));
        file.write_all_at(&written.0, 0)?;
        let mut read = Box::new(Aligned([0; PROBE_ALIGNMENT]));
        file.read_exact_at(&mut read.0, 0)?;
        Ok(read.0 == written.0)
    };
    let result = probe();
    let removed = std::fs::remove_file(&name);
    match result {
        Ok(true) => match removed {
            Ok(()) => Ok(()),
            Err(error) => Err(io_error(path, "its probe file cannot be removed")(error)),
        },
        Ok(false) => Err(DataDirError::Io {
            path: shown(path),
            action: "direct I/O",
            error: io::Error::other("4 KiB written were read back differently"),
        }),
        // Which of open and write refuses depends on the file system.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(DataDirError::NoDirectIo {
                path: shown(path),
                error,
            })
        }
        Err(error) => Err(io_error(path, "cannot be written")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn refused(path: &Path) -> String {
        let line = DataDir::open(path).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_private_and_left_clean() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.contents(), Contents::Empty);
        assert_eq!(mode(&path), 0o700);
        let names: Vec<_> = path
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, [LOCK_NAME]);
    }

    #[test]
    fn the_lock_holds_against_every_name_of_the_directory_until_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let link = root.path().join("link");
        let first = DataDir::open(&path).unwrap();
        symlink(&path, &link).unwrap();
        for name in [&path, &link] {
            let line = refused(name);
            let pid = format!("in use by another server (pid {})", std::process::id());
            assert!(line.contains(&pid), "{line}");
        }
        drop(first);
        DataDir::open(&link).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_and_not_touched() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("thesis.tex"), "words").unwrap();
        assert!(refused(root.path()).contains("it holds \"thesis.tex\""));
        assert_eq!(root.path().read_dir().unwrap().count(), 1);

        let file = root.path().join("thesis.tex");
        assert!(refused(&file).contains("is not a directory"));
        assert!(refused(&file.join("x")).contains("is not a directory"));
        let dangling = root.path().join("dangling");
        symlink("/nonexistent/x", &dangling).unwrap();
        assert!(refused(&dangling).contains("is not a directory"));
        assert!(refused(&root.path().join("a/b")).contains("does not exist"));
    }

    #[test]
    fn directories_open_to_others_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o775)).unwrap();
        assert!(refused(&path).ends_with(&format!("chmod 700 {}", path.display())));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_mount_point_with_lost_found_is_empty() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(LOST_FOUND_NAME)).unwrap();
        std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(
            DataDir::open(root.path()).unwrap().contents(),
            Contents::Empty
        );
    }

    #[test]
    fn interrupted_formatting_is_told_from_a_lost_format_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        drop(DataDir::open(&path).unwrap());
        std::fs::create_dir(path.join("volume-0")).unwrap();
        assert!(refused(&path).contains("has volumes but no format file"));
        std::fs::write(path.join(FORMATTING_NAME), "").unwrap();
        assert_eq!(
            DataDir::open(&path).unwrap().contents(),
            Contents::Interrupted
        );
        std::fs::write(path.join("volume-x"), "").unwrap();
        assert!(refused(&path).contains("it holds \"volume-x\""));
    }

    #[test]
    fn damage_is_not_taken_for_a_newer_version_or_for_emptiness() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        drop(DataDir::open(&path).unwrap());
        let format = path.join(FORMAT_NAME);
        for bytes in [&b""[..], b"OSTRK", &[0; 8192], &[0xa5; 8192], &[0; 9000]] {
            std::fs::write(&format, bytes).unwrap();
            assert!(refused(&path).contains("format file is damaged"));
            assert_eq!(std::fs::read(&format).unwrap(), bytes);
        }
    }
}
