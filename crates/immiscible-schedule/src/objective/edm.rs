use burn::prelude::*;

use super::{Estimate, Objective};
use crate::{Levels, Point, ScheduleError};

/// The network predicts what is left of x0 when the best linear guess from x_t is taken away, on inputs of unit variance
/// (Karras et al. 2022, arXiv 2206.00364, table 1 and §5).
///
/// The paper has alpha = 1. Here x_t/alpha and sigma/alpha take the places of x_t and sigma, and the fractions are reduced, so
/// that the formulas hold on every schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edm {
    sigma_data: f64,
}

impl Edm {
    /// `sigma_data` is the standard deviation of the data: 0.5 in the paper.
    ///
    /// # Errors
    /// [`ScheduleError::SigmaData`] unless it is positive and finite.
    pub fn new(sigma_data: f64) -> Result<Self, ScheduleError> {
        if !(sigma_data > 0.0 && sigma_data.is_finite()) {
            return Err(ScheduleError::SigmaData(sigma_data));
        }
        Ok(Self { sigma_data })
    }

    /// sqrt(sigma² + sigma_data² alpha²): the standard deviation of x_t.
    fn deviation(&self, levels: &Levels) -> Tensor<4> {
        (levels.sigma.clone().square() + (levels.alpha.clone() * self.sigma_data).square()).sqrt()
    }
}

impl Objective for Edm {
    fn name(&self) -> &'static str {
        "edm"
    }

    /// (x0 − c_skip x_t)/c_out
    fn target(&self, x0: &Tensor<4>, noise: &Tensor<4>, levels: &Levels) -> Tensor<4> {
        let data = levels.sigma.clone() * x0.clone() / self.sigma_data;
        let noise = levels.alpha.clone() * self.sigma_data * noise.clone();
        (data - noise) / self.deviation(levels)
    }

    /// x0 = c_skip x_t + c_out F, and what of x_t is left of it.
    fn read(&self, output: Tensor<4>, x_t: &Tensor<4>, levels: &Levels) -> Estimate {
        let Levels { alpha, sigma } = levels;
        let deviation = self.deviation(levels);
        let x = x_t.clone() / deviation.clone();
        let x0 =
            (alpha.clone() * x.clone() * self.sigma_data + sigma.clone() * output.clone()) * self.sigma_data;
        let noise = sigma.clone() * x - alpha.clone() * output * self.sigma_data;
        Estimate { x0: x0 / deviation.clone(), noise: noise / deviation, variance: None }
    }

    /// c_in x_t
    fn network_input(&self, x_t: Tensor<4>, levels: &Levels) -> Tensor<4> {
        x_t / self.deviation(levels)
    }

    /// c_noise = ln(sigma)/4
    fn network_time(&self, point: Point) -> f32 {
        ((point.sigma / point.alpha).ln() / 4.0) as f32
    }

    /// c_out²
    fn x0_error(&self, point: Point) -> f64 {
        let variance = point.sigma.powi(2) + (self.sigma_data * point.alpha).powi(2);
        (point.sigma * self.sigma_data).powi(2) / variance
    }

    fn reads_pure_noise(&self) -> bool {
        false
    }
}
