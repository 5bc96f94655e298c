//! Waiting among the tasks of one core: first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tasks in the order they began to wait.
#[derive(Default)]
pub(in crate::rt) struct Waiters {
    next: Cell<u64>,
    wakers: RefCell<BTreeMap<u64, Waker>>,
}

impl Waiters {
    /// A place at the end of the line. It counts from the first [`Waiters::wait`].
    pub(in crate::rt) fn ticket(&self) -> u64 {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        ticket
    }

    pub(in crate::rt) fn wait(&self, ticket: u64, waker: &Waker) {
        self.wakers.borrow_mut().insert(ticket, waker.clone());
    }

    pub(in crate::rt) fn leave(&self, ticket: u64) {
        let waker = self.wakers.borrow_mut().remove(&ticket);
        drop(waker);
    }

    pub(in crate::rt) fn is_empty(&self) -> bool {
        self.wakers.borrow().is_empty()
    }

    /// Somebody waits with an older ticket.
    pub(in crate::rt) fn is_behind(&self, ticket: u64) -> bool {
        self.wakers
            .borrow()
            .keys()
            .next()
            .is_some_and(|&first| first < ticket)
    }

    /// Wakes the first in line, who keeps the place until it leaves.
    pub(in crate::rt) fn wake_first(&self) {
        let waker = self.wakers.borrow().values().next().cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes all, in order, and forgets them.
    pub(in crate::rt) fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

/// A place in line that is given up on drop.
struct Place<'a> {
    waiters: &'a Waiters,
    ticket: Option<u64>,
}

impl Place<'_> {
    fn ticket(&mut self) -> u64 {
        *self.ticket.get_or_insert_with(|| self.waiters.ticket())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.waiters.leave(ticket);
        }
    }
}

/// An event. `notify_one` is remembered until somebody waits for it (once, however often it was
/// called); `notify_all` wakes those who wait now.
#[derive(Default)]
pub struct Notify {
    waiters: Waiters,
    stored: Cell<bool>,
    /// Grows with each `notify_all`.
    round: Cell<u64>,
}

impl Notify {
    pub fn new() -> Notify {
        Notify::default()
    }

    pub fn notify_one(&self) {
        self.stored.set(true);
        self.waiters.wake_first();
    }

    pub fn notify_all(&self) {
        self.round.set(self.round.get() + 1);
        self.waiters.wake_all();
    }

    /// Counts from this call, not from the first poll: what happens in between is not missed.
    pub fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            round: self.round.get(),
            place: Place {
                waiters: &self.waiters,
                ticket: None,
            },
        }
    }
}

#[must_use = "does nothing unless awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    round: u64,
    place: Place<'a>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ticket = self.place.ticket();
        let notify = self.notify;
        if notify.round.get() != self.round {
            return Poll::Ready(());
        }
        if notify.stored.get() && !notify.waiters.is_behind(ticket) {
            notify.stored.set(false);
            return Poll::Ready(());
        }
        notify.waiters.wait(ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        // Whoever was woken for a stored event and left without it passes it on.
        if let Some(ticket) = self.place.ticket.take() {
            self.notify.waiters.leave(ticket);
            if self.notify.stored.get() {
                self.notify.waiters.wake_first();
            }
        }
    }
}

struct SemaphoreInner {
    free: Cell<usize>,
    waiters: Waiters,
}

/// Counted permits, granted strictly in order: a large request at the head of the line is not
/// overtaken by small ones behind it.
#[derive(Clone)]
pub struct Semaphore {
    inner: Rc<SemaphoreInner>,
}

impl Semaphore {
    pub fn new(permits: usize) -> Semaphore {
        Semaphore {
            inner: Rc::new(SemaphoreInner {
                free: Cell::new(permits),
                waiters: Waiters::default(),
            }),
        }
    }

    pub fn available(&self) -> usize {
        self.inner.free.get()
    }

    /// `None` if there are too few, or others wait.
    pub fn try_acquire(&self, count: usize) -> Option<Permit> {
        (self.inner.waiters.is_empty() && self.inner.free.get() >= count).then(|| self.take(count))
    }

    fn take(&self, count: usize) -> Permit {
        self.inner.free.set(self.inner.free.get() - count);
        Permit {
            inner: self.inner.clone(),
            count,
        }
    }

    pub async fn acquire(&self, count: usize) -> Permit {
        /// A place in the line of a semaphore. Whoever leaves it, served or not, lets the next one
        /// look: what is left may do for that one.
        struct InLine<'a>(Place<'a>, &'a SemaphoreInner);
        impl Drop for InLine<'_> {
            fn drop(&mut self) {
                if let Some(ticket) = self.0.ticket.take() {
                    self.1.waiters.leave(ticket);
                    if self.1.free.get() > 0 {
                        self.1.waiters.wake_first();
                    }
                }
            }
        }
        let waiters = &self.inner.waiters;
        let mut place = InLine(
            Place {
                waiters,
                ticket: None,
            },
            &self.inner,
        );
        std::future::poll_fn(|cx| {
            let ticket = place.0.ticket();
            if self.inner.free.get() >= count && !waiters.is_behind(ticket) {
                return Poll::Ready(self.take(count));
            }
            waiters.wait(ticket, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Adds permits for good.
    pub fn add(&self, count: usize) {
        self.inner.free.set(self.inner.free.get() + count);
        self.inner.waiters.wake_first();
    }
}

/// Permits, returned on drop.
#[must_use = "dropping it returns the permits"]
pub struct Permit {
    inner: Rc<SemaphoreInner>,
    count: usize,
}

impl Permit {
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes the permits out of circulation.
    pub fn forget(mut self) {
        self.count = 0;
    }

    /// Returns `count` of the permits now.
    pub fn release(&mut self, count: usize) {
        assert!(count <= self.count);
        self.count -= count;
        self.inner.free.set(self.inner.free.get() + count);
        self.inner.waiters.wake_first();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.inner.free.set(self.inner.free.get() + self.count);
            self.inner.waiters.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::buf::Pool;
    use crate::rt::executor::testing::{bench_core, settle};

    #[test]
    fn a_semaphore_is_first_come_first_served() {
        let core = bench_core(Pool::heap(0));
        let semaphore = Semaphore::new(3);
        let order: Rc<RefCell<Vec<u32>>> = Rc::default();
        let first = semaphore.try_acquire(2).unwrap();
        let mut tasks = Vec::new();
        // The large request is first in line; the small ones, which would fit, wait behind it.
        for (n, count) in [(0, 3), (1, 1), (2, 1)] {
            let (semaphore, order) = (semaphore.clone(), order.clone());
            tasks.push(core.spawn(async move {
                let permit = semaphore.acquire(count).await;
                order.borrow_mut().push(n);
                permit
            }));
            settle(&core);
        }
        assert!(semaphore.try_acquire(1).is_none());
        assert!(order.borrow().is_empty());
        drop(first);
        settle(&core);
        assert_eq!(*order.borrow(), [0]);
        // The finished task's permit lives in its handle.
        drop(tasks.remove(0));
        settle(&core);
        assert_eq!(*order.borrow(), [0, 1, 2]);
        drop(tasks);
        assert_eq!(semaphore.available(), 3);
    }

    #[test]
    fn whoever_leaves_the_line_lets_the_next_pass() {
        let core = bench_core(Pool::heap(0));
        let semaphore = Semaphore::new(1);
        let large = core.spawn({
            let semaphore = semaphore.clone();
            async move { drop(semaphore.acquire(5).await) }
        });
        let small = core.spawn({
            let semaphore = semaphore.clone();
            async move { drop(semaphore.acquire(1).await) }
        });
        settle(&core);
        assert!(!small.is_done());
        large.cancel();
        settle(&core);
        assert!(small.is_done());
    }

    #[test]
    fn a_notification_is_kept_once_and_passed_on() {
        let core = bench_core(Pool::heap(0));
        let notify = Rc::new(Notify::new());
        notify.notify_one();
        notify.notify_one();
        let wait = |count: usize| {
            let notify = notify.clone();
            core.spawn(async move {
                for _ in 0..count {
                    notify.notified().await;
                }
            })
        };
        let one = wait(1);
        settle(&core);
        let two = wait(1);
        settle(&core);
        assert!(one.is_done() && !two.is_done());
        // Woken, but gone before it looked: the next in line gets it.
        let three = wait(1);
        settle(&core);
        notify.notify_one();
        two.cancel();
        settle(&core);
        assert!(three.is_done());
    }

    #[test]
    fn notify_all_wakes_those_who_wait_and_is_not_kept() {
        let core = bench_core(Pool::heap(0));
        let notify = Rc::new(Notify::new());
        notify.notify_all();
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let notify = notify.clone();
                core.spawn(async move { notify.notified().await })
            })
            .collect();
        settle(&core);
        assert!(tasks.iter().all(|t| !t.is_done()));
        notify.notify_all();
        settle(&core);
        assert!(tasks.iter().all(|t| t.is_done()));
    }
}
