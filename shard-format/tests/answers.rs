//! Blank, damaged, of an unknown version: three answers that must not be mixed up.

mod samples;

use samples::*;
use shard_format::format_file::FORMAT_FILE_SIZE;
use shard_format::*;

fn header_bytes(header: &FileHeader) -> [u8; FILE_HEADER_SIZE] {
    let mut out = [0xFF; FILE_HEADER_SIZE];
    header.encode(&mut out);
    out
}

/// Rewrites a copy's version and makes its checksum right.
fn set_version(copy: &mut [u8], version: u32) {
    copy[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c(&copy[..508]);
    copy[508..512].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn zeros_were_never_used() {
    assert_eq!(
        decode_file_header(&[0; FILE_HEADER_SIZE]),
        Err(HeaderError::NeverUsed)
    );
    assert_eq!(
        decode_drive_format(&[0; FORMAT_FILE_SIZE]),
        Err(HeaderError::NeverUsed)
    );
    let one_bit = {
        let mut bytes = [0; FILE_HEADER_SIZE];
        bytes[8191] = 1;
        bytes
    };
    assert!(matches!(
        decode_file_header(&one_bit),
        Err(HeaderError::Damaged(_))
    ));
    assert_eq!(decode_directory(&[0; 8192]), Err(BatchError::NotABatch));
    assert_eq!(
        decode_footer(FOOTER_OFFSET, &[0; 8192]),
        Err(FooterError::NotAFooter)
    );
}

#[test]
fn an_empty_format_file_is_not_an_unused_one() {
    assert!(matches!(
        decode_drive_format(&[]),
        Err(HeaderError::Damaged(Damage::Truncated { .. }))
    ));
    assert!(matches!(
        decode_volume_format(&[0; FORMAT_FILE_SIZE + 1]),
        Err(HeaderError::Damaged(Damage::TrailingBytes { .. }))
    ));
}

#[test]
fn a_format_file_is_not_taken_for_another() {
    let drive = encode(|out| drive_format().encode(out));
    assert_eq!(
        decode_volume_format(&drive),
        Err(HeaderError::Damaged(Damage::Magic))
    );
}

#[test]
fn the_higher_generation_wins_and_the_other_copy_is_named() {
    let old = file_header();
    let new = FileHeader {
        generation: Generation(old.generation.0 + 1),
        state: FileState::Free,
        ..old
    };
    for (first, second, stale) in [(&old, &new, 0), (&new, &old, 1)] {
        let mut bytes = header_bytes(first);
        bytes[4096..].copy_from_slice(&header_bytes(second)[4096..]);
        assert_eq!(
            decode_file_header(&bytes),
            Ok(Decoded {
                value: new,
                damaged_copy: Some(stale)
            })
        );
    }
}

#[test]
fn equally_new_copies_that_differ_are_damage() {
    let header = file_header();
    let other = FileHeader {
        created_lsn: Lsn(1),
        ..header
    };
    let mut bytes = header_bytes(&header);
    bytes[4096..].copy_from_slice(&header_bytes(&other)[4096..]);
    assert_eq!(
        decode_file_header(&bytes),
        Err(HeaderError::Damaged(Damage::CopiesDisagree))
    );
}

#[test]
fn a_copy_at_the_other_copys_place_is_damage() {
    let bytes = header_bytes(&file_header());
    let mut swapped = [0; FILE_HEADER_SIZE];
    swapped[..4096].copy_from_slice(&bytes[4096..]);
    swapped[4096..].copy_from_slice(&bytes[..4096]);
    assert!(matches!(
        decode_file_header(&swapped),
        Err(HeaderError::Damaged(Damage::OutOfRange { .. }))
    ));
}

#[test]
fn a_half_written_first_header_is_read_from_its_whole_copy() {
    let whole = header_bytes(&file_header());
    for zeroed in 0..2u8 {
        let mut bytes = whole;
        bytes[usize::from(zeroed) * 4096..][..4096].fill(0);
        assert_eq!(
            decode_file_header(&bytes),
            Ok(Decoded {
                value: file_header(),
                damaged_copy: Some(zeroed)
            })
        );
    }
}

#[test]
fn an_unknown_version_stops_even_beside_a_known_copy() {
    for copies in [&[0][..], &[1], &[0, 1]] {
        let mut bytes = header_bytes(&file_header());
        for copy in copies {
            set_version(&mut bytes[copy * 4096..][..4096], 2);
        }
        assert_eq!(
            decode_file_header(&bytes),
            Err(HeaderError::UnknownVersion { found: 2, known: 1 })
        );
    }
}

#[test]
fn batches_and_footers_of_an_unknown_version_are_neither_absent_nor_damaged() {
    let mut batch = mixed_batch();
    batch[4] = 2;
    assert!(matches!(
        decode_directory(&batch),
        Err(BatchError::DamagedHeader(_))
    ));
    let crc = crc32c(&batch[..124]);
    batch[124..128].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        decode_directory(&batch),
        Err(BatchError::UnknownVersion { found: 2, known: 1 })
    );

    let mut footer = footer_bytes();
    footer[8] = 2;
    let crc = crc32c(&footer[..60]);
    footer[60..64].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        decode_footer(FOOTER_OFFSET, &footer),
        Err(FooterError::UnknownVersion { found: 2, known: 1 })
    );
}

#[test]
fn unknown_records_are_named() {
    assert_eq!(
        MetadataRecord::decode(&[2, 8]),
        Err(RecordError::UnknownVersion { found: 2, known: 1 })
    );
    assert_eq!(
        MetadataRecord::decode(&[1, 99]),
        Err(RecordError::UnknownType { found: 99 })
    );
    assert!(matches!(
        MetadataRecord::decode(&[1, 0]),
        Err(RecordError::Damaged(_))
    ));
    assert_eq!(
        VolumeRecord::decode(&[1, 3]),
        Err(RecordError::UnknownType { found: 3 })
    );

    let bytes = delete_marker_with(&[0xFF, 0x7F, 1, 0, 0, 0, 0xAA]);
    assert_eq!(
        MetadataRecord::decode(&bytes),
        Err(RecordError::UnknownField { tag: 0x7FFF })
    );
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
    let mut out = b"before".to_vec();
    for key in [&b""[..], &[b'k'; KEY_LENGTH_MAX + 1]] {
        let record = MetadataRecord::DeleteVersion(DeleteVersion {
            bucket: BucketId(1),
            key,
            version: VersionId::Null,
            condition: Condition::None,
        });
        assert!(matches!(
            record.encode(&mut out),
            Err(EncodeError::Length { field: "key", .. })
        ));
        assert_eq!(out, b"before");
    }
    let name = "n".repeat(256);
    let record = MetadataRecord::DeleteBucket {
        name: &name,
        bucket: BucketId(1),
    };
    assert!(record.encode(&mut out).is_err());
    assert_eq!(out, b"before");
}

/// The record with `fields` for its fields, which the sample has none of.
fn delete_marker_with(fields: &[u8]) -> Vec<u8> {
    let records = metadata_records();
    let (_, marker) = records
        .iter()
        .find(|(name, _)| *name == "put_delete_marker")
        .unwrap();
    let mut bytes = Vec::new();
    marker.encode(&mut bytes).unwrap();
    // It ends with the length of its fields.
    let length_at = bytes.len() - 4;
    bytes[length_at] = fields.len() as u8;
    bytes.extend_from_slice(fields);
    bytes
}

#[test]
fn one_value_has_one_encoding() {
    // Storage class (11) before content type (1), then one field twice.
    let ascending = [1, 0, 1, 0, 0, 0, b'a', 11, 0, 1, 0, 0, 0, b'b'];
    let descending = [11, 0, 1, 0, 0, 0, b'b', 1, 0, 1, 0, 0, 0, b'a'];
    let twice = [1, 0, 1, 0, 0, 0, b'a', 1, 0, 1, 0, 0, 0, b'b'];
    assert!(MetadataRecord::decode(&delete_marker_with(&ascending)).is_ok());
    for (fields, tag) in [(descending, 1), (twice, 1)] {
        assert_eq!(
            MetadataRecord::decode(&delete_marker_with(&fields)),
            Err(RecordError::Damaged(Damage::FieldOrder { tag }))
        );
    }
    // A list of no tags is no field; so is a list of no missing roles.
    for fields in [&[8, 0, 2, 0, 0, 0, 0, 0][..], &[16, 0, 0, 0, 0, 0]] {
        assert!(matches!(
            MetadataRecord::decode(&delete_marker_with(fields)),
            Err(RecordError::Damaged(_))
        ));
    }
}

#[test]
fn a_directory_holds_its_entries_and_nothing_else() {
    let mut batch = floor_batch();
    // Two VOLUME entries where the header counts one, every checksum right.
    let entry = [3, 0, 1, 0, 0xA8, 0, 0, 0];
    batch[128..136].copy_from_slice(&entry);
    batch[148..156].copy_from_slice(&entry);
    batch[7] = 0;
    batch[12] = 1;
    batch[64] = 168;
    let crc = crc32c(&batch[128..168]);
    batch[76..80].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c(&batch[..124]);
    batch[124..128].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(
        decode_directory(&batch),
        Err(BatchError::DamagedDirectory(Damage::TrailingBytes {
            extra: 20
        }))
    );
}
