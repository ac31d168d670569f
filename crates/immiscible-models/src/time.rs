use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Time of each sample as networks receive it.
#[derive(Clone, Debug)]
pub struct TimeInput {
    /// `[B]`, in `[0, 1000]`: the number that is embedded. The index of a variance-preserving
    /// process, or 1000·t of the flow path; larger is noisier.
    pub u: Tensor<1>,
    /// `[B]`, in `0..=999`: ⌊u⌋, for whatever is looked up by time.
    pub idx: Tensor<1, Int>,
    /// `[B]`, the second time of flow maps. The networks of this crate do not read it.
    pub s: Option<Tensor<1>>,
}

impl TimeInput {
    /// The times of a batch, one per sample, each in `[0, 1000]`.
    pub fn of(times: &[f32], device: &Device) -> Self {
        let buckets: Vec<i32> = times.iter().map(|u| u.clamp(0.0, 999.0) as i32).collect();
        let shape = [times.len()];
        Self {
            // Always f32: half precision cannot tell 999 from 1000.
            u: Tensor::from_data(TensorData::new(times.to_vec(), shape), (device, DType::F32)),
            idx: Tensor::from_data(TensorData::new(buckets, shape), device),
            s: None,
        }
    }
}

/// Sinusoidal embedding of times (Vaswani et al. 2017, §3.5, as in Ho et al. 2020, appendix B).
///
/// ω_i = 10000^(−i / (dim/2 − shift)); the embedding is `[sin ωu, cos ωu]`, or
/// `[cos ωu, sin ωu]` with `cos_first`.
///
/// # Shapes
/// `u`: `[B]` → `[B, dim]`; `dim` is even and `dim / 2 > shift`.
pub(crate) fn sinusoid(u: Tensor<1>, dim: usize, cos_first: bool, shift: usize) -> Tensor<2> {
    let half = dim / 2;
    // Rounded to f32 where PyTorch rounds: at u = 1000 the last bit of ω moves the phase by 6e-5, and
    // weights that were trained there expect that bit.
    let log_period = 10_000f64.ln() as f32;
    let omega: Vec<f32> = (0..half)
        .map(|i| -log_period * i as f32 / (half - shift) as f32)
        .map(|exponent| f64::from(exponent).exp() as f32)
        .collect();
    let omega = Tensor::<2>::from_data(TensorData::new(omega, [1, half]), (&u.device(), DType::F32));
    let phase = u.cast(DType::F32).unsqueeze_dim::<2>(1) * omega;
    let (sin, cos) = (phase.clone().sin(), phase.cos());
    Tensor::cat(if cos_first { vec![cos, sin] } else { vec![sin, cos] }, 1)
}

/// Two linear layers with SiLU between them, from the sinusoid to what modulates the blocks.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    pub(crate) linear_1: Linear,
    pub(crate) linear_2: Linear,
}

impl TimestepEmbedding {
    pub(crate) fn new(channels: usize, width: usize, linear: impl Fn(LinearConfig) -> Linear) -> Self {
        Self {
            linear_1: linear(LinearConfig::new(channels, width)),
            linear_2: linear(LinearConfig::new(width, width)),
        }
    }

    /// # Shapes
    /// `[B, channels]` → `[B, width]`
    pub(crate) fn forward(&self, sinusoid: Tensor<2>) -> Tensor<2> {
        self.forward_with(sinusoid, silu)
    }

    /// With another activation than SiLU.
    pub(crate) fn forward_with(
        &self,
        sinusoid: Tensor<2>,
        act: impl Fn(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let x = sinusoid.cast(self.linear_1.weight.val().dtype());
        self.linear_2.forward(act(self.linear_1.forward(x)))
    }
}

/// `linear` with this weight initializer and a bias of zeros.
pub(crate) fn linear_zero_bias(linear: LinearConfig, weight: Initializer, device: &Device) -> Linear {
    let bias = linear.bias.then(|| Initializer::Zeros.init([linear.d_output], device));
    Linear { bias, ..linear.with_bias(false).with_initializer(weight).init(device) }
}
