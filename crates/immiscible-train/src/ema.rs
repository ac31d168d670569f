use crate::EmaConfig;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// The exponential moving average of a network's weights, one update per optimiser step.
#[derive(Clone, Debug)]
pub struct Ema<M> {
    network: M,
    config: EmaConfig,
}

impl<M: Module> Ema<M> {
    /// Starts from the weights of `network`, or goes on from averaged ones.
    pub fn new(network: &M, config: EmaConfig) -> Self {
        Self { network: network.valid(), config }
    }

    /// The averaged network, outside any autodiff graph.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// Decay of the `n`-th update, counted from 0.
    pub fn decay(&self, n: u64) -> f64 {
        let n = n as f64;
        if self.config.warmup { self.config.decay.min((1.0 + n) / (10.0 + n)) } else { self.config.decay }
    }

    /// Moves the average towards `online`, which has taken `n` updates before.
    pub fn update(&mut self, online: &M, n: u64) {
        self.network = blend(self.network.clone(), online, self.decay(n));
    }
}

/// decay · average + (1 − decay) · online, outside any autodiff graph, as `average` is.
pub(crate) fn blend<M: Module>(average: M, online: &M, decay: f64) -> M {
    // Burn's map from parameter id to a tensor of any rank.
    struct Collect(GradientsParams);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.register(param.id, param.val());
        }
    }
    struct Blend {
        online: GradientsParams,
        decay: f64,
    }
    impl ModuleMapper for Blend {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, average, mapper) = param.consume();
            let blended = match self.online.remove::<D>(id) {
                Some(online) => average.clone() + (online - average).mul_scalar(1.0 - self.decay),
                None => average,
            };
            Param::from_mapped_value(id, blended, mapper)
        }
    }

    let mut online_weights = Collect(GradientsParams::new());
    online.valid().visit(&mut online_weights);
    average.map(&mut Blend { online: online_weights.0, decay })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::number_parameters;
    use burn::nn::{Initializer, Linear, LinearConfig};
    use burn::tensor::Device;

    fn constant(value: f64) -> Linear {
        let config = LinearConfig::new(2, 2).with_initializer(Initializer::Constant { value });
        number_parameters(config.init(&Device::flex().autodiff()))
    }

    #[test]
    fn the_average_is_the_recursion() {
        let config = EmaConfig { decay: 0.5, warmup: true };
        let mut ema = Ema::new(&constant(0.0), config);
        let mut expected = 0.0;
        for n in 0..20u32 {
            let online = f64::from(n + 1);
            ema.update(&constant(online), n.into());
            // min(0.5, (1 + n) / (10 + n))
            let decay = 0.5f64.min((1.0 + f64::from(n)) / (10.0 + f64::from(n)));
            expected = decay * expected + (1.0 - decay) * online;
        }
        let found: Vec<f32> = ema.network().weight.val().into_data().try_into_vec_as().unwrap();
        assert!(
            found.iter().all(|value| (f64::from(*value) - expected).abs() < 1e-4),
            "{found:?} {expected}"
        );
    }
}
