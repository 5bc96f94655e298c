//! The store in the simulator: thousands of lives, and every planted bug found.
//!
//! `OSTRAKON_SIM_SEEDS=N` runs N seeds per kind of faults instead of the default. A failing seed is printed with the
//! command that runs it again.

use ostrakon::simulation::{self, Faults, Options, run};

fn seeds() -> u64 {
    match std::env::var("OSTRAKON_SIM_SEEDS") {
        Ok(n) => n.parse().expect("OSTRAKON_SIM_SEEDS is a number"),
        Err(_) => 500,
    }
}

fn lives(faults: Faults) {
    let mut operations = 0;
    let mut reclaimed = 0;
    let mut rebuilds = 0;
    for seed in 0..seeds() {
        let options = Options {
            seed,
            faults: Some(faults),
            verbose: false,
        };
        match run(&options) {
            Ok(summary) => {
                operations += summary.operations;
                reclaimed += summary.files_freed;
                rebuilds += summary.rebuilds;
            }
            Err(violation) => {
                panic!(
                    "{violation}\n  run it again: ostrakon sim --seed {seed} --faults {faults} --verbose"
                )
            }
        }
    }
    println!(
        "{} seeds of {faults}: {operations} operations, {reclaimed} files reclaimed, {rebuilds} rebuilds",
        seeds()
    );
    // A simulation in which nothing happens would pass too.
    assert!(operations > 50 * seeds() && reclaimed > seeds() && u64::from(rebuilds) > seeds() / 4);
}

#[test]
fn power_cuts_and_crashes_lose_nothing() {
    lives(Faults::Crash);
}

#[test]
fn full_drives_lose_nothing_and_can_be_emptied() {
    lives(Faults::Full);
}

#[test]
fn failing_writes_and_flushes_lose_nothing() {
    lives(Faults::Io);
}

#[test]
fn damaged_bytes_are_never_taken_for_absence_or_data() {
    lives(Faults::Rot);
}

/// Before, in the middle of and after every single write, flush and commit of some short lives.
#[test]
fn a_power_cut_at_any_boundary_loses_nothing() {
    const SEEDS: u64 = 6;
    let mut boundaries = 0;
    for seed in 0..SEEDS {
        boundaries += simulation::boundaries::run_all(seed).unwrap_or_else(|violation| {
            panic!("{violation}\n  run it again: ostrakon sim --seed {seed} --cut ... --verbose")
        });
    }
    println!("{SEEDS} lives, cut at {boundaries} boundaries");
    assert!(boundaries > 500 * SEEDS);
}

#[test]
fn the_same_seed_does_the_same_thing() {
    for seed in 0..5 {
        let options = Options {
            seed,
            faults: None,
            verbose: false,
        };
        let (a, b) = (run(&options).expect("holds"), run(&options).expect("holds"));
        assert_eq!(a.trace, b.trace, "seed {seed}");
        assert_eq!(a.operations, b.operations, "seed {seed}");
    }
}

/// Each bug is found by the ordinary check with seeds that pass without it.
#[cfg(feature = "plant")]
#[test]
fn every_planted_bug_is_found() {
    use ostrakon::plant;
    // Ordinary seeds, from 0 on; how many are tried at most.
    const TRIES: u64 = 400;
    for (bug, rule) in plant::BUGS {
        let faults = None;
        let mut found = None;
        for seed in 0..TRIES {
            let options = Options {
                seed,
                faults,
                verbose: false,
            };
            plant::choose(Some(bug)).expect("it is in the list");
            let with = std::panic::catch_unwind(|| run(&options));
            plant::choose(None).expect("none is always there");
            if !matches!(with, Ok(Ok(_))) {
                run(&options).unwrap_or_else(|v| panic!("{v} without any bug planted"));
                found = Some((
                    seed,
                    with.map_or("an assertion".to_owned(), |r| r.expect_err("checked").what),
                ));
                break;
            }
        }
        match found {
            Some((seed, what)) => println!("{bug}: found by seed {seed}: {what}"),
            None => panic!("{bug} ({rule}) is not found by {TRIES} seeds"),
        }
    }
}
