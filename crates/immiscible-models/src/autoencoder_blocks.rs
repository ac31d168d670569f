//! The blocks of [`AutoencoderKL`](crate::AutoencoderKL), with the field names of its weights.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use crate::ActFn;
use crate::AutoencoderKLConfig;
use crate::attention::Attention;
use crate::convolution::Convolve;
use crate::group_norm::Normalize;
use crate::hook::Trace;
use crate::resnet::{Downsample2D, Plan, ResnetBlock2D, Upsample2D, conv3x3};

/// `DownEncoderBlock2D`, `UNetMidBlock2D` and `UpDecoderBlock2D`: residual blocks, in the middle one with attention after
/// the first, and a change of resolution.
#[derive(Module, Debug)]
struct Stage {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Attention>,
    downsamplers: Vec<Downsample2D>,
    upsamplers: Vec<Upsample2D>,
}

impl Stage {
    /// Residual blocks only; `channels` before and after them.
    fn new(channels: [usize; 2], layers: usize, plan: &Plan<'_>) -> Self {
        let [channels_in, channels] = channels;
        Self {
            resnets: (0..layers)
                .map(|j| ResnetBlock2D::new(if j == 0 { channels_in } else { channels }, channels, plan))
                .collect(),
            attentions: Vec::new(),
            downsamplers: Vec::new(),
            upsamplers: Vec::new(),
        }
    }

    fn mid(channels: usize, attention: bool, plan: &Plan<'_>) -> Self {
        let attentions = attention.then(|| plan.attention(channels)).into_iter().collect();
        Self { attentions, ..Self::new([channels, channels], 2, plan) }
    }

    fn forward(&self, name: &str, mut x: Tensor<4>, trace: &mut Trace<'_>) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = trace.map(format_args!("{name}.resnets.{j}"), x, |x| resnet.forward(x, None));
            if let Some(attention) = self.attentions.get(j) {
                x = trace.map(format_args!("{name}.attentions.{j}"), x, |x| attention.forward_map(x));
            }
        }
        for (j, downsampler) in self.downsamplers.iter().enumerate() {
            x = trace.map(format_args!("{name}.downsamplers.{j}"), x, |x| downsampler.conv.convolve(x));
        }
        for (j, upsampler) in self.upsamplers.iter().enumerate() {
            x = trace.map(format_args!("{name}.upsamplers.{j}"), x, |x| upsampler.forward(x));
        }
        x
    }

    fn blocks(&self, name: &str, names: &mut Vec<String>) {
        for j in 0..self.resnets.len() {
            names.push(format!("{name}.resnets.{j}"));
            if j < self.attentions.len() {
                names.push(format!("{name}.attentions.{j}"));
            }
        }
        names.extend((0..self.downsamplers.len()).map(|j| format!("{name}.downsamplers.{j}")));
        names.extend((0..self.upsamplers.len()).map(|j| format!("{name}.upsamplers.{j}")));
    }
}

/// From images to the moments of their posterior, before `quant_conv`.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Stage>,
    mid_block: Stage,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(crate) fn new(config: &AutoencoderKLConfig, plan: &Plan<'_>) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut down_blocks = Vec::new();
        let mut x = first;
        for (i, &c) in channels.iter().enumerate() {
            let mut block = Stage::new([x, c], config.layers_per_block, plan);
            if i + 1 < channels.len() {
                block.downsamplers.push(Downsample2D::new(c, plan));
            }
            down_blocks.push(block);
            x = c;
        }
        Self {
            conv_in: conv3x3(config.in_channels, first).init(plan.device),
            down_blocks,
            mid_block: Stage::mid(last, config.mid_block_add_attention, plan),
            conv_norm_out: plan.norm(last),
            // A mean and a log-variance per latent channel.
            conv_out: conv3x3(last, 2 * config.latent_channels).init(plan.device),
        }
    }

    /// # Shapes
    /// `[B, in_channels, H, W]` → `[B, 2·latent_channels, H/f, W/f]`
    pub(crate) fn forward(&self, x: Tensor<4>, trace: &mut Trace<'_>) -> Tensor<4> {
        let mut x = trace.map(format_args!("encoder.conv_in"), x, |x| self.conv_in.convolve(x));
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(&format!("encoder.down_blocks.{i}"), x, trace);
        }
        x = self.mid_block.forward("encoder.mid_block", x, trace);
        trace.map(format_args!("encoder.conv_out"), x, |x| {
            self.conv_out.convolve(self.conv_norm_out.normalize(x, Some(ActFn::Silu)))
        })
    }

    pub(crate) fn blocks(&self, names: &mut Vec<String>) {
        names.push("encoder.conv_in".into());
        for (i, block) in self.down_blocks.iter().enumerate() {
            block.blocks(&format!("encoder.down_blocks.{i}"), names);
        }
        self.mid_block.blocks("encoder.mid_block", names);
        names.push("encoder.conv_out".into());
    }
}

/// From latents, after `post_quant_conv`, to images.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    conv_in: Conv2d,
    mid_block: Stage,
    up_blocks: Vec<Stage>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(crate) fn new(config: &AutoencoderKLConfig, plan: &Plan<'_>) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut up_blocks = Vec::new();
        let mut x = last;
        for (i, &c) in channels.iter().rev().enumerate() {
            let mut block = Stage::new([x, c], config.layers_per_block + 1, plan);
            if i + 1 < channels.len() {
                block.upsamplers.push(Upsample2D::new(c, plan));
            }
            up_blocks.push(block);
            x = c;
        }
        Self {
            conv_in: conv3x3(config.latent_channels, last).init(plan.device),
            mid_block: Stage::mid(last, config.mid_block_add_attention, plan),
            up_blocks,
            conv_norm_out: plan.norm(first),
            conv_out: conv3x3(first, config.out_channels).init(plan.device),
        }
    }

    /// # Shapes
    /// `[B, latent_channels, h, w]` → `[B, out_channels, h·f, w·f]`
    pub(crate) fn forward(&self, z: Tensor<4>, trace: &mut Trace<'_>) -> Tensor<4> {
        let mut x = trace.map(format_args!("decoder.conv_in"), z, |z| self.conv_in.convolve(z));
        x = self.mid_block.forward("decoder.mid_block", x, trace);
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(&format!("decoder.up_blocks.{i}"), x, trace);
        }
        trace.map(format_args!("decoder.conv_out"), x, |x| {
            self.conv_out.convolve(self.conv_norm_out.normalize(x, Some(ActFn::Silu)))
        })
    }

    pub(crate) fn blocks(&self, names: &mut Vec<String>) {
        names.push("decoder.conv_in".into());
        self.mid_block.blocks("decoder.mid_block", names);
        for (i, block) in self.up_blocks.iter().enumerate() {
            block.blocks(&format!("decoder.up_blocks.{i}"), names);
        }
        names.push("decoder.conv_out".into());
    }
}
