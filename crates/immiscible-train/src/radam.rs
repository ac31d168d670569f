use crate::adam::Adam;
use burn::optim::{AdamWState, Optimizer};
use burn::tensor::{Device, Tensor};

/// Rectified Adam (Liu et al. 2020, arXiv 1908.03265, algorithm 2): the step of Adam is scaled down while few gradients stand
/// behind its second moment, and goes without that moment while too few do. Consistency training was published with it.
#[derive(Clone)]
pub(crate) struct RAdam {
    adam: Adam,
    beta1: f64,
    beta2: f64,
}

impl RAdam {
    pub(crate) fn new(beta1: f32, beta2: f32, epsilon: f32) -> Self {
        Self { adam: Adam::new(beta1, beta2, epsilon, 0.0), beta1: beta1.into(), beta2: beta2.into() }
    }

    /// r_t, or none while the variance of the adaptive rate has no bound.
    fn rectification(&self, t: f64) -> Option<f64> {
        // ρ_∞, and ρ_t: how many gradients the second moment averages.
        let longest = 2.0 / (1.0 - self.beta2) - 1.0;
        let decayed = self.beta2.powf(t);
        let length = longest - 2.0 * t * decayed / (1.0 - decayed);
        let r = |length: f64| (length - 4.0) * (length - 2.0) / length;
        // The paper has 4; its authors' code and PyTorch have 5.
        (length > 5.0).then(|| (r(length) / r(longest)).sqrt())
    }
}

impl Optimizer for RAdam {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let t = state.as_ref().map_or(0, |state| state.momentum.time) as f64 + 1.0;
        if let Some(r) = self.rectification(t) {
            return self.adam.step(lr * r, tensor, grad, state);
        }
        let (_, state) = self.adam.step(lr, tensor.clone(), grad, state);
        let Some(state) = state else { return (tensor, None) };
        let step = state.momentum.moment_1.clone().mul_scalar(lr / (1.0 - self.beta1.powf(t)));
        (tensor - step, Some(state))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        Adam::to_device(state, device)
    }
}
