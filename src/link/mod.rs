//! Between cores: one set of messages, answered by the core that owns the volume they name.
//!
//! Today's carrier is the memory ring between the cores of one process ([`crate::rt::mailbox`]); QUIC to other nodes
//! will carry the same messages. A request to a volume of this core is a plain call. Payload buffers move by
//! ownership: a hop passes a pointer.
//!
//! Every ring is bounded. A full ring makes the sender wait; requests that wait are bounded by connections times what
//! each keeps in flight.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::future::join_all;
use shard_format::{BucketId, Epoch, Head, ObjectId, PgId, SegmentIndex};

use crate::{
    log::{FileState, Segment},
    meta::{
        BucketValue, Groups, ListQuery, ObjectRecord, Page, PartValue, UploadQuery, Uploaded,
        UploadsPage,
    },
    placement::Map,
    rt::{self, Buf, CoreId, mailbox::Mailbox},
    volume::{Counters, Fetched, Outcome, Shard, VolumeError},
};

/// How long volumes may take to answer. Scrapers wait for 10 s by default, and a core that is busy
/// for a second has other troubles to tell of.
const STATUS_TIME_MAX: Duration = Duration::from_secs(2);

/// What one core asks of a volume.
pub enum Request {
    /// Store one run of segments; answered when it is written.
    Store {
        segments: Vec<Segment>,
        data: Buf,
    },
    /// Make everything stored so far durable.
    SyncShards,
    Fetch {
        shard: Shard,
        segment: SegmentIndex,
        /// Where they go: memory of the core that asks, so that it waits for all it needs at once.
        buf: Buf,
    },
    /// Which runs of a shard there are.
    Runs {
        shard: Shard,
    },
    /// Free all shards of the object, durably.
    FreeObject {
        object: ObjectId,
    },
    Propose {
        commands: Vec<(PgId, Vec<u8>)>,
        needs_space: bool,
    },
    Read {
        pg: PgId,
        bucket: BucketId,
        key: Vec<u8>,
        lease: bool,
    },
    Bucket {
        name: String,
    },
    Buckets,
    IsEmpty {
        bucket: BucketId,
    },
    List(ListQuery),
    /// A new, leased object id of a key.
    Begin {
        key_hash32: u32,
    },
    BeginUpload {
        key_hash32: u32,
    },
    /// A new, leased object id of a part.
    BeginPart {
        upload: ObjectId,
    },
    Upload {
        pg: PgId,
        bucket: BucketId,
        key: Vec<u8>,
        upload: ObjectId,
    },
    /// Parts of an open upload with numbers above `after`.
    Parts {
        upload: ObjectId,
        after: u16,
        max: usize,
    },
    Uploads(UploadQuery),
    Renew {
        object: ObjectId,
    },
    Release {
        object: ObjectId,
    },
    /// Which of these may be freed: no version names them and none will.
    Orphans {
        objects: Vec<(PgId, ObjectId)>,
        age: Duration,
    },
    Status,
}

/// The answer to the request of the same name.
pub enum Reply {
    Done,
    Fetched(Fetched),
    /// Bit n is run n.
    Runs(u64),
    Outcomes(Vec<Outcome>),
    Record(ObjectRecord),
    Bucket(Option<BucketValue>),
    Buckets(Vec<(String, BucketValue)>),
    Empty(bool),
    Page(Page),
    Renewed(bool),
    Begun(ObjectId),
    Upload(Option<Uploaded>),
    Parts(Vec<PartValue>, bool),
    Uploads(UploadsPage),
    Orphans(Vec<ObjectId>),
    Status(VolumeStatus),
}

/// What a volume says of itself.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    pub counters: Counters,
    pub writable: Result<(), VolumeError>,
    /// Durable metadata cannot be read.
    pub suspect: bool,
    pub files_free: usize,
    pub files: usize,
    /// Length of one file.
    pub file_bytes: u64,
    /// Estimates, over all files and over sealed ones.
    pub live_bytes: u64,
    pub dead_bytes: u64,
    /// Of the commit, bulk and relocate heads.
    pub flushes: [u64; 3],
    /// The core that answers, and of its buffers the bytes handed out and all.
    pub core: CoreId,
    pub buffer_bytes: (usize, usize),
    /// Runs that this core read with the help of parity, and that it stored again.
    pub runs_rebuilt: u64,
    pub runs_repaired: u64,
}

/// A message on a ring.
pub enum Frame {
    Request {
        id: u64,
        volume: u16,
        request: Request,
    },
    Reply {
        id: u64,
        reply: Result<Reply, VolumeError>,
    },
}

struct Inner {
    core: CoreId,
    /// By epoch, the last one in force.
    maps: Vec<Map>,
    /// Owner of each volume; `None` while its drive is away.
    owners: Vec<Option<CoreId>>,
    local: RefCell<BTreeMap<u16, Rc<Groups>>>,
    mailbox: Option<Mailbox<Frame>>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Result<Reply, VolumeError>>>>,
    next_id: Cell<u64>,
    runs_rebuilt: Cell<u64>,
    runs_repaired: Cell<u64>,
}

/// One core's end of the links. Cheap to clone.
#[derive(Clone)]
pub struct Link(Rc<Inner>);

impl Link {
    pub fn new(
        core: CoreId,
        maps: Vec<Map>,
        owners: Vec<Option<CoreId>>,
        mailbox: Option<Mailbox<Frame>>,
    ) -> Link {
        assert!(maps.is_sorted_by(|a, b| a.epoch < b.epoch) && !maps.is_empty());
        Link(Rc::new(Inner {
            core,
            maps,
            owners,
            local: RefCell::default(),
            mailbox,
            waiting: RefCell::default(),
            next_id: Cell::new(0),
            runs_rebuilt: Cell::new(0),
            runs_repaired: Cell::new(0),
        }))
    }

    /// The map in force.
    pub fn map(&self) -> &Map {
        self.0.maps.last().expect("there is one")
    }

    /// The map that something was placed by.
    pub fn map_at(&self, epoch: Epoch) -> Option<&Map> {
        let at = self.0.maps.binary_search_by_key(&epoch, |map| map.epoch);
        at.ok().map(|at| &self.0.maps[at])
    }

    /// A run was read with the help of parity.
    pub fn count_rebuilt(&self) {
        self.0.runs_rebuilt.set(self.0.runs_rebuilt.get() + 1);
    }

    /// A run that lacked roles has them again.
    pub fn count_repaired(&self) {
        self.0.runs_repaired.set(self.0.runs_repaired.get() + 1);
    }

    /// Volumes of this core.
    pub fn local(&self) -> Vec<(u16, Rc<Groups>)> {
        self.0
            .local
            .borrow()
            .iter()
            .map(|(v, g)| (*v, g.clone()))
            .collect()
    }

    pub fn add_local(&self, volume: u16, groups: Rc<Groups>) {
        self.0.local.borrow_mut().insert(volume, groups);
    }

    /// The volumes that have groups. Who asks all of them for metadata gets an error if one does not answer, never less.
    pub fn homes(&self) -> impl Iterator<Item = u16> + use<'_> {
        self.map().homes().iter().map(|member| member.volume)
    }

    /// Volumes whose drives are here.
    pub fn volumes(&self) -> impl Iterator<Item = u16> + use<'_> {
        let owners = (0..).zip(&self.0.owners);
        owners.filter(|(_, owner)| owner.is_some()).map(|(v, _)| v)
    }

    /// Answers requests of other cores for ever.
    pub async fn serve(&self) {
        let Some(mailbox) = &self.0.mailbox else {
            return;
        };
        loop {
            let (from, frame) = mailbox.recv().await;
            match frame {
                Frame::Reply { id, reply } => {
                    if let Some(waiting) = self.0.waiting.borrow_mut().remove(&id) {
                        let _ = waiting.send(reply);
                    }
                }
                Frame::Request {
                    id,
                    volume,
                    request,
                } => {
                    let link = self.clone();
                    rt::spawn(async move {
                        let reply = link.answer(volume, request).await;
                        if let Some(mailbox) = &link.0.mailbox {
                            mailbox.send(from, Frame::Reply { id, reply }).await;
                        }
                    });
                }
            }
        }
    }

    /// Asks the core that owns `volume`.
    pub async fn call(&self, volume: u16, request: Request) -> Result<Reply, VolumeError> {
        let owner = self.0.owners.get(usize::from(volume)).copied().flatten();
        let Some(owner) = owner else {
            return Err(VolumeError::Away);
        };
        if owner == self.0.core {
            return self.answer(volume, request).await;
        }
        let mailbox = self.0.mailbox.as_ref().ok_or(VolumeError::Closed)?;
        let id = self.0.next_id.get();
        self.0.next_id.set(id + 1);
        let (tx, rx) = oneshot::channel();
        self.0.waiting.borrow_mut().insert(id, tx);
        mailbox
            .send(
                owner,
                Frame::Request {
                    id,
                    volume,
                    request,
                },
            )
            .await;
        rx.await.unwrap_or(Err(VolumeError::Closed))
    }

    /// What every volume that is here says of itself; `None` of one that does not answer in time.
    pub async fn statuses(&self) -> Vec<(u16, Option<VolumeStatus>)> {
        let asked = self.volumes().map(|volume| async move {
            let answer = rt::timeout(STATUS_TIME_MAX, self.call(volume, Request::Status)).await;
            match answer {
                Ok(Ok(Reply::Status(status))) => (volume, Some(status)),
                _ => (volume, None),
            }
        });
        join_all(asked).await
    }

    /// Tells without waiting for the answer.
    pub fn tell(&self, volume: u16, request: Request) {
        let link = self.clone();
        rt::spawn(async move {
            let _ = link.call(volume, request).await;
        });
    }

    async fn answer(&self, volume: u16, request: Request) -> Result<Reply, VolumeError> {
        let groups = self
            .0
            .local
            .borrow()
            .get(&volume)
            .cloned()
            .ok_or(VolumeError::Closed)?;
        let v = groups.volume();
        Ok(match request {
            Request::Store { segments, data } => {
                v.admit_put(Head::Bulk, segments.len(), data.len()).await?;
                let mut stored = v.store(segments, data).await?;
                // Durability is what `SyncShards` waits for; here only a refusal is already known.
                if let Ok(Some(Err(e))) = stored.try_recv() {
                    return Err(e);
                }
                Reply::Done
            }
            Request::SyncShards => {
                v.sync_shards().await?;
                Reply::Done
            }
            Request::Fetch {
                shard,
                segment,
                buf,
            } => Reply::Fetched(v.fetch(shard, segment, buf).await?),
            Request::Runs { shard } => Reply::Runs(v.runs(&shard)?),
            Request::FreeObject { object } => {
                if v.has_shards(object)? {
                    v.free_object(object).await?;
                }
                Reply::Done
            }
            Request::Propose {
                commands,
                needs_space,
            } => Reply::Outcomes(groups.propose_all(commands, needs_space).await?),
            Request::Read {
                pg,
                bucket,
                key,
                lease,
            } => Reply::Record(groups.read(pg, bucket, &key, lease).await?),
            Request::Bucket { name } => Reply::Bucket(groups.bucket(&name)?),
            Request::Buckets => Reply::Buckets(groups.buckets().await?),
            Request::IsEmpty { bucket } => Reply::Empty(groups.is_empty(bucket)?),
            Request::List(query) => Reply::Page(groups.list(&query).await?),
            Request::Begin { key_hash32 } => Reply::Begun(groups.begin(key_hash32)),
            Request::BeginUpload { key_hash32 } => Reply::Begun(groups.begin_upload(key_hash32)),
            Request::BeginPart { upload } => Reply::Begun(groups.begin_part(upload)?),
            Request::Upload {
                pg,
                bucket,
                key,
                upload,
            } => Reply::Upload(groups.upload(pg, bucket, &key, upload).await?),
            Request::Parts { upload, after, max } => {
                let (parts, more) = groups.parts(upload, after, max)?;
                Reply::Parts(parts, more)
            }
            Request::Uploads(query) => Reply::Uploads(groups.uploads(&query).await?),
            Request::Renew { object } => Reply::Renewed(groups.renew(object)),
            Request::Release { object } => {
                groups.release(object);
                Reply::Done
            }
            Request::Orphans { objects, age } => {
                Reply::Orphans(groups.orphans(objects, age).await?)
            }
            Request::Status => {
                let (files, file_bytes) = (v.files(), v.view().files.file_length());
                let dead = |state: FileState, live: u64| match state {
                    FileState::Sealed(_) | FileState::Retiring(_) => {
                        file_bytes.saturating_sub(live)
                    }
                    _ => 0,
                };
                Reply::Status(VolumeStatus {
                    counters: v.counters(),
                    writable: v.check_writable(),
                    suspect: v.check_all_groups().is_err(),
                    files_free: files.iter().filter(|f| f.2 == FileState::Free).count(),
                    files: files.len(),
                    file_bytes,
                    live_bytes: files.iter().map(|f| f.3).sum(),
                    dead_bytes: files.iter().map(|f| dead(f.2, f.3)).sum(),
                    flushes: [Head::Commit, Head::Bulk, Head::Relocate].map(|h| v.flushes(h)),
                    core: self.0.core,
                    buffer_bytes: rt::pool_usage(),
                    runs_rebuilt: self.0.runs_rebuilt.get(),
                    runs_repaired: self.0.runs_repaired.get(),
                })
            }
        })
    }
}
