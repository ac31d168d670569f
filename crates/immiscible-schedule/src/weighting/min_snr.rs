use super::Weighting;
use crate::{Objective, Point};

/// min(SNR, gamma) on x0 (Hang et al. 2023, arXiv 2303.09556, §3.4; gamma = 5 there).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinSnr {
    /// The largest weight, positive.
    pub gamma: f64,
}

impl Weighting for MinSnr {
    fn name(&self) -> &'static str {
        "min_snr"
    }

    fn weight(&self, objective: &dyn Objective, point: Point) -> f64 {
        point.snr().min(self.gamma) * objective.x0_error(point)
    }
}
