//! One core of a load: its connections, each with a task that takes a step, performs it and records
//! how that went.
//!
//! ```text
//! connect all ── ready ── (main sets the clock) ── warm up ── window ── drain ── join
//! ```

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use percent_encoding::percent_encode;
use sha2::{Digest, Sha256};

use super::client::{Answer, Body, Connection, Failure, Sink, Sizes, Watch, element, elements};
use super::keys::{self, Content, Identity, Verifier};
use super::measure::{End, Kind, Measured, Window};
use super::pace::Pace;
use super::sign::{Credentials, Request, Signer, UNSIGNED};
use super::workload::{Step, Steps, Workload};
use crate::http::target::ENCODED;
use crate::object::checksum::{Algorithm, Hasher};
use crate::rt::{self, Instant};
use crate::s3::sigv4::{EMPTY_SHA256, hex};
use crate::signals::Event;

/// What is under way when the window ends may take this long; then its connections are cut.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Wait before connecting again when that failed: a dead server is not to be hammered.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How often the watchdog looks at all connections.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Keys on a page of a listing.
const PAGE_KEYS: &str = "1000";

/// Connections that a core makes at a time.
const CONNECTING_MAX: usize = 64;

/// What all cores are told.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    /// The value of `Host`.
    pub host: String,
    /// `None`: requests are not signed.
    pub credentials: Option<Credentials>,
    pub bucket: String,
    /// Bytes of every object.
    pub size: u64,
    pub part_size: u64,
    /// Bodies are hashed, and the hash signed.
    pub signed_payload: bool,
    pub crc32c: bool,
    pub verify: bool,
    pub seed: u64,
    pub request_timeout: Duration,
    /// Keys of the whole key space.
    pub objects: u64,
    pub task: Task,
}

/// What the cores are to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Task {
    /// Put all keys, once.
    Fill,
    /// Delete all keys of `made`, once.
    Clear,
    Run {
        workload: Workload,
        /// Operations a second over all cores; `None`: as soon as a connection is free.
        rate: Option<f64>,
    },
}

impl Load {
    /// What connections need buffers for.
    pub fn sizes(&self) -> Sizes {
        let (mut sent, mut received) = (0, 0);
        match self.task {
            Task::Fill => sent = self.size,
            Task::Clear => {}
            Task::Run { workload, .. } => match workload {
                Workload::Put => sent = self.size,
                Workload::Multipart => sent = self.part_size,
                Workload::Get => received = self.size,
                Workload::Mixed(_) => (sent, received) = (self.size, self.size),
                Workload::List => received = u64::MAX,
                Workload::Stat | Workload::Delete => {}
            },
        }
        Sizes { sent, received }
    }

    fn kind(&self) -> Kind {
        match self.task {
            Task::Fill => Kind::Put,
            Task::Clear => Kind::Delete,
            Task::Run { workload, .. } => match workload {
                Workload::Put => Kind::Put,
                Workload::Get | Workload::Mixed(_) => Kind::Get,
                Workload::Stat => Kind::Stat,
                Workload::Delete => Kind::Delete,
                Workload::List => Kind::List,
                Workload::Multipart => Kind::Upload,
            },
        }
    }
}

/// One core's part.
pub struct Share {
    pub core: usize,
    pub cores: usize,
    pub connections: usize,
    /// Its keys.
    pub keys: Range<u64>,
    pub live: Arc<Live>,
    /// Told when all connections are made, or why not.
    pub ready: mpsc::Sender<Result<(), String>>,
    pub start: Start,
}

/// How far a core is, for the progress bar. Written by that core alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Live {
    pub operations: AtomicU64,
    pub errors: AtomicU64,
}

/// The clock of a load, set once by the main thread.
#[derive(Clone, Default)]
pub struct Start {
    event: Event,
    times: Arc<OnceLock<Option<Times>>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub origin: Instant,
    pub window: Window,
}

impl Start {
    /// `None` calls it off.
    pub fn set(&self, times: Option<Times>) {
        // Only the main thread sets it, once.
        let _ = self.times.set(times);
        self.event.request();
    }

    async fn wait(&self) -> Option<Times> {
        self.event.requested().await;
        self.times.get().copied().flatten()
    }
}

/// What a core returns.
pub struct Outcome {
    pub measured: Measured,
    /// CPU time of the core within the window, or to its end if that came first.
    pub cpu: Duration,
    /// When its last connection had nothing more to do.
    pub finished: Instant,
    /// Keys that may exist because of this load, or are left.
    pub leaves: Range<u64>,
    /// The keys were used up before the time was.
    pub exhausted: bool,
}

struct Core {
    load: Load,
    live: Arc<Live>,
    times: Times,
    steps: RefCell<Steps>,
    pace: Option<RefCell<Pace>>,
    measured: RefCell<Measured>,
    exhausted: Cell<bool>,
}

/// Runs one core's part. `None` if it was called off.
pub async fn run(load: Load, share: Share) -> Option<Outcome> {
    let content = Rc::new(Content::new(load.seed));
    let sizes = load.sizes();
    let mut connections: Vec<Connection> = (0..share.connections)
        .map(|_| Connection::new(load.address, content.clone(), sizes))
        .collect();
    let mut connected = Ok(());
    for some in connections.chunks_mut(CONNECTING_MAX) {
        let results =
            futures_util::future::join_all(some.iter_mut().map(Connection::connect)).await;
        if let Some(failure) = results.into_iter().find_map(Result::err) {
            connected = Err(format!("{}: {failure}", load.address));
            break;
        }
    }
    // The main thread waits until all cores have told, or have gone.
    let _ = share.ready.send(connected);
    drop(share.ready);
    let times = share.start.wait().await?;

    let Times { origin, window } = times;
    let steps = match load.task {
        Task::Fill => Steps::fill(share.keys.clone()),
        Task::Clear => Steps::clear(share.keys.clone()),
        Task::Run { workload, .. } => {
            Steps::of(workload, share.keys.clone(), load.seed, share.core)
        }
    };
    let pace = match load.task {
        Task::Run {
            rate: Some(rate), ..
        } => Some(RefCell::new(Pace::new(
            origin,
            window.end,
            rate,
            share.core,
            share.cores,
        ))),
        _ => None,
    };
    let core = Rc::new(Core {
        live: share.live,
        times,
        steps: RefCell::new(steps),
        pace,
        measured: RefCell::new(Measured::new(window)),
        exhausted: Cell::new(false),
        load,
    });
    let watches: Vec<Rc<Watch>> = connections.iter().map(Connection::watch).collect();
    let watchdog = rt::spawn(watch(core.clone(), watches));
    let cpu = rt::spawn(async move {
        rt::sleep_until(window.begin).await;
        let before = rt::cpu_time();
        let at_end: Rc<Cell<Option<Duration>>> = Rc::default();
        let seen = at_end.clone();
        rt::spawn(async move {
            rt::sleep_until(window.end).await;
            seen.set(Some(rt::cpu_time()));
        });
        (before, at_end)
    });

    rt::sleep_until(origin).await;
    let slots: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            let signer = Signer::new(core.load.host.clone(), core.load.credentials.clone());
            let slot = Slot {
                core: core.clone(),
                connection,
                signer,
                head: String::with_capacity(1024),
                path: String::new(),
                token: None,
                walked: 0,
            };
            rt::spawn(slot.run())
        })
        .collect();
    for slot in slots {
        slot.await;
    }
    let finished = rt::now();
    watchdog.cancel();
    let used = if cpu.is_done() {
        let (before, at_end) = cpu.await;
        at_end
            .get()
            .unwrap_or_else(rt::cpu_time)
            .saturating_sub(before)
    } else {
        Duration::ZERO
    };
    core.give_up(finished);
    let measured = core.measured.borrow().clone();
    let leaves = core.steps.borrow().leaves();
    Some(Outcome {
        measured,
        cpu: used,
        finished,
        leaves,
        exhausted: core.exhausted.get(),
    })
}

/// Cuts connections whose requests take too long, and all of them at the end of the drain.
async fn watch(core: Rc<Core>, watches: Vec<Rc<Watch>>) {
    loop {
        rt::sleep(WATCH_INTERVAL).await;
        let now = rt::now();
        let timeout = core.load.request_timeout.as_nanos();
        let timeout = u64::try_from(timeout).unwrap_or(u64::MAX);
        let oldest = Instant::from_nanos(now.as_nanos().saturating_sub(timeout));
        for watch in &watches {
            if now >= core.drained() {
                watch.cut();
            } else {
                watch.cut_if_older(oldest);
            }
        }
    }
}

impl Core {
    /// When nothing may be under way any more.
    fn drained(&self) -> Instant {
        self.times.window.end + DRAIN_TIME_MAX
    }

    /// Arrivals that nobody took.
    fn give_up(&self, now: Instant) {
        let Some(pace) = &self.pace else { return };
        if self.exhausted.get() {
            return;
        }
        let mut measured = self.measured.borrow_mut();
        while let Some(at) = pace.borrow_mut().take() {
            measured.unserved(self.load.kind(), at, now);
        }
    }

    /// The moment for which the next operation is meant, when it has come.
    async fn next_moment(&self) -> Option<Instant> {
        let Some(pace) = &self.pace else {
            let now = rt::now();
            return (now < self.times.window.end).then_some(now);
        };
        if rt::now() >= self.drained() {
            return None;
        }
        let at = pace.borrow_mut().take()?;
        if at > rt::now() {
            rt::sleep_until(at).await;
        }
        Some(at)
    }

    fn done(&self, kind: Kind, began: Instant, bytes: u64, keys: u64) {
        let ended = rt::now();
        let end = End {
            kind,
            began,
            ended,
            bytes,
            keys,
        };
        self.measured.borrow_mut().done(end);
        if kind.is_operation() {
            self.live.operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self, kind: Kind, failure: &Failure) {
        self.measured
            .borrow_mut()
            .failed(kind, rt::now(), &failure.to_string());
        self.live.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection and what it needs to make requests.
struct Slot {
    core: Rc<Core>,
    connection: Connection,
    signer: Signer,
    head: String,
    path: String,
    /// Where the walk through the keys goes on; `None`: at the beginning.
    token: Option<String>,
    /// Keys that the walk has seen.
    walked: u64,
}

/// One request's own part.
#[derive(Clone)]
struct Plan<'a> {
    method: &'static str,
    query: &'a [(&'a str, &'a str)],
    body: Body<'a>,
    expected: u16,
}

impl Slot {
    async fn run(mut self) {
        while let Some(began) = self.core.next_moment().await {
            let Some(step) = self.core.steps.borrow_mut().take() else {
                self.core.exhausted.set(true);
                break;
            };
            let ok = self.perform(step, began).await;
            self.core.steps.borrow_mut().ended(step, ok);
        }
        self.core.measured.borrow_mut().reconnects += self.connection.reconnects();
    }

    /// Performs one operation and records it; whether it went well.
    async fn perform(&mut self, step: Step, began: Instant) -> bool {
        let size = self.core.load.size;
        let (kind, result) = match step {
            Step::Put(body) => (Kind::Put, self.put(body).await.map(|()| (size, 0))),
            Step::Get(key) => (Kind::Get, self.get(key).await.map(|()| (size, 0))),
            Step::Stat(key) => (Kind::Stat, self.stat(key).await.map(|()| (0, 0))),
            Step::Delete(key) => (Kind::Delete, self.delete(key).await.map(|()| (0, 0))),
            Step::Page => (Kind::List, self.page().await.map(|keys| (0, keys))),
            Step::Upload(body) => {
                // Its requests record themselves, errors too.
                let ok = self.upload(body).await;
                if ok {
                    self.core.done(Kind::Upload, began, size, 0);
                }
                return ok;
            }
        };
        match result {
            Ok((bytes, keys)) => {
                self.core.done(kind, began, bytes, keys);
                true
            }
            Err(failure) => {
                self.core.failed(kind, &failure);
                self.pause_after(&failure).await;
                false
            }
        }
    }

    async fn pause_after(&self, failure: &Failure) {
        if matches!(failure, Failure::Connect(_)) {
            rt::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn set_path(&mut self, key: Option<u64>) {
        let load = &self.core.load;
        self.path.clear();
        self.path.push('/');
        self.path.push_str(&load.bucket);
        if let Some(key) = key {
            self.path.push('/');
            self.path.push_str(&keys::prefix(load.size));
            keys::push_name(&mut self.path, key);
        }
    }

    /// Signs and sends a request to the path that is set, and receives its answer.
    async fn request(&mut self, plan: Plan<'_>, sink: &mut Sink<'_>) -> Result<Answer, Failure> {
        let load = &self.core.load;
        let sends = !matches!(plan.body, Body::None);
        let content_sha256 = match &plan.body {
            Body::None => EMPTY_SHA256.to_owned(),
            Body::Bytes(bytes) => hex(&Sha256::digest(bytes).into()),
            Body::Content(..) if !load.signed_payload => UNSIGNED.to_owned(),
            Body::Content(body, range) => {
                let mut hash = Sha256::new();
                self.connection
                    .content()
                    .pieces(*body, range.clone(), |piece| hash.update(piece));
                hex(&hash.finalize().into())
            }
        };
        let crc32c = match &plan.body {
            Body::Content(body, range) if load.crc32c => {
                let mut hasher = Hasher::new(Algorithm::Crc32c);
                self.connection
                    .content()
                    .pieces(*body, range.clone(), |piece| hasher.update(piece));
                Some(hasher.finish().base64())
            }
            _ => None,
        };
        let request = Request {
            method: plan.method,
            path: &self.path,
            query: plan.query,
            content_sha256: &content_sha256,
            crc32c: crc32c.as_deref(),
            content_length: sends.then(|| plan.body.len()),
        };
        self.head.clear();
        self.signer.write(&mut self.head, &request, rt::unix_ms());
        self.connection
            .exchange(&self.head, plan.body, plan.expected, sink)
            .await
    }

    async fn put(&mut self, body: Identity) -> Result<(), Failure> {
        self.set_path(Some(body.key));
        let plan = Plan {
            method: "PUT",
            query: &[],
            body: Body::Content(body, 0..self.core.load.size),
            expected: 200,
        };
        self.request(plan, &mut Sink::Discard).await.map(|_| ())
    }

    async fn get(&mut self, key: u64) -> Result<(), Failure> {
        self.set_path(Some(key));
        let plan = Plan {
            method: "GET",
            query: &[],
            body: Body::None,
            expected: 200,
        };
        let core = self.core.clone();
        let size = core.load.size;
        if !core.load.verify {
            let answer = self.request(plan, &mut Sink::Discard).await?;
            return right(answer.length == size, "another length than was put");
        }
        let content = self.connection.shared_content();
        let mut sink = Sink::Verify(Verifier::new(&content, key, size));
        self.request(plan, &mut sink).await?;
        let Sink::Verify(verifier) = sink else {
            unreachable!("a sink stays what it is")
        };
        right(verifier.is_right(), "other bytes than were put")
    }

    async fn stat(&mut self, key: u64) -> Result<(), Failure> {
        self.set_path(Some(key));
        let plan = Plan {
            method: "HEAD",
            query: &[],
            body: Body::None,
            expected: 200,
        };
        let answer = self.request(plan, &mut Sink::Discard).await?;
        let size = self.core.load.size;
        right(answer.length == size, "another length than was put")
    }

    async fn delete(&mut self, key: u64) -> Result<(), Failure> {
        self.set_path(Some(key));
        let plan = Plan {
            method: "DELETE",
            query: &[],
            body: Body::None,
            expected: 204,
        };
        self.request(plan, &mut Sink::Discard).await.map(|_| ())
    }

    /// The next page of the walk; how many keys it had.
    async fn page(&mut self) -> Result<u64, Failure> {
        let result = self.next_page().await;
        if result.is_err() {
            (self.token, self.walked) = (None, 0);
        }
        result
    }

    async fn next_page(&mut self) -> Result<u64, Failure> {
        self.set_path(None);
        let prefix = keys::prefix(self.core.load.size);
        let encoded = percent_encode(prefix.as_bytes(), ENCODED).to_string();
        let token = self
            .token
            .take()
            .map(|token| percent_encode(token.as_bytes(), ENCODED).to_string());
        let rest = [
            ("list-type", "2"),
            ("max-keys", PAGE_KEYS),
            ("prefix", &encoded),
        ];
        let query: Vec<(&str, &str)> = token
            .iter()
            .map(|token| ("continuation-token", token.as_str()))
            .chain(rest)
            .collect();
        let plan = Plan {
            method: "GET",
            query: &query,
            body: Body::None,
            expected: 200,
        };
        let answer = self.request(plan, &mut Sink::Keep).await?;
        let document =
            String::from_utf8(answer.document).map_err(|_| Failure::Malformed("not UTF-8"))?;
        let verify = self.core.load.verify;
        let mut count = 0;
        let mut expected = String::new();
        for key in elements(&document, "Key") {
            if verify {
                expected.clear();
                expected.push_str(&prefix);
                keys::push_name(&mut expected, self.walked + count);
                right(key == expected, "other keys than were put")?;
            }
            count += 1;
        }
        self.walked += count;
        match element(&document, "IsTruncated").as_deref() {
            Some("true") => {
                let token = element(&document, "NextContinuationToken");
                self.token = Some(token.ok_or(Failure::Malformed("a page without its end"))?);
            }
            Some("false") => {
                let walked = std::mem::take(&mut self.walked);
                if verify {
                    right(walked == self.core.load.objects, "another count of keys")?;
                }
            }
            _ => return Err(Failure::Malformed("not a listing")),
        }
        Ok(count)
    }

    /// Creates an upload, sends its parts in order, completes it.
    async fn upload(&mut self, body: Identity) -> bool {
        self.set_path(Some(body.key));
        let mut id = None;
        match self.try_upload(body, &mut id).await {
            Ok(()) => true,
            Err((kind, failure)) => {
                self.core.failed(kind, &failure);
                self.pause_after(&failure).await;
                if let Some(id) = id {
                    self.abort(&id).await;
                }
                false
            }
        }
    }

    async fn try_upload(
        &mut self,
        body: Identity,
        id: &mut Option<String>,
    ) -> Result<(), (Kind, Failure)> {
        let core = self.core.clone();
        let began = rt::now();
        let plan = Plan {
            method: "POST",
            query: &[("uploads", "")],
            body: Body::Bytes(b""),
            expected: 200,
        };
        let answer = self.request(plan, &mut Sink::Keep).await;
        let upload = answer
            .and_then(|answer| {
                element(&String::from_utf8_lossy(&answer.document), "UploadId")
                    .ok_or(Failure::Malformed("no upload id"))
            })
            .map_err(|failure| (Kind::Create, failure))?;
        core.done(Kind::Create, began, 0, 0);
        let upload = id.insert(percent_encode(upload.as_bytes(), ENCODED).to_string());

        let Load {
            size, part_size, ..
        } = core.load;
        let mut list = String::from(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
        );
        for part in 0..size.div_ceil(part_size).max(1) {
            let began = rt::now();
            let number = (part + 1).to_string();
            let range = part * part_size..size.min((part + 1) * part_size);
            let bytes = range.end - range.start;
            let plan = Plan {
                method: "PUT",
                query: &[("partNumber", &number), ("uploadId", upload)],
                body: Body::Content(body, range),
                expected: 200,
            };
            let answer = self.request(plan, &mut Sink::Discard).await;
            let answer = answer.map_err(|failure| (Kind::Part, failure))?;
            core.done(Kind::Part, began, bytes, 0);
            let etag = quick_xml::escape::escape(&answer.etag);
            list.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            ));
        }
        list.push_str("</CompleteMultipartUpload>");

        let began = rt::now();
        let plan = Plan {
            method: "POST",
            query: &[("uploadId", upload)],
            body: Body::Bytes(list.as_bytes()),
            expected: 200,
        };
        let answer = self.request(plan, &mut Sink::Keep).await;
        // S3 may answer 200 before it knows: then the document says that it failed.
        answer
            .and_then(|answer| {
                let document = String::from_utf8_lossy(&answer.document);
                if document.contains("<CompleteMultipartUploadResult") {
                    return Ok(());
                }
                Err(Failure::Refused {
                    status: 200,
                    code: element(&document, "Code").unwrap_or_default(),
                })
            })
            .map_err(|failure| (Kind::Complete, failure))?;
        core.done(Kind::Complete, began, 0, 0);
        Ok(())
    }

    /// Leaves nothing behind. It failed already; how this goes is not measured.
    async fn abort(&mut self, upload: &str) {
        let plan = Plan {
            method: "DELETE",
            query: &[("uploadId", upload)],
            body: Body::None,
            expected: 204,
        };
        let _ = self.request(plan, &mut Sink::Discard).await;
    }
}

fn right(is: bool, what: &'static str) -> Result<(), Failure> {
    if is {
        Ok(())
    } else {
        Err(Failure::Wrong(what))
    }
}
