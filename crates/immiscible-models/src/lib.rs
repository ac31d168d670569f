#![doc = include_str!("../README.md")]

mod activations;
mod ada_norm;
mod attention;
mod autoencoder_blocks;
mod autoencoder_kl;
mod checks;
mod clip_text;
mod clip_tokenizer;
mod condition;
mod convolution;
mod dit;
mod dit_blocks;
mod error;
#[cfg(feature = "flex")]
mod flex;
mod gelu;
mod group_norm;
mod hook;
mod linear;
mod lpips;
#[cfg(feature = "flex")]
mod matrix;
mod network;
#[cfg(feature = "flex")]
mod output;
mod pretrained;
mod resnet;
mod scaled_dot_product;
mod sizes;
mod text_encoder;
mod time;
mod transformer_2d;
mod unet;
mod unet_blocks;
mod unet_condition;
mod unet_condition_config;
mod unet_embedding;
mod unet_frame;
mod weights;
#[cfg(feature = "flex")]
mod wide;

pub use autoencoder_kl::{AutoencoderKL, AutoencoderKLConfig, Posterior};
pub use clip_text::{CLIPActivation, CLIPTextConfig, CLIPTextModel, TextOutput};
pub use clip_tokenizer::ClipTokenizer;
pub use condition::Condition;
pub use dit::{Activation, DiTConfig, DiTTransformer2DModel};
pub use error::ModelError;
pub use hook::{Ctx, Feature, Hook, Output, Precision};
pub use lpips::Lpips;
pub use network::{Build, Denoiser, NETWORKS, Network, NetworkConfig};
pub use pretrained::{ModelConfig, Pretrained};
pub use resnet::{ActFn, TimeScaleShift};
pub use sizes::{SIZES, Size};
pub use text_encoder::TextEncoder;
pub use time::TimeInput;
pub use unet::{DownBlockType, MidBlockType, UNet2DConfig, UNet2DModel, UpBlockType};
pub use unet_blocks::ResampleType;
pub use unet_condition::UNet2DConditionModel;
pub use unet_condition_config::{
    ConditionDownBlockType, ConditionMidBlockType, ConditionUpBlockType, PerBlock, UNet2DConditionConfig,
};
pub use unet_embedding::{ClassEmbedType, TimeEmbeddingType};
