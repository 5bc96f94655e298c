//! Settings: where they come from and what they may be.
//!
//! Every setting stands once, in [`SETTINGS`]; flag, environment variable and key of the TOML file
//! follow from that table, and so does `--help`. For each setting the highest of these that names
//! it wins as a whole (lists are replaced, never joined):
//!
//! ```text
//! flag  >  environment variable  >  file  >  default
//! ```
//!
//! A wrong value is refused before anything is touched, with the place it stands in (a flag, a
//! variable, or file and line) and what would be right. Secrets are never repeated in a message.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use shard_format::Scheme;
use toml::de::{DeTable, DeValue};

use crate::credentials::{self, Secret};
use crate::placement::scheme::{self, BadScheme};
use crate::tls;

/// One configurable thing under its three names.
#[derive(Debug)]
pub struct Setting {
    /// Long flag without the dashes. The key in the file is the same with `_` for `-`.
    pub flag: &'static str,
    pub env: &'static str,
    pub value_name: &'static str,
    /// May be given several times as a flag, comma-separated in the environment, as an array in
    /// the file.
    pub many: bool,
    pub default: Option<&'static str>,
    pub help: &'static str,
}

impl Setting {
    pub fn key(&self) -> String {
        self.flag.replace('-', "_")
    }
}

pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "data",
        env: "OSTRAKON_DATA",
        value_name: "DIR",
        many: true,
        default: Some("./data"),
        help: "Directory that holds the store, one per drive; created and formatted at first start",
    },
    Setting {
        flag: "listen",
        env: "OSTRAKON_LISTEN",
        value_name: "ADDR:PORT",
        many: false,
        default: Some("127.0.0.1:9000"),
        help: "Address and port for S3 requests; port 0 takes a free one",
    },
    Setting {
        flag: "admin-listen",
        env: "OSTRAKON_ADMIN_LISTEN",
        value_name: "ADDR:PORT",
        many: false,
        default: Some("127.0.0.1:9001"),
        help: "Address and port for metrics and health, or off",
    },
    Setting {
        flag: "cores",
        env: "OSTRAKON_CORES",
        value_name: "N",
        many: false,
        default: None,
        help: "Threads to pin, one per CPU [default: the CPUs this process may use]",
    },
    Setting {
        flag: "scheme",
        env: "OSTRAKON_SCHEME",
        value_name: "K+M",
        many: false,
        default: None,
        help: "Erasure coding: K data and M parity shards, each on a drive of its own [default: what the store has; of a \
               new one by its drives, 1+0, 1+1, 2+1, 2+2, from five on 3+2]",
    },
    Setting {
        flag: "missing-drives",
        env: "OSTRAKON_MISSING_DRIVES",
        value_name: "WHAT",
        many: false,
        default: Some("refuse"),
        help: "Drives of the store that --data does not name: refuse to start, or start without them (accept)",
    },
    Setting {
        flag: "region",
        env: "OSTRAKON_REGION",
        value_name: "NAME",
        many: false,
        default: Some("us-east-1"),
        help: "Region that request signatures must name",
    },
    Setting {
        flag: "domain",
        env: "OSTRAKON_DOMAIN",
        value_name: "NAME",
        many: true,
        default: None,
        help: "Domain under which buckets are addressed as BUCKET.NAME",
    },
    Setting {
        flag: "tls-cert",
        env: "OSTRAKON_TLS_CERT",
        value_name: "PEM",
        many: false,
        default: None,
        help: "Serve HTTPS: certificate chain, the server's first; read again when it changes",
    },
    Setting {
        flag: "tls-key",
        env: "OSTRAKON_TLS_KEY",
        value_name: "PEM",
        many: false,
        default: None,
        help: "Private key of --tls-cert",
    },
    Setting {
        flag: "drain",
        env: "OSTRAKON_DRAIN",
        value_name: "SECONDS",
        many: false,
        default: Some("30"),
        help: "How long requests under way may take to finish after SIGINT or SIGTERM",
    },
    Setting {
        flag: "log",
        env: "OSTRAKON_LOG",
        value_name: "LEVEL",
        many: false,
        default: Some("info"),
        help: "What to log on standard error: error, warn, info, debug or trace",
    },
    Setting {
        flag: "log-format",
        env: "OSTRAKON_LOG_FORMAT",
        value_name: "FORMAT",
        many: false,
        default: Some("text"),
        help: "text, or json: one object a line",
    },
    Setting {
        flag: "access-log",
        env: "OSTRAKON_ACCESS_LOG",
        value_name: "ON",
        many: false,
        default: Some("off"),
        help: "on: log every request at level info; off: at level debug",
    },
    Setting {
        flag: "memory",
        env: "OSTRAKON_MEMORY",
        value_name: "MODE",
        many: false,
        default: Some("large"),
        help: "large: 64 MiB of buffers a core, held from the start; small: half, taken when first used",
    },
];

/// The file itself is named by flag or environment only.
pub const CONFIG_FLAG: &str = "config";
pub const CONFIG_ENV: &str = "OSTRAKON_CONFIG";
/// Root credentials come from the environment or DATA/credentials; a flag would show in `ps`.
pub const ACCESS_KEY_ENV: &str = "OSTRAKON_ACCESS_KEY";
pub const SECRET_KEY_ENV: &str = "OSTRAKON_SECRET_KEY";
/// Read by `rt::fault`, for tests only.
pub const FAULTS_ENV: &str = "OSTRAKON_FAULTS";

/// A configuration file is read whole; 1 MiB holds some 5,000 `[[user]]` tables.
const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;
/// One thread each; the largest machines of today have 512 hardware threads. Core and volume
/// indexes are 16 bits.
pub const CORES_MAX: usize = 1024;
/// One hour: longer is a mistake in the unit.
const DRAIN_SECONDS_MAX: u64 = 3600;
/// A DNS name (RFC 1035 section 2.3.4).
const DOMAIN_LENGTH_MAX: usize = 253;
/// Part of every signature scope; S3's own are at most 14 characters.
const REGION_LENGTH_MAX: usize = 64;
/// `owner` in a version record is one length byte and the id.
const USER_ID_LENGTH_MAX: usize = 255;

/// A refused setting: one line, the place first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub place: String,
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for ConfigError {}

fn refuse<T>(place: impl fmt::Display, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError {
        place: place.to_string(),
        reason: reason.into(),
    })
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Flag(&'static str),
    Env(&'static str),
    File {
        path: PathBuf,
        line: usize,
        key: String,
    },
    Default(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Flag(flag) => write!(f, "--{flag}"),
            Place::Env(name) => write!(f, "{name}"),
            Place::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
            Place::Default(flag) => write!(f, "default of --{flag}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    text: String,
    place: Place,
}

impl Given {
    fn refuse<T>(&self, reason: impl fmt::Display) -> Result<T, ConfigError> {
        refuse(&self.place, format!("{:?} {reason}", self.text))
    }
}

/// Settings of one source, by flag.
type Layer = BTreeMap<&'static str, Vec<Given>>;

/// Where metrics and health are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminListen {
    pub address: SocketAddr,
    /// Nobody asked for this address: the server starts without it if it is taken, because two
    /// servers on one machine both have this default.
    pub by_default: bool,
}

/// Who may sign requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub access_key: String,
    pub secret_key: Secret,
    /// Canonical id, as in S3's owner elements.
    pub id: String,
    pub email: Option<String>,
}

/// The id of a user who was given none: stable when keys are changed, 64 hex digits as in S3.
pub fn canonical_id(name: &str) -> String {
    let digest = Sha256::digest(format!("ostrakon user {name}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How much memory a core takes for payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Registered with the kernel, which holds it from the start.
    Large,
    /// For machines that do other things too: taken as it is first used, at a few CPU-µs a request.
    Small,
}

/// Every setting, checked, as far as that goes without touching the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// At least one.
    pub data: Vec<PathBuf>,
    pub listen: SocketAddr,
    /// None: switched off.
    pub admin: Option<AdminListen>,
    /// None: as many as the process may use.
    pub cores: Option<usize>,
    /// None: what the store has, or by the number of drives.
    pub scheme: Option<Scheme>,
    /// Start though drives of the store are missing.
    pub without_missing: bool,
    pub region: String,
    pub domains: Vec<String>,
    /// None: plain HTTP.
    pub tls: Option<tls::Files>,
    pub drain: Duration,
    pub log: tracing::Level,
    pub log_json: bool,
    /// Requests are logged at level info.
    pub access_log: bool,
    pub memory: Memory,
    /// From the file; root is not among them.
    pub users: Vec<User>,
    /// Root credentials of the environment.
    pub root: Option<(String, Secret)>,
    /// What the operator should know and nothing is refused for; logged once logging works.
    pub notes: Vec<String>,
}

/// What the operator gave, not read yet.
#[derive(Debug, Default)]
pub struct Sources {
    /// By flag, in the order typed.
    pub flags: BTreeMap<&'static str, Vec<String>>,
    pub config: Option<PathBuf>,
    pub environment: BTreeMap<OsString, OsString>,
}

impl Settings {
    /// Reads the file, if one is named, and decides every setting.
    pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
        let mut notes = Vec::new();
        let (environment, config_env, root) = read_environment(&sources.environment, &mut notes)?;
        let flags: Layer = SETTINGS
            .iter()
            .filter_map(|s| Some((s, sources.flags.get(s.flag)?)))
            .map(|(s, texts)| {
                let place = Place::Flag(s.flag);
                let given = texts.iter().map(|text| Given {
                    text: text.clone(),
                    place: place.clone(),
                });
                (s.flag, given.collect())
            })
            .collect();
        let (file, users) = match sources.config.clone().or(config_env) {
            Some(path) => read_file(&path, root.as_ref(), &mut notes)?,
            None => (Layer::new(), Vec::new()),
        };
        decide(&[flags, environment, file], users, root, notes)
    }
}

type Root = Option<(String, Secret)>;

fn read_environment(
    environment: &BTreeMap<OsString, OsString>,
    notes: &mut Vec<String>,
) -> Result<(Layer, Option<PathBuf>, Root), ConfigError> {
    let text = |name: &'static str| -> Result<Option<String>, ConfigError> {
        match environment.get(std::ffi::OsStr::new(name)) {
            None => Ok(None),
            Some(value) if value.is_empty() => {
                refuse(name, "is set but empty; give it a value or unset it")
            }
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value.to_owned())),
                None => refuse(name, "is not UTF-8"),
            },
        }
    };

    let mut layer = Layer::new();
    for setting in SETTINGS {
        let Some(value) = text(setting.env)? else {
            continue;
        };
        let place = Place::Env(setting.env);
        let texts: Vec<&str> = if setting.many {
            value.split(',').map(str::trim).collect()
        } else {
            vec![value.as_str()]
        };
        let given = texts.into_iter().map(|text| Given {
            text: text.to_owned(),
            place: place.clone(),
        });
        layer.insert(setting.flag, given.collect());
    }

    let root = match (text(ACCESS_KEY_ENV)?, text(SECRET_KEY_ENV)?) {
        (None, None) => None,
        (Some(access_key), Some(secret_key)) => {
            if let Err(reason) = credentials::check_access_key(&access_key) {
                return refuse(ACCESS_KEY_ENV, reason);
            }
            if let Err(reason) = credentials::check_secret_key(&secret_key) {
                return refuse(SECRET_KEY_ENV, reason);
            }
            Some((access_key, Secret::new(secret_key)))
        }
        (Some(_), None) => {
            return refuse(
                ACCESS_KEY_ENV,
                format!("is set without {SECRET_KEY_ENV}; set both or neither"),
            );
        }
        (None, Some(_)) => {
            return refuse(
                SECRET_KEY_ENV,
                format!("is set without {ACCESS_KEY_ENV}; set both or neither"),
            );
        }
    };

    // Not refused: container platforms put variables named after a service into every process
    // (`OSTRAKON_PORT=tcp://…` in Kubernetes), and those must not stop a start.
    let known: BTreeSet<&str> = SETTINGS
        .iter()
        .map(|setting| setting.env)
        .chain([CONFIG_ENV, ACCESS_KEY_ENV, SECRET_KEY_ENV, FAULTS_ENV])
        .collect();
    for name in environment.keys().filter_map(|name| name.to_str()) {
        if name.starts_with("OSTRAKON_") && !known.contains(name) {
            let hint = nearest(name, known.iter().copied());
            notes.push(format!(
                "environment variable {name} is not a setting{hint}"
            ));
        }
    }
    Ok((layer, text(CONFIG_ENV)?.map(PathBuf::from), root))
}

/// 1-based line of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
}

fn read_file(
    path: &Path,
    root: Option<&(String, Secret)>,
    notes: &mut Vec<String>,
) -> Result<(Layer, Vec<User>), ConfigError> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return refuse(shown, format!("cannot be read: {error}")),
    };
    if !metadata.is_file() || metadata.len() > CONFIG_FILE_BYTES_MAX {
        return refuse(
            shown,
            format!("is not a file of at most {CONFIG_FILE_BYTES_MAX} bytes"),
        );
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return refuse(shown, format!("cannot be read: {error}")),
    };
    let (layer, users) = parse_file(path, &text, root)?;
    use std::os::unix::fs::MetadataExt;
    if !users.is_empty() && metadata.mode() & 0o077 != 0 {
        notes.push(format!(
            "{shown} holds secret keys and is open to other users of this machine; chmod 600 {shown}"
        ));
    }
    Ok((layer, users))
}

fn parse_file(
    path: &Path,
    text: &str,
    root: Option<&(String, Secret)>,
) -> Result<(Layer, Vec<User>), ConfigError> {
    let at = |offset: usize| format!("{}:{}", path.display(), line_of(text, offset));
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let place = at(error.span().map_or(0, |span| span.start));
            // The message can have several lines; a refusal has one.
            let reason = error.message().replace('\n', ", ");
            return refuse(place, format!("not TOML: {reason}"));
        }
    };
    let mut layer = Layer::new();
    let mut users = Vec::new();
    for (key, value) in &table {
        let name: &str = key.get_ref();
        if name == "user" {
            users = parse_users(value.get_ref(), value.span().start, &at, root)?;
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key() == name) else {
            let keys: Vec<String> = SETTINGS.iter().map(Setting::key).collect();
            let hint = nearest(name, keys.iter().map(String::as_str).chain(["user"]));
            return refuse(
                at(key.span().start),
                format!("{name:?} is not a setting{hint}"),
            );
        };
        let place = Place::File {
            path: path.to_owned(),
            line: line_of(text, value.span().start),
            key: name.to_owned(),
        };
        let elements: Vec<&DeValue<'_>> = match value.get_ref() {
            DeValue::Array(array) if setting.many => {
                array.iter().map(|element| element.get_ref()).collect()
            }
            single => vec![single],
        };
        let mut given = Vec::new();
        for element in elements {
            let text = match element {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
                _ => {
                    let expected = if setting.many {
                        "a string or an array of strings"
                    } else {
                        "a string or a number"
                    };
                    return refuse(place, format!("must be {expected}"));
                }
            };
            given.push(Given {
                text,
                place: place.clone(),
            });
        }
        layer.insert(setting.flag, given);
    }
    Ok((layer, users))
}

fn parse_users(
    value: &DeValue<'_>,
    start: usize,
    at: &dyn Fn(usize) -> String,
    root: Option<&(String, Secret)>,
) -> Result<Vec<User>, ConfigError> {
    const WANTED: &str = "users are tables: [[user]] with name, access_key and secret_key";
    let DeValue::Array(array) = value else {
        return refuse(at(start), WANTED);
    };
    let mut users: Vec<User> = Vec::new();
    for element in array {
        let DeValue::Table(table) = element.get_ref() else {
            return refuse(at(element.span().start), WANTED);
        };
        let mut fields: BTreeMap<&str, (String, usize)> = BTreeMap::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            const FIELDS: [&str; 5] = ["name", "access_key", "secret_key", "id", "email"];
            if !FIELDS.contains(&name) {
                let hint = nearest(name, FIELDS);
                return refuse(
                    at(key.span().start),
                    format!("{name:?} is not a field of [[user]]{hint}"),
                );
            }
            let DeValue::String(text) = value.get_ref() else {
                return refuse(at(value.span().start), format!("{name} must be a string"));
            };
            if text.is_empty() {
                return refuse(at(value.span().start), format!("{name} is empty"));
            }
            fields.insert(name, (text.to_string(), value.span().start));
        }
        let start = element.span().start;
        let mut take = |name: &str| fields.remove(name);
        let mut required = |name: &str| match take(name) {
            Some(field) => Ok(field),
            None => refuse(at(start), format!("this [[user]] has no {name}")),
        };
        let (name, name_at) = required("name")?;
        let (access_key, access_at) = required("access_key")?;
        let (secret_key, secret_at) = required("secret_key")?;
        let id = take("id");
        let email = take("email").map(|(text, _)| text);

        if let Err(reason) = credentials::check_access_key(&access_key) {
            return refuse(at(access_at), format!("access_key {reason}"));
        }
        if let Err(reason) = credentials::check_secret_key(&secret_key) {
            return refuse(at(secret_at), format!("secret_key {reason}"));
        }
        if name == ROOT_NAME || users.iter().any(|user| user.name == name) {
            return refuse(at(name_at), format!("name {name:?} is taken already"));
        }
        if users.iter().any(|user| user.access_key == access_key)
            || root.is_some_and(|(root_key, _)| *root_key == access_key)
        {
            return refuse(at(access_at), "access_key is taken already");
        }
        let (id, id_at) = id.unwrap_or_else(|| (canonical_id(&name), name_at));
        if id.len() > USER_ID_LENGTH_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse(
                at(id_at),
                format!("id must be 1 to {USER_ID_LENGTH_MAX} printable characters without spaces"),
            );
        }
        if id == canonical_id(ROOT_NAME) || users.iter().any(|user| user.id == id) {
            return refuse(at(id_at), "id is taken already");
        }
        users.push(User {
            name,
            access_key,
            secret_key: Secret::new(secret_key),
            id,
            email,
        });
    }
    Ok(users)
}

/// The user whose credentials are generated, or come from the environment.
pub const ROOT_NAME: &str = "root";

fn decide(
    layers: &[Layer],
    users: Vec<User>,
    root: Root,
    notes: Vec<String>,
) -> Result<Settings, ConfigError> {
    let all = |flag: &'static str| -> Vec<Given> {
        if let Some(given) = layers.iter().find_map(|layer| layer.get(flag)) {
            return given.clone();
        }
        let setting = SETTINGS.iter().find(|setting| setting.flag == flag);
        let default = setting.and_then(|setting| setting.default);
        let given = default.map(|text| Given {
            text: text.to_owned(),
            place: Place::Default(flag),
        });
        given.into_iter().collect()
    };
    let one = |flag| -> Result<Option<Given>, ConfigError> {
        let mut given = all(flag);
        match given.len() {
            0 => Ok(None),
            1 => Ok(given.pop()),
            _ => refuse(&given[1].place, "is given more than once"),
        }
    };
    let required = |flag| -> Result<Given, ConfigError> {
        match one(flag)? {
            Some(given) => Ok(given),
            None => refuse(format!("--{flag}"), "has no value"),
        }
    };

    let mut data: Vec<PathBuf> = Vec::new();
    for given in all("data") {
        if given.text.is_empty() || given.text.contains('\0') {
            return given.refuse("is not the name of a directory");
        }
        let directory = PathBuf::from(&given.text);
        if data.contains(&directory) {
            return given.refuse("is named twice");
        }
        data.push(directory);
    }
    if data.is_empty() {
        return refuse("--data", "names no directory");
    }
    let listen = parse_listen(&required("listen")?)?;
    let admin = required("admin-listen")?;
    let admin = match admin.text.as_str() {
        "off" => None,
        _ => Some(AdminListen {
            address: parse_listen(&admin)?,
            by_default: matches!(admin.place, Place::Default(_)),
        }),
    };
    if let Some(admin) = admin
        && admin.address == listen
        && listen.port() != 0
    {
        return refuse(
            if admin.by_default {
                "--listen"
            } else {
                "--admin-listen"
            },
            format!(
                "{listen} cannot serve S3 and metrics both; choose another --admin-listen, or off"
            ),
        );
    }
    let cores = match one("cores")? {
        None => None,
        Some(given) => match given.text.parse::<usize>() {
            Ok(cores) if (1..=CORES_MAX).contains(&cores) => Some(cores),
            _ => return given.refuse(format!("is not a number of cores from 1 to {CORES_MAX}")),
        },
    };
    let scheme = one("scheme")?.map(|given| parse_scheme(&given));
    let scheme = scheme.transpose()?;
    let missing = required("missing-drives")?;
    let without_missing = match missing.text.as_str() {
        "refuse" => false,
        "accept" => true,
        _ => return missing.refuse("is not one of refuse, accept"),
    };
    let region = required("region")?;
    if region.text.is_empty()
        || region.text.len() > REGION_LENGTH_MAX
        || !region
            .text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        return region.refuse(format!(
            "is not a region: 1 to {REGION_LENGTH_MAX} of a-z, 0-9 and -"
        ));
    }
    let mut domains = Vec::new();
    for given in all("domain") {
        let domain = given.text.trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if domain.len() > DOMAIN_LENGTH_MAX || !domain.split('.').all(label) {
            return given.refuse("is not a domain name");
        }
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    let tls = match (one("tls-cert")?, one("tls-key")?) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(tls::Files {
            certificate: file_name(&certificate)?,
            key: file_name(&key)?,
        }),
        (Some(given), None) => {
            return refuse(
                &given.place,
                "is set without --tls-key; set both or neither",
            );
        }
        (None, Some(given)) => {
            return refuse(
                &given.place,
                "is set without --tls-cert; set both or neither",
            );
        }
    };
    let drain = required("drain")?;
    let drain = match drain.text.parse::<u64>() {
        Ok(seconds) if seconds <= DRAIN_SECONDS_MAX => Duration::from_secs(seconds),
        _ => {
            return drain.refuse(format!(
                "is not a number of seconds from 0 to {DRAIN_SECONDS_MAX}"
            ));
        }
    };
    let log = required("log")?;
    let log = match log.text.as_str() {
        "error" => tracing::Level::ERROR,
        "warn" => tracing::Level::WARN,
        "info" => tracing::Level::INFO,
        "debug" => tracing::Level::DEBUG,
        "trace" => tracing::Level::TRACE,
        _ => return log.refuse("is not one of error, warn, info, debug, trace"),
    };
    let log_format = required("log-format")?;
    let log_json = match log_format.text.as_str() {
        "text" => false,
        "json" => true,
        _ => return log_format.refuse("is not one of text, json"),
    };
    let access_log = required("access-log")?;
    let access_log = match access_log.text.as_str() {
        "on" => true,
        "off" => false,
        _ => return access_log.refuse("is not one of on, off"),
    };
    let memory = required("memory")?;
    let memory = match memory.text.as_str() {
        "large" => Memory::Large,
        "small" => Memory::Small,
        _ => return memory.refuse("is not one of large, small"),
    };
    Ok(Settings {
        data,
        listen,
        admin,
        cores,
        scheme,
        without_missing,
        region: region.text,
        domains,
        tls,
        drain,
        log,
        log_json,
        access_log,
        memory,
        users,
        root,
        notes,
    })
}

fn parse_listen(given: &Given) -> Result<SocketAddr, ConfigError> {
    if let Ok(address) = given.text.parse::<SocketAddr>() {
        return Ok(address);
    }
    // The one name that means the same everywhere; others may resolve to several addresses, and
    // differently tomorrow.
    if let Some(port) = given.text.strip_prefix("localhost:")
        && let Ok(port) = port.parse::<u16>()
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    given.refuse("is not ADDRESS:PORT, such as 127.0.0.1:9000, 0.0.0.0:9000 or [::]:9000")
}

fn file_name(given: &Given) -> Result<PathBuf, ConfigError> {
    if given.text.is_empty() || given.text.contains('\0') {
        return given.refuse("is not the name of a file");
    }
    Ok(PathBuf::from(&given.text))
}

fn parse_scheme(given: &Given) -> Result<Scheme, ConfigError> {
    // The reason names the text; what was given is shown in front of it.
    scheme::parse(&given.text).or_else(|error| match error {
        BadScheme::Form(_) => given.refuse("is not a scheme K+M, such as 4+2"),
        BadScheme::NoData(_) => given.refuse("has no data: K is at least 1"),
        BadScheme::TooWide { .. } => given.refuse("is too wide: K + M is at most 32"),
    })
}

/// `; did you mean "…"?` where a known name is at most two edits away.
fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let best = known
        .into_iter()
        .map(|name| (edit_distance(typed, name), name))
        .min();
    match best {
        Some((distance, name)) if distance <= 2 => format!("; did you mean {name:?}?"),
        _ => String::new(),
    }
}

/// Levenshtein, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(1 + above.min(row[j]));
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(flags: &[(&'static str, &str)], environment: &[(&str, &str)]) -> Sources {
        let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (flag, value) in flags {
            all.entry(flag).or_default().push((*value).to_owned());
        }
        Sources {
            flags: all,
            config: None,
            environment: environment
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .collect(),
        }
    }

    fn with_file(text: &str, sources: Sources) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.toml");
        std::fs::write(&path, text).unwrap();
        let sources = Sources {
            config: Some(path),
            ..sources
        };
        let prefix = format!("{}/", dir.path().display());
        Settings::load(&sources).map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[test]
    fn nothing_given_is_the_defaults_of_the_design() {
        let settings = Settings::load(&sources(&[], &[])).unwrap();
        assert_eq!(settings.data, [PathBuf::from("./data")]);
        assert_eq!(settings.listen.to_string(), "127.0.0.1:9000");
        let admin = settings.admin.unwrap();
        assert_eq!(admin.address.to_string(), "127.0.0.1:9001");
        assert!(admin.by_default);
        assert_eq!(settings.cores, None);
        assert_eq!(settings.region, "us-east-1");
        assert_eq!(settings.drain, Duration::from_secs(30));
        assert_eq!((settings.users, settings.root), (Vec::new(), None));
    }

    #[test]
    fn flag_beats_environment_beats_file() {
        let file = "listen = \"127.0.0.1:3\"\nregion = \"file\"\ncores = 3\n";
        let given = sources(
            &[("listen", "127.0.0.1:1")],
            &[
                ("OSTRAKON_LISTEN", "127.0.0.1:2"),
                ("OSTRAKON_REGION", "env"),
            ],
        );
        let settings = with_file(file, given).unwrap();
        assert_eq!(settings.listen.port(), 1);
        assert_eq!(settings.region, "env");
        assert_eq!(settings.cores, Some(3));
    }

    #[test]
    fn lists_are_replaced_not_joined() {
        let given = sources(&[], &[("OSTRAKON_DOMAIN", "A.example, b.example")]);
        let settings = with_file("domain = [\"c.example\"]", given).unwrap();
        assert_eq!(settings.domains, ["a.example", "b.example"]);
    }

    /// Every refusal: what the operator wrote, and the one line that answers it.
    #[test]
    fn wrong_settings_are_refused_with_their_place() {
        let files = [
            (
                "region = \"r\"\nlisten = \"nine\"\n",
                "o.toml:2: listen: \"nine\" is not ADDRESS:PORT, such as 127.0.0.1:9000, 0.0.0.0:9000 or [::]:9000",
            ),
            (
                "\n\nlisen = \"127.0.0.1:1\"",
                "o.toml:3: \"lisen\" is not a setting; did you mean \"listen\"?",
            ),
            (
                "cores = true",
                "o.toml:1: cores: must be a string or a number",
            ),
            (
                "cores = 0",
                "o.toml:1: cores: \"0\" is not a number of cores from 1 to 1024",
            ),
            (
                "cores = 5000",
                "o.toml:1: cores: \"5000\" is not a number of cores from 1 to 1024",
            ),
            (
                "drain = -1",
                "o.toml:1: drain: \"-1\" is not a number of seconds from 0 to 3600",
            ),
            (
                "scheme = \"30+3\"",
                "o.toml:1: scheme: \"30+3\" is too wide: K + M is at most 32",
            ),
            (
                "scheme = \"4\"",
                "o.toml:1: scheme: \"4\" is not a scheme K+M, such as 4+2",
            ),
            (
                "region = \"Mars\"",
                "o.toml:1: region: \"Mars\" is not a region: 1 to 64 of a-z, 0-9 and -",
            ),
            (
                "domain = [\"ok.example\", \"-bad\"]",
                "o.toml:1: domain: \"-bad\" is not a domain name",
            ),
            (
                "data = [\"a\", \"b\", \"a\"]",
                "o.toml:1: data: \"a\" is named twice",
            ),
            ("data = []", "--data: names no directory"),
            (
                "tls_cert = \"x.pem\"",
                "o.toml:1: tls_cert: is set without --tls-key; set both or neither",
            ),
            (
                "tls_key = \"x.pem\"",
                "o.toml:1: tls_key: is set without --tls-cert; set both or neither",
            ),
            (
                "tls_key = \"\"\ntls_cert = \"x.pem\"",
                "o.toml:1: tls_key: \"\" is not the name of a file",
            ),
            (
                "log_format = \"xml\"",
                "o.toml:1: log_format: \"xml\" is not one of text, json",
            ),
            (
                "access_log = \"yes\"",
                "o.toml:1: access_log: \"yes\" is not one of on, off",
            ),
            (
                "memory = \"tiny\"",
                "o.toml:1: memory: \"tiny\" is not one of large, small",
            ),
            (
                "user = 1",
                "o.toml:1: users are tables: [[user]] with name, access_key and secret_key",
            ),
            (
                "[[user]]\nname = \"a\"\naccess_key = \"AAAA\"\n",
                "o.toml:1: this [[user]] has no secret_key",
            ),
            (
                "[[user]]\nname = \"a\"\nsecret = \"x\"\n",
                "o.toml:3: \"secret\" is not a field of [[user]]",
            ),
        ];
        for (text, line) in files {
            let refused = with_file(text, sources(&[], &[])).unwrap_err();
            assert_eq!(refused, line, "for {text:?}");
        }
    }

    #[test]
    fn a_broken_file_is_refused_in_one_line_with_its_number() {
        let refused = with_file("region = \"r\"\nlisten = = 3", sources(&[], &[])).unwrap_err();
        assert!(refused.starts_with("o.toml:2: not TOML: "), "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
        let refused = with_file("cores = 1\ncores = 2\n", sources(&[], &[])).unwrap_err();
        assert!(refused.starts_with("o.toml:2: not TOML: "), "{refused}");
    }

    #[test]
    fn flags_and_environment_are_named_when_refused() {
        let refused = |given: Sources| Settings::load(&given).unwrap_err().to_string();
        assert_eq!(
            refused(sources(&[("drain", "soon")], &[])),
            "--drain: \"soon\" is not a number of seconds from 0 to 3600"
        );
        assert_eq!(
            refused(sources(&[], &[("OSTRAKON_CORES", "-1")])),
            "OSTRAKON_CORES: \"-1\" is not a number of cores from 1 to 1024"
        );
        assert_eq!(
            refused(sources(&[], &[("OSTRAKON_LISTEN", "")])),
            "OSTRAKON_LISTEN: is set but empty; give it a value or unset it"
        );
        let missing = Sources {
            config: Some("/nonexistent/o.toml".into()),
            ..Sources::default()
        };
        assert!(refused(missing).starts_with("/nonexistent/o.toml: cannot be read: "));
    }

    #[test]
    fn half_set_or_weak_credentials_are_refused_without_showing_them() {
        let refused = |environment: &[(&str, &str)]| {
            Settings::load(&sources(&[], environment))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&[("OSTRAKON_ACCESS_KEY", "AKIA")]),
            "OSTRAKON_ACCESS_KEY: is set without OSTRAKON_SECRET_KEY; set both or neither"
        );
        assert_eq!(
            refused(&[("OSTRAKON_SECRET_KEY", "s3cr3t-s3cr3t")]),
            "OSTRAKON_SECRET_KEY: is set without OSTRAKON_ACCESS_KEY; set both or neither"
        );
        let weak = refused(&[
            ("OSTRAKON_ACCESS_KEY", "AKIA"),
            ("OSTRAKON_SECRET_KEY", "s3cr3t"),
        ]);
        assert!(weak.starts_with("OSTRAKON_SECRET_KEY: "), "{weak}");
        assert!(!weak.contains("s3cr3t"), "{weak}");
        let empty = refused(&[
            ("OSTRAKON_ACCESS_KEY", ""),
            ("OSTRAKON_SECRET_KEY", "s3cr3t-s3cr3t"),
        ]);
        assert!(empty.starts_with("OSTRAKON_ACCESS_KEY: is set but empty"));
    }

    #[test]
    fn users_are_read_and_twins_refused() {
        let user = |name: &str, key: &str, id: &str| {
            format!(
                "[[user]]\nname = \"{name}\"\naccess_key = \"{key}\"\nsecret_key = \"secret-{name}\"\n{id}"
            )
        };
        let two = user("ann", "ANNKEY", "") + &user("bob", "BOBKEY", "id = \"b0b\"\n");
        let settings = with_file(&two, sources(&[], &[])).unwrap();
        assert_eq!(settings.users.len(), 2);
        assert_eq!(settings.users[0].id, canonical_id("ann"));
        assert_eq!(settings.users[0].id.len(), 64);
        assert_eq!(settings.users[1].id, "b0b");
        assert_eq!(settings.users[1].secret_key.expose(), "secret-bob");
        // The file of this test is readable by all.
        assert!(settings.notes.iter().any(|note| note.contains("chmod 600")));

        for (second, line) in [
            (
                user("ann", "OTHER", ""),
                "o.toml:6: name \"ann\" is taken already",
            ),
            (
                user("root", "OTHER", ""),
                "o.toml:6: name \"root\" is taken already",
            ),
            (
                user("bob", "ANNKEY", ""),
                "o.toml:7: access_key is taken already",
            ),
            (
                user("bob", "ROOTKEY", ""),
                "o.toml:7: access_key is taken already",
            ),
        ] {
            let text = user("ann", "ANNKEY", "") + &second;
            let given = sources(
                &[],
                &[
                    ("OSTRAKON_ACCESS_KEY", "ROOTKEY"),
                    ("OSTRAKON_SECRET_KEY", "root-secret"),
                ],
            );
            assert_eq!(with_file(&text, given).unwrap_err(), line);
        }
    }

    #[test]
    fn unknown_variables_are_noted_not_refused() {
        let settings = Settings::load(&sources(
            &[],
            &[
                ("OSTRAKON_PORT", "tcp://10.0.0.1:9000"),
                ("OSTRAKON_LISTN", "x"),
            ],
        ))
        .unwrap();
        assert_eq!(
            settings.notes,
            [
                "environment variable OSTRAKON_LISTN is not a setting; did you mean \"OSTRAKON_LISTEN\"?",
                "environment variable OSTRAKON_PORT is not a setting",
            ]
        );
    }

    #[test]
    fn listen_takes_addresses_and_localhost_only() {
        let listen = |text: &str| {
            Settings::load(&sources(&[("listen", text)], &[])).map(|s| s.listen.to_string())
        };
        assert_eq!(listen("localhost:0").unwrap(), "127.0.0.1:0");
        assert_eq!(listen("[::1]:80").unwrap(), "[::1]:80");
        for wrong in ["9000", ":9000", "host:9000", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_admin_listener_can_be_moved_and_switched_off() {
        let admin = |flags: &[(&'static str, &str)]| {
            let settings = Settings::load(&sources(flags, &[]));
            settings.map(|s| s.admin).map_err(|e| e.to_string())
        };
        assert_eq!(admin(&[("admin-listen", "off")]), Ok(None));
        let moved = admin(&[("admin-listen", "0.0.0.0:9100")]).unwrap().unwrap();
        assert_eq!((moved.address.port(), moved.by_default), (9100, false));
        assert!(
            admin(&[("admin-listen", "on")])
                .unwrap_err()
                .contains("is not ADDRESS:PORT")
        );
        let same = admin(&[("listen", "127.0.0.1:9001")]).unwrap_err();
        assert!(same.starts_with("--listen: 127.0.0.1:9001 cannot serve S3 and metrics both"));
        assert!(admin(&[("listen", "[::]:0"), ("admin-listen", "[::]:0")]).is_ok());
    }

    #[test]
    fn debug_output_hides_secrets() {
        let settings = Settings::load(&sources(
            &[],
            &[
                ("OSTRAKON_ACCESS_KEY", "ROOTKEY"),
                ("OSTRAKON_SECRET_KEY", "root-secret"),
            ],
        ))
        .unwrap();
        assert!(!format!("{settings:?}").contains("root-secret"));
    }
}
