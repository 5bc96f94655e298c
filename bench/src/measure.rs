//! Time, CPU, spread, and the hash of results.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of all threads of this process, user and system.
pub fn process_cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Wall and CPU time since it was made.
pub struct Meter {
    wall: Instant,
    cpu: Duration,
}

impl Meter {
    pub fn start() -> Meter {
        Meter {
            wall: Instant::now(),
            cpu: process_cpu(),
        }
    }

    /// Wall time, then CPU time.
    pub fn read(&self) -> (Duration, Duration) {
        (self.wall.elapsed(), process_cpu() - self.cpu)
    }
}

/// Latencies in nanoseconds, 1 µs to 100 s, three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 100_000_000_000, 3).expect("constant bounds")
}

/// p50, p99, p99.9 and maximum of a histogram of nanoseconds, printed in µs.
pub struct Percentiles<'a>(pub &'a Histogram<u64>);

impl fmt::Display for Percentiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = self.0;
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0} us",
            us(h.value_at_quantile(0.5)),
            us(h.value_at_quantile(0.99)),
            us(h.value_at_quantile(0.999)),
            us(h.max())
        )
    }
}

/// Least, middle (the lower one of an even count) and greatest of some values.
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Spread {
                min: f64::NAN,
                median: f64::NAN,
                max: f64::NAN,
            };
        };
        Spread {
            min: *min,
            median: sorted[(sorted.len() - 1) / 2],
            max: *max,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "min {:.3} median {:.3} max {:.3}",
            self.min, self.median, self.max
        )
    }
}

/// FNV-1a over what a benchmark brought about.
#[derive(Clone, Copy, Debug)]
pub struct ResultHash(u64);

impl Default for ResultHash {
    fn default() -> Self {
        ResultHash(0xcbf2_9ce4_8422_2325)
    }
}

impl ResultHash {
    pub fn add(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn add_u64(&mut self, value: u64) {
        self.add(&value.to_le_bytes());
    }

    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ResultHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A small generator for choosing keys: splitmix64.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
