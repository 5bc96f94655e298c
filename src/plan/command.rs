//! The command: arguments in, text or JSON out.

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use shard_format::Scheme;

use super::durability::Model;
use crate::placement::scheme::{self, Fit};
use crate::placement::{Domain, Member};

const DRIVES_MAX: usize = 10_000;
/// Larger than any drive; 10,000 of them are below 2⁶⁴.
const DRIVE_BYTES_MAX: f64 = 1e15;

pub fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .allow_hyphen_values(true)
            .help(help)
    };
    Command::new("plan")
        .about("Capacity and durability of a set of drives, before they are bought")
        .arg(
            option(
                "drives",
                "DRIVES",
                "Number and size of the drives, such as 6x8T or 4x8T,2x4T (repeatable); T is 10^12 bytes, TiB 2^40",
            )
            .required(true)
            .action(ArgAction::Append),
        )
        .arg(option(
            "scheme",
            "K+M",
            "Data and parity roles [default: by the number of drives: 1+0, 1+1, 2+1, 2+2, then 3+2]",
        ))
        .arg(
            option("afr", "PERCENT", "Drives of a hundred that fail in a year").default_value("1.5"),
        )
        .arg(
            option(
                "rebuild-mb-per-s",
                "MB",
                "Speed at which the contents of a lost drive are rebuilt",
            )
            .default_value("200"),
        )
        .arg(
            option(
                "unrecoverable",
                "PROBABILITY",
                "Probability that a bit cannot be read, from the drive's data sheet",
            )
            .default_value("1e-16"),
        )
        .arg(
            option(
                "replace-hours",
                "HOURS",
                "Until a lost drive is replaced; 0 if the others have room for its contents",
            )
            .default_value("24"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("One JSON object: sizes in bytes, times as their names say"),
        )
        .after_help(
            "Drives are taken to fail independently of each other. docs/durability.md has the \
             formulas, and what they leave out.",
        )
}

pub fn main(arguments: &ArgMatches) -> Result<(), String> {
    let plan = Plan::from_arguments(arguments)?;
    let text = if arguments.get_flag("json") {
        format!("{:#}\n", plan.json())
    } else {
        plan.text()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("standard output: {error}"))
}

#[derive(Clone, PartialEq, Debug)]
struct Plan {
    /// (number, bytes), as given.
    groups: Vec<(usize, u64)>,
    scheme: Scheme,
    chosen: bool,
    fit: Fit,
    raw_bytes: u128,
    usable_bytes: u128,
    replace_hours: f64,
    rebuild_mb_per_s: f64,
    /// Of the largest drive, replacing it aside.
    rebuild_hours: f64,
    model: Model,
}

impl Plan {
    fn from_arguments(arguments: &ArgMatches) -> Result<Plan, String> {
        let number = |flag: &str, range: std::ops::RangeInclusive<f64>| {
            let text = arguments.get_one::<String>(flag).expect("it has a default");
            match text.parse::<f64>() {
                Ok(number) if range.contains(&number) => Ok(number),
                _ => Err(format!(
                    "--{flag}: {text:?} is not a number from {} to {}",
                    range.start(),
                    range.end()
                )),
            }
        };
        let given = arguments.get_many::<String>("drives").expect("required");
        let groups = parse_drives(given.map(String::as_str))
            .map_err(|error| format!("--drives: {error}"))?;
        let members: Vec<Member> = (groups.iter())
            .flat_map(|(count, bytes)| std::iter::repeat_n(*bytes, *count))
            .zip(0u16..)
            .map(|(weight, i)| Member {
                volume: i,
                weight,
                domain: Domain {
                    drive: u32::from(i),
                    ..Domain::default()
                },
            })
            .collect();
        let chosen = arguments.get_one::<String>("scheme");
        let scheme = match chosen {
            Some(text) => scheme::parse(text).map_err(|error| format!("--scheme: {error}"))?,
            None => scheme::default_of(&members),
        };
        // Every drive is a domain of its own, so what is missing is drives.
        let few = |_| {
            format!(
                "--scheme: {scheme} needs {} drives, and there are {}",
                scheme.width(),
                members.len()
            )
        };
        // All drives are in one zone and on one node, so the level of a single role would be the zone.
        let fit = match scheme.width() {
            1 => Fit {
                level: crate::placement::Level::Drive,
                domains: members.len(),
            },
            _ => scheme::fit(&members, scheme).map_err(few)?,
        };
        let usable_bytes = scheme::usable_bytes(&members, scheme).map_err(few)?;
        let afr = number("afr", 0.001..=99.0)?;
        let rebuild_mb_per_s = number("rebuild-mb-per-s", 0.001..=1e6)?;
        let unrecoverable = number("unrecoverable", 0.0..=1e-6)?;
        let replace_hours = number("replace-hours", 0.0..=87_660.0)?;
        let largest = members.iter().map(|m| m.weight).max().unwrap_or(0) as f64;
        let rebuild_hours = largest / (rebuild_mb_per_s * 1e6) / 3600.0;
        Ok(Plan {
            raw_bytes: members.iter().map(|m| u128::from(m.weight)).sum(),
            usable_bytes,
            scheme,
            chosen: chosen.is_some(),
            fit,
            replace_hours,
            rebuild_mb_per_s,
            rebuild_hours,
            model: Model {
                drives: members.len() as u32,
                k: u32::from(scheme.k),
                m: u32::from(scheme.m),
                failures_per_hour: Model::failures_per_hour(afr / 100.0),
                repair_hours: replace_hours + rebuild_hours,
                drive_bytes: largest,
                unrecoverable,
            },
            groups,
        })
    }

    fn text(&self) -> String {
        let Scheme { m, .. } = self.scheme;
        let groups: Vec<String> = (self.groups.iter())
            .map(|(count, bytes)| format!("{count} of {}", size(u128::from(*bytes))))
            .collect();
        let survives = match m {
            0 => "no lost drive".to_owned(),
            1 => "any one drive lost".to_owned(),
            m => format!("any {m} drives lost at once"),
        };
        let fails = match m {
            0 => "one drive lost".to_owned(),
            m => format!("{} drives lost before one is rebuilt", m + 1),
        };
        let rebuild = match m {
            0 => "not possible without parity".to_owned(),
            _ => format!(
                "{:.1} h: {:.1} h until it is replaced, {:.1} h at {} MB/s",
                self.model.repair_hours,
                self.replace_hours,
                self.rebuild_hours,
                self.rebuild_mb_per_s
            ),
        };
        let rows = [
            ("drives", groups.join(", ")),
            (
                "scheme",
                format!(
                    "{}{}, {}",
                    self.scheme,
                    if self.chosen { "" } else { " (default)" },
                    self.fit
                ),
            ),
            ("raw capacity", size(self.raw_bytes)),
            (
                "usable capacity",
                format!(
                    "{} ({:.1} %)",
                    size(self.usable_bytes),
                    self.usable_bytes as f64 * 100.0 / self.raw_bytes as f64
                ),
            ),
            ("survives", survives),
            (
                "loses data",
                format!(
                    "{fails}: {} of the chunks",
                    percent(self.model.share_lost())
                ),
            ),
            ("rebuild of a drive", rebuild),
            (
                "unreadable sector",
                match m {
                    0 => "loses what is in it".to_owned(),
                    m => format!(
                        "{} of rebuilds with {m} lost meet one",
                        percent(self.model.unreadable())
                    ),
                },
            ),
            ("years to data loss", short(self.model.years_to_loss())),
            ("loss within a year", percent(self.model.annual_loss())),
            (
                "of a given chunk",
                percent(self.model.annual_loss_of_chunk()),
            ),
        ];
        let mut text: String = (rows.iter())
            .map(|(name, value)| format!("{name:<20}{value}\n"))
            .collect();
        text.push_str("\nDrives are taken to fail independently, and to be full. What else loses data: docs/durability.md\n");
        text
    }

    fn json(&self) -> serde_json::Value {
        let groups: Vec<_> = (self.groups.iter())
            .map(|(count, bytes)| json!({ "count": count, "bytes": bytes }))
            .collect();
        let m = self.scheme.m;
        json!({
            "drives": groups,
            "scheme": { "k": self.scheme.k, "m": m, "default": !self.chosen },
            "level": self.fit.level.to_string(),
            "domains": self.fit.domains,
            "raw_bytes": self.raw_bytes as u64,
            "usable_bytes": self.usable_bytes as u64,
            "drives_lost_survived": m,
            "share_lost_beyond": self.model.share_lost(),
            "rebuild_hours": (m > 0).then_some(self.rebuild_hours),
            "repair_hours": (m > 0).then_some(self.model.repair_hours),
            "unreadable_in_last_rebuild": self.model.unreadable(),
            "years_to_data_loss": self.model.years_to_loss(),
            "annual_loss_probability": self.model.annual_loss(),
            "annual_loss_probability_of_chunk": self.model.annual_loss_of_chunk(),
        })
    }
}

/// Bytes in decimal units, three digits.
fn size(bytes: u128) -> String {
    let (unit, divisor) = [("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)]
        .into_iter()
        .find(|(_, divisor)| bytes as f64 >= *divisor)
        .unwrap_or(("B", 1.0));
    format!("{} {unit}", short(bytes as f64 / divisor))
}

/// Three significant digits; powers of ten where these are many zeros.
fn short(number: f64) -> String {
    let digits = match number.abs() {
        0.0 => return "0".to_owned(),
        n if !(1e-3..1e5).contains(&n) => return format!("{number:.2e}"),
        n => (2 - n.log10().floor() as i32).max(0) as usize,
    };
    let text = format!("{number:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn percent(share: f64) -> String {
    format!("{} %", short(share * 100.0))
}

/// "4x8T,2x4T" and the like, several times.
fn parse_drives<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<(usize, u64)>, String> {
    let mut groups = Vec::new();
    let mut total = 0;
    for group in given.flat_map(|list| list.split(',')) {
        let bad = || format!("{group:?} is not a number and size of drives such as 4x8T");
        let (count, size) = group.trim().split_once('x').ok_or_else(bad)?;
        let count: usize = count.parse().map_err(|_| bad())?;
        let bytes = parse_size(size).ok_or_else(bad)?;
        if count == 0 {
            return Err(bad());
        }
        total = count.saturating_add(total);
        if total > DRIVES_MAX {
            return Err(format!("more than {DRIVES_MAX} drives"));
        }
        groups.push((count, bytes));
    }
    Ok(groups)
}

/// Whole bytes, from 1 to 10¹⁵.
fn parse_size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (value, unit) = text.split_at(end);
    let value: f64 = value.parse().ok()?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "p" | "pb" => 1e15,
        "mib" => f64::from(1 << 20),
        "gib" => f64::from(1 << 30),
        "tib" => (1u64 << 40) as f64,
        "pib" => (1u64 << 50) as f64,
        _ => return None,
    };
    let bytes = (value * factor).round();
    (1.0..=DRIVE_BYTES_MAX)
        .contains(&bytes)
        .then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let all = ["plan"].iter().chain(arguments);
        Plan::from_arguments(&command().try_get_matches_from(all).expect("arguments"))
    }

    #[test]
    fn drives_are_read() {
        let read = |text: &str| parse_drives([text].into_iter());
        let tb = 1_000_000_000_000;
        assert_eq!(read("4x8T,2x4TB"), Ok(vec![(4, 8 * tb), (2, 4 * tb)]));
        assert_eq!(read("1x7.68T"), Ok(vec![(1, 7_680_000_000_000)]));
        assert_eq!(read("3x1TiB"), Ok(vec![(3, 1 << 40)]));
        for bad in [
            "",
            "8T",
            "0x8T",
            "4x",
            "4x8",
            "4x0T",
            "x8T",
            "-1x8T",
            "4x8X",
            "4x1.2.3T",
            "4x8T,",
            "9999999x8T",
            "2x9999P",
        ] {
            let error = read(bad).unwrap_err();
            assert!(!error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn capacity_of_unequal_drives() {
        let plan = plan(&["--drives", "4x8T,2x4T"]).unwrap();
        assert_eq!(plan.scheme.to_string(), "3+2");
        assert_eq!(plan.raw_bytes, 40_000_000_000_000);
        assert_eq!(plan.usable_bytes, 24_000_000_000_000);
        assert_eq!(plan.fit.domains, 6);
        assert!((plan.model.repair_hours - (24.0 + 8e6 / 200.0 / 3600.0)).abs() < 1e-9);
        let repeated = super::tests::plan(&["--drives", "4x8T", "--drives", "2x4T"]).unwrap();
        assert_eq!(repeated, plan);
    }

    #[test]
    fn a_drive_alone_lasts_as_its_failure_rate_says() {
        let plan = plan(&["--drives", "1x8T", "--afr", "2"]).unwrap();
        assert!((plan.model.annual_loss() - 0.02).abs() < 1e-12);
        let text = plan.text();
        assert!(text.contains("loss within a year  2 %\n"), "{text}");
        assert!(
            text.contains("1+0 (default), each role on its own drive, of 1\n"),
            "{text}"
        );
        assert_eq!(
            plan.json()["years_to_data_loss"].as_f64(),
            Some(plan.model.years_to_loss())
        );
        assert!(plan.json()["repair_hours"].is_null());
    }

    #[test]
    fn refusals_name_the_flag() {
        for (arguments, start) in [
            (&["--drives", "x"][..], "--drives: "),
            (&["--drives", "4x8T", "--scheme", "4"], "--scheme: "),
            (
                &["--drives", "4x8T", "--scheme", "4+2"],
                "--scheme: 4+2 needs 6 drives, and there are 4",
            ),
            (&["--drives", "4x8T", "--scheme", "40+2"], "--scheme: "),
            (&["--drives", "4x8T", "--afr", "0"], "--afr: "),
            (&["--drives", "4x8T", "--afr", "-1"], "--afr: "),
            (&["--drives", "4x8T", "--afr", "NaN"], "--afr: "),
            (
                &["--drives", "4x8T", "--rebuild-mb-per-s", "fast"],
                "--rebuild-mb-per-s: ",
            ),
            (
                &["--drives", "4x8T", "--unrecoverable", "1"],
                "--unrecoverable: ",
            ),
            (
                &["--drives", "4x8T", "--replace-hours", "inf"],
                "--replace-hours: ",
            ),
        ] {
            let error = plan(arguments).unwrap_err();
            assert!(error.starts_with(start) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let texts = [
            0.0, 0.5, 24.0, 40.04, 66.15, 1234.5, 99_999.0, 1.5e9, 2.4e-7,
        ]
        .map(short);
        let expected = [
            "0", "0.5", "24", "40", "66.2", "1234", "99999", "1.50e9", "2.40e-7",
        ];
        assert_eq!(texts, expected);
    }
}
