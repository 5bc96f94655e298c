//! One connection's bytes: received ahead, sent in order, each with a bound on its time.
//!
//! An idle connection holds no buffer. Bytes that came ahead (a head, the beginning of a body, the
//! next request) wait in one buffer, and only there.

use crate::http::head::{HEAD_SIZE_MAX, Head, HeadError};
use crate::http::response::CONTINUE;
use crate::object::{Body, BodyError};
use crate::rt::{Buf, Instant, TcpStream, now, timeout};
use crate::s3::body::Decoder;
use crate::s3::checksum::Checksum;
use crate::s3::operations::Upload;
use std::io;
use std::time::Duration;

/// Time for a head, from its first byte.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Longest wait for a body's next bytes.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A body may be waited for that long altogether, and one second more for each
/// [`BODY_BYTES_PER_SECOND_MIN`] that came: a client that sends a byte now and then is cut off.
const BODY_WAIT_MAX: Duration = Duration::from_secs(60);
const BODY_BYTES_PER_SECOND_MIN: u64 = 4 * 1024;

/// Time for one piece of an answer, at most 1 MiB, to leave: 8 KiB a second.
const SEND_TIME_MAX: Duration = Duration::from_secs(120);

/// Room for bytes received ahead: a head, and what came with it.
const AHEAD_SIZE: usize = 2 * HEAD_SIZE_MAX;

/// Payload runs of at least this many bytes are received straight into their place. Shorter ones
/// go through the buffer of bytes received ahead, which saves system calls and costs a copy.
const DIRECT_SIZE_MIN: usize = 16 * 1024;

/// Largest piece in which an answer from memory is sent.
const PIECE_SIZE: usize = 256 * 1024;

/// Why there is no request to serve.
#[derive(Debug)]
pub enum NoHead {
    /// The client closed, or broke, between requests or in the middle of a head.
    Gone,
    /// The head did not come in time.
    Slow,
    Refused(HeadError),
}

pub struct Wire {
    stream: TcpStream,
    /// Bytes received ahead are `ahead[start..]`.
    ahead: Option<Buf>,
    start: usize,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: None,
            start: 0,
        }
    }

    fn buffered(&self) -> &[u8] {
        self.ahead.as_ref().map_or(&[], |buf| &buf[self.start..])
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.buffered().is_empty() {
            self.ahead = None;
            self.start = 0;
        }
    }

    /// Waits until something was received ahead; `false` at the end of the stream. Cancel-safe.
    pub async fn ready(&mut self) -> io::Result<bool> {
        if self.buffered().is_empty() {
            let buf = self.stream.recv_ready().await?;
            if buf.is_empty() {
                return Ok(false);
            }
            self.ahead = Some(buf);
            self.start = 0;
        }
        Ok(true)
    }

    /// Receives more behind what was received ahead; `false` at the end of the stream.
    async fn more(&mut self) -> io::Result<bool> {
        let Some(mut buf) = self.ahead.take() else {
            return self.ready().await;
        };
        let mut len = buf.len();
        if buf.capacity() < AHEAD_SIZE {
            let mut larger = Buf::alloc(AHEAD_SIZE).await;
            let rest = len - self.start;
            larger.whole_mut()[..rest].copy_from_slice(&buf[self.start..]);
            (buf, len, self.start) = (larger, rest, 0);
        } else if len == buf.capacity() {
            buf.copy_within(self.start.., 0);
            (len, self.start) = (len - self.start, 0);
        }
        buf.set_len(len);
        let (result, mut buf) = self.stream.recv(buf, len).await;
        let count = result?;
        buf.set_len(len + count);
        self.ahead = Some(buf);
        Ok(count > 0)
    }

    /// The next head. Call when [`Self::ready`] has said `true`.
    pub async fn head(&mut self) -> Result<Head, NoHead> {
        let deadline = now() + HEAD_TIME_MAX;
        let mut scanned = 0;
        loop {
            match Head::take(self.buffered(), &mut scanned) {
                Ok(Some((head, taken))) => {
                    self.consume(taken);
                    return Ok(head);
                }
                Ok(None) => {}
                Err(error) => return Err(NoHead::Refused(error)),
            }
            let left = deadline.saturating_since(now());
            match timeout(left, self.more()).await {
                Ok(Ok(true)) => {}
                Ok(_) => return Err(NoHead::Gone),
                Err(_) => return Err(NoHead::Slow),
            }
        }
    }

    /// Sends the pieces in order.
    pub async fn send(&mut self, pieces: Vec<Buf>) -> io::Result<()> {
        match timeout(SEND_TIME_MAX, self.stream.send_all_vectored(pieces)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends `bytes`: one copy into buffers of the pool.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_SIZE) {
            let buf = copied(piece).await;
            self.send(vec![buf]).await?;
        }
        Ok(())
    }

    /// Throws away what still comes, at most `count` bytes within `time`; tells whether that many
    /// came.
    pub async fn discard(&mut self, count: u64, time: Duration) -> bool {
        let deadline = now() + time;
        let mut left = count;
        while left > 0 {
            let waiting = timeout(deadline.saturating_since(now()), self.ready());
            if !matches!(waiting.await, Ok(Ok(true))) {
                return false;
            }
            let taken = self
                .buffered()
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            self.consume(taken);
            left -= taken as u64;
        }
        true
    }

    pub fn shutdown_write(&self) {
        self.stream.shutdown_write();
    }
}

/// A buffer of the pool with these bytes.
pub async fn copied(bytes: &[u8]) -> Buf {
    let mut buf = Buf::alloc(bytes.len()).await;
    buf.set_len(bytes.len());
    buf.copy_from_slice(bytes);
    buf
}

/// The body of one request. Its payload is received straight into the caller's buffer, except
/// what was received ahead and what comes in short runs, which is copied once.
pub struct RequestBody<'w> {
    wire: &'w mut Wire,
    decoder: Decoder,
    /// Decoded bytes handed over.
    given: u64,
    /// The client waits for `100 Continue`.
    awaits_go: bool,
    verified: bool,
    failed: bool,
    /// Time spent waiting for the client, and bytes that came meanwhile.
    waited: Duration,
    received: u64,
}

/// What a body leaves behind.
#[derive(Clone, Copy, Debug)]
pub struct Leftover {
    /// Where the next request begins is known once that many bytes were thrown away.
    pub bytes: Option<u64>,
}

impl<'w> RequestBody<'w> {
    pub fn new(wire: &'w mut Wire, decoder: Decoder, awaits_go: bool) -> Self {
        Self {
            wire,
            decoder,
            given: 0,
            awaits_go,
            verified: false,
            failed: false,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// What is still on the wire when the operation is over.
    pub fn leftover(&self) -> Leftover {
        let known = !self.failed && !self.awaits_go;
        let bytes = if self.decoder.is_done() {
            Some(0)
        } else {
            self.decoder.wire_left()
        };
        Leftover {
            bytes: bytes.filter(|_| known || self.decoder.is_done()),
        }
    }

    /// Before the first wait for the client: tell it to go ahead.
    async fn go(&mut self) -> Result<(), BodyError> {
        if self.awaits_go {
            self.awaits_go = false;
            self.wire
                .send_bytes(CONTINUE)
                .await
                .map_err(|_| BodyError::Io)?;
        }
        Ok(())
    }

    /// How long the client may be waited for now.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.received / BODY_BYTES_PER_SECOND_MIN);
        (BODY_WAIT_MAX + earned)
            .saturating_sub(self.waited)
            .min(BODY_PAUSE_MAX)
    }

    fn account(&mut self, since: Instant, received: usize) {
        self.waited += now().saturating_since(since);
        self.received += received as u64;
    }

    /// Makes sure that something is received ahead.
    async fn ahead(&mut self) -> Result<(), BodyError> {
        if !self.wire.buffered().is_empty() {
            return Ok(());
        }
        self.go().await?;
        let since = now();
        let ready = timeout(self.patience(), self.wire.ready()).await;
        let received = self.wire.buffered().len();
        self.account(since, received);
        match ready {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(BodyError::Incomplete),
            Ok(Err(_)) => Err(BodyError::Io),
            Err(_) => Err(BodyError::Timeout),
        }
    }

    /// Consumes framing until payload or the end comes.
    async fn framing(&mut self) -> Result<(), BodyError> {
        if self.decoder.is_short() {
            return Err(BodyError::Incomplete);
        }
        self.ahead().await?;
        let taken = self.decoder.framing(self.wire.buffered())?;
        self.wire.consume(taken);
        Ok(())
    }

    async fn try_fill(
        &mut self,
        mut buf: Buf,
        at: usize,
        upto: usize,
    ) -> Result<(Buf, usize), BodyError> {
        let mut end = at;
        while end < upto && self.given < self.decoder.length() {
            let ready = usize::try_from(self.decoder.payload_ready()).unwrap_or(usize::MAX);
            let want = ready.min(upto - end);
            if want == 0 {
                self.framing().await?;
                continue;
            }
            let count = if want >= DIRECT_SIZE_MIN && self.wire.buffered().is_empty() {
                self.go().await?;
                let since = now();
                let receiving = self.wire.stream.recv_upto(buf, end, end + want);
                let Ok((result, back)) = timeout(self.patience(), receiving).await else {
                    return Err(BodyError::Timeout);
                };
                buf = back;
                let count = result.map_err(|_| BodyError::Io)?;
                self.account(since, count);
                if count == 0 {
                    return Err(BodyError::Incomplete);
                }
                count
            } else {
                self.ahead().await?;
                let source = self.wire.buffered();
                let count = want.min(source.len());
                buf.whole_mut()[end..end + count].copy_from_slice(&source[..count]);
                self.wire.consume(count);
                count
            };
            self.decoder.passed(&buf.whole_mut()[end..end + count])?;
            end += count;
            self.given += count as u64;
        }
        Ok((buf, end))
    }

    async fn try_finish(&mut self) -> Result<(), BodyError> {
        while !self.decoder.is_done() {
            if self.decoder.payload_ready() > 0 {
                return Err(BodyError::Malformed("the body is longer than announced"));
            }
            self.framing().await?;
        }
        self.decoder.finish()
    }
}

impl Body for RequestBody<'_> {
    fn length(&self) -> u64 {
        self.decoder.length()
    }

    async fn fill(&mut self, buf: Buf, at: usize, upto: usize) -> Result<(Buf, usize), BodyError> {
        assert!(!self.failed, "a failed body is of no more use");
        assert!(at <= upto && upto <= buf.capacity());
        let result = self.try_fill(buf, at, upto).await;
        self.failed = result.is_err();
        result
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        assert!(!self.failed, "a failed body is of no more use");
        let result = self.try_finish().await;
        // A wrong hash leaves the borders of the body intact; everything else does not.
        self.failed = result.is_err() && !self.decoder.is_done();
        self.verified = result.is_ok();
        result
    }
}

impl Upload for RequestBody<'_> {
    fn is_verified(&self) -> bool {
        self.verified
    }

    fn checksum(&self) -> Option<Checksum> {
        self.decoder.checksum().copied()
    }
}
