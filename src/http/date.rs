//! Dates as HTTP and S3 write them. All times are milliseconds or seconds since 1970, UTC.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const HTTP: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
const ISO: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const BASIC: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

fn at(unix_ms: u64) -> OffsetDateTime {
    i64::try_from(unix_ms / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        + std::time::Duration::from_millis(unix_ms % 1000)
}

/// `Wed, 12 Oct 2009 17:50:00 GMT` (RFC 9110, 5.6.7): response heads.
pub fn http(unix_ms: u64) -> String {
    at(unix_ms).format(HTTP).unwrap_or_default()
}

/// `2009-10-12T17:50:30.000Z`: XML.
pub fn iso(unix_ms: u64) -> String {
    at(unix_ms).format(ISO).unwrap_or_default()
}

/// Seconds of an HTTP date; `None` when it is not one.
pub fn parse_http(text: &str) -> Option<i64> {
    let parsed = time::PrimitiveDateTime::parse(text, HTTP).ok()?;
    Some(parsed.assume_utc().unix_timestamp())
}

/// Seconds of a date as `x-amz-date` has it, `20130524T000000Z`.
pub fn parse_basic(text: &str) -> Option<i64> {
    if text.len() != 16 {
        return None;
    }
    let parsed = time::PrimitiveDateTime::parse(text, BASIC).ok()?;
    Some(parsed.assume_utc().unix_timestamp())
}

/// `20130524T000000Z`
pub fn basic(unix_ms: u64) -> String {
    at(unix_ms).format(BASIC).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read() {
        assert_eq!(http(1_369_353_600_000), "Fri, 24 May 2013 00:00:00 GMT");
        assert_eq!(iso(1_369_353_600_123), "2013-05-24T00:00:00.123Z");
        assert_eq!(basic(1_369_353_600_999), "20130524T000000Z");
        assert_eq!(
            parse_http("Fri, 24 May 2013 00:00:00 GMT"),
            Some(1_369_353_600)
        );
        assert_eq!(parse_basic("20130524T000000Z"), Some(1_369_353_600));
        for bad in [
            "",
            "20130524T000000",
            "20130524T000000Zx",
            "20131324T000000Z",
            "+0130524T00000Z",
        ] {
            assert_eq!(parse_basic(bad), None, "{bad}");
        }
        assert_eq!(parse_http("yesterday"), None);
        http(u64::MAX);
        iso(u64::MAX);
    }
}
