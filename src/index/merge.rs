//! The ordered merge of the layers of an index, newest first: a key is taken from the newest
//! layer that mentions it, and a removal marker there hides it in the older ones.

use heed::types::Bytes;
use heed::{Database, RoRange};
use smallvec::SmallVec;
use std::ops::Bound;

use super::gaps::Gaps;
use super::memory::{self, MemoryTable};
use super::{IndexError, ScanEnd, Step, TABLE_BYTES, lmdb};

/// One layer to read from.
#[derive(Clone, Copy)]
pub enum Layer<'a> {
    Memory(&'a MemoryTable),
    Lmdb {
        db: Database<Bytes, Bytes>,
        txn: &'a lmdb::ReadTxn,
    },
}

/// Active, frozen and LMDB; a twin may bring a few more.
pub type Layers<'a> = SmallVec<[Layer<'a>; 4]>;

type Head<'a> = Option<(&'a [u8], Option<&'a [u8]>)>;

enum Rows<'a> {
    Memory(memory::Iter<'a>),
    Lmdb(RoRange<'a, Bytes, Bytes>),
}

/// A place in one layer. `head` is the next row not yet merged, `None` at the end of the table.
struct Cursor<'a> {
    layer: Layer<'a>,
    rows: Rows<'a>,
    head: Head<'a>,
    table: u8,
}

impl<'a> Cursor<'a> {
    fn open(layer: Layer<'a>, from: &[u8]) -> Result<Self, IndexError> {
        let rows = Self::rows(layer, from)?;
        let mut cursor = Cursor {
            layer,
            rows,
            head: None,
            table: from[0],
        };
        cursor.advance()?;
        Ok(cursor)
    }

    fn rows(layer: Layer<'a>, from: &[u8]) -> Result<Rows<'a>, IndexError> {
        Ok(match layer {
            Layer::Memory(table) => Rows::Memory(table.from(from)),
            Layer::Lmdb { db, txn } => {
                let range = (Bound::Included(from), Bound::Unbounded);
                Rows::Lmdb(db.range(txn, &range).map_err(|e| lmdb::error("seek", &e))?)
            }
        })
    }

    fn advance(&mut self) -> Result<(), IndexError> {
        let row = match &mut self.rows {
            Rows::Memory(rows) => rows.next().map(|(k, v)| (k.as_slice(), v.as_deref())),
            Rows::Lmdb(rows) => match rows.next() {
                None => None,
                Some(Ok((key, value))) => Some((key, Some(value))),
                Some(Err(e)) => return Err(lmdb::error("scan", &e)),
            },
        };
        self.head = row.filter(|(key, _)| key.first() == Some(&self.table));
        Ok(())
    }

    /// Moves forward to the first row at or after `to`. A layer whose head is there already is
    /// not touched.
    fn seek(&mut self, to: &[u8]) -> Result<(), IndexError> {
        if self.head.is_some_and(|(key, _)| key < to) {
            self.rows = Self::rows(self.layer, to)?;
            self.advance()?;
        }
        Ok(())
    }
}

/// Removal markers passed one after the other before a scan looks for a gap: most stand alone, beside the version that
/// replaced what they hide.
const MARKERS_BEFORE_SEEK: usize = 2;

/// See `Index::scan`. `from` starts with the table's byte; `f` gets keys without it.
pub fn scan(
    layers: &[Layer<'_>],
    gaps: &[&Gaps],
    from: &[u8],
    steps_max: usize,
    mut f: impl FnMut(&[u8], &[u8]) -> Step,
) -> Result<ScanEnd, IndexError> {
    let mut cursors: SmallVec<[Cursor<'_>; 4]> = SmallVec::new();
    for layer in layers {
        cursors.push(Cursor::open(*layer, from)?);
    }
    let mut steps = 0;
    let mut markers = 0;
    loop {
        // Smallest key; of equal ones the newest layer's, which comes first.
        let mut smallest: Head<'_> = None;
        for cursor in &cursors {
            if let Some((key, _)) = cursor.head
                && smallest.is_none_or(|(least, _)| key < least)
            {
                smallest = cursor.head;
            }
        }
        let Some((key, value)) = smallest else {
            return Ok(ScanEnd::End);
        };
        if steps == steps_max {
            return Ok(ScanEnd::Budget(key[TABLE_BYTES..].to_vec()));
        }
        steps += 1;
        markers = if value.is_none() { markers + 1 } else { 0 };
        if markers >= MARKERS_BEFORE_SEEK
            && let Some(end) = gaps.iter().filter_map(|g| g.end_of(key)).max()
        {
            for cursor in &mut cursors {
                cursor.seek(end)?;
            }
            continue;
        }
        let step = match value {
            Some(value) => f(&key[TABLE_BYTES..], value),
            None => Step::Next,
        };
        // Copies of the key in older layers go with it, whatever the step.
        for cursor in &mut cursors {
            if cursor.head.is_some_and(|(k, _)| k == key) {
                cursor.advance()?;
            }
        }
        match step {
            Step::Next => {}
            Step::Stop => return Ok(ScanEnd::Stopped),
            Step::Seek(to) => {
                let mut target: SmallVec<[u8; 256]> =
                    SmallVec::with_capacity(TABLE_BYTES + to.len());
                target.push(from[0]);
                target.extend_from_slice(&to);
                for cursor in &mut cursors {
                    cursor.seek(&target)?;
                }
            }
        }
    }
}
