//! What a store is made of and how it does: drives, volumes, scheme, capacity, what is missing.
//!
//! The admin listener tells it as JSON (`/status`), `ostrakon status` asks there and prints it. Capacity is what placement
//! weighs, fixed when a drive is formatted; free bytes are what the volumes' files have left.

pub mod command;

use serde::{Deserialize, Serialize};

use crate::{
    link::{Link, VolumeStatus},
    node::Layout,
    placement::scheme,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// K+M of new objects.
    pub scheme: String,
    /// Level of the failure domains that the roles of a stripe are spread over.
    pub failure_domain: String,
    pub epoch: u32,
    /// Sum of the drives' capacities, and what of it objects can use.
    pub raw_bytes: u64,
    pub usable_bytes: u64,
    pub drives: Vec<Drive>,
    /// Since the start, over all cores.
    pub runs_rebuilt: u64,
    pub runs_repaired: u64,
    /// What an operator should know; empty if all is well.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drive {
    pub id: String,
    /// `None`: the drive is missing.
    pub directory: Option<String>,
    pub capacity_bytes: u64,
    /// Names, and bodies up to 32 KiB, are on this one alone.
    pub has_metadata: bool,
    pub volumes: Vec<Volume>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub volume: u16,
    pub answers: bool,
    /// Why it takes no writes.
    pub read_only: Option<String>,
    /// Durable metadata cannot be read.
    pub suspect: bool,
    pub live_bytes: u64,
    pub dead_bytes: u64,
}

/// Asks every volume.
pub async fn of(layout: &Layout, link: &Link) -> Status {
    let answers = link.statuses().await.into_iter();
    let answers: Vec<(u16, VolumeStatus)> = answers
        .filter_map(|(volume, status)| Some((volume, status?)))
        .collect();
    summary(layout, &answers)
}

fn summary(layout: &Layout, answers: &[(u16, VolumeStatus)]) -> Status {
    let epoch = layout.map.last();
    let maps = layout.maps();
    let members = maps.last().expect("a map has an epoch").members();
    let mut problems = Vec::new();
    let drives: Vec<Drive> = (0..)
        .zip(&epoch.drives)
        .map(|(n, drive)| {
            let here = layout.drives.iter().find(|d| d.id == drive.drive);
            let volumes: Vec<Volume> = drive
                .volumes()
                .map(|volume| {
                    let answer = answers.iter().find(|(v, _)| *v == volume);
                    let status = answer.map(|(_, status)| status);
                    Volume {
                        volume,
                        answers: status.is_some(),
                        read_only: status
                            .and_then(|s| s.writable.as_ref().err())
                            .map(|error| error.to_string()),
                        suspect: status.is_some_and(|s| s.suspect),
                        live_bytes: status.map_or(0, |s| s.live_bytes),
                        dead_bytes: status.map_or(0, |s| s.dead_bytes),
                    }
                })
                .collect();
            let directory = here.map(|d| d.directory.display().to_string());
            match &directory {
                None => problems.push(format!(
                    "drive {} is missing: its shards are made from the others' while they are read",
                    drive.drive
                )),
                Some(directory) => {
                    for volume in &volumes {
                        problems.extend(problem_of(volume, directory));
                    }
                }
            }
            Drive {
                id: drive.drive.to_string(),
                directory,
                capacity_bytes: drive.capacity,
                has_metadata: n == 0,
                volumes,
            }
        })
        .collect();
    if drives.len() > 1 {
        let home = drives[0].directory.as_deref().unwrap_or("the first drive");
        problems.push(format!(
            "metadata has one home: without {home} nothing is served"
        ));
    }
    // Cores tell by their volumes.
    let mut cores: Vec<(u16, u64, u64)> = answers
        .iter()
        .map(|(_, s)| (s.core.0, s.runs_rebuilt, s.runs_repaired))
        .collect();
    cores.sort_unstable();
    cores.dedup_by_key(|core| core.0);
    let usable = scheme::usable_bytes(members, epoch.scheme).unwrap_or(0);
    Status {
        scheme: epoch.scheme.to_string(),
        failure_domain: match scheme::fit(members, epoch.scheme) {
            Ok(fit) => fit.level.to_string(),
            Err(error) => error.to_string(),
        },
        epoch: epoch.epoch.0,
        raw_bytes: drives.iter().map(|d| d.capacity_bytes).sum(),
        usable_bytes: u64::try_from(usable).unwrap_or(u64::MAX),
        drives,
        runs_rebuilt: cores.iter().map(|core| core.1).sum(),
        runs_repaired: cores.iter().map(|core| core.2).sum(),
        problems,
    }
}

fn problem_of(volume: &Volume, directory: &str) -> Option<String> {
    let number = volume.volume;
    if !volume.answers {
        return Some(format!("volume {number} in {directory} does not answer"));
    }
    if let Some(reason) = &volume.read_only {
        return Some(format!(
            "volume {number} in {directory} takes no writes: {reason}; put the drive right and start again"
        ));
    }
    volume.suspect.then(|| {
        format!("volume {number} in {directory} cannot read durable metadata (ostrakon inspect)")
    })
}
