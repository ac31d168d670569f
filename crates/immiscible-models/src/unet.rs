use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Initializer};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::checks::positive;
use crate::hook::Trace;
use crate::resnet::{ActFn, Plan, TimeScaleShift, conv3x3};
use crate::time::TimestepEmbedding;
use crate::unet_blocks::{
    AttentionPlan, BlockPlan, Body, DownBlock, MidBlock, Pass, ResampleType, UpBlock, ways,
};
use crate::unet_embedding::{
    ClassEmbedType, ClassEmbedding, ClassPlan, Embedder, Sinusoid, TimeEmbeddingType, TimeProjection,
};
use crate::unet_frame::Frame;
use crate::{Condition, Ctx, Denoiser, ModelError, Output, TimeInput};

/// Settings of a [`UNet2DModel`]: the fields and defaults of its `config.json` in diffusers.
///
/// Blocks with the filters of NCSN++ (`SkipDownBlock2D` …), those of encoders and those named `K…` are not
/// there, and reading a file with them fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConfig {
    /// Height and width of the images. The network takes others too, if the way down divides them.
    pub sample_size: Option<usize>,
    /// Channels of x_t.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether images arrive in [0, 1] and the network maps them to [−1, 1].
    pub center_input_sample: bool,
    /// How the time is represented before it is embedded.
    pub time_embedding_type: TimeEmbeddingType,
    /// Width of the embedding; four times the first of `block_out_channels` if absent.
    pub time_embedding_dim: Option<usize>,
    /// Subtracted from the number of frequencies of the time embedding: 1 in Ho et al. (2020).
    pub freq_shift: usize,
    /// Whether the cosines of the time embedding come before its sines.
    pub flip_sin_to_cos: bool,
    /// One per resolution, from the images down.
    pub down_block_types: Vec<DownBlockType>,
    /// The block between both ways; none if absent.
    pub mid_block_type: Option<MidBlockType>,
    /// One per resolution, from the lowest up.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels per resolution, from the images down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per resolution on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// What the layers of the middle block return is divided by it.
    pub mid_block_scale_factor: f64,
    /// Padding of the convolutions that halve the resolution: 1, or 0 to pad on one side only, as
    /// Ho et al. (2020) did.
    pub downsample_padding: usize,
    /// What halves the resolution in blocks with attention; the others have it in their name.
    pub downsample_type: ResampleType,
    /// What doubles the resolution in blocks with attention; the others have it in their name.
    pub upsample_type: ResampleType,
    /// Probability of dropout inside the residual blocks, in [0, 1).
    pub dropout: f64,
    /// Of the residual blocks. That of the embeddings and of the last layer is SiLU.
    pub act_fn: ActFn,
    /// Channels per attention head; one head if absent.
    pub attention_head_dim: Option<usize>,
    /// Groups of every group norm but the one below.
    pub norm_num_groups: usize,
    /// Groups of the norm before the middle block's attention. If absent, they are `norm_num_groups`, or
    /// with `"scale_shift"` there is no norm.
    pub attn_norm_num_groups: Option<usize>,
    /// ε of every group norm.
    pub norm_eps: f64,
    /// What the embedding does inside the residual blocks.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the middle block has attention.
    pub add_attention: bool,
    /// How the class is embedded; by a table of `num_class_embeds` rows if absent.
    pub class_embed_type: Option<ClassEmbedType>,
    /// Rows of the class embedding: the classes, and one more where guidance needs a null class.
    /// The network is unconditional if absent. With `class_embed_type` = `"timestep"` there are no rows,
    /// and it only tells how many classes there are.
    pub num_class_embeds: Option<usize>,
    /// Rows of the table of times with `time_embedding_type` = `"learned"`, which must be 1000. Not used
    /// otherwise.
    pub num_train_timesteps: Option<usize>,
}

/// A resolution of the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by attention.
    AttnDownBlock2D,
    /// Residual blocks, and another one that halves the resolution.
    ResnetDownsampleBlock2D,
}

/// The block between the way down and the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlockType {
    /// Two residual blocks with attention, unless `add_attention` is off, between them.
    UNetMidBlock2D,
}

/// A resolution of the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by attention.
    AttnUpBlock2D,
    /// Residual blocks, and another one that doubles the resolution.
    ResnetUpsampleBlock2D,
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
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0,
            flip_sin_to_cos: true,
            down_block_types: vec![DownBlock2D, AttnDownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            dropout: 0.0,
            act_fn: ActFn::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
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

    fn embedding_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    fn class(&self) -> ClassPlan {
        ClassPlan { kind: self.class_embed_type, rows: self.num_class_embeds }
    }

    /// As [`NetworkConfig::class_rows`](crate::NetworkConfig::class_rows).
    pub(crate) fn class_rows(&self) -> Option<usize> {
        self.class().rows()
    }

    /// Groups of the norm before the middle block's attention; none if it has no norm.
    pub(crate) fn mid_groups(&self) -> Option<usize> {
        let without =
            (self.resnet_time_scale_shift == TimeScaleShift::Default).then_some(self.norm_num_groups);
        self.attn_norm_num_groups.or(without)
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        positive("layers_per_block", self.layers_per_block)?;
        for (field, value) in [
            ("attention_head_dim", self.attention_head_dim),
            ("attn_norm_num_groups", self.attn_norm_num_groups),
        ] {
            value.map_or(Ok(()), |value| positive(field, value))?;
        }
        let positional = self.time_embedding_type == TimeEmbeddingType::Positional;
        Frame {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            sample_size: self.sample_size,
            block_out_channels: &self.block_out_channels,
            down_block_types: &self.down_block_types,
            up_block_types: &self.up_block_types,
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            dropout: self.dropout,
            downsample_padding: self.downsample_padding,
            mid_block_scale_factor: self.mid_block_scale_factor,
            freq_shift: positional.then_some(self.freq_shift),
            time_embedding_dim: self.time_embedding_dim,
            num_class_embeds: self.num_class_embeds,
        }
        .validate()?;

        if let Some(dim) = self.attention_head_dim
            && let Some(c) = self.attention_channels().find(|c| !c.is_multiple_of(dim))
        {
            let remedy = format!("attention runs on {c} channels, which it does not divide; use a divisor");
            return Err(ModelError::config("attention_head_dim", &dim, remedy));
        }
        if let (Some(groups), Some(last)) = (self.attn_norm_num_groups, self.block_out_channels.last())
            && !last.is_multiple_of(groups)
        {
            let remedy = format!("the middle block has {last} channels; use a divisor");
            return Err(ModelError::config("attn_norm_num_groups", &groups, remedy));
        }
        if self.time_embedding_type == TimeEmbeddingType::Learned && self.num_train_timesteps != Some(TIMES) {
            let remedy =
                format!("a learned embedding of the time needs {TIMES}: times are 0 … {}", TIMES - 1);
            return Err(ModelError::config("num_train_timesteps", &self.num_train_timesteps, remedy));
        }
        if self.class_embed_type == Some(ClassEmbedType::Timestep) && !positional {
            let remedy = "the number of a class can be embedded like a time only if time_embedding_type is \
                          \"positional\"";
            return Err(ModelError::config("class_embed_type", &self.class_embed_type, remedy));
        }
        Ok(())
    }

    /// The channels attention runs on, wherever it does.
    fn attention_channels(&self) -> impl Iterator<Item = usize> {
        let channels = &self.block_out_channels;
        let down = self.down_block_types.iter().map(|kind| *kind == DownBlockType::AttnDownBlock2D);
        let up = self.up_block_types.iter().map(|kind| *kind == UpBlockType::AttnUpBlock2D);
        let mid = channels.last().filter(|_| self.add_attention && self.mid_block_type.is_some());
        let down = channels.iter().zip(down).filter(|(_, attends)| *attends).map(|(c, _)| c);
        let up = channels.iter().rev().zip(up).filter(|(_, attends)| *attends).map(|(c, _)| c);
        down.chain(mid).chain(up).copied()
    }

    pub(crate) fn down_plan(&self) -> Vec<BlockPlan> {
        let kinds = self.block_out_channels.iter().zip(&self.down_block_types);
        let plan = |(&channels, kind): (&usize, &DownBlockType)| {
            let (attends, resample) = match kind {
                DownBlockType::DownBlock2D => (false, ResampleType::Conv),
                DownBlockType::AttnDownBlock2D => (true, self.downsample_type),
                DownBlockType::ResnetDownsampleBlock2D => (false, ResampleType::Resnet),
            };
            let attention = self.attention(attends);
            BlockPlan { channels, layers: self.layers_per_block, attention, resample }
        };
        kinds.map(plan).collect()
    }

    pub(crate) fn up_plan(&self) -> Vec<BlockPlan> {
        let kinds = self.block_out_channels.iter().rev().zip(&self.up_block_types);
        let plan = |(&channels, kind): (&usize, &UpBlockType)| {
            let (attends, resample) = match kind {
                UpBlockType::UpBlock2D => (false, ResampleType::Conv),
                UpBlockType::AttnUpBlock2D => (true, self.upsample_type),
                UpBlockType::ResnetUpsampleBlock2D => (false, ResampleType::Resnet),
            };
            let attention = self.attention(attends);
            BlockPlan { channels, layers: self.layers_per_block + 1, attention, resample }
        };
        kinds.map(plan).collect()
    }

    fn attention(&self, attends: bool) -> AttentionPlan {
        match attends {
            true => AttentionPlan::Pixels { groups: Some(self.norm_num_groups) },
            false => AttentionPlan::None,
        }
    }
}

/// Rows of a learned embedding of times: [`TimeInput::idx`] is one of them.
const TIMES: usize = 1000;

/// The UNet of Ho et al. (2020), <https://arxiv.org/abs/2006.11239>, as diffusers builds it; with other
/// settings that of Song et al. (2021) without its filters, and of Dhariwal & Nichol (2021).
///
/// The embedding of the time, plus that of the class where there is one, enters every residual block.
/// [`Condition::None`] adds no class embedding; a network without one ignores the class.
///
/// # Initial weights
/// PyTorch's defaults, with zeros in the last convolution of every residual block, in the projection
/// that ends every attention and in `conv_out` (Ho et al. 2020; Dhariwal & Nichol 2021): the prediction
/// starts at 0. Loading weights replaces all of them.
#[derive(Module, Debug)]
pub struct UNet2DModel {
    conv_in: Conv2d,
    time_proj: TimeProjection,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<ClassEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    act: ActFn,
    class_is_embedding: bool,
    center_input: bool,
}

impl UNet2DModel {
    /// A network with valid settings.
    pub(crate) fn new(config: &UNet2DConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let width = config.embedding_width();
        let plan = Plan {
            embedding: Some(width),
            groups: config.norm_num_groups,
            eps: config.norm_eps,
            dropout: config.dropout,
            act: config.act_fn,
            scale_shift: config.resnet_time_scale_shift,
            head_dim: config.attention_head_dim,
            downsample_padding: config.downsample_padding,
            residual: Initializer::Zeros,
            device,
        };
        let (time_proj, time_channels) = match config.time_embedding_type {
            TimeEmbeddingType::Positional => {
                let (cos_first, shift) = (config.flip_sin_to_cos, config.freq_shift);
                (TimeProjection::Positional(Sinusoid { channels: first, cos_first, shift }), first)
            }
            TimeEmbeddingType::Fourier => (TimeProjection::fourier(first, device), 2 * first),
            TimeEmbeddingType::Learned => (TimeProjection::learned(TIMES, first, device), first),
        };
        let (down_blocks, up_blocks) = ways(&config.down_plan(), &config.up_plan(), &plan);
        let mid_attention = match config.add_attention {
            true => AttentionPlan::Pixels { groups: config.mid_groups() },
            false => AttentionPlan::None,
        };

        Self {
            conv_in: conv3x3(config.in_channels, first).init(device),
            time_proj,
            time_embedding: TimestepEmbedding::new(time_channels, width, |linear| linear.init(device)),
            class_embedding: config.class().init(time_channels, width, device),
            down_blocks,
            mid_block: config.mid_block_type.map(|MidBlockType::UNetMidBlock2D| {
                MidBlock::new(last, 2, &mid_attention, config.mid_block_scale_factor, &plan)
            }),
            up_blocks,
            conv_norm_out: plan.norm(first),
            conv_out: conv3x3(first, config.out_channels).with_initializer(Initializer::Zeros).init(device),
            act: config.act_fn,
            class_is_embedding: config.class_embed_type == Some(ClassEmbedType::Identity),
            center_input: config.center_input_sample,
        }
    }

    fn embedder(&self) -> Embedder<'_> {
        Embedder {
            time_proj: &self.time_proj,
            time_embedding: &self.time_embedding,
            class_embedding: self.class_embedding.as_ref(),
            identity: self.class_is_embedding,
            act: ActFn::Silu,
        }
    }

    fn body(&self) -> Body<'_> {
        Body {
            conv_in: &self.conv_in,
            down_blocks: &self.down_blocks,
            mid_block: self.mid_block.as_ref(),
            up_blocks: &self.up_blocks,
            conv_norm_out: &self.conv_norm_out,
            act: ActFn::Silu,
            conv_out: &self.conv_out,
        }
    }

    /// The names of the blocks, in the order in which they run.
    pub(crate) fn blocks(&self) -> Vec<String> {
        let mut names = self.embedder().blocks();
        self.body().blocks(&mut names);
        names
    }
}

impl Denoiser for UNet2DModel {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        let trace = &mut Trace::new(ctx);
        let u = t.u.clone();
        // Every residual block starts with the activation of the same embedding.
        let embedding = self.act.forward(self.embedder().forward(t, condition, trace));
        let dtype = x.dtype();
        let x = ctx.precision.cast(if self.center_input { x * 2.0 - 1.0 } else { x });
        let mut pass = Pass { trace, embedding, text: None };
        let mut pred = self.body().forward(x, &mut pass).cast(dtype);
        if let TimeProjection::Fourier(_) = self.time_proj {
            // The score is the estimate of the noise divided by its level (Song et al. 2021, code).
            pred = pred.clone() / u.cast(pred.dtype()).unsqueeze_dims::<4>(&[1, 2, 3]);
        }
        pass.trace.output(pred)
    }
}
