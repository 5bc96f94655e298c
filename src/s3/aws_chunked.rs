//! The content coding `aws-chunked` undone: chunks, their signatures, trailers.
//!
//! ```text
//! signed:    size;chunk-signature=<64 hex> CRLF payload CRLF ... 0;chunk-signature=... CRLF CRLF
//!   + trailer:                ... 0;chunk-signature=... CRLF name:value CRLF ...
//!                                        x-amz-trailer-signature:<64 hex> CRLF CRLF
//! unsigned + trailer:       size CRLF payload CRLF ... 0 CRLF name:value CRLF ... CRLF
//! ```
//!
//! As [`crate::http::chunked`], the decoder copies no payload: it says how much comes next and is
//! shown it as it passes. A chunk's payload passes before its signature is known; nothing may
//! become visible before [`AwsChunked::is_done`], which is true only after every signature was
//! verified, every declared trailer seen, and exactly the declared number of bytes.

use crate::http::chunked::parse_hex;
use crate::object::BodyError;
use crate::object::checksum::{Algorithm, Checksum};
use crate::s3::sigv4::ChunkSigner;
use sha2::{Digest, Sha256};

/// Longest line: a chunk header is at most 16 + 17 + 64 bytes; the longest trailer that is
/// accepted is `x-amz-trailer-signature:` and 64 digits.
const LINE_SIZE_MAX: usize = 256;

const SIGNATURE_PARAMETER: &[u8] = b"chunk-signature=";
const TRAILER_SIGNATURE: &[u8] = b"x-amz-trailer-signature";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A chunk header.
    Header,
    Payload,
    /// CR LF behind a chunk's payload.
    PayloadEnd,
    /// The empty line behind the last chunk, where there are no trailers.
    LastEnd,
    Trailers,
    /// The trailers' signature was verified; the empty line follows.
    SignedEnd,
    Done,
}

pub struct AwsChunked {
    state: State,
    /// Part of a line that a cut left incomplete.
    line: Vec<u8>,
    /// Decoded bytes still to come, of `x-amz-decoded-content-length`.
    left: u64,
    chunk_left: u64,
    /// With a signer: the hash of the chunk's payload and the signature its header has.
    signer: Option<ChunkSigner>,
    hasher: Sha256,
    signature: [u8; 64],
    /// The trailer that `x-amz-trailer` declares; `None` when the body has no trailers.
    declared: Option<Algorithm>,
    trailer: Option<Checksum>,
    /// `name:value\n` of each trailer, which is what their signature covers.
    canonical: Vec<u8>,
    /// One empty line before the trailers' signature has been let pass.
    gap: bool,
}

impl AwsChunked {
    /// A body of `decoded_len` bytes; with `signer` its chunks (and trailers) are signed.
    pub fn new(decoded_len: u64, signer: Option<ChunkSigner>, declared: Option<Algorithm>) -> Self {
        Self {
            state: State::Header,
            line: Vec::new(),
            left: decoded_len,
            chunk_left: 0,
            signer,
            hasher: Sha256::new(),
            signature: [0; 64],
            declared,
            trailer: None,
            canonical: Vec::new(),
            gap: false,
        }
    }

    /// Payload bytes that come next, before any framing.
    pub fn payload_ready(&self) -> u64 {
        if self.state == State::Payload {
            self.chunk_left
        } else {
            0
        }
    }

    /// `payload` has been taken from the stream, at most [`Self::payload_ready`] bytes.
    pub fn passed(&mut self, payload: &[u8]) -> Result<(), BodyError> {
        let count = payload.len() as u64;
        assert!(count <= self.payload_ready());
        if self.signer.is_some() {
            self.hasher.update(payload);
        }
        self.chunk_left -= count;
        self.left -= count;
        if self.state == State::Payload && self.chunk_left == 0 {
            self.verify_chunk()?;
            self.state = State::PayloadEnd;
        }
        Ok(())
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The trailing checksum, once [`Self::is_done`].
    pub fn trailer(&self) -> Option<&Checksum> {
        self.trailer.as_ref()
    }

    fn verify_chunk(&mut self) -> Result<(), BodyError> {
        if let Some(signer) = &mut self.signer {
            let hash = self.hasher.finalize_reset().into();
            if !signer.chunk(&hash, &self.signature) {
                return Err(BodyError::Signature);
            }
        }
        Ok(())
    }

    /// Consumes framing from the front of `input` until payload or the end comes; returns how much.
    pub fn framing(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let mut used = 0;
        while used < input.len() && !matches!(self.state, State::Payload | State::Done) {
            let rest = &input[used..];
            let end = rest.iter().position(|&byte| byte == b'\n');
            let take = end.map_or(rest.len(), |at| at + 1);
            if self.line.len() + take > LINE_SIZE_MAX {
                return Err(BodyError::Malformed(
                    "a line of the aws-chunked coding is too long",
                ));
            }
            self.line.extend_from_slice(&rest[..take]);
            used += take;
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.line(&line)?;
                self.line = line;
                self.line.clear();
            }
        }
        Ok(used)
    }

    /// One line, its end included.
    fn line(&mut self, line: &[u8]) -> Result<(), BodyError> {
        const MALFORMED: BodyError = BodyError::Malformed("the aws-chunked coding is malformed");
        if matches!(self.state, State::Trailers | State::SignedEnd) {
            // The reference has trailers that end in LF CR LF, and SDKs send such; the outer
            // framing is not concerned.
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            return self.trailer_line(line.strip_suffix(b"\r").unwrap_or(line));
        }
        let line = line.strip_suffix(b"\r\n").ok_or(MALFORMED)?;
        match self.state {
            State::Header => self.header(line),
            _ if !line.is_empty() => Err(MALFORMED),
            State::PayloadEnd => {
                self.state = State::Header;
                Ok(())
            }
            _ => {
                self.state = State::Done;
                Ok(())
            }
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), BodyError> {
        const MALFORMED: BodyError = BodyError::Malformed("a chunk header is malformed");
        let size = if self.signer.is_some() {
            let at = line
                .iter()
                .position(|&byte| byte == b';')
                .ok_or(MALFORMED)?;
            let signature = line[at + 1..]
                .strip_prefix(SIGNATURE_PARAMETER)
                .ok_or(MALFORMED)?;
            self.signature = signature.try_into().map_err(|_| MALFORMED)?;
            &line[..at]
        } else {
            line
        };
        let size = parse_hex(size).ok_or(MALFORMED)?;
        if size > self.left {
            return Err(BodyError::Malformed(
                "the body is longer than x-amz-decoded-content-length",
            ));
        }
        self.chunk_left = size;
        if size > 0 {
            self.state = State::Payload;
            return Ok(());
        }
        if self.left > 0 {
            return Err(BodyError::Incomplete);
        }
        self.verify_chunk()?;
        self.state = if self.declared.is_some() {
            State::Trailers
        } else {
            State::LastEnd
        };
        Ok(())
    }

    fn trailer_line(&mut self, line: &[u8]) -> Result<(), BodyError> {
        if line.is_empty() {
            return self.trailers_end();
        }
        if self.state == State::SignedEnd {
            return Err(BodyError::Trailer(
                "a trailer follows the trailers' signature",
            ));
        }
        let at = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or(BodyError::Trailer("a trailer has no colon"))?;
        let name = line[..at].to_ascii_lowercase();
        let value = line[at + 1..].trim_ascii();
        if name == TRAILER_SIGNATURE {
            let Some(signer) = &mut self.signer else {
                return Err(BodyError::Trailer(
                    "the trailers of an unsigned body are signed",
                ));
            };
            let signature = value.try_into().map_err(|_| BodyError::Signature)?;
            let hash = Sha256::digest(&self.canonical).into();
            if !signer.trailer(&hash, &signature) {
                return Err(BodyError::Signature);
            }
            self.state = State::SignedEnd;
            return Ok(());
        }
        let declared = self.declared.filter(|one| one.header().as_bytes() == name);
        let algorithm = declared.ok_or(BodyError::Trailer("a trailer was not declared"))?;
        if self.trailer.is_some() {
            return Err(BodyError::Trailer("a trailer is given twice"));
        }
        self.trailer = Some(Checksum::parse(algorithm, value).ok_or(BodyError::ChecksumValue)?);
        self.canonical.extend_from_slice(&name);
        self.canonical.push(b':');
        self.canonical.extend_from_slice(value);
        self.canonical.push(b'\n');
        Ok(())
    }

    /// The empty line that ends the trailers.
    fn trailers_end(&mut self) -> Result<(), BodyError> {
        if self.trailer.is_none() {
            return Err(BodyError::Trailer("a declared trailer is missing"));
        }
        if self.signer.is_some() && self.state == State::Trailers {
            // Of "value LF CR LF x-amz-trailer-signature", the middle reads as an empty line.
            if self.gap {
                return Err(BodyError::Signature);
            }
            self.gap = true;
            return Ok(());
        }
        self.state = State::Done;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::target::Query;
    use crate::object::checksum::Hasher;
    use crate::s3::sigv4::tests::{EXAMPLE_TIME, example_users, head};
    use crate::s3::sigv4::{Payload, authenticate};
    use proptest::prelude::*;

    /// Decodes `wire` handed over in pieces of the given sizes; returns payload and what is left.
    fn decode(
        mut decoder: AwsChunked,
        wire: &[u8],
        sizes: &[usize],
    ) -> Result<(Vec<u8>, bool, usize), BodyError> {
        let (mut at, mut end) = (0, 0);
        let mut out = Vec::new();
        let mut sizes = sizes.iter().cycle();
        while !decoder.is_done() {
            if at == end {
                if end == wire.len() {
                    break;
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
        Ok((out, decoder.is_done(), wire.len() - at))
    }

    /// The streaming example of the S3 API Reference, "... in Multiple Chunks".
    fn example_signer(trailer: bool) -> ChunkSigner {
        let (sha, names, extra, signature) = if trailer {
            (
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
                "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
                 x-amz-storage-class;x-amz-trailer",
                "\nx-amz-trailer: x-amz-checksum-crc32c",
                "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
            )
        } else {
            (
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;\
                 x-amz-decoded-content-length;x-amz-storage-class",
                "\nContent-Length: 66824",
                "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
            )
        };
        let head = head(&format!(
            "PUT /examplebucket/chunkObject.txt HTTP/1.1\nHost: s3.amazonaws.com\n\
             x-amz-date: 20130524T000000Z\nx-amz-storage-class: REDUCED_REDUNDANCY\n\
             Content-Encoding: aws-chunked\nx-amz-decoded-content-length: 66560\n\
             x-amz-content-sha256: {sha}{extra}\nAuthorization: AWS4-HMAC-SHA256 Credential=\
             AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders={names},\
             Signature={signature}"
        ));
        let found =
            authenticate(&head, &Query::default(), &example_users(), EXAMPLE_TIME).expect("signed");
        assert_eq!(found.payload == Payload::SignedChunksTrailer, trailer);
        found.chunks
    }

    fn example_wire(signatures: [&str; 3], trailer: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for (size, signature) in [65536, 1024, 0].into_iter().zip(signatures) {
            wire.extend(format!("{size:x};chunk-signature={signature}\r\n").bytes());
            wire.resize(wire.len() + size, b'a');
            if size > 0 {
                wire.extend(b"\r\n");
            }
        }
        wire.extend(trailer.bytes());
        wire
    }

    fn plain_example() -> Vec<u8> {
        example_wire(
            [
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ],
            "\r\n",
        )
    }

    fn trailer_example(trailer: &str) -> Vec<u8> {
        example_wire(
            [
                "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
                "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
                "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
            ],
            trailer,
        )
    }

    const TRAILER_SIGNED: &str =
        "x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";

    #[test]
    fn the_published_streaming_example_passes() {
        let wire = plain_example();
        assert_eq!(wire.len(), 66824);
        let decoder = AwsChunked::new(66560, Some(example_signer(false)), None);
        let (out, done, left) = decode(decoder, &wire, &[4096]).unwrap();
        assert!(done && left == 0);
        assert_eq!(out, vec![b'a'; 66560]);
    }

    #[test]
    fn the_published_trailer_example_passes() {
        for trailer in [
            format!("x-amz-checksum-crc32c:sOO8/Q==\r\n{TRAILER_SIGNED}\r\n\r\n"),
            format!("x-amz-checksum-crc32c:sOO8/Q==\n\r\n{TRAILER_SIGNED}\r\n\r\n"),
        ] {
            let signer = example_signer(true);
            let decoder = AwsChunked::new(66560, Some(signer), Some(Algorithm::Crc32c));
            let (out, done, left) = decode(decoder, &trailer_example(&trailer), &[777]).unwrap();
            assert!(done && left == 0);
            let mut hasher = Hasher::new(Algorithm::Crc32c);
            hasher.update(&out);
            assert_eq!(hasher.finish().base64(), "sOO8/Q==");
        }
    }

    #[test]
    fn every_changed_byte_of_the_signed_example_is_noticed() {
        let wire = plain_example();
        // Every byte of framing, and a sample of the payload.
        let framing = (0..90)
            .chain(90 + 65530..90 + 65640)
            .chain(wire.len() - 100..wire.len());
        for at in framing.chain((0..wire.len()).step_by(4099)) {
            let mut wire = wire.clone();
            wire[at] ^= 1;
            let decoder = AwsChunked::new(66560, Some(example_signer(false)), None);
            assert!(
                !matches!(decode(decoder, &wire, &[8192]), Ok((_, true, _))),
                "byte {at}"
            );
        }
        for cut in [1, 2, 88, 90, 1200] {
            let decoder = AwsChunked::new(66560, Some(example_signer(false)), None);
            let (_, done, _) = decode(decoder, &wire[..wire.len() - cut], &[8192]).unwrap();
            assert!(!done, "{cut}");
        }
    }

    #[test]
    fn trailers_must_be_signed_declared_and_single() {
        let cases = [
            (
                "x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n\r\n",
                BodyError::Signature,
            ),
            ("\r\n", BodyError::Trailer("a declared trailer is missing")),
        ];
        for (trailer, error) in cases {
            let signer = example_signer(true);
            let decoder = AwsChunked::new(66560, Some(signer), Some(Algorithm::Crc32c));
            assert_eq!(
                decode(decoder, &trailer_example(trailer), &[9000]),
                Err(error)
            );
        }
        let changed = format!("x-amz-checksum-crc32c:sOO8/R==\r\n{TRAILER_SIGNED}\r\n\r\n");
        let decoder = AwsChunked::new(66560, Some(example_signer(true)), Some(Algorithm::Crc32c));
        assert!(decode(decoder, &trailer_example(&changed), &[9000]).is_err());
        // Well-formed, but not what was signed.
        let decoder = AwsChunked::new(66560, Some(example_signer(true)), Some(Algorithm::Crc32c));
        let other = format!("x-amz-checksum-crc32c:AAAAAA==\r\n{TRAILER_SIGNED}\r\n\r\n");
        let found = decode(decoder, &trailer_example(&other), &[9000]);
        assert_eq!(found, Err(BodyError::Signature));
        let decoder = AwsChunked::new(66560, Some(example_signer(true)), Some(Algorithm::Crc32c));
        let forged = TRAILER_SIGNED.replace("e435", "e436");
        let other = format!("x-amz-checksum-crc32c:sOO8/Q==\r\n{forged}\r\n\r\n");
        let found = decode(decoder, &trailer_example(&other), &[9000]);
        assert_eq!(found, Err(BodyError::Signature));
        let after = format!(
            "x-amz-checksum-crc32c:sOO8/Q==\r\n{TRAILER_SIGNED}\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n\r\n"
        );
        let decoder = AwsChunked::new(66560, Some(example_signer(true)), Some(Algorithm::Crc32c));
        assert!(decode(decoder, &trailer_example(&after), &[9000]).is_err());

        let unsigned = |trailers: &str| {
            let wire = format!("5\r\nhello\r\n0\r\n{trailers}");
            decode(
                AwsChunked::new(5, None, Some(Algorithm::Crc32)),
                wire.as_bytes(),
                &[3],
            )
        };
        assert!(unsigned("x-amz-checksum-crc32:NhCmhg==\r\n\r\n").unwrap().1);
        assert!(
            unsigned("X-Amz-Checksum-Crc32: NhCmhg== \r\n\r\n")
                .unwrap()
                .1
        );
        assert!(!unsigned("x-amz-checksum-crc32:NhCmhg==\r\n").unwrap().1);
        for bad in [
            "\r\n",
            "x-amz-checksum-crc32:NhCmhg==\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
            "x-amz-checksum-sha1:NhCmhg==\r\n\r\n",
            "x-amz-checksum-crc32:NhCmhg\r\n\r\n",
            "x-amz-meta-a:b\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
            "x-amz-checksum-crc32\r\n\r\n",
            &format!("x-amz-checksum-crc32:NhCmhg==\r\n{TRAILER_SIGNED}\r\n\r\n"),
        ] {
            assert!(unsigned(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths_must_agree() {
        let unsigned = |len: u64, wire: &str| {
            decode(
                AwsChunked::new(len, None, Some(Algorithm::Crc32)),
                wire.as_bytes(),
                &[4],
            )
        };
        let trailer = "x-amz-checksum-crc32:NhCmhg==\r\n\r\n";
        assert!(unsigned(5, &format!("5\r\nhello\r\n0\r\n{trailer}")).is_ok());
        assert_eq!(
            unsigned(6, &format!("5\r\nhello\r\n0\r\n{trailer}")),
            Err(BodyError::Incomplete)
        );
        for wire in [
            "6\r\nhello!\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000000\r\n",
            "5;a=b\r\n",
            "5\n",
        ] {
            assert!(unsigned(5, wire).is_err(), "{wire:?}");
        }
        let long = format!("{}\r\n", "0".repeat(LINE_SIZE_MAX));
        assert!(unsigned(5, &long).is_err());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(sizes in proptest::collection::vec(1usize..5000, 1..20)) {
            let wire = plain_example();
            let decoder = AwsChunked::new(66560, Some(example_signer(false)), None);
            let (out, done, left) = decode(decoder, &wire, &sizes).unwrap();
            prop_assert!(done && left == 0 && out.len() == 66560);
        }

        #[test]
        fn noise_never_panics_and_cuts_do_not_matter(
            wire in proptest::collection::vec(
                proptest::sample::select(b"0123af\r\n\r\n;:x".to_vec()), 0..120),
            sizes in proptest::collection::vec(1usize..7, 1..10),
            len in 0u64..20,
        ) {
            let decoder = || AwsChunked::new(len, None, Some(Algorithm::Crc32));
            prop_assert_eq!(
                decode(decoder(), &wire, &sizes),
                decode(decoder(), &wire, &[usize::MAX / 2])
            );
        }
    }
}
