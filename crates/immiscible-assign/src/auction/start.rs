//! Where the prices start.

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use super::{costs::Costs, entry::sealed::Real};

/// Rows from which the columns' statistics are taken: a quarter of them within these limits. More do not save bids.
const SAMPLE: std::ops::RangeInclusive<usize> = 32..=128;
/// Standard deviations below the mean. Anything from 1.5 to 2 is as good.
const KAPPA: f64 = 1.5;
/// Entries of a row that tell whether it has few values, and how often each occurs then.
const TASTE: usize = 64;
const TIES: usize = 4;
/// A row whose spread is this many times the median is an outlier, and says nothing about the others.
const OUTLIER: f64 = 8.0;

/// Prices to start from, for as many columns as rows: mean − κ · standard deviation of each column, over rows that are
/// freed of their own mean. It is the shape of the optimal prices for normal noise, and saves half of the work.
pub(super) struct Start {
    pub(super) v: Vec<f64>,
    /// The mean standard deviation of a column: the unit of the bids. 0 if there is no use in bids.
    pub(super) sigma: f64,
}

impl Start {
    /// `costs` are [n, n] and finite.
    pub(super) fn of<T: Real>(arch: Arch, costs: &dyn Costs<T>) -> Self {
        let (rows, columns) = costs.dim();
        let sampled = (rows / 4).clamp(*SAMPLE.start(), *SAMPLE.end()).min(rows);
        let sampled: Vec<usize> = (0..sampled).map(|k| k * rows / sampled).collect();
        let buffer = &mut Vec::new();
        let sample: Vec<(&[T], f64, f64)> = costs
            .selected(&sampled, buffer)
            .into_iter()
            .map(|row| {
                let (mean, spread) = arch.dispatch(Moments(row));
                (row, mean, spread)
            })
            .collect();
        let mut spreads: Vec<f64> = sample.iter().map(|row| row.2).filter(|&spread| spread > 0.0).collect();
        spreads.sort_unstable_by(f64::total_cmp);
        let usual = spreads.get(spreads.len() / 2).map_or(0.0, |median| OUTLIER * median);
        let (mut sum, mut squares) = (vec![0.0; columns], vec![0.0; columns]);
        let mut typical = sample.iter().filter(|(_, _, spread)| *spread > 0.0 && *spread <= usual);
        let equal = Self { v: vec![0.0; columns], sigma: 0.0 };
        let Some(&(first, first_mean, _)) = typical.clone().next() else {
            return equal;
        };
        if typical.clone().take(2).all(|(row, ..)| has_few_values(row)) {
            return equal;
        }
        let mut used = 0.0;
        for &(row, mean, _) in &mut typical {
            // Relative to one of the rows: where all are alike, the deviation is nothing but 0.
            let sums = (&mut sum[..], &mut squares[..]);
            arch.dispatch(Accumulate { row, first, shift: mean - first_mean, sums });
            used += 1.0;
        }
        let mut sigma = 0.0;
        let v = sum.iter().zip(&squares).zip(first).map(|((&sum, &squares), &first)| {
            let mean = sum / used;
            let deviation = (squares / used - mean * mean).max(0.0).sqrt();
            sigma += deviation;
            (first.into() - first_mean) + mean - KAPPA * deviation
        });
        Self { v: v.collect(), sigma: sigma / columns.max(1) as f64 }
    }
}

/// Whether a row is full of ties. Prices other than 0 would break them, and bids only waste time.
fn has_few_values<T: Real>(row: &[T]) -> bool {
    let mut values: Vec<f64> = row.iter().take(TASTE).map(|&c| c.into()).collect();
    let tasted = values.len();
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    TIES * values.len() <= tasted
}

/// Mean and standard deviation of a row.
struct Moments<'a, T>(&'a [T]);

impl<T: Real> WithSimd for Moments<'_, T> {
    type Output = (f64, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f64, f64) {
        const CHUNK: usize = 64;
        let origin: f64 = self.0.first().map_or(0.0, |&c| c.into());
        let mut above = [0.0; CHUNK];
        let (mut sum, mut squares) = (simd.splat_f64s(0.0), simd.splat_f64s(0.0));
        for chunk in self.0.chunks(CHUNK) {
            for (above, &c) in above.iter_mut().zip(chunk) {
                *above = c.into() - origin;
            }
            above[chunk.len()..].fill(0.0);
            for &d in S::as_simd_f64s(&above).0 {
                sum = simd.add_f64s(sum, d);
                squares = simd.add_f64s(squares, simd.mul_f64s(d, d));
            }
        }
        let n = self.0.len().max(1) as f64;
        let mean = simd.reduce_sum_f64s(sum) / n;
        let variance = simd.reduce_sum_f64s(squares) / n - mean * mean;
        (origin + mean, variance.max(0.0).sqrt())
    }
}

/// Adds what a row is above the first one, `shift` subtracted, to the columns' sums.
struct Accumulate<'a, T> {
    row: &'a [T],
    first: &'a [T],
    shift: f64,
    sums: (&'a mut [f64], &'a mut [f64]),
}

impl<T: Real> NullaryFnOnce for Accumulate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (sum, squares) = self.sums;
        for (((&c, &first), sum), squares) in self.row.iter().zip(self.first).zip(sum).zip(squares) {
            let d = (c.into() - first.into()) - self.shift;
            *sum += d;
            *squares += d * d;
        }
    }
}
