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
    /// `x_t` is `[B, C, H, W]` and the result the same, or `[B, 2C, H, W]` with what the network says of the variance in the
    /// second half. `condition` fits any batch or has `B` rows.
    fn predict(&mut self, x_t: &Tensor<4>, point: Point, condition: &Condition) -> Tensor<4>;
}

/// The innermost predictor: runs the network.
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
        let device = &x_t.device();
        let times = TimeInput::of(&vec![self.objective.network_time(point); x_t.dims()[0]], device);
        let input = self.objective.network_input(x_t.clone(), &point.levels(device));
        self.network.forward(input, times, condition, Ctx::default()).pred
    }
}

/// The part of an output that the objective reads, and what the network says of the variance, if it does.
///
/// # Shapes
/// `[B, C, H, W]` or `[B, 2C, H, W]` → `[B, C, H, W]` each
pub(crate) fn split_variance(output: Tensor<4>, channels: usize) -> (Tensor<4>, Option<Tensor<4>>) {
    if output.dims()[1] == channels {
        return (output, None);
    }
    let variance = output.clone().narrow(1, channels, channels);
    (output.narrow(1, 0, channels), Some(variance))
}
