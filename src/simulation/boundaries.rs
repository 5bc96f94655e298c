//! One short life, whose power is cut at every boundary there is.
//!
//! [`run`](super::run) draws where a life is cut. Here the same life is lived again and again, each time cut one
//! operation later: before, in the middle of and after every write, flush, allocation and commit of the index, under
//! load and again while the store recovers.

use std::{fmt, str::FromStr};

use super::{Faults, Options, Run, Scenario, Start, Summary, Violation};
use crate::rt::sim::{Failure, Point};

/// Operations of a client until the cut, at most: enough to fill files, few enough to be lived through for each of them.
const OPERATIONS_MAX: u64 = 25;

/// What the store is doing when the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first load.
    Load,
    /// The start after a load that ended with a power cut.
    Recovery,
}

/// Where a life is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    pub phase: Phase,
    /// Counted from the beginning of the phase.
    pub operation: u64,
    pub point: Point,
}

const PHASES: [(&str, Phase); 2] = [("load", Phase::Load), ("recovery", Phase::Recovery)];
const POINTS: [(&str, Point); 3] = [
    ("before", Point::Before),
    ("middle", Point::Middle),
    ("after", Point::After),
];

/// As in `load:17:middle`.
impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = PHASES.iter().find(|(_, phase)| *phase == self.phase);
        let point = POINTS.iter().find(|(_, point)| *point == self.point);
        let ((phase, _), (point, _)) =
            (phase.expect("all are named"), point.expect("so are these"));
        write!(f, "{phase}:{}:{point}", self.operation)
    }
}

impl FromStr for Boundary {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Boundary, &'static str> {
        let parsed = || {
            let mut parts = text.split(':');
            let (phase, operation, point) = (parts.next()?, parts.next()?, parts.next()?);
            let boundary = Boundary {
                phase: PHASES.iter().find(|(name, _)| *name == phase)?.1,
                operation: operation.parse().ok()?,
                point: POINTS.iter().find(|(name, _)| *name == point)?.1,
            };
            parts.next().is_none().then_some(boundary)
        };
        parsed()
            .ok_or("load or recovery, a number, and before, middle or after, as in load:17:middle")
    }
}

/// Lives one life, cut at `boundary`. `None`: the phase was over before.
pub fn run_until(
    seed: u64,
    boundary: Boundary,
    verbose: bool,
) -> Result<Option<Summary>, Violation> {
    let options = Options {
        seed,
        faults: Some(Faults::Crash),
        verbose,
    };
    let mut run = Run::new(&options, |drawn| Scenario {
        operations_max: OPERATIONS_MAX,
        draws_failures: false,
        ..drawn.patient(false)
    });
    match run.cut_life(boundary) {
        Ok(false) => Ok(None),
        result => run.end(result).map(Some),
    }
}

/// Lives the life of a seed once for each of its boundaries; their number.
pub fn run_all(seed: u64) -> Result<u64, Violation> {
    let mut lives = 0;
    for phase in [Phase::Load, Phase::Recovery] {
        for operation in 0.. {
            let before = lives;
            for point in Point::ALL {
                let boundary = Boundary {
                    phase,
                    operation,
                    point,
                };
                let lived = run_until(seed, boundary, false).map_err(|violation| Violation {
                    what: format!("cut at {boundary}: {}", violation.what),
                    ..violation
                })?;
                lives += u64::from(lived.is_some());
            }
            if lives == before {
                break;
            }
        }
    }
    Ok(lives)
}

impl Run {
    /// Whether the cut came.
    fn cut_life(&mut self, boundary: Boundary) -> Result<bool, String> {
        self.name_keys();
        let Some(shares) = self.start_until_up(false)? else {
            unreachable!("an undamaged drive is not refused");
        };
        self.make_bucket(&shares)?;
        if boundary.phase == Phase::Load {
            self.cut_at(boundary);
        }
        let cut = self.load(&shares, false)?;
        self.count(&shares);
        match boundary.phase {
            Phase::Load if !cut => return Ok(false),
            Phase::Load => {}
            Phase::Recovery => self.world.power_cut(self.node, None),
        }
        drop(shares);
        self.lose_index();
        if boundary.phase == Phase::Recovery {
            self.world.restart(self.node);
            self.cut_at(boundary);
            match self.start()? {
                Start::Failed => self.lose_index(),
                Start::Up(_) => return Ok(false),
                Start::Refused(why) => return Err(format!("the store does not start: {why}")),
            }
        }
        self.summary.power_cuts += 1;
        self.last_looks()?;
        Ok(true)
    }

    fn cut_at(&self, boundary: Boundary) {
        let operation = self.world.ops(self.node) + boundary.operation;
        let cut = Failure::PowerCut(None);
        self.world
            .fail_at(self.node, operation, boundary.point, cut);
    }
}
