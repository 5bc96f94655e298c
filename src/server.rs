//! From a checked machine and a locked directory to a running server, and back.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use shard_format::Scheme;

use crate::{
    admin::{self, Admin},
    config::Memory,
    config::User,
    datadir::{Contents, DataDir},
    limits::{LINK_RING_CAPACITY, RECORD_CACHE_BYTES, RECORD_CACHE_BYTES_SMALL},
    link::Frame,
    metrics::{
        counters::{self, CoreCounters, Own},
        exposition::Sources,
    },
    node::{self, Layout},
    object::{ObjectStore, Store},
    rt::{self, CoreId, Mailbox, TcpListener, net::Claim},
    s3::{self, server::Context, users::Users},
    signals::Shutdown,
    tls,
    volume::Recovery,
};

/// All that `serve` has decided. Held until [`run`] returns: the directories' locks are released with it.
#[derive(Debug)]
pub struct Config {
    /// At least one.
    pub data: Vec<DataDir>,
    /// Core 0 listens on it, the others bind its address.
    pub listen: Claim,
    /// For metrics and health; core 0 serves it.
    pub admin: Option<Claim>,
    /// Threads to run; there are at least as many volumes if this start formats.
    pub cores: usize,
    /// CPUs to pin them to, in order; fewer than `cores` when told to run more than there are.
    pub cpus: Vec<usize>,
    pub scheme: Option<Scheme>,
    /// Start though drives of the store are missing.
    pub without_missing: bool,
    pub region: String,
    /// Lower case, without a final dot.
    pub domains: Vec<String>,
    /// Requests are logged at level info.
    pub access_log: bool,
    pub memory: Memory,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
    /// Who may sign requests. Root is the first.
    pub users: Vec<User>,
    /// How long requests under way may take once `shutdown` is requested.
    pub drain: Duration,
    pub shutdown: Shutdown,
}

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Looked after while the server runs.
    pub files: tls::Files,
    /// Made from them.
    pub current: Arc<tls::Current>,
    /// Set by whoever wants the files to be read again at once.
    pub again: Arc<AtomicBool>,
}

/// What the ready line says.
#[derive(Debug, Clone)]
pub struct ReadyReport {
    pub cores: usize,
    pub volumes: usize,
    /// Names of what the kernel or the limits did not give, and what is used instead.
    pub missing: Vec<String>,
}

/// Why there is no server. Displayed as one line that ends in the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Refused(String),
}

/// Formats or opens the volumes, listens, calls `ready`, serves until `config.shutdown` is requested, drains for at most
/// `config.drain`, closes the volumes.
pub fn run(mut config: Config, ready: impl FnOnce(ReadyReport)) -> Result<(), StartError> {
    let refused = |e: &dyn std::fmt::Display| StartError::Refused(e.to_string());
    let no_core = |e: std::io::Error| StartError::Refused(core_refusal(&e));
    let started_ms = rt::unix_ms();
    let (reactor, record_cache_bytes) = match config.memory {
        Memory::Large => (rt::Config::default(), RECORD_CACHE_BYTES),
        Memory::Small => (rt::Config::sparing(), RECORD_CACHE_BYTES_SMALL),
    };
    let settings = node::Settings {
        record_cache_bytes,
        scheme: config.scheme,
        without_missing: config.without_missing,
        ..node::Settings::default()
    };
    let reactor = rt::Config {
        helpers: HELPERS,
        ..reactor
    };
    let cores = u16::try_from(config.cores).map_err(|e| refused(&e))?;

    // One core looks at the directories, and formats them if they are new, before any other starts. A store that is
    // there already is never added to by accident, so only a directory that is not its will be marked.
    let formats = |data: &DataDir| data.contents() != Contents::Formatted;
    let new = config.data.iter().all(formats);
    for data in config.data.iter_mut().filter(|_| new) {
        data.begin_formatting().map_err(|e| refused(&e))?;
    }
    let directories: Vec<PathBuf> = config.data.iter().map(|d| d.path().to_owned()).collect();
    let prepared = rt::spawn_core(
        CoreId(0),
        config.cpus.first().copied(),
        // A few small files: nothing that registered memory would pay for.
        rt::Config {
            register: false,
            ..rt::Config::small()
        },
        move || async move { node::prepare(&directories, cores, &settings).await },
    )
    .map_err(no_core)?;
    let layout = prepared
        .join()
        .map_err(|_| refused(&"preparing the data directory failed"))?
        .map_err(|e| refused(&e))?;
    for data in config.data.iter_mut().filter(|data| formats(data)) {
        data.end_formatting().map_err(|e| refused(&e))?;
    }
    let volume_count = layout.drives.iter().map(|d| d.volumes.len()).sum();

    let (volumes, cores) = (cores, config.cores);
    let plan = Arc::new(Plan {
        layout,
        settings,
        cores: volumes,
        mailboxes: Mutex::new(
            rt::mesh(cores, LINK_RING_CAPACITY)
                .into_iter()
                .map(Some)
                .collect(),
        ),
        address: config.listen.address(),
        claim: Mutex::new(Some(config.listen)),
        admin: Mutex::new(config.admin),
        counters: counters::blocks(cores),
        started_ms,
        region: config.region.clone(),
        domains: config.domains.clone(),
        access_log: config.access_log,
        tls: config.tls.clone(),
        users: config.users.clone(),
        drain: config.drain,
        shutdown: config.shutdown.clone(),
        go: Shutdown::default(),
        serving: AtomicUsize::new(cores),
        served: Shutdown::default(),
    });
    let (tell, hear) = mpsc::channel();
    let threads = {
        let plan = plan.clone();
        rt::spawn_cores(cores, &config.cpus, &reactor, move |core| {
            run_core(plan.clone(), core, tell.clone())
        })
        .map_err(no_core)?
    };

    let mut missing = BTreeSet::new();
    let mut failure = None;
    for _ in 0..cores {
        match hear.recv() {
            Ok(Ok(features)) => missing.extend(features),
            Ok(Err(e)) => failure = failure.or(Some(e)),
            Err(_) => failure = failure.or_else(|| Some("a core ended while starting".to_owned())),
        }
    }
    if failure.is_none() {
        plan.go.request();
        ready(ReadyReport {
            cores,
            volumes: volume_count,
            missing: missing.into_iter().collect(),
        });
    } else {
        config.shutdown.request();
        plan.go.request();
    }
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => failure = failure.or(Some(e)),
            Err(_) => failure = failure.or_else(|| Some("a core ended by a panic".to_owned())),
        }
    }
    failure.map_or(Ok(()), |e| Err(StartError::Refused(e)))
}

/// Why a thread with a ring could not be had, in one line.
fn core_refusal(error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        // The kernel counts the rings of all of a user's processes as locked memory.
        std::io::ErrorKind::OutOfMemory => {
            "raise the limit of locked memory (ulimit -l 65536, LimitMEMLOCK=64M in a systemd unit), or that of the \
             container's memory, or run fewer --cores"
        }
        _ => "run fewer --cores, or raise the limits of this process",
    };
    format!("a core cannot be started: {error}; {remedy}")
}

/// Threads per core for what blocks: checkpoints, opening and allocating files.
const HELPERS: usize = 2;

/// What every core starts from.
struct Plan {
    layout: Layout,
    settings: node::Settings,
    cores: u16,
    /// Each core takes its own.
    mailboxes: Mutex<Vec<Option<Mailbox<Frame>>>>,
    address: SocketAddr,
    /// For core 0, both.
    claim: Mutex<Option<Claim>>,
    admin: Mutex<Option<Claim>>,
    counters: Arc<[CoreCounters]>,
    started_ms: u64,
    region: String,
    domains: Vec<String>,
    access_log: bool,
    tls: Option<Tls>,
    users: Vec<User>,
    drain: Duration,
    shutdown: Shutdown,
    /// All cores have opened their volumes.
    go: Shutdown,
    /// Cores that still serve; volumes stay open until it is zero, because requests reach across cores.
    serving: AtomicUsize,
    served: Shutdown,
}

type Report = Result<Vec<String>, String>;

/// One core, from opening its volumes to closing them.
async fn run_core(plan: Arc<Plan>, core: CoreId, tell: mpsc::Sender<Report>) -> Result<(), String> {
    let mailbox = {
        let mut ends = plan
            .mailboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        ends[usize::from(core.0)].take()
    };
    let listen = || {
        if core == CoreId(0) {
            let claim = plan
                .claim
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take();
            if let Some(claim) = claim {
                return Ok(TcpListener::from_claim(claim));
            }
        }
        TcpListener::bind(plan.address)
    };
    let started = match node::start(&plan.layout, core, plan.cores, mailbox, &plan.settings).await {
        Ok(share) => listen()
            .map(|l| (share, l))
            .map_err(|e| format!("{}: {e}", plan.address)),
        Err(e) => Err(e.to_string()),
    };
    let (share, listener) = match started {
        Ok(started) => started,
        Err(e) => {
            let _ = tell.send(Err(e.clone()));
            plan.serving.fetch_sub(1, Ordering::AcqRel);
            return Err(e);
        }
    };
    for (v, _, recovery) in &share.volumes {
        report_recovery(*v, recovery);
    }
    let _ = tell.send(Ok(rt::features().map(|f| f.missing).unwrap_or_default()));
    plan.go.requested().await;
    node::start_upkeep(&share);

    let users = plan.users.iter().enumerate().map(|(i, u)| {
        let (key, secret, id) = (u.access_key.clone(), u.secret_key.expose(), u.id.clone());
        let mut user = if i == 0 {
            s3::users::User::root(key, secret, id)
        } else {
            s3::users::User::new(u.name.clone(), key, secret, id)
        };
        user.email = u.email.clone();
        user
    });
    let users = Users::new(plan.region.clone(), users);
    let mut context = Context::new(share.store.clone(), users, plan.domains.clone());
    if let Some(tls) = &plan.tls {
        context.tls = Some(tls::Acceptor::new(tls.current.clone()));
        if core == CoreId(0) {
            let (files, again) = (tls.files.clone(), tls.again.clone());
            rt::spawn(tls.current.clone().look_after(files, again));
        }
    }
    context.log = s3::request_log::RequestLog::new(plan.access_log);
    context.counters = Own::new(plan.counters.clone(), usize::from(core.0));
    let context = Rc::new(context);
    if core == CoreId(0) {
        start_admin(&plan, &context);
    }
    {
        let (context, store, shutdown) =
            (context.clone(), share.store.clone(), plan.shutdown.clone());
        rt::spawn(async move {
            shutdown.requested().await;
            store.drain();
            context.drain.request();
        });
    }
    let cut = s3::server::serve(listener, context, plan.drain).await;
    if cut > 0 {
        tracing::warn!(
            core = core.0,
            connections = cut,
            "did not finish within the drain time"
        );
    }
    if plan.serving.fetch_sub(1, Ordering::AcqRel) == 1 {
        plan.served.request();
    }
    plan.served.requested().await;
    node::stop(&share).await.map_err(|e| e.to_string())
}

/// Serves metrics and health, if there is an address for them, until the core ends: also while it
/// drains.
fn start_admin(plan: &Plan, context: &Rc<Context<Store>>) {
    let claim = plan
        .admin
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take();
    let Some(claim) = claim else {
        return;
    };
    let ready = {
        let context = context.clone();
        move || context.store.ready() && !context.drain.is_requested()
    };
    let admin = Admin {
        sources: Sources {
            cores: plan.counters.clone(),
            tls: plan.tls.as_ref().map(|tls| tls.current.clone()),
            started_ms: plan.started_ms,
        },
        link: context.store.link().clone(),
        layout: plan.layout.clone(),
        ready: Box::new(ready),
    };
    rt::spawn(admin::serve(TcpListener::from_claim(claim), Rc::new(admin)));
}

fn report_recovery(volume: u16, recovery: &Recovery) {
    if recovery.rebuilt {
        tracing::warn!(
            volume,
            batches = recovery.batches_replayed,
            "the index was rebuilt from the segment files"
        );
    } else if recovery.batches_replayed > 0 {
        tracing::info!(
            volume,
            batches = recovery.batches_replayed,
            "replayed the log"
        );
    }
    if !recovery.damage.is_empty() {
        tracing::error!(
            volume,
            losses = recovery.damage.join(" "),
            accepted = recovery.accepted.join(" "),
            "durable records cannot be read; what depends on them is refused until they are repaired, or accepted as \
             lost by name (ostrakon accept-loss --help)"
        );
    }
    if !recovery.ambiguous_tails.is_empty() {
        tracing::info!(volume, heads = ?recovery.ambiguous_tails, "the log ended in a batch that was never finished");
    }
}
