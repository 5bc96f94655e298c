//! What a core does for its groups in the background: frees the shards of dead objects, and asks about shards that
//! nobody named.

use std::time::Duration;

use futures_util::future::join_all;
use shard_format::{MetadataRecord, ObjectId, PgId};

use super::Store;
use crate::{
    limits::ORPHAN_AGE,
    link::{Reply, Request},
    meta::Groups,
    rt,
    volume::VolumeError,
};

/// How often the free list is looked at when it was empty.
const FREE_INTERVAL: Duration = Duration::from_millis(500);
/// Objects freed at a time.
const FREE_BATCH: usize = 64;
/// How often all shards of a volume are asked about.
const ORPHAN_INTERVAL: Duration = Duration::from_secs(3600);
/// How often uploads that were completed long ago are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(900);
/// How often all objects are looked after.
const REPAIR_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Object ids of one question.
const ORPHAN_BATCH: usize = 256;

/// Runs until the volume stops accepting writes.
pub async fn run_upkeep(store: Store, volume: u16, groups: std::rc::Rc<Groups>) {
    if volume == store.link().map().home(PgId::SYSTEM) {
        match store.revive_half_deleted().await {
            Ok(0) => {}
            Ok(buckets) => tracing::info!(
                buckets,
                "buckets whose deletion was cut off are active again"
            ),
            Err(error) => tracing::warn!(%error, "looking for half deleted buckets failed"),
        }
    }
    if let Err(error) = groups.sweep_parts().await {
        tracing::warn!(volume, %error, "looking for parts without an upload failed");
    }
    // Without parity there is nothing to make a shard from.
    if store.scheme().m > 0 {
        let (store, groups) = (store.clone(), groups.clone());
        rt::spawn(async move { run_repairs(store, volume, groups).await });
    }
    let mut next_question = rt::now();
    let mut next_forgetting = rt::now();
    loop {
        let freed = match free_some(&store, &groups).await {
            Ok(freed) => freed,
            // With metadata missing nothing may be called dead; the next start decides again.
            Err(
                VolumeError::Closed | VolumeError::ReadOnly { .. } | VolumeError::Suspect { .. },
            ) => return,
            Err(e) => {
                tracing::warn!(volume, error = %e, "freeing dead objects failed");
                0
            }
        };
        if rt::now() >= next_question {
            next_question = rt::now() + ORPHAN_INTERVAL;
            match ask_about_orphans(&store, volume, &groups, ORPHAN_AGE).await {
                Ok(0) => {}
                Ok(n) => tracing::info!(volume, objects = n, "freed shards that no version names"),
                Err(VolumeError::Closed | VolumeError::ReadOnly { .. }) => return,
                Err(e) => tracing::warn!(volume, error = %e, "asking about orphans failed"),
            }
        }
        if rt::now() >= next_forgetting {
            next_forgetting = rt::now() + FORGET_INTERVAL;
            match store.forget_uploads(&groups).await {
                Ok(_) => {}
                Err(VolumeError::Closed | VolumeError::ReadOnly { .. }) => return,
                Err(e) => tracing::warn!(volume, error = %e, "forgetting completed uploads failed"),
            }
        }
        if freed == 0 {
            rt::sleep(FREE_INTERVAL).await;
        }
    }
}

/// Looks after the objects of the home, at the start and then now and then, until the volume is closed.
async fn run_repairs(store: Store, volume: u16, groups: std::rc::Rc<Groups>) {
    loop {
        match store.repair_home(&groups).await {
            Ok(done) if done.runs > 0 || done.failed > 0 => tracing::info!(
                volume,
                objects = done.objects,
                runs = done.runs,
                bytes = done.bytes,
                failed = done.failed,
                "missing shards were made again"
            ),
            Ok(_) => {}
            Err(VolumeError::Closed | VolumeError::Suspect { .. }) => return,
            Err(error) => tracing::warn!(volume, %error, "looking for missing shards failed"),
        }
        rt::sleep(REPAIR_INTERVAL).await;
    }
}

/// Frees some objects of the groups' free list on every volume, then takes them off the list.
pub async fn free_some(store: &Store, groups: &Groups) -> Result<usize, VolumeError> {
    let objects = groups.to_free(FREE_BATCH)?;
    if objects.is_empty() {
        return Ok(0);
    }
    let link = store.link();
    for object in &objects {
        for answer in join_all(
            link.volumes()
                .map(|v| link.call(v, Request::FreeObject { object: *object })),
        )
        .await
        {
            match answer {
                // A volume that accepts no writes keeps its shards; when it is back it asks whose they are.
                Err(VolumeError::Away | VolumeError::ReadOnly { .. }) => {}
                answer => drop(answer?),
            }
        }
    }
    // Every other volume has acknowledged durably: only now may the list forget.
    let commands = objects
        .iter()
        .map(|object| {
            let mut payload = Vec::new();
            MetadataRecord::FreeDone { object: *object }
                .encode(&mut payload)
                .expect("an object id fits");
            (link.map().group_of_object(*object), payload)
        })
        .collect();
    groups.propose_all(commands, false).await?;
    Ok(objects.len())
}

/// Asks the owners of every object with shards on this volume whether it is known. Returns how many were freed.
pub async fn ask_about_orphans(
    store: &Store,
    volume: u16,
    groups: &Groups,
    age: Duration,
) -> Result<usize, VolumeError> {
    let link = store.link();
    let mut from = ObjectId([0; 16]);
    let mut freed = 0;
    loop {
        let (ids, next) = groups.volume().objects_with_shards(from, ORPHAN_BATCH)?;
        let mut by_home: std::collections::BTreeMap<u16, Vec<_>> = Default::default();
        for id in ids {
            let pg = link.map().group_of_object(id);
            by_home
                .entry(link.map().home(pg))
                .or_default()
                .push((pg, id));
        }
        for (home, objects) in by_home {
            let Reply::Orphans(orphans) =
                link.call(home, Request::Orphans { objects, age }).await?
            else {
                unreachable!("a question about orphans has orphans")
            };
            for object in orphans {
                link.call(volume, Request::FreeObject { object }).await?;
                freed += 1;
            }
        }
        match next {
            Some(next) => from = next,
            None => return Ok(freed),
        }
        rt::yield_now().await;
    }
}
