//! Buckets: names in the system group, and the fences that make deleting one safe.
//!
//! Deleting: look whether it is empty; record that it is being deleted; fence it in every group, so that no put can slip
//! in; look again; remove the name, or make it active again and lift the fences. A deletion goes through only while the
//! bucket is recorded as being deleted. Bucket ids are never reused, so the fences of a deleted bucket harm nobody.

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
        Ok(self.look_up_bucket(name).await?.0)
    }

    /// The bucket, and whether it is being deleted.
    async fn look_up_bucket(&self, name: &str) -> Result<(BucketInfo, bool), StoreError> {
        let home = self.home(PgId::SYSTEM);
        match self
            .link()
            .call(
                home,
                Request::Bucket {
                    name: name.to_owned(),
                },
            )
            .await?
        {
            Reply::Bucket(Some(value)) => {
                let deleting = value.deleting;
                Ok((info(name, value), deleting))
            }
            Reply::Bucket(None) => Err(StoreError::NoSuchBucket),
            _ => unreachable!("a bucket request has a bucket"),
        }
    }

    pub(super) async fn all_buckets(&self) -> Result<Vec<BucketInfo>, StoreError> {
        match self
            .link()
            .call(self.home(PgId::SYSTEM), Request::Buckets)
            .await?
        {
            Reply::Buckets(all) => Ok(all
                .into_iter()
                .map(|(name, value)| info(&name, value))
                .collect()),
            _ => unreachable!("a buckets request has buckets"),
        }
    }

    pub(super) async fn make_bucket(
        &self,
        name: &str,
        owner: &str,
        region: &str,
    ) -> Result<BucketInfo, StoreError> {
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
                Err(StoreError::BucketAlreadyExists {
                    owner: existing.owner,
                })
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Deletes an empty bucket. Runs to its end also if the caller goes away: half a deletion would leave fences behind.
    pub(super) async fn remove_bucket(&self, bucket: &BucketInfo) -> Result<(), StoreError> {
        let (store, bucket) = (self.clone(), bucket.clone());
        rt::spawn(async move { store.remove_bucket_to_the_end(&bucket).await }).await
    }

    async fn remove_bucket_to_the_end(&self, meant: &BucketInfo) -> Result<(), StoreError> {
        let name = meant.name.as_str();
        let (bucket, deleting) = self.look_up_bucket(name).await?;
        // The name may belong to a bucket that somebody else made since the caller looked.
        if bucket.id != meant.id {
            return Err(StoreError::NoSuchBucket);
        }
        if deleting {
            return Err(StoreError::BucketBusy);
        }
        if !self.is_empty_everywhere(bucket.id).await? {
            return Err(StoreError::BucketNotEmpty);
        }
        // From here on a crash is noticed by the next start, which lifts the fences again.
        self.set_bucket_state(&bucket, BucketState::Deleting)
            .await?;
        let fenced_and_empty = match self.fence(bucket.id, true).await {
            Ok(()) => self.is_empty_everywhere(bucket.id).await,
            Err(e) => Err(e),
        };
        if let Ok(true) = fenced_and_empty {
            // As on AWS, uploads do not keep a bucket. No new ones come while it is fenced.
            self.abort_all(bucket.id).await?;
            let record = MetadataRecord::DeleteBucket {
                name,
                bucket: bucket.id,
            };
            return match self.propose(PgId::SYSTEM, &record, false).await? {
                Ok(()) => Ok(()),
                Err(Refusal::Missing) => Err(StoreError::NoSuchBucket),
                Err(refusal) => Err(refusal.into()),
            };
        }
        self.revive_bucket(&bucket).await?;
        fenced_and_empty.and(Err(StoreError::BucketNotEmpty))
    }

    /// Makes a bucket active that was being deleted: first no deletion can go through any more, then puts may.
    async fn revive_bucket(&self, bucket: &BucketInfo) -> Result<(), StoreError> {
        self.set_bucket_state(bucket, BucketState::Active).await?;
        self.fence(bucket.id, false).await
    }

    /// Revives every bucket whose deletion a crash cut off. Called once after a start, before there are new deletions.
    pub async fn revive_half_deleted(&self) -> Result<usize, StoreError> {
        let Reply::Buckets(all) = self
            .link()
            .call(self.home(PgId::SYSTEM), Request::Buckets)
            .await?
        else {
            unreachable!("a buckets request has buckets")
        };
        let mut revived = 0;
        for (name, value) in all.into_iter().filter(|(_, b)| b.deleting) {
            self.revive_bucket(&info(&name, value)).await?;
            revived += 1;
        }
        Ok(revived)
    }

    async fn set_bucket_state(
        &self,
        bucket: &BucketInfo,
        state: BucketState,
    ) -> Result<(), StoreError> {
        let record = MetadataRecord::PutBucket(PutBucket {
            name: &bucket.name,
            bucket: bucket.id,
            owner: &bucket.owner,
            created: Hlc::new(bucket.created_ms, 0),
            region: &bucket.region,
            state,
            fields: BucketFields::default(),
        });
        match self.propose(PgId::SYSTEM, &record, false).await? {
            Ok(()) => Ok(()),
            Err(Refusal::Exists(_)) => Err(StoreError::NoSuchBucket),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn is_empty_everywhere(&self, bucket: BucketId) -> Result<bool, StoreError> {
        let link = self.link();
        for answer in join_all(
            link.homes()
                .map(|v| link.call(v, Request::IsEmpty { bucket })),
        )
        .await
        {
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
        MetadataRecord::FenceBucket { bucket, fenced }
            .encode(&mut payload)
            .map_err(|_| StoreError::TooLarge)?;
        let link = self.link();
        let calls = link.homes().map(|v| {
            let commands = link
                .map()
                .groups_of(v)
                .into_iter()
                .map(|pg| (pg, payload.clone()))
                .collect();
            link.call(
                v,
                Request::Propose {
                    commands,
                    needs_space: false,
                },
            )
        });
        for answer in join_all(calls).await {
            answer?;
        }
        Ok(())
    }
}
