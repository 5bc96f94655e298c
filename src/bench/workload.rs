//! What a core does next. Sans-io: steps out, their ends in.
//!
//! A core looks after its share of the key space alone, so what it decides depends on its own
//! earlier steps only. Keys of `mixed` are in one of these states:
//!
//! ```text
//!            put ok                       delete taken
//!  absent ───────────► present ─────────────────────────────► (in flight) ── ok ──► absent
//!                      (uses: gets, stats and puts in flight)       └─ failed ─► unknown: left alone
//! ```
//!
//! A delete takes only keys that nobody uses, so a get never meets a key that is on its way out,
//! and every 404 is an error of the server.

use std::fmt;
use std::ops::Range;

use super::keys::Identity;
use crate::rt::sim::Rng;

/// Keys a delete of `mixed` looks at for one that nobody uses, before a put goes instead.
const DELETE_TRIES: usize = 8;

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Put,
    Get,
    Stat,
    Delete,
    List,
    Multipart,
    Mixed(Mix),
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Stat => "stat",
            Workload::Delete => "delete",
            Workload::List => "list",
            Workload::Multipart => "multipart",
            Workload::Mixed(_) => "mixed",
        }
    }

    /// Whether all keys must be there before it starts.
    pub fn needs_keys(self) -> bool {
        !matches!(self, Workload::Put | Workload::Multipart)
    }

    /// Whether object bytes travel in answers.
    pub fn reads_bodies(self) -> bool {
        match self {
            Workload::Get => true,
            Workload::Mixed(mix) => mix.get > 0,
            _ => false,
        }
    }
}

/// Shares of a mixed load, each of their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    pub get: u32,
    pub put: u32,
    pub stat: u32,
    pub delete: u32,
}

/// Largest share, so that sums do not overflow.
const SHARE_MAX: u32 = 1_000_000;

impl Default for Mix {
    fn default() -> Mix {
        Mix {
            get: 70,
            put: 20,
            stat: 5,
            delete: 5,
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mix {
            get,
            put,
            stat,
            delete,
        } = self;
        write!(f, "get={get},put={put},stat={stat},delete={delete}")
    }
}

impl std::str::FromStr for Mix {
    type Err = String;

    /// `get=70,put=20,stat=5,delete=5`; what is not named has no share.
    fn from_str(text: &str) -> Result<Mix, String> {
        let mut shares = [None; 4];
        const NAMES: [&str; 4] = ["get", "put", "stat", "delete"];
        for pair in text.split(',') {
            let (name, share) = pair
                .split_once('=')
                .ok_or_else(|| format!("{pair:?} is not like get=70"))?;
            let place = NAMES
                .iter()
                .position(|known| *known == name.trim())
                .ok_or_else(|| format!("{name:?} is none of get, put, stat, delete"))?;
            let share: u32 = share
                .trim()
                .parse()
                .ok()
                .filter(|share| *share <= SHARE_MAX)
                .ok_or_else(|| format!("{share:?} is not a share of 0 to {SHARE_MAX}"))?;
            if shares[place].replace(share).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let [get, put, stat, delete] = shares.map(Option::unwrap_or_default);
        let mix = Mix {
            get,
            put,
            stat,
            delete,
        };
        if mix.sum() == 0 {
            return Err("all shares are 0".to_owned());
        }
        if mix.delete > mix.put {
            return Err("more deletes than puts would leave nothing to get".to_owned());
        }
        Ok(mix)
    }
}

impl Mix {
    fn sum(self) -> u32 {
        self.get + self.put + self.stat + self.delete
    }
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Put(Identity),
    Get(u64),
    Stat(u64),
    Delete(u64),
    /// The next page of the slot's walk through the keys.
    Page,
    /// A whole upload in parts.
    Upload(Identity),
}

/// The steps of one core.
pub struct Steps {
    keys: Range<u64>,
    order: Order,
    rng: Rng,
    /// A step failed.
    failed: bool,
}

enum Order {
    /// Puts (or uploads) of all keys in turn, again and again, or once.
    Writing {
        next: u64,
        generation: u64,
        in_parts: bool,
        once: bool,
    },
    /// Deletes of all keys in turn, once.
    Deleting {
        next: u64,
    },
    Getting,
    Stating,
    Listing,
    Mixed(Box<Mixed>),
}

struct Mixed {
    mix: Mix,
    present: Vec<u64>,
    absent: Vec<u64>,
    /// Of every key of the share, as all below.
    generations: Vec<u64>,
    /// Whether it is one of `present`.
    there: Vec<bool>,
    /// Gets, stats and puts of the key in flight.
    uses: Vec<u32>,
}

impl Steps {
    /// Puts every key once.
    pub fn fill(keys: Range<u64>) -> Steps {
        Steps::new(keys, Steps::writing(false, true), 0, 0)
    }

    /// Deletes every key once.
    pub fn clear(keys: Range<u64>) -> Steps {
        let next = keys.start;
        Steps::new(keys, Order::Deleting { next }, 0, 0)
    }

    /// The steps of core number `core` for `workload`; `keys` is its share, not empty.
    pub fn of(workload: Workload, keys: Range<u64>, seed: u64, core: usize) -> Steps {
        let count = (keys.end - keys.start) as usize;
        let order = match workload {
            Workload::Put => Steps::writing(false, false),
            Workload::Multipart => Steps::writing(true, false),
            Workload::Get => Order::Getting,
            Workload::Stat => Order::Stating,
            Workload::Delete => Order::Deleting { next: keys.start },
            Workload::List => Order::Listing,
            Workload::Mixed(mix) => Order::Mixed(Box::new(Mixed {
                mix,
                present: keys.clone().collect(),
                absent: Vec::new(),
                generations: vec![0; count],
                there: vec![true; count],
                uses: vec![0; count],
            })),
        };
        Steps::new(keys, order, seed, core as u64)
    }

    fn new(keys: Range<u64>, order: Order, seed: u64, core: u64) -> Steps {
        Steps {
            keys,
            order,
            rng: Rng::stream(seed, "steps", core),
            failed: false,
        }
    }

    fn writing(in_parts: bool, once: bool) -> Order {
        Order::Writing {
            next: 0,
            generation: 0,
            in_parts,
            once,
        }
    }

    fn any_key(&mut self) -> u64 {
        self.keys.start + self.rng.below(self.keys.end - self.keys.start)
    }

    /// The next step; `None` when there are no keys left.
    pub fn take(&mut self) -> Option<Step> {
        match &mut self.order {
            Order::Writing {
                next,
                generation,
                in_parts,
                once,
            } => {
                if *next == self.keys.end - self.keys.start {
                    if *once {
                        return None;
                    }
                    *next = 0;
                    *generation += 1;
                }
                let body = Identity {
                    key: self.keys.start + *next,
                    generation: *generation,
                };
                *next += 1;
                Some(if *in_parts {
                    Step::Upload(body)
                } else {
                    Step::Put(body)
                })
            }
            Order::Deleting { next } => {
                if *next == self.keys.end {
                    return None;
                }
                *next += 1;
                Some(Step::Delete(*next - 1))
            }
            Order::Getting => Some(Step::Get(self.any_key())),
            Order::Stating => Some(Step::Stat(self.any_key())),
            Order::Listing => Some(Step::Page),
            Order::Mixed(mixed) => Some(mixed.next(self.keys.start, &mut self.rng)),
        }
    }

    /// A step has ended.
    pub fn ended(&mut self, step: Step, ok: bool) {
        self.failed |= !ok;
        if let Order::Mixed(mixed) = &mut self.order {
            mixed.ended(step, ok, self.keys.start);
        }
    }

    /// The keys that may exist because of these steps, or are left of the prepared ones. They may
    /// hold keys that do not exist.
    pub fn leaves(&self) -> Range<u64> {
        let Range { start, end } = self.keys;
        match self.order {
            Order::Writing {
                next,
                generation: 0,
                ..
            } => start..start + next,
            Order::Deleting { next } if !self.failed => next..end,
            _ => start..end,
        }
    }
}

impl Mixed {
    /// There is always a present key: a delete leaves half of them, and the last.
    fn next(&mut self, start: u64, rng: &mut Rng) -> Step {
        let Mix { get, put, stat, .. } = self.mix;
        let draw = rng.below(u64::from(self.mix.sum())) as u32;
        let any = self.present[rng.below(self.present.len() as u64) as usize];
        let step = if draw < get {
            Step::Get(any)
        } else if draw < get + stat {
            Step::Stat(any)
        } else if draw < get + stat + put {
            self.put(any, start)
        } else {
            match self.take_unused(start, rng) {
                Some(key) => Step::Delete(key),
                None => self.put(any, start),
            }
        };
        if let Step::Get(key) | Step::Stat(key) | Step::Put(Identity { key, .. }) = step {
            self.uses[(key - start) as usize] += 1;
        }
        step
    }

    /// A put of a key that is not there, else over `any`.
    fn put(&mut self, any: u64, start: u64) -> Step {
        let key = self.absent.pop().unwrap_or(any);
        let generation = &mut self.generations[(key - start) as usize];
        *generation += 1;
        Step::Put(Identity {
            key,
            generation: *generation,
        })
    }

    fn take_unused(&mut self, start: u64, rng: &mut Rng) -> Option<u64> {
        if self.present.len() < 2 || self.present.len() * 2 <= self.there.len() {
            return None;
        }
        let at = (0..DELETE_TRIES)
            .map(|_| rng.below(self.present.len() as u64) as usize)
            .find(|&at| self.uses[(self.present[at] - start) as usize] == 0)?;
        let key = self.present.swap_remove(at);
        self.there[(key - start) as usize] = false;
        Some(key)
    }

    fn ended(&mut self, step: Step, ok: bool, start: u64) {
        match step {
            Step::Get(key) | Step::Stat(key) => self.uses[(key - start) as usize] -= 1,
            Step::Put(Identity { key, .. }) => {
                let place = (key - start) as usize;
                self.uses[place] -= 1;
                // A failed put of an absent key leaves it unknown.
                if ok && !self.there[place] {
                    self.there[place] = true;
                    self.present.push(key);
                }
            }
            Step::Delete(key) if ok => self.absent.push(key),
            Step::Delete(_) | Step::Page | Step::Upload(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(step: Step) -> u64 {
        match step {
            Step::Put(body) | Step::Upload(body) => body.key,
            Step::Get(key) | Step::Stat(key) | Step::Delete(key) => key,
            Step::Page => panic!("no key"),
        }
    }

    #[test]
    fn mixes_are_read_and_refused() {
        let mix: Mix = "get=50,put=50".parse().unwrap();
        assert_eq!(mix.to_string(), "get=50,put=50,stat=0,delete=0");
        assert_eq!(Mix::default().to_string().parse(), Ok(Mix::default()));
        for bad in [
            "",
            "get",
            "get=x",
            "head=1",
            "get=1,get=2",
            "get=0",
            "put=1,delete=2",
            "get=-1",
            "get=4294967295",
        ] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn puts_go_over_all_keys_again_and_again() {
        let mut steps = Steps::of(Workload::Put, 5..8, 1, 0);
        assert_eq!(steps.leaves(), 5..5);
        let taken: Vec<_> = (0..4).map(|_| steps.take().unwrap()).collect();
        let put = |key, generation| Step::Put(Identity { key, generation });
        assert_eq!(taken, [put(5, 0), put(6, 0), put(7, 0), put(5, 1)]);
        assert_eq!(steps.leaves(), 5..8);
        let mut once = Steps::fill(5..8);
        assert_eq!(std::iter::from_fn(|| once.take()).count(), 3);
        assert_eq!(once.leaves(), 5..8);
    }

    #[test]
    fn deletes_consume_the_keys() {
        let mut steps = Steps::of(Workload::Delete, 5..8, 1, 0);
        let taken: Vec<_> = std::iter::from_fn(|| steps.take()).collect();
        assert_eq!(taken, [Step::Delete(5), Step::Delete(6), Step::Delete(7)]);
        assert!(steps.leaves().is_empty());
        steps.ended(Step::Delete(5), false);
        assert_eq!(steps.leaves(), 5..8);
    }

    #[test]
    fn gets_stay_in_their_share_and_follow_the_seed() {
        let keys = |seed, core| {
            let mut steps = Steps::of(Workload::Get, 100..200, seed, core);
            (0..50)
                .map(|_| key_of(steps.take().unwrap()))
                .collect::<Vec<_>>()
        };
        assert!(keys(1, 0).iter().all(|key| (100..200).contains(key)));
        assert_eq!(keys(1, 0), keys(1, 0));
        assert_ne!(keys(1, 0), keys(1, 1));
        assert_ne!(keys(1, 0), keys(2, 0));
    }

    /// Many steps in flight, ended in any order, against the plain set of keys that exist.
    #[test]
    fn a_mix_never_uses_a_key_that_may_be_gone() {
        let mix = "get=40,put=30,stat=10,delete=20".parse().unwrap();
        for keys in [1, 2, 10, 500] {
            let mut steps = Steps::of(Workload::Mixed(mix), 0..keys, 3, 0);
            let mut rng = Rng::stream(9, "test", keys);
            let mut exists = vec![true; keys as usize];
            let mut flight: Vec<Step> = Vec::new();
            let mut counts = [0; 4];
            for _ in 0..20_000 {
                if flight.len() < 16 && rng.coin() || flight.is_empty() {
                    let step = steps.take().unwrap();
                    let place = key_of(step) as usize;
                    counts[match step {
                        Step::Get(_) | Step::Stat(_) => {
                            assert!(exists[place]);
                            0
                        }
                        Step::Put(_) => 1,
                        Step::Delete(key) => {
                            assert!(exists[place]);
                            assert!(!flight.iter().any(|other| key_of(*other) == key));
                            2
                        }
                        _ => 3,
                    }] += 1;
                    flight.push(step);
                } else {
                    let step = flight.swap_remove(rng.below(flight.len() as u64) as usize);
                    let ok = keys > 100 || rng.below(10) > 0;
                    let place = key_of(step) as usize;
                    match step {
                        Step::Put(_) if ok => exists[place] = true,
                        Step::Delete(_) => exists[place] = false,
                        _ => {}
                    }
                    steps.ended(step, ok);
                }
            }
            assert!(counts[0] > 0 && counts[1] > 0 && counts[3] == 0);
            assert!(keys < 100 || counts[2] > counts[0] / 4, "{counts:?}");
        }
    }
}
