//! A matrix of costs in 16 bits: half the memory of single precision, for costs that were rounded more than this anyway.

use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::panels::PART;

/// Rows that are rounded at a time, which is one thread's work.
const ROWS: usize = PART;
/// Steps between the least and the largest cost of a row.
const STEPS: f32 = 65_534.0;

/// Costs, each row rounded to 65,535 values between its least and its largest.
pub(crate) struct Int16 {
    arch: Arch,
    values: Vec<i16>,
    columns: usize,
    scales: Vec<Scale>,
}

/// A value q stands for `origin` + `unit` · q.
#[derive(Clone, Copy, Default)]
struct Scale {
    origin: f32,
    unit: f32,
}

impl Int16 {
    /// Rounds [rows, columns] costs, of which `make` computes consecutive rows. None if a cost is not finite, or a row's costs
    /// are so far apart that their difference is not.
    pub(crate) fn of(
        rows: usize,
        columns: usize,
        make: impl Fn(Range<usize>, &mut Vec<f32>) + Sync,
    ) -> Option<Self> {
        let arch = Arch::new();
        let mut values = vec![0; rows * columns];
        let mut scales = vec![Scale::default(); rows];
        let parts = values.par_chunks_mut((ROWS * columns).max(1)).zip(scales.par_chunks_mut(ROWS));
        let all = parts.enumerate().map_init(Vec::new, |costs, (part, (values, scales))| {
            make(part * ROWS..part * ROWS + scales.len(), costs);
            let rows = costs.chunks(columns).zip(values.chunks_mut(columns));
            scales.iter_mut().zip(rows).all(|(scale, (costs, values))| {
                *scale = arch.dispatch(Round { costs, values });
                scale.unit.is_finite() && scale.origin.is_finite()
            })
        });
        all.reduce(|| true, |a, b| a && b).then_some(Self { arch, values, columns, scales })
    }

    /// Rows from the first to the last, appended to `costs`.
    pub(crate) fn read(&self, rows: Range<usize>, costs: &mut Vec<f32>) {
        let first = costs.len();
        costs.resize(first + rows.len() * self.columns, 0.0);
        for (costs, i) in costs[first..].chunks_mut(self.columns.max(1)).zip(rows) {
            let values = &self.values[i * self.columns..(i + 1) * self.columns];
            self.arch.dispatch(Read { values, scale: self.scales[i], costs });
        }
    }

    /// One of the costs.
    pub(crate) fn get(&self, row: usize, column: usize) -> f32 {
        self.scales[row].cost(self.values[row * self.columns + column])
    }
}

impl Scale {
    #[inline(always)]
    fn cost(self, value: i16) -> f32 {
        self.origin + self.unit * f32::from(value)
    }
}

/// Rounds a row; what is not finite makes its scale so.
struct Round<'a> {
    costs: &'a [f32],
    values: &'a mut [i16],
}

impl NullaryFnOnce for Round<'_> {
    type Output = Scale;

    #[inline(always)]
    fn call(self) -> Scale {
        const LANES: usize = 8;
        let Self { costs, values } = self;
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let mut poison = [0.0; LANES];
        for chunk in costs.chunks(LANES) {
            for (k, &c) in chunk.iter().enumerate() {
                low[k] = if c < low[k] { c } else { low[k] };
                high[k] = if c > high[k] { c } else { high[k] };
                poison[k] += c * 0.0;
            }
        }
        let (low, high) = (
            low.into_iter().fold(f32::INFINITY, f32::min),
            high.into_iter().fold(f32::NEG_INFINITY, f32::max),
        );
        let unit = (high - low) / STEPS + poison.iter().sum::<f32>();
        let origin = low + unit * (STEPS / 2.0);
        let inverse = if unit > 0.0 { unit.recip() } else { 0.0 };
        for (value, c) in values.iter_mut().zip(costs) {
            *value = ((c - origin) * inverse).round_ties_even() as i16;
        }
        Scale { origin, unit }
    }
}

struct Read<'a> {
    values: &'a [i16],
    scale: Scale,
    costs: &'a mut [f32],
}

impl NullaryFnOnce for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (cost, &value) in self.costs.iter_mut().zip(self.values) {
            *cost = self.scale.cost(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normals::normals;

    #[test]
    fn costs_are_kept_to_a_share_of_their_range() {
        let mut costs = normals(1, 300, 77);
        costs.row_mut(4).fill(3.25);
        let flat = costs.as_slice().unwrap();
        let make = |rows: Range<usize>, out: &mut Vec<f32>| {
            out.clear();
            out.extend_from_slice(&flat[rows.start * 77..rows.end * 77]);
        };
        let kept = Int16::of(300, 77, make).unwrap();
        let mut read = Vec::new();
        kept.read(0..300, &mut read);
        for (i, (found, expected)) in read.chunks(77).zip(flat.chunks(77)).enumerate() {
            let range = expected.iter().fold(f32::MIN, |a, &b| a.max(b))
                - expected.iter().fold(f32::MAX, |a, &b| a.min(b));
            for (j, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                assert!((found - expected).abs() <= 0.52 / 65_534.0 * range, "{i}, {j}: {found}, {expected}");
                assert_eq!(found, kept.get(i, j));
            }
        }
    }

    #[test]
    fn what_cannot_be_rounded_is_not_kept() {
        for values in [[1.0, f32::NAN], [f32::INFINITY, 0.0], [f32::MAX, -f32::MAX]] {
            let kept = Int16::of(1, 2, |_, out| {
                out.clear();
                out.extend(values);
            });
            assert!(kept.is_none(), "{values:?}");
        }
    }
}
