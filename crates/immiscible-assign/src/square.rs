//! What all assigners share that pair images and noises one to one: validation, label groups, the way back to the
//! identity. A solver is left with the permutation of one finite square matrix.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::{AssignError, Assigner, Assignment, Candidates, Problem, cost::all_finite};

/// A solver of the square assignment problem, which makes it an [`Assigner`].
pub trait SquareSolver: Send + Sync {
    /// The name in the registry and in configurations.
    const NAME: &'static str;

    /// For each row the column it takes, each column once.
    ///
    /// # Shapes
    /// `cost` is [n, n] with n ≥ 2: every entry finite, rows and columns of mean zero, in units that put its largest
    /// entry near 2²⁰. None of this changes which permutation is best.
    ///
    /// # Errors
    /// [`AssignError::Solver`] if the solver gives up.
    fn permutation(&self, cost: ArrayView2<f32>) -> Result<Vec<u32>, AssignError>;
}

impl<S: SquareSolver> Assigner for S {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn shares_noise(&self) -> bool {
        true
    }

    fn assign(&self, problem: &Problem) -> Result<Assignment, AssignError> {
        let Problem { images, candidates, cost, groups } = *problem;
        let Candidates::Shared(noise) = candidates else {
            return Err(AssignError::NeedsShared { assigner: S::NAME });
        };
        one_to_one(self, images.nrows(), noise.nrows(), groups, |members| match members {
            None => cost.matrix(images, noise),
            Some(rows) => cost
                .matrix(images.select(Axis(0), rows).view(), noise.select(Axis(0), rows).view())
                .map_err(|error| in_the_batch(error, rows)),
        })
    }

    fn solve(&self, cost: ArrayView2<f32>, groups: Option<&[u32]>) -> Result<Assignment, AssignError> {
        let (rows, columns) = cost.dim();
        all_finite(cost, "cost")?;
        one_to_one(self, rows, columns, groups, |members| {
            Ok(match members {
                None => cost.to_owned(),
                Some(members) => cost.select(Axis(0), members).select(Axis(1), members),
            })
        })
    }
}

/// Solves the whole batch, or each of its groups, of which `block` gives the cost matrix.
fn one_to_one<S: SquareSolver>(
    solver: &S,
    images: usize,
    noises: usize,
    groups: Option<&[u32]>,
    block: impl Fn(Option<&[usize]>) -> Result<Array2<f32>, AssignError> + Sync,
) -> Result<Assignment, AssignError> {
    if images != noises {
        return Err(AssignError::NotSquare { assigner: S::NAME, images, noises });
    }
    let Some(groups) = groups else {
        return solve_block(solver, block(None)?.view());
    };
    if groups.len() != images {
        return Err(AssignError::ShapeMismatch {
            what: "groups",
            expected: vec![images],
            found: vec![groups.len()],
        });
    }
    let mut members = BTreeMap::<u32, Vec<usize>>::new();
    for (i, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(i);
    }
    let members: Vec<Vec<usize>> = members.into_values().collect();
    let parts: Vec<Assignment> = members
        .par_iter()
        .map(|rows| solve_block(solver, block(Some(rows))?.view()))
        .collect::<Result<_, AssignError>>()?;

    let mut whole = Assignment { noise_of: vec![0; images], ..Assignment::default() };
    for (rows, part) in members.iter().zip(parts) {
        for (&i, &j) in rows.iter().zip(&part.noise_of) {
            whole.noise_of[i] = rows[j as usize] as u32;
        }
        whole.cost += part.cost;
        whole.identity_cost += part.identity_cost;
    }
    Ok(whole)
}

/// One block, with the identity where the solver has found nothing better.
fn solve_block<S: SquareSolver>(solver: &S, cost: ArrayView2<f32>) -> Result<Assignment, AssignError> {
    let n = cost.nrows();
    let identity_cost = cost.diag().iter().map(|&c| f64::from(c)).sum();
    let identity = || Assignment { noise_of: (0..n as u32).collect(), cost: identity_cost, identity_cost };
    if n < 2 {
        return Ok(identity());
    }
    let noise_of = solver.permutation(conditioned(cost).view())?;
    let mut taken = vec![false; n];
    let distinct =
        noise_of.iter().all(|&j| taken.get_mut(j as usize).is_some_and(|t| !std::mem::replace(t, true)));
    if noise_of.len() != n || !distinct {
        return Err(AssignError::Solver {
            assigner: S::NAME,
            reason: "its answer is not a permutation".into(),
        });
    }
    let solved = noise_of.iter().zip(cost.rows()).map(|(&j, row)| f64::from(row[j as usize])).sum();
    Ok(if solved < identity_cost { Assignment { noise_of, cost: solved, identity_cost } } else { identity() })
}

/// The same problem with rows and columns of mean zero, in units that put its largest entry near 2²⁰.
///
/// Constants of a row or a column add the same to every permutation. But with ‖x‖² in its row, a small image looks cheap
/// everywhere: a greedy choice serves it first, and column reduction gives it all the columns. The factor is there because
/// `lapjv` takes paths for equal that differ by less than the machine epsilon in absolute terms.
fn conditioned(cost: ArrayView2<f32>) -> Array2<f32> {
    let n = cost.nrows() as f64;
    let mut columns = Array1::<f64>::zeros(cost.ncols());
    let mut centred = cost.mapv(f64::from);
    for mut row in centred.rows_mut() {
        row -= row.sum() / n;
        columns += &row;
    }
    centred -= &(columns / n);
    let largest = centred.iter().fold(0.0_f64, |largest, c| largest.max(c.abs()));
    if largest > 0.0 {
        // A power of two rounds nothing.
        centred *= (20.0 - largest.log2().floor()).exp2();
    }
    centred.mapv(|c| c as f32)
}

/// The row of an error inside a group as the row of the batch.
fn in_the_batch(error: AssignError, rows: &[usize]) -> AssignError {
    match error {
        AssignError::NonFinite { what: "cost", row, column, value } => {
            AssignError::NonFinite { what: "cost", row: rows[row], column: rows[column], value }
        }
        AssignError::NonFinite { what, row, column, value } => {
            AssignError::NonFinite { what, row: rows[row], column, value }
        }
        other => other,
    }
}
