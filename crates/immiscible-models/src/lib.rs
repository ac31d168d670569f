#![doc = include_str!("../README.md")]

mod attention;
mod checks;
mod condition;
mod dit;
mod dit_blocks;
mod error;
mod hook;
mod network;
mod time;
mod unet;
mod unet_blocks;
mod weights;

pub use condition::Condition;
pub use dit::{Activation, DiTConfig, DiTTransformer2DModel};
pub use error::ModelError;
pub use hook::{Ctx, Feature, Hook, Output};
pub use network::{Build, Denoiser, NETWORKS, Network, NetworkConfig};
pub use time::TimeInput;
pub use unet::{DownBlockType, UNet2DConfig, UNet2DModel, UpBlockType};
