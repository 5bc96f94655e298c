//! The world as a test sees it, over the handles that production code uses.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::rt::{
    self, Buf, CoreId, File, Instant, Mailbox, OpenOptions, fs, mesh, offload, sleep, spawn,
};

const C0: CoreId = CoreId(0);
const SECTOR: usize = 512;
const DATA: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: true,
    create_new: false,
    direct: true,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn world(seed: u64, plan: FaultPlan) -> (World, NodeId, DriveId) {
    let world = World::new(seed);
    let node = world.add_node(2);
    let drive = world.add_drive(node, "/data", plan);
    (world, node, drive)
}

fn buf(byte: u8, len: usize) -> Buf {
    let mut buf = Buf::try_alloc(len).expect("the pool has room");
    buf.fill(byte);
    buf
}

async fn write(file: &File, byte: u8, len: usize, at: u64) -> io::Result<()> {
    file.write_all_at(buf(byte, len), at).await.0
}

async fn read(file: &File, len: usize, at: u64) -> io::Result<Vec<u8>> {
    let (result, buf) = file.read_exact_at(buf(0xEE, len), at).await;
    result.map(|()| buf.to_vec())
}

async fn file(name: &str) -> File {
    File::open(Path::new(name), DATA).await.expect("opens")
}

/// A durable file of `len` bytes 'a'.
async fn durable(name: &str, len: usize) -> File {
    let f = file(name).await;
    write(&f, b'a', len, 0).await.expect("writes");
    f.sync_all().await.expect("syncs");
    fs::sync_dir(Path::new("/data")).await.expect("syncs");
    f
}

fn errno(e: io::Error) -> i32 {
    e.raw_os_error().expect("an error of the system")
}

// ------------------------------------------------------------- time, cores ----

#[test]
fn virtual_hours_pass_in_order_and_cost_nothing() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let order = Rc::new(RefCell::new(Vec::new()));
    for (i, core) in [(3u64, 0), (1, 1), (2, 0)] {
        let order = order.clone();
        world.spawn_on(node, CoreId(core), async move {
            let start = rt::now();
            sleep(Duration::from_secs(3_600 * i)).await;
            let slept = rt::now().saturating_since(start);
            assert!(slept >= Duration::from_secs(3_600 * i));
            assert!(slept < Duration::from_secs(3_600 * i) + ms(10));
            order.borrow_mut().push(i);
        });
    }
    assert_eq!(world.run_for(Duration::from_secs(86_400)), Stop::Idle);
    assert_eq!(*order.borrow(), [1, 2, 3]);
}

#[test]
fn a_run_ends_at_its_deadline_or_when_nothing_can_happen() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let task = world.spawn_on(node, C0, async { sleep(ms(50)).await });
    assert_eq!(world.run_for(ms(10)), Stop::Deadline);
    assert_eq!(world.now(), ms(10));
    assert_eq!(world.run_until(ms(100), || task.is_done()), Stop::Done);
    let stuck = world.run_on(node, C0, std::future::pending::<()>());
    assert_eq!(stuck, Err(Stop::Idle));
}

#[test]
fn a_task_that_spins_lets_time_pass() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let spins = world
        .run_on(node, C0, async {
            let until = rt::now() + ms(1);
            let mut spins = 0u32;
            while rt::now() < until {
                rt::yield_now().await;
                spins += 1;
            }
            spins
        })
        .unwrap();
    assert!((500..10_000).contains(&spins), "{spins}");
}

#[test]
fn cores_know_their_numbers_and_mail_takes_a_while() {
    let (world, node, _) = world(5, FaultPlan::healthy());
    let mut ends = mesh::<Instant>(2, 4);
    let (b, a) = (ends.pop().unwrap(), ends.pop().unwrap());
    let delays = Rc::new(RefCell::new(Vec::new()));
    let task = world.spawn_on(node, CoreId(1), {
        let delays = delays.clone();
        async move {
            assert_eq!(rt::core_id(), CoreId(1));
            for _ in 0..50 {
                let (from, sent) = b.recv().await;
                assert_eq!(from, C0);
                delays.borrow_mut().push(rt::now().saturating_since(sent));
            }
        }
    });
    world.spawn_on(node, C0, async move {
        assert_eq!(rt::core_id(), C0);
        for _ in 0..50 {
            a.send(CoreId(1), rt::now()).await;
            sleep(ms(1)).await;
        }
    });
    assert_eq!(world.run_until(ms(1_000), || task.is_done()), Stop::Done);
    let delays: BTreeSet<_> = delays.borrow().iter().copied().collect();
    assert!(delays.len() > 40, "delays vary");
    assert!(delays.iter().all(|d| *d > Duration::ZERO && *d < ms(5)));
}

#[test]
fn offloaded_calls_take_time_and_run_in_line() {
    let (world, node, _) = world(2, FaultPlan::healthy());
    let took = world
        .run_on(node, C0, async {
            let start = rt::now();
            assert_eq!(offload(|| 7).await, 7);
            rt::now().saturating_since(start)
        })
        .unwrap();
    assert!(
        took >= Duration::from_micros(20) && took < ms(10),
        "{took:?}"
    );
}

#[test]
fn the_wall_clock_jumps_and_the_monotonic_one_does_not() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let look = || {
        world
            .run_on(node, C0, async { (rt::unix_ms(), rt::now()) })
            .unwrap()
    };
    let (unix, now) = look();
    world.jump_unix_ms(node, -5_000);
    let (unix_back, now_on) = look();
    assert!((unix - 5_000..unix - 4_990).contains(&unix_back));
    assert!(now_on > now && now_on.saturating_since(now) < ms(10));
}

// ---------------------------------------------------------------- failures ----

#[test]
fn a_cut_drops_tasks_where_they_stand() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let reached = Rc::new(Cell::new(0));
    let dropped = Rc::new(Cell::new(0));
    struct Guard(Rc<Cell<u32>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    for core in [0, 1] {
        let (reached, guard) = (reached.clone(), Guard(dropped.clone()));
        world.spawn_on(node, CoreId(core), async move {
            let _guard = guard;
            reached.set(reached.get() + 1);
            let inner = reached.clone();
            spawn(async move {
                sleep(ms(10)).await;
                inner.set(100);
            });
            sleep(ms(10)).await;
            reached.set(100);
        });
    }
    world.run_for(ms(5));
    world.power_cut(node, None);
    assert_eq!((reached.get(), dropped.get()), (2, 2));
    assert!(!world.is_up(node));
    assert_eq!(world.run_for(ms(100)), Stop::Idle);
    world.restart(node);
    assert_eq!(world.run_for(ms(100)), Stop::Idle);
    assert_eq!(reached.get(), 2);
}

#[test]
fn a_restart_boots_another_monotonic_clock() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let before = world.run_on(node, C0, async { rt::now() }).unwrap();
    world.kill(node);
    world.restart(node);
    let after = world.run_on(node, C0, async { rt::now() }).unwrap();
    let apart = after.saturating_since(before) + before.saturating_since(after);
    assert!(apart > ms(10), "{before:?} {after:?}");
}

#[test]
fn a_cut_keeps_what_was_synced_and_a_crash_what_was_written() {
    for (failure, want) in [
        (Failure::PowerCut(Some(CutMode::LoseAll)), "ba"),
        (Failure::Crash, "bc"),
    ] {
        let (world, node, _) = world(3, FaultPlan::healthy());
        world
            .run_on(node, C0, async {
                let f = durable("/data/f", 2 * SECTOR).await;
                write(&f, b'b', SECTOR, 0).await.unwrap();
                f.sync_data().await.unwrap();
                write(&f, b'c', SECTOR, SECTOR as u64).await.unwrap();
            })
            .unwrap();
        match failure {
            Failure::PowerCut(mode) => world.power_cut(node, mode),
            Failure::Crash => world.kill(node),
        }
        world.restart(node);
        let got = world
            .run_on(node, C0, async {
                let f = file("/data/f").await;
                read(&f, 2 * SECTOR, 0).await.unwrap()
            })
            .unwrap();
        let letters: Vec<u8> = got.iter().step_by(SECTOR).copied().collect();
        assert_eq!(letters, want.as_bytes(), "{failure:?}");
    }
}

#[test]
fn one_nodes_failure_leaves_the_others_alone() {
    let (world, a, _) = world(3, FaultPlan::healthy());
    let b = world.add_node(1);
    world.add_drive(b, "/data", FaultPlan::healthy());
    let f = world.run_on(b, C0, durable("/data/f", SECTOR)).unwrap();
    let ticks = Rc::new(Cell::new(0));
    world.spawn_on(b, C0, {
        let ticks = ticks.clone();
        async move {
            loop {
                sleep(ms(1)).await;
                write(&f, b'b', SECTOR, 0).await.unwrap();
                ticks.set(ticks.get() + 1);
            }
        }
    });
    world.run_for(ms(10));
    world.power_cut(a, None);
    let before = ticks.get();
    world.run_for(ms(10));
    assert!(before > 0 && ticks.get() > before + 5);
    // Namespaces are apart, too.
    world.restart(a);
    let there = world
        .run_on(a, C0, fs::exists(Path::new("/data/f")))
        .unwrap();
    assert!(!there.unwrap());
}

#[test]
fn a_write_under_way_at_the_cut_may_land_whole_torn_or_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let (world, node, _) = world(seed, FaultPlan::healthy());
        let f = world
            .run_on(node, C0, durable("/data/f", 2 * SECTOR))
            .unwrap();
        let next = world.ops(node);
        world.cut_at(node, next, Point::Middle, None);
        let stop = world.run_on(
            node,
            C0,
            async move { write(&f, b'b', 2 * SECTOR, 0).await },
        );
        assert_eq!(stop.unwrap_err(), Stop::Failed(node));
        world.restart(node);
        let got = world
            .run_on(node, C0, async {
                let f = file("/data/f").await;
                read(&f, 2 * SECTOR, 0).await.unwrap()
            })
            .unwrap();
        seen.insert([got[0], got[SECTOR]]);
    }
    assert_eq!(seen, BTreeSet::from([*b"aa", *b"ab", *b"ba", *b"bb"]));
}

/// Replaces a small file the right way; `sync` and `sync_dir` can be left out to see it go wrong.
async fn replace(byte: u8, sync: bool, sync_dir: bool) -> io::Result<()> {
    let (tmp, name) = (Path::new("/data/tmp"), Path::new("/data/f"));
    let f = File::open(
        tmp,
        OpenOptions {
            create_new: true,
            ..DATA
        },
    )
    .await?;
    write(&f, byte, 2 * SECTOR, 0).await?;
    if sync {
        f.sync_all().await?;
    }
    fs::rename(tmp, name).await?;
    if sync_dir {
        fs::sync_dir(Path::new("/data")).await?;
    }
    Ok(())
}

/// Cuts power at every point of every operation of `replace` and tells what was found after it:
/// whether it had returned, and the file.
fn replaced(sync: bool, sync_dir: bool) -> BTreeSet<(bool, String)> {
    let base = |seed| {
        let (world, node, _) = world(seed, FaultPlan::healthy());
        world
            .run_on(node, C0, durable("/data/f", 2 * SECTOR))
            .unwrap();
        (world, node)
    };
    let mut found = BTreeSet::new();
    for seed in 0..20 {
        let (world, node) = base(seed);
        let first = world.ops(node);
        world
            .run_on(node, C0, replace(b'b', sync, sync_dir))
            .unwrap()
            .unwrap();
        let last = world.ops(node);
        drop(world);
        // One number beyond the last stands for a cut right after `replace` returned.
        for number in first..=last {
            for point in Point::ALL {
                let (world, node) = base(seed);
                world.cut_at(node, number, point, None);
                let returned = world
                    .run_on(node, C0, replace(b'b', sync, sync_dir))
                    .is_ok();
                if returned {
                    assert_eq!(number, last);
                    world.power_cut(node, None);
                }
                world.restart(node);
                let text = world
                    .run_on(node, C0, async {
                        let f = file("/data/f").await;
                        let len = f.len().await.unwrap() as usize;
                        let bytes = read(&f, len, 0).await.unwrap();
                        bytes
                            .iter()
                            .step_by(SECTOR)
                            .map(|&b| char::from(b.max(b'0')))
                            .collect()
                    })
                    .unwrap();
                found.insert((returned, text));
            }
        }
    }
    found
}

#[test]
fn cuts_at_every_operation_find_old_or_new_and_the_missing_sync() {
    let owned = |(returned, text): (bool, &str)| (returned, text.to_string());
    let right = replaced(true, true);
    let want: BTreeSet<_> = [(false, "aa"), (false, "bb"), (true, "bb")]
        .map(owned)
        .into();
    assert_eq!(right, want);
    // Without the directory's sync the answer is worth nothing.
    assert!(replaced(true, false).contains(&owned((true, "aa"))));
    // Without the file's sync the new name may have old or no bytes.
    let torn = replaced(false, true);
    for text in ["", "b0", "00"] {
        assert!(torn.contains(&owned((true, text))), "{text} in {torn:?}");
    }
}

#[test]
fn the_three_points_of_a_sync_differ() {
    let outcome = |point, seed| {
        let (world, node, _) = world(seed, FaultPlan::healthy());
        let f = world.run_on(node, C0, durable("/data/f", SECTOR)).unwrap();
        let next = world.ops(node);
        world.cut_at(node, next + 1, point, Some(CutMode::LoseAll));
        let stop = world.run_on(node, C0, async move {
            write(&f, b'b', SECTOR, 0).await.unwrap();
            f.sync_data().await
        });
        assert_eq!(stop.unwrap_err(), Stop::Failed(node));
        world.restart(node);
        world
            .run_on(node, C0, async {
                read(&file("/data/f").await, SECTOR, 0).await
            })
            .unwrap_or_else(|s| panic!("{s:?}"))
            .map(|b| b[0])
    };
    for seed in 0..20 {
        assert_eq!(outcome(Point::Before, seed).unwrap(), b'a');
        assert_eq!(outcome(Point::Middle, seed).unwrap(), b'a');
        assert_eq!(outcome(Point::After, seed).unwrap(), b'b');
    }
}

#[test]
fn a_sync_does_not_cover_a_write_that_completes_while_it_runs() {
    let plan = FaultPlan {
        sync_latency: ms(10)..=ms(11),
        ..FaultPlan::healthy()
    };
    let (world, node, _) = world(1, plan);
    world
        .run_on(node, C0, async {
            let f = durable("/data/f", 2 * SECTOR).await;
            write(&f, b'b', SECTOR, 0).await.unwrap();
            let syncing = f.clone();
            let sync = spawn(async move { syncing.sync_data().await });
            rt::yield_now().await;
            write(&f, b'c', SECTOR, SECTOR as u64).await.unwrap();
            assert!(!sync.is_done());
            sync.await.unwrap();
        })
        .unwrap();
    world.power_cut(node, Some(CutMode::LoseAll));
    world.restart(node);
    let got = world.run_on(node, C0, async {
        read(&file("/data/f").await, 2 * SECTOR, 0).await.unwrap()
    });
    let got = got.unwrap();
    assert_eq!((got[0], got[SECTOR]), (b'b', b'a'));
}

#[test]
fn after_the_failing_operation_nothing_more_is_done() {
    for seed in 0..20 {
        let (world, node, _) = world(seed, FaultPlan::healthy());
        let f = world
            .run_on(node, C0, durable("/data/f", 2 * SECTOR))
            .unwrap();
        let next = world.ops(node);
        world.cut_at(node, next, Point::Before, Some(CutMode::KeepAll));
        // Both writes are submitted in one poll; the first one's submission is the end.
        let stop = world.run_on(node, C0, async move {
            let first = write(&f, b'b', SECTOR, 0);
            let second = write(&f, b'c', SECTOR, SECTOR as u64);
            futures_util::join!(first, second)
        });
        assert_eq!(stop.unwrap_err(), Stop::Failed(node));
        assert_eq!(world.ops(node), next + 1);
        world.restart(node);
        let got = world.run_on(node, C0, async {
            read(&file("/data/f").await, 2 * SECTOR, 0).await.unwrap()
        });
        assert_eq!(got.unwrap(), [b'a'; 2 * SECTOR]);
    }
}

#[test]
fn an_offloaded_call_never_runs_after_the_cut() {
    static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    use std::sync::atomic::Ordering::SeqCst;
    for (point, runs) in [(Point::Before, 0), (Point::Middle, 0), (Point::After, 1)] {
        RUNS.store(0, SeqCst);
        let (world, node, _) = world(1, FaultPlan::healthy());
        world.cut_at(node, 0, point, None);
        let stop = world.run_on(node, C0, async {
            offload(|| RUNS.fetch_add(1, SeqCst)).await;
        });
        assert_eq!(stop, Err(Stop::Failed(node)));
        world.restart(node);
        world.run_for(ms(100));
        assert_eq!(RUNS.load(SeqCst), runs, "{point:?}");
    }
}

#[test]
fn a_crash_can_strike_at_an_operation_too() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let f = world.run_on(node, C0, durable("/data/f", SECTOR)).unwrap();
    let number = world.ops(node);
    world.fail_at(node, number, Point::After, Failure::Crash);
    let stop = world.run_on(node, C0, async move { write(&f, b'b', SECTOR, 0).await });
    assert_eq!(stop.unwrap_err(), Stop::Failed(node));
    world.restart(node);
    let got = world.run_on(node, C0, async {
        read(&file("/data/f").await, SECTOR, 0).await
    });
    assert_eq!(got.unwrap().unwrap()[0], b'b');
}

// ------------------------------------------------------------------ faults ----

#[test]
fn errors_come_as_the_plan_says() {
    let (world, node, drive) = world(1, FaultPlan::healthy());
    let f = world.run_on(node, C0, durable("/data/f", 4096)).unwrap();
    let try_all = |f: File| {
        let results = world.run_on(node, C0, async move {
            (
                read(&f, 4096, 0).await.map(drop),
                write(&f, b'b', 4096, 0).await,
                f.sync_data().await,
            )
        });
        results.unwrap()
    };
    let healthy = FaultPlan::healthy();
    world.set_plan(
        drive,
        FaultPlan {
            read_error: 1.0,
            ..healthy.clone()
        },
    );
    let (r, w, s) = try_all(f.clone());
    assert!(errno(r.unwrap_err()) == libc::EIO && w.is_ok() && s.is_ok());
    world.set_plan(
        drive,
        FaultPlan {
            write_error: 1.0,
            ..healthy.clone()
        },
    );
    let (r, w, s) = try_all(f.clone());
    assert!(r.is_ok() && errno(w.unwrap_err()) == libc::EIO && s.is_ok());
    world.set_plan(
        drive,
        FaultPlan {
            sync_error: 1.0,
            ..healthy.clone()
        },
    );
    let (r, w, s) = try_all(f.clone());
    assert!(r.is_ok() && w.is_ok() && errno(s.unwrap_err()) == libc::EIO);
    world.set_plan(drive, healthy);
    world.set_dead(drive, true);
    let (r, w, s) = try_all(f.clone());
    assert!(r.is_err() && w.is_err() && s.is_err());
    world.set_dead(drive, false);
    let (r, w, s) = try_all(f);
    assert!(r.is_ok() && w.is_ok() && s.is_ok());
}

#[test]
fn a_write_error_leaves_a_prefix() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let plan = FaultPlan {
            write_error: 1.0,
            ..FaultPlan::healthy()
        };
        let (world, node, drive) = world(seed, FaultPlan::healthy());
        let f = world
            .run_on(node, C0, durable("/data/f", 4 * SECTOR))
            .unwrap();
        world.set_plan(drive, plan);
        let bytes = world.run_on(node, C0, async move {
            write(&f, b'b', 4 * SECTOR, 0).await.unwrap_err();
            read(&f, 4 * SECTOR, 0).await.unwrap()
        });
        seen.insert(
            bytes
                .unwrap()
                .iter()
                .step_by(SECTOR)
                .copied()
                .collect::<Vec<_>>(),
        );
    }
    let want = ["aaaa", "baaa", "bbaa", "bbba"].map(|s| s.as_bytes().to_vec());
    assert_eq!(seen, BTreeSet::from(want));
}

#[test]
fn short_transfers_and_slow_ones_are_borne_by_the_handles() {
    let plan = FaultPlan {
        short: 0.9,
        slow: 0.2,
        ..FaultPlan::healthy()
    };
    let (world, node, _) = world(4, plan);
    world
        .run_on(node, C0, async {
            let f = file("/data/f").await;
            let mut big = buf(0, 64 << 10);
            for (i, byte) in big.iter_mut().enumerate() {
                *byte = (i / SECTOR) as u8;
            }
            let (result, big) = f.write_all_at(big, 0).await;
            result.unwrap();
            let (result, bufs) = f
                .write_all_vectored_at(vec![big, buf(7, 8192)], 64 << 10)
                .await;
            result.unwrap();
            assert_eq!(read(&f, 64 << 10, 0).await.unwrap(), bufs[0].to_vec());
            assert_eq!(
                read(&f, 64 << 10, 64 << 10).await.unwrap(),
                bufs[0].to_vec()
            );
            assert_eq!(read(&f, 8192, 128 << 10).await.unwrap(), [7; 8192]);
            assert_eq!(f.len().await.unwrap(), 136 << 10);
            let end = read(&f, 8192, 132 << 10).await.unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        })
        .unwrap();
}

#[test]
fn a_read_hangs_alone() {
    let (world, node, drive) = world(4, FaultPlan::healthy());
    let f = world.run_on(node, C0, durable("/data/f", 8192)).unwrap();
    let hang = world.hang(drive);
    let by = Duration::from_secs(5);
    let times = world.run_on(node, C0, async move {
        let mut times = Vec::new();
        hang.read(1, by);
        for n in 0..5 {
            if n == 3 {
                hang.read(0, by);
                hang.off();
            }
            let start = rt::now();
            let (result, back) = f.write_all_at(buf(3, 8192), 0).await;
            result.unwrap();
            let wrote = rt::now();
            let (result, _) = f.read_exact_at(back, 0).await;
            result.unwrap();
            times.push((
                wrote.saturating_since(start) >= by,
                rt::now().saturating_since(wrote) >= by,
            ));
        }
        times
    });
    let no = (false, false);
    assert_eq!(times.unwrap(), [no, (false, true), no, no, no]);
}

#[test]
fn short_reads_end_on_a_sector_before_the_end() {
    let (world, node, drive) = world(4, FaultPlan::healthy());
    let f = world.run_on(node, C0, durable("/data/f", 8192)).unwrap();
    let short = FaultPlan {
        short: 1.0,
        ..FaultPlan::healthy()
    };
    world.set_plan(drive, short);
    let counts = world.run_on(node, C0, async move {
        let mut counts = BTreeSet::new();
        for _ in 0..200 {
            let (result, _) = f.read_some_at(buf(0, 8192), 0, 8192, 0).await;
            counts.insert(result.unwrap());
        }
        counts
    });
    let all: BTreeSet<usize> = (1..=16).map(|n| n * SECTOR).collect();
    // A part of no sectors is no short read but a whole one.
    assert_eq!(counts.unwrap(), all);
}

#[test]
fn misdirected_and_lost_writes_say_that_all_is_well() {
    for lost in [false, true] {
        let healthy = FaultPlan::healthy();
        let plan = FaultPlan {
            misdirected: if lost { 0.0 } else { 1.0 },
            lost: if lost { 1.0 } else { 0.0 },
            ..healthy.clone()
        };
        let mut elsewhere = 0;
        for seed in 0..10 {
            let (world, node, drive) = world(seed, healthy.clone());
            let f = world
                .run_on(node, C0, durable("/data/f", 16 * 4096))
                .unwrap();
            world.set_plan(drive, plan.clone());
            let bytes = world.run_on(node, C0, async move {
                write(&f, b'b', 4096, 0).await.unwrap();
                f.sync_data().await.unwrap();
                read(&f, 16 * 4096, 0).await.unwrap()
            });
            let pages: Vec<u8> = bytes.unwrap().iter().step_by(4096).copied().collect();
            elsewhere += pages[1..].iter().filter(|&&b| b == b'b').count();
        }
        // One page in sixteen is the right one, which is no misdirection.
        assert_eq!(elsewhere >= 7, !lost, "{elsewhere} of 10 elsewhere");
    }
}

#[test]
fn a_full_drive_says_so_and_keeps_its_word_about_free_bytes() {
    let plan = FaultPlan {
        capacity: 1 << 20,
        ..FaultPlan::healthy()
    };
    let (world, node, _) = world(1, plan);
    world
        .run_on(node, C0, async {
            let f = file("/data/f").await;
            f.allocate(1 << 19).await.unwrap();
            assert_eq!(fs::free_bytes(Path::new("/data")).await.unwrap(), 1 << 19);
            let full = f.allocate((1 << 20) + 1).await.unwrap_err();
            assert_eq!(errno(full), libc::ENOSPC);
            let full = write(&f, 1, 4096, 1 << 20).await.unwrap_err();
            assert_eq!(errno(full), libc::ENOSPC);
        })
        .unwrap();
}

#[test]
fn a_stalled_drive_answers_late() {
    let (world, node, drive) = world(1, FaultPlan::healthy());
    let f = world.run_on(node, C0, durable("/data/f", SECTOR)).unwrap();
    world.stall(drive, ms(700));
    let took = world.run_on(node, C0, async move {
        let start = rt::now();
        f.sync_data().await.unwrap();
        rt::now().saturating_since(start)
    });
    assert!((ms(690)..ms(750)).contains(&took.unwrap()));
}

#[test]
fn rot_comes_with_time() {
    let (world, node, drive) = world(1, FaultPlan::healthy());
    let f = world
        .run_on(node, C0, durable("/data/f", 256 << 10))
        .unwrap();
    world.run_for(Duration::from_secs(100));
    assert_eq!(world.rotted(drive), 0);
    let rotting = FaultPlan {
        rot_every: Some(Duration::from_secs(10)),
        ..FaultPlan::healthy()
    };
    world.set_plan(drive, rotting);
    let bytes = world.run_on(node, C0, async move {
        read(&f, SECTOR, 0).await.unwrap();
        sleep(Duration::from_secs(200)).await;
        read(&f, 256 << 10, 0).await.unwrap()
    });
    let bad = bytes
        .unwrap()
        .chunks(SECTOR)
        .filter(|s| s.iter().any(|&b| b != b'a'))
        .count();
    assert!((8..40).contains(&bad), "{bad}");
    assert!(world.rotted(drive) >= bad as u64);
}

#[test]
#[should_panic(expected = "O_DIRECT offset")]
fn unaligned_direct_writes_are_bugs() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    let _ = world.run_on(node, C0, async {
        let f = file("/data/f").await;
        write(&f, 1, SECTOR, 100).await
    });
}

#[test]
fn names_above_and_beside_the_drives() {
    let (world, node, _) = world(1, FaultPlan::healthy());
    world.add_drive(node, "/data/inner", FaultPlan::healthy());
    world
        .run_on(node, C0, async {
            assert!(fs::exists(Path::new("/data")).await.unwrap());
            assert!(fs::exists(Path::new("/")).await.unwrap());
            assert!(!fs::exists(Path::new("/elsewhere")).await.unwrap());
            let made = fs::create_dir(Path::new("/data")).await.unwrap_err();
            assert_eq!(made.kind(), io::ErrorKind::AlreadyExists);
            fs::sync_dir(Path::new("/")).await.unwrap();
            let outside = fs::create_dir(Path::new("/elsewhere")).await.unwrap_err();
            assert_eq!(outside.kind(), io::ErrorKind::NotFound);
            fs::create_dir(Path::new("/data/inner/d")).await.unwrap();
            fs::create_dir(Path::new("/data/d")).await.unwrap();
            let names = fs::read_dir(Path::new("/data/inner")).await.unwrap();
            assert_eq!(names, ["d"]);
            let across = fs::rename(Path::new("/data/d"), Path::new("/data/inner/e")).await;
            assert_eq!(errno(across.unwrap_err()), libc::EXDEV);
            let small = Path::new("/data/format");
            fs::write_file_atomic(small, b"hello").await.unwrap();
            assert_eq!(fs::read_file(small, 100).await.unwrap(), b"hello");
            fs::remove_file(small).await.unwrap();
            assert!(!fs::exists(small).await.unwrap());
        })
        .unwrap();
}

// ------------------------------------------------------------------- slots ----

#[derive(Default)]
struct Twin {
    committed: u64,
    cuts: u32,
}

impl Slot for Twin {
    fn power_cut(&mut self, rng: &mut Rng) {
        self.cuts += 1;
        self.committed -= rng.below(2);
    }
}

#[test]
fn a_slot_outlives_its_process_and_hears_of_power_cuts() {
    let path = Path::new("/data/index");
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        let (world, node, _) = world(seed, FaultPlan::healthy());
        let other = world.add_node(1);
        let look = |node| {
            let seen = world.run_on(node, C0, async move {
                let twin = world_slot::<Twin>(path);
                let twin = twin.borrow();
                (twin.committed, twin.cuts)
            });
            seen.unwrap()
        };
        world
            .run_on(node, C0, async move {
                offload(move || world_slot::<Twin>(path).borrow_mut().committed = 8).await
            })
            .unwrap();
        world.kill(node);
        world.restart(node);
        assert_eq!(look(node), (8, 0));
        assert_eq!(look(other), (0, 0), "each node has its own");
        world.power_cut(node, None);
        world.restart(node);
        let (committed, cuts) = look(node);
        assert_eq!(cuts, 1);
        seen.insert(committed);
        let removed = world.run_on(node, C0, async move { world_slot_remove(path) });
        assert!(removed.unwrap());
        assert_eq!(look(node), (0, 0));
    }
    assert_eq!(seen, BTreeSet::from([7, 8]), "the choice is seeded");
}

// ------------------------------------------------------------- determinism ----

/// A bit of everything: two cores, mail, files, offloads, randomness, a cut and a restart.
fn busy(seed: u64) -> (u64, u64, Vec<u8>) {
    let plan = FaultPlan {
        write_error: 0.02,
        misdirected: 0.02,
        ..FaultPlan::uneven()
    };
    let (world, node, drive) = world(seed, plan);
    for _ in 0..2 {
        let mut ends: Vec<Mailbox<u64>> = mesh(2, 4);
        for core in [1u16, 0] {
            let mailbox = ends.pop().unwrap();
            world.spawn_on(node, CoreId(core), async move {
                let f = file(&format!("/data/f{core}")).await;
                for i in 0.. {
                    let at = rt::random_u64() % 64 * 4096;
                    let _ = write(&f, rt::random_u64() as u8, 4096, at).await;
                    if i % 5 == 0 {
                        let _ = f.sync_data().await;
                        let _ = fs::sync_dir(Path::new("/data")).await;
                    }
                    let _ = mailbox.try_send(CoreId(1 - core), at);
                    while let Some((_, n)) = mailbox.try_recv() {
                        offload(move || n + 1).await;
                    }
                    let _ = rt::timeout(Duration::from_micros(100), read(&f, 4096, at)).await;
                }
            });
        }
        let n = world.stream("test", 0).below(400);
        world.cut_at(node, world.ops(node) + n, Point::Middle, None);
        assert_eq!(world.run_for(ms(1_000)), Stop::Failed(node));
        world.restart(node);
    }
    let digest = world.with_disk(drive, |disk, _| disk.digest());
    let mut bytes = vec![0; 8];
    world.stream("client", 0).fill(&mut bytes);
    (world.trace(), digest, bytes)
}

#[test]
fn the_same_seed_does_the_same_and_others_do_not() {
    let mut traces = BTreeSet::new();
    let mut digests = BTreeSet::new();
    for seed in 0..10 {
        let first = busy(seed);
        assert_eq!(first, busy(seed), "seed {seed}");
        traces.insert(first.0);
        digests.insert(first.1);
    }
    assert_eq!((traces.len(), digests.len()), (10, 10));
}

// ----------------------------------------------------------- a tiny program ----

/// A log in one file: records of one sector, each with its number, the checksum of the one before
/// and its own. `append` answers when the record is durable. Recovery reads up to the first record
/// that does not follow.
mod tiny_log {
    use super::*;
    use crate::rt::sync::Notify;

    pub struct Log {
        file: File,
        next: Cell<u64>,
        chain: Cell<u64>,
        batch: RefCell<Vec<u64>>,
        durable: Cell<u64>,
        grown: Notify,
        flushed: Notify,
        sync: bool,
    }

    const LEN: u64 = 1 << 20;

    fn seal(record: &mut [u8], chain: u64) -> u64 {
        record[16..24].copy_from_slice(&chain.to_le_bytes());
        let sum = rng::fnv(rng::FNV_START, &record[8..]);
        record[..8].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    fn word(record: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"))
    }

    impl Log {
        /// Opens the log; also gives the values found.
        pub async fn open(sync: bool) -> io::Result<(Rc<Log>, Vec<u64>)> {
            let (path, tmp) = (Path::new("/data/log"), Path::new("/data/log.new"));
            if !fs::exists(path).await? {
                let file = File::open(tmp, DATA).await?;
                file.allocate(LEN).await?;
                file.sync_all().await?;
                fs::rename(tmp, path).await?;
                fs::sync_dir(Path::new("/data")).await?;
            }
            let file = File::open(path, DATA).await?;
            let mut values = Vec::new();
            let mut chain = 0;
            let buf = Buf::alloc(64 << 10).await;
            let (result, buf) = file.read_exact_at(buf, 0).await;
            result?;
            for record in buf.chunks(SECTOR) {
                let sum = rng::fnv(rng::FNV_START, &record[8..]);
                if sum != word(record, 0) || word(record, 16) != chain {
                    break;
                }
                chain = sum;
                values.push(word(record, 8));
            }
            // What was read may not be durable yet: flush before serving.
            if sync {
                file.sync_data().await?;
            }
            let log = Rc::new(Log {
                file,
                next: Cell::new(values.len() as u64),
                chain: Cell::new(chain),
                batch: RefCell::default(),
                durable: Cell::new(values.len() as u64),
                grown: Notify::new(),
                flushed: Notify::new(),
                sync,
            });
            let flusher = log.clone();
            spawn(async move { flusher.flush_forever().await });
            Ok((log, values))
        }

        async fn flush_forever(&self) {
            loop {
                let batch = std::mem::take(&mut *self.batch.borrow_mut());
                if batch.is_empty() {
                    self.grown.notified().await;
                    continue;
                }
                let at = self.next.get();
                let mut bufs = Vec::new();
                for value in &batch {
                    let mut buf = buf(0, SECTOR);
                    buf[8..16].copy_from_slice(&value.to_le_bytes());
                    self.chain.set(seal(&mut buf, self.chain.get()));
                    bufs.push(buf);
                }
                self.next.set(at + batch.len() as u64);
                let offset = at * SECTOR as u64;
                self.file
                    .write_all_vectored_at(bufs, offset)
                    .await
                    .0
                    .expect("no faults here");
                if self.sync {
                    self.file.sync_data().await.expect("no faults here");
                }
                self.durable.set(self.next.get());
                self.flushed.notify_all();
            }
        }

        /// The record's number, once it is durable.
        pub async fn append(&self, value: u64) -> u64 {
            let number = self.next.get() + self.batch.borrow().len() as u64;
            self.batch.borrow_mut().push(value);
            self.grown.notify_one();
            while self.durable.get() <= number {
                self.flushed.notified().await;
            }
            number
        }
    }
}

/// What a client of the log was told: value by number.
type Told = Rc<RefCell<Vec<(u64, u64)>>>;

/// Boots, checks, appends and loses power, four times. Err: an answer that did not hold.
fn live_and_die(seed: u64, sync: bool) -> Result<usize, String> {
    let (world, node, _) = world(seed, FaultPlan::uneven());
    let mut choices = world.stream("test", 0);
    let told: Told = Rc::default();
    let mut value = 0;
    for _ in 0..4 {
        // Some cuts strike in recovery, some at an operation, some between.
        if choices.coin() {
            let number = world.ops(node) + choices.below(60);
            let point = Point::ALL[choices.below(3) as usize];
            world.cut_at(node, number, point, None);
        }
        let opened = world.run_on(node, C0, tiny_log::Log::open(sync));
        if let Ok(opened) = opened {
            let (log, values) = opened.map_err(|e| e.to_string())?;
            for &(number, value) in told.borrow().iter() {
                if values.get(number as usize) != Some(&value) {
                    return Err(format!("record {number} was told durable, is {values:?}"));
                }
            }
            for _ in 0..3 {
                let (log, told) = (log.clone(), told.clone());
                value += 1_000;
                let first = value;
                world.spawn_on(node, C0, async move {
                    for value in first..first + 10 {
                        let number = log.append(value).await;
                        told.borrow_mut().push((number, value));
                    }
                });
            }
            drop(log);
            world.run_for(Duration::from_micros(choices.below(8_000)));
        }
        if world.is_up(node) {
            world.power_cut(node, None);
        }
        world.restart(node);
    }
    let told = told.borrow().len();
    Ok(told)
}

#[test]
fn a_tiny_log_keeps_its_word_over_a_thousand_seeds() {
    let mut told = 0;
    for seed in 0..1_000 {
        told += live_and_die(seed, true).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    assert!(told > 10_000, "{told}: the program hardly ran");
}

#[test]
fn a_tiny_log_without_its_flush_is_caught() {
    let caught = (0..100)
        .filter(|&seed| live_and_die(seed, false).is_err())
        .count();
    assert!(caught > 50, "{caught} of 100");
}
