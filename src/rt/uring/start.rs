//! Cores on threads of their own.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::{Config, Reactor};
use crate::rt::CoreId;
use crate::rt::cpus::pin_to;

/// Starts a core on a thread of its own, pinned to `cpu` if one is given, and runs `main` there.
/// The thread ends, and the core is torn down, when the future is done. Errors of the set-up are
/// returned here.
pub fn spawn_core<T, Fut>(
    id: CoreId,
    cpu: Option<usize>,
    config: Config,
    main: impl FnOnce() -> Fut + Send + 'static,
) -> io::Result<CoreThread<T>>
where
    T: Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let (tell, hear) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("core{id}"))
        .spawn(move || {
            let reactor = match cpu
                .map_or(Ok(()), pin_to)
                .and_then(|()| Reactor::new(id, &config))
            {
                Ok(reactor) => reactor,
                Err(e) => {
                    // The receiver waits until it has heard of us.
                    let _ = tell.send(Err(e));
                    return None;
                }
            };
            let _ = tell.send(Ok(()));
            Some(reactor.run(async move { main().await }))
        })?;
    match hear.recv() {
        Ok(Ok(())) => {}
        Ok(Err(e)) => return Err(e),
        Err(mpsc::RecvError) => return Err(io::Error::other("the core's thread panicked")),
    }
    Ok(CoreThread { thread })
}

/// A core's thread.
pub struct CoreThread<T> {
    thread: JoinHandle<Option<T>>,
}

impl<T> CoreThread<T> {
    /// Waits for the end of the core: its value, or its panic.
    pub fn join(self) -> std::thread::Result<T> {
        self.thread
            .join()
            .map(|value| value.expect("a core whose set-up failed has no handle"))
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts `count` cores, numbered from 0, over the given CPUs (in turn, if there are fewer; then
/// without spinning). `main` is called once on each core.
pub fn spawn_cores<T, Fut>(
    count: usize,
    cpus: &[usize],
    config: &Config,
    main: impl Fn(CoreId) -> Fut + Send + Clone + 'static,
) -> io::Result<Vec<CoreThread<T>>>
where
    T: Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let config = Config {
        spin: config.spin && count <= cpus.len(),
        ..config.clone()
    };
    (0..count)
        .map(|n| {
            let id = CoreId(u16::try_from(n).map_err(|_| io::ErrorKind::InvalidInput)?);
            let cpu = (!cpus.is_empty()).then(|| cpus[n % cpus.len()]);
            let main = main.clone();
            spawn_core(id, cpu, config.clone(), move || main(id))
        })
        .collect()
}
