//! What it costs to give back the space of small records that were overwritten.
//!
//! `keys` objects are overwritten in random order, `rounds` times their number, while segment files
//! that are mostly garbage are emptied and used again. A task that wants to run every millisecond
//! tells how long the core was away.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ostrakon::node::{self, Settings};
use ostrakon::object::ObjectStore;
use ostrakon::rt::{self, CoreId};
use shard_format::Head;

use crate::fill::{self, Step};
use crate::measure::{Draw, Meter, Percentiles, ResultHash, latencies};
use crate::scratch::{Scratch, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// Bytes of each object, inline
    #[arg(long, default_value_t = 16)]
    body: usize,
    /// Overwrites, in multiples of the keys
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Length of a segment file, MiB
    #[arg(long, default_value_t = 8)]
    segment_file: u64,
}

const TICK: Duration = Duration::from_millis(1);

pub fn run(options: &Options) -> Result<(), Failure> {
    let scratch = Scratch::new(&options.common, "reclaim")?;
    print_machine(scratch.path());
    println!("durability: every record by fdatasync before its acknowledgement");
    let (directory, options) = (scratch.path().to_owned(), options.clone());
    on_core(&options.common.clone(), move || async move {
        let length = options.segment_file << 20;
        let settings = Settings {
            segment_file_length: Some(length),
            ..Settings::default()
        };
        let layout = node::prepare(std::slice::from_ref(&directory), 1, &settings).await?;
        let share = node::start(&layout, CoreId(0), 1, None, &settings).await?;
        let volume = share.volumes[0].1.clone();
        let bucket = share
            .store
            .create_bucket("bucket", "bench", "local")
            .await?;
        let key = |n: u64| format!("key-{n:09}").into_bytes();
        let put = Step::Put {
            body_bytes: options.body,
        };
        let record = fill::encode(bucket.id, &key(0), put, share.store.link().map()).len() as u64;
        fill::apply(&share, bucket.id, (0..options.keys).map(key), put).await?;

        let late = Rc::new(RefCell::new(latencies()));
        let ticker = rt::spawn({
            let late = late.clone();
            async move {
                loop {
                    let start = Instant::now();
                    rt::sleep(TICK).await;
                    let over = start.elapsed().saturating_sub(TICK);
                    late.borrow_mut().saturating_record(over.as_nanos() as u64);
                }
            }
        });
        let meter = Meter::start();
        let mut draw = Draw::new(3);
        for _ in 0..options.rounds {
            let keys: Vec<Vec<u8>> = (0..options.keys)
                .map(|_| key(draw.below(options.keys)))
                .collect();
            fill::apply(&share, bucket.id, keys.into_iter(), put).await?;
        }
        let (wall, cpu) = meter.read();
        ticker.cancel();

        let overwrites = options.keys * options.rounds;
        let counters = volume.counters();
        let batches = volume.head_position(Head::Relocate).seq.0;
        let (files, live) = (volume.files().len() as u64, options.keys * record);
        println!(
            "{} keys, records of {record} bytes, {overwrites} overwrites in {:.2} s, {:.1} us CPU each",
            options.keys,
            wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / overwrites as f64
        );
        println!(
            "  freed {} files; moved {} MB in {batches} batches, {:.2} bytes an overwritten byte",
            counters.files_freed,
            counters.bytes_relocated / 1_000_000,
            counters.bytes_relocated as f64 / (overwrites * record) as f64
        );
        println!(
            "  {files} segment files at the end: {:.1} times the live bytes",
            (files * length) as f64 / live as f64
        );
        println!(
            "  the core was late meanwhile by: {}",
            Percentiles(&late.borrow())
        );
        let mut hash = ResultHash::default();
        hash.add_u64(counters.commits);
        println!("result hash {hash}");
        node::stop(&share).await?;
        Ok(())
    })
}
