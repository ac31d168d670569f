use ndarray::ArrayView2;

use crate::{AssignError, Matched, OneToOneSolver, conditioned::conditioned};

/// The exact optimum by the algorithm of Jonker and Volgenant (Computing 38, 1987): the linear assignment of Immiscible
/// Diffusion (arXiv 2406.12303, Algorithm 1).
///
/// O(B³) at worst, and slow where a few images dwarf all others (seconds at B = 1,024).
#[derive(Clone, Copy, Debug, Default)]
pub struct Lapjv;

impl OneToOneSolver for Lapjv {
    const NAME: &'static str = "lapjv";

    fn solve_matrix(&self, cost: ArrayView2<f32>) -> Result<Matched, AssignError> {
        let failed = |reason: String| AssignError::Solver { assigner: Self::NAME, reason };
        let (rows, columns) = cost.dim();
        let mut entries: Vec<f32> = conditioned(cost)?.iter().copied().collect();
        // Columns that nobody takes go to rows that do not care.
        entries.resize(columns * columns, 0.0);
        let matrix = lapjv::Matrix::from_shape_vec((columns, columns), entries)
            .map_err(|error| failed(error.to_string()))?;
        let (column_of, _) = lapjv::lapjv(&matrix).map_err(|error| failed(error.to_string()))?;
        let column_of = column_of.into_iter().take(rows).map(|j| j as u32).collect();
        Ok(Matched { column_of, lower_bound: None })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::{Assigner, normals::normals};

    /// Single precision loses nothing that can be seen: the same solver in double precision on the raw matrix is no
    /// better, on matrices that are hard for it too.
    #[test]
    fn single_precision_is_enough() {
        let n = 96;
        let normal = normals(3, n, n);
        let hard = [
            ("normal", normal.clone()),
            ("far from zero", &normal + 1e4),
            ("equal rows", Array2::from_shape_fn((n, n), |(i, j)| normal[(i % 4, j)])),
            (
                "a giant row",
                Array2::from_shape_fn((n, n), |(i, j)| normal[(i, j)] * if i == 0 { 1e4 } else { 1.0 }),
            ),
            (
                "half zero",
                Array2::from_shape_fn((n, n), |(i, j)| if i % 2 == 0 { 0.0 } else { normal[(i, j)] }),
            ),
            ("rank one", Array2::from_shape_fn((n, n), |(i, j)| (i * j) as f32)),
            ("few levels", normal.mapv(|c| c.round())),
            (
                "points on a line",
                Array2::from_shape_fn((n, n), |(i, j)| (normal[(0, i)] - normal[(1, j)]).abs()),
            ),
            ("tiny", &normal * 1e-30),
            ("huge", &normal * 1e30),
        ];
        for (name, cost) in hard {
            let doubles =
                cost.iter().map(|&c| f64::from(c) / f64::from(cost[(0, 0)].abs().max(1e-30))).collect();
            let matrix = lapjv::Matrix::from_shape_vec((n, n), doubles).expect("n * n entries");
            let (column_of, _) = lapjv::lapjv(&matrix).expect("a square matrix");
            let optimum: f64 = column_of.iter().enumerate().map(|(i, &j)| f64::from(cost[(i, j)])).sum();
            let found = Lapjv.solve(cost.view(), None).expect("finite");
            let gain = found.identity_cost - optimum;
            assert!(found.cost <= optimum + 1e-6 * gain, "{name}: {} above {optimum}", found.cost - optimum);
        }
    }
}
