use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, parallel::prelude::*};

use crate::{AssignError, Matched, OneToOneSolver, conditioned::conditioned, greedy::cheapest_first};

/// Entropic optimal transport (Cuturi, NeurIPS 2013) in the logarithmic domain, rounded to an assignment: the likeliest
/// pair of the plan first. A reference to compare with; [`Exact`](crate::Exact) is better and faster.
#[derive(Clone, Copy, Debug)]
pub struct Sinkhorn {
    /// The weight of the entropy, in standard deviations of the centred cost.
    pub temperature: f64,
    /// Updates of rows and columns.
    pub iterations: usize,
}

impl Default for Sinkhorn {
    /// 0.1 and 20: some 2 % of the gain are lost, a third of it to the rounding.
    fn default() -> Self {
        Self { temperature: 0.1, iterations: 20 }
    }
}

impl OneToOneSolver for Sinkhorn {
    const NAME: &'static str = "sinkhorn";

    fn solve_matrix(&self, cost: ArrayView2<f32>) -> Result<Matched, AssignError> {
        let cost = conditioned(cost)?;
        let (rows, columns) = cost.dim();
        let variance = cost.iter().map(|&c| f64::from(c).powi(2)).sum::<f64>() / cost.len() as f64;
        let tau = self.temperature * variance.sqrt();
        if tau == 0.0 {
            return Ok(Matched { column_of: (0..rows as u32).collect(), lower_bound: None });
        }
        // Rows have mass 1. Columns share it, and in a pool a row that likes all columns alike takes what they have left:
        // with f = 0 there, its part of the plan is exp(g / τ).
        let spare = (columns - rows) as f64;
        let costs = cost.view();
        let transposed = costs.t().as_standard_layout().into_owned();
        let (mut f, mut g) = (Array1::zeros(rows), Array1::<f64>::zeros(columns));
        let mut slack = 0.0;
        for _ in 0..self.iterations {
            f = potentials(costs, &g, tau, None);
            if spare > 0.0 {
                slack = tau * (spare.ln() - log_sum_exp(g.iter().map(|g| g / tau)));
            }
            g = potentials(transposed.view(), &f, tau, (spare > 0.0).then_some(slack));
        }
        let reduced =
            Array2::from_shape_fn((rows, columns), |(i, j)| (f64::from(cost[(i, j)]) - f[i] - g[j]) as f32);
        Ok(Matched { column_of: cheapest_first(reduced.view()), lower_bound: None })
    }
}

/// For each row, −τ ln Σ_j exp((other_j − c_j) / τ), with one more term exp(`spare` / τ) if given.
fn potentials(cost: ArrayView2<f32>, other: &Array1<f64>, tau: f64, spare: Option<f64>) -> Array1<f64> {
    let of_row = |row: ArrayView1<f32>| {
        let terms = row.iter().zip(other).map(|(&c, other)| (other - f64::from(c)) / tau);
        -tau * log_sum_exp(terms.chain(spare.map(|spare| spare / tau)))
    };
    let potentials: Vec<f64> = cost.axis_iter(Axis(0)).into_par_iter().map(of_row).collect();
    Array1::from(potentials)
}

fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + terms.map(|x| (x - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Assigner, Exact, normals::normals};

    #[test]
    fn a_lower_temperature_and_more_iterations_come_close_to_the_optimum() {
        let (n, m) = (60, 90);
        let pool = normals(5, n, m);
        for cost in [pool.select(Axis(1), &(0..n).collect::<Vec<_>>()), pool] {
            let gain = |sinkhorn: &dyn Assigner| {
                let found = sinkhorn.solve(cost.view(), None).expect("finite");
                found.identity_cost - found.cost
            };
            let share = |temperature, iterations| gain(&Sinkhorn { temperature, iterations }) / gain(&Exact);
            let (coarse, fine) = (share(1.0, 5), share(0.02, 500));
            assert!(coarse < fine && (0.98..=1.0 + 1e-6).contains(&fine), "{coarse}, {fine}");
        }
    }
}
