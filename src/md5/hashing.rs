//! One core's uploads, hashed together.
//!
//! ```text
//!   an upload ── job: stream, buffer ──→ queue ──→ runner: a turn of all jobs ──→ stream, buffer back
//!                                          ↑          │ not at its end: back of the queue, behind new ones
//!                                          └──────────┘
//! ```
//!
//! The runner is a task that is started by the first job and ends with the last. It begins at the end of the run queue,
//! so every upload whose piece is complete in the same turn of the reactor has brought it by then. A turn takes
//! [`TURN_BYTES_MAX`] at most; between turns everybody else runs, and pieces that arrived meanwhile join. Thus the
//! busier the core, the more streams share a turn, as in a group commit. A long job with less company than there was
//! lately lets the core do what else is ready first, for [`COMPANY_TURNS`]: never longer, and never with an idle core.
//! (16 uploads of 16 MiB at once take 0.86 to 0.92 of the CPU that they take without, four paired rounds.)
//!
//! Jobs take turns as streams do on lanes, so a small one does not wait for large ones that came before it. Their number
//! is bounded by the uploads of the core, each of which has one piece here at a time; their memory is the pieces'.
//!
//! Dropping the future of a job gives the job up: its buffer goes back to the pool with the runner's next turn.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
    rc::Rc,
};

use futures_channel::oneshot;
use smallvec::{SmallVec, smallvec};

use super::{Kernels, Md5, Piece, advance};
use crate::rt::{self, Buf};

/// Bytes of a turn, over all jobs: 0.1 ms with 16 lanes of AVX-512, 0.15 ms with AVX2; 1.3 ms only on a CPU without
/// vectors. The same everywhere, because who is hashed when must not depend on the CPU.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one job in a turn: 0.08 ms of a lone stream, against a microsecond for the turn itself.
const JOB_TURN_BYTES_MAX: usize = 64 * 1024;

/// Up to this, queueing costs more than it saves: alone 0.3 µs, as much as 200 bytes; in company it breaks even here.
const IN_PLACE_MAX: usize = 128;

/// Bytes of one job in a turn, however many there are: 32 jobs fill the lanes of the widest kernel.
const JOB_TURN_BYTES_MIN: usize = TURN_BYTES_MAX / 32;

/// Long jobs fill the lanes of the usual kernel at this number; more need not be waited for.
const LANES: usize = 16;

/// Turns of the reactor, without a further job, after which jobs are hashed in the company they have.
const COMPANY_TURNS: u32 = 2;

/// Turns after which one job fewer is expected.
const LATELY_TURNS: u32 = 16;

/// Jobs of a turn, however small: what a turn does for each is bounded too.
const JOBS_PER_TURN_MAX: usize = 256;

/// Bytes of one of several buffers.
#[derive(Clone, Debug)]
pub struct Slice {
    pub buf: usize,
    pub range: Range<usize>,
}

type Bufs = SmallVec<[Buf; 1]>;

struct Job {
    stream: Md5,
    bufs: Bufs,
    /// What is still to be hashed, the next bytes last.
    slices: SmallVec<[Slice; 1]>,
    ends: bool,
    done: oneshot::Sender<(Md5, Bufs)>,
}

impl Job {
    /// Bytes of the slice under way.
    fn left(&self) -> usize {
        self.slices.last().map_or(0, |slice| slice.range.len())
    }

    fn is_long(&self) -> bool {
        self.left() >= JOB_TURN_BYTES_MAX || self.slices.len() > 1
    }
}

struct Inner {
    kernels: &'static Kernels,
    queue: RefCell<VecDeque<Job>>,
    /// There is a runner.
    running: Cell<bool>,
    /// The most jobs of recent turns.
    lately: Cell<usize>,
    turns: Cell<u32>,
}

/// Hashes the uploads of one core. Cheap to clone.
#[derive(Clone)]
pub struct Hashing(Rc<Inner>);

impl Default for Hashing {
    fn default() -> Self {
        Hashing::new()
    }
}

impl Hashing {
    pub fn new() -> Hashing {
        Hashing::with(Kernels::best())
    }

    pub fn with(kernels: &'static Kernels) -> Hashing {
        Hashing(Rc::new(Inner {
            kernels,
            queue: RefCell::default(),
            running: Cell::new(false),
            lately: Cell::new(0),
            turns: Cell::new(0),
        }))
    }

    /// Takes `stream` past `buf[..len]`. Copies no byte of the buffer.
    pub async fn update(&self, stream: Md5, buf: Buf, len: usize) -> (Md5, Buf) {
        self.hash(stream, buf, len, false).await
    }

    /// Ends `stream` with `buf[..len]`.
    pub async fn finish(&self, stream: Md5, buf: Buf, len: usize) -> ([u8; 16], Buf) {
        let (stream, buf) = self.hash(stream, buf, len, true).await;
        (stream.finish(), buf)
    }

    /// Takes `stream` past slices of several buffers, in their order.
    pub async fn update_slices(
        &self,
        stream: Md5,
        bufs: Vec<Buf>,
        mut slices: SmallVec<[Slice; 1]>,
    ) -> (Md5, Vec<Buf>) {
        slices.retain(|slice| !slice.range.is_empty());
        slices.reverse();
        let (stream, bufs) = self.queue(stream, bufs.into(), slices, false).await;
        (stream, bufs.into_vec())
    }

    async fn hash(&self, mut stream: Md5, buf: Buf, len: usize, ends: bool) -> (Md5, Buf) {
        assert!(len <= buf.len(), "{len} bytes of {}", buf.len());
        if len <= IN_PLACE_MAX {
            let piece = Piece {
                stream: &mut stream,
                bytes: &buf[..len],
                ends,
            };
            advance(self.0.kernels, &mut [piece]);
            return (stream, buf);
        }
        let whole = Slice {
            buf: 0,
            range: 0..len,
        };
        let (bufs, slices) = (smallvec![buf], smallvec![whole]);
        let (stream, mut bufs) = self.queue(stream, bufs, slices, ends).await;
        (stream, bufs.pop().expect("the one that came"))
    }

    async fn queue(
        &self,
        stream: Md5,
        bufs: Bufs,
        slices: SmallVec<[Slice; 1]>,
        ends: bool,
    ) -> (Md5, Bufs) {
        let (done, wait) = oneshot::channel();
        self.0.queue.borrow_mut().push_back(Job {
            stream,
            bufs,
            slices,
            ends,
            done,
        });
        if !self.0.running.replace(true) {
            drop(rt::spawn(run(self.0.clone())));
        }
        match wait.await {
            Ok(back) => back,
            // The core is being torn down.
            Err(oneshot::Canceled) => std::future::pending().await,
        }
    }
}

async fn run(hashing: Rc<Inner>) {
    loop {
        hashing.company().await;
        if !hashing.turn() {
            break;
        }
        rt::yield_now().await;
    }
    hashing.running.set(false);
}

impl Inner {
    /// Lets the core do what else is ready while that brings further jobs, as many as lately were there.
    async fn company(&self) {
        let mut idle = 0;
        while idle < COMPANY_TURNS {
            let (jobs, long) = {
                let queue = self.queue.borrow();
                (queue.len(), queue.front().is_some_and(Job::is_long))
            };
            if !long || jobs >= self.lately.get().min(LANES) {
                return;
            }
            rt::yield_now().await;
            if self.queue.borrow().len() == jobs {
                idle += 1;
            }
        }
    }

    /// Takes jobs further, from the front of the queue; whether any are left.
    fn turn(&self) -> bool {
        // Out of the queue, so that nothing that a drop or a wake sets off finds it borrowed.
        let mut jobs = self.queue.take();
        jobs.retain(|job| !job.done.is_canceled());
        let share = share(jobs.len());
        let mut budget = TURN_BYTES_MAX;
        let mut pieces: SmallVec<[Piece<'_>; 32]> = SmallVec::new();
        for job in &mut jobs {
            let left = job.left();
            let count = left.min(share);
            if count > budget || pieces.len() == JOBS_PER_TURN_MAX {
                break;
            }
            budget -= count;
            let last = job.slices.len() <= 1 && count == left;
            let bytes = match job.slices.last_mut() {
                None => &[],
                Some(slice) => {
                    let from = slice.range.start;
                    slice.range.start += count;
                    &job.bufs[slice.buf][from..from + count]
                }
            };
            if count == left {
                job.slices.pop();
            }
            pieces.push(Piece {
                stream: &mut job.stream,
                bytes,
                ends: job.ends && last,
            });
        }
        let taken = pieces.len();
        advance(self.kernels, &mut pieces);
        drop(pieces);
        self.turns.set(self.turns.get().wrapping_add(1));
        let fades = self.turns.get().is_multiple_of(LATELY_TURNS);
        let lately = self.lately.get() - usize::from(fades && self.lately.get() > 0);
        self.lately.set(lately.max(taken));
        for _ in 0..taken {
            let job = jobs.pop_front().expect("it was just hashed");
            if job.slices.is_empty() {
                // Given up while it was hashed: then it is dropped here.
                let _ = job.done.send((job.stream, job.bufs));
            } else {
                jobs.push_back(job);
            }
        }
        let mut queue = self.queue.borrow_mut();
        jobs.append(&mut queue);
        *queue = jobs;
        !queue.is_empty()
    }
}

/// Bytes that each of `jobs` may have in a turn, in whole blocks.
fn share(jobs: usize) -> usize {
    let equal = TURN_BYTES_MAX / jobs.max(1) / super::BLOCK_SIZE * super::BLOCK_SIZE;
    equal.clamp(JOB_TURN_BYTES_MIN, JOB_TURN_BYTES_MAX)
}

const _: () = assert!(JOB_TURN_BYTES_MIN <= JOB_TURN_BYTES_MAX);
const _: () = assert!(JOB_TURN_BYTES_MIN.is_multiple_of(super::BLOCK_SIZE));
