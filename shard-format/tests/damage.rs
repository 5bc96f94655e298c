//! Damaged bytes are refused: every single flipped bit, and whatever else happens to them.

mod checks;
mod samples;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use samples::*;
use shard_format::format_file::FORMAT_FILE_SIZE;
use shard_format::*;

/// Calls `check` with each bit of `bytes[range]` flipped in turn, and the position of its byte.
fn for_each_flip(
    bytes: &mut [u8],
    range: std::ops::Range<usize>,
    mut check: impl FnMut(&[u8], usize),
) {
    for at in range {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            check(bytes, at);
            bytes[at] ^= 1 << bit;
        }
    }
}

fn copies_survive_one_and_refuse_two<T: PartialEq + std::fmt::Debug>(
    expected: T,
    bytes: Vec<u8>,
    decode: impl Fn(&[u8; FORMAT_FILE_SIZE]) -> Result<Decoded<T>, HeaderError>,
) {
    let mut bytes: [u8; FORMAT_FILE_SIZE] = bytes.try_into().unwrap();
    for at in 0..bytes.len() {
        let copy = (at / 4096) as u8;
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let decoded = decode(&bytes).expect("the other copy is whole");
            assert_eq!(decoded.value, expected);
            assert_eq!(decoded.damaged_copy, Some(copy), "byte {at} bit {bit}");
            if copy == 0 {
                bytes[at + 4096] ^= 1 << bit;
                assert!(
                    matches!(decode(&bytes), Err(HeaderError::Damaged(_))),
                    "byte {at} bit {bit}"
                );
                bytes[at + 4096] ^= 1 << bit;
            }
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_flipped_bit_costs_one_copy_of_a_header() {
    copies_survive_one_and_refuse_two(
        file_header(),
        encode(|out| file_header().encode(out)),
        decode_file_header,
    );
    copies_survive_one_and_refuse_two(
        drive_format(),
        encode(|out| drive_format().encode(out)),
        |bytes| decode_drive_format(bytes),
    );
    copies_survive_one_and_refuse_two(
        volume_format(),
        encode(|out| volume_format().encode(out)),
        |bytes| decode_volume_format(bytes),
    );
}

#[test]
fn a_flipped_bit_in_a_directory_is_refused() {
    for mut batch in [commit_batch(), mixed_batch(), floor_batch()] {
        let (header, _) = decode_directory(&batch).unwrap();
        for_each_flip(&mut batch, 0..header.directory_len as usize, |batch, at| {
            let error = decode_directory(batch).unwrap_err();
            let expected = match at {
                0..4 => error == BatchError::NotABatch,
                4..128 => matches!(error, BatchError::DamagedHeader(_)),
                _ => matches!(error, BatchError::DamagedDirectory(_)),
            };
            assert!(expected, "byte {at}: {error:?}");
            // A torn directory leaves the header readable.
            let header_again = decode_batch_header(batch.first_chunk().unwrap());
            assert_eq!(header_again.ok(), (at >= 128).then_some(header));
        });
    }
}

#[test]
fn a_flipped_bit_in_a_payload_is_refused() {
    for mut batch in [commit_batch(), mixed_batch()] {
        let (_, entries) = decode_directory(&batch).unwrap();
        for entry in entries {
            let start = entry.offset as usize;
            let range = start..start + entry.stored_len as usize;
            assert_eq!(entry.verify(&batch[range.clone()]), Ok(()));
            for_each_flip(&mut batch, range.clone(), |batch, at| {
                assert!(entry.verify(&batch[range.clone()]).is_err(), "byte {at}");
            });
        }
    }
}

#[test]
fn a_payload_of_another_identity_is_refused() {
    let batch = mixed_batch();
    let (_, entries) = decode_directory(&batch).unwrap();
    let mut segment = entries[0];
    let stored = &batch[segment.offset as usize..][..segment.stored_len as usize];
    let Kind::Segment(described) = &mut segment.kind else {
        panic!("record 0 is a segment");
    };
    described.identity.segment.0 += 1;
    assert!(matches!(
        segment.verify(stored),
        Err(Damage::Checksum { .. })
    ));

    let mut command = entries[1];
    let stored = &batch[command.offset as usize..][..command.stored_len as usize];
    let Kind::Metadata(described) = &mut command.kind else {
        panic!("record 1 is a command");
    };
    described.origin.index += 1;
    assert!(matches!(
        command.verify(stored),
        Err(Damage::Checksum { .. })
    ));
}

#[test]
fn a_flipped_bit_in_a_footer_is_refused() {
    let mut bytes = footer_bytes();
    let len = bytes.len();
    for_each_flip(&mut bytes, 0..len, |bytes, at| {
        assert!(decode_footer(FOOTER_OFFSET, bytes).is_err(), "byte {at}");
    });
    // The right footer at the wrong place is a misdirected write.
    assert!(decode_footer(FOOTER_OFFSET + BLOCK_SIZE as u64, &bytes).is_err());
}

#[test]
fn every_prefix_is_refused() {
    for batch in [commit_batch(), mixed_batch()] {
        let (header, _) = decode_directory(&batch).unwrap();
        for len in 0..header.directory_len as usize {
            assert!(decode_directory(&batch[..len]).is_err());
        }
    }
    for (name, record) in metadata_records() {
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        for len in 0..bytes.len() {
            assert!(MetadataRecord::decode(&bytes[..len]).is_err(), "{name}");
        }
        bytes.push(0);
        assert!(MetadataRecord::decode(&bytes).is_err(), "{name}");
    }
    for (name, record) in volume_records() {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(VolumeRecord::decode(&bytes[..len]).is_err(), "{name}");
        }
        bytes.push(0);
        assert!(VolumeRecord::decode(&bytes).is_err(), "{name}");
    }
}

/// Overwrites and cuts `bytes` as told.
fn mutate(mut bytes: Vec<u8>, changes: &[(Index, u8)], cut: Option<Index>) -> Vec<u8> {
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    // Small values are the interesting ones: counts, kinds, high bytes of lengths.
    let value = prop_oneof![Just(0u8), 1..8u8, any::<u8>()];
    vec((any::<Index>(), value), 1..4)
}

fn cut() -> impl Strategy<Value = Option<Index>> {
    prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_harmless(bytes in vec(any::<u8>(), 0..600)) {
        checks::headers(&bytes);
        checks::batch(&bytes);
        checks::footer(FOOTER_OFFSET, &bytes);
        checks::metadata_record(&bytes);
        checks::volume_record(&bytes);
    }

    #[test]
    fn changed_headers_are_harmless(which in 0..3, changes in changes(), cut in cut()) {
        let bytes = match which {
            0 => encode(|out| file_header().encode(out)),
            1 => encode(|out| drive_format().encode(out)),
            _ => encode(|out| volume_format().encode(out)),
        };
        // The fields are all in the first 128 bytes of a copy: aim there.
        let mut front = mutate(bytes[..128].to_vec(), &changes, None);
        front.extend_from_slice(&bytes[128..]);
        checks::headers(&mutate(front, &[], cut));
    }

    #[test]
    fn changed_batches_are_harmless(which in 0..3, changes in changes(), cut in cut()) {
        let batch = match which {
            0 => commit_batch(),
            1 => mixed_batch(),
            _ => floor_batch(),
        };
        let (header, _) = decode_directory(&batch).unwrap();
        let directory = batch[..header.directory_len as usize].to_vec();
        checks::batch(&mutate(directory, &changes, cut));
    }

    #[test]
    fn changed_footers_are_harmless(changes in changes(), cut in cut()) {
        let bytes = footer_bytes();
        // Header and entries are at the front, the trailer at the end.
        let mut front = mutate(bytes[..136].to_vec(), &changes, None);
        front.extend_from_slice(&bytes[136..]);
        checks::footer(FOOTER_OFFSET, &mutate(front, &[], cut));
    }

    #[test]
    fn changed_records_are_harmless(which in any::<Index>(), changes in changes(), cut in cut()) {
        let records = metadata_records();
        let mut bytes = Vec::new();
        records[which.index(records.len())].1.encode(&mut bytes).unwrap();
        checks::metadata_record(&mutate(bytes, &changes, cut));

        let records = volume_records();
        let mut bytes = Vec::new();
        records[which.index(records.len())].1.encode(&mut bytes);
        checks::volume_record(&mutate(bytes, &changes, cut));
    }
}
