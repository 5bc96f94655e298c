//! One core: executor, handles, timers, memory, and the two drivers behind them.
//!
//! This is the only place of the server that reads a clock, draws random bytes, starts threads,
//! opens files or owns sockets. Everything above is plain single-threaded async code over the
//! handles exported here, and runs unchanged on both drivers:
//!
//! * `uring`: production. One thread pinned to one CPU, one io_uring, helper threads for calls that
//!   block.
//! * `sim`: tests. Many cores in one thread on virtual time, with seeded disks and faults.
//!
//! Invariants worth naming:
//!
//! 1. A buffer given to an operation belongs to the operation ([`ops`]) until the *final*
//!    completion arrives. Dropping a future asks for cancellation and leaves the buffer parked.
//! 2. A file or socket closes only when no operation on it is in flight: operations hold it.
//! 3. Tasks, operations, timers and pools belong to one core and are touched on its thread only.
//!    Between cores there are mailboxes, the stack of woken tasks, and the stacks of freed buffers.
//! 4. A core is torn down in this order: tasks, operations (cancelled and reaped), registrations,
//!    ring, memory. What cannot be reaped is leaked.
//! 5. Order is deterministic: tasks run in the order they were woken, timers by (deadline, order of
//!    creation), waiters first come first served. No hash map is iterated.

pub mod buf;
pub mod clock;
pub mod cpus;
pub mod executor;
pub mod fault;
pub mod file;
pub mod mailbox;
pub mod net;
pub mod offload;
pub mod ops;
pub mod sim;
pub mod sync;
pub mod uring;

pub use buf::{Buf, pool_usage};
pub use clock::{
    Elapsed, Instant, Sleep, cpu_time, fill_random, now, random_u64, sleep, sleep_until, timeout,
    unix_ms,
};
pub use cpus::available_cpus;
pub use executor::{Task, core_id, spawn, yield_now};
pub use file::{File, OpenOptions, fs};
pub use mailbox::{Full, Mailbox, mesh};
pub use net::{TcpListener, TcpStream};
pub use offload::offload;
pub use uring::{
    Config, CoreThread, Features, Reactor, Unsupported, features, probe, spawn_core, spawn_cores,
};

/// Number of a core within its process, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

impl std::fmt::Display for CoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
