//! A certificate chain and its private key: PEM files in, what handshakes need out.
//!
//! Reading the files is the caller's: at start by `std`, later by `rt`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{InconsistentKeys, ServerConfig};
use sha2::{Digest, Sha256};

use crate::rt;

/// Bytes of one PEM file: a chain is some 5 KiB, and a bundle of all the world's roots 250.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

/// Where the pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why files make no pair: one line that ends in the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error("{path} cannot be read ({reason}); correct {flag} or the file's owner and mode")]
    Unreadable {
        path: String,
        reason: String,
        flag: &'static str,
    },
    #[error("{path} has more than {FILE_BYTES_MAX} bytes and is no {what}; correct {flag}")]
    TooLarge {
        path: String,
        what: &'static str,
        flag: &'static str,
    },
    #[error(
        "{path} holds no certificate in PEM form; give --tls-cert a file with -----BEGIN \
         CERTIFICATE-----, the server's first (from DER: openssl x509 -inform der -in FILE)"
    )]
    NoCertificate { path: String },
    #[error(
        "{path} holds no private key in PEM form; give --tls-key a file with -----BEGIN PRIVATE \
         KEY----- (from DER: openssl pkey -inform der -in FILE)"
    )]
    NoKey { path: String },
    #[error(
        "{path} is encrypted with a passphrase, which nobody can type here; decrypt it: openssl \
         pkey -in {path} -out FILE, then chmod 600 FILE"
    )]
    Encrypted { path: String },
    #[error("{path} is damaged: it is not PEM ({reason}); restore it")]
    Malformed { path: String, reason: String },
    #[error(
        "{key} is not the key of the first certificate in {certificate}; give --tls-cert and \
         --tls-key files that were issued together, the server's certificate before its issuers'"
    )]
    Mismatch { certificate: String, key: String },
    #[error("{path} cannot be used ({reason}); use an ECDSA P-256 or RSA 2048 pair")]
    Unusable { path: String, reason: String },
}

/// A certificate with its key, ready for handshakes.
#[derive(Clone)]
pub struct Pair {
    pub config: Arc<ServerConfig>,
    /// Seconds since 1970, from the server's certificate; `None` if they cannot be read.
    pub valid: Option<Validity>,
    /// See [`fingerprint`].
    pub fingerprint: [u8; 32],
}

/// Tells one state of the files from another, without keeping the key.
pub fn fingerprint(certificate: &[u8], key: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((certificate.len() as u64).to_le_bytes());
    hash.update(certificate);
    hash.update(key);
    hash.finalize().into()
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({:?})", self.valid)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub to: i64,
}

/// Time by `rt`'s clock.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = std::time::Duration::from_millis(rt::unix_ms());
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// Random bytes by `rt`. (Ephemeral keys are drawn by the cryptographic library itself.)
#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        rt::fill_random(out);
        Ok(())
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        secure_random: &Random,
        ..aws_lc_rs::default_provider()
    }
}

impl Files {
    /// Makes the pair from the contents of both files.
    pub fn pair(&self, certificate: &[u8], key: &[u8]) -> Result<Pair, PairError> {
        let certificate_path = self.certificate.display().to_string();
        let key_path = self.key.display().to_string();
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| PairError::Malformed {
                path: certificate_path.clone(),
                reason: error.to_string(),
            })?;
        let Some(first) = chain.first() else {
            return Err(PairError::NoCertificate {
                path: certificate_path,
            });
        };
        let valid = validity(first);
        let private = match PrivateKeyDer::from_pem_slice(key) {
            Ok(private) => private,
            Err(rustls::pki_types::pem::Error::NoItemsFound) => {
                let encrypted = key.windows(9).any(|part| part == b"ENCRYPTED");
                return Err(match encrypted {
                    true => PairError::Encrypted { path: key_path },
                    false => PairError::NoKey { path: key_path },
                });
            }
            // The kind of error alone: a message could quote the key.
            Err(_) => {
                return Err(PairError::Malformed {
                    path: key_path,
                    reason: "a section does not end, or is not base64".to_owned(),
                });
            }
        };
        let provider = Arc::new(provider());
        let signer = provider
            .key_provider
            .load_private_key(private)
            .map_err(|error| PairError::Unusable {
                path: key_path.clone(),
                reason: error.to_string(),
            })?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(PairError::Mismatch {
                    certificate: certificate_path,
                    key: key_path,
                });
            }
            Err(error) => {
                return Err(PairError::Unusable {
                    path: certificate_path,
                    reason: error.to_string(),
                });
            }
        }
        let resolver = rustls::sign::SingleCertAndKey::from(certified);
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(Clock))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| PairError::Unusable {
                path: certificate_path,
                reason: error.to_string(),
            })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // No resumption: see the head of `tls`.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Pair {
            config: Arc::new(config),
            valid,
            fingerprint: fingerprint(certificate, key),
        })
    }

    /// Reads both files, outside of any core.
    pub fn load(&self) -> Result<Pair, PairError> {
        let read = |path: &Path, what, flag| {
            let unreadable = |error: std::io::Error| unreadable(path, flag, &error);
            let metadata = std::fs::metadata(path).map_err(unreadable)?;
            if metadata.len() > FILE_BYTES_MAX as u64 {
                return Err(PairError::TooLarge {
                    path: path.display().to_string(),
                    what,
                    flag,
                });
            }
            std::fs::read(path).map_err(unreadable)
        };
        let certificate = read(&self.certificate, "certificate", "--tls-cert")?;
        let key = read(&self.key, "private key", "--tls-key")?;
        self.pair(&certificate, &key)
    }

    /// Both files as they are now, from within a core.
    pub async fn read(&self) -> Result<(Vec<u8>, Vec<u8>), PairError> {
        let read = async |path: &Path, flag| {
            let bytes = rt::fs::read_file(path, FILE_BYTES_MAX).await;
            bytes.map_err(|error| unreadable(path, flag, &error))
        };
        let certificate = read(&self.certificate, "--tls-cert").await?;
        Ok((certificate, read(&self.key, "--tls-key").await?))
    }
}

fn unreadable(path: &Path, flag: &'static str, error: &std::io::Error) -> PairError {
    PairError::Unreadable {
        path: path.display().to_string(),
        reason: error.to_string(),
        flag,
    }
}

impl Pair {
    /// What is wrong with the certificate's time, for a log.
    pub fn time_warning(&self, unix_seconds: i64) -> Option<&'static str> {
        let valid = self.valid?;
        if unix_seconds > valid.to {
            Some("the TLS certificate has expired and clients will refuse it; renew it")
        } else if unix_seconds < valid.from {
            Some("the TLS certificate is not valid yet; check the clock of this machine")
        } else {
            None
        }
    }
}

// ---- the validity of a certificate ---------------------------------------------------------------

/// From the DER of a certificate (RFC 5280, section 4.1): Certificate > TBSCertificate > [0]
/// version, serial number, signature, issuer, **validity**. `None` if it is something else.
fn validity(certificate: &[u8]) -> Option<Validity> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    const VERSION: u8 = 0xa0;
    let (_, whole) = element(&mut &certificate[..], Some(SEQUENCE))?;
    let (_, mut fields) = element(&mut &whole[..], Some(SEQUENCE))?;
    if fields.first() == Some(&VERSION) {
        element(&mut fields, Some(VERSION))?;
    }
    element(&mut fields, Some(INTEGER))?;
    element(&mut fields, Some(SEQUENCE))?;
    element(&mut fields, Some(SEQUENCE))?;
    let (_, mut times) = element(&mut fields, Some(SEQUENCE))?;
    Some(Validity {
        from: instant(element(&mut times, None)?)?,
        to: instant(element(&mut times, None)?)?,
    })
}

/// Takes one element off `bytes`: its tag (which must be `expected`) and what is in it.
fn element<'a>(bytes: &mut &'a [u8], expected: Option<u8>) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = bytes.split_first()?;
    if expected.is_some_and(|expected| expected != tag) {
        return None;
    }
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        // Up to 4 bytes of length, as all of a certificate fits into `FILE_BYTES_MAX`.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(short - 0x80))?;
            let length = digits.iter().fold(0, |sum, &d| sum << 8 | usize::from(d));
            (length, rest)
        }
        _ => return None,
    };
    let (inside, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((tag, inside))
}

/// Of UTCTime (`yymmddhhmmssZ`, years 1950 to 2049) and GeneralizedTime (`yyyymmddhhmmssZ`).
fn instant((tag, text): (u8, &[u8])) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| -> Option<u32> {
        let digits = digits.get(range)?;
        Some(
            digits
                .iter()
                .fold(0, |sum, &d| sum * 10 + u32::from(d - b'0')),
        )
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match number(0..2)? {
            year @ 0..50 => (2000 + year, 2),
            year => (1900 + year, 2),
        },
        (GENERALIZED_TIME, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let two = |at: usize| number(rest + at..rest + at + 2);
    let month = time::Month::try_from(u8::try_from(two(0)?).ok()?).ok()?;
    let day = u8::try_from(two(2)?).ok()?;
    let date = time::Date::from_calendar_date(i32::try_from(year).ok()?, month, day).ok()?;
    let small = |n: u32| u8::try_from(n).ok();
    let clock = date.with_hms(small(two(4)?)?, small(two(6)?)?, small(two(8)?)?);
    Some(clock.ok()?.assume_utc().unix_timestamp())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// PEM of a certificate for `localhost` and 127.0.0.1, and of its key.
    pub(crate) fn issue(years: std::ops::Range<i32>) -> (String, String) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(years.end, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn files() -> Files {
        Files {
            certificate: "/etc/c.pem".into(),
            key: "/etc/k.pem".into(),
        }
    }

    fn refused(certificate: &str, key: &str) -> String {
        let refused = files().pair(certificate.as_bytes(), key.as_bytes());
        let line = refused.unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn a_pair_knows_how_long_it_is_valid() {
        // Within and beyond the years that UTCTime has.
        for (years, to) in [(2001..2030, 1_896_307_200), (1960..2060, 2_842_992_000)] {
            let (certificate, key) = issue(years);
            let pair = files()
                .pair(certificate.as_bytes(), key.as_bytes())
                .unwrap();
            let valid = pair.valid.unwrap();
            assert_eq!(valid.to, to);
            assert_eq!(pair.time_warning(valid.to), None);
            assert!(pair.time_warning(valid.to + 1).unwrap().contains("expired"));
            let early = pair.time_warning(valid.from - 1).unwrap();
            assert!(early.contains("not valid yet"), "{early}");
        }
    }

    #[test]
    fn noise_has_no_validity() {
        let (certificate, _) = issue(2001..2030);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        assert!(validity(&der).is_some());
        for cut in 0..200 {
            assert_eq!(validity(&der[..cut]), None);
        }
        for at in 0..der.len() {
            for change in [1, 0x80, 0xff] {
                let mut noise = der.to_vec();
                noise[at] ^= change;
                validity(&noise);
            }
        }
        assert_eq!(instant((0x17, b"991332000000Z")), None);
        assert_eq!(instant((0x17, b"9912310000")), None);
    }

    #[test]
    fn files_that_are_no_pair_are_refused_in_one_line_without_the_key() {
        let (certificate, key) = issue(2001..2030);
        let (_, other) = issue(2001..2030);
        assert!(refused("", &key).contains("/etc/c.pem holds no certificate in PEM form"));
        assert!(refused(&key, &key).contains("/etc/c.pem holds no certificate"));
        assert!(refused(&certificate, "nothing").contains("/etc/k.pem holds no private key"));
        assert!(refused(&certificate, &certificate).contains("/etc/k.pem holds no private key"));
        assert!(
            refused(&certificate, &other)
                .contains("/etc/k.pem is not the key of the first certificate in /etc/c.pem")
        );
        let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert!(refused(&certificate, &locked).contains("encrypted with a passphrase"));
        let cut = &key[..key.len() / 2];
        assert!(refused(&certificate, cut).contains("/etc/k.pem is damaged"));
        let secret = key.lines().nth(1).unwrap();
        assert!(!refused(&certificate, cut).contains(&secret[..20]));
        let wrong = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(refused(&certificate, wrong).contains("/etc/k.pem cannot be used"));
        let wrong = wrong.replace("PRIVATE KEY", "CERTIFICATE");
        assert!(refused(&wrong, &key).contains("/etc/c.pem cannot be used"));
    }

    #[test]
    fn a_pair_does_not_print_its_key() {
        let (certificate, key) = issue(2001..2030);
        let pair = files()
            .pair(certificate.as_bytes(), key.as_bytes())
            .unwrap();
        assert!(format!("{pair:?}").len() < 100);
    }
}
