//! Response heads.

use crate::http::date;

/// A response head under construction, in the form it is sent.
///
/// Field values cannot break out of their line: control bytes are written as spaces. What a
/// client may choose (response overrides, metadata) is checked before it comes here; this is the
/// second lock.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub status: u16,
    bytes: Vec<u8>,
}

impl ResponseHead {
    pub fn new(status: u16) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(b"HTTP/1.1 ");
        bytes.extend_from_slice(status.to_string().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(reason(status).as_bytes());
        bytes.extend_from_slice(b"\r\n");
        Self { status, bytes }
    }

    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        debug_assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':')
        );
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        let clean = |&byte: &u8| {
            if byte < 0x20 || byte == 0x7f {
                b' '
            } else {
                byte
            }
        };
        self.bytes.extend(value.as_ref().iter().map(clean));
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.field(name, value.to_string())
    }

    /// Closes the head and gives its bytes: date, server and the fate of the connection are added.
    pub fn finish(mut self, unix_ms: u64, keep_alive: bool) -> Vec<u8> {
        self.field("date", date::http(unix_ms));
        self.field("server", "Ostrakon");
        if !keep_alive {
            self.field("connection", "close");
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes
    }
}

/// The interim response that lets a waiting client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_start_a_new_line() {
        let mut head = ResponseHead::new(200);
        head.field("x-amz-meta-a", "v\r\nSet-Cookie: x\0\x7f")
            .number("content-length", 3);
        let text = String::from_utf8(head.finish(1_369_353_600_000, false)).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nx-amz-meta-a: v  Set-Cookie: x  \r\ncontent-length: 3\r\n\
             date: Fri, 24 May 2013 00:00:00 GMT\r\nserver: Ostrakon\r\nconnection: close\r\n\r\n"
        );
    }
}
