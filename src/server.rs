//! From a checked machine and a locked directory to a running server, and back.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::config::User;
use crate::datadir::{Contents, DataDir};
use crate::limits::LINK_RING_CAPACITY;
use crate::link::Frame;
use crate::node::{self, Layout};
use crate::rt::net::Claim;
use crate::rt::{self, CoreId, TcpListener};
use crate::s3;
use crate::s3::server::Context;
use crate::s3::users::Users;
use crate::signals::{Event, Shutdown};
use crate::volume::Recovery;

/// All that `serve` has decided. `data` must live until [`run`] returns: it holds the lock of the
/// directory.
#[derive(Debug)]
pub struct Config {
    pub data: DataDir,
    /// One core listens on it; the others bind its address.
    pub listen: Claim,
    /// Threads to run; also the number of volumes if this start formats.
    pub cores: usize,
    /// CPUs to pin them to, in order; fewer than `cores` when told to run more than there are.
    pub cpus: Vec<usize>,
    pub region: String,
    /// Lower case, without a final dot.
    pub domains: Vec<String>,
    /// Who may sign requests. Root is the first.
    pub users: Vec<User>,
    /// How long requests under way may take once `shutdown` is requested.
    pub drain: Duration,
    pub shutdown: Shutdown,
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

/// How long a start waits for cores that are recovering before it says so.
const RECOVERY_NOTE: Duration = Duration::from_secs(5);

/// What a core tells the thread that started it, in this order.
enum Told {
    Started {
        missing: Vec<String>,
        recoveries: Vec<(u16, Recovery)>,
    },
    /// It serves nothing and ends.
    Failed(String),
    /// It listens.
    Listens,
    /// It has no connections left (or cut this many) and still answers other cores.
    Drained(usize),
    /// Its volumes are closed.
    Closed(Result<(), String>),
}

/// Formats or opens the volumes, listens, calls `ready`, serves until `config.shutdown` is
/// requested, drains for at most `config.drain`, closes the volumes.
///
/// Cores go through the phases together, because each needs the volumes of the others: upkeep and
/// connections begin when all volumes are open, and volumes close when no core has connections.
pub fn run(config: Config, ready: impl FnOnce(ReadyReport)) -> Result<(), StartError> {
    let Config {
        mut data,
        listen,
        cores,
        cpus,
        region,
        domains,
        users,
        drain,
        shutdown,
    } = config;
    let refused = |why: String| Err(StartError::Refused(why));
    let core_count = match u16::try_from(cores) {
        Ok(count) if count > 0 => count,
        _ => return refused(format!("{cores} cores are more than there can be")),
    };
    let layout = match prepare(&mut data, core_count) {
        Ok(layout) => layout,
        Err(why) => return refused(why),
    };
    let reactor = rt::Config {
        // Cores that take turns on a CPU must not spin on it.
        spin: cores <= cpus.len(),
        ..rt::Config::default()
    };
    let address = listen.address();
    let mut claim = Some(listen);
    let shared = Shared {
        layout: layout.clone(),
        cores: core_count,
        address,
        region,
        domains,
        users,
        drain,
        shutdown,
        serve: Event::default(),
        close: Event::default(),
        failed: Arc::default(),
    };
    let (tell, hear) = mpsc::channel();
    let mailboxes = rt::mesh::<Frame>(cores, LINK_RING_CAPACITY);
    let mut threads = Vec::new();
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let core = CoreId(index as u16);
        let cpu = (!cpus.is_empty()).then(|| cpus[index % cpus.len()]);
        let (its, tell, claim) = (shared.clone(), tell.clone(), claim.take());
        let spawned = rt::spawn_core(core, cpu, reactor.clone(), move || {
            run_core(its, core, mailbox, claim, tell)
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                shared_failure(&shared);
                join(threads);
                return refused(format!("core {index} cannot be started: {error}"));
            }
        }
    }
    drop(tell);

    let outcome = conduct(&hear, &shared, layout.volumes.len(), ready);
    if outcome.is_err() {
        shared_failure(&shared);
    }
    join(threads);
    drop(data);
    outcome
}

/// Lets every core that waits for the others go on to its end.
fn shared_failure(shared: &Shared) {
    shared.failed.store(true, Ordering::Release);
    shared.shutdown.request();
    shared.serve.request();
    shared.close.request();
}

fn join(threads: Vec<rt::uring::CoreThread<()>>) {
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// From the first core's start to the last one's end, on the thread that waits for them.
fn conduct(
    hear: &mpsc::Receiver<Told>,
    shared: &Shared,
    volumes: usize,
    ready: impl FnOnce(ReadyReport),
) -> Result<(), StartError> {
    let gone = || StartError::Refused("a core ended before it should".to_owned());
    let mut missing: Vec<String> = Vec::new();
    let mut said = false;
    for _ in 0..shared.cores {
        let told = loop {
            match hear.recv_timeout(RECOVERY_NOTE) {
                Ok(told) => break told,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if !said {
                        tracing::info!("still opening the volumes");
                        said = true;
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        };
        match told {
            Told::Started {
                missing: lines,
                recoveries,
            } => {
                for line in lines {
                    if !missing.contains(&line) {
                        missing.push(line);
                    }
                }
                for (volume, recovery) in recoveries {
                    report(volume, &recovery);
                }
            }
            Told::Failed(why) => return Err(StartError::Refused(why)),
            _ => return Err(gone()),
        }
    }
    shared.serve.request();
    for _ in 0..shared.cores {
        match hear.recv() {
            Ok(Told::Listens) => {}
            Ok(Told::Failed(why)) => return Err(StartError::Refused(why)),
            _ => return Err(gone()),
        }
    }
    ready(ReadyReport {
        cores: usize::from(shared.cores),
        volumes,
        missing,
    });
    let mut cut = 0;
    for _ in 0..shared.cores {
        match hear.recv() {
            Ok(Told::Drained(connections)) => cut += connections,
            _ => return Err(gone()),
        }
    }
    if cut > 0 {
        tracing::warn!("{cut} connections were cut at the end of the drain");
    }
    shared.close.request();
    for _ in 0..shared.cores {
        match hear.recv() {
            Ok(Told::Closed(Ok(()))) => {}
            // What was acknowledged is durable all the same.
            Ok(Told::Closed(Err(why))) => tracing::error!("closing: {why}"),
            _ => return Err(gone()),
        }
    }
    Ok(())
}

/// Reads the layout, or formats: on a core that lives for that only.
fn prepare(data: &mut DataDir, volumes: u16) -> Result<Layout, String> {
    let formats = data.contents() != Contents::Formatted;
    if formats {
        data.begin_formatting().map_err(|error| error.to_string())?;
    }
    let directory = data.path().to_owned();
    let small = rt::Config {
        arena_bytes: 4 << 20,
        entries: 64,
        helpers: 1,
        picked_buffers: 8,
        spin: false,
        register: false,
        msg_ring: false,
    };
    let thread = rt::spawn_core(CoreId(0), None, small, move || async move {
        node::prepare(&directory, volumes, &node::Settings::default()).await
    });
    let layout = match thread.map(rt::uring::CoreThread::join) {
        Ok(Ok(prepared)) => prepared.map_err(|error| error.to_string())?,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => return Err(format!("a core cannot be started: {error}")),
    };
    if formats {
        data.end_formatting().map_err(|error| error.to_string())?;
    }
    Ok(layout)
}

fn report(volume: u16, recovery: &Recovery) {
    if recovery.damage.is_empty() {
        tracing::debug!("volume {volume}: {recovery:?}");
    }
    for damage in &recovery.damage {
        tracing::error!("volume {volume}: {damage}");
    }
    if recovery.rebuilt {
        tracing::warn!("volume {volume}: the index was rebuilt from the segment files");
    }
}

/// What all cores know.
#[derive(Clone)]
struct Shared {
    layout: Layout,
    cores: u16,
    address: SocketAddr,
    region: String,
    domains: Vec<String>,
    users: Vec<User>,
    drain: Duration,
    shutdown: Shutdown,
    /// All volumes are open.
    serve: Event,
    /// No core has connections.
    close: Event,
    failed: Arc<AtomicBool>,
}

/// One core's life.
async fn run_core(
    shared: Shared,
    core: CoreId,
    mailbox: rt::Mailbox<Frame>,
    claim: Option<Claim>,
    tell: mpsc::Sender<Told>,
) {
    // Who hears has gone only when the whole start has failed.
    let tell = |told| drop(tell.send(told));
    let failed = || shared.failed.load(Ordering::Acquire);
    let settings = node::Settings::default();
    let share = node::start(&shared.layout, core, shared.cores, Some(mailbox), &settings).await;
    let share = match share {
        Ok(share) => share,
        Err(error) => return tell(Told::Failed(error.to_string())),
    };
    tell(Told::Started {
        missing: rt::uring::features().map_or(Vec::new(), |features| features.missing),
        recoveries: share
            .volumes
            .iter()
            .map(|(volume, _, recovery)| (*volume, recovery.clone()))
            .collect(),
    });
    shared.serve.requested().await;
    if failed() {
        return;
    }
    node::start_upkeep(&share);
    let listener = match claim {
        Some(claim) => TcpListener::from_claim(claim),
        None => match TcpListener::bind(shared.address) {
            Ok(listener) => listener,
            Err(error) => {
                let why = format!("core {core} cannot listen on {}: {error}", shared.address);
                return tell(Told::Failed(why));
            }
        },
    };
    let users = shared.users.iter().enumerate().map(|(index, user)| {
        let mut made = if index == 0 {
            s3::users::User::root(&user.access_key, user.secret_key.expose(), &user.id)
        } else {
            let (name, key) = (&user.name, &user.access_key);
            s3::users::User::new(name, key, user.secret_key.expose(), &user.id)
        };
        made.email = user.email.clone();
        made
    });
    let users = Users::new(shared.region.clone(), users);
    let context = Rc::new(Context::new(
        share.store.clone(),
        users,
        shared.domains.clone(),
    ));
    let (drained, asked) = (Rc::clone(&context), shared.shutdown.clone());
    drop(rt::spawn(async move {
        asked.requested().await;
        drained.drain.request();
    }));
    tell(Told::Listens);
    let cut = s3::server::serve(listener, context, shared.drain).await;
    tell(Told::Drained(cut));
    shared.close.requested().await;
    if failed() {
        return;
    }
    let closed = node::stop(&share).await.map_err(|error| error.to_string());
    tell(Told::Closed(closed));
}
