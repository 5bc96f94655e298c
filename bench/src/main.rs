//! Component benchmarks: the engine's parts through their production code and driver, each as a
//! ratio to a peer measured in the same run, the two in turn.
//!
//! | command | measures | against |
//! |---|---|---|
//! | `log` | appends of 4 KiB and 1 MiB until they are durable | fio: same sizes, writers, flushes |
//! | `listing` | pages of 1,000 keys of 1 M keys, under delimiters and after deletes | a page of 10 k keys |
//! | `restart` | process start to the first object read, after a stop and after a kill | an empty store |
//! | `checkpoint` | writing the index's memory table, and what the core feels of it | 10 k keys |
//! | `codec` | encoding stripes and rebuilding a segment | two crates, ISA-L where there is one, memcpy |
//! | `md5` | entity tags of many uploads at once | the md-5 crate, memcpy |
//! | `reclaim` | emptying files of overwritten small records | their own bytes |
//!
//! Every command takes tiny sizes, which `tests/tiny.rs` runs so that none of them rots. Results are
//! folded into a hash that is printed, so that no work can be optimised away.

mod checkpoint;
mod codec;
mod fill;
mod fio;
mod isal;
mod listing;
mod log;
mod md5;
mod measure;
mod reclaim;
mod restart;
mod scratch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "ostrakon-bench",
    about = "Component benchmarks of the Ostrakon object store"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Log appends of 64 writers of 4 KiB and 8 of 1 MiB, against fio
    Log(log::Options),
    /// Pages of 1,000 keys, against a bucket of 10 thousand
    Listing(listing::Options),
    /// Time from the start of a process to its first answer
    Restart(restart::Options),
    /// Cost of an index checkpoint
    Checkpoint(checkpoint::Options),
    /// Erasure codes, against two crates, ISA-L and memcpy
    Codec(codec::Options),
    /// MD5 of 1 to 32 uploads at once, against the md-5 crate and memcpy
    Md5(md5::Options),
    /// Cost of giving back the space of overwritten records
    Reclaim(reclaim::Options),
    /// One process of `restart`
    #[command(hide = true)]
    Phase(restart::Phase),
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Where to work; a new directory in it is used and removed. Decides the drive under test.
    #[arg(long, default_value = "target/bench")]
    pub dir: PathBuf,
    /// Keep the data
    #[arg(long)]
    pub keep: bool,
    /// CPU of the core under test; default: the first that is allowed
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// Why a benchmark gave no result.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    pub fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }
}

/// Errors of the engine stay on their core; their text leaves it.
impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure(e.to_string())
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Log(options) => log::run(&options),
        Command::Listing(options) => listing::run(&options),
        Command::Restart(options) => restart::run(&options),
        Command::Checkpoint(options) => checkpoint::run(&options),
        Command::Codec(options) => codec::run(&options),
        Command::Md5(options) => md5::run(&options),
        Command::Reclaim(options) => reclaim::run(&options),
        Command::Phase(phase) => restart::run_phase(&phase),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ostrakon-bench: {}", e.0);
            ExitCode::FAILURE
        }
    }
}
