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

mod layout;

use std::{
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use shard_format::{HeaderError, Scheme};

pub use self::layout::{Drive, Layout, PG_COUNT, choose_file_length, prepare, read_layout};
use crate::{
    index::StoreKind,
    link::{Frame, Link},
    meta::{GroupMachine, Groups},
    object::{Store, run_upkeep},
    rt::{self, CoreId, mailbox::Mailbox},
    volume::{Recovery, Volume, VolumeError},
};

/// Why the store does not open. Nothing was changed on disk beyond unfinished formatting.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Format { path: PathBuf, error: HeaderError },
    #[error("{path}: {reason}")]
    Mismatch { path: PathBuf, reason: String },
    #[error("the scheme {scheme} is not possible: {reason}")]
    Scheme { scheme: Scheme, reason: String },
    #[error(
        "the store lacks {}: {}; name their directories with --data, or start without them by \
         --missing-drives accept",
        if drives.len() == 1 { "a drive" } else { "drives" },
        drives.join(", ")
    )]
    Missing { drives: Vec<String> },
    #[error("volume {volume}: {error}")]
    Volume { volume: u16, error: VolumeError },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> NodeError + '_ {
    move |error| NodeError::Io {
        path: path.to_owned(),
        error,
    }
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
    /// Of new objects. `None`: what the store has, or by the number of its drives.
    pub scheme: Option<Scheme>,
    /// Start though drives are missing that the last epoch has in use.
    pub without_missing: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            index_kind: StoreKind::Lmdb,
            index_headroom: crate::limits::INDEX_HEADROOM,
            segment_file_length: None,
            record_cache_bytes: crate::limits::RECORD_CACHE_BYTES,
            scheme: None,
            without_missing: false,
        }
    }
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
    let here = |v: &u16| layout.drive_of(*v).is_some();
    let all = 0..layout.volume_count();
    let owners = all.clone().map(|v| here(&v).then(|| owner(v, cores)));
    let link = Link::new(core, layout.maps(), owners.collect(), mailbox);
    let mut volumes = Vec::new();
    let own: Vec<u16> = all
        .filter(|v| owner(*v, cores) == core && here(v))
        .collect();
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
        store: Store::new(link, layout.scheme()),
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
    let mut failed = None;
    for (v, volume, _) in &share.volumes {
        if let Err(error) = volume.close().await {
            failed.get_or_insert(NodeError::Volume { volume: *v, error });
        }
    }
    failed.map_or(Ok(()), Err)
}
