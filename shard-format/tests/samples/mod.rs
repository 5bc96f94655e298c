//! One value of every structure, with every field set to something of its own.
#![allow(dead_code)] // each test binary uses some of them

use shard_format::metadata::{
    BucketDocument, DefaultRetention, Durability, Encryption, EncryptionAlgorithm, MissingRoles,
    ObjectLock, PageTable, Retention, RetentionMode, RetentionPeriod, Versioning,
};
use shard_format::*;

/// 16 different bytes.
fn sixteen(first: u8) -> [u8; 16] {
    std::array::from_fn(|i| first + i as u8)
}

pub fn file_header() -> FileHeader {
    FileHeader {
        cluster: ClusterId(sixteen(0x10)),
        drive: DriveId(sixteen(0x20)),
        volume: VolumeId(sixteen(0x30)),
        file_number: FileNumber(0x0102_0304),
        file_length: 256 << 20,
        head: Head::Bulk,
        state: FileState::Open,
        generation: Generation(0x1112_1314_1516_1718),
        first_seq: BatchSeq(0x2122_2324_2526_2728),
        incarnation: Incarnation(0x3132_3334_3536_3738),
        created_lsn: Lsn(0x4142_4344_4546_4748),
    }
}

pub fn drive_format() -> DriveFormat {
    DriveFormat {
        cluster: ClusterId(sixteen(0x10)),
        drive: DriveId(sixteen(0x20)),
        volume_count: 4,
        first_volume: 8,
        pg_count: 256,
        segment_file_length: 256 << 20,
        created_ms: 1_700_000_000_123,
    }
}

pub fn volume_format() -> VolumeFormat {
    VolumeFormat {
        cluster: ClusterId(sixteen(0x10)),
        drive: DriveId(sixteen(0x20)),
        volume: VolumeId(sixteen(0x30)),
        volume_index: 9,
        segment_file_length: 256 << 20,
    }
}

pub fn stamp() -> BatchStamp {
    BatchStamp {
        volume: VolumeId(sixteen(0x30)),
        file_number: FileNumber(0x0102_0304),
        generation: Generation(0x1112_1314_1516_1718),
        incarnation: Incarnation(0x3132_3334_3536_3738),
        seq: BatchSeq(1_000_004),
        flushed_seq: BatchSeq(1_000_002),
        outcomes_to: BatchSeq(1_000_001),
        first_lsn: Lsn(0x5152_5354_5556_5758),
        previous_crc: 0x6162_6364,
    }
}

pub fn object(n: u8) -> ObjectId {
    ObjectId::new(
        0xA1A2_A3A4,
        Hlc::new(1_700_000_000_000, 7),
        [n, 0xB1, 0xB2, 0xB3],
    )
}

pub fn segment(n: u16) -> SegmentEntry {
    SegmentEntry {
        identity: SegmentIdentity {
            object: object(1),
            chunk: ChunkIndex(0x7172_7374),
            segment: SegmentIndex(n),
            role: Role(5),
        },
        scheme: Scheme {
            k: 4,
            m: 2,
            codec: Scheme::CODEC_CAUCHY_8,
        },
        epoch: Epoch(0x8182_8384),
    }
}

pub fn metadata(index: u64, relocated: bool) -> MetadataEntry {
    MetadataEntry {
        origin: Origin {
            pg: PgId(0x9192),
            index,
            term: 3,
            hlc: Hlc::new(1_700_000_000_001, 2),
        },
        relocated,
    }
}

/// Bytes that compress badly and differ at every offset.
pub fn payload(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Batches of the commit head, by name: commands and local facts, packed. What is in a batch whose bytes are golden
/// stays; records that came later make a batch of their own.
pub fn commit_batches<'a>() -> Vec<(&'static str, Vec<MetadataRecord<'a>>, Vec<VolumeRecord>)> {
    let mut commands: Vec<_> = metadata_records().into_iter().map(|(_, r)| r).collect();
    let mut uploads = commands.split_off(FIRST_RECORDS);
    let spread = uploads.split_off(UPLOAD_RECORDS);
    let facts = volume_records().into_iter().map(|(_, r)| r).collect();
    vec![
        ("batch_commit", commands, facts),
        ("batch_uploads", uploads, Vec::new()),
        ("batch_spread", spread, Vec::new()),
    ]
}

/// Of [`metadata_records`], those that the format began with.
const FIRST_RECORDS: usize = 11;

/// Of those behind them, the first that uploads came with.
const UPLOAD_RECORDS: usize = 5;

/// One batch of all there are.
pub fn commit_batch() -> Vec<u8> {
    let commands: Vec<_> = metadata_records().into_iter().map(|(_, r)| r).collect();
    let facts: Vec<_> = volume_records().into_iter().map(|(_, r)| r).collect();
    commit_batch_of(&commands, &facts)
}

pub fn commit_batch_of(commands: &[MetadataRecord], facts: &[VolumeRecord]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Head::Commit, BATCH_LENGTH_MAX);
    for (i, record) in commands.iter().enumerate() {
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        let entry = metadata(100 + i as u64, i == 1);
        builder.push_metadata(&entry, &[&payload]).unwrap();
    }
    for record in facts {
        let mut payload = Vec::new();
        record.encode(&mut payload);
        builder.push_volume(&payload).unwrap();
    }
    let mut out = vec![0xFF; builder.head_len()];
    builder.encode(&stamp(), &mut out);
    out
}

/// A whole batch of the relocation head: segments, aligned, beside packed records.
pub fn mixed_batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Head::Relocate, BATCH_LENGTH_MAX);
    let bodies = [payload(8192, 1), payload(5000, 2), payload(1, 3)];
    let push_segment = |builder: &mut BatchBuilder, n: usize, transform, logical_len| {
        let body = &bodies[n];
        let segment = segment(n as u16);
        let crc = segment_crc(&segment.identity, body);
        builder
            .push_segment(&segment, transform, logical_len, body.len() as u32, crc)
            .unwrap()
    };
    push_segment(&mut builder, 0, Transform::None, 8192);
    builder
        .push_metadata(&metadata(7, true), &[b"the payload", b" in two parts"])
        .unwrap();
    push_segment(&mut builder, 1, Transform::Lz4, 65536);
    builder.push_volume(b"local").unwrap();
    push_segment(&mut builder, 2, Transform::None, 1);
    let mut out = vec![0xFF; builder.head_len()];
    builder.encode(&stamp(), &mut out);
    for body in bodies {
        out.extend_from_slice(&body);
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
    }
    assert_eq!(out.len(), builder.batch_len());
    out
}

pub fn floor_batch() -> Vec<u8> {
    let builder = BatchBuilder::new(Head::Commit, BATCH_LENGTH_MAX);
    let mut out = vec![0xFF; builder.head_len()];
    builder.encode(&stamp(), &mut out);
    out
}

/// Where [`footer`] is written.
pub const FOOTER_OFFSET: u64 = 100 * BLOCK_SIZE as u64;

pub fn footer() -> Footer {
    Footer {
        volume: VolumeId(sixteen(0x30)),
        file_number: FileNumber(0x0102_0304),
        generation: Generation(0x1112_1314_1516_1718),
        batches: vec![
            FooterEntry {
                offset_blocks: 1,
                record_count: 4096,
                seq: BatchSeq(10),
                first_lsn: Lsn(1000),
            },
            // Floor only: no LSN used.
            FooterEntry {
                offset_blocks: 50,
                record_count: 0,
                seq: BatchSeq(11),
                first_lsn: Lsn(5096),
            },
            FooterEntry {
                offset_blocks: 99,
                record_count: 1,
                seq: BatchSeq(13),
                first_lsn: Lsn(5096),
            },
        ],
    }
}

pub fn footer_bytes() -> Vec<u8> {
    let footer = footer();
    let mut out = vec![0xFF; footer.encoded_len()];
    footer.encode(FOOTER_OFFSET, &mut out);
    out
}

pub fn encode<const N: usize>(encode: impl Fn(&mut [u8; N])) -> Vec<u8> {
    let mut out = [0xFF; N];
    encode(&mut out);
    out.to_vec()
}

fn put_version<'a>() -> PutVersion<'a> {
    PutVersion {
        bucket: BucketId(0x0102_0304_0506_0708),
        key: b"photos/2024/\xC3\xA9t\xC3\xA9.jpg",
        version: VersionId::Hlc(Hlc::new(1_700_000_000_001, 2)),
        object: object(2),
        size: 5,
        etag: Etag::Md5(sixteen(0xC0)),
        modified_ms: 1_700_000_000_321,
        scheme: Scheme::PLAIN,
        epoch: Epoch(17),
        owner: "0123456789abcdef",
        condition: Condition::None,
        body: Body::Inline(b"hello"),
        fields: VersionFields::default(),
    }
}

fn page_table(n: u8) -> PageTable {
    PageTable {
        object: object(n),
        entry_count: 10_000,
        page_count: 40,
        length: 320_000,
        crc: 0xD1D2_D3D4,
    }
}

/// A command of every type and form, with the name of its golden file.
pub fn metadata_records<'a>() -> Vec<(&'static str, MetadataRecord<'a>)> {
    let spread = Scheme {
        k: 4,
        m: 2,
        codec: Scheme::CODEC_CAUCHY_8,
    };
    let every_field = VersionFields {
        content_type: Some(b"image/jpeg"),
        content_encoding: Some(b"gzip"),
        content_language: Some(b"de"),
        content_disposition: Some(b"attachment"),
        cache_control: Some(b"no-store"),
        expires: Some(b"Thu, 01 Dec 1994 16:00:00 GMT"),
        user_metadata: vec![(b"camera", b"X100"), (b"empty", b"")],
        tags: vec![("colour", "gr\u{fc}n")],
        retention: Some(Retention {
            mode: RetentionMode::Compliance,
            until_ms: 1_900_000_000_000,
        }),
        legal_hold: Some(true),
        storage_class: Some(b"STANDARD"),
        encryption: Some(Encryption {
            algorithm: EncryptionAlgorithm::Kms,
            key_id: b"key-1",
            wrapped_key: &[0xE1; 48],
            iv: &[0xE2; 12],
        }),
        checksum: Some(ObjectChecksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumType::FullObject,
            value: &[1, 2, 3, 4, 5, 6, 7, 8],
        }),
        part_checksums: Some(page_table(3)),
        part_table: Some(page_table(4)),
        missing_roles: vec![
            MissingRoles {
                chunk: ChunkIndex(0),
                roles: 0b10_0000,
            },
            MissingRoles {
                chunk: ChunkIndex(3),
                roles: 0b1,
            },
        ],
        website_redirect: Some(b"/elsewhere"),
        parts: Vec::new(),
        part_placements: Vec::new(),
    };
    let upload = ObjectId::of_upload(0x0102_0304, Hlc::new(1_700_000_000_001, 9));
    let parts = vec![
        Part {
            number: 1,
            attempt: 0x1122_3344,
            size: 5 << 20,
            checksum: &[1, 2, 3, 4],
        },
        Part {
            number: 10_000,
            attempt: 1,
            size: 0,
            checksum: &[5, 6, 7, 8],
        },
    ];
    let spread_parts = vec![
        Part {
            number: 1,
            attempt: 1,
            size: 5 << 20,
            checksum: &[],
        },
        Part {
            number: 2,
            attempt: 2,
            size: 0,
            checksum: &[],
        },
    ];
    let put_bucket = PutBucket {
        name: "pictures",
        bucket: BucketId(42),
        owner: "0123456789abcdef",
        created: Hlc::new(1_700_000_000_001, 3),
        region: "eu-central-1",
        state: BucketState::Active,
        fields: BucketFields::default(),
    };
    let every_bucket_field = BucketFields {
        versioning: Some(Versioning::Enabled),
        object_lock: Some(ObjectLock {
            default_retention: Some(DefaultRetention {
                mode: RetentionMode::Governance,
                period: RetentionPeriod::Days(30),
            }),
        }),
        tags: vec![("team", "photos")],
        durability: Some(Durability::Batched),
        scheme: Some(Scheme {
            k: 8,
            m: 4,
            codec: Scheme::CODEC_CAUCHY_8,
        }),
        documents: BucketDocument::ALL
            .into_iter()
            .map(|document| (document, b"<as written/>".as_slice()))
            .collect(),
    };
    vec![
        ("put_inline", MetadataRecord::PutVersion(put_version())),
        (
            "put_chunks",
            MetadataRecord::PutVersion(PutVersion {
                version: VersionId::Null,
                size: 100 << 20,
                etag: Etag::Text("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf-13"),
                scheme: Scheme {
                    k: 4,
                    m: 2,
                    codec: Scheme::CODEC_CAUCHY_8,
                },
                condition: Condition::IfNoneMatchAny,
                body: Body::Chunks(4),
                fields: every_field,
                ..put_version()
            }),
        ),
        (
            "put_delete_marker",
            MetadataRecord::PutVersion(PutVersion {
                size: 0,
                etag: Etag::None,
                condition: Condition::IfMatch(Etag::Md5(sixteen(0xC0))),
                body: Body::DeleteMarker,
                ..put_version()
            }),
        ),
        (
            "delete_version",
            MetadataRecord::DeleteVersion(DeleteVersion {
                bucket: BucketId(42),
                key: b"k",
                version: VersionId::Null,
                condition: Condition::IfNoneMatch(Etag::Text("other")),
            }),
        ),
        ("put_bucket", MetadataRecord::PutBucket(put_bucket.clone())),
        (
            "put_bucket_configured",
            MetadataRecord::PutBucket(PutBucket {
                state: BucketState::Deleting,
                fields: every_bucket_field,
                ..put_bucket
            }),
        ),
        (
            "delete_bucket",
            MetadataRecord::DeleteBucket {
                name: "pictures",
                bucket: BucketId(42),
            },
        ),
        (
            "fence_bucket",
            MetadataRecord::FenceBucket {
                bucket: BucketId(42),
                fenced: true,
            },
        ),
        (
            "abort_object",
            MetadataRecord::AbortObject { object: object(5) },
        ),
        ("free_done", MetadataRecord::FreeDone { object: object(6) }),
        ("no_op", MetadataRecord::NoOp),
        (
            "create_upload",
            MetadataRecord::CreateUpload(CreateUpload {
                bucket: BucketId(42),
                key: b"k",
                upload,
                initiated_ms: 1_700_000_000_321,
                owner: "0123456789abcdef",
                checksum: Some((ChecksumAlgorithm::Sha256, ChecksumType::Composite)),
                fields: VersionFields {
                    content_type: Some(b"image/jpeg"),
                    ..VersionFields::default()
                },
            }),
        ),
        (
            "put_part",
            MetadataRecord::PutPart(PutPart {
                bucket: BucketId(42),
                key: b"k",
                upload,
                number: 10_000,
                object: upload.part(0x7FFF_FFFF),
                size: 5 << 30,
                md5: sixteen(0xC0),
                modified_ms: 1_700_000_000_321,
                scheme: Scheme::PLAIN,
                epoch: Epoch(17),
                checksum: Some(ObjectChecksum {
                    algorithm: ChecksumAlgorithm::Crc32,
                    kind: ChecksumType::FullObject,
                    value: &[1, 2, 3, 4],
                }),
                missing_roles: Vec::new(),
            }),
        ),
        (
            "complete_upload",
            MetadataRecord::PutVersion(PutVersion {
                version: VersionId::Null,
                object: upload,
                size: 5 << 20,
                etag: Etag::Text("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf-2"),
                condition: Condition::IfMatchAny,
                body: Body::Chunks(1),
                fields: VersionFields {
                    parts,
                    ..VersionFields::default()
                },
                ..put_version()
            }),
        ),
        (
            "abort_upload",
            MetadataRecord::EndUpload(EndUpload {
                bucket: BucketId(42),
                key: b"k",
                upload,
                end: UploadEnd::Aborted,
            }),
        ),
        (
            "forget_upload",
            MetadataRecord::EndUpload(EndUpload {
                bucket: BucketId(42),
                key: b"k",
                upload,
                end: UploadEnd::Forgotten,
            }),
        ),
        (
            "put_part_missing_roles",
            MetadataRecord::PutPart(PutPart {
                bucket: BucketId(42),
                key: b"k",
                upload,
                number: 7,
                object: upload.part(5),
                size: 5 << 20,
                md5: sixteen(0xC0),
                modified_ms: 1_700_000_000_321,
                scheme: spread,
                epoch: Epoch(18),
                checksum: None,
                missing_roles: vec![
                    MissingRoles {
                        chunk: ChunkIndex(0),
                        roles: 0b10_0001,
                    },
                    MissingRoles {
                        chunk: ChunkIndex(3),
                        roles: 1,
                    },
                ],
            }),
        ),
        (
            "complete_upload_spread_twice",
            MetadataRecord::PutVersion(PutVersion {
                version: VersionId::Null,
                object: upload,
                size: 5 << 20,
                etag: Etag::Text("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf-2"),
                body: Body::Chunks(1),
                fields: VersionFields {
                    parts: spread_parts,
                    part_placements: vec![PartPlacement {
                        first: 1,
                        scheme: spread,
                        epoch: Epoch(18),
                    }],
                    ..VersionFields::default()
                },
                ..put_version()
            }),
        ),
    ]
}

/// Two drives, of which one is away at the second epoch.
pub fn cluster_map() -> ClusterMap {
    let drive = |n: u8, state| MapDrive {
        drive: DriveId(sixteen(n)),
        first_volume: u16::from(n / 16) * 2,
        volume_count: 2,
        state,
        capacity: (1 << 40) + u64::from(n),
    };
    let epoch = |epoch, k, state| MapEpoch {
        epoch: Epoch(epoch),
        began_ms: 1_700_000_000_000,
        scheme: Scheme {
            k,
            m: 1,
            codec: Scheme::CODEC_CAUCHY_8,
        },
        drives: vec![
            drive(0x00, DriveState::InUse),
            drive(0x10, DriveState::InUse),
            drive(0x20, state),
        ],
    };
    ClusterMap {
        cluster: ClusterId(sixteen(0x10)),
        epochs: vec![
            epoch(1, 2, DriveState::InUse),
            epoch(4, 1, DriveState::Away),
        ],
    }
}

/// A local fact of every type, with the name of its golden file.
pub fn volume_records() -> Vec<(&'static str, VolumeRecord)> {
    vec![
        (
            "refused",
            VolumeRecord::Refused {
                pg: PgId::SYSTEM,
                index: 12,
                hlc: Hlc::new(1_700_000_000_001, 4),
                generation: Generation(77),
            },
        ),
        (
            "shards_freed",
            VolumeRecord::ShardsFreed { object: object(7) },
        ),
        (
            "mounted",
            VolumeRecord::Mounted {
                incarnation: Incarnation(5),
                drive: DriveId(sixteen(0x20)),
            },
        ),
    ]
}
