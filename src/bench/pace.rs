//! When to send: as soon as a connection is free (a closed loop), or at fixed moments (an open one).
//!
//! At a fixed rate arrival number *i* is meant for a moment that does not depend on any answer. Who
//! has a free connection takes the next arrival, waits for its moment if that is still to come, and
//! counts the latency from that moment on; so what waited because all connections were busy has
//! waited in the numbers too (coordinated omission does not happen). Sans-io: moments in, moments
//! out.

use crate::rt::Instant;

const NANOS: u128 = 1_000_000_000;

/// Highest rate of a generator: an arrival every nanosecond.
pub const RATE_MAX: f64 = 1e9;

/// The arrivals of one core.
#[derive(Clone, Debug)]
pub struct Pace {
    origin: Instant,
    /// No arrival at or after it.
    end: Instant,
    /// Arrivals of all cores in 1,000 seconds.
    per_kilosecond: u128,
    core: u128,
    cores: u128,
    taken: u128,
}

impl Pace {
    /// Arrivals from `origin` to `end` at `rate` a second over all cores, in turn over the cores.
    pub fn new(origin: Instant, end: Instant, rate: f64, core: usize, cores: usize) -> Pace {
        assert!(rate > 0.0 && rate <= RATE_MAX && core < cores);
        Pace {
            origin,
            end,
            per_kilosecond: ((rate * 1000.0) as u128).max(1),
            core: core as u128,
            cores: cores as u128,
            taken: 0,
        }
    }

    fn at(&self, n: u128) -> Instant {
        let nanos = (n * self.cores + self.core) * NANOS * 1000 / self.per_kilosecond;
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Instant::from_nanos(self.origin.as_nanos().saturating_add(nanos))
    }

    /// The moment of the next arrival, which is taken; `None` when there is none left.
    pub fn take(&mut self) -> Option<Instant> {
        let at = self.at(self.taken);
        if at >= self.end {
            return None;
        }
        self.taken += 1;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn arrivals(rate: f64, core: usize, cores: usize) -> Vec<u64> {
        let origin = Instant::from_nanos(5);
        let end = origin + Duration::from_secs(1);
        let mut pace = Pace::new(origin, end, rate, core, cores);
        std::iter::from_fn(|| pace.take())
            .map(|at| at.as_nanos() - 5)
            .collect()
    }

    #[test]
    fn arrivals_are_evenly_spaced_and_end() {
        assert_eq!(
            arrivals(4.0, 0, 1),
            [0, 250_000_000, 500_000_000, 750_000_000]
        );
        assert_eq!(arrivals(0.5, 0, 1), [0]);
        // The error of a third of a second does not add up.
        assert_eq!(arrivals(3.0, 0, 1), [0, 333_333_333, 666_666_666]);
    }

    #[test]
    fn cores_take_turns() {
        let mut both = [arrivals(1000.0, 0, 2), arrivals(1000.0, 1, 2)].concat();
        both.sort_unstable();
        assert_eq!(both, arrivals(1000.0, 0, 1));
    }
}
