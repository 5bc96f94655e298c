//! The directory a benchmark works in, the machine it runs on, and a core to run on.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};

use ostrakon::rt::{self, CoreId};
use rustix::fs::{Advice, fadvise};

use crate::{Common, Failure};

/// A new directory, removed with everything in it when dropped.
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    pub fn new(common: &Common, name: &str) -> Result<Scratch, Failure> {
        let path = common.dir.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        Ok(Scratch {
            path: path.canonicalize()?,
            keep: common.keep,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What is left behind is only scratch data; its place was printed.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs `main` on one core of its own: the production driver, pinned, as the server starts it.
pub fn on_core<T, F>(
    common: &Common,
    main: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + 'static,
{
    let cpu = match common.cpu {
        Some(cpu) => Some(cpu),
        None => rt::available_cpus()?.first().copied(),
    };
    rt::spawn_core(CoreId(0), cpu, rt::Config::default(), main)?
        .join()
        .map_err(|_| Failure::new("the core panicked"))?
}

/// Forgets the cached pages of every file under `directory`, so that the next reads go to the drive.
/// Pages that are dirty or mapped stay.
pub fn forget_cache(directory: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_cache(&path)?;
        } else {
            fadvise(fs::File::open(&path)?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Prints what the numbers depend on.
pub fn print_machine(directory: &Path) {
    let cpus = rt::available_cpus().map_or(0, |c| c.len());
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or("unknown CPU");
    let uname = rustix::system::uname();
    println!(
        "machine: {cpus} x {}, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        uname.release().to_string_lossy()
    );
    let free = rustix::fs::statvfs(directory).map_or(0, |s| s.f_bavail * s.f_frsize);
    println!(
        "drive: {} ({} GiB free)",
        file_system(directory),
        free >> 30
    );
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "load before: {}",
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
}

/// Type and device of the file system that holds `directory`.
fn file_system(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, mount, kind) = (words.next()?, words.next()?, words.next()?);
            directory
                .starts_with(mount)
                .then(|| (mount.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, text)| text)
}
