//! One drive of the world: a [`Disk`] under a path, what goes wrong with it, and its streams.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::disk::Disk;
use super::rng::Rng;
use crate::rt::Instant;

/// What goes wrong with a drive, and how long things take. Probabilities are per operation.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    pub capacity: u64,
    pub read_latency: RangeInclusive<Duration>,
    pub write_latency: RangeInclusive<Duration>,
    /// Of fdatasync, fsync and directory syncs.
    pub sync_latency: RangeInclusive<Duration>,
    /// Of everything else: opens, names, allocation.
    pub name_latency: RangeInclusive<Duration>,
    /// An operation takes `slow_by` longer.
    pub slow: f64,
    pub slow_by: RangeInclusive<Duration>,
    /// A read or write transfers less than was asked for and says so.
    pub short: f64,
    /// A read fails with EIO.
    pub read_error: f64,
    /// A write fails with EIO after a prefix of its sectors.
    pub write_error: f64,
    /// A sync fails with EIO and drops what it should have flushed; see [`super::disk`]. A failed
    /// directory sync leaves its changes as they were: unflushed.
    pub sync_error: f64,
    /// A write lands at another place of its file and reports success.
    pub misdirected: f64,
    /// A write reports success and never happens.
    pub lost: f64,
    /// Mean time between two durable sectors going bad.
    pub rot_every: Option<Duration>,
}

impl FaultPlan {
    /// A drive without faults, as fast as NVMe is.
    pub fn healthy() -> FaultPlan {
        let us = Duration::from_micros;
        FaultPlan {
            capacity: 1 << 30,
            read_latency: us(60)..=us(200),
            write_latency: us(10)..=us(80),
            sync_latency: us(50)..=us(1_000),
            name_latency: us(5)..=us(50),
            slow: 0.0,
            slow_by: us(1_000)..=us(50_000),
            short: 0.0,
            read_error: 0.0,
            write_error: 0.0,
            sync_error: 0.0,
            misdirected: 0.0,
            lost: 0.0,
            rot_every: None,
        }
    }

    /// No damage, but everything a correct program must bear without noticing: slow operations
    /// and short transfers.
    pub fn uneven() -> FaultPlan {
        FaultPlan {
            slow: 0.01,
            short: 0.02,
            ..FaultPlan::healthy()
        }
    }
}

/// What one operation will meet; drawn when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Good,
    /// Transfers this many bytes.
    Short(usize),
    /// EIO, for a write after this many bytes.
    Error(usize),
    /// Lands here.
    Misdirected(u64),
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Sync,
    Name,
}

/// Lets a drive hang on one read while everything else goes on, as drives do that try a weak
/// sector again and again. For tasks inside the world, who know when the read that matters comes.
#[derive(Clone, Default)]
pub struct Hang(Rc<Cell<Option<(u32, Duration)>>>);

impl Hang {
    /// The drive's next read but `skip` takes `by` longer. Replaces what was asked for before and has not happened.
    pub fn read(&self, skip: u32, by: Duration) {
        self.0.set(Some((skip, by)));
    }

    /// No read hangs that has not begun.
    pub fn off(&self) {
        self.0.set(None);
    }

    /// What a read that begins now takes longer.
    fn begin(&self) -> Duration {
        match self.0.take() {
            None => Duration::ZERO,
            Some((0, by)) => by,
            Some((skip, by)) => {
                self.0.set(Some((skip - 1, by)));
                Duration::ZERO
            }
        }
    }
}

pub(super) struct Drive {
    pub prefix: PathBuf,
    pub disk: Disk,
    pub plan: FaultPlan,
    /// Every operation fails.
    pub dead: bool,
    /// No operation completes before this.
    pub stalled_until: Instant,
    pub hang: Hang,
    pub rotted: u64,
    rot_next: Option<Instant>,
    latency: Rng,
    faults: Rng,
    rot: Rng,
}

impl Drive {
    pub fn new(seed: u64, index: u64, prefix: PathBuf, plan: FaultPlan) -> Drive {
        Drive {
            prefix,
            disk: Disk::new(plan.capacity),
            plan,
            dead: false,
            stalled_until: Instant::default(),
            hang: Hang::default(),
            rotted: 0,
            rot_next: None,
            latency: Rng::stream(seed, "disk latency", index),
            faults: Rng::stream(seed, "disk faults", index),
            rot: Rng::stream(seed, "disk rot", index),
        }
    }

    /// `path` as the disk knows it, if it is on this drive.
    pub fn relative(&self, path: &Path) -> Option<String> {
        let rest = path.strip_prefix(&self.prefix).ok()?;
        let parts: Vec<_> = rest
            .components()
            .map(|c| c.as_os_str().to_string_lossy())
            .collect();
        Some(parts.join("/"))
    }

    /// When an operation of this kind that starts now is over.
    pub fn done_at(&mut self, kind: Kind, now: Instant) -> Instant {
        let range = match kind {
            Kind::Read => &self.plan.read_latency,
            Kind::Write => &self.plan.write_latency,
            Kind::Sync => &self.plan.sync_latency,
            Kind::Name => &self.plan.name_latency,
        };
        let base = draw(&mut self.latency, range);
        let slow = self.latency.chance(self.plan.slow);
        let extra = draw(&mut self.latency, &self.plan.slow_by);
        let hangs = match kind {
            Kind::Read => self.hang.begin(),
            _ => Duration::ZERO,
        };
        let took = if slow { base + extra } else { base } + hangs;
        now.max(self.stalled_until) + took.max(Duration::from_nanos(1))
    }

    /// What a transfer of `len` bytes at `offset` will meet. Draws the same numbers whatever the
    /// plan says.
    pub fn fate(
        &mut self,
        kind: Kind,
        inode: Option<super::disk::Inode>,
        offset: u64,
        len: u64,
    ) -> Fate {
        const SECTOR: u64 = super::disk::SECTOR_SIZE;
        let plan = &self.plan;
        let rng = &mut self.faults;
        let error = rng.chance(match kind {
            Kind::Read => plan.read_error,
            Kind::Write => plan.write_error,
            Kind::Sync => plan.sync_error,
            Kind::Name => 0.0,
        });
        let short = rng.chance(plan.short);
        let misdirected = rng.chance(plan.misdirected);
        let lost = rng.chance(plan.lost);
        let part = rng.below(len / SECTOR) * SECTOR;
        let place = inode.map(|inode| self.disk.misdirect(inode, offset, len, rng));
        let transfer = matches!(kind, Kind::Read | Kind::Write);
        if self.dead {
            return Fate::Error(0);
        }
        match kind {
            _ if error => Fate::Error(part as usize),
            Kind::Write if misdirected && let Some(Some(at)) = place => Fate::Misdirected(at),
            Kind::Write if lost => Fate::Lost,
            _ if transfer && short && part > 0 => Fate::Short(part as usize),
            _ => Fate::Good,
        }
    }

    /// Lets the sectors rot that were due by `now`. Called before each look at the drive, so no
    /// event is needed and an idle world stays idle.
    pub fn rot_until(&mut self, now: Instant) {
        let Some(mean) = self.plan.rot_every else {
            self.rot_next = None;
            return;
        };
        let mut next = match self.rot_next {
            Some(at) => at,
            None => now + draw(&mut self.rot, &(Duration::ZERO..=mean * 2)),
        };
        while next <= now {
            self.rotted += u64::from(self.disk.rot(&mut self.rot).is_some());
            next += draw(&mut self.rot, &(Duration::from_nanos(1)..=mean * 2));
        }
        self.rot_next = Some(next);
    }
}

/// Uniform in the range, in nanoseconds.
pub(super) fn draw(rng: &mut Rng, range: &RangeInclusive<Duration>) -> Duration {
    let nanos = |d: &Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.between(nanos(range.start()), nanos(range.end())))
}
