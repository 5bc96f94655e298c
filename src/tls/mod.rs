//! TLS between sockets and HTTP: a connection's bytes, whether they travel encrypted or not.
//!
//! ```text
//! rt::TcpStream ── stream::TlsStream (rustls) ──┐
//!              └────────────────────────────────┴─ Stream ── s3::wire
//! pair   PEM files ─▶ what a handshake needs        current   the pair in force, looked after
//! ```
//!
//! Invariants:
//! - A pair is taken whole or not at all: what is served is always a key with its certificate.
//! - Memory of a connection is bounded: rustls holds at most one received record, decrypted or not,
//!   and one record to be sent; everything else lies in buffers of `rt` that live as long as the
//!   call that needs them. An idle connection holds none.
//! - The end of a connection counts as its end only with the peer's `close_notify`; without it
//!   reading fails with `UnexpectedEof`.
//!
//! No session is resumed: tickets would need keys that all cores share and that live longer than a
//! connection. S3 clients keep their connections; a handshake costs one signature.

pub mod current;
pub mod pair;
pub mod stream;

pub use current::{Acceptor, Current};
pub use pair::{Files, Pair, PairError};
pub use stream::{Refusal, TlsStream};

use crate::rt::{Buf, TcpStream};
use std::io;

/// One accepted connection.
pub enum Stream {
    Plain(TcpStream),
    /// Boxed: most of a connection's state, and plain ones need none of it.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// See [`TcpStream::recv_ready`]. Cancel-safe.
    pub async fn recv_ready(&mut self) -> io::Result<Buf> {
        match self {
            Stream::Plain(stream) => stream.recv_ready().await,
            Stream::Tls(stream) => stream.recv_ready().await,
        }
    }

    /// See [`TcpStream::recv`].
    pub async fn recv(&mut self, buf: Buf, at: usize) -> (io::Result<usize>, Buf) {
        let to = buf.capacity();
        self.recv_upto(buf, at, to).await
    }

    /// See [`TcpStream::recv_upto`]. With TLS the rest of `buf[at..to]` may be overwritten.
    pub async fn recv_upto(&mut self, buf: Buf, at: usize, to: usize) -> (io::Result<usize>, Buf) {
        match self {
            Stream::Plain(stream) => stream.recv_upto(buf, at, to).await,
            Stream::Tls(stream) => stream.recv_upto(buf, at, to).await,
        }
    }

    /// See [`TcpStream::send_all_vectored`].
    pub async fn send_all_vectored(&mut self, bufs: Vec<Buf>) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.send_all_vectored(bufs).await,
            Stream::Tls(stream) => stream.send_all_vectored(&bufs).await,
        }
    }

    /// Before a wait that the client can make long: gives back a buffer that others wait for.
    pub fn settle(&mut self) {
        if let Stream::Tls(stream) = self {
            stream.settle();
        }
    }

    /// Tells the peer in good order that nothing more will come.
    pub async fn close_write(&mut self) {
        match self {
            Stream::Plain(stream) => stream.shutdown_write(),
            Stream::Tls(stream) => stream.close_write().await,
        }
    }
}
