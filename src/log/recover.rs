//! Reading a head's files back after a crash: where the log ends, what is damaged, what is to be replayed.
//!
//! Each batch names the one before it (sequence, checksum) and the highest batch that was flushed when it was
//! submitted. Let F be the highest such `flushed_seq` over all batches that can be read. Then
//!
//! | batch | readable | seq ≤ F | verdict |
//! |---|---|---|---|
//! | in a sealed file | no | – | damage: a file is sealed only after it was flushed |
//! | in the last file | no | yes | damage: it was flushed, so it was acknowledged or could have been |
//! | in the last file | no | no | the log ends here; readable successors are dropped with it |
//! | in the last file | yes | no | kept if its payloads are whole too, else the log ends here |
//!
//! A file is sealed by its footer, which is flushed before the next file of its head takes a batch; recovery seals the
//! file it found open. So every file but a head's last says itself where it ends, whatever was freed after it, and
//! batches dropped by an earlier recovery stay dropped. Stale batches of a recycled file carry an older generation and
//! are never looked at.

use shard_format::{
    BATCH_HEADER_SIZE, BLOCK_SIZE, BatchHeader, BatchSeq, Entry, FILE_HEADER_SIZE, FileHeader,
    FileNumber, FooterEntry, Generation, Head, Kind, Lsn, VolumeId, decode_batch_header,
    decode_directory, decode_footer, decode_footer_header, footer::FOOTER_HEADER_SIZE,
};

use super::{Extent, Files, HeadPosition, LogError, Pinned};
use crate::rt::Buf;

/// A stretch of a head's log that was durable and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub head: Head,
    pub file: FileNumber,
    pub generation: Generation,
    pub offset: u32,
    /// First and last batch affected.
    pub from: BatchSeq,
    pub to: BatchSeq,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?}/{:08x}/{}/{}-{}",
            self.head, self.file.0, self.generation.0, self.from.0, self.to.0
        )
    }
}

/// Where a head's log ends.
#[derive(Clone, Debug, Default)]
pub struct HeadEnd {
    pub seq: BatchSeq,
    pub crc: u32,
    /// No LSN at or above this was ever used in these files.
    pub next_lsn: Lsn,
    pub damage: Vec<Damage>,
    /// Bytes after the end look like a batch of this generation that cannot be read: an unflushed write, or an
    /// acknowledged batch that rotted before a later one recorded it. Nobody can tell.
    pub ambiguous_tail: bool,
    /// Every command up to here has its outcome recorded.
    pub outcomes_to: BatchSeq,
    /// The end as a position to replay from.
    pub position: HeadPosition,
    /// The last file, if it was left open: recovery seals it.
    pub unsealed: Option<Unsealed>,
}

/// A file to be sealed: its footer goes to `offset`.
#[derive(Clone, Debug)]
pub struct Unsealed {
    pub file: FileNumber,
    pub generation: Generation,
    pub offset: u32,
    pub batches: Vec<FooterEntry>,
}

/// A batch to replay.
pub struct ReplayBatch<'a> {
    pub file: FileNumber,
    pub generation: Generation,
    pub header: &'a BatchHeader,
    pub records: Vec<ReplayRecord<'a>>,
}

pub struct ReplayRecord<'a> {
    pub lsn: Lsn,
    pub extent: Extent,
    pub entry: &'a Entry,
    /// Packed payload; empty for segments, whose bytes stay where they are.
    pub payload: &'a [u8],
    /// The packed payload matches its checksum. A segment counts as whole here; readers verify it.
    pub whole: bool,
}

fn is_aligned(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Segment(_))
}

fn matches(entry: &Entry, stored: &[u8]) -> bool {
    entry.verify(stored).is_ok()
}

struct Span {
    file: FileNumber,
    generation: Generation,
    offset: u32,
    header: BatchHeader,
}

struct Gap {
    file: FileNumber,
    generation: Generation,
    offset: u32,
    from: BatchSeq,
    to: BatchSeq,
}

/// Reads a file through a window, so that small batches cost one read per window.
struct Window<'a> {
    pin: &'a Pinned,
    buf: Option<Buf>,
    start: u32,
    size: usize,
    file_length: u32,
    volume: VolumeId,
}

impl Window<'_> {
    async fn get(&mut self, offset: u32, length: usize) -> Result<&[u8], LogError> {
        let hit = self.buf.as_ref().is_some_and(|b| {
            offset >= self.start && offset as usize + length <= self.start as usize + b.len()
        });
        if !hit {
            let start = offset / BLOCK_SIZE as u32 * BLOCK_SIZE as u32;
            let need = (offset - start) as usize + length;
            let want = need.max(self.size).min((self.file_length - start) as usize);
            if want < need {
                return Err(LogError::Unreadable {
                    what: "past the end of the segment file".into(),
                });
            }
            let (buf, at) = match self.pin.read(start, want as u32).await {
                // A sector that cannot be read costs only those who need it.
                Err(LogError::Unreadable { .. }) if want > need => {
                    self.pin.read(start, need as u32).await?
                }
                other => other?,
            };
            debug_assert_eq!(at, 0);
            self.buf = Some(buf);
            self.start = start;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buf.as_ref().expect("filled")[at..at + length])
    }
}

/// A whole directory at `offset`, if one of this file's generation stands there. Raises `floor` to what any header
/// there says was flushed, also one whose directory is torn.
async fn directory_at(
    floor: &mut BatchSeq,
    window: &mut Window<'_>,
    file: FileNumber,
    generation: Generation,
    head: Head,
    offset: u32,
) -> Result<Option<(BatchHeader, Vec<Entry>)>, LogError> {
    if offset as usize + BLOCK_SIZE > window.file_length as usize {
        return Ok(None);
    }
    let bytes = window.get(offset, BATCH_HEADER_SIZE).await?;
    let Ok(header) = decode_batch_header(bytes.try_into().expect("a header")) else {
        return Ok(None);
    };
    let stale = header.generation != generation && !crate::planted!("trust-stale-record");
    let end = u64::from(offset) + u64::from(header.batch_len);
    let ours = header.volume == window.volume && header.file_number == file && header.head == head;
    if stale || !ours || end > u64::from(window.file_length) {
        return Ok(None);
    }
    *floor = header.flushed_seq.max(*floor);
    let bytes = window.get(offset, header.directory_len as usize).await?;
    Ok(decode_directory(bytes).ok())
}

/// The last batch of a sealed file, if its footer stands at `offset`.
async fn footer_at(
    window: &mut Window<'_>,
    header: &FileHeader,
    offset: u32,
) -> Result<Option<BatchSeq>, LogError> {
    if offset as usize + BLOCK_SIZE > window.file_length as usize {
        return Ok(None);
    }
    let bytes = window.get(offset, FOOTER_HEADER_SIZE).await?;
    let Ok(front) = decode_footer_header(bytes.try_into().expect("a footer header")) else {
        return Ok(None);
    };
    let ours = front.volume == header.volume
        && front.file_number == header.file_number
        && front.generation == header.generation;
    if !ours || u64::from(offset) + u64::from(front.footer_len) > u64::from(window.file_length) {
        return Ok(None);
    }
    let bytes = window.get(offset, front.footer_len as usize).await?;
    let before_first = BatchSeq(header.first_seq.0.saturating_sub(1));
    Ok(decode_footer(u64::from(offset), bytes)
        .ok()
        .map(|f| f.batches.last().map_or(before_first, |b| b.seq)))
}

/// What walking a file came to.
struct Walked {
    /// The batch after the last one of this file, as far as is known.
    next: BatchSeq,
    crc: Option<u32>,
    /// Where the walk ended: behind the last batch that was found.
    offset: u32,
    /// The highest `flushed_seq` that any header said.
    floor: BatchSeq,
    sealed: bool,
}

/// Walks one file from `offset`, expecting batch `expected`, up to (not including) `end` if that is known.
#[allow(clippy::too_many_arguments)]
async fn walk(
    files: &Files,
    header: &FileHeader,
    mut offset: u32,
    mut expected: BatchSeq,
    mut previous_crc: Option<u32>,
    end: Option<BatchSeq>,
    spans: &mut Vec<Span>,
    gaps: &mut Vec<Gap>,
) -> Result<Walked, LogError> {
    let (file, generation, head) = (header.file_number, header.generation, header.head);
    let pin = files.pin_number(file).expect("a known file");
    let file_length = files.file_length() as u32;
    let size = if head == Head::Bulk {
        8 * BLOCK_SIZE
    } else {
        128 * BLOCK_SIZE
    };
    let mut window = Window {
        pin: &pin,
        buf: None,
        start: 0,
        size,
        file_length,
        volume: header.volume,
    };
    let mut sealed = false;
    let mut floor = BatchSeq(0);
    loop {
        let found =
            readable(directory_at(&mut floor, &mut window, file, generation, head, offset).await)?;
        if let Some((h, _)) = &found
            && (h.seq == expected
                && previous_crc.is_none_or(|c| c == h.previous_crc)
                && end.is_none_or(|e| expected < e)
                || crate::planted!("trust-stale-record"))
        {
            previous_crc = Some(h.header_crc);
            expected = BatchSeq(h.seq.0 + 1);
            spans.push(Span {
                file,
                generation,
                offset,
                header: *h,
            });
            offset += h.batch_len;
            continue;
        }
        if let Some(last) = readable(footer_at(&mut window, header, offset).await)? {
            if last >= expected {
                // Cannot be: the footer stands right behind the last batch. Something before it is missing.
                gaps.push(Gap {
                    file,
                    generation,
                    offset,
                    from: expected,
                    to: last,
                });
                previous_crc = None;
                expected = BatchSeq(last.0 + 1);
            }
            sealed = true;
            break;
        }
        // Not what must follow. Is there anything later of this generation?
        let gap_at = offset;
        let mut probe = offset;
        window.size = 128 * BLOCK_SIZE;
        let next = loop {
            if u64::from(probe) + BLOCK_SIZE as u64 > u64::from(file_length) {
                break None;
            }
            if let Some((h, _)) = readable(
                directory_at(&mut floor, &mut window, file, generation, head, probe).await,
            )? && h.seq >= expected
                && end.is_none_or(|e| h.seq < e)
            {
                break Some((probe, h.seq));
            }
            if let Some(last) = readable(footer_at(&mut window, header, probe).await)? {
                break Some((probe, BatchSeq(last.0 + 1)));
            }
            probe += BLOCK_SIZE as u32;
        };
        window.size = size;
        match next {
            Some((at, seq)) => {
                // Also when the sequence is right but the chain is not: then what stood here before is missing.
                let to = BatchSeq(seq.0.saturating_sub(1).max(expected.0));
                gaps.push(Gap {
                    file,
                    generation,
                    offset: gap_at,
                    from: expected,
                    to,
                });
                expected = seq;
                previous_crc = None;
                offset = at;
            }
            None => {
                if let Some(e) = end
                    && expected < e
                {
                    gaps.push(Gap {
                        file,
                        generation,
                        offset: gap_at,
                        from: expected,
                        to: BatchSeq(e.0 - 1),
                    });
                    expected = e;
                    previous_crc = None;
                }
                break;
            }
        }
    }
    Ok(Walked {
        next: expected,
        crc: previous_crc,
        offset,
        floor,
        sealed,
    })
}

/// Bytes the drive cannot read count as damaged ones.
fn readable<T>(found: Result<Option<T>, LogError>) -> Result<Option<T>, LogError> {
    match found {
        Err(LogError::Unreadable { .. }) => Ok(None),
        other => other,
    }
}

/// Replays the files of one head (ascending by generation) from `from` (exclusive). `visit` sees every batch in order.
///
/// # Errors
/// [`LogError::Poisoned`] if a flush fails. Damage is no error: it is in the result.
pub async fn replay(
    files: &Files,
    list: &[FileHeader],
    from: HeadPosition,
    mut visit: impl FnMut(ReplayBatch<'_>) -> Result<(), LogError>,
) -> Result<HeadEnd, LogError> {
    let mut spans = Vec::new();
    let mut gaps = Vec::new();
    let mut expected = BatchSeq(from.seq.0 + 1);
    let mut crc = (from.seq.0 > 0).then_some(from.crc);
    let list: Vec<&FileHeader> = list
        .iter()
        .filter(|h| h.generation >= from.generation)
        .collect();
    let mut next_lsn = Lsn(0);
    let mut sealed = true;
    let mut end_offset = from.offset;
    let mut said = BatchSeq(0);
    for (i, header) in list.iter().enumerate() {
        // What is read below was perhaps never flushed by the process that wrote it. It is about to be relied on.
        let pin = files.pin_number(header.file_number).expect("listed");
        pin.handle()
            .file
            .sync_data()
            .await
            .map_err(|e| super::files::poison("flush before recovery", &e))?;
        next_lsn = next_lsn.max(header.created_lsn);
        let end = list.get(i + 1).map(|n| n.first_seq);
        let offset = if header.generation == from.generation && from.seq.0 > 0 {
            from.offset
        } else {
            if header.first_seq != expected {
                // Files between the position and this one were freed since: what they held is dead or relocated.
                expected = header.first_seq.max(expected);
                crc = None;
            }
            FILE_HEADER_SIZE as u32
        };
        if header.first_seq < expected && header.generation != from.generation {
            // A head goes on at the end that an earlier recovery found, so this cannot be; take the file's word.
            expected = header.first_seq;
            crc = None;
        }
        let walked = walk(
            files, header, offset, expected, crc, end, &mut spans, &mut gaps,
        )
        .await?;
        (expected, crc) = (walked.next, walked.crc);
        sealed = walked.sealed;
        end_offset = walked.offset;
        said = said.max(walked.floor);
    }

    let last = list
        .last()
        .map(|h| (h.file_number, h.generation, h.first_seq));
    let mut floor = BatchSeq(
        last.map_or(from.seq.0, |(_, _, first)| first.0.saturating_sub(1))
            .max(from.seq.0),
    );
    floor = floor.max(said);
    if sealed {
        floor = floor.max(BatchSeq(expected.0 - 1));
    }
    if crate::planted!("truncate-at-damage") {
        floor = from.seq;
    }
    // The first batch beyond the floor that is missing or not whole ends the log.
    let mut end = BatchSeq(expected.0);
    if floor >= end {
        // Flushed, said a torn batch behind it, and gone.
        let (file, generation, _) = last.expect("a batch said so");
        gaps.push(Gap {
            file,
            generation,
            offset: end_offset,
            from: end,
            to: floor,
        });
        end = BatchSeq(floor.0 + 1);
    }
    for gap in &gaps {
        if gap.to > floor {
            end = end.min(gap.from.max(BatchSeq(floor.0 + 1)));
        }
    }
    for span in spans
        .iter()
        .filter(|s| s.header.seq > floor && s.header.seq < end)
    {
        if !payloads_whole(files, span).await? {
            end = end.min(span.header.seq);
            break;
        }
    }

    // What is kept beyond the floor was perhaps never flushed, or its flush failed and only the drive's cache still has
    // it: a flush that succeeds now would prove nothing. So it is written again before it is relied on.
    let rewritten: Vec<&Span> = spans
        .iter()
        .filter(|s| s.header.seq > floor && s.header.seq < end)
        .collect();
    for span in &rewritten {
        let pin = files.pin_number(span.file).expect("listed");
        let (buf, _) = pin.read(span.offset, span.header.batch_len).await?;
        let (result, _) = pin
            .handle()
            .file
            .write_all_at(buf, u64::from(span.offset))
            .await;
        result.map_err(|e| super::files::poison("write the log's tail again", &e))?;
    }
    if let Some(span) = rewritten.last() {
        let pin = files.pin_number(span.file).expect("listed");
        pin.handle()
            .file
            .sync_data()
            .await
            .map_err(|e| super::files::poison("flush the log's tail", &e))?;
    }

    let mut result = HeadEnd {
        seq: BatchSeq(end.0 - 1),
        crc: from.crc,
        next_lsn,
        ..HeadEnd::default()
    };
    result.ambiguous_tail = !sealed
        && (spans.iter().any(|s| s.header.seq >= end)
            || gaps.iter().any(|g| g.to >= end)
            || match (spans.last(), last) {
                (Some(s), Some((file, generation, _))) if s.file == file => {
                    looks_like_batch(files, file, generation, s.offset + s.header.batch_len).await
                }
                (_, Some((file, generation, _))) => {
                    let at = if from.generation == generation {
                        from.offset
                    } else {
                        FILE_HEADER_SIZE as u32
                    };
                    looks_like_batch(files, file, generation, at).await
                }
                _ => false,
            });
    result.position = HeadPosition {
        seq: result.seq,
        ..from
    };
    if let Some(header) = list.last() {
        let mut offset = end_offset;
        // A footer right before a gap would hide it from the next look.
        let ends_in_gap = gaps
            .iter()
            .any(|g| g.generation == header.generation && g.to.0 + 1 == end.0);
        if !sealed && !ends_in_gap {
            let open = unsealed(files, header, end).await?;
            offset = open.offset;
            result.unsealed = Some(open);
        }
        result.position = HeadPosition {
            file: header.file_number,
            generation: header.generation,
            offset,
            seq: result.seq,
            crc: 0,
        };
    }
    for gap in gaps.iter().filter(|g| g.from < end) {
        result.damage.push(Damage {
            head: list[0].head,
            file: gap.file,
            generation: gap.generation,
            offset: gap.offset,
            from: gap.from,
            to: gap.to.min(BatchSeq(end.0 - 1)),
        });
    }
    for span in spans.iter() {
        let h = &span.header;
        result.next_lsn = result
            .next_lsn
            .max(Lsn(h.first_lsn.0 + u64::from(h.record_count)));
        if h.seq >= end {
            continue;
        }
        result.crc = h.header_crc;
        result.outcomes_to = result.outcomes_to.max(h.outcomes_to);
        match read_front(files, span).await {
            Ok((front, entries)) => {
                let records = records(span, &front, &entries);
                visit(ReplayBatch {
                    file: span.file,
                    generation: span.generation,
                    header: h,
                    records,
                })?;
            }
            Err(LogError::Unreadable { .. }) => result.damage.push(Damage {
                head: h.head,
                file: span.file,
                generation: span.generation,
                offset: span.offset,
                from: h.seq,
                to: h.seq,
            }),
            Err(e) => return Err(e),
        }
    }
    result.position.crc = result.crc;
    Ok(result)
}

fn records<'a>(span: &Span, front: &'a [u8], entries: &'a [Entry]) -> Vec<ReplayRecord<'a>> {
    entries
        .iter()
        .enumerate()
        .map(|(i, entry)| {
            let extent = Extent {
                file: span.file,
                generation: span.generation,
                offset: span.offset + entry.offset,
                length: entry.stored_len,
            };
            let payload = if is_aligned(entry) {
                &[][..]
            } else {
                &front[entry.offset as usize..(entry.offset + entry.stored_len) as usize]
            };
            let whole = is_aligned(entry) || matches(entry, payload);
            ReplayRecord {
                lsn: Lsn(span.header.first_lsn.0 + i as u64),
                extent,
                entry,
                payload,
                whole,
            }
        })
        .collect()
}

/// Directory and packed payloads of a batch.
async fn read_front(files: &Files, span: &Span) -> Result<(Vec<u8>, Vec<Entry>), LogError> {
    let unreadable = || LogError::Unreadable {
        what: format!("batch {} of {}", span.header.seq.0, span.file.0),
    };
    let pin = files.pin_number(span.file).ok_or_else(unreadable)?;
    let (buf, at) = pin.read(span.offset, span.header.directory_len).await?;
    let (_, entries) = decode_directory(&buf[at..at + span.header.directory_len as usize])
        .map_err(|_| unreadable())?;
    let packed_end = entries
        .iter()
        .filter(|e| !is_aligned(e))
        .map(|e| e.offset + e.stored_len)
        .max()
        .unwrap_or(0)
        .max(span.header.directory_len);
    if packed_end as usize <= buf.len() - at {
        return Ok((buf[at..at + packed_end as usize].to_vec(), entries));
    }
    let (buf, at) = pin.read(span.offset, packed_end).await?;
    Ok((buf[at..at + packed_end as usize].to_vec(), entries))
}

/// Whether every payload of a batch matches its checksum.
async fn payloads_whole(files: &Files, span: &Span) -> Result<bool, LogError> {
    let Some(pin) = files.pin_number(span.file) else {
        return Ok(false);
    };
    let (front, entries) = match read_front(files, span).await {
        Ok(x) => x,
        Err(LogError::Unreadable { .. }) => return Ok(false),
        Err(e) => return Err(e),
    };
    for entry in &entries {
        let whole = if is_aligned(entry) {
            match pin.read(span.offset + entry.offset, entry.stored_len).await {
                Ok((buf, at)) => matches(entry, &buf[at..at + entry.stored_len as usize]),
                Err(LogError::Unreadable { .. }) => false,
                Err(e) => return Err(e),
            }
        } else {
            matches(
                entry,
                &front[entry.offset as usize..(entry.offset + entry.stored_len) as usize],
            )
        };
        if !whole {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the block at `offset` holds something that is neither zeros nor a batch of another generation.
async fn looks_like_batch(
    files: &Files,
    file: FileNumber,
    generation: Generation,
    offset: u32,
) -> bool {
    if u64::from(offset) + BLOCK_SIZE as u64 > files.file_length() {
        return false;
    }
    let Some(pin) = files.pin_number(file) else {
        return true;
    };
    match pin.read(offset, BATCH_HEADER_SIZE as u32).await {
        Err(_) => true,
        Ok((buf, at)) => {
            let bytes = &buf[at..at + BATCH_HEADER_SIZE];
            match decode_batch_header(bytes.try_into().expect("a header")) {
                Ok(h) => h.generation == generation,
                Err(_) => bytes.iter().any(|b| *b != 0),
            }
        }
    }
}

/// What the footer of a file left open must say: its batches before `end`.
async fn unsealed(files: &Files, header: &FileHeader, end: BatchSeq) -> Result<Unsealed, LogError> {
    let (mut spans, mut gaps) = (Vec::new(), Vec::new());
    let start = FILE_HEADER_SIZE as u32;
    walk(
        files,
        header,
        start,
        header.first_seq,
        None,
        Some(end.max(header.first_seq)),
        &mut spans,
        &mut gaps,
    )
    .await?;
    spans.retain(|s| s.header.seq < end);
    let offset = spans
        .last()
        .map_or(start, |s| s.offset + s.header.batch_len);
    let batches = spans
        .iter()
        .map(|s| FooterEntry {
            offset_blocks: s.offset / BLOCK_SIZE as u32,
            record_count: s.header.record_count,
            seq: s.header.seq,
            first_lsn: s.header.first_lsn,
        })
        .collect();
    Ok(Unsealed {
        file: header.file_number,
        generation: header.generation,
        offset,
        batches,
    })
}

/// Reads the batches of a sealed file for reclaim and inspection. Stops at the first batch that cannot be read and
/// says so in the second value.
pub async fn walk_sealed(
    files: &Files,
    header: &FileHeader,
    mut visit: impl FnMut(ReplayBatch<'_>),
) -> Result<Vec<Damage>, LogError> {
    let (mut spans, mut gaps) = (Vec::new(), Vec::new());
    walk(
        files,
        header,
        FILE_HEADER_SIZE as u32,
        header.first_seq,
        None,
        None,
        &mut spans,
        &mut gaps,
    )
    .await?;
    let damage = |offset, from, to| Damage {
        head: header.head,
        file: header.file_number,
        generation: header.generation,
        offset,
        from,
        to,
    };
    let mut damaged: Vec<Damage> = gaps
        .iter()
        .map(|g| damage(g.offset, g.from, g.to))
        .collect();
    for span in &spans {
        match read_front(files, span).await {
            Ok((front, entries)) => {
                let records = records(span, &front, &entries);
                visit(ReplayBatch {
                    file: span.file,
                    generation: span.generation,
                    header: &span.header,
                    records,
                });
            }
            Err(LogError::Unreadable { .. }) => {
                damaged.push(damage(span.offset, span.header.seq, span.header.seq))
            }
            Err(e) => return Err(e),
        }
    }
    Ok(damaged)
}
