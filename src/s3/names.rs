//! Bucket names, keys, and how host and path name them.

use crate::http::target::{Plus, decode};
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::route::On;

/// Longest key, in bytes of UTF-8.
pub const KEY_SIZE_MAX: usize = 1024;

/// Names that no bucket may have: paths of the server itself begin with them.
const RESERVED: [&str; 2] = ["minio", "_ostrakon"];

const NAME_SIZE_MIN: usize = 3;
const NAME_SIZE_MAX: usize = 63;

/// Beginnings and ends that AWS keeps for other things than buckets in the namespace of all.
const FOREIGN_PREFIXES: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
const FOREIGN_SUFFIXES: [&str; 6] = [
    "-s3alias",
    "--ol-s3",
    ".mrap",
    "--x-s3",
    "--table-s3",
    "-an",
];

/// Whether a general purpose bucket of AWS may be called `name` ("General purpose bucket naming
/// rules"), and it is not reserved here.
pub fn is_bucket_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    (NAME_SIZE_MIN..=NAME_SIZE_MAX).contains(&bytes.len())
        && bytes
            .iter()
            .all(|&byte| alphanumeric(byte) || byte == b'.' || byte == b'-')
        && alphanumeric(first)
        && alphanumeric(last)
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !looks_like_address(name)
        && !FOREIGN_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        && !FOREIGN_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        && !RESERVED.contains(&name)
}

/// Four numbers with dots between them, whatever their size.
fn looks_like_address(name: &str) -> bool {
    name.split('.').count() == 4
        && name
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the service. Not yet checked against the naming rules.
    pub bucket: String,
    /// Empty for bucket and service. Opaque: decoded once, never normalised.
    pub key: Vec<u8>,
}

impl Resource {
    pub fn on(&self) -> On {
        match (self.bucket.is_empty(), self.key.is_empty()) {
            (true, _) => On::Service,
            (false, true) => On::Bucket,
            (false, false) => On::Object,
        }
    }

    /// Reads `raw_path`; `host` is the `Host` field and `domains` are those whose subdomains are
    /// buckets (virtual-hosted style).
    pub fn parse(host: &[u8], raw_path: &[u8], domains: &[String]) -> S3Result<Self> {
        let path = raw_path
            .strip_prefix(b"/")
            .ok_or_else(|| S3Error::from(Code::InvalidURI))?;
        let (bucket, key) = match bucket_of_host(host, domains) {
            Some(bucket) => (bucket, path),
            None => {
                let (bucket, key) = match path.iter().position(|&byte| byte == b'/') {
                    Some(at) => (&path[..at], &path[at + 1..]),
                    None => (path, &path[..0]),
                };
                if bucket.is_empty() && !path.is_empty() {
                    return Err(Code::InvalidURI.into());
                }
                (text(bucket)?, key)
            }
        };
        let key = text(key)?.into_bytes();
        if key.contains(&0) {
            return Err(S3Error::new(
                Code::InvalidURI,
                "A key must not contain NUL.",
            ));
        }
        if key.len() > KEY_SIZE_MAX {
            return Err(S3Error::from(Code::KeyTooLongError)
                .with("Size", key.len().to_string())
                .with("MaxSizeAllowed", KEY_SIZE_MAX.to_string()));
        }
        Ok(Self { bucket, key })
    }
}

fn text(raw: &[u8]) -> S3Result<String> {
    String::from_utf8(decode(raw, Plus::Literal)?.into_owned()).map_err(|_| Code::InvalidURI.into())
}

/// The bucket that a virtual-hosted request names: `bucket.domain`, with any port.
///
/// Only the configured domains have buckets below them: another host, even one that is a bucket's
/// name, says nothing about buckets. Of several domains that fit, the longest counts, so that a
/// domain below another is no bucket of it.
pub fn bucket_of_host(host: &[u8], domains: &[String]) -> Option<String> {
    let host = std::str::from_utf8(host).ok()?;
    // An IPv6 address in brackets has colons of its own, and is nobody's subdomain.
    if host.starts_with('[') {
        return None;
    }
    let name = host.split(':').next()?.to_ascii_lowercase();
    // The dot that closes a name up to the root.
    let name = name.strip_suffix('.').unwrap_or(&name);
    let below = |domain: &String| match name.strip_suffix(domain.as_str())? {
        "" => Some((domain.len(), None)),
        rest => rest
            .strip_suffix('.')
            .filter(|bucket| !bucket.is_empty())
            .map(|bucket| (domain.len(), Some(bucket))),
    };
    let (_, bucket) = domains
        .iter()
        .filter_map(below)
        .max_by_key(|(length, _)| *length)?;
    bucket.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_rules() {
        let long = "a".repeat(63);
        for good in [
            "abc",
            "a-b",
            "a.b.c",
            "0ab",
            "1.2.3",
            "1.2.3.4.5",
            "a1.2.3.4",
            "1.2.3.a",
            "a.-b",
            "a--b",
            "0-0",
            "xn-abc",
            "axn--abc",
            "sthree",
            "sthreea",
            "amzn-s3-demo",
            "amzn-s3-demos",
            "s3alias",
            "a-s3aliasb",
            "a-ol-s3",
            "mrap",
            "a-mrap",
            "a-x-s3",
            "a--x-s3a",
            "a-table-s3",
            "aan",
            "a-ana",
            "minio1",
            "a.minio",
            "ostrakon",
            &long,
        ] {
            assert!(is_bucket_name(good), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "ab",
            &too_long,
            "Abc",
            "a_b",
            "a..b",
            ".ab",
            "ab.",
            "-ab",
            "ab-",
            "1.2.3.4",
            "999.999.999.999",
            "xn--abc",
            "sthree-a",
            "sthree-configurator-a",
            "amzn-s3-demo-b",
            "a-s3alias",
            "ab--ol-s3",
            "ab.mrap",
            "ab--x-s3",
            "ab--table-s3",
            "ab-an",
            "a.b.",
            "a\0b",
            "a%b",
            "aB1",
            "0.0.0.0",
            "255.255.255.255",
            "1.2.3.256",
            "minio",
            "_ostrakon",
            "a/b",
            "a b",
            "bücket",
        ] {
            assert!(!is_bucket_name(bad), "{bad}");
        }
    }

    fn parse(path: &str) -> Result<(String, String), Code> {
        Resource::parse(b"localhost:9000", path.as_bytes(), &[])
            .map(|found| (found.bucket, String::from_utf8(found.key).unwrap()))
            .map_err(|error| error.code)
    }

    #[test]
    fn keys_are_opaque_and_decoded_once() {
        let cases = [
            ("/", "", ""),
            ("/b", "b", ""),
            ("/b/", "b", ""),
            ("/b/k", "b", "k"),
            ("/b//", "b", "/"),
            ("/b/a/../b", "b", "a/../b"),
            ("/b/..", "b", ".."),
            ("/b/./", "b", "./"),
            ("/b/a%2Fb", "b", "a/b"),
            ("/b/a%252Fb", "b", "a%2Fb"),
            ("/b/a+b%20c%2B", "b", "a+b c+"),
            ("/b/%5C..%5Ca", "b", "\\..\\a"),
            ("/b/%E2%82%AC", "b", "€"),
            ("/%62/k", "b", "k"),
        ];
        for (path, bucket, key) in cases {
            assert_eq!(
                parse(path),
                Ok((bucket.to_owned(), key.to_owned())),
                "{path}"
            );
        }
        for bad in [
            "",
            "b/k",
            "//k",
            "/b/%",
            "/b/%zz",
            "/b/%ff",
            "/b/%c3%28",
            "/b/%00",
            "/b/a%00b",
            "/%ff/k",
        ] {
            assert_eq!(parse(bad), Err(Code::InvalidURI), "{bad}");
        }
        assert!(parse(&format!("/b/{}", "%61".repeat(KEY_SIZE_MAX))).is_ok());
        assert_eq!(
            parse(&format!("/b/{}", "a".repeat(KEY_SIZE_MAX + 1))),
            Err(Code::KeyTooLongError)
        );
    }

    #[test]
    fn hosts_name_buckets_under_the_domains() {
        let domains = ["s3.example.org", "example.net", "eu.example.net"].map(str::to_owned);
        let parse = |host: &str, path: &str| {
            let found = Resource::parse(host.as_bytes(), path.as_bytes(), &domains).unwrap();
            (found.bucket, String::from_utf8(found.key).unwrap())
        };
        let pair = |bucket: &str, key: &str| (bucket.to_owned(), key.to_owned());
        assert_eq!(parse("b.s3.example.org", "/k/l"), pair("b", "k/l"));
        assert_eq!(parse("B.c.S3.example.org:9000", "/"), pair("b.c", ""));
        assert_eq!(parse("b.s3.example.org", "//k"), pair("b", "/k"));
        assert_eq!(parse("s3.example.org:9000", "/b/k"), pair("b", "k"));
        assert_eq!(parse("xs3.example.org", "/b/k"), pair("b", "k"));
        assert_eq!(parse("[::1]:9000", "/b/k"), pair("b", "k"));
        assert_eq!(parse("[::1]", "/b/k"), pair("b", "k"));
        assert_eq!(parse("[2001:db8::1]:80", "/b.c/k"), pair("b.c", "k"));
        assert_eq!(parse("127.0.0.1", "/b/k"), pair("b", "k"));
        assert_eq!(parse("127.0.0.1:9000", "/b.c.d/k"), pair("b.c.d", "k"));
        assert_eq!(parse("b.s3.example.org.:9000", "/k"), pair("b", "k"));
        assert_eq!(parse("s3.example.org.", "/b/k"), pair("b", "k"));
        assert_eq!(parse(".s3.example.org", "/b/k"), pair("b", "k"));
        // A domain below another one is no bucket of it.
        assert_eq!(parse("eu.example.net", "/b/k"), pair("b", "k"));
        assert_eq!(parse("b.eu.example.net", "/k"), pair("b", "k"));
        assert_eq!(parse("b.example.net", "/k"), pair("b", "k"));
        // A host that is a bucket's name is a host like any other.
        assert_eq!(parse("b.example.com", "/k/l"), pair("k", "l"));
        assert_eq!(parse("bucket", "/k/l"), pair("k", "l"));
    }
}
