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
