//! Streams of any number and length on the lanes of the kernels.

use std::cmp::Reverse;

use super::{
    Block, State,
    kernels::{Kernels, LANES_MAX, Lanes, States},
};

/// Blocks after which streams that wait for a lane get one, 4 KiB. The last of several streams of equal length has at
/// most this much left when the others are done; changing lanes costs a twentieth of a microsecond.
const TURN_BLOCKS: usize = 64;

/// A stream and the blocks that come next in it.
pub struct Run<'a> {
    pub state: &'a mut State,
    pub blocks: &'a [Block],
}

/// Takes every run to its end.
///
/// The runs with most left go first and take turns when there are more than lanes (longest remaining time first), so
/// that lanes stay busy to the end: 17 equal runs on 16 lanes take 17/16 of the time of 16.
pub fn compress(kernels: &Kernels, runs: &mut [Run<'_>]) {
    let mut runs = longest_first(runs);
    while let Some(wide) = kernels.wide_for(runs.len()) {
        let (now, waiting) = runs.split_at_mut(wide.lanes.min(runs.len()));
        let mut blocks = now.last().expect("a kernel is for some runs").blocks.len();
        if !waiting.is_empty() {
            blocks = blocks.min(TURN_BLOCKS);
        }
        let mut states = States([[0; LANES_MAX]; 4]);
        // An idle lane reads what the first reads.
        let mut lanes: Lanes<'_> = [&now[0].blocks[..blocks]; LANES_MAX];
        for (l, run) in now.iter_mut().enumerate() {
            let (next, rest) = run.blocks.split_at(blocks);
            (lanes[l], run.blocks) = (next, rest);
            for (word, v) in states.0.iter_mut().zip(&*run.state) {
                word[l] = *v;
            }
        }
        wide.compress(&mut states, &lanes);
        for (l, run) in now.iter_mut().enumerate() {
            *run.state = std::array::from_fn(|w| states.0[w][l]);
        }
        let advanced = now.len();
        runs.rotate_left(advanced);
        runs = longest_first(runs);
    }
    for run in runs {
        kernels.one(run.state, run.blocks);
    }
}

/// Sorted, without those that are at their end.
fn longest_first<'r, 'a>(runs: &'r mut [Run<'a>]) -> &'r mut [Run<'a>] {
    runs.sort_unstable_by_key(|run| Reverse(run.blocks.len()));
    let some = runs.partition_point(|run| !run.blocks.is_empty());
    &mut runs[..some]
}

const _: () = assert!(size_of::<Block>() == 64);
