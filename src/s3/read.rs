//! Ranges of GET and HEAD: decisions without I/O.

use crate::http::date::parse_http;
use crate::http::head::Head;
use crate::object::Etag;
use crate::s3::conditions::names_etag;
use crate::s3::error::{Code, S3Error, S3Result};

/// Which bytes of an object of `size` bytes a GET or HEAD asks for: `None` for all of them.
///
/// One range is served; a list of ranges, or what is not a range of bytes, is ignored, as RFC 9110
/// allows (14.2) and S3 does. A range behind the end is `InvalidRange`.
pub fn chosen_range(
    head: &Head,
    etag: &Etag,
    modified_ms: u64,
    size: u64,
) -> S3Result<Option<(u64, u64)>> {
    let Some(value) = head.single("range")? else {
        return Ok(None);
    };
    if let Some(condition) = head.single("if-range")? {
        let text = std::str::from_utf8(condition).unwrap_or("");
        let same = match parse_http(text) {
            Some(date) => i64::try_from(modified_ms / 1000) == Ok(date),
            // Weak tags never match here (RFC 9110, 13.1.5).
            None => !text.starts_with("W/") && text != "*" && names_etag(condition, etag),
        };
        if !same {
            return Ok(None);
        }
    }
    let Some(range) = parse_range(value) else {
        return Ok(None);
    };
    let unsatisfiable = || {
        S3Error::from(Code::InvalidRange)
            .with(
                "RangeRequested",
                String::from_utf8_lossy(value).into_owned(),
            )
            .with("ActualObjectSize", size.to_string())
    };
    let (start, end) = match range {
        Range::From(start) => (start, size),
        Range::Between(start, last) => (start, last.saturating_add(1).min(size)),
        Range::Last(count) => (size.saturating_sub(count), size),
    };
    if start >= end {
        Err(unsatisfiable())
    } else {
        Ok(Some((start, end)))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    From(u64),
    /// First and last byte.
    Between(u64, u64),
    /// That many at the end.
    Last(u64),
}

fn parse_range(value: &[u8]) -> Option<Range> {
    let text = std::str::from_utf8(value).ok()?;
    let (unit, range) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    // Numbers too large for us are behind the end of every object.
    let number = |text: &str| {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", count) => Some(Range::Last(number(count)?)),
        (start, "") => Some(Range::From(number(start)?)),
        (start, last) => {
            let (start, last) = (number(start)?, number(last)?);
            (start <= last).then_some(Range::Between(start, last))
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
    fn ranges_are_those_of_the_table() {
        let invalid = Err(Code::InvalidRange);
        let cases = [
            ("bytes=0-9", 100, Ok(Some((0, 10)))),
            ("bytes=90-", 100, Ok(Some((90, 100)))),
            ("bytes=90-1000", 100, Ok(Some((90, 100)))),
            ("bytes=-10", 100, Ok(Some((90, 100)))),
            ("bytes=-1000", 100, Ok(Some((0, 100)))),
            ("BYTES = 1-1", 100, Ok(Some((1, 2)))),
            ("bytes=99-99", 100, Ok(Some((99, 100)))),
            ("bytes=100-", 100, invalid),
            ("bytes=100-200", 100, invalid),
            ("bytes=-0", 100, invalid),
            ("bytes=0-", 0, invalid),
            ("bytes=-1", 0, invalid),
            ("bytes=0-99999999999999999999999", 100, Ok(Some((0, 100)))),
            ("bytes=99999999999999999999999-", 100, invalid),
            ("bytes=9-0", 100, Ok(None)),
            ("bytes=0-1,5-6", 100, Ok(None)),
            ("bytes=", 100, Ok(None)),
            ("bytes=-", 100, Ok(None)),
            ("bytes=+1-2", 100, Ok(None)),
            ("lines=0-1", 100, Ok(None)),
            ("0-1", 100, Ok(None)),
        ];
        for (value, size, expected) in cases {
            let request = head(&format!("GET /b/k HTTP/1.1\nHost: h\nRange: {value}"));
            let found =
                chosen_range(&request, &ETAG, MODIFIED_MS, size).map_err(|error| error.code);
            assert_eq!(found, expected, "{value} of {size}");
        }
        for (condition, ranged) in [
            (format!("\"{ETAG}\""), true),
            (SAME.to_owned(), true),
            ("\"x\"".to_owned(), false),
            (format!("W/\"{ETAG}\""), false),
            (BEFORE.to_owned(), false),
        ] {
            let request = head(&format!(
                "GET /b/k HTTP/1.1\nHost: h\nRange: bytes=0-1\nIf-Range: {condition}"
            ));
            let found = chosen_range(&request, &ETAG, MODIFIED_MS, 100).unwrap();
            assert_eq!(found.is_some(), ranged, "{condition}");
        }
    }
}
