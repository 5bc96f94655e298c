//! TCP.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Poll;

use super::buf::Buf;
use super::executor::{Core, current, with_core, yield_now};
use super::file::{VECTOR_MAX, is_transient, position};
use super::ops::{Op, OpKey, Outcome};

/// Connections the kernel completes for us before we accept them.
const BACKLOG: libc::c_int = 4096;

/// A socket as operations hold it: closed when the last handle and operation are gone.
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    pub(in crate::rt) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// An address in the kernel's form.
pub struct SocketAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SocketAddress {
    pub(in crate::rt) fn pointer(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.storage).cast(), self.len)
    }

    fn new(address: SocketAddr) -> SocketAddress {
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let len = match address {
            SocketAddr::V4(a) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(a.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(v4) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(a) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: a.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: a.ip().octets(),
                    },
                    sin6_scope_id: a.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(v6) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        SocketAddress {
            storage,
            len: len as libc::socklen_t,
        }
    }

    fn get(&self) -> SocketAddr {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what is in the storage.
                let a = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
                SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(a.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let a = unsafe {
                    (&raw const self.storage)
                        .cast::<libc::sockaddr_in6>()
                        .read()
                };
                SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(a.sin6_addr.s6_addr),
                    u16::from_be(a.sin6_port),
                    a.sin6_flowinfo,
                    a.sin6_scope_id,
                ))
            }
            // Unix sockets have no such address; tests use pairs of them.
            _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }
}

/// What a vectored operation points the kernel to. Filled by the `uring` driver.
pub struct Message {
    pub(in crate::rt) header: libc::msghdr,
    pub(in crate::rt) vectors: Vec<libc::iovec>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that lives across the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) })?;
    Ok(())
}

fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no memory is involved; the result is a new descriptor nobody else knows.
    unsafe {
        let fd = check(libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name_of(fd: RawFd, call: NameCall) -> io::Result<SocketAddr> {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut address: SocketAddress = unsafe { std::mem::zeroed() };
    address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the storage has the length that is passed.
    check(unsafe { call(fd, (&raw mut address.storage).cast(), &mut address.len) })?;
    Ok(address.get())
}

fn prepare(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = new_socket(address)?;
    set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    // Connections inherit it.
    set(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok(fd)
}

fn bind_and_listen(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let kernel = SocketAddress::new(address);
    let (pointer, len) = kernel.pointer();
    // SAFETY: the address lives across the call and has the length that is passed.
    check(unsafe { libc::bind(fd.as_raw_fd(), pointer, len) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    Ok(())
}

/// An address that this process alone serves.
///
/// Every core listens on the same port (SO_REUSEPORT), which the kernel would also allow to a
/// second process of the same user: each would get half of the connections. So `serve` first claims
/// the address *without* that flag, which fails with `AddrInUse` if anybody listens there, and
/// hands the claim to one core. The others then bind [`Claim::address`].
#[derive(Debug)]
pub struct Claim {
    fd: OwnedFd,
    address: SocketAddr,
}

impl Claim {
    pub fn new(address: SocketAddr) -> io::Result<Claim> {
        let fd = prepare(address)?;
        bind_and_listen(&fd, address)?;
        // From now on our own cores may join.
        set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        let address = name_of(fd.as_raw_fd(), libc::getsockname)?;
        Ok(Claim { fd, address })
    }

    /// With the port the kernel chose, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listening socket of one core.
pub struct TcpListener {
    socket: Rc<Socket>,
    core: Rc<Core>,
    accepting: Cell<Option<OpKey>>,
}

impl TcpListener {
    /// Listens, together with the other cores. See [`Claim`] for other processes.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let fd = prepare(address)?;
        set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        bind_and_listen(&fd, address)?;
        Ok(TcpListener::over(fd))
    }

    pub fn from_claim(claim: Claim) -> TcpListener {
        TcpListener::over(claim.fd)
    }

    fn over(fd: OwnedFd) -> TcpListener {
        TcpListener {
            socket: Rc::new(Socket { fd }),
            core: current(),
            accepting: Cell::new(None),
        }
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        name_of(self.socket.fd(), libc::getsockname)
    }

    /// The next connection. Cancel-safe. Out of descriptors (EMFILE, ENFILE) is an error to be
    /// answered with a pause; the listener stays good.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let outcome = self.next().await?;
            let fd = match outcome.count() {
                Ok(fd) => fd as RawFd,
                Err(e) => match e.raw_os_error() {
                    // The peer gave up in the meantime, or the driver paused a full queue.
                    Some(libc::ECONNABORTED | libc::ECANCELED | libc::EPROTO) => {
                        if self.core.is_closed() {
                            return Err(e);
                        }
                        continue;
                    }
                    Some(libc::EINTR | libc::EAGAIN) => {
                        yield_now().await;
                        continue;
                    }
                    _ => return Err(e),
                },
            };
            // SAFETY: the kernel made this descriptor for us and the outcome was delivered once.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            match name_of(fd.as_raw_fd(), libc::getpeername) {
                Ok(peer) => return Ok((TcpStream::from_fd(fd), peer)),
                // Reset before we looked.
                Err(_) => continue,
            }
        }
    }

    async fn next(&self) -> io::Result<Outcome> {
        std::future::poll_fn(|cx| {
            let key = match self.accepting.get() {
                Some(key) => key,
                None => match self.core.submit_many(Op::Accept {
                    socket: self.socket.clone(),
                }) {
                    Ok(key) => key,
                    Err(e) => return Poll::Ready(Err(e)),
                },
            };
            self.accepting.set(Some(key));
            self.core.poll_many(key, cx).map(|(outcome, last)| {
                if last {
                    self.accepting.set(None);
                }
                Ok(outcome)
            })
        })
        .await
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if let Some(key) = self.accepting.get() {
            self.core.orphan(key);
        }
    }
}

struct StreamInner {
    socket: Rc<Socket>,
    core: Rc<Core>,
    /// A receive into a picked buffer that nobody waits for at the moment: its future was dropped.
    /// It stays, so that its bytes are not lost, and the next receive takes it over.
    waiting: Cell<Option<OpKey>>,
    /// Bytes that came into a larger buffer than the caller then offered, and how many of them are
    /// taken.
    left: Cell<Option<(Buf, usize)>>,
    /// The last receive emptied the socket: let the next one wait before it tries.
    drained: Cell<bool>,
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        if let Some(key) = self.waiting.get() {
            self.core.orphan(key);
        }
    }
}

/// A connection. Clones share it; it closes when the last is gone (operations in flight are
/// cancelled).
#[derive(Clone)]
pub struct TcpStream {
    inner: Rc<StreamInner>,
}

impl TcpStream {
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        let fd = new_socket(address)?;
        set(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        let stream = TcpStream::from_fd(fd);
        let address = Box::new(SocketAddress::new(address));
        let op = Op::Connect {
            socket: stream.inner.socket.clone(),
            address,
        };
        let (_, outcome) = current().submit(op).await;
        outcome.count()?;
        Ok(stream)
    }

    /// A stream over a connected stream socket of any family.
    pub fn from_fd(fd: OwnedFd) -> TcpStream {
        TcpStream {
            inner: Rc::new(StreamInner {
                socket: Rc::new(Socket { fd }),
                core: current(),
                waiting: Cell::new(None),
                left: Cell::new(None),
                drained: Cell::new(false),
            }),
        }
    }

    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        name_of(self.inner.socket.fd(), libc::getpeername)
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        name_of(self.inner.socket.fd(), libc::getsockname)
    }

    /// Receives into `buf[at..capacity]`, whatever is there; 0 at the end. The length of the buffer
    /// stays as it is. When the future is dropped, bytes may be lost: the stream is then only good
    /// for closing.
    pub async fn recv(&self, buf: Buf, at: usize) -> (io::Result<usize>, Buf) {
        let to = buf.capacity();
        self.recv_upto(buf, at, to).await
    }

    /// As [`Self::recv`], into `buf[at..to]`: what comes behind stays in the socket.
    pub async fn recv_upto(&self, mut buf: Buf, at: usize, to: usize) -> (io::Result<usize>, Buf) {
        assert!(at < to && to <= buf.capacity(), "no room to receive into");
        if self.inner.waiting.get().is_some() {
            // Finish what an abandoned `recv_ready` began.
            match self.recv_ready().await {
                Ok(got) if got.is_empty() => return (Ok(0), buf),
                Ok(got) => self.inner.left.set(Some((got, 0))),
                Err(e) => return (Err(e), buf),
            }
        }
        if let Some((got, skip)) = self.inner.left.take() {
            let n = (got.len() - skip).min(to - at);
            buf.whole_mut()[at..at + n].copy_from_slice(&got[skip..skip + n]);
            if skip + n < got.len() {
                self.inner.left.set(Some((got, skip + n)));
            }
            return (Ok(n), buf);
        }
        loop {
            let socket = self.inner.socket.clone();
            let op = Op::Receive {
                socket,
                buf,
                from: at,
                to,
            };
            let (op, outcome) = current().submit(op).await;
            let Op::Receive { buf: back, .. } = op else {
                unreachable!("operations come back as they went")
            };
            buf = back;
            self.note_drained(outcome);
            match outcome.count() {
                Err(e) if is_transient(&e) => yield_now().await,
                result => return (result, buf),
            }
        }
    }

    fn note_drained(&self, outcome: Outcome) {
        let more = with_core(|core| {
            core.and_then(Core::uring)
                .is_some_and(|uring| uring.has_more(outcome))
        });
        self.inner.drained.set(outcome.result > 0 && !more);
    }

    /// Waits for bytes without holding memory and returns them in a buffer of the core's pool;
    /// length 0 at the end. Cancel-safe: what a dropped future would have got, the next call gets.
    /// One task at a time.
    pub async fn recv_ready(&self) -> io::Result<Buf> {
        let inner = &self.inner;
        if let Some((mut got, skip)) = inner.left.take() {
            let len = got.len();
            got.copy_within(skip..len, 0);
            got.set_len(len - skip);
            return Ok(got);
        }
        loop {
            let (op, outcome) = std::future::poll_fn(|cx| {
                let key = match inner.waiting.get() {
                    Some(key) => key,
                    None => {
                        let socket = inner.socket.clone();
                        let op = Op::ReceivePicked {
                            socket,
                            idle: inner.drained.get(),
                        };
                        match inner.core.submit_kept(op) {
                            Ok(key) => key,
                            Err(e) => return Poll::Ready(Err(e)),
                        }
                    }
                };
                inner.waiting.set(Some(key));
                inner.core.poll_op(key, cx).map(|done| {
                    inner.waiting.set(None);
                    Ok(done)
                })
            })
            .await?;
            drop(op);
            let Some(uring) = inner.core.uring() else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            self.note_drained(outcome);
            let picked = uring.take_picked(outcome);
            match outcome.count() {
                Ok(0) => return Ok(Buf::empty()),
                Ok(n) => {
                    let mut buf = picked.expect("bytes came in a buffer");
                    buf.set_len(n);
                    return Ok(buf);
                }
                // All buffers are out. Wait until some are back; never spin.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    uring.wait_for_picked().await;
                }
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends `buf[from..to]`.
    pub async fn send_all(&self, mut buf: Buf, from: usize, to: usize) -> (io::Result<()>, Buf) {
        assert!(from <= to && to <= buf.capacity());
        let mut from = from;
        while from < to {
            let op = Op::Send {
                socket: self.inner.socket.clone(),
                buf,
                from,
                to,
            };
            let (op, outcome) = current().submit(op).await;
            let Op::Send { buf: back, .. } = op else {
                unreachable!("operations come back as they went")
            };
            buf = back;
            match outcome.count() {
                Ok(n) => from += n,
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return (Err(e), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Sends the buffers (`[..len()]` of each) in order.
    pub async fn send_all_vectored(&self, mut bufs: Vec<Buf>) -> io::Result<()> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let mut done = 0;
        while done < total {
            let (first, skip) = position(&bufs, done);
            let socket = self.inner.socket.clone();
            let op = Op::SendVectored {
                socket,
                bufs,
                first,
                skip,
                message: None,
            };
            let (op, outcome) = current().submit(op).await;
            let Op::SendVectored { bufs: back, .. } = op else {
                unreachable!("operations come back as they went")
            };
            bufs = back;
            match outcome.count() {
                Ok(n) => done += n,
                Err(e) if is_transient(&e) => yield_now().await,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    pub fn shutdown_write(&self) {
        // SAFETY: no memory is involved. An error means that the connection is gone anyway.
        unsafe { libc::shutdown(self.inner.socket.fd(), libc::SHUT_WR) };
    }

    /// Ends both directions now: whoever waits for this connection gets an end or an error. For
    /// breaking off from another task.
    pub fn shutdown_both(&self) {
        // SAFETY: as above.
        unsafe { libc::shutdown(self.inner.socket.fd(), libc::SHUT_RDWR) };
    }
}

/// The vectors of `bufs[first][skip..]` and the buffers behind, at most [`VECTOR_MAX`], neighbours
/// in memory joined.
pub(in crate::rt) fn vectors(bufs: &[Buf], first: usize, skip: usize) -> Vec<libc::iovec> {
    let mut vectors: Vec<libc::iovec> = Vec::with_capacity((bufs.len() - first).min(VECTOR_MAX));
    for (i, buf) in bufs.iter().enumerate().skip(first) {
        let skip = if i == first { skip } else { 0 };
        let (base, len) = (buf.pointer().wrapping_add(skip), buf.len() - skip);
        if len == 0 {
            continue;
        }
        if let Some(last) = vectors.last_mut()
            && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == base
        {
            last.iov_len += len;
            continue;
        }
        if vectors.len() == VECTOR_MAX {
            break;
        }
        vectors.push(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        });
    }
    vectors
}
