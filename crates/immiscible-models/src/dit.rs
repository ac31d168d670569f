use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::ada_norm::modulated_norm;
use crate::checks::{epsilon, only, positive, probability};
use crate::dit_blocks::{FREQUENCIES, NORM_EPS, PatchEmbed, TransformerBlock, chunks};
use crate::hook::{Feature, Trace};
use crate::linear::Project;
use crate::time::sinusoid;
use crate::{Condition, Ctx, Denoiser, ModelError, Output, TimeInput};

/// Settings of a [`DiTTransformer2DModel`]: the fields and defaults of its `config.json` in diffusers.
///
/// Fields that this crate supports in one value only are there so that such a file can be read and
/// written; [`validate`](Self::validate) refuses every other value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiTConfig {
    /// Heads of every attention.
    pub num_attention_heads: usize,
    /// Channels per head; the width of the network is the product of the two.
    pub attention_head_dim: usize,
    /// Channels of x_t.
    pub in_channels: usize,
    /// Channels of the prediction; `in_channels` if absent.
    pub out_channels: Option<usize>,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Probability of dropout after attention and inside the feed-forward layers, in [0, 1).
    pub dropout: f64,
    /// Not used by this network.
    pub norm_num_groups: usize,
    /// Whether the projections to queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Height and width of the images. The network takes others too, if `patch_size` divides them.
    pub sample_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Of the feed-forward layers.
    pub activation_fn: Activation,
    /// Classes. The network holds one row more, for the null class.
    pub num_embeds_ada_norm: usize,
    /// Must be `false`.
    pub upcast_attention: bool,
    /// Must be `"ada_norm_zero"`.
    pub norm_type: String,
    /// Must be `false`.
    pub norm_elementwise_affine: bool,
    /// ε of the layer norm before the feed-forward layers; the others have 1e-6.
    pub norm_eps: f64,
}

/// The activation of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// GELU with the Gaussian distribution function (Hendrycks & Gimpel 2016): faster on the CPU.
    #[serde(rename = "gelu")]
    Gelu,
    /// GELU with its tanh approximation, which published DiT weights were trained with.
    #[serde(rename = "gelu-approximate")]
    GeluApproximate,
}

impl Default for DiTConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            dropout: 0.0,
            norm_num_groups: 32,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: Activation::GeluApproximate,
            num_embeds_ada_norm: 1000,
            upcast_attention: false,
            norm_type: "ada_norm_zero".into(),
            norm_elementwise_affine: false,
            norm_eps: 1e-5,
        }
    }
}

impl DiTConfig {
    /// The smallest network with more than one block and head, for tests and first runs: 3×8×8 images,
    /// 10 classes.
    pub fn tiny() -> Self {
        Self {
            num_attention_heads: 2,
            attention_head_dim: 8,
            in_channels: 3,
            num_layers: 2,
            sample_size: 8,
            num_embeds_ada_norm: 10,
            ..Self::default()
        }
    }

    pub(crate) fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    pub(crate) fn out_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        only("upcast_attention", &self.upcast_attention, &false)?;
        only("norm_type", self.norm_type.as_str(), "ada_norm_zero")?;
        only("norm_elementwise_affine", &self.norm_elementwise_affine, &false)?;
        positive("num_attention_heads", self.num_attention_heads)?;
        positive("attention_head_dim", self.attention_head_dim)?;
        positive("in_channels", self.in_channels)?;
        positive("out_channels", self.out_channels())?;
        positive("num_layers", self.num_layers)?;
        positive("sample_size", self.sample_size)?;
        positive("patch_size", self.patch_size)?;
        positive("num_embeds_ada_norm", self.num_embeds_ada_norm)?;
        probability("dropout", self.dropout)?;
        epsilon("norm_eps", self.norm_eps)?;
        if !self.width().is_multiple_of(4) {
            let remedy = format!(
                "with num_attention_heads = {} the network is {} wide, and the embedding of positions \
                 needs a multiple of 4",
                self.num_attention_heads,
                self.width()
            );
            return Err(ModelError::config("attention_head_dim", &self.attention_head_dim, remedy));
        }
        if !self.sample_size.is_multiple_of(self.patch_size) {
            let remedy = format!("use a divisor of sample_size = {}, or pad the images", self.sample_size);
            return Err(ModelError::config("patch_size", &self.patch_size, remedy));
        }
        Ok(())
    }
}

/// The diffusion transformer of Peebles & Xie (2023), <https://arxiv.org/abs/2212.09748>, as diffusers
/// builds it.
///
/// Every block embeds time and class by itself; the first one's embedding also modulates the end.
/// Every [`Condition`] but a class is the null class. Unlike in diffusers no label is dropped here in training: that
/// is done to the [`Condition`].
///
/// # Initial weights
/// Those of the paper's code: Glorot-uniform projections with zero biases, embeddings of standard
/// deviation 0.02, and zeros in the modulations (adaLN-Zero) and in the last projection, so that every
/// block starts as the identity and the prediction at 0. Loading weights replaces all of them.
#[derive(Module, Debug)]
pub struct DiTTransformer2DModel {
    pos_embed: PatchEmbed,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out_1: Linear,
    proj_out_2: Linear,
    out_channels: usize,
}

impl DiTTransformer2DModel {
    /// A network with valid settings.
    pub(crate) fn new(config: &DiTConfig, device: &Device) -> Self {
        let width = config.width();
        let zeros = |d_out| LinearConfig::new(width, d_out).with_initializer(Initializer::Zeros).init(device);
        Self {
            pos_embed: PatchEmbed::new(config, device),
            transformer_blocks: (0..config.num_layers)
                .map(|_| TransformerBlock::new(config, device))
                .collect(),
            proj_out_1: zeros(2 * width),
            proj_out_2: zeros(config.patch_size * config.patch_size * config.out_channels()),
            out_channels: config.out_channels(),
        }
    }

    /// The names of the blocks, in the order in which they begin.
    pub(crate) fn blocks(&self) -> Vec<String> {
        let each = |parts: &[&str]| -> Vec<String> {
            (0..self.transformer_blocks.len())
                .flat_map(|i| parts.iter().map(move |part| format!("transformer_blocks.{i}{part}")))
                .collect()
        };
        let mut names = each(&[".norm1.emb.timestep_embedder", ".norm1.emb.class_embedder"]);
        names.push("pos_embed".into());
        names.extend(each(&["", ".attn1", ".ff"]));
        names.push("proj_out_2".into());
        names
    }
}

impl Denoiser for DiTTransformer2DModel {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        let trace = &mut Trace::new(ctx);
        let ([batch, _, height, width], dtype) = (x.dims(), x.dtype());
        let patch = self.pos_embed.patch_size();
        let (rows, cols) = (height / patch, width / patch);
        let sinusoid = sinusoid(t.u, FREQUENCIES, true, 1);
        let labels = match condition {
            Condition::Class(labels) => labels.clone(),
            _ => {
                let null = self.transformer_blocks[0].norm1.emb.class_embedder.null_class();
                Tensor::full([batch], null, &x.device())
            }
        };

        let embeddings: Vec<_> = (self.transformer_blocks.iter().enumerate())
            .map(|(i, block)| {
                let name = format!("transformer_blocks.{i}.norm1.emb");
                block.norm1.emb.forward(&name, &sinusoid, &labels, trace)
            })
            .collect();

        let tokens = trace.block(format_args!("pos_embed"), Feature::Map(ctx.precision.cast(x)), |_, x| {
            Feature::Tokens(self.pos_embed.forward(x.into_map()))
        });
        let mut tokens = tokens.into_tokens();
        for (i, (block, embedding)) in self.transformer_blocks.iter().zip(&embeddings).enumerate() {
            let name = format!("transformer_blocks.{i}");
            tokens = trace
                .tokens(format_args!("{name}"), tokens, |trace, x| block.forward(&name, x, embedding, trace));
        }
        let tokens = trace.tokens(format_args!("proj_out_2"), tokens, |_, x| {
            let [shift, scale] = chunks(self.proj_out_1.forward(embeddings[0].clone()));
            self.proj_out_2.project(modulated_norm(x, shift, scale, NORM_EPS))
        });

        // Tokens [B, rows·cols, p·p·C] back to pixels.
        let pred = tokens
            .reshape([batch, rows, cols, patch, patch, self.out_channels])
            .permute([0, 5, 1, 3, 2, 4])
            .reshape([batch, self.out_channels, height, width]);
        trace.output(pred.cast(dtype))
    }
}
