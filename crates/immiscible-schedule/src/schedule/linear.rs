//! The schedule of DDPM.

use super::VariancePreserving;
use super::variance_preserving::{betas_in_order, linspace};
use crate::ScheduleError;

/// beta rises linearly from 1e-4 to 0.02 over T = 1000 timesteps (Ho et al. 2020, arXiv 2006.11239, §4).
/// For another T the betas are scaled by 1000/T, which keeps the noise at the end the same.
///
/// # Errors
/// If `timesteps` is so small that a beta reaches 1.
pub fn linear(timesteps: usize) -> Result<VariancePreserving, ScheduleError> {
    linear_between(timesteps, 1e-4, 0.02)
}

/// The same from `beta_start` to `beta_end`, which are those of 1000 timesteps.
///
/// # Errors
/// [`ScheduleError::Betas`] unless 0 < `beta_start` ≤ `beta_end` < 1, and if `timesteps` is so small that a beta reaches 1.
pub fn linear_between(
    timesteps: usize,
    beta_start: f64,
    beta_end: f64,
) -> Result<VariancePreserving, ScheduleError> {
    betas_in_order("linear", beta_start, beta_end)?;
    let scale = 1000.0 / timesteps as f64;
    let betas = linspace(beta_start, beta_end, timesteps).map(|beta| beta * scale);
    VariancePreserving::from_betas("linear", betas)
}
