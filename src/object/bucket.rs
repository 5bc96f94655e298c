//! Buckets: names in the system group, and the fences that make deleting one safe.
//!
//! Deleting: look whether it is empty; fence it in every group, so that no put can slip in; look again; remove the name,
//! or lift the fences. Bucket ids are never reused, so a fence that stays behind harms nobody.

use futures_util::future::join_all;
use shard_format::{BucketFields, BucketId, BucketState, Hlc, MetadataRecord, PgId, PutBucket};

use super::{BucketInfo, Store, StoreError};
use crate::{
    link::{Reply, Request},
    meta::BucketValue,
    rt,
    volume::Refusal,
};

fn info(name: &str, value: BucketValue) -> BucketInfo {
    BucketInfo {
        name: name.to_owned(),
        id: BucketId(value.id),
        owner: value.owner,
        created_ms: value.created_ms,
        region: value.region,
    }
}

impl Store {
    pub(super) async fn find_bucket(&self, name: &str) -> Result<BucketInfo, StoreError> {
        let home = self.home(PgId::SYSTEM);
        match self.link().call(home, Request::Bucket { name: name.to_owned() }).await? {
            Reply::Bucket(Some(value)) => Ok(info(name, value)),
            Reply::Bucket(None) => Err(StoreError::NoSuchBucket),
            _ => unreachable!("a bucket request has a bucket"),
        }
    }

    pub(super) async fn all_buckets(&self) -> Result<Vec<BucketInfo>, StoreError> {
        match self.link().call(self.home(PgId::SYSTEM), Request::Buckets).await? {
            Reply::Buckets(all) => Ok(all.into_iter().map(|(name, value)| info(&name, value)).collect()),
            _ => unreachable!("a buckets request has buckets"),
        }
    }

    pub(super) async fn make_bucket(&self, name: &str, owner: &str, region: &str) -> Result<BucketInfo, StoreError> {
        let id = BucketId(rt::random_u64() >> 1 | 1);
        let created = Hlc::new(rt::unix_ms(), 0);
        let record = MetadataRecord::PutBucket(PutBucket {
            name,
            bucket: id,
            owner,
            created,
            region,
            state: BucketState::Active,
            fields: BucketFields::default(),
        });
        match self.propose(PgId::SYSTEM, &record, true).await? {
            Ok(()) => Ok(BucketInfo {
                name: name.to_owned(),
                id,
                owner: owner.to_owned(),
                created_ms: created.ms(),
                region: region.to_owned(),
            }),
            Err(Refusal::Exists(_)) => {
                let existing = self.find_bucket(name).await?;
                Err(StoreError::BucketAlreadyExists { owner: existing.owner })
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn remove_bucket(&self, name: &str) -> Result<(), StoreError> {
        let bucket = self.find_bucket(name).await?;
        if !self.is_empty_everywhere(bucket.id).await? {
            return Err(StoreError::BucketNotEmpty);
        }
        self.fence(bucket.id, true).await?;
        match self.is_empty_everywhere(bucket.id).await {
            Ok(true) => {}
            Ok(false) => {
                self.fence(bucket.id, false).await?;
                return Err(StoreError::BucketNotEmpty);
            }
            Err(e) => {
                self.fence(bucket.id, false).await?;
                return Err(e);
            }
        }
        let record = MetadataRecord::DeleteBucket { name, bucket: bucket.id };
        match self.propose(PgId::SYSTEM, &record, false).await? {
            Ok(()) => Ok(()),
            // Somebody else was faster; the name is gone or another bucket's.
            Err(Refusal::Missing) => Err(StoreError::NoSuchBucket),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn is_empty_everywhere(&self, bucket: BucketId) -> Result<bool, StoreError> {
        let link = self.link();
        for answer in join_all(link.volumes().map(|v| link.call(v, Request::IsEmpty { bucket }))).await {
            match answer? {
                Reply::Empty(true) => {}
                Reply::Empty(false) => return Ok(false),
                _ => unreachable!("an emptiness request has an answer"),
            }
        }
        Ok(true)
    }

    /// Sets or lifts the fence of a bucket in every group: one batch per volume.
    async fn fence(&self, bucket: BucketId, fenced: bool) -> Result<(), StoreError> {
        let mut payload = Vec::new();
        MetadataRecord::FenceBucket { bucket, fenced }.encode(&mut payload).map_err(|_| StoreError::TooLarge)?;
        let link = self.link();
        let calls = link.volumes().map(|v| {
            let commands = link.map().groups_of(v).into_iter().map(|pg| (pg, payload.clone())).collect();
            link.call(v, Request::Propose { commands, needs_space: false })
        });
        for answer in join_all(calls).await {
            answer?;
        }
        Ok(())
    }
}
