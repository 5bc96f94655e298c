//! The executor of one core: tasks, wakers, the ready queue, timers, and the table of operations.
//!
//! It knows nothing of how time passes or I/O happens; that is the driver's. Both drivers use it:
//! `uring` runs one core per thread, `sim` several cores in one thread, so the *current core* is a
//! thread-local that [`Core::enter`] switches.
//!
//! A driver's turn: [`Core::take_remote`], [`Core::run_ready`], let I/O happen
//! ([`Core::complete`]), [`Core::fire_timers`].

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use super::CoreId;
use super::buf::Pool;
use super::clock::Instant;
use super::offload::Job;
use super::ops::{Completed, Op, OpKey, Orphaned, Outcome, Table};
use super::sync::Semaphore;
use super::uring::Uring;

/// Offloaded calls of one core that run or wait for a helper; further callers wait in line. Enough
/// for every volume's checkpoint and a listing's worth of index lookups at once.
pub const OFFLOADS_MAX: usize = 64;

/// What the `sim` driver provides. Operations come through [`Simulated::start`]; the driver ends
/// each, exactly once, with [`Core::complete`] (or drops them all with [`Core::kill`]).
pub trait Simulated {
    fn now(&self) -> Instant;
    fn unix_ms(&self) -> u64;
    fn fill_random(&self, out: &mut [u8]);
    /// Begins the operation `key`; look at it, and move its bytes, through [`Core::with_op`].
    /// Must not complete it before returning.
    fn start(&self, core: &Core, key: OpKey);
    /// Nobody waits for `key` any more. It must still complete; with `-ECANCELED` if it had no
    /// effect.
    fn cancel(&self, core: &Core, key: OpKey);
    /// A call for a helper thread: run it when its (virtual) time has come, with the core entered,
    /// or drop it when the core dies first.
    fn offload(&self, core: &Core, job: Job);
    /// The last handle of an open file is gone.
    fn close(&self, core: &Core, file: u64);
}

/// What stands behind the handles.
pub enum Driver {
    Uring(Box<Uring>),
    Sim(Box<dyn Simulated>),
}

// ------------------------------------------------------------ remote side ----

/// How a sleeping core is woken. The `sim` driver needs none: it looks at [`Core::has_work`].
pub trait Unpark: Send + Sync {
    /// Wakes it; through the current core's ring, if that is possible.
    fn unpark(&self, remote: &Arc<Remote>);
    /// Wakes it without the help of a ring.
    fn unpark_now(&self);
    /// Its ring, if it can be woken through that.
    fn ring_fd(&self) -> Option<RawFd>;
}

/// The part of a core that other threads may touch.
pub struct Remote {
    id: CoreId,
    /// Tasks woken from elsewhere: a stack linked through [`TaskCell::next`], newest first, or
    /// [`closed`] once the core is gone. It holds one reference of each.
    woken: AtomicPtr<TaskCell>,
    /// Set by a core that is about to sleep, cleared by whoever wakes it.
    sleeping: AtomicBool,
    unpark: OnceLock<Box<dyn Unpark>>,
}

/// Marks the stack of a core that is gone. Never dereferenced.
fn closed() -> *mut TaskCell {
    ptr::without_provenance_mut(1)
}

impl Remote {
    pub fn new(id: CoreId) -> Arc<Remote> {
        Arc::new(Remote {
            id,
            woken: AtomicPtr::new(ptr::null_mut()),
            sleeping: AtomicBool::new(false),
            unpark: OnceLock::new(),
        })
    }

    pub fn id(&self) -> CoreId {
        self.id
    }

    pub(in crate::rt) fn set_unpark(&self, unpark: Box<dyn Unpark>) {
        assert!(self.unpark.set(unpark).is_ok(), "set once");
    }

    fn push(self: &Arc<Self>, task: Arc<TaskCell>) {
        let task = Arc::into_raw(task).cast_mut();
        let mut head = self.woken.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                // SAFETY: `task` came from `into_raw` above and went nowhere.
                drop(unsafe { Arc::from_raw(task) });
                return;
            }
            // SAFETY: the stack's reference keeps the task alive; `next` is ours until the exchange
            // below publishes it, since a task is in at most one queue (`queued`).
            unsafe { (*task).next.store(head, Ordering::Relaxed) };
            match self
                .woken
                .compare_exchange_weak(head, task, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.unpark();
    }

    /// Makes sure that the core looks at what was published before this call.
    pub fn unpark(self: &Arc<Self>) {
        // Pairs with the fence in `announce_sleep`: either we see `sleeping`, or the core sees what
        // we published.
        fence(Ordering::SeqCst);
        if !self.sleeping.load(Ordering::Relaxed) || !self.sleeping.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Some(unpark) = self.unpark.get() {
            unpark.unpark(self);
        }
    }

    pub(in crate::rt) fn ring_fd(&self) -> Option<RawFd> {
        self.unpark.get()?.ring_fd()
    }

    /// Before a core sleeps. It must look at its queues once more after this, and call
    /// [`Remote::end_sleep`] when it goes on.
    pub(in crate::rt) fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(in crate::rt) fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(in crate::rt) fn has_woken(&self) -> bool {
        !self.woken.load(Ordering::Acquire).is_null()
    }

    /// Takes the stack, oldest first.
    fn take(&self, replacement: *mut TaskCell, mut each: impl FnMut(Arc<TaskCell>)) {
        let mut at = self.woken.swap(replacement, Ordering::Acquire);
        if at == closed() {
            return;
        }
        let mut reversed: *mut TaskCell = ptr::null_mut();
        while !at.is_null() {
            // SAFETY: the swap made the whole stack ours, and each node holds a reference.
            let next = unsafe { (*at).next.swap(reversed, Ordering::Relaxed) };
            reversed = at;
            at = next;
        }
        while !reversed.is_null() {
            // SAFETY: as above; the reference of the stack moves into the Arc.
            let task = unsafe { Arc::from_raw(reversed.cast_const()) };
            reversed = task.next.load(Ordering::Relaxed);
            each(task);
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.take(closed(), drop);
    }
}

// ------------------------------------------------------------------ tasks ----

/// A spawned future.
pub(in crate::rt) struct TaskCell {
    /// Home thread only. `None` once the future is done or cancelled.
    future: UnsafeCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    /// Home thread only.
    state: UnsafeCell<TaskState>,
    /// In the ready queue or the stack of the woken: at most one of them, at most once.
    queued: AtomicBool,
    home: Arc<Remote>,
    next: AtomicPtr<TaskCell>,
}

#[derive(Clone, Copy)]
struct TaskState {
    slot: usize,
    running: bool,
    cancelled: bool,
}

// SAFETY: `future` and `state` are touched on the home thread only: by `Core`, which is `!Send`,
// and by `Task`, which is `!Send`. A waker on another thread touches only the atomics and `home`.
// The last reference may be dropped elsewhere, but by then the future is `None`: a cell leaves the
// core's list, which holds a reference, only after its future was taken (completion, cancel,
// `Core::kill`). Covered by `wakes_from_another_thread` under Miri.
unsafe impl Send for TaskCell {}
// SAFETY: as above.
unsafe impl Sync for TaskCell {}

impl TaskCell {
    /// Queues a task whose `queued` flag the caller has just set.
    fn schedule(self: Arc<Self>) {
        with_core(|core| match core {
            Some(core) if Arc::ptr_eq(&core.remote, &self.home) => {
                core.ready.borrow_mut().push_back(self);
            }
            _ => {
                let home = self.home.clone();
                home.push(self);
            }
        });
    }
}

impl Wake for TaskCell {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.schedule();
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Not a plain load first: the exchange is what makes our writes visible to the next poll.
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.clone().schedule();
        }
    }
}

#[derive(Default)]
struct Tasks {
    cells: Vec<Option<Arc<TaskCell>>>,
    free: Vec<usize>,
}

struct Join<T> {
    value: RefCell<Option<T>>,
    waker: RefCell<Option<Waker>>,
    done: Cell<bool>,
}

/// A spawned task. Await it for its value; dropping it lets the task run on.
pub struct Task<T> {
    join: Rc<Join<T>>,
    cell: Option<Arc<TaskCell>>,
    core: Rc<Core>,
}

impl<T> Task<T> {
    /// Drops the task's future now (or, called from within the task, at its next await).
    pub fn cancel(self) {
        if let Some(cell) = &self.cell {
            self.core.drop_future(cell);
        }
    }

    pub fn is_done(&self) -> bool {
        self.join.done.get()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.join.value.borrow_mut().take() {
            Some(v) => Poll::Ready(v),
            None => {
                assert!(!self.join.done.get(), "polled after it was ready");
                *self.join.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

// ------------------------------------------------------------------- core ----

/// Orders timers: deadline, then creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    deadline: Instant,
    order: u64,
}

/// One core.
pub struct Core {
    id: CoreId,
    remote: Arc<Remote>,
    ready: RefCell<VecDeque<Arc<TaskCell>>>,
    tasks: RefCell<Tasks>,
    timers: RefCell<BTreeMap<TimerKey, Waker>>,
    timers_made: Cell<u64>,
    ops: RefCell<Table>,
    pool: Rc<Pool>,
    pub(in crate::rt) offloads: Semaphore,
    driver: Driver,
    closed: Cell<bool>,
    stale: Cell<u64>,
}

thread_local! {
    static CURRENT: Cell<*const Core> = const { Cell::new(ptr::null()) };
}

/// Runs `f` with the current core, if there is one.
pub(in crate::rt) fn with_core<R>(f: impl FnOnce(Option<&Core>) -> R) -> R {
    let core = CURRENT.with(Cell::get);
    // SAFETY: `CURRENT` is null or points to a core that `Core::enter`, further up this thread's
    // stack, borrows for as long as it is set.
    f(unsafe { core.as_ref() })
}

/// Runs `f` with the current core as a counted reference.
pub(in crate::rt) fn current() -> Rc<Core> {
    let core = CURRENT.with(Cell::get);
    assert!(!core.is_null(), "called outside a core");
    // SAFETY: as in `with_core`; `enter` takes `&Rc<Core>`, so the pointer came from an `Rc` that
    // is alive, and counting one more reference of it is sound.
    unsafe {
        Rc::increment_strong_count(core);
        Rc::from_raw(core)
    }
}

/// The core this code runs on. Panics outside of any.
pub fn core_id() -> CoreId {
    with_core(|core| core.expect("called outside a core").id)
}

impl Core {
    pub fn new(remote: Arc<Remote>, pool: Rc<Pool>, driver: Driver) -> Rc<Core> {
        pool.set_remote(&remote);
        Rc::new(Core {
            id: remote.id,
            remote,
            ready: RefCell::default(),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            timers_made: Cell::new(0),
            ops: RefCell::new(Table::new()),
            pool,
            offloads: Semaphore::new(OFFLOADS_MAX),
            driver,
            closed: Cell::new(false),
            stale: Cell::new(0),
        })
    }

    /// Makes this the current core while `f` runs.
    pub fn enter<R>(self: &Rc<Self>, f: impl FnOnce() -> R) -> R {
        struct Restore(*const Core);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|c| c.set(self.0));
            }
        }
        let _restore = Restore(CURRENT.with(|c| c.replace(Rc::as_ptr(self))));
        f()
    }

    pub fn id(&self) -> CoreId {
        self.id
    }

    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    pub fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    pub(in crate::rt) fn uring(&self) -> Option<&Uring> {
        match &self.driver {
            Driver::Uring(uring) => Some(uring),
            Driver::Sim(_) => None,
        }
    }

    pub(in crate::rt) fn is_sim(&self) -> bool {
        matches!(self.driver, Driver::Sim(_))
    }

    // -- tasks --

    /// Starts a task. On a core that is being torn down the future is dropped at once.
    pub fn spawn<T: 'static>(
        self: &Rc<Self>,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let join = Rc::new(Join {
            value: RefCell::new(None),
            waker: RefCell::new(None),
            done: Cell::new(false),
        });
        if self.closed.get() {
            drop(future);
            return Task {
                join,
                cell: None,
                core: self.clone(),
            };
        }
        let cell = {
            let join = join.clone();
            let future = async move {
                let value = future.await;
                *join.value.borrow_mut() = Some(value);
                join.done.set(true);
                let waker = join.waker.borrow_mut().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            };
            let mut tasks = self.tasks.borrow_mut();
            let slot = tasks.free.pop().unwrap_or_else(|| {
                tasks.cells.push(None);
                tasks.cells.len() - 1
            });
            let cell = Arc::new(TaskCell {
                future: UnsafeCell::new(Some(Box::pin(future))),
                state: UnsafeCell::new(TaskState {
                    slot,
                    running: false,
                    cancelled: false,
                }),
                queued: AtomicBool::new(true),
                home: self.remote.clone(),
                next: AtomicPtr::new(ptr::null_mut()),
            });
            tasks.cells[slot] = Some(cell.clone());
            cell
        };
        self.ready.borrow_mut().push_back(cell.clone());
        Task {
            join,
            cell: Some(cell),
            core: self.clone(),
        }
    }

    /// Moves the tasks woken by other cores and threads to the ready queue.
    pub fn take_remote(&self) {
        if self.remote.has_woken() {
            let mut ready = self.ready.borrow_mut();
            self.remote
                .take(ptr::null_mut(), |task| ready.push_back(task));
        }
        self.pool.collect();
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Something to do without any I/O or timer: ready tasks, or wakes from elsewhere.
    pub fn has_work(&self) -> bool {
        self.has_ready() || self.has_foreign_work()
    }

    pub(in crate::rt) fn has_foreign_work(&self) -> bool {
        self.remote.has_woken() || self.pool.must_collect()
    }

    /// Polls each task that is ready now, once, in the order they were woken. Those woken meanwhile
    /// are left for the next turn, so that I/O gets its share.
    pub fn run_ready(self: &Rc<Self>) {
        self.enter(|| {
            let turn = self.ready.borrow().len();
            for _ in 0..turn {
                let Some(task) = self.ready.borrow_mut().pop_front() else {
                    break;
                };
                self.run_task(task);
            }
        });
    }

    /// Polls the one task that is at the front; false if there is none. For a driver that wants to
    /// look around between any two tasks.
    pub fn run_one(self: &Rc<Self>) -> bool {
        let task = self.ready.borrow_mut().pop_front();
        task.map(|task| self.enter(|| self.run_task(task)))
            .is_some()
    }

    fn run_task(&self, task: Arc<TaskCell>) {
        // An exchange, so that what a waker wrote before its own exchange is visible to the poll.
        // A wake from here on queues the task again: nothing is lost.
        task.queued.swap(false, Ordering::AcqRel);
        let waker = Waker::from(task.clone());
        // SAFETY: home thread (a `Core` is `!Send`), and `running` keeps `drop_future` and a nested
        // `run_ready` away from the future while it is polled.
        let finished = unsafe {
            assert!(
                !(*task.state.get()).running,
                "a core runs its tasks from one place"
            );
            (*task.state.get()).running = true;
            let done = match &mut *task.future.get() {
                Some(future) => future
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_ready(),
                None => false,
            };
            (*task.state.get()).running = false;
            done || (*task.state.get()).cancelled
        };
        if finished {
            self.drop_future(&task);
        }
    }

    /// Drops the future of a task, and forgets the task.
    fn drop_future(&self, task: &Arc<TaskCell>) {
        // SAFETY: home thread, as `Core` and `Task` are `!Send`; the future is not being polled.
        let (future, slot) = unsafe {
            let state = &mut *task.state.get();
            if state.running {
                state.cancelled = true;
                return;
            }
            ((*task.future.get()).take(), state.slot)
        };
        let Some(future) = future else { return };
        // May run anything, also spawn and wake: no borrow is held.
        drop(future);
        let mut tasks = self.tasks.borrow_mut();
        if let Some(cell) = tasks.cells.get_mut(slot) {
            *cell = None;
            tasks.free.push(slot);
        }
    }

    // -- time --

    pub fn now(&self) -> Instant {
        match &self.driver {
            Driver::Uring(_) => super::clock::system_now(),
            Driver::Sim(sim) => sim.now(),
        }
    }

    pub(in crate::rt) fn unix_ms(&self) -> u64 {
        match &self.driver {
            Driver::Uring(_) => super::clock::system_unix_ms(),
            Driver::Sim(sim) => sim.unix_ms(),
        }
    }

    pub(in crate::rt) fn fill_random(&self, out: &mut [u8]) {
        match &self.driver {
            Driver::Uring(uring) => uring.fill_random(out),
            Driver::Sim(sim) => sim.fill_random(out),
        }
    }

    pub(in crate::rt) fn timer_key(&self, deadline: Instant) -> TimerKey {
        let order = self.timers_made.get();
        self.timers_made.set(order + 1);
        TimerKey { deadline, order }
    }

    pub(in crate::rt) fn set_timer(&self, key: TimerKey, waker: &Waker) {
        match self.timers.borrow_mut().entry(key) {
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert(waker.clone());
            }
            std::collections::btree_map::Entry::Occupied(mut e) => {
                if !e.get().will_wake(waker) {
                    e.insert(waker.clone());
                }
            }
        }
    }

    pub(in crate::rt) fn remove_timer(&self, key: TimerKey) {
        let waker = self.timers.borrow_mut().remove(&key);
        drop(waker);
    }

    /// The next deadline.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().keys().next().map(|k| k.deadline)
    }

    /// Wakes whoever sleeps until now or earlier, in order.
    pub fn fire_timers(self: &Rc<Self>) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = self.now();
        self.enter(|| {
            loop {
                let waker = {
                    let mut timers = self.timers.borrow_mut();
                    match timers.first_entry() {
                        Some(e) if e.key().deadline <= now => e.remove(),
                        _ => return,
                    }
                };
                waker.wake();
            }
        });
    }

    // -- operations --

    /// Hands an operation to the driver. Await the result for the operation back.
    pub fn submit(self: &Rc<Self>, op: Op) -> Pending {
        if self.closed.get() {
            return Pending {
                core: self.clone(),
                state: PendingState::Refused(Some(op)),
            };
        }
        let key = self.ops.borrow_mut().insert(op);
        self.start(key);
        Pending {
            core: self.clone(),
            state: PendingState::Submitted(key),
        }
    }

    fn start(&self, key: OpKey) {
        match &self.driver {
            Driver::Uring(uring) => uring.start(self, key),
            Driver::Sim(sim) => sim.start(self, key),
        }
    }

    /// Starts an operation whose caller keeps the key: polled with `poll_op`, given up with
    /// `orphan`.
    pub(in crate::rt) fn submit_kept(&self, op: Op) -> io::Result<OpKey> {
        if self.closed.get() {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        let key = self.ops.borrow_mut().insert(op);
        self.start(key);
        Ok(key)
    }

    /// Starts an operation that completes many times.
    pub(in crate::rt) fn submit_many(&self, op: Op) -> io::Result<OpKey> {
        if self.closed.get() {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        let key = self.ops.borrow_mut().insert_many(op);
        self.start(key);
        Ok(key)
    }

    /// Starts an operation nobody waits for.
    /// False if that is not possible now.
    pub(in crate::rt) fn submit_orphan(&self, op: Op) -> bool {
        if self.closed.get() {
            return false;
        }
        let Ok(mut ops) = self.ops.try_borrow_mut() else {
            return false;
        };
        let key = ops.insert_orphan(op);
        drop(ops);
        self.start(key);
        true
    }

    pub(in crate::rt) fn poll_op(&self, key: OpKey, cx: &mut Context<'_>) -> Poll<(Op, Outcome)> {
        self.ops.borrow_mut().poll(key, cx)
    }

    pub(in crate::rt) fn poll_many(
        &self,
        key: OpKey,
        cx: &mut Context<'_>,
    ) -> Poll<(Outcome, bool)> {
        self.ops.borrow_mut().poll_many(key, cx)
    }

    /// Runs `f` on an operation in flight.
    pub fn with_op<R>(&self, key: OpKey, f: impl FnOnce(&mut Op) -> R) -> Option<R> {
        self.ops.borrow_mut().op(key).map(f)
    }

    /// Operations in flight, or over and not yet taken.
    pub fn ops_live(&self) -> usize {
        self.ops.borrow().live()
    }

    /// Operations that the driver has not ended yet.
    pub fn ops_in_flight(&self) -> usize {
        self.ops.borrow().in_flight()
    }

    /// Completions that named no operation in flight. Always 0, or the driver is wrong.
    pub fn stale_completions(&self) -> u64 {
        self.stale.get()
    }

    /// Ends an operation: `result` is a count or a negated errno.
    pub fn complete(self: &Rc<Self>, key: OpKey, result: i32) {
        self.complete_with(key, Outcome { result, flags: 0 }, false);
    }

    pub(in crate::rt) fn complete_with(self: &Rc<Self>, key: OpKey, outcome: Outcome, more: bool) {
        let completed = self.ops.borrow_mut().complete(key, outcome, more);
        self.enter(|| match completed {
            Completed::Wake(waker) => waker.wake(),
            Completed::Nothing => {}
            Completed::Backlog(waker, count) => {
                if let Driver::Uring(uring) = &self.driver {
                    uring.backlog(key, count);
                }
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Completed::Discard {
                op,
                brought,
                outcome,
            } => {
                if let Driver::Uring(uring) = &self.driver {
                    uring.discard(brought, outcome);
                }
                if let Some(Op::Wake { remote }) = &op
                    && outcome.result < 0
                    && let Some(unpark) = remote.unpark.get()
                {
                    unpark.unpark_now();
                }
                drop(op);
            }
            Completed::Stale => self.stale.set(self.stale.get() + 1),
        });
    }

    /// The future that waited for `key` is gone.
    pub(in crate::rt) fn orphan(&self, key: OpKey) {
        let orphaned = self.ops.borrow_mut().orphan(key);
        match (orphaned, &self.driver) {
            (Orphaned::InFlight, Driver::Uring(uring)) => {
                let (brought, unclaimed) = self.ops.borrow_mut().take_unclaimed(key);
                for outcome in unclaimed {
                    uring.discard(brought, outcome);
                }
                uring.cancel(key);
            }
            (Orphaned::InFlight, Driver::Sim(sim)) => sim.cancel(self, key),
            (Orphaned::Unclaimed(op, outcomes), driver) => {
                if let Driver::Uring(uring) = driver {
                    for outcome in outcomes {
                        uring.discard(op.brings(), outcome);
                    }
                }
                drop(op);
            }
            (Orphaned::Gone, _) => {}
        }
    }

    pub(in crate::rt) fn start_offload(&self, job: Job) {
        if self.closed.get() {
            return;
        }
        match &self.driver {
            Driver::Uring(uring) => uring.offload(job),
            Driver::Sim(sim) => sim.offload(self, job),
        }
    }

    pub(in crate::rt) fn close_simulated(&self, file: u64) {
        if let Driver::Sim(sim) = &self.driver {
            sim.close(self, file);
        }
    }

    // -- end --

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Drops every task and timer. Operations stay with the driver, which must end them.
    pub fn kill_tasks(self: &Rc<Self>) {
        self.closed.set(true);
        self.enter(|| {
            // A destructor may wake or cancel others, but spawns nothing on a closed core.
            let cells = std::mem::take(&mut self.tasks.borrow_mut().cells);
            for cell in cells.iter().flatten() {
                self.drop_future(cell);
            }
            let timers = std::mem::take(&mut *self.timers.borrow_mut());
            drop(timers);
            self.remote.take(closed(), drop);
            let ready = std::mem::take(&mut *self.ready.borrow_mut());
            drop(ready);
        });
    }

    /// Ends this core as a power cut does: tasks, timers and operations are dropped where they
    /// stand. For the `sim` driver, which knows that nothing writes into the buffers.
    pub fn kill(self: &Rc<Self>) {
        self.kill_tasks();
        let ops = self.ops.borrow_mut().clear();
        self.enter(|| drop(ops));
    }

    /// Takes what is left of the operations, for a driver that must leak them.
    pub(in crate::rt) fn take_ops(&self) -> Vec<Op> {
        self.ops.borrow_mut().clear()
    }
}

// ---------------------------------------------------------------- pending ----

/// An operation under way. Dropping it leaves the operation, and its buffers, with the driver.
pub struct Pending {
    core: Rc<Core>,
    state: PendingState,
}

enum PendingState {
    Submitted(OpKey),
    /// The core is being torn down.
    Refused(Option<Op>),
    Taken,
}

impl Future for Pending {
    type Output = (Op, Outcome);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(Op, Outcome)> {
        let this = &mut *self;
        match &mut this.state {
            PendingState::Submitted(key) => match this.core.poll_op(*key, cx) {
                Poll::Ready(v) => {
                    this.state = PendingState::Taken;
                    Poll::Ready(v)
                }
                Poll::Pending => Poll::Pending,
            },
            PendingState::Refused(op) => {
                let op = op.take().expect("polled once");
                this.state = PendingState::Taken;
                Poll::Ready((
                    op,
                    Outcome {
                        result: -libc::ECANCELED,
                        flags: 0,
                    },
                ))
            }
            PendingState::Taken => panic!("polled after it was ready"),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let PendingState::Submitted(key) = self.state {
            self.core.orphan(key);
        }
    }
}

// -------------------------------------------------------------- functions ----

/// Starts a task on this core.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    current().spawn(future)
}

/// Lets every other task that is ready run first, and I/O happen.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Time by hand, and no I/O.
    pub struct Bench {
        pub now: Rc<Cell<Instant>>,
    }

    impl Simulated for Bench {
        fn now(&self) -> Instant {
            self.now.get()
        }
        fn unix_ms(&self) -> u64 {
            0
        }
        fn fill_random(&self, out: &mut [u8]) {
            out.fill(4);
        }
        fn start(&self, _: &Core, _: OpKey) {}
        fn cancel(&self, _: &Core, _: OpKey) {}
        fn offload(&self, _: &Core, _: Job) {}
        fn close(&self, _: &Core, _: u64) {}
    }

    pub fn bench_core(pool: Pool) -> Rc<Core> {
        clocked_core(pool).0
    }

    pub fn clocked_core(pool: Pool) -> (Rc<Core>, Rc<Cell<Instant>>) {
        let now = Rc::new(Cell::new(Instant::default()));
        let driver = Driver::Sim(Box::new(Bench { now: now.clone() }));
        (
            Core::new(Remote::new(CoreId(0)), Rc::new(pool), driver),
            now,
        )
    }

    /// Runs until nothing is ready.
    pub fn settle(core: &Rc<Core>) {
        while core.has_work() {
            core.take_remote();
            core.run_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{bench_core, clocked_core, settle};
    use super::*;
    use crate::rt::buf::Buf;
    use crate::rt::{sleep, timeout};
    use std::time::Duration;

    fn log() -> (Rc<RefCell<Vec<u32>>>, impl Fn(u32) + Clone) {
        let log = Rc::new(RefCell::new(Vec::new()));
        (log.clone(), move |n| log.borrow_mut().push(n))
    }

    #[test]
    fn tasks_run_in_the_order_they_were_woken() {
        let core = bench_core(Pool::heap(0));
        let (seen, note) = log();
        for n in 0..3 {
            let note = note.clone();
            drop(core.spawn(async move {
                note(n);
                yield_now().await;
                note(10 + n);
            }));
        }
        settle(&core);
        assert_eq!(*seen.borrow(), [0, 1, 2, 10, 11, 12]);
    }

    #[test]
    fn timers_fire_by_deadline_then_creation() {
        let (core, now) = clocked_core(Pool::heap(0));
        let (seen, note) = log();
        for (n, ms) in [(0, 30), (1, 10), (2, 20), (3, 10)] {
            let note = note.clone();
            drop(core.spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                note(n);
            }));
        }
        settle(&core);
        assert_eq!(
            core.next_timer(),
            Some(Instant::default() + Duration::from_millis(10))
        );
        now.set(Instant::default() + Duration::from_millis(10));
        core.fire_timers();
        settle(&core);
        assert_eq!(*seen.borrow(), [1, 3]);
        now.set(Instant::default() + Duration::from_millis(100));
        core.fire_timers();
        settle(&core);
        assert_eq!(*seen.borrow(), [1, 3, 2, 0]);
        assert_eq!(core.next_timer(), None);
    }

    #[test]
    fn a_timeout_drops_its_future_and_its_timer() {
        struct OnDrop<F: Fn(u32)>(F);
        impl<F: Fn(u32)> Drop for OnDrop<F> {
            fn drop(&mut self) {
                (self.0)(1);
            }
        }
        let (core, now) = clocked_core(Pool::heap(0));
        let (seen, note) = log();
        let guard = OnDrop(note.clone());
        let task = core.spawn(async move {
            let slow = async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            };
            assert!(timeout(Duration::from_secs(1), slow).await.is_err());
            assert_eq!(timeout(Duration::from_secs(1), async { 5 }).await, Ok(5));
            note(2);
        });
        settle(&core);
        assert!(seen.borrow().is_empty());
        now.set(Instant::default() + Duration::from_secs(1));
        core.fire_timers();
        settle(&core);
        assert_eq!(*seen.borrow(), [1, 2]);
        assert!(task.is_done());
        assert_eq!(core.next_timer(), None);
    }

    #[test]
    fn cancel_drops_the_future_now_and_from_within_at_the_next_await() {
        let core = bench_core(Pool::heap(0));
        let alive = Rc::new(());
        let task = {
            let alive = alive.clone();
            core.spawn(async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            })
        };
        settle(&core);
        assert_eq!(Rc::strong_count(&alive), 2);
        task.cancel();
        assert_eq!(Rc::strong_count(&alive), 1);

        let own: Rc<RefCell<Option<Task<()>>>> = Rc::default();
        let (seen, note) = log();
        let task = {
            let (own, alive) = (own.clone(), alive.clone());
            core.spawn(async move {
                let _alive = alive;
                own.borrow_mut().take().unwrap().cancel();
                note(1);
                yield_now().await;
                note(2);
            })
        };
        *own.borrow_mut() = Some(task);
        settle(&core);
        assert_eq!(*seen.borrow(), [1]);
        assert_eq!(Rc::strong_count(&alive), 1);
    }

    #[test]
    fn a_task_gives_its_value_and_a_dropped_handle_lets_it_run() {
        let core = bench_core(Pool::heap(0));
        let (seen, note) = log();
        let inner = core.spawn(async {
            yield_now().await;
            7
        });
        drop(core.spawn(async move { note(inner.await) }));
        settle(&core);
        assert_eq!(*seen.borrow(), [7]);
    }

    #[test]
    fn a_killed_core_drops_what_it_has_and_takes_nothing_new() {
        let core = bench_core(Pool::heap(0));
        let alive = Rc::new(());
        struct Spawner(Rc<Core>, Rc<()>);
        impl Drop for Spawner {
            fn drop(&mut self) {
                let alive = self.1.clone();
                // A destructor that wants to go on asynchronously: too late.
                drop(self.0.spawn(async move { drop(alive) }));
            }
        }
        let spawner = Spawner(core.clone(), alive.clone());
        drop(core.spawn(async move {
            let _spawner = spawner;
            sleep(Duration::from_secs(1)).await;
        }));
        settle(&core);
        core.kill();
        assert_eq!(Rc::strong_count(&alive), 1);
        assert_eq!(core.next_timer(), None);
        assert!(!core.has_ready());
    }

    #[test]
    fn wakes_from_another_thread() {
        let wakes = if cfg!(miri) { 100 } else { 20_000 };
        let core = bench_core(Pool::heap(0));
        let (tx, mut rx) = futures_channel::mpsc::unbounded::<u32>();
        let sender = std::thread::spawn(move || {
            for n in 0..wakes {
                tx.unbounded_send(n).unwrap();
            }
        });
        let task = core.spawn(async move {
            use futures_util::StreamExt;
            let mut next = 0;
            while let Some(n) = rx.next().await {
                assert_eq!(n, next);
                next += 1;
            }
            next
        });
        while !task.is_done() {
            settle(&core);
            std::thread::yield_now();
        }
        sender.join().unwrap();
    }

    #[test]
    fn a_wake_after_the_end_of_the_core_is_dropped() {
        let core = bench_core(Pool::heap(0));
        let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
        drop(core.spawn({
            let kept = kept.clone();
            std::future::poll_fn(move |cx| {
                *kept.borrow_mut() = Some(cx.waker().clone());
                Poll::<()>::Pending
            })
        }));
        settle(&core);
        core.kill();
        let waker = kept.borrow_mut().take().unwrap();
        std::thread::spawn(move || waker.wake()).join().unwrap();
        assert!(!core.has_ready());
    }

    fn a_read(core: &Rc<Core>, buf: Buf) -> Pending {
        let (reader, _writer) = std::io::pipe().unwrap();
        let file = crate::rt::File::from_fd(reader.into());
        core.submit(Op::Read {
            file: file.handle(),
            buf,
            from: 0,
            to: 1,
            offset: 0,
        })
    }

    #[test]
    #[cfg_attr(miri, ignore = "makes a pipe")]
    fn a_dropped_operation_keeps_its_buffer_until_it_completes() {
        let core = bench_core(Pool::heap(8192));
        let pending = a_read(&core, core.pool().try_alloc(8192).unwrap());
        let key = 0;
        drop(pending);
        assert_eq!((core.ops_in_flight(), core.pool().free_bytes()), (1, 0));
        core.complete(key, -libc::ECANCELED);
        assert_eq!((core.ops_in_flight(), core.pool().free_bytes()), (0, 8192));
        // The slot in its next life does not hear of the old one.
        let pending = a_read(&core, core.pool().try_alloc(8192).unwrap());
        core.complete(key, 1);
        assert_eq!((core.stale_completions(), core.ops_in_flight()), (1, 1));
        core.complete(1 << 32, 1);
        assert_eq!((core.stale_completions(), core.ops_in_flight()), (1, 0));
        core.enter(|| drop(pending));
        assert_eq!(core.pool().free_bytes(), 8192);
    }
}
