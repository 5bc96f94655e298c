//! The reactor under abuse: operations that are dropped, cancelled and raced at random moments, and
//! cores that are torn down with operations in flight. The kernel must never write into memory that
//! its owner has back, and no completion may reach an operation it does not belong to.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ostrakon::rt::{
    self, Buf, Config, CoreId, File, OpenOptions, Reactor, TcpListener, TcpStream, net::Claim,
};

/// Operations in all, over all rounds.
const ACTIONS: usize = 20_000;
const ROUNDS: usize = 50;
const CANARY: u8 = 0xa5;

/// A small generator; the test prints its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn config() -> Config {
    Config {
        arena_bytes: 8 << 20,
        entries: 32,
        picked_buffers: 32,
        ..Config::default()
    }
}

/// The file to do O_DIRECT on, if the file system can.
fn test_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for tests")
}

/// Polls once, then drops.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(v) => Poll::Ready(Some(v)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

type Action = Pin<Box<dyn Future<Output = ()>>>;

/// What the actions work on. The far ends are plain blocking ones of the standard library, used
/// only where they cannot block.
struct Stage {
    pipes: Vec<(File, RefCell<PipeWriter>)>,
    /// Near end, and the number of bytes written to the far end and not known to be read.
    sockets: Vec<(TcpStream, RefCell<UnixStream>)>,
    file: File,
    direct: bool,
    listener: TcpListener,
    address: std::net::SocketAddr,
}

impl Stage {
    async fn new(dir: &Path) -> Stage {
        let pipes = (0..4)
            .map(|_| {
                let (reader, writer) = std::io::pipe().unwrap();
                (File::from_fd(OwnedFd::from(reader)), RefCell::new(writer))
            })
            .collect();
        let sockets = (0..4)
            .map(|_| {
                let (near, far) = UnixStream::pair().unwrap();
                far.set_nonblocking(true).unwrap();
                (TcpStream::from_fd(OwnedFd::from(near)), RefCell::new(far))
            })
            .collect();
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            ..Default::default()
        };
        let path = dir.join("file");
        let direct = File::open(
            &path,
            OpenOptions {
                direct: true,
                ..options
            },
        )
        .await;
        let is_direct = direct.is_ok();
        let file = match direct {
            Ok(file) => file,
            Err(_) => File::open(&path, options).await.unwrap(),
        };
        file.allocate(1 << 20).await.unwrap();
        let claim = Claim::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = claim.address();
        let listener = TcpListener::from_claim(claim);
        Stage {
            pipes,
            sockets,
            file,
            direct: is_direct,
            listener,
            address,
        }
    }

    /// One random operation.
    fn action(self: &Rc<Self>, random: &mut Random) -> Action {
        let stage = self.clone();
        let (a, b) = (random.next(), random.next());
        match random.below(12) {
            0 => Box::pin(async move {
                let (file, _) = &stage.pipes[a as usize % stage.pipes.len()];
                let Some(buf) = Buf::try_alloc(1 << (10 + b % 8)) else {
                    return;
                };
                let len = buf.len();
                let _ = file.read_some_at(buf, 0, len, 0).await;
            }),
            1 => Box::pin(async move {
                let (_, writer) = &stage.pipes[a as usize % stage.pipes.len()];
                // Small against the pipe's 64 KiB; the readers of this stage keep up on average,
                // and `Stage::relieve` sees to the rest.
                let _ = writer.borrow_mut().write(&[0xee; 64]);
            }),
            2 => Box::pin(async move {
                let (socket, _) = &stage.sockets[a as usize % stage.sockets.len()];
                let Some(buf) = Buf::try_alloc(8192) else {
                    return;
                };
                let _ = socket.recv(buf, b as usize % 4096).await;
            }),
            3 => Box::pin(async move {
                // Each socket's `recv_ready` belongs to one task at a time: the last socket's.
                let (socket, _) = &stage.sockets[stage.sockets.len() - 1];
                let _ = poll_once(socket.recv_ready()).await;
            }),
            4 => Box::pin(async move {
                let (_, far) = &stage.sockets[a as usize % stage.sockets.len()];
                let _ = far.borrow_mut().write(&[0xee; 512]);
            }),
            5 => Box::pin(async move {
                let (socket, far) = &stage.sockets[a as usize % stage.sockets.len()];
                let Some(buf) = Buf::try_alloc(65536) else {
                    return;
                };
                let send = socket.send_all(buf, 0, 65536);
                let _ = rt::timeout(Duration::from_micros(b % 200), send).await;
                let mut sink = [0; 16384];
                while matches!(far.borrow_mut().read(&mut sink), Ok(1..)) {}
            }),
            6 => Box::pin(async move {
                let Some(buf) = Buf::try_alloc(4096 << (a % 5)) else {
                    return;
                };
                let _ = stage.file.read_exact_at(buf, 4096 * (b % 64)).await;
            }),
            7 => Box::pin(async move {
                let Some(mut buf) = Buf::try_alloc(4096 << (a % 5)) else {
                    return;
                };
                buf.fill(0xee);
                let _ = stage.file.write_all_at(buf, 4096 * (b % 64)).await;
            }),
            8 => Box::pin(async move {
                let bufs: Option<Vec<Buf>> = (0..4).map(|_| Buf::try_alloc(8192)).collect();
                let Some(bufs) = bufs else { return };
                let _ = stage
                    .file
                    .write_all_vectored_at(bufs, 4096 * (b % 64))
                    .await;
            }),
            9 => Box::pin(rt::sleep(Duration::from_micros(a % 300))),
            10 => Box::pin(async move {
                // Connecting and accepting, each given up at a random moment.
                let connect = TcpStream::connect(stage.address);
                let _ = rt::timeout(Duration::from_micros(a % 100), connect).await;
                let _ = poll_once(stage.listener.accept()).await;
            }),
            _ => Box::pin(async move {
                let _ = rt::offload(move || a ^ b).await;
            }),
        }
    }

    /// Empties the pipes, so that the writers above never block.
    async fn relieve(&self) {
        for (file, writer) in &self.pipes {
            writer.borrow_mut().write_all(&[0xee]).unwrap();
            let mut buf = Buf::alloc(65536).await;
            loop {
                let (n, back) = file.read_some_at(buf, 0, 65536, 0).await;
                buf = back;
                // Reads of abandoned operations may have taken it; one byte more is then needed.
                if n.unwrap() > 0 {
                    break;
                }
            }
        }
    }
}

/// Runs actions: to their end, dropped after one poll, raced against a timer, or as tasks that are
/// cancelled or left alone.
async fn abuse(stage: Rc<Stage>, random: Rc<RefCell<Random>>, actions: usize) {
    let mut tasks = Vec::new();
    for n in 0..actions {
        let (action, how, time) = {
            let mut random = random.borrow_mut();
            (
                stage.action(&mut random),
                random.below(6),
                random.below(150),
            )
        };
        match how {
            0 => {
                poll_once(action).await;
            }
            1 => {
                let _ = rt::timeout(Duration::from_micros(time), action).await;
            }
            2 => {
                let mut action = action;
                let other = stage.action(&mut random.borrow_mut());
                let mut other = other;
                let race = std::future::poll_fn(|cx| {
                    if action.as_mut().poll(cx).is_ready() || other.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    Poll::Pending
                });
                let _ = rt::timeout(Duration::from_micros(time), race).await;
            }
            3 => {
                let task = rt::spawn(action);
                if time % 2 == 0 {
                    rt::yield_now().await;
                }
                task.cancel();
            }
            4 => tasks.push(rt::spawn(action)),
            _ => drop(rt::spawn(action)),
        }
        if tasks.len() > 16 {
            let victim = random.borrow_mut().below(tasks.len() as u64) as usize;
            tasks.swap_remove(victim).cancel();
        }
        if n % 64 == 63 {
            let _ = rt::timeout(Duration::from_millis(1), stage.relieve()).await;
        }
    }
    // What is left in `tasks` goes on, and is in flight at teardown.
}

#[test]
fn dropped_cancelled_and_raced_operations() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    println!("SEED={seed}");
    let dir = test_dir();
    let random = Rc::new(RefCell::new(Random(seed)));
    let pool = Rc::new(rt::buf::Pool::mapped(config().arena_bytes).unwrap());
    let (mut in_flight, mut direct) = (0, false);
    for round in 0..ROUNDS {
        let reactor = Reactor::with_pool(CoreId(0), &config(), pool.clone()).unwrap();
        let core = reactor.core().clone();
        let far_ends = Rc::new(Cell::new(None));
        {
            let (dir, random, far_ends) = (dir.path().to_owned(), random.clone(), far_ends.clone());
            direct |= reactor.run(async move {
                let stage = Rc::new(Stage::new(&dir).await);
                abuse(stage.clone(), random, ACTIONS / ROUNDS).await;
                // Reads that nothing will ever end but the teardown, into large buffers.
                for (file, _) in &stage.pipes {
                    let file = file.clone();
                    rt::spawn(async move {
                        let Some(buf) = Buf::try_alloc(65536) else {
                            return;
                        };
                        let _ = file.read_some_at(buf, 0, 65536, 0).await;
                    });
                }
                rt::yield_now().await;
                let pipes = stage
                    .pipes
                    .iter()
                    .map(|(_, w)| w.borrow().try_clone().unwrap());
                let sockets = stage
                    .sockets
                    .iter()
                    .map(|(_, f)| f.borrow().try_clone().unwrap());
                far_ends.set(Some((
                    pipes.collect::<Vec<_>>(),
                    sockets.collect::<Vec<_>>(),
                )));
                stage.direct
            });
        }
        in_flight += core.ops_in_flight();
        // The near ends stay open across the teardown, so that late bytes have somewhere to go.
        let (leaked, pool) = reactor.shut_down();
        assert_eq!(
            leaked, 0,
            "round {round}: operations that could not be reaped"
        );
        assert_eq!(
            core.stale_completions(),
            0,
            "round {round}: stale completions"
        );
        assert_eq!(core.ops_live(), 0);

        // Everything must be back, and nothing may change it any more.
        let mut bufs = Vec::new();
        while let Some(mut buf) = pool.try_alloc(1 << 20) {
            buf.fill(CANARY);
            bufs.push(buf);
        }
        let have: usize = bufs.iter().map(|b| b.capacity()).sum();
        assert_eq!(
            have,
            pool.capacity(),
            "round {round}: memory is missing after the teardown"
        );
        let (pipes, sockets) = far_ends.take().unwrap();
        for mut writer in pipes {
            // Fails when nobody holds the reading end any more, which is as good.
            let _ = writer.write(&[0xee; 1024]);
        }
        for mut far in sockets {
            let _ = far.write(&[0xee; 1024]);
        }
        std::thread::sleep(Duration::from_millis(2));
        for buf in &bufs {
            assert!(
                buf.iter().all(|&b| b == CANARY),
                "round {round}: written to after the teardown"
            );
        }
    }
    println!("{ACTIONS} actions, {in_flight} in flight at teardowns, O_DIRECT: {direct}");
    assert!(
        in_flight > ROUNDS,
        "the test must catch operations in flight"
    );
}

#[test]
fn memory_of_dropped_operations_stays_with_the_kernel() {
    // Reads are abandoned and their memory is asked back at once; bytes arrive later. Whatever
    // buffer the caller holds then must keep its contents.
    let reactor = Reactor::new(CoreId(0), &config()).unwrap();
    reactor.run(async {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let file = File::from_fd(OwnedFd::from(reader));
        for round in 0..200 {
            for _ in 0..8 {
                let buf = Buf::try_alloc(65536).unwrap();
                poll_once(file.read_some_at(buf, 0, 65536, 0)).await;
            }
            let mut held = Vec::new();
            while let Some(mut buf) = Buf::try_alloc(65536) {
                buf.fill(CANARY);
                held.push(buf);
            }
            writer.write_all(&[0xee; 256]).unwrap();
            if round % 2 == 0 {
                rt::sleep(Duration::from_micros(50)).await;
            }
            rt::yield_now().await;
            for buf in &held {
                assert!(buf.iter().all(|&b| b == CANARY), "round {round}");
            }
            drop(held);
            // The abandoned reads may have taken the bytes, or not.
            writer.write_all(b"x").unwrap();
            let buf = Buf::alloc(65536).await;
            assert!(file.read_some_at(buf, 0, 65536, 0).await.0.unwrap() > 0);
        }
    });
    let core = reactor.core().clone();
    assert_eq!(reactor.shut_down().0, 0);
    assert_eq!(core.stale_completions(), 0);
}

#[test]
fn nothing_is_lost_when_recv_ready_is_dropped() {
    let reactor = Reactor::new(CoreId(0), &config()).unwrap();
    reactor.run(async {
        let (near, mut far) = UnixStream::pair().unwrap();
        let stream = TcpStream::from_fd(OwnedFd::from(near));
        const BYTES: usize = 2 << 20;
        let sender = std::thread::spawn(move || {
            let bytes: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
            for part in bytes.chunks(3000) {
                far.write_all(part).unwrap();
            }
        });
        let mut random = Random(7);
        let mut at = 0;
        let mut drops = 0;
        loop {
            let wait = Duration::from_micros(random.below(30));
            if random.below(4) == 0 {
                // A receive of the other kind in between, into little room.
                let (n, buf) = stream.recv(Buf::alloc(8192).await, 8000).await;
                let n = n.unwrap();
                if n == 0 {
                    break;
                }
                for &byte in &{
                    let mut b = buf;
                    b.set_len(8192);
                    b
                }[8000..8000 + n]
                {
                    assert_eq!(byte, (at % 251) as u8, "at {at}");
                    at += 1;
                }
                continue;
            }
            match rt::timeout(wait, stream.recv_ready()).await {
                Ok(got) => {
                    let got = got.unwrap();
                    if got.is_empty() {
                        break;
                    }
                    for &byte in got.iter() {
                        assert_eq!(byte, (at % 251) as u8, "at {at}");
                        at += 1;
                    }
                }
                Err(rt::Elapsed) => drops += 1,
            }
        }
        assert_eq!(at, BYTES);
        sender.join().unwrap();
        println!("{drops} receives dropped");
    });
}
