//! The simulator: a whole store on virtual drives and time, under a random load, with faults, checked against a plain
//! model.
//!
//! One seed is one life of a store: a drawn scenario (cores, volumes, drive size, kind of faults), several rounds of
//! load, each ended by a power cut or crash at a drawn operation, and after each restart a look at every key. The code
//! under test is the production code down to the file handles; drives, clock, helper threads and the index's store are
//! simulated. `ostrakon sim --seed N` runs one seed and says what happened. [`boundaries`] cuts one life everywhere.
//!
//! | faults | acknowledged states | errors |
//! |---|---|---|
//! | `crash`: power cuts and crashes | never lost | none |
//! | `full`: a small drive | never lost | puts may answer full; the drive can be emptied |
//! | `io`: failing writes and flushes | never lost | the volume goes read-only until restarted |
//! | `rot`: bad sectors, misdirected and lost writes | never wrong, never absent | unreadable, unavailable |
//!
//! Under every load the drive also hangs on single reads, for up to ten seconds, while everything else goes on.

pub mod boundaries;
pub mod command;
mod model;
mod uploads;
mod workload;

use std::{cell::RefCell, collections::BTreeSet, fmt, path::PathBuf, rc::Rc, time::Duration};

use shard_format::Scheme;

use self::{
    model::Model,
    workload::{Client, Load, Reader, Verdict},
};
use crate::{
    index::{StoreKind, twin},
    limits::LEASE_TIME,
    link::Frame,
    node::{self, CoreShare, Layout, Settings},
    object::durable_shards,
    rt::{
        CoreId,
        sim::{CutMode, DriveId, Failure, FaultPlan, NodeId, Point, Rng, Stop, World},
    },
    volume::Recovery,
};

/// Kinds of faults a scenario may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    Crash,
    Full,
    Io,
    Rot,
}

impl Faults {
    pub const ALL: [Faults; 4] = [Faults::Crash, Faults::Full, Faults::Io, Faults::Rot];

    pub fn parse(name: &str) -> Option<Faults> {
        Faults::ALL.into_iter().find(|f| f.to_string() == name)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Faults::Crash => "crash",
            Faults::Full => "full",
            Faults::Io => "io",
            Faults::Rot => "rot",
        })
    }
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub seed: u64,
    /// `None`: drawn.
    pub faults: Option<Faults>,
    pub verbose: bool,
}

/// What one seed did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seed: u64,
    pub faults: String,
    pub rounds: u32,
    pub power_cuts: u32,
    pub crashes: u32,
    pub operations: u64,
    pub files_freed: u64,
    pub rebuilds: u32,
    pub checkpoints: u64,
    pub damage_found: u64,
    /// Runs whose missing shards were made again.
    pub runs_repaired: u64,
    /// Hash of everything that happened: the same for the same seed and build.
    pub trace: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} ok: faults {}, {} rounds, {} power cuts, {} crashes, {} operations, {} checkpoints, {} files \
             reclaimed, {} rebuilds, {} damages found, {} runs repaired, trace {:016x}",
            self.seed,
            self.faults,
            self.rounds,
            self.power_cuts,
            self.crashes,
            self.operations,
            self.checkpoints,
            self.files_freed,
            self.rebuilds,
            self.damage_found,
            self.runs_repaired,
            self.trace
        )
    }
}

/// A broken promise, and the seed that breaks it.
#[derive(Clone, Debug)]
pub struct Violation {
    pub seed: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

fn directory(drive: u16) -> PathBuf {
    PathBuf::from(format!("/drive-{drive}"))
}

/// Virtual time one step may take before the store counts as hung.
const STEP_LIMIT: Duration = Duration::from_secs(600);
/// Times that leftovers are looked for; a lease that keeps some alive ends in between.
const LOOKS_FOR_LEFTOVERS: usize = 4;
/// Longer than a head waits before it records its floor.
const QUIESCE: Duration = Duration::from_millis(400);

struct Scenario {
    faults: Faults,
    cores: u16,
    volumes: u16,
    file_length: u64,
    capacity: u64,
    clients: usize,
    rounds: u32,
    /// A load long enough to fill the same files again and again, and more readers on whom the drive hangs.
    patient: bool,
    /// Operations of a client in one round, at most.
    operations_max: u64,
    /// Bytes of hot records kept in memory; often none, so that reads reach the drive.
    record_cache_bytes: usize,
    /// Whether failures are drawn under the load; else they are set from outside.
    draws_failures: bool,
    /// Of all objects; every role on a drive of its own.
    scheme: Scheme,
    drives: u16,
}

impl Scenario {
    fn draw(rng: &mut Rng, faults: Option<Faults>) -> Scenario {
        let faults = faults.unwrap_or_else(|| match rng.below(10) {
            0..=4 => Faults::Crash,
            5..=6 => Faults::Full,
            7 => Faults::Io,
            _ => Faults::Rot,
        });
        let cores = rng.between(1, 2) as u16;
        let volumes = cores + rng.below(2) as u16;
        let file_length = [512 << 10, 1 << 20, 2 << 20][rng.below(3) as usize];
        // Three heads, the reserve and a spare need eight, and each restart leaves some half full.
        let files = if faults == Faults::Full {
            rng.between(12, 16)
        } else {
            200
        };
        Scenario {
            faults,
            cores,
            volumes,
            file_length,
            capacity: files * file_length * u64::from(volumes) + (1 << 20),
            clients: rng.between(1, 4) as usize,
            rounds: rng.between(2, 5) as u32,
            patient: false,
            operations_max: 150,
            draws_failures: true,
            record_cache_bytes: 0,
            scheme: Scheme::PLAIN,
            drives: 1,
        }
        .patient(rng.chance(0.2))
        .caching(rng.chance(0.3))
        .spreading(&mut rng.clone())
    }

    /// In some lives there are several drives, and objects have parity.
    fn spreading(self, rng: &mut Rng) -> Scenario {
        if !rng.chance(0.3) {
            return self;
        }
        let (k, m) = [(1, 1), (2, 1), (2, 2), (3, 1)][rng.below(4) as usize];
        let scheme = Scheme {
            k,
            m,
            ..Scheme::PLAIN
        };
        let drives = scheme.width() + rng.below(2) as u16;
        let volumes = drives * self.cores.div_ceil(drives);
        Scenario {
            scheme,
            drives,
            volumes,
            // Of each drive.
            capacity: self.capacity / u64::from(self.volumes) * u64::from(volumes / drives),
            ..self
        }
    }

    fn caching(self, caching: bool) -> Scenario {
        Scenario {
            record_cache_bytes: if caching { 256 << 10 } else { 0 },
            ..self
        }
    }

    fn patient(self, patient: bool) -> Scenario {
        Scenario {
            patient,
            operations_max: if patient { 800 } else { self.operations_max },
            ..self
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            index_kind: StoreKind::Twin,
            index_headroom: 0,
            segment_file_length: Some(self.file_length),
            record_cache_bytes: self.record_cache_bytes,
            scheme: Some(self.scheme),
            without_missing: true,
        }
    }

    fn healthy(&self) -> FaultPlan {
        FaultPlan {
            capacity: self.capacity,
            ..FaultPlan::healthy()
        }
    }

    /// Faults of the drive while the load runs.
    fn loaded(&self, rng: &mut Rng) -> FaultPlan {
        let mut plan = FaultPlan {
            capacity: self.capacity,
            ..FaultPlan::uneven()
        };
        if self.patient && rng.chance(0.3) {
            // Anything may take as long as a file lives. Not always: it slows reclaim more than anybody else.
            plan.slow = 0.01;
            plan.slow_by = Duration::from_millis(100)..=Duration::from_secs(3);
        }
        match self.faults {
            Faults::Crash | Faults::Full => {}
            Faults::Io => {
                if rng.coin() {
                    plan.write_error = 0.002;
                } else {
                    plan.sync_error = 0.005;
                }
            }
            Faults::Rot => {
                // At most one kind at a time: two at once on a single copy can hide each other.
                match rng.below(4) {
                    0 => plan.misdirected = 0.003,
                    1 => plan.lost = 0.003,
                    _ => {}
                }
            }
        }
        plan
    }
}

struct Run {
    world: World,
    node: NodeId,
    drives: Vec<DriveId>,
    /// Drives that the next start does without.
    away: BTreeSet<u16>,
    /// Some shards may be missing: no drive goes away before they are made again.
    owes_repair: bool,
    scenario: Scenario,
    rng: Rng,
    model: Rc<RefCell<Model>>,
    summary: Summary,
    verbose: bool,
    bucket: Option<crate::object::BucketInfo>,
    operations: u64,
    /// What the next start finds of each volume's index.
    indexes: Vec<twin::Choice>,
}

/// Runs one seed.
pub fn run(options: &Options) -> Result<Summary, Violation> {
    let mut run = Run::new(options, |drawn| drawn);
    let result = run.life();
    run.end(result)
}

impl Run {
    fn new(options: &Options, arrange: impl FnOnce(Scenario) -> Scenario) -> Run {
        let world = World::new(options.seed);
        let mut rng = world.stream("scenario", 0);
        let scenario = arrange(Scenario::draw(&mut rng, options.faults));
        let node = world.add_node(scenario.cores);
        let drives = (0..scenario.drives)
            .map(|n| world.add_drive(node, directory(n), scenario.healthy()))
            .collect();
        let summary = Summary {
            seed: options.seed,
            faults: scenario.faults.to_string(),
            ..Summary::default()
        };
        Run {
            world,
            node,
            drives,
            away: BTreeSet::new(),
            owes_repair: false,
            scenario,
            rng,
            model: Rc::default(),
            summary,
            verbose: options.verbose,
            bucket: None,
            operations: 0,
            indexes: Vec::new(),
        }
    }

    fn end<T>(mut self, result: Result<T, String>) -> Result<Summary, Violation> {
        self.summary.trace = self.world.trace();
        let summary = self.summary.clone();
        drop(self);
        match result {
            Ok(_) => Ok(summary),
            Err(what) => Err(Violation {
                seed: summary.seed,
                what,
            }),
        }
    }
}

type Started = Vec<Rc<CoreShare>>;
/// One core's start.
type Attempt = Result<CoreShare, String>;

/// How a start ended.
enum Start {
    Up(Started),
    /// The failure set for it struck.
    Failed,
    /// It refused to start, which only a damaged drive may bring about.
    Refused(String),
}

impl Run {
    fn say(&self, text: impl fmt::Display) {
        if self.verbose {
            println!("[{:>12.6}] {text}", self.world.now().as_secs_f64());
        }
    }

    fn name_keys(&self) {
        for client in 0..self.scenario.clients {
            for n in 0..workload::KEYS_PER_CLIENT {
                self.model.borrow_mut().add(&workload::key_name(client, n));
            }
        }
    }

    fn life(&mut self) -> Result<(), String> {
        self.name_keys();
        self.summary.rounds = self.scenario.rounds;
        let mut first = true;
        for round in 0..self.scenario.rounds {
            self.say(format_args!("round {round}"));
            self.heal();
            if !first {
                self.draw_away();
            }
            let Some(shares) = self.start_until_up(!first)? else {
                return Ok(());
            };
            let damaged = self.check_recoveries(&shares)?;
            if first {
                self.make_bucket(&shares)?;
                first = false;
            } else {
                self.verify(&shares, damaged)?;
            }
            if damaged {
                return self.stay_damaged(shares);
            }
            self.repair(&shares)?;
            let dies = self.kill_a_drive();
            let stopped = self.load(&shares, dies)?;
            self.owes_repair |= self.scenario.faults == Faults::Io;
            self.count(&shares);
            let ends_well =
                !stopped && !dies && self.scenario.faults != Faults::Io && self.rng.coin();
            if ends_well {
                self.finish(&shares)?;
            } else if !stopped {
                if self.scenario.faults == Faults::Rot {
                    self.heal();
                    self.run_for(QUIESCE)?;
                    self.rot();
                }
                self.fail_now();
            }
            drop(shares);
            self.lose_index();
        }
        self.last_looks()
    }

    /// Everything is as promised, with the index and without it: then the segment files tell all.
    fn last_looks(&mut self) -> Result<(), String> {
        self.heal();
        self.away.clear();
        let Some(shares) = self.start_until_up(false)? else {
            return Ok(());
        };
        let damaged = self.check_recoveries(&shares)?;
        self.verify(&shares, damaged)?;
        if damaged {
            return self.stay_damaged(shares);
        }
        self.repair(&shares)?;
        if self.scenario.faults == Faults::Full {
            self.empty(&shares)?;
        }
        self.finish(&shares)?;
        drop(shares);
        self.indexes = vec![twin::Choice::Absent; usize::from(self.scenario.volumes)];
        let Some(shares) = self.start_until_up(false)? else {
            return Ok(());
        };
        let damaged = self.check_recoveries(&shares)?;
        self.verify(&shares, damaged)?;
        if matches!(self.scenario.faults, Faults::Crash | Faults::Full) {
            self.nothing_is_left_over(&shares)?;
        }
        self.finish(&shares)
    }

    fn heal(&mut self) {
        for drive in &self.drives {
            self.world.set_plan(*drive, self.scenario.healthy());
        }
    }

    /// Up to as many drives as the scheme bears are not there for a while; never the first, where metadata is.
    fn draw_away(&mut self) {
        self.away.clear();
        // Failing writes and rot take shards too, and both together may be more than the scheme bears.
        let whole =
            !self.owes_repair && matches!(self.scenario.faults, Faults::Crash | Faults::Full);
        if self.scenario.drives == 1 || !whole || !self.rng.chance(0.4) {
            return;
        }
        for _ in 0..self.rng.between(1, u64::from(self.scenario.scheme.m)) {
            let drive = self.rng.between(1, u64::from(self.scenario.drives) - 1) as u16;
            self.away.insert(drive);
        }
        self.owes_repair = true;
        self.say(format_args!("drives {:?} are away", self.away));
    }

    /// A drive that fails every operation from now on, under the next load, in some lives.
    fn kill_a_drive(&mut self) -> bool {
        let strict = matches!(self.scenario.faults, Faults::Crash | Faults::Full);
        if self.scenario.drives == 1
            || !strict
            || !self.away.is_empty()
            || self.owes_repair
            || !self.rng.chance(0.3)
        {
            return false;
        }
        self.owes_repair = true;
        true
    }

    /// With all drives there, what they missed is made again.
    fn repair(&mut self, shares: &Started) -> Result<(), String> {
        if !self.owes_repair || !self.away.is_empty() {
            return Ok(());
        }
        let mut whole = true;
        for (core, share) in shares.iter().enumerate() {
            for (_, groups) in share.store.link().local() {
                let store = share.store.clone();
                let done = self
                    .world
                    .run_on(self.node, CoreId(core as u16), async move {
                        store.repair_home(&groups).await
                    });
                match done {
                    Ok(Ok(done)) => {
                        self.say(format_args!("{done:?}"));
                        self.summary.runs_repaired += done.runs;
                        match self.scenario.faults {
                            _ if done.failed == 0 => {}
                            // A full drive takes no shards; what it lacks stays owed.
                            Faults::Full | Faults::Rot => whole = false,
                            _ => return Err(format!("not all can be repaired: {done:?}")),
                        }
                    }
                    other => return Err(format!("repair ends with {other:?}")),
                }
            }
        }
        self.owes_repair = !whole;
        Ok(())
    }

    /// It answered what it could, and never wrongly; an operator comes next. Until then it must not forget, over
    /// checkpoints, stops, crashes and rebuilds, that something is missing.
    fn stay_damaged(&mut self, shares: Started) -> Result<(), String> {
        let mut shares = shares;
        for _ in 0..2 {
            self.run_for(Duration::from_secs(7))?;
            if self.rng.coin() {
                self.finish(&shares)?;
            } else {
                self.fail_now();
            }
            drop(shares);
            self.lose_index();
            shares = match self.start_until_up(false)? {
                Some(shares) => shares,
                None => return Ok(()),
            };
            if !self.check_recoveries(&shares)? {
                return Err("damage is forgotten".to_owned());
            }
            self.verify(&shares, true)?;
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------- starting

    /// Starts the node, again and again while the failures drawn for it strike during the start.
    fn start_until_up(&mut self, may_fail: bool) -> Result<Option<Started>, String> {
        for attempt in 0.. {
            if !self.world.is_up(self.node) {
                self.world.restart(self.node);
            }
            if self.rng.chance(0.2) {
                // The machine's clock was set, by up to a month either way.
                let days = self.rng.between(0, 60) as i64 - 30;
                self.world.jump_unix_ms(self.node, days * 86_400_000);
                self.model.borrow_mut().clock_was_set = true;
            }
            if may_fail && attempt < 3 && self.rng.chance(0.3) {
                self.arm(40);
            }
            match self.start()? {
                Start::Up(shares) => {
                    // A failure drawn for the start that did not strike is off.
                    self.world
                        .fail_at(self.node, u64::MAX, Point::Before, Failure::Crash);
                    if let Stop::Failed(_) = self.world.run_for(Duration::from_millis(20)) {
                        drop(shares);
                        self.lose_index();
                        continue;
                    }
                    return Ok(Some(shares));
                }
                Start::Failed => self.lose_index(),
                Start::Refused(why) if self.scenario.faults == Faults::Rot => {
                    self.say(format_args!("refused to start: {why}"));
                    self.summary.damage_found += 1;
                    return Ok(None);
                }
                Start::Refused(why) => return Err(format!("the store does not start: {why}")),
            }
        }
        unreachable!("failures are drawn for the first attempts only")
    }

    fn start(&mut self) -> Result<Start, String> {
        let settings = self.scenario.settings();
        let volumes = self.scenario.volumes;
        let per_drive = volumes / self.scenario.drives;
        let cores = self.scenario.cores;
        let here = (0..self.scenario.drives).filter(|drive| !self.away.contains(drive));
        let here: Vec<PathBuf> = here.map(directory).collect();
        let indexes = std::mem::take(&mut self.indexes);
        let prepared = self.world.run_on(self.node, CoreId(0), async move {
            for (volume, choice) in (0..).zip(indexes) {
                let drive = directory(volume / per_drive);
                twin::power_cut(&drive.join(format!("volume-{volume}/index")), choice);
            }
            // One drive has as many volumes as it is told, several have enough for the cores.
            let wanted = if per_drive == volumes { volumes } else { cores };
            node::prepare(&here, wanted, &settings).await
        });
        let layout: Rc<Layout> = match prepared {
            Ok(Ok(layout)) => Rc::new(layout),
            Ok(Err(e)) => return Ok(Start::Refused(e.to_string())),
            Err(stop) => return self.stopped(stop),
        };
        let cores = self.scenario.cores;
        let mut mailboxes =
            crate::rt::mesh::<Frame>(usize::from(cores), crate::limits::LINK_RING_CAPACITY);
        let started: Rc<RefCell<Vec<Option<Attempt>>>> =
            Rc::new(RefCell::new((0..cores).map(|_| None).collect()));
        for core in (0..cores).rev() {
            let (layout, started) = (layout.clone(), started.clone());
            let mailbox = mailboxes.pop().expect("one for each core");
            self.world.spawn_on(self.node, CoreId(core), async move {
                let share =
                    node::start(&layout, CoreId(core), cores, Some(mailbox), &settings).await;
                started.borrow_mut()[usize::from(core)] = Some(share.map_err(|e| e.to_string()));
            });
        }
        let all = started.clone();
        let stop = self
            .world
            .run_until(STEP_LIMIT, move || all.borrow().iter().all(Option::is_some));
        if stop != Stop::Done {
            return self.stopped(stop);
        }
        let mut shares = Vec::new();
        for share in started.borrow_mut().drain(..) {
            match share.expect("all are there") {
                Ok(share) => shares.push(Rc::new(share)),
                Err(e) => {
                    self.world.kill(self.node);
                    return Ok(Start::Refused(e));
                }
            }
        }
        for (core, share) in shares.iter().enumerate() {
            share.store.set_part_size_min(0);
            let share = share.clone();
            self.world
                .spawn_on(self.node, CoreId(core as u16), async move {
                    node::start_upkeep(&share)
                });
        }
        Ok(Start::Up(shares))
    }

    fn stopped(&self, stop: Stop) -> Result<Start, String> {
        match stop {
            Stop::Failed(_) => Ok(Start::Failed),
            Stop::Deadline | Stop::Idle => {
                Err(format!("the store hangs while starting ({stop:?})"))
            }
            Stop::Done => unreachable!("handled by the caller"),
        }
    }

    /// Whether any volume knows of damage; keeps score.
    fn take_recoveries(&mut self, shares: &Started) -> bool {
        let mut damaged = false;
        for (v, _, recovery) in shares.iter().flat_map(|s| &s.volumes) {
            let recovery: &Recovery = recovery;
            self.summary.rebuilds += u32::from(recovery.rebuilt);
            self.summary.damage_found += recovery.damage.len() as u64;
            damaged |= !recovery.damage.is_empty();
            self.say(format_args!("volume {v}: {recovery:?}"));
        }
        damaged
    }

    /// Damage where nothing was damaged is a broken promise too.
    fn check_recoveries(&mut self, shares: &Started) -> Result<bool, String> {
        let damaged = self.take_recoveries(shares);
        if damaged && self.scenario.faults != Faults::Rot {
            let all: Vec<_> = shares
                .iter()
                .flat_map(|s| &s.volumes)
                .map(|(_, _, r)| &r.damage)
                .collect();
            return Err(format!("undamaged files are called damaged: {all:?}"));
        }
        Ok(damaged)
    }

    // ------------------------------------------------------------------------------------------- loading

    fn make_bucket(&mut self, shares: &Started) -> Result<(), String> {
        use crate::object::ObjectStore;
        let store = shares[0].store.clone();
        let made = self.world.run_on(self.node, CoreId(0), async move {
            store.create_bucket("bucket", "owner", "r").await
        });
        match made {
            Ok(Ok(bucket)) => {
                self.bucket = Some(bucket);
                Ok(())
            }
            other => Err(format!("no bucket: {other:?}")),
        }
    }

    /// Runs clients until the drawn failure strikes (`true`) or they are done (`false`).
    fn load(&mut self, shares: &Started, dies: bool) -> Result<bool, String> {
        let plan = self.scenario.loaded(&mut self.rng);
        for drive in &self.drives {
            self.world.set_plan(*drive, plan.clone());
        }
        if dies {
            let dead = self.rng.between(1, u64::from(self.scenario.drives) - 1) as usize;
            self.say(format_args!("drive {dead} fails every operation"));
            let plan = FaultPlan {
                read_error: 1.0,
                write_error: 1.0,
                sync_error: 1.0,
                ..plan
            };
            self.world.set_plan(self.drives[dead], plan);
        }
        let strikes = self.scenario.draws_failures
            && self.scenario.faults != Faults::Rot
            && self.rng.chance(0.75);
        if strikes {
            self.arm(if self.scenario.patient { 6000 } else { 800 });
        }
        let load = Rc::new(Load {
            model: self.model.clone(),
            bucket: self.bucket.clone().expect("made in the first round"),
            faults: self.scenario.faults,
            too_few_drives: self.away.len() as u16
                > self.scenario.scheme.width() - durable_shards(self.scenario.scheme),
            verdict: RefCell::new(Verdict::default()),
        });
        let running = Rc::new(std::cell::Cell::new(0usize));
        for client in 0..self.scenario.clients {
            let core = self.rng.below(u64::from(self.scenario.cores)) as usize;
            let operations = self.rng.between(20, self.scenario.operations_max);
            self.operations += operations;
            let client = Client {
                number: client,
                store: shares[core].store.clone(),
                rng: self
                    .world
                    .stream("client", self.operations * 16 + client as u64),
                load: load.clone(),
                clients: self.scenario.clients,
            };
            running.set(running.get() + 1);
            let running = running.clone();
            self.world
                .spawn_on(self.node, CoreId(core as u16), async move {
                    client.run(operations).await;
                    running.set(running.get() - 1);
                });
        }
        // They read as long as the clients go on; the load is over when the last read that hangs has been checked.
        let reading = Rc::new(std::cell::Cell::new(0usize));
        for n in 0..if self.scenario.patient { 8 } else { 2 } {
            let core = self.rng.below(u64::from(self.scenario.cores)) as usize;
            let reader = Reader {
                store: shares[core].store.clone(),
                rng: self.world.stream("reader", self.operations * 16 + n),
                load: load.clone(),
                clients: self.scenario.clients,
                hang: self.world.hang(self.drives[0]),
            };
            reading.set(reading.get() + 1);
            let (running, reading) = (running.clone(), reading.clone());
            self.world
                .spawn_on(self.node, CoreId(core as u16), async move {
                    reader.run(|| running.get() > 0).await;
                    reading.set(reading.get() - 1);
                });
        }
        for (core, share) in shares.iter().enumerate() {
            for (_, volume, _) in &share.volumes {
                let (volume, mut rng) = (
                    volume.clone(),
                    self.world.stream("checkpoints", self.operations),
                );
                self.world
                    .spawn_on(self.node, CoreId(core as u16), async move {
                        loop {
                            crate::rt::sleep(Duration::from_micros(rng.between(500, 60_000))).await;
                            if volume.checkpoint().await.is_err() {
                                crate::rt::sleep(Duration::from_millis(50)).await;
                            }
                        }
                    });
            }
        }
        let watched = (running.clone(), reading.clone(), load.clone());
        let stop = self.world.run_until(STEP_LIMIT, move || {
            watched.0.get() + watched.1.get() == 0 || watched.2.verdict.borrow().violation.is_some()
        });
        self.summary.operations += load.verdict.borrow().operations;
        if let Some(what) = load.verdict.borrow_mut().violation.take() {
            return Err(what);
        }
        match stop {
            Stop::Done => Ok(false),
            Stop::Failed(_) => {
                self.failed();
                Ok(true)
            }
            Stop::Deadline | Stop::Idle => Err(format!(
                "{} clients and {} readers hang ({stop:?})",
                running.get(),
                reading.get()
            )),
        }
    }

    fn count(&mut self, shares: &Started) {
        for (_, volume, _) in shares.iter().flat_map(|s| &s.volumes) {
            self.summary.files_freed += volume.counters().files_freed;
            self.summary.checkpoints += volume.counters().checkpoints;
        }
    }

    // ------------------------------------------------------------------------------------------- failing

    /// A failure at a drawn one of the next operations.
    fn arm(&mut self, within: u64) {
        let number = self.world.ops(self.node) + self.rng.below(within);
        let point = Point::ALL[self.rng.below(3) as usize];
        let failure = if self.rng.chance(0.75) {
            Failure::PowerCut(if self.rng.coin() {
                None
            } else {
                Some(CutMode::draw(&mut self.rng))
            })
        } else {
            Failure::Crash
        };
        self.say(format_args!("{failure:?} {point:?} operation {number}"));
        self.world.fail_at(self.node, number, point, failure);
    }

    fn failed(&mut self) {
        self.say("failed");
        self.summary.power_cuts += 1;
    }

    fn fail_now(&mut self) {
        if self.rng.chance(0.75) {
            self.say("power cut");
            self.summary.power_cuts += 1;
            self.world.power_cut(self.node, None);
        } else {
            self.say("crash");
            self.summary.crashes += 1;
            self.world.kill(self.node);
        }
    }

    /// After a power cut the index is at its last commit, the one before, or gone.
    fn lose_index(&mut self) {
        self.indexes.clear();
        for volume in 0..self.scenario.volumes {
            let choice = match self.rng.below(6) {
                0 => twin::Choice::OneBefore,
                1 => twin::Choice::Absent,
                _ => twin::Choice::Last,
            };
            self.say(format_args!("index of volume {volume}: {choice:?}"));
            self.indexes.push(choice);
        }
    }

    fn rot(&mut self) {
        let count = self.rng.between(1, 3);
        for _ in 0..count {
            let drive = match self.drives.len() as u64 {
                1 => self.drives[0],
                all => self.drives[self.rng.below(all) as usize],
            };
            let rng = &mut self.rng;
            let rot = self.world.with_disk(drive, |disk, _| disk.rot(rng));
            if self.verbose {
                println!("rot: {rot:?}");
            }
        }
    }

    fn run_for(&mut self, d: Duration) -> Result<(), String> {
        match self.world.run_for(d) {
            Stop::Deadline => Ok(()),
            other => Err(format!("while nothing went on: {other:?}")),
        }
    }

    // ------------------------------------------------------------------------------------------- checking

    /// Looks at every key and at the listing, while nothing else goes on.
    fn verify(&mut self, shares: &Started, damaged: bool) -> Result<(), String> {
        let core = self.rng.below(u64::from(self.scenario.cores)) as usize;
        let load = Rc::new(Load {
            model: self.model.clone(),
            bucket: self.bucket.clone().expect("made in the first round"),
            faults: self.scenario.faults,
            too_few_drives: self.away.len() as u16
                > self.scenario.scheme.width() - durable_shards(self.scenario.scheme),
            verdict: RefCell::new(Verdict::default()),
        });
        let (store, checked) = (shares[core].store.clone(), load.clone());
        let strict = !damaged && self.scenario.faults != Faults::Rot;
        let looked = self
            .world
            .run_on(self.node, CoreId(core as u16), async move {
                workload::look_at_everything(&store, &checked, strict).await
            });
        match looked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(what)) => Err(format!("after a restart: {what}")),
            Err(stop) => Err(format!("the look after a restart ended with {stop:?}")),
        }
    }

    /// All space belongs to something: what has shards is named, and all that is named has shards.
    fn nothing_is_left_over(&mut self, shares: &Started) -> Result<(), String> {
        let bucket = self.bucket.clone().expect("made in the first round");
        let keys = self.model.borrow().names();
        let store = shares[0].store.clone();
        let named = self.on_core(
            0,
            async move { uploads::named(&store, &bucket, &keys).await },
        )?;
        let mut stored = std::collections::BTreeSet::new();
        for _ in 0..LOOKS_FOR_LEFTOVERS {
            stored.clear();
            for (core, share) in shares.iter().enumerate() {
                let store = share.store.clone();
                stored.extend(self.on_core(core, async move { uploads::stored(&store).await })?);
            }
            if stored.len() == named {
                return Ok(());
            }
            // Leases of readers that were cut off run out.
            self.run_for(LEASE_TIME / 2)?;
        }
        Err(format!(
            "{named} objects and parts are named, shards are of {stored:?}"
        ))
    }

    fn on_core<T: 'static>(
        &mut self,
        core: usize,
        future: impl Future<Output = Result<T, String>> + 'static,
    ) -> Result<T, String> {
        match self.world.run_on(self.node, CoreId(core as u16), future) {
            Ok(result) => result,
            Err(stop) => Err(format!("a question ended with {stop:?}")),
        }
    }

    /// A full drive can be emptied, and is then of use again.
    fn empty(&mut self, shares: &Started) -> Result<(), String> {
        let load = Rc::new(Load {
            model: self.model.clone(),
            bucket: self.bucket.clone().expect("made in the first round"),
            faults: self.scenario.faults,
            too_few_drives: self.away.len() as u16
                > self.scenario.scheme.width() - durable_shards(self.scenario.scheme),
            verdict: RefCell::new(Verdict::default()),
        });
        let store = shares[0].store.clone();
        let emptied = self.world.run_on(self.node, CoreId(0), async move {
            workload::empty_and_refill(&store, &load).await
        });
        match emptied {
            Ok(Err(what)) => {
                let tables: Vec<_> = shares
                    .iter()
                    .flat_map(|s| &s.volumes)
                    .map(|(v, volume, _)| (v, volume.files()))
                    .collect();
                Err(format!("{what}; files {tables:?}"))
            }
            Ok(Ok(())) => Ok(()),
            Err(stop) => Err(format!("emptying a full drive ended with {stop:?}")),
        }
    }

    /// Stops every core in order.
    fn finish(&mut self, shares: &Started) -> Result<(), String> {
        for (core, share) in shares.iter().enumerate() {
            let share = share.clone();
            let stopped = self
                .world
                .run_on(self.node, CoreId(core as u16), async move {
                    node::stop(&share).await
                });
            match stopped {
                Ok(Ok(())) => {}
                Ok(Err(_))
                    if self.scenario.faults == Faults::Rot
                        || self.scenario.faults == Faults::Full => {}
                Ok(Err(e)) => return Err(format!("stopping: {e}")),
                Err(Stop::Failed(_)) => {
                    self.failed();
                    return Ok(());
                }
                Err(stop) => return Err(format!("stopping hangs ({stop:?})")),
            }
        }
        self.say("stopped");
        self.world.kill(self.node);
        Ok(())
    }
}
