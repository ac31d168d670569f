use super::Weighting;
use crate::{Objective, Point};

/// SNR/(k + SNR)^gamma on x0, which is 1/(k + SNR)^gamma on eps: the fine details of nearly clean images count less
/// (Choi et al. 2022, arXiv 2204.00227, eq. 8; k = gamma = 1 there).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct P2 {
    /// The signal-to-noise ratio from which it weighs down, positive.
    pub k: f64,
    /// How strongly, positive.
    pub gamma: f64,
}

impl Weighting for P2 {
    fn name(&self) -> &'static str {
        "p2"
    }

    fn weight(&self, objective: &dyn Objective, point: Point) -> f64 {
        let snr = point.snr();
        snr / (self.k + snr).powf(self.gamma) * objective.x0_error(point)
    }
}
