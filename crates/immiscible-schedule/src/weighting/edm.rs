use super::Weighting;
use crate::{Objective, Point};

/// (sigma² + sigma_data²)/(sigma sigma_data)² on x0, that is SNR + 1/sigma_data²: 1 on EDM's target
/// (Karras et al. 2022, arXiv 2206.00364, table 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edm {
    /// Standard deviation of the data, positive.
    pub sigma_data: f64,
}

impl Weighting for Edm {
    fn name(&self) -> &'static str {
        "edm"
    }

    fn weight(&self, objective: &dyn Objective, point: Point) -> f64 {
        (point.snr() + self.sigma_data.powi(-2)) * objective.x0_error(point)
    }
}
