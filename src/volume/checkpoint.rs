//! Checkpoints: the memory table goes into the index's store together with the position in the log it reflects.
//!
//! Frozen and position are taken in one turn of the reactor, so the position covers only batches that were applied
//! whole. The write runs on a helper thread; the core goes on with a fresh active table.

use shard_format::{BatchSeq, FileNumber, Generation, Lsn, PgId, VolumeRecord};

use super::{Volume, VolumeError};
use crate::{
    index::{Index, IndexError, Table},
    limits::{CHECKPOINT_BYTES, CHECKPOINT_ENTRIES, CHECKPOINT_IDLE},
    log::{HEADS, HeadPosition, Usage, head_index},
    rt,
};

/// Room kept for the index to grow into when the drive is full: two checkpoints of deletes.
const INDEX_RESERVE: u64 = 8 * 1024 * 1024;

/// Of positions and of the values of every table: an index of another layout is rebuilt. 2: the objects table says whose
/// an object is, and there are uploads. 3: parts have a scheme and an epoch.
const POSITION_VERSION: u8 = 3;
const POSITION_KEY: &[u8] = b"position";

pub(super) fn due(index: &Index) -> bool {
    index.active_bytes() >= CHECKPOINT_BYTES || index.active_entries() >= CHECKPOINT_ENTRIES
}

/// What a checkpoint says beside the tables: up to where of the log they hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Position {
    /// Indexed by [`head_index`].
    pub heads: [HeadPosition; 3],
    pub next_lsn: Lsn,
    /// Outcomes that no batch had recorded yet.
    pub outcomes: Vec<VolumeRecord>,
    /// Damage that nobody has accepted or repaired: a later start must not forget it with the log it stood in.
    pub damage: Vec<KnownDamage>,
    pub machine: Vec<u8>,
}

/// A durable part of the log that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownDamage {
    /// As it is printed and accepted.
    pub name: String,
    /// The group that lost a record; `None` if it may be any, or no group did.
    pub group: Option<PgId>,
    /// Whether metadata is missing.
    pub suspect: bool,
}

impl Position {
    pub fn encode(&self) -> Vec<u8> {
        let mut v = vec![POSITION_VERSION];
        for h in &self.heads {
            v.extend(h.file.0.to_le_bytes());
            v.extend(h.generation.0.to_le_bytes());
            v.extend(h.offset.to_le_bytes());
            v.extend(h.seq.0.to_le_bytes());
            v.extend(h.crc.to_le_bytes());
        }
        v.extend(self.next_lsn.0.to_le_bytes());
        v.extend((self.outcomes.len() as u32).to_le_bytes());
        for o in &self.outcomes {
            let mut bytes = Vec::new();
            o.encode(&mut bytes);
            v.extend((bytes.len() as u16).to_le_bytes());
            v.extend(bytes);
        }
        v.extend((self.damage.len() as u32).to_le_bytes());
        for d in &self.damage {
            v.extend((d.name.len() as u16).to_le_bytes());
            v.extend(d.name.as_bytes());
            v.push(u8::from(d.suspect));
            v.push(u8::from(d.group.is_some()));
            v.extend(d.group.map_or(0, |g| g.0).to_le_bytes());
        }
        v.extend(&self.machine);
        v
    }

    pub fn decode(bytes: &[u8]) -> Option<Position> {
        let mut at = bytes;
        let mut take = |n: usize| {
            let (head, rest) = at.split_at_checked(n)?;
            at = rest;
            Some(head)
        };
        if take(1)? != [POSITION_VERSION] {
            return None;
        }
        let mut heads = [HeadPosition::default(); 3];
        for h in &mut heads {
            h.file = FileNumber(u32::from_le_bytes(take(4)?.try_into().ok()?));
            h.generation = Generation(u64::from_le_bytes(take(8)?.try_into().ok()?));
            h.offset = u32::from_le_bytes(take(4)?.try_into().ok()?);
            h.seq = BatchSeq(u64::from_le_bytes(take(8)?.try_into().ok()?));
            h.crc = u32::from_le_bytes(take(4)?.try_into().ok()?);
        }
        let next_lsn = Lsn(u64::from_le_bytes(take(8)?.try_into().ok()?));
        let count = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let mut outcomes = Vec::new();
        for _ in 0..count {
            let length = u16::from_le_bytes(take(2)?.try_into().ok()?);
            outcomes.push(VolumeRecord::decode(take(usize::from(length))?).ok()?);
        }
        let count = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let mut damage = Vec::new();
        for _ in 0..count {
            let length = u16::from_le_bytes(take(2)?.try_into().ok()?);
            let name = String::from_utf8(take(usize::from(length))?.to_vec()).ok()?;
            let suspect = take(1)? == [1];
            let has_group = take(1)? == [1];
            let group = PgId(u16::from_le_bytes(take(2)?.try_into().ok()?));
            damage.push(KnownDamage {
                name,
                group: has_group.then_some(group),
                suspect,
            });
        }
        Some(Position {
            heads,
            next_lsn,
            outcomes,
            damage,
            machine: at.to_vec(),
        })
    }

    /// `None`: nothing was ever checkpointed. `Some(None)`: by another release, whose values mean nothing here.
    pub fn load(index: &Index) -> Result<Option<Option<Position>>, IndexError> {
        index.get(Table::Position, POSITION_KEY, Position::decode)
    }
}

/// A row of the files table: generation 8 | live bytes 8 | end 4.
fn encode_file_row(usage: &Usage) -> Vec<u8> {
    let mut v = usage.generation.0.to_le_bytes().to_vec();
    v.extend(usage.live_bytes.to_le_bytes());
    v.extend(usage.end.to_le_bytes());
    v
}

pub(super) fn decode_file_row(bytes: &[u8]) -> Option<Usage> {
    let (generation, rest) = bytes.split_first_chunk()?;
    let (live_bytes, rest) = rest.split_first_chunk()?;
    Some(Usage {
        generation: Generation(u64::from_le_bytes(*generation)),
        live_bytes: u64::from_le_bytes(*live_bytes),
        end: u32::from_le_bytes(*rest.first_chunk()?),
    })
}

impl Volume {
    /// Writes one checkpoint and returns when it is durable. Concurrent calls share it when they can.
    pub async fn checkpoint(&self) -> Result<(), VolumeError> {
        let inner = &self.0;
        // One at a time; whoever comes while one runs needs the next one, which freezes what it wants covered.
        while inner.checkpoints_started.get() > inner.checkpoints_done.get() {
            inner.checkpoint_done.notified().await;
        }
        self.check_index()?;
        // A table left frozen by a failed checkpoint holds the state of then, not of now.
        if inner.index.has_frozen() {
            self.write_checkpoint().await?;
        }
        self.write_checkpoint().await
    }

    pub(super) fn check_index(&self) -> Result<(), VolumeError> {
        self.0.check_index();
        match &*self.0.index_failed.borrow() {
            Some(reason) => Err(VolumeError::ReadOnly {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    async fn write_checkpoint(&self) -> Result<(), VolumeError> {
        let inner = &self.0;
        // From here to `freeze` nothing awaits: tables and position are of one moment.
        if !inner.index.has_frozen() {
            let mut position = Position {
                next_lsn: inner.log.next_lsn(),
                outcomes: inner.outcomes.borrow().clone(),
                damage: inner.damage.clone(),
                machine: inner.machine.snapshot(),
                ..Position::default()
            };
            for head in HEADS {
                position.heads[head_index(head)] = inner.log.position(head);
            }
            for (number, usage) in inner.log.files().take_dirty() {
                let row = encode_file_row(&usage);
                inner.index.put(Table::Files, &number.0.to_be_bytes(), row);
            }
            inner
                .index
                .put(Table::Position, POSITION_KEY, position.encode());
            inner.dirty.set(false);
            assert!(inner.index.freeze(), "nothing is frozen");
        }
        inner
            .checkpoints_started
            .set(inner.checkpoints_started.get() + 1);
        let result = inner.index.checkpoint().await;
        match result {
            Ok(()) => {
                inner.index_full.set(false);
                inner.checkpoints_done.set(inner.checkpoints_started.get());
                self.count(|c| c.checkpoints += 1);
                inner.checkpoint_done.notify_all();
                Ok(())
            }
            Err(e) => {
                // The frozen table stays and is retried by the next checkpoint; its position is its own.
                inner.checkpoints_started.set(inner.checkpoints_done.get());
                inner.dirty.set(true);
                let error = if matches!(e, IndexError::Full { .. }) {
                    inner.index_full.set(true);
                    VolumeError::Full
                } else {
                    let reason = format!("index: {e}");
                    tracing::error!(volume = %self.id(), %reason, "checkpoint failed");
                    inner
                        .index_failed
                        .borrow_mut()
                        .get_or_insert(reason.clone());
                    VolumeError::ReadOnly { reason }
                };
                inner.checkpoint_done.notify_all();
                Err(error)
            }
        }
    }

    /// Asks for a checkpoint soon.
    pub fn want_checkpoint(&self) {
        self.0.checkpoint_wanted.notify_one();
    }

    /// A checkpoint, then room kept on the drive for the next ones, so that deletes can always be checkpointed.
    async fn checkpoint_and_reserve(&self) -> Result<(), VolumeError> {
        self.checkpoint().await?;
        match self.0.index.reserve(INDEX_RESERVE).await {
            Ok(()) => Ok(()),
            Err(IndexError::Full { .. }) => {
                self.0.index_full.set(true);
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) async fn run_checkpoints(&self) {
        use futures_util::{FutureExt, select_biased};
        loop {
            select_biased! {
                () = self.0.checkpoint_wanted.notified().fuse() => {}
                () = rt::sleep(CHECKPOINT_IDLE).fuse() => {}
            }
            if self.0.closing.get() {
                return;
            }
            let wanted = due(&self.0.index) || self.0.index.has_frozen() || self.0.dirty.get();
            if !wanted {
                continue;
            }
            match self.checkpoint_and_reserve().await {
                Ok(()) => self.0.reclaim_wanted.notify_one(),
                Err(VolumeError::Full) => {
                    self.0.reclaim_wanted.notify_one();
                    rt::sleep(std::time::Duration::from_millis(200)).await;
                }
                Err(_) => return,
            }
        }
    }
}
