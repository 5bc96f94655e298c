//! Shards that are not where they belong, made again from the others.
//!
//! ```text
//!   at the start, then now and then   every object of a home ── which runs has each volume? ── the missing ones
//!   after a read that met damage      the run that was read ──────────────────────────────────── those roles
//! ```
//!
//! What is missing is asked of the volumes' indexes, so a drive that was away gets what it missed and nothing else, and
//! an empty one in its place gets all. Repair goes at a limited rate ([`REPAIR_BYTES_PER_SECOND`]) beside requests. It
//! changes no metadata: roles lie where the map of the object's epoch has them.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use shard_format::{ChunkIndex, ObjectId, Role};
use smallvec::SmallVec;

use super::{
    Store,
    gather::{Lost, Placed},
    layout::Run,
};
use crate::{
    limits::{REPAIR_BYTES_PER_SECOND, REPAIRS_QUEUED_MAX},
    link::{Reply, Request},
    meta::{Groups, StoredObject},
    rt,
    volume::{VolumeError, segments_per_run},
};

/// Objects looked at between two questions to the index.
const OBJECTS_AT_A_TIME: usize = 64;

/// What came of looking after objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    pub objects: u64,
    pub runs: u64,
    pub bytes: u64,
    /// Runs with too few shards left, or whose volume takes none now.
    pub failed: u64,
}

/// A run that a read found damaged.
type Wish = (Placed, Run, SmallVec<[Role; 32]>);

/// One core's wishes.
#[derive(Default)]
pub(super) struct Repairs {
    queue: RefCell<VecDeque<Wish>>,
    running: std::cell::Cell<bool>,
}

impl Store {
    /// Has the roles of the run made again, when their turn comes; forgotten if too many wait, because the next look at
    /// all objects, or the next read, finds them too.
    pub(super) fn repair_soon(&self, placed: Placed, run: Run, roles: &[Role]) {
        // Reads ask for rows; what is stored again is a run.
        let run = placed.layout.run_at(run.start);
        let wish = (placed, run, SmallVec::from_slice(roles));
        let repairs = self.repairs();
        let mut queue = repairs.queue.borrow_mut();
        if queue.len() >= REPAIRS_QUEUED_MAX || queue.contains(&wish) {
            return;
        }
        tracing::warn!(
            object = %placed.object, chunk = %run.chunk, ?roles,
            "shards cannot be read; made from the others, and stored again"
        );
        queue.push_back(wish);
        drop(queue);
        if !repairs.running.replace(true) {
            let store = self.clone();
            rt::spawn(async move { store.repair_queued().await });
        }
    }

    async fn repair_queued(&self) {
        let repairs: Rc<Repairs> = self.repairs();
        loop {
            let Some((placed, run, roles)) = repairs.queue.borrow_mut().pop_front() else {
                break;
            };
            match self.repair_run(&placed, &run, &roles).await {
                Ok(bytes) => {
                    self.link().count_repaired();
                    pace(bytes).await;
                }
                Err(error) => {
                    tracing::warn!(object = %placed.object, chunk = %run.chunk, %error, "repair failed");
                }
            }
        }
        repairs.running.set(false);
    }

    /// Makes the roles of the run again and stores them, durably; returns their bytes.
    async fn repair_run(
        &self,
        placed: &Placed,
        run: &Run,
        roles: &[Role],
    ) -> Result<u64, VolumeError> {
        let lost = Lost {
            roles: SmallVec::from_slice(roles),
            error: VolumeError::Unreadable {
                what: format!("chunk {} of object {}", run.chunk, placed.object),
            },
        };
        let volumes = placed.volumes(self, run.chunk)?;
        let (others, made) = placed.make(self, run, roles, lost).await?;
        drop(others);
        let mut bytes = 0;
        for (role, data) in made {
            let segments = placed.describe(run, role, &data);
            if segments.is_empty() {
                continue;
            }
            bytes += data.len() as u64;
            let volume = volumes[usize::from(role.0)];
            let store = Request::Store { segments, data };
            self.link().call(volume, store).await?;
            self.link().call(volume, Request::SyncShards).await?;
        }
        Ok(bytes)
    }

    /// Looks at every object of the home, and makes what is missing of it.
    pub async fn repair_home(&self, groups: &Groups) -> Result<Repaired, VolumeError> {
        let mut done = Repaired::default();
        let group_of = |object| self.link().map().group_of_object(object);
        let mut from = ObjectId([0; 16]);
        loop {
            let (objects, next) = groups
                .stored_objects(group_of, from, OBJECTS_AT_A_TIME)
                .await?;
            for object in objects {
                done.objects += 1;
                self.repair_object(&object, &mut done).await?;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(done),
            }
            rt::yield_now().await;
        }
    }

    async fn repair_object(
        &self,
        object: &StoredObject,
        done: &mut Repaired,
    ) -> Result<(), VolumeError> {
        let placed = Placed::of(object);
        if placed.layout.scheme.m == 0 {
            return Ok(());
        }
        let mut at = 0;
        while at < placed.layout.size {
            let chunk = placed.layout.run_at(at).chunk;
            let end = (at + placed.layout.chunk_bytes()).min(placed.layout.size);
            let present = self.present(&placed, chunk).await?;
            while at < end {
                let run = placed.layout.run_at(at);
                at = run.end;
                let number = run.row / segments_per_run(placed.layout.scheme);
                let missing: SmallVec<[Role; 32]> = present
                    .iter()
                    .filter(|(role, runs)| {
                        runs.is_some_and(|runs| runs >> number & 1 == 0)
                            && placed.layout.memory(&run, *role) > 0
                    })
                    .map(|(role, _)| *role)
                    .collect();
                if missing.is_empty() {
                    continue;
                }
                match self.repair_run(&placed, &run, &missing).await {
                    Ok(bytes) => {
                        done.runs += 1;
                        done.bytes += bytes;
                        self.link().count_repaired();
                        pace(bytes).await;
                    }
                    Err(error @ VolumeError::Closed) => return Err(error),
                    Err(error) => {
                        done.failed += 1;
                        tracing::warn!(
                            object = %placed.object, chunk = %run.chunk, %error,
                            "shards are missing and cannot be made"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// The runs that each volume has of its role; `None` where it does not answer.
    async fn present(
        &self,
        placed: &Placed,
        chunk: ChunkIndex,
    ) -> Result<SmallVec<[(Role, Option<u64>); 32]>, VolumeError> {
        let volumes = placed.volumes(self, chunk)?;
        let mut present = SmallVec::new();
        for (role, volume) in (0..).map(Role).zip(volumes) {
            let shard = placed.shard(chunk, role);
            let runs = match self.link().call(volume, Request::Runs { shard }).await {
                Ok(Reply::Runs(runs)) => Some(runs),
                Err(error @ VolumeError::Closed) => return Err(error),
                _ => None,
            };
            present.push((role, runs));
        }
        Ok(present)
    }
}

/// Keeps to the rate.
async fn pace(bytes: u64) {
    rt::sleep(Duration::from_nanos(
        bytes * 1_000_000_000 / REPAIR_BYTES_PER_SECOND,
    ))
    .await;
}
