//! Request heads: the bytes up to the empty line in, a [`Head`] or a [`HeadError`] out.
//!
//! Parsing is strict (RFC 9112): lines end in CRLF and nothing else, there is one `Host`, at most
//! one `Content-Length` made of digits, at most one `Transfer-Encoding` and then only `chunked`,
//! and never both. Whatever is refused here closes the connection, because the border of the next
//! request is not known.

use smallvec::SmallVec;
use std::ops::Range;

/// Longest head. A key of 1,024 bytes is 3 KiB when every byte is escaped, a presigned query adds
/// about 1 KiB and as much again for prefix and token, user metadata is at most 2 KiB, a bearer of
/// signatures and SDK headers about 2 KiB: 9 KiB, and room for what proxies add.
pub const HEAD_SIZE_MAX: usize = 16 * 1024;

/// Most header fields in one head. SDKs send about 20; 2 KiB of metadata in short pairs adds at
/// most some 60.
pub const HEADER_COUNT_MAX: usize = 120;

/// Empty lines skipped before a request line (RFC 9112, 2.2, asks for at least one).
const LEADING_LINES_MAX: usize = 4;

const _: () = assert!(HEAD_SIZE_MAX <= u16::MAX as usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    /// A valid token that no operation uses.
    Other,
}

impl Method {
    fn parse(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            "POST" => Self::Post,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

/// How the body that follows the head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Neither `Content-Length` nor `Transfer-Encoding`: no body follows.
    None,
    Length(u64),
    Chunked,
}

/// Why a head was refused. The connection is closed after each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the request head is larger than {HEAD_SIZE_MAX} bytes")]
    TooLarge,
    #[error("the request head has more than {HEADER_COUNT_MAX} fields")]
    TooManyFields,
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken here")]
    Version,
    /// `Content-Length` or `Transfer-Encoding` leave the body's border in doubt.
    #[error("{0}")]
    Framing(&'static str),
    #[error("only the expectation 100-continue is known")]
    Expectation,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: (u16, u16),
    value: (u16, u16),
}

/// One request head. Owns a copy of its bytes (the only copy made of them); names are lower case.
#[derive(Clone, Debug)]
pub struct Head {
    bytes: Vec<u8>,
    method_token: (u16, u16),
    path: (u16, u16),
    query: Option<(u16, u16)>,
    fields: SmallVec<[Field; 24]>,
    pub method: Method,
    pub framing: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the client keeps the connection open after this request.
    pub keep_alive: bool,
}

/// A field that may be given once was given more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate;

impl Head {
    /// Looks for a whole head at the start of `input`.
    ///
    /// `scanned` is the caller's memory of how far earlier calls have looked, 0 for a new request;
    /// a byte is looked at once, however the input arrives. Returns the head and the number of
    /// bytes it took, or `None` when more bytes are needed.
    pub fn take(input: &[u8], scanned: &mut usize) -> Result<Option<(Head, usize)>, HeadError> {
        let mut start = 0;
        for _ in 0..LEADING_LINES_MAX {
            if !input[start..].starts_with(b"\r\n") {
                break;
            }
            start += 2;
        }
        match input.get(start) {
            None => return Ok(None),
            Some(b'\r') if input.len() == start + 1 => return Ok(None),
            // Every method is made of capital letters: a TLS hello or noise is refused at once.
            Some(byte) if !byte.is_ascii_uppercase() => {
                return Err(HeadError::Malformed("this is not an HTTP request"));
            }
            Some(_) => {}
        }
        let from = scanned.saturating_sub(3).max(start);
        let found = input[from..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        *scanned = input.len();
        let Some(at) = found else {
            if input.len() - start >= HEAD_SIZE_MAX {
                return Err(HeadError::TooLarge);
            }
            return Ok(None);
        };
        let end = from + at + 4;
        if end - start > HEAD_SIZE_MAX {
            return Err(HeadError::TooLarge);
        }
        Ok(Some((Self::parse(&input[start..end])?, end)))
    }

    /// Parses one whole head, its closing empty line included.
    fn parse(input: &[u8]) -> Result<Head, HeadError> {
        // httparse takes a bare LF as the end of a line; another reader may not.
        let mut before = 0;
        for &byte in input {
            if byte == b'\n' && before != b'\r' {
                return Err(HeadError::Malformed("a line must end in CR LF"));
            }
            if before == b'\r' && byte != b'\n' {
                return Err(HeadError::Malformed("a line must end in CR LF"));
            }
            before = byte;
        }
        let mut bytes = input.to_vec();
        let base = bytes.as_ptr() as usize;
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - base;
            (start as u16, (start + part.len()) as u16)
        };

        let mut storage = [httparse::EMPTY_HEADER; HEADER_COUNT_MAX];
        let mut request = httparse::Request::new(&mut storage);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
            Ok(_) => return Err(HeadError::Malformed("the request head is malformed")),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
            Err(httparse::Error::Version) => return Err(HeadError::Version),
            Err(_) => return Err(HeadError::Malformed("the request head is malformed")),
        }
        let (Some(token), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed("the request line is malformed"));
        };
        if !target
            .bytes()
            .all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#')
        {
            return Err(HeadError::Malformed(
                "the request target has bytes that need escaping",
            ));
        }
        let method = Method::parse(token);
        let whole_server = method == Method::Options && target == "*";
        let (authority, target) = match absolute(target) {
            Some((authority, target)) => (Some(place(authority.as_bytes())), target),
            None => (None, target),
        };
        let rootless = authority.is_some() && !target.starts_with('/');
        if !(target.starts_with('/') || rootless || whole_server) {
            return Err(HeadError::Malformed("the request target must start with /"));
        }
        let method_token = place(token.as_bytes());
        let target = target.as_bytes();
        let (path, query) = match target.iter().position(|&byte| byte == b'?') {
            Some(at) => (place(&target[..at]), Some(place(&target[at + 1..]))),
            None => (place(target), None),
        };
        let fields: SmallVec<[Field; 24]> = request
            .headers
            .iter()
            .map(|header| Field {
                name: place(header.name.as_bytes()),
                value: place(header.value),
            })
            .collect();
        for field in &fields {
            bytes[range(field.name)].make_ascii_lowercase();
        }
        let mut head = Head {
            bytes,
            method_token,
            path,
            query,
            fields,
            method,
            framing: Framing::None,
            expects_continue: false,
            keep_alive: minor == 1,
        };
        head.interpret(minor)?;
        // The target's authority counts more than Host (RFC 9112, 3.2.2), and Host is what is
        // signed: they must be one.
        if let Some(authority) = authority
            && !head
                .first("host")
                .is_some_and(|host| host.eq_ignore_ascii_case(&head.bytes[range(authority)]))
        {
            return Err(HeadError::Malformed(
                "the request target is of another host than Host",
            ));
        }
        Ok(head)
    }

    /// Reads the fields that decide the message's borders and the connection's fate.
    fn interpret(&mut self, minor: u8) -> Result<(), HeadError> {
        let mut hosts = 0;
        let mut length = None;
        let mut chunked = false;
        let (mut close, mut keep) = (false, false);
        let mut expects = false;
        for (name, value) in self.fields() {
            match name {
                "host" => hosts += 1,
                "content-length" => {
                    if length.is_some() {
                        return Err(HeadError::Framing("Content-Length is given twice"));
                    }
                    let value = parse_length(value).ok_or(HeadError::Framing(
                        "Content-Length must be a decimal number",
                    ))?;
                    length = Some(value);
                }
                "transfer-encoding" => {
                    if chunked {
                        return Err(HeadError::Framing("Transfer-Encoding is given twice"));
                    }
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::Framing(
                            "the only Transfer-Encoding known is chunked",
                        ));
                    }
                    chunked = true;
                }
                "connection" => {
                    for token in value.split(|&byte| byte == b',') {
                        let token = token.trim_ascii();
                        close |= token.eq_ignore_ascii_case(b"close");
                        keep |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                "expect" => {
                    if expects || !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(HeadError::Expectation);
                    }
                    expects = true;
                }
                _ => {}
            }
        }
        if hosts > 1 || (hosts == 0 && minor == 1) {
            return Err(HeadError::Malformed("exactly one Host must be given"));
        }
        self.framing = match (length, chunked) {
            (Some(_), true) => {
                return Err(HeadError::Framing(
                    "Content-Length and Transfer-Encoding exclude each other",
                ));
            }
            (None, true) if minor == 0 => {
                return Err(HeadError::Framing("HTTP/1.0 has no Transfer-Encoding"));
            }
            (None, true) => Framing::Chunked,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::None,
        };
        self.keep_alive = if minor == 0 { keep && !close } else { !close };
        // An HTTP/1.0 client cannot understand an interim response (RFC 9110, 10.1.1).
        self.expects_continue = expects && minor == 1 && !matches!(self.framing, Framing::None);
        Ok(())
    }

    /// The method as it was sent, which is what is signed.
    pub fn method_token(&self) -> &[u8] {
        &self.bytes[range(self.method_token)]
    }

    /// The path as it was sent: escaped, starting with `/`.
    pub fn raw_path(&self) -> &[u8] {
        match &self.bytes[range(self.path)] {
            // Of a target that is a host alone.
            b"" => b"/",
            path => path,
        }
    }

    /// The query as it was sent, without `?`; empty when there is none.
    pub fn raw_query(&self) -> &[u8] {
        self.query.map_or(&[], |query| &self.bytes[range(query)])
    }

    /// All fields in the order they were sent; names in lower case, values trimmed.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| {
            // httparse has checked that names are ASCII tokens.
            let name = std::str::from_utf8(&self.bytes[range(field.name)]).unwrap_or("");
            (name, self.bytes[range(field.value)].trim_ascii())
        })
    }

    /// Every value of `name` (lower case).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |(field, _)| *field == name)
            .map(|(_, value)| value)
    }

    /// The first value of `name` (lower case).
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.fields()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }

    /// This head with more fields behind its own; names are lower case. `None` if one of them could
    /// not have come in a head.
    pub fn with_fields<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Head> {
        let mut head = self.clone();
        for (name, value) in fields {
            let token = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
            let text = value
                .iter()
                .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
            if !token || !text {
                return None;
            }
            let mut place = |bytes: &[u8]| -> Option<(u16, u16)> {
                let start = u16::try_from(head.bytes.len()).ok()?;
                head.bytes.extend_from_slice(bytes);
                Some((start, u16::try_from(head.bytes.len()).ok()?))
            };
            let field = Field {
                name: place(name.as_bytes())?,
                value: place(value)?,
            };
            head.fields.push(field);
        }
        Some(head)
    }

    /// The value of a field that may be given once.
    pub fn single(&self, name: &str) -> Result<Option<&[u8]>, Duplicate> {
        let mut values = self.fields().filter(|(field, _)| *field == name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Duplicate);
        }
        Ok(first.map(|(_, value)| value))
    }
}

/// The authority of a target in absolute form, and what follows it.
fn absolute(target: &str) -> Option<(&str, &str)> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    })?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

fn range((start, end): (u16, u16)) -> Range<usize> {
    usize::from(start)..usize::from(end)
}

/// Digits only: no sign, no list, no white space, no overflow.
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Head, HeadError> {
        let mut scanned = 0;
        Head::take(text.as_bytes(), &mut scanned).map(|found| found.expect("a whole head").0)
    }

    #[test]
    fn a_head_keeps_path_and_query_raw() {
        let head = parse("PUT /b/a%2Fb//../c+d?x=%20&y HTTP/1.1\r\nHost: h\r\nX-Amz-Meta-A:  v \r\nContent-Length: 12\r\n\r\n").unwrap();
        assert_eq!(head.method, Method::Put);
        assert_eq!(head.raw_path(), b"/b/a%2Fb//../c+d");
        assert_eq!(head.raw_query(), b"x=%20&y");
        assert_eq!(head.first("x-amz-meta-a"), Some(&b"v"[..]));
        assert_eq!(head.framing, Framing::Length(12));
        assert!(head.keep_alive);
    }

    #[test]
    fn fields_are_added_within_the_rules() {
        let head = parse("GET /k HTTP/1.1\r\nHost: h\r\nA: 1\r\n\r\n").unwrap();
        let more = head
            .with_fields([("a", &b" 2 "[..]), ("x-y", "\u{20ac}".as_bytes())])
            .unwrap();
        let found: Vec<_> = more.all("a").collect();
        assert_eq!(found, [&b"1"[..], b"2"]);
        assert_eq!(more.first("x-y"), Some("\u{20ac}".as_bytes()));
        assert_eq!(more.raw_path(), b"/k");
        let long = vec![b'a'; usize::from(u16::MAX)];
        for (name, value) in [
            ("", &b"v"[..]),
            ("A", b"v"),
            ("a b", b"v"),
            ("a:", b"v"),
            ("a", b"v\r\nb: c"),
            ("a", b"\0"),
            ("a", &long),
        ] {
            assert!(head.with_fields([(name, value)]).is_none(), "{name:?}");
        }
    }

    #[test]
    fn targets_may_name_the_host_that_host_names() {
        let cases = [
            ("http://h:9000/b/k?a=b", "/b/k", "a=b"),
            ("HTTPS://H:9000/b//k", "/b//k", ""),
            ("http://h:9000", "/", ""),
            ("http://h:9000?list-type=2", "/", "list-type=2"),
            ("/http://other/k", "/http://other/k", ""),
        ];
        for (target, path, query) in cases {
            let text = format!("GET {target} HTTP/1.1\r\nHost: h:9000\r\n\r\n");
            let head = parse(&text).unwrap();
            assert_eq!(head.raw_path(), path.as_bytes(), "{target}");
            assert_eq!(head.raw_query(), query.as_bytes(), "{target}");
        }
        for target in [
            "http://other/b",
            "http://h/b",
            "http://user@h:9000/b",
            "http:///b",
            "http://",
            "http:/h:9000/b",
            "ftp://h:9000/b",
            "h:9000/b",
            "//h:9000",
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: h:9000\r\n\r\n");
            let refused = parse(&text).is_err();
            // Two slashes begin a path whose bucket is empty.
            assert_eq!(refused, target != "//h:9000", "{target}");
        }
        assert!(parse("GET http://h/b HTTP/1.0\r\n\r\n").is_err());
        assert!(parse("GET http://h/b HTTP/1.0\r\nHost: h\r\n\r\n").is_ok());
    }

    #[test]
    fn framing_in_doubt_is_refused() {
        let cases = [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1 2",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding:",
        ];
        for fields in cases {
            let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
            assert!(
                matches!(parse(&text), Err(HeadError::Framing(_))),
                "{fields:?}"
            );
        }
        let old = parse("PUT /b/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(matches!(old, Err(HeadError::Framing(_))));
    }

    #[test]
    fn malformed_heads_are_refused() {
        let cases = [
            "GET /b HTTP/1.1\nHost: h\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\nA: b\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n",
            "GET /b HTTP/1.1\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost : h\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\r\nA: b\r\n folded\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\r\nnocolon\r\n\r\n",
            "GET /b\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://other/b HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET b HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /b#f HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /b HTTP/2.0\r\nHost: h\r\n\r\n",
            "get /b HTTP/1.1\r\nHost: h\r\n\r\n",
            "\x16\x03\x01\x02\r\n\r\n",
            "GET /b HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n",
            "PUT /b HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n",
        ];
        for text in cases {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn limits_hold() {
        let long = format!(
            "GET /{} HTTP/1.1\r\nHost: h\r\n\r\n",
            "a".repeat(HEAD_SIZE_MAX)
        );
        assert_eq!(parse(&long).unwrap_err(), HeadError::TooLarge);
        let endless = format!("GET /{}", "a".repeat(HEAD_SIZE_MAX));
        let mut scanned = 0;
        assert_eq!(
            Head::take(endless.as_bytes(), &mut scanned).unwrap_err(),
            HeadError::TooLarge
        );
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(HEADER_COUNT_MAX + 1)
        );
        assert_eq!(parse(&many).unwrap_err(), HeadError::TooManyFields);
    }

    #[test]
    fn the_connection_field_and_version_decide_keep_alive() {
        let keep = |version: &str, field: &str| {
            parse(&format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n"))
                .unwrap()
                .keep_alive
        };
        assert!(keep("1.1", ""));
        assert!(!keep("1.1", "Connection: close\r\n"));
        assert!(!keep("1.1", "Connection: foo, Close\r\n"));
        assert!(!keep("1.0", ""));
        assert!(keep("1.0", "Connection: keep-alive\r\n"));
        assert!(!keep("1.0", "Connection: keep-alive, close\r\n"));
    }

    #[test]
    fn an_expectation_counts_only_before_a_body_even_an_empty_one() {
        let expects = |version: &str, fields: &str| {
            parse(&format!(
                "PUT /b/k HTTP/{version}\r\nHost: h\r\n{fields}Expect: 100-Continue\r\n\r\n"
            ))
            .unwrap()
            .expects_continue
        };
        assert!(expects("1.1", "Content-Length: 1\r\n"));
        assert!(expects("1.1", "Content-Length: 0\r\n"));
        assert!(!expects("1.1", ""));
        assert!(!expects("1.0", "Content-Length: 1\r\n"));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut scanned = 0;
            let _ = Head::take(&bytes, &mut scanned);
            let mut with_end = b"GET / HTTP/1.1\r\n".to_vec();
            with_end.extend(bytes);
            with_end.extend(b"\r\n\r\n");
            let mut scanned = 0;
            let _ = Head::take(&with_end, &mut scanned);
        }

        #[test]
        fn cuts_do_not_matter(cuts in proptest::collection::vec(1usize..9, 1..60)) {
            let text = b"\r\nPUT /b/k?a=b HTTP/1.1\r\nHost: h\r\nA: \r\nContent-Length: 3\r\n\r\nabc";
            let (mut end, mut scanned) = (0, 0);
            let mut sizes = cuts.iter().cycle();
            let (head, taken) = loop {
                end = (end + sizes.next().unwrap()).min(text.len());
                if let Some(found) = Head::take(&text[..end], &mut scanned).unwrap() {
                    break found;
                }
            };
            prop_assert_eq!(taken, text.len() - 3);
            prop_assert_eq!(head.framing, Framing::Length(3));
            prop_assert_eq!(head.raw_query(), b"a=b");
        }
    }
}
