//! Appends until they are durable, against fio with the same sizes, writers and flushes.
//!
//! | side | what it does |
//! |---|---|
//! | log | `log::Log` alone: append, batch, write, flush, tell |
//! | volume | the same through the volume: 4 KiB records as proposals to placement groups (applied to the index), 1 MiB as 16 segments stored and flushed; overwritten ones are reclaimed meanwhile |
//! | fio | every writer its own file, an fdatasync after every write |
//! | fio group | one writer that writes as many bytes between two flushes as the log did: the flushes are the same too |
//!
//! The writers are a closed loop (each waits for its last append), which is the pattern asked about;
//! its latencies say nothing of a fixed arrival rate. Both sides write with O_DIRECT into extents
//! that were written before: fio overwrites its files, the log recycles its own, and what recycling
//! costs is counted.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use ostrakon::log::{
    Append, DurableBatch, FileState, Files, FilesConfig, Log, LogConfig, LogError, Record, Segment,
    Sink,
};
use ostrakon::node::{self, CoreShare};
use ostrakon::object::ObjectStore;
use ostrakon::rt::{self, Buf};
use shard_format::{
    BatchSeq, BucketId, ChunkIndex, ClusterId, DriveId, Epoch, Head, Hlc, Incarnation, Lsn,
    MetadataEntry, ObjectId, Origin, PgId, Role, SEGMENT_SIZE, Scheme, SegmentEntry,
    SegmentIdentity, SegmentIndex, Transform, VolumeId, segment_crc,
};

use crate::fill::{self, Step};
use crate::fio::{self, Pattern};
use crate::measure::{Meter, Percentiles, ResultHash, Spread, latencies};
use crate::scratch::{Scratch, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before it, in which files are made and recycled
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Rounds; in each every side is measured in turn
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Length of a segment file, MiB
    #[arg(long, default_value_t = 32)]
    segment_file: u64,
    /// Bytes that fio's files have together, MiB
    #[arg(long, default_value_t = 512)]
    fio_files: u64,
    /// Without fio
    #[arg(long)]
    no_peer: bool,
    /// Only this size
    #[arg(long)]
    only: Option<Size>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Size {
    Small,
    Large,
}

impl Size {
    fn bytes(self) -> u64 {
        match self {
            Size::Small => 4 << 10,
            Size::Large => LARGE as u64,
        }
    }

    fn writers(self) -> u64 {
        match self {
            Size::Small => 64,
            Size::Large => 8,
        }
    }
}

/// 16 segments: what one store request carries.
const LARGE: usize = 16 * SEGMENT_SIZE;
/// Versions of 4 KiB each writer has at a time; older ones are garbage.
const KEYS_PER_WRITER: u64 = 32;
/// Objects of 1 MiB each writer has at a time.
const OBJECTS_PER_WRITER: usize = 4;

/// One measurement of an engine side.
struct Measured {
    appends_per_s: f64,
    cpu_us_per_append: f64,
    flushes_per_append: f64,
    latency: Histogram<u64>,
    hash: ResultHash,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let peer = if options.no_peer {
        None
    } else {
        Some(fio::version()?)
    };
    let scratch = Scratch::new(&options.common, "log")?;
    print_machine(scratch.path());
    println!(
        "durability, log and volume: O_DIRECT write and fdatasync before every acknowledgement, shared by a batch"
    );
    match &peer {
        Some(version) => {
            println!("durability, {version}: O_DIRECT write and fdatasync by every writer")
        }
        None => println!("peer: none"),
    }
    for size in [Size::Small, Size::Large] {
        if options.only.is_none_or(|o| o == size) {
            compare(options, size, scratch.path(), peer.is_some())?;
        }
    }
    Ok(())
}

/// Values of one side, one a round.
#[derive(Default)]
struct Side {
    rate: Vec<f64>,
    cpu_us: Vec<f64>,
}

impl Side {
    fn push(&mut self, rate: f64, cpu_us: f64) {
        self.rate.push(rate);
        self.cpu_us.push(cpu_us);
    }
}

fn compare(options: &Options, size: Size, scratch: &Path, peer: bool) -> Result<(), Failure> {
    println!(
        "\n{} KiB records, {} writers",
        size.bytes() >> 10,
        size.writers()
    );
    let directory = scratch.join(format!("{size:?}").to_lowercase());
    for part in ["log", "volume", "fio"] {
        std::fs::create_dir_all(directory.join(part))?;
    }
    let mut sides: [(&str, Side); 4] =
        ["log", "volume", "fio", "fio group"].map(|n| (n, Side::default()));
    let mut hash = ResultHash::default();
    for round in 0..options.runs {
        println!(" round {round}");
        let mut bytes_per_flush = 0.0;
        for (i, part) in ["log", "volume"].into_iter().enumerate() {
            let m = engine(options, size, &directory.join(part), i == 1)?;
            print(part, size, &m);
            sides[i].1.push(m.appends_per_s, m.cpu_us_per_append);
            hash.add_u64(m.hash.value());
            if i == 0 {
                bytes_per_flush = size.bytes() as f64 / m.flushes_per_append;
            }
        }
        if !peer {
            continue;
        }
        let each = Pattern {
            name: "each",
            block_bytes: size.bytes(),
            jobs: size.writers(),
            file_bytes: ((options.fio_files << 20) / size.writers()).max(size.bytes()),
        };
        let m = fio::run(&directory.join("fio"), &each, options.seconds)?;
        print_fio("fio", &m);
        sides[2].1.push(m.writes_per_s, m.cpu_us_per_write);
        hash.add_u64(m.writes);

        let block_bytes = ((bytes_per_flush / 4096.0).round() as u64 * 4096).max(size.bytes());
        let group = Pattern {
            name: "group",
            block_bytes,
            jobs: 1,
            file_bytes: (options.fio_files << 20).max(block_bytes),
        };
        let m = fio::run(&directory.join("fio"), &group, options.seconds)?;
        print_fio("fio group", &m);
        // In appends, not in writes.
        let appends = block_bytes as f64 / size.bytes() as f64;
        sides[3]
            .1
            .push(m.writes_per_s * appends, m.cpu_us_per_write / appends);
        hash.add_u64(m.writes);
    }
    println!(" appends/s and CPU-us an append:");
    for (name, side) in &sides {
        if !side.rate.is_empty() {
            println!("  {name:<10} {}", Spread::of(side.rate.iter().copied()));
            println!("  {:<10} {}", "", Spread::of(side.cpu_us.iter().copied()));
        }
    }
    if peer {
        println!(" ratios of rounds:");
        for (name, engine) in &sides[..2] {
            for (other, fio) in &sides[2..] {
                let pairs = |a: &[f64], b: &[f64]| Spread::of(a.iter().zip(b).map(|(a, b)| a / b));
                println!(
                    "  rate, {name} to {other}: {}",
                    pairs(&engine.rate, &fio.rate)
                );
                println!(
                    "  CPU,  {name} to {other}: {}",
                    pairs(&engine.cpu_us, &fio.cpu_us)
                );
            }
        }
    }
    println!(" result hash {hash}");
    Ok(())
}

fn print(name: &str, size: Size, m: &Measured) {
    println!(
        "  {name:<10} {:>8.0} appends/s {:>6.0} MB/s {:>6.2} CPU-us/append {:.4} flushes/append, {}",
        m.appends_per_s,
        m.appends_per_s * size.bytes() as f64 / 1e6,
        m.cpu_us_per_append,
        m.flushes_per_append,
        Percentiles(&m.latency)
    );
}

fn print_fio(name: &str, m: &fio::Measured) {
    println!(
        "  {name:<10} {:>8.0} writes/s  {:>6.0} MB/s {:>6.2} CPU-us/write  1 flush/write, flush p50 {:.0} p99 {:.0} us",
        m.writes_per_s,
        m.bytes_per_s / 1e6,
        m.cpu_us_per_write,
        m.flush_us.0,
        m.flush_us.1
    );
}

/// What the writers of one measurement share.
#[derive(Clone)]
struct Window {
    /// Appends that end in here count.
    from: Instant,
    until: Instant,
    latency: Rc<RefCell<Histogram<u64>>>,
    appends: Rc<Cell<u64>>,
    hash: Rc<Cell<ResultHash>>,
}

impl Window {
    fn done(&self, start: Instant, result: u64) {
        let now = Instant::now();
        if now >= self.from && now < self.until {
            self.appends.set(self.appends.get() + 1);
            self.latency
                .borrow_mut()
                .saturating_record((now - start).as_nanos() as u64);
        }
        let mut hash = self.hash.get();
        hash.add_u64(result);
        self.hash.set(hash);
    }

    fn is_open(&self) -> bool {
        Instant::now() < self.until
    }
}

/// One side, once, on a core of its own.
fn engine(
    options: &Options,
    size: Size,
    directory: &Path,
    volume: bool,
) -> Result<Measured, Failure> {
    let (directory, options) = (directory.to_owned(), options.clone());
    on_core(&options.common.clone(), move || async move {
        if volume {
            let share = open_volume(&directory, options.segment_file << 20).await?;
            let v = share.volumes[0].1.clone();
            let head = if size == Size::Small {
                Head::Commit
            } else {
                Head::Bulk
            };
            let share = Rc::new(share);
            let bucket = match share.store.bucket("bucket").await {
                Ok(bucket) => bucket,
                Err(_) => {
                    share
                        .store
                        .create_bucket("bucket", "bench", "local")
                        .await?
                }
            }
            .id;
            let m = windowed(
                &options,
                || v.flushes(head),
                |window, writer| {
                    let share = share.clone();
                    async move {
                        match size {
                            Size::Small => propose(share, bucket, writer, window).await,
                            Size::Large => store(share, writer, window).await,
                        }
                    }
                },
                size,
            )
            .await?;
            node::stop(&share).await?;
            Ok(m)
        } else {
            let log = open_log(&directory, options.segment_file << 20).await?;
            let head = if size == Size::Small {
                Head::Commit
            } else {
                Head::Bulk
            };
            let recycling = rt::spawn(recycle(log.clone()));
            let m = windowed(
                &options,
                || log.flushes(head),
                |window, writer| {
                    let log = log.clone();
                    async move {
                        match size {
                            Size::Small => append_small(log, writer, window).await,
                            Size::Large => append_large(log, writer, window).await,
                        }
                    }
                },
                size,
            )
            .await?;
            recycling.cancel();
            log.close().await?;
            Ok(m)
        }
    })
}

/// Runs the writers through warm-up and window, and reads the meters at its ends.
async fn windowed<F: Future<Output = Result<(), Failure>> + 'static>(
    options: &Options,
    flushes: impl Fn() -> u64,
    writer: impl Fn(Window, u64) -> F,
    size: Size,
) -> Result<Measured, Failure> {
    let from = Instant::now() + Duration::from_secs_f64(options.warm_up);
    let window = Window {
        from,
        until: from + Duration::from_secs_f64(options.seconds),
        latency: Rc::new(RefCell::new(latencies())),
        appends: Rc::default(),
        hash: Rc::default(),
    };
    let tasks: Vec<_> = (0..size.writers())
        .map(|w| rt::spawn(writer(window.clone(), w)))
        .collect();
    rt::sleep(Duration::from_secs_f64(options.warm_up)).await;
    let (meter, flushes_before) = (Meter::start(), flushes());
    rt::sleep(window.until.saturating_duration_since(Instant::now())).await;
    let ((wall, cpu), flushed) = (meter.read(), flushes() - flushes_before);
    for result in join_all(tasks).await {
        result?;
    }
    let appends = window.appends.get() as f64;
    if appends == 0.0 {
        return Err(Failure::new(
            "no append ended within the window; raise --seconds",
        ));
    }
    Ok(Measured {
        appends_per_s: appends / wall.as_secs_f64(),
        cpu_us_per_append: cpu.as_secs_f64() * 1e6 / appends,
        flushes_per_append: flushed as f64 / appends,
        latency: window.latency.borrow().clone(),
        hash: window.hash.get(),
    })
}

// ----------------------------------------------------------------- the log alone ----

type Waiter = oneshot::Sender<Result<u64, LogError>>;

/// Tells each writer where its record lies.
struct Tell;

impl Sink<Waiter> for Tell {
    fn durable(&self, batch: DurableBatch<Waiter>) {
        for (records, waiter) in batch.appends {
            let place = records.first().map_or(0, |r| u64::from(r.extent.offset));
            let _ = waiter.send(Ok(place));
        }
    }

    fn failed(&self, waiters: Vec<Waiter>, error: LogError) {
        for waiter in waiters {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    fn outcomes(&self) -> (Vec<Vec<u8>>, BatchSeq) {
        (Vec::new(), BatchSeq(0))
    }
}

/// A log over the files that are there, all of them free.
async fn open_log(directory: &Path, file_length: u64) -> Result<Log<Waiter>, Failure> {
    let (files, _) = Files::open(FilesConfig {
        directory: directory.join("segments"),
        cluster: ClusterId([1; 16]),
        drive: DriveId([2; 16]),
        volume: VolumeId([3; 16]),
        file_length,
        headroom: 0,
    })
    .await?;
    let config = LogConfig {
        incarnation: Incarnation(1),
        next_lsn: Lsn(1),
        heads: Default::default(),
    };
    let log = Log::new(files, config);
    free_sealed(&log).await?;
    log.start(Rc::new(Tell)).await?;
    Ok(log)
}

async fn free_sealed(log: &Log<Waiter>) -> Result<(), LogError> {
    for (number, _, state, _) in log.files().table() {
        if matches!(state, FileState::Sealed(_)) {
            log.files()
                .free(number, log.incarnation(), log.next_lsn())
                .await?;
        }
    }
    Ok(())
}

/// Makes sealed files free again: nothing in them is live.
async fn recycle(log: Log<Waiter>) {
    while free_sealed(&log).await.is_ok() {
        rt::sleep(Duration::from_millis(2)).await;
    }
}

async fn append_small(log: Log<Waiter>, writer: u64, window: Window) -> Result<(), Failure> {
    let mut n = 0;
    while window.is_open() {
        n += 1;
        let mut payload = vec![0x5a; Size::Small.bytes() as usize];
        payload[..8].copy_from_slice(&u64::to_le_bytes(n));
        let origin = Origin {
            pg: PgId(writer as u16),
            index: n,
            term: 1,
            hlc: Hlc(n),
        };
        let entry = MetadataEntry {
            origin,
            relocated: false,
        };
        let start = Instant::now();
        log.room(Head::Commit).await?;
        let (waiter, told) = oneshot::channel();
        log.append(
            Head::Commit,
            Append {
                records: vec![Record::Metadata { entry, payload }],
                waiter,
            },
        );
        let place = told.await??;
        window.done(start, place);
    }
    Ok(())
}

async fn append_large(log: Log<Waiter>, writer: u64, window: Window) -> Result<(), Failure> {
    let mut n = 0;
    while window.is_open() {
        n += 1;
        let start = Instant::now();
        let (segments, data) = run_of_segments(object_id(writer, n)).await;
        log.room(Head::Bulk).await?;
        let (waiter, told) = oneshot::channel();
        let append = Append {
            records: vec![Record::Segments { segments, data }],
            waiter,
        };
        let ticket = log.append(Head::Bulk, append);
        log.written(Head::Bulk, ticket).await?;
        log.sync(Head::Bulk).await?;
        let place = told.await??;
        window.done(start, place);
    }
    Ok(())
}

fn object_id(writer: u64, n: u64) -> ObjectId {
    ObjectId::new(
        (writer as u32) << 20,
        Hlc::new(rt::unix_ms(), n as u16),
        (n as u32).to_be_bytes(),
    )
}

/// 1 MiB in 16 segments with their checksums, as the object layer hands it to a volume.
async fn run_of_segments(object: ObjectId) -> (Vec<Segment>, Buf) {
    let mut data = Buf::alloc(LARGE).await;
    data.set_len(LARGE);
    let segments = data
        .chunks_exact_mut(SEGMENT_SIZE)
        .enumerate()
        .map(|(i, stored)| {
            stored[..16].copy_from_slice(&object.0);
            let (chunk, segment, role) = (ChunkIndex(0), SegmentIndex(i as u16), Role(0));
            let identity = SegmentIdentity {
                object,
                chunk,
                segment,
                role,
            };
            Segment {
                entry: SegmentEntry {
                    identity,
                    scheme: Scheme::PLAIN,
                    epoch: Epoch(1),
                },
                transform: Transform::None,
                logical_len: SEGMENT_SIZE as u32,
                stored_len: SEGMENT_SIZE as u32,
                crc: segment_crc(&identity, stored),
            }
        })
        .collect();
    (segments, data)
}

// ----------------------------------------------------------------- through the volume ----

async fn open_volume(directory: &Path, file_length: u64) -> Result<CoreShare, Failure> {
    let settings = node::Settings {
        segment_file_length: Some(file_length),
        ..node::Settings::default()
    };
    let layout = node::prepare(&[directory.to_owned()], 1, &settings).await?;
    let share = node::start(&layout, rt::CoreId(0), 1, None, &settings).await?;
    // No upkeep: it would ask after the objects that no version names.
    Ok(share)
}

async fn propose(
    share: Rc<CoreShare>,
    bucket: BucketId,
    writer: u64,
    window: Window,
) -> Result<(), Failure> {
    let link = share.store.link();
    let groups = link.local().remove(0).1;
    // What the record has beside its body.
    let beside = fill::encode(
        bucket,
        &name(writer, 0),
        Step::Put { body_bytes: 0 },
        link.map(),
    )
    .len();
    let step = Step::Put {
        body_bytes: Size::Small.bytes() as usize - beside,
    };
    let mut n = 0;
    while window.is_open() {
        n += 1;
        let key = name(writer, n % KEYS_PER_WRITER);
        let payload = fill::encode(bucket, &key, step, link.map());
        let pg = link.map().group_of_key(bucket, &key);
        let start = Instant::now();
        let outcome = groups.propose(pg, true, payload).await?;
        window.done(start, u64::from(outcome.is_ok()));
    }
    Ok(())
}

fn name(writer: u64, n: u64) -> Vec<u8> {
    format!("writer-{writer:02}-{n:04}").into_bytes()
}

async fn store(share: Rc<CoreShare>, writer: u64, window: Window) -> Result<(), Failure> {
    let volume = share.volumes[0].1.clone();
    let mut kept = std::collections::VecDeque::new();
    let mut n = 0;
    while window.is_open() {
        n += 1;
        let object = object_id(writer, n);
        let start = Instant::now();
        let (segments, data) = run_of_segments(object).await;
        volume
            .admit_put(Head::Bulk, segments.len(), data.len())
            .await?;
        let told = volume.store(segments, data).await?;
        volume.sync_shards().await?;
        told.await??;
        window.done(start, n);
        kept.push_back(object);
        if kept.len() > OBJECTS_PER_WRITER
            && let Some(object) = kept.pop_front()
        {
            // An overwrite would do the same, behind the writer's back.
            let volume = volume.clone();
            rt::spawn(async move { volume.free_object(object).await });
        }
    }
    for object in kept {
        volume.free_object(object).await?;
    }
    Ok(())
}
