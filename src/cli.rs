//! The command line: arguments in, exit code out.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done; for `serve`, drained |
//! | 1 | refused or failed; standard error has one line with the remedy |
//! | 2 | the arguments do not make a command |
//! | 130, 143 | `serve`: stopped at once by a second SIGINT, SIGTERM |
//!
//! Standard output carries what a script or a person asked for; the log goes to standard error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{
    self, ACCESS_KEY_ENV, CONFIG_ENV, CONFIG_FLAG, SECRET_KEY_ENV, SETTINGS, Settings, Sources,
    User,
};
use crate::credentials::{self, Origin, RootCredentials};
use crate::datadir::{Contents, DataDir};
use crate::rt::net::Claim;
use crate::server::{self, ReadyReport};
use crate::{bench, inspect, plan, rt, signals, startup, status};

pub fn command() -> Command {
    let mut serve = Command::new("serve")
        .about("Serve S3 from a data directory; the first start makes it")
        .after_help(format!(
            "Each setting is taken from its flag, else from its environment variable, else from \
             the TOML file (key: the flag with _ for -), else it has its default.\n\n\
             Root credentials are made at first start and kept in DATA/credentials, unless \
             {ACCESS_KEY_ENV} and {SECRET_KEY_ENV} are set."
        ))
        .arg(
            Arg::new(CONFIG_FLAG)
                .long(CONFIG_FLAG)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help(format!(
                    "TOML file with settings and users [env: {CONFIG_ENV}]"
                )),
        );
    for setting in SETTINGS {
        let default = match setting.default {
            Some(default) => format!(" [default: {default}]"),
            None => String::new(),
        };
        let many = if setting.many { " (repeatable)" } else { "" };
        serve = serve.arg(
            Arg::new(setting.flag)
                .long(setting.flag)
                .value_name(setting.value_name)
                // So that a flag given twice is answered by `config`, in the words of all refusals.
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .help(format!(
                    "{}{many}{default} [env: {}]",
                    setting.help, setting.env
                )),
        );
    }
    Command::new("ostrakon")
        .version(env!("CARGO_PKG_VERSION"))
        .about("S3-compatible object store for NVMe machines")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve)
        .subcommand(inspect::command::inspect_command())
        .subcommand(inspect::command::accept_loss_command())
        .subcommand(status::command::command())
        .subcommand(plan::command::command())
        .subcommand(bench::command::command())
        .subcommand(
            Command::new("sim")
                .about("Run the store on simulated disks, network and time")
                .disable_help_flag(true)
                .arg(
                    Arg::new("arguments")
                        .value_name("ARGUMENTS")
                        .help("See `ostrakon sim --help`")
                        .action(ArgAction::Append)
                        .num_args(0..)
                        .trailing_var_arg(true)
                        .allow_hyphen_values(true),
                ),
        )
}

pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are not errors and go to standard output; a closed pipe is nobody's
            // fault.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let done = match matches.subcommand() {
        Some(("serve", arguments)) => serve(arguments),
        Some(("inspect", arguments)) => return inspect::command::inspect(arguments),
        Some(("accept-loss", arguments)) => inspect::command::accept_loss(arguments),
        Some(("status", arguments)) => status::command::run(arguments),
        Some(("plan", arguments)) => plan::command::main(arguments),
        Some(("bench", arguments)) => return bench::command::main(arguments),
        Some(("sim", arguments)) => {
            let arguments = arguments.get_many::<String>("arguments");
            sim(arguments.into_iter().flatten().cloned().collect())
        }
        _ => Err("no command; see ostrakon --help".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            let _ = writeln!(std::io::stderr(), "ostrakon: {line}");
            ExitCode::FAILURE
        }
    }
}

fn sim(arguments: Vec<String>) -> Result<(), String> {
    crate::simulation::command::main(arguments)
}

// ---- serve ------------------------------------------------------------------------------------

fn line(error: impl fmt::Display) -> String {
    error.to_string()
}

fn serve(arguments: &ArgMatches) -> Result<(), String> {
    let mut flags = BTreeMap::new();
    for setting in SETTINGS {
        if let Some(given) = arguments.get_many::<String>(setting.flag) {
            flags.insert(setting.flag, given.cloned().collect());
        }
    }
    let settings = Settings::load(&Sources {
        flags,
        config: arguments.get_one::<PathBuf>(CONFIG_FLAG).cloned(),
        environment: std::env::vars_os().collect::<BTreeMap<OsString, OsString>>(),
    })
    .map_err(line)?;
    start_log(settings.log, settings.log_json);
    // Objects are nobody else's business, whatever the umask of the shell says.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);

    // Refusals first, then what is only worth a note: a refused start prints one line.
    let mut notes = settings.notes.clone();
    rt::probe().map_err(line)?;
    startup::raise_limits(&mut notes).map_err(line)?;
    let tls = settings
        .tls
        .as_ref()
        .map(|files| startup::tls(files, &mut notes));
    let tls = tls.transpose().map_err(line)?;
    startup::note_open_listener(settings.listen, tls.is_some(), &mut notes);
    let data: Vec<DataDir> = settings
        .data
        .iter()
        .map(|directory| DataDir::open(directory).map_err(line))
        .collect::<Result<_, _>>()?;
    let directories: Vec<&Path> = data.iter().map(DataDir::path).collect();
    let listen = startup::claim(settings.listen).map_err(line)?;
    let admin = startup::claim_admin(settings.admin, &mut notes).map_err(line)?;
    let stored_before = data.iter().any(|d| d.contents() == Contents::Formatted);
    let root = credentials::load(&directories, settings.root.as_ref()).map_err(line)?;
    if let Some(twin) = settings
        .users
        .iter()
        .find(|user| user.access_key == root.access_key)
    {
        return Err(format!(
            "user {:?} has the access key of root; give it another one",
            twin.name
        ));
    }
    notes.extend(credential_notes(&root, directories[0], stored_before));

    let cpus = rt::available_cpus().map_err(|error| format!("CPUs cannot be counted: {error}"))?;
    let cores = settings.cores.unwrap_or(cpus.len());
    if cores > cpus.len() {
        notes.push(format!(
            "{cores} cores on {} usable CPUs: they will take turns, which costs latency",
            cpus.len()
        ));
    }
    for note in &notes {
        tracing::warn!("{note}");
    }
    let reread = tls.as_ref().map(|tls| tls.again.clone());
    let shutdown = signals::listen(settings.drain, reread).map_err(line)?;
    let scheme = if tls.is_some() { "https" } else { "http" };

    let mut users = vec![User {
        name: config::ROOT_NAME.to_owned(),
        access_key: root.access_key.clone(),
        secret_key: root.secret_key.clone(),
        id: config::canonical_id(config::ROOT_NAME),
        email: None,
    }];
    users.extend(settings.users);
    let address = listen.address();
    let admin_address = admin.as_ref().map(Claim::address);
    let config = server::Config {
        data,
        listen,
        admin,
        cores,
        cpus,
        scheme: settings.scheme,
        without_missing: settings.without_missing,
        region: settings.region,
        domains: settings.domains,
        access_log: settings.access_log,
        memory: settings.memory,
        tls,
        users,
        drain: settings.drain,
        shutdown,
    };
    server::run(config, |report| {
        let mut stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        // Whoever started us may have closed its end; the server serves all the same.
        let _ = stdout.write_all(
            ready_text(scheme, address, admin_address, &report, &root, terminal).as_bytes(),
        );
        let _ = stdout.flush();
    })
    .map_err(line)?;
    tracing::info!("drained and stopped");
    Ok(())
}

fn start_log(level: tracing::Level, json: bool) {
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    if json {
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

fn credential_notes(root: &RootCredentials, data: &Path, stored_before: bool) -> Option<String> {
    match &root.origin {
        Origin::Environment { differs: true } => Some(format!(
            "the root credentials of the environment differ from those in {} and are used; the \
             file is unchanged",
            data.join(credentials::FILE_NAME).display()
        )),
        Origin::Generated(path) if stored_before => Some(format!(
            "{} was missing: new root credentials were made, the earlier ones no longer work",
            path.display()
        )),
        _ => None,
    }
}

/// What is said when requests are answered. Scripts wait for the first line; secrets are in it, or
/// after it, only on a terminal.
fn ready_text(
    scheme: &str,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    report: &ReadyReport,
    root: &RootCredentials,
    terminal: bool,
) -> String {
    let missing = if report.missing.is_empty() {
        "none".to_owned()
    } else {
        report.missing.join(", ")
    };
    let mut text = format!(
        "Ostrakon ready on {scheme}://{address}  cores {}  volumes {}  kernel features missing: \
         {missing}",
        report.cores, report.volumes
    );
    let credentials = match &root.origin {
        Origin::Environment { .. } => {
            text.push_str("  credentials: from the environment\n");
            format!(
                "AWS_ACCESS_KEY_ID=\"${ACCESS_KEY_ENV}\" AWS_SECRET_ACCESS_KEY=\"${SECRET_KEY_ENV}\""
            )
        }
        Origin::Generated(path) | Origin::Stored(path) => {
            text.push_str(&format!("  credentials: {}\n", path.display()));
            format!(
                "AWS_SHARED_CREDENTIALS_FILE={}",
                shell_word(&path.display().to_string())
            )
        }
    };
    if terminal && matches!(root.origin, Origin::Generated(_)) {
        text.push_str(&format!(
            "  access key  {}\n  secret key  {}\n",
            root.access_key,
            root.secret_key.expose()
        ));
    }
    if let Some(admin) = admin {
        text.push_str(&format!("  metrics: http://{}/metrics\n", reachable(admin)));
    }
    text.push_str(&format!(
        "  try: {credentials} aws --endpoint-url {scheme}://{} s3 mb s3://mybucket\n",
        reachable(address)
    ));
    text
}

/// An address to connect to: a server on all addresses is reached on the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// As one word for a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Secret;

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_in_help_and_in_the_operators_page() {
        let help = command()
            .find_subcommand_mut("serve")
            .unwrap()
            .render_long_help()
            .to_string();
        let page = include_str!("../docs/operating.md");
        for setting in SETTINGS {
            for text in [&help, page] {
                assert!(
                    text.contains(&format!("--{}", setting.flag)),
                    "{}",
                    setting.flag
                );
                assert!(text.contains(setting.env), "{}", setting.env);
            }
        }
    }

    fn report() -> ReadyReport {
        ReadyReport {
            cores: 2,
            volumes: 4,
            missing: Vec::new(),
        }
    }

    fn root(origin: Origin) -> RootCredentials {
        RootCredentials {
            access_key: "ROOTKEY".to_owned(),
            secret_key: Secret::new("root-secret".to_owned()),
            origin,
        }
    }

    #[test]
    fn the_ready_line_is_the_one_scripts_wait_for() {
        let stored = root(Origin::Stored("/srv/my data/credentials".into()));
        let text = ready_text(
            "http",
            "0.0.0.0:9000".parse().unwrap(),
            Some("127.0.0.1:9001".parse().unwrap()),
            &report(),
            &stored,
            true,
        );
        assert_eq!(
            text,
            "Ostrakon ready on http://0.0.0.0:9000  cores 2  volumes 4  kernel features missing: \
             none  credentials: /srv/my data/credentials\n  \
             metrics: http://127.0.0.1:9001/metrics\n  \
             try: AWS_SHARED_CREDENTIALS_FILE='/srv/my data/credentials' aws --endpoint-url \
             http://127.0.0.1:9000 s3 mb s3://mybucket\n"
        );
        let missing = ReadyReport {
            missing: vec!["registered buffers".into(), "x".into()],
            ..report()
        };
        let text = ready_text(
            "https",
            "[::]:1".parse().unwrap(),
            None,
            &missing,
            &stored,
            false,
        );
        assert!(text.contains("ready on https://[::]:1  "));
        assert!(text.contains("missing: registered buffers, x  "));
        assert!(text.contains("--endpoint-url https://[::1]:1 "));
    }

    #[test]
    fn the_secret_is_shown_only_when_new_and_on_a_terminal() {
        let address = "127.0.0.1:9000".parse().unwrap();
        let generated = root(Origin::Generated("/d/credentials".into()));
        let shown = |root: &RootCredentials, terminal| {
            ready_text("http", address, None, &report(), root, terminal).contains("root-secret")
        };
        assert!(shown(&generated, true));
        assert!(!shown(&generated, false));
        assert!(!shown(&root(Origin::Stored("/d/credentials".into())), true));
        let environment = root(Origin::Environment { differs: true });
        assert!(!shown(&environment, true));
        assert!(
            ready_text("http", address, None, &report(), &environment, true)
                .contains("$OSTRAKON_SECRET_KEY")
        );
    }

    #[test]
    fn shell_words_survive_a_shell() {
        for word in ["/a/b", "it's", "two words", "", "$HOME"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", shell_word(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
