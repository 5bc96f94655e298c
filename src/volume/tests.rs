//! A drive gives back what is deleted from it, again and again.

use std::{rc::Rc, time::Duration};

use shard_format::BLOCK_SIZE;

use crate::{
    index::StoreKind,
    node::{self, CoreShare, Settings},
    object::{
        Body, BodyError, BucketInfo, Condition, ObjectHeaders, ObjectStore, Store, StoreError,
        checksum::Checksum,
    },
    rt::{
        self, Buf, CoreId,
        sim::{FaultPlan, NodeId, World},
    },
};

const FILE_LENGTH: u64 = 2 << 20;
const VOLUMES: u16 = 2;
const FILES: u64 = 48;
/// Seven of these fill a file, as seven pieces of a large object fill one of 8 MiB.
const LARGE: usize = 256 << 10;
/// Longer than emptying a few files and freeing them takes on this drive.
const PATIENCE: Duration = Duration::from_secs(10);

struct Zeros(usize);

impl Body for Zeros {
    fn length(&self) -> u64 {
        self.0 as u64
    }

    async fn fill(
        &mut self,
        mut buf: Buf,
        at: usize,
        upto: usize,
    ) -> Result<(Buf, usize), BodyError> {
        buf.set_len(upto);
        buf[at..upto].fill(0);
        Ok((buf, upto))
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        Ok(())
    }

    fn checksum(&self) -> Option<Checksum> {
        None
    }
}

struct Drive {
    world: World,
    node: NodeId,
}

impl Drive {
    fn new(seed: u64) -> Drive {
        let world = World::new(seed);
        let node = world.add_node(1);
        let plan = FaultPlan {
            capacity: FILES * FILE_LENGTH + (1 << 20),
            ..FaultPlan::healthy()
        };
        world.add_drive(node, "/drive", plan);
        Drive { world, node }
    }

    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        self.world
            .run_on(self.node, CoreId(0), future)
            .expect("nothing fails here")
    }

    fn start(&self) -> Rc<CoreShare> {
        self.run(async {
            let settings = Settings {
                index_kind: StoreKind::Twin,
                index_headroom: 0,
                segment_file_length: Some(FILE_LENGTH),
                scheme: Some(shard_format::Scheme::PLAIN),
                without_missing: false,
                record_cache_bytes: 0,
            };
            let layout = node::prepare(&["/drive".into()], VOLUMES, &settings)
                .await
                .expect("formats");
            let share = node::start(&layout, CoreId(0), 1, None, &settings).await;
            let share = share.expect("starts");
            node::start_upkeep(&share);
            Rc::new(share)
        })
    }

    fn stop(&self, share: Rc<CoreShare>, clean: bool) {
        if clean {
            self.run(async move { node::stop(&share).await.expect("stops") });
        }
        self.world.kill(self.node);
        self.world.restart(self.node);
    }
}

async fn bucket(store: &Store) -> BucketInfo {
    match store.bucket("bucket").await {
        Ok(bucket) => bucket,
        Err(_) => store
            .create_bucket("bucket", "root", "")
            .await
            .expect("there is room for a bucket"),
    }
}

/// Puts new objects until they have been refused for a while; returns their names.
async fn fill(store: &Store, bytes: usize, next: &mut u32) -> Vec<Vec<u8>> {
    let bucket = bucket(store).await;
    let mut names = Vec::new();
    let mut refused_at = None;
    loop {
        *next += 1;
        let name = format!("{next:06}").into_bytes();
        let headers = ObjectHeaders::default();
        match store
            .put(&bucket, &name, headers, Condition::None, &mut Zeros(bytes))
            .await
        {
            Ok(_) => {
                names.push(name);
                refused_at = None;
            }
            Err(StoreError::Full) => {
                let since = *refused_at.get_or_insert(rt::now());
                if rt::now().saturating_since(since) > PATIENCE {
                    return names;
                }
                rt::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => panic!("{e:?}"),
        }
    }
}

async fn delete(store: &Store, names: &[Vec<u8>]) {
    let bucket = bucket(store).await;
    for name in names {
        if let Err(e) = store.delete(&bucket, name, Condition::None).await {
            let volumes = store.link().local();
            let files: Vec<_> = volumes.iter().map(|(_, g)| g.volume().files()).collect();
            panic!("{e:?}; files {files:?}");
        }
    }
}

/// A used volume has a file more than a fresh one, that of its relocate head.
#[test]
fn a_used_drive_holds_as_much_as_a_fresh_one() {
    let drive = Drive::new(1);
    let mut share = drive.start();
    let mut next = 0;
    let mut first = None;
    for cycle in 0..8 {
        let store = share.store.clone();
        let names;
        (names, next) = drive.run(async move {
            let names = fill(&store, LARGE, &mut next).await;
            (names, next)
        });
        let first = *first.get_or_insert(names.len());
        println!("cycle {cycle}: {}", names.len());
        let fewer_max = 7 * usize::from(VOLUMES);
        assert!(
            names.len() + fewer_max >= first,
            "cycle {cycle}: {} objects fit, {first} at first; files {:?}",
            names.len(),
            tables(&share)
        );
        drive.stop(share, cycle % 2 == 0);
        share = drive.start();
        let store = share.store.clone();
        drive.run(async move { delete(&store, &names).await });
    }
}

/// Deletes leave a hole in every file. No file is mostly dead, yet together the holes are many files. Copying takes
/// one of them a volume, for the relocate head.
#[test]
fn holes_on_a_full_drive_are_filled_again() {
    for bytes in [LARGE, 24 << 10] {
        let drive = Drive::new(1);
        let share = drive.start();
        let store = share.store.clone();
        let (deleted, refilled) = drive.run(async move {
            let mut next = 0;
            let names = fill(&store, bytes, &mut next).await;
            let holes: Vec<_> = names.iter().step_by(7).cloned().collect();
            delete(&store, &holes).await;
            (holes.len(), fill(&store, bytes, &mut next).await.len())
        });
        println!("{bytes} bytes: {deleted} deleted, {refilled} put again");
        let to_relocate = usize::from(VOLUMES) * FILE_LENGTH as usize / bytes;
        assert!(
            refilled + to_relocate >= deleted,
            "{bytes} bytes: {deleted} objects deleted, {refilled} fitted again; files {:?}",
            tables(&share)
        );
    }
}

/// What is left of the open files is for puts; the reserve is for deletes and for the next starts.
#[test]
fn a_drive_that_is_full_to_the_last_open_file_can_be_emptied() {
    let seeds = match std::env::var("OSTRAKON_SIM_SEEDS") {
        Ok(n) => n.parse().expect("OSTRAKON_SIM_SEEDS is a number"),
        Err(_) => 2,
    };
    (0..seeds).for_each(fill_restart_and_empty);
}

fn fill_restart_and_empty(seed: u64) {
    let drive = Drive::new(seed);
    let mut share = drive.start();
    let mut next = 0;
    for cycle in 0..3 {
        let store = share.store.clone();
        let (mut names, small);
        (names, small, next) = drive.run(async move {
            let mut names = fill(&store, LARGE, &mut next).await;
            let small = fill(&store, 4 << 10, &mut next).await;
            names.extend_from_slice(&small);
            (names, small.len(), next)
        });
        println!(
            "cycle {cycle}: {} objects, {small} of them small",
            names.len()
        );
        // Of two commit files, a quarter at least: a put takes a block of directory and one of payload, and in a used
        // store what deletes and reclaim wrote lies before them.
        let fit = 2 * FILE_LENGTH / (2 * BLOCK_SIZE as u64);
        assert!(
            small as u64 >= fit / 4,
            "{small}; files {:?}",
            tables(&share)
        );
        for restart in 0..4 {
            drive.stop(share, restart % 2 == 0);
            share = drive.start();
            let store = share.store.clone();
            // Refused or not, they must not take what deletes need.
            let more;
            (more, next) = drive.run(async move {
                let more = fill(&store, 4 << 10, &mut next).await;
                (more, next)
            });
            println!("  {} more after a restart", more.len());
            names.extend(more);
        }
        let store = share.store.clone();
        drive.run(async move {
            let bucket = bucket(&store).await;
            for name in &names {
                store
                    .head(&bucket, name)
                    .await
                    .expect("it was acknowledged");
            }
            delete(&store, &names).await;
        });
    }
}

fn tables(share: &CoreShare) -> Vec<impl std::fmt::Debug + use<>> {
    share.volumes.iter().map(|(_, v, _)| v.files()).collect()
}
