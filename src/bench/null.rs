//! A server that stores nothing: it reads requests as little as can be and gives fixed answers, so
//! that what is measured against it is the generator, the kernel's sockets, and little else.
//!
//! | request | answer |
//! |---|---|
//! | GET of an object | 200 and `size` bytes, always the same |
//! | GET with a query | 200 and a listing of 1,000 keys, all of them |
//! | HEAD | 200 with `Content-Length: size` |
//! | PUT | 200 with an ETag |
//! | POST with `uploads` | 200 with an upload id |
//! | POST otherwise | 200: completed |
//! | DELETE | 204 |
//!
//! One request after the other on a connection; bodies must have a `Content-Length`. A stall delays
//! every answer, which shows what a slow server does to a generator.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::keys;
use crate::rt::net::Claim;
use crate::rt::{self, Buf, TcpListener, TcpStream};
use crate::signals::Event;

/// Largest head; also the buffer of a connection for what is received.
const HEAD_SIZE_MAX: usize = 64 * 1024;

/// Largest piece of an answer.
const PIECE_SIZE_MAX: usize = 256 * 1024;

/// Keys in a listing.
pub const LISTED_KEYS: u64 = 1000;

/// Wait before the next try when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of every object.
    pub size: u64,
    /// Delay of every answer.
    pub stall: Duration,
}

/// What a null server has done when it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    pub requests: u64,
    /// CPU time of its thread.
    pub cpu: Duration,
}

/// The pool memory that `connections` need.
pub fn arena_bytes(settings: &Settings, connections: usize) -> usize {
    let out = usize::try_from(settings.size)
        .unwrap_or(usize::MAX)
        .saturating_add(1024)
        .clamp(1024, PIECE_SIZE_MAX)
        .next_power_of_two()
        // A listing is longer than a small object.
        .max(PIECE_SIZE_MAX);
    connections * (HEAD_SIZE_MAX + out) + (16 << 20)
}

struct Null {
    settings: Settings,
    listing: Vec<u8>,
    requests: Cell<u64>,
}

/// Serves until `stop` happens.
pub async fn serve(claim: Claim, settings: Settings, stop: Event) -> Served {
    let cpu = rt::cpu_time();
    let listener = TcpListener::from_claim(claim);
    let null = Rc::new(Null {
        listing: listing(settings.size),
        settings,
        requests: Cell::new(0),
    });
    let accepting = rt::spawn({
        let null = null.clone();
        async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let null = null.clone();
                        // Whatever ends it ends this connection alone.
                        rt::spawn(async move { drop(null.connection(stream).await) });
                    }
                    Err(_) => rt::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    });
    stop.requested().await;
    accepting.cancel();
    Served {
        requests: null.requests.get(),
        cpu: rt::cpu_time().saturating_sub(cpu),
    }
}

fn listing(size: u64) -> Vec<u8> {
    use std::fmt::Write;
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult \
         xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>false</IsTruncated>",
    );
    let prefix = keys::prefix(size);
    for key in 0..LISTED_KEYS {
        let _ = write!(xml, "<Contents><Key>{prefix}");
        keys::push_name(&mut xml, key);
        let _ = write!(
            xml,
            "</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>\
             <ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>{size}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>"
        );
    }
    xml.push_str("</ListBucketResult>");
    xml.into_bytes()
}

/// What little is read of a head.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: u8,
    /// The method is PUT, or POST: they share their first letter.
    second: u8,
    query: bool,
    uploads: bool,
    body: u64,
    size: usize,
}

impl Request {
    /// The head at the beginning of `input`; `None` when more of it must come.
    fn read(input: &[u8]) -> Option<Request> {
        let size = input.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = &input[..size];
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or(head);
        const LENGTH: &[u8] = b"content-length:";
        let body = head
            .split(|&byte| byte == b'\n')
            .find_map(|field| {
                let name = field.get(..LENGTH.len())?;
                let digits = name
                    .eq_ignore_ascii_case(LENGTH)
                    .then(|| &field[LENGTH.len()..])?;
                std::str::from_utf8(digits).ok()?.trim().parse().ok()
            })
            .unwrap_or(0);
        Some(Request {
            method: head[0],
            second: head[1],
            query: line.contains(&b'?'),
            uploads: line.windows(8).any(|eight| eight == b"?uploads"),
            body,
            size,
        })
    }
}

impl Null {
    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        let mut input = Buf::alloc(HEAD_SIZE_MAX).await;
        input.set_len(input.capacity());
        let mut out = Some(Buf::alloc(1).await);
        let mut have = 0;
        loop {
            let request = loop {
                if have > 0
                    && let Some(request) = Request::read(&input[..have])
                {
                    break request;
                }
                if have == input.capacity() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let (result, back) = stream.recv(input, have).await;
                input = back;
                match result? {
                    0 => return Ok(()),
                    count => have += count,
                }
            };
            input.copy_within(request.size..have, 0);
            have -= request.size;
            let mut left = request.body;
            loop {
                let taken = left.min(have as u64);
                left -= taken;
                if left == 0 {
                    input.copy_within(taken as usize..have, 0);
                    have -= taken as usize;
                    break;
                }
                let (result, back) = stream.recv(input, 0).await;
                input = back;
                have = result?;
                if have == 0 {
                    return Ok(());
                }
            }
            if !self.settings.stall.is_zero() {
                rt::sleep(self.settings.stall).await;
            }
            self.requests.set(self.requests.get() + 1);
            self.answer(&stream, &request, &mut out).await?;
        }
    }

    async fn answer(
        &self,
        stream: &TcpStream,
        request: &Request,
        out: &mut Option<Buf>,
    ) -> io::Result<()> {
        const ETAG: &str = "ETag: \"0123456789abcdef0123456789abcdef\"\r\n";
        const CREATED: &str = "<InitiateMultipartUploadResult><UploadId>null</UploadId></InitiateMultipartUploadResult>";
        const COMPLETED: &str =
            "<CompleteMultipartUploadResult><ETag>null</ETag></CompleteMultipartUploadResult>";
        let ok = |length: u64| format!("HTTP/1.1 200 OK\r\n{ETAG}Content-Length: {length}\r\n\r\n");
        let (head, mut document, object): (String, &[u8], u64) =
            match (request.method, request.second) {
                (b'G', _) if request.query => (ok(self.listing.len() as u64), &self.listing, 0),
                (b'G', _) => (ok(self.settings.size), b"", self.settings.size),
                (b'H', _) => (ok(self.settings.size), b"", 0),
                (b'D', _) => ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), b"", 0),
                (b'P', b'O') => {
                    let text = if request.uploads { CREATED } else { COMPLETED };
                    (ok(text.len() as u64), text.as_bytes(), 0)
                }
                _ => (ok(0), b"", 0),
            };
        // The buffer grows to what the answers need, and stays.
        let size = usize::try_from(object)
            .unwrap_or(usize::MAX)
            .saturating_add(document.len() + head.len())
            .min(PIECE_SIZE_MAX);
        let mut buf = match out.take() {
            Some(buf) if buf.capacity() >= size => buf,
            small => {
                drop(small);
                Buf::alloc(size).await
            }
        };
        let whole = buf.whole_mut();
        whole[..head.len()].copy_from_slice(head.as_bytes());
        let mut begin = head.len();
        let mut left = object;
        loop {
            // Object bytes are whatever the buffer holds: nobody looks.
            let room = buf.capacity() - begin;
            let count = if document.is_empty() {
                let count = left.min(room as u64);
                left -= count;
                count as usize
            } else {
                let count = document.len().min(room);
                buf.whole_mut()[begin..begin + count].copy_from_slice(&document[..count]);
                document = &document[count..];
                count
            };
            let (result, back) = stream.send_all(buf, 0, begin + count).await;
            buf = back;
            result?;
            begin = 0;
            if left == 0 && document.is_empty() {
                *out = Some(buf);
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_little_as_can_be() {
        let text = "PUT /b/k HTTP/1.1\r\nHost: h\r\ncontent-Length: 12\r\n\r\nbody";
        let request = Request::read(text.as_bytes()).unwrap();
        assert_eq!((request.method, request.second), (b'P', b'U'));
        assert_eq!((request.body, request.size), (12, text.len() - 4));
        assert_eq!((request.query, request.uploads), (false, false));
        assert_eq!(Request::read(&text.as_bytes()[..text.len() - 5]), None);
        let create = Request::read(b"POST /b/k?uploads= HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert!(create.query && create.uploads);
    }
}
