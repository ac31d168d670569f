//! How much memory the backward pass needs, told from the settings alone.
//!
//! Counted is what the operations of the layers keep for their gradients, as the layers are built here: a group norm and its
//! activation keep five times their size together with the input of the convolution behind them, or twice where they are one
//! operation, attention with the features `cube` and `flex` none of its scores, and so on. Left out is what does not grow with the image, and the working
//! memory of single operations.

use crate::resnet::{ActFn, TimeScaleShift};
use crate::unet_blocks::{AttentionPlan, BlockPlan};
use crate::{Activation, DiTConfig, NetworkConfig, UNet2DConditionConfig, UNet2DConfig};

/// x − mean, and what it is divided to.
const NORM: f64 = 2.0;
/// The input of the three projections, what they make, and the input of the one behind.
const ATTENTION: f64 = 5.0;

impl NetworkConfig {
    /// About how many numbers a forward pass keeps for the backward pass, for each image of this height and width, without
    /// gradient checkpointing. An estimate for valid settings. `fused`: norms are one operation with what follows them, and so is
    /// GELU, as on the CPU with the feature `flex`.
    pub fn activations(&self, height: usize, width: usize, fused: bool) -> f64 {
        let pixels = height as f64 * width as f64;
        let kept = if fused { FUSED } else { APART };
        match self {
            Self::UNet2DModel(config) => unet(config, kept, pixels),
            Self::UNet2DConditionModel(config) => unet_condition(config, kept, pixels),
            Self::DiTTransformer2DModel(config) => dit(config, kept, pixels),
        }
    }
}

/// What is kept of layers that are one operation on some devices and several on others, in times of their size.
#[derive(Clone, Copy)]
struct Kept {
    /// Of a group norm by itself.
    norm: f64,
    /// With an activation and a convolution behind it.
    norm_conv: f64,
    /// With scale and shift by the embedding in between.
    norm_scale_conv: f64,
    /// Of a layer norm that the embedding scales and shifts.
    modulated_norm: f64,
    gelu: f64,
    gelu_approximate: f64,
}

/// A norm keeps x − mean and what it is divided to; SiLU its input and the sigmoid; a convolution its input; GELU x, the argument of
/// the error function, and one plus that, or x and its powers with the sigmoid and its argument.
const APART: Kept = Kept {
    norm: NORM,
    norm_conv: NORM + 3.0,
    norm_scale_conv: NORM + 4.0,
    modulated_norm: NORM + 1.0,
    gelu: 3.0,
    gelu_approximate: 6.0,
};
/// All keep their input.
const FUSED: Kept = Kept {
    norm: 1.0,
    norm_conv: 2.0,
    norm_scale_conv: 5.0,
    modulated_norm: 1.0,
    gelu: 1.0,
    gelu_approximate: 1.0,
};

impl Kept {
    /// Only SiLU is one operation with the norm before it.
    fn with(self, act: ActFn) -> Self {
        match act {
            ActFn::Silu | ActFn::Swish => self,
            _ => Self { norm_conv: APART.norm_conv, norm_scale_conv: APART.norm_scale_conv, ..self },
        }
    }
}

/// What the layers of a UNet have in common.
struct Layers {
    kept: Kept,
    /// Whether the embedding scales and shifts what the second norm of a residual block makes.
    scale_shift: bool,
    dropout: bool,
}

impl Layers {
    fn resnet(&self, channels_in: f64, channels: f64) -> f64 {
        let shortcut = if channels_in == channels { 0.0 } else { channels_in };
        // The mask, and what it is multiplied with.
        let dropout = if self.dropout { 2.0 * channels } else { 0.0 };
        let second = if self.scale_shift { self.kept.norm_scale_conv } else { self.kept.norm_conv };
        self.kept.norm_conv * channels_in + second * channels + shortcut + dropout
    }

    fn attention(&self, plan: &AttentionPlan, channels: f64) -> f64 {
        match plan {
            AttentionPlan::None => 0.0,
            AttentionPlan::Pixels { groups } => {
                let norm = if groups.is_some() { self.kept.norm } else { 0.0 };
                (norm + ATTENTION) * channels
            }
            AttentionPlan::Text(plan) => {
                let layers = plan.layers as f64;
                // Three norms, attention between pixels, and to the text, whose keys are short.
                let attention = 3.0 * NORM + ATTENTION + 3.0;
                // The input, both halves of what it becomes, GELU of four times the channels, the product and its factors.
                let feed_forward = 1.0 + 8.0 + 4.0 * self.kept.gelu + 4.0;
                // With a norm and a projection before and one after.
                layers * (attention + feed_forward) * channels + (self.kept.norm + 2.0) * channels
            }
        }
    }
}

fn unet(config: &UNet2DConfig, kept: Kept, pixels: f64) -> f64 {
    let layers = Layers {
        kept: kept.with(config.act_fn),
        scale_shift: config.resnet_time_scale_shift == TimeScaleShift::ScaleShift,
        dropout: config.dropout > 0.0,
    };
    let attention = match config.add_attention {
        true => AttentionPlan::Pixels { groups: config.mid_groups() },
        false => AttentionPlan::None,
    };
    let middle = config.mid_block_type.map(|_| (2, attention));
    ways(&layers, &config.down_plan(), middle, &config.up_plan(), config.in_channels, pixels)
}

fn unet_condition(config: &UNet2DConditionConfig, kept: Kept, pixels: f64) -> f64 {
    let layers = Layers {
        kept: kept.with(config.act_fn),
        scale_shift: config.resnet_time_scale_shift == TimeScaleShift::ScaleShift,
        dropout: config.dropout > 0.0,
    };
    let (down, up) = (config.down_plan(), config.up_plan());
    ways(&layers, &down, config.mid_plan(), &up, config.in_channels, pixels)
}

/// The way down, the middle, where there is attention between residual blocks, the way up, and both ends.
fn ways(
    layers: &Layers,
    down: &[BlockPlan],
    middle: Option<(usize, AttentionPlan)>,
    up: &[BlockPlan],
    in_channels: usize,
    mut pixels: f64,
) -> f64 {
    let mut x = down.first().map_or(0.0, |block| block.channels as f64);
    let mut skips = vec![x];
    let mut kept = (in_channels as f64 + layers.kept.norm_conv * x) * pixels;
    for (i, block) in down.iter().enumerate() {
        let channels = block.channels as f64;
        for _ in 0..block.layers {
            kept += (layers.resnet(x, channels) + layers.attention(&block.attention, channels)) * pixels;
            x = channels;
            skips.push(x);
        }
        if i + 1 < down.len() {
            kept += channels * pixels;
            pixels /= 4.0;
            skips.push(x);
        }
    }
    if let Some((resnets, attention)) = middle {
        kept += (resnets as f64 * layers.resnet(x, x) + layers.attention(&attention, x)) * pixels;
    }
    for (i, block) in up.iter().enumerate() {
        let channels = block.channels as f64;
        for _ in 0..block.layers {
            let both = x + skips.pop().unwrap_or(0.0);
            kept += (layers.resnet(both, channels) + layers.attention(&block.attention, channels)) * pixels;
            x = channels;
        }
        if i + 1 < up.len() {
            pixels *= 4.0;
            kept += channels * pixels;
        }
    }
    kept
}

fn dit(config: &DiTConfig, kept: Kept, pixels: f64) -> f64 {
    let patch = (config.patch_size * config.patch_size) as f64;
    let (tokens, width) = (pixels / patch, config.width() as f64);
    let gelu = match config.activation_fn {
        Activation::Gelu => kept.gelu,
        Activation::GeluApproximate => kept.gelu_approximate,
    };
    let dropout = if config.dropout > 0.0 { 2.0 * 2.0 } else { 0.0 };
    // Two norms, and two gates, which multiply what comes back.
    let around = 2.0 * kept.modulated_norm + 2.0;
    let feed_forward = 1.0 + 4.0 * gelu + 4.0;
    let block = (around + ATTENTION + feed_forward + dropout) * width;
    let ends = (config.in_channels * config.patch_size * config.patch_size) as f64
        + (kept.modulated_norm + 1.0) * width;
    (config.num_layers as f64 * block + ends) * tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_costs_more_the_larger_it_is_and_the_deeper_the_network() {
        for config in ["DiT-S/4", "DiT-B/2", "ddpm-cifar10", "adm-64", "stable-diffusion-1"] {
            let config = NetworkConfig::of_size(config).unwrap();
            let [small, large] = [32, 64].map(|side| config.activations(side, side, false));
            // Of pixels there are four times as many, and of what attention compares nothing is kept.
            assert_eq!(large, 4.0 * small);
        }
        let of = |name: &str| NetworkConfig::of_size(name).unwrap().activations(32, 32, false);
        for fused in ["ddpm-cifar10", "DiT-S/2"] {
            let config = NetworkConfig::of_size(fused).unwrap();
            assert!(config.activations(32, 32, true) < 0.6 * config.activations(32, 32, false));
        }
        // Twice as many layers, and more and wider heads.
        assert!(of("DiT-L/2") > 2.0 * of("DiT-B/2") && of("DiT-B/2") > of("DiT-B/4"));
    }
}
