//! Paths and queries: escapes undone once, and the escaping that signatures and listings use.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::borrow::Cow;

/// What SigV4 calls `UriEncode`: everything but the unreserved characters of RFC 3986.
pub const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// As [`ENCODED`], with `/` left alone: keys in listings with `encoding-type=url`.
pub const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Most `name=value` pairs in a query; the widest presigned listing has about 20.
pub const QUERY_PAIRS_MAX: usize = 64;

/// A `%` without two hexadecimal digits behind it, or too many pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTarget;

/// Whether `+` stands for itself (paths) or for a space (queries).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    Literal,
    Space,
}

/// Undoes the escapes of `raw`, once. Borrows when there are none.
pub fn decode(raw: &[u8], plus: Plus) -> Result<Cow<'_, [u8]>, BadTarget> {
    let special = |byte: &u8| *byte == b'%' || (*byte == b'+' && plus == Plus::Space);
    let Some(first) = raw.iter().position(special) else {
        return Ok(Cow::Borrowed(raw));
    };
    let mut out = Vec::with_capacity(raw.len());
    out.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = rest else {
                    return Err(BadTarget);
                };
                let (high, low) = (nibble(*high)?, nibble(*low)?);
                out.push(high << 4 | low);
                rest = after;
            }
            b'+' if plus == Plus::Space => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Ok(Cow::Owned(out))
}

fn nibble(digit: u8) -> Result<u8, BadTarget> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(BadTarget),
    }
}

/// Name and value.
type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// The pairs of a query, decoded, in the order they were sent.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    pairs: Vec<Pair<'a>>,
}

impl<'a> Query<'a> {
    /// `acl` is the pair (`acl`, empty), as for a signature; empty pairs are skipped.
    pub fn parse(raw: &'a [u8]) -> Result<Self, BadTarget> {
        let mut pairs = Vec::new();
        for pair in raw
            .split(|&byte| byte == b'&')
            .filter(|pair| !pair.is_empty())
        {
            if pairs.len() == QUERY_PAIRS_MAX {
                return Err(BadTarget);
            }
            let (name, value) = match pair.iter().position(|&byte| byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[..0]),
            };
            pairs.push((decode(name, Plus::Space)?, decode(value, Plus::Space)?));
        }
        Ok(Self { pairs })
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Drops the pairs whose name does not pass.
    pub fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        self.pairs.retain(|(name, _)| keep(name));
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.pairs()
            .find(|(found, _)| *found == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// A name that is given more than once, if there is one.
    pub fn repeated(&self) -> Option<&[u8]> {
        let mut names: Vec<&[u8]> = self.pairs().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
            .windows(2)
            .find(|two| two[0] == two[1])
            .map(|two| two[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_undone_once() {
        let path = |raw: &str| decode(raw.as_bytes(), Plus::Literal).map(Cow::into_owned);
        assert_eq!(path("/a+b%20c").unwrap(), b"/a+b c");
        assert_eq!(path("%252F").unwrap(), b"%2F");
        assert_eq!(path("%2f%2F").unwrap(), b"//");
        assert_eq!(path("/a/../b/./c//").unwrap(), b"/a/../b/./c//");
        for bad in ["%", "%2", "%zz", "%2g", "a%"] {
            assert_eq!(path(bad), Err(BadTarget), "{bad}");
        }
    }

    #[test]
    fn queries_split_before_they_are_decoded() {
        let query = Query::parse(b"acl&&a=b%26c=d&p=x+y%2Bz&e=").unwrap();
        let pairs: Vec<_> = query.pairs().collect();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"acl", b""),
            (b"a", b"b&c=d"),
            (b"p", b"x y+z"),
            (b"e", b""),
        ];
        assert_eq!(pairs, expected);
        assert_eq!(query.repeated(), None);
        assert_eq!(
            Query::parse(b"a=1&%61=2").unwrap().repeated(),
            Some(&b"a"[..])
        );
        let many = "a&".repeat(QUERY_PAIRS_MAX + 1);
        assert!(Query::parse(many.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn encoding_is_undone_by_decoding(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = percent_encoding::percent_encode(&bytes, ENCODED).to_string();
            for plus in [Plus::Space, Plus::Literal] {
                prop_assert_eq!(decode(text.as_bytes(), plus).map(Cow::into_owned), Ok(bytes.clone()));
            }
            let _ = decode(&bytes, Plus::Space);
            let _ = Query::parse(&bytes);
        }
    }
}
