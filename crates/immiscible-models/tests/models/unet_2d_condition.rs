//! [`UNet2DConditionModel`](immiscible_models::UNet2DConditionModel): parity with the package, flag by
//! flag, and its text.

use immiscible_models::{
    ConditionDownBlockType, ConditionMidBlockType, ConditionUpBlockType, PerBlock, TimeEmbeddingType,
    UNet2DConditionConfig,
};

use super::parity::{assert_defaults, assert_parity, assert_round_trip, folders};
use super::*;

#[test]
fn predictions_and_gradients_are_the_packages() {
    let folders = folders("unet_2d_condition");
    assert_eq!(folders.len(), 12);
    folders.iter().for_each(|folder| assert_parity(folder));
}

#[test]
fn folders_survive_a_round_trip() {
    folders("unet_2d_condition").iter().for_each(|folder| assert_round_trip(folder));
}

#[test]
fn defaults_are_the_packages() {
    assert_defaults(
        "unet_2d_condition",
        &NetworkConfig::UNet2DConditionModel(UNet2DConditionConfig::default()),
    );
}

fn tiny() -> NetworkConfig {
    NetworkConfig::UNet2DConditionModel(UNet2DConditionConfig::tiny())
}

#[test]
fn every_token_changes_the_prediction_of_its_sample() {
    let device = Device::flex();
    let config = tiny();
    let network = shaken(&config, &device);
    let (x, t, _) = batch(&config, &device);
    let of =
        |condition: &Condition| floats(network.forward(x.clone(), t.clone(), condition, Ctx::default()).pred);
    let states = text(&device);
    let pred = of(&Condition::Text(states.clone()));
    let per_sample = pred.len() / 3;
    for token in 0..4 {
        let one = states.clone().slice([1..2, token..token + 1]) + 0.5;
        let other = of(&Condition::Text(states.clone().slice_assign([1..2, token..token + 1], one)));
        assert_eq!(pred[..per_sample], other[..per_sample]);
        assert_eq!(pred[2 * per_sample..], other[2 * per_sample..]);
        assert!(distance(&pred, &other) > 1e-4, "{token}");
    }
}

#[test]
fn without_a_text_there_is_a_token_of_zeros() {
    let device = Device::flex();
    assert_eq!(tiny().text_channels(), Some(8));
    let network = shaken(&tiny(), &device);
    let (x, t, _) = batch(&tiny(), &device);
    let of =
        |condition: &Condition| floats(network.forward(x.clone(), t.clone(), condition, Ctx::default()).pred);
    assert_eq!(of(&Condition::None), of(&Condition::Text(Tensor::zeros([3, 1, 8], &device))));
    assert!(distance(&of(&Condition::None), &of(&Condition::Text(text(&device)))) > 1e-3);
}

#[test]
fn blocks_inside_transformers_have_names() {
    let blocks = init(&tiny(), 0, &Device::flex()).blocks();
    for name in [
        "down_blocks.0.attentions.0",
        "mid_block.attentions.0.transformer_blocks.0",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
    ] {
        assert!(blocks.contains(&name.to_owned()), "{name}: {blocks:?}");
    }
}

#[test]
fn other_texts_need_other_weights() {
    let device = Device::flex();
    let config =
        UNet2DConditionConfig { cross_attention_dim: PerBlock::All(6), ..UNet2DConditionConfig::tiny() };
    let bytes = init(&NetworkConfig::UNet2DConditionModel(config), 0, &device).to_bytes().unwrap();
    let error = init(&tiny(), 0, &device).load_bytes(bytes).unwrap_err();
    let ModelError::Mismatch { missing, extra, misshapen } = error else { panic!("{error}") };
    assert!(missing.is_empty() && extra.is_empty());
    let name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    assert!(misshapen.contains(&format!("{name} (file [8, 6], network [8, 8])")), "{misshapen:?}");
}

#[test]
fn impossible_settings_are_named() {
    type Spoil = fn(&mut UNet2DConditionConfig);
    let cases: [(&str, Spoil); 36] = [
        ("in_channels", |c| c.in_channels = 0),
        ("out_channels", |c| c.out_channels = 0),
        ("sample_size", |c| c.sample_size = Some(7)),
        ("norm_num_groups", |c| c.norm_num_groups = 0),
        ("block_out_channels", |c| c.block_out_channels = vec![]),
        ("block_out_channels", |c| c.block_out_channels = vec![8, 10]),
        ("block_out_channels", |c| c.freq_shift = 4),
        ("down_block_types", |c| c.down_block_types.push(ConditionDownBlockType::DownBlock2D)),
        ("up_block_types", |c| c.up_block_types = vec![ConditionUpBlockType::UpBlock2D]),
        ("layers_per_block", |c| c.layers_per_block = PerBlock::All(0)),
        ("layers_per_block", |c| c.layers_per_block = PerBlock::Each(vec![1])),
        ("transformer_layers_per_block", |c| c.transformer_layers_per_block = PerBlock::Each(vec![1, 0])),
        ("only_cross_attention", |c| c.only_cross_attention = PerBlock::Each(vec![true; 3])),
        ("attention_head_dim", |c| c.attention_head_dim = PerBlock::Each(vec![])),
        ("attention_head_dim", |c| c.attention_head_dim = PerBlock::All(0)),
        ("attention_head_dim", |c| c.attention_head_dim = PerBlock::Each(vec![3, 2])),
        ("cross_attention_dim", |c| c.cross_attention_dim = PerBlock::Each(vec![8, 9])),
        ("cross_attention_dim", |c| c.cross_attention_dim = PerBlock::All(0)),
        ("mid_block_scale_factor", |c| c.mid_block_scale_factor = -1.0),
        ("dropout", |c| c.dropout = 1.0),
        ("num_attention_heads", |c| c.num_attention_heads = Some(PerBlock::All(2))),
        ("reverse_transformer_layers_per_block", |c| c.reverse_transformer_layers_per_block = Some(1.into())),
        ("encoder_hid_dim", |c| c.encoder_hid_dim = Some(8)),
        ("encoder_hid_dim_type", |c| c.encoder_hid_dim_type = Some("text_proj".into())),
        ("dual_cross_attention", |c| c.dual_cross_attention = true),
        ("addition_embed_type", |c| c.addition_embed_type = Some("text_time".into())),
        ("addition_time_embed_dim", |c| c.addition_time_embed_dim = Some(256)),
        ("resnet_skip_time_act", |c| c.resnet_skip_time_act = true),
        ("resnet_out_scale_factor", |c| c.resnet_out_scale_factor = 1.4),
        ("time_embedding_type", |c| c.time_embedding_type = TimeEmbeddingType::Fourier),
        ("time_embedding_act_fn", |c| c.time_embedding_act_fn = Some("silu".into())),
        ("time_cond_proj_dim", |c| c.time_cond_proj_dim = Some(256)),
        ("conv_in_kernel", |c| c.conv_in_kernel = 1),
        ("attention_type", |c| c.attention_type = "gated".into()),
        ("class_embeddings_concat", |c| c.class_embeddings_concat = true),
        ("cross_attention_norm", |c| c.cross_attention_norm = Some("layer_norm".into())),
    ];
    for (field, spoil) in cases {
        let mut config = UNet2DConditionConfig::tiny();
        spoil(&mut config);
        match config.validate() {
            Err(ModelError::Config { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    for (field, value) in [
        ("mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\""),
        ("class_embed_type", "\"simple_projection\""),
        ("transformer_layers_per_block", "[[1, 2], 1]"),
        ("down_block_types", "[\"KDownBlock2D\"]"),
    ] {
        let text = format!("{{\"_class_name\": \"UNet2DConditionModel\", \"{field}\": {value}}}");
        let error = NetworkConfig::from_json(&text).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
    // Heads that do not divide channels without attention do no harm.
    let config = UNet2DConditionConfig {
        mid_block_type: Some(ConditionMidBlockType::UNetMidBlock2D),
        attention_head_dim: PerBlock::Each(vec![2, 3]),
        ..UNet2DConditionConfig::tiny()
    };
    config.validate().unwrap();
}
