use burn::prelude::*;
use immiscible_models::{Condition, Ctx, Denoiser, TimeInput};
use immiscible_schedule::{Objective, Point};

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
    objective: &'a dyn Objective,
}

impl<'a> NetworkPredictor<'a> {
    /// Runs `network`, which should live on a device without autodiff (`Module::valid`) unless gradients
    /// through sampling are wanted, and was trained with `objective`.
    pub fn new(network: &'a dyn Denoiser, objective: &'a dyn Objective) -> Self {
        Self { network, objective }
    }
}

impl Predictor for NetworkPredictor<'_> {
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4> {
        let [batch, channels, ..] = x_t.dims();
        let device = &x_t.device();
        let times = TimeInput::of(&vec![self.objective.network_time(point); batch], device);
        let input = self.objective.network_input(x_t.clone(), &point.levels(device));
        let pred = self.network.forward(input, times, condition, Ctx::default()).pred;
        if pred.dims()[1] == channels { pred } else { pred.narrow(1, 0, channels) }
    }
}
