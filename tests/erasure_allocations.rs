//! Encoding allocates nothing, rebuilding nothing after the first time of an erasure pattern.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ostrakon::erasure::Codec;
use shard_format::{Role, Scheme};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as asked of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as asked of this function.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn steady(k: u8, m: u8, codec: u8) {
    let codec = Codec::new(Scheme { k, m, codec });
    let (width, len) = (usize::from(k + m), 4096);
    let mut memory: Vec<Vec<u8>> = (0..width).map(|role| vec![role as u8; len]).collect();
    let (data, parity) = memory.split_at_mut(k.into());
    // The last data segment is a short one.
    let mut data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let last = data.last_mut().expect("k is not 0");
    *last = &last[..len - 100];
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    codec.encode(&data, &mut parity);
    assert_eq!(allocations(|| codec.encode(&data, &mut parity)), 0);

    let mut out = [vec![0; len], vec![0; len / 2]];
    for lost in 0..width - 1 {
        let all = data
            .iter()
            .copied()
            .chain(parity.iter().map(|segment| &**segment));
        let have: Vec<(Role, &[u8])> = (0..)
            .map(Role)
            .zip(all)
            .filter(|(role, _)| !(lost..lost + 2).contains(&role.0.into()))
            .take(k.into())
            .collect();
        let mut rebuild = || {
            let [one, other] = &mut out;
            let roles = [lost, lost + 1].map(|role| Role(role as u8));
            codec.rebuild(&have, &mut [(roles[0], one), (roles[1], other)]);
        };
        rebuild();
        assert_eq!(allocations(rebuild), 0, "roles {lost} and the next");
    }
}

#[test]
fn codec_1() {
    steady(4, 2, Scheme::CODEC_CAUCHY_8);
    steady(16, 16, Scheme::CODEC_CAUCHY_8);
    steady(1, 2, Scheme::CODEC_CAUCHY_8);
}

#[test]
fn codec_2() {
    steady(4, 2, Scheme::CODEC_RS_16);
    steady(40, 4, Scheme::CODEC_RS_16);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(vec![1])), 1);
}
