//! What a [`BatchBuilder`] lays out is what a decoder finds, for any mix of records.

mod samples;

use proptest::collection::vec;
use proptest::prelude::*;
use samples::*;
use shard_format::*;

#[derive(Clone, Debug)]
enum Record {
    Segment { len: usize, lz4: bool },
    Metadata { len: usize, split: usize },
    Volume { len: usize },
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (1..=SEGMENT_SIZE, any::<bool>()).prop_map(|(len, lz4)| Record::Segment {
            len,
            lz4: lz4 && len < SEGMENT_SIZE
        }),
        (0..20_000usize, any::<prop::sample::Index>()).prop_map(|(len, split)| {
            Record::Metadata {
                len,
                split: split.index(len + 1),
            }
        }),
        (0..100usize).prop_map(|len| Record::Volume { len }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_batch_gives_back_its_records(records in vec(record(), 0..40)) {
        let mut builder = BatchBuilder::new(Head::Relocate, BATCH_LENGTH_MAX);
        let mut payloads = Vec::new();
        let mut aligned = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let i = i as u32;
            let pushed = match record {
                Record::Segment { len, lz4 } => {
                    let bytes = payload(*len, i);
                    let segment = segment(i as u16);
                    let crc = segment_crc(&segment.identity, &bytes);
                    let stored = *len as u32;
                    let (transform, logical) = if *lz4 {
                        (Transform::Lz4, SEGMENT_SIZE as u32)
                    } else {
                        (Transform::None, stored)
                    };
                    aligned.extend_from_slice(&bytes);
                    aligned.resize(aligned.len().next_multiple_of(BLOCK_SIZE), 0);
                    payloads.push(bytes);
                    builder.push_segment(&segment, transform, logical, stored, crc)
                }
                Record::Metadata { len, split } => {
                    let bytes = payload(*len, i);
                    let (front, back) = bytes.split_at(*split);
                    let entry = metadata(u64::from(i), i.is_multiple_of(3));
                    let pushed = builder.push_metadata(&entry, &[front, back]);
                    payloads.push(bytes);
                    pushed
                }
                Record::Volume { len } => {
                    let bytes = payload(*len, i);
                    let pushed = builder.push_volume(&bytes);
                    payloads.push(bytes);
                    pushed
                }
            };
            prop_assert_eq!(pushed, Ok(i));
        }

        let mut batch = vec![0xFF; builder.head_len()];
        let header = builder.encode(&stamp(), &mut batch);
        batch.extend_from_slice(&aligned);
        prop_assert_eq!(batch.len(), builder.batch_len());
        prop_assert!(batch.len().is_multiple_of(BLOCK_SIZE));

        let (header_again, entries) = decode_directory(&batch).unwrap();
        prop_assert_eq!(header_again, header);
        prop_assert_eq!(entries.len(), records.len());
        let mut covered = vec![false; batch.len()];
        covered[..header.directory_len as usize].fill(true);
        for (i, (entry, expected)) in entries.iter().zip(&payloads).enumerate() {
            let placement = builder.placement(i as u32);
            prop_assert_eq!(placement.offset, entry.offset);
            prop_assert_eq!(placement.stored_len, entry.stored_len);
            prop_assert_eq!(placement.payload_crc, entry.payload_crc);
            let range = entry.offset as usize..(entry.offset + entry.stored_len) as usize;
            prop_assert_eq!(&batch[range.clone()], expected.as_slice());
            prop_assert_eq!(entry.verify(&batch[range.clone()]), Ok(()));
            let aligned = matches!(entry.kind, Kind::Segment(_));
            let alignment = if aligned { BLOCK_SIZE } else { 8 };
            prop_assert!(range.start.is_multiple_of(alignment));
            prop_assert!(covered[range.clone()].iter().all(|covered| !covered), "overlap");
            covered[range].fill(true);
        }
        // What nothing covers is padding.
        prop_assert!(batch.iter().zip(&covered).all(|(byte, covered)| *covered || *byte == 0));
    }
}

#[test]
fn clearing_leaves_no_trace() {
    let mut builder = BatchBuilder::new(Head::Commit, BATCH_LENGTH_MAX);
    builder.push_volume(&[1; 100]).unwrap();
    let entry = segment(0);
    builder
        .push_segment(&entry, Transform::None, 100, 100, 0)
        .unwrap();
    builder.clear();
    assert!(builder.is_empty());
    let mut out = vec![0xFF; builder.head_len()];
    builder.encode(&stamp(), &mut out);
    assert_eq!(out, floor_batch());
}

#[test]
fn a_full_batch_refuses_and_keeps_what_it_has() {
    let mut builder = BatchBuilder::new(Head::Bulk, 4 * BLOCK_SIZE);
    let push = |builder: &mut BatchBuilder, len| {
        builder.push_segment(&segment(0), Transform::None, len, len, 0)
    };
    assert_eq!(push(&mut builder, 16384), Ok(0));
    assert_eq!(push(&mut builder, 8193), Err(BatchFull));
    assert_eq!(builder.push_volume(&[0; 16384]), Err(BatchFull));
    assert_eq!(builder.record_count(), 1);
    assert_eq!(push(&mut builder, 8192), Ok(1));
    assert_eq!(builder.batch_len(), 4 * BLOCK_SIZE);
    // The head's block still has room for packed records: its 8192 bytes less header, two SEGMENT
    // entries, this entry and the padding in front of the payload.
    let room = BLOCK_SIZE - (128 + 2 * 68 + 20usize).next_multiple_of(8);
    assert_eq!(builder.push_volume(&vec![0; room + 1]), Err(BatchFull));
    assert_eq!(builder.push_volume(&vec![0; room]), Ok(2));
    assert_eq!(builder.batch_len(), 4 * BLOCK_SIZE);
}

#[test]
fn the_record_count_is_bounded() {
    let mut builder = BatchBuilder::new(Head::Commit, BATCH_LENGTH_MAX);
    for i in 0..RECORD_COUNT_MAX as u32 {
        assert_eq!(builder.push_volume(b"x"), Ok(i));
    }
    assert_eq!(builder.push_volume(b"x"), Err(BatchFull));
    let mut out = vec![0; builder.head_len()];
    builder.encode(&stamp(), &mut out);
    let (_, entries) = decode_directory(&out).unwrap();
    assert_eq!(entries.len(), RECORD_COUNT_MAX);
}

#[test]
#[should_panic(expected = "segment lengths")]
fn a_segment_whose_lengths_contradict_its_transform_is_a_bug() {
    let mut builder = BatchBuilder::new(Head::Bulk, BATCH_LENGTH_MAX);
    let _ = builder.push_segment(&segment(0), Transform::None, 100, 99, 0);
}
