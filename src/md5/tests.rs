use std::{cell::RefCell, rc::Rc};

use ::md5::{Digest, Md5 as Oracle};
use proptest::prelude::*;

use super::{
    Block, INITIAL, Kernels, Md5, Piece, State, advance,
    hashing::Hashing,
    kernels::{LANES_MAX, Lanes, States},
    lanes::{Run, compress},
};
use crate::rt::{
    Buf,
    buf::Pool,
    executor::{
        Core,
        testing::{bench_core, settle},
    },
    yield_now,
};

fn oracle(bytes: &[u8]) -> [u8; 16] {
    Oracle::digest(bytes).into()
}

/// Bytes that do not repeat.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 7);
    while bytes.len() < len {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(seed | 1);
        bytes.extend_from_slice(&(x ^ (x >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Hashes all of `streams` together, each in the pieces that its cuts make.
fn together(kernels: &Kernels, streams: &[(Vec<u8>, Vec<usize>)]) -> Vec<[u8; 16]> {
    let mut states = vec![Md5::new(); streams.len()];
    let rounds = streams.iter().map(|(_, cuts)| cuts.len() + 1).max();
    for round in 0..rounds.unwrap_or(0) {
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for ((bytes, cuts), stream) in streams.iter().zip(&mut states) {
            if round > cuts.len() {
                continue;
            }
            let from = if round == 0 { 0 } else { cuts[round - 1] };
            let upto = cuts.get(round).copied().unwrap_or(bytes.len());
            pieces.push(Piece {
                stream,
                bytes: &bytes[from..upto],
                // Every other stream is padded later, by itself.
                ends: round == cuts.len() && bytes.len() % 2 == 0,
            });
        }
        advance(kernels, &mut pieces);
    }
    states.into_iter().map(Md5::finish).collect()
}

#[test]
fn rfc_1321_vectors() {
    // Appendix A.5.
    let vectors: [(&str, u128); 7] = [
        ("", 0xd41d8cd98f00b204e9800998ecf8427e),
        ("a", 0x0cc175b9c0f1b6a831c399e269772661),
        ("abc", 0x900150983cd24fb0d6963f7d28e17f72),
        ("message digest", 0xf96b697d7cb7938d525a2f31aaf161d0),
        (
            "abcdefghijklmnopqrstuvwxyz",
            0xc3fcd3d76192e4007dfb496cca67e13b,
        ),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            0xd174ab98d277d9f5a5611c2c9f419d9f,
        ),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            0x57edf4a22be3c955ac49da2e2107b67a,
        ),
    ];
    for kernels in Kernels::available() {
        let streams: Vec<_> = vectors
            .iter()
            .map(|(text, _)| (text.as_bytes().to_vec(), Vec::new()))
            .collect();
        let found = together(kernels, &streams);
        for ((text, digest), found) in vectors.iter().zip(found) {
            assert_eq!(found, digest.to_be_bytes(), "{text} on {}", kernels.name);
            assert_eq!(Md5::digest(text.as_bytes()), digest.to_be_bytes());
        }
    }
}

#[test]
fn every_kernel_by_itself_is_the_oracle() {
    let names: Vec<_> = Kernels::available().map(|k| k.name).collect();
    eprintln!("this CPU has the kernels {names:?}");
    let blocks = 9;
    // Lanes lie at the end of their memory, unaligned, so that a load beyond a block is one beyond the allocation.
    let streams: Vec<Box<[u8]>> = (0..LANES_MAX)
        .map(|l| bytes(l as u64, 64 * blocks + 1).into_boxed_slice())
        .collect();
    let lane = |l: usize| streams[l][1..].as_chunks::<64>().0;
    let expected: Vec<State> = (0..LANES_MAX)
        .map(|l| {
            let mut blocks = lane(l).as_flattened().to_vec();
            // The oracle shows no states, but digests: so the portable kernel is held to those, padding and all, and
            // gives the states that the others are held to.
            let bits = (blocks.len() as u64 * 8).to_le_bytes();
            let digest = oracle(&blocks);
            blocks.push(0x80);
            blocks.resize(blocks.len().next_multiple_of(64) - 8, 0);
            blocks.extend(bits);
            let mut state = INITIAL;
            let portable = Kernels::available().last().unwrap();
            portable.one(&mut state, blocks.as_chunks().0);
            let words = digest.as_chunks::<4>().0;
            assert_eq!(state, std::array::from_fn(|w| u32::from_le_bytes(words[w])));
            let mut state = INITIAL;
            portable.one(&mut state, lane(l));
            state
        })
        .collect();
    for kernels in Kernels::available() {
        let mut state = INITIAL;
        kernels.one(&mut state, lane(3));
        assert_eq!(state, expected[3], "{}", kernels.name);
        for wide in kernels.wide {
            let mut states = States(INITIAL.map(|word| [word; LANES_MAX]));
            let lanes: Lanes<'_> = std::array::from_fn(lane);
            wide.compress(&mut states, &lanes);
            for (l, expected) in expected.iter().enumerate().take(wide.lanes) {
                let state: State = std::array::from_fn(|w| states.0[w][l]);
                assert_eq!(
                    state, *expected,
                    "lane {l} of {} {}",
                    wide.lanes, kernels.name
                );
            }
            for l in wide.lanes..LANES_MAX {
                assert!((0..4).all(|w| states.0[w][l] == INITIAL[w]));
            }
        }
    }
}

#[test]
fn any_number_of_runs_of_any_lengths() {
    let data = bytes(7, 64 * 300);
    let blocks: &[Block] = data.as_chunks().0;
    let portable = Kernels::available().last().unwrap();
    for kernels in Kernels::available() {
        for count in [
            0, 1, 2, 8, 9, 10, 11, 15, 16, 17, 28, 29, 31, 32, 33, 64, 65, 100,
        ] {
            // Equal ones, and ones of all lengths, with empty ones among them.
            for equal in [true, false] {
                let of = |n: usize| match equal {
                    true => &blocks[n..n + 130],
                    false => &blocks[n..n + n * 7 % 200],
                };
                let mut states = vec![INITIAL; count];
                let mut runs: Vec<Run<'_>> = states
                    .iter_mut()
                    .enumerate()
                    .map(|(n, state)| Run {
                        state,
                        blocks: of(n),
                    })
                    .collect();
                compress(kernels, &mut runs);
                for (n, state) in states.iter().enumerate() {
                    let mut expected = INITIAL;
                    portable.one(&mut expected, of(n));
                    assert_eq!(*state, expected, "run {n} of {count} on {}", kernels.name);
                }
            }
        }
    }
}

fn streams() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<usize>)>> {
    let length = prop_oneof![
        4 => 0..300usize,
        2 => 0..20_000usize,
        1 => 0..=300 * 1024usize,
    ];
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    let stream = (any::<u64>(), length, cuts).prop_map(|(seed, len, cuts)| {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|i| i.index(len + 1)).collect();
        cuts.sort_unstable();
        (bytes(seed, len), cuts)
    });
    prop::collection::vec(stream, 0..70)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 8 } else { 100 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "slow")]
    fn streams_hashed_together_are_those_of_the_oracle(streams in streams()) {
        let expected: Vec<_> = streams.iter().map(|(bytes, _)| oracle(bytes)).collect();
        for kernels in Kernels::available() {
            prop_assert_eq!(&together(kernels, &streams), &expected, "{}", kernels.name);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "slow")]
    fn uploads_in_any_order_are_those_of_the_oracle(
        streams in streams(),
        late in prop::collection::vec(0..5u8, 70),
    ) {
        let mut turns = Vec::new();
        for kernels in Kernels::available() {
            let core = bench_core(Pool::heap(0));
            let hashing = Hashing::with(kernels);
            let (ended, note) = log();
            for (n, (bytes, cuts)) in streams.iter().cloned().enumerate() {
                let (hashing, note, late) = (hashing.clone(), note.clone(), late[n]);
                drop(core.spawn(async move {
                    for _ in 0..late {
                        yield_now().await;
                    }
                    let mut stream = Md5::new();
                    let mut from = 0;
                    for cut in cuts {
                        let (buf, len) = buffer(&bytes[from..cut]);
                        let back;
                        (stream, back) = hashing.update(stream, buf, len).await;
                        assert_eq!(&back[..len], &bytes[from..cut]);
                        from = cut;
                    }
                    let (buf, len) = buffer(&bytes[from..]);
                    let (digest, _) = hashing.finish(stream, buf, len).await;
                    assert_eq!(digest, oracle(&bytes));
                    note(n);
                }));
            }
            let mut count = 0;
            while core.has_work() {
                core.take_remote();
                core.run_ready();
                count += 1;
            }
            prop_assert_eq!(ended.borrow().len(), streams.len());
            turns.push((count, ended.take()));
        }
        // Who is done when does not depend on the CPU.
        prop_assert!(turns.windows(2).all(|w| w[0] == w[1]), "{:?}", turns);
    }
}

fn log() -> (Rc<RefCell<Vec<usize>>>, impl Fn(usize) + Clone) {
    let log = Rc::new(RefCell::new(Vec::new()));
    (log.clone(), move |n| log.borrow_mut().push(n))
}

/// Not from the pool: with a byte behind what counts.
fn buffer(bytes: &[u8]) -> (Buf, usize) {
    let mut buf = Buf::heap(bytes.len() + 1);
    buf[..bytes.len()].copy_from_slice(bytes);
    (buf, bytes.len())
}

fn turn(core: &Rc<Core>) {
    core.take_remote();
    core.run_ready();
}

/// Starts a task that hashes `len` bytes and notes `n` when it has them.
fn upload(
    core: &Rc<Core>,
    hashing: &Hashing,
    len: usize,
    n: usize,
    note: impl Fn(usize) + 'static,
) -> crate::rt::Task<()> {
    let hashing = hashing.clone();
    core.spawn(async move {
        let mut buf = Buf::alloc(len).await;
        buf.fill(n as u8);
        let (digest, buf) = hashing.finish(Md5::new(), buf, len).await;
        assert_eq!(digest, oracle(&buf));
        note(n);
    })
}

#[test]
fn small_ones_do_not_wait_for_large_ones() {
    let core = bench_core(Pool::heap(64 << 20));
    let hashing = Hashing::new();
    let (ended, note) = log();
    for n in 0..20 {
        drop(upload(&core, &hashing, 1 << 20, n, note.clone()));
    }
    turn(&core);
    turn(&core);
    for n in 20..24 {
        drop(upload(&core, &hashing, 4096, n, note.clone()));
    }
    // Queued, hashed, and their tasks told.
    for _ in 0..3 {
        turn(&core);
    }
    assert_eq!(*ended.borrow(), [20, 21, 22, 23]);
    settle(&core);
    assert_eq!(ended.borrow().len(), 24);
}

#[test]
fn a_turn_is_bounded_and_others_run_between() {
    let core = bench_core(Pool::heap(64 << 20));
    let hashing = Hashing::new();
    for (uploads, turns) in [(1, 16), (16, 16), (32, 32)] {
        let (ended, note) = log();
        for n in 0..uploads {
            drop(upload(&core, &hashing, 1 << 20, n, note.clone()));
        }
        turn(&core);
        for _ in 0..turns {
            assert!(ended.borrow().is_empty(), "{uploads} uploads");
            turn(&core);
        }
        // All have had their last share in the last turn.
        settle(&core);
        assert_eq!(*ended.borrow(), (0..uploads).collect::<Vec<_>>());
    }
}

#[test]
fn many_small_ones_share_a_turn() {
    let core = bench_core(Pool::heap(4 << 20));
    let hashing = Hashing::new();
    let (ended, note) = log();
    for n in 0..100 {
        drop(upload(&core, &hashing, 4096, n, note.clone()));
    }
    for _ in 0..3 {
        turn(&core);
    }
    assert_eq!(*ended.borrow(), (0..100).collect::<Vec<_>>());
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing() {
    let core = bench_core(Pool::heap(64 << 20));
    let all = core.pool().free_bytes();
    let hashing = Hashing::new();
    let (ended, note) = log();
    // Given up before the first turn, in the midst of the bytes, and when they are hashed but nobody has looked.
    for (after, under_way) in [(1, 4), (4, 4), (17, 0)] {
        let mut tasks: Vec<_> = (0..12)
            .map(|n| upload(&core, &hashing, 1 << 20, n, note.clone()))
            .collect();
        for _ in 0..after {
            turn(&core);
        }
        assert_eq!(core.pool().free_bytes(), all - (12 << 20));
        core.enter(|| {
            tasks
                .drain(..)
                .enumerate()
                .filter(|(n, _)| n % 3 != 1)
                .for_each(|(_, task)| task.cancel());
        });
        // One more turn, and their buffers are back.
        turn(&core);
        assert_eq!(core.pool().free_bytes(), all - (under_way << 20));
        settle(&core);
        assert_eq!(core.pool().free_bytes(), all);
        assert_eq!(ended.take(), [1, 4, 7, 10]);
    }
    // All of them, and the next is as ever.
    let task = upload(&core, &hashing, 1 << 20, 1, note.clone());
    turn(&core);
    core.enter(|| task.cancel());
    settle(&core);
    assert_eq!(core.pool().free_bytes(), all);
    drop(upload(&core, &hashing, 100, 2, note));
    settle(&core);
    assert_eq!(*ended.borrow(), [2]);
}

#[test]
fn a_core_is_torn_down_with_uploads_under_way() {
    let core = bench_core(Pool::heap(4 << 20));
    let all = core.pool().free_bytes();
    let hashing = Hashing::new();
    drop(upload(&core, &hashing, 1 << 20, 1, |_| ()));
    turn(&core);
    turn(&core);
    core.kill();
    core.enter(|| drop(hashing));
    assert_eq!(core.pool().free_bytes(), all);
}
