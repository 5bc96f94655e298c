//! One suite for every kind of index against a plain `BTreeMap`, then what only one kind can do:
//! damaged and full drives for LMDB, power cuts for the twin.

use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::lmdb::DATA_FILE;
use super::*;
use crate::rt::sim::{Failure, Point, Stop, World};
use crate::rt::{Config, CoreId, Reactor, sleep};

// ---------------------------------------------------------------- harness

/// Runs a test where indexes of the kind live: on a production core, whose helper threads really
/// run beside it, or on a core of a simulated world.
fn on_core<T: 'static>(kind: StoreKind, test: impl Future<Output = T> + 'static) -> T {
    match kind {
        StoreKind::Lmdb => Reactor::new(CoreId(0), &Config::small())
            .expect("a core")
            .run(test),
        StoreKind::Twin => {
            let world = World::new(1);
            let node = world.add_node(1);
            world.run_on(node, CoreId(0), test).expect("the test ends")
        }
    }
}

/// A place for an environment of either kind, gone when dropped.
struct Place {
    kind: StoreKind,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(kind: StoreKind) -> Self {
        Place {
            kind,
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    async fn open(&self) -> Index {
        Index::open(self.kind, &self.path())
            .await
            .expect("a sound index")
    }
}

fn get(index: &Index, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    index
        .get(table, key, <[u8]>::to_vec)
        .expect("a readable index")
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn all(index: &Index, table: Table) -> Rows {
    let mut rows = Rows::new();
    let end = index.scan(table, &[], usize::MAX, |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Step::Next
    });
    assert_eq!(end, Ok(ScanEnd::End));
    rows
}

async fn save(index: &Index) -> Result<(), IndexError> {
    index.freeze();
    index.checkpoint().await
}

// ---------------------------------------------------------------- conformance

const TABLES: [Table; 3] = [Table::Versions, Table::Tombstones, Table::Parts];

#[derive(Clone, Debug)]
enum Op {
    Put(Table, Vec<u8>, Vec<u8>),
    Remove(Table, Vec<u8>),
    Freeze,
    Checkpoint,
    FailedCheckpoint {
        applied: bool,
    },
    Reserve(u64),
    Get(Table, Vec<u8>),
    /// `seeks[i]`: where to go after visiting the i-th key, instead of the next one.
    Scan {
        table: Table,
        from: Vec<u8>,
        steps_max: usize,
        seeks: Vec<Option<Vec<u8>>>,
        stop_after: usize,
    },
    Reopen,
}

fn any_table() -> impl Strategy<Value = Table> {
    proptest::sample::select(&TABLES[..])
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let byte = proptest::sample::select(vec![0u8, 1, b'a', b'b', 0xFE, 0xFF]);
    prop_oneof![
        8 => proptest::collection::vec(byte.clone(), 0..4),
        1 => proptest::collection::vec(byte, KEY_BYTES_MAX - 1..=KEY_BYTES_MAX),
    ]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => proptest::collection::vec(any::<u8>(), 4000..20_000),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let scan = (
        any_table(),
        any_key(),
        prop_oneof![1..6usize, Just(1000)],
        proptest::collection::vec(proptest::option::weighted(0.3, any_key()), 0..12),
        prop_oneof![Just(usize::MAX), 1..10usize],
    )
        .prop_map(|(table, from, steps_max, seeks, stop_after)| Op::Scan {
            table,
            from,
            steps_max,
            seeks,
            stop_after,
        });
    prop_oneof![
        12 => (any_table(), any_key(), any_value()).prop_map(|(t, k, v)| Op::Put(t, k, v)),
        8 => (any_table(), any_key()).prop_map(|(t, k)| Op::Remove(t, k)),
        3 => Just(Op::Freeze),
        3 => Just(Op::Checkpoint),
        1 => any::<bool>().prop_map(|applied| Op::FailedCheckpoint { applied }),
        1 => (0..1u64 << 20).prop_map(Op::Reserve),
        4 => (any_table(), any_key()).prop_map(|(t, k)| Op::Get(t, k)),
        6 => scan,
        1 => Just(Op::Reopen),
    ]
}

type Map = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Default)]
struct Model {
    live: Map,
    /// What was live when the table was frozen: durable once it is checkpointed.
    frozen: Option<Map>,
    durable: Map,
}

fn expected_scan(
    live: &Map,
    table: Table,
    from: &[u8],
    seeks: &[Option<Vec<u8>>],
    stop: usize,
) -> Rows {
    let mut rows = Rows::new();
    let mut from = from.to_vec();
    'seek: loop {
        for ((_, key), value) in live
            .range((table, from.clone())..)
            .take_while(|((t, _), _)| *t == table)
        {
            rows.push((key.clone(), value.clone()));
            if rows.len() == stop {
                return rows;
            }
            if let Some(Some(to)) = seeks.get(rows.len() - 1)
                && to > key
            {
                from.clone_from(to);
                continue 'seek;
            }
        }
        return rows;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Active and frozen table over a store that stays empty.
    MemoryOnly,
    Twin,
    Lmdb,
}

async fn conforms(kind: Kind, ops: Vec<Op>) {
    let place = Place::new(if kind == Kind::Lmdb {
        StoreKind::Lmdb
    } else {
        StoreKind::Twin
    });
    let mut index = place.open().await;
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Put(table, key, value) => {
                index.put(table, &key, value.clone());
                model.live.insert((table, key), value);
            }
            Op::Remove(table, key) => {
                if key.len() % 2 == 0 {
                    index.remove(table, &key);
                } else {
                    index.remove_run(table, &key);
                }
                model.live.remove(&(table, key));
            }
            Op::Freeze => {
                assert_eq!(index.freeze(), model.frozen.is_none());
                assert!(index.has_frozen());
                if model.frozen.is_none() {
                    assert_eq!((index.active_entries(), index.active_bytes()), (0, 0));
                    model.frozen = Some(model.live.clone());
                }
            }
            Op::Checkpoint if kind != Kind::MemoryOnly => {
                assert_eq!(index.checkpoint().await, Ok(()));
                assert!(!index.has_frozen());
                if let Some(frozen) = model.frozen.take() {
                    model.durable = frozen;
                }
            }
            Op::FailedCheckpoint { applied } if kind == Kind::Twin => {
                let error = IndexError::Full {
                    during: "checkpoint",
                };
                let fault = twin::Fault {
                    error: error.clone(),
                    applied,
                };
                twin::set_fault(&place.path(), Some(fault));
                let commits = twin::commits(&place.path());
                let result = index.checkpoint().await;
                if result.is_err() {
                    assert_eq!(result, Err(error));
                    assert!(index.has_frozen());
                }
                // An empty frozen table has nothing to commit, so nothing can fail.
                if result.is_ok() && model.frozen.is_some() {
                    model.frozen = None;
                }
                if !applied {
                    assert_eq!(twin::commits(&place.path()), commits);
                }
                if twin::commits(&place.path()) > commits {
                    model.durable = model
                        .frozen
                        .clone()
                        .expect("only a frozen table is committed");
                }
                twin::set_fault(&place.path(), None);
            }
            Op::Reserve(bytes) if kind == Kind::Lmdb => {
                assert_eq!(index.reserve(bytes).await, Ok(()));
            }
            Op::Get(table, key) => {
                let expected = model.live.get(&(table, key.clone()));
                assert_eq!(get(&index, table, &key).as_ref(), expected);
            }
            Op::Scan {
                table,
                from,
                steps_max,
                seeks,
                stop_after,
            } => {
                let expected = expected_scan(&model.live, table, &from, &seeks, stop_after);
                let mut rows = Rows::new();
                let mut from = from;
                loop {
                    let before = rows.len();
                    let end = index.scan(table, &from, steps_max, |key, value| {
                        // Nested reads are allowed.
                        assert_eq!(get(&index, table, key).as_deref(), Some(value));
                        rows.push((key.to_vec(), value.to_vec()));
                        if rows.len() == stop_after {
                            return Step::Stop;
                        }
                        match seeks.get(rows.len() - 1) {
                            Some(Some(to)) => Step::Seek(to.clone()),
                            _ => Step::Next,
                        }
                    });
                    assert!(rows.len() - before <= steps_max);
                    match end.expect("a readable index") {
                        ScanEnd::Budget(resume) => {
                            assert!(resume > from || rows.len() == before && resume >= from);
                            from = resume;
                        }
                        ScanEnd::Stopped => break assert_eq!(rows.len(), stop_after),
                        ScanEnd::End => break,
                    }
                }
                assert!(rows == expected);
            }
            Op::Reopen if kind != Kind::MemoryOnly => {
                drop(index);
                index = place.open().await;
                model.live = model.durable.clone();
                model.frozen = None;
            }
            _ => {}
        }
    }
    for table in TABLES {
        let expected = expected_scan(&model.live, table, &[], &[], usize::MAX);
        assert!(all(&index, table) == expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn memory_tables_conform(ops in proptest::collection::vec(any_op(), 0..80)) {
        on_core(StoreKind::Twin, conforms(Kind::MemoryOnly, ops));
    }

    #[test]
    fn twin_conforms(ops in proptest::collection::vec(any_op(), 0..160)) {
        on_core(StoreKind::Twin, conforms(Kind::Twin, ops));
    }
}

proptest! {
    // Each case flushes a few dozen times.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn lmdb_conforms(ops in proptest::collection::vec(any_op(), 0..160)) {
        on_core(StoreKind::Lmdb, conforms(Kind::Lmdb, ops));
    }
}

// ---------------------------------------------------------------- both kinds

const KINDS: [StoreKind; 2] = [StoreKind::Lmdb, StoreKind::Twin];

#[test]
fn keys_as_long_as_allowed_keep_their_order() {
    for kind in KINDS {
        on_core(kind, async move {
            let place = Place::new(kind);
            let index = place.open().await;
            let mut expected = Rows::new();
            for len in [511, 512, 1_100, KEY_BYTES_MAX - 1, KEY_BYTES_MAX] {
                for last in [0, 7, 255] {
                    let mut key = vec![b'k'; len];
                    key[len - 1] = last;
                    index.put(Table::Versions, &key, vec![last; 300]);
                    expected.push((key, vec![last; 300]));
                }
            }
            expected.sort();
            assert_eq!(save(&index).await, Ok(()));
            assert_eq!(index.active_entries(), 0);
            assert!(all(&index, Table::Versions) == expected);
            drop(index);
            assert!(all(&place.open().await, Table::Versions) == expected);
        });
    }
}

#[test]
#[should_panic(expected = "a key of")]
fn a_longer_key_is_a_bug() {
    on_core(StoreKind::Twin, async {
        let index = Place::new(StoreKind::Twin).open().await;
        index.put(Table::Versions, &[0; KEY_BYTES_MAX + 1], vec![]);
    });
}

#[test]
fn counters_follow_puts_overwrites_and_removals() {
    on_core(StoreKind::Twin, async {
        let place = Place::new(StoreKind::Twin);
        let index = place.open().await;
        index.put(Table::Free, b"key", vec![0; 10]);
        assert_eq!(index.active_bytes(), 4 + 10 + ENTRY_OVERHEAD_BYTES);
        index.put(Table::Free, b"key", vec![0; 3]);
        assert_eq!(
            (index.active_entries(), index.active_bytes()),
            (1, 4 + 3 + ENTRY_OVERHEAD_BYTES)
        );
        // Over an empty store a removal leaves nothing; over one that may hold the key, a marker.
        index.remove(Table::Free, b"key");
        assert_eq!((index.active_entries(), index.active_bytes()), (0, 0));
        index.put(Table::Free, b"key", vec![]);
        assert_eq!(save(&index).await, Ok(()));
        index.remove(Table::Free, b"key");
        assert_eq!(
            (index.active_entries(), index.active_bytes()),
            (1, 4 + ENTRY_OVERHEAD_BYTES)
        );
        assert!(!index.active_full());
    });
}

#[test]
fn removal_markers_count_as_steps() {
    for kind in KINDS {
        on_core(kind, async move {
            let place = Place::new(kind);
            let index = place.open().await;
            for i in 0..100u8 {
                index.put(Table::Objects, &[i], vec![i]);
            }
            assert_eq!(save(&index).await, Ok(()));
            for i in 0..90u8 {
                index.remove(Table::Objects, &[i]);
            }
            let mut visited = vec![];
            let mut visit = |from: &[u8]| {
                let end = index.scan(Table::Objects, from, 60, |key, _| {
                    visited.push(key[0]);
                    Step::Next
                });
                end.expect("a readable index")
            };
            assert_eq!(visit(&[]), ScanEnd::Budget(vec![60]));
            assert_eq!(visit(&[60]), ScanEnd::End);
            assert_eq!(visited, (90..100).collect::<Vec<u8>>());
        });
    }
}

#[test]
fn a_second_open_is_busy_and_destroy_waits_for_the_first() {
    for kind in KINDS {
        on_core(kind, async move {
            let place = Place::new(kind);
            let index = place.open().await;
            index.put(Table::Files, b"f", vec![1]);
            assert_eq!(save(&index).await, Ok(()));
            assert_eq!(
                Index::open(kind, &place.path()).await.err(),
                Some(IndexError::Busy)
            );
            assert_eq!(
                Index::destroy(kind, &place.path()).await,
                Err(IndexError::Busy)
            );
            drop(index);
            assert_eq!(get(&place.open().await, Table::Files, b"f"), Some(vec![1]));
            assert_eq!(Index::destroy(kind, &place.path()).await, Ok(()));
            assert_eq!(Index::destroy(kind, &place.path()).await, Ok(()));
            assert_eq!(get(&place.open().await, Table::Files, b"f"), None);
        });
    }
}

#[test]
fn a_dropped_checkpoint_leaves_its_table_to_a_later_one() {
    for kind in KINDS {
        on_core(kind, async move {
            let place = Place::new(kind);
            let index = place.open().await;
            for i in 0..5_000u32 {
                index.put(Table::Shards, &i.to_be_bytes(), vec![1; 100]);
            }
            assert!(index.freeze());
            {
                let mut checkpoint = pin!(index.checkpoint());
                let _ = checkpoint
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
            }
            index.put(Table::Shards, &7u32.to_be_bytes(), vec![2]);
            loop {
                match index.checkpoint().await {
                    Err(IndexError::Busy) => sleep(Duration::from_millis(1)).await,
                    result => break assert_eq!(result, Ok(())),
                }
            }
            assert_eq!(save(&index).await, Ok(()));
            assert_eq!(
                get(&index, Table::Shards, &7u32.to_be_bytes()),
                Some(vec![2])
            );
            drop(index);
            assert_eq!(
                get(&place.open().await, Table::Shards, &7u32.to_be_bytes()),
                Some(vec![2])
            );
        });
    }
}

/// A helper may get to a table long after its future was dropped; by then a newer one must not
/// have been written.
#[test]
fn one_table_is_written_at_a_time() {
    on_core(StoreKind::Twin, async {
        let place = Place::new(StoreKind::Twin);
        let index = place.open().await;
        index.put(Table::Shards, b"s", vec![1]);
        assert!(index.freeze());
        {
            let mut first = pin!(index.checkpoint());
            assert!(
                first
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
            let second = pin!(index.checkpoint()).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(second, Poll::Ready(Err(IndexError::Busy)));
            assert_eq!(get(&index, Table::Shards, b"s"), Some(vec![1]));
        }
        // The first future is gone. Its helper ends some time; until then nobody else may write.
        assert!(index.has_frozen());
        assert_eq!(index.checkpoint().await, Err(IndexError::Busy));
        while index.checkpoint().await == Err(IndexError::Busy) {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!index.has_frozen());
        assert_eq!(twin::commits(&place.path()), 2);
    });
}

// ---------------------------------------------------------------- twin

#[test]
fn power_cuts_of_the_twin_choose_the_commit() {
    let path = Path::new("/data/index");
    on_core(StoreKind::Twin, async move {
        let open = async || Index::open(StoreKind::Twin, path).await;
        let commit = async |value: u8| {
            let index = open().await.expect("a sound index");
            index.put(Table::Groups, b"g", vec![value]);
            assert_eq!(save(&index).await, Ok(()));
            index
        };
        let value = async || get(&open().await.expect("a sound index"), Table::Groups, b"g");
        drop(commit(1).await);
        let dead = commit(2).await;
        twin::power_cut(path, twin::Choice::Last);
        assert_eq!(value().await, Some(vec![2]));
        // What the dead process still does reaches nothing.
        dead.put(Table::Groups, b"g", vec![9]);
        assert_eq!(save(&dead).await, Ok(()));
        drop(dead);
        assert_eq!(value().await, Some(vec![2]));
        drop(commit(3).await);
        twin::power_cut(path, twin::Choice::OneBefore);
        assert_eq!(value().await, Some(vec![2]));
        // A second cut does not lose a second commit.
        twin::power_cut(path, twin::Choice::OneBefore);
        assert_eq!(value().await, Some(vec![2]));
        twin::power_cut(path, twin::Choice::Absent);
        assert_eq!(value().await, None);

        drop(commit(4).await);
        twin::damage(path);
        assert!(matches!(open().await, Err(IndexError::Damaged { .. })));
        twin::power_cut(path, twin::Choice::Last);
        assert!(matches!(open().await, Err(IndexError::Damaged { .. })));
        assert_eq!(Index::destroy(StoreKind::Twin, path).await, Ok(()));
        assert_eq!(value().await, None);
    });
}

/// Three checkpoints, and a failure before, in the middle of and after every operation: what was
/// acknowledged is there, and nothing of a table that was not frozen whole.
#[test]
fn a_failed_node_finds_every_acknowledged_checkpoint() {
    let path = Path::new("/data/index");
    let run = |failing: Option<(u64, Point, Failure)>| {
        let world = World::new(7);
        let node = world.add_node(1);
        if let Some((number, point, failure)) = failing {
            world.fail_at(node, number, point, failure);
        }
        let acknowledged = Rc::new(Cell::new(0u8));
        let stop = world.run_on(node, CoreId(0), {
            let acknowledged = acknowledged.clone();
            async move {
                let index = Index::open(StoreKind::Twin, path)
                    .await
                    .expect("a sound index");
                for round in 1..=3 {
                    for key in 0..10u8 {
                        index.put(Table::Groups, &[key], vec![round]);
                    }
                    assert_eq!(save(&index).await, Ok(()));
                    acknowledged.set(round);
                }
            }
        });
        let ops = world.ops(node);
        if stop == Err(Stop::Failed(node)) {
            world.restart(node);
        }
        let found = world.run_on(node, CoreId(0), async move {
            let index = Index::open(StoreKind::Twin, path)
                .await
                .expect("a sound index");
            all(&index, Table::Groups)
                .into_iter()
                .map(|(_, value)| value[0])
                .collect::<Vec<_>>()
        });
        let found = found.expect("the node is up");
        let round = found.first().copied().unwrap_or(0);
        assert!(
            found.is_empty() && round == 0 || found == [round; 10],
            "{found:?}"
        );
        assert!(round >= acknowledged.get() && round <= acknowledged.get() + 1);
        (ops, round)
    };
    let (ops, last) = run(None);
    assert_eq!(last, 3);
    let mut rounds = vec![];
    for number in 0..ops {
        for point in Point::ALL {
            for failure in [Failure::PowerCut(None), Failure::Crash] {
                rounds.push(run(Some((number, point, failure))).1);
            }
        }
    }
    rounds.sort();
    rounds.dedup();
    assert_eq!(rounds, [0, 1, 2, 3]);
}

// ---------------------------------------------------------------- LMDB: damage

/// Branch pages, overflow pages, and a free list: 12 checkpoints of puts, overwrites and removals.
async fn worn_env(place: &Place) -> Rows {
    let index = place.open().await;
    for round in 0..12u32 {
        for i in 0..600u32 {
            let key = (i * 7919 + round * 131) % 3000;
            if (i + round) % 5 == 0 {
                index.remove(Table::Versions, &key.to_be_bytes());
            } else {
                let len = if i % 40 == 0 {
                    9_000
                } else {
                    60 + (i as usize % 90)
                };
                index.put(Table::Versions, &key.to_be_bytes(), vec![round as u8; len]);
            }
        }
        assert_eq!(save(&index).await, Ok(()));
    }
    all(&index, Table::Versions)
}

fn data_file(place: &Place) -> std::fs::File {
    let path = place.path().join(DATA_FILE);
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("a data file")
}

/// Opens, reads and writes an environment that may be damaged. What matters is that it comes back
/// from all of that; `Some` if the check found nothing.
async fn use_env(path: &Path) -> Option<Rows> {
    let index = match Index::open(StoreKind::Lmdb, path).await {
        Ok(index) => index,
        Err(IndexError::Damaged { reason, .. }) => {
            assert!(!reason.is_empty());
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    let rows = all(&index, Table::Versions);
    for i in 0..400u32 {
        get(&index, Table::Versions, &i.to_be_bytes());
        index.put(Table::Versions, &(i * 7).to_be_bytes(), vec![7; 50]);
        index.remove(Table::Versions, &(i * 11).to_be_bytes());
    }
    assert_eq!(save(&index).await, Ok(()));
    Some(rows)
}

#[test]
fn every_garbage_page_is_found_or_was_free() {
    on_core(StoreKind::Lmdb, async {
        let place = Place::new(StoreKind::Lmdb);
        let expected = worn_env(&place).await;
        let original = std::fs::read(place.path().join(DATA_FILE)).expect("a data file");
        let page_bytes = 4096;
        let pages = original.len() / page_bytes;
        assert!(pages > 60, "{pages}");
        let small = |rows: &Rows| {
            rows.iter()
                .filter(|(_, v)| v.len() < 4096)
                .cloned()
                .collect::<Rows>()
        };
        let mut found = 0;
        for page in 0..pages {
            let at = page * page_bytes;
            let neighbour = (page + 1) % pages * page_bytes;
            let garbage: Vec<u8> = (0..page_bytes)
                .map(|i| (i * 31 + page * 17) as u8)
                .collect();
            let zeros = vec![0; page_bytes];
            let torn = [
                &original[at..at + page_bytes / 2],
                &garbage[page_bytes / 2..],
            ]
            .concat();
            let misdirected = original[neighbour..neighbour + page_bytes].to_vec();
            for damage in [garbage.clone(), zeros, misdirected, torn] {
                let mut bytes = original.clone();
                bytes[at..at + page_bytes].copy_from_slice(&damage);
                let is_torn = damage[..16] == original[at..at + 16];
                std::fs::write(place.path().join(DATA_FILE), &bytes).expect("a writable file");
                match use_env(&place.path()).await {
                    None => found += 1,
                    // The inside of a leaf's values is beyond the check, and so are pages that are all
                    // value: the second and later ones of a large one.
                    Some(rows) if is_torn => assert_eq!(rows.len(), expected.len()),
                    Some(rows) => assert!(small(&rows) == small(&expected), "page {page}"),
                }
            }
        }
        assert!(found > pages, "{found} of {}", 4 * pages);
    });
}

#[test]
fn truncated_files_are_damaged_or_lost_free_pages_only() {
    on_core(StoreKind::Lmdb, async {
        let place = Place::new(StoreKind::Lmdb);
        let expected = worn_env(&place).await;
        let original = std::fs::read(place.path().join(DATA_FILE)).expect("a data file");
        let mut found = 0;
        for cut in (0..original.len()).step_by(2048 + 511) {
            std::fs::write(place.path().join(DATA_FILE), &original[..cut])
                .expect("a writable file");
            match use_env(&place.path()).await {
                None => found += 1,
                Some(rows) => assert!(rows == expected, "cut at {cut}"),
            }
        }
        assert!(found > original.len() / 2559 / 2);
        // An environment that lost everything is damaged as well, not new.
        std::fs::write(place.path().join(DATA_FILE), []).expect("a writable file");
        assert_eq!(use_env(&place.path()).await, None);
        assert_eq!(Index::destroy(StoreKind::Lmdb, &place.path()).await, Ok(()));
        assert_eq!(use_env(&place.path()).await, Some(Rows::new()));
    });
}

/// Numbers that are wrong while every page is what it claims to be: `(what, offset, bytes)`.
fn crafted_lies(file: &[u8]) -> Vec<(&'static str, usize, Vec<u8>)> {
    let number = |at: usize| u64::from_ne_bytes(file[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| usize::from(u16::from_ne_bytes([file[at], file[at + 1]]));
    let meta = if number(144) > number(4096 + 144) {
        0
    } else {
        4096
    };
    let (free_root, main_root) = (number(meta + 80), number(meta + 128));
    let (free_leaf, main_page) = (free_root as usize * 4096, main_root as usize * 4096);
    assert_eq!(short(free_leaf + 10), 2, "the free list is one leaf");
    assert_eq!(short(main_page + 10), 1, "the main tree has branches");
    // The first record of the free list: node header, 8 bytes of key, a count, page numbers.
    let record = free_leaf + short(free_leaf + 16) + 8 + 8;
    let freed = number(record);
    assert!((1..400).contains(&freed) && short(free_leaf + short(free_leaf + 16) + 4) == 0);
    let leaf = short(main_page + short(main_page + 16)) * 4096;
    let entries = number(meta + 88 + 32);
    let be = |n: u64| n.to_ne_bytes().to_vec();
    vec![
        ("a page in use is free", record + 8, be(main_root)),
        ("a meta page is free", record + 8, be(1)),
        (
            "a free page behind the end",
            record + 8,
            be(number(meta + 136) + 1),
        ),
        ("a cut free list", record, be(1 << 40)),
        ("entries are missing", meta + 88 + 32, be(entries + 1)),
        (
            "leaves are missing",
            meta + 88 + 16,
            be(number(meta + 88 + 16) + 1),
        ),
        ("a tree of depth 0", meta + 88 + 6, vec![0, 0]),
        ("a root behind the end", meta + 128, be(1 << 30)),
        ("no root", meta + 128, be(u64::MAX)),
        ("a last page before the root", meta + 136, be(2)),
        ("a last page behind the map", meta + 136, be(1 << 50)),
        ("a leaf without nodes", leaf + 12, vec![16, 0]),
        ("bounds before the header", leaf + 12, vec![2, 0]),
        ("bounds that cross", leaf + 12, vec![0xF0, 0x0F, 0x00, 0x01]),
        ("bounds behind the page", leaf + 14, vec![0x02, 0x10]),
        ("a node in the offsets", leaf + 16, vec![18, 0]),
        ("a node at the very end", leaf + 16, vec![0xFE, 0x0F]),
        (
            "a key that is cut",
            leaf + short(leaf + 16) + 6,
            vec![0xFF, 0xFF],
        ),
        ("an empty key", leaf + short(leaf + 16) + 6, vec![0, 0]),
        (
            "data that is cut",
            leaf + short(leaf + 16),
            vec![0xFF, 0xFF],
        ),
        (
            "a node with duplicates",
            leaf + short(leaf + 16) + 4,
            vec![4, 0],
        ),
        (
            "keys in the wrong order",
            leaf + 16,
            file[leaf + 18..leaf + 20].to_vec(),
        ),
        (
            "a child twice",
            main_page + 16,
            file[main_page + 18..main_page + 20].to_vec(),
        ),
        (
            "keys behind the next branch",
            main_page + short(main_page + 18) + 8,
            vec![1, 0, 0, 0, 1],
        ),
        (
            "a cycle",
            main_page + short(main_page + 16),
            (main_root as u16).to_ne_bytes().to_vec(),
        ),
    ]
}

#[test]
fn a_file_that_contradicts_itself_is_damaged() {
    on_core(StoreKind::Lmdb, async {
        let place = Place::new(StoreKind::Lmdb);
        worn_env(&place).await;
        let original = std::fs::read(place.path().join(DATA_FILE)).expect("a data file");
        for (what, at, lie) in crafted_lies(&original) {
            let mut bytes = original.clone();
            bytes[at..at + lie.len()].copy_from_slice(&lie);
            assert!(bytes != original, "{what}");
            std::fs::write(place.path().join(DATA_FILE), &bytes).expect("a writable file");
            let result = Index::open(StoreKind::Lmdb, &place.path()).await.err();
            assert!(
                matches!(result, Some(IndexError::Damaged { .. })),
                "{what}: {result:?}"
            );
        }
        std::fs::write(place.path().join(DATA_FILE), &original).expect("a writable file");
        assert!(use_env(&place.path()).await.is_some());
    });
}

#[test]
fn garbage_in_the_lock_file_is_ignored() {
    on_core(StoreKind::Lmdb, async {
        let place = Place::new(StoreKind::Lmdb);
        let expected = worn_env(&place).await;
        std::fs::write(place.path().join(lmdb::LOCK_FILE), vec![0xA5; 10_000]).expect("a file");
        assert!(use_env(&place.path()).await == Some(expected));
    });
}

#[test]
fn a_meta_page_of_another_version_is_damaged() {
    on_core(StoreKind::Lmdb, async {
        for (offset, byte) in [(16, 0), (20, 2), (24 + 4096 - 4, 9), (40, 1), (88 + 4, 4)] {
            let place = Place::new(StoreKind::Lmdb);
            drop(place.open().await);
            data_file(&place)
                .write_all_at(&[byte], offset)
                .expect("a writable file");
            assert_eq!(use_env(&place.path()).await, None, "{offset}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// Whatever gets past the check must not bring LMDB down.
    #[test]
    fn flipped_bytes_never_crash(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), header in any::<bool>()) {
        thread_local! {
            static WORN: Cell<Option<Arc<Vec<u8>>>> = const { Cell::new(None) };
        }
        let original = WORN.take().unwrap_or_else(|| {
            on_core(StoreKind::Lmdb, async {
                let place = Place::new(StoreKind::Lmdb);
                worn_env(&place).await;
                Arc::new(std::fs::read(place.path().join(DATA_FILE)).expect("a data file"))
            })
        });
        WORN.set(Some(original.clone()));
        let place = Place::new(StoreKind::Lmdb);
        std::fs::create_dir(place.path()).expect("a directory");
        let mut bytes = original.to_vec();
        for (at, byte) in flips {
            let mut at = at.index(bytes.len());
            if header {
                // Where structure lives.
                at = at / 4096 * 4096 + at % 64;
            }
            bytes[at] = byte;
        }
        std::fs::write(place.path().join(DATA_FILE), &bytes).expect("a writable file");
        on_core(StoreKind::Lmdb, async move { use_env(&place.path()).await });
    }
}

/// LMDB keeps 131,072 changed pages in memory and writes the rest out before the end of the
/// transaction; a full table over a large file gets there.
#[test]
#[ignore = "writes 1 GB"]
fn a_checkpoint_may_change_more_pages_than_lmdb_keeps_in_memory() {
    const KEYS: u32 = 420_000;
    // Three to a page.
    let value = |i: u32, round: u8| [vec![round; 1_100], i.to_be_bytes().to_vec()].concat();
    on_core(StoreKind::Lmdb, async move {
        let place = Place::new(StoreKind::Lmdb);
        let index = place.open().await;
        for i in 0..KEYS {
            index.put(Table::Versions, &i.to_be_bytes(), value(i, 1));
            if i % 50_000 == 49_999 {
                assert_eq!(save(&index).await, Ok(()));
            }
        }
        assert_eq!(save(&index).await, Ok(()));
        for i in (0..KEYS).step_by(3) {
            index.put(Table::Versions, &i.to_be_bytes(), value(i, 2));
        }
        assert!(index.active_entries() > 131_072 && index.active_entries() <= ACTIVE_ENTRIES_MAX);
        assert_eq!(save(&index).await, Ok(()));
        drop(index);
        let index = place.open().await;
        for i in 0..KEYS {
            let round = if i % 3 == 0 { 2 } else { 1 };
            assert!(get(&index, Table::Versions, &i.to_be_bytes()) == Some(value(i, round)));
        }
    });
}

// ---------------------------------------------------------------- LMDB: no room

/// Fills the drive, then shows that nothing is lost and that deletes still get through.
async fn fill_drive(dir: &Path) {
    let path = dir.join("index");
    let index = Index::open(StoreKind::Lmdb, &path)
        .await
        .expect("a sound index");
    let key = |i: u32| i.to_be_bytes();
    let mut stored = 0u32;
    // Room for the deletes, taken while there is some.
    let reserve = 512 << 10;
    let full = loop {
        assert!(stored < 100_000, "the drive never fills");
        assert_eq!(index.reserve(reserve).await, Ok(()));
        for i in stored..stored + 500 {
            index.put(Table::Versions, &key(i), vec![i as u8; 200]);
        }
        assert!(index.freeze());
        // The reserve is for deletes: a put checkpoint has to find room beside it.
        let growth = index.growth_bytes_max().expect("a readable index");
        if let Err(e) = index.reserve(reserve + growth).await {
            break e;
        }
        assert_eq!(index.checkpoint().await, Ok(()));
        stored += 500;
    };
    assert_eq!(full, IndexError::Full { during: "reserve" });
    assert!(stored >= 500);

    // Ignoring that answer: big checkpoints, until one fails.
    let mut tried = stored + 500;
    let full = loop {
        if let Err(e) = index.checkpoint().await {
            break e;
        }
        assert!(tried < 200_000, "the drive never fills");
        for i in tried..tried + 5_000 {
            index.put(Table::Versions, &key(i), vec![i as u8; 200]);
        }
        tried += 5_000;
        assert!(index.freeze());
    };
    assert_eq!(
        full,
        IndexError::Full {
            during: "checkpoint"
        }
    );
    assert!(index.has_frozen());
    assert_eq!(index.checkpoint().await, Err(full));
    for i in 0..tried {
        assert_eq!(
            get(&index, Table::Versions, &key(i)),
            Some(vec![i as u8; 200]),
            "{i}"
        );
    }

    // A restart loses the frozen table only; what was committed before is there and writable.
    drop(index);
    let index = Index::open(StoreKind::Lmdb, &path)
        .await
        .expect("a sound index");
    let rows = all(&index, Table::Versions).len() as u32;
    assert!(stored <= rows && rows < tried, "{stored} {rows} {tried}");
    // Free pages of the env and what is left on the drive must do for deletes, a few at a time.
    for i in 0..rows {
        index.remove(Table::Versions, &key(i));
        if i % 200 == 199 {
            assert_eq!(save(&index).await, Ok(()), "{i} of {rows}");
        }
    }
    assert_eq!(save(&index).await, Ok(()));
    assert_eq!(all(&index, Table::Versions), []);
    for i in 0..500 {
        index.put(Table::Versions, &key(i), vec![1; 200]);
    }
    assert_eq!(save(&index).await, Ok(()));
}

/// Runs the calling test, whose name is given, once more: in a process of its own, started by
/// `script`, with a directory to fill. In that process it fills it.
fn fill_drive_of(test: &str, script: &str) {
    if let Some(dir) = std::env::var_os("INDEX_TEST_DIR") {
        return on_core(
            StoreKind::Lmdb,
            async move { fill_drive(Path::new(&dir)).await },
        );
    }
    let dir = tempfile::tempdir().expect("a directory");
    let output = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().expect("a path"))
        .args(["--include-ignored", "--exact", test, "--nocapture"])
        .env("INDEX_TEST_DIR", dir.path())
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
fn a_file_size_limit_is_a_full_drive() {
    // In blocks of 512 bytes: 4 MiB.
    let script = r#"ulimit -f 8192; trap '' XFSZ; exec "$@""#;
    fill_drive_of("index::tests::a_file_size_limit_is_a_full_drive", script);
}

#[test]
#[ignore = "needs a mount namespace: root, or unprivileged user namespaces"]
fn a_full_tmpfs_is_a_full_drive() {
    let script = r#"
        ns=-m; [ "$(id -u)" = 0 ] || ns=-rm
        exec unshare $ns sh -c 'mount -t tmpfs -o size=4m none "$INDEX_TEST_DIR" && exec "$@"' sh "$@""#;
    fill_drive_of("index::tests::a_full_tmpfs_is_a_full_drive", script);
}
