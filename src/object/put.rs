//! Putting an object: bytes first, then the record that names them.

use std::{pin::pin, rc::Rc, task::Poll};

use futures_util::{StreamExt, poll, stream::FuturesUnordered};
use shard_format::{
    BucketId, ChecksumType, Condition as FormatCondition, Epoch, Etag as FormatEtag, MissingRoles,
    ObjectChecksum, ObjectId, PutVersion, Scheme, VersionFields, VersionId,
};

use super::{
    Body, BucketInfo, Condition, Etag, ObjectHeaders, PUT_SIZE_MAX, PutDone, Store, StoreError,
    checksum::{Checksum, Kind},
    spread::Spread,
};
use crate::{
    limits::{INLINE_BODY_MAX, STORES_IN_FLIGHT},
    link::{Reply, Request},
    md5::{Md5, Slice},
    placement::key_hash32,
    rt::{self, Buf, Task},
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
            scheme: Scheme::PLAIN,
            epoch: self.link().map().epoch,
            missing_roles: Vec::new(),
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
        let spread = Spread::new(self, object, size);
        let result = match self.store_body(&spread, body).await {
            Ok(stored) => {
                let version = NewVersion {
                    object,
                    size,
                    etag: stored.md5,
                    checksum: body.checksum(),
                    body: shard_format::Body::Chunks(spread.placed.layout.chunks()),
                    scheme: spread.placed.layout.scheme,
                    epoch: spread.placed.epoch,
                    missing_roles: stored.missing_roles,
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
            if unnamed {
                spread.abandon();
            }
            e
        });
        self.link().tell(home, Request::Release { object });
        result
    }

    /// Streams the body to the volumes and makes it durable. Memory: [`STORES_IN_FLIGHT`] + 1 runs, with their parity.
    /// No byte is copied between socket and drive.
    pub(super) async fn store_body<B: Body>(
        &self,
        spread: &Rc<Spread>,
        body: &mut B,
    ) -> Result<StoredBody, StoreError> {
        let mut in_flight = FuturesUnordered::new();
        let stored = self.feed(spread, body, &mut in_flight).await;
        // Whatever happened: what was sent to a volume has arrived when this returns, and not after it is freed.
        let mut failed = None;
        while let Some(done) = in_flight.next().await {
            if let Err(e) = done {
                failed.get_or_insert(e);
            }
        }
        let md5 = stored?;
        if let Some(e) = failed {
            return Err(e);
        }
        // Signatures and checksums of the whole, before anything can become visible.
        body.finish().await?;
        let missing_roles = spread.flush().await?;
        Ok(StoredBody { md5, missing_roles })
    }

    /// Sends the body to the volumes; the last runs are under way when it returns.
    async fn feed<B: Body>(
        &self,
        spread: &Rc<Spread>,
        body: &mut B,
        in_flight: &mut FuturesUnordered<Task<Result<(), StoreError>>>,
    ) -> Result<[u8; 16], StoreError> {
        let size = body.length();
        let mut md5 = Md5::new();
        let mut offset = 0u64;
        let mut renewed = rt::now();
        while offset < size {
            let run = spread.placed.layout.run_at(offset);
            let memory = room(body, spread.memory(&run)).await;
            let mut bufs = spread.cut(&run, memory);
            let slices = spread.slices(&run);
            for Slice { buf, range } in &slices {
                let into = std::mem::replace(&mut bufs[*buf], Buf::empty());
                let (filled, end) = body.fill(into, range.start, range.end).await?;
                bufs[*buf] = filled;
                if end != range.end {
                    return Err(StoreError::Body(super::BodyError::Incomplete));
                }
            }
            (md5, bufs) = self.hashing().update_slices(md5, bufs, slices).await;
            if in_flight.len() == STORES_IN_FLIGHT
                && let Some(done) = in_flight.next().await
            {
                done?;
            }
            // A task of its own: a run that waits for us to look at it holds memory that we may be waiting for.
            let to = spread.clone();
            in_flight.push(rt::spawn(async move { to.store(run, bufs).await }));
            offset = run.end;
            self.keep_lease(spread.placed.object, &mut renewed);
        }
        Ok(md5.finish())
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
            scheme: version.scheme,
            epoch: version.epoch,
            owner: &headers.owner,
            condition: format_condition(&condition, &tag),
            body: version.body,
            fields: VersionFields {
                checksum: version.checksum.as_ref().map(|c| ObjectChecksum {
                    algorithm: c.algorithm.into(),
                    kind: ChecksumType::FullObject,
                    value: c.bytes(),
                }),
                missing_roles: version.missing_roles,
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
    scheme: Scheme,
    epoch: Epoch,
    missing_roles: Vec<MissingRoles>,
}

/// A body whose shards are durable.
pub(super) struct StoredBody {
    pub md5: [u8; 16],
    pub missing_roles: Vec<MissingRoles>,
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
