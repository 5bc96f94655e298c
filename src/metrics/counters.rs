//! The counters of one core.
//!
//! One core writes, others read: counting is a load, an addition and a store, none of them ordered.
//! Whoever reads sees each number at some moment of late, and no two at the same one.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A number that one core writes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, more: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(more), Ordering::Relaxed);
    }

    pub fn subtract(&self, less: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_sub(less), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of a request's duration, in seconds; the last bucket has none. From
/// a small object out of memory to 5 GiB over a slow line, a factor of two to three each.
pub const DURATION_BOUNDS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// Room for operations and codes, which `s3` numbers: some 100 operations and 80 codes exist.
const NAMES_MAX: usize = 128;

/// Things that are named when they first occur.
#[derive(Debug)]
pub struct Named<T>(Box<[(OnceLock<String>, T)]>);

impl<T: Default> Default for Named<T> {
    fn default() -> Self {
        Self((0..NAMES_MAX).map(|_| Default::default()).collect())
    }
}

impl<T> Named<T> {
    /// The one of this number, which always comes with the same name.
    pub fn at(&self, number: usize, name: impl FnOnce() -> String) -> &T {
        // Those beyond the room share the last place.
        let (known, value) = &self.0[number.min(NAMES_MAX - 1)];
        known.get_or_init(name);
        value
    }

    /// Those that have occurred.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let named = self.0.iter();
        named.filter_map(|(name, value)| Some((name.get()?.as_str(), value)))
    }
}

/// Classes of status: 2xx to 5xx.
pub const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Of one operation.
#[derive(Debug, Default)]
pub struct OperationCounts {
    pub by_class: [Count; CLASSES.len()],
    pub by_duration: [Count; DURATION_BOUNDS.len() + 1],
    pub duration_ns: Count,
}

impl OperationCounts {
    pub fn record(&self, status: u16, duration: Duration) {
        let class = usize::from(status / 100).saturating_sub(2);
        self.by_class[class.min(CLASSES.len() - 1)].add(1);
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDS.partition_point(|bound| *bound < seconds);
        self.by_duration[bucket].add(1);
        self.duration_ns
            .add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// What one core counts. On cache lines of its own: no other core's counting slows it down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreCounters {
    pub operations: Named<OperationCounts>,
    pub authentication_failures: Named<Count>,
    pub answers_broken: Count,
    pub received_bytes: Count,
    pub sent_bytes: Count,
    pub put_bytes: Count,
    pub get_bytes: Count,
    pub connections: Count,
    pub connections_accepted: Count,
    pub connections_refused: Count,
    pub tls_handshakes_failed: Count,
}

/// The block that a core writes.
#[derive(Clone, Debug)]
pub struct Own {
    all: Arc<[CoreCounters]>,
    core: usize,
}

impl Own {
    pub fn new(all: Arc<[CoreCounters]>, core: usize) -> Own {
        assert!(core < all.len());
        Own { all, core }
    }
}

/// A block that is nobody else's.
impl Default for Own {
    fn default() -> Own {
        Own::new(blocks(1), 0)
    }
}

impl Deref for Own {
    type Target = CoreCounters;

    fn deref(&self) -> &CoreCounters {
        &self.all[self.core]
    }
}

/// A block for each core.
pub fn blocks(cores: usize) -> Arc<[CoreCounters]> {
    (0..cores).map(|_| CoreCounters::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let counts = OperationCounts::default();
        counts.record(200, Duration::from_micros(500));
        counts.record(204, Duration::from_micros(501));
        counts.record(304, Duration::from_secs(60));
        counts.record(404, Duration::from_secs(61));
        counts.record(507, Duration::ZERO);
        let found = |at: usize| counts.by_duration[at].get();
        assert_eq!((found(0), found(1), found(14), found(15)), (2, 1, 1, 1));
        let classes: Vec<u64> = counts.by_class.iter().map(Count::get).collect();
        assert_eq!(classes, [2, 1, 1, 1]);
        assert!(counts.duration_ns.get() > 121_000_000_000);
    }

    #[test]
    fn names_beyond_the_room_share_the_last() {
        let named: Named<Count> = Named::default();
        named.at(3, || "three".into()).add(1);
        named.at(3, || unreachable!()).add(1);
        named.at(NAMES_MAX + 7, || "far".into()).add(1);
        let found: Vec<_> = named.iter().map(|(n, c)| (n.to_owned(), c.get())).collect();
        assert_eq!(found, [("three".to_owned(), 2), ("far".to_owned(), 1)]);
    }
}
