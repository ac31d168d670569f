//! The blocks of [`UNet2DModel`](crate::UNet2DModel), with the field names of its weights.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Dropout, DropoutConfig, GroupNorm, GroupNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d,
};
use burn::tensor::activation::silu;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};

use crate::attention::Attention;
use crate::hook::Trace;

/// What all blocks of one UNet share.
pub(crate) struct Plan<'a> {
    pub(crate) embedding: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    pub(crate) dropout: f64,
    /// Channels per attention head; one head if absent.
    pub(crate) head_dim: Option<usize>,
    pub(crate) downsample_padding: usize,
    pub(crate) device: &'a Device,
}

impl Plan<'_> {
    pub(crate) fn norm(&self, channels: usize) -> GroupNorm {
        GroupNormConfig::new(self.groups, channels).with_epsilon(self.eps).init(self.device)
    }

    fn dropout(&self) -> Dropout {
        DropoutConfig::new(self.dropout).init()
    }

    fn attention(&self, channels: usize) -> Attention {
        let linear = || LinearConfig::new(channels, channels);
        Attention {
            group_norm: Some(self.norm(channels)),
            to_q: linear().init(self.device),
            to_k: linear().init(self.device),
            to_v: linear().init(self.device),
            to_out: (
                linear().with_initializer(Initializer::Zeros).init(self.device),
                DropoutConfig::new(0.0).init(),
            ),
            heads: self.head_dim.map_or(1, |dim| channels / dim),
        }
    }

    fn attentions(&self, present: bool, layers: usize, channels: usize) -> Vec<Attention> {
        (0..if present { layers } else { 0 }).map(|_| self.attention(channels)).collect()
    }
}

/// A 3×3 convolution that keeps height and width.
pub(crate) fn conv3x3(channels_in: usize, channels_out: usize) -> Conv2dConfig {
    Conv2dConfig::new([channels_in, channels_out], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
}

/// Two convolutions around a residual connection, shifted by the embedding between them
/// (Ho et al. 2020, appendix B).
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    fn new(channels_in: usize, channels: usize, plan: &Plan<'_>) -> Self {
        Self {
            norm1: plan.norm(channels_in),
            conv1: conv3x3(channels_in, channels).init(plan.device),
            time_emb_proj: LinearConfig::new(plan.embedding, channels).init(plan.device),
            norm2: plan.norm(channels),
            dropout: plan.dropout(),
            conv2: conv3x3(channels, channels).with_initializer(Initializer::Zeros).init(plan.device),
            conv_shortcut: (channels_in != channels)
                .then(|| Conv2dConfig::new([channels_in, channels], [1, 1]).init(plan.device)),
        }
    }

    /// # Shapes
    /// `x`: `[B, C_in, H, W]`, `embedding`: `[B, D]` after its SiLU → `[B, C, H, W]`
    fn forward(&self, x: Tensor<4>, embedding: &Tensor<2>) -> Tensor<4> {
        let h = self.conv1.forward(silu(self.norm1.forward(x.clone())));
        let shift = self.time_emb_proj.forward(embedding.clone());
        let h = h + shift.unsqueeze_dims::<4>(&[2, 3]);
        let h = self.conv2.forward(self.dropout.forward(silu(self.norm2.forward(h))));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + h,
            None => x + h,
        }
    }
}

/// A convolution of stride two.
#[derive(Module, Debug)]
pub(crate) struct Downsample2D {
    conv: Conv2d,
}

impl Downsample2D {
    fn new(channels: usize, plan: &Plan<'_>) -> Self {
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
    fn new(channels: usize, plan: &Plan<'_>) -> Self {
        Self { conv: conv3x3(channels, channels).init(plan.device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let twice = InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]);
        self.conv.forward(interpolate(x, twice))
    }
}

/// `DownBlock2D`, and with attention `AttnDownBlock2D`.
#[derive(Module, Debug)]
pub(crate) struct DownBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Attention>,
    downsamplers: Vec<Downsample2D>,
}

impl DownBlock {
    pub(crate) fn new(
        channels: [usize; 2],
        layers: usize,
        attention: bool,
        downsample: bool,
        plan: &Plan<'_>,
    ) -> Self {
        let [channels_in, channels] = channels;
        Self {
            resnets: (0..layers)
                .map(|j| ResnetBlock2D::new(if j == 0 { channels_in } else { channels }, channels, plan))
                .collect(),
            attentions: plan.attentions(attention, layers, channels),
            downsamplers: downsample.then(|| Downsample2D::new(channels, plan)).into_iter().collect(),
        }
    }

    /// Pushes the output of every layer to `skips`.
    pub(crate) fn forward(
        &self,
        name: &str,
        mut x: Tensor<4>,
        embedding: &Tensor<2>,
        skips: &mut Vec<Tensor<4>>,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = trace.map(format_args!("{name}.resnets.{j}"), x, |x| resnet.forward(x, embedding));
            if let Some(attention) = self.attentions.get(j) {
                x = trace.map(format_args!("{name}.attentions.{j}"), x, |x| attention.forward_map(x));
            }
            skips.push(x.clone());
        }
        for (j, downsampler) in self.downsamplers.iter().enumerate() {
            x = trace.map(format_args!("{name}.downsamplers.{j}"), x, |x| downsampler.conv.forward(x));
            skips.push(x.clone());
        }
        x
    }

    pub(crate) fn blocks(&self, name: &str, names: &mut Vec<String>) {
        layer_names(name, self.resnets.len(), self.attentions.len(), names);
        names.extend((0..self.downsamplers.len()).map(|j| format!("{name}.downsamplers.{j}")));
    }
}

/// `UNetMidBlock2D`: two residual blocks with attention, unless switched off, between them.
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock2D>,
}

impl MidBlock {
    pub(crate) fn new(channels: usize, attention: bool, plan: &Plan<'_>) -> Self {
        Self {
            attentions: plan.attentions(attention, 1, channels),
            resnets: (0..2).map(|_| ResnetBlock2D::new(channels, channels, plan)).collect(),
        }
    }

    pub(crate) fn forward(
        &self,
        mut x: Tensor<4>,
        embedding: &Tensor<2>,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = trace.map(format_args!("mid_block.resnets.{j}"), x, |x| resnet.forward(x, embedding));
            if let Some(attention) = self.attentions.get(j) {
                x = trace.map(format_args!("mid_block.attentions.{j}"), x, |x| attention.forward_map(x));
            }
        }
        x
    }

    pub(crate) fn blocks(&self, names: &mut Vec<String>) {
        layer_names("mid_block", self.resnets.len(), self.attentions.len(), names);
    }
}

/// `UpBlock2D`, and with attention `AttnUpBlock2D`.
#[derive(Module, Debug)]
pub(crate) struct UpBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Attention>,
    upsamplers: Vec<Upsample2D>,
}

impl UpBlock {
    /// `skips`: the channels of the feature maps that the layers take from the way down, in the order
    /// in which they take them; there is one layer for each.
    pub(crate) fn new(
        channels: [usize; 2],
        skips: &[usize],
        attention: bool,
        upsample: bool,
        plan: &Plan<'_>,
    ) -> Self {
        let [channels_in, channels] = channels;
        Self {
            resnets: skips
                .iter()
                .enumerate()
                .map(|(j, skip)| {
                    ResnetBlock2D::new(if j == 0 { channels_in } else { channels } + skip, channels, plan)
                })
                .collect(),
            attentions: plan.attentions(attention, skips.len(), channels),
            upsamplers: upsample.then(|| Upsample2D::new(channels, plan)).into_iter().collect(),
        }
    }

    /// Takes one of `skips` per layer, last in first out.
    pub(crate) fn forward(
        &self,
        name: &str,
        mut x: Tensor<4>,
        embedding: &Tensor<2>,
        skips: &mut Vec<Tensor<4>>,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = Tensor::cat([x].into_iter().chain(skips.pop()).collect(), 1);
            x = trace.map(format_args!("{name}.resnets.{j}"), x, |x| resnet.forward(x, embedding));
            if let Some(attention) = self.attentions.get(j) {
                x = trace.map(format_args!("{name}.attentions.{j}"), x, |x| attention.forward_map(x));
            }
        }
        for (j, upsampler) in self.upsamplers.iter().enumerate() {
            x = trace.map(format_args!("{name}.upsamplers.{j}"), x, |x| upsampler.forward(x));
        }
        x
    }

    pub(crate) fn blocks(&self, name: &str, names: &mut Vec<String>) {
        layer_names(name, self.resnets.len(), self.attentions.len(), names);
        names.extend((0..self.upsamplers.len()).map(|j| format!("{name}.upsamplers.{j}")));
    }
}

/// The names of a block's layers, in the order in which they run.
fn layer_names(name: &str, resnets: usize, attentions: usize, names: &mut Vec<String>) {
    for j in 0..resnets {
        names.push(format!("{name}.resnets.{j}"));
        if j < attentions {
            names.push(format!("{name}.attentions.{j}"));
        }
    }
}
