use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ModelError;
use crate::checks::{only, positive};
use crate::resnet::{ActFn, TimeScaleShift};
use crate::transformer_2d::TransformerPlan;
use crate::unet_blocks::{AttentionPlan, BlockPlan, ResampleType};
use crate::unet_embedding::{ClassEmbedType, ClassPlan, TimeEmbeddingType};
use crate::unet_frame::Frame;

/// Settings of a [`UNet2DConditionModel`](crate::UNet2DConditionModel): the fields and defaults of its `config.json` in diffusers.
///
/// Fields that this crate supports in one value only are there so that such a file can be read and
/// written; [`validate`](Self::validate) refuses every other value. The blocks are those of Stable
/// Diffusion 1 and 2; reading a file with others fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConditionConfig {
    /// Height and width of the images. The network takes others too, if the way down divides them.
    pub sample_size: Option<usize>,
    /// Channels of x_t.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether images arrive in [0, 1] and the network maps them to [−1, 1].
    pub center_input_sample: bool,
    /// Whether the cosines of the time embedding come before its sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies of the time embedding: 1 in Ho et al. (2020).
    pub freq_shift: usize,
    /// One per resolution, from the images down.
    pub down_block_types: Vec<ConditionDownBlockType>,
    /// The block between both ways; none if absent.
    pub mid_block_type: Option<ConditionMidBlockType>,
    /// One per resolution, from the lowest up.
    pub up_block_types: Vec<ConditionUpBlockType>,
    /// Whether both attentions of a transformer block are to the text, per resolution from the images
    /// down. Those of the middle block are not.
    pub only_cross_attention: PerBlock<bool>,
    /// Channels per resolution, from the images down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per resolution on the way down; one more on the way up.
    pub layers_per_block: PerBlock<usize>,
    /// Padding of the convolutions that halve the resolution: 1, or 0 to pad on one side only, as
    /// Ho et al. (2020) did.
    pub downsample_padding: usize,
    /// What the residual blocks of the middle block return is divided by it.
    pub mid_block_scale_factor: f64,
    /// Probability of dropout inside the residual blocks, in [0, 1).
    pub dropout: f64,
    /// Of the residual blocks, the embeddings and the last layer.
    pub act_fn: ActFn,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// ε of every group norm but those of the transformers, which have 1e-6.
    pub norm_eps: f64,
    /// Channels of the text, the same for all blocks.
    pub cross_attention_dim: PerBlock<usize>,
    /// Transformer blocks after each residual block, per resolution from the images down.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Must be absent.
    pub reverse_transformer_layers_per_block: Option<Value>,
    /// Must be absent.
    pub encoder_hid_dim: Option<usize>,
    /// Must be absent.
    pub encoder_hid_dim_type: Option<String>,
    /// Not the channels of an attention head, but the *number* of heads, per resolution from the images
    /// down: diffusers named it so once, and published files have kept it.
    pub attention_head_dim: PerBlock<usize>,
    /// Must be absent: it is `attention_head_dim`.
    pub num_attention_heads: Option<PerBlock<usize>>,
    /// Must be `false`.
    pub dual_cross_attention: bool,
    /// Whether the projections around the transformer blocks are linear layers instead of 1×1
    /// convolutions.
    pub use_linear_projection: bool,
    /// How the class is embedded; by a table of `num_class_embeds` rows if absent.
    pub class_embed_type: Option<ClassEmbedType>,
    /// Must be absent.
    pub addition_embed_type: Option<String>,
    /// Must be absent.
    pub addition_time_embed_dim: Option<usize>,
    /// Rows of the class embedding, if there are classes too. With `class_embed_type` = `"timestep"` there
    /// are no rows, and it only tells how many classes there are.
    pub num_class_embeds: Option<usize>,
    /// Asks for attention in single precision where the rest is in half. Not used, as in diffusers where
    /// attention is fused.
    pub upcast_attention: bool,
    /// What the embedding does inside the residual blocks.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Must be `false`.
    pub resnet_skip_time_act: bool,
    /// Must be 1.
    pub resnet_out_scale_factor: f64,
    /// Must be `"positional"`.
    pub time_embedding_type: TimeEmbeddingType,
    /// Width of the embedding; four times the first of `block_out_channels` if absent.
    pub time_embedding_dim: Option<usize>,
    /// Must be absent.
    pub time_embedding_act_fn: Option<String>,
    /// Must be absent.
    pub timestep_post_act: Option<String>,
    /// Must be absent.
    pub time_cond_proj_dim: Option<usize>,
    /// Must be 3.
    pub conv_in_kernel: usize,
    /// Must be 3.
    pub conv_out_kernel: usize,
    /// Must be absent.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Must be `"default"`.
    pub attention_type: String,
    /// Must be `false`.
    pub class_embeddings_concat: bool,
    /// Not used by these blocks.
    pub mid_block_only_cross_attention: Option<bool>,
    /// Must be absent.
    pub cross_attention_norm: Option<String>,
    /// Not used without `addition_embed_type`.
    pub addition_embed_type_num_heads: usize,
}

/// A setting of all resolutions, or one for each of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected one value, or a list with one per resolution")]
pub enum PerBlock<T> {
    /// The same everywhere.
    All(T),
    /// From the images down.
    Each(Vec<T>),
}

impl<T: Copy + Serialize> PerBlock<T> {
    /// The setting of resolution `i`.
    fn at(&self, i: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[i],
        }
    }

    fn values(&self) -> &[T] {
        match self {
            Self::All(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }

    /// Refuses a list that has not one value for each resolution, or one that is wrong by itself.
    fn check(
        &self,
        field: &'static str,
        resolutions: usize,
        one: impl Fn(&'static str, T) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if let Self::Each(values) = self
            && values.len() != resolutions
        {
            let remedy = format!("name {resolutions}, one for each of block_out_channels");
            return Err(ModelError::config(field, self, remedy));
        }
        self.values().iter().try_for_each(|&value| one(field, value))
    }
}

/// A resolution of the way down of a
/// [`UNet2DConditionModel`](crate::UNet2DConditionModel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionDownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by a transformer that attends to the text.
    CrossAttnDownBlock2D,
}

/// The block between the way down and the way up of a
/// [`UNet2DConditionModel`](crate::UNet2DConditionModel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionMidBlockType {
    /// One residual block.
    UNetMidBlock2D,
    /// Two residual blocks with a transformer that attends to the text between them.
    UNetMidBlock2DCrossAttn,
}

/// A resolution of the way up of a
/// [`UNet2DConditionModel`](crate::UNet2DConditionModel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionUpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by a transformer that attends to the text.
    CrossAttnUpBlock2D,
}

impl Default for UNet2DConditionConfig {
    fn default() -> Self {
        use ConditionDownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        use ConditionUpBlockType::{CrossAttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0,
            down_block_types: vec![
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                DownBlock2D,
            ],
            mid_block_type: Some(ConditionMidBlockType::UNetMidBlock2DCrossAttn),
            up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D],
            only_cross_attention: PerBlock::All(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            dropout: 0.0,
            act_fn: ActFn::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::All(1280),
            transformer_layers_per_block: PerBlock::All(1),
            reverse_transformer_layers_per_block: None,
            encoder_hid_dim: None,
            encoder_hid_dim_type: None,
            attention_head_dim: PerBlock::All(8),
            num_attention_heads: None,
            dual_cross_attention: false,
            use_linear_projection: false,
            class_embed_type: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            num_class_embeds: None,
            upcast_attention: false,
            resnet_time_scale_shift: TimeScaleShift::Default,
            resnet_skip_time_act: false,
            resnet_out_scale_factor: 1.0,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            timestep_post_act: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            projection_class_embeddings_input_dim: None,
            attention_type: "default".into(),
            class_embeddings_concat: false,
            mid_block_only_cross_attention: None,
            cross_attention_norm: None,
            addition_embed_type_num_heads: 64,
        }
    }
}

impl UNet2DConditionConfig {
    /// The smallest network with every kind of block, for tests and first runs: 3×8×8 images,
    /// texts with 8 channels, 10 classes and the null class.
    pub fn tiny() -> Self {
        use ConditionDownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        use ConditionUpBlockType::{CrossAttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: Some(8),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![CrossAttnDownBlock2D, DownBlock2D],
            up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D],
            block_out_channels: vec![8, 16],
            layers_per_block: PerBlock::All(1),
            norm_num_groups: 4,
            cross_attention_dim: PerBlock::All(8),
            attention_head_dim: PerBlock::All(2),
            num_class_embeds: Some(11),
            ..Self::default()
        }
    }

    pub(crate) fn embedding_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    pub(crate) fn class(&self) -> ClassPlan {
        ClassPlan { kind: self.class_embed_type, rows: self.num_class_embeds }
    }

    /// As [`NetworkConfig::class_rows`](crate::NetworkConfig::class_rows).
    pub(crate) fn class_rows(&self) -> Option<usize> {
        self.class().rows()
    }

    /// As [`NetworkConfig::text_channels`](crate::NetworkConfig::text_channels); 0 in settings that are not
    /// valid.
    pub(crate) fn text_channels(&self) -> usize {
        self.cross_attention_dim.values().first().copied().unwrap_or(0)
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.validate_unsupported()?;
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
            freq_shift: Some(self.freq_shift),
            time_embedding_dim: self.time_embedding_dim,
            num_class_embeds: self.num_class_embeds,
        }
        .validate()?;

        let channels = &self.block_out_channels;
        let resolutions = channels.len();
        self.layers_per_block.check("layers_per_block", resolutions, positive)?;
        self.transformer_layers_per_block.check("transformer_layers_per_block", resolutions, positive)?;
        self.only_cross_attention.check("only_cross_attention", resolutions, |_, _| Ok(()))?;
        self.attention_head_dim.check("attention_head_dim", resolutions, positive)?;
        self.cross_attention_dim.check("cross_attention_dim", resolutions, positive)?;
        let text = self.text_channels();
        if self.cross_attention_dim.values().iter().any(|&other| other != text) {
            let remedy = format!("all blocks attend to one text; use one number, such as {text}");
            return Err(ModelError::config("cross_attention_dim", &self.cross_attention_dim, remedy));
        }
        for i in (0..resolutions).filter(|&i| self.attends(i)) {
            let (c, heads) = (channels[i], self.attention_head_dim.at(i));
            if !c.is_multiple_of(heads) {
                let remedy = format!(
                    "it is the number of heads, and {heads} does not divide the {c} channels that attention \
                     runs on; use a divisor"
                );
                return Err(ModelError::config("attention_head_dim", &self.attention_head_dim, remedy));
            }
        }
        Ok(())
    }

    fn validate_unsupported(&self) -> Result<(), ModelError> {
        only("reverse_transformer_layers_per_block", &self.reverse_transformer_layers_per_block, &None)?;
        only("encoder_hid_dim", &self.encoder_hid_dim, &None)?;
        only("encoder_hid_dim_type", &self.encoder_hid_dim_type, &None)?;
        only("num_attention_heads", &self.num_attention_heads, &None)?;
        only("dual_cross_attention", &self.dual_cross_attention, &false)?;
        only("addition_embed_type", &self.addition_embed_type, &None)?;
        only("addition_time_embed_dim", &self.addition_time_embed_dim, &None)?;
        only("resnet_skip_time_act", &self.resnet_skip_time_act, &false)?;
        only("resnet_out_scale_factor", &self.resnet_out_scale_factor, &1.0)?;
        only("time_embedding_type", &self.time_embedding_type, &TimeEmbeddingType::Positional)?;
        only("time_embedding_act_fn", &self.time_embedding_act_fn, &None)?;
        only("timestep_post_act", &self.timestep_post_act, &None)?;
        only("time_cond_proj_dim", &self.time_cond_proj_dim, &None)?;
        only("conv_in_kernel", &self.conv_in_kernel, &3)?;
        only("conv_out_kernel", &self.conv_out_kernel, &3)?;
        let input = &self.projection_class_embeddings_input_dim;
        only("projection_class_embeddings_input_dim", input, &None)?;
        only("attention_type", self.attention_type.as_str(), "default")?;
        only("class_embeddings_concat", &self.class_embeddings_concat, &false)?;
        only("cross_attention_norm", &self.cross_attention_norm, &None)
    }

    /// Whether attention runs at resolution `i`, on any way.
    fn attends(&self, i: usize) -> bool {
        let last = self.block_out_channels.len() - 1;
        self.down_block_types[i] == ConditionDownBlockType::CrossAttnDownBlock2D
            || self.up_block_types[last - i] == ConditionUpBlockType::CrossAttnUpBlock2D
            || (i == last && self.mid_block_type == Some(ConditionMidBlockType::UNetMidBlock2DCrossAttn))
    }

    /// The transformers of resolution `i`.
    fn transformer(&self, i: usize) -> TransformerPlan {
        TransformerPlan {
            heads: self.attention_head_dim.at(i),
            layers: self.transformer_layers_per_block.at(i),
            text: self.cross_attention_dim.at(i),
            linear: self.use_linear_projection,
            only_cross: self.only_cross_attention.at(i),
        }
    }

    pub(crate) fn down_plan(&self) -> Vec<BlockPlan> {
        let kinds = self.down_block_types.iter().enumerate();
        kinds
            .map(|(i, kind)| match kind {
                ConditionDownBlockType::DownBlock2D => self.block(i, AttentionPlan::None),
                ConditionDownBlockType::CrossAttnDownBlock2D => {
                    self.block(i, AttentionPlan::Text(self.transformer(i)))
                }
            })
            .collect()
    }

    pub(crate) fn up_plan(&self) -> Vec<BlockPlan> {
        let kinds = (0..self.block_out_channels.len()).rev().zip(&self.up_block_types);
        let plan = |(i, kind): (usize, &ConditionUpBlockType)| {
            let block = match kind {
                ConditionUpBlockType::UpBlock2D => self.block(i, AttentionPlan::None),
                ConditionUpBlockType::CrossAttnUpBlock2D => {
                    self.block(i, AttentionPlan::Text(self.transformer(i)))
                }
            };
            BlockPlan { layers: block.layers + 1, ..block }
        };
        kinds.map(plan).collect()
    }

    /// The residual blocks of the middle, and what is between them; none if there is no middle.
    pub(crate) fn mid_plan(&self) -> Option<(usize, AttentionPlan)> {
        let transformer = || self.transformer(self.block_out_channels.len() - 1);
        self.mid_block_type.map(|kind| match kind {
            ConditionMidBlockType::UNetMidBlock2D => (1, AttentionPlan::None),
            ConditionMidBlockType::UNetMidBlock2DCrossAttn => {
                (2, AttentionPlan::Text(TransformerPlan { only_cross: false, ..transformer() }))
            }
        })
    }

    fn block(&self, i: usize, attention: AttentionPlan) -> BlockPlan {
        BlockPlan {
            channels: self.block_out_channels[i],
            layers: self.layers_per_block.at(i),
            attention,
            resample: ResampleType::Conv,
        }
    }
}
