//! Residual blocks and what changes their resolution, with the field names of diffusers' weights. UNets and autoencoders
//! are made of them.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Dropout, DropoutConfig, GroupNorm, GroupNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d,
};
use burn::tensor::activation::{mish, relu, silu};
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::convolution::Convolve;
use crate::gelu::gelu;
use crate::group_norm::Normalize;

/// The activation of the residual blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActFn {
    /// x · sigmoid(x) (Elfwing et al. 2018).
    Silu,
    /// Another name of [`Silu`](Self::Silu) (Ramachandran et al. 2017).
    Swish,
    /// x · tanh(ln(1 + eˣ)) (Misra 2019).
    Mish,
    /// x Φ(x) with the Gaussian distribution function Φ (Hendrycks & Gimpel 2016).
    Gelu,
    /// max(0, x).
    Relu,
}

impl ActFn {
    pub(crate) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu | Self::Swish => silu(x),
            Self::Mish => mish(x),
            Self::Gelu => gelu(x),
            Self::Relu => relu(x),
        }
    }
}

/// What the embedding does inside a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// It is added before the second norm (Ho et al. 2020).
    Default,
    /// It scales and shifts what the second norm returns (Nichol & Dhariwal 2021, §4).
    ScaleShift,
}

/// What all blocks of one network share.
pub(crate) struct Plan<'a> {
    /// Width of the embedding that shifts the residual blocks; none if nothing does.
    pub(crate) embedding: Option<usize>,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    pub(crate) dropout: f64,
    pub(crate) act: ActFn,
    pub(crate) scale_shift: TimeScaleShift,
    /// Channels per attention head; one head if absent.
    pub(crate) head_dim: Option<usize>,
    pub(crate) downsample_padding: usize,
    /// Of the layer that ends the way around a residual connection: with zeros every block starts as the identity.
    pub(crate) residual: Initializer,
    pub(crate) device: &'a Device,
}

/// PyTorch's initial weights of linear layers and convolutions, which are Burn's too: uniform in ±1/√fan_in.
pub(crate) const PYTORCH: Initializer =
    Initializer::KaimingUniform { gain: 0.577_350_269_189_625_8, fan_out_only: false };

impl Plan<'_> {
    pub(crate) fn norm(&self, channels: usize) -> GroupNorm {
        GroupNormConfig::new(self.groups, channels).with_epsilon(self.eps).init(self.device)
    }

    fn dropout(&self) -> Dropout {
        DropoutConfig::new(self.dropout).init()
    }

    pub(crate) fn attention(&self, channels: usize) -> Attention {
        let linear = || LinearConfig::new(channels, channels);
        Attention {
            group_norm: Some(self.norm(channels)),
            to_q: linear().init(self.device),
            to_k: linear().init(self.device),
            to_v: linear().init(self.device),
            to_out: (
                linear().with_initializer(self.residual.clone()).init(self.device),
                DropoutConfig::new(0.0).init(),
            ),
            heads: self.head_dim.map_or(1, |dim| channels / dim),
        }
    }
}

/// A 3×3 convolution that keeps height and width.
pub(crate) fn conv3x3(channels_in: usize, channels_out: usize) -> Conv2dConfig {
    Conv2dConfig::new([channels_in, channels_out], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
}

/// Two convolutions around a residual connection, with the embedding between them
/// (Ho et al. 2020, appendix B).
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    act: ActFn,
    #[module(skip)]
    scale_shift: TimeScaleShift,
    #[module(skip)]
    resample: Option<Resample>,
}

/// How a residual block changes the resolution, without weights of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resample {
    /// The mean of four pixels.
    Down,
    /// Each pixel becomes four.
    Up,
}

impl Resample {
    fn forward(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Down => avg_pool2d(x, AvgPoolOptions::new([2, 2])),
            Self::Up => twice(x),
        }
    }
}

impl ResnetBlock2D {
    pub(crate) fn new(channels_in: usize, channels: usize, plan: &Plan<'_>) -> Self {
        let modulation = match plan.scale_shift {
            TimeScaleShift::Default => channels,
            TimeScaleShift::ScaleShift => 2 * channels,
        };
        Self {
            norm1: plan.norm(channels_in),
            conv1: conv3x3(channels_in, channels).init(plan.device),
            time_emb_proj: plan.embedding.map(|width| LinearConfig::new(width, modulation).init(plan.device)),
            norm2: plan.norm(channels),
            dropout: plan.dropout(),
            conv2: conv3x3(channels, channels).with_initializer(plan.residual.clone()).init(plan.device),
            conv_shortcut: (channels_in != channels)
                .then(|| Conv2dConfig::new([channels_in, channels], [1, 1]).init(plan.device)),
            act: plan.act,
            scale_shift: plan.scale_shift,
            resample: None,
        }
    }

    /// A block that changes the resolution and keeps the channels.
    pub(crate) fn resampling(channels: usize, resample: Resample, plan: &Plan<'_>) -> Self {
        Self { resample: Some(resample), ..Self::new(channels, channels, plan) }
    }

    /// # Shapes
    /// `x`: `[B, C_in, H, W]`, `embedding`: `[B, D]` after its activation → `[B, C, H, W]`; H and W are
    /// halved or doubled by a block that changes the resolution.
    pub(crate) fn forward(&self, x: Tensor<4>, embedding: Option<&Tensor<2>>) -> Tensor<4> {
        let h = self.norm1.normalize(x.clone(), Some(self.act));
        let (x, h) = match self.resample {
            Some(resample) => (resample.forward(x), resample.forward(h)),
            None => (x, h),
        };
        let h = self.conv1.convolve(h);
        let modulation = match (&self.time_emb_proj, embedding) {
            (Some(proj), Some(embedding)) => {
                Some(proj.forward(embedding.clone()).unsqueeze_dims::<4>(&[2, 3]))
            }
            _ => None,
        };
        let h = match (modulation, self.scale_shift) {
            (None, _) => self.norm2.normalize(h, Some(self.act)),
            (Some(shift), TimeScaleShift::Default) => {
                let shift = shift.cast(h.dtype());
                self.norm2.normalize(h + shift, Some(self.act))
            }
            (Some(both), TimeScaleShift::ScaleShift) => {
                let ([_, channels, ..], dtype, computed_in) = (h.dims(), h.dtype(), both.dtype());
                let scale = both.clone().narrow(1, 0, channels);
                let shift = both.narrow(1, channels, channels);
                let h = self.norm2.normalize(h.cast(computed_in), None);
                self.act.forward(h * (scale + 1.0) + shift).cast(dtype)
            }
        };
        let h = self.conv2.convolve(self.dropout.forward(h));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.convolve(x) + h,
            None => x + h,
        }
    }
}

/// A convolution of stride two.
#[derive(Module, Debug)]
pub(crate) struct Downsample2D {
    pub(crate) conv: Conv2d,
}

impl Downsample2D {
    pub(crate) fn new(channels: usize, plan: &Plan<'_>) -> Self {
        // Without padding a row and a column of zeros follow the image, as in the TensorFlow original.
        let padding = match plan.downsample_padding {
            0 => PaddingConfig2d::Explicit(0, 0, 1, 1),
            p => PaddingConfig2d::Explicit(p, p, p, p),
        };
        let conv = Conv2dConfig::new([channels, channels], [3, 3]).with_stride([2, 2]).with_padding(padding);
        Self { conv: conv.init(plan.device) }
    }
}

/// Each pixel becomes four, then a convolution.
#[derive(Module, Debug)]
pub(crate) struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    pub(crate) fn new(channels: usize, plan: &Plan<'_>) -> Self {
        Self { conv: conv3x3(channels, channels).init(plan.device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.convolve(twice(x))
    }
}

/// Each pixel becomes four.
fn twice(x: Tensor<4>) -> Tensor<4> {
    interpolate(x, InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]))
}
