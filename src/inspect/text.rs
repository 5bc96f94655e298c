//! What people read: tables whose columns line up, and lines that start with a word to grep for.

use std::io::{self, Write};

use shard_format::{
    Body, Condition, Entry, Etag, FileHeader, FileState, Head, Hlc, Kind, Lsn, MetadataRecord,
    PgId, Transform, VersionId, VolumeRecord,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report::{
    self, DriveReport, FileReport, Finding, Header, Server, Severity, VolumeReport,
};
use super::scan::{self, Counts, Payload, Span, Window};

/// What was read in all, for the last line and the exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub volumes: usize,
    pub files: usize,
    pub batches: u64,
    pub records: Counts,
    pub damage: usize,
    pub accepted: usize,
    pub newer: usize,
}

impl Totals {
    pub fn readable(&self) -> bool {
        self.damage == 0 && self.newer == 0
    }

    pub fn add_findings(&mut self, findings: &[Finding]) {
        for finding in findings {
            match finding.severity {
                Severity::Damage => self.damage += 1,
                Severity::Newer => self.newer += 1,
                Severity::Note => {}
            }
            self.accepted += usize::from(finding.accepted);
        }
    }

    pub fn add_volume(&mut self, volume: &VolumeReport) {
        self.volumes += 1;
        self.files += volume.files.len();
        for file in &volume.files {
            self.batches += file.walked.as_ref().map_or(0, |w| w.spans.len() as u64);
            self.records.add(&file.counts());
        }
        self.add_findings(&volume.findings);
    }
}

pub fn summary(out: &mut dyn Write, totals: &Totals, verified: bool) -> io::Result<()> {
    let read = format!(
        "{} in {} of {}",
        count(totals.records.total(), "record"),
        count(totals.batches, "batch"),
        count(totals.files as u64, "segment file"),
    );
    if totals.readable() {
        let unread = if verified || totals.records.segments == 0 {
            "every checksum is right"
        } else {
            "the payloads of segments were not read (--verify reads them)"
        };
        return writeln!(out, "readable: {read}; {unread}");
    }
    let mut found = Vec::new();
    if totals.damage > 0 {
        found.push(format!(
            "damage in {}, {} of them accepted as lost",
            count(totals.damage as u64, "place"),
            totals.accepted
        ));
    }
    if totals.newer > 0 {
        found.push(format!(
            "{} written by a newer release",
            count(totals.newer as u64, "structure")
        ));
    }
    writeln!(out, "damaged: {}; readable: {read}", found.join("; "))
}

fn count(n: u64, what: &str) -> String {
    let plural = match what {
        _ if n == 1 => "",
        "batch" => "es",
        _ => "s",
    };
    format!("{n} {what}{plural}")
}

/// Milliseconds of Unix time; those beyond the calendar stay a number.
fn time_of(ms: u64) -> String {
    let nanoseconds = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{ms}ms"))
}

fn hlc(hlc: Hlc) -> String {
    format!("{}.{}", hlc.ms(), hlc.counter())
}

/// Between quotes, with escapes for what is not printable or not UTF-8: a key must not draw on the
/// reader's terminal, nor end its line.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

// ---- tables ---------------------------------------------------------------------------------------

/// The first row is the heading. `left` columns from the left are aligned left, the last one too.
fn table(out: &mut dyn Write, rows: &[Vec<String>], left: usize) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column + 1 == columns {
                line.push_str(&format!("  {cell}"));
            } else if column < left {
                line.push_str(&format!("  {cell:<width$}"));
            } else {
                line.push_str(&format!("  {cell:>width$}"));
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn field(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {name:<13}{value}")
}

pub fn server(out: &mut dyn Write, server: &Server) -> io::Result<()> {
    let text = match server {
        Server::None => "none holds the lock".to_owned(),
        Server::NeverRan => "none: there is no lock file".to_owned(),
        Server::Running { pid } => format!(
            "RUNNING (pid {pid}): what follows is a moving picture; damage in files that are in \
             use may be a write under way"
        ),
        Server::Unknown(error) => format!("unknown: {error}"),
    };
    field(out, "server", &text)
}

pub fn drive(out: &mut dyn Write, report: &DriveReport) -> io::Result<()> {
    writeln!(out, "data directory {}", report.path.display())?;
    server(out, &report.server)?;
    if let Some(format) = &report.format {
        field(
            out,
            "format",
            &format!("version {}", shard_format::FORMAT_VERSION),
        )?;
        field(out, "created", &time_of(format.created_ms))?;
        field(out, "cluster", &format.cluster.to_string())?;
        field(out, "drive", &format.drive.to_string())?;
        let volumes = format!(
            "{}, from volume-{} on",
            format.volume_count, format.first_volume
        );
        field(out, "volumes", &volumes)?;
        field(
            out,
            "groups",
            &format!("{} placement groups", format.pg_count),
        )?;
        let length = format!("{} bytes each", format.segment_file_length);
        field(out, "segment file", &length)?;
    }
    findings(out, &report.findings)
}

fn findings(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    for finding in findings {
        let word = match finding.severity {
            Severity::Damage => "DAMAGE",
            Severity::Newer => "NEWER",
            Severity::Note => "note",
        };
        let mut line = format!("  {word:<8}");
        if let Some(loss) = &finding.loss {
            line.push_str(&format!("{loss}  "));
        }
        if finding.accepted {
            line.push_str("(accepted)  ");
        }
        if let Some(file) = finding.file {
            line.push_str(&format!("file {:08x}", file.0));
            if let Some(offset) = finding.offset {
                line.push_str(&format!(" at {offset}"));
            }
            line.push_str(": ");
        }
        line.push_str(&finding.text);
        writeln!(out, "{line}")?;
    }
    Ok(())
}

pub fn volume(out: &mut dyn Write, report: &VolumeReport) -> io::Result<()> {
    writeln!(out)?;
    writeln!(out, "volume {}", report.path.display())?;
    if let Some(format) = &report.format {
        field(out, "id", &format.volume.to_string())?;
        field(out, "cluster", &format.cluster.to_string())?;
        field(out, "drive", &format.drive.to_string())?;
        let text = format!(
            "version {}, volume {} of its drive, segment files of {} bytes",
            shard_format::FORMAT_VERSION,
            format.volume_index,
            format.segment_file_length
        );
        field(out, "format", &text)?;
    }
    let index = match &report.index {
        Ok(Some((bytes, files))) => format!(
            "{bytes} bytes on disk in {} (not opened)",
            count(*files as u64, "file")
        ),
        Ok(None) => "none; the next start makes it from the segment files".to_owned(),
        Err(error) => error.clone(),
    };
    field(out, "index", &index)?;
    if !report.accepted.is_empty() {
        let text = format!("{} as lost", count(report.accepted.len() as u64, "name"));
        field(out, "accepted", &text)?;
    }
    files_and_heads(out, report)
}

pub fn segment_file(out: &mut dyn Write, report: &VolumeReport) -> io::Result<()> {
    writeln!(out, "segment file {}", report.path.display())?;
    for file in &report.files {
        if let Header::Used(header) = &file.header {
            field(out, "cluster", &header.cluster.to_string())?;
            field(out, "drive", &header.drive.to_string())?;
            field(out, "volume", &header.volume.to_string())?;
            field(
                out,
                "segment file",
                &format!("{} bytes", header.file_length),
            )?;
            field(out, "incarnation", &header.incarnation.to_string())?;
            field(out, "created LSN", &header.created_lsn.to_string())?;
        }
    }
    let text = "alone: whether the end of its log is the head's, only the volume can tell";
    field(out, "judged", text)?;
    files_and_heads(out, report)
}

fn files_and_heads(out: &mut dyn Write, report: &VolumeReport) -> io::Result<()> {
    let headings = [
        "FILE",
        "STATE",
        "GENERATION",
        "FIRST SEQ",
        "BATCHES",
        "SEGMENTS",
        "METADATA",
        "VOLUME",
        "USED",
        "FLUSHED",
        "END",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    rows.extend(report.files.iter().map(file_row));
    if rows.len() > 1 {
        table(out, &rows, 2)?;
    }
    let headings = [
        "HEAD", "FILES", "LAST SEQ", "FLUSHED", "NEXT LSN", "LOG ENDS",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for head in &report.heads {
        let verdict = &head.verdict;
        let ends = head
            .ends_in
            .as_ref()
            .map_or(String::new(), |(file, at, then)| {
                format!("{:08x} at {at}; then {then}", file.0)
            });
        rows.push(vec![
            head_name(head.head).to_owned(),
            head.files.to_string(),
            verdict.end.0.saturating_sub(1).to_string(),
            verdict.floor.to_string(),
            verdict.next_lsn.to_string(),
            ends,
        ]);
    }
    if rows.len() > 1 {
        table(out, &rows, 1)?;
    }
    findings(out, &report.findings)
}

fn head_name(head: Head) -> &'static str {
    match head {
        Head::Commit => "commit",
        Head::Bulk => "bulk",
        Head::Relocate => "relocate",
    }
}

fn file_row(file: &FileReport) -> Vec<String> {
    let mut row = vec![format!("{:08x}", file.number.0)];
    let mut state = |text: &str| row.push(text.to_owned());
    match &file.header {
        Header::NeverUsed => state("never used"),
        Header::Lost(_) => state("UNREADABLE"),
        Header::Newer(_) => state("NEWER"),
        Header::Unopened(_) => state("UNOPENED"),
        Header::Used(header) => match header.state {
            FileState::Free => state("free"),
            FileState::Open => state(head_name(header.head)),
        },
    }
    let Header::Used(header) = &file.header else {
        row.resize(11, "-".to_owned());
        return row;
    };
    row.push(header.generation.to_string());
    let Some(walked) = &file.walked else {
        row.resize(11, "-".to_owned());
        return row;
    };
    row.push(header.first_seq.to_string());
    row.push(walked.spans.len().to_string());
    let counts = file.counts();
    row.push(counts.segments.to_string());
    row.push(counts.metadata.to_string());
    row.push(counts.volume.to_string());
    let last = walked.spans.last();
    let used = walked.footer_end.unwrap_or_else(|| {
        last.map_or(shard_format::FILE_HEADER_SIZE as u64, |span| {
            span.offset + u64::from(span.header.batch_len)
        })
    });
    let percent = used.saturating_mul(100) / header.file_length.max(1);
    row.push(format!("{used} ({percent}%)"));
    let flushed = walked
        .spans
        .iter()
        .map(|span| span.header.flushed_seq)
        .max();
    row.push(flushed.map_or("-".to_owned(), |seq| seq.to_string()));
    let mut end = match (walked.footer_end, &walked.broken_footer) {
        (Some(_), _) => "sealed".to_owned(),
        (None, Some(_)) => "footer damaged".to_owned(),
        (None, None) => "not sealed".to_owned(),
    };
    if !walked.gaps.is_empty() {
        end.push_str(&format!(", {}", count(walked.gaps.len() as u64, "gap")));
    }
    row.push(end);
    row
}

// ---- records --------------------------------------------------------------------------------------

/// A line per record of the files in use, in the order of files and places.
pub fn records(
    out: &mut dyn Write,
    volume: &VolumeReport,
    pg_count: Option<u32>,
    verify: bool,
) -> io::Result<()> {
    for file in &volume.files {
        report::reread(file, |header, span, window| {
            batch(out, header, span, window, volume, pg_count, verify)
        })?;
    }
    Ok(())
}

fn batch(
    out: &mut dyn Write,
    header: &FileHeader,
    span: &Span,
    window: &mut Window<'_>,
    volume: &VolumeReport,
    pg_count: Option<u32>,
    verify: bool,
) -> io::Result<()> {
    let place = format!(
        "file={:08x} generation={} head={} seq={}",
        header.file_number.0,
        header.generation,
        head_name(header.head),
        span.header.seq
    );
    let dropped = if span.header.seq >= volume.end(header.head) {
        " dropped"
    } else {
        ""
    };
    let Some(entries) = scan::entries(window, header, span) else {
        return writeln!(out, "  batch   {place} changed while it was read");
    };
    if entries.is_empty() {
        let flushed = span.header.flushed_seq;
        return writeln!(out, "  floor   {place} flushed={flushed}{dropped}");
    }
    for (i, entry) in entries.iter().enumerate() {
        let lsn = Lsn(span.header.first_lsn.0.saturating_add(i as u64));
        let offset = span.offset + u64::from(entry.offset);
        let what = match entry.kind {
            Kind::Segment(_) if !verify => {
                format!("{} checksum=unread", entry_text(entry, pg_count))
            }
            _ => match scan::payload(window, span.offset, entry) {
                Payload::Whole(bytes) => format!(
                    "{}{} checksum=ok",
                    entry_text(entry, pg_count),
                    payload_text(&entry.kind, bytes)
                ),
                Payload::Damaged(why) => format!(
                    "{} checksum=BAD {}",
                    entry_text(entry, pg_count),
                    quoted(why.as_bytes())
                ),
            },
        };
        writeln!(
            out,
            "  record  {place} lsn={lsn} offset={offset} bytes={} {what}{dropped}",
            entry.stored_len
        )?;
    }
    Ok(())
}

fn entry_text(entry: &Entry, pg_count: Option<u32>) -> String {
    match &entry.kind {
        Kind::Segment(segment) => {
            let id = &segment.identity;
            let pg = pg_count.map_or(String::new(), |pg_count| {
                format!(
                    " pg={}",
                    PgId::of_key_hash(id.object.key_hash32(), pg_count)
                )
            });
            let transform = match entry.transform {
                Transform::None => "none",
                Transform::Lz4 => "lz4",
            };
            format!(
                "kind=SEGMENT{pg} object={} created={} chunk={} role={} segment={} scheme={} \
                 epoch={} logical={} transform={transform}",
                id.object,
                time_of(id.object.hlc().ms()),
                id.chunk,
                id.role,
                id.segment,
                segment.scheme,
                segment.epoch,
                entry.logical_len
            )
        }
        Kind::Metadata(metadata) => {
            let origin = &metadata.origin;
            let relocated = if metadata.relocated { " relocated" } else { "" };
            format!(
                "kind=METADATA{relocated} pg={} index={} term={} hlc={} time={}",
                origin.pg,
                origin.index,
                origin.term,
                hlc(origin.hlc),
                time_of(origin.hlc.ms())
            )
        }
        Kind::Volume => "kind=VOLUME".to_owned(),
    }
}

fn payload_text(kind: &Kind, bytes: &[u8]) -> String {
    let decoded = match kind {
        Kind::Segment(_) => return String::new(),
        Kind::Metadata(_) => MetadataRecord::decode(bytes).map(|record| command_text(&record)),
        Kind::Volume => VolumeRecord::decode(bytes).map(|record| fact_text(&record)),
    };
    match decoded {
        Ok(text) => format!(" {text}"),
        Err(error) => format!(" undecodable={}", quoted(error.to_string().as_bytes())),
    }
}

fn version_text(version: VersionId) -> String {
    match version {
        VersionId::Null => "null".to_owned(),
        VersionId::Hlc(at) => hlc(at),
    }
}

fn etag_text(etag: &Etag<'_>) -> String {
    match etag {
        Etag::Md5(md5) => md5.iter().map(|byte| format!("{byte:02x}")).collect(),
        Etag::Text(text) => quoted(text.as_bytes()),
        Etag::None => "none".to_owned(),
    }
}

fn condition_text(condition: &Condition<'_>) -> String {
    match condition {
        Condition::None => String::new(),
        Condition::IfNoneMatchAny => " if-none-match=*".to_owned(),
        Condition::IfMatch(etag) => format!(" if-match={}", etag_text(etag)),
        Condition::IfNoneMatch(etag) => format!(" if-none-match={}", etag_text(etag)),
        Condition::IfMatchAny => " if-match=*".to_owned(),
    }
}

fn command_text(record: &MetadataRecord<'_>) -> String {
    match record {
        MetadataRecord::PutVersion(put) => {
            let body = match put.body {
                Body::Inline(_) => "inline".to_owned(),
                Body::Chunks(chunks) => format!("chunks:{chunks}"),
                Body::DeleteMarker => "delete-marker".to_owned(),
            };
            let parts = match put.fields.parts.len() {
                0 => String::new(),
                parts => format!(" parts={parts}"),
            };
            let missing: Vec<String> = put
                .fields
                .missing_roles
                .iter()
                .map(|m| format!("{}:{:x}", m.chunk, m.roles))
                .collect();
            let missing = if missing.is_empty() {
                String::new()
            } else {
                format!(" missing-roles={}", missing.join(","))
            };
            format!(
                "put-version bucket={} key={} version={} object={} size={} body={body} etag={} \
                 modified={} scheme={} epoch={} owner={}{}{parts}{missing}",
                put.bucket,
                quoted(put.key),
                version_text(put.version),
                put.object,
                put.size,
                etag_text(&put.etag),
                time_of(put.modified_ms),
                put.scheme,
                put.epoch,
                quoted(put.owner.as_bytes()),
                condition_text(&put.condition),
            )
        }
        MetadataRecord::DeleteVersion(delete) => format!(
            "delete-version bucket={} key={} version={}{}",
            delete.bucket,
            quoted(delete.key),
            version_text(delete.version),
            condition_text(&delete.condition)
        ),
        MetadataRecord::PutBucket(put) => format!(
            "put-bucket name={} bucket={} owner={} created={} region={} state={}",
            quoted(put.name.as_bytes()),
            put.bucket,
            quoted(put.owner.as_bytes()),
            time_of(put.created.ms()),
            quoted(put.region.as_bytes()),
            match put.state {
                shard_format::BucketState::Active => "active",
                shard_format::BucketState::Deleting => "deleting",
            }
        ),
        MetadataRecord::DeleteBucket { name, bucket } => {
            format!(
                "delete-bucket name={} bucket={bucket}",
                quoted(name.as_bytes())
            )
        }
        MetadataRecord::FenceBucket { bucket, fenced } => {
            format!("fence-bucket bucket={bucket} fenced={fenced}")
        }
        MetadataRecord::AbortObject { object } => format!("abort-object object={object}"),
        MetadataRecord::FreeDone { object } => format!("free-done object={object}"),
        MetadataRecord::NoOp => "no-op".to_owned(),
        MetadataRecord::CreateUpload(create) => format!(
            "create-upload bucket={} key={} upload={} initiated={} owner={}",
            create.bucket,
            quoted(create.key),
            create.upload,
            time_of(create.initiated_ms),
            quoted(create.owner.as_bytes()),
        ),
        MetadataRecord::PutPart(part) => format!(
            "put-part bucket={} key={} upload={} number={} object={} size={} md5={} modified={}",
            part.bucket,
            quoted(part.key),
            part.upload,
            part.number,
            part.object,
            part.size,
            etag_text(&Etag::Md5(part.md5)),
            time_of(part.modified_ms),
        ),
        MetadataRecord::EndUpload(end) => format!(
            "end-upload bucket={} key={} upload={} end={}",
            end.bucket,
            quoted(end.key),
            end.upload,
            match end.end {
                shard_format::UploadEnd::Aborted => "aborted",
                shard_format::UploadEnd::Forgotten => "forgotten",
            }
        ),
    }
}

fn fact_text(record: &VolumeRecord) -> String {
    match record {
        VolumeRecord::Refused {
            pg,
            index,
            hlc: at,
            generation,
        } => format!(
            "refused pg={pg} index={index} hlc={} time={} in-generation={generation}",
            hlc(*at),
            time_of(at.ms())
        ),
        VolumeRecord::ShardsFreed { object } => format!("shards-freed object={object}"),
        VolumeRecord::Mounted { incarnation, drive } => {
            format!("mounted incarnation={incarnation} drive={drive}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_draw_on_a_terminal() {
        assert_eq!(quoted(b"a/b \"c\""), r#""a/b \"c\"""#);
        assert_eq!(quoted(b"\x1b[2J\n\xff\0"), r#""\u{1b}[2J\n\xff\0""#);
        assert_eq!(quoted("Übung/\u{202e}x".as_bytes()), r#""Übung/\u{202e}x""#);
    }

    #[test]
    fn times_beyond_the_calendar_stay_numbers() {
        assert_eq!(time_of(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(time_of(0), "1970-01-01T00:00:00Z");
        assert_eq!(time_of(Hlc(u64::MAX).ms()), "281474976710655ms");
        assert_eq!(time_of(u64::MAX), format!("{}ms", u64::MAX));
    }

    #[test]
    fn columns_line_up() {
        let rows = [["A", "LONG", "END"], ["bbb", "1", "x y"]];
        let rows: Vec<Vec<String>> = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        let mut out = Vec::new();
        table(&mut out, &rows, 1).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "  A    LONG  END\n  bbb     1  x y\n");
    }
}
