//! Who may speak to this store, and their signing keys.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// Days for which a user's signing key is kept: presigned requests live for 7 days, and one more
/// for the skew of clocks.
const SIGNING_DAYS_MAX: usize = 8;

/// One line of the table. The secret never leaves this module and is not printed.
pub struct User {
    pub name: String,
    pub access_key: String,
    /// The canonical id in `Owner` elements; buckets are owned by it.
    pub id: String,
    pub email: Option<String>,
    /// The root user passes every ownership check.
    pub root: bool,
    secret_key: String,
    /// Signing keys by day, latest first. They depend on secret, day, region and service, and the
    /// last two are the same for all requests that get this far.
    signing: RefCell<SmallVec<[SigningKey; 2]>>,
}

type SigningKey = (Day, [u8; 32]);

/// `yyyymmdd`
pub type Day = [u8; 8];

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl User {
    pub fn new(
        name: impl Into<String>,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
        id: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            access_key: access_key.into(),
            id: id.into(),
            email: None,
            root: false,
            secret_key: secret_key.into(),
            signing: RefCell::new(SmallVec::new()),
        }
    }

    /// The user who may do everything.
    pub fn root(
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
        id: impl Into<String>,
    ) -> Self {
        Self {
            root: true,
            ..Self::new("root", access_key, secret_key, id)
        }
    }

    /// The key that signs requests of `day` (SigV4, "Derive a signing key").
    pub fn signing_key(&self, day: &Day, region: &str) -> [u8; 32] {
        let mut known = self.signing.borrow_mut();
        if let Some((_, key)) = known.iter().find(|(known, _)| known == day) {
            return *key;
        }
        let secret = [b"AWS4", self.secret_key.as_bytes()].concat();
        let mut key = hmac(&secret, day);
        for part in [region.as_bytes(), b"s3", b"aws4_request"] {
            key = hmac(&key, part);
        }
        known.truncate(SIGNING_DAYS_MAX - 1);
        known.insert(0, (*day, key));
        key
    }
}

pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length, so this cannot fail.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The users of one region, by access key.
#[derive(Debug)]
pub struct Users {
    region: String,
    by_access_key: BTreeMap<String, Rc<User>>,
}

impl Users {
    /// Of two users with one access key the later is kept; the configuration refuses that earlier.
    pub fn new(region: impl Into<String>, users: impl IntoIterator<Item = User>) -> Self {
        let by_access_key = users
            .into_iter()
            .map(|user| (user.access_key.clone(), Rc::new(user)))
            .collect();
        Self {
            region: region.into(),
            by_access_key,
        }
    }

    /// The region that signatures must name.
    pub fn region(&self) -> &str {
        &self.region
    }

    pub fn by_access_key(&self, access_key: &str) -> Option<&Rc<User>> {
        self.by_access_key.get(access_key)
    }

    /// The display name of the owner with this id.
    pub fn name_of(&self, id: &str) -> Option<&str> {
        self.by_access_key
            .values()
            .find(|user| user.id == id)
            .map(|user| user.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let user = User::root("AKID", "canary-secret", "id");
        user.signing_key(b"20130524", "us-east-1");
        let users = Users::new("us-east-1", [user]);
        assert!(!format!("{users:?}").contains("canary"));
    }

    #[test]
    fn signing_keys_are_those_of_the_reference_and_bounded() {
        // "Examples of how to derive a signing key for Signature Version 4" uses service iam;
        // this vector is botocore's for s3.
        let user = User::root(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            "id",
        );
        let first = user.signing_key(b"20150830", "us-east-1");
        for day in 10..99 {
            user.signing_key(
                format!("201501{day}").as_bytes().try_into().unwrap(),
                "us-east-1",
            );
        }
        assert_eq!(user.signing.borrow().len(), SIGNING_DAYS_MAX);
        assert_eq!(user.signing_key(b"20150830", "us-east-1"), first);
    }
}
