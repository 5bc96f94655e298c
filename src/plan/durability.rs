//! Expected time to data loss: a Markov chain over the number of drives that are lost and not yet rebuilt.
//!
//! ```text
//!  0 ⇄ 1 ⇄ … ⇄ m−1 ⇄ m → data loss       up from i: (n − i) λ, down from i: i μ
//!               └────── h ──────┘         h: a sector cannot be read when nothing is left to rebuild it from
//! ```
//!
//! λ is the failure rate of a drive, 1/μ the mean time until a lost drive is replaced and rebuilt. Chunks are spread
//! over all drives, so any m + 1 drives that are lost at once are taken to lose some of them, where n > k + m too.

/// Hours in the mean year of the Gregorian calendar, rounded up.
pub const HOURS_PER_YEAR: f64 = 8766.0;

/// What the model needs to know.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Model {
    /// Drives, n ≥ k + m.
    pub drives: u32,
    pub k: u32,
    pub m: u32,
    /// Failures of a drive per hour, λ.
    pub failures_per_hour: f64,
    /// Until a lost drive is replaced and rebuilt, 1 / μ.
    pub repair_hours: f64,
    /// Bytes on each drive.
    pub drive_bytes: f64,
    /// Probability that a bit cannot be read.
    pub unrecoverable: f64,
}

impl Model {
    /// λ of an annual failure rate (a probability below 1).
    pub fn failures_per_hour(annual: f64) -> f64 {
        -(-annual).ln_1p() / HOURS_PER_YEAR
    }

    /// h: the probability that, with m drives lost, what is read to rebuild the chunks that have lost m roles contains
    /// a sector that cannot be read. 0 without parity, because nothing is rebuilt.
    pub fn unreadable(&self) -> f64 {
        if self.m == 0 {
            return 0.0;
        }
        let width = self.k + self.m;
        let bytes_per_role = f64::from(self.drives) * self.drive_bytes / f64::from(width);
        let critical = bytes_per_role * combinations_ratio(width, self.drives, self.m);
        let bits = 8.0 * f64::from(self.k) * critical;
        -(-bits * self.unrecoverable).exp_m1()
    }

    /// Share of the chunks that m + 1 drives lost at once take with them: those with m + 1 roles there.
    pub fn share_lost(&self) -> f64 {
        combinations_ratio(self.k + self.m, self.drives, self.m + 1)
    }

    /// Mean time to data loss (MTTDL), from all drives working.
    pub fn hours_to_loss(&self) -> f64 {
        let lambda = self.failures_per_hour;
        let mu = self.repair_hours.recip();
        let up = |i: u32| f64::from(self.drives - i) * lambda;
        if self.m == 0 {
            return up(0).recip();
        }
        // The time from i to i + 1 is 1 / up plus, for each way back, that from i − 1 to i. No differences, so nothing
        // cancels, however rare losses are.
        let mut step = up(0).recip();
        let mut below = 0.0; // from 0 to i
        for i in 1..self.m {
            below += step;
            step = (1.0 + f64::from(i) * mu * step) / up(i);
        }
        // From m − 1, where a failure is loss with probability h, else leads to m, which goes back or is lost.
        let h = self.unreadable();
        let (fail, repair) = (up(self.m), f64::from(self.m) * mu);
        below + (step * (fail + repair) + (1.0 - h)) / (fail + h * repair)
    }

    pub fn years_to_loss(&self) -> f64 {
        self.hours_to_loss() / HOURS_PER_YEAR
    }

    /// Probability of data loss within a year.
    pub fn annual_loss(&self) -> f64 {
        -(-self.years_to_loss().recip()).exp_m1()
    }

    /// Probability that a given chunk is lost within a year. Losses are taken to be those of whole drives.
    pub fn annual_loss_of_chunk(&self) -> f64 {
        -(-self.share_lost() / self.years_to_loss()).exp_m1()
    }
}

/// C(w, r) / C(n, r): the probability that r given drives of n all hold roles of a chunk of w.
fn combinations_ratio(w: u32, n: u32, r: u32) -> f64 {
    (0..r)
        .map(|i| f64::from(w.saturating_sub(i)) / f64::from(n - i))
        .product()
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{RngCore, SeedableRng};

    use super::*;

    fn model(drives: u32, k: u32, m: u32) -> Model {
        Model {
            drives,
            k,
            m,
            failures_per_hour: 0.1,
            repair_hours: 1.0,
            drive_bytes: 1.0,
            unrecoverable: 0.0,
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn rate_of_an_annual_failure_rate() {
        let rate = Model::failures_per_hour(0.015);
        close(1.0 - (-rate * HOURS_PER_YEAR).exp(), 0.015);
    }

    #[test]
    fn without_parity_the_first_failure_is_loss() {
        let one = model(1, 1, 0);
        close(one.hours_to_loss(), 10.0);
        close(model(4, 1, 0).hours_to_loss(), 2.5);
        assert_eq!(one.share_lost(), 1.0);
        assert_eq!(model(4, 1, 0).share_lost(), 0.25);
        // With the failure rate of an annual 1.5 %, 66 years.
        let rate = Model::failures_per_hour(0.015);
        let real = Model {
            failures_per_hour: rate,
            ..one
        };
        close(real.annual_loss(), 0.015);
        close(real.years_to_loss(), -1.0 / 0.985f64.ln());
    }

    /// (3λ + μ) / 2λ² for a mirror; with h, from both equations by hand.
    #[test]
    fn a_mirror_has_its_closed_form() {
        let (l, u) = (0.1, 1.0);
        let mirror = model(2, 1, 1);
        close(mirror.hours_to_loss(), (3.0 * l + u) / (2.0 * l * l));
        assert_eq!(mirror.share_lost(), 1.0);
        // A tenth of the rebuilds meets a bad sector: 8 bits of one byte.
        let worn = Model {
            unrecoverable: -(0.9f64.ln()) / 8.0,
            ..mirror
        };
        let h = 0.1;
        close(worn.unreadable(), h);
        let expected = ((l + u) / (2.0 * l) + 1.0 - h) / (l + h * u);
        close(worn.hours_to_loss(), expected);
    }

    /// ((n−1)λ + nλ + μ) / n(n−1)λ² for one parity on n drives, as for RAID 5.
    #[test]
    fn one_parity_has_its_closed_form() {
        let (l, u) = (0.1, 1.0);
        for n in 3..10 {
            let nf = f64::from(n);
            let expected = ((2.0 * nf - 1.0) * l + u) / (nf * (nf - 1.0) * l * l);
            close(model(n, 2, 1).hours_to_loss(), expected);
        }
    }

    #[test]
    fn a_chunk_is_lost_if_its_drives_are() {
        close(model(6, 3, 2).share_lost(), 10.0 / 20.0);
        close(model(5, 3, 2).share_lost(), 1.0);
        close(model(100, 2, 1).share_lost(), 3.0 / 4950.0);
    }

    #[test]
    fn rare_losses_do_not_cancel() {
        let rare = Model {
            failures_per_hour: 1e-9,
            repair_hours: 1.0,
            ..model(32, 8, 4)
        };
        // 0! 1! … of the chain: the product of all rates down over the product of all rates up.
        let ways: f64 = (0..5).map(|i| f64::from(32 - i) * 1e-9).product();
        let back: f64 = (1..5).map(f64::from).product();
        assert!((rare.hours_to_loss() * ways / back - 1.0).abs() < 1e-6);
    }

    /// Each drive fails and is repaired on its own; nothing of the chain is used.
    #[test]
    fn simulated_drives_last_as_long() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(20);
        let mut uniform = move || ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        for (drives, k, m, unrecoverable) in [
            (2, 1, 1, 0.0),
            (2, 1, 1, 0.05),
            (5, 2, 1, 0.01),
            (5, 3, 2, 0.0),
            (7, 3, 2, 0.1),
        ] {
            let model = Model {
                unrecoverable,
                ..model(drives, k, m)
            };
            let h = model.unreadable();
            const LIVES: u32 = 4000;
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..LIVES {
                let mut wait = |mean: f64| -mean * uniform().ln();
                // (when the state changes next, whether the drive is lost until then)
                let mut next: Vec<(f64, bool)> = (0..drives)
                    .map(|_| (wait(1.0 / model.failures_per_hour), false))
                    .collect();
                let end = loop {
                    let first = next.iter_mut().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                    let now = first.0;
                    first.1 = !first.1;
                    let mean = if first.1 {
                        model.repair_hours
                    } else {
                        1.0 / model.failures_per_hour
                    };
                    let failed = first.1;
                    first.0 = now + wait(mean);
                    let lost = next.iter().filter(|d| d.1).count() as u32;
                    // A wait of mean 1 is below −ln(1 − h) with probability h.
                    if failed && (lost > m || lost == m && wait(1.0) < -(1.0 - h).ln()) {
                        break now;
                    }
                };
                sum += end;
                squares += end * end;
            }
            let lives = f64::from(LIVES);
            let mean = sum / lives;
            let error = ((squares / lives - mean * mean) / lives).sqrt();
            let expected = model.hours_to_loss();
            assert!(
                (mean - expected).abs() < 4.0 * error,
                "{k}+{m} of {drives}, h {h:.3}: simulated {mean:.2} ± {error:.2}, model {expected:.2}"
            );
        }
    }
}
