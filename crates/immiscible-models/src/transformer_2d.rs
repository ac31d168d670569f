//! Transformers over the pixels of feature maps, which attend to a text (Rombach et al. 2022, §3.3),
//! with the field names of diffusers' weights.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Dropout, DropoutConfig, GroupNorm, GroupNormConfig, Initializer, LayerNorm, LayerNormConfig, Linear,
    LinearConfig,
};
use burn::tensor::{Device, Tensor};

use crate::attention::Attention;
use crate::convolution::Convolve;
use crate::gelu::gelu;
use crate::group_norm::Normalize;
use crate::hook::Trace;
use crate::linear::Project;
use crate::resnet::Plan;

/// ε of the group norm, which no setting reaches.
const NORM_EPS: f64 = 1e-6;

/// What the transformers of one resolution share.
#[derive(Clone, Copy)]
pub(crate) struct TransformerPlan {
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    /// Channels of the text.
    pub(crate) text: usize,
    /// Whether the projections around the blocks are linear layers instead of 1×1 convolutions.
    pub(crate) linear: bool,
    /// Whether the first attention of a block is to the text too.
    pub(crate) only_cross: bool,
}

/// Transformer blocks between two projections, around a residual connection.
#[derive(Module, Debug)]
pub(crate) struct Transformer2DModel {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
}

impl Transformer2DModel {
    pub(crate) fn new(channels: usize, transformer: &TransformerPlan, plan: &Plan<'_>) -> Self {
        let device = plan.device;
        let norm = GroupNormConfig::new(plan.groups, channels).with_epsilon(NORM_EPS);
        Self {
            norm: norm.init(device),
            proj_in: Projection::new(channels, transformer.linear, false, device),
            transformer_blocks: (0..transformer.layers)
                .map(|_| BasicTransformerBlock::new(channels, transformer, device))
                .collect(),
            proj_out: Projection::new(channels, transformer.linear, true, device),
        }
    }

    /// # Shapes
    /// `x`: `[B, C, H, W]`, `text`: `[B, N, D]` → `[B, C, H, W]`
    pub(crate) fn forward(
        &self,
        name: &str,
        x: Tensor<4>,
        text: &Tensor<3>,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        let shape = x.dims();
        let h = self.proj_in.forward(self.norm.normalize(x.clone(), None));
        let mut tokens = h.flatten::<3>(2, 3).swap_dims(1, 2);
        for (k, block) in self.transformer_blocks.iter().enumerate() {
            let name = format!("{name}.transformer_blocks.{k}");
            tokens =
                trace.tokens(format_args!("{name}"), tokens, |trace, x| block.forward(&name, x, text, trace));
        }
        x + self.proj_out.forward(tokens.swap_dims(1, 2).reshape(shape))
    }

    pub(crate) fn blocks(&self, name: &str, names: &mut Vec<String>) {
        for k in 0..self.transformer_blocks.len() {
            names
                .extend(["", ".attn1", ".attn2", ".ff"].map(|p| format!("{name}.transformer_blocks.{k}{p}")));
        }
    }
}

/// A linear map of the channels; the two differ in the shape of their weights only.
#[derive(Module, Debug)]
enum Projection {
    Conv(Conv2d),
    Linear(Linear),
}

impl Projection {
    /// With zeros, or else PyTorch's initial weights.
    fn new(channels: usize, linear: bool, zeros: bool, device: &Device) -> Self {
        let weights = |default: &Initializer| if zeros { Initializer::Zeros } else { default.clone() };
        if linear {
            let config = LinearConfig::new(channels, channels);
            let weights = weights(&config.initializer);
            return Self::Linear(config.with_initializer(weights).init(device));
        }
        let config = Conv2dConfig::new([channels, channels], [1, 1]);
        let weights = weights(&config.initializer);
        Self::Conv(config.with_initializer(weights).init(device))
    }

    /// # Shapes
    /// `[B, C, H, W]` → `[B, C, H, W]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv.convolve(x),
            Self::Linear(linear) => {
                let [.., height, width] = x.dims();
                let tokens = linear.project(x.flatten::<3>(2, 3).swap_dims(1, 2));
                let [batch, _, channels] = tokens.dims();
                tokens.swap_dims(1, 2).reshape([batch, channels, height, width])
            }
        }
    }
}

/// Self-attention, attention to the text and a feed-forward layer, each after a layer norm and around a
/// residual connection.
#[derive(Module, Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
    only_cross: bool,
}

impl BasicTransformerBlock {
    fn new(channels: usize, plan: &TransformerPlan, device: &Device) -> Self {
        let norm = || LayerNormConfig::new(channels).init(device);
        let attention = |context: usize| {
            let linear = |d_in| LinearConfig::new(d_in, channels).with_bias(false).init(device);
            Attention {
                group_norm: None,
                to_q: linear(channels),
                to_k: linear(context),
                to_v: linear(context),
                to_out: (LinearConfig::new(channels, channels).init(device), DropoutConfig::new(0.0).init()),
                heads: plan.heads,
            }
        };
        Self {
            norm1: norm(),
            attn1: attention(if plan.only_cross { plan.text } else { channels }),
            norm2: norm(),
            attn2: attention(plan.text),
            norm3: norm(),
            ff: FeedForward::new(channels, device),
            only_cross: plan.only_cross,
        }
    }

    fn forward(&self, name: &str, x: Tensor<3>, text: &Tensor<3>, trace: &mut Trace<'_>) -> Tensor<3> {
        let h = normalize(&self.norm1, x.clone());
        let x = x + trace.tokens(format_args!("{name}.attn1"), h, |_, h| match self.only_cross {
            true => self.attn1.cross(h, text.clone()),
            false => self.attn1.forward(h),
        });
        let h = normalize(&self.norm2, x.clone());
        let x = x + trace.tokens(format_args!("{name}.attn2"), h, |_, h| self.attn2.cross(h, text.clone()));
        let h = normalize(&self.norm3, x.clone());
        x + trace.tokens(format_args!("{name}.ff"), h, |_, h| self.ff.forward(h))
    }
}

/// A layer norm, computed in the type of its weights; the result is of the input's.
fn normalize(norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    let dtype = x.dtype();
    norm.forward(x.cast(norm.gamma.val().dtype())).cast(dtype)
}

/// A gated linear unit, four times as wide as the network inside, and a linear layer.
#[derive(Module, Debug)]
struct FeedForward {
    net: (Geglu, Dropout, Linear),
}

impl FeedForward {
    fn new(channels: usize, device: &Device) -> Self {
        let inner = 4 * channels;
        let proj = LinearConfig::new(channels, 2 * inner).init(device);
        let out = LinearConfig::new(inner, channels).init(device);
        Self { net: (Geglu { proj }, DropoutConfig::new(0.0).init(), out) }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (geglu, dropout, out) = &self.net;
        out.project(dropout.forward(geglu.forward(x)))
    }
}

/// x W₁ · GELU(x W₂) (Shazeer 2020, equation 6).
#[derive(Module, Debug)]
struct Geglu {
    proj: Linear,
}

impl Geglu {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let both = self.proj.project(x);
        let [.., width] = both.dims();
        let half = width / 2;
        both.clone().narrow(2, 0, half) * gelu(both.narrow(2, half, half))
    }
}
