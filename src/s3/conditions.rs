//! Conditional requests: what must be so of an object that is read, copied or written.

use crate::http::date::parse_http;
use crate::http::head::Head;
use crate::object::{Condition, Etag};
use crate::s3::error::{Code, S3Error, S3Result};

/// The headers that say one set of conditions.
struct Names {
    if_match: &'static str,
    if_none_match: &'static str,
    if_modified_since: &'static str,
    if_unmodified_since: &'static str,
}

const READ: Names = Names {
    if_match: "if-match",
    if_none_match: "if-none-match",
    if_modified_since: "if-modified-since",
    if_unmodified_since: "if-unmodified-since",
};

const COPY_SOURCE: Names = Names {
    if_match: "x-amz-copy-source-if-match",
    if_none_match: "x-amz-copy-source-if-none-match",
    if_modified_since: "x-amz-copy-source-if-modified-since",
    if_unmodified_since: "x-amz-copy-source-if-unmodified-since",
};

/// Evaluates the conditional headers of GET and HEAD (RFC 9110, 13.2.2) as S3 documents them.
///
/// `NotModified` comes back as an error; the caller answers it with the object's headers.
pub fn check_read(head: &Head, etag: &Etag, modified_ms: u64) -> S3Result<()> {
    // A date that is none is ignored (RFC 9110, 13.1.3).
    check(head, &READ, etag, modified_ms, |_| Ok(None))
}

/// Evaluates the conditions that a copy makes about its source: they are demands, so that a date
/// which is none is refused.
pub fn check_copy_source(head: &Head, etag: &Etag, modified_ms: u64) -> S3Result<()> {
    let refused = |name| Err(S3Error::invalid_argument("This is not a date.", name));
    check(head, &COPY_SOURCE, etag, modified_ms, refused).map_err(|error| match error.code {
        Code::NotModified => Code::PreconditionFailed.into(),
        _ => error,
    })
}

fn check(
    head: &Head,
    names: &Names,
    etag: &Etag,
    modified_ms: u64,
    no_date: impl Fn(&'static str) -> S3Result<Option<i64>>,
) -> S3Result<()> {
    // HTTP dates have seconds.
    let modified = i64::try_from(modified_ms / 1000).unwrap_or(i64::MAX);
    let date = |name: &'static str| -> S3Result<Option<i64>> {
        let Some(value) = head.single(name)? else {
            return Ok(None);
        };
        match std::str::from_utf8(value).ok().and_then(parse_http) {
            Some(date) => Ok(Some(date)),
            None => no_date(name),
        }
    };
    let failed = |name: &str| S3Error::from(Code::PreconditionFailed).with("Condition", name);
    let named = |name| head.all(name).any(|value| names_etag(value, etag));
    let unmodified_since = date(names.if_unmodified_since)?;
    let modified_since = date(names.if_modified_since)?;
    if head.first(names.if_match).is_some() {
        if !named(names.if_match) {
            return Err(failed("If-Match"));
        }
    } else if unmodified_since.is_some_and(|since| modified > since) {
        return Err(failed("If-Unmodified-Since"));
    }
    if head.first(names.if_none_match).is_some() {
        if named(names.if_none_match) {
            return Err(Code::NotModified.into());
        }
    } else if modified_since.is_some_and(|since| modified <= since) {
        return Err(Code::NotModified.into());
    }
    Ok(())
}

/// Whether a list of entity tags names `etag`: quoted, weak or bare, or `*`.
pub fn names_etag(list: &[u8], etag: &Etag) -> bool {
    let etag = etag.to_string();
    list.split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .any(|one| {
            let one = one.strip_prefix(b"W/").unwrap_or(one);
            let bare = one
                .strip_prefix(b"\"")
                .and_then(|one| one.strip_suffix(b"\""))
                .unwrap_or(one);
            one == b"*" || bare == etag.as_bytes()
        })
}

/// What a write demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    Condition(Condition),
    /// `If-Match` with a tag that no object can have.
    Never,
}

/// The condition of a write. `If-None-Match` knows `*` alone, as on AWS.
pub fn write_demand(head: &Head) -> S3Result<Demand> {
    let unknown = |name: &'static str, message: &'static str| {
        Err(S3Error::not_implemented(message).with("Header", name))
    };
    match (head.single("if-match")?, head.single("if-none-match")?) {
        (None, None) => Ok(Demand::Condition(Condition::None)),
        (None, Some(b"*")) => Ok(Demand::Condition(Condition::Absent)),
        (None, Some(_)) => unknown(
            "If-None-Match",
            "If-None-Match of a write must be \"*\": other values are not implemented.",
        ),
        (Some(_), Some(_)) => Err(S3Error::new(
            Code::InvalidRequest,
            "If-Match and If-None-Match exclude each other.",
        )),
        (Some(b"*"), None) => Ok(Demand::Condition(Condition::Present)),
        (Some(value), None) if value.contains(&b',') => unknown(
            "If-Match",
            "If-Match of a write must be one entity tag: lists are not implemented.",
        ),
        (Some(value), None) => {
            let etag = std::str::from_utf8(value).ok().and_then(Etag::parse);
            Ok(etag.map_or(Demand::Never, |etag| {
                Demand::Condition(Condition::Etag(etag))
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::sigv4::tests::head;

    const ETAG: Etag = Etag::plain([0xab; 16]);
    const MODIFIED_MS: u64 = 1_369_353_600_500;
    const BEFORE: &str = "Thu, 23 May 2013 23:59:59 GMT";
    const SAME: &str = "Fri, 24 May 2013 00:00:00 GMT";

    #[test]
    fn conditions_are_those_of_the_table() {
        let same = format!("\"{ETAG}\"");
        let cases = [
            (String::new(), Ok(())),
            (format!("If-Match: {same}"), Ok(())),
            (format!("If-Match: {ETAG}"), Ok(())),
            ("If-Match: *".to_owned(), Ok(())),
            (format!("If-Match: \"x\", {same}"), Ok(())),
            (format!("If-Match: \"x\"\nIf-Match: {same}"), Ok(())),
            ("If-Match: \"x\"".to_owned(), Err(Code::PreconditionFailed)),
            (format!("If-None-Match: {same}"), Err(Code::NotModified)),
            (format!("If-None-Match: W/{same}"), Err(Code::NotModified)),
            ("If-None-Match: *".to_owned(), Err(Code::NotModified)),
            ("If-None-Match: \"x\"".to_owned(), Ok(())),
            (format!("If-Modified-Since: {BEFORE}"), Ok(())),
            (format!("If-Modified-Since: {SAME}"), Err(Code::NotModified)),
            (format!("If-Unmodified-Since: {SAME}"), Ok(())),
            (
                format!("If-Unmodified-Since: {BEFORE}"),
                Err(Code::PreconditionFailed),
            ),
            ("If-Modified-Since: yesterday".to_owned(), Ok(())),
            // One header decides over the other, as the reference says.
            (
                format!("If-Match: {same}\nIf-Unmodified-Since: {BEFORE}"),
                Ok(()),
            ),
            (
                format!("If-None-Match: \"x\"\nIf-Modified-Since: {SAME}"),
                Ok(()),
            ),
            (
                format!("If-None-Match: {same}\nIf-Modified-Since: {BEFORE}"),
                Err(Code::NotModified),
            ),
            (
                format!("If-Match: \"x\"\nIf-None-Match: {same}"),
                Err(Code::PreconditionFailed),
            ),
        ];
        for (fields, expected) in cases {
            let request = head(format!("GET /b/k HTTP/1.1\nHost: h\n{fields}").trim_end());
            let found = check_read(&request, &ETAG, MODIFIED_MS).map_err(|error| error.code);
            assert_eq!(found, expected, "{fields}");
        }
    }

    #[test]
    fn conditions_on_the_source_of_a_copy() {
        let failed = Err(Code::PreconditionFailed);
        let cases = [
            (String::new(), Ok(())),
            (format!("match: {ETAG}"), Ok(())),
            ("match: *".to_owned(), Ok(())),
            ("match: \"x\"".to_owned(), failed),
            (format!("none-match: \"{ETAG}\""), failed),
            ("none-match: x".to_owned(), Ok(())),
            (format!("modified-since: {BEFORE}"), Ok(())),
            (format!("modified-since: {SAME}"), failed),
            (format!("unmodified-since: {SAME}"), Ok(())),
            (format!("unmodified-since: {BEFORE}"), failed),
            (
                "unmodified-since: yesterday".to_owned(),
                Err(Code::InvalidArgument),
            ),
            (
                format!("match: {ETAG}\nmodified-since: 1"),
                Err(Code::InvalidArgument),
            ),
        ];
        for (fields, expected) in cases {
            let fields: String = fields
                .lines()
                .map(|line| format!("\nx-amz-copy-source-if-{line}"))
                .collect();
            let request = head(&format!("PUT /b/k HTTP/1.1\nHost: h{fields}"));
            let found = check_copy_source(&request, &ETAG, MODIFIED_MS).map_err(|error| error.code);
            assert_eq!(found, expected, "{fields}");
        }
    }

    #[test]
    fn demands_of_writes() {
        let of = |condition| Ok(Demand::Condition(condition));
        let large = Etag { parts: 3, ..ETAG };
        let cases = [
            (String::new(), of(Condition::None)),
            ("If-None-Match: *".to_owned(), of(Condition::Absent)),
            ("If-Match: *".to_owned(), of(Condition::Present)),
            (format!("If-Match: \"{ETAG}\""), of(Condition::Etag(ETAG))),
            (format!("If-Match: {ETAG}-3"), of(Condition::Etag(large))),
            (format!("If-Match: W/\"{ETAG}\""), Ok(Demand::Never)),
            ("If-Match: \"x\"".to_owned(), Ok(Demand::Never)),
            ("If-Match:".to_owned(), Ok(Demand::Never)),
            ("If-None-Match: \"*\"".to_owned(), Err(Code::NotImplemented)),
            (format!("If-None-Match: {ETAG}"), Err(Code::NotImplemented)),
            (format!("If-Match: {ETAG}, x"), Err(Code::NotImplemented)),
            (
                "If-Match: *\nIf-None-Match: *".to_owned(),
                Err(Code::InvalidRequest),
            ),
            (
                "If-Match: *\nIf-Match: *".to_owned(),
                Err(Code::InvalidRequest),
            ),
        ];
        for (fields, expected) in cases {
            let request = head(format!("PUT /b/k HTTP/1.1\nHost: h\n{fields}").trim_end());
            let found = write_demand(&request).map_err(|error| error.code);
            assert_eq!(found, expected, "{fields}");
        }
    }
}
