//! Opening a volume: the index's last checkpoint, then the log from there.
//!
//! The same code rebuilds an index that was deleted: the position is then the beginning. What is replayed does not
//! depend on order, because registers are merged by origin (HLC), with one exception: conditions of the last commands,
//! whose outcome no later batch recorded, are evaluated after everything else, in their order.
//!
//! | step | reads | gives |
//! |---|---|---|
//! | 1 | every file header | files per head, by generation; unreadable ones make the volume suspect |
//! | 2 | bulk directories after the position | runs of the shards table |
//! | 3 | relocate batches after the position | relocated runs and versions |
//! | 4 | commit batches after the position | refusals first, then commands, then the unrecorded tail |
//!
//! Shards freed by a record of step 4 come after the runs of steps 2 and 3, so freed runs do not stay.

use std::{cell::RefCell, collections::HashSet, path::Path, rc::Rc};

use shard_format::{
    FileHeader, FileState as HeaderState, Generation, Head, Hlc, Incarnation, Kind, Lsn, PgId,
    VolumeRecord,
};

use super::records::Records;
use super::{
    Applied, Inner, Machine, Ruling, Store, Volume, VolumeConfig, VolumeError, VolumeSink,
    checkpoint,
    checkpoint::{KnownDamage, Position},
    refused, shards,
};
use crate::{
    index::{Index, IndexError, ScanEnd, Step, Table},
    log::{
        FileState, Files, FilesConfig, HEADS, HeadPosition, Log, LogConfig, Segment, head_index,
        recover::{HeadEnd, ReplayBatch, ReplayRecord, replay},
        write_footer,
    },
    rt,
};

/// What opening a volume found, for the log and for `inspect`.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The index was absent or damaged and came back from the segment files.
    pub rebuilt: bool,
    pub batches_replayed: u64,
    pub commands_replayed: u64,
    /// Durable parts of the log that cannot be read.
    pub damage: Vec<String>,
    /// Of those, what an operator has accepted as lost.
    pub accepted: Vec<String>,
    /// Heads whose last batch may have been acknowledged or not; nobody can tell.
    pub ambiguous_tails: Vec<Head>,
}

/// A line per loss; a volume has at most a few before it is replaced.
pub const ACCEPTED_LOSSES_BYTES_MAX: usize = 1 << 20;

/// Losses an operator has accepted by name, a line each as `ostrakon` prints them.
pub async fn read_accepted_losses(path: &Path) -> Vec<String> {
    match rt::fs::read_file(path, ACCEPTED_LOSSES_BYTES_MAX).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes)
            .lines()
            .map(|l| l.trim().to_owned())
            .collect(),
        Err(_) => Vec::new(),
    }
}

fn unreadable(what: impl ToString) -> VolumeError {
    VolumeError::Unreadable {
        what: what.to_string(),
    }
}

/// Adds damage once: a later start finds it again where an earlier one did.
fn note(damage: &mut Vec<KnownDamage>, name: String, group: Option<PgId>, suspect: bool) {
    if !damage.iter().any(|d| d.name == name) {
        damage.push(KnownDamage {
            name,
            group,
            suspect,
        });
    }
}

fn name_of(r: &ReplayRecord<'_>) -> String {
    format!(
        "Record/{:08x}/{}/{}",
        r.extent.file.0, r.extent.generation.0, r.lsn.0
    )
}

/// A commit command kept back: the tail whose outcome nobody recorded.
struct Tail {
    entry: shard_format::MetadataEntry,
    payload: Vec<u8>,
    extent: crate::log::Extent,
    lsn: Lsn,
}

impl Volume {
    /// Opens the volume, creating its directories on first use, and starts its tasks.
    ///
    /// # Errors
    /// Only what keeps it from opening at all. Damage that leaves it able to serve something opens it suspect.
    pub async fn open(
        config: VolumeConfig,
        machine: Rc<dyn Machine>,
    ) -> Result<(Volume, Recovery), VolumeError> {
        let mut recovery = Recovery::default();
        let (files, found) = Files::open(FilesConfig {
            directory: config.segments(),
            cluster: config.cluster,
            drive: config.drive,
            volume: config.volume,
            file_length: config.segment_file_length,
            headroom: config.index_headroom,
        })
        .await?;
        let mut index = match Index::open(config.index_kind, &config.index()).await {
            Ok(index) => index,
            Err(IndexError::Damaged { .. }) => {
                tracing::warn!(volume = %config.volume, "the index is damaged; rebuilding it from the segment files");
                Index::destroy(config.index_kind, &config.index()).await?;
                Index::open(config.index_kind, &config.index()).await?
            }
            Err(e) => return Err(e.into()),
        };
        let position = match Position::load(&index)? {
            Some(Some(position)) => Some(position),
            None => None,
            Some(None) => {
                tracing::info!(volume = %config.volume, "the index is of another layout; rebuilding it from the segment files");
                drop(index);
                Index::destroy(config.index_kind, &config.index()).await?;
                index = Index::open(config.index_kind, &config.index()).await?;
                None
            }
        };
        recovery.rebuilt =
            position.is_none() && found.iter().any(|f| matches!(f.header, Ok(Some(_))));
        let position = position.unwrap_or_default();
        machine.restore(&position.machine);
        load_usage(&index, &files)?;

        let mut damage: Vec<KnownDamage> = position.damage.clone();
        for f in &found {
            if let Err(e) = &f.header {
                note(
                    &mut damage,
                    format!("Header/{:08x}/0/0-0", f.number.0),
                    None,
                    true,
                );
                tracing::error!(file = %f.number, error = %e, "the header of a segment file is unreadable");
            }
        }
        let headers = |head: Head| {
            let mut list: Vec<FileHeader> = found
                .iter()
                .filter_map(|f| f.header.as_ref().ok().copied().flatten())
                .filter(|h| h.head == head && h.state == HeaderState::Open)
                .collect();
            list.sort_by_key(|h| h.generation);
            list
        };
        let store = Store {
            index: &index,
            files: &files,
        };
        let mut ends: [HeadEnd; 3] = Default::default();
        let batches = RefCell::new(0u64);

        for head in [Head::Bulk, Head::Relocate] {
            let result = replay(
                &files,
                &headers(head),
                position.heads[head_index(head)],
                |batch| {
                    *batches.borrow_mut() += 1;
                    replay_bulk(&store, &*machine, &batch, &mut damage);
                    Ok(())
                },
            )
            .await?;
            ends[head_index(head)] = result;
        }

        // Refusals are known only after the batches that record them, so commands wait until all are read. What waits
        // is bounded by what was written since the last checkpoint, or, in a rebuild, by the commit files.
        let mut refusals: HashSet<(PgId, Hlc)> = HashSet::new();
        // What the checkpoint knew and no batch had recorded yet is still to be recorded.
        let mut outcomes: Vec<VolumeRecord> = position.outcomes.clone();
        for o in &position.outcomes {
            if let VolumeRecord::Refused { pg, hlc, .. } = o {
                refusals.insert((*pg, *hlc));
            }
        }
        let commit_headers = headers(Head::Commit);
        let end = replay(&files, &commit_headers, position.heads[0], |batch| {
            for r in &batch.records {
                if matches!(r.entry.kind, Kind::Volume)
                    && r.whole
                    && let Ok(VolumeRecord::Refused { pg, hlc, .. }) =
                        VolumeRecord::decode(r.payload)
                {
                    refusals.insert((pg, hlc));
                }
            }
            Ok(())
        })
        .await?;
        let outcomes_to = end.outcomes_to;
        let mut tail: Vec<Tail> = Vec::new();
        let mut commands = 0u64;
        let end = replay(&files, &commit_headers, position.heads[0], |batch| {
            *batches.borrow_mut() += 1;
            for r in &batch.records {
                match &r.entry.kind {
                    Kind::Metadata(entry) if r.whole => {
                        commands += 1;
                        if batch.header.seq > outcomes_to {
                            tail.push(Tail {
                                entry: *entry,
                                payload: r.payload.to_vec(),
                                extent: r.extent,
                                lsn: r.lsn,
                            });
                            continue;
                        }
                        let ruling = if refusals.contains(&(entry.origin.pg, entry.origin.hlc)) {
                            Ruling::Refused
                        } else {
                            Ruling::Accepted
                        };
                        let applied = Applied {
                            entry,
                            payload: r.payload,
                            extent: r.extent,
                            lsn: r.lsn,
                            ruling,
                        };
                        let _ = machine.apply(&store, &applied);
                    }
                    Kind::Metadata(entry) => {
                        note(&mut damage, name_of(r), Some(entry.origin.pg), true)
                    }
                    Kind::Volume if r.whole => match VolumeRecord::decode(r.payload) {
                        Ok(VolumeRecord::ShardsFreed { object }) => shards::free(&store, object),
                        Ok(_) => {}
                        Err(e) => {
                            return Err(crate::log::LogError::Unreadable {
                                what: e.to_string(),
                            });
                        }
                    },
                    // A lost refusal or freeing: conditions may be ruled wrongly, so the volume cannot be trusted.
                    Kind::Volume => note(&mut damage, name_of(r), None, true),
                    Kind::Segment(_) => {}
                }
            }
            Ok(())
        })
        .await?;
        for t in tail {
            let applied = Applied {
                entry: &t.entry,
                payload: &t.payload,
                extent: t.extent,
                lsn: t.lsn,
                ruling: Ruling::Evaluate,
            };
            if machine.apply(&store, &applied).is_err() {
                outcomes.push(refused(&t.entry, t.extent.generation));
            }
        }
        ends[0] = end;

        for head in HEADS {
            for d in &ends[head_index(head)].damage {
                // Lost segments are missed when they are read; lost metadata by nobody.
                note(&mut damage, d.to_string(), None, head != Head::Bulk);
            }
        }
        for head in HEADS {
            if ends[head_index(head)].ambiguous_tail {
                recovery.ambiguous_tails.push(head);
            }
        }
        recovery.batches_replayed = *batches.borrow();
        recovery.commands_replayed = commands;

        let accepted = read_accepted_losses(&config.accepted_losses()).await;
        recovery.damage = damage.iter().map(|d| d.name.clone()).collect();
        damage.retain(|d| !accepted.contains(&d.name));
        recovery.accepted = recovery
            .damage
            .iter()
            .filter(|name| !damage.iter().any(|d| d.name == **name))
            .cloned()
            .collect();

        // Everything goes on above what was ever used, and in new files. The old ones are sealed first, so that they
        // tell where they end when their successors are long freed.
        for end in &ends {
            if let Some(unsealed) = &end.unsealed {
                write_footer(&files, unsealed).await?;
            }
        }
        let incarnation = found
            .iter()
            .filter_map(|f| f.header.as_ref().ok().copied().flatten())
            .map(|h| h.incarnation.0)
            .max()
            .unwrap_or(0)
            + 1;
        let next_lsn = ends
            .iter()
            .map(|e| e.next_lsn)
            .fold(position.next_lsn.max(Lsn(1)), Lsn::max);
        let heads: [HeadPosition; 3] = std::array::from_fn(|i| ends[i].position);
        let log = Log::new(
            files,
            LogConfig {
                incarnation: Incarnation(incarnation),
                next_lsn,
                heads,
            },
        );
        for head in HEADS {
            tracing::debug!(volume = %config.volume, ?head, seq = heads[head_index(head)].seq.0, "head recovered");
        }
        let inner = Rc::new(Inner {
            records: Records::new(config.record_cache_bytes),
            config,
            index,
            log: log.clone(),
            machine,
            outcomes: RefCell::new(outcomes),
            applied: std::cell::Cell::new(heads[0].seq),
            damage,
            index_failed: RefCell::default(),
            index_full: Default::default(),
            checkpoints_started: Default::default(),
            checkpoints_done: Default::default(),
            checkpoint_wanted: rt::sync::Notify::new(),
            checkpoint_done: rt::sync::Notify::new(),
            reclaim_wanted: rt::sync::Notify::new(),
            reclaim_done: rt::sync::Notify::new(),
            drive_full: Default::default(),
            dirty: std::cell::Cell::new(*batches.borrow() > 0),
            closing: Default::default(),
            stuck: RefCell::default(),
            counters: Default::default(),
        });
        let volume = Volume(inner.clone());
        log.start(Rc::new(VolumeSink(Rc::downgrade(&inner))))
            .await?;
        volume.start_tasks();
        // What was replayed is written behind the back of the first requests; a full drive must open without it.
        if checkpoint::due(&volume.0.index) {
            volume.want_checkpoint();
        }
        Ok((volume, recovery))
    }
}

/// Takes what the last checkpoint knew of files that are still of the same generation. Estimates.
fn load_usage(index: &Index, files: &Files) -> Result<(), VolumeError> {
    let mut from = Vec::new();
    loop {
        let end = index.scan(Table::Files, &from, 4096, |k, v| {
            if let (Some(number), Some(usage)) =
                (k.first_chunk::<4>(), checkpoint::decode_file_row(v))
            {
                let number = shard_format::FileNumber(u32::from_be_bytes(*number));
                files.set_usage(number, usage);
            }
            Step::Next
        })?;
        match end {
            ScanEnd::Budget(next) => from = next,
            _ => return Ok(()),
        }
    }
}

fn replay_bulk(
    store: &Store<'_>,
    machine: &dyn Machine,
    batch: &ReplayBatch<'_>,
    damage: &mut Vec<KnownDamage>,
) {
    let mut segments = Vec::new();
    for r in &batch.records {
        match &r.entry.kind {
            Kind::Segment(entry) => segments.push((
                Segment {
                    entry: *entry,
                    transform: r.entry.transform,
                    logical_len: r.entry.logical_len,
                    stored_len: r.entry.stored_len,
                    crc: r.entry.payload_crc,
                },
                r.extent,
                r.lsn,
            )),
            Kind::Metadata(entry) if r.whole => {
                let ruling = Ruling::Accepted;
                let applied = Applied {
                    entry,
                    payload: r.payload,
                    extent: r.extent,
                    lsn: r.lsn,
                    ruling,
                };
                let _ = machine.apply(store, &applied);
            }
            Kind::Metadata(entry) => note(damage, name_of(r), Some(entry.origin.pg), true),
            Kind::Volume => {}
        }
    }
    for run in shards::runs(&segments) {
        shards::insert(store, &run);
    }
}

/// Files of a volume that reclaim and inspection may read: sealed, with their headers.
pub(super) async fn read_header(
    files: &Files,
    number: shard_format::FileNumber,
) -> Result<FileHeader, VolumeError> {
    let pin = files
        .pin_number(number)
        .ok_or_else(|| unreadable(format!("no segment file {number}")))?;
    let (buf, _) = pin.read(0, shard_format::FILE_HEADER_SIZE as u32).await?;
    let header = shard_format::decode_file_header(buf[..].try_into().expect("a header block"))
        .map_err(|e| unreadable(format!("header of segment file {number}: {e}")))?;
    debug_assert!(
        files
            .generation(number)
            .is_none_or(|g: Generation| g == header.value.generation)
    );
    debug_assert!(files.state(number) != Some(FileState::Free));
    Ok(header.value)
}
