//! Multipart uploads as clients make them: parts in any order, replaced, left out, aborted, completed twice and across
//! restarts; and afterwards no shard that nobody names.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join;
use md5::{Digest, Md5};
use shard_format::ObjectId;

use super::{
    Faults,
    model::{Content, PARTS_MAX},
    workload::{Bytes, Client, Load, text},
};
use crate::{
    limits::{INLINE_BODY_MAX, LIST_KEYS_MAX},
    object::{
        BucketInfo, CompletedPart, Completion, ObjectHeaders, ObjectStore, Store, StoreError,
        UploadEntry, UploadId, UploadsRequest, ask_about_orphans, free_some,
    },
    rt,
    volume::VolumeError,
};

/// Virtual microseconds that a small part may take, from the first byte until it is known.
const REPLACEMENT_TAKES_US: u64 = 8_000;

/// A completion whose answer was lost.
#[derive(Clone, Debug)]
pub struct Pending {
    key: Vec<u8>,
    upload: UploadId,
    completion: Completion,
    content: Content,
}

fn completed(number: u16, bytes: &[u8]) -> CompletedPart {
    CompletedPart {
        number,
        md5: Md5::digest(bytes).into(),
        checksum: None,
    }
}

impl Client {
    /// Bytes of one part.
    fn draw_piece(&mut self) -> usize {
        match self.rng.below(8) {
            0 => 0,
            1..=3 => self.rng.below(3_000) as usize,
            _ => self.rng.below(150_000) as usize,
        }
    }

    fn draw_upload(&mut self) -> Content {
        let parts = self.rng.between(1, PARTS_MAX as u64) as usize;
        let mut size = 0;
        let mut cuts = [0; PARTS_MAX - 1];
        for cut in &mut cuts[..parts - 1] {
            size += self.draw_piece();
            *cut = size;
        }
        size += self.draw_piece();
        Content {
            seed: self.rng.u64(),
            size,
            parts,
            cuts,
        }
    }

    async fn put_part(
        &self,
        key: &[u8],
        upload: UploadId,
        number: u16,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let mut body = Bytes::whole(bytes.to_vec());
        let put = self
            .store
            .put_part(&self.load.bucket, key, upload, number, &mut body);
        put.await.map(|_| ())
    }

    /// One upload from its begin to one of its ends.
    pub(super) async fn upload(&mut self, key: &[u8]) -> Result<(), String> {
        let content = self.draw_upload();
        let pieces = content.part_bytes();
        let bucket = self.load.bucket.clone();
        let headers = ObjectHeaders {
            owner: "owner".into(),
            ..ObjectHeaders::default()
        };
        let upload = match self.store.create_upload(&bucket, key, headers, None).await {
            Ok(upload) => upload,
            Err(e) => return self.tolerate(&e, "begin of an upload of", key),
        };
        let step = self.rng.between(1, 9) as u16;
        let number = |part: usize| 1 + part as u16 * step;
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
        for part in order {
            if self.rng.chance(0.2) {
                let other = vec![7; self.rng.below(70_000) as usize];
                if let Err(e) = self.put_part(key, upload, number(part), &other).await {
                    return self.tolerate(&e, "a part of", key);
                }
            }
            if let Err(e) = self
                .put_part(key, upload, number(part), &pieces[part])
                .await
            {
                return self.tolerate(&e, "a part of", key);
            }
        }
        if self.rng.chance(0.2) {
            // Uploaded, but not named when the upload is completed.
            let unused = vec![8; self.rng.below(70_000) as usize];
            if let Err(e) = self.put_part(key, upload, 9_999, &unused).await {
                return self.tolerate(&e, "a part of", key);
            }
        }
        let completion = Completion {
            parts: (0..pieces.len())
                .map(|part| completed(number(part), &pieces[part]))
                .collect(),
            ..Completion::default()
        };
        match self.rng.below(10) {
            0 => Ok(()),
            1..=2 => self.abort(key, upload, completion).await,
            _ => self.complete(key, upload, completion, content).await,
        }
    }

    async fn abort(
        &mut self,
        key: &[u8],
        upload: UploadId,
        completion: Completion,
    ) -> Result<(), String> {
        let bucket = self.load.bucket.clone();
        if let Err(e) = self.store.abort_upload(&bucket, key, upload).await {
            return self.tolerate(&e, "abort of an upload of", key);
        }
        let late = self.put_part(key, upload, 1, b"late").await;
        let complete = self.store.complete_upload(&bucket, key, upload, completion);
        for after in [late, complete.await.map(|_| ())] {
            match after {
                Err(StoreError::NoSuchUpload) => {}
                Err(e) => self.tolerate(&e, "an aborted upload of", key)?,
                Ok(()) => return Err(format!("an aborted upload of {} went on", text(key))),
            }
        }
        Ok(())
    }

    async fn complete(
        &mut self,
        key: &[u8],
        upload: UploadId,
        completion: Completion,
        content: Content,
    ) -> Result<(), String> {
        let model = self.load.model.clone();
        let bucket = self.load.bucket.clone();
        let pending = Pending {
            key: key.to_vec(),
            upload,
            completion: completion.clone(),
            content,
        };
        model.borrow_mut().attempt(key, Some(content));
        model.borrow_mut().pending.push(pending);
        let complete = self
            .store
            .complete_upload(&bucket, key, upload, completion.clone());
        let done = if self.rng.chance(0.2) {
            // Somebody replaces a part at the same moment: before it, after it, never within. A part is stored and
            // flushed before it is known, so the completion begins as much later.
            let later = Duration::from_micros(self.rng.below(REPLACEMENT_TAKES_US));
            let replaced = completion.parts[0].number;
            let replace = self.put_part(key, upload, replaced, b"instead");
            let complete = async {
                rt::sleep(later).await;
                complete.await
            };
            join(complete, replace).await.0
        } else {
            complete.await
        };
        let answered = |model: &mut super::model::Model| {
            model.pending.retain(|p| p.upload != upload);
        };
        match done {
            Ok(done) => {
                answered(&mut model.borrow_mut());
                if done.etag.md5 != content.md5() || usize::from(done.etag.parts) != content.parts {
                    return Err(format!("completion of {}: wrong etag", text(key)));
                }
                model.borrow_mut().settle(key);
            }
            // The part was replaced first.
            Err(StoreError::InvalidPart { .. }) => {
                answered(&mut model.borrow_mut());
                model.borrow_mut().withdraw(key);
                return Ok(());
            }
            Err(e) => {
                self.tolerate(&e, "completion of", key)?;
                if e == StoreError::Full {
                    answered(&mut model.borrow_mut());
                    model.borrow_mut().withdraw(key);
                }
                return Ok(());
            }
        }
        if self.rng.chance(0.3) {
            let again = self
                .store
                .complete_upload(&bucket, key, upload, completion)
                .await;
            match again {
                Ok(again) if again.etag.md5 == content.md5() => {}
                Ok(_) => return Err(format!("second completion of {}: wrong etag", text(key))),
                Err(e) => self.tolerate(&e, "second completion of", key)?,
            }
        }
        Ok(())
    }
}

/// After a restart: completions whose answer was lost are asked for again, as clients do, and must be answered.
pub async fn complete_again(store: &Store, load: &Load, strict: bool) -> Result<(), String> {
    let pending = std::mem::take(&mut load.model.borrow_mut().pending);
    // What was completed is remembered for a day, and by its clock this may be another one.
    let forgotten = std::mem::take(&mut load.model.borrow_mut().clock_was_set);
    for Pending {
        key,
        upload,
        completion,
        content,
    } in pending
    {
        load.model.borrow_mut().attempt(&key, Some(content));
        match store
            .complete_upload(&load.bucket, &key, upload, completion)
            .await
        {
            Ok(done) if done.etag.md5 == content.md5() => {}
            Ok(_) => return Err(format!("completion of {}: wrong etag", text(&key))),
            Err(StoreError::InvalidPart { .. }) => {}
            Err(StoreError::NoSuchUpload) if forgotten => {}
            Err(e @ (StoreError::NoSuchUpload | StoreError::NoSuchBucket)) => {
                return Err(format!("completing {} once more: {e}", text(&key)));
            }
            Err(e) if strict && load.faults == Faults::Crash => {
                return Err(format!("completing {} once more: {e}", text(&key)));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// While nothing else goes on: how many objects and parts have shards, by what the metadata name.
pub async fn named(store: &Store, bucket: &BucketInfo, keys: &[Vec<u8>]) -> Result<usize, String> {
    let failed = |e: StoreError| format!("looking for what is left over: {e}");
    let mut named = 0;
    for key in keys {
        match store.head(bucket, key).await {
            Ok(info) if info.parts.is_empty() => {
                named += usize::from(info.size > INLINE_BODY_MAX as u64);
            }
            Ok(info) => named += info.parts.iter().filter(|part| part.size > 0).count(),
            Err(StoreError::NoSuchKey) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let request = UploadsRequest {
        max_uploads: LIST_KEYS_MAX,
        ..UploadsRequest::default()
    };
    for entry in store
        .uploads(bucket, request)
        .await
        .map_err(failed)?
        .entries
    {
        let UploadEntry::Upload(upload) = entry else {
            return Err("a prefix in a plain listing of uploads".into());
        };
        let page = store
            .parts(bucket, &upload.key, upload.id, 0, LIST_KEYS_MAX)
            .await
            .map_err(failed)?;
        named += page.parts.iter().filter(|part| part.info.size > 0).count();
    }
    Ok(named)
}

/// What has shards on this core's volumes once everything that may be freed is.
pub async fn stored(store: &Store) -> Result<BTreeSet<ObjectId>, String> {
    let failed = |e: VolumeError| format!("looking for what is left over: {e}");
    let mut stored = BTreeSet::new();
    for (volume, groups) in store.link().local() {
        while free_some(store, &groups).await.map_err(failed)? > 0 {}
        ask_about_orphans(store, volume, &groups, Duration::ZERO)
            .await
            .map_err(failed)?;
        let all = groups
            .volume()
            .objects_with_shards(ObjectId([0; 16]), usize::MAX);
        stored.extend(all.map_err(failed)?.0);
    }
    Ok(stored)
}
