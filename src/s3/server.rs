//! Connections: requests in, answers out, until one side has had enough.
//!
//! Order within a request: head, framing, authentication, route, headers, then the operation; the
//! client is told to go ahead with its body when the operation first asks for it. An error before
//! the body was read is answered at once; then a bounded amount of the body is thrown away, because
//! closing with unread bytes makes the kernel send a reset that can overtake the answer.

use crate::http::head::{Head, Method};
use crate::http::response::ResponseHead;
use crate::http::target::Query;
use crate::metrics::counters::Own;
use crate::object::{Body, ObjectStore, ReadObject};
use crate::rt::sync::{Notify, Semaphore};
use crate::rt::{self, Buf, TcpListener, TcpStream, now, sleep, spawn, timeout, unix_ms};
use crate::s3::body::{Announced, Decoder};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::headers;
use crate::s3::hoisted::unhoist;
use crate::s3::names::{Resource, bucket_of_host};
use crate::s3::operations::{self, Answer, Content, Limits, Request, error_answer};
use crate::s3::request_log::{Line, RequestLog, harmless_path};
use crate::s3::route::{Operation, route};
use crate::s3::sigv4::authenticate;
use crate::s3::users::{User, Users};
use crate::s3::wire::{Leftover, NoHead, RequestBody, Wire, take_copy};
use crate::tls::{self, Stream};
use futures_util::future::{Either, select};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Connections of one core. An idle one costs a task and a socket, about 2 KiB, with TLS some
/// 12 KiB; an active one up to two buffers of 32 KiB beside what its operation holds, with TLS
/// also a record of 16 KiB and, while it sends, a buffer of 128 KiB.
pub const CONNECTIONS_MAX: usize = 4096;

/// How long a connection may be idle between requests.
const IDLE_TIME_MAX: Duration = Duration::from_secs(75);

/// Unread bytes of a refused body for whose sake a connection is kept.
const KEEP_DRAIN_MAX: u64 = 64 * 1024;

/// Unread bytes that are thrown away before a connection is closed, so that a client which sends
/// 64 MiB under a bad signature still reads its answer.
const CLOSE_DRAIN_MAX: u64 = 128 << 20;
const CLOSE_DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause after `accept` failed, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells the connections of a core to finish what they do and close.
#[derive(Default)]
pub struct Drain {
    requested: Cell<bool>,
    event: Notify,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn request(&self) {
        self.requested.set(true);
        self.event.notify_all();
    }

    pub fn is_requested(&self) -> bool {
        self.requested.get()
    }

    pub async fn requested(&self) {
        let event = self.event.notified();
        if !self.is_requested() {
            event.await;
        }
    }
}

/// What the connections of one core share.
pub struct Context<S> {
    pub store: S,
    pub users: Users,
    /// Domains whose subdomains are buckets; lower case.
    pub domains: Vec<String>,
    pub connections_max: usize,
    pub limits: Limits,
    pub counters: Own,
    pub log: RequestLog,
    /// Connections shake hands first.
    pub tls: Option<tls::Acceptor>,
    pub drain: Drain,
}

impl<S> Context<S> {
    pub fn new(store: S, users: Users, domains: Vec<String>) -> Self {
        let domains = domains
            .into_iter()
            .map(|domain| domain.to_ascii_lowercase())
            .collect();
        Self {
            store,
            users,
            domains,
            connections_max: CONNECTIONS_MAX,
            limits: Limits::default(),
            counters: Own::default(),
            log: RequestLog::default(),
            tls: None,
            drain: Drain::new(),
        }
    }
}

/// Serves what `listener` accepts until `context.drain` is requested; then waits until the open
/// connections have finished, at most `drain_time`. Returns how many had not.
pub async fn serve<S: ObjectStore>(
    listener: TcpListener,
    context: Rc<Context<S>>,
    drain_time: Duration,
) -> usize {
    let slots = Semaphore::new(context.connections_max);
    while !context.drain.is_requested() {
        // Without a free slot the kernel's queue holds the clients back.
        let accepting = pin!(async {
            let slot = slots.acquire(1).await;
            (listener.accept().await, slot)
        });
        match select(accepting, pin!(context.drain.requested())).await {
            Either::Left(((Ok((stream, peer)), slot), _)) => {
                let context = Rc::clone(&context);
                drop(spawn(async move {
                    context.counters.connections_accepted.add(1);
                    context.counters.connections.add(1);
                    serve_connection(stream, peer, &context).await;
                    context.counters.connections.subtract(1);
                    drop(slot);
                }));
            }
            Either::Left(((Err(error), _), _)) => {
                context.counters.connections_refused.add(1);
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
            Either::Right(_) => break,
        }
    }
    drop(listener);
    let _ = timeout(drain_time, slots.acquire(context.connections_max)).await;
    context.connections_max.saturating_sub(slots.available())
}

/// Serves one connection from its handshake to its end.
async fn serve_connection<S: ObjectStore>(
    stream: TcpStream,
    peer: SocketAddr,
    context: &Context<S>,
) {
    let stream = match &context.tls {
        None => Stream::Plain(stream),
        Some(acceptor) => {
            let accepting = pin!(acceptor.accept(stream));
            match select(accepting, pin!(context.drain.requested())).await {
                Either::Left((Ok(stream), _)) => Stream::Tls(Box::new(stream)),
                Either::Left((Err(refusal), _)) => {
                    context.counters.tls_handshakes_failed.add(1);
                    tracing::debug!(%peer, %refusal, "no TLS handshake");
                    return;
                }
                Either::Right(_) => return,
            }
        }
    };
    let mut wire = Wire::new(stream, context.counters.clone());
    match serve_requests(&mut wire, peer, context).await {
        End::Orderly => wire.close_write().await,
        End::Lingering => {
            // Lets the client read the answer although it is still sending.
            wire.close_write().await;
            wire.discard(CLOSE_DRAIN_MAX, CLOSE_DRAIN_TIME_MAX).await;
        }
        End::Broken => {}
    }
}

/// How a connection is to be closed.
enum End {
    /// Nothing is owed to either side.
    Orderly,
    /// The client may still be sending, and has an answer to read.
    Lingering,
    /// In the middle of something, and the client shall see that.
    Broken,
}

/// Serves the requests of one connection, one after the other.
async fn serve_requests<S: ObjectStore>(
    wire: &mut Wire,
    peer: SocketAddr,
    context: &Context<S>,
) -> End {
    let mut first = true;
    loop {
        let ready = {
            let waiting = pin!(timeout(IDLE_TIME_MAX, wire.ready()));
            match select(waiting, pin!(context.drain.requested())).await {
                Either::Left((Ok(Ok(ready)), _)) => ready,
                Either::Left(_) | Either::Right(_) => false,
            }
        };
        if !ready {
            return End::Orderly;
        }
        if std::mem::take(&mut first)
            && context.tls.is_none()
            && wire.first_byte() == Some(tls::stream::HANDSHAKE_RECORD)
        {
            tracing::debug!(%peer, "a client speaks TLS to a server without: see --tls-cert");
            return End::Broken;
        }
        let request_id = format!("{:016X}", rt::random_u64());
        let began = now();
        let head = match wire.head().await {
            Ok(head) => head,
            Err(NoHead::Gone | NoHead::Slow) => return End::Broken,
            Err(NoHead::Refused(error)) => {
                let cause = error.to_string();
                let error = S3Error::from(error);
                let answer: Answer<S::Reader> = error_answer(&error, b"", &request_id, false);
                let sent = send(wire, answer, &request_id, false, false).await;
                let duration = now().saturating_since(began);
                count(&context.counters, &Purpose::Unknown, &sent, duration);
                context.log.write(&Line {
                    peer,
                    request_id: &request_id,
                    head: None,
                    operation: &Purpose::Unknown,
                    user: "",
                    status: sent.status,
                    failed: false,
                    code: Some(error.code),
                    cause: Some(&cause),
                    complete: sent.complete,
                    duration,
                });
                return match sent.complete {
                    true => End::Lingering,
                    false => End::Broken,
                };
            }
        };
        let is_head = head.method == Method::Head;
        let handled = handle(wire, &head, context).await;
        let (code, mut cause, close) = match &handled.result {
            Ok(_) => (None, None, false),
            Err(error) => (Some(error.code), error.cause.clone(), error.close),
        };
        let answer = handled.result.unwrap_or_else(|error| {
            let resource = harmless_path(head.raw_path());
            error_answer(&error, resource, &request_id, is_head)
        });
        // Small leftovers are thrown away for the sake of the next request.
        let skip = handled
            .leftover
            .bytes
            .filter(|bytes| *bytes <= KEEP_DRAIN_MAX && !close);
        let keep = head.keep_alive && skip.is_some() && !context.drain.is_requested();
        let mut sent = send(wire, answer, &request_id, keep, is_head).await;
        let duration = now().saturating_since(began);
        count(&context.counters, &handled.purpose, &sent, duration);
        cause = cause.or(sent.cause.take());
        context.log.write(&Line {
            peer,
            request_id: &request_id,
            head: Some(&head),
            operation: &handled.purpose,
            user: handled.user.as_ref().map_or("", |user| &user.name),
            status: sent.status,
            failed: handled.purpose.can_fail() && matches!(sent.status, 500 | 502..=599),
            code: code.or(sent.code),
            cause: cause.as_deref(),
            complete: sent.complete,
            duration,
        });
        if !sent.complete {
            return End::Broken;
        }
        let keep = keep && sent.keep;
        match skip {
            Some(bytes) if keep => {
                if !wire.discard(bytes, CLOSE_DRAIN_TIME_MAX).await {
                    return End::Broken;
                }
            }
            Some(0) => return End::Orderly,
            _ => return End::Lingering,
        }
    }
}

/// What a request is counted as.
enum Purpose {
    /// Refused before that was known.
    Unknown,
    Health,
    Operation(Operation),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purpose::Unknown => f.write_str("None"),
            Purpose::Health => f.write_str("Health"),
            Purpose::Operation(operation) => write!(f, "{operation:?}"),
        }
    }
}

impl Purpose {
    /// A status of 500 and above is a failure, but for 501, which answers what the client wants.
    fn can_fail(&self) -> bool {
        !matches!(self, Purpose::Health)
    }

    fn number(&self) -> usize {
        match self {
            Purpose::Unknown => 0,
            Purpose::Health => 1,
            Purpose::Operation(operation) => *operation as usize + 2,
        }
    }
}

fn count(counters: &Own, purpose: &Purpose, sent: &Sent, duration: Duration) {
    let name = || purpose.to_string();
    let counts = counters.operations.at(purpose.number(), name);
    counts.record(sent.status, duration);
    if !sent.complete {
        counters.answers_broken.add(1);
    }
}

/// A request up to its answer.
struct Handled<R> {
    purpose: Purpose,
    /// Who signed it, once that is known.
    user: Option<Rc<User>>,
    result: S3Result<Answer<R>>,
    /// What it left on the wire.
    leftover: Leftover,
}

async fn handle<S: ObjectStore>(
    wire: &mut Wire,
    head: &Head,
    context: &Context<S>,
) -> Handled<S::Reader> {
    // Until the body's coding is understood, only its framing is known.
    let unread = Leftover {
        bytes: match head.framing {
            crate::http::head::Framing::None => Some(0),
            crate::http::head::Framing::Length(length) if !head.expects_continue => Some(length),
            _ => None,
        },
    };
    if let Some(answer) = health(head, context) {
        return Handled {
            purpose: Purpose::Health,
            user: None,
            result: Ok(answer),
            leftover: unread,
        };
    }
    let (mut purpose, mut signer) = (Purpose::Unknown, None);
    let checked = (|| {
        let mut query = Query::parse(head.raw_query())?;
        let now = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
        let found = authenticate(head, &query, &context.users, now).inspect_err(|error| {
            let failures = &context.counters.authentication_failures;
            let name = || error.code.name().to_owned();
            failures.at(error.code as usize, name).add(1);
        })?;
        signer = Some(Rc::clone(&found.user));
        let host = head.first("host").unwrap_or(b"");
        let resource = Resource::parse(host, head.raw_path(), &context.domains)?;
        let hoisted = if found.presigned {
            unhoist(head, &mut query)?
        } else {
            None
        };
        let head = hoisted.as_ref().unwrap_or(head);
        let operation = route(head, &query, resource.on(), found.presigned)?;
        purpose = Purpose::Operation(operation);
        headers::check(head, operation)?;
        let announced = Announced {
            payload: &found.payload,
            presigned: found.presigned,
            checksum_of_body: operation != Operation::CompleteMultipartUpload,
        };
        let decoder = Decoder::new(head, announced, found.chunks)?;
        Ok((query, found.user, resource, operation, decoder, hoisted))
    })();
    let (query, user, resource, operation, decoder, hoisted) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            return Handled {
                purpose,
                user: signer,
                result: Err(error),
                leftover: unread,
            };
        }
    };
    let head = hoisted.as_ref().unwrap_or(head);
    let mut body = RequestBody::new(wire, decoder, head.expects_continue);
    let request = Request {
        head,
        query: &query,
        resource: &resource,
        user: &user,
        limits: &context.limits,
        scheme: if context.tls.is_some() {
            "https"
        } else {
            "http"
        },
    };
    let result = operations::run(
        &context.store,
        &context.users,
        operation,
        request,
        &mut body,
    )
    .await;
    if matches!(operation, Operation::PutObject | Operation::UploadPart) && result.is_ok() {
        context.counters.put_bytes.add(body.length());
    }
    Handled {
        purpose,
        user: signer,
        leftover: body.leftover(),
        result,
    }
}

/// Health is asked for without credentials, by MinIO's paths. Below a bucket's own host these are
/// keys like any other.
fn health<S: ObjectStore>(head: &Head, context: &Context<S>) -> Option<Answer<S::Reader>> {
    let host = head.first("host").unwrap_or(b"");
    if !matches!(head.method, Method::Get | Method::Head)
        || bucket_of_host(host, &context.domains).is_some()
    {
        return None;
    }
    let status = match head.raw_path() {
        b"/minio/health/live" => 200,
        b"/minio/health/ready" if context.store.ready() && !context.drain.is_requested() => 200,
        b"/minio/health/ready" => 503,
        _ => return None,
    };
    Some(Answer {
        head: ResponseHead::new(status),
        content: Content::Bytes(Vec::new()),
    })
}

/// What became of an answer.
struct Sent {
    status: u16,
    /// All of it has left. If not, the connection is good for nothing but closing: what was sent is
    /// less than was announced, so that no client takes it for all.
    complete: bool,
    /// Another request may follow.
    keep: bool,
    /// Why it is another answer than it was to be.
    code: Option<Code>,
    cause: Option<String>,
}

async fn send<R: ReadObject>(
    wire: &mut Wire,
    answer: Answer<R>,
    request_id: &str,
    keep_alive: bool,
    is_head: bool,
) -> Sent {
    let Answer { mut head, content } = answer;
    let status = head.status;
    head.field("x-amz-request-id", request_id)
        .field("x-amz-id-2", request_id);
    let sent = match content {
        Content::None => wire.send_bytes(&head.finish(unix_ms(), keep_alive)).await,
        Content::Bytes(body) => {
            head.number("content-length", body.len() as u64);
            let mut bytes = head.finish(unix_ms(), keep_alive);
            if !is_head {
                bytes.extend_from_slice(&body);
            }
            wire.send_bytes(&bytes).await
        }
        Content::Object(mut reader, length) => {
            // The first piece before the head: an object that cannot be read is an error, not a
            // broken answer.
            let first = match reader.next().await {
                Ok(Some(piece)) if !piece.is_empty() && piece.len() as u64 <= length => Ok(piece),
                Ok(_) => Err(Code::InternalError.into()),
                Err(error) => Err(error.into()),
            };
            match first {
                Ok(first) => {
                    head.number("content-length", length);
                    let head = head.finish(unix_ms(), keep_alive);
                    send_object(wire, &head, first, &mut reader, length, request_id).await
                }
                Err(error) => return send_failure(wire, error, request_id).await,
            }
        }
    };
    Sent {
        status,
        complete: sent.is_ok(),
        keep: keep_alive,
        code: None,
        cause: None,
    }
}

async fn send_object<R: ReadObject>(
    wire: &mut Wire,
    head: &[u8],
    first: Buf,
    reader: &mut R,
    length: u64,
    request_id: &str,
) -> io::Result<()> {
    let mut left = length - first.len() as u64;
    wire.settle();
    wire.send_object(vec![take_copy(head)], first).await?;
    while left > 0 {
        let piece: Buf = match reader.next().await {
            Ok(Some(piece)) if !piece.is_empty() && piece.len() as u64 <= left => piece,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                tracing::warn!(request_id, %error, "an object broke while it was sent");
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        left -= piece.len() as u64;
        wire.send_object(Vec::new(), piece).await?;
    }
    Ok(())
}

/// Tells of an error in place of an object, and closes.
async fn send_failure(wire: &mut Wire, error: S3Error, request_id: &str) -> Sent {
    let Answer { mut head, content } = error_answer::<NoReader>(&error, b"", request_id, false);
    let status = head.status;
    let body = match content {
        Content::Bytes(body) => body,
        Content::None | Content::Object(..) => Vec::new(),
    };
    head.field("x-amz-request-id", request_id)
        .field("x-amz-id-2", request_id);
    head.number("content-length", body.len() as u64);
    let mut bytes = head.finish(unix_ms(), false);
    bytes.extend_from_slice(&body);
    Sent {
        status,
        complete: wire.send_bytes(&bytes).await.is_ok(),
        keep: false,
        code: Some(error.code),
        cause: error.cause,
    }
}

/// The reader of answers that have none.
enum NoReader {}
