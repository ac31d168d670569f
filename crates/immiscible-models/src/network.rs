use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::unet_frame::downsampling;
use crate::{
    ClassEmbedType, Condition, Ctx, DiTConfig, DiTTransformer2DModel, ModelError, Output, TimeInput,
    UNet2DConditionConfig, UNet2DConditionModel, UNet2DConfig, UNet2DModel, pretrained,
};

/// Makes the default settings of a network.
pub type Build = fn() -> NetworkConfig;

/// Every network by its name in a configuration, with diffusers' default settings.
///
/// For a network small enough for a test take [`NetworkConfig::tiny`] of what the function returns.
pub const NETWORKS: &[(&str, Build)] = &[
    ("dit", || NetworkConfig::DiTTransformer2DModel(DiTConfig::default())),
    ("unet", || NetworkConfig::UNet2DModel(UNet2DConfig::default())),
    ("unet-condition", || NetworkConfig::UNet2DConditionModel(UNet2DConditionConfig::default())),
];

/// Anything that predicts from a noisy sample: a [`Network`], or a wrapper around one.
pub trait Denoiser {
    /// The network's prediction for x_t at time t.
    ///
    /// # Shapes
    /// `x`: `[B, in_channels, H, W]`, `t` and `condition`: `B` rows each →
    /// [`Output::pred`]: `[B, out_channels, H, W]`
    ///
    /// # Panics
    /// If the shapes do not fit ([`NetworkConfig::accepts`] and [`NetworkConfig::text_channels`] tell
    /// beforehand), or a [`Hook`](crate::Hook)
    /// returns another kind of feature than the block does.
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output;
}

/// A trainable network.
///
/// An enum, not a trait object, because optimisers and records need a [`Module`]. Its tensors have the
/// names and layouts of diffusers' weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it, and it is moved, not copied")]
pub enum Network {
    /// A UNet.
    UNet2DModel(UNet2DModel),
    /// A UNet that attends to a text.
    UNet2DConditionModel(UNet2DConditionModel),
    /// A diffusion transformer.
    DiTTransformer2DModel(DiTTransformer2DModel),
}

impl Network {
    /// The names of the blocks that run through [`Ctx::hook`] and can be named in [`Ctx::taps`], in the
    /// order in which they begin.
    pub fn blocks(&self) -> Vec<String> {
        match self {
            Self::UNet2DModel(network) => network.blocks(),
            Self::UNet2DConditionModel(network) => network.blocks(),
            Self::DiTTransformer2DModel(network) => network.blocks(),
        }
    }
}

impl Denoiser for Network {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        match self {
            Self::UNet2DModel(network) => network.forward(x, t, condition, ctx),
            Self::UNet2DConditionModel(network) => network.forward(x, t, condition, ctx),
            Self::DiTTransformer2DModel(network) => network.forward(x, t, condition, ctx),
        }
    }
}

/// Settings of a [`Network`], told apart by `kind`, a name of [`NETWORKS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a program")]
pub enum NetworkConfig {
    /// Of a UNet.
    #[serde(rename = "unet")]
    UNet2DModel(UNet2DConfig),
    /// Of a UNet that attends to a text.
    #[serde(rename = "unet-condition")]
    UNet2DConditionModel(UNet2DConditionConfig),
    /// Of a diffusion transformer.
    #[serde(rename = "dit")]
    DiTTransformer2DModel(DiTConfig),
}

impl NetworkConfig {
    /// The name in [`NETWORKS`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::UNet2DModel(_) => "unet",
            Self::UNet2DConditionModel(_) => "unet-condition",
            Self::DiTTransformer2DModel(_) => "dit",
        }
    }

    /// The name of the class in diffusers.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::UNet2DModel(_) => "UNet2DModel",
            Self::UNet2DConditionModel(_) => "UNet2DConditionModel",
            Self::DiTTransformer2DModel(_) => "DiTTransformer2DModel",
        }
    }

    /// The smallest network of the same kind: thousands of parameters, 3×8×8 images, 10 classes.
    pub fn tiny(&self) -> Self {
        match self {
            Self::UNet2DModel(_) => Self::UNet2DModel(UNet2DConfig::tiny()),
            Self::UNet2DConditionModel(_) => Self::UNet2DConditionModel(UNet2DConditionConfig::tiny()),
            Self::DiTTransformer2DModel(_) => Self::DiTTransformer2DModel(DiTConfig::tiny()),
        }
    }

    /// The same network without dropout, which draws from the device's generator and so differs between devices.
    pub fn without_dropout(mut self) -> Self {
        let (Self::UNet2DModel(UNet2DConfig { dropout, .. })
        | Self::UNet2DConditionModel(UNet2DConditionConfig { dropout, .. })
        | Self::DiTTransformer2DModel(DiTConfig { dropout, .. })) = &mut self;
        *dropout = 0.0;
        self
    }

    /// Channels of x_t.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::UNet2DModel(config) => config.in_channels,
            Self::UNet2DConditionModel(config) => config.in_channels,
            Self::DiTTransformer2DModel(config) => config.in_channels,
        }
    }

    /// Channels of the prediction.
    pub fn out_channels(&self) -> usize {
        match self {
            Self::UNet2DModel(config) => config.out_channels,
            Self::UNet2DConditionModel(config) => config.out_channels,
            Self::DiTTransformer2DModel(config) => config.out_channels(),
        }
    }

    /// Height and width of the images, if they are fixed.
    pub fn sample_size(&self) -> Option<usize> {
        match self {
            Self::UNet2DModel(config) => config.sample_size,
            Self::UNet2DConditionModel(config) => config.sample_size,
            Self::DiTTransformer2DModel(config) => Some(config.sample_size),
        }
    }

    /// How many class indices the network has an embedding for, the null class included;
    /// `None` if it ignores the class.
    pub fn class_rows(&self) -> Option<usize> {
        match self {
            Self::UNet2DModel(config) => config.class_rows(),
            Self::UNet2DConditionModel(config) => config.class_rows(),
            Self::DiTTransformer2DModel(config) => Some(config.num_embeds_ada_norm + 1),
        }
    }

    /// How a UNet embeds the class; by a table, if at all, if absent.
    pub fn class_embed_type(&self) -> Option<ClassEmbedType> {
        match self {
            Self::UNet2DModel(config) => config.class_embed_type,
            Self::UNet2DConditionModel(config) => config.class_embed_type,
            Self::DiTTransformer2DModel(_) => None,
        }
    }

    /// Channels of the text that the network attends to; `None` if it attends to none.
    pub fn text_channels(&self) -> Option<usize> {
        match self {
            Self::UNet2DConditionModel(config) => Some(config.text_channels()),
            Self::UNet2DModel(_) | Self::DiTTransformer2DModel(_) => None,
        }
    }

    /// Whether the network can be built.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first field that stands against it.
    pub fn validate(&self) -> Result<(), ModelError> {
        match self {
            Self::UNet2DModel(config) => config.validate(),
            Self::UNet2DConditionModel(config) => config.validate(),
            Self::DiTTransformer2DModel(config) => config.validate(),
        }
    }

    /// Whether the network takes images of this shape.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the field the images do not fit.
    pub fn accepts(&self, channels: usize, height: usize, width: usize) -> Result<(), ModelError> {
        if channels != self.in_channels() {
            let remedy = format!("the images have {channels} channels; set it to {channels}");
            return Err(ModelError::config("in_channels", &self.in_channels(), remedy));
        }
        let (field, divisor, value) = match self {
            Self::UNet2DModel(UNet2DConfig { block_out_channels: channels, .. })
            | Self::UNet2DConditionModel(UNet2DConditionConfig { block_out_channels: channels, .. }) => {
                ("block_out_channels", downsampling(channels.len()), serde_json::json!(channels))
            }
            Self::DiTTransformer2DModel(config) => {
                ("patch_size", config.patch_size, config.patch_size.into())
            }
        };
        if !(height.is_multiple_of(divisor) && width.is_multiple_of(divisor)) {
            let remedy =
                format!("{height}×{width} images cannot be divided by {divisor}; pad them to a multiple");
            return Err(ModelError::config(field, &value, remedy));
        }
        Ok(())
    }

    /// The network, with fresh weights drawn from the device's generator.
    ///
    /// All weights are drawn before this returns, so `device.seed(s)` right before it gives the same
    /// weights each time, as long as no other thread draws meanwhile.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Network, ModelError> {
        self.validate()?;
        let network = match self {
            Self::UNet2DModel(config) => Network::UNet2DModel(UNet2DModel::new(config, device)),
            Self::UNet2DConditionModel(config) => {
                Network::UNet2DConditionModel(UNet2DConditionModel::new(config, device))
            }
            Self::DiTTransformer2DModel(config) => {
                Network::DiTTransformer2DModel(DiTTransformer2DModel::new(config, device))
            }
        };
        network.visit(&mut Draw);
        Ok(network)
    }

    /// The settings of a `config.json` written by diffusers, or by [`to_json`](Self::to_json).
    ///
    /// # Errors
    /// [`ModelError::Json`] for text that is no such file, [`ModelError::Config`] for a class, or
    /// settings, that this crate has no network for.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let (class, fields) = pretrained::fields(text)?;
        let config = match class.as_str() {
            Some("UNet2DModel") => Self::UNet2DModel(pretrained::parse(fields)?),
            Some("UNet2DConditionModel") => Self::UNet2DConditionModel(pretrained::parse(fields)?),
            Some("DiTTransformer2DModel") => Self::DiTTransformer2DModel(pretrained::parse(fields)?),
            _ => {
                let remedy = "this crate has UNet2DModel, UNet2DConditionModel and DiTTransformer2DModel";
                return Err(ModelError::config("_class_name", &class, remedy));
            }
        };
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` that diffusers reads.
    pub fn to_json(&self) -> String {
        match self {
            Self::UNet2DModel(config) => pretrained::write(config, self.class_name()),
            Self::UNet2DConditionModel(config) => pretrained::write(config, self.class_name()),
            Self::DiTTransformer2DModel(config) => pretrained::write(config, self.class_name()),
        }
    }
}

/// Draws the parameters, which Burn would otherwise draw at their first use.
pub(crate) struct Draw;

impl ModuleVisitor for Draw {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}
