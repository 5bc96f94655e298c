//! What the data directories are: formatting them, and reading what they say.
//!
//! ```text
//! DATA/map             the cluster map; every drive keeps all of it
//! DATA/volume-N/format which volume this is
//! DATA/format          which drive this is; written last
//! ```
//!
//! A start serves only when every drive of the map's last epoch is there and formatted, or told to do without. So a
//! directory that has no `format` yet and is marked as being formatted never held anything that was acknowledged, and is
//! formatted again; one that is merely empty is a drive that was lost or swapped, and nobody formats it by accident.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use shard_format::{
    CLUSTER_MAP_BYTES_MAX, ClusterId, ClusterMap, DriveFormat, DriveId, DriveState, Epoch,
    MapDrive, MapEpoch, Scheme, VolumeFormat, VolumeId, decode_drive_format, decode_volume_format,
    format_file::FORMAT_FILE_SIZE,
};

use super::{NodeError, Settings, io_at};
use crate::{
    datadir::{FORMAT_NAME, FORMATTING_NAME, MAP_NAME},
    limits::{
        FORMAT_BYTES_MAX, RESERVE_FILES, SEGMENT_FILE_LENGTH_MAX, SEGMENT_FILE_LENGTH_MIN,
        SPARE_FILES,
    },
    placement::{Domain, Map, Member, scheme},
    rt,
    volume::VolumeConfig,
};

/// Placement groups of a store, sized for the cluster it may become.
pub const PG_COUNT: u32 = 256;

/// A store's identity and geometry.
#[derive(Clone, Debug)]
pub struct Layout {
    pub map: ClusterMap,
    pub pg_count: u32,
    /// Those that are here, in the map's order.
    pub drives: Vec<Drive>,
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct Drive {
    pub directory: PathBuf,
    pub id: DriveId,
    pub first_volume: u16,
    pub volumes: Vec<VolumeId>,
    pub segment_file_length: u64,
}

impl Drive {
    /// The directory of one of its volumes.
    pub fn volume_directory(&self, volume: u16) -> PathBuf {
        volume_directory(&self.directory, volume)
    }

    fn holds(&self, volume: u16) -> bool {
        volume
            .checked_sub(self.first_volume)
            .is_some_and(|i| usize::from(i) < self.volumes.len())
    }
}

impl Layout {
    pub fn cluster(&self) -> ClusterId {
        self.map.cluster
    }

    /// One more than the highest volume there ever was.
    pub fn volume_count(&self) -> u16 {
        let drives = self.map.epochs.iter().flat_map(|e| &e.drives);
        drives.map(|d| d.volumes().end).max().unwrap_or(0)
    }

    /// The drive of a volume, if it is here.
    pub fn drive_of(&self, volume: u16) -> Option<&Drive> {
        self.drives.iter().find(|drive| drive.holds(volume))
    }

    /// Drives that the last epoch has in use and that are not here.
    pub fn missing(&self) -> Vec<DriveId> {
        let here: BTreeSet<DriveId> = self.drives.iter().map(|d| d.id).collect();
        let wanted = self.map.last().drives.iter();
        wanted
            .filter(|d| d.state == DriveState::InUse && !here.contains(&d.drive))
            .map(|d| d.drive)
            .collect()
    }

    /// Of new objects.
    pub fn scheme(&self) -> Scheme {
        self.map.last().scheme
    }

    /// Where everything belongs, epoch by epoch.
    pub fn maps(&self) -> Vec<Map> {
        let maps = self.map.epochs.iter();
        maps.map(|epoch| placement_map(epoch, self.pg_count))
            .collect()
    }

    /// `neighbours`: volumes that the owner of this one has. The volume must be here.
    pub(super) fn config(
        &self,
        volume: u16,
        neighbours: usize,
        settings: &Settings,
    ) -> VolumeConfig {
        let drive = self.drive_of(volume).expect("the volume is here");
        VolumeConfig {
            directory: drive.volume_directory(volume),
            cluster: self.map.cluster,
            drive: drive.id,
            volume: drive.volumes[usize::from(volume - drive.first_volume)],
            segment_file_length: drive.segment_file_length,
            // All volumes of the drive see the same free bytes.
            index_headroom: settings.index_headroom * drive.volumes.len() as u64,
            index_kind: settings.index_kind,
            record_cache_bytes: settings.record_cache_bytes / neighbours,
        }
    }
}

/// The map of one epoch: drives are the failure domains, their volumes weigh what they hold.
fn placement_map(epoch: &MapEpoch, pg_count: u32) -> Map {
    let drives = (0..).zip(&epoch.drives);
    let members = drives.flat_map(|(number, drive)| {
        let weight = match drive.state {
            DriveState::InUse => (drive.capacity / u64::from(drive.volume_count)).max(1),
            DriveState::Away => 0,
        };
        drive.volumes().map(move |volume| Member {
            volume,
            weight,
            domain: Domain {
                drive: number,
                ..Domain::default()
            },
        })
    });
    Map::new(epoch.epoch, pg_count, members.collect())
}

fn volume_directory(directory: &Path, volume: u16) -> PathBuf {
    directory.join(format!("volume-{volume}"))
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

/// Reads the layout of the directories, or formats them if they are not a store yet: one volume for each core at least,
/// equally many on every drive.
pub async fn prepare(
    directories: &[PathBuf],
    cores: u16,
    settings: &Settings,
) -> Result<Layout, NodeError> {
    for directory in directories {
        if exists(&directory.join(FORMAT_NAME)).await? {
            return open(directories, settings).await;
        }
    }
    format(directories, cores, settings).await
}

/// Reads the layout of formatted directories, all that there are of a store.
pub async fn read_layout(directories: &[PathBuf]) -> Result<Layout, NodeError> {
    open(directories, &Settings::default()).await
}

async fn format(
    directories: &[PathBuf],
    cores: u16,
    settings: &Settings,
) -> Result<Layout, NodeError> {
    let count = u16::try_from(directories.len()).expect("as many as a command line has");
    let volume_count = cores.div_ceil(count);
    let mut drives = Vec::new();
    for (i, directory) in (0..).zip(directories) {
        drives.push(MapDrive {
            drive: DriveId(random_id()),
            first_volume: i * volume_count,
            volume_count,
            state: DriveState::InUse,
            capacity: free_bytes(directory).await?,
        });
    }
    let mut epoch = MapEpoch {
        epoch: Epoch(1),
        began_ms: rt::unix_ms(),
        scheme: Scheme::PLAIN,
        drives,
    };
    let members = placement_map(&epoch, PG_COUNT);
    let chosen = settings.scheme;
    epoch.scheme = chosen.unwrap_or_else(|| scheme::default_of(members.members()));
    scheme::fit(members.members(), epoch.scheme).map_err(|error| NodeError::Scheme {
        scheme: epoch.scheme,
        reason: error.to_string(),
    })?;
    let map = ClusterMap {
        cluster: ClusterId(random_id()),
        epochs: vec![epoch],
    };
    // The map first: with it on every drive, one whose formatting is cut off is known by the others.
    for directory in directories {
        write_map(directory, &map).await?;
    }
    let mut formatted = Vec::new();
    for (directory, drive) in directories.iter().zip(&map.last().drives) {
        formatted.push(format_drive(directory, map.cluster, drive, settings).await?);
    }
    Ok(Layout {
        map,
        pg_count: PG_COUNT,
        drives: formatted,
    })
}

async fn format_drive(
    directory: &Path,
    cluster: ClusterId,
    drive: &MapDrive,
    settings: &Settings,
) -> Result<Drive, NodeError> {
    let free = free_bytes(directory).await?;
    let segment_file_length = settings
        .segment_file_length
        .unwrap_or_else(|| choose_file_length(free, drive.volume_count));
    let formatted = Drive {
        directory: directory.to_owned(),
        id: drive.drive,
        first_volume: drive.first_volume,
        volumes: drive.volumes().map(|_| VolumeId(random_id())).collect(),
        segment_file_length,
    };
    for (index, id) in drive.volumes().zip(&formatted.volumes) {
        let directory = formatted.volume_directory(index);
        if !exists(&directory).await? {
            rt::fs::create_dir(&directory)
                .await
                .map_err(io_at(&directory))?;
        }
        let mut bytes = [0; FORMAT_FILE_SIZE];
        VolumeFormat {
            cluster,
            drive: drive.drive,
            volume: *id,
            volume_index: index,
            segment_file_length,
        }
        .encode(&mut bytes);
        write(&directory.join(FORMAT_NAME), &bytes).await?;
    }
    rt::fs::sync_dir(directory)
        .await
        .map_err(io_at(directory))?;
    let mut bytes = [0; FORMAT_FILE_SIZE];
    DriveFormat {
        cluster,
        drive: drive.drive,
        volume_count: drive.volume_count,
        first_volume: drive.first_volume,
        pg_count: PG_COUNT,
        segment_file_length,
        created_ms: rt::unix_ms(),
    }
    .encode(&mut bytes);
    write(&directory.join(FORMAT_NAME), &bytes).await?;
    Ok(formatted)
}

async fn open(directories: &[PathBuf], settings: &Settings) -> Result<Layout, NodeError> {
    let mut drives: Vec<(Drive, DriveFormat)> = Vec::new();
    let mut unfinished = Vec::new();
    for directory in directories {
        if exists(&directory.join(FORMAT_NAME)).await? {
            let (drive, format) = read_drive(directory).await?;
            if let Some((other, first)) = drives.first() {
                if first.cluster != format.cluster {
                    let other = other.directory.display();
                    return Err(mismatch(
                        directory,
                        &format!("is of another store than {other}"),
                    ));
                }
                if drives.iter().any(|(other, _)| other.id == drive.id) {
                    return Err(mismatch(
                        directory,
                        "is the same drive as another one named",
                    ));
                }
            }
            drives.push((drive, format));
        } else if exists(&directory.join(FORMATTING_NAME)).await? {
            unfinished.push(directory);
        } else {
            let reason = "is empty, and the other directories are a store; name the directories \
                          that the store had, and no others";
            return Err(mismatch(directory, reason));
        }
    }
    let cluster = drives[0].1.cluster;
    let pg_count = drives[0].1.pg_count;
    let map = newest_map(drives.iter().map(|(d, _)| &d.directory), cluster).await?;
    for (drive, _) in &drives {
        let known = map.last().drives.iter().find(|d| d.drive == drive.id);
        if known.is_none_or(|d| d.first_volume != drive.first_volume) {
            return Err(mismatch(
                &drive.directory,
                "is a drive that the store has replaced; empty it, or leave it out",
            ));
        }
    }
    let mut layout = Layout {
        map,
        pg_count,
        drives: drives.into_iter().map(|(drive, _)| drive).collect(),
    };
    let missing = layout.missing();
    if !unfinished.is_empty() {
        if layout.map.epochs.len() > 1 || missing.len() != unfinished.len() {
            let reason = "was being formatted, and is not a drive that the store lacks";
            return Err(mismatch(unfinished[0], reason));
        }
        // Formatting was cut off, so nothing was ever acknowledged: which is which does not matter.
        for (directory, id) in unfinished.iter().zip(&missing) {
            let drives = &layout.map.last().drives;
            let drive = drives.iter().find(|d| d.drive == *id);
            let drive = *drive.expect("missing ones are of the map");
            write_map(directory, &layout.map).await?;
            let drive = format_drive(directory, cluster, &drive, settings).await?;
            layout.drives.push(drive);
        }
    }
    layout.drives.sort_by_key(|drive| drive.first_volume);
    let missing = layout.missing();
    if !missing.is_empty() && !settings.without_missing {
        return Err(NodeError::Missing {
            drives: missing.iter().map(|id| id.to_string()).collect(),
        });
    }
    if let Some(chosen) = settings.scheme
        && chosen != layout.scheme()
    {
        return Err(NodeError::Scheme {
            scheme: chosen,
            reason: format!(
                "the store was formatted with {}, and this release keeps it",
                layout.scheme()
            ),
        });
    }
    Ok(layout)
}

/// The map with the highest epoch; every drive that lacks it gets it.
async fn newest_map(
    directories: impl Iterator<Item = &PathBuf> + Clone,
    cluster: ClusterId,
) -> Result<ClusterMap, NodeError> {
    let mut newest: Option<ClusterMap> = None;
    let mut behind = Vec::new();
    let mut failed = None;
    for directory in directories.clone() {
        match read_map(directory).await {
            Ok(map) if map.cluster == cluster => {
                let epoch = map.last().epoch;
                if newest.as_ref().is_none_or(|n| n.last().epoch < epoch) {
                    newest = Some(map);
                }
                behind.push((directory, Some(epoch)));
            }
            Ok(_) => return Err(mismatch(&directory.join(MAP_NAME), "is of another store")),
            Err(error) => {
                tracing::warn!(%error, "a drive's cluster map cannot be read");
                failed.get_or_insert(error);
                behind.push((directory, None));
            }
        }
    }
    let Some(newest) = newest else {
        return Err(failed.expect("there is a directory"));
    };
    for (directory, epoch) in behind {
        if epoch != Some(newest.last().epoch) {
            write_map(directory, &newest).await?;
        }
    }
    Ok(newest)
}

async fn read_map(directory: &Path) -> Result<ClusterMap, NodeError> {
    let path = directory.join(MAP_NAME);
    let bytes = rt::fs::read_file(&path, CLUSTER_MAP_BYTES_MAX)
        .await
        .map_err(io_at(&path))?;
    ClusterMap::decode(&bytes).map_err(|error| NodeError::Format { path, error })
}

async fn write_map(directory: &Path, map: &ClusterMap) -> Result<(), NodeError> {
    write(&directory.join(MAP_NAME), &map.encode()).await
}

async fn read_drive(directory: &Path) -> Result<(Drive, DriveFormat), NodeError> {
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
    for i in format.first_volume..format.first_volume + format.volume_count {
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
            return Err(mismatch(
                &path,
                "belongs to another store; put the right volume back",
            ));
        }
        volumes.push(v.volume);
    }
    let drive = Drive {
        directory: directory.to_owned(),
        id: format.drive,
        first_volume: format.first_volume,
        volumes,
        segment_file_length: format.segment_file_length,
    };
    Ok((drive, format))
}

fn mismatch(path: &Path, reason: &str) -> NodeError {
    NodeError::Mismatch {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

async fn exists(path: &Path) -> Result<bool, NodeError> {
    rt::fs::exists(path).await.map_err(io_at(path))
}

async fn free_bytes(path: &Path) -> Result<u64, NodeError> {
    rt::fs::free_bytes(path).await.map_err(io_at(path))
}

async fn write(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    rt::fs::write_file_atomic(path, bytes)
        .await
        .map_err(io_at(path))
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    rt::fill_random(&mut id);
    id
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
