use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checks::{epsilon, only, positive};
use crate::gelu::gelu;
use crate::hook::Trace;
use crate::network::Draw;
use crate::time::linear_zero_bias;
use crate::{Ctx, Feature, ModelConfig, ModelError, pretrained};

/// Settings of a [`CLIPTextModel`]: the fields and defaults of its `config.json` in transformers.
///
/// Fields that this crate supports in one value only, or does not use, are there so that such a file can be read and written;
/// [`validate`](Self::validate) refuses every other value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CLIPTextConfig {
    /// Tokens that there is an embedding for.
    pub vocab_size: usize,
    /// Width of the network.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the projection to the space that texts share with images, which is no part of this network.
    pub projection_dim: Option<usize>,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Heads of every attention; they share `hidden_size`.
    pub num_attention_heads: usize,
    /// Tokens in the longest text.
    pub max_position_embeddings: usize,
    /// Of the feed-forward layers.
    pub hidden_act: CLIPActivation,
    /// ε of the layer norms.
    pub layer_norm_eps: f64,
    /// Must be 0.
    pub attention_dropout: f64,
    /// Not used by this network.
    pub initializer_range: f64,
    /// The standard deviations of the initial weights are multiplied by it.
    pub initializer_factor: f64,
    /// What fills texts up. Not used by this network: the end of the text is looked for instead.
    pub pad_token_id: Option<u32>,
    /// What a text starts with. Not used by this network.
    pub bos_token_id: Option<u32>,
    /// What a text ends with; its first place in the text is that of [`TextOutput::pooled`]. With 2, which old files hold by
    /// mistake, it is the place of the largest id.
    pub eos_token_id: u32,
}

/// The activation of the feed-forward layers of a [`CLIPTextModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CLIPActivation {
    /// x · sigmoid(1.702 x), Hendrycks & Gimpel 2016, §2: Stable Diffusion 1.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// GELU with the Gaussian distribution function: Stable Diffusion 2.
    #[serde(rename = "gelu")]
    Gelu,
}

impl CLIPActivation {
    fn forward(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::QuickGelu => x.clone() * sigmoid(x * 1.702),
            Self::Gelu => gelu(x),
        }
    }
}

impl Default for CLIPTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: Some(512),
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: CLIPActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
            initializer_range: 0.02,
            initializer_factor: 1.0,
            pad_token_id: Some(1),
            bos_token_id: Some(49406),
            eos_token_id: 49407,
        }
    }
}

const CLASS: &str = "CLIPTextModel";
const MODEL_TYPE: &str = "clip_text_model";

impl CLIPTextConfig {
    /// The smallest network with more than one block and head, for tests: 40 tokens, texts of up to 10.
    pub fn tiny() -> Self {
        Self {
            vocab_size: 40,
            hidden_size: 12,
            intermediate_size: 20,
            projection_dim: Some(12),
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 10,
            bos_token_id: Some(36),
            eos_token_id: 37,
            ..Self::default()
        }
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        only("attention_dropout", &self.attention_dropout, &0.0)?;
        positive("vocab_size", self.vocab_size)?;
        positive("hidden_size", self.hidden_size)?;
        positive("intermediate_size", self.intermediate_size)?;
        positive("num_hidden_layers", self.num_hidden_layers)?;
        positive("num_attention_heads", self.num_attention_heads)?;
        positive("max_position_embeddings", self.max_position_embeddings)?;
        epsilon("layer_norm_eps", self.layer_norm_eps)?;
        if !(self.initializer_factor > 0.0 && self.initializer_factor.is_finite()) {
            let remedy = "use a positive number such as 1";
            return Err(ModelError::config("initializer_factor", &self.initializer_factor, remedy));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let remedy = format!("use a divisor of hidden_size = {}", self.hidden_size);
            return Err(ModelError::config("num_attention_heads", &self.num_attention_heads, remedy));
        }
        Ok(())
    }
}

impl ModelConfig for CLIPTextConfig {
    type Network = CLIPTextModel;

    const WEIGHTS: [&str; 2] = ["model", "pytorch_model"];

    fn from_json(text: &str) -> Result<Self, ModelError> {
        let (_, mut fields) = pretrained::fields(text)?;
        let mut take = |field| fields.remove(field).unwrap_or_default();
        // The precision the weights were saved in, and who saved them: notes about the file.
        for note in ["dtype", "torch_dtype", "transformers_version"] {
            take(note);
        }
        let model_type = take("model_type");
        if model_type != MODEL_TYPE {
            let remedy = format!("a {MODEL_TYPE} is wanted here");
            return Err(ModelError::config("model_type", &model_type, remedy));
        }
        let architectures = take("architectures");
        if !architectures.is_null() {
            only("architectures", &architectures, &serde_json::json!([CLASS]))?;
        }
        // Old files name one that the network never had.
        let dropout = take("dropout");
        if !dropout.is_null() && dropout.as_f64() != Some(0.0) {
            return Err(ModelError::config("dropout", &dropout, "only 0.0 is supported"));
        }
        let config: Self = pretrained::parse(fields)?;
        config.validate()?;
        Ok(config)
    }

    fn to_json(&self) -> String {
        let mut all = Map::new();
        all.insert("architectures".into(), serde_json::json!([CLASS]));
        all.insert("model_type".into(), MODEL_TYPE.into());
        if let Value::Object(fields) = serde_json::json!(self) {
            all.extend(fields);
        }
        format!("{:#}\n", Value::Object(all))
    }

    /// Older versions of the package put `text_model.` before every name, and keep the numbers 0, 1, 2 … next to the embeddings.
    fn rename(name: &str) -> Option<&str> {
        let name = name.strip_prefix("text_model.").unwrap_or(name);
        (name != "embeddings.position_ids").then_some(name)
    }

    fn init(&self, device: &Device) -> Result<CLIPTextModel, ModelError> {
        self.validate()?;
        let network = CLIPTextModel::new(self, device);
        network.visit(&mut Draw);
        Ok(network)
    }
}

/// What a [`CLIPTextModel`] returns.
#[derive(Clone, Debug)]
pub struct TextOutput {
    /// `[B, N, D]`: every token with what comes before it, which the cross-attention of a UNet looks at.
    pub last_hidden_state: Tensor<3>,
    /// `[B, D]`: the row of the token that ends the text, which has seen all of it.
    pub pooled: Tensor<2>,
    /// The outputs of the blocks named in [`Ctx::taps`], in the order the network computes them.
    pub taps: Vec<(String, Feature)>,
}

/// The text encoder of CLIP (Radford et al. 2021, <https://arxiv.org/abs/2103.00020>, §2.4), as transformers builds it: a
/// transformer whose tokens see what comes before them.
///
/// # Initial weights
/// Those of the paper's code: embeddings of standard deviation 0.02 for tokens and 0.01 for positions, projections of
/// D^(−1/2), those that end in the residual stream smaller by √(2 · layers), zero biases. Loading weights replaces all of them.
#[derive(Module, Debug)]
pub struct CLIPTextModel {
    embeddings: TextEmbeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    end: u32,
}

/// The `eos_token_id` of files from before the package knew the right one.
const FORMER_END: u32 = 2;

impl CLIPTextModel {
    /// A network with valid settings.
    fn new(config: &CLIPTextConfig, device: &Device) -> Self {
        let layers = (0..config.num_hidden_layers).map(|_| EncoderLayer::new(config, device));
        Self {
            embeddings: TextEmbeddings::new(config, device),
            encoder: Encoder { layers: layers.collect() },
            final_layer_norm: norm(config, device),
            end: config.eos_token_id,
        }
    }

    /// The encoding of texts, from the ids of their tokens (see [`ClipTokenizer`](crate::ClipTokenizer)).
    ///
    /// # Shapes
    /// `ids`: `[B, N]`, each below `vocab_size`, N ≤ `max_position_embeddings`
    ///
    /// # Panics
    /// If N is larger, or a [`Hook`](crate::Hook) returns another kind of feature than the block does.
    pub fn forward(&self, ids: Tensor<2, Int>, ctx: Ctx<'_>) -> TextOutput {
        let trace = &mut Trace::new(ctx);
        let embedded = self.embeddings.forward(ids.clone());
        let mut x = trace.tokens(format_args!("embeddings"), embedded, |_, x| x);
        for (i, layer) in self.encoder.layers.iter().enumerate() {
            let name = format!("encoder.layers.{i}");
            x = trace.tokens(format_args!("{name}"), x, |trace, x| layer.forward(&name, x, trace));
        }
        let x = trace.tokens(format_args!("final_layer_norm"), x, |_, x| self.final_layer_norm.forward(x));
        let [batch, _, width] = x.dims();
        let rows = self.ends(ids).unsqueeze_dim::<3>(2).expand([batch, 1, width]);
        TextOutput {
            pooled: x.clone().gather(1, rows).squeeze_dim(1),
            last_hidden_state: x,
            taps: trace.taps(),
        }
    }

    /// Where the texts end, `[B, 1]`; 0 for a text that does not.
    fn ends(&self, ids: Tensor<2, Int>) -> Tensor<2, Int> {
        let [batch, length] = ids.dims();
        let end = match self.end {
            FORMER_END => ids.clone().max_dim(1).expand([batch, length]),
            end => ids.full_like(end),
        };
        let places = Tensor::<1, Int>::arange(0..length as i64, &ids.device()).unsqueeze::<2>();
        let places = places.expand([batch, length]).mask_fill(ids.not_equal(end), length as i64);
        // The first of them: an argmax need not find that.
        places.min_dim(1).remainder_scalar(length as i64)
    }

    /// The names of the blocks that run through [`Ctx::hook`] and can be named in [`Ctx::taps`], in the order in which they
    /// begin.
    pub fn blocks(&self) -> Vec<String> {
        let mut names = vec!["embeddings".to_owned()];
        for i in 0..self.encoder.layers.len() {
            names.extend(["", ".self_attn", ".mlp"].map(|part| format!("encoder.layers.{i}{part}")));
        }
        names.push("final_layer_norm".into());
        names
    }
}

/// Tokens, with the embedding of their position added.
#[derive(Module, Debug)]
struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

impl TextEmbeddings {
    fn new(config: &CLIPTextConfig, device: &Device) -> Self {
        let table = |rows, std| {
            let normal = Initializer::Normal { mean: 0.0, std: std * config.initializer_factor };
            EmbeddingConfig::new(rows, config.hidden_size).with_initializer(normal).init(device)
        };
        Self {
            token_embedding: table(config.vocab_size, 0.02),
            position_embedding: table(config.max_position_embeddings, 0.01),
        }
    }

    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = ids.dims();
        let positions = self.position_embedding.weight.val().narrow(0, 0, length);
        self.token_embedding.forward(ids) + positions.unsqueeze()
    }
}

#[derive(Module, Debug)]
struct Encoder {
    layers: Vec<EncoderLayer>,
}

/// Attention and a feed-forward layer, each after a layer norm and around a residual connection.
#[derive(Module, Debug)]
struct EncoderLayer {
    self_attn: CausalAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl EncoderLayer {
    fn new(config: &CLIPTextConfig, device: &Device) -> Self {
        Self {
            self_attn: CausalAttention::new(config, device),
            layer_norm1: norm(config, device),
            mlp: Mlp::new(config, device),
            layer_norm2: norm(config, device),
        }
    }

    fn forward(&self, name: &str, x: Tensor<3>, trace: &mut Trace<'_>) -> Tensor<3> {
        let h = self.layer_norm1.forward(x.clone());
        let x = x + trace.tokens(format_args!("{name}.self_attn"), h, |_, h| self.self_attn.forward(h));
        let h = self.layer_norm2.forward(x.clone());
        x + trace.tokens(format_args!("{name}.mlp"), h, |_, h| self.mlp.forward(h))
    }
}

/// Multi-head attention of every token to itself and those before it.
#[derive(Module, Debug)]
struct CausalAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl CausalAttention {
    fn new(config: &CLIPTextConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let project = || linear(config, [width, width], (width as f64).powf(-0.5), device);
        Self {
            k_proj: project(),
            v_proj: project(),
            q_proj: project(),
            out_proj: linear(config, [width, width], residual_std(config), device),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, length, width] = x.dims();
        let split = |linear: &Linear| {
            linear.forward(x.clone()).reshape([batch, length, self.heads, width / self.heads]).swap_dims(1, 2)
        };
        let (q, k, v) = (split(&self.q_proj), split(&self.k_proj), split(&self.v_proj));
        let causal = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(q, k, v, None, None, causal);
        self.out_proj.forward(y.swap_dims(1, 2).reshape([batch, length, width]))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: CLIPActivation,
}

impl Mlp {
    fn new(config: &CLIPTextConfig, device: &Device) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            fc1: linear(config, [width, inner], (2.0 * width as f64).powf(-0.5), device),
            fc2: linear(config, [inner, width], residual_std(config), device),
            activation: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.activation.forward(self.fc1.forward(x)))
    }
}

fn norm(config: &CLIPTextConfig, device: &Device) -> LayerNorm {
    LayerNormConfig::new(config.hidden_size).with_epsilon(config.layer_norm_eps).init(device)
}

/// A linear layer with normal weights and biases of zero.
fn linear(config: &CLIPTextConfig, [d_in, d_out]: [usize; 2], std: f64, device: &Device) -> Linear {
    let normal = Initializer::Normal { mean: 0.0, std: std * config.initializer_factor };
    linear_zero_bias(LinearConfig::new(d_in, d_out), normal, device)
}

/// Of what is added to the residual stream, twice per block.
fn residual_std(config: &CLIPTextConfig) -> f64 {
    (config.hidden_size as f64 * 2.0 * config.num_hidden_layers as f64).powf(-0.5)
}
