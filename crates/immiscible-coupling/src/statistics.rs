use immiscible_assign::{AssignError, mean_distance};
use ndarray::ArrayView2;

/// What a coupling did to one batch.
///
/// The distance drop alone does not compare couplings: assignment keeps the drawn noises as they are, while a
/// nearest-of-k choice also prefers short ones. Read it beside the coefficient and the energy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean L2 distance between an image and the noise that was drawn for it.
    pub distance_before: f64,
    /// Mean L2 distance between an image and the noise that it takes.
    pub distance_after: f64,
    /// Σ⟨x, ε⟩ / Σ|x|², the share of the image that its noise carries; 0 for independent noise.
    pub coefficient: f64,
    /// Σ|ε|² / (B·D), 1 for noise whose marginal is standard normal.
    pub energy: f64,
    /// Wall-clock time of the choice, without the drawing of the noise, in milliseconds.
    pub milliseconds: f64,
}

impl Statistics {
    /// By how much per cent the mean distance fell.
    pub fn drop_percent(&self) -> f64 {
        immiscible_assign::drop_percent(self.distance_before, self.distance_after)
    }

    /// Measures the noises `drawn` and `taken`, both in image order.
    ///
    /// # Shapes
    /// All three `[B, D]`.
    pub(crate) fn measure(
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        taken: ArrayView2<f32>,
        milliseconds: f64,
    ) -> Result<Self, AssignError> {
        let (mut inner, mut image, mut noise) = (0.0, 0.0, 0.0);
        for (x, e) in x0.rows().into_iter().zip(taken.rows()) {
            inner += f64::from(x.dot(&e));
            image += f64::from(x.dot(&x));
            noise += f64::from(e.dot(&e));
        }
        Ok(Self {
            distance_before: mean_distance(x0, drawn)?,
            distance_after: mean_distance(x0, taken)?,
            coefficient: if image > 0.0 { inner / image } else { 0.0 },
            energy: if taken.is_empty() { 1.0 } else { noise / taken.len() as f64 },
            milliseconds,
        })
    }
}
