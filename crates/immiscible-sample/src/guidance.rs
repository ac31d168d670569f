use burn::prelude::*;
use immiscible_models::Condition;
use immiscible_schedule::Point;

use crate::predictor::split_variance;
use crate::{Predictor, SampleError};

/// Classifier-free guidance: output = u + w (c − u), where c is the output for the condition and u the one for
/// the condition that stands for none (Ho & Salimans 2022, arXiv 2207.12598, eq. 6, with w one larger than there).
///
/// w = 1 is the conditional network and w = 0 the unconditional one, for one evaluation each. Any other w
/// takes one evaluation of a batch twice the size. Without a condition there is nothing to guide, and the
/// prediction passes through. What a network says of the variance is that of the condition.
#[derive(Debug, Clone)]
pub struct Guidance<P> {
    inner: P,
    scale: f64,
    null: Option<Condition>,
    /// The levels of noise sigma/alpha with guidance; all if there is none.
    interval: Option<[f64; 2]>,
}

impl<P: Predictor> Guidance<P> {
    /// Guides `inner` by `scale`. `null` is what stands for no condition, if the network has such a thing: one
    /// row, the null class or the states of the empty text.
    ///
    /// # Errors
    /// If `scale` is not finite, or is not 1 and there is no `null`.
    pub fn new(inner: P, scale: f64, null: Option<Condition>) -> Result<Self, SampleError> {
        if !scale.is_finite() {
            return Err(SampleError::GuidanceScale(scale));
        }
        if scale != 1.0 && null.is_none() {
            return Err(SampleError::NoNull(scale));
        }
        Ok(Self { inner, scale, null, interval: None })
    }

    /// Guides only where sigma/alpha is above the first and up to the second number of `interval`; elsewhere the network is conditional, for one evaluation
    /// (Kynkäänniemi et al. 2024, arXiv 2404.07724, eq. 6).
    ///
    /// # Errors
    /// [`SampleError::GuidanceInterval`] unless the first is below the second and not below 0.
    pub fn within(self, interval: [f64; 2]) -> Result<Self, SampleError> {
        Ok(Self { interval: Some(valid_interval(interval)?), ..self })
    }
}

pub(crate) fn valid_interval([low, high]: [f64; 2]) -> Result<[f64; 2], SampleError> {
    if 0.0 <= low && low < high {
        return Ok([low, high]);
    }
    Err(SampleError::GuidanceInterval { low, high })
}

impl<P: Predictor> Predictor for Guidance<P> {
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4> {
        let noise = point.sigma / point.alpha;
        let guided = self.interval.is_none_or(|[low, high]| low < noise && noise <= high);
        let null = match (condition, &self.null) {
            _ if !guided => return self.inner.predict(x_t, point, condition),
            (_, None) | (Condition::None, _) => return self.inner.predict(x_t, point, condition),
            _ if self.scale == 1.0 => return self.inner.predict(x_t, point, condition),
            (_, Some(null)) => null,
        };
        let batch = x_t.dims()[0];
        let nulls = null.select(Tensor::zeros([batch], &x_t.device()));
        if self.scale == 0.0 {
            return self.inner.predict(x_t, point, &nulls);
        }
        let both = Condition::cat(vec![condition.clone(), nulls]);
        let twice = Tensor::cat(vec![x_t.clone(), x_t.clone()], 0);
        let output = self.inner.predict(&twice, point, &both);
        let (conditional, variance) = split_variance(output.clone().narrow(0, 0, batch), x_t.dims()[1]);
        let (unconditional, _) = split_variance(output.narrow(0, batch, batch), x_t.dims()[1]);
        let guided = unconditional.clone() + (conditional - unconditional) * self.scale;
        match variance {
            Some(variance) => Tensor::cat(vec![guided, variance], 1),
            None => guided,
        }
    }
}
