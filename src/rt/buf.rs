//! Payload memory: one arena per core, handed out as owned, aligned buffers.
//!
//! ```text
//! arena  [ 4 MiB | 4 MiB | ... ]          one mapping, huge pages advised, registered with the ring
//!          buddy blocks of 8 KiB << order; a buffer is one block
//!
//! home core:   alloc / free on plain lists
//! other cores: free pushes onto `returned`, a stack the home core takes whole
//! ```
//!
//! The bookkeeping lies beside the arena, not in it: what writes past a buffer damages payload,
//! which checksums notice, and not the lists. A full arena is backpressure; it never grows.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use super::executor::{Core, Remote, with_core};
use super::sync::Waiters;

/// The smallest buffer: one block of the format, so that every buffer is good for O_DIRECT.
pub const BUF_SIZE_MIN: usize = 8 << 10;
/// The largest one: a chunk. Kept far below the kernel's 1 GiB for one registered buffer.
pub const BUF_SIZE_MAX: usize = BUF_SIZE_MIN << (ORDERS - 1);
const ORDERS: usize = 13;
const _: () = assert!(BUF_SIZE_MAX == 32 << 20);

/// What an arena's size is rounded up to: two huge pages.
pub const ARENA_GRAIN: usize = 4 << 20;

const ALIGN: usize = 4096;
const NIL: u32 = u32::MAX;

// ----------------------------------------------------------------- memory ----

/// Memory of an arena. Initialised (zero) from the start.
struct Memory {
    base: NonNull<u8>,
    len: usize,
    /// From the start of the allocation to `base`.
    skip: usize,
    mapped: bool,
    huge: bool,
}

// SAFETY: plain memory; access is governed by the buffers cut from it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// From the allocator. Untouched pages cost nothing, which suits simulations of many cores: the
    /// library zeroes by calloc (fresh pages from the kernel above 32 MiB) only what asks for no
    /// alignment, and by memset what does; so we align by hand.
    fn heap(len: usize) -> Memory {
        let layout = Memory::heap_layout(len);
        // SAFETY: the layout's size is not zero.
        let p = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(p) else {
            std::alloc::handle_alloc_error(layout)
        };
        let skip = p.addr().next_multiple_of(ALIGN) - p.addr();
        // SAFETY: `skip < ALIGN`, and the allocation is that much larger than `len`.
        let base = unsafe { start.add(skip) };
        Memory {
            base,
            len,
            skip,
            mapped: false,
            huge: false,
        }
    }

    fn heap_layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::array::<u8>(len + ALIGN).expect("a sane size")
    }

    /// A mapping of its own, aligned to huge pages and advised to use them.
    fn mapped(len: usize) -> std::io::Result<Memory> {
        const HUGE: usize = 2 << 20;
        let whole = len + HUGE;
        // SAFETY: a fresh anonymous mapping; no existing memory is touched.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                whole,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let start = p.cast::<u8>();
        let skip = start.align_offset(HUGE);
        // SAFETY: `skip <= HUGE`, so base..base+len lies within the mapping; both unmapped pieces
        // are page-aligned parts of it that nobody uses.
        unsafe {
            let base = start.add(skip);
            if skip > 0 {
                libc::munmap(p, skip);
            }
            if HUGE > skip {
                libc::munmap(base.add(len).cast(), HUGE - skip);
            }
            let huge = libc::madvise(base.cast(), len, libc::MADV_HUGEPAGE) == 0;
            // A forked child must not share pages that a drive writes to.
            libc::madvise(base.cast(), len, libc::MADV_DONTFORK);
            Ok(Memory {
                base: NonNull::new_unchecked(base),
                len,
                skip: 0,
                mapped: true,
                huge,
            })
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: `mapped` made exactly this mapping, and the last buffer is gone.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        } else {
            // SAFETY: `heap` allocated it with this layout, `skip` bytes before `base`.
            unsafe {
                std::alloc::dealloc(
                    self.base.as_ptr().sub(self.skip),
                    Memory::heap_layout(self.len),
                );
            }
        }
    }
}

// ------------------------------------------------------------------ arena ----

/// The part of a pool that buffers refer to, from any core.
struct Arena {
    memory: Memory,
    /// Number of the arena in this process: tells a ring whether a buffer is registered with it.
    id: u64,
    /// Blocks freed by other cores: a stack linked through `links`, newest first. Blocks are pushed
    /// one by one and taken all at once, so a block that comes back between two steps of a push
    /// (ABA) does no harm: the push links to it as the head it then is.
    returned: AtomicU32,
    links: Box<[AtomicU32]>,
    /// The home core waits for memory: wake it when some is returned.
    wanted: AtomicBool,
    remote: OnceLock<Arc<Remote>>,
}

impl Arena {
    /// Frees a block from anywhere.
    fn give_back(&self, block: u32) {
        let link = &self.links[block as usize];
        let mut head = self.returned.load(Ordering::Relaxed);
        loop {
            link.store(head, Ordering::Relaxed);
            // Release: our last writes to the memory come before the home core's next use of it.
            match self.returned.compare_exchange_weak(
                head,
                block,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // Pairs with the fence in `Pool::want`.
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed)
            && let Some(remote) = self.remote.get()
        {
            remote.unpark();
        }
    }

    /// The blocks other cores returned.
    fn take_returned(&self, mut each: impl FnMut(u32)) {
        if self.returned.load(Ordering::Relaxed) == NIL {
            return;
        }
        let mut block = self.returned.swap(NIL, Ordering::Acquire);
        while block != NIL {
            let next = self.links[block as usize].load(Ordering::Relaxed);
            each(block);
            block = next;
        }
    }
}

/// The home core's lists: a buddy allocator over the arena's blocks.
struct Lists {
    heads: [u32; ORDERS],
    next: Box<[u32]>,
    prev: Box<[u32]>,
    /// Per block: `order` if a buffer begins here, `FREE | order` if a free run begins here,
    /// `INSIDE` otherwise.
    state: Box<[u8]>,
    free_blocks: usize,
}

const FREE: u8 = 0x80;
const INSIDE: u8 = 0x7f;

impl Lists {
    fn new(blocks: usize) -> Lists {
        let mut lists = Lists {
            heads: [NIL; ORDERS],
            next: vec![NIL; blocks].into(),
            prev: vec![NIL; blocks].into(),
            state: vec![INSIDE; blocks].into(),
            free_blocks: blocks,
        };
        // The largest aligned runs that fit, from the end, so that the lowest comes out first.
        let mut runs = Vec::new();
        let mut at = 0;
        while at < blocks {
            let order = (0..ORDERS)
                .rev()
                .find(|&o| at.is_multiple_of(1 << o) && at + (1 << o) <= blocks)
                .expect("order 0 always fits");
            runs.push((at, order));
            at += 1 << order;
        }
        for (at, order) in runs.into_iter().rev() {
            lists.link(at as u32, order);
        }
        lists
    }

    fn link(&mut self, block: u32, order: usize) {
        let head = self.heads[order];
        self.next[block as usize] = head;
        self.prev[block as usize] = NIL;
        if head != NIL {
            self.prev[head as usize] = block;
        }
        self.heads[order] = block;
        self.state[block as usize] = FREE | order as u8;
    }

    fn unlink(&mut self, block: u32, order: usize) {
        let (prev, next) = (self.prev[block as usize], self.next[block as usize]);
        match prev {
            NIL => self.heads[order] = next,
            p => self.next[p as usize] = next,
        }
        if next != NIL {
            self.prev[next as usize] = prev;
        }
        self.state[block as usize] = INSIDE;
    }

    fn alloc(&mut self, order: usize) -> Option<u32> {
        let mut have = (order..ORDERS).find(|&o| self.heads[o] != NIL)?;
        let block = self.heads[have];
        self.unlink(block, have);
        while have > order {
            have -= 1;
            self.link(block + (1 << have), have);
        }
        self.state[block as usize] = order as u8;
        self.free_blocks -= 1 << order;
        Some(block)
    }

    /// Makes the allocated block two to the `by` blocks.
    fn split(&mut self, block: u32, by: usize) {
        let order = usize::from(self.state[block as usize]);
        assert!(
            order < ORDERS && by <= order,
            "a block in use, large enough"
        );
        let small = order - by;
        for i in 0..1 << by {
            self.state[block as usize + (i << small)] = small as u8;
        }
    }

    fn free(&mut self, block: u32) {
        let mut order = usize::from(self.state[block as usize]);
        assert!(order < ORDERS, "a block is freed once");
        self.free_blocks += 1 << order;
        let mut block = block;
        while order + 1 < ORDERS {
            let buddy = block ^ (1 << order);
            if self.state.get(buddy as usize) != Some(&(FREE | order as u8)) {
                break;
            }
            self.unlink(buddy, order);
            self.state[block as usize] = INSIDE;
            block = block.min(buddy);
            order += 1;
        }
        self.link(block, order);
    }
}

// ------------------------------------------------------------------- pool ----

/// A core's memory. Stays on its core; the buffers travel.
pub struct Pool {
    arena: Arc<Arena>,
    lists: RefCell<Lists>,
    waiters: Waiters,
    /// The driver, too, waits for a buffer.
    driver_wants: Cell<bool>,
}

static ARENAS: AtomicU64 = AtomicU64::new(0);

impl Pool {
    fn over(memory: Memory) -> Pool {
        let blocks = memory.len / BUF_SIZE_MIN;
        Pool {
            lists: RefCell::new(Lists::new(blocks)),
            arena: Arc::new(Arena {
                memory,
                id: ARENAS.fetch_add(1, Ordering::Relaxed),
                returned: AtomicU32::new(NIL),
                links: (0..blocks).map(|_| AtomicU32::new(NIL)).collect(),
                wanted: AtomicBool::new(false),
                remote: OnceLock::new(),
            }),
            waiters: Waiters::default(),
            driver_wants: Cell::new(false),
        }
    }

    /// A pool of at least `bytes` (rounded up to [`ARENA_GRAIN`]) in huge pages, where the kernel
    /// grants them.
    pub fn mapped(bytes: usize) -> std::io::Result<Pool> {
        Ok(Pool::over(Memory::mapped(round_up(bytes))?))
    }

    /// A pool from the allocator, for simulations and tests. `bytes` is rounded up to
    /// [`BUF_SIZE_MIN`].
    pub fn heap(bytes: usize) -> Pool {
        Pool::over(Memory::heap(bytes.max(1).next_multiple_of(BUF_SIZE_MIN)))
    }

    pub(in crate::rt) fn set_remote(&self, remote: &Arc<Remote>) {
        // A pool that goes from a finished core to a new one keeps the old, closed remote: its
        // buffers are then collected when the new core next looks, not by a wake.
        let _ = self.arena.remote.set(remote.clone());
    }

    pub fn capacity(&self) -> usize {
        self.arena.memory.len
    }

    /// Bytes free now, not counting what other cores have returned since the last look.
    pub fn free_bytes(&self) -> usize {
        self.lists.borrow().free_blocks * BUF_SIZE_MIN
    }

    pub(in crate::rt) fn is_huge(&self) -> bool {
        self.arena.memory.huge
    }

    /// Start and length of the memory, for registration.
    pub(in crate::rt) fn extent(&self) -> (*mut u8, usize) {
        (self.arena.memory.base.as_ptr(), self.arena.memory.len)
    }

    /// Where in this pool's memory the buffer lies; `None` if it is of another pool.
    pub(in crate::rt) fn offset_of(&self, buf: &Buf) -> Option<usize> {
        match &buf.home {
            Home::Arena { arena, block } if arena.id == self.arena.id => {
                Some(*block as usize * BUF_SIZE_MIN)
            }
            _ => None,
        }
    }

    pub fn try_alloc(&self, len: usize) -> Option<Buf> {
        let order = order_of(len)?;
        let mut lists = self.lists.borrow_mut();
        let block = lists.alloc(order).or_else(|| {
            self.arena.take_returned(|block| lists.free(block));
            lists.alloc(order)
        })?;
        // SAFETY: the block lies within the memory.
        let ptr = unsafe { self.arena.memory.base.add(block as usize * BUF_SIZE_MIN) };
        let home = Home::Arena {
            arena: self.arena.clone(),
            block,
        };
        Some(Buf {
            ptr,
            len,
            capacity: BUF_SIZE_MIN << order,
            home,
        })
    }

    /// The arena begins with its largest run: the largest power of two that fits.
    fn can_ever_serve(&self, len: usize) -> bool {
        let blocks = self.capacity() / BUF_SIZE_MIN;
        order_of(len).is_some_and(|order| 1 << order <= blocks)
    }

    fn free(&self, block: u32) {
        self.lists.borrow_mut().free(block);
        if !self.waiters.is_empty() {
            self.waiters.wake_first();
        }
    }

    /// Takes in what other cores returned; wakes who waits for it. Cheap when there is nothing.
    pub(in crate::rt) fn collect(&self) {
        let mut some = false;
        self.arena.take_returned(|block| {
            self.lists.borrow_mut().free(block);
            some = true;
        });
        if some {
            self.waiters.wake_first();
        }
    }

    /// There is returned memory, and somebody wants it.
    pub(in crate::rt) fn must_collect(&self) -> bool {
        self.arena.wanted.load(Ordering::Relaxed)
            && self.arena.returned.load(Ordering::Acquire) != NIL
    }

    fn want(&self) {
        let wanted = self.driver_wants.get() || !self.waiters.is_empty();
        if wanted != self.arena.wanted.load(Ordering::Relaxed) {
            self.arena.wanted.store(wanted, Ordering::Relaxed);
            // Pairs with the fence in `give_back`: either it sees `wanted`, or we see the block.
            fence(Ordering::SeqCst);
        }
    }

    pub(in crate::rt) fn set_driver_wants(&self, wants: bool) {
        if self.driver_wants.replace(wants) != wants {
            self.want();
        }
    }
}

fn round_up(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ARENA_GRAIN)
}

/// The smallest order that holds `len` bytes.
fn order_of(len: usize) -> Option<usize> {
    let order = len
        .div_ceil(BUF_SIZE_MIN)
        .max(1)
        .next_power_of_two()
        .trailing_zeros() as usize;
    (order < ORDERS).then_some(order)
}

// -------------------------------------------------------------------- buf ----

enum Home {
    Arena {
        arena: Arc<Arena>,
        block: u32,
    },
    Heap,
    /// No memory at all.
    Nowhere,
}

/// Owned memory, aligned to 4 KiB, of a core's arena. It may travel to another core and be dropped
/// there. The contents of a fresh one are whatever was there before.
pub struct Buf {
    ptr: NonNull<u8>,
    len: usize,
    capacity: usize,
    home: Home,
}

/// Bytes of the core's pool that are handed out, and all of it; zeroes outside a core. What other
/// cores have returned since the last look counts as handed out.
pub fn pool_usage() -> (usize, usize) {
    with_core(|core| {
        core.map_or((0, 0), |core| {
            let (all, free) = (core.pool().capacity(), core.pool().free_bytes());
            (all - free, all)
        })
    })
}

// SAFETY: a buffer is the only owner of its block; `Arena` is `Sync`.
unsafe impl Send for Buf {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buf {}

impl Buf {
    /// A buffer of `len` bytes (at most [`BUF_SIZE_MAX`]); `None` when the core's pool is empty.
    /// Outside a core the memory comes from the allocator.
    pub fn try_alloc(len: usize) -> Option<Buf> {
        with_core(|core| match core {
            Some(core) => core.pool().try_alloc(len),
            None => Some(Buf::heap(len)),
        })
    }

    /// Waits for the pool, first come, first served. Panics if `len` is more than the pool's memory
    /// could ever serve. (The driver keeps some of it for receiving: count on half.)
    pub async fn alloc(len: usize) -> Buf {
        struct Place(Option<u64>);
        impl Drop for Place {
            fn drop(&mut self) {
                let Some(ticket) = self.0 else { return };
                with_core(|core| {
                    if let Some(core) = core {
                        let pool = core.pool();
                        pool.waiters.leave(ticket);
                        pool.want();
                        // What is left may do for the next in line.
                        pool.waiters.wake_first();
                    }
                });
            }
        }
        let mut place = Place(None);
        std::future::poll_fn(|cx| {
            with_core(|core| {
                let Some(core) = core else {
                    return Poll::Ready(Buf::heap(len));
                };
                let pool = core.pool();
                assert!(
                    pool.can_ever_serve(len),
                    "a buffer of {len} bytes can never be had from this pool"
                );
                let first = match place.0 {
                    Some(ticket) => !pool.waiters.is_behind(ticket),
                    None => pool.waiters.is_empty(),
                };
                if first && let Some(buf) = pool.try_alloc(len) {
                    return Poll::Ready(buf);
                }
                let ticket = *place.0.get_or_insert_with(|| pool.waiters.ticket());
                pool.waiters.wait(ticket, cx.waker());
                pool.want();
                // A block may have come back before we said that we want it.
                if pool.must_collect() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            })
        })
        .await
    }

    /// From the pool, or if that has none, from the allocator: for those who give memory back and must not wait
    /// behind those who wait for it. The caller bounds how much this can be.
    pub fn alloc_now(len: usize) -> Buf {
        Buf::try_alloc(len).unwrap_or_else(|| Buf::heap(len))
    }

    /// From the allocator, for tools and tests outside a core. Zeroed.
    pub fn heap(len: usize) -> Buf {
        let capacity = len.max(1).next_multiple_of(BUF_SIZE_MIN);
        let layout = std::alloc::Layout::from_size_align(capacity, ALIGN).expect("a sane size");
        // SAFETY: the size is not zero.
        let p = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(p) else {
            std::alloc::handle_alloc_error(layout)
        };
        Buf {
            ptr,
            len,
            capacity,
            home: Home::Heap,
        }
    }

    /// Cuts the memory into pieces of `len` bytes each, in order: as many as fit, the rest is free. `len` must be a
    /// power of two, at least [`BUF_SIZE_MIN`]. On the core whose pool the buffer is of; no byte moves.
    pub fn split(self, len: usize) -> Vec<Buf> {
        assert!(
            len.is_power_of_two() && len >= BUF_SIZE_MIN,
            "{len} is no size of a buffer"
        );
        if self.capacity <= len {
            assert_eq!(self.capacity, len, "a piece is no larger than the whole");
            return vec![self];
        }
        let Home::Arena { arena, block } = &self.home else {
            // Outside a core: memory of its own for each piece.
            let mut whole = self;
            let pieces = whole.whole_mut().chunks_exact(len);
            return pieces
                .map(|bytes| {
                    let mut piece = Buf::heap(len);
                    piece.copy_from_slice(bytes);
                    piece
                })
                .collect();
        };
        let count = self.capacity / len;
        with_core(|core| {
            let pool = core
                .map(Core::pool)
                .filter(|pool| pool.arena.id == arena.id);
            let pool = pool.expect("a buffer is split at home");
            pool.lists
                .borrow_mut()
                .split(*block, count.ilog2() as usize);
        });
        let pieces = (0..count)
            .map(|i| Buf {
                // SAFETY: the piece lies within the block.
                ptr: unsafe { self.ptr.add(i * len) },
                len,
                capacity: len,
                home: Home::Arena {
                    arena: arena.clone(),
                    block: *block + (i * len / BUF_SIZE_MIN) as u32,
                },
            })
            .collect();
        // The pieces own the memory now.
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the home is moved out of what is never dropped.
        drop(unsafe { std::ptr::read(&this.home) });
        pieces
    }

    /// A buffer without memory: length and capacity 0.
    pub fn empty() -> Buf {
        Buf {
            ptr: NonNull::dangling(),
            len: 0,
            capacity: 0,
            home: Home::Nowhere,
        }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes between the old and the new length keep whatever they held.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.capacity,
            "{len} bytes do not fit into {}",
            self.capacity
        );
        self.len = len;
    }

    /// All of the memory, whatever the length.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        // SAFETY: the block is ours, `capacity` bytes long, and initialised.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.capacity) }
    }

    pub(in crate::rt) fn pointer(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the block is ours, at least `len` bytes long, and initialised: fresh arenas are
        // zero and nothing makes memory uninitialised again.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len, self.capacity)
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        match &self.home {
            Home::Arena { arena, block } => with_core(|core| match core {
                Some(core) if core.pool().arena.id == arena.id => core.pool().free(*block),
                _ => arena.give_back(*block),
            }),
            Home::Nowhere => {}
            // SAFETY: `heap` allocated it with this layout.
            Home::Heap => unsafe {
                std::alloc::dealloc(
                    self.ptr.as_ptr(),
                    std::alloc::Layout::from_size_align_unchecked(self.capacity, ALIGN),
                );
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::executor::testing::{bench_core, settle};
    use crate::rt::spawn;
    use std::rc::Rc;

    #[test]
    fn sizes_round_up_to_powers_of_two() {
        let pool = Pool::heap(1 << 20);
        for (len, capacity) in [
            (0, 8 << 10),
            (1, 8 << 10),
            (8193, 16 << 10),
            (65536, 65536),
            (65537, 131072),
        ] {
            let buf = pool.try_alloc(len).unwrap();
            assert_eq!((buf.len(), buf.capacity()), (len, capacity));
            assert!(buf.as_ptr().addr().is_multiple_of(ALIGN));
        }
        assert!(pool.try_alloc(BUF_SIZE_MAX + 1).is_none());
        assert!(pool.try_alloc(usize::MAX).is_none());
    }

    #[test]
    fn what_is_freed_joins_again() {
        // Not a power of two, so that the last runs are smaller ones.
        let core = bench_core(Pool::heap((1 << 20) + 24576));
        let all = core.pool().capacity();
        core.enter(|| {
            let mut random = 1_u64;
            let mut held: Vec<(Buf, u8)> = Vec::new();
            for n in 0..if cfg!(miri) { 300 } else { 20_000 } {
                random = random
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let len = 1 << (random >> 33 & 15) << 3;
                match Buf::try_alloc(len) {
                    Some(mut buf) if random >> 62 != 0 => {
                        let mark = n as u8;
                        buf[0] = mark;
                        buf[len - 1] = mark;
                        held.push((buf, mark));
                    }
                    _ if !held.is_empty() => {
                        let (buf, mark) = held.swap_remove(random as usize % held.len());
                        assert_eq!((buf[0], buf[buf.len() - 1]), (mark, mark));
                    }
                    _ => {}
                }
                let used: usize = held.iter().map(|(b, _)| b.capacity()).sum();
                assert_eq!(used + core.pool().free_bytes(), all);
            }
            drop(held);
            assert_eq!(core.pool().free_bytes(), all);
            assert!(Buf::try_alloc(1 << 20).is_some());
        });
    }

    #[test]
    fn other_threads_return_buffers_and_wake_who_waits() {
        let core = bench_core(Pool::heap(64 << 10));
        let rounds = if cfg!(miri) { 40 } else { 5_000 };
        let (tx, rx) = std::sync::mpsc::channel::<Buf>();
        let other = std::thread::spawn(move || {
            let mut seen = 0;
            for buf in rx {
                assert!(buf.iter().all(|&b| b == buf[0]));
                seen += 1;
            }
            seen
        });
        let task = core.spawn(async move {
            for n in 0..rounds {
                // Far more than the pool holds: it goes on only because the other side frees.
                let mut buf = Buf::alloc(8 << 10).await;
                buf.fill(n as u8);
                tx.send(buf).unwrap();
            }
        });
        while !task.is_done() {
            core.take_remote();
            core.run_ready();
            while !task.is_done() && !core.has_work() {
                std::thread::yield_now();
            }
        }
        core.kill();
        drop(task);
        assert_eq!(other.join().unwrap(), rounds);
        core.pool().collect();
        assert_eq!(core.pool().free_bytes(), 64 << 10);
    }

    #[test]
    fn who_waits_for_much_is_not_overtaken() {
        let core = bench_core(Pool::heap(64 << 10));
        let order: Rc<RefCell<Vec<u32>>> = Rc::default();
        let held = core.enter(|| Buf::try_alloc(8 << 10).unwrap());
        for (n, len) in [(0, 64 << 10), (1, 8 << 10)] {
            let order = order.clone();
            drop(core.spawn(async move {
                let buf = Buf::alloc(len).await;
                order.borrow_mut().push(n);
                drop(buf);
            }));
        }
        settle(&core);
        assert!(order.borrow().is_empty());
        core.enter(|| drop(held));
        settle(&core);
        assert_eq!(*order.borrow(), [0, 1]);
    }

    #[test]
    fn what_can_never_be_had_is_refused() {
        let pool = Pool::heap((12 << 20) + 8192);
        assert!(pool.can_ever_serve(8 << 20));
        assert!(!pool.can_ever_serve((8 << 20) + 1));
        assert!(!Pool::heap(64 << 20).can_ever_serve(BUF_SIZE_MAX + 1));
    }

    #[test]
    fn giving_up_lets_the_next_pass() {
        let core = bench_core(Pool::heap(64 << 10));
        let held = core.enter(|| Buf::try_alloc(8 << 10).unwrap());
        let much = core.spawn(async { drop(Buf::alloc(64 << 10).await) });
        let little = core.spawn(async { drop(Buf::alloc(8 << 10).await) });
        settle(&core);
        assert!(!little.is_done());
        core.enter(|| drop(spawn(async move { much.cancel() })));
        settle(&core);
        assert!(little.is_done());
        drop(held);
    }

    #[test]
    fn buffers_outlive_their_core() {
        let core = bench_core(Pool::heap(64 << 10));
        let mut buf = core.enter(|| Buf::try_alloc(8 << 10).unwrap());
        core.kill();
        drop(core);
        buf.fill(1);
        assert_eq!(buf[8191], 1);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory with flags Miri does not know")]
    fn mapped_memory_is_aligned_to_huge_pages() {
        let pool = Pool::mapped(5 << 20).unwrap();
        let (base, len) = pool.extent();
        assert_eq!((base.addr() % (2 << 20), len), (0, 8 << 20));
        let buf = pool.try_alloc(4 << 20).unwrap();
        assert!(buf.iter().all(|&b| b == 0));
    }
}
