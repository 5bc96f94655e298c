//! Buffers that the kernel picks when bytes arrive (a provided-buffer ring), so that connections
//! that wait hold no memory. Each is a [`Buf`] of the core's pool: it goes to the receiver whole and
//! a fresh one takes its place. When the pool is empty the ring runs dry, receives end with ENOBUFS
//! and wait here.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Poll;

use io_uring::{IoUring, types};

use crate::rt::buf::{Buf, Pool};
use crate::rt::sync::Waiters;

/// Size of each: the head of a request with all its headers.
pub const SIZE: usize = 16 << 10;
pub const GROUP: u16 = 0;

/// Memory shared with the kernel: `count` entries of 16 bytes, aligned to a page.
struct Shared {
    base: *mut types::BufRingEntry,
    layout: std::alloc::Layout,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `register`, and the kernel was told to forget it.
        unsafe { std::alloc::dealloc(self.base.cast(), self.layout) };
    }
}

pub struct Picked {
    /// `None` once unregistered.
    shared: RefCell<Option<Shared>>,
    count: u16,
    tail: Cell<u16>,
    /// By buffer id; `None` for those that are out.
    bufs: RefCell<Vec<Option<Buf>>>,
    /// Ids without a buffer.
    empty: RefCell<Vec<u16>>,
    waiters: Waiters,
}

impl Picked {
    pub fn register(ring: &IoUring, count: u16) -> io::Result<Picked> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let size = usize::from(count) * size_of::<types::BufRingEntry>();
        let layout = std::alloc::Layout::from_size_align(size, 4096).expect("a sane size");
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<types::BufRingEntry>();
        if base.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let shared = Shared { base, layout };
        // SAFETY: the memory is as large as `count` says, and stays until `unregister`; if that
        // never runs it is leaked (see `Drop`).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(base as u64, count, GROUP, 0)?;
        }
        Ok(Picked {
            shared: RefCell::new(Some(shared)),
            count,
            tail: Cell::new(0),
            bufs: RefCell::new((0..count).map(|_| None).collect()),
            empty: RefCell::new((0..count).rev().collect()),
            waiters: Waiters::default(),
        })
    }

    /// Gives the kernel fresh buffers for those that are out, as far as the pool has some.
    pub fn refill(&self, pool: &Pool) {
        let mut empty = self.empty.borrow_mut();
        if empty.is_empty() {
            return;
        }
        let shared = self.shared.borrow();
        let Some(shared) = &*shared else { return };
        let mut bufs = self.bufs.borrow_mut();
        let mut tail = self.tail.get();
        while let Some(&id) = empty.last() {
            let Some(buf) = pool.try_alloc(SIZE) else {
                break;
            };
            empty.pop();
            // SAFETY: the slot lies within the ring's memory, and is ours: at most `count` buffers
            // are between the kernel's head and our tail, one per id.
            let entry = unsafe { &mut *shared.base.add(usize::from(tail & (self.count - 1))) };
            entry.set_addr(buf.pointer() as u64);
            entry.set_len(SIZE as u32);
            entry.set_bid(id);
            tail = tail.wrapping_add(1);
            bufs[usize::from(id)] = Some(buf);
        }
        if tail != self.tail.get() {
            self.tail.set(tail);
            // SAFETY: the tail's address, within the ring's memory, aligned to its type; the kernel
            // reads it while we write, hence atomic.
            unsafe {
                let place = types::BufRingEntry::tail(shared.base).cast::<AtomicU16>();
                (*place).store(tail, Ordering::Release);
            }
            self.waiters.wake_all();
        }
        // With buffers left the kernel can wait; without any, the pool must call.
        pool.set_driver_wants(!empty.is_empty());
    }

    /// The buffer with this id, which the kernel has filled.
    pub fn take(&self, id: u16) -> Option<Buf> {
        let buf = self.bufs.borrow_mut().get_mut(usize::from(id))?.take()?;
        self.empty.borrow_mut().push(id);
        Some(buf)
    }

    pub async fn wait(&self) {
        struct Place<'a>(&'a Waiters, u64);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.leave(self.1);
            }
        }
        let place = Place(&self.waiters, self.waiters.ticket());
        let mut first = true;
        std::future::poll_fn(|cx| {
            let dry = self.empty.borrow().len() == usize::from(self.count);
            if !dry && !first {
                return Poll::Ready(());
            }
            if !dry {
                // Filled meanwhile; still let the loop turn once, so as not to spin on a ring that
                // others empty as fast.
                cx.waker().wake_by_ref();
            }
            first = false;
            place.0.wait(place.1, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Takes the memory back. Nothing that could pick a buffer may be in flight.
    pub fn unregister(&self, ring: &IoUring) {
        if ring.submitter().unregister_buf_ring(GROUP).is_ok() {
            drop(self.shared.borrow_mut().take());
            self.bufs.borrow_mut().clear();
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        // Still registered: the kernel may know the addresses.
        std::mem::forget(self.shared.get_mut().take());
        if let n @ 1.. = self.bufs.get_mut().iter().flatten().count() {
            let bufs = std::mem::take(self.bufs.get_mut());
            debug_assert!(n <= bufs.len());
            std::mem::forget(bufs);
        }
    }
}
