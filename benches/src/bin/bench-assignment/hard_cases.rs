//! Cost matrices on which assignment algorithms have been seen to slow down, hang or answer with nonsense.

use immiscible_assign::{Cost, by_name};
use immiscible_benches::fields;
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Axis};

use crate::{OURS, assigners::within, race::Budget, report::HardCase};

const SIZE: usize = 1_024;
const ROUNDS: usize = 5;

/// Builds the matrix of a size.
type Build = fn(usize) -> Array2<f32>;

const CASES: &[(&str, usize, Build)] = &[
    ("constant", SIZE, |n| Array2::ones((n, n))),
    ("c = i·j", SIZE, |n| Array2::from_shape_fn((n, n), |(i, j)| (i * j) as f32)),
    ("uniform in [0, 1)", SIZE, |n| uniforms(0, n, n)),
    ("integers 0 … 3", SIZE, |n| uniforms(0, n, n).mapv(|u| (4.0 * u).floor())),
    ("2-D points, ‖x − n‖²", SIZE, |n| points(n, 2)),
    ("1-D points, ‖x − n‖²", SIZE, |n| points(n, 1)),
    ("16 images, each 64 times", SIZE, |n| {
        let images = images(n);
        let repeated: Vec<usize> = (0..n).map(|i| i % 16).collect();
        dot(images.select(Axis(0), &repeated))
    }),
    ("all images identical", SIZE, |n| dot(images(n).select(Axis(0), &vec![0; n]))),
    ("one image × 10⁴", SIZE, |n| {
        let mut images = images(n);
        images.row_mut(n / 2).mapv_inplace(|x| 1e4 * x);
        dot(images)
    }),
    ("half the images zero", SIZE, |n| {
        let mut images = images(n);
        images.rows_mut().into_iter().step_by(2).for_each(|mut image| image.fill(0.0));
        dot(images)
    }),
    ("n = 1,000", 1_000, |n| dot(images(n))),
];

pub(crate) fn measure(budget: &mut Budget) -> anyhow::Result<Vec<HardCase>> {
    CASES.iter().map(|(case, size, build)| solve(case, &build(*size), budget)).collect()
}

fn solve(case: &str, cost: &Array2<f32>, budget: &mut Budget) -> anyhow::Result<HardCase> {
    let solver = by_name(OURS)?;
    let call = || solver.solve(cost.view(), None);
    let (timing, answer) = within(budget, case, cost.nrows(), (ROUNDS, 1), &call);
    Ok(HardCase {
        case: case.to_owned(),
        batch: cost.nrows(),
        timing,
        is_permutation: answer.as_ref().is_some_and(|answer| is_permutation(&answer.noise_of)),
        gap_percent: answer.and_then(|answer| answer.gap_percent()),
    })
}

pub(crate) fn is_permutation(columns: &[u32]) -> bool {
    let mut sorted = columns.to_vec();
    sorted.sort_unstable();
    sorted.iter().enumerate().all(|(i, &j)| i == j as usize)
}

fn images(n: usize) -> Array2<f32> {
    fields::smooth(0, n, 3, 32)
}

fn dot(images: Array2<f32>) -> Array2<f32> {
    let noise = fields::noise(0, images.nrows(), images.ncols());
    -images.dot(&noise.t())
}

/// Squared distances between points that are uniform in the unit cube.
fn points(n: usize, dimension: usize) -> Array2<f32> {
    let [x, noise] = [1, 2].map(|number| uniforms(number, n, dimension));
    Cost::SquaredL2.matrix(x.view(), noise.view()).expect("finite")
}

fn uniforms(number: u16, rows: usize, columns: usize) -> Array2<f32> {
    let mut values = Array2::zeros((rows, columns));
    let key = Key::new(0).stream(Stream::custom(number));
    key.fill_uniforms(0, columns, values.as_slice_mut().expect("a new array is in order"));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_finite_and_solved_when_small() {
        for (case, _, build) in CASES {
            let cost = build(64);
            assert!(cost.dim() == (64, 64) && cost.iter().all(|c| c.is_finite()), "{case}");
            let solved = solve(case, &cost, &mut Budget::new(1.0)).expect("registered");
            assert!(solved.is_permutation && solved.timing.timing().is_some(), "{solved:?}");
        }
    }

    #[test]
    fn permutations() {
        assert!(is_permutation(&[2, 0, 1]) && is_permutation(&[]));
        assert!(!is_permutation(&[0, 0]) && !is_permutation(&[1, 2]));
    }
}
