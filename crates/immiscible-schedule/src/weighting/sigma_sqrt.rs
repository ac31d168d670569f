use super::{Weighting, flow_time};
use crate::{Objective, Point};

/// 1/t² on the flow's velocity, that is 1/t⁴ on x0 (`sigma_sqrt` of diffusers' training of Stable Diffusion 3;
/// Esser et al. 2024, arXiv 2403.03206). On other schedules t is the flow time of the same signal-to-noise ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigmaSqrt;

impl Weighting for SigmaSqrt {
    fn name(&self) -> &'static str {
        "sigma_sqrt"
    }

    fn weight(&self, objective: &dyn Objective, point: Point) -> f64 {
        objective.x0_error(point) / flow_time(point).powi(4)
    }
}
