//! The server's end of one TLS connection: rustls between a socket and its user.
//!
//! rustls is sans-io: bytes of records go in by `read_tls`, out by `write_tls`. Its buffered
//! interface is used, not the unbuffered one: that one keeps positions into the caller's buffer
//! between calls, and a peer that splits a handshake message over records can make them point past
//! its end (0.23), while it saves no copy of what is received.
//!
//! ```text
//! receive   socket ─▶ the caller's buffer, or a picked one ─▶ rustls ─▶ the caller's buffer
//! send      pieces ─▶ rustls, a record at a time ─▶ one buffer of the pool ─▶ socket
//! ```
//!
//! Copies: three of each byte received (into the record, out of it, to the caller) beside
//! decryption, two of each byte sent.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};

use crate::rt::{Buf, TcpStream, timeout};

/// Time for a whole handshake: two round trips, a signature, and a slow line.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Time for `close_notify`, or an alert, to leave. Nobody is owed more: the answer has left.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// Plain bytes of one record (RFC 8446, section 5.1).
const RECORD_SIZE: usize = 16 * 1024;

/// Bytes that a record is longer than what is in it: header 5, nonce 8 (TLS 1.2), content type 1
/// (TLS 1.3), tag 16; with room for more.
const RECORD_OVERHEAD: usize = 64;

/// More than a received record can have (RFC 5246, section 6.2.3: 16 KiB + 2,048 + 5).
const RECORD_RECEIVED_MAX: usize = 20 * 1024;

/// Records that are sent in one piece fill a buffer of this size: seven full ones. Small enough to
/// stay in the second level cache between encryption and the kernel's copy.
const SEND_SIZE: usize = 128 * 1024;

/// With less room than this, records are received through the core's picked buffers.
const DIRECT_SIZE_MIN: usize = 3 * RECORD_RECEIVED_MAX;

/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
pub const HANDSHAKE_RECORD: u8 = 22;

/// What a client is told that speaks plain HTTP to us.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 40\r\nconnection: close\r\n\r\nThis port speaks TLS: use https:// here\n";

/// Why there is no connection. The socket is closed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the client does not speak TLS")]
    NotTls,
    #[error("the client left in mid-handshake")]
    Gone,
    #[error("the handshake took longer than {} s", HANDSHAKE_TIME_MAX.as_secs())]
    Slow,
    #[error("{0}")]
    Tls(rustls::Error),
    #[error("{0}")]
    Io(io::Error),
}

pub struct TlsStream {
    tcp: TcpStream,
    tls: ServerConnection,
    /// Decrypted bytes that wait in `tls`.
    plain: usize,
    /// Received bytes that `tls` has not taken yet, from this place on.
    cipher: Option<(Buf, usize)>,
    /// `cipher` is one of the few buffers that all connections of the core are served from.
    picked: bool,
    /// The peer has said that nothing more will come.
    ended: bool,
    /// Receiving failed; nothing more can be decrypted.
    failed: bool,
    /// A send failed or was broken off, maybe inside a record: nothing more can be sent.
    mute: bool,
}

impl TlsStream {
    /// Shakes hands, within [`HANDSHAKE_TIME_MAX`].
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<TlsStream, Refusal> {
        Self::accept_within(HANDSHAKE_TIME_MAX, tcp, config).await
    }

    async fn accept_within(
        time: Duration,
        tcp: TcpStream,
        config: Arc<ServerConfig>,
    ) -> Result<TlsStream, Refusal> {
        let mut tls = ServerConnection::new(config).map_err(Refusal::Tls)?;
        tls.set_buffer_limit(Some(2 * RECORD_SIZE));
        let mut stream = TlsStream {
            tcp,
            tls,
            plain: 0,
            cipher: None,
            picked: false,
            ended: false,
            failed: false,
            mute: false,
        };
        match timeout(time, stream.shake_hands()).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(refusal)) => {
                // An alert says what was wrong.
                stream.say_last_words().await;
                Err(refusal)
            }
            Err(_) => Err(Refusal::Slow),
        }
    }

    async fn shake_hands(&mut self) -> Result<(), Refusal> {
        let mut first = true;
        while self.tls.is_handshaking() {
            let buf = self.tcp.recv_ready().await.map_err(Refusal::Io)?;
            let Some(&byte) = buf.first() else {
                return Err(Refusal::Gone);
            };
            if std::mem::take(&mut first) && byte != HANDSHAKE_RECORD {
                if byte.is_ascii_uppercase() {
                    self.refuse_plain_http().await;
                }
                return Err(Refusal::NotTls);
            }
            (self.cipher, self.picked) = (Some((buf, 0)), true);
            // Requests may follow in the same bytes; they wait until somebody asks for them.
            while self.cipher.is_some() && self.plain == 0 {
                self.take_cipher().map_err(Refusal::Tls)?;
            }
            self.flush().await.map_err(Refusal::Io)?;
        }
        Ok(())
    }

    async fn refuse_plain_http(&mut self) {
        let mut buf = Buf::heap(SPEAK_TLS.len());
        buf.set_len(SPEAK_TLS.len());
        buf.copy_from_slice(SPEAK_TLS);
        let _ = self.tcp.send_all(buf, 0, SPEAK_TLS.len()).await;
        self.tcp.shutdown_write();
        self.mute = true;
    }

    // ---- receiving --------------------------------------------------------------------------

    /// Feeds `tls` from `cipher`: some of it, at least a byte, unless the peer's bytes are over.
    fn take_cipher(&mut self) -> Result<(), rustls::Error> {
        let Some((buf, from)) = self.cipher.take() else {
            return Ok(());
        };
        let taken = self.feed(&buf[from..])?;
        // What follows `close_notify` is not looked at.
        if taken > 0 && from + taken < buf.len() {
            self.cipher = Some((buf, from + taken));
        }
        Ok(())
    }

    /// Gives some of `bytes` to `tls` and tells how many.
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, rustls::Error> {
        // `tls` reads from a slice, which cannot fail, and has room: what it had decrypted was
        // taken, and of an unfinished record it keeps less than it accepts.
        let taken = self.tls.read_tls(&mut &bytes[..]).map_err(|error| {
            self.failed = true;
            rustls::Error::General(error.to_string())
        })?;
        let state = self.tls.process_new_packets().inspect_err(|_| {
            self.failed = true;
        })?;
        self.plain = state.plaintext_bytes_to_read();
        self.ended |= state.peer_has_closed();
        Ok(taken)
    }

    /// Moves decrypted bytes to `to` and tells how many.
    fn take_plain(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while self.plain > 0 && done < to.len() {
            let count = self.tls.reader().read(&mut to[done..])?;
            assert!(count > 0, "what was counted can be read");
            self.plain -= count;
            done += count;
        }
        Ok(done)
    }

    fn broken(&mut self, error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// Makes decrypted bytes out of what was received already; `None` if more must come first.
    fn plain_ready(&mut self) -> io::Result<Option<usize>> {
        while self.plain == 0 {
            if self.failed {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.ended {
                return Ok(Some(0));
            }
            if self.cipher.is_none() {
                return Ok(None);
            }
            self.take_cipher().map_err(|error| self.broken(error))?;
        }
        Ok(Some(self.plain))
    }

    /// Waits for bytes without holding memory; length 0 at the end. Cancel-safe.
    pub async fn recv_ready(&mut self) -> io::Result<Buf> {
        loop {
            if let Some(count) = self.plain_ready()? {
                if count == 0 {
                    return Ok(Buf::empty());
                }
                // At once, as for heads: who waits for the pool here may hold some of it.
                let mut buf = Buf::alloc_now(count);
                buf.set_len(count);
                self.take_plain(&mut buf)?;
                return Ok(buf);
            }
            self.shrink();
            let buf = self.tcp.recv_ready().await?;
            if buf.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (self.cipher, self.picked) = (Some((buf, 0)), true);
        }
    }

    /// Receives into `buf[at..to]`, whatever is there; 0 at the end. Bytes of `buf[at..to]` behind
    /// what was received may be overwritten. When the future is dropped, bytes may be lost.
    pub async fn recv_upto(
        &mut self,
        mut buf: Buf,
        at: usize,
        to: usize,
    ) -> (io::Result<usize>, Buf) {
        assert!(at < to && to <= buf.capacity(), "no room to receive into");
        loop {
            match self.plain_ready() {
                Ok(None) => {}
                Ok(Some(_)) => {
                    let result = self.take_plain(&mut buf.whole_mut()[at..to]);
                    return (result, buf);
                }
                Err(error) => return (Err(error), buf),
            }
            if to - at < DIRECT_SIZE_MIN {
                match self.tcp.recv_ready().await {
                    Ok(got) if got.is_empty() => {
                        return (Err(io::ErrorKind::UnexpectedEof.into()), buf);
                    }
                    Ok(got) => (self.cipher, self.picked) = (Some((got, 0)), true),
                    Err(error) => return (Err(error), buf),
                }
                continue;
            }
            // Records go to the end of the caller's room and are decrypted to its beginning. What
            // is decrypted never reaches what is not taken yet: it is shorter than its records,
            // and of those at most one began before these bytes.
            let from = at + RECORD_RECEIVED_MAX;
            let (result, back) = self.tcp.recv_upto(buf, from, to).await;
            buf = back;
            let end = match result {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                Ok(count) => from + count,
                Err(error) => return (Err(error), buf),
            };
            let (mut read, mut written) = (from, at);
            while read < end && !self.ended {
                match self.feed(&buf.whole_mut()[read..end]) {
                    Ok(0) => break,
                    Ok(count) => read += count,
                    Err(error) => return (Err(self.broken(error)), buf),
                }
                match self.take_plain(&mut buf.whole_mut()[written..read]) {
                    Ok(count) => written += count,
                    Err(error) => return (Err(error), buf),
                }
                assert!(self.plain == 0, "records are longer than what is in them");
            }
            if written > at {
                return (Ok(written - at), buf);
            }
        }
    }

    /// Makes `tls` give back what it needed for larger records. It does so whenever it is about to
    /// read.
    fn shrink(&mut self) {
        struct Nothing;
        impl Read for Nothing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
        let _ = self.tls.read_tls(&mut Nothing);
    }

    /// Gives back a buffer that other connections of the core wait for.
    pub fn settle(&mut self) {
        if self.picked
            && let Some((buf, from)) = self.cipher.take()
        {
            let rest = &buf[from..];
            let mut own = Buf::alloc_now(rest.len());
            own.set_len(rest.len());
            own.copy_from_slice(rest);
            (self.cipher, self.picked) = (Some((own, 0)), false);
        }
    }

    // ---- sending ----------------------------------------------------------------------------

    /// Sends the buffers (`[..len()]` of each) in order.
    pub async fn send_all_vectored(&mut self, bufs: &[Buf]) -> io::Result<()> {
        let mut left: usize = bufs.iter().map(|buf| buf.len()).sum();
        let (mut first, mut skip) = (0, 0);
        while left > 0 || self.tls.wants_write() {
            let records = left.div_ceil(RECORD_SIZE) + 1;
            let mut out = send_buffer(left + records * RECORD_OVERHEAD);
            let mut end = 0;
            loop {
                if self.tls.wants_write() {
                    let room = &mut out.whole_mut()[end..];
                    if room.is_empty() {
                        break;
                    }
                    end += self.tls.write_tls(&mut &mut *room)?;
                    continue;
                }
                // A record is begun only where all of it fits.
                let room = (out.capacity() - end).saturating_sub(RECORD_OVERHEAD);
                let mut want = left.min(room).min(RECORD_SIZE);
                if want == 0 {
                    break;
                }
                let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(2);
                let mut taken = 0;
                while want > 0 {
                    let rest = &bufs[first][skip..];
                    let count = rest.len().min(want);
                    parts.push(IoSlice::new(&rest[..count]));
                    taken += count;
                    want -= count;
                    skip += count;
                    if skip == bufs[first].len() {
                        (first, skip) = (first + 1, 0);
                    }
                }
                let accepted = self.tls.writer().write_vectored(&parts)?;
                assert!(accepted == taken, "a record fits into an empty queue");
                left -= taken;
            }
            self.transmit(out, end).await?;
        }
        Ok(())
    }

    /// Sends what `tls` has to say of its own.
    async fn flush(&mut self) -> io::Result<()> {
        self.send_all_vectored(&[]).await
    }

    async fn transmit(&mut self, buf: Buf, len: usize) -> io::Result<()> {
        if self.mute {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Until all of it has left: a dropped future leaves half a record behind.
        self.mute = true;
        self.tcp.send_all(buf, 0, len).await.0?;
        self.mute = false;
        Ok(())
    }

    /// Sends `close_notify` and ends the sending half.
    pub async fn close_write(&mut self) {
        self.tls.send_close_notify();
        self.say_last_words().await;
        self.tcp.shutdown_write();
    }

    async fn say_last_words(&mut self) {
        if !self.mute && self.tls.wants_write() {
            let _ = timeout(CLOSE_TIME_MAX, self.flush()).await;
        }
    }
}

/// For at most `size` bytes of records. Without waiting: whoever sends holds pieces of an object,
/// and if all of the pool were such pieces, nobody would ever go on. An empty pool costs a
/// connection the memory of one record while it sends.
fn send_buffer(size: usize) -> Buf {
    let size = size.min(SEND_SIZE);
    Buf::try_alloc(size).unwrap_or_else(|| Buf::heap(size.min(RECORD_SIZE + RECORD_OVERHEAD)))
}

const _: () = assert!(SEND_SIZE >= 2 * (RECORD_SIZE + RECORD_OVERHEAD));

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rt::uring::{Config, Reactor};
    use crate::rt::{CoreId, TcpListener, offload};
    use crate::tls::pair::tests::issue;
    use crate::tls::{Files, Pair};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use std::net::SocketAddr;

    /// A blocking client.
    pub(crate) type Client = StreamOwned<ClientConnection, std::net::TcpStream>;

    pub(crate) fn pair() -> (Pair, String) {
        let files = Files {
            certificate: "c.pem".into(),
            key: "k.pem".into(),
        };
        let (certificate, key) = issue(2001..2060);
        let pair = files.pair(certificate.as_bytes(), key.as_bytes());
        (pair.unwrap(), certificate)
    }

    type Version = &'static rustls::SupportedProtocolVersion;
    const VERSIONS: [Version; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

    fn client_config(trusted: &str, version: Version) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    pub(crate) fn connect(address: SocketAddr, trusted: &str, version: Version) -> Client {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(client_config(trusted, version), name).unwrap();
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        StreamOwned::new(client, stream)
    }

    /// The bytes that a client begins with.
    pub(crate) fn client_hello(trusted: &str) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let config = client_config(trusted, &rustls::version::TLS13);
        let mut client = ClientConnection::new(config, name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    /// Runs the two ends, each to its end.
    fn with<T: Send + 'static, F: Future<Output = ()>>(
        client: impl FnOnce(SocketAddr, String) -> T + Send + 'static,
        server: impl FnOnce(TcpStream, Arc<ServerConfig>) -> F + 'static,
    ) -> T {
        let config = Config {
            arena_bytes: 8 << 20,
            picked_buffers: 16,
            register: false,
            spin: false,
            ..Config::default()
        };
        let reactor = Reactor::new(CoreId(0), &config).expect("io_uring");
        reactor.run(async move {
            let (pair, trusted) = pair();
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_address().unwrap();
            let client = offload(move || client(address, trusted));
            let both = async {
                let (tcp, _) = listener.accept().await.unwrap();
                server(tcp, pair.config).await;
                client.await
            };
            let both = timeout(Duration::from_secs(60), both);
            both.await.expect("the test hangs")
        })
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    const BYTES: usize = 3_000_017;

    #[test]
    fn bytes_pass_both_ways_in_every_version_whatever_their_pieces() {
        for version in VERSIONS {
            let talk = move |address, trusted: String| {
                let mut client = connect(address, &trusted, version);
                let (mut sent, mut size) = (0, 1);
                let bytes = pattern(BYTES);
                while sent < BYTES {
                    let end = (sent + size).min(BYTES);
                    client.write_all(&bytes[sent..end]).unwrap();
                    (sent, size) = (end, size * 7 % 40_009 + 1);
                }
                let mut back = vec![0; BYTES];
                client.read_exact(&mut back).unwrap();
                assert!(back == bytes);
                assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
                client.conn.send_close_notify();
                client.flush().unwrap();
                // Ours comes in return.
                assert_eq!(client.read(&mut back).unwrap(), 0);
            };
            with(talk, |tcp, config| async move {
                let mut stream = TlsStream::accept(tcp, config).await.unwrap();
                let (mut all, mut turn) = (Vec::new(), 0);
                // Every way to receive, with little room and with much.
                while all.len() < BYTES {
                    if turn % 3 == 0 {
                        all.extend_from_slice(&stream.recv_ready().await.unwrap());
                    } else {
                        let (at, to) = [(0, 1 << 20), (5, 700)][turn % 2];
                        let buf = Buf::alloc(1 << 20).await;
                        let (count, mut buf) = stream.recv_upto(buf, at, to).await;
                        let count = count.unwrap();
                        assert!(count > 0 && at + count <= to);
                        all.extend_from_slice(&buf.whole_mut()[at..at + count]);
                    }
                    turn += 1;
                }
                assert!(all == pattern(BYTES));
                let mut pieces = Vec::new();
                for part in all.chunks(250_007) {
                    let mut buf = Buf::alloc(part.len()).await;
                    buf.set_len(part.len());
                    buf.copy_from_slice(part);
                    pieces.push(buf);
                }
                stream.send_all_vectored(&pieces).await.unwrap();
                assert!(stream.recv_ready().await.unwrap().is_empty());
                let buf = Buf::alloc(1 << 20).await;
                assert_eq!(stream.recv_upto(buf, 0, 1 << 20).await.0.unwrap(), 0);
                stream.close_write().await;
            });
        }
    }

    #[test]
    fn an_end_without_close_notify_is_an_error_on_both_sides() {
        for direct in [false, true] {
            let talk = |address, trusted: String| {
                let mut client = connect(address, &trusted, VERSIONS[0]);
                client.write_all(b"0123456789").unwrap();
                client.sock.shutdown(std::net::Shutdown::Write).unwrap();
                client.read(&mut [0; 9]).unwrap_err().kind()
            };
            let kind = with(talk, move |tcp, config| async move {
                let mut stream = TlsStream::accept(tcp, config).await.unwrap();
                assert_eq!(&stream.recv_ready().await.unwrap()[..], b"0123456789");
                let error = if direct {
                    let buf = Buf::alloc(1 << 20).await;
                    stream.recv_upto(buf, 0, 1 << 20).await.0.unwrap_err()
                } else {
                    stream.recv_ready().await.unwrap_err()
                };
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                // Dropped, not closed.
            });
            assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_changed_record_is_an_error_and_the_client_is_told() {
        let talk = |address, trusted: String| {
            let mut client = connect(address, &trusted, VERSIONS[0]);
            client.write_all(b"a").unwrap();
            let mut record = vec![23, 3, 3, 0, 40];
            record.resize(45, 7);
            client.sock.write_all(&record).unwrap();
            client.read(&mut [0; 9]).unwrap_err().to_string()
        };
        let heard = with(talk, |tcp, config| async move {
            let mut stream = TlsStream::accept(tcp, config).await.unwrap();
            // What came before it may be lost with it.
            let error = match stream.recv_ready().await {
                Ok(_) => stream.recv_ready().await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(stream.recv_ready().await.is_err());
            stream.close_write().await;
        });
        assert!(heard.contains("BadRecordMac"), "{heard}");
    }

    #[test]
    fn who_speaks_plain_http_is_told_to_use_tls() {
        let talk = |address, _| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = with(talk, |tcp, config| async move {
            let refusal = TlsStream::accept(tcp, config).await.err().unwrap();
            assert!(matches!(refusal, Refusal::NotTls), "{refusal}");
        });
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{answer}"
        );
    }

    #[test]
    fn handshakes_end_in_time_and_with_a_reason() {
        // What is sent, and whether the client then leaves.
        type Case = (fn(&str) -> Vec<u8>, bool, fn(&Refusal) -> bool);
        let cases: [Case; 6] = [
            (|_| Vec::new(), true, |r| matches!(r, Refusal::Gone)),
            (|_| Vec::new(), false, |r| matches!(r, Refusal::Slow)),
            (
                |t| client_hello(t)[..90].to_vec(),
                true,
                |r| matches!(r, Refusal::Gone),
            ),
            (|t| client_hello(t), false, |r| matches!(r, Refusal::Slow)),
            (|_| vec![0; 500], false, |r| matches!(r, Refusal::NotTls)),
            (|_| vec![22; 500], false, |r| matches!(r, Refusal::Tls(_))),
        ];
        for (bytes, leaves, expected) in cases {
            let talk = move |address, trusted: String| {
                let mut client = std::net::TcpStream::connect(address).unwrap();
                client.write_all(&bytes(&trusted)).unwrap();
                if leaves {
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                }
                // Until the server has closed.
                let _ = client.read_to_end(&mut Vec::new());
            };
            with(talk, move |tcp, config| async move {
                let time = Duration::from_millis(100);
                let refusal = TlsStream::accept_within(time, tcp, config).await;
                let refusal = refusal.err().unwrap();
                assert!(expected(&refusal), "{refusal}");
            });
        }
    }

    #[test]
    fn a_wait_that_is_broken_off_loses_nothing() {
        let talk = |address, trusted: String| {
            let mut client = connect(address, &trusted, VERSIONS[0]);
            client.flush().unwrap();
            std::thread::sleep(Duration::from_millis(60));
            client.write_all(b"late").unwrap();
            client.read(&mut [0; 1]).unwrap_or(0)
        };
        with(talk, |tcp, config| async move {
            let mut stream = TlsStream::accept(tcp, config).await.unwrap();
            let early = timeout(Duration::from_millis(1), stream.recv_ready()).await;
            assert!(early.is_err());
            stream.settle();
            assert_eq!(&stream.recv_ready().await.unwrap()[..], b"late");
            stream.close_write().await;
        });
    }
}
