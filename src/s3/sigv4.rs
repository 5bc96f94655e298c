//! AWS Signature Version 4: who sent this request, and what they promised about its body.
//!
//! Rules, each of which was a hole in some server when it was missing:
//! - One path: a request is authenticated in the header or in the query, never in both, and every
//!   form that is not known is refused.
//! - The signature covers the raw path (or the same path with slashes for its `%2F`s, which names the
//!   same key: what signs a slash may send it escaped), the whole query, `host`, and *every* `x-amz-*` header that
//!   was sent. An unsigned one is refused, so that nobody adds `x-amz-copy-source` to a presigned
//!   request.
//! - `x-amz-content-sha256` has one of five known shapes; another one is refused.
//! - Comparisons take the same time wherever the difference is.
//!
//! Sources: "Signature Calculations for the Authorization Header: Transferring Payload in a Single
//! Chunk", "... in Multiple Chunks", "... Including Trailing Headers", "Authenticating Requests:
//! Using Query Parameters" (Amazon S3 API Reference). Time comes in as an argument.

use crate::http::date;
use crate::http::head::{Head, Method};
use crate::http::target::{ENCODED, Query};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::users::{Day, User, Users, hmac};
use sha2::{Digest, Sha256};
use std::rc::Rc;
use subtle::ConstantTimeEq;

/// How far a client's clock may be off.
pub const SKEW_SECONDS_MAX: i64 = 15 * 60;

/// Longest life of a presigned request: 7 days.
pub const EXPIRES_SECONDS_MAX: i64 = 7 * 24 * 60 * 60;

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Signatures by elliptic curves, for several regions at once.
const ALGORITHM_4A: &str = "AWS4-ECDSA-P256-SHA256";

/// SHA-256 of nothing, which chunk signatures contain, and requests without a body.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What the client says about its body, under its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Sha256([u8; 32]),
    Unsigned,
    /// aws-chunked, each chunk signed.
    SignedChunks,
    /// aws-chunked, each chunk signed, with signed trailers.
    SignedChunksTrailer,
    /// aws-chunked without chunk signatures, with trailers.
    UnsignedChunksTrailer,
}

impl Payload {
    pub fn is_chunked(&self) -> bool {
        !matches!(self, Self::Sha256(_) | Self::Unsigned)
    }
}

/// A request that is what its sender signed.
#[derive(Debug)]
pub struct Authenticated {
    pub user: Rc<User>,
    pub payload: Payload,
    /// Continues the signature over the chunks of the body.
    pub chunks: ChunkSigner,
    /// Authenticated by its query.
    pub presigned: bool,
}

/// What either form of authentication says, before it is believed.
struct Claim<'a> {
    access_key: &'a str,
    /// `yyyymmdd/region/s3/aws4_request`
    scope: &'a str,
    day: Day,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed_headers: &'a str,
    signature: &'a [u8],
    /// `yyyymmddThhmmssZ`
    time: String,
}

/// Authenticates `head`, whose decoded query is `query`, at `now` (seconds since 1970).
pub fn authenticate(
    head: &Head,
    query: &Query<'_>,
    users: &Users,
    now: i64,
) -> S3Result<Authenticated> {
    let in_header = head.single("authorization")?;
    let in_query = query.has("X-Amz-Algorithm") || query.has("X-Amz-Signature");
    match (in_header, in_query) {
        (Some(_), true) => Err(S3Error::new(
            Code::InvalidArgument,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, or the \
             Authorization header should be specified.",
        )),
        (Some(field), false) => by_header(head, query, users, now, field),
        (None, true) => by_query(head, query, users, now),
        (None, false) if query.has("AWSAccessKeyId") => Err(version_2()),
        (None, false) if is_form(head) => Err(S3Error::not_implemented(
            "Uploads by POST of a form (multipart/form-data) are not implemented. Please use PUT.",
        )),
        (None, false) => Err(Code::AccessDenied.into()),
    }
}

/// In the words of AWS where it has stopped to take them: old clients look for these.
fn version_2() -> S3Error {
    S3Error::new(
        Code::InvalidRequest,
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )
}

fn version_4a() -> S3Error {
    S3Error::new(
        Code::InvalidRequest,
        "Signature Version 4A (AWS4-ECDSA-P256-SHA256) is not supported. Please use AWS4-HMAC-SHA256.",
    )
}

/// A browser's upload carries its signature among the fields of the form.
fn is_form(head: &Head) -> bool {
    const FORM: &[u8] = b"multipart/form-data";
    let kind = head
        .first("content-type")
        .and_then(|kind| kind.get(..FORM.len()));
    head.method == Method::Post && kind.is_some_and(|kind| kind.eq_ignore_ascii_case(FORM))
}

fn by_header(
    head: &Head,
    query: &Query<'_>,
    users: &Users,
    now: i64,
    field: &[u8],
) -> S3Result<Authenticated> {
    let malformed = || S3Error::from(Code::AuthorizationHeaderMalformed);
    let text = std::str::from_utf8(field).map_err(|_| malformed())?;
    let parameters = match text.split_once(' ') {
        Some((ALGORITHM, parameters)) => parameters,
        Some((ALGORITHM_4A, _)) => return Err(version_4a()),
        Some(("AWS", _)) => return Err(version_2()),
        _ => {
            return Err(S3Error::new(
                Code::InvalidArgument,
                "Unsupported Authorization Type. Please use AWS4-HMAC-SHA256.",
            )
            .with("ArgumentName", "Authorization"));
        }
    };
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for parameter in parameters.split(',') {
        let (name, value) = parameter.trim().split_once('=').ok_or_else(malformed)?;
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => return Err(malformed()),
        };
        if slot.replace(value).is_some() {
            return Err(malformed());
        }
    }
    let (Some(credential), Some(signed_headers), Some(signature)) =
        (credential, signed_headers, signature)
    else {
        return Err(malformed());
    };
    refuse_session_tokens(head, query)?;
    let time = request_time(head)?;
    let claim =
        Claim::new(credential, signed_headers, signature.as_bytes(), time).ok_or_else(malformed)?;
    claim.check_scope(users, Code::AuthorizationHeaderMalformed)?;
    let seconds = date::parse_basic(&claim.time).ok_or_else(malformed)?;
    if (now - seconds).abs() > SKEW_SECONDS_MAX {
        return Err(S3Error::from(Code::RequestTimeTooSkewed)
            .with("RequestTime", claim.time.clone())
            .with(
                "ServerTime",
                date::iso(u64::try_from(now).unwrap_or(0) * 1000),
            )
            .with(
                "MaxAllowedSkewMilliseconds",
                (SKEW_SECONDS_MAX * 1000).to_string(),
            ));
    }
    let declared = head.single("x-amz-content-sha256")?.ok_or_else(|| {
        S3Error::new(
            Code::InvalidRequest,
            "Missing required header for this request: x-amz-content-sha256",
        )
    })?;
    let payload = parse_payload(declared)?;
    claim.verify(head, query, users, declared, payload, false)
}

fn by_query(head: &Head, query: &Query<'_>, users: &Users, now: i64) -> S3Result<Authenticated> {
    let malformed =
        |message: &'static str| S3Error::new(Code::AuthorizationQueryParametersError, message);
    let single = |name: &str| -> S3Result<Option<&str>> {
        let mut values = query.pairs().filter(|(found, _)| *found == name.as_bytes());
        let first = values
            .next()
            .map(|(_, value)| std::str::from_utf8(value))
            .transpose();
        match (first, values.next()) {
            (Ok(value), None) => Ok(value),
            _ => Err(malformed(
                "A query parameter of the signature is malformed or repeated.",
            )),
        }
    };
    let required = |name: &str| {
        single(name)?.ok_or_else(|| {
            malformed(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                 X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                 X-Amz-Expires parameters.",
            )
        })
    };
    let algorithm = required("X-Amz-Algorithm")?;
    if algorithm == ALGORITHM_4A {
        return Err(version_4a());
    }
    let credential = required("X-Amz-Credential")?;
    let time = required("X-Amz-Date")?;
    let expires = required("X-Amz-Expires")?;
    let signed_headers = required("X-Amz-SignedHeaders")?;
    let signature = required("X-Amz-Signature")?;
    if algorithm != ALGORITHM {
        return Err(malformed(
            "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\".",
        ));
    }
    refuse_session_tokens(head, query)?;
    let expires = (expires.len() <= 7 && expires.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| expires.parse::<i64>().ok())
        .flatten()
        .ok_or_else(|| malformed("X-Amz-Expires should be a number."))?;
    if expires > EXPIRES_SECONDS_MAX {
        return Err(malformed(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires \
             must be less than 604800 seconds.",
        ));
    }
    let seconds = date::parse_basic(time).ok_or_else(|| {
        malformed("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\".")
    })?;
    let claim = Claim::new(
        credential,
        signed_headers,
        signature.as_bytes(),
        time.to_owned(),
    )
    .ok_or_else(|| malformed("Error parsing the X-Amz-Credential parameter."))?;
    claim.check_scope(users, Code::AuthorizationQueryParametersError)?;
    if seconds - now > SKEW_SECONDS_MAX {
        return Err(S3Error::new(
            Code::AccessDenied,
            "Request is not valid yet.",
        ));
    }
    if now - seconds > expires {
        return Err(S3Error::new(Code::AccessDenied, "Request has expired.")
            .with("X-Amz-Expires", expires.to_string())
            .with(
                "Expires",
                date::iso(u64::try_from(seconds + expires).unwrap_or(0) * 1000),
            )
            .with(
                "ServerTime",
                date::iso(u64::try_from(now).unwrap_or(0) * 1000),
            ));
    }
    let declared = match (
        query.get("X-Amz-Content-Sha256"),
        head.single("x-amz-content-sha256")?,
    ) {
        (Some(_), Some(_)) => {
            return Err(malformed(
                "X-Amz-Content-Sha256 is given in the query and in a header.",
            ));
        }
        (Some(value), None) | (None, Some(value)) => value,
        (None, None) => b"UNSIGNED-PAYLOAD",
    };
    let payload = parse_payload(declared)?;
    if payload.is_chunked() {
        return Err(S3Error::not_implemented(
            "aws-chunked bodies of presigned requests",
        ));
    }
    claim.verify(head, query, users, declared, payload, true)
}

/// Session tokens belong to temporary credentials, which this store does not issue.
fn refuse_session_tokens(head: &Head, query: &Query<'_>) -> S3Result<()> {
    if head.first("x-amz-security-token").is_some() || query.has("X-Amz-Security-Token") {
        return Err(S3Error::new(
            Code::InvalidToken,
            "Session tokens (x-amz-security-token) are not supported: this store issues no temporary credentials.",
        ));
    }
    Ok(())
}

/// The time of a request signed in its header: `x-amz-date`, or else `Date`.
fn request_time(head: &Head) -> S3Result<String> {
    let missing = || {
        S3Error::new(
            Code::AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header",
        )
    };
    let text = |value| std::str::from_utf8(value).map_err(|_| missing());
    if let Some(value) = head.single("x-amz-date")? {
        let value = text(value)?;
        date::parse_basic(value).ok_or_else(missing)?;
        return Ok(value.to_owned());
    }
    let value = text(head.single("date")?.ok_or_else(missing)?)?;
    let seconds = date::parse_basic(value)
        .or_else(|| date::parse_http(value))
        .ok_or_else(missing)?;
    Ok(date::basic(
        u64::try_from(seconds).map_err(|_| missing())? * 1000,
    ))
}

fn parse_payload(declared: &[u8]) -> S3Result<Payload> {
    match declared {
        b"UNSIGNED-PAYLOAD" => Ok(Payload::Unsigned),
        b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Payload::SignedChunks),
        b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Payload::SignedChunksTrailer),
        b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Payload::UnsignedChunksTrailer),
        _ => match parse_hex32(declared) {
            Some(hash) => Ok(Payload::Sha256(hash)),
            None => Err(S3Error::invalid_argument(
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
                 STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, \
                 STREAMING-UNSIGNED-PAYLOAD-TRAILER or a valid sha256 value.",
                "x-amz-content-sha256",
            )),
        },
    }
}

impl<'a> Claim<'a> {
    fn new(
        credential: &'a str,
        signed_headers: &'a str,
        signature: &'a [u8],
        time: String,
    ) -> Option<Self> {
        // An access key may contain slashes; the four parts of the scope may not.
        let mut parts = credential.rsplitn(5, '/');
        let (terminator, service) = (parts.next()?, parts.next()?);
        let (region, day) = (parts.next()?, parts.next()?);
        let access_key = parts.next()?;
        Some(Self {
            access_key,
            scope: &credential[access_key.len() + 1..],
            day: day.as_bytes().try_into().ok()?,
            region,
            service,
            terminator,
            signed_headers,
            signature,
            time,
        })
    }

    /// Day, region, service and terminator are the ones that this store signs with.
    fn check_scope(&self, users: &Users, code: Code) -> S3Result<()> {
        if self.region != users.region() {
            let message = format!(
                "The region '{}' is wrong; expecting '{}'",
                self.region,
                users.region()
            );
            // The header tells it to HEAD too, whose answers have no document.
            return Err(S3Error::new(code, message)
                .with("Region", users.region())
                .in_region(users.region()));
        }
        let message = if self.service != "s3" {
            "The credential is not for the service 's3'."
        } else if self.terminator != "aws4_request" {
            "The credential must end in 'aws4_request'."
        } else if self.time.as_bytes().get(..8) != Some(&self.day[..]) {
            "The date of the credential is not the date of the request."
        } else {
            return Ok(());
        };
        Err(S3Error::new(code, message))
    }

    fn verify(
        self,
        head: &Head,
        query: &Query<'_>,
        users: &Users,
        declared: &[u8],
        payload: Payload,
        presigned: bool,
    ) -> S3Result<Authenticated> {
        let user = users
            .by_access_key(self.access_key)
            .ok_or_else(|| S3Error::from(Code::InvalidAccessKeyId))?;
        self.check_signed_headers(head)?;
        let key = user.signing_key(&self.day, users.region());
        let signed = |path: &[u8]| {
            let names = self.signed_headers;
            let canonical = canonical_request(head, path, query, names, declared, presigned);
            let (text, expected) = signature(&key, &self.time, self.scope, &canonical);
            let agrees = bool::from(expected.as_bytes().ct_eq(self.signature));
            (agrees, expected, text, canonical)
        };
        let (mut agrees, mut expected, text, canonical) = signed(head.raw_path());
        if !agrees && let Some(path) = with_slashes(head.raw_path()) {
            (agrees, expected, ..) = signed(&path);
        }
        if !agrees {
            return Err(S3Error::from(Code::SignatureDoesNotMatch)
                .with("AWSAccessKeyId", self.access_key)
                .with("StringToSign", text)
                .with(
                    "CanonicalRequest",
                    String::from_utf8_lossy(&canonical).into_owned(),
                ));
        }
        Ok(Authenticated {
            user: Rc::clone(user),
            payload,
            chunks: ChunkSigner {
                key,
                time_and_scope: format!("{}\n{}", self.time, self.scope),
                previous: expected,
            },
            presigned,
        })
    }

    /// `host` and every `x-amz-*` header that was sent must be signed, and the list must be one
    /// that a signer could have written: lower case, sorted, without repetition.
    fn check_signed_headers(&self, head: &Head) -> S3Result<()> {
        let names: Vec<&str> = self.signed_headers.split(';').collect();
        if !names.windows(2).all(|two| two[0] < two[1]) {
            return Err(S3Error::new(
                Code::AuthorizationHeaderMalformed,
                "SignedHeaders must be lower case, sorted and without repetition.",
            ));
        }
        let signed = |name: &str| names.binary_search(&name).is_ok();
        let unsigned = head
            .fields()
            .map(|(name, _)| name)
            .find(|name| (*name == "host" || name.starts_with("x-amz-")) && !signed(name));
        match unsigned {
            Some(name) => Err(S3Error::new(
                Code::AccessDenied,
                "There were headers present in the request which were not signed",
            )
            .with("HeadersNotSigned", name)),
            None if !signed("host") => Err(S3Error::new(
                Code::AccessDenied,
                "There were headers present in the request which were not signed",
            )
            .with("HeadersNotSigned", "host")),
            None => Ok(()),
        }
    }
}

/// `path` with slashes where it has escaped ones; `None` if it has none.
///
/// The SDK for Java signs `//`, and sends `/%2F` because of its HTTP client. AWS does not mind.
fn with_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'2', b'F' | b'f', after @ ..] => (b'/', after),
            _ => (byte, after),
        };
        out.push(byte);
        rest = after;
    }
    (out.len() < path.len()).then_some(out)
}

/// The canonical request of `head`.
fn canonical_request(
    head: &Head,
    path: &[u8],
    query: &Query<'_>,
    signed_headers: &str,
    declared: &[u8],
    presigned: bool,
) -> Vec<u8> {
    let encode = |part: &[u8]| percent_encoding::percent_encode(part, ENCODED).to_string();
    let mut pairs: Vec<(String, String)> = query
        .pairs()
        .filter(|(name, _)| !(presigned && *name == b"X-Amz-Signature"))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort_unstable();
    let mut out = Vec::with_capacity(1024);
    Canonical {
        method: head.method_token(),
        path,
        query: pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
        fields: signed_headers.split(';').map(|name| (name, head.all(name))),
        signed_headers,
        declared,
    }
    .write(&mut out);
    out
}

/// The bytes whose hash is signed, for who checks a signature and for who makes one.
pub struct Canonical<'a, Pairs, Fields> {
    pub method: &'a [u8],
    /// As it is sent.
    pub path: &'a [u8],
    /// Names and values, escaped by [`ENCODED`] and sorted.
    pub query: Pairs,
    /// The signed headers in the order of `signed_headers`, each with all its values.
    pub fields: Fields,
    /// Names in lower case, sorted, joined by `;`.
    pub signed_headers: &'a str,
    /// The value of `x-amz-content-sha256`.
    pub declared: &'a [u8],
}

impl<'a, Pairs, Fields, Values> Canonical<'a, Pairs, Fields>
where
    Pairs: Iterator<Item = (&'a str, &'a str)>,
    Fields: Iterator<Item = (&'a str, Values)>,
    Values: Iterator<Item = &'a [u8]>,
{
    /// Appends to `out`.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method);
        out.push(b'\n');
        out.extend_from_slice(self.path);
        out.push(b'\n');
        for (at, (name, value)) in self.query.enumerate() {
            if at > 0 {
                out.push(b'&');
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'\n');
        for (name, values) in self.fields {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            for (at, value) in values.enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                push_collapsed(out, value);
            }
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(self.signed_headers.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(self.declared);
    }
}

/// The string to sign of a canonical request, and its signature in hexadecimal. `time` is
/// `yyyymmddThhmmssZ`, `scope` is `yyyymmdd/region/s3/aws4_request`, and `key` is of that scope.
pub fn signature(key: &[u8; 32], time: &str, scope: &str, canonical: &[u8]) -> (String, String) {
    let hash = hex(&Sha256::digest(canonical).into());
    let text = format!("{ALGORITHM}\n{time}\n{scope}\n{hash}");
    let signature = hex(&hmac(key, text.as_bytes()));
    (text, signature)
}

/// Runs of spaces become one.
fn push_collapsed(out: &mut Vec<u8>, value: &[u8]) {
    let mut before = 0;
    for &byte in value {
        if !(byte == b' ' && before == b' ') {
            out.push(byte);
        }
        before = byte;
    }
}

/// Carries the chain of signatures from the head over the chunks to the trailers.
#[derive(Clone)]
pub struct ChunkSigner {
    key: [u8; 32],
    time_and_scope: String,
    previous: String,
}

impl std::fmt::Debug for ChunkSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkSigner").finish_non_exhaustive()
    }
}

impl ChunkSigner {
    /// Whether `signature` is that of the next chunk, whose payload hashes to `sha256`.
    pub fn chunk(&mut self, sha256: &[u8; 32], signature: &[u8; 64]) -> bool {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{EMPTY_SHA256}\n{}",
            self.time_and_scope,
            self.previous,
            hex(sha256)
        );
        self.step(&text, signature)
    }

    /// Whether `signature` is that of the trailers, `name:value\n` each, hashing to `sha256`.
    pub fn trailer(&mut self, sha256: &[u8; 32], signature: &[u8; 64]) -> bool {
        let text = format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{}",
            self.time_and_scope,
            self.previous,
            hex(sha256)
        );
        self.step(&text, signature)
    }

    fn step(&mut self, text: &str, signature: &[u8; 64]) -> bool {
        self.previous = hex(&hmac(&self.key, text.as_bytes()));
        self.previous.as_bytes().ct_eq(signature).into()
    }
}

pub fn hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn parse_hex32(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, two) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |value: u8| char::from(value).to_digit(16);
        *byte = (digit(two[0])? << 4 | digit(two[1])?) as u8;
    }
    Some(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2013-05-24T00:00:00Z, the time of the examples in the S3 API Reference.
    pub const EXAMPLE_TIME: i64 = 1_369_353_600;

    /// The credentials of those examples.
    pub fn example_users() -> Users {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        Users::new(
            "us-east-1",
            [User::root("AKIAIOSFODNN7EXAMPLE", secret, "root-id")],
        )
    }

    pub fn head(text: &str) -> Head {
        let text = format!("{}\r\n\r\n", text.replace('\n', "\r\n"));
        let mut scanned = 0;
        Head::take(text.as_bytes(), &mut scanned)
            .expect("a head")
            .expect("a whole head")
            .0
    }

    fn sign_head(
        head: &Head,
        names: &str,
        access_key: &str,
        secret: &str,
        region: &str,
        time: &str,
        presigned: bool,
    ) -> (String, String) {
        let scope = format!("{}/{region}/s3/aws4_request", &time[..8]);
        let query = Query::parse(head.raw_query()).expect("a query");
        let declared = head
            .first("x-amz-content-sha256")
            .unwrap_or(b"UNSIGNED-PAYLOAD");
        let path = head.raw_path();
        let canonical = canonical_request(head, path, &query, names, declared, presigned);
        let key = User::root(access_key, secret, "id")
            .signing_key(time.as_bytes()[..8].try_into().expect("a day"), region);
        let (_, signature) = signature(&key, time, &scope, &canonical);
        (scope, signature)
    }

    /// Signs a head that has no final empty line yet: all that must be signed, and closes it.
    pub fn sign(text: &str, access_key: &str, secret: &str, region: &str) -> String {
        let mut scanned = 0;
        let whole = format!("{text}\r\n");
        let (head, _) = Head::take(whole.as_bytes(), &mut scanned)
            .expect("a head")
            .expect("whole");
        let mut names: Vec<&str> = head
            .fields()
            .map(|(name, _)| name)
            .filter(|name| *name == "host" || name.starts_with("x-amz-"))
            .collect();
        names.sort_unstable();
        names.dedup();
        let names = names.join(";");
        let time = String::from_utf8(head.first("x-amz-date").expect("a date").to_vec()).unwrap();
        let (scope, signature) = sign_head(&head, &names, access_key, secret, region, &time, false);
        format!(
            "{text}Authorization: {ALGORITHM} Credential={access_key}/{scope}, \
             SignedHeaders={names}, Signature={signature}\r\n\r\n"
        )
    }

    /// A presigned target, for the host 127.0.0.1 and one hour.
    pub fn presign(
        method: &str,
        target: &str,
        access_key: &str,
        secret: &str,
        region: &str,
        unix_ms: u64,
    ) -> String {
        let time = date::basic(unix_ms);
        let mark = if target.contains('?') { '&' } else { '?' };
        let target = format!(
            "{target}{mark}X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={access_key}%2F{}%2F{region}\
             %2Fs3%2Faws4_request&X-Amz-Date={time}&X-Amz-Expires=3600&X-Amz-SignedHeaders=host",
            &time[..8]
        );
        let head = head(&format!("{method} {target} HTTP/1.1\nHost: 127.0.0.1"));
        let (_, signature) = sign_head(&head, "host", access_key, secret, region, &time, true);
        format!("{target}&X-Amz-Signature={signature}")
    }

    fn check(text: &str, now: i64) -> Result<Payload, Code> {
        let head = head(text);
        let query = Query::parse(head.raw_query()).expect("a query");
        authenticate(&head, &query, &example_users(), now)
            .map(|found| found.payload)
            .map_err(|error| error.code)
    }

    const CREDENTIAL: &str =
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

    fn get_object() -> String {
        format!(
            "GET /test.txt HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\nRange: bytes=0-9\n\
             x-amz-content-sha256: {EMPTY_SHA256}\nx-amz-date: 20130524T000000Z\n\
             Authorization: {CREDENTIAL},SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        )
    }

    const PRESIGNED: &str = "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=\
        AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=\
        20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=\
        aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\n\
        Host: examplebucket.s3.amazonaws.com";

    #[test]
    fn the_published_examples_pass() {
        let empty = Ok(Payload::Sha256(
            parse_hex32(EMPTY_SHA256.as_bytes()).unwrap(),
        ));
        assert_eq!(check(&get_object(), EXAMPLE_TIME), empty);

        let put = format!(
            "PUT /test%24file.text HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\n\
             Date: Fri, 24 May 2013 00:00:00 GMT\nx-amz-date: 20130524T000000Z\n\
             x-amz-storage-class: REDUCED_REDUNDANCY\nx-amz-content-sha256: \
             44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\nContent-Length: 11\n\
             Authorization: {CREDENTIAL}, SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;\
             x-amz-storage-class, Signature=\
             98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert!(matches!(check(&put, EXAMPLE_TIME), Ok(Payload::Sha256(_))));

        for (query, signature) in [
            (
                "lifecycle",
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "max-keys=2&prefix=J",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
            (
                "prefix=J&max-keys=2",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let get = format!(
                "GET /?{query} HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\n\
                 x-amz-date: 20130524T000000Z\nx-amz-content-sha256: {EMPTY_SHA256}\n\
                 Authorization: {CREDENTIAL},SignedHeaders=host;x-amz-content-sha256;x-amz-date,\
                 Signature={signature}"
            );
            assert_eq!(check(&get, EXAMPLE_TIME), empty, "{query}");
        }

        assert_eq!(check(PRESIGNED, EXAMPLE_TIME), Ok(Payload::Unsigned));
    }

    #[test]
    fn a_changed_request_is_refused() {
        let good = get_object();
        let cases = [
            (
                "GET /test.txt",
                "GET /test.txu",
                Code::SignatureDoesNotMatch,
            ),
            (
                "GET /test.txt",
                "GET /%74est.txt",
                Code::SignatureDoesNotMatch,
            ),
            (
                "GET /test.txt",
                "PUT /test.txt",
                Code::SignatureDoesNotMatch,
            ),
            (
                "GET /test.txt",
                "GET /test.txt?acl",
                Code::SignatureDoesNotMatch,
            ),
            ("bytes=0-9", "bytes=0-8", Code::SignatureDoesNotMatch),
            (
                "examplebucket.s3",
                "otherbucket.s3",
                Code::SignatureDoesNotMatch,
            ),
            ("6bdb41", "6bdb42", Code::SignatureDoesNotMatch),
            ("6bdb41", "6bdb4", Code::SignatureDoesNotMatch),
            ("6bdb41", "6BDB41", Code::SignatureDoesNotMatch),
            ("e3b0c442", "e3b0c443", Code::SignatureDoesNotMatch),
            ("Host:", "x-amz-acl: private\nHost:", Code::AccessDenied),
            ("Host:", "x-amz-meta-a: b\nHost:", Code::AccessDenied),
            ("host;range", "range", Code::AccessDenied),
            (
                "host;range",
                "range;host",
                Code::AuthorizationHeaderMalformed,
            ),
            (
                "host;range",
                "host;host;range",
                Code::AuthorizationHeaderMalformed,
            ),
            (
                "x-amz-content-sha256;x-amz-date",
                "x-amz-date",
                Code::AccessDenied,
            ),
            ("us-east-1", "us-east-2", Code::AuthorizationHeaderMalformed),
            ("/s3/", "/ec2/", Code::AuthorizationHeaderMalformed),
            (
                "aws4_request",
                "aws5_request",
                Code::AuthorizationHeaderMalformed,
            ),
            (
                "/20130524/",
                "/20130525/",
                Code::AuthorizationHeaderMalformed,
            ),
            ("/20130524/", "/", Code::AuthorizationHeaderMalformed),
            (
                "Credential=AKIA",
                "Credential=BKIA",
                Code::InvalidAccessKeyId,
            ),
            (
                ",Signature",
                ",Signature=a,Signature",
                Code::AuthorizationHeaderMalformed,
            ),
            (
                ",Signature",
                ",Other=a,Signature",
                Code::AuthorizationHeaderMalformed,
            ),
            (
                ",SignedHeaders",
                ",Signed",
                Code::AuthorizationHeaderMalformed,
            ),
            (
                "AWS4-HMAC-SHA256 ",
                "AWS4-ECDSA-P256-SHA256 ",
                Code::InvalidRequest,
            ),
            ("AWS4-HMAC-SHA256 ", "AWS ", Code::InvalidRequest),
            ("AWS4-HMAC-SHA256 ", "Bearer ", Code::InvalidArgument),
            (
                "AWS4-HMAC-SHA256 ",
                "AWS4-HMAC-SHA256,",
                Code::InvalidArgument,
            ),
            ("x-amz-date: 2", "x-amz-dat: 2", Code::AccessDenied),
            (
                "x-amz-date: 20130524T",
                "x-amz-date: 20130524",
                Code::AccessDenied,
            ),
            (
                "x-amz-content-sha256: e",
                "x-amz-content-sha256: g",
                Code::InvalidArgument,
            ),
            (
                "Host:",
                "x-amz-security-token: t\nHost:",
                Code::InvalidToken,
            ),
            (
                "Host:",
                "x-amz-date: 20130524T000000Z\nHost:",
                Code::InvalidRequest,
            ),
            (
                "Host:",
                "Authorization: AWS4-HMAC-SHA256 a\nHost:",
                Code::InvalidRequest,
            ),
        ];
        for (from, to, code) in cases {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from:?}");
            assert_eq!(check(&text, EXAMPLE_TIME), Err(code), "{from:?} -> {to:?}");
        }
        let anonymous = "GET /test.txt HTTP/1.1\nHost: h";
        assert_eq!(check(anonymous, EXAMPLE_TIME), Err(Code::AccessDenied));
        let old = "GET /test.txt?AWSAccessKeyId=a&Signature=b&Expires=1 HTTP/1.1\nHost: h";
        assert_eq!(check(old, EXAMPLE_TIME), Err(Code::InvalidRequest));
    }

    #[test]
    fn a_changed_presigned_request_is_refused() {
        let cases = [
            ("test.txt", "test.txu", Code::SignatureDoesNotMatch),
            (
                "HTTP/1.1\n",
                "HTTP/1.1\nx-amz-copy-source: /b/k\n",
                Code::AccessDenied,
            ),
            (
                "HTTP/1.1\n",
                "HTTP/1.1\nx-amz-content-sha256: UNSIGNED-PAYLOAD\n",
                Code::AccessDenied,
            ),
            (
                "Expires=86400",
                "Expires=86401",
                Code::SignatureDoesNotMatch,
            ),
            (
                "Expires=86400",
                "Expires=604801",
                Code::AuthorizationQueryParametersError,
            ),
            (
                "Expires=86400",
                "Expires=-1",
                Code::AuthorizationQueryParametersError,
            ),
            (
                "X-Amz-Expires=86400&",
                "",
                Code::AuthorizationQueryParametersError,
            ),
            (
                "X-Amz-Date=",
                "X-Amz-Date=20130524T000000Z&X-Amz-Date=",
                Code::AuthorizationQueryParametersError,
            ),
            (
                "X-Amz-Signature=",
                "X-Amz-Signature=a&X-Amz-Signature=",
                Code::AuthorizationQueryParametersError,
            ),
            (
                "X-Amz-SignedHeaders=host",
                "X-Amz-SignedHeaders=",
                Code::AccessDenied,
            ),
            (
                "us-east-1",
                "us-west-1",
                Code::AuthorizationQueryParametersError,
            ),
            ("SHA256&", "SHA1&", Code::AuthorizationQueryParametersError),
            (
                "test.txt?",
                "test.txt?versionId=1&",
                Code::SignatureDoesNotMatch,
            ),
            (
                "HTTP/1.1\n",
                "HTTP/1.1\nAuthorization: AWS4-HMAC-SHA256 a=b\n",
                Code::InvalidArgument,
            ),
            (
                "test.txt?",
                "test.txt?X-Amz-Security-Token=a&",
                Code::InvalidToken,
            ),
            (
                "test.txt?",
                "test.txt?X-Amz-Content-Sha256=STREAMING-UNSIGNED-PAYLOAD-TRAILER&",
                Code::NotImplemented,
            ),
        ];
        for (from, to, code) in cases {
            let text = PRESIGNED.replacen(from, to, 1);
            assert_ne!(text, PRESIGNED, "{from:?}");
            assert_eq!(check(&text, EXAMPLE_TIME), Err(code), "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn time_limits_hold() {
        let get = get_object();
        assert!(check(&get, EXAMPLE_TIME + SKEW_SECONDS_MAX).is_ok());
        assert!(check(&get, EXAMPLE_TIME - SKEW_SECONDS_MAX).is_ok());
        for off in [SKEW_SECONDS_MAX + 1, -SKEW_SECONDS_MAX - 1] {
            assert_eq!(
                check(&get, EXAMPLE_TIME + off),
                Err(Code::RequestTimeTooSkewed)
            );
        }
        assert!(check(PRESIGNED, EXAMPLE_TIME + 86_400).is_ok());
        assert_eq!(
            check(PRESIGNED, EXAMPLE_TIME + 86_401),
            Err(Code::AccessDenied)
        );
        assert_eq!(
            check(PRESIGNED, EXAMPLE_TIME - 901),
            Err(Code::AccessDenied)
        );
    }

    #[test]
    fn an_escaped_slash_may_have_been_signed_as_a_slash() {
        let signed = |path: &str| {
            let text = format!(
                "GET {path} HTTP/1.1\r\nHost: h\r\nx-amz-date: 20130524T000000Z\r\n\
                 x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"
            );
            let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
            let text = sign(&text, "AKIAIOSFODNN7EXAMPLE", secret, "us-east-1");
            text.trim_end().replace('\r', "")
        };
        let sent = |signed_path: &str, path: &str| {
            let text = signed(signed_path).replacen(signed_path, path, 1);
            check(&text, EXAMPLE_TIME)
        };
        for (signed_path, path) in [
            ("/b//k", "/b/%2Fk"),
            ("/b//k", "/b%2F%2fk"),
            ("/b/%2Fk", "/b/%2Fk"),
        ] {
            assert_eq!(sent(signed_path, path), Ok(Payload::Unsigned), "{path}");
        }
        for (signed_path, path) in [
            ("/b/%2Fk", "/b//k"),
            ("/b/%252Fk", "/b/%2Fk"),
            ("/b//k", "/b/%252Fk"),
            ("/b/%6B", "/b/k"),
            ("/b//k", "/b/%2Fl"),
        ] {
            assert_eq!(
                sent(signed_path, path),
                Err(Code::SignatureDoesNotMatch),
                "{path}"
            );
        }
    }

    #[test]
    fn spaces_in_values_collapse() {
        let mut out = Vec::new();
        push_collapsed(&mut out, b"a   b  \"c  d\"");
        assert_eq!(out, b"a b \"c d\"");
    }

    proptest! {
        #[test]
        fn noise_is_refused_without_a_panic(noise in "[ -~]{0,200}", at in 0usize..400) {
            let good = get_object();
            let mut text = good.clone();
            text.insert_str(good.find("AWS4").unwrap() + at % 100, &noise);
            let text = format!("{}\r\n\r\n", text.replace('\n', "\r\n"));
            let mut scanned = 0;
            if let Ok(Some((head, _))) = Head::take(text.as_bytes(), &mut scanned) {
                let query = Query::parse(head.raw_query()).unwrap_or_default();
                let found = authenticate(&head, &query, &example_users(), EXAMPLE_TIME);
                prop_assert!(noise.trim().is_empty() || found.is_err());
            }
        }
    }
}
