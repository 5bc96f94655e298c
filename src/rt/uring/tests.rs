//! The handles over a real ring.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::rt::fault::{self, Effect, FaultOp, Rule};
use crate::rt::net::Claim;
use crate::rt::{
    File, OpenOptions, TcpListener, TcpStream, fs, mesh, now, offload, sleep, spawn, timeout,
};

fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let reactor = Reactor::new(CoreId(0), &Config::small()).unwrap();
    let value = reactor.run(main);
    let core = reactor.core().clone();
    let (leaked, pool) = reactor.shut_down();
    assert_eq!((leaked, core.stale_completions()), (0, 0));
    pool.collect();
    assert_eq!(pool.free_bytes(), pool.capacity(), "all memory is back");
    value
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}

fn pattern(buf: &mut [u8], seed: usize) {
    for (i, b) in buf.iter_mut().enumerate() {
        *b = ((i + seed) % 251) as u8;
    }
}

const READ_WRITE: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: true,
    create_new: false,
    direct: false,
};

#[test]
fn files_read_back_what_was_written() {
    let (_guard, dir) = dir();
    run(async move {
        let path = dir.join("f");
        let direct = OpenOptions {
            direct: true,
            ..READ_WRITE
        };
        let file = match File::open(&path, direct).await {
            Ok(file) => file,
            // tmpfs has no O_DIRECT.
            Err(_) => File::open(&path, READ_WRITE).await.unwrap(),
        };
        file.allocate(1 << 20).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 1 << 20);
        let mut buf = Buf::alloc(64 << 10).await;
        pattern(&mut buf, 3);
        let (result, buf) = file.write_all_at(buf, 8192).await;
        result.unwrap();
        // Scattered in memory: every other buffer of a row, and one of the allocator.
        let mut bufs = Vec::new();
        for n in 0..6 {
            let mut buf = Buf::alloc(8192).await;
            let hole = Buf::alloc(8192).await;
            pattern(&mut buf, n);
            bufs.push(buf);
            drop(hole);
        }
        bufs.push(Buf::heap(4096));
        // Neighbours in memory: one piece for the kernel.
        let mut row = Vec::new();
        for n in 0..4 {
            let mut buf = Buf::alloc(8192).await;
            pattern(&mut buf, n + 50);
            row.push(buf);
        }
        file.write_all_vectored_at(bufs, 128 << 10).await.0.unwrap();
        file.write_all_vectored_at(row, 256 << 10).await.0.unwrap();
        file.sync_data().await.unwrap();
        file.sync_all().await.unwrap();

        let (result, back) = file.read_exact_at(Buf::alloc(64 << 10).await, 8192).await;
        result.unwrap();
        assert!(back[..] == buf[..]);
        for (base, seed, count) in [(128 << 10, 0, 6), (256 << 10, 50, 4)] {
            for n in 0..count {
                let buf = Buf::alloc(8192).await;
                let (result, back) = file.read_exact_at(buf, base + n as u64 * 8192).await;
                result.unwrap();
                let mut expected = vec![0; 8192];
                pattern(&mut expected, n + seed);
                assert!(back[..] == expected[..], "{base} {n}");
            }
        }
        let end = file
            .read_exact_at(Buf::alloc(8192).await, (1 << 20) - 4096)
            .await
            .0;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn more_buffers_than_one_call_takes() {
    let (_guard, dir) = dir();
    run(async move {
        let file = File::open(&dir.join("f"), READ_WRITE).await.unwrap();
        let mut bufs = Vec::new();
        for n in 0..VECTOR_MAX + 10 {
            let mut buf = Buf::heap(16);
            buf.fill(n as u8);
            bufs.push(buf);
        }
        let total = bufs.len() * 16;
        let (result, bufs) = file.write_all_vectored_at(bufs, 0).await;
        result.unwrap();
        let (result, back) = file.read_exact_at(Buf::alloc(total).await, 0).await;
        result.unwrap();
        let expected: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        assert!(back[..] == expected[..]);
    });
}

#[test]
fn directories_and_small_files() {
    let (_guard, dir) = dir();
    run(async move {
        let sub = dir.join("sub");
        fs::create_dir(&sub).await.unwrap();
        assert_eq!(
            fs::create_dir(&sub).await.unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        let text: Vec<u8> = (0..200_000).map(|i| (i % 13) as u8).collect();
        for name in ["b", "c", "a"] {
            fs::write_file_atomic(&sub.join(name), &text).await.unwrap();
        }
        fs::write_file_atomic(&sub.join("b"), b"new").await.unwrap();
        assert_eq!(fs::read_dir(&sub).await.unwrap(), ["a", "b", "c"]);
        assert_eq!(fs::read_file(&sub.join("b"), 100).await.unwrap(), b"new");
        assert!(fs::read_file(&sub.join("c"), 1 << 20).await.unwrap() == text);
        let large = fs::read_file(&sub.join("c"), 100).await.unwrap_err();
        assert_eq!(large.kind(), io::ErrorKind::InvalidData);
        fs::rename(&sub.join("a"), &sub.join("d")).await.unwrap();
        fs::remove_file(&sub.join("b")).await.unwrap();
        fs::sync_dir(&sub).await.unwrap();
        assert!(!fs::exists(&sub.join("a")).await.unwrap());
        assert!(fs::exists(&sub.join("d")).await.unwrap());
        assert!(fs::free_bytes(&sub).await.unwrap() > 0);
        let absent = fs::read_file(&sub.join("a"), 100).await.unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    });
}

async fn pair() -> (TcpStream, TcpStream) {
    let claim = Claim::new("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = claim.address();
    let listener = TcpListener::from_claim(claim);
    let near = spawn(async move { TcpStream::connect(address).await.unwrap() });
    let (far, peer) = listener.accept().await.unwrap();
    let near = near.await;
    assert_eq!(near.local_address().unwrap(), peer);
    (near, far)
}

#[test]
fn tcp_carries_bytes_both_ways() {
    run(async {
        let (near, far) = pair().await;
        const ROUNDS: usize = 40;
        let echo = spawn(async move {
            let mut total = 0;
            loop {
                let buf = far.recv_ready().await.unwrap();
                if buf.is_empty() {
                    break;
                }
                total += buf.len();
                let len = buf.len();
                far.send_all(buf, 0, len).await.0.unwrap();
            }
            total
        });
        let reader = spawn({
            let near = near.clone();
            async move {
                let mut at = 0;
                loop {
                    let (n, mut buf) = near.recv(Buf::alloc(32 << 10).await, 100).await;
                    let n = n.unwrap();
                    if n == 0 {
                        break at;
                    }
                    buf.set_len(100 + n);
                    for &b in &buf[100..] {
                        assert_eq!(b, (at % 100_000 % 251) as u8, "at {at}");
                        at += 1;
                    }
                }
            }
        });
        for _ in 0..ROUNDS {
            let mut whole = vec![0; 100_000];
            pattern(&mut whole, 0);
            let mut bufs = Vec::new();
            for part in whole.chunks(7_000) {
                let mut buf = Buf::alloc(part.len()).await;
                buf.copy_from_slice(part);
                bufs.push(buf);
            }
            near.send_all_vectored(bufs).await.unwrap();
        }
        near.shutdown_write();
        assert_eq!(echo.await, ROUNDS * 100_000);
        assert_eq!(reader.await, ROUNDS * 100_000);
    });
}

#[test]
fn many_connections_wait_without_memory_and_survive_a_dry_pool() {
    run(async {
        let claim = Claim::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = claim.address();
        let listener = TcpListener::from_claim(claim);
        // More than the ring has buffers.
        const COUNT: usize = 100;
        let mut near = Vec::new();
        let mut far = Vec::new();
        for _ in 0..COUNT {
            let connect = spawn(TcpStream::connect(address));
            far.push(listener.accept().await.unwrap().0);
            near.push(connect.await.unwrap());
        }
        let mut got = Vec::new();
        for stream in far {
            got.push(spawn(async move { stream.recv_ready().await.unwrap() }));
        }
        crate::rt::yield_now().await;
        // Nothing is left when the bytes arrive.
        let mut all = Vec::new();
        while let Some(buf) = Buf::try_alloc(8192) {
            all.push(buf);
        }
        for (n, stream) in near.iter().enumerate() {
            let mut buf = Buf::heap(100);
            buf.fill(n as u8);
            stream.send_all(buf, 0, 100).await.0.unwrap();
        }
        sleep(Duration::from_millis(20)).await;
        let done = got.iter().filter(|t| t.is_done()).count();
        assert_eq!(
            done,
            usize::from(Config::small().picked_buffers),
            "each holds one buffer"
        );
        drop(all);
        for (n, task) in got.into_iter().enumerate() {
            let buf = timeout(Duration::from_secs(5), task)
                .await
                .expect("buffers are back");
            assert_eq!((buf.len(), buf[0]), (100, n as u8));
        }
    });
}

#[test]
fn the_address_of_another_server_is_refused() {
    run(async {
        let claim = Claim::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = claim.address();
        // Our own cores may join, another server (which claims first) not.
        let second = TcpListener::bind(address).unwrap();
        assert_eq!(
            Claim::new(address).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop((claim, second));
        Claim::new(address).unwrap();
    });
}

#[test]
fn accepting_pauses_when_nobody_takes() {
    run(async {
        let claim = Claim::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = claim.address();
        let listener = TcpListener::from_claim(claim);
        // Armed by the first call.
        assert!(
            timeout(Duration::from_millis(1), listener.accept())
                .await
                .is_err()
        );
        const COUNT: usize = ACCEPTED_MAX + 40;
        let mut streams = Vec::new();
        for _ in 0..COUNT {
            streams.push(TcpStream::connect(address).await.unwrap());
        }
        for n in 0..COUNT {
            let next = timeout(Duration::from_secs(5), listener.accept()).await;
            next.unwrap_or_else(|_| panic!("connection {n} never came"))
                .unwrap();
        }
    });
}

#[test]
fn sleeps_last_as_long_as_asked() {
    run(async {
        let start = now();
        let late = spawn(async move {
            sleep(Duration::from_millis(30)).await;
            start.elapsed()
        });
        sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() >= Duration::from_millis(10));
        assert!(!late.is_done());
        let elapsed = late.await;
        assert!(elapsed >= Duration::from_millis(30));
        assert!(elapsed < Duration::from_secs(5));
    });
}

#[test]
fn offloaded_calls_return_values_and_panics() {
    run(async {
        let calls: Vec<_> = (0..200).map(|n| spawn(offload(move || n * 2))).collect();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await, n * 2);
        }
    });
    let panic = std::panic::catch_unwind(|| run(async { offload(|| panic!("on purpose")).await }));
    assert_eq!(
        panic.unwrap_err().downcast_ref::<&str>(),
        Some(&"on purpose")
    );
}

#[test]
fn a_full_submission_queue_loses_nothing() {
    let config = Config {
        entries: 4,
        ..Config::small()
    };
    let reactor = Reactor::new(CoreId(0), &config).unwrap();
    reactor.run(async {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let file = File::from_fd(reader.into());
        let reads: Vec<_> = (0..300)
            .map(|_| {
                let file = file.clone();
                spawn(async move { file.read_some_at(Buf::heap(1), 0, 1, 0).await.0.unwrap() })
            })
            .collect();
        crate::rt::yield_now().await;
        // Abandon half: as many cancels as operations.
        let mut rest = Vec::new();
        for (n, read) in reads.into_iter().enumerate() {
            if n % 2 == 0 {
                read.cancel()
            } else {
                rest.push(read)
            }
        }
        crate::rt::yield_now().await;
        sleep(Duration::from_millis(5)).await;
        std::io::Write::write_all(&mut writer, &[1; 300]).unwrap();
        for read in rest {
            assert_eq!(timeout(Duration::from_secs(5), read).await, Ok(1));
        }
    });
    let core = reactor.core().clone();
    assert_eq!(reactor.shut_down().0, 0);
    assert_eq!(core.stale_completions(), 0);
}

#[test]
fn cores_talk_and_buffers_come_home() {
    for msg_ring in [true, false] {
        let mailboxes = mesh::<Buf>(2, 4);
        let config = Config {
            msg_ring,
            ..Config::small()
        };
        let threads: Vec<_> = mailboxes
            .into_iter()
            .map(|mailbox| {
                let id = mailbox.id();
                spawn_core(id, None, config.clone(), move || async move {
                    const ROUNDS: usize = 2_000;
                    let other = CoreId(1 - mailbox.id().0);
                    for n in 0..ROUNDS {
                        if mailbox.id() == CoreId(0) {
                            let mut buf = Buf::alloc(8192).await;
                            buf.fill(n as u8);
                            mailbox.send(other, buf).await;
                        }
                        let (from, buf) = mailbox.recv().await;
                        assert_eq!((from, buf[0], buf[8191]), (other, n as u8, n as u8));
                        if mailbox.id() == CoreId(1) {
                            // Now and then asleep, now and then awake, when the answer is due.
                            if n % 100 == 0 {
                                sleep(Duration::from_millis(1)).await;
                            }
                            let mut answer = Buf::alloc(8192).await;
                            answer.copy_from_slice(&buf);
                            mailbox.send(other, answer).await;
                        }
                    }
                })
                .unwrap()
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn cores_start_where_they_are_told() {
    let cpus = crate::rt::available_cpus().unwrap();
    let config = Config::small();
    let threads = spawn_cores(2, &cpus, &config, |id| async move {
        assert_eq!(crate::rt::core_id(), id);
        crate::rt::available_cpus().unwrap()
    })
    .unwrap();
    for (n, thread) in threads.into_iter().enumerate() {
        assert_eq!(thread.join().unwrap(), [cpus[n % cpus.len()]]);
    }
    let wrong = spawn_core(CoreId(0), Some(usize::MAX), config, || async {});
    assert!(wrong.is_err());
}

#[test]
fn the_kernel_is_probed() {
    let features = probe().unwrap();
    assert!(features.kernel >= (6, 1));
    run(async {
        let features = super::features().unwrap();
        assert!(features.missing.iter().all(|line| !line.contains('\n')));
    });
}

#[test]
fn random_bytes_differ() {
    run(async {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(crate::rt::random_u64()));
        }
        let mut long = vec![0; 5000];
        crate::rt::fill_random(&mut long);
        assert!(long.chunks(500).all(|c| c.iter().any(|&b| b != 0)));
    });
}

async fn faulty(dir: &Path, rule: impl FnOnce(PathBuf) -> Rule) -> (File, PathBuf) {
    let path = dir.join("f");
    let file = File::open(&path, READ_WRITE).await.unwrap();
    let buf = Buf::alloc(32 << 10).await;
    let mut zero = buf;
    zero.fill(0);
    file.write_all_at(zero, 0).await.0.unwrap();
    fault::add(rule(path.clone()));
    (file, path)
}

#[test]
fn faults_strike_the_paths_they_are_set_for() {
    let (_guard, dir) = dir();
    run(async move {
        let ones = || async {
            let mut buf = Buf::alloc(32 << 10).await;
            buf.fill(1);
            buf
        };
        let content = |file: File| async move {
            let (result, buf) = file.read_exact_at(Buf::alloc(32 << 10).await, 0).await;
            result.unwrap();
            buf
        };

        // A torn write: the first sectors, then an error.
        let (file, path) = faulty(&dir, |p| {
            Rule::new(p, FaultOp::Write, Effect::Torn { sectors: 3 })
        })
        .await;
        let (result, buf) = file.write_all_at(ones().await, 0).await;
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        drop(buf);
        fault::clear(&path);
        let now_there = content(file.clone()).await;
        assert!(now_there[..1536].iter().all(|&b| b == 1));
        assert!(now_there[1536..].iter().all(|&b| b == 0));

        // The same for a vectored one, torn within its second buffer.
        let (file, path) = faulty(&dir, |p| {
            Rule::new(p, FaultOp::Write, Effect::Torn { sectors: 20 })
        })
        .await;
        let bufs = (0..4).map(|_| {
            let mut buf = Buf::try_alloc(8192).unwrap();
            buf.fill(1);
            buf
        });
        let (result, bufs) = file.write_all_vectored_at(bufs.collect(), 0).await;
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(bufs.len(), 4);
        fault::clear(&path);
        let now_there = content(file.clone()).await;
        assert!(now_there[..10240].iter().all(|&b| b == 1));
        assert!(now_there[10240..].iter().all(|&b| b == 0));

        // Short transfers are continued.
        let (file, path) = faulty(&dir, |p| Rule {
            ops: vec![FaultOp::Read, FaultOp::Write],
            ..Rule::new(p, FaultOp::Read, Effect::Short)
        })
        .await;
        file.write_all_at(ones().await, 0).await.0.unwrap();
        assert!(content(file.clone()).await.iter().all(|&b| b == 1));
        let bufs = (0..4).map(|_| {
            let mut buf = Buf::try_alloc(8192).unwrap();
            buf.fill(2);
            buf
        });
        file.write_all_vectored_at(bufs.collect(), 0)
            .await
            .0
            .unwrap();
        assert!(content(file.clone()).await.iter().all(|&b| b == 2));
        fault::clear(&path);

        // Errors and delays of the other calls.
        let (file, path) = faulty(&dir, |p| {
            Rule::new(p, FaultOp::Sync, Effect::Error(libc::EIO)).times(1)
        })
        .await;
        assert!(file.sync_data().await.is_err());
        file.sync_data().await.unwrap();
        fault::clear(&path);
        let (file, path) = faulty(&dir, |p| {
            Rule::new(p, FaultOp::Allocate, Effect::Error(libc::ENOSPC))
        })
        .await;
        assert_eq!(
            file.allocate(1 << 20).await.unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        fault::clear(&path);
        let slow = Effect::Slow(Duration::from_millis(15));
        let (file, path) = faulty(&dir, |p| Rule::new(p, FaultOp::Read, slow)).await;
        let start = now();
        content(file).await;
        assert!(start.elapsed() >= Duration::from_millis(15));
        fault::clear(&path);
    });
}

#[test]
fn a_reactor_is_torn_down_with_everything_in_flight() {
    let reactor = Reactor::new(CoreId(0), &Config::small()).unwrap();
    let kept = reactor.run(async {
        let (near, far) = pair().await;
        for stream in [near.clone(), far] {
            drop(spawn(async move { drop(stream.recv_ready().await) }));
        }
        drop(spawn({
            let near = near.clone();
            async move { drop(near.recv(Buf::alloc(8192).await, 0).await) }
        }));
        drop(spawn(async {
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            drop(listener.accept().await);
        }));
        drop(spawn(sleep(Duration::from_secs(1000))));
        drop(spawn(offload(|| {
            std::thread::sleep(Duration::from_millis(5))
        })));
        crate::rt::yield_now().await;
        crate::rt::yield_now().await;
        near
    });
    let core: Rc<Core> = reactor.core().clone();
    assert!(core.ops_in_flight() > 2);
    assert_eq!(reactor.shut_down().0, 0);
    assert_eq!((core.ops_live(), core.stale_completions()), (0, 0));
    // A handle that outlives its core is refused, not undefined.
    drop(kept);
}
