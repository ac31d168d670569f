//! The Rust crates that solve the assignment problem, behind the feature `peers`.

use ndarray::ArrayView2;

/// Solves a matrix that was brought into the solver's own form before: the column of each row.
pub(crate) type Solve = Box<dyn Fn() -> Vec<usize>>;
/// Brings a matrix into the solver's form.
type Prepare = fn(ArrayView2<f32>) -> Solve;

/// Every peer by its name in the report.
#[cfg(not(feature = "peers"))]
pub(crate) const PEERS: &[(&str, Prepare)] = &[];

/// Every peer by its name in the report.
#[cfg(feature = "peers")]
pub(crate) const PEERS: &[(&str, Prepare)] = &[
    ("lapjv (crate)", crates::lapjv),
    ("lsap (crate)", crates::lsap),
    ("pathfinding (crate)", crates::pathfinding),
];

#[cfg(feature = "peers")]
mod crates {
    use super::{ArrayView2, Solve};

    /// Jonker and Volgenant, in single precision.
    pub(super) fn lapjv(cost: ArrayView2<f32>) -> Solve {
        let matrix = lapjv::Matrix::from_shape_vec(cost.dim(), cost.iter().copied().collect());
        Box::new(move || match &matrix {
            Ok(matrix) => lapjv::lapjv(matrix).map(|(columns, _)| columns).unwrap_or_default(),
            Err(_) => Vec::new(),
        })
    }

    /// SciPy's algorithm in Rust, in double precision.
    pub(super) fn lsap(cost: ArrayView2<f32>) -> Solve {
        let (rows, columns) = cost.dim();
        let values: Vec<f64> = cost.iter().map(|&c| f64::from(c)).collect();
        Box::new(move || {
            lsap::solve(rows, columns, &values, false).map(|(_, columns)| columns).unwrap_or_default()
        })
    }

    /// Kuhn and Munkres on integers. Forty bits leave nothing of the cost out that single precision has.
    pub(super) fn pathfinding(cost: ArrayView2<f32>) -> Solve {
        use pathfinding::matrix::Matrix;
        let largest = cost.iter().fold(f32::MIN_POSITIVE, |largest, c| largest.max(c.abs()));
        let scale = (1u64 << 40) as f64 / f64::from(largest);
        // It maximises.
        let weights = cost.iter().map(|&c| -(scale * f64::from(c)).round() as i64).collect();
        let weights = Matrix::from_vec(cost.nrows(), cost.ncols(), weights);
        Box::new(move || match &weights {
            Ok(weights) => pathfinding::kuhn_munkres::kuhn_munkres(weights).1,
            Err(_) => Vec::new(),
        })
    }
}

#[cfg(all(test, feature = "peers"))]
mod tests {
    use immiscible_benches::fields;

    use super::*;

    #[test]
    fn peers_agree() {
        let cost = fields::noise(0, 40, 40);
        let total = |columns: &[usize]| -> f64 {
            columns.iter().enumerate().map(|(i, &j)| f64::from(cost[(i, j)])).sum()
        };
        let totals: Vec<f64> = PEERS.iter().map(|(_, prepare)| total(&prepare(cost.view())())).collect();
        assert!(totals.iter().all(|total| (total - totals[0]).abs() < 1e-4 && *total < -40.0), "{totals:?}");
    }
}
