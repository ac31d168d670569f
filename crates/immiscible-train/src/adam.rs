use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, Tensor};

/// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), and without weight decay Adam (Kingma & Ba 2015, arXiv 1412.6980,
/// algorithm 1): as Burn has it, but for the CPU in one pass over weights, gradient and moments.
#[derive(Clone)]
pub(crate) struct Adam {
    burn: AdamW,
    #[cfg(feature = "flex")]
    options: Options,
}

#[cfg(feature = "flex")]
#[derive(Clone, Copy)]
struct Options {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
}

impl Adam {
    pub(crate) fn new(beta1: f32, beta2: f32, epsilon: f32, weight_decay: f32) -> Self {
        let config = AdamWConfig::new().with_beta_1(beta1).with_beta_2(beta2).with_epsilon(epsilon);
        Self {
            burn: config.with_weight_decay(weight_decay).build(),
            #[cfg(feature = "flex")]
            options: Options { beta1, beta2, epsilon, weight_decay },
        }
    }
}

impl Optimizer for Adam {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        #[cfg(feature = "flex")]
        if crate::cpu::has(&tensor) {
            let (tensor, momentum) = self.options.step(lr, tensor, grad, state.map(|state| state.momentum));
            return (tensor, Some(AdamWState::new(momentum)));
        }
        self.burn.step(lr, tensor, grad, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        AdamW::to_device(state, device)
    }
}

#[cfg(feature = "flex")]
impl Options {
    /// p ← (1 − lr λ) p − lr m̂ / (√v̂ + ε), m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ).
    fn step<const D: usize>(
        self,
        lr: f64,
        p: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdaptiveMomentumState<D>>,
    ) -> (Tensor<D>, AdaptiveMomentumState<D>) {
        let Self { beta1, beta2, epsilon, weight_decay } = self;
        let state = state.unwrap_or_else(|| AdaptiveMomentumState {
            time: 0,
            moment_1: p.zeros_like(),
            moment_2: p.zeros_like(),
            max_moment_2: None,
        });
        let time = state.time + 1;
        // Rounded where Burn's AdamW rounds: both are the same bit for bit.
        let [left1, left2] = [beta1, beta2].map(|beta| 1.0 - beta.powi(time as i32));
        let (kept, lr) = ((1.0 - lr * f64::from(weight_decay)) as f32, lr as f32);
        let change = |[p, m, v]: [&mut [f32]; 3], [gradient]: [&[f32]; 1]| {
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(gradient) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * (g * g);
                *p = kept * *p - lr * ((*m / left1) / ((*v / left2).sqrt() + epsilon));
            }
        };
        let [p, moment_1, moment_2] =
            crate::cpu::change([p, state.moment_1, state.moment_2], [gradient], change);
        (p, AdaptiveMomentumState { time, moment_1, moment_2, max_moment_2: None })
    }
}
