//! The admin listener: metrics, status and health, for machines that watch this one.
//!
//! Served by one core, in plain HTTP and without credentials: nothing here changes anything or
//! names a bucket, a key or a user. By default only this machine reaches it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::http::head::{Framing, Head, Method};
use crate::http::response::ResponseHead;
use crate::link::Link;
use crate::metrics::counters::Own;
use crate::metrics::exposition::{self, Sources};
use crate::metrics::text::CONTENT_TYPE;
use crate::node::Layout;
use crate::rt::sync::Semaphore;
use crate::rt::{TcpListener, TcpStream, sleep, spawn, timeout, unix_ms};
use crate::s3::wire::Wire;
use crate::status;
use crate::tls::Stream;

/// Scrapers and probes: a few, each with one connection.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may be idle: over the usual minute between two scrapes.
const IDLE_TIME_MAX: Duration = Duration::from_secs(75);

/// Pause after `accept` failed, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is told.
pub struct Admin {
    pub sources: Sources,
    pub link: Link,
    pub layout: Layout,
    /// Requests can be served, and no drain was asked for.
    pub ready: Box<dyn Fn() -> bool>,
}

/// Serves until its core ends.
pub async fn serve(listener: TcpListener, admin: Rc<Admin>) {
    let slots = Semaphore::new(CONNECTIONS_MAX);
    loop {
        let slot = slots.acquire(1).await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                let admin = Rc::clone(&admin);
                drop(spawn(async move {
                    serve_connection(stream, peer, &admin).await;
                    drop(slot);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, admin: &Admin) {
    // Its bytes are nobody's requests and are not counted.
    let mut wire = Wire::new(Stream::Plain(stream), Own::default());
    while matches!(timeout(IDLE_TIME_MAX, wire.ready()).await, Ok(Ok(true))) {
        let Ok(head) = wire.head().await else {
            return;
        };
        let (status, content_type, body) = answer(&head, admin).await;
        // A body is not wanted, and where it ends not looked for.
        let keep = head.keep_alive && head.framing == Framing::None;
        let mut response = ResponseHead::new(status);
        response.field("content-type", content_type);
        response.number("content-length", body.len() as u64);
        let mut bytes = response.finish(unix_ms(), keep);
        if head.method != Method::Head {
            bytes.extend_from_slice(body.as_bytes());
        }
        tracing::trace!(%peer, status, "admin request");
        if wire.send_bytes(&bytes).await.is_err() || !keep {
            break;
        }
    }
    wire.close_write().await;
}

async fn answer(head: &Head, admin: &Admin) -> (u16, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(head.method, Method::Get | Method::Head) {
        return (405, TEXT, "only GET is served here\n".to_owned());
    }
    match head.raw_path() {
        b"/metrics" => {
            let page = exposition::page(&admin.sources, &admin.link).await;
            (200, CONTENT_TYPE, page)
        }
        b"/status" => {
            let status = status::of(&admin.layout, &admin.link).await;
            let mut page = serde_json::to_string_pretty(&status).expect("plain data serialises");
            page.push('\n');
            (200, "application/json", page)
        }
        b"/minio/health/live" => (200, TEXT, String::new()),
        b"/minio/health/ready" => match (admin.ready)() {
            true => (200, TEXT, String::new()),
            false => (503, TEXT, String::new()),
        },
        _ => (
            404,
            TEXT,
            "there is /metrics, /status, /minio/health/live, /minio/health/ready\n".to_owned(),
        ),
    }
}
