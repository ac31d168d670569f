//! [`UNet2DModel`](immiscible_models::UNet2DModel): parity with the package, flag by flag.

use immiscible_models::{ClassEmbedType, TimeEmbeddingType};

use super::parity::{assert_defaults, assert_parity, assert_round_trip, folders};
use super::*;

#[test]
fn predictions_and_gradients_are_the_packages() {
    let folders = folders("unet_2d");
    assert_eq!(folders.len(), 14);
    folders.iter().for_each(|folder| assert_parity(folder));
}

#[test]
fn folders_survive_a_round_trip() {
    folders("unet_2d").iter().for_each(|folder| assert_round_trip(folder));
}

#[test]
fn defaults_are_the_packages() {
    assert_defaults("unet_2d", &NetworkConfig::UNet2DModel(UNet2DConfig::default()));
}

#[test]
fn frequencies_are_not_trained() {
    let device = Device::flex();
    let config = NetworkConfig::UNet2DModel(UNet2DConfig {
        time_embedding_type: TimeEmbeddingType::Fourier,
        ..UNet2DConfig::tiny()
    });
    let network = init(&config, 0, &device.clone().autodiff());
    let (x, t, condition) = batch(&config, &device);
    let pred = network.forward(x, t, &condition, Ctx::default()).pred;
    let gradients = GradientsParams::from_grads(pred.mean().backward(), &network);
    assert_eq!(gradients.len(), network.tensors().len() - 1);
    assert!(network.tensors().contains_key("time_proj.weight"));
}

#[test]
fn an_embedding_from_outside_is_added() {
    let device = Device::flex();
    let config = NetworkConfig::UNet2DModel(UNet2DConfig {
        class_embed_type: Some(ClassEmbedType::Identity),
        ..UNet2DConfig::tiny()
    });
    assert_eq!(config.class_rows(), None);
    let network = shaken(&config, &device);
    assert!(!network.tensors().contains_key("class_embedding.weight"));
    let (x, t, class) = batch(&config, &device);
    let of =
        |condition: &Condition| floats(network.forward(x.clone(), t.clone(), condition, Ctx::default()).pred);
    assert_eq!(of(&class), of(&Condition::None));
    assert_eq!(of(&Condition::Embedding(Tensor::zeros([3, 32], &device))), of(&Condition::None));
    let ones = Condition::Embedding(Tensor::ones([3, 32], &device));
    assert!(distance(&of(&ones), &of(&Condition::None)) > 1e-3);
}

#[test]
fn a_network_without_a_middle_names_no_block_there() {
    let config = UNet2DConfig { mid_block_type: None, ..UNet2DConfig::tiny() };
    let network = init(&NetworkConfig::UNet2DModel(config), 0, &Device::flex());
    assert!(network.blocks().iter().all(|block| !block.starts_with("mid_block")));
}

#[test]
fn impossible_settings_are_named() {
    type Case = (&'static str, fn(&mut UNet2DConfig));
    let cases: [Case; 8] = [
        ("attn_norm_num_groups", |c| c.attn_norm_num_groups = Some(0)),
        ("attn_norm_num_groups", |c| c.attn_norm_num_groups = Some(3)),
        ("mid_block_scale_factor", |c| c.mid_block_scale_factor = 0.0),
        ("mid_block_scale_factor", |c| c.mid_block_scale_factor = f64::NAN),
        ("num_train_timesteps", |c| c.time_embedding_type = TimeEmbeddingType::Learned),
        ("num_train_timesteps", |c| {
            c.time_embedding_type = TimeEmbeddingType::Learned;
            c.num_train_timesteps = Some(100);
        }),
        ("class_embed_type", |c| {
            c.time_embedding_type = TimeEmbeddingType::Fourier;
            c.class_embed_type = Some(ClassEmbedType::Timestep);
        }),
        ("block_out_channels", |c| c.block_out_channels = vec![0, 8]),
    ];
    for (field, spoil) in cases {
        let mut config = UNet2DConfig::tiny();
        spoil(&mut config);
        match config.validate() {
            Err(ModelError::Config { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    for (field, value) in [
        ("act_fn", "\"tanh\""),
        ("resnet_time_scale_shift", "\"spatial\""),
        ("downsample_type", "\"fir\""),
        ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
        ("class_embed_type", "\"projection\""),
        ("down_block_types", "[\"AttnSkipDownBlock2D\"]"),
        ("layers_per_block", "-1"),
    ] {
        let text = format!("{{\"_class_name\": \"UNet2DModel\", \"{field}\": {value}}}");
        let error = NetworkConfig::from_json(&text).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}
