use burn::prelude::*;
use immiscible_models::Condition;
use immiscible_schedule::Point;

use crate::{Predictor, SampleError};

/// Classifier-free guidance: output = u + w (c − u), where c is the output for the class and u the one for
/// the null class (Ho & Salimans 2022, arXiv 2207.12598, eq. 6, with w one larger than there).
///
/// w = 1 is the conditional network and w = 0 the unconditional one, for one evaluation each. Any other w
/// takes one evaluation of a batch twice the size. Without a class there is nothing to guide, and the
/// prediction passes through.
#[derive(Debug, Clone)]
pub struct Guidance<P> {
    inner: P,
    scale: f64,
    null_class: Option<u32>,
}

impl<P: Predictor> Guidance<P> {
    /// Guides `inner` by `scale`. `null_class` is the class index that stands for no class, if the network
    /// has one.
    ///
    /// # Errors
    /// If `scale` is not finite, or is not 1 and there is no null class.
    pub fn new(inner: P, scale: f64, null_class: Option<u32>) -> Result<Self, SampleError> {
        if !scale.is_finite() {
            return Err(SampleError::GuidanceScale(scale));
        }
        if scale != 1.0 && null_class.is_none() {
            return Err(SampleError::NoNullClass(scale));
        }
        Ok(Self { inner, scale, null_class })
    }
}

impl<P: Predictor> Predictor for Guidance<P> {
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4> {
        let (Condition::Class(classes), Some(null_class)) = (condition, self.null_class) else {
            return self.inner.predict(x_t, point, condition);
        };
        let nulls = || classes.zeros_like() + null_class;
        if self.scale == 1.0 {
            return self.inner.predict(x_t, point, condition);
        }
        if self.scale == 0.0 {
            return self.inner.predict(x_t, point, &Condition::Class(nulls()));
        }
        let both = Condition::Class(Tensor::cat(vec![classes.clone(), nulls()], 0));
        let twice = Tensor::cat(vec![x_t.clone(), x_t.clone()], 0);
        let output = self.inner.predict(&twice, point, &both);
        let batch = x_t.dims()[0];
        let conditional = output.clone().narrow(0, 0, batch);
        let unconditional = output.narrow(0, batch, batch);
        unconditional.clone() + (conditional - unconditional) * self.scale
    }
}
