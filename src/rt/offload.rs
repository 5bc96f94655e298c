//! Calls that block, on helper threads: file opens, directory calls, LMDB transactions.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use futures_channel::oneshot;

use super::CoreId;
use super::executor::{Task, current};

/// A call on its way to a helper.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs `f` where blocking hurts nobody: on a helper thread of this core, in turn (at most
/// [`super::executor::OFFLOADS_MAX`] per core are under way, the rest waits in line). In simulation
/// `f` runs inline when its seeded time has come, or never, if the core dies before.
///
/// Dropping the future does not stop a call that is under way; its value is then dropped. A panic
/// in `f` is passed on to whoever awaits.
pub fn offload<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let core = current();
    // A task of its own, so that the permit is kept until the call is over, even when nobody waits
    // for it any more.
    let task: Task<std::thread::Result<T>> = core.spawn({
        let core = core.clone();
        async move {
            let _permit = core.offloads.acquire(1).await;
            let (tx, rx) = oneshot::channel();
            core.start_offload(Box::new(move || {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
                // Nobody may be waiting; then the value is dropped here.
                let _ = tx.send(result);
            }));
            match rx.await {
                Ok(result) => result,
                // The helpers are gone: the core is being torn down and this task with it.
                Err(oneshot::Canceled) => std::future::pending().await,
            }
        }
    });
    async move {
        match task.await {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// The helper threads of one core. Its queue is bounded by the permits of [`offload`].
pub(in crate::rt) struct Helpers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Helpers {
    pub(in crate::rt) fn start(core: CoreId, count: usize) -> io::Result<Helpers> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                closed: false,
            }),
            filled: Condvar::new(),
        });
        let mut helpers = Helpers {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        for n in 0..count {
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("core{core}-help{n}"))
                .spawn(move || work(&shared))?;
            helpers.threads.push(thread);
        }
        Ok(helpers)
    }

    pub(in crate::rt) fn push(&self, job: Job) {
        self.shared
            .queue
            .lock()
            .expect("no helper panics with the lock held")
            .jobs
            .push_back(job);
        self.shared.filled.notify_one();
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut queue = shared
                .queue
                .lock()
                .expect("no helper panics with the lock held");
            loop {
                if queue.closed {
                    return;
                }
                match queue.jobs.pop_front() {
                    Some(job) => break job,
                    None => {
                        queue = shared
                            .filled
                            .wait(queue)
                            .expect("no helper panics with the lock held");
                    }
                }
            }
        };
        job();
    }
}

impl Drop for Helpers {
    /// Waits for the calls under way; those in the queue are dropped.
    fn drop(&mut self) {
        let jobs = {
            let mut queue = self
                .shared
                .queue
                .lock()
                .expect("no helper panics with the lock held");
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(jobs);
        self.shared.filled.notify_all();
        for thread in self.threads.drain(..) {
            // A helper ends only by returning: jobs catch their panics.
            let _ = thread.join();
        }
    }
}
