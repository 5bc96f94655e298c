//! The additional checksums of S3: over the bytes of an object or part, and of several parts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use sha1::Digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// As in `x-amz-sdk-checksum-algorithm`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header or trailer that carries the value.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The element of a document that carries the value.
    pub const fn element(self) -> &'static str {
        match self {
            Self::Crc32 => "ChecksumCRC32",
            Self::Crc32c => "ChecksumCRC32C",
            Self::Crc64Nvme => "ChecksumCRC64NVME",
            Self::Sha1 => "ChecksumSHA1",
            Self::Sha256 => "ChecksumSHA256",
        }
    }

    pub fn from_element(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.element() == name)
    }

    pub fn from_header(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.header() == name)
    }

    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| one.name().as_bytes().eq_ignore_ascii_case(name))
    }

    const fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Bytes of a value.
    pub const fn size(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// What a checksum of several parts is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes of the object.
    FullObject,
    /// The checksums of its parts, one after the other. Clients write it with `-` and the number of parts.
    Composite,
}

impl Kind {
    /// As in `x-amz-checksum-type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::FullObject, Self::Composite]
            .into_iter()
            .find(|one| one.name().as_bytes() == name)
    }
}

impl From<shard_format::ChecksumAlgorithm> for Algorithm {
    fn from(stored: shard_format::ChecksumAlgorithm) -> Self {
        use shard_format::ChecksumAlgorithm as Stored;
        match stored {
            Stored::Crc32 => Self::Crc32,
            Stored::Crc32c => Self::Crc32c,
            Stored::Crc64Nvme => Self::Crc64Nvme,
            Stored::Sha1 => Self::Sha1,
            Stored::Sha256 => Self::Sha256,
        }
    }
}

impl From<Algorithm> for shard_format::ChecksumAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Self::Crc32,
            Algorithm::Crc32c => Self::Crc32c,
            Algorithm::Crc64Nvme => Self::Crc64Nvme,
            Algorithm::Sha1 => Self::Sha1,
            Algorithm::Sha256 => Self::Sha256,
        }
    }
}

impl From<shard_format::ChecksumType> for Kind {
    fn from(stored: shard_format::ChecksumType) -> Self {
        match stored {
            shard_format::ChecksumType::FullObject => Self::FullObject,
            shard_format::ChecksumType::Composite => Self::Composite,
        }
    }
}

impl From<Kind> for shard_format::ChecksumType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::FullObject => Self::FullObject,
            Kind::Composite => Self::Composite,
        }
    }
}

/// A checksum's value, big endian where it is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: Algorithm,
    bytes: [u8; 32],
}

impl Checksum {
    /// From its bytes; `None` if there are not as many as the algorithm has.
    pub fn from_bytes(algorithm: Algorithm, value: &[u8]) -> Option<Self> {
        (value.len() == algorithm.size()).then(|| Self::new(algorithm, value))
    }

    fn new(algorithm: Algorithm, value: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes[..algorithm.size()].copy_from_slice(value);
        Self { algorithm, bytes }
    }

    /// Of the values of several parts, one after the other.
    pub fn of_checksums<'a>(
        algorithm: Algorithm,
        parts: impl Iterator<Item = &'a Checksum>,
    ) -> Self {
        let mut hasher = Hasher::new(algorithm);
        parts.for_each(|part| hasher.update(part.bytes()));
        hasher.finish()
    }

    /// Of the bytes of several parts, from the parts' values and lengths. Only CRCs can do this.
    pub fn of_joined(algorithm: Algorithm, parts: &[(Checksum, u64)]) -> Option<Self> {
        let crc = algorithm.crc()?;
        let number = |value: &Checksum| {
            let mut bytes = [0; 8];
            bytes[8 - algorithm.size()..].copy_from_slice(value.bytes());
            u64::from_be_bytes(bytes)
        };
        let joined = parts
            .iter()
            .map(|(value, length)| (number(value), *length))
            .reduce(|(whole, before), (value, length)| {
                let joined = crc_fast::checksum_combine(crc, whole, value, length);
                (joined, before + length)
            });
        let (value, _) = joined?;
        Some(Self::new(
            algorithm,
            &value.to_be_bytes()[8 - algorithm.size()..],
        ))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// As clients write it; `None` when it is not base64 of the right length.
    pub fn parse(algorithm: Algorithm, text: &[u8]) -> Option<Self> {
        let value = BASE64.decode(text).ok()?;
        (value.len() == algorithm.size()).then(|| Self::new(algorithm, &value))
    }

    pub fn base64(&self) -> String {
        BASE64.encode(self.bytes())
    }
}

/// A checksum in the making.
pub enum Hasher {
    Crc(Algorithm, Crc),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Self::Crc(algorithm, Crc::new(crc)),
            (None, Algorithm::Sha1) => Self::Sha1(sha1::Sha1::new()),
            (None, _) => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(_, crc) => crc.update(bytes),
            Self::Sha1(sha) => sha.update(bytes),
            Self::Sha256(sha) => sha.update(bytes),
        }
    }

    pub fn finish(self) -> Checksum {
        match self {
            Self::Crc(algorithm, crc) => {
                let value = crc.finalize().to_be_bytes();
                Checksum::new(algorithm, &value[8 - algorithm.size()..])
            }
            Self::Sha1(sha) => Checksum::new(Algorithm::Sha1, &sha.finalize()),
            Self::Sha256(sha) => Checksum::new(Algorithm::Sha256, &sha.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_values_are_those_of_the_joined_bytes() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        let of = |algorithm, bytes: &[u8]| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(bytes);
            hasher.finish()
        };
        for algorithm in Algorithm::ALL {
            let parts: Vec<(Checksum, u64)> =
                [&bytes[..1], &bytes[1..1], &bytes[1..700], &bytes[700..]]
                    .iter()
                    .map(|part| (of(algorithm, part), part.len() as u64))
                    .collect();
            let whole = algorithm.crc().map(|_| of(algorithm, &bytes));
            assert_eq!(
                Checksum::of_joined(algorithm, &parts),
                whole,
                "{algorithm:?}"
            );
            let values: Vec<u8> = parts.iter().flat_map(|(v, _)| v.bytes().to_vec()).collect();
            assert_eq!(
                Checksum::of_checksums(algorithm, parts.iter().map(|(v, _)| v)),
                of(algorithm, &values)
            );
        }
    }

    #[test]
    fn values_are_those_of_the_definitions() {
        // The check values of the CRC catalogue and of FIPS 180, over "123456789".
        let cases = [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                Algorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ];
        for (algorithm, expected) in cases {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"1234");
            hasher.update(b"56789");
            let value = hasher.finish();
            let hex: String = value
                .bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(hex, expected, "{algorithm:?}");
            assert_eq!(
                Checksum::parse(algorithm, value.base64().as_bytes()),
                Some(value)
            );
            assert_eq!(Algorithm::from_header(algorithm.header()), Some(algorithm));
        }
        assert_eq!(Checksum::parse(Algorithm::Crc32, b"AAAAAAA="), None);
        assert_eq!(Checksum::parse(Algorithm::Crc32, b"!"), None);
    }
}
