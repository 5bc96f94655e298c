//! Multipart uploads: parts are stored like objects, completing one names them.
//!
//! Everything of an upload lives in the group of the object's key. A part's bytes are durable before its record is
//! proposed, as an object's are; completing is one command that lists the parts and copies nothing. The list travels in
//! the version's record: 15 bytes a part and its checksum, at most 460 KiB, which is what one more object to find, free
//! and repair would be saved for (docs/architecture.md).

use md5::{Digest, Md5};
use shard_format::{
    Body as FormatBody, BucketId, ChecksumType, CreateUpload, EndUpload, MetadataRecord,
    ObjectChecksum, ObjectId, Part, PartPlacement, PutPart, PutVersion, UploadEnd, VersionFields,
    VersionId,
};

use super::{
    Body, BucketInfo, CompletedPart, Completion, Etag, OBJECT_SIZE_MAX, ObjectHeaders,
    PUT_SIZE_MAX, PartInfo, PartPage, PutDone, Store, StoreError, UploadEntry, UploadId,
    UploadInfo, UploadedPart, UploadsPage, UploadsRequest,
    checksum::{self, Checksum, Kind},
    get::headers_of,
    layout::Layout,
    put::{StoredBody, condition_tag, fields_of, format_condition},
    spread::Spread,
    store::etag_of,
};
use crate::{
    limits::{COMPLETED_UPLOAD_AGE, COMPLETION_TRIES, LIST_KEYS_MAX},
    link::{Reply, Request},
    meta::{
        ChecksumValue, CompletedUpload, ObjectRecord, PartValue, UploadQuery, UploadRow,
        UploadValue, Uploaded,
    },
    placement::key_hash32,
    rt,
    volume::{Outcome, Refusal, VolumeError},
};

/// Uploads that are aborted or forgotten at a time.
const ENDS_AT_A_TIME: usize = 64;

fn algorithm_and_kind(value: &ChecksumValue) -> Option<(checksum::Algorithm, Kind)> {
    Some((value.algorithm()?.into(), value.kind()?.into()))
}

fn checksum_of(value: &ChecksumValue) -> Option<(Checksum, Kind)> {
    let (algorithm, kind) = algorithm_and_kind(value)?;
    Some((Checksum::from_bytes(algorithm, &value.value)?, kind))
}

fn uploaded(part: &PartValue) -> UploadedPart {
    UploadedPart {
        info: PartInfo {
            number: part.number,
            size: part.size,
            checksum: part.checksum.as_ref().and_then(|c| Some(checksum_of(c)?.0)),
        },
        md5: part.md5,
        modified_ms: part.modified_ms,
    }
}

fn done_again(completed: &CompletedUpload) -> PutDone {
    PutDone {
        etag: etag_of(&completed.etag),
        modified_ms: completed.modified_ms,
        checksum: completed.checksum.as_ref().and_then(checksum_of),
    }
}

/// The entity tag of an object of these parts: MD5 of the MD5s.
fn etag_of_parts(md5s: impl ExactSizeIterator<Item = [u8; 16]>) -> Etag {
    let parts = md5s.len() as u16;
    let mut md5 = Md5::new();
    md5s.for_each(|part| md5.update(part));
    Etag {
        md5: md5.finalize().into(),
        parts,
    }
}

/// The parts that a completion asks for, as they were uploaded.
fn chosen<'a>(
    completion: &Completion,
    parts: &'a [PartValue],
    size_min: u64,
) -> Result<Vec<&'a PartValue>, StoreError> {
    let mut chosen = Vec::with_capacity(completion.parts.len());
    for (i, named) in completion.parts.iter().enumerate() {
        let CompletedPart {
            number,
            md5,
            checksum,
        } = *named;
        let found = parts
            .binary_search_by_key(&number, |part| part.number)
            .map(|at| &parts[at])
            .ok()
            .filter(|part| part.md5 == md5)
            .filter(|part| {
                checksum.is_none_or(|checksum| uploaded(part).info.checksum == Some(checksum))
            })
            .ok_or(StoreError::InvalidPart { number })?;
        if found.size < size_min && i + 1 < completion.parts.len() {
            return Err(StoreError::PartTooSmall {
                number,
                size: found.size,
            });
        }
        chosen.push(found);
    }
    Ok(chosen)
}

/// The checksum of an object of these parts, of the kind that the upload was begun with. An upload that was begun
/// without one has a full-object CRC if all of its parts have the same kind of CRC.
fn combined(
    wanted: Option<(checksum::Algorithm, Kind)>,
    parts: &[&PartValue],
) -> Option<(Checksum, Kind)> {
    let values: Option<Vec<(Checksum, u64)>> = parts
        .iter()
        .map(|part| Some((uploaded(part).info.checksum?, part.size)))
        .collect();
    let values = values?;
    let first = values.first()?.0.algorithm;
    let (algorithm, kind) = wanted.unwrap_or((first, Kind::FullObject));
    if values.iter().any(|(value, _)| value.algorithm != algorithm) {
        return None;
    }
    let value = match kind {
        Kind::Composite => Checksum::of_checksums(algorithm, values.iter().map(|(value, _)| value)),
        Kind::FullObject => Checksum::of_joined(algorithm, &values)?,
    };
    Some((value, kind))
}

impl Store {
    fn not_an_upload() -> StoreError {
        StoreError::NoSuchUpload
    }

    /// The upload's id, if it can be one of this key.
    fn upload_of(
        &self,
        bucket: BucketId,
        key: &[u8],
        id: UploadId,
    ) -> Result<ObjectId, StoreError> {
        let upload = ObjectId(id.0);
        if upload.is_upload() && upload.key_hash32() == key_hash32(bucket, key) {
            Ok(upload)
        } else {
            Err(Self::not_an_upload())
        }
    }

    async fn read_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: ObjectId,
    ) -> Result<Uploaded, StoreError> {
        let pg = self.group(bucket.id, key);
        let request = Request::Upload {
            pg,
            bucket: bucket.id,
            key: key.to_vec(),
            upload,
        };
        match self.link().call(self.home(pg), request).await? {
            Reply::Upload(Some(found)) => Ok(found),
            Reply::Upload(None) => Err(Self::not_an_upload()),
            _ => unreachable!("a question about an upload has an upload"),
        }
    }

    async fn read_open_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: ObjectId,
    ) -> Result<(UploadValue, ObjectRecord), StoreError> {
        match self.read_upload(bucket, key, upload).await? {
            Uploaded::Open(value, record) => Ok((value, record)),
            Uploaded::Completed(_) => Err(Self::not_an_upload()),
        }
    }

    pub(super) async fn begin_upload(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        headers: ObjectHeaders,
        checksum: Option<(checksum::Algorithm, Kind)>,
    ) -> Result<UploadId, StoreError> {
        let pg = self.group(bucket.id, key);
        let key_hash32 = key_hash32(bucket.id, key);
        let begin = Request::BeginUpload { key_hash32 };
        let Reply::Begun(upload) = self.link().call(self.home(pg), begin).await? else {
            unreachable!("a beginning has an id")
        };
        let record = MetadataRecord::CreateUpload(CreateUpload {
            bucket: bucket.id,
            key,
            upload,
            initiated_ms: rt::unix_ms(),
            owner: &headers.owner,
            checksum: checksum.map(|(algorithm, kind)| (algorithm.into(), kind.into())),
            fields: fields_of(&headers),
        });
        self.propose(pg, &record, true).await??;
        Ok(UploadId(upload.0))
    }

    pub(super) async fn upload_info(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        id: UploadId,
    ) -> Result<UploadInfo, StoreError> {
        let upload = self.upload_of(bucket.id, key, id)?;
        let (value, record) = self.read_open_upload(bucket, key, upload).await?;
        let Ok(MetadataRecord::CreateUpload(create)) = MetadataRecord::decode(record.bytes())
        else {
            return Err(Self::not_an_upload());
        };
        Ok(UploadInfo {
            id,
            key: key.to_vec(),
            initiated_ms: create.initiated_ms,
            headers: headers_of(create.owner, &create.fields),
            checksum: value.checksum.as_ref().and_then(algorithm_and_kind),
        })
    }

    pub(super) async fn store_part<B: Body>(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        id: UploadId,
        number: u16,
        body: &mut B,
    ) -> Result<UploadedPart, StoreError> {
        let size = body.length();
        if size > PUT_SIZE_MAX {
            return Err(StoreError::TooLarge);
        }
        let upload = self.upload_of(bucket.id, key, id)?;
        // Asked before the body is read, so that a client with a wrong id learns it at once; decided when the part is
        // applied.
        self.read_open_upload(bucket, key, upload).await?;
        let pg = self.group(bucket.id, key);
        let home = self.home(pg);
        let Reply::Begun(object) = self
            .link()
            .call(home, Request::BeginPart { upload })
            .await?
        else {
            unreachable!("a beginning has an id")
        };
        let spread = Spread::new(self, object, size);
        let result = match self.store_body(&spread, body).await {
            Ok(StoredBody { md5, missing_roles }) => {
                let checksum = body.checksum();
                let part = PutPart {
                    bucket: bucket.id,
                    key,
                    upload,
                    number,
                    object,
                    size,
                    md5,
                    modified_ms: rt::unix_ms(),
                    scheme: spread.placed.layout.scheme,
                    epoch: spread.placed.epoch,
                    missing_roles,
                    checksum: checksum.as_ref().map(|c| ObjectChecksum {
                        algorithm: c.algorithm.into(),
                        kind: ChecksumType::FullObject,
                        value: c.bytes(),
                    }),
                };
                let modified_ms = part.modified_ms;
                let proposed = self.propose(pg, &MetadataRecord::PutPart(part), true).await;
                let unnamed = proposed == Err(StoreError::Full);
                match proposed {
                    Ok(Ok(())) => Ok(UploadedPart {
                        info: PartInfo {
                            number,
                            size,
                            checksum,
                        },
                        md5,
                        modified_ms,
                    }),
                    Ok(Err(refusal)) => Err((refusal.into(), false)),
                    Err(e) => Err((e, unnamed)),
                }
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

    async fn part_values(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: ObjectId,
        after: u16,
        max: usize,
    ) -> Result<(Vec<PartValue>, bool), StoreError> {
        let home = self.home(self.group(bucket.id, key));
        let request = Request::Parts { upload, after, max };
        match self.link().call(home, request).await? {
            Reply::Parts(parts, more) => Ok((parts, more)),
            _ => unreachable!("a question about parts has parts"),
        }
    }

    pub(super) async fn part_page(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        id: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartPage, StoreError> {
        let info = self.upload_info(bucket, key, id).await?;
        let max = max.min(LIST_KEYS_MAX);
        let (parts, truncated) = self
            .part_values(bucket, key, ObjectId(id.0), after, max)
            .await?;
        Ok(PartPage {
            upload: info,
            parts: parts.iter().map(uploaded).collect(),
            truncated,
        })
    }

    pub(super) async fn complete(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        id: UploadId,
        completion: Completion,
    ) -> Result<PutDone, StoreError> {
        let upload = self.upload_of(bucket.id, key, id)?;
        for _ in 0..COMPLETION_TRIES {
            let (value, record) = match self.read_upload(bucket, key, upload).await? {
                Uploaded::Open(value, record) => (value, record),
                // Completing again, after an answer that was lost, is answered again.
                Uploaded::Completed(completed) => {
                    let asked = etag_of_parts(completion.parts.iter().map(|p| p.md5));
                    return if etag_of(&completed.etag) == asked {
                        Ok(done_again(&completed))
                    } else {
                        Err(Self::not_an_upload())
                    };
                }
            };
            let tried = self
                .try_to_complete(bucket, key, upload, &completion, &value, &record)
                .await?;
            match tried {
                Ok(done) => return Ok(done),
                // Somebody replaced a part, completed or aborted: look again.
                Err(Refusal::PartChanged | Refusal::NoUpload) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(Refusal::PartChanged.into())
    }

    async fn try_to_complete(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        upload: ObjectId,
        completion: &Completion,
        value: &UploadValue,
        record: &ObjectRecord,
    ) -> Result<Result<PutDone, Refusal>, StoreError> {
        let Ok(MetadataRecord::CreateUpload(create)) = MetadataRecord::decode(record.bytes())
        else {
            return Err(Self::not_an_upload());
        };
        let wanted = value.checksum.as_ref().and_then(algorithm_and_kind);
        if let Some(kind) = completion.kind
            && wanted.is_some_and(|(_, wanted)| wanted != kind)
        {
            return Err(StoreError::ChecksumKind);
        }
        let all = usize::from(shard_format::PART_NUMBER_MAX);
        let (parts, _) = self.part_values(bucket, key, upload, 0, all).await?;
        let chosen = chosen(completion, &parts, self.part_size_min())?;
        let size: u64 = chosen.iter().map(|part| part.size).sum();
        if size > OBJECT_SIZE_MAX {
            return Err(StoreError::TooLarge);
        }
        if completion.size.is_some_and(|said| said != size) {
            return Err(StoreError::SizeMismatch { size });
        }
        let checksum = combined(wanted, &chosen);
        if let Some(said) = completion.checksum
            && checksum.is_none_or(|(value, _)| value != said)
        {
            return Err(StoreError::ChecksumMismatch);
        }
        let etag = etag_of_parts(chosen.iter().map(|part| part.md5));
        let printed = etag.to_string();
        let tag = condition_tag(&completion.condition);
        let chunks: u64 = chosen
            .iter()
            .map(|part| {
                let (scheme, _) = part.placement();
                let size = part.size;
                u64::from(Layout { scheme, size }.chunks())
            })
            .sum();
        // Parts that came under another map or scheme than the first.
        let (scheme, epoch) = chosen
            .first()
            .map_or((self.scheme(), self.link().map().epoch), |part| {
                part.placement()
            });
        let mut last = (scheme, epoch);
        let mut part_placements = Vec::new();
        for (first, part) in (0..).zip(&chosen) {
            let (scheme, epoch) = part.placement();
            if std::mem::replace(&mut last, (scheme, epoch)) != (scheme, epoch) {
                part_placements.push(PartPlacement {
                    first,
                    scheme,
                    epoch,
                });
            }
        }
        let modified_ms = rt::unix_ms();
        let raw: Vec<Option<Checksum>> = chosen
            .iter()
            .map(|part| uploaded(part).info.checksum)
            .collect();
        let put = PutVersion {
            bucket: bucket.id,
            key,
            version: VersionId::Null,
            object: upload,
            size,
            etag: shard_format::Etag::Text(&printed),
            modified_ms,
            scheme,
            epoch,
            owner: create.owner,
            condition: format_condition(&completion.condition, &tag),
            // An object of empty parts has no chunks, but an upload to free like any other.
            body: FormatBody::Chunks(
                u32::try_from(chunks.max(1)).map_err(|_| StoreError::TooLarge)?,
            ),
            fields: VersionFields {
                checksum: checksum.as_ref().map(|(value, kind)| ObjectChecksum {
                    algorithm: value.algorithm.into(),
                    kind: (*kind).into(),
                    value: value.bytes(),
                }),
                parts: chosen
                    .iter()
                    .zip(&raw)
                    .map(|(part, value)| Part {
                        number: part.number,
                        attempt: part.object().attempt(),
                        size: part.size,
                        checksum: match (value, &checksum) {
                            (Some(value), Some((whole, _)))
                                if value.algorithm == whole.algorithm =>
                            {
                                value.bytes()
                            }
                            _ => &[],
                        },
                    })
                    .collect(),
                part_placements,
                ..create.fields
            },
        };
        let pg = self.group(bucket.id, key);
        let outcome = self
            .propose(pg, &MetadataRecord::PutVersion(put), true)
            .await?;
        Ok(outcome.map(|()| PutDone {
            etag,
            modified_ms,
            checksum,
        }))
    }

    async fn end_upload(
        &self,
        bucket: BucketId,
        key: &[u8],
        upload: ObjectId,
        end: UploadEnd,
    ) -> Result<Outcome, StoreError> {
        let record = MetadataRecord::EndUpload(EndUpload {
            bucket,
            key,
            upload,
            end,
        });
        self.propose(self.group(bucket, key), &record, false).await
    }

    pub(super) async fn abort(
        &self,
        bucket: &BucketInfo,
        key: &[u8],
        id: UploadId,
    ) -> Result<(), StoreError> {
        let upload = self.upload_of(bucket.id, key, id)?;
        Ok(self
            .end_upload(bucket.id, key, upload, UploadEnd::Aborted)
            .await??)
    }

    /// Aborts every upload of a bucket that is going away.
    pub(super) async fn abort_all(&self, bucket: BucketId) -> Result<(), StoreError> {
        let link = self.link();
        for volume in link.homes() {
            loop {
                let query = UploadQuery {
                    bucket,
                    prefix: Vec::new(),
                    delimiter: None,
                    after: Vec::new(),
                    after_upload: None,
                    max: ENDS_AT_A_TIME,
                };
                let Reply::Uploads(page) = link.call(volume, Request::Uploads(query)).await? else {
                    unreachable!("a listing of uploads has a page")
                };
                if page.rows.is_empty() {
                    break;
                }
                for row in page.rows {
                    if let UploadRow::Upload { key, upload, .. } = row {
                        // Refused means that it ended by itself.
                        let _ = self
                            .end_upload(bucket, &key, upload, UploadEnd::Aborted)
                            .await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets the uploads of one volume that were completed longer ago than completing again is answered.
    pub async fn forget_uploads(
        &self,
        groups: &std::rc::Rc<crate::meta::Groups>,
    ) -> Result<usize, VolumeError> {
        let before = rt::unix_ms().saturating_sub(COMPLETED_UPLOAD_AGE.as_millis() as u64);
        let mut forgotten = 0;
        loop {
            let found = groups.completed_uploads(before, ENDS_AT_A_TIME).await?;
            if found.is_empty() {
                return Ok(forgotten);
            }
            let mut commands = Vec::with_capacity(found.len());
            for (bucket, key, upload) in &found {
                let mut payload = Vec::new();
                MetadataRecord::EndUpload(EndUpload {
                    bucket: *bucket,
                    key,
                    upload: *upload,
                    end: UploadEnd::Forgotten,
                })
                .encode(&mut payload)
                .expect("it was encoded before");
                commands.push((self.group(*bucket, key), payload));
            }
            forgotten += commands.len();
            groups.propose_all(commands, false).await?;
        }
    }

    pub(super) async fn upload_page(
        &self,
        bucket: &BucketInfo,
        request: UploadsRequest,
    ) -> Result<UploadsPage, StoreError> {
        let max = request.max_uploads.min(LIST_KEYS_MAX);
        let query = UploadQuery {
            bucket: bucket.id,
            prefix: request.prefix,
            delimiter: request.delimiter,
            after: request.after,
            after_upload: request.after_upload.map(|id| ObjectId(id.0)),
            max,
        };
        let link = self.link();
        let shares = futures_util::future::join_all(
            link.homes()
                .map(|v| link.call(v, Request::Uploads(query.clone()))),
        )
        .await;
        let mut rows = Vec::new();
        let mut more = false;
        for share in shares {
            let Reply::Uploads(page) = share? else {
                unreachable!("a listing of uploads has a page")
            };
            more |= page.more;
            rows.extend(page.rows);
        }
        rows.sort_by(|a, b| a.name().cmp(&b.name()));
        rows.dedup_by(|a, b| a.name() == b.name());
        let truncated = rows.len() > max || (more && max > 0);
        rows.truncate(max);
        let (next_after, next_after_upload) = rows
            .last()
            .map(|row| {
                let (name, upload) = row.name();
                (name.to_vec(), upload.map(|upload| UploadId(upload.0)))
            })
            .unwrap_or_default();
        let entries = rows
            .into_iter()
            .map(|row| match row {
                UploadRow::Prefix(prefix) => UploadEntry::Prefix(prefix),
                UploadRow::Upload { key, upload, value } => UploadEntry::Upload(UploadInfo {
                    id: UploadId(upload.0),
                    key,
                    initiated_ms: value.initiated_ms,
                    headers: ObjectHeaders {
                        owner: value.owner,
                        storage_class: value.storage_class,
                        ..ObjectHeaders::default()
                    },
                    checksum: value.checksum.as_ref().and_then(algorithm_and_kind),
                }),
            })
            .collect();
        Ok(UploadsPage {
            entries,
            truncated,
            next_after,
            next_after_upload,
        })
    }
}
