//! Parity with the Python package, and what every network must do.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use immiscible_models::{
    Condition, Ctx, Denoiser, DiTConfig, Feature, Hook, ModelError, NETWORKS, Network, NetworkConfig,
    TimeInput, UNet2DConfig,
};

#[path = "models/autoencoder_kl.rs"]
mod autoencoder_kl;
#[path = "models/clip_text.rs"]
mod clip_text;
#[path = "models/dit.rs"]
mod dit;
#[path = "models/lpips.rs"]
mod lpips;
#[path = "models/parity.rs"]
mod parity;
#[path = "models/unet_2d.rs"]
mod unet_2d;
#[path = "models/unet_2d_condition.rs"]
mod unet_2d_condition;

/// Burn's generator belongs to the process, so tests that draw from it take turns.
static GENERATOR: Mutex<()> = Mutex::new(());

/// A network as a seed initialises it.
fn init(config: &NetworkConfig, seed: u64, device: &Device) -> Network {
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    config.init(device).unwrap()
}

/// A network whose weights are all away from zero.
fn shaken(config: &NetworkConfig, device: &Device) -> Network {
    struct Shake;
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|w| {
                let noise = w.random_like(Distribution::Normal(0.0, 0.2));
                let trained = w.is_autodiff();
                let w = (w + noise).detach();
                if trained { w.require_grad() } else { w }
            })
        }
    }
    let network = init(config, 0, device);
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(1);
    network.map(&mut Shake)
}

fn tiny() -> impl Iterator<Item = NetworkConfig> {
    NETWORKS.iter().map(|(_, build)| build().tiny())
}

/// x_t, times and classes of three samples, the same each time.
fn batch(config: &NetworkConfig, device: &Device) -> (Tensor<4>, TimeInput, Condition) {
    let shape = [3, config.in_channels(), 8, 8];
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin()).collect();
    let x = Tensor::from_data(TensorData::new(numbers, shape), device);
    (x, TimeInput::of(&[5.0, 421.5, 990.0], device), Condition::classes(&[3, 7, 0], device))
}

/// The states of four tokens for the three samples, for networks that attend to a text.
fn text(device: &Device) -> Tensor<3> {
    let numbers: Vec<f32> = (0..3 * 4 * 8).map(|i| (i as f32 * 1.3).cos()).collect();
    Tensor::from_data(TensorData::new(numbers, [3, 4, 8]), device)
}

fn predict(network: &Network, config: &NetworkConfig, device: &Device) -> Vec<f32> {
    let (x, t, condition) = batch(config, device);
    floats(network.forward(x, t, &condition, Ctx::default()).pred)
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.try_into_vec_as::<f32>().unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

mod conformance {
    use super::*;

    #[test]
    fn registry_is_sorted_and_builds() {
        assert!(NETWORKS.is_sorted_by_key(|(name, _)| *name));
        for (name, build) in NETWORKS {
            let config = build();
            assert_eq!(config.name(), *name);
            config.validate().unwrap();
            let tagged = serde_json::json!(config);
            assert_eq!(tagged["kind"], *name);
            assert_eq!(serde_json::from_value::<NetworkConfig>(tagged).unwrap(), config);

            let tiny = config.tiny();
            assert_eq!(tiny.name(), *name);
            tiny.accepts(3, 8, 8).unwrap();
            let network = init(&tiny, 0, &Device::flex());
            assert_eq!(
                network.num_params(),
                network.tensors().values().map(|shape| shape.iter().product::<usize>()).sum::<usize>()
            );
        }
    }

    #[test]
    fn prediction_has_the_shape_of_the_images() {
        let device = Device::flex();
        for config in tiny() {
            let network = init(&config, 0, &device);
            for [height, width] in [[8, 8], [8, 12], [16, 8]] {
                config.accepts(3, height, width).unwrap();
                let x = Tensor::ones([2, 3, height, width], &device);
                let t = TimeInput::of(&[1.0, 2.0], &device);
                let pred = network.forward(x, t, &Condition::None, Ctx::default()).pred;
                assert_eq!(pred.dims(), [2, config.out_channels(), height, width], "{}", config.name());
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_weights() {
        let device = Device::flex();
        for config in tiny() {
            let weights = |seed| init(&config, seed, &device).to_bytes().unwrap();
            assert_eq!(weights(7), weights(7), "{}", config.name());
            assert_ne!(weights(7), weights(8), "{}", config.name());
            // Nothing is left to be drawn at first use, which would depend on what was drawn before.
            let network = init(&config, 7, &device);
            {
                let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
                device.seed(99);
            }
            assert_eq!(network.to_bytes().unwrap(), weights(7), "{}", config.name());
        }
    }

    #[test]
    fn prediction_starts_at_zero() {
        let device = Device::flex();
        for config in tiny() {
            let pred = predict(&init(&config, 0, &device), &config, &device);
            assert!(pred.iter().all(|&v| v == 0.0), "{}", config.name());
        }
    }

    #[test]
    fn time_and_class_change_the_prediction() {
        let device = Device::flex();
        for config in tiny() {
            let network = shaken(&config, &device);
            let (x, t, condition) = batch(&config, &device);
            let of = |t: &TimeInput, condition: &Condition| {
                floats(network.forward(x.clone(), t.clone(), condition, Ctx::default()).pred)
            };
            let pred = of(&t, &condition);
            let per_sample = pred.len() / 3;
            let other = of(&TimeInput::of(&[5.0, 421.5, 991.0], &device), &condition);
            assert_eq!(pred[..2 * per_sample], other[..2 * per_sample], "{}", config.name());
            assert!(distance(&pred, &other) > 1e-5, "{}", config.name());

            let other = of(&t, &Condition::classes(&[3, 8, 0], &device));
            assert_eq!(pred[2 * per_sample..], other[2 * per_sample..], "{}", config.name());
            assert!(distance(&pred, &other) > 1e-3, "{}", config.name());
            assert!(distance(&pred, &of(&t, &Condition::None)) > 1e-3, "{}", config.name());
        }
    }

    #[test]
    fn gradients_reach_every_weight() {
        struct Check<'a> {
            grads: GradientsParams,
            path: Vec<String>,
            network: &'a str,
        }
        impl ModuleVisitor for Check<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.push(name.to_owned());
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let path = format!("{}: {}", self.network, self.path.join("."));
                let grad =
                    floats(self.grads.get::<D>(param.id).unwrap_or_else(|| panic!("{path}: no gradient")));
                let norm = grad.iter().map(|g| g * g).sum::<f32>().sqrt();
                assert!(norm.is_finite(), "{path}: {norm}");
                // A bias of the keys adds the same to all logits of a query, which softmax ignores.
                if !path.ends_with("to_k.bias") {
                    assert!(norm > 1e-7, "{path}: {norm:e}");
                }
            }
        }
        let device = Device::flex();
        let training = device.clone().autodiff();
        for config in tiny() {
            for training in [training.clone(), training.clone().gradient_checkpointing()] {
                let network = shaken(&config, &training);
                let (x, t, condition) = batch(&config, &device);
                let loss = |condition: &Condition| {
                    let pred = network.forward(x.clone(), t.clone(), condition, Ctx::default()).pred;
                    (pred.clone() * pred).mean()
                };
                // Attention to a text has gradients only where there is more than one token.
                let loss = loss(&condition) + loss(&Condition::Text(text(&device)));
                let grads = GradientsParams::from_grads(loss.backward(), &network);
                network.visit(&mut Check { grads, path: Vec::new(), network: config.name() });
            }
        }
    }
}

mod half_precision {
    use super::*;
    use burn::tensor::DType;
    use immiscible_models::Precision;

    /// The gradients of all weights, one after the other, and a type that each must have.
    struct Gradients(GradientsParams, Vec<f32>, DType);

    impl ModuleVisitor for Gradients {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).expect("a gradient");
            assert_eq!(gradient.dtype(), self.2);
            self.1.extend(floats(gradient));
        }
    }

    /// |a − b| / |a|
    fn error(a: &[f32], b: &[f32]) -> f32 {
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied())
    }

    #[test]
    fn predictions_and_gradients_are_nearly_those_of_single_precision() {
        let device = Device::flex();
        let training = device.clone().autodiff();
        for config in tiny() {
            for training in [training.clone(), training.clone().gradient_checkpointing()] {
                let network = shaken(&config, &training);
                let (x, t, class) = batch(&config, &device);
                let of = |precision| {
                    let ctx = Ctx { precision, ..Ctx::default() };
                    let pred = |condition| network.forward(x.clone(), t.clone(), condition, ctx).pred;
                    let preds = [pred(&class), pred(&Condition::Text(text(&device)))];
                    assert!(preds.iter().all(|pred| pred.dtype() == DType::F32));
                    let [class, text] = preds.each_ref().map(|pred| (pred.clone() * pred.clone()).mean());
                    let gradients = GradientsParams::from_grads((class + text).backward(), &network);
                    let mut gradients = Gradients(gradients, Vec::new(), DType::F32);
                    network.visit(&mut gradients);
                    (preds.map(floats).concat(), gradients.1)
                };
                let ((pred, gradient), half) = (of(Precision::F32), of(Precision::Bf16));
                // A number of 8 bits is off by up to 1/256; a network adds up many.
                for (what, error) in
                    [("prediction", error(&pred, &half.0)), ("gradient", error(&gradient, &half.1))]
                {
                    assert!((1e-4..0.03).contains(&error), "{} {what}: {error}", config.name());
                }
            }
        }
    }

    #[test]
    fn what_flows_between_the_layers_is_of_half_precision() {
        let device = Device::flex();
        for config in tiny() {
            let network = shaken(&config, &device);
            let (x, t, condition) = batch(&config, &device);
            let blocks = network.blocks();
            let names: Vec<&str> = blocks.iter().map(String::as_str).collect();
            let ctx = Ctx { taps: &names, precision: Precision::Bf16, ..Ctx::default() };
            for (name, feature) in network.forward(x, t, &condition, ctx).taps {
                let (dtype, expected) = match feature {
                    Feature::Vector(x) => (x.dtype(), DType::F32),
                    Feature::Tokens(x) => (x.dtype(), DType::BF16),
                    Feature::Map(x) => (x.dtype(), DType::BF16),
                    other => panic!("{other:?}"),
                };
                assert_eq!(dtype, expected, "{}: {name}", config.name());
            }
        }
    }
}

mod hooks {
    use super::*;

    /// Calls every block and notes its name.
    #[derive(Default)]
    struct Record(RefCell<Vec<String>>);

    impl Hook for Record {
        fn around(&self, block: &str, input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature {
            self.0.borrow_mut().push(block.to_owned());
            run(input)
        }
    }

    /// Replaces one block.
    struct Replace<'a>(&'a str, fn(Feature, &mut dyn FnMut(Feature) -> Feature) -> Feature);

    impl Hook for Replace<'_> {
        fn around(&self, block: &str, input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature {
            if block == self.0 { (self.1)(input, run) } else { run(input) }
        }
    }

    fn skip(input: Feature, _: &mut dyn FnMut(Feature) -> Feature) -> Feature {
        input
    }

    fn bend(input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature {
        match run(input) {
            Feature::Vector(x) => Feature::Vector(x.clone() * x.cos()),
            Feature::Tokens(x) => Feature::Tokens(x.clone() * x.cos()),
            Feature::Map(x) => Feature::Map(x.clone() * x.cos()),
            other => other,
        }
    }

    fn twice(input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature {
        Feature::Map(run(input).into_map() * 2.0)
    }

    fn values(feature: &Feature) -> Vec<f32> {
        match feature.clone() {
            Feature::Vector(x) => floats(x),
            Feature::Tokens(x) => floats(x),
            Feature::Map(x) => floats(x),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_named_block_runs_through_the_hook() {
        let device = Device::flex();
        for config in tiny() {
            let network = shaken(&config, &device);
            let (x, t, condition) = batch(&config, &device);
            let record = Record::default();
            let blocks = network.blocks();
            let names: Vec<&str> = blocks.iter().map(String::as_str).collect();
            let ctx = Ctx { hook: Some(&record), taps: &names, ..Ctx::default() };
            let output = network.forward(x, t, &condition, ctx);
            let mut seen = record.0.into_inner();
            assert_eq!(seen, blocks);
            assert_eq!(floats(output.pred), predict(&network, &config, &device));
            let mut tapped: Vec<String> = output.taps.into_iter().map(|(name, _)| name).collect();
            tapped.sort();
            seen.sort();
            assert_eq!(tapped, seen);
        }
        let names = |config: NetworkConfig| init(&config, 0, &device).blocks();
        let unet = names(NetworkConfig::UNet2DModel(UNet2DConfig::tiny()));
        for name in ["down_blocks.0.resnets.0", "down_blocks.0.downsamplers.0", "mid_block.attentions.0"] {
            assert!(unet.contains(&name.to_owned()), "{unet:?}");
        }
        let dit = names(NetworkConfig::DiTTransformer2DModel(DiTConfig::tiny()));
        assert!(dit.contains(&"transformer_blocks.1".to_owned()), "{dit:?}");
    }

    #[test]
    fn a_hook_can_change_every_block() {
        let device = Device::flex();
        for config in tiny() {
            let network = shaken(&config, &device);
            let plain = predict(&network, &config, &device);
            for block in network.blocks() {
                let hook = Replace(&block, bend);
                let (x, t, condition) = batch(&config, &device);
                let pred =
                    network.forward(x, t, &condition, Ctx { hook: Some(&hook), ..Ctx::default() }).pred;
                assert!(distance(&floats(pred), &plain) > 1e-4, "{block}");
            }
        }
    }

    #[test]
    fn a_hook_can_scale_the_prediction() {
        let device = Device::flex();
        let config = NETWORKS[1].1().tiny();
        let network = shaken(&config, &device);
        let (x, t, condition) = batch(&config, &device);
        let ctx = Ctx { hook: Some(&Replace("conv_out", twice)), ..Ctx::default() };
        let pred = floats(network.forward(x, t, &condition, ctx).pred);
        let plain = predict(&network, &config, &device);
        assert!(plain.iter().zip(pred).all(|(plain, scaled)| scaled == 2.0 * plain));
    }

    #[test]
    fn a_skipped_block_passes_its_input_on() {
        let device = Device::flex();
        for (config, before, block) in [
            (NETWORKS[0].1().tiny(), "transformer_blocks.0", "transformer_blocks.1"),
            (NETWORKS[1].1().tiny(), "mid_block.resnets.0", "mid_block.attentions.0"),
        ] {
            let network = shaken(&config, &device);
            let hook = Replace(block, skip);
            let (x, t, condition) = batch(&config, &device);
            let ctx = Ctx { hook: Some(&hook), taps: &[before, block], ..Ctx::default() };
            let output = network.forward(x, t, &condition, ctx);
            let [(first, a), (second, b)] = &output.taps[..] else { panic!("{:?}", output.taps) };
            assert_eq!([first.as_str(), second.as_str()], [before, block]);
            assert_eq!(values(a), values(b));
            assert!(distance(&floats(output.pred), &predict(&network, &config, &device)) > 1e-4);
        }
    }

    #[test]
    fn transformer_blocks_start_as_the_identity() {
        let device = Device::flex();
        let config = NETWORKS[0].1().tiny();
        let network = init(&config, 0, &device);
        let (x, t, condition) = batch(&config, &device);
        let taps = ["pos_embed", "transformer_blocks.0", "transformer_blocks.1"];
        let output = network.forward(x, t, &condition, Ctx { taps: &taps, ..Ctx::default() });
        assert_eq!(values(&output.taps[0].1), values(&output.taps[1].1));
        assert_eq!(values(&output.taps[0].1), values(&output.taps[2].1));
    }
}

mod weights {
    use super::*;

    #[test]
    fn saved_weights_come_back_bit_by_bit() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        for config in tiny() {
            let path = folder.path().join("weights.safetensors");
            let network = shaken(&config, &device);
            network.save(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), network.to_bytes().unwrap());
            let pred = predict(&network, &config, &device);

            let mut loaded = init(&config, 5, &device);
            loaded.load(&path).unwrap();
            assert_eq!(predict(&loaded, &config, &device), pred, "{}", config.name());
            assert_eq!(loaded.to_bytes().unwrap(), network.to_bytes().unwrap());

            let mut loaded = init(&config, 6, &device);
            loaded.load_bytes(network.to_bytes().unwrap()).unwrap();
            assert_eq!(predict(&loaded, &config, &device), pred, "{}", config.name());
        }
    }

    #[test]
    fn other_weights_are_refused_by_name() {
        let device = Device::flex();
        let config = UNet2DConfig::tiny();
        let bytes =
            |config: UNet2DConfig| init(&NetworkConfig::UNet2DModel(config), 0, &device).to_bytes().unwrap();
        let mut network = init(&NetworkConfig::UNet2DModel(config.clone()), 0, &device);
        let before = network.to_bytes().unwrap();
        let mut refused = |bytes| match network.load_bytes(bytes) {
            Err(error @ ModelError::Mismatch { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };

        let missing = refused(bytes(UNet2DConfig { num_class_embeds: None, ..config.clone() }));
        assert!(missing.contains("missing: class_embedding.weight"), "{missing}");
        let misshapen = refused(bytes(UNet2DConfig { num_class_embeds: Some(5), ..config.clone() }));
        assert!(misshapen.contains("class_embedding.weight (file [5, 32], network [11, 32])"), "{misshapen}");
        let extra = refused(bytes(UNet2DConfig { layers_per_block: 2, ..config.clone() }));
        assert!(extra.contains("not in the network: down_blocks.0.resnets.1.conv1.bias"), "{extra}");
        assert!(extra.contains("more"), "{extra}");
        assert_eq!(network.to_bytes().unwrap(), before);
    }

    #[test]
    fn broken_files_are_refused() {
        let config = NetworkConfig::DiTTransformer2DModel(DiTConfig::tiny());
        let mut network = init(&config, 0, &Device::flex());
        let mut bytes = network.to_bytes().unwrap();
        bytes.truncate(bytes.len() - 1);
        assert!(matches!(network.load_bytes(bytes), Err(ModelError::File { .. })));
        let error = network.load(Path::new("no/such.safetensors")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the weights `no/such.safetensors`"), "{error}");
        let error = network.save(Path::new("no/such/folder.safetensors")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the weights `no/such/folder.safetensors`"), "{error}");
    }
}

mod configs {
    use super::*;

    /// The field that an error must name, and what makes it wrong.
    type Spoilt<C> = (&'static str, fn(&mut C));

    fn refused(config: impl Into<Option<ModelError>>) -> (String, String) {
        match config.into() {
            Some(error @ ModelError::Config { field, .. }) => (field.to_owned(), error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_impossible_unet_names_the_field() {
        use immiscible_models::{DownBlockType, UpBlockType};
        let cases: [Spoilt<UNet2DConfig>; 19] = [
            ("in_channels", |c| c.in_channels = 0),
            ("out_channels", |c| c.out_channels = 0),
            ("layers_per_block", |c| c.layers_per_block = 0),
            ("norm_num_groups", |c| c.norm_num_groups = 0),
            ("sample_size", |c| c.sample_size = Some(0)),
            ("sample_size", |c| c.sample_size = Some(9)),
            ("time_embedding_dim", |c| c.time_embedding_dim = Some(0)),
            ("attention_head_dim", |c| c.attention_head_dim = Some(5)),
            ("num_class_embeds", |c| c.num_class_embeds = Some(0)),
            ("dropout", |c| c.dropout = 1.0),
            ("norm_eps", |c| c.norm_eps = f64::NAN),
            ("downsample_padding", |c| c.downsample_padding = 2),
            ("block_out_channels", |c| c.block_out_channels = vec![]),
            ("block_out_channels", |c| c.block_out_channels = vec![8, 15]),
            ("block_out_channels", |c| c.freq_shift = 4),
            ("down_block_types", |c| c.down_block_types.push(DownBlockType::DownBlock2D)),
            ("up_block_types", |c| c.up_block_types = vec![UpBlockType::UpBlock2D]),
            ("attn_norm_num_groups", |c| c.attn_norm_num_groups = Some(5)),
            ("mid_block_scale_factor", |c| c.mid_block_scale_factor = 0.0),
        ];
        for (field, spoil) in cases {
            let mut config = UNet2DConfig::tiny();
            spoil(&mut config);
            let (named, message) = refused(config.validate().err());
            assert_eq!(named, field, "{message}");
        }
        let config = UNet2DConfig { downsample_padding: 2, ..UNet2DConfig::tiny() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "network setting `downsample_padding` = 2 is not possible: use 0 or 1"
        );
        let error = NetworkConfig::UNet2DModel(config).init(&Device::flex()).unwrap_err();
        assert_eq!(refused(error).0, "downsample_padding");
    }

    #[test]
    fn an_impossible_dit_names_the_field() {
        let cases: [Spoilt<DiTConfig>; 9] = [
            ("num_attention_heads", |c| c.num_attention_heads = 0),
            ("attention_head_dim", |c| c.attention_head_dim = 3),
            ("out_channels", |c| c.out_channels = Some(0)),
            ("num_layers", |c| c.num_layers = 0),
            ("patch_size", |c| c.patch_size = 3),
            ("num_embeds_ada_norm", |c| c.num_embeds_ada_norm = 0),
            ("dropout", |c| c.dropout = -0.1),
            ("norm_type", |c| c.norm_type = "layer_norm".into()),
            ("norm_elementwise_affine", |c| c.norm_elementwise_affine = true),
        ];
        for (field, spoil) in cases {
            let mut config = DiTConfig::tiny();
            spoil(&mut config);
            let (named, message) = refused(config.validate().err());
            assert_eq!(named, field, "{message}");
        }
    }

    #[test]
    fn images_that_do_not_fit_name_the_field() {
        let fields = [
            ["in_channels", "patch_size"],
            ["in_channels", "block_out_channels"],
            ["in_channels", "block_out_channels"],
        ];
        assert_eq!(fields.len(), NETWORKS.len());
        for (config, [channels, size]) in tiny().zip(fields) {
            assert_eq!(refused(config.accepts(1, 8, 8).err()).0, channels);
            assert_eq!(refused(config.accepts(3, 8, 7).err()).0, size);
        }
    }

    #[test]
    fn unknown_fields_values_and_classes_are_refused() {
        let error = |text: &str| NetworkConfig::from_json(text).unwrap_err().to_string();
        let message = error(r#"{"_class_name": "UNet2DModel", "layers": 2}"#);
        assert!(message.contains("unknown field `layers`"), "{message}");
        let message = error(r#"{"_class_name": "UNet2DModel", "down_block_types": ["SkipDownBlock2D"]}"#);
        assert!(message.contains("SkipDownBlock2D") && message.contains("AttnDownBlock2D"), "{message}");
        let message = error(r#"{"_class_name": "DiTTransformer2DModel", "norm_type": "layer_norm"}"#);
        assert!(message.contains("`norm_type` = \"layer_norm\""), "{message}");
        let message = error(r#"{"_class_name": "AutoencoderKL"}"#);
        assert!(message.contains("AutoencoderKL"), "{message}");
        let error = serde_json::from_str::<NetworkConfig>(r#"{"kind": "unet", "layers": 2}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `layers`"), "{error}");
    }
}

#[test]
fn times_fall_into_buckets() {
    let t = TimeInput::of(&[0.0, 0.9, 421.5, 999.0, 1000.0], &Device::flex());
    assert_eq!(t.idx.try_into_vec_as::<i64>().unwrap(), [0, 0, 421, 999, 999]);
    assert_eq!(floats(t.u), [0.0, 0.9, 421.5, 999.0, 1000.0]);
}

#[test]
fn conditions_can_be_cut_and_reordered() {
    let device = Device::flex();
    let labels = |condition: Condition| match condition {
        Condition::Class(labels) => labels.try_into_vec_as::<i64>().unwrap(),
        other => panic!("{other:?}"),
    };
    let condition = Condition::classes(&[4, 5, 6], &device);
    assert_eq!((condition.batch(), Condition::None.batch()), (Some(3), None));
    assert_eq!(labels(condition.slice(1..3)), [5, 6]);
    let rows = || Tensor::from_ints([2, 0, 2], &device);
    assert_eq!(labels(condition.select(rows())), [6, 4, 6]);

    let vectors = |condition: Condition| match condition {
        Condition::Embedding(vectors) => floats(vectors),
        Condition::Text(states) => floats(states),
        other => panic!("{other:?}"),
    };
    let numbers = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &device);
    let embedding = Condition::Embedding(numbers.clone().reshape([3, 2]));
    let text = Condition::Text(numbers.reshape([3, 2, 1]));
    for condition in [embedding, text] {
        assert_eq!(condition.batch(), Some(3));
        assert_eq!(vectors(condition.slice(1..3)), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(vectors(condition.select(rows())), [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
    }
}
