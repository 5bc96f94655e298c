//! Giving up by name what cannot be read: the one thing here that writes.
//!
//! It writes `volume-N/accepted-losses`, a line per loss, to a temporary name, flushes it, renames
//! it and flushes the directory: after a power cut there is the old list or the new one. Meanwhile it
//! holds the data directory's lock, so that no server starts with half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::loss::Loss;
use super::report::{ACCEPTED_BYTES_MAX, ACCEPTED_NAME};
use crate::datadir::{DataDir, DataDirError, FORMAT_NAME, VOLUME_PREFIX};

/// Appends the losses that are not in the list yet; answers how many those were.
///
/// # Errors
/// A line for people; the list is as it was, unless only the flush of its directory failed.
pub fn accept(data: &Path, volume: u16, losses: &[Loss]) -> Result<usize, String> {
    if let Err(error) = fs::metadata(data.join(FORMAT_NAME)) {
        return Err(format!(
            "{} is not a data directory: {FORMAT_NAME}: {error}",
            data.display()
        ));
    }
    let data = DataDir::open(data).map_err(|error| match error {
        DataDirError::InUse { path, pid } => format!(
            "a server runs on {path} (pid {pid}); stop it first: it reads the list only when it \
             starts"
        ),
        other => other.to_string(),
    })?;
    let directory = data.path().join(format!("{VOLUME_PREFIX}{volume}"));
    if !directory.is_dir() {
        return Err(format!("there is no volume {}", directory.display()));
    }
    let path = directory.join(ACCEPTED_NAME);
    let at = |error: io::Error| format!("{}: {error}", path.display());
    let mut bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(at(error)),
    };
    let mut known: Vec<String> = String::from_utf8_lossy(&bytes)
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    let mut added = 0;
    for loss in losses {
        let name = loss.to_string();
        if known.contains(&name) {
            continue;
        }
        if bytes.last().is_some_and(|last| *last != b'\n') {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'\n');
        known.push(name);
        added += 1;
    }
    if bytes.len() as u64 > ACCEPTED_BYTES_MAX {
        return Err(format!(
            "{} would grow beyond {ACCEPTED_BYTES_MAX} bytes, which no server reads; nothing was \
             changed",
            path.display()
        ));
    }
    if added > 0 {
        replace(&directory, &path, &bytes).map_err(at)?;
    }
    Ok(added)
}

fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{ACCEPTED_NAME}.new"));
    // What an earlier attempt left behind; nobody else writes here while the lock is held.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}
