//! The simulator's stand-in for LMDB: the same answers, with commits kept in memory per path.
//!
//! A commit is a delta laid over the ones before it, shared with the memory table it came from, so
//! a checkpoint copies nothing and keeping {last commit, the one before} is free. When deltas pile
//! up they are folded.
//!
//! What a path holds is a slot of the simulated world (`rt::sim::slot`): it outlives the process
//! that wrote it. A power cut keeps the last commit, which had been flushed when its call ended;
//! a test that wants less says so with `power_cut` before it opens the index again. All functions
//! here are called on a simulated core, and mean paths of its node.

use smallvec::SmallVec;
use std::cell::{Ref, RefCell};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::IndexError;
use super::memory::MemoryTable;
use super::merge::Layer;
use crate::rt::sim::{Rng, Slot, world_slot, world_slot_remove};

/// Deltas over a base before they are folded: every lookup asks each of them.
const DELTAS_MAX: usize = 4;

/// What a path holds after the power came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The last commit.
    Last,
    /// The commit before it (an empty environment if there was one only): the last one had not
    /// reached the drive.
    OneBefore,
    /// An empty environment: its directory was never durable.
    Absent,
}

/// What commits and reservations of a path answer until it is lifted.
#[derive(Clone, Debug)]
pub struct Fault {
    pub error: IndexError,
    /// Whether a commit that answers `error` has taken effect all the same, as when the flush of
    /// the meta page fails.
    pub applied: bool,
}

#[derive(Default, Clone)]
pub struct Snapshot {
    /// Newest first. Markers in them hide keys of older deltas and of the base.
    deltas: SmallVec<[Arc<MemoryTable>; DELTAS_MAX]>,
    /// Without markers.
    base: Arc<MemoryTable>,
}

impl Snapshot {
    fn with(&self, delta: Arc<MemoryTable>) -> Snapshot {
        let mut next = self.clone();
        next.deltas.insert(0, delta);
        if next.deltas.len() > DELTAS_MAX {
            next.fold();
        }
        next
    }

    fn fold(&mut self) {
        let mut merged = MemoryTable::default();
        for delta in self.deltas.drain(..).rev() {
            apply(&mut merged, &delta);
        }
        // A base is copied only for a delta of at least half its size, so that the cost of
        // copying stays a constant for each entry committed.
        if merged.entries() * 2 < self.base.entries() {
            self.deltas.push(Arc::new(merged));
            return;
        }
        let base = Arc::make_mut(&mut self.base);
        for (key, change) in merged.iter() {
            match change {
                Some(value) => base.set(key, Some(value.to_vec())),
                None => base.forget(key),
            }
        }
    }

    /// Newest first.
    pub fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        self.tables().map(Layer::Memory)
    }

    fn tables(&self) -> impl Iterator<Item = &MemoryTable> {
        self.deltas.iter().chain([&self.base]).map(|table| &**table)
    }

    fn is_empty(&self) -> bool {
        self.tables().all(|table| table.entries() == 0)
    }
}

fn apply(table: &mut MemoryTable, delta: &MemoryTable) {
    for (key, change) in delta.iter() {
        table.set(key, change.map(<[u8]>::to_vec));
    }
}

/// One path's environment: what the drive holds.
#[derive(Default)]
struct Env {
    last: Arc<Snapshot>,
    before: Arc<Snapshot>,
    fault: Option<Fault>,
    damaged: bool,
    commits: u64,
    owner: Weak<()>,
}

fn lock(env: &Mutex<Env>) -> MutexGuard<'_, Env> {
    env.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The world's hold on an environment. Not the environment itself, because a cut leaves that to
/// the dead process and whatever of it is still under way, and gives the world another.
#[derive(Default)]
struct Drive(Arc<Mutex<Env>>);

impl Drive {
    fn keep(&mut self, choice: Choice) {
        let next = {
            let env = lock(&self.0);
            let last = match choice {
                Choice::Last => env.last.clone(),
                Choice::OneBefore => env.before.clone(),
                Choice::Absent => Arc::default(),
            };
            let (fault, commits) = (env.fault.clone(), env.commits);
            let damaged = env.damaged && choice != Choice::Absent;
            Env {
                before: last.clone(),
                last,
                fault,
                damaged,
                commits,
                owner: Weak::new(),
            }
        };
        self.0 = Arc::new(Mutex::new(next));
    }
}

impl Slot for Drive {
    fn power_cut(&mut self, _: &mut Rng) {
        self.keep(Choice::Last);
    }
}

fn drive(path: &Path) -> Arc<Mutex<Env>> {
    world_slot::<Drive>(path).borrow().0.clone()
}

/// Makes `path` hold what the choice says. An `Index` still open on it belongs to the dead
/// process: what it commits from now on reaches nothing.
pub fn power_cut(path: &Path, choice: Choice) {
    world_slot::<Drive>(path).borrow_mut().keep(choice);
}

/// Commits so far, across power cuts; for tests that count checkpoints.
pub fn commits(path: &Path) -> u64 {
    lock(&drive(path)).commits
}

/// Sets or lifts the fault of a path.
pub fn set_fault(path: &Path, fault: Option<Fault>) {
    lock(&drive(path)).fault = fault;
}

/// Makes `open` of the path answer `Damaged` until it is destroyed.
pub fn damage(path: &Path) {
    lock(&drive(path)).damaged = true;
}

pub fn destroy(path: &Path) -> Result<(), IndexError> {
    if lock(&drive(path)).owner.strong_count() > 0 {
        return Err(IndexError::Busy);
    }
    world_slot_remove(path);
    Ok(())
}

pub struct TwinStore {
    writer: Writer,
    view: RefCell<Arc<Snapshot>>,
    _owner: Arc<()>,
}

/// The half that helper threads may use.
#[derive(Clone)]
pub struct Writer(Arc<Mutex<Env>>);

impl TwinStore {
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let env = drive(path);
        let owner = Arc::new(());
        let view = {
            let mut env = lock(&env);
            if env.damaged {
                let reason = "damaged by the simulation".to_owned();
                return Err(IndexError::Damaged {
                    during: "open",
                    reason,
                });
            }
            if env.owner.strong_count() > 0 {
                return Err(IndexError::Busy);
            }
            env.owner = Arc::downgrade(&owner);
            env.last.clone()
        };
        Ok(TwinStore {
            writer: Writer(env),
            view: RefCell::new(view),
            _owner: owner,
        })
    }

    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    pub fn get<R>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let view = self.view.borrow();
        let change = view.tables().find_map(|table| table.get(key));
        change.flatten().map(f)
    }

    pub fn snapshot(&self) -> Ref<'_, Snapshot> {
        Ref::map(self.view.borrow(), |view| &**view)
    }

    pub fn refresh(&self) {
        let newest = lock(&self.writer.0).last.clone();
        *self.view.borrow_mut() = newest;
    }

    pub fn is_empty(&self) -> bool {
        self.view.borrow().is_empty()
    }

    pub fn bytes(&self) -> u64 {
        let view = self.view.borrow();
        view.tables().map(|table| table.bytes() as u64).sum()
    }
}

impl Writer {
    pub fn commit(&self, table: &Arc<MemoryTable>) -> Result<(), IndexError> {
        let mut env = lock(&self.0);
        let fault = env.fault.clone();
        if fault.as_ref().is_none_or(|fault| fault.applied) {
            env.before = env.last.clone();
            env.last = Arc::new(env.last.with(table.clone()));
            env.commits += 1;
        }
        fault.map_or(Ok(()), |fault| Err(fault.error))
    }

    pub fn reserve(&self) -> Result<(), IndexError> {
        match &lock(&self.0).fault {
            Some(fault) => Err(fault.error.clone()),
            None => Ok(()),
        }
    }
}
