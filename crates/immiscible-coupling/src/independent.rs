use crate::{Coupling, CouplingError, Draw, HostCoupling, PairContext, fresh_noise};
use immiscible_assign::mean_distance;
use immiscible_random::Key;
use ndarray::{Array2, ArrayView2};

/// Ordinary diffusion training: every image takes the noise that was drawn for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Independent;

impl Coupling for Independent {
    fn name(&self) -> &'static str {
        "independent"
    }

    fn exact_marginal(&self) -> bool {
        true
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for Independent {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        _pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let noise = fresh_noise(x0.nrows(), x0.ncols(), key);
        let distance = mean_distance(x0, noise.view())?;
        Draw::measured_since(x0, distance, noise, 0.0)
    }
}
