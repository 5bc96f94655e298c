//! `ostrakon inspect`: reads a data directory, a volume or a segment file without a server.
//!
//! Opens everything read-only, takes no lock and changes nothing; of a store in use it shows a
//! moment that is already over. Knows the bytes (shard-format) and nothing of what recovery makes of
//! them: it reports what is there and what does not verify, with its place.
//!
//! A batch that does not verify is *damage* if a later batch says that it had been flushed, and an
//! unfinished write otherwise: that is how a log ends after a crash.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use shard_format::{
    BATCH_HEADER_SIZE, BLOCK_SIZE, BatchHeader, Entry, FILE_HEADER_SIZE, FileHeader, FileState,
    HeaderError, Kind, MetadataRecord, VersionId, VolumeRecord, decode_batch_header,
    decode_directory, decode_drive_format, decode_file_header, decode_footer,
    decode_footer_trailer, decode_volume_format,
};

use crate::datadir::{FORMAT_NAME, LOCK_NAME, VOLUME_PREFIX};

/// Relative to a volume's directory.
const SEGMENTS_NAME: &str = "segments";
/// A format file has 8 KiB; what is longer is damage.
const FORMAT_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a key that are shown.
const KEY_SHOWN_MAX: usize = 200;

/// Damage is told apart from not being able to look.
#[derive(Debug)]
pub enum Failure {
    /// What could be read was shown; this many places do not verify.
    Damage(u64),
    Io {
        path: PathBuf,
        error: io::Error,
    },
    /// Nothing here that could be read.
    Nothing(PathBuf),
    /// Standard output is closed.
    Output(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Damage(places) => write!(f, "inspect: {places} damaged places"),
            Failure::Io { path, error } => write!(f, "inspect: {}: {error}", path.display()),
            Failure::Nothing(path) => write!(
                f,
                "inspect: {} is not a data directory, a volume or a segment file",
                path.display()
            ),
            Failure::Output(error) => write!(f, "inspect: standard output: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure + '_ {
    move |error| Failure::Io {
        path: path.to_owned(),
        error,
    }
}

/// Shows what `path` is; with `records`, every record.
pub fn run(path: &Path, records: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let mut inspector = Inspector {
        out,
        records,
        damage: 0,
    };
    let metadata = path.metadata().map_err(at(path))?;
    if metadata.is_file() {
        let mut heads = BTreeMap::new();
        inspector.segment_file(path, &mut heads)?;
        inspector.ends(&heads)?;
    } else if path.join(SEGMENTS_NAME).is_dir() {
        inspector.volume(path)?;
    } else if path.join(FORMAT_NAME).is_file() {
        inspector.store(path)?;
    } else {
        return Err(Failure::Nothing(path.to_owned()));
    }
    if inspector.damage == 0 {
        writeln!(inspector.out, "no damage")?;
        Ok(())
    } else {
        Err(Failure::Damage(inspector.damage))
    }
}

struct Inspector<'o> {
    out: &'o mut dyn Write,
    records: bool,
    damage: u64,
}

/// What all files of a head say together.
#[derive(Default)]
struct HeadSum {
    /// Highest batch that a batch which verifies says is flushed.
    flushed: u64,
    /// Batches that verify.
    last: u64,
    /// Highest first batch of a file: that file is the one being appended to.
    newest: u64,
    /// Places where the walk met something else, and the batch expected there.
    breaks: Vec<Break>,
}

struct Break {
    place: String,
    expected: u64,
    /// No batch follows in the file, which begins with this one. Where it went on is then known for
    /// the newest file only: the next one may have been emptied and freed since.
    at_end_of: Option<u64>,
}

#[derive(Default)]
struct Tally {
    batches: u64,
    bytes: u64,
    segments: u64,
    segment_bytes: u64,
    metadata: BTreeMap<&'static str, u64>,
    volume_records: u64,
}

impl Inspector<'_> {
    fn damaged(&mut self, place: &str, what: impl std::fmt::Display) -> Result<(), Failure> {
        self.damage += 1;
        writeln!(self.out, "DAMAGE  {place}: {what}")?;
        Ok(())
    }

    fn store(&mut self, path: &Path) -> Result<(), Failure> {
        let file = path.join(FORMAT_NAME);
        let bytes = read_small(&file)?;
        match decode_drive_format(&bytes) {
            Ok(decoded) => {
                let format = decoded.value;
                writeln!(
                    self.out,
                    "store  cluster {}  drive {}  volumes {}  placement groups {}  segment files of \
                     {} MiB",
                    format.cluster,
                    format.drive,
                    format.volume_count,
                    format.pg_count,
                    format.segment_file_length >> 20
                )?;
                if let Some(copy) = decoded.damaged_copy {
                    self.damaged(&shown(&file), format_args!("copy {copy} is damaged"))?;
                }
            }
            Err(error) => self.damaged(&shown(&file), error)?,
        }
        if let Ok(pid) = std::fs::read_to_string(path.join(LOCK_NAME)) {
            let pid = pid.trim();
            let running = Path::new("/proc").join(pid).exists();
            if !pid.is_empty() && running {
                writeln!(
                    self.out,
                    "in use, it seems (pid {pid}): what follows may change"
                )?;
            }
        }
        let mut volumes = Vec::new();
        for entry in path.read_dir().map_err(at(path))? {
            let entry = entry.map_err(at(path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(index) = name.strip_prefix(VOLUME_PREFIX)
                && let Ok(index) = index.parse::<u16>()
            {
                volumes.push((index, entry.path()));
            }
        }
        volumes.sort();
        for (_, volume) in volumes {
            self.volume(&volume)?;
        }
        Ok(())
    }

    fn volume(&mut self, path: &Path) -> Result<(), Failure> {
        let file = path.join(FORMAT_NAME);
        match decode_volume_format(&read_small(&file)?) {
            Ok(decoded) => {
                let format = decoded.value;
                writeln!(
                    self.out,
                    "volume {}  id {}  drive {}",
                    format.volume_index, format.volume, format.drive
                )?;
                if let Some(copy) = decoded.damaged_copy {
                    self.damaged(&shown(&file), format_args!("copy {copy} is damaged"))?;
                }
            }
            Err(error) => self.damaged(&shown(&file), error)?,
        }
        let directory = path.join(SEGMENTS_NAME);
        let mut files = Vec::new();
        for entry in directory.read_dir().map_err(at(&directory))? {
            files.push(entry.map_err(at(&directory))?.path());
        }
        files.sort();
        let mut heads = BTreeMap::new();
        for file in files {
            self.segment_file(&file, &mut heads)?;
        }
        self.ends(&heads)
    }

    /// Which breaks were ends, and which are damage.
    fn ends(&mut self, heads: &BTreeMap<shard_format::Head, HeadSum>) -> Result<(), Failure> {
        for (head, sum) in heads {
            for found in &sum.breaks {
                let known = found.at_end_of.is_none_or(|first| first == sum.newest);
                if known && found.expected <= sum.flushed {
                    let expected = found.expected;
                    let what = format!("batch {expected} of {head:?} was flushed and is not here");
                    self.damaged(&found.place, what)?;
                }
            }
            writeln!(
                self.out,
                "  {head:?}: last batch {}, flushed to {}",
                sum.last, sum.flushed
            )?;
        }
        Ok(())
    }

    fn segment_file(
        &mut self,
        path: &Path,
        heads: &mut BTreeMap<shard_format::Head, HeadSum>,
    ) -> Result<(), Failure> {
        let name = path
            .file_name()
            .map_or_else(|| shown(path), |name| name.to_string_lossy().into_owned());
        let file = File::open(path).map_err(at(path))?;
        let length = file.metadata().map_err(at(path))?.len();
        let mut block = [0; FILE_HEADER_SIZE];
        if let Err(error) = file.read_exact_at(&mut block, 0) {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return Err(at(path)(error));
            }
            return self.damaged(&name, format_args!("only {length} bytes"));
        }
        let header = match decode_file_header(&block) {
            Ok(decoded) => {
                if let Some(copy) = decoded.damaged_copy {
                    // Between the writes of the two copies this is how it looks.
                    writeln!(self.out, "  {name}  header copy {copy} is old or damaged")?;
                }
                decoded.value
            }
            Err(HeaderError::NeverUsed) => {
                writeln!(self.out, "  {name}  never used")?;
                return Ok(());
            }
            Err(error) => return self.damaged(&name, error),
        };
        if header.state == FileState::Free {
            writeln!(self.out, "  {name}  free  generation {}", header.generation)?;
            return Ok(());
        }
        let sealed = self.footer(&file, length, &header, &name)?;
        let end = sealed.as_ref().map_or(length, |footer| footer.offset);
        let sum = heads.entry(header.head).or_default();
        sum.newest = sum.newest.max(header.first_seq.0);
        let mut lines = String::new();
        let (tally, breaks) = walk(&file, path, &header, end, sum, self.records, &mut lines)?;
        let state = if sealed.is_some() { "sealed" } else { "open" };
        let metadata: u64 = tally.metadata.values().sum();
        writeln!(
            self.out,
            "  {name}  {:?} {state}  generation {}  batches from {}: {}  {:.1} of {} MiB  segments {} \
             ({:.1} MiB)  metadata {metadata} {:?}  volume records {}",
            header.head,
            header.generation,
            header.first_seq,
            tally.batches,
            tally.bytes as f64 / 1048576.0,
            length >> 20,
            tally.segments,
            tally.segment_bytes as f64 / 1048576.0,
            tally.metadata,
            tally.volume_records
        )?;
        self.out.write_all(lines.as_bytes())?;
        for (offset, what) in breaks {
            self.damaged(&format!("{name}+{offset}"), what)?;
        }
        if let Some(footer) = sealed
            && footer.batches != tally.batches
        {
            let what = format!(
                "the footer names {} batches, {} are here",
                footer.batches, tally.batches
            );
            self.damaged(&name, what)?;
        }
        Ok(())
    }

    /// None: not sealed.
    fn footer(
        &mut self,
        file: &File,
        length: u64,
        header: &FileHeader,
        name: &str,
    ) -> Result<Option<Sealed>, Failure> {
        let mut trailer = [0; 64];
        let Some(trailer_at) = length.checked_sub(64) else {
            return Ok(None);
        };
        if file.read_exact_at(&mut trailer, trailer_at).is_err() {
            return Ok(None);
        }
        let Ok(trailer) = decode_footer_trailer(&trailer) else {
            return Ok(None);
        };
        if trailer.generation != header.generation || trailer.volume != header.volume {
            return Ok(None); // of an earlier life of the file
        }
        let mut bytes = vec![0; trailer.footer_len as usize];
        let read = file.read_exact_at(&mut bytes, trailer.footer_offset);
        let footer = match read {
            Ok(()) => decode_footer(trailer.footer_offset, &bytes).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match footer {
            Ok(footer) => Ok(Some(Sealed {
                offset: trailer.footer_offset,
                batches: footer.batches.len() as u64,
            })),
            Err(error) => {
                self.damaged(&format!("{name}+{}", trailer.footer_offset), error)?;
                Ok(None)
            }
        }
    }
}

struct Sealed {
    offset: u64,
    batches: u64,
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn read_small(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FORMAT_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(at(path))?;
    Ok(bytes)
}

type Breaks = Vec<(u64, String)>;

/// Reads the batches of a file's present generation. Whole batches with damaged payloads are
/// returned as breaks; where no batch is, the place goes to `sum`, for the other files to judge.
fn walk(
    file: &File,
    path: &Path,
    header: &FileHeader,
    end: u64,
    sum: &mut HeadSum,
    records: bool,
    lines: &mut String,
) -> Result<(Tally, Breaks), Failure> {
    let mut tally = Tally::default();
    let mut breaks = Breaks::new();
    let mut offset = FILE_HEADER_SIZE as u64;
    let mut expected = header.first_seq.0;
    let mut open_break = None;
    while offset + BLOCK_SIZE as u64 <= end {
        let Some((batch, entries, bytes)) = read_batch(file, path, header, offset, end)? else {
            // One break for a run of blocks that are no batch; the search goes on behind it.
            open_break.get_or_insert(offset);
            offset += BLOCK_SIZE as u64;
            continue;
        };
        if batch.seq.0 < expected {
            // A batch that recovery had dropped, under a generation that was used on.
            offset += BLOCK_SIZE as u64;
            continue;
        }
        if let Some(place) = open_break.take() {
            sum.breaks.push(Break {
                place: format!("{}+{place}", header.file_number),
                expected,
                at_end_of: None,
            });
        } else if batch.seq.0 != expected {
            breaks.push((
                offset,
                format!("batch {} where {expected} should be", batch.seq),
            ));
        }
        sum.flushed = sum.flushed.max(batch.flushed_seq.0);
        sum.last = sum.last.max(batch.seq.0);
        tally.batches += 1;
        tally.bytes += u64::from(batch.batch_len);
        for (index, entry) in entries.iter().enumerate() {
            let lsn = batch.first_lsn.0 + index as u64;
            let from = entry.offset as usize;
            let payload = &bytes[from..from + entry.stored_len as usize];
            if let Err(damage) = entry.verify(payload) {
                breaks.push((
                    offset + u64::from(entry.offset),
                    format!("lsn {lsn}: {damage}"),
                ));
                continue;
            }
            let text = match describe(entry, payload, &mut tally) {
                Ok(text) => text,
                Err(error) => {
                    breaks.push((
                        offset + u64::from(entry.offset),
                        format!("lsn {lsn}: {error}"),
                    ));
                    continue;
                }
            };
            if records {
                let place = offset + u64::from(entry.offset);
                let _ = writeln!(lines, "    +{place}  lsn {lsn}  {text}");
            }
        }
        expected = batch.seq.0 + 1;
        offset += u64::from(batch.batch_len);
    }
    if let Some(place) = open_break {
        sum.breaks.push(Break {
            place: format!("{}+{place}", header.file_number),
            expected,
            at_end_of: Some(header.first_seq.0),
        });
    }
    Ok((tally, breaks))
}

type WholeBatch = (BatchHeader, Vec<Entry>, Vec<u8>);

/// The batch at `offset`, if a whole one of this generation is there.
fn read_batch(
    file: &File,
    path: &Path,
    header: &FileHeader,
    offset: u64,
    end: u64,
) -> Result<Option<WholeBatch>, Failure> {
    let mut start = [0; BATCH_HEADER_SIZE];
    file.read_exact_at(&mut start, offset).map_err(at(path))?;
    let Ok(batch) = decode_batch_header(&start) else {
        return Ok(None);
    };
    let ours = batch.generation == header.generation
        && batch.volume == header.volume
        && batch.file_number == header.file_number
        && batch.head == header.head;
    if !ours || offset + u64::from(batch.batch_len) > end {
        return Ok(None);
    }
    let mut bytes = vec![0; batch.batch_len as usize];
    file.read_exact_at(&mut bytes, offset).map_err(at(path))?;
    match decode_directory(&bytes[..batch.directory_len as usize]) {
        Ok((batch, entries)) => Ok(Some((batch, entries, bytes))),
        Err(_) => Ok(None),
    }
}

/// One line about a record, and its place in the tally.
fn describe(entry: &Entry, payload: &[u8], tally: &mut Tally) -> Result<String, String> {
    match &entry.kind {
        Kind::Segment(segment) => {
            tally.segments += 1;
            tally.segment_bytes += u64::from(entry.stored_len);
            let id = &segment.identity;
            Ok(format!(
                "segment  object {}  chunk {}  role {}  segment {}  scheme {}  {} bytes",
                id.object, id.chunk, id.role, id.segment, segment.scheme, entry.logical_len
            ))
        }
        Kind::Volume => {
            tally.volume_records += 1;
            let record = VolumeRecord::decode(payload).map_err(|error| error.to_string())?;
            Ok(format!("{record:?}"))
        }
        Kind::Metadata(metadata) => {
            let record = MetadataRecord::decode(payload).map_err(|error| error.to_string())?;
            let (name, text) = describe_metadata(&record);
            *tally.metadata.entry(name).or_default() += 1;
            let origin = &metadata.origin;
            let relocated = if metadata.relocated {
                "  relocated"
            } else {
                ""
            };
            Ok(format!(
                "{name}  pg {}  index {}  hlc {}  {text}{relocated}",
                origin.pg, origin.index, origin.hlc
            ))
        }
    }
}

fn describe_metadata(record: &MetadataRecord<'_>) -> (&'static str, String) {
    match record {
        MetadataRecord::PutVersion(put) => (
            "put",
            format!(
                "bucket {}  key {}{}  object {}  {} bytes  {}",
                put.bucket,
                key_text(put.key),
                version_text(put.version),
                put.object,
                put.size,
                match put.body {
                    shard_format::Body::Inline(_) => "inline".to_owned(),
                    shard_format::Body::Chunks(chunks) => format!("in {chunks} chunks"),
                    shard_format::Body::DeleteMarker => "delete marker".to_owned(),
                }
            ),
        ),
        MetadataRecord::DeleteVersion(delete) => (
            "delete",
            format!(
                "bucket {}  key {}{}",
                delete.bucket,
                key_text(delete.key),
                version_text(delete.version)
            ),
        ),
        MetadataRecord::PutBucket(bucket) => (
            "put-bucket",
            format!(
                "bucket {}  name {:?}  {:?}",
                bucket.bucket, bucket.name, bucket.state
            ),
        ),
        MetadataRecord::DeleteBucket { name, bucket } => {
            ("delete-bucket", format!("bucket {bucket}  name {name:?}"))
        }
        MetadataRecord::FenceBucket { bucket, fenced } => {
            ("fence-bucket", format!("bucket {bucket}  fenced {fenced}"))
        }
        MetadataRecord::AbortObject { object } => ("abort-object", format!("object {object}")),
        MetadataRecord::FreeDone { object } => ("free-done", format!("object {object}")),
        MetadataRecord::NoOp => ("no-op", String::new()),
    }
}

/// Quoted, with escapes for what is not text.
fn key_text(key: &[u8]) -> String {
    let shown = &key[..key.len().min(KEY_SHOWN_MAX)];
    let more = if shown.len() < key.len() { "…" } else { "" };
    format!("\"{}\"{more}", shown.escape_ascii())
}

fn version_text(version: VersionId) -> String {
    match version {
        VersionId::Null => String::new(),
        VersionId::Hlc(hlc) => format!("  version {hlc}"),
    }
}
