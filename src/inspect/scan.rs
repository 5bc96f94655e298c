//! One segment file, and the files of one head together: what can be read, what is missing, where
//! the log ends. Bytes in, values out.
//!
//! The rules are those of `log::recover`, read afresh from SPEC.md section 7, so that what is
//! printed here is what a volume would say after its index was lost. A test holds both to the same
//! names of losses. Where they differ:
//!
//! - A batch must carry the id of its volume.
//! - The header of a torn batch is believed when it says what had been flushed; what follows from
//!   that alone is reported without a name.
//! - Bytes behind the end of a file that was cut short read as zeros, as they would after the next
//!   start, which makes the file whole.

use std::io;

use shard_format::{
    BATCH_HEADER_SIZE, BLOCK_SIZE, BatchError, BatchHeader, BatchSeq, Entry, FILE_HEADER_SIZE,
    FileHeader, Footer, FooterError, Head, Kind, Lsn, MetadataRecord, RecordError, VolumeRecord,
    decode_batch_header, decode_directory, decode_footer, decode_footer_header,
    footer::FOOTER_HEADER_SIZE,
};

use super::loss::Loss;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Read at once where small batches follow each other.
const READ_AHEAD: usize = 1 << 20;

/// Bytes of a segment file.
pub trait Source {
    fn length(&self) -> u64;
    /// Fills `out` from `offset`; the caller stays inside the length.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl Source for Vec<u8> {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        out.copy_from_slice(&self[at..at + out.len()]);
        Ok(())
    }
}

/// A view of a source as long as its header says, zeros behind its end.
pub struct Window<'a> {
    source: &'a dyn Source,
    length: u64,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> Window<'a> {
    pub fn new(source: &'a dyn Source, length: u64) -> Window<'a> {
        Window {
            source,
            length,
            start: 0,
            buf: Vec::new(),
        }
    }

    /// `len` is bounded by the caller: a block, a directory, a footer, a payload.
    fn get(&mut self, offset: u64, len: usize) -> Result<&[u8], String> {
        let end = offset.checked_add(len as u64);
        let Some(end) = end.filter(|end| *end <= self.length) else {
            return Err("reaches beyond the end of the file".to_owned());
        };
        if offset < self.start || end > self.start + self.buf.len() as u64 {
            let ahead = (self.length - offset).min(READ_AHEAD as u64) as usize;
            // Where a drive has bad sectors, what lies before them is still to be had.
            if self.fill(offset, ahead.max(len)).is_err() {
                self.fill(offset, len)
                    .map_err(|error| format!("cannot be read: {error}"))?;
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buf[at..at + len])
    }

    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        self.buf.clear();
        self.buf.resize(len, 0);
        self.start = offset;
        let there = self.source.length().saturating_sub(offset).min(len as u64) as usize;
        let result = self.source.read_at(offset, &mut self.buf[..there]);
        if result.is_err() {
            self.buf.clear();
        }
        result
    }
}

/// What stands at a block.
enum Look {
    /// Header and directory are whole and of this file and generation.
    Batch(BatchHeader, Vec<Entry>),
    /// The header is, the rest is not.
    Torn(BatchHeader, String),
    Footer(Footer),
    BrokenFooter(String),
    /// Of a newer release.
    Newer(String),
    Blank,
    /// Whole, but of an earlier use of the file, or not of this file.
    Stale(String),
    Unreadable(String),
}

impl Look {
    fn describe(&self) -> String {
        match self {
            Look::Batch(h, _) => format!("batch {} stands there", h.seq),
            Look::Torn(h, why) => format!("batch {}: {why}", h.seq),
            Look::Footer(_) => "the footer".to_owned(),
            Look::Blank => "zeros".to_owned(),
            Look::BrokenFooter(why)
            | Look::Newer(why)
            | Look::Stale(why)
            | Look::Unreadable(why) => why.clone(),
        }
    }
}

fn not_of(id: &FileHeader, h: &BatchHeader) -> Option<String> {
    if h.volume != id.volume {
        return Some(format!("a batch of volume {}", h.volume));
    }
    if h.file_number != id.file_number {
        return Some(format!("a batch of file {:08x}", h.file_number.0));
    }
    if h.generation != id.generation {
        return Some(format!("a batch of generation {}", h.generation));
    }
    (h.head != id.head).then(|| format!("a batch of another head ({:?})", h.head))
}

fn look(window: &mut Window<'_>, id: &FileHeader, offset: u64) -> Look {
    let block = match window.get(offset, BLOCK_SIZE) {
        Ok(block) => block,
        Err(why) => return Look::Unreadable(why),
    };
    let Some(front) = block.first_chunk::<BATCH_HEADER_SIZE>() else {
        return Look::Unreadable("less than a block".to_owned());
    };
    match decode_batch_header(front) {
        Ok(h) => {
            if let Some(stale) = not_of(id, &h) {
                return Look::Stale(stale);
            }
            if offset + u64::from(h.batch_len) > window.length {
                return Look::Torn(h, "reaches beyond the end of the file".to_owned());
            }
            match window.get(offset, h.directory_len as usize) {
                Err(why) => Look::Torn(h, why),
                Ok(bytes) => match decode_directory(bytes) {
                    Ok((h, entries)) => Look::Batch(h, entries),
                    Err(error) => Look::Torn(h, error.to_string()),
                },
            }
        }
        Err(error @ BatchError::UnknownVersion { .. }) => Look::Newer(error.to_string()),
        Err(BatchError::NotABatch) => look_footer(window, id, offset),
        Err(error) => Look::Unreadable(error.to_string()),
    }
}

fn look_footer(window: &mut Window<'_>, id: &FileHeader, offset: u64) -> Look {
    let block = match window.get(offset, BLOCK_SIZE) {
        Ok(block) => block,
        Err(why) => return Look::Unreadable(why),
    };
    let Some(front) = block.first_chunk::<FOOTER_HEADER_SIZE>() else {
        return Look::Unreadable("less than a block".to_owned());
    };
    let front = match decode_footer_header(front) {
        Ok(front) => front,
        Err(FooterError::NotAFooter) if block.iter().all(|byte| *byte == 0) => return Look::Blank,
        Err(FooterError::NotAFooter) => {
            return Look::Unreadable("no batch starts there".to_owned());
        }
        Err(error @ FooterError::UnknownVersion { .. }) => return Look::Newer(error.to_string()),
        Err(error) => return Look::BrokenFooter(error.to_string()),
    };
    if (front.volume, front.file_number, front.generation)
        != (id.volume, id.file_number, id.generation)
    {
        return Look::Stale(format!(
            "a footer of file {:08x}, generation {}",
            front.file_number.0, front.generation
        ));
    }
    match window.get(offset, front.footer_len as usize) {
        Err(why) => Look::BrokenFooter(format!("footer: {why}")),
        Ok(bytes) => match decode_footer(offset, bytes) {
            Ok(footer) => Look::Footer(footer),
            Err(error) => Look::BrokenFooter(error.to_string()),
        },
    }
}

/// Records by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub segments: u64,
    pub metadata: u64,
    pub volume: u64,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.segments + self.metadata + self.volume
    }

    pub fn add(&mut self, other: &Counts) {
        self.segments += other.segments;
        self.metadata += other.metadata;
        self.volume += other.volume;
    }
}

/// A batch whose header and directory are whole.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub offset: u64,
    pub header: BatchHeader,
    pub counts: Counts,
}

/// Batches that should be there and are not.
#[derive(Clone, Debug)]
pub struct Gap {
    pub offset: u64,
    /// First and last.
    pub from: BatchSeq,
    pub to: BatchSeq,
    pub why: String,
}

/// A record whose payload cannot be believed or understood.
#[derive(Clone, Debug)]
pub struct BadRecord {
    pub seq: BatchSeq,
    /// Of the payload in the file.
    pub offset: u64,
    pub loss: Option<Loss>,
    /// Its checksum is right: it was written by a newer release.
    pub newer: bool,
    pub text: String,
}

/// What walking one file came to.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    pub spans: Vec<Span>,
    pub gaps: Vec<Gap>,
    pub bad: Vec<BadRecord>,
    /// A batch or footer of a newer release stands at this offset, where one of ours must.
    pub newer: Option<(u64, String)>,
    /// The batch after the last one of this file, as far as is known, and the chain up to there.
    pub next: BatchSeq,
    pub crc: Option<u32>,
    /// Where the walk ended.
    pub offset: u64,
    /// Where the footer ends, if one whole closes the file.
    pub footer_end: Option<u64>,
    pub broken_footer: Option<String>,
    /// What follows the last batch of a file that is not sealed.
    pub tail: String,
    /// Neither zeros nor whole leftovers.
    pub tail_odd: bool,
    /// The highest flushed sequence in the header of a torn batch, and where that lies.
    pub torn_flushed: Option<(BatchSeq, u64)>,
}

/// Where a head's files stand: what the next one must begin with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain {
    pub expected: BatchSeq,
    pub crc: Option<u32>,
}

fn after(seq: BatchSeq) -> BatchSeq {
    BatchSeq(seq.0.saturating_add(1))
}

fn before(seq: BatchSeq) -> BatchSeq {
    BatchSeq(seq.0.saturating_sub(1))
}

/// Walks a file. `end` is the first batch of the head's next file. `verify` reads the payloads of
/// segments too.
pub fn walk(
    window: &mut Window<'_>,
    id: &FileHeader,
    chain: Chain,
    end: Option<BatchSeq>,
    verify: bool,
) -> Walked {
    let mut walked = Walked::default();
    let mut offset = FILE_HEADER_SIZE as u64;
    let mut expected = id.first_seq;
    let mut crc = chain.crc.filter(|_| chain.expected == id.first_seq);
    let inside = |seq: BatchSeq| end.is_none_or(|end| seq < end);
    let last_of = |footer: &Footer| {
        footer
            .batches
            .last()
            .map_or(before(id.first_seq), |b| b.seq)
    };
    loop {
        let found = look(window, id, offset);
        let mut why = found.describe();
        let mut odd = false;
        match found {
            Look::Batch(h, entries)
                if h.seq == expected
                    && crc.is_none_or(|crc| crc == h.previous_crc)
                    && inside(expected) =>
            {
                let counts = check_batch(window, &h, offset, &entries, verify, &mut walked.bad);
                walked.spans.push(Span {
                    offset,
                    header: h,
                    counts,
                });
                crc = Some(h.header_crc);
                expected = after(h.seq);
                offset += u64::from(h.batch_len);
                continue;
            }
            Look::Footer(footer) => {
                let last = last_of(&footer);
                if last >= expected {
                    walked.gaps.push(Gap {
                        offset,
                        from: expected,
                        to: last,
                        why: "the footer stands where they must, and names them".to_owned(),
                    });
                    expected = after(last);
                    crc = None;
                }
                let len = footer.encoded_len() as u64;
                walked.footer_end = Some(offset + len);
                explain(&mut walked.gaps, &footer);
                break;
            }
            Look::Batch(h, _) if !inside(h.seq) && h.seq >= expected => {
                why = format!("batches from {} on, dropped by an earlier recovery", h.seq);
            }
            Look::Batch(h, _) if h.seq == expected => {
                why = format!(
                    "batch {} there follows another batch {} than this one",
                    h.seq,
                    before(h.seq)
                );
            }
            Look::Newer(text) => walked.newer = Some((offset, text)),
            Look::BrokenFooter(text) => walked.broken_footer = Some(text),
            Look::Torn(..) | Look::Unreadable(_) => odd = true,
            Look::Batch(..) | Look::Blank | Look::Stale(_) => {}
        }
        match probe(window, id, offset, expected, end, &mut walked.torn_flushed) {
            Some((at, next)) => {
                // Also when the sequence is right and the chain is not: then what stood before is
                // missing.
                walked.gaps.push(Gap {
                    offset,
                    from: expected,
                    to: before(next).max(expected),
                    why,
                });
                expected = next;
                crc = None;
                offset = at;
            }
            None => {
                if let Some(end) = end.filter(|end| expected < *end) {
                    walked.gaps.push(Gap {
                        offset,
                        from: expected,
                        to: before(end),
                        why: why.clone(),
                    });
                    expected = end;
                    crc = None;
                }
                walked.tail = why;
                walked.tail_odd = odd;
                break;
            }
        }
    }
    walked.next = expected;
    walked.crc = crc;
    walked.offset = offset;
    walked
}

/// The next batch of the file, or its footer, from `offset` on: where it stands, and its sequence
/// (for a footer, the one after its last batch).
fn probe(
    window: &mut Window<'_>,
    id: &FileHeader,
    offset: u64,
    expected: BatchSeq,
    end: Option<BatchSeq>,
    torn_flushed: &mut Option<(BatchSeq, u64)>,
) -> Option<(u64, BatchSeq)> {
    let mut at = offset;
    // Behind its end the file reads as zeros: nothing to be found.
    let stop = window.length.min(window.source.length());
    while at < stop {
        match look(window, id, at) {
            Look::Batch(h, _) if h.seq >= expected && end.is_none_or(|end| h.seq < end) => {
                return Some((at, h.seq));
            }
            Look::Footer(footer) => {
                let last = footer.batches.last();
                return Some((at, last.map_or(id.first_seq, |last| after(last.seq))));
            }
            Look::Torn(h, _) if h.seq >= expected => {
                if torn_flushed.is_none_or(|(seq, _)| seq < h.flushed_seq) {
                    *torn_flushed = Some((h.flushed_seq, at));
                }
                // Its length is believed: what lies inside are its payloads, which may well look
                // like batches.
                at += u64::from(h.batch_len);
                continue;
            }
            _ => {}
        }
        at += BLOCK;
    }
    None
}

/// Adds to each gap what the footer knows of it.
fn explain(gaps: &mut [Gap], footer: &Footer) {
    for gap in gaps {
        let lost: Vec<_> = footer
            .batches
            .iter()
            .filter(|b| (gap.from..=gap.to).contains(&b.seq))
            .collect();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            let records: u64 = lost.iter().map(|b| u64::from(b.record_count)).sum();
            let next = last
                .first_lsn
                .0
                .saturating_add(u64::from(last.record_count));
            gap.why.push_str(&format!(
                "; by the footer {} batches with {records} records, LSN {} to {}",
                lost.len(),
                first.first_lsn,
                next.saturating_sub(1)
            ));
        }
    }
}

/// Counts the records of a batch and checks their payloads.
fn check_batch(
    window: &mut Window<'_>,
    h: &BatchHeader,
    offset: u64,
    entries: &[Entry],
    verify: bool,
    bad: &mut Vec<BadRecord>,
) -> Counts {
    let mut counts = Counts::default();
    for (i, entry) in entries.iter().enumerate() {
        let read = match entry.kind {
            Kind::Segment(_) => {
                counts.segments += 1;
                verify
            }
            Kind::Metadata(_) => {
                counts.metadata += 1;
                true
            }
            Kind::Volume => {
                counts.volume += 1;
                true
            }
        };
        if !read {
            continue;
        }
        let lsn = Lsn(h.first_lsn.0.saturating_add(i as u64));
        let at = offset + u64::from(entry.offset);
        let wrong = match payload(window, offset, entry) {
            Payload::Whole(bytes) => undecodable(&entry.kind, bytes).map(|(newer, text)| {
                // Nothing is lost that a recovery would name.
                (None, newer, text)
            }),
            Payload::Damaged(text) => Some((loss_of_record(h, &entry.kind, lsn), false, text)),
        };
        if let Some((loss, newer, text)) = wrong {
            bad.push(BadRecord {
                seq: h.seq,
                offset: at,
                loss,
                newer,
                text: format!("{} (LSN {lsn}): {text}", name(&entry.kind)),
            });
        }
    }
    counts
}

/// As recovery names it. It does not name segments, whose readers check them, nor facts outside
/// the commit head, where there are none.
fn loss_of_record(h: &BatchHeader, kind: &Kind, lsn: Lsn) -> Option<Loss> {
    let named = match kind {
        Kind::Segment(_) => false,
        Kind::Metadata(_) => true,
        Kind::Volume => h.head == Head::Commit,
    };
    named.then_some(Loss::Record {
        file: h.file_number,
        generation: h.generation,
        lsn,
    })
}

fn name(kind: &Kind) -> String {
    match kind {
        Kind::Segment(s) => format!(
            "segment {} of object {}, chunk {}, role {}",
            s.identity.segment, s.identity.object, s.identity.chunk, s.identity.role
        ),
        Kind::Metadata(m) => format!(
            "command {} of placement group {}",
            m.origin.index, m.origin.pg
        ),
        Kind::Volume => "fact of the volume".to_owned(),
    }
}

/// A payload as read.
pub enum Payload<'a> {
    /// Its checksum is right.
    Whole(&'a [u8]),
    Damaged(String),
}

/// Reads the payload of `entry`, of the batch at `offset`.
pub fn payload<'a>(window: &'a mut Window<'_>, offset: u64, entry: &Entry) -> Payload<'a> {
    let at = offset + u64::from(entry.offset);
    match window.get(at, entry.stored_len as usize) {
        Err(why) => Payload::Damaged(why),
        Ok(bytes) => match entry.verify(bytes) {
            Ok(()) => Payload::Whole(bytes),
            Err(damage) => Payload::Damaged(damage.to_string()),
        },
    }
}

/// Why a payload whose checksum is right says nothing to us, and whether a newer release wrote it.
fn undecodable(kind: &Kind, bytes: &[u8]) -> Option<(bool, String)> {
    let error = match kind {
        Kind::Segment(_) => None,
        Kind::Metadata(_) => MetadataRecord::decode(bytes).err(),
        Kind::Volume => VolumeRecord::decode(bytes).err(),
    }?;
    let newer = !matches!(error, RecordError::Damaged(_));
    Some((newer, error.to_string()))
}

/// The entries of the batch at `offset`, if it still is the one that was found there.
pub fn entries(window: &mut Window<'_>, id: &FileHeader, span: &Span) -> Option<Vec<Entry>> {
    match look(window, id, span.offset) {
        Look::Batch(h, entries) if h == span.header => Some(entries),
        _ => None,
    }
}

/// Whether all payloads of a batch are whole, those of segments included.
pub fn whole(window: &mut Window<'_>, id: &FileHeader, span: &Span) -> bool {
    entries(window, id, span).is_some_and(|entries| {
        entries
            .iter()
            .all(|entry| matches!(payload(window, span.offset, entry), Payload::Whole(_)))
    })
}

/// Where the log of a head ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The first batch that does not count.
    pub end: BatchSeq,
    /// The highest batch known to have been flushed.
    pub floor: BatchSeq,
    /// Above every LSN seen.
    pub next_lsn: Lsn,
    /// The last file is closed by its footer.
    pub sealed: bool,
}

/// Judges the files of one head, ascending by generation. `whole` reads the payloads of a batch of
/// the given file.
pub fn judge(
    files: &[(&FileHeader, &Walked)],
    mut whole: impl FnMut(usize, &Span) -> bool,
) -> Verdict {
    let Some((last, last_walked)) = files.last() else {
        return Verdict {
            end: BatchSeq(1),
            sealed: true,
            ..Verdict::default()
        };
    };
    let sealed = last_walked.footer_end.is_some();
    let spans = || {
        let all = files.iter().enumerate();
        all.flat_map(|(i, (_, walked))| walked.spans.iter().map(move |span| (i, span)))
    };
    let mut floor = before(last.first_seq);
    let mut next_lsn = Lsn(0);
    for (header, _) in files {
        next_lsn = next_lsn.max(header.created_lsn);
    }
    for (_, span) in spans() {
        floor = floor.max(span.header.flushed_seq);
        next_lsn = next_lsn.max(span.header.next_lsn());
    }
    if sealed {
        floor = floor.max(before(last_walked.next));
    }
    let mut end = last_walked.next;
    for gap in files.iter().flat_map(|(_, walked)| &walked.gaps) {
        if gap.to > floor {
            end = end.min(gap.from.max(after(floor)));
        }
    }
    let torn = spans()
        .filter(|(_, span)| span.header.seq > floor && span.header.seq < end)
        .find(|(i, span)| !whole(*i, span));
    if let Some((_, span)) = torn {
        end = span.header.seq;
    }
    Verdict {
        end,
        floor,
        next_lsn,
        sealed,
    }
}

/// What a file whose header is lost seems to hold, for whoever must decide about it: per head and
/// generation, batches and records.
pub fn guess(window: &mut Window<'_>) -> Vec<(Head, u64, u64, u64)> {
    let mut found: std::collections::BTreeMap<(Head, u64), (u64, u64)> = Default::default();
    let mut at = FILE_HEADER_SIZE as u64;
    let stop = window.length.min(window.source.length());
    while at < stop {
        let header = window
            .get(at, BATCH_HEADER_SIZE)
            .ok()
            .and_then(|bytes| decode_batch_header(bytes.first_chunk()?).ok());
        at += match header {
            Some(h) => {
                let sum = found.entry((h.head, h.generation.0)).or_default();
                sum.0 += 1;
                sum.1 += u64::from(h.record_count);
                u64::from(h.batch_len)
            }
            None => BLOCK,
        };
    }
    found
        .into_iter()
        .map(|((head, generation), (batches, records))| (head, generation, batches, records))
        .collect()
}
