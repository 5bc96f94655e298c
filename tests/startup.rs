//! The real binary: what a start does, what it refuses, and how it ends.
//!
//! Works as root and as an ordinary user. What needs another user's rights or another file system
//! is done as `nobody` and in a mount namespace of its own, so that nothing is left behind. Where
//! an ordinary user cannot do it, the test says so and passes, except in CI, which runs as root.

#![allow(unsafe_code)] // pre_exec and openpty, below

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Formatting zeroes files; two busy CPUs and a slow disk must be enough.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Of a refusal, and of a stop with nothing under way.
const QUICK: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

// ---- the server under test ----------------------------------------------------------------------

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory on a real disk that every user can enter.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("ostrakon-startup-")
        .tempdir_in("/var/tmp")
        .unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// The binary where `nobody` can run it: the checkout may lie under a private home directory.
fn binary() -> &'static Path {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = COPY.get_or_init(|| {
        let dir = scratch();
        let path = dir.path().join("ostrakon");
        std::fs::copy(env!("CARGO_BIN_EXE_ostrakon"), &path).unwrap();
        (dir, path)
    });
    path
}

/// `serve` on a free port, in `words` (such as `prlimit --nofile=10`) if there are any.
fn serve_in(words: &[&str], data: &Path) -> Command {
    let mut command = match words {
        [] => Command::new(binary()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary());
            command
        }
    };
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(data);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OSTRAKON_") {
            command.env_remove(name);
        }
    }
    // Its default is one for all servers of the machine; tests that want it ask for one.
    command.env("OSTRAKON_ADMIN_LISTEN", "off");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn serve(data: &Path) -> Command {
    serve_in(&[], data)
}

/// Everything a child wrote so far, collected by a thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

impl Lines {
    fn of(source: impl Read + Send + 'static) -> Lines {
        let lines = Lines::default();
        let sink = lines.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            // The read end of a pseudo-terminal says EIO where a pipe says end.
            while matches!(source.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                sink.0
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        lines
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn wait_for(&self, what: &str, limit: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.text().contains(what) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

struct Server {
    child: Child,
    out: Lines,
    err: Lines,
    address: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command.spawn().unwrap();
        let out = Lines::of(child.stdout.take().unwrap());
        let err = Lines::of(child.stderr.take().unwrap());
        let ready = out.wait_for("s3 mb s3://", START_LIMIT);
        let text = out.text();
        if !ready {
            let _ = child.kill();
            panic!("not ready: stdout {text:?}, stderr {:?}", err.text());
        }
        let address = text
            .strip_prefix("Ostrakon ready on http")
            .map(|rest| rest.strip_prefix('s').unwrap_or(rest))
            .and_then(|rest| rest.strip_prefix("://"))
            .and_then(|rest| rest.split_once("  "))
            .unwrap_or_else(|| panic!("not a ready line: {text:?}"))
            .0
            .parse()
            .unwrap();
        Server {
            child,
            out,
            err,
            address,
        }
    }

    fn ready_line(&self) -> String {
        self.out.text().lines().next().unwrap().to_owned()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, limit)
    }

    fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.wait(QUICK);
        assert_eq!(
            status.and_then(|s| s.code()),
            Some(0),
            "{}",
            self.err.text()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Runs a start that must be refused: exit code 1, nothing on standard output, one line on
/// standard error, which is returned.
fn refused(command: &mut Command) -> String {
    let mut child = command.spawn().unwrap();
    let out = Lines::of(child.stdout.take().unwrap());
    let mut err = child.stderr.take().unwrap();
    let status = wait(&mut child, QUICK);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let mut text = String::new();
    err.read_to_string(&mut text).unwrap();
    let code = status.and_then(|status| status.code());
    assert_eq!(code, Some(1), "stdout {:?}, stderr {text:?}", out.text());
    assert_eq!(out.text(), "");
    assert_eq!(text.lines().count(), 1, "{text:?}");
    text.trim_end().to_owned()
}

fn assert_says(line: &str, parts: &[&str]) {
    assert!(line.starts_with("ostrakon: "), "{line:?}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is missing in {line:?}");
    }
}

/// False, with a word about it, where only root could go on.
fn root_or_skip(test: &str) -> bool {
    if root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must run {test} as root"
    );
    eprintln!("{test}: needs root, not run");
    false
}

/// `sh -c script data` in a mount namespace of its own; mounts end with the process.
fn serve_after_mount(mount: &str, data: &Path) -> Option<Command> {
    let user: &[&str] = if root() { &[] } else { &["--map-root-user"] };
    let possible = Command::new("unshare")
        .args(user)
        .args(["--mount", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        root_or_skip("a test that mounts");
        return None;
    }
    let script = format!("{mount} \"$DATA\" && exec \"$0\" \"$@\"");
    let mut words = vec!["unshare"];
    words.extend(user);
    words.extend(["--mount", "sh", "-c", &script]);
    let mut command = serve_in(&words, data);
    command.env("DATA", data);
    Some(command)
}

fn new_directory(parent: &Path, name: &str, mode: u32) -> PathBuf {
    let path = parent.join(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

// ---- a good start --------------------------------------------------------------------------------

#[test]
fn the_first_start_makes_a_private_store_and_the_second_takes_it_up() {
    let dir = scratch();
    let data = dir.path().join("data");
    let server = Server::start(&mut serve(&data));
    assert_eq!(data.metadata().unwrap().mode() & 0o777, 0o700);
    let file = data.join("credentials");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    let credentials = std::fs::read_to_string(&file).unwrap();
    let ready = server.ready_line();
    let cores = std::thread::available_parallelism().unwrap();
    for part in [
        &format!("  cores {cores}  volumes {cores}  "),
        "  kernel features missing: ",
        &format!("  credentials: {}", file.display()),
    ] {
        assert!(ready.contains(part), "{part:?} is missing in {ready:?}");
    }
    // Not a terminal: neither half of the credentials is in anything that is written down.
    for value in credentials
        .lines()
        .filter_map(|line| line.split_once(" = "))
    {
        assert!(!server.out.text().contains(value.1));
        assert!(!server.err.text().contains(value.1));
    }
    server.stop();

    let server = Server::start(&mut serve(&data));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), credentials);
    server.stop();
    // Nothing in the store is open to others.
    let mut pending = vec![data];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        assert_eq!(metadata.mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            pending.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn the_volumes_stay_as_many_as_they_were() {
    let dir = scratch();
    let data = dir.path().join("data");
    let server = Server::start(serve(&data).args(["--cores", "3"]));
    assert!(server.ready_line().contains("  cores 3  volumes 3  "));
    server.stop();
    let server = Server::start(serve(&data).args(["--cores", "1"]));
    assert!(
        server.ready_line().contains("  cores 1  volumes 3  "),
        "{}",
        server.ready_line()
    );
    server.stop();
}

#[test]
fn an_ordinary_user_can_run_it() {
    if !root_or_skip("an_ordinary_user_can_run_it") {
        return;
    }
    let dir = scratch();
    let home = new_directory(dir.path(), "home", 0o700);
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let data = home.join("data");
    let server = Server::start(serve(&data).uid(NOBODY).gid(NOBODY).current_dir("/"));
    assert_eq!(data.join("credentials").metadata().unwrap().uid(), NOBODY);
    server.stop();
}

#[test]
fn a_first_start_takes_less_than_a_gigabyte() {
    let dir = scratch();
    let data = dir.path().join("data");
    Server::start(&mut serve(&data)).stop();
    let used = Command::new("du")
        .args(["-sk"])
        .arg(&data)
        .output()
        .unwrap();
    let used = String::from_utf8(used.stdout).unwrap();
    let kib: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 1024 * 1024, "{kib} KiB");
}

#[test]
fn a_terminal_sees_new_credentials_once() {
    let dir = scratch();
    let data = dir.path().join("data");
    let on_terminal = || {
        let (terminal, screen) = pseudo_terminal();
        let mut command = serve(&data);
        command.stdout(terminal);
        let mut child = command.spawn().unwrap();
        drop(command); // and with it our copy of the terminal's end
        let out = Lines::of(std::fs::File::from(screen));
        assert!(out.wait_for("s3 mb s3://", START_LIMIT), "{}", out.text());
        child.kill().unwrap();
        child.wait().unwrap();
        out.text()
    };
    let first = on_terminal();
    let file = std::fs::read_to_string(data.join("credentials")).unwrap();
    let secrets: Vec<_> = file.lines().filter_map(|l| l.split_once(" = ")).collect();
    assert_eq!(secrets.len(), 2);
    assert!(
        secrets.iter().all(|(_, value)| first.contains(value)),
        "{first}"
    );
    let second = on_terminal();
    assert!(
        !secrets.iter().any(|(_, value)| second.contains(value)),
        "{second}"
    );
}

fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let (mut screen, mut terminal) = (-1, -1);
    // SAFETY: two valid places for descriptors; no name, settings or size are asked for. On
    // success both are open and nobody else's.
    unsafe {
        let null = std::ptr::null_mut();
        let done = libc::openpty(&mut screen, &mut terminal, null, null.cast(), null.cast());
        assert_eq!(done, 0);
        (OwnedFd::from_raw_fd(terminal), OwnedFd::from_raw_fd(screen))
    }
}

// ---- settings and credentials ----------------------------------------------------------------------

#[test]
fn wrong_settings_are_refused_with_the_line() {
    let dir = scratch();
    let data = dir.path().join("data");
    let file = dir.path().join("ostrakon.toml");
    std::fs::write(&file, "region = \"eu\"\nlisen = \"x\"\n").unwrap();
    let line = refused(serve(&data).arg("--config").arg(&file));
    let place = format!(
        "{}:2: \"lisen\" is not a setting; did you mean",
        file.display()
    );
    assert_says(&line, &[&place]);
    assert_says(
        &refused(serve(&data).env("OSTRAKON_CORES", "many")),
        &["OSTRAKON_CORES: \"many\" is not a number of cores"],
    );
    assert_says(
        &refused(serve(&data).args(["--listen", "[::]:1"])),
        &["--listen: is given more than once"],
    );
    assert!(!data.exists(), "a refused setting must touch nothing");
    let status = serve(&data).arg("--listne=x").status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn the_environment_wins_over_stored_credentials_and_the_log_says_so() {
    let dir = scratch();
    let data = dir.path().join("data");
    Server::start(&mut serve(&data)).stop();
    let stored = std::fs::read(data.join("credentials")).unwrap();
    let server = Server::start(
        serve(&data)
            .env("OSTRAKON_ACCESS_KEY", "OTHERKEY")
            .env("OSTRAKON_SECRET_KEY", "other-secret"),
    );
    let log = server.err.clone();
    assert!(
        log.wait_for("differ from those in", QUICK),
        "{}",
        log.text()
    );
    let status = Client::new(&server, "OTHERKEY", "other-secret").put("/envbucket", b"");
    assert_eq!(status, 200);
    server.stop();
    assert!(!log.text().contains("other-secret"));
    assert_eq!(std::fs::read(data.join("credentials")).unwrap(), stored);

    let line = refused(serve(&data).env("OSTRAKON_ACCESS_KEY", "OTHERKEY"));
    assert_says(
        &line,
        &[
            "OSTRAKON_ACCESS_KEY",
            "OSTRAKON_SECRET_KEY",
            "both or neither",
        ],
    );
}

#[test]
fn a_credentials_file_open_to_others_is_refused() {
    let dir = scratch();
    let data = dir.path().join("data");
    Server::start(&mut serve(&data)).stop();
    let file = data.join("credentials");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let chmod = format!("chmod 600 {}", file.display());
    assert_says(&refused(&mut serve(&data)), &["mode 644", &chmod]);
}

// ---- TLS -------------------------------------------------------------------------------------------

/// A key and its certificate for `localhost`, valid until the end of that year.
struct Issued {
    certificate: String,
    key: String,
}

fn issue(last_year: i32) -> Issued {
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(last_year, 12, 31);
    let key = rcgen::KeyPair::generate().unwrap();
    Issued {
        certificate: parameters.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl TlsFiles {
    fn write(directory: &Path, issued: &Issued) -> TlsFiles {
        let files = TlsFiles {
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        };
        files.put(&issued.certificate, &issued.key);
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o600)).unwrap();
        files
    }

    fn put(&self, certificate: &str, key: &str) {
        std::fs::write(&self.certificate, certificate).unwrap();
        std::fs::write(&self.key, key).unwrap();
    }

    fn serve(&self, data: &Path) -> Command {
        let mut command = serve(data);
        command.arg("--tls-cert").arg(&self.certificate);
        command.arg("--tls-key").arg(&self.key);
        command
    }
}

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A connection to `server` by a client that trusts this certificate only.
fn tls_connect(server: &Server, trusted: &Issued) -> std::io::Result<TlsStream> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusted.certificate.as_bytes()).unwrap())
        .unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(server.address)?;
    tcp.set_read_timeout(Some(QUICK))?;
    let mut stream = rustls::StreamOwned::new(client, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Asks for the health of the server: the status.
fn health(stream: &mut (impl Read + Write)) -> u16 {
    stream
        .write_all(b"GET /minio/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    parse_status(&answer)
}

#[test]
fn tls_files_that_are_no_pair_are_refused_before_anything_is_touched() {
    let dir = scratch();
    let data = dir.path().join("data");
    let (good, other) = (issue(2050), issue(2050));
    let files = TlsFiles::write(dir.path(), &good);
    let certificate = files.certificate.display().to_string();
    let key = files.key.display().to_string();

    files.put(&good.certificate, &other.key);
    let line = refused(&mut files.serve(&data));
    assert_says(
        &line,
        &[
            &format!("{key} is not the key of"),
            &certificate,
            "--tls-key",
        ],
    );
    files.put("not PEM", &good.key);
    let line = refused(&mut files.serve(&data));
    assert_says(
        &line,
        &[&format!("{certificate} holds no certificate in PEM form")],
    );
    files.put(&good.certificate, &good.key[..100]);
    assert_says(
        &refused(&mut files.serve(&data)),
        &[&format!("{key} is damaged")],
    );
    std::fs::remove_file(&files.key).unwrap();
    let line = refused(&mut files.serve(&data));
    assert_says(
        &line,
        &[
            &format!("{key} cannot be read (No such file"),
            "correct --tls-key",
        ],
    );
    let line = refused(serve(&data).env("OSTRAKON_TLS_CERT", "x.pem"));
    assert_says(
        &line,
        &["OSTRAKON_TLS_CERT: is set without --tls-key; set both or neither"],
    );
    assert!(!data.exists(), "a refused start must touch nothing");
}

#[test]
fn an_expired_certificate_and_an_open_key_are_only_warned_of() {
    let dir = scratch();
    let files = TlsFiles::write(dir.path(), &issue(2002));
    std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o604)).unwrap();
    let server = Server::start(&mut files.serve(&dir.path().join("data")));
    let log = server.err.clone();
    assert!(log.wait_for("has expired", QUICK), "{}", log.text());
    assert!(log.text().contains("open to all users"), "{}", log.text());
    server.stop();
}

#[test]
fn an_open_listener_without_tls_is_warned_of_once() {
    let dir = scratch();
    let data = dir.path().join("data");
    let files = TlsFiles::write(dir.path(), &issue(2050));
    let warned = |command: &mut Command| {
        let server = Server::start(command.env("OSTRAKON_LISTEN", "0.0.0.0:0"));
        let log = server.err.clone();
        server.stop();
        log.text().matches("without TLS").count()
    };
    let listen_by_environment = |command: &Command| {
        let mut other = Command::new(command.get_program());
        let arguments: Vec<_> = command.get_args().collect();
        let at = arguments.iter().position(|a| *a == "--listen").unwrap();
        other.args(&arguments[..at]).args(&arguments[at + 2..]);
        other
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        other
    };
    assert_eq!(warned(&mut listen_by_environment(&serve(&data))), 1);
    assert_eq!(warned(&mut listen_by_environment(&files.serve(&data))), 0);
}

#[test]
fn a_new_certificate_is_taken_up_and_a_wrong_one_is_not() {
    let dir = scratch();
    let (first, second, third) = (issue(2050), issue(2051), issue(2052));
    let files = TlsFiles::write(dir.path(), &first);
    let server = Server::start(&mut files.serve(&dir.path().join("data")));
    assert!(
        server
            .ready_line()
            .starts_with("Ostrakon ready on https://")
    );
    assert!(server.out.text().contains("--endpoint-url https://"));
    let log = server.err.clone();
    let mut early = tls_connect(&server, &first).unwrap();
    assert_eq!(
        early.conn.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(health(&mut early), 200);

    files.put(&second.certificate, &first.key);
    assert!(
        log.wait_for("the TLS certificate in force stays: ", QUICK),
        "{}",
        log.text()
    );
    assert_eq!(health(&mut tls_connect(&server, &first).unwrap()), 200);

    files.put(&second.certificate, &second.key);
    assert!(log.wait_for("taken up", QUICK), "{}", log.text());
    assert_eq!(health(&mut tls_connect(&server, &second).unwrap()), 200);
    assert!(tls_connect(&server, &first).is_err());
    // Connections go on with what they began with.
    assert_eq!(health(&mut early), 200);

    files.put(&third.certificate, &third.key);
    server.signal(rustix::process::Signal::HUP);
    assert!(log.wait_for("SIGHUP", QUICK), "{}", log.text());
    let start = Instant::now();
    while tls_connect(&server, &third).is_err() {
        assert!(start.elapsed() < QUICK, "{}", log.text());
        std::thread::sleep(Duration::from_millis(50));
    }
    server.stop();
}

#[test]
fn the_wrong_protocol_is_answered_and_does_no_harm() {
    let dir = scratch();
    let issued = issue(2050);
    let files = TlsFiles::write(dir.path(), &issued);
    let server = Server::start(
        files
            .serve(&dir.path().join("data"))
            .args(["--log", "debug"]),
    );
    let mut plain = TcpStream::connect(server.address).unwrap();
    assert_eq!(health(&mut plain), 400);
    let mut text = String::new();
    plain.read_to_string(&mut text).unwrap();
    assert!(text.contains("use https://"), "{text}");
    assert!(
        server.err.wait_for("does not speak TLS", QUICK),
        "{}",
        server.err.text()
    );
    assert_eq!(health(&mut tls_connect(&server, &issued).unwrap()), 200);
    server.stop();

    let server = Server::start(serve(&dir.path().join("data")).args(["--log", "debug"]));
    assert!(tls_connect(&server, &issued).is_err());
    assert!(server.err.wait_for("speaks TLS to a server without", QUICK));
    assert_eq!(
        health(&mut TcpStream::connect(server.address).unwrap()),
        200
    );
    server.stop();
}

// ---- the admin listener --------------------------------------------------------------------------------

/// Where the metrics are, as the start has said.
fn admin_address(server: &Server) -> SocketAddr {
    let text = server.out.text();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("  metrics: http://"));
    let address = line.and_then(|l| l.strip_suffix("/metrics"));
    address
        .unwrap_or_else(|| panic!("no metrics: {text}"))
        .parse()
        .unwrap()
}

/// Status and body of a GET by plain HTTP.
fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(QUICK)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (parse_status(head.as_bytes()), body.to_owned())
}

/// The samples of a page: name with labels, and value. The page must be in the text format.
fn samples(page: &str) -> std::collections::BTreeMap<String, f64> {
    let (mut types, mut found) = (Vec::new(), std::collections::BTreeMap::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(!types.contains(&name), "{name} comes twice");
            types.push(name);
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let family = types.last().unwrap();
            let suffix = name
                .strip_prefix(family)
                .unwrap_or_else(|| panic!("{line}"));
            assert!(
                ["", "_bucket", "_sum", "_count"].contains(&suffix),
                "{line}"
            );
            let before = found.insert(sample.to_owned(), value.parse().unwrap());
            assert!(before.is_none(), "{line}");
        }
    }
    found
}

#[test]
fn metrics_tell_what_was_done_and_nothing_that_is_not_documented() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut command = serve(&data);
    command.args(["--admin-listen", "127.0.0.1:0", "--cores", "2"]);
    let server = Server::start(&mut command);
    let admin = admin_address(&server);
    assert_eq!(fetch(admin, "/minio/health/live").0, 200);
    assert_eq!(fetch(admin, "/minio/health/ready").0, 200);
    assert_eq!(fetch(admin, "/bucket").0, 404);

    let client = Client::stored(&server, &data);
    assert_eq!(client.put("/metrics-bucket", b""), 200);
    let object = vec![7; 300_000];
    for key in 0..5 {
        assert_eq!(client.put(&format!("/metrics-bucket/{key}"), &object), 200);
    }
    assert_eq!(client.get("/metrics-bucket/1"), (200, object));
    assert_eq!(
        Client::new(&server, "NOBODY", "no-secret").put("/other", b""),
        403
    );
    assert_eq!(
        health(&mut TcpStream::connect(server.address).unwrap()),
        200
    );
    let mut idle = TcpStream::connect(server.address).unwrap();
    assert_eq!(health(&mut idle), 200);

    let (status, page) = fetch(admin, "/metrics");
    assert_eq!(status, 200);
    let found = samples(&page);
    let value = |name: &str| {
        *found
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    let operation = |name: &str, status: &str| {
        let labels = format!("{{operation=\"{name}\",status=\"{status}\"}}");
        value(&format!("ostrakon_requests_total{labels}"))
    };
    assert_eq!(operation("PutObject", "2xx"), 5.0);
    assert_eq!(operation("CreateBucket", "2xx"), 1.0);
    assert_eq!(operation("GetObject", "2xx"), 1.0);
    assert_eq!(operation("None", "4xx"), 1.0);
    assert_eq!(operation("Health", "2xx"), 2.0);
    let seconds = "ostrakon_request_duration_seconds";
    assert_eq!(
        value(&format!("{seconds}_count{{operation=\"PutObject\"}}")),
        5.0
    );
    assert_eq!(
        value(&format!(
            "{seconds}_bucket{{operation=\"PutObject\",le=\"+Inf\"}}"
        )),
        5.0
    );
    assert!(value(&format!("{seconds}_sum{{operation=\"PutObject\"}}")) > 0.0);
    let failures = "ostrakon_authentication_failures_total{code=\"InvalidAccessKeyId\"}";
    assert_eq!(value(failures), 1.0);
    assert_eq!(value("ostrakon_put_bytes_total"), 1_500_000.0);
    assert_eq!(value("ostrakon_get_bytes_total"), 300_000.0);
    assert!(value("ostrakon_received_bytes_total") > 1_500_000.0);
    assert!(value("ostrakon_sent_bytes_total") > 300_000.0);
    assert!(value("ostrakon_connections_accepted_total") >= 8.0);
    assert!(value("ostrakon_connections") >= 1.0);
    assert_eq!(value("ostrakon_cores"), 2.0);
    for volume in 0..2 {
        let of = |name: &str| value(&format!("ostrakon_volume_{name}{{volume=\"{volume}\"}}"));
        assert_eq!((of("up"), of("writable"), of("suspect")), (1.0, 1.0, 0.0));
        assert!(of("files") > of("files_free") && of("files_free") > 0.0);
    }
    assert!(value("ostrakon_buffer_used_bytes{core=\"1\"}") > 0.0);

    let documented = ostrakon::metrics::METRICS;
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let known =
            |m: &&ostrakon::metrics::Metric| line == format!("{} {}", m.name, m.kind.name());
        assert!(documented.iter().find(known).is_some(), "{line}");
    }
    for metric in documented {
        let told = page.contains(&format!("# TYPE {} ", metric.name));
        assert_eq!(
            told,
            metric.name != "ostrakon_tls_certificate_end_seconds",
            "{}",
            metric.name
        );
    }
    server.stop();

    let files = TlsFiles::write(dir.path(), &issue(2050));
    let server = Server::start(files.serve(&data).args(["--admin-listen", "127.0.0.1:0"]));
    assert_eq!(
        health(&mut TcpStream::connect(server.address).unwrap()),
        400
    );
    let found = samples(&fetch(admin_address(&server), "/metrics").1);
    assert_eq!(
        found["ostrakon_tls_certificate_end_seconds"],
        2_556_057_600.0
    );
    assert_eq!(found["ostrakon_tls_handshakes_failed_total"], 1.0);
    server.stop();
}

#[test]
fn the_admin_listener_is_worth_a_refusal_only_to_those_who_asked_for_it() {
    let dir = scratch();
    let data = dir.path().join("data");
    // Somebody has it, be it this test.
    let _taken = TcpListener::bind("127.0.0.1:9001");
    let server = Server::start(serve(&data).env_remove("OSTRAKON_ADMIN_LISTEN"));
    let log = server.err.clone();
    assert!(log.wait_for("metrics are not served: 127.0.0.1:9001 is in use", QUICK));
    assert!(!server.out.text().contains("metrics:"));
    server.stop();
    let line = refused(serve(&data).args(["--admin-listen", "127.0.0.1:9001"]));
    assert_says(
        &line,
        &["127.0.0.1:9001 is in use", "another --admin-listen"],
    );

    let mut open = serve(&data);
    let server = Server::start(open.args(["--admin-listen", "0.0.0.0:0"]));
    assert!(server.err.wait_for("for everybody who reaches it", QUICK));
    server.stop();
}

// ---- two servers -----------------------------------------------------------------------------------

#[test]
fn a_second_server_on_the_directory_is_refused_and_the_first_goes_on() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut first = Server::start(&mut serve(&data));
    let pid = format!("(pid {})", first.child.id());
    assert_says(
        &refused(&mut serve(&data)),
        &["in use by another server", &pid, "--data"],
    );
    assert!(first.wait(Duration::ZERO).is_none());
    TcpStream::connect(first.address).unwrap();
    // The lock ends with the process, however it ends.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    Server::start(&mut serve(&data)).stop();
}

#[test]
fn a_second_server_on_the_port_is_refused() {
    let dir = scratch();
    let first = Server::start(&mut serve(&dir.path().join("first")));
    let on = |listen: String| {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", &listen, "--data"]);
        command.arg(dir.path().join("second"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let any = format!("0.0.0.0:{}", first.address.port());
    for listen in [first.address.to_string(), any] {
        let line = refused(&mut on(listen.clone()));
        assert_says(&line, &[&listen, "in use by another process", "--listen"]);
    }
    let address = first.address.to_string();
    // A port is free again at once, though clients were connected.
    let client = TcpStream::connect(first.address).unwrap();
    first.stop();
    drop(client);
    Server::start(&mut on(address)).stop();
}

#[test]
fn a_port_of_another_program_is_refused() {
    let dir = scratch();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(binary());
    command.args([
        "serve",
        "--listen",
        &other.local_addr().unwrap().to_string(),
    ]);
    command.arg("--data").arg(dir.path().join("data"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_says(
        &refused(&mut command),
        &["in use by another process", "ss -ltnp"],
    );
}

#[test]
fn addresses_that_cannot_be_had_are_refused() {
    let dir = scratch();
    let on = |listen: &str| {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", listen, "--data", "data"]);
        command.current_dir(dir.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // TEST-NET-1, RFC 5737: nobody's.
    let line = refused(&mut on("192.0.2.1:9000"));
    assert_says(&line, &["192.0.2.1 is not an address of this machine"]);

    let open = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if open.trim().parse::<u32>().unwrap() <= 80 {
        eprintln!("no privileged ports here, refusal of one not run");
        return;
    }
    let mut command = on("127.0.0.1:80");
    if root() {
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        std::fs::remove_dir_all(dir.path().join("data")).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_says(&refused(&mut command), &["port 80 is reserved", "setcap"]);
}

// ---- directories that will not do -------------------------------------------------------------------

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let dir = scratch();
    let data = new_directory(dir.path(), "data", 0o500);
    let mut command = serve(&data);
    if root() {
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_says(
        &refused(&mut command),
        &["cannot be written by user", "chmod u+rwx"],
    );
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn a_read_only_file_system_is_refused() {
    let dir = scratch();
    let data = new_directory(dir.path(), "data", 0o700);
    if let Some(mut command) = serve_after_mount("mount -t tmpfs -o ro,mode=700 none", &data) {
        assert_says(
            &refused(&mut command),
            &["read-only file system", "mount it read-write"],
        );
    }
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let dir = scratch();
    if root() {
        let data = new_directory(dir.path(), "data", 0o700);
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        let line = refused(&mut serve(&data));
        assert_says(
            &line,
            &[
                "belongs to user 65534, and this runs as user 0",
                "chown -R 0 ",
            ],
        );
        // And the other way round, where the directory cannot even be entered.
        chown(&data, Some(0), Some(0)).unwrap();
        let line = refused(serve(&data).uid(NOBODY).gid(NOBODY));
        assert_says(&line, &["belongs to user 0, and this runs as user 65534"]);
        assert_eq!(data.read_dir().unwrap().count(), 0);
    } else {
        let line = refused(&mut serve(Path::new("/usr")));
        assert_says(&line, &["belongs to user 0, and this runs as user"]);
    }
}

#[test]
fn a_directory_with_other_things_in_it_is_refused_and_left_alone() {
    let dir = scratch();
    let data = new_directory(dir.path(), "photos", 0o700);
    std::fs::write(data.join("cat.jpg"), "meow").unwrap();
    assert_says(&refused(&mut serve(&data)), &["not a store", "cat.jpg"]);
    let names: Vec<_> = data
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["cat.jpg"]);
}

#[test]
fn a_file_system_without_direct_io_is_refused() {
    let dir = scratch();
    let data = new_directory(dir.path(), "data", 0o700);
    // ramfs is the plainest one without; tmpfs has learned it (Linux 6.6).
    if let Some(mut command) = serve_after_mount("mount -t ramfs -o mode=700 none", &data) {
        assert_says(
            &refused(&mut command),
            &["without direct I/O", "use ext4 or XFS"],
        );
    }
}

/// A format file of the next version, as a later release would write it: magic, version and
/// checksum have their places in every version.
fn newer_format() -> Vec<u8> {
    let mut bytes = [0u8; 8192];
    shard_format::DriveFormat {
        cluster: shard_format::ClusterId([1; 16]),
        drive: shard_format::DriveId([2; 16]),
        volume_count: 1,
        first_volume: 0,
        pg_count: 256,
        segment_file_length: 16 << 20,
        created_ms: 0,
    }
    .encode(&mut bytes);
    for copy in bytes.chunks_exact_mut(4096) {
        let newer = shard_format::FORMAT_VERSION + 1;
        copy[8..12].copy_from_slice(&newer.to_le_bytes());
        let crc = crc32c::crc32c(&copy[..508]);
        copy[508..512].copy_from_slice(&crc.to_le_bytes());
    }
    bytes.to_vec()
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = scratch();
    let data = new_directory(dir.path(), "data", 0o700);
    std::fs::write(data.join("format"), newer_format()).unwrap();
    let line = refused(&mut serve(&data));
    assert_says(
        &line,
        &["written by a newer release (format 2, this release knows 1)"],
    );
    assert_eq!(std::fs::read(data.join("format")).unwrap(), newer_format());
    assert!(!data.join("credentials").exists());
}

#[test]
fn a_damaged_or_lost_format_file_is_not_formatted_over() {
    let dir = scratch();
    let data = dir.path().join("data");
    Server::start(&mut serve(&data)).stop();
    let format = data.join("format");
    let good = std::fs::read(&format).unwrap();

    let mut one_copy = good.clone();
    one_copy[..4096].fill(0xff);
    std::fs::write(&format, &one_copy).unwrap();
    Server::start(&mut serve(&data)).stop();

    let mut bad = one_copy.clone();
    bad[4096 + 20] ^= 1;
    std::fs::write(&format, &bad).unwrap();
    assert_says(
        &refused(&mut serve(&data)),
        &["format file is damaged", "restore"],
    );
    std::fs::remove_file(&format).unwrap();
    assert_says(
        &refused(&mut serve(&data)),
        &["volumes but no format file", "restore"],
    );
    std::fs::write(&format, &good).unwrap();
    Server::start(&mut serve(&data)).stop();
}

// ---- limits and kernel ----------------------------------------------------------------------------

#[test]
fn few_open_files_are_refused_warned_of_or_raised() {
    let dir = scratch();
    let data = dir.path().join("data");
    let line = refused(&mut serve_in(&["prlimit", "--nofile=100:100"], &data));
    assert_says(
        &line,
        &["only 100 open files are allowed", "ulimit -n 65536"],
    );
    assert!(!data.exists());

    let server = Server::start(&mut serve_in(&["prlimit", "--nofile=64:512"], &data));
    assert!(
        server.err.wait_for("only 512 open files", QUICK),
        "{}",
        server.err.text()
    );
    let limits = format!("/proc/{}/limits", server.child.id());
    let limits = std::fs::read_to_string(limits).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["512", "512"]);
    server.stop();
}

/// As a user who may not lock what it likes, with this limit.
fn serve_with_memlock(bytes: &str, home: &Path) -> Command {
    let limit = format!("--memlock={bytes}:{bytes}");
    let mut command = serve_in(&["prlimit", &limit], &home.join("data"));
    if root() {
        chown(home, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    command
}

#[test]
fn little_locked_memory_is_lived_with_and_said() {
    let dir = scratch();
    let home = new_directory(dir.path(), "home", 0o700);
    // The default of systemd since 2020.
    let server = Server::start(&mut serve_with_memlock("8388608", &home));
    let ready = server.ready_line();
    let missing = ready.split("kernel features missing: ").nth(1).unwrap();
    assert!(missing.contains("registered buffers"), "{ready}");
    assert!(missing.contains("memlock"), "{ready}");
    server.stop();
}

#[test]
fn too_little_locked_memory_for_a_ring_is_refused_or_not_needed() {
    let dir = scratch();
    let home = new_directory(dir.path(), "home", 0o700);
    let mut child = serve_with_memlock("4096", &home).spawn().unwrap();
    // Kernels differ in whether a ring is locked memory: then it is refused with the remedy.
    let out = Lines::of(child.stdout.take().unwrap());
    let err = Lines::of(child.stderr.take().unwrap());
    if out.wait_for("s3 mb s3://", Duration::from_secs(10)) {
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    let status = wait(&mut child, QUICK).expect("neither ready nor refused");
    assert_eq!(status.code(), Some(1));
    assert!(err.wait_for("ulimit -l", QUICK), "{}", err.text());
    assert_eq!(err.text().lines().count(), 1, "{}", err.text());
}

#[test]
fn blocked_io_uring_is_refused() {
    let dir = scratch();
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut command = serve(&dir.path().join("data"));
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || block_io_uring_setup(errno));
        }
        let line = refused(&mut command);
        assert_says(&line, &["io_uring", "seccomp"]);
    }
    assert!(!dir.path().join("data").exists());
}

/// What container runtimes do: a seccomp filter that answers io_uring_setup with an error.
fn block_io_uring_setup(errno: i32) -> std::io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let filter = [
        step(LOAD_WORD, 0, 0, 0), // seccomp_data.nr
        step(JUMP_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and its filter outlive the call, which copies them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    if done {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

// ---- stopping -------------------------------------------------------------------------------------

#[test]
fn either_signal_drains_and_exits_with_0() {
    let dir = scratch();
    let data = dir.path().join("data");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut server = Server::start(&mut serve(&data));
        // Idle connections are not requests under way.
        let _idle = TcpStream::connect(server.address).unwrap();
        server.signal(signal);
        let status = server.wait(QUICK).expect("did not stop");
        assert_eq!(status.code(), Some(0), "{}", server.err.text());
    }
}

#[test]
fn a_drain_lets_an_upload_finish() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut server = Server::start(serve(&data).args(["--drain", "30"]));
    let client = Client::stored(&server, &data);
    assert_eq!(client.put("/bucket", b""), 200);
    let body = vec![7u8; 300_000];
    let mut upload = client.begin_put("/bucket/slow", body.len());
    upload.write_all(&body[..100_000]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal(rustix::process::Signal::TERM);
    assert!(server.err.wait_for("draining", QUICK));
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        server.wait(Duration::ZERO).is_none(),
        "it did not wait for the upload"
    );
    upload.write_all(&body[100_000..]).unwrap();
    assert_eq!(status_of(&mut upload), 200);
    drop(upload);
    assert_eq!(server.wait(QUICK).and_then(|s| s.code()), Some(0));

    let server = Server::start(&mut serve(&data));
    let (status, read) = Client::stored(&server, &data).get("/bucket/slow");
    assert_eq!(status, 200);
    assert!(read == body);
    server.stop();
}

#[test]
fn a_drain_ends_at_its_bound() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut server = Server::start(serve(&data).args(["--drain", "1"]));
    let client = Client::stored(&server, &data);
    assert_eq!(client.put("/bucket", b""), 200);
    let mut upload = client.begin_put("/bucket/stuck", 1000);
    upload.write_all(&[1; 10]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    server.signal(rustix::process::Signal::TERM);
    let status = server.wait(QUICK).expect("did not stop");
    assert_eq!(status.code(), Some(0), "{}", server.err.text());
    let took = start.elapsed();
    assert!((0.9..6.0).contains(&took.as_secs_f64()), "{took:?}");

    // And nothing of the upload is there.
    let server = Server::start(&mut serve(&data));
    assert_eq!(Client::stored(&server, &data).get("/bucket/stuck").0, 404);
    server.stop();
}

#[test]
fn a_second_signal_stops_at_once() {
    let dir = scratch();
    let data = dir.path().join("data");
    for (signal, code) in [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::TERM, 143),
    ] {
        let mut server = Server::start(&mut serve(&data));
        let client = Client::stored(&server, &data);
        client.put("/bucket", b"");
        let mut upload = client.begin_put("/bucket/stuck", 1000);
        upload.write_all(&[1; 10]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        server.signal(signal);
        assert!(server.err.wait_for("draining", QUICK));
        assert!(
            server.wait(Duration::from_millis(300)).is_none(),
            "drained under an upload"
        );
        let start = Instant::now();
        server.signal(signal);
        let status = server.wait(QUICK).expect("did not stop");
        assert_eq!(status.code(), Some(code), "signal {:?}", status.signal());
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

// ---- inspect ----------------------------------------------------------------------------------------

#[test]
fn inspect_reads_a_store_offline_and_finds_a_flipped_bit() {
    let dir = scratch();
    let data = dir.path().join("data");
    let server = Server::start(&mut serve(&data));
    let client = Client::stored(&server, &data);
    assert_eq!(client.put("/bucket", b""), 200);
    assert_eq!(client.put("/bucket/small", b"words"), 200);
    assert_eq!(client.put("/bucket/large", &vec![7; 300_000]), 200);
    server.stop();
    let inspect = || {
        let output = Command::new(binary())
            .args(["inspect", "--records"])
            .arg(&data)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text, _) = inspect();
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "name=\"bucket\"",
        "key=\"small\"",
        "body=inline",
        "key=\"large\"",
        "size=300000",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    // The record of `small`, under its volume and file, as shown.
    let mut volume = "";
    let mut place = None;
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("volume ") {
            volume = path;
        } else if line.contains("key=\"small\"") {
            let field = |name: &str| {
                let words = line.split_whitespace();
                words
                    .filter_map(|word| word.strip_prefix(name))
                    .next()
                    .unwrap()
                    .to_owned()
            };
            let file = format!("{volume}/segments/{}.seg", field("file="));
            place = Some((
                PathBuf::from(file),
                field("offset=").parse::<usize>().unwrap(),
            ));
        }
    }
    let (path, offset) = place.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[offset + 3] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    let (code, text, _) = inspect();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("DAMAGE"), "{text}");

    // What cannot be read is not taken for what was never there.
    let server = Server::start(&mut serve(&data));
    let status = Client::stored(&server, &data).get("/bucket/small").0;
    assert!(matches!(status, 500 | 503), "{status}");
    server.stop();
}

// ---- just enough of a client ----------------------------------------------------------------------

/// Signs each request with SigV4 over an unsigned payload and opens a connection for it.
struct Client {
    address: SocketAddr,
    access_key: String,
    secret_key: String,
}

impl Client {
    fn new(server: &Server, access_key: &str, secret_key: &str) -> Client {
        Client {
            address: server.address,
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
        }
    }

    fn stored(server: &Server, data: &Path) -> Client {
        let text = std::fs::read_to_string(data.join("credentials")).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(" = "))
                .unwrap()
                .to_owned()
        };
        Client::new(
            server,
            &value("aws_access_key_id"),
            &value("aws_secret_access_key"),
        )
    }

    /// Everything up to the body.
    fn begin(&self, method: &str, path: &str, length: usize) -> TcpStream {
        const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
            time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
        let stamp = time::OffsetDateTime::now_utc().format(FORMAT).unwrap();
        let scope = format!("{}/us-east-1/s3/aws4_request", &stamp[..8]);
        let host = self.address;
        let payload = "UNSIGNED-PAYLOAD";
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n\n{signed}\n{payload}"
        );
        let text = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            hex(&Sha256::digest(canonical))
        );
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in scope.split('/').chain([text.as_str()]) {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(START_LIMIT)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nx-amz-date: {stamp}\r\n\
             x-amz-content-sha256: {payload}\r\nContent-Length: {length}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, \
             Signature={}\r\n\r\n",
            self.access_key,
            hex(&key)
        )
        .unwrap();
        stream
    }

    fn begin_put(&self, path: &str, length: usize) -> TcpStream {
        self.begin("PUT", path, length)
    }

    fn put(&self, path: &str, body: &[u8]) -> u16 {
        let mut stream = self.begin_put(path, body.len());
        stream.write_all(body).unwrap();
        status_of(&mut stream)
    }

    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let mut stream = self.begin("GET", path, 0);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        (parse_status(&answer), answer.split_off(end + 4))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_status(answer: &[u8]) -> u16 {
    let head = String::from_utf8_lossy(answer);
    head.split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{head:?}"))
}

fn status_of(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    parse_status(&head)
}
