//! Messages between the cores of one process: a bounded ring for every ordered pair of cores, with
//! one producer and one consumer each. A full ring is the sender's to handle.
//!
//! ```text
//!            head (consumer)      tail (producer)
//!               ▼                    ▼
//! slots  [ . . m m m m m m m m m m . . . . ]      head <= tail <= head + capacity, wrapping u32
//! ```
//!
//! Waking: the consumer says that it waits, then looks once more; the producer publishes, then looks
//! whether the consumer waits. A full fence on both sides makes one of them see the other. The same
//! holds the other way round for senders that wait for room.

#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use futures_util::task::AtomicWaker;

use super::CoreId;

/// On a line of its own: producer and consumer write different ones.
#[repr(align(128))]
struct Line<T>(T);

/// One direction between two cores.
struct Ring<M> {
    head: Line<AtomicU32>,
    tail: Line<AtomicU32>,
    mask: u32,
    slots: Box<[UnsafeCell<MaybeUninit<M>>]>,
    /// Senders that wait for room, on the producer's core. Locked only when the ring was full.
    senders: Mutex<Vec<Waker>>,
    senders_wait: AtomicBool,
}

// SAFETY: a slot is written by the producer while it lies outside head..tail and read by the
// consumer while it lies inside; the release store of `tail` (`head`) and the acquire load on the
// other side hand it over. That there is one of each is upheld by `Mailbox`, which is `!Sync` and
// not `Clone`. Covered by `messages_arrive_in_order_between_threads` under Miri.
unsafe impl<M: Send> Send for Ring<M> {}
// SAFETY: as above.
unsafe impl<M: Send> Sync for Ring<M> {}

impl<M> Ring<M> {
    fn new(capacity: usize) -> Ring<M> {
        let capacity = capacity.max(2).next_power_of_two();
        let mask = u32::try_from(capacity - 1).expect("a ring is far smaller than 4 G");
        assert!(mask < 1 << 30);
        Ring {
            head: Line(AtomicU32::new(0)),
            tail: Line(AtomicU32::new(0)),
            mask,
            slots: (0..capacity)
                .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
                .collect(),
            senders: Mutex::new(Vec::new()),
            senders_wait: AtomicBool::new(false),
        }
    }

    /// Producer only.
    fn push(&self, message: M) -> Result<(), M> {
        let tail = self.tail.0.load(Ordering::Relaxed);
        let head = self.head.0.load(Ordering::Acquire);
        if tail.wrapping_sub(head) > self.mask {
            return Err(message);
        }
        // SAFETY: outside head..tail, so the slot is the producer's.
        unsafe { (*self.slots[(tail & self.mask) as usize].get()).write(message) };
        self.tail.0.store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Consumer only.
    fn pop(&self) -> Option<M> {
        let head = self.head.0.load(Ordering::Relaxed);
        if head == self.tail.0.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: inside head..tail, so the producer wrote it and handed it over.
        let message =
            unsafe { (*self.slots[(head & self.mask) as usize].get()).assume_init_read() };
        self.head.0.store(head.wrapping_add(1), Ordering::Release);
        fence(Ordering::SeqCst);
        if self.senders_wait.load(Ordering::Relaxed) {
            self.wake_senders();
        }
        Some(message)
    }

    #[cold]
    fn wake_senders(&self) {
        let wakers = {
            let mut senders = self.senders.lock().unwrap_or_else(|e| e.into_inner());
            self.senders_wait.store(false, Ordering::Relaxed);
            std::mem::take(&mut *senders)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Producer only: has the waker called when there may be room. Look once more after it.
    #[cold]
    fn wait_for_room(&self, waker: &Waker) {
        let mut senders = self.senders.lock().unwrap_or_else(|e| e.into_inner());
        if !senders.iter().any(|w| w.will_wake(waker)) {
            senders.push(waker.clone());
        }
        self.senders_wait.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

impl<M> Drop for Ring<M> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// How a consumer is found asleep.
struct Bell {
    waits: Line<AtomicBool>,
    waker: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.waits.0.load(Ordering::Relaxed) && self.waits.0.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

/// The ring to that core is full; here is the message back.
#[derive(PartialEq, Eq)]
pub struct Full<M>(pub M);

impl<M> fmt::Debug for Full<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

/// One core's end of the mesh. Move it to its core.
pub struct Mailbox<M> {
    id: CoreId,
    to: Vec<(Arc<Ring<M>>, Arc<Bell>)>,
    from: Vec<Arc<Ring<M>>>,
    bell: Arc<Bell>,
    /// The core to look at first, so that none is starved.
    next: Cell<usize>,
    receiving: Cell<bool>,
    _one_thread: PhantomData<Cell<()>>,
}

/// A ring of `capacity` messages (rounded up to a power of two) between every two of `cores` cores,
/// and from each to itself.
pub fn mesh<M: Send>(cores: usize, capacity: usize) -> Vec<Mailbox<M>> {
    assert!(cores <= usize::from(u16::MAX));
    let bells: Vec<Arc<Bell>> = (0..cores)
        .map(|_| {
            Arc::new(Bell {
                waits: Line(AtomicBool::new(false)),
                waker: AtomicWaker::new(),
            })
        })
        .collect();
    let rings: Vec<Vec<Arc<Ring<M>>>> = (0..cores)
        .map(|_| (0..cores).map(|_| Arc::new(Ring::new(capacity))).collect())
        .collect();
    (0..cores)
        .map(|me| Mailbox {
            id: CoreId(me as u16),
            to: (0..cores)
                .map(|you| (rings[me][you].clone(), bells[you].clone()))
                .collect(),
            from: (0..cores).map(|you| rings[you][me].clone()).collect(),
            bell: bells[me].clone(),
            next: Cell::new(0),
            receiving: Cell::new(false),
            _one_thread: PhantomData,
        })
        .collect()
}

impl<M: Send> Mailbox<M> {
    /// The core this end belongs to.
    pub fn id(&self) -> CoreId {
        self.id
    }

    pub fn cores(&self) -> usize {
        self.to.len()
    }

    /// Messages between two cores arrive in the order they were sent.
    pub fn try_send(&self, to: CoreId, message: M) -> Result<(), Full<M>> {
        let (ring, bell) = &self.to[usize::from(to.0)];
        ring.push(message).map_err(Full)?;
        bell.ring();
        Ok(())
    }

    /// Waits for room. Senders that wait may overtake each other.
    pub async fn send(&self, to: CoreId, message: M) {
        let mut message = Some(message);
        poll_fn(|cx| {
            for attempt in 0..2 {
                let m = message.take().expect("kept until it is sent");
                match self.try_send(to, m) {
                    Ok(()) => return Poll::Ready(()),
                    Err(Full(m)) => message = Some(m),
                }
                if attempt == 0 {
                    self.to[usize::from(to.0)].0.wait_for_room(cx.waker());
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// The next message that is there, taking turns between the senders.
    pub fn try_recv(&self) -> Option<(CoreId, M)> {
        let cores = self.from.len();
        let first = self.next.get();
        for i in 0..cores {
            let core = (first + i) % cores;
            if let Some(message) = self.from[core].pop() {
                self.next.set((core + 1) % cores);
                return Some((CoreId(core as u16), message));
            }
        }
        None
    }

    /// The next message. One task at a time may wait. Cancel-safe.
    pub async fn recv(&self) -> (CoreId, M) {
        struct Receiving<'a>(&'a Cell<bool>);
        impl Drop for Receiving<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        assert!(
            !self.receiving.replace(true),
            "two tasks wait at one mailbox"
        );
        let _receiving = Receiving(&self.receiving);
        poll_fn(|cx| {
            if let Some(got) = self.try_recv() {
                return Poll::Ready(got);
            }
            self.bell.waker.register(cx.waker());
            self.bell.waits.0.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            match self.try_recv() {
                Some(got) => {
                    self.bell.waits.0.store(false, Ordering::Relaxed);
                    Poll::Ready(got)
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::buf::Pool;
    use crate::rt::executor::testing::bench_core;
    use std::future::Future;
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;

    const MESSAGES: u32 = if cfg!(miri) { 300 } else { 200_000 };

    #[test]
    fn full_gives_the_message_back_and_order_survives_the_wrap() {
        let mut mesh = mesh::<u32>(2, 4);
        let (b, a) = (mesh.pop().unwrap(), mesh.pop().unwrap());
        // Near the end of the counters, so that they wrap as well.
        {
            let ring = &a.to[1].0;
            ring.head.0.store(u32::MAX - 5, Ordering::Relaxed);
            ring.tail.0.store(u32::MAX - 5, Ordering::Relaxed);
        }
        let mut next = 0;
        for round in 0..20 {
            for i in 0..4 {
                assert_eq!(a.try_send(CoreId(1), round * 4 + i), Ok(()));
            }
            assert_eq!(a.try_send(CoreId(1), 99), Err(Full(99)));
            while let Some((from, m)) = b.try_recv() {
                assert_eq!((from, m), (CoreId(0), next));
                next += 1;
            }
        }
        assert_eq!(next, 80);
    }

    #[test]
    fn messages_nobody_took_are_dropped_with_the_mesh() {
        let alive = Arc::new(AtomicUsize::new(0));
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let mesh = mesh::<Counted>(2, 8);
        for _ in 0..5 {
            alive.fetch_add(1, Ordering::Relaxed);
            assert!(mesh[0].try_send(CoreId(1), Counted(alive.clone())).is_ok());
        }
        drop(mesh[1].try_recv());
        assert_eq!(alive.load(Ordering::Relaxed), 4);
        drop(mesh);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn senders_take_turns() {
        let mesh = mesh::<u8>(3, 8);
        for sender in [0, 1, 2] {
            for n in 0..2 {
                mesh[sender].try_send(CoreId(2), n).unwrap();
            }
        }
        let got: Vec<_> = std::iter::from_fn(|| mesh[2].try_recv())
            .map(|(c, _)| c.0)
            .collect();
        assert_eq!(got, [0, 1, 2, 0, 1, 2]);
    }

    /// Runs a core's tasks on this thread until `done`; sleeps (by spinning) in between only as a
    /// real driver does, that is, when no work is announced.
    fn drive<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
        let core = bench_core(Pool::heap(1 << 20));
        let out = Rc::new(Cell::new(None));
        let task = core.spawn({
            let out = out.clone();
            async move { out.set(Some(main.await)) }
        });
        while !task.is_done() {
            core.take_remote();
            core.run_ready();
            // Lost wakes hang here, which the test's time limit shows.
            while !task.is_done() && !core.has_work() {
                std::thread::yield_now();
            }
        }
        let value = out.take().unwrap();
        core.kill();
        value
    }

    #[test]
    fn messages_arrive_in_order_between_threads() {
        // A ring of two, so that both sides wait for each other all the time.
        let mut mesh = mesh::<Box<u32>>(2, 2);
        let (b, a) = (mesh.pop().unwrap(), mesh.pop().unwrap());
        let sender = std::thread::spawn(move || {
            drive(async move {
                for n in 0..MESSAGES {
                    a.send(CoreId(1), Box::new(n)).await;
                }
                // And a round trip.
                assert_eq!(*a.recv().await.1, MESSAGES);
            });
        });
        drive(async move {
            for n in 0..MESSAGES {
                assert_eq!(*b.recv().await.1, n);
            }
            b.send(CoreId(0), Box::new(MESSAGES)).await;
        });
        sender.join().unwrap();
    }
}
