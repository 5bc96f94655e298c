//! Time and randomness, from the current core's driver; outside any core from the system.

#![allow(unsafe_code)]

use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::executor::{TimerKey, with_core};

/// Nanoseconds on a clock that never goes back. Its zero means nothing: compare only instants of
/// one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time since this instant.
    pub fn elapsed(self) -> Duration {
        now().saturating_since(self)
    }
}

/// Durations beyond the end of the clock (584 years) saturate.
impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_since(earlier)
    }
}

/// The system's monotonic clock.
pub(in crate::rt) fn system_now() -> Instant {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid timespec to write to; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    Instant(ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
}

pub(in crate::rt) fn system_unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

pub(in crate::rt) fn system_random(out: &mut [u8]) {
    getrandom::fill(out).expect("the kernel's random generator answers");
}

pub fn now() -> Instant {
    with_core(|core| core.map_or_else(system_now, |c| c.now()))
}

/// Milliseconds since 1970 by the wall clock, which may jump in either direction.
pub fn unix_ms() -> u64 {
    with_core(|core| core.map_or_else(system_unix_ms, |c| c.unix_ms()))
}

/// CPU time, user and system, that the calling thread has used; on a core, that is the reactor with
/// all that runs on it, but not its helper threads. Zero in simulation, where a thread is many cores.
pub fn cpu_time() -> Duration {
    if with_core(|core| core.is_some_and(super::executor::Core::is_sim)) {
        return Duration::ZERO;
    }
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid timespec to write to; the clock of the calling thread always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut ts) };
    Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32)
}

/// Bytes nobody can predict (`uring`), or the next ones of the seeded stream (`sim`).
pub fn fill_random(out: &mut [u8]) {
    with_core(|core| match core {
        Some(core) => core.fill_random(out),
        None => system_random(out),
    });
}

pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Ends at its deadline.
#[must_use = "does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    key: Option<TimerKey>,
}

pub fn sleep(d: Duration) -> Sleep {
    sleep_until(now() + d)
}

pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline,
        key: None,
    }
}

impl Sleep {
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        with_core(|core| {
            let core = core.expect("a sleep is awaited on a core");
            if core.now() >= self.deadline {
                if let Some(key) = self.key.take() {
                    core.remove_timer(key);
                }
                return Poll::Ready(());
            }
            let key = self.key.unwrap_or_else(|| core.timer_key(self.deadline));
            core.set_timer(key, cx.waker());
            self.key = Some(key);
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            with_core(|core| {
                if let Some(core) = core {
                    core.remove_timer(key);
                }
            });
        }
    }
}

/// The time was up before the future was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("time is up")]
pub struct Elapsed;

/// Drops `future` if it is not done after `d`.
pub async fn timeout<F: Future>(d: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(sleep(d));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(v) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(v));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
