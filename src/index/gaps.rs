//! Gaps: stretches of keys in which nothing is alive, so that a scan need not pass every removal marker and the key it
//! hides. Deleting a million objects leaves a million of each until the next checkpoints.
//!
//! Only ever a shortcut. A gap says nothing of layers: it is true of what a reader sees, and neither freezing a table
//! nor writing it changes that. A removal can only make gaps longer; a put cuts the one it falls into.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Gaps that are remembered at most; a full active table of deletes has fewer. About 200 bytes each.
const GAPS_MAX: usize = 64 << 10;

/// Removals in a gap from which on a seek over it is cheaper than a step for each.
const REMOVALS_MIN: u32 = 8;

/// Disjoint stretches, each from its first key on.
#[derive(Default)]
pub struct Gaps(BTreeMap<Vec<u8>, Gap>);

#[derive(Clone)]
struct Gap {
    /// The first key that it does not cover.
    end: Vec<u8>,
    /// About how many.
    removals: u32,
}

impl Gaps {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The gap that starts at or before `key`.
    fn before(&self, key: &[u8]) -> Option<(&Vec<u8>, &Gap)> {
        self.0
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
    }

    /// The end of the gap that `key` lies in, if it is worth a seek.
    pub fn end_of(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, gap) = self.before(key)?;
        (gap.end.as_slice() > key && gap.removals >= REMOVALS_MIN).then_some(gap.end.as_slice())
    }

    /// After a removal nothing is alive from `start` up to `end`.
    pub fn add(&mut self, start: &[u8], end: &[u8]) {
        if start >= end {
            return;
        }
        let joined = self
            .before(start)
            .filter(|(_, g)| g.end.as_slice() >= start);
        let (start, mut gap) = match joined {
            Some((s, gap)) => (s.clone(), gap.clone()),
            None if self.0.len() >= GAPS_MAX => return,
            None => {
                let (end, removals) = (end.to_vec(), 0);
                (start.to_vec(), Gap { end, removals })
            }
        };
        gap.removals = gap.removals.saturating_add(1);
        if gap.end.as_slice() < end {
            gap.end = end.to_vec();
        }
        loop {
            let behind = (
                Bound::Excluded(start.as_slice()),
                Bound::Included(&gap.end[..]),
            );
            let Some((next, _)) = self.0.range::<[u8], _>(behind).next() else {
                break;
            };
            let next = next.clone();
            if let Some(next) = self.0.remove(&next) {
                gap.end = gap.end.max(next.end);
                gap.removals = gap.removals.saturating_add(next.removals);
            }
        }
        self.0.insert(start, gap);
    }

    /// `key` is alive.
    pub fn cut(&mut self, key: &[u8]) {
        let found = self.before(key).filter(|(_, g)| g.end.as_slice() > key);
        let Some((start, gap)) = found.map(|(s, g)| (s.clone(), g.clone())) else {
            return;
        };
        if start == key {
            self.0.remove(&start);
        } else {
            let end = key.to_vec();
            self.0.insert(start, Gap { end, ..gap.clone() });
        }
        let behind = [key, &[0]].concat();
        if behind < gap.end {
            self.0.insert(behind, gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::sim::Rng;
    use std::collections::BTreeSet;

    /// Against a set of live keys of one byte: a gap never covers one, and after removals in any order the gaps of
    /// neighbours are one.
    #[test]
    fn a_gap_covers_no_live_key_and_grows_over_its_neighbours() {
        let mut rng = Rng::stream(7, "gaps", 0);
        for _ in 0..200 {
            let mut gaps = Gaps::default();
            let mut live: BTreeSet<u8> = (0..100).collect();
            let remove = |gaps: &mut Gaps, live: &mut BTreeSet<u8>, key: u8| {
                live.remove(&key);
                let end = live.range(key..).next().copied().unwrap_or(200);
                gaps.add(&[key], &[end]);
            };
            for _ in 0..150 {
                let key = rng.below(100) as u8;
                if rng.coin() {
                    remove(&mut gaps, &mut live, key);
                } else {
                    live.insert(key);
                    gaps.cut(&[key]);
                }
                for key in 0..=255 {
                    if let Some(end) = gaps.end_of(&[key]) {
                        assert!(end > &[key][..]);
                        let end = if end.len() == 1 { end[0] } else { end[0] + 1 };
                        assert_eq!(live.range(key..end).next(), None, "{:?}", gaps.0.keys());
                    }
                }
            }
            for key in 0..100 {
                if live.contains(&key) {
                    remove(&mut gaps, &mut live, key);
                }
            }
            assert_eq!(gaps.end_of(&[99]), Some(&[200][..]));
            assert!(gaps.0.len() <= 100);
        }
    }
}
