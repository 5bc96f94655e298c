//! Schemes: their text, the default, whether a list of members can carry one, and how many bytes fit.
//!
//! A [`Scheme`] is k data and m parity roles; [`shard_format`] defines it on disk. Here are the questions that need
//! the members.

use std::fmt;

use shard_format::Scheme;

use super::ring::{self, Level, Member, ROLES_MAX, TooFewDomains};

/// A text is not a scheme.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadScheme {
    #[error("{0:?} is not a scheme: write K+M, data and parity, such as 4+2")]
    Form(String),
    #[error("{0}: K, the number of data roles, is at least 1")]
    NoData(String),
    #[error("{text}: K + M is {width}, and at most {ROLES_MAX}")]
    TooWide { text: String, width: u64 },
}

/// A scheme from "K+M".
pub fn parse(text: &str) -> Result<Scheme, BadScheme> {
    let form = || BadScheme::Form(text.to_owned());
    let number = |text: &str| {
        let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (k, m) = text.split_once('+').ok_or_else(form)?;
    let (k, m) = (number(k).ok_or_else(form)?, number(m).ok_or_else(form)?);
    if k == 0 {
        return Err(BadScheme::NoData(text.to_owned()));
    }
    if k + m > ROLES_MAX as u64 {
        return Err(BadScheme::TooWide {
            text: text.to_owned(),
            width: k + m,
        });
    }
    Ok(of(k as u8, m as u8))
}

const fn of(k: u8, m: u8) -> Scheme {
    Scheme {
        k,
        m,
        codec: Scheme::CODEC_CAUCHY_8,
    }
}

/// The scheme of a cluster whose members are in so many distinct domains, where its operator chose none: as many
/// faults survived as leave two thirds or so of the capacity, and two at most.
pub fn default_for(domains: usize) -> Scheme {
    match domains {
        0 | 1 => Scheme::PLAIN,
        2 => of(1, 1),
        3 => of(2, 1),
        4 => of(2, 2),
        _ => of(3, 2),
    }
}

/// The default of a member list: by the number of drives, which is what fails first.
pub fn default_of(members: &[Member]) -> Scheme {
    let [_, _, drives, _] = ring::domain_counts(members);
    default_for(drives)
}

/// What a member list gives to a scheme.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fit {
    /// The roles of a chunk are in distinct domains of this level.
    pub level: Level,
    /// How many of them there are.
    pub domains: usize,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "each role on its own {}, of {}",
            self.level, self.domains
        )
    }
}

/// Whether the members can carry a scheme, and over domains of which level; or how many volumes are missing.
pub fn fit(members: &[Member], scheme: Scheme) -> Result<Fit, TooFewDomains> {
    let level = ring::level(members, usize::from(scheme.width()))?;
    Ok(Fit {
        level,
        domains: ring::domain_counts(members)[level as usize],
    })
}

/// Bytes of objects that fit on the members under a scheme, exactly, overhead of records aside.
///
/// With T bytes in each role, a domain of capacity c holds min(c, T), because it has one role of a stripe at most. So
/// T is the largest number for which these sum up to (k + m) T; any such T can be laid out, one domain after another
/// (McNaughton's wrap-around rule). The result is k T, and shares by [`ring::fair_shares`] reach it.
pub fn usable_bytes(members: &[Member], scheme: Scheme) -> Result<u128, TooFewDomains> {
    let level = ring::level(members, usize::from(scheme.width()))?;
    let capacities = ring::domain_weights(members, level);
    Ok(stripes_max(&capacities, u128::from(scheme.width())) * u128::from(scheme.k))
}

/// The largest T with Σ min(capacity, T) ≥ width · T.
fn stripes_max(capacities: &[u128], width: u128) -> u128 {
    // The difference of both sides is concave in T and 0 at 0, so it is not negative up to the T looked for.
    let fits = |t: u128| capacities.iter().map(|c| *c.min(&t)).sum::<u128>() >= width * t;
    let (mut low, mut high) = (0, capacities.iter().sum::<u128>() / width);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::ring::Domain;
    use super::*;

    fn drives(sizes: &[u64]) -> Vec<Member> {
        (sizes.iter().zip(0..))
            .map(|(weight, i)| Member {
                volume: i as u16,
                weight: *weight,
                domain: Domain {
                    drive: i,
                    ..Domain::default()
                },
            })
            .collect()
    }

    #[test]
    fn schemes_are_read() {
        assert_eq!(parse("4+2"), Ok(of(4, 2)));
        assert_eq!(parse("1+0"), Ok(Scheme::PLAIN));
        assert_eq!(parse("20+12"), Ok(of(20, 12)));
        for (bad, message) in [
            ("", "not a scheme"),
            ("4", "not a scheme"),
            ("4+", "not a scheme"),
            ("+2", "not a scheme"),
            ("4+2+1", "not a scheme"),
            ("4 + 2", "not a scheme"),
            ("-4+2", "not a scheme"),
            ("4+99999999999", "not a scheme"),
            ("0+2", "at least 1"),
            ("30+3", "K + M is 33"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(message) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_default_grows_with_the_domains() {
        let text: Vec<String> = (1..=6).map(|n| default_for(n).to_string()).collect();
        assert_eq!(text, ["1+0", "1+1", "2+1", "2+2", "3+2", "3+2"]);
        assert_eq!(default_of(&drives(&[1, 1, 1, 0])).to_string(), "2+1");
    }

    #[test]
    fn too_few_domains_are_named() {
        let three = drives(&[8, 8, 8]);
        let fit = fit(&three, of(2, 1)).unwrap();
        assert_eq!(fit.to_string(), "each role on its own drive, of 3");
        let error = super::fit(&three, of(4, 2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "6 roles need as many volumes, and there are 3"
        );
    }

    #[test]
    fn usable_capacity_of_unequal_drives() {
        let usable = |sizes: &[u64], k, m| usable_bytes(&drives(sizes), of(k, m)).unwrap();
        assert_eq!(usable(&[8, 8, 8], 2, 1), 16);
        assert_eq!(usable(&[8, 8, 8, 8], 2, 1), 20); // 32 / 3 stripes, rounded down
        assert_eq!(usable(&[8, 4], 1, 1), 4);
        // The large drive takes part in every stripe, the small ones alternate.
        assert_eq!(usable(&[100, 3, 3], 1, 1), 6);
        assert_eq!(usable(&[16, 8, 8, 4, 4], 2, 1), 24); // 12 stripes: 12 + 8 + 8 + 4 + 4 = 36 roles
    }

    /// Greedily filling the emptiest drives, stripe by stripe, is exact for whole units.
    #[test]
    fn usable_capacity_is_what_filling_reaches() {
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let width = 1 + random(5) as usize;
            let count = width + random(5) as usize;
            let mut left: Vec<u128> = (0..count).map(|_| 1 + u128::from(random(30))).collect();
            let expected = stripes_max(&left, width as u128);
            let mut stripes = 0;
            loop {
                left.sort_by(|a, b| b.cmp(a));
                if left[width - 1] == 0 {
                    break;
                }
                left[..width].iter_mut().for_each(|c| *c -= 1);
                stripes += 1;
            }
            assert_eq!(stripes, expected);
        }
    }
}
