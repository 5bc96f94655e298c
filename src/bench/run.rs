//! The main thread of a run: phases on cores of their own, and what is looked at between them.
//!
//! ```text
//! bucket ── per size:  fill ── ceiling (null server) ── load ── clear ── ... ── bucket
//!                                                        │
//!                        usage of the server at the window's two borders
//! ```

use std::io::IsTerminal;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::bucket;
use super::keys;
use super::load::{self, Live, Load, Outcome, Share, Start, Task, Times};
use super::measure::{Measured, Window};
use super::null;
use super::server_usage::{Process, Usage, Used};
use super::workload::Workload;
use crate::rt::net::Claim;
use crate::rt::{self, CoreId, CoreThread, Instant};
use crate::signals::Event;

/// Longest time to put or to delete the key space.
const PREPARE_TIME_MAX: Duration = Duration::from_secs(3600);

/// From setting the clock to the first request: every core has heard of it by then.
const START_DELAY: Duration = Duration::from_millis(20);

/// Warm-up of the ceiling's measurement.
const CEILING_WARM_UP: Duration = Duration::from_millis(300);

/// Keys that deletes of the ceiling's measurement may use up.
const CEILING_KEYS: u64 = 1_000_000_000;

/// How often the main thread looks whether a phase has ended, and redraws.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Pool memory of a core beside its connections: the receive buffers of the reactor, and slack for
/// what does not divide.
const ARENA_SPARE: usize = 8 << 20;

/// All that a run does.
#[derive(Clone)]
pub struct Plan {
    /// Its size and task are those of the first measurement.
    pub load: Load,
    pub workload: Workload,
    pub rate: Option<f64>,
    pub sizes: Vec<u64>,
    pub connections: usize,
    pub duration: Duration,
    pub warm_up: Duration,
    pub cores: usize,
    /// Empty: not pinned.
    pub cpus: Vec<usize>,
    pub pid: Option<i32>,
    pub prepare: bool,
    pub keep: bool,
    /// Zero: not measured.
    pub ceiling: Duration,
    pub errors_max: u64,
    pub note: Option<String>,
    pub json: Option<PathBuf>,
}

/// One measurement.
pub struct Measurement {
    pub size: u64,
    pub measured: Measured,
    /// Of the window, or shorter if the keys were used up.
    pub elapsed: Duration,
    /// CPU time of all cores within it.
    pub cpu: Duration,
    pub exhausted: bool,
    pub server: Option<Used>,
    pub ceiling: Option<Ceiling>,
}

/// The same load against a null server.
pub struct Ceiling {
    pub measured: Measured,
    pub elapsed: Duration,
    pub cpu: Duration,
    /// CPU time of the null server, from its start to its end.
    pub null_cpu: Duration,
    pub null_requests: u64,
    /// Where the null server ran.
    pub null_cpu_number: Option<usize>,
    /// That CPU was the generator's too.
    pub shared: bool,
}

/// How a core of the generator is set up.
pub fn reactor(arena_bytes: usize, spin: bool) -> rt::Config {
    rt::Config {
        arena_bytes: arena_bytes + ARENA_SPARE,
        helpers: 0,
        picked_buffers: 16,
        spin,
        // Sockets gain nothing from it, and the limit of locked memory is the server's.
        register: false,
        ..rt::Config::default()
    }
}

/// Runs all of it. `note` is told what went wrong without spoiling the result.
pub fn run(plan: &Plan, note: &mut dyn FnMut(String)) -> Result<Vec<Measurement>, String> {
    let process = plan
        .pid
        .map(|pid| Process::new(pid).map_err(|error| format!("--pid {pid}: {error}")))
        .transpose()?;
    let made = plan.prepare && bucket::make(&plan.load)?;
    let mut done = Vec::new();
    let result = plan.sizes.iter().try_for_each(|&size| {
        done.push(one(plan, size, process.as_ref(), note)?);
        Ok(())
    });
    if made && !plan.keep {
        // Not empty: something went wrong before, which is the news.
        if let Err(error) = bucket::remove(&plan.load) {
            note(error);
        }
    }
    result.map(|()| done)
}

/// One size.
fn one(
    plan: &Plan,
    size: u64,
    process: Option<&Process>,
    note: &mut dyn FnMut(String),
) -> Result<Measurement, String> {
    let mut load = plan.load.clone();
    load.size = size;
    let shares: Vec<Range<u64>> = (0..plan.cores)
        .map(|core| keys::share(load.objects, core, plan.cores))
        .collect();
    let fills = plan.prepare && plan.workload.needs_keys();
    if fills {
        load.task = Task::Fill;
        let filled = Phase::whole("preparing", load.objects).run(plan, &load, &shares, None)?;
        if let Some((name, _)) = filled.measured.errors().first_key_value() {
            return Err(format!("preparing the keys: {name}"));
        }
    }
    let ceiling = (!plan.ceiling.is_zero())
        .then(|| ceiling(plan, &load, process))
        .transpose()?;
    load.task = Task::Run {
        workload: plan.workload,
        rate: plan.rate,
    };
    let phase = Phase {
        name: plan.workload.name(),
        warm_up: plan.warm_up,
        window: plan.duration,
        keys: None,
    };
    let ran = phase.run(plan, &load, &shares, process)?;
    // What was there before stays.
    if !plan.keep && (fills || !plan.workload.needs_keys()) {
        load.task = Task::Clear;
        let count = ran.leaves.iter().map(|keys| keys.end - keys.start).sum();
        let cleared = Phase::whole("cleaning up", count).run(plan, &load, &ran.leaves, None)?;
        if let Some((name, count)) = cleared.measured.errors().first_key_value() {
            note(format!("cleaning up: {name} ({count} times)"));
        }
    }
    Ok(Measurement {
        size,
        measured: ran.measured,
        elapsed: ran.elapsed,
        cpu: ran.cpu,
        exhausted: ran.exhausted,
        server: ran.used,
        ceiling,
    })
}

/// CPU for the null server, and whether the generator has it too.
fn null_cpu(plan: &Plan, process: Option<&Process>) -> (Option<usize>, bool) {
    let Ok(available) = rt::available_cpus() else {
        return (None, false);
    };
    let pinned = process
        .and_then(|process| process.cpus().ok())
        .filter(|cpus| cpus.len() < available.len())
        .unwrap_or_default();
    let free = |cpu: &&usize| !plan.cpus.contains(cpu);
    let chosen = pinned
        .iter()
        .find(free)
        .or_else(|| pinned.first())
        .or_else(|| available.iter().rev().find(free))
        .or_else(|| available.last());
    let shared = chosen.is_some_and(|cpu| plan.cpus.contains(cpu)) || available.len() == 1;
    (chosen.copied(), shared)
}

fn ceiling(plan: &Plan, load: &Load, process: Option<&Process>) -> Result<Ceiling, String> {
    let claim = Claim::new(([127, 0, 0, 1], 0).into())
        .map_err(|error| format!("the null server cannot listen: {error}"))?;
    let mut load = load.clone();
    load.address = claim.address();
    load.verify = false;
    load.task = Task::Run {
        workload: plan.workload,
        rate: None,
    };
    let settings = null::Settings {
        size: load.size,
        stall: Duration::ZERO,
    };
    let (cpu, shared) = null_cpu(plan, process);
    let stop = Event::default();
    let config = reactor(null::arena_bytes(&settings, plan.connections), false);
    // A number that no core of the generator has.
    let id = CoreId(u16::try_from(plan.cores).map_err(|_| "too many cores")?);
    let thread = {
        let stop = stop.clone();
        rt::spawn_core(id, cpu, config, move || null::serve(claim, settings, stop))
            .map_err(|error| format!("the null server cannot be started: {error}"))?
    };
    let keys = match plan.workload {
        Workload::Delete => CEILING_KEYS,
        _ => load.objects,
    };
    let shares: Vec<Range<u64>> = (0..plan.cores)
        .map(|core| keys::share(keys, core, plan.cores))
        .collect();
    let phase = Phase {
        name: "ceiling",
        warm_up: CEILING_WARM_UP,
        window: plan.ceiling,
        keys: None,
    };
    let ran = phase.run(plan, &load, &shares, None);
    stop.request();
    let served = thread
        .join()
        .map_err(|_| "the null server ended by a panic")?;
    let ran = ran?;
    Ok(Ceiling {
        measured: ran.measured,
        elapsed: ran.elapsed,
        cpu: ran.cpu,
        null_cpu: served.cpu,
        null_requests: served.requests,
        null_cpu_number: cpu,
        shared,
    })
}

/// One load on all cores, from connecting to the end of its drain.
struct Phase {
    name: &'static str,
    warm_up: Duration,
    window: Duration,
    /// How many there are to go through, if that ends it.
    keys: Option<u64>,
}

struct Ran {
    measured: Measured,
    elapsed: Duration,
    cpu: Duration,
    exhausted: bool,
    leaves: Vec<Range<u64>>,
    used: Option<Used>,
}

impl Phase {
    /// One that ends when all keys are done.
    fn whole(name: &'static str, keys: u64) -> Phase {
        Phase {
            name,
            warm_up: Duration::ZERO,
            window: PREPARE_TIME_MAX,
            keys: Some(keys),
        }
    }

    fn run(
        &self,
        plan: &Plan,
        load: &Load,
        shares: &[Range<u64>],
        process: Option<&Process>,
    ) -> Result<Ran, String> {
        let (tell, hear) = mpsc::channel();
        let start = Start::default();
        let live: Vec<Arc<Live>> = shares.iter().map(|_| Arc::default()).collect();
        let mut threads: Vec<CoreThread<Option<Outcome>>> = Vec::new();
        let mut failure = None;
        for (core, keys) in shares.iter().enumerate() {
            let connections = keys::share(plan.connections as u64, core, plan.cores);
            let connections = (connections.end - connections.start) as usize;
            let share = Share {
                core,
                cores: plan.cores,
                connections,
                keys: keys.clone(),
                live: live[core].clone(),
                ready: tell.clone(),
                start: start.clone(),
            };
            let cpu = plan.cpus.get(core % plan.cpus.len().max(1)).copied();
            let spin = cpu.is_some() && plan.cores <= plan.cpus.len();
            let config = reactor(connections * load.sizes().buffers() * 5 / 4, spin);
            let load = load.clone();
            let id = CoreId(core as u16);
            match rt::spawn_core(id, cpu, config, move || load::run(load, share)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    failure = Some(format!("a core cannot be started: {error}"));
                    break;
                }
            }
        }
        drop(tell);
        // Ends when all have told, or are gone.
        for told in hear {
            failure = failure.or(told.err());
        }
        if let Some(failure) = failure {
            start.set(None);
            for thread in threads {
                let _ = thread.join();
            }
            return Err(failure);
        }
        let origin = rt::now() + START_DELAY;
        let begin = origin + self.warm_up;
        let window = Window {
            begin,
            end: begin + self.window,
        };
        start.set(Some(Times { origin, window }));

        let bar = self.bar();
        self.wait_until(begin, &threads, &live, &bar, origin);
        let before = process.map(Process::usage);
        self.wait_until(window.end, &threads, &live, &bar, origin);
        let after = process.map(Process::usage);
        let mut outcomes = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(Some(outcome)) => outcomes.push(outcome),
                _ => failure = Some("a core ended by a panic".to_owned()),
            }
        }
        bar.finish_and_clear();
        match failure {
            Some(failure) => Err(failure),
            None => Ok(Ran::of(window, outcomes, before, after)),
        }
    }

    fn wait_until(
        &self,
        moment: Instant,
        threads: &[CoreThread<Option<Outcome>>],
        live: &[Arc<Live>],
        bar: &ProgressBar,
        origin: Instant,
    ) {
        loop {
            let left = moment.saturating_since(rt::now());
            if left.is_zero() || threads.iter().all(CoreThread::is_finished) {
                return;
            }
            std::thread::sleep(left.min(LOOK_INTERVAL));
            if bar.is_hidden() {
                continue;
            }
            let sum = |counter: fn(&Live) -> u64| live.iter().map(|l| counter(l)).sum::<u64>();
            let done = sum(|live| live.operations.load(Ordering::Relaxed));
            let errors = sum(|live| live.errors.load(Ordering::Relaxed));
            bar.set_position(match self.keys {
                Some(_) => done,
                None => rt::now().saturating_since(origin).as_millis() as u64,
            });
            let errors = match errors {
                0 => String::new(),
                some => format!(", {some} errors"),
            };
            bar.set_message(format!("{done} operations{errors}"));
        }
    }

    fn bar(&self) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let length = self
            .keys
            .unwrap_or((self.warm_up + self.window).as_millis() as u64);
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let template = ProgressStyle::with_template("{prefix:>12} [{bar:40}] {percent:>3} % {msg}");
        bar.set_style(template.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(self.name);
        bar
    }
}

impl Ran {
    fn of(
        window: Window,
        outcomes: Vec<Outcome>,
        before: Option<std::io::Result<Usage>>,
        after: Option<std::io::Result<Usage>>,
    ) -> Ran {
        let mut measured = Measured::new(window);
        let mut cpu = Duration::ZERO;
        let mut finished = window.begin;
        let mut exhausted = false;
        for outcome in &outcomes {
            measured.merge(&outcome.measured);
            cpu += outcome.cpu;
            finished = finished.max(outcome.finished);
            exhausted |= outcome.exhausted;
        }
        let used = match (before, after) {
            (Some(Ok(before)), Some(Ok(after))) => Some(Used::between(&before, &after)),
            _ => None,
        };
        Ran {
            measured,
            elapsed: finished.min(window.end).saturating_since(window.begin),
            cpu,
            exhausted,
            leaves: outcomes.into_iter().map(|one| one.leaves).collect(),
            used,
        }
    }
}
