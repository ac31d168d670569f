//! The schedule of Improved DDPM.

use std::f64::consts::FRAC_PI_2;

use super::VariancePreserving;
use crate::ScheduleError;

/// Offset that keeps the first betas from vanishing.
const S: f64 = 0.008;
/// Largest beta, so that the last timestep keeps a trace of x0.
const MAX_BETA: f64 = 0.999;

/// alpha² follows a squared cosine (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).
///
/// # Errors
/// If `timesteps` is 0.
pub fn cosine(timesteps: usize) -> Result<VariancePreserving, ScheduleError> {
    let alpha_bar = |t: usize| {
        let u = t as f64 / timesteps as f64;
        ((u + S) / (1.0 + S) * FRAC_PI_2).cos().powi(2)
    };
    let betas = (0..timesteps).map(|t| (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(MAX_BETA));
    VariancePreserving::from_betas("cosine", betas)
}
