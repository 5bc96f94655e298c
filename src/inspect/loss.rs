//! The names of losses: how a volume, `inspect` and an operator speak of what cannot be read.
//!
//! | name | what is lost |
//! |---|---|
//! | `Commit/00000003/7/24-47` | batches 24 to 47 of a head (`Commit`, `Bulk`, `Relocate`), in file 3 of generation 7 |
//! | `Record/00000003/7/512` | the record with LSN 512 in file 3 of generation 7 |
//! | `Header/00000003/0/0-0` | the header of file 3, and with it all the file holds |
//!
//! Recovery compares names as text, so a loss has exactly one name: what parses prints the same.

use std::fmt;
use std::str::FromStr;

use shard_format::{BatchSeq, FileNumber, Generation, Head, Lsn};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    Batches {
        head: Head,
        file: FileNumber,
        generation: Generation,
        /// First and last.
        from: BatchSeq,
        to: BatchSeq,
    },
    Record {
        file: FileNumber,
        generation: Generation,
        lsn: Lsn,
    },
    Header {
        file: FileNumber,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Batches {
                head,
                file,
                generation,
                from,
                to,
            } => write!(f, "{head:?}/{:08x}/{generation}/{from}-{to}", file.0),
            Loss::Record {
                file,
                generation,
                lsn,
            } => write!(f, "Record/{:08x}/{generation}/{lsn}", file.0),
            Loss::Header { file } => write!(f, "Header/{:08x}/0/0-0", file.0),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not the name of a loss; names look like Commit/00000003/7/24-47, \
     Record/00000003/7/512 or Header/00000003/0/0-0, as the log and `ostrakon inspect` print them"
)]
pub struct NotALoss {
    given: String,
}

impl FromStr for Loss {
    type Err = NotALoss;

    fn from_str(given: &str) -> Result<Loss, NotALoss> {
        let loss = parse(given).filter(|loss| loss.to_string() == given);
        loss.ok_or_else(|| NotALoss {
            given: given.to_owned(),
        })
    }
}

/// Lenient: the caller compares with the printed form.
fn parse(given: &str) -> Option<Loss> {
    let mut parts = given.split('/');
    let kind = parts.next()?;
    let file = FileNumber(u32::from_str_radix(parts.next()?, 16).ok()?);
    let generation = Generation(parts.next()?.parse().ok()?);
    let place = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let head = match kind {
        "Commit" => Head::Commit,
        "Bulk" => Head::Bulk,
        "Relocate" => Head::Relocate,
        "Record" => {
            let lsn = Lsn(place.parse().ok()?);
            return Some(Loss::Record {
                file,
                generation,
                lsn,
            });
        }
        "Header" => return Some(Loss::Header { file }),
        _ => return None,
    };
    let (from, to) = place.split_once('-')?;
    let (from, to) = (BatchSeq(from.parse().ok()?), BatchSeq(to.parse().ok()?));
    (from <= to).then_some(Loss::Batches {
        head,
        file,
        generation,
        from,
        to,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::recover::Damage;

    #[test]
    fn names_are_those_of_recovery_and_parse_back() {
        for head in crate::log::HEADS {
            let (file, generation) = (FileNumber(0x1f), Generation(7));
            let (from, to) = (BatchSeq(24), BatchSeq(47));
            let damage = Damage {
                head,
                file,
                generation,
                offset: 8192,
                from,
                to,
            };
            let loss = Loss::Batches {
                head,
                file,
                generation,
                from,
                to,
            };
            assert_eq!(damage.to_string(), loss.to_string());
            assert_eq!(loss.to_string().parse(), Ok(loss));
        }
        for name in ["Record/0000001f/7/512", "Header/ffffffff/0/0-0"] {
            assert_eq!(name.parse::<Loss>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_is_not_exactly_a_name_is_refused() {
        for given in [
            "",
            "Commit",
            "commit/00000000/1/24-47",
            "Commit/0/1/24-47",
            "Commit/0000000G/1/24-47",
            "Commit/0000001F/1/24-47",
            "Commit/+0000001/1/24-47",
            "Commit/00000000/01/24-47",
            "Commit/00000000/1/47-24",
            "Commit/00000000/1/24",
            "Commit/00000000/1/24-47/",
            "Commit/00000000/1/24-47 ",
            "Commit/00000000/1/24-47\nHeader/00000000/0/0-0",
            "Commit/00000000/1/24-99999999999999999999",
            "Record/00000000/1/2-3",
            "Record/00000000/1/-2",
            "Header/00000000/1/0-0",
            "Header/00000000/0/0-1",
            "Other/00000000/1/24-47",
        ] {
            assert!(given.parse::<Loss>().is_err(), "{given:?}");
        }
    }
}
