//! The simulator's stand-in for LMDB: the same answers, with commits kept in memory per path.
//!
//! A commit is a delta laid over the ones before it, shared with the memory table it came from, so
//! a checkpoint copies nothing and keeping {last commit, the one before} is free. When deltas pile
//! up they are folded.
//!
//! The registry stands for the drives of one simulated world: it outlives every `Index` opened on
//! it and belongs to the thread. A world starts with `clear`.

use smallvec::SmallVec;
use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::IndexError;
use super::memory::MemoryTable;
use super::merge::Layer;

/// Deltas over a base before they are folded: every lookup asks each of them.
const DELTAS_MAX: usize = 4;

thread_local! {
    static DRIVES: RefCell<BTreeMap<PathBuf, Arc<Mutex<Env>>>> = const { RefCell::new(BTreeMap::new()) };
}

/// What a path holds after the power came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The last commit.
    Last,
    /// The commit before it (an empty environment if there was one only): the last one had not
    /// reached the drive.
    OneBefore,
    /// Nothing: the environment's directory was never durable.
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

fn find(path: &Path) -> Option<Arc<Mutex<Env>>> {
    DRIVES.with_borrow(|drives| drives.get(path).cloned())
}

/// Forgets every path: a new world.
pub fn clear() {
    DRIVES.with_borrow_mut(BTreeMap::clear);
}

/// The power of the node that has `path` fails. An `Index` still open on it belongs to the dead
/// process: what it commits from now on reaches nothing. False if the path held nothing.
pub fn power_cut(path: &Path, choice: Choice) -> bool {
    let Some(env) = find(path) else { return false };
    DRIVES.with_borrow_mut(|drives| {
        let env = lock(&env);
        let last = match choice {
            Choice::Last => env.last.clone(),
            Choice::OneBefore => env.before.clone(),
            Choice::Absent => {
                drives.remove(path);
                return;
            }
        };
        let (fault, damaged, commits) = (env.fault.clone(), env.damaged, env.commits);
        let after = Env {
            before: last.clone(),
            last,
            fault,
            damaged,
            commits,
            owner: Weak::new(),
        };
        drives.insert(path.to_owned(), Arc::new(Mutex::new(after)));
    });
    true
}

/// Every path that holds an environment, in order.
pub fn paths() -> Vec<PathBuf> {
    DRIVES.with_borrow(|drives| drives.keys().cloned().collect())
}

/// Commits so far, across power cuts; for tests that count checkpoints.
pub fn commits(path: &Path) -> u64 {
    find(path).map_or(0, |env| lock(&env).commits)
}

/// Sets or lifts the fault of a path that holds an environment.
pub fn set_fault(path: &Path, fault: Option<Fault>) -> bool {
    find(path).map(|env| lock(&env).fault = fault).is_some()
}

/// Makes the next `open` of the path answer `Damaged`, until it is destroyed.
pub fn damage(path: &Path) -> bool {
    find(path).map(|env| lock(&env).damaged = true).is_some()
}

/// Runs `f` while commits of the path wait.
#[cfg(test)]
pub fn hold(path: &Path, f: impl FnOnce()) {
    let env = find(path).expect("an environment");
    let _held = lock(&env);
    f();
}

pub fn destroy(path: &Path) -> Result<(), IndexError> {
    if find(path).is_some_and(|env| lock(&env).owner.strong_count() > 0) {
        return Err(IndexError::Busy);
    }
    DRIVES.with_borrow_mut(|drives| drives.remove(path));
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
        let env =
            DRIVES.with_borrow_mut(|drives| drives.entry(path.to_owned()).or_default().clone());
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
