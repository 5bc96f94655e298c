//! Reads directories and files and gathers what `scan` says of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use shard_format::{
    BatchSeq, DriveFormat, FILE_HEADER_SIZE, FileHeader, FileNumber, FileState, Head, HeaderError,
    VolumeFormat, decode_drive_format, decode_file_header, decode_volume_format,
    format_file::FORMAT_FILE_SIZE,
};

use super::loss::Loss;
use super::scan::{self, Chain, Counts, Source, Verdict, Walked, Window};
use crate::datadir::{FORMAT_NAME, FORMATTING_NAME, LOCK_NAME, VOLUME_PREFIX};
use crate::log::HEADS;

const SEGMENTS_NAME: &str = "segments";
const INDEX_NAME: &str = "index";
pub const ACCEPTED_NAME: &str = "accepted-losses";
const SEGMENT_SUFFIX: &str = ".seg";
/// Recovery reads no more of it either.
pub const ACCEPTED_BYTES_MAX: u64 = crate::volume::ACCEPTED_LOSSES_BYTES_MAX as u64;

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Bytes are not what was written, or not there.
    Damage,
    /// Of a newer release: nobody here can tell.
    Newer,
    /// Worth a line, and no cause for worry by itself.
    Note,
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// The name under which a volume reports it and an operator may accept it.
    pub loss: Option<Loss>,
    pub accepted: bool,
    pub file: Option<FileNumber>,
    pub offset: Option<u64>,
    pub text: String,
}

impl Finding {
    pub fn new(severity: Severity, text: impl Into<String>) -> Finding {
        Finding {
            severity,
            loss: None,
            accepted: false,
            file: None,
            offset: None,
            text: text.into(),
        }
    }

    fn at(mut self, file: FileNumber, offset: Option<u64>) -> Finding {
        self.file = Some(file);
        self.offset = offset;
        self
    }

    fn named(mut self, loss: Option<Loss>) -> Finding {
        self.loss = loss;
        self
    }
}

/// Whether a server has the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    None,
    /// With what the lock file says of its process id.
    Running {
        pid: String,
    },
    /// There is no lock file: no server of this release ever ran here.
    NeverRan,
    Unknown(String),
}

/// What the header of a segment file says it is.
#[derive(Clone, Debug)]
pub enum Header {
    NeverUsed,
    Used(FileHeader),
    /// Damaged, or of another volume: what the file holds is unknown.
    Lost(String),
    Newer(String),
    /// The file itself cannot be opened.
    Unopened(String),
}

pub struct FileReport {
    pub number: FileNumber,
    pub path: PathBuf,
    pub header: Header,
    /// Of files in use.
    pub walked: Option<Walked>,
}

impl FileReport {
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for span in self.walked.iter().flat_map(|walked| &walked.spans) {
            counts.add(&span.counts);
        }
        counts
    }
}

pub struct HeadReport {
    pub head: Head,
    pub files: usize,
    pub verdict: Verdict,
    /// Where the log ends, and what follows there.
    pub ends_in: Option<(FileNumber, u64, String)>,
}

pub struct VolumeReport {
    pub path: PathBuf,
    pub format: Option<VolumeFormat>,
    /// Bytes and files of the index directory, if there is one.
    pub index: Result<Option<(u64, usize)>, String>,
    pub accepted: Vec<String>,
    pub files: Vec<FileReport>,
    pub heads: Vec<HeadReport>,
    pub findings: Vec<Finding>,
}

impl VolumeReport {
    /// The first batch of a head that does not count.
    pub fn end(&self, head: Head) -> BatchSeq {
        let report = self.heads.iter().find(|report| report.head == head);
        report.map_or(BatchSeq(0), |report| report.verdict.end)
    }
}

pub struct DriveReport {
    pub path: PathBuf,
    pub server: Server,
    pub format: Option<DriveFormat>,
    pub volumes: Vec<PathBuf>,
    pub findings: Vec<Finding>,
}

/// What a path is.
pub enum Subject {
    Drive(PathBuf),
    Volume(PathBuf),
    SegmentFile(PathBuf),
}

/// # Errors
/// A line for people: there is nothing at the path that could be inspected.
pub fn subject(path: &Path) -> Result<Subject, String> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    if metadata.is_file() {
        return Ok(Subject::SegmentFile(path.to_owned()));
    }
    let entries = list(path).map_err(|error| format!("{shown}: {error}"))?;
    let has = |name: &str| entries.iter().any(|entry| entry == name);
    if has(SEGMENTS_NAME) {
        return Ok(Subject::Volume(path.to_owned()));
    }
    let volume_format = || {
        let bytes = read_small(&path.join(FORMAT_NAME), FORMAT_FILE_SIZE as u64);
        bytes.is_ok_and(|bytes| decode_volume_format(&bytes).is_ok())
    };
    if has(FORMAT_NAME) && volume_format() {
        return Ok(Subject::Volume(path.to_owned()));
    }
    if has(FORMAT_NAME) || has(FORMATTING_NAME) || entries.iter().any(|e| volume_index(e).is_some())
    {
        return Ok(Subject::Drive(path.to_owned()));
    }
    if entries.iter().any(|entry| entry.ends_with(SEGMENT_SUFFIX)) {
        return Err(format!(
            "{shown} holds the segment files of a volume; name the volume, one directory up, or \
             one of the files"
        ));
    }
    Err(format!(
        "{shown} is no data directory, no volume and no segment file"
    ))
}

fn volume_index(name: &str) -> Option<u16> {
    name.strip_prefix(VOLUME_PREFIX)?.parse().ok()
}

fn file_number(name: &str) -> Option<FileNumber> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    u32::from_str_radix(digits, 16).ok().map(FileNumber)
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in path.read_dir()? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// For reading only; without waiting for the other end of a pipe, and, where that is allowed,
/// without touching the time of last access.
fn open(path: &Path) -> io::Result<File> {
    let try_with = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match try_with(libc::O_NONBLOCK | libc::O_NOATIME) {
        // Somebody else's file.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            try_with(libc::O_NONBLOCK)?
        }
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// At most `max` bytes; what is longer is cut to one byte more, which no decoder takes for whole.
fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct OnDisk {
    file: File,
    length: u64,
}

impl OnDisk {
    fn open(path: &Path) -> io::Result<OnDisk> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(OnDisk { file, length })
    }
}

impl Source for OnDisk {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
}

/// Asks for the lock, and gives it back at once.
pub fn server(data: &Path) -> Server {
    let path = data.join(LOCK_NAME);
    let mut file = match open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Server::NeverRan,
        Err(error) => return Server::Unknown(format!("{}: {error}", path.display())),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = flock(&file, FlockOperation::Unlock);
            Server::None
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = [0; 20];
            let len = file.read(&mut text).unwrap_or(0);
            let text = String::from_utf8_lossy(&text[..len]).trim().to_owned();
            let known = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            Server::Running {
                pid: if known { text } else { "unknown".to_owned() },
            }
        }
        Err(error) => Server::Unknown(format!("{}: {error}", path.display())),
    }
}

fn header_finding(what: &str, error: HeaderError) -> Finding {
    let severity = match error {
        HeaderError::UnknownVersion { .. } => Severity::Newer,
        HeaderError::NeverUsed | HeaderError::Damaged(_) => Severity::Damage,
    };
    Finding::new(severity, format!("{what}: {error}"))
}

/// Reads and decodes a format file; whatever is wrong is pushed.
fn format_file<T>(
    path: &Path,
    decode: impl Fn(&[u8]) -> Result<shard_format::Decoded<T>, HeaderError>,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let what = path.display().to_string();
    let bytes = match read_small(path, FORMAT_FILE_SIZE as u64) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.push(Finding::new(Severity::Damage, format!("{what}: {error}")));
            return None;
        }
    };
    match decode(&bytes) {
        Ok(decoded) => {
            if let Some(copy) = decoded.damaged_copy {
                findings.push(Finding::new(
                    Severity::Damage,
                    format!("{what}: copy {copy} is damaged; the other one is whole"),
                ));
            }
            Some(decoded.value)
        }
        Err(error) => {
            findings.push(header_finding(&what, error));
            None
        }
    }
}

/// The data directory itself; its volumes are read one by one, by [`volume`].
pub fn drive(path: &Path) -> DriveReport {
    let mut findings = Vec::new();
    let names = list(path).unwrap_or_else(|error| {
        findings.push(Finding::new(
            Severity::Damage,
            format!("{}: {error}", path.display()),
        ));
        Vec::new()
    });
    let has = |name: &str| names.iter().any(|found| found == name);
    let mut indexes: Vec<u16> = names.iter().filter_map(|name| volume_index(name)).collect();
    indexes.sort_unstable();
    let format = if !has(FORMAT_NAME) && has(FORMATTING_NAME) {
        findings.push(Finding::new(
            Severity::Note,
            "formatting began and did not end; nothing was acknowledged from here",
        ));
        None
    } else {
        format_file(&path.join(FORMAT_NAME), decode_drive_format, &mut findings)
    };
    if let Some(format) = &format {
        let wanted = || {
            let first = u32::from(format.first_volume);
            (first..first + u32::from(format.volume_count)).map(|i| i as u16)
        };
        for index in wanted().filter(|index| !indexes.contains(index)) {
            findings.push(Finding::new(
                Severity::Damage,
                format!("{VOLUME_PREFIX}{index} is missing"),
            ));
        }
        for index in indexes
            .iter()
            .filter(|index| !wanted().any(|w| w == **index))
        {
            findings.push(Finding::new(
                Severity::Note,
                format!("{VOLUME_PREFIX}{index} is none of the store's volumes"),
            ));
        }
    }
    DriveReport {
        path: path.to_owned(),
        server: server(path),
        format,
        volumes: indexes
            .iter()
            .map(|index| path.join(format!("{VOLUME_PREFIX}{index}")))
            .collect(),
        findings,
    }
}

fn accepted_losses(path: &Path, findings: &mut Vec<Finding>) -> Vec<String> {
    let shown = path.display();
    match read_small(path, ACCEPTED_BYTES_MAX) {
        Ok(bytes) if bytes.len() as u64 > ACCEPTED_BYTES_MAX => {
            let text = format!("{shown} is longer than {ACCEPTED_BYTES_MAX} bytes and not read");
            findings.push(Finding::new(Severity::Damage, text));
            Vec::new()
        }
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(str::to_owned).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            findings.push(Finding::new(Severity::Damage, format!("{shown}: {error}")));
            Vec::new()
        }
    }
}

fn index_size(path: &Path) -> Result<Option<(u64, usize)>, String> {
    let names = match list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let sizes = names
        .iter()
        .filter_map(|name| fs::symlink_metadata(path.join(name)).ok())
        .filter(|metadata| metadata.is_file())
        .map(|metadata| metadata.blocks() * 512);
    Ok(Some((sizes.sum(), names.len())))
}

/// Reads a volume. `drive` is what its data directory says, if that could be read.
pub fn volume(path: &Path, drive: Option<&DriveFormat>, verify: bool) -> VolumeReport {
    let mut findings = Vec::new();
    let format = format_file(&path.join(FORMAT_NAME), decode_volume_format, &mut findings);
    if let (Some(format), Some(drive)) = (&format, drive) {
        let index = path
            .file_name()
            .and_then(|name| volume_index(&name.to_string_lossy()));
        if (format.cluster, format.drive) != (drive.cluster, drive.drive)
            || format.segment_file_length != drive.segment_file_length
            || index.is_some_and(|index| index != format.volume_index)
        {
            let text = format!(
                "the format file belongs elsewhere: cluster {}, drive {}, volume {} of it",
                format.cluster, format.drive, format.volume_index
            );
            findings.push(Finding::new(Severity::Damage, text));
        }
    }
    let accepted = accepted_losses(&path.join(ACCEPTED_NAME), &mut findings);
    let segments = path.join(SEGMENTS_NAME);
    let names = match list(&segments) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = "no segment files: the volume was formatted and never opened";
            findings.push(Finding::new(Severity::Note, text));
            Vec::new()
        }
        Err(error) => {
            let text = format!("{}: {error}", segments.display());
            findings.push(Finding::new(Severity::Damage, text));
            Vec::new()
        }
    };
    let mut files = Vec::new();
    for name in &names {
        match file_number(name) {
            Some(number) => {
                let path = segments.join(name);
                files.push(read_header(
                    &path,
                    Some(number),
                    format.as_ref(),
                    &mut findings,
                ));
            }
            None => findings.push(Finding::new(
                Severity::Note,
                format!("{SEGMENTS_NAME}/{name} is none of our files"),
            )),
        }
    }
    let mut report = VolumeReport {
        path: path.to_owned(),
        format,
        index: index_size(&path.join(INDEX_NAME)),
        accepted,
        files,
        heads: Vec::new(),
        findings,
    };
    read_heads(&mut report, verify);
    report
}

/// Reads one segment file, of a volume that may be anywhere.
pub fn segment_file(path: &Path, verify: bool) -> VolumeReport {
    let number = path
        .file_name()
        .and_then(|name| file_number(&name.to_string_lossy()));
    let mut findings = Vec::new();
    let file = read_header(path, number, None, &mut findings);
    let mut report = VolumeReport {
        path: path.to_owned(),
        format: None,
        index: Ok(None),
        accepted: Vec::new(),
        files: vec![file],
        heads: Vec::new(),
        findings,
    };
    read_heads(&mut report, verify);
    report
}

/// `number` is what the name of the file says, `format` what the volume does.
fn read_header(
    path: &Path,
    number: Option<FileNumber>,
    format: Option<&VolumeFormat>,
    findings: &mut Vec<Finding>,
) -> FileReport {
    let named = number.unwrap_or_default();
    let report = |number, header| FileReport {
        number,
        path: path.to_owned(),
        header,
        walked: None,
    };
    let source = match OnDisk::open(path) {
        Ok(source) => source,
        Err(error) => {
            let text = format!("{}: {error}", path.display());
            findings.push(Finding::new(Severity::Damage, &text).at(named, None));
            return report(named, Header::Unopened(text));
        }
    };
    let mut block = [0; FILE_HEADER_SIZE];
    let there = source.length.min(FILE_HEADER_SIZE as u64) as usize;
    let read = source.read_at(0, &mut block[..there]);
    let decoded = match read {
        Ok(()) => decode_file_header(&block).map_err(|error| (error.to_string(), Some(error))),
        Err(error) => Err((format!("cannot be read: {error}"), None)),
    };
    let header = match decoded {
        Err((_, Some(HeaderError::NeverUsed))) => {
            let wanted = format.map_or(0, |format| format.segment_file_length);
            if source.length < wanted {
                let text = format!(
                    "has {} of {wanted} bytes: its creation did not end",
                    source.length
                );
                findings.push(Finding::new(Severity::Note, text).at(named, None));
            }
            return report(named, Header::NeverUsed);
        }
        Err((text, Some(HeaderError::UnknownVersion { .. }))) => {
            let finding = Finding::new(Severity::Newer, format!("header: {text}"));
            findings.push(finding.at(named, Some(0)));
            return report(named, Header::Newer(text));
        }
        Err((text, _)) => Err(text),
        Ok(decoded) => {
            let header = decoded.value;
            match foreign(&header, number, format) {
                Some(text) => Err(text),
                None => {
                    if let Some(copy) = decoded.damaged_copy {
                        findings.push(copy_finding(&block, copy).at(header.file_number, Some(0)));
                    }
                    Ok(header)
                }
            }
        }
    };
    match header {
        Ok(header) => {
            if source.length < header.file_length {
                let text = format!(
                    "has {} of {} bytes; the rest was cut off",
                    source.length, header.file_length
                );
                let finding = Finding::new(Severity::Damage, text);
                findings.push(finding.at(header.file_number, None));
            }
            report(header.file_number, Header::Used(header))
        }
        Err(text) => {
            let held: Vec<String> = scan::guess(&mut Window::new(&source, source.length))
                .into_iter()
                .map(|(head, generation, batches, records)| {
                    format!(
                        "{head:?} generation {generation}: {batches} batches, {records} records"
                    )
                })
                .collect();
            let held = if held.is_empty() {
                "no batch can be recognised behind it".to_owned()
            } else {
                format!("batches behind it say {}", held.join("; "))
            };
            let finding = Finding::new(Severity::Damage, format!("header: {text}; {held}"));
            let loss = number.map(|file| Loss::Header { file });
            findings.push(finding.at(named, Some(0)).named(loss));
            report(named, Header::Lost(text))
        }
    }
}

/// Why a whole header is not that of this file.
fn foreign(
    header: &FileHeader,
    number: Option<FileNumber>,
    format: Option<&VolumeFormat>,
) -> Option<String> {
    if let Some(format) = format {
        if header.volume != format.volume {
            return Some(format!(
                "belongs to volume {}, not {}",
                header.volume, format.volume
            ));
        }
        if header.file_length != format.segment_file_length {
            return Some(format!(
                "says the file has {} bytes, not {}",
                header.file_length, format.segment_file_length
            ));
        }
    }
    let number = number.filter(|number| *number != header.file_number)?;
    Some(format!(
        "calls itself {:08x}, not {:08x}",
        header.file_number.0, number.0
    ))
}

/// An older or blank copy is what a power cut between the two leaves.
fn copy_finding(block: &[u8; FILE_HEADER_SIZE], copy: u8) -> Finding {
    let mut alone = *block;
    let half = FILE_HEADER_SIZE / 2;
    let other = half * usize::from(1 - copy.min(1));
    alone[other..other + half].fill(0);
    let (severity, what) = match decode_file_header(&alone) {
        Ok(_) => (
            Severity::Note,
            "older than the other one: a rewrite was cut off",
        ),
        Err(HeaderError::NeverUsed) => (Severity::Note, "blank: its first write was cut off"),
        Err(_) => (Severity::Damage, "damaged; the other one is whole"),
    };
    Finding::new(severity, format!("copy {copy} of the header is {what}"))
}

/// Walks the files in use, head by head, and judges them.
fn read_heads(report: &mut VolumeReport, verify: bool) {
    let mut generations: BTreeMap<u64, FileNumber> = BTreeMap::new();
    for file in &report.files {
        let Header::Used(header) = &file.header else {
            continue;
        };
        if let Some(other) = generations.insert(header.generation.0, file.number) {
            let text = format!(
                "has generation {} as file {:08x} does",
                header.generation, other.0
            );
            let finding = Finding::new(Severity::Damage, text);
            report.findings.push(finding.at(file.number, Some(0)));
        }
    }
    for head in HEADS {
        let mut order: Vec<(usize, FileHeader)> = report
            .files
            .iter()
            .enumerate()
            .filter_map(|(i, file)| match file.header {
                Header::Used(h) if h.head == head && h.state == FileState::Open => Some((i, h)),
                _ => None,
            })
            .collect();
        order.sort_by_key(|(_, header)| header.generation);
        if !order.is_empty() {
            read_head(report, head, &order, verify);
        }
    }
    for finding in &mut report.findings {
        let name = finding.loss.map(|loss| loss.to_string());
        finding.accepted = name.is_some_and(|name| report.accepted.contains(&name));
    }
    report
        .findings
        .sort_by_key(|finding| (finding.file, finding.offset, finding.severity));
}

fn read_head(report: &mut VolumeReport, head: Head, order: &[(usize, FileHeader)], verify: bool) {
    let mut chain = Chain::default();
    for (i, (file, header)) in order.iter().enumerate() {
        let end = order.get(i + 1).map(|(_, next)| next.first_seq);
        let file = &mut report.files[*file];
        let walked = match OnDisk::open(&file.path) {
            Ok(source) => {
                let mut window = Window::new(&source, header.file_length);
                scan::walk(&mut window, header, chain, end, verify)
            }
            Err(error) => {
                let text = format!("{}: {error}", file.path.display());
                let finding = Finding::new(Severity::Damage, text);
                report.findings.push(finding.at(file.number, None));
                Walked {
                    next: header.first_seq,
                    ..Walked::default()
                }
            }
        };
        chain = Chain {
            expected: walked.next,
            crc: walked.crc,
        };
        file.walked = Some(walked);
    }

    let files = &report.files;
    let walked: Vec<(&FileHeader, &Walked)> = order
        .iter()
        .filter_map(|(i, header)| Some((header, files[*i].walked.as_ref()?)))
        .collect();
    let verdict = scan::judge(&walked, |i, span| {
        let (file, header) = &order[i];
        OnDisk::open(&files[*file].path).is_ok_and(|source| {
            scan::whole(&mut Window::new(&source, header.file_length), header, span)
        })
    });

    let mut found = Vec::new();
    let mut ends_in = None;
    for (i, (header, walked)) in walked.iter().enumerate() {
        let file = header.file_number;
        let last = i + 1 == order.len();
        file_findings(header, walked, &verdict, last, &mut found);
        let counted = walked
            .spans
            .iter()
            .rev()
            .find(|s| s.header.seq < verdict.end);
        if let Some(span) = counted {
            let at = span.offset + u64::from(span.header.batch_len);
            ends_in = Some((file, at, tail(walked, &verdict, at)));
        } else if last && ends_in.is_none() {
            let at = FILE_HEADER_SIZE as u64;
            ends_in = Some((file, at, tail(walked, &verdict, at)));
        }
    }
    report.findings.append(&mut found);
    report.heads.push(HeadReport {
        head,
        files: order.len(),
        verdict,
        ends_in,
    });
}

/// What follows the last batch that counts.
fn tail(walked: &Walked, verdict: &Verdict, at: u64) -> String {
    if let Some(span) = walked.spans.iter().find(|s| s.offset == at) {
        return format!(
            "batch {}, which was not flushed or follows one that was not",
            span.header.seq
        );
    }
    if let Some(gap) = walked.gaps.iter().find(|gap| gap.offset == at) {
        return format!("not flushed: {}", gap.why);
    }
    if walked.footer_end.is_some() {
        return "its footer".to_owned();
    }
    if walked.next < verdict.end {
        return "the next file".to_owned();
    }
    walked.tail.clone()
}

fn file_findings(
    header: &FileHeader,
    walked: &Walked,
    verdict: &Verdict,
    last: bool,
    found: &mut Vec<Finding>,
) {
    let file = header.file_number;
    let counts_to = BatchSeq(verdict.end.0.saturating_sub(1));
    for gap in walked.gaps.iter().filter(|gap| gap.from < verdict.end) {
        let loss = Loss::Batches {
            head: header.head,
            file,
            generation: header.generation,
            from: gap.from,
            to: gap.to.min(counts_to),
        };
        let finding = Finding::new(Severity::Damage, &gap.why);
        found.push(finding.at(file, Some(gap.offset)).named(Some(loss)));
    }
    for bad in walked.bad.iter().filter(|bad| bad.seq < verdict.end) {
        let severity = if bad.newer {
            Severity::Newer
        } else {
            Severity::Damage
        };
        let finding = Finding::new(severity, &bad.text);
        found.push(finding.at(file, Some(bad.offset)).named(bad.loss));
    }
    if let Some((offset, text)) = &walked.newer {
        found.push(Finding::new(Severity::Newer, text).at(file, Some(*offset)));
    }
    if let Some((flushed, offset)) = walked.torn_flushed
        && flushed >= verdict.end
    {
        let text = format!(
            "the torn batch here says that batches up to {flushed} were flushed; those from {} on \
             cannot be read, and recovery takes them for never written",
            verdict.end
        );
        found.push(Finding::new(Severity::Damage, text).at(file, Some(offset)));
    }
    if walked.footer_end.is_some() {
        return;
    }
    match (&walked.broken_footer, last) {
        (Some(why), true) => found.push(
            Finding::new(
                Severity::Note,
                format!("{why}; it was perhaps being written when the server ended"),
            )
            .at(file, Some(walked.offset)),
        ),
        (Some(why), false) => {
            let text = format!("{why}; the batches before it tell the same");
            found.push(Finding::new(Severity::Damage, text).at(file, Some(walked.offset)));
        }
        (None, false) => {
            let text = format!(
                "no footer, though the head went on in another file; here: {}",
                walked.tail
            );
            found.push(Finding::new(Severity::Damage, text).at(file, Some(walked.offset)));
        }
        (None, true) if walked.tail_odd => {
            let text = format!(
                "behind the end of the log: {}; a write that was cut off, or leftovers of an \
                 earlier use of the file",
                walked.tail
            );
            found.push(Finding::new(Severity::Note, text).at(file, Some(walked.offset)));
        }
        (None, true) => {}
    }
}

/// Gives `visit` every batch of a file again, with its window.
pub fn reread(
    file: &FileReport,
    mut visit: impl FnMut(&FileHeader, &scan::Span, &mut Window<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let (Header::Used(header), Some(walked)) = (&file.header, &file.walked) else {
        return Ok(());
    };
    let Ok(source) = OnDisk::open(&file.path) else {
        return Ok(());
    };
    let mut window = Window::new(&source, header.file_length);
    for span in &walked.spans {
        visit(header, span, &mut window)?;
    }
    Ok(())
}
