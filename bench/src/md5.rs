//! MD5 of many uploads at once, the way a put has it done: buffers of the core's pool, handed to [`Hashing`] in one turn.
//!
//! Against the md-5 crate, which hashes the same buffers one after the other, and against copying them, the three in
//! turn. Rates are of CPU time, so that what else the machine does weighs less.

use futures_util::future::join_all;
use ostrakon::md5::{Hashing, Kernels, Md5};
use ostrakon::rt::Buf;

use crate::measure::{Draw, Meter, ResultHash, Spread};
use crate::scratch::{Scratch, on_core, print_machine};
use crate::{Common, Failure};

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Bytes of each stream
    #[arg(long, default_value_t = 1 << 20)]
    stream: usize,
    /// Bytes of each of many small bodies
    #[arg(long, default_value_t = 4096)]
    small: usize,
    /// Bytes that one measurement hashes at least
    #[arg(long, default_value_t = 32 << 20)]
    bytes: usize,
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

const STREAMS: [usize; 9] = [1, 2, 4, 8, 9, 16, 17, 24, 32];
const SMALL: [usize; 5] = [1, 4, 16, 64, 256];

/// A rate of each side, GB per second of CPU time.
struct Rates {
    uploads: f64,
    in_place: f64,
    peer: f64,
    copy: f64,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let scratch = Scratch::new(&options.common, "md5")?;
    print_machine(scratch.path());
    println!("kernels: {}", Kernels::best().name);
    let options = options.clone();
    on_core(&options.common.clone(), move || async move {
        let mut hash = ResultHash::default();
        println!("GB/s of CPU time, medians of {} rounds", options.rounds);
        for (what, size, counts) in [
            ("streams", options.stream, &STREAMS[..]),
            ("bodies", options.small, &SMALL[..]),
        ] {
            for &count in counts {
                let rates = measure(&options, size, count, &mut hash).await;
                report(&format!("{count} {what} of {size} bytes"), &rates);
            }
        }
        println!("result hash {hash}");
        Ok(())
    })
}

async fn measure(
    options: &Options,
    size: usize,
    count: usize,
    hash: &mut ResultHash,
) -> Vec<Rates> {
    let hashing = Hashing::new();
    let mut draw = Draw::new(count as u64);
    let mut buffers = Vec::new();
    for _ in 0..count {
        let mut buf = Buf::alloc(size).await;
        for bytes in buf.chunks_mut(8) {
            bytes.copy_from_slice(&draw.next().to_le_bytes()[..bytes.len()]);
        }
        buffers.push(buf);
    }
    let mut copy = Buf::heap(size);
    let times = options.bytes.div_ceil(size * count).max(1);
    let rate = |meter: Meter| (times * count * size) as f64 / meter.read().1.as_secs_f64() / 1e9;
    let mut all = Vec::new();
    for _ in 0..options.rounds {
        let mut digests = Vec::new();
        let meter = Meter::start();
        for _ in 0..times {
            let jobs = buffers
                .drain(..)
                .map(|buf| hashing.finish(Md5::new(), buf, size));
            (digests, buffers) = join_all(jobs).await.into_iter().unzip();
        }
        let uploads = rate(meter);

        let meter = Meter::start();
        for _ in 0..times {
            for (buf, digest) in buffers.iter().zip(&digests) {
                assert_eq!(Md5::digest(buf), *digest);
            }
        }
        let in_place = rate(meter);

        let meter = Meter::start();
        for _ in 0..times {
            for (buf, digest) in buffers.iter().zip(&digests) {
                let expected: [u8; 16] = <::md5::Md5 as ::md5::Digest>::digest(&buf[..]).into();
                assert_eq!(expected, *digest);
            }
        }
        let peer = rate(meter);

        let meter = Meter::start();
        for _ in 0..times {
            for buf in &buffers {
                copy.copy_from_slice(std::hint::black_box(buf));
                std::hint::black_box(&mut copy);
            }
        }
        let copied = rate(meter);
        for digest in &digests {
            hash.add(digest);
        }
        all.push(Rates {
            uploads,
            in_place,
            peer,
            copy: copied,
        });
    }
    all
}

fn report(what: &str, rates: &[Rates]) {
    let median = |of: fn(&Rates) -> f64| Spread::of(rates.iter().map(of)).median;
    println!(
        "{what}: {:.2}; one after the other {:.2}, md-5 crate {:.2}, memcpy {:.1}",
        median(|r| r.uploads),
        median(|r| r.in_place),
        median(|r| r.peer),
        median(|r| r.copy)
    );
    println!(
        "  to the md-5 crate: {}",
        Spread::of(rates.iter().map(|r| r.uploads / r.peer))
    );
    println!(
        "  to hashing in place, one after the other: {}",
        Spread::of(rates.iter().map(|r| r.uploads / r.in_place))
    );
    println!(
        "  to memcpy: {}",
        Spread::of(rates.iter().map(|r| r.uploads / r.copy))
    );
}
