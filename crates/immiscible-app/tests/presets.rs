//! The built-in configs as they are, on tiny data and with frozen networks of random weights.

use burn::tensor::Device;
use immiscible_models::{
    AutoencoderKLConfig, CLIPTextConfig, ClipTokenizer, ModelConfig, Pretrained, TextEncoder,
};
use std::fs;
use std::path::Path;

mod common;

use common::{refused, succeed};

/// The names of the built-in configs and what they say of themselves.
fn presets() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("presets");
    let mut presets: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let header = fs::read_to_string(&path).unwrap();
            let header = header.lines().take_while(|line| line.starts_with('#')).collect::<Vec<_>>();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), header.join("\n"))
        })
        .collect();
    presets.sort();
    presets
}

/// Experiments of a paper, which are not run here.
const PUBLISHED: &[&str] = &[
    "celeba64-consistency",
    "cifar10-consistency",
    "cifar10-consistency-knn",
    "cifar10-ddim",
    "cifar10-ddim-flip",
    "cifar10-ddim-knn",
    "cifar10-ddim-l1",
    "cifar10-ddim-scaled",
    "cifar10-flow",
    "cifar10-flow-assignment",
    "latent-unconditional-256",
    "sd-class-finetune-256",
    "sd-class-finetune-256-knn",
    "sd-class-scratch-256",
    "sd-class-scratch-256-knn",
    "tiny-imagenet-consistency",
];

#[test]
fn every_preset_is_the_record_of_an_experiment() {
    let folder = tempfile::tempdir().unwrap();
    let listed = succeed(folder.path(), &["list"]);
    let presets = presets();
    assert!(PUBLISHED.iter().all(|name| presets.iter().any(|(known, _)| known == name)));
    for (name, header) in presets {
        assert!(listed.contains(&name), "{name} is not listed");
        for field in ["# Method   ", "# Command  cargo xtask train", "# Takes    ", "# Expect   "] {
            assert!(header.contains(field), "{name} has no {field:?}");
        }
        assert!(name == "digits" || header.contains(&format!("--preset {name}")), "{name}");
        let published = PUBLISHED.contains(&&*name);
        let words = ["arXiv ", "hours at ", "# Expect   the paper", "measured: none"];
        assert!(!published || words.iter().all(|word| header.contains(word)), "{name}: {header}");
    }
}

#[test]
fn what_a_preset_needs_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for preset in PUBLISHED {
        let message = refused(folder, &["train", "--preset", preset, "--dry-run"]);
        assert!(message.contains("path"), "{preset}: {message}");
    }
}

/// Two classes of two images each.
fn images(folder: &Path, side: u32) {
    for class in ["cat", "dog"] {
        fs::create_dir_all(folder.join(class)).unwrap();
        for name in ["0.png", "1.png"] {
            image::RgbImage::new(side, side).save(folder.join(class).join(name)).unwrap();
        }
    }
}

/// Four images in the binary layout of CIFAR-10.
fn cifar(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("data_batch_1.bin"), vec![1; 4 * (1 + 3 * 32 * 32)]).unwrap();
}

fn random<C: ModelConfig>(config: C) -> Pretrained<C> {
    let network = config.init(&Device::flex()).unwrap();
    Pretrained { config, network }
}

/// An autoencoder with the channels and the downsampling of Stable Diffusion's, and a text encoder of its width.
fn frozen(folder: &Path) {
    let vae = AutoencoderKLConfig { norm_num_groups: 4, ..AutoencoderKLConfig::with_channels(vec![8; 4]) };
    random(vae).save_pretrained(&folder.join("vae")).unwrap();
    let tokenizer = folder.join("tokenizer");
    fs::create_dir_all(&tokenizer).unwrap();
    let words = r#"{"cat</w>": 0, "dog</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    fs::write(tokenizer.join("vocab.json"), words).unwrap();
    fs::write(tokenizer.join("merges.txt"), "#version: 0.2\n").unwrap();
    let tokenizer = ClipTokenizer::from_pretrained(&tokenizer).unwrap();
    let config = CLIPTextConfig {
        vocab_size: 4,
        hidden_size: 768,
        intermediate_size: 8,
        num_hidden_layers: 1,
        bos_token_id: Some(2),
        eos_token_id: 3,
        ..CLIPTextConfig::tiny()
    };
    let text = TextEncoder { tokenizer, model: random(config) };
    text.tokenizer.save_pretrained(&folder.join("tokenizer")).unwrap();
    text.model.save_pretrained(&folder.join("text_encoder")).unwrap();
}

/// The state dict of `lpips.LPIPS(net="vgg")` with all weights equal, as safetensors.
fn lpips(path: &Path) {
    let convs: [(usize, &[usize], usize); 5] = [
        (1, &[0, 2], 64),
        (2, &[5, 7], 128),
        (3, &[10, 12, 14], 256),
        (4, &[17, 19, 21], 512),
        (5, &[24, 26, 28], 512),
    ];
    let (mut tensors, mut before) = (Vec::new(), 3);
    for (slice, layers, width) in convs {
        for layer in layers {
            tensors.push((format!("net.slice{slice}.{layer}.weight"), vec![width, before, 3, 3]));
            tensors.push((format!("net.slice{slice}.{layer}.bias"), vec![width]));
            before = width;
        }
        tensors.push((format!("lin{}.model.1.weight", slice - 1), vec![1, width, 1, 1]));
    }
    let (mut header, mut bytes) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = bytes + 4 * shape.iter().product::<usize>();
        header
            .insert(name, serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [bytes, end]}));
        bytes = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let values = 0.01_f32.to_le_bytes().repeat(bytes / 4);
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat()).unwrap();
}

/// The network of a preset is as it is in the file; only the batch is smaller. How the fine-tuning begins with the network of a
/// folder is in `tests/latent.rs`.
#[test]
fn every_published_experiment_passes_a_dry_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    cifar(&folder.join("cifar"));
    images(&folder.join("images-64"), 80);
    images(&folder.join("images-256"), 300);
    frozen(&folder.join("frozen"));
    lpips(&folder.join("lpips.safetensors"));
    let (vae, text_encoder) = ("latent.vae=frozen/vae", "latent.text_encoder=frozen");
    let lpips = "method.lpips=lpips.safetensors";
    let experiments = [
        ("celeba64-consistency", &["data.path=images-64", lpips][..], ["unet with 295131267", "3×64×64"]),
        ("cifar10-consistency", &["data.path=cifar", lpips], ["unet with 59013379", "with assignment"]),
        ("cifar10-consistency-knn", &["data.path=cifar", lpips], ["unet with 59013379", "with knn"]),
        ("cifar10-ddim", &["data.path=cifar"], ["unet with 35746307", "3×32×32"]),
        ("cifar10-ddim-flip", &["data.path=cifar"], ["unet with 35746307", "with assignment"]),
        ("cifar10-ddim-knn", &["data.path=cifar"], ["unet with 35746307", "with knn"]),
        ("cifar10-ddim-l1", &["data.path=cifar"], ["unet with 35746307", "with assignment"]),
        ("cifar10-ddim-scaled", &["data.path=cifar"], ["unet with 35746307", "with independent"]),
        ("cifar10-flow", &["data.path=cifar"], ["unet with 35746307", "3×32×32"]),
        ("cifar10-flow-assignment", &["data.path=cifar"], ["unet with 35746307", "with assignment"]),
        ("latent-unconditional-256", &["data.path=images-256", vae], ["unet with 256401796", "4×32×32"]),
        (
            "sd-class-finetune-256",
            &["data.path=images-256", "latent.vae=frozen/vae", text_encoder],
            ["unet-condition with 859520964", "\"{}\" from"],
        ),
        (
            "sd-class-finetune-256-knn",
            &["data.path=images-256", "latent.vae=frozen/vae", text_encoder],
            ["unet-condition with 859520964", "with knn"],
        ),
        (
            "sd-class-scratch-256",
            &["data.path=images-256", "latent.vae=frozen/vae", text_encoder],
            ["unet-condition with 859520964", "\"{}\" from"],
        ),
        (
            "sd-class-scratch-256-knn",
            &["data.path=images-256", "latent.vae=frozen/vae", text_encoder],
            ["unet-condition with 859520964", "with knn"],
        ),
        ("tiny-imagenet-consistency", &["data.path=images-64", lpips], ["unet with 295131267", "3×64×64"]),
    ];
    assert_eq!(experiments.map(|(preset, ..)| preset), PUBLISHED);
    for (preset, settings, words) in experiments {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let arguments = ["train", "--preset", preset, "--dry-run", "--set", "train.batch_size=2"];
        let arguments: Vec<&str> = arguments.into_iter().chain(settings).collect();
        let said = succeed(folder, &arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{preset}: {said}");
    }
}
