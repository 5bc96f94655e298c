//! Root credentials: made once, at first start, and kept in `DATA/credentials`.
//!
//! - Never a default: 100 bits for the access key and 238 for the secret, from the OS.
//! - Never in a log and never in a panic: [`Secret`] has no readable `Debug` and no `Display`.
//! - The file has mode 0600 and the form of an AWS shared credentials file, so that it can be used
//!   as it is (`AWS_SHARED_CREDENTIALS_FILE=…`).
//! - It appears whole or not at all: written beside, flushed, renamed, directory flushed. A crash
//!   at first start leaves at most `credentials.new`, which the next start replaces.
//!
//! Credentials in the environment win over stored ones and are not stored; with them, a first
//! start makes none.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

pub const FILE_NAME: &str = "credentials";
pub const NEW_FILE_NAME: &str = "credentials.new";

const ACCESS_KEY_LENGTH: usize = 20;
const SECRET_KEY_LENGTH: usize = 40;
/// 32 letters: 5 bits each, and the alphabet of AWS's own access keys.
const ACCESS_KEY_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Without `/` and `+`, which have to be escaped in too many places.
const SECRET_KEY_ALPHABET: &[u8] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// What we write is under 300 bytes; an operator may add comments.
const FILE_BYTES_MAX: u64 = 4096;

/// Those of AWS; `SECRET_LENGTH_MIN` keeps out what can be typed by trying.
const ACCESS_LENGTH_MIN: usize = 3;
const ACCESS_LENGTH_MAX: usize = 128;
const SECRET_LENGTH_MIN: usize = 8;
const SECRET_LENGTH_MAX: usize = 128;

/// A secret key. Compared in constant time, shown only through [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// The reason continues a sentence that starts with the key's name.
pub fn check_access_key(key: &str) -> Result<(), String> {
    let fits = (ACCESS_LENGTH_MIN..=ACCESS_LENGTH_MAX).contains(&key.len());
    // `/` and `,` separate the parts of a signature header that carries the key.
    let plain = key
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"/,=\"'#;".contains(&byte));
    if fits && plain {
        return Ok(());
    }
    Err(format!(
        "must be {ACCESS_LENGTH_MIN} to {ACCESS_LENGTH_MAX} letters, digits or plain signs"
    ))
}

/// Does not repeat the key.
pub fn check_secret_key(key: &str) -> Result<(), String> {
    let fits = (SECRET_LENGTH_MIN..=SECRET_LENGTH_MAX).contains(&key.len());
    if fits && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!(
        "must be {SECRET_LENGTH_MIN} to {SECRET_LENGTH_MAX} printable characters without spaces"
    ))
}

/// Where the root credentials in force come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Made by this start, now in this file.
    Generated(PathBuf),
    Stored(PathBuf),
    /// `differs`: there is a file too, and it says something else.
    Environment {
        differs: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootCredentials {
    pub access_key: String,
    pub secret_key: Secret,
    pub origin: Origin,
}

/// Each leaves the file as it was.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error(
        "{path} is open to other users of this machine (mode {mode:03o}); chmod 600 {path}, and \
         delete it instead if somebody may have read it: the next start makes new credentials"
    )]
    Open { path: String, mode: u32 },
    #[error("{path} belongs to user {owner}, not to user {user}, who runs this; chown it")]
    Owner { path: String, owner: u32, user: u32 },
    #[error(
        "{path} does not hold credentials ({reason}); restore it, or delete it and the next start \
         makes new ones"
    )]
    Malformed { path: String, reason: String },
    #[error("{path} cannot be {verb}: {error}")]
    Io {
        path: String,
        verb: &'static str,
        error: io::Error,
    },
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Decides the root credentials of this start; `environment` is what it holds, already checked.
/// Makes and stores new ones where there are none. The caller holds the directories' locks; the first one that has
/// credentials counts, new ones go to all.
pub fn load(
    directories: &[&Path],
    environment: Option<&(String, Secret)>,
) -> Result<RootCredentials, CredentialsError> {
    let paths = directories
        .iter()
        .map(|directory| directory.join(FILE_NAME));
    let path = paths.clone().find(|path| path.exists());
    let path = path.or_else(|| paths.clone().next()).expect("a directory");
    if let Some((access_key, secret_key)) = environment {
        // An unreadable file does not matter here, but it does differ.
        let differs = match read(&path) {
            Ok(None) => false,
            Ok(Some(stored)) => stored.0 != *access_key || stored.1 != *secret_key,
            Err(_) => true,
        };
        return Ok(RootCredentials {
            access_key: access_key.clone(),
            secret_key: secret_key.clone(),
            origin: Origin::Environment { differs },
        });
    }
    if let Some((access_key, secret_key)) = read(&path)? {
        return Ok(RootCredentials {
            access_key,
            secret_key,
            origin: Origin::Stored(path),
        });
    }
    let access_key = random_text(ACCESS_KEY_ALPHABET, ACCESS_KEY_LENGTH)?;
    let secret_key = random_text(SECRET_KEY_ALPHABET, SECRET_KEY_LENGTH)?;
    for directory in directories {
        write(directory, &access_key, &secret_key)?;
    }
    Ok(RootCredentials {
        access_key,
        secret_key: Secret(secret_key),
        origin: Origin::Generated(path),
    })
}

/// Each letter equally likely: bytes past the largest multiple of the alphabet are drawn again.
fn random_text(alphabet: &[u8], length: usize) -> Result<String, CredentialsError> {
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0u8; 64];
        getrandom::fill(&mut bytes).map_err(CredentialsError::Random)?;
        let letters = bytes
            .iter()
            .filter(|&&byte| usize::from(byte) < fair)
            .map(|&byte| char::from(alphabet[usize::from(byte) % alphabet.len()]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

fn write(directory: &Path, access_key: &str, secret_key: &str) -> Result<(), CredentialsError> {
    let path = directory.join(FILE_NAME);
    let new = directory.join(NEW_FILE_NAME);
    let text = format!(
        "# Root credentials of this Ostrakon store. Whoever reads them owns all its objects.\n\
         # To use them: AWS_SHARED_CREDENTIALS_FILE=THIS_FILE aws --endpoint-url URL s3 ls\n\
         # To replace them: delete this file and start again.\n\
         [default]\n\
         aws_access_key_id = {access_key}\n\
         aws_secret_access_key = {secret_key}\n"
    );
    let written = || -> io::Result<()> {
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // `create_new` follows no link that somebody put here, and the mode holds from the start.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(|error| CredentialsError::Io {
        path: path.display().to_string(),
        verb: "written",
        error,
    })
}

/// None: there is no such file.
fn read(path: &Path) -> Result<Option<(String, Secret)>, CredentialsError> {
    let shown = path.display().to_string();
    let failed = |error| CredentialsError::Io {
        path: path.display().to_string(),
        verb: "read",
        error,
    };
    let malformed = |reason: String| CredentialsError::Malformed {
        path: path.display().to_string(),
        reason,
    };
    let mut file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(malformed("it is a symbolic link".to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(malformed(format!(
            "it is not a file of at most {FILE_BYTES_MAX} bytes"
        )));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(CredentialsError::Owner {
            path: shown,
            owner: metadata.uid(),
            user,
        });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(CredentialsError::Open {
            path: shown,
            mode: metadata.mode() & 0o777,
        });
    }
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(malformed("it is not text".to_owned()));
        }
        Err(error) => return Err(failed(error)),
    }
    parse(&text).map(Some).map_err(malformed)
}

/// The `[default]` profile. The reason never quotes a line: it could be the secret.
fn parse(text: &str) -> Result<(String, Secret), String> {
    let mut access_key = None;
    let mut secret_key = None;
    let mut profile = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            profile = name.trim().to_owned();
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("line {} is not NAME = VALUE", index + 1));
        };
        if profile != "default" {
            continue;
        }
        let value = value.trim().to_owned();
        match name.trim() {
            "aws_access_key_id" => access_key = Some(value),
            "aws_secret_access_key" => secret_key = Some(value),
            _ => {}
        }
    }
    let access_key = access_key.ok_or("no aws_access_key_id under [default]")?;
    let secret_key = secret_key.ok_or("no aws_secret_access_key under [default]")?;
    check_access_key(&access_key).map_err(|reason| format!("aws_access_key_id {reason}"))?;
    check_secret_key(&secret_key).map_err(|reason| format!("aws_secret_access_key {reason}"))?;
    Ok((access_key, Secret(secret_key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn environment(access: &str, secret: &str) -> (String, Secret) {
        (access.to_owned(), Secret::new(secret.to_owned()))
    }

    #[test]
    fn made_once_then_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(&[dir.path()], None).unwrap();
        let path = dir.path().join(FILE_NAME);
        assert_eq!(first.origin, Origin::Generated(path.clone()));
        assert_eq!(first.access_key.len(), 20);
        assert_eq!(first.secret_key.expose().len(), 40);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let second = load(&[dir.path()], None).unwrap();
        assert_eq!(second.origin, Origin::Stored(path));
        assert_eq!(second.access_key, first.access_key);
        assert_eq!(second.secret_key, first.secret_key);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_crash_before_the_rename_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NEW_FILE_NAME), "[def").unwrap();
        let made = load(&[dir.path()], None).unwrap();
        assert!(matches!(made.origin, Origin::Generated(_)));
        assert!(!dir.path().join(NEW_FILE_NAME).exists());
    }

    #[test]
    fn two_stores_never_get_the_same_letters_and_all_letters_occur() {
        let mut seen = std::collections::BTreeSet::new();
        let mut letters = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let secret = random_text(SECRET_KEY_ALPHABET, SECRET_KEY_LENGTH).unwrap();
            letters.extend(secret.bytes());
            assert!(seen.insert(secret));
        }
        // 8,000 draws from 62: a letter is missing with probability 62 * (61/62)^8000 < 1e-54.
        assert_eq!(letters.len(), SECRET_KEY_ALPHABET.len());
    }

    #[test]
    fn the_environment_wins_and_stores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let given = environment("ROOTKEY", "root-secret");
        let loaded = load(&[dir.path()], Some(&given)).unwrap();
        assert_eq!(loaded.origin, Origin::Environment { differs: false });
        assert!(!dir.path().join(FILE_NAME).exists());

        let stored = load(&[dir.path()], None).unwrap();
        let loaded = load(&[dir.path()], Some(&given)).unwrap();
        assert_eq!(loaded.origin, Origin::Environment { differs: true });
        assert_eq!(loaded.access_key, "ROOTKEY");
        let same = (stored.access_key.clone(), stored.secret_key.clone());
        let loaded = load(&[dir.path()], Some(&same)).unwrap();
        assert_eq!(loaded.origin, Origin::Environment { differs: false });
        // And the file still says what it said.
        assert_eq!(
            load(&[dir.path()], None).unwrap().access_key,
            stored.access_key
        );
    }

    #[test]
    fn files_that_others_can_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        load(&[dir.path()], None).unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let refused = load(&[dir.path()], None).unwrap_err().to_string();
        assert!(refused.contains("mode 640"), "{refused}");
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn malformed_files_are_refused_and_never_quoted_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let cases: [&[u8]; 7] = [
            b"",
            b"[default]\naws_access_key_id = AKIAKEY\n",
            b"[other]\naws_access_key_id = AKIAKEY\naws_secret_access_key = hunter2hunter2\n",
            b"[default]\naws_access_key_id = AKIAKEY\naws_secret_access_key = hunter2\n",
            b"hunter2hunter2\n",
            b"\xff\xfehunter2",
            &[b'#'; 5000],
        ];
        for text in cases {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .unwrap();
            file.write_all(text).unwrap();
            let refused = load(&[dir.path()], None).unwrap_err().to_string();
            assert!(refused.contains("does not hold credentials"), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
            assert_eq!(std::fs::read(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_link_in_place_of_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(FILE_NAME)).unwrap();
        let refused = load(&[dir.path()], None).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("root-secret".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret, Secret::new("root-secret".to_owned()));
        assert_ne!(secret, Secret::new("root-secreT".to_owned()));
        assert_ne!(secret, Secret::new("root-secre".to_owned()));
    }
}
