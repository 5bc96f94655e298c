//! `ostrakon sim`: runs seeds and says what each did.

use std::time::Instant;

use clap::Parser;

use super::{
    Faults, Options, Summary, Violation,
    boundaries::{self, Boundary},
    run,
};
use crate::plant;

/// Run the store on simulated disks and time, and check every answer against a plain model.
///
/// A seed that breaks a promise is printed and can be run again: the same seed does the same thing.
#[derive(Parser)]
#[command(name = "ostrakon sim")]
struct Arguments {
    /// First seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run, one after the other.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Kind of faults (crash, full, io, rot); drawn by the seed if not given.
    #[arg(long, value_parser = |s: &str| Faults::parse(s).ok_or("crash, full, io or rot"))]
    faults: Option<Faults>,
    /// Live a short life once for each write, flush and commit in it, with the power cut there.
    #[arg(long, conflicts_with_all = ["faults", "cut"])]
    every_boundary: bool,
    /// One of those lives: load or recovery, the operation, and before, middle or after it, as in load:17:middle.
    #[arg(long, conflicts_with = "faults")]
    cut: Option<Boundary>,
    /// Plant a bug to see it found (needs a build with the feature `plant`).
    #[arg(long)]
    plant: Option<String>,
    /// Say what happens as it happens.
    #[arg(long)]
    verbose: bool,
}

#[cfg(feature = "plant")]
fn choose(bug: Option<&str>) -> Result<(), String> {
    plant::choose(bug).map_err(|e| {
        let names: Vec<&str> = plant::BUGS.iter().map(|(n, _)| *n).collect();
        format!("sim: {e}; there are {}", names.join(", "))
    })
}

#[cfg(not(feature = "plant"))]
fn choose(bug: Option<&str>) -> Result<(), String> {
    let _ = plant::BUGS;
    match bug {
        None => Ok(()),
        Some(_) => Err("sim: bugs can be planted only in a build with --features plant".into()),
    }
}

enum Lived {
    Once(Summary),
    /// Once for each boundary.
    Often(u64),
    NotSoLong,
}

fn live(arguments: &Arguments, seed: u64) -> Result<Lived, Violation> {
    if arguments.every_boundary {
        return boundaries::run_all(seed).map(Lived::Often);
    }
    if let Some(boundary) = arguments.cut {
        let lived = boundaries::run_until(seed, boundary, arguments.verbose)?;
        return Ok(lived.map_or(Lived::NotSoLong, Lived::Once));
    }
    let options = Options {
        seed,
        faults: arguments.faults,
        verbose: arguments.verbose,
    };
    run(&options).map(Lived::Once)
}

/// Runs the command with its arguments (without the word `sim`).
#[allow(clippy::disallowed_methods)] // Wall time of the run itself, for people; nothing simulated sees it.
pub fn main(arguments: Vec<String>) -> Result<(), String> {
    let arguments = match Arguments::try_parse_from(
        std::iter::once("ostrakon sim".to_owned()).chain(arguments),
    ) {
        Ok(a) => a,
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return Ok(());
        }
        Err(e) => return Err(e.to_string()),
    };
    choose(arguments.plant.as_deref())?;
    let started = Instant::now();
    let (mut operations, mut lives) = (0, 0);
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.count) {
        match live(&arguments, seed) {
            Ok(Lived::Once(summary)) => {
                operations += summary.operations;
                lives += 1;
                if arguments.count == 1 || arguments.verbose {
                    println!("{summary}");
                }
            }
            Ok(Lived::NotSoLong) => println!("seed {seed}: the phase was over before"),
            Ok(Lived::Often(all)) => {
                lives += all;
                println!("seed {seed} ok: the power was cut at {all} boundaries");
            }
            Err(violation) => {
                let planted = arguments
                    .plant
                    .as_ref()
                    .map(|p| format!(" --plant {p}"))
                    .unwrap_or_default();
                let faults = arguments
                    .faults
                    .map(|f| format!(" --faults {f}"))
                    .unwrap_or_default();
                let cut = arguments
                    .cut
                    .map(|c| format!(" --cut {c}"))
                    .unwrap_or_default();
                let verbose = if arguments.every_boundary {
                    " --every-boundary"
                } else {
                    " --verbose"
                };
                return Err(format!(
                    "sim: {violation}\n  run it again: ostrakon sim --seed {seed}{faults}{cut}{planted}{verbose}"
                ));
            }
        }
    }
    if arguments.count > 1 {
        println!(
            "{} seeds ok, {lives} lives, {operations} operations, {:.1} s",
            arguments.count,
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
