use crate::{
    DiTConfig, DownBlockType, ModelError, NetworkConfig, PerBlock, ResampleType, TimeScaleShift,
    UNet2DConditionConfig, UNet2DConfig, UpBlockType,
};

/// A network that the literature knows by a name.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The name.
    pub name: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Parameters that were published, in millions. A [`DiTTransformer2DModel`](crate::DiTTransformer2DModel) has more, because
    /// every block of diffusers' layout holds the embedding of time and class that the paper's blocks share.
    pub millions: f64,
    config: fn() -> NetworkConfig,
}

impl Size {
    /// The settings, for the images and classes of the publication.
    pub fn config(&self) -> NetworkConfig {
        (self.config)()
    }
}

impl NetworkConfig {
    /// The settings of the size of this name in [`SIZES`].
    ///
    /// # Errors
    /// [`ModelError::Config`] with the names that there are.
    pub fn of_size(name: &str) -> Result<Self, ModelError> {
        let size = SIZES.iter().find(|size| size.name == name);
        size.map(Size::config).ok_or_else(|| {
            let names: Vec<_> = SIZES.iter().map(|size| size.name).collect();
            ModelError::config("size", &name, format!("known: {}", names.join(", ")))
        })
    }
}

const DIT: &str = "Peebles & Xie 2023, arXiv 2212.09748, table 4";
const DDPM: &str = "Ho et al. 2020, arXiv 2006.11239, appendix B";
const ADM: &str = "Dhariwal & Nichol 2021, arXiv 2105.05233, table 4; without its learned variance";
const LATENT: &str = "Rombach et al. 2022, arXiv 2112.10752, and its code";

/// Networks by the names that the literature gives them.
#[rustfmt::skip]
pub const SIZES: &[Size] = &[
    Size { name: "DiT-S/8", source: DIT, millions: 33.0, config: || dit(12, 6, 64, 8) },
    Size { name: "DiT-S/4", source: DIT, millions: 33.0, config: || dit(12, 6, 64, 4) },
    Size { name: "DiT-S/2", source: DIT, millions: 33.0, config: || dit(12, 6, 64, 2) },
    Size { name: "DiT-B/8", source: DIT, millions: 131.0, config: || dit(12, 12, 64, 8) },
    Size { name: "DiT-B/4", source: DIT, millions: 130.0, config: || dit(12, 12, 64, 4) },
    Size { name: "DiT-B/2", source: DIT, millions: 130.0, config: || dit(12, 12, 64, 2) },
    Size { name: "DiT-L/8", source: DIT, millions: 459.0, config: || dit(24, 16, 64, 8) },
    Size { name: "DiT-L/4", source: DIT, millions: 458.0, config: || dit(24, 16, 64, 4) },
    Size { name: "DiT-L/2", source: DIT, millions: 458.0, config: || dit(24, 16, 64, 2) },
    Size { name: "DiT-XL/8", source: DIT, millions: 676.0, config: || dit(28, 16, 72, 8) },
    Size { name: "DiT-XL/4", source: DIT, millions: 675.0, config: || dit(28, 16, 72, 4) },
    Size { name: "DiT-XL/2", source: DIT, millions: 675.0, config: || dit(28, 16, 72, 2) },
    Size { name: "ddpm-cifar10", source: DDPM, millions: 35.7, config: || ddpm(32, &[128, 256, 256, 256], 1) },
    Size { name: "ddpm-256", source: DDPM, millions: 114.0, config: || ddpm(256, &[128, 128, 256, 256, 512, 512], 4) },
    Size { name: "adm-64", source: ADM, millions: 296.0, config: adm_64 },
    Size { name: "stable-diffusion-1", source: LATENT, millions: 860.0, config: stable_diffusion_1 },
    Size { name: "stable-diffusion-2", source: LATENT, millions: 866.0, config: stable_diffusion_2 },
];

/// For latents of 256² images and the classes of ImageNet, with a learned variance.
fn dit(
    num_layers: usize,
    num_attention_heads: usize,
    attention_head_dim: usize,
    patch_size: usize,
) -> NetworkConfig {
    NetworkConfig::DiTTransformer2DModel(DiTConfig {
        num_layers,
        num_attention_heads,
        attention_head_dim,
        patch_size,
        out_channels: Some(8),
        ..DiTConfig::default()
    })
}

/// With attention at one resolution, counted from that of the images, which is 0.
fn ddpm(sample_size: usize, channels: &[usize], attention: usize) -> NetworkConfig {
    let resolutions = channels.len();
    let mut down_block_types = vec![DownBlockType::DownBlock2D; resolutions];
    down_block_types[attention] = DownBlockType::AttnDownBlock2D;
    let mut up_block_types = vec![UpBlockType::UpBlock2D; resolutions];
    up_block_types[resolutions - 1 - attention] = UpBlockType::AttnUpBlock2D;
    NetworkConfig::UNet2DModel(UNet2DConfig {
        sample_size: Some(sample_size),
        down_block_types,
        up_block_types,
        block_out_channels: channels.to_vec(),
        attention_head_dim: None,
        downsample_padding: 0,
        flip_sin_to_cos: false,
        freq_shift: 1,
        norm_eps: 1e-6,
        ..UNet2DConfig::default()
    })
}

fn adm_64() -> NetworkConfig {
    let mut down_block_types = vec![DownBlockType::AttnDownBlock2D; 4];
    down_block_types[0] = DownBlockType::ResnetDownsampleBlock2D;
    let mut up_block_types = vec![UpBlockType::AttnUpBlock2D; 4];
    up_block_types[3] = UpBlockType::ResnetUpsampleBlock2D;
    NetworkConfig::UNet2DModel(UNet2DConfig {
        sample_size: Some(64),
        down_block_types,
        up_block_types,
        block_out_channels: vec![192, 384, 576, 768],
        layers_per_block: 3,
        attention_head_dim: Some(64),
        attn_norm_num_groups: Some(32),
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        downsample_type: ResampleType::Resnet,
        upsample_type: ResampleType::Resnet,
        num_class_embeds: Some(1000),
        ..UNet2DConfig::default()
    })
}

fn stable_diffusion_1() -> NetworkConfig {
    NetworkConfig::UNet2DConditionModel(UNet2DConditionConfig {
        sample_size: Some(64),
        cross_attention_dim: PerBlock::All(768),
        ..UNet2DConditionConfig::default()
    })
}

fn stable_diffusion_2() -> NetworkConfig {
    NetworkConfig::UNet2DConditionModel(UNet2DConditionConfig {
        sample_size: Some(96),
        cross_attention_dim: PerBlock::All(1024),
        attention_head_dim: PerBlock::Each(vec![5, 10, 20, 20]),
        use_linear_projection: true,
        ..UNet2DConditionConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel};
    use burn::module::Module;
    use burn::tensor::Device;

    /// Networks that are not run have no weights yet, so this takes no memory.
    fn parameters(config: &NetworkConfig) -> usize {
        let device = &Device::flex();
        match config {
            NetworkConfig::UNet2DModel(config) => UNet2DModel::new(config, device).num_params(),
            NetworkConfig::UNet2DConditionModel(config) => {
                UNet2DConditionModel::new(config, device).num_params()
            }
            NetworkConfig::DiTTransformer2DModel(config) => {
                DiTTransformer2DModel::new(config, device).num_params()
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_literature() {
        for size in SIZES {
            let config = size.config();
            config.validate().unwrap();
            let mut count = parameters(&config);
            if let NetworkConfig::DiTTransformer2DModel(dit) = &config {
                let width = dit.width();
                let embedding =
                    (256 + 1) * width + (width + 1) * width + (dit.num_embeds_ada_norm + 1) * width;
                count -= (dit.num_layers - 1) * embedding;
            }
            let digit = if size.millions.fract() == 0.0 { 0.5 } else { 0.05 };
            let error = count as f64 / 1e6 - size.millions;
            assert!(
                error.abs() <= digit,
                "{}: {count} parameters, published {} million",
                size.name,
                size.millions
            );
        }
    }

    #[test]
    fn counts_are_those_of_the_weights_in_the_package() {
        for (name, count) in [
            ("ddpm-cifar10", 35_746_307),
            ("ddpm-256", 113_673_219),
            ("adm-64", 295_899_267),
            ("stable-diffusion-1", 859_520_964),
            ("stable-diffusion-2", 865_910_724),
        ] {
            assert_eq!(parameters(&NetworkConfig::of_size(name).unwrap()), count, "{name}");
        }
    }

    #[test]
    fn an_unknown_size_is_refused_with_the_known_ones() {
        let error = NetworkConfig::of_size("DiT-S/3").unwrap_err().to_string();
        assert!(error.contains("DiT-S/3") && error.contains("DiT-S/4"), "{error}");
    }
}
