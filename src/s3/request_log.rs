//! One line in the log for each request.
//!
//! | request | level |
//! |---|---|
//! | failed by the server (500, 503, 507) | warn, at most [`WARNINGS_PER_SECOND`] a core |
//! | every other one, and warnings beyond that | info with `--access-log on`, else debug |
//!
//! Never in a line: header values, and of a query anything but the names and values that are known
//! to be harmless. A presigned URL is a credential: who has it may do what it says.

use crate::http::head::Head;
use crate::rt::{Instant, now};
use crate::s3::error::Code;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

/// Lines at level warn: enough to see what is wrong, too few to fill a drive when everything is.
const WARNINGS_PER_SECOND: u32 = 10;

/// Bytes of a path or query in a line; keys have up to 1,024.
const TARGET_SIZE_MAX: usize = 2 * 1024;

/// Query keys that are logged with their values. Everything else, names included, is left out: a
/// name can be anything, such as half of a badly quoted URL.
const HARMLESS: &[&str] = &[
    "acl",
    "attributes",
    "continuation-token",
    "cors",
    "delete",
    "delimiter",
    "encoding-type",
    "encryption",
    "fetch-owner",
    "key-marker",
    "legal-hold",
    "lifecycle",
    "list-type",
    "location",
    "marker",
    "max-buckets",
    "max-keys",
    "max-parts",
    "max-uploads",
    "object-lock",
    "part-number-marker",
    "partNumber",
    "policy",
    "prefix",
    "retention",
    "start-after",
    "tagging",
    "upload-id-marker",
    "uploadId",
    "uploads",
    "version-id-marker",
    "versionId",
    "versioning",
    "versions",
    "x-id",
    "X-Amz-Algorithm",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
];

/// What one core logs of its requests.
#[derive(Default)]
pub struct RequestLog {
    /// All requests at level info.
    pub access: bool,
    second: Cell<Instant>,
    /// Warnings in that second, and those since the last line that were none for it.
    warned: Cell<u32>,
    held_back: Cell<u64>,
}

/// A request that was answered.
pub struct Line<'a> {
    pub peer: SocketAddr,
    pub request_id: &'a str,
    /// `None`: it was refused before it was understood.
    pub head: Option<&'a Head>,
    pub operation: &'a dyn fmt::Display,
    /// The name of who signed it.
    pub user: &'a str,
    pub status: u16,
    /// The server is to blame.
    pub failed: bool,
    pub code: Option<Code>,
    /// What the code does not say.
    pub cause: Option<&'a str>,
    pub complete: bool,
    pub duration: Duration,
}

impl RequestLog {
    pub fn new(access: bool) -> RequestLog {
        RequestLog {
            access,
            ..RequestLog::default()
        }
    }

    pub fn write(&self, line: &Line<'_>) {
        macro_rules! event {
            ($level:expr) => {
                event!($level, "request")
            };
            ($level:expr, $message:literal $(, $more:tt = $value:expr)?) => {
                tracing::event!(
                    $level,
                    peer = %line.peer,
                    request_id = line.request_id,
                    method = line.head.map_or("", |head| method(head)),
                    target = line.head.map(target).unwrap_or_default(),
                    operation = %line.operation,
                    user = line.user,
                    status = line.status,
                    code = line.code.map_or("", Code::name),
                    cause = line.cause.unwrap_or_default(),
                    complete = line.complete,
                    micros = line.duration.as_micros() as u64,
                    $($more = $value,)?
                    $message
                )
            };
        }
        if line.failed
            && let Some(held_back) = self.may_warn()
        {
            event!(
                tracing::Level::WARN,
                "request failed",
                held_back = held_back
            );
        } else if self.access {
            event!(tracing::Level::INFO);
        } else {
            event!(tracing::Level::DEBUG);
        }
    }

    /// How many were held back since the last warning, if this may be one.
    fn may_warn(&self) -> Option<u64> {
        let now = now();
        if now.saturating_since(self.second.get()) >= Duration::from_secs(1) {
            self.second.set(now);
            self.warned.set(0);
        }
        if self.warned.get() < WARNINGS_PER_SECOND {
            self.warned.set(self.warned.get() + 1);
            return Some(self.held_back.take());
        }
        self.held_back.set(self.held_back.get() + 1);
        None
    }
}

/// A method can be anything, too.
fn method(head: &Head) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT",
    ];
    let token = head.method_token();
    let known = KNOWN.iter().find(|known| known.as_bytes() == token);
    known.copied().unwrap_or("other")
}

/// A path up to where the query of a presigned URL begins that was encoded once too often. For logs
/// and for answers, which others may log.
pub fn harmless_path(path: &[u8]) -> &[u8] {
    const MARKS: [&[u8]; 4] = [b"x-amz-", b"%3fsignature", b"%26signature", b"&signature"];
    let lower = path.to_ascii_lowercase();
    let end = MARKS
        .iter()
        .filter_map(|mark| lower.windows(mark.len()).position(|part| part == *mark))
        .min();
    &path[..end.unwrap_or(path.len())]
}

fn target(head: &Head) -> String {
    redacted(head.raw_path(), head.raw_query())
}

/// Path and query as they may be logged: printable ASCII, harmless, bounded.
fn redacted(path: &[u8], query: &[u8]) -> String {
    let mut text = String::with_capacity(path.len() + query.len() + 1);
    let shown = harmless_path(path);
    printable(shown, &mut text);
    if shown.len() < path.len() {
        text.push('…');
    }
    let mut left_out = false;
    let mut separator = '?';
    for pair in query
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let key = pair.split(|&byte| byte == b'=').next().unwrap_or(b"");
        if HARMLESS.iter().any(|known| known.as_bytes() == key) {
            text.push(separator);
            printable(pair, &mut text);
            separator = '&';
        } else {
            left_out = true;
        }
    }
    if left_out {
        text.push(separator);
        text.push('…');
    }
    if text.len() > TARGET_SIZE_MAX {
        let mut end = TARGET_SIZE_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

fn printable(bytes: &[u8], text: &mut String) {
    for &byte in bytes {
        match byte.is_ascii_graphic() {
            true => text.push(char::from(byte)),
            false => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_signs_is_left_out_and_what_finds_is_kept() {
        let shown = |target: &str| {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            redacted(path.as_bytes(), query.as_bytes())
        };
        assert_eq!(shown("/bucket/a%20key"), "/bucket/a%20key");
        assert_eq!(
            shown("/b?list-type=2&prefix=a%2F&max-keys=1"),
            "/b?list-type=2&prefix=a%2F&max-keys=1"
        );
        for secret in [
            "X-Amz-Signature=CANARY",
            "x-amz-signature=CANARY",
            "X%2DAmz-Signature=CANARY",
            "X-Amz-Credential=CANARY%2F20130524",
            "X-Amz-Security-Token=CANARY",
            "Signature=CANARY",
            "AWSAccessKeyId=CANARY",
            "CANARY",
            "CANARY=",
            "=CANARY",
            "amp;X-Amz-Signature=CANARY",
            "Prefix=CANARY",
        ] {
            let found = shown(&format!("/b/k?versionId=null&{secret}&x-id=GetObject"));
            assert_eq!(found, "/b/k?versionId=null&x-id=GetObject&…");
            assert_eq!(shown(&format!("/b/k?{secret}")), "/b/k?…");
        }
        assert_eq!(shown("/b/k%3FX-Amz-Signature%3DCANARY"), "/b/k%3F…");
        assert_eq!(shown("/b/k%3FSignature=CANARY"), "/b/k…");
        assert_eq!(shown("/b/signature.txt"), "/b/signature.txt");
    }

    #[test]
    fn a_line_is_printable_and_bounded() {
        assert_eq!(redacted(b"/b/\xc2\x9b\x1b[31m", b""), "/b/%C2%9B%1B[31m");
        let long = redacted(&[0xff; 5000], &[b'&'; 5000]);
        assert!(long.len() <= TARGET_SIZE_MAX + "…".len());
    }

    #[test]
    fn warnings_are_held_back_and_counted() {
        let log = RequestLog::default();
        // Outside a core the clock is the system's; all of this takes less than its second.
        let allowed = (0..50).filter_map(|_| log.may_warn()).count();
        assert_eq!(allowed, WARNINGS_PER_SECOND as usize);
        assert_eq!(log.held_back.get(), 40);
        log.second.set(Instant::default());
        assert_eq!(log.may_warn(), Some(40));
        assert_eq!(log.held_back.get(), 0);
    }
}
