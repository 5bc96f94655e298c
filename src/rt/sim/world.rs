//! The world: nodes with their cores and drives, the virtual clock, and all that can happen.
//!
//! One thread runs everything, one event after the other, in order of virtual time. Events are:
//! a core polls one of its tasks, a timer is due, an operation on a drive is over, an offloaded
//! call returns, power is cut. Every poll costs a little virtual time, so a task that spins lets
//! time pass, and tasks of different cores interleave by the seed.
//!
//! ```text
//!  code under test ── handles of rt ── Core (one per virtual core) ── SimCore: Simulated
//!                                        ▲  poll, complete                │ start, offload
//!                                        └────────── World: events ◀──────┘
//! ```
//!
//! No borrow of [`State`] is held while a core runs: anything it drops may call back.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::disk::{CutMode, Inode, SyncMark};
use super::drive::{Drive, Fate, FaultPlan, Hang, Kind, draw};
use super::rng::Rng;
use super::slot::Slots;
use crate::rt::buf::Pool;
use crate::rt::executor::{Core, Driver, Remote, Simulated};
use crate::rt::offload::Job;
use crate::rt::ops::OpKey;
use crate::rt::{CoreId, Instant, Task};

mod effects;

/// Memory for the buffers of one core, taken from the allocator; untouched pages cost nothing (see
/// `Pool::heap`, for sizes above 32 MiB).
const POOL_SIZE: usize = 64 << 20;

/// Virtual cost of polling one task.
const POLL_COST: std::ops::RangeInclusive<Duration> =
    Duration::from_nanos(100)..=Duration::from_nanos(600);
/// From a wake by another core to the turn that sees it: measured 45 µs by MSG_RING, 0.4 µs if the
/// receiver spins.
const WAKE_DELAY: std::ops::RangeInclusive<Duration> =
    Duration::from_nanos(400)..=Duration::from_micros(60);
/// The kernel takes a core away now and then.
const PAUSE_CHANCE: f64 = 0.001;
const PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(10)..=Duration::from_millis(3);
/// What an offloaded call takes.
const OFFLOAD_COST: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(20)..=Duration::from_millis(3);
/// A node's monotonic clock starts anywhere in this range at each boot, so that an instant kept
/// across a restart shows.
const BOOT_CLOCK: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Wall clock at the start of the world: 2026-01-01.
const UNIX_MS_START: u64 = 1_767_225_600_000;
/// [`World::run_on`] gives up after this much virtual time: far beyond any timeout of the server.
pub const RUN_TIME_MAX: Duration = Duration::from_secs(3_600);

/// A node: one process on one machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u16);

/// A drive of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DriveId(pub u16);

/// Why the world stopped running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The predicate holds, or the future is done.
    Done,
    /// The virtual time is up.
    Deadline,
    /// Nothing will ever happen again: every task waits for something that nobody will do.
    Idle,
    /// The failure set by [`World::fail_at`] has struck this node, which is down now.
    Failed(NodeId),
}

/// How a node fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Each drive by this mode, or by one drawn for each.
    PowerCut(Option<CutMode>),
    /// The process dies; what it wrote stays written.
    Crash,
}

/// Where in an operation a failure strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// As it is submitted: it has no effect.
    Before,
    /// While it is under way: it may have had an effect, a part of it, or none.
    Middle,
    /// When it has happened and nobody knows yet.
    After,
}

impl Point {
    pub const ALL: [Point; 3] = [Point::Before, Point::Middle, Point::After];
}

/// A simulated world. Dropping it ends everything in it; if that is because a test fails, it prints
/// the seed.
pub struct World {
    shared: Rc<Shared>,
}

pub(super) struct Shared {
    pub state: RefCell<State>,
    /// By node and core; empty for a node that is down.
    cores: RefCell<Vec<Vec<Rc<Core>>>>,
}

pub(super) struct State {
    seed: u64,
    now: Instant,
    events: BinaryHeap<Reverse<Event>>,
    events_made: u64,
    nodes: Vec<Node>,
    drives: Vec<Drive>,
    files: BTreeMap<u64, OpenFile>,
    flights: BTreeMap<(NodeId, CoreId, OpKey), Flight>,
    offloads: BTreeMap<u64, Offload>,
    pub slots: Slots,
    /// Numbers files, flights and offloads.
    id_next: u64,
    trace: u64,
    verbose: bool,
    steps: u64,
    schedule: Rng,
    offload_cost: Rng,
    cuts: Rng,
}

struct Node {
    up: bool,
    /// Grows with each boot.
    incarnation: u32,
    boot_clock: Duration,
    unix_ms_offset: i64,
    cores: Vec<Turns>,
    drives: Vec<usize>,
    random: Rng,
    /// Operations started so far that change something; see [`World::ops`].
    ops: u64,
    trigger: Option<Trigger>,
    /// Must fail as soon as nothing of it runs.
    due: Option<Failure>,
}

/// What is scheduled for a core.
#[derive(Default)]
struct Turns {
    next: Option<Instant>,
    timer: Option<Instant>,
    /// No turn before this: the kernel took the core away.
    paused_until: Instant,
}

#[derive(Clone, Copy)]
struct Trigger {
    number: u64,
    point: Point,
    failure: Failure,
}

struct OpenFile {
    drive: usize,
    inode: Inode,
    node: NodeId,
    read: bool,
    write: bool,
    direct: bool,
}

/// An operation that a drive works on.
struct Flight {
    id: u64,
    drive: Option<usize>,
    kind: Kind,
    fate: Fate,
    /// What a sync covers, and of what.
    mark: Option<(Inode, SyncMark)>,
    cancelled: bool,
    fail_after: bool,
}

struct Offload {
    node: NodeId,
    core: CoreId,
    job: Job,
    fail_after: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Instant,
    /// Of two events at the same time the one made first comes first.
    order: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy, Debug)]
enum What {
    Turn(NodeId, CoreId),
    Timer(NodeId, CoreId),
    Op {
        node: NodeId,
        core: CoreId,
        key: OpKey,
        id: u64,
    },
    Offload(u64),
    Fail {
        node: NodeId,
        incarnation: u32,
    },
}

// ------------------------------------------------------------------ world ----

impl World {
    /// An empty world. Everything that happens in it follows from the seed and from what the test
    /// does.
    pub fn new(seed: u64) -> World {
        let state = State {
            seed,
            now: Instant::default(),
            events: BinaryHeap::new(),
            events_made: 0,
            nodes: Vec::new(),
            drives: Vec::new(),
            files: BTreeMap::new(),
            flights: BTreeMap::new(),
            offloads: BTreeMap::new(),
            slots: Slots::default(),
            id_next: 1,
            trace: seed,
            verbose: false,
            steps: 0,
            schedule: Rng::stream(seed, "schedule", 0),
            offload_cost: Rng::stream(seed, "offload", 0),
            cuts: Rng::stream(seed, "power cuts", 0),
        };
        let shared = Shared {
            state: RefCell::new(state),
            cores: RefCell::default(),
        };
        World {
            shared: Rc::new(shared),
        }
    }

    pub fn seed(&self) -> u64 {
        self.shared.state.borrow().seed
    }

    /// A stream of the test's own, for the choices of its clients and its faults.
    pub fn stream(&self, purpose: &str, index: u64) -> Rng {
        Rng::stream(self.seed(), purpose, index)
    }

    /// Prints every event to stderr: to read one seed.
    pub fn set_verbose(&self, verbose: bool) {
        self.shared.state.borrow_mut().verbose = verbose;
    }

    /// A hash of everything that has happened: equal for equal seeds, or something is not
    /// deterministic.
    pub fn trace(&self) -> u64 {
        self.shared.state.borrow().trace
    }

    /// Mixes an event of the test's own into the trace.
    pub fn note(&self, event: u64) {
        self.shared.state.borrow_mut().mix(event);
    }

    /// Events so far.
    pub fn steps(&self) -> u64 {
        self.shared.state.borrow().steps
    }

    // -- nodes and drives --

    /// A running node with cores 0..`cores`.
    pub fn add_node(&self, cores: u16) -> NodeId {
        let mut state = self.shared.state.borrow_mut();
        let node = NodeId(state.nodes.len() as u16);
        let random = Rng::stream(state.seed, "rt::random", u64::from(node.0));
        state.nodes.push(Node {
            up: false,
            incarnation: 0,
            boot_clock: Duration::ZERO,
            unix_ms_offset: 0,
            cores: (0..cores).map(|_| Turns::default()).collect(),
            drives: Vec::new(),
            random,
            ops: 0,
            trigger: None,
            due: None,
        });
        drop(state);
        self.shared.cores.borrow_mut().push(Vec::new());
        self.restart(node);
        node
    }

    /// An empty drive of a node, mounted at `path`, which exists from the start.
    pub fn add_drive(&self, node: NodeId, path: impl AsRef<Path>, plan: FaultPlan) -> DriveId {
        let mut state = self.shared.state.borrow_mut();
        let index = state.drives.len();
        let seed = state.seed;
        state.drives.push(Drive::new(
            seed,
            index as u64,
            path.as_ref().to_path_buf(),
            plan,
        ));
        state.nodes[usize::from(node.0)].drives.push(index);
        DriveId(index as u16)
    }

    /// Starts the cores of a node that is down: no tasks, fresh memory, another monotonic clock.
    pub fn restart(&self, node: NodeId) {
        let mut cores = Vec::new();
        {
            let mut state = self.shared.state.borrow_mut();
            let boot_clock = draw(&mut state.schedule, &BOOT_CLOCK);
            state.event_note("boot", u64::from(node.0), 0);
            let n = state.node(node);
            assert!(!n.up, "{node:?} is up");
            n.up = true;
            n.incarnation += 1;
            n.boot_clock = boot_clock;
            for (id, turns) in n.cores.iter_mut().enumerate() {
                *turns = Turns::default();
                let core = CoreId(id as u16);
                let driver = SimCore {
                    shared: Rc::downgrade(&self.shared),
                    node,
                    core,
                    incarnation: n.incarnation,
                };
                let remote = Remote::new(core);
                cores.push((remote, driver));
            }
        }
        self.shared.cores.borrow_mut()[usize::from(node.0)] = cores
            .into_iter()
            .map(|(remote, driver)| {
                Core::new(
                    remote,
                    Rc::new(Pool::heap(POOL_SIZE)),
                    Driver::Sim(Box::new(driver)),
                )
            })
            .collect();
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.state.borrow_mut().node(node).up
    }

    /// Changes what goes wrong with a drive from now on, the capacity included.
    pub fn set_plan(&self, drive: DriveId, plan: FaultPlan) {
        let mut state = self.shared.state.borrow_mut();
        let now = state.now;
        let drive = state.drive(drive);
        drive.rot_until(now);
        drive.disk.set_capacity(plan.capacity);
        drive.plan = plan;
    }

    /// A dead drive fails every operation with EIO; it can come back with what it had.
    pub fn set_dead(&self, drive: DriveId, dead: bool) {
        self.shared.state.borrow_mut().drive(drive).dead = dead;
    }

    /// Operations that start from now on are not over before `d` from now.
    pub fn stall(&self, drive: DriveId, d: Duration) {
        let mut state = self.shared.state.borrow_mut();
        let until = state.now + d;
        state.drive(drive).stalled_until = until;
    }

    /// Lets single reads of the drive hang, from inside the world.
    pub fn hang(&self, drive: DriveId) -> Hang {
        self.shared.state.borrow_mut().drive(drive).hang.clone()
    }

    /// Looks at, or damages, a drive directly. The random stream is for [`super::Disk::rot_at`]
    /// and its like.
    pub fn with_disk<R>(
        &self,
        drive: DriveId,
        f: impl FnOnce(&mut super::Disk, &mut Rng) -> R,
    ) -> R {
        let mut state = self.shared.state.borrow_mut();
        let now = state.now;
        let State { drives, cuts, .. } = &mut *state;
        let drive = &mut drives[usize::from(drive.0)];
        drive.rot_until(now);
        f(&mut drive.disk, cuts)
    }

    /// Sectors of the drive that have rotted by its plan so far.
    pub fn rotted(&self, drive: DriveId) -> u64 {
        self.shared.state.borrow_mut().drive(drive).rotted
    }

    /// The node's wall clock jumps.
    pub fn jump_unix_ms(&self, node: NodeId, by: i64) {
        let mut state = self.shared.state.borrow_mut();
        state.node(node).unix_ms_offset += by;
        state.event_note("clock", u64::from(node.0), by as u64);
    }

    // -- failures --

    /// Power is cut to a node: its tasks are dropped where they are, and what its drives had not
    /// made durable is decided, by `mode` or by a mode drawn for each drive. It stays down until
    /// [`World::restart`].
    pub fn power_cut(&self, node: NodeId, mode: Option<CutMode>) {
        self.shared.fail(node, Failure::PowerCut(mode));
    }

    /// The node's process dies; everything written stays written.
    pub fn kill(&self, node: NodeId) {
        self.shared.fail(node, Failure::Crash);
    }

    /// How many operations that change something the node has started: writes, syncs of files and
    /// directories, allocations, creations, removals, renames, offloaded calls. The number of the
    /// next one for [`World::fail_at`].
    pub fn ops(&self, node: NodeId) -> u64 {
        self.shared.state.borrow_mut().node(node).ops
    }

    /// Lets the node fail, once, at its operation `number` (counted as in [`World::ops`]). The run
    /// then ends with [`Stop::Failed`].
    pub fn fail_at(&self, node: NodeId, number: u64, point: Point, failure: Failure) {
        let mut state = self.shared.state.borrow_mut();
        let n = state.node(node);
        assert!(number >= n.ops, "operation {number} has started already");
        n.trigger = Some(Trigger {
            number,
            point,
            failure,
        });
    }

    /// [`World::fail_at`] with a power cut.
    pub fn cut_at(&self, node: NodeId, number: u64, point: Point, mode: Option<CutMode>) {
        self.fail_at(node, number, point, Failure::PowerCut(mode));
    }

    // -- running --

    /// Time since the world began.
    pub fn now(&self) -> Duration {
        self.shared
            .state
            .borrow()
            .now
            .saturating_since(Instant::default())
    }

    /// Starts a task on a core. `future` is an `async` block, as a rule: handles that look at the
    /// clock when they are made (`sleep`) must be made on the core.
    pub fn spawn_on<T: 'static>(
        &self,
        node: NodeId,
        core: CoreId,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let target = self
            .shared
            .core(node, core)
            .expect("the node is up and has that core");
        let task = self
            .shared
            .enter(node, || target.enter(|| target.spawn(future)));
        self.shared.arrange(node);
        task
    }

    /// Runs until `done` holds (looked at between any two events) or `limit` of virtual time has
    /// passed.
    pub fn run_until(&self, limit: Duration, mut done: impl FnMut() -> bool) -> Stop {
        let deadline = self.shared.state.borrow().now + limit;
        loop {
            if let Some(node) = self.shared.fail_due() {
                return Stop::Failed(node);
            }
            if done() {
                return Stop::Done;
            }
            match self.shared.next(deadline) {
                Ok(what) => self.shared.happen(what),
                Err(stop) => return stop,
            }
        }
    }

    /// Lets `d` of virtual time pass.
    pub fn run_for(&self, d: Duration) -> Stop {
        self.run_until(d, || false)
    }

    /// Runs a future on a core until it is done, everything else meanwhile going on.
    pub fn run_on<T: 'static>(
        &self,
        node: NodeId,
        core: CoreId,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, Stop> {
        let value = Rc::new(RefCell::new(None));
        let task = self.spawn_on(node, core, {
            let value = value.clone();
            async move {
                let v = future.await;
                *value.borrow_mut() = Some(v);
            }
        });
        let stop = self.run_until(RUN_TIME_MAX, || value.borrow().is_some());
        drop(task);
        let value = value.borrow_mut().take();
        match (stop, value) {
            (Stop::Done, Some(value)) => Ok(value),
            (stop, _) => Err(stop),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = self.shared.state.try_borrow();
            let (seed, trace) = state.map_or((0, 0), |s| (s.seed, s.trace));
            eprintln!("simulation: seed {seed}, trace {trace:016x}");
            // Destructors of half-run tasks may panic again: leave them where they are.
            return;
        }
        let nodes = self.shared.cores.borrow().len();
        for node in 0..nodes {
            self.shared.stop_cores(NodeId(node as u16));
        }
    }
}

// ----------------------------------------------------------------- shared ----

thread_local! {
    static CURRENT: RefCell<Option<(Rc<Shared>, NodeId)>> = const { RefCell::new(None) };
}

/// The world and the node of the code that runs now.
pub(super) fn current_world() -> (Rc<Shared>, NodeId) {
    CURRENT
        .with(|c| c.borrow().clone())
        .expect("called outside a simulated core")
}

impl Shared {
    /// Runs code of a node.
    fn enter<R>(self: &Rc<Self>, node: NodeId, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<(Rc<Shared>, NodeId)>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|c| *c.borrow_mut() = self.0.take());
            }
        }
        let before = CURRENT.with(|c| c.borrow_mut().replace((self.clone(), node)));
        let _restore = Restore(before);
        f()
    }

    fn core(&self, node: NodeId, core: CoreId) -> Option<Rc<Core>> {
        self.cores
            .borrow()
            .get(usize::from(node.0))?
            .get(usize::from(core.0))
            .cloned()
    }

    /// Schedules what the node's cores want to do.
    fn arrange(&self, node: NodeId) {
        let cores = self.cores.borrow();
        let mut state = self.state.borrow_mut();
        for (id, core) in cores[usize::from(node.0)].iter().enumerate() {
            let id = CoreId(id as u16);
            if core.has_ready() {
                state.turn_within(node, id, &POLL_COST);
            } else if core.has_foreign_work() {
                state.turn_within(node, id, &WAKE_DELAY);
            }
            if let Some(deadline) = core.next_timer() {
                state.timer_at(node, id, deadline);
            }
        }
    }

    /// The next event, and the clock moved to it.
    fn next(&self, deadline: Instant) -> Result<What, Stop> {
        let mut state = self.state.borrow_mut();
        match state.events.peek() {
            None => Err(Stop::Idle),
            Some(Reverse(event)) if event.at > deadline => {
                state.now = deadline;
                Err(Stop::Deadline)
            }
            Some(_) => {
                let Some(Reverse(event)) = state.events.pop() else {
                    return Err(Stop::Idle);
                };
                state.now = state.now.max(event.at);
                state.steps += 1;
                Ok(event.what)
            }
        }
    }

    fn happen(self: &Rc<Self>, what: What) {
        match what {
            What::Turn(node, id) => {
                let mut state = self.state.borrow_mut();
                let now = state.now;
                let turns = &mut state.node(node).cores[usize::from(id.0)];
                if turns.next != Some(now) {
                    return;
                }
                turns.next = None;
                state.event_note("turn", u64::from(node.0), u64::from(id.0));
                drop(state);
                let Some(core) = self.core(node, id) else {
                    return;
                };
                self.enter(node, || {
                    core.take_remote();
                    core.run_one();
                });
                self.arrange(node);
            }
            What::Timer(node, id) => {
                let mut state = self.state.borrow_mut();
                let now = state.now;
                let turns = &mut state.node(node).cores[usize::from(id.0)];
                if turns.timer != Some(now) {
                    return;
                }
                turns.timer = None;
                drop(state);
                let Some(core) = self.core(node, id) else {
                    return;
                };
                self.enter(node, || core.fire_timers());
                self.arrange(node);
            }
            What::Op {
                node,
                core,
                key,
                id,
            } => self.op_over(node, core, key, id),
            What::Offload(id) => {
                let job = self.state.borrow_mut().offloads.remove(&id);
                let Some(Offload {
                    node,
                    core: core_id,
                    job,
                    fail_after,
                }) = job
                else {
                    return;
                };
                let Some(core) = self.core(node, core_id) else {
                    return;
                };
                self.state
                    .borrow_mut()
                    .event_note("offloaded", u64::from(node.0), id);
                self.enter(node, || core.enter(job));
                if fail_after {
                    let mut state = self.state.borrow_mut();
                    let n = state.node(node);
                    n.due = n.trigger.take().map(|t| t.failure);
                }
                self.arrange(node);
            }
            What::Fail { node, incarnation } => {
                let mut state = self.state.borrow_mut();
                let n = state.node(node);
                if n.up && n.incarnation == incarnation {
                    n.due = n.trigger.take().map(|t| t.failure);
                }
            }
        }
    }

    /// An operation's time has come: its effect on the drive, then the news to the core.
    fn op_over(self: &Rc<Self>, node: NodeId, id: CoreId, key: OpKey, flight_id: u64) {
        let Some(core) = self.core(node, id) else {
            return;
        };
        let mut state = self.state.borrow_mut();
        let at = (node, id, key);
        if state.flights.get(&at).is_none_or(|f| f.id != flight_id) {
            return;
        }
        let Some(flight) = state.flights.remove(&at) else {
            return;
        };
        let result = if flight.cancelled {
            -libc::ECANCELED
        } else {
            core.with_op(key, |op| state.effect(node, &flight, op))
                .unwrap_or(-libc::ECANCELED)
        };
        state.event_note("over", flight_id, result as u64);
        if flight.fail_after {
            let n = state.node(node);
            n.due = n.trigger.take().map(|t| t.failure);
            return;
        }
        drop(state);
        self.enter(node, || core.complete(key, result));
        self.arrange(node);
    }

    /// Lets a node fail whose failure is due.
    fn fail_due(self: &Rc<Self>) -> Option<NodeId> {
        let (node, failure) = {
            let mut state = self.state.borrow_mut();
            state
                .nodes
                .iter_mut()
                .enumerate()
                .find_map(|(i, n)| Some((NodeId(i as u16), n.due.take()?)))?
        };
        self.fail(node, failure);
        Some(node)
    }

    fn fail(self: &Rc<Self>, node: NodeId, failure: Failure) {
        let flights = {
            let mut state = self.state.borrow_mut();
            let n = state.node(node);
            assert!(n.up, "{node:?} is down already");
            n.up = false;
            n.due = None;
            n.trigger = None;
            state.event_note(
                "fail",
                u64::from(node.0),
                matches!(failure, Failure::Crash).into(),
            );
            let keys: Vec<_> = state
                .flights
                .range((node, CoreId(0), 0)..=(node, CoreId(u16::MAX), OpKey::MAX))
                .map(|(k, _)| *k)
                .collect();
            let mut flights: Vec<_> = keys
                .into_iter()
                .filter_map(|at| Some((at, state.flights.remove(&at)?)))
                .collect();
            state.cuts.shuffle(&mut flights);
            flights
        };
        // What was under way may have reached the drive, in any order.
        for ((_, id, key), flight) in flights {
            let Some(core) = self.core(node, id) else {
                continue;
            };
            let mut state = self.state.borrow_mut();
            let lands = state.cuts.coin();
            let lands = match failure {
                Failure::PowerCut(Some(CutMode::LoseAll)) => false,
                Failure::PowerCut(Some(CutMode::KeepAll)) => true,
                _ => lands,
            };
            if lands && !flight.cancelled {
                core.with_op(key, |op| state.effect(node, &flight, op));
            }
        }
        self.stop_cores(node);
        let slots = {
            let mut state = self.state.borrow_mut();
            let State {
                nodes,
                drives,
                cuts,
                files,
                slots,
                ..
            } = &mut *state;
            files.retain(|_, f| f.node != node);
            let mut cut_slots = Vec::new();
            for &drive in &nodes[usize::from(node.0)].drives {
                match failure {
                    Failure::PowerCut(mode) => {
                        let drawn = CutMode::draw(cuts);
                        drives[drive].disk.power_cut(mode.unwrap_or(drawn), cuts);
                    }
                    Failure::Crash => drives[drive].disk.close_all(),
                }
            }
            if let Failure::PowerCut(_) = failure {
                cut_slots = slots.of_node(node);
            }
            cut_slots
        };
        for slot in slots {
            // A stream of its own for each, so that a slot's draws move nobody else's.
            let n = self.state.borrow_mut().cuts.u64();
            let seed = self.state.borrow().seed;
            slot.borrow_mut()
                .power_cut(&mut Rng::stream(seed, "slot", n));
        }
    }

    /// Drops all tasks, operations and offloaded calls of a node.
    fn stop_cores(self: &Rc<Self>, node: NodeId) {
        let cores = std::mem::take(&mut self.cores.borrow_mut()[usize::from(node.0)]);
        let offloads = {
            let mut state = self.state.borrow_mut();
            let n = state.node(node);
            n.up = false;
            n.cores
                .iter_mut()
                .for_each(|turns| *turns = Turns::default());
            let (of_node, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut state.offloads)
                    .into_iter()
                    .partition(|(_, o)| o.node == node);
            state.offloads = rest;
            of_node
        };
        self.enter(node, || {
            for core in &cores {
                core.kill();
            }
            for offload in offloads.into_values() {
                drop(offload.job);
            }
        });
    }
}

// ------------------------------------------------------------------ state ----

impl State {
    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(node.0)]
    }

    fn drive(&mut self, drive: DriveId) -> &mut Drive {
        &mut self.drives[usize::from(drive.0)]
    }

    fn id_take(&mut self) -> u64 {
        self.id_next += 1;
        self.id_next - 1
    }

    fn mix(&mut self, x: u64) {
        self.trace = mix(self.trace, x);
    }

    fn event_note(&mut self, what: &str, a: u64, b: u64) {
        self.mix(self.now.as_nanos());
        self.mix(what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8);
        self.mix(a);
        self.mix(b);
        if self.verbose {
            eprintln!("{:>12} ns  {what} {a} {}", self.now.as_nanos(), b as i64);
        }
    }

    fn event(&mut self, at: Instant, what: What) {
        let order = self.events_made;
        self.events_made += 1;
        self.events.push(Reverse(Event { at, order, what }));
    }

    fn turn_within(
        &mut self,
        node: NodeId,
        core: CoreId,
        delay: &std::ops::RangeInclusive<Duration>,
    ) {
        let now = self.now;
        let turns = &self.nodes[usize::from(node.0)].cores[usize::from(core.0)];
        let (next, paused_until) = (turns.next, turns.paused_until);
        if next.is_some_and(|at| at <= paused_until.max(now + *delay.end())) {
            return;
        }
        let after = draw(&mut self.schedule, delay);
        let paused = self.schedule.chance(PAUSE_CHANCE);
        let pause = draw(&mut self.schedule, &PAUSE);
        let pause = if paused { pause } else { Duration::ZERO };
        let at = (now + after + pause).max(paused_until);
        let turns = &mut self.node(node).cores[usize::from(core.0)];
        turns.next = Some(at);
        if paused {
            turns.paused_until = at;
        }
        self.event(at, What::Turn(node, core));
    }

    /// `deadline` is on the node's clock.
    fn timer_at(&mut self, node: NodeId, core: CoreId, deadline: Instant) {
        let now = self.now;
        let boot = self.node(node).boot_clock;
        // At least one tick ahead: a timer that is due already fires in an event of its own.
        let at = Instant::default() + deadline.saturating_since(Instant::default() + boot);
        let at = at.max(now + Duration::from_nanos(1));
        let turns = &mut self.node(node).cores[usize::from(core.0)];
        if turns.timer.is_none_or(|set| at < set) {
            turns.timer = Some(at);
            self.event(at, What::Timer(node, core));
        }
    }

    /// Counts an operation that changes something; tells whether the node's failure strikes here.
    fn count(&mut self, node: NodeId) -> Option<Point> {
        let n = self.node(node);
        let number = n.ops;
        n.ops += 1;
        let trigger = n.trigger.filter(|t| t.number == number)?;
        if trigger.point == Point::Before {
            n.trigger = None;
            n.due = Some(trigger.failure);
        }
        Some(trigger.point)
    }
}

fn mix(h: u64, x: u64) -> u64 {
    (h.rotate_left(23) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

// ----------------------------------------------------------------- driver ----

/// The driver of one virtual core.
struct SimCore {
    shared: Weak<Shared>,
    node: NodeId,
    core: CoreId,
    incarnation: u32,
}

impl SimCore {
    /// Runs `f` on the state, unless the world is gone or this core is of a process that is.
    fn live<R>(&self, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        let shared = self.shared.upgrade()?;
        let mut state = shared.state.borrow_mut();
        let n = state.node(self.node);
        let live = n.up && n.incarnation == self.incarnation && n.due.is_none();
        live.then(|| f(&mut state))
    }
}

impl Simulated for SimCore {
    fn now(&self) -> Instant {
        self.shared.upgrade().map_or(Instant::default(), |shared| {
            let state = shared.state.borrow();
            state.now + state.nodes[usize::from(self.node.0)].boot_clock
        })
    }

    fn unix_ms(&self) -> u64 {
        self.shared.upgrade().map_or(UNIX_MS_START, |shared| {
            let state = shared.state.borrow();
            let offset = state.nodes[usize::from(self.node.0)].unix_ms_offset;
            let ms = UNIX_MS_START + state.now.as_nanos() / 1_000_000;
            ms.saturating_add_signed(offset)
        })
    }

    fn fill_random(&self, out: &mut [u8]) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state.borrow_mut().node(self.node).random.fill(out);
        }
    }

    fn start(&self, core: &Core, key: OpKey) {
        self.live(|state| core.with_op(key, |op| state.begin(self.node, self.core, key, op)));
    }

    fn cancel(&self, _core: &Core, key: OpKey) {
        self.live(|state| {
            let cancelled = state.schedule.coin();
            if let Some(flight) = state.flights.get_mut(&(self.node, self.core, key)) {
                // The kernel can take back what waits in its queue, not what the drive works on.
                flight.cancelled = cancelled && flight.kind != Kind::Sync && !flight.fail_after;
            }
        });
    }

    fn offload(&self, _core: &Core, job: Job) {
        let refused = self.live(|state| {
            let id = state.id_take();
            state.event_note("offload", u64::from(self.node.0), id);
            let strikes = state.count(self.node);
            if strikes == Some(Point::Before) {
                return Some(job);
            }
            let now = state.now;
            let cost = draw(&mut state.offload_cost, &OFFLOAD_COST);
            if strikes == Some(Point::Middle) {
                let incarnation = state.node(self.node).incarnation;
                let fail = What::Fail {
                    node: self.node,
                    incarnation,
                };
                state.event(now + cost / 2, fail);
            }
            let fail_after = strikes == Some(Point::After);
            let offload = Offload {
                node: self.node,
                core: self.core,
                job,
                fail_after,
            };
            state.offloads.insert(id, offload);
            state.event(now + cost, What::Offload(id));
            None
        });
        // Dropped with no borrow held: it may own anything.
        drop(refused);
    }

    fn close(&self, _core: &Core, file: u64) {
        self.live(|state| {
            if let Some(f) = state.files.remove(&file) {
                state.drives[f.drive].disk.close(f.inode);
            }
        });
    }
}
