//! Pages of 1,000 keys: their cost follows the page, not the bucket.
//!
//! Each bucket holds `N` keys `p/0000-000`, `p/0000-001`, … and 999 keys `q/…` without a further
//! delimiter, so that one shape serves all questions:
//!
//! | page | asks for | shows |
//! |---|---|---|
//! | plain | a random place among the keys under `p/` | 1,000 keys |
//! | inside | prefix `p/`, delimiter `/`, a random place | 1,000 keys, none of them rolled up |
//! | over | delimiter `/` | `p/` rolled up into one entry, and 999 keys behind it |
//! | prefixes | prefix `p/`, delimiter `-`, from its start | a common prefix per 1,000 keys |
//!
//! The bucket `emptied` had `N` keys, of which every 1,000th is left.

use std::time::Instant;

use ostrakon::node::{self, CoreShare};
use ostrakon::object::{BucketInfo, ListEntry, ListRequest, ObjectStore};
use ostrakon::rt;

use crate::fill::{self, Step};
use crate::measure::{Draw, Meter, Percentiles, ResultHash, Spread, latencies};
use crate::scratch::{Scratch, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Keys of the large buckets
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Keys of the small bucket
    #[arg(long, default_value_t = 10_000)]
    small_keys: u64,
    /// Volumes, all on one core
    #[arg(long, default_value_t = 2)]
    volumes: u16,
    /// Rounds; in each every page is measured in turn
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Pages of a kind a round
    #[arg(long, default_value_t = 40)]
    pages: usize,
}

const PAGE_KEYS: usize = 1000;
/// Keys behind the prefix, so that a rolled-up page is as long as the others.
const BEHIND: u64 = PAGE_KEYS as u64 - 1;

fn key(n: u64) -> Vec<u8> {
    format!("p/{:06}-{:03}", n / 1000, n % 1000).into_bytes()
}

fn keys(count: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..count)
        .map(key)
        .chain((0..BEHIND).map(|n| format!("q{n:03}").into_bytes()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Plain,
    Inside,
    Over,
    Prefixes,
}

struct Case {
    name: String,
    bucket: BucketInfo,
    keys: u64,
    shape: Shape,
    /// Mean µs of a page, a value a round.
    us: Vec<f64>,
}

impl Case {
    fn new(name: impl Into<String>, bucket: &BucketInfo, keys: u64, shape: Shape) -> Case {
        Case {
            name: name.into(),
            bucket: bucket.clone(),
            keys,
            shape,
            us: Vec::new(),
        }
    }

    fn request(&self, draw: &mut Draw) -> ListRequest {
        let last = self.keys.saturating_sub(PAGE_KEYS as u64);
        let place = || key(draw.below(last + 1));
        let mut request = ListRequest {
            max_keys: PAGE_KEYS,
            ..ListRequest::default()
        };
        match self.shape {
            Shape::Plain => request.after = { place }(),
            Shape::Inside => {
                request.prefix = b"p/".to_vec();
                request.delimiter = Some(b"/".to_vec());
                request.after = { place }();
            }
            Shape::Over => request.delimiter = Some(b"/".to_vec()),
            Shape::Prefixes => {
                request.prefix = b"p/".to_vec();
                request.delimiter = Some(b"-".to_vec());
            }
        }
        request
    }

    async fn round(
        &mut self,
        share: &CoreShare,
        pages: usize,
        draw: &mut Draw,
        hash: &mut ResultHash,
    ) -> Result<usize, Failure> {
        let mut entries = 0;
        let mut us = Vec::with_capacity(pages);
        for _ in 0..pages {
            let request = self.request(draw);
            let start = Instant::now();
            let page = share.store.list(&self.bucket, request).await?;
            us.push(start.elapsed().as_secs_f64() * 1e6);
            entries = page.entries.len();
            for entry in &page.entries {
                match entry {
                    ListEntry::Object(o) => hash.add(&o.key),
                    ListEntry::Prefix(p) => hash.add(p),
                }
            }
        }
        // The median: other users of the machine make outliers, not a shift.
        self.us.push(Spread::of(us).median);
        Ok(entries)
    }
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let scratch = Scratch::new(&options.common, "listing")?;
    print_machine(scratch.path());
    let (directory, options) = (scratch.path().to_owned(), options.clone());
    on_core(&options.common.clone(), move || async move {
        let share = fill::open(&directory, options.volumes).await?;
        let result = measure(&share, &options).await;
        node::stop(&share).await?;
        result
    })
}

async fn measure(share: &CoreShare, options: &Options) -> Result<(), Failure> {
    let put = Step::Put { body_bytes: 16 };
    let make = async |name: &str, count: u64| -> Result<BucketInfo, Failure> {
        let bucket = share.store.create_bucket(name, "bench", "local").await?;
        let meter = Meter::start();
        let done = fill::apply(share, bucket.id, keys(count), put).await?;
        let (wall, cpu) = meter.read();
        println!(
            "filled {name}: {done} keys in {:.2} s, {:.1} us CPU a key",
            wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / done as f64
        );
        Ok(bucket)
    };
    let small = make("small", options.small_keys).await?;
    let large = make("large", options.keys).await?;
    let emptied = make("emptied", options.keys).await?;
    // Nobody looks at it before the keys of another are deleted: then it is as cold as that one.
    let cold = make("cold", options.small_keys).await?;
    fill::checkpoint(share).await?;

    let mut draw = Draw::new(1);
    let mut hash = ResultHash::default();
    let (s, n) = (options.small_keys, options.keys);
    let mut cases = vec![
        Case::new(format!("plain, {s} keys"), &small, s, Shape::Plain),
        Case::new(format!("plain, {n} keys"), &large, n, Shape::Plain),
        Case::new(
            format!("delimiter inside a prefix of {n}"),
            &large,
            n,
            Shape::Inside,
        ),
        Case::new(
            format!("delimiter over a prefix of {s}"),
            &small,
            s,
            Shape::Over,
        ),
        Case::new(
            format!("delimiter over a prefix of {n}"),
            &large,
            n,
            Shape::Over,
        ),
        Case::new(
            format!("{} common prefixes of 1000", n.div_ceil(1000).min(1000)),
            &large,
            n,
            Shape::Prefixes,
        ),
    ];
    println!("pages of {PAGE_KEYS}, checkpointed:");
    rounds(share, options, &mut cases, &mut draw, &mut hash).await?;

    let meter = Meter::start();
    let gone = (0..n).filter(|i| i % 1000 != 0).map(key);
    let deleted = fill::apply(share, emptied.id, gone, Step::Delete).await?;
    println!(
        "deleted {deleted} keys in {:.2} s",
        meter.read().0.as_secs_f64()
    );

    let after = |cases: &mut Vec<Case>| {
        cases.truncate(1);
        cases[0].us.clear();
        cases.push(Case::new(
            format!("{} left of {n}", n.div_ceil(1000)),
            &emptied,
            0,
            Shape::Over,
        ));
        cases.push(Case::new(
            "the same, without delimiter",
            &emptied,
            0,
            Shape::Plain,
        ));
        cases[2].shape = Shape::Plain;
    };
    after(&mut cases);
    // The one page that meets all that no checkpoint has taken away yet.
    let waiting: usize = share
        .volumes
        .iter()
        .map(|(_, v, _)| v.view().index.active_entries())
        .sum();
    let mut first_page = Vec::new();
    for bucket in [&cold, &emptied] {
        let request = ListRequest {
            max_keys: PAGE_KEYS,
            ..ListRequest::default()
        };
        let start = Instant::now();
        let page = share.store.list(bucket, request).await?;
        first_page.push((page.entries.len(), start.elapsed().as_secs_f64() * 1e6));
    }
    let [(_, cold), (entries, first)] = first_page[..] else {
        unreachable!("two pages");
    };
    println!(
        "the first page after the deletes, {waiting} changes in memory: {entries} entries, {first:.0} us, ratio to the \
         first page of a small bucket {:.2}",
        first / cold
    );
    println!("right after the deletes (their last part not yet checkpointed):");
    rounds(share, options, &mut cases, &mut draw, &mut hash).await?;
    fill::checkpoint(share).await?;
    after(&mut cases);
    println!("after the deletes, checkpointed:");
    rounds(share, options, &mut cases, &mut draw, &mut hash).await?;
    println!("result hash {hash}");
    Ok(())
}

/// Measures every case in turn, several times, and prints each against the first.
async fn rounds(
    share: &CoreShare,
    options: &Options,
    cases: &mut [Case],
    draw: &mut Draw,
    hash: &mut ResultHash,
) -> Result<(), Failure> {
    let mut entries = vec![0; cases.len()];
    for round in 0..=options.runs {
        for (case, entries) in cases.iter_mut().zip(&mut entries) {
            *entries = case.round(share, options.pages, draw, hash).await?;
            if round == 0 {
                // Warms the caches.
                case.us.clear();
            }
            rt::yield_now().await;
        }
    }
    let base = cases[0].us.clone();
    for (case, entries) in cases.iter().zip(entries) {
        let ratios = case.us.iter().zip(&base).map(|(us, base)| us / base);
        println!(
            "  {:<38} {entries:>5} entries, {:>7.0} us, ratio to the small bucket: {}",
            case.name,
            Spread::of(case.us.iter().copied()).median,
            Spread::of(ratios)
        );
    }
    let mut all = latencies();
    for us in cases.iter().flat_map(|c| &c.us) {
        all.saturating_record((us * 1e3) as u64);
    }
    println!("  all rounds: {}", Percentiles(&all));
    Ok(())
}
