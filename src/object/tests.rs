//! The store on a real reactor and a real directory, without a network.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use md5::{Digest, Md5};
use shard_format::Scheme;

use super::{
    Body, BodyError, BucketInfo, CompletedPart, Completion, Condition, ObjectHeaders, ObjectStore,
    ReadObject, Store, StoreError, UploadId,
    checksum::{Algorithm, Checksum, Hasher, Kind},
};
use crate::{
    link::Request,
    node::{self, CoreShare, Settings},
    rt::{Buf, Config, CoreId, Reactor},
};

/// Bytes in memory, with their CRC.
struct Bytes {
    bytes: Vec<u8>,
    at: usize,
    algorithm: Option<Algorithm>,
}

impl Bytes {
    fn new(bytes: &[u8]) -> Bytes {
        Bytes {
            bytes: bytes.to_vec(),
            at: 0,
            algorithm: None,
        }
    }
}

impl Body for Bytes {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn fill(
        &mut self,
        mut buf: Buf,
        at: usize,
        upto: usize,
    ) -> Result<(Buf, usize), BodyError> {
        let count = (upto - at).min(self.bytes.len() - self.at);
        buf[at..at + count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok((buf, at + count))
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        Ok(())
    }

    fn checksum(&self) -> Option<Checksum> {
        self.algorithm.map(|algorithm| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&self.bytes);
            hasher.finish()
        })
    }
}

fn on_a_store<T, F>(data: &Path, main: impl FnOnce(CoreShare) -> F + 'static) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    on_drives(vec![data.to_owned()], None, main)
}

fn on_drives<T, F>(
    drives: Vec<PathBuf>,
    scheme: Option<Scheme>,
    main: impl FnOnce(CoreShare) -> F + 'static,
) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let config = Config {
        arena_bytes: 32 << 20,
        ..Config::small()
    };
    let reactor = Reactor::new(CoreId(0), &config).unwrap();
    let value = reactor.run(async move {
        let settings = Settings {
            segment_file_length: Some(8 << 20),
            scheme,
            ..Settings::default()
        };
        let layout = node::prepare(&drives, 1, &settings).await.unwrap();
        let share = node::start(&layout, CoreId(0), 1, None, &settings)
            .await
            .unwrap();
        share.store.set_part_size_min(0);
        main(share).await
    });
    reactor.shut_down();
    value
}

async fn read(
    store: &Store,
    bucket: &BucketInfo,
    key: &[u8],
    range: Option<(u64, u64)>,
) -> Vec<u8> {
    let mut reader = store.get(bucket, key).await.unwrap();
    if let Some((start, end)) = range {
        reader.range(start, end);
    }
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

async fn put_parts(
    store: &Store,
    bucket: &BucketInfo,
    upload: UploadId,
    parts: &[(u16, &[u8])],
    algorithm: Option<Algorithm>,
) -> Vec<CompletedPart> {
    let mut named = Vec::new();
    for (number, bytes) in parts {
        let mut body = Bytes {
            algorithm,
            ..Bytes::new(bytes)
        };
        let part = store
            .put_part(bucket, b"k", upload, *number, &mut body)
            .await
            .unwrap();
        assert_eq!(part.md5, <[u8; 16]>::from(Md5::digest(bytes)));
        named.push(CompletedPart {
            number: *number,
            md5: part.md5,
            checksum: body.checksum(),
        });
    }
    named
}

#[test]
fn an_object_of_parts_reads_as_one() {
    let directory = tempfile::tempdir().unwrap();
    on_a_store(directory.path(), |share| async move {
        let store = share.store.clone();
        let bucket = store.create_bucket("b", "root", "").await.unwrap();
        // Across chunks, segments and runs, with an empty part in between and one at the end.
        let sizes = [70_000, 0, 1, 1_048_576, 2_500_000, 65_536, 0];
        let whole: Vec<u8> = (0..sizes.iter().sum::<usize>())
            .map(|i| (i % 251) as u8)
            .collect();
        let mut parts: Vec<(u16, &[u8])> = Vec::new();
        let mut at = 0;
        for (i, size) in sizes.iter().enumerate() {
            parts.push((3 * i as u16 + 1, &whole[at..at + size]));
            at += size;
        }
        for (algorithm, kind) in [
            (Algorithm::Crc64Nvme, Kind::FullObject),
            (Algorithm::Crc32, Kind::Composite),
            (Algorithm::Sha256, Kind::Composite),
        ] {
            let wanted = Some((algorithm, kind));
            let upload = store
                .create_upload(&bucket, b"k", ObjectHeaders::default(), wanted)
                .await
                .unwrap();
            let named = put_parts(&store, &bucket, upload, &parts, Some(algorithm)).await;
            let page = store.parts(&bucket, b"k", upload, 4, 3).await.unwrap();
            let numbers: Vec<u16> = page.parts.iter().map(|part| part.info.number).collect();
            assert_eq!((numbers, page.truncated), (vec![7, 10, 13], true));
            let completion = Completion {
                parts: named.clone(),
                size: Some(whole.len() as u64),
                ..Completion::default()
            };
            let done = store
                .complete_upload(&bucket, b"k", upload, completion.clone())
                .await
                .unwrap();
            let mut md5 = Md5::new();
            named.iter().for_each(|part| md5.update(part.md5));
            let digest: String = md5.finalize().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(done.etag.to_string(), format!("{digest}-7"));
            if kind == Kind::FullObject {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&whole);
                assert_eq!(done.checksum, Some((hasher.finish(), kind)));
            }
            let info = store.head(&bucket, b"k").await.unwrap();
            assert_eq!(info.checksum, done.checksum);
            assert_eq!(info.parts.len(), 7);
            assert_eq!(info.parts[3].checksum, named[3].checksum);
            assert!(read(&store, &bucket, b"k", None).await == whole);
            for (start, end) in [
                (0, 1),
                (69_999, 70_002),
                (70_001, 1_118_578),
                (3_600_000, 3_684_113),
            ] {
                let bytes = read(&store, &bucket, b"k", Some((start, end))).await;
                assert!(
                    bytes == whole[start as usize..end as usize],
                    "{start}..{end}"
                );
            }
            // Answered again, and not by another list of parts.
            let again = store
                .complete_upload(&bucket, b"k", upload, completion)
                .await;
            assert_eq!(again.unwrap().etag, done.etag);
            let other = Completion {
                parts: named[1..].to_vec(),
                ..Completion::default()
            };
            let refused = store.complete_upload(&bucket, b"k", upload, other).await;
            assert_eq!(refused.unwrap_err(), StoreError::NoSuchUpload);
        }
        node::stop(&share).await.unwrap();
    });
}

#[test]
fn a_completion_that_does_not_fit_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    on_a_store(directory.path(), |share| async move {
        let store = share.store.clone();
        let bucket = store.create_bucket("b", "root", "").await.unwrap();
        let upload = store
            .create_upload(&bucket, b"k", ObjectHeaders::default(), None)
            .await
            .unwrap();
        let parts: [(u16, &[u8]); 2] = [(1, b"one"), (2, b"two")];
        let named = put_parts(&store, &bucket, upload, &parts, None).await;
        let good = Completion {
            parts: named.clone(),
            ..Completion::default()
        };
        let complete = async |completion: Completion, key: &[u8]| {
            let done = store
                .complete_upload(&bucket, key, upload, completion)
                .await;
            done.map(|done| done.etag.parts)
        };
        let mut wrong = good.clone();
        wrong.parts[1].md5[0] ^= 1;
        assert_eq!(
            complete(wrong, b"k").await,
            Err(StoreError::InvalidPart { number: 2 })
        );
        let mut absent = good.clone();
        absent.parts[1].number = 3;
        assert_eq!(
            complete(absent, b"k").await,
            Err(StoreError::InvalidPart { number: 3 })
        );
        let size = Completion {
            size: Some(7),
            ..good.clone()
        };
        assert_eq!(
            complete(size, b"k").await,
            Err(StoreError::SizeMismatch { size: 6 })
        );
        let condition = Completion {
            condition: Condition::Present,
            ..good.clone()
        };
        assert_eq!(complete(condition, b"k").await, Err(StoreError::NoSuchKey));
        assert_eq!(
            complete(good.clone(), b"other").await,
            Err(StoreError::NoSuchUpload)
        );
        store.set_part_size_min(4);
        let small = StoreError::PartTooSmall { number: 1, size: 3 };
        assert_eq!(complete(good.clone(), b"k").await, Err(small));
        store.set_part_size_min(3);
        assert_eq!(
            store.head(&bucket, b"k").await.unwrap_err(),
            StoreError::NoSuchKey
        );
        assert_eq!(complete(good, b"k").await, Ok(2));
        node::stop(&share).await.unwrap();
    });
}

#[test]
fn ten_thousand_parts_are_one_record() {
    let directory = tempfile::tempdir().unwrap();
    on_a_store(directory.path(), |share| async move {
        let store = share.store.clone();
        let bucket = store.create_bucket("b", "root", "").await.unwrap();
        let wanted = Some((Algorithm::Sha256, Kind::Composite));
        let upload = store
            .create_upload(&bucket, b"k", ObjectHeaders::default(), wanted)
            .await
            .unwrap();
        let mut named = Vec::new();
        let numbers: Vec<u16> = (1..=shard_format::PART_NUMBER_MAX).collect();
        for some in numbers.chunks(64) {
            let puts = some.iter().map(|number| {
                let (store, bucket) = (store.clone(), bucket.clone());
                async move {
                    let mut body = Bytes {
                        algorithm: Some(Algorithm::Sha256),
                        ..Bytes::new(&number.to_be_bytes())
                    };
                    let part = store
                        .put_part(&bucket, b"k", upload, *number, &mut body)
                        .await;
                    CompletedPart {
                        number: *number,
                        md5: part.unwrap().md5,
                        checksum: body.checksum(),
                    }
                }
            });
            named.extend(futures_util::future::join_all(puts).await);
        }
        let completion = Completion {
            parts: named,
            ..Completion::default()
        };
        let began = Instant::now();
        let done = store
            .complete_upload(&bucket, b"k", upload, completion)
            .await
            .unwrap();
        println!("completing 10,000 parts took {:?}", began.elapsed());
        assert_eq!(done.etag.parts, 10_000);
        let began = Instant::now();
        let info = store.head(&bucket, b"k").await.unwrap();
        println!("their head took {:?}", began.elapsed());
        assert_eq!((info.size, info.parts.len()), (20_000, 10_000));
        let bytes = read(&store, &bucket, b"k", Some((9_999, 10_003))).await;
        assert_eq!(bytes, [0x88, 0x13, 0x89, 0x13]);
        node::stop(&share).await.unwrap();
    });
}

#[test]
fn the_unreadable_is_never_taken_for_the_absent() {
    let directory = tempfile::tempdir().unwrap();
    on_a_store(directory.path(), |share| async move {
        let store = share.store.clone();
        let bucket = store.create_bucket("b", "root", "").await.unwrap();
        let headers = ObjectHeaders::default;
        let put = async |key: &[u8], condition| {
            let done = store
                .put(&bucket, key, headers(), condition, &mut Bytes::new(b"x"))
                .await;
            done.map(|done| done.etag)
        };
        put(b"k", Condition::None).await.unwrap();
        // Out of the memory table, so that the index's store is asked.
        for (_, volume, _) in &share.volumes {
            volume.checkpoint().await.unwrap();
            volume.view().index.break_store();
        }
        for key in [b"k", b"l"] {
            let refused = put(key, Condition::Absent).await.unwrap_err();
            assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
            let unknown = store.head(&bucket, key).await.unwrap_err();
            assert!(
                matches!(unknown, StoreError::Unreadable { .. }),
                "{unknown}"
            );
        }
    });
    // What was logged meanwhile is decided by the next start, and the index is as it was.
    on_a_store(directory.path(), |share| async move {
        let store = share.store.clone();
        let bucket = store.bucket("b").await.unwrap();
        assert_eq!(read(&store, &bucket, b"k", None).await, b"x");
        node::stop(&share).await.unwrap();
    });
}

#[test]
fn more_puts_than_memory_go_through() {
    let directory = tempfile::tempdir().unwrap();
    on_a_store(directory.path(), |share| async move {
        let store = share.store.clone();
        let bucket = store.create_bucket("b", "root", "").await.unwrap();
        // Each holds up to three pieces of 1 MiB; the pool has 32.
        let puts = (0..40u8).map(|number| {
            let (store, bucket) = (store.clone(), bucket.clone());
            async move {
                let bytes = vec![number; (4 << 20) + 1];
                let mut body = Bytes::new(&bytes);
                let headers = ObjectHeaders::default();
                store
                    .put(
                        &bucket,
                        &[b'k', number + 1],
                        headers,
                        Condition::None,
                        &mut body,
                    )
                    .await
                    .map(|_| ())
            }
        });
        let all = futures_util::future::join_all(puts);
        let all = crate::rt::timeout(std::time::Duration::from_secs(60), all).await;
        let all = all.unwrap_or_else(|_| panic!("the puts wait for each other"));
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        let bytes = read(&store, &bucket, &[b'k', 40], None).await;
        assert!(bytes == vec![39; (4 << 20) + 1]);
        node::stop(&share).await.unwrap();
    });
}

/// Lengths around everything that has an edge: inline bodies, blocks, segments, stripes, runs.
const LENGTHS: [usize; 12] = [
    (32 << 10) + 1,
    40_000,
    64 << 10,
    (64 << 10) + 1,
    (128 << 10) + 8192,
    200_000,
    (256 << 10) - 1,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (3 << 20) + 77_777,
    (6 << 20) + (192 << 10),
];

fn bytes_of(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Has a store of the scheme with an object of each length, on a drive a role; then, of each object, the shards on
/// `lost` of the volumes are freed.
fn with_shards_lost<T, F>(
    (k, m): (u8, u8),
    lost: u16,
    main: impl FnOnce(CoreShare, BucketInfo, Vec<Vec<u8>>) -> F + 'static,
) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let scheme = Scheme {
        k,
        m,
        ..Scheme::PLAIN
    };
    let drives: Vec<PathBuf> = (0..scheme.width())
        .map(|n| dir.path().join(n.to_string()))
        .collect();
    for drive in &drives {
        std::fs::create_dir(drive).unwrap();
    }
    on_drives(drives, Some(scheme), move |share| async move {
        let store = &share.store;
        let bucket = store.create_bucket("bucket", "o", "r").await.unwrap();
        let bodies: Vec<Vec<u8>> = LENGTHS.iter().map(|l| bytes_of(*l)).collect();
        for (n, body) in bodies.iter().enumerate() {
            let key = n.to_string();
            let mut bytes = Bytes::new(body);
            let (headers, condition) = (ObjectHeaders::default(), Condition::None);
            let put = store.put(&bucket, key.as_bytes(), headers, condition, &mut bytes);
            put.await.unwrap();
        }
        let (_, groups) = &store.link().local()[0];
        let group_of = |object| store.link().map().group_of_object(object);
        let (objects, _) = groups
            .stored_objects(group_of, shard_format::ObjectId([0; 16]), 100)
            .await
            .unwrap();
        assert_eq!(objects.len(), LENGTHS.len());
        for volume in 0..lost {
            for object in &objects {
                let object = object.object;
                let free = Request::FreeObject { object };
                store.link().call(volume, free).await.unwrap();
            }
        }
        main(share, bucket, bodies).await
    })
}

#[test]
fn any_range_is_read_without_as_many_shards_as_there_is_parity() {
    for (k, m) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (5, 1), (4, 2)] {
        for lost in 0..=u16::from(m) {
            with_shards_lost((k, m), lost, move |share, bucket, bodies| async move {
                for (n, body) in bodies.iter().enumerate() {
                    let (key, len) = (n.to_string(), body.len());
                    let key = key.as_bytes();
                    let whole = read(&share.store, &bucket, key, None).await;
                    assert!(whole == *body, "{k}+{m} without {lost}: {len} bytes");
                    for (start, end) in [
                        (0, 1),
                        (len - 1, len),
                        (len / 2, len / 2 + 1),
                        (1, len - 1),
                        (len / 3, 2 * len / 3),
                        (65_535 % len, (65_537).min(len)),
                    ] {
                        if start >= end {
                            continue;
                        }
                        let range = Some((start as u64, end as u64));
                        let part = read(&share.store, &bucket, key, range).await;
                        let right = part == body[start..end];
                        assert!(right, "{k}+{m} without {lost}: {start}..{end} of {len}");
                    }
                }
                node::stop(&share).await.unwrap();
            });
        }
    }
}

#[test]
fn with_one_shard_too_few_an_object_is_unreadable_and_never_short() {
    with_shards_lost((2, 1), 2, |share, bucket, bodies| async move {
        for (n, body) in bodies.iter().enumerate() {
            let key = n.to_string();
            let mut reader = share.store.get(&bucket, key.as_bytes()).await.unwrap();
            let mut length = 0;
            let error = loop {
                match reader.next().await {
                    Ok(Some(piece)) => length += piece.len(),
                    Ok(None) => panic!("{length} bytes of {} and no error", body.len()),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
        }
        node::stop(&share).await.unwrap();
    });
}

#[test]
fn repair_makes_what_is_missing_and_nothing_else() {
    for (k, m) in [(1, 1), (2, 1), (2, 2), (3, 2)] {
        with_shards_lost(
            (k, m),
            u16::from(m),
            move |share, bucket, bodies| async move {
                let store = &share.store;
                let (_, groups) = &store.link().local()[0];
                let first = store.repair_home(groups).await.unwrap();
                assert_eq!((first.objects, first.failed), (LENGTHS.len() as u64, 0));
                assert!(first.runs >= LENGTHS.len() as u64);
                let second = store.repair_home(groups).await.unwrap();
                assert_eq!((second.runs, second.bytes), (0, 0));
                // Other shards go, so that those that were made are needed, and right.
                let group_of = |object| store.link().map().group_of_object(object);
                let zero = shard_format::ObjectId([0; 16]);
                let (objects, _) = groups.stored_objects(group_of, zero, 100).await.unwrap();
                for volume in u16::from(m)..2 * u16::from(m) {
                    for object in &objects {
                        let object = object.object;
                        let free = Request::FreeObject { object };
                        store.link().call(volume, free).await.unwrap();
                    }
                }
                for (n, body) in bodies.iter().enumerate() {
                    let whole = read(store, &bucket, n.to_string().as_bytes(), None).await;
                    assert!(whole == *body, "{k}+{m}: {} bytes", body.len());
                }
                node::stop(&share).await.unwrap();
            },
        );
    }
}
