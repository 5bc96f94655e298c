#![no_main]
//! Request heads, and every decision about a request that needs its head alone.

use ostrakon::http::head::{Framing, Head};
use ostrakon::http::target::Query;
use ostrakon::object::Etag;
use ostrakon::s3::read::chosen_range;
use ostrakon::s3::{headers, hoisted::unhoist, names::Resource, route::route};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let mut scanned = 0;
    let whole = Head::take(bytes, &mut scanned);

    // However it arrives, it is the same head.
    let mut scanned = 0;
    let step = usize::from(cut).max(1);
    let mut end = step.min(bytes.len());
    let cut = loop {
        match Head::take(&bytes[..end], &mut scanned) {
            Ok(None) if end < bytes.len() => end = (end + step).min(bytes.len()),
            found => break found,
        }
    };
    match (&whole, &cut) {
        (Ok(Some((one, at))), Ok(Some((other, also)))) => {
            assert_eq!(at, also);
            assert_eq!(one.framing, other.framing);
        }
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        // A head that is too long is refused before its end has come.
        _ => assert!(bytes.len() >= 16 * 1024, "{whole:?} {cut:?}"),
    }
    let Ok(Some((head, used))) = whole else {
        return;
    };
    borders(&bytes[..used], &head);

    #[cfg(feature = "planted")]
    assert!(
        head.raw_query() != b"acl" || head.keep_alive || head.first("connection").is_some(),
        "planted"
    );

    assert!(head.raw_path().starts_with(b"/") || head.raw_path() == b"*");
    let Ok(mut query) = Query::parse(head.raw_query()) else {
        return;
    };
    let host = head.first("host").unwrap_or(b"");
    let domains = ["s3.example.org".to_owned()];
    let Ok(resource) = Resource::parse(host, head.raw_path(), &domains) else {
        return;
    };
    assert!(resource.key.len() <= 1024 && !resource.key.contains(&0));
    let hoisted = unhoist(&head, &mut query);
    for head in [Some(&head), hoisted.as_ref().ok().and_then(Option::as_ref)] {
        let Some(head) = head else {
            continue;
        };
        for presigned in [false, true] {
            if let Ok(operation) = route(head, &query, resource.on(), presigned) {
                let _ = headers::check(head, operation);
            }
        }
        for size in [0, 1, 1000, u64::MAX] {
            if let Ok(Some((start, end))) = chosen_range(head, &Etag::plain([1; 16]), 0, size) {
                assert!(start < end && end <= size);
            }
        }
    }
});

/// The body's border as a reader sees it who knows nothing but lines.
fn borders(bytes: &[u8], head: &Head) {
    let text = bytes.strip_suffix(b"\r\n\r\n").expect("the empty line");
    let mut text = text;
    while let Some(rest) = text.strip_prefix(b"\r\n") {
        text = rest;
    }
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.contains(&b'\r') && !line.contains(&0));
        if at == 0 {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic));
        match &name.to_ascii_lowercase()[..] {
            b"content-length" => lengths.push(value.to_vec()),
            b"transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            _ => {}
        }
    }
    match head.framing {
        Framing::None => assert!(lengths.is_empty() && codings.is_empty()),
        Framing::Chunked => assert!(lengths.is_empty() && codings == [b"chunked"]),
        Framing::Length(length) => {
            assert!(codings.is_empty() && lengths.len() == 1);
            let digits = std::str::from_utf8(&lengths[0]).expect("digits");
            assert!(digits.bytes().all(|digit| digit.is_ascii_digit()));
            assert_eq!(digits.parse(), Ok(length));
        }
    }
}
