use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Initializer};
use burn::tensor::{Device, Tensor};

use crate::hook::Trace;
use crate::resnet::{ActFn, Plan, conv3x3};
use crate::time::TimestepEmbedding;
use crate::unet_blocks::{Body, DownBlock, MidBlock, Pass, UpBlock, ways};
use crate::unet_embedding::{ClassEmbedType, ClassEmbedding, Embedder, Sinusoid, TimeProjection};
use crate::{Condition, Ctx, Denoiser, Output, TimeInput, UNet2DConditionConfig};

/// The UNet of Stable Diffusion 1 and 2 (Rombach et al. 2022), <https://arxiv.org/abs/2112.10752>, as
/// diffusers builds it.
///
/// Its transformers attend to the states of a text encoder, [`Condition::Text`]. Under every other
/// condition the text is a single token of zeros, which leaves of attention to the text its last bias:
/// that is how such a network trains and samples without a text. (The empty prompt of classifier-free
/// guidance is another thing, the encoder's states for an empty text.)
///
/// A network with a class embedding adds it under [`Condition::Class`], as
/// [`UNet2DModel`](crate::UNet2DModel) does. A text and a class together are not possible.
///
/// # Initial weights
/// PyTorch's defaults, with zeros in the last convolution of every residual block, in the projection
/// that ends every transformer and in `conv_out` (Rombach et al. 2022, code): the prediction starts at 0.
/// Loading weights replaces all of them.
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
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
    text_channels: usize,
}

impl UNet2DConditionModel {
    /// A network with valid settings.
    pub(crate) fn new(config: &UNet2DConditionConfig, device: &Device) -> Self {
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
            head_dim: None,
            downsample_padding: config.downsample_padding,
            residual: Initializer::Zeros,
            device,
        };
        let (down_blocks, up_blocks) = ways(&config.down_plan(), &config.up_plan(), &plan);
        let mid_block = config.mid_plan().map(|(resnets, attention)| {
            MidBlock::new(last, resnets, &attention, config.mid_block_scale_factor, &plan)
        });
        let (cos_first, shift) = (config.flip_sin_to_cos, config.freq_shift);

        Self {
            conv_in: conv3x3(config.in_channels, first).init(device),
            time_proj: TimeProjection::Positional(Sinusoid { channels: first, cos_first, shift }),
            time_embedding: TimestepEmbedding::new(first, width, |linear| linear.init(device)),
            class_embedding: config.class().init(first, width, device),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: plan.norm(first),
            conv_out: conv3x3(first, config.out_channels).with_initializer(Initializer::Zeros).init(device),
            act: config.act_fn,
            class_is_embedding: config.class_embed_type == Some(ClassEmbedType::Identity),
            center_input: config.center_input_sample,
            text_channels: config.text_channels(),
        }
    }

    fn embedder(&self) -> Embedder<'_> {
        Embedder {
            time_proj: &self.time_proj,
            time_embedding: &self.time_embedding,
            class_embedding: self.class_embedding.as_ref(),
            identity: self.class_is_embedding,
            act: self.act,
        }
    }

    fn body(&self) -> Body<'_> {
        Body {
            conv_in: &self.conv_in,
            down_blocks: &self.down_blocks,
            mid_block: self.mid_block.as_ref(),
            up_blocks: &self.up_blocks,
            conv_norm_out: &self.conv_norm_out,
            act: self.act,
            conv_out: &self.conv_out,
        }
    }

    /// The names of the blocks, in the order in which they begin.
    pub(crate) fn blocks(&self) -> Vec<String> {
        let mut names = self.embedder().blocks();
        self.body().blocks(&mut names);
        names
    }
}

impl Denoiser for UNet2DConditionModel {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        let trace = &mut Trace::new(ctx);
        // Every residual block starts with the activation of the same embedding.
        let embedding = self.act.forward(self.embedder().forward(t, condition, trace));
        let text = match condition {
            Condition::Text(states) => states.clone(),
            _ => {
                let [batch, ..] = x.dims();
                Tensor::zeros([batch, 1, self.text_channels], (&x.device(), x.dtype()))
            }
        };
        let dtype = x.dtype();
        let x = ctx.precision.cast(if self.center_input { x * 2.0 - 1.0 } else { x });
        let mut pass = Pass { trace, embedding, text: Some(text.cast(x.dtype())) };
        let pred = self.body().forward(x, &mut pass).cast(dtype);
        pass.trace.output(pred)
    }
}
