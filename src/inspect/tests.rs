//! Volumes made with the codec and by the server's own log, whole and damaged, and what is said of
//! them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use shard_format::{
    BATCH_LENGTH_MAX, BLOCK_SIZE, BatchBuilder, BatchHeader, BatchSeq, BatchStamp, Body, BucketId,
    ChunkIndex, ClusterId, Condition, DriveFormat, DriveId, Epoch, Etag, FILE_HEADER_SIZE,
    FileHeader, FileNumber, FileState, Footer, FooterEntry, Generation, Head, Hlc, Incarnation,
    Lsn, MetadataEntry, MetadataRecord, ObjectId, Origin, PgId, PutVersion, Role, Scheme,
    SegmentEntry, SegmentIdentity, SegmentIndex, Transform, VersionFields, VersionId, VolumeFormat,
    VolumeId, VolumeRecord, crc32c, format_file::FORMAT_FILE_SIZE, segment_crc,
};

use super::accept::accept;
use super::command::{Options, run};
use super::report::{self, Severity};
use crate::datadir::DataDir;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const DRIVE: DriveId = DriveId([2; 16]);
const VOLUME: VolumeId = VolumeId([3; 16]);
const FILE_LENGTH: u64 = 64 * BLOCK_SIZE as u64;
const SEGMENT_LEN: usize = 10_000;
const DEFAULT: Options = Options {
    records: false,
    verify: false,
};
const ALL: Options = Options {
    records: true,
    verify: true,
};

// ---- a volume made with the codec -----------------------------------------------------------------

/// The end of a head's log while it is being written.
struct Writer {
    head: Head,
    seq: u64,
    crc: u32,
}

impl Writer {
    fn new(head: Head) -> Writer {
        Writer {
            head,
            seq: 0,
            crc: 0,
        }
    }
}

struct SegmentFile {
    header: FileHeader,
    bytes: Vec<u8>,
    at: usize,
    batches: Vec<FooterEntry>,
}

impl SegmentFile {
    fn new(number: u32, generation: u64, writer: &Writer, lsn: u64) -> SegmentFile {
        let header = FileHeader {
            cluster: CLUSTER,
            drive: DRIVE,
            volume: VOLUME,
            file_number: FileNumber(number),
            file_length: FILE_LENGTH,
            head: writer.head,
            state: FileState::Open,
            generation: Generation(generation),
            first_seq: BatchSeq(writer.seq + 1),
            incarnation: Incarnation(1),
            created_lsn: Lsn(lsn),
        };
        let mut bytes = vec![0; FILE_LENGTH as usize];
        header.encode(bytes.first_chunk_mut().unwrap());
        SegmentFile {
            header,
            bytes,
            at: FILE_HEADER_SIZE,
            batches: Vec::new(),
        }
    }

    /// Appends a batch, `flushed` behind the one before it; returns where it starts.
    fn append(
        &mut self,
        writer: &mut Writer,
        lsn: &mut u64,
        fill: impl FnOnce(&mut BatchBuilder) -> Vec<u8>,
    ) -> usize {
        let mut builder = BatchBuilder::new(writer.head, BATCH_LENGTH_MAX);
        let aligned = fill(&mut builder);
        let stamp = BatchStamp {
            volume: VOLUME,
            file_number: self.header.file_number,
            generation: self.header.generation,
            incarnation: self.header.incarnation,
            seq: BatchSeq(writer.seq + 1),
            flushed_seq: BatchSeq(writer.seq),
            outcomes_to: BatchSeq(0),
            first_lsn: Lsn(*lsn),
            previous_crc: writer.crc,
        };
        let (start, head_len) = (self.at, builder.head_len());
        let header: BatchHeader = builder.encode(&stamp, &mut self.bytes[start..start + head_len]);
        let data = start + head_len;
        self.bytes[data..data + aligned.len()].copy_from_slice(&aligned);
        self.batches.push(FooterEntry {
            offset_blocks: (start / BLOCK_SIZE) as u32,
            record_count: header.record_count,
            seq: header.seq,
            first_lsn: header.first_lsn,
        });
        self.at += header.batch_len as usize;
        *lsn += u64::from(header.record_count);
        writer.seq += 1;
        writer.crc = header.header_crc;
        start
    }

    fn seal(&mut self) {
        let footer = Footer {
            volume: VOLUME,
            file_number: self.header.file_number,
            generation: self.header.generation,
            batches: self.batches.clone(),
        };
        let end = self.at + footer.encoded_len();
        footer.encode(self.at as u64, &mut self.bytes[self.at..end]);
    }

    fn write(&self, volume: &Path) {
        let name = format!("{:08x}.seg", self.header.file_number.0);
        fs::write(volume.join("segments").join(name), &self.bytes).unwrap();
    }
}

fn put(key: &[u8], index: u64) -> (MetadataEntry, Vec<u8>) {
    let at = Hlc::new(1_700_000_000_000 + index, 0);
    let mut payload = Vec::new();
    MetadataRecord::PutVersion(PutVersion {
        bucket: BucketId(9),
        key,
        version: VersionId::Null,
        object: ObjectId::new(0x0500_0000, at, [0; 4]),
        size: 5,
        etag: Etag::Md5([0xab; 16]),
        modified_ms: at.ms(),
        scheme: Scheme::PLAIN,
        epoch: Epoch(1),
        owner: "root",
        condition: Condition::None,
        body: Body::Inline(b"hello"),
        fields: VersionFields::default(),
    })
    .encode(&mut payload)
    .unwrap();
    let origin = Origin {
        pg: PgId(5),
        index,
        term: 1,
        hlc: at,
    };
    let relocated = false;
    (MetadataEntry { origin, relocated }, payload)
}

fn puts(keys: &[&str], from: u64) -> impl FnOnce(&mut BatchBuilder) -> Vec<u8> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    move |builder| {
        for (i, key) in keys.iter().enumerate() {
            let (entry, payload) = put(key.as_bytes(), from + i as u64);
            builder.push_metadata(&entry, &[&payload]).unwrap();
        }
        Vec::new()
    }
}

fn segments(count: u16, chunk: u32) -> impl FnOnce(&mut BatchBuilder) -> Vec<u8> {
    move |builder| {
        let mut aligned = Vec::new();
        for i in 0..count {
            let identity = SegmentIdentity {
                object: ObjectId::new(0x0500_0000, Hlc::new(1_700_000_000_000, 7), [0; 4]),
                chunk: ChunkIndex(chunk),
                segment: SegmentIndex(i),
                role: Role(0),
            };
            let data = vec![i as u8 ^ 0x5a; SEGMENT_LEN];
            let entry = SegmentEntry {
                identity,
                scheme: Scheme::PLAIN,
                epoch: Epoch(1),
            };
            let (len, crc) = (SEGMENT_LEN as u32, segment_crc(&identity, &data));
            builder
                .push_segment(&entry, Transform::None, len, len, crc)
                .unwrap();
            aligned.extend_from_slice(&data);
            aligned.resize(aligned.len().next_multiple_of(BLOCK_SIZE), 0);
        }
        aligned
    }
}

/// What of the volume the tests damage.
struct Made {
    root: tempfile::TempDir,
    /// Offsets of the batches: commit file 0 (sealed), commit file 1 (open), bulk file 2 (open).
    sealed: Vec<usize>,
    open: Vec<usize>,
    bulk: Vec<usize>,
    footer: usize,
}

impl Made {
    fn data(&self) -> &Path {
        self.root.path()
    }

    fn volume(&self) -> PathBuf {
        self.data().join("volume-0")
    }

    fn file(&self, number: u32) -> PathBuf {
        self.volume().join(format!("segments/{number:08x}.seg"))
    }

    fn change(&self, number: u32, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(number)).unwrap();
        change(&mut bytes);
        fs::write(self.file(number), bytes).unwrap();
    }

    fn flip(&self, number: u32, at: usize) {
        self.change(number, |bytes| bytes[at] ^= 0x10);
    }

    fn inspect(&self, options: Options) -> (u8, String) {
        inspect(self.data(), options)
    }

    /// Of the volume: names of losses, and the texts of damage without one.
    fn losses(&self, verify: bool) -> Vec<String> {
        losses(&self.volume(), verify)
    }
}

fn losses(volume: &Path, verify: bool) -> Vec<String> {
    let report = report::volume(volume, None, verify);
    let damage = report.findings.iter();
    damage
        .filter(|finding| finding.severity == Severity::Damage)
        .map(|finding| match finding.loss {
            Some(loss) => loss.to_string(),
            None => finding.text.clone(),
        })
        .collect()
}

fn inspect(path: &Path, options: Options) -> (u8, String) {
    let mut out = Vec::new();
    let (code, error) = run(path, options, &mut out);
    let text = String::from_utf8(out).unwrap();
    (code, text + &error.unwrap_or_default())
}

fn make() -> Made {
    let root = tempfile::tempdir().unwrap();
    let volume = root.path().join("volume-0");
    fs::create_dir_all(volume.join("segments")).unwrap();
    let mut bytes = [0; FORMAT_FILE_SIZE];
    DriveFormat {
        cluster: CLUSTER,
        drive: DRIVE,
        volume_count: 1,
        first_volume: 0,
        pg_count: 256,
        segment_file_length: FILE_LENGTH,
        created_ms: 1_700_000_000_000,
    }
    .encode(&mut bytes);
    fs::write(root.path().join("format"), bytes).unwrap();
    VolumeFormat {
        cluster: CLUSTER,
        drive: DRIVE,
        volume: VOLUME,
        volume_index: 0,
        segment_file_length: FILE_LENGTH,
    }
    .encode(&mut bytes);
    fs::write(volume.join("format"), bytes).unwrap();

    let mut lsn = 1;
    let mut commit = Writer::new(Head::Commit);
    let mut first = SegmentFile::new(0, 1, &commit, lsn);
    let mut sealed = Vec::new();
    for i in 0..4 {
        let keys = ["a/one", "a/two", "a/\u{1b}[31mthree"];
        sealed.push(first.append(&mut commit, &mut lsn, puts(&keys, 1 + 3 * i)));
    }
    let footer = first.at;
    first.seal();
    first.write(&volume);

    let mut second = SegmentFile::new(1, 2, &commit, lsn);
    let mut open = Vec::new();
    for i in 0..3 {
        open.push(second.append(&mut commit, &mut lsn, |builder| {
            let mut fact = Vec::new();
            let object = ObjectId([9; 16]);
            VolumeRecord::ShardsFreed { object }.encode(&mut fact);
            builder.push_volume(&fact).unwrap();
            puts(&["b/one", "b/two"], 100 + 2 * i)(builder)
        }));
    }
    // Nothing but the floor: batch 7 was flushed.
    open.push(second.append(&mut commit, &mut lsn, |_| Vec::new()));
    second.write(&volume);

    let mut writer = Writer::new(Head::Bulk);
    let mut third = SegmentFile::new(2, 3, &writer, 1);
    let bulk = (0..3)
        .map(|chunk| third.append(&mut writer, &mut lsn, segments(3, chunk)))
        .collect();
    third.write(&volume);

    // Free, with the batches of its last use still in it.
    let mut free = SegmentFile::new(3, 4, &Writer::new(Head::Relocate), lsn);
    free.append(&mut Writer::new(Head::Relocate), &mut lsn, segments(2, 9));
    free.header.state = FileState::Free;
    free.header.generation = Generation(5);
    free.header.first_seq = BatchSeq(0);
    free.header.encode(free.bytes.first_chunk_mut().unwrap());
    free.write(&volume);
    // Never used.
    fs::write(
        volume.join("segments/00000004.seg"),
        vec![0; FILE_LENGTH as usize],
    )
    .unwrap();
    Made {
        root,
        sealed,
        open,
        bulk,
        footer,
    }
}

fn line<'a>(text: &'a str, starts: &str) -> Vec<&'a str> {
    let found = text
        .lines()
        .find(|line| line.trim_start().starts_with(starts));
    let found = found.unwrap_or_else(|| panic!("no line {starts:?} in\n{text}"));
    found.split_whitespace().collect()
}

#[test]
fn a_whole_store_is_shown_and_readable() {
    let made = make();
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 0, "{text}");
    assert_eq!(line(&text, "cluster")[1], CLUSTER.to_string());
    assert_eq!(line(&text, "drive ")[1], DRIVE.to_string());
    assert_eq!(line(&text, "created")[1], "2023-11-14T22:13:20Z");
    assert_eq!(line(&text, "groups")[1], "256");
    assert_eq!(line(&text, "id")[1], VOLUME.to_string());
    assert!(text.contains("none: there is no lock file"), "{text}");
    assert!(text.contains("index        none"), "{text}");
    let commit = line(&text, "00000000");
    assert_eq!(commit[1..8], ["commit", "1", "1", "4", "0", "12", "0"]);
    assert_eq!(commit.last(), Some(&"sealed"));
    let commit = line(&text, "00000001");
    assert_eq!(commit[1..8], ["commit", "2", "5", "4", "0", "6", "3"]);
    assert!(text.contains("not sealed"));
    assert_eq!(
        line(&text, "00000002")[1..8],
        ["bulk", "3", "1", "3", "9", "0", "0"]
    );
    assert_eq!(line(&text, "00000003")[1..4], ["free", "5", "-"]);
    assert_eq!(line(&text, "00000004")[1..4], ["never", "used", "-"]);
    // Files, last batch, floor, next LSN.
    assert_eq!(line(&text, "commit")[1..5], ["2", "8", "7", "22"]);
    assert_eq!(line(&text, "bulk")[1..5], ["1", "3", "2", "31"]);
    assert!(text.ends_with("(--verify reads them)\n"), "{text}");
    assert!(!text.contains("DAMAGE") && !text.contains("note"), "{text}");

    let (code, text) = inspect(&made.volume(), ALL);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with("every checksum is right\n"), "{text}");
    let (code, text) = inspect(&made.file(0), DEFAULT);
    assert_eq!(code, 0, "{text}");
    assert_eq!(line(&text, "00000000")[1..3], ["commit", "1"]);
}

#[test]
fn nothing_is_changed_by_looking() {
    let made = make();
    fs::write(made.data().join("lock"), "123\n").unwrap();
    let look = || {
        let mut all = Vec::new();
        for number in 0..5 {
            let metadata = made.file(number).metadata().unwrap();
            all.push((
                fs::read(made.file(number)).unwrap(),
                metadata.modified().unwrap(),
            ));
        }
        let names = |path: PathBuf| {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        (all, names(made.data().into()), names(made.volume()))
    };
    let before = look();
    made.inspect(ALL);
    assert!(before == look());
}

#[test]
fn every_record_is_a_line_that_cannot_draw_on_a_terminal() {
    let made = make();
    let (_, text) = made.inspect(Options {
        records: true,
        verify: false,
    });
    let records: Vec<&str> = text.lines().filter(|l| l.starts_with("  record")).collect();
    assert_eq!(records.len(), 12 + 9 + 9);
    assert_eq!(text.lines().filter(|l| l.starts_with("  floor")).count(), 1);
    assert!(!text.contains('\u{1b}'));
    let third = records[2];
    for part in [
        "file=00000000 generation=1 head=commit seq=1 lsn=3 ",
        "kind=METADATA pg=5 index=3 term=1 hlc=1700000000003.0 time=2023-11-14T22:13:20.003Z",
        r#" put-version bucket=9 key="a/\u{1b}[31mthree" version=null "#,
        " size=5 body=inline etag=abababab",
        r#" owner="root" checksum=ok"#,
    ] {
        assert!(third.contains(part), "{part} in {third}");
    }
    let fact = records.iter().find(|l| l.contains("kind=VOLUME")).unwrap();
    assert!(fact.contains("shards-freed object=09090909"), "{fact}");
    let segment = records.iter().find(|l| l.contains("kind=SEGMENT")).unwrap();
    for part in [
        "pg=5 object=05000000",
        "chunk=0 role=0 segment=0 scheme=1+0 epoch=1 logical=10000",
        "created=2023-11-14T22:13:20Z",
        "checksum=unread",
    ] {
        assert!(segment.contains(part), "{part} in {segment}");
    }
    let (_, text) = made.inspect(ALL);
    assert!(!text.contains("unread"));
}

/// What is damaged, how, and what is reported.
type Case = (&'static str, fn(&Made), Vec<&'static str>);

#[test]
fn damage_is_found_where_it_is_and_named_as_recovery_names_it() {
    let cases: Vec<Case> = vec![
        (
            "a directory in a sealed file",
            |m| m.flip(0, m.sealed[1] + 150),
            vec!["Commit/00000000/1/2-2"],
        ),
        (
            "two batch headers in a sealed file",
            |m| {
                m.flip(0, m.sealed[1] + 20);
                m.flip(0, m.sealed[2] + 20);
            },
            vec!["Commit/00000000/1/2-3"],
        ),
        (
            "the last batch of a sealed file",
            |m| m.change(0, |b| b[m.sealed[3]..m.footer].fill(0)),
            vec!["Commit/00000000/1/4-4"],
        ),
        (
            "a payload",
            |m| m.flip(0, m.sealed[0] + 400),
            vec!["Record/00000000/1/2"],
        ),
        (
            "a batch below the floor of the open file",
            |m| m.flip(1, m.open[2] + 130),
            vec!["Commit/00000001/2/7-7"],
        ),
        (
            "both copies of a header",
            |m| {
                m.flip(0, 20);
                m.flip(0, 4096 + 20);
            },
            vec!["Header/00000000/0/0-0"],
        ),
        (
            "the wrong file in a place",
            |m| {
                fs::copy(m.file(0), m.file(4)).unwrap();
            },
            vec!["Header/00000004/0/0-0"],
        ),
        (
            "one copy of a header",
            |m| m.flip(0, 4096 + 20),
            vec!["copy 1 of the header is damaged; the other one is whole"],
        ),
        (
            "the footer of a file that is not the head's last",
            |m| m.flip(0, m.footer + 20),
            vec![
                "footer is damaged: checksum is 0x19a7b7ab but the bytes sum to 0x6a6b2bb5; the \
                 batches before it tell the same",
            ],
        ),
    ];
    for (what, damage, expected) in cases {
        let made = make();
        damage(&made);
        let found = made.losses(false);
        assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
        for (found, expected) in found.iter().zip(&expected) {
            // Checksums in texts are not worth a test of their own.
            let cut = |text: &str| text.split(": checksum").next().unwrap().to_owned();
            assert_eq!(cut(found), cut(expected), "{what}");
        }
        let (code, text) = made.inspect(DEFAULT);
        assert_eq!(code, 1, "{what}: {text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("damaged: damage in 1 place, 0 "), "{last}");
        assert!(text.contains("  DAMAGE  "), "{text}");
    }
}

#[test]
fn the_footer_tells_what_a_gap_held() {
    let made = make();
    made.flip(0, made.sealed[1] + 150);
    let (_, text) = made.inspect(DEFAULT);
    let expected = format!(
        "DAMAGE  Commit/00000000/1/2-2  file 00000000 at {}: batch 2: batch directory is damaged",
        made.sealed[1]
    );
    assert!(text.contains(&expected), "{text}");
    let footer = "by the footer 1 batches with 3 records, LSN 4 to 6";
    assert!(text.contains(footer), "{text}");
    assert_eq!(line(&text, "00000000")[4], "3");
    assert!(text.contains("sealed, 1 gap"), "{text}");
}

#[test]
fn a_lost_header_does_not_hide_what_is_behind_it() {
    let made = make();
    made.flip(2, 30);
    made.flip(2, 4096 + 30);
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1);
    assert_eq!(line(&text, "00000002")[1], "UNREADABLE");
    assert!(
        text.contains("batches behind it say Bulk generation 3: 3 batches, 9 records"),
        "{text}"
    );
}

#[test]
fn what_was_not_flushed_is_no_damage() {
    // The last batch of an open file: torn, zeroed, or never written.
    for cut in [3, 4] {
        let made = make();
        let from = made.open[3] + (cut - 3) * 100;
        made.change(1, |bytes| bytes[from..].fill(0));
        let (code, text) = made.inspect(DEFAULT);
        assert_eq!(code, 0, "{text}");
        // Without the floor batch only what batch 7 itself says is known.
        assert_eq!(line(&text, "commit")[1..4], ["2", "7", "6"]);
    }
    // The payload of a bulk batch above the floor ends the log there, without --verify too.
    let made = make();
    made.flip(2, made.bulk[2] + BLOCK_SIZE + 5);
    let (code, text) = made.inspect(ALL);
    assert_eq!(code, 0, "{text}");
    assert_eq!(line(&text, "bulk")[1..4], ["1", "2", "2"]);
    assert!(
        text.contains("then batch 3, which was not flushed"),
        "{text}"
    );
    assert!(
        text.contains("checksum=BAD") && text.contains(" dropped"),
        "{text}"
    );
}

#[test]
fn payloads_of_segments_are_read_when_asked() {
    let made = make();
    made.flip(2, made.bulk[1] + 2 * BLOCK_SIZE + 5);
    assert_eq!(made.inspect(DEFAULT).0, 0);
    let (code, text) = made.inspect(ALL);
    assert_eq!(code, 1);
    let expected = format!(
        "DAMAGE  file 00000002 at {}: segment 0 of object 05000000",
        made.bulk[1] + BLOCK_SIZE
    );
    assert!(text.contains(&expected), "{text}");
    assert_eq!(made.losses(true).len(), 1, "{text}");
    assert_eq!(text.matches("checksum=BAD").count(), 1);
}

#[test]
fn a_torn_batch_that_knows_of_a_flush_is_believed() {
    // Batches 7 and 8 both unreadable, but the header of 8 says that 7 was flushed.
    let made = make();
    made.flip(1, made.open[2] + 130);
    made.change(1, |bytes| {
        // A directory that the header promises and that is not there.
        let header = &mut bytes[made.open[3]..made.open[3] + 128];
        header[76] ^= 1;
        let crc = crc32c(&header[..124]);
        header[124..].copy_from_slice(&crc.to_le_bytes());
    });
    let found = made.losses(false);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("batches up to 7 were flushed"),
        "{found:?}"
    );
    assert_eq!(made.inspect(DEFAULT).0, 1);
}

fn set_version(bytes: &mut [u8], field: std::ops::Range<usize>, crc_at: usize) {
    bytes[field.start] = 2;
    let crc = crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_newer_release_is_named_as_such() {
    let made = make();
    made.change(4, |bytes| {
        let copy = fs::read(made.file(0)).unwrap();
        bytes[..8192].copy_from_slice(&copy[..8192]);
        set_version(&mut bytes[..512], 8..12, 508);
    });
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1);
    assert_eq!(line(&text, "00000004")[1], "NEWER");
    assert!(
        text.contains("NEWER   file 00000004 at 0: header: format version 2"),
        "{text}"
    );
    assert!(
        text.contains("damaged: 1 structure written by a newer release"),
        "{text}"
    );

    let made = make();
    let at = made.open[3];
    made.change(1, |bytes| set_version(&mut bytes[at..at + 128], 4..6, 124));
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1);
    let expected = format!("NEWER   file 00000001 at {at}: batch version 2 is unknown");
    assert!(text.contains(&expected), "{text}");

    let made = make();
    let format = made.data().join("format");
    let mut bytes = fs::read(&format).unwrap();
    set_version(&mut bytes[..512], 8..12, 508);
    fs::write(&format, bytes).unwrap();
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1);
    assert!(
        text.contains("format: format version 2 is unknown, 1 is known"),
        "{text}"
    );
    // The volumes are shown all the same.
    assert_eq!(line(&text, "00000000")[1], "commit");

    // A command of a kind not known yet, with the right checksum.
    let made = make();
    let mut lsn = 1;
    let mut writer = Writer::new(Head::Commit);
    let mut file = SegmentFile::new(0, 1, &writer, lsn);
    file.append(&mut writer, &mut lsn, |builder| {
        let (entry, _) = put(b"x", 1);
        builder.push_metadata(&entry, &[&[1, 200]]).unwrap();
        Vec::new()
    });
    file.seal();
    file.write(&made.volume());
    fs::remove_file(made.file(1)).unwrap();
    let (code, text) = made.inspect(ALL);
    assert_eq!(code, 1);
    assert!(
        text.contains("NEWER   file 00000000") && text.contains("record type 200"),
        "{text}"
    );
    assert!(
        text.contains(r#"undecodable="record type 200 is unknown" checksum=ok"#),
        "{text}"
    );
}

#[test]
fn what_is_missing_from_the_directories_is_said() {
    let made = make();
    fs::rename(made.volume(), made.data().join("volume-7")).unwrap();
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1);
    assert!(text.contains("volume-0 is missing"), "{text}");
    assert!(
        text.contains("volume-7 is none of the store's volumes"),
        "{text}"
    );
    assert!(text.contains("the format file belongs elsewhere"), "{text}");

    let made = make();
    fs::remove_file(made.data().join("format")).unwrap();
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1, "{text}");
    assert_eq!(line(&text, "00000000")[1], "commit");

    // Unless it was not to be there yet.
    fs::write(made.data().join("formatting"), "").unwrap();
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("formatting began and did not end"), "{text}");

    let made = make();
    made.change(1, |bytes| bytes.truncate(made.open[1] + 100));
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1);
    assert!(text.contains("the rest was cut off"), "{text}");

    let made = make();
    made.change(4, |bytes| bytes.truncate(100));
    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 0);
    assert!(text.contains("note    file 00000004: has 100 of"), "{text}");
}

#[test]
fn what_is_no_store_is_not_inspected() {
    let root = tempfile::tempdir().unwrap();
    for path in [root.path().to_owned(), root.path().join("absent")] {
        let (code, text) = inspect(&path, DEFAULT);
        assert_eq!(code, 2, "{text}");
    }
    let made = make();
    let (code, text) = inspect(&made.volume().join("segments"), DEFAULT);
    assert_eq!(code, 2);
    assert!(text.contains("name the volume, one directory up"), "{text}");
}

#[test]
fn a_server_that_holds_the_lock_is_named() {
    let made = make();
    let server = DataDir::open(made.data()).unwrap();
    for path in [made.data().to_owned(), made.volume(), made.file(0)] {
        let (code, text) = inspect(&path, DEFAULT);
        assert_eq!(code, 0);
        let expected = format!("RUNNING (pid {}): what follows is", std::process::id());
        assert!(text.contains(&expected), "{text}");
    }
    drop(server);
    let (_, text) = made.inspect(DEFAULT);
    assert!(text.contains("none holds the lock"), "{text}");
    // And gives it back.
    DataDir::open(made.data()).unwrap();
}

// ---- accepting losses -----------------------------------------------------------------------------

#[test]
fn accepted_losses_are_appended_once_and_shown() {
    let made = make();
    made.flip(0, made.sealed[1] + 150);
    let list = made.volume().join("accepted-losses");
    let names = ["Commit/00000000/1/2-2", "Header/0000000f/0/0-0"];
    let losses = names.map(|name| name.parse().unwrap());
    // Written by hand, without a line end.
    fs::write(&list, "Record/00000000/1/77").unwrap();
    assert_eq!(accept(made.data(), 0, &losses[..1]), Ok(1));
    assert_eq!(accept(made.data(), 0, &losses), Ok(1));
    let expected = format!("Record/00000000/1/77\n{}\n{}\n", names[0], names[1]);
    assert_eq!(fs::read_to_string(&list).unwrap(), expected);
    assert!(!made.volume().join("accepted-losses.new").exists());

    let (code, text) = made.inspect(DEFAULT);
    assert_eq!(code, 1, "it is still not readable");
    assert!(
        text.contains("Commit/00000000/1/2-2  (accepted)  "),
        "{text}"
    );
    assert!(
        text.contains("damage in 1 place, 1 of them accepted as lost"),
        "{text}"
    );
    assert!(text.contains("3 names as lost"), "{text}");
}

#[test]
fn losses_are_not_accepted_behind_a_servers_back_nor_in_the_wrong_place() {
    let made = make();
    let losses = ["Commit/00000000/1/2-2".parse().unwrap()];
    let server = DataDir::open(made.data()).unwrap();
    let refused = accept(made.data(), 0, &losses).unwrap_err();
    assert!(refused.starts_with("a server runs on "), "{refused}");
    drop(server);
    assert!(
        accept(made.data(), 1, &losses)
            .unwrap_err()
            .contains("no volume")
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(
        accept(empty.path(), 0, &losses)
            .unwrap_err()
            .contains("not a data directory")
    );
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    let full = vec![b'x'; report::ACCEPTED_BYTES_MAX as usize - 3];
    fs::write(made.volume().join("accepted-losses"), full).unwrap();
    assert!(
        accept(made.data(), 0, &losses)
            .unwrap_err()
            .contains("would grow beyond")
    );
}

// ---- no damage makes it panic ---------------------------------------------------------------------

/// Where a change hurts: anywhere, or in the first bytes of a block, where the structure is.
fn place() -> impl Strategy<Value = usize> {
    let length = FILE_LENGTH as usize;
    prop_oneof![
        0..length,
        (0..length / BLOCK_SIZE, 0..300usize).prop_map(|(block, at)| block * BLOCK_SIZE + at),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_never_panics(
        changes in prop::collection::vec((0..5u32, place(), any::<u8>(), 1..40usize), 1..12),
        repair in any::<bool>(),
        cut in prop::option::of((0..5u32, 0..FILE_LENGTH as usize)),
        copied in prop::option::of((0..5u32, 0..63usize, 0..5u32, 0..63usize)),
    ) {
        let made = make();
        for (file, at, value, count) in changes {
            made.change(file, |bytes| {
                let end = (at + count).min(bytes.len());
                bytes[at.min(end)..end].fill(value);
                if repair {
                    // Nonsense under a right checksum: as if a batch header or a copy of a file
                    // header had been written so.
                    let block = at / BLOCK_SIZE * BLOCK_SIZE;
                    let crc_at = if block == 0 { 508 } else { 124 };
                    let crc = crc32c(&bytes[block..block + crc_at]);
                    bytes[block + crc_at..block + crc_at + 4].copy_from_slice(&crc.to_le_bytes());
                }
            });
        }
        if let Some((from, block, to, other)) = copied {
            let source = fs::read(made.file(from)).unwrap();
            let at = block * BLOCK_SIZE;
            let file = fs::OpenOptions::new().write(true).open(made.file(to)).unwrap();
            file.write_all_at(&source[at..at + BLOCK_SIZE], (other * BLOCK_SIZE) as u64).unwrap();
        }
        if let Some((file, length)) = cut {
            made.change(file, |bytes| bytes.truncate(length));
        }
        let (code, text) = made.inspect(ALL);
        prop_assert!(code <= 1);
        prop_assert!(text.lines().last().is_some_and(|l| l.starts_with(['r', 'd'])), "{}", text);
        for file in 0..5 {
            inspect(&made.file(file), ALL);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume-0");
        fs::create_dir_all(volume.join("segments")).unwrap();
        for path in [
            root.path().join("format"),
            volume.join("format"),
            volume.join("accepted-losses"),
            volume.join("segments/00000000.seg"),
        ] {
            fs::write(path, &bytes).unwrap();
        }
        prop_assert_eq!(inspect(root.path(), ALL).0, 1);
    }
}

// ---- against the server's own log -----------------------------------------------------------------

mod production {
    //! A store written by the server's own code on the `uring` driver.

    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::log::recover::replay;
    use crate::log::{Files, FilesConfig, HEADS, HeadPosition};
    use crate::node::{self, Settings};
    use crate::object::{
        Body, BodyError, Condition, ObjectHeaders, ObjectStore, checksum::Checksum,
    };
    use crate::rt::{Buf, Config, CoreId, Reactor};
    use shard_format::Kind;

    struct Zeros {
        length: usize,
        at: usize,
    }

    impl Body for Zeros {
        fn length(&self) -> u64 {
            self.length as u64
        }

        async fn fill(
            &mut self,
            mut buf: Buf,
            at: usize,
            upto: usize,
        ) -> Result<(Buf, usize), BodyError> {
            let end = at + (upto - at).min(self.length - self.at);
            buf.set_len(end);
            buf[at..end].fill(0x77);
            self.at += end - at;
            Ok((buf, end))
        }

        async fn finish(&mut self) -> Result<(), BodyError> {
            Ok(())
        }

        fn checksum(&self) -> Option<Checksum> {
            None
        }
    }

    fn on_a_core<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        let config = Config {
            arena_bytes: 32 << 20,
            ..Config::small()
        };
        let reactor = Reactor::new(CoreId(0), &config).unwrap();
        let value = reactor.run(main);
        reactor.shut_down();
        value
    }

    fn settings() -> Settings {
        Settings {
            segment_file_length: Some(8 << 20),
            ..Settings::default()
        }
    }

    /// Puts some small and large objects; ends without closing if `crash`.
    fn serve(data: &Path, round: usize, crash: bool) {
        let data = data.to_owned();
        on_a_core(async move {
            let layout = node::prepare(std::slice::from_ref(&data), 1, &settings())
                .await
                .unwrap();
            let share = node::start(&layout, CoreId(0), 1, None, &settings())
                .await
                .unwrap();
            let store = share.store.clone();
            let bucket = match store.bucket("bucket").await {
                Ok(bucket) => bucket,
                Err(_) => store.create_bucket("bucket", "root", "").await.unwrap(),
            };
            for i in 0..150 {
                let key = format!("small/{round}/{i}");
                let mut body = Zeros {
                    length: 31_000,
                    at: 0,
                };
                let headers = ObjectHeaders::default();
                store
                    .put(&bucket, key.as_bytes(), headers, Condition::None, &mut body)
                    .await
                    .unwrap();
            }
            for i in 0..6 {
                let key = format!("large/{i}");
                let mut body = Zeros {
                    length: 1_000_000,
                    at: 0,
                };
                let headers = ObjectHeaders::default();
                store
                    .put(&bucket, key.as_bytes(), headers, Condition::None, &mut body)
                    .await
                    .unwrap();
            }
            if !crash {
                node::stop(&share).await.unwrap();
            }
        });
    }

    /// What a volume without an index reports.
    fn recovered(data: &Path) -> Vec<String> {
        let data = data.to_owned();
        on_a_core(async move {
            let layout = node::read_layout(std::slice::from_ref(&data))
                .await
                .unwrap();
            let (files, found) = Files::open(FilesConfig {
                directory: layout.drives[0].volume_directory(0).join("segments"),
                cluster: layout.cluster(),
                drive: layout.drives[0].id,
                volume: layout.drives[0].volumes[0],
                file_length: layout.drives[0].segment_file_length,
                headroom: 0,
            })
            .await
            .unwrap();
            let losses = Rc::new(RefCell::new(Vec::new()));
            for file in &found {
                if file.header.is_err() {
                    let name = format!("Header/{:08x}/0/0-0", file.number.0);
                    losses.borrow_mut().push(name);
                }
            }
            for head in HEADS {
                let mut list: Vec<FileHeader> = found
                    .iter()
                    .filter_map(|f| f.header.as_ref().ok().copied().flatten())
                    .filter(|h| h.head == head && h.state == FileState::Open)
                    .collect();
                list.sort_by_key(|h| h.generation);
                let visit = |batch: crate::log::recover::ReplayBatch<'_>| {
                    for r in batch.records.iter().filter(|r| !r.whole) {
                        if matches!(r.entry.kind, Kind::Metadata(_)) || head == Head::Commit {
                            losses.borrow_mut().push(format!(
                                "Record/{:08x}/{}/{}",
                                r.extent.file.0, r.extent.generation.0, r.lsn.0
                            ));
                        }
                    }
                    Ok(())
                };
                let end = replay(&files, &list, HeadPosition::default(), visit)
                    .await
                    .unwrap();
                let damage = end.damage.iter().map(|d| d.to_string());
                losses.borrow_mut().extend(damage);
            }
            let mut losses = losses.take();
            losses.sort();
            losses
        })
    }

    fn inspected(data: &Path) -> Vec<String> {
        let report = report::volume(&data.join("volume-0"), None, false);
        let names = report.findings.iter().filter_map(|f| f.loss);
        let mut names: Vec<String> = names.map(|loss| loss.to_string()).collect();
        names.sort();
        names
    }

    /// A small generator, so that failures repeat.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn it_says_of_the_servers_files_what_the_servers_recovery_says() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path();
        serve(data, 0, false);
        assert_eq!(inspect(data, ALL).0, 0);
        serve(data, 1, true);
        let (code, text) = inspect(data, ALL);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(r#"key="large/5""#), "{text}");
        assert!(text.contains("put-bucket name=\"bucket\""));
        assert_eq!(recovered(data), Vec::<String>::new());

        // Damage around the structures of the files in use, a few places at a time.
        let report = report::volume(&data.join("volume-0"), None, false);
        let mut targets: Vec<(PathBuf, u64)> = Vec::new();
        for file in &report.files {
            let Some(walked) = &file.walked else { continue };
            let mut target = |at| targets.push((file.path.clone(), at));
            target(0);
            target(walked.offset);
            for span in walked
                .spans
                .iter()
                .rev()
                .take(8)
                .chain(walked.spans.iter().take(8))
            {
                target(span.offset);
            }
        }
        let mut seed = 1;
        let mut damaged = 0;
        for trial in 0..60 {
            let mut undo = Vec::new();
            for _ in 0..=random(&mut seed) % 3 {
                let (path, at) = &targets[random(&mut seed) as usize % targets.len()];
                let file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap();
                // A header, a directory, a payload; one byte, or a whole block.
                let within = [0, 40, 130, 300, 4100][random(&mut seed) as usize % 5];
                let length = [1, 1, 1, 8192][random(&mut seed) as usize % 4];
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, at + within).unwrap();
                undo.push((path.clone(), at + within, bytes.clone()));
                bytes.iter_mut().for_each(|byte| *byte ^= 0x41);
                file.write_all_at(&bytes, at + within).unwrap();
            }
            let (ours, theirs) = (inspected(data), recovered(data));
            assert_eq!(ours, theirs, "trial {trial}: {undo:?}");
            damaged += usize::from(!ours.is_empty());
            for (path, at, bytes) in undo.iter().rev() {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(bytes, *at).unwrap();
            }
        }
        assert!(damaged > 20, "the damage did too little: {damaged} of 60");
        assert_eq!(inspect(data, ALL).0, 0);
    }

    #[test]
    fn the_list_of_accepted_losses_is_the_one_a_volume_reads() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().to_owned();
        serve(&data, 0, true);
        let volume = data.join("volume-0");
        let report = report::volume(&volume, None, false);
        let file = &report.files[0];
        let span = file.walked.as_ref().unwrap().spans[3];
        let on_disk = fs::OpenOptions::new().write(true).open(&file.path).unwrap();
        on_disk.write_all_at(&[0; 64], span.offset).unwrap();
        fs::remove_dir_all(volume.join("index")).unwrap();

        let open = |data: PathBuf| {
            on_a_core(async move {
                let layout = node::read_layout(std::slice::from_ref(&data))
                    .await
                    .unwrap();
                let share = node::start(&layout, CoreId(0), 1, None, &settings())
                    .await
                    .unwrap();
                let (_, volume, recovery) = &share.volumes[0];
                let serves = volume.check_all_groups().is_ok();
                (serves, recovery.damage.clone(), recovery.accepted.clone())
            })
        };
        let (serves, damage, accepted) = open(data.clone());
        assert!(!serves && accepted.is_empty());
        let names = inspected(&data);
        assert_eq!(names, damage);
        let losses: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(accept(&data, 0, &losses), Ok(1));
        let (serves, damage, accepted) = open(data);
        assert!(serves);
        assert_eq!((&damage, &accepted), (&names, &names));
    }
}
