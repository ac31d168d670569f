//! The blocks of [`DiTTransformer2DModel`](crate::DiTTransformer2DModel), with the field names of its
//! weights.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Dropout, DropoutConfig, Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::ada_norm::{add_gated, modulated_norm};
use crate::attention::Attention;
use crate::convolution::Convolve;
use crate::dit::{Activation, DiTConfig};
use crate::gelu::{gelu, gelu_approximate};
use crate::hook::Trace;
use crate::linear::Project;
use crate::time::{TimestepEmbedding, linear_zero_bias};

/// Channels of the sinusoid of the time.
pub(crate) const FREQUENCIES: usize = 256;
/// ε of the layer norms that no setting reaches.
pub(crate) const NORM_EPS: f64 = 1e-6;
/// Standard deviation of the initial embeddings of time and class (Peebles & Xie 2023, code).
const EMBEDDING_STD: f64 = 0.02;

/// Patches as tokens, with fixed sinusoids of their row and column added.
#[derive(Module, Debug)]
pub(crate) struct PatchEmbed {
    proj: Conv2d,
    /// Rows, and columns, of patches in an image of `sample_size`.
    base: usize,
}

impl PatchEmbed {
    pub(crate) fn new(config: &DiTConfig, device: &Device) -> Self {
        let (patch, width) = (config.patch_size, config.width());
        // Glorot-uniform for the linear layer that this convolution is.
        let bound = (6.0 / (config.in_channels * patch * patch + width) as f64).sqrt();
        let conv = Conv2dConfig::new([config.in_channels, width], [patch, patch])
            .with_stride([patch, patch])
            .with_initializer(Initializer::Uniform { min: -bound, max: bound })
            .with_bias(false)
            .init(device);
        let bias = Some(Initializer::Zeros.init([width], device));
        let proj = Conv2d { bias, ..conv };
        Self { proj, base: config.sample_size / patch }
    }

    pub(crate) fn patch_size(&self) -> usize {
        self.proj.kernel_size[0]
    }

    /// # Shapes
    /// `[B, C, H, W]` → `[B, H/p · W/p, D]`
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let (dtype, computed_in) = (x.dtype(), self.proj.weight.val().dtype());
        let x = self.proj.convolve(x).cast(computed_in);
        let [_, width, rows, cols] = x.dims();
        let axis = |length| {
            let table = TensorData::new(axis_embedding(length, self.base, width / 2), [length, width / 2]);
            Tensor::<2>::from_data(table, (&x.device(), computed_in))
        };
        // Half of the channels tell the column, the other half the row.
        let cols_first = axis(cols).unsqueeze_dim::<3>(0).expand([rows, cols, width / 2]);
        let then_rows = axis(rows).unsqueeze_dim::<3>(1).expand([rows, cols, width / 2]);
        let positions = Tensor::cat(vec![cols_first, then_rows], 2).reshape([1, rows * cols, width]);
        (x.flatten::<3>(2, 3).swap_dims(1, 2) + positions).cast(dtype)
    }
}

/// `[sin ωp, cos ωp]` with ω_i = 10000^(−i / (dim/2)) for the positions p = 0 … length−1, row by row;
/// they are scaled to the range 0 … base that the network was trained on.
fn axis_embedding(length: usize, base: usize, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let omega: Vec<f64> = (0..half).map(|i| 10_000f64.powf(-(i as f64) / half as f64)).collect();
    (0..length)
        .map(|p| (p * base) as f64 / length as f64)
        .flat_map(|p| {
            let phase = omega.iter().map(move |omega| p * omega);
            phase.clone().map(f64::sin).chain(phase.map(f64::cos)).map(|v| v as f32)
        })
        .collect()
}

/// Attention and a feed-forward layer, each modulated and gated by the embedding (adaLN-Zero,
/// Peebles & Xie 2023, figure 3).
#[derive(Module, Debug)]
pub(crate) struct TransformerBlock {
    pub(crate) norm1: AdaLayerNormZero,
    attn1: Attention,
    ff: FeedForward,
    norm_eps: f64,
}

impl TransformerBlock {
    pub(crate) fn new(config: &DiTConfig, device: &Device) -> Self {
        let width = config.width();
        // The paper's code draws the three projections as one matrix of width -> 3 width, whose
        // Glorot bound is smaller by √2.
        let qkv = || {
            let linear = LinearConfig::new(width, width).with_bias(config.attention_bias);
            linear_zero_bias(linear, Initializer::XavierUniform { gain: FRAC_1_SQRT_2 }, device)
        };
        Self {
            norm1: AdaLayerNormZero::new(config, device),
            attn1: Attention {
                group_norm: None,
                to_q: qkv(),
                to_k: qkv(),
                to_v: qkv(),
                to_out: (glorot(width, width, device), DropoutConfig::new(config.dropout).init()),
                heads: config.num_attention_heads,
            },
            ff: FeedForward::new(config, device),
            norm_eps: config.norm_eps,
        }
    }

    /// # Shapes
    /// `x`: `[B, N, D]`, `embedding`: `[B, D]` after its SiLU → `[B, N, D]`
    pub(crate) fn forward(
        &self,
        name: &str,
        x: Tensor<3>,
        embedding: &Tensor<2>,
        trace: &mut Trace<'_>,
    ) -> Tensor<3> {
        let modulation = self.norm1.linear.forward(embedding.clone());
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp] = chunks(modulation);
        let h = modulated_norm(x.clone(), shift_msa, scale_msa, NORM_EPS);
        let h = trace.tokens(format_args!("{name}.attn1"), h, |_, h| self.attn1.forward(h));
        let x = add_gated(x, gate_msa, h);
        let h = modulated_norm(x.clone(), shift_mlp, scale_mlp, self.norm_eps);
        let h = trace.tokens(format_args!("{name}.ff"), h, |_, h| self.ff.forward(h));
        add_gated(x, gate_mlp, h)
    }
}

/// The modulation of a block, from an embedding of its own.
#[derive(Module, Debug)]
pub(crate) struct AdaLayerNormZero {
    pub(crate) emb: TimestepLabelEmbedding,
    linear: Linear,
}

impl AdaLayerNormZero {
    fn new(config: &DiTConfig, device: &Device) -> Self {
        let width = config.width();
        let zeros = LinearConfig::new(width, 6 * width).with_initializer(Initializer::Zeros);
        Self { emb: TimestepLabelEmbedding::new(config, device), linear: zeros.init(device) }
    }
}

#[derive(Module, Debug)]
pub(crate) struct TimestepLabelEmbedding {
    timestep_embedder: TimestepEmbedding,
    pub(crate) class_embedder: LabelEmbedding,
}

impl TimestepLabelEmbedding {
    fn new(config: &DiTConfig, device: &Device) -> Self {
        let width = config.width();
        let normal = Initializer::Normal { mean: 0.0, std: EMBEDDING_STD };
        let table = EmbeddingConfig::new(config.num_embeds_ada_norm + 1, width);
        Self {
            timestep_embedder: TimestepEmbedding::new(FREQUENCIES, width, |linear| {
                linear_zero_bias(linear, normal.clone(), device)
            }),
            class_embedder: LabelEmbedding {
                embedding_table: table.with_initializer(normal.clone()).init(device),
            },
        }
    }

    /// The SiLU of the sum of both embeddings, which is all that anything reads, `[B, D]`.
    pub(crate) fn forward(
        &self,
        name: &str,
        sinusoid: &Tensor<2>,
        labels: &Tensor<1, Int>,
        trace: &mut Trace<'_>,
    ) -> Tensor<2> {
        let time = trace.vector(format_args!("{name}.timestep_embedder"), sinusoid.clone(), |x| {
            self.timestep_embedder.forward(x)
        });
        let row = self.class_embedder.forward(labels.clone());
        let class = trace.vector(format_args!("{name}.class_embedder"), row, |x| x);
        silu(time + class)
    }
}

/// A row per class, and a last one for the null class.
#[derive(Module, Debug)]
pub(crate) struct LabelEmbedding {
    embedding_table: Embedding,
}

impl LabelEmbedding {
    pub(crate) fn null_class(&self) -> i64 {
        let [rows, _] = self.embedding_table.weight.dims();
        rows as i64 - 1
    }

    fn forward(&self, labels: Tensor<1, Int>) -> Tensor<2> {
        self.embedding_table.forward(labels.unsqueeze_dim(1)).squeeze_dim(1)
    }
}

/// Two linear layers with a GELU between them, four times as wide as the network inside.
#[derive(Module, Debug)]
struct FeedForward {
    net: (ProjectionWithGelu, Dropout, Linear),
}

impl FeedForward {
    fn new(config: &DiTConfig, device: &Device) -> Self {
        let width = config.width();
        let inner = 4 * width;
        let proj =
            ProjectionWithGelu { proj: glorot(width, inner, device), activation: config.activation_fn };
        Self { net: (proj, DropoutConfig::new(config.dropout).init(), glorot(inner, width, device)) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (proj, dropout, out) = &self.net;
        out.project(dropout.forward(proj.forward(x)))
    }
}

#[derive(Module, Debug)]
struct ProjectionWithGelu {
    proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl ProjectionWithGelu {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.proj.project(x);
        match self.activation {
            Activation::Gelu => gelu(x),
            Activation::GeluApproximate => gelu_approximate(x),
        }
    }
}

/// `[B, n D]` as n tensors `[B, 1, D]`.
pub(crate) fn chunks<const N: usize>(x: Tensor<2>) -> [Tensor<3>; N] {
    let [_, all] = x.dims();
    let width = all / N;
    let x = x.unsqueeze_dim::<3>(1);
    std::array::from_fn(|i| x.clone().narrow(2, i * width, width))
}

/// A linear layer with Glorot-uniform weights and biases of zero.
fn glorot(d_in: usize, d_out: usize, device: &Device) -> Linear {
    linear_zero_bias(LinearConfig::new(d_in, d_out), Initializer::XavierUniform { gain: 1.0 }, device)
}
