//! What clients do to the store, and what they hold against it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{
    Faults,
    model::{Content, Mark, Model, State},
    uploads,
};
use crate::{
    object::{
        Body, BodyError, BucketInfo, Condition, ListEntry, ListRequest, ObjectHeaders, ObjectStore,
        ReadObject, Store, StoreError, checksum::Checksum,
    },
    rt::{
        self, Buf,
        sim::{Hang, Rng},
    },
    volume::VolumeError,
};

pub const KEYS_PER_CLIENT: usize = 6;

/// Keys of one client; some are prefixes of others.
pub fn key_name(client: usize, n: usize) -> Vec<u8> {
    match n {
        0 => format!("c{client}"),
        1 => format!("c{client}/"),
        2 => format!("c{client}/a"),
        n => format!("c{client}/d/{n}"),
    }
    .into_bytes()
}

/// What the clients of one load share.
pub struct Load {
    pub model: Rc<RefCell<Model>>,
    pub bucket: BucketInfo,
    pub faults: Faults,
    pub verdict: RefCell<Verdict>,
    /// For a put to be acknowledged.
    pub too_few_drives: bool,
}

#[derive(Default)]
pub struct Verdict {
    pub operations: u64,
    pub violation: Option<String>,
}

pub struct Client {
    pub number: usize,
    pub store: Store,
    pub rng: Rng,
    pub load: Rc<Load>,
    pub clients: usize,
}

/// A body in memory that arrives in pieces.
pub(super) struct Bytes {
    bytes: Vec<u8>,
    at: usize,
    /// Ends early or fails at the end, as clients do.
    broken: bool,
}

impl Bytes {
    pub(super) fn whole(bytes: Vec<u8>) -> Bytes {
        Bytes {
            bytes,
            at: 0,
            broken: false,
        }
    }
}

impl Body for Bytes {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn fill(
        &mut self,
        mut buf: Buf,
        at: usize,
        upto: usize,
    ) -> Result<(Buf, usize), BodyError> {
        let count = (upto - at).min(self.bytes.len() - self.at);
        rt::yield_now().await;
        buf[at..at + count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok((buf, at + count))
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        if self.broken {
            Err(BodyError::Signature)
        } else {
            Ok(())
        }
    }

    fn checksum(&self) -> Option<Checksum> {
        None
    }
}

impl Client {
    pub async fn run(mut self, operations: u64) {
        for _ in 0..operations {
            if self.load.verdict.borrow().violation.is_some() {
                return;
            }
            if let Err(what) = self.one().await {
                self.load.verdict.borrow_mut().violation.get_or_insert(what);
                return;
            }
            self.load.verdict.borrow_mut().operations += 1;
            if self.rng.chance(0.2) {
                rt::sleep(Duration::from_micros(self.rng.below(5_000))).await;
            }
        }
    }

    async fn one(&mut self) -> Result<(), String> {
        let own = key_name(self.number, self.rng.below(KEYS_PER_CLIENT as u64) as usize);
        match self.rng.below(100) {
            0..=36 => self.put(&own).await,
            37..=44 => self.upload(&own).await,
            45..=59 => self.delete(&own).await,
            60..=92 => {
                let client = self.rng.below(self.clients as u64) as usize;
                let any = key_name(client, self.rng.below(KEYS_PER_CLIENT as u64) as usize);
                // Slow clients: some take longer than it takes to free an overwritten object.
                let pause = match self.rng.below(20) {
                    0 => Some(Duration::from_millis(self.rng.below(2_000))),
                    1..=5 => Some(Duration::from_micros(self.rng.below(30_000))),
                    _ => None,
                };
                get(&self.store, &self.load, &any, pause, true)
                    .await
                    .map(|_| ())
            }
            93..=94 => self.make_it_again().await,
            95 => self.short_lived_bucket().await,
            _ => list(&self.store, &self.load, true).await,
        }
    }

    /// A name that is taken stays whose it is: a refused command that must stay refused after every restart.
    async fn make_it_again(&mut self) -> Result<(), String> {
        match self
            .store
            .create_bucket("bucket", "somebody else", "r")
            .await
        {
            Err(StoreError::BucketAlreadyExists { owner }) if owner == "owner" => Ok(()),
            Err(e) => self.tolerate(&e, "create", b"bucket"),
            Ok(_) => Err("a bucket was made twice".to_owned()),
        }
    }

    /// A bucket from its making to its end, with an object in between.
    async fn short_lived_bucket(&mut self) -> Result<(), String> {
        let name = format!("short-{}-{}", self.number, self.rng.u64());
        let step = |what: &str, e: StoreError| self.tolerate(&e, what, name.as_bytes());
        let bucket = match self.store.create_bucket(&name, "owner", "r").await {
            Ok(bucket) => bucket,
            Err(e) => return step("create", e),
        };
        let content = Content::plain(5, 40);
        let mut body = Bytes::whole(content.bytes());
        if let Err(e) = self
            .store
            .put(
                &bucket,
                b"k",
                ObjectHeaders::default(),
                Condition::None,
                &mut body,
            )
            .await
        {
            return step("put into a new bucket", e);
        }
        match self.store.delete_bucket(&bucket).await {
            Err(StoreError::BucketNotEmpty) => {}
            Err(e) => return step("delete of a bucket with an object", e),
            Ok(()) => return Err("a bucket with an object in it was deleted".to_owned()),
        }
        if let Err(e) = self.store.delete(&bucket, b"k", Condition::None).await {
            return step("delete from a bucket", e);
        }
        if let Err(e) = self.store.delete_bucket(&bucket).await {
            return step("delete of an empty bucket", e);
        }
        let mut body = Bytes::whole(content.bytes());
        match self
            .store
            .put(
                &bucket,
                b"k",
                ObjectHeaders::default(),
                Condition::None,
                &mut body,
            )
            .await
        {
            Err(StoreError::NoSuchBucket) => Ok(()),
            Err(e) => step("put into a deleted bucket", e),
            Ok(_) => Err("a put into a deleted bucket was acknowledged".to_owned()),
        }
    }

    async fn put(&mut self, key: &[u8]) -> Result<(), String> {
        let size = match self.rng.below(10) {
            0 => 0,
            1..=3 => self.rng.below(600),
            4..=6 => self.rng.below(33_000),
            7..=8 => 33_000 + self.rng.below(60_000),
            _ => 60_000 + self.rng.below(200_000),
        } as usize;
        let content = Content::plain(self.rng.u64(), size);
        let broken = self.rng.chance(0.05);
        let mut body = Bytes {
            bytes: content.bytes(),
            at: 0,
            broken,
        };
        if !broken {
            self.load.model.borrow_mut().attempt(key, Some(content));
        }
        let headers = ObjectHeaders {
            owner: "owner".into(),
            content_type: Some("application/octet-stream".into()),
            ..ObjectHeaders::default()
        };
        let result = self
            .store
            .put(&self.load.bucket, key, headers, Condition::None, &mut body)
            .await;
        match result {
            Ok(_) if broken => Err(format!("a broken body was stored as {}", text(key))),
            Ok(done) => {
                if done.etag.md5 != content.md5() {
                    return Err(format!("put {}: wrong etag", text(key)));
                }
                self.load.model.borrow_mut().settle(key);
                Ok(())
            }
            Err(StoreError::Body(_)) if broken => Ok(()),
            Err(e) => {
                self.tolerate(&e, "put", key)?;
                if e == StoreError::Full && !broken {
                    // Nothing of it may ever be seen.
                    self.load.model.borrow_mut().withdraw(key);
                }
                if matches!(e, StoreError::Full) {
                    rt::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
        }
    }

    async fn delete(&mut self, key: &[u8]) -> Result<(), String> {
        self.load.model.borrow_mut().attempt(key, None);
        match self
            .store
            .delete(&self.load.bucket, key, Condition::None)
            .await
        {
            Ok(()) => {
                self.load.model.borrow_mut().settle(key);
                Ok(())
            }
            Err(e) => self.tolerate(&e, "delete", key),
        }
    }

    pub(super) fn tolerate(&self, e: &StoreError, what: &str, key: &[u8]) -> Result<(), String> {
        let read_only = matches!(
            e,
            StoreError::ReadOnly { .. } | StoreError::Unreadable { .. }
        );
        let unavailable = matches!(e, StoreError::Unavailable { .. } | StoreError::Full);
        // With as many drives away as there is parity, old objects are read, and new ones have too few to go to.
        let short = self.load.too_few_drives && *e == StoreError::from(VolumeError::Away);
        let fine = match self.load.faults {
            Faults::Crash => short,
            Faults::Full => *e == StoreError::Full || short,
            Faults::Io => read_only,
            Faults::Rot => read_only || unavailable,
        };
        if fine {
            Ok(())
        } else {
            Err(format!("{what} {}: {e}", text(key)))
        }
    }
}

/// Reads, one key after the other, and asks the drive to hang on its reads. The drive holds no client up by that: what
/// is read is overwritten, reclaimed and its file filled again while the read is under way.
pub struct Reader {
    pub store: Store,
    pub rng: Rng,
    pub load: Rc<Load>,
    pub clients: usize,
    pub hang: Hang,
}

impl Reader {
    pub async fn run(mut self, goes_on: impl Fn() -> bool) {
        while goes_on() && self.load.verdict.borrow().violation.is_none() {
            let client = self.rng.below(self.clients as u64) as usize;
            let key = key_name(client, self.rng.below(KEYS_PER_CLIENT as u64) as usize);
            // The read of the record, or that of the body behind it; for 0.1 s to 1 s or ten times as long, because
            // how long a file lives depends on the load.
            let by = Duration::from_micros(self.rng.between(100_000, 1_000_000));
            let by = if self.rng.coin() { by } else { by * 10 };
            self.hang.read(self.rng.below(2) as u32, by);
            let got = get(&self.store, &self.load, &key, None, true).await;
            // A key without a body, or without a record, needs fewer reads; reclaim's shall not hang instead.
            self.hang.off();
            if let Err(what) = got {
                self.load.verdict.borrow_mut().violation.get_or_insert(what);
            }
            rt::sleep(Duration::from_micros(self.rng.below(5_000))).await;
        }
    }
}

pub(super) fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// Reads a key and holds it against the model. `None`: it could not be read, and that is allowed.
async fn get(
    store: &Store,
    load: &Load,
    key: &[u8],
    pause: Option<Duration>,
    concurrent: bool,
) -> Result<Option<State>, String> {
    let mark = load.model.borrow_mut().mark(key);
    let read = read(store, &load.bucket, key, pause).await;
    let (md5, bytes) = match read {
        Ok(found) => found,
        Err(StoreError::NoSuchKey) => {
            return check(load, key, mark, None).map(|()| Some(None));
        }
        Err(e) => {
            let damage = matches!(
                e,
                StoreError::Unreadable { .. } | StoreError::Unavailable { .. }
            );
            return if damage && load.faults == Faults::Rot {
                Ok(None)
            } else {
                Err(format!(
                    "get {} ({}): {e}",
                    text(key),
                    if concurrent { "under load" } else { "at rest" }
                ))
            };
        }
    };
    let model = load.model.borrow();
    let found = model
        .allowed(key, mark)
        .iter()
        .flatten()
        .find(|c| c.size == bytes.len() && c.md5() == md5 && c.bytes() == bytes)
        .copied();
    match found {
        Some(content) => Ok(Some(Some(content))),
        None => Err(format!(
            "get {}: {} bytes with etag {md5:02x?} are none of {:?}",
            text(key),
            bytes.len(),
            model.allowed(key, mark)
        )),
    }
}

fn check(load: &Load, key: &[u8], mark: Mark, state: State) -> Result<(), String> {
    let model = load.model.borrow();
    let allowed = model.allowed(key, mark);
    if allowed.contains(&state) {
        Ok(())
    } else {
        Err(format!(
            "{} is {state:?}, which is none of {allowed:?}",
            text(key)
        ))
    }
}

async fn read(
    store: &Store,
    bucket: &BucketInfo,
    key: &[u8],
    pause: Option<Duration>,
) -> Result<([u8; 16], Vec<u8>), StoreError> {
    let mut reader = store.get(bucket, key).await?;
    let md5 = reader.info().etag.md5;
    let size = reader.info().size as usize;
    let mut bytes = Vec::with_capacity(size);
    if let Some(pause) = pause {
        rt::sleep(pause).await;
    }
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() != size {
        return Err(StoreError::NoSuchBucket);
    }
    Ok((md5, bytes))
}

/// Lists the bucket, in pages, and holds it against the model.
async fn list(store: &Store, load: &Load, concurrent: bool) -> Result<(), String> {
    let names = load.model.borrow().names();
    let marks: Vec<Mark> = names
        .iter()
        .map(|n| load.model.borrow_mut().mark(n))
        .collect();
    let mut found = std::collections::BTreeMap::new();
    let mut after = Vec::new();
    loop {
        let request = ListRequest {
            prefix: Vec::new(),
            delimiter: None,
            after,
            max_keys: 7,
        };
        let page = match store.list(&load.bucket, request).await {
            Ok(page) => page,
            Err(StoreError::Unavailable { .. } | StoreError::Unreadable { .. })
                if load.faults == Faults::Rot =>
            {
                return Ok(());
            }
            Err(e) => return Err(format!("list: {e}")),
        };
        for entry in page.entries {
            let ListEntry::Object(o) = entry else {
                return Err("a prefix in a plain listing".into());
            };
            if found
                .last_key_value()
                .is_some_and(|(last, _)| *last >= o.key)
            {
                return Err(format!("listing out of order at {}", text(&o.key)));
            }
            found.insert(o.key, (o.size as usize, o.etag.md5));
        }
        if !page.truncated {
            break;
        }
        after = page.next_after;
    }
    let model = load.model.borrow();
    for (name, mark) in names.iter().zip(marks) {
        let allowed = model.allowed(name, mark);
        let fine = match found.remove(name) {
            None => allowed.contains(&None),
            Some((size, md5)) => allowed
                .iter()
                .flatten()
                .any(|c| c.size == size && c.md5() == md5),
        };
        if !fine {
            let when = if concurrent { "under load" } else { "at rest" };
            return Err(format!(
                "the listing is wrong about {} ({when}); allowed {allowed:?}",
                text(name)
            ));
        }
    }
    match found.pop_first() {
        Some((key, _)) => Err(format!("the listing invents {}", text(&key))),
        None => Ok(()),
    }
}

/// After a restart: every key and the listing. What is seen is settled.
pub async fn look_at_everything(store: &Store, load: &Load, strict: bool) -> Result<(), String> {
    match store.bucket("bucket").await {
        Ok(found) if found.id == load.bucket.id && found.owner == load.bucket.owner => {}
        Err(StoreError::Unavailable { .. } | StoreError::Unreadable { .. }) if !strict => {}
        other => return Err(format!("the bucket is {other:?}, not {:?}", load.bucket)),
    }
    let names = load.model.borrow().names();
    for name in &names {
        match get(store, load, name, None, false).await? {
            Some(state) => load.model.borrow_mut().observe(name, state),
            None if strict => return Err(format!("{} cannot be read", text(name))),
            None => {}
        }
    }
    list(store, load, false).await?;
    uploads::complete_again(store, load, strict).await?;
    for name in &names {
        if let Some(state) = get(store, load, name, None, false).await? {
            load.model.borrow_mut().observe(name, state);
        }
    }
    Ok(())
}

/// Deletes everything, waits for reclaim, and puts again.
pub async fn empty_and_refill(store: &Store, load: &Load) -> Result<(), String> {
    let names = load.model.borrow().names();
    for name in names {
        load.model.borrow_mut().attempt(&name, None);
        store
            .delete(&load.bucket, &name, Condition::None)
            .await
            .map_err(|e| format!("delete on a full drive: {e}"))?;
        load.model.borrow_mut().settle(&name);
    }
    let name = load.model.borrow().names()[0].clone();
    for _ in 0..600 {
        let content = Content::plain(77, 100_000);
        let mut body = Bytes::whole(content.bytes());
        load.model.borrow_mut().attempt(&name, Some(content));
        match store
            .put(
                &load.bucket,
                &name,
                ObjectHeaders::default(),
                Condition::None,
                &mut body,
            )
            .await
        {
            Ok(_) => {
                load.model.borrow_mut().settle(&name);
                return Ok(());
            }
            Err(StoreError::Full) => {
                load.model.borrow_mut().withdraw(&name);
                rt::sleep(Duration::from_millis(200)).await;
            }
            Err(e) => return Err(format!("put on an emptied drive: {e}")),
        }
    }
    Err("an emptied drive stays full".into())
}
