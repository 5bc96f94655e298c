//! Whole connections over the loopback device: bytes in, bytes out, an in-memory store behind.

use crate::http::date;
use crate::object::checksum::{Algorithm, Hasher};
use crate::rt::uring::{Config, Reactor};
use crate::rt::{Buf, CoreId, TcpListener, TcpStream, spawn, timeout, unix_ms};
use crate::s3::memory::MemoryStore;
use crate::s3::server::{Context, serve};
use crate::s3::sigv4::tests::sign;
use crate::s3::users::{User, Users};
use crate::tls::Acceptor;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

mod buckets;
mod copies;
mod multipart;
mod presigned;
mod writes;

const SECRET: &str = "canary-secret-key";

pub(super) struct Server {
    pub(super) address: SocketAddr,
    store: MemoryStore,
    context: Rc<Context<MemoryStore>>,
}

/// Runs `test` beside a server on one core.
pub(super) fn with_server<F: Future<Output = ()> + 'static>(
    test: impl FnOnce(Rc<Server>) -> F + 'static,
) {
    with_arena(16 << 20, test);
}

fn with_region<F: Future<Output = ()> + 'static>(
    region: &'static str,
    test: impl FnOnce(Rc<Server>) -> F + 'static,
) {
    with_arena_in(region, 16 << 20, None, test);
}

pub(super) fn with_arena<F: Future<Output = ()> + 'static>(
    arena_bytes: usize,
    test: impl FnOnce(Rc<Server>) -> F + 'static,
) {
    with_acceptor(arena_bytes, None, test);
}

pub(super) fn with_acceptor<F: Future<Output = ()> + 'static>(
    arena_bytes: usize,
    tls: Option<Acceptor>,
    test: impl FnOnce(Rc<Server>) -> F + 'static,
) {
    with_arena_in("us-east-1", arena_bytes, tls, test);
}

fn with_arena_in<F: Future<Output = ()> + 'static>(
    region: &'static str,
    arena_bytes: usize,
    tls: Option<Acceptor>,
    test: impl FnOnce(Rc<Server>) -> F + 'static,
) {
    let config = Config {
        arena_bytes,
        entries: 256,
        helpers: 1,
        picked_buffers: 32,
        spin: false,
        register: false,
        msg_ring: false,
    };
    let reactor = Reactor::new(CoreId(0), &config).expect("io_uring");
    reactor.run(async move {
        let store = MemoryStore::default();
        let mut other = User::new("other", "OTHER", SECRET, "other-id");
        other.email = None;
        let users = Users::new(region, [User::root("ROOT", SECRET, "root-id"), other]);
        let mut context = Context::new(store.clone(), users, vec!["s3.test".to_owned()]);
        context.tls = tls;
        let context = Rc::new(context);
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_address().unwrap();
        let server = spawn(serve(listener, Rc::clone(&context), Duration::from_secs(5)));
        let drain = Rc::clone(&context);
        let test = test(Rc::new(Server {
            address,
            store,
            context,
        }));
        timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs");
        drain.drain.request();
        let left = timeout(Duration::from_secs(10), server)
            .await
            .expect("the drain hangs");
        assert_eq!(left, 0, "connections were left");
    });
}

impl Server {
    pub(super) fn connections(&self) -> u64 {
        self.context.counters.connections.get()
    }
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            (found == name).then_some(value)
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn code(&self) -> String {
        self.element("Code")
    }

    /// The text of the first element of this name; empty if there is none.
    fn element(&self, name: &str) -> String {
        let text = self.text();
        let open = format!("<{name}>");
        let from = text.find(&open).map_or(0, |at| at + open.len());
        let to = text[from..].find("</").map_or(from, |at| from + at);
        let found = if from == 0 { "" } else { &text[from..to] };
        found.replace("&quot;", "\"")
    }
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address)
            .await
            .expect("a connection");
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Sends what the server is willing to take; tells whether that was all. It may have closed
    /// already; what it said is still there to be read.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.chunks(256 * 1024) {
            let mut buf = Buf::alloc(part.len()).await;
            buf.set_len(part.len());
            buf.copy_from_slice(part);
            if self.stream.send_all(buf, 0, part.len()).await.0.is_err() {
                return false;
            }
        }
        true
    }

    async fn more(&mut self) -> bool {
        match self.stream.recv_ready().await {
            Ok(buf) if !buf.is_empty() => {
                self.received.extend_from_slice(&buf);
                true
            }
            _ => false,
        }
    }

    /// The next answer; `no_body` for those to HEAD.
    async fn reply(&mut self, no_body: bool) -> Reply {
        let end = loop {
            if let Some(at) = self
                .received
                .windows(4)
                .position(|part| part == b"\r\n\r\n")
            {
                break at + 4;
            }
            assert!(
                self.more().await,
                "no answer: {:?}",
                String::from_utf8_lossy(&self.received)
            );
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut reply = Reply {
            status,
            head,
            body: Vec::new(),
        };
        let length = match reply.header("content-length") {
            Some(length) if !no_body => length.parse().unwrap(),
            _ => 0,
        };
        while self.received.len() < length {
            assert!(self.more().await, "the body ended early");
        }
        reply.body = self.received.drain(..length).collect();
        reply
    }

    async fn is_closed(&mut self) -> bool {
        self.received.is_empty() && !self.more().await
    }
}

/// A signed request, unsent.
pub(super) struct Call {
    method: &'static str,
    target: String,
    fields: Vec<(String, String)>,
    sha256: String,
    access_key: &'static str,
    time_ms: u64,
    host: &'static str,
    region: &'static str,
}

impl Call {
    pub(super) fn new(method: &'static str, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            fields: Vec::new(),
            sha256: "UNSIGNED-PAYLOAD".to_owned(),
            access_key: "ROOT",
            time_ms: unix_ms(),
            host: "127.0.0.1",
            region: "us-east-1",
        }
    }

    fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    fn region(mut self, region: &'static str) -> Self {
        self.region = region;
        self
    }

    pub(super) fn field(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    fn sha256(mut self, value: &str) -> Self {
        self.sha256 = value.to_owned();
        self
    }

    fn user(mut self, access_key: &'static str) -> Self {
        self.access_key = access_key;
        self
    }

    /// The head, signed.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        );
        text.push_str(&format!("x-amz-date: {}\r\n", date::basic(self.time_ms)));
        text.push_str(&format!("x-amz-content-sha256: {}\r\n", self.sha256));
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        sign(&text, self.access_key, SECRET, self.region).into_bytes()
    }

    pub(super) fn with_body(self, body: &[u8]) -> Vec<u8> {
        let mut bytes = self.field("Content-Length", body.len()).head();
        bytes.extend_from_slice(body);
        bytes
    }
}

async fn call(client: &mut Client, call: Call, body: &[u8]) -> Reply {
    let is_head = call.method == "HEAD";
    let bytes = if body.is_empty() && call.method != "PUT" {
        call.head()
    } else {
        call.with_body(body)
    };
    client.send(&bytes).await;
    client.reply(is_head).await
}

/// A client with a bucket called `bucket`.
async fn client_with_bucket(server: &Server) -> Client {
    let mut client = Client::connect(server).await;
    let made = call(&mut client, Call::new("PUT", "/bucket"), b"").await;
    assert_eq!(made.status, 200);
    client
}

/// The base64 text of a checksum.
fn checksum(algorithm: Algorithm, bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish().base64()
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn a_life_of_objects_on_one_connection() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        let made = call(c, Call::new("PUT", "/bucket"), b"").await;
        assert_eq!(
            (made.status, made.header("location")),
            (200, Some("/bucket"))
        );
        assert_eq!(call(c, Call::new("PUT", "/bucket"), b"").await.status, 200);
        assert_eq!(
            call(c, Call::new("HEAD", "/bucket"), b"")
                .await
                .header("x-amz-bucket-region"),
            Some("us-east-1")
        );

        for size in [0, 1, 5000, 16 * 1024, 300_000, 3_000_000] {
            let body = pattern(size);
            let sha = format!("{:x}", Sha256::digest(&body));
            let put = Call::new("PUT", "/bucket/a%20b/%E2%82%AC?x-id=PutObject")
                .sha256(&sha)
                .field("Content-Type", "text/x")
                .field("Content-Encoding", "aws-chunkedx")
                .field("Content-Encoding", "gzip")
                .field("x-amz-meta-One", "1")
                .field("X-Amz-Meta-Two", "zwei €");
            let put = call(c, put, &body).await;
            assert_eq!(put.status, 200, "{size}: {}", put.text());
            let etag = format!("\"{:x}\"", md5::Md5::digest(&body));
            assert_eq!(put.header("etag"), Some(&etag[..]));

            let got = call(c, Call::new("GET", "/bucket/a%20b/%E2%82%AC"), b"").await;
            assert!(got.status == 200 && got.body == body, "{size}");
            assert_eq!(got.header("content-type"), Some("text/x"));
            assert_eq!(got.header("content-encoding"), Some("aws-chunkedx,gzip"));
            assert_eq!(got.header("x-amz-meta-one"), Some("1"));
            assert_eq!(got.header("x-amz-meta-two"), Some("zwei €"));
            let head = call(c, Call::new("HEAD", "/bucket/a%20b/%E2%82%AC"), b"").await;
            assert_eq!(head.header("content-length"), Some(&size.to_string()[..]));
            assert_eq!(head.header("etag"), Some(&etag[..]));
        }
        let range =
            Call::new("GET", "/bucket/a%20b/%E2%82%AC").field("Range", "bytes=100000-199999");
        let part = call(c, range, b"").await;
        assert_eq!(part.status, 206);
        assert_eq!(
            part.header("content-range"),
            Some("bytes 100000-199999/3000000")
        );
        assert_eq!(part.body, pattern(3_000_000)[100_000..200_000]);
        let beyond = Call::new("GET", "/bucket/a%20b/%E2%82%AC").field("Range", "bytes=3000000-");
        let beyond = call(c, beyond, b"").await;
        assert_eq!(
            (beyond.status, beyond.code()),
            (416, "InvalidRange".to_owned())
        );
        assert_eq!(beyond.header("content-range"), Some("bytes */3000000"));

        let list = call(c, Call::new("GET", "/bucket?list-type=2&prefix=a+b/"), b"").await;
        assert!(list.text().contains("<Key>a b/€</Key>"), "{}", list.text());
        let busy = call(c, Call::new("DELETE", "/bucket"), b"").await;
        assert_eq!(
            (busy.status, busy.code()),
            (409, "BucketNotEmpty".to_owned())
        );
        assert_eq!(
            call(c, Call::new("DELETE", "/bucket/a%20b/%E2%82%AC"), b"")
                .await
                .status,
            204
        );
        let gone = call(c, Call::new("GET", "/bucket/a%20b/%E2%82%AC"), b"").await;
        assert_eq!((gone.status, gone.code()), (404, "NoSuchKey".to_owned()));
        assert_eq!(
            call(c, Call::new("HEAD", "/bucket/a%20b/%E2%82%AC"), b"")
                .await
                .status,
            404
        );
        assert_eq!(
            call(c, Call::new("DELETE", "/bucket"), b"").await.status,
            204
        );
        let gone = call(c, Call::new("GET", "/bucket?location"), b"").await;
        assert_eq!((gone.status, gone.code()), (404, "NoSuchBucket".to_owned()));
        let id = gone.header("x-amz-request-id").unwrap();
        assert!(
            id.len() == 16
                && gone
                    .text()
                    .contains(&format!("<RequestId>{id}</RequestId>"))
        );
    });
}

#[test]
fn wrong_requests_change_nothing() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        assert_eq!(
            call(&mut client, Call::new("PUT", "/bucket"), b"")
                .await
                .status,
            200
        );
        let put = || Call::new("PUT", "/bucket/k");
        let wrong: Vec<(Call, &str)> = vec![
            (put().sha256(&"0".repeat(64)), "XAmzContentSHA256Mismatch"),
            (
                put().field("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA=="),
                "BadDigest",
            ),
            (put().field("x-amz-checksum-crc32", "AAAAAA=="), "BadDigest"),
            (put().field("If-None-Match", "\"a\""), "NotImplemented"),
            (
                put().field("x-amz-copy-source", "/bucket/a"),
                "UnexpectedContent",
            ),
            (put().field("x-amz-acl", "public-read"), "NotImplemented"),
            (put().field("x-amz-tagging", "a=b"), "NotImplemented"),
            (
                put().field("x-amz-server-side-encryption", "AES256"),
                "NotImplemented",
            ),
            (
                put().field("x-amz-storage-class", "GLACIER"),
                "InvalidStorageClass",
            ),
            (
                put().field("x-amz-meta-a", "x".repeat(METADATA_TOO_MUCH)),
                "MetadataTooLarge",
            ),
            (
                put().field("x-amz-expected-bucket-owner", "other-id"),
                "AccessDenied",
            ),
            (put().user("OTHER"), "AccessDenied"),
            (put().user("NOBODY"), "InvalidAccessKeyId"),
            (Call::new("PUT", "/bucket/k?tagging"), "NotImplemented"),
            (Call::new("PUT", "/bucket/k?acl"), "NoSuchKey"),
            (
                Call::new("PUT", "/bucket/k?partNumber=1&uploadId=2"),
                "NoSuchUpload",
            ),
            (Call::new("PUT", "/bucket/k?partNumber=1"), "NotImplemented"),
            (Call::new("PUT", "/nothing/k"), "NoSuchBucket"),
            (Call::new("PUT", "/No/k"), "InvalidBucketName"),
            (Call::new("PUT", "/minio/k"), "InvalidBucketName"),
            (Call::new("PUT", "/bucket/%00"), "InvalidURI"),
        ];
        for (call_, code) in wrong {
            // A new connection each: some of these close it.
            let mut client = Client::connect(&server).await;
            let reply = call(&mut client, call_, b"hello").await;
            assert_eq!(reply.code(), code, "{}", reply.text());
            assert!(!reply.text().contains("canary"));
            assert!(server.store.object("bucket", "k").is_none(), "{code}");
        }
        let forged = String::from_utf8(put().with_body(b"hello")).unwrap();
        let forged = forged.replace("Signature=", "Signature=0");
        client.send(forged.as_bytes()).await;
        assert_eq!(client.reply(false).await.code(), "SignatureDoesNotMatch");
        // It was small enough to be skipped: the connection goes on.
        assert_eq!(
            call(&mut client, Call::new("HEAD", "/bucket"), b"")
                .await
                .status,
            200
        );
        assert!(server.store.object("bucket", "k").is_none());
        for target in ["/bucket?versioning", "/bucket?anything"] {
            let reply = call(&mut client, Call::new("DELETE", target), b"").await;
            assert_eq!(reply.code(), "NotImplemented");
        }
        assert_eq!(
            call(&mut client, Call::new("HEAD", "/bucket"), b"")
                .await
                .status,
            200
        );
        let old = Call {
            time_ms: unix_ms() - 16 * 60 * 1000,
            ..Call::new("GET", "/")
        };
        assert_eq!(
            call(&mut client, old, b"").await.code(),
            "RequestTimeTooSkewed"
        );
    });
}

const METADATA_TOO_MUCH: usize = crate::s3::operations::object::METADATA_SIZE_MAX;

#[test]
fn pipelined_requests_are_answered_in_order() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let mut bytes = Call::new("PUT", "/bucket").with_body(b"");
        bytes.extend(Call::new("PUT", "/bucket/k").with_body(&pattern(100_000)));
        bytes.extend(Call::new("PUT", "/bucket/k?acl").with_body(b"<xml/>"));
        bytes.extend(Call::new("GET", "/bucket/k").head());
        bytes.extend(Call::new("HEAD", "/bucket/k").head());
        bytes.extend(Call::new("GET", "/bucket/no").head());
        bytes.extend(b"GET /minio/health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        client.send(&bytes).await;
        assert_eq!(client.reply(false).await.status, 200);
        assert_eq!(client.reply(false).await.status, 200);
        assert_eq!(client.reply(false).await.status, 501);
        assert_eq!(client.reply(false).await.body, pattern(100_000));
        assert_eq!(
            client.reply(true).await.header("content-length"),
            Some("100000")
        );
        assert_eq!(client.reply(false).await.code(), "NoSuchKey");
        let live = client.reply(false).await;
        assert_eq!(
            (live.status, live.header("connection")),
            (200, Some("close"))
        );
        assert!(client.is_closed().await);
    });
}

#[test]
fn bodies_in_every_coding_arrive() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        assert_eq!(
            call(&mut client, Call::new("PUT", "/bucket"), b"")
                .await
                .status,
            200
        );
        for (size, chunk) in [
            (0, 10),
            (1, 10),
            (100_000, 1000),
            (700_000, 65_536),
            (2_000_000, 1 << 20),
        ] {
            let body = pattern(size);
            let mut inner = Vec::new();
            for part in body.chunks(chunk) {
                inner.extend(format!("{:x}\r\n", part.len()).bytes());
                inner.extend(part);
                inner.extend(b"\r\n");
            }
            let mut hasher = Hasher::new(Algorithm::Crc64Nvme);
            hasher.update(&body);
            let value = hasher.finish().base64();
            inner.extend(format!("0\r\nx-amz-checksum-crc64nvme:{value}\r\n\r\n").bytes());
            let put = || {
                Call::new("PUT", "/bucket/k")
                    .sha256("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
                    .field("Content-Encoding", "gzip,aws-chunked")
                    .field("x-amz-decoded-content-length", size)
                    .field("x-amz-trailer", "x-amz-checksum-crc64nvme")
            };
            let reply = call(&mut client, put(), &inner).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.header("x-amz-checksum-crc64nvme"), Some(&value[..]));
            let (info, stored) = server.store.object("bucket", "k").unwrap();
            assert!(stored == body, "{size}");
            assert_eq!(info.headers.content_encoding.as_deref(), Some("gzip"));

            let mut wire = put().field("Transfer-Encoding", "chunked").head();
            for part in inner.chunks(7777) {
                wire.extend(format!("{:x}\r\n", part.len()).bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            client.send(&wire).await;
            let reply = client.reply(false).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(server.store.object("bucket", "k").unwrap().1 == body);

            let wrong = String::from_utf8_lossy(&inner[inner.len() - 20..]).into_owned();
            let mut changed = inner[..inner.len() - 20].to_vec();
            changed.extend(wrong.replace(&value[..4], "BBBB").bytes());
            let reply = call(&mut client, put(), &changed).await;
            assert_eq!(reply.code(), "BadDigest");
            // The whole body came: the connection goes on.
            assert_eq!(
                call(&mut client, Call::new("HEAD", "/bucket"), b"")
                    .await
                    .status,
                200
            );
        }
    });
}

#[test]
fn go_ahead_comes_after_authorisation() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        assert_eq!(
            call(&mut client, Call::new("PUT", "/bucket"), b"")
                .await
                .status,
            200
        );
        let put = |target: &str| {
            Call::new("PUT", target)
                .field("Content-Length", 100_000)
                .field("Expect", "100-continue")
        };
        client.send(&put("/bucket/k").head()).await;
        assert_eq!(client.reply(false).await.status, 100);
        client.send(&pattern(100_000)).await;
        assert_eq!(client.reply(false).await.status, 200);
        client.send(&put("/nothing/k").head()).await;
        let refused = client.reply(false).await;
        assert_eq!(refused.code(), "NoSuchBucket");
        assert_eq!(refused.header("connection"), Some("close"));
        assert!(client.is_closed().await);
    });
}

#[test]
fn an_early_error_is_read_behind_a_large_body() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let put = Call::new("PUT", "/bucket/k").field("Content-Length", 64 << 20);
        let head = String::from_utf8(put.head())
            .unwrap()
            .replace("Signature=", "Signature=0");
        client.send(head.as_bytes()).await;
        let part = pattern(1 << 20);
        for _ in 0..64 {
            // Most clients read nothing before they have sent everything, and give up on an error.
            assert!(client.send(&part).await, "the server broke off");
        }
        let reply = client.reply(false).await;
        assert_eq!(
            (reply.status, reply.code()),
            (403, "SignatureDoesNotMatch".to_owned())
        );
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(client.is_closed().await);
    });
}

#[test]
fn framing_in_doubt_closes_the_connection() {
    with_server(|server| async move {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding : chunked",
        ] {
            let mut client = Client::connect(&server).await;
            let smuggled = "GET /minio/health/live HTTP/1.1\r\nHost: h\r\n\r\n";
            client
                .send(
                    format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{smuggled}")
                        .as_bytes(),
                )
                .await;
            let reply = client.reply(false).await;
            assert_eq!(
                (reply.status, reply.header("connection")),
                (400, Some("close")),
                "{fields}"
            );
            client.stream.shutdown_write();
            assert!(client.is_closed().await, "a second answer came: {fields}");
        }
    });
}

#[test]
fn a_short_body_stores_nothing_and_a_broken_object_is_cut() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        assert_eq!(call(c, Call::new("PUT", "/bucket"), b"").await.status, 200);
        let mut short = Client::connect(&server).await;
        short
            .send(
                &Call::new("PUT", "/bucket/k")
                    .field("Content-Length", 100_000)
                    .head(),
            )
            .await;
        short.send(&pattern(99_999)).await;
        short.stream.shutdown_write();
        assert_eq!(short.reply(false).await.code(), "IncompleteBody");
        assert!(server.store.object("bucket", "k").is_none());

        assert_eq!(
            call(c, Call::new("PUT", "/bucket/k"), &pattern(500_000))
                .await
                .status,
            200
        );
        server.store.break_after(Some(0));
        let mut broken = Client::connect(&server).await;
        let reply = call(&mut broken, Call::new("GET", "/bucket/k"), b"").await;
        assert_eq!(
            (reply.status, reply.code()),
            (500, "InternalError".to_owned())
        );
        server.store.break_after(Some(200_000));
        let mut broken = Client::connect(&server).await;
        broken.send(&Call::new("GET", "/bucket/k").head()).await;
        while broken.more().await {}
        let text = String::from_utf8_lossy(&broken.received);
        assert!(text.contains("content-length: 500000") && broken.received.len() < 500_000);
    });
}

#[test]
fn users_have_their_own_buckets() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        assert_eq!(call(c, Call::new("PUT", "/roots"), b"").await.status, 200);
        assert_eq!(
            call(c, Call::new("PUT", "/others").user("OTHER"), b"")
                .await
                .status,
            200
        );
        let taken = call(c, Call::new("PUT", "/roots").user("OTHER"), b"").await;
        assert_eq!(
            (taken.status, taken.code()),
            (409, "BucketAlreadyExists".to_owned())
        );
        let list = call(c, Call::new("GET", "/").user("OTHER"), b"")
            .await
            .text();
        assert!(
            list.contains("<Name>others</Name>") && !list.contains("roots"),
            "{list}"
        );
        assert!(
            list.contains("<ID>other-id</ID><DisplayName>other</DisplayName>"),
            "{list}"
        );
        for (method, target) in [
            ("GET", "/roots?list-type=2"),
            ("GET", "/roots/k"),
            ("DELETE", "/roots"),
            ("DELETE", "/roots/k"),
            ("GET", "/roots?location"),
        ] {
            let reply = call(c, Call::new(method, target).user("OTHER"), b"").await;
            assert_eq!(
                (reply.status, reply.code()),
                (403, "AccessDenied".to_owned()),
                "{target}"
            );
        }
        let list = call(c, Call::new("GET", "/?max-buckets=1"), b"")
            .await
            .text();
        assert!(
            list.contains("others")
                && !list.contains("roots")
                && list.contains("<ContinuationToken>")
        );
        let constraint = |region: &str| {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        let reply = call(
            c,
            Call::new("PUT", "/third"),
            constraint("us-east-1").as_bytes(),
        )
        .await;
        assert_eq!(reply.status, 200);
        let reply = call(
            c,
            Call::new("PUT", "/fourth"),
            constraint("eu-west-1").as_bytes(),
        )
        .await;
        assert_eq!(reply.code(), "IllegalLocationConstraintException");
        let reply = call(c, Call::new("PUT", "/fourth"), b"<Create").await;
        assert_eq!(reply.code(), "MalformedXML");
    });
}

#[test]
fn a_drain_finishes_requests_and_closes_idle_connections() {
    with_server(|server| async move {
        let mut idle = Client::connect(&server).await;
        assert_eq!(
            call(&mut idle, Call::new("PUT", "/bucket"), b"")
                .await
                .status,
            200
        );
        let mut busy = Client::connect(&server).await;
        busy.send(
            &Call::new("PUT", "/bucket/k")
                .field("Content-Length", 100_000)
                .head(),
        )
        .await;
        busy.send(&pattern(100_000)[..50_000]).await;
        crate::rt::sleep(Duration::from_millis(50)).await;
        server.context.drain.request();
        assert!(idle.is_closed().await);
        busy.send(&pattern(100_000)[50_000..]).await;
        let reply = busy.reply(false).await;
        assert_eq!(
            (reply.status, reply.header("connection")),
            (200, Some("close"))
        );
        assert!(busy.is_closed().await);
        assert!(TcpStream::connect(server.address).await.is_err());
    });
}

#[test]
fn bytes_one_by_one_make_the_same_requests() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let mut bytes = Call::new("PUT", "/bucket").with_body(b"");
        let inner = b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:hYfYZQ==\r\n\r\n";
        let put = Call::new("PUT", "/bucket/k")
            .sha256("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
            .field("x-amz-decoded-content-length", 5)
            .field("x-amz-trailer", "x-amz-checksum-crc32");
        bytes.extend(put.with_body(inner));
        bytes.extend(Call::new("GET", "/bucket/k").head());
        for byte in bytes {
            client.send(&[byte]).await;
        }
        assert_eq!(client.reply(false).await.status, 200);
        let put = client.reply(false).await;
        assert_eq!(put.status, 200, "{}", put.text());
        assert_eq!(client.reply(false).await.body, b"abcde");
    });
}

#[test]
fn many_clients_on_little_memory_get_their_own_bytes() {
    // 2 MiB for 60 clients that move 300 KB objects, some of which leave in the middle.
    with_arena(2 << 20, |server| async move {
        let mut first = Client::connect(&server).await;
        assert_eq!(
            call(&mut first, Call::new("PUT", "/bucket"), b"")
                .await
                .status,
            200
        );
        let clients: Vec<_> = (0..60usize)
            .map(|number| {
                let server = Rc::clone(&server);
                spawn(async move {
                    let body = vec![number as u8; 300_000 + number];
                    let target = format!("/bucket/{number}");
                    for round in 0..4 {
                        let mut client = Client::connect(&server).await;
                        if (number + round) % 3 == 0 {
                            let half = Call::new("PUT", &target).with_body(&body);
                            client.send(&half[..half.len() / 2]).await;
                            continue;
                        }
                        let reply = call(&mut client, Call::new("PUT", &target), &body).await;
                        assert_eq!(reply.status, 200, "{}", reply.text());
                        let reply = call(&mut client, Call::new("GET", &target), b"").await;
                        assert!(reply.body == body, "client {number} got other bytes");
                        if round == 1 {
                            client.send(&Call::new("GET", &target).head()).await;
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        for number in 0..60usize {
            let (_, bytes) = server.store.object("bucket", &number.to_string()).unwrap();
            assert!(bytes.len() == 300_000 + number && bytes.iter().all(|b| *b == number as u8));
        }
    });
}

/// For trying clients by hand: `cargo test s3::tests::by_hand -- --ignored --nocapture`.
#[test]
#[ignore = "serves for an hour"]
fn by_hand() {
    let reactor = Reactor::new(CoreId(0), &Config::default()).expect("io_uring");
    reactor.run(async {
        let secret = "root-secret-key";
        let users = Users::new("us-east-1", [User::root("ROOT", secret, "root-id")]);
        let context = Rc::new(Context::new(MemoryStore::default(), users, Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:9090".parse().unwrap()).unwrap();
        let _ = timeout(
            Duration::from_secs(3600),
            serve(listener, context, Duration::ZERO),
        )
        .await;
    });
}
