//! Headers in the query: SDKs that presign a request write its `x-amz-*` headers there.
//!
//! The signature covers the query, so such a parameter says what the signed header would say, and
//! is made one before anything looks at the headers. Nothing is lost on the way: what a header of
//! that name would be refused for is refused here too, by the same tables.

use crate::http::head::Head;
use crate::http::target::Query;
use crate::object::checksum::Algorithm;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::route::SIGNATURE_KEYS;

/// Begins the names of the headers that are hoisted, in any case: SDKs differ.
const PREFIX: &[u8] = b"x-amz-";

/// A checksum of the body. Nothing is made of it in a query, as on AWS: who presigns has no body, and
/// the SDK for JavaScript writes the checksum of an empty one.
fn is_checksum(name: &str) -> bool {
    Algorithm::ALL
        .iter()
        .any(|algorithm| algorithm.header() == name)
}

fn is_hoisted(name: &[u8]) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        && !SIGNATURE_KEYS.iter().any(|key| key.as_bytes() == name)
}

/// Takes the hoisted headers out of the query of a presigned request; returns `head` with them, or
/// `None` if there are none.
pub fn unhoist(head: &Head, query: &mut Query<'_>) -> S3Result<Option<Head>> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in query.pairs().filter(|(name, _)| is_hoisted(name)) {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let refused = |message: &'static str| {
            S3Error::new(Code::InvalidArgument, message).with("ArgumentName", name.clone())
        };
        if SIGNATURE_KEYS
            .iter()
            .any(|key| key.eq_ignore_ascii_case(&name))
        {
            return Err(refused("A parameter of the signature is misspelled."));
        }
        if found.iter().any(|(known, _)| *known == name) {
            return Err(refused("A query parameter is given more than once."));
        }
        if is_checksum(&name) {
            continue;
        }
        let trimmed = value.trim_ascii();
        match head.single(&name)? {
            None => {}
            Some(same) if same == trimmed => continue,
            Some(_) => {
                return Err(refused(
                    "A header and the query parameter of its name contradict each other.",
                ));
            }
        }
        found.push((name, trimmed.to_vec()));
    }
    query.retain(|name| !is_hoisted(name));
    if found.is_empty() {
        return Ok(None);
    }
    let fields = found.iter().map(|(name, value)| (&name[..], &value[..]));
    match head.with_fields(fields) {
        Some(head) => Ok(Some(head)),
        None => Err(S3Error::new(
            Code::InvalidArgument,
            "A query parameter that stands for a header cannot be one.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::sigv4::tests::head;
    use proptest::prelude::*;

    #[test]
    fn parameters_become_headers_or_are_refused() {
        let run = |query: &str, fields: &str| {
            let head = head(&format!("PUT /b/k?{query} HTTP/1.1\nHost: h{fields}"));
            let mut query = Query::parse(head.raw_query()).unwrap();
            let found = unhoist(&head, &mut query).map_err(|error| error.code)?;
            let rest = query
                .pairs()
                .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
                .collect::<Vec<_>>()
                .join(",");
            let values = found.map(|head| {
                let value = |name| head.first(name).map(<[u8]>::to_vec);
                (value("x-amz-acl"), value("x-amz-meta-a"))
            });
            Ok((rest, values))
        };
        assert_eq!(
            run("X-Amz-Date=1&x-id=PutObject", ""),
            Ok(("X-Amz-Date,x-id".to_owned(), None))
        );
        assert_eq!(
            run("X-Amz-Acl=private&versionId=null&x-amz-meta-a=b%20c+d", ""),
            Ok((
                "versionId".to_owned(),
                Some((Some(b"private".to_vec()), Some(b"b c d".to_vec())))
            ))
        );
        assert_eq!(
            run("x-amz-acl=private", "\nx-amz-acl: private"),
            Ok((String::new(), None))
        );
        assert_eq!(
            run(
                "X-Amz-Checksum-CRC32=AAAAAA%3D%3D&x-amz-checksum-sha256=",
                ""
            ),
            Ok((String::new(), None))
        );
        for (query, fields) in [
            ("x-amz-acl=private", "\nx-amz-acl: public-read"),
            ("x-amz-acl=private&X-Amz-Acl=private", ""),
            ("x-amz-acl=private&X-Amz-Acl=public-read", ""),
            ("x-amz-meta-a=b%0D%0Ac", ""),
            ("x-amz-meta-a=%00", ""),
            ("x-amz-meta-a%20=b", ""),
            ("x-amz-meta-%C3%BC=b", ""),
            ("x-amz-content-sha256=UNSIGNED-PAYLOAD", ""),
            ("x-amz-date=20130524T000000Z", ""),
            ("X-AMZ-SIGNATURE=1", ""),
        ] {
            assert_eq!(
                run(query, fields),
                Err(Code::InvalidArgument),
                "{query} {fields}"
            );
        }
        assert_eq!(
            run("x-amz-acl=a", "\nx-amz-acl: a\nx-amz-acl: a"),
            Err(Code::InvalidRequest)
        );
    }

    proptest! {
        #[test]
        fn noise_makes_no_other_header(name in "[A-Za-z0-9%-]{0,20}", value in "[ -~]{0,20}") {
            let text = format!("PUT /b/k?x-amz-{name}={} HTTP/1.1\nHost: h", value.replace([' ', '#'], "+"));
            let before = head(&text);
            if let Ok(mut query) = Query::parse(before.raw_query())
                && let Ok(Some(after)) = unhoist(&before, &mut query)
            {
                let added: Vec<_> = after.fields().skip(before.fields().count()).collect();
                prop_assert!(added.iter().all(|(name, _)| name.starts_with("x-amz-")));
                prop_assert_eq!(after.framing, before.framing);
            }
        }
    }
}
