use super::Weighting;
use crate::{Objective, Point};

/// SNR/(1 + sigma_data² SNR) on x0: goes smoothly from SNR to 1/sigma_data². On EDM's target it is
/// (sigma sigma_data)²/(sigma² + sigma_data²)² (Crowson et al. 2024, arXiv 2401.11605).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftMinSnr {
    /// Standard deviation of the data, positive.
    pub sigma_data: f64,
}

impl Weighting for SoftMinSnr {
    fn name(&self) -> &'static str {
        "soft_min_snr"
    }

    fn weight(&self, objective: &dyn Objective, point: Point) -> f64 {
        let snr = point.snr();
        snr / (1.0 + self.sigma_data.powi(2) * snr) * objective.x0_error(point)
    }
}
