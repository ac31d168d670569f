//! The text encoder and its tokenizer: parity with the Python package, and what they refuse.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, ModuleStore, SafetensorsStore, bridge};
use burn::tensor::{Device, Int, Tensor, TensorData};
use immiscible_models::{
    CLIPTextConfig, CLIPTextModel, ClipTokenizer, Ctx, Feature, Hook, ModelConfig, ModelError, Pretrained,
    TextOutput,
};
use serde_json::{Map, Value};

use super::{GENERATOR, distance, floats};

const FOLDERS: [&str; 2] = ["clip_text", "clip_text_former"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A folder's model, which draws weights before it replaces them.
fn read(folder: &Path, device: &Device) -> Result<Pretrained<CLIPTextConfig>, ModelError> {
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    Pretrained::from_pretrained(folder, device)
}

fn load(name: &str, device: &Device) -> Pretrained<CLIPTextConfig> {
    read(&golden(name), device).unwrap()
}

fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let mut store = SafetensorsStore::from_file(path);
    let tensors = store.get_all_tensors().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), bridge::to_data(tensor).unwrap())).collect()
}

fn io(name: &str) -> BTreeMap<String, TensorData> {
    tensors(&golden(name).join("io.safetensors"))
}

fn ids(name: &str, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(io(name)["ids"].clone(), device)
}

fn settings(folder: &Path) -> Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
}

fn run(model: &CLIPTextModel, name: &str) -> TextOutput {
    model.forward(ids(name, &Device::flex()), Ctx::default())
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
fn gradients(network: &CLIPTextModel, loss: Tensor<1>) -> BTreeMap<String, Vec<f32>> {
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
    for name in FOLDERS {
        let Pretrained { network, .. } = load(name, &Device::flex().autodiff());
        let io = io(name);
        let expected = |key: &str| io[key].try_to_vec::<f32>().unwrap();
        let output = run(&network, name);
        for (key, actual) in [
            ("last_hidden_state", floats(output.last_hidden_state.clone())),
            ("pooled", floats(output.pooled.clone())),
        ] {
            let error = relative(&actual, &expected(key));
            println!("{name}: {key} {error:.1e}");
            assert!(error <= 1e-4, "{name}: {key} is off by {error:e}");
        }

        let loss = output.last_hidden_state.square().mean() + output.pooled.square().mean();
        let gradients = gradients(&network, loss);
        let graded: Vec<&str> = io.keys().filter_map(|key| key.strip_prefix("grad.")).collect();
        assert_eq!(graded.len(), 13, "{name}");
        for weight in graded {
            let expected = expected(&format!("grad.{weight}"));
            let (cosine, error) =
                (cosine(&gradients[weight], &expected), relative(&gradients[weight], &expected));
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
        let model = load(name, &device);
        let folder = tempfile::tempdir().unwrap();
        model.save_pretrained(folder.path()).unwrap();
        let again = read(folder.path(), &device).unwrap();
        assert_eq!(again.config, model.config);
        let (before, after) = (run(&model.network, name), run(&again.network, name));
        assert_eq!(floats(after.last_hidden_state), floats(before.last_hidden_state), "{name}");
        assert_eq!(floats(after.pooled), floats(before.pooled), "{name}");

        let mut expected = settings(&golden(name));
        for note in ["_name_or_path", "dtype", "torch_dtype", "transformers_version", "dropout"] {
            expected.remove(note);
        }
        // The setting is younger than that file.
        expected.entry("projection_dim").or_insert(512.into());
        assert_eq!(settings(folder.path()), expected, "{name}");
        assert_eq!(
            tensors(&folder.path().join("model.safetensors")).keys().collect::<Vec<_>>(),
            tensors(&golden("clip_text").join("model.safetensors")).keys().collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[test]
fn weights_that_do_not_fit_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("clip_text").join(file), folder.path().join(file)).unwrap();
    }
    let refused = |field: &str, value: Value| {
        let mut fields = settings(&golden("clip_text"));
        fields.insert(field.into(), value);
        std::fs::write(folder.path().join("config.json"), Value::Object(fields).to_string()).unwrap();
        match read(folder.path(), &Device::flex()) {
            Err(error @ ModelError::Mismatch { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let missing = refused("num_hidden_layers", 3.into());
    assert!(missing.contains("missing: encoder.layers.2.layer_norm1.bias"), "{missing}");
    let extra = refused("num_hidden_layers", 1.into());
    assert!(extra.contains("not in the network: encoder.layers.1.layer_norm1.bias"), "{extra}");
    let misshapen = refused("vocab_size", 41.into());
    let table = "embeddings.token_embedding.weight (file [40, 12], network [41, 12])";
    assert!(misshapen.contains(table), "{misshapen}");
}

#[test]
fn defaults_are_the_packages() {
    let text = std::fs::read_to_string(golden("clip_text_defaults.json")).unwrap();
    let mut expected: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let config = CLIPTextConfig::default();
    config.validate().unwrap();
    assert_eq!(CLIPTextConfig::from_json(&text).unwrap(), config);
    expected.remove("transformers_version");
    expected.insert("architectures".into(), serde_json::json!(["CLIPTextModel"]));
    let own: Map<String, Value> = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(own, expected);
}

#[test]
fn what_is_not_supported_is_named() {
    let error = |field: &str, value: Value| {
        let mut fields = settings(&golden("clip_text"));
        fields.insert(field.into(), value);
        CLIPTextConfig::from_json(&Value::Object(fields).to_string()).unwrap_err().to_string()
    };
    for (field, value) in [
        ("model_type", "clip".into()),
        ("architectures", serde_json::json!(["CLIPTextModelWithProjection"])),
        ("attention_dropout", 0.1.into()),
        ("dropout", 0.1.into()),
        ("eos_token_id", serde_json::json!([1, 2])),
        ("eos_token_id", Value::Null),
        ("eos_token_id", (-1).into()),
        ("hidden_act", "relu".into()),
        ("hidden_size", 0.into()),
        ("hidden_size", 1e30.into()),
        ("initializer_factor", (-1.0).into()),
        ("intermediate_size", 0.into()),
        ("layer_norm_eps", 0.0.into()),
        ("max_position_embeddings", 0.into()),
        ("num_attention_heads", 5.into()),
        ("num_hidden_layers", 0.into()),
        ("rope_theta", 1e4.into()),
        ("vocab_size", u64::MAX.into()),
    ] {
        let message = error(field, value.clone());
        assert!(message.contains(&format!("`{field}`")), "{field} = {value}: {message}");
    }
    assert!(matches!(CLIPTextConfig::from_json("{"), Err(ModelError::Json(_))));
    let error = CLIPTextConfig::from_json(r#"{"_class_name": "UNet2DModel"}"#).unwrap_err().to_string();
    assert!(error.contains("`model_type` = null"), "{error}");
    let config = CLIPTextConfig { num_attention_heads: 5, ..CLIPTextConfig::tiny() };
    assert!(matches!(config.init(&Device::flex()), Err(ModelError::Config { .. })));
}

#[test]
fn a_token_sees_only_what_comes_before_it() {
    let device = Device::flex();
    let network = load("clip_text", &device).network;
    let rows = |ids: [i64; 6]| {
        let ids = Tensor::from_data(TensorData::new(ids.to_vec(), [1, 6]), &device);
        floats(network.forward(ids, Ctx::default()).last_hidden_state)
    };
    let (a, b) = (rows([36, 4, 5, 6, 7, 37]), rows([36, 4, 5, 9, 7, 37]));
    assert_eq!(a[..3 * 12], b[..3 * 12]);
    assert!((3..6).all(|row| distance(&a[row * 12..][..12], &b[row * 12..][..12]) > 1e-3));
}

#[test]
fn the_pooled_row_is_that_of_the_first_end() {
    let device = Device::flex();
    let pooled = |eos_token_id, ids: [i64; 5]| {
        let mut model = load("clip_text", &device);
        let folder = tempfile::tempdir().unwrap();
        model.config.eos_token_id = eos_token_id;
        model.save_pretrained(folder.path()).unwrap();
        let network = read(folder.path(), &device).unwrap().network;
        let ids = Tensor::from_data(TensorData::new(ids.to_vec(), [1, 5]), &device);
        let output = network.forward(ids, Ctx::default());
        let pooled = floats(output.pooled);
        floats(output.last_hidden_state).chunks(12).position(|row| row == pooled).unwrap()
    };
    assert_eq!(pooled(37, [36, 4, 37, 37, 39]), 2);
    assert_eq!(pooled(37, [36, 4, 5, 6, 37]), 4);
    // A text without an end.
    assert_eq!(pooled(37, [36, 4, 5, 6, 7]), 0);
    // The largest id.
    assert_eq!(pooled(2, [36, 2, 2, 39, 39]), 3);
}

#[test]
fn initial_weights_are_the_papers() {
    let device = Device::flex();
    let config = CLIPTextConfig { hidden_size: 64, intermediate_size: 256, ..CLIPTextConfig::tiny() };
    let init = |seed| {
        let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        device.seed(seed);
        let network = config.init(&device).unwrap();
        let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
        tensors
            .into_iter()
            .map(|t| (t.name.clone(), bridge::to_data(&t).unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    let weights = init(1);
    assert_eq!(weights, init(1));
    assert_ne!(weights, init(2));
    for (name, expected) in [
        ("embeddings.token_embedding.weight", 0.02),
        ("embeddings.position_embedding.weight", 0.01),
        ("encoder.layers.1.self_attn.q_proj.weight", 0.125),
        ("encoder.layers.1.self_attn.out_proj.weight", 0.0625),
        ("encoder.layers.1.mlp.fc1.weight", 0.125 / 2f32.sqrt()),
        ("encoder.layers.1.mlp.fc2.weight", 0.0625),
        ("encoder.layers.1.mlp.fc2.bias", 0.0),
    ] {
        let values = weights[name].try_to_vec::<f32>().unwrap();
        let std = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((std - expected).abs() <= 0.1 * expected, "{name}: {std} ≠ {expected}");
    }
}

mod hooks {
    use super::*;

    /// Calls every block, and replaces the output of one by zeros.
    struct Zero<'a>(Option<&'a str>, RefCell<Vec<String>>);

    impl Hook for Zero<'_> {
        fn around(&self, block: &str, input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature {
            self.1.borrow_mut().push(block.to_owned());
            let output = run(input).into_tokens();
            Feature::Tokens(if self.0 == Some(block) { output.zeros_like() } else { output })
        }
    }

    #[test]
    fn every_block_runs_through_the_hook() {
        let device = Device::flex();
        let network = load("clip_text", &device).network;
        let blocks = network.blocks();
        let plain = floats(run(&network, "clip_text").last_hidden_state);
        let hooked = |zero| {
            let hook = Zero(zero, RefCell::default());
            let names: Vec<&str> = blocks.iter().map(String::as_str).collect();
            let ctx = Ctx { hook: Some(&hook), taps: &names, ..Ctx::default() };
            let output = network.forward(ids("clip_text", &device), ctx);
            (floats(output.last_hidden_state), output.taps, hook.1.into_inner())
        };

        let (same, taps, seen) = hooked(None);
        assert_eq!(same, plain);
        assert_eq!(seen, blocks);
        let mut tapped: Vec<String> = taps.into_iter().map(|(name, _)| name).collect();
        tapped.sort();
        let mut sorted = blocks.clone();
        sorted.sort();
        assert_eq!(tapped, sorted);
        for block in &blocks {
            assert!(distance(&hooked(Some(block)).0, &plain) > 1e-3, "{block}");
        }
    }
}

mod tokenizer {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Prompt {
        text: String,
        length: usize,
        ids: Vec<u32>,
    }

    fn prompts(name: &str) -> Vec<Prompt> {
        serde_json::from_str(&std::fs::read_to_string(golden(name).join("prompts.json")).unwrap()).unwrap()
    }

    fn check(folder: &Path, prompts: &[Prompt]) {
        let tokenizer = ClipTokenizer::from_pretrained(folder).unwrap();
        for Prompt { text, length, ids } in prompts {
            assert_eq!(tokenizer.encode(&[text], *length).unwrap(), std::slice::from_ref(ids), "{text:?}");
        }
    }

    /// A folder of the files of another one, some changed.
    fn changed(name: &str, files: &[(&str, Option<&str>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(golden(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        for (name, text) in files {
            match text {
                Some(text) => std::fs::write(folder.path().join(name), text).unwrap(),
                None => std::fs::remove_file(folder.path().join(name)).unwrap(),
            }
        }
        folder
    }

    #[test]
    fn ids_are_the_packages() {
        for (name, pad) in [("clip_tokenizer", 633), ("clip_tokenizer_saved", 0)] {
            let prompts = prompts(name);
            assert!(prompts.len() > 30);
            assert!(prompts.iter().any(|prompt| prompt.ids.last() == Some(&pad)));
            check(&golden(name), &prompts);
        }
    }

    #[test]
    fn a_batch_is_its_rows() {
        let tokenizer = ClipTokenizer::from_pretrained(&golden("clip_tokenizer")).unwrap();
        assert_eq!(tokenizer.max_length(), Some(77));
        let texts = ["a photo of a cat", "", "dog"];
        let rows = tokenizer.encode(&texts, 6).unwrap();
        for (text, row) in texts.iter().zip(&rows) {
            assert_eq!(tokenizer.encode(&[text], 6).unwrap(), std::slice::from_ref(row));
        }
        assert_eq!(rows[1], [632, 633, 633, 633, 633, 633]);
        assert_eq!(tokenizer.encode(&["a photo of a cat"], 2).unwrap(), [[632, 633]]);
        assert!(tokenizer.encode(&[], 77).unwrap().is_empty());
    }

    #[test]
    fn lengths_without_room_are_refused() {
        let tokenizer = ClipTokenizer::from_pretrained(&golden("clip_tokenizer")).unwrap();
        for length in [0, 1] {
            let error = tokenizer.encode(&["cat"], length).unwrap_err();
            assert!(matches!(error, ModelError::Text(_)));
            assert!(error.to_string().contains(&format!("length = {length}")), "{error}");
        }
    }

    #[test]
    fn notes_may_be_missing() {
        let folder =
            changed("clip_tokenizer", &[("tokenizer_config.json", None), ("special_tokens_map.json", None)]);
        let plain = prompts("clip_tokenizer").into_iter().filter(|prompt| !prompt.text.contains('<'));
        check(folder.path(), &plain.collect::<Vec<_>>());
        assert_eq!(ClipTokenizer::from_pretrained(folder.path()).unwrap().max_length(), None);
    }

    /// Tokens that were added to a vocabulary, as in a folder of textual inversion.
    #[test]
    fn added_tokens_have_ids_after_the_vocabulary() {
        let by_name = changed("clip_tokenizer", &[("added_tokens.json", Some(r#"{"<cat-toy>": 634}"#))]);
        let token = r#"{"added_tokens_decoder": {"634": {"content": "<cat-toy>", "normalized": true}}}"#;
        let by_id = changed("clip_tokenizer", &[("tokenizer_config.json", Some(token))]);
        for folder in [by_name, by_id] {
            let tokenizer = ClipTokenizer::from_pretrained(folder.path()).unwrap();
            let rows = tokenizer.encode(&["a <cat-toy>.", "a  <CAT-toy> ."], 6).unwrap();
            assert_eq!(rows[0], rows[1]);
            assert_eq!(rows[0][2], 634);
        }
    }

    #[test]
    fn broken_folders_are_refused() {
        let name = "clip_tokenizer";
        let refused = |files: &[(&str, Option<&str>)]| match ClipTokenizer::from_pretrained(
            changed(name, files).path(),
        ) {
            Err(error @ ModelError::File { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        for (file, text, word) in [
            ("vocab.json", None, "vocab.json"),
            ("vocab.json", Some("{\"a\": 0"), "vocab.json"),
            ("vocab.json", Some("{\"a\": -1}"), "vocab.json"),
            ("vocab.json", Some("{\"a\": 4294967295}"), "4294967295"),
            ("vocab.json", Some("{\"a\": 0}"), "the merge `i n`"),
            ("merges.txt", None, "merges.txt"),
            ("merges.txt", Some("#version: 0.2\na b c\n"), "`a b c`"),
            ("merges.txt", Some("ab\n"), "`ab`"),
            ("merges.txt", Some("<|startoftext|> <|endoftext|>\n"), "<|endoftext|>`"),
            ("tokenizer_config.json", Some("[]"), "tokenizer_config.json"),
            ("tokenizer_config.json", Some(r#"{"padding_side": "left"}"#), "`padding_side` = \"left\""),
            ("tokenizer_config.json", Some(r#"{"tokenizer_class": "T5Tokenizer"}"#), "T5Tokenizer"),
            ("tokenizer_config.json", Some(r#"{"split_special_tokens": true}"#), "split_special_tokens"),
            ("special_tokens_map.json", Some(r#"{"pad_token": 3}"#), "special_tokens_map.json"),
            ("tokenizer.json", Some(r#"{"model": {"type": "Unigram", "vocab": []}}"#), "tokenizer.json"),
            ("tokenizer.json", Some(r#"{"model": {"vocab": {"a": 0}, "merges": ["a"]}}"#), "`a`"),
        ] {
            let message = refused(&[(file, text)]);
            assert!(message.starts_with("cannot read the tokenizer"), "{message}");
            assert!(message.contains(word), "{file} = {text:?}: {message}");
        }
        let error = ClipTokenizer::from_pretrained(Path::new("no/such")).unwrap_err().to_string();
        assert!(error.contains("vocab.json"), "{error}");
    }

    #[test]
    fn a_character_without_a_token_is_an_unknown_one() {
        // The vocabulary of a test: special tokens and a few letters.
        let vocabulary = r#"{"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
        let folder =
            changed("clip_tokenizer", &[("vocab.json", Some(vocabulary)), ("merges.txt", Some("#version"))]);
        let tokenizer = ClipTokenizer::from_pretrained(folder.path()).unwrap();
        assert_eq!(tokenizer.encode(&["aa b"], 6).unwrap(), [[2, 0, 1, 3, 3, 3]]);
    }
}
