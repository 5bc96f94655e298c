//! One volume's share of a listing: an ordered scan that seeks past what a page does not show.
//!
//! The cost follows the page, not the bucket: a common prefix is one seek, whatever lies under it; versions below the
//! newest of a key are one seek. Bounded work per turn of the reactor.

use std::rc::Rc;

use shard_format::BucketId;

use super::{
    Groups,
    register::{Slot, key_prefix, split_version_key},
    version::{EtagValue, VersionValue},
};
use crate::{
    index::{ScanEnd, Step, Table},
    limits::LIST_STEPS_PER_TURN,
    rt,
    volume::VolumeError,
};

/// Turns after which a listing asks for a checkpoint: four times what a page of LIST_KEYS_MAX keys needs.
const LIST_TURNS_MAX: usize = 4;

/// What a page asks for.
#[derive(Clone, Debug)]
pub struct ListQuery {
    pub bucket: BucketId,
    pub prefix: Vec<u8>,
    pub delimiter: Option<Vec<u8>>,
    /// Exclusive. If it ends a common prefix, everything under that prefix is behind it too.
    pub after: Vec<u8>,
    pub max: usize,
}

/// An entry of a page, in order of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    Object {
        key: Vec<u8>,
        size: u64,
        etag: EtagValue,
        modified_ms: u64,
        owner: String,
    },
    Prefix(Vec<u8>),
}

impl Listed {
    pub fn name(&self) -> &[u8] {
        match self {
            Listed::Object { key, .. } => key,
            Listed::Prefix(p) => p,
        }
    }
}

/// At most `max` entries; `more` if there may be others behind them.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub entries: Vec<Listed>,
    pub more: bool,
}

/// The common prefix a key rolls up into: prefix plus everything up to and including the delimiter.
pub fn common_prefix<'a>(key: &'a [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'a [u8]> {
    let rest = key.strip_prefix(prefix)?;
    let at = rest
        .windows(delimiter.len().max(1))
        .position(|w| w == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// The smallest byte string greater than every one that starts with `prefix`; `None` if there is none.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut v = prefix.to_vec();
    while let Some(last) = v.pop() {
        if last < u8::MAX {
            v.push(last + 1);
            return Some(v);
        }
    }
    None
}

impl Groups {
    /// Entries of this volume's groups, ascending. Includes everything acknowledged before the call.
    pub async fn list(self: &Rc<Self>, query: &ListQuery) -> Result<Page, VolumeError> {
        self.volume().check_all_groups()?;
        let bucket = query.bucket.0.to_be_bytes();
        let delimiter = query.delimiter.as_deref().filter(|d| !d.is_empty());
        let mut page = Page::default();
        let with_bucket = |key: &[u8]| {
            let mut v = bucket.to_vec();
            v.extend(key);
            v
        };
        // Start behind `after`, or behind all of the common prefix it lies in.
        let mut from = with_bucket(&query.prefix);
        if query.after.as_slice() >= query.prefix.as_slice() && !query.after.is_empty() {
            let rolled = delimiter.and_then(|d| common_prefix(&query.after, &query.prefix, d));
            let behind = match rolled {
                Some(p) => successor(p),
                None => {
                    let mut v = query.after.clone();
                    v.push(1);
                    Some(v)
                }
            };
            match behind {
                Some(key) => from = with_bucket(&key),
                None => return Ok(page),
            }
        }
        if query.max == 0 {
            return Ok(page);
        }
        let end_of_prefix = successor(&query.prefix);
        let mut steps = LIST_STEPS_PER_TURN;
        let mut passed = 0;
        loop {
            let end = self
                .volume()
                .view()
                .index
                .scan(Table::Versions, &from, steps, |k, v| {
                    let Some((_, key, _)) =
                        split_version_key(k).filter(|(b, ..)| *b == query.bucket)
                    else {
                        return Step::Stop;
                    };
                    if !key.starts_with(&query.prefix) {
                        let past = end_of_prefix.as_ref().is_none_or(|e| key >= e.as_slice());
                        return if past { Step::Stop } else { Step::Next };
                    }
                    if page.entries.len() == query.max {
                        page.more = true;
                        return Step::Stop;
                    }
                    if let Some(p) = delimiter.and_then(|d| common_prefix(key, &query.prefix, d)) {
                        page.entries.push(Listed::Prefix(p.to_vec()));
                        return match successor(p) {
                            Some(next) => Step::Seek(with_bucket(&next)),
                            None => Step::Stop,
                        };
                    }
                    let value = Slot::split(v).and_then(|(.., value)| VersionValue::access(value));
                    if let Some(value) = value
                        && !value.delete_marker
                    {
                        page.entries.push(Listed::Object {
                            key: key.to_vec(),
                            size: value.size.to_native(),
                            etag: match &value.etag {
                                super::version::ArchivedEtagValue::Md5(b) => EtagValue::Md5(*b),
                                super::version::ArchivedEtagValue::Text(t) => {
                                    EtagValue::Text(t.to_string())
                                }
                                super::version::ArchivedEtagValue::None => EtagValue::None,
                            },
                            modified_ms: value.modified_ms.to_native(),
                            owner: value.owner.to_string(),
                        });
                    }
                    // Past older versions of the key, and past the markers of removed ones.
                    let mut behind = with_bucket(key);
                    behind.push(1);
                    Step::Seek(behind)
                })?;
            match end {
                ScanEnd::Budget(next) => {
                    // Resume at the key, not at its version: while we yield it may be overwritten, and its new version
                    // sorts before the old one. A key whose markers use up a whole turn gets more of the next.
                    let resume = match split_version_key(&next) {
                        Some((bucket, key, _)) => key_prefix(bucket, key),
                        None => next,
                    };
                    steps = if resume == from {
                        steps * 2
                    } else {
                        LIST_STEPS_PER_TURN
                    };
                    from = resume;
                    passed += 1;
                    if passed == LIST_TURNS_MAX {
                        // A page this long passes removals still in memory; a checkpoint takes them away.
                        self.volume().want_checkpoint();
                    }
                    rt::yield_now().await;
                }
                _ => return Ok(page),
            }
        }
    }
}
