//! The bytes of format 1 do not change: what was written once is decoded to the same values and
//! encoded to the same bytes for as long as this version is read.
//!
//! A new sample gets its file by `cargo test -p shard-format --test golden -- --ignored`, which
//! writes what is missing and touches nothing that is there.

mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use samples::*;
use shard_format::*;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

fn encoded() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([
        (
            "file_header".to_owned(),
            encode(|out| file_header().encode(out)),
        ),
        (
            "drive_format".to_owned(),
            encode(|out| drive_format().encode(out)),
        ),
        (
            "volume_format".to_owned(),
            encode(|out| volume_format().encode(out)),
        ),
        ("batch_mixed".to_owned(), mixed_batch()),
        ("batch_floor".to_owned(), floor_batch()),
        ("footer".to_owned(), footer_bytes()),
        ("cluster_map".to_owned(), cluster_map().encode()),
    ]);
    for (name, commands, facts) in commit_batches() {
        files.insert(name.to_owned(), commit_batch_of(&commands, &facts));
    }
    for (name, record) in metadata_records() {
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        files.insert(format!("metadata_{name}"), bytes);
    }
    for (name, record) in volume_records() {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        files.insert(format!("volume_{name}"), bytes);
    }
    files
}

fn read(name: &str) -> Vec<u8> {
    let path = directory().join(format!("{name}.bin"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
#[ignore = "writes the golden files that are missing"]
fn write_missing() {
    for (name, bytes) in encoded() {
        let path = directory().join(format!("{name}.bin"));
        if path.exists() {
            continue;
        }
        let mut file = fs::File::create_new(path).unwrap();
        file.write_all(&bytes).unwrap();
    }
}

#[test]
fn encoding_gives_the_golden_bytes() {
    for (name, bytes) in encoded() {
        assert!(bytes == read(&name), "{name} is encoded differently now");
    }
}

#[test]
fn every_golden_file_has_a_sample() {
    let files: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let samples = encoded().into_keys().map(|name| name + ".bin").collect();
    assert_eq!(files, samples);
}

#[test]
fn headers_and_format_files_decode() {
    fn whole<T>(value: T) -> Decoded<T> {
        Decoded {
            value,
            damaged_copy: None,
        }
    }
    let bytes = read("file_header");
    let decoded = decode_file_header(bytes.as_slice().try_into().unwrap());
    assert_eq!(decoded, Ok(whole(file_header())));
    assert_eq!(
        decode_drive_format(&read("drive_format")),
        Ok(whole(drive_format()))
    );
    assert_eq!(
        decode_volume_format(&read("volume_format")),
        Ok(whole(volume_format()))
    );
}

fn check_header(header: &BatchHeader, bytes: &[u8]) {
    let stamp = stamp();
    assert_eq!(header.volume, stamp.volume);
    assert_eq!(header.file_number, stamp.file_number);
    assert_eq!(header.generation, stamp.generation);
    assert_eq!(header.incarnation, stamp.incarnation);
    assert_eq!(header.seq, stamp.seq);
    assert_eq!(header.flushed_seq, stamp.flushed_seq);
    assert_eq!(header.outcomes_to, stamp.outcomes_to);
    assert_eq!(header.first_lsn, stamp.first_lsn);
    assert_eq!(header.previous_crc, stamp.previous_crc);
    assert_eq!(header.batch_len as usize, bytes.len());
    assert_eq!(
        header.next_lsn().0,
        stamp.first_lsn.0 + u64::from(header.record_count)
    );
}

/// The payload of an entry, after its checksum was found right.
fn payload_of<'a>(entry: &Entry, batch: &'a [u8]) -> &'a [u8] {
    let payload = &batch[entry.offset as usize..][..entry.stored_len as usize];
    assert_eq!(entry.verify(payload), Ok(()));
    payload
}

#[test]
fn the_commit_batches_decode() {
    for (name, commands, facts) in commit_batches() {
        let bytes = read(name);
        let (header, entries) = decode_directory(&bytes).unwrap();
        check_header(&header, &bytes);
        assert_eq!(header.head, Head::Commit);
        assert!(!header.is_floor_only());
        assert_eq!(entries.len(), commands.len() + facts.len());
        for (i, entry) in entries.iter().enumerate() {
            let payload = payload_of(entry, &bytes);
            match commands.get(i) {
                Some(record) => {
                    assert_eq!(entry.kind, Kind::Metadata(metadata(100 + i as u64, i == 1)));
                    assert_eq!(MetadataRecord::decode(payload), Ok(record.clone()));
                }
                None => {
                    assert_eq!(entry.kind, Kind::Volume);
                    assert_eq!(VolumeRecord::decode(payload), Ok(facts[i - commands.len()]));
                }
            }
        }
    }
}

#[test]
fn the_mixed_batch_decodes() {
    let bytes = read("batch_mixed");
    let (header, entries) = decode_directory(&bytes).unwrap();
    check_header(&header, &bytes);
    assert_eq!(header.head, Head::Relocate);
    let kinds: Vec<Kind> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Segment(segment(0)),
            Kind::Metadata(metadata(7, true)),
            Kind::Segment(segment(1)),
            Kind::Volume,
            Kind::Segment(segment(2)),
        ]
    );
    let payloads: Vec<&[u8]> = entries
        .iter()
        .map(|entry| payload_of(entry, &bytes))
        .collect();
    assert_eq!(payloads[0], payload(8192, 1));
    assert_eq!(payloads[1], b"the payload in two parts");
    assert_eq!(payloads[2], payload(5000, 2));
    assert_eq!(payloads[3], b"local");
    assert_eq!(payloads[4], payload(1, 3));
    assert_eq!(entries[2].transform, Transform::Lz4);
    assert_eq!(entries[2].logical_len, 65536);
    let offsets: Vec<u32> = entries.iter().map(|entry| entry.offset).collect();
    // 128 + 3 × 68 + 48 + 20 = 400 is a multiple of 8; 24 bytes follow.
    assert_eq!(offsets, [8192, 400, 16384, 424, 24576]);
}

#[test]
fn the_floor_batch_decodes() {
    let bytes = read("batch_floor");
    let (header, entries) = decode_directory(&bytes).unwrap();
    check_header(&header, &bytes);
    assert!(header.is_floor_only());
    assert_eq!(entries, []);
    assert_eq!(bytes.len(), BLOCK_SIZE);
}

#[test]
fn the_footer_decodes_from_both_ends() {
    let bytes = read("footer");
    let expected = footer();
    assert_eq!(decode_footer(FOOTER_OFFSET, &bytes), Ok(expected.clone()));
    let header = decode_footer_header(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!(header.footer_len as usize, bytes.len());
    assert_eq!(header.batch_count, 3);
    let trailer = decode_footer_trailer(bytes.last_chunk().unwrap()).unwrap();
    assert_eq!(
        trailer,
        FooterTrailer {
            volume: expected.volume,
            file_number: expected.file_number,
            generation: expected.generation,
            footer_offset: FOOTER_OFFSET,
            footer_len: header.footer_len,
        }
    );
}

#[test]
fn the_cluster_map_decodes() {
    assert_eq!(ClusterMap::decode(&read("cluster_map")), Ok(cluster_map()));
}

#[test]
fn records_decode() {
    for (name, record) in metadata_records() {
        let bytes = read(&format!("metadata_{name}"));
        assert_eq!(MetadataRecord::decode(&bytes), Ok(record), "{name}");
    }
    for (name, record) in volume_records() {
        let bytes = read(&format!("volume_{name}"));
        assert_eq!(VolumeRecord::decode(&bytes), Ok(record), "{name}");
    }
}

/// The byte tables of SPEC.md, by hand: the encoder is not asked where its fields are.
#[test]
fn fields_lie_where_the_specification_says() {
    fn le(bytes: &[u8], at: usize, len: usize) -> u64 {
        bytes[at..at + len]
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
    let file = read("file_header");
    for (copy, bytes) in file.chunks(4096).enumerate() {
        assert_eq!(&bytes[0..8], b"OSTRKSEG");
        assert_eq!(le(bytes, 8, 4), 1);
        assert_eq!(le(bytes, 12, 1), copy as u64);
        assert_eq!(bytes[16..32], file_header().cluster.0);
        assert_eq!(bytes[32..48], file_header().drive.0);
        assert_eq!(bytes[48..64], file_header().volume.0);
        assert_eq!(le(bytes, 64, 8), 256 << 20);
        assert_eq!(le(bytes, 72, 8), 0x1112_1314_1516_1718);
        assert_eq!(le(bytes, 80, 8), 0x2122_2324_2526_2728);
        assert_eq!(le(bytes, 88, 8), 0x3132_3334_3536_3738);
        assert_eq!(le(bytes, 96, 8), 0x4142_4344_4546_4748);
        assert_eq!(le(bytes, 104, 4), 0x0102_0304);
        assert_eq!(le(bytes, 108, 1), 2, "head");
        assert_eq!(le(bytes, 109, 1), 1, "state");
        assert_eq!(le(bytes, 508, 4), u64::from(crc32c::crc32c(&bytes[..508])));
    }
    let drive = read("drive_format");
    assert_eq!(&drive[0..8], b"OSTRKDRV");
    assert_eq!(le(&drive, 48, 8), 256 << 20);
    assert_eq!(le(&drive, 56, 8), 1_700_000_000_123);
    assert_eq!(le(&drive, 64, 4), 256);
    assert_eq!(le(&drive, 68, 2), 4);
    assert_eq!(le(&drive, 70, 2), 8);
    let volume = read("volume_format");
    assert_eq!(&volume[0..8], b"OSTRKVOL");
    assert_eq!(le(&volume, 64, 8), 256 << 20);
    assert_eq!(le(&volume, 72, 2), 9);

    let batch = read("batch_mixed");
    assert_eq!(&batch[0..4], b"OBAT");
    assert_eq!(le(&batch, 4, 2), 1, "version");
    assert_eq!(le(&batch, 6, 1), 3, "head");
    assert_eq!(le(&batch, 7, 1), 0, "flags");
    assert_eq!(le(&batch, 8, 4), 0x0102_0304, "file number");
    assert_eq!(le(&batch, 12, 4), 5, "record count");
    assert_eq!(le(&batch, 16, 8), 0x1112_1314_1516_1718, "generation");
    assert_eq!(le(&batch, 24, 8), 0x3132_3334_3536_3738, "incarnation");
    assert_eq!(le(&batch, 32, 8), 1_000_004, "seq");
    assert_eq!(le(&batch, 40, 8), 1_000_002, "flushed_seq");
    assert_eq!(le(&batch, 48, 8), 1_000_001, "outcomes_to");
    assert_eq!(le(&batch, 56, 8), 0x5152_5354_5556_5758, "first LSN");
    assert_eq!(le(&batch, 64, 4), 400, "directory length");
    assert_eq!(le(&batch, 68, 4), batch.len() as u64);
    assert_eq!(le(&batch, 72, 4), 0x6162_6364, "previous crc");
    assert_eq!(
        le(&batch, 76, 4),
        u64::from(crc32c::crc32c(&batch[128..400]))
    );
    assert_eq!(batch[80..96], stamp().volume.0);
    assert_eq!(batch[96..124], [0; 28]);
    assert_eq!(le(&batch, 124, 4), u64::from(crc32c::crc32c(&batch[..124])));

    // A SEGMENT entry, then a METADATA entry.
    let entry = &batch[128..196];
    assert_eq!(entry[..4], [1, 0, 1, 0]);
    assert_eq!(le(entry, 4, 4), 8192, "offset");
    assert_eq!(le(entry, 8, 4), 8192, "stored length");
    assert_eq!(le(entry, 12, 4), 8192, "logical length");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&entry[20..43]), &batch[8192..16384]);
    assert_eq!(le(entry, 16, 4), u64::from(crc));
    assert_eq!(entry[20..36], object(1).0);
    assert_eq!(le(entry, 36, 4), 0x7172_7374, "chunk");
    assert_eq!(le(entry, 40, 2), 0, "segment index");
    assert_eq!(entry[42..48], [5, 0, 4, 2, 1, 0], "role, scheme");
    assert_eq!(le(entry, 48, 4), 0x8182_8384, "epoch");
    assert_eq!(entry[52..68], [0; 16]);
    let entry = &batch[196..244];
    assert_eq!(entry[..4], [2, 1, 1, 0]);
    assert_eq!(le(entry, 4, 4), 400, "offset");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&entry[20..46]), &batch[400..424]);
    assert_eq!(le(entry, 16, 4), u64::from(crc));
    assert_eq!(le(entry, 20, 2), 0x9192, "placement group");
    assert_eq!(le(entry, 22, 8), 7, "index");
    assert_eq!(le(entry, 30, 8), 3, "term");
    assert_eq!(le(entry, 38, 8), metadata(7, true).origin.hlc.0);

    let footer = read("footer");
    assert_eq!(&footer[0..8], b"OSTRKFTR");
    assert_eq!(le(&footer, 12, 4), 3, "batch count");
    assert_eq!(le(&footer, 64, 4), 1, "first batch's block");
    assert_eq!(le(&footer, 68, 4), 4096, "first batch's records");
    assert_eq!(le(&footer, 72, 8), 10, "first batch's sequence");
    assert_eq!(le(&footer, 80, 8), 1000, "first batch's LSN");
    assert_eq!(&footer[8128..8136], b"OSTRKEND");
    assert_eq!(le(&footer, 8176, 8), FOOTER_OFFSET);
}
