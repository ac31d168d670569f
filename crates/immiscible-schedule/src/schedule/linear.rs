//! The schedule of DDPM.

use super::VariancePreserving;
use crate::ScheduleError;

/// beta rises linearly from 1e-4 to 0.02 over T = 1000 timesteps (Ho et al. 2020, arXiv 2006.11239, §4).
/// For another T the betas are scaled by 1000/T, which keeps the noise at the end the same.
///
/// # Errors
/// If `timesteps` is so small that a beta reaches 1.
pub fn linear(timesteps: usize) -> Result<VariancePreserving, ScheduleError> {
    let scale = 1000.0 / timesteps as f64;
    let betas = super::variance_preserving::linspace(1e-4, 0.02, timesteps).map(|beta| beta * scale);
    VariancePreserving::from_betas("linear", betas)
}
