//! A store on one core, and filling it fast: many records a proposal, several proposals in flight.

use std::path::Path;
use std::rc::Rc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ostrakon::meta::Groups;
use ostrakon::node::{self, CoreShare, Settings};
use ostrakon::placement::{Map, key_hash32};
use ostrakon::rt::{self, CoreId};
use ostrakon::volume::{Outcome, VolumeError};
use shard_format::{
    Body, BucketId, Condition, DeleteVersion, Etag, Hlc, MetadataRecord, ObjectId, PgId,
    PutVersion, Scheme, VersionFields, VersionId,
};

use crate::Failure;

/// Records of one proposal.
const PROPOSAL_RECORDS: usize = 500;
/// Proposals under way.
const PROPOSALS_MAX: usize = 8;

/// Opens (or formats, for `volumes`) the store in `directory`, all of it on this core.
pub async fn open(directory: &Path, volumes: u16) -> Result<CoreShare, Failure> {
    let settings = Settings::default();
    let layout = node::prepare(&[directory.to_owned()], volumes, &settings).await?;
    let share = node::start(&layout, CoreId(0), 1, None, &settings).await?;
    node::start_upkeep(&share);
    Ok(share)
}

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new version with an inline body of this many bytes.
    Put {
        body_bytes: usize,
    },
    Delete,
}

/// The encoded record of one step.
pub fn encode(bucket: BucketId, key: &[u8], step: Step, map: &Map) -> Vec<u8> {
    let mut payload = Vec::new();
    let body = vec![
        b'o';
        if let Step::Put { body_bytes } = step {
            body_bytes
        } else {
            0
        }
    ];
    let record = match step {
        Step::Put { .. } => {
            let id = Hlc::new(rt::unix_ms(), 0);
            MetadataRecord::PutVersion(PutVersion {
                bucket,
                key,
                version: VersionId::Null,
                object: ObjectId::new(
                    key_hash32(bucket, key),
                    id,
                    (rt::random_u64() as u32).to_be_bytes(),
                ),
                size: body.len() as u64,
                etag: Etag::Md5([7; 16]),
                modified_ms: rt::unix_ms(),
                scheme: Scheme::PLAIN,
                epoch: map.epoch,
                owner: "bench",
                condition: Condition::None,
                body: Body::Inline(&body),
                fields: VersionFields::default(),
            })
        }
        Step::Delete => MetadataRecord::DeleteVersion(DeleteVersion {
            bucket,
            key,
            version: VersionId::Null,
            condition: Condition::None,
        }),
    };
    record.encode(&mut payload).expect("a short key and body");
    payload
}

/// Applies `step` to every key. Returns when all are durable.
pub async fn apply(
    share: &CoreShare,
    bucket: BucketId,
    keys: impl Iterator<Item = Vec<u8>>,
    step: Step,
) -> Result<u64, Failure> {
    let link = share.store.link();
    let map = link.map();
    let groups: Vec<Rc<Groups>> = link.local().into_iter().map(|(_, g)| g).collect();
    let mut waiting: Vec<Vec<(PgId, Vec<u8>)>> = vec![Vec::new(); groups.len()];
    let mut under_way = FuturesUnordered::new();
    let propose = |volume: usize, commands: Vec<(PgId, Vec<u8>)>| {
        let groups = groups[volume].clone();
        async move { groups.propose_all(commands, step != Step::Delete).await }
    };
    let mut done = 0;
    for key in keys {
        let pg = map.group_of_key(bucket, &key);
        let volume = usize::from(map.home(pg));
        waiting[volume].push((pg, encode(bucket, &key, step, map)));
        if waiting[volume].len() == PROPOSAL_RECORDS {
            if under_way.len() == PROPOSALS_MAX
                && let Some(outcomes) = under_way.next().await
            {
                done += accepted(outcomes)?;
            }
            under_way.push(propose(volume, std::mem::take(&mut waiting[volume])));
        }
    }
    for (volume, commands) in waiting.into_iter().enumerate() {
        if !commands.is_empty() {
            under_way.push(propose(volume, commands));
        }
    }
    while let Some(outcomes) = under_way.next().await {
        done += accepted(outcomes)?;
    }
    Ok(done)
}

fn accepted(outcomes: Result<Vec<Outcome>, VolumeError>) -> Result<u64, Failure> {
    let outcomes = outcomes?;
    match outcomes.iter().find_map(|o| o.err()) {
        None => Ok(outcomes.len() as u64),
        Some(refusal) => Err(Failure::new(format!("a record was refused: {refusal:?}"))),
    }
}

/// Checkpoints every volume.
pub async fn checkpoint(share: &CoreShare) -> Result<(), Failure> {
    for (_, volume, _) in &share.volumes {
        volume.checkpoint().await?;
    }
    Ok(())
}
