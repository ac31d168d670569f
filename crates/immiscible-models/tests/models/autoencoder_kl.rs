//! The autoencoder: parity with the Python package, its posterior, its settings.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, ModuleStore, SafetensorsStore, bridge};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_models::{
    AutoencoderKL, AutoencoderKLConfig, Ctx, Feature, Hook, ModelConfig, ModelError, Posterior, Pretrained,
};
use serde_json::{Map, Value};

use super::{GENERATOR, distance, floats};

const FOLDERS: [&str; 3] = ["autoencoder_kl", "autoencoder_kl_flat", "autoencoder_kl_former"];

type Autoencoder = Pretrained<AutoencoderKLConfig>;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A folder's model, which draws weights before it replaces them.
fn read(folder: &Path, device: &Device) -> Result<Autoencoder, ModelError> {
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    Pretrained::from_pretrained(folder, device)
}

fn load(name: &str, device: &Device) -> Autoencoder {
    read(&golden(name), device).unwrap()
}

fn init(config: &AutoencoderKLConfig, seed: u64, device: &Device) -> AutoencoderKL {
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    config.init(device).unwrap()
}

/// The tensors of a file of weights, or of inputs and outputs.
fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let mut store = SafetensorsStore::from_file(path);
    let tensors = store.get_all_tensors().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), bridge::to_data(tensor).unwrap())).collect()
}

fn io(name: &str) -> BTreeMap<String, TensorData> {
    tensors(&golden(name).join("io.safetensors"))
}

fn settings(folder: &Path) -> Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

/// Two images, the same each time.
fn images(device: &Device) -> Tensor<4> {
    let numbers: Vec<f32> = (0..2 * 3 * 8 * 8).map(|i| (i as f32 * 0.7).sin()).collect();
    Tensor::from_data(TensorData::new(numbers, [2, 3, 8, 8]), device)
}

/// max |Δ| / max |expected|
fn relative(actual: &[f32], expected: &[f32]) -> f32 {
    distance(actual, expected) / expected.iter().map(|v| v.abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The gradient of every weight, in the package's names and layouts.
fn gradients(network: &AutoencoderKL, loss: Tensor<1>) -> BTreeMap<String, Vec<f32>> {
    struct Gradients(GradientsParams);
    impl ModuleMapper for Gradients {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let gradient = self.0.remove(param.id).expect("a gradient");
            param.map(|_| gradient)
        }
    }
    let gradients = GradientsParams::from_grads(loss.backward(), network);
    let network = network.clone().map(&mut Gradients(gradients));
    let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    let values = |tensor: &_| bridge::to_data(tensor).unwrap().try_to_vec::<f32>().unwrap();
    tensors.into_iter().map(|tensor| (tensor.name.clone(), values(&tensor))).collect()
}

#[test]
fn outputs_and_gradients_are_the_packages() {
    let device = Device::flex();
    for name in FOLDERS {
        let Pretrained { config, network } = load(name, &device.clone().autodiff());
        let io = io(name);
        let input = |key: &str| Tensor::<4>::from_data(io[key].clone(), &device);
        let check = |key: &str, actual: Vec<f32>| {
            let error = relative(&actual, &io[key].try_to_vec::<f32>().unwrap());
            println!("{name}: {key} {error:.1e}");
            assert!(error <= 1e-4, "{name}: {key} is off by {error:e}");
        };

        let x = input("x");
        let [_, channels, height, width] = x.dims();
        config.accepts(channels, height, width).unwrap();
        let posterior = network.encode(x.clone());
        let sample = posterior.sample(input("noise"));
        let out = network.decode(sample.clone());
        check("mean", floats(posterior.mode()));
        check("logvar", floats(posterior.logvar.clone()));
        check("kl", floats(posterior.kl()));
        check("sample", floats(sample));
        check("latents", floats(network.latents(x, Some(input("noise")))));
        check("out", floats(network.images(input("latents"))));
        check("out", floats(out.clone()));

        let gradients = gradients(&network, out.square().mean());
        let mut expected =
            io.iter().filter_map(|(key, data)| Some((key.strip_prefix("grad.")?, data))).peekable();
        assert!(expected.peek().is_some(), "{name}");
        for (weight, data) in expected {
            let cosine = cosine(&gradients[weight], &data.try_to_vec::<f32>().unwrap());
            let error = relative(&gradients[weight], &data.try_to_vec::<f32>().unwrap());
            println!("{name}: gradient of {weight}, 1 - cosine {:.1e}, error {error:.1e}", 1.0 - cosine);
            assert!(cosine > 0.9999, "{name}: the gradient of {weight} has cosine {cosine}");
            assert!(error <= 1e-3, "{name}: the gradient of {weight} is off by {error:e}");
        }
    }
}

#[test]
fn a_saved_folder_comes_back() {
    let device = Device::flex();
    for name in FOLDERS {
        let autoencoder = load(name, &device);
        let folder = tempfile::tempdir().unwrap();
        autoencoder.save_pretrained(folder.path()).unwrap();
        let again = read(folder.path(), &device).unwrap();
        assert_eq!(again.config, autoencoder.config);

        let x = Tensor::<4>::from_data(io(name)["x"].clone(), &device);
        let reconstruct = |network: &AutoencoderKL| floats(network.images(network.latents(x.clone(), None)));
        assert_eq!(reconstruct(&again.network), reconstruct(&autoencoder.network), "{name}");

        let mut expected = settings(&golden(name));
        expected.remove("_diffusers_version");
        assert_eq!(settings(folder.path()), expected, "{name}");
    }
}

#[test]
fn former_names_are_read_and_todays_are_written() {
    const FILE: &str = "diffusion_pytorch_model.safetensors";
    let prefix = "encoder.mid_block.attentions.0.";
    let before = tensors(&golden("autoencoder_kl_former").join(FILE));
    let folder = tempfile::tempdir().unwrap();
    load("autoencoder_kl_former", &Device::flex()).save_pretrained(folder.path()).unwrap();
    let after = tensors(&folder.path().join(FILE));
    assert_eq!(after.len(), before.len());
    for (former, today) in [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")]
    {
        for part in ["weight", "bias"] {
            let (former, today) = (format!("{prefix}{former}.{part}"), format!("{prefix}{today}.{part}"));
            assert_eq!(before[&former], after[&today], "{today}");
        }
    }
}

#[test]
fn defaults_are_the_packages() {
    let text = std::fs::read_to_string(golden("autoencoder_kl_defaults.json")).unwrap();
    let mut expected: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let config = AutoencoderKLConfig::default();
    config.validate().unwrap();
    expected.insert("_class_name".into(), "AutoencoderKL".into());
    let own: Map<String, Value> = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(own, expected);
}

#[test]
fn impossible_settings_name_the_field() {
    type Spoil = fn(&mut AutoencoderKLConfig);
    let cases: [(&str, Spoil); 17] = [
        ("in_channels", |c| c.in_channels = 0),
        ("out_channels", |c| c.out_channels = 0),
        ("latent_channels", |c| c.latent_channels = 0),
        ("layers_per_block", |c| c.layers_per_block = 0),
        ("norm_num_groups", |c| c.norm_num_groups = 0),
        ("sample_size", |c| c.sample_size = 0),
        ("block_out_channels", |c| c.block_out_channels = vec![]),
        ("block_out_channels", |c| c.block_out_channels = vec![8, 13]),
        ("block_out_channels", |c| c.block_out_channels = vec![8, 0]),
        ("down_block_types", |c| c.down_block_types[1] = "AttnDownEncoderBlock2D".into()),
        ("up_block_types", |c| c.up_block_types.truncate(1)),
        ("act_fn", |c| c.act_fn = "relu".into()),
        ("scaling_factor", |c| c.scaling_factor = 0.0),
        ("scaling_factor", |c| c.scaling_factor = f64::NAN),
        ("shift_factor", |c| c.shift_factor = Some(f64::INFINITY)),
        ("latents_mean", |c| c.latents_mean = Some(vec![0.5])),
        ("latents_std", |c| c.latents_std = Some(vec![0.5])),
    ];
    for (field, spoil) in cases {
        let mut config = AutoencoderKLConfig::tiny();
        spoil(&mut config);
        match config.init(&Device::flex()) {
            Err(ModelError::Config { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}

#[test]
fn files_of_something_else_are_refused() {
    let error = |text: &str| AutoencoderKLConfig::from_json(text).unwrap_err().to_string();
    let message = error(r#"{"_class_name": "VQModel"}"#);
    assert!(message.contains("\"VQModel\"") && message.contains("AutoencoderKL"), "{message}");
    let message = error(r#"{"_class_name": "AutoencoderKL", "num_vq_embeddings": 256}"#);
    assert!(message.contains("unknown field `num_vq_embeddings`"), "{message}");
    let message = error(r#"{"_class_name": "AutoencoderKL", "act_fn": "mish"}"#);
    assert!(message.contains("`act_fn` = \"mish\""), "{message}");
    assert!(matches!(AutoencoderKLConfig::from_json("{"), Err(ModelError::Json(_))));
}

#[test]
fn other_weights_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let autoencoder = load("autoencoder_kl", &device);
    let refused = |change: fn(&mut AutoencoderKLConfig)| {
        let mut config = autoencoder.config.clone();
        change(&mut config);
        autoencoder.save_pretrained(folder.path()).unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_json()).unwrap();
        match read(folder.path(), &device) {
            Err(error @ ModelError::Mismatch { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let extra = refused(|c| c.use_quant_conv = false);
    assert!(extra.contains("not in the network: quant_conv.bias, quant_conv.weight"), "{extra}");
    let missing = refused(|c| c.layers_per_block = 2);
    assert!(missing.contains("missing: decoder.up_blocks.0.resnets.2.conv1.bias"), "{missing}");
    let misshapen = refused(|c| c.latent_channels = 3);
    assert!(misshapen.contains("quant_conv.weight (file [4, 4, 1, 1], network [3, 3, 1, 1])"), "{misshapen}");
}

#[test]
fn images_that_do_not_fit_name_the_field() {
    let config = AutoencoderKLConfig::tiny();
    for (shape, field) in [([1, 8, 8], "in_channels"), ([3, 8, 7], "block_out_channels")] {
        match config.accepts(shape[0], shape[1], shape[2]) {
            Err(ModelError::Config { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{shape:?}: {other:?}"),
        }
    }
    let device = Device::flex();
    let network = init(&config, 0, &device);
    for [height, width] in [[8, 8], [2, 14], [16, 8]] {
        config.accepts(3, height, width).unwrap();
        let latents = network.latents(Tensor::ones([2, 3, height, width], &device), None);
        assert_eq!(latents.dims(), [2, 4, height / 2, width / 2]);
        assert_eq!(network.images(latents).dims(), [2, 3, height, width]);
    }
}

#[test]
fn the_posterior_is_a_normal_distribution() {
    let device = Device::flex();
    let moments = |values: [f32; 4]| Tensor::<1>::from_floats(values, &device).reshape([1, 4, 1, 1]);
    // Channels with means 0.5 and -2, log-variances 0 and ln 4.
    let posterior = Posterior::new(moments([0.5, -2.0, 0.0, 4f32.ln()]));
    assert_eq!(floats(posterior.mode()), [0.5, -2.0]);
    let noise = Tensor::<1>::from_floats([1.0, -1.5], &device).reshape([1, 2, 1, 1]);
    assert!(distance(&floats(posterior.sample(noise)), &[1.5, -5.0]) < 1e-6);
    // ½ (0.25 + 1 − 1 − 0) + ½ (4 + 4 − 1 − ln 4)
    assert!(distance(&floats(posterior.kl()), &[3.625 - 4f32.ln() / 2.0]) < 1e-6);

    let posterior = Posterior::new(moments([0.0, 0.0, 100.0, -100.0]));
    assert_eq!(floats(posterior.logvar), [20.0, -30.0]);
    let standard = Posterior::new(Tensor::zeros([3, 4, 2, 2], &device));
    assert_eq!(floats(standard.kl()), [0.0; 3]);
}

#[test]
fn scaled_latents_come_back() {
    let device = Device::flex();
    let network = load("autoencoder_kl_flat", &device).network;
    let z = Tensor::<1>::from_floats([0.125, 1.125, -3.0], &device).reshape([1, 3, 1, 1]);
    let latents = network.scale(z.clone());
    // (z − 0.125) · 0.5
    assert_eq!(floats(latents.clone()), [0.0, 0.5, -1.5625]);
    assert_eq!(floats(network.unscale(latents)), floats(z));
}

#[test]
fn a_seed_gives_the_same_weights_and_all_can_learn() {
    let device = Device::flex().autodiff();
    let config = AutoencoderKLConfig::tiny();
    let x = images(&device);
    let loss = |seed| {
        let network = init(&config, seed, &device);
        let posterior = network.encode(x.clone());
        let z = posterior.sample(posterior.mean.ones_like());
        let loss = (network.decode(z) - x.clone()).square().mean() + posterior.kl().mean() * 0.1;
        (network, loss)
    };
    let value = |seed| floats(loss(seed).1);
    assert_eq!(value(7), value(7));
    assert_ne!(value(7), value(8));

    let (network, loss) = loss(7);
    for (name, gradient) in gradients(&network, loss) {
        let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        // A bias of the keys adds the same to all logits of a query, which softmax ignores.
        assert!(norm.is_finite() && (norm > 1e-7 || name.ends_with("to_k.bias")), "{name}: {norm:e}");
    }
}

/// Calls every block, notes its name, and bends the output of one.
struct Bending<'a> {
    block: &'a str,
    names: RefCell<Vec<String>>,
}

impl Hook for Bending<'_> {
    fn around(&self, block: &str, input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature {
        self.names.borrow_mut().push(block.to_owned());
        let output = run(input);
        if block != self.block {
            return output;
        }
        let x = output.into_map();
        Feature::Map(x.clone() + (x * 3.0 + 1.0).cos())
    }
}

#[test]
fn hooks_see_every_block_and_can_change_it() {
    let device = Device::flex();
    let network = load("autoencoder_kl", &device).network;
    let x = Tensor::<4>::from_data(io("autoencoder_kl")["x"].clone(), &device);
    let run = |block: &str| {
        let hook = Bending { block, names: RefCell::default() };
        let ctx = Ctx {
            hook: Some(&hook),
            taps: &["encoder.mid_block.attentions.0", "decoder.conv_out"],
            ..Ctx::default()
        };
        let encoded = network.encode_with(x.clone(), ctx);
        let decoded = network.decode_with(Posterior::new(encoded.pred).mode(), ctx);
        let [(first, _)] = &encoded.taps[..] else { panic!("{:?}", encoded.taps) };
        let [(second, tapped)] = &decoded.taps[..] else { panic!("{:?}", decoded.taps) };
        assert_eq!([first.as_str(), second.as_str()], ["encoder.mid_block.attentions.0", "decoder.conv_out"]);
        let images = floats(decoded.pred);
        assert_eq!(floats(tapped.clone().into_map()), images);
        (hook.names.into_inner(), images)
    };
    let plain = floats(network.decode(network.encode(x.clone()).mode()));
    let (names, hooked) = run("none");
    assert_eq!(hooked, plain);
    assert_eq!(names, network.blocks());
    for block in network.blocks() {
        assert!(distance(&run(&block).1, &plain) > 1e-3, "{block}");
    }
}
