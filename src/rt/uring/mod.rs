//! The production driver: one io_uring per core.
//!
//! The ring is used by its own thread only (`SINGLE_ISSUER`), and completion work runs only when
//! that thread enters the kernel and asks for events (`DEFER_TASKRUN`), so a turn of the loop is:
//! run what is ready, enter once (submit, reap, and sleep if nothing is ready), fire timers.
//!
//! Every memory address in the submission queue belongs to an operation in the core's table
//! ([`super::ops`]), to the pool, or to this driver; all of them outlive the last completion, or
//! are leaked ([`Reactor`]'s drop).
//!
//! Kernel floor: 6.1 (`DEFER_TASKRUN`). Receives with a picked buffer are single shots, not
//! multishot: a connection then takes a buffer only when its task waits for bytes, which is what
//! backpressure needs, and bodies can be received straight into the caller's buffers in between.

#![allow(unsafe_code)]

mod picked;
mod probe;
mod registered;
mod start;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use super::CoreId;
use super::buf::{Buf, Pool};
use super::clock::{system_now, system_random};
use super::executor::{Core, Driver, Remote, Unpark, with_core};
use super::file::VECTOR_MAX;
use super::net::{Message, vectors};
use super::offload::{Helpers, Job};
use super::ops::{Brought, Op, OpKey, Outcome};

use picked::Picked;
pub use probe::{Features, Unsupported, probe};
use registered::Registered;
pub use start::{CoreThread, spawn_core, spawn_cores};

// Keys of our own; those of operations have the highest bit clear.
/// Cancels and wakes: nobody looks at how they ended.
const IGNORED: u64 = u64::MAX;
/// The read of the eventfd through which other threads wake us.
const EVENT: u64 = u64::MAX - 1;

/// Longest spin before sleeping. A sleep and a wake cost 14–22 µs of CPU (design, section 9), so
/// spinning longer than that never pays.
const SPIN_MAX: Duration = Duration::from_micros(20);
const SPIN_MIN: Duration = Duration::from_micros(2);

/// Accepted connections that may wait for [`super::TcpListener::accept`]; then accepting pauses
/// and the kernel's backlog takes over.
const ACCEPTED_MAX: usize = 256;

/// How long a teardown tries to reap everything before it leaks. A drive that hangs for longer is
/// the kernel's to give up on, after tens of seconds; we do not wait for it.
const TEARDOWN_MAX: Duration = Duration::from_secs(5);

/// How a core is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Size of the buffer arena.
    pub arena_bytes: usize,
    /// Submission queue entries; the completion queue has four times as many.
    pub entries: u32,
    /// Helper threads.
    pub helpers: usize,
    /// Buffers of 16 KiB, taken from the arena, that wait for received bytes. A power of two.
    pub picked_buffers: u16,
    /// Spin briefly before sleeping, when that has paid lately. Wrong where cores outnumber CPUs.
    pub spin: bool,
    /// Register the arena with the ring, if RLIMIT_MEMLOCK permits.
    pub register: bool,
    /// Wake other cores by MSG_RING, if the kernel is new enough.
    pub msg_ring: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            arena_bytes: 64 << 20,
            entries: 1024,
            helpers: 2,
            picked_buffers: 128,
            spin: true,
            register: true,
            msg_ring: true,
        }
    }
}

/// The driver of one core.
pub struct Uring {
    ring: RefCell<IoUring>,
    /// Entries that found the submission queue full, in order. Bounded by the operations in flight
    /// and their cancels.
    waiting: RefCell<VecDeque<squeue::Entry>>,
    reaped: RefCell<Vec<(u64, i32, u32)>>,
    event: Arc<OwnedFd>,
    /// Where the eventfd's counter is read to. Boxed: the kernel knows the address.
    event_value: Box<UnsafeCell<u64>>,
    event_armed: Cell<bool>,
    pool: Rc<Pool>,
    registered: Registered,
    picked: Picked,
    random: RefCell<Random>,
    helpers: RefCell<Option<Helpers>>,
    spin: bool,
    spin_for: Cell<Duration>,
    features: Features,
}

/// Random bytes are fetched from the kernel by the half kilobyte.
struct Random {
    bytes: [u8; 512],
    used: usize,
}

// -------------------------------------------------------------- submitting ----

impl Uring {
    fn push(&self, entry: squeue::Entry) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            let mut ring = self.ring.borrow_mut();
            // SAFETY: the entry's addresses belong to what this module's documentation lists.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: hand over what is there. An error leaves the queue full, and is met again by
            // the next enter.
            let _ = ring.submit();
            // SAFETY: as above.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        waiting.push_back(entry);
    }

    /// Moves entries that waited into the queue.
    fn push_waiting(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        let mut queue = ring.submission();
        while let Some(entry) = waiting.front() {
            // SAFETY: as in `push`.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            waiting.pop_front();
        }
    }

    pub(in crate::rt) fn start(&self, core: &Core, key: OpKey) {
        let entry = core
            .with_op(key, |op| self.entry(op))
            .expect("started once, right away");
        self.push(entry.user_data(key));
    }

    /// The registered piece that holds the buffer.
    fn piece(&self, buf: &Buf) -> Option<u16> {
        let piece = self.registered.piece(&self.pool, buf)?;
        let ring = self.ring.borrow();
        self.registered
            .ready(&ring, &self.pool, piece)
            .then_some(piece)
    }

    fn write_entry(
        &self,
        fd: RawFd,
        p: *const u8,
        len: u32,
        at: u64,
        piece: Option<u16>,
    ) -> squeue::Entry {
        match piece {
            Some(i) => opcode::WriteFixed::new(types::Fd(fd), p, len, i)
                .offset(at)
                .build(),
            None => opcode::Write::new(types::Fd(fd), p, len).offset(at).build(),
        }
    }

    fn entry(&self, op: &mut Op) -> squeue::Entry {
        let fd = types::Fd;
        match op {
            Op::Read {
                file,
                buf,
                from,
                to,
                offset,
            } => {
                let (p, len) = slice(buf, *from, *to);
                match self.piece(buf) {
                    Some(i) => opcode::ReadFixed::new(fd(file.fd()), p, len, i)
                        .offset(*offset)
                        .build(),
                    None => opcode::Read::new(fd(file.fd()), p, len)
                        .offset(*offset)
                        .build(),
                }
            }
            Op::Write {
                file,
                buf,
                from,
                to,
                offset,
            } => {
                let (p, len) = slice(buf, *from, *to);
                self.write_entry(file.fd(), p, len, *offset, self.piece(buf))
            }
            Op::WriteVectored {
                file,
                bufs,
                first,
                skip,
                offset,
                message,
            } => {
                let vectors = vectors(bufs, *first, *skip);
                if let [one] = vectors.as_slice()
                    && let Ok(len) = u32::try_from(one.iov_len)
                {
                    // Neighbours in the arena became one piece of memory. Registered only if it
                    // does not straddle two pieces.
                    let piece = self.piece(&bufs[*first]).filter(|_| {
                        bufs[*first..].iter().filter(|b| !b.is_empty()).all(|b| {
                            self.piece(b).is_some() && self.piece(b) == self.piece(&bufs[*first])
                        })
                    });
                    let p = one.iov_base.cast::<u8>().cast_const();
                    return self.write_entry(file.fd(), p, len, *offset, piece);
                }
                let message = message.insert(Box::new(Message::new(vectors)));
                let count = message.vectors.len().min(VECTOR_MAX) as u32;
                opcode::Writev::new(fd(file.fd()), message.vectors.as_ptr(), count)
                    .offset(*offset)
                    .build()
            }
            Op::Sync { file, data_only } => {
                let flags = if *data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(fd(file.fd())).flags(flags).build()
            }
            Op::Allocate { file, len } => opcode::Fallocate::new(fd(file.fd()), *len).build(),
            Op::Fs { .. } => unreachable!("calls on the file system go to the helpers"),
            Op::Accept { socket } => opcode::AcceptMulti::new(fd(socket.fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Op::Connect { socket, address } => {
                let (pointer, len) = address.pointer();
                opcode::Connect::new(fd(socket.fd()), pointer, len).build()
            }
            Op::Receive {
                socket,
                buf,
                from,
                to,
            } => {
                let (p, len) = slice(buf, *from, *to);
                opcode::Recv::new(fd(socket.fd()), p, len).build()
            }
            Op::ReceivePicked { socket, idle } => {
                // Nothing is expected yet: wait for the socket without a first attempt.
                let priority = if *idle { POLL_FIRST } else { 0 };
                opcode::Recv::new(fd(socket.fd()), std::ptr::null_mut(), picked::SIZE as u32)
                    .ioprio(priority)
                    .buf_group(picked::GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
            Op::Send {
                socket,
                buf,
                from,
                to,
            } => {
                let (p, len) = slice(buf, *from, *to);
                opcode::Send::new(fd(socket.fd()), p, len)
                    .flags(SEND_FLAGS)
                    .build()
            }
            Op::SendVectored {
                socket,
                bufs,
                first,
                skip,
                message,
            } => {
                let message = message.insert(Box::new(Message::new(vectors(bufs, *first, *skip))));
                opcode::SendMsg::new(fd(socket.fd()), &raw const message.header)
                    .flags(SEND_FLAGS as u32)
                    .build()
            }
            Op::Wake { remote } => {
                let target = remote
                    .ring_fd()
                    .expect("only cores with a ring are woken this way");
                opcode::MsgRingData::new(fd(target), 0, IGNORED, None).build()
            }
        }
    }

    pub(in crate::rt) fn cancel(&self, key: OpKey) {
        self.push(opcode::AsyncCancel::new(key).build().user_data(IGNORED));
    }

    /// `count` results of a many-shot operation wait for their owner.
    pub(in crate::rt) fn backlog(&self, key: OpKey, count: usize) {
        if count == ACCEPTED_MAX {
            self.cancel(key);
        }
    }

    /// Releases what an outcome brought that nobody will take.
    pub(in crate::rt) fn discard(&self, brought: Brought, outcome: Outcome) {
        match brought {
            Brought::Nothing => {}
            Brought::Socket => {
                if outcome.result >= 0 {
                    // SAFETY: the kernel made this descriptor for us and nobody else has seen it.
                    drop(unsafe { OwnedFd::from_raw_fd(outcome.result) });
                }
            }
            Brought::Buffer => drop(self.take_picked(outcome)),
        }
    }

    pub(in crate::rt) fn fill_random(&self, out: &mut [u8]) {
        let mut random = self.random.borrow_mut();
        if out.len() > random.bytes.len() {
            system_random(out);
            return;
        }
        if random.bytes.len() - random.used < out.len() {
            system_random(&mut random.bytes);
            random.used = 0;
        }
        let from = random.used;
        random.used += out.len();
        let to = random.used;
        out.copy_from_slice(&random.bytes[from..to]);
        // What was given out may be a key; keep no copy.
        random.bytes[from..to].fill(0);
    }

    pub(in crate::rt) fn offload(&self, job: Job) {
        if let Some(helpers) = &*self.helpers.borrow() {
            helpers.push(job);
        }
    }

    /// The socket had more bytes than this receive took.
    pub(in crate::rt) fn has_more(&self, outcome: Outcome) -> bool {
        cqueue::sock_nonempty(outcome.flags)
    }

    /// The buffer that the kernel picked.
    pub(in crate::rt) fn take_picked(&self, outcome: Outcome) -> Option<Buf> {
        self.picked.take(cqueue::buffer_select(outcome.flags)?)
    }

    /// Waits until the kernel has a buffer to pick.
    pub(in crate::rt) async fn wait_for_picked(&self) {
        self.picked.wait().await;
    }

    pub(in crate::rt) fn features(&self) -> &Features {
        &self.features
    }
}

/// `IORING_RECVSEND_POLL_FIRST` of linux/io_uring.h.
const POLL_FIRST: u16 = 1;
/// The kernel itself continues a short send.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

fn slice(buf: &Buf, from: usize, to: usize) -> (*mut u8, u32) {
    assert!(from <= to && to <= buf.capacity());
    // Buffers from the allocator may be larger than one operation takes; the handle goes on.
    let len = u32::try_from(to - from).unwrap_or(1 << 30);
    (buf.pointer().wrapping_add(from), len)
}

impl Message {
    fn new(vectors: Vec<libc::iovec>) -> Message {
        // SAFETY: all zeroes is an empty header.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = vectors.as_ptr().cast_mut();
        header.msg_iovlen = vectors.len() as _;
        Message { header, vectors }
    }
}

// ------------------------------------------------------------------- turns ----

impl Uring {
    /// Lets I/O happen; sleeps until something does, if the core has nothing else to do.
    fn turn(&self, core: &Rc<Core>) {
        self.picked.refill(&self.pool);
        self.push_waiting();
        if core.has_work() {
            if self.must_enter() {
                self.enter(0, None);
                self.reap(core);
            }
            return;
        }
        if self.spin_for.get() > Duration::ZERO {
            if self.must_enter() {
                self.enter(0, None);
                if self.reap(core) && core.has_work() {
                    return;
                }
            }
            if self.spin(core) {
                if self.must_enter() {
                    self.enter(0, None);
                    self.reap(core);
                }
                return;
            }
        }
        self.arm_event();
        let remote = core.remote();
        remote.announce_sleep();
        if core.has_foreign_work() {
            remote.end_sleep();
            self.enter(0, None);
            self.reap(core);
            return;
        }
        let before = self.spin.then(system_now);
        let wait = core.next_timer().map(|at| at.saturating_since(core.now()));
        match wait {
            Some(Duration::ZERO) => self.enter(0, None),
            wait => self.enter(1, wait),
        }
        remote.end_sleep();
        if let Some(before) = before {
            // A short sleep would have been better spun.
            if before.elapsed() < SPIN_MAX {
                let longer = (self.spin_for.get() * 2).clamp(SPIN_MIN, SPIN_MAX);
                self.spin_for.set(longer);
            }
        }
        self.reap(core);
    }

    /// There is something to submit, to run in the kernel, or to reap.
    fn must_enter(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let queue = ring.submission();
        if !queue.is_empty() || queue.taskrun() || queue.cq_overflow() {
            return true;
        }
        drop(queue);
        !ring.completion().is_empty() || !self.waiting.borrow().is_empty()
    }

    /// Looks for work for a while. True if there is some.
    fn spin(&self, core: &Rc<Core>) -> bool {
        let start = system_now();
        let mut end = start + self.spin_for.get();
        if let Some(timer) = core.next_timer() {
            end = end.min(timer);
        }
        loop {
            for _ in 0..16 {
                if core.has_foreign_work() || self.must_enter() {
                    let longer = (self.spin_for.get() * 2).clamp(SPIN_MIN, SPIN_MAX);
                    self.spin_for.set(longer);
                    return true;
                }
                std::hint::spin_loop();
            }
            if system_now() >= end {
                let shorter = self.spin_for.get() / 2;
                self.spin_for.set(if shorter < SPIN_MIN {
                    Duration::ZERO
                } else {
                    shorter
                });
                return false;
            }
        }
    }

    fn arm_event(&self) {
        if !self.event_armed.replace(true) {
            let entry = opcode::Read::new(
                types::Fd(self.event.as_raw_fd()),
                self.event_value.get().cast(),
                size_of::<u64>() as u32,
            );
            self.push(entry.build().user_data(EVENT));
        }
    }

    /// Submits what is queued, runs the kernel's deferred work, and waits for `want` completions,
    /// but no longer than `wait`.
    fn enter(&self, want: u32, wait: Option<Duration>) {
        let mut ring = self.ring.borrow_mut();
        let submit = ring.submission().len() as u32;
        let mut flags = EnterFlags::GETEVENTS;
        let result = match wait {
            Some(wait) => {
                flags |= EnterFlags::EXT_ARG;
                let time = types::Timespec::from(wait);
                let args = types::SubmitArgs::new().timespec(&time);
                // SAFETY: the arguments live across the call and have the form EXT_ARG announces.
                unsafe {
                    ring.submitter()
                        .enter(submit, want, flags.bits(), Some(&args))
                }
            }
            // SAFETY: no argument is passed.
            None => unsafe {
                ring.submitter()
                    .enter::<libc::sigset_t>(submit, want, flags.bits(), None)
            },
        };
        match result.map_err(|e| e.raw_os_error()) {
            // Time is up; a signal; the kernel is short of memory or has completions that we take
            // next. What was not submitted stays in the queue.
            Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(errno) => panic!(
                "io_uring_enter: {}",
                io::Error::from_raw_os_error(errno.unwrap_or_default())
            ),
        }
    }

    /// Delivers the completions that are there. True if there were any.
    fn reap(&self, core: &Rc<Core>) -> bool {
        // Taken out first: what follows from a completion may submit, and so use the ring.
        let mut reaped = std::mem::take(&mut *self.reaped.borrow_mut());
        {
            let mut ring = self.ring.borrow_mut();
            reaped.extend(
                ring.completion()
                    .map(|c| (c.user_data(), c.result(), c.flags())),
            );
        }
        let some = !reaped.is_empty();
        for (key, result, flags) in reaped.drain(..) {
            match key {
                IGNORED => {}
                EVENT => self.event_armed.set(false),
                key => core.complete_with(key, Outcome { result, flags }, cqueue::more(flags)),
            }
        }
        *self.reaped.borrow_mut() = reaped;
        some
    }
}

// ------------------------------------------------------------------ waking ----

/// How others wake a core that sleeps in its ring.
struct Bell {
    event: Arc<OwnedFd>,
    ring: Option<RawFd>,
}

impl Unpark for Bell {
    fn unpark(&self, remote: &Arc<Remote>) {
        if self.ring.is_some() {
            // From another core: through its own ring, which it enters at the end of its turn. Should
            // this core be gone and the descriptor have become another's by then, the message is
            // ignored there or fails.
            let sent = with_core(|core| {
                core.is_some_and(|core| {
                    core.uring().is_some()
                        && core.submit_orphan(Op::Wake {
                            remote: remote.clone(),
                        })
                })
            });
            if sent {
                return;
            }
        }
        self.unpark_now();
    }

    fn unpark_now(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes are read from `one`. A full counter (EAGAIN is impossible before
        // 2^64 - 2 wakes) would mean that the core is being woken already.
        unsafe {
            libc::write(
                self.event.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            )
        };
    }

    fn ring_fd(&self) -> Option<RawFd> {
        self.ring
    }
}

// ----------------------------------------------------------------- reactor ----

/// A core with its ring, on the thread that made it. Dropping it tears it down: tasks, then
/// operations (cancelled and reaped), then registrations, the ring, and the memory.
pub struct Reactor {
    core: Rc<Core>,
    torn_down: bool,
    _one_thread: std::marker::PhantomData<Rc<()>>,
}

impl Reactor {
    pub fn new(id: CoreId, config: &Config) -> io::Result<Reactor> {
        let pool = Rc::new(Pool::mapped(config.arena_bytes)?);
        Reactor::with_pool(id, config, pool)
    }

    /// Over memory that exists already.
    pub fn with_pool(id: CoreId, config: &Config, pool: Rc<Pool>) -> io::Result<Reactor> {
        super::fault::read_environment()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let ring = probe::builder(config.entries).build(config.entries)?;
        let mut features = Features::of_kernel();
        match ring.submitter().register_ring_fd() {
            Ok(()) => features.registered_ring = true,
            Err(e) => features.miss(format!("registered ring: {e}")),
        }
        features.huge_pages = pool.is_huge();
        if !features.huge_pages {
            features.miss("huge pages: the kernel refuses them (transparent_hugepage)".into());
        }
        let mut registered = Registered::none();
        if config.register {
            match Registered::new(&ring, &pool) {
                Ok(table) => registered = table,
                Err(e) => features.miss(format!(
                    "registered buffers: {e}; raise the memlock limit above {} MiB a core",
                    pool.capacity() >> 20
                )),
            }
        }
        features.registered_buffers = registered.is_some();
        // SAFETY: no memory is involved; the result is checked.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else knows.
        let event = Arc::new(unsafe { OwnedFd::from_raw_fd(event) });
        features.msg_ring &= config.msg_ring;
        let remote = Remote::new(id);
        remote.set_unpark(Box::new(Bell {
            event: event.clone(),
            ring: features.msg_ring.then(|| ring.as_raw_fd()),
        }));
        let picked = Picked::register(&ring, config.picked_buffers)?;
        picked.refill(&pool);
        let uring = Uring {
            ring: RefCell::new(ring),
            waiting: RefCell::default(),
            reaped: RefCell::default(),
            event,
            event_value: Box::new(UnsafeCell::new(0)),
            event_armed: Cell::new(false),
            pool: pool.clone(),
            registered,
            picked,
            random: RefCell::new(Random {
                bytes: [0; 512],
                used: 512,
            }),
            helpers: RefCell::new(Some(Helpers::start(id, config.helpers)?)),
            spin: config.spin,
            spin_for: Cell::new(Duration::ZERO),
            features,
        };
        Ok(Reactor {
            core: Core::new(remote, pool, Driver::Uring(Box::new(uring))),
            torn_down: false,
            _one_thread: std::marker::PhantomData,
        })
    }

    pub fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// What this core uses, and what it must do without.
    pub fn features(&self) -> &Features {
        self.uring().features()
    }

    fn uring(&self) -> &Uring {
        self.core.uring().expect("made by `with_pool`")
    }

    /// Runs until `root` is done. Other tasks stay, and go on in the next run.
    pub fn run<T: 'static>(&self, root: impl Future<Output = T> + 'static) -> T {
        let out = Rc::new(Cell::new(None));
        let task = {
            let out = out.clone();
            self.core.spawn(async move { out.set(Some(root.await)) })
        };
        let uring = self.uring();
        loop {
            self.core.take_remote();
            self.core.run_ready();
            if task.is_done() {
                // What the last tasks asked for must not wait for the next run: wakes, cancels.
                uring.push_waiting();
                uring.enter(0, None);
                uring.reap(&self.core);
                return out.take().expect("set before the task is done");
            }
            uring.turn(&self.core);
            self.core.fire_timers();
        }
    }

    /// Tears down; how many operations had to be leaked (0, unless a device hangs), and the memory,
    /// which nothing writes to any more if that number is 0.
    pub fn shut_down(mut self) -> (usize, Rc<Pool>) {
        let leaked = self.tear_down();
        (leaked, self.core.pool().clone())
    }

    fn tear_down(&mut self) -> usize {
        if std::mem::replace(&mut self.torn_down, true) {
            return 0;
        }
        let core = self.core.clone();
        core.kill_tasks();
        let uring = self.uring();
        // Calls under way finish; their answers go nowhere.
        drop(uring.helpers.borrow_mut().take());
        let end = system_now() + TEARDOWN_MAX;
        let idle = || core.ops_in_flight() == 0 && !uring.event_armed.get();
        while !idle() && system_now() < end {
            let all = opcode::AsyncCancel2::new(types::CancelBuilder::any());
            uring.push(all.build().user_data(IGNORED));
            uring.push_waiting();
            uring.enter(1, Some(Duration::from_millis(20)));
            core.enter(|| uring.reap(&core));
        }
        if !idle() {
            // The kernel may still write: into the buffers of these operations, which keep the
            // arena alive with them, the picked ones, and the counter.
            let ops = core.take_ops();
            let leaked = ops.len().max(1);
            std::mem::forget(ops);
            std::mem::forget(core.pool().clone());
            std::mem::forget(core);
            return leaked;
        }
        let ops = core.take_ops();
        core.enter(|| drop(ops));
        let ring = uring.ring.borrow();
        core.enter(|| uring.picked.unregister(&ring));
        uring.registered.unregister(&ring);
        0
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.tear_down();
    }
}

/// What the current core uses, and must do without; `None` in simulation.
pub fn features() -> Option<Features> {
    with_core(|core| {
        core.and_then(Core::uring)
            .map(|uring| uring.features().clone())
    })
}
