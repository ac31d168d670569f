use burn::prelude::*;
use immiscible_models::{Condition, Ctx, Denoiser, TimeInput};
use immiscible_schedule::Point;

/// What the sampling loop asks: the network's raw output. Everything between the loop and the network
/// (guidance, caching) is a predictor that wraps another.
pub trait Predictor {
    /// The output at `x_t`, all of whose samples are at `point`. The exclusive reference lets a predictor
    /// remember earlier calls; the first call of a run is the one at the schedule's noisiest point.
    ///
    /// # Shapes
    /// `x_t` and the result are `[B, C, H, W]`, `condition` fits any batch or has `B` rows.
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4>;
}

/// The innermost predictor: runs the network. Of one that predicts a variance as well, in channels after those of the
/// images, it takes the mean.
#[derive(Clone, Copy)]
pub struct NetworkPredictor<'a> {
    network: &'a dyn Denoiser,
}

impl<'a> NetworkPredictor<'a> {
    /// Runs `network`, which should live on a device without autodiff (`Module::valid`) unless gradients
    /// through sampling are wanted.
    pub fn new(network: &'a dyn Denoiser) -> Self {
        Self { network }
    }
}

impl Predictor for NetworkPredictor<'_> {
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4> {
        let times = vec![point.time.network_time(); x_t.dims()[0]];
        let times = TimeInput::of(&times, &x_t.device());
        let [_, channels, ..] = x_t.dims();
        let pred = self.network.forward(x_t.clone(), times, condition, Ctx::default()).pred;
        if pred.dims()[1] == channels { pred } else { pred.narrow(1, 0, channels) }
    }
}
