//! The schedule for large images of Jabri et al.

use super::VariancePreserving;
use crate::ScheduleError;

/// Largest beta, so that the last timestep keeps a trace of x0.
const MAX_BETA: f64 = 0.999;

/// alpha² falls as a piece of the sigmoid from `start` to `end`, flatter for a larger `tau`
/// (Jabri et al. 2023, arXiv 2212.11972, algorithm 1). Usual are −3, 3 and 1.
///
/// # Errors
/// [`ScheduleError::Sigmoid`] unless `start` < `end` and 0 < `tau`, both ends at most 30 `tau` away from 0;
/// [`ScheduleError::NoTimesteps`] if `timesteps` is 0.
pub fn sigmoid(
    timesteps: usize,
    start: f64,
    end: f64,
    tau: f64,
) -> Result<VariancePreserving, ScheduleError> {
    // Beyond 30 the sigmoid is flat to the last digit, and betas would vanish.
    let valid = start < end && tau > 0.0 && start.abs().max(end.abs()) <= 30.0 * tau && tau.is_finite();
    if !valid {
        return Err(ScheduleError::Sigmoid { start, end, tau });
    }
    // 1/(1 + e^x) = sigmoid(−x), which falls to 0 without cancellation.
    let falling = |x: f64| 1.0 / (1.0 + (x / tau).exp());
    let last = falling(end);
    // Not brought to 1 at u = 0: the fractions below do not see the factor.
    let alpha_bar = |t: usize| falling(start + (end - start) * t as f64 / timesteps as f64) - last;
    let betas = (0..timesteps).map(|t| (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(MAX_BETA));
    VariancePreserving::from_betas("sigmoid", betas)
}
