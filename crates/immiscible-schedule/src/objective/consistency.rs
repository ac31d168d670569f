use burn::prelude::*;

use super::{Estimate, Objective};
use crate::{Levels, Point, ScheduleError};

/// The network is a part of the consistency function f(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, c_noise(t)), which maps
/// every point of a trajectory to its end at t = sigma_min, where it is the identity (Song et al. 2023, arXiv 2303.01469, §3
/// and appendix C). For data of variance sigma_data² that keep their size: alpha = 1, t = sigma.
///
/// It is no entry of [`OBJECTIVES`](super::OBJECTIVES): f is not an expectation, so there is nothing for a squared error to
/// regress, and at sigma_min, where c_out = 0, no target exists. Its training compares f with itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Consistency {
    sigma_min: f64,
    sigma_data: f64,
}

impl Consistency {
    /// `sigma_min` is where f is the identity, 0.002 in the paper; `sigma_data` is the standard deviation of the data, 0.5.
    ///
    /// # Errors
    /// [`ScheduleError::SigmaMin`] unless 0 < `sigma_min` and finite, [`ScheduleError::SigmaData`] likewise.
    pub fn new(sigma_min: f64, sigma_data: f64) -> Result<Self, ScheduleError> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if !positive(sigma_min) {
            return Err(ScheduleError::SigmaMin(sigma_min));
        }
        if !positive(sigma_data) {
            return Err(ScheduleError::SigmaData(sigma_data));
        }
        Ok(Self { sigma_min, sigma_data })
    }

    /// sigma_data²/((t − sigma_min)² + sigma_data²)
    fn skip(&self, levels: &Levels) -> Tensor<4> {
        let beyond = levels.sigma.clone() - self.sigma_min;
        (beyond.square() / self.sigma_data.powi(2) + 1.0).recip()
    }

    /// sigma_data (t − sigma_min)/√(t² + sigma_data²)
    fn out(&self, levels: &Levels) -> Tensor<4> {
        (levels.sigma.clone() - self.sigma_min) * self.sigma_data / self.deviation(levels)
    }

    /// √(t² + sigma_data²) = 1/c_in: the standard deviation of x_t.
    fn deviation(&self, levels: &Levels) -> Tensor<4> {
        (levels.sigma.clone().square() + self.sigma_data.powi(2)).sqrt()
    }
}

impl Objective for Consistency {
    fn name(&self) -> &'static str {
        "consistency"
    }

    /// (x0 − c_skip x_t)/c_out: what F is where f(x_t, t) = x0. Needs sigma above sigma_min.
    fn target(&self, x0: &Tensor<4>, noise: &Tensor<4>, levels: &Levels) -> Tensor<4> {
        let x_t = x0.clone() + levels.sigma.clone() * noise.clone();
        (x0.clone() - self.skip(levels) * x_t) / self.out(levels)
    }

    /// x0 = f(x_t, t), and what of x_t is left of it.
    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        let x0 = self.skip(levels) * x_t.clone() + self.out(levels) * output;
        Estimate::from_x0(x0, x_t, levels)
    }

    /// c_in x_t
    fn network_input(&self, x_t: Tensor<4>, levels: &Levels) -> Tensor<4> {
        x_t / self.deviation(levels)
    }

    /// c_noise = 1000 ln(t)/4, as in the paper's PyTorch code.
    fn network_time(&self, point: Point) -> f32 {
        (250.0 * point.sigma.ln()) as f32
    }

    /// c_out²
    fn x0_error(&self, point: Point) -> f64 {
        let variance = point.sigma.powi(2) + self.sigma_data.powi(2);
        (self.sigma_data * (point.sigma - self.sigma_min)).powi(2) / variance
    }

    fn reads_pure_noise(&self) -> bool {
        false
    }

    fn jumps(&self) -> bool {
        true
    }
}
