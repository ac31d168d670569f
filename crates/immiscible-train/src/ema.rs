use crate::EmaConfig;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// The decay of the `n`-th update of an average, counted from 0.
pub type Decay = fn(&EmaConfig, n: u64) -> f64;

/// Every average of the weights by name, sorted.
pub const AVERAGES: &[(&str, Decay)] = &[
    (EXPONENTIAL, |config, n| {
        let n = n as f64;
        if config.warmup { config.decay.min((1.0 + n) / (10.0 + n)) } else { config.decay }
    }),
    // Karras et al. 2024, arXiv 2312.02696, §3.1: β(t) = (1 − 1/t)^(γ + 1).
    (POWER, |config, n| {
        let t = n as f64 + 1.0;
        (1.0 - 1.0 / t).powf(power_gamma(config.sigma_rel.unwrap_or(0.1)) + 1.0)
    }),
];

/// What samples are drawn from if the config says nothing.
pub(crate) const EXPONENTIAL: &str = "exponential";
pub(crate) const POWER: &str = "power";

/// γ of the power function whose standard deviation is this share of the time so far, in (0, 0.28]: the largest root of
/// (γ + 2)² (γ + 3) = (γ + 1)/σ_rel² (Karras et al. 2024, appendix C).
pub fn power_gamma(sigma_rel: f64) -> f64 {
    let a = sigma_rel.powi(-2);
    // γ³ + 7γ² + (16 − a)γ + 12 − a is convex and positive from 1/σ_rel on, so that Newton's steps from there fall to the root.
    let mut gamma = sigma_rel.recip();
    for _ in 0..100 {
        let value = ((gamma + 7.0) * gamma + 16.0 - a) * gamma + 12.0 - a;
        let slope = (3.0 * gamma + 14.0) * gamma + 16.0 - a;
        let next = gamma - value / slope;
        if next >= gamma {
            break;
        }
        gamma = next;
    }
    gamma
}

/// A moving average of a network's weights, one update per optimiser step.
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

    /// Decay of the `n`-th update, counted from 0. An average whose kind is unknown stands still.
    pub fn decay(&self, n: u64) -> f64 {
        let kind = AVERAGES.iter().find(|(name, _)| *name == self.config.kind);
        kind.map_or(1.0, |(_, decay)| decay(&self.config, n))
    }

    /// Moves the average towards `online`, which has taken `n` updates before.
    pub fn update(&mut self, online: &M, n: u64) {
        let decay = self.decay(n);
        blend(&mut self.network, online, decay);
    }
}

/// average ← decay · average + (1 − decay) · online, outside any autodiff graph, as `average` is.
pub(crate) fn blend<M: Module>(average: &mut M, online: &M, decay: f64) {
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
                Some(online) => towards(average, online, 1.0 - self.decay),
                None => average,
            };
            Param::from_mapped_value(id, blended, mapper)
        }
    }

    /// average + share · (online − average)
    fn towards<const D: usize>(average: Tensor<D>, online: Tensor<D>, share: f64) -> Tensor<D> {
        #[cfg(feature = "flex")]
        if crate::cpu::has(&average) {
            let change = |[average]: [&mut [f32]; 1], [online]: [&[f32]; 1]| {
                average.iter_mut().zip(online).for_each(|(a, o)| *a += share as f32 * (o - *a));
            };
            let [average] = crate::cpu::change([average], [online], change);
            return average;
        }
        average.clone() + (online - average).mul_scalar(share)
    }

    let (plain, mut online_weights) = (online.valid(), Collect(GradientsParams::new()));
    plain.visit(&mut online_weights);
    // The average is handed on and not shared, so that it may be changed where it is.
    let before = std::mem::replace(average, plain);
    *average = before.map(&mut Blend { online: online_weights.0, decay });
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

    /// The value that an average of the values 1, 2, … has, and the one that it should have, after so many updates.
    fn averaged(config: &EmaConfig, updates: u32, decay: impl Fn(f64) -> f64) -> (f64, f64) {
        let mut ema = Ema::new(&constant(0.0), config.clone());
        let mut expected = 0.0;
        for n in 0..updates {
            let online = f64::from(n + 1);
            ema.update(&constant(online), n.into());
            let decay = decay(f64::from(n));
            expected = decay * expected + (1.0 - decay) * online;
        }
        let found: Vec<f32> = ema.network().weight.val().into_data().try_into_vec_as().unwrap();
        assert!(found.iter().all(|value| *value == found[0]));
        (found[0].into(), expected)
    }

    #[test]
    fn averages_are_the_recursion() {
        let config = EmaConfig { decay: 0.5, ..EmaConfig::default() };
        let (found, expected) = averaged(&config, 20, |n| 0.5f64.min((1.0 + n) / (10.0 + n)));
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        let config = EmaConfig { kind: POWER.into(), sigma_rel: Some(0.1), ..EmaConfig::default() };
        // The first update forgets where the network started.
        let (found, expected) = averaged(&config, 20, |n| (1.0 - 1.0 / (n + 1.0)).powf(7.937_1));
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
        assert_eq!(averaged(&config, 1, |_| 0.0), (1.0, 1.0));
    }

    /// Karras et al. 2024, §3.1: σ_rel = 0.05 and 0.10 are γ ≈ 16.97 and 6.94. Appendix C: σ_rel of γ.
    #[test]
    fn widths_are_those_of_the_paper() {
        for (sigma_rel, gamma) in [(0.05, 16.97), (0.1, 6.94), (0.25, 0.72)] {
            assert!(
                (power_gamma(sigma_rel) - gamma).abs() < 0.005,
                "{sigma_rel}: {}",
                power_gamma(sigma_rel)
            );
        }
        for sigma_rel in [1e-3, 0.01, 0.03, 0.08, 0.15, 0.2, 0.28] {
            let gamma = power_gamma(sigma_rel);
            let width = (gamma + 1.0).sqrt() / ((gamma + 2.0) * (gamma + 3.0).sqrt());
            assert!((width / sigma_rel - 1.0).abs() < 1e-9, "{sigma_rel}: {gamma}, {width}");
        }
    }

    /// The weights that an average gives to what it has seen are spread over the run as its name says.
    #[test]
    fn a_power_average_is_as_wide_as_it_says() {
        let config = EmaConfig { kind: POWER.into(), sigma_rel: Some(0.1), ..EmaConfig::default() };
        let ema = Ema::new(&constant(0.0), config);
        let steps = 2_000u64;
        let mut kept = 1.0;
        let mut weights: Vec<f64> = (0..steps)
            .rev()
            .map(|n| {
                let weight = kept * (1.0 - ema.decay(n));
                kept *= ema.decay(n);
                weight
            })
            .collect();
        weights.reverse();
        let mean: f64 = (1..).zip(&weights).map(|(t, w)| f64::from(t) * w).sum();
        let variance: f64 = (1..).zip(&weights).map(|(t, w)| (f64::from(t) - mean).powi(2) * w).sum();
        let width = variance.sqrt() / steps as f64;
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9 && (width - 0.1).abs() < 1e-3, "{width}");
    }

    #[test]
    fn what_an_average_cannot_be_is_one_line() {
        let refused = |config: EmaConfig| config.validate().unwrap_err().to_string();
        let with = |kind: &str, sigma_rel| EmaConfig { kind: kind.into(), sigma_rel, ..EmaConfig::default() };
        let beside = |name: &str, other: EmaConfig| EmaConfig {
            others: [(name.to_string(), other)].into(),
            ..EmaConfig::default()
        };
        for (config, words) in [
            (with("cosine", None), "ema.kind = cosine is unknown; known: exponential, power"),
            (with(POWER, None), "ema.sigma_rel = unset: write a value in (0, 0.28]"),
            (with(POWER, Some(0.3)), "ema.sigma_rel = 0.3: write a value in (0, 0.28]"),
            (with(EXPONENTIAL, Some(0.1)), "ema.kind = exponential has no option ema.sigma_rel"),
            (beside("a/b", with(POWER, Some(0.1))), "ema.others = a/b: name it with letters"),
            (beside("..", with(POWER, Some(0.1))), "ema.others = ..: name it with letters"),
            (beside("wide", with(POWER, None)), "ema.sigma_rel = unset"),
            (beside("wide", beside("more", EmaConfig::default())), "ema.others = wide: it has `others`"),
        ] {
            assert!(refused(config).starts_with(words), "{words}");
        }
        beside("wide", with(POWER, Some(0.1))).validate().unwrap();
        assert!(AVERAGES.is_sorted_by_key(|(name, _)| *name));
    }
}
