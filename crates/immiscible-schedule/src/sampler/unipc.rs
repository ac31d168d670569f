use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::dpmpp_2m::decay;
use super::{Denoise, StepKernel, Steps, Transition, valid_order};
use crate::{NoiseSchedule, Point, ScheduleError};

/// UniPC: a multistep predictor for x0, and a corrector that uses the evaluation at the end of a step, which the next step needs
/// anyway, to correct the step (Zhao et al. 2023, arXiv 2302.04867, algorithms 5-8, in its form for x0). One evaluation a step.
///
/// Corrected, it is of order 2 and 3 with `order` = 1 and 2. With `order` = 3 that would be 4, but the first step, for which there is one
/// estimate, is of order 2 corrected, which leaves 3 (2.9 to 3.0 measured; 4.0 on `linear` and `ve`, where the error of the first
/// step is small). From pure noise, where alpha and with it the first step grow from 0, all are of order 2, on `sigmoid` of order 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniPc {
    order: usize,
    /// The function B(h).
    pub b: UniPcB,
    /// Whether the orders of the last steps fall to 1, and with them that of a run up to 2.
    pub lower_order_final: bool,
}

/// The function B(h) of [`UniPc`]; h is by how much ln(alpha/sigma) grows in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniPcB {
    /// h
    Bh1,
    /// exp(h) − 1
    #[default]
    Bh2,
}

impl UniPc {
    /// `order` is 1 to 3; 2 with guidance.
    ///
    /// # Errors
    /// [`ScheduleError::Order`] for another order.
    pub fn new(order: usize) -> Result<Self, ScheduleError> {
        Ok(Self { order: valid_order("unipc", order, 3)?, b: UniPcB::Bh2, lower_order_final: true })
    }
}

impl StepKernel for UniPc {
    fn name(&self) -> &'static str {
        "unipc"
    }

    fn begin<'a>(
        &'a self,
        _: &'a dyn NoiseSchedule,
        path: &'a [(Point, Point)],
    ) -> Result<Box<dyn Steps + 'a>, ScheduleError> {
        Ok(Box::new(Run { options: *self, steps_left: path.len(), nodes: Vec::new(), last: None }))
    }
}

struct Run {
    options: UniPc,
    steps_left: usize,
    /// Where the last steps started: lambda and the estimate of x0 there, the newest one last.
    nodes: Vec<Node>,
    last: Option<LastStep>,
}

struct Node {
    /// ln(alpha/sigma)
    lambda: f64,
    x0: Tensor<4>,
}

/// The step that is to be corrected.
struct LastStep {
    x: Tensor<4>,
    from: Point,
    to: Point,
    order: usize,
}

impl Steps for Run {
    fn step(
        &mut self,
        x_t: &Tensor<4>,
        from: Point,
        to: Point,
        denoise: &mut Denoise<'_>,
    ) -> Result<Transition, ScheduleError> {
        let x0 = denoise(x_t, from).x0;
        let x = match self.last.take() {
            Some(last) => self.correct(&last, &x0).unwrap_or_else(|| x_t.clone()),
            None => x_t.clone(),
        };
        self.nodes.push(Node { lambda: lambda(from), x0 });
        if self.nodes.len() > self.options.order {
            self.nodes.remove(0);
        }
        // From pure noise lambda is infinite: no difference can be taken to such a node.
        let usable = self.nodes.iter().rev().take_while(|node| node.lambda.is_finite()).count().max(1);
        let most = match self.options.lower_order_final {
            _ if to.sigma == 0.0 => 1,
            true => self.steps_left.max(1),
            false => self.options.order,
        };
        let order = usable.min(most).min(self.options.order);
        self.steps_left = self.steps_left.saturating_sub(1);

        let step = LastStep { x, from, to, order };
        let predicted = self.predict(&step);
        self.last = Some(step);
        Ok(Transition::exact(predicted))
    }
}

impl Run {
    /// UniP (algorithm 6).
    fn predict(&self, step: &LastStep) -> Tensor<4> {
        let terms = self.terms(step);
        let weights = match step.order {
            1 => vec![],
            2 => vec![0.5],
            _ => solve(&terms.positions, &terms.targets[..step.order - 1]),
        };
        self.combine(step, &terms, &weights)
    }

    /// UniC (algorithm 5): the step again, now that `x0` is known at its end.
    fn correct(&self, step: &LastStep, x0: &Tensor<4>) -> Option<Tensor<4>> {
        let mut terms = self.terms(step);
        if !terms.b.is_finite() || decay(step.from, step.to) == 0.0 {
            return None;
        }
        terms.positions.push(1.0);
        terms.differences.push(x0.clone() - self.newest().x0.clone());
        let weights = if step.order == 1 { vec![0.5] } else { solve(&terms.positions, &terms.targets) };
        Some(self.combine(step, &terms, &weights))
    }

    fn newest(&self) -> &Node {
        &self.nodes[self.nodes.len() - 1]
    }

    fn terms(&self, step: &LastStep) -> Terms {
        let newest = self.newest();
        let h = lambda(step.to) - newest.lambda;
        let earlier = self.nodes.iter().rev().skip(1).take(step.order - 1);
        let (positions, differences) = earlier
            .map(|node| {
                let position = (node.lambda - newest.lambda) / h;
                (position, (node.x0.clone() - newest.x0.clone()) / position)
            })
            .unzip();
        let b = match self.options.b {
            UniPcB::Bh1 => -h,
            UniPcB::Bh2 => decay(step.from, step.to) - 1.0,
        };
        // phi_k(−h) by its recursion, times k!/B(h)
        let mut phi = (decay(step.from, step.to) - 1.0) / -h - 1.0;
        let mut factorial = 1.0;
        let targets = (1..=step.order)
            .map(|k| {
                let target = phi * factorial / b;
                factorial *= (k + 1) as f64;
                phi = phi / -h - 1.0 / factorial;
                target
            })
            .collect();
        Terms { positions, differences, targets, b }
    }

    /// The part that is exact for a constant x0, and the weighted differences.
    fn combine(&self, step: &LastStep, terms: &Terms, weights: &[f64]) -> Tensor<4> {
        let LastStep { from, to, .. } = *step;
        let kept = decay(from, to);
        let base =
            step.x.clone() * (to.sigma / from.sigma) + self.newest().x0.clone() * (to.alpha * (1.0 - kept));
        let differences = terms.differences.iter().zip(weights);
        differences
            .fold(base, |sum, (difference, weight)| sum - difference.clone() * (to.alpha * terms.b * weight))
    }
}

/// What predictor and corrector have in common.
struct Terms {
    /// Where the other nodes lie, in units of h from the newest one.
    positions: Vec<f64>,
    /// (x0 there − x0 at the newest one)/position
    differences: Vec<Tensor<4>>,
    /// Right-hand sides of the order conditions.
    targets: Vec<f64>,
    /// B(h)
    b: f64,
}

fn lambda(point: Point) -> f64 {
    (point.alpha / point.sigma).ln()
}

/// The weights w with sum_k w_k r_k^i = b_i for i = 0, 1, …, by Gauss-Jordan elimination; there are at most three, all r differ.
fn solve(r: &[f64], b: &[f64]) -> Vec<f64> {
    let n = r.len();
    let mut rows: Vec<Vec<f64>> =
        (0..n).map(|i| r.iter().map(|r| r.powi(i as i32)).chain([b[i]]).collect()).collect();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, c| rows[*a][column].abs().total_cmp(&rows[*c][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let pivot: Vec<f64> = rows[column].iter().map(|value| value / rows[column][column]).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = row[column];
            for (value, pivot) in row.iter_mut().zip(&pivot) {
                *value = if i == column { *pivot } else { *value - factor * pivot };
            }
        }
    }
    rows.iter().map(|row| row[n]).collect()
}
