//! The two commands: arguments in, text and exit code out.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::accept::accept;
use super::loss::Loss;
use super::report::{self, Server, Subject};
use super::text::{self, Totals};
use crate::datadir::VOLUME_PREFIX;

/// Everything could be read.
const READABLE: u8 = 0;
/// Damage was found, or something a newer release wrote.
const DAMAGED: u8 = 1;
/// Nothing was inspected; like arguments that make no command.
const NOTHING: u8 = 2;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub records: bool,
    pub verify: bool,
}

fn dir(help: &'static str) -> Arg {
    Arg::new("dir")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help(help)
}

pub fn inspect_command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new("inspect")
        .about("Read a data directory, a volume or a segment file, without a server")
        .arg(dir(
            "Data directory, one of its volumes, or one segment file",
        ))
        .arg(flag("records", "A line for every record"))
        .arg(flag(
            "verify",
            "Read the payloads of all segments and check them; otherwise only commands, facts and \
             the end of the log are checked",
        ))
        .after_help(
            "Changes nothing. Lines that start with DAMAGE tell what cannot be read, those with \
             NEWER what a newer release wrote.\n\n\
             Exit codes: 0 everything is readable, 1 damage was found, 2 nothing was inspected.",
        )
}

pub fn accept_loss_command() -> Command {
    Command::new("accept-loss")
        .about("Give up, by name, what a volume lost to damage, so that it serves again")
        .arg(dir("Data directory; no server may run on it"))
        .arg(
            Arg::new("volume")
                .long("volume")
                .value_name("N")
                .required(true)
                .value_parser(value_parser!(u16))
                .help("Number of the volume: the N of DIR/volume-N"),
        )
        .arg(
            Arg::new("loss")
                .value_name("LOSS")
                .required(true)
                .num_args(1..)
                .value_parser(|given: &str| given.parse::<Loss>().map_err(|e| e.to_string()))
                .help("What to give up, as the server's log and `ostrakon inspect` name it"),
        )
        .after_help(
            "Part of a volume's log was written, and can no longer be read. It may have held \
             objects that were put, deletions, or changes of buckets, and nobody can tell which. So \
             the volume refuses to answer rather than answer wrongly: an object could be missing \
             from a listing, or a deleted one be there again.\n\n\
             Try to get the bytes back first: from a copy of the drive, or by reading it again.\n\n\
             Accepting a loss says: what is gone is gone, serve the rest. Objects whose records were \
             lost do not exist any more; deletions and overwrites that were lost have not happened. \
             From the next start on the volume serves again, if every loss it reports is accepted; \
             one that it finds later must be accepted by its own name. Nothing is erased, and the \
             names stay in DIR/volume-N/accepted-losses.\n\n\
             Example: ostrakon accept-loss /srv/ostrakon --volume 0 Commit/00000003/7/24-47",
        )
}

pub fn inspect(arguments: &ArgMatches) -> ExitCode {
    let Some(dir) = arguments.get_one::<PathBuf>("dir") else {
        return ExitCode::from(NOTHING);
    };
    let options = Options {
        records: arguments.get_flag("records"),
        verify: arguments.get_flag("verify"),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let (code, error) = run(dir, options, &mut out);
    if let Some(error) = error {
        let _ = writeln!(io::stderr(), "ostrakon: inspect: {error}");
    }
    ExitCode::from(code)
}

/// Writes the report of `path`; answers the exit code, and why there is no report, or not all.
pub fn run(path: &Path, options: Options, out: &mut dyn Write) -> (u8, Option<String>) {
    let subject = match report::subject(path) {
        Ok(subject) => subject,
        Err(error) => return (NOTHING, Some(error)),
    };
    let mut totals = Totals::default();
    let written = write_report(&subject, options, out, &mut totals).and_then(|()| {
        text::summary(out, &totals, options.verify)?;
        out.flush()
    });
    let code = if totals.readable() { READABLE } else { DAMAGED };
    match written {
        Ok(()) => (code, None),
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => (code, None),
        Err(error) => (
            NOTHING,
            Some(format!("the report cannot be written: {error}")),
        ),
    }
}

fn write_report(
    subject: &Subject,
    options: Options,
    out: &mut dyn Write,
    totals: &mut Totals,
) -> io::Result<()> {
    match subject {
        Subject::Drive(path) => {
            let drive = report::drive(path);
            text::drive(out, &drive)?;
            totals.add_findings(&drive.findings);
            for path in &drive.volumes {
                let volume = report::volume(path, drive.format.as_ref(), options.verify);
                totals.add_volume(&volume);
                text::volume(out, &volume)?;
                if options.records {
                    let pg_count = drive.format.map(|format| format.pg_count);
                    text::records(out, &volume, pg_count, options.verify)?;
                }
            }
            writeln!(out)
        }
        Subject::Volume(path) => {
            // The name may be a link or relative: the lock lies beside the real directory.
            let real = path.canonicalize()?;
            let server = match real.parent() {
                Some(data) => report::server(data),
                None => Server::NeverRan,
            };
            text::server(out, &server)?;
            let volume = report::volume(path, None, options.verify);
            totals.add_volume(&volume);
            text::volume(out, &volume)?;
            if options.records {
                text::records(out, &volume, None, options.verify)?;
            }
            writeln!(out)
        }
        Subject::SegmentFile(path) => {
            let real = path.canonicalize()?;
            let server = match real.ancestors().nth(3) {
                Some(data) => report::server(data),
                None => Server::NeverRan,
            };
            let file = report::segment_file(path, options.verify);
            totals.add_volume(&file);
            text::segment_file(out, &file)?;
            if matches!(server, Server::Running { .. }) {
                text::server(out, &server)?;
            }
            if options.records {
                text::records(out, &file, None, options.verify)?;
            }
            writeln!(out)
        }
    }
}

pub fn accept_loss(arguments: &ArgMatches) -> Result<(), String> {
    let (Some(data), Some(volume)) = (
        arguments.get_one::<PathBuf>("dir"),
        arguments.get_one::<u16>("volume"),
    ) else {
        return Err("accept-loss: which volume?".to_owned());
    };
    let losses: Vec<Loss> = arguments
        .get_many("loss")
        .into_iter()
        .flatten()
        .copied()
        .collect();
    let added = accept(data, *volume, &losses).map_err(|error| format!("accept-loss: {error}"))?;
    let path = data.join(format!("{VOLUME_PREFIX}{volume}"));
    let mut out = io::stdout();
    let known = losses.len() - added;
    let _ = writeln!(
        out,
        "accepted for {}: {added} (known before: {known}); the next start of the server takes note",
        path.display()
    );
    // A name that nothing has helps nobody: most likely it was meant otherwise.
    let found = report::volume(&path, None, false);
    for loss in &losses {
        if !found.findings.iter().any(|f| f.loss == Some(*loss)) {
            let _ = writeln!(
                out,
                "note: `ostrakon inspect` finds no {loss} in this volume now"
            );
        }
    }
    Ok(())
}
