use immiscible_assign::{AssignError, mean_distance};
use ndarray::parallel::prelude::*;
use ndarray::{Array1, ArrayView2, Axis};

/// Rows that are added up by one thread at a time.
const ROWS: usize = 64;

/// What a coupling did to one batch.
///
/// The distance drop alone does not compare couplings: assignment keeps the drawn noises as they are, while a
/// nearest-of-k choice also prefers short ones. Read it beside the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean L2 distance between an image and the noise that was drawn for it.
    pub distance_before: f64,
    /// Mean L2 distance between an image and the noise that it takes.
    pub distance_after: f64,
    /// Σ⟨x, ε⟩ / Σ|x|², the share of the image that its noise carries; 0 for independent noise. A mean that all noises share
    /// counts here, although it tells nothing about the image.
    pub coefficient: f64,
    /// Σ⟨ε, x − x̄⟩ / B with the mean image of the batch as x̄: what the noise tells about *this* image, 0 for independent noise
    /// and for a batch of one.
    pub alignment: f64,
    /// Σ|ε|² / (B·D), 1 for noise whose marginal is standard normal.
    pub energy: f64,
    /// |ε̄|² · B / D, the squared mean noise of the batch over what chance gives it: 1 ± √(2/D) for standard normal noise.
    pub mean_shift: f64,
    /// Wall-clock time of the choice, without the drawing of the noise, in milliseconds.
    pub milliseconds: f64,
}

impl Statistics {
    /// By how much per cent the mean distance fell.
    pub fn drop_percent(&self) -> f64 {
        immiscible_assign::drop_percent(self.distance_before, self.distance_after)
    }

    /// Measures the noises `taken` in place of some at the mean distance `distance_before`.
    ///
    /// # Shapes
    /// Both `[B, D]`.
    pub(crate) fn measure(
        x0: ArrayView2<f32>,
        distance_before: f64,
        taken: ArrayView2<f32>,
        milliseconds: f64,
    ) -> Result<Self, AssignError> {
        let distance_after = mean_distance(x0, taken)?;
        // Of parts whose size depends on nothing, added in order: the same for any number of threads.
        let parts = x0.axis_chunks_iter(Axis(0), ROWS).into_par_iter();
        let parts = parts.zip(taken.axis_chunks_iter(Axis(0), ROWS)).map(|(x0, taken)| {
            let mut sums = [0.0; 3];
            let (mut sum_x, mut sum_e) = (Array1::<f32>::zeros(x0.ncols()), Array1::<f32>::zeros(x0.ncols()));
            for (x, e) in x0.rows().into_iter().zip(taken.rows()) {
                let products = [x.dot(&e), x.dot(&x), e.dot(&e)];
                sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += f64::from(product));
                sum_x += &x;
                sum_e += &e;
            }
            (sums, sum_x, sum_e)
        });
        let zero = ([0.0; 3], Array1::<f32>::zeros(x0.ncols()), Array1::<f32>::zeros(x0.ncols()));
        let ([inner, image, noise], sum_x, sum_e) =
            parts.collect::<Vec<_>>().into_iter().fold(zero, |(mut sums, sum_x, sum_e), (part, x, e)| {
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                (sums, sum_x + x, sum_e + e)
            });
        Ok(Self {
            distance_before,
            distance_after,
            milliseconds,
            ..Self::of_sums(
                x0.dim(),
                Sums {
                    inner,
                    image,
                    noise,
                    means: f64::from(sum_x.dot(&sum_e)),
                    mean: f64::from(sum_e.dot(&sum_e)),
                },
            )
        })
    }

    /// All but the distances and the time, of a batch of `[B, D]`.
    pub(crate) fn of_sums((rows, dimensions): (usize, usize), sums: Sums) -> Self {
        let (b, d) = (rows as f64, dimensions as f64);
        if rows * dimensions == 0 {
            return Self { energy: 1.0, mean_shift: 1.0, ..Self::default() };
        }
        Self {
            coefficient: if sums.image > 0.0 { sums.inner / sums.image } else { 0.0 },
            alignment: (sums.inner - sums.means / b) / b,
            energy: sums.noise / (b * d),
            mean_shift: sums.mean / (b * d),
            ..Self::default()
        }
    }
}

/// Sums over a batch.
pub(crate) struct Sums {
    /// Σ⟨x, ε⟩.
    pub(crate) inner: f64,
    /// Σ|x|².
    pub(crate) image: f64,
    /// Σ|ε|².
    pub(crate) noise: f64,
    /// ⟨Σx, Σε⟩.
    pub(crate) means: f64,
    /// |Σε|².
    pub(crate) mean: f64,
}
