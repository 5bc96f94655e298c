//! Getting an object: its record from the key's group, its bytes from the record or from the volumes of its chunks.
//!
//! While bytes are streamed the object id is leased at its group, so that a delete or overwrite does not free the shards
//! under the reader. The lease is renewed as long as the reader makes progress; if it is lost, the stream ends with an
//! error, never short.

use std::collections::VecDeque;

use futures_util::{StreamExt, stream::FuturesOrdered};
use shard_format::{MetadataRecord, ObjectId, PutVersion, VersionFields};

use super::{
    BucketInfo, ObjectHeaders, ObjectInfo, PartInfo, ReadObject, Store, StoreError,
    checksum::{Checksum, Kind},
    gather::Placed,
    store::etag_of,
};
use crate::{
    limits::{FETCHES_AHEAD, LEASE_RENEWAL},
    link::{Reply, Request},
    meta::{EtagValue, ObjectRecord, stored_of},
    rt::{self, Buf, Instant},
    volume::VolumeError,
};

fn unreadable(what: &str) -> StoreError {
    StoreError::Unreadable {
        what: what.to_owned(),
    }
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|b| String::from_utf8_lossy(b).into_owned())
}

/// What clients said about an object, from its record.
pub(super) fn headers_of(owner: &str, f: &VersionFields<'_>) -> ObjectHeaders {
    ObjectHeaders {
        content_type: text(f.content_type),
        content_encoding: text(f.content_encoding),
        content_language: text(f.content_language),
        content_disposition: text(f.content_disposition),
        cache_control: text(f.cache_control),
        expires: text(f.expires),
        user: f
            .user_metadata
            .iter()
            .map(|(n, v)| {
                (
                    String::from_utf8_lossy(n).into_owned(),
                    String::from_utf8_lossy(v).into_owned(),
                )
            })
            .collect(),
        owner: owner.to_owned(),
        storage_class: text(f.storage_class),
    }
}

fn info_of(put: &PutVersion<'_>) -> ObjectInfo {
    let f = &put.fields;
    let checksum = f.checksum.and_then(checksum_of);
    ObjectInfo {
        size: put.size,
        etag: etag_of(&EtagValue::of(&put.etag)),
        modified_ms: put.modified_ms,
        headers: headers_of(put.owner, f),
        checksum,
        parts: f
            .parts
            .iter()
            .map(|part| PartInfo {
                number: part.number,
                size: part.size,
                checksum: checksum
                    .and_then(|(whole, _)| Checksum::from_bytes(whole.algorithm, part.checksum)),
            })
            .collect(),
    }
}

/// `None` where the record has a value that is none of its algorithm's.
fn checksum_of(stored: shard_format::ObjectChecksum<'_>) -> Option<(Checksum, Kind)> {
    let value = Checksum::from_bytes(stored.algorithm.into(), stored.value)?;
    Some((value, stored.kind.into()))
}

/// A lease held at the object's group; released when dropped.
struct Lease {
    store: Store,
    home: u16,
    object: ObjectId,
    renewed: Instant,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.link().tell(
            self.home,
            Request::Release {
                object: self.object,
            },
        );
    }
}

enum Source {
    /// The record itself, until it was read; the body starts here.
    Inline {
        record: Option<ObjectRecord>,
        start: usize,
    },
    Chunks {
        spans: Vec<Span>,
        lease: Lease,
    },
}

/// Bytes of the object that are chunks of one object id: all of them, or those of a part.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
    spread: Placed,
}

fn spans_of(put: &PutVersion<'_>) -> Vec<Span> {
    let mut end = 0u64;
    let spans = stored_of(put).into_iter().map(|stored| {
        let start = end;
        end = end.saturating_add(stored.size);
        let spread = Placed::of(&stored);
        Span { start, end, spread }
    });
    spans.collect()
}

type Fetch = std::pin::Pin<Box<dyn Future<Output = Result<Vec<Buf>, VolumeError>>>>;

/// An object being read.
pub struct Reader {
    store: Store,
    info: ObjectInfo,
    source: Source,
    /// Next byte to ask for and the end, of the object.
    at: u64,
    end: u64,
    ahead: FuturesOrdered<Fetch>,
    ready: VecDeque<Buf>,
}

impl Store {
    async fn read_record(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        lease: bool,
    ) -> Result<ObjectRecord, StoreError> {
        let pg = self.group(bucket.id, key);
        let request = Request::Read {
            pg,
            bucket: bucket.id,
            key: key.to_vec(),
            lease,
        };
        match self.link().call(self.home(pg), request).await? {
            Reply::Record(record) => Ok(record),
            _ => unreachable!("a read has a record"),
        }
    }

    pub(super) async fn head_object(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
    ) -> Result<ObjectInfo, StoreError> {
        let record = self.read_record(bucket, key, false).await?;
        match MetadataRecord::decode(record.bytes()) {
            Ok(MetadataRecord::PutVersion(put)) => Ok(info_of(&put)),
            _ => Err(unreadable("a record that is no version")),
        }
    }

    pub(super) async fn get_object(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
    ) -> Result<Reader, StoreError> {
        let record = self.read_record(bucket, key, true).await?;
        let (info, source) = match MetadataRecord::decode(record.bytes()) {
            Ok(MetadataRecord::PutVersion(put)) => {
                let info = info_of(&put);
                match put.body {
                    shard_format::Body::Inline(body) => {
                        // The body is the end of the record.
                        let start = record.at + record.length - body.len();
                        let record = Some(record);
                        (info, Source::Inline { record, start })
                    }
                    shard_format::Body::Chunks(_) => {
                        let spans = spans_of(&put);
                        if spans.last().is_none_or(|last| last.end != put.size)
                            || put.object.is_upload() == put.fields.parts.is_empty()
                        {
                            return Err(unreadable("a record whose parts are not its object"));
                        }
                        let home = self.home(self.group(bucket.id, key));
                        let object = put.object;
                        let lease = Lease {
                            store: self.clone(),
                            home,
                            object,
                            renewed: rt::now(),
                        };
                        (info, Source::Chunks { spans, lease })
                    }
                    shard_format::Body::DeleteMarker => return Err(StoreError::NoSuchKey),
                }
            }
            _ => return Err(unreadable("a record that is no version")),
        };
        let end = info.size;
        Ok(Reader {
            store: self.clone(),
            info,
            source,
            at: 0,
            end,
            ahead: FuturesOrdered::new(),
            ready: VecDeque::new(),
        })
    }

    /// Renews the upload's or reader's lease when it is time.
    pub(super) fn keep_lease(&self, object: ObjectId, renewed: &mut Instant) {
        if rt::now().saturating_since(*renewed) >= LEASE_RENEWAL {
            *renewed = rt::now();
            let home = self.home(self.link().map().group_of_object(object));
            self.link().tell(home, Request::Renew { object });
        }
    }
}

impl ReadObject for Reader {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn range(&mut self, start: u64, end: u64) {
        assert!(start <= end && end <= self.info.size);
        self.at = start;
        self.end = end;
    }

    async fn next(&mut self) -> Result<Option<Buf>, StoreError> {
        match &mut self.source {
            Source::Inline { record, start } => {
                let Some(record) = record.take().filter(|_| self.at < self.end) else {
                    return Ok(None);
                };
                let from = *start + self.at as usize;
                let to = *start + self.end as usize;
                self.at = self.end;
                // One copy: the body to the front of its buffer, at most INLINE_BODY_MAX.
                let mut buf = record.buf;
                buf.copy_within(from..to, 0);
                buf.set_len(to - from);
                Ok(Some(buf))
            }
            Source::Chunks { spans, lease } => {
                self.store.keep_lease(lease.object, &mut lease.renewed);
                if let Some(buf) = self.ready.pop_front() {
                    return Ok(Some(buf));
                }
                while self.at < self.end && self.ahead.len() < FETCHES_AHEAD {
                    // The span that holds the next byte; parts may be empty.
                    let span = spans[spans.partition_point(|span| span.end <= self.at)];
                    let at = self.at - span.start;
                    let end = self.end.min(span.end) - span.start;
                    let end = end.min(span.spread.layout.run_at(at).end);
                    let fetch = span.spread.fetch(self.store.clone(), at, end);
                    self.at = span.start + end;
                    self.ahead.push_back(Box::pin(fetch));
                }
                match self.ahead.next().await {
                    None => Ok(None),
                    Some(Err(e)) => Err(e.into()),
                    Some(Ok(bufs)) => {
                        self.ready = bufs.into();
                        Ok(self.ready.pop_front())
                    }
                }
            }
        }
    }
}
