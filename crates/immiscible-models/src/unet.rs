use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm, Initializer};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::checks::{epsilon, only, positive, probability};
use crate::hook::Trace;
use crate::time::{TimestepEmbedding, sinusoid};
use crate::unet_blocks::{DownBlock, MidBlock, Plan, UpBlock, conv3x3};
use crate::{Condition, Ctx, Denoiser, ModelError, Output, TimeInput};

/// Settings of a [`UNet2DModel`]: the fields and defaults of its `config.json` in diffusers.
///
/// Fields that this crate supports in one value only are there so that such a file can be read and
/// written; [`validate`](Self::validate) refuses every other value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConfig {
    /// Height and width of the images. The network takes others too, if the way down divides them.
    pub sample_size: Option<usize>,
    /// Channels of x_t.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Must be `false`: images arrive in [−1, 1].
    pub center_input_sample: bool,
    /// Must be `"positional"`.
    pub time_embedding_type: String,
    /// Width of the embedding; four times the first of `block_out_channels` if absent.
    pub time_embedding_dim: Option<usize>,
    /// Subtracted from the number of frequencies of the time embedding: 1 in Ho et al. (2020).
    pub freq_shift: usize,
    /// Whether the cosines of the time embedding come before its sines.
    pub flip_sin_to_cos: bool,
    /// One per resolution, from the images down.
    pub down_block_types: Vec<DownBlockType>,
    /// Must be `"UNetMidBlock2D"`.
    pub mid_block_type: Option<String>,
    /// One per resolution, from the lowest up.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels per resolution, from the images down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per resolution on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Must be 1.
    pub mid_block_scale_factor: f64,
    /// Padding of the convolutions that halve the resolution: 1, or 0 to pad on one side only, as
    /// Ho et al. (2020) did.
    pub downsample_padding: usize,
    /// Must be `"conv"`.
    pub downsample_type: String,
    /// Must be `"conv"`.
    pub upsample_type: String,
    /// Probability of dropout inside the residual blocks, in [0, 1).
    pub dropout: f64,
    /// Must be `"silu"`.
    pub act_fn: String,
    /// Channels per attention head; one head if absent.
    pub attention_head_dim: Option<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Must be absent.
    pub attn_norm_num_groups: Option<usize>,
    /// ε of every group norm.
    pub norm_eps: f64,
    /// Must be `"default"`.
    pub resnet_time_scale_shift: String,
    /// Whether the middle block has attention.
    pub add_attention: bool,
    /// Must be absent.
    pub class_embed_type: Option<String>,
    /// Rows of the class embedding: the classes, and one more where guidance needs a null class.
    /// The network is unconditional if absent.
    pub num_class_embeds: Option<usize>,
    /// Must be absent.
    pub num_train_timesteps: Option<usize>,
}

/// A resolution of the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by attention.
    AttnDownBlock2D,
}

/// A resolution of the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by attention.
    AttnUpBlock2D,
}

impl Default for UNet2DConfig {
    fn default() -> Self {
        use DownBlockType::{AttnDownBlock2D, DownBlock2D};
        use UpBlockType::{AttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: "positional".into(),
            time_embedding_dim: None,
            freq_shift: 0,
            flip_sin_to_cos: true,
            down_block_types: vec![DownBlock2D, AttnDownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
            mid_block_type: Some("UNetMidBlock2D".into()),
            up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: "conv".into(),
            upsample_type: "conv".into(),
            dropout: 0.0,
            act_fn: "silu".into(),
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: "default".into(),
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

impl UNet2DConfig {
    /// The smallest network with every kind of block, for tests and first runs: 3×8×8 images,
    /// 10 classes and the null class.
    pub fn tiny() -> Self {
        Self {
            sample_size: Some(8),
            down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
            up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
            block_out_channels: vec![8, 16],
            layers_per_block: 1,
            norm_num_groups: 4,
            num_class_embeds: Some(11),
            ..Self::default()
        }
    }

    /// By how much height and width shrink on the way down.
    pub(crate) fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(31)
    }

    fn embedding_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        only("center_input_sample", &self.center_input_sample, &false)?;
        only("time_embedding_type", self.time_embedding_type.as_str(), "positional")?;
        only("mid_block_type", &self.mid_block_type.as_deref(), &Some("UNetMidBlock2D"))?;
        only("mid_block_scale_factor", &self.mid_block_scale_factor, &1.0)?;
        only("downsample_type", self.downsample_type.as_str(), "conv")?;
        only("upsample_type", self.upsample_type.as_str(), "conv")?;
        only("act_fn", self.act_fn.as_str(), "silu")?;
        only("attn_norm_num_groups", &self.attn_norm_num_groups, &None)?;
        only("resnet_time_scale_shift", self.resnet_time_scale_shift.as_str(), "default")?;
        only("class_embed_type", &self.class_embed_type.as_deref(), &None)?;
        only("num_train_timesteps", &self.num_train_timesteps, &None)?;

        positive("in_channels", self.in_channels)?;
        positive("out_channels", self.out_channels)?;
        positive("layers_per_block", self.layers_per_block)?;
        positive("norm_num_groups", self.norm_num_groups)?;
        for &channels in &self.block_out_channels {
            positive("block_out_channels", channels)?;
        }
        for (field, value) in [
            ("sample_size", self.sample_size),
            ("time_embedding_dim", self.time_embedding_dim),
            ("attention_head_dim", self.attention_head_dim),
            ("num_class_embeds", self.num_class_embeds),
        ] {
            value.map_or(Ok(()), |value| positive(field, value))?;
        }
        probability("dropout", self.dropout)?;
        epsilon("norm_eps", self.norm_eps)?;
        if self.downsample_padding > 1 {
            return Err(ModelError::config("downsample_padding", &self.downsample_padding, "use 0 or 1"));
        }

        let channels = &self.block_out_channels;
        let resolutions = channels.len();
        if resolutions == 0 {
            return Err(ModelError::config(
                "block_out_channels",
                channels,
                "name the channels of at least one resolution",
            ));
        }
        let same_length = format!("name {resolutions}, one for each of block_out_channels");
        if self.down_block_types.len() != resolutions {
            return Err(ModelError::config("down_block_types", &self.down_block_types, same_length));
        }
        if self.up_block_types.len() != resolutions {
            return Err(ModelError::config("up_block_types", &self.up_block_types, same_length));
        }
        let groups = self.norm_num_groups;
        if channels.iter().any(|&c| c == 0 || !c.is_multiple_of(groups)) {
            let remedy = format!("use multiples of norm_num_groups = {groups}, or change that");
            return Err(ModelError::config("block_out_channels", channels, remedy));
        }
        if let Some(dim) = self.attention_head_dim
            && let Some(c) = self.attention_channels().find(|c| !c.is_multiple_of(dim))
        {
            let remedy = format!("attention runs on {c} channels, which it does not divide; use a divisor");
            return Err(ModelError::config("attention_head_dim", &dim, remedy));
        }
        if !channels[0].is_multiple_of(2) || channels[0] / 2 <= self.freq_shift {
            let remedy = format!(
                "the time embedding needs an even first number above 2 × freq_shift = {}",
                2 * self.freq_shift
            );
            return Err(ModelError::config("block_out_channels", channels, remedy));
        }
        if let Some(size) = self.sample_size
            && !size.is_multiple_of(self.downsampling())
        {
            let remedy = format!(
                "{resolutions} resolutions need a multiple of {}; use fewer, or pad the images",
                self.downsampling()
            );
            return Err(ModelError::config("sample_size", &size, remedy));
        }
        Ok(())
    }

    /// The channels attention runs on, wherever it does.
    fn attention_channels(&self) -> impl Iterator<Item = usize> {
        let channels = &self.block_out_channels;
        let down = self.down_block_types.iter().map(|kind| *kind == DownBlockType::AttnDownBlock2D);
        let up = self.up_block_types.iter().map(|kind| *kind == UpBlockType::AttnUpBlock2D);
        let mid = channels.last().filter(|_| self.add_attention);
        let down = channels.iter().zip(down).filter(|(_, attends)| *attends).map(|(c, _)| c);
        let up = channels.iter().rev().zip(up).filter(|(_, attends)| *attends).map(|(c, _)| c);
        down.chain(mid).chain(up).copied()
    }
}

/// The UNet of Ho et al. (2020), <https://arxiv.org/abs/2006.11239>, as diffusers builds it.
///
/// The embedding of the time, plus that of the class where there is one, shifts every residual block.
/// [`Condition::None`] adds no class embedding; a network without one ignores the class.
///
/// # Initial weights
/// PyTorch's defaults, with zeros in the last convolution of every residual block, in the projection
/// that ends every attention and in `conv_out` (Ho et al. 2020; Dhariwal & Nichol 2021): the prediction
/// starts at 0. Loading weights replaces all of them.
#[derive(Module, Debug)]
pub struct UNet2DModel {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<Embedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    flip_sin_to_cos: bool,
    freq_shift: usize,
}

impl UNet2DModel {
    /// A network with valid settings.
    pub(crate) fn new(config: &UNet2DConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let embedding = config.embedding_width();
        let plan = Plan {
            embedding,
            groups: config.norm_num_groups,
            eps: config.norm_eps,
            dropout: config.dropout,
            head_dim: config.attention_head_dim,
            downsample_padding: config.downsample_padding,
            device,
        };

        // The channels of everything the way down leaves for the way up.
        let mut skips = vec![first];
        let mut x = first;
        let mut down_blocks = Vec::new();
        for (i, (&c, kind)) in channels.iter().zip(&config.down_block_types).enumerate() {
            let downsample = i + 1 < channels.len();
            let attention = *kind == DownBlockType::AttnDownBlock2D;
            down_blocks.push(DownBlock::new([x, c], config.layers_per_block, attention, downsample, &plan));
            skips.extend(vec![c; config.layers_per_block + usize::from(downsample)]);
            x = c;
        }
        let mut up_blocks = Vec::new();
        for (i, (&c, kind)) in channels.iter().rev().zip(&config.up_block_types).enumerate() {
            let upsample = i + 1 < channels.len();
            let attention = *kind == UpBlockType::AttnUpBlock2D;
            let taken: Vec<usize> = skips.drain(skips.len() - config.layers_per_block - 1..).rev().collect();
            up_blocks.push(UpBlock::new([x, c], &taken, attention, upsample, &plan));
            x = c;
        }

        Self {
            conv_in: conv3x3(config.in_channels, first).init(device),
            time_embedding: TimestepEmbedding::new(first, embedding, |linear| linear.init(device)),
            class_embedding: config
                .num_class_embeds
                .map(|rows| EmbeddingConfig::new(rows, embedding).init(device)),
            down_blocks,
            mid_block: MidBlock::new(last, config.add_attention, &plan),
            up_blocks,
            conv_norm_out: plan.norm(first),
            conv_out: conv3x3(first, config.out_channels).with_initializer(Initializer::Zeros).init(device),
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        }
    }

    /// The embedding of time and class, `[B, D]`.
    fn embed(&self, t: TimeInput, condition: &Condition, trace: &mut Trace<'_>) -> Tensor<2> {
        let [first, ..] = self.conv_in.weight.dims();
        let sinusoid = sinusoid(t.u, first, self.flip_sin_to_cos, self.freq_shift);
        let time = trace.vector(format_args!("time_embedding"), sinusoid, |x| self.time_embedding.forward(x));
        match (&self.class_embedding, condition) {
            (Some(table), Condition::Class(labels)) => {
                let row = table.forward(labels.clone().unsqueeze_dim(1)).squeeze_dim(1);
                time + trace.vector(format_args!("class_embedding"), row, |x| x)
            }
            _ => time,
        }
    }

    /// The names of the blocks, in the order in which they run.
    pub(crate) fn blocks(&self) -> Vec<String> {
        let mut names = vec!["time_embedding".to_owned()];
        names.extend(self.class_embedding.iter().map(|_| "class_embedding".to_owned()));
        names.push("conv_in".into());
        for (i, block) in self.down_blocks.iter().enumerate() {
            block.blocks(&format!("down_blocks.{i}"), &mut names);
        }
        self.mid_block.blocks(&mut names);
        for (i, block) in self.up_blocks.iter().enumerate() {
            block.blocks(&format!("up_blocks.{i}"), &mut names);
        }
        names.push("conv_out".into());
        names
    }
}

impl Denoiser for UNet2DModel {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        let trace = &mut Trace::new(ctx);
        // Every residual block starts with the SiLU of the same embedding.
        let embedding = silu(self.embed(t, condition, trace));

        let mut x = trace.map(format_args!("conv_in"), x, |x| self.conv_in.forward(x));
        let mut skips = vec![x.clone()];
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(&format!("down_blocks.{i}"), x, &embedding, &mut skips, trace);
        }
        x = self.mid_block.forward(x, &embedding, trace);
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(&format!("up_blocks.{i}"), x, &embedding, &mut skips, trace);
        }
        let pred = trace
            .map(format_args!("conv_out"), x, |x| self.conv_out.forward(silu(self.conv_norm_out.forward(x))));
        trace.output(pred)
    }
}
