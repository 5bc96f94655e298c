//! `ostrakon bench`: arguments in, report and exit code out.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done, and at most `--errors-max` operations failed |
//! | 1 | nothing was measured, or more failed |
//! | 2 | the arguments do not make a run |

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};

use super::keys::KEYS_MAX;
use super::load::{Load, Task};
use super::measure::Measured;
use super::null;
use super::pace::RATE_MAX;
use super::report::Report;
use super::run::{self, Plan};
use super::server_usage::Machine;
use super::sign::Credentials;
use super::workload::{Mix, Workload};
use crate::config::{ACCESS_KEY_ENV, SECRET_KEY_ENV};
use crate::rt::net::Claim;
use crate::rt::{self, CoreId};
use crate::s3::names;
use crate::signals::Event;
use crate::startup;

const CONNECTIONS_MAX: usize = 16_384;
const CORES_MAX: usize = 1024;
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Largest object: S3's.
const SIZE_MAX: u64 = 5 << 40;
/// Largest body of one request: S3's.
const PUT_SIZE_MAX: u64 = 5 << 30;
/// Parts of one upload: S3's.
const PARTS_MAX: u64 = 10_000;

pub fn command() -> Command {
    let command = Command::new("bench")
        .about("Load an S3 server and measure it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(
            "Example: ostrakon bench put --url http://127.0.0.1:9000 --bucket bench --size 4KiB \
             --connections 64 --pid $(pidof ostrakon)\n\n\
             Exit codes: 0 done, 1 nothing was measured or more operations failed than \
             --errors-max, 2 the arguments do not make a run.",
        );
    Which::augment_subcommands(command)
}

#[derive(Subcommand, Debug)]
enum Which {
    /// Put objects: every key of the key space in turn, again and again
    Put(Options),
    /// Get objects, picked at random
    Get(Options),
    /// Ask for the metadata (HEAD) of objects picked at random
    Stat(Options),
    /// Delete objects, until the prepared ones are used up
    Delete(Options),
    /// List the prepared keys, 1,000 a page
    List(Options),
    /// Put objects in parts
    Multipart(Options),
    /// Get, put, stat and delete in the shares of --mix
    Mixed(Options),
    /// Serve fixed answers and store nothing, to measure a generator against
    Null(NullOptions),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Payload {
    /// x-amz-content-sha256 is that of the body
    Signed,
    /// UNSIGNED-PAYLOAD
    Unsigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Checksum {
    None,
    Crc32c,
}

#[derive(Args, Clone, Debug)]
struct Options {
    /// Where the server listens; plain HTTP only
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    url: String,
    #[arg(long, value_name = "KEY", env = ACCESS_KEY_ENV, hide_env_values = true)]
    access_key: Option<String>,
    #[arg(long, value_name = "KEY", env = SECRET_KEY_ENV, hide_env_values = true)]
    secret_key: Option<String>,
    /// Send no signatures
    #[arg(long)]
    anonymous: bool,
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// Made if it is not there, and then removed at the end
    #[arg(long, value_name = "NAME")]
    bucket: String,
    /// Bytes of an object; several sizes are measured one after the other
    #[arg(long, value_name = "SIZE,..", default_value = "4KiB", value_delimiter = ',',
          value_parser = parse_size)]
    size: Vec<u64>,
    /// Keys of the key space
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    objects: u64,
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// The measured time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// The same load before it, not measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Operations a second, begun at fixed moments whether or not the server keeps up; latencies
    /// count from these moments [default: each connection goes on when it has its answer]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Threads of the generator [default: one per --cpu, else 1]
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
    /// CPUs to pin them to
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpu: Vec<usize>,
    /// Of multipart
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = parse_size)]
    part_size: u64,
    /// Of mixed: shares of the operations [default: get=70,put=20,stat=5,delete=5]
    #[arg(long, value_name = "SHARES")]
    mix: Option<Mix>,
    /// What bodies and the order of keys follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Compare bodies and listings with what the seed says
    #[arg(long)]
    verify: bool,
    /// Whether signatures cover bodies
    #[arg(long, value_enum, default_value_t = Payload::Signed)]
    payload: Payload,
    /// Sent with bodies of put and mixed
    #[arg(long, value_enum, default_value_t = Checksum::None)]
    checksum: Checksum,
    /// The server's process: its CPU time, memory and disk bytes are reported
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Where to write the result as JSON; - is standard output, instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the objects and the bucket
    #[arg(long)]
    keep: bool,
    /// Make no bucket and put no objects before: they are there
    #[arg(long)]
    no_prepare: bool,
    /// Longest time for one request
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    request_timeout: Duration,
    /// How long to measure the generator against a null server; 0 turns it off
    #[arg(long, value_name = "SECONDS", default_value_t = 1.5)]
    ceiling_seconds: f64,
    /// Failed operations with which a run is still good
    #[arg(long, value_name = "N", default_value_t = 0)]
    errors_max: u64,
    /// What the numbers depend on and the generator cannot know, such as the server's durability
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct NullOptions {
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
    /// Bytes of every object
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = parse_size)]
    size: u64,
    /// Delay of every answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    stall: Duration,
    /// CPU to pin it to
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// Room for that many connections
    #[arg(long, value_name = "N", default_value_t = 1024)]
    connections: usize,
}

/// `4096`, `64KiB`, `1.5MiB`, `10MB`.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("b", 1),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
    ];
    let bad = || "not a size such as 4096, 64KiB or 1MB".to_owned();
    let (value, unit) = number_and_unit(text).ok_or_else(bad)?;
    let (_, unit) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(bad)?;
    let bytes = value * *unit as f64;
    if bytes > SIZE_MAX as f64 {
        return Err("larger than any object (5 TiB)".to_owned());
    }
    if bytes.fract() != 0.0 {
        return Err("not a whole number of bytes".to_owned());
    }
    Ok(bytes as u64)
}

/// `10s`, `1.5s`, `500ms`, `2m`, `1h`; seconds without a unit.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || "not a time such as 10s, 500ms or 2m".to_owned();
    let (value, unit) = number_and_unit(text).ok_or_else(bad)?;
    let seconds = match unit.as_str() {
        "ms" => value / 1e3,
        "" | "s" => value,
        "m" => value * 60.0,
        "h" => value * 3600.0,
        _ => return Err(bad()),
    };
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err("longer than a day".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// A number that is not negative, and what is behind it in lower case.
fn number_and_unit(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let value: f64 = text[..end].parse().ok()?;
    Some((value, text[end..].trim().to_ascii_lowercase()))
}

/// Host and port of `http://HOST[:PORT][/]`.
fn parse_url(url: &str) -> Result<(&str, u16), String> {
    let refuse = |what: &str| Err(format!("--url {url}: {what}"));
    if url.starts_with("https://") {
        return refuse("HTTPS is not spoken yet; give the address of a plain HTTP listener");
    }
    let Some(authority) = url.strip_prefix("http://") else {
        return refuse("not like http://127.0.0.1:9000");
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
        return refuse("only a host and a port may follow http://");
    }
    // Colons within brackets are of an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    match port.parse() {
        Ok(port) if !host.is_empty() => Ok((host, port)),
        _ => refuse("not like http://127.0.0.1:9000"),
    }
}

fn resolve(url: &str) -> Result<(SocketAddr, String), String> {
    let (host, port) = parse_url(url)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = (bare, port)
        .to_socket_addrs()
        .map_err(|error| format!("--url {url}: {error}"))?
        .next()
        .ok_or_else(|| format!("--url {url}: the host has no address"))?;
    // As HTTP has it: without the port that is meant anyway.
    let host = match port {
        80 => host.to_owned(),
        _ => format!("{host}:{port}"),
    };
    Ok((address, host))
}

impl Options {
    fn plan(self, which: fn(Mix) -> Workload) -> Result<Plan, String> {
        let workload = which(self.mix.unwrap_or_default());
        let refuse = |what: String| Err(what);
        if self.mix.is_some() && !matches!(workload, Workload::Mixed(_)) {
            return refuse("--mix is for mixed alone".to_owned());
        }
        if !names::is_bucket_name(&self.bucket) {
            return refuse(format!("--bucket {}: not a name for a bucket", self.bucket));
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return refuse(format!("--connections must be 1 to {CONNECTIONS_MAX}"));
        }
        let cores = self.cores.unwrap_or(self.cpu.len().max(1));
        if cores == 0 || cores > CORES_MAX {
            return refuse(format!("--cores must be 1 to {CORES_MAX}"));
        }
        if self.connections < cores {
            return refuse(format!(
                "--connections {} leave some of the {cores} cores without one",
                self.connections
            ));
        }
        if self.objects < cores as u64 || self.objects > KEYS_MAX {
            return refuse(format!(
                "--objects must be {cores} (a key for each core) to {KEYS_MAX}"
            ));
        }
        if self.duration.is_zero() {
            return refuse("--duration must be more than 0".to_owned());
        }
        if self.request_timeout.is_zero() {
            return refuse("--request-timeout must be more than 0".to_owned());
        }
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate <= RATE_MAX)
        {
            return refuse(format!(
                "--rate must be more than 0, and at most {RATE_MAX}"
            ));
        }
        let ceiling = Duration::try_from_secs_f64(self.ceiling_seconds)
            .ok()
            .filter(|ceiling| *ceiling <= DURATION_MAX)
            .ok_or("--ceiling-seconds must be 0 or more, and at most a day")?;
        let crc32c = self.checksum == Checksum::Crc32c;
        if crc32c && !matches!(workload, Workload::Put | Workload::Mixed(_)) {
            return refuse("--checksum is for put and mixed alone".to_owned());
        }
        for &size in &self.size {
            if !matches!(workload, Workload::Multipart) {
                if size > PUT_SIZE_MAX {
                    return refuse("--size: only multipart makes objects above 5 GiB".to_owned());
                }
            } else if self.part_size == 0
                || self.part_size > PUT_SIZE_MAX
                || size.div_ceil(self.part_size) > PARTS_MAX
            {
                return refuse(format!(
                    "--part-size must be 1 to {PUT_SIZE_MAX}, and make at most {PARTS_MAX} parts"
                ));
            }
        }
        let credentials = match (self.anonymous, self.access_key, self.secret_key) {
            (true, ..) => None,
            (false, Some(access_key), Some(secret_key)) => Some(Credentials {
                access_key,
                secret_key,
                region: self.region,
            }),
            _ => {
                return refuse(format!(
                    "--access-key and --secret-key (or {ACCESS_KEY_ENV} and {SECRET_KEY_ENV}) are \
                     needed, or --anonymous"
                ));
            }
        };
        let (address, host) = resolve(&self.url)?;
        Ok(Plan {
            load: Load {
                address,
                host,
                credentials,
                bucket: self.bucket,
                size: self.size[0],
                part_size: self.part_size,
                signed_payload: self.payload == Payload::Signed,
                crc32c,
                verify: self.verify,
                seed: self.seed,
                request_timeout: self.request_timeout,
                objects: self.objects,
                task: Task::Fill,
            },
            workload,
            rate: self.rate,
            sizes: self.size,
            connections: self.connections,
            duration: self.duration,
            warm_up: self.warm_up,
            cores,
            cpus: self.cpu,
            pid: self.pid,
            prepare: !self.no_prepare,
            keep: self.keep,
            ceiling,
            errors_max: self.errors_max,
            note: self.note,
            json: self.json,
        })
    }
}

/// Runs `ostrakon bench`.
pub fn main(arguments: &ArgMatches) -> ExitCode {
    let which = match Which::from_arg_matches(arguments) {
        Ok(which) => which,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let plan = match which {
        Which::Put(options) => options.plan(|_| Workload::Put),
        Which::Get(options) => options.plan(|_| Workload::Get),
        Which::Stat(options) => options.plan(|_| Workload::Stat),
        Which::Delete(options) => options.plan(|_| Workload::Delete),
        Which::List(options) => options.plan(|_| Workload::List),
        Which::Multipart(options) => options.plan(|_| Workload::Multipart),
        Which::Mixed(options) => options.plan(Workload::Mixed),
        Which::Null(options) => return ended(serve_null(&options).map(|()| true)),
    };
    match plan {
        Ok(plan) => ended(run_plan(&plan)),
        Err(line) => {
            say(&line);
            ExitCode::from(2)
        }
    }
}

fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "ostrakon: bench: {line}");
}

fn ended(result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(line) => {
            say(&line);
            ExitCode::FAILURE
        }
    }
}

fn ready() -> Result<(), String> {
    rt::probe().map_err(|error| error.to_string())?;
    let mut notes = Vec::new();
    startup::raise_limits(&mut notes).map_err(|error| error.to_string())
}

/// Whether few enough operations failed.
fn run_plan(plan: &Plan) -> Result<bool, String> {
    ready()?;
    let started_ms = rt::unix_ms();
    let machine = Machine::look();
    let mut notes = Vec::new();
    let measurements = match run::run(plan, &mut |note| notes.push(note)) {
        Ok(measurements) => measurements,
        Err(line) => {
            notes.iter().for_each(|note| say(note));
            return Err(line);
        }
    };
    let report = Report {
        plan,
        machine: &machine,
        started_ms,
        measurements: &measurements,
        notes: &notes,
    };
    let on_stdout = Path::new("-");
    let unwritable = |to: &Path, error: std::io::Error| format!("{}: {error}", to.display());
    let mut stdout = std::io::stdout().lock();
    if plan.json.as_deref() != Some(on_stdout) {
        let written = stdout.write_all(report.text().as_bytes());
        written.map_err(|error| unwritable(on_stdout, error))?;
    }
    if let Some(to) = &plan.json {
        let text = format!("{:#}\n", report.json());
        let written = if to == on_stdout {
            stdout.write_all(text.as_bytes())
        } else {
            std::fs::write(to, text)
        };
        written.map_err(|error| unwritable(to, error))?;
    }
    let errors: u64 = measurements
        .iter()
        .map(|one| Measured::error_count(&one.measured))
        .sum();
    if errors > plan.errors_max {
        say(&format!(
            "{errors} operations failed, {} may",
            plan.errors_max
        ));
    }
    Ok(errors <= plan.errors_max)
}

/// Until it is killed.
fn serve_null(options: &NullOptions) -> Result<(), String> {
    ready()?;
    let claim = Claim::new(options.listen)
        .map_err(|error| format!("--listen {}: {error}", options.listen))?;
    let address = claim.address();
    let settings = null::Settings {
        size: options.size,
        stall: options.stall,
    };
    let config = run::reactor(null::arena_bytes(&settings, options.connections), false);
    let serve = move || null::serve(claim, settings, Event::default());
    let core = rt::spawn_core(CoreId(0), options.cpu, config, serve)
        .map_err(|error| format!("a core cannot be started: {error}"))?;
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "Null server ready on http://{address}");
    let _ = stdout.flush();
    core.join()
        .map(|_| ())
        .map_err(|_| "the null server ended by a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_refused() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4KiB", 4096),
            ("64 kib", 65_536),
            ("1.5MiB", 1_572_864),
            ("10MB", 10_000_000),
            ("5TiB", SIZE_MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "", "x", "-1", "4K", "1.5", "6TiB", "1e400", "4KiBs", "0x10", "nan", "1..5",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_and_refused() {
        for (text, ms) in [
            ("10s", 10_000),
            ("10", 10_000),
            ("500ms", 500),
            ("1.5m", 90_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in ["", "s", "-1s", "25h", "1d", "inf"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_are_read_and_refused() {
        assert_eq!(parse_url("http://127.0.0.1:9000"), Ok(("127.0.0.1", 9000)));
        assert_eq!(parse_url("http://s3.local/"), Ok(("s3.local", 80)));
        assert_eq!(parse_url("http://[::1]:9000"), Ok(("[::1]", 9000)));
        assert_eq!(parse_url("http://[::1]"), Ok(("[::1]", 80)));
        for bad in [
            "https://h",
            "h:1",
            "http://",
            "http://h/path",
            "http://h:x",
            "http://:1",
            "http://u@h",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
        assert!(parse_url("https://h").unwrap_err().contains("HTTPS"));
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }
}
