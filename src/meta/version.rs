//! What the index keeps of a version and of a bucket at hand: enough to list, and to know what dies with it. Everything
//! else is in the record, which the slot's place names. Archived with rkyv and read in place; the index can be rebuilt,
//! so these layouts may change between releases.

use rkyv::{Archive, Deserialize, Serialize, rancor};
use shard_format::{Body, BucketState, Etag, ObjectId, PutBucket, PutVersion};

/// An entity tag as clients see it, without quotes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub enum EtagValue {
    Md5([u8; 16]),
    Text(String),
    None,
}

impl EtagValue {
    pub fn of(etag: &Etag<'_>) -> EtagValue {
        match etag {
            Etag::Md5(b) => EtagValue::Md5(*b),
            Etag::Text(t) => EtagValue::Text((*t).to_owned()),
            Etag::None => EtagValue::None,
        }
    }

    pub fn matches(&self, etag: &Etag<'_>) -> bool {
        *self == EtagValue::of(etag)
    }
}

impl std::fmt::Display for EtagValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EtagValue::Md5(b) => b.iter().try_for_each(|b| write!(f, "{b:02x}")),
            EtagValue::Text(t) => f.write_str(t),
            EtagValue::None => Ok(()),
        }
    }
}

/// A version as listings and the free list need it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct VersionValue {
    pub object: [u8; 16],
    pub size: u64,
    pub modified_ms: u64,
    pub etag: EtagValue,
    pub owner: String,
    pub storage_class: Option<String>,
    pub delete_marker: bool,
    /// Chunks in segment files; 0 if the body is inline.
    pub chunks: u32,
}

impl VersionValue {
    pub fn of(put: &PutVersion<'_>) -> VersionValue {
        VersionValue {
            object: put.object.0,
            size: put.size,
            modified_ms: put.modified_ms,
            etag: EtagValue::of(&put.etag),
            owner: put.owner.to_owned(),
            storage_class: put
                .fields
                .storage_class
                .map(|s| String::from_utf8_lossy(s).into_owned()),
            delete_marker: matches!(put.body, Body::DeleteMarker),
            chunks: match put.body {
                Body::Chunks(n) => n,
                Body::Inline(_) | Body::DeleteMarker => 0,
            },
        }
    }

    pub fn object(&self) -> ObjectId {
        ObjectId(self.object)
    }

    pub fn encode(&self) -> Vec<u8> {
        rkyv::to_bytes::<rancor::Error>(self)
            .expect("plain data serialises")
            .to_vec()
    }

    /// The archived value in place. `None` if the bytes are not one.
    pub fn access(bytes: &[u8]) -> Option<&ArchivedVersionValue> {
        rkyv::access::<ArchivedVersionValue, rancor::Error>(bytes).ok()
    }

    pub fn decode(bytes: &[u8]) -> Option<VersionValue> {
        rkyv::from_bytes::<VersionValue, rancor::Error>(bytes).ok()
    }
}

/// A bucket.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BucketValue {
    pub id: u64,
    pub owner: String,
    pub region: String,
    pub created_ms: u64,
    pub deleting: bool,
}

impl BucketValue {
    pub fn of(put: &PutBucket<'_>) -> BucketValue {
        BucketValue {
            id: put.bucket.0,
            owner: put.owner.to_owned(),
            region: put.region.to_owned(),
            created_ms: put.created.ms(),
            deleting: put.state == BucketState::Deleting,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        rkyv::to_bytes::<rancor::Error>(self)
            .expect("plain data serialises")
            .to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Option<BucketValue> {
        rkyv::from_bytes::<BucketValue, rancor::Error>(bytes).ok()
    }
}
