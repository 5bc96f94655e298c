//! One keep-alive HTTP/1.1 connection: a request out, its answer in, over and over.
//!
//! A request's head and the beginning of its body leave in one send from a buffer that the
//! connection keeps; the rest of the body follows through the same buffer, one copy a byte. Answers
//! are received into a second buffer and shown to whoever asked piece by piece; none is kept but
//! XML. After any error the connection is closed, and the next request makes a new one.
//!
//! Nothing that waits is ever dropped half way: a watchdog ([`Watch`]) shuts sockets down, and who
//! waits for them gets an end.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::keys::{Content, Identity, Verifier};
use crate::http::chunked::Chunked;
use crate::rt::{self, Buf, Instant, TcpStream};

/// Longest time to connect.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Room for a request's head: 700 bytes, and what an upload's id of another server may add.
const HEAD_SIZE_MAX: usize = 4 * 1024;

/// Head of an answer, and its fields.
const ANSWER_HEAD_SIZE_MAX: usize = 16 * 1024;
const ANSWER_FIELDS_MAX: usize = 64;

/// Largest buffer for sending or receiving.
const PIECE_SIZE_MAX: usize = 256 * 1024;

/// Largest document that is kept: a page of 1,000 keys of 1,024 bytes, each escaped and with its
/// attributes, is 4 MiB.
const DOCUMENT_SIZE_MAX: usize = 8 * 1024 * 1024;

/// Why there is no good answer.
#[derive(Debug)]
pub enum Failure {
    Connect(io::Error),
    /// The connection broke; or, at a timeout, we broke it.
    Broken(io::Error),
    /// The server closed the connection before the answer was whole.
    Closed,
    TimedOut,
    /// What came is not HTTP, or more of it than there is room for.
    Malformed(&'static str),
    /// An error in the words of S3: the code is empty where there was no document.
    Refused {
        status: u16,
        code: String,
    },
    /// An answer that says what it must not: other bytes than were put, for example.
    Wrong(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(error) => write!(f, "connecting: {error}"),
            Failure::Broken(error) => write!(f, "connection: {error}"),
            Failure::Closed => f.write_str("connection closed before the answer was whole"),
            Failure::TimedOut => f.write_str("timeout"),
            Failure::Malformed(what) => write!(f, "malformed answer: {what}"),
            Failure::Refused { status, code } if code.is_empty() => write!(f, "{status}"),
            Failure::Refused { status, code } => write!(f, "{status} {code}"),
            Failure::Wrong(what) => write!(f, "wrong answer: {what}"),
        }
    }
}

/// What follows a head.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// These bytes of an object.
    Content(Identity, Range<u64>),
}

impl Body<'_> {
    pub fn len(&self) -> u64 {
        match self {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Content(_, range) => range.end - range.start,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` from byte `from` of the body on.
    fn fill(&self, content: &Content, from: u64, out: &mut [u8]) {
        match self {
            Body::None => assert!(out.is_empty()),
            Body::Bytes(bytes) => {
                let from = from as usize;
                out.copy_from_slice(&bytes[from..from + out.len()]);
            }
            Body::Content(body, range) => content.fill(*body, range.start + from, out),
        }
    }
}

/// What becomes of the body of a good answer.
pub enum Sink<'a> {
    Discard,
    Verify(Verifier<'a>),
    Keep,
}

/// A good answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// Bytes of the body; of the announced one for a HEAD.
    pub length: u64,
    pub etag: String,
    /// The body, if it was to be kept.
    pub document: Vec<u8>,
}

/// The times of one connection, for whoever looks after all of a core.
#[derive(Default)]
pub struct Watch {
    /// Since when a request is under way.
    busy: Cell<Option<Instant>>,
    cut: Cell<bool>,
    stream: RefCell<Option<TcpStream>>,
}

impl Watch {
    /// Breaks the connection if its request began before `at`.
    pub fn cut_if_older(&self, at: Instant) {
        if self.busy.get().is_some_and(|since| since < at) {
            self.cut();
        }
    }

    /// Breaks the connection if a request is under way.
    pub fn cut(&self) {
        if self.busy.get().is_some()
            && let Some(stream) = &*self.stream.borrow()
        {
            self.cut.set(true);
            stream.shutdown_both();
        }
    }
}

/// How long heads and bodies of a connection are, which decides its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Longest request body.
    pub sent: u64,
    /// Longest answer body.
    pub received: u64,
}

impl Sizes {
    fn out(self) -> usize {
        let body = usize::try_from(self.sent).unwrap_or(usize::MAX);
        body.saturating_add(HEAD_SIZE_MAX).min(PIECE_SIZE_MAX)
    }

    fn input(self) -> usize {
        let body = usize::try_from(self.received).unwrap_or(usize::MAX);
        body.saturating_add(HEAD_SIZE_MAX)
            .clamp(ANSWER_HEAD_SIZE_MAX, PIECE_SIZE_MAX)
    }

    /// Bytes of pool memory that a connection holds.
    pub fn buffers(self) -> usize {
        let whole = |size: usize| size.next_power_of_two().max(rt::buf::BUF_SIZE_MIN);
        whole(self.out()) + whole(self.input())
    }
}

pub struct Connection {
    address: SocketAddr,
    content: Rc<Content>,
    sizes: Sizes,
    stream: Option<TcpStream>,
    out: Option<Buf>,
    /// Received and not yet looked at are `input[start..end]`.
    input: Option<Buf>,
    start: usize,
    end: usize,
    watch: Rc<Watch>,
    connects: u64,
}

struct AnswerHead {
    status: u16,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    etag: String,
    size: usize,
}

impl Connection {
    pub fn new(address: SocketAddr, content: Rc<Content>, sizes: Sizes) -> Connection {
        Connection {
            address,
            content,
            sizes,
            stream: None,
            out: None,
            input: None,
            start: 0,
            end: 0,
            watch: Rc::default(),
            connects: 0,
        }
    }

    pub fn watch(&self) -> Rc<Watch> {
        self.watch.clone()
    }

    pub fn content(&self) -> &Content {
        &self.content
    }

    pub fn shared_content(&self) -> Rc<Content> {
        self.content.clone()
    }

    /// Connections made beyond the first.
    pub fn reconnects(&self) -> u64 {
        self.connects.saturating_sub(1)
    }

    /// Makes sure that there is a connection.
    pub async fn connect(&mut self) -> Result<TcpStream, Failure> {
        if let Some(stream) = &self.stream {
            return Ok(stream.clone());
        }
        let stream = match rt::timeout(CONNECT_TIME_MAX, TcpStream::connect(self.address)).await {
            Ok(result) => result.map_err(Failure::Connect)?,
            Err(rt::clock::Elapsed) => {
                return Err(Failure::Connect(io::ErrorKind::TimedOut.into()));
            }
        };
        self.connects += 1;
        (self.start, self.end) = (0, 0);
        *self.watch.stream.borrow_mut() = Some(stream.clone());
        self.stream = Some(stream.clone());
        Ok(stream)
    }

    pub fn disconnect(&mut self) {
        self.stream = None;
        *self.watch.stream.borrow_mut() = None;
    }

    /// Sends a request and receives its answer, which must have `expected` for its status. `head`
    /// includes the final empty line.
    pub async fn exchange(
        &mut self,
        head: &str,
        body: Body<'_>,
        expected: u16,
        sink: &mut Sink<'_>,
    ) -> Result<Answer, Failure> {
        self.watch.cut.set(false);
        self.watch.busy.set(Some(rt::now()));
        let result = self.exchange_watched(head, body, expected, sink).await;
        self.watch.busy.set(None);
        // A refusal leaves the connection good.
        if !matches!(
            result,
            Ok(_) | Err(Failure::Refused { .. } | Failure::Wrong(_))
        ) {
            self.disconnect();
            if self.watch.cut.get() {
                return Err(Failure::TimedOut);
            }
        }
        result
    }

    async fn exchange_watched(
        &mut self,
        head: &str,
        body: Body<'_>,
        expected: u16,
        sink: &mut Sink<'_>,
    ) -> Result<Answer, Failure> {
        let stream = self.connect().await?;
        let headless = head.starts_with("HEAD ");
        match self.send(&stream, head, body).await {
            Ok(()) => self.receive(&stream, headless, expected, sink).await,
            Err(error) => {
                // A server may refuse before it has read the body; then its answer says why.
                let refused = self.receive(&stream, headless, expected, sink).await;
                self.disconnect();
                match refused {
                    Err(Failure::Refused { status, code }) => {
                        Err(Failure::Refused { status, code })
                    }
                    _ => Err(Failure::Broken(error)),
                }
            }
        }
    }

    async fn send(&mut self, stream: &TcpStream, head: &str, body: Body<'_>) -> io::Result<()> {
        let mut out = match self.out.take() {
            Some(out) => out,
            None => Buf::alloc(self.sizes.out()).await,
        };
        let head = head.as_bytes();
        if head.len() > out.capacity() {
            self.out = Some(out);
            return Err(io::Error::other("the request's head is too long"));
        }
        out.whole_mut()[..head.len()].copy_from_slice(head);
        let (mut begin, mut at) = (head.len(), 0);
        loop {
            let room = out.capacity() - begin;
            let count = (body.len() - at).min(room as u64) as usize;
            let place = &mut out.whole_mut()[begin..begin + count];
            body.fill(&self.content, at, place);
            let (result, back) = stream.send_all(out, 0, begin + count).await;
            out = back;
            at += count as u64;
            begin = 0;
            if result.is_err() || at == body.len() {
                self.out = Some(out);
                return result;
            }
        }
    }

    fn received(&self) -> &[u8] {
        match &self.input {
            Some(input) => &input[self.start..self.end],
            None => &[],
        }
    }

    /// Receives more behind what is there; `false` at the end of the stream.
    async fn more(&mut self, stream: &TcpStream) -> Result<bool, Failure> {
        let mut input = match self.input.take() {
            Some(input) => input,
            None => {
                let mut input = Buf::alloc(self.sizes.input()).await;
                input.set_len(input.capacity());
                input
            }
        };
        if self.start > 0 {
            input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == input.capacity() {
            self.input = Some(input);
            return Err(Failure::Malformed("the head is too long"));
        }
        let (result, input) = stream.recv(input, self.end).await;
        self.input = Some(input);
        let count = result.map_err(Failure::Broken)?;
        self.end += count;
        Ok(count > 0)
    }

    async fn receive(
        &mut self,
        stream: &TcpStream,
        headless: bool,
        expected: u16,
        sink: &mut Sink<'_>,
    ) -> Result<Answer, Failure> {
        let head = loop {
            match parse(self.received())? {
                // 100 Continue and its like announce the answer proper.
                Some(head) if head.status < 200 => self.start += head.size,
                Some(head) => break head,
                None => {
                    if !self.more(stream).await? {
                        return Err(Failure::Closed);
                    }
                }
            }
        };
        self.start += head.size;
        let good = head.status == expected;
        let mut refusal = Sink::Keep;
        let sink = if good { sink } else { &mut refusal };
        let mut answer = Answer {
            etag: head.etag.clone(),
            ..Answer::default()
        };
        if headless || matches!(head.status, 204 | 304) {
            answer.length = head.length.unwrap_or(0);
        } else {
            self.body(stream, &head, sink, &mut answer).await?;
        }
        if head.close || (!headless && head.length.is_none() && !head.chunked && head.status != 204)
        {
            self.disconnect();
        }
        if !good {
            let document = String::from_utf8_lossy(&answer.document);
            return Err(Failure::Refused {
                status: head.status,
                code: element(&document, "Code").unwrap_or_default(),
            });
        }
        Ok(answer)
    }

    async fn body(
        &mut self,
        stream: &TcpStream,
        head: &AnswerHead,
        sink: &mut Sink<'_>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let mut chunked = head.chunked.then(Chunked::new);
        loop {
            let wanted = match &mut chunked {
                Some(chunked) => {
                    let used = chunked
                        .framing(self.received())
                        .map_err(|_| Failure::Malformed("bad chunks"))?;
                    self.start += used;
                    if chunked.is_done() {
                        return Ok(());
                    }
                    chunked.payload_ready()
                }
                None => head.length.map_or(u64::MAX, |all| all - answer.length),
            };
            if wanted == 0 && chunked.is_none() {
                return Ok(());
            }
            let count = (self.received().len() as u64).min(wanted);
            if count == 0 {
                if !self.more(stream).await? {
                    // Without a length the end of the connection is the end of the body.
                    return if chunked.is_none() && head.length.is_none() {
                        Ok(())
                    } else {
                        Err(Failure::Closed)
                    };
                }
                continue;
            }
            let piece = &self.received()[..count as usize];
            match sink {
                Sink::Discard => {}
                Sink::Verify(verifier) => verifier.update(piece),
                Sink::Keep => {
                    if answer.document.len() + piece.len() > DOCUMENT_SIZE_MAX {
                        return Err(Failure::Malformed("the document is too long"));
                    }
                    answer.document.extend_from_slice(piece);
                }
            }
            answer.length += count;
            self.start += count as usize;
            if let Some(chunked) = &mut chunked {
                chunked.passed(count);
            }
        }
    }
}

/// The head at the beginning of `input`; `None` when more of it must come.
fn parse(input: &[u8]) -> Result<Option<AnswerHead>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; ANSWER_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let size = match response.parse(input) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Malformed("not the head of an answer")),
    };
    let mut head = AnswerHead {
        status: response.code.unwrap_or(0),
        length: None,
        chunked: false,
        close: response.version == Some(0),
        etag: String::new(),
        size,
    };
    for field in response.headers.iter() {
        let value = String::from_utf8_lossy(field.value);
        let value = value.trim();
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = value
                .parse()
                .map_err(|_| Failure::Malformed("bad Content-Length"))?;
            head.length = Some(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Failure::Malformed("unknown Transfer-Encoding"));
            }
            head.chunked = true;
        } else if field.name.eq_ignore_ascii_case("connection") {
            head.close |= value.eq_ignore_ascii_case("close");
        } else if field.name.eq_ignore_ascii_case("etag") {
            head.etag = value.to_owned();
        }
    }
    Ok(Some(head))
}

/// The text of the first element called `name`, its escapes undone. S3 documents have no two that
/// differ in more than where they stand.
pub fn element(document: &str, name: &str) -> Option<String> {
    let begin = document.find(&format!("<{name}>"))? + name.len() + 2;
    let length = document[begin..].find("</")?;
    let text = &document[begin..begin + length];
    quick_xml::escape::unescape(text)
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// The texts of all elements called `name`, as they stand.
pub fn elements<'a>(document: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let open = format!("<{name}>");
    let mut rest = document;
    std::iter::from_fn(move || {
        let begin = rest.find(&open)? + open.len();
        let length = rest[begin..].find("</")?;
        let text = &rest[begin..begin + length];
        rest = &rest[begin + length..];
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_heads_are_read() {
        let text = "HTTP/1.1 200 OK\r\nX-Extra: 1\r\nconTent-length: 12\r\nETag: \"a\"\r\n\r\nbody";
        for cut in 0..text.len() - 4 {
            assert!(parse(&text.as_bytes()[..cut]).unwrap().is_none());
        }
        let head = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((head.status, head.length), (200, Some(12)));
        assert_eq!((head.etag.as_str(), head.chunked), ("\"a\"", false));
        assert_eq!((head.size, head.close), (text.len() - 4, false));

        let parsed = |text: &str| parse(text.as_bytes()).map(|head| head.unwrap());
        let closing = parsed("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n").unwrap();
        assert!(closing.close);
        assert!(parsed("HTTP/1.0 200 OK\r\n\r\n").unwrap().close);
        assert!(
            parsed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap()
                .chunked
        );
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn elements_are_found() {
        let document = "<A><Key>a&amp;b</Key><Key>c</Key><ETag>&quot;e&quot;</ETag></A>";
        assert_eq!(element(document, "Key").unwrap(), "a&b");
        assert_eq!(element(document, "ETag").unwrap(), "\"e\"");
        assert_eq!(element(document, "Code"), None);
        assert_eq!(
            elements(document, "Key").collect::<Vec<_>>(),
            ["a&amp;b", "c"]
        );
        assert_eq!(element("<Key>", "Key"), None);
    }
}
