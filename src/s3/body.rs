//! A request's body between the wire and the object: framing, coding and checks, without sockets.
//!
//! ```text
//! wire ── outer: Content-Length or chunked ── inner: identity or aws-chunked ── checks ── object
//! ```
//!
//! The decoder copies nothing. It says how many payload bytes come next
//! ([`Decoder::payload_ready`]), so that the caller may receive them straight into place, is shown
//! them there ([`Decoder::passed`]) and consumes what lies between ([`Decoder::framing`]).
//! Whatever the body, [`Decoder::finish`] succeeds only when all of it came, nothing more came, and
//! every promise about it holds.

use crate::http::chunked::Chunked;
use crate::http::head::{Framing, Head, parse_length};
use crate::md5::Md5;
use crate::object::BodyError;
use crate::object::checksum::{Algorithm, Checksum, Hasher};
use crate::s3::aws_chunked::AwsChunked;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::sigv4::{ChunkSigner, Payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

enum Outer {
    Length(u64),
    Chunked(Chunked),
}

impl Outer {
    /// Bytes of the inner coding that come next.
    fn ready(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(chunked) => chunked.payload_ready(),
        }
    }

    fn passed(&mut self, count: u64) {
        match self {
            Self::Length(left) => *left -= count,
            Self::Chunked(chunked) => chunked.passed(count),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
        }
    }
}

enum Inner {
    /// Payload bytes still to come.
    Identity(u64),
    AwsChunked(Box<AwsChunked>),
}

/// What the client promised about the decoded bytes, and what they came to.
#[derive(Default)]
struct Checks {
    sha256: Option<([u8; 32], Sha256)>,
    md5: Option<([u8; 16], Md5)>,
    /// From a header.
    expected: Option<Checksum>,
    /// A header or a trailer promises what `hasher` will find.
    promised: bool,
    hasher: Option<Hasher>,
}

/// What is known about a body before its head is read for it.
#[derive(Clone, Copy)]
pub struct Announced<'a> {
    pub payload: &'a Payload,
    pub presigned: bool,
    /// `x-amz-checksum-*` is the checksum of this body, and not of an object that is made from
    /// what came earlier.
    pub checksum_of_body: bool,
}

pub struct Decoder {
    outer: Outer,
    inner: Inner,
    length: u64,
    checks: Checks,
    /// Of the checksum that the client gives, or asks for.
    algorithm: Option<Algorithm>,
    checksum: Option<Checksum>,
}

impl Decoder {
    /// Reads from `head` how the body is framed, coded and checked.
    pub fn new(head: &Head, announced: Announced<'_>, signer: ChunkSigner) -> S3Result<Self> {
        let payload = announced.payload;
        let (outer, outer_length) = match head.framing {
            Framing::None => (Outer::Length(0), Some(0)),
            Framing::Length(length) => (Outer::Length(length), Some(length)),
            Framing::Chunked => (Outer::Chunked(Chunked::new()), None),
        };
        let decoded = head
            .single("x-amz-decoded-content-length")?
            .map(|value| parse_length(value).ok_or_else(|| S3Error::from(Code::InvalidArgument)))
            .transpose()?;
        let trailer = declared_trailer(head)?;
        let (length, inner) = match payload {
            Payload::Sha256(_) | Payload::Unsigned => {
                if trailer.is_some() || decoded.is_some() || is_aws_chunked(head) {
                    return Err(S3Error::new(
                        Code::InvalidRequest,
                        "x-amz-content-sha256 does not announce an aws-chunked body, other headers do.",
                    ));
                }
                let length =
                    outer_length.ok_or_else(|| S3Error::from(Code::MissingContentLength))?;
                (length, Inner::Identity(length))
            }
            Payload::SignedChunks
            | Payload::SignedChunksTrailer
            | Payload::UnsignedChunksTrailer => {
                let length = decoded.ok_or_else(|| S3Error::from(Code::MissingContentLength))?;
                if trailer.is_some() == (*payload == Payload::SignedChunks) {
                    return Err(S3Error::new(
                        Code::InvalidRequest,
                        "x-amz-trailer and x-amz-content-sha256 contradict each other.",
                    ));
                }
                let signer = (*payload != Payload::UnsignedChunksTrailer).then_some(signer);
                (
                    length,
                    Inner::AwsChunked(Box::new(AwsChunked::new(length, signer, trailer))),
                )
            }
        };
        let mut checks = Checks::default();
        if let Payload::Sha256(expected) = payload {
            checks.sha256 = Some((*expected, Sha256::new()));
        }
        if let Some(value) = head.single("content-md5")? {
            let expected = BASE64
                .decode(value)
                .ok()
                .and_then(|value| value.try_into().ok());
            let expected = expected.ok_or_else(|| S3Error::from(Code::InvalidDigest))?;
            checks.md5 = Some((expected, Md5::new()));
        }
        if announced.checksum_of_body {
            checks.expected = checksum_header(head)?;
        }
        if checks.expected.is_some() && trailer.is_some() {
            return Err(single_checksum());
        }
        let mut algorithm = checks
            .expected
            .map(|checksum| checksum.algorithm)
            .or(trailer);
        checks.promised = algorithm.is_some();
        if let Some(named) = head.single("x-amz-sdk-checksum-algorithm")? {
            let named = Algorithm::from_name(named).ok_or_else(|| {
                S3Error::not_implemented("this checksum algorithm is not implemented")
            })?;
            match algorithm {
                Some(given) if given == named => {}
                Some(_) => {
                    return Err(S3Error::new(
                        Code::InvalidRequest,
                        "Value for x-amz-sdk-checksum-algorithm header is invalid.",
                    ));
                }
                // Whoever presigns a request does not know its body, and asks for a checksum.
                None if announced.presigned => algorithm = Some(named),
                None => {
                    return Err(S3Error::new(
                        Code::InvalidRequest,
                        "x-amz-sdk-checksum-algorithm specified, but no corresponding \
                         x-amz-checksum-* or x-amz-trailer headers were found.",
                    ));
                }
            }
        }
        checks.hasher = algorithm.map(Hasher::new);
        Ok(Self {
            outer,
            inner,
            length,
            checks,
            algorithm,
            checksum: None,
        })
    }

    /// Decoded bytes of the body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The algorithm of the checksum that the client gives, or asks for.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// Has a checksum found where the client gives none. Before any payload has passed.
    pub fn compute(&mut self, algorithm: Algorithm) {
        if self.algorithm.is_none() {
            self.checks.hasher = Some(Hasher::new(algorithm));
        }
    }

    /// Payload bytes that come next on the wire, before any framing.
    pub fn payload_ready(&self) -> u64 {
        let inner = match &self.inner {
            Inner::Identity(left) => *left,
            Inner::AwsChunked(coding) => coding.payload_ready(),
        };
        inner.min(self.outer.ready())
    }

    /// `payload` has been taken from the wire, at most [`Self::payload_ready`] bytes.
    pub fn passed(&mut self, payload: &[u8]) -> Result<(), BodyError> {
        self.outer.passed(payload.len() as u64);
        if let Some((_, hash)) = &mut self.checks.sha256 {
            hash.update(payload);
        }
        if let Some((_, hash)) = &mut self.checks.md5 {
            hash.update(payload);
        }
        if let Some(hasher) = &mut self.checks.hasher {
            hasher.update(payload);
        }
        match &mut self.inner {
            Inner::Identity(left) => {
                *left -= payload.len() as u64;
                Ok(())
            }
            Inner::AwsChunked(coding) => coding.passed(payload),
        }
    }

    /// All bytes of the body have been taken from the wire.
    pub fn is_done(&self) -> bool {
        self.outer.is_done() && self.inner_done()
    }

    fn inner_done(&self) -> bool {
        match &self.inner {
            Inner::Identity(left) => *left == 0,
            Inner::AwsChunked(coding) => coding.is_done(),
        }
    }

    /// Consumes framing from the front of `input` until payload or the end comes; returns how much.
    /// Takes nothing only if payload is next or the body is done.
    pub fn framing(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let mut used = 0;
        while used < input.len() && self.payload_ready() == 0 && !self.is_done() {
            let rest = &input[used..];
            let ready = self.outer.ready();
            if ready == 0 {
                let Outer::Chunked(chunked) = &mut self.outer else {
                    return Err(BodyError::Incomplete);
                };
                if chunked.is_done() {
                    return Err(BodyError::Incomplete);
                }
                used += chunked.framing(rest)?;
                continue;
            }
            let rest = &rest[..usize::try_from(ready).unwrap_or(usize::MAX).min(rest.len())];
            match &mut self.inner {
                Inner::AwsChunked(coding) if !coding.is_done() => {
                    let taken = coding.framing(rest)?;
                    self.outer.passed(taken as u64);
                    used += taken;
                }
                _ => return Err(BodyError::Malformed("the body is longer than announced")),
            }
        }
        Ok(used)
    }

    /// Whether the wire can bring nothing more although the body is not complete.
    pub fn is_short(&self) -> bool {
        self.outer.is_done() && !self.inner_done()
    }

    /// Bytes still on the wire, where that is known: with `Content-Length`.
    pub fn wire_left(&self) -> Option<u64> {
        match self.outer {
            Outer::Length(left) => Some(left),
            Outer::Chunked(_) => None,
        }
    }

    /// Verifies the promises. Call once, when [`Self::is_done`].
    pub fn finish(&mut self) -> Result<(), BodyError> {
        if !self.is_done() {
            return Err(BodyError::Incomplete);
        }
        let checks = std::mem::take(&mut self.checks);
        if let Some((expected, hash)) = checks.sha256
            && <[u8; 32]>::from(hash.finalize()) != expected
        {
            return Err(BodyError::Sha256);
        }
        if let Some((expected, hash)) = checks.md5
            && hash.finish() != expected
        {
            return Err(BodyError::Md5);
        }
        if let Some(hasher) = checks.hasher {
            let expected = match &self.inner {
                Inner::AwsChunked(coding) => checks.expected.as_ref().or(coding.trailer()),
                Inner::Identity(_) => checks.expected.as_ref(),
            };
            let found = hasher.finish();
            if checks.promised && expected != Some(&found) {
                return Err(BodyError::Checksum(found.algorithm.name()));
            }
            self.checksum = Some(found);
        }
        Ok(())
    }

    /// After [`Self::finish`]: the checksum that the client gave and that was found to be true, or
    /// the one that was asked for.
    pub fn checksum(&self) -> Option<&Checksum> {
        self.checksum.as_ref()
    }
}

fn single_checksum() -> S3Error {
    S3Error::new(
        Code::InvalidRequest,
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
    )
}

/// The one trailer that `x-amz-trailer` declares.
fn declared_trailer(head: &Head) -> S3Result<Option<Algorithm>> {
    let Some(value) = head.single("x-amz-trailer")? else {
        return Ok(None);
    };
    let name = value.to_ascii_lowercase();
    let algorithm = std::str::from_utf8(&name)
        .ok()
        .and_then(Algorithm::from_header);
    match algorithm {
        Some(algorithm) => Ok(Some(algorithm)),
        None if name.starts_with(b"x-amz-checksum-") && !name.contains(&b',') => Err(
            S3Error::not_implemented("this trailing checksum is not implemented"),
        ),
        None => Err(S3Error::new(
            Code::InvalidRequest,
            "The value specified in the x-amz-trailer header is not supported",
        )),
    }
}

/// The checksum that a header promises.
fn checksum_header(head: &Head) -> S3Result<Option<Checksum>> {
    let mut found = None;
    for (name, value) in head.fields() {
        let Some(algorithm) = Algorithm::from_header(name) else {
            continue;
        };
        let value = Checksum::parse(algorithm, value).ok_or_else(|| {
            S3Error::new(
                Code::InvalidRequest,
                format!("Value for {name} header is invalid."),
            )
        })?;
        if found.replace(value).is_some() {
            return Err(single_checksum());
        }
    }
    Ok(found)
}

fn is_aws_chunked(head: &Head) -> bool {
    head.all("content-encoding")
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"aws-chunked"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::http::target::Query;
    use crate::s3::sigv4::authenticate;
    use crate::s3::sigv4::tests::{EXAMPLE_TIME, example_users, head};
    use proptest::prelude::*;

    /// Any signer: for bodies whose chunks are not signed.
    fn some_signer() -> ChunkSigner {
        let text = "GET /?lifecycle HTTP/1.1\nHost: examplebucket.s3.amazonaws.com\n\
             x-amz-date: 20130524T000000Z\nx-amz-content-sha256: \
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/\
             s3/aws4_request,SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=\
             fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
        let head = head(text);
        let query = Query::parse(head.raw_query()).unwrap();
        authenticate(&head, &query, &example_users(), EXAMPLE_TIME)
            .unwrap()
            .chunks
    }

    fn decoder(fields: &str, payload: Payload) -> Result<Decoder, Code> {
        let head = head(&format!("PUT /b/k HTTP/1.1\nHost: h{fields}"));
        let announced = Announced {
            payload: &payload,
            presigned: false,
            checksum_of_body: true,
        };
        Decoder::new(&head, announced, some_signer()).map_err(|error| error.code)
    }

    /// Runs a whole body in pieces of the given sizes; returns it and the bytes behind it.
    fn run(
        mut decoder: Decoder,
        wire: &[u8],
        sizes: &[usize],
    ) -> Result<(Vec<u8>, usize), BodyError> {
        let (mut at, mut end) = (0, 0);
        let mut out = Vec::new();
        let mut sizes = sizes.iter().cycle();
        while !decoder.is_done() {
            if decoder.is_short() {
                return Err(BodyError::Incomplete);
            }
            if at == end {
                if end == wire.len() {
                    return Err(BodyError::Incomplete);
                }
                end = (end + sizes.next().unwrap()).min(wire.len());
            }
            let ready = decoder.payload_ready().min((end - at) as u64) as usize;
            if ready > 0 {
                decoder.passed(&wire[at..at + ready])?;
                out.extend_from_slice(&wire[at..at + ready]);
                at += ready;
            } else {
                at += decoder.framing(&wire[at..end])?;
            }
        }
        decoder.finish()?;
        Ok((out, wire.len() - at))
    }

    const HELLO: [u8; 32] = [
        0x2c, 0xf2, 0x4d, 0xba, 0x5f, 0xb0, 0xa3, 0x0e, 0x26, 0xe8, 0x3b, 0x2a, 0xc5, 0xb9, 0xe2,
        0x9e, 0x1b, 0x16, 0x1e, 0x5c, 0x1f, 0xa7, 0x42, 0x5e, 0x73, 0x04, 0x33, 0x62, 0x93, 0x8b,
        0x98, 0x24,
    ];

    #[test]
    fn promises_are_verified() {
        let length = "\nContent-Length: 5";
        let cases = [
            (Payload::Unsigned, "", Ok(())),
            (Payload::Sha256(HELLO), "", Ok(())),
            (Payload::Sha256([0; 32]), "", Err(BodyError::Sha256)),
            (
                Payload::Unsigned,
                "\nContent-MD5: XUFAKrxLKna5cZ2REBfFkg==",
                Ok(()),
            ),
            (
                Payload::Unsigned,
                "\nContent-MD5: XUFAKrxLKna5cZ2REBfFkA==",
                Err(BodyError::Md5),
            ),
            (
                Payload::Unsigned,
                "\nx-amz-checksum-crc32: NhCmhg==",
                Ok(()),
            ),
            (
                Payload::Unsigned,
                "\nx-amz-checksum-crc32: NhCmhA==",
                Err(BodyError::Checksum("CRC32")),
            ),
            (
                Payload::Unsigned,
                "\nx-amz-checksum-crc32: NhCmhg==\nx-amz-sdk-checksum-algorithm: CRC32",
                Ok(()),
            ),
            (
                Payload::Unsigned,
                "\nx-amz-checksum-sha1: qvTGHdzF6KLavt4PO0gs2a6pQ00=",
                Ok(()),
            ),
        ];
        for (payload, fields, expected) in cases {
            let decoder = decoder(&format!("{length}{fields}"), payload).unwrap();
            let found = run(decoder, b"helloGET", &[3]);
            assert_eq!(found, expected.map(|()| (b"hello".to_vec(), 3)), "{fields}");
        }
    }

    #[test]
    fn contradictions_are_refused_before_the_body() {
        let unsigned = Payload::UnsignedChunksTrailer;
        let trailer = "\nContent-Length: 9\nx-amz-trailer: x-amz-checksum-crc32";
        let cases = [
            (Payload::Unsigned, "\nTransfer-Encoding: chunked".to_owned(), Code::MissingContentLength),
            (Payload::Unsigned, "\nContent-MD5: x".to_owned(), Code::InvalidDigest),
            (Payload::Unsigned, "\nContent-MD5: AAAA".to_owned(), Code::InvalidDigest),
            (Payload::Unsigned, "\nContent-Encoding: gzip, AWS-chunked".to_owned(), Code::InvalidRequest),
            (Payload::Unsigned, "\nx-amz-decoded-content-length: 1".to_owned(), Code::InvalidRequest),
            (Payload::Unsigned, trailer.to_owned(), Code::InvalidRequest),
            (Payload::Unsigned, "\nx-amz-checksum-crc32: x".to_owned(), Code::InvalidRequest),
            (Payload::Unsigned, "\nx-amz-checksum-crc32: NhCmhg==\nx-amz-checksum-crc32c: NhCmhg==".to_owned(), Code::InvalidRequest),
            (Payload::Unsigned, "\nx-amz-sdk-checksum-algorithm: CRC32".to_owned(), Code::InvalidRequest),
            (Payload::Unsigned, "\nx-amz-sdk-checksum-algorithm: XXHASH3".to_owned(), Code::NotImplemented),
            (unsigned.clone(), trailer.to_owned(), Code::MissingContentLength),
            (unsigned.clone(), format!("{trailer}\nx-amz-decoded-content-length: -1"), Code::InvalidArgument),
            (unsigned.clone(), "\nx-amz-decoded-content-length: 1".to_owned(), Code::InvalidRequest),
            (unsigned.clone(), "\nx-amz-decoded-content-length: 1\nx-amz-trailer: x-amz-meta-a".to_owned(), Code::InvalidRequest),
            (unsigned.clone(), "\nx-amz-decoded-content-length: 1\nx-amz-trailer: x-amz-checksum-sha512".to_owned(), Code::NotImplemented),
            (unsigned.clone(), "\nx-amz-decoded-content-length: 1\nx-amz-trailer: x-amz-checksum-crc32,x-amz-checksum-sha1".to_owned(), Code::InvalidRequest),
            (unsigned, format!("{trailer}\nx-amz-decoded-content-length: 1\nx-amz-checksum-crc32: NhCmhg=="), Code::InvalidRequest),
            (Payload::SignedChunks, format!("{trailer}\nx-amz-decoded-content-length: 1"), Code::InvalidRequest),
        ];
        for (payload, fields, code) in cases {
            assert_eq!(decoder(&fields, payload).err(), Some(code), "{fields}");
        }
    }

    /// The body of a PUT as SDKs send it over TLS.
    fn trailed(payload: &[u8], chunk: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        for part in payload.chunks(chunk) {
            wire.extend(format!("{:x}\r\n", part.len()).bytes());
            wire.extend(part);
            wire.extend(b"\r\n");
        }
        let mut hasher = Hasher::new(Algorithm::Crc32);
        hasher.update(payload);
        let value = hasher.finish().base64();
        wire.extend(format!("0\r\nx-amz-checksum-crc32:{value}\r\n\r\n").bytes());
        wire
    }

    fn outer_chunked(inner: &[u8], chunk: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        for part in inner.chunks(chunk) {
            wire.extend(format!("{:X}\r\n", part.len()).bytes());
            wire.extend(part);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        wire
    }

    fn trailed_fields(framing: &str, decoded: usize) -> String {
        format!(
            "\n{framing}\nContent-Encoding: aws-chunked\nx-amz-decoded-content-length: {decoded}\n\
             x-amz-trailer: x-amz-checksum-crc32\nx-amz-sdk-checksum-algorithm: CRC32"
        )
    }

    #[test]
    fn bytes_too_few_or_too_many_are_refused() {
        let inner = trailed(b"hello", 3);
        let run_with = |framing: &str, decoded: usize, wire: &[u8]| {
            let decoder = decoder(
                &trailed_fields(framing, decoded),
                Payload::UnsignedChunksTrailer,
            )
            .unwrap();
            run(decoder, wire, &[7])
        };
        let length = |more: i64| format!("Content-Length: {}", inner.len() as i64 + more);
        assert_eq!(run_with(&length(0), 5, &inner), Ok((b"hello".to_vec(), 0)));
        let longer = [&inner[..], b"x"].concat();
        assert!(matches!(
            run_with(&length(1), 5, &longer),
            Err(BodyError::Malformed(_))
        ));
        assert_eq!(run_with(&length(-1), 5, &inner), Err(BodyError::Incomplete));
        assert_eq!(run_with(&length(0), 6, &inner), Err(BodyError::Incomplete));
        assert!(run_with(&length(0), 4, &inner).is_err());

        let chunked = "Transfer-Encoding: chunked";
        let wire = outer_chunked(&inner, 4);
        assert_eq!(
            run_with(chunked, 5, &[&wire[..], b"GET"].concat()).map(|(out, _)| out),
            Ok(b"hello".to_vec())
        );
        let wire = outer_chunked(&longer, 100);
        assert!(matches!(
            run_with(chunked, 5, &wire),
            Err(BodyError::Malformed(_))
        ));
        let wire = outer_chunked(&inner[..inner.len() - 1], 100);
        assert_eq!(run_with(chunked, 5, &wire), Err(BodyError::Incomplete));
    }

    proptest! {
        #[test]
        fn nested_codings_do_not_care_about_cuts(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            chunk in 1usize..100,
            outer in 1usize..100,
            sizes in proptest::collection::vec(1usize..50, 1..10),
        ) {
            let inner = trailed(&payload, chunk);
            let fields = trailed_fields(&format!("Content-Length: {}", inner.len()), payload.len());
            let decoder_ = decoder(&fields, Payload::UnsignedChunksTrailer).unwrap();
            prop_assert_eq!(run(decoder_, &inner, &sizes), Ok((payload.clone(), 0)));

            let wire = outer_chunked(&inner, outer);
            let fields = trailed_fields("Transfer-Encoding: chunked", payload.len());
            let decoder_ = decoder(&fields, Payload::UnsignedChunksTrailer).unwrap();
            prop_assert_eq!(run(decoder_, &wire, &sizes), Ok((payload, 0)));
        }

        #[test]
        fn noise_never_panics(
            wire in proptest::collection::vec(
                proptest::sample::select(b"0123\r\n\r\n;:x".to_vec()), 0..120),
            sizes in proptest::collection::vec(1usize..7, 1..10),
            decoded in 0usize..20,
        ) {
            for framing in ["Transfer-Encoding: chunked".to_owned(), format!("Content-Length: {}", wire.len())] {
                let fields = trailed_fields(&framing, decoded);
                let decoder_ = || decoder(&fields, Payload::UnsignedChunksTrailer).unwrap();
                prop_assert_eq!(run(decoder_(), &wire, &sizes).is_ok(), run(decoder_(), &wire, &[999]).is_ok());
            }
        }
    }
}
