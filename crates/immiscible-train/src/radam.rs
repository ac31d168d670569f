use burn::optim::{Adam, AdamConfig, AdamState, Optimizer};
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
        let adam = AdamConfig::new().with_beta_1(beta1).with_beta_2(beta2).with_epsilon(epsilon);
        Self { adam: adam.build(), beta1: beta1.into(), beta2: beta2.into() }
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
    type State<const D: usize> = AdamState<D>;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OptimizerConfig, parameters::number_parameters};
    use burn::module::{Module, Param};
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::GradientsParams;
    use burn::tensor::TensorData;
    use serde_json::Value;

    fn numbers(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    }

    fn linear(weight: &Value, bias: &Value) -> Linear {
        let device = Device::flex().autodiff();
        let tensor = |value| TensorData::new(numbers(value), [numbers(value).len()]);
        let mut linear = LinearConfig::new(3, 2).init(&device);
        linear.weight = Param::from_tensor(Tensor::<1>::from_data(tensor(weight), &device).reshape([3, 2]));
        linear.bias = Some(Param::from_tensor(Tensor::<1>::from_data(tensor(bias), &device)));
        number_parameters(linear)
    }

    fn weights(linear: &Linear) -> Vec<f32> {
        let linear = linear.valid();
        let mut all: Vec<f32> = linear.weight.val().into_data().try_into_vec_as().unwrap();
        all.extend(linear.bias.unwrap().val().into_data().try_into_vec_as::<f32>().unwrap());
        all
    }

    /// Twenty steps of `torch.optim.RAdam`, with the state written to a file and read in the middle.
    #[test]
    fn steps_are_pytorchs_also_after_a_resume() {
        let golden: Value = serde_json::from_str(include_str!("../tests/golden/radam.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let number = |key: &str| case[key].as_f64().unwrap();
            let config = OptimizerConfig {
                kind: "radam".into(),
                beta1: number("beta1") as f32,
                beta2: number("beta2") as f32,
                ..OptimizerConfig::default()
            };
            let mut optimizer = config.build().unwrap();
            let mut module = linear(&golden["weight"], &golden["bias"]);
            let steps = golden["gradients"].as_array().unwrap();
            for (step, gradient) in steps.iter().enumerate() {
                let mut gradients = GradientsParams::new();
                let gradient = linear(&gradient["weight"], &gradient["bias"]).valid();
                gradients.register(module.weight.id, gradient.weight.val());
                gradients.register(module.bias.as_ref().unwrap().id, gradient.bias.unwrap().val());
                module = optimizer.step(number("learning_rate"), module, gradients);
                let expected = numbers(&case["parameters"][step]);
                for (found, expected) in weights(&module).iter().zip(expected) {
                    let what = format!("β₂ = {}, step {step}: {found}, {expected}", config.beta2);
                    assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{what}");
                }
                // In the middle of the steps without the second moment, and after them.
                if [2, 11].contains(&step) {
                    let path = folder.path().join("optim.bpk");
                    optimizer.save(&path).unwrap();
                    optimizer = config.build().unwrap().load(&path).unwrap();
                }
            }
        }
    }
}
