//! What the index costs: `cargo run --release --example index_costs [KEYS] [DIR]` (1,000,000 keys in
//! a temporary directory). One line a number; medians of `ROUNDS` interleaved rounds, so that a
//! neighbour's load shows as spread, not as bias. The checksum at the end keeps the reads from being
//! optimised away and is the same for every run with the same KEYS.

use std::path::PathBuf;
use std::time::Instant;

use ostrakon::index::{Index, ScanEnd, Step, StoreKind, Table};
use ostrakon::rt::{Config, CoreId, Reactor};

const ROUNDS: usize = 5;
const VALUE_BYTES: usize = 160;
const GETS: usize = 100_000;
const SCAN_KEYS: usize = 1000;
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// A permutation of 0..keys, so that keys come in random order and each exactly once.
fn shuffled(n: u64, keys: u64) -> u64 {
    // Each step is a bijection of the numbers below the next power of two; walking on from those
    // that are out of range is one of the rest.
    let bits = keys.next_power_of_two().trailing_zeros().max(2);
    let mask = (1 << bits) - 1;
    let mut x = n;
    loop {
        x = x.wrapping_mul(SEED | 1) & mask;
        x ^= x >> (bits / 2);
        x = x.wrapping_mul(0x2545_F491_4F6C_DD1D) & mask;
        x ^= x >> (bits / 2);
        if x < keys {
            return x;
        }
    }
}

/// Shaped like a version's key: bucket id, a path of some depth, inverted time. About 60 bytes.
fn key(n: u64) -> Vec<u8> {
    let mut key = 42u64.to_be_bytes().to_vec();
    let (year, day) = (n / 365_000, n / 1000 % 365);
    key.extend_from_slice(format!("photos/{year:04}/{day:03}/image-{n:012}.jpeg").as_bytes());
    key.push(0);
    key.extend_from_slice(&(!n).to_be_bytes());
    key
}

fn value(n: u64) -> Vec<u8> {
    let mut value = vec![n as u8; VALUE_BYTES];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value
}

struct Measured(Vec<(String, Vec<f64>)>);

impl Measured {
    fn add(&mut self, name: &str, ns: f64) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, all)) => all.push(ns),
            None => self.0.push((name.to_owned(), vec![ns])),
        }
    }

    fn print(&mut self) {
        for (name, all) in &mut self.0 {
            all.sort_by(f64::total_cmp);
            let (least, most) = (all[0], all[all.len() - 1]);
            println!(
                "{name:44} {:10.0} ns   ({least:.0} to {most:.0})",
                all[all.len() / 2]
            );
        }
    }
}

fn time<T>(per: usize, f: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let out = f();
    (out, start.elapsed().as_nanos() as f64 / per as f64)
}

/// The same for what waits.
async fn time_wait<T>(per: usize, f: impl Future<Output = T>) -> (T, f64) {
    let start = Instant::now();
    let out = f.await;
    (out, start.elapsed().as_nanos() as f64 / per as f64)
}

fn main() {
    Reactor::new(CoreId(0), &Config::small())
        .expect("a core")
        .run(measure());
}

async fn measure() {
    let mut args = std::env::args().skip(1);
    let keys: u64 = args
        .next()
        .map_or(1_000_000, |n| n.parse().expect("KEYS is a number"));
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = args
        .next()
        .map_or(temporary.path().to_owned(), PathBuf::from)
        .join("index");
    let mut measured = Measured(vec![]);
    let mut sum = 0u64;
    let index = Index::open(StoreKind::Lmdb, &dir).await.expect("an index");
    let (_, ns) = time_wait(keys as usize, async {
        for n in 0..keys {
            index.put(Table::Versions, &key(n), value(n));
            if index.active_full() || n + 1 == keys {
                assert!(index.freeze());
                index.checkpoint().await.expect("a checkpoint");
            }
        }
    })
    .await;
    measured.add("load in key order, all in all, a key", ns);
    println!(
        "env: {} MB for {keys} keys",
        index.store_bytes().expect("a size") / 1_000_000
    );
    drop(index);

    let (index, ns) = time_wait(1, Index::open(StoreKind::Lmdb, &dir)).await;
    let index = index.expect("an index");
    measured.add("open: check and warm the file", ns);
    for round in 0..ROUNDS as u64 {
        let mut place = round * 7_919_777 % keys;
        let mut next = || {
            place = (place + 1) % keys;
            shuffled(place, keys)
        };
        let targets: Vec<_> = (0..GETS).map(|_| key(next())).collect();
        let (_, ns) = time(GETS, || {
            for key in &targets {
                let found = index.get(Table::Versions, key, |value| u64::from(value[0]));
                sum += found.expect("a readable index").expect("a present key");
            }
        });
        measured.add("get from LMDB, active table empty", ns);

        let misses: Vec<_> = targets
            .iter()
            .map(|key| [key.as_slice(), b"x"].concat())
            .collect();
        let (_, ns) = time(GETS, || {
            for key in &misses {
                let found = index
                    .get(Table::Versions, key, |_| ())
                    .expect("a readable index");
                assert!(found.is_none());
            }
        });
        measured.add("get of an absent key", ns);

        let from: Vec<_> = (0..200)
            .map(|_| key(next().min(keys - SCAN_KEYS as u64)))
            .collect();
        let scan_all = |sum: &mut u64| {
            for from in &from {
                let end = index.scan(Table::Versions, from, SCAN_KEYS, |key, value| {
                    *sum += u64::from(key[key.len() - 1]) + u64::from(value[0]);
                    Step::Next
                });
                assert!(!matches!(end, Ok(ScanEnd::Stopped) | Err(_)));
            }
        };
        let (_, ns) = time(200 * SCAN_KEYS, || scan_all(&mut sum));
        measured.add("scan 1000 from LMDB, a key", ns);
        let (_, ns) = time(200 * SCAN_KEYS / 10, || {
            for from in &from {
                let mut at = 0;
                let end = index.scan(Table::Versions, from, SCAN_KEYS / 10, |key, _| {
                    at += 1;
                    let mut to = key.to_vec();
                    let digit = to.len() - 9 - 5 - 3;
                    to[digit] = to[digit].wrapping_add(1);
                    Step::Seek(to)
                });
                assert!(end.is_ok());
                sum += at;
            }
        });
        measured.add("scan by seeks, a seek (100 a scan)", ns);

        // Enough for a checkpoint of 100 k random keys, the case of the design.
        let changes: Vec<_> = (0..100_000)
            .map(|_| next())
            .map(|n| (key(n), value(n)))
            .collect();
        let count = changes.len();
        let (_, ns) = time(count, || {
            for (key, value) in changes {
                index.put(Table::Versions, &key, value);
            }
        });
        measured.add("put, 100 k random keys", ns);
        let (_, ns) = time(GETS, || {
            for key in &targets {
                let found = index.get(Table::Versions, key, |value| u64::from(value[0]));
                sum += found.expect("a readable index").expect("a present key");
            }
        });
        measured.add("get, active table of 100 k", ns);
        let (_, ns) = time(200 * SCAN_KEYS, || scan_all(&mut sum));
        measured.add("scan 1000, merged with 100 k active, a key", ns);

        let (_, ns) = time(1, || assert!(index.freeze()));
        measured.add("freeze", ns);
        let growth = index.growth_bytes_max().expect("a size");
        let (room, ns) = time_wait(1, index.reserve(growth)).await;
        room.expect("room");
        measured.add("reserve for it", ns);
        let (done, ns) = time_wait(count, index.checkpoint()).await;
        done.expect("a checkpoint");
        measured.add("checkpoint of 100 k random keys, a key", ns);
    }
    println!(
        "env: {} MB after {ROUNDS} checkpoints",
        index.store_bytes().expect("a size") / 1_000_000
    );
    measured.print();
    println!("checksum {sum:016x}");
}
