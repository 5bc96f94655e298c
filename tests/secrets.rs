//! The real binary, logging all it can, and requests of every kind: secrets, signatures and tokens
//! come out of it nowhere.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

const ACCESS_KEY: &str = "CANARYACCESSKEY";
const SECRET_KEY: &str = "canary-secret-5f0c2b7e9d";
const TOKEN: &str = "canary-token-77aa01";
/// Stands where a signature would.
const WRONG: &str = "cafe0000beefcafe0000beefcafe0000beefcafe0000beefcafe0000beefca11";

/// Formatting zeroes files; two busy CPUs and a slow disk must be enough.
const START_LIMIT: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_secs(20);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time of now, as signatures have it.
fn stamp() -> String {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    time::OffsetDateTime::now_utc().format(FORMAT).unwrap()
}

fn scope(stamp: &str) -> String {
    format!("{}/us-east-1/s3/aws4_request", &stamp[..8])
}

fn signature(secret: &str, stamp: &str, canonical: &str) -> String {
    let scope = scope(stamp);
    let hash = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/').chain([text.as_str()]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(part.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    hex(&key)
}

/// What must not come out, and the requests that brought it in.
#[derive(Default)]
struct Canaries {
    secrets: Vec<String>,
    requests: Vec<Vec<u8>>,
}

impl Canaries {
    fn send(&mut self, request: String) {
        self.requests.push(request.into_bytes());
    }

    /// A request signed in its head.
    fn signed(&mut self, secret: &str, method: &str, path: &str, query: &str, body: &str) {
        self.signed_with(secret, None, (method, path, query), body);
    }

    fn signed_with(
        &mut self,
        secret: &str,
        token: Option<&str>,
        (method, path, query): (&str, &str, &str),
        body: &str,
    ) {
        let stamp = stamp();
        let fields = format!(
            "host:x\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{stamp}\n{}",
            token.map_or(String::new(), |token| format!(
                "x-amz-security-token:{token}\n"
            ))
        );
        let mut names = "host;x-amz-content-sha256;x-amz-date".to_owned();
        let mut more = String::new();
        if let Some(token) = token {
            names.push_str(";x-amz-security-token");
            more = format!("x-amz-security-token: {token}\r\n");
        }
        let canonical = format!("{method}\n{path}\n{query}\n{fields}\n{names}\nUNSIGNED-PAYLOAD");
        let signature = signature(secret, &stamp, &canonical);
        let mark = if query.is_empty() { "" } else { "?" };
        self.send(format!(
            "{method} {path}{mark}{query} HTTP/1.1\r\nHost: x\r\nx-amz-date: {stamp}\r\n\
             x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n{more}\
             Content-Length: {}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential={ACCESS_KEY}/{}, SignedHeaders={names}, Signature={signature}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len(),
            scope(&stamp)
        ));
        self.secrets.push(signature);
    }

    /// The query of a presigned URL; its signature comes last.
    fn presigned(&mut self, secret: &str, method: &str, path: &str) -> String {
        let stamp = stamp();
        let credential = format!("{ACCESS_KEY}/{}", scope(&stamp)).replace('/', "%2F");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={stamp}\
             &X-Amz-Expires=60&X-Amz-SignedHeaders=host"
        );
        let canonical = format!("{method}\n{path}\n{query}\nhost:x\n\nhost\nUNSIGNED-PAYLOAD");
        let signature = signature(secret, &stamp, &canonical);
        self.secrets.push(signature.clone());
        format!("{query}&X-Amz-Signature={signature}")
    }
}

/// Requests that are fine, and every way of getting one wrong with a secret in hand.
fn canaries() -> Canaries {
    let mut c = Canaries {
        secrets: vec![SECRET_KEY.to_owned(), WRONG.to_owned()],
        ..Canaries::default()
    };
    c.signed(SECRET_KEY, "PUT", "/canary-bucket", "", "");
    c.signed(SECRET_KEY, "PUT", "/canary-bucket/key", "", "an object");
    c.signed(SECRET_KEY, "GET", "/canary-bucket", "list-type=2", "");
    c.signed(SECRET_KEY, "GET", "/canary-bucket/none", "", "");
    c.signed(SECRET_KEY, "POST", "/canary-bucket", "delete=", "<Delete/>");
    c.signed("another-secret", "GET", "/canary-bucket/key", "", "");
    c.signed_with(
        SECRET_KEY,
        Some(TOKEN),
        ("GET", "/canary-bucket", "list-type=2"),
        "",
    );
    for secret in [SECRET_KEY, "another-secret"] {
        let query = c.presigned(secret, "GET", "/canary-bucket/key");
        let end = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        c.send(format!("GET /canary-bucket/key?{query} {end}"));
        // For another method, in another spelling, in the path, whole, cut off, twice.
        c.send(format!("DELETE /canary-bucket/key?{query} {end}"));
        c.send(format!(
            "GET /canary-bucket/key?{} {end}",
            query.to_lowercase()
        ));
        c.send(format!("GET /canary-bucket/key%3F{query} {end}"));
        c.send(format!("GET http://x/canary-bucket/key?{query} {end}"));
        c.send(format!("GET /canary-bucket/key?{query}&{query} {end}"));
        c.send(format!(
            "GET /canary-bucket/key?{query}&X-Amz-Security-Token={TOKEN} {end}"
        ));
        c.send(format!("GET /canary-bucket/key?amp;{query}&acl {end}"));
        c.send(format!(
            "GET /canary-bucket/key?{query} HTTP/3.0\r\nHost: x\r\n\r\n"
        ));
        let signature = query.rsplit('=').next().unwrap().to_owned();
        c.send(format!("GET /canary-bucket/key?{signature} {end}"));
        c.send(format!("{signature} /canary-bucket/key {end}"));
        c.send(format!(
            "GET /?Signature={signature}&AWSAccessKeyId={ACCESS_KEY}&Expires=1 {end}"
        ));
    }
    for value in [
        format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/x, SignedHeaders=host, Signature={WRONG}"
        ),
        format!("AWS4-HMAC-SHA256 Signature={WRONG}"),
        format!("AWS {ACCESS_KEY}:{WRONG}"),
        format!("Bearer {WRONG}"),
        format!("Basic {SECRET_KEY}"),
        SECRET_KEY.to_owned(),
        format!("{SECRET_KEY}\x01"),
        format!("{SECRET_KEY}{}", "x".repeat(40_000)),
    ] {
        c.send(format!(
            "GET /canary-bucket HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n\
             Connection: close\r\n\r\n"
        ));
    }
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"X-Amz-Signature\"\r\n\r\n{WRONG}\r\n--b--\r\n"
    );
    c.send(format!(
        "POST /canary-bucket HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{form}",
        form.len()
    ));
    c.send(format!("{SECRET_KEY}\r\n\r\n"));
    c.send(format!("GET / HTTP/1.1\r\n{SECRET_KEY}\r\n\r\n"));
    c.send(format!(
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET_KEY}\r\n\r\n"
    ));
    c.send(format!(
        "GET / HTTP/1.1\r\nHost: x\r\nExpect: {SECRET_KEY}\r\n\r\n"
    ));
    c
}

struct Server {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(data: &Path, arguments: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OSTRAKON_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(["--cores", "1", "--data"])
            .arg(data)
            .args(arguments)
            .env("OSTRAKON_ACCESS_KEY", ACCESS_KEY)
            .env("OSTRAKON_SECRET_KEY", SECRET_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let collect = |mut source: Box<dyn Read + Send>| {
            let output = output.clone();
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = source.read(&mut piece) {
                    output.lock().unwrap().extend_from_slice(&piece[..count]);
                }
            })
        };
        let readers = vec![
            collect(Box::new(child.stdout.take().unwrap())),
            collect(Box::new(child.stderr.take().unwrap())),
        ];
        let server = Server {
            child,
            output,
            readers,
        };
        let start = Instant::now();
        while !server.text().contains("s3 mb s3://") {
            assert!(start.elapsed() < START_LIMIT, "{}", server.text());
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// The address that follows `mark` in what was printed.
    fn address(&self, mark: &str) -> SocketAddr {
        let text = self.text();
        let rest = text.split_once(mark).unwrap().1;
        let end = rest.find([' ', '/', '\n']).unwrap();
        rest[..end].parse().unwrap()
    }

    /// All that it has printed.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.text()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that comes back.
fn answers(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
    // It may be refused before all of it is sent.
    let _ = stream.write_all(request).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(QUICK)).unwrap();
    stream
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("ostrakon-secrets-")
        .tempdir_in("/var/tmp")
        .unwrap()
}

/// Sends everything over connections that `open` makes and searches all that comes out.
fn search(server: Server, open: impl Fn() -> Box<dyn Duplex>) -> String {
    let canaries = canaries();
    let mut heard = Vec::new();
    for request in &canaries.requests {
        heard.push(answers(open(), request));
    }
    let statuses: Vec<&str> = heard
        .iter()
        .filter_map(|answer| std::str::from_utf8(answer.get(9..12)?).ok())
        .collect();
    // The first four are fine, and the presigned one in both forms of its target, so the rest is refused for what it
    // is.
    assert_eq!(statuses[..4], ["200", "200", "200", "404"]);
    assert_eq!(
        statuses.iter().filter(|s| **s == "200").count(),
        5,
        "{statuses:?}"
    );
    let metrics = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    heard.push(answers(
        connect(server.address("metrics: http://")),
        metrics.as_bytes(),
    ));
    assert!(heard.last().unwrap().starts_with(b"HTTP/1.1 200"));
    let printed = server.stop();
    let mut leaks = Vec::new();
    let all = heard.iter().map(Vec::as_slice);
    for (at, answer) in all.chain([printed.as_bytes()]).enumerate() {
        let request = canaries
            .requests
            .get(at)
            .map(|r| String::from_utf8_lossy(r));
        for line in String::from_utf8_lossy(answer).to_lowercase().lines() {
            if canaries.secrets.iter().any(|secret| line.contains(secret)) {
                leaks.push(format!("{request:?}\n  {line}"));
            }
        }
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    // A token is an answer's business only where the request is told how it was understood.
    assert!(!printed.contains(TOKEN), "{printed}");
    printed
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

#[test]
fn secrets_and_signatures_come_out_nowhere() {
    let dir = scratch();
    let server = Server::start(&dir.path().join("data"), &["--log", "trace"]);
    let address = server.address("ready on http://");
    let printed = search(server, || Box::new(connect(address)));
    // It did log: the requests, by what may be known of them.
    assert!(
        printed.contains("operation=PutObject user=\"root\" status=200"),
        "{printed}"
    );
    assert!(
        printed.contains("target=\"/canary-bucket?list-type=2\""),
        "{printed}"
    );
    assert!(
        printed.contains("code=\"SignatureDoesNotMatch\""),
        "{printed}"
    );
}

#[test]
fn nor_with_tls_and_a_log_of_json() {
    let dir = scratch();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let arguments = [
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
        "--log",
        "trace",
        "--log-format",
        "json",
        "--access-log",
        "on",
    ];
    let server = Server::start(&dir.path().join("data"), &arguments);
    let address = server.address("ready on https://");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let printed = search(server, || {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let client = rustls::ClientConnection::new(config.clone(), name).unwrap();
        Box::new(rustls::StreamOwned::new(client, connect(address)))
    });
    let log: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    assert!(log.iter().all(|line| line.ends_with('}')));
    let put = log
        .iter()
        .find(|line| line.contains("\"operation\":\"PutObject\""))
        .unwrap();
    for part in [
        "\"level\":\"INFO\"",
        "\"request_id\":\"",
        "\"status\":200",
        "\"micros\":",
    ] {
        assert!(put.contains(part), "{part} is missing in {put}");
    }
    let key = issued.signing_key.serialize_pem();
    let key = key.lines().nth(1).unwrap();
    assert!(!printed.contains(&key[..20]));
}
