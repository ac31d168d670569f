//! Every registered assigner on one batch: its time, what it brings, and its memory.

use std::path::Path;

use immiscible_assign::{
    ASSIGNERS, AssignError, Assignment, Candidates, Precision, Problem, drop_percent, mean_distance,
};
use immiscible_benches::fields;
use immiscible_data::npy;
use ndarray::{Array2, ArrayView2};

use crate::{
    clock::Measured,
    memory::{self, Work},
    race::{Budget, repeat, rounds},
    report::{AssignerRow, gap_percent},
};

/// Candidates per image, where images have their own.
const K: usize = 4;

/// One batch of a data set.
pub(crate) struct Batch<'a> {
    pub(crate) data: &'a str,
    pub(crate) images: ArrayView2<'a, f32>,
    pub(crate) noise: ArrayView2<'a, f32>,
}

/// Every assigner by the cost −⟨x, n⟩.
pub(crate) fn measure(
    batch: &Batch,
    budget: &mut Budget,
    folder: &Path,
    threads: usize,
) -> anyhow::Result<Vec<AssignerRow>> {
    let (size, dimension) = batch.images.dim();
    let rounds = rounds(size);
    let before = mean_distance(batch.images, batch.noise)?;
    let shared_costs = Costs::measure(&Problem::new(batch.images, Candidates::Shared(batch.noise)), budget)?;
    let file = folder.join("cost.npy");
    npy::write(&file, shared_costs.matrix.view())?;

    let mut rows = Vec::new();
    let mut answers = Vec::new();
    for (name, build) in ASSIGNERS {
        let solver = build();
        let own = (!solver.shares_noise()).then(|| fields::candidates(size, K, dimension));
        let candidates = match &own {
            Some(own) => Candidates::PerImage(own.view()),
            None => Candidates::Shared(batch.noise),
        };
        let problem = Problem::new(batch.images, candidates);
        let int8 = Problem { precision: Precision::Int8, ..problem };
        let own_costs = own.as_ref().map(|_| Costs::measure(&problem, budget)).transpose()?;
        let costs = own_costs.as_ref().unwrap_or(&shared_costs);
        let mut measured = |what: &str, call: &dyn Fn() -> Result<Assignment, AssignError>| {
            within(budget, &format!("{}, {name}, {what}", batch.data), size, (rounds, 1), call)
        };
        let (solve, solved) = measured("solve", &|| solver.solve(costs.matrix.view(), None));
        let (assign_f32, assigned) = measured("assign", &|| solver.assign(&problem));
        let (assign_int8, _) = measured("assign int8", &|| solver.assign(&int8));
        let gathered = assigned.map(|assignment| assignment.gather(&candidates)).transpose()?;
        let after = gathered.map(|noise| mean_distance(batch.images, noise.view())).transpose()?;
        let peak = (solver.shares_noise() && solve.timing().is_some())
            .then(|| memory::peak(name, Work::Solve { cost: &file }, threads))
            .flatten();
        rows.push(AssignerRow {
            data: batch.data.to_owned(),
            batch: size,
            assigner: (*name).to_owned(),
            cost_f32: costs.f32.clone(),
            cost_int8: costs.int8.clone(),
            peak_bytes: peak,
            solve,
            assign_f32,
            assign_int8,
            drop_percent: after.map(|after| drop_percent(before, after)),
            gap_percent: None,
            certified_gap_percent: solved.as_ref().and_then(Assignment::gap_percent),
        });
        answers.push(solved.filter(|_| solver.shares_noise()));
    }
    let best = answers.iter().flatten().map(|answer| answer.cost).fold(f64::INFINITY, f64::min);
    for (row, answer) in rows.iter_mut().zip(&answers) {
        row.gap_percent = answer.as_ref().map(|answer| gap_percent(answer.cost, best, answer.identity_cost));
    }
    Ok(rows)
}

/// Repeats a call that may fail and that meets `batches` in turn, unless it would take longer than the budget.
pub(crate) fn within<T>(
    budget: &mut Budget,
    who: &str,
    size: usize,
    (rounds, batches): (usize, usize),
    call: &dyn Fn() -> Result<T, AssignError>,
) -> (Measured, Option<T>) {
    if let Some(reason) = budget.refuse(who, size) {
        return (Measured::Skipped(reason), None);
    }
    let (answer, samples) = repeat(rounds, budget.repeat_ms(), call);
    match answer {
        Ok(answer) => {
            let measured = Measured::of(&samples, batches);
            if let Some(timing) = measured.timing() {
                budget.record(who, size, timing.wall_ms);
            }
            (measured, Some(answer))
        }
        Err(error) => (Measured::Skipped(error.to_string()), None),
    }
}

/// The cost matrix of a problem, and what it takes to make it.
struct Costs {
    matrix: Array2<f32>,
    f32: Measured,
    int8: Measured,
}

impl Costs {
    fn measure(problem: &Problem, budget: &Budget) -> Result<Self, AssignError> {
        let rounds = rounds(problem.images.nrows());
        let [(matrix, f32), (_, int8)] = [Precision::F32, Precision::Int8].map(|precision| {
            let problem = Problem { precision, ..*problem };
            repeat(rounds, budget.repeat_ms(), || problem.cost_matrix())
        });
        Ok(Self { matrix: matrix?, f32: Measured::of(&f32, 1), int8: Measured::of(&int8, 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_assigner_has_a_row() {
        let (images, noise) = (fields::smooth(0, 32, 3, 8), fields::noise(0, 32, 192));
        let batch = Batch { data: "smooth", images: images.view(), noise: noise.view() };
        let folder = tempfile::tempdir().expect("a folder");
        let mut budget = Budget::new(1.0);
        let rows = measure(&batch, &mut budget, folder.path(), 1).expect("finite");
        assert_eq!(rows.len(), ASSIGNERS.len());
        for row in rows {
            assert!(row.solve.timing().is_some() && row.assign_int8.timing().is_some(), "{row:?}");
            assert!(row.drop_percent.is_some_and(|drop| drop > 0.0), "{row:?}");
            assert!(row.gap_percent.is_none_or(|gap| gap >= 0.0), "{row:?}");
        }
    }

    #[test]
    fn what_fails_says_why() {
        let mut budget = Budget::new(1e3);
        let failing = || Err::<(), _>(AssignError::UnknownCost { name: "x".into() });
        let (measured, answer) = within(&mut budget, "who", 8, (3, 1), &failing);
        assert!(matches!(measured, Measured::Skipped(reason) if reason.contains("no cost")));
        assert!(answer.is_none());
        assert_eq!(budget.refuse("who", 1 << 20), None);
    }
}
