//! What holds for any bytes, one function a decoder; property tests and fuzz targets share them.
//!
//! Beyond "does not panic": what decodes encodes back to the same bytes, so that no two encodings
//! mean the same and nothing is ignored. Because almost no random bytes have a right checksum,
//! the structures that carry one are also tried with it corrected.
#![allow(dead_code)] // each user takes some of them

use shard_format::footer::{FOOTER_HEADER_SIZE, FOOTER_TRAILER_SIZE};
use shard_format::format_file::FORMAT_FILE_SIZE;
use shard_format::*;

/// Puts a right checksum behind `bytes[..at]`.
fn sign(bytes: &mut [u8], at: usize) {
    let crc = crc32c(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// `bytes` cut or filled up to two copies.
fn two_copies(bytes: &[u8], signed: bool) -> [u8; FORMAT_FILE_SIZE] {
    let mut copies = [0; FORMAT_FILE_SIZE];
    let len = bytes.len().min(copies.len());
    copies[..len].copy_from_slice(&bytes[..len]);
    if signed {
        for copy in copies.chunks_exact_mut(4096) {
            sign(copy, 508);
        }
    }
    copies
}

fn check_copies<T: std::fmt::Debug>(
    copies: &[u8; FORMAT_FILE_SIZE],
    decoded: Result<Decoded<T>, HeaderError>,
    encode: impl Fn(&T, &mut [u8; FORMAT_FILE_SIZE]),
) {
    let Ok(Decoded {
        value,
        damaged_copy,
    }) = decoded
    else {
        return;
    };
    let mut again = [0xFF; FORMAT_FILE_SIZE];
    encode(&value, &mut again);
    for copy in 0..2u8 {
        let range = usize::from(copy) * 4096..usize::from(copy + 1) * 4096;
        let same = again[range.clone()] == copies[range];
        assert_eq!(same, damaged_copy != Some(copy), "copy {copy} of {value:?}");
    }
}

/// File header, drive format and volume format.
pub fn headers(bytes: &[u8]) {
    for signed in [false, true] {
        let copies = two_copies(bytes, signed);
        check_copies(&copies, decode_file_header(&copies), FileHeader::encode);
        check_copies(&copies, decode_drive_format(&copies), DriveFormat::encode);
        check_copies(&copies, decode_volume_format(&copies), VolumeFormat::encode);
    }
    let _ = decode_drive_format(bytes);
    let _ = decode_volume_format(bytes);
}

pub fn batch(bytes: &[u8]) {
    check_batch(bytes);
    let mut signed = bytes.to_vec();
    if signed.len() < BATCH_HEADER_SIZE {
        return;
    }
    let directory_len = u32::from_le_bytes(signed[64..68].try_into().unwrap()) as usize;
    if (BATCH_HEADER_SIZE..=signed.len()).contains(&directory_len) {
        let crc = crc32c(&signed[BATCH_HEADER_SIZE..directory_len]);
        signed[76..80].copy_from_slice(&crc.to_le_bytes());
    }
    sign(&mut signed, 124);
    check_batch(&signed);
}

/// A directory that decodes is the one a builder makes of its entries.
fn check_batch(bytes: &[u8]) {
    let Ok((header, entries)) = decode_directory(bytes) else {
        return;
    };
    let mut builder = BatchBuilder::new(header.head, BATCH_LENGTH_MAX);
    for entry in &entries {
        let zeros = vec![0; entry.stored_len as usize];
        match &entry.kind {
            Kind::Segment(segment) => builder.push_segment(
                segment,
                entry.transform,
                entry.logical_len,
                entry.stored_len,
                entry.payload_crc,
            ),
            Kind::Metadata(metadata) => builder.push_metadata(metadata, &[&zeros]),
            Kind::Volume => builder.push_volume(&zeros),
        }
        .expect("it was in a batch");
    }
    let stamp = BatchStamp {
        volume: header.volume,
        file_number: header.file_number,
        generation: header.generation,
        incarnation: header.incarnation,
        seq: header.seq,
        flushed_seq: header.flushed_seq,
        outcomes_to: header.outcomes_to,
        first_lsn: header.first_lsn,
        previous_crc: header.previous_crc,
    };
    let mut head = vec![0xFF; builder.head_len()];
    let header_again = builder.encode(&stamp, &mut head);
    assert_eq!(header_again.batch_len, header.batch_len);
    assert_eq!(header_again.directory_len, header.directory_len);

    // The packed payloads are not here, so their checksums differ, and with them the directory's.
    let (_, mut entries_again) = decode_directory(&head).expect("it was just built");
    for (again, entry) in entries_again.iter_mut().zip(&entries) {
        if !matches!(again.kind, Kind::Segment(_)) {
            again.payload_crc = entry.payload_crc;
        }
    }
    assert_eq!(entries_again, entries);
    let fixed = BatchHeader {
        directory_crc: header.directory_crc,
        header_crc: header.header_crc,
        ..header_again
    };
    assert_eq!(fixed, header);
}

pub fn footer(footer_offset: u64, bytes: &[u8]) {
    check_footer(footer_offset, bytes);
    let mut signed = bytes.to_vec();
    if signed.len() < FOOTER_HEADER_SIZE + FOOTER_TRAILER_SIZE {
        return;
    }
    let trailer_at = signed.len() - FOOTER_TRAILER_SIZE;
    let crc = crc32c(&signed[FOOTER_HEADER_SIZE..trailer_at]);
    signed[44..48].copy_from_slice(&crc.to_le_bytes());
    sign(&mut signed, 60);
    sign(&mut signed[trailer_at..], 60);
    check_footer(footer_offset, &signed);
}

fn check_footer(footer_offset: u64, bytes: &[u8]) {
    if let Some(end) = bytes.last_chunk() {
        let _ = decode_footer_trailer(end);
    }
    let Ok(footer) = decode_footer(footer_offset, bytes) else {
        return;
    };
    let mut again = vec![0xFF; footer.encoded_len()];
    footer.encode(footer_offset, &mut again);
    assert_eq!(again, bytes);
}

pub fn metadata_record(bytes: &[u8]) {
    let Ok(record) = MetadataRecord::decode(bytes) else {
        return;
    };
    let mut again = Vec::new();
    record.encode(&mut again).expect("it was encoded");
    assert_eq!(again, bytes);
    if let MetadataRecord::PutVersion(put) = &record {
        let mut front = Vec::new();
        put.encode_without_body(&mut front).expect("it was encoded");
        assert_eq!([&front, put.body.inline()].concat(), bytes);
    }
}

pub fn volume_record(bytes: &[u8]) {
    let Ok(record) = VolumeRecord::decode(bytes) else {
        return;
    };
    let mut again = Vec::new();
    record.encode(&mut again);
    assert_eq!(again, bytes);
}
