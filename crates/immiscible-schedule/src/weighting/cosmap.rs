use std::f64::consts::FRAC_2_PI;

use super::{Weighting, flow_time};
use crate::{Objective, Point};

/// 2/(π (1 − 2t + 2t²)) on the flow's velocity: what times as of the cosine schedule would weigh, with uniform ones
/// (Esser et al. 2024, arXiv 2403.03206, eq. 21). On other schedules t is the flow time of the same signal-to-noise ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosmap;

impl Weighting for Cosmap {
    fn name(&self) -> &'static str {
        "cosmap"
    }

    fn weight(&self, objective: &dyn Objective, point: Point) -> f64 {
        let t = flow_time(point);
        let on_the_velocity = FRAC_2_PI / (1.0 - 2.0 * t + 2.0 * t * t);
        // ‖û − u‖² = ‖x̂0 − x0‖²/t²
        on_the_velocity * objective.x0_error(point) / (t * t)
    }
}
