//! One process's share of the store: its data directory, its volumes, and what each of its cores starts.
//!
//! ```text
//!   prepare (one core)   read or write DATA/format and DATA/volume-N/format
//!   start   (each core)  open the core's volumes, join the links, start upkeep ─▶ object::Store
//!   stop    (each core)  flush, checkpoint, close
//! ```
//!
//! Formatting ends with `format`, written last: a start that finds volumes without it starts over, since nothing can
//! have been acknowledged from there.

use std::{
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use shard_format::{
    ClusterId, DriveFormat, DriveId, Epoch, HeaderError, Scheme, VolumeFormat, VolumeId,
    decode_drive_format, decode_volume_format, format_file::FORMAT_FILE_SIZE,
};

use crate::{
    index::StoreKind,
    limits::{
        FORMAT_BYTES_MAX, RESERVE_FILES, SEGMENT_FILE_LENGTH_MAX, SEGMENT_FILE_LENGTH_MIN,
        SPARE_FILES,
    },
    link::{Frame, Link},
    meta::{GroupMachine, Groups},
    object::{Store, run_upkeep},
    placement::Map,
    rt::{self, CoreId, mailbox::Mailbox},
    volume::{Recovery, Volume, VolumeConfig, VolumeError},
};

/// Placement groups of a store, sized for the cluster it may become.
pub const PG_COUNT: u32 = 256;

const FORMAT_NAME: &str = "format";

/// Why the store does not open. Nothing was changed on disk beyond unfinished formatting.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Format { path: PathBuf, error: HeaderError },
    #[error("{path}: {reason}")]
    Mismatch { path: PathBuf, reason: String },
    #[error("volume {volume}: {error}")]
    Volume { volume: u16, error: VolumeError },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> NodeError + '_ {
    move |error| NodeError::Io {
        path: path.to_owned(),
        error,
    }
}

/// What a data directory is: its identity and geometry.
#[derive(Clone, Debug)]
pub struct Layout {
    pub directory: PathBuf,
    pub cluster: ClusterId,
    pub drive: DriveId,
    pub volumes: Vec<VolumeId>,
    pub pg_count: u32,
    pub segment_file_length: u64,
}

impl Layout {
    pub fn volume_directory(&self, volume: u16) -> PathBuf {
        volume_directory(&self.directory, volume)
    }

    pub fn map(&self) -> Map {
        Map::single_drive(Epoch(1), self.pg_count, self.volumes.len() as u16)
    }

    /// `neighbours`: volumes that the owner of this one has.
    fn config(&self, volume: u16, neighbours: usize, settings: &Settings) -> VolumeConfig {
        VolumeConfig {
            directory: self.volume_directory(volume),
            cluster: self.cluster,
            drive: self.drive,
            volume: self.volumes[usize::from(volume)],
            segment_file_length: self.segment_file_length,
            // All volumes of the drive see the same free bytes.
            index_headroom: settings.index_headroom * self.volumes.len() as u64,
            index_kind: settings.index_kind,
            record_cache_bytes: settings.record_cache_bytes / neighbours,
        }
    }
}

fn volume_directory(directory: &Path, volume: u16) -> PathBuf {
    directory.join(format!("volume-{volume}"))
}

/// What does not come from the data directory.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub index_kind: StoreKind,
    /// Bytes per volume that segment files leave to the index.
    pub index_headroom: u64,
    /// `None`: chosen by the drive's size.
    pub segment_file_length: Option<u64>,
    /// Bytes of hot records that a core keeps in memory.
    pub record_cache_bytes: usize,
    /// Of new objects.
    pub scheme: Scheme,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            index_kind: StoreKind::Lmdb,
            index_headroom: crate::limits::INDEX_HEADROOM,
            segment_file_length: None,
            record_cache_bytes: crate::limits::RECORD_CACHE_BYTES,
            scheme: Scheme::PLAIN,
        }
    }
}

/// The largest power of two that leaves each volume some 32 files of the free space and keeps a fresh store small.
pub fn choose_file_length(free_bytes: u64, volumes: u16) -> u64 {
    let volumes = u64::from(volumes);
    // Commit, bulk and relocate heads, reserve and spare.
    let at_first = (3 + RESERVE_FILES + SPARE_FILES) as u64;
    let wanted = (free_bytes / (volumes * 32)).min(FORMAT_BYTES_MAX / (volumes * at_first));
    let power = if wanted == 0 { 1 } else { 1 << wanted.ilog2() };
    power.clamp(SEGMENT_FILE_LENGTH_MIN, SEGMENT_FILE_LENGTH_MAX)
}

/// Reads the layout of `directory`, or formats it for `volumes` volumes if it is not a store yet.
pub async fn prepare(
    directory: &Path,
    volumes: u16,
    settings: &Settings,
) -> Result<Layout, NodeError> {
    let path = directory.join(FORMAT_NAME);
    if rt::fs::exists(&path).await.map_err(io_at(&path))? {
        return read_layout(directory).await;
    }
    let free = rt::fs::free_bytes(directory)
        .await
        .map_err(io_at(directory))?;
    let layout = Layout {
        directory: directory.to_owned(),
        cluster: ClusterId(random_id()),
        drive: DriveId(random_id()),
        volumes: (0..volumes).map(|_| VolumeId(random_id())).collect(),
        pg_count: PG_COUNT,
        segment_file_length: settings
            .segment_file_length
            .unwrap_or_else(|| choose_file_length(free, volumes)),
    };
    for (i, id) in layout.volumes.iter().enumerate() {
        let directory = layout.volume_directory(i as u16);
        if !rt::fs::exists(&directory)
            .await
            .map_err(io_at(&directory))?
        {
            rt::fs::create_dir(&directory)
                .await
                .map_err(io_at(&directory))?;
        }
        let mut bytes = [0; FORMAT_FILE_SIZE];
        VolumeFormat {
            cluster: layout.cluster,
            drive: layout.drive,
            volume: *id,
            volume_index: i as u16,
            segment_file_length: layout.segment_file_length,
        }
        .encode(&mut bytes);
        let path = directory.join(FORMAT_NAME);
        rt::fs::write_file_atomic(&path, &bytes)
            .await
            .map_err(io_at(&path))?;
    }
    rt::fs::sync_dir(directory)
        .await
        .map_err(io_at(directory))?;
    let mut bytes = [0; FORMAT_FILE_SIZE];
    DriveFormat {
        cluster: layout.cluster,
        drive: layout.drive,
        volume_count: volumes,
        first_volume: 0,
        pg_count: layout.pg_count,
        segment_file_length: layout.segment_file_length,
        created_ms: rt::unix_ms(),
    }
    .encode(&mut bytes);
    rt::fs::write_file_atomic(&path, &bytes)
        .await
        .map_err(io_at(&path))?;
    Ok(layout)
}

/// Reads the layout of a formatted directory.
pub async fn read_layout(directory: &Path) -> Result<Layout, NodeError> {
    let path = directory.join(FORMAT_NAME);
    let bytes = rt::fs::read_file(&path, FORMAT_FILE_SIZE)
        .await
        .map_err(io_at(&path))?;
    let format = decode_drive_format(&bytes)
        .map_err(|error| NodeError::Format {
            path: path.clone(),
            error,
        })?
        .value;
    let mut volumes = Vec::new();
    for i in 0..format.volume_count {
        let path = volume_directory(directory, i).join(FORMAT_NAME);
        let bytes = rt::fs::read_file(&path, FORMAT_FILE_SIZE)
            .await
            .map_err(io_at(&path))?;
        let v = decode_volume_format(&bytes)
            .map_err(|error| NodeError::Format {
                path: path.clone(),
                error,
            })?
            .value;
        if v.drive != format.drive
            || v.volume_index != i
            || v.segment_file_length != format.segment_file_length
        {
            let reason = "belongs to another store; put the right volume back".to_owned();
            return Err(NodeError::Mismatch { path, reason });
        }
        volumes.push(v.volume);
    }
    Ok(Layout {
        directory: directory.to_owned(),
        cluster: format.cluster,
        drive: format.drive,
        volumes,
        pg_count: format.pg_count,
        segment_file_length: format.segment_file_length,
    })
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    rt::fill_random(&mut id);
    id
}

/// One core's running share of the store.
pub struct CoreShare {
    pub store: Store,
    pub volumes: Vec<(u16, Volume, Recovery)>,
}

/// Which core owns a volume: in turn.
pub fn owner(volume: u16, cores: u16) -> CoreId {
    CoreId(volume % cores)
}

/// Opens this core's volumes and joins the links.
pub async fn start(
    layout: &Layout,
    core: CoreId,
    cores: u16,
    mailbox: Option<Mailbox<Frame>>,
    settings: &Settings,
) -> Result<CoreShare, NodeError> {
    let count = layout.volumes.len() as u16;
    let owners = (0..count).map(|v| owner(v, cores)).collect();
    let link = Link::new(core, layout.map(), owners, mailbox);
    let mut volumes = Vec::new();
    let own: Vec<u16> = (0..count).filter(|v| owner(*v, cores) == core).collect();
    for v in own.iter().copied() {
        let machine = Rc::new(GroupMachine::default());
        let (volume, recovery) =
            Volume::open(layout.config(v, own.len(), settings), machine.clone())
                .await
                .map_err(|error| NodeError::Volume { volume: v, error })?;
        link.add_local(v, Rc::new(Groups::new(volume.clone(), machine)));
        volumes.push((v, volume, recovery));
    }
    let serving = link.clone();
    rt::spawn(async move { serving.serve().await });
    Ok(CoreShare {
        store: Store::new(link, settings.scheme),
        volumes,
    })
}

/// Starts background work that talks to other cores; called when all of them have started.
pub fn start_upkeep(share: &CoreShare) {
    for (v, groups) in share.store.link().local() {
        let store = share.store.clone();
        rt::spawn(async move { run_upkeep(store, v, groups).await });
    }
}

/// Flushes, checkpoints and closes this core's volumes. What was acknowledged is durable already; this makes the next
/// start quick.
pub async fn stop(share: &CoreShare) -> Result<(), NodeError> {
    for (v, volume, _) in &share.volumes {
        volume
            .close()
            .await
            .map_err(|error| NodeError::Volume { volume: *v, error })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_length_follows_the_drive() {
        assert_eq!(choose_file_length(80 << 30, 2), 32 << 20);
        assert_eq!(choose_file_length(256 << 20, 2), SEGMENT_FILE_LENGTH_MIN);
        assert_eq!(choose_file_length(0, 2), SEGMENT_FILE_LENGTH_MIN);
        assert_eq!(choose_file_length(u64::MAX, 1), SEGMENT_FILE_LENGTH_MAX);
    }
}
