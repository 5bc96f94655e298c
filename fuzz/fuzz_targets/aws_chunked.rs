#![no_main]
//! Bodies: `Content-Length` or `chunked` outside, aws-chunked inside.
//!
//! Half of the inputs are the bytes of a body. The other half describe one that is coded and signed
//! here, and one byte that is changed: then it is refused, or it says what it said before.

mod signer;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ostrakon::http::head::Head;
use ostrakon::http::target::Query;
use ostrakon::object::checksum::{Algorithm, Hasher};
use ostrakon::s3::body::{Announced, Decoder};
use ostrakon::s3::sigv4::{ChunkSigner, Payload, authenticate};
use signer::*;
use std::cell::RefCell;
use std::collections::HashMap;

const KINDS: [&str; 3] = [
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
];

/// What is known of a body when its head has been read.
#[derive(Clone)]
struct Signed {
    payload: Payload,
    chunks: ChunkSigner,
    /// From which those of the chunks follow.
    signature: String,
}

fn fields(kind: usize, decoded: u64) -> Vec<(String, Vec<u8>)> {
    let mut fields = vec![
        ("host".to_owned(), b"h".to_vec()),
        ("x-amz-content-sha256".to_owned(), KINDS[kind].into()),
        ("x-amz-date".to_owned(), STAMP.into()),
        (
            "x-amz-decoded-content-length".to_owned(),
            decoded.to_string().into(),
        ),
    ];
    if kind > 0 {
        fields.push(("x-amz-trailer".to_owned(), b"x-amz-checksum-crc32".to_vec()));
    }
    fields
}

fn parsed(kind: usize, decoded: u64, more: &str) -> Head {
    let mut text = b"PUT /b/k HTTP/1.1\r\n".to_vec();
    for (name, value) in fields(kind, decoded) {
        text.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
    }
    text.extend(more.bytes());
    text.extend(b"\r\n");
    let mut scanned = 0;
    let found = Head::take(&text, &mut scanned).expect("a head");
    found.expect("a whole head").0
}

thread_local! {
    static SIGNED: RefCell<HashMap<(usize, u64), Signed>> = RefCell::default();
}

/// Signatures take most of the time, and few are different.
fn signed(kind: usize, decoded: u64) -> Signed {
    if let Some(known) = SIGNED.with_borrow(|known| known.get(&(kind, decoded)).cloned()) {
        return known;
    }
    let fields = fields(kind, decoded);
    let plain = Plain {
        method: b"PUT",
        path: b"/b/k",
        query: b"",
        fields: &fields,
    };
    let (names, signature) = plain.sign(KINDS[kind]).expect("a query");
    let head = parsed(kind, decoded, &authorization(&names, &signature));
    let query = Query::parse(head.raw_query()).expect("a query");
    let found = USERS.with(|users| authenticate(&head, &query, users, NOW));
    let found = found.expect("what is signed is taken");
    let signed = Signed {
        payload: found.payload,
        chunks: found.chunks,
        signature,
    };
    SIGNED.with_borrow_mut(|known| known.insert((kind, decoded), signed.clone()));
    signed
}

/// The head of a body that is on the wire in `length` bytes, or in chunks.
fn framed(kind: usize, decoded: u64, length: Option<usize>) -> Head {
    let framing = match length {
        Some(length) => format!("content-length: {length}\r\n"),
        None => "transfer-encoding: chunked\r\n".to_owned(),
    };
    parsed(kind, decoded, &framing)
}

/// What the decoder makes of `wire` when it comes in pieces of `step` bytes: the payload, or that it
/// was refused.
fn decode(head: &Head, signed: Signed, wire: &[u8], step: usize) -> Option<Vec<u8>> {
    let announced = Announced {
        payload: &signed.payload,
        presigned: false,
        checksum_of_body: true,
    };
    let mut decoder = Decoder::new(head, announced, signed.chunks).ok()?;
    let mut out = Vec::new();
    let (mut at, mut end) = (0, 0);
    while !decoder.is_done() {
        if decoder.is_short() {
            return None;
        }
        if at == end {
            if end == wire.len() {
                return None;
            }
            end = (end + step).min(wire.len());
        }
        let ready = decoder.payload_ready().min((end - at) as u64) as usize;
        if ready > 0 {
            out.extend_from_slice(&wire[at..at + ready]);
            decoder.passed(&wire[at..at + ready]).ok()?;
            at += ready;
        } else {
            let used = decoder.framing(&wire[at..end]).ok()?;
            assert!(
                used > 0 || decoder.payload_ready() > 0 || decoder.is_done() || decoder.is_short()
            );
            at += used;
        }
    }
    decoder.finish().ok()?;
    assert_eq!(out.len() as u64, decoder.length());
    Some(out)
}

fn outer(wire: Vec<u8>, step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in wire.chunks(step) {
        out.extend(format!("{:x}\r\n", piece.len()).bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [flags, size, step, place, place_too, change, rest @ ..] = bytes else {
        return;
    };
    let kind = usize::from(flags & 3).min(2);
    let chunked = flags & 4 != 0;
    let step = usize::from(*step).max(1);
    if flags & 8 != 0 {
        let length = (!chunked).then_some(rest.len());
        let decoded = u64::from(*size);
        let (head, signed) = (framed(kind, decoded, length), signed(kind, decoded));
        let decode = |step| decode(&head, signed.clone(), rest, step);
        let whole = decode(usize::MAX / 2);
        assert_eq!(whole, decode(step), "cuts matter");
        assert_eq!(whole, decode(1), "cuts matter");
        return;
    }
    let decoded = rest.len() as u64;
    let signed = signed(kind, decoded);
    let mut previous = signed.signature.clone();
    let mut wire = Vec::new();
    // Each chunk costs a signature, here and there.
    const CHUNKS_MAX: usize = 32;
    let size = usize::from(*size).max(rest.len() / CHUNKS_MAX).max(1);
    let pieces = rest.chunks(size).chain([&b""[..]]);
    for piece in pieces {
        wire.extend(format!("{:x}", piece.len()).bytes());
        if kind < 2 {
            previous = seal(
                "AWS4-HMAC-SHA256-PAYLOAD",
                &[&previous, EMPTY, &sha256(piece)],
            );
            wire.extend(format!(";chunk-signature={previous}").bytes());
        }
        wire.extend_from_slice(b"\r\n");
        wire.extend_from_slice(piece);
        if !piece.is_empty() {
            wire.extend_from_slice(b"\r\n");
        }
    }
    if kind > 0 {
        let mut hasher = Hasher::new(Algorithm::Crc32);
        hasher.update(rest);
        let line = format!("x-amz-checksum-crc32:{}", hasher.finish().base64());
        assert_eq!(BASE64.decode(&line[21..]).map(|crc| crc.len()), Ok(4));
        wire.extend(format!("{line}\r\n").bytes());
        if kind == 1 {
            let hash = sha256(format!("{line}\n").as_bytes());
            let signature = seal("AWS4-HMAC-SHA256-TRAILER", &[&previous, &hash]);
            wire.extend(format!("x-amz-trailer-signature:{signature}\r\n").bytes());
        }
    }
    wire.extend_from_slice(b"\r\n");
    let at = usize::from(*place) << 8 | usize::from(*place_too);
    if chunked {
        wire = outer(wire, step * 3);
    }
    let at = at % wire.len();
    wire[at] ^= change;
    let head = framed(kind, decoded, (!chunked).then_some(wire.len()));
    match decode(&head, signed, &wire, step) {
        Some(payload) => {
            assert_eq!(payload, *rest, "a change went unnoticed");
            #[cfg(feature = "planted")]
            assert!(kind != 1 || !payload.starts_with(b"pl"), "planted");
        }
        None => assert_ne!(*change, 0, "what was signed is refused"),
    }
});
