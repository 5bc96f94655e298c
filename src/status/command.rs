//! The command: asks the admin listener of a running server, prints what it says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Drive, Status};

const TIME_MAX: Duration = Duration::from_secs(10);
/// Of an answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

pub fn command() -> Command {
    Command::new("status")
        .about("Drives, scheme, capacity and what is missing, from a running server")
        .arg(
            Arg::new("admin")
                .long("admin")
                .value_name("ADDR:PORT")
                .default_value("127.0.0.1:9001")
                .help("The server's --admin-listen"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("As the server tells it"),
        )
}

/// `Err` is a line for people.
pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let given = matches.get_one::<String>("admin").expect("has a default");
    let address: SocketAddr = given
        .parse()
        .map_err(|_| format!("--admin: {given:?} is not ADDRESS:PORT, such as 127.0.0.1:9001"))?;
    let body = ask(address).map_err(|error| {
        format!(
            "no status from {address}: {error}; is that the --admin-listen of a running server?"
        )
    })?;
    let mut out = io::stdout().lock();
    let text = if matches.get_flag("json") {
        body
    } else {
        let status: Status = serde_json::from_str(&body)
            .map_err(|error| format!("{address} answers, but with no status: {error}"))?;
        printed(&status)
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {error}"))
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIME_MAX)?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    write!(
        stream,
        "GET /status HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    let mut line = String::new();
    answer.read_line(&mut line)?;
    if line.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!(
            "it answers {:?}",
            line.trim_end()
        )));
    }
    while line.trim_end() != "" {
        line.clear();
        if answer.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut body = String::new();
    answer.read_to_string(&mut body)?;
    Ok(body)
}

fn printed(status: &Status) -> String {
    let mut text = format!(
        "scheme {}, each role on its own {}; epoch {}\n{} raw, {} usable\n\n",
        status.scheme,
        status.failure_domain,
        status.epoch,
        size(status.raw_bytes),
        size(status.usable_bytes),
    );
    for drive in &status.drives {
        text.push_str(&line_of(drive));
    }
    text.push_str(&format!(
        "\nsince the start: {} runs read with the help of parity, {} stored again\n",
        status.runs_rebuilt, status.runs_repaired
    ));
    for problem in &status.problems {
        text.push_str(&format!("! {problem}\n"));
    }
    text
}

fn line_of(drive: &Drive) -> String {
    let live: u64 = drive.volumes.iter().map(|v| v.live_bytes).sum();
    let dead: u64 = drive.volumes.iter().map(|v| v.dead_bytes).sum();
    let state = match &drive.directory {
        None => "missing",
        Some(_) if drive.volumes.iter().any(|v| !v.answers) => "does not answer",
        Some(_) if drive.volumes.iter().any(|v| v.read_only.is_some()) => "read only",
        Some(_) => "in use",
    };
    let metadata = if drive.has_metadata { ", metadata" } else { "" };
    format!(
        "{:<16} {:>10}  {} live, {} dead  volumes {}{metadata}  {}  {}\n",
        state,
        size(drive.capacity_bytes),
        size(live),
        size(dead),
        drive.volumes.len(),
        drive.id,
        drive.directory.as_deref().unwrap_or("-"),
    )
}

/// In units of 1024, as drives' file systems are told of.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Volume;
    use super::*;

    #[test]
    fn a_missing_drive_is_seen_at_a_glance() {
        let volume = Volume {
            volume: 0,
            answers: true,
            read_only: None,
            suspect: false,
            live_bytes: 3 << 20,
            dead_bytes: 0,
        };
        let status = Status {
            scheme: "1+1".into(),
            failure_domain: "drive".into(),
            epoch: 1,
            raw_bytes: 2 << 40,
            usable_bytes: 1 << 40,
            drives: vec![
                Drive {
                    id: "aa".into(),
                    directory: Some("/mnt/a".into()),
                    capacity_bytes: 1 << 40,
                    has_metadata: true,
                    volumes: vec![volume],
                },
                Drive {
                    id: "bb".into(),
                    directory: None,
                    capacity_bytes: 1 << 40,
                    has_metadata: false,
                    volumes: Vec::new(),
                },
            ],
            runs_rebuilt: 7,
            runs_repaired: 0,
            problems: vec!["drive bb is missing".into()],
        };
        assert_eq!(
            printed(&status),
            "scheme 1+1, each role on its own drive; epoch 1\n\
             2.0 TiB raw, 1.0 TiB usable\n\n\
             in use              1.0 TiB  3.0 MiB live, 0 B dead  volumes 1, metadata  aa  /mnt/a\n\
             missing             1.0 TiB  0 B live, 0 B dead  volumes 0  bb  -\n\n\
             since the start: 7 runs read with the help of parity, 0 stored again\n\
             ! drive bb is missing\n"
        );
    }

    #[test]
    fn nobody_there_is_told_in_one_line() {
        let matches = command().get_matches_from(["status", "--admin", "127.0.0.1:1"]);
        let error = run(&matches).unwrap_err();
        assert!(error.starts_with("no status from 127.0.0.1:1: "), "{error}");
        let matches = command().get_matches_from(["status", "--admin", "here"]);
        let error = run(&matches).unwrap_err();
        assert!(error.starts_with("--admin: \"here\" is not"), "{error}");
    }
}
