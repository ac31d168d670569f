//! The schedule of Stable Diffusion.

use super::VariancePreserving;
use super::variance_preserving::{betas_in_order, linspace};
use crate::ScheduleError;

/// sqrt(beta) rises linearly from sqrt(0.00085) to sqrt(0.012) over T = 1000 timesteps (Rombach et al. 2022,
/// arXiv 2112.10752; `scaled_linear` in diffusers). For another T the betas are scaled by 1000/T, which
/// keeps the noise at the end the same.
///
/// # Errors
/// If `timesteps` is so small that a beta reaches 1.
pub fn scaled_linear(timesteps: usize) -> Result<VariancePreserving, ScheduleError> {
    scaled_linear_between(timesteps, 0.00085, 0.012)
}

/// The same from `beta_start` to `beta_end`, which are those of 1000 timesteps.
///
/// # Errors
/// [`ScheduleError::Betas`] unless 0 < `beta_start` ≤ `beta_end` < 1, and if `timesteps` is so small that a beta reaches 1.
pub fn scaled_linear_between(
    timesteps: usize,
    beta_start: f64,
    beta_end: f64,
) -> Result<VariancePreserving, ScheduleError> {
    betas_in_order("scaled_linear", beta_start, beta_end)?;
    let scale = 1000.0 / timesteps as f64;
    let roots = linspace(beta_start.sqrt(), beta_end.sqrt(), timesteps);
    VariancePreserving::from_betas("scaled_linear", roots.map(|root| root * root * scale))
}
