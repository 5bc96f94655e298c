//! Operations: what a handle asks of its driver, and the table that owns them while they run.
//!
//! An operation owns every buffer, file and socket it needs from the moment it is submitted until
//! its *final* completion; the future that waits holds only a key. Keys carry a generation, so a
//! completion that arrives for a slot in its next life is recognised and counted, never delivered.
//!
//! ```text
//!             submit            complete              poll
//!   (handle) ────────▶ Flight ───────────▶ Done ───────────▶ (handle gets the operation back)
//!                        │ future dropped    │ future dropped
//!                        ▼                   ▼
//!                   Flight, orphan        discarded: what it brought (socket, buffer) is released
//!                        │ final completion
//!                        ▼
//!                     discarded
//! ```

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::buf::Buf;
use super::executor::Remote;
use super::file::FileHandle;
use super::net::{Message, Socket, SocketAddress};

/// Names an operation: generation in the upper half, slot in the lower.
pub type OpKey = u64;

/// What a handle asks for. Each is one attempt: it may transfer less than asked, and the handle
/// continues.
pub enum Op {
    /// Fill `buf[from..to]` from the file at `offset`. Result: bytes read, 0 at the end.
    Read {
        file: Rc<FileHandle>,
        buf: Buf,
        from: usize,
        to: usize,
        offset: u64,
    },
    /// Write `buf[from..to]` to the file at `offset`. Result: bytes written.
    Write {
        file: Rc<FileHandle>,
        buf: Buf,
        from: usize,
        to: usize,
        offset: u64,
    },
    /// Write `bufs[first][skip..]` and all of the buffers behind it, one after the other, to the
    /// file at `offset`. Result: bytes written.
    WriteVectored {
        file: Rc<FileHandle>,
        bufs: Vec<Buf>,
        first: usize,
        skip: usize,
        offset: u64,
        /// Filled by the driver that needs it; empty at submission.
        message: Option<Box<Message>>,
    },
    /// fdatasync (`data_only`) or fsync.
    Sync {
        file: Rc<FileHandle>,
        data_only: bool,
    },
    /// fallocate mode 0 of `0..len`.
    Allocate { file: Rc<FileHandle>, len: u64 },
    /// A call on the file system. The `sim` driver puts the answer into `reply` and completes with
    /// 0; the `uring` driver never sees these (they go to a helper thread).
    Fs {
        call: FsCall,
        reply: Option<io::Result<FsReply>>,
    },
    /// Accept connections, many completions. Result: a socket.
    Accept { socket: Rc<Socket> },
    Connect {
        socket: Rc<Socket>,
        address: Box<SocketAddress>,
    },
    /// Receive into `buf[from..to]`.
    Receive {
        socket: Rc<Socket>,
        buf: Buf,
        from: usize,
        to: usize,
    },
    /// Receive into a buffer that the driver picks when bytes are there.
    ReceivePicked { socket: Rc<Socket>, idle: bool },
    /// Send `buf[from..to]`.
    Send {
        socket: Rc<Socket>,
        buf: Buf,
        from: usize,
        to: usize,
    },
    /// Send `bufs[first][skip..]` and all of the buffers behind it.
    SendVectored {
        socket: Rc<Socket>,
        bufs: Vec<Buf>,
        first: usize,
        skip: usize,
        message: Option<Box<Message>>,
    },
    /// Wake a core that sleeps. Nobody waits for it.
    Wake { remote: Arc<Remote> },
}

/// A call on the file system that may block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsCall {
    Open {
        path: PathBuf,
        options: super::file::OpenOptions,
    },
    Len {
        file: u64,
    },
    CreateDir {
        path: PathBuf,
    },
    ReadDir {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    RemoveFile {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Exists {
        path: PathBuf,
    },
    FreeBytes {
        path: PathBuf,
    },
}

#[derive(Debug)]
pub enum FsReply {
    Opened(RawFile),
    Unit,
    Len(u64),
    /// Names without the directory, in any order (the handle sorts them).
    Names(Vec<String>),
    Exists(bool),
    Bytes(u64),
}

/// What an open file is to its driver.
#[derive(Debug)]
pub enum RawFile {
    Fd(std::os::fd::OwnedFd),
    /// A number the `sim` driver gave out; it hears of the close through
    /// [`super::executor::Simulated::close`].
    Sim(u64),
}

/// How an operation ended: the driver's result (a count or a negated errno) and its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub result: i32,
    pub flags: u32,
}

impl Outcome {
    pub fn count(self) -> io::Result<usize> {
        match usize::try_from(self.result) {
            Ok(n) => Ok(n),
            Err(_) => Err(io::Error::from_raw_os_error(self.result.saturating_neg())),
        }
    }
}

enum Slot {
    Free(u32),
    Flight {
        op: Op,
        waker: Option<Waker>,
        orphan: bool,
    },
    Done {
        op: Op,
        outcome: Outcome,
    },
    Many {
        op: Op,
        queue: VecDeque<Outcome>,
        waker: Option<Waker>,
        orphan: bool,
        ended: bool,
    },
}

struct Cell {
    generation: u32,
    slot: Slot,
}

/// What a successful outcome carries besides a count, and somebody must release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    Nothing,
    /// The result is a socket.
    Socket,
    /// The flags name a buffer of the driver.
    Buffer,
}

impl Op {
    pub fn brings(&self) -> Brought {
        match self {
            Op::Accept { .. } => Brought::Socket,
            Op::ReceivePicked { .. } => Brought::Buffer,
            _ => Brought::Nothing,
        }
    }
}

/// What a completion asks its caller to do, once no borrow of the table is held: both the waker
/// and the operation's destructor may come back to it.
#[must_use]
pub enum Completed {
    Wake(Waker),
    /// The future is gone. `op` is there when this was the final completion.
    Discard {
        op: Option<Op>,
        brought: Brought,
        outcome: Outcome,
    },
    /// More results of a many-shot operation wait than its owner takes: the count.
    Backlog(Option<Waker>, usize),
    Nothing,
    /// The key names no operation in flight. Never right.
    Stale,
}

/// What became of an operation whose future was dropped.
#[must_use]
pub enum Orphaned {
    /// Still with the driver; ask it to cancel.
    InFlight,
    /// Over already: results nobody took, to be released by the driver.
    Unclaimed(Op, VecDeque<Outcome>),
    /// Taken before, or the table was cleared.
    Gone,
}

const NIL: u32 = u32::MAX;
/// Generations have 31 bits, so that keys never reach the values drivers keep for themselves
/// (those with the highest bit set).
const GENERATION_MASK: u32 = 0x7fff_ffff;

/// The operations of one core.
pub struct Table {
    cells: Vec<Cell>,
    free: u32,
    live: usize,
}

impl Table {
    pub fn new() -> Table {
        Table {
            cells: Vec::with_capacity(256),
            free: NIL,
            live: 0,
        }
    }

    /// Operations in flight, or over and not yet taken.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Operations whose final completion is still to come.
    pub fn in_flight(&self) -> usize {
        let flying = |c: &&Cell| match &c.slot {
            Slot::Flight { .. } => true,
            Slot::Many { ended, .. } => !ended,
            Slot::Done { .. } | Slot::Free(_) => false,
        };
        self.cells.iter().filter(flying).count()
    }

    fn insert_slot(&mut self, slot: Slot) -> OpKey {
        self.live += 1;
        let index = if self.free == NIL {
            self.cells.push(Cell {
                generation: 0,
                slot,
            });
            self.cells.len() - 1
        } else {
            let index = self.free as usize;
            let Slot::Free(next) = self.cells[index].slot else {
                unreachable!("a slot on the free list is in use")
            };
            self.free = next;
            self.cells[index].slot = slot;
            index
        };
        (u64::from(self.cells[index].generation) << 32) | index as u64
    }

    pub fn insert(&mut self, op: Op) -> OpKey {
        self.insert_slot(Slot::Flight {
            op,
            waker: None,
            orphan: false,
        })
    }

    /// An operation nobody waits for.
    pub fn insert_orphan(&mut self, op: Op) -> OpKey {
        self.insert_slot(Slot::Flight {
            op,
            waker: None,
            orphan: true,
        })
    }

    /// An operation that completes many times.
    pub fn insert_many(&mut self, op: Op) -> OpKey {
        self.insert_slot(Slot::Many {
            op,
            queue: VecDeque::new(),
            waker: None,
            orphan: false,
            ended: false,
        })
    }

    fn cell(&mut self, key: OpKey) -> Option<&mut Cell> {
        let cell = self.cells.get_mut(key as u32 as usize)?;
        (cell.generation == (key >> 32) as u32 && !matches!(cell.slot, Slot::Free(_)))
            .then_some(cell)
    }

    fn remove(&mut self, key: OpKey) -> Slot {
        let index = key as u32;
        let free = self.free;
        let cell = &mut self.cells[index as usize];
        cell.generation = (cell.generation + 1) & GENERATION_MASK;
        self.free = index;
        self.live -= 1;
        std::mem::replace(&mut cell.slot, Slot::Free(free))
    }

    /// The operation behind a key, while it is in flight.
    pub fn op(&mut self, key: OpKey) -> Option<&mut Op> {
        match &mut self.cell(key)?.slot {
            Slot::Flight { op, .. } | Slot::Many { op, .. } => Some(op),
            Slot::Done { .. } | Slot::Free(_) => None,
        }
    }

    /// Takes one completion. `more`: further completions of this key will follow.
    pub fn complete(&mut self, key: OpKey, outcome: Outcome, more: bool) -> Completed {
        let Some(cell) = self.cell(key) else {
            return Completed::Stale;
        };
        match &mut cell.slot {
            Slot::Flight {
                op, orphan: true, ..
            }
            | Slot::Many {
                op, orphan: true, ..
            } => {
                let brought = op.brings();
                if more {
                    return Completed::Discard {
                        op: None,
                        brought,
                        outcome,
                    };
                }
                match self.remove(key) {
                    Slot::Flight { op, .. } | Slot::Many { op, .. } => Completed::Discard {
                        op: Some(op),
                        brought,
                        outcome,
                    },
                    Slot::Done { .. } | Slot::Free(_) => unreachable!("matched above"),
                }
            }
            // A single operation with an intermediate completion keeps its buffer with the kernel:
            // only the last one ends it.
            Slot::Flight { .. } if more => Completed::Nothing,
            Slot::Flight { waker, .. } => {
                let waker = waker.take();
                let Slot::Flight { op, .. } = std::mem::replace(&mut cell.slot, Slot::Free(NIL))
                else {
                    unreachable!("matched above")
                };
                cell.slot = Slot::Done { op, outcome };
                waker.map_or(Completed::Nothing, Completed::Wake)
            }
            Slot::Many {
                queue,
                waker,
                ended,
                ..
            } => {
                queue.push_back(outcome);
                *ended = !more;
                Completed::Backlog(waker.take(), queue.len())
            }
            Slot::Done { .. } | Slot::Free(_) => Completed::Stale,
        }
    }

    /// The operation and how it ended.
    pub fn poll(&mut self, key: OpKey, cx: &mut Context<'_>) -> Poll<(Op, Outcome)> {
        let cell = self
            .cell(key)
            .expect("an operation is polled until it is ready, and not after");
        match &mut cell.slot {
            Slot::Flight { waker, .. } => {
                keep_waker(waker, cx);
                Poll::Pending
            }
            Slot::Done { .. } => {
                let Slot::Done { op, outcome } = self.remove(key) else {
                    unreachable!("matched above")
                };
                Poll::Ready((op, outcome))
            }
            Slot::Many { .. } | Slot::Free(_) => unreachable!("not a single operation"),
        }
    }

    /// The next result of a many-shot operation; `true` beside it when it was the last and the key
    /// is void.
    pub fn poll_many(&mut self, key: OpKey, cx: &mut Context<'_>) -> Poll<(Outcome, bool)> {
        let cell = self
            .cell(key)
            .expect("a many-shot operation is polled until its last result");
        let Slot::Many {
            queue,
            waker,
            ended,
            ..
        } = &mut cell.slot
        else {
            unreachable!("not a many-shot operation")
        };
        let Some(outcome) = queue.pop_front() else {
            keep_waker(waker, cx);
            return Poll::Pending;
        };
        let last = *ended && queue.is_empty();
        if last {
            drop(self.remove(key));
        }
        Poll::Ready((outcome, last))
    }

    /// The future behind `key` is gone.
    pub fn orphan(&mut self, key: OpKey) -> Orphaned {
        let Some(cell) = self.cell(key) else {
            return Orphaned::Gone;
        };
        match &mut cell.slot {
            Slot::Flight { waker, orphan, .. } => {
                *waker = None;
                *orphan = true;
                Orphaned::InFlight
            }
            Slot::Many { ended: false, .. } => {
                // Results that wait in the queue stay in order with those still to come; the
                // driver releases them when it next looks (`take_unclaimed`).
                let Slot::Many { waker, orphan, .. } = &mut cell.slot else {
                    unreachable!("matched above")
                };
                *waker = None;
                *orphan = true;
                Orphaned::InFlight
            }
            Slot::Done { .. } | Slot::Many { .. } => match self.remove(key) {
                Slot::Done { op, outcome } => Orphaned::Unclaimed(op, VecDeque::from([outcome])),
                Slot::Many { op, queue, .. } => Orphaned::Unclaimed(op, queue),
                Slot::Flight { .. } | Slot::Free(_) => unreachable!("matched above"),
            },
            Slot::Free(_) => Orphaned::Gone,
        }
    }

    /// The results an orphaned many-shot operation had queued.
    pub fn take_unclaimed(&mut self, key: OpKey) -> (Brought, VecDeque<Outcome>) {
        match self.cell(key).map(|c| &mut c.slot) {
            Some(Slot::Many {
                op,
                queue,
                orphan: true,
                ..
            }) => (op.brings(), std::mem::take(queue)),
            _ => (Brought::Nothing, VecDeque::new()),
        }
    }

    /// Empties the table. Only for a driver that knows that nothing writes into the buffers.
    pub fn clear(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for index in 0..self.cells.len() {
            let key = (u64::from(self.cells[index].generation) << 32) | index as u64;
            match self.cells[index].slot {
                Slot::Free(_) => {}
                _ => match self.remove(key) {
                    Slot::Flight { op, .. } | Slot::Done { op, .. } | Slot::Many { op, .. } => {
                        ops.push(op);
                    }
                    Slot::Free(_) => unreachable!("matched above"),
                },
            }
        }
        ops
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

fn keep_waker(slot: &mut Option<Waker>, cx: &mut Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::CoreId;

    fn op() -> Op {
        Op::Wake {
            remote: Remote::new(CoreId(0)),
        }
    }

    fn outcome(result: i32) -> Outcome {
        Outcome { result, flags: 0 }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_key_dies_with_its_operation() {
        let mut table = Table::new();
        let first = table.insert(op());
        assert!(table.poll(first, &mut cx()).is_pending());
        assert!(matches!(
            table.complete(first, outcome(3), false),
            Completed::Wake(_)
        ));
        assert!(matches!(
            table.complete(first, outcome(3), false),
            Completed::Stale
        ));
        let Poll::Ready((_, Outcome { result: 3, .. })) = table.poll(first, &mut cx()) else {
            panic!("completed with 3")
        };
        let second = table.insert(op());
        assert_eq!(second as u32, first as u32, "the slot is used again");
        assert!(matches!(
            table.complete(first, outcome(0), false),
            Completed::Stale
        ));
        assert!(matches!(table.orphan(first), Orphaned::Gone));
        assert_eq!((table.live(), table.in_flight()), (1, 1));
    }

    #[test]
    fn an_orphan_keeps_its_operation_until_the_final_completion() {
        let mut table = Table::new();
        let key = table.insert(op());
        assert!(matches!(table.orphan(key), Orphaned::InFlight));
        let Completed::Discard { op: None, .. } = table.complete(key, outcome(1), true) else {
            panic!("not the last completion")
        };
        assert_eq!(table.in_flight(), 1);
        let Completed::Discard { op: Some(_), .. } = table.complete(key, outcome(1), false) else {
            panic!("the last completion")
        };
        assert_eq!((table.live(), table.in_flight()), (0, 0));
    }

    #[test]
    fn many_results_are_taken_in_order_and_the_last_voids_the_key() {
        let mut table = Table::new();
        let key = table.insert_many(op());
        assert!(table.poll_many(key, &mut cx()).is_pending());
        assert!(matches!(
            table.complete(key, outcome(1), true),
            Completed::Backlog(Some(_), 1)
        ));
        assert!(matches!(
            table.complete(key, outcome(2), true),
            Completed::Backlog(None, 2)
        ));
        assert!(matches!(
            table.complete(key, outcome(3), false),
            Completed::Backlog(None, 3)
        ));
        for (n, last) in [(1, false), (2, false), (3, true)] {
            assert_eq!(
                table.poll_many(key, &mut cx()),
                Poll::Ready((outcome(n), last))
            );
        }
        assert_eq!(table.live(), 0);
    }

    #[test]
    fn results_of_an_abandoned_many_shot_are_handed_out_for_release() {
        let mut table = Table::new();
        let key = table.insert_many(op());
        assert!(matches!(
            table.complete(key, outcome(1), true),
            Completed::Backlog(None, 1)
        ));
        assert!(matches!(table.orphan(key), Orphaned::InFlight));
        assert_eq!(table.take_unclaimed(key).1, [outcome(1)]);
        assert!(matches!(
            table.complete(key, outcome(2), true),
            Completed::Discard { op: None, .. }
        ));
        assert!(matches!(
            table.complete(key, outcome(-libc::ECANCELED), false),
            Completed::Discard { op: Some(_), .. }
        ));
        assert_eq!(table.live(), 0);
    }
}
