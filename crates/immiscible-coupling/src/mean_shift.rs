use crate::{Coupling, CouplingError, Draw, HostCoupling, PairContext, fresh_noise, knn};
use immiscible_assign::AssignError;
use immiscible_random::Key;
use ndarray::{Array1, Array2, ArrayView2};

/// A control of [`Knn`](crate::Knn): independent noise plus one mean for all images. It couples nothing; what it does to a model
/// is what the bias of the mean alone does.
#[derive(Clone, Debug)]
pub struct MeanShift {
    /// The mean.
    pub mean: Mean,
}

/// The mean of [`MeanShift`].
#[derive(Clone, Debug)]
pub enum Mean {
    /// This one, `[D]`.
    Given(Array1<f32>),
    /// That of the nearest of k, the mean of (2m_k/s)·x over the batch. It takes a batch that stands for the data: at batch size
    /// 1 it would be a coupling.
    OfKnn {
        /// Candidates of the KNN that it imitates, at least 1.
        k: usize,
    },
}

impl Coupling for MeanShift {
    fn name(&self) -> &'static str {
        "mean_shift"
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for MeanShift {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        _pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let mean = match &self.mean {
            Mean::Given(mean) => mean.clone(),
            Mean::OfKnn { k } => {
                let shares: Array1<f32> = knn::shares(x0, *k).into_iter().map(|share| share as f32).collect();
                shares.dot(&x0) / x0.nrows().max(1) as f32
            }
        };
        if mean.len() != x0.ncols() {
            let (expected, found) = (vec![x0.ncols()], vec![mean.len()]);
            return Err(AssignError::ShapeMismatch { what: "the mean", expected, found }.into());
        }
        let drawn = fresh_noise(x0.nrows(), x0.ncols(), key);
        let noise = &drawn + &mean;
        Draw::measured(x0, drawn.view(), noise, 0.0)
    }
}
