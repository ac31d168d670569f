use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::autoencoder_blocks::{Decoder, Encoder};
use crate::checks::{only, positive};
use crate::convolution::Convolve;
use crate::hook::Trace;
use crate::network::Draw;
use crate::pretrained::{DIFFUSERS, read, write};
use crate::resnet::{ActFn, PYTORCH, Plan, TimeScaleShift};
use crate::{Ctx, ModelConfig, ModelError, Output};

/// Settings of an [`AutoencoderKL`]: the fields and defaults of its `config.json` in diffusers.
///
/// Fields that this crate supports in one value only are there so that such a file can be read and
/// written; [`validate`](Self::validate) refuses every other value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKLConfig {
    /// Channels of the images that are encoded.
    pub in_channels: usize,
    /// Channels of the images that are decoded.
    pub out_channels: usize,
    /// `"DownEncoderBlock2D"`, once per resolution.
    pub down_block_types: Vec<String>,
    /// `"UpDecoderBlock2D"`, once per resolution.
    pub up_block_types: Vec<String>,
    /// Channels per resolution, from the images down.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per resolution of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Must be `"silu"`.
    pub act_fn: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Height and width of the images of training. Not used by this network.
    pub sample_size: usize,
    /// What latents are multiplied by before diffusion runs on them: one over their standard deviation.
    pub scaling_factor: f64,
    /// What is subtracted from latents before they are scaled; nothing if absent.
    pub shift_factor: Option<f64>,
    /// Must be absent.
    pub latents_mean: Option<Vec<f64>>,
    /// Must be absent.
    pub latents_std: Option<Vec<f64>>,
    /// Whether half precision loses too much. Not used by this network, which computes in that of the device.
    pub force_upcast: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution comes before the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks have attention.
    pub mid_block_add_attention: bool,
}

const DOWN: &str = "DownEncoderBlock2D";
const UP: &str = "UpDecoderBlock2D";

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN.into()],
            up_block_types: vec![UP.into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKLConfig {
    /// The smallest network with every kind of block, for tests and first runs: 3×8×8 images, latents of 4×4×4.
    pub fn tiny() -> Self {
        Self { norm_num_groups: 4, sample_size: 8, ..Self::with_channels(vec![8, 12]) }
    }

    /// The default settings with one resolution for each number of channels, from the images down.
    pub fn with_channels(block_out_channels: Vec<usize>) -> Self {
        Self {
            down_block_types: vec![DOWN.into(); block_out_channels.len()],
            up_block_types: vec![UP.into(); block_out_channels.len()],
            block_out_channels,
            ..Self::default()
        }
    }

    /// f: how many times higher and wider images are than their latents.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(31)
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        only("act_fn", self.act_fn.as_str(), "silu")?;
        only("latents_mean", &self.latents_mean, &None)?;
        only("latents_std", &self.latents_std, &None)?;
        positive("in_channels", self.in_channels)?;
        positive("out_channels", self.out_channels)?;
        positive("layers_per_block", self.layers_per_block)?;
        positive("latent_channels", self.latent_channels)?;
        positive("norm_num_groups", self.norm_num_groups)?;
        positive("sample_size", self.sample_size)?;
        for &channels in &self.block_out_channels {
            positive("block_out_channels", channels)?;
        }

        let channels = &self.block_out_channels;
        let resolutions = channels.len();
        if resolutions == 0 {
            let remedy = "name the channels of at least one resolution";
            return Err(ModelError::config("block_out_channels", channels, remedy));
        }
        only("down_block_types", &self.down_block_types, &vec![DOWN.to_owned(); resolutions])?;
        only("up_block_types", &self.up_block_types, &vec![UP.to_owned(); resolutions])?;
        let groups = self.norm_num_groups;
        if channels.iter().any(|&c| !c.is_multiple_of(groups)) {
            let remedy = format!("use multiples of norm_num_groups = {groups}, or change that");
            return Err(ModelError::config("block_out_channels", channels, remedy));
        }
        if !(self.scaling_factor > 0.0 && self.scaling_factor.is_finite()) {
            let remedy = "use a positive number, such as one over the standard deviation of the latents";
            return Err(ModelError::config("scaling_factor", &self.scaling_factor, remedy));
        }
        if let Some(shift) = self.shift_factor
            && !shift.is_finite()
        {
            return Err(ModelError::config("shift_factor", &shift, "use a finite number, or leave it out"));
        }
        Ok(())
    }

    /// Whether the network encodes images of this shape, and decodes them at the same height and width.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the field the images do not fit.
    pub fn accepts(&self, channels: usize, height: usize, width: usize) -> Result<(), ModelError> {
        if channels != self.in_channels {
            let remedy = format!("the images have {channels} channels; set it to {channels}");
            return Err(ModelError::config("in_channels", &self.in_channels, remedy));
        }
        let f = self.downsampling();
        if !(height.is_multiple_of(f) && width.is_multiple_of(f)) {
            let remedy = format!("{height}×{width} images cannot be divided by {f}; pad them to a multiple");
            return Err(ModelError::config("block_out_channels", &self.block_out_channels, remedy));
        }
        Ok(())
    }
}

impl ModelConfig for AutoencoderKLConfig {
    type Network = AutoencoderKL;

    const WEIGHTS: [&str; 2] = DIFFUSERS;

    fn from_json(text: &str) -> Result<Self, ModelError> {
        let config: Self = read(text, "AutoencoderKL")?;
        config.validate()?;
        Ok(config)
    }

    fn to_json(&self) -> String {
        write(self, "AutoencoderKL")
    }

    fn init(&self, device: &Device) -> Result<AutoencoderKL, ModelError> {
        self.validate()?;
        let network = AutoencoderKL::new(self, device);
        network.visit(&mut Draw);
        Ok(network)
    }
}

/// What [`AutoencoderKL::encode`] knows of the latents of its images: a normal distribution with independent components
/// (Kingma & Welling 2014, <https://arxiv.org/abs/1312.6114>).
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[B, C, h, w]`: the means.
    pub mean: Tensor<4>,
    /// `[B, C, h, w]`: the natural logarithms of the variances, in [−30, 20].
    pub logvar: Tensor<4>,
}

impl Posterior {
    /// The distribution with these moments: the means of all channels, then their log-variances, which are clamped to
    /// [−30, 20].
    ///
    /// # Shapes
    /// `[B, 2·C, h, w]`
    pub fn new(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        Self {
            mean: moments.clone().narrow(1, 0, channels),
            logvar: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// The most probable latents: the means.
    ///
    /// # Shapes
    /// → `[B, C, h, w]`
    pub fn mode(&self) -> Tensor<4> {
        self.mean.clone()
    }

    /// The latents that standard normal noise draws (the reparameterisation, eq. 10 of the paper).
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, C, h, w]`
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        // z = μ + σ ε
        self.mean.clone() + (self.logvar.clone() / 2.0).exp() * noise
    }

    /// The Kullback-Leibler divergence from the standard normal distribution, in nats, summed over each sample's
    /// components (appendix B of the paper).
    ///
    /// # Shapes
    /// → `[B]`
    pub fn kl(&self) -> Tensor<1> {
        let (mean, logvar) = (self.mean.clone(), self.logvar.clone());
        // ½ Σ (μ² + σ² − 1 − ln σ²)
        let terms = mean.square() + logvar.clone().exp() - 1.0 - logvar;
        terms.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1) / 2.0
    }
}

/// The autoencoder of latent diffusion (Rombach et al. 2022, <https://arxiv.org/abs/2112.10752>), as diffusers builds it:
/// images in [−1, 1] to latents that are f times lower and narrower, and back.
///
/// f is [`AutoencoderKLConfig::downsampling`]; C below stands for `latent_channels`, h = H/f and w = W/f.
///
/// # Initial weights
/// PyTorch's defaults, as in the paper's code. Loading weights replaces all of them.
#[derive(Module, Debug)]
pub struct AutoencoderKL {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    scaling_factor: f64,
    shift_factor: f64,
}

impl AutoencoderKL {
    /// A network with valid settings.
    fn new(config: &AutoencoderKLConfig, device: &Device) -> Self {
        let plan = Plan {
            embedding: None,
            groups: config.norm_num_groups,
            eps: 1e-6,
            dropout: 0.0,
            act: ActFn::Silu,
            scale_shift: TimeScaleShift::Default,
            head_dim: None,
            downsample_padding: 0,
            residual: PYTORCH,
            device,
        };
        let conv1x1 = |present: bool, channels| {
            present.then(|| Conv2dConfig::new([channels, channels], [1, 1]).init(device))
        };
        Self {
            encoder: Encoder::new(config, &plan),
            decoder: Decoder::new(config, &plan),
            quant_conv: conv1x1(config.use_quant_conv, 2 * config.latent_channels),
            post_quant_conv: conv1x1(config.use_post_quant_conv, config.latent_channels),
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor.unwrap_or(0.0),
        }
    }

    /// What the latents of images in [−1, 1] may be.
    ///
    /// # Shapes
    /// `[B, in_channels, H, W]` → `[B, C, h, w]`
    ///
    /// # Panics
    /// If the number of channels is another; [`AutoencoderKLConfig::accepts`] tells beforehand.
    pub fn encode(&self, x: Tensor<4>) -> Posterior {
        Posterior::new(self.encode_with(x, Ctx::default()).pred)
    }

    /// Images from what [`encode`](Self::encode) gives, unscaled. They may leave [−1, 1] by a little.
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, out_channels, H, W]`
    ///
    /// # Panics
    /// If the number of channels is another.
    pub fn decode(&self, z: Tensor<4>) -> Tensor<4> {
        self.decode_with(z, Ctx::default()).pred
    }

    /// What diffusion runs on: latents of the images, drawn by standard normal noise, or the most probable ones without it,
    /// and scaled.
    ///
    /// # Shapes
    /// `images`: `[B, in_channels, H, W]`, `noise`: `[B, C, h, w]` → `[B, C, h, w]`
    ///
    /// # Panics
    /// If the number of channels is another.
    pub fn latents(&self, images: Tensor<4>, noise: Option<Tensor<4>>) -> Tensor<4> {
        let posterior = self.encode(images);
        self.scale(match noise {
            Some(noise) => posterior.sample(noise),
            None => posterior.mode(),
        })
    }

    /// Images from what diffusion has made: the way back from [`latents`](Self::latents).
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, out_channels, H, W]`
    ///
    /// # Panics
    /// If the number of channels is another.
    pub fn images(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decode(self.unscale(latents))
    }

    /// Latents as diffusion wants them, with about unit variance: (z − shift) · scale.
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, C, h, w]`
    pub fn scale(&self, z: Tensor<4>) -> Tensor<4> {
        (z - self.shift_factor) * self.scaling_factor
    }

    /// The inverse of [`scale`](Self::scale).
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, C, h, w]`
    pub fn unscale(&self, latents: Tensor<4>) -> Tensor<4> {
        latents / self.scaling_factor + self.shift_factor
    }

    /// [`encode`](Self::encode) with a hook and taps; [`Output::pred`] holds the moments of the [`Posterior`].
    ///
    /// # Shapes
    /// `[B, in_channels, H, W]` → `[B, 2·C, h, w]`
    ///
    /// # Panics
    /// If the number of channels is another, or the hook returns another kind of feature than the block does.
    pub fn encode_with(&self, x: Tensor<4>, ctx: Ctx<'_>) -> Output {
        let trace = &mut Trace::new(ctx);
        let mut moments = self.encoder.forward(x, trace);
        if let Some(conv) = &self.quant_conv {
            moments = trace.map(format_args!("quant_conv"), moments, |x| conv.convolve(x));
        }
        trace.output(moments)
    }

    /// [`decode`](Self::decode) with a hook and taps; [`Output::pred`] holds the images.
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, out_channels, H, W]`
    ///
    /// # Panics
    /// If the number of channels is another, or the hook returns another kind of feature than the block does.
    pub fn decode_with(&self, mut z: Tensor<4>, ctx: Ctx<'_>) -> Output {
        let trace = &mut Trace::new(ctx);
        if let Some(conv) = &self.post_quant_conv {
            z = trace.map(format_args!("post_quant_conv"), z, |z| conv.convolve(z));
        }
        let images = self.decoder.forward(z, trace);
        trace.output(images)
    }

    /// The names of the blocks, those of the encoder first, in the order in which they run.
    pub fn blocks(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.encoder.blocks(&mut names);
        names.extend(self.quant_conv.iter().map(|_| "quant_conv".to_owned()));
        names.extend(self.post_quant_conv.iter().map(|_| "post_quant_conv".to_owned()));
        self.decoder.blocks(&mut names);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_diffusion_has_its_published_size() {
        let config = AutoencoderKLConfig {
            layers_per_block: 2,
            ..AutoencoderKLConfig::with_channels(vec![128, 256, 512, 512])
        };
        config.validate().unwrap();
        assert_eq!(config.downsampling(), 8);
        // Nothing is drawn for this.
        assert_eq!(AutoencoderKL::new(&config, &Device::flex()).num_params(), 83_653_863);
    }
}
