#![no_main]
//! Whatever a client signs by the specification is taken, and nothing that was changed afterwards.
//!
//! Input: lines. A byte that chooses the change, method, path, query, and a field in each more.

mod signer;

use ostrakon::http::head::Head;
use ostrakon::http::target::Query;
use ostrakon::s3::sigv4::authenticate;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use signer::*;

fn take(text: &[u8]) -> Option<Head> {
    let mut scanned = 0;
    match Head::take(text, &mut scanned) {
        Ok(Some((head, used))) if used == text.len() => Some(head),
        _ => None,
    }
}

fn is_taken(head: &Head) -> Option<bool> {
    let query = Query::parse(head.raw_query()).ok()?;
    Some(USERS.with(|users| authenticate(head, &query, users, NOW).is_ok()))
}

fn text(method: &[u8], path: &[u8], query: &[u8], fields: &[u8]) -> Vec<u8> {
    let mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
    [
        method,
        b" ",
        path,
        mark,
        query,
        b" HTTP/1.1\r\n",
        fields,
        b"\r\n",
    ]
    .concat()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&change, rest)) = bytes.split_first() else {
        return;
    };
    let mut lines = rest.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or(b"");
    let (method, path, query) = (next(), next(), next());
    if path.contains(&b'?') {
        return;
    }
    let presigned = change & 0x80 != 0;
    let mut fields = b"host: h\r\n".to_vec();
    if !presigned {
        fields.extend(format!("x-amz-date: {STAMP}\r\nx-amz-content-sha256: {EMPTY}\r\n").bytes());
    }
    for line in lines {
        fields.extend_from_slice(line);
        fields.extend_from_slice(b"\r\n");
    }
    let mut query = query.to_vec();
    let names_of = |head: &Head| {
        let mut names: Vec<String> = head.fields().map(|(name, _)| name.to_owned()).collect();
        names.retain(|name| name == "host" || name.starts_with("x-amz-"));
        names.sort_unstable();
        names.dedup();
        names
    };
    // Also finds out whether there is a request at all.
    let Some(head) = take(&text(method, path, &query, &fields)) else {
        return;
    };
    let special = [
        "authorization",
        "x-amz-date",
        "x-amz-content-sha256",
        "x-amz-security-token",
    ];
    let count = |name: &str| head.all(name).count();
    if special.iter().any(|name| {
        count(name)
            > usize::from(!presigned && *name != "authorization" && *name != "x-amz-security-token")
    }) {
        return;
    }
    let Ok(parsed) = Query::parse(head.raw_query()) else {
        return;
    };
    // No more than these: what a signature has in the query is a form of its own.
    if parsed.pairs().count() > 50
        || parsed.pairs().any(|(name, _)| {
            name.get(..6)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"x-amz-"))
                || name == b"AWSAccessKeyId"
        })
    {
        return;
    }
    #[cfg(feature = "planted")]
    assert!(
        !parsed
            .pairs()
            .any(|(name, value)| name.len() == 2 && value.first() == Some(&b'&')),
        "planted"
    );
    drop(parsed);
    let names = names_of(&head);
    if presigned {
        if !query.is_empty() {
            query.push(b'&');
        }
        query.extend(
            format!(
                "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ACCESS}%2F{}&X-Amz-Date={STAMP}&X-Amz-Expires=60&X-Amz-SignedHeaders={}",
                SCOPE.replace('/', "%2F"),
                percent_encode(names.join(";").as_bytes(), NON_ALPHANUMERIC)
            )
            .bytes(),
        );
    }
    let Some(head) = take(&text(method, path, &query, &fields)) else {
        return;
    };
    let sent: Vec<(String, Vec<u8>)> = head
        .fields()
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect();
    let plain = Plain {
        method,
        // The path of a target in absolute form is what stands behind the host.
        path: head.raw_path(),
        query: head.raw_query(),
        fields: &sent,
    };
    let payload = if presigned { "UNSIGNED-PAYLOAD" } else { EMPTY };
    let Some((names, signature)) = plain.sign(payload) else {
        panic!("the server takes a query that is none");
    };
    if presigned {
        query.extend(format!("&X-Amz-Signature={signature}").bytes());
    } else {
        fields.extend(authorization(&names, &signature).bytes());
    }
    let Some(signed) = take(&text(method, path, &query, &fields)) else {
        return;
    };
    assert_eq!(is_taken(&signed), Some(true), "a signed request is refused");

    let (mut method, mut path) = (method.to_vec(), path.to_vec());
    match change & 0x7f {
        0 => path.push(b'x'),
        1 => query.extend_from_slice(b"&zz"),
        2 => fields.extend_from_slice(b"x-amz-zz: 1\r\n"),
        3 => method.push(b'X'),
        4 => path.insert(0, b'/'),
        5 => query.splice(0..0, *b"a=b&").for_each(drop),
        at => {
            // One character of the signature.
            let place = if presigned { &mut query } else { &mut fields };
            let end = place.len() - if presigned { 0 } else { 2 };
            let byte = &mut place[end - 1 - usize::from(at) % 64];
            *byte = if *byte == b'0' { b'1' } else { b'0' };
        }
    }
    if let Some(head) = take(&text(&method, &path, &query, &fields)) {
        assert_ne!(is_taken(&head), Some(true), "a changed request is taken");
    }
});
