//! What all assigners share that give every image a noise of its own out of one set: label groups, pools, the way back to
//! the identity. A solver is left with one matrix.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::{AssignError, Assigner, Assignment, Candidates, Problem, Products, cost::all_finite};

/// A solver of the assignment problem, which makes it an [`Assigner`].
pub trait OneToOneSolver: Send + Sync {
    /// The name in the registry and in configurations.
    const NAME: &'static str;

    /// For each row the column it takes, no column twice.
    ///
    /// # Shapes
    /// `cost` is [n, m] with 1 ≤ n ≤ m and m ≥ 2.
    ///
    /// # Errors
    /// [`AssignError::NonFinite`] if an entry is not finite, [`AssignError::Solver`] if the solver gives up.
    fn solve_matrix(&self, cost: ArrayView2<f32>) -> Result<Matched, AssignError>;

    /// The same for costs that are computed when they are asked for; none if this solver wants them in a matrix.
    ///
    /// # Errors
    /// As for [`solve_matrix`](Self::solve_matrix).
    fn solve_products(&self, _costs: &Products) -> Option<Result<Matched, AssignError>> {
        None
    }
}

/// A solver's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched {
    /// The column of each row.
    pub column_of: Vec<u32>,
    /// No assignment costs less, if the solver can tell.
    pub lower_bound: Option<f64>,
}

impl<S: OneToOneSolver> Assigner for S {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn shares_noise(&self) -> bool {
        true
    }

    fn assign(&self, problem: &Problem) -> Result<Assignment, AssignError> {
        let Candidates::Shared(noise) = problem.candidates else {
            return Err(AssignError::NeedsShared { assigner: S::NAME });
        };
        let (images, noises) = (problem.images.nrows(), noise.nrows());
        in_groups::<S>(images, noises, problem.groups, |part| match part {
            None => solve_problem(self, problem),
            Some(Part { rows, columns }) => {
                let images = problem.images.select(Axis(0), rows);
                let noise = noise.select(Axis(0), columns);
                let mask = problem.mask.map(|mask| mask.select(Axis(0), rows));
                let part = Problem {
                    images: images.view(),
                    candidates: Candidates::Shared(noise.view()),
                    mask: mask.as_ref().map(|mask| mask.view()),
                    ..*problem
                };
                solve_problem(self, &part)
            }
        })
    }

    fn solve(&self, cost: ArrayView2<f32>, groups: Option<&[u32]>) -> Result<Assignment, AssignError> {
        let (rows, columns) = cost.dim();
        in_groups::<S>(rows, columns, groups, |part| match part {
            None => solve_block(self, cost),
            Some(Part { rows, columns }) => {
                let part: Array2<f32> = cost.select(Axis(0), rows).select(Axis(1), columns);
                solve_block(self, part.view())
            }
        })
    }
}

/// A group: its images and its noises, of which the first are those that the images were drawn with.
struct Part {
    rows: Vec<usize>,
    columns: Vec<usize>,
}

/// Solves the whole batch, or each of its groups.
fn in_groups<S: OneToOneSolver>(
    images: usize,
    noises: usize,
    groups: Option<&[u32]>,
    solve: impl Fn(Option<&Part>) -> Result<Assignment, AssignError> + Sync,
) -> Result<Assignment, AssignError> {
    if noises < images {
        return Err(AssignError::TooFewNoises { assigner: S::NAME, images, noises });
    }
    let Some(groups) = groups else {
        return solve(None);
    };
    if groups.len() != images {
        return Err(AssignError::ShapeMismatch {
            what: "groups",
            expected: vec![images],
            found: vec![groups.len()],
        });
    }
    if images > 0 && !noises.is_multiple_of(images) {
        return Err(AssignError::UnevenPool { images, noises });
    }
    let mut members = BTreeMap::<u32, Vec<usize>>::new();
    for (i, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(i);
    }
    let parts: Vec<Part> = members
        .into_values()
        .map(|rows| {
            let columns = (0..noises).step_by(images).flat_map(|first| rows.iter().map(move |i| first + i));
            Part { columns: columns.collect(), rows }
        })
        .collect();
    let solved: Vec<Assignment> = parts
        .par_iter()
        .map(|part| solve(Some(part)).map_err(|error| in_the_batch(error, part)))
        .collect::<Result<_, AssignError>>()?;

    let mut whole = Assignment { noise_of: vec![0; images], lower_bound: Some(0.0), ..Assignment::default() };
    for (part, solved) in parts.iter().zip(solved) {
        for (&i, &j) in part.rows.iter().zip(&solved.noise_of) {
            whole.noise_of[i] = part.columns[j as usize] as u32;
        }
        whole.cost += solved.cost;
        whole.identity_cost += solved.identity_cost;
        whole.lower_bound = whole.lower_bound.zip(solved.lower_bound).map(|(sum, bound)| sum + bound);
    }
    Ok(whole)
}

/// A block of images and noises, whose costs need not be in a matrix if they are many and the solver can do without.
fn solve_problem<S: OneToOneSolver>(solver: &S, problem: &Problem) -> Result<Assignment, AssignError> {
    if let Some(products) = problem.products()
        && let Some(matched) = solver.solve_products(&products)
    {
        // What is not finite in the costs comes from the images or the noises, which are looked at only then.
        let matched = matched.map_err(|error| problem.all_finite().err().unwrap_or(error))?;
        return settle(solver, products.dim(), |i, j| products.cost(i, j), matched);
    }
    solve_block(solver, problem.cost_matrix()?.view())
}

/// One block of costs.
fn solve_block<S: OneToOneSolver>(solver: &S, cost: ArrayView2<f32>) -> Result<Assignment, AssignError> {
    let (rows, columns) = cost.dim();
    let matched = if rows == 0 || columns == 1 {
        all_finite(cost, "cost")?;
        let only = if rows == 0 { 0.0 } else { f64::from(cost[(0, 0)]) };
        Matched { column_of: (0..rows as u32).collect(), lower_bound: Some(only) }
    } else {
        solver.solve_matrix(cost)?
    };
    settle(solver, (rows, columns), |i, j| cost[(i, j)], matched)
}

/// A solver's answer, checked, or the identity where it is nothing better.
fn settle<S: OneToOneSolver>(
    _solver: &S,
    (rows, columns): (usize, usize),
    cost: impl Fn(usize, usize) -> f32,
    Matched { column_of, lower_bound }: Matched,
) -> Result<Assignment, AssignError> {
    let total = |column_of: &[u32]| -> f64 {
        column_of.iter().enumerate().map(|(i, &j)| f64::from(cost(i, j as usize))).sum()
    };
    let mut taken = vec![false; columns];
    let distinct =
        column_of.iter().all(|&j| taken.get_mut(j as usize).is_some_and(|t| !std::mem::replace(t, true)));
    if column_of.len() != rows || !distinct {
        return Err(AssignError::Solver {
            assigner: S::NAME,
            reason: "its answer gives a noise to two images".into(),
        });
    }
    let identity: Vec<u32> = (0..rows as u32).collect();
    let (identity_cost, solved) = (total(&identity), total(&column_of));
    let (noise_of, cost) =
        if solved < identity_cost { (column_of, solved) } else { (identity, identity_cost) };
    // Rounding can put a bound above what it bounds.
    let lower_bound = lower_bound.map(|bound| bound.min(cost));
    Ok(Assignment { noise_of, cost, identity_cost, lower_bound })
}

/// The row and column of an error inside a group as those of the batch.
fn in_the_batch(error: AssignError, part: &Part) -> AssignError {
    match error {
        AssignError::NonFinite { what: "cost", row, column, value } => {
            AssignError::NonFinite { what: "cost", row: part.rows[row], column: part.columns[column], value }
        }
        AssignError::NonFinite { what: "candidates", row, column, value } => {
            AssignError::NonFinite { what: "candidates", row: part.columns[row], column, value }
        }
        AssignError::NonFinite { what, row, column, value } => {
            AssignError::NonFinite { what, row: part.rows[row], column, value }
        }
        AssignError::BeyondHalf { what, row, column, value } => {
            let rows = if what == "candidates" { &part.columns } else { &part.rows };
            AssignError::BeyondHalf { what, row: rows[row], column, value }
        }
        other => other,
    }
}
