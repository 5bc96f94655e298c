//! What a checkpoint of the index costs, and what the core feels of it.
//!
//! The index holds `keys` keys; a checkpoint writes `changes` new versions of random ones. A task that
//! wants to run every millisecond tells how long the core was away.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ostrakon::node;
use ostrakon::object::ObjectStore;
use ostrakon::rt;

use crate::fill::{self, Step};
use crate::measure::{Draw, Meter, Percentiles, ResultHash, Spread, latencies};
use crate::scratch::{Scratch, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Keys of the large store; the small one has a hundredth
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Versions a checkpoint writes; fewer than what starts one by itself
    #[arg(long, default_value_t = 50_000)]
    changes: u64,
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

const TICK: Duration = Duration::from_millis(1);

struct Measured {
    us_per_change: f64,
    cpu_us_per_change: f64,
    seconds: f64,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let scratch = Scratch::new(&options.common, "checkpoint")?;
    print_machine(scratch.path());
    println!(
        "durability: one synchronous LMDB transaction a checkpoint; records by fdatasync before"
    );
    let (directory, options) = (scratch.path().to_owned(), options.clone());
    on_core(&options.common.clone(), move || async move {
        let mut hash = ResultHash::default();
        let small = series(
            &directory.join("small"),
            options.keys / 100,
            &options,
            &mut hash,
        )
        .await?;
        let large = series(&directory.join("large"), options.keys, &options, &mut hash).await?;
        let ratio = large
            .iter()
            .zip(&small)
            .map(|(l, s)| l.us_per_change / s.us_per_change);
        println!(
            "wall time a change, {} keys to {}: {}",
            options.keys,
            options.keys / 100,
            Spread::of(ratio)
        );
        println!("result hash {hash}");
        Ok(())
    })
}

async fn series(
    directory: &std::path::Path,
    keys: u64,
    options: &Options,
    hash: &mut ResultHash,
) -> Result<Vec<Measured>, Failure> {
    rt::fs::create_dir(directory).await?;
    let share = fill::open(directory, 1).await?;
    let bucket = share
        .store
        .create_bucket("bucket", "bench", "local")
        .await?;
    let key = |n: u64| format!("key-{n:09}").into_bytes();
    let put = Step::Put { body_bytes: 16 };
    fill::apply(&share, bucket.id, (0..keys).map(key), put).await?;
    fill::checkpoint(&share).await?;
    let mut draw = Draw::new(2);
    let mut all = Vec::new();
    let late = Rc::new(RefCell::new(latencies()));
    for _ in 0..options.runs {
        let changed: Vec<Vec<u8>> = (0..options.changes)
            .map(|_| key(draw.below(keys.max(1))))
            .collect();
        fill::apply(&share, bucket.id, changed.into_iter(), put).await?;
        let stop = Rc::new(Cell::new(false));
        let ticker = rt::spawn({
            let (stop, late) = (stop.clone(), late.clone());
            async move {
                while !stop.get() {
                    let start = Instant::now();
                    rt::sleep(TICK).await;
                    let over = start.elapsed().saturating_sub(TICK);
                    late.borrow_mut().saturating_record(over.as_nanos() as u64);
                }
            }
        });
        let before = share.volumes[0].1.counters().checkpoints;
        let meter = Meter::start();
        fill::checkpoint(&share).await?;
        let (wall, cpu) = meter.read();
        stop.set(true);
        ticker.await;
        hash.add_u64(share.volumes[0].1.counters().checkpoints - before);
        all.push(Measured {
            us_per_change: wall.as_secs_f64() * 1e6 / options.changes as f64,
            cpu_us_per_change: cpu.as_secs_f64() * 1e6 / options.changes as f64,
            seconds: wall.as_secs_f64(),
        });
    }
    println!(
        "{keys} keys, {} random changes a checkpoint, {} runs:",
        options.changes, options.runs
    );
    println!("  seconds: {}", Spread::of(all.iter().map(|m| m.seconds)));
    println!(
        "  us a change, wall: {}",
        Spread::of(all.iter().map(|m| m.us_per_change))
    );
    println!(
        "  us a change, CPU: {}",
        Spread::of(all.iter().map(|m| m.cpu_us_per_change))
    );
    println!(
        "  the core was late meanwhile by: {}",
        Percentiles(&late.borrow())
    );
    node::stop(&share).await?;
    Ok(all)
}
