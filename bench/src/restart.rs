//! From the start of a process to its first object, after a clean stop and after a kill.
//!
//! Every start is a process of its own (`phase`), as in production. *Cached* starts find the store's
//! pages in memory; for *cold* ones the page cache is told to forget them first.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum;
use ostrakon::node;
use ostrakon::object::{ObjectStore, ReadObject};

use crate::fill::{self, Step};
use crate::measure::{Draw, ResultHash, Spread};
use crate::scratch::{Scratch, forget_cache, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of each object, inline
    #[arg(long, default_value_t = 16)]
    body: usize,
    /// Volumes, all opened by one core, one after the other
    #[arg(long, default_value_t = 2)]
    volumes: u16,
    /// Starts of each kind
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Phase {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    task: Task,
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    body: usize,
    #[arg(long)]
    volumes: u16,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stay until killed instead of stopping cleanly
    #[arg(long)]
    hold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Put every key
    Fill,
    /// Read one key
    Open,
    /// Put a tenth of the keys again
    Change,
}

const BUCKET: &str = "bucket";

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:09}").into_bytes()
}

/// What a start took, in ms from the start of the process but for `open`.
struct Started {
    /// From preparing the directory to all volumes open.
    open_ms: f64,
    /// From the start of the process to the first object read.
    first_get_ms: f64,
    replayed: f64,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let scratch = Scratch::new(&options.common, "restart")?;
    print_machine(scratch.path());
    println!("durability: every record by fdatasync before its acknowledgement");
    let store = scratch.path().join("store");
    let empty = scratch.path().join("empty");
    std::fs::create_dir(&store)?;
    std::fs::create_dir(&empty)?;
    let few = Options {
        keys: 1,
        ..options.clone()
    };
    phase(&few, &empty, Task::Fill, 0, false)?;
    let begun = Instant::now();
    phase(options, &store, Task::Fill, 0, false)?;
    println!(
        "filled {} keys of {} bytes and stopped, {:.1} s",
        options.keys,
        options.body,
        begun.elapsed().as_secs_f64()
    );

    let mut hash = ResultHash::default();
    let mut all: [(&str, Vec<Started>); 4] = [
        ("one key, clean stop, cached", Vec::new()),
        ("clean stop, cached", Vec::new()),
        ("clean stop, cold", Vec::new()),
        ("killed under load, cached", Vec::new()),
    ];
    for run in 0..options.runs {
        let seed = run as u64;
        all[0].1.push(start(&few, &empty, seed, &mut hash)?);
        all[1].1.push(start(options, &store, seed, &mut hash)?);
        forget_cache(&store)?;
        all[2].1.push(start(options, &store, seed, &mut hash)?);
        // A tenth of the keys again, killed the moment the last is durable.
        phase(options, &store, Task::Change, seed, true)?;
        all[3].1.push(start(options, &store, seed, &mut hash)?);
    }
    println!(
        "{} keys, {} volumes on one core, ms:",
        options.keys, options.volumes
    );
    for (name, starts) in &all {
        println!("  {name}:");
        println!(
            "    volumes open:               {}",
            Spread::of(starts.iter().map(|s| s.open_ms))
        );
        println!(
            "    process start to first GET: {}",
            Spread::of(starts.iter().map(|s| s.first_get_ms))
        );
        println!(
            "    records replayed:           {}",
            Spread::of(starts.iter().map(|s| s.replayed))
        );
    }
    println!("result hash {hash}");
    Ok(())
}

/// Opens the store in a new process, reads one object, stops it cleanly.
fn start(
    options: &Options,
    store: &Path,
    seed: u64,
    hash: &mut ResultHash,
) -> Result<Started, Failure> {
    let (line, ms) = phase(options, store, Task::Open, seed, false)?;
    let mut words = line.split(' ').skip(1).map(str::parse::<f64>);
    let mut next = || {
        words
            .next()
            .ok_or_else(|| Failure::new("a short answer"))?
            .map_err(Failure::from)
    };
    let (open_ms, replayed, bytes) = (next()?, next()?, next()?);
    hash.add_u64(bytes as u64);
    Ok(Started {
        open_ms,
        first_get_ms: ms,
        replayed,
    })
}

/// Runs one process until it has said that its task is done; returns what it said and how many ms
/// after its start. It then stops cleanly, or is killed if it was told to `hold`.
fn phase(
    options: &Options,
    store: &Path,
    task: Task,
    seed: u64,
    hold: bool,
) -> Result<(String, f64), Failure> {
    let task = task.to_possible_value().expect("none is skipped");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("phase")
        .arg("--dir")
        .arg(store)
        .arg("--task")
        .arg(task.get_name());
    command.args(["--keys", &options.keys.to_string()]);
    command.args(["--body", &options.body.to_string()]);
    command.args(["--volumes", &options.volumes.to_string()]);
    command.args(["--seed", &seed.to_string()]);
    if let Some(cpu) = options.common.cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
    if hold {
        command.arg("--hold");
    }
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or_else(|| Failure::new("no pipe"))?;
    BufReader::new(out).read_line(&mut line)?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    if hold {
        child.kill()?;
        child.wait()?;
    } else if !child.wait()?.success() {
        return Err(Failure::new("a process of the benchmark failed"));
    }
    if line.is_empty() {
        return Err(Failure::new("a process of the benchmark ended early"));
    }
    Ok((line.trim().to_owned(), ms))
}

pub fn run_phase(phase: &Phase) -> Result<(), Failure> {
    let (store, phase): (PathBuf, Phase) = (phase.common.dir.clone(), phase.clone());
    on_core(&phase.common.clone(), move || async move {
        let begun = Instant::now();
        let share = fill::open(&store, phase.volumes).await?;
        let open_ms = begun.elapsed().as_secs_f64() * 1e3;
        let put = Step::Put {
            body_bytes: phase.body,
        };
        let mut draw = Draw::new(phase.seed);
        let said = match phase.task {
            Task::Fill => {
                let bucket = share.store.create_bucket(BUCKET, "bench", "local").await?;
                let done = fill::apply(&share, bucket.id, (0..phase.keys).map(key), put).await?;
                format!("done {done}")
            }
            Task::Change => {
                let bucket = share.store.bucket(BUCKET).await?;
                let keys: Vec<Vec<u8>> = (0..phase.keys.div_ceil(10))
                    .map(|_| key(draw.below(phase.keys)))
                    .collect();
                let done = fill::apply(&share, bucket.id, keys.into_iter(), put).await?;
                format!("done {done}")
            }
            Task::Open => {
                let bucket = share.store.bucket(BUCKET).await?;
                let mut reader = share
                    .store
                    .get(&bucket, &key(draw.below(phase.keys)))
                    .await?;
                let mut bytes = 0;
                while let Some(piece) = reader.next().await? {
                    bytes += piece.len();
                }
                let replayed: u64 = share
                    .volumes
                    .iter()
                    .map(|(_, _, r)| r.commands_replayed)
                    .sum();
                format!("opened {open_ms} {replayed} {bytes}")
            }
        };
        println!("{said}");
        std::io::stdout().flush()?;
        if phase.hold {
            std::future::pending::<()>().await;
        }
        node::stop(&share).await?;
        Ok(())
    })
}
