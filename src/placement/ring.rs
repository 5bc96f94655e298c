//! Where the k + m roles of a chunk lie: a pure function of the member list, the width and the chunk's point.
//!
//! **What it does.** The design calls this the ring: consistent hashing, every volume's share by its weight, the next
//! k + m distinct domains. Virtual nodes on a circle do that badly (the table below), so each point asks the domains
//! directly, by weighted rendezvous hashing (Thaler and Ravishankar 1998; the weights by exponential clocks, as in
//! CRUSH's straw2), which is a ring with infinitely many virtual nodes:
//!
//! 1. A point and a domain hash to a *colour*, one of the roles, and to an exponential *clock* of the domain's rate.
//! 2. Each role takes the domain of its colour whose clock rings first.
//! 3. A domain that loses goes on to random other roles, by clocks 128 times as slow. A role without a domain of its
//!    colour gets one that way (frequent only where domains are few), and a heavy domain gets more than its colour gives.
//! 4. Inside a domain, its volumes compete for the point by clocks whose rates are their weights.
//!
//! Domains whose share is a whole role of every chunk go first; they win a role always.
//!
//! **Why roles hold still.** Clocks do not depend on who else is there, so a new domain takes over a role or does not.
//! The one it displaces is in the race for that colour only, so it hardly ever pushes a third from another role, as it
//! does if the first k + m of one ranking become roles 0, 1, 2… (then everybody behind the new one moves up).
//!
//! **Shares.** Rates equal to the weights would give the heavy too little, because a domain holds one role of a chunk
//! at most. Rates are found by iteration, so that shares are those of [`fair_shares`]: with many domains from the
//! integral over the time at which a role is taken, with few by placing a fixed list of points. Domains of equal share
//! have equal rates without further ado.
//!
//! **Same ring everywhere.** Lookups are integer arithmetic; the logarithm is a table made by integer squaring.
//! Rates are found in `f64` with nothing but + − × ÷ and comparisons in a fixed order, which IEEE 754 rounds correctly
//! and Rust neither fuses nor reorders, so every CPU gets the same bits.
//!
//! **Measured** in release, on one core of a 2-core virtual machine, against 128 virtual nodes per volume of mean weight
//! whose next k + m distinct volumes are the roles. *Off* is the standard deviation of the volumes' shares from the
//! fair ones, the error of counting taken out for the ring (± 0.2 %); *moves* are the roles that change their volume
//! when one volume comes or goes, per role of that volume. *4 : 8 : 16* are volumes of these weights in turn.
//!
//! | volumes | k + m | weights | off: ring | nodes | moves: ring | nodes | build | lookup |
//! |---|---|---|---|---|---|---|---|---|
//! | 3 | 2 | equal | 0.0 % | 5.1 % | 1.06 | 1.50 | 5 µs | 0.09 µs |
//! | 3 | 2 | 4 : 8 : 16 | 0.6 % | 13 % | 1.00–1.25 | | 13 ms | 0.10 µs |
//! | 6 | 5 | equal | 0.1 % | 2.9 % | 1.31 | 3.0 | 7 µs | 0.3 µs |
//! | 6 | 5 | 4 : 8 : 16 | 0.0 % | 18 % | 1.3–1.9 | | 9 µs | 0.3 µs |
//! | 32 | 5 | equal | 0.0 % | 3.4 % | 1.00 | 3.0 | 0.02 ms | 0.5 µs |
//! | 32 | 5 | 4 : 8 : 16 | 0.2 % | 6.3 % | 1.10 | | 0.7 ms | 0.5 µs |
//! | 32 | 6 | 4 : 8 : 16 | 0.3 % | 7.0 % | 1.14 | | 0.7 ms | 0.6 µs |
//! | 32 | 12 | equal | 0.0 % | 3.3 % | 1.03 | 6.6 | 0.02 ms | 1.2 µs |
//! | 32 | 12 | 4 : 8 : 16 | 1.3 % | 15 % | 1.36 | | 41 ms | 1.2 µs |
//! | 1,000 | 6 | equal | 0.0 % | 5.5 % | 1.00 | 3.4 | 0.5 ms | 9 µs |
//! | 1,000 | 6 | 4 : 8 : 16 | 0.4 % | 6.5 % | 1.01 | | 23 ms | 9 µs |
//!
//! A lookup asks every domain of the level, so it costs 9 ns and more for each: 1,000 drives in 50 nodes cost 1.4 µs, for
//! 50 nodes and six times 20 drives. A ring of 32 volumes is 2 KB. The SHA-256 that makes the point adds 0.1 µs.
//!
//! **Where more moves than must.** With few domains above k + m, roles without a domain of their colour are handed on.
//! With unequal weights, a newcomer wins from the light more often than from the heavy (who are nearly always there, and
//! win), so the rates shift to take from the heavy what they owe; the more, the more of the chunks the heavy are in.
//! A change in how many domains are capped reshuffles the roles of the capped; rates by a high power of the weight keep
//! that small: the heavier keeps its colour.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;

/// The widest scheme, k + m.
pub const ROLES_MAX: usize = 32;

/// The volumes of a chunk: role r at position r.
pub type Roles = SmallVec<[u16; ROLES_MAX]>;

/// Where a volume is. Ids nest: node 3 of zone 1 is not node 3 of zone 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Domain {
    pub zone: u32,
    pub node: u32,
    pub drive: u32,
}

/// A volume of the cluster map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    pub volume: u16,
    /// Capacity in bytes. A volume of weight 0 gets no roles and does not count as a domain.
    pub weight: u64,
    pub domain: Domain,
}

/// A level of failure domains, widest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    Zone,
    Node,
    Drive,
    Volume,
}

impl Level {
    pub const ALL: [Level; 4] = [Level::Zone, Level::Node, Level::Drive, Level::Volume];

    /// The domain of a member at this level, as a key that sorts by zone, node, drive, volume.
    fn key(self, member: &Member) -> [u32; 4] {
        let Domain { zone, node, drive } = member.domain;
        match self {
            Level::Zone => [zone, 0, 0, 0],
            Level::Node => [zone, node, 0, 0],
            Level::Drive => [zone, node, drive, 0],
            Level::Volume => [zone, node, drive, u32::from(member.volume)],
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Zone => "zone",
            Level::Node => "node",
            Level::Drive => "drive",
            Level::Volume => "volume",
        })
    }
}

/// The members have fewer volumes than a chunk has roles. Nothing is placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{width} roles need as many volumes, and there are {volumes}")]
pub struct TooFewDomains {
    pub width: usize,
    /// Volumes with a weight.
    pub volumes: usize,
}

/// The domains of one level with the members in them, in order of their keys. Independent of the members' order.
fn domains(members: &[Member], level: Level) -> BTreeMap<[u32; 4], Vec<Member>> {
    let mut domains = BTreeMap::<_, Vec<Member>>::new();
    for member in members.iter().filter(|m| m.weight > 0) {
        domains.entry(level.key(member)).or_default().push(*member);
    }
    for members in domains.values_mut() {
        members.sort_by_key(|m| m.volume);
    }
    domains
}

/// The number of distinct domains at each level of [`Level::ALL`].
pub fn domain_counts(members: &[Member]) -> [usize; 4] {
    Level::ALL.map(|level| domains(members, level).len())
}

/// The widest level with at least `width` distinct domains.
pub fn level(members: &[Member], width: usize) -> Result<Level, TooFewDomains> {
    let counts = domain_counts(members);
    (Level::ALL.into_iter().zip(counts))
        .find_map(|(level, count)| (count >= width).then_some(level))
        .ok_or(TooFewDomains {
            width,
            volumes: counts[3],
        })
}

/// Weights of the domains at `level`, in order of their keys.
pub(super) fn domain_weights(members: &[Member], level: Level) -> Vec<u128> {
    (domains(members, level).values())
        .map(|members| members.iter().map(|m| u128::from(m.weight)).sum())
        .collect()
}

/// How many roles of a chunk a domain of each weight gets on average: proportional to weight, but 1 at most, and what
/// a capped domain cannot take goes to the others by their weights (water-filling). They sum up to `width`.
///
/// Needs at least `width` weights, none of them 0.
pub(super) fn roles_per_chunk(weights: &[u128], width: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(weights[*i]));
    let mut roles = vec![1.0; weights.len()];
    let mut left: u128 = weights.iter().sum();
    let mut capped = 0;
    // The heaviest is capped while its part of the roles that are left is one or more.
    while capped < width && weights[order[capped]] * (width - capped) as u128 >= left {
        left -= weights[order[capped]];
        capped += 1;
    }
    for i in &order[capped..] {
        roles[*i] = (width - capped) as f64 * weights[*i] as f64 / left as f64;
    }
    roles
}

/// The share of all roles that each member is to hold, in the members' order; they sum up to 1.
///
/// A share is proportional to weight as far as distinct domains allow: a domain (of the level that [`level`] names)
/// holds at most one role of a chunk, so at most `1 / width` of all. What a capped domain cannot take goes to the other
/// domains by their weights. Inside a domain, shares are proportional to weights.
pub fn fair_shares(members: &[Member], width: usize) -> Result<Vec<f64>, TooFewDomains> {
    let level = level(members, width)?;
    let weights = domain_weights(members, level);
    let roles = roles_per_chunk(&weights, width);
    let of_domain: BTreeMap<_, _> = (domains(members, level).into_keys())
        .zip(roles.iter().zip(&weights))
        .collect();
    Ok(members
        .iter()
        .map(|member| match of_domain.get(&level.key(member)) {
            Some((roles, weight)) => {
                **roles / width as f64 * (member.weight as f64 / **weight as f64)
            }
            None => 0.0, // only members without weight
        })
        .collect())
}

// ---- hashes and clocks --------------------------------------------------------------------------

/// A permutation of the 64-bit numbers whose output bits each depend on all input bits (the finalizer of Steele,
/// Lea and Flood's SplittableRandom with Stafford's constants "mix 13").
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash_key(level: Level, key: [u32; 4]) -> u64 {
    (key.into_iter()).fold(mix(level as u64 + 1), |h, id| {
        mix(h.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(id))
    })
}

const LOG_BITS: u32 = 10;
/// Fraction bits of a logarithm.
const LOG_FRACTION: u32 = 30;

/// log2(1 + i / 1024), by squaring: the integer parts of the successive squares are its binary digits.
const LOG: [u32; (1 << LOG_BITS) + 1] = {
    let mut table = [0; (1 << LOG_BITS) + 1];
    let mut i = 0;
    while i <= 1 << LOG_BITS {
        let mut x: u128 = ((1 << LOG_BITS) + i as u128) << (60 - LOG_BITS); // 1.0 is 2^60
        let mut log = 0;
        if i == 1 << LOG_BITS {
            log = 1 << LOG_FRACTION;
        } else {
            let mut bit = LOG_FRACTION;
            while bit > 0 {
                bit -= 1;
                x = (x * x) >> 60;
                if x >= 2 << 60 {
                    x >>= 1;
                    log |= 1 << bit;
                }
            }
        }
        table[i] = log;
        i += 1;
    }
    table
};

/// −log2((u + 1) / 2³²) with [`LOG_FRACTION`] bits behind the point: for a random `u`, an exponential variable.
fn exponential(u: u32) -> u64 {
    let v = u64::from(u) + 1;
    let whole = 63 - v.leading_zeros();
    let fraction = (v << (32 - whole)) & 0xffff_ffff;
    let i = (fraction >> (32 - LOG_BITS)) as usize;
    let rest = fraction & ((1 << (32 - LOG_BITS)) - 1);
    let (low, high) = (u64::from(LOG[i]), u64::from(LOG[i + 1]));
    let log = (u64::from(whole) << LOG_FRACTION) + low + (((high - low) * rest) >> (32 - LOG_BITS));
    (32 << LOG_FRACTION) - log
}

/// The mean time of a clock of rate 1. The largest time of any clock is 2³⁵ · 2⁴⁴ / 2²⁴.
const MEAN_OF_RATE_1: f64 = (1 << 30) as f64;
const MEAN_MAX: u64 = 1 << 44;

/// The mean time of a clock of `rate`, rates being about 1 on average.
fn mean(rate: f64) -> u64 {
    // The cast rounds down and saturates.
    ((MEAN_OF_RATE_1 / rate) as u64).clamp(1, MEAN_MAX)
}

/// When the clock rings. `u` is random.
fn clock(u: u32, mean: u64) -> u64 {
    ((u128::from(exponential(u)) * u128::from(mean)) >> 24) as u64
}

/// At most [`clock`], without a logarithm: −log2(x) > 1 − x.
fn clock_floor(u: u32, mean: u64) -> u64 {
    const { assert!(LOG_FRACTION == 30) };
    ((u128::from(!u >> 2) * u128::from(mean)) >> 24) as u64
}

// ---- the ring -----------------------------------------------------------------------------------

#[derive(Clone, Debug)]
struct DomainPoint {
    hash: u64,
    /// Of its clock.
    mean: u64,
    /// Its volumes are `volumes[first..end]`.
    first: u32,
    end: u32,
}

#[derive(Clone, Debug)]
struct VolumePoint {
    hash: u64,
    mean: u64,
    volume: u16,
}

/// Where the roles of every chunk of one width lie, at one epoch.
#[derive(Clone, Debug)]
pub struct Ring {
    width: usize,
    level: Level,
    /// The capped ones first, otherwise in order of their keys.
    domains: Vec<DomainPoint>,
    capped: usize,
    volumes: Vec<VolumePoint>,
}

/// A domain that offers itself to a role.
#[derive(Clone, Copy)]
struct Offer {
    time: u64,
    domain: u16,
    /// How often the domain has tried other roles than that of its colour.
    round: u16,
}

const NEVER: u64 = u64::MAX;

impl Offer {
    /// To the role of its colour.
    fn first(d: usize, hash: u64, mean: u64) -> Offer {
        Offer {
            time: clock(hash as u32, mean) + 1, // 0 is for those that nobody displaces
            domain: d as u16,
            round: 0,
        }
    }

    const NONE: Offer = Offer {
        time: NEVER,
        domain: u16::MAX,
        round: 0,
    };
}

/// How much slower the clocks are by which a domain that has lost the role of its colour tries others. The slower, the
/// less often one displaces another that would have stayed; the faster, the nearer to a whole role a share can be.
const PATIENCE: u64 = 128;

/// Tries at roles. 32 roles and one free: 1 − (31/32)⁴⁰⁹⁶ is 1 but for 10⁻⁵⁶.
const ROUNDS_MAX: u16 = 4096;

impl Ring {
    /// Panics unless `width` is in 1..=[`ROLES_MAX`] and volumes are distinct.
    pub fn new(members: &[Member], width: usize) -> Result<Ring, TooFewDomains> {
        assert!((1..=ROLES_MAX).contains(&width));
        let level = level(members, width)?;
        let weights = domain_weights(members, level);
        let roles = roles_per_chunk(&weights, width);
        let mut domains: Vec<_> = (domains(members, level).into_iter().zip(roles)).collect();
        assert!(domains.len() <= usize::from(u16::MAX));
        let is_capped = |roles: f64| roles >= CAPPED;
        domains.sort_by_key(|(_, roles)| !is_capped(*roles)); // stable
        let capped = (domains.iter())
            .filter(|(_, roles)| is_capped(*roles))
            .count();
        let mut ring = Ring {
            width,
            level,
            domains: Vec::with_capacity(domains.len()),
            capped,
            volumes: Vec::with_capacity(members.len()),
        };
        let average_domain = weights.iter().sum::<u128>() as f64 / weights.len() as f64;
        for ((key, members), _) in &domains {
            let first = ring.volumes.len() as u32;
            let total: u128 = members.iter().map(|m| u128::from(m.weight)).sum();
            let average = total as f64 / members.len() as f64;
            ring.volumes.extend(members.iter().map(|m| VolumePoint {
                hash: hash_key(Level::Volume, [0, 0, 0, u32::from(m.volume)]),
                mean: mean(m.weight as f64 / average),
                volume: m.volume,
            }));
            ring.domains.push(DomainPoint {
                hash: hash_key(level, *key),
                // Stays so for the capped ones, where rates decide nothing but who keeps its colour.
                mean: mean(power(total as f64 / average_domain, 8).clamp(1e-4, 1e6)),
                first,
                end: ring.volumes.len() as u32,
            });
        }
        let mut volumes: Vec<u16> = ring.volumes.iter().map(|v| v.volume).collect();
        volumes.sort();
        assert!(volumes.is_sorted_by(|a, b| a < b), "volumes are distinct");
        ring.find_rates(&domains.iter().map(|(_, roles)| *roles).collect::<Vec<_>>());
        Ok(ring)
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// The level at which the roles of a chunk are in distinct domains.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        size_of::<Ring>()
            + self.domains.capacity() * size_of::<DomainPoint>()
            + self.volumes.capacity() * size_of::<VolumePoint>()
    }

    /// The volumes of a chunk whose hash is `point`. Allocates nothing.
    pub fn volumes_of(&self, point: u64) -> Roles {
        let domains = self.domains_of(point);
        (domains[..self.width].iter())
            .map(|d| self.volume_in(&self.domains[usize::from(*d)], point))
            .collect()
    }

    fn volume_in(&self, domain: &DomainPoint, point: u64) -> u16 {
        let volumes = &self.volumes[domain.first as usize..domain.end as usize];
        match volumes {
            [only] => only.volume,
            _ => {
                (volumes.iter())
                    .map(|v| (clock(mix(point ^ v.hash) as u32, v.mean), v.volume))
                    .min()
                    .expect("a domain has volumes")
                    .1
            }
        }
    }

    /// The domains of a point, role r at position r < width.
    fn domains_of(&self, point: u64) -> [u16; ROLES_MAX] {
        let mut held = [Offer::NONE; ROLES_MAX];
        if self.capped > 0 {
            self.hand_out(point, 0..self.capped, &mut held);
            for held in held[..self.width].iter_mut().filter(|h| h.time < NEVER) {
                held.time = 0; // out of reach of the others
            }
        }
        if self.capped < self.width {
            self.hand_out(point, self.capped..self.domains.len(), &mut held);
        }
        held.map(|offer| offer.domain)
    }

    /// Steps 2 and 3 for some of the domains: the stable matching of domains, which offer themselves to roles one
    /// after another, and roles, which hold the earliest offer.
    fn hand_out(&self, point: u64, domains: Range<usize>, held: &mut [Offer; ROLES_MAX]) {
        for d in domains.clone() {
            let domain = &self.domains[d];
            let hash = mix(point ^ domain.hash);
            // The upper half chooses the colour, the lower half the time.
            let role = self.choose(hash);
            if clock_floor(hash as u32, domain.mean) < held[role].time {
                let offer = Offer::first(d, hash, domain.mean);
                if offer.time < held[role].time {
                    held[role] = offer;
                }
            }
        }
        let latest = |held: &[Offer; ROLES_MAX]| {
            (held[..self.width].iter().map(|h| h.time).max()).expect("width > 0")
        };
        let mut last = latest(held);
        for d in domains {
            let domain = &self.domains[d];
            let mut hash = mix(point ^ domain.hash);
            // Nearly all end here: their second offer comes after all roles are taken.
            let second = mix(hash.wrapping_add(1));
            let floor = clock_floor(hash as u32, domain.mean)
                .saturating_add(clock_floor(second as u32, domain.mean).saturating_mul(PATIENCE));
            if floor >= last || held[..self.width].iter().any(|h| h.domain == d as u16) {
                continue;
            }
            let mut offer = Offer::first(d, hash, domain.mean);
            // The domain has lost the role of its colour, and goes on, or whom it displaces does.
            while offer.time < last && offer.round < ROUNDS_MAX {
                offer.round += 1;
                let domain = &self.domains[usize::from(offer.domain)];
                let next = mix(hash.wrapping_add(u64::from(offer.round)));
                let delay = clock(next as u32, domain.mean).saturating_mul(PATIENCE);
                offer.time = offer.time.saturating_add(delay).min(NEVER - 1);
                let role = match offer.round {
                    // So long without a free role does not happen to random hashes; but it must end.
                    ROUNDS_MAX => (0..self.width)
                        .find(|r| held[*r].time == NEVER)
                        .unwrap_or(0),
                    _ => self.choose(next),
                };
                if offer.time < held[role].time {
                    let displaced = std::mem::replace(&mut held[role], offer);
                    last = latest(held);
                    if displaced.time == NEVER {
                        break;
                    }
                    offer = displaced;
                    hash = mix(point ^ self.domains[usize::from(offer.domain)].hash);
                }
            }
        }
    }

    /// A role, from the upper half of a hash.
    fn choose(&self, hash: u64) -> usize {
        (((hash >> 32) * self.width as u64) >> 32) as usize
    }

    // ---- rates ----------------------------------------------------------------------------------

    /// Sets the domains' clocks so that they get `target` roles per chunk.
    fn find_rates(&mut self, target: &[f64]) {
        let target = &target[self.capped..];
        let Some(first) = target.first() else { return };
        if target.iter().all(|t| t == first) {
            self.set_rates(&mut vec![1.0; target.len()]);
            return;
        }
        // Where the rates are at last: the odds, which is right for one role and nearly so for few.
        let mut rates: Vec<f64> = target.iter().map(|t| odds(*t)).collect();
        let empty = power(1.0 - 1.0 / self.width as f64, target.len());
        let by_integral = self.capped == 0 && empty < EMPTY_MAX;
        // Few points while the rates are far off.
        let points = (1 << 22) / (self.domains.len() * self.width) as u64;
        let points = points.clamp(1 << 14, 1 << 16);
        let steps = [16, 16, 16, 8, 8, 4, 2, 1].map(|part| points / part);
        for points in steps {
            self.set_rates(&mut rates);
            let got = if by_integral {
                expected_roles(&rates, self.width)
            } else {
                self.counted_roles(points)
            };
            for ((rate, target), got) in rates.iter_mut().zip(target).zip(got) {
                *rate *= (odds(*target) / odds(got)).clamp(1.0 / 16.0, 16.0);
            }
        }
        self.set_rates(&mut rates);
    }

    fn set_rates(&mut self, rates: &mut [f64]) {
        let average = rates.iter().sum::<f64>() / rates.len() as f64;
        for (domain, rate) in self.domains[self.capped..].iter_mut().zip(rates) {
            *rate /= average;
            domain.mean = mean(*rate);
        }
    }

    /// Roles per chunk of each domain that is not capped, over a fixed list of points.
    fn counted_roles(&self, points: u64) -> Vec<f64> {
        let mut counts = vec![0u64; self.domains.len()];
        for i in 0..points {
            for d in &self.domains_of(mix(!i))[..self.width] {
                counts[usize::from(*d)] += 1;
            }
        }
        (counts[self.capped..].iter())
            .map(|n| *n as f64 / points as f64)
            .collect()
    }
}

/// Roles per chunk from which on a domain counts as one that has a role of every chunk.
const CAPPED: f64 = 0.999;

/// How often a role may have no domain of its colour where [`expected_roles`] is used.
const EMPTY_MAX: f64 = 0.005;

fn odds(share: f64) -> f64 {
    let share = share.clamp(1e-9, CAPPED);
    share / (1.0 - share)
}

fn power(base: f64, exponent: usize) -> f64 {
    (0..exponent).fold(1.0, |p, _| p * base)
}

/// e^−x for 0 ≤ x: the series of e^(x / 2^s) for a small argument, squared s times.
fn exp_of_minus(x: f64) -> f64 {
    let (mut x, mut squarings) = (x, 0);
    while x > 0.125 {
        x /= 2.0;
        squarings += 1;
    }
    let mut sum = 1.0;
    let mut term = 1.0;
    for i in 1..=12 {
        term *= x / f64::from(i);
        sum += term;
    }
    let mut result = 1.0 / sum;
    for _ in 0..squarings {
        result *= result;
    }
    result
}

/// Roles per chunk of domains with these rates. Colour and clock are independent, so a domain of rate λ has the role of
/// its colour when its clock rings at t and nobody has taken the role before:
///
/// ```text
/// p = ∫ λ e^(−λt) Π over the others (1 − (1 − e^(−λ't)) / width) · e^(−μt) dt
/// ```
///
/// The product is for others of its colour, μ is the rate at which those that lost elsewhere try this role. Simpson's
/// rule. The roles that these get are spread over the domains by rate and by how often they lose.
fn expected_roles(rates: &[f64], width: usize) -> Vec<f64> {
    const STEPS: usize = 1024;
    let w = width as f64;
    let all: f64 = rates.iter().sum();
    // A role is taken at a rate of (sum of rates) / width at first; the sum ends after 32 such times.
    let step = w / all / 32.0;
    let others = all * (1.0 - w / rates.len() as f64) / w / PATIENCE as f64;
    let wait = exp_of_minus(others * step);
    let decay: Vec<f64> = rates.iter().map(|r| exp_of_minus(r * step)).collect();
    let mut silent = vec![1.0; rates.len()]; // e^(−λt)
    let mut got = vec![0.0; rates.len()];
    let mut untried = 1.0; // e^(−μt)
    for i in 0..=STEPS {
        let free: f64 = (silent.iter()).fold(untried, |p, s| p * (1.0 - (1.0 - s) / w));
        let simpson = match i {
            0 | STEPS => 1.0,
            _ if i % 2 == 1 => 4.0,
            _ => 2.0,
        };
        for ((got, s), rate) in got.iter_mut().zip(&silent).zip(rates) {
            let free = s * free / (1.0 - (1.0 - s) / w);
            *got += simpson * step / 3.0 * rate * free;
            if i == STEPS {
                // All others of its colour have rung or never will.
                *got += free * rate / (rate + others);
            }
        }
        for (s, decay) in silent.iter_mut().zip(&decay) {
            *s *= decay;
        }
        untried *= wait;
    }
    let missing = w - got.iter().sum::<f64>();
    let losing = |got: f64, rate: f64| rate * (1.0 - got).max(0.0);
    let sum: f64 = got.iter().zip(rates).map(|(g, r)| losing(*g, *r)).sum();
    (got.iter().zip(rates))
        .map(|(g, r)| g + missing * losing(*g, *r) / sum)
        .collect()
}
