//! Hot records in memory, so that a small object that is read often is not read from the drive each time.
//!
//! A record is found by where it lies. The index says where the current one lies, and a place is written once in a
//! file's generation, so nothing in here is ever stale; what lies in a freed file is asked for by nobody and is driven
//! out. What is found is verified again by whoever asked, as if it came from the drive.
//!
//! Which records stay is the business of `quick_cache` (CLOCK-Pro; S3-FIFO's cousin): a listing's worth of objects read
//! once does not drive out what is read often. The hasher has no random seed, so that a simulated life can be lived
//! again; nobody chooses places to collide.

use std::{
    cell::RefCell,
    hash::{BuildHasherDefault, DefaultHasher},
    rc::Rc,
};

use quick_cache::{Weighter, unsync::Cache};

use crate::{limits::INLINE_BODY_MAX, log::Extent};

/// Bytes of the longest record that is kept: an object in its record, and what is said about it.
pub const RECORD_KEPT_BYTES_MAX: usize = INLINE_BODY_MAX + 4 * 1024;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 96;

/// Bytes of a record by which the number of entries is guessed at first.
const RECORD_BYTES_TYPICAL: usize = 4 * 1024;

#[derive(Clone)]
struct Bytes;

impl Weighter<Extent, Rc<[u8]>> for Bytes {
    fn weight(&self, _: &Extent, record: &Rc<[u8]>) -> u64 {
        record.len() as u64 + ENTRY_BYTES
    }
}

type Hasher = BuildHasherDefault<DefaultHasher>;
type Kept = Cache<Extent, Rc<[u8]>, Bytes, Hasher>;

pub struct Records(Option<RefCell<Kept>>);

impl Records {
    /// `bytes`: of all records together; with 0 nothing is kept.
    pub fn new(bytes: usize) -> Records {
        let cache = || {
            let expected = bytes.div_ceil(RECORD_BYTES_TYPICAL);
            let hasher = Hasher::default();
            RefCell::new(Cache::with(
                expected,
                bytes as u64,
                Bytes,
                hasher,
                Default::default(),
            ))
        };
        Records((bytes > 0).then(cache))
    }

    pub fn get(&self, extent: &Extent) -> Option<Rc<[u8]>> {
        self.0.as_ref()?.borrow().get(extent).cloned()
    }

    pub fn keep(&self, extent: &Extent, record: &[u8]) {
        if record.len() <= RECORD_KEPT_BYTES_MAX
            && let Some(cache) = &self.0
        {
            cache.borrow_mut().insert(*extent, record.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use shard_format::{FileNumber, Generation};

    use super::*;

    fn extent(n: u32) -> Extent {
        Extent {
            file: FileNumber(n / 1000),
            generation: Generation(7),
            offset: n % 1000 * 8192,
            length: 4096,
        }
    }

    #[test]
    fn bytes_are_bounded_and_what_is_read_often_stays() {
        const BYTES: usize = 1 << 20;
        let records = Records::new(BYTES);
        let hot: Vec<u32> = (0..20).collect();
        for n in 0..10_000 {
            records.keep(&extent(n), &[n as u8; 4096]);
            for hot in &hot {
                if let Some(found) = records.get(&extent(*hot)) {
                    assert_eq!(found[..], [*hot as u8; 4096]);
                }
            }
            let weight = records
                .0
                .as_ref()
                .map_or(0, |cache| cache.borrow().weight());
            assert!(weight <= BYTES as u64);
        }
        for hot in hot {
            assert!(records.get(&extent(hot)).is_some(), "{hot} was driven out");
        }
        assert!(records.get(&extent(5_000)).is_none());
    }

    #[test]
    fn a_recycled_file_is_another_file() {
        let records = Records::new(1 << 20);
        records.keep(&extent(1), b"old");
        let recycled = Extent {
            generation: Generation(8),
            ..extent(1)
        };
        assert!(records.get(&recycled).is_none());
    }

    #[test]
    fn long_records_and_no_room_keep_nothing() {
        let records = Records::new(1 << 20);
        records.keep(&extent(1), &vec![0; RECORD_KEPT_BYTES_MAX]);
        assert!(records.get(&extent(1)).is_some());
        records.keep(&extent(2), &vec![0; RECORD_KEPT_BYTES_MAX + 1]);
        assert!(records.get(&extent(2)).is_none());
        let none = Records::new(0);
        none.keep(&extent(1), b"record");
        assert!(none.get(&extent(1)).is_none());
    }
}
