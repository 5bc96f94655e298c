//! Faults on purpose in the production handles, so that tests of the whole process can see what a
//! slow, failing or tearing drive does. (The simulation has its own, below the handles.)
//!
//! Rules apply to paths by prefix. They are set by tests in the process ([`set`]) or for a whole
//! process through the environment variable `OSTRAKON_FAULTS`:
//!
//! ```text
//! OSTRAKON_FAULTS="path=/data/2 op=sync effect=eio after=10 count=1; path=/data/1 op=read effect=slow:50ms"
//! ```
//!
//! | field    | values                                                                  | without |
//! |----------|-------------------------------------------------------------------------|---------|
//! | `path`   | a prefix, by whole components; no blanks or semicolons                  | all     |
//! | `op`     | `read`, `write`, `sync`, `allocate`, or several with commas             | all     |
//! | `effect` | `eio`, `enospc`, `short`, `torn:SECTORS`, `slow:N{us,ms,s}`             | error   |
//! | `after`  | let this many matching calls pass first                                 | 0       |
//! | `count`  | strike this many times                                                  | always  |
//!
//! When no rule is set, a call pays one relaxed load.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

/// The environment variable with rules for the whole process.
pub const VARIABLE: &str = "OSTRAKON_FAULTS";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOp {
    Read,
    Write,
    Sync,
    Allocate,
}

impl FaultOp {
    const ALL: [FaultOp; 4] = [
        FaultOp::Read,
        FaultOp::Write,
        FaultOp::Sync,
        FaultOp::Allocate,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call begins this much later.
    Slow(Duration),
    /// The call does nothing and fails with this errno.
    Error(i32),
    /// The first attempt transfers half, and the call must go on by itself.
    Short,
    /// This many sectors of 512 bytes of a write get through, then EIO. On other calls: EIO.
    Torn { sectors: usize },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub path: PathBuf,
    pub ops: Vec<FaultOp>,
    pub effect: Effect,
    /// Matching calls to let pass first.
    pub after: u64,
    /// How often to strike; `None` is always.
    pub count: Option<u64>,
}

impl Rule {
    /// Strikes every call of `op` under `path`.
    pub fn new(path: impl Into<PathBuf>, op: FaultOp, effect: Effect) -> Rule {
        Rule {
            path: path.into(),
            ops: vec![op],
            effect,
            after: 0,
            count: None,
        }
    }

    pub fn after(mut self, calls: u64) -> Rule {
        self.after = calls;
        self
    }

    pub fn times(mut self, count: u64) -> Rule {
        self.count = Some(count);
        self
    }
}

static ARMED: AtomicBool = AtomicBool::new(false);
static RULES: Mutex<Vec<Rule>> = Mutex::new(Vec::new());
static ENVIRONMENT: Once = Once::new();

/// Some rule is set.
#[inline]
pub fn armed() -> bool {
    ARMED.load(Ordering::Relaxed)
}

fn rules() -> std::sync::MutexGuard<'static, Vec<Rule>> {
    RULES
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Replaces all rules, for the whole process.
pub fn set(new: Vec<Rule>) {
    let mut rules = rules();
    ARMED.store(!new.is_empty(), Ordering::Relaxed);
    *rules = new;
}

/// Adds a rule, for the whole process.
pub fn add(rule: Rule) {
    rules().push(rule);
    ARMED.store(true, Ordering::Relaxed);
}

/// Removes the rules whose path begins with `prefix`. Tests that share a process use one directory
/// each.
pub fn clear(prefix: &Path) {
    let mut rules = rules();
    rules.retain(|r| !r.path.starts_with(prefix));
    ARMED.store(!rules.is_empty(), Ordering::Relaxed);
}

/// Adds the rules of the environment, once per process. A mistake in them is an error: a test that
/// injects nothing proves nothing.
pub fn read_environment() -> Result<(), String> {
    let mut result = Ok(());
    ENVIRONMENT.call_once(|| {
        if let Ok(text) = std::env::var(VARIABLE) {
            match parse(&text) {
                Ok(rules) => rules.into_iter().for_each(add),
                Err(e) => result = Err(format!("{VARIABLE}: {e}")),
            }
        }
    });
    result
}

/// What happens to this call, in the order of the rules.
pub fn strike(path: &Path, op: FaultOp) -> Vec<Effect> {
    let mut effects = Vec::new();
    for rule in rules().iter_mut() {
        if !rule.ops.contains(&op) || !path.starts_with(&rule.path) {
            continue;
        }
        if rule.after > 0 {
            rule.after -= 1;
            continue;
        }
        match &mut rule.count {
            Some(0) => continue,
            Some(n) => *n -= 1,
            None => {}
        }
        effects.push(rule.effect);
    }
    effects
}

/// Reads rules in the format of the module's documentation.
pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    for rule in text.split(';').map(str::trim).filter(|r| !r.is_empty()) {
        let mut path = PathBuf::new();
        let mut ops = FaultOp::ALL.to_vec();
        let mut effect = None;
        let (mut after, mut count) = (0, None);
        for field in rule.split_whitespace() {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| format!("{field:?} is not name=value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{value:?} is no number"))
            };
            match name {
                "path" => path = value.into(),
                "op" => {
                    ops = value
                        .split(',')
                        .map(|op| match op {
                            "read" => Ok(FaultOp::Read),
                            "write" => Ok(FaultOp::Write),
                            "sync" => Ok(FaultOp::Sync),
                            "allocate" => Ok(FaultOp::Allocate),
                            _ => Err(format!("unknown op {op:?}")),
                        })
                        .collect::<Result<_, _>>()?;
                }
                "effect" => effect = Some(parse_effect(value)?),
                "after" => after = number()?,
                "count" => count = Some(number()?),
                _ => return Err(format!("unknown field {name:?}")),
            }
        }
        let effect = effect.ok_or_else(|| format!("{rule:?} has no effect"))?;
        rules.push(Rule {
            path,
            ops,
            effect,
            after,
            count,
        });
    }
    Ok(rules)
}

fn parse_effect(value: &str) -> Result<Effect, String> {
    let (name, argument) = value.split_once(':').unwrap_or((value, ""));
    let wrong = || format!("{value:?} is no effect");
    match name {
        "eio" => Ok(Effect::Error(libc::EIO)),
        "enospc" => Ok(Effect::Error(libc::ENOSPC)),
        "short" => Ok(Effect::Short),
        "torn" => Ok(Effect::Torn {
            sectors: argument.parse().map_err(|_| wrong())?,
        }),
        "slow" => {
            let split = argument
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(wrong)?;
            let n: u64 = argument[..split].parse().map_err(|_| wrong())?;
            match &argument[split..] {
                "us" => Ok(Effect::Slow(Duration::from_micros(n))),
                "ms" => Ok(Effect::Slow(Duration::from_millis(n))),
                "s" => Ok(Effect::Slow(Duration::from_secs(n))),
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_example() {
        let rules = parse(
            "path=/data/2 op=sync effect=eio after=10 count=1; path=/data/1 op=read,write effect=slow:50ms;",
        )
        .unwrap();
        assert_eq!(
            rules,
            [
                Rule::new("/data/2", FaultOp::Sync, Effect::Error(libc::EIO))
                    .after(10)
                    .times(1),
                Rule {
                    ops: vec![FaultOp::Read, FaultOp::Write],
                    ..Rule::new(
                        "/data/1",
                        FaultOp::Read,
                        Effect::Slow(Duration::from_millis(50))
                    )
                },
            ]
        );
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for text in [
            "path=/x",
            "effect=eoi",
            "op=sink effect=eio",
            "effect",
            "effect=slow:5",
            "effect=torn",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strikes_after_and_as_often_as_told() {
        let dir = Path::new("/nowhere/strikes");
        add(Rule::new(dir, FaultOp::Write, Effect::Short)
            .after(1)
            .times(2));
        let hits: Vec<usize> = (0..4)
            .map(|_| strike(&dir.join("f"), FaultOp::Write).len())
            .collect();
        assert_eq!(hits, [0, 1, 1, 0]);
        assert!(strike(Path::new("/nowhere/strikesnot/f"), FaultOp::Write).is_empty());
        clear(dir);
        assert!(strike(&dir.join("f"), FaultOp::Write).is_empty());
    }
}
