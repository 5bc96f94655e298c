//! Putting an object: bytes first, then the record that names them.

use std::{collections::BTreeSet, pin::pin, task::Poll};

use futures_util::{StreamExt, future::join_all, poll, stream::FuturesUnordered};
use shard_format::{
    BLOCK_SIZE, BucketId, CHUNK_SIZE, ChecksumType, ChunkIndex, Condition as FormatCondition,
    Etag as FormatEtag, ObjectChecksum, ObjectId, PutVersion, Role, SEGMENT_SIZE, Scheme,
    SegmentEntry, SegmentIdentity, SegmentIndex, Transform, VersionFields, VersionId, segment_crc,
};

use super::{
    Body, BucketInfo, Condition, Etag, ObjectHeaders, PUT_SIZE_MAX, PutDone, Store, StoreError,
    checksum::{Checksum, Kind},
};
use crate::{
    limits::{INLINE_BODY_MAX, STORE_BYTES_MAX, STORES_IN_FLIGHT},
    link::{Reply, Request},
    log::Segment,
    md5::Md5,
    placement::key_hash32,
    rt::{self, Buf, Task},
    volume::VolumeError,
};

/// A buffer for the next bytes of a body. While it waits for one, the body holds none that others wait for.
async fn room<B: Body>(body: &mut B, size: usize) -> Buf {
    let mut buf = pin!(Buf::alloc(size));
    match poll!(&mut buf) {
        Poll::Ready(buf) => buf,
        Poll::Pending => {
            body.settle();
            buf.await
        }
    }
}

impl Store {
    pub(super) async fn put_object<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError> {
        let size = body.length();
        if size > PUT_SIZE_MAX {
            return Err(StoreError::TooLarge);
        }
        if size <= INLINE_BODY_MAX as u64 {
            self.put_inline(bucket.id, key, &headers, condition, body)
                .await
        } else {
            self.put_chunked(bucket.id, key, &headers, condition, body)
                .await
        }
    }

    /// One record, one flush. The body is copied twice: from the socket's buffer into the record, from the record into
    /// the batch.
    async fn put_inline<B: Body>(
        &self,
        bucket: BucketId,
        key: &[u8],
        headers: &ObjectHeaders,
        condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError> {
        let size = body.length() as usize;
        let buf = room(body, size.max(1)).await;
        let (mut buf, end) = body.fill(buf, 0, size).await?;
        if end != size {
            return Err(StoreError::Body(super::BodyError::Incomplete));
        }
        buf.set_len(size);
        body.finish().await?;
        let (etag, buf) = self.hashing().finish(Md5::new(), buf, size).await;
        let object = self.new_object_id(bucket, key);
        let version = NewVersion {
            object,
            size: size as u64,
            etag,
            checksum: body.checksum(),
            body: shard_format::Body::Inline(&buf[..]),
        };
        self.commit_put(bucket, key, headers, condition, version)
            .await
    }

    async fn put_chunked<B: Body>(
        &self,
        bucket: BucketId,
        key: &[u8],
        headers: &ObjectHeaders,
        condition: Condition,
        body: &mut B,
    ) -> Result<PutDone, StoreError> {
        let size = body.length();
        let home = self.home(self.group(bucket, key));
        // Until the commit the object is nobody's: the lease tells its group that an upload holds it.
        let begin = Request::Begin {
            key_hash32: key_hash32(bucket, key),
        };
        let Reply::Begun(object) = self.link().call(home, begin).await? else {
            unreachable!("a beginning has an object id")
        };
        let mut volumes = BTreeSet::new();
        let stored = self.store_body(object, body, &mut volumes).await;
        let result = match stored {
            Ok(etag) => {
                let chunks = size.div_ceil(CHUNK_SIZE as u64) as u32;
                let version = NewVersion {
                    object,
                    size,
                    etag,
                    checksum: body.checksum(),
                    body: shard_format::Body::Chunks(chunks),
                };
                self.commit_put(bucket, key, headers, condition, version)
                    .await
                    // A full log took nothing; any other error may have left the command behind.
                    .map_err(|e| {
                        let unnamed = e == StoreError::Full;
                        (e, unnamed)
                    })
            }
            Err(e) => Err((e, true)),
        };
        let result = result.map_err(|(e, unnamed)| {
            // Nothing was proposed, so nobody will ever name these shards.
            if unnamed {
                for v in volumes {
                    self.link().tell(v, Request::FreeObject { object });
                }
            }
            e
        });
        self.link().tell(home, Request::Release { object });
        result
    }

    /// Streams the body to the volumes and makes it durable. Memory: [`STORES_IN_FLIGHT`] + 1 pieces. No byte is copied
    /// between socket and drive.
    pub(super) async fn store_body<B: Body>(
        &self,
        object: ObjectId,
        body: &mut B,
        volumes: &mut BTreeSet<u16>,
    ) -> Result<[u8; 16], StoreError> {
        let mut in_flight = FuturesUnordered::new();
        let stored = self.feed(object, body, volumes, &mut in_flight).await;
        // Whatever happened: what was sent to a volume has arrived when this returns, and not after it is freed.
        let mut failed = None;
        while let Some(done) = in_flight.next().await {
            if let Err(e) = done {
                failed.get_or_insert(e);
            }
        }
        let md5 = stored?;
        if let Some(e) = failed {
            return Err(e.into());
        }
        // Signatures and checksums of the whole, before anything can become visible.
        body.finish().await?;
        let link = self.link();
        for synced in join_all(volumes.iter().map(|v| link.call(*v, Request::SyncShards))).await {
            synced?;
        }
        Ok(md5)
    }

    /// Sends the body to the volumes; the last pieces are under way when it returns.
    async fn feed<B: Body>(
        &self,
        object: ObjectId,
        body: &mut B,
        volumes: &mut BTreeSet<u16>,
        in_flight: &mut FuturesUnordered<Task<Result<Reply, VolumeError>>>,
    ) -> Result<[u8; 16], StoreError> {
        let size = body.length();
        let link = self.link();
        let mut md5 = Md5::new();
        let mut offset = 0u64;
        let mut renewed = rt::now();
        while offset < size {
            let want = (size - offset).min(STORE_BYTES_MAX as u64) as usize;
            let buf = room(body, want.next_multiple_of(BLOCK_SIZE)).await;
            let (mut buf, end) = body.fill(buf, 0, want).await?;
            if end != want {
                return Err(StoreError::Body(super::BodyError::Incomplete));
            }
            buf.set_len(want.next_multiple_of(BLOCK_SIZE));
            buf[want..].fill(0);
            (md5, buf) = self.hashing().update(md5, buf, want).await;
            let chunk = ChunkIndex((offset / CHUNK_SIZE as u64) as u32);
            let first = (offset % CHUNK_SIZE as u64) as usize / SEGMENT_SIZE;
            let segments = self.describe(object, chunk, first, &buf[..want]);
            let volume = link.map().volume_of_chunk(object, chunk);
            volumes.insert(volume);
            if in_flight.len() == STORES_IN_FLIGHT
                && let Some(done) = in_flight.next().await
            {
                done?;
            }
            // A task of its own: a piece that waits for us to look at it holds memory that we may be waiting for.
            let (to, data) = (link.clone(), buf);
            in_flight.push(rt::spawn(async move {
                to.call(volume, Request::Store { segments, data }).await
            }));
            offset += want as u64;
            self.keep_lease(object, &mut renewed);
        }
        Ok(md5.finish())
    }

    fn describe(
        &self,
        object: ObjectId,
        chunk: ChunkIndex,
        first: usize,
        bytes: &[u8],
    ) -> Vec<Segment> {
        let epoch = self.link().map().epoch;
        bytes
            .chunks(SEGMENT_SIZE)
            .enumerate()
            .map(|(i, stored)| {
                let segment = SegmentIndex((first + i) as u16);
                let identity = SegmentIdentity {
                    object,
                    chunk,
                    segment,
                    role: Role(0),
                };
                Segment {
                    entry: SegmentEntry {
                        identity,
                        scheme: Scheme::PLAIN,
                        epoch,
                    },
                    transform: Transform::None,
                    logical_len: stored.len() as u32,
                    stored_len: stored.len() as u32,
                    crc: segment_crc(&identity, stored),
                }
            })
            .collect()
    }

    async fn commit_put(
        &self,
        bucket: BucketId,
        key: &[u8],
        headers: &ObjectHeaders,
        condition: Condition,
        version: NewVersion<'_>,
    ) -> Result<PutDone, StoreError> {
        let modified_ms = rt::unix_ms();
        let tag = condition_tag(&condition);
        let put = PutVersion {
            bucket,
            key,
            version: VersionId::Null,
            object: version.object,
            size: version.size,
            etag: FormatEtag::Md5(version.etag),
            modified_ms,
            scheme: Scheme::PLAIN,
            epoch: self.link().map().epoch,
            owner: &headers.owner,
            condition: format_condition(&condition, &tag),
            body: version.body,
            fields: VersionFields {
                checksum: version.checksum.as_ref().map(|c| ObjectChecksum {
                    algorithm: c.algorithm.into(),
                    kind: ChecksumType::FullObject,
                    value: c.bytes(),
                }),
                ..fields_of(headers)
            },
        };
        let pg = self.group(bucket, key);
        self.propose(pg, &shard_format::MetadataRecord::PutVersion(put), true)
            .await??;
        Ok(PutDone {
            etag: Etag::plain(version.etag),
            modified_ms,
            checksum: version.checksum.map(|c| (c, Kind::FullObject)),
        })
    }
}

/// What a put adds to its headers.
struct NewVersion<'a> {
    object: ObjectId,
    size: u64,
    etag: [u8; 16],
    checksum: Option<Checksum>,
    body: shard_format::Body<'a>,
}

/// An entity tag as the format has it; `text` is the printed tag.
pub(super) fn format_etag<'a>(etag: &Etag, text: &'a str) -> FormatEtag<'a> {
    if etag.parts == 0 {
        FormatEtag::Md5(etag.md5)
    } else {
        FormatEtag::Text(text)
    }
}

/// The printed tag of a condition that has one.
pub(super) fn condition_tag(condition: &Condition) -> String {
    match condition {
        Condition::Etag(etag) => etag.to_string(),
        Condition::None | Condition::Absent | Condition::Present => String::new(),
    }
}

/// A condition as the format has it; `tag` is its printed tag.
pub(super) fn format_condition<'a>(condition: &Condition, tag: &'a str) -> FormatCondition<'a> {
    match condition {
        Condition::None => FormatCondition::None,
        Condition::Absent => FormatCondition::IfNoneMatchAny,
        Condition::Present => FormatCondition::IfMatchAny,
        Condition::Etag(etag) => FormatCondition::IfMatch(format_etag(etag, tag)),
    }
}

/// What a client says about an object, as the format has it.
pub(super) fn fields_of(headers: &ObjectHeaders) -> VersionFields<'_> {
    fn bytes(s: &Option<String>) -> Option<&[u8]> {
        s.as_deref().map(str::as_bytes)
    }
    VersionFields {
        content_type: bytes(&headers.content_type),
        content_encoding: bytes(&headers.content_encoding),
        content_language: bytes(&headers.content_language),
        content_disposition: bytes(&headers.content_disposition),
        cache_control: bytes(&headers.cache_control),
        expires: bytes(&headers.expires),
        user_metadata: headers
            .user
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect(),
        storage_class: bytes(&headers.storage_class),
        ..VersionFields::default()
    }
}
