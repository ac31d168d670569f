//! The blocks of [`UNet2DModel`](crate::UNet2DModel) and
//! [`UNet2DConditionModel`](crate::UNet2DConditionModel), with the field names of their weights.

use std::fmt::Arguments;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::convolution::Convolve;
use crate::group_norm::Normalize;
use crate::hook::{Feature, Trace};
use crate::resnet::{ActFn, Downsample2D, Plan, Resample, ResnetBlock2D, Upsample2D};
use crate::transformer_2d::{Transformer2DModel, TransformerPlan};

/// What changes the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResampleType {
    /// A convolution.
    Conv,
    /// A residual block (Dhariwal & Nichol 2021, §3).
    Resnet,
}

/// One resolution on the way down or up.
#[derive(Clone, Copy)]
pub(crate) struct BlockPlan {
    pub(crate) channels: usize,
    pub(crate) layers: usize,
    pub(crate) attention: AttentionPlan,
    pub(crate) resample: ResampleType,
}

/// What follows the residual blocks of a resolution.
#[derive(Clone, Copy)]
pub(crate) enum AttentionPlan {
    None,
    /// Attention between pixels, after a group norm unless there are no groups.
    Pixels {
        groups: Option<usize>,
    },
    /// A transformer that attends to a text.
    Text(TransformerPlan),
}

impl AttentionPlan {
    fn init(&self, layers: usize, channels: usize, plan: &Plan<'_>) -> Vec<SpatialAttention> {
        let attention = || match self {
            Self::None => None,
            Self::Pixels { groups } => Some(SpatialAttention::Pixels(Attention {
                group_norm: groups.map(|groups| {
                    GroupNormConfig::new(groups, channels).with_epsilon(plan.eps).init(plan.device)
                }),
                ..plan.attention(channels)
            })),
            Self::Text(transformer) => {
                Some(SpatialAttention::Text(Transformer2DModel::new(channels, transformer, plan)))
            }
        };
        (0..layers).filter_map(|_| attention()).collect()
    }
}

/// The blocks of both ways: `down` from the images down, `up` from the lowest resolution up, where a
/// resolution has one layer for each feature map that the way down leaves for it.
pub(crate) fn ways(down: &[BlockPlan], up: &[BlockPlan], plan: &Plan<'_>) -> (Vec<DownBlock>, Vec<UpBlock>) {
    let mut x = down.first().map_or(0, |block| block.channels);
    // The channels of everything the way down leaves for the way up.
    let mut skips = vec![x];
    let mut down_blocks = Vec::new();
    for (i, block) in down.iter().enumerate() {
        let downsample = i + 1 < down.len();
        down_blocks.push(DownBlock::new(x, block, downsample, plan));
        x = block.channels;
        skips.extend(vec![x; block.layers + usize::from(downsample)]);
    }
    let mut up_blocks = Vec::new();
    for (i, block) in up.iter().enumerate() {
        let taken: Vec<usize> = skips.drain(skips.len() - block.layers..).rev().collect();
        up_blocks.push(UpBlock::new(x, &taken, block, i + 1 < up.len(), plan));
        x = block.channels;
    }
    (down_blocks, up_blocks)
}

/// One forward pass: what every layer receives next to its feature maps.
pub(crate) struct Pass<'a, 'b> {
    pub(crate) trace: &'b mut Trace<'a>,
    /// `[B, D]`, after its activation.
    pub(crate) embedding: Tensor<2>,
    /// `[B, N, D]`, where something attends to it.
    pub(crate) text: Option<Tensor<3>>,
}

impl Pass<'_, '_> {
    fn resnet(&mut self, name: Arguments<'_>, x: Tensor<4>, resnet: &ResnetBlock2D, scale: f64) -> Tensor<4> {
        let embedding = Some(&self.embedding);
        self.trace.map(name, x, |x| shrunk(resnet.forward(x, embedding), scale))
    }

    fn attention(
        &mut self,
        name: Arguments<'_>,
        x: Tensor<4>,
        attention: &SpatialAttention,
        scale: f64,
    ) -> Tensor<4> {
        let text = self.text.as_ref();
        let run = |trace: &mut Trace<'_>, x: Tensor<4>| match (attention, text) {
            (SpatialAttention::Pixels(attention), _) => shrunk(attention.forward_map(x), scale),
            (SpatialAttention::Text(transformer), Some(text)) => {
                transformer.forward(&name.to_string(), x, text, trace)
            }
            // Networks with transformers always have a text.
            (SpatialAttention::Text(_), None) => x,
        };
        self.trace.block(name, Feature::Map(x), |trace, x| Feature::Map(run(trace, x.into_map()))).into_map()
    }
}

fn shrunk(x: Tensor<4>, scale: f64) -> Tensor<4> {
    if scale == 1.0 { x } else { x / scale }
}

/// The parts of a UNet between its embeddings and its prediction.
pub(crate) struct Body<'a> {
    pub(crate) conv_in: &'a Conv2d,
    pub(crate) down_blocks: &'a [DownBlock],
    pub(crate) mid_block: Option<&'a MidBlock>,
    pub(crate) up_blocks: &'a [UpBlock],
    pub(crate) conv_norm_out: &'a GroupNorm,
    pub(crate) act: ActFn,
    pub(crate) conv_out: &'a Conv2d,
}

impl Body<'_> {
    /// Down, through the middle and up again, past the feature maps that the way down left.
    pub(crate) fn forward(&self, x: Tensor<4>, pass: &mut Pass<'_, '_>) -> Tensor<4> {
        let mut x = pass.trace.map(format_args!("conv_in"), x, |x| self.conv_in.convolve(x));
        let mut skips = vec![x.clone()];
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(&format!("down_blocks.{i}"), x, &mut skips, pass);
        }
        if let Some(block) = self.mid_block {
            x = block.forward(x, pass);
        }
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(&format!("up_blocks.{i}"), x, &mut skips, pass);
        }
        pass.trace.map(format_args!("conv_out"), x, |x| {
            self.conv_out.convolve(self.conv_norm_out.normalize(x, Some(self.act)))
        })
    }

    /// The names of the blocks, in the order in which they begin.
    pub(crate) fn blocks(&self, names: &mut Vec<String>) {
        names.push("conv_in".into());
        for (i, block) in self.down_blocks.iter().enumerate() {
            block.blocks(&format!("down_blocks.{i}"), names);
        }
        if let Some(block) = self.mid_block {
            layer_names("mid_block", block.resnets.len(), &block.attentions, names);
        }
        for (i, block) in self.up_blocks.iter().enumerate() {
            block.blocks(&format!("up_blocks.{i}"), names);
        }
        names.push("conv_out".into());
    }
}

/// Attention between pixels, or a transformer that attends to a text too.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "they are made once, and not moved")]
pub(crate) enum SpatialAttention {
    Pixels(Attention),
    Text(Transformer2DModel),
}

/// What halves the resolution.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has a few of them")]
enum Downsampler {
    Conv(Downsample2D),
    Resnet(ResnetBlock2D),
}

/// What doubles the resolution.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has a few of them")]
enum Upsampler {
    Conv(Upsample2D),
    Resnet(ResnetBlock2D),
}

/// A resolution on the way down: residual blocks, perhaps each followed by attention.
#[derive(Module, Debug)]
pub(crate) struct DownBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<SpatialAttention>,
    downsamplers: Vec<Downsampler>,
}

impl DownBlock {
    fn new(channels_in: usize, block: &BlockPlan, downsample: bool, plan: &Plan<'_>) -> Self {
        let channels = block.channels;
        let downsampler = || match block.resample {
            ResampleType::Conv => Downsampler::Conv(Downsample2D::new(channels, plan)),
            ResampleType::Resnet => {
                Downsampler::Resnet(ResnetBlock2D::resampling(channels, Resample::Down, plan))
            }
        };
        Self {
            resnets: (0..block.layers)
                .map(|j| ResnetBlock2D::new(if j == 0 { channels_in } else { channels }, channels, plan))
                .collect(),
            attentions: block.attention.init(block.layers, channels, plan),
            downsamplers: downsample.then(downsampler).into_iter().collect(),
        }
    }

    /// Pushes the output of every layer to `skips`.
    fn forward(
        &self,
        name: &str,
        mut x: Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        pass: &mut Pass<'_, '_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = pass.resnet(format_args!("{name}.resnets.{j}"), x, resnet, 1.0);
            if let Some(attention) = self.attentions.get(j) {
                x = pass.attention(format_args!("{name}.attentions.{j}"), x, attention, 1.0);
            }
            skips.push(x.clone());
        }
        for (j, downsampler) in self.downsamplers.iter().enumerate() {
            let embedding = Some(&pass.embedding);
            x = pass.trace.map(format_args!("{name}.downsamplers.{j}"), x, |x| match downsampler {
                Downsampler::Conv(down) => down.conv.convolve(x),
                Downsampler::Resnet(resnet) => resnet.forward(x, embedding),
            });
            skips.push(x.clone());
        }
        x
    }

    fn blocks(&self, name: &str, names: &mut Vec<String>) {
        layer_names(name, self.resnets.len(), &self.attentions, names);
        names.extend((0..self.downsamplers.len()).map(|j| format!("{name}.downsamplers.{j}")));
    }
}

/// The middle: residual blocks with attention, unless there is none, between them.
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    attentions: Vec<SpatialAttention>,
    resnets: Vec<ResnetBlock2D>,
    /// What residual blocks and attention between pixels return is divided by it.
    scale: f64,
}

impl MidBlock {
    pub(crate) fn new(
        channels: usize,
        resnets: usize,
        attention: &AttentionPlan,
        scale: f64,
        plan: &Plan<'_>,
    ) -> Self {
        Self {
            attentions: attention.init(resnets - 1, channels, plan),
            resnets: (0..resnets).map(|_| ResnetBlock2D::new(channels, channels, plan)).collect(),
            scale,
        }
    }

    fn forward(&self, mut x: Tensor<4>, pass: &mut Pass<'_, '_>) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = pass.resnet(format_args!("mid_block.resnets.{j}"), x, resnet, self.scale);
            if let Some(attention) = self.attentions.get(j) {
                x = pass.attention(format_args!("mid_block.attentions.{j}"), x, attention, self.scale);
            }
        }
        x
    }
}

/// A resolution on the way up: residual blocks, perhaps each followed by attention.
#[derive(Module, Debug)]
pub(crate) struct UpBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<SpatialAttention>,
    upsamplers: Vec<Upsampler>,
}

impl UpBlock {
    /// `skips`: the channels of the feature maps that the layers take from the way down, in the order
    /// in which they take them; there is one layer for each.
    fn new(channels_in: usize, skips: &[usize], block: &BlockPlan, upsample: bool, plan: &Plan<'_>) -> Self {
        let channels = block.channels;
        let upsampler = || match block.resample {
            ResampleType::Conv => Upsampler::Conv(Upsample2D::new(channels, plan)),
            ResampleType::Resnet => {
                Upsampler::Resnet(ResnetBlock2D::resampling(channels, Resample::Up, plan))
            }
        };
        Self {
            resnets: skips
                .iter()
                .enumerate()
                .map(|(j, skip)| {
                    ResnetBlock2D::new(if j == 0 { channels_in } else { channels } + skip, channels, plan)
                })
                .collect(),
            attentions: block.attention.init(skips.len(), channels, plan),
            upsamplers: upsample.then(upsampler).into_iter().collect(),
        }
    }

    /// Takes one of `skips` per layer, last in first out.
    fn forward(
        &self,
        name: &str,
        mut x: Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        pass: &mut Pass<'_, '_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = Tensor::cat([x].into_iter().chain(skips.pop()).collect(), 1);
            x = pass.resnet(format_args!("{name}.resnets.{j}"), x, resnet, 1.0);
            if let Some(attention) = self.attentions.get(j) {
                x = pass.attention(format_args!("{name}.attentions.{j}"), x, attention, 1.0);
            }
        }
        for (j, upsampler) in self.upsamplers.iter().enumerate() {
            let embedding = Some(&pass.embedding);
            x = pass.trace.map(format_args!("{name}.upsamplers.{j}"), x, |x| match upsampler {
                Upsampler::Conv(up) => up.forward(x),
                Upsampler::Resnet(resnet) => resnet.forward(x, embedding),
            });
        }
        x
    }

    fn blocks(&self, name: &str, names: &mut Vec<String>) {
        layer_names(name, self.resnets.len(), &self.attentions, names);
        names.extend((0..self.upsamplers.len()).map(|j| format!("{name}.upsamplers.{j}")));
    }
}

/// The names of a block's layers, in the order in which they begin.
fn layer_names(name: &str, resnets: usize, attentions: &[SpatialAttention], names: &mut Vec<String>) {
    for j in 0..resnets {
        names.push(format!("{name}.resnets.{j}"));
        if let Some(attention) = attentions.get(j) {
            let name = format!("{name}.attentions.{j}");
            names.push(name.clone());
            if let SpatialAttention::Text(transformer) = attention {
                transformer.blocks(&name, names);
            }
        }
    }
}
