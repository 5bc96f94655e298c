//! The arena as the ring's registered buffers.
//!
//! Registering memory has the kernel make and zero its pages: 64 MiB take 25 to 150 ms, which a start would wait for,
//! and which an idle server would hold. So the table starts empty, and a piece of the arena enters it when the drive
//! first reads or writes there (some 1.5 ms); the pool hands out the same memory again as long as it can.

use std::cell::{Cell, RefCell};
use std::io;

use io_uring::IoUring;

use crate::rt::buf::{ARENA_GRAIN, Buf, Pool};

/// What is registered at a time. A larger buffer is used without.
const PIECE: usize = ARENA_GRAIN;

pub(super) struct Registered {
    /// Which pieces are in the table; empty if there is none.
    pieces: RefCell<Vec<bool>>,
    /// The kernel refused a piece (RLIMIT_MEMLOCK); what is registered stays so.
    refused: Cell<bool>,
}

impl Registered {
    pub fn none() -> Registered {
        Registered {
            pieces: RefCell::default(),
            refused: Cell::new(false),
        }
    }

    /// A table for the pool's memory. Its first piece enters at once, to see whether the kernel permits any.
    pub fn new(ring: &IoUring, pool: &Pool) -> io::Result<Registered> {
        raise_memlock();
        let (_, len) = pool.extent();
        let count = len.div_ceil(PIECE);
        let entries = u32::try_from(count).map_err(io::Error::other)?;
        ring.submitter().register_buffers_sparse(entries)?;
        let registered = Registered::none();
        *registered.pieces.borrow_mut() = vec![false; count];
        registered.enter(ring, pool, 0)?;
        Ok(registered)
    }

    pub fn is_some(&self) -> bool {
        !self.pieces.borrow().is_empty()
    }

    /// The piece that holds all of the buffer's block.
    pub fn piece(&self, pool: &Pool, buf: &Buf) -> Option<u16> {
        let offset = pool.offset_of(buf)?;
        let last = offset + buf.capacity().checked_sub(1)?;
        (self.is_some() && offset / PIECE == last / PIECE)
            .then(|| u16::try_from(offset / PIECE).ok())?
    }

    /// Whether operations may name the piece; registers it if it is not yet.
    pub fn ready(&self, ring: &IoUring, pool: &Pool, piece: u16) -> bool {
        if self.pieces.borrow()[usize::from(piece)] {
            return true;
        }
        if self.refused.get() {
            return false;
        }
        match self.enter(ring, pool, piece) {
            Ok(()) => true,
            Err(error) => {
                self.refused.set(true);
                tracing::warn!(
                    %error,
                    "part of the buffers is not registered with the kernel; raise the memlock limit"
                );
                false
            }
        }
    }

    fn enter(&self, ring: &IoUring, pool: &Pool, piece: u16) -> io::Result<()> {
        let (base, len) = pool.extent();
        let at = usize::from(piece) * PIECE;
        let memory = libc::iovec {
            iov_base: base.wrapping_add(at).cast(),
            iov_len: (len - at).min(PIECE),
        };
        // SAFETY: the memory outlives the ring: the driver holds the pool.
        unsafe {
            ring.submitter()
                .register_buffers_update(u32::from(piece), &[memory], None)?;
        }
        self.pieces.borrow_mut()[usize::from(piece)] = true;
        Ok(())
    }

    pub fn unregister(&self, ring: &IoUring) {
        if self.is_some() {
            // Failure leaves the memory pinned until the ring closes, which is next.
            let _ = ring.submitter().unregister_buffers();
        }
    }
}

/// The soft limit of locked memory up to the hard one.
fn raise_memlock() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives across both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max
        {
            limit.rlim_cur = limit.rlim_max;
            // If it fails, registration says so.
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
        }
    }
}
