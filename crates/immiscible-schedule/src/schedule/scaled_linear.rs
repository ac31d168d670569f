//! The schedule of Stable Diffusion.

use super::VariancePreserving;
use crate::ScheduleError;

/// sqrt(beta) rises linearly from sqrt(0.00085) to sqrt(0.012) over T = 1000 timesteps (Rombach et al. 2022,
/// arXiv 2112.10752; `scaled_linear` in diffusers). For another T the betas are scaled by 1000/T, which
/// keeps the noise at the end the same.
///
/// # Errors
/// If `timesteps` is so small that a beta reaches 1.
pub fn scaled_linear(timesteps: usize) -> Result<VariancePreserving, ScheduleError> {
    let scale = 1000.0 / timesteps as f64;
    let roots = super::variance_preserving::linspace(0.00085_f64.sqrt(), 0.012_f64.sqrt(), timesteps);
    VariancePreserving::from_betas("scaled_linear", roots.map(|root| root * root * scale))
}
