//! Encoding stripes and rebuilding a segment, from buffers of the core's pool.
//!
//! Against two crates, ISA-L where the machine has it, and copying the data, all in turn. Every side works on the same
//! stripe again and again, which stays in the core's caches. Rates are object data by CPU time, so that what else the
//! machine does weighs less; what is rebuilt is the first data segment, from the other data and the first parity.

use std::hint::black_box;

use ostrakon::erasure::{Backend, Codec, backends};
use ostrakon::rt::Buf;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use rusty_erasure::{Coder, DecodePlan, Matrix, raid};
use shard_format::{Role, Scheme};

use crate::isal::Isal;
use crate::measure::{Draw, Meter, ResultHash, Spread};
use crate::scratch::{Scratch, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Bytes of a segment; a multiple of 64
    #[arg(long, default_value_t = 65536)]
    segment: usize,
    /// Bytes of object data that one measurement encodes at least
    #[arg(long, default_value_t = 32 << 20)]
    bytes: usize,
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Measure the kernels that the CPU has beside the best too
    #[arg(long)]
    kernels: bool,
    /// ISA-L's library, if it is not where libraries are
    #[arg(long, default_value = "libisal.so.2")]
    libisal: String,
}

const SCHEMES: [(u8, u8); 3] = [(2, 1), (4, 2), (8, 4)];
/// The most segments of these.
const WIDTH_MAX: usize = 12;

/// One way of doing it.
trait Side {
    fn name(&self) -> String;

    /// Whether its parity is that of the disk.
    fn same_bytes(&self) -> bool {
        true
    }

    fn encode(&mut self, data: &[&[u8]], parity: &mut [&mut [u8]]);

    /// Makes `data[0]` from the rest of them and the first parity.
    fn rebuild(&mut self, data: &[&[u8]], parity: &[u8], first: &mut [u8]);
}

struct Ours {
    codec: Codec,
    kernel: &'static str,
}

impl Ours {
    fn new(k: u8, m: u8, backend: &'static dyn Backend) -> Ours {
        let codec = Scheme::CODEC_CAUCHY_8;
        Ours {
            codec: Codec::with_backend(Scheme { k, m, codec }, backend),
            kernel: backend.name(),
        }
    }
}

impl Side for Ours {
    fn name(&self) -> String {
        format!("ours ({})", self.kernel)
    }

    fn encode(&mut self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        self.codec.encode(data, parity);
    }

    fn rebuild(&mut self, data: &[&[u8]], parity: &[u8], first: &mut [u8]) {
        let k = data.len();
        let mut have = [(Role(k as u8), parity); WIDTH_MAX];
        for (role, segment) in data.iter().enumerate().skip(1) {
            have[role] = (Role(role as u8), *segment);
        }
        self.codec.rebuild(&have[..k], &mut [(Role(0), first)]);
    }
}

struct RustyErasure {
    coder: Coder,
    plan: DecodePlan,
}

impl RustyErasure {
    fn new(k: u8, m: u8) -> RustyErasure {
        let (k, m) = (usize::from(k), usize::from(m));
        let matrix = Matrix::cauchy(k, m).expect("a matrix of these");
        let coder = rusty_erasure::coder(matrix).expect("parity");
        let mut present = [true; WIDTH_MAX];
        present[0] = false;
        let plan = coder
            .decode_plan(&present[..k + m], &[0])
            .expect("one is lost");
        RustyErasure { coder, plan }
    }
}

impl Side for RustyErasure {
    fn name(&self) -> String {
        "rusty_erasure".to_owned()
    }

    fn encode(&mut self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        match parity {
            [parity] => raid::xor_gen(data, parity),
            _ => self.coder.encode(data, parity),
        }
        .expect("the shapes are right");
    }

    fn rebuild(&mut self, data: &[&[u8]], parity: &[u8], first: &mut [u8]) {
        if self.coder.p() == 1 {
            let mut rest = [parity; WIDTH_MAX];
            rest[1..data.len()].copy_from_slice(&data[1..]);
            return raid::xor_gen(&rest[..data.len()], first).expect("the shapes are right");
        }
        let mut shards = [None; WIDTH_MAX];
        for (shard, segment) in shards.iter_mut().zip(data).skip(1) {
            *shard = Some(*segment);
        }
        shards[data.len()] = Some(parity);
        let width = self.coder.k() + self.coder.p();
        self.coder
            .recover_with(&self.plan, &shards[..width], &mut [first])
            .expect("the shapes are right");
    }
}

struct ReedSolomonSimd {
    encoder: ReedSolomonEncoder,
    decoder: ReedSolomonDecoder,
}

impl ReedSolomonSimd {
    fn new(k: u8, m: u8, segment: usize) -> ReedSolomonSimd {
        let (k, m) = (k.into(), m.into());
        ReedSolomonSimd {
            encoder: ReedSolomonEncoder::new(k, m, segment).expect("whole units"),
            decoder: ReedSolomonDecoder::new(k, m, segment).expect("whole units"),
        }
    }
}

impl Side for ReedSolomonSimd {
    fn name(&self) -> String {
        "reed-solomon-simd".to_owned()
    }

    fn same_bytes(&self) -> bool {
        false
    }

    fn encode(&mut self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        for segment in data {
            self.encoder
                .add_original_shard(segment)
                .expect("equally long");
        }
        let made = self.encoder.encode().expect("all of them");
        for (segment, made) in parity.iter_mut().zip(made.recovery_iter()) {
            segment.copy_from_slice(made);
        }
    }

    fn rebuild(&mut self, data: &[&[u8]], parity: &[u8], first: &mut [u8]) {
        for (role, segment) in data.iter().enumerate().skip(1) {
            self.decoder
                .add_original_shard(role, segment)
                .expect("equally long");
        }
        self.decoder
            .add_recovery_shard(0, parity)
            .expect("equally long");
        let made = self.decoder.decode().expect("enough of them");
        first.copy_from_slice(made.restored_original(0).expect("lost"));
    }
}

struct OfIsal<'a> {
    isal: &'a Isal,
    encode: Vec<u8>,
    rebuild: Vec<u8>,
}

impl OfIsal<'_> {
    fn new(isal: &Isal, k: u8, m: u8) -> OfIsal<'_> {
        let (k, m) = (usize::from(k), usize::from(m));
        let matrix = isal.cauchy_matrix(k, m);
        let parity = &matrix[k * k..];
        // The first parity, solved for the first data segment.
        let scale = isal.inverse(parity[0]);
        let mut row = vec![scale];
        row.extend(parity[1..k].iter().map(|factor| isal.mul(scale, *factor)));
        OfIsal {
            isal,
            encode: isal.tables(parity, k),
            rebuild: isal.tables(&row, k),
        }
    }
}

impl Side for OfIsal<'_> {
    fn name(&self) -> String {
        "ISA-L".to_owned()
    }

    fn encode(&mut self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        match parity {
            [parity] => self.isal.xor(data, parity),
            _ => self.isal.encode(&self.encode, data, parity),
        }
    }

    fn rebuild(&mut self, data: &[&[u8]], parity: &[u8], first: &mut [u8]) {
        let mut rest = [parity; WIDTH_MAX];
        rest[1..data.len()].copy_from_slice(&data[1..]);
        let rest = &rest[..data.len()];
        if self.encode.len() == self.rebuild.len() {
            self.isal.xor(rest, first);
        } else {
            self.isal.encode(&self.rebuild, rest, &mut [first]);
        }
    }
}

/// GB per second of CPU time.
#[derive(Clone, Copy)]
struct Rates {
    encode: f64,
    rebuild: f64,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    if options.segment == 0 || !options.segment.is_multiple_of(64) {
        return Err(Failure::new("--segment: a multiple of 64"));
    }
    let scratch = Scratch::new(&options.common, "codec")?;
    print_machine(scratch.path());
    let names: Vec<_> = backends().map(Backend::name).collect();
    println!("kernels: {}", names.join("; "));
    let options = options.clone();
    on_core(&options.common.clone(), move || async move {
        let isal = Isal::open(&options.libisal);
        match &isal {
            Ok(_) => println!("ISA-L: {}", options.libisal),
            Err(_) => println!("ISA-L: absent, {} does not open", options.libisal),
        }
        println!("GB/s of CPU time, medians of {} runs", options.runs);
        let mut hash = ResultHash::default();
        for (k, m) in SCHEMES {
            let count = if options.kernels { usize::MAX } else { 1 };
            let mut sides: Vec<Box<dyn Side + '_>> = Vec::new();
            for backend in backends().take(count) {
                sides.push(Box::new(Ours::new(k, m, backend)));
            }
            sides.push(Box::new(RustyErasure::new(k, m)));
            sides.push(Box::new(ReedSolomonSimd::new(k, m, options.segment)));
            if let Ok(isal) = &isal {
                sides.push(Box::new(OfIsal::new(isal, k, m)));
            }
            measure(&options, (k, m), &mut sides, &mut hash).await;
        }
        println!("result hash {hash}");
        Ok(())
    })
}

async fn measure(
    options: &Options,
    (k, m): (u8, u8),
    sides: &mut [Box<dyn Side + '_>],
    hash: &mut ResultHash,
) {
    let (k, m) = (usize::from(k), usize::from(m));
    let mut draw = Draw::new(k as u64);
    let mut data = Vec::new();
    for _ in 0..k {
        let mut segment = Buf::alloc(options.segment).await;
        for bytes in segment.chunks_mut(8) {
            bytes.copy_from_slice(&draw.next().to_le_bytes());
        }
        data.push(segment);
    }
    let data: Vec<&[u8]> = data.iter().map(|segment| &segment[..]).collect();
    let mut parity = Vec::new();
    for _ in 0..m + 1 {
        parity.push(Buf::alloc(options.segment).await);
    }
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|segment| &mut segment[..]).collect();
    let (first, parity) = parity.split_last_mut().expect("one more than m");
    let mut copy = Vec::new();
    for _ in 0..k {
        copy.push(Buf::alloc(options.segment).await);
    }

    let times = options.bytes.div_ceil(k * options.segment).max(1);
    let rate =
        |meter: Meter| (times * k * options.segment) as f64 / meter.read().1.as_secs_f64() / 1e9;
    let mut expected: Option<Vec<Vec<u8>>> = None;
    let mut rounds: Vec<(Vec<Rates>, f64)> = Vec::new();
    for _ in 0..options.runs {
        let mut rates = Vec::new();
        for side in &mut *sides {
            let meter = Meter::start();
            for _ in 0..times {
                side.encode(black_box(&data), black_box(&mut *parity));
            }
            let encode = rate(meter);
            let meter = Meter::start();
            for _ in 0..times {
                side.rebuild(
                    black_box(&data),
                    black_box(&*parity[0]),
                    black_box(&mut **first),
                );
            }
            let rebuild = rate(meter);
            rates.push(Rates { encode, rebuild });
            assert!(**first == *data[0], "{} rebuilds it", side.name());
            if side.same_bytes() {
                let made = || parity.iter().map(|segment| segment.to_vec());
                let expected = expected.get_or_insert_with(|| made().collect());
                assert!(made().eq(expected.iter().cloned()), "{}", side.name());
            }
            first.fill(0);
        }
        let meter = Meter::start();
        for _ in 0..times {
            for (to, from) in copy.iter_mut().zip(black_box(&data)) {
                to.copy_from_slice(from);
            }
            black_box(&mut copy);
        }
        rounds.push((rates, rate(meter)));
    }
    for segment in expected.into_iter().flatten() {
        hash.add(&segment);
    }
    report(k, m, sides, &rounds);
}

fn report(k: usize, m: usize, sides: &[Box<dyn Side + '_>], rounds: &[(Vec<Rates>, f64)]) {
    let copy = Spread::of(rounds.iter().map(|(_, copy)| *copy)).median;
    println!("({k},{m}): memcpy {copy:.1}");
    type Of = fn(&Rates) -> f64;
    let works: [(&str, Of); 2] = [("encode", |r| r.encode), ("rebuild one", |r| r.rebuild)];
    for (work, of) in works {
        for (place, side) in sides.iter().enumerate() {
            let median = Spread::of(rounds.iter().map(|(rates, _)| of(&rates[place]))).median;
            println!("  {work}, {}: {median:.1}", side.name());
            if place == 0 {
                let to_copy = rounds.iter().map(|(rates, copy)| of(&rates[0]) / copy);
                println!("    ours to memcpy: {}", Spread::of(to_copy));
            } else {
                let ratios = rounds
                    .iter()
                    .map(|(rates, _)| of(&rates[0]) / of(&rates[place]));
                println!("    ours to it: {}", Spread::of(ratios));
            }
        }
    }
}
