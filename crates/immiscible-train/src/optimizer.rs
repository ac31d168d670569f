use crate::{OptimizerConfig, TrainError, adam::Adam, muon::muon, parameters::hidden_matrices, radam::RAdam};
use burn::module::{Module, ParamId};
use burn::optim::{LionConfig, ModuleOptimizer};

/// Builds an optimiser for a network whose hidden matrices are given.
type Build = fn(&OptimizerConfig, Vec<ParamId>) -> ModuleOptimizer;

/// Every optimiser by name, sorted.
pub const OPTIMIZERS: &[(&str, Build)] = &[
    ("adam", |c, _| Adam::new(c.beta1, c.beta2(), c.epsilon, 0.0).into()),
    ("adamw", |c, _| adamw(c).into()),
    // Chen et al. 2023, arXiv 2302.06675, algorithm 2.
    (LION, |c, _| {
        let betas = LionConfig::new().with_beta_1(c.beta1).with_beta_2(c.beta2());
        betas.with_weight_decay(c.weight_decay).init()
    }),
    (MUON, muon),
    ("radam", |c, _| RAdam::new(c.beta1, c.beta2(), c.epsilon).into()),
];

pub(crate) const LION: &str = "lion";
pub(crate) const MUON: &str = "muon";

pub(crate) fn adamw(config: &OptimizerConfig) -> Adam {
    Adam::new(config.beta1, config.beta2(), config.epsilon, config.weight_decay)
}

impl OptimizerConfig {
    pub(crate) fn registered(&self) -> Result<Build, TrainError> {
        let found = OPTIMIZERS.iter().find(|(name, _)| *name == self.kind);
        found
            .map(|(_, build)| *build)
            .ok_or_else(|| TrainError::unknown("optimizer.kind", &self.kind, OPTIMIZERS))
    }

    /// Builds the optimiser that the config names, for a network whose parameters are numbered.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and when the length of the schedule is open.
    pub(crate) fn build(&self, network: &impl Module) -> Result<ModuleOptimizer, TrainError> {
        self.validate()?;
        if self.schedule()?.options.contains(&"schedule_steps") && self.schedule_steps.is_none() {
            return Err(TrainError::Option {
                key: "optimizer.schedule_steps",
                value: "unset".into(),
                remedy: "write the step at which the learning rate has come to its end",
            });
        }
        let matrices = hidden_matrices(network).into_iter().map(|(id, _)| id).collect();
        Ok(self.registered()?(self, matrices))
    }

    /// How many numbers the optimiser remembers of a network.
    pub fn state_numbers(&self, network: &impl Module) -> usize {
        let parameters = network.num_params();
        match &*self.kind {
            LION => parameters,
            MUON => 2 * parameters - hidden_matrices(network).iter().map(|(_, size)| size).sum::<usize>(),
            _ => 2 * parameters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::number_parameters;
    use burn::module::Param;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, Tensor, TensorData};
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

    fn golden() -> Value {
        serde_json::from_str(include_str!("../tests/golden/optimizers.json")).unwrap()
    }

    /// The weights after each of the golden's gradients, with the state written to a file and read after these steps.
    fn steps(config: &OptimizerConfig, golden: &Value, written_after: &[usize]) -> Vec<Vec<f32>> {
        let folder = tempfile::tempdir().unwrap();
        let mut module = linear(&golden["weight"], &golden["bias"]);
        let mut optimizer = config.build(&module).unwrap();
        let mut after = Vec::new();
        for (step, gradient) in golden["gradients"].as_array().unwrap().iter().enumerate() {
            let mut gradients = GradientsParams::new();
            let gradient = linear(&gradient["weight"], &gradient["bias"]).valid();
            gradients.register(module.weight.id, gradient.weight.val());
            gradients.register(module.bias.as_ref().unwrap().id, gradient.bias.unwrap().val());
            module = optimizer.step(config.learning_rate, module, gradients);
            after.push(weights(&module));
            if written_after.contains(&step) {
                let path = folder.path().join("optim.bpk");
                optimizer.save(&path).unwrap();
                optimizer = config.build(&module).unwrap().load(&path).unwrap();
            }
        }
        after
    }

    #[test]
    fn steps_are_pytorchs() {
        let golden = golden();
        for case in golden["cases"].as_array().unwrap() {
            let config: OptimizerConfig = serde_json::from_value(case["optimizer"].clone()).unwrap();
            // The iteration of Muon multiplies what rounding leaves.
            let tolerance = if config.kind == MUON { 1e-5 } else { 1e-6 };
            for (step, found) in steps(&config, &golden, &[]).iter().enumerate() {
                for (found, expected) in found.iter().zip(numbers(&case["parameters"][step])) {
                    let what = format!("{}, step {step}: {found}, {expected}", case["optimizer"]);
                    assert!((found - expected).abs() <= tolerance * expected.abs().max(1.0), "{what}");
                }
            }
        }
    }

    #[test]
    fn every_optimizer_goes_on_bit_for_bit_after_a_resume() {
        let golden = golden();
        for (kind, _) in OPTIMIZERS {
            let config =
                OptimizerConfig { kind: (*kind).into(), learning_rate: 0.01, ..OptimizerConfig::default() };
            // For RAdam in the middle of the steps without the second moment, and after them.
            let resumed = steps(&config, &golden, &[2, 11]);
            assert!(steps(&config, &golden, &[]) == resumed, "{kind}");
            assert!(resumed.is_sorted_by(|before, after| before != after), "{kind} stands still");
        }
        assert!(OPTIMIZERS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn options_of_other_optimizers_are_refused() {
        let config = OptimizerConfig { momentum: Some(0.9), ..OptimizerConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "optimizer.kind = adamw has no option optimizer.momentum; remove it");
        assert!(OptimizerConfig { kind: MUON.into(), ..config }.validate().is_ok());
    }

    #[test]
    fn the_usual_decay_is_that_of_the_kind() {
        let beta2 =
            |kind: &str, beta2| OptimizerConfig { kind: kind.into(), beta2, ..Default::default() }.beta2();
        assert_eq!((beta2("adamw", None), beta2("lion", None), beta2("lion", Some(0.9))), (0.999, 0.99, 0.9));
    }
}
