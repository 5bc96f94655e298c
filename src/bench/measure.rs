//! What a core saw: latencies, counts, errors, and how much was done in every second.
//!
//! Two things are counted by two rules, each the unbiased one:
//!
//! * *Rates* count what **ended** within the measured window.
//! * *Latencies* are those of operations that (were meant to) **begin** within it, however long they
//!   took: a stall at the end is not left out.
//!
//! Errors are counted whenever they happen, also while warming up.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::rt::Instant;

/// Latencies above are recorded as this: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Latencies below are recorded as this: a microsecond.
const LATENCY_NS_MIN: u64 = 1_000;
/// Decimal digits that a histogram keeps.
const DIGITS: u8 = 3;

/// Kinds of errors told apart; more are counted as [`OTHER_ERRORS`]. Their names come from servers.
const ERROR_KINDS_MAX: usize = 64;
const OTHER_ERRORS: &str = "other";

/// What is told apart in a report. All but `Upload` are single requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Put,
    Get,
    Stat,
    Delete,
    List,
    Create,
    Part,
    Complete,
    /// A whole upload, from its creation to its completion.
    Upload,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Put,
        Kind::Get,
        Kind::Stat,
        Kind::Delete,
        Kind::List,
        Kind::Create,
        Kind::Part,
        Kind::Complete,
        Kind::Upload,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Stat => "stat",
            Kind::Delete => "delete",
            Kind::List => "list",
            Kind::Create => "create upload",
            Kind::Part => "part",
            Kind::Complete => "complete upload",
            Kind::Upload => "upload",
        }
    }

    /// Whether it is an operation of a workload by itself; the others are steps of an upload.
    pub fn is_operation(self) -> bool {
        !matches!(self, Kind::Create | Kind::Part | Kind::Complete)
    }

    pub fn is_request(self) -> bool {
        self != Kind::Upload
    }
}

/// The measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub begin: Instant,
    pub end: Instant,
}

impl Window {
    pub fn contains(&self, at: Instant) -> bool {
        self.begin <= at && at < self.end
    }

    pub fn length(&self) -> Duration {
        self.end.saturating_since(self.begin)
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS).expect("constant bounds")
}

/// Of one kind.
#[derive(Clone, Debug)]
pub struct Record {
    pub latency_ns: Histogram<u64>,
    /// That ended well within the window.
    pub done: u64,
    /// Bytes of objects that these moved.
    pub bytes: u64,
    /// Keys that these listed.
    pub keys: u64,
    /// At any time.
    pub errors: u64,
}

impl Record {
    fn new() -> Record {
        Record {
            latency_ns: histogram(),
            done: 0,
            bytes: 0,
            keys: 0,
            errors: 0,
        }
    }

    fn merge(&mut self, other: &Record) {
        self.latency_ns
            .add(&other.latency_ns)
            .expect("histograms of the same bounds");
        self.done += other.done;
        self.bytes += other.bytes;
        self.keys += other.keys;
        self.errors += other.errors;
    }
}

/// What was done within one second of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    pub operations: u64,
    pub bytes: u64,
    pub errors: u64,
}

/// One end of something.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub kind: Kind,
    /// When it began, or was meant to.
    pub began: Instant,
    pub ended: Instant,
    pub bytes: u64,
    pub keys: u64,
}

#[derive(Clone, Debug)]
pub struct Measured {
    pub window: Window,
    records: [Option<Box<Record>>; Kind::ALL.len()],
    pub seconds: Vec<Second>,
    errors: BTreeMap<String, u64>,
    /// Connections made again, after an error or because the server closed one.
    pub reconnects: u64,
    /// Arrivals for which there was no time; their latency is recorded as what they had waited.
    pub unserved: u64,
}

impl Measured {
    pub fn new(window: Window) -> Measured {
        let seconds = window.length().as_nanos().div_ceil(1_000_000_000) as usize;
        Measured {
            window,
            records: Default::default(),
            seconds: vec![Second::default(); seconds],
            errors: BTreeMap::new(),
            reconnects: 0,
            unserved: 0,
        }
    }

    fn record(&mut self, kind: Kind) -> &mut Record {
        self.records[kind as usize].get_or_insert_with(|| Box::new(Record::new()))
    }

    fn second(&mut self, at: Instant) -> Option<&mut Second> {
        if !self.window.contains(at) {
            return None;
        }
        let second = at.saturating_since(self.window.begin).as_secs();
        self.seconds.get_mut(second as usize)
    }

    /// Something ended well.
    pub fn done(&mut self, end: End) {
        let window = self.window;
        let record = self.record(end.kind);
        if window.contains(end.began) {
            let latency = end.ended.saturating_since(end.began).as_nanos();
            record
                .latency_ns
                .saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
        }
        if window.contains(end.ended) {
            record.done += 1;
            record.bytes += end.bytes;
            record.keys += end.keys;
            if end.kind.is_operation()
                && let Some(second) = self.second(end.ended)
            {
                second.operations += 1;
                second.bytes += end.bytes;
            }
        }
    }

    /// Something failed; `name` says how. Its latency is not one of an answer and not recorded.
    pub fn failed(&mut self, kind: Kind, at: Instant, name: &str) {
        self.record(kind).errors += 1;
        self.count_error(name, 1);
        if let Some(second) = self.second(at) {
            second.errors += 1;
        }
    }

    fn count_error(&mut self, name: &str, count: u64) {
        let name = if self.errors.contains_key(name) || self.errors.len() < ERROR_KINDS_MAX {
            name
        } else {
            OTHER_ERRORS
        };
        *self.errors.entry(name.to_owned()).or_default() += count;
    }

    /// An arrival meant for `at` was given up at `now`.
    pub fn unserved(&mut self, kind: Kind, at: Instant, now: Instant) {
        self.unserved += 1;
        if self.window.contains(at) {
            let waited = now.saturating_since(at).as_nanos();
            self.record(kind)
                .latency_ns
                .saturating_record(u64::try_from(waited).unwrap_or(u64::MAX));
        }
    }

    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &Record)> {
        Kind::ALL
            .into_iter()
            .zip(&self.records)
            .filter_map(|(kind, record)| Some((kind, record.as_deref()?)))
    }

    /// By what went wrong.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Requests of all kinds that ended well within the window.
    pub fn requests(&self) -> u64 {
        self.kinds()
            .filter(|(kind, _)| kind.is_request())
            .map(|(_, record)| record.done)
            .sum()
    }

    /// All operations together.
    pub fn operations(&self) -> Record {
        let mut all = Record::new();
        for (_, record) in self.kinds().filter(|(kind, _)| kind.is_operation()) {
            all.merge(record);
        }
        all
    }

    /// Adds what another core saw in the same window.
    pub fn merge(&mut self, other: &Measured) {
        assert_eq!(self.window, other.window, "cores measure the same time");
        for (kind, theirs) in other.kinds() {
            self.record(kind).merge(theirs);
        }
        for (ours, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            ours.operations += theirs.operations;
            ours.bytes += theirs.bytes;
            ours.errors += theirs.errors;
        }
        for (name, count) in &other.errors {
            self.count_error(name, *count);
        }
        self.reconnects += other.reconnects;
        self.unserved += other.unserved;
    }
}

/// What people ask of a histogram, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    pub count: u64,
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Percentiles {
    /// `None` of nothing.
    pub fn of(latency_ns: &Histogram<u64>) -> Option<Percentiles> {
        if latency_ns.is_empty() {
            return None;
        }
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| us(latency_ns.value_at_quantile(quantile));
        Some(Percentiles {
            count: latency_ns.len(),
            min_us: us(latency_ns.min()),
            mean_us: latency_ns.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(latency_ns.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * MS)
    }

    fn window() -> Window {
        Window {
            begin: at(1000),
            end: at(3500),
        }
    }

    fn end(began: u64, ended: u64) -> End {
        End {
            kind: Kind::Get,
            began: at(began),
            ended: at(ended),
            bytes: 10,
            keys: 0,
        }
    }

    #[test]
    fn rates_go_by_the_end_and_latencies_by_the_beginning() {
        let mut measured = Measured::new(window());
        measured.done(end(900, 950)); // before it
        measured.done(end(900, 1000)); // ends in it
        measured.done(end(2500, 2600)); // all in it
        measured.done(end(3400, 9000)); // begins in it
        let all = measured.operations();
        assert_eq!((all.done, all.bytes, all.latency_ns.len()), (2, 20, 2));
        assert!(all.latency_ns.max() >= 5600 * MS);
        let seconds: Vec<u64> = measured.seconds.iter().map(|s| s.operations).collect();
        assert_eq!(seconds, [1, 1, 0]);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latency_ns = histogram();
        assert_eq!(Percentiles::of(&latency_ns), None);
        for ms in 1..=1000 {
            latency_ns.saturating_record(ms * MS);
        }
        let found = Percentiles::of(&latency_ns).unwrap();
        let near = |value: f64, expected_ms: f64| {
            assert!((value / 1e3 / expected_ms - 1.0).abs() < 0.002, "{value}");
        };
        assert_eq!(found.count, 1000);
        near(found.min_us, 1.0);
        near(found.mean_us, 500.5);
        near(found.p50_us, 500.0);
        near(found.p90_us, 900.0);
        near(found.p99_us, 990.0);
        near(found.p999_us, 999.0);
        near(found.max_us, 1000.0);
    }

    #[test]
    fn errors_are_counted_by_name_at_any_time_and_bounded() {
        let mut measured = Measured::new(window());
        measured.failed(Kind::Get, at(10), "503 SlowDown");
        measured.failed(Kind::Get, at(1500), "503 SlowDown");
        for n in 0..2 * ERROR_KINDS_MAX {
            measured.failed(Kind::Put, at(10), &format!("599 Code{n}"));
        }
        assert_eq!(measured.errors()["503 SlowDown"], 2);
        assert_eq!(measured.errors().len(), ERROR_KINDS_MAX + 1);
        assert_eq!(measured.error_count(), 2 + 2 * ERROR_KINDS_MAX as u64);
        assert_eq!(measured.seconds[0].errors, 1);
        assert_eq!(measured.operations().latency_ns.len(), 0);
    }

    #[test]
    fn merging_adds_everything() {
        let mut one = Measured::new(window());
        one.done(end(1000, 1001));
        one.failed(Kind::Put, at(1000), "reset");
        let mut two = one.clone();
        two.reconnects = 3;
        two.unserved(Kind::Get, at(3400), at(3600));
        one.merge(&two);
        assert_eq!(one.requests(), 2);
        assert_eq!(one.operations().latency_ns.len(), 3);
        assert_eq!(one.errors()["reset"], 2);
        assert_eq!((one.reconnects, one.unserved), (3, 1));
        assert_eq!(one.seconds[0].operations, 2);
    }

    #[test]
    fn an_upload_is_one_operation_of_several_requests() {
        let mut measured = Measured::new(window());
        for kind in [
            Kind::Create,
            Kind::Part,
            Kind::Part,
            Kind::Complete,
            Kind::Upload,
        ] {
            measured.done(End {
                kind,
                ..end(1000, 1100)
            });
        }
        assert_eq!(measured.requests(), 4);
        assert_eq!(measured.operations().done, 1);
    }
}
