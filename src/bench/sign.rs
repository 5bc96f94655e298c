//! Request heads, signed by AWS Signature Version 4. The canonical form is the server's own
//! (`s3::sigv4`); the signing key is derived once a day, date and scope are written once a second.

use std::fmt::Write;

use crate::http::date;
use crate::s3::sigv4::{ALGORITHM, Canonical, signature};
use crate::s3::users::User;

/// What `x-amz-content-sha256` says when the body is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Who signs.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
}

/// One request as it is sent, all but its body.
pub struct Request<'a> {
    pub method: &'static str,
    /// Begins with a slash; escaped, if it needs to be.
    pub path: &'a str,
    /// Names and values, escaped and sorted.
    pub query: &'a [(&'a str, &'a str)],
    /// The body's SHA-256 in hexadecimal, or [`UNSIGNED`].
    pub content_sha256: &'a str,
    /// The value of `x-amz-checksum-crc32c`.
    pub crc32c: Option<&'a str>,
    /// `None`: the request has no body, and none is announced.
    pub content_length: Option<u64>,
}

/// Writes heads for one server. Without credentials they are not signed.
pub struct Signer {
    host: String,
    credentials: Option<(Credentials, User)>,
    /// The second that `time` and `scope` are of, since 1970.
    second: u64,
    /// `yyyymmddThhmmssZ`
    time: String,
    /// `yyyymmdd/region/s3/aws4_request`
    scope: String,
    key: [u8; 32],
    canonical: Vec<u8>,
}

impl Signer {
    /// `host` is the value of the header: the authority of the URL.
    pub fn new(host: impl Into<String>, credentials: Option<Credentials>) -> Signer {
        let credentials = credentials.map(|given| {
            let user = User::root(given.access_key.clone(), given.secret_key.clone(), "");
            (given, user)
        });
        Signer {
            host: host.into(),
            credentials,
            second: u64::MAX,
            time: String::new(),
            scope: String::new(),
            key: [0; 32],
            canonical: Vec::with_capacity(1024),
        }
    }

    /// Appends the head of `request`, sent at `unix_ms`, with its final empty line.
    pub fn write(&mut self, out: &mut String, request: &Request<'_>, unix_ms: u64) {
        out.push_str(request.method);
        out.push(' ');
        out.push_str(request.path);
        for (at, (name, value)) in request.query.iter().enumerate() {
            out.push(if at == 0 { '?' } else { '&' });
            out.push_str(name);
            out.push('=');
            out.push_str(value);
        }
        out.push_str(" HTTP/1.1\r\nHost: ");
        out.push_str(&self.host);
        // Writing to a string cannot fail, here and below.
        if let Some(length) = request.content_length {
            let _ = write!(out, "\r\nContent-Length: {length}");
        }
        if let Some(crc32c) = request.crc32c {
            let _ = write!(out, "\r\nx-amz-checksum-crc32c: {crc32c}");
        }
        if self.credentials.is_some() {
            self.sign(out, request, unix_ms);
        }
        out.push_str("\r\n\r\n");
    }

    fn sign(&mut self, out: &mut String, request: &Request<'_>, unix_ms: u64) {
        let Some((credentials, user)) = &self.credentials else {
            return;
        };
        if self.second != unix_ms / 1000 {
            self.second = unix_ms / 1000;
            self.time = date::basic(unix_ms);
            let day = &self.time[..8];
            self.scope = format!("{day}/{}/s3/aws4_request", credentials.region);
            let day = day.as_bytes().try_into().expect("8 digits");
            self.key = user.signing_key(day, &credentials.region);
        }
        let all = [
            ("host", Some(self.host.as_str())),
            ("x-amz-checksum-crc32c", request.crc32c),
            ("x-amz-content-sha256", Some(request.content_sha256)),
            ("x-amz-date", Some(self.time.as_str())),
        ];
        let signed_headers = match request.crc32c {
            None => "host;x-amz-content-sha256;x-amz-date",
            Some(_) => "host;x-amz-checksum-crc32c;x-amz-content-sha256;x-amz-date",
        };
        self.canonical.clear();
        Canonical {
            method: request.method.as_bytes(),
            path: request.path.as_bytes(),
            query: request.query.iter().copied(),
            fields: all
                .iter()
                .filter_map(|&(name, value)| Some((name, std::iter::once(value?.as_bytes())))),
            signed_headers,
            declared: request.content_sha256.as_bytes(),
        }
        .write(&mut self.canonical);
        let (_, signature) = signature(&self.key, &self.time, &self.scope, &self.canonical);
        let _ = write!(
            out,
            "\r\nx-amz-content-sha256: {}\r\nx-amz-date: {}\r\nAuthorization: {ALGORITHM} \
             Credential={}/{}, SignedHeaders={signed_headers}, Signature={signature}",
            request.content_sha256, self.time, credentials.access_key, self.scope
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Head;
    use crate::http::target::Query;
    use crate::s3::sigv4::{EMPTY_SHA256, authenticate};
    use crate::s3::users::Users;

    const NOW: u64 = 1_369_353_600;

    #[test]
    fn the_server_accepts_what_is_signed_here() {
        let users = Users::new("eu-test-1", [User::root("AKID", "secret", "id")]);
        let credentials = Credentials {
            access_key: "AKID".into(),
            secret_key: "secret".into(),
            region: "eu-test-1".into(),
        };
        let mut signer = Signer::new("127.0.0.1:9000", Some(credentials));
        let request = |crc32c, query, content_sha256| Request {
            method: "PUT",
            path: "/bucket/some/key",
            query,
            content_sha256,
            crc32c,
            content_length: Some(5),
        };
        for (request, ms) in [
            (request(None, &[], UNSIGNED), NOW * 1000),
            (
                request(Some("AAAAAA=="), &[], EMPTY_SHA256),
                NOW * 1000 + 999,
            ),
            (
                request(
                    None,
                    &[("partNumber", "1"), ("uploadId", "a%2Fb")],
                    UNSIGNED,
                ),
                NOW * 1000 + 1000,
            ),
        ] {
            let mut text = String::new();
            signer.write(&mut text, &request, ms);
            let (head, _) = Head::take(text.as_bytes(), &mut 0).unwrap().unwrap();
            let query = Query::parse(head.raw_query()).unwrap();
            authenticate(&head, &query, &users, NOW as i64).unwrap();
        }
    }

    #[test]
    fn without_credentials_nothing_is_signed() {
        let mut text = String::new();
        let request = Request {
            method: "GET",
            path: "/b/k",
            query: &[],
            content_sha256: EMPTY_SHA256,
            crc32c: None,
            content_length: None,
        };
        Signer::new("h", None).write(&mut text, &request, 0);
        assert_eq!(text, "GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n");
    }
}
