//! One connection's bytes: received ahead, sent in order, each with a bound on its time.
//!
//! An idle connection holds no buffer. Bytes that came ahead (a head, the beginning of a body, the
//! next request) wait in one buffer, and only there.

use crate::http::head::{HEAD_SIZE_MAX, Head, HeadError};
use crate::http::response::CONTINUE;
use crate::metrics::counters::Own;
use crate::object::checksum::{Algorithm, Checksum};
use crate::object::{Body, BodyError};
use crate::rt::{Buf, Instant, now, timeout};
use crate::s3::body::Decoder;
use crate::s3::operations::Upload;
use crate::tls::Stream;
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

/// The same where the pool is empty; what a connection then takes beside it.
const HEAP_PIECE_SIZE: usize = 16 * 1024;

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
    stream: Stream,
    /// Bytes received ahead are `ahead[start..]`.
    ahead: Option<Buf>,
    start: usize,
    /// `ahead` is a buffer of our own, of that size, and not one of the few that all connections
    /// of the core are served from.
    own: bool,
    own_size: usize,
    counters: Own,
}

impl Wire {
    pub fn new(stream: Stream, counters: Own) -> Self {
        Self {
            stream,
            ahead: None,
            start: 0,
            own: false,
            own_size: 0,
            counters,
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
            self.counters.received_bytes.add(buf.len() as u64);
            self.ahead = Some(buf);
            (self.start, self.own, self.own_size) = (0, false, 0);
        }
        Ok(true)
    }

    /// Receives more behind what was received ahead; `false` at the end of the stream.
    ///
    /// The bytes move to a buffer of their own, at first a small one: those that `ready` brings are
    /// few, and all connections of the core wait for them. Nor do heads wait for the pool.
    async fn more(&mut self) -> io::Result<bool> {
        if self.buffered().is_empty() {
            return self.ready().await;
        }
        let len = self.buffered().len();
        let mut buf = match self.ahead.take() {
            Some(buf) if self.own && buf.len() < buf.capacity() => buf,
            old => {
                let size = (len + 1).max(self.own_size * 2).min(AHEAD_SIZE);
                // The head's limit stops a client before this buffer is full.
                assert!(len < size, "more was received ahead than a head may have");
                let mut larger = Buf::alloc_now(size);
                larger.set_len(len);
                if let Some(old) = old {
                    larger.copy_from_slice(&old[self.start..]);
                }
                (self.start, self.own, self.own_size) = (0, true, larger.capacity());
                larger
            }
        };
        let len = buf.len();
        let (result, back) = self.stream.recv(buf, len).await;
        buf = back;
        let count = result?;
        self.counters.received_bytes.add(count as u64);
        buf.set_len(len + count);
        self.ahead = Some(buf);
        Ok(count > 0)
    }

    /// Before a wait that the client can make long: gives back a buffer that others wait for.
    pub fn settle(&mut self) {
        self.stream.settle();
        if !self.own && !self.buffered().is_empty() {
            let buf = take_copy(self.buffered());
            (self.ahead, self.start, self.own) = (Some(buf), 0, true);
        }
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
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.counters.sent_bytes.add(length as u64);
        match timeout(SEND_TIME_MAX, self.stream.send_all_vectored(pieces)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends a piece of an object behind `before`.
    pub async fn send_object(&mut self, before: Vec<Buf>, piece: Buf) -> io::Result<()> {
        let length = piece.len() as u64;
        let mut pieces = before;
        pieces.push(piece);
        self.send(pieces).await?;
        self.counters.get_bytes.add(length);
        Ok(())
    }

    /// Sends `bytes`: one copy into buffers of the pool. An answer never waits for the pool, which uploads may hold as
    /// long as their clients please: health, metrics and refusals must get through. Then it leaves in small pieces.
    pub async fn send_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let large = bytes.len().min(PIECE_SIZE);
            let small = bytes.len().min(HEAP_PIECE_SIZE);
            let mut buf = Buf::try_alloc(large).unwrap_or_else(|| Buf::heap(small));
            let (piece, rest) = bytes.split_at(large.min(buf.capacity()));
            buf.set_len(piece.len());
            buf.copy_from_slice(piece);
            self.send(vec![buf]).await?;
            bytes = rest;
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

    /// The first byte received ahead.
    pub fn first_byte(&self) -> Option<u8> {
        self.buffered().first().copied()
    }

    /// Tells the client in good order that nothing more will come.
    pub async fn close_write(&mut self) {
        self.stream.close_write().await;
    }
}

/// A buffer with these few bytes, at once. Heads do not wait for the pool: they would wait with a
/// piece of an object in hand, and when all of the pool is such pieces, for ever. An empty pool
/// costs an allocation of a head's size, at most one for each connection.
pub fn take_copy(bytes: &[u8]) -> Buf {
    let mut buf = Buf::alloc_now(bytes.len());
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

/// How long a client may be waited for now that sent `received` bytes in `waited`.
fn patience(received: u64, waited: Duration) -> Duration {
    let earned = Duration::from_secs(received / BODY_BYTES_PER_SECOND_MIN);
    (BODY_WAIT_MAX + earned)
        .saturating_sub(waited)
        .min(BODY_PAUSE_MAX)
}

/// A TLS stream that ends without having been closed is as short as a plain one that ends.
fn broken(error: &io::Error) -> BodyError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BodyError::Incomplete,
        _ => BodyError::Io,
    }
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
        // A client that was answered instead of told to go ahead may send its body or not. It may
        // also be confused about the next request (botocore is), even if the body is empty.
        let known = !self.failed && !self.awaits_go;
        let bytes = if self.decoder.is_done() {
            (!self.awaits_go).then_some(0)
        } else {
            self.decoder.wire_left().filter(|_| known)
        };
        Leftover { bytes }
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

    fn patience(&self) -> Duration {
        patience(self.received, self.waited)
    }

    fn account(&mut self, since: Instant, received: usize) {
        self.waited += now().saturating_since(since);
        self.received += received as u64;
    }

    /// Makes sure that something is received ahead.
    async fn ahead(&mut self) -> Result<(), BodyError> {
        if !self.wire.buffered().is_empty() {
            // The body has begun, so the client does not wait (any more).
            self.awaits_go = false;
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
            Ok(Err(error)) => Err(broken(&error)),
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
                let patience = self.patience();
                let receiving = self.wire.stream.recv_upto(buf, end, end + want);
                let Ok((result, back)) = timeout(patience, receiving).await else {
                    return Err(BodyError::Timeout);
                };
                buf = back;
                let count = result.map_err(|error| broken(&error))?;
                self.account(since, count);
                self.wire.counters.received_bytes.add(count as u64);
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
        if self.decoder.is_done() && self.wire.buffered().is_empty() {
            // Nothing is to come, and all the same the client waits: botocore takes an answer
            // without `100 Continue` for a refusal, and the one to its next request for garbage.
            self.go().await?;
        }
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

    fn settle(&mut self) {
        self.wire.settle();
    }

    async fn finish(&mut self) -> Result<(), BodyError> {
        assert!(!self.failed, "a failed body is of no more use");
        let result = self.try_finish().await;
        // A wrong hash leaves the borders of the body intact; everything else does not.
        self.failed = result.is_err() && !self.decoder.is_done();
        self.verified = result.is_ok();
        result
    }

    fn checksum(&self) -> Option<Checksum> {
        self.decoder.checksum().copied()
    }
}

impl Upload for RequestBody<'_> {
    fn is_verified(&self) -> bool {
        self.verified
    }

    fn algorithm(&self) -> Option<Algorithm> {
        self.decoder.algorithm()
    }

    fn compute(&mut self, algorithm: Algorithm) {
        assert_eq!(self.given, 0, "a checksum is computed from the first byte");
        self.decoder.compute(algorithm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickling_client_runs_out_of_time() {
        let (mut waited, mut received) = (Duration::ZERO, 0);
        let mut rounds = 0;
        // One byte in each 29 seconds.
        while patience(received, waited) >= Duration::from_secs(29) {
            waited += Duration::from_secs(29);
            received += 1;
            rounds += 1;
        }
        assert!(rounds <= 2, "{rounds}");
        // 8 KiB a second may go on for a day.
        let day = Duration::from_secs(86_400);
        assert_eq!(patience(8 * 1024 * 86_400, day), BODY_PAUSE_MAX);
        assert_eq!(patience(u64::MAX, Duration::MAX), Duration::ZERO);
    }
}
