//! A signer of its own, from the text of the specification: what it signs, the server must take.
#![allow(dead_code)] // each target takes some of it

use hmac::{Hmac, Mac};
use ostrakon::s3::users::{User, Users};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sha2::{Digest, Sha256};

pub const DAY: &str = "20130524";
pub const STAMP: &str = "20130524T000000Z";
pub const NOW: i64 = 1_369_353_600;
pub const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";
pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
pub const ACCESS: &str = "AKIAIOSFODNN7EXAMPLE";

thread_local! {
    /// Kept from run to run: signing keys are remembered in it.
    pub static USERS: Users = Users::new("us-east-1", [User::root(ACCESS, SECRET, "id")]);
    static KEY: [u8; 32] = {
        let mut key = hmac(format!("AWS4{SECRET}").as_bytes(), DAY.as_bytes());
        for part in ["us-east-1", "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        key
    };
}

pub fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The signature of a string to sign whose last lines are `lines`.
pub fn seal(kind: &str, lines: &[&str]) -> String {
    let text = format!("{kind}\n{STAMP}\n{SCOPE}\n{}", lines.join("\n"));
    hex(&KEY.with(|key| hmac(key, text.as_bytes())))
}

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Escapes undone and made again as signatures have them; `None` for one that is none.
fn again(raw: &[u8]) -> Option<String> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        match raw[at] {
            b'%' => {
                let digits = std::str::from_utf8(raw.get(at + 1..at + 3)?).ok()?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                out.push(u8::from_str_radix(digits, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    Some(percent_encode(&out, ENCODED).to_string())
}

/// A request before it is signed.
pub struct Plain<'a> {
    pub method: &'a [u8],
    pub path: &'a [u8],
    pub query: &'a [u8],
    /// Lower case names and values, in the order that they are sent.
    pub fields: &'a [(String, Vec<u8>)],
}

impl Plain<'_> {
    /// Names of the fields that are signed, and the signature over `payload`.
    pub fn sign(&self, payload: &str) -> Option<(String, String)> {
        let mut pairs = Vec::new();
        for pair in self.query.split(|byte| *byte == b'&') {
            if pair.is_empty() {
                continue;
            }
            let at = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = match at {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            pairs.push((again(name)?, again(value)?));
        }
        pairs.sort();
        let query: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();

        let mut names: Vec<&str> = self
            .fields
            .iter()
            .map(|(name, _)| &name[..])
            .filter(|name| *name == "host" || name.starts_with("x-amz-"))
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut text = Vec::new();
        text.extend_from_slice(self.method);
        text.push(b'\n');
        text.extend_from_slice(self.path);
        text.extend_from_slice(format!("\n{}\n", query.join("&")).as_bytes());
        for name in &names {
            let mut values: Vec<Vec<u8>> = Vec::new();
            for (_, value) in self.fields.iter().filter(|(found, _)| found == name) {
                let mut single = value.trim_ascii().to_vec();
                single.dedup_by(|a, b| *a == b' ' && *b == b' ');
                values.push(single);
            }
            text.extend_from_slice(format!("{name}:").as_bytes());
            text.extend_from_slice(&values.join(&b","[..]));
            text.push(b'\n');
        }
        let names = names.join(";");
        text.extend_from_slice(format!("\n{names}\n{payload}").as_bytes());
        Some((names, seal("AWS4-HMAC-SHA256", &[&sha256(&text)])))
    }
}

pub fn authorization(names: &str, signature: &str) -> String {
    format!(
        "authorization: AWS4-HMAC-SHA256 Credential={ACCESS}/{SCOPE}, SignedHeaders={names}, Signature={signature}\r\n"
    )
}
