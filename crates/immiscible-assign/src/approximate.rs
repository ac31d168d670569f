use ndarray::ArrayView2;

use crate::{
    AssignError, Matched, OneToOneSolver, Products,
    exact::{within, within_products},
};

/// The auction of [`Exact`](crate::Exact), stopped as soon as its prices prove that no more than `percent` of the gain
/// over a random pairing is missing; what is really missing is far less. Where the proof does not come in
/// time, and for pools, the answer is the optimum.
#[derive(Clone, Copy, Debug)]
pub struct Approximate {
    /// The gain that may be missing, in per cent of the optimum's.
    pub percent: f64,
}

impl Default for Approximate {
    /// 1 %: the first phase of the auction usually proves it.
    fn default() -> Self {
        Self { percent: 1.0 }
    }
}

impl OneToOneSolver for Approximate {
    const NAME: &'static str = "approximate";

    fn solve_matrix(&self, cost: ArrayView2<f32>) -> Result<Matched, AssignError> {
        within(cost, self.percent / 100.0)
    }

    fn solve_products(&self, costs: &Products) -> Option<Result<Matched, AssignError>> {
        within_products(costs, self.percent / 100.0).transpose()
    }
}
