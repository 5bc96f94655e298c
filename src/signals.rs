//! SIGINT and SIGTERM: the first asks for a drain, the second ends the process. SIGHUP has the TLS
//! certificate read again; without TLS it ends the process, as it does everywhere.
//!
//! The signals are blocked in every thread and taken by one thread that waits for nothing else, so
//! no code ever runs inside a signal handler. Stopping at once is always safe: what was
//! acknowledged is durable (docs/architecture.md, invariant 1).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Past the drain's bound the server cuts what is left and closes its volumes. If it has not ended
/// after this long either, something hangs and the process ends without it.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// "Please drain", from the signal thread to every core.
pub type Shutdown = Event;

/// Happens once, on one thread, and is awaited on others. Cheap to clone.
#[derive(Clone, Default)]
pub struct Event(Arc<State>);

#[derive(Default)]
struct State {
    requested: AtomicBool,
    /// Of futures that wait; one entry per future, so at most a few per core. Taken by the signal
    /// thread once and by no request.
    waiting: Mutex<Vec<Option<Waker>>>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event(requested: {})", self.is_requested())
    }
}

impl Event {
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Acquire)
    }

    /// Ends when a drain is asked for; at once if it was already.
    pub fn requested(&self) -> Requested {
        Requested {
            state: Arc::clone(&self.0),
            place: None,
        }
    }

    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Release);
        let mut waiting = lock(&self.0.waiting);
        for waker in waiting.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under these locks can leave them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`Event::requested`].
pub struct Requested {
    state: Arc<State>,
    /// Of our waker.
    place: Option<usize>,
}

impl Future for Requested {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let state = Arc::clone(&self.state);
        let mut waiting = lock(&state.waiting);
        // Under the lock that `request` takes after its store: either we see the store, or it
        // sees our waker.
        if state.requested.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let waker = Some(context.waker().clone());
        match self.place {
            Some(place) => waiting[place] = waker,
            None => {
                let place = waiting.iter().position(Option::is_none);
                let place = place.unwrap_or_else(|| {
                    waiting.push(None);
                    waiting.len() - 1
                });
                waiting[place] = waker;
                self.place = Some(place);
            }
        }
        Poll::Pending
    }
}

impl Drop for Requested {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            lock(&self.state.waiting)[place] = None;
        }
    }
}

/// Takes over SIGINT and SIGTERM, and SIGHUP if it sets something. Call it before any other thread
/// starts: threads inherit the mask.
pub fn listen(drain: Duration, reread: Option<Arc<AtomicBool>>) -> io::Result<Shutdown> {
    let signals = block(reread.is_some())?;
    let shutdown = Shutdown::default();
    let asked = shutdown.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let first = loop {
                match (wait(&signals, None), &reread) {
                    (None, _) => return,
                    (Some(libc::SIGHUP), Some(reread)) => {
                        tracing::info!("SIGHUP: reading the TLS certificate again");
                        reread.store(true, Ordering::Relaxed);
                    }
                    (Some(first), _) => break first,
                }
            };
            tracing::info!(
                "{}: draining for at most {} s; a second signal stops at once",
                name(first),
                drain.as_secs()
            );
            asked.request();
            let second = loop {
                match wait(&signals, Some(drain + DRAIN_GRACE)) {
                    Some(libc::SIGHUP) => {}
                    second => break second,
                }
            };
            match second {
                Some(second) => {
                    tracing::warn!("{}: stopping at once", name(second));
                    std::process::exit(128 + second);
                }
                None => {
                    tracing::error!("the drain did not end; stopping without it");
                    std::process::exit(1);
                }
            }
        })?;
    Ok(shutdown)
}

fn name(signal: i32) -> &'static str {
    if signal == libc::SIGINT {
        "SIGINT"
    } else {
        "SIGTERM"
    }
}

#[allow(unsafe_code)]
fn block(hangup: bool) -> io::Result<libc::sigset_t> {
    // SAFETY: a sigset_t is plain bytes that sigemptyset initialises before anything reads them;
    // the pointers are to a local that outlives the calls. Covered by tests/startup.rs.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGINT);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        if hangup {
            libc::sigaddset(&mut signals, libc::SIGHUP);
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        if error == 0 {
            Ok(signals)
        } else {
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// The next of `signals`, or None when `limit` has passed.
#[allow(unsafe_code)]
fn wait(signals: &libc::sigset_t, limit: Option<Duration>) -> Option<i32> {
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: i64::from(limit.subsec_nanos()) as libc::c_long,
    });
    loop {
        // SAFETY: the set is initialised (by `block`), the information is not asked for, and the
        // time is a valid one or null for "no limit". Covered by tests/startup.rs.
        let signal = unsafe {
            libc::sigtimedwait(
                signals,
                std::ptr::null_mut(),
                limit.as_ref().map_or(std::ptr::null(), |limit| limit),
            )
        };
        if signal > 0 {
            return Some(signal);
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => return None,
            // Another signal was handled on this thread (a debugger, SIGCONT). The limit starts
            // anew, which only makes it longer.
            _ => continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_request_wakes_every_waiter_once_and_stays() {
        let shutdown = Shutdown::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut first = std::pin::pin!(shutdown.requested());
        let mut second = std::pin::pin!(shutdown.requested());
        let mut dropped = Box::pin(shutdown.requested());
        assert!(dropped.as_mut().poll(&mut context).is_pending());
        for _ in 0..3 {
            assert!(first.as_mut().poll(&mut context).is_pending());
        }
        drop(dropped);
        assert!(second.as_mut().poll(&mut context).is_pending());
        // The place of the dropped one was taken again.
        assert_eq!(lock(&shutdown.0.waiting).len(), 2);
        assert!(!shutdown.is_requested());
        shutdown.request();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(shutdown.is_requested());
        assert!(first.as_mut().poll(&mut context).is_ready());
        assert!(second.as_mut().poll(&mut context).is_ready());
        assert!(
            std::pin::pin!(shutdown.requested())
                .as_mut()
                .poll(&mut context)
                .is_ready()
        );
    }
}
