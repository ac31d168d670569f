use crate::{Coupling, CouplingError, Draw, HostCoupling, PairContext, fresh_noise, knn};
use immiscible_random::Key;
use ndarray::{Array2, ArrayView2};

/// A control of [`Knn`](crate::Knn): independent noise that is as short as the nearest of k, √(1 − 2m_k/s)·ε. It couples nothing;
/// what it does to a model is what the bias of the length alone does.
#[derive(Clone, Copy, Debug)]
pub struct NormShrink {
    /// Candidates of the KNN that it imitates, at least 1.
    pub k: usize,
}

impl Coupling for NormShrink {
    fn name(&self) -> &'static str {
        "norm_shrink"
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for NormShrink {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        _pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let drawn = fresh_noise(x0.nrows(), x0.ncols(), key);
        let mut noise = drawn.clone();
        for (mut noise, share) in noise.rows_mut().into_iter().zip(knn::shares(x0, self.k)) {
            // In few dimensions the closed form can leave nothing.
            noise *= (1.0 - share).max(0.0).sqrt() as f32;
        }
        Draw::measured(x0, drawn.view(), noise, 0.0)
    }
}
