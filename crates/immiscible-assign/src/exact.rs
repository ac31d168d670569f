use ndarray::ArrayView2;

use crate::{
    AssignError, Entry, Matched, OneToOneSolver,
    auction::{self, Matching, NotFinite},
};

/// The optimum: the linear assignment of Immiscible Diffusion (arXiv 2406.12303, Algorithm 1), by an auction on short
/// lists of each image's cheapest noises and shortest augmenting paths for the rest.
///
/// About 3 ms at batch size 1,024 and 30 ms at 4,096 on one core of a server of 2021, and less than O(B²) up to 8,192. The
/// prices that it ends with prove the optimum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact;

impl OneToOneSolver for Exact {
    const NAME: &'static str = "exact";

    fn solve_matrix(&self, cost: ArrayView2<f32>) -> Result<Matched, AssignError> {
        within(cost, 0.0)
    }
}

/// The list auction, stopped when it provably lacks no more than `tolerance` of the gain.
pub(crate) fn within(cost: ArrayView2<f32>, tolerance: f64) -> Result<Matched, AssignError> {
    let matching = auction::solve(cost, tolerance).map_err(|NotFinite { row, column }| {
        AssignError::NonFinite { what: "cost", row, column, value: cost[(row, column)] }
    })?;
    let lower_bound = Some(matching.lower_bound());
    Ok(Matched { column_of: matching.column_of, lower_bound })
}

/// The cheapest way to pair rows and columns, all of those of which there are fewer, and the prices that prove it.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The paired rows, ascending.
    pub rows: Vec<u32>,
    /// Row `rows[k]` is paired with `columns[k]`.
    pub columns: Vec<u32>,
    /// The sum of the costs of the pairs.
    pub cost: f64,
    /// Dual variables of the rows, u: c − u − v is nowhere below 0 but for rounding.
    pub u: Vec<f64>,
    /// Dual variables of the columns, v.
    pub v: Vec<f64>,
}

impl Solution {
    /// Σ u + Σ v: what every assignment costs at least, given that c − u − v is nowhere negative.
    pub fn lower_bound(&self) -> f64 {
        self.u.iter().chain(&self.v).sum()
    }
}

/// Solves any dense matrix exactly, also rectangular ones, in single or double precision.
///
/// # Shapes
/// `cost` is [n, m]; min(n, m) pairs come back. [`Solution::u`] has n entries and [`Solution::v`] m. The duals of the side
/// that is not used up are 0 or less, and 0 where no pair was made.
///
/// # Errors
/// [`AssignError::NonFinite`].
pub fn linear_sum_assignment<T: Entry>(cost: ArrayView2<T>) -> Result<Solution, AssignError> {
    let (rows, columns) = cost.dim();
    let transposed = rows > columns;
    let flat = if transposed { cost.reversed_axes() } else { cost };
    let Matching { column_of, u, v } = auction::solve(flat, 0.0).map_err(|NotFinite { row, column }| {
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        let value: f64 = cost[(row, column)].into();
        AssignError::NonFinite { what: "cost", row, column, value: value as f32 }
    })?;
    let mut pairs: Vec<(u32, u32)> = (0..).zip(column_of).collect();
    if transposed {
        pairs.iter_mut().for_each(|(i, j)| std::mem::swap(i, j));
        pairs.sort_unstable();
    }
    let (rows, columns): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
    let cost = rows.iter().zip(&columns).map(|(&i, &j)| cost[(i as usize, j as usize)].into()).sum();
    let (u, v) = if transposed { (v, u) } else { (u, v) };
    Ok(Solution { rows, columns, cost, u, v })
}
